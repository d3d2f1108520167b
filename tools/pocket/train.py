"""Stage 2: trains tower, projector and decoder end to end on question turns.

    python3 train.py SCENES TOWER.pt TOKENIZER.json OUT.pt --steps 6000 --csv LOG.csv

Only the answers' tokens count in the loss. Three aids keep it short: the projected
patches learn to name what they show and on which side they are through the token
embeddings, and the decoder first trains four of its layers alone (see
model.PocketLlava). Run again with the same arguments to go on from the last
checkpoint. On CPUs start one process for each core, `OMP_NUM_THREADS=1 torchrun
--nproc-per-node 2 train.py ...`: the processes share their gradients.
"""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import parallel
import pretrain
import questions
import scenes
import shards
import sprites
from model import PocketLlava, normalise
from optimiser import Optimiser
from turns import Packer

PAUSE = 10  # seconds; a longer step was interrupted and counts as this much

class PatchNames:
    """What a projected patch should say through the token embeddings.

    It names its object, its word or "background", and the words "left" and "right"
    tell on which side of the picture it is, the more clearly the farther out.
    """

    def __init__(self, tokenizer, device):
        def of(words):
            ids = [tokenizer.token_to_id("\u2581" + w) for w in words]
            return torch.tensor(ids, device=device)
        self.objects = of(("background", *sprites.NAMES))
        self.words = of(scenes.WORDS)
        self.left, self.right = of(("left", "right"))
        column = torch.arange(scenes.GRID ** 2, device=device) % scenes.GRID
        self.on_right = torch.sigmoid(column - (scenes.GRID - 1) / 2)

    def __call__(self, labels):
        """The token of each patch's name."""
        classes, words = labels[:, 0], labels[:, 2]
        named = self.objects[classes.clamp(max=len(sprites.NAMES))]
        return torch.where(words >= 0, self.words[words.clamp(min=0)], named)

    def loss(self, logits, labels):
        """Cross entropy of names and sides; background patches count little."""
        weight = torch.where(labels[:, 0] > 0, 1.0, 0.1).flatten()
        named = F.cross_entropy(logits.flatten(0, 1), self(labels).flatten(), reduction="none")
        side = F.binary_cross_entropy_with_logits(
            logits[..., self.right] - logits[..., self.left],
            self.on_right.expand(len(labels), -1), reduction="none").flatten()
        return ((named + side) * weight).sum() / weight.sum()


def turn_accuracy(logits, batch):
    """Per task, the share of turns whose answer tokens are all the most likely ones."""
    wrong = (logits.argmax(-1) != batch.targets).long()
    failed = torch.zeros(int(batch.turns.max()) + 1, dtype=torch.long, device=wrong.device)
    failed.index_add_(0, batch.turns, wrong)
    task = torch.zeros_like(failed).index_copy_(0, batch.turns, batch.tasks)
    right = (failed == 0).float()
    return [(right[task == t].sum().item(), int((task == t).sum()))
            for t in range(len(questions.TASKS))]


class Log:
    """Sums of losses and of right turns, written to the CSV every `every` steps."""

    def __init__(self, path, every=50):
        self.path, self.every = path, every
        self.clear()
        if not os.path.exists(path):
            self._row("step", "seconds", "layers", "loss", "patch_loss", *questions.TASKS)

    def clear(self):
        self.tally, self.losses, self.counted = np.zeros((len(questions.TASKS), 2)), np.zeros(2), 0

    def _row(self, *values):
        with open(self.path, "a") as file:
            print(*values, sep=",", file=file)

    def add(self, step, spent, layers, losses, right):
        self.tally += right
        self.losses += losses
        self.counted += 1
        if step % self.every == 0:
            rates = [f"{good / max(n, 1):.3f}" for good, n in self.tally]
            self._row(step, round(spent), layers, *(f"{s:.4f}" for s in self.losses / self.counted),
                      *rates)
            self.clear()


class Trainer:
    """Model, aids and optimiser; starts from a tower or goes on from a checkpoint."""

    def __init__(self, args):
        tokenizer = Tokenizer.from_file(args.tokenizer)
        self.device = args.device
        self.model = PocketLlava()
        self.heads = pretrain.PatchHeads(self.model.shape.tower_width)
        both = nn.ModuleList([self.model, self.heads]).to(args.device, torch.bfloat16)
        self.packer = Packer(tokenizer, self.model.shape.image_tokens)
        self.names = PatchNames(tokenizer, args.device)
        self.spent, self.step = 0.0, 0
        if os.path.exists(args.out):
            self.optimiser = Optimiser(both.named_parameters(), args.rate)
            state = torch.load(args.out, map_location=args.device)
            self.optimiser.load_state_dict(state["optimiser"])
            self.spent, self.step = state["spent"], state["step"]
        else:
            state = torch.load(args.tower, map_location=args.device)
            self.model.model.vision_tower.load_state_dict(state["tower"])
            self.heads.load_state_dict(state["heads"])
            self.optimiser = Optimiser(both.named_parameters(), args.rate)

    def losses(self, images, labels, asked, layers):
        """Loss of the answers, loss of the patches and the tally of right turns."""
        model = self.model
        pixels = normalise(torch.from_numpy(images).to(self.device)).bfloat16()
        labels = torch.from_numpy(labels.astype(np.int64)).to(self.device)
        batch = self.packer.pack(asked, self.device)
        features = model.model.vision_tower(pixels)
        image = model.project(features)
        patch_loss = (pretrain.loss_of(self.heads(features), labels)
                      + self.names.loss(model.name_patches(image).float(), labels))
        logits = model.decode(image, batch, layers).float()
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        return loss, patch_loss, turn_accuracy(logits, batch)

    def save(self, path):
        torch.save({"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
                    "spent": self.spent, "step": self.step}, f"{path}.part")
        os.replace(f"{path}.part", path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes")
    parser.add_argument("tower")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--csv", default="train.csv")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--grow-at", type=float, default=0.15, help="progress at which all layers train")
    parser.add_argument("--batch", type=int, default=8, help="pictures per process")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main():
    args = arguments()
    rank = parallel.start()
    torch.manual_seed(args.seed)
    trainer = Trainer(args)
    rng = np.random.default_rng([args.seed, trainer.step, rank])
    source = shards.batches(args.scenes, rng, args.batch)
    log = Log(args.csv) if rank == 0 else None
    saved = time.time()
    while trainer.step < args.steps:
        started = time.time()
        progress = trainer.step / args.steps
        grown = progress >= args.grow_at
        layers = tuple(range(trainer.model.shape.layers)) if grown else PocketLlava.FIRST_LAYERS
        images, labels, facts = next(source)
        asked = [questions.turns(rng, scene) for scene in facts]
        loss, patch_loss, right = trainer.losses(images, labels, asked, layers)
        (loss + patch_loss).backward()
        parallel.average(trainer.optimiser.parameters)
        trainer.optimiser.step((trainer.step + 1) / args.steps)
        trainer.step += 1
        trainer.spent += min(time.time() - started, PAUSE)
        if rank:
            continue
        log.add(trainer.step, trainer.spent, len(layers), (loss.item(), patch_loss.item()), right)
        if time.time() - saved > 120:
            trainer.save(args.out)
            saved = time.time()
    if rank == 0:
        trainer.save(args.out)


if __name__ == "__main__":
    main()
