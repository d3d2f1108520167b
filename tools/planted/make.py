#!/usr/bin/env python3
"""Makes LLaVA checkpoints whose inner wiring is known, with the truth beside them.

    python3 tools/planted/make.py KIND FOLDER        one of heads, or, and, decoy, token, path, cliff
    python3 tools/planted/make.py all FOLDER         FOLDER/KIND for every kind

Python's standard library only. See README.md for what the kinds are and how to score a tool on them.
"""

import argparse
import os
import sys

import model
from model import ANSWER, HEADS, IMAGE_TOKENS, IS_FIRST, IS_ROLE, LAYERS, NO_LOGIT, RELAY, SUM, UNREAD

QUESTION = "is it lit?"
KEEP = (0.5, 0.75, 0.9)  # keep probabilities that analytic scores are given for


def spread(layer, index, low, high):
    """A number between low and high that looks random and is the same everywhere."""
    mixed = (layer * HEADS + index + 1) * 2654435761 % 2**32
    return low + (high - low) * mixed / 2**32


class Wiring:
    """Heads with what they add to the answer's logit, pairs that interact, and everything else as bystanders: heads that
    look at the picture just as much and write it where nothing reads."""

    def __init__(self):
        self.heads, self.ramps = {}, []
        self.weight, self.pairs, self.share = {}, [], {}

    def carry(self, layer, index, weight, share=None, more=None):
        """An image head that adds `weight` at full brightness."""
        self.share[layer, index] = share or spread(layer, index, 0.1, 0.6)
        self.heads[layer, index] = model.image_head(layer, index, self.share[layer, index],
                                                    {ANSWER: weight, **(more or {})})
        self.weight[layer, index] = weight

    def pair(self, layer, first, second, weight):
        """`weight` on top when both heads (each with {SUM: 1}) carry."""
        self.ramps.append(model.ramp(layer, len(self.ramps), {SUM: 1.0}, 1.0, {ANSWER: weight}))
        self.pairs.append((first, second, weight))

    def fill(self, low=0.05, high=0.6):
        for l in range(LAYERS):
            for h in range(HEADS):
                if (l, h) not in self.heads:
                    self.share[l, h] = spread(l, h, low, high)
                    self.heads[l, h] = model.image_head(l, h, self.share[l, h], {UNREAD + (8 * l + h) % 32: 0.5})

    def grid(self, value):
        return [[value((l, h)) for h in range(HEADS)] for l in range(LAYERS)]

    def score(self, at, q):
        """Coefficient of a head in the regression of t = sum w m + sum a m m' on independent masks of mean q:
        E[t | m = 1] - E[t | m = 0]."""
        return self.weight.get(at, 0.0) + q * sum(a for first, second, a in self.pairs if at in (first, second))

    def truth(self, kind, claim):
        total = sum(self.weight.values()) + sum(a for _, _, a in self.pairs)
        carriers = sorted(self.weight, key=lambda at: -self.weight[at])
        return {"kind": kind, "claim": claim, "question": QUESTION, "picture": "picture.png",
                "calibration": "calibration", "answer": "yes", "contrast": "no", "layers": LAYERS, "heads": HEADS,
                "image_tokens": IMAGE_TOKENS, "target_all": total, "target_none": 0.0, "contrast_logit": NO_LOGIT,
                "carriers": [{"layer": l, "head": h, "weight": self.weight[l, h]} for l, h in carriers],
                "interactions": [{"heads": [first, second], "weight": a} for first, second, a in self.pairs],
                "scores": {str(q): self.grid(lambda at: self.score(at, q)) for q in KEEP},
                "single": self.grid(lambda at: self.score(at, 1.0)),
                "attention": self.grid(lambda at: self.share.get(at)),
                "cliff": 1 + max(l for l, _ in self.weight)}


def plain(x, y):
    return 1.0


def heads_kind():
    w = Wiring()
    for l, h, weight in ((1, 5, 1.2), (2, 2, 1.0), (3, 7, 0.8), (6, 3, 0.5)):
        w.carry(l, h, weight)
    w.carry(4, 0, 0.7, more={SUM: 1.0})
    w.carry(5, 6, 0.6, more={SUM: 1.0})
    w.pair(7, (4, 0), (5, 6), 0.4)
    w.fill()
    return w, plain, w.truth("heads", "exactly these heads carry the picture to the answer; two of them add more together")


def two_heads(kind, claim, weight, both):
    w = Wiring()
    w.carry(2, 1, weight, more={SUM: 1.0})
    w.carry(4, 6, weight, more={SUM: 1.0})
    w.pair(6, (2, 1), (4, 6), both)
    w.fill()
    return w, plain, w.truth(kind, claim)


def or_kind():
    return two_heads("or", "either of two heads is enough: the target saturates, so ablating one alone changes nothing",
                     4.0, -4.0)


def and_kind():
    return two_heads("and", "both of two heads are needed: one alone changes nothing", 0.0, 4.0)


def decoy_kind():
    w = Wiring()
    decoy = (3, 4)
    for l in range(LAYERS):
        for h in range(HEADS):
            if (l, h) != decoy:
                w.carry(l, h, spread(l, h, 0.04, 0.12), spread(h, l, 0.05, 0.5))
    w.share[decoy] = 0.98
    w.heads[decoy] = model.image_head(*decoy, 0.98, {})
    truth = w.truth("decoy", "one head attends to the picture most and writes nothing; every other carries some of it")
    truth["decoy"] = list(decoy)
    return w, plain, truth


def token_kind():
    """One white patch among black ones. Attention is the same on all patches and small, so hiding others hardly changes
    what the white one gets: a score of another is at most `share` / 64 of the white one's."""
    w = Wiring()
    white, share = 27, 0.02
    w.carry(3, 2, 4.0 * IMAGE_TOKENS, share)
    w.fill()
    w.weight[3, 2] = 4.0
    truth = w.truth("token", "one image token alone matters; attention does not tell it from the others")
    truth.update(token=white, token_score=4.0)
    return w, lambda x, y: float(y * model.GRID + x == white), truth


def path_kind():
    w = Wiring()
    relay, last = (2, 3), (5, 5)
    w.carry(*relay, 4.0)
    w.heads[relay] = model.image_head(*relay, w.share[relay], {RELAY: 1.0})
    w.heads[last] = model.head(*last, {IS_ROLE: 24.0, IS_FIRST: 12.0}, {RELAY: 1.0}, {ANSWER: 4.0})
    w.share[last] = 0.0
    w.fill()
    truth = w.truth("path", "the picture reaches the token ASSISTANT first, and the final token from there")
    truth["path"] = [{"edge": "{role, final} <- image", "layer": relay[0], "head": relay[1]},
                     {"edge": "final <- role", "layer": last[0], "head": last[1]}]
    return w, plain, truth


def cliff_kind():
    w = Wiring()
    for l, h, weight in ((0, 6, 1.0), (1, 2, 1.1), (3, 5, 1.2), (4, 1, 1.5)):
        w.carry(l, h, weight)
    w.fill(0.3, 0.7)
    return w, plain, w.truth("cliff", "the picture is used only before layer 5, though later heads look at it")


KINDS = {"heads": heads_kind, "or": or_kind, "and": and_kind, "decoy": decoy_kind, "token": token_kind,
         "path": path_kind, "cliff": cliff_kind}


def make(kind, folder):
    wiring, brightness, truth = KINDS[kind]()
    model.write(folder, wiring.heads.values(), wiring.ramps, brightness, truth)
    return truth


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("folder")
    args = parser.parse_args()
    if args.kind != "all":
        make(args.kind, args.folder)
    else:
        for kind in KINDS:
            make(kind, os.path.join(args.folder, kind))


if __name__ == "__main__":
    sys.exit(main())
