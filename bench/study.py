"""What a study costs beside its examples, and how it scales over processes.

    python3 bench/study.py memory build/sightline [EXAMPLES]     resident memory, open files and files of the folder on the way
    python3 bench/study.py scaling build/sightline [EXAMPLES]    one and two processes of one thread: shards, and ranks under mpirun

`memory` runs the smallest test checkpoint with flow, cam and a kept tensor, so that as much as possible is overhead. `scaling` runs the bundled model with
flow, cam and cliff. Needs a program built with -DSL_MPI=ON for the ranks; without it they are left out.
"""
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
TINY, POCKET = os.path.join(ROOT, "tests/golden/llava-gqa"), os.path.join(ROOT, "models/pocket-llava")
ENVIRONMENT = dict(os.environ, OMP_WAIT_POLICY="passive", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")


def write_plan(folder, model, images, pictures, n, **more):
    with open(os.path.join(folder, "data.jsonl"), "w") as f:
        for i in range(n):
            f.write(json.dumps({"id": i, "image": pictures[i % len(pictures)], "question": "What is the main object in the image?", "answer": "cat", "part": i % 3}) + "\n")
    with open(os.path.join(folder, "plan.json"), "w") as f:
        json.dump({"model": model, "data": "data.jsonl", "images": images, "threads": 1, "max-tokens": 2, **more}, f)


def look(pid, folder):
    """Resident kB, open files, and files beside the tensors (database, log, temporaries) and among them."""
    with open(f"/proc/{pid}/status") as f:
        resident = next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
    tensors = os.listdir(os.path.join(folder, "tensors"))
    here = [n for n in os.listdir(folder) if n != "tensors"]
    return {"resident_kB": resident, "open_files": len(os.listdir(f"/proc/{pid}/fd")), "files": len(here), "temporaries": sum(n.startswith(".") for n in tensors + here),
            "tensor_files": len(tensors), "database_MB": round(sum(os.path.getsize(os.path.join(folder, n)) for n in here) / 1e6, 1)}


def memory(program, n):
    with tempfile.TemporaryDirectory() as folder:
        write_plan(folder, TINY, TINY, ["a.png", "b.png"], n, analyses=["flow", "cam"], tensors=["flow.stats"], compute="f32")
        out = os.path.join(folder, "study")
        p = subprocess.Popen([program, "study", "run", "--plan", os.path.join(folder, "plan.json"), "--out", out, "--quiet"], stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        marks, since = [n // 50, n // 5, n * 3 // 5, n - n // 100], time.monotonic()
        for mark in marks:
            while p.poll() is None and (not os.path.isdir(out) or len(os.listdir(os.path.join(out, "tensors"))) < mark):
                time.sleep(0.02)
            if p.poll() is not None:
                sys.exit(f"the study ended early (exit status {p.returncode})")
            print(json.dumps({"examples": mark, **look(p.pid, out), "seconds": round(time.monotonic() - since, 1)}), flush=True)
        p.wait()
        print(json.dumps({"exit": p.returncode, "seconds": round(time.monotonic() - since, 1)}))


def timed(commands, cwd):
    """Of commands side by side: wall seconds, the most that one of them says its examples took, and processor seconds of all."""
    since, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [subprocess.Popen(c, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT) for c in commands]
    outputs = [p.communicate()[0] for p in running]
    wall = time.monotonic() - since
    if any(p.returncode for p in running):
        sys.exit("a study failed: " + " ".join(commands[0]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, max(json.loads(out[out.index(b"{"):])["seconds"] for out in outputs), processor


def scaling(program, n, repeats=5):
    """The best of several runs taken in turn: what other programs on the machine take is no property of ours."""
    with tempfile.TemporaryDirectory() as folder:
        write_plan(folder, POCKET, os.path.join(ROOT, "examples"), ["cat.png", "lion.png", "tree.png", "rose.png"], n,
                   analyses={"flow": {}, "cam": {}, "cliff": {}})
        one = [program, "study", "run", "--plan", "plan.json", "--json", "--quiet", "--out"]
        ways = {"1 process": lambda out: [one + [out]], "2 shards": lambda out: [one + [f"{out}.{i}", "--shard", f"{i}/2"] for i in range(2)]}
        if shutil.which("mpirun"):
            for ranks in (2, 3):
                ways[f"{ranks} ranks ({ranks - 1} computing)"] = lambda out, ranks=ranks: [["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] + one + [out]]
        walls = {way: [] for way in ways}
        for r in range(repeats):
            for i, (way, commands) in enumerate(ways.items()):
                walls[way].append(timed(commands(f"out-{r}-{i}"), folder))
        best = {way: [min(run[k] for run in runs) for k in range(3)] for way, runs in walls.items()}
        for way, runs in walls.items():
            print(json.dumps({"way": way, "examples_s": round(best[way][1], 2), "whole_s": round(best[way][0], 2), "processor_s": round(best[way][2], 2),
                              "speedup": round(best["1 process"][1] / best[way][1], 2), "runs": [round(run[1], 2) for run in runs]}))


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("memory", "scaling"):
        sys.exit(__doc__)
    arguments = [os.path.abspath(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else (10000 if sys.argv[1] == "memory" else 40)]
    (memory if sys.argv[1] == "memory" else scaling)(*arguments)
