"""Writes the example pictures with masks and questions the model answers rightly.

    python3 make_examples.py MODEL OUT

Each entry of EXAMPLES is composed with seeds 0, 1, 2, ...; of the first few
pictures the one with most right answers is kept, and of its questions those that
transformers answers as expected. The first question must be among them.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import questions
import scenes
import sprites
from evaluate import Answerer
from scoring import score

TRIES = 6
# name: (main class, look, size, number of small objects) or (word, "word", ...)
EXAMPLES = {
    "cat": ("cat", "drawing", (144, 144), 1),
    "elephant": ("elephant", "photo", (144, 144), 1),
    "lion": ("lion", "photo", (144, 144), 2),
    "flamingo": ("flamingo", "drawing", (144, 144), 1),
    "apple": ("apple", "photo", (144, 144), 2),
    "banana": ("banana", "drawing", (288, 216), 1),
    "pineapple": ("pineapple", "drawing", (144, 144), 2),
    "car": ("car", "drawing", (288, 216), 2),
    "plane": ("plane", "photo", (192, 144), 1),
    "guitar": ("guitar", "drawing", (144, 144), 2),
    "violin": ("violin", "photo", (144, 144), 1),
    "hammer": ("hammer", "drawing", (216, 288), 1),
    "scissors": ("scissors", "drawing", (144, 144), 2),
    "rose": ("rose", "photo", (144, 144), 1),
    "tree": ("tree", "drawing", (288, 288), 2),
    "basketball": ("basketball", "photo", (144, 144), 1),
    "word-music": ("music", "word", (144, 144), 0),
    "word-seven": ("seven", "word", (144, 144), 1),
}


def make(name, seed):
    """Composes one example."""
    what, look, size, small = EXAMPLES[name]
    rng = np.random.default_rng([seed, *name.encode()])
    if look == "word":
        return scenes.compose(rng, what, None, size, small), rng
    pictures = [p for p in sprites.pictures_of(what) if p.look == look]
    return scenes.compose(rng, None, pictures[0], size, small), rng


def ask(rng, scene):
    """The questions of an example: all that fit, one of each kind."""
    if scene.word:
        asked = [questions.read(rng, scene, plain=True), questions.choice(rng, scene, plain=True)]
    else:
        asked = [questions.main_object(rng, scene, plain=True),
                 questions.there(rng, scene, plain=True, present=True),
                 questions.there(rng, scene, plain=True, present=False),
                 questions.choice(rng, scene, plain=True), questions.left_right(rng, scene),
                 questions.list_objects(rng, scene, plain=True)]
    return [q for q in [*asked, questions.describe(rng, scene, plain=True)] if q]


def mask_of(scene):
    """255 where the main object is; for a written word, the band of its letters."""
    if scene.word:
        return scene.letters.point(lambda v: 255 if v else 0)
    return scene.owner.point(lambda v: 255 if v == 1 else 0)


def best(answerer, name):
    """The picture with most right answers: (scene, rightly answered questions) or None."""
    kept = None
    small = EXAMPLES[name][3]
    for seed in range(TRIES):
        scene, rng = make(name, seed)
        asked = ask(rng, scene)
        if len(scene.items) < (small if scene.word else small + 1):
            continue
        answers = answerer([scene.image] * len(asked), [q.prompt for q in asked])
        right = [q for q, a in zip(asked, answers)
                 if score({"task": q.task, "label": q.answer}, a) == 1]
        if asked[0] in right and (kept is None or len(right) > len(kept[1])):
            kept = scene, right
        if len(right) == len(asked):
            break
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    answerer = Answerer(args.model)
    records, sources = [], []
    for name in EXAMPLES:
        found = best(answerer, name)
        if not found:
            print(f"{name}: no right answer in {TRIES} tries, left out")
            continue
        scene, asked = found
        image, mask = f"{name}.png", f"{name}.mask.png"
        scene.image.save(args.out / image, optimize=True)
        mask_of(scene).save(args.out / mask, optimize=True)
        records += [{"id": f"{name}-{q.task}-{i}", "image": image, "mask": mask, "prompt": q.prompt,
                     "label": q.answer, "task": q.task} for i, q in enumerate(asked)]
        sources.append(f"| {image} | " + ", ".join(
            f"{i.name}: {i.picture.source}" for i in scene.items) + " |")
    with open(args.out / "questions.jsonl", "w") as file:
        for record in records:
            print(json.dumps(record), file=file)
    print("| picture | stamps (paths) and emoji (code points) |\n| --- | --- |", *sources, sep="\n")


if __name__ == "__main__":
    main()
