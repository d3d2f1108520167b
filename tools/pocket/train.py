"""Stage 2: trains tower, projector and decoder end to end on question turns.

    python3 train.py SCENES TOWER.pt TOKENIZER.json OUT.pt --steps 6000 --csv LOG.csv

Only the answers' tokens count in the loss. Three aids keep it short: the tower
goes on labelling its patches, the projected patches learn to name what they show
and on which side they are through the token embeddings, and the decoder first
trains four of its layers alone (see model.PocketLlava). Run again with the same
arguments to go on from the last checkpoint.
"""

import os

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
from progress import Clock, Log, save
from turns import Packer

COLUMNS = ("layers", "loss", "patch_loss", *questions.TASKS)


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
    """Per task, how many turns have all their answer tokens as the most likely ones, of how many."""
    wrong = (logits.argmax(-1) != batch.targets).long()
    failed = torch.zeros(int(batch.turns.max()) + 1, dtype=torch.long, device=wrong.device)
    failed.index_add_(0, batch.turns, wrong)
    task = torch.zeros_like(failed).index_copy_(0, batch.turns, batch.tasks)
    right = (failed == 0).float()
    return ([right[task == t].sum().item() for t in range(len(questions.TASKS))],
            [int((task == t).sum()) for t in range(len(questions.TASKS))])


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

    def save(self, path, spent):
        save(path, {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(),
                    "spent": spent, "step": self.step})


def work(rank, args):
    parallel.use(args.device)
    torch.manual_seed(args.seed)
    trainer = Trainer(args)
    source = shards.Source(args.scenes, args.seed, rank, parallel.share(args.batch))
    log = Log(args.csv, COLUMNS, args.every, trainer.step) if rank == 0 else None
    clock = Clock(trainer.spent, args.save_s)
    while trainer.step < args.steps:
        grown = trainer.step / args.steps >= args.grow_at
        layers = tuple(range(trainer.model.shape.layers)) if grown else PocketLlava.FIRST_LAYERS
        images, labels, facts = source.batch(trainer.step)
        rng = np.random.default_rng([args.seed, rank, trainer.step])
        asked = [questions.turns(rng, scene) for scene in facts]
        loss, patch_loss, (right, of) = trainer.losses(images, labels, asked, layers)
        (loss + patch_loss).backward()
        parallel.average(trainer.optimiser.parameters)
        trainer.step += 1
        trainer.optimiser.step(trainer.step / args.steps)
        if rank:
            continue
        clock.tick()
        wrote = log.add(trainer.step, clock.spent, [len(layers), loss.item(), patch_loss.item(), *right],
                        [1, 1, 1, *of])
        if trainer.step == args.steps or (wrote and clock.is_due()):
            trainer.save(args.out, clock.spent)


def main():
    parser = pretrain.stage_options(__doc__.splitlines()[0], 6000, 16, 1e-3)
    for name in ("scenes", "tower", "tokenizer", "out"):
        parser.add_argument(name)
    parser.add_argument("--grow-at", type=float, default=0.15, help="share of the steps after which all layers train")
    args = parser.parse_args()
    parallel.run(work, args, args.processes)


if __name__ == "__main__":
    main()
