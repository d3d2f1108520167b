"""Writes small LLaVA-1.5 checkpoints of any shape with random bf16 weights, for measurements of time and memory.

The tokenizer and the processor are the bundled model's. Python's standard library only.
"""

import json
import math
import random
import shutil
import struct
from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[2] / "models/pocket-llava"
PATCH = 14
TOWER = {"width": 64, "mlp": 128, "layers": 2, "heads": 2}  # its work is no part of what is measured


def config_of(layers, width, heads, mlp, side):
    """config.json: a decoder of that shape before side x side image tokens."""
    bundled = json.loads((BUNDLED / "config.json").read_text())
    text = {"model_type": "llama", "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
            "vocab_size": bundled["text_config"]["vocab_size"], "bos_token_id": 1, "eos_token_id": 2}
    vision = {"model_type": "clip_vision_model", "hidden_size": TOWER["width"], "intermediate_size": TOWER["mlp"],
              "num_hidden_layers": TOWER["layers"], "num_attention_heads": TOWER["heads"], "image_size": side * PATCH,
              "patch_size": PATCH, "projection_dim": 64}
    return {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "projector_hidden_act": "gelu",
            "image_token_index": bundled["image_token_index"], "image_seq_length": side * side, "text_config": text,
            "vision_config": vision, "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}


def tensors(config):
    """Names, as on the hub, with shapes."""
    text, vision = config["text_config"], config["vision_config"]
    d, f, v = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    dv, fv, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    yield "language_model.model.embed_tokens.weight", (v, d)
    yield "language_model.lm_head.weight", (v, d)
    yield "language_model.model.norm.weight", (d,)
    for i in range(text["num_hidden_layers"]):
        layer = f"language_model.model.layers.{i}."
        yield layer + "input_layernorm.weight", (d,)
        yield layer + "post_attention_layernorm.weight", (d,)
        for name in "qkvo":
            yield layer + f"self_attn.{name}_proj.weight", (d, d)
        yield layer + "mlp.gate_proj.weight", (f, d)
        yield layer + "mlp.up_proj.weight", (f, d)
        yield layer + "mlp.down_proj.weight", (d, f)
    for number, columns in ((1, dv), (2, d)):
        yield f"multi_modal_projector.linear_{number}.weight", (d, columns)
        yield f"multi_modal_projector.linear_{number}.bias", (d,)
    tower = "vision_tower.vision_model."
    yield tower + "embeddings.class_embedding", (dv,)
    yield tower + "embeddings.patch_embedding.weight", (dv, 3, patch, patch)
    yield tower + "embeddings.position_embedding.weight", ((vision["image_size"] // patch) ** 2 + 1, dv)
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield tower + norm + ".weight", (dv,)
        yield tower + norm + ".bias", (dv,)
    for i in range(vision["num_hidden_layers"]):
        layer = tower + f"encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            yield layer + norm + ".weight", (dv,)
            yield layer + norm + ".bias", (dv,)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield layer + f"self_attn.{name}.weight", (dv, dv)
            yield layer + f"self_attn.{name}.bias", (dv,)
        yield layer + "mlp.fc1.weight", (fv, dv)
        yield layer + "mlp.fc1.bias", (fv,)
        yield layer + "mlp.fc2.weight", (dv, fv)
        yield layer + "mlp.fc2.bias", (dv,)


def values(name, shape, source):
    """bf16 bytes: ones for the weights of norms, else either sign and magnitudes from 1/64 to 1/32."""
    count = math.prod(shape)
    if "norm" in name and name.endswith("weight"):
        return b"\x80\x3f" * count
    exponent = 127 - 6
    low = source.randbytes(count).translate(bytes((exponent & 1) << 7 | b & 127 for b in range(256)))
    high = source.randbytes(count).translate(bytes(b & 128 | exponent >> 1 for b in range(256)))
    out = bytearray(2 * count)
    out[0::2], out[1::2] = low, high
    return bytes(out)


def write(folder, **shape):
    """The checkpoint in `folder`; one that is there and has this shape stays."""
    config = json.dumps(config_of(**shape), indent=1)
    if (folder / "config.json").is_file() and (folder / "config.json").read_text() == config:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    header, at, names = {}, 0, list(tensors(json.loads(config)))
    for name, dims in names:
        end = at + 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, end]}
        at = end
    text, source = json.dumps(header).encode(), random.Random(1)
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in names:
            file.write(values(name, dims, source))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED / name, folder / name)
    px = config_of(**shape)["vision_config"]["image_size"]
    processor = {"size": {"shortest_edge": px}, "crop_size": {"height": px, "width": px}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "config.json").write_text(config)  # last: what it stands beside is whole
    return folder
