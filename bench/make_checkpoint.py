"""Writes a LLaVA-1.5 checkpoint of 7B geometry with random bf16 weights: 32 decoder layers over the tensors of 4, which both
programs repeat as views. About 2.8 GB.

    python bench/make_checkpoint.py /tmp/llava-7b-geometry
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, STORED = 32, 4
TOKENIZER = Path(__file__).resolve().parent.parent / "tests/golden/llava-gqa/tokenizer.json"

CONFIG = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "projector_hidden_act": "gelu",
    "sightline_layer_period": STORED,
    "text_config": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": LAYERS,
                    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "rms_norm_eps": 1e-5,
                    "max_position_embeddings": 4096},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                      "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
                      "projection_dim": 768},
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}


def tensors():
    """Names (as on the hub) with shapes, in order."""
    text, vision = CONFIG["text_config"], CONFIG["vision_config"]
    d, f, v = text["hidden_size"], text["intermediate_size"], text["vocab_size"]
    dv, fv = vision["hidden_size"], vision["intermediate_size"]
    yield "language_model.model.embed_tokens.weight", (v, d)
    yield "language_model.lm_head.weight", (v, d)
    yield "language_model.model.norm.weight", (d,)
    for i in range(STORED):
        p = f"language_model.model.layers.{i}."
        yield p + "input_layernorm.weight", (d,)
        yield p + "post_attention_layernorm.weight", (d,)
        for name in "qkvo":
            yield p + f"self_attn.{name}_proj.weight", (d, d)
        yield p + "mlp.gate_proj.weight", (f, d)
        yield p + "mlp.up_proj.weight", (f, d)
        yield p + "mlp.down_proj.weight", (d, f)
    p = "multi_modal_projector."
    yield p + "linear_1.weight", (d, dv)
    yield p + "linear_1.bias", (d,)
    yield p + "linear_2.weight", (d, d)
    yield p + "linear_2.bias", (d,)
    p = "vision_tower.vision_model."
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    yield p + "embeddings.class_embedding", (dv,)
    yield p + "embeddings.patch_embedding.weight", (dv, 3, vision["patch_size"], vision["patch_size"])
    yield p + "embeddings.position_embedding.weight", (patches + 1, dv)
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield p + norm + ".weight", (dv,)
        yield p + norm + ".bias", (dv,)
    for i in range(vision["num_hidden_layers"]):
        q = p + f"encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            yield q + norm + ".weight", (dv,)
            yield q + norm + ".bias", (dv,)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield q + f"self_attn.{name}.weight", (dv, dv)
            yield q + f"self_attn.{name}.bias", (dv,)
        yield q + "mlp.fc1.weight", (fv, dv)
        yield q + "mlp.fc1.bias", (fv,)
        yield q + "mlp.fc2.weight", (dv, fv)
        yield q + "mlp.fc2.bias", (dv,)


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in tensors():
        value = torch.empty(shape, dtype=torch.float32).normal_(0, 0.02, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value += 1
        weights[name] = value.to(torch.bfloat16)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    image_token = next(t["id"] for t in json.loads(TOKENIZER.read_text())["added_tokens"] if t["content"] == "<image>")
    (out / "config.json").write_text(json.dumps(CONFIG | {"image_token_index": image_token}, indent=1))
    (out / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}))
    shutil.copy(TOKENIZER, out / "tokenizer.json")


if __name__ == "__main__":
    main()
