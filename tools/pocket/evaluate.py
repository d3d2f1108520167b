"""Scores an exported model with transformers on a folder written by eval_set.py.

    python3 evaluate.py MODEL SET [--answers ANSWERS.jsonl]

The bfloat16 weights are used as they are stored; the arithmetic is float32.
With --answers a file of {"id", "answer"} lines made by another program is scored
instead.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import sprites
from turns import prompt_of

TASKS = {"main": "main object, one word", "yesno": "is there a X",
         "choice": "multiple choice, needs the picture",
         "choice_text": "multiple choice, text alone is enough", "read": "read the word",
         "leftright": "left or right", "list": "list the objects (set F1)",
         "describe": "description, objects named (set F1)"}


class Answerer:
    """Greedy answers of the exported model through transformers."""

    def __init__(self, folder):
        self.tools = AutoProcessor.from_pretrained(folder)
        self.model = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32).eval()

    def __call__(self, images, prompts):
        """Answers one prompt for each picture, in one batch."""
        inputs = self.tools(images=images, text=[prompt_of(p) for p in prompts],
                            padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = self.model.generate(**inputs, max_new_tokens=48, do_sample=False)
        new = out[:, inputs["input_ids"].shape[1]:]
        return [t.strip() for t in self.tools.batch_decode(new, skip_special_tokens=True)]


def answer_all(answerer, folder, records, batch=24):
    """The answers to all records; similar lengths are batched together."""
    answers = [None] * len(records)
    order = sorted(range(len(records)),
                   key=lambda i: (len(records[i]["label"]), len(records[i]["prompt"])))
    for start in range(0, len(order), batch):
        chosen = order[start: start + batch]
        images = [Image.open(folder / records[i]["image"]).convert("RGB") for i in chosen]
        for i, text in zip(chosen, answerer(images, [records[i]["prompt"] for i in chosen])):
            answers[i] = text
    return answers


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
    """Rows (name, score, count) for every task, with looks and held-out pictures apart."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("set", type=Path)
    parser.add_argument("--answers", type=Path, help="score these answers instead of running the model")
    parser.add_argument("--save", type=Path, help="write the model's answers here")
    args = parser.parse_args()
    with open(args.set / "questions.jsonl") as file:
        records = [json.loads(line) for line in file]
    if args.answers:
        with open(args.answers) as file:
            given = {r["id"]: r["answer"] for r in map(json.loads, file)}
        answers = [given[r["id"]] for r in records]
    else:
        answers = answer_all(Answerer(args.model), args.set, records)
    if args.save:
        with open(args.save, "w") as file:
            for record, answer in zip(records, answers):
                print(json.dumps({**record, "answer": answer}), file=file)
    print("| task | score | questions |\n| --- | --- | --- |")
    for name, value, count in table(records, list(map(score, records, answers))):
        print(f"| {name} | {100 * value:.1f} % | {count} |")


if __name__ == "__main__":
    main()
