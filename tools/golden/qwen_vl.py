# SPDX-License-Identifier: MIT
"""A tiny random Qwen-VL (first generation) folder in the remote-code layout.

transformers has no class for it, so it is put together from parts that it and torch have: the decoder is transformers' Qwen3Model
whose query norm is LogN and whose key norm is nothing (what is left is Qwen-7B's layer), with a rotary embedding whose
frequencies stretch; the resampler's attention is torch's MultiheadAttention. The official remote code (transformers 4.37) was run
on the folder: ids, pixels and greedy tokens (with its cache) are the same, logits to 1e-6 of the largest.
"""
import base64
import math
import os
import shutil
import sys
import types

import regex
import tiktoken
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Qwen3Config, Qwen3Model
from transformers.image_processing_utils import get_size_dict
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen3 import modeling_qwen3

import common
import family
import text
import tiny
from common import CLIP_MEAN, CLIP_STD
from corpus import TEXT

N_SLOT, GRID = 256, 16      # slots of a picture; the resampler's queries and the stored positions are GRID x GRID
N_RANK, N_VOCAB = 280, 498
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)] + ["<ref>", "</ref>", "<box>", "</box>", "<quad>",
        "</quad>", "<img>", "</img>", "<imgpad>"]
VISION = dict(width=32, layers=2, heads=2, mlp_ratio=1.99, image_size=20, patch_size=5, output_dim=128)
TEXT_CONFIG = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, kv_channels=64, intermediate_size=96, layer_norm_epsilon=2e-3,
                   rotary_emb_base=700, seq_length=352)
SYSTEM = "You are a helpful assistant."
SHORT, LONG = "What is it?", " ".join(TEXT[7:9])
# picture, question. Rows against seq_length: c0 is longer (alpha 3), c1 and c2 are shorter, c3 is more than twice as long (alpha 7).
CASES = [("a", LONG + " What is it?"), ("b", SHORT), ("a", "Is there a cat?"), ("b", " ".join(TEXT[7:14] + TEXT[:5]) + " Why?")]
SIZES = {"a": (30, 30), "b": (61, 26), "c": (7, 80), "d": (28, 28), "e": (90, 3), "f": (17, 23), "g": (1, 1), "h": (40, 30)}
ROWS = 4        # of the large decoder sites of c0 the last ones are stored


# ---------------------------------------------------------------- tokenizer

def byte_order():
    """GPT-2's order of the 256 bytes: the printable ones first."""
    first = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return first + [b for b in range(256) if b not in first]


def train_ranks():
    """qwen.tiktoken: the bytes, then the most frequent pairs of the corpus one after the other."""
    ranks = {bytes([b]): i for i, b in enumerate(byte_order())}
    words = [[bytes([b]) for b in w.encode()] for line in TEXT + ["system", "assistant", SYSTEM] * 3 for w in regex.findall(text.QWEN_SPLIT, line)]
    while len(ranks) < N_RANK:
        count = {}
        for w in words:
            for pair in zip(w, w[1:]):
                count[pair] = count.get(pair, 0) + 1
        best = max(count, key=lambda p: (count[p], p))
        ranks[best[0] + best[1]] = len(ranks)
        for w in words:
            i = 0
            while i + 1 < len(w):
                if (w[i], w[i + 1]) == best:
                    w[i:i + 2] = [w[i] + w[i + 1]]
                i += 1
    return ranks


class QwenTokenizer:
    """tiktoken over ranks, the special tokens behind them; prompts are put together from ids."""

    def __init__(self, ranks):
        self.ranks, self.special = ranks, {t: len(ranks) + i for i, t in enumerate(SPECIALS)}
        self.encoding = tiktoken.Encoding("qwen", pat_str=text.QWEN_SPLIT, mergeable_ranks=ranks, special_tokens=self.special)

    def save(self, path):
        with open(path, "wb") as f:
            f.writelines(base64.b64encode(t) + b" %d\n" % i for t, i in self.ranks.items())

    def plain(self, s):
        return self.encoding.encode(s, allowed_special=set(), disallowed_special=())

    def slots(self, path):
        """A picture: the bytes of its path are the ids, whatever the tokens with these ids are; then padding."""
        b = list(path.encode())
        return [self.special["<img>"], *b, *[self.special["<imgpad>"]] * (N_SLOT - len(b)), self.special["</img>"]]

    def prompt(self, path, question):
        """(ids, first image row, rows of the system turn)"""
        start, end, nl = [self.special["<|im_start|>"]], [self.special["<|im_end|>"]], self.plain("\n")
        system = start + self.plain("system") + nl + self.plain(SYSTEM) + end
        head = system + nl + start + self.plain("user") + nl + self.plain("Picture 1: ")
        return head + self.slots(path) + self.plain("\n" + question) + end + nl + start + self.plain("assistant") + nl, len(head) + 1, len(system)

    def decode(self, ids):
        return self.encoding.decode(ids)


def prompt_text(path, question):
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nPicture 1: <img>{path}</img>\n{question}<|im_end|>\n<|im_start|>assistant\n"


# ---------------------------------------------------------------- the model

def eager_attention_forward(module, query, key, value, attention_mask, scaling, **_):
    """The tower's attention; the recorder wraps it."""
    p = (query @ key.transpose(-1, -2) * scaling).softmax(-1)
    return (p @ value).transpose(1, 2), p


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, n, nn.Linear(width, width))

    def forward(self, x):
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        z, _ = sys.modules[__name__].eager_attention_forward(self, q, k, v, None, scaling=q.shape[-1] ** -0.5)
        return self.out_proj(z.flatten(-2))


class Block(nn.Module):
    def __init__(self, width, heads, mlp):
        super().__init__()
        self.layer_norm1, self.self_attn, self.layer_norm2 = nn.LayerNorm(width, eps=1e-6), Attention(width, heads), nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp), "fc2": nn.Linear(mlp, width)})
        self.mlp.fc1, self.mlp.fc2 = self.mlp["fc1"], self.mlp["fc2"]

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp.fc2(nn.functional.gelu(self.mlp.fc1(self.layer_norm2(x))))


def resampled(positions, side):
    """A stored GRID x GRID table for side x side places: bicubic, corners not aligned, no antialiasing."""
    x = positions.unflatten(0, (GRID, GRID)).permute(2, 0, 1)[None]
    return positions if side == GRID else nn.functional.interpolate(x, (side, side), mode="bicubic", align_corners=False)[0].flatten(1).T


class Tower(nn.Module):
    def __init__(self, v):
        super().__init__()
        self.side = v["image_size"] // v["patch_size"]
        self.conv1 = nn.Conv2d(3, v["width"], v["patch_size"], v["patch_size"], bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(N_SLOT, v["width"]))
        self.embed, self.ln_pre = nn.Identity(), nn.LayerNorm(v["width"], eps=1e-6)
        self.layers = nn.ModuleList([Block(v["width"], v["heads"], int(v["width"] * v["mlp_ratio"])) for _ in range(v["layers"])])

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = self.ln_pre(self.embed(x + resampled(self.positional_embedding, self.side)))
        for b in self.layers:
            x = b(x)
        return x


class Resampler(nn.Module):
    def __init__(self, width, d, side):
        super().__init__()
        self.side, self.heads = side, d // 128
        self.query, self.pos_embed = nn.Parameter(torch.empty(N_SLOT, d)), nn.Parameter(torch.empty(N_SLOT, d))
        self.kv_proj = nn.Linear(width, d, bias=False)
        self.attn = nn.MultiheadAttention(d, self.heads, batch_first=True)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(d, eps=1e-6) for _ in range(3))
        self.proj = nn.Parameter(torch.empty(d, d))
        self.pattern = nn.Identity()

    def forward(self, x):
        kv = self.ln_kv(self.kv_proj(x))
        q = (self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1)
        out, p = self.attn(q, kv + resampled(self.pos_embed, self.side), kv, average_attn_weights=False)
        self.pattern(p)
        return self.ln_post(out) @ self.proj


class Rotary(nn.Module):
    """Dynamic NTK: from seq_length rows on, the base of the whole run grows in steps with the number of rows."""

    def __init__(self, d, base, seq_length):
        super().__init__()
        self.d, self.base, self.seq_length = d, base, seq_length
        self.inv_freq = self.stretched(1)

    def alpha(self, n):
        return max(2 ** math.ceil(math.log2(n / self.seq_length) + 1) - 1, 1)

    def stretched(self, alpha):
        """(base alpha^(d/(d-2)))^(-2i/d), in the official code's float32."""
        return 1.0 / (self.base * alpha ** (self.d / (self.d - 2))) ** (torch.arange(0, self.d, 2).float() / self.d)

    def frequencies(self, n):
        """`inv_freq` (which the maker changes to see whether it matters) stretched for n rows."""
        return (self.inv_freq.double() * self.stretched(self.alpha(n)).double() / self.stretched(1).double()).float()

    def forward(self, x, position_ids):
        angle = position_ids[..., None].float() * self.frequencies(x.shape[1])
        return torch.cat([angle, angle], -1).cos().to(x.dtype), torch.cat([angle, angle], -1).sin().to(x.dtype)


class LogN(nn.Module):
    """Queries [batch, rows, heads, d] behind row seq_length grow with the logarithm of their place."""

    def __init__(self, seq_length):
        super().__init__()
        self.seq_length = seq_length

    def factors(self, n):
        return torch.tensor([math.log(i, self.seq_length) if i > self.seq_length else 1.0 for i in range(1, n + 1)])

    def forward(self, q):
        return q * self.factors(q.shape[1])[:, None, None].to(q.dtype)


class QwenVL(nn.Module):
    def __init__(self, image_start):
        super().__init__()
        c, v = TEXT_CONFIG, VISION
        assert c["kv_channels"] * c["num_attention_heads"] == c["hidden_size"] == v["output_dim"]
        self.image_start = image_start
        config = Qwen3Config(vocab_size=N_VOCAB, hidden_size=c["hidden_size"], num_hidden_layers=c["num_hidden_layers"],
                             num_attention_heads=c["num_attention_heads"],
                             num_key_value_heads=c["num_attention_heads"], head_dim=c["kv_channels"], intermediate_size=c["intermediate_size"] // 2,
                             rms_norm_eps=c["layer_norm_epsilon"], attention_bias=True, max_position_embeddings=8192, attn_implementation="eager")
        self.lm = Qwen3Model(config)
        self.lm.rotary_emb = Rotary(c["kv_channels"], c["rotary_emb_base"], c["seq_length"])
        for b in self.lm.layers:
            b.self_attn.q_norm, b.self_attn.k_norm = LogN(c["seq_length"]), nn.Identity()
            b.self_attn.o_proj.bias = None
        self.lm_head = nn.Linear(c["hidden_size"], N_VOCAB, bias=False)
        self.tower = Tower(v)
        self.resampler = Resampler(v["width"], v["output_dim"], self.tower.side)

    def forward(self, input_ids, pixel_values, use_cache=False):
        x = self.lm.embed_tokens(input_ids).clone()
        at = int((input_ids[0] == self.image_start).nonzero()[0]) + 1
        assert input_ids[0, at + N_SLOT] == self.image_start + 1
        x[0, at:at + N_SLOT] = self.resampler(self.tower(pixel_values))[0]
        return types.SimpleNamespace(logits=self.lm_head(self.lm(inputs_embeds=x, use_cache=False).last_hidden_state))


def attach(r, model):
    t = model.tower
    r.out(t.embed, "vision.hook_embed")
    r.out(t.ln_pre, "vision.ln_pre.hook_normalized")
    for i, b in enumerate(t.layers):
        p = f"vision.blocks.{i}."
        r.inp(b, p + "hook_resid_pre")
        r.out(b.layer_norm1, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(b.self_attn.out_proj, p + "attn.hook_z")
        r.out(b.self_attn.out_proj, p + "hook_attn_out")
        family.attach_vision_mlp(r, b, p)
        r.names[id(b.self_attn)] = p
    r.watch(sys.modules[__name__], lambda p, q, k, w, s: r.v.__setitem__(p + "attn.hook_pattern", w[0]))
    s = model.resampler
    r.inp(s.kv_proj, "projector.hook_in")
    r.handles.append(s.pattern.register_forward_hook(lambda _m, _a, out: r.v.__setitem__("projector.cross.hook_pattern", out[0])))
    r.out(s, "projector.hook_out")
    family.attach_llama(r, model.lm, modeling_qwen3)


def parts(model):
    return tiny.Parts(model.lm, model.lm_head, attach, VISION["heads"], VISION["layers"], skip=0)


def spread(name, p):
    """Sizes that make mistakes visible. The tower's and the resampler's norms have eps 1e-6, so what they see is small."""
    fan = p[0].numel() ** 0.5
    if name in ("tower.positional_embedding", "resampler.query"):
        return 0.003, 0.0
    if name == "resampler.pos_embed":
        return 0.5, 0.0
    if "ln_pre" in name:
        return 0.004, 0.006 if name.endswith("weight") else 0.0
    if "norm" in name or ".ln_" in name:
        return (0.2, 1.0) if name.endswith("weight") else (0.05, 0.0)
    if "embed_tokens" in name:
        return 0.08, 0.0
    if "lm_head" in name:
        return 0.2, 0.0
    tower = name.startswith("tower")
    writes = tower and ("out_proj" in name or "fc2" in name)      # into the tower's residual stream
    if name.endswith("bias"):
        return 0.002 if writes else 0.05, 0.0
    gains = {"conv1": 0.003, "q_proj": 1.6, "k_proj": 1.6, "v_proj": 0.5, "kv_proj": 0.3, "in_proj_weight": 1.2, "out_proj": 0.01 if tower else 0.02,
             "o_proj": 0.5, "fc1": 0.9, "fc2": 0.01, "gate_proj": 0.9, "up_proj": 0.9, "down_proj": 0.4, "resampler.proj": 0.1}
    return gains[max((part for part in gains if part in name), key=len)] / fan, 0.0


def build(tok, seed):
    model = QwenVL(tok.special["<img>"]).eval()
    family.draw_weights(model, seed, torch.bfloat16, spread)
    with torch.no_grad():       # almost half of the vocabulary is special: keep it out of the answers
        model.lm_head.weight[N_RANK:] *= 0.125
    return model.requires_grad_(True)


# ---------------------------------------------------------------- the folder

def disk_weights(model):
    sd, out, d = model.state_dict(), {}, VISION["width"] // VISION["heads"]
    names = {"lm.embed_tokens": "transformer.wte", "lm.norm": "transformer.ln_f", "lm.layers": "transformer.h", "input_layernorm": "ln_1",
             "post_attention_layernorm": "ln_2",
             "self_attn.o_proj": "attn.c_proj", "mlp.gate_proj": "mlp.w2", "mlp.up_proj": "mlp.w1", "mlp.down_proj": "mlp.c_proj",
             "tower.layers": "transformer.visual.transformer.resblocks", "tower.": "transformer.visual.", "layer_norm1": "ln_1",
             "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "resampler.ln_post": "transformer.visual.ln_post",
             "resampler.proj": "transformer.visual.proj", "resampler.": "transformer.visual.attn_pool."}

    def renamed(key):
        for a, b in names.items():
            if a in key and not (a.endswith(".") and not key.startswith(a)):
                key = key.replace(a, b)
        return key
    for key, x in sd.items():
        if "k_proj" in key or ("v_proj" in key and "kv_proj" not in key):
            continue
        if "q_proj" in key:
            q, k, v = (sd[key.replace("q_proj", n + "_proj")] for n in "qkv")
            if key.startswith("lm."):
                out[renamed(key).replace("self_attn.q_proj", "attn.c_attn")] = torch.cat([q, k, v])
            else:       # head by head: its queries, keys, values
                out[renamed(key).replace("self_attn.q_proj", "attn.in_proj")] = torch.cat([y.unflatten(0, (-1, d)) for y in (q, k, v)], 1).flatten(0,
                        1)
        else:
            out[renamed(key)] = x
    return {k: v.to(torch.bfloat16).contiguous() for k, v in out.items()}


def write_files(d, tok):
    tok.save(os.path.join(d, "qwen.tiktoken"))
    common.write_json(os.path.join(d, "config.json"), {
        "architectures": ["QWenLMHeadModel"], "attn_dropout_prob": 0.0, "auto_map": {"AutoConfig": "configuration_qwen.QWenConfig",
                "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
        "bf16": True, "emb_dropout_prob": 0.0, "fp16": False, "fp32": False, "initializer_range": 0.02, "max_position_embeddings": 8192,
        "model_type": "qwen", "no_bias": True,
        "onnx_safe": None, "rotary_pct": 1.0, "scale_attn_weights": True, "tie_word_embeddings": False, "tokenizer_type": "QWenTokenizer",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.31.0", "use_cache": True, "use_dynamic_ntk": True, "use_flash_attn": False, "use_logn_attn": True,
        "visual": {**VISION, "image_start_id": tok.special["<img>"]}, "vocab_size": N_VOCAB, **TEXT_CONFIG})
    common.write_json(os.path.join(d, "generation_config.json"), {
        "chat_format": "chatml", "do_sample": True, "eos_token_id": tok.special["<|endoftext|>"], "max_new_tokens": 512, "max_window_size": 6144,
        "pad_token_id": tok.special["<|endoftext|>"], "top_k": 0, "top_p": 0.3, "transformers_version": "4.31.0"})
    common.write_json(os.path.join(d, "tokenizer_config.json"), {"auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]},
                                                                 "clean_up_tokenization_spaces": True,
                                                                 "model_max_length": 8192, "tokenizer_class": "QWenTokenizer"})


def pixels_of(image):
    """[3, h, w]: squashed, bicubic, CLIP's mean and standard deviation."""
    s = VISION["image_size"]
    p = CLIPImageProcessorPil(size=get_size_dict({"height": s, "width": s}), do_center_crop=False, image_mean=CLIP_MEAN, image_std=CLIP_STD)
    return p(images=image, return_tensors="pt")["pixel_values"][0].to(torch.float32)


def make_case(tok, d, picture, question):
    name = picture + ".png"
    image = Image.open(os.path.join(d, name))
    px = pixels_of(image)
    ids, first, n_system = tok.prompt(name, question)
    cls = torch.full((len(ids),), 3)
    cls[:n_system] = 0
    cls[first - 1:first + N_SLOT + 1] = 2
    cls[first:first + N_SLOT] = 1
    rotary = Rotary(TEXT_CONFIG["kv_channels"], TEXT_CONFIG["rotary_emb_base"], TEXT_CONFIG["seq_length"])
    assert rotary.alpha(len(ids)) == rotary.alpha(len(ids) + tiny.N_NEW)        # decoding keeps alpha, so full passes must not change it
    return tiny.Case(name, prompt_text(name, question), ids, {"pixel_values": px[None]}, torch.arange(first, first + N_SLOT), cls,
                     {"question": question, "size": list(image.size)[::-1], "views": 1, "n_token": len(ids), "ntk_alpha": rotary.alpha(len(ids))},
                     {"pixels": px[None]})


def stored(arrays, n_row):
    """Of c0's large arrays the last rows (or the first of the resampler's), named as sightline names a selection of rows."""
    out = {}
    for key, x in arrays.items():
        site = key.removeprefix("c0/")
        last = f"@-{ROWS}--1"
        if not key.startswith("c0/") or site.startswith(("vision.", "cam/", "flow/", "plan/")) and not site.endswith("grad") or site in ("pixels",
                "ids", "greedy", "greedy.logits"):
            out[key] = x
        elif site == "cam/sum/ln2/grad":
            out[key + "@0-7"] = x[:, :8]
        elif site in ("projector.hook_out", "projector.cross.hook_pattern"):
            out[key + "@0-15"] = x[..., :16, :]
        elif site.startswith(("projector", "cam")) or site.endswith("attn_scores"):
            out[key] = x
        elif site.endswith("hook_pattern"):
            out[key + last] = x[:, -ROWS:]
        else:
            assert x.shape[0] == n_row, key
            out[key + last] = x[-ROWS:]
    return out


def wrong(model):
    """Settings that must matter."""
    far = 10 ** 6
    shift = nn.Parameter(torch.roll(model.resampler.pos_embed.detach(), 1, 0))
    transposed = nn.Parameter(model.resampler.proj.detach().T)
    return {"no dynamic NTK": [(model.lm.rotary_emb, "seq_length", far)], "no logN": [(b.self_attn.q_norm, "seq_length", far) for b in model.lm.layers],
            "resampler positions": [(model.resampler, "pos_embed", shift)], "proj transposed": [(model.resampler, "proj", transposed)]}


def make_one(out, name="qwen-vl"):
    d = os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    tok = QwenTokenizer(train_ranks())
    write_files(d, tok)
    tiny.pictures(d, SIZES, 600)
    cases = [make_case(tok, d, p, q) for p, q in CASES]
    assert [c.facts["ntk_alpha"] for c in cases] == [3, 1, 1, 7], [(len(c.ids), c.facts["ntk_alpha"]) for c in cases]
    seed, model = tiny.find_seed(lambda s: build(tok, s), parts, cases, 600, set(range(N_RANK, N_VOCAB)))
    save_file(disk_weights(model), os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    arrays, infos, peak = tiny.measure(model, parts, cases, tok.decode, 0, (cases[0].span[0] - 1, cases[0].span[1] + 1), generate=lambda *_: None)
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"], wrong(model))
    with torch.no_grad():
        consistency(model, arrays)
    small = stored(arrays, len(cases[0].ids))
    small.update({f"views/{p}.png/pixels": pixels_of(Image.open(os.path.join(d, p + ".png")))[None] for p in SIZES if p not in dict(CASES)})
    common.write_arrays(os.path.join(d, "golden.safetensors"), small)
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers in float32 with eager attention, weights as stored on disk.",
        "numbers": "transformers' Qwen3 layers and torch's MultiheadAttention; the official remote code on this folder gives the same",
        "versions": {**common.versions(), "tiktoken": tiktoken.__version__}, "seed": seed, "layout": "remote", "weights_dtype": "bfloat16",
        "vision_layers_run": VISION["layers"], "image_start_id": tok.special["<img>"], "slots": N_SLOT, "classes": family.CLASSES,
        "cam_undefined": {"ln2": [TEXT_CONFIG["num_hidden_layers"] - 1]},
        "cam_vision_layer": VISION["layers"] - 1, "rows": "a name's @a-b says which rows are stored; negative ones count from the end",
        "attention_peak": peak, **hard, "special": {t: tok.special[t] for t in SPECIALS if "extra" not in t}, "cases": infos})
    check(d, tok, arrays, infos)
    for f in os.listdir(d):
        os.chmod(os.path.join(d, f), 0o644)
    size = sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d))
    print(f"{name}: seed {seed}, {size // 1024} KiB, {peak} {hard}")
    assert size < 1300 * 1024, size


def consistency(model, arrays):
    """The recorded sites must fit together the way their names say (catches a hook put on the wrong module)."""
    n = len(arrays["c0/ids"])
    logn = model.lm.layers[0].self_attn.q_norm.factors(n)[:, None, None]

    def a(name):
        x = arrays["c0/" + name]
        return x * logn if name.startswith("blocks") and name.endswith("attn.hook_q") else x
    rotary = model.lm.rotary_emb
    plain, rotary.inv_freq = rotary.inv_freq, rotary.frequencies(n)
    family.check_llama(a, model.lm, model.lm.config)
    rotary.inv_freq = plain
    family.check_vision(a, types.SimpleNamespace(hidden_act="gelu", hidden_size=VISION["width"], num_attention_heads=VISION["heads"]),
                        VISION["layers"], model.tower.side ** 2)
    family.same(a("vision.ln_pre.hook_normalized"), a("vision.blocks.0.hook_resid_pre"), "ln_pre")
    family.same(a("projector.hook_in"), a(f"vision.blocks.{VISION['layers'] - 1}.hook_resid_post"), "tower's output")
    at = int((a("ids") == model.image_start).nonzero()[0]) + 1
    family.same(a("hook_embed")[at:at + N_SLOT], a("projector.hook_out"), "slots")
    family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")
    # The resampler once more, by hand: values carry no positions.
    s, x = model.resampler, a("projector.hook_in")
    kv = s.ln_kv(s.kv_proj(x))
    wq, wk, wv = s.attn.in_proj_weight.chunk(3)
    bq, bk, bv = s.attn.in_proj_bias.chunk(3)
    p = (((s.ln_q(s.query) + s.pos_embed) @ wq.T + bq) @ ((kv + resampled(s.pos_embed, s.side)) @ wk.T + bk).T * 128 ** -0.5).softmax(-1)
    family.same(a("projector.cross.hook_pattern")[0], p, "resampler pattern")
    family.same(a("projector.hook_out"), s.ln_post(s.attn.out_proj(p @ (kv @ wv.T + bv))) @ s.proj, "resampler")


def check(d, tok, arrays, infos):
    """Read the weights back by another way than they were written and compare."""
    sd, d_head = {k: v.float() for k, v in load_file(os.path.join(d, "model.safetensors")).items()}, VISION["width"] // VISION["heads"]
    model, got = QwenVL(tok.special["<img>"]).eval(), {}
    for i in range(TEXT_CONFIG["num_hidden_layers"]):
        h, m = f"transformer.h.{i}.", f"lm.layers.{i}."
        for kind in ("weight", "bias"):
            got.update({f"{m}self_attn.{x}_proj.{kind}": y for x, y in zip("qkv", sd[f"{h}attn.c_attn.{kind}"].chunk(3))})
        for theirs, ours in (("attn.c_proj", "self_attn.o_proj"), ("mlp.w1", "mlp.up_proj"), ("mlp.w2", "mlp.gate_proj"),
                             ("mlp.c_proj", "mlp.down_proj"), ("ln_1", "input_layernorm"), ("ln_2", "post_attention_layernorm")):
            got[f"{m}{ours}.weight"] = sd[f"{h}{theirs}.weight"]
    for i in range(VISION["layers"]):
        h, m = f"transformer.visual.transformer.resblocks.{i}.", f"tower.layers.{i}."
        for kind in ("weight", "bias"):
            heads = sd[f"{h}attn.in_proj.{kind}"].unflatten(0, (VISION["heads"], 3, d_head))
            got.update({f"{m}self_attn.{x}_proj.{kind}": heads[:, j].flatten(0, 1) for j, x in enumerate("qkv")})
            for theirs, ours in (("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("ln_1", "layer_norm1"),
                                 ("ln_2", "layer_norm2")):
                got[f"{m}{ours}.{kind}"] = sd[f"{h}{theirs}.{kind}"]
    for key, x in sd.items():
        if key.startswith("transformer.visual.") and "resblocks" not in key:
            k = key.removeprefix("transformer.visual.")
            got["resampler." + k.removeprefix("attn_pool.") if k.startswith(("attn_pool", "ln_post", "proj")) else "tower." + k] = x
    got.update({"lm.embed_tokens.weight": sd["transformer.wte.weight"], "lm.norm.weight": sd["transformer.ln_f.weight"],
                "lm_head.weight": sd["lm_head.weight"]})
    model.load_state_dict(got)
    for k, c in infos.items():
        with torch.no_grad():
            z = model(torch.tensor([c["ids"]]), arrays[k + "/pixels"]).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-5, k
