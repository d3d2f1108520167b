"""Scores answers on a folder written by eval_set.py. Needs nothing but Python."""

import json
import math
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


def interval(values, pictures):
    """Wilson's 95 % interval of a mean of numbers from 0 to 1, with as many independent questions as the spread between
    pictures says: those about one picture are not independent."""
    mean = sum(values) / len(values)
    by_picture = defaultdict(float)
    for value, picture in zip(values, pictures):
        by_picture[picture] += value - mean
    variance = sum(d * d for d in by_picture.values()) / len(values) ** 2
    n = mean * (1 - mean) / variance if variance > 0 else len(by_picture)
    z = 1.96
    middle, half = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def table(records, scores):
    """Rows (name, score, (low, high), count) for every task, with its forms and held-out pictures apart."""
    groups = defaultdict(list)
    for record, value in zip(records, scores):
        case = value, record["image"]
        if record["held_out_picture"]:
            groups[f"held-out pictures: {TASKS[record['task']]}"].append(case)
            continue
        groups[TASKS[record["task"]]].append(case)
        if record["task"] == "main":
            groups[f"{TASKS['main']}, {record['look']}s"].append(case)
        if record["task"] == "yesno":
            groups[f"{TASKS['yesno']}, {record['label']}"].append(case)
    return [(name, sum(v for v, _ in cases) / len(cases), interval(*zip(*cases)), len(cases))
            for name, cases in sorted(groups.items())]


def print_table(records, answers):
    """The table of the model card, on standard output."""
    print("| task | score | 95 % interval | questions |\n| --- | --- | --- | --- |")
    for name, value, (low, high), count in table(records, list(map(score, records, answers))):
        print(f"| {name} | {100 * value:.1f} % | {100 * low:.1f} to {100 * high:.1f} | {count} |")
