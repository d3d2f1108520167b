"""Makes pocket-llava from nothing, stage by stage, in one folder.

    python3 recipe.py W

Stages: scenes, tokenizer, tower, model, export, scores. Run the same command again
after a stop of any kind: what is complete stays, and a training stage goes on from
its last checkpoint. A GPU is used when there is one, else one process for each core.
The result is W/pocket-llava, a Hugging Face folder, and W/scores.md.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from lifetime import end_with_parent

HERE = Path(__file__).resolve().parent
# glibc keeps what it was given: returning every step's activations costs more than the products.
KEEP_MEMORY = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"


class Recipe:
    """The stages, each a method; `w` is the folder everything is made in."""

    STAGES = ("scenes", "tokenizer", "tower", "model", "export", "scores")

    def __init__(self, args, lock):
        self.args, self.w, self.lock = args, args.w, lock

    def run(self, script, *words, out=None):
        """Runs a script of this folder, raises where it fails; `out` takes what it prints, whole or not at all."""
        environment = {"GLIBC_TUNABLES": KEEP_MEMORY, **os.environ}
        partial = open(f"{out}.part", "w") if out else None
        try:
            subprocess.run([sys.executable, HERE / f"{script}.py", *map(str, words)], check=True, env=environment,
                           stdout=partial, pass_fds=[self.lock], preexec_fn=end_with_parent)
        finally:
            if partial:
                partial.close()
        if out:
            os.replace(f"{out}.part", out)

    def training(self, steps, batch):
        """Options of a training stage."""
        a = self.args
        return ("--steps", steps, "--batch", batch, "--seed", a.seed, "--every", a.every, "--save-s", a.save_s,
                "--device", a.device, "--processes", a.processes)

    def scenes(self):
        a = self.args
        self.run("shards", self.w / "scenes", "--shards", a.shards, "--scenes", a.scenes, "--seed", a.seed)

    def tokenizer(self):
        self.run("tokenizer", self.w / "tokenizer")

    def tower(self):
        a = self.args
        self.run("pretrain", self.w / "scenes", self.w / "tower.pt", "--csv", self.w / "tower.csv",
                 *self.training(a.tower_steps, a.tower_batch))

    def model(self):
        a = self.args
        self.run("train", self.w / "scenes", self.w / "tower.pt", self.w / "tokenizer" / "tokenizer.json",
                 self.w / "model.pt", "--csv", self.w / "model.csv", *self.training(a.model_steps, a.model_batch))

    def export(self):
        partial, whole = self.w / "pocket-llava.part", self.w / "pocket-llava"
        shutil.rmtree(partial, ignore_errors=True)
        self.run("export", self.w / "model.pt", self.w / "tokenizer" / "tokenizer.json", partial)
        shutil.copy(self.w / "tower.csv", partial / "tower_log.csv")
        shutil.copy(self.w / "model.csv", partial / "training_log.csv")
        shutil.rmtree(whole, ignore_errors=True)
        partial.rename(whole)

    def scores(self):
        self.run("eval_set", self.w / "eval")
        self.run("evaluate", self.w / "pocket-llava", self.w / "eval", out=self.w / "scores.md")


def hold(folder):
    """A lock that the stages inherit: nobody goes on while one of them is still at work."""
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"{folder}: another run of the recipe is at work here")
    return lock


def keep_settings(args):
    """Writes what decides the weights, or refuses to go on with something else."""
    path = args.w / "settings.json"
    names = ("seed", "shards", "scenes", "tower_steps", "tower_batch", "model_steps", "model_batch", "processes",
             "device")
    settings = {name: getattr(args, name) for name in names}
    if not path.exists():
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        partial.rename(path)
        return
    before = json.loads(path.read_text())
    other = [f"{name} {before.get(name)}, now {settings[name]}" for name in names if before.get(name) != settings[name]]
    if other:
        raise SystemExit(f"{args.w}: begun with other settings ({'; '.join(other)}); give those, or another folder")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("w", type=Path, metavar="W", help="folder for everything that is made, about 4 GB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--scenes", type=int, default=2048, help="in each shard")
    parser.add_argument("--tower-steps", type=int, default=2500)
    parser.add_argument("--tower-batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--model-steps", type=int, default=6000)
    parser.add_argument("--model-batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--every", type=int, default=25, help="steps from one row of the logs to the next")
    parser.add_argument("--save-s", type=float, default=60, help="seconds from one checkpoint to the next, at least")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--processes", type=int, help="that train; default: 1 on a GPU, else 1, 2, 4 or 8 by the cores")
    parser.add_argument("--until", choices=Recipe.STAGES, default="scores", help="the last stage to run")
    args = parser.parse_args()
    if args.processes is None:
        cores = len(os.sched_getaffinity(0))
        args.processes = 1 if args.device != "cpu" else max(p for p in (1, 2, 4, 8) if p <= cores)
    return args


def main():
    args = arguments()
    args.w.mkdir(parents=True, exist_ok=True)
    lock = hold(args.w)
    keep_settings(args)
    recipe = Recipe(args, lock)
    for stage in Recipe.STAGES[: Recipe.STAGES.index(args.until) + 1]:
        done = args.w / f"{stage}.done"
        if not done.exists():
            print(f"{stage} ...", flush=True)
            try:
                getattr(recipe, stage)()
            except subprocess.CalledProcessError as error:
                script = Path(error.cmd[1]).name
                raise SystemExit(f"{stage}: {script} ended with code {error.returncode}; run again to go on from here")
            done.touch()
        print(f"{stage} is complete", flush=True)


if __name__ == "__main__":
    main()
