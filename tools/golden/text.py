# SPDX-License-Identifier: MIT
"""Test tokenizers of the shapes that matter, and the hard strings with their expected ids."""
import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import common
from corpus import TEXT

SP = "\u2581"
BYTES = ["<0x%02X>" % b for b in range(256)]


def train_pieces(pre_tokenizer, n_pieces, alphabet=(), normalizer=None):
    """Train a BPE and return its pieces (in id order) and merges."""
    t = Tokenizer(models.BPE())
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=n_pieces, show_progress=False, initial_alphabet=list(alphabet)))
    m = json.loads(t.to_str())["model"]
    pieces = [p for p, _ in sorted(m["vocab"].items(), key=lambda kv: kv[1])]
    return pieces, [tuple(x) for x in m["merges"]]


def llama_bpe(n_vocab):
    """The LLaMA shape: <unk> <s> </s>, 256 byte tokens, pieces; BPE with byte fallback."""
    pieces, merges = train_pieces(pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always"), n_vocab - 3 - 256 - 2)
    pieces += [SP * 2, SP * 4]
    merges += [(SP, SP), (SP * 2, SP * 2)]
    vocab = {p: i for i, p in enumerate(["<unk>", "<s>", "</s>"] + BYTES + pieces)}
    assert len(vocab) == n_vocab, (len(vocab), n_vocab)
    return models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def special(content, **kw):
    return AddedToken(content, special=True, **{"normalized": False, **kw})


def bos_template(t):
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", t.token_to_id("<s>"))])


def legacy_decoder():
    return decoders.Sequence([decoders.Replace(SP, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def llava_tokenizer(n_vocab):
    """What a llava-hf folder holds: legacy normaliser, no pre-tokenizer, <image> and <pad> added."""
    t = Tokenizer(llama_bpe(n_vocab))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(SP), normalizers.Replace(" ", SP)])
    t.decoder = legacy_decoder()
    t.add_special_tokens([special(x) for x in ("<unk>", "<s>", "</s>", common.IMAGE_TOKEN, "<pad>")])
    bos_template(t)
    return t


def shape_legacy():
    """The same with every kind of added token, one of them two spaces."""
    t = llava_tokenizer(400)
    t.add_special_tokens([special("<|ls|>", lstrip=True), special("<|rs|>", rstrip=True),
                          special("<|both|>", lstrip=True, rstrip=True), special("<|word|>", single_word=True)])
    t.add_tokens([AddedToken("[PLAIN]", normalized=False), AddedToken("[NORM]", normalized=True),
                  AddedToken("new york", normalized=True, single_word=True),
                  AddedToken("[LS]", normalized=False, lstrip=True), AddedToken("[RS]", normalized=False, rstrip=True),
                  AddedToken("  ", normalized=False)])
    return t


def shape_metaspace():
    t = Tokenizer(llama_bpe(380))
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence([decoders.Replace(SP, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([special(x) for x in ("<unk>", "<s>", "</s>", common.IMAGE_TOKEN)])
    t.add_tokens([AddedToken("[PLAIN]", normalized=False), AddedToken("[RS]", normalized=True, rstrip=True)])
    bos_template(t)
    return t


def shape_metaspace_split():
    """Metaspace that splits on its mark, prepended always; no byte fallback, unknowns not fused."""
    pieces, merges = train_pieces(pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always"), 180)
    vocab = {p: i for i, p in enumerate(["<unk>", "<s>", "</s>"] + pieces)}
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=False, byte_fallback=False))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(replacement=SP, prepend_scheme="always", split=True)
    t.add_special_tokens([special(x) for x in ("<unk>", "<s>", "</s>", common.IMAGE_TOKEN)])
    t.add_tokens([AddedToken("[NORM]", normalized=True)])
    bos_template(t)
    return t


def shape_unk_lower():
    """No byte fallback, unknowns fused, Strip + NFD + StripAccents + Lowercase, whitespace pre-tokenizer."""
    norm = normalizers.Sequence([normalizers.Strip(), normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFC()])
    pieces, merges = train_pieces(pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always"), 170, normalizer=norm)
    vocab = {p: i for i, p in enumerate(["<unk>", "<s>", "</s>"] + pieces)}
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=False))
    t.normalizer = norm
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SP, prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(replacement=SP, prepend_scheme="always", split=True)
    t.add_special_tokens([special(x) for x in ("<unk>", "<s>", "</s>", common.IMAGE_TOKEN)])
    t.add_tokens([AddedToken("[NORM]", normalized=True), AddedToken("[plain]", normalized=False)])
    bos_template(t)
    return t


QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def shape_qwen():
    """Qwen2 shape: NFC, Split by regex, then ByteLevel without its own regex; no BOS."""
    pre = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    pieces, merges = train_pieces(pre, 420, alphabet=pre_tokenizers.ByteLevel.alphabet(), normalizer=normalizers.NFC())
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([special(x) for x in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", common.IMAGE_TOKEN)])
    t.add_tokens([AddedToken("<tool_call>", normalized=False)])
    return t


def shape_gpt2():
    """GPT-2 shape: ByteLevel with its own regex and a prefix space; ignore_merges on."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces, merges = train_pieces(pre, 400, alphabet=pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, ignore_merges=True))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    t.add_special_tokens([special("<|endoftext|>", normalized=True), special(common.IMAGE_TOKEN)])
    return t


SHAPES = {
    "llava": lambda: llava_tokenizer(400),
    "legacy": shape_legacy,
    "metaspace-first": shape_metaspace,
    "metaspace-split": shape_metaspace_split,
    "unk-lower": shape_unk_lower,
    "qwen": shape_qwen,
    "gpt2": shape_gpt2,
}

ADDED = ["<image>", "<s>", "</s>", "<unk>", "<pad>", "<|ls|>", "<|rs|>", "<|both|>", "<|word|>", "[PLAIN]", "[NORM]", "new york",
         "[LS]", "[RS]", "[plain]", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"]


def hard_strings():
    """200 strings, in a fixed order."""
    s = [
        "", " ", "  ", "   ", "    ", "     ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", " \n \n ", "\t\t", "\r", "\x0b\x0c", "\u00a0", "\u3000", "\u2003x",
        "a", " a", "a ", " a ", "  a", "a  ", "a  b", "a   b", "a    b", "a     b", "a\tb", "a\nb", "a\r\nb", "a \n b", "\ta", "a\n\n\nb",
        "The picture shows a small dog on a red chair.", "THE PICTURE", "the Picture Shows", "What is this?", "It's, they're, I'll, we've, he'd, I'm, DON'T",
        "USER: What is in the picture? ASSISTANT:", "USER: <image>\nWhat is in the picture? ASSISTANT:", "USER: <image> What? ASSISTANT:",
        "USER: <image><image>\nCompare. ASSISTANT:", "<image>\n<image>\n", "<image", "image>", "<image >", "< image>", "<IMAGE>", "<imag<image>e>",
        "0", "0123456789", "3000", "12 345", "1.5e-3", "2025-01-01", "x1y2z3", "\u0663\u0664", "\u00bd\u00b2\u2460",
        "caf\u00e9", "cafe\u0301", "\u00c5ngstr\u00f6m", "A\u030angstro\u0308m", "\u0301", "e\u0301\u0327", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "\u212b\u2126",
        "\ufb01ne o\ufb03ce", "\u2460\u2461", "\uff21\uff22\uff23", "\u00df\u1e9e", "\u0130stanbul", "\u0131", "\u03a3\u03a3", "\u03bf\u03c3\u03a3 ",
        "\u4f60\u597d\u4e16\u754c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab", "\u304c\u304b\u3099", "\ud840\udc0b".encode("utf-16", "surrogatepass").decode("utf-16"),
        "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "abc \u05d0\u05d1\u05d2 def", "\u200f\u200e", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "a\U0001f600b \U0001f600 ", "\U0001f3f4\U000e0067\U000e007f",
        "\x00", "a\x00b", "\x01\x02\x1f", "\x7f", "\x80\x85\x9f", "\u200b", "\ufeff", "\ufeffa", "\u2028\u2029", "\u00ad", "\ufffd", "a\ufffdb", "\ue000\uf8ff", "\U000f0000", "\U0010ffff", "\ufdd0\uffff",
        "\u2581", "\u2581a", "a\u2581b", " \u2581 ", "\u2581\u2581", "<0x41>", "<0x0A>", "<0xFF>", "<0x00>x", "\u0120a", "\u010a", "\u0100",
        "(a+b)*c/d-e=f;", "/* a loop */", "!!!???...", "--- *** ---", "\"quoted\" 'quoted'", "http://example.org/a?b=c&d=%20", "a@b.c", "$100 \u20ac50 \u00a33", "~`^|\\", "\u2026\u2014\u2013\u201c\u201d",
        "a" * 300, " " * 100, "ab" * 120, "\u00e9" * 60, "\U0001f600" * 20, "the " * 60, "\n" * 40, "." * 80, "9" * 50, " a" * 50,
        "new york", "in new york today", "New York", "anew yorker", "new  york", "<|word|>x", "x<|word|>", "x <|word|> y", "x_<|word|>", "(<|word|>)",
    ]
    for a in ADDED:
        s.append(f"x{a}y {a} z\n{a}\n  {a}  .{a}{a}")
    s += [f"{a}" for a in ("<image>", "<|both|>", "[NORM]", "</s>")] + [" <|ls|> a", "a  <|both|>\t\nb", "[RS]   x", "x   [LS]", "[norm] [Norm]", "<s> a</s>", "<s><s>a"]
    need = 200 - len(s)
    assert need >= 0, need
    words = [w for line in TEXT for w in line.split(" ")]
    s += [" ".join(words[(7 * i) % 150:(7 * i) % 150 + 3 + i % 5]) for i in range(need)]
    assert len(s) == 200 and len(s) == len(list(s))
    return s


def make(out):
    d = os.path.join(out, "tokenizer")
    os.makedirs(d, exist_ok=True)
    strings = hard_strings()
    doc = {
        "about": "ids[i]: encode(strings[i]) with special tokens; ids_plain[i]: without; text[i] / text_skip[i]: decode of ids[i] "
                 "with skip_special_tokens false / true; text_plain[i]: decode of ids_plain[i], nothing skipped. "
                 "decode_ids / decode_text are extra decode vectors (ids chosen, not encoded).",
        "versions": common.versions(), "strings": strings, "tokenizers": {},
    }
    for name, build in SHAPES.items():
        path = os.path.join(d, name + ".json")
        build().save(path)
        t = Tokenizer.from_file(path)
        e = {"ids": [], "ids_plain": [], "text": [], "text_skip": [], "text_plain": []}
        for s in strings:
            i, j = t.encode(s).ids, t.encode(s, add_special_tokens=False).ids
            e["ids"].append(i)
            e["ids_plain"].append(j)
            e["text"].append(t.decode(i, skip_special_tokens=False))
            e["text_skip"].append(t.decode(i, skip_special_tokens=True))
            e["text_plain"].append(t.decode(j, skip_special_tokens=False))
        extra = []
        if name in ("llava", "legacy", "metaspace-first"):
            b = lambda h: [3 + x for x in bytes.fromhex(h)]
            a = t.token_to_id("a")
            extra = [b("f09f9880"), b("f09f98"), b("ff"), [a] + b("c3") + [a], b("c3a9c3"), b("e4bda0") + [a], b("80"), b("00"), b("20"), b("2020") + [a],
                     [1] + b("41"), b("41") + [2] + b("42"), [0, a, 0], [t.token_to_id(SP), t.token_to_id(SP), a], [a, t.token_to_id(common.IMAGE_TOKEN), a], b("c3") + [1] + b("a9")]
        if name in ("qwen", "gpt2"):
            enc = lambda by: t.encode(by).ids
            e1, e2 = enc("\U0001f600"), enc("\u00e9")
            extra = [e1[-1:], e1[:-1], e2[:-1] + enc("a"), enc("a") + e1[1:], e1[:2] + e2]
        e["decode_ids"] = extra
        e["decode_text"] = [t.decode(x, skip_special_tokens=False) for x in extra]
        e["decode_text_skip"] = [t.decode(x, skip_special_tokens=True) for x in extra]
        doc["tokenizers"][name] = e
    p = os.path.join(d, "strings.json")
    with open(p, "w", encoding="utf-8", newline="\n") as f:
        json.dump(doc, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
