"""Several answers to one question, from the rollouts that are there: votes, first to end, best of k; against tokens.

    python -m analysis.votes out/toy/base_test out/toy/final_test

Each way is shown for k = 1, 2, 4, ... answers a question, against all tokens that it spends and against the longest
time that the question waits (answers run side by side, so that is the longest single answer, in tokens).

- majority: all k vote, a tie counts in part. short-m@k: k run until m have ended, these vote, ties go to the shortest.
  short-1@k is the best of k by shortness.
- likeliest: of k the one with the largest mean log-prob. pass@k: one of k is right, which only a verifier can use.

A cut answer has no vote and never ends first. Every subset of the samples counts, or 500 of them where there are more;
majority and pass@k have exact formulas (analysis.metrics).
"""

import itertools
import math
import random
import sys
from dataclasses import dataclass

import numpy as np

from analysis.command import Settings, main
from analysis.evaluations import Evaluation
from analysis.metrics import chances, kinds_of
from analysis.stats import point, powers
from analysis.tables import num, table
from engine.files import die

FILE, HEADING, FOLDERS = "votes.json", "Several answers to one question", (1, 2)


@dataclass
class Config(Settings):
    """Options of analysis.votes."""

    m: int = 3
    """Answers that vote in short-m@k, beside short-1@k."""


def subsets(n: int, k: int, most: int = 500) -> np.ndarray:
    """(N, k) indices: all subsets of k out of n, or `most` drawn from a fixed seed where there are more."""
    if math.comb(n, k) <= most:
        return np.array(list(itertools.combinations(range(n), k)))
    rng = random.Random(0)
    return np.array([rng.sample(range(n), k) for _ in range(most)])


def first_to_end(kinds, tokens, ended, m: int) -> tuple[float, float, float]:
    """(right, tokens spent, longest answer) of short-m@k over one subset of k answers.

    All run until m have ended, or all have come to their end. These m vote; a tie goes to the shortest of those tied.

    >>> first_to_end([0, 1, 1], [10, 20, 30], [True] * 3, 1), first_to_end([1, 0, 1], [10, 20, 30], [True] * 3, 3)
    ((1.0, 30.0, 10.0), (0.0, 60.0, 30.0))
    """
    order = sorted((i for i in range(len(kinds)) if ended[i]), key=lambda i: tokens[i])[:m]
    stop = tokens[order[-1]] if len(order) == m else max(tokens)
    votes = [kinds[i] for i in order if kinds[i] >= 0]
    most = max(map(votes.count, votes), default=0)
    winner = next((kind for kind in votes if votes.count(kind) == most), -1)  # votes stand by length
    return float(winner == 0), float(sum(min(n, stop) for n in tokens)), float(stop)


def ways(side: Evaluation, m: int) -> dict[str, list[tuple[int, np.ndarray]]]:
    """Each way's (k, (P, 3) right, tokens spent and longest answer of every problem) for k = 1, 2, 4, ..."""
    names = ["majority", "short-1@k", f"short-{m}@k", "likeliest", "pass@k"]
    names = [name for name in names if name != "likeliest" or all("mean_logp" in row for row in side.rows)]
    names = list(dict.fromkeys(names))  # m may be 1
    kinds, exact = [kinds_of(group) for group in side.groups], chances(side)
    found: dict[str, list] = {name: [] for name in names}
    for k in powers(side.samples):
        chosen = subsets(side.samples, k)
        figures = {name: np.zeros((len(kinds), 3)) for name in names}
        for p, (group, kind) in enumerate(zip(side.groups, kinds)):
            tokens, ended = [row["n_tokens"] for row in group], [row["finished"] for row in group]
            for subset in chosen:
                some, n = [kind[i] for i in subset], [tokens[i] for i in subset]
                spent = (float(sum(n)), float(max(n)))
                for name in ("majority", "pass@k"):
                    figures[name][p, 1:] += spent
                for name, first in {"short-1@k": 1, f"short-{m}@k": m}.items():
                    figures[name][p] += first_to_end(some, n, [ended[i] for i in subset], min(first, k))
                if "likeliest" in figures:
                    best = max(subset, key=lambda i: (ended[i], group[i]["mean_logp"]))
                    figures["likeliest"][p] += (float(kind[best] == 0), *spent)
        for name in names:
            found[name].append((k, figures[name] / len(chosen)))
        for name, chance in {"majority": "cons@k", "pass@k": "pass@k"}.items():
            found[name][-1][1][:, 0] = exact[chance][k]
    return found


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    if cfg.m < 1:
        die(f"--m {cfg.m} must be at least 1")
    result = {"m": cfg.m, "rows": []}
    for name, side in zip("AB", sides):
        for way, points in ways(side, cfg.m).items():
            for k, values in points:
                right, tokens, longest = (point(values[:, i]) for i in range(3))
                row = {"side": name, "way": way, "k": k, "pass@1": right["value"], "pass@1_se": right["se"]}
                row |= {"mean_tokens": tokens["value"], "mean_tokens_se": tokens["se"], "longest": longest["value"]}
                result["rows"].append(row)
    return result


def show(r: dict) -> list[str]:
    rows = [[x["side"], x["way"], x["k"], num(x["pass@1"], 1, 100, x["pass@1_se"]),
             num(x["mean_tokens"], 0, 1, x["mean_tokens_se"]), num(x["longest"], 0)] for x in r["rows"]]  # fmt: skip
    return table(["", "way", "k", "right, %", "tokens a question", "longest answer, tokens"], rows)


if __name__ == "__main__":
    main(sys.modules[__name__])
