"""Markdown: tables, verdicts, and blocks that scripts write."""

import re

WORDS = ("does not hold", "holds in part", "holds")


def table(head, rows):
    """Lines of a Markdown table."""
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]


def verdict(*conditions):
    """The line that says which of two conditions, pairs (met, words), are met."""
    met = sum(bool(is_met) for is_met, _ in conditions)
    reasons = "; ".join(f"{words}: {'yes' if is_met else 'no'}" for is_met, words in conditions)
    return f"**On this model the finding {WORDS[met]}.** {reasons[0].upper()}{reasons[1:]}."


def fill(text, name, lines):
    """The document with what stands between `<!-- findings:NAME:start -->` and `:end` replaced."""
    start, end = (f"<!-- findings:{name}:{word} -->" for word in ("start", "end"))
    block = "\n".join([start, *lines, end])
    new, count = re.subn(re.escape(start) + ".*?" + re.escape(end), lambda _: block, text, flags=re.S)
    if count != 1:
        raise SystemExit(f"expected one block {start}, found {count}")
    return new
