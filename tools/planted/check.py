#!/usr/bin/env python3
"""Holds transformers to truth.json: opens the folders, asks the question, zeroes every head's output after the image.

    python3 tools/planted/check.py FOLDER...      needs torch, transformers and Pillow

Prints, for each folder, the largest differences from the truth: of the answer's logit, of what each head alone takes away,
of attention on the image. Zeroing a head's output hides the image from it in all kinds but for the second head of `path`.
"""

import json
import os
import sys

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

WIDTH = 8  # of a head


class Folder:
    def __init__(self, path):
        self.model = LlavaForConditionalGeneration.from_pretrained(path, attn_implementation="eager").eval()
        processor = AutoProcessor.from_pretrained(path)
        with open(os.path.join(path, "truth.json"), encoding="utf-8") as f:
            self.truth = json.load(f)
        prompt = "USER: <image>\n%s ASSISTANT:" % self.truth["question"]
        picture = Image.open(os.path.join(path, self.truth["picture"]))
        self.inputs = processor(images=picture, text=prompt, return_tensors="pt")
        self.answer = processor.tokenizer.convert_tokens_to_ids("\u2581" + self.truth["answer"])
        image = self.inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<image>")
        self.image, self.first = image, int(image.nonzero().max()) + 1

    @torch.no_grad()
    def run(self, heads):
        """The answer's logit with these heads' outputs zeroed after the image, and the attentions."""
        def cut(layer):
            def hook(_, args):
                x = args[0].clone()
                for l, h in heads:
                    if l == layer:
                        x[:, self.first:, WIDTH * h:WIDTH * (h + 1)] = 0
                return (x, *args[1:])
            return hook

        layers = self.model.model.language_model.layers
        hooks = [block.self_attn.o_proj.register_forward_pre_hook(cut(l)) for l, block in enumerate(layers)]
        out = self.model(**self.inputs, output_attentions=True)
        for hook in hooks:
            hook.remove()
        return float(out.logits[0, -1, self.answer]), out.attentions

    def check(self):
        t = self.truth
        every = [(l, h) for l in range(t["layers"]) for h in range(t["heads"])]
        relayed = [(p["layer"], p["head"]) for p in t.get("path", [])[1:]]
        full, attentions = self.run([])
        none, _ = self.run(every)
        logit = max(abs(full - t["target_all"]), abs(none - t["target_none"]))
        single = max(abs(full - self.run([at])[0] - t["single"][at[0]][at[1]]) for at in every if at not in relayed)
        seen = lambda l, h: float(attentions[l][0, h, self.first:][:, self.image].sum(-1).mean())
        attention = max(abs(seen(l, h) - t["attention"][l][h]) for l, h in every)
        return logit, single, attention


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        print("%s: logit %.1e, single heads %.1e, attention %.1e" % (path, *Folder(path).check()), flush=True)


if __name__ == "__main__":
    main()
