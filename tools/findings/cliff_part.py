"""Findings about layers: until when the picture is needed, by task, and where attention goes."""

import numpy as np

import rundata
from stats import Bootstrap, curve_cliff, permute_in_blocks
from svg import COLOURS, Figure, Panel, legend
from text import table, verdict

TASKS = {"main": "main object", "yesno": "is there a ...", "choice": "multiple choice", "choice_text": "choice by text alone",
         "leftright": "left or right", "list": "list", "describe": "description", "read": "read the word"}
ONE_WORD = ("main", "yesno", "choice", "leftright")  # asked about the same pictures; they need them; one answer token
EPS_SCORE, EPS_TARGET = 0.01, 0.05


def of_task(data, task):
    return [s for s in data.task if s.record["task"] == task]


def score_curve(scene):
    """Score of the answer with the image hidden from layer k on, k = 0 .. L."""
    return np.array([rundata.scoring.score(scene.record, a.strip()) for a in scene.analyses["cliff"]["answer"]])


def target_curve(scene):
    """The target likewise, 0 without a picture and 1 with it."""
    curve = scene.tensor["cliff.logit"].astype(float)
    return (curve - curve[0]) / (curve[-1] - curve[0])


def moves(scene):
    """Whether the picture changes the target at all (by 0.5 of a logit)."""
    curve = scene.tensor["cliff.logit"]
    return abs(curve[-1] - curve[0]) >= 0.5


def needs_picture(scene):
    """Whether the right answer is another one when the whole image is hidden."""
    return scene.right and scene.analyses["cliff"]["answer"][0].strip() != scene.answer


def draw_scores(data, path):
    """Score by first hidden layer, a curve per task."""
    figure = Figure(640, 300)
    layers = len(score_curve(data.task[0])) - 1
    panel = Panel(figure, (60, 30, 430, 250), (0, layers), (0, 1.02), "score with the image hidden from a layer on",
                  "first hidden layer (last: none)", "score")
    panel.ticks(range(layers + 1), (0, 0.25, 0.5, 0.75, 1))
    for task, colour in zip(TASKS, COLOURS):
        curves = np.stack([score_curve(s) for s in of_task(data, task)])
        panel.curve(range(layers + 1), curves.mean(0), colour=colour)
    legend(figure, 450, 50, list(TASKS.values()))
    figure.save(path)


def draw_layers(rows, layers, path):
    """Mean layer from which the answer is complete, with its interval, a row per task."""
    figure = Figure(560, 250)
    panel = Panel(figure, (140, 30, 530, 205), (0, layers), (len(rows) - 0.5, -0.5),
                  "layer from which on the answer no longer changes", "mean over right answers that need the picture")
    panel.ticks(range(layers + 1), range(len(rows)), ynames=[TASKS[t] for t, _ in rows])
    for i, (task, mean) in enumerate(rows):
        panel.dot(mean.value, i, COLOURS[list(TASKS).index(task)], mean.low, mean.high)
    figure.save(path)


def answer_table(data):
    """Layer from which the greedy answer is unchanged: [pictures, tasks], NaN where the answer is wrong or does not
    need the picture."""
    tasks = [t for t in TASKS if t != "read"]
    units = sorted({s.unit for s in of_task(data, "main")})
    found = np.full((len(units), len(tasks)), np.nan)
    for scene in data.task:
        if needs_picture(scene) and scene.record["task"] in tasks:
            found[units.index(scene.unit), tasks.index(scene.record["task"])] = scene.analyses["cliff"]["answer_layer"]
    return units, tasks, found


def task_row(data, task):
    """The table's row of a task, and the mean layer of its complete answers (None without such answers)."""
    scenes = of_task(data, task)
    needing = [s for s in scenes if needs_picture(s)]
    moved = [s for s in scenes if s.right and moves(s)]
    boot = Bootstrap([s.unit for s in scenes])
    scores = np.stack([score_curve(s) for s in scenes])
    by_score = curve_cliff(scores - scores[:, -1:], boot, EPS_SCORE)
    by_target = layer = None
    if moved:
        by_target = curve_cliff(np.stack([target_curve(s) for s in moved]) - 1, Bootstrap([s.unit for s in moved]), EPS_TARGET)
    if needing:
        layer = Bootstrap([s.unit for s in needing]).mean([s.analyses["cliff"]["answer_layer"] for s in needing])
    return layer, [TASKS[task], len(scenes), boot.mean(scores[:, -1]).percent(), boot.mean(scores[:, 0]).percent(), by_score,
                   "\u2013" if by_target is None else by_target, f"{layer.text(1)} (n = {layer.count})" if layer else "\u2013"]


def against_main(units, tasks, found):
    """(task, how many layers later than main object's on the same pictures) for tasks with five such pictures."""
    boot = Bootstrap(units)
    gaps = [(task, found[:, i] - found[:, 0]) for i, task in enumerate(tasks) if task not in ("main", "choice_text")]
    return [(task, boot.mean(gap)) for task, gap in gaps if np.isfinite(gap).sum() >= 5]


def by_task(data, figures):
    """Does the layer from which the picture can be hidden depend on the task?"""
    found_rows = [(task, *task_row(data, task)) for task in TASKS]
    draw_scores(data, figures / "cliff.svg")
    draw_layers([(task, layer) for task, layer, _ in found_rows if layer], len(score_curve(data.task[0])) - 1,
                figures / "cliff-tasks.svg")
    units, tasks, found = answer_table(data)
    share, p = permute_in_blocks(found[:, [tasks.index(task) for task in ONE_WORD]])
    gaps = against_main(units, tasks, found)
    differs = any(t in ONE_WORD and abs(g.value) >= 1 and (g.above(0) or g.below(0)) for t, g in gaps)
    target, answer = (data.main_boot.mean([np.nan if s.analyses["cliff"][k] is None else s.analyses["cliff"][k]
                                           for s in data.main]) for k in ("layer", "answer_layer"))
    return [
        *table(["task", "questions", "score", "score without picture", "cliff by score", "cliff by target",
                "answer complete from layer"], [row for _, _, row in found_rows]), "",
        *table(["against main object, same pictures", "layers later", "effect"],
               [[TASKS[t], f"{g.text(1)} (n = {g.count})", g.effect()] for t, g in gaps]), "",
        f"Share of the variance of the answer's layer inside pictures that lies between the {len(ONE_WORD)} tasks with one-word "
        f"answers: {share:.2f} (p = {p:.4f}, answers permuted inside pictures). On the {len(data.main)} scenes of the main set "
        f"the target's cliff is layer {target.text(1)} on average and the answer is complete from layer {answer.text(1)} on.", "",
        verdict((p < 0.05, "tasks with one-word answers differ (p under 0.05)"),
                (differs, "one of them is complete at least a layer earlier or later than main object (interval without 0)"))]


def image_share(scene):
    """Share of the attention of the first answer token's row that goes to the image, by layer."""
    return scene.tensor["flow.share"][:, 0, 1].astype(float)


def draw_flow(data, path):
    """Share of attention on the image, by layer and task."""
    figure = Figure(640, 280)
    layers = len(image_share(data.task[0]))
    panel = Panel(figure, (60, 30, 430, 230), (0, layers - 1), (0, 1), "attention of the final token on the image", "layer",
                  "share")
    panel.ticks(range(layers), (0, 0.25, 0.5, 0.75, 1))
    for task, colour in zip(TASKS, COLOURS):
        panel.curve(range(layers), np.stack([image_share(s) for s in of_task(data, task)]).mean(0), colour=colour)
    legend(figure, 450, 50, list(TASKS.values()))
    figure.save(path)


def flow(data, figures):
    """Does attention on the image collapse after the first layers?"""
    shares = np.stack([image_share(s) for s in data.main])
    mean, low, high = data.main_boot.band(shares)
    layers = shares.shape[1]
    first, rest = shares[:, :3].mean(1), shares[:, 3:].mean(1)
    gap = data.main_boot.mean(rest - first)
    last = data.main_boot.mean(shares[:, -1] - shares[:, -2])
    draw_flow(data, figures / "flow.svg")
    cams = np.stack([s.tensor["cam.stats"] for s in data.whole]).astype(float)
    flows = np.stack([s.tensor["flow.stats"] for s in data.whole]).astype(float)
    on_object = [data.whole_boot.mean(np.nanmean(x[:, :, 2], axis=1)) for x in (flows, cams)]
    patches = data.whole_boot.mean([s.root["image"]["object_tokens"] / s.tensor["image.view"].size for s in data.whole])
    return [
        *table(["layer", *range(layers)],
               [["share on the image, %", *(f"{100 * m:.0f}" for m in mean)],
                ["95 % interval", *(f"{100 * a:.0f}\u2013{100 * b:.0f}" for a, b in zip(low, high))]]), "",
        f"Layers 3 and later minus layers 0 to 2: {gap.text(1, ' points', 100)} ({gap.effect()}); last layer minus the one before: "
        f"{last.text(1, ' points', 100)} ({last.effect()}). Share of the image row on the object, mean over layers: attention "
        f"{on_object[0].percent()}, CAM {on_object[1].percent()} (the object covers {patches.percent()} of the tokens).", "",
        verdict((gap.below(0), "the image gets less from layer 3 on than before"),
                (data.main_boot.mean(rest).below(0.1), "it gets under 10 % there"))]
