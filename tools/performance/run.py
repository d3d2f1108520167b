"""What interventions cost in masks, batch, rows, image tokens, layers, width and heads: measured, beside a model.

    python3 tools/performance/run.py [--out out/performance] [--rounds 5] [--build build]

Builds bench_cost, makes random checkpoints of small shapes (shapes.py), runs every point `rounds` times, in turn so
that a slow minute of the machine falls on all of them, and puts tables and figures into docs/performance.md. Everything
is one thread's processor time. Python's standard library only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import page
import shapes

ROOT = Path(__file__).resolve().parents[2]
BASE = {"layers": 8, "width": 512, "heads": 8, "mlp": 1408, "side": 12}
MASKS, BATCH, WORDS, REPEATS = 64, 32, 16, 3

# What varies, the others being those above. A point: shape of the checkpoint (None: the bundled model), words, masks,
# batch.
SWEEPS = {
    "M": [(BASE, WORDS, m, BATCH) for m in (8, 16, 32, 64, 128, 256)],
    "B": [(BASE, WORDS, MASKS, b) for b in (1, 2, 4, 8, 16, 32, 64)],
    "T": [(BASE, w, MASKS, BATCH) for w in (4, 16, 40, 88, 184)],
    "N": [({**BASE, "side": s}, WORDS, MASKS, BATCH) for s in (6, 12, 18, 24, 30)],
    "L": [({**BASE, "layers": n}, WORDS, MASKS, BATCH) for n in (2, 4, 8, 16)],
    "D": [({**BASE, "width": 64 * h, "heads": h, "mlp": 176 * h}, WORDS, MASKS, BATCH) for h in (2, 4, 8, 12, 16)],
    "H": [({**BASE, "heads": h}, WORDS, MASKS, BATCH) for h in (4, 8, 16, 32)],
    "bundled": [(None, WORDS, MASKS, b) for b in (1, 8, 64)] + [(None, WORDS, 256, 64), (None, 64, MASKS, BATCH)],
}


def folder_of(out, shape):
    """The model's folder, made where it is missing."""
    if shape is None:
        return shapes.BUNDLED
    name = "-".join(f"{key}{value}" for key, value in shape.items())
    return shapes.write(out / name, **shape)


def measure(program, out, point):
    """One process: the shape, seconds of each repeat, bytes above what was there before."""
    shape, words, masks, batch = point
    folder = folder_of(out, shape)
    result = subprocess.run([str(program), str(folder), str(ROOT / "examples/cat.png"), str(words), str(masks), str(batch),
                             str(REPEATS)], check=True, capture_output=True, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})
    told = json.loads(result.stdout)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    return {**told, "width": text["hidden_size"], "mlp": text["intermediate_size"]}


def summary(runs):
    """Of one point's processes: the median of all repeats, and of each process for the spread."""
    point = {k: v for k, v in runs[0].items() if k not in ("seconds", "peak_bytes")}
    medians = sorted(statistics.median(r["seconds"]) for r in runs)
    return {**point, "median": statistics.median(t for r in runs for t in r["seconds"]), "low": medians[0],
            "high": medians[-1], "peak_bytes": statistics.median(r["peak_bytes"] for r in runs)}


def measure_all(program, out, rounds):
    """{sweep: [summary of each point]}, the rounds taking turns."""
    distinct = []
    for points in SWEEPS.values():
        distinct += [p for p in points if p not in distinct]
    runs = [[] for _ in distinct]
    for number in range(rounds):
        for i, point in enumerate(distinct):
            runs[i].append(measure(program, out, point))
        print(f"round {number + 1} of {rounds}", flush=True)
    return {name: [summary(runs[distinct.index(p)]) for p in points] for name, points in SWEEPS.items()}


def processor():
    """The processor's name and how busy the machine is."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {"name": names[0] if names else "unknown", "count": len(names), "load": os.getloadavg()[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/performance", help="working folder")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="a configured CMake folder")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where performance.md and figures/ are")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="write the page from the last measurement")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "measured.json"
    if not args.again:
        build = ["cmake", "--build", str(args.build), "--target", "bench_cost"]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        before = processor()
        sweeps = measure_all(args.build / "bench/bench_cost", args.out.resolve(), args.rounds)
        kept.write_text(json.dumps({"machine": before, "load_after": processor()["load"], "rounds": args.rounds,
                                    "repeats": REPEATS, "sweeps": sweeps}, indent=1))
    page.write(json.loads(kept.read_text()), args.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
