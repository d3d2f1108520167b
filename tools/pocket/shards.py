"""Training scenes on disk: makes shards of scenes and reads batches from them.

    python3 shards.py OUT --shards 24 --seed 1

Each shard is seeded by its own number, so it can be made alone and again.
"""

import argparse
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np

import scenes
from lifetime import end_with_parent


def make(path, number, count, seed, words):
    """Writes shard `number`: pictures, patch labels and scene facts."""
    rng = np.random.default_rng([seed, number])
    images = np.empty((count, scenes.SIDE, scenes.SIDE, 3), np.uint8)
    labels = np.empty((count, 3, scenes.GRID ** 2), np.int16)
    facts = []
    for i in range(count):
        scene = scenes.draw(rng, words)
        images[i] = np.asarray(scene.image)
        labels[i] = scenes.patch_labels(scene)
        scene.image = scene.owner = scene.letters = None
        facts.append(scene)
    partial = path.with_suffix(".part")
    with open(partial, "wb") as file:
        pickle.dump({"images": images, "labels": labels, "facts": facts}, file, protocol=5)
    partial.rename(path)


class Source:
    """Batches of scenes. What a step gets depends on seed, step and rank alone.

    Each pass goes through all shards, each shard in an order of its own. A folder
    must hold the same shards whenever a run goes on.
    """

    def __init__(self, folder, seed, rank, size):
        self.paths = sorted(Path(folder).glob("*.shard"))
        if not self.paths:
            raise SystemExit(f"{folder}: no *.shard here; shards.py makes them")
        self.seed, self.rank, self.size = seed, rank, size
        self.open = None  # number of the shard that is in memory
        self._load(0)
        self.scenes = len(self.facts)
        if size > self.scenes:
            raise SystemExit(f"{folder}: {self.scenes} scenes in a shard are too few for {size} pictures a step")

    def _load(self, number):
        if self.open == number:
            return
        with open(self.paths[number], "rb") as file:
            shard = pickle.load(file)
        self.images, self.labels, self.facts = shard["images"], shard["labels"], shard["facts"]
        self.open = number

    def batch(self, step):
        """(images, labels, facts) of a step, counted from 0."""
        per_shard = self.scenes // self.size
        passes, left = divmod(step, per_shard * len(self.paths))
        turn, at = divmod(left, per_shard)
        number = int(self._order(len(self.paths), passes)[turn])
        self._load(number)
        chosen = self._order(self.scenes, passes, 1 + number)[at * self.size: (at + 1) * self.size]
        return self.images[chosen], self.labels[chosen], [self.facts[i] for i in chosen]

    def _order(self, n, *what):
        return np.random.default_rng([self.seed, self.rank, *what]).permutation(n)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--scenes", type=int, default=2048, help="in each shard")
    parser.add_argument("--words", type=float, default=0.5, help="share of scenes with a word")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    missing = [(path, n, args.scenes, args.seed, args.words) for n in range(args.shards)
               if not (path := args.out / f"{n:04d}.shard").exists()]
    with multiprocessing.Pool(args.processes, end_with_parent) as pool:
        pool.starmap(make, missing, chunksize=1)


if __name__ == "__main__":
    main()
