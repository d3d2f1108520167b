# SPDX-License-Identifier: MIT
"""Tiny random Qwen2-VL and Qwen2.5-VL folders. Qwen2-VL has the hub's flat config, the hub's tensor names and a tied head;
Qwen2.5-VL has a nested text_config, the names that transformers uses in memory, and a head of its own.

Rows of the tower's sites stand in the order in which transformers runs them: 2 x 2 patches of a cell after one another, and with
Qwen2.5-VL's windows the cells of a window after one another. Rows of the projector's sites and of the decoder run over the cells
line by line.
"""
import os
import shutil

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (AutoImageProcessor, AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLConfig,
                          Qwen2VLForConditionalGeneration)
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.vision_utils import get_vision_window_index

import common
import family
import text
import tiny

PAD, START, END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", START, END, "<|vision_pad|>", PAD, "<|video_pad|>"]
SYSTEM = "You are a helpful assistant."
QUESTIONS = ["What is this?", "Is there a cat in the image?"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}" + START + PAD + END + "{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# width, height: kept; long; tall; far too small; too large; 200 times as long as wide
SIZES = {"a": (41, 22), "b": (90, 9), "c": (8, 77), "d": (5, 7), "e": (97, 61), "f": (400, 2)}
CASES = [("a", 0), ("b", 1), ("c", 0), ("d", 1), ("e", 0), ("f", 1)]      # c0 has every site
PIXELS = dict(min_pixels=256, max_pixels=1536)
SPECS = {
    "qwen2-vl": dict(
        seed=1, dtype=torch.bfloat16, n_vocab=300, pad_to=304, config=Qwen2VLConfig, model=Qwen2VLForConditionalGeneration, module=modeling_qwen2_vl,
        flat=True, tied=True,
        vision=dict(depth=2, embed_dim=16, num_heads=2, mlp_ratio=2, hidden_size=32, patch_size=4, spatial_merge_size=2, temporal_patch_size=2),
        text=dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=3e-3,
                  max_position_embeddings=512), sections=[1, 1, 2], theta=500.0),
    "qwen2.5-vl": dict(
        seed=100, dtype=torch.float16, n_vocab=300, pad_to=304, config=Qwen2_5_VLConfig, model=Qwen2_5_VLForConditionalGeneration,
        module=modeling_qwen2_5_vl, flat=False, tied=False,
        vision=dict(depth=3, hidden_size=16, intermediate_size=20, num_heads=2, out_hidden_size=24, patch_size=4, spatial_merge_size=2,
                    temporal_patch_size=2, window_size=16, fullatt_block_indexes=[1], tokens_per_second=2, hidden_act="silu"),
        text=dict(hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, rms_norm_eps=2e-3,
                  max_position_embeddings=512), sections=[2, 1, 1], theta=700.0),
}


# ---------------------------------------------------------------- files

def tokenizer(n_vocab):
    """Qwen2's shape, no BOS."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(text.QWEN_SPLIT), behavior="isolated", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    pieces, merges = text.train_pieces(pre, n_vocab - len(ADDED), alphabet=pre_tokenizers.ByteLevel.alphabet(), normalizer=normalizers.NFC())
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFC(), pre, decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([text.special(x) for x in ADDED])
    return t


def config_json(spec, tok):
    """As the hub has it (flat), or as transformers 4.52 and later write it (nested)."""
    ids = {"image_token_id": tok.token_to_id(PAD), "video_token_id": tok.token_to_id("<|video_pad|>"),
           "vision_start_token_id": tok.token_to_id(START), "vision_end_token_id": tok.token_to_id(END)}
    numbers = {**spec["text"], "vocab_size": spec["pad_to"], "rope_theta": spec["theta"], "hidden_act": "silu", "use_sliding_window": False,
               "sliding_window": 64, "max_window_layers": 3, "bos_token_id": tok.token_to_id("<|endoftext|>"),
               "eos_token_id": tok.token_to_id("<|im_end|>"), "rope_scaling": {"type": "mrope", "mrope_section": spec["sections"]}}
    top = {"architectures": [spec["model"].__name__], "model_type": spec["config"].model_type, "tie_word_embeddings": spec["tied"],
           "torch_dtype": str(spec["dtype"]).split(".")[1], **ids}
    if spec["flat"]:
        vision = {"in_chans": 3, "spatial_patch_size": spec["vision"]["patch_size"], "model_type": spec["config"].model_type, **spec["vision"]}
        return {**top, **numbers, "vision_config": vision}
    return {**top, "text_config": {"model_type": spec["config"].model_type + "_text", **numbers},
            "vision_config": {"model_type": spec["config"].model_type, **spec["vision"]}}


def write_files(d, spec, tok):
    tok.save(os.path.join(d, "tokenizer.json"))
    common.write_json(os.path.join(d, "config.json"), config_json(spec, tok))
    v = spec["vision"]
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        **PIXELS, "patch_size": v["patch_size"], "temporal_patch_size": 2, "merge_size": 2, "image_mean": common.CLIP_MEAN, "image_std": common.CLIP_STD,
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": spec["model"].__name__.replace("ForConditionalGeneration", "Processor")})
    common.write_json(os.path.join(d, "chat_template.json"), {"chat_template": TEMPLATE})
    added = {str(tok.token_to_id(x)): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} for x in ADDED}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_prefix_space": False, "added_tokens_decoder": added, "additional_special_tokens": ADDED[1:], "bos_token": None, "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 32768, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None})
    common.write_json(os.path.join(d, "generation_config.json"), {
        "bos_token_id": tok.token_to_id("<|endoftext|>"), "pad_token_id": tok.token_to_id("<|endoftext|>"), "do_sample": True,
        "eos_token_id": [tok.token_to_id("<|im_end|>"), tok.token_to_id("<|endoftext|>")], "transformers_version": "4.41.2"})


def disk_weights(spec, model):
    out = {}
    for k, x in model.state_dict().items():
        if spec["tied"] and k == "lm_head.weight":
            continue
        if spec["flat"]:
            k = k.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        out[k] = x.to(spec["dtype"]).contiguous()
    return out


# ---------------------------------------------------------------- the model

def attach(spec):
    """The recorder's hooks. The tower has no batch: its values get one, inside the graph, so that gradients reach them."""
    def f(r, model):
        visual, merger = model.model.visual, model.model.visual.merger
        grid = {}

        def out(m, name, change=lambda x: x):
            def see(_m, _a, x):
                r.v[name] = change(x).unsqueeze(0)
                return r.v[name][0] if change(x) is x else None
            r.handles.append(m.register_forward_hook(see))

        def inp(m, name, change=lambda x: x):
            r.handles.append(m.register_forward_pre_hook(lambda _m, a: r.v.__setitem__(name, change(a[0]).unsqueeze(0))))

        def start(_m, a, kw):
            grid["order"] = window_order(spec, kw["grid_thw"]) if "window_size" in spec["vision"] else None
        r.handles.append(visual.register_forward_pre_hook(start, with_kwargs=True))
        by_line = lambda x: x if grid["order"] is None else x[torch.argsort(grid["order"][0])]
        names = {}
        inp(visual.blocks[0], "vision.hook_embed")
        for i, b in enumerate(visual.blocks):
            p = f"vision.blocks.{i}."
            inp(b, p + "hook_resid_pre")
            out(b.norm1, p + "ln1.hook_normalized")
            for k, x in enumerate("qkv"):
                out(b.attn.qkv, p + f"attn.hook_{x}", lambda y, k=k: y.chunk(3, -1)[k])
            inp(b.attn.proj, p + "attn.hook_z")
            out(b.attn.proj, p + "hook_attn_out")
            inp(b.norm2, p + "hook_resid_mid")
            out(b.norm2, p + "ln2.hook_normalized")
            gated = hasattr(b.mlp, "gate_proj")
            out(b.mlp.gate_proj if gated else b.mlp.fc1, p + "mlp.hook_pre")
            if gated:
                out(b.mlp.up_proj, p + "mlp.hook_pre_linear")
            inp(b.mlp.down_proj if gated else b.mlp.fc2, p + "mlp.hook_post")
            out(b.mlp.down_proj if gated else b.mlp.fc2, p + "hook_mlp_out")
            out(b, p + "hook_resid_post")
            names[id(b.attn)] = p
        out(merger.ln_q, "vision.ln_post.hook_normalized")
        inp(merger.mlp[0], "projector.hook_in", by_line)
        out(merger.mlp[0], "projector.hook_pre", lambda x: by_line(x) + 0)
        inp(merger.mlp[2], "projector.hook_post", by_line)
        out(merger, "projector.hook_out", lambda x: by_line(x) + 0)
        family.attach_llama(r, model.model.language_model, spec["module"])
        inner = spec["module"].eager_attention_forward

        def chunk(module, query, key, value, attention_mask, scaling, **kw):
            """Windows come one by one: their patterns lie along the diagonal."""
            o, w = inner(module, query, key, value, attention_mask, scaling=scaling, **kw)
            if id(module) in names:
                p, n = names[id(module)] + "attn.hook_pattern", int(r.v["vision.hook_embed"].shape[1])
                at = grid.get(p, 0) % n
                if at == 0:
                    r.v[p] = torch.zeros(w.shape[1], n, n, dtype=w.dtype)
                    for x in "qk":
                        r.v[p.replace("pattern", "rot_" + x)] = torch.zeros(n, *query.shape[1::2], dtype=query.dtype)
                for x, y in (("q", query), ("k", key)):
                    r.v[p.replace("pattern", "rot_" + x)][at:at + w.shape[2]] = y[0].transpose(0, 1).detach()
                r.v[p][:, at:at + w.shape[2], at:at + w.shape[2]] = w[0].detach()
                grid[p] = at + w.shape[2]
            return o, w
        spec["module"].eager_attention_forward = chunk
    return f


def window_order(spec, grid_thw):
    v = spec["vision"]
    return get_vision_window_index(grid_thw, spatial_merge_size=2, window_size=v["window_size"], patch_size=v["patch_size"])


def parts(spec):
    v = spec["vision"]
    return lambda model: tiny.Parts(model.model.language_model, model.lm_head, attach(spec), v["num_heads"], v["depth"], 0)


def spread(tied):
    """Sizes that make mistakes visible: the tower's residual stream is so small that its eps, 1e-6, matters."""
    gains = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 0.5, "o_proj": 0.5, "gate_proj": 0.9, "up_proj": 0.9, "down_proj": 0.4}
    if tied:
        gains.update(v_proj=1.2, o_proj=1.2, down_proj=1.3)

    def f(name, p):
        vision, fan = ".visual." in name, p[0].numel() ** 0.5
        small = 0.05 if vision and "merger" not in name and any(x in name for x in ("patch_embed", "attn.proj", "fc2", "down_proj")) else 1.0
        if ("norm" in name or "ln_q" in name) and name.endswith("weight"):
            return 0.2, 1.0
        if name.endswith("bias"):
            return small * 0.08, 0.0
        if "embed_tokens" in name:
            return 0.16 if tied else 0.08, 0.0
        if "lm_head" in name:
            return 0.4, 0.0
        if vision:
            tower = {"patch_embed": 0.06, "attn.qkv": 1.4, "attn.proj": 0.06, "fc1": 0.9, "fc2": 0.06, "gate_proj": 0.9, "up_proj": 0.9, "down_proj": 0.06,
                     "mlp.0": 0.8, "mlp.2": 0.3}
            gain, = (x for part, x in tower.items() if part in name)
            return (gain if "merger" in name else small * gain) / fan, 0.0
        gain, = (x for part, x in gains.items() if part in name)
        return gain / fan, 0.0
    return f


def types(model):
    """M-RoPE needs to be told which tokens are a picture's."""
    def f(_m, args, kw):
        if kw.get("pixel_values") is not None and kw.get("mm_token_type_ids") is None:
            kw["mm_token_type_ids"] = (kw["input_ids"] == model.config.image_token_id).int()
        return args, kw
    model.register_forward_pre_hook(f, with_kwargs=True)
    return model


def build(spec, tok, seed):
    config = spec["config"](**{k: x for k, x in config_json(spec, tok).items() if k not in ("torch_dtype", "architectures", "model_type")})
    model = spec["model"]._from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    family.draw_weights(model, seed, spec["dtype"], spread(spec["tied"]))
    return types(model)


# ---------------------------------------------------------------- prompts and pictures

def processor(spec):
    return Qwen2VLImageProcessorPil(patch_size=spec["vision"]["patch_size"], merge_size=2, temporal_patch_size=2,
                                    size={"shortest_edge": PIXELS["min_pixels"], "longest_edge": PIXELS["max_pixels"]})


def unfold(patches, grid, p):
    """[3, h, w] from the processor's rows: cells line by line, their 2 x 2 patches; channel, frame, row, column."""
    _, gh, gw = grid.tolist()
    x = patches.view(gh // 2, gw // 2, 2, 2, 3, 2, p, p)
    assert torch.equal(x[:, :, :, :, :, 0], x[:, :, :, :, :, 1])       # a still picture is two equal frames
    return x[:, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6).reshape(3, gh * p, gw * p).contiguous()


def make_case(spec, tok, d, picture, question):
    image = Image.open(os.path.join(d, picture + ".png"))
    made = processor(spec)(images=image, return_tensors="pt")
    grid = made["image_grid_thw"]
    n = int(grid[0].prod()) // 4
    prompt = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{START}{PAD}{END}{question}<|im_end|>\n<|im_start|>assistant\n"
    ids = tok.encode(prompt.replace(PAD, PAD * n)).ids
    t, cls = torch.tensor(ids), torch.full((len(ids),), 3)
    cls[:len(tok.encode(prompt[:prompt.index(START)]).ids)] = 0
    cls[t == tok.token_to_id(PAD)] = 1
    cls[(t == tok.token_to_id(START)) | (t == tok.token_to_id(END))] = 2
    rows = (cls == 1).nonzero()[:, 0]
    assert len(rows) == n
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": made["pixel_values"].float(), "image_grid_thw": grid}, rows, cls,
                     {"question": question, "size": list(image.size)[::-1], "grid": grid[0].tolist()},
                     {"pixels": unfold(made["pixel_values"].float(), grid[0], spec["vision"]["patch_size"])})


def generate(model, c, new, pad_id):
    """transformers' own decoding, with its cache, must say the same."""
    n = len(c.ids)
    ids = torch.tensor([c.ids])
    settings = tiny.GenerationConfig(eos_token_id=2, pad_token_id=pad_id)
    got = model.generate(input_ids=ids, attention_mask=torch.ones(1, n, dtype=torch.long), max_new_tokens=len(new), do_sample=False,
                         mm_token_type_ids=(ids == model.config.image_token_id).int(), generation_config=settings, **c.inputs)[0].tolist()
    assert got[-len(new):] == new, (got, new)


def wrong(spec, model):
    """More settings that must matter."""
    lm, visual = model.model.language_model, model.model.visual
    out = {"sections of the positions": [(lm.rotary_emb, "mrope_section", spec["sections"][::-1])] if spec["sections"] != spec["sections"][::-1] else [],
           "tower's rope": [(visual.rotary_pos_emb, "inv_freq", visual.rotary_pos_emb.inv_freq * 0.5)]}
    if "window_size" in spec["vision"]:
        out["no windows"] = [(visual, "fullatt_block_indexes", [0, 1, 2])]
        out["window of 24 px"] = [(visual, "window_size", 24)]
        out["tower eps 1e-5"] = [(m, "variance_epsilon", 1e-5) for m in visual.modules() if hasattr(m, "variance_epsilon")]
    return out


def real_sizes():
    """Height, width -> tokens at Qwen2-VL's own numbers, which are known."""
    known = {(480, 640): 391, (1092, 1932): 2691, (20, 30): 6, (42, 70): 4, (1080, 1920): 2691}
    for (h, w), n in known.items():
        a, b = smart_resize(h, w, factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
        assert a * b // 784 == n, (h, w, a * b // 784)


# ---------------------------------------------------------------- one folder

def make_one(out, name):
    spec, d = SPECS[name], os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    real_sizes()
    tok = tokenizer(spec["n_vocab"])
    assert tok.get_vocab_size() == spec["n_vocab"]
    write_files(d, spec, tok)
    tiny.pictures(d, SIZES, spec["seed"])
    cases = [make_case(spec, tok, d, p, QUESTIONS[q]) for p, q in CASES]
    bad = {0, 1, 2} | {tok.token_to_id(t) for t in ADDED} | set(range(spec["n_vocab"], spec["pad_to"]))
    seed, model = tiny.find_seed(lambda s: build(spec, tok, s), parts(spec), cases, spec["seed"], bad)
    save_file(disk_weights(spec, model), os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    arrays, infos, peak = tiny.measure(model, parts(spec), cases, tok.decode, 0, (cases[0].span[0] - 1, cases[0].span[1] + 1), generate=generate)
    # Maps over the patches stand line by line, as the picture does; the gradient stays in the tower's order.
    grid = cases[0].inputs["image_grid_thw"]
    lines = patch_order(spec, grid)
    for k in ("c0/cam/sum/vision", "c0/cam/sum/vision/raw"):
        arrays[k] = torch.zeros_like(arrays[k]).index_copy(0, lines, arrays[k])
    arrays["c0/patch_order"] = lines
    for k in [x for x in arrays if x == "c0/logits" or x.startswith("c0/blocks.") and ("hook_pattern" in x or ".mlp." in x or "hook_attn_out" in x or "hook_mlp_out" in x)]:      # the last four rows
        x = arrays.pop(k)
        arrays[k + "@-4--1"] = x[..., -4:, :].contiguous()
    for i, c in enumerate(cases):
        arrays[f"c{i}/rope"] = positions(model, c)
    hard = tiny.hardness(model, parts(spec), cases[0], infos["c0"]["answer"], wrong(spec, model))
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    n_layer, n_vision = spec["text"]["num_hidden_layers"], spec["vision"]["depth"]
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "numbers": "transformers' " + spec["model"].__name__, "versions": common.versions(), "image_backend": Qwen2VLImageProcessorPil.__name__,
        "seed": seed, "weights_dtype": str(spec["dtype"]).split(".")[1], "vision_layers_run": n_vision, "image_token_id": tok.token_to_id(PAD),
        "classes": family.CLASSES, "cam_undefined": {"ln2": [n_layer - 1]}, "cam_vision_layer": n_vision - 1, "attention_peak": peak, **hard,
        "questions": QUESTIONS, "cases": infos})
    check(d, spec, arrays, infos, cases)
    tiny.finish(d, name, seed, infos, {"peak": peak, **hard})


def patch_order(spec, grid):
    """[n_patch] the patch (numbered line by line) of each row of the tower."""
    _, gh, gw = grid[0].tolist()
    cells = torch.arange(gh * gw).view(gh // 2, 2, gw // 2, 2).permute(0, 2, 1, 3).reshape(-1, 4)
    return (cells[window_order(spec, grid)[0]] if "window_size" in spec["vision"] else cells).flatten()


def positions(model, c):
    """[3, P] of the decoder's rotary embedding."""
    ids = torch.tensor([c.ids])
    return model.model.get_rope_index(ids, mm_token_type_ids=(ids == model.config.image_token_id).int(), image_grid_thw=c.inputs["image_grid_thw"])[0][:, 0]


def check(d, spec, arrays, infos, cases):
    """Reload the folder as a user would and compare."""
    model, info = spec["model"].from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == spec["tied"]
    proc = AutoProcessor.from_pretrained(d)     # its video part has no Pillow backend, so the picture's is put in by hand
    proc.image_processor = AutoImageProcessor.from_pretrained(d, backend="pil")
    types(model.eval())
    for (k, info), c in zip(infos.items(), cases):
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": info["question"]}]}
        assert proc.apply_chat_template([turn], add_generation_prompt=True) == c.prompt
        b = proc(images=Image.open(os.path.join(d, c.picture)), text=c.prompt, return_tensors="pt")
        assert b["input_ids"][0].tolist() == c.ids and torch.equal(b["pixel_values"], c.inputs["pixel_values"]), k
        with torch.no_grad():
            z = model(input_ids=torch.tensor([c.ids]), **c.inputs).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-5, k
