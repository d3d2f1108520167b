# SPDX-License-Identifier: MIT
"""A tiny random Gemma 3 folder, numbers from transformers' own Gemma3ForConditionalGeneration.

Local and global layers with their own rotary bases and windows (the global one's positions stretched), image rows that see each other both
ways, a window smaller than the image, four norms a layer of weights 1 + w, normed queries and keys, a score scale that is not the head's
width, scaled embeddings of text, a tied head, patches averaged to tokens.
"""
import json
import os
import shutil

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.siglip import modeling_siglip

import common
import family
import text
import tiny
from branch_plans import attend, edit, edits, rule

BOI, EOI, SOFT = "<start_of_image>", "<end_of_image>", "<image_soft_token>"
FIRST = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
LINES = ["\n", "\n\n", "\n\n\n"]
N_VOCAB, PAD_TO, TOKENS, WINDOW = 400, 406, 16, 8
QUESTIONS = ["What is this?", "Is there a cat in the image?"]
SIZES = {"a": (40, 40), "b": (61, 26), "c": (26, 61), "d": (7, 80)}
CASES = [("b", 0), ("a", 1), ("c", 1), ("d", 0)]      # c0 has every site
VISION = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=14, image_size=32, patch_size=4, layer_norm_eps=2e-3)
TEXT = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=20, rms_norm_eps=3e-3,
            query_pre_attn_scalar=5, sliding_window=WINDOW, sliding_window_pattern=3, rope_theta=500.0, rope_local_base_freq=50.0,
            rope_scaling={"factor": 2.0, "rope_type": "linear"}, max_position_embeddings=256)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + (message['role'] if message['role'] != 'assistant' else 'model') + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<start_of_image>' }}{% elif item['type'] == 'text' %}{{ item['text'] | trim }}"
    "{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}")


# ---------------------------------------------------------------- tokenizer and files

def tokenizer():
    """Gemma's shape: no dummy prefix, spaces as U+2581, byte fallback, line ends as added tokens, `<bos>` first."""
    more = LINES + [BOI, EOI, SOFT]
    pieces, merges = text.train_pieces(pre_tokenizers.Metaspace(replacement=text.SP, prepend_scheme="never"), N_VOCAB - len(FIRST + more) - 256)
    vocab = {p: i for i, p in enumerate(FIRST + LINES + text.BYTES + pieces + [BOI, EOI, SOFT])}
    assert len(vocab) == N_VOCAB, len(vocab)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", text.SP)
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace(text.SP, " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_tokens([AddedToken(x, normalized=False) for x in LINES])
    t.add_special_tokens([text.special(x) for x in FIRST + [BOI, EOI, SOFT]])
    t.post_processor = processors.TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)])
    return t


def config(tok):
    """As in the hub's folders: rope_theta and sliding_window_pattern, and only what differs from the class defaults."""
    return {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": tok.token_to_id(BOI), "eoi_token_index": tok.token_to_id(EOI),
            "eos_token_id": [1, tok.token_to_id("<end_of_turn>")], "image_token_index": tok.token_to_id(SOFT), "mm_tokens_per_image": TOKENS,
            "model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "vocab_size": PAD_TO, **TEXT},
            "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **VISION}}


def write_files(d, tok):
    tok.save(os.path.join(d, "tokenizer.json"))
    common.write_json(os.path.join(d, "config.json"), config(tok))
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "do_convert_rgb": None, "do_normalize": True, "do_pan_and_scan": None, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": TOKENS, "image_std": [0.5] * 3, "pan_and_scan_max_num_crops": None,
        "pan_and_scan_min_crop_size": None, "pan_and_scan_min_ratio_to_activate": None, "processor_class": "Gemma3Processor", "resample": 2,
        "rescale_factor": 1 / 255, "size": {"height": VISION["image_size"], "width": VISION["image_size"]}})
    common.write_json(os.path.join(d, "processor_config.json"), {"image_seq_length": TOKENS, "processor_class": "Gemma3Processor"})
    common.write_json(os.path.join(d, "chat_template.json"), {"chat_template": TEMPLATE})
    special = {i: x for i, x in tok.get_added_tokens_decoder().items()}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": {
            str(i): {"content": x.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": x.special}
            for i, x in sorted(special.items())},
        "boi_token": BOI, "bos_token": "<bos>", "clean_up_tokenization_spaces": False, "eoi_token": EOI, "eos_token": "<eos>",
        "extra_special_tokens": {"boi_token": BOI, "eoi_token": EOI, "image_token": SOFT}, "image_token": SOFT, "model_max_length": 131072,
        "pad_token": "<pad>", "processor_class": "Gemma3Processor", "spaces_between_special_tokens": False, "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>", "use_default_system_prompt": False})
    common.write_json(os.path.join(d, "generation_config.json"), {"bos_token_id": 2, "cache_implementation": "hybrid", "do_sample": True,
                                                                  "eos_token_id": [1, tok.token_to_id("<end_of_turn>")], "pad_token_id": 0, "top_k": 64})


# ---------------------------------------------------------------- the model

class Model(Gemma3ForConditionalGeneration):
    """With the processor's token types, made from the ids: image rows see each other."""

    def forward(self, input_ids=None, **kw):
        return super().forward(input_ids=input_ids, token_type_ids=(input_ids == self.config.image_token_id).long(), **kw)


def attach_all(r, model):
    m = model.model
    r.out(m.vision_tower.embeddings, "vision.hook_embed")
    for i, b in enumerate(m.vision_tower.encoder.layers):
        p = f"vision.blocks.{i}."
        r.inp(b, p + "hook_resid_pre")
        r.out(b.layer_norm1, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(b.self_attn.out_proj, p + "attn.hook_z")
        r.out(b.self_attn.out_proj, p + "hook_attn_out")
        family.attach_vision_mlp(r, b, p)
        r.names[id(b.self_attn)] = p
    r.out(m.vision_tower.post_layernorm, "vision.ln_post.hook_normalized")
    r.watch(modeling_siglip, lambda p, q, k, w, s: r.v.__setitem__(p + "attn.hook_pattern", w[0]))
    pr = m.multi_modal_projector
    r.inp(pr.mm_soft_emb_norm, "projector.hook_in")
    r.out(pr.mm_soft_emb_norm, "projector.ln.hook_normalized")
    r.out(pr, "projector.hook_out")
    attach_text(r, m.language_model)


def attach_text(r, lm):
    for i, b in enumerate(lm.layers):
        p = f"blocks.{i}."
        if i == 0:
            r.inp(b, "hook_embed")
        r.inp(b, p + "hook_resid_pre")
        r.out(b.input_layernorm, p + "ln1.hook_normalized")
        for x in "qkv":
            r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
        r.inp(b.self_attn.o_proj, p + "attn.hook_z")
        r.out(b.post_attention_layernorm, p + "hook_attn_out")      # what is added to the residual stream
        r.inp(b.pre_feedforward_layernorm, p + "hook_resid_mid")
        r.out(b.pre_feedforward_layernorm, p + "ln2.hook_normalized")
        r.out(b.mlp.gate_proj, p + "mlp.hook_pre")
        r.out(b.mlp.up_proj, p + "mlp.hook_pre_linear")
        r.inp(b.mlp.down_proj, p + "mlp.hook_post")
        r.out(b.post_feedforward_layernorm, p + "hook_mlp_out")
        r.out(b, p + "hook_resid_post")
        r.names[id(b.self_attn)] = p
    r.out(lm.norm, "ln_final.hook_normalized")

    def see(p, query, key, w, scaling):
        r.v[p + "attn.hook_pattern"] = w[0]
        r.v[p + "attn.hook_rot_q"] = query[0].transpose(0, 1)
        r.v[p + "attn.hook_rot_k"] = key[0].transpose(0, 1)
        k = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0)
        r.v[p + "attn.hook_attn_scores"] = query[0] @ k.transpose(1, 2) * scaling
    r.watch(modeling_gemma3, see)


def more_plans(case):
    """What changes an image row changes those before it too."""
    first, end = case.span
    return {"scale-image-row": edits(edit("resid_post", 0, str(end - 2), "scale", -1.5)),
            "blind-image": attend(rule("1-", "all", f"{first + 5}-{end - 1}", f"0-{first + 2}", "hidden"))}


def parts(model):
    p = tiny.Parts(model.model.language_model, model.lm_head, attach_all, VISION["num_attention_heads"], VISION["num_hidden_layers"], 0)
    p.more_plans = more_plans
    return p


def spread(name, p):
    """Small activations (so eps matters), peaked attention, sublayers that outweigh the embedding of the tied head. Norm weights are around 1 + w."""
    vision = "vision_tower" in name
    if vision:
        if "norm" in name and name.endswith("weight"):
            return (0.1, 0.3) if "post_layernorm" in name else (0.2, 1.0)
        if name.endswith("bias"):
            return (0.08 if "self_attn" in name else 0.02), 0.0
        if "position_embedding" in name:
            return 0.06, 0.0
        if "patch_embedding" in name:
            return 0.06 / p[0].numel() ** 0.5, 0.0
        gains = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 0.5, "out_proj": 0.4, "fc1": 0.9, "fc2": 0.4}
    else:
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            return 0.2, 0.7
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            return 0.3, 0.3
        if "norm" in name:
            return 0.2, 0.1
        if "mm_input_projection_weight" in name:
            return 0.3 / p.shape[0] ** 0.5, 0.0
        if "embed_tokens" in name:
            return 0.16, 0.0
        gains = {"q_proj": 0.2, "k_proj": 0.2, "v_proj": 0.2, "o_proj": 0.5, "gate_proj": 0.9, "up_proj": 0.4, "down_proj": 0.4}
    gain, = (x for part, x in gains.items() if part in name)
    return gain / p.shape[1] ** 0.5, 0.0


def build(tok, seed):
    c = json.loads(json.dumps(config(tok)))
    c["text_config"].update(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    cfg = Gemma3Config(**{k: x for k, x in c.items() if k not in ("model_type", "architectures")})
    model = Model._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    family.draw_weights(model, seed, torch.bfloat16, spread)
    assert model.model.language_model.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    return model


def generate(model, c, new, pad_id):
    """transformers' own decoding, with its cache, must say the same."""
    ids = torch.tensor([c.ids])
    settings = GenerationConfig(eos_token_id=1, pad_token_id=pad_id)
    model.__class__ = Gemma3ForConditionalGeneration    # its own token types
    got = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=len(new), do_sample=False, generation_config=settings,
                         token_type_ids=(ids == model.config.image_token_id).long(), **c.inputs)[0].tolist()
    model.__class__ = Model
    assert got[-len(new):] == new, (got, new)


# ---------------------------------------------------------------- prompts and pictures

def prompt_of(question):
    return f"<start_of_turn>user\n<image>{question}<end_of_turn>\n<start_of_turn>model\n"


def make_case(tok, d, picture, question):
    image = Image.open(os.path.join(d, picture + ".png"))
    px = Gemma3ImageProcessorPil(size={"height": VISION["image_size"], "width": VISION["image_size"]})(images=image, return_tensors="pt")["pixel_values"]
    prompt = prompt_of(question)
    ids = tok.encode(prompt.replace("<image>", f"\n\n{BOI}{SOFT * TOKENS}{EOI}\n\n", 1)).ids
    t, cls = torch.tensor(ids), torch.full((len(ids),), 3)
    rows = (t == tok.token_to_id(SOFT)).nonzero()[:, 0]
    cls[:rows[0]] = 0
    cls[rows] = 1
    cls[rows[0] - 1] = cls[rows[-1] + 1] = 2
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px.to(torch.float32)}, rows, cls, {"question": question, "size": list(image.size)[::-1],
                     "views": 1}, {"pixels": px})


def wrong(model):
    """More settings that must matter."""
    m, lm = model.model, model.model.language_model
    rope, layers, norms = lm.rotary_emb, lm.layers, [x for x in lm.modules() if type(x).__name__ == "Gemma3RMSNorm"]
    return {"rms eps 1e-6": [(x, "eps", 1e-6) for x in norms], "norm weights w, not 1 + w": [(x.weight, "data", x.weight.data - 1) for x in norms],
            "no stretching of global positions": [(rope, "full_attention_inv_freq", rope.full_attention_inv_freq * 2)],
            "one rotary base": [(rope, "sliding_attention_inv_freq", rope.full_attention_inv_freq)],
            "score scale of the head's width": [(b.self_attn, "scaling", 8 ** -0.5) for b in layers],
            "no embedding scale": [(lm.embed_tokens, "embed_scale", torch.tensor(1.0))],
            "window off by one": [(lm.config, "sliding_window", WINDOW + 1)],
            "image rows causal": [(modeling_gemma3, "get_block_sequence_ids_for_mask", lambda types, device: torch.full_like(types, -1))],
            "projector norm eps 1e-6": [(m.multi_modal_projector.mm_soft_emb_norm, "eps", 1e-6)]}


# ---------------------------------------------------------------- the folder

def make(out):
    d = os.path.join(out, "gemma3")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    tok = tokenizer()
    write_files(d, tok)
    tiny.pictures(d, SIZES, 5)
    cases = [make_case(tok, d, p, QUESTIONS[q]) for p, q in CASES]
    bad = {0, 1, 2, 3} | set(tok.get_added_tokens_decoder()) | set(range(N_VOCAB, PAD_TO))
    seed, model = tiny.find_seed(lambda s: build(tok, s), parts, cases, 1, bad)
    names = {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower.vision_model.",
             "model.multi_modal_projector.": "multi_modal_projector."}      # the hub's
    disk = {next(b + k.removeprefix(a) for a, b in names.items() if k.startswith(a)): x.to(torch.bfloat16).contiguous()
            for k, x in model.state_dict().items() if k != "lm_head.weight"}
    save_file(disk, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    span = cases[0].span[0] - 1, cases[0].span[1] + 1
    arrays, infos, peak = tiny.measure(model, parts, cases, tok.decode, 0, span, generate)
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"], wrong(model))
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    n_layer, n_vision = TEXT["num_hidden_layers"], VISION["num_hidden_layers"]
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "numbers": "transformers' Gemma3ForConditionalGeneration", "versions": common.versions(), "image_backend": Gemma3ImageProcessorPil.__name__,
        "seed": seed, "weights_dtype": "bfloat16", "vision_layers_run": n_vision, "image_token_id": tok.token_to_id(SOFT), "tokens_per_view": TOKENS,
        "classes": family.CLASSES, "cam_undefined": {"ln2": [n_layer - 1]}, "cam_vision_layer": n_vision - 1, "attention_peak": peak, **hard,
        "questions": QUESTIONS, "cases": infos})
    with torch.no_grad():
        consistency(model, arrays)
    check(d, tok, arrays, infos)
    tiny.finish(d, "gemma3", seed, infos, {"peak": peak, **hard})


def consistency(model, arrays):
    """The recorded sites must fit together the way their names say (catches a hook put on the wrong module)."""
    a, lm, same = lambda name: arrays["c0/" + name], model.model.language_model, family.same
    ids, image = a("ids"), a("ids") == model.config.image_token_id
    same(a("hook_embed")[image], a("projector.hook_out"), "splice")
    same(a("hook_embed")[~image], lm.embed_tokens.weight[ids[~image]] * TEXT["hidden_size"] ** 0.5, "embedding")
    same(a("projector.hook_out"), a("projector.ln.hook_normalized") @ model.model.multi_modal_projector.mm_input_projection_weight, "projector")
    x = a("vision.ln_post.hook_normalized").view(4, 2, 4, 2, -1).mean((1, 3)).flatten(0, 1)
    same(a("projector.hook_in"), x, "average over 2 x 2 patches")
    same(a("logits"), a("ln_final.hook_normalized") @ lm.embed_tokens.weight.T, "tied head")
    family.check_vision(a, model.config.vision_config, VISION["num_hidden_layers"], 64)
    p = torch.arange(len(ids))
    seen = (p[None] <= p[:, None]) | (image[None] & image[:, None])
    for i, b in enumerate(lm.layers):
        s = lambda n: a(f"blocks.{i}." + n)
        k = s("attn.hook_rot_k").repeat_interleave(2, 1)
        scores = torch.einsum("qhd,khd->hqk", s("attn.hook_rot_q"), k) * TEXT["query_pre_attn_scalar"] ** -0.5
        same(s("attn.hook_attn_scores"), scores[:, -3:], "scores")
        mask = seen & (p[None] > p[:, None] - WINDOW) if b.self_attn.is_sliding else seen
        same(s("attn.hook_pattern"), scores.masked_fill(~mask, float("-inf")).softmax(-1), "pattern")
        same(s("hook_resid_mid"), s("hook_resid_pre") + s("hook_attn_out"), "mid")
        same(s("hook_resid_post"), s("hook_resid_mid") + s("hook_mlp_out"), "post")
        same(s("mlp.hook_post"), torch.nn.functional.gelu(s("mlp.hook_pre"), approximate="tanh") * s("mlp.hook_pre_linear"), "mlp")
        for n, at, norm in (("ln1", "hook_resid_pre", b.input_layernorm), ("ln2", "hook_resid_mid", b.pre_feedforward_layernorm)):
            y = s(at)
            same(s(n + ".hook_normalized"), y * (y.pow(2).mean(-1, keepdim=True) + TEXT["rms_norm_eps"]).rsqrt() * (1 + norm.weight), n)


def check(d, tok, arrays, infos):
    """Reload the folder as a user would and compare."""
    model, info = Gemma3ForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    fast = PreTrainedTokenizerFast(tokenizer_file=os.path.join(d, "tokenizer.json"), bos_token="<bos>", unk_token="<unk>",
                                   extra_special_tokens={"boi_token": BOI, "eoi_token": EOI, "image_token": SOFT})
    proc = Gemma3Processor(Gemma3ImageProcessorPil.from_pretrained(d), fast, image_seq_length=TOKENS, chat_template=TEMPLATE)
    for k, c in infos.items():
        image = Image.open(os.path.join(d, c["picture"]))
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": c["question"]}]}
        said = proc.apply_chat_template([turn], add_generation_prompt=True)
        assert said == "<bos>" + c["prompt"].replace("<image>", BOI)
        b = proc(images=[image], text=[said.removeprefix("<bos>")], return_tensors="pt")
        assert b["input_ids"][0].tolist() == c["ids"] and torch.equal(b["pixel_values"], arrays[k + "/pixels"]), k
        types = b["token_type_ids"] if "token_type_ids" in b else (b["input_ids"] == model.config.image_token_id).long()
        assert torch.equal(types[0] == 1, b["input_ids"][0] == model.config.image_token_id)
        with torch.no_grad():
            z = model.eval()(input_ids=b["input_ids"], pixel_values=b["pixel_values"], token_type_ids=types).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-5, k
