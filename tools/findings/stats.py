"""Intervals and tests: cluster bootstrap, permutation inside blocks, rank correlation. numpy only."""

from dataclasses import dataclass

import numpy as np

REPEATS = 4000


@dataclass
class Estimate:
    """A number with its 95 % interval, how many values it comes from, and mean / standard deviation of those (d)."""

    value: float
    low: float
    high: float
    count: int
    d: float = float("nan")

    def text(self, digits=2, unit="", scale=1):
        a, b, c = (f"{scale * v:.{digits}f}".replace("-", "\u2212") for v in (self.value, self.low, self.high))
        return f"{a}{unit} [{b}, {c}]"

    def percent(self, digits=0):
        return self.text(digits, " %", 100)

    def effect(self):
        """d in words; nothing to say when all values are equal."""
        return f"d = {self.d:.1f}".replace("-", "\u2212") if np.isfinite(self.d) else "d undefined"

    def above(self, bound):
        return self.low > bound

    def below(self, bound):
        return self.high < bound


class Bootstrap:
    """Resamples units (classes, pictures), because scenes of one unit are not independent."""

    def __init__(self, units, seed=0):
        names = sorted(set(units))
        index = np.array([names.index(u) for u in units])
        drawn = np.random.default_rng(seed).integers(len(names), size=(REPEATS, len(names)))
        counts = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        self.weight = counts[:, index].astype(float)  # [repeats, scenes]

    def of_mean(self, x, function=lambda m: m[..., 0]):
        """`function` of the mean over scenes of x [scenes, K], with its interval; scenes with NaN are left out."""
        x = np.asarray(x, float).reshape(len(x), -1)
        keep = np.isfinite(x).all(1)
        if not keep.any():
            return Estimate(*[float("nan")] * 3, 0)
        weight, x = self.weight[:, keep], x[keep]
        total = weight.sum(1)
        means = (weight @ x)[total > 0] / total[total > 0, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            repeats = function(means)
            value = float(function(x.mean(0)))
        low, high = np.nanpercentile(repeats, (2.5, 97.5))
        spread = x[:, 0].std(ddof=1) if x.shape[1] == 1 and len(x) > 1 else 0
        return Estimate(value, float(low), float(high), int(keep.sum()), value / spread if spread > 0 else float("nan"))

    def mean(self, x):
        return self.of_mean(x)

    def ratio(self, a, b):
        """mean(a) / mean(b)."""
        return self.of_mean(np.stack([a, b], 1), lambda m: m[..., 0] / m[..., 1])

    def band(self, x):
        """Mean and interval of every column of x [scenes, K]: three arrays."""
        means = self.weight @ x / self.weight.sum(1, keepdims=True)
        return x.mean(0), *np.percentile(means, (2.5, 97.5), axis=0)


def centroid(curve):
    """Mean index of what a curve takes away: weights max(0, -curve)."""
    weight = np.maximum(0, -curve)
    return (weight * np.arange(curve.shape[-1])).sum(-1) / weight.sum(-1)


def ranks(x):
    """Ranks from 0, ties shared."""
    x = np.asarray(x, float).ravel()
    order = np.argsort(x, kind="stable")
    rank = np.empty(len(x))
    rank[order] = np.arange(len(x))
    for value in np.unique(x):
        same = x == value
        if same.sum() > 1:
            rank[same] = rank[same].mean()
    return rank


def pearson(a, b):
    a, b = (np.asarray(v, float).ravel() - np.mean(v) for v in (a, b))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def spearman(a, b):
    return pearson(ranks(a), ranks(b))


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def eta_squared(table):
    """Share of the variance of table [blocks, groups] (NaN = missing) that lies between groups, block means removed."""
    x = table - np.nanmean(table, axis=1, keepdims=True)
    count = np.isfinite(x).sum(0)
    with np.errstate(invalid="ignore"):
        between = np.nansum(count * np.square(np.nansum(x, 0) / np.maximum(count, 1)))
    total = np.nansum(np.square(x))
    return float(between / total) if total > 0 else float("nan")


def permute_in_blocks(table, repeats=REPEATS, seed=0):
    """eta_squared of the table and its p when the values of every block (row) change places at random."""
    table = table[np.isfinite(table).sum(1) > 1]
    rng = np.random.default_rng(seed)
    found = eta_squared(table)
    reached = 0
    for _ in range(repeats):
        shuffled = table.copy()
        for row in shuffled:
            present = np.isfinite(row)
            row[present] = rng.permutation(row[present])
        reached += eta_squared(shuffled) >= found - 1e-12
    return found, (1 + reached) / (1 + repeats)


def curve_cliff(change, bootstrap, eps):
    """First k from which on, for every k' >= k, the lower end of the interval of mean change(k') is at least -eps."""
    low = bootstrap.band(change)[1]
    fails = np.nonzero(low < -eps)[0]
    return int(fails[-1] + 1) if len(fails) else 0
