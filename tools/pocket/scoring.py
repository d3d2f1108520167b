"""Scores answers on a folder written by eval_set.py. Needs nothing but Python."""

import json
import re
from collections import defaultdict

import sprites

TASKS = {"main": "main object, one word", "yesno": "is there a X",
         "choice": "multiple choice, needs the picture",
         "choice_text": "multiple choice, text alone is enough", "read": "read the word",
         "leftright": "left or right side of the image", "list": "list the objects (set F1)",
         "describe": "description, objects named (set F1)"}


def read_records(folder):
    """The questions of an evaluation folder."""
    with open(folder / "questions.jsonl") as file:
        return [json.loads(line) for line in file]


def set_f1(answer, label):
    """F1 of two sets of object names."""
    got, want = (set(re.findall(r"[a-z]+", t)) & set(sprites.NAMES) for t in (answer, label))
    if not got and not want:
        return 1.0
    return 2 * len(got & want) / (len(got) + len(want))


def score(record, answer):
    """A number from 0 to 1."""
    if record["task"] in ("list", "describe"):
        return set_f1(answer, record["label"])
    return float(answer.strip().lower() == record["label"].lower())


def table(records, scores):
    """Rows (name, score, count) for every task, with its forms and held-out pictures apart."""
    groups = defaultdict(list)
    for record, value in zip(records, scores):
        if record["held_out_picture"]:
            groups[f"held-out pictures: {TASKS[record['task']]}"].append(value)
            continue
        groups[TASKS[record["task"]]].append(value)
        if record["task"] == "main":
            groups[f"{TASKS['main']}, {record['look']}s"].append(value)
        if record["task"] == "yesno":
            groups[f"{TASKS['yesno']}, {record['label']}"].append(value)
    return [(name, sum(v) / len(v), len(v)) for name, v in sorted(groups.items())]


def print_table(records, answers):
    """The table of the model card, on standard output."""
    print("| task | score | questions |\n| --- | --- | --- |")
    for name, value, count in table(records, list(map(score, records, answers))):
        print(f"| {name} | {100 * value:.1f} % | {count} |")
