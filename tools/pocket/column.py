"""Writes each patch's column into a checkpoint whose tower has lost it. Used once for the bundled weights.

    python3 column.py CHECKPOINT.pt SCENES/0000.shard TOKENIZER.json OUT.pt

One coordinate of the tower's residual stream, the least used one, is cleared and
carries the column from the position embeddings to the features; one unit of the
projector, again the least used one, adds it to the projected patch along the
difference of the embeddings of "right" and "left". All else stays; training goes
on from OUT.pt and may change any of it.
"""

import pickle
import sys

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

import pretrain
from model import PocketLlava, normalise
from scenes import GRID

SLOPE = 3.3  # of the projected patch, for each column
ENTRY = 0.7  # of the position embedding, for each column
LINEAR = 4.0  # far enough from zero for GELU to be straight
STEP = 0.3  # of the projector's unit, for each column
TOWER, PROJECTOR = "0.model.vision_tower.", "0.model.multi_modal_projector."


class Checkpoint:
    """The float32 masters of a checkpoint by name, and a model to run them in."""

    def __init__(self, path, shard):
        self.state = torch.load(path, map_location="cpu")
        model = PocketLlava()
        self.both = nn.ModuleList([model, pretrain.PatchHeads(model.shape.tower_width)])
        self.names = [name for name, _ in self.both.named_parameters()]
        self.p = dict(zip(self.names, self.state["optimiser"]["masters"]))
        self.column = torch.arange(GRID * GRID) % GRID - (GRID - 1) / 2
        with open(shard, "rb") as file:
            self.pixels = normalise(torch.from_numpy(pickle.load(file)["images"][:64]))

    def features(self):
        """The features of some pictures."""
        for name, parameter in self.both.named_parameters():
            parameter.copy_(self.p[name])
        return self.both[0].model.vision_tower(self.pixels)

    def layers(self):
        return [f"{TOWER}encoder.layers.{i}." for i in range(self.both[0].shape.tower_layers - 1)]

    def save(self, path):
        self.state["model"] = {n[2:]: self.p[n].bfloat16() for n in self.names if n.startswith("0.")}
        torch.save(self.state, path)


READERS = (("layer_norm1", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
           ("layer_norm2", ("mlp.fc1",)))
WRITERS = ("self_attn.out_proj", "mlp.fc2")


def least_used(c, features):
    """The coordinate that the tower's layers and the projector read least."""
    spread = features.std((0, 1))
    read = sum(c.p[f"{layer}{norm}.weight"].abs() * c.p[f"{layer}{name}.weight"].norm(dim=0)
               for layer in c.layers() for norm, names in READERS for name in names)
    projected = c.p[f"{PROJECTOR}linear_1.weight"].norm(dim=0) * spread
    return int((read * spread / features.std() + 5 * projected).argmin())


def reserve(c, k, mean):
    """Clears coordinate k of the tower's stream and writes the column into it."""
    p = c.p
    p[f"{PROJECTOR}linear_1.bias"] += p[f"{PROJECTOR}linear_1.weight"][:, k] * mean
    p[f"{PROJECTOR}linear_1.weight"][:, k] = 0
    p[f"{TOWER}embeddings.patch_embedding.weight"][k] = 0
    p[f"{TOWER}embeddings.class_embedding"][k] = 0
    p[f"{TOWER}embeddings.position_embedding.weight"][:, k] = F.pad(c.column * ENTRY, (1, 0))
    p[f"{TOWER}pre_layrnorm.weight"][k] = 1
    p[f"{TOWER}pre_layrnorm.bias"][k] = 0
    for layer in c.layers():
        for name in (name for _, names in READERS for name in names):
            p[f"{layer}{name}.weight"][:, k] = 0
        for name in WRITERS:
            p[f"{layer}{name}.weight"][k] = 0
            p[f"{layer}{name}.bias"][k] = 0
    p["1.out.weight"][:, k] = 0


def pass_on(c, k, unit, tokenizer):
    """Makes the projector's unit add the column along "right" minus "left"."""
    p = c.p
    per_column = (c.features()[..., k] @ c.column).mean() / c.column.square().sum()
    words = p["0.model.language_model.embed_tokens.weight"]
    left, right = (words[tokenizer.token_to_id("\u2581" + w)] for w in ("left", "right"))
    direction = F.normalize(right - left, dim=0) * SLOPE / STEP
    p[f"{PROJECTOR}linear_1.weight"][unit] = 0
    p[f"{PROJECTOR}linear_1.weight"][unit, k] = STEP / per_column
    p[f"{PROJECTOR}linear_1.bias"][unit] = LINEAR
    p[f"{PROJECTOR}linear_2.weight"][:, unit] = direction
    p[f"{PROJECTOR}linear_2.bias"] -= direction * LINEAR


@torch.no_grad()
def main():
    checkpoint, shard, tokenizer, out = sys.argv[1:]
    c = Checkpoint(checkpoint, shard)
    features = c.features()
    hidden = F.gelu(F.linear(features, c.p[f"{PROJECTOR}linear_1.weight"],
                             c.p[f"{PROJECTOR}linear_1.bias"]))
    k = least_used(c, features)
    outward = c.p[f"{PROJECTOR}linear_2.weight"]
    unit = int((hidden.std((0, 1)) * outward.norm(dim=0)).argmin())
    c.p[f"{PROJECTOR}linear_2.bias"] += outward[:, unit] * hidden.mean((0, 1))[unit]
    reserve(c, k, features.mean((0, 1))[k])
    pass_on(c, k, unit, Tokenizer.from_file(tokenizer))
    c.save(out)
    print(f"coordinate {k} of the tower, unit {unit} of the projector")


if __name__ == "__main__":
    main()
