"""Our rewards for rollouts that another engine sampled: token ids in, one number a rollout out.

TRL and verl hand their reward functions texts without special tokens, from which nobody can see whether the end token
came. So both adapters (trl_prune.py, verl_reward.py) start from the token ids and go the way of train_prune.py from
there on: `eval.grade` for the verdict, a function of length_rewards.py for the reward.
"""

from collections.abc import Callable, Collection, Sequence

from engine.files import die
from engine.rewards import made_up
from eval import grade
from sample import Rollout

# Length in percent of the cap, right: a group with all outcomes, and one that is right, with an outlier.
PROBES = [(10, True), (60, True), (30, False), (80, False)] * 16, [(10, True)] * 63 + [(90, True)]


def rollout_of(ids: list[int], tokenizer, ends: Collection[int], cap: int) -> Rollout:
    """One rollout from its response tokens; it has finished if an end token stands last, within the cap."""
    ended = bool(ids) and ids[-1] in ends
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=False)
    return Rollout([], ids, None, ended and len(ids) <= cap, text, tokenizer)


def score(
    ids: Sequence[list[int]],
    rows: Sequence[dict],
    tokenizer,
    ends: Collection[int],
    reward_of: Callable[[list[Rollout], list[bool], int, dict], list[float]],
    cap: int,
    group: int,
    thinking: bool = True,
) -> tuple[list[float], list[bool]]:
    """(reward, strict verdict) of each rollout; groups stand one after another and are whole.

    Args:
        ids: Response tokens of each rollout, the end token included, no padding.
        rows: The problem row of each rollout: `id`, `answer` and what the reward needs.
        reward_of: From `engine.rewards.by_name`.
        group: Rollouts of one problem.

    Raises:
        RuntimeError: A group is not whole, which happens where an engine spreads it over processes.
    """
    starts = range(0, len(ids), group)
    if len(ids) % group or any(len({row["id"] for row in rows[k : k + group]}) > 1 for k in starts):
        raise RuntimeError(f"{len(ids)} rollouts are no whole groups of {group}: the reward needs them in one process")
    rollouts = [rollout_of(x, tokenizer, ends, cap) for x in ids]
    correct = [verdict.correct for verdict in grade(rollouts, [row["answer"] for row in rows], thinking)]
    groups = [slice(k, k + group) for k in starts]
    rewards = [reward for g in groups for reward in reward_of(rollouts[g], correct[g], cap, rows[g.start])]
    return rewards, correct


def needs_group(reward_of: Callable, cap: int, row: dict) -> bool:
    """Whether a rollout's reward changes with the others of its group, seen on two made-up groups."""
    for probe in PROBES:
        made, right = made_up([max(1, n * cap // 100) for n, _ in probe]), [correct for _, correct in probe]
        alone = [reward_of([rollout], [correct], cap, row)[0] for rollout, correct in zip(made, right)]
        if alone != reward_of(made, right, cap, row):
            return True
    return False


def refuse_own_steps(cfg) -> None:
    """Exits with status 2 where the run asks for what train_prune.py alone does in a step: the engines have theirs."""
    for name in ("resample_dead", "keep_shortest", "sample_tokens"):
        if value := getattr(cfg, name):
            die(f"--{name} {value} is not handed to TRL or verl: use train_prune.py")
    if cfg.loss != "policy_loss":
        die(f"--loss {cfg.loss} is a function of grpo.py, which TRL and verl do not call: use train_prune.py")
