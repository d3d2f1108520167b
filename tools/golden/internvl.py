# SPDX-License-Identifier: MIT
"""Tiny random InternVL folders: the native layout (Qwen2 text), the remote-code layout (InternLM2 text) and the 6B flavour of the
tower in the remote-code layout (LLaMA text).

All numbers come from transformers' own InternVLForConditionalGeneration; the remote-code folders are the same modules under the
names, fused matrices and settings of the official code (LLaMA is what InternLM2 becomes once its wqkv is taken apart). The
official code itself (OpenGVLab/InternVL, transformers 4.37) was run on both folders: ids, pixels and greedy tokens are the same,
logits to 2e-6 of the largest.
"""
import json
import os
import shutil

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (AutoImageProcessor, AutoProcessor, InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor,
                          InternVLVisionConfig, LlamaConfig, Qwen2Config)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil, get_optimal_tiled_canvas
from transformers.models.internvl import modeling_internvl
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2

import common
import family
import tiny
from internvl_files import ADDED, CONTEXT, MEAN, STD, SYSTEM, TOKENIZERS, TOKENS, disk_weights, token_ids, unpack, write_files

QUESTIONS = ["What is this?", "Is there a cat in the image?"]
# width, height: 1, 3, 3, 5, 7, 7, 7 and 7 views where tiles are dynamic
SIZES = {"a": (20, 20), "b": (61, 26), "c": (26, 61), "d": (40, 40), "e": (90, 8), "f": (7, 66), "g": (45, 30), "h": (27, 36)}
CASES = [("b", 0), ("a", 1), ("c", 1), ("d", 0)]      # c0 has every site
SPECS = {
    "internvl-native": dict(
        seed=1, dtype=torch.bfloat16, layout="native", n_vocab=300, pad_to=304, tiles=(1, 6), all_pictures=True,
        vision=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=[16, 16], patch_size=[4, 4],
                    layer_norm_eps=1e-3, attention_bias=True, use_qk_norm=False, norm_type="layer_norm"),
        text=dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=24, rms_norm_eps=3e-3,
                  rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}, max_position_embeddings=512,
                  tie_word_embeddings=False)),
    "internvl-remote": dict(
        seed=100, dtype=torch.float16, layout="internlm2", n_vocab=436, pad_to=440, tiles=(1, 6), all_pictures=False,
        template="internlm2-chat", ps_version="v2", dynamic=True,
        vision=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=[16, 16], patch_size=[4, 4],
                    layer_norm_eps=2e-3, attention_bias=True, use_qk_norm=False, norm_type="layer_norm"),
        text=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=36, rms_norm_eps=3e-3,
                  rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 700.0}, max_position_embeddings=512,
                  tie_word_embeddings=False)),
    "internvl-6b": dict(
        seed=200, dtype=torch.bfloat16, layout="llama", n_vocab=340, pad_to=350, tiles=(1, 1), all_pictures=False,
        template="Hermes-2", ps_version="v1", dynamic=False, small=0.2, system_message="Look.",
        vision=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, image_size=[16, 16], patch_size=[4, 4],
                    layer_norm_eps=1e-3, attention_bias=False, use_qk_norm=True, norm_type="rms_norm"),
        text=dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=28, rms_norm_eps=2e-3,
                  rope_parameters={"rope_type": "default", "rope_theta": 300.0}, max_position_embeddings=256, tie_word_embeddings=False,
                  attention_bias=False)),
}


# ---------------------------------------------------------------- the model

def attach(r, model):
    m, vision = model.model, model.config.vision_config
    r.out(m.vision_tower.embeddings, "vision.hook_embed")

    def scaled(module, name, factor):      # as it is added to the residual stream
        r.handles.append(module.register_forward_hook(lambda _m, _a, out: r.v.__setitem__(name, out * factor)))
    for i, b in enumerate(m.vision_tower.encoder.layer):
        p, a = f"vision.blocks.{i}.", b.attention
        r.inp(b, p + "hook_resid_pre")
        r.out(b.layernorm_before, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(a, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(a.projection_layer, p + "attn.hook_z")
        scaled(a.projection_layer, p + "hook_attn_out", b.lambda_1)
        r.inp(b.layernorm_after, p + "hook_resid_mid")
        r.out(b.layernorm_after, p + "ln2.hook_normalized")
        r.out(b.mlp.fc1, p + "mlp.hook_pre")
        r.inp(b.mlp.fc2, p + "mlp.hook_post")
        scaled(b.mlp.fc2, p + "hook_mlp_out", b.lambda_2)
        r.out(b, p + "hook_resid_post")
        r.names[id(a)] = p
    r.watch(modeling_internvl, lambda p, q, k, w, s: r.v.__setitem__(p + "attn.hook_pattern", w[0]))
    pr = m.multi_modal_projector
    r.inp(pr.layer_norm, "projector.hook_in")
    r.out(pr.layer_norm, "projector.ln.hook_normalized")
    r.out(pr.linear_1, "projector.hook_pre")
    r.inp(pr.linear_2, "projector.hook_post")
    r.out(pr.linear_2, "projector.hook_out")
    family.attach_llama(r, m.language_model, modeling_qwen2 if isinstance(m.language_model.config, Qwen2Config) else modeling_llama)


def parts(model):
    v = model.config.vision_config
    return tiny.Parts(model.model.language_model, model.lm_head, attach, v.num_attention_heads, v.num_hidden_layers)


def spread(qk_norm, small):
    """Sizes that make mistakes visible: small activations (so eps matters), peaked attention. `small` multiplies what a tower writes into
    its residual stream: with RMS norms in the blocks the projector's LayerNorm is the only one, and its eps is 1e-5."""
    gains = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 0.5, "projection_layer": 0.4, "o_proj": 0.5, "gate_proj": 0.9, "up_proj": 0.9, "fc1": 0.9,
             "down_proj": 0.4, "fc2": 0.4, "linear_1": 0.8, "linear_2": 0.3}

    def f(name, p):
        vision, fan = "vision_tower" in name, p[0].numel() ** 0.5
        shrink = small if vision and any(x in name for x in ("embeddings", "cls_token", "projection_layer", "fc2")) else 1.0
        if "lambda_" in name:
            return 0.3, 0.8
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            return 0.3, 1.5
        if "norm" in name and name.endswith("weight"):
            return 0.2, 1.0
        if name.endswith("bias"):
            return shrink * (0.02 if vision and "attention" not in name else 0.08), 0.0
        if "cls_token" in name or "position_embeddings" in name:
            return shrink * 0.06, 0.0
        if "patch_embeddings" in name:
            return shrink * 0.06 / fan, 0.0
        if "embed_tokens" in name:
            return 0.08, 0.0
        if "lm_head" in name:
            return 0.4, 0.0
        gain, = (x for part, x in gains.items() if part in name)
        return shrink * (0.3 if vision and qk_norm and gain == 1.7 else gain) / fan, 0.0
    return f


def shuffle_v1(model):
    """The remote code's ps_version v1: cells stay transposed."""
    straight = model.model.pixel_shuffle
    return lambda x, scale_factor=0.5: straight(x, scale_factor).transpose(1, 2).contiguous()


def empty_model(spec, tok):
    config = {"native": Qwen2Config, "internlm2": LlamaConfig, "llama": LlamaConfig}[spec["layout"]]
    tc = config(vocab_size=spec["pad_to"], bos_token_id=None, eos_token_id=tok.token_to_id("<|im_end|>"), pad_token_id=None,
                **json.loads(json.dumps(spec["text"])))
    cfg = InternVLConfig(vision_config=InternVLVisionConfig(**spec["vision"]), text_config=tc, image_token_id=tok.token_to_id(CONTEXT),
                         image_seq_length=TOKENS, tie_word_embeddings=False)
    model = InternVLForConditionalGeneration._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    if spec.get("ps_version") == "v1":
        model.model.pixel_shuffle = shuffle_v1(model)
    if spec["vision"]["use_qk_norm"]:       # the remote code's norms of q and k have the config's eps
        for b in model.model.vision_tower.encoder.layer:
            b.attention.q_norm.variance_epsilon = b.attention.k_norm.variance_epsilon = spec["vision"]["layer_norm_eps"]
    return model


def build(spec, tok, seed):
    model = empty_model(spec, tok)
    family.draw_weights(model, seed, spec["dtype"], spread(spec["vision"]["use_qk_norm"], spec.get("small", 1.0)))
    return model


# ---------------------------------------------------------------- prompts and pictures

def prompt_of(spec, question):
    if spec["layout"] == "native":
        return f"<|im_start|>user\n{CONTEXT}\n{question}<|im_end|>\n<|im_start|>assistant\n"
    system = spec.get("system_message") or SYSTEM[spec["template"]]
    return f"<|im_start|>system\n{system}<|im_end|><|im_start|>user\n<image>\n{question}<|im_end|><|im_start|>assistant\n"


def expand(spec, prompt, n_view):
    return prompt.replace(CONTEXT if spec["layout"] == "native" else "<image>", "<img>" + CONTEXT * (TOKENS * n_view) + "</img>", 1)


def views(spec, image):
    """[n_view, 3, h, w]: transformers' Pillow processor; `check_official` holds it against the official load_image."""
    h, w = spec["vision"]["image_size"]
    p = GotOcr2ImageProcessorPil(size={"height": h, "width": w}, image_mean=MEAN, image_std=STD, crop_to_patches=True, min_patches=spec["tiles"][0],
                                 max_patches=spec["tiles"][1])
    return p(images=image, return_tensors="pt")["pixel_values"].to(torch.float32)


def make_case(spec, tok, d, picture, question):
    image = Image.open(os.path.join(d, picture + ".png"))
    px, prompt = views(spec, image), prompt_of(spec, question)
    ids = token_ids(tok, expand(spec, prompt, len(px)))
    t, cls = torch.tensor(ids), torch.full((len(ids),), 3)
    n_system = 0 if spec["layout"] == "native" else len(token_ids(tok, prompt[:prompt.index("<|im_start|>user")]))
    cls[:n_system] = 0
    cls[t == tok.token_to_id(CONTEXT)] = 1
    cls[(t == tok.token_to_id("<img>")) | (t == tok.token_to_id("</img>"))] = 2
    rows = (cls == 1).nonzero()[:, 0]
    assert len(rows) == TOKENS * len(px)
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px}, rows, cls,
                     {"question": question, "size": list(image.size)[::-1], "views": len(px)}, {"pixels": px})


def wrong(model):
    """More settings that must matter."""
    m = model.model
    layers, ones = m.vision_tower.encoder.layer, torch.nn.Parameter(torch.ones(model.config.vision_config.hidden_size))
    out = {"no layer scale": [(b, x, ones) for b in layers for x in ("lambda_1", "lambda_2")],
           "pixel shuffle transposed": [(m, "pixel_shuffle", shuffle_v1(model))]}
    if model.config.vision_config.use_qk_norm:
        out["q/k norm eps 1e-6"] = [(x, "variance_epsilon", 1e-6) for b in layers for x in (b.attention.q_norm, b.attention.k_norm)]
        out["norm eps 1e-6"] = [(x, "variance_epsilon", 1e-6) for b in layers for x in (b.layernorm_before, b.layernorm_after)]
    return out


def tilings():
    """[width, height, columns, rows] at 448 with up to 12 tiles, and at 16 with up to 6: the processor's choice."""
    sizes = [(448, 448), (640, 480), (480, 640), (1920, 1080), (1080, 1920), (1000, 100), (100, 1000), (640, 427), (2000, 2000), (500, 333), (1, 1),
             (1, 5000), (3000, 7), (447, 449),
             (896, 448), (448, 896), (897, 448), (600, 400), (1024, 899), (333, 250), (800, 600), (1344, 448), (633, 634), (634, 633), (317, 317),
             (316, 317)]
    small = [(w, h) for w in (1, 5, 16, 22, 23, 24, 33, 48, 97) for h in (1, 7, 16, 22, 23, 40, 100)]
    return {"448/12": [[w, h, *get_optimal_tiled_canvas((h, w), (448, 448), 1, 12)] for w, h in sizes],
            "16/6": [[w, h, *get_optimal_tiled_canvas((h, w), (16, 16), 1, 6)] for w, h in small]}


# ---------------------------------------------------------------- one folder

def make_one(out, name):
    spec, d = SPECS[name], os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    tok = TOKENIZERS[spec["layout"]](spec["n_vocab"])
    assert tok.get_vocab_size() == spec["n_vocab"]
    write_files(d, spec, tok)
    tiny.pictures(d, {p: s for p, s in SIZES.items() if spec["all_pictures"] or p in dict(CASES)}, spec["seed"])
    cases = [make_case(spec, tok, d, p, QUESTIONS[q]) for p, q in CASES]
    bad = {0, 1, 2} | {tok.token_to_id(t) for t in ADDED} | set(range(tok.get_vocab_size(), spec["pad_to"]))
    seed, model = tiny.find_seed(lambda s: build(spec, tok, s), parts, cases, spec["seed"], bad)
    save_file(disk_weights(spec, model), os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    arrays, infos, peak = tiny.measure(model, parts, cases, tok.decode, 0, (cases[0].span[0] - 1, cases[0].span[1] + 1))
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"], wrong(model))
    if spec["all_pictures"]:
        arrays.update({f"views/{p}.png/pixels": views(spec, Image.open(os.path.join(d, p + ".png"))) for p in SIZES if p not in dict(CASES)})
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    n_layer, n_vision = spec["text"]["num_hidden_layers"], spec["vision"]["num_hidden_layers"]
    facts = {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "numbers": "transformers' InternVLForConditionalGeneration" + (""
                if spec["layout"] == "native" else "; the official remote code on this folder gives the same"),
        "versions": common.versions(), "image_backend": GotOcr2ImageProcessorPil.__name__, "seed": seed, "layout": spec["layout"],
        "weights_dtype": str(spec["dtype"]).split(".")[1], "vision_layers_run": n_vision, "image_token_id": tok.token_to_id(CONTEXT),
        "tokens_per_view": TOKENS, "classes": family.CLASSES, "cam_undefined": {"ln2": [n_layer - 1]}, "cam_vision_layer": n_vision - 1,
        "cam_note": "alpha is the mean over the image rows of all views; the vision map is over the patches of all views, CLS rows left out of mean and map.",
        "attention_peak": peak, **hard, "questions": QUESTIONS, "cases": infos}
    if spec["all_pictures"]:
        facts["tilings"] = {"about": "width, height, columns, rows", **tilings()}
    family.write_facts(os.path.join(d, "golden.json"), facts)
    with torch.no_grad():
        consistency(spec, model, arrays)
    check(d, spec, tok, arrays, infos)
    tiny.finish(d, name, seed, infos, {"peak": peak, **hard})


def consistency(spec, model, arrays):
    """The recorded sites must fit together the way their names say (catches a hook put on the wrong module)."""
    m, v = model.model, model.config.vision_config

    def a(name):
        x = arrays["c0/" + name]
        if v.use_qk_norm and name.startswith("vision.") and name.endswith(("hook_q", "hook_k")):      # over the whole width, before the heads
            norm = getattr(m.vision_tower.encoder.layer[int(name.split(".")[2])].attention, name[-1] + "_norm")
            flat = x.flatten(1)
            return (flat * (flat.pow(2).mean(-1, keepdim=True) + v.layer_norm_eps).rsqrt() * norm.weight).view(x.shape)
        return x
    family.check_llama(a, m.language_model, model.config.text_config)
    family.check_vision(a, v, v.num_hidden_layers, 17)
    family.same(a("vision.hook_embed"), a("vision.blocks.0.hook_resid_pre"), "vision embed")
    family.same(a("hook_embed")[a("ids") == model.config.image_token_id], a("projector.hook_out"), "splice")
    family.same(a("projector.hook_post"), torch.nn.functional.gelu(a("projector.hook_pre")), "projector")
    family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")
    # Cell (R, C) is made of the patches (2R, 2C), (2R, 2C + 1), (2R + 1, 2C), (2R + 1, 2C + 1); v1 exchanges R and C of the cells.
    x = a(f"vision.blocks.{v.num_hidden_layers - 1}.hook_resid_post").view(-1, 17, v.hidden_size)[:, 1:]
    x = x.reshape(-1, 2, 2, 2, 2, v.hidden_size).permute(0, 1, 3, 2, 4, 5)      # view, R, C, r, c
    x = x.transpose(1, 2) if spec.get("ps_version") == "v1" else x
    family.same(a("projector.hook_in"), x.reshape(-1, 4 * v.hidden_size), "pixel shuffle")


def check(d, spec, tok, arrays, infos):
    """Reload the folder as a user would and compare."""
    if spec["layout"] == "native":
        model, info = InternVLForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
        assert not torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)
        proc = AutoProcessor.from_pretrained(d)     # its video part has no Pillow backend, so the picture's is put in by hand
        assert isinstance(proc, InternVLProcessor)
        proc.image_processor = AutoImageProcessor.from_pretrained(d, backend="pil")
        assert isinstance(proc.image_processor, GotOcr2ImageProcessorPil)
        for k, c in infos.items():
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": c["question"]}]}
            assert proc.apply_chat_template([turn], add_generation_prompt=True) == c["prompt"]
            b = proc(images=Image.open(os.path.join(d, c["picture"])), text=c["prompt"], return_tensors="pt")
            assert b["input_ids"][0].tolist() == c["ids"] and torch.equal(b["pixel_values"], arrays[k + "/pixels"]), k
    else:
        model = empty_model(spec, tok)
        missing, unexpected = model.load_state_dict(unpack(spec, load_file(os.path.join(d, "model.safetensors"))), strict=False)
        assert not missing and not unexpected, (missing, unexpected)
    for k, c in infos.items():
        with torch.no_grad():
            z = model.eval()(input_ids=torch.tensor([c["ids"]]), pixel_values=arrays[k + "/pixels"]).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-5, k
    with safe_open(os.path.join(d, "model.safetensors"), "pt") as f:
        keys = set(f.keys())
    want = {"native": ["vision_tower.encoder.layer.0.lambda_1", "language_model.model.layers.0.self_attn.q_proj.bias",
                       "language_model.lm_head.weight", "multi_modal_projector.layer_norm.weight"],
            "internlm2": ["vision_model.encoder.layers.0.attn.qkv.bias", "language_model.model.layers.0.attention.wqkv.weight",
                          "language_model.output.weight", "mlp1.0.weight"],
            "llama": ["vision_model.encoder.layers.0.attn.q_norm.weight", "language_model.model.layers.0.self_attn.q_proj.weight",
                      "language_model.lm_head.weight", "mlp1.3.bias"]}
    assert set(want[spec["layout"]]) <= keys, keys
