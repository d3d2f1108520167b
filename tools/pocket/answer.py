"""Answers a folder written by eval_set.py through sightline and scores the answers.

    python3 answer.py SET [--sightline ../../build/sightline] [--model DIR] [--compare ANSWERS.jsonl]

One process per question, as many at a time as there are cores. --compare counts the answers that differ from a file
that evaluate.py --save wrote.
"""

import argparse
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import scoring

PROGRAM = Path(__file__).resolve().parents[2] / "build/sightline"


def ask(program, model, folder, record, extra):
    """One greedy answer."""
    command = [program, "ask", "--quiet", "--threads", "1", "--image", folder / record["image"], "--prompt", record["prompt"]]
    command += ["--model", model] if model else []
    return subprocess.run(command + extra, check=True, capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--sightline", type=Path, default=PROGRAM)
    parser.add_argument("--model", type=Path, help="default: the bundled model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compare", type=Path)
    args = parser.parse_args()
    records = scoring.read_records(args.set)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(lambda r: ask(args.sightline, args.model, args.set, r, ["--dtype", args.dtype]), records))
    scoring.print_table(records, answers)
    if args.compare:
        with open(args.compare) as file:
            other = {r["id"]: r["answer"] for r in map(json.loads, file)}
        same = sum(other[r["id"]] == a for r, a in zip(records, answers))
        print(f"\n{same} of {len(records)} answers equal {args.compare.name}'s")


if __name__ == "__main__":
    main()
