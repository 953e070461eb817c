"""The mathematics of a GRPO step: advantages, the clipped loss with its KL, the update. Yours to edit.

    python train_prune.py --config config/toy.yaml --cap 180 --advantage batch --clip_high 0.28 --out_dir out/batch

`cfg` is `train_prune.Config` throughout. In reading order: `advantages` (rewards in, weights of the rollouts out),
`from_logits` and `policy_loss` (log-probs in, loss and figures for the log out), and from the bottom up the update:
`micro_step` (a few rollouts forward and backward), `add_gradient` (all of them), `update_policy` (the optimizer's steps
of one batch).
"""

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from engine.files import die, fail
from engine.logits import token_logp
from engine.memory import in_pieces, micro_batches
from engine.policy import start_of_round
from engine.progress import Progress
from sample import Rollout

Advantage = Literal["group", "batch", "center"]
"""What --advantage takes."""


def advantages(rewards: torch.Tensor, scale: Advantage) -> torch.Tensor:
    """Rewards (P, G) -> advantages (P, G): centred within the group, then scaled. Yours to edit.

    >>> advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "center").tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    >>> advantages(torch.full((1, 8), 0.7), "group").abs().max().item()
    0.0

    Source: GRPO (arXiv:2402.03300) for "group", DLER (arXiv:2510.15110) for "batch", Dr. GRPO for "center".
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # The mean of equal numbers can be one rounding off, which the division would blow up to 0.1.
    centred[(rewards == rewards[:, :1]).all(dim=1)] = 0.0
    if scale == "group":
        return centred / (rewards.std(dim=1, keepdim=True) + 1e-6)
    if scale == "batch":
        return centred / (centred.std() + 1e-6)
    return centred


def filtered_advantages(
    rewards: torch.Tensor, lengths: torch.Tensor, scale: Advantage, keep: int, by: str = "length"
) -> torch.Tensor:
    """Advantages (P, G) from the `keep` shortest rollouts of each group alone; the others have 0.

    Mean and deviation are those of the kept ones. The others stay in the loss's divisor, the tokens of the whole batch,
    and in the KL. Of rollouts that are equal, the first is kept.

    Args:
        rewards: (P, G). lengths: (P, G), tokens.
        keep: From 2 to G; the paper takes 8 of 24.
        by: "length", or "reward_per_token": those with the most reward a token. It keeps all right ones first.

    >>> rewards, lengths = torch.tensor([[0.0, 1.0, 1.0, 1.0]]), torch.tensor([[20, 30, 40, 90]])
    >>> filtered_advantages(rewards, lengths, "center", 2).tolist()
    [[-0.5, 0.5, 0.0, 0.0]]

    Source: GFPO (group filtered policy optimization), arXiv:2508.09726.
    """
    order = lengths if by == "length" else -rewards / lengths
    kept = order.argsort(dim=1, stable=True)[:, :keep]                           # (P, keep)
    return torch.zeros_like(rewards).scatter(1, kept, advantages(rewards.gather(1, kept), scale))


def from_logits(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """What log or loss need of each token's whole distribution: logits (n, V) -> figures (n,) by name. Yours to edit.

    Here none. They reach `policy_loss` as `seen`, and the log by themselves. The entropy, for the log alone:

        logp = logits.detach().log_softmax(-1)      # a loss needs it without detach; unused, that would fill the memory
        return {"entropy": -(logp.exp() * logp).sum(-1)}
    """
    return {}


def policy_loss(logp, old_logp, sampler_logp, ref_logp, adv, lengths: list[int], n_tokens: int, cfg, seen=None):
    """Clipped policy-gradient loss plus KL, summed over some of a batch's sequences. Yours to edit, or to copy.

    Args:
        logp: (N,) log-probs of the response tokens under the policy now, sequence after sequence, with gradient.
        old_logp: (N,) under the trainer's weights before the first update of this batch.
        sampler_logp: (N,) as recorded when the token was sampled.
        ref_logp: (N,) under the round's start, or None for no KL.
        adv: (N,) advantage of the token's rollout.
        lengths: Response tokens of each sequence: `logp.split(lengths)` are the sequences, for a loss of your own.
        n_tokens: Response tokens of the WHOLE batch, of problems_per_step * group / updates_per_batch sequences.
        seen: (N,) each, by name: what `from_logits` returned, if anything.

    Returns:
        (loss, figures): figures are (N,) each, by name. log.csv and TensorBoard get their mean, or the largest where
        the name ends in _max; a new one needs no other line anywhere. With beta 0, dead groups are not in them.

    Source: PPO clip; truncated importance sampling as in "Your efficient RL framework secretly brings you
    off-policy RL training" (Yao et al. 2025); k3 from Schulman, "Approximating KL divergence".
    """
    ratio = (logp - old_logp).exp()                                              # (N,)
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)                   # (N,)
    # The sampler's weights are rounded differently (merged, bf16): correct for it, truncated against outliers.
    weight = (old_logp - sampler_logp).exp().clamp(max=cfg.importance_cap)       # (N,)
    loss = -(weight * torch.minimum(ratio * adv, clipped * adv)).sum() / n_tokens
    gap = (old_logp - sampler_logp).abs()                                        # (N,)
    figures = (seen or {}) | {"clipped": ratio * adv > clipped * adv, "weight_mean": weight, "weight_max": weight}
    figures |= {"logp_gap": gap, "logp_gap_max": gap}
    if ref_logp is not None:
        # k3 is at least 0, and 0 only where both agree; it is added: more KL, more loss. Clamped as the authors and
        # verl do: one token far from the reference would otherwise drown all others.
        apart = (ref_logp - logp).clamp(-20, 20)                                 # (N,)
        k3 = apart.exp() - apart - 1                                             # (N,)
        loss = loss + cfg.beta * k3.clamp(max=10).sum() / n_tokens
        figures |= {"kl": k3, "kl_max": k3}
    return loss, figures


LOSSES: dict[str, Callable] = {f.__name__: f for f in (policy_loss,)}
"""What --loss takes."""


# ---------------------------------------------------------------------------------------- the update


@dataclass
class Item:
    """One rollout as the update sees it."""

    rollout: Rollout
    advantage: float
    old_logp: torch.Tensor | None = None
    """(tokens,) under the trainer's weights before the first update of the batch."""
    ref_logp: torch.Tensor | None = None
    """(tokens,) under the round's start, where there is a KL."""

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.rollout.prompt_ids) + len(self.rollout.ids)


def micro_step(policy, items: list[Item], n_tokens: int, cfg, scale: float = 1.0):
    """Adds the gradient of a few rollouts to what is there; returns (loss, figures) as `policy_loss` does.

    Items without old and reference log-probs get them: the weights are those before the batch's first update.

    Args:
        n_tokens: Response tokens of the whole batch; 0 only fills in the log-probs, without a gradient.
        scale: The gradient comes out this many times as large.
    """
    device = next(policy.parameters()).device
    width, lengths = max(item.length for item in items), [len(item.rollout.ids) for item in items]
    ids = torch.zeros(len(items), width, dtype=torch.long)                       # (B, T)
    mask = torch.zeros(len(items), width, dtype=torch.bool)                      # (B, T), True on response tokens
    for row, item in enumerate(items):
        ids[row, : item.length] = torch.tensor(item.rollout.prompt_ids + item.rollout.ids)
        mask[row, len(item.rollout.prompt_ids) : item.length] = True
    ids, mask = ids.to(device), mask.to(device)
    sampler_logp = torch.cat([item.rollout.logp for item in items]).to(device)   # (N,)
    adv = torch.tensor([item.advantage for item in items], device=device)        # (B,)
    adv = adv.repeat_interleave(torch.tensor(lengths, device=device))            # (N,)
    first = any(item.old_logp is None for item in items)
    bf16 = device.type == "cuda" and policy.get_base_model().dtype == torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):  # in float16 the LoRA is float32
        if first and cfg.beta > 0:
            with torch.no_grad(), start_of_round(policy):
                start_logp = token_logp(policy, ids, mask, cfg.temperature, cfg.head_chunk)
            for item, part in zip(items, start_logp.split(lengths)):
                item.ref_logp = part
        with torch.set_grad_enabled(n_tokens > 0):
            logp, seen = token_logp(policy, ids, mask, cfg.temperature, cfg.head_chunk, from_logits)  # (N,)
    if first:
        for item, part in zip(items, logp.detach().split(lengths)):
            item.old_logp = part
    if not n_tokens:
        return 0.0, {}
    old_logp = torch.cat([item.old_logp for item in items])                      # (N,)
    ref_logp = torch.cat([item.ref_logp for item in items]) if cfg.beta > 0 else None
    loss, figures = LOSSES[cfg.loss](logp, old_logp, sampler_logp, ref_logp, adv, lengths, n_tokens, cfg, seen)
    (loss * scale).backward()
    return loss.item(), figures


def add_gradient(policy, items: list[Item], n_tokens: int, cfg, tokens: int) -> dict[str, float]:
    """The gradient of some items, from nothing; returns the loss and the means of `policy_loss`'s figures.

    Args:
        n_tokens: See `micro_step`.
        tokens: Padded tokens per backward pass, at most; at least one rollout goes through.
    """
    return without_overflow(policy, n_tokens, functools.partial(gradient_of, policy, items, n_tokens, cfg, tokens))


def without_overflow(policy, n_tokens: int, gradient: Callable[[float], dict[str, float]]) -> dict[str, float]:
    """Calls `gradient(scale of the loss)` as float16 needs it, undoes the scale, and returns the figures of the call.

    Args:
        n_tokens: Response tokens of the batch.
        gradient: Leaves the gradient in the policy, begun from nothing; "loss" is among its figures.
    """
    # float16 ends at 65504 and below 6e-8. So there the loss is divided by the batch's tokens after the backward, not
    # before; where a gradient overflows, it is made again smaller. No step is lost. LoRA and its gradient are float32.
    half = policy.get_base_model().dtype == torch.float16
    scale = 16.0 * max(1, n_tokens) if half else 1.0
    while True:
        result = gradient(scale)
        gradients = [p.grad for p in policy.parameters() if p.grad is not None]
        if scale == 1.0 or not math.isfinite(result["loss"]) or all(g.isfinite().all() for g in gradients):
            for gradient in gradients if scale != 1.0 else []:
                gradient.div_(scale)
            return result
        scale = max(1.0, scale / 64)


def gradient_of(policy, items: list[Item], n_tokens: int, cfg, tokens: int, scale: float) -> dict[str, float]:
    """`add_gradient` at one scale of the loss."""
    policy.zero_grad(set_to_none=True)
    total = sum(len(item.rollout.ids) for item in items)
    result = {"loss": 0.0}
    batches = micro_batches([item.length for item in items], tokens)
    with Progress("update", len(batches), "piece") as progress:
        for batch in batches:
            loss, figures = micro_step(policy, [items[i] for i in batch], n_tokens, cfg, scale)
            result["loss"] += loss
            for name, values in figures.items():
                if name.endswith("_max"):
                    result[name] = max(result.get(name, 0.0), values.max().item())
                else:
                    result[name] = result.get(name, 0.0) + values.float().sum().item() / total
            progress.step()
    return result


def update_policy(
    policy, optimizer, rollouts: list[Rollout], adv: list[float], cfg, tokens: int,
    stoppable: Callable = contextlib.nullcontext,
) -> tuple[dict[str, float], int]:  # fmt: skip
    """Optimizer steps on one batch; returns (figures, tokens a micro-batch that fitted).

    Figures are means over the steps, or the largest where the name ends in _max, and "skipped", how many were left out.
    Where memory runs out, a gradient begins again with half the tokens a micro-batch, and comes out the same.

    Args:
        adv: Advantage of each rollout.
        tokens: Padded tokens per backward pass to begin with.
        stoppable: Context in which a stop signal may be raised: until the weights change for the first time.
    """
    size = len(rollouts) // cfg.updates_per_batch
    parts = [slice(i, i + size) for i in range(0, len(rollouts), size)]
    # Without KL a rollout of advantage 0 has no gradient: it counts in n_tokens and is not computed.
    every = [Item(r, a) if a != 0 or cfg.beta > 0 else None for r, a in zip(rollouts, adv)]
    updates = [([item for item in every[part] if item], sum(len(r.ids) for r in rollouts[part])) for part in parts]
    updates = [(items, n_tokens) for items, n_tokens in updates if items] * cfg.passes
    if len(updates) > cfg.passes:  # the weights change before the later parts are seen: their old log-probs come first
        updates.insert(0, ([item for item in every if item], 0))
    steps, skipped, changed = [], 0, False
    for items, n_tokens in updates:
        with contextlib.nullcontext() if changed else stoppable():
            found, tokens = in_pieces(
                functools.partial(add_gradient, policy, items, n_tokens, cfg), [item.length for item in items], tokens,
                "lower --cap or --head_chunk, or take --gradient_checkpointing true or --load_4bit true",
                stop=fail if changed else die,  # later the weights are no longer those of a whole step: nothing to save
            )  # fmt: skip
        if not n_tokens:
            continue
        parameters = [p for p in policy.parameters() if p.requires_grad]
        steps.append(found | {"grad": torch.nn.utils.clip_grad_norm_(parameters, cfg.grad_clip).item()})
        if math.isfinite(steps[-1]["grad"]) and math.isfinite(steps[-1]["loss"]):
            optimizer.step()
            changed = True
        else:
            skipped += 1
    policy.zero_grad(set_to_none=True)
    steps = steps or [{"loss": 0.0, "grad": 0.0}]  # all groups dead
    columns = {name: [step[name] for step in steps] for name in steps[0]}
    figures = {name: max(x) if name.endswith("_max") else sum(x) / len(x) for name, x in columns.items()}
    return figures | {"skipped": float(skipped)}, tokens
