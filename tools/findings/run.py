"""Measures the papers' findings on a model: scenes, analyses, statistics, figures, docs/findings.md.

    python3 run.py [--out ../../out/findings] [--jobs N] [--model DIR] [--sightline ../../build/sightline]

Makes the scenes (make_scenes.py), runs sightline on every question (--jobs processes of one thread each), compares the head
scores of all rightly answered main-object scenes, and lets report.py put numbers and figures into docs/. Runs that are
finished are not run again: interrupting and starting again goes on. What was run with another model or other options is
run anew.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import make_scenes
import report
import rundata

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 580  # masks per regression: 6 for each of 96 heads, 4 for each of 144 image tokens

# What is run on each kind of scene: folder name, command, options. {calibration} is the folder of pictures. `trace` is all
# analyses with all curves; the second layouts get head scores without curves and what costs little.
HEADS = ["--samples", SAMPLES, "--calibration", "{calibration}"]
NO_CURVES = ["--min-effect", "1e6"]
ANALYSES = {
    "whole": [("trace", "trace", HEADS)],
    "light": [("heads", "heads", HEADS + NO_CURVES), ("cliff", "cliff", []), ("knockout", "knockout", []),
              ("flow", "flow", [])],
    "task": [("cliff", "cliff", []), ("flow", "flow", [])],
    # The same heads with the image hidden instead of replaced by a mean: does the baseline decide the findings?
    "check": [("heads-block", "heads", ["--baseline", "block", "--samples", SAMPLES] + NO_CURVES)],
}


def kinds_of(record):
    """What is run on a question."""
    if record["set"] == "task":
        return ["task"]
    if record["layout"] > 0:
        return ["light"]
    return ["whole", "check"] if record["look"] == "photo" else ["whole"]


def seed_of(record):
    """Another seed for every question: shared masks would make scores alike, and `random` one and the same order."""
    return zlib.crc32(record["id"].encode()) % 1000000


def command_of(args, record, command, options, target):
    """The words of one run."""
    words = [args.sightline, command, "--image", args.out / record["image"], "--prompt", record["prompt"],
             "--object-mask", args.out / record["mask"], "--threads", "1", "--no-report", "--quiet", "--force",
             "--seed", seed_of(record), "--out", target]
    words += ["--model", args.model] if args.model else []
    words += [str(o).format(calibration=args.out / "calibration") for o in options]
    return [str(w) for w in words]


def finished(target, words, model_hash):
    """Whether the folder holds this very run, complete."""
    try:
        with open(target / "run.json") as file:
            run = json.load(file)
    except (OSError, ValueError):
        return False
    return run["command"] == words and run["model"]["hash"] == model_hash and not run.get("cancelled")


def plan(args, records):
    """(folder, words) of every run there is."""
    for record in records:
        for kind in kinds_of(record):
            for name, command, options in ANALYSES[kind]:
                target = args.out / "runs" / record["id"] / name
                yield target, command_of(args, record, command, options, target)


def model_hash(args):
    """The content hash of the model, as run.json has it."""
    words = [str(args.sightline), "info", "--json"] + (["--model", str(args.model)] if args.model else [])
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)["hash"]


def run_all(args, records):
    """Runs what is missing, args.jobs processes at a time."""
    content = model_hash(args)
    todo = [(t, w) for t, w in plan(args, records) if not finished(t, w, content)]
    start, done = time.monotonic(), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def one(target, words):
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)

    with ThreadPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(one, *job) for job in todo]):
            if future.exception():
                pool.shutdown(cancel_futures=True)
                raise SystemExit(f"a run failed: {future.exception()}")
            done += 1
            if done % 20 == 0 or done == len(todo):
                seconds = time.monotonic() - start
                print(f"{done} of {len(todo)} runs, {seconds:.0f} s, {seconds / done * (len(todo) - done):.0f} s left",
                      flush=True)


def compare(args, records):
    """Head scores of all rightly answered main-object scenes against each other."""
    chosen = []
    for record in records:
        folder = args.out / "runs" / record["id"] / ANALYSES[kinds_of(record)[0]][0][0]
        if record["set"] == "main" and rundata.right(folder, record):
            chosen.append(f"{folder}={record['class']},{record['look']}")
    words = [str(args.sightline), "compare", *chosen, "--out", str(args.out / "compare"), "--force", "--no-report", "--quiet"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/findings", help="working folder")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where findings.md and figures/ are")
    parser.add_argument("--sightline", type=Path, default=ROOT / "build/sightline")
    parser.add_argument("--model", type=Path, help="default: the bundled model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--classes", type=int, default=54, help="classes in photo/drawing pairs")
    parser.add_argument("--layouts", type=int, default=2, help="layouts of each pair")
    parser.add_argument("--tasks", type=int, default=48, help="pictures that get every kind of question")
    args = parser.parse_args()
    args.out = args.out.resolve()
    records = make_scenes.make(args.out, args.classes, args.layouts, args.tasks)
    run_all(args, records)
    compare(args, records)
    report.write(args.out, args.docs)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor time of sightline: {used.ru_utime + used.ru_stime:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
