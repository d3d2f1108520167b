# SPDX-License-Identifier: MIT
"""Tiny random LLaVA-1.5 folders and what transformers computes on them.

The numbers come from transformers' own modules: values are taken with forward hooks and by wrapping the two eager attention
functions (which see q and k after RoPE and return the pattern). Nothing of the model is re-implemented here, except the
analyses (CAM, smoothing, attention shares), which transformers does not have.
"""
import copy
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
import text
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()

N_NEW = 8       # greedy tokens
N_ANSWER = 3    # answer tokens of the CAM and of the attention shares
PROMPTS = ["USER: <image>\nWhat is in the picture? ASSISTANT:", "USER: <image>\nIs there a cat? ASSISTANT:"]
PICTURES = [("a.png", 50, 50), ("b.png", 97, 41)]
CASES = [(0, 0), (1, 1), (0, 1), (1, 0)]        # (picture, prompt); c0 has every site, c1 the SLIM ones, the others ids and greedy only
FULL_CASES = 2
SLIM = ("hook_embed", "projector.hook_in", "projector.hook_out", "hook_resid_post", "ln_final.hook_normalized")    # sites of c1
CLASSES = ["system", "image", "structure", "user", "generated"]

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
    """Every parameter random and of a size that makes mistakes visible: small activations (so eps matters), peaked attention."""
    g = torch.Generator().manual_seed(seed)

    def n(p, std, mean=0.0):
        p.copy_(torch.randn(p.shape, generator=g) * std + mean)

    small_eps = model.config.vision_config.layer_norm_eps < 1e-4    # then the embeddings must be smaller still
    tied = model.config.tie_word_embeddings     # then the blocks must outweigh the embedding, or the model repeats its last token
    with torch.no_grad():
        for name, p in model.named_parameters():
            vision = "vision_tower" in name
            if "pre_layrnorm.weight" in name:
                n(p, 0.02, 0.03) if small_eps else n(p, 0.06, 0.3)
            elif "pre_layrnorm.bias" in name:
                n(p, 0.01 if small_eps else 0.05)
            elif "norm" in name and name.endswith("weight"):
                n(p, 0.2, 1.0)
            elif name.endswith("bias"):
                n(p, 0.02 if vision and "mlp" in name else 0.08)
            elif "class_embedding" in name or "position_embedding" in name:
                n(p, 0.004 if small_eps else 0.05)
            elif "patch_embedding" in name:
                n(p, (0.004 if small_eps else 0.05) / p[0].numel() ** 0.5)
            elif "q_proj" in name or "k_proj" in name:
                n(p, 1.7 / p.shape[1] ** 0.5)
            elif "v_proj" in name or "out_proj" in name or "o_proj" in name:
                n(p, (0.3 if vision else 1.2 if tied else 0.45) / p.shape[1] ** 0.5)
            elif "gate_proj" in name or "up_proj" in name or "fc1" in name:
                n(p, 0.9 / p.shape[1] ** 0.5)
            elif "down_proj" in name or "fc2" in name:
                n(p, (1.3 if tied and not vision else 0.4) / p.shape[1] ** 0.5)
            elif "linear_1" in name:
                n(p, 2.0 / p.shape[1] ** 0.5)
            elif "linear_2" in name:
                n(p, 0.3 / p.shape[1] ** 0.5)
            elif "embed_tokens" in name:
                n(p, 0.16 if tied else 0.08)
            elif "lm_head" in name:
                n(p, 0.4)
            else:
                raise ValueError(name)
            p.copy_(p.to(dtype).to(torch.float32))
            p[p == 0] = 2.0 ** -10
    model.tie_weights()
    for name, p in model.named_parameters():
        assert (p != 0).all(), name


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
    ids = {x: tok.token_to_id(x) for x in ("<unk>", "<s>", "</s>", IMAGE_TOKEN, "<pad>")}
    added = {str(i): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for x, i in ids.items()}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "image_token": IMAGE_TOKEN, "extra_special_tokens": {"image_token": IMAGE_TOKEN}, "clean_up_tokenization_spaces": False,
        "legacy": False, "model_max_length": 2048, "padding_side": "left", "processor_class": "LlavaProcessor", "tokenizer_class": "LlamaTokenizer"})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": ids["<pad>"],
                                                                   "transformers_version": common.versions()["transformers"]})


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

class Recorder:
    """Keeps the tensors of one forward pass, by sightline's site names, with their graph."""

    def __init__(self, model):
        self.model, self.v, self.handles = model, {}, []

    def _keep(self, name):
        def f(_m, _a, out):
            self.v[name] = out[0] if isinstance(out, tuple) else out
        return f

    def _keep_in(self, name):
        def f(_m, args, kw):
            self.v[name] = args[0] if args else kw["hidden_states"]
        return f

    def out(self, m, name):
        self.handles.append(m.register_forward_hook(self._keep(name)))

    def inp(self, m, name):
        self.handles.append(m.register_forward_pre_hook(self._keep_in(name), with_kwargs=True))

    def __enter__(self):
        m = self.model.model
        vt, lm, pr = m.vision_tower, m.language_model, m.multi_modal_projector
        self.out(vt.embeddings, "vision.hook_embed")
        self.out(vt.pre_layrnorm, "vision.ln_pre.hook_normalized")
        names = {}
        for i, b in enumerate(vt.encoder.layers):
            p = f"vision.blocks.{i}."
            self.inp(b, p + "hook_resid_pre")
            self.out(b.layer_norm1, p + "ln1.hook_normalized")
            for x in "qkv":
                self.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
            self.inp(b.self_attn.out_proj, p + "attn.hook_z")
            self.out(b.self_attn.out_proj, p + "hook_attn_out")
            self.inp(b.layer_norm2, p + "hook_resid_mid")
            self.out(b.layer_norm2, p + "ln2.hook_normalized")
            self.out(b.mlp.fc1, p + "mlp.hook_pre")
            self.inp(b.mlp.fc2, p + "mlp.hook_post")
            self.out(b.mlp.fc2, p + "hook_mlp_out")
            self.out(b, p + "hook_resid_post")
            names[id(b.self_attn)] = p
        self.inp(pr.linear_1, "projector.hook_in")
        self.out(pr.linear_1, "projector.hook_pre")
        self.inp(pr.linear_2, "projector.hook_post")
        self.out(pr.linear_2, "projector.hook_out")
        for i, b in enumerate(lm.layers):
            p = f"blocks.{i}."
            if i == 0:
                self.inp(b, "hook_embed")
            self.inp(b, p + "hook_resid_pre")
            self.out(b.input_layernorm, p + "ln1.hook_normalized")
            for x in "qkv":
                self.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
            self.inp(b.self_attn.o_proj, p + "attn.hook_z")
            self.out(b.self_attn.o_proj, p + "hook_attn_out")
            self.inp(b.post_attention_layernorm, p + "hook_resid_mid")
            self.out(b.post_attention_layernorm, p + "ln2.hook_normalized")
            self.out(b.mlp.gate_proj, p + "mlp.hook_pre")
            self.out(b.mlp.up_proj, p + "mlp.hook_pre_linear")
            self.inp(b.mlp.down_proj, p + "mlp.hook_post")
            self.out(b.mlp.down_proj, p + "hook_mlp_out")
            self.out(b, p + "hook_resid_post")
            names[id(b.self_attn)] = p
        self.out(lm.norm, "ln_final.hook_normalized")

        def wrap(orig):
            def f(module, query, key, value, attention_mask, scaling, **kw):
                o, w = orig(module, query, key, value, attention_mask, scaling=scaling, **kw)
                p = names[id(module)]
                self.v[p + "attn.hook_pattern"] = w[0]
                if p.startswith("blocks."):
                    self.v[p + "attn.hook_rot_q"] = query[0].transpose(0, 1)
                    self.v[p + "attn.hook_rot_k"] = key[0].transpose(0, 1)
                    k = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0)
                    self.v[p + "attn.hook_attn_scores"] = query[0] @ k.transpose(1, 2) * scaling
                return o, w
            return f
        self.saved = (modeling_clip.eager_attention_forward, modeling_llama.eager_attention_forward)
        modeling_clip.eager_attention_forward, modeling_llama.eager_attention_forward = map(wrap, self.saved)
        return self

    def __exit__(self, *_):
        modeling_clip.eager_attention_forward, modeling_llama.eager_attention_forward = self.saved
        for h in self.handles:
            h.remove()


def run(model, ids, pixels, grad=False):
    """One pass over 1-d ids and [3,h,w] pixels: (logits [P,V], {site: tensor with its batch dimension})."""
    with torch.set_grad_enabled(grad), Recorder(model) as r:
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels[None], use_cache=False).logits[0]
    return logits, r.v


def kept_layers(cfg):
    """How many vision layers are run for the kept feature layer."""
    n, f = cfg.vision_config.num_hidden_layers, cfg.vision_feature_layer
    return f if f >= 0 else n + 1 + f


def shape_sites(model, v):
    """Drop the batch dimension, split heads, drop vision layers that are not needed."""
    c = model.config
    out = {}
    for name, t in v.items():
        t = t.detach()
        if name.startswith("vision.blocks.") and int(name.split(".")[2]) >= kept_layers(c):
            continue
        if name.split(".")[-1] not in ("hook_pattern", "hook_attn_scores", "hook_rot_q", "hook_rot_k"):
            t = t[0]
        if name.endswith(("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")):
            if name.startswith("vision."):
                t = t.reshape(t.shape[0], c.vision_config.num_attention_heads, -1)
            else:
                t = t.reshape(t.shape[0], -1, c.text_config.head_dim)
        if name.endswith("hook_attn_scores"):
            t = t[:, -3:]
        out[name] = t
    return out


# ---------------------------------------------------------------- analyses

def cam_from(feat, grad, keep):
    """LLaVA-CAM over the rows `keep`: alpha = mean over rows of the gradient; raw = features . alpha."""
    f, g = feat[keep], grad[keep]
    alpha = g.mean(0)
    raw = (f * alpha).sum(1)
    return raw.relu(), raw, alpha, g


SITES = {"ln2": "blocks.%d.ln2.hook_normalized", "ln1": "blocks.%d.ln1.hook_normalized", "resid_pre": "blocks.%d.hook_resid_pre",
         "v": "blocks.%d.attn.hook_v"}


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
        for site, pat in SITES.items():
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
        feats = [v[SITES["ln2"] % i] for i in range(n_layers)]
        grads = torch.autograd.grad(y, feats)
        h, r, _, _ = zip(*(cam_from(f[0].detach(), gr[0], image_rows) for f, gr in zip(feats, grads)))
        heats.append(torch.stack(h))
        raws.append(torch.stack(r))
    heat = torch.stack(heats).mean(0)
    top = heat.max(1, keepdim=True).values
    norm = torch.where(top > 0, heat / top.clamp(min=1e-30), torch.zeros_like(heat))
    return {"smooth/pixels": noisy, "smooth/cam/sum/ln2": heat, "smooth/cam/sum/ln2/raw": torch.stack(raws).mean(0), "smooth/cam/sum/ln2/norm": norm}


def flow(v, n_layers, cls, p, n_answer):
    share = torch.zeros(n_layers, n_answer, len(CLASSES))
    for i in range(n_layers):
        a = v[f"blocks.{i}.attn.hook_pattern"].detach().mean(0)
        for q in range(n_answer):
            for c in range(len(CLASSES)):
                share[i, q, c] = a[p - 1 + q][cls == c].sum()
    assert (share.sum(-1) - 1).abs().max() < 1e-5
    return share


# ---------------------------------------------------------------- one checkpoint

def greedy(model, ids, pixels, n, bad=()):
    """n greedy tokens and their logits, by full passes; None when a token in `bad` comes up."""
    ids, rows = list(ids), []
    for _ in range(n):
        with torch.no_grad():
            z = model(input_ids=torch.tensor([ids]), pixel_values=pixels[None], use_cache=False).logits[0, -1]
        rows.append(z)
        ids.append(int(z.argmax()))
        if ids[-1] in bad:
            return None, None
    return ids[-n:], torch.stack(rows)


def find_seed(spec, pixels, idss, bad):
    """The first seed whose greedy answers are varied, clear of special ids, and not decided by rounding."""
    why = []
    for seed in range(spec["seed"], spec["seed"] + 300):
        model, tok = build(spec, seed)
        ok = True
        for pic, pr in CASES:
            g, z = greedy(model, idss[pr], pixels[pic], N_NEW, bad)
            if g is None:
                ok = False
                why.append("special")
                break
            top = z.topk(2).values
            if len(set(g)) < 5 or (top[:, 0] - top[:, 1]).min() < 0.01 or len(set(g[:3])) < 3:
                why.append(f"{len(set(g))} {float((top[:, 0] - top[:, 1]).min()):.3g}")
                ok = False
                break
        if ok:
            return seed, model, tok
    raise SystemExit(f"no usable seed: {why}")


def sensitivity(model, ids, pixels):
    """How far the logits move when one thing is wrong: a golden that does not notice is worthless."""
    base = run(model, ids, pixels)[0]
    res = {}

    def probe(name, mods, attr, value):
        old = [getattr(m, attr) for m in mods]
        for m in mods:
            setattr(m, attr, value)
        res[name] = float((run(model, ids, pixels)[0] - base).abs().max())
        for m, o in zip(mods, old):
            setattr(m, attr, o)
    norms = [m for m in model.modules() if isinstance(m, modeling_llama.LlamaRMSNorm)]
    lns = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    probe("rms eps 1e-6", norms, "variance_epsilon", 1e-6)
    probe("layer norm eps %g" % (1e-6 if lns[0].eps == 1e-5 else 1e-5), lns, "eps", 1e-6 if lns[0].eps == 1e-5 else 1e-5)
    rot = model.model.language_model.rotary_emb
    old = rot.inv_freq
    dim = model.config.text_config.head_dim
    rot.inv_freq = 1.0 / (10000.0 ** (torch.arange(0, dim, 2).float() / dim))
    res["rope theta 10000"] = float((run(model, ids, pixels)[0] - base).abs().max())
    rot.inv_freq = old
    return res


def noise_floor(model, ids, answer, pixels, image_rows):
    """The distance of the float32 numbers from a float64 run: no implementation can be asked to come closer."""
    both = []
    for dt in (torch.float32, torch.float64):
        m = copy.deepcopy(model).to(dt)
        if dt == torch.float64:
            rot = m.model.language_model.rotary_emb
            rot.inv_freq = model.model.language_model.rotary_emb.inv_freq.clone()
        cam, v = cams(m, ids, answer, 5, pixels.to(dt), image_rows)
        cam.pop("_cls_grad")
        both.append({**{k: t.detach() for k, t in v.items()}, **cam, "logits": run(m, ids, pixels.to(dt))[0]})
    rel = {k: float((both[1][k] - both[0][k]).abs().max() / both[1][k].abs().max().clamp(min=1e-30)) for k in both[0]}
    return {"logits": rel["logits"], "worst_site": max((k for k in rel if "cam" not in k), key=rel.get), "worst_site_value": max(x for k, x in rel.items() if "cam" not in k),
            "worst_cam": max((k for k in rel if "cam" in k), key=rel.get), "worst_cam_value": max(x for k, x in rel.items() if "cam" in k)}


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
        arrays[c + "flow/share"] = flow(va, n_layers, cls, p, N_ANSWER)
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
    c, a = model.config.text_config, lambda n: arrays["c0/" + n]

    def same(x, y, what):
        assert x.shape == y.shape and (x - y).abs().max() <= 1e-5 * (1 + y.abs().max()), what
    m = model.model
    same(a("hook_embed"), a("blocks.0.hook_resid_pre"), "embed")
    rows = a("ids") == model.config.image_token_index
    same(a("hook_embed")[rows], a("projector.hook_out"), "splice")
    same(a("projector.hook_post"), torch.nn.functional.gelu(a("projector.hook_pre")), "projector")
    same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")
    skip = 1 if model.config.vision_feature_select_strategy == "default" else 0
    last = kept_layers(model.config) - 1
    same(a("projector.hook_in"), a(f"vision.blocks.{last}.hook_resid_post")[skip:], "feature layer")
    pos = torch.arange(a("ids").shape[0])
    ang = pos[:, None].float() * m.language_model.rotary_emb.inv_freq
    cos, sin = ang.cos()[:, None], ang.sin()[:, None]

    def rope(x):
        h = x.shape[-1] // 2
        return torch.cat([x[..., :h] * cos - x[..., h:] * sin, x[..., h:] * cos + x[..., :h] * sin], -1)
    groups = c.num_attention_heads // c.num_key_value_heads
    for i in range(c.num_hidden_layers):
        b = lambda n: a(f"blocks.{i}." + n)
        for x in "qk":
            same(b(f"attn.hook_rot_{x}"), rope(b(f"attn.hook_{x}")), "rope")
        k = b("attn.hook_rot_k").repeat_interleave(groups, 1)
        s = torch.einsum("qhd,khd->hqk", b("attn.hook_rot_q"), k) * c.head_dim ** -0.5
        same(b("attn.hook_attn_scores"), s[:, -3:], "scores")
        s = s.masked_fill(torch.ones_like(s[0]).triu(1).bool(), float("-inf"))
        same(b("attn.hook_pattern"), s.softmax(-1), "pattern")
        same(b("attn.hook_z"), torch.einsum("hqk,khd->qhd", b("attn.hook_pattern"), b("attn.hook_v").repeat_interleave(groups, 1)), "z")
        same(b("hook_resid_mid"), b("hook_resid_pre") + b("hook_attn_out"), "mid")
        same(b("hook_resid_post"), b("hook_resid_mid") + b("hook_mlp_out"), "post")
        same(b("mlp.hook_post"), torch.nn.functional.silu(b("mlp.hook_pre")) * b("mlp.hook_pre_linear"), "mlp")
        for n, at, w in (("ln1", "hook_resid_pre", m.language_model.layers[i].input_layernorm.weight), ("ln2", "hook_resid_mid", m.language_model.layers[i].post_attention_layernorm.weight)):
            x = b(at)
            same(b(n + ".hook_normalized"), x * (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).rsqrt() * w, n)
    v = model.config.vision_config
    act = (lambda x: x * torch.sigmoid(1.702 * x)) if v.hidden_act == "quick_gelu" else torch.nn.functional.gelu
    for i in range(last + 1):
        b = lambda n: a(f"vision.blocks.{i}." + n)
        s = torch.einsum("qhd,khd->hqk", b("attn.hook_q"), b("attn.hook_k")) * (v.hidden_size // v.num_attention_heads) ** -0.5
        same(b("attn.hook_pattern"), s.softmax(-1), "vision pattern")
        same(b("attn.hook_z"), torch.einsum("hqk,khd->qhd", b("attn.hook_pattern"), b("attn.hook_v")), "vision z")
        same(b("hook_resid_mid"), b("hook_resid_pre") + b("hook_attn_out"), "vision mid")
        same(b("hook_resid_post"), b("hook_resid_mid") + b("hook_mlp_out"), "vision post")
        same(b("mlp.hook_post"), act(b("mlp.hook_pre")), "vision mlp")
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
