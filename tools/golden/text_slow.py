#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What transformers' Python tokenizers make of the hard strings, for the folders that text_more.py has written.

transformers 5 has no such tokenizers any more, so this runs in environments of its own, once in each:

    pip install transformers==4.46.3 sentencepiece protobuf && python text_slow.py tests/golden/tokenizer --internlm2 tokenization_internlm2.py
    pip install transformers==4.28.1 sentencepiece 'numpy<2' && python text_slow.py tests/golden/tokenizer

tokenization_internlm2.py is the remote code of an InternLM2 folder. Each run replaces its own kinds in slow.json.
"""
import argparse
import importlib.util
import json
import os

import sentencepiece
import transformers


def internlm2(path):
    spec = importlib.util.spec_from_file_location("tokenization_internlm2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.InternLM2Tokenizer


AROUND = {"bert-txt": ("[CLS] ", " [SEP]"), "internlm2": (" <s>", ""), "llama-legacy": ("<s>", ""), "llama-new": ("<s> ", "</s>"), "llama-old": ("<s>", "")}


def numbers(t, strings, before, after):
    ids = [t.encode(x) for x in strings]
    decode = lambda x, skip: t.decode(x, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    full, skip = [decode(x, False) for x in ids], [decode(x, True) for x in ids]
    return {"before": before, "after": after, "ids": ids, "text": [None if a == before + b + after else a for a, b in zip(full, strings)],
            "skip": [None if a == b else a for a, b in zip(skip, strings)]}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("folder", help="tests/golden/tokenizer")
    a.add_argument("--internlm2", help="path of tokenization_internlm2.py")
    a = a.parse_args()
    load = lambda name: json.load(open(os.path.join(a.folder, name), encoding="utf-8"))
    strings = load("strings.json")["strings"] + load("kinds.json")["strings"]
    path = os.path.join(a.folder, "slow.json")
    doc = load("slow.json") if os.path.exists(path) else {"about": "As kinds.json; made by text_slow.py.", "versions": {}, "kinds": {}}
    version = transformers.__version__
    doc["versions"]["transformers " + version] = "sentencepiece " + sentencepiece.__version__
    if version.startswith("4.28"):
        kinds = {"llama-old": transformers.LlamaTokenizer}
    else:
        kinds = {"llama-legacy": transformers.LlamaTokenizer, "llama-new": transformers.LlamaTokenizer, "internlm2": internlm2(a.internlm2),
                 "qwen2-slow": transformers.Qwen2Tokenizer, "bert-txt": transformers.BertTokenizerFast}
    for name, cls in kinds.items():
        doc["kinds"][name] = numbers(cls.from_pretrained(os.path.join(a.folder, name)), strings, *AROUND.get(name, ("", "")))
    doc["kinds"] = dict(sorted(doc["kinds"].items()))
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(doc, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
