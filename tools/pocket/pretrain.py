"""Stage 1: trains the vision tower to label its patches.

    python3 pretrain.py SCENES OUT.pt --steps 2500

Each patch feature of the layer LLaVA reads predicts the object or letter under
it, whether it belongs to the main object, a small one or a word, and which word.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import parallel
import scenes
import shards
import sprites
from model import PocketLlava, normalise
from optimiser import Optimiser


class PatchHeads(nn.Module):
    """Linear read-outs of a patch feature; used in this stage only."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (1 + len(sprites.NAMES) + 26, 4, len(scenes.WORDS))
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, x):
        return self.out(self.norm(x)).float().split(self.sizes, -1)


def loss_of(outputs, labels):
    """Cross entropy of classes, roles and words; background patches count little."""
    classes, roles, words = (labels[:, i].flatten() for i in range(3))
    weight = torch.where(classes > 0, 1.0, 0.1)
    flat = [o.flatten(0, 1) for o in outputs]
    loss = (F.cross_entropy(flat[0], classes, reduction="none") * weight).sum() / weight.sum()
    loss = loss + 0.3 * F.cross_entropy(flat[1], roles)
    if (words >= 0).any():
        loss = loss + 0.5 * F.cross_entropy(flat[2], words, ignore_index=-1)
    return loss


def report(outputs, labels):
    """Shares of object patches, letter patches and word patches labelled rightly."""
    classes, words = labels[:, 0], labels[:, 2]
    right = outputs[0].argmax(-1) == classes
    word_right = outputs[2].argmax(-1) == words
    is_object = (classes > 0) & (classes <= len(sprites.NAMES))
    return [right[is_object].float().mean().item(), right[words >= 0].float().mean().item(),
            word_right[words >= 0].float().mean().item()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes")
    parser.add_argument("out")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=16, help="pictures per process")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rank = parallel.start()
    torch.manual_seed(args.seed)
    model = PocketLlava()
    heads = PatchHeads(model.shape.tower_width)
    both = nn.ModuleList([model.model.vision_tower, heads]).to(args.device, torch.bfloat16)
    optimiser = Optimiser(both.named_parameters(), args.rate)
    step = 0
    if os.path.exists(args.out):
        state = torch.load(args.out, map_location=args.device)
        optimiser.load_state_dict(state["optimiser"])
        step = state["step"]
    source = shards.batches(args.scenes, np.random.default_rng([args.seed, step, rank]), args.batch)
    saved = time.time()
    while step < args.steps:
        images, labels, _ = next(source)
        pixels = normalise(torch.from_numpy(images).to(args.device)).bfloat16()
        labels = torch.from_numpy(labels.astype(np.int64)).to(args.device)
        outputs = heads(model.model.vision_tower(pixels))
        loss = loss_of(outputs, labels)
        loss.backward()
        parallel.average(optimiser.parameters)
        step += 1
        optimiser.step(step / args.steps)
        if rank:
            continue
        if step % 50 == 0:
            rates = " ".join(f"{v:.3f}" for v in report(outputs, labels))
            print(f"{step} loss {loss.item():.3f} object/letter/word {rates}", flush=True)
        if time.time() - saved > 60:
            save(args.out, both, optimiser, step)
            saved = time.time()
    if rank == 0:
        save(args.out, both, optimiser, step)


def save(path, both, optimiser, step):
    torch.save({"tower": both[0].state_dict(), "heads": both[1].state_dict(),
                "optimiser": optimiser.state_dict(), "step": step}, f"{path}.part")
    os.replace(f"{path}.part", path)


if __name__ == "__main__":
    main()
