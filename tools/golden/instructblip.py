# SPDX-License-Identifier: MIT
"""A tiny InstructBLIP (vicuna): EVA tower, a Q-Former that reads the question, LLaMA; image tokens stand before the first token,
which is </s>. The Q-Former is the part "projector" in the sites' names.
"""
import collections
import os
import shutil

import torch
from PIL import Image
from safetensors.torch import save_file as save_torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoProcessor, InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor
from transformers.models.instructblip import modeling_instructblip
from transformers.models.llama import modeling_llama

import common
import family
import text
import tiny
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN
from corpus import TEXT

PROMPTS = ["What is in the picture?", "Is there a Caf\u00e9 in the image? Short answer:"]
SIZES = {"a": (50, 33), "b": (31, 64), "c": (28, 28), "d": (90, 7), "e": (5, 70), "f": (13, 20)}      # (w, h)
CASES = [("a", 0), ("b", 1), ("a", 1), ("c", 0), ("d", 0), ("e", 1), ("f", 0)]
SEED, N_VOCAB, N_QUERY, N_WORDPIECE = 700, 340, 5, 180
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, image_size=28, patch_size=7, layer_norm_eps=2e-3)
QFORMER = dict(hidden_size=20, num_hidden_layers=4, num_attention_heads=2, intermediate_size=28, max_position_embeddings=40, layer_norm_eps=3e-3)
LLAMA = dict(hidden_size=32, intermediate_size=44, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=2048, rms_norm_eps=3e-3)
N_ROW = (VISION["image_size"] // VISION["patch_size"]) ** 2 + 1


# ---------------------------------------------------------------- tokenizers

def main_tokenizer():
    """LLaMA's, with </s> as bos, eos and unk, and [PAD], <image> added."""
    t = Tokenizer(text.llama_bpe(N_VOCAB))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(text.SP), normalizers.Replace(" ", text.SP)])
    t.decoder = text.legacy_decoder()
    t.add_special_tokens([text.special(x) for x in ("<unk>", "<s>", "</s>", "[PAD]", IMAGE_TOKEN)])
    t.post_processor = processors.TemplateProcessing(single="</s> $A", pair="</s> $A </s>:1 $B:1", special_tokens=[("</s>", 2)])
    return t


def wordpieces(normalizer, pre_tokenizer, n):
    """n pieces: every character at a word's beginning and inside it, then the commonest beginnings and continuations of words. Made by hand
    because the library's WordPiece trainer breaks ties at random."""
    words = [w for line in TEXT for w, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(line))]
    letters = sorted(set("".join(words)))
    count = collections.Counter()
    for w in words:
        count.update(w[:k] for k in range(2, len(w) + 1))
        count.update("##" + w[at:at + k] for at in range(1, len(w)) for k in range(2, len(w) - at + 1))
    pieces = letters + ["##" + x for x in letters]
    return pieces + sorted(count, key=lambda x: (-count[x] * len(x.strip("#")), x))[:n - len(pieces)]


def bert_tokenizer():
    """BERT's uncased WordPiece, small, with [DEC] added behind its vocabulary."""
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = specials + wordpieces(normalizer, pre_tokenizers.BertPreTokenizer(), N_WORDPIECE - len(specials))
    t = Tokenizer(models.WordPiece(vocab={x: i for i, x in enumerate(vocab)}, unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer, t.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    t.add_special_tokens([text.special(x) for x in (*specials, "[DEC]")])
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t


# ---------------------------------------------------------------- the folder

def write_files(d, main, bert):
    """Everything but the weights and the goldens, in the form of the hub's instructblip-vicuna folders."""
    image_id, pad_id = main.token_to_id(IMAGE_TOKEN), main.token_to_id("[PAD]")
    common.write_json(os.path.join(d, "config.json"), {
        "architectures": ["InstructBlipForConditionalGeneration"], "image_token_index": image_id, "initializer_factor": 1.0, "initializer_range": 0.02,
        "model_type": "instructblip", "num_query_tokens": N_QUERY,
        "qformer_config": {"model_type": "instructblip_qformer", "vocab_size": bert.get_vocab_size(), **QFORMER},
        "text_config": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "pad_token_id": 0, "torch_dtype": "float16", "vocab_size": image_id + 1, **LLAMA},
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.46.0.dev0", "use_decoder_only_language_model": True,
        "vision_config": {"model_type": "instructblip_vision_model", **VISION}})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
                                                                   "transformers_version": "4.46.0.dev0"})
    side = VISION["image_size"]
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": CLIP_MEAN, "image_processor_type":
        "BlipImageProcessor", "image_std": CLIP_STD, "processor_class": "InstructBlipProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"height": side, "width": side}})
    common.write_json(os.path.join(d, "processor_config.json"), {"num_query_tokens": N_QUERY, "processor_class": "InstructBlipProcessor"})
    added = {str(main.token_to_id(x)): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
             for x in ("<unk>", "<s>", "</s>", "[PAD]", IMAGE_TOKEN)}
    main.save(os.path.join(d, "tokenizer.json"))
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": added, "bos_token": "</s>", "clean_up_tokenization_spaces": False,
        "eos_token": "</s>", "legacy": True, "model_max_length": 2048, "pad_token": "[PAD]", "processor_class": "InstructBlipProcessor",
        "tokenizer_class": "LlamaTokenizer", "truncation_side": "left", "unk_token": "</s>"})
    q = os.path.join(d, "qformer_tokenizer")
    os.makedirs(q, exist_ok=True)
    bert.save(os.path.join(q, "tokenizer.json"))
    with open(os.path.join(q, "vocab.txt"), "w", encoding="utf-8", newline="\n") as f:
        vocab = bert.get_vocab()
        f.writelines(x + "\n" for x in sorted(vocab, key=vocab.get) if x != "[DEC]")
    common.write_json(os.path.join(q, "tokenizer_config.json"), {
        "bos_token": "[DEC]", "clean_up_tokenization_spaces": True, "cls_token": "[CLS]", "do_lower_case": True, "mask_token": "[MASK]", "model_max_length": 512,
        "pad_token": "[PAD]", "sep_token": "[SEP]", "strip_accents": None, "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer",
        "truncation_side": "left", "unk_token": "[UNK]"})
    common.write_json(os.path.join(q, "special_tokens_map.json"), {"bos_token": "[DEC]", "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]",
                                                                     "sep_token": "[SEP]", "unk_token": "[UNK]"})


def spread(name, p):
    """Sizes of random weights: peaked attention, and norms whose eps shows."""
    if "norm" in name.lower() and name.endswith("weight"):
        return 0.2, 1.0
    if name.endswith("bias"):
        return 0.05, 0.0
    for part, std in (("class_embedding", 0.05), ("position_embedding", 0.05), ("query_tokens", 0.08), ("word_embeddings", 0.06), ("embed_tokens", 0.08), ("lm_head", 0.4)):
        if part in name:
            return std, 0.0
    if "patch_embedding" in name:
        return 0.05 / p[0].numel() ** 0.5, 0.0
    for part, gain in (("qkv", 1.5), (".query.", 1.5), (".key.", 1.5), ("q_proj", 1.7), ("k_proj", 1.7), (".value.", 1.0), ("attention.output", 0.9),
                       ("language_projection", 0.3), ("intermediate", 0.9), ("output", 0.7), ("projection", 0.3), ("v_proj", 0.45), ("o_proj", 0.45),
                       ("gate_proj", 0.9), ("up_proj", 0.9), ("down_proj", 0.4), ("fc1", 0.9), ("fc2", 0.4)):
        if part in name:
            return gain / p.shape[1] ** 0.5, 0.0
    raise ValueError(name)


def build(d, seed):
    cfg = InstructBlipConfig.from_pretrained(d)
    model = InstructBlipForConditionalGeneration._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    family.draw_weights(model, seed, torch.float16, spread)
    return model


def write_weights(d, model):
    sd = {k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    sd["qformer.embeddings.position_ids"] = torch.arange(QFORMER["max_position_embeddings"])[None]      # a buffer that older files hold
    save_torch(sd, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})


# ---------------------------------------------------------------- running it

def attach(r, model):
    v = model.vision_model
    r.out(v.embeddings, "vision.hook_embed")
    for i, b in enumerate(v.encoder.layers):
        p = f"vision.blocks.{i}."
        r.inp(b, p + "hook_resid_pre")
        r.out(b.layer_norm1, p + "ln1.hook_normalized")
        r.handles.append(b.self_attn.qkv.register_forward_hook(
            lambda _m, _a, out, p=p: r.v.update({p + f"attn.hook_{x}": part for x, part in zip("qkv", out.chunk(3, -1))})))
        r.inp(b.self_attn.projection, p + "attn.hook_z")
        r.out(b.self_attn.projection, p + "hook_attn_out")
        family.attach_vision_mlp(r, b, p)
        r.names[id(b.self_attn)] = p + "attn."

    def rows_only(_m, _a, out):     # the module also norms the pooled row
        if out.dim() == 3:
            r.v["vision.ln_post.hook_normalized"] = r.v["projector.hook_in"] = out
    r.handles.append(v.post_layernorm.register_forward_hook(rows_only))
    r.out(model.qformer.embeddings, "projector.hook_embed")
    for i, b in enumerate(model.qformer.encoder.layer):
        p = f"projector.blocks.{i}."
        r.names[id(b.attention.attention)] = p + "attn."
        if b.has_cross_attention:
            r.names[id(b.crossattention.attention)] = p + "cross."
        r.out(b.attention, p + "hook_resid_mid")
        r.out(b, p + "hook_resid_post")
    r.out(model.language_projection, "projector.hook_out")
    r.watch(modeling_instructblip, lambda p, q, k, w, s: r.v.__setitem__(p + "hook_pattern", w[0]))
    family.attach_llama(r, model.language_model.model, modeling_llama)


def parts(model):
    lm = model.language_model
    return tiny.Parts(lm.model, lm.lm_head, attach, VISION["num_attention_heads"], VISION["num_hidden_layers"])


def make_case(proc, d, picture, prompt):
    b = proc(images=Image.open(os.path.join(d, picture + ".png")), text=prompt, return_tensors="pt")
    ids = b["input_ids"][0].tolist()
    image_id = proc.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert ids[:N_QUERY + 1] == [image_id] * N_QUERY + [2] and image_id not in ids[N_QUERY:]
    classes = torch.full((len(ids),), 3)
    classes[:N_QUERY], classes[N_QUERY] = 1, 0
    q = b["qformer_input_ids"]
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": b["pixel_values"], "qformer_input_ids": q, "qformer_attention_mask": b["qformer_attention_mask"]},
                     torch.arange(N_QUERY), classes, {"qformer_ids": q[0].tolist()}, {"pixels": b["pixel_values"][0], "qformer.ids": q[0]})


def make(out):
    d = os.path.join(out, "instructblip")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    main, bert = main_tokenizer(), bert_tokenizer()
    image_id, pad_id = main.token_to_id(IMAGE_TOKEN), main.token_to_id("[PAD]")
    assert (pad_id, image_id, bert.get_vocab_size()) == (N_VOCAB, N_VOCAB + 1, N_WORDPIECE + 1) and bert.token_to_id("[DEC]") == bert.get_vocab_size() - 1
    write_files(d, main, bert)
    tiny.pictures(d, SIZES, SEED)
    proc = AutoProcessor.from_pretrained(d, backend="pil")
    assert isinstance(proc, InstructBlipProcessor) and type(proc.image_processor).__name__ == "BlipImageProcessorPil"
    cases = [make_case(proc, d, p, PROMPTS[q]) for p, q in CASES]
    for c in cases:     # the processor must follow the two tokenizer.json literally
        assert c.ids[N_QUERY:] == main.encode(c.prompt).ids and c.facts["qformer_ids"] == bert.encode(c.prompt).ids and "[UNK]" not in bert.encode(c.prompt).tokens
    seed, model = tiny.find_seed(lambda s: build(d, s), parts, cases, SEED, {0, 1, 2, pad_id, image_id})
    write_weights(d, model)
    arrays, infos, peak = tiny.measure(model, parts, cases, main.decode, pad_id)
    q = model.qformer
    other = torch.nn.Parameter(q.embeddings.position_embeddings.weight.roll(1, 0).detach())
    more = {"q-former eps 1e-12": [(m, "eps", 1e-12) for m in q.modules() if isinstance(m, torch.nn.LayerNorm)],
            "q-former positions one off": [(q.embeddings.position_embeddings, "weight", other)],
            "text FFN for queries": [(b, x + "_query", getattr(b, x)) for b in q.encoder.layer for x in ("intermediate", "output")]}
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"], more)
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "versions": common.versions(), "image_backend": type(proc.image_processor).__name__, "seed": seed, "weights_dtype": "float16",
        "vision_layers_run": VISION["num_hidden_layers"], "image_token_id": image_id, "image_tokens": N_QUERY, "classes": family.CLASSES,
        "cam_undefined": {"ln2": [LLAMA["num_hidden_layers"] - 1]}, "cam_vision_layer": VISION["num_hidden_layers"] - 1,
        "cam_note": "alpha is the mean over the query rows; the vision map, through the Q-Former, leaves CLS out of mean and map.",
        "attention_peak": peak, **hard, "prompts": PROMPTS, "cases": infos})
    with torch.no_grad():
        consistency(model, arrays)
    check(d, arrays, infos)
    tiny.finish(d, "instructblip", seed, infos, {"peak": peak, **hard})


def consistency(model, arrays):
    a, lm = (lambda n: arrays["c0/" + n]), model.language_model
    norm = torch.nn.functional.layer_norm
    family.check_llama(a, lm.model, lm.config)
    family.check_vision(a, model.config.vision_config, VISION["num_hidden_layers"], N_ROW)
    family.same(a("vision.hook_embed"), a("vision.blocks.0.hook_resid_pre"), "tower's input")
    ln = model.vision_model.post_layernorm
    family.same(a("projector.hook_in"), norm(a("vision.blocks.2.hook_resid_post"), ln.normalized_shape, ln.weight, ln.bias, ln.eps), "post norm")
    x = a("projector.hook_embed")
    assert len(x) == N_QUERY + len(a("qformer.ids"))
    for i, b in enumerate(model.qformer.encoder.layer):
        family.same(a(f"projector.blocks.{i}.hook_resid_mid"), b.attention(x[None])[0], "q-former's self-attention")
        family.same(a(f"projector.blocks.{i}.attn.hook_pattern").sum(-1), torch.ones(QFORMER["num_attention_heads"], len(x)), "pattern")
        assert (f"c0/projector.blocks.{i}.cross.hook_pattern" in arrays) == (i % 2 == 0)
        x = a(f"projector.blocks.{i}.hook_resid_post")
    out = x[:N_QUERY] @ model.language_projection.weight.T + model.language_projection.bias
    family.same(a("projector.hook_out"), out, "language projection")
    family.same(a("hook_embed")[:N_QUERY], a("projector.hook_out"), "splice")
    family.same(a("logits"), a("ln_final.hook_normalized") @ lm.lm_head.weight.T, "head")


def check(d, arrays, infos):
    """Reload the folder as a user would and compare."""
    model, info = InstructBlipForConditionalGeneration.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and set(info["unexpected_keys"]) <= {"qformer.embeddings.position_ids"} and not info["mismatched_keys"], info
    proc = AutoProcessor.from_pretrained(d, backend="pil")
    for k, c in infos.items():
        b = proc(images=os.path.join(d, c["picture"]), text=c["prompt"], return_tensors="pt")
        assert b["input_ids"][0].tolist() == c["ids"] and torch.equal(b["pixel_values"][0], arrays[k + "/pixels"])
        with torch.no_grad():
            z = model.eval()(**b).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-4, k
