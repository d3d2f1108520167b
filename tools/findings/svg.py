"""Small charts as SVG text: lines with bands, dots with intervals, bars, heat maps. Readable on light and dark pages."""

import math
from html import escape

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#999999")
STYLE = """<style>
text { font: 11px system-ui, sans-serif; fill: #3d444d } .title { font-weight: 600; font-size: 12px }
.axis { stroke: #8b949e; stroke-width: 1; fill: none } .grid { stroke: #8b949e; stroke-opacity: .25; fill: none }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
</style>"""


def number(value):
    """A short number for an axis."""
    return f"{value:.4g}".replace("-", "\u2212")


def nice(low, high, count=5):
    """Round tick values between low and high."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


class Figure:
    """A drawing of a given size that panels write into."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.parts = []

    def add(self, text):
        self.parts.append(text)

    def text(self, x, y, words, anchor="start", cls=""):
        kind = f' class="{cls}"' if cls else ""
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(str(words))}</text>')

    def rect(self, x, y, w, h, fill, opacity=1.0, title=""):
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0):.1f}" height="{h:.1f}" fill="{fill}" '
                 f'fill-opacity="{opacity:.3g}">{inside}</rect>')

    def line(self, points, colour, width=1.8, dash=""):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self.add(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{extra}/>')

    def save(self, path):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'width="{self.width}" height="{self.height}">')
        path.write_text("\n".join([head, STYLE, *self.parts, "</svg>", ""]))


class Panel:
    """Axes inside a figure: maps data to pixels."""

    def __init__(self, figure, box, xlim, ylim, title="", xlabel="", ylabel=""):
        self.figure, self.box, self.xlim, self.ylim = figure, box, xlim, ylim
        x0, y0, x1, y1 = box
        figure.text(x0, y0 - 8, title, cls="title")
        figure.text((x0 + x1) / 2, y1 + 30, xlabel, "middle")
        if ylabel:
            figure.add(f'<text transform="translate({x0 - 44:.0f},{(y0 + y1) / 2:.0f}) rotate(-90)" '
                       f'text-anchor="middle">{escape(ylabel)}</text>')
        figure.add(f'<path class="axis" d="M{x0} {y0}V{y1}H{x1}"/>')

    def x(self, value):
        x0, _, x1, _ = self.box
        return x0 + (value - self.xlim[0]) / (self.xlim[1] - self.xlim[0]) * (x1 - x0)

    def y(self, value):
        _, y0, _, y1 = self.box
        return y1 - (value - self.ylim[0]) / (self.ylim[1] - self.ylim[0]) * (y1 - y0)

    def ticks(self, xs=(), ys=(), xnames=None, ynames=None):
        x0, _, x1, y1 = self.box
        for i, value in enumerate(xs):
            self.figure.text(self.x(value), y1 + 15, xnames[i] if xnames else number(value), "middle")
        for i, value in enumerate(ys):
            self.figure.text(x0 - 6, self.y(value) + 4, ynames[i] if ynames else number(value), "end")
            if not ynames:
                self.figure.add(f'<path class="grid" d="M{x0} {self.y(value):.1f}H{x1}"/>')

    def curve(self, xs, mean, low=None, high=None, colour=COLOURS[0], dash=""):
        if low is not None:
            edge = [(x, y) for x, y in zip(xs, high)] + [(x, y) for x, y in zip(xs, low)][::-1]
            path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in edge)
            self.figure.add(f'<polygon points="{path}" fill="{colour}" fill-opacity=".18"/>')
        self.figure.line([(self.x(x), self.y(y)) for x, y in zip(xs, mean)], colour, dash=dash)

    def dot(self, x, y, colour=COLOURS[0], low=None, high=None, upright=False, title=""):
        """A point; low and high draw its interval along x, or along y when `upright`."""
        if low is not None:
            ends = [(x, low), (x, high)] if upright else [(low, y), (high, y)]
            self.figure.line([(self.x(a), self.y(b)) for a, b in ends], colour, 2)
        inside = f"<title>{escape(title)}</title>" if title else ""
        self.figure.add(f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.2" fill="{colour}">{inside}</circle>')

    def mark(self, x=None, y=None, colour="#8b949e"):
        """A dashed line at x or y."""
        x0, y0, x1, y1 = self.box
        a, b = ((self.x(x), y0), (self.x(x), y1)) if x is not None else ((x0, self.y(y)), (x1, self.y(y)))
        self.figure.line([a, b], colour, 1, "3 3")


def legend(figure, x, y, names, colours=COLOURS, step=16):
    """Names with their colours, one below the other."""
    for i, name in enumerate(names):
        figure.rect(x, y + i * step - 8, 10, 10, colours[i])
        figure.text(x + 15, y + i * step + 1, name)


def heat_map(figure, box, table, unit="", rows="layer", columns="head"):
    """Cells coloured blue (above 0) or orange (below), by the largest absolute value."""
    x0, y0, x1, y1 = box
    top = max(abs(float(v)) for row in table for v in row) or 1
    w, h = (x1 - x0) / len(table[0]), (y1 - y0) / len(table)
    for i, row in enumerate(table):
        figure.text(x0 - 6, y0 + (i + 0.5) * h + 4, i, "end")
        for j, value in enumerate(row):
            figure.rect(x0 + j * w + 0.5, y0 + i * h + 0.5, w - 1, h - 1, COLOURS[0 if value > 0 else 1],
                        0.06 + 0.94 * abs(float(value)) / top, f"{rows} {i}, {columns} {j}: {value:.3f}{unit}")
    for j in range(len(table[0])):
        figure.text(x0 + (j + 0.5) * w, y1 + 14, j, "middle")
