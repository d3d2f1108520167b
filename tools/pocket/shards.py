"""Training scenes on disk: makes shards of scenes and reads batches from them.

    python3 shards.py OUT --shards 10 --seed 1

Each shard is seeded by its own number, so it can be made alone and again.
"""

import argparse
import pickle
from pathlib import Path

import numpy as np

import scenes

SHARD = 2048  # scenes in a shard


def make(folder, number, seed, words):
    """Writes shard `number`: pictures, patch labels and scene facts."""
    rng = np.random.default_rng([seed, number])
    images = np.empty((SHARD, scenes.SIDE, scenes.SIDE, 3), np.uint8)
    labels = np.empty((SHARD, 3, scenes.GRID ** 2), np.int16)
    facts = []
    for i in range(SHARD):
        scene = scenes.draw(rng, words)
        images[i] = np.asarray(scene.image)
        labels[i] = scenes.patch_labels(scene)
        scene.image = scene.owner = scene.letters = None
        facts.append(scene)
    partial = folder / f"{number:04d}.part"
    with open(partial, "wb") as file:
        pickle.dump({"images": images, "labels": labels, "facts": facts}, file, protocol=5)
    partial.rename(folder / f"{number:04d}.shard")


def batches(folder, rng, size):
    """Yields (images, labels, facts) for ever; new shards are noticed as they appear."""
    used = {}
    while True:
        paths = sorted(Path(folder).glob("*.shard"))
        fewest = min(used.get(p, 0) for p in paths)
        path = rng.choice([p for p in paths if used.get(p, 0) == fewest])
        used[path] = fewest + 1 if fewest else max([1, *used.values()])
        with open(path, "rb") as file:
            shard = pickle.load(file)
        order = rng.permutation(SHARD)
        for start in range(0, SHARD - size + 1, size):
            chosen = order[start: start + size]
            yield (shard["images"][chosen], shard["labels"][chosen],
                   [shard["facts"][i] for i in chosen])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--words", type=float, default=0.5, help="share of scenes with a word")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(args.first, args.shards, args.step):
        if not (args.out / f"{number:04d}.shard").exists():
            make(args.out, number, args.seed, args.words)


if __name__ == "__main__":
    main()
