"""mock_study.py SIGHTLINE DIR [EXAMPLES]: a study with made-up results whose truth is known, and its page.

The folder is made by `sightline study run` on a tiny checkpoint (so the schema is the program's own); its rows are then replaced. Planted:
the picture is needed until layer 5 (class cat) or 8 (class dog), head (3, 2) adds most, accuracy is 0.9 (cat) and 0.6 (dog), every 50th
example failed, one label has hostile texts, one has too many values.
"""
import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden", "llava-gqa")
LAYERS, HEADS = 12, 8
CLIFF = {"cat": 5, "dog": 8}
HOSTILE = ("</script><img src=x onerror=alert(1)>", "a & b \"c\" 'd'")


def make_folder(program, out):
    work = out + ".work"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    shutil.copy(os.path.join(GOLDEN, "a.png"), work)
    with open(os.path.join(work, "mock.jsonl"), "w") as f:
        f.write(json.dumps({"id": 0, "image": "a.png", "question": "What is it?", "answer": "cat"}) + "\n")
    with open(os.path.join(work, "plan.json"), "w") as f:
        json.dump({"model": os.path.abspath(GOLDEN), "data": "mock.jsonl", "images": ".", "analyses": ["flow", "lens"], "max-tokens": 1, "compute": "f32", "threads": 1}, f)
    subprocess.run([program, "study", "run", "--plan", os.path.join(work, "plan.json"), "--out", out, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(work)


def curve(draw, low, high, middle):
    """A smooth step from low to high round `middle`, with noise."""
    return [low + (high - low) / (1 + math.exp(1.2 * (middle - il))) + draw.gauss(0, 0.02) for il in range(LAYERS)]


def rows_of(i, draw):
    """Rows of one example for the tables example, series, scalar, head, timing."""
    kind, look = ("cat", "dog")[i % 2], ("photo", "drawing", "sketch")[i // 2 % 3]
    labels = json.dumps({"class": kind, "look": look, "hostile": HOSTILE[i // 4 % 2], "serial": f"n{i}"})
    if i % 50 == 49:
        return (i, i + 1, f"x{i}", "gone.png", None, None, None, "What is it?", kind, None, None, None, "failed",
                f"mock.jsonl, line {i + 1}: gone.png: <b>No such file</b> & more", None, labels, None), [], [], [], []
    cliff = CLIFF[kind]
    threshold = 0.9 if kind == "cat" else 0.6
    luck = (i // 2 % 50) / 50
    correct = int(luck < threshold)
    share = [min(0.95, max(0.001, v)) for v in curve(draw, 0.4, 0.02, cliff)]
    mass = [abs(v) for v in curve(draw, 1.0, 0.0, cliff - 1)]
    series = {("flow", "image_share"): share, ("flow", "share.system"): [(1 - v) * 0.5 for v in share], ("flow", "share.user"): [(1 - v) * 0.3 for v in share],
              ("flow", "share.generated"): [(1 - v) * 0.2 for v in share], ("flow", "share.structure"): [0.0] * LAYERS,
              ("flow", "entropy"): curve(draw, 4.9, 2.0, 5), ("flow", "top_share"): curve(draw, 0.15, 0.7, 5), ("flow", "object_share"): curve(draw, 0.1, 0.6, 4),
              ("flow", "pointing"): [float(draw.random() < 0.1 + 0.05 * il) for il in range(LAYERS)],
              ("cam", "mass_share"): [v / max(mass) for v in mass], ("cam", "entropy"): curve(draw, 4.5, 2.6, 4), ("cam", "top_share"): curve(draw, 0.2, 0.6, 4),
              ("cam", "object_share"): curve(draw, 0.15, 0.7, 3), ("cam", "pointing"): [float(draw.random() < 0.2 + 0.05 * il) for il in range(LAYERS)],
              ("cam", "flow_correlation"): curve(draw, 0.1, 0.7, 5)}
    series[("cliff", "logit")] = [12.0 if k >= cliff else 12.0 - 1.3 * (cliff - k) + draw.gauss(0, 0.3) for k in range(LAYERS + 1)]
    series[("cliff", "correct")] = [correct if k >= cliff else int(correct and draw.random() < 0.3) for k in range(LAYERS + 1)]
    flat = [(i, a, n, k, v) for (a, n), values in series.items() for k, v in enumerate(values)]
    scalar = [(i, "cliff", "layer", cliff), (i, "cliff", "no_image", series[("cliff", "logit")][0]), (i, "cliff", "eps", 0.05)]
    tilt = 0.5 if kind == "cat" else -0.5
    head = [(i, il, h, (2.0 if (il, h) == (3, 2) else 0.4 * math.sin(il * HEADS + h) + tilt * math.cos(5 * il + 3 * h) * 0.5) + draw.gauss(0, 0.2), 0.2,
             draw.gauss(0, 0.1), abs(draw.gauss(0.1, 0.05)), draw.gauss(0, 0.1)) for il in range(LAYERS) for h in range(HEADS)]
    example = (i, i + 1, f"x{i}", f"p{i // 2}.png", f"{i // 2:016x}", None, None, "What is it?", kind, kind if correct else "no", correct, "[]", "done", None, None, labels, None)
    return example, flat, scalar, head, [(i, "flow", 3.0), (i, "total", 20.0)]


def fill(out, n):
    draw = random.Random(5)
    database = sqlite3.connect(os.path.join(out, "study.sqlite"))
    with database:
        for table in ("series", "scalar", "head", "timing", "example"):
            database.execute(f"DELETE FROM {table}")
        database.execute("UPDATE study SET value = ? WHERE key = 'examples'", (str(n),))
        for i in range(n):
            example, series, scalar, head, timing = rows_of(i, draw)
            database.execute(f"INSERT INTO example VALUES ({', '.join('?' * len(example))})", example)
            database.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?)", series)
            database.executemany("INSERT INTO scalar VALUES (?, ?, ?, ?)", scalar)
            database.executemany("INSERT INTO head VALUES (?, ?, ?, ?, ?, ?, ?, ?)", head)
            database.executemany("INSERT INTO timing VALUES (?, ?, ?)", timing)
    database.close()


def main():
    program, out, n = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 400
    make_folder(program, out)
    fill(out, n)
    subprocess.run([program, "study", "report", out, "--quiet"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
