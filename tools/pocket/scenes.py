"""Composes scenes: one large main object with small ones, or a written word.

The same code makes the training scenes and the evaluation pictures, with numpy
and Pillow only. Every scene knows which object owns which pixel, so masks and
per-patch labels are exact.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

import sprites

SIDE = 144  # what the vision tower sees
PATCH = 12
GRID = SIDE // PATCH
FONT_DIR = "/usr/share/fonts/truetype/dejavu"
FONTS = ("DejaVuSans-Bold", "DejaVuSerif-Bold")
WORDS = """
red blue green gold pink black white brown one two three four five six seven eight
stop open exit push pull taxi hotel cafe bank park sale love hope peace magic dream
home shop food milk bread sugar salt sun moon star rain snow wind fire lake north
south east west radio video phone paper table chair river beach ocean night light
happy music
""".split()
BACKGROUNDS = ("plain", "gradient", "cloudy", "checkered", "striped", "dotted")


@dataclass
class Item:
    """One placed object: its class, look, source picture and box (x0, y0, x1, y1)."""

    picture: sprites.Picture
    box: tuple

    @property
    def name(self):
        return self.picture.name

    @property
    def x(self):
        return (self.box[0] + self.box[2]) / 2


@dataclass
class Scene:
    """A composed picture. items[0] is the main object unless a word is written."""

    image: Image.Image
    background: str
    items: list
    owner: Image.Image  # per pixel: 0 for background, i + 1 for items[i]
    word: str = ""
    letters: Image.Image = None  # per pixel: 0, or 1 + index of the letter in the alphabet
    names: set = field(default_factory=set)

    def __post_init__(self):
        self.names = {item.name for item in self.items}

    @property
    def main(self):
        return None if self.word else self.items[0]


def _colour(rng):
    """A random colour, sometimes nearly grey."""
    colour = rng.uniform(0, 255, 3)
    return colour.mean() + (colour - colour.mean()) * rng.uniform(0.1, 1.0)


def _background(rng, kind, width, height):
    """Paints a background of the given kind; periods scale with the picture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * (SIDE / min(width, height))
    angle = rng.uniform(0, 2 * np.pi)
    u = x * np.cos(angle) + y * np.sin(angle)
    period = rng.uniform(10, 40)
    if kind == "plain":
        t = np.zeros_like(x)
    elif kind == "gradient":
        t = (u - u.min()) / (u.max() - u.min())
    elif kind == "cloudy":
        cells = rng.integers(3, 16)
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        t = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / np.float32(255)
    elif kind == "checkered":
        v = y * np.cos(angle) - x * np.sin(angle)
        t = (np.floor(u / period) + np.floor(v / period)) % 2
    elif kind == "striped":
        t = (u % period < period * rng.uniform(0.3, 0.7)).astype(np.float32)
    else:
        dx, dy = x % period - period / 2, y % period - period / 2
        t = (dx * dx + dy * dy < (period * rng.uniform(0.2, 0.4)) ** 2).astype(np.float32)
    a, b = _colour(rng), _colour(rng)
    if np.abs(a - b).sum() < 70:
        b = (a + 110) % 255
    paint = (a + t[..., None] * (b - a)).astype(np.float32)
    if rng.random() < 0.3:
        grain = rng.normal(0, rng.uniform(3, 14), (height, width, 1))
        paint = paint + grain.astype(np.float32)
    return Image.fromarray(np.clip(paint, 0, 255).astype(np.uint8))


def _sprite(rng, picture, longest):
    """Returns the picture resized, sometimes mirrored and turned, with jittered colours."""
    image = sprites.load(picture)
    scale = longest / max(image.size)
    image = image.resize([max(4, round(s * scale)) for s in image.size], Image.Resampling.BOX
                         if scale < 0.4 else Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.35:
        image = image.rotate(rng.uniform(-18, 18), Image.Resampling.BILINEAR, expand=True)
    if rng.random() < 0.6:
        alpha = image.getchannel("A")
        colours = ImageEnhance.Brightness(image.convert("RGB")).enhance(rng.uniform(0.75, 1.25))
        colours = ImageEnhance.Color(colours).enhance(rng.uniform(0.6, 1.3))
        image = Image.merge("RGBA", (*colours.split(), alpha))
    return image


def _overlap(a, b):
    """Share of box a that box b covers."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0) / ((a[2] - a[0]) * (a[3] - a[1]))


class _Canvas:
    """The picture under construction, with its ownership map.

    Objects go into the central square, the part the model's crop keeps.
    """

    def __init__(self, rng, kind, width, height):
        self.image = _background(rng, kind, width, height)
        self.owner = Image.new("L", (width, height))
        self.side = min(width, height)
        self.left, self.top = (width - self.side) // 2, (height - self.side) // 2
        self.items = []

    def place(self, rng, picture, share, taken, tries=12):
        """Puts a sprite at a free place; gives up silently when there is none."""
        w, h = sprites.load(picture).size
        stretch = min(1.3, (max(w, h) / min(w, h)) ** 0.4)
        sprite = _sprite(rng, picture, share * stretch * self.side)
        w, h = sprite.size
        slack = 0.05 * self.side
        for _ in range(tries):
            x0 = self.left + self._along(rng, w, slack)
            y0 = self.top + self._along(rng, h, slack)
            box = (x0, y0, x0 + w, y0 + h)
            if all(_overlap(box, other) <= limit for other, limit in taken):
                break
        else:
            return None
        alpha = sprite.getchannel("A")
        self.image.paste(sprite, box[:2], sprite)
        self.items.append(Item(picture, box))
        self.owner.paste(len(self.items), box[:2], alpha.point(lambda a: 255 if a > 127 else 0))
        return box

    def _along(self, rng, length, slack):
        """A start coordinate that keeps the sprite inside, up to a small cut at the edge."""
        low, high = -slack, self.side - length + slack
        return round(rng.uniform(low, high) if high > low else (self.side - length) / 2)


def _write(rng, canvas, word):
    """Writes the word in dark ink on a light sign; returns its box and the letter map."""
    side = canvas.side
    face = f"{FONT_DIR}/{FONTS[rng.integers(len(FONTS))]}.ttf"
    target = side * min(rng.uniform(0.76, 0.9), 0.23 * len(word))
    probe = ImageFont.truetype(face, 40)
    font = ImageFont.truetype(face, round(40 * target / probe.getlength(word)))
    x0, _, x1, _ = font.getbbox(word)
    _, y0, _, y1 = font.getbbox("dp")  # the height of every sign of this size
    pad = round(0.03 * side)
    w, h = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
    x = canvas.left + round(rng.uniform(0, max(0, side - w)))
    y = canvas.top + round(rng.uniform(0, max(0, side - h)))
    draw = ImageDraw.Draw(canvas.image)
    draw.rounded_rectangle((x, y, x + w - 1, y + h - 1), pad,
                           fill=tuple(int(c) for c in rng.uniform(195, 255, 3)))
    draw.text((x + pad - x0, y + pad - y0), word, font=font,
              fill=tuple(int(c) for c in rng.uniform(0, 80, 3)))
    letters = Image.new("L", canvas.image.size)
    bands = ImageDraw.Draw(letters)
    for i, letter in enumerate(word):
        start, end = (x + pad - x0 + font.getlength(word[:n]) for n in (i, i + 1))
        bands.rectangle((start, y, end - 1, y + h - 1), fill=ord(letter) - 96)
    return (x, y, x + w, y + h), letters


def _pick(rng, name, look=None):
    """A training picture of the class, both looks equally likely where there are both."""
    pictures = sprites.pictures_of(name)
    looks = sorted({p.look for p in pictures})
    look = look if look in looks else looks[rng.integers(len(looks))]
    pictures = [p for p in pictures if p.look == look]
    return pictures[rng.integers(len(pictures))]


def compose(rng, word=None, main=None, size=(SIDE, SIDE), small=None):
    """Makes one scene.

    word: the word to write, or None for an object scene. main: the main picture
    of an object scene (drawn at random when None). small: how many small objects
    to try to place (random when None).
    """
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    canvas = _Canvas(rng, kind, *size)
    names = [sprites.NAMES[i] for i in rng.permutation(len(sprites.NAMES))[:4]]
    letters = None
    if word:
        box, letters = _write(rng, canvas, word)
        taken = [(box, 0.0)]
        small = rng.integers(0, 3) if small is None else small
    else:
        main = main or _pick(rng, names[0])
        box = canvas.place(rng, main, rng.uniform(0.5, 0.78), [])
        taken = [(box, 0.3)]
        small = rng.integers(0, 4) if small is None else small
        names = [n for n in names if n != main.name]
    for name in names[:small]:
        box = canvas.place(rng, _pick(rng, name), rng.uniform(0.23, 0.33), taken)
        if box:
            taken.append((box, 0.02))
    return Scene(canvas.image, kind, canvas.items, canvas.owner, word or "", letters)


def draw(rng, words=0.5, oversize=0.2):
    """Draws a random training scene at the tower's size.

    A share `words` of the scenes shows a written word. A share `oversize` is
    composed larger and brought down with the resize the image processor uses, so
    that the model also meets pictures that were resized.
    """
    word = WORDS[rng.integers(len(WORDS))] if rng.random() < words else None
    side = int(rng.integers(SIDE + 24, 2 * SIDE + 1)) if rng.random() < oversize else SIDE
    scene = compose(rng, word, size=(side, side))
    if side != SIDE:
        scale = SIDE / side
        scene.image = scene.image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        scene.owner = scene.owner.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        if scene.letters:
            scene.letters = scene.letters.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        for item in scene.items:
            item.box = tuple(c * scale for c in item.box)
    return scene


def patch_labels(scene):
    """Labels each patch of a SIDE x SIDE scene.

    Returns three int64 arrays of GRID * GRID entries: the class (0 background,
    1 + class index, or 1 + number of classes + letter), the role (0 background,
    1 main, 2 small, 3 word) and the word's index (-1 where there is none).
    """
    def blocks(image):
        a = np.asarray(image).reshape(GRID, PATCH, GRID, PATCH)
        return a.transpose(0, 2, 1, 3).reshape(GRID * GRID, PATCH * PATCH)

    classes = np.zeros(GRID * GRID, np.int64)
    roles = np.zeros(GRID * GRID, np.int64)
    words = np.full(GRID * GRID, -1, np.int64)
    if scene.letters:
        map_ = blocks(scene.letters)
        best = np.median(map_, axis=1).astype(np.int64)
        inside = best > 0
        classes[inside] = len(sprites.NAMES) + best[inside]
        roles[inside] = 3
        words[inside] = WORDS.index(scene.word)
    owner = blocks(scene.owner)
    shares = np.stack([(owner == i + 1).sum(1) for i in range(len(scene.items))] or
                      [np.zeros(GRID * GRID)])
    for i, item in enumerate(scene.items):
        inside = (shares[i] >= 0.3 * PATCH * PATCH) & (shares.argmax(0) == i)
        classes[inside] = 1 + sprites.NAMES.index(item.name)
        roles[inside] = 1 if item is scene.main else 2
    return classes, roles, words
