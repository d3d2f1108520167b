"""Asks the bundled model the pocket editions of the benchmarks, with the picture hidden from every layer on, and puts the
numbers into docs/evaluation.md and docs/findings.md and a figure into docs/figures/.

    python3 benchmarks.py [--out ../../out/benchmarks] [--sightline ../../build/sightline] [--model DIR] [--docs ../../docs]

Needs no package. What is finished is not asked again; what was interrupted goes on.
"""

import argparse
import json
import subprocess
from pathlib import Path

from svg import COLOURS, Figure, Panel, legend
from text import fill, table

ROOT = Path(__file__).resolve().parents[2]
SETS = Path("examples/eval")
SHOWN = (0, 2, 5, 8, 11)  # points of the curve in the table

# Name for people, benchmark, options, what the paper says of LLaVA-1.5-7B's cliff layer (of 32), relative depths.
RUNS = [
    ("POPE", "pope", ["--images", SETS / "images", "--prompt-style", "plain"], "22 to 24"),
    ("ScienceQA", "scienceqa", ["--prompt-style", "lines", "--max-tokens", 8], "12"),
    ("TextVQA", "textvqa", ["--prompt-style", "plain", "--max-tokens", 12], "18"),
    ("CHAIR", "chair", ["--images", SETS / "images", "--max-tokens", 48], "about 30"),
    ("main object", "main-object", ["--images", SETS / "images", "--max-tokens", 12], "\u2013"),
]
METRIC = {"accuracy": "accuracy", "chair_s": "CHAIRs"}


def words(benchmark, options):
    """The words of one run behind `sightline`."""
    data = SETS / benchmark.replace("-", "_")
    return [str(w) for w in ("eval", benchmark, "--data", data, *options, "--cliff")]


def run(args, benchmark, options):
    """What metrics.json of the run says."""
    command = [str(args.sightline.resolve()), *words(benchmark, options), "--out", str(args.out / benchmark), "--resume", "--json"]
    command += ["--model", str(args.model.resolve())] if args.model else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def percent(value, sign=""):
    return f"{100 * value:{sign}.1f}".replace("-", "\u2212")


def interval(value, low, high, form=percent):
    return f"{form(value)} [{form(low)}, {form(high)}]"


def layer(value):
    """Ends of an interval of layers may lie between two."""
    return f"{value:g}"


def row(name, said):
    """A line of the table in evaluation.md."""
    whole, cliff = said["interval"], said["cliff"]
    curve = [point[cliff["of"]] for point in cliff["curve"]]
    estimate = cliff["estimate"]
    return [f"{name}, {METRIC[cliff['of']]}", interval(whole["value"], whole["low"], whole["high"]),
            *(percent(curve[k]) for k in SHOWN), cliff["layer"],
            interval(estimate["layer"], estimate["low"], estimate["high"], layer)]


def rest(results):
    """Numbers beside the main ones, in a sentence."""
    pope, science, chair = (results[name]["metrics"] for name in ("pope", "scienceqa", "chair"))
    return (f"POPE: precision {percent(pope['precision'])}, recall {percent(pope['recall'])}, F1 {percent(pope['f1'])}, "
            f"yes-ratio {percent(pope['yes_ratio'])}. ScienceQA: with picture {percent(science['groups']['image']['accuracy'])}, "
            f"text alone {percent(science['groups']['text only']['accuracy'])}. CHAIR: CHAIRi {percent(chair['chair_i'])}, recall "
            f"{percent(chair['recall'])}, {chair['length']:.1f} words.")


def curve_of(said, key):
    """Layers and values of the points that have one: CHAIRi has none where captions name nothing."""
    points = [(k, 100 * p[key]) for k, p in enumerate(said["cliff"]["curve"]) if p[key] is not None]
    return [k for k, _ in points], [value for _, value in points]


def band_of(said):
    """Ends of the interval of the difference to the whole run, around the curve."""
    key, points = said["cliff"]["of"], said["cliff"]["curve"]
    return [[min(max(100 * (points[-1][key] + p["difference"][end]), 0), 100) for p in points] for end in ("low", "high")]


def draw(results, path):
    """Curves of the four accuracies; CHAIR by itself, where lower is better."""
    figure = Figure(760, 300)
    n = len(results["pope"]["cliff"]["curve"])
    left = Panel(figure, (60, 30, 380, 250), (0, n - 1), (0, 102), "accuracy, percent", "picture hidden from this layer on", "")
    right = Panel(figure, (450, 30, 650, 250), (0, n - 1), (0, 102), "CHAIR, percent", "picture hidden from this layer on", "")
    for panel in (left, right):
        panel.ticks(range(0, n, 1 if panel is left else 2), range(0, 101, 20))
    names = [r for r in RUNS if r[1] != "chair"]
    for (_, benchmark, _, _), colour in zip(names, COLOURS):
        said = results[benchmark]
        left.curve(*curve_of(said, said["cliff"]["of"]), *band_of(said), colour=colour)
    for key, colour in (("recall", COLOURS[4]), ("chair_i", COLOURS[5]), ("chair_s", COLOURS[6])):
        right.curve(*curve_of(results["chair"], key), *(band_of(results["chair"]) if key == "chair_s" else ()), colour=colour)
    legend(figure, 290, 190, [r[0] for r in names])
    legend(figure, 665, 60, ["recall", "CHAIRi", "CHAIRs"], COLOURS[4:])
    figure.save(path)


def findings_rows(results):
    """Cliff layers beside the paper's."""
    rows = []
    for name, benchmark, _, paper in RUNS:
        cliff = results[benchmark]["cliff"]
        found = cliff["estimate"]
        complete = cliff["curve"][cliff["layer"]]
        rows.append([f"{name}, {METRIC[cliff['of']]}", results[benchmark]["counts"]["answered"], paper,
                     interval(found["layer"], found["low"], found["high"], layer), cliff["layer"],
                     f"{percent(cliff['curve'][-1][cliff['of']])} \u2192 {percent(complete[cliff['of']])}"])
    return rows


def commands():
    return ["```", *("sightline " + " ".join(words(benchmark, options)) for _, benchmark, options, _ in RUNS), "```"]


def write(results, docs):
    """Fills the blocks of both pages and draws the figure."""
    model = results["pope"]["model"]
    draw(results, docs / "figures/benchmarks-cliff.svg")
    head = ["", "whole [95 %]", *(f"hidden from {k}" if k == 0 else k for k in SHOWN), "cliff layer", "point estimate"]
    page = docs / "evaluation.md"
    text = fill(page.read_text(), "pocket", [*table(head, [row(r[0], results[r[1]]) for r in RUNS]), "", rest(results)])
    page.write_text(fill(text, "commands", commands()))
    page = docs / "findings.md"
    rows = table(["", "questions", "paper, of 32 layers", f"here, of {model['n_layer']}: the numbers", "by their intervals",
                  "whole \u2192 at that layer"], findings_rows(results))
    page.write_text(fill(page.read_text(), "benchmarks", [f"Model `{model['hash']}`, "
                         f"products in {results['pope']['settings']['compute']['mode']}.", "", *rows]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out/benchmarks", help="working folder")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--sightline", type=Path, default=ROOT / "build/sightline")
    parser.add_argument("--model", type=Path, help="default: the bundled model")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    results = {benchmark: run(args, benchmark, options) for _, benchmark, options, _ in RUNS}
    write(results, args.docs)


if __name__ == "__main__":
    main()
