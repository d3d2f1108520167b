# SPDX-License-Identifier: MIT
"""The bundled model on the example pictures: for the first question of each, transformers' greedy answer and the logits that
predict its first token. The bf16 weights are used as they are stored, the arithmetic is float32.
"""
import json
import os

from PIL import Image
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

import common

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MODEL = os.path.join(ROOT, "models", "pocket-llava")
EXAMPLES = os.path.join(ROOT, "examples")


def first_questions():
    """The first question of each example picture, in the file's order."""
    seen, records = set(), []
    with open(os.path.join(EXAMPLES, "questions.jsonl"), encoding="utf-8") as f:
        for record in map(json.loads, f):
            if record["image"] not in seen:
                seen.add(record["image"])
                records.append(record)
    return records


def make(out):
    tools = AutoProcessor.from_pretrained(MODEL, use_fast=False)
    model = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    folder = os.path.join(out, "pocket")
    os.makedirs(folder, exist_ok=True)
    arrays, cases = {}, []
    for i, record in enumerate(first_questions()):
        image = Image.open(os.path.join(EXAMPLES, record["image"])).convert("RGB")
        inputs = tools(images=[image], text=[f"USER: <image>\n{record['prompt']} ASSISTANT:"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1]
            ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1]:]
        ids = [int(t) for t in ids if int(t) != model.generation_config.eos_token_id]
        arrays[f"{i}/logits"] = logits
        cases.append({"image": record["image"], "prompt": record["prompt"], "greedy": ids,
                      "answer": tools.decode(ids, skip_special_tokens=True).strip()})
    common.write_arrays(os.path.join(folder, "golden.safetensors"), arrays)
    common.write_json(os.path.join(folder, "golden.json"), {
        "about": "pocket-llava on the example pictures: logits of the last prompt row, greedy ids without end token.",
        "versions": common.versions(), "cases": cases})
