# SPDX-License-Identifier: MIT
"""PyTorch checkpoint files for tests/test_torch.c and tests/test_convert.py (tests/golden/torch).

    kinds.bin, kinds.safetensors   the same tensors, once as torch.save and once as safetensors writes them
    sharded/, sharded.safetensors  a module's state dict in two files and an index, as save_pretrained wrote them
    legacy.bin protocol4.bin module.bin uint16.bin   what must be refused
    delta/ base/ convert.json      a model, a delta against it, and the digests of what torch makes of them
"""
import collections
import hashlib
import json
import os

import torch
from safetensors.torch import save_file

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def random(generator, *shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


def kinds(g):
    """Everything that a folder of weights may hold, by the name that sightline should give it."""
    f32 = random(g, 3, 5)
    shared = random(g, 12, dtype=torch.float16)
    flat = {
        "f32": f32, "f16": random(g, 2, 3, dtype=torch.float16), "bf16": random(g, 7, dtype=torch.bfloat16),
        "f64": random(g, 2).double(), "i64": torch.arange(-2, 4).reshape(1, 6), "i32": torch.tensor([7, -7], dtype=torch.int32),
        "i16": torch.tensor([-300], dtype=torch.int16), "i8": torch.tensor([-3, 3], dtype=torch.int8),
        "u8": torch.tensor([250], dtype=torch.uint8), "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "six": random(g, 1, 2, 1, 2, 1, 2),
        "whole": shared, "same": shared, "part": shared[4:9], "rows": f32[1:3], "folded": shared.view(3, 4),
        "transposed": f32.t(), "column": f32[:, 2], "stepped": shared[1::3], "expanded": f32[0:1].expand(2, 5),
        "turned": random(g, 2, 3, 4).permute(2, 0, 1), "parameter": torch.nn.Parameter(random(g, 4)),
        "frozen": torch.nn.Parameter(random(g, 2).half(), requires_grad=False),
        "gelb\u00e4\u4e00": random(g, 1),
    }
    inner = collections.OrderedDict({"weight": random(g, 2, 2), "deeper": {"bias": random(g, 2)}})
    saved = {**flat, "model": inner, "epoch": 3, "rate": 1e-4, "big": 1 << 40, "name": "x", "none": None, "list": [1, (2,)], "flag": True}
    return saved, {**flat, "model.weight": inner["weight"], "model.deeper.bias": inner["deeper"]["bias"]}


def sharded(out, g):
    """The tensors lie in the files as save_pretrained shared them out; one of them is missing in the index."""
    model = torch.nn.Sequential(collections.OrderedDict(first=torch.nn.Linear(3, 4), second=torch.nn.LayerNorm(4)))
    for p in model.parameters():
        p.data = random(g, *p.shape)
    state = model.half().state_dict()
    first = collections.OrderedDict((k, v) for k, v in state.items() if k.startswith("first"))
    first._metadata = state._metadata
    second = {k: v for k, v in state.items() if k not in first}
    names = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
    os.makedirs(f"{out}/sharded", exist_ok=True)
    torch.save(first, f"{out}/sharded/{names[0]}")
    torch.save({**second, "extra.inv_freq": torch.ones(2)}, f"{out}/sharded/{names[1]}")
    weight_map = {**dict.fromkeys(first, names[0]), **dict.fromkeys(second, names[1])}
    write_json(f"{out}/sharded/pytorch_model.bin.index.json", {"metadata": {"total_size": sum(2 * v.numel() for v in state.values())}, "weight_map": weight_map})
    save_file({**state, "extra.inv_freq": torch.ones(2)}, f"{out}/sharded.safetensors")


def refused(out):
    torch.save({"a": torch.ones(3)}, f"{out}/legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(3)}, f"{out}/protocol4.bin", pickle_protocol=4)
    torch.save(torch.nn.Linear(1, 1), f"{out}/module.bin")
    torch.save({"a": torch.tensor([1], dtype=torch.uint16)}, f"{out}/uint16.bin")


def digest(tensor):
    name = {v: k for k, v in DTYPES.items()}.get(tensor.dtype, "I64")
    return [name, list(tensor.shape), hashlib.sha256(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]]


def model_and_delta(g):
    """A vocabulary that grew, one type for the delta and several for the base; more elements than are summed at a time."""
    base = {"model.embed_tokens.weight": random(g, 70, 60, dtype=torch.float16), "lm_head.weight": random(g, 5, 4, dtype=torch.bfloat16),
            "model.layers.0.self_attn.q_proj.weight": random(g, 4, 4, dtype=torch.float16),
            "model.layers.0.mlp.up_proj.weight": random(g, 4, 3), "model.norm.weight": random(g, 4, dtype=torch.float16),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.01])}
    delta = {k: random(g, *v.shape, dtype=torch.float16, scale=0.01) for k, v in base.items() if "inv_freq" not in k}
    for name, n in (("model.embed_tokens.weight", 2), ("lm_head.weight", 3)):
        delta[name] = torch.cat([delta[name], random(g, n, base[name].shape[1], dtype=torch.float16)])
    delta["model.mm_projector.weight"] = random(g, 4, 3, dtype=torch.float16)
    delta["model.mm_projector.bias"] = random(g, 4, dtype=torch.float16)
    return base, delta


def add(base, delta):
    """The sums in f32, before they are rounded."""
    out = {}
    for name, d in delta.items():
        out[name] = d.float()
        if name in base:
            rows = base[name].shape[0]
            out[name][:rows] += base[name].float()
    return out


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def convert(out, g):
    base, delta = model_and_delta(g)
    os.makedirs(f"{out}/base", exist_ok=True)
    os.makedirs(f"{out}/delta", exist_ok=True)
    torch.save(base, f"{out}/base/pytorch_model.bin")
    torch.save(collections.OrderedDict(delta), f"{out}/delta/pytorch_model.bin")
    with open(f"{out}/delta/config.json", "w") as f:
        f.write('{"model_type": "shikra", "rms_norm_eps": 1e-06, "torch_dtype": "float16",\n "why": "a \\"torch_dtype\\": \\"float16\\" in text stays"}\n')
    total = add(base, delta)
    saved = kinds(torch.Generator().manual_seed(1))[1]
    digests = {"delta": {n: {k: digest(v.to(t)) for k, v in total.items()} for n, t in DTYPES.items()},
               "plain": {n: {k: digest(v.detach().to(t)) for k, v in saved.items() if v.is_floating_point()} for n, t in DTYPES.items()}}
    write_json(f"{out}/convert.json", digests)


def make(out):
    out = os.path.join(out, "torch")
    os.makedirs(out, exist_ok=True)
    saved, expected = kinds(torch.Generator().manual_seed(1))
    torch.save(saved, f"{out}/kinds.bin")
    save_file({k: v.detach().contiguous().clone() for k, v in expected.items()}, f"{out}/kinds.safetensors")
    sharded(out, torch.Generator().manual_seed(2))
    refused(out)
    convert(out, torch.Generator().manual_seed(3))
