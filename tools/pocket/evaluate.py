"""Scores an exported model with transformers on a folder written by eval_set.py.

    python3 evaluate.py MODEL SET

The bfloat16 weights are used as they are stored; the arithmetic is float32. answer.py does the same
through sightline.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import scoring
from turns import prompt_of


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("set", type=Path)
    parser.add_argument("--save", type=Path, help="write the model's answers here")
    args = parser.parse_args()
    records = scoring.read_records(args.set)
    answers = answer_all(Answerer(args.model), args.set, records)
    if args.save:
        with open(args.save, "w") as file:
            for record, answer in zip(records, answers):
                print(json.dumps({**record, "answer": answer}), file=file)
    scoring.print_table(records, answers)


if __name__ == "__main__":
    main()
