"""Statistics over problems: clustered errors, bootstrap intervals, pass@k, cons@k. numpy only."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb

import numpy as np


def bootstrap(values, statistic: Callable, null: float = 0.0, resamples: int = 10_000, seed: int = 0) -> dict:
    """A statistic of means over problems, with its 95 % percentile interval from drawing problems anew.

    Args:
        values: (P, m) figures of each problem; the rows of one problem are drawn together, which pairs A and B.
        statistic: Takes means (..., m) to (...,).
        null: The value that means "no difference".

    Returns:
        {"value", "low", "high", "verdict"}; no interval for fewer than two problems, no value for 0 / 0.

    >>> bootstrap([[1, 0], [1, 0], [1, 1], [0, 0]], lambda m: m[..., 0] - m[..., 1])
    {'value': 0.5, 'low': 0.0, 'high': 1.0, 'verdict': 'not distinguishable'}

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    values, rng, draws = np.asarray(values, float), np.random.default_rng(seed), []
    n = len(values)
    with np.errstate(all="ignore"):
        value = float(statistic(values.mean(0)))
        for start in range(0, resamples if n > 1 else 0, 500):  # in pieces: (10000, P) would fill a small machine
            size = min(500, resamples - start)
            drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)     # (size, P)
            draws.append(statistic(times.astype(float) @ values / n))
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "verdict": "nothing to compare"}
    draws = np.concatenate(draws or [np.empty(0)])
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return {"value": value, "low": None, "high": None, "verdict": "no interval"}
    low, high = map(float, np.percentile(draws, [2.5, 97.5]))
    verdict = "higher" if low > null else "lower" if high < null else "not distinguishable"
    return {"value": value, "low": low, "high": high, "verdict": verdict}


def point(values) -> dict:
    """{"value", "se"}: the mean of (P, S) values and its standard error, clustered by problem; of (P,), S is 1.

    The samples of one problem are not independent, so the error is that of the P problem means; None for P = 1.

    >>> point([[1, 1, 1], [0, 0, 0]]), point([[1, 0]])
    ({'value': 0.5, 'se': 0.5}, {'value': 0.5, 'se': None})

    Source: cluster-robust variance of a mean with n/(n-1), e.g. Cameron and Miller 2015.
    """
    values = np.asarray(values, float)
    means = values.reshape(len(values), -1).mean(1)                                       # (P,)
    se = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else None
    return {"value": float(means.mean()), "se": se}


def difference(m: np.ndarray) -> np.ndarray:
    """B - A of means (..., 2)."""
    return m[..., 1] - m[..., 0]


def ratio(m: np.ndarray) -> np.ndarray:
    """B / A of means (..., 2)."""
    return m[..., 1] / m[..., 0]


def quotient_difference(m: np.ndarray) -> np.ndarray:
    """B's quotient - A's of means (..., 4): A's numerator and denominator, then B's."""
    return m[..., 2] / m[..., 3] - m[..., 0] / m[..., 1]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)

    Source: Chen et al. 2021 (Codex), section 2.1.
    """
    return 1 - comb(n - c, k) / comb(n, k)


def cons_at_k(right: int, wrong: Sequence[int], silent: int, k: int) -> float:
    """Chance that the right answer wins the vote of k samples drawn without replacement; exact, no resampling.

    A tie between j answers gives each 1/j. Samples without an answer abstain; if all do, the vote is wrong.

    Args:
        right: Samples with the right answer. wrong: samples with each wrong answer. silent: samples without one.

    >>> cons_at_k(2, [1, 1], 0, 4), cons_at_k(2, [2], 0, 4), cons_at_k(1, [3], 0, 1), cons_at_k(1, [], 3, 4)
    (1.0, 0.5, 0.25, 1.0)
    """
    n, total = right + sum(wrong) + silent, Fraction(0)
    for t in range(1, min(right, k) + 1):  # votes for the right answer
        rivals = [c for c in wrong if c >= t]
        others = n - right - sum(rivals)  # cannot reach t: only their number counts
        ways = Counter({(0, 0): 1})  # (votes of the rivals, rivals at t) -> draws in which none is above t
        for c in rivals:
            more = Counter()
            for (votes, tied), count in ways.items():
                for x in range(min(t, k - t - votes) + 1):
                    more[votes + x, tied + (x == t)] += count * comb(c, x)
            ways = more
        for (votes, tied), count in ways.items():
            total += Fraction(comb(right, t) * count * comb(others, k - t - votes), tied + 1)
    return float(total / comb(n, k))


def powers(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself.

    >>> powers(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n})
