"""What can go wrong with a policy while it learns, seen in its rollouts and in the rows of log.csv."""

from collections.abc import Callable


def repeats(ids: list[int], size: int = 20, times: int = 3) -> bool:
    """Whether one n-gram of `size` tokens stands at least `times` times in a rollout.

    >>> repeats([1, 2, 3, 4] * 3, size=4), repeats([1, 2, 3, 4] * 2, size=4)
    (True, False)
    """
    seen: dict[tuple, int] = {}
    for gram in zip(*(ids[i:] for i in range(size))):
        seen[gram] = seen.get(gram, 0) + 1
        if seen[gram] == times:
            return True
    return False


def answers_at_once(text: str, words: int = 5) -> bool:
    r"""Whether a boxed answer comes with a thought of under `words` words, for models that are to think first.

    >>> answers_at_once(r"\n</think> \boxed{3}"), answers_at_once(r"2 + 1 is 3, I am sure.</think> \boxed{3}")
    (True, False)
    """
    thought, closed, answer = text.rpartition("</think>")
    if not closed:
        thought, _, answer = text.partition("\\boxed{")
        return bool(answer) and len(thought.split()) < words
    return "\\boxed{" in answer and len(thought.replace("<think>", " ").split()) < words


def collapse(table: list[dict]) -> dict[str, str]:
    """What has collapsed by the last row of the log: name -> a sentence; empty for a healthy round. Yours to edit.

    The last 3 steps are compared with the first 5 of the round, so there is nothing to see before step 6, but for a
    reward of 0.

    >>> healthy = {"over_cap": 0.2, "reward": 0.5, "repeated": 0.0, "no_thinking": 0.0}
    >>> collapse([healthy] * 8), list(collapse([healthy] * 5 + [healthy | {"over_cap": 0.7}] * 3))
    ({}, ['finished'])
    """
    def mean(name: str, rows: list[dict]) -> float:
        return sum(float(row[name]) for row in rows) / len(rows)

    found = {}
    if len(table) >= 5 and all(float(row["reward"]) == 0 for row in table[-5:]):
        found["reward"] = "the reward was 0 for 5 steps: the cap is too tight or the problems are too hard"
    if len(table) > 5:
        before, now = 1 - mean("over_cap", table[:5]), 1 - mean("over_cap", table[-3:])
        if now < 0.5 * before:
            found["finished"] = f"{now:.0%} of the rollouts end within the cap, in the first 5 steps {before:.0%}"
        for name, what in (("repeated", "repeat a passage"), ("no_thinking", "box an answer without thinking")):
            before, now = mean(name, table[:5]), mean(name, table[-3:])
            if now > 0.25 >= before:
                found[name] = f"{now:.0%} of the rollouts {what}, over the first 5 steps it was {before:.0%}"
    return found


def in_a_row(table: list[dict], bad: Callable[[dict], bool]) -> int:
    """How many of the last rows are bad, without a gap.

    >>> in_a_row([{"skipped": 1}, {"skipped": 0}, {"skipped": 1}], lambda row: row["skipped"] > 0)
    1
    """
    return next((i for i, row in enumerate(reversed(table)) if not bad(row)), len(table))


def warnings_of(table: list[dict], groups: int, gap_limit: float) -> list[str]:
    """What the log's last row gives reason to say, each when it begins.

    Args:
        groups: Groups a step. gap_limit: --logp_gap_limit.
    """
    step, found = table[-1]["step"], collapse(table)
    lines = [found[name] for name in sorted(found.keys() - collapse(table[:-1]).keys())]
    if in_a_row(table, lambda row: int(row["dead_groups"]) == groups) == 5:
        lines.append(f"all {groups} groups dead for 5 steps: nothing to learn; too easy or too hard for this cap")
    if int(table[-1]["skipped"]):
        lines.append(f"step {step} has a loss or gradient that is no number; its update was skipped")
    if in_a_row(table, lambda row: float(row["logp_gap"]) > gap_limit) == 1:
        gap = float(table[-1]["logp_gap"])
        lines.append(f"step {step}: sampler and trainer log-probs differ by {gap:.3f}: two more such steps end the run")
    return lines


def reason_to_stop(table: list[dict], gap_limit: float) -> str:
    """Why the run cannot go on after the log's last row, or nothing."""
    if in_a_row(table, lambda row: int(row["skipped"]) > 0) >= 3:
        return "the loss or gradient was no number for 3 steps in a row: lower --lr, or take --dtype float32"
    if in_a_row(table, lambda row: float(row["logp_gap"]) > gap_limit) >= 3:
        return f"sampler and trainer log-probs differ by more than {gap_limit} for 3 steps: the gradient is wrong"
    return ""
