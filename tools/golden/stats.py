# SPDX-License-Identifier: MIT
"""Regressions on masks and resampling statistics by numpy, scipy, scikit-learn and statsmodels (tests/golden/stats.json)."""
import json
import os
import warnings

import numpy as np


def hc3(X, t, penalty):
    """Scores, intercept and HC3 errors from the whole design with an unpenalised column of ones: not the centred route."""
    D = np.c_[np.ones(len(X)), X]
    P = penalty * np.eye(D.shape[1])
    P[0, 0] = 0
    W = np.linalg.solve(D.T @ D + P, D.T)
    b = W @ t
    w = (t - D @ b) / (1 - np.einsum("ij,ji->i", D, W))
    return b, np.sqrt((W**2) @ (w**2))


def rows(X):
    return ["".join(str(v) for v in r) for r in X]


def ridge_part(X, t, V, tv):
    from sklearn.linear_model import Ridge
    S = (X - X.mean(0)).T @ (X - X.mean(0))
    grid = np.trace(S) / X.shape[1] * 10.0 ** (4 - 0.25 * np.arange(41))
    errors = [float(np.mean((Ridge(alpha=a, solver="svd").fit(X, t).predict(V) - tv) ** 2)) for a in grid]
    given = 3.5
    b, e = hc3(X, t, given)
    model = Ridge(alpha=given, solver="svd").fit(X, t)
    assert np.allclose(model.coef_, b[1:]) and np.isclose(model.intercept_, b[0])
    return {"penalty": given, "scores": list(b), "errors": list(e), "grid": list(grid), "grid_errors": errors}


def lasso_part(X, t, V, tv):
    from sklearn.linear_model import Lasso
    fit = lambda a: Lasso(alpha=a, tol=1e-13, max_iter=2_000_000).fit(X, t)
    C = X - X.mean(0)
    grid = np.abs(C.T @ (t - t.mean())).max() / len(X) * 10.0 ** (-0.1 * np.arange(41))
    given = 0.04
    model = fit(given)
    errors = [float(np.mean((fit(a).predict(V) - tv) ** 2)) for a in grid]
    return {"penalty": given, "scores": [model.intercept_, *model.coef_], "grid": list(grid), "grid_errors": errors}


def design(rng, n, p, q, n_valid=40):
    X = (rng.random((n + n_valid, p)) < q).astype(int)
    b = rng.normal(size=p) * (rng.random(p) < 0.4)
    noise = rng.normal(size=n + n_valid) * (0.2 + 0.6 * X[:, 0])  # heteroscedastic
    t = np.round(1.5 + X @ b + 0.5 * X[:, 1] * X[:, 2] + noise, 6)
    part = {"masks": rows(X[:n]), "target": list(t[:n]), "valid_masks": rows(X[n:]), "valid_target": list(t[n:])}
    return X[:n], t[:n], X[n:], t[n:], part


def deficient(rng):
    """A constant column (3), a copy (5 = 1), a complement (7 = not 2)."""
    X, t, *_ = design(rng, 60, 9, 0.6)
    X[:, 3], X[:, 5], X[:, 7] = 1, X[:, 1], 1 - X[:, 2]
    keep = [0, 1, 2, 4, 6, 8]
    b, e = hc3(X[:, keep], t, 0)
    return {"masks": rows(X), "target": list(t), "predicted": list(b[0] + X[:, keep] @ b[1:]), "own": [0, 4, 6, 8],
            "scores": [b[1 + keep.index(j)] for j in (0, 4, 6, 8)],
            "errors": [e[1 + keep.index(j)] for j in (0, 4, 6, 8)]}


def resampling(rng):
    import scipy.stats as st
    x, y, z = rng.normal(size=25), rng.normal(size=25), rng.normal(size=25)
    x, y = x + z, y - 0.7 * z + 0.3 * x
    r = lambda a, b: a - np.polyval(np.polyfit(b, a, 1), b)
    interval = st.bootstrap((x,), np.mean, method="percentile", n_resamples=200_000, rng=rng).confidence_interval
    return {"x": list(x), "y": list(y), "z": list(z), "partial": float(np.corrcoef(r(x, z), r(y, z))[0, 1]),
            "pearson": float(st.pearsonr(x, y)[0]), "spearman": float(st.spearmanr(x, y)[0]),
            "r2": float(1 - np.sum((y - x) ** 2) / np.sum((y - y.mean()) ** 2)),
            "mean": float(x.mean()), "low": float(interval.low), "high": float(interval.high)}


def make(out):
    import statsmodels.api as sm
    warnings.filterwarnings("ignore", category=UserWarning)
    rng = np.random.default_rng(11)
    X, t, V, tv, tall = design(rng, 120, 20, 0.7)
    model = sm.OLS(t, sm.add_constant(X)).fit()
    tall["least_squares"] = {"scores": list(model.params), "errors": list(model.HC3_se)}
    tall["ridge"], tall["lasso"] = ridge_part(X, t, V, tv), lasso_part(X, t, V, tv)
    X, t, V, tv, wide = design(rng, 30, 45, 0.5)
    wide["ridge"] = ridge_part(X, t, V, tv)
    data = {"tall": tall, "wide": wide, "deficient": deficient(rng), "resampling": resampling(rng)}
    with open(os.path.join(out, "stats.json"), "w") as f:
        json.dump(data, f, indent=0, default=float)
        f.write("\n")
