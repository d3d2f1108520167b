"""A LLaVA checkpoint from a wiring: which heads read what where, and which gates combine them.

The decoder's residual stream has reserved dimensions (below). One of them holds a constant that is a thousand times
larger than everything else, so RMSNorm divides by the same number everywhere and its weight undoes it: inside, the
network is linear but for attention and gates. Every number of this file is set by hand; nothing is trained.

Python's standard library only.
"""

import array
import json
import math
import os
import struct
import zlib

LAYERS, HEADS, HEAD_WIDTH, WIDTH, GATES = 8, 8, 8, 64, 4
TOWER_WIDTH, SIDE, PATCH = 16, 64, 8
GRID = SIDE // PATCH
IMAGE_TOKENS = GRID * GRID
LARGE = 1024.0

# Dimensions of the residual stream. A flag is 1 on its tokens and 0 elsewhere.
CONSTANT, IS_IMAGE, IS_FIRST, PICTURE, IS_ROLE, RELAY, ANSWER, IS_ANSWERED, SUM = range(9)
UNREAD = 16          # from here on 32 dimensions that nothing reads

ROLE_TOKEN, YES, NO = "\u2581ASSISTANT", "\u2581yes", "\u2581no"
SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
NO_LOGIT, OTHER_LOGIT, END_LOGIT = 2.0, -12.0, 60.0
KEY_ROW = HEAD_WIDTH // 2 - 1  # of the slowest rotary pair: positions do not turn it
ROPE_THETA = 1e16
STEEPNESS = 40.0     # of a gate
SHIFT = 20.0         # GELU is the identity up there


class Matrix:
    """Row-major f32, zeros at first."""

    def __init__(self, *shape):
        self.shape = list(shape)
        self.values = array.array("f", bytes(4 * math.prod(shape)))

    def __setitem__(self, at, value):
        at = at if isinstance(at, tuple) else (at,)
        index = 0
        for size, i in zip(self.shape, at):
            index = index * size + i
        self.values[index] = value

    def fill(self, value):
        self.values = array.array("f", [value]) * len(self.values)
        return self


def head(layer, index, scores, value, out):
    """One attention head. scores {flag: attention logit}, value {dimension: weight} read at the keys, out {dimension:
    weight} written at every query."""
    return {"layer": layer, "head": index, "scores": scores, "value": value, "out": out}


def sink_score(share, score):
    """The first token's logit that leaves `share` of the attention to image tokens of logit `score`."""
    return score + math.log(IMAGE_TOKENS * (1 - share) / share)


def image_head(layer, index, share, out):
    """Reads the mean brightness of the picture: gives the image tokens `share` of its attention, all alike, and the
    first token the rest; `out` is per unit of mean brightness."""
    return head(layer, index, {IS_IMAGE: 9.0, IS_FIRST: sink_score(share, 9.0)}, {PICTURE: 1.0},
                {d: w / share for d, w in out.items()})


def ramp(layer, unit, inputs, threshold, out):
    """out * max(0, sum of inputs - threshold), by a SwiGLU unit whose up branch is 1: silu(s x) / s is that ramp but for
    a rounded corner, and 0 at the corner itself."""
    return {"layer": layer, "unit": unit, "inputs": inputs, "threshold": threshold, "out": out}


# ---- tokenizer ----

def tokenizer():
    """Every printable ASCII character is a token; the template's words and the answers are one token each."""
    vocab = list(SPECIAL) + ["<0x%02X>" % b for b in range(256)] + ["\u2581"] + [chr(c) for c in range(33, 127)]
    merges = []
    for word in ("USER", "ASSISTANT", "yes", "no"):
        left = "\u2581"
        for letter in word:
            merges.append([left, letter])
            left += letter
            if left not in vocab:
                vocab.append(left)
    ids = {piece: i for i, piece in enumerate(vocab)}
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    more = {"Sequence": {"id": "B", "type_id": 1}}
    added = [{"id": ids[s], "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for s in SPECIAL]
    replace = lambda a, b: {"type": "Replace", "pattern": {"String": a}, "content": b}
    return ids, {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence",
                       "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581")]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text, more],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [ids["<s>"]], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence",
                    "decoders": [replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                 {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": ids, "merges": merges}}


# ---- weights ----

def tower():
    """Passes each patch's mean brightness (0 to 1) through: a large antisymmetric pair of dimensions makes LayerNorm
    divide by a constant, and the blocks add nothing."""
    w = {}
    name = "vision_tower.vision_model."
    patch = Matrix(TOWER_WIDTH, 3, PATCH, PATCH)
    for c in range(3):
        for y in range(PATCH):
            for x in range(PATCH):
                patch[2, c, y, x], patch[3, c, y, x] = 1 / (3 * PATCH**2), -1 / (3 * PATCH**2)
    w[name + "embeddings.patch_embedding.weight"] = patch
    w[name + "embeddings.class_embedding"] = Matrix(TOWER_WIDTH)
    position = w[name + "embeddings.position_embedding.weight"] = Matrix(1 + IMAGE_TOKENS, TOWER_WIDTH)
    for t in range(1 + IMAGE_TOKENS):
        position[t, 0], position[t, 1] = LARGE, -LARGE
    w[name + "pre_layrnorm.weight"] = Matrix(TOWER_WIDTH).fill(LARGE * math.sqrt(2 / TOWER_WIDTH))
    w[name + "pre_layrnorm.bias"] = Matrix(TOWER_WIDTH)
    for l in range(2):
        block = name + "encoder.layers.%d." % l
        for norm in ("layer_norm1", "layer_norm2"):
            w[block + norm + ".weight"] = Matrix(TOWER_WIDTH).fill(1)
            w[block + norm + ".bias"] = Matrix(TOWER_WIDTH)
        for product in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1",
                        "mlp.fc2"):
            w[block + product + ".weight"] = Matrix(TOWER_WIDTH, TOWER_WIDTH)
            w[block + product + ".bias"] = Matrix(TOWER_WIDTH)
    w[name + "post_layernorm.weight"] = Matrix(TOWER_WIDTH).fill(1)
    w[name + "post_layernorm.bias"] = Matrix(TOWER_WIDTH)
    return w


def projector():
    """Brightness to PICTURE, and what every image token has."""
    first, second = Matrix(WIDTH, TOWER_WIDTH), Matrix(WIDTH, WIDTH)
    bias1, bias2 = Matrix(WIDTH), Matrix(WIDTH)
    first[0, 2], bias1[0] = 1, SHIFT
    second[PICTURE, 0], bias2[PICTURE] = 1, -SHIFT
    bias2[CONSTANT], bias2[IS_IMAGE] = LARGE, 1
    name = "multi_modal_projector."
    return {name + "linear_1.weight": first, name + "linear_1.bias": bias1, name + "linear_2.weight": second,
            name + "linear_2.bias": bias2}


def norm():
    return Matrix(WIDTH).fill(LARGE / math.sqrt(WIDTH))


def decoder_layer(heads, ramps):
    q, k, v, o = (Matrix(WIDTH, WIDTH) for _ in range(4))
    q_bias = Matrix(WIDTH)
    for h in heads:
        row = HEAD_WIDTH * h["head"]
        q_bias[row + KEY_ROW] = math.sqrt(HEAD_WIDTH)
        for flag, score in h["scores"].items():
            k[row + KEY_ROW, flag] = score
        for d, weight in h["value"].items():
            v[row, d] = weight
        for d, weight in h["out"].items():
            o[d, row] = weight
    gate, up, down = Matrix(GATES, WIDTH), Matrix(GATES, WIDTH), Matrix(WIDTH, GATES)
    gate_bias, up_bias = Matrix(GATES), Matrix(GATES)
    for r in ramps:
        up_bias[r["unit"]], gate_bias[r["unit"]] = 1, -STEEPNESS * r["threshold"]
        for d, weight in r["inputs"].items():
            gate[r["unit"], d] = STEEPNESS * weight
        for d, weight in r["out"].items():
            down[d, r["unit"]] = weight / STEEPNESS
    zero = lambda n=WIDTH: Matrix(n)
    attention = {"q_proj": (q, q_bias), "k_proj": (k, zero()), "v_proj": (v, zero()), "o_proj": (o, zero())}
    mlp = {"gate_proj": (gate, gate_bias), "up_proj": (up, up_bias), "down_proj": (down, zero())}
    w = {"input_layernorm.weight": norm(), "post_attention_layernorm.weight": norm()}
    for place, products in (("self_attn.", attention), ("mlp.", mlp)):
        for name, (weight, bias) in products.items():
            w[place + name + ".weight"], w[place + name + ".bias"] = weight, bias
    return w


def decoder(heads, ramps, ids):
    embed, unembed = Matrix(len(ids), WIDTH), Matrix(len(ids), WIDTH)
    for i in ids.values():
        embed[i, CONSTANT] = LARGE
        unembed[i, CONSTANT] = OTHER_LOGIT / LARGE
    embed[ids["<s>"], IS_FIRST] = embed[ids[ROLE_TOKEN], IS_ROLE] = 1
    embed[ids[YES], IS_ANSWERED] = embed[ids[NO], IS_ANSWERED] = 1
    unembed[ids[YES], CONSTANT], unembed[ids[YES], ANSWER] = 0, 1
    unembed[ids[NO], CONSTANT] = NO_LOGIT / LARGE
    unembed[ids["</s>"], IS_ANSWERED] = END_LOGIT
    w = {"language_model.model.embed_tokens.weight": embed, "language_model.lm_head.weight": unembed,
         "language_model.model.norm.weight": norm()}
    for l in range(LAYERS):
        parts = decoder_layer([h for h in heads if h["layer"] == l], [r for r in ramps if r["layer"] == l])
        w.update({"language_model.model.layers.%d." % l + name: m for name, m in parts.items()})
    return w


# ---- files ----

def write_safetensors(path, weights):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, m in weights.items():
        n = 4 * len(m.values)
        header[name] = {"dtype": "F32", "shape": m.shape, "data_offsets": [offset, offset + n]}
        offset += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for m in weights.values():
            f.write((m.values if struct.pack("=H", 1) == b"\1\0" else swapped(m.values)).tobytes())


def swapped(values):
    copy = array.array("f", values)
    copy.byteswap()
    return copy


def write_png(path, pixel):
    """A SIDE x SIDE grey picture, pixel(x, y) in 0..255."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes(v for x in range(SIDE) for v in (pixel(x, y),) * 3) for y in range(SIDE))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
                + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def config(ids):
    vision = {"model_type": "clip_vision_model", "hidden_size": TOWER_WIDTH, "intermediate_size": TOWER_WIDTH,
              "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": PATCH,
              "projection_dim": TOWER_WIDTH, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    text = {"model_type": "llama", "vocab_size": len(ids), "hidden_size": WIDTH, "intermediate_size": GATES,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
            "head_dim": HEAD_WIDTH, "max_position_embeddings": 1024, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "rope_theta": ROPE_THETA, "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False, "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    return {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "dtype": "float32",
            "torch_dtype": "float32", "vision_config": vision, "text_config": text, "image_token_index": ids["<image>"],
            "image_seq_length": IMAGE_TOKENS, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
            "projector_hidden_act": "gelu", "multimodal_projector_bias": True, "tie_word_embeddings": False,
            "pad_token_id": ids["<pad>"]}


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")


def write_processor(put, ids):
    """The picture is only scaled to 0..1: a white patch has brightness 1, a black one 0."""
    image = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3,
             "do_convert_rgb": True, "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255,
             "do_normalize": True, "do_center_crop": True, "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    processor = {"image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": PATCH,
                 "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default"}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    put("preprocessor_config.json", dict(image, image_processor_type="CLIPImageProcessor",
                                         processor_class="LlavaProcessor"))
    put("processor_config.json", dict(processor, image_processor=dict(image, image_processor_type="CLIPImageProcessor")))
    put("tokenizer_config.json", dict(names, tokenizer_class="PreTrainedTokenizerFast", image_token="<image>",
                                      extra_special_tokens=[], processor_class="LlavaProcessor", padding_side="left",
                                      model_max_length=1024, clean_up_tokenization_spaces=False))
    put("special_tokens_map.json", names)
    put("generation_config.json", {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"],
                                   "max_new_tokens": 8, "do_sample": False})
    put("chat_template.jinja", CHAT_TEMPLATE)


def write(folder, heads, ramps, brightness, truth):
    """The whole folder: model, tokenizer, processor, picture.png, calibration/*.png (black) and truth.json.
    brightness(x, y) is of the patch in column x, row y."""
    os.makedirs(os.path.join(folder, "calibration"), exist_ok=True)

    def put(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value, indent=1) + "\n")

    ids, tokens = tokenizer()
    put("config.json", config(ids))
    put("tokenizer.json", tokens)
    write_processor(put, ids)
    write_safetensors(os.path.join(folder, "model.safetensors"), {**tower(), **projector(), **decoder(heads, ramps, ids)})
    write_png(os.path.join(folder, "picture.png"), lambda x, y: round(255 * brightness(x // PATCH, y // PATCH)))
    for i in range(3):
        write_png(os.path.join(folder, "calibration", "black-%d.png" % i), lambda x, y: 0)
    put("truth.json", truth)
