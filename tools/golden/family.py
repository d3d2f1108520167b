# SPDX-License-Identifier: MIT
"""What the makers of tiny checkpoints share: recording a run by sightline's site names, random weights, CAM, attention shares,
greedy decoding, and the checks that the recorded sites fit together.

A run is `run(model, ids, inputs, attach)`: `inputs` are the keyword arguments beside the ids, `attach(recorder, model)` puts
the hooks. Values are taken with forward hooks and by wrapping the modules' eager attention functions (which see q and k
after RoPE and return the pattern). Nothing of a model is re-implemented here, except the analyses, which transformers does
not have.
"""
import copy
import json
import os
import re

import torch

import common

CLASSES = ["system", "image", "structure", "user", "generated"]
CAM_SITES = {"ln2": "blocks.%d.ln2.hook_normalized", "ln1": "blocks.%d.ln1.hook_normalized", "resid_pre": "blocks.%d.hook_resid_pre",
             "v": "blocks.%d.attn.hook_v"}
SPLIT_BY_HEAD = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
BY_HEAD = ("hook_pattern", "hook_attn_scores", "hook_rot_q", "hook_rot_k")     # these come without a batch axis


# ---------------------------------------------------------------- files

def write_tokenizer_config(d, tok, specials, processor):
    """tokenizer_config.json and generation_config.json as folders with LLaMA's tokenizer have them."""
    ids = {x: tok.token_to_id(x) for x in specials}
    added = {str(i): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for x, i in ids.items()}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "<pad>", "image_token": common.IMAGE_TOKEN, "extra_special_tokens": {"image_token": common.IMAGE_TOKEN},
        "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 2048, "padding_side": "left", "processor_class": processor,
        "tokenizer_class": "LlamaTokenizer"})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": ids["<pad>"],
                                                                   "transformers_version": common.versions()["transformers"]})


def write_facts(path, facts):
    """golden.json: indented, lists of numbers on one line."""
    lines = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", json.dumps(facts, indent=1))
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write(lines + "\n")


# ---------------------------------------------------------------- recording a run

class Recorder:
    """Keeps the tensors of one forward pass, by sightline's site names, with their graph. `names` says which attention
    module is at which place, `patched` which modules' eager attention function is wrapped."""

    def __init__(self, model, attach):
        self.model, self.attach, self.v, self.handles, self.names, self.patched = model, attach, {}, [], {}, {}

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

    def watch(self, python_module, see):
        """Wraps python_module.eager_attention_forward: see(prefix, query, key, weights, scaling) for the modules in `names`."""
        original = python_module.eager_attention_forward

        def f(module, query, key, value, attention_mask, scaling, **kw):
            o, w = original(module, query, key, value, attention_mask, scaling=scaling, **kw)
            if id(module) in self.names:
                see(self.names[id(module)], query, key, w, scaling)
            return o, w
        self.patched[python_module] = original
        python_module.eager_attention_forward = f

    def __enter__(self):
        self.attach(self, self.model)
        return self

    def __exit__(self, *_):
        for m, original in self.patched.items():
            m.eager_attention_forward = original
        for h in self.handles:
            h.remove()


def attach_clip(r, tower, python_module):
    """A tower of CLIP's layers; the views are the batch. The pattern is that of view 0."""
    r.out(tower.embeddings, "vision.hook_embed")
    r.out(tower.pre_layrnorm, "vision.ln_pre.hook_normalized")
    for i, b in enumerate(tower.encoder.layers):
        p = f"vision.blocks.{i}."
        r.inp(b, p + "hook_resid_pre")
        r.out(b.layer_norm1, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(b.self_attn.out_proj, p + "attn.hook_z")
        r.out(b.self_attn.out_proj, p + "hook_attn_out")
        attach_vision_mlp(r, b, p)
        r.names[id(b.self_attn)] = p
    r.watch(python_module, lambda p, q, k, w, s: r.v.__setitem__(p + "attn.hook_pattern", w[0]))


def attach_vision_mlp(r, b, p):
    """Norm, MLP and output of a vision layer whose parts have CLIP's names."""
    r.inp(b.layer_norm2, p + "hook_resid_mid")
    r.out(b.layer_norm2, p + "ln2.hook_normalized")
    r.out(b.mlp.fc1, p + "mlp.hook_pre")
    r.inp(b.mlp.fc2, p + "mlp.hook_post")
    r.out(b.mlp.fc2, p + "hook_mlp_out")
    r.out(b, p + "hook_resid_post")


def attach_mlp_projector(r, pr):
    r.inp(pr.linear_1, "projector.hook_in")
    r.out(pr.linear_1, "projector.hook_pre")
    r.inp(pr.linear_2, "projector.hook_post")
    r.out(pr.linear_2, "projector.hook_out")


def attach_llama(r, lm, python_module):
    """A decoder of LLaMA's layers (LLaMA, Mistral, Qwen2)."""
    for i, b in enumerate(lm.layers):
        p = f"blocks.{i}."
        if i == 0:
            r.inp(b, "hook_embed")
        r.inp(b, p + "hook_resid_pre")
        r.out(b.input_layernorm, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(b.self_attn.o_proj, p + "attn.hook_z")
        r.out(b.self_attn.o_proj, p + "hook_attn_out")
        r.inp(b.post_attention_layernorm, p + "hook_resid_mid")
        r.out(b.post_attention_layernorm, p + "ln2.hook_normalized")
        r.out(b.mlp.gate_proj, p + "mlp.hook_pre")
        r.out(b.mlp.up_proj, p + "mlp.hook_pre_linear")
        r.inp(b.mlp.down_proj, p + "mlp.hook_post")
        r.out(b.mlp.down_proj, p + "hook_mlp_out")
        r.out(b, p + "hook_resid_post")
        r.names[id(b.self_attn)] = p
    r.out(lm.norm, "ln_final.hook_normalized")

    def see(p, query, key, w, scaling):
        r.v[p + "attn.hook_pattern"] = w[0]
        r.v[p + "attn.hook_rot_q"] = query[0].transpose(0, 1)
        r.v[p + "attn.hook_rot_k"] = key[0].transpose(0, 1)
        k = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0)
        r.v[p + "attn.hook_attn_scores"] = query[0] @ k.transpose(1, 2) * scaling
    r.watch(python_module, see)


def run(model, ids, inputs, attach, grad=False):
    """One pass over 1-d ids: (logits [P,V], {site: tensor with its batch dimension})."""
    with torch.set_grad_enabled(grad), Recorder(model, attach) as r:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0]
    return logits, r.v


def shape_sites(v, n_head_vision, d_head, layers_run=None):
    """Views stacked along rows, heads split, vision layers that are not needed dropped."""
    out = {}
    for name, t in v.items():
        t = t.detach()
        if layers_run is not None and name.startswith("vision.blocks.") and int(name.split(".")[2]) >= layers_run:
            continue
        if name.split(".")[-1] not in BY_HEAD:
            t = t.flatten(0, 1)
        if name.endswith(SPLIT_BY_HEAD):
            t = t.reshape(t.shape[0], n_head_vision, -1) if name.startswith("vision.") else t.reshape(t.shape[0], -1, d_head)
        if name.endswith("hook_attn_scores"):
            t = t[:, -3:]
        out[name] = t
    return out


# ---------------------------------------------------------------- weights

def draw_weights(model, seed, dtype, spread):
    """Every parameter random, none zero, exact in `dtype`. spread(name, parameter) = (standard deviation, mean)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            std, mean = spread(name, p)
            p.copy_(torch.randn(p.shape, generator=g) * std + mean)
            p.copy_(p.to(dtype).to(torch.float32))
            p[p == 0] = 2.0 ** -10
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    for name, p in model.named_parameters():
        assert (p != 0).all(), name


def spread_clip_llama(small_eps, tied):
    """Sizes that make mistakes visible: small activations (so eps matters), peaked attention. With CLIP's default eps the
    embeddings must be smaller still; with a tied head the blocks must outweigh the embedding, or the model repeats its last token."""
    def spread(name, p):
        vision = "vision_tower" in name
        if "pre_layrnorm.weight" in name:
            return (0.02, 0.03) if small_eps else (0.06, 0.3)
        if "pre_layrnorm.bias" in name:
            return 0.01 if small_eps else 0.05, 0.0
        if "norm" in name and name.endswith("weight"):
            return 0.2, 1.0
        if name.endswith("bias"):
            return 0.02 if vision and "mlp" in name else 0.08, 0.0
        if "class_embedding" in name or "position_embedding" in name:
            return 0.004 if small_eps else 0.05, 0.0
        if "patch_embedding" in name:
            return (0.004 if small_eps else 0.05) / p[0].numel() ** 0.5, 0.0
        if "embed_tokens" in name or "image_newline" in name:
            return 0.16 if tied else 0.08, 0.0
        if "lm_head" in name:
            return 0.4, 0.0
        gains = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 0.45, "out_proj": 0.45, "o_proj": 0.45, "gate_proj": 0.9, "up_proj": 0.9, "fc1": 0.9,
                 "down_proj": 0.4, "fc2": 0.4, "linear_1": 2.0, "linear_2": 0.3, "mm_projector": 0.6}
        if tied and not vision:
            gains.update(v_proj=1.2, out_proj=1.2, o_proj=1.2, down_proj=1.3, fc2=1.3)
        if vision:
            gains.update(v_proj=0.3, out_proj=0.3, o_proj=0.3)
        for part, gain in gains.items():
            if part in name:
                return gain / p.shape[1] ** 0.5, 0.0
        raise ValueError(name)
    return spread


# ---------------------------------------------------------------- analyses

def cam_from(feat, grad, keep):
    """LLaVA-CAM over the rows `keep`: alpha = mean over rows of the gradient; raw = features . alpha."""
    f, g = feat[keep], grad[keep]
    alpha = g.mean(0)
    raw = (f * alpha).sum(1)
    return raw.relu(), raw, alpha, g


def answer_logits(logits, start, answer):
    """z of each answer token, at the row before it."""
    rows = logits[start - 1:start - 1 + len(answer)]
    return rows[torch.arange(len(answer)), torch.tensor(answer)]


def cam_sum(logits, v, start, answer, image_rows, n_layers, vision_site=None, skip=1):
    """CAM of the sum of the answer's logits: at ln2 (with gradients) and ln1 of the decoder, and at a site of the tower, over
    the rows of all views but the first `skip` of each (CLS)."""
    y, out = answer_logits(logits, start, answer).sum(), {}
    for site in ("ln2", "ln1"):
        feats = [v[CAM_SITES[site] % i] for i in range(n_layers)]
        grads = torch.autograd.grad(y, feats, retain_graph=True)
        heat, raw, alpha, full = map(torch.stack, zip(*(cam_from(f[0].detach(), g[0], image_rows) for f, g in zip(feats, grads))))
        k = f"cam/sum/{site}"
        out[k], out[k + "/raw"], out[k + "/alpha"] = heat, raw, alpha
        if site == "ln2":
            out[k + "/grad"] = full
            assert (full[-1] == 0).all(), "last layer's post-attention norm must have zero gradient at image positions"
            full = full[:-1]
        assert all((g != 0).any() for g in full)
    if vision_site:
        g, = torch.autograd.grad(y, [v[vision_site]], retain_graph=True)
        f, g = v[vision_site].detach()[:, skip:].flatten(0, 1), g[:, skip:].flatten(0, 1)
        assert (g != 0).any()
        k = "cam/sum/vision"
        out[k], out[k + "/raw"], out[k + "/alpha"], out[k + "/grad"] = cam_from(f, g, torch.arange(len(f)))
    return out


def flow(v, n_layers, cls, p, n_answer):
    """Head-mean attention mass of the rows that predict answer tokens, on each class: [L, answer, class]."""
    share = torch.zeros(n_layers, n_answer, len(CLASSES))
    for i in range(n_layers):
        a = v[f"blocks.{i}.attn.hook_pattern"].detach().mean(0)
        for q in range(n_answer):
            for c in range(len(CLASSES)):
                share[i, q, c] = a[p - 1 + q][cls == c].sum()
    assert (share.sum(-1) - 1).abs().max() < 1e-5
    return share


# ---------------------------------------------------------------- greedy answers

def greedy(model, ids, inputs, n, bad=()):
    """n greedy tokens and their logits, by full passes; None when a token in `bad` comes up."""
    ids, rows = list(ids), []
    for _ in range(n):
        with torch.no_grad():
            z = model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0, -1]
        rows.append(z)
        ids.append(int(z.argmax()))
        if ids[-1] in bad:
            return None, None
    return ids[-n:], torch.stack(rows)


def unusable(tokens, logits, n_distinct=5, margin=0.01):
    """Why greedy answers make no good golden: special ids, too few different ones, or decided by rounding. None when they do."""
    if tokens is None:
        return "special"
    top = logits.topk(2).values
    gap = float((top[:, 0] - top[:, 1]).min())
    return f"{len(set(tokens))} {gap:.3g}" if len(set(tokens)) < n_distinct or gap < margin or len(set(tokens[:3])) < 3 else None


# ---------------------------------------------------------------- checks

def max_change(forward, base, change):
    """How far the logits move while `change` (a list of (object, attribute, wrong value)) holds."""
    old = [getattr(o, a) for o, a, _ in change]
    for o, a, x in change:
        setattr(o, a, x)
    moved = float((forward() - base).abs().max())
    for (o, a, _), x in zip(change, old):
        setattr(o, a, x)
    return moved


def wrong_settings(model, lm, d_head):
    """{what: changes} for the settings that every LLaVA-like model has: a golden that does not notice them is worthless."""
    norms = [m for m in lm.modules() if hasattr(m, "variance_epsilon")]
    lns = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    eps = 1e-6 if lns and lns[0].eps == 1e-5 else 1e-5
    freq = {theta: 1.0 / (theta ** (torch.arange(0, d_head, 2).float() / d_head)) for theta in (10000.0, 500.0)}
    ln = {"layer norm eps %g" % eps: [(m, "eps", eps) for m in lns]} if lns else {}
    if not norms:       # Gemma's have other names
        return ln
    theta = 500.0 if torch.allclose(lm.rotary_emb.inv_freq, freq[10000.0]) else 10000.0
    return {"rms eps 1e-6": [(m, "variance_epsilon", 1e-6) for m in norms], **ln, "rope theta %g" % theta: [(lm.rotary_emb, "inv_freq", freq[theta])]}


def to_float64(model, lm_of):
    """A float64 copy with the float32 run's rotary frequencies."""
    m = copy.deepcopy(model).to(torch.float64)
    for name, x in lm_of(model).rotary_emb.named_buffers():
        if name.endswith("inv_freq"):
            setattr(lm_of(m).rotary_emb, name, x.clone())
    return m


def noise(single, double):
    """The distance of float32 numbers from float64's, relative to the largest: no implementation can be asked to come closer."""
    rel = {k: float((double[k] - single[k]).abs().max() / double[k].abs().max().clamp(min=1e-30)) for k in single}
    site = {k: x for k, x in rel.items() if "cam" not in k}
    cam = {k: x for k, x in rel.items() if "cam" in k}
    return {"logits": rel["logits"], "worst_site": max(site, key=site.get), "worst_site_value": max(site.values()),
            "worst_cam": max(cam, key=cam.get), "worst_cam_value": max(cam.values())}


def same(x, y, what):
    assert x.shape == y.shape and (x - y).abs().max() <= 1e-5 * (1 + y.abs().max()), what


def check_llama(a, lm, c):
    """The decoder's sites must fit together the way their names say (catches a hook put on the wrong module). a(name) gives a site."""
    same(a("hook_embed"), a("blocks.0.hook_resid_pre"), "embed")
    pos = torch.arange(a("hook_embed").shape[0])
    ang = pos[:, None].float() * lm.rotary_emb.inv_freq
    cos, sin = ang.cos()[:, None], ang.sin()[:, None]

    def rope(x):
        h = x.shape[-1] // 2
        return torch.cat([x[..., :h] * cos - x[..., h:] * sin, x[..., h:] * cos + x[..., :h] * sin], -1)
    groups = c.num_attention_heads // c.num_key_value_heads
    hidden = pos[None] > pos[:, None]
    for i in range(c.num_hidden_layers):
        b = lambda n: a(f"blocks.{i}." + n)
        for x in "qk":
            same(b(f"attn.hook_rot_{x}"), rope(b(f"attn.hook_{x}")), "rope")
        k = b("attn.hook_rot_k").repeat_interleave(groups, 1)
        s = torch.einsum("qhd,khd->hqk", b("attn.hook_rot_q"), k) * k.shape[-1] ** -0.5
        same(b("attn.hook_attn_scores"), s[:, -3:], "scores")
        s = s.masked_fill(hidden, float("-inf"))
        same(b("attn.hook_pattern"), s.softmax(-1), "pattern")
        same(b("attn.hook_z"), torch.einsum("hqk,khd->qhd", b("attn.hook_pattern"), b("attn.hook_v").repeat_interleave(groups, 1)), "z")
        same(b("hook_resid_mid"), b("hook_resid_pre") + b("hook_attn_out"), "mid")
        same(b("hook_resid_post"), b("hook_resid_mid") + b("hook_mlp_out"), "post")
        same(b("mlp.hook_post"), torch.nn.functional.silu(b("mlp.hook_pre")) * b("mlp.hook_pre_linear"), "mlp")
        for n, at, w in (("ln1", "hook_resid_pre", lm.layers[i].input_layernorm.weight), ("ln2", "hook_resid_mid", lm.layers[i].post_attention_layernorm.weight)):
            x = b(at)
            same(b(n + ".hook_normalized"), x * (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).rsqrt() * w, n)


def check_vision(a, v, n_layers, n_row):
    """The same for pre-norm vision layers; patterns are those of the first view, n_row rows long."""
    act = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": torch.nn.functional.gelu,
           "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh")}[v.hidden_act]
    for i in range(n_layers):
        b = lambda n: a(f"vision.blocks.{i}." + n)
        q, k, value, z = (b(f"attn.hook_{x}")[:n_row] for x in "qkvz")
        s = torch.einsum("qhd,khd->hqk", q, k) * (v.hidden_size // v.num_attention_heads) ** -0.5
        same(b("attn.hook_pattern"), s.softmax(-1), "vision pattern")
        same(z, torch.einsum("hqk,khd->qhd", b("attn.hook_pattern"), value), "vision z")
        same(b("hook_resid_mid"), b("hook_resid_pre") + b("hook_attn_out"), "vision mid")
        same(b("hook_resid_post"), b("hook_resid_mid") + b("hook_mlp_out"), "vision post")
        same(b("mlp.hook_post"), act(b("mlp.hook_pre")), "vision mlp")
