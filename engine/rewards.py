"""A reward by its name, with its options checked, as a function of one group of rollouts."""

import inspect
from collections.abc import Callable


def by_name(
    rewards: dict[str, Callable], name: str, options: dict, rows: list[dict]
) -> Callable[[list, list[bool], int, dict], list[float]]:
    """Returns f(rollouts of one group, their verdicts, cap, problem row) -> rewards.

    Args:
        rewards: `length_rewards.REWARDS`.
        name: One of its keys. options: That reward's options, as in --reward_options.
        rows: All problems that will be trained on: what the reward takes from a column must be there now.

    Raises:
        ValueError: Unknown name or option, or a column that is missing, with what there is.
    """
    if name not in rewards:
        raise ValueError(f"--reward {name} is unknown; there are {', '.join(rewards)}")
    wanted = [p.name for p in inspect.signature(rewards[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = [n for n in wanted if n not in ("texts", "ids", "tokens_after")]
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
        given = {"texts": [r.text for r in rollouts], "ids": [r.ids for r in rollouts]}
        given["tokens_after"] = lambda what: [r.tokens_after(what) for r in rollouts]
        given = {key: value for key, value in given.items() if key in wanted}
        given |= {key: row[key] for key in columns} | options
        return rewards[name](correct, [r.finished for r in rollouts], [len(r.ids) for r in rollouts], cap, **given)

    return call
