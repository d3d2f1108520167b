"""Makes the scenes and questions that the findings are measured on.

    python3 make_scenes.py OUT [--classes 54] [--layouts 2] [--tasks 48]

Needs python3 with numpy and Pillow and the Debian packages that tools/pocket/README.md names. The scenes come from
seeds that training never uses (those of tools/pocket/eval_set.py, with numbers of their own behind them).

OUT/pictures/NAME.png is a picture, NAME.mask.png its main object (or the written word's band). OUT/scenes.jsonl has one
line per question:

    id, set          the question's name; "main" (photo/drawing pairs) or "task" (one picture, many questions)
    image, mask      file names under OUT
    prompt, label    what is asked and the right answer
    task             the kind of question, as in tools/pocket/questions.py
    unit             what is resampled in a bootstrap: the class in "main", the picture in "task"
    class, look      of the main object; layout: scenes of one class and layout differ in the main object's look alone
    patches          one letter per image token: o object (at least half of it), e edge (less), s small object, . nothing
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pocket"))
import questions  # noqa: E402
import scenes  # noqa: E402
import sprites  # noqa: E402

SEED = 20260  # the evaluation set's; training's generators start with other numbers
LOOKS = ("photo", "drawing")
CALIBRATION = 16


def both_looks():
    """Classes with photographs and drawings among the pictures of training."""
    return [name for name in sprites.NAMES
            if {p.look for p in sprites.pictures_of(name)} == set(LOOKS)]


def picture_of(rng, name, look):
    """A picture of the class in that look."""
    pictures = [p for p in sprites.pictures_of(name) if p.look == look]
    return pictures[rng.integers(len(pictures))]


def main_mask(scene):
    """255 on the main object, or on the band of the written word."""
    if scene.word:
        return scene.letters.point(lambda v: 255 if v else 0)
    return scene.owner.point(lambda v: 255 if v == 1 else 0)


def patches(scene):
    """The letters that are described above."""
    def shares(image):
        grid = np.asarray(image).reshape(scenes.GRID, scenes.PATCH, scenes.GRID, scenes.PATCH)
        return grid.transpose(0, 2, 1, 3).reshape(scenes.GRID ** 2, -1)

    main = (shares(main_mask(scene)) > 0).mean(1)
    owner = shares(scene.owner)
    small = (owner > (0 if scene.word else 1)).mean(1)
    return "".join("o" if m >= 0.5 else "e" if m > 0 else "s" if s > 0 else "." for m, s in zip(main, small))


class Writer:
    """Puts pictures and questions into the folder."""

    def __init__(self, folder):
        self.folder = folder
        self.records = []
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        (folder / "calibration").mkdir(exist_ok=True)

    def picture(self, name, scene):
        """Saves a scene with its mask; returns the fields that all its questions share."""
        scene.image.save(self.folder / "pictures" / f"{name}.png")
        main_mask(scene).save(self.folder / "pictures" / f"{name}.mask.png")
        return {"image": f"pictures/{name}.png", "mask": f"pictures/{name}.mask.png", "patches": patches(scene),
                "class": scene.word or scene.main.name, "look": "word" if scene.word else scene.main.picture.look}

    def question(self, name, shared, question, **fields):
        self.records.append({"id": name, "prompt": question.prompt, "label": question.answer, "task": question.task,
                             **shared, **fields})

    def close(self):
        with open(self.folder / "scenes.jsonl", "w") as file:
            for record in self.records:
                print(json.dumps(record), file=file)


def make_pairs(writer, n_class, n_layout):
    """The main set: every class as a photo and as a drawing in the same layouts."""
    names = both_looks()
    order = np.random.default_rng([SEED, 1]).permutation(len(names))[:n_class]
    for c in order:
        for layout in range(n_layout):
            for look in LOOKS:
                picture = picture_of(np.random.default_rng([SEED, 2, c, layout]), names[c], look)
                # The same generator for both looks: background, place, size, turn and small object are the same.
                scene = scenes.compose(np.random.default_rng([SEED, 3, c, layout]), None, picture, small=1)
                name = f"{names[c]}-{layout}-{look}"
                shared = writer.picture(name, scene)
                writer.question(name, shared, questions.main_object(None, scene, plain=True), set="main",
                                layout=layout, unit=names[c])


def object_scene(number):
    """A scene about which every question can be asked: some object stands clearly to one side."""
    name = sprites.NAMES[np.random.default_rng([SEED, 4]).permutation(len(sprites.NAMES))[number % len(sprites.NAMES)]]
    for attempt in range(100):
        rng = np.random.default_rng([SEED, 5, number, attempt])
        pictures = sprites.pictures_of(name)
        scene = scenes.compose(rng, None, pictures[rng.integers(len(pictures))], small=1 + number % 2)
        side = questions.left_right(rng, scene)
        if side:
            return rng, scene, side
    raise SystemExit(f"no scene of {name} with an object on one side in 100 attempts")


def make_tasks(writer, n_scene):
    """The task set: the same pictures with every kind of question, and written words to read."""
    for number in range(n_scene):
        rng, scene, side = object_scene(number)
        name = f"task{number:03d}"
        shared = writer.picture(name, scene)
        asked = [questions.main_object(rng, scene, plain=True),
                 questions.there(rng, scene, plain=True, present=number % 2 == 0),
                 questions.choice(rng, scene, plain=True), questions.choice_text(rng, plain=True), side,
                 questions.list_objects(rng, scene, plain=True), questions.describe(rng, scene, plain=True)]
        for question in asked:
            writer.question(f"{name}-{question.task}", shared, question, set="task", layout=0, unit=name)
    for number in range(n_scene):
        rng = np.random.default_rng([SEED, 6, number])
        scene = scenes.compose(rng, scenes.WORDS[number % len(scenes.WORDS)], small=number % 2)
        name = f"word{number:03d}"
        shared = writer.picture(name, scene)
        writer.question(f"{name}-read", shared, questions.read(rng, scene, plain=True), set="task", layout=0, unit=name)


def make_calibration(folder):
    """Pictures that stand in for `no particular picture`: their mean is what an ablated head sees."""
    for number in range(CALIBRATION):
        rng = np.random.default_rng([SEED, 7, number])
        scene = scenes.compose(rng, None, None, small=1)
        scene.image.save(folder / "calibration" / f"{number:02d}.png")


def make(folder, n_class=54, n_layout=2, n_task=48):
    """Writes everything; returns the records."""
    writer = Writer(folder)
    make_pairs(writer, n_class, n_layout)
    make_tasks(writer, n_task)
    make_calibration(folder)
    writer.close()
    return writer.records


def read(folder):
    """The records of a folder that make() wrote."""
    with open(folder / "scenes.jsonl") as file:
        return [json.loads(line) for line in file]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--classes", type=int, default=54, help="classes in photo/drawing pairs")
    parser.add_argument("--layouts", type=int, default=2, help="layouts of each pair")
    parser.add_argument("--tasks", type=int, default=48, help="pictures that get every kind of question")
    args = parser.parse_args()
    records = make(args.out, args.classes, args.layouts, args.tasks)
    print(f"{len({r['image'] for r in records})} pictures, {len(records)} questions in {args.out}")


if __name__ == "__main__":
    main()
