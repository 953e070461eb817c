"""verl's reward manager: our rewards from the token ids, with the strict cap.

verl hands a plain `compute_score` the text with special tokens skipped, so it cannot see whether the end token came.
A reward manager is handed the ids. verl_round.sh names this file in reward.reward_manager; verl loads it in each of
its reward workers. Cap, reward and end tokens stand in the row (scale/export_data.py).

verl scores each rollout by itself, so rewards that compare the rollouts of a group are refused (verl_keys.py).
"""

import functools
import json
import sys
from pathlib import Path

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

sys.path.append(str(Path(__file__).resolve().parent.parent))  # verl loads this file by its path, on any worker
from engine.rewards import by_name  # noqa: E402
from length_rewards import REWARDS  # noqa: E402
from scale.rewards import score  # noqa: E402


@functools.cache
def reward_named(name: str, options: str, thinking: bool):
    """The reward of a row; columns that it needs are in the row itself."""
    return by_name(REWARDS, name, json.loads(options), [], thinking)


class PruneRewardManager(RewardManagerBase):
    """Grades one rollout at a time; "acc" is the strict verdict, right and ended within the cap."""

    def __init__(self, config, tokenizer, compute_score=None, reward_router_address=None, reward_model_tokenizer=None):
        super().__init__(config, tokenizer, compute_score)

    async def run_single(self, data) -> dict:
        """{"reward_score", "reward_extra_info"} of the last row of `data`, a verl DataProto.

        Its `responses` may be padded on the right, often with the end token itself. So the length comes from
        `attention_mask`, never from the ids.
        """
        item = data[-1:][0]
        row, width = item.non_tensor_batch["extra_info"], item.batch["responses"].shape[-1]
        length = int(item.batch["attention_mask"][-width:].sum())
        ids = item.batch["responses"][:length].tolist()
        ends = [int(i) for i in row["end_ids"]]
        reward_of = reward_named(row["reward"], row["reward_options"], row["thinking"])
        work = functools.partial(score, [ids], [row], self.tokenizer, ends, reward_of, row["cap"], 1, row["thinking"])
        (reward,), (correct,) = await self.loop.run_in_executor(None, work)
        about = {"acc": float(correct), "finished": float(bool(ids) and ids[-1] in ends), "tokens": length}
        return {"reward_score": reward, "reward_extra_info": about}
