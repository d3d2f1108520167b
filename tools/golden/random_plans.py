# SPDX-License-Identifier: MIT
"""Random attention plans on the golden folders: the program against transformers, beyond the plans that are stored.

    python3 tools/golden/random_plans.py build/sightline [FOLDER...] [--plans 60] [--seed 1]

Each plan hides random keys from random queries in random layers and heads, rows of the image included. transformers runs whole forward passes with
the same keys masked in its own eager attention, its own causal, windowed or image-wide masks below. Prints the worst distance of the five likeliest
tokens' logits, in parts of the largest logit; ends with status 1 above 1e-5. A row that would see nothing has no agreed meaning: such plans are left
out. Needs torch and transformers.
"""
import argparse
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
FOLDERS = ["llava-gqa", "llava-next-mistral", "llava-next-mistral-window", "internvl-native", "qwen2-vl", "qwen2.5-vl", "smolvlm", "idefics3", "gemma3"]
LIMIT = 1e-5


def patches(px, grid, vision):
    """Qwen2-VL's rows of patches out of pixels [3, height, width]: merged cells together, the picture twice in time."""
    _, rows, cols = grid
    p, m, n = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    x = px.reshape(1, 3, rows * p, cols * p).repeat(n, 1, 1, 1).reshape(1, n, 3, rows // m, m, p, cols // m, m, p)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * cols, -1)


def inputs_of(model, case, px):
    ids = torch.tensor([case["ids"]])
    image = (ids == model.config.image_token_id).int()
    kind = model.config.model_type
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": px if px.dim() == 4 else px[None]}
    if kind == "llava_next":
        return {**out, "pixel_values": out["pixel_values"][None], "image_sizes": torch.tensor([case["size"]])}
    if kind in ("idefics3", "smolvlm"):
        return {**out, "pixel_values": out["pixel_values"][None]}
    if kind == "gemma3":
        return {**out, "token_type_ids": image}
    if "grid" in case:
        return {**out, "pixel_values": patches(px, case["grid"], model.config.vision_config), "image_grid_thw": torch.tensor([case["grid"]]), "mm_token_type_ids": image}
    return out


class Reference:
    """Logits of the last row with keys hidden: hide[layer] is a mask [H, T, T]. To be closed: it changes a module of transformers."""

    def __init__(self, folder, case):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        self.inputs = inputs_of(self.model, case, load_file(os.path.join(folder, "golden.safetensors"))["c0/pixels"].float())
        text = getattr(self.model.model, "language_model", None) or self.model.model.text_model
        self.n_layer, self.n_head = len(text.layers), self.model.config.get_text_config().num_attention_heads
        self.attention = type(text.layers[0].self_attn)
        self.module = importlib.import_module(self.attention.__module__)
        self.eager, self.hide, self.blind = self.module.eager_attention_forward, {}, False
        self.module.eager_attention_forward = self.forward

    def close(self):
        self.module.eager_attention_forward = self.eager

    def forward(self, module, query, key, value, attention_mask, **kw):
        if isinstance(module, self.attention) and module.layer_idx in self.hide:
            lowest = torch.finfo(attention_mask.dtype).min
            attention_mask = attention_mask[..., :key.shape[-2]].expand(-1, query.shape[1], -1, -1).clone()
            attention_mask[0][self.hide[module.layer_idx]] = lowest
            self.blind |= bool((attention_mask <= lowest / 2).all(-1).any())
        return self.eager(module, query, key, value, attention_mask, **kw)

    def logits(self, hide):
        self.hide, self.blind = hide, False
        with torch.no_grad():
            return self.model(**self.inputs).logits[0, -1]


def some(r, low, end):
    first = r.randrange(low, end)
    return list(range(first, r.randrange(first, end) + 1)) if r.random() < .3 else [i for i in range(low, end) if r.random() < .4] or [low]


def random_plan(r, ref, case):
    first, n = case["image_first"], len(case["ids"])
    image = (first, first + case["image_count"])
    return [{"layers": some(r, 0, ref.n_layer), "heads": some(r, 0, ref.n_head) if r.random() < .5 else list(range(ref.n_head)),
             "queries": some(r, *(image if r.random() < .6 else (1, n))), "keys": some(r, *(image if r.random() < .6 else (1, n))), "source": "hidden"}
            for _ in range(r.randint(1, 3))]


def masks(rules, ref, n):
    hide = {}
    for rule in rules:
        at = torch.meshgrid(*(torch.tensor(rule[k]) for k in ("heads", "queries", "keys")), indexing="ij")
        for layer in rule["layers"]:
            hide.setdefault(layer, torch.zeros(ref.n_head, n, n, dtype=torch.bool))[at] = True
    return hide


def under_plan(program, folder, case, rules, path):
    """[(token, logit)] of the likeliest first tokens, as the program has them under the plan."""
    with open(path, "w") as f:
        json.dump({"attend": rules}, f)
    asked = ["--prompt", case["question"]] if case.get("question") else ["--prompt", case["prompt"], "--raw-prompt"]
    done = subprocess.run([program, "ask", "--model", folder, "--image", os.path.join(folder, case["picture"]), *asked, "--plan", path, "--max-tokens", "1",
                           "--dtype", "f32", "--threads", "1", "--quiet", "--json"], stdout=subprocess.PIPE, check=True)
    tokens = json.loads(done.stdout)["plan_answer"]["tokens"]
    return [(x["id"], x["logit"]) for x in tokens[0]["top"]] if tokens else []


def check(program, name, n_plan, seed):
    folder = os.path.join(GOLDEN, name)
    with open(os.path.join(folder, "golden.json")) as f:
        case = json.load(f)["cases"]["c0"]
    ref, r, worst, done, moved = Reference(folder, case), random.Random(f"{name} {seed}"), 0.0, 0, 0
    case.setdefault("image_first", case["ids"].index(ref.model.config.image_token_id))
    case.setdefault("image_count", case["ids"].count(ref.model.config.image_token_id))
    plain = ref.logits({})
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(n_plan):
            rules = random_plan(r, ref, case)
            want = ref.logits(masks(rules, ref, len(case["ids"])))
            got = [] if ref.blind else under_plan(program, folder, case, rules, os.path.join(scratch, "plan.json"))
            if not got:
                continue
            off = max(abs(float(want[token]) - logit) for token, logit in got) / float(want.abs().max())
            worst, done, moved = max(worst, off), done + 1, moved + (float((want - plain).abs().max() / plain.abs().max()) > 1e-3)
            if off > LIMIT:
                print(f"{name}: off by {off:.2g}: {json.dumps(rules)}")
    ref.close()
    print(f"{name}: {done} plans, {moved} of them change the logits; worst {worst:.2g} of the largest", flush=True)
    return worst <= LIMIT and moved > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("folders", nargs="*", default=FOLDERS)
    parser.add_argument("--plans", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return 0 if all([check(args.program, name, args.plans, args.seed) for name in args.folders]) else 1


if __name__ == "__main__":
    sys.exit(main())
