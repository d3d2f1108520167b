"""Tables and figures of docs/performance.md from a measurement. Text outside the marked blocks is written by hand."""

import re
import statistics
import sys
from pathlib import Path

import cost

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "findings"))
from svg import COLOURS, Figure, Panel, legend, nice  # noqa: E402
from text import table  # noqa: E402

AXES = {"M": ("masks M", "masks"), "B": ("batch B", "batch"), "T": ("rows of a branch T", "rows"),
        "N": ("image tokens N", "image"), "L": ("layers L", "layers"), "D": ("width D, heads of 64", "width"),
        "H": ("heads H of one width", "heads")}
UNITS = {"operations": "GFLOP", "weights": "G weights", "bytes": "GB"}
MEASURED, MODEL = COLOURS[0], COLOURS[1]
PANEL_WIDTH, PANEL_HEIGHT = 290, 220


def panel_box(number, columns):
    """Corners of a panel inside the figure."""
    x, y = number % columns * PANEL_WIDTH + 62, number // columns * PANEL_HEIGHT + 26
    return x, y, x + PANEL_WIDTH - 84, y + PANEL_HEIGHT - 74


def draw_sweep(figure, number, name, points, rates):
    """Measured times with their spread, and the model's line."""
    title, key = AXES[name]
    xs, top = [p[key] for p in points], max(p["high"] for p in points) * 1e3
    panel = Panel(figure, panel_box(number, 3), (0, max(xs) * 1.04), (0, top * 1.08), f"over {title}", title,
                  "ms of processor time")
    panel.ticks(nice(0, max(xs), 4), nice(0, top, 4))
    panel.curve(xs, [cost.predict(rates, p) * 1e3 for p in points], colour=MODEL)
    for p in points:
        panel.dot(p[key], p["median"] * 1e3, MEASURED, p["low"] * 1e3, p["high"] * 1e3, upright=True,
                  title=f"{title} {p[key]}: {p['median'] * 1e3:.1f} ms")


def draw_times(data, rates, path):
    figure = Figure(3 * PANEL_WIDTH, 3 * PANEL_HEIGHT)
    for number, name in enumerate(AXES):
        draw_sweep(figure, number, name, data["sweeps"][name], rates)
    x, y = panel_box(7, 3)[:2]
    legend(figure, x, y + 10, ["measured: median, and", "lowest and highest process", "model"], [MEASURED, "none", MODEL])
    figure.save(path)


def draw_memory(data, path):
    figure = Figure(2 * PANEL_WIDTH, PANEL_HEIGHT)
    for number, name in enumerate("BM"):
        title, key = AXES[name]
        points = data["sweeps"][name]
        xs, ys = [p[key] for p in points], [p["peak_bytes"] / 2**20 for p in points]
        panel = Panel(figure, panel_box(number, 2), (0, max(xs) * 1.04), (0, max(ys) * 1.12), f"memory over {title}", title,
                      "MiB above the trunk")
        panel.ticks(nice(0, max(xs), 4), nice(0, max(ys), 4))
        panel.curve(xs, ys, colour=MEASURED)
        for x, y in zip(xs, ys):
            panel.dot(x, y, MEASURED, title=f"{x}: {y:.1f} MiB")
    figure.save(path)


def percent(value, digits=0):
    return f"{100 * value:.{digits}f} %".replace("-", "\u2212")


def times_table(data, rates):
    rows = []
    for name, (_, key) in AXES.items():
        for p in data["sweeps"][name]:
            flops, attention, _, _, weights = cost.amounts(p)
            rows.append([f"{name} = {p[key]}", f"{(flops + attention) / 1e9:.1f}", f"{weights / 1e6:.0f}",
                         f"{p['median'] * 1e3:.1f}", f"{p['low'] * 1e3:.1f} to {p['high'] * 1e3:.1f}", f"{cost.predict(rates, p) * 1e3:.1f}",
                         f"{p['median'] / p['masks'] * 1e3:.2f}", f"{(flops + attention) / p['median'] / 1e9:.0f}"])
    return table(["", "GFLOP", "MB of weights", "ms", "processes", "model, ms", "ms a mask", "GFLOP/s"], rows)


def rates_table(data, rates):
    base, rows = data["sweeps"]["M"][3], []
    for (term, kind), rate, amount in zip(cost.TERMS.items(), rates, cost.amounts(base)):
        unit = UNITS[kind]
        rows.append([term, f"{amount / 1e9:.3g} {unit}", "none" if rate == 0 else f"{1 / rate / 1e9:.3g} {unit}/s",
                     percent(rate * amount / cost.predict(rates, base))])
    return table(["part", f"at M = {base['masks']}, B = {base['batch']}", "rate", "share of the time"], rows)


def bundled_table(data, rates):
    rows = [[f"M = {p['masks']}, B = {p['batch']}, T = {p['rows']}", f"{p['median'] * 1e3:.1f}",
             f"{cost.predict(rates, p) * 1e3:.1f}", percent(cost.relative_error(rates, p))] for p in data["sweeps"]["bundled"]]
    return table(["bundled model", "ms", "model, ms", "off by"], rows)


def memory_table(data):
    rows = [[f"{name} = {p[AXES[name][1]]}", f"{p['peak_bytes'] / 2**20:.1f}"]
            for name in "BM" for p in data["sweeps"][name]]
    return table(["", "MiB above prefix and trunk"], rows)


def summary(data, rates, fitted):
    errors = sorted(abs(cost.relative_error(rates, p)) for p in fitted)
    spread = statistics.median((p["high"] - p["low"]) / p["median"] for p in fitted)
    machine = data["machine"]
    return [f"Measured on {machine['name']}, {machine['count']} processors, shared with other programs (load "
            f"{machine['load']:.1f} before, {data['load_after']:.1f} after): {data['rounds']} processes for each point, taking "
            f"turns, {data['repeats']} repeats in each; the processes' medians spread over {percent(spread)} of the median in the "
            f"middle case. The model is off by {percent(statistics.median(errors))} in the middle case and by "
            f"{percent(errors[-1])} at worst, on the points that its rates were fitted to."]


def write(data, docs):
    """Fills the blocks of performance.md and draws the figures."""
    fitted = []
    for name in AXES:
        fitted += [p for p in data["sweeps"][name] if p not in fitted]
    rates = cost.fit(fitted)
    draw_times(data, rates, docs / "figures/performance-time.svg")
    draw_memory(data, docs / "figures/performance-memory.svg")
    blocks = {"summary": summary(data, rates, fitted), "rates": rates_table(data, rates), "times": times_table(data, rates),
              "bundled": bundled_table(data, rates), "memory": memory_table(data)}
    text = (docs / "performance.md").read_text()
    for name, lines in blocks.items():
        start, end = f"<!-- performance:{name}:start -->", f"<!-- performance:{name}:end -->"
        block = "\n".join((start, *lines, end))
        text, count = re.subn(f"{re.escape(start)}.*?{re.escape(end)}", lambda _, b=block: b, text, flags=re.S)
        if count != 1:
            raise SystemExit(f"performance.md: block {name} is there {count} times")
    (docs / "performance.md").write_text(text)
