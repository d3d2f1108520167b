# SPDX-License-Identifier: MIT
"""A tiny Shikra: a merged language folder as the released code saves it, and the CLIP tower in a folder of its own (vision/).

transformers has no class for it, so it is put together of LlamaForCausalLM, CLIPVisionModel and one Linear. The ids are those of
the tokenizer that Shikra was published with (LlamaTokenizer of transformers 4.28 and before): blanks beside the image's tokens
are swallowed, and SentencePiece encodes every stretch of text by itself.
"""
import io
import json
import os
import re
import shutil

import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file as save_torch
from transformers import AutoImageProcessor, CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama

import common
import family
import tiny
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN
from corpus import TEXT

PATCH, START, END = "<im_patch>", "<im_start>", "<im_end>"      # added in this order
SYSTEM = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. "
PROMPTS = ["USER: <image> What is it? ASSISTANT:", SYSTEM + "USER: <image> What is in the picture? ASSISTANT:", "USER: What is <image>  in it? ASSISTANT:"]
SIZES = {"a": (50, 33), "b": (31, 64), "c": (40, 40), "d": (90, 7), "e": (5, 70), "f": (13, 20)}      # (w, h)
CASES = [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 0), ("f", 1)]
N_VOCAB = 340
SIDE, PATCH_PX = 28, 7
N_IMAGE = (SIDE // PATCH_PX) ** 2
VISION = dict(hidden_size=20, num_hidden_layers=3, num_attention_heads=2, intermediate_size=36, image_size=SIDE, patch_size=PATCH_PX,
              layer_norm_eps=2e-3, hidden_act="quick_gelu", projection_dim=12)
TEXT_CONFIG = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=36, rms_norm_eps=3e-3, max_position_embeddings=2048)
SEED = 600


# ---------------------------------------------------------------- text

def train_tokenizer():
    """tokenizer.model with LLaMA's settings."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=out, model_type="bpe", vocab_size=N_VOCAB, byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    return out.getvalue()


def encode(sp, text):
    """As the old LlamaTokenizer: cut at the added tokens, take the blanks beside them away, <s> first."""
    added = {PATCH: N_VOCAB, START: N_VOCAB + 1, END: N_VOCAB + 2}
    parts = re.split("(" + "|".join(added) + ")", text)
    ids = [1]
    for i, part in enumerate(parts):
        if part in added:
            ids.append(added[part])
            continue
        part = part.lstrip() if i > 0 else part
        part = part.rstrip() if i + 1 < len(parts) else part
        ids += sp.encode(part)
    return ids


def expanded(prompt):
    return prompt.replace(IMAGE_TOKEN, START + PATCH * N_IMAGE + END)


# ---------------------------------------------------------------- the model

class Parts(torch.nn.Module):
    def __init__(self, vision, lm):
        super().__init__()
        self.vision_tower, self.language_model = vision, lm
        self.mm_projector = torch.nn.Linear(vision.config.hidden_size, lm.config.hidden_size)


class Output:
    def __init__(self, logits):
        self.logits = logits


class Shikra(torch.nn.Module):
    """hidden_states[-2] of the tower without CLS, one Linear, written over the <im_patch> rows."""

    def __init__(self, vision, causal):
        super().__init__()
        self.causal = [causal]      # in a list, so that its parameters appear once, under the names below
        self.model, self.lm_head = Parts(vision, causal.model), causal.lm_head

    def embeddings(self, input_ids, pixel_values):
        m = self.model
        features = m.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        x = m.language_model.embed_tokens(input_ids)
        return x.masked_scatter((input_ids == N_VOCAB)[..., None], m.mm_projector(features))

    def forward(self, input_ids, pixel_values, use_cache=False):
        x = self.model.language_model(inputs_embeds=self.embeddings(input_ids, pixel_values), use_cache=use_cache)
        return Output(self.lm_head(x.last_hidden_state))


def build(seed):
    vision = CLIPVisionModel._from_config(CLIPVisionConfig(**VISION), attn_implementation="eager")
    config = LlamaConfig(vocab_size=N_VOCAB + 3, pad_token_id=0, **TEXT_CONFIG)
    model = Shikra(vision, LlamaForCausalLM._from_config(config, attn_implementation="eager")).to(torch.float32).eval()
    family.draw_weights(model, seed, torch.float16, family.spread_clip_llama(small_eps=False, tied=False))
    return model


def attach(r, model):
    m = model.model
    family.attach_clip(r, m.vision_tower, modeling_clip)
    r.inp(m.mm_projector, "projector.hook_in")
    r.out(m.mm_projector, "projector.hook_out")
    family.attach_llama(r, m.language_model, modeling_llama)


def parts(model):
    return tiny.Parts(model.model.language_model, model.lm_head, attach, VISION["num_attention_heads"], VISION["num_hidden_layers"] - 1)


def check_generate(model, c, new, _pad_id):
    """LlamaForCausalLM's own decoding from the embeddings."""
    with torch.no_grad():
        x = model.embeddings(torch.tensor([c.ids]), c.inputs["pixel_values"])
    causal = model.causal[0]
    got = causal.generate(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], dtype=torch.long), max_new_tokens=len(new), do_sample=False,
                          generation_config=GenerationConfig(eos_token_id=2, pad_token_id=0))[0].tolist()
    assert got[-len(new):] == new, (got, new)


# ---------------------------------------------------------------- the folders

def write_language(d, model, tokenizer):
    """What save_pretrained of the released code leaves: LLaMA's flat config with mm_*, two .bin shards, the slow tokenizer's files."""
    common.write_json(os.path.join(d, "config.json"), {
        "architectures": ["ShikraLlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "freeze_mm_mlp_adapter": False, "hidden_act": "silu",
        "initializer_range": 0.02, "max_sequence_length": 2048, "mm_hidden_size": VISION["hidden_size"], "mm_use_im_start_end": True,
        "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14", "model_type": "shikra", "pad_token_id": 0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.28.0.dev0", "tune_mm_mlp_adapter": False, "use_cache": False,
        "use_mm_proj": True, "vocab_size": N_VOCAB + 3, **TEXT_CONFIG})
    m, d_head = model.model, TEXT_CONFIG["hidden_size"] // TEXT_CONFIG["num_attention_heads"]
    sd = {"model." + k: v for k, v in m.language_model.state_dict().items()}
    for i in range(TEXT_CONFIG["num_hidden_layers"]):      # a buffer that was still saved then
        sd[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = 1.0 / 10000.0 ** (torch.arange(0, d_head, 2) / d_head)
    sd.update({"model.mm_projector." + k: v for k, v in m.mm_projector.state_dict().items()})
    sd["lm_head.weight"] = model.lm_head.weight.detach()
    sd = {k: v.to(torch.float16).clone() for k, v in sd.items()}
    where, half = {}, len(sd) // 2
    for i, names in enumerate((list(sd)[:half], list(sd)[half:])):
        f = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({k: sd[k] for k in names}, os.path.join(d, f))
        where.update({k: f for k in names})
    size = sum(v.numel() * v.element_size() for v in sd.values())
    common.write_json(os.path.join(d, "pytorch_model.bin.index.json"), {"metadata": {"total_size": size}, "weight_map": where})
    with open(os.path.join(d, "tokenizer.model"), "wb") as f:
        f.write(tokenizer)
    special = {k: {"content": x, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
               for k, x in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))}
    common.write_json(os.path.join(d, "added_tokens.json"), {END: N_VOCAB + 2, PATCH: N_VOCAB, START: N_VOCAB + 1})
    common.write_json(os.path.join(d, "special_tokens_map.json"), {**special, "pad_token": "<unk>"})
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": 2048, "pad_token": None,
        "padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
        **{k: {"__type": "AddedToken", **v} for k, v in special.items()}})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
                                                                   "transformers_version": "4.28.0.dev0"})


def write_vision(d, model):
    """As openai/clip-vit-large-patch14: a whole CLIPModel, text tower and all, in float32."""
    text = dict(vocab_size=24, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=9,
                projection_dim=VISION["projection_dim"], hidden_act="quick_gelu", layer_norm_eps=1e-5)
    common.write_json(os.path.join(d, "config.json"), {
        "architectures": ["CLIPModel"], "initializer_factor": 1.0, "logit_scale_init_value": 2.6592, "model_type": "clip",
        "projection_dim": VISION["projection_dim"], "text_config": {"model_type": "clip_text_model", **text}, "text_config_dict": text, "torch_dtype": "float32",
        "transformers_version": None, "vision_config": {"model_type": "clip_vision_model", "attention_dropout": 0.0, **VISION}, "vision_config_dict": VISION})
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "crop_size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True, "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3, "size": SIDE})
    whole = CLIPModel._from_config(CLIPConfig.from_pretrained(d))
    g = torch.Generator().manual_seed(SEED)
    sd = {k: torch.randn(v.shape, generator=g) * 0.1 for k, v in whole.state_dict().items()}
    sd.update({"vision_model." + k: v for k, v in model.model.vision_tower.state_dict().items()})
    assert set(sd) == set(whole.state_dict())
    sd["text_model.embeddings.position_ids"] = torch.arange(text["max_position_embeddings"])[None]
    sd["vision_model.embeddings.position_ids"] = torch.arange((SIDE // PATCH_PX) ** 2 + 1)[None]
    save_torch({k: v.contiguous() for k, v in sd.items()}, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})


# ---------------------------------------------------------------- the goldens

def square(image):
    """The picture in the middle of a white square; an odd pixel goes behind it."""
    w, h = image.size
    side = max(w, h)
    out = Image.new("RGB", (side, side), (255, 255, 255))
    out.paste(image, ((side - w) // 2, (side - h) // 2))
    return out


def make_case(sp, proc, d, picture, prompt):
    ids = encode(sp, expanded(prompt))
    image = square(Image.open(os.path.join(d, picture + ".png")).convert("RGB"))
    px = proc(images=image, return_tensors="pt")["pixel_values"]
    rows = (torch.tensor(ids) == N_VOCAB).nonzero()[:, 0]
    first, end = int(rows[0]), int(rows[-1]) + 1
    assert len(rows) == N_IMAGE and ids[first - 1] == N_VOCAB + 1 and ids[end] == N_VOCAB + 2
    classes = torch.full((len(ids),), 3)
    classes[:first - 1] = 0 if prompt.split(IMAGE_TOKEN)[0].endswith("USER: ") else 3
    classes[first - 1:end + 1] = 2
    classes[rows] = 1
    if classes[0] == 3:     # the question begins before the picture: what the template puts first is the system's
        classes[:len(encode(sp, prompt[:prompt.index("USER:") + 5]))] = 0
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px}, rows, classes, {}, {"pixels": px[0]})


def make(out):
    d = os.path.join(out, "shikra")
    vision = os.path.join(d, "vision")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(vision)
    tokenizer = train_tokenizer()
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    tiny.pictures(d, SIZES, SEED)
    write_vision(vision, build(SEED))
    proc = AutoImageProcessor.from_pretrained(vision, backend="pil")
    assert type(proc).__name__ == "CLIPImageProcessorPil", type(proc)
    cases = [make_case(sp, proc, d, p, PROMPTS[q]) for p, q in CASES]
    seed, model = tiny.find_seed(build, parts, cases, SEED, {0, 1, 2, N_VOCAB, N_VOCAB + 1, N_VOCAB + 2})
    write_language(d, model, tokenizer)
    write_vision(vision, model)
    first, end = cases[0].span
    arrays, infos, peak = tiny.measure(model, parts, cases, lambda ids: sp.decode(ids), 0, (first - 1, end + 1), check_generate)
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"])
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are of transformers' LlamaForCausalLM and CLIPVisionModel with one Linear between them, in float32 with "
                 "eager attention, weights as stored on disk.",
        "versions": {**common.versions(), "sentencepiece": sentencepiece.__version__}, "image_backend": type(proc).__name__, "seed": seed,
        "weights_dtype": "float16", "vision_folder": "vision", "vision_layers_run": 2, "image_token_id": N_VOCAB, "image_tokens": N_IMAGE,
        "classes": family.CLASSES, "cam_undefined": {"ln2": [TEXT_CONFIG["num_hidden_layers"] - 1]}, "cam_vision_layer": 1,
        "cam_note": "alpha is the mean over the <im_patch> rows; the vision map leaves CLS out of mean and map.",
        "plan_note": "the plans hide <im_start> and <im_end> with the image", "attention_peak": peak, **hard, "prompts": PROMPTS, "cases": infos})
    with torch.no_grad():
        consistency(model, arrays)
    check(d, sp, arrays, infos)
    tiny.finish(d, "shikra", seed, infos, {"peak": peak, **hard})


def consistency(model, arrays):
    a, m = (lambda n: arrays["c0/" + n]), model.model
    family.check_llama(a, m.language_model, m.language_model.config)
    family.check_vision(a, m.vision_tower.config, 2, N_IMAGE + 1)
    family.same(a("vision.ln_pre.hook_normalized"), a("vision.blocks.0.hook_resid_pre"), "ln_pre")
    family.same(a("projector.hook_in"), a("vision.blocks.1.hook_resid_post")[1:], "feature layer")
    family.same(a("projector.hook_out"), a("projector.hook_in") @ m.mm_projector.weight.T + m.mm_projector.bias, "projector")
    family.same(a("hook_embed")[a("ids") == N_VOCAB], a("projector.hook_out"), "splice")
    family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")


def check(d, sp, arrays, infos):
    """Reload both folders and compare."""
    with open(os.path.join(d, "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if k not in ("model_type", "architectures")}
    causal, info = LlamaForCausalLM.from_pretrained(d, config=LlamaConfig(**config), dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and set(info["unexpected_keys"]) <= {"model.mm_projector.weight", "model.mm_projector.bias"}, info
    vision, info = CLIPVisionModel.from_pretrained(os.path.join(d, "vision"), attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"], info
    model = Shikra(vision, causal).eval()
    linear = torch.load(os.path.join(d, "pytorch_model-00002-of-00002.bin"))
    with torch.no_grad():
        for n in ("weight", "bias"):
            getattr(model.model.mm_projector, n).copy_(linear["model.mm_projector." + n])
        for k, c in infos.items():
            assert encode(sp, expanded(c["prompt"])) == c["ids"]
            z = model(torch.tensor([c["ids"]]), arrays[k + "/pixels"][None]).logits[0, -1]
            assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-4, k
