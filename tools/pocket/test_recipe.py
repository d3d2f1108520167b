"""Tests of the recipe: a run that is killed again and again ends with the weights of one that was not.

    python3 test_recipe.py

Needs what the recipe needs; a few minutes on one core.
"""

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file

import pretrain
import scenes
import shards
import train
from progress import Log

HERE = Path(__file__).resolve().parent
SMALL = ["--shards", "2", "--scenes", "48", "--tower-steps", "24", "--tower-batch", "8", "--model-steps", "16",
         "--model-batch", "2", "--every", "4", "--save-s", "0", "--device", "cpu", "--processes", "1",
         "--until", "export"]


def command(folder, *more):
    return [sys.executable, HERE / "recipe.py", folder, *SMALL, *more]


def run(folder, *more):
    return subprocess.run(command(folder, *more), capture_output=True, text=True)


def rows(path):
    """A log without its seconds."""
    with open(path) as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def kill_after(folder, seconds):
    """Starts the recipe and kills it after some seconds; its exit code."""
    process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return process.returncode


class Whole(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.base = Path(cls.temporary.name)
        began = time.time()
        done = run(cls.base / "whole")
        cls.took_s = time.time() - began
        assert done.returncode == 0, done.stderr

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_killed_runs_end_with_the_same_weights(self):
        folder, wait = self.base / "killed", random.Random(1)
        kills = 0
        while (code := kill_after(folder, wait.uniform(0.1, 0.5) * self.took_s)) != 0:
            self.assertEqual(code, -signal.SIGKILL)
            kills += 1
            self.assertLess(kills, 60)
            while run(folder, "--until", "scenes").stderr.endswith("at work here\n"):  # the stage is still ending
                time.sleep(0.1)
        self.assertGreater(kills, 2)
        whole = self.base / "whole" / "pocket-llava"
        names = {path.name for path in whole.iterdir()}
        self.assertIn("model-00002-of-00002.safetensors", names)
        self.assertEqual({path.name for path in (folder / "pocket-llava").iterdir()}, names)
        for name in sorted(names - {"tower_log.csv", "training_log.csv"}):
            self.assertEqual((folder / "pocket-llava" / name).read_bytes(), (whole / name).read_bytes(), name)
        for name in ("tower.csv", "model.csv"):
            self.assertEqual(rows(folder / name), rows(self.base / "whole" / name))

    def test_losses_fall(self):
        tower, model = rows(self.base / "whole" / "tower.csv"), rows(self.base / "whole" / "model.csv")
        self.assertEqual([int(row["step"]) for row in tower], list(range(4, 25, 4)))
        self.assertLess(float(tower[-1]["loss"]), 0.8 * float(tower[0]["loss"]))
        self.assertLess(float(model[-1]["loss"]), 0.8 * float(model[0]["loss"]))
        self.assertEqual([float(row["layers"]) for row in model], [6, 12, 12, 12])  # three steps of four layers first

    def test_stages_hand_over(self):
        w = self.base / "whole"
        args = SimpleNamespace(tokenizer=str(w / "tokenizer" / "tokenizer.json"), tower=w / "tower.pt", device="cpu",
                               out=w / "none.pt", rate=1e-3)
        begun = train.Trainer(args).model.model.vision_tower.state_dict()
        for name, tensor in torch.load(args.tower)["tower"].items():
            self.assertTrue(torch.equal(begun[name], tensor), name)
        trained = torch.load(w / "model.pt")["model"]
        self.assertFalse(torch.equal(trained["model.vision_tower.embeddings.patch_embedding.weight"],
                                     begun["embeddings.patch_embedding.weight"]))
        exported = {}
        for shard in (w / "pocket-llava").glob("*.safetensors"):
            exported.update(load_file(shard))
        key = "lm_head.weight"
        self.assertTrue(torch.equal(exported.get(key, exported.get(f"language_model.{key}")), trained[key]))

    def test_other_settings_are_refused(self):
        refused = run(self.base / "whole", "--seed", "2")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("seed 1, now 2", refused.stderr)

    def test_two_at_once_are_refused(self):
        folder = self.base / "twice"
        first = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL)
        while not (folder / "lock").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        refused = run(folder)
        first.kill()
        first.wait()
        self.assertIn("at work here", refused.stderr)


class Parts(unittest.TestCase):
    def test_a_step_has_its_batch_whenever_it_is_asked(self):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(3):
                shards.make(Path(folder) / f"{number:04d}.shard", number, 10, 1, 0.5)
            walked = shards.Source(folder, 1, 0, 4)
            batches = [walked.batch(step) for step in range(13)]
            for step in (12, 5, 0, 7):
                for a, b in zip(batches[step], shards.Source(folder, 1, 0, 4).batch(step)):
                    self.assertTrue(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b)
            seen = [images.tobytes() for first in range(6) for images in batches[first][0]]
            self.assertEqual(len(seen), len(set(seen)))  # a pass shows no scene twice
            other = shards.Source(folder, 1, 1, 4).batch(0)[0]
            self.assertFalse(np.array_equal(other, batches[0][0]))

    def test_patch_places(self):
        column, row = pretrain.places(torch.zeros(2, 3, scenes.GRID ** 2, dtype=torch.long))
        last = scenes.GRID - 1
        self.assertEqual((column[last].item(), row[last].item()), (last, 0))
        self.assertEqual((column[-1].item(), row[-1].item()), (last, last))
        self.assertEqual((column[scenes.GRID ** 2].item(), row[scenes.GRID ** 2].item()), (0, 0))

    def test_a_log_drops_what_is_behind_the_checkpoint(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "log.csv")
            with open(path, "w") as file:
                file.write("step,seconds,loss\n2,1,3.0\n4,2,2.0\n6,3,1.0\n4,")
            log = Log(path, ("loss",), 2, 4)
            self.assertFalse(log.add(5, 9, [1.0], [1]))
            self.assertTrue(log.add(6, 10, [2.0], [1]))
            with open(path) as file:
                self.assertEqual(file.read(), "step,seconds,loss\n2,1,3.0\n4,2,2.0\n6,10,1.5000\n")


if __name__ == "__main__":
    unittest.main()
