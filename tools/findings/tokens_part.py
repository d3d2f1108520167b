"""Findings about tokens: who receives the picture, in what order, and which image tokens give it."""

import numpy as np

from stats import centroid
from svg import COLOURS, Figure, Panel, legend, nice
from text import table, verdict

CLASSES = ("question", "role", "final")
EDGES = ("role+final<-question", "role+final<-image", "question<-image")


def draw_shares(shares, boot, path):
    """What question, role and final tokens take, from the text side of token attribution."""
    figure = Figure(460, 150)
    panel = Panel(figure, (80, 30, 420, 105), (0, 1), (2.5, -0.5), "share of the helping text-side scores")
    panel.ticks((0, 0.25, 0.5, 0.75, 1), range(3), ynames=CLASSES)
    mean, low, high = boot.band(shares)
    for i in range(3):
        panel.dot(mean[i], i, COLOURS[i], low[i], high[i], title=f"{mean[i]:.3f}")
    figure.save(path)


def receivers(data, figures):
    """Which tokens behind the image take its information?"""
    shares = np.array([[s.analyses["tokens"]["text"]["share"][c] for c in CLASSES] for s in data.whole], float)
    draw_shares(shares, data.whole_boot, figures / "tokens-text.svg")
    means = [data.whole_boot.mean(shares[:, i]) for i in range(3)]
    both = data.whole_boot.mean(shares[:, 1] + shares[:, 2])
    count = len(data.whole[0].analyses["tokens"]["text"]["positions"])
    fit = data.whole_boot.mean([s.analyses["tokens"]["text"]["regression"]["fit"]["pearson"] for s in data.whole])
    parts = ", ".join(f"{c} {m.percent(1)}" for c, m in zip(CLASSES, means))
    return [
        f"Shares of the helping scores: {parts}; role and final together {both.percent(1)}, where an even spread over the "
        f"{count} positions would give {200 / count:.0f} % (held-out masks: Pearson {fit.text()}).", "",
        verdict((both.above(0.5), "role and final tokens take more than half"),
                (means[1].above(1 / count), "the role tokens before the final one take more than an even share"))]


def edge_curves(scenes, name):
    """Change of the answer's probability by window centre: [scenes, L]."""
    return np.array([next(e["change"] for e in s.analyses["knockout"]["edges"] if e["edge"] == name) for s in scenes], float)


def draw_knockout(curves, boot, path):
    """Mean change per edge and window centre."""
    figure = Figure(640, 280)
    bands = [boot.band(c) for c in curves]
    low = min(b[1].min() for b in bands)
    top = max(0.02, max(b[2].max() for b in bands) * 1.08)
    layers = curves[0].shape[1]
    panel = Panel(figure, (70, 30, 440, 230), (0, layers - 1), (low * 1.08, top),
                  "edges blocked in a window of layers", "centre of the window", "change of the answer\u2019s probability")
    panel.ticks(range(layers), nice(low, top))
    for band, colour in zip(bands, COLOURS):
        panel.curve(range(layers), *band, colour)
    legend(figure, 455, 60, [e.replace("<-", " \u2190 ") for e in EDGES])
    figure.save(path)


def order(data, figures):
    """Does the question reach the role and final tokens before the picture does?"""
    scenes, boot = data.main, data.main_boot
    curves = [edge_curves(scenes, e) for e in EDGES]
    draw_knockout(curves, boot, figures / "knockout.svg")
    rows, strongest = [], []
    for edge, curve in zip(EDGES, curves):
        middle = boot.of_mean(curve, centroid)
        lowest = boot.of_mean(curve, lambda m: m.min(-1))
        strongest.append(lowest)
        rows.append([edge.replace("<-", " \u2190 "), middle.text(), f"layer {int(curve.mean(0).argmin())}", lowest.percent(1)])
    layers = curves[0].shape[1]
    gap = boot.of_mean(np.hstack(curves[:2]), lambda m: centroid(m[..., layers:]) - centroid(m[..., :layers]))
    own = np.array([centroid(b) - centroid(a) for a, b in zip(*curves[:2]) if max(a.min(), b.min()) < -0.01])
    alone = (f"In {100 * np.mean(own > 0):.0f} % of the {len(own)} scenes in which both edges cost at least 1 % the image comes "
             "later. " if len(own) else "")
    window = scenes[0].analyses["knockout"]["window"]
    return [
        *table(["edge (query \u2190 key)", "centroid layer", "strongest at", "change there"], rows), "",
        f"Windows of {window} layers. Image minus question centroid at the role and final tokens: {gap.text()} layers (classes "
        f"resampled, the curves of all scenes pooled, so that a scene weighs as much as the edge matters in it). {alone}".strip(), "",
        verdict((gap.above(0), "the image reaches the role and final tokens in later layers than the question"),
                (all(s.below(-0.01) for s in strongest[:2]), "both edges change the answer's probability by at least 1 %"))]


def chosen_letters(scene):
    """The patch letters of the smallest sufficient set, or None."""
    enough = scene.analyses["tokens"]["image"]["sufficient"]
    if not enough:
        return None
    return [scene.record["patches"][i] for i in enough["image_positions"]]


def draw_sparse(data, path):
    """Faithfulness over image tokens kept, and what lies where."""
    figure = Figure(700, 280)
    steps = data.whole[0].tensor["tokens.image_steps"]
    panel = Panel(figure, (60, 30, 330, 230), (0, steps[-1]), (-0.05, 1.1), "image tokens kept, best first", "tokens",
                  "share of the picture\u2019s effect")
    panel.ticks(nice(0, steps[-1]), (0, 0.5, 0.9, 1))
    for name, colour in (("faithfulness", COLOURS[0]), ("faithfulness_rivals", COLOURS[7])):
        curves = np.stack([s.tensor[f"tokens.image_{name}"].ravel() for s in data.whole])
        panel.curve(steps, *data.whole_boot.band(curves), colour)
    legend(figure, 200, 150, ("by attribution", "random order"), (COLOURS[0], COLOURS[7]))
    scores, counts = places(data)
    panel = Panel(figure, (440, 30, 670, 180), (0, 1), (3.5, -0.5), "helping scores (dots), tokens (bars)")
    panel.ticks((0, 0.5, 1), range(4), ynames=("object", "its edge", "small object", "background"))
    mean, low, high = data.whole_boot.band(scores)
    for i in range(4):
        figure.rect(440, panel.y(i) - 8, panel.x(counts[:, i].mean()) - 440, 16, COLOURS[7], 0.4)
        panel.dot(mean[i], i, COLOURS[0], low[i], high[i])
    figure.save(path)


def places(data):
    """Share of the helping scores and of the tokens on object, edge, small object, background: two [scenes, 4]."""
    scores, counts = [], []
    for s in data.whole:
        letters = np.array(list(s.record["patches"]))
        helping = np.maximum(s.tensor["tokens.image"].ravel(), 0)
        scores.append([helping[letters == k].sum() / helping.sum() for k in "oes."])
        counts.append([(letters == k).mean() for k in "oes."])
    return np.array(scores), np.array(counts)


def background(data):
    """The background's part in scores: share of helping scores, of the signed sum, scenes with a certain token; density."""
    boot, scenes = data.whole_boot, data.whole
    flat = np.stack([s.tensor["tokens.image"].ravel() for s in scenes]).astype(float)
    error = np.stack([s.tensor["tokens.image_stderr"].ravel() for s in scenes])
    plain = np.stack([np.array(list(s.record["patches"])) == "." for s in scenes])
    scores, counts = places(data)
    return [["pure background's share of the tokens", f"{100 * counts[:, 3].mean():.0f} %"],
            ["pure background's share of all helping scores", boot.mean(scores[:, 3]).percent()],
            ["pure background's share of the sum of all scores, where noise averages out",
             boot.ratio((flat * plain).sum(1), flat.sum(1)).percent()],
            ["scenes with a pure background token more than 4 standard errors above 0",
             boot.mean((plain & (flat > 4 * error)).any(1)).percent()]]


def givers(data, figures):
    """How many image tokens suffice, and do some of them show no object?"""
    boot, scenes = data.whole_boot, data.whole
    total = scenes[0].tensor["tokens.image"].size
    letters = [chosen_letters(s) for s in scenes]
    random = [s.analyses["tokens"]["image"]["curves"]["rankings"][1]["smallest_faithful"] for s in scenes]

    def over_sets(function):
        return boot.mean([np.nan if k is None else float(function(k)) for k in letters])

    size = over_sets(lambda k: len(k) / total)
    by_chance = boot.mean([np.nan if r is None else r / total for r in random])
    any_off, any_plain = over_sets(lambda k: set(k) != {"o"}), over_sets(lambda k: "." in k)
    share_plain = over_sets(lambda k: k.count(".") / len(k))
    scores, counts = places(data)
    fit = boot.mean([s.analyses["tokens"]["image"]["regression"]["fit"]["pearson"] for s in scenes])
    draw_sparse(data, figures / "tokens-image.svg")
    sizes = sorted(len(k) for k in letters if k is not None)
    return [
        f"The smallest set of best tokens with 90 % of the effect has {size.percent(1)} of the {total} tokens (median "
        f"{sizes[len(sizes) // 2]} tokens; {len(sizes)} of {len(scenes)} scenes have such a set); in random order "
        f"{by_chance.percent()} are needed. An object token's helping score is {boot.mean(scores[:, 0] / counts[:, 0]).text(1)} "
        f"times the average token's. Held-out masks: Pearson {fit.text()}.", "",
        *table(["", "share"],
               [["sufficient sets with a token off the object (less than half on it)", any_off.percent()],
                ["sufficient sets with a pure background token (touches no object)", any_plain.percent()],
                ["pure background among the tokens of a sufficient set", share_plain.percent(1)], *background(data)]), "",
        verdict((size.below(0.1), "fewer than 10 % of the image tokens suffice"),
                (any_plain.above(0.1), "more than 10 % of the sufficient sets hold pure background"))]
