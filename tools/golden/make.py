#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Regenerate tests/golden: `python tools/golden/make.py --out tests/golden`.

Needs the packages of requirements.txt. Everything is seeded and runs on one CPU thread in about two minutes. With the same versions on the
same kind of machine the files come out byte for byte the same; elsewhere floats may differ in their last bits.
"""
import argparse
import json
import os
import sys
import warnings

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
warnings.filterwarnings("ignore", message="Palette images with Transparency")

import branch
import common
import gemma3
import instructblip
import internvl
import levels
import llava
import llava_next
import llava_original
import pixels
import pocket
import qformer
import qwen2_vl
import qwen_vl
import shikra
import smolvlm
import stats
import text
import text_more
import tiles
import torch_files

PARTS = {**{n: (lambda out, n=n, s=s: llava.make_one(out, n, s)) for n, s in llava.SPECS.items()}, "tokenizer": text.make, "tokenizer-kinds": text_more.make, "pixels": pixels.make, "pocket": pocket.make, "stats": stats.make, "torch": torch_files.make,
         "branch": branch.make, levels.NAME: levels.make, "tiles": tiles.make, "qformer": qformer.make,
         **{n: (lambda out, n=n: llava_next.make(out, n)) for n in llava_next.SPECS}, "shikra": shikra.make, "llava-original": llava_original.make, "instructblip": instructblip.make,
         **{n: (lambda out, n=n: internvl.make_one(out, n)) for n in internvl.SPECS},
         **{n: (lambda out, n=n: smolvlm.make_one(out, n)) for n in smolvlm.SPECS}, "gemma3": gemma3.make, "qwen-vl": qwen_vl.make_one,
         **{n: (lambda out, n=n: qwen2_vl.make_one(out, n)) for n in qwen2_vl.SPECS}}


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--out", required=True, help="folder to write, e.g. tests/golden")
    a.add_argument("--only", nargs="*", choices=sorted(PARTS), help="make only these parts")
    a = a.parse_args()
    print(json.dumps(common.versions()))
    os.makedirs(a.out, exist_ok=True)
    for name, f in PARTS.items():
        if not a.only or name in a.only:
            f(a.out)
    size = sum(os.path.getsize(os.path.join(p, f)) for p, _, fs in os.walk(a.out) for f in fs)
    print(f"{a.out}: {size / 1e6:.2f} MB")
    assert size < 24e6, "tests/golden must stay small"


if __name__ == "__main__":
    main()
