# SPDX-License-Identifier: MIT
"""A tiny InstructBLIP Q-Former with every parameter random, and what transformers makes of it: qformer/qformer.safetensors.

Weights stand under the names of an InstructBLIP checkpoint. Cases: "long" and "short" text, and "none" (BLIP-2's use).
"""
import os

import torch
from torch import nn
from transformers.models.instructblip import modeling_instructblip as hf
from transformers.models.instructblip.configuration_instructblip import InstructBlipQFormerConfig

import common

# Every size differs from every other, so that none can stand for another.
WIDTH, HEADS, LAYERS, CROSS_EVERY, MLP, FEATURE, DECODER, QUERIES, VOCAB, POSITIONS = 12, 3, 3, 2, 20, 10, 14, 5, 17, 9
FEATURE_ROWS = 7
TEXTS = {"long": [1, 16, 0, 5, 11, 2, 9, 14], "short": [3, 16, 8, 3], "none": []}
SLIM = ("hook_embed", "hook_resid_post", "hook_out", "weight", "gradient")     # of the cases after the first


class Model(nn.Module):
    """The part of InstructBlipForConditionalGeneration between tower and decoder."""

    def __init__(self):
        super().__init__()
        config = InstructBlipQFormerConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=MLP,
            hidden_act="gelu", max_position_embeddings=POSITIONS, layer_norm_eps=3e-3, cross_attention_frequency=CROSS_EVERY,
            encoder_hidden_size=FEATURE, attn_implementation="eager")
        self.qformer = hf.InstructBlipQFormerModel(config)
        self.query_tokens = nn.Parameter(torch.empty(1, QUERIES, WIDTH))
        self.language_projection = nn.Linear(WIDTH, DECODER)

    def forward(self, features, ids):
        text = torch.tensor([ids]) if ids else None
        rows = self.qformer(input_ids=text, query_embeds=self.query_tokens, encoder_hidden_states=features[None]).last_hidden_state
        return self.language_projection(rows[:, :QUERIES])[0]


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            norm = "layernorm" in name.lower() and name.endswith("weight")
            std = 0.3 if norm or name.endswith("bias") else 0.7 if "embeddings" in name or name == "query_tokens" else 1.1 / p.shape[-1] ** 0.5
            p.copy_(torch.randn(p.shape, generator=g) * std + norm)


def run(model, features, ids):
    """{site: tensor}, and the gradient of sum(weight * out) by the features."""
    v, handles = {}, []

    def keep(module, name):
        handles.append(module.register_forward_hook(lambda _m, _a, out: v.__setitem__(name, out[0] if isinstance(out, torch.Tensor) else out[1][0])))

    keep(model.qformer.embeddings, "projector.hook_embed")
    for i, layer in enumerate(model.qformer.encoder.layer):
        keep(layer.attention.attention, f"projector.blocks.{i}.attn.hook_pattern")
        keep(layer.attention, f"projector.blocks.{i}.hook_resid_mid")
        keep(layer, f"projector.blocks.{i}.hook_resid_post")
        if layer.has_cross_attention:
            keep(layer.crossattention.attention, f"projector.blocks.{i}.cross.hook_pattern")
    x = features.clone().requires_grad_()
    v["projector.hook_out"] = model(x, ids)
    for h in handles:
        h.remove()
    weight = torch.randn(QUERIES, DECODER, generator=torch.Generator().manual_seed(20 + len(ids)))
    (v["projector.hook_out"] * weight).sum().backward()
    return {**v, "weight": weight, "gradient": x.grad}


def check(cases):
    """The text matters, attention is neither flat nor a single choice, every feature row has a gradient."""
    long, *others = (v["projector.hook_out"] for v in cases.values())
    assert all((long - other).abs().max() > 0.1 * long.abs().max() for other in others)
    for v in cases.values():
        for i in range(0, LAYERS, CROSS_EVERY):
            top = v[f"projector.blocks.{i}.cross.hook_pattern"].max(-1).values
            assert top.max() > 0.6 and top.min() < 0.9
        assert v["gradient"].abs().amax(1).min() > 0.02 * v["gradient"].abs().max()


def make(out):
    torch.manual_seed(0)
    model = Model().eval()
    randomise(model, 3)
    features = torch.randn(FEATURE_ROWS, FEATURE, generator=torch.Generator().manual_seed(4))
    cases = {name: run(model, features, ids) for name, ids in TEXTS.items()}
    check(cases)
    arrays = {**dict(model.named_parameters()), "n_head": [HEADS], "cross_every": [CROSS_EVERY],
              "eps": [model.qformer.config.layer_norm_eps], "features": features}
    for name, v in cases.items():
        arrays.update({f"{name}/{site}": t for site, t in v.items() if name == "long" or site.endswith(SLIM)})
        if TEXTS[name]:
            arrays[f"{name}/ids"] = TEXTS[name]
    folder = os.path.join(out, "qformer")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "qformer.safetensors")
    common.write_arrays(path, arrays)
    assert os.path.getsize(path) < 60_000, os.path.getsize(path)
