"""Stage 1: trains the vision tower to label its patches.

    python3 pretrain.py SCENES OUT.pt --steps 2500 --csv LOG.csv

Each patch feature of the layer LLaVA reads predicts the object or letter under
it, whether it belongs to the main object, a small one or a word, which word, and
in which column and row the patch is: without the last two the features forget
the place, which the questions about left and right need. Run again with the same
arguments to go on from the last checkpoint.
"""

import argparse
import os

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
from progress import Clock, Log, save

COLUMNS = ("loss", "object", "letter", "word", "column", "row")


class PatchHeads(nn.Module):
    """Linear read-outs of a patch feature; a training aid only."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sizes = (1 + len(sprites.NAMES) + 26, 4, len(scenes.WORDS), scenes.GRID, scenes.GRID)
        self.out = nn.Linear(width, sum(self.sizes))

    def forward(self, x):
        return self.out(self.norm(x)).float().split(self.sizes, -1)


def places(labels):
    """Column and row of every patch of a batch, flat."""
    patch = torch.arange(scenes.GRID ** 2, device=labels.device).expand(len(labels), -1).flatten()
    return patch % scenes.GRID, patch // scenes.GRID


def loss_of(outputs, labels):
    """Cross entropy of classes, roles, words and places; the classes of background patches count little."""
    classes, roles, words = (labels[:, i].flatten() for i in range(3))
    column, row = places(labels)
    weight = torch.where(classes > 0, 1.0, 0.1)
    flat = [o.flatten(0, 1) for o in outputs]
    loss = (F.cross_entropy(flat[0], classes, reduction="none") * weight).sum() / weight.sum()
    loss = loss + 0.3 * F.cross_entropy(flat[1], roles)
    if (words >= 0).any():
        loss = loss + 0.5 * F.cross_entropy(flat[2], words, ignore_index=-1)
    return loss + 0.2 * F.cross_entropy(flat[3], column) + 0.2 * F.cross_entropy(flat[4], row)


def tally(outputs, labels):
    """For each share of COLUMNS behind the loss: how many patches were labelled rightly, of how many."""
    classes, words = labels[:, 0].flatten(), labels[:, 2].flatten()
    column, row = places(labels)
    first, _, third, fourth, fifth = (o.flatten(0, 1).argmax(-1) for o in outputs)
    is_object, is_letter = (classes > 0) & (classes <= len(sprites.NAMES)), words >= 0
    everywhere = torch.ones_like(is_object)
    cases = ((first == classes, is_object), (first == classes, is_letter), (third == words, is_letter),
             (fourth == column, everywhere), (fifth == row, everywhere))
    return ([(right & asked).sum().item() for right, asked in cases],
            [asked.sum().item() for _, asked in cases])


def work(rank, args):
    parallel.use(args.device)
    torch.manual_seed(args.seed)
    model = PocketLlava()
    heads = PatchHeads(model.shape.tower_width)
    both = nn.ModuleList([model.model.vision_tower, heads]).to(args.device, torch.bfloat16)
    optimiser = Optimiser(both.named_parameters(), args.rate)
    step, spent = 0, 0.0
    if os.path.exists(args.out):
        state = torch.load(args.out, map_location=args.device)
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["spent"]
    source = shards.Source(args.scenes, args.seed, rank, parallel.share(args.batch))
    log, clock = Log(args.csv, COLUMNS, args.every, step) if rank == 0 else None, Clock(spent, args.save_s)
    while step < args.steps:
        images, labels, _ = source.batch(step)
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
        right, asked = tally(outputs, labels)
        clock.tick()
        wrote = log.add(step, clock.spent, [loss.item(), *right], [1, *asked])
        if step == args.steps or (wrote and clock.is_due()):
            save(args.out, {"tower": both[0].state_dict(), "heads": both[1].state_dict(),
                            "optimiser": optimiser.state_dict(), "spent": clock.spent, "step": step})


def stage_options(description, steps, batch, rate):
    """The options that both training stages have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--csv", default="train.csv")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch, help="pictures a step, over all processes")
    parser.add_argument("--rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=25, help="steps from one row of the log to the next")
    parser.add_argument("--save-s", type=float, default=60, help="seconds from one checkpoint to the next, at least")
    parser.add_argument("--processes", type=int, default=1, help="on CPUs: one for each core")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def main():
    parser = stage_options(__doc__.splitlines()[0], 2500, 32, 2e-3)
    parser.add_argument("scenes")
    parser.add_argument("out")
    args = parser.parse_args()
    parallel.run(work, args, args.processes)


if __name__ == "__main__":
    main()
