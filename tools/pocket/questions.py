"""Questions about a scene, with their answers.

Wordings marked as the first of a list are those the evaluation asks; training
also uses the others. Every question stands alone: it is one turn.
"""

from dataclasses import dataclass

import scenes
import sprites

MAIN = ("What is the main object in the image?",
        "What is the main object in the image? Answer in one word.",
        "What is the main object in this picture?",
        "Name the main object.",
        "Which object is shown in the image? Answer the question using a single word or phrase.")
THERE = ("Is there {} in the image?", "Is there {} in the image? Answer yes or no.",
         "Is there {} in this picture?")
READ = ("What word is written in the image?", "Read the word in the picture.",
        "What does the text say? Answer in one word.")
SIDE_OF_IMAGE = "Is the {} on the left or right side of the image?"
LIST = ("List the objects in the image.", "Which objects are in the image?")
DESCRIBE = ("Please describe this image in detail.", "Describe the image.")
LETTER_HINT = "Answer with the option's letter from the given choices directly."
CLEAR_OF_MIDDLE = 0.2  # a centre this share of the width off the middle is clearly left or right
TASKS = ("main", "yesno", "choice", "choice_text", "read", "leftright", "list", "describe")


@dataclass(frozen=True)
class Question:
    """One turn. `about` is the class the question is about, where there is one."""

    task: str
    prompt: str
    answer: str
    about: str = ""


def with_article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _one(rng, options, first_only):
    return options[0] if first_only else options[rng.integers(len(options))]


def _others(rng, pool, banned, count):
    pool = [p for p in pool if p not in banned]
    return [pool[i] for i in rng.permutation(len(pool))[:count]]


def main_object(rng, scene, plain=False):
    return Question("main", _one(rng, MAIN, plain), scene.main.name, scene.main.name)


def there(rng, scene, plain=False, present=None):
    """Asks for an object that is there (any of them) or not, equally often."""
    if present is None:
        present = bool(scene.items) and rng.random() < 0.5
    name = (scene.items[rng.integers(len(scene.items))].name if present
            else _others(rng, sprites.NAMES, scene.names, 1)[0])
    return Question("yesno", _one(rng, THERE, plain).format(with_article(name)),
                    "yes" if present else "no", name)


def _options(rng, task, question, right, wrong, about, hint=True):
    letters = "ABCD"
    options = [right, *wrong]
    order = rng.permutation(len(options))
    lines = [f"{letters[i]}. {options[j]}" for i, j in enumerate(order)]
    answer = letters[list(order).index(0)]
    tail = [LETTER_HINT] if hint else []
    return Question(task, "\n".join([question, *lines, *tail]), answer, about)


def choice(rng, scene, plain=False):
    """A multiple-choice question that needs the picture."""
    hint = plain or rng.random() < 0.5
    if scene.word:
        wrong = _others(rng, scenes.WORDS, {scene.word}, 3)
        return _options(rng, "choice", "Which word is written in the image?", scene.word, wrong,
                        scene.word, hint)
    main = scene.main.name
    form = rng.integers(3)
    if form == 0:
        right = sprites.CATEGORY[main]
        wrong = _others(rng, sprites.CATEGORIES, {right}, 3)
        return _options(rng, "choice", "What kind of thing is the main object?", right, wrong,
                        main, hint)
    if form == 1:
        right = scene.items[rng.integers(len(scene.items))].name
        question = "Which of these is in the image?"
        banned = scene.names
    else:
        right, question, banned = main, "What is the main object?", {main}
    wrong = _others(rng, sprites.NAMES, banned, 3)
    if form == 2 and len(scene.items) > 1 and rng.random() < 0.5:
        wrong[0] = scene.items[1].name
        wrong[1:] = _others(rng, sprites.NAMES, {main, wrong[0]}, 2)
    return _options(rng, "choice", question, right, wrong, right, hint)


def choice_text(rng, plain=False):
    """A multiple-choice question that the text alone answers."""
    category = sprites.CATEGORIES[rng.integers(len(sprites.CATEGORIES))]
    inside = [n for n in sprites.NAMES if sprites.CATEGORY[n] == category]
    right = inside[rng.integers(len(inside))]
    kind = "household object" if category == "household" else category
    question = f"Which of these is {with_article(kind)}?"
    return _options(rng, "choice_text", question, right, _others(rng, sprites.NAMES, inside, 3),
                    right, plain or rng.random() < 0.5)


def read(rng, scene, plain=False):
    return Question("read", _one(rng, READ, plain), scene.word, scene.word)


def left_right(rng, scene, least=CLEAR_OF_MIDDLE):
    """On which side of the image an object is; None when no object is clearly on one."""
    left, right = _span(scene)
    offsets = [(item.name, (item.x - left) / (right - left) - 0.5) for item in scene.items]
    clear = [case for case in offsets if abs(case[1]) > least]
    if not clear:
        return None
    name, offset = clear[rng.integers(len(clear))]
    return Question("leftright", SIDE_OF_IMAGE.format(name), "left" if offset < 0 else "right", name)


def _span(scene):
    """Left and right edge of the central square, where the objects are."""
    if scene.image is None:
        return 0, scenes.SIDE
    width, height = scene.image.size
    side = min(width, height)
    return (width - side) / 2, (width + side) / 2


def ordered(scene):
    """The main object first, the others from left to right."""
    rest = sorted(scene.items[1:], key=lambda item: item.x)
    return [scene.items[0], *rest]


def list_objects(rng, scene, plain=False):
    answer = ", ".join(item.name for item in ordered(scene))
    return Question("list", _one(rng, LIST, plain), answer, scene.main.name)


def describe(rng, scene, plain=False):
    """A caption: look, main object, small objects from left to right, background."""
    if scene.word:
        text = f"the word {scene.word}"
        small = sorted(scene.items, key=lambda item: item.x)
    else:
        text = f"a {scene.main.picture.look} of a large {scene.main.name}"
        small = ordered(scene)[1:]
    if small:
        text += " with " + " and ".join(f"a small {item.name}" for item in small)
    text += f" on a {scene.background} background."
    return Question("describe", _one(rng, DESCRIBE, plain), text,
                    "" if scene.word else scene.main.name)


def turns(rng, scene):
    """A random training mix of about six turns for one scene, in random order."""
    def sometimes(share, ask, *more):
        return [ask(rng, *more)] if rng.random() < share else []

    asked = [left_right(rng, scene, CLEAR_OF_MIDDLE / 2) for _ in range(6)]
    asked += sometimes(0.5, choice, scene) + sometimes(0.2, choice_text)
    asked += sometimes(0.15, describe, scene)
    if scene.word:
        asked += [read(rng, scene), there(rng, scene)]
    else:
        asked += [there(rng, scene, present=present) for present in (True, False)]
        asked += sometimes(0.5, main_object, scene) + sometimes(0.3, list_objects, scene)
    different = list({q.prompt: q for q in asked if q}.values())
    return [different[i] for i in rng.permutation(len(different))]


def vocabulary():
    """Every word the questions and answers can use, for the tokenizer."""
    text = " ".join([*MAIN, *THERE, *READ, SIDE_OF_IMAGE, *LIST, *DESCRIBE,
                     LETTER_HINT, "Which word is written in the image?",
                     "What kind of thing is the main object? Which of these is a an in",
                     "the word a photo drawing of a large small with and on a background yes no",
                     "A B C D left right USER ASSISTANT"])
    words = set(text.replace("{}", "").replace("?", "").replace(".", "").replace(",", "").split())
    words |= {*sprites.NAMES, *sprites.CATEGORIES, *scenes.WORDS, *scenes.BACKGROUNDS}
    return sorted(w.replace("'s", "") for w in words)
