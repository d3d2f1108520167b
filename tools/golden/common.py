# SPDX-License-Identifier: MIT
"""Things every part of the golden maker shares: seeds, versions, pictures, safe writing."""
import json
import os
import platform

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import PIL
from PIL import Image, features
import safetensors
from safetensors.numpy import save_file
import tokenizers
import torch
import transformers

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)

IMAGE_TOKEN = "<image>"
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def versions():
    """The versions that produced the numbers; stored in every json file."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "pillow_libjpeg_turbo": str(features.version_feature("libjpeg_turbo")),
        "pillow_zlib": str(features.version("zlib")),
        "pillow_webp": str(features.version("webp")),
    }


def write_json(path, obj):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        json.dump(obj, f, indent=1, ensure_ascii=True)
        f.write("\n")


def write_arrays(path, arrays):
    """Write a dict of tensors or arrays; floats become f32, integers i32 (u8 stays u8)."""
    out = {}
    for name, a in arrays.items():
        if isinstance(a, torch.Tensor):
            a = a.detach().cpu().numpy()
        a = np.asarray(a)
        if a.dtype == np.uint8:
            pass
        elif np.issubdtype(a.dtype, np.floating):
            a = a.astype(np.float32)
            assert np.isfinite(a).all(), name
        else:
            a = a.astype(np.int32)
        out[name] = np.ascontiguousarray(a)
    # one metadata key only: safetensors writes several in random order
    save_file(out, path, metadata={"format": "np"})
    os.chmod(path, 0o644)


def picture(width, height, seed, channels=3):
    """A picture with smooth parts, hard edges and noise: resizing it wrongly shows at once."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    a = np.empty((height, width, channels))
    for c in range(channels):
        fx, fy = rng.uniform(0.02, 0.35, 2)
        ph = rng.uniform(0, 6.28)
        a[..., c] = 127 + 90 * np.sin(fx * x + fy * y + ph)
    for _ in range(5):
        x0, x1 = sorted(rng.integers(0, width + 1, 2))
        y0, y1 = sorted(rng.integers(0, height + 1, 2))
        a[y0:y1, x0:x1] = rng.integers(0, 256, channels)
    a += rng.integers(-18, 19, a.shape)
    return np.clip(np.rint(a), 0, 255).astype(np.uint8)


def save_png(path, array, **kw):
    Image.fromarray(array).save(path, optimize=False, compress_level=9, **kw)
