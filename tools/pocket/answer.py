"""Answers a folder written by eval_set.py through sightline and scores the answers.

    python3 answer.py SET [--sightline ../../build/sightline] [--model DIR] [--compare ANSWERS.jsonl]

All questions in one process, as a study (docs/studies.md); --ask starts the program anew for each instead.
--compare counts the answers that differ from a file that evaluate.py --save wrote.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import scoring

PROGRAM = Path(__file__).resolve().parents[2] / "build/sightline"


def ask(args, record):
    """One greedy answer, by a process of its own."""
    command = [args.sightline, "ask", "--quiet", "--threads", "1", "--dtype", args.dtype,
               "--image", args.set / record["image"], "--prompt", record["prompt"]]
    command += ["--model", args.model] if args.model else []
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def study(args, records):
    """All greedy answers, by one study."""
    plan = {"data": str((args.set / "questions.jsonl").resolve()), "images": str(args.set.resolve()),
            "fields": {"question": "prompt", "answer": "label"}, "analyses": []}
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "plan.json", Path(folder) / "study"
        path.write_text(json.dumps(plan))
        command = [args.sightline, "study", "run", "--plan", path, "--out", out, "--strict", "--dtype", args.dtype]
        command += ["--model", args.model] if args.model else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with sqlite3.connect(out / "study.sqlite") as database:
            answers = dict(database.execute("SELECT id, answer FROM example"))
    return [answers[record["id"]].strip() for record in records]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--sightline", type=Path, default=PROGRAM)
    parser.add_argument("--model", type=Path, help="default: the bundled model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--ask", action="store_true", help="one process per question, as many at a time as cores")
    parser.add_argument("--save", type=Path, help="write the answers here, as evaluate.py does")
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    records = scoring.read_records(args.set)
    if args.ask:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = list(pool.map(lambda record: ask(args, record), records))
    else:
        try:
            answers = study(args, records)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)  # sightline has said why
    scoring.print_table(records, answers)
    if args.save:
        args.save.write_text("".join(json.dumps({**r, "answer": a}) + "\n" for r, a in zip(records, answers)))
    if args.compare:
        with open(args.compare) as file:
            other = {r["id"]: r["answer"] for r in map(json.loads, file)}
        same = sum(other[r["id"]] == a for r, a in zip(records, answers))
        print(f"\n{same} of {len(records)} answers equal {args.compare.name}'s")


if __name__ == "__main__":
    main()
