# SPDX-License-Identifier: MIT
"""A tiny LLaVA whose projector takes several layers of the tower side by side (`vision_feature_layer` as a list).

The list names the deepest layer first, the tower's input, and one layer twice: order, depth and repetition all matter.
"""
import json
import os
import shutil

import torch
from transformers import LlavaForConditionalGeneration

import common
import llava
import text
from common import IMAGE_TOKEN

NAME = "llava-levels"
LAYERS = [-1, 0, 2, 2]
SPEC = dict(
    seed=400, n_vocab=340, pad_to=342, dtype=torch.float16, layout="C", shards=1,
    vision=dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=20, patch_size=5,
                layer_norm_eps=1e-3, projection_dim=16),
    text=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, rms_norm_eps=2e-3,
              rope_parameters={"rope_type": "default", "rope_theta": 700.0}, max_position_embeddings=128, tie_word_embeddings=False),
    top=dict(vision_feature_layer=LAYERS, vision_feature_select_strategy="default"), prep="files")


def make(out):
    d = os.path.join(out, NAME)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    model, tok = llava.build(SPEC, SPEC["seed"])
    llava.write_checkpoint(d, SPEC, model, tok)
    config = os.path.join(d, "config.json")
    with open(config) as f:
        common.write_json(config, {**json.load(f), "vision_feature_layer": LAYERS})
    model = LlavaForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
    assert model.config.vision_feature_layer == LAYERS
    common.save_png(os.path.join(d, "a.png"), common.picture(23, 20, SPEC["seed"]))
    from PIL import Image
    proc = llava.load_processor(d)
    b = proc(images=Image.open(os.path.join(d, "a.png")), text=llava.PROMPTS[0], return_tensors="pt")
    ids, pixels = b["input_ids"][0].tolist(), b["pixel_values"][0]
    logits, v = llava.run(model, ids, pixels)
    new, _ = llava.greedy(model, ids, pixels, llava.N_NEW)
    assert len(set(new)) > 2, new
    answer = new[:llava.N_ANSWER]
    both, w = llava.run(model, ids + answer, pixels, grad=True)
    y = llava.targets(both, len(ids), answer, 0)["sum"]
    sites = [w[f"vision.blocks.{i}.hook_resid_pre"] for i in range(SPEC["vision"]["num_hidden_layers"])]
    arrays = {"c0/ids": torch.tensor(ids), "c0/pixels": pixels, "c0/greedy": torch.tensor(new), "c0/logits": logits[-1:],
              "c0/projector.hook_in": v["projector.hook_in"][0], "c0/projector.hook_out": v["projector.hook_out"][0],
              "c0/grad": torch.stack([g[0] for g in torch.autograd.grad(y, sites)])}
    # The projector's rows are the levels side by side: a wrong order would not go unnoticed.
    with torch.no_grad():
        states = model.model.vision_tower(pixels[None], output_hidden_states=True).hidden_states
    want = torch.cat([states[i][0, 1:] for i in LAYERS], -1)
    assert torch.allclose(arrays["c0/projector.hook_in"], want, atol=1e-6)
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    common.write_json(os.path.join(d, "golden.json"), {
        "about": "Numbers are transformers' in float32 with eager attention; grad: of the answer's logits, at hook_resid_pre of every tower block.",
        "versions": common.versions(), "image_token_id": tok.token_to_id(IMAGE_TOKEN), "layers": LAYERS,
        "cases": {"c0": {"picture": "a.png", "prompt": llava.PROMPTS[0], "ids": ids, "image_first": ids.index(tok.token_to_id(IMAGE_TOKEN)),
                         "image_count": 16, "greedy": new, "answer": answer}}})
    for f in os.listdir(d):
        os.chmod(os.path.join(d, f), 0o644)
    print(NAME, new, sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d)) // 1024, "KiB")
