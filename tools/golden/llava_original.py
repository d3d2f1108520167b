# SPDX-License-Identifier: MIT
"""A tiny LLaVA-1.5 in the layout of its original repository: LLaMA's flat config with mm_*, one pytorch_model.bin, tokenizer.model, and the CLIP
tower in a folder of its own (vision/).

It is put together of LlamaForCausalLM, CLIPVisionModel, and Linear, GELU, Linear. Ids are those of the repository's tokenizer_image_token: the text on
both sides of <image> is encoded by itself with the slow LlamaTokenizer, <s> first, and the picture's rows have the id -200. Pictures are padded to a
square with the mean colour.
"""
import os
import shutil

import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file as save_torch
from transformers import AutoImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.clip import modeling_clip
from transformers.models.llama import modeling_llama

import common
import family
import shikra
import tiny
from common import CLIP_MEAN, CLIP_STD, IMAGE_TOKEN

IMAGE_INDEX = -200
PROMPTS = ["USER: <image>\nWhat? ASSISTANT:", shikra.SYSTEM + "USER: <image>\nWhat is in the picture? ASSISTANT:",
           "USER: What is <image>  in it? ASSISTANT:"]
SIZES = {"a": (50, 33), "b": (31, 64), "c": (40, 40), "d": (90, 7)}      # (w, h)
CASES = [("a", 0), ("b", 1), ("c", 2), ("d", 0)]
SIDE, PATCH_PX = 28, 7
N_IMAGE = (SIDE // PATCH_PX) ** 2
VISION = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=28, image_size=SIDE, patch_size=PATCH_PX,
              layer_norm_eps=2e-3, hidden_act="quick_gelu", projection_dim=12)
TEXT_CONFIG = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=36, rms_norm_eps=3e-3,
                   max_position_embeddings=4096)
SEED = 1600
SITES = ("hook_embed", "hook_normalized", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_q", "hook_v", "hook_z",
         "blocks.0.attn.hook_pattern", "projector.hook_in", "projector.hook_pre", "projector.hook_post", "projector.hook_out")


def encode(sp, prompt):
    """tokenizer_image_token."""
    before, after = prompt.split(IMAGE_TOKEN)
    return [1] + sp.encode(before) + [IMAGE_INDEX] * N_IMAGE + sp.encode(after)


# ---------------------------------------------------------------- the model

class Parts(torch.nn.Module):
    def __init__(self, vision, lm):
        super().__init__()
        d_vision, d = vision.config.hidden_size, lm.config.hidden_size
        self.vision_tower, self.language_model = vision, lm
        self.mm_projector = torch.nn.Sequential(torch.nn.Linear(d_vision, d), torch.nn.GELU(), torch.nn.Linear(d, d))


class Llava(shikra.Shikra):
    """hidden_states[-2] of the tower without CLS through the projector, in the place of the image's rows."""

    def __init__(self, vision, causal):
        torch.nn.Module.__init__(self)
        self.causal = [causal]
        self.model, self.lm_head = Parts(vision, causal.model), causal.lm_head

    def embeddings(self, input_ids, pixel_values):
        m = self.model
        features = m.vision_tower(pixel_values, output_hidden_states=True).hidden_states[-2][:, 1:]
        x = m.language_model.embed_tokens(input_ids.clamp(min=0))
        return x.masked_scatter((input_ids == IMAGE_INDEX)[..., None], m.mm_projector(features))


def build(seed):
    vision = CLIPVisionModel._from_config(CLIPVisionConfig(**VISION), attn_implementation="eager")
    config = LlamaConfig(vocab_size=shikra.N_VOCAB, pad_token_id=0, **TEXT_CONFIG)
    model = Llava(vision, LlamaForCausalLM._from_config(config, attn_implementation="eager")).to(torch.float32).eval()
    family.draw_weights(model, seed, torch.float16, family.spread_clip_llama(small_eps=False, tied=False))
    return model


def attach(r, model):
    m = model.model
    family.attach_clip(r, m.vision_tower, modeling_clip)
    r.inp(m.mm_projector[0], "projector.hook_in")
    r.out(m.mm_projector[0], "projector.hook_pre")
    r.inp(m.mm_projector[2], "projector.hook_post")
    r.out(m.mm_projector[2], "projector.hook_out")
    family.attach_llama(r, m.language_model, modeling_llama)


def parts(model):
    return tiny.Parts(model.model.language_model, model.lm_head, attach, VISION["num_attention_heads"], VISION["num_hidden_layers"] - 1)


# ---------------------------------------------------------------- the folders

def write_language(d, model, tokenizer):
    """As liuhaotian/llava-v1.5-7b, with the projector's own file that pretraining leaves there (here zeros: nobody reads it)."""
    common.write_json(os.path.join(d, "config.json"), {
        "_name_or_path": "llava-v1.5-tiny", "architectures": ["LlavaLlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "freeze_mm_mlp_adapter": False,
        "freeze_mm_vision_resampler": False, "hidden_act": "silu", "image_aspect_ratio": "pad", "initializer_range": 0.02, "max_length": 4096,
        "mm_hidden_size": VISION["hidden_size"], "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": None, "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "model_type": "llava", "pad_token_id": 0, "pretraining_tp": 1, "rope_scaling": None,
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False,
        "tune_mm_vision_resampler": False, "unfreeze_mm_vision_tower": False, "use_cache": True, "use_mm_proj": True, "vocab_size": shikra.N_VOCAB,
        **TEXT_CONFIG})
    m = model.model
    sd = {"model." + k: v for k, v in m.language_model.state_dict().items()}
    sd.update({"model.mm_projector." + k: v for k, v in m.mm_projector.state_dict().items()})
    sd["lm_head.weight"] = model.lm_head.weight.detach()
    torch.save({k: v.to(torch.float16).clone() for k, v in sd.items()}, os.path.join(d, "pytorch_model.bin"))
    torch.save({k: torch.zeros_like(v, dtype=torch.float16) for k, v in sd.items() if "mm_projector" in k}, os.path.join(d, "mm_projector.bin"))
    with open(os.path.join(d, "tokenizer.model"), "wb") as f:
        f.write(tokenizer)
    special = {k: {"content": x, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
               for k, x in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))}
    common.write_json(os.path.join(d, "special_tokens_map.json"), {**special, "pad_token": "<unk>"})
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": False, "model_max_length": 2048, "pad_token": None,
        "padding_side": "right", "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
        **{k: {"__type": "AddedToken", **v} for k, v in special.items()}})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
                                                                   "transformers_version": "4.31.0"})


def write_vision(d, model):
    """A CLIPVisionModel's folder."""
    common.write_json(os.path.join(d, "config.json"), {"architectures": ["CLIPVisionModel"], "attention_dropout": 0.0, "model_type": "clip_vision_model",
                                                       "torch_dtype": "float32", "transformers_version": "4.31.0", **VISION})
    common.write_json(os.path.join(d, "preprocessor_config.json"), {
        "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_resize": True,
        "image_mean": CLIP_MEAN, "image_processor_type": "CLIPImageProcessor", "image_std": CLIP_STD, "resample": 3, "size": {"shortest_edge": SIDE}})
    sd = {"vision_model." + k: v.contiguous() for k, v in model.model.vision_tower.state_dict().items()}
    save_torch(sd, os.path.join(d, "model.safetensors"), metadata={"format": "pt"})


# ---------------------------------------------------------------- the goldens

def square(image):
    """expand2square: the picture in the middle of a square of the mean colour."""
    w, h = image.size
    side = max(w, h)
    out = Image.new("RGB", (side, side), tuple(int(x * 255) for x in CLIP_MEAN))
    out.paste(image, ((side - w) // 2, (side - h) // 2))
    return out


def make_case(sp, proc, d, picture, prompt):
    ids = encode(sp, prompt)
    px = proc(images=square(Image.open(os.path.join(d, picture + ".png")).convert("RGB")), return_tensors="pt")["pixel_values"]
    rows = (torch.tensor(ids) == IMAGE_INDEX).nonzero()[:, 0]
    classes = torch.full((len(ids),), 3)
    classes[rows] = 1
    # What the template puts before the picture is the system's; before a question that begins earlier, its own beginning is.
    whole = prompt.split(IMAGE_TOKEN)[0].endswith("USER: ")
    classes[:int(rows[0]) if whole else 1 + len(sp.encode(prompt[:prompt.index("USER:") + 5]))] = 0
    return tiny.Case(picture + ".png", prompt, ids, {"pixel_values": px}, rows, classes, {}, {"pixels": px[0]})


def make(out):
    d = os.path.join(out, "llava-original")
    vision = os.path.join(d, "vision")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(vision)
    tokenizer = shikra.train_tokenizer()
    sp = sentencepiece.SentencePieceProcessor(model_proto=tokenizer)
    tiny.pictures(d, SIZES, SEED)
    write_vision(vision, build(SEED))
    proc = AutoImageProcessor.from_pretrained(vision, backend="pil")
    assert type(proc).__name__ == "CLIPImageProcessorPil", type(proc)
    cases = [make_case(sp, proc, d, p, PROMPTS[q]) for p, q in CASES]
    seed, model = tiny.find_seed(build, parts, cases, SEED, {0, 1, 2})
    write_language(d, model, tokenizer)
    write_vision(vision, model)
    arrays, infos, peak = tiny.measure(model, parts, cases, lambda ids: sp.decode(ids), 0, None, shikra.check_generate, SITES)
    hard = tiny.hardness(model, parts, cases[0], infos["c0"]["answer"])
    common.write_arrays(os.path.join(d, "golden.safetensors"), arrays)
    family.write_facts(os.path.join(d, "golden.json"), {
        "about": "See ../README.md for the names. Numbers are of transformers' LlamaForCausalLM and CLIPVisionModel with the projector between them, in float32 "
                 "with eager attention, weights as stored on disk.",
        "versions": {**common.versions(), "sentencepiece": sentencepiece.__version__}, "image_backend": type(proc).__name__, "seed": seed,
        "weights_dtype": "float16", "vision_folder": "vision", "vision_layers_run": 2, "image_token_id": IMAGE_INDEX, "image_tokens": N_IMAGE,
        "classes": family.CLASSES, "cam_undefined": {"ln2": [TEXT_CONFIG["num_hidden_layers"] - 1]}, "cam_vision_layer": 1,
        "attention_peak": peak, **hard, "prompts": PROMPTS, "cases": infos})
    with torch.no_grad():
        consistency(model, arrays)
    check(d, sp, arrays, infos)
    tiny.finish(d, "llava-original", seed, infos, {"peak": peak, **hard})


def consistency(model, arrays):
    a, m = (lambda n: arrays["c0/" + n]), model.model
    family.same(a("projector.hook_in"), a("vision.blocks.1.hook_resid_post")[1:], "feature layer")
    family.same(a("projector.hook_out"), m.mm_projector(a("projector.hook_in")), "projector")
    family.same(a("hook_embed")[a("ids") == IMAGE_INDEX], a("projector.hook_out"), "splice")
    family.same(a("logits"), a("ln_final.hook_normalized") @ model.lm_head.weight.T, "head")


def check(d, sp, arrays, infos):
    """Reload both folders and compare."""
    config = LlamaConfig(vocab_size=shikra.N_VOCAB, pad_token_id=0, **TEXT_CONFIG)
    causal, info = LlamaForCausalLM.from_pretrained(d, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and all("mm_projector" in k for k in info["unexpected_keys"]), info
    vision, info = CLIPVisionModel.from_pretrained(os.path.join(d, "vision"), attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"], info
    model = Llava(vision, causal).eval()
    stored = torch.load(os.path.join(d, "pytorch_model.bin"))
    with torch.no_grad():
        for k, v in model.model.mm_projector.state_dict().items():
            v.copy_(stored["model.mm_projector." + k])
        for k, c in infos.items():
            assert encode(sp, c["prompt"]) == c["ids"]
            z = model(torch.tensor([c["ids"]]), arrays[k + "/pixels"][None]).logits[0, -1]
            assert (z - arrays[k + "/greedy.logits"][0]).abs().max() < 1e-4, k
