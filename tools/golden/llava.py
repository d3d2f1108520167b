# SPDX-License-Identifier: MIT
"""Tiny random LLaVA-1.5 folders and what transformers computes on them.

The numbers come from transformers' own modules: values are taken with forward hooks and by wrapping the two eager attention
functions (which see q and k after RoPE and return the pattern). Nothing of the model is re-implemented here, except the
analyses (CAM, smoothing, attention shares), which transformers does not have.
"""
import json
import os
import shutil
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import save_file as save_torch
from tokenizers import Tokenizer
from transformers import (AutoImageProcessor, AutoTokenizer, CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig,
                          LlavaForConditionalGeneration, LlavaProcessor)
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama
from transformers.utils import logging as hf_logging

import common
import family
import text
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN
from family import CAM_SITES, CLASSES, cam_from

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()

N_NEW = 8       # greedy tokens
N_ANSWER = 3    # answer tokens of the CAM and of the attention shares
PROMPTS = ["USER: <image>\nWhat is in the picture? ASSISTANT:", "USER: <image>\nIs there a cat? ASSISTANT:"]
PICTURES = [("a.png", 50, 50), ("b.png", 97, 41)]
CASES = [(0, 0), (1, 1), (0, 1), (1, 0)]        # (picture, prompt); c0 has every site, c1 the SLIM ones, the others ids and greedy only
FULL_CASES = 2
SLIM = ("hook_embed", "projector.hook_in", "projector.hook_out", "hook_resid_post", "ln_final.hook_normalized")    # sites of c1

SPECS = {
    "llava-gqa": dict(
        seed=1, n_vocab=344, pad_to=352, dtype=torch.float32, layout="A", shards=1,
        vision=dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=28, patch_size=7,
                    layer_norm_eps=2e-3, projection_dim=16),
        text=dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=80,
                  rms_norm_eps=3e-3, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attention_bias=True, mlp_bias=True,
                  max_position_embeddings=256, tie_word_embeddings=False),
        top=dict(vision_feature_layer=-2, vision_feature_select_strategy="default"), prep="files"),
    "llava-mha": dict(
        seed=100, n_vocab=352, pad_to=354, dtype=torch.float16, layout="B", shards=3,
        vision=dict(hidden_size=30, num_hidden_layers=3, num_attention_heads=3, intermediate_size=44, image_size=42, patch_size=14,
                    layer_norm_eps=1e-3, hidden_act="gelu", projection_dim=16),
        text=dict(hidden_size=36, num_hidden_layers=4, num_attention_heads=3, intermediate_size=52,
                  rms_norm_eps=2e-3, rope_parameters={"rope_type": "default", "rope_theta": 30000.0}, attention_bias=False, mlp_bias=False,
                  max_position_embeddings=128, tie_word_embeddings=True),
        top=dict(vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True), prep="files-int"),
    "llava-orig-pad": dict(
        seed=200, n_vocab=340, pad_to=342, dtype=torch.bfloat16, layout="C", shards=1,
        vision=dict(hidden_size=40, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56, image_size=35, patch_size=7,
                    projection_dim=768),                                # hidden_act and layer_norm_eps stay at their defaults
        text=dict(hidden_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=12, intermediate_size=72,
                  rms_norm_eps=3e-3, rope_parameters={"rope_type": "default", "rope_theta": 2000.0}, tie_word_embeddings=False),
        top=dict(), prep="nested-pad"),
}


# ---------------------------------------------------------------- making a checkpoint

def random_weights(model, seed, dtype):
    family.draw_weights(model, seed, dtype, family.spread_clip_llama(small_eps=model.config.vision_config.layer_norm_eps < 1e-4,
                                                                     tied=model.config.tie_word_embeddings))


def rename(key, layout):
    """In-memory names -> A (every hub folder), B (in-memory names since 4.52, inner vision_model. present) or C (B flattened)."""
    assert not key.startswith("model.vision_tower.vision_model.")
    if layout in "AB":
        key = key.replace("model.vision_tower.", "model.vision_tower.vision_model.")
    if layout == "A":
        if key.startswith("lm_head."):
            return "language_model." + key
        return key.removeprefix("model.").replace("language_model.", "language_model.model.", 1)
    return key


def prep_settings(spec):
    s = spec["vision"]["image_size"]
    base = dict(do_convert_rgb=True, do_resize=True, do_center_crop=True, do_rescale=True, do_normalize=True, resample=3,
                rescale_factor=1 / 255, image_mean=CLIP_MEAN, image_std=CLIP_STD, crop_size={"height": s, "width": s},
                size={"shortest_edge": s})
    return base


def write_processor_files(d, spec, tok):
    base = prep_settings(spec)
    v = spec["vision"]
    proc = {"processor_class": "LlavaProcessor", "image_token": IMAGE_TOKEN, "num_additional_image_tokens": 1, "patch_size": v["patch_size"],
            "vision_feature_select_strategy": spec["top"].get("vision_feature_select_strategy", "default")}
    template = ("{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for c in message['content'] %}{% if c['type'] == 'image' %}"
                "{{ '<image>\n' }}{% else %}{{ c['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}"
                "{{ 'ASSISTANT:' }}{% endif %}")
    if spec["prep"] == "files":             # as the hub's llava-1.5 folders
        common.write_json(os.path.join(d, "preprocessor_config.json"), {**base, "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"})
        common.write_json(os.path.join(d, "processor_config.json"), proc)
        common.write_json(os.path.join(d, "chat_template.json"), {"chat_template": template})
    elif spec["prep"] == "files-int":       # as older CLIP folders: bare integers, feature_extractor_type, other mean and std
        old = {**base, "size": v["image_size"], "crop_size": v["image_size"], "image_mean": [0.5, 0.45, 0.4], "image_std": [0.25, 0.3, 0.27],
               "feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor"}
        del old["do_rescale"], old["rescale_factor"], old["do_convert_rgb"]
        common.write_json(os.path.join(d, "preprocessor_config.json"), old)
        common.write_json(os.path.join(d, "processor_config.json"), proc)
    else:                                   # transformers 5: everything in processor_config.json
        common.write_json(os.path.join(d, "processor_config.json"), {**proc, "image_processor": {**base, "do_pad": True, "image_processor_type": "LlavaImageProcessor"}})
        with open(os.path.join(d, "chat_template.jinja"), "w", newline="\n") as f:
            f.write(template)
    family.write_tokenizer_config(d, tok, ("<unk>", "<s>", "</s>", IMAGE_TOKEN, "<pad>"), "LlavaProcessor")


def build(spec, seed):
    tok = text.llava_tokenizer(spec["n_vocab"])
    image_id, pad_id = tok.token_to_id(IMAGE_TOKEN), tok.token_to_id("<pad>")
    assert tok.get_vocab_size() <= spec["pad_to"]
    vc = CLIPVisionConfig(**spec["vision"])
    tc = LlamaConfig(vocab_size=spec["pad_to"], pad_token_id=pad_id, **spec["text"])
    n = (vc.image_size // vc.patch_size) ** 2 + (spec["top"].get("vision_feature_select_strategy") == "full")
    cfg = LlavaConfig(vision_config=vc, text_config=tc, image_token_index=image_id, image_seq_length=n, **spec["top"])
    cfg._attn_implementation = "eager"
    model = LlavaForConditionalGeneration._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    model.config.architectures = ["LlavaForConditionalGeneration"]
    random_weights(model, seed, spec["dtype"])
    return model, tok


def sparse_config(spec, model):
    """Only what differs from the class defaults, as hub folders have it."""
    v, t = dict(spec["vision"]), dict(spec["text"])
    v.pop("projection_dim") if v["projection_dim"] == 512 else None
    t.pop("tie_word_embeddings") if not t["tie_word_embeddings"] else None
    return {"architectures": ["LlavaForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": model.config.image_token_index,
            "image_seq_length": model.config.image_seq_length, "model_type": "llava",
            "text_config": {"model_type": "llama", "pad_token_id": model.config.text_config.pad_token_id, "vocab_size": spec["pad_to"], **t},
            "transformers_version": common.versions()["transformers"], "vision_config": {"model_type": "clip_vision_model", **v}}


def write_checkpoint(d, spec, model, tok):
    if spec["layout"] == "A":
        model.config.save_pretrained(d)
        save_torch({rename(k, "A"): v.contiguous() for k, v in model.state_dict().items()}, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    else:
        sd = {rename(k, spec["layout"]): v.to(spec["dtype"]).contiguous() for k, v in model.state_dict().items()}
        if spec["text"]["tie_word_embeddings"]:
            del sd["lm_head.weight"]
        keys = sorted(sd)
        if spec["shards"] == 1:
            save_torch(sd, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
        else:
            where, total = {}, sum(v.numel() * v.element_size() for v in sd.values())
            part, size = {}, 0
            parts = [part]
            for k in keys:
                b = sd[k].numel() * sd[k].element_size()
                if size + b > total / spec["shards"] + 8192 and len(parts) < spec["shards"]:
                    part, size = {}, 0
                    parts.append(part)
                part[k] = sd[k]
                size += b
            for i, p in enumerate(parts):
                f = "model-%05d-of-%05d.safetensors" % (i + 1, len(parts))
                save_torch(p, os.path.join(d, f), metadata={"format": "pt"})
                where.update({k: f for k in p})
            common.write_json(os.path.join(d, "model.safetensors.index.json"), {"metadata": {"total_size": total}, "weight_map": where})
        if spec["layout"] == "C":
            common.write_json(os.path.join(d, "config.json"), sparse_config(spec, model))
        else:                               # transformers 4 keys: torch_dtype, rope_theta
            c = json.loads(model.config.to_json_string(use_diff=True))
            c["torch_dtype"] = "float16"
            c.pop("dtype", None)
            for sub in ("text_config", "vision_config"):
                c[sub].pop("dtype", None)
            c["text_config"].pop("head_dim", None)
            c["text_config"].pop("num_key_value_heads", None)
            c["text_config"].pop("rope_parameters", None)
            c["text_config"]["rope_theta"] = spec["text"]["rope_parameters"]["rope_theta"]
            c.pop("tie_word_embeddings", None)      # said by text_config only
            c["transformers_version"] = "4.46.0"    # whose form this is
            common.write_json(os.path.join(d, "config.json"), c)
    tok.save(os.path.join(d, "tokenizer.json"))
    write_processor_files(d, spec, tok)


def saved_keys(model):
    """The names save_pretrained of this transformers writes for a model that was built, not loaded (they are not quite layout A)."""
    with tempfile.TemporaryDirectory() as t:
        model.save_pretrained(t)
        with safe_open(os.path.join(t, "model.safetensors"), "pt") as f:
            return sorted(f.keys())


def load_processor(d):
    """As AutoProcessor does, with the Pillow image backend."""
    from transformers import AutoProcessor
    p = AutoProcessor.from_pretrained(d, backend="pil")
    assert type(p.image_processor).__name__.endswith("Pil"), type(p.image_processor)
    assert isinstance(p, LlavaProcessor)
    return p


# ---------------------------------------------------------------- recording a run

def attach(r, model):
    m = model.model
    family.attach_clip(r, m.vision_tower, modeling_clip)
    family.attach_mlp_projector(r, m.multi_modal_projector)
    family.attach_llama(r, m.language_model, modeling_llama)


def run(model, ids, pixels, grad=False):
    """One pass over 1-d ids and [3,h,w] pixels: (logits [P,V], {site: tensor with its batch dimension})."""
    return family.run(model, ids, {"pixel_values": pixels[None]}, attach, grad)


def kept_layers(cfg):
    """How many vision layers are run for the kept feature layer."""
    n, f = cfg.vision_config.num_hidden_layers, cfg.vision_feature_layer
    return f if f >= 0 else n + 1 + f


def shape_sites(model, v):
    c = model.config
    return family.shape_sites(v, c.vision_config.num_attention_heads, c.text_config.head_dim, kept_layers(c))


# ---------------------------------------------------------------- analyses

def targets(logits, start, answer, other):
    rows = logits[start - 1:start - 1 + len(answer)]
    z = rows[torch.arange(len(answer)), torch.tensor(answer)]
    lp = rows.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return {"sum": z.sum(), **{f"tok{i}": z[i] for i in range(len(answer))}, "logprob": lp.sum(), "contrast": z[0] - rows[0, other]}


def cams(model, ids, answer, other, pixels, image_rows):
    """Every CAM of one case; also the forward's own record."""
    n_layers = model.config.text_config.num_hidden_layers
    logits, v = run(model, ids + answer, pixels, grad=True)
    out = {}
    ts = targets(logits, len(ids), answer, other)
    last = kept_layers(model.config) - 1
    vis = v[f"vision.blocks.{last}.ln2.hook_normalized"]
    for ti, (tn, y) in enumerate(ts.items()):
        for site, pat in CAM_SITES.items():
            feats = [v[pat % i] for i in range(n_layers)]
            grads = torch.autograd.grad(y, feats, retain_graph=True)
            heat, raw, alpha, full = zip(*(cam_from(f[0].detach(), g[0], image_rows) for f, g in zip(feats, grads)))
            k = f"cam/{tn}/{site}"
            out[k], out[k + "/raw"], out[k + "/alpha"] = torch.stack(heat), torch.stack(raw), torch.stack(alpha)
            if site == "ln2":
                assert (full[-1] == 0).all(), "last layer's post-attention norm must have zero gradient at image positions"
                assert all((full[i] != 0).any() for i in range(n_layers - 1))
                if tn == "sum":
                    out[k + "/grad"] = torch.stack(full)
                    heat, raw, alpha, _ = zip(*(cam_from(f[0].detach(), g[0].clamp(min=0), image_rows) for f, g in zip(feats, grads)))
                    k += "-clip"
                    out[k], out[k + "/raw"], out[k + "/alpha"] = torch.stack(heat), torch.stack(raw), torch.stack(alpha)
            else:
                assert all((g != 0).any() for g in full)
        if tn == "sum":
            g, = torch.autograd.grad(y, [vis], retain_graph=True)
            keep = torch.arange(1, vis.shape[1])
            h, raw, alpha, full = cam_from(vis[0].detach(), g[0], keep)
            assert (full != 0).any()
            out["cam/sum/vision"], out["cam/sum/vision/raw"], out["cam/sum/vision/alpha"] = h, raw, alpha
            out["cam/sum/vision/grad"] = full
            out["_cls_grad"] = g[0, 0].abs().max()
    return out, v


def smooth(model, ids, answer, clean, mean, std, image_rows, seed):
    """CAM averaged over two noisy pictures: noise N(0, 0.1^2) on the [0,1] image, before normalisation, not clipped."""
    g = torch.Generator().manual_seed(seed)
    m, s = (torch.tensor(x, dtype=torch.float32)[:, None, None] for x in (mean, std))
    noisy = torch.stack([(clean + 0.1 * torch.randn(clean.shape, generator=g) - m) / s for _ in range(2)])
    heats, raws = [], []
    n_layers = model.config.text_config.num_hidden_layers
    for p in noisy:
        logits, v = run(model, ids + answer, p, grad=True)
        y = targets(logits, len(ids), answer, 0)["sum"]
        feats = [v[CAM_SITES["ln2"] % i] for i in range(n_layers)]
        grads = torch.autograd.grad(y, feats)
        h, r, _, _ = zip(*(cam_from(f[0].detach(), gr[0], image_rows) for f, gr in zip(feats, grads)))
        heats.append(torch.stack(h))
        raws.append(torch.stack(r))
    heat = torch.stack(heats).mean(0)
    top = heat.max(1, keepdim=True).values
    norm = torch.where(top > 0, heat / top.clamp(min=1e-30), torch.zeros_like(heat))
    return {"smooth/pixels": noisy, "smooth/cam/sum/ln2": heat, "smooth/cam/sum/ln2/raw": torch.stack(raws).mean(0), "smooth/cam/sum/ln2/norm": norm}


# ---------------------------------------------------------------- one checkpoint

def greedy(model, ids, pixels, n, bad=()):
    return family.greedy(model, ids, {"pixel_values": pixels[None]}, n, bad)


def find_seed(spec, pixels, idss, bad):
    """The first seed whose greedy answers are varied, clear of special ids, and not decided by rounding."""
    why = []
    for seed in range(spec["seed"], spec["seed"] + 300):
        model, tok = build(spec, seed)
        bads = (family.unusable(*greedy(model, idss[pr], pixels[pic], N_NEW, bad)) for pic, pr in CASES)
        found = next((b for b in bads if b), None)
        if not found:
            return seed, model, tok
        why.append(found)
    raise SystemExit(f"no usable seed: {why}")


def sensitivity(model, ids, pixels):
    """How far the logits move when one thing is wrong: a golden that does not notice is worthless."""
    base = run(model, ids, pixels)[0]
    return {what: family.max_change(lambda: run(model, ids, pixels)[0], base, change)
            for what, change in family.wrong_settings(model, model.model.language_model, model.config.text_config.head_dim).items()}


def noise_floor(model, ids, answer, pixels, image_rows):
    """The distance of the float32 numbers from a float64 run: no implementation can be asked to come closer."""
    both = []
    for m in (model, family.to_float64(model, lambda m: m.model.language_model)):
        px = pixels.to(m.dtype)
        cam, v = cams(m, ids, answer, 5, px, image_rows)
        cam.pop("_cls_grad")
        both.append({**{k: t.detach() for k, t in v.items()}, **cam, "logits": run(m, ids, px)[0]})
    return family.noise(*both)


def make_one(out, name, spec):
    d = os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    # The folder without weights first: the processor that reads it gives ids and pixels.
    tok = text.llava_tokenizer(spec["n_vocab"])
    tok.save(os.path.join(d, "tokenizer.json"))
    write_processor_files(d, spec, tok)
    model, _ = build(spec, spec["seed"])
    model.config.save_pretrained(d)
    for i, (f, w, h) in enumerate(PICTURES):
        common.save_png(os.path.join(d, f), common.picture(w, h, spec["seed"] * 10 + i))
    proc = load_processor(d)
    from PIL import Image
    pics = [Image.open(os.path.join(d, f)) for f, _, _ in PICTURES]
    ids_of, pix, unit = [], [], []
    for t in PROMPTS:
        ids_of.append(proc(images=pics[0], text=t, return_tensors="pt")["input_ids"][0].tolist())
    for p in pics:
        pix.append(proc.image_processor(images=p, return_tensors="pt")["pixel_values"][0])
        unit.append(proc.image_processor(images=p, return_tensors="pt", do_normalize=False)["pixel_values"][0])
        assert pix[-1].dtype == torch.float32
    image_id, pad_id = tok.token_to_id(IMAGE_TOKEN), tok.token_to_id("<pad>")
    n_image = model.config.image_seq_length
    raw_tok = Tokenizer.from_file(os.path.join(d, "tokenizer.json"))
    for t, ids in zip(PROMPTS, ids_of):
        plain = raw_tok.encode(t).ids
        at = plain.index(image_id)
        assert plain[:at] + [image_id] * n_image + plain[at + 1:] == ids, "the processor must follow tokenizer.json literally"
    bad = {0, 1, 2, image_id, pad_id} | set(range(tok.get_vocab_size(), spec["pad_to"]))
    seed, model, tok = find_seed(spec, pix, ids_of, bad)
    write_checkpoint(d, spec, model, tok)

    arrays, cases = {}, {}
    n_layers = model.config.text_config.num_hidden_layers
    peak = {"decoder": 0.0, "vision": 0.0}
    for ci, (pic, pr) in enumerate(CASES):
        c = f"c{ci}/"
        ids, px = ids_of[pr], pix[pic]
        p, at = len(ids), ids.index(image_id)
        rows = torch.arange(at, at + n_image)
        assert ids[at:at + n_image] == [image_id] * n_image
        logits, v = run(model, ids, px)
        new, step = greedy(model, ids, px, N_NEW)
        forced = run(model, ids + new, px)[0][p - 1:p - 1 + N_NEW]
        assert (forced - step).abs().max() < 1e-4 and forced.argmax(1).tolist() == new
        gen = model.generate(input_ids=torch.tensor([ids]), pixel_values=px[None], attention_mask=torch.ones(1, p, dtype=torch.long),
                             max_new_tokens=N_NEW, do_sample=False, generation_config=GenerationConfig(eos_token_id=2, pad_token_id=pad_id))[0].tolist()
        assert gen[p:] == new, (gen[p:], new)
        if ci < FULL_CASES:
            arrays[c + "logits"] = logits
        arrays.update({c + "pixels": px, c + "ids": torch.tensor(ids), c + "greedy": torch.tensor(new), c + "greedy.logits": forced})
        info = {"picture": PICTURES[pic][0], "prompt": PROMPTS[pr], "ids": ids, "image_first": at, "image_count": n_image, "greedy": new,
                "greedy_text": tok.decode(new, skip_special_tokens=True), "full": ci < FULL_CASES}
        cases[c[:-1]] = info
        for n, t in v.items():
            if n.endswith("hook_pattern"):
                where = "vision" if n.startswith("vision") else "decoder"
                peak[where] = max(peak[where], float((t if where == "vision" else t[:, 4:]).max()))
        if ci >= FULL_CASES:
            continue
        arrays.update({c + k: t for k, t in shape_sites(model, v).items() if ci == 0 or k.endswith(SLIM)})
        answer = new[:N_ANSWER]
        other = int(forced[0].topk(2).indices[1])
        cam, va = cams(model, ids, answer, other, px, rows)
        info["vision_cls_gradient_max"] = float(cam.pop("_cls_grad"))
        info["answer"], info["contrast"] = answer, {"a": answer[0], "b": other}
        arrays.update({c + k: t for k, t in cam.items()})
        cls = torch.full((p + N_ANSWER,), 3)
        cls[:at] = 0
        cls[at:at + n_image] = 1
        cls[p:] = 4
        arrays[c + "flow/class"] = cls
        arrays[c + "flow/share"] = family.flow(va, n_layers, cls, p, N_ANSWER)
        if ci == 0:
            ip = proc.image_processor
            arrays.update({c + k: t for k, t in smooth(model, ids, answer, unit[pic], ip.image_mean, ip.image_std, rows, seed + 7).items()})
    assert peak["decoder"] > 0.5 and peak["vision"] > 0.5, peak
    sens = sensitivity(model, ids_of[0], pix[0])
    assert all(x > 1e-2 for x in sens.values()), sens
    c0 = cases["c0"]
    floor = noise_floor(model, c0["ids"], c0["answer"], pix[0], torch.arange(c0["image_first"], c0["image_first"] + n_image))
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    common.write_json(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "versions": common.versions(), "image_backend": type(proc.image_processor).__name__, "seed": seed, "layout": spec["layout"],
        "weights_dtype": str(spec["dtype"]).split(".")[1], "vision_layers_run": kept_layers(model.config), "image_token_id": image_id, "image_tokens": n_image,
        "classes": CLASSES, "cam_undefined": {"ln2": [n_layers - 1]}, "cam_vision_layer": kept_layers(model.config) - 1,
        "cam_note": "alpha is the mean over all image rows (with strategy full the CLS row is image row 0 and counts); the vision map leaves CLS out of both.",
        "smooth_note": "sigma 0.1, noise on the [0,1] image, no clipping; cam/sum/ln2 is the mean of the ReLU'd maps, /raw of the maps before ReLU, /norm the mean divided by "
                       "its maximum per layer (zero where the maximum is zero)",
        "attention_peak": peak, "logit_change_if_wrong": sens, "float32_noise_relative_to_max": floor,
        "keys_written_by_save_pretrained": saved_keys(model) if spec["layout"] == "A" else None, "prompts": PROMPTS, "cases": cases})
    with torch.no_grad():
        consistency(model, arrays)
    check(d, spec, arrays, cases)
    for f in os.listdir(d):
        os.chmod(os.path.join(d, f), 0o644)
    size = sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d))
    print(f"{name}: seed {seed}, {size // 1024} KiB, peak {peak}, sensitivity {sens}, noise {floor}")
    for k, c in cases.items():
        print("  ", k, c["greedy"], repr(c["greedy_text"]))


def consistency(model, arrays):
    """The recorded sites must fit together the way their names say (catches a hook put on the wrong module)."""
    c, a, same = model.config.text_config, lambda n: arrays["c0/" + n], family.same
    m, v = model.model, model.config.vision_config
    rows = a("ids") == model.config.image_token_index
    same(a("hook_embed")[rows], a("projector.hook_out"), "splice")
    same(a("projector.hook_post"), torch.nn.functional.gelu(a("projector.hook_pre")), "projector")
    same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")
    skip = 1 if model.config.vision_feature_select_strategy == "default" else 0
    last = kept_layers(model.config) - 1
    same(a("projector.hook_in"), a(f"vision.blocks.{last}.hook_resid_post")[skip:], "feature layer")
    family.check_llama(a, m.language_model, c)
    family.check_vision(a, v, last + 1, a("vision.hook_embed").shape[0])
    same(a("vision.ln_pre.hook_normalized"), a("vision.blocks.0.hook_resid_pre"), "ln_pre")


def check(d, spec, arrays, cases):
    """Reload the folder as a user would and compare."""
    model, info = LlavaForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    model.eval()
    proc = load_processor(d)
    assert proc.image_token_id == model.config.image_token_id
    for c, i in cases.items():
        b = proc(images=os.path.join(d, i["picture"]), text=i["prompt"], return_tensors="pt")
        assert b["input_ids"][0].tolist() == i["ids"]
        assert torch.equal(b["pixel_values"][0], arrays[c + "/pixels"])
        z = run(model, i["ids"], b["pixel_values"][0])[0]
        assert (z[-1] - arrays[c + "/greedy.logits"][0]).abs().max() < 1e-4, c
        if c + "/logits" in arrays:
            assert (z - arrays[c + "/logits"]).abs().max() < 1e-5, c
    if proc.chat_template:                  # llava-mha has none, as older folders
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the picture?"}]}
        said = proc.apply_chat_template([turn], add_generation_prompt=True)
        assert said == PROMPTS[0], said
    assert bool(proc.chat_template) == (spec["prep"] != "files-int")
    t = AutoTokenizer.from_pretrained(d)
    assert t(PROMPTS[0])["input_ids"] == Tokenizer.from_file(os.path.join(d, "tokenizer.json")).encode(PROMPTS[0]).ids
    files = sorted(f for f in os.listdir(d) if f.startswith("model") and f.endswith(".safetensors"))
    keys = [k for f in files for k in safe_open(os.path.join(d, f), "pt").keys()]
    assert len(files) == spec["shards"], files
    want = {"A": "vision_tower.vision_model.encoder.", "B": "model.vision_tower.vision_model.encoder.", "C": "model.vision_tower.encoder."}[spec["layout"]]
    head = {"A": "language_model.model.layers.", "B": "model.language_model.layers.", "C": "model.language_model.layers."}[spec["layout"]]
    assert any(k.startswith(want) for k in keys) and any(k.startswith(head) for k in keys), keys[:5]
    assert ("lm_head.weight" in " ".join(keys)) != spec["text"]["tie_word_embeddings"]


def make(out):
    for name, spec in SPECS.items():
        make_one(out, name, spec)
