# SPDX-License-Identifier: MIT
"""Tiny LLaVA-NeXT (1.6) folders: pictures cut into tiles, unpadded, with a newline vector behind every row of patches.

Vicuna (LLaMA) and Mistral decoders, the latter also with a sliding window. The arrangement of the image rows is read off
transformers' own packing by sending row numbers through it.
"""
import os
import shutil

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file as save_torch
from transformers import (AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor,
                          MistralConfig)
from transformers.image_processing_utils import select_best_resolution
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.models.mistral import modeling_mistral

import common
import family
import llava
import text
import tiny
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN

TILE, PATCH = 12, 4
PINPOINTS = [[12, 24], [24, 12], [24, 24], [36, 12], [12, 36]]      # (h, w), in the order of the hub's folders
REAL_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
# (w, h): rows cut; columns cut; exact; so wide that one row is left; so tall that one column is; enlarged; three tiles; odd padding
SIZES = {"a": (30, 20), "b": (17, 29), "c": (24, 24), "d": (90, 7), "e": (6, 80), "f": (9, 11), "g": (12, 36), "h": (41, 26)}
SYSTEM = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions. "
VICUNA = ["USER: <image>\nWhat is it? ASSISTANT:", SYSTEM + "USER: <image>\nWhat is in the picture? ASSISTANT:"]
MISTRAL = ["[INST] <image>\nWhat is it? [/INST]", "[INST] <image>\nWhat is in the picture? [/INST]"]
CASES = [("a", 0), ("b", 1), ("c", 0), ("d", 0), ("e", 0), ("f", 0), ("g", 0), ("h", 0)]     # (picture, prompt)

VISION = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, image_size=TILE, patch_size=PATCH,
              layer_norm_eps=2e-3, projection_dim=8)
SPECS = {
    "llava-next-vicuna": dict(
        seed=300, dtype=torch.float16, prompts=VICUNA, n_vocab=340, pad_to=342, text_class=LlamaConfig, cases=CASES,
        text=dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, rms_norm_eps=3e-3, rope_theta=800.0,
                  max_position_embeddings=256)),
    "llava-next-mistral": dict(
        seed=400, dtype=torch.bfloat16, prompts=MISTRAL, n_vocab=340, pad_to=342, text_class=MistralConfig, cases=CASES[:4],
        text=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6, intermediate_size=36,
                  rms_norm_eps=3e-3, rope_theta=3000.0, sliding_window=None, max_position_embeddings=256)),
    "llava-next-mistral-window": dict(
        seed=500, dtype=torch.bfloat16, prompts=MISTRAL, n_vocab=340, pad_to=342, text_class=MistralConfig, cases=CASES[:2],
        sites=("hook_pattern", "hook_embed", "projector.hook_out", "hook_resid_post", "attn.hook_z"),
        text=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=36,
                  rms_norm_eps=3e-3, rope_theta=3000.0, sliding_window=24, max_position_embeddings=256)),
}


# ---------------------------------------------------------------- the folder

def config_json(spec, image_id, pad_id):
    """config.json with the keys that the hub's folders have (they leave out what is the class's default)."""
    t = {"architectures": ["LlamaForCausalLM" if spec["text_class"] is LlamaConfig else "MistralForCausalLM"],
         "model_type": spec["text_class"].model_type, "torch_dtype": str(spec["dtype"]).split(".")[1], "vocab_size": spec["pad_to"], **spec["text"]}
    if spec["text_class"] is LlamaConfig:
        t["pad_token_id"] = pad_id
    return {"architectures": ["LlavaNextForConditionalGeneration"], "ignore_index": -100, "image_grid_pinpoints": PINPOINTS, "image_token_index": image_id,
            "model_type": "llava_next", "projector_hidden_act": "gelu", "text_config": t, "tie_word_embeddings": False,
            "torch_dtype": str(spec["dtype"]).split(".")[1], "transformers_version": "4.39.0.dev0", "use_image_newline_parameter": True,
            "vision_config": {"model_type": "clip_vision_model", "vocab_size": 32000, **VISION},
            "vision_feature_layer": -2, "vision_feature_select_strategy": "default"}


def chat_template(spec):
    images = "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    texts = "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}"
    if spec["text_class"] is MistralConfig:
        return "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}" + images + texts + "{{ '[/INST]' }}{% else %}{{ ' ' }}" + texts + "{% endif %}{% endfor %}"
    return "{% for m in messages %}{{ m['role'].upper() + ': ' }}" + images + texts + "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"


def write_files(d, spec, tok):
    """Everything but the weights and the goldens, in the form of the hub's llava-v1.6 folders."""
    tok.save(os.path.join(d, "tokenizer.json"))
    family.write_tokenizer_config(d, tok, ("<unk>", "<s>", "</s>", IMAGE_TOKEN, "<pad>"), "LlavaNextProcessor")
    common.write_json(os.path.join(d, "config.json"), config_json(spec, tok.token_to_id(IMAGE_TOKEN), tok.token_to_id("<pad>")))
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "aspect_ratio_setting": "anyres", "crop_size": {"height": TILE, "width": TILE}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
        "do_pad": True, "do_rescale": True, "do_resize": True, "image_grid_pinpoints": PINPOINTS, "image_mean": CLIP_MEAN, "image_processor_type":
        "LlavaNextImageProcessor", "image_std": CLIP_STD, "processor_class": "LlavaNextProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": TILE}})
    common.write_json(os.path.join(d, "processor_config.json"), {
        "image_token": IMAGE_TOKEN, "num_additional_image_tokens": 1, "patch_size": PATCH, "processor_class": "LlavaNextProcessor",
        "vision_feature_select_strategy": "default"})
    common.write_json(os.path.join(d, "chat_template.json"), {"chat_template": chat_template(spec)})


def build(d, spec, seed):
    cfg = LlavaNextConfig.from_pretrained(d)
    cfg._attn_implementation = "eager"
    model = LlavaNextForConditionalGeneration._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    family.draw_weights(model, seed, spec["dtype"], family.spread_clip_llama(small_eps=False, tied=False))
    return model


def write_weights(d, spec, model):
    """Layout A, as every hub folder has it."""
    sd = {llava.rename(k, "A"): v.to(spec["dtype"]).contiguous() for k, v in model.state_dict().items()}
    save_torch(sd, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})


# ---------------------------------------------------------------- running it

def attach(r, model):
    m = model.model
    family.attach_clip(r, m.vision_tower, modeling_clip)
    family.attach_mlp_projector(r, m.multi_modal_projector)
    family.attach_llama(r, m.language_model, modeling_llama if isinstance(m.language_model.config, LlamaConfig) else modeling_mistral)


def parts(model):
    return tiny.Parts(model.model.language_model, model.lm_head, attach, model.config.vision_config.num_attention_heads, llava.kept_layers(model.config))


def packing(model, size):
    """For every image row the row of projector.hook_out that stands there, or -1 for the newline vector."""
    n_view, n = image_size_to_num_patches(size, PINPOINTS, TILE), (TILE // PATCH) ** 2
    numbers = torch.arange(n_view * n, dtype=torch.float32).reshape(n_view, n, 1)
    packed, = model.model.pack_image_features([numbers], torch.tensor([size]), "default", image_newline=torch.tensor([-1.0]))[0]
    return packed[:, 0].round().int()


def make_case(model, proc, d, picture, prompt):
    b = proc(images=Image.open(os.path.join(d, picture + ".png")), text=prompt, return_tensors="pt")
    ids, size = b["input_ids"][0].tolist(), b["image_sizes"][0].tolist()
    rows = (b["input_ids"][0] == model.config.image_token_index).nonzero()[:, 0]
    pack = packing(model, size)
    assert len(pack) == len(rows)
    classes = torch.full((len(ids),), 3)
    classes[:rows[0]] = 0
    classes[rows] = torch.where(pack < 0, 2, 1)
    px, line = b["pixel_values"], int((pack < 0).nonzero()[0]) - (TILE // PATCH) ** 2
    facts = {"size": size, "views": px.shape[1], "best": list(select_best_resolution(size, PINPOINTS)), "kept": [int((pack < 0).sum()), line]}
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px, "image_sizes": b["image_sizes"]}, rows, classes, facts,
                     {"pixels": px[0], "pack": pack})


def table(proc, pinpoints, tile, patch, sizes):
    """[h, w, best h, best w, kept rows, kept columns, image tokens] for many sizes, by the processor's own arithmetic."""
    out = []
    proc.image_processor.image_grid_pinpoints, old, proc.patch_size, side = pinpoints, proc.image_processor.image_grid_pinpoints, patch, tile // patch
    for h, w in sizes:
        n = proc._get_number_of_features(h, w, tile, tile) - 1
        best = select_best_resolution((h, w), pinpoints)
        cells, lines = proc._get_unpadded_features(h, w, side, side, best[0] // tile, best[1] // tile)
        out.append([h, w, *best, lines, cells // lines if lines else 0, n])
    proc.image_processor.image_grid_pinpoints, proc.patch_size = old, PATCH
    return out


def make_one(out, name, spec):
    d = os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    tok = text.llava_tokenizer(spec["n_vocab"])
    image_id, pad_id = tok.token_to_id(IMAGE_TOKEN), tok.token_to_id("<pad>")
    write_files(d, spec, tok)
    tiny.pictures(d, {p: SIZES[p] for p, _ in spec["cases"]}, spec["seed"])
    proc = AutoProcessor.from_pretrained(d, backend="pil")
    assert isinstance(proc, LlavaNextProcessor) and type(proc.image_processor).__name__ == "LlavaNextImageProcessorPil"
    cases = [make_case(build(d, spec, 0), proc, d, p, spec["prompts"][q]) for p, q in spec["cases"]]
    bad = {0, 1, 2, image_id, pad_id} | set(range(tok.get_vocab_size(), spec["pad_to"]))
    seed, model = tiny.find_seed(lambda s: build(d, spec, s), parts, cases, spec["seed"], bad)
    write_weights(d, spec, model)
    arrays, infos, peak = tiny.measure(model, parts, cases, tok.decode, pad_id, sites=spec.get("sites", ""))
    more = {"no newline": [(model.model, "image_newline", torch.nn.Parameter(torch.zeros(spec["text"]["hidden_size"])))]}
    if spec["text"].get("sliding_window"):
        more["no window"] = [(model.model.language_model.config, "sliding_window", None)]
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"], more)
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    facts = {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "versions": common.versions(), "image_backend": type(proc.image_processor).__name__, "seed": seed, "layout": "A",
        "weights_dtype": str(spec["dtype"]).split(".")[1], "vision_layers_run": 2, "image_token_id": image_id, "classes": family.CLASSES,
        "cam_undefined": {"ln2": [spec["text"]["num_hidden_layers"] - 1]}, "cam_vision_layer": 1,
        "cam_note": "alpha is the mean over all image rows, newline rows too; the vision map is over the patches of all views, CLS rows left out of mean and map.",
        "attention_peak": peak, **hard, "prompts": spec["prompts"], "cases": infos}
    if name == "llava-next-vicuna":
        sizes = [(h, w) for w, h in SIZES.values()] + [(12, 12), (24, 48), (1, 1), (1, 50), (50, 1), (31, 100), (100, 31), (64, 48), (35, 34)]
        real = [(336, 336), (480, 640), (640, 480), (899, 1024), (1080, 1920), (1920, 1080), (100, 1000), (1000, 100), (50, 50), (427, 640), (333, 500),
                (500, 333), (2000, 3), (3, 2000), (768, 1024), (671, 672), (1344, 672), (683, 1023)]
        facts["sizes"] = {"about": "height, width, best height, best width, kept rows, kept columns, image tokens",
                          "tiny": table(proc, PINPOINTS, TILE, PATCH, sizes), "real": table(proc, REAL_PINPOINTS, 336, 14, real)}
    family.write_facts(os.path.join(d, "golden.json"), facts)
    with torch.no_grad():
        check_window(arrays, spec["text"]["sliding_window"]) if "sites" in spec else consistency(model, arrays)
    check(d, spec, arrays, infos)
    tiny.finish(d, name, seed, infos, {"peak": peak, **hard})


def consistency(model, arrays):
    a, m = (lambda n: arrays["c0/" + n]), model.model
    v, n = model.config.vision_config, (TILE // PATCH) ** 2
    family.check_llama(a, m.language_model, model.config.text_config)
    family.check_vision(a, v, 2, n + 1)
    family.same(a("vision.ln_pre.hook_normalized"), a("vision.blocks.0.hook_resid_pre"), "ln_pre")
    family.same(a("projector.hook_in"), a("vision.blocks.1.hook_resid_post").reshape(-1, n + 1, v.hidden_size)[:, 1:].flatten(0, 1), "feature layer")
    family.same(a("projector.hook_post"), torch.nn.functional.gelu(a("projector.hook_pre")), "projector")
    source = torch.cat([a("projector.hook_out"), m.image_newline.detach()[None]])
    rows = a("ids") == model.config.image_token_index
    family.same(a("hook_embed")[rows], source[a("pack").long()], "packed rows")
    family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")


def check_window(arrays, window):
    """A query sees itself and the window - 1 positions before it."""
    far = torch.arange(arrays["c0/ids"].shape[0])
    far = far[:, None] - far[None] >= window
    for i in range(2):
        pattern = arrays[f"c0/blocks.{i}.attn.hook_pattern"]
        assert far.any() and (pattern[:, far] == 0).all() and (pattern[:, (far.roll(1, 1) & ~far)[:, :]] > 0).all()


def check(d, spec, arrays, infos):
    """Reload the folder as a user would and compare."""
    model, info = LlavaNextForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    proc = AutoProcessor.from_pretrained(d, backend="pil")
    for k, c in infos.items():
        b = proc(images=os.path.join(d, c["picture"]), text=c["prompt"], return_tensors="pt")
        assert b["input_ids"][0].tolist() == c["ids"] and torch.equal(b["pixel_values"][0], arrays[k + "/pixels"])
        with torch.no_grad():
            z = model.eval()(**b).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-4, k
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
    assert proc.apply_chat_template([turn], add_generation_prompt=True) == spec["prompts"][0]
    keys = list(safe_open(os.path.join(d, "model.safetensors"), "pt").keys())
    for want in ("image_newline", "vision_tower.vision_model.encoder.layers.2.mlp.fc2.bias", "language_model.model.norm.weight", "language_model.lm_head.weight"):
        assert want in keys, (want, keys)


def make(out, name):
    make_one(out, name, SPECS[name])
