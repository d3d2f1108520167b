"""Applies one row of tests/mutations.txt, or checks all of them without building anything.

    python3 tests/mutate.py FILE TEXT REPLACEMENT OUT    writes FILE with TEXT, which must be there exactly once, replaced
    python3 tests/mutate.py                              says which rows no longer fit their files
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def mutate(path, text, replacement):
    with open(path, encoding="utf-8") as f:
        source = f.read()
    if source.count(text) != 1:
        raise ValueError(f"found {source.count(text)} times in {path}: {text}")
    return source.replace(text, replacement)


def check_all():
    """The rows' number and what is wrong with them."""
    n, bad = 0, []
    with open(os.path.join(HERE, "mutations.txt"), encoding="utf-8") as f:
        rows = [line.rstrip("\n") for line in f if line.strip() and not line.startswith("#")]
    for row in rows:
        fields = row.split("|")
        if len(fields) != 5:
            bad.append(f"{fields[0]}: {len(fields)} fields between bars, expected 5")
            continue
        try:
            mutate(os.path.join(HERE, "..", fields[1]), fields[2], fields[3])
            n += 1
        except (OSError, ValueError) as error:
            bad.append(f"{fields[0]}: {error}")
    return n, bad


def main():
    if len(sys.argv) == 5:
        path, text, replacement, out = sys.argv[1:]
        with open(out, "w", encoding="utf-8") as f:
            f.write(mutate(path, text, replacement))
        return
    n, bad = check_all()
    for line in bad:
        print("ERROR:", line)
    print(f"{n} passed, {len(bad)} failed, 0 skipped")
    sys.exit(bool(bad) or n == 0)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
