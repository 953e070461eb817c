"""Which problems a step samples, and which of their groups it trains on."""

import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from reward import Grade
    from sample import Rollout


class Group(NamedTuple):
    """All rollouts of one problem (G), graded and scored."""

    rollouts: list["Rollout"]
    verdicts: list["Grade"]
    rewards: list[float]
    gold: str


def batch_of(number: int, n_problems: int, per_step: int, seed: int) -> list[int]:
    """Problems of the batch of this number (from 1): the next piece of a shuffled epoch.

    A step goes on behind the batches that the log has (`Step.batches`): no problem comes early a second time, and
    resuming needs no other state.

    >>> sorted(batch_of(1, 6, 3, seed=0) + batch_of(2, 6, 3, seed=0))
    [0, 1, 2, 3, 4, 5]
    """
    chosen = []
    for k in range((number - 1) * per_step, number * per_step):
        epoch, i = divmod(k, n_problems)
        if i == 0 or not chosen:
            order = random.Random(f"{seed} {epoch}").sample(range(n_problems), n_problems)
        chosen.append(order[i])
    return chosen


def trained_on(alive: list[bool], wanted: int) -> list[int]:
    """Which of the sampled groups a step trains on, in their order: the first that are alive, filled up with dead ones.

    So a step always has as many groups as wanted, and mini-batches of one size. Where living groups are rare, the
    gradient is small, as the loss divides by the tokens of all. Those few alone would make a large and noisy one.

    >>> trained_on([True, False, True, False, True], 2), trained_on([False, True, False, False], 3)
    ([0, 2], [0, 1, 2])
    """
    return sorted(sorted(range(len(alive)), key=lambda i: not alive[i])[:wanted])
