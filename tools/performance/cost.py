"""The model of what M branches cost: floating-point operations and bytes from the shape, seconds by five rates.

    products   2 M T L W + 2 M D V             W = 4 D^2 + 3 D F weights a layer; the head for one row of a branch
    attention  4 M T L D (P + (T + 1) / 2)     q k and p v over the P positions before the rows and the rows up to its own
    scores     M T L H (P + (T + 1) / 2)       attention weights: an exponential and its like for each
    rows       4 M T L (11 D + 6 F)            bytes of a row's activations, written and read again between products
    weights    (2 L W + 2 D V) ceil(M / B)     bytes of weights, read once for each batch

T rows a branch, B branches at once, L layers of width D with H heads and an MLP of width F, vocabulary V.
"""

import math

TERMS = {"products": "operations", "attention": "operations", "scores": "weights", "rows": "bytes",
         "weights": "bytes"}


def amounts(point):
    """What a measured point asks for, in the order of TERMS."""
    m, t, n_layer, d, f = (point[k] for k in ("masks", "rows", "layers", "width", "mlp"))
    weights = 4 * d * d + 3 * d * f
    head = d * point["vocabulary"]
    seen = point["before"] + (t + 1) / 2
    return (2 * m * t * n_layer * weights + 2 * m * head, 4 * m * t * n_layer * d * seen,
            m * t * n_layer * point["heads"] * seen, 4 * m * t * n_layer * (11 * d + 6 * f),
            2 * (n_layer * weights + head) * math.ceil(m / point["batch"]))


def predict(rates, point):
    """Seconds."""
    return sum(rate * amount for rate, amount in zip(rates, amounts(point)))


def fit(points):
    """Rates >= 0 that make the sum of squared relative errors least, by coordinate descent."""
    rows = [[a / p["median"] for a in amounts(p)] for p in points]
    scale = [max(row[k] for row in rows) for k in range(len(TERMS))]
    rows = [[a / s for a, s in zip(row, scale)] for row in rows]
    rates = [0.0] * len(TERMS)
    for _ in range(20000):
        for k in range(len(TERMS)):
            rest = [1 - sum(r * a for r, a in zip(rates, row)) + rates[k] * row[k] for row in rows]
            rates[k] = max(0.0, sum(e * row[k] for e, row in zip(rest, rows)) / sum(row[k] ** 2 for row in rows))
    return [r / s for r, s in zip(rates, scale)]


def relative_error(rates, point):
    """Of the prediction, as a share of the measured time."""
    return predict(rates, point) / point["median"] - 1
