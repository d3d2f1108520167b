# SPDX-License-Identifier: MIT
"""The plans of branch.py, by name, for any of the tiny folders and prompts."""
import random

IDENTITIES = {"empty", "own", "hide-image-from-L", "override-restores-own", "baseline-under-its-own"}
SITES = {"resid_pre": "hook_resid_pre", "ln1": "ln1.hook_normalized", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v",
         "rot_q": "attn.hook_rot_q", "rot_k": "attn.hook_rot_k", "z": "attn.hook_z",
         "attn_out": "hook_attn_out", "resid_mid": "hook_resid_mid", "ln2": "ln2.hook_normalized", "mlp_pre": "mlp.hook_pre", "mlp_pre_linear": "mlp.hook_pre_linear",
         "mlp_post": "mlp.hook_post", "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post"}
STRIDE = {"what": 1, "cat": 12, "text-first": 5, "image-last": 5}     # of the plans that a prompt runs: the others differ in where rows begin and end
ALWAYS = {"empty", "hide-image-from-0", "head-mean-all", "query-final"}


class Shape:
    """Sizes of a decoder and spans of a prompt: image rows first .. end - 1, suffix end .., prompt P, with answer T."""

    def __init__(self, config, first, n_prompt, n_row):
        c = config.text_config
        self.L, self.H, self.Hkv, self.d = c.num_hidden_layers, c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.D, self.F = c.hidden_size, c.intermediate_size
        self.first, self.end, self.P, self.T = first, first + config.image_seq_length, n_prompt, n_row
        self.mid = 1
        self.image, self.suffix, self.system = f"{first}-{self.end - 1}", f"{self.end}-", f"0-{first - 1}"
        self.final = str(n_prompt - 1)

    def width(self, site):
        return self.heads(site) * self.d if self.heads(site) else self.F if site in ("mlp_pre", "mlp_pre_linear", "mlp_post") else self.D

    def heads(self, site):
        return {"q": self.H, "rot_q": self.H, "z": self.H, "k": self.Hkv, "rot_k": self.Hkv, "v": self.Hkv}.get(site, 0)


def rule(layers, heads, queries, keys, source):
    return {"layers": str(layers), "heads": heads, "queries": queries, "keys": keys, "source": source}


def edit(site, layer, positions, op, value=None, run=None, position=None, heads=None):
    e = {"site": f"blocks.{layer}.{SITES[site]}", "layers": str(layer), "positions": str(positions), "op": op}
    if heads is not None:
        e["heads"] = heads
    if run is None:
        return {**e, "value": value}
    return {**e, "from": {"run": run, **({} if position is None else {"position": position})}}


def numbers(name, n):
    """n small numbers, a function of the name."""
    r = random.Random(name)
    return [r.randint(-1, 1) for _ in range(n)]


def attend(*rules):
    return {"attend": list(rules)}


def edits(*list_of):
    return {"edits": list(list_of)}


def truncations(s):
    kept = [i for i in range(s.first, s.end) if i % 3 == 0]
    dropped = [i for i in range(s.first, s.end) if i not in kept]
    out = {f"hide-image-from-{k}": attend(rule(f"{k}-", "all", s.suffix, s.image, "hidden")) for k in (0, s.mid, s.L - 1)}
    out["hide-image-from-L"] = attend({**rule("", "all", s.suffix, s.image, "hidden"), "layers": []})
    for k in (0, s.mid, s.L - 1):
        out[f"hide-image-for-all-from-{k}"] = attend(rule(f"{k}-", "all", f"{s.first}-", s.image, "hidden"))
        out[f"keep-recompute-from-{k}"] = attend(rule(f"{k}-", "all", ",".join(map(str, kept)) + "," + s.suffix, dropped, "hidden"))
        out[f"keep-text-only-from-{k}"] = attend(rule(f"{k}-", "all", s.suffix, dropped, "hidden"))
    # Dropped rows may see what they like: nobody sees them.
    out[f"keep-recompute-for-all-from-{s.mid}"] = attend(rule(f"{s.mid}-", "all", f"{s.first}-", dropped, "hidden"))
    return out


def head_sources(s):
    out = {}
    kinds = {"hidden": "hidden", "zero": "baseline:0", "picture": "baseline:1", "mean": "baseline:2", "mean-all": "baseline:3"}
    for kind, source in kinds.items():
        out[f"head-{kind}"] = attend(rule(s.mid, [1], s.suffix, s.image, source))
        out[f"head-last-layer-{kind}"] = attend(rule(s.L - 1, [s.H - 1], s.suffix, s.image, source))
        out[f"one-layer-{kind}"] = attend(rule(s.mid, "all", s.suffix, s.image, source))
        out[f"all-heads-{kind}"] = attend(rule("all", "all", s.suffix, s.image, source))
    # Query heads 0 and 1 share a key/value head where there are groups.
    out["group-differs"] = attend(rule(0, [0], s.suffix, s.image, "baseline:3"), rule(0, [1], s.suffix, s.image, "baseline:1"))
    out["group-differs-hidden"] = attend(rule(s.mid, [0], s.suffix, s.image, "hidden"), rule(s.mid, [1], s.suffix, s.image, "baseline:2"))
    out["one-of-each"] = attend(*(rule(i % s.L, [i % s.H], s.suffix, s.image, x) for i, x in enumerate(kinds.values())))
    return out


def head_masks(s):
    """Random (layer, head) masks: what is off sees the source."""
    out = {}
    for j, (source, q) in enumerate([("hidden", .5), ("baseline:2", .5), ("baseline:3", .75), ("baseline:0", .5), ("baseline:1", .9), ("hidden", .75)]):
        r = random.Random(f"mask {j}")
        off = [[h for h in range(s.H) if r.random() >= q] for _ in range(s.L)]
        off[j % s.L] = off[j % s.L] or [j % s.H]
        out[f"mask-{j}"] = attend(*(rule(i, h, s.suffix, s.image, source) for i, h in enumerate(off) if h))
    return out


def tokens(s):
    """Subsets of image positions and of queries."""
    r = random.Random("tokens")
    some = [i for i in range(s.first, s.end) if r.random() < .5]
    return {
        "positions-mean": attend(rule("all", "all", s.suffix, some, "baseline:2")),
        "positions-mean-all": attend(rule("all", "all", s.suffix, some, "baseline:3")),
        "positions-hidden": attend(rule("all", "all", s.suffix, some, "hidden")),
        "positions-first-picture": attend(rule("all", "all", s.suffix, str(s.first), "baseline:1")),
        "positions-last-hidden": attend(rule("all", "all", s.suffix, str(s.end - 1), "hidden")),
        "positions-in-one-head": attend(rule(s.mid, [0], s.suffix, some, "baseline:1")),
        "query-first-text-row": attend(rule("all", "all", str(s.end), s.image, "baseline:1")),
        "query-final": attend(rule("all", "all", s.final, s.image, "baseline:2")),
        "query-final-last-layer": attend(rule(s.L - 1, "all", s.final, s.image, "hidden")),
        "query-band": attend(rule(f"{s.mid}-{s.L - 1}", "all", f"{max(s.end, s.P - 3)}-{s.P - 1}", s.image, "baseline:3")),
        "query-answer-rows": attend(rule("0-1", "all", f"{s.P}-", s.image, "hidden")),
    }


def edges(s):
    """Blocked edges, written query <- key."""
    question = f"{s.end}-{s.P - 2}" if s.P - 2 >= s.end else f"0-{s.first - 1}"
    return {
        "edge-final-question": attend(rule("all", "all", s.final, question, "hidden")),
        "edge-final-question-window": attend(rule("1-2", "all", s.final, question, "hidden")),
        "edge-final-image": attend(rule("0-1", "all", s.final, s.image, "hidden")),
        "edge-question-image": attend(rule("0-1", "all", f"{s.end}-{max(s.end, s.P - 2)}", s.image, "hidden")),
        "edge-answer-final": attend(rule("all", "all", f"{s.P}-", s.final, "hidden")),
        "edge-text-system": attend(rule(s.mid, "all", s.suffix, s.system, "hidden")),
        "edge-one-head-first-key": attend(rule("all", [s.H - 1], s.suffix, "0", "hidden")),
        "edge-image-system": attend(rule(s.mid, "all", s.image, s.system.replace("0-", "1-", 1), "hidden")),
        "edge-system-system": attend(rule(0, "all", f"2-{s.first - 1}", "1", "hidden")),
        "edge-all-first-key": attend(rule(s.mid, "all", "1-", "0", "hidden")),
        "head-sees-nothing": attend(rule(s.mid, [1], s.final, "all", "hidden")),
    }


def image_queries(s):
    half = (s.first + s.end) // 2
    return {
        "image-half-blind": attend(rule("0-1", "all", f"{half}-{s.end - 1}", f"{s.first}-{half - 1}", "hidden")),
        "image-rows-baseline": attend(rule(0, "all", s.image, s.image, "baseline:1")),
        "image-rows-mean-one-head": attend(rule(s.mid, [0], f"{half}-", f"{s.first}-{half - 1}", "baseline:3")),
        "image-last-layer": attend(rule(s.L - 1, "all", f"{s.first}-", f"{s.first}-{half}", "hidden")),
    }


def site_edits(s):
    """Every site once in the suffix and once at image rows; the three operations in turn."""
    out, half = {}, (s.first + s.end) // 2
    row = max(s.end, s.P - 4)
    for n, site in enumerate(SITES):
        w, layer = s.width(site), n % s.L
        ops = ["replace", "add", "scale"]
        a, b = ops[n % 3], ops[(n + 1) % 3]
        value = {op: -1.5 if op == "scale" else numbers(f"{site} {op}", w) for op in ops}
        out[f"edit-{site}-{a}"] = edits(edit(site, layer, f"{row}-{s.P - 1}", a, value[a]))
        out[f"edit-image-{site}-{b}"] = edits(edit(site, (n + 1) % (s.L - 1), f"{half}", b, value[b]))
        if s.heads(site):
            h = [s.heads(site) - 1]
            out[f"edit-{site}-head-replace"] = edits(edit(site, s.mid, s.suffix, "replace", numbers(f"head {site}", s.d), heads=h))
            out[f"edit-{site}-head-scale"] = edits(edit(site, s.mid, s.suffix, "scale", 0, heads=h))
    out["edit-z-two-heads-full-width"] = edits(edit("z", s.mid, s.suffix, "add", numbers("full z", s.H * s.d), heads=[0, s.H - 1]))
    out["edit-each-position-its-own"] = edits(edit("resid_pre", s.mid, f"{row},{s.P - 1}", "add", numbers("each", 2 * s.D if row < s.P - 1 else s.D)))
    out["edit-image-each-position"] = edits(edit("v", 0, f"{s.first},{s.first + 2}", "replace", numbers("each image", 2 * s.Hkv * s.d)))
    out["edit-all-positions"] = edits(edit("mlp_out", 0, "all", "scale", 0.5))
    out["edit-system-row"] = edits(edit("resid_pre", 0, "1", "add", numbers("system", s.D)))
    out["edit-first-text-row"] = edits(edit("attn_out", 0, str(s.end), "replace", 0))
    out["edit-last-layer-last-row"] = edits(edit("resid_post", s.L - 1, str(s.T - 1), "add", numbers("last", s.D)))
    out["edits-in-order"] = edits(edit("ln2", s.mid, s.final, "scale", 0.5), edit("ln2", s.mid, s.final, "add", numbers("order", s.D)))
    out["edits-of-neighbours"] = edits(edit("k", s.mid, str(row), "scale", -1), edit("v", s.mid, str(row), "add", 1), edit("q", s.mid, s.final, "scale", 1.5))
    return out


def patches(s, other_position=None):
    """Values from another run. Run 0 is the same text on another picture."""
    half = (s.first + s.end) // 2
    out = {
        "patch-picture": edits(edit("resid_pre", 0, s.image, "replace", run=0)),
        "patch-image-rows-mid": edits(edit("resid_pre", s.mid, s.image, "replace", run=0)),
        "patch-image-v": edits(edit("v", s.mid, s.image, "replace", run=0)),
        "patch-image-k-one-head": edits(edit("k", 0, s.image, "replace", run=0, heads=[0])),
        "patch-final-resid": edits(edit("resid_mid", s.mid, s.final, "replace", run=0)),
        "patch-final-z-head": edits(edit("z", s.L - 1, s.final, "replace", run=0, heads=[1])),
        "patch-suffix-mlp": edits(edit("mlp_out", s.mid, s.suffix, "replace", run=0)),
        "patch-add-attn": edits(edit("attn_out", 0, s.suffix, "add", run=0)),
        "patch-image-into-text": edits(edit("resid_pre", s.mid, s.final, "add", run=0, position=half)),
        "patch-other-position": edits(edit("q", s.mid, f"{s.end}-{s.P - 1}", "replace", run=0, position=s.P - 1)),
        "patch-rotated-keys": edits(edit("rot_k", s.mid, s.image, "replace", run=0)),
        "patch-image-to-image": edits(edit("ln1", 0, str(half), "replace", run=0, position=s.first)),
    }
    if other_position is not None:
        out["patch-other-question"] = edits(edit("resid_post", 0, s.final, "replace", run=1, position=other_position))
    return out


def compositions(s):
    half = (s.first + s.end) // 2
    hide_all = rule("all", "all", s.suffix, s.image, "hidden")
    restore = rule("all", [s.H - 1], s.suffix, s.image, "own")
    return {
        "two-rules-one-edit": {**attend(rule(s.mid, [0], s.suffix, s.image, "baseline:3"), rule("0-1", "all", s.final, f"{s.end}-{s.P - 2}", "hidden")),
                               **edits(edit("mlp_out", 0, s.final, "scale", 0.25))},
        "override-one-head-sees": attend(hide_all, restore),
        "override-in-the-other-order": attend(restore, rule("all", f"0-{s.H - 1}", s.suffix, f"{half}-{s.end - 1}", "hidden"), rule(s.mid, [s.H - 1], s.suffix, str(half), "own")),
        "override-restores-own": attend(hide_all, rule("all", "all", s.suffix, s.image, "own")),
        "baseline-under-its-own": attend(rule("all", "all", s.image, s.image, "baseline:1"), rule("all", "all", "all", s.image, "own")),
        "override-baseline-of-hidden": attend(hide_all, rule(f"{s.mid}-", "all", s.final, s.image, "baseline:2"), rule("all", "all", "all", str(half), "own")),
        "image-edit-and-mask": {**attend(rule("1-", [0, 1], s.suffix, s.image, "baseline:1")), **edits(edit("resid_pre", 1, str(half), "add", numbers("both", s.D)))},
        "edit-under-a-baseline": {**attend(rule(s.mid, [0], s.suffix, s.image, "baseline:0")), **edits(edit("k", s.mid, s.image, "scale", 1.5))},
        "rows-then-hidden": {**attend(rule(0, "all", s.image, s.system.replace("0-", "1-", 1), "hidden"), rule("2-", "all", s.suffix, s.image, "hidden"))},
    }


def plans(s, trunk, full):
    """{name: plan} for one trunk: all of them for the main prompt of a full folder, else some of every group."""
    out = {"empty": {}, "own": attend(rule("all", "all", "all", "all", "own"))}
    groups = [truncations(s), head_sources(s), head_masks(s), tokens(s), edges(s), image_queries(s), site_edits(s), patches(s, s.P - 7 if trunk == "what" else None),
              compositions(s)]
    for g in groups:
        out.update(g)
    every = STRIDE[trunk] * (1 if full or trunk != "what" else 3)
    return {n: p for i, (n, p) in enumerate(out.items()) if i % every == 0 or n in ALWAYS}


def greedy_plans(s):
    """Open sets hold for the rows that greedy decoding appends; closed ones end where they say."""
    return {
        "empty": {},
        "hide-image-from-0": attend(rule("all", "all", s.suffix, s.image, "hidden")),
        "hide-image-from-last": attend(rule(f"{s.L - 1}-", "all", s.suffix, s.image, "hidden")),
        "hide-image-in-prompt": attend(rule("all", "all", f"{s.end}-{s.P - 1}", s.image, "hidden")),
        "mean-all-one-head-each": attend(*(rule(i, [i % s.H], s.suffix, s.image, "baseline:3") for i in range(s.L))),
        "final-unseen": attend(rule("all", "all", f"{s.P}-", s.final, "hidden")),
        "answer-unseen": attend(rule(s.mid, "all", f"{s.P}-", f"{s.P}-", "hidden")),
        "add-open": edits(edit("resid_post", 0, f"{s.P - 1}-", "add", numbers("greedy", s.D))),
        "image-edit": edits(edit("resid_pre", 0, str(s.first + 1), "add", numbers("greedy image", s.D))),
        "scale-head-open": edits(edit("z", s.mid, s.suffix, "scale", 3, heads=[0])),
    }
