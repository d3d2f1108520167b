# SPDX-License-Identifier: MIT
"""Tiny random SmolVLM and Idefics3 folders.

A picture is cut into tiles and a squashed whole; every view's tokens stand between tokens of text (`<fake_token_around_image>`, `<row_1_col_1>`,
line ends, `<global-img>`). The image's rows are everything from the first of those tokens to the last: rows that carry no patch are of
class structure. Numbers come from transformers' own SmolVLMForConditionalGeneration and Idefics3ForConditionalGeneration.
"""
import json
import os
import shutil

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig, PreTrainedTokenizerFast, SmolVLMConfig,
                          SmolVLMForConditionalGeneration)
from transformers.models.idefics3 import modeling_idefics3
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llama import modeling_llama
from transformers.models.smolvlm import modeling_smolvlm
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

import common
import family
import text
import tiny

IMAGE, FAKE, GLOBAL, END = "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"
ROWS = [f"<row_{r}_col_{c}>" for r in range(1, 4) for c in range(1, 4)]
QUESTIONS = ["What is this?", "Is there a cat in the image?"]
SIZES = {"a": (40, 40), "b": (61, 26), "c": (26, 61), "d": (100, 30)}
CASES = [("b", 0), ("a", 1), ("c", 1), ("d", 0)]      # c0 has every site
SPECS = {
    "smolvlm": dict(        # head tied, pixel shuffle of 3 x 3, three decoder layers
        seed=1, dtype=torch.bfloat16, kind="smolvlm", classes=(SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil, modeling_smolvlm),
        start="<|im_start|>", n_vocab=330, pad_to=336, edge=48, split=True, scale=3, sites="",
        vision=dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20, image_size=24, patch_size=4, layer_norm_eps=2e-3),
        text=dict(hidden_size=18, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, intermediate_size=20, rms_norm_eps=3e-3,
                  rope_parameters={"rope_type": "default", "rope_theta": 500.0}, max_position_embeddings=256, tie_word_embeddings=True)),
    "idefics3": dict(       # one view, untied head, the class defaults left out of config.json
        seed=100, dtype=torch.float16, kind="idefics3", classes=(Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil, modeling_idefics3),
        start="<|begin_of_text|>", n_vocab=330, pad_to=332, edge=24, split=False, scale=2, sites=("hook_out", "hook_resid_post", "ln2.hook_normalized", "hook_in"),
        vision=dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=4, layer_norm_eps=1e-6),
        text=dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=28, rms_norm_eps=3e-3,
                  rope_parameters={"rope_type": "default", "rope_theta": 700.0}, max_position_embeddings=256, tie_word_embeddings=False)),
}
TEMPLATE = (
    "%s{%% for message in messages %%}{{message['role'] | capitalize}}{%% if message['content'][0]['type'] == 'image' %%}{{':'}}{%% else %%}{{': '}}{%% endif %%}"
    "{%% for line in message['content'] %%}{%% if line['type'] == 'text' %%}{{line['text']}}{%% elif line['type'] == 'image' %%}{{ '<image>' }}{%% endif %%}{%% endfor %%}"
    "<end_of_utterance>\n{%% endfor %%}{%% if add_generation_prompt %%}{{ 'Assistant:' }}{%% endif %%}")


# ---------------------------------------------------------------- tokenizer and files

def tokenizer(spec):
    """SmolLM2's shape: single digits, GPT-2's byte level, no BOS. Two line ends are one piece, as in the real vocabulary."""
    first = ["<|endoftext|>", spec["start"], "<|im_end|>"]
    added = [GLOBAL, *ROWS, FAKE, IMAGE, END]
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    pieces, merges = text.train_pieces(pre, spec["n_vocab"] - len(first + added) - 1, alphabet=pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = first + pieces + ["\u010a\u010a"], merges + [("\u010a", "\u010a")]
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    t.add_special_tokens([text.special(x) for x in first + added])
    assert t.get_vocab_size() == spec["n_vocab"] and len(t.encode("\n\n").ids) == 1
    return t


def write_files(d, spec, tok):
    name = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[spec["kind"]]
    tok.save(os.path.join(d, "tokenizer.json"))
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "do_convert_rgb": True, "do_image_splitting": spec["split"], "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5] * 3, "image_processor_type": name + "ImageProcessor", "image_std": [0.5] * 3,
        "max_image_size": {"longest_edge": spec["vision"]["image_size"]}, "processor_class": name + "Processor", "resample": 1, "rescale_factor": 1 / 255,
        "size": {"longest_edge": spec["edge"]}})
    common.write_json(os.path.join(d, "processor_config.json"), {"image_seq_len": n_token(spec), "processor_class": name + "Processor"})
    common.write_json(os.path.join(d, "chat_template.json"), {"chat_template": TEMPLATE % spec["start"]})
    specials = {x.content: i for i, x in tok.get_added_tokens_decoder().items()}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_prefix_space": False, "added_tokens_decoder": {str(i): {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                                                                     "special": True} for x, i in specials.items()},
        "additional_special_tokens": [FAKE, IMAGE, END], "bos_token": spec["start"], "clean_up_tokenization_spaces": False, "eos_token": END,
        "extra_special_tokens": {"end_of_utterance_token": END, "fake_image_token": FAKE, "global_image_token": GLOBAL, "image_token": IMAGE},
        "model_max_length": 16384, "pad_token": "<|im_end|>", "processor_class": name + "Processor", "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>"})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": specials[spec["start"]],
                                                                  "eos_token_id": specials[END], "pad_token_id": specials["<|im_end|>"]})
    common.write_json(os.path.join(d, "config.json"), config(spec, tok))


def config(spec, tok):
    """As in the hub's folders: an old model_type for the tower, and only what differs from the class defaults."""
    image_id = tok.token_to_id(IMAGE)
    c = {"architectures": [spec["classes"][1].__name__], "image_token_id": image_id, "model_type": spec["kind"], "scale_factor": spec["scale"],
         "text_config": {"model_type": "llama", "vocab_size": spec["pad_to"], **spec["text"]},
         "tie_word_embeddings": spec["text"]["tie_word_embeddings"], "vision_config": {"model_type": spec["kind"], **spec["vision"]}}
    if spec["kind"] == "idefics3":      # 2 and 1e-6 are the defaults
        del c["scale_factor"], c["vision_config"]["layer_norm_eps"]
    else:
        c["vision_config"]["model_type"] = "smolvlm_vision"
    return c


# ---------------------------------------------------------------- the model

def n_token(spec):
    return (spec["vision"]["image_size"] // spec["vision"]["patch_size"] // spec["scale"]) ** 2


def attach(python_module):
    def f(r, model):
        m = model.model
        r.out(m.vision_model.embeddings, "vision.hook_embed")
        for i, b in enumerate(m.vision_model.encoder.layers):
            p = f"vision.blocks.{i}."
            r.inp(b, p + "hook_resid_pre")
            r.out(b.layer_norm1, p + "ln1.hook_normalized")
            for x in "qkv":
                r.out(getattr(b.self_attn, x + "_proj"), p + f"attn.hook_{x}")
            r.inp(b.self_attn.out_proj, p + "attn.hook_z")
            r.out(b.self_attn.out_proj, p + "hook_attn_out")
            family.attach_vision_mlp(r, b, p)
            r.names[id(b.self_attn)] = p
        r.out(m.vision_model.post_layernorm, "vision.ln_post.hook_normalized")
        r.watch(python_module, lambda p, q, k, w, s: r.v.__setitem__(p + "attn.hook_pattern", w[0]))
        r.inp(m.connector.modality_projection.proj, "projector.hook_in")
        r.out(m.connector.modality_projection.proj, "projector.hook_out")
        family.attach_llama(r, m.text_model, modeling_llama)
    return f


def parts(spec):
    see = attach(spec["classes"][3])
    return lambda model: tiny.Parts(model.model.text_model, model.lm_head, see, spec["vision"]["num_attention_heads"], spec["vision"]["num_hidden_layers"], 0)


def spread(spec):
    """Small activations (so eps matters), peaked attention; a tied head needs blocks that outweigh the embedding."""
    tied, small = spec["text"]["tie_word_embeddings"], spec["vision"]["layer_norm_eps"] < 1e-4
    gains = {"q_proj": 1.7, "k_proj": 1.7, "v_proj": 0.5, "out_proj": 0.4, "o_proj": 0.5, "gate_proj": 0.9, "up_proj": 0.9, "fc1": 0.9, "down_proj": 0.4,
             "fc2": 0.4, "modality_projection": 0.15}
    if tied:
        gains.update(o_proj=1.2, down_proj=1.3)

    def f(name, p):
        vision = "vision_model" in name
        shrink = 0.03 if vision and small and any(x in name for x in ("embedding", "out_proj", "fc2")) else 1.0
        if "norm" in name and name.endswith("weight"):
            return 0.2, 1.0
        if name.endswith("bias"):
            return shrink * (0.02 if vision and "self_attn" not in name else 0.08), 0.0
        if "position_embedding" in name:
            return shrink * 0.06, 0.0
        if "patch_embedding" in name:
            return shrink * 0.06 / p[0].numel() ** 0.5, 0.0
        if "embed_tokens" in name:
            return 0.16 if tied else 0.08, 0.0
        if "lm_head" in name:
            return 0.4, 0.0
        gain, = (x for part, x in gains.items() if part in name)
        return shrink * gain / p.shape[1] ** 0.5, 0.0
    return f


def build(spec, tok, seed):
    c = json.loads(json.dumps(config(spec, tok)))
    c["vision_config"].pop("model_type")
    cfg = spec["classes"][0](**{k: x for k, x in c.items() if k not in ("model_type", "architectures")})
    cfg.text_config.bos_token_id = cfg.text_config.eos_token_id = cfg.text_config.pad_token_id = None
    model = spec["classes"][1]._from_config(cfg, dtype=torch.float32, attn_implementation="eager").eval()
    family.draw_weights(model, seed, spec["dtype"], spread(spec))
    return model


# ---------------------------------------------------------------- prompts and pictures

def prompt_of(spec, question):
    return f"{spec['start']}User:<image>{question}<end_of_utterance>\nAssistant:"


def views(spec, image):
    """[n_view, 3, h, w], rows, columns by transformers' Pillow processor."""
    p = spec["classes"][2](size={"longest_edge": spec["edge"]}, max_image_size={"longest_edge": spec["vision"]["image_size"]}, do_image_splitting=spec["split"])
    out = p(images=image, return_tensors="pt", return_row_col_info=True)
    assert (out["pixel_attention_mask"] == 1).all()
    return out["pixel_values"][0].to(torch.float32), out["rows"][0][0], out["cols"][0][0]


def make_case(spec, tok, d, picture, question):
    image = Image.open(os.path.join(d, picture + ".png"))
    px, n_row, n_col = views(spec, image)
    prompt = prompt_of(spec, question)
    whole = get_image_prompt_string(n_row, n_col, n_token(spec), FAKE, IMAGE, GLOBAL)
    ids = tok.encode(prompt.replace(IMAGE, whole, 1)).ids
    t, cls = torch.tensor(ids), torch.full((len(ids),), 3)
    marks = (t == tok.token_to_id(FAKE)).nonzero()[:, 0]
    first, last = int(marks[0]), int(marks[-1])
    cls[:first] = 0
    cls[first:last + 1] = 2
    cls[t == tok.token_to_id(IMAGE)] = 1
    assert int((cls == 1).sum()) == len(px) * n_token(spec) and tok.decode(ids, skip_special_tokens=False) == prompt.replace(IMAGE, whole, 1)
    pack, shown = -2 - t[first:last + 1], (t[first:last + 1] == tok.token_to_id(IMAGE)).nonzero()[:, 0]
    pack[shown] = torch.arange(len(shown))
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px[None]}, torch.arange(first, last + 1), cls,
                     {"question": question, "size": list(image.size)[::-1], "views": len(px)}, {"pixels": px, "pack": pack})


def wrong(model):
    """More settings that must matter."""
    c = model.model.connector
    straight = c.pixel_shuffle

    def transposed(x, scale_factor):
        n, side = x.shape[0], int(x.shape[1] ** 0.5) // scale_factor
        return straight(x, scale_factor).view(n, side, side, -1).transpose(1, 2).flatten(1, 2)
    return {"pixel shuffle transposed": [(c, "pixel_shuffle", transposed)]}


# ---------------------------------------------------------------- one folder

def make_one(out, name):
    spec, d = SPECS[name], os.path.join(out, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    tok = tokenizer(spec)
    write_files(d, spec, tok)
    tiny.pictures(d, SIZES, spec["seed"])
    cases = [make_case(spec, tok, d, p, QUESTIONS[q]) for p, q in CASES]
    bad = {0, 1, 2} | set(tok.get_added_tokens_decoder()) | set(range(spec["n_vocab"], spec["pad_to"]))
    seed, model = tiny.find_seed(lambda s: build(spec, tok, s), parts(spec), cases, spec["seed"], bad)
    tied = spec["text"]["tie_word_embeddings"]
    save_file({k: x.to(spec["dtype"]).contiguous() for k, x in model.state_dict().items() if not (tied and k == "lm_head.weight")},
              os.path.join(d, "model.safetensors"), metadata={"format": "pt"})
    arrays, infos, peak = tiny.measure(model, parts(spec), cases, tok.decode, 0, sites=spec["sites"])
    hard = tiny.hardness(model, parts(spec), cases[0], infos["c0"]["answer"], wrong(model))
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    n_layer, n_vision = spec["text"]["num_hidden_layers"], spec["vision"]["num_hidden_layers"]
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are transformers' in float32 with eager attention, weights as stored on disk.",
        "numbers": "transformers' " + spec["classes"][1].__name__, "versions": common.versions(), "image_backend": spec["classes"][2].__name__, "seed": seed,
        "weights_dtype": str(spec["dtype"]).split(".")[1], "vision_layers_run": n_vision, "image_token_id": tok.token_to_id(IMAGE),
        "tokens_per_view": n_token(spec), "classes": family.CLASSES, "cam_undefined": {"ln2": [n_layer - 1]}, "cam_vision_layer": n_vision - 1,
        "cam_note": "alpha is the mean over all rows of the image, tokens of text between its views among them.",
        "attention_peak": peak, **hard, "questions": QUESTIONS, "cases": infos})
    with torch.no_grad():
        consistency(spec, model, arrays)
    check(d, spec, tok, arrays, infos)
    tiny.finish(d, name, seed, infos, {"peak": peak, **hard})


def consistency(spec, model, arrays):
    """The recorded sites must fit together the way their names say (catches a hook put on the wrong module)."""
    v = model.config.vision_config
    a = lambda name: arrays["c0/" + name]
    n, side, s = (v.image_size // v.patch_size) ** 2, v.image_size // v.patch_size // spec["scale"], spec["scale"]
    if not spec["sites"]:
        family.check_llama(a, model.model.text_model, model.config.text_config)
        family.check_vision(a, v, v.num_hidden_layers, n)
        family.same(a("vision.hook_embed"), a("vision.blocks.0.hook_resid_pre"), "vision embed")
        family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")
        family.same(a("hook_embed")[a("ids") == model.config.image_token_id], a("projector.hook_out"), "splice")
        words = a("ids") != model.config.image_token_id
        family.same(a("hook_embed")[words], model.model.text_model.embed_tokens.weight[a("ids")[words]], "text in the image")
        # Cell (R, C) is made of the patches (s R + r, s C + c), row by row.
        x = a("vision.ln_post.hook_normalized").view(-1, side, s, side, s, v.hidden_size).permute(0, 1, 3, 2, 4, 5)
        family.same(a("projector.hook_in"), x.reshape(-1, s * s * v.hidden_size), "pixel shuffle")
    family.same(a("projector.hook_out"), a("projector.hook_in") @ model.model.connector.modality_projection.proj.weight.T, "projector")


def check(d, spec, tok, arrays, infos):
    """Reload the folder as a user would and compare."""
    model, info = spec["classes"][1].from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    fast = PreTrainedTokenizerFast(tokenizer_file=os.path.join(d, "tokenizer.json"), unk_token="<|endoftext|>")
    image_processor = spec["classes"][2].from_pretrained(d)
    for k, c in infos.items():
        image = Image.open(os.path.join(d, c["picture"]))
        if spec["kind"] == "idefics3":
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": c["question"]}]}
            proc = Idefics3Processor(image_processor, fast, image_seq_len=n_token(spec), chat_template=TEMPLATE % spec["start"])
            assert proc.apply_chat_template([turn], add_generation_prompt=True) == c["prompt"]
            b = proc(images=[image], text=[c["prompt"]], return_tensors="pt")
            assert b["input_ids"][0].tolist() == c["ids"] and torch.equal(b["pixel_values"][0], arrays[k + "/pixels"]), k
        assert torch.equal(image_processor(images=image, return_tensors="pt")["pixel_values"][0], arrays[k + "/pixels"]), k
        with torch.no_grad():
            z = model.eval()(input_ids=torch.tensor([c["ids"]]), pixel_values=arrays[k + "/pixels"][None]).logits[0, -1]
        assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-5, k
