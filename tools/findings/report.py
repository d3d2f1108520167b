"""Puts the numbers into docs/findings.md and draws docs/figures/.

    python3 report.py OUT DOCS

OUT is run.py's working folder. Text between `<!-- findings:NAME:start -->` and `<!-- findings:NAME:end -->` is replaced;
all else in findings.md is written by hand.
"""

import json
import re
import sys
from pathlib import Path

import cliff_part
import heads_part
import likeness_part
import make_scenes
import rundata
import tokens_part
from stats import Bootstrap
from text import fill, table

SECTIONS = {
    "single": heads_part.single_ablation, "where": heads_part.where, "attention": heads_part.attention_weight,
    "semantics": likeness_part.semantics, "receivers": tokens_part.receivers, "order": tokens_part.order,
    "givers": tokens_part.givers, "cliff": cliff_part.by_task, "flow": cliff_part.flow, "baselines": heads_part.baselines,
}


class Data:
    """All scenes. main: right answers of the main set; whole: those of them with every analysis; task: the task set."""

    def __init__(self, folder):
        scenes = rundata.read_scenes(folder / "runs", make_scenes.read(folder))
        self.asked = [s for s in scenes if s.record["set"] == "main"]
        self.task = [s for s in scenes if s.record["set"] == "task"]
        self.main = [s for s in self.asked if s.right]
        self.whole = [s for s in self.main if "curves" in s.analyses["heads"] and "curves" in s.analyses["tokens"]["image"]]
        self.main_boot = Bootstrap([s.unit for s in self.main])
        self.whole_boot = Bootstrap([s.unit for s in self.whole])
        with open(folder / "compare" / "run.json") as file:
            self.compare = json.load(file)
        models = {(s.root["model"]["hash"], s.root["compute"]["mode"]) for s in scenes}
        if len(models) > 1:
            raise SystemExit(f"{folder}: runs of several models or modes: {sorted(models)}")


def overview(data, _figures):
    """Which model, how many scenes, how good the regressions are."""
    root = data.main[0].root
    model, boot = root["model"], data.main_boot
    heads = [s.analyses["heads"] for s in data.main]
    fit = boot.mean([h["regression"]["fit"]["pearson"] for h in heads])
    r2 = boot.mean([h["regression"]["fit"]["r2"] for h in heads])
    rows = [["model", f"{model['name']}, content hash `{model['hash']}`, {model['n_layer']} decoder layers of {model['n_head']} "
             f"heads, {model['n_image_token']} image tokens, products in {root['compute']['mode']}"],
            ["main-object scenes", f"{len(data.asked)}; answered rightly and used: {len(data.main)} "
             f"({sum(s.look == 'photo' for s in data.main)} photos, {sum(s.look == 'drawing' for s in data.main)} drawings, "
             f"{len({s.unit for s in data.main})} classes)"],
            ["of these with all curves and token attribution", len(data.whole)],
            ["task questions", f"{len(data.task)} about {len({s.unit for s in data.task})} pictures"],
            ["masks per scene for heads", heads[0]["regression"]["masks"]],
            ["regression on held-out masks", f"Pearson {fit.text(3)}, R\u00b2 {r2.text(3)}"],
            ["what the picture adds to the answer's logit", boot.mean([heads_part.effect(s) for s in data.main]).text(1)]]
    return table(["", ""], rows)


def title_of(text, name):
    """The heading above a block."""
    return re.findall(r"^## (.*)$", text[:text.index(f"<!-- findings:{name}:start")], re.M)[-1]


def write(folder, docs):
    """Fills findings.md and draws every figure."""
    data = Data(folder)
    figures = docs / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    path = docs / "findings.md"
    text = path.read_text()
    verdicts = []
    for name, section in SECTIONS.items():
        lines = section(data, figures)
        text = fill(text, name, lines)
        verdicts += [(name, line) for line in lines if line.startswith("**On this model")]
    text = fill(text, "overview", overview(data, figures))
    rows = [[title_of(text, name), re.search(r"finding (.*?)\.\*\*", line).group(1)] for name, line in verdicts]
    text = fill(text, "summary", table(["finding", "on this model"], rows))
    path.write_text(text)
    print(f"wrote {path} and {len(list(figures.glob('*.svg')))} figures")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
