# SPDX-License-Identifier: MIT
"""What the image processors of transformers make of one picture: views, their pixels, their arrangement, token counts.

Pictures come from an integer formula (`scene`) that the test computes too, so none is stored. Small tiles are stored as f32; at real
sizes each view is stored as the CRC-32 of its grey levels, which are recovered exactly from the normalised values.

With SL_INTERNVL set to internvl_chat/internvl/train/dataset.py of a clone of OpenGVLab/InternVL, its own dynamic_preprocess is run on
the same pictures and must give the same grey levels and tensors.
"""
import ast
import os
import random
import shutil
import types
import zlib

import numpy as np
from PIL import Image
import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil, get_optimal_tiled_canvas
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil, get_resize_output_image_size
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import unpad_image
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

import common

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SIZES = [(1, 1), (20, 900), (900, 20), (672, 672), (336, 1008), (97, 41), (333, 500), (1200, 300), (50, 50)]  # width, height
CLASSES = {"LlavaNextImageProcessor": LlavaNextImageProcessorPil, "GotOcr2ImageProcessor": GotOcr2ImageProcessorPil, "Qwen2VLImageProcessor": Qwen2VLImageProcessorPil,
           "Idefics3ImageProcessor": Idefics3ImageProcessorPil, "SmolVLMImageProcessor": SmolVLMImageProcessorPil, "BlipImageProcessor": BlipImageProcessorPil,
           "Gemma3ImageProcessor": Gemma3ImageProcessorPil}
IDEFICS = ("Idefics3ImageProcessor", "SmolVLMImageProcessor")
square = lambda n: {"height": n, "width": n}


def settings(kind, **more):
    return {"image_processor_type": kind, **more}


def next_settings(tile, pinpoints, **more):
    return settings("LlavaNextImageProcessor", size={"shortest_edge": tile}, crop_size=square(tile), image_grid_pinpoints=pinpoints, **more)


def intern_settings(tile, least, most):
    return settings("GotOcr2ImageProcessor", size=square(tile), crop_to_patches=True, min_patches=least, max_patches=most, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)


# Stored as f32.
SMALL = {
    "next": next_settings(12, [[12, 24], [24, 12], [24, 24], [36, 12], [12, 36]]),
    "next-one": next_settings(12, [[12, 36]], do_pad=False),          # squares leave whole tiles black
    "intern": intern_settings(12, 1, 6),
    "intern-two": intern_settings(12, 2, 4),
    "qwen": settings("Qwen2VLImageProcessor", patch_size=4, merge_size=2, size={"shortest_edge": 192, "longest_edge": 320}),
    "idefics": settings("Idefics3ImageProcessor", size={"longest_edge": 25}, max_image_size={"longest_edge": 12}),
    "idefics-whole": settings("Idefics3ImageProcessor", size={"longest_edge": 25}, max_image_size={"longest_edge": 12}, do_image_splitting=False),
    "blip": settings("BlipImageProcessor", size=square(16)),
    "gemma": settings("Gemma3ImageProcessor", size=square(16)),
}
# Stored as a CRC-32 of each view.
LARGE = {
    "next-336": next_settings(336, NEXT_PINPOINTS),
    "intern-448": intern_settings(448, 1, 12),
    "qwen-default": settings("Qwen2VLImageProcessor"),
    "smolvlm-512": settings("SmolVLMImageProcessor", size={"longest_edge": 2048}, max_image_size={"longest_edge": 320}),
    "blip-224": settings("BlipImageProcessor", size=square(224)),
    "gemma-896": settings("Gemma3ImageProcessor", size=square(896)),
    "squash-448": settings("CLIPImageProcessor", size=square(448), do_center_crop=False),   # Qwen-VL
    "white-224": settings("CLIPImageProcessor", size={"shortest_edge": 224}, crop_size=square(224)),   # Shikra, after padding with white
}
# What is enough of some.
ONLY = {"next-one": [(900, 20), (333, 500)], "blip": [(900, 20), (97, 41)], "gemma": [(900, 20), (97, 41)], "intern-two": [(97, 41), (1, 1), (1200, 300)],
        "idefics": [(1, 1), (20, 900), (900, 20), (336, 1008), (97, 41), (50, 50)], "idefics-whole": [(97, 41), (20, 900)],
        "intern-448": [(1, 1), (20, 900), (336, 1008), (97, 41), (333, 500)], "qwen-default": [(20, 900), (336, 1008), (1200, 300), (50, 50)], "smolvlm-512": [(20, 900), (97, 41)],
        "blip-224": [(1, 1), (20, 900), (333, 500)], "gemma-896": [(97, 41)], "squash-448": [(20, 900), (97, 41), (1200, 300)], "white-224": [(900, 20), (20, 900), (97, 41), (1200, 300)]}


def scene(width, height):
    """[height, width, 3] u8: slow waves, hard edges, noise; integers only."""
    y, x, c = np.meshgrid(*(np.arange(n, dtype=np.uint32) for n in (height, width, 3)), indexing="ij")
    wave = (x * (3 + c) + y * (5 - c)) & 511
    wave = np.where(wave < 256, wave, 511 - wave)
    block = (x // 17 + y // 13 + c) % 3 * 40
    noise = ((x * np.uint32(73856093) ^ y * np.uint32(19349663) ^ c * np.uint32(83492791)) * np.uint32(2654435761)) >> np.uint32(27)
    return np.minimum(255, wave * 5 // 8 + block + noise).astype(np.uint8)


def run(config, width, height):
    """Pixels [n_view, 3, h, w] and facts of one picture."""
    config = dict(config)
    kind = config.pop("image_processor_type")
    image = Image.fromarray(scene(width, height))
    facts = {}
    if kind == "CLIPImageProcessor":
        if config.get("do_center_crop", True):   # white square first, centred
            side = max(width, height)
            sheet = Image.new("RGB", (side, side), (255, 255, 255))
            sheet.paste(image, ((side - width) // 2, (side - height) // 2))
            image = sheet
        return CLIPImageProcessorPil(**config)(images=image, return_tensors="np")["pixel_values"], facts
    p = CLASSES[kind](**config)
    out = p(images=image, return_tensors="np", **({"return_row_col_info": True} if kind in IDEFICS else {}))
    px = out["pixel_values"]
    if kind == "LlavaNextImageProcessor":
        px = px[0]
        best = select_best_resolution((height, width), p.image_grid_pinpoints)
        tile = p.crop_size["height"]
        facts = {"rows": best[0] // tile, "cols": best[1] // tile, "base": 0}
    elif kind == "GotOcr2ImageProcessor":
        cols, rows = get_optimal_tiled_canvas((height, width), (p.size["height"], p.size["width"]), p.min_patches, p.max_patches)
        assert p.get_number_of_image_patches(height, width) == len(px)
        facts = {"rows": rows if rows * cols > 1 else 0, "cols": cols if rows * cols > 1 else 0, "base": len(px) - 1}
    elif kind == "Qwen2VLImageProcessor":
        _, gh, gw = out["image_grid_thw"][0]
        m, s = p.merge_size, p.patch_size
        t = px.reshape(gh // m, gw // m, m, m, 3, p.temporal_patch_size, s, s)
        assert np.array_equal(t[..., 0, :, :], t[..., 1, :, :])
        px = t[..., 0, :, :].transpose(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, gh * s, gw * s)
    elif kind in IDEFICS:
        px = px[0]
        facts = {"rows": out["rows"][0][0], "cols": out["cols"][0][0], "base": len(px) - 1}
    return np.asarray(px), {**{"rows": 0, "cols": 0, "base": 0}, **facts}


def levels(px, config):
    """The grey levels behind normalised values, exactly."""
    kind = config["image_processor_type"]
    mean = config.get("image_mean") or (CLIPImageProcessorPil.image_mean if kind == "CLIPImageProcessor" else CLASSES[kind].image_mean)
    std = config.get("image_std") or (CLIPImageProcessorPil.image_std if kind == "CLIPImageProcessor" else CLASSES[kind].image_std)
    v = (px.astype(np.float64) * np.array(std)[:, None, None] + np.array(mean)[:, None, None]) * 255
    u = np.rint(v)
    assert np.abs(v - u).max() < 1e-3
    return u.astype(np.uint8)


def official_internvl():
    """InternVL's own functions, taken from a clone at run time; None without one."""
    path = os.environ.get("SL_INTERNVL")
    if not path:
        return None
    names = ("find_closest_aspect_ratio", "dynamic_preprocess")
    tree = ast.parse(open(path, encoding="utf-8").read())
    body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in names]
    assert len(body) == 2, path
    module = types.ModuleType("internvl")
    exec(compile(ast.Module(body, []), path, "exec"), module.__dict__)
    return module.dynamic_preprocess


def check_official(dynamic, px, config, width, height):
    """The same tensors as load_image of the model cards: dynamic_preprocess, ToTensor, Normalize."""
    views = dynamic(Image.fromarray(scene(width, height)), min_num=config["min_patches"], max_num=config["max_patches"], image_size=config["size"]["height"], use_thumbnail=True)
    t = torch.stack([torch.from_numpy(np.array(v)).permute(2, 0, 1).float().div(255) for v in views])
    t = t.sub(torch.tensor(IMAGENET_MEAN)[:, None, None]).div(torch.tensor(IMAGENET_STD)[:, None, None])
    assert t.shape == px.shape and np.abs(t.numpy() - px).max() <= 1e-6, (width, height)


def count_sizes():
    """Sizes for the counts: ordinary, extreme, and those where the rounding to 7 digits decides."""
    rng = random.Random(7)
    sizes = [(1, 1), (1, 2), (2, 1), (1, 65535), (65535, 1), (10000, 1), (1, 10000), (3, 1000), (1000, 3), (336, 336), (640, 480), (480, 640), (1024, 899), (1920, 1080), (1080, 1920), (1000, 100),
             (100, 1000), (50, 50), (640, 427), (500, 333), (672, 672), (448, 448), (2000, 2000), (16384, 16384), (1008, 336), (337, 336), (336, 337)]
    while len(sizes) < 160:
        sizes.append((rng.randint(1, 2500), rng.randint(1, 2500)))
    while len(sizes) < 200:
        sizes.append((int(2 ** rng.uniform(0, 13)), int(2 ** rng.uniform(0, 13))))
    return sizes + rounding_sizes(rng, 336, 24, NEXT_PINPOINTS)


def rounding_sizes(rng, side, tower, pinpoints):
    """Sizes whose kept grid depends on the rounding: a product that is whole but for the last bit of a double."""
    found = []
    while len(found) < 40:
        w, h = rng.randint(1, 3000), rng.randint(1, 3000)
        best = select_best_resolution((h, w), pinpoints)
        rows, cols = best[0] // side * tower, best[1] // side * tower
        n, product = (rows, h * (cols / w)) if w / h > cols / rows else (cols, w * (rows / h))
        if (n - int(product)) // 2 != (n - int(round(product, 7))) // 2:
            found.append((w, h))
    return found


def next_counts(sizes, side, tower, pinpoints):
    """[width, height, tile rows, tile cols, kept rows, kept cols, tokens] by the processor, checked against the model's unpad_image."""
    processor = types.SimpleNamespace(image_processor=types.SimpleNamespace(image_grid_pinpoints=pinpoints), patch_size=side // tower, num_additional_image_tokens=1)
    processor._get_unpadded_features = types.MethodType(LlavaNextProcessor._get_unpadded_features, processor)
    rows = []
    for w, h in sizes:
        best = select_best_resolution((h, w), pinpoints)
        r, c = best[0] // side, best[1] // side
        kept = unpad_image(torch.zeros(1, r * tower, c * tower), (h, w)).shape[1:]
        tokens = LlavaNextProcessor._get_number_of_features(processor, h, w, side, side) - 1
        assert tokens == tower * tower + kept[0] * kept[1] + kept[0]
        rows.append([w, h, r, c, kept[0], kept[1], tokens])
    return np.array(rows)


def counts():
    sizes = count_sizes()
    out = {"counts/next-24": next_counts(sizes, 336, 24, NEXT_PINPOINTS), "counts/next-27": next_counts(sizes, 378, 27, [[378 * a // 336, 378 * b // 336] for a, b in NEXT_PINPOINTS])}
    for least, most in ((1, 12), (1, 6), (3, 9), (1, 40)):
        out[f"counts/intern-{least}-{most}"] = np.array([[w, h, *get_optimal_tiled_canvas((h, w), (448, 448), least, most)] for w, h in sizes])
    for name, least, most in (("qwen-default", 56 * 56, 28 * 28 * 1280), ("qwen-hub", 3136, 12845056)):
        ok = [(w, h) for w, h in sizes if max(w, h) / min(w, h) <= 200]
        out[f"counts/{name}"] = np.array([[w, h, *smart_resize(h, w, 28, least, most)[::-1]] for w, h in ok])
    for edge, tile in ((1456, 364), (2048, 512), (5000, 384)):
        out[f"counts/idefics-{edge}-{tile}"] = np.array([[w, h, *idefics_counts(w, h, edge, tile)] for w, h in sizes if max(w, h) / min(w, h) <= 500])
    return out


def idefics_counts(width, height, edge, tile):
    """Rows, columns and views by the processor's own steps, on arrays that have a size and nothing else."""
    empty = lambda h, w: np.broadcast_to(np.uint8(0), (3, h, w))
    no_pixels = types.SimpleNamespace(resize=lambda image, size, resample=None: empty(size.height, size.width))
    resized = empty(*get_resize_output_image_size(empty(height, width), edge))
    resized = Idefics3ImageProcessorPil.resize_for_vision_encoder(no_pixels, resized, tile)
    frames, rows, cols = Idefics3ImageProcessorPil.split_images(no_pixels, resized, {"longest_edge": tile})
    return rows, cols, len(frames)


def make(out):
    d = os.path.join(out, "tiles")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    official = official_internvl()
    arrays, cases, crcs = counts(), {}, {}
    for name, config in SMALL.items():
        for w, h in ONLY.get(name, SIZES):
            px, facts = run(config, w, h)
            arrays[f"{name}/{w}x{h}"] = px
            cases[f"{name}/{w}x{h}"] = facts
            if official and name.startswith("intern"):
                check_official(official, px, config, w, h)
    for name, config in LARGE.items():
        for w, h in ONLY.get(name, SIZES):
            px, facts = run(config, w, h)
            crcs[f"{name}/{w}x{h}"] = {**facts, "n": len(px), "height": px.shape[2], "width": px.shape[3], "crc": [zlib.crc32(u.tobytes()) for u in levels(px, config)]}
            if official and name.startswith("intern"):
                check_official(official, px, config, w, h)
    common.write_arrays(os.path.join(d, "tiles.safetensors"), arrays)
    common.write_json(os.path.join(d, "tiles.json"), {
        "about": "small: <name>/<width>x<height> f32 [n_view, 3, h, w] in tiles.safetensors, of the picture that `scene` of tools/golden/tiles.py computes; large: CRC-32 of each view's grey "
                 "levels, u8 [3, h, w]; counts/next-*: width, height, tile rows, tile cols, kept rows, kept cols, tokens; counts/intern-<min>-<max>: width, height, cols, rows; "
                 "counts/qwen-*: width, height, view width, view height; counts/idefics-<edge>-<tile>: width, height, rows, cols, views.",
        "versions": common.versions(), "small_settings": SMALL, "small": cases, "large_settings": LARGE, "large": crcs})
    print("tiles:", sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d)) // 1024, "KiB", "(InternVL's own code agrees)" if official else "")
