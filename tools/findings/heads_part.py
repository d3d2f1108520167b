"""Findings about heads: single ablation, where they are, attention weight, the baseline."""

import numpy as np

from stats import Bootstrap, cosine, pearson, spearman
from svg import COLOURS, Figure, Panel, heat_map, legend, nice
from text import table, verdict

RANKINGS = ("attribution", "single ablation", "attention weight", "attribution patching", "random", "layer-matched random")
CURVE_COLOURS = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[7], COLOURS[5])
CURVE_NUMBERS = (("smallest_faithful", "heads needed for 90 % of the effect", 1),
                 ("smallest_complete", "heads to ablate for a loss of 90 %", 1),
                 ("area_faithful", "area under faithfulness", 3), ("area_complete", "area under completeness", 3))
TOP = 5


def effect(scene, mark=""):
    """What the picture adds to the target: t(all) - t(none)."""
    heads = scene.analyses[mark + "heads"]
    return heads["all"] - heads["none"]


# ---- single-head ablation ----


def mask_prediction(scene):
    """Held-out masks: Pearson of the true targets with attribution's and with single ablation's prediction."""
    heads, masks = scene.analyses["heads"], scene.tensor["heads.masks"].astype(float)
    test = np.arange(len(masks)) % 10 == 9
    true = scene.tensor["heads.target"][test]
    summed = heads["all"] - (1 - masks[test]) @ scene.tensor["heads.single"].ravel()
    return pearson(true, scene.tensor["heads.predicted"]), pearson(true, summed)


def rankings(scene, name):
    """A number of every ranking of the curves, in the order of RANKINGS; all heads where a curve never gets there."""
    rows = scene.analyses["heads"]["curves"]["rankings"]
    total = scene.tensor["heads.score"].size
    return [total if row[name] is None else row[name] for row in rows]


def draw_curves(data, path):
    """Faithfulness and completeness over the number of heads."""
    figure = Figure(780, 290)
    steps = data.whole[0].tensor["heads.steps"]
    for i, (name, what) in enumerate((("faithfulness", "heads kept"), ("completeness", "heads ablated"))):
        panel = Panel(figure, (60 + i * 290, 30, 300 + i * 290, 240), (0, steps[-1]), (-0.05, 1.1), name, what,
                      "" if i else "share of the picture\u2019s effect")
        panel.ticks(range(0, steps[-1] + 1, 24), (0, 0.5, 0.9, 1))
        curves = np.stack([np.vstack([s.tensor[f"heads.{name}"], s.tensor[f"heads.{name}_rivals"]]) for s in data.whole])
        for row, colour in enumerate(CURVE_COLOURS):
            panel.curve(steps, *data.whole_boot.band(curves[:, row]), colour)
    legend(figure, 620, 60, RANKINGS, CURVE_COLOURS)
    figure.save(path)


def single_ablation(data, figures):
    """Does ablating one head at a time tell which heads carry the picture?"""
    boot, scenes = data.whole_boot, data.whole
    total = np.array([effect(s) for s in scenes])
    single = np.stack([s.tensor["heads.single"].ravel() for s in scenes])
    largest, summed = boot.mean(single.max(1) / total), boot.mean(single.sum(1) / total)
    alike = boot.mean([spearman(s.tensor["heads.single"], s.tensor["heads.score"]) for s in scenes])
    rows, gaps = [], {}

    def add(name, words, values, digits):
        gaps[name] = boot.mean(values[:, 0] - values[:, 1])
        rows.append([words, *(boot.mean(values[:, i]).text(digits) for i in (0, 1)),
                     f"{gaps[name].text(digits)}, {gaps[name].effect()}"])

    add("masks", "held-out masks, Pearson of prediction and truth", np.array([mask_prediction(s) for s in scenes]), 2)
    for name, words, digits in CURVE_NUMBERS:
        add(name, words, np.array([rankings(s, name)[:2] for s in scenes], float), digits)
    draw_curves(data, figures / "heads-curves.svg")
    small = summed.below(0.5) and largest.below(0.25)
    worse = all(gaps[name].above(0) for name in ("masks", "area_faithful", "area_complete"))
    return [
        f"The largest single-head effect is {largest.percent()} of what the picture adds; all {single.shape[1]} single-head "
        f"effects together are {summed.percent()} of it (100 % if heads worked alone). Rank correlation of single-head effect "
        f"and attribution: {alike.text()}.", "",
        *table(["", "attribution", "single ablation", "difference (paired)"], rows), "",
        verdict((small, "single heads are compensated for (largest effect under 25 %, sum under 50 %)"),
                (worse, "single ablation is worse than attribution at predicting held-out masks and at ordering heads for "
                 "faithfulness and for completeness"))]


# ---- where they are ----


def layer_share(score):
    """Share of the helping (positive) scores in every layer."""
    helping = np.maximum(score, 0).sum(1)
    return helping / helping.sum()


def draw_map(data, share, path):
    """Mean score of every head, and the layers' shares."""
    figure = Figure(640, 330)
    figure.text(50, 20, "score / picture\u2019s effect, mean over scenes", cls="title")
    heat_map(figure, (50, 30, 290, 290), np.mean([s.tensor["heads.score"] / effect(s) for s in data.main], axis=0))
    figure.text(170, 320, "head", "middle")
    figure.text(4, 165, "layer")
    value, low, high = data.main_boot.band(share)
    panel = Panel(figure, (370, 30, 620, 290), (0, max(high) * 1.05), (len(value) - 0.5, -0.5),
                  "share of helping scores by layer")
    panel.ticks(nice(0, max(high)), range(len(value)), ynames=range(len(value)))
    for i, v in enumerate(value):
        figure.rect(370, panel.y(i) - 7, panel.x(v) - 370, 14, COLOURS[0], 0.6)
        figure.line([(panel.x(low[i]), panel.y(i)), (panel.x(high[i]), panel.y(i))], "#8b949e", 2)
    figure.save(path)


def where(data, figures):
    """In which layers are the heads that carry the picture?"""
    boot = data.main_boot
    share = np.stack([layer_share(s.tensor["heads.score"]) for s in data.main])
    layers, third = share.shape[1], share.shape[1] // 3
    depth, centre = (layers - 1) / 2, share @ np.arange(layers)
    middle, beyond = boot.mean(centre), boot.mean(centre - depth)
    parts = [boot.mean(share[:, a:b].sum(1)) for a, b in ((0, third), (third, 2 * third), (2 * third, layers))]
    scores = np.stack([s.tensor["heads.score"].ravel() for s in data.main])
    top = np.argsort(-scores, axis=1)[:, :TOP] // (scores.shape[1] // layers)
    common = np.argsort(-np.bincount(top.ravel(), minlength=layers))[:3]
    draw_map(data, share, figures / "heads-map.svg")
    return [
        f"Centroid layer of the helping scores: {middle.text()}; evenly spread it would be {depth:.1f} (difference "
        f"{beyond.text()}, {beyond.effect()}). Early, middle and late third of the layers hold "
        f"{', '.join(p.percent() for p in parts)} of them. The {TOP} heads with the largest scores lie in layer "
        f"{boot.mean(top.mean(1)).text(1)} on average, most often in layers "
        f"{', '.join(f'{layer} ({100 * (top == layer).mean():.0f} %)' for layer in common)}.", "",
        verdict((middle.above(depth), "the centroid lies above the middle of the model"),
                (parts[0].below(1 / 3), "the first third of the layers holds less than a third of the scores"))]


# ---- attention weight ----


def mean_attention(scene):
    """Attention on the image per head, mean over the positions behind it."""
    return scene.tensor["heads.attention"]


def final_attention(scene):
    """The same of the final token alone."""
    return scene.tensor["flow.share_heads"][:, :, 0, 1]


def draw_attention(data, path):
    """Mean attention on the image against mean score, a dot per head."""
    score = np.mean([s.tensor["heads.score"] / effect(s) for s in data.main], axis=0)
    attention = np.mean([final_attention(s) for s in data.main], axis=0)
    figure = Figure(460, 300)
    low, high = float(min(score.min(), 0)), float(score.max())
    panel = Panel(figure, (60, 30, 340, 250), (0, 1), (low * 1.1, high * 1.1), "one dot per head, mean over scenes",
                  "attention of the final token on the image", "score / picture\u2019s effect")
    panel.ticks((0, 0.25, 0.5, 0.75, 1), nice(low, high))
    third, colours = len(score) // 3, (COLOURS[5], COLOURS[2], COLOURS[1])
    for (layer, head), value in np.ndenumerate(score):
        panel.dot(float(attention[layer, head]), float(value), colours[min(layer // third, 2)],
                  title=f"layer {layer} head {head}")
    bounds = ((0, third), (third, 2 * third), (2 * third, len(score)))
    legend(figure, 350, 50, [f"layers {a}\u2013{b - 1}" for a, b in bounds], colours)
    figure.save(path)


def attention_weight(data, figures):
    """Does a head's attention on the image say what it carries?"""
    boot, rows, weak = data.main_boot, [], []
    for words, weight in (("mean over the positions behind the image", mean_attention),
                          ("final token alone", final_attention)):
        pairs = [(weight(s), s.tensor["heads.score"]) for s in data.main]
        ranked = boot.mean([spearman(*p) for p in pairs])
        linear = boot.mean([pearson(*p) for p in pairs])
        absolute = boot.mean([spearman(a, np.abs(b)) for a, b in pairs])
        rows.append([words, ranked.text(), linear.text(), absolute.text()])
        weak.append(ranked.below(0.3))
    areas = np.array([rankings(s, "area_faithful") for s in data.whole])
    to_scores, to_random = (data.whole_boot.mean(areas[:, 2] - areas[:, i]) for i in (0, 4))
    heads = np.array([rankings(s, "smallest_faithful") for s in data.whole], float)
    by_attention, by_score, by_chance = (data.whole_boot.mean(heads[:, i]).text(1) for i in (2, 0, 4))
    draw_attention(data, figures / "heads-attention.svg")
    return [
        *table(["attention on the image", "Spearman with the score", "Pearson with the score",
                "Spearman with the absolute score"], rows), "",
        f"Keeping the heads with most attention (first row) needs {by_attention} heads for 90 % of the effect, keeping those with the "
        f"largest score {by_score}, a random order {by_chance}. Area under faithfulness, attention minus attribution: "
        f"{to_scores.text(3)} ({to_scores.effect()}); attention minus random: {to_random.text(3)} ({to_random.effect()}).", "",
        verdict((weak[0], "rank correlation of score and attention under 0.3, mean over the positions behind the image"),
                (weak[1], "the same for the final token alone"))]


# ---- the baseline ----


def baselines(data, _figures):
    """The same scenes with the image hidden instead of replaced by the calibration mean."""
    scenes = [s for s in data.main if "heads-block/heads.score" in s.tensor]
    boot, marks = Bootstrap([s.unit for s in scenes]), ("", "heads-block/")
    scores = [[s.tensor[f"{m}heads.score"] for s in scenes] for m in marks]
    centre = [boot.mean([layer_share(b) @ np.arange(len(b)) for b in of]) for of in scores]
    summed = [boot.mean([s.tensor[f"{m}heads.single"].sum() / effect(s, m) for s in scenes]) for m in marks]
    largest = [boot.mean([s.tensor[f"{m}heads.single"].max() / effect(s, m) for s in scenes]) for m in marks]
    weight = [boot.mean([spearman(mean_attention(s), b) for s, b in zip(scenes, of)]) for of in scores]
    return [
        f"Scores with the two baselines, {len(scenes)} scenes: cosine {boot.mean([cosine(*p) for p in zip(*scores)]).text()}, "
        f"Spearman {boot.mean([spearman(*p) for p in zip(*scores)]).text()}.", "",
        *table(["", "mean", "block"],
               [["centroid layer of helping scores", *(c.text() for c in centre)],
                ["largest single-head effect / picture's effect", *(s.percent() for s in largest)],
                ["all single-head effects / picture's effect", *(s.percent() for s in summed)],
                ["Spearman of attention and score", *(w.text() for w in weight)]])]
