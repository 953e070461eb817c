"""What can go wrong with a policy while it learns, seen in its rollouts and in the steps of a round. Yours to edit."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.checkpoints import Step

if TYPE_CHECKING:
    from reward import Grade
    from sample import Rollout

# Why a rollout earned nothing (`cause`), as columns of log.csv and keys of eval.json: what to say, and what to do.
CAUSES = {
    "over_cap": ("did not end", "take a wider cap, or see whether the model's end token is the right one"),
    "no_think_end": ("have no </think>", "for a model that does not think aloud take --thinking false"),
    "no_box": ("have no \\boxed{}", "ask for one in --instruction"),
    "wrong": ("are wrong", "take easier problems"),
}


def in_words(shares: dict[str, float], examples: dict[str, str] | None = None) -> str:
    """Shares of rollouts by outcome ("correct" and CAUSES) as a sentence, with examples, and what to do about the most.

    >>> in_words({"correct": 0.0, "over_cap": 0.25, "wrong": 0.75}, {"wrong": "boxed 5 for 7"})
    '75% are wrong ("boxed 5 for 7"), 25% did not end: take easier problems'
    """
    said = {"correct": ("are right", "too easy: take a tighter cap or harder problems")} | CAUSES
    shares = {name: shares[name] for name in sorted(said, key=lambda n: -shares.get(n, 0)) if shares.get(name)}
    if not shares:
        return "nothing was measured"
    shown = {name: f' ("{text}")' for name, text in (examples or {}).items()}
    parts = [f"{share:.0%} {said[name][0]}{shown.get(name, '')}" for name, share in shares.items()]
    return f"{', '.join(parts)}: {said[next(iter(shares))][1]}"


def cause(rollout: "Rollout", verdict: "Grade", thinking: bool) -> str:
    """Why a rollout is not right, one of CAUSES; "correct" where it is."""
    if verdict.correct:
        return "correct"
    if not rollout.finished:
        return "over_cap"
    if thinking and "</think>" not in rollout.text:
        return "no_think_end"
    return "no_box" if verdict.answer is None else "wrong"


def outcomes(
    rollouts: "Sequence[Rollout]", verdicts: "Sequence[Grade]", golds: Sequence[str], thinking: bool
) -> tuple[dict[str, float], dict[str, str]]:
    """(share of the rollouts by `cause`, one short example of each): what a warning about a reward of 0 is made of."""
    causes = [cause(rollout, verdict, thinking) for rollout, verdict in zip(rollouts, verdicts)]
    examples: dict[str, str] = {}
    for name, rollout, verdict, gold in zip(causes, rollouts, verdicts, golds):
        end = " ".join(rollout.text[-400:].split())
        text = f"boxed {verdict.answer:.60} for {gold:.60}" if name == "wrong" else f"... {end[-60:]}"
        examples.setdefault(name, text)
    examples.pop("correct", None)
    return {name: causes.count(name) / max(1, len(causes)) for name in CAUSES}, examples


def hopeless(result: dict) -> str:
    """Why no reward can be earned from here, of a result without a right answer; else nothing.

    >>> hopeless({"pass@1": 0, "no_box": 1.0, "examples": {"no_box": "so it is 4."}})
    'no answer is right: 100% have no \\\\boxed{} ("so it is 4."): ask for one in --instruction'
    """
    return "" if result["pass@1"] > 0 else f"no answer is right: {in_words(result, result.get('examples'))}"


def shares_of(steps: list[Step]) -> dict[str, float]:
    """Mean share of each outcome over some steps, for `in_words`."""
    return {name: sum(getattr(step, name) for step in steps) / len(steps) for name in ("correct", *CAUSES)}


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


def collapse(history: list[Step]) -> dict[str, str]:
    """What has collapsed by the last step: name -> a sentence; empty for a healthy round.

    The last 3 steps are compared with the first 5 of the round, so there is nothing to see before step 6, but for a
    reward of 0.

    >>> healthy, cut = Step(1, reward=0.5, over_cap=0.2), Step(1, reward=0.5, over_cap=0.7)
    >>> collapse([healthy] * 8), list(collapse([healthy] * 5 + [cut] * 3))
    ({}, ['finished'])
    """
    def mean(name: str, steps: list[Step]) -> float:
        return sum(getattr(step, name) for step in steps) / len(steps)

    found, first, last = {}, history[:5], history[-3:]
    if len(history) >= 5 and all(step.reward == 0 for step in history[-5:]):
        found["reward"] = f"the reward was 0 for 5 steps: {in_words(shares_of(history[-5:]))}"
    if len(history) > 5:
        before, now = 1 - mean("over_cap", first), 1 - mean("over_cap", last)
        if now < 0.5 * before:
            found["finished"] = f"{now:.0%} of the rollouts end within the cap, in the first 5 steps {before:.0%}"
        for name, what in (("repeated", "repeat a passage"), ("no_thinking", "box an answer without thinking")):
            before, now = mean(name, first), mean(name, last)
            if now > 0.25 >= before:
                found[name] = f"{now:.0%} of the rollouts {what}, over the first 5 steps it was {before:.0%}"
    return found


def in_a_row(history: list[Step], bad: Callable[[Step], bool]) -> int:
    """How many of the last steps are bad, without a gap.

    >>> in_a_row([Step(1, reward=1.0), Step(2), Step(3, reward=1.0)], lambda step: step.reward > 0)
    1
    """
    return next((i for i, step in enumerate(reversed(history)) if not bad(step)), len(history))


def figure(step: Step, name: str) -> float:
    """One of `Step.figures`; 0 where the step does not have it, as it updated nothing."""
    return step.figures.get(name, 0.0)


def notes_of(step: Step, cap: int, examples: dict[str, str]) -> list[str]:
    """What to know after the first step of a call: whether rollouts end, and whether sampler and trainer agree.

    Args:
        examples: An example of each of CAUSES that the step has.
    """
    ended = 1 - step.over_cap
    lines = [f"after the first step: {ended:.0%} of the rollouts ended within the cap of {cap}"]
    if step.correct < 0.02:
        lines.append(f"warning: {step.correct:.0%} of the rollouts are right: {in_words(shares_of([step]), examples)}")
    elif ended < 0.1:
        lines.append("warning: under 10 % of the rollouts end within this cap: few can earn; take a wider cap")
    gap, largest = figure(step, "logp_gap"), figure(step, "logp_gap_max")
    return [*lines, f"sampler and trainer log-probs differ by {gap:.2g} on average, {largest:.2g} at most"]


def warnings_of(history: list[Step], groups: int, gap_limit: float, examples: dict | None = None) -> list[str]:
    """Warnings about the last step. Each is given once, when its condition begins.

    Args:
        groups: Groups a step. gap_limit: --logp_gap_limit.
        examples: An example of each of CAUSES that the last step has.
    """
    step, found = history[-1], collapse(history)
    lines = [found[name] for name in sorted(found.keys() - collapse(history[:-1]).keys())]
    if in_a_row(history, lambda step: step.dead_groups == groups * step.batches) == 5:
        why = in_words(shares_of(history[-5:]), examples)
        lines.append(f"all {groups} groups dead for 5 steps, so there is nothing to learn: {why}")
    if figure(step, "skipped"):
        lines.append(f"step {step.step} has a NaN or infinite loss or gradient; its update was skipped")
    if in_a_row(history, lambda step: figure(step, "logp_gap") > gap_limit) == 1:
        gap = f"sampler and trainer log-probs differ by {figure(step, 'logp_gap'):.3f}"
        lines.append(f"step {step.step}: {gap}: two more such steps end the run")
    return lines


def reason_to_stop(history: list[Step], gap_limit: float) -> str:
    """Why the run cannot go on after the last step, or nothing."""
    if in_a_row(history, lambda step: figure(step, "skipped") > 0) >= 3:
        return "NaN or infinite loss or gradient for 3 steps in a row: lower --lr, or take --dtype float32"
    if in_a_row(history, lambda step: figure(step, "logp_gap") > gap_limit) >= 3:
        gap = f"sampler and trainer log-probs differ by more than {gap_limit} for 3 steps"
        return f"{gap}, so the gradient is wrong: try --rollout_weights live"
    return ""
