"""Stage 2: trains tower, projector and decoder end to end on question turns.

    python3 train.py SCENES TOWER.pt TOKENIZER.json OUT.pt --minutes 60 --csv LOG.csv

Only the answers' tokens count in the loss. Two aids keep it short: the projected
patches learn to name what they show through the token embeddings, and the decoder
first trains four of its layers alone (see model.PocketLlava). Run again with the
same arguments to go on from the last checkpoint. On CPUs start one process for
each core, `OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 train.py ...`: the
processes share their gradients.
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


class PatchNames:
    """The token that names each patch: its object, its word or "background"."""

    def __init__(self, tokenizer, device):
        def of(words):
            ids = [tokenizer.token_to_id("\u2581" + w) for w in words]
            return torch.tensor(ids, device=device)
        self.objects = of(("background", *sprites.NAMES))
        self.words = of(scenes.WORDS)

    def __call__(self, labels):
        classes, words = labels[:, 0], labels[:, 2]
        named = self.objects[classes.clamp(max=len(sprites.NAMES))]
        return torch.where(words >= 0, self.words[words.clamp(min=0)], named)


def turn_accuracy(logits, batch):
    """Per task, the share of turns whose answer tokens are all the most likely ones."""
    wrong = (logits.argmax(-1) != batch.targets).long()
    failed = torch.zeros(int(batch.turns.max()) + 1, dtype=torch.long, device=wrong.device)
    failed.index_add_(0, batch.turns, wrong)
    task = torch.zeros_like(failed).index_copy_(0, batch.turns, batch.tasks)
    right = (failed == 0).float()
    return [(right[task == t].sum().item(), int((task == t).sum()))
            for t in range(len(questions.TASKS))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes")
    parser.add_argument("tower")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--csv", default="train.csv")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--grow-at", type=float, default=0.6, help="progress at which all layers train")
    parser.add_argument("--batch", type=int, default=16, help="pictures per process")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rank = parallel.start()
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(args.tokenizer)
    model = PocketLlava()
    heads = pretrain.PatchHeads(model.shape.tower_width)
    both = nn.ModuleList([model, heads]).to(args.device, torch.bfloat16)
    state = torch.load(args.tower, map_location=args.device)
    model.model.vision_tower.load_state_dict(state["tower"])
    heads.load_state_dict(state["heads"])
    optimiser = Optimiser(both.named_parameters(), args.rate)
    spent, step = 0.0, 0
    if os.path.exists(args.out):
        state = torch.load(args.out, map_location=args.device)
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    rng = np.random.default_rng([args.seed, step, rank])
    source = shards.batches(args.scenes, rng, args.batch)
    packer = Packer(tokenizer, model.shape.image_tokens)
    names = PatchNames(tokenizer, args.device)
    all_layers = tuple(range(model.shape.layers))
    if rank == 0 and not os.path.exists(args.csv):
        with open(args.csv, "w") as log:
            print("step", "seconds", "layers", "loss", "patch_loss", *questions.TASKS, sep=",", file=log)
    tally = np.zeros((len(questions.TASKS), 2))
    sums, counted = np.zeros(2), 0
    started, saved = time.time() - spent, time.time()
    while spent < args.minutes * 60:
        progress = spent / (args.minutes * 60)
        layers = all_layers if progress >= args.grow_at else model.FIRST_LAYERS
        images, labels, facts = next(source)
        pixels = normalise(torch.from_numpy(images).to(args.device)).bfloat16()
        labels = torch.from_numpy(labels.astype(np.int64)).to(args.device)
        batch = packer.pack([questions.turns(rng, scene) for scene in facts], args.device)
        features = model.model.vision_tower(pixels)
        image = model.project(features)
        named = F.cross_entropy(model.name_patches(image).float().flatten(0, 1),
                                names(labels).flatten(), reduction="none")
        weight = torch.where(labels[:, 0].flatten() > 0, 1.0, 0.1)
        patch_loss = pretrain.loss_of(heads(features), labels) + (named * weight).sum() / weight.sum()
        logits = model.decode(image, batch, layers).float()
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        loss = (losses * batch.weights).sum() / batch.weights.sum()
        (loss + (1 - 0.8 * progress) * patch_loss).backward()
        spent = parallel.average(optimiser.parameters, time.time() - started)
        optimiser.step(progress)
        step += 1
        tally += turn_accuracy(logits, batch)
        sums += loss.item(), patch_loss.item()
        counted += 1
        if rank:
            continue
        if step % 50 == 0:
            rates = [f"{right / max(n, 1):.3f}" for right, n in tally]
            row = [step, round(spent), len(layers), *(f"{s / counted:.4f}" for s in sums), *rates]
            with open(args.csv, "a") as log:
                print(*row, sep=",", file=log)
            tally[:], sums[:], counted = 0, 0, 0
        if time.time() - saved > 120:
            save(args.out, model, optimiser, spent, step)
            saved = time.time()
    if rank == 0:
        save(args.out, model, optimiser, spent, step)


def save(path, model, optimiser, spent, step):
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                "spent": spent, "step": step}, f"{path}.part")
    os.replace(f"{path}.part", path)


if __name__ == "__main__":
    main()
