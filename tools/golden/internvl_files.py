# SPDX-License-Identifier: MIT
"""The files of the InternVL folders: tokenizers, settings, and the names (and fused matrices) under which the weights lie on disk."""
import io
import os

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import common
import text
from corpus import TEXT

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CONTEXT = "<IMG_CONTEXT>"
ADDED = ["<|im_end|>", "<|im_start|>", "<img>", "</img>", CONTEXT, "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
TOKENS = 4      # of a view of 4 x 4 patches
# The template's own system text.
SYSTEM = {"internlm2-chat": "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"}
NATIVE_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}")


# ---------------------------------------------------------------- tokenizers

def qwen_tokenizer(n_vocab):
    """Qwen2's shape with InternVL's added tokens; no BOS."""
    added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + ADDED[2:] + ["<video>"]
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(text.QWEN_SPLIT), behavior="isolated", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    pieces, merges = text.train_pieces(pre, n_vocab - len(added), alphabet=pre_tokenizers.ByteLevel.alphabet(), normalizer=normalizers.NFC())
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    t.normalizer, t.pre_tokenizer, t.decoder = normalizers.NFC(), pre, decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([text.special(x) for x in added])
    return t


def llama_tokenizer(n_vocab):
    """LLaMA's shape (legacy normaliser, `<s>` first) with the remote code's added tokens."""
    t = Tokenizer(text.llama_bpe(n_vocab - len(ADDED)))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(text.SP), normalizers.Replace(" ", text.SP)])
    t.decoder = text.legacy_decoder()
    t.add_special_tokens([text.special(x) for x in ["<unk>", "<s>", "</s>"] + ADDED])
    text.bos_template(t)
    return t


class Internlm2Tokenizer:
    """A SentencePiece model without dummy prefix, and added tokens by id: two of them take over pieces of the model, as <|im_end|> and
    <|im_start|> do in InternLM2's folders. Text between added tokens goes through SentencePiece by itself; `<s>` comes first."""
    UNUSED = ["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]"]

    def __init__(self, n_vocab):
        n_piece = n_vocab - len(ADDED) + len(self.UNUSED)
        blob = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT + [SYSTEM["internlm2-chat"], "system\n", "user\n", "assistant\n"] * 99), model_writer=blob, model_type="bpe",
            vocab_size=n_piece - len(self.UNUSED), byte_fallback=True,
            add_dummy_prefix=False, remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, max_sentencepiece_length=16, minloglevel=2)
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(blob.getvalue())
        for name in self.UNUSED:
            proto.pieces.add(piece=name, score=0.0, type=proto.SentencePiece.USER_DEFINED)
        self.model = proto.SerializeToString()
        self.sp = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        self.added = {x: n_piece - len(self.UNUSED) + i for i, x in enumerate(ADDED)}
        assert self.sp.piece_to_id(self.UNUSED[0]) == self.added["<|im_end|>"] and self.get_vocab_size() == n_vocab

    def get_vocab_size(self):
        return self.sp.get_piece_size() - len(self.UNUSED) + len(ADDED)

    def token_to_id(self, token):
        return {"<unk>": 0, "<s>": 1, "</s>": 2, **self.added}[token]

    def ids(self, string):
        out, rest = [1], string
        while rest:
            at, token = min(((rest.find(t), t) for t in self.added if t in rest), default=(len(rest), None))
            out += self.sp.encode(rest[:at])
            if token is None:
                break
            out.append(self.added[token])
            rest = rest[at + len(token):]
        return out

    def decode(self, ids):
        return self.sp.decode([i for i in ids if i not in self.added.values()])

    def save(self, path):
        with open(path, "wb") as f:
            f.write(self.model)


TOKENIZERS = {"native": qwen_tokenizer, "llama": llama_tokenizer, "internlm2": Internlm2Tokenizer}


def token_ids(tok, string):
    return tok.ids(string) if isinstance(tok, Internlm2Tokenizer) else tok.encode(string).ids


def added_token(content):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}


# ---------------------------------------------------------------- weights under the folders' names

def remote_vision_name(key):
    for a, b in (("model.vision_tower.", "vision_model."), ("encoder.layer.", "encoder.layers."),
                 ("embeddings.cls_token", "embeddings.class_embedding"),
                 ("embeddings.position_embeddings", "embeddings.position_embedding"), ("patch_embeddings.projection", "patch_embedding"),
                 ("lambda_", "ls"),
                 ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.projection_layer", "attn.proj"), ("attention.", "attn.")):
        key = key.replace(a, b)
    return key


INTERNLM2_NAMES = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
                   "mlp.down_proj": "feed_forward.w2",
                   "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings"}


def fuse_wqkv(q, k, v, n_head, n_kv):
    """InternLM2's rows: per key/value head its queries, its key, its value."""
    d, group = q.shape[0] // n_head, n_head // n_kv
    q, k, v = q.view(n_kv, group, d, -1), k.view(n_kv, 1, d, -1), v.view(n_kv, 1, d, -1)
    return torch.cat([q, k, v], 1).reshape(-1, q.shape[-1])


def disk_weights(spec, model):
    sd, out = model.state_dict(), {}
    for key, value in sd.items():
        if spec["layout"] == "native":      # the hub's folders: the names of before 4.52
            out["language_model." + key if key.startswith("lm_head") else key.removeprefix("model.").replace("language_model.",
                    "language_model.model.", 1)] = value
        elif key.startswith("model.vision_tower."):
            if ".attention.q_proj." in key:
                out[remote_vision_name(key.replace("q_proj", "qkv"))] = torch.cat([sd[key.replace("q_proj", x + "_proj")] for x in "qkv"])
            elif not (".attention.k_proj." in key or ".attention.v_proj." in key):
                out[remote_vision_name(key)] = value
        elif key.startswith("model.multi_modal_projector."):
            part, kind = key.split(".")[-2:]
            out[f"mlp1.{ {'layer_norm': 0, 'linear_1': 1, 'linear_2': 3}[part]}.{kind}"] = value
        elif spec["layout"] == "llama":
            out["language_model." + key if key.startswith("lm_head") else key.replace("model.language_model.", "language_model.model.")] = value
        elif key.startswith("lm_head"):
            out["language_model.output.weight"] = value
        elif ".self_attn.q_proj." in key:
            q, k, v = (sd[key.replace("q_proj", x + "_proj")] for x in "qkv")
            name = key.replace("model.language_model.", "language_model.model.").replace("self_attn.q_proj", "attention.wqkv")
            out[name] = fuse_wqkv(q, k, v, spec["text"]["num_attention_heads"], spec["text"]["num_key_value_heads"])
        elif not (".self_attn.k_proj." in key or ".self_attn.v_proj." in key):
            name = key.replace("model.language_model.", "language_model.model.")
            for a, b in INTERNLM2_NAMES.items():
                name = name.replace(a, b)
            out[name] = value
    return {k: v.to(spec["dtype"]).contiguous() for k, v in out.items()}


# ---------------------------------------------------------------- the files of a folder

def text_settings(spec):
    """The text part in transformers 4's keys."""
    t, rope = dict(spec["text"]), spec["text"]["rope_parameters"]
    del t["rope_parameters"]
    scaling = None if rope["rope_type"] == "default" else {"factor": rope["factor"], "type": rope["rope_type"]}
    return {**t, "rope_theta": rope["rope_theta"], "rope_scaling": scaling, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True,
            "torch_dtype": str(spec["dtype"]).split(".")[1], "vocab_size": spec["pad_to"]}


def native_config(spec, tok):
    llm = {"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": tok.token_to_id("<|im_end|>"),
           "max_window_layers": 70, "model_type": "qwen2", "sliding_window": None, "use_sliding_window": False, **text_settings(spec)}
    llm["rope_scaling"]["rope_type"] = llm["rope_scaling"]["type"]
    vision = {"architectures": ["InternVisionModel"], "attention_dropout": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
              "initializer_range": 0.02, "layer_scale_init_value": 0.1, "model_type": "internvl_vision", "num_channels": 3,
              "projection_dropout": 0.0, "torch_dtype": "bfloat16", "use_absolute_position_embeddings": True, "use_mask_token": False,
              "use_mean_pooling": True, **spec["vision"]}
    return {"architectures": ["InternVLForConditionalGeneration"], "downsample_ratio": 0.5, "image_seq_length": TOKENS,
            "image_token_id": tok.token_to_id(CONTEXT), "model_type": "internvl", "projector_hidden_act": "gelu", "text_config": llm,
            "torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0", "vision_config": vision, "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default"}


def remote_config(spec, tok):
    v, dtype = spec["vision"], str(spec["dtype"]).split(".")[1]
    size = v["image_size"][0]
    llm = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **text_settings(spec)}
    if spec["layout"] == "internlm2":
        llm.update({"architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager", "bias": False, "model_type": "internlm2",
                    "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config", "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
                                 "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"}})
    else:
        llm.update({"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    vision = {"architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.1, "dropout": 0.0, "hidden_act": "gelu",
              "hidden_size": v["hidden_size"], "image_size": size, "initializer_factor": 0.1, "initializer_range": 0.02,
              "intermediate_size": v["intermediate_size"], "layer_norm_eps": v["layer_norm_eps"], "model_type": "intern_vit_6b",
              "norm_type": v["norm_type"], "num_attention_heads": v["num_attention_heads"], "num_channels": 3,
              "num_hidden_layers": v["num_hidden_layers"], "patch_size": v["patch_size"][0], "qk_normalization": v["use_qk_norm"],
              "qkv_bias": v["attention_bias"], "torch_dtype": dtype, "use_flash_attn": True}
    c = {"architectures": ["InternVLChatModel"], "downsample_ratio": 0.5, "dynamic_image_size": spec["dynamic"], "force_image_size": size,
         "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig", "AutoModel": "modeling_internvl_chat.InternVLChatModel",
                      "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel"},
         "llm_config": llm, "max_dynamic_patch": spec["tiles"][1], "min_dynamic_patch": spec["tiles"][0], "model_type": "internvl_chat",
         "pad2square": False, "ps_version": spec["ps_version"], "select_layer": -1, "template": spec["template"], "torch_dtype": dtype,
         "transformers_version": None, "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": spec["dynamic"], "vision_config": vision}
    if not spec["dynamic"]:     # sparse: what equals the class defaults is left out
        for k in ("dynamic_image_size", "use_thumbnail", "ps_version", "min_dynamic_patch", "max_dynamic_patch", "pad2square", "select_layer"):
            del c[k]
        for k in ("norm_type", "qk_normalization", "qkv_bias", "hidden_act", "num_channels"):
            del vision[k]
    if "system_message" in spec:
        c["system_message"] = spec["system_message"]
    return c


def write_files(d, spec, tok):
    """Everything but the weights and the goldens."""
    (write_native_files if spec["layout"] == "native" else write_remote_files)(d, spec, tok)
    common.write_json(os.path.join(d, "config.json"), (native_config if spec["layout"] == "native" else remote_config)(spec, tok))


def write_native_files(d, spec, tok):
    tok.save(os.path.join(d, "tokenizer.json"))
    size = {"height": spec["vision"]["image_size"][0], "width": spec["vision"]["image_size"][1]}
    common.write_json(os.path.join(d, "preprocessor_config.json"), {     # crop_to_patches false as in the hub's folders: the processor turns it on
        "crop_size": None, "crop_to_patches": False, "data_format": "channels_first", "default_to_square": True, "device": None,
        "do_center_crop": None, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": MEAN, "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": STD,
        "input_data_format": None, "max_patches": spec["tiles"][1], "min_patches": spec["tiles"][0], "processor_class": "InternVLProcessor",
        "resample": 3, "rescale_factor": 1 / 255, "return_tensors": None, "size": size})
    common.write_json(os.path.join(d, "processor_config.json"), {"image_seq_length": TOKENS, "processor_class": "InternVLProcessor"})
    with open(os.path.join(d, "chat_template.jinja"), "w", newline="\n") as f:
        f.write(NATIVE_TEMPLATE)
    added = {i: t for i, t in sorted((i, t) for t, i in tok.get_vocab().items() if t in {x.content for x in tok.get_added_tokens_decoder().values()})}
    common.write_json(os.path.join(d, "tokenizer_config.json"), {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": {str(i): added_token(t) for i, t in added.items()},
        "bos_token": None,
        "clean_up_tokenization_spaces": False, "context_image_token": CONTEXT, "end_image_token": "</img>", "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": {"context_image_token": CONTEXT, "end_image_token": "</img>", "start_image_token": "<img>", "video_token": "<video>"},
        "model_max_length": 8192, "pad_token": "<|endoftext|>", "processor_class": "InternVLProcessor", "return_token_type_ids": False,
        "split_special_tokens": False,
        "start_image_token": "<img>", "tokenizer_class": "Qwen2Tokenizer", "unk_token": None, "video_token": "<video>"})
    common.write_json(os.path.join(d, "generation_config.json"), {"_from_model_config": True, "eos_token_id": tok.token_to_id("<|im_end|>"),
                                                                  "transformers_version": "4.52.0.dev0"})


def write_remote_files(d, spec, tok):
    names = ["<unk>", "<s>", "</s>"] + ADDED
    ids = {t: tok.token_to_id(t) for t in names}
    config = {"added_tokens_decoder": {str(i): added_token(t) for t, i in sorted(ids.items(), key=lambda x: x[1])},
              "additional_special_tokens": names[3:], "bos_token": "<s>",
              "clean_up_tokenization_spaces": False, "eos_token": "</s>", "model_max_length": 8192, "pad_token": "</s>", "unk_token": "<unk>"}
    if spec["layout"] == "internlm2":
        tok.save(os.path.join(d, "tokenizer.model"))
        common.write_json(os.path.join(d, "added_tokens.json"), {t: i for t, i in ids.items() if i > 2})
        config.update(auto_map={"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}, tokenizer_class="InternLM2Tokenizer",
                      add_bos_token=True, add_eos_token=False)
    else:
        tok.save(os.path.join(d, "tokenizer.json"))
        config.update(tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=False, legacy=True)
    common.write_json(os.path.join(d, "tokenizer_config.json"), config)
    common.write_json(os.path.join(d, "special_tokens_map.json"), {"additional_special_tokens": names[3:], "bos_token": "<s>", "eos_token": "</s>",
                                                                   "pad_token": "</s>", "unk_token": "<unk>"})
    common.write_json(os.path.join(d, "generation_config.json"), {"eos_token_id": [ids["<|im_end|>"], ids["</s>"]], "transformers_version": "4.37.2"})
    common.write_json(os.path.join(d, "preprocessor_config.json"), {     # as the hub's remote-code folders have it; the tiles are the code's
        "crop_size": spec["vision"]["image_size"][0], "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": MEAN, "image_std": STD, "resample": 3, "size": spec["vision"]["image_size"][0]})


def unpack(spec, sd):
    """Weights of a remote-code folder under transformers' names, by another way than `disk_weights`."""
    out, n_kv = {}, spec["text"].get("num_key_value_heads", spec["text"]["num_attention_heads"])
    back = {"class_embedding": "cls_token", "position_embedding": "position_embeddings", "patch_embedding.": "patch_embeddings.projection.",
            "encoder.layers": "encoder.layer",
            "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.projection_layer", "attn.": "attention.",
            "ls1": "lambda_1", "ls2": "lambda_2"}
    for key, x in sd.items():
        x = x.float()
        if key.startswith("vision_model."):
            k = key.replace("vision_model.", "model.vision_tower.")
            for a, b in back.items():
                k = k.replace(a, b)
            out.update({k.replace("qkv", y + "_proj"): z for y, z in zip("qkv", x.chunk(3))} if "qkv" in k else {k: x})
        elif key.startswith("mlp1."):
            _, i, kind = key.split(".")
            out[f"model.multi_modal_projector.{dict(zip('013', ('layer_norm', 'linear_1', 'linear_2')))[i]}.{kind}"] = x
        else:
            k = key.replace("language_model.model.", "model.language_model.").replace("language_model.output",
                    "lm_head").replace("language_model.lm_head", "lm_head")
            for b, a in INTERNLM2_NAMES.items():
                k = k.replace(a, b)
            if "wqkv" in k:
                d = x.shape[1] // spec["text"]["num_attention_heads"]
                blocks = x.view(n_kv, -1, d, x.shape[1])
                for y, z in (("q", blocks[:, :-2]), ("k", blocks[:, -2]), ("v", blocks[:, -1])):
                    out[k.replace("attention.wqkv", f"self_attn.{y}_proj")] = z.reshape(-1, x.shape[1])
            else:
                out[k] = x
    return out
