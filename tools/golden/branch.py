# SPDX-License-Identifier: MIT
"""Intervention plans on the tiny LLaVA folders, and what transformers computes under them.

The reference knows nothing of prefixes and branches: every plan is one full forward over all rows. At each layer and head it
is written down for every (query, key) pair what stands there - the row's own key and value, those of a baseline, or nothing -
and the attention is taken over exactly that, as transformers' eager function would. Edits are hooks on transformers' modules.
The plans are in the JSON form that the C side reads. `cross_check` compares the reference with ways that share no code with
it: 4-D additive masks and removed rows in unpatched transformers, keys and values exchanged in transformers' own cache.
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache, LlavaForConditionalGeneration
from transformers.models.llama import modeling_llama

import branch_plans
import common
import llava

FOLDERS = ["llava-gqa", "llava-mha", "llava-orig-pad"]
FULL = ["llava-gqa", "llava-mha"]     # the third runs some of the plans
PROMPTS = {"what": llava.PROMPTS[0], "cat": llava.PROMPTS[1], "text-first": "USER: What is in the picture? <image> ASSISTANT:",
           "image-last": "USER: What is it? <image>\n:"}
# name: (prompt, picture, runs that edits can take values from)
TRUNKS = {"what": ("what", "a", ["what-b", "cat"]), "what-b": ("what", "b", []), "cat": ("cat", "a", ["cat-b"]), "cat-b": ("cat", "b", []),
          "text-first": ("text-first", "a", ["text-first-b"]), "text-first-b": ("text-first", "b", []),
          "image-last": ("image-last", "a", ["image-last-b"]), "image-last-b": ("image-last", "b", [])}
BASELINES = ["zero", "picture:b", "mean:a,b,r", "mean-all:a,b,r"]      # r: picture a's pixels backwards
ANSWER = [40, 191, 105]     # teacher-forced: any tokens
N_GREEDY = 6
N_COLUMN = 12       # of the logits' columns are stored, evenly spread
OWN, HIDDEN = -1, -2
ROTATED = {"attn.hook_rot_q": 0, "attn.hook_rot_k": 1}      # no module puts these out: edited in the attention function
HEAD_SITES = {"attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", *ROTATED}


# ---------------------------------------------------------------- plans, as the JSON says

def members(text, n):
    """The numbers below n of a set: "0,3-7,12-", "all", or a list."""
    if isinstance(text, list):
        return [i for i in text if i < n]
    out = set()
    for part in text.split(",") if text else []:
        low, dash, high = part.partition("-")
        out |= set(range(n)) if part == "all" else set(range(int(low), (int(high) + 1 if high else n) if dash else int(low) + 1))
    return sorted(i for i in out if i < n)


def source_of(text):
    return {"own": OWN, "hidden": HIDDEN}[text] if text in ("own", "hidden") else int(text.removeprefix("baseline:"))


def sources(plan, layer, n_head, n_row):
    """[H, P, P]: what stands at key j for query i of a head in this layer. Keys behind the query are hidden last of all."""
    s = torch.full((n_head, n_row, n_row), OWN)
    for r in plan.get("attend", []):
        if layer in members(r["layers"], layer + 1):
            at = torch.meshgrid(*(torch.tensor(members(r[k], n), dtype=torch.long) for k, n in
                                  (("heads", n_head), ("queries", n_row), ("keys", n_row))), indexing="ij")
            s[at] = source_of(r["source"])
    return s.masked_fill(torch.ones(n_row, n_row).triu(1).bool(), HIDDEN)


def attend(q, k, v, baselines, source, scaling):
    """q [H, P, d], k and v [Hkv, P, d] of the rows, the same of each baseline -> z [P, H, d] and the pattern. Each query of each head has its own
    list of keys and values."""
    group = q.shape[0] // k.shape[0]
    key = k.repeat_interleave(group, 0)[:, None].expand(-1, q.shape[1], -1, -1)
    value = v.repeat_interleave(group, 0)[:, None].expand_as(key)
    for n, (bk, bv) in enumerate(baselines):
        here = (source == n)[..., None]
        key = torch.where(here, bk.repeat_interleave(group, 0)[:, None], key)
        value = torch.where(here, bv.repeat_interleave(group, 0)[:, None], value)
    score = torch.einsum("hid,hijd->hij", q, key) * scaling
    p = score.masked_fill(source == HIDDEN, float("-inf")).softmax(-1)
    p = torch.where((source == HIDDEN).all(-1, keepdim=True), torch.zeros_like(p), p)      # who sees nothing gets nothing
    return torch.einsum("hij,hijd->ihd", p, value), p


# ---------------------------------------------------------------- edits: hooks on transformers' modules

def place(model, layer, site):
    """(module, "in" or "out") whose input or output is the site's value."""
    b = model.model.language_model.layers[layer]
    a, m = b.self_attn, b.mlp
    return {"hook_resid_pre": (b, "in"), "ln1.hook_normalized": (b.input_layernorm, "out"), "attn.hook_q": (a.q_proj, "out"), "attn.hook_k": (a.k_proj, "out"),
            "attn.hook_v": (a.v_proj, "out"), "attn.hook_z": (a.o_proj, "in"), "hook_attn_out": (a.o_proj, "out"),
            "hook_resid_mid": (b.post_attention_layernorm, "in"), "ln2.hook_normalized": (b.post_attention_layernorm, "out"),
            "mlp.hook_pre": (m.gate_proj, "out"), "mlp.hook_pre_linear": (m.up_proj, "out"), "mlp.hook_post": (m.down_proj, "in"),
            "hook_mlp_out": (m.down_proj, "out"), "hook_resid_post": (b, "out")}[site]


def edit_value(x, e, layer, d_head, runs):
    """Changes x [P, width] in place as one edit says."""
    site = e["site"].split(".", 2)[2]
    heads = site in HEAD_SITES
    at = members(e["positions"], x.shape[0])
    columns = torch.arange(x.shape[1])
    if heads and "heads" in e:
        columns = torch.tensor([h * d_head + i for h in members(e["heads"], x.shape[1] // d_head) for i in range(d_head)])
    for i, t in enumerate(at):
        if "from" in e:
            there = e["from"].get("position", -1)
            rows = runs[e["from"]["run"]][f"blocks.{layer}.{site}"]
            v = rows.reshape(-1, x.shape[1])[t if there < 0 else there][columns]
        else:
            v = torch.tensor(e["value"], dtype=torch.float32).reshape(-1)
            n = v.numel()
            if n > x.shape[1]:
                v = v.reshape(len(at), x.shape[1])[i][columns]
            elif n == x.shape[1]:
                v = v[columns]
            elif n > 1:
                assert heads and n == d_head
                v = v.repeat(columns.numel() // d_head)
        old = x[t, columns]
        x[t, columns] = {"replace": v.expand_as(old), "add": old + v, "scale": old * v}[e["op"]]


class Under:
    """The model under a plan: `with Under(...)`, then an ordinary forward pass."""

    def __init__(self, model, plan, baselines=(), runs=()):
        self.model, self.plan, self.baselines, self.runs, self.handles = model, plan, baselines, runs, []

    def change(self, layer, edits, x):
        for e in edits:
            edit_value(x, e, layer, self.model.config.text_config.head_dim, self.runs)

    def hook(self, layer, site, edits):
        module, side = place(self.model, layer, site)

        def change(x):
            self.change(layer, edits, x[0])
        if side == "out":
            self.handles.append(module.register_forward_hook(lambda _m, _a, out: change(out)))
        else:       # in place, so that a residual stream's other users see it too
            self.handles.append(module.register_forward_pre_hook(lambda _m, args, kw: change(args[0] if args else kw["hidden_states"]), with_kwargs=True))

    def __enter__(self):
        n_layer, by_place = self.model.config.text_config.num_hidden_layers, {}
        for e in self.plan.get("edits", []):
            for layer in members(e["layers"], n_layer):
                by_place.setdefault((layer, e["site"].split(".", 2)[2]), []).append(e)
        for (layer, site), edits in by_place.items():
            if site not in ROTATED:
                self.hook(layer, site, edits)

        def f(module, query, key, value, attention_mask, scaling, **_):
            for site, which in ROTATED.items():
                rows = (query, key)[which][0].transpose(0, 1)
                flat = rows.flatten(1).clone()
                self.change(module.layer_idx, by_place.get((module.layer_idx, site), []), flat)
                rows.copy_(flat.reshape(rows.shape))
            s = sources(self.plan, module.layer_idx, query.shape[1], query.shape[2])
            z, p = attend(query[0], key[0], value[0], [b[module.layer_idx] for b in self.baselines], s, scaling)
            return z[None], p[None]
        self.saved = modeling_llama.eager_attention_forward
        modeling_llama.eager_attention_forward = f
        return self

    def __exit__(self, *_):
        modeling_llama.eager_attention_forward = self.saved
        for h in self.handles:
            h.remove()


def forward(model, ids, pixels, plan, baselines, runs, **kw):
    with torch.no_grad(), Under(model, plan, baselines, runs):
        return model(input_ids=torch.tensor([ids]), pixel_values=pixels[None], use_cache=False, **kw).logits[0]


# ---------------------------------------------------------------- baselines

def rotate(model, k, positions):
    """Keys [Hkv, P, d] with the model's rotary embedding at these positions."""
    cos, sin = model.model.language_model.rotary_emb(k[None], torch.tensor([positions]))
    return modeling_llama.apply_rotary_pos_emb(k[None], k[None], cos, sin)[1][0]


def keys_values(model, ids, pixels):
    """Per layer: keys before the rotary embedding and values, [Hkv, P, d]."""
    c = model.config.text_config
    v = llava.run(model, ids, pixels)[1]
    return [[v[f"blocks.{i}.attn.hook_{x}"][0].reshape(len(ids), -1, c.head_dim).transpose(0, 1) for x in "kv"] for i in range(c.num_hidden_layers)]


def make_baselines(model, ids, pictures, first, n_image):
    """BASELINES for this prompt: per baseline and layer (k, v) [Hkv, P, d], NaN where none exists."""
    rows = slice(first, first + n_image)
    runs = {p: keys_values(model, ids, x) for p, x in pictures.items()}
    out = []
    for name in BASELINES:
        kind, _, which = name.partition(":")
        layers = []
        for i in range(model.config.text_config.num_hidden_layers):
            kv = []
            for x in range(2):
                full = torch.full_like(runs["a"][i][x], float("nan"))
                if kind == "zero":
                    full[:, rows] = 0
                else:
                    mean = torch.stack([runs[p][i][x][:, rows] for p in which.split(",")]).mean(0)
                    full[:, rows] = mean.mean(1, keepdim=True) if kind == "mean-all" else mean
                kv.append(full)
            layers.append((rotate(model, kv[0], list(range(len(ids)))), kv[1]))
        out.append(layers)
    return out


def resized(x, n_row):
    """A baseline's keys or values for a sequence of another length."""
    return torch.nn.functional.pad(x[:, :n_row], (0, 0, 0, max(0, n_row - x.shape[1])), value=float("nan"))


# ---------------------------------------------------------------- ways that share no code with the reference

def through_cache(model, ids, pixels, end, layers, baseline, first):
    """Suffix rows over transformers' own cache, in which these layers' image keys and values were exchanged."""
    with torch.no_grad():
        cache = DynamicCache(config=model.config.text_config)
        model(input_ids=torch.tensor([ids[:end]]), pixel_values=pixels[None], past_key_values=cache, use_cache=True)
        for i in layers:
            for mine, other in zip((cache.layers[i].keys, cache.layers[i].values), baseline[i]):
                mine[0, :, first:end] = other[:, first:end]
        return model(input_ids=torch.tensor([ids[end:]]), past_key_values=cache, use_cache=True, position_ids=torch.arange(end, len(ids))[None]).logits[0]


def additive(visible):
    return torch.where(visible, 0.0, torch.finfo(torch.float32).min)[None, None]


def three_ways(model, ids, pixels, first, end):
    """No image at all: the text rows under a 4-D mask for all queries, for text queries alone, and without the image rows."""
    n = len(ids)
    see = torch.ones(n, n).tril().bool()
    all_queries, text_queries = see.clone(), see.clone()
    all_queries[:, first:end] = False
    all_queries[first:end, :first] = True
    all_queries[0, 0] = True
    text_queries[end:, first:end] = False
    keep = list(range(first)) + list(range(end, n))
    with torch.no_grad():
        a, b = (model(input_ids=torch.tensor([ids]), pixel_values=pixels[None], attention_mask=additive(m), use_cache=False).logits[0, end:]
                for m in (all_queries, text_queries))
        # With a mask of its own: without one, transformers takes a jump in the positions for the start of another sequence.
        causal = additive(torch.ones(len(keep), len(keep)).tril().bool())
        x = model.model.language_model(input_ids=torch.tensor([[ids[i] for i in keep]]), position_ids=torch.tensor([keep]), attention_mask=causal, use_cache=False)
        c = model.lm_head(x.last_hidden_state)[0, first:]
    return {"masked": a, "text-masked": b, "removed": c}


def removed_from(model, ids, pixels, layer, dropped):
    """Rows are taken out of the sequence at a layer, their positions kept; logits of the rows that are left."""
    lm, n = model.model.language_model, len(ids)
    keep = [i for i in range(n) if i not in dropped]
    with torch.no_grad():
        x = llava.run(model, ids, pixels)[1][f"blocks.{layer}.hook_resid_pre"]
        x, pos = x[:, keep], torch.tensor([keep])
        emb = lm.rotary_emb(x, position_ids=pos)
        mask = additive(torch.ones(len(keep), len(keep)).tril().bool())
        for b in lm.layers[layer:]:
            x = b(x, attention_mask=mask, position_ids=pos, position_embeddings=emb)
        return model.lm_head(lm.norm(x))[0], keep


def same(x, y, what):
    far = float((x - y).abs().max() / y.abs().max())
    assert far < 3e-6, (what, far)


def cross_check(model, t, s, plans, logits):
    """The reference against unpatched transformers. t: trunk, s: its shape, logits: by plan name, all rows."""
    ids, px, first, end = t["ids"], t["pixels"], s.first, s.end
    full = llava.run(model, ids, px)[0]
    for name in ("empty", "own", "hide-image-from-L"):
        same(logits[name], full, name)
    for name, x in three_ways(model, ids, px, first, end).items():
        same(logits["hide-image-from-0"][end:], x, name)
    for k in (0, s.mid, s.L - 1):
        dropped = members(plans[f"keep-recompute-from-{k}"]["attend"][0]["keys"], len(ids))
        x, keep = removed_from(model, ids, px, k, dropped)
        same(logits[f"keep-recompute-from-{k}"][end:], x[keep.index(end):], f"removed from {k}")
    for n, kind in enumerate(("zero", "picture", "mean", "mean-all")):
        for name, layers in ((f"all-heads-{kind}", range(s.L)), (f"one-layer-{kind}", [s.mid])):
            same(logits[name][end:], through_cache(model, ids, px, end, layers, t["baselines"][n], first), name)
    same(logits["patch-picture"], llava.run(model, ids, t["other"])[0], "patching the input from another picture")


# ---------------------------------------------------------------- one folder

def make_trunks(model, proc, d):
    """Layouts with their teacher-forced answer, pictures, baselines and the other runs' sites."""
    pictures = {n: proc.image_processor(images=Image.open(os.path.join(d, n + ".png")), return_tensors="pt")["pixel_values"][0] for n in "ab"}
    pictures["r"] = pictures["a"].flatten().flip(0).reshape(pictures["a"].shape)
    image_id, n_image, layouts = model.config.image_token_id, model.config.image_seq_length, {}
    for name, text in PROMPTS.items():
        ids = proc(images=Image.open(os.path.join(d, "a.png")), text=text, return_tensors="pt")["input_ids"][0].tolist()
        layouts[name] = (ids, ids + ANSWER)
    trunks = {}
    for name, (prompt, picture, runs) in TRUNKS.items():
        ids, whole = layouts[prompt]
        first = ids.index(image_id)
        t = trunks[name] = {"prompt": prompt, "picture": picture, "n_prompt": len(ids), "ids": whole, "pixels": pictures[picture],
                            "other": pictures["b"], "first": first, "runs": runs,
                            "rows": sorted({first + n_image, len(ids) - 1, len(whole) - 1})}
        t["sites"] = llava.run(model, whole, pictures[picture])[1]
        if runs:
            t["baselines"] = make_baselines(model, whole, pictures, first, n_image)
    return trunks


def greedy_under(model, t, plan):
    """Greedy ids under a plan whose open sets go on; and the smallest margin of a choice, in parts of the largest logit."""
    ids, margin = t["ids"][:t["n_prompt"]], float("inf")
    while len(ids) < t["n_prompt"] + N_GREEDY and model.config.image_token_id not in ids[t["n_prompt"]:]:
        baselines = [[tuple(resized(x, len(ids)) for x in kv) for kv in b] for b in t["baselines"]]
        z = forward(model, ids, t["pixels"], plan, baselines, [])[-1]
        top = z.topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]) / float(z.abs().max()))
        ids = ids + [int(top.indices[0])]
    return ids[t["n_prompt"]:], margin


def make_one(out, name):
    d = os.path.join(out, name)
    model = LlavaForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager").eval()
    trunks = make_trunks(model, llava.load_processor(d), d)
    columns = np.linspace(3, model.config.text_config.vocab_size - 20, N_COLUMN).astype(int).tolist()
    special = {0, 1, 2, model.config.image_token_id, model.config.text_config.pad_token_id}
    arrays, cases, greedy, weakest = {}, [], [], []
    for trunk, t in trunks.items():
        if not t["runs"]:
            continue
        shape = branch_plans.Shape(model.config, t["first"], t["n_prompt"], len(t["ids"]))
        plans = branch_plans.plans(shape, trunk, name in FULL)
        runs = [trunks[r]["sites"] for r in t["runs"]]
        logits = {n: forward(model, t["ids"], t["pixels"], p, t["baselines"], runs) for n, p in plans.items()}
        if trunk == "what" and name in FULL:
            cross_check(model, t, shape, plans, logits)
        if trunk == "what":
            for way, x in three_ways(model, t["ids"], t["pixels"], shape.first, shape.end).items():
                arrays[f"way/{way}"] = x[[r - shape.end for r in t["rows"]]][:, columns]
        arrays[f"{trunk}/logits"] = torch.stack([logits[n][t["rows"]][:, columns] for n in plans])
        for n, p in plans.items():
            z, base = logits[n][t["rows"]], logits["empty"][t["rows"]]
            assert torch.isfinite(z).all(), n
            moved = float((z - base).abs().max() / base.abs().max())
            if n not in branch_plans.IDENTITIES:
                weakest.append((moved, f"{trunk}/{n}"))
            cases.append({"trunk": trunk, "name": n, "plan": p})
        for n, p in branch_plans.greedy_plans(shape).items() if trunk != "cat" else []:
            ids, margin = greedy_under(model, t, p)
            if margin > 3e-3 and not special & set(ids):    # a choice that rounding decides shows nothing
                greedy.append({"trunk": trunk, "name": n, "ids": ids, "plan": p})
    assert len(greedy) >= 15, [(g["trunk"], g["name"]) for g in greedy]
    weakest.sort()
    assert weakest[0][0] > 2e-3, weakest[:8]
    folder = os.path.join(out, "branch", name)
    os.makedirs(folder, exist_ok=True)
    common.write_arrays(os.path.join(folder, "golden.safetensors"), arrays)
    write_json(os.path.join(folder, "golden.json"), {
        "about": "Plans and the logits of transformers under them; see ../../README.md", "versions": common.versions(), "columns": columns, "baselines": BASELINES,
        "trunks": [{"name": n, "picture": t["picture"], "prompt": PROMPTS[t["prompt"]], "n_prompt": t["n_prompt"], "ids": t["ids"], "rows": t["rows"], "runs": t["runs"]}
                   for n, t in trunks.items()], "cases": cases, "greedy": greedy})
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"branch/{name}: {len(cases)} plans, {len(greedy)} greedy, {size // 1024} KiB; weakest effects {[(round(m, 4), n) for m, n in weakest[:4]]}")


def write_json(path, facts):
    """One line per element of a list, so that a changed plan is a changed line."""
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write("{\n")
        for i, (key, value) in enumerate(facts.items()):
            lines = "[\n  " + ",\n  ".join(json.dumps(x, separators=(",", ":")) for x in value) + "\n ]" if isinstance(value, list) and isinstance(value[0], dict) else json.dumps(value)
            f.write(f' {json.dumps(key)}: {lines}{"," if i + 1 < len(facts) else ""}\n')
        f.write("}\n")


def make(out):
    for name in FOLDERS:
        make_one(out, name)
