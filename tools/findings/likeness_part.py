"""Finding about head scores of different pictures: are they alike by what is shown, or by how it is shown?"""

import numpy as np

import rundata  # noqa: F401 (makes tools/pocket importable)
import sprites
from stats import REPEATS, Bootstrap, Estimate, cosine
from svg import COLOURS, Figure, Panel, nice
from text import table, verdict

TESTS = (("class", "same class minus other class"), ("appearance", "same look minus other look, inside classes"),
         ("semantics", "same class in the other look minus other class in the same look"))
PAIRS = (("class", "within", "same class"), ("class", "between", "other class"),
         ("semantics", "same_class_other_appearance", "same class, other look"),
         ("semantics", "other_class_same_appearance", "other class, same look"))


def estimate(test):
    """A test of `sightline compare`."""
    return Estimate(test["value"], test["low"], test["high"], 0, test.get("effect") or float("nan"))


def paired_likeness(data):
    """Per photo/drawing pair: likeness of the two, and of the photo to drawings of other classes in that layout number."""
    scores = {(s.record["class"], s.record["layout"], s.look): s.tensor["heads.score"].ravel() for s in data.main}
    rows, units = [], []
    for (name, layout, look), score in scores.items():
        own = scores.get((name, layout, "drawing"))
        if look != "photo" or own is None:
            continue
        others = [cosine(score, v) for (n, k, o), v in scores.items() if n != name and k == layout and o == "drawing"]
        rows.append(cosine(score, own) - np.mean(others))
        units.append(name)
    return Bootstrap(units).mean(rows)


def class_means(data):
    """Mean scores of every class, of length 1, and the classes' categories."""
    names = sorted({s.unit for s in data.main})
    means = np.stack([np.mean([s.tensor["heads.score"].ravel() for s in data.main if s.unit == n], axis=0) for n in names])
    return means / np.linalg.norm(means, axis=1, keepdims=True), np.array([sprites.CATEGORY[n] for n in names])


def category_likeness(data):
    """Classes of one category against classes of two: difference of mean cosines, its p, and how many categories.

    No two of these classes share their answer word. Classes are resampled; p permutes categories over classes.
    """
    vectors, categories = class_means(data)
    alike = vectors @ vectors.T

    def sides(index, labels):
        pair = np.triu(index[:, None] != index[None, :], 1)
        same = labels[:, None] == labels[None, :]
        cosines = alike[np.ix_(index, index)]
        return cosines[pair & same], cosines[pair & ~same]

    def difference(index, labels):
        inside, outside = sides(index, labels)
        return inside.mean() - outside.mean() if len(inside) and len(outside) else np.nan

    every, rng = np.arange(len(vectors)), np.random.default_rng(1)
    inside, outside = sides(every, categories)
    value = difference(every, categories)
    drawn = (rng.integers(len(vectors), size=len(vectors)) for _ in range(REPEATS))
    low, high = np.nanpercentile([difference(i, categories[i]) for i in drawn], (2.5, 97.5))
    reached = sum(difference(every, rng.permutation(categories)) >= value for _ in range(REPEATS))
    spread = np.sqrt((inside.var() * len(inside) + outside.var() * len(outside)) / (len(inside) + len(outside) - 2))
    return Estimate(value, low, high, len(vectors), value / spread), (1 + reached) / (1 + REPEATS), len(set(categories))


def draw(result, path):
    """Mean likeness of kinds of pairs."""
    figure = Figure(600, 190)
    values = [result[test][side]["mean"] for test, side, _ in PAIRS]
    low = min(values) - 0.1
    panel = Panel(figure, (170, 30, 560, 140), (low, 1), (3.5, -0.5), "cosine of head scores", "mean over pairs")
    panel.ticks(nice(low, 1), range(4), ynames=[words for _, _, words in PAIRS])
    for i, value in enumerate(values):
        panel.dot(value, i, COLOURS[i % 2])
        figure.text(panel.x(value) + 8, panel.y(i) + 4, f"{value:.3f}")
    panel.mark(x=result["ceiling"])
    figure.text(panel.x(result["ceiling"]), 26, "ceiling", "middle")
    figure.save(path)


def semantics(data, figures):
    """Are head scores alike by what is shown or by how it is shown?"""
    result = data.compare["analyses"]["compare"]
    rows = []
    for key, words in TESTS:
        for measure in ("cosine", "spearman", "jaccard"):
            test = estimate(result[measure][key])
            rows.append([words if measure == "cosine" else "", measure, test.text(3), f"{test.d:.2f}".replace("-", "\u2212"),
                         f"{result[measure][key]['p']:.4f}"])
    lines = []
    if "partial" in result["cosine"]:
        by_class, by_looks = (estimate(result["cosine"]["partial"][k]) for k in ("class_given_visual", "visual_given_class"))
        lines = ["Partial correlation of the likeness of head scores with *same class*, given the likeness of the vision tower's "
                 f"features: {by_class.text(3)}; with the tower's likeness, given *same class*: {by_looks.text(3)}.", ""]
    pairs = paired_likeness(data)
    category, p, count = category_likeness(data)
    draw(result["cosine"], figures / "likeness.svg")
    tests = {key: result["cosine"][key] for key, _ in TESTS}
    return [
        *table(["likeness of head scores", "measure", "difference", "d", "p"], rows), "",
        f"A photo and the drawing of its class in the same layout are more alike than the photo and drawings of other classes by "
        f"{pairs.text(3)} in cosine ({pairs.count} pairs, classes resampled, {pairs.effect()}). Mean cosine of all pairs "
        f"{result['cosine']['mean']:.3f}; ceiling from split halves {result['cosine']['ceiling']:.3f}.", "", *lines,
        f"Without a shared answer word: mean scores of different classes of one category ({category.count} classes, {count} "
        f"categories) against classes of two categories, difference in cosine {category.text(3)}, {category.effect()}, "
        f"p = {p:.4f} (categories permuted over classes, classes resampled).", "",
        verdict((tests["semantics"]["low"] > 0, "same class in the other look is more alike than other class in the same look"),
                (tests["class"]["value"] > max(tests["appearance"]["value"], 0), "class matters more than look"))]
