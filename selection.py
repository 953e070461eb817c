"""Which checkpoint of a round wins: the shortest that keeps pass@1, measured again before it is believed.

A round that shall make a model better, not shorter, takes `prefer: right`: the most often right one wins.

The paper's rule (arXiv:2504.01296) takes, among the checkpoints whose pass@1 is at most 10 % below the reference, the
one with the shortest answers. With 60 problems x 4 samples that is close to a coin flip at its floor, and the shortest
of many noisy candidates tends to be a lucky one (`python dev/selection_noise.py` has the table). So here the winner is
measured again with fresh samples, both measurements are pooled, and the first that still passes is taken. Yours to
edit. `next_cap` is the rule of `caps: auto`.
"""

import math
from collections.abc import Callable

from eval import mean_and_se


def by_problem(rows: list[dict]) -> dict[str, list[int]]:
    """Problem id -> [right answers, answers, tokens] of graded rollout rows: what `pool` needs of a measurement.

    >>> by_problem([{"id": "a", "correct": True, "n_tokens": 5}, {"id": "a", "correct": False, "n_tokens": 8}])
    {'a': [1, 2, 13]}
    """
    found: dict[str, list[int]] = {}
    for row in rows:
        sums = found.setdefault(row["id"], [0, 0, 0])
        for i, value in enumerate((row["correct"], 1, row["n_tokens"])):
            sums[i] += value
    return found


def pool(first: dict, again: dict) -> dict:
    """pass@1 with its clustered standard error, and mean tokens, of two measurements of one checkpoint together.

    Args:
        first, again: Results with "by_problem" of the same problems.

    >>> a, b = {"by_problem": {"x": [1, 2, 20], "y": [0, 2, 60]}}, {"by_problem": {"x": [2, 2, 20], "y": [0, 2, 60]}}
    >>> pool(a, b)["pass@1"], pool(a, b)["mean_tokens"], pool(a, b)["n_samples"]
    (0.375, 20.0, 4)
    """
    groups, tokens = [], 0
    for name, (right, n, length) in first["by_problem"].items():
        more = again["by_problem"][name]
        right, n, tokens = right + more[0], n + more[1], tokens + length + more[2]
        groups.append([1.0] * right + [0.0] * (n - right))
    pass1, se = mean_and_se(groups)
    answers = sum(map(len, groups))
    return {"pass@1": pass1, "pass@1_se": se, "mean_tokens": tokens / answers, "n_samples": answers // len(groups)}


def floor(reference: dict, tolerance: float) -> float:
    """The least pass@1 that a checkpoint may have: 1e-9 below the product, so that rounding never rejects a loss of
    exactly the tolerance.

    >>> 153 / 240 >= floor({"pass@1": 170 / 240}, 0.1)
    True
    """
    return (1 - tolerance) * reference["pass@1"] - 1e-9


def candidates(results: list[dict], reference: dict, tolerance: float, prefer: str = "short") -> list[dict]:
    """The checkpoints that reach the floor, shortest first, or with `prefer` "right" the most often right first.

    None where nothing is right: not the reference, if it is to be kept; not the checkpoint, if it is to be better.

    >>> points = [{"pass@1": 0.3, "mean_tokens": 9}, {"pass@1": 0.5, "mean_tokens": 60}, {"pass@1": 0.0, "mean_tokens": 1}]
    >>> [p["mean_tokens"] for p in candidates(points, {"pass@1": 0.3}, 0.1)]
    [9, 60]
    >>> [p["mean_tokens"] for p in candidates(points, {"pass@1": 0.0}, 0.1, "right")]
    [60, 9]
    """
    good = [result for result in results if result["pass@1"] >= floor(reference, tolerance)]
    if prefer == "right":
        return sorted((r for r in good if r["pass@1"] > 0), key=lambda r: (-r["pass@1"], r["mean_tokens"]))
    return sorted(good if reference["pass@1"] > 0 else [], key=lambda result: result["mean_tokens"])


def select(
    results: list[dict], reference: dict, tolerance: float, measure_again: Callable[[dict], dict] | None = None,
    prefer: str = "short",
) -> tuple[dict | None, str]:  # fmt: skip
    """The first of `candidates`: their pass@1 is at most `tolerance` (relative) below the reference's. And why.

    Args:
        results: One for each checkpoint: "step", "pass@1", "mean_tokens" and, to measure again, "by_problem".
        measure_again: Takes a result and returns another of the same checkpoint, from fresh samples. The first
            candidate that also passes with both pooled is taken. None: the first candidate, as in the paper.

    >>> points = [{"step": 5, "pass@1": 0.50, "mean_tokens": 300.0},
    ...           {"step": 10, "pass@1": 0.46, "mean_tokens": 200.0},
    ...           {"step": 15, "pass@1": 0.30, "mean_tokens": 90.0}]
    >>> select(points, {"pass@1": 0.50}, 0.10)[0]["step"]
    10
    """
    least, good = floor(reference, tolerance), candidates(results, reference, tolerance, prefer)
    first, others = ("best", "better") if prefer == "right" else ("shortest", "shorter")
    said = f"{len(good)} of {len(results)} checkpoints with pass@1 of at least {percent(max(0.0, least))}"
    said += f" (reference {shown(reference)})"
    if not good:
        return None, f"start kept: {said}"
    if measure_again is None:
        return good[0], f"{first} of the {said}: {shown(good[0])}"
    fell = []
    for result in good:
        again = measure_again(result)
        both = pool(result, again)
        measured = f"step {result['step']}: {shown(result)}, measured again {shown(again)}, together {shown(both)}"
        if both["pass@1"] >= least:
            fell = f"; {others} ones that did not pass again: {'; '.join(fell)}" if fell else ""
            return result, f"{first} of the {said} that passes again; {measured}{fell}"
        fell.append(measured)
    return None, f"start kept: none of the {said} passes again; {'; '.join(fell)}"


TIGHTEST, WIDEST = 0.65, 0.8  # the next cap over the last
ENDED = 0.7  # share of the rollouts that must end under the next cap


def next_cap(rows: list[dict], last: int, percentile: float) -> dict:
    """The cap of the next round, a percentile of the right answers' lengths; or none, and which condition failed.

    Args:
        rows: Graded rollouts of the selected checkpoint: "n_tokens", "finished" and "correct" (right, and ended). None
            where no checkpoint kept pass@1.
        last: Cap of the round, which bounds the next one; 0 for the first cap, which nothing bounds.
        percentile: In (0, 100], nearest rank: the shortest length that so many percent do not exceed.

    Returns:
        "cap" (None: the rounds end), "why", and, where there are rollouts, the numbers.

    >>> rows = [{"n_tokens": n, "finished": True, "correct": True} for n in range(10, 110, 10)]
    >>> [next_cap(rows, last, 85)["cap"] for last in (130, 120, 110, 80)]
    [90, 90, 88, None]
    """
    if not rows:
        return {"cap": None, "why": "no next cap: no checkpoint keeps pass@1 within the tolerance"}
    right = sorted(row["n_tokens"] for row in rows if row["correct"])
    if not right:
        return {"cap": None, "why": f"no next cap: none of {len(rows)} rollouts is right", "rollouts": len(rows)}
    length = cap = right[math.ceil(percentile * len(right) / 100) - 1]
    said = f"percentile {percentile:g} of {len(right)} right lengths is {length}"
    if last:
        least, most = math.ceil(TIGHTEST * last), math.floor(WIDEST * last)
        cap = min(max(cap, least), most)
        said += f", the bounds are {least} and {most}"
    ended = sum(row["finished"] and row["n_tokens"] <= cap for row in rows) / len(rows)
    numbers = {"percentile": percentile, "length": length, "right": len(right), "rollouts": len(rows), "ended": ended}
    numbers["tokens"] = sum(row["n_tokens"] for row in rows)
    said += f"; {percent(ended)} of {len(rows)} rollouts end within {cap}"
    if ended < ENDED:
        return {"cap": None, "why": f"no next cap: {said}, not {percent(ENDED)}"} | numbers
    return {"cap": cap, "why": f"next cap {cap}: {said}"} | numbers


def measured_after(caps: int | str, cap: int) -> bool:
    """Whether the cap after the round of this cap is measured.

    >>> [measured_after("300 200 auto", cap) for cap in (300, 200, 150)], measured_after("300 200", 200)
    ([False, True, True], False)
    """
    *given, last = str(caps).split() or [""]
    return last == "auto" and not any(int(other) < cap for other in given if other.isdigit())


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def shown(result: dict) -> str:
    """pass@1 with its standard error, where there is one."""
    se = result.get("pass@1_se")
    return percent(result["pass@1"]) + (f" +- {100 * se:.1f}" if se is not None else "")
