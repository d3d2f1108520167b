"""Writes the pocket editions of the benchmarks: our scenes in the official files' formats.

    python3 eval_sets.py ../../examples/eval

Needs what eval_set.py needs. The scenes come from a seed that training never uses. One folder of pictures serves POPE,
CHAIR and the main objects; TextVQA and ScienceQA have their own.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

import questions
import scenes
import sprites

SEED = 20265
SCENES, POPE_SCENES, WORD_SCENES, PROBLEMS, TEXT_PROBLEMS = 200, 24, 100, 110, 90
COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench bird
cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite
baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich
orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard
cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"""
COCO = [name.replace("_", " ") for name in COCO.split()]
AS_COCO = {"plane": "airplane", **dict.fromkeys(("duck", "owl", "peacock", "flamingo", "parrot"), "bird"),
           **{name: name for name in sprites.NAMES if name in COCO}}


def save(scene, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.image.convert("RGB").save(path, quality=75)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write(path, value, indent=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent) + "\n")


def object_scenes(rng, out):
    made = {}
    for number in range(SCENES):
        name = sprites.NAMES[number % len(sprites.NAMES)]
        scene = scenes.compose(rng, None, scenes._pick(rng, name), small=int(rng.integers(1, 4)))
        made[number + 1] = scene
        save(scene, out / "images" / f"{number + 1:06d}.jpg")
    return made


def pope(rng, made, out):
    """Two objects that are there and two that are not, drawn at random, by how often they occur, or from the kinds of
    things that are there."""
    often = [name for name, _ in Counter(n for s in made.values() for n in sorted(s.names)).most_common()]
    chosen = [i for i, s in made.items() if len(s.names) >= 2][:POPE_SCENES]
    absent = {"random": lambda s: [sprites.NAMES[i] for i in rng.permutation(len(sprites.NAMES))],
              "popular": lambda s: often,
              "adversarial": lambda s: sorted(often, key=lambda n: sprites.CATEGORY[n] not in
                                              {sprites.CATEGORY[x] for x in s.names})}
    for split, order in absent.items():
        rows = []
        for image in chosen:
            scene = made[image]
            there = [item.name for item in scene.items][:2]
            missing = [n for n in order(scene) if n not in scene.names][:2]
            for name, label in zip((there[0], missing[0], there[1], missing[1]), ("yes", "no") * 2):
                rows.append({"question_id": len(rows) + 1, "image": f"{image:06d}.jpg",
                             "text": f"Is there {questions.with_article(name)} in the image?", "label": label})
        lines(out / "pope" / f"coco_pope_{split}.json", rows)


def chair(rng, made, out):
    images, instances, captions = [], [], []
    for image, scene in made.items():
        images.append({"id": image, "file_name": f"{image:06d}.jpg", "width": scenes.SIDE, "height": scenes.SIDE})
        for item in scene.items:
            if item.name in AS_COCO:
                x0, y0, x1, y1 = item.box
                instances.append({"id": len(instances) + 1, "image_id": image, "iscrowd": 0,
                                  "category_id": COCO.index(AS_COCO[item.name]) + 1,
                                  "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
        captions.append({"id": len(captions) + 1, "image_id": image,
                         "caption": questions.list_objects(rng, scene, plain=True).answer})
    write(out / "chair" / "instances_val2014.json",
          {"images": images, "categories": [{"id": i + 1, "name": n} for i, n in enumerate(COCO)], "annotations": instances})
    write(out / "chair" / "captions_val2014.json", {"images": images, "annotations": captions})


def main_object(made, out):
    lines(out / "main_object" / "main_object.jsonl",
          [{"id": image, "image": f"{image:06d}.jpg", "label": scene.main.name} for image, scene in made.items()])


def textvqa(rng, out):
    """Ten people read each word; a few misread it."""
    rows = []
    for number in range(WORD_SCENES):
        word = scenes.WORDS[number % len(scenes.WORDS)]
        name = f"{int(rng.integers(1 << 40)):016x}"
        save(scenes.compose(rng, word), out / "textvqa" / "images" / f"{name}.jpg")
        for question in questions.READ[:2]:
            wrong = [word[:-1], word + "s", "no word", "unanswerable"]
            answers = [word if rng.random() < 0.85 else wrong[rng.integers(4)] for _ in range(10)]
            rows.append({"question_id": 34602 + len(rows), "image_id": name, "question": question, "answers": answers,
                         "image_width": scenes.SIDE, "image_height": scenes.SIDE, "set_name": "val"})
    write(out / "textvqa" / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_version": "0.5.1", "data": rows})


def scienceqa(rng, out):
    problems = {}
    for number in range(PROBLEMS + TEXT_PROBLEMS):
        pid = str(number * 7 + 5)
        if number < PROBLEMS:
            word = scenes.WORDS[rng.integers(len(scenes.WORDS))] if number % 5 == 4 else None
            scene = scenes.compose(rng, word)
            save(scene, out / "scienceqa" / "images" / "test" / pid / "image.jpg")
            asked = questions.choice(rng, scene, plain=True)
        else:
            asked = questions.choice_text(rng, plain=True)
        first, *options = asked.prompt.split("\n")[:-1]
        problems[pid] = {"question": first, "choices": [o[3:] for o in options], "answer": "ABCD".index(asked.answer),
                         "hint": "", "image": "image.jpg" if number < PROBLEMS else None, "task": "closed choice",
                         "grade": "grade1", "subject": "natural science", "split": "test"}
    write(out / "scienceqa" / "problems.json", problems, indent=1)
    write(out / "scienceqa" / "pid_splits.json", {"train": [], "val": [], "test": list(problems)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rng = np.random.default_rng(SEED)
    made = object_scenes(rng, out)
    pope(rng, made, out)
    chair(rng, made, out)
    main_object(made, out)
    textvqa(rng, out)
    scienceqa(rng, out)


if __name__ == "__main__":
    main()
