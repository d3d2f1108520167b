"""Writes the held-out evaluation set: PNG pictures and questions.jsonl.

    python3 eval_set.py OUT [--grey] [--seed 20260] [--per-class 2] [--tasks leftright,main]

Needs python3 with numpy and Pillow, and the Debian packages of the stamps and
fonts. The scenes (places, backgrounds, small objects) come from a seed that
training never uses; a part of them shows pictures that training never saw.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

import questions
import scenes
import sprites

SIZES = ((144, 144),) * 6 + ((288, 288), (192, 144), (288, 216), (216, 288))
GREY = (127, 127, 127)


def plan(rng, per_class, per_word, per_held_out):
    """Yields (word, main picture, held out) for every scene of the set."""
    for name in sprites.NAMES:
        pictures = sprites.pictures_of(name)
        for look in sorted({p.look for p in pictures}):
            same = [p for p in pictures if p.look == look]
            for _ in range(per_class):
                yield None, same[rng.integers(len(same))], False
    for picture in sprites.PICTURES:
        if picture.held_out:
            for _ in range(per_held_out):
                yield None, picture, True
    for word in scenes.WORDS:
        for _ in range(per_word):
            yield word, None, False


def ask(rng, scene, held_out):
    """The questions of one scene."""
    if held_out:
        return [questions.main_object(rng, scene, plain=True),
                questions.Question("yesno", questions.THERE[0].format(
                    questions.with_article(scene.main.name)), "yes", scene.main.name)]
    if scene.word:
        return [questions.read(rng, scene, plain=True), questions.choice(rng, scene, plain=True),
                questions.describe(rng, scene, plain=True)]
    asked = [questions.main_object(rng, scene, plain=True),
             questions.there(rng, scene, plain=True, present=True),
             questions.there(rng, scene, plain=True, present=False),
             questions.choice(rng, scene, plain=True),
             questions.left_right(rng, scene),
             questions.list_objects(rng, scene, plain=True),
             questions.describe(rng, scene, plain=True)]
    if rng.random() < 0.4:
        asked.append(questions.choice_text(rng, plain=True))
    return [q for q in asked if q]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--grey", action="store_true", help="replace every picture by plain grey")
    parser.add_argument("--seed", type=int, default=20260)
    parser.add_argument("--per-class", type=int, default=2, help="scenes per class and look")
    parser.add_argument("--per-word", type=int, default=2, help="scenes per written word")
    parser.add_argument("--per-held-out", type=int, default=3, help="scenes per held-out picture")
    parser.add_argument("--tasks", default=",".join(questions.TASKS), help="the questions to keep, comma-separated")
    args = parser.parse_args()
    kept = args.tasks.split(",")
    if unknown := set(kept) - set(questions.TASKS):
        parser.error(f"--tasks: there is no {', '.join(sorted(unknown))}; there are {', '.join(questions.TASKS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    records = []
    scene_plan = list(plan(rng, args.per_class, args.per_word, args.per_held_out))
    for number, (word, main_picture, held_out) in enumerate(scene_plan):
        size = SIZES[rng.integers(len(SIZES))]
        scene = scenes.compose(rng, word, main_picture, size)
        file = f"{number:04d}.png"
        asked = [q for q in ask(rng, scene, held_out) if q.task in kept]
        if asked:
            image = Image.new("RGB", size, GREY) if args.grey else scene.image
            image.save(args.out / file)
        for i, question in enumerate(asked):
            records.append({
                "id": f"{number:04d}-{i}", "image": file, "prompt": question.prompt,
                "label": question.answer, "task": question.task,
                "look": "word" if word else scene.main.picture.look,
                "class": question.about, "held_out_picture": held_out})
    with open(args.out / "questions.jsonl", "w") as file:
        for record in records:
            print(json.dumps(record), file=file)
    print(f"{len({r['image'] for r in records})} pictures, {len(records)} questions")


if __name__ == "__main__":
    main()
