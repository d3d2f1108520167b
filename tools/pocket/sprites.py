"""The picture material: classes, their stamps (photographs) and emoji (drawings).

Each line of CLASSES reads

    category name | photographs | drawings

A photograph is a path below STAMP_DIR without ".png"; a drawing is either such
a path (the cartoon stamps) or a hexadecimal code point of Noto Color Emoji.
A trailing "*" holds the picture out: it is never shown in training and is used
only for the "held-out pictures of known classes" part of the evaluation.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

STAMP_DIR = Path("/usr/share/tuxpaint/stamps")
EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SPRITE_SIZE = 160  # longest side of a prepared sprite, in pixels

CLASSES = """
animal frog | animals/amphibians/frog animals/amphibians/frog-1* | 1F438
animal penguin | animals/birds/penguin animals/birds/magellanic_penguin animals/birds/little-penguin* | 1F427 animals/birds/cartoon/pengwin*
animal chicken | animals/birds/hen animals/birds/chicken_profile | 1F414
animal duck | animals/birds/duck animals/birds/drake* | 1F986
animal owl | animals/birds/owl | 1F989
animal peacock | animals/birds/peacock | 1F99A
animal flamingo | animals/birds/pink_flamingo | 1F9A9
animal parrot | animals/birds/adelaide-rosella animals/birds/rainbow-lorikeet* | 1F99C
animal fish | animals/fish/bluegroper animals/fish/butterflyfish animals/fish/stripedfish animals/fish/clownfish animals/fish/coraltrout* | 1F41F 1F420*
animal lobster | animals/fish/lobster | 1F99E
animal bee | animals/insects/bee | 1F41D
animal butterfly | animals/insects/xanthia | 1F98B animals/insects/cartoon/butterfly
animal ladybug | | 1F41E animals/insects/cartoon/ladybug animals/insects/cartoon/ladybug-2*
animal snail | | 1F40C animals/insects/cartoon/snail animals/insects/cartoon/snail2*
animal monkey | animals/mammals/apes/chimp | 1F412 1F435
animal dolphin | animals/mammals/aquatic/dolphin | 1F42C
animal whale | animals/mammals/aquatic/whale | 1F433 1F40B*
animal bear | animals/mammals/bears/bear animals/mammals/bears/european-bear* | 1F43B
animal cow | animals/mammals/bovines/cow animals/mammals/bovines/cow_white* | 1F404 1F42E
animal sheep | animals/mammals/bovines/sheep animals/mammals/bovines/sheep_lamb | 1F411
animal camel | animals/mammals/camel/camel animals/mammals/camel/dromedary* | 1F42B 1F42A*
animal lion | animals/mammals/cats/lion animals/mammals/cats/lion-2* | 1F981
animal tiger | animals/mammals/cats/tiger animals/mammals/cats/tiger_sumatran* | 1F405 1F42F
animal cat | | 1F408 1F431 seasonal/halloween/blackcat
animal deer | animals/mammals/deer/deer animals/mammals/deer/doe* | 1F98C
animal dog | animals/mammals/dogs/dog animals/mammals/dogs/dingo* | 1F415 1F436
animal fox | animals/mammals/dogs/fox | 1F98A
animal horse | animals/mammals/equines/horse | 1F40E 1F434
animal zebra | animals/mammals/equines/zebra | 1F993
animal elephant | animals/mammals/elephant | 1F418
animal giraffe | animals/mammals/giraffe | 1F992
animal hedgehog | | 1F994 animals/mammals/hedgehog
animal pig | animals/mammals/pig_golden animals/mammals/pig animals/mammals/pig_golden2* | 1F416 1F437
animal rabbit | animals/mammals/rodents/rabbit animals/mammals/rodents/rabbit-2 animals/mammals/rabbit_little* | 1F407 1F430
animal squirrel | animals/mammals/rodents/squirrel | 1F43F
animal kangaroo | animals/marsupials/kangaroo | 1F998
animal koala | animals/marsupials/koala | 1F428
food apple | food/fruit/apple_red food/fruit/apple_green food/fruit/apple_fuji food/fruit/apple_sierra_beauty food/fruit/apple_granny_smith* | 1F34E 1F34F food/fruit/cartoon/apple*
food banana | food/fruit/banana | 1F34C food/fruit/cartoon/banana
food strawberry | food/fruit/strawberry food/fruit/Strawberry2* | 1F353 food/fruit/cartoon/strawberry*
food lemon | food/fruit/lemon | 1F34B food/fruit/cartoon/lemon
food orange | food/fruit/orange food/fruit/orange_seville food/fruit/mandarine* | 1F34A food/fruit/cartoon/orange
food pear | food/fruit/pear | 1F350 food/fruit/cartoon/pear*
food pineapple | food/fruit/pineapple | 1F34D food/fruit/cartoon/pineapple*
food pizza | | 1F355 food/pizza
food broccoli | food/vegetables/broccoli | 1F966
food carrot | food/vegetables/carrot | 1F955
food corn | food/vegetables/corn | 1F33D
food tomato | food/vegetables/tomato | 1F345
food mushroom | food/vegetables/mushroom plants/mushrooms/cep plants/mushrooms/cep-1 plants/mushrooms/cep-2* | 1F344
food pepper | food/vegetables/pepper food/vegetables/yellowpepper* | 1FAD1
food cake | | 1F382 1F370 food/dessert/cartoon/birthday_cake food/dessert/cartoon/pink_cake*
instrument trumpet | hobbies/music/brass/trumpet | 1F3BA
instrument drum | hobbies/music/percussion/drum_tomtom_floor | 1F941
instrument guitar | hobbies/music/string/guitar_classical hobbies/music/string/guitar_electric hobbies/music/string/guitar2* | 1F3B8
instrument violin | hobbies/music/string/violin hobbies/music/string/cello* | 1F3BB
tool hammer | household/tools/hammer | 1F528
tool saw | household/tools/saw | 1FA9A
tool wrench | household/tools/wrench household/tools/wrench_adjustable* | 1F527
tool scissors | household/arttools/scissors_small_open household/arttools/scissors_small_closed | 2702
tool key | household/key | 1F511 1F5DD*
household camera | hobbies/camera_35mm | 1F4F7
household candle | seasonal/candle | 1F56F
household toilet | household/toilet | 1F6BD
household clock | | 1F553 1F570 symbols/clockface
garment sock | clothes/t_sock | 1F9E6
garment glove | clothes/t_glove | 1F9E4
ball basketball | sports/basketball | 1F3C0
ball football | sports/soccer | 26BD
vehicle car | vehicles/auto/beetle vehicles/auto/sedan vehicles/auto/sportscar2* | 1F697 1F698
vehicle truck | vehicles/auto/truck vehicles/garbagetruck | 1F69A
vehicle bus | vehicles/masstransit/green_korean_bus | 1F68C vehicles/masstransit/cartoon/double_decker_bus*
vehicle tractor | | 1F69C vehicles/farming/cartoon/tux_tractor*
vehicle plane | vehicles/flight/planes/747 | 2708 vehicles/flight/planes/cartoon/plane
vehicle boat | vehicles/ship/chineseJunk | 26F5
plant rose | plants/flowers/rose | 1F339
plant palm | plants/trees/liberia-palm | 1F334
plant tree | plants/trees/holm_oak plants/trees/birch | 1F333
"""


@dataclass(frozen=True)
class Picture:
    """One source picture of a class."""

    name: str  # class name
    look: str  # "photo" or "drawing"
    source: str  # stamp path or emoji code point
    held_out: bool


def _parse():
    categories, pictures = {}, []
    for line in CLASSES.strip().splitlines():
        head, photos, drawings = line.split("|")
        category, name = head.split()
        categories[name] = category
        for look, sources in (("photo", photos), ("drawing", drawings)):
            for source in sources.split():
                pictures.append(Picture(name, look, source.rstrip("*"), source.endswith("*")))
    return categories, tuple(pictures)


CATEGORY, PICTURES = _parse()
NAMES = tuple(sorted(CATEGORY))
CATEGORIES = tuple(sorted(set(CATEGORY.values())))


def _emoji(code_point):
    """Renders one emoji from the font's own 136x128 colour bitmaps."""
    font = ImageFont.truetype(EMOJI_FONT, 109)
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((8, 8), chr(int(code_point, 16)), font=font, embedded_color=True)
    return image


@lru_cache(maxsize=None)
def load(picture):
    """Returns the picture as RGBA, cropped to its visible part, longest side SPRITE_SIZE."""
    stamp = STAMP_DIR / f"{picture.source}.png"
    image = Image.open(stamp).convert("RGBA") if stamp.exists() else _emoji(picture.source)
    visible = image.getchannel("A").point(lambda a: 255 if a > 24 else 0)
    image = image.crop(visible.getbbox())
    scale = SPRITE_SIZE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def pictures_of(name, held_out=False):
    """The training pictures of a class, or its held-out ones."""
    return [p for p in PICTURES if p.name == name and p.held_out == held_out]
