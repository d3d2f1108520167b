# SPDX-License-Identifier: MIT
"""Tokenizer folders of every kind the families ship, small, and what their references make of the hard strings.

Kinds whose reference is a package of requirements.txt go into kinds.json. Those whose reference is transformers' Python
("slow") tokenizers, which transformers 5 no longer has, are made here as folders; text_slow.py writes their numbers.
"""
import base64
import collections
import io
import json
import os
import re
import unicodedata

import sentencepiece as spm
import tiktoken
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import common
import text
from corpus import TEXT

SP = text.SP
SLOW = ("llama-legacy", "llama-new", "llama-old", "internlm2", "qwen2-slow", "bert-txt")


def strings():
    """The 200 strings of text.py and some more about the kinds' own special tokens."""
    s = text.hard_strings()
    for a in ("[DEC]", "[CLS]", "[MASK]", "<img>", "</img>", "<imgpad>", "<|extra_7|>", "<ref>", "<box>(1,2),(3,4)</box>", "<im_patch>",
              "<IMG_CONTEXT>", "<|plugin|>", "<start_of_turn>", "<|eot_id|>", "<fake_token_around_image>"):
        s.append(f"a {a} b{a}\n{a} {a}{a}  c")
    return s + ["<img>\u0338x", "e<|im_end|>\u0301", "\u2581<s>\u2581 a", "  <s>", "<s>  a ", "\u2581", " \u2581\u2581", "\x1c<im_patch>\x1f a\u0085<im_patch>\u00a0b",
                "UNTIED unused <user> <user>x ab<user>", "h\ufb01j \u00bd \u3000k\u00a0l", "I do not, we 've, it 's . a ? b !", "\u4f60a\u597d b\u3105\u3041",
                "r\u00e9sum\u00e9 RE\u0301SUME\u0301 \u0130I\u0131", "e" * 100, "e" * 101, "#hash ##hash a##b", "xyzxy xyxyz", "qzq", "1234567 12 1,234.5 \u0661\u0662\u0663\u0664 \u00b2\u00b3",
                "don't DON'T I'LL we'Ve", "\ud55c\uad6d\u1112\u1161\u11ab", "it's\u200bz\u00adw\ufffd\ue000"]


def dump(path, doc):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(doc, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


# ---- SentencePiece models ----

def train_spm(vocab_size, edit=None, **options):
    """A small BPE model on the corpus; what depends on the machine is not in it."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=model, model_type="bpe", vocab_size=vocab_size,
                                   num_threads=1, minloglevel=2, **options)
    proto = pb.ModelProto.FromString(model.getvalue())
    for x in ("input", "model_prefix", "self_test_sample_size"):
        proto.trainer_spec.ClearField(x)
    if edit:
        edit(proto)
    return proto.SerializeToString()


def llama_model(squeeze):
    """As LLaMA's: identity normaliser, dummy prefix, blanks kept (or squeezed), byte fallback, digits apart."""
    return train_spm(480, normalization_rule_name="identity", remove_extra_whitespaces=squeeze, byte_fallback=True, split_digits=True,
                     allow_whitespace_only_pieces=True)


def internlm2_model():
    """As InternLM2's: no dummy prefix; rows whose names tokenizer_config.json takes over."""
    return train_spm(480, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, byte_fallback=True,
                     user_defined_symbols=["[UNUSED_TOKEN_141]", "[UNUSED_TOKEN_142]"], allow_whitespace_only_pieces=True)


RULES = [("\ufb01", "fi"), ("\u3000", " "), ("\u00a0", " "), ("\u00bd", "1\u20442"), ("e\u0301", "\u00e9"), ("\u00e9", "e"), ("\t", " "), ("\n", " "),
         ("\u200b", ""), ("abc", "cba"), ("\u2460", "1"), ("xy", "1"), ("xyz", "2")]


def rules_model(folder):
    """A character map, user-defined, control and unused pieces, equal scores; blanks squeezed; no bytes, so there is <unk>."""
    path = os.path.join(folder, "rules.tsv")
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for a, b in RULES:
            f.write(" ".join("%X" % ord(c) for c in a) + "\t" + " ".join("%X" % ord(c) for c in b) + "\n")

    def edit(proto):
        proto.normalizer_spec.ClearField("normalization_rule_tsv")
        long = [p for p in proto.pieces if p.type == 1 and len(p.piece) > 3]
        for p in long[::3]:
            p.type = 5
        for p in proto.pieces:
            p.score = float(int(p.score) // 9)
        for text in ("zq", "qz", "abab"):  # equal scores: the leftmost pair wins; user-defined pieces do not merge
            proto.pieces.add(piece=text, score=9, type=1)

    data = train_spm(260, edit, normalization_rule_tsv=path, user_defined_symbols=["<user>", "ab", " b"], control_symbols=["<ctl>"], character_coverage=0.99)
    os.remove(path)
    return data


def spm_numbers(data, s):
    p = spm.SentencePieceProcessor(model_proto=data)
    ids = [p.encode(x) for x in s]
    return {"ids": ids, "text": [p.decode([p.id_to_piece(i) for i in x]) for x in ids]}


# ---- folders for Python tokenizers ----

def added(content, special=True, **kw):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special, **kw}


def named(content):
    """As tokenizer_config.json writes bos_token and the like."""
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}


def llama_folders(d):
    n = 480
    config = {"add_bos_token": True, "add_eos_token": False, "bos_token": named("<s>"), "eos_token": named("</s>"), "unk_token": named("<unk>"),
              "pad_token": named("<pad>"), "clean_up_tokenization_spaces": False, "tokenizer_class": "LlamaTokenizer", "sp_model_kwargs": {},
              "model_max_length": 4096, "additional_special_tokens": ["<|both|>"],
              "added_tokens_decoder": {"0": added("<unk>"), "1": added("<s>"), "2": added("</s>"), str(n): added("<image>"), str(n + 1): added("<pad>"),
                                       str(n + 2): added("<|ls|>", lstrip=True), str(n + 3): added("<|rs|>", rstrip=True),
                                       str(n + 4): added("<|both|>", lstrip=True, rstrip=True), str(n + 5): added("[PLAIN]", False),
                                       str(n + 6): added("[NORM]", False, normalized=True), str(n + 8): added("new york", False)}}
    for name, more in (("llama-legacy", {"legacy": True}), ("llama-new", {"legacy": False, "add_eos_token": True})):
        write(os.path.join(d, name, "tokenizer.model"), llama_model(squeeze=name == "llama-new"))
        dump(os.path.join(d, name, "tokenizer_config.json"), {**config, **more})
    old = os.path.join(d, "llama-old")
    write(os.path.join(old, "tokenizer.model"), llama_model(squeeze=False))
    dump(os.path.join(old, "tokenizer_config.json"), {"add_bos_token": True, "add_eos_token": False, "model_max_length": 2048, "tokenizer_class": "LlamaTokenizer",
                                                      "bos_token": named("<s>")})
    dump(os.path.join(old, "special_tokens_map.json"), {"bos_token": {k: v for k, v in named("<s>").items() if k != "__type"}, "eos_token": "</s>",
                                                        "pad_token": "<unk>", "unk_token": {k: v for k, v in named("<unk>").items() if k != "__type"}})
    dump(os.path.join(old, "added_tokens.json"), {"<im_end>": n + 2, "<im_patch>": n, "<im_start>": n + 1, "<image>": n + 3})


def internlm2_folder(d):
    model = internlm2_model()
    p = spm.SentencePieceProcessor(model_proto=model)
    write(os.path.join(d, "internlm2", "tokenizer.model"), model)
    decoder = {"0": added("<unk>"), "1": added("<s>"), "2": added("</s>"), str(p.piece_to_id("[UNUSED_TOKEN_141]")): added("<|plugin|>"),
               str(p.piece_to_id("[UNUSED_TOKEN_142]")): added("<|im_end|>")}
    for i, x in enumerate(("<img>", "</img>", "<IMG_CONTEXT>", "<box>", "</box>")):
        decoder[str(480 + i)] = added(x)
    dump(os.path.join(d, "internlm2", "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder, "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
        "additional_special_tokens": ["<|plugin|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"], "clean_up_tokenization_spaces": False,
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]}, "tokenizer_class": "InternLM2Tokenizer"})


def qwen2_folder(d):
    t = json.loads(text.shape_qwen().to_str())
    m, folder = t["model"], os.path.join(d, "qwen2-slow")
    os.makedirs(folder, exist_ok=True)
    dump(os.path.join(folder, "vocab.json"), m["vocab"])
    write(os.path.join(folder, "merges.txt"), ("#version: 0.2\n" + "".join(" ".join(x) + "\n" for x in m["merges"])).encode())
    n = len(m["vocab"])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    dump(os.path.join(folder, "tokenizer_config.json"), {
        "add_prefix_space": False, "added_tokens_decoder": {str(n + i): added(x) for i, x in enumerate(names + ["<tool_call>"])}, "additional_special_tokens": names[1:],
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "split_special_tokens": False,
        "clean_up_tokenization_spaces": False, "tokenizer_class": "Qwen2Tokenizer"})


def bert_vocab():
    """Letters, frequent words, and what is left of longer words behind them (the package's trainer breaks ties at random)."""
    words = re.findall(r"[a-z]+|[^a-z\s]", " ".join(TEXT).lower())
    letters = sorted(set("".join(words)))
    common_first = lambda x: [w for w, _ in sorted(collections.Counter(x).items(), key=lambda kv: (-kv[1], kv[0]))]
    frequent = [w for w in common_first(words) if len(w) > 1][:90]
    rest = common_first("##" + w[k:] for w in words for k in range(1, len(w)) if len(w) - k > 1)[:60]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + ["##" + x for x in letters] + frequent + rest + \
           ["\u4f60", "\u597d", "re", "##sume", "##\u00df", "##\u0307", "##2", "##3", "#"]


def bert_folders(d):
    words = list(dict.fromkeys(bert_vocab()))
    folder = os.path.join(d, "bert-txt")
    write(os.path.join(folder, "vocab.txt"), "".join(w + "\n" for w in words).encode())
    dump(os.path.join(folder, "tokenizer_config.json"), {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None, "tokenizer_class": "BertTokenizer",
                                                         "model_max_length": 512, "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
                                                         "mask_token": "[MASK]", "bos_token": "[DEC]"})
    dump(os.path.join(folder, "added_tokens.json"), {"[DEC]": len(words)})
    dump(os.path.join(folder, "special_tokens_map.json"), {"bos_token": "[DEC]", "cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]",
                                                           "unk_token": "[UNK]"})
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(prefix="##")
    t.add_special_tokens([text.special(x) for x in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")])
    t.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
                                                     special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t


# ---- tokenizer.json of further shapes ----

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(pre, n_pieces, **kw):
    pieces, merges = text.train_pieces(pre, n_pieces, alphabet=pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, **kw))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    return t


def llama3():
    """Split and ByteLevel, ignore_merges with a whole word that no merge makes, a template after ByteLevel's."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    t = json.loads(byte_level(pre, 400).to_str())
    t["model"]["ignore_merges"] = True
    t["model"]["vocab"]["\u0120york"] = len(t["model"]["vocab"])
    t = Tokenizer.from_str(json.dumps(t))
    t.add_special_tokens([text.special(x) for x in ("<|begin_of_text|>", "<|eot_id|>", common.IMAGE_TOKEN)])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def gemma():
    """Blanks to U+2581 by Replace, Split that never finds one, byte fallback, no dummy prefix, BOS."""
    t = Tokenizer(text.llama_bpe(380))
    t.normalizer = normalizers.Replace(" ", SP)
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace(SP, " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens([text.special(x) for x in ("<unk>", "<s>", "</s>", "<start_of_turn>", "<image>")])
    t.add_tokens([AddedToken("\n\n", normalized=False), AddedToken(SP * 3, normalized=False)])
    text.bos_template(t)
    return t


def smolvlm():
    """Digits one by one, then ByteLevel with GPT-2's own expression."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    t = byte_level(pre, 400)
    t.add_special_tokens([text.special(x) for x in ("<|endoftext|>", "<|im_end|>", "<fake_token_around_image>", "<image>")])
    return t


def json_numbers(path, s):
    t = Tokenizer.from_file(path)
    ids = [t.encode(x).ids for x in s]
    return {"ids": ids, "text": [t.decode(x, skip_special_tokens=False) for x in ids], "skip": [t.decode(x, skip_special_tokens=True) for x in ids]}


# ---- qwen.tiktoken ----

QWEN_NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)] + \
             ["<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>"]


def qwen_ranks():
    """Byte tokens in another order than the bytes', then merges by rank."""
    t = json.loads(text.shape_qwen().to_str())["model"]
    byte = {c: b for b, c in zip(range(256), bytes_to_chars())}
    words = [bytes(byte[c] for c in w) for w, _ in sorted(t["vocab"].items(), key=lambda kv: kv[1])]
    return {w: i for i, w in enumerate(words + [b" york"])}  # no merge makes the last one


def bytes_to_chars():
    shown = [b for b in range(256) if 0x21 <= b <= 0x7e or 0xa1 <= b <= 0xac or 0xae <= b]
    rest = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + rest.index(b)) for b in range(256)]


def qwen_numbers(ranks, s):
    """NFC of the whole text, then tiktoken with every special token allowed, as the folder's Python code does."""
    names = {x: len(ranks) + i for i, x in enumerate(QWEN_NAMES)}
    enc = tiktoken.Encoding("qwen", pat_str=text.QWEN_SPLIT, mergeable_ranks=ranks, special_tokens=names)
    vision = set(QWEN_NAMES[-9:])
    nfc = [unicodedata.normalize("NFC", x) for x in s]
    ids = [enc.encode(x, allowed_special="all", disallowed_special=()) for x in nfc]
    return {"ids": ids, "vision_only": [enc.encode(x, allowed_special=vision, disallowed_special=()) for x in nfc],
            "text": [enc.decode(x, errors="replace") for x in ids], "skip": [enc.decode([i for i in x if i < len(ranks)], errors="replace") for x in ids]}


# ---- all of it ----

def shorten(numbers, s, before, after):
    """A text that is just the string, between what stands around every text, is written as null."""
    if "skip" in numbers:
        numbers["skip"] = [None if a == b else a for a, b in zip(numbers["skip"], s)]
    numbers["text"] = [None if a == before + b + after else a for a, b in zip(numbers["text"], s)]
    if "vision_only" in numbers:
        numbers["vision_only"] = [None if b == a else b for a, b in zip(numbers["ids"], numbers["vision_only"])]
    return {"before": before, "after": after, **numbers}


AROUND = {"bert": ("[CLS] ", " [SEP]"), "llama3": ("<|begin_of_text|>", ""), "gemma": ("<s>", "")}


def make(out):
    d = os.path.join(out, "tokenizer")
    os.makedirs(d, exist_ok=True)
    s = strings()
    llama_folders(d)
    internlm2_folder(d)
    qwen2_folder(d)
    kinds = {}
    for name, build in (("bert", lambda: bert_folders(d)), ("llama3", llama3), ("gemma", gemma), ("smolvlm", smolvlm)):
        path = os.path.join(d, name, "tokenizer.json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        dump(path, json.loads(build().to_str()))
        kinds[name] = json_numbers(path, s)
    ranks = qwen_ranks()
    write(os.path.join(d, "qwen", "qwen.tiktoken"), "".join(f"{base64.b64encode(w).decode()} {i}\n" for w, i in ranks.items()).encode())
    kinds["qwen"] = qwen_numbers(ranks, s)
    data = rules_model(d)
    write(os.path.join(d, "rules.model"), data)
    kinds["rules.model"] = spm_numbers(data, s)
    dump(os.path.join(d, "kinds.json"), {
        "about": "Of strings.json's strings and those here: ids[i]: the string encoded with special tokens (rules.model: by SentencePiece alone); text[i]: ids[i] decoded, null when it is before + string + after; "
                 "skip[i]: special tokens skipped, null when it is the string; vision_only[i]: only the nine vision tags are special, null when equal to ids[i].",
        "versions": {**common.versions(), "sentencepiece": spm.__version__, "tiktoken": tiktoken.__version__}, "strings": s[200:],
        "kinds": {k: shorten(v, s, *AROUND.get(k, ("", ""))) for k, v in kinds.items()}})
