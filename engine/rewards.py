"""A reward by its name, with its options checked, as a function of one group of rollouts."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace

from reward import is_correct

FROM_ROLLOUTS = ("texts", "ids", "thinking", "tokens_after", "right_within")  # what a reward may ask for by name


def made_up(lengths: list[int]) -> list[SimpleNamespace]:
    """Rollouts of these lengths that hold no text, to try a reward on."""
    return [
        SimpleNamespace(text="", ids=[1] * n, finished=True, first=lambda n: "", tokens_after=lambda what, n=n: n // 2)
        for n in lengths
    ]


def by_name(
    rewards: dict[str, Callable], name: str, options: dict, rows: list[dict], thinking: bool, group: int = 0,
    cap: int = 0,
) -> Callable[[list, list[bool], int, dict], list[float]]:  # fmt: skip
    """Returns f(rollouts of one group, their verdicts, cap, problem row) -> rewards.

    Args:
        rewards: `length_rewards.REWARDS`.
        name: One of its keys. options: That reward's options, as in --reward_options.
        rows: All problems that will be trained on: what the reward takes from a column must be there now.
        thinking: An answer counts only after </think>.
        group, cap: Of the run; with them the reward is tried once, so that it can refuse options before any rollout.

    Raises:
        ValueError: Unknown name or option, a column that is missing, with what there is, or what the reward refuses.
    """
    if name not in rewards:
        raise ValueError(f"--reward {name} is unknown; there are {', '.join(rewards)}")
    wanted = [p.name for p in inspect.signature(rewards[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = [n for n in wanted if n not in FROM_ROLLOUTS]
    if unknown := sorted(set(options) - set(own)):
        raise ValueError(f"--reward_options {unknown} unknown to {name}, which takes {own or 'none'}")
    for key, value in options.items():
        default = inspect.signature(rewards[name]).parameters[key].default
        kind = (int, float) if isinstance(default, float) else type(default)
        if default is not inspect.Parameter.empty and (not isinstance(value, kind) or isinstance(value, bool)):
            wanted_kind = f"{type(default).__name__}, as {default!r}"
            raise ValueError(f"--reward_options {key} is {value!r}: {name} takes {wanted_kind}")
    columns = [key for key in ("ref_tokens", "ref_accuracy") if key in wanted and key not in options]
    for key in columns:
        if any(row.get(key) is None for row in rows):
            raise ValueError(f"--reward {name} needs {key}: a column of the problem file, or in --reward_options")

    def call(rollouts: list, correct: list[bool], cap: int, row: dict) -> list[float]:
        given = {"texts": [r.text for r in rollouts], "ids": [r.ids for r in rollouts], "thinking": thinking}
        given["tokens_after"] = lambda what: [r.tokens_after(what) for r in rollouts]
        given["right_within"] = lambda n: [is_correct(r.first(n), row["answer"], thinking) for r in rollouts]
        given = {key: value for key, value in given.items() if key in wanted}
        given |= {key: row[key] for key in columns} | options
        return rewards[name](correct, [r.finished for r in rollouts], [len(r.ids) for r in rollouts], cap, **given)

    if group:
        try:
            call(made_up([max(1, cap // 2)] * group), [True] * group, cap, rows[0])
        except ValueError as error:
            raise ValueError(f"--reward {name}: {error}") from error
    return call
