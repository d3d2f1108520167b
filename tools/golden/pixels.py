# SPDX-License-Identifier: MIT
"""Small picture files and what Pillow and the Pillow image processors of transformers make of them."""
import os
import shutil
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

import common
from common import picture

CROP, PAD = 28, 30
PADDED = ("one.png", "wide.png", "tall.png", "exact.png", "odd.png", "thin.png", "grey.png", "rgba.png", "exif6.jpg", "adam7.png")


def png_chunks(path, width, height, depth, colour, interlace, raw):
    """A PNG written by hand, for what Pillow cannot write (16-bit RGB, Adam7)."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
                + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def adam7(a):
    """Filtered (type 1, Sub) scanlines of the seven passes of an 8-bit RGB picture."""
    out = b""
    for y0, x0, dy, dx in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)):
        p = a[y0::dy, x0::dx]
        if p.size == 0:
            continue
        d = p.astype(np.int16)
        d[:, 1:] -= p[:, :-1].astype(np.int16)
        for row in (d & 255).astype(np.uint8):
            out += b"\x01" + row.tobytes()
    return out


def files(d):
    """Write the picture files; returns {file: note}."""
    notes = {}

    def put(name, image, note, **kw):
        image.save(os.path.join(d, name), **kw)
        notes[name] = note

    rgb = lambda w, h, s: Image.fromarray(picture(w, h, s))
    put("one.png", rgb(1, 1, 1), "1x1 RGB")
    put("wide.png", rgb(300, 20, 2), "300 wide, 20 high")
    put("tall.png", rgb(20, 300, 3), "20 wide, 300 high")
    put("exact.png", rgb(CROP, CROP, 4), "already of the crop size: no resize pass")
    put("odd.png", rgb(51, 37, 5), "odd sizes")
    put("thin.png", rgb(2, 31, 6), "2 wide, 31 high")
    put("grey.png", Image.fromarray(picture(45, 37, 7, 1)[..., 0]), "8-bit grey")
    g16 = (picture(40, 33, 8, 1)[..., 0].astype(np.uint16) * 257) ^ np.arange(40 * 33, dtype=np.uint16).reshape(33, 40)
    g16[:, :30] = g16[:, :30] >> 7          # most values under 512: Pillow clips at 255, it does not scale
    put("grey16.png", Image.fromarray(g16), "16-bit grey; Pillow's conversion to RGB clips at 255")
    put("bilevel.png", Image.fromarray(picture(37, 23, 9, 1)[..., 0] > 127), "1-bit")
    pal = rgb(33, 47, 10).quantize(20)
    put("palette.png", pal, "palette, 20 colours, entries 0..3 with alpha in tRNS", transparency=bytes([0, 128, 255, 30]))
    rgba = np.concatenate([picture(41, 32, 11), picture(41, 32, 12, 1)], 2)
    put("rgba.png", Image.fromarray(rgba), "alpha: dropped when opened by path, composited onto white when handed in")
    la = np.concatenate([picture(29, 31, 13, 1), picture(29, 31, 14, 1)], 2)
    put("la.png", Image.fromarray(la), "grey with alpha")
    a = picture(35, 27, 15)
    a16 = (a.astype(np.uint16) << 8) | picture(35, 27, 16)
    raw = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in a16)
    png_chunks(os.path.join(d, "rgb16.png"), 35, 27, 16, 2, 0, raw)
    notes["rgb16.png"] = "16-bit RGB"
    a = picture(43, 38, 17)
    png_chunks(os.path.join(d, "adam7.png"), 43, 38, 8, 2, 1, adam7(a))
    notes["adam7.png"] = "interlaced, Sub filter"
    put("444.jpg", rgb(48, 35, 18), "JPEG 4:4:4, quality 92", quality=92, subsampling=0)
    put("420.jpg", rgb(53, 41, 19), "JPEG 4:2:0, quality 80", quality=80, subsampling=2)
    put("progressive.jpg", rgb(40, 45, 20), "JPEG progressive 4:2:2", quality=85, subsampling=1, progressive=True)
    put("grey.jpg", Image.fromarray(picture(33, 39, 21, 1)[..., 0]), "JPEG, one component", quality=88)
    put("cmyk.jpg", Image.fromarray(picture(38, 34, 22, 4), "CMYK"), "JPEG, CMYK (Adobe marker)", quality=90)
    ex = Image.Exif()
    ex[0x0112] = 6
    put("exif6.jpg", rgb(46, 30, 23), "JPEG with EXIF orientation 6", quality=90, subsampling=0, exif=ex)
    ex[0x0112] = 3
    put("exif3.png", rgb(30, 26, 24), "PNG with EXIF orientation 3 (eXIf chunk)", exif=ex)
    put("lossless.webp", rgb(36, 44, 25), "WebP lossless", lossless=True)
    put("plain.ppm", rgb(31, 25, 26), "PPM P6")
    put("plain.bmp", rgb(27, 33, 27), "BMP, 24 bit")
    return notes


def make(out):
    d = os.path.join(out, "pixels")
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    notes = files(d)
    arrays, info = {}, {}
    crop = CLIPImageProcessorPil(size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP})
    pad = LlavaImageProcessorPil(size={"shortest_edge": PAD}, crop_size={"height": PAD, "width": PAD}, do_pad=True)
    run = lambda p, im, **kw: p(images=im, return_tensors="np", **kw)["pixel_values"][0]
    for name, note in notes.items():
        path = os.path.join(d, name)
        im = Image.open(path)
        im.load()
        up = ImageOps.exif_transpose(im)
        rgb = np.asarray(up.convert("RGB"))
        lossy = name.endswith(".jpg")
        e = info[name] = {"note": note, "pillow_mode": im.mode, "width": im.size[0], "height": im.size[1], "rotated_by_exif": up.size != im.size or name.startswith("exif"),
                          "compare_decode": "tolerance" if lossy else "exact"}
        arrays[f"{name}/rgb"] = rgb
        clean = Image.fromarray(rgb)            # so a test can start from .../rgb and stay exact even where decoders differ
        arrays[f"{name}/crop"] = run(crop, clean)
        if name in PADDED:
            arrays[f"{name}/pad"] = run(pad, clean)
        if name.startswith("exif"):
            arrays[f"{name}/rgb_unrotated"] = np.asarray(im.convert("RGB"))
        direct = convert_to_rgb(im, return_numpy=True)
        if not name.startswith("exif") and not np.array_equal(direct, rgb):
            arrays[f"{name}/rgb_handed_in"] = direct
        # the ways of handing the picture in
        e["opened_by_path_equals"] = bool(np.array_equal(run(crop, path), arrays[f"{name}/crop"]))
        e["handed_in_as_pillow_equals"] = bool(np.array_equal(run(crop, im), arrays[f"{name}/crop"]))
    odd = Image.open(os.path.join(d, "odd.png"))
    variants = {
        "size-below-crop": dict(size={"shortest_edge": 21}, crop_size={"height": 28, "width": 28}),
        "size-above-crop": dict(size={"shortest_edge": 39}, crop_size={"height": 28, "width": 28}),
        "crop-not-square": dict(size={"shortest_edge": 25}, crop_size={"height": 31, "width": 24}),
        "squash": dict(size={"height": 29, "width": 23}, crop_size={"height": 29, "width": 23}),
        "no-crop": dict(size={"shortest_edge": 17}, do_center_crop=False),
        "no-resize": dict(do_resize=False, crop_size={"height": 40, "width": 41}),
        "bilinear": dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, resample=2),
        "lanczos": dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, resample=1),
        "other-mean": dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_mean=[0.5, 0.45, 0.4], image_std=[0.25, 0.3, 0.27]),
        "no-normalize": dict(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, do_normalize=False),
    }
    for n, kw in variants.items():
        arrays[f"variant/{n}"] = run(CLIPImageProcessorPil(**kw), odd)
    src = picture(50, 33, 99)
    arrays["resize/source"] = src
    for fn, f in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR), ("lanczos", Image.Resampling.LANCZOS)):
        for w, h in ((61, 70), (13, 9), (20, 60), (73, 11), (50, 12), (17, 33), (1, 1), (100, 2)):
            arrays[f"resize/{fn}/{w}x{h}"] = np.asarray(Image.fromarray(src).resize((w, h), resample=f))
    common.write_arrays(os.path.join(d, "pixels.safetensors"), arrays)
    common.write_json(os.path.join(d, "pixels.json"), {
        "about": "<file>/rgb u8 [h,w,3] as Pillow decodes and converts it, turned upright by EXIF, alpha dropped (what transformers does with a path or URL); <file>/rgb_handed_in where a "
                 "Pillow image given to the processor becomes something else (alpha composited onto white); <file>/rgb_unrotated: the same for EXIF; <file>/crop and (for some) <file>/pad f32 [3,h,w] of the two processors, "
                 "run on that rgb; variant/<name> f32: odd.png under the settings below; resize/<filter>/<w>x<h> u8 [h,w,3] of resize/source.",
        "jpeg": "JPEG decoders differ by a few grey levels (Pillow bundles its own libjpeg-turbo): compare decoded JPEG with a tolerance, and start the processors from "
                "<file>/rgb to compare them exactly.",
        "versions": common.versions(),
        "crop_settings": {"size": {"shortest_edge": CROP}, "crop_size": {"height": CROP, "width": CROP}, "resample": 3, "image_mean": common.CLIP_MEAN, "image_std": common.CLIP_STD},
        "pad_settings": {"do_pad": True, "size": {"shortest_edge": PAD}, "crop_size": {"height": PAD, "width": PAD}, "resample": 3, "pad_colour": [int(x * 255) for x in common.CLIP_MEAN]},
        "files": info, "variants": variants})
    for f in os.listdir(d):
        os.chmod(os.path.join(d, f), 0o644)
    print("pixels:", sum(os.path.getsize(os.path.join(d, f)) for f in os.listdir(d)) // 1024, "KiB")
    for n, e in info.items():
        if not (e["opened_by_path_equals"] and e["handed_in_as_pillow_equals"]):
            print("  ", n, e)
