"""pass@1, pass@k, the majority vote of k, lengths, their paired differences, and accuracy under a cap.

    python -m analysis.metrics out/toy/base_test out/toy/final_test       # B against A
    python -m analysis.metrics out/toy/final_test --caps "[50, 100, 200]"

cons@k is exact (every subset of k samples counts), not sampled. Every difference is paired by problem.
"""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import reward
from analysis.command import Settings, main
from analysis.evaluations import Evaluation, load_evaluation
from analysis.stats import (
    cons_at_k,
    difference,
    efficiency,
    interval,
    pass_at_k,
    point,
    powers,
    quotient_difference,
    quotient_ratio,
    ratio,
)
from analysis.tables import gap, num, table
from engine.files import die
from eval import mean_and_se, metrics

FILE, HEADING, FOLDERS = "metrics.json", "Metrics", (1, 2)


@dataclass
class Config(Settings):
    """Options of analysis.metrics."""

    caps: list[int] = field(default_factory=list)
    """Caps of the accuracy-under-a-cap curve, in tokens; empty: 20 steps up to the longest response."""


def kinds_of(rows: list[dict]) -> list[int]:
    r"""Which answer each row gives: 0 the right one, 1, 2, ... the wrong ones, -1 none (cut, or nothing boxed).

    >>> row = {"finished": True, "correct": False}
    >>> kinds_of([row | {"answer": a} for a in ("1/2", r"\frac12", "7", None)])
    [1, 1, 2, -1]
    """
    kinds, wrong = [], []
    for row in rows:
        if not row["finished"] or row["answer"] is None:
            kinds.append(-1)
        elif row["correct"]:
            kinds.append(0)
        else:
            k = next((k for k, answer in enumerate(wrong) if same(row["answer"], answer)), len(wrong))
            wrong += [row["answer"]] * (k == len(wrong))
            kinds.append(k + 1)
    return kinds


def ballots(rows: list[dict]) -> tuple[int, list[int], int]:
    r"""Votes of one problem's samples, as `cons_at_k` takes them: equal answers together; a cut rollout abstains.

    >>> row = {"finished": True, "correct": False}
    >>> ballots([row | {"answer": a} for a in ("1/2", r"\frac12", "7", None)])
    (0, [2, 1], 1)
    """
    counts = Counter(kinds_of(rows))
    right, silent = counts.pop(0, 0), counts.pop(-1, 0)
    return right, list(counts.values()), silent


def same(a: str, b: str) -> bool:
    """Whether two answers are written alike; never raises on the model's text."""
    try:
        return a == b or reward.same_answer(a, b, lambda *_: False)
    except (ValueError, IndexError, RecursionError):
        return False


def votes(side: Evaluation, ks: Sequence[int]) -> np.ndarray:
    """(len(ks), P) cons@k of each problem."""
    counts = [ballots(group) for group in side.groups]  # once: comparing spellings is the slow part
    return np.array([[cons_at_k(*count, k) for count in counts] for k in ks])


def chances(side: Evaluation) -> dict[str, dict[int, np.ndarray]]:
    """pass@k and cons@k of each problem, (P,), for k = 1, 2, 4, ..."""
    ks, n = powers(side.samples), side.samples
    passed = {k: np.array([pass_at_k(n, c, k) for c in side.right.sum(1).tolist()]) for k in ks}
    return {"pass@k": passed, "cons@k": dict(zip(ks, votes(side, ks)))}


PERCENTILES = {"10th percentile": 10, "median": 50, "90th percentile": 90, "longest": 100}


def lengths(tokens: np.ndarray, keep: np.ndarray) -> dict | None:
    """Mean, its error and percentiles of those lengths (P, S) that `keep` (P, S) marks; None where it marks none."""
    if not keep.any():
        return None
    mean, se = mean_and_se([row[k].tolist() for row, k in zip(tokens, keep) if k.any()])
    return {"n": int(keep.sum()), "mean": mean, "se": se} | dict(
        zip(PERCENTILES, np.percentile(tokens[keep], [*PERCENTILES.values()]).tolist()))


def area(side: Evaluation) -> np.ndarray:
    """(P, S): what each response adds to the area under pass@1 within a budget, over budgets from 0 to the cap.

    A right response of n tokens counts for every budget from n on, which is 1 - n / cap of them.
    """
    return side.right * (1 - side.tokens / side.info["cap"])


def measure(side: Evaluation, caps: list[int], chance: dict) -> dict:
    """Every figure of one side: those of eval.json, and pass@k, cons@k (of `chances`), percentiles, the curve."""
    right, tokens, figures = side.right, side.tokens, metrics(side.rows)
    rate = figures["pass@1"] / figures["mean_tokens"]
    return figures | {
        "pass@1_per_1k_tokens": 1000 * rate,
        # The error of a quotient of two means, to first order: that of its residuals (Cochran 1977, section 6.4).
        "pass@1_per_1k_tokens_se": point(1000 * (right - rate * tokens) / figures["mean_tokens"])["se"],
        **dict(zip(("budget_area", "budget_area_se"), point(area(side)).values())),
        **{kind: {k: point(values) for k, values in by_k.items()} for kind, by_k in chance.items()},
        "lengths": {kind: lengths(tokens, keep) for kind, keep in
                    (("all", tokens > 0), ("right", right), ("wrong", ~right))},
        "curve": [{"cap": cap} | side.figures(cap) for cap in caps],
    }


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    if min(cfg.caps, default=1) < 1:
        die("--caps must be at least 1")
    longest = max(int(side.tokens.max()) for side in sides)
    caps = sorted(set(cfg.caps or [math.ceil(longest * i / 20) for i in range(1, 21)]))
    chance = [chances(side) for side in sides]
    result = {name: measure(side, caps, c) for name, side, c in zip("AB", sides, chance)}
    if len(sides) > 1:
        columns = np.concatenate([side.means() / [1, 1000] for side in sides], 1)          # (P, 4), 1,000 tokens
        ended = [[np.mean([row["finished"] for row in group]) for group in side.groups] for side in sides]
        result["difference"] = {
            "pass@1": interval(columns[:, [0, 2]], difference),
            "mean_tokens": interval(1000 * columns[:, [1, 3]], difference),
            "tokens_ratio": interval(columns[:, [1, 3]], ratio, log=True),
            "finished": interval(np.array(ended).T, difference),
            "pass@1_per_1k_tokens": interval(columns, quotient_difference),
            "budget_area": interval(np.stack([area(side).mean(1) for side in sides], 1), difference),
            "efficiency": interval(columns, efficiency),
        }
        for kind, keeps in ("right", [side.right for side in sides]), ("wrong", [~side.right for side in sides]):
            sums = [x.sum(1) for side, keep in zip(sides, keeps) for x in (side.tokens * keep, keep)]      # 4 of (P,)
            result["difference"][f"tokens_ratio_{kind}"] = interval(np.stack(sums, 1), quotient_ratio, log=True)
        for kind, by_k in chance[0].items():
            pairs = {k: np.stack([x, chance[1][kind][k]], 1) for k, x in by_k.items() if k in chance[1][kind]}
            result["difference"][kind] = {k: interval(x, difference) for k, x in pairs.items()}
    return result


def show(r: dict) -> list[str]:
    sides, d = [side for side in "AB" if side in r], r.get("difference", {})
    rows = []
    for text, key, scale, digits in (("pass@1, %", "pass@1", 100, 1), ("mean tokens", "mean_tokens", 1, 1),
                                     ("finished, %", "finished", 100, 1),
                                     ("pass@1, points per 1,000 tokens", "pass@1_per_1k_tokens", 100, 1),
                                     ("mean pass@1 over all budgets, %", "budget_area", 100, 1)):
        cells = [num(r[s][key], digits, scale, r[s].get(key + "_se")) for s in sides]
        rows.append([text, *cells, gap(d[key], digits, scale) if d else ""])
    for kind in ("pass@k", "cons@k"):
        for k in sorted({k for s in sides for k in r[s][kind] if int(k) > 1}, key=int):
            found = [r[s][kind].get(k, {"value": None, "se": None}) for s in sides]
            cells = [num(x["value"], 1, 100, x["se"]) for x in found]
            rows.append([f"{kind[:5]}{k}, %", *cells, gap(d[kind][k], 1, 100) if k in d.get(kind, {}) else ""])
    lengths = [[f"{s}, {kind}", x["n"], num(x["mean"], 0, 1, x["se"]), *(num(x[p], 0) for p in PERCENTILES)]
               for kind in ("all", "right", "wrong") for s in sides for x in [r[s]["lengths"][kind]] if x]
    curve = [[x[0]["cap"], *(num(p["pass@1"], 1, 100, p["pass@1_se"]) for p in x),
              *(num(p["mean_tokens"], 0, 1, p["mean_tokens_se"]) for p in x)]
             for x in zip(*(r[s]["curve"] for s in sides))]
    return [*table(["", *sides, *(["B - A [95 %]"] if d else [])], rows if d else [row[:-1] for row in rows]),
            *([f"Tokens of B over tokens of A: {gap(d['tokens_ratio'], 3)}; of right answers "
               f"{gap(d['tokens_ratio_right'], 3)}; of wrong ones {gap(d['tokens_ratio_wrong'], 3)}.", "",
               f"Efficiency of B against A (AES 1, 3, 5): {gap(d['efficiency'], 3)}.", ""] if d else []),
            "pass@k: one of k answers is right; cons@k: the majority of k is, a tie counted in part. Over all budgets: "
            "the area under the last table's curve, from 0 to the cap.", "",
            *table(["tokens of", "responses", "mean", *PERCENTILES], lengths),
            "Had every response been cut at a cap (cut = wrong):", "",
            *table(["cap, tokens", *(f"pass@1 {s}, %" for s in sides), *(f"mean tokens {s}" for s in sides)], curve)]


def in_short(run: Path, caps: Sequence[int]) -> list[str]:
    """Two tables of both tests for summary.md; nothing where their rollouts are not there.

    Args:
        run: Run folder of a schedule. caps: What to cut at, in tokens.
    """
    folders = [run / "base_test", run / "final_test"]
    if not all((folder / "rollouts.jsonl").is_file() for folder in folders):
        return []
    names, sides = ("base", "final"), [load_evaluation(str(folder)) for folder in folders]
    cells = [[side.figures(cap) for side in sides] for cap in caps]
    curve = [[cap, *(num(x["pass@1"], 1, 100, x["pass@1_se"]) for x in found),
              *(num(x["mean_tokens"], 0, 1, x["mean_tokens_se"]) for x in found)] for cap, found in zip(caps, cells)]
    apart = [[f"{name}, {kind}", x["n"], num(x["mean"], 0, 1, x["se"])] for kind in ("right", "wrong")
             for name, side in zip(names, sides) if (x := lengths(side.tokens, side.right == (kind == "right")))]
    return ["The tests' rollouts once more, as if cut at other caps. A longer response has not ended, so it is wrong. "
            "The prompt named the same cap throughout.", "",
            *table(["cut at", *(f"{n}: pass@1 %" for n in names), *(f"{n}: mean tokens" for n in names)], curve),
            "Right and wrong answers of the tests apart:", "", *table(["", "answers", "mean tokens"], apart)]


if __name__ == "__main__":
    main(sys.modules[__name__])
