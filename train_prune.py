"""One round of ThinkPrune: GRPO on a LoRA over a frozen 4-bit base, where a rollout beyond the cap earns 0.

    python train_prune.py --config config/toy.yaml --cap 300 --out_dir out/toy/cap300
    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/toy/cap200 \
        --init_adapter out/toy/cap300/step0008
    bash schedule.sh                            # all rounds, with selection between them and a report

The same command again resumes from the newest checkpoint, or says that the round is done; Ctrl-C saves first.

How this differs from the paper (arXiv:2504.01296) and its code:
- LoRA over NF4 on one GPU, not full fine-tuning on 16; hence fewer rollouts a step and a higher rate;
- the rule is enforced: no end token within the cap, no reward, even if a right answer stands in the text;
- the KL term has the sign that keeps the policy near its start (theirs is flipped);
- old log-probs come from the sampler (one forward less); a truncated importance weight corrects for the
  rollout weights' rounding. With one update per batch, ratio and clip are exactly neutral;
- left out on purpose: reward models, several GPUs, asynchronous sampling, a value network.

Reading order: Config, the formulas (reward, advantage, log-probs, loss), then `train`, which is the loop. What keeps
a night's run whole (checkpoints, signals, full disks) stands in engine/run_folder.py.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.utils.checkpoint
import yaml

import length_rewards
import reward
from engine import alarms, run_folder
from engine.files import Options, die, disk_errors, fail, parse, read_json, write_text
from engine.memory import memory_plan, out_of_memory
from engine.policy import fingerprint, load_policy, refresh_copy, rollout_model
from engine.slots import float_logits
from eval import evaluate, metrics
from sample import Rollout, encode_prompts, load_problems, sample_within_memory


@dataclass
class Config(Options):
    """Options of train_prune.py: each is a YAML key and a --flag."""

    # --- the method
    cap: int = 4000
    """Token cap L of this round: a rollout that has not ended by then scores 0."""
    group: int = 8
    """Rollouts per problem (G), at least 2; the paper takes 16."""
    problems_per_step: int = 32
    """Problems per step (P); the paper takes 128."""
    steps: int = 190
    """Steps of this round."""
    reward: str = "thinkprune"
    """thinkprune, or a function of length_rewards.py by name."""
    reward_options: dict[str, Any] = field(default_factory=dict)
    """Options of that reward, as in --reward_options '{"weight": 0.5}'."""
    advantage: Literal["group", "batch", "center"] = "group"
    """Divide the centred reward by the group's deviation, the batch's (DLER), or nothing."""
    temperature: float = 1.0
    """Of the training rollouts; anything but 1 trains another distribution than the model's own."""
    top_p: float = 1.0
    """Of the training rollouts; below 1 the gradient is biased."""
    beta: float = 0.001
    """Weight of the k3 KL to the adapter that the round starts from; 0 saves the reference's forward."""
    updates_per_batch: int = 1
    """Passes over each batch; the clip range only matters from the second on."""
    clip_low: float = 0.2
    """The ratio is clipped below 1 - this."""
    clip_high: float = 0.2
    """The ratio is clipped above 1 + this (DLER: 0.28)."""
    importance_cap: float = 2.0
    """Truncation C of the importance weight exp(trainer - sampler log-prob), per token."""
    # --- optimizer and LoRA
    lr: float = 1e-5
    """Rate of AdamW."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """cosine falls to 0 at the last step of the round."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    lora_r: int = 32
    """Rank of the LoRA on every linear layer."""
    lora_alpha: int = 64
    """LoRA scale: alpha / r."""
    # --- data and rounds
    train_data: str = "out/toy_base/train.jsonl"
    """Problem file (JSON lines) or hub data set `id:split`."""
    val_data: str = "out/toy_base/val.jsonl"
    """Problems that choose the checkpoint; never those of the test."""
    test_data: str = ""
    """Problems of schedule.sh's last evaluation; not read here."""
    test_samples: int = 16
    """Answers per test problem; not read here."""
    caps: int | str = "4000 3000 2000"
    """The rounds of schedule.sh; not read here."""
    init_adapter: str = ""
    """Adapter that the round starts from (the one before selected it); empty starts a new LoRA."""
    out_dir: str = "out/round"
    """Folder of this round."""
    fresh: bool = False
    """Move a folder that is there to <out_dir>.old1 (or the next free number) and begin anew."""
    # --- validation and selection
    checkpoint_every: int = 20
    """Steps between checkpoints, each with a validation."""
    val_samples: int = 4
    """Answers per validation problem; the paper takes 16."""
    val_cap: int = 8000
    """Token cap of validation and test; the prompt still names the round's cap."""
    val_temperature: float = 0.6
    """Sampling temperature of validation and test."""
    val_top_p: float = 0.95
    """Nucleus of validation and test."""
    reference: str = ""
    """eval.json that selection compares with; empty measures this round's start."""
    tolerance: float = 0.10
    """A checkpoint may lose this share of the reference's pass@1, then the shortest wins."""
    # --- memory: lower these first when the card runs out
    tokens_per_micro_batch: int = 16384
    """Padded tokens per backward pass: moves speed and memory, never the gradient."""
    head_chunk: int = 512
    """Tokens whose logits exist at the same time."""
    gradient_checkpointing: Literal["auto", "true", "false"] = "auto"
    """Recompute activations in the backward; auto: on CUDA."""
    # --- alarms
    logp_gap_limit: float = 0.1
    """Warn when sampler and trainer log-probs differ by more than this on average, stop at the third step in a row:
    one of them is broken."""
    stop_on_collapse: bool = False
    """End the round, with selection from the checkpoints so far, when a collapse is seen (see `collapse`)."""


# Options that move speed and memory only, or are read elsewhere: a resumed round may change them.
FREE = {"rows", "rollout_weights", "tokens_per_micro_batch", "head_chunk", "gradient_checkpointing", "device", "fresh"}
FREE |= {"caps", "test_data", "test_samples", "out_dir"}  # out_dir: a folder may be moved


# ---------------------------------------------------------------------------------------- reward


def make_reward(name: str, options: dict[str, Any]) -> Callable[[list[Rollout], list[bool], int, dict], list[float]]:
    """Returns f(rollouts of one group, verdicts, cap, problem row) -> rewards; exits where name or options are unknown.

    `thinkprune` is reward.py's strict cap; every other name is a function of length_rewards.py. A family that asks
    for `texts` or `ids` gets them; `ref_tokens` and `ref_accuracy` come from the problem row, or the options.
    """
    if name == "thinkprune":
        if options:
            die(f"--reward thinkprune takes no --reward_options, got {sorted(options)}")
        return lambda group, correct, cap, row: [
            reward.thinkprune(c, r.finished, len(r.ids), cap) for c, r in zip(correct, group)
        ]
    if name not in length_rewards.FAMILIES:
        die(f"--reward {name} is unknown; there are thinkprune, {', '.join(length_rewards.FAMILIES)}")
    family = length_rewards.FAMILIES[name]
    wanted = [p.name for p in inspect.signature(family).parameters.values() if p.kind is p.KEYWORD_ONLY]
    own = [n for n in wanted if n not in ("texts", "ids")]
    if unknown := sorted(set(options) - set(own)):
        die(f"--reward_options {unknown} unknown to {name}, which takes {own or 'none'}")

    def call(group: list[Rollout], correct: list[bool], cap: int, row: dict) -> list[float]:
        given = dict(options)
        for key in ("ref_tokens", "ref_accuracy"):
            if key in wanted and key not in given:
                if row.get(key) is None:
                    die(f"--reward {name} needs {key}: a column of the problem file, or in --reward_options")
                given[key] = row[key]
        if "texts" in wanted:
            given["texts"] = [r.text for r in group]
        if "ids" in wanted:
            given["ids"] = [r.ids for r in group]
        return family(correct, [r.finished for r in group], [len(r.ids) for r in group], cap, **given)

    return call


# ---------------------------------------------------------------------------------------- GRPO


def advantages(rewards: torch.Tensor, how: str) -> torch.Tensor:
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
    if how == "group":
        return centred / (rewards.std(dim=1, keepdim=True) + 1e-6)
    if how == "batch":
        return centred / (centred.std() + 1e-6)
    return centred


def token_logp(model, ids: torch.Tensor, on: torch.Tensor, temperature: float, chunk: int) -> torch.Tensor:
    """Log-probs of the marked tokens, row by row: only their logits are ever made, `chunk` at a time.

    Args:
        model: Policy with its adapter set as wanted.
        ids: (B, T) tokens, padded on the right (causal attention never looks there, so no mask is needed).
        on: (B, T) True on the response tokens.

    Returns:
        (on.sum(),) float32, with gradient where the model has one.
    """
    base = model.get_base_model()
    head = base.get_output_embeddings()
    hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state    # (B, T, H)
    # Position t predicts token t+1: drop the last state and the first token.
    states, targets = hidden[:, :-1][on[:, 1:]], ids[:, 1:][on[:, 1:]]           # (N, H), (N,)

    def piece(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = float_logits(head, x) / temperature                             # (chunk, V)
        return logits.gather(1, y[:, None])[:, 0] - logits.logsumexp(-1)

    # Checkpointed, because the logits of a 152k vocabulary would otherwise stay until the backward.
    pieces = zip(states.split(chunk), targets.split(chunk))
    return torch.cat([torch.utils.run_folder.checkpoint(piece, x, y, use_reentrant=False) for x, y in pieces])


def policy_loss(logp, old_logp, sampler_logp, ref_logp, adv, n_tokens: int, cfg: Config):
    """Clipped policy-gradient loss plus KL, summed over some of a batch's tokens.

    Args:
        logp: (N,) under the policy now, with gradient.
        old_logp: (N,) under the trainer's weights before the first update of this batch.
        sampler_logp: (N,) as recorded when the token was sampled.
        ref_logp: (N,) under the round's start, or None for no KL.
        adv: (N,) advantage of the token's rollout.
        n_tokens: Response tokens of the WHOLE batch: splitting it differently changes nothing.

    Returns:
        (loss, importance weights (N,), k3 (N,) or None, share of clipped tokens)

    Source: PPO clip; truncated importance sampling as in "Your efficient RL framework secretly brings you
    off-policy RL training" (Yao et al. 2025); k3 from Schulman, "Approximating KL divergence".
    """
    ratio = (logp - old_logp).exp()                                              # (N,)
    clipped = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    # The sampler's weights are rounded differently (merged, bf16): correct for it, truncated against outliers.
    weight = (old_logp - sampler_logp).exp().clamp(max=cfg.importance_cap)
    gain = weight * torch.minimum(ratio * adv, clipped * adv)
    loss = -gain.sum() / n_tokens
    k3 = None
    if ref_logp is not None:
        # k3 is at least 0 and 0 only where both agree; it is added: more KL, more loss.
        k3 = (ref_logp - logp).exp() - (ref_logp - logp) - 1
        loss = loss + cfg.beta * k3.sum() / n_tokens
    bites = (ratio * adv > clipped * adv).float().mean()
    return loss, weight, k3, bites


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Splits sequences into batches of at most `budget` padded tokens, like lengths together, longest first.

    >>> micro_batches([5, 2, 9, 3], budget=10)
    [[2], [0, 3], [1]]
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(i)
    return batches


@contextlib.contextmanager
def start_of_round(model):
    """Puts the round's start in the adapter's place: the frozen second adapter, or in round 1 none at all."""
    if "reference" in model.peft_config:
        model.set_adapter("reference")
        try:
            yield
        finally:  # memory may run out in between
            model.set_adapter("default")  # gives the gradient back to the policy's adapter alone
    else:
        with model.disable_adapter():
            yield


def micro_step(model, batch: list[int], rollouts, adv, n_tokens: int, old: dict, ref: dict, cfg: Config) -> dict:
    """Adds one micro-batch's gradient to what is there, and returns its sums and maxima over tokens.

    Args:
        batch: Indices of its rollouts. adv: (R,) advantage of every rollout. n_tokens: see `policy_loss`.
        old, ref: Rollout -> its log-probs before the first update, and under the round's start; filled on the first
            pass, when the gap to the sampler's is among the sums.
    """
    device = next(model.parameters()).device
    chosen = [rollouts[i] for i in batch]
    width = max(len(r.prompt_ids) + len(r.ids) for r in chosen)
    ids = torch.zeros(len(batch), width, dtype=torch.long)                       # (B, T)
    on = torch.zeros(len(batch), width, dtype=torch.bool)                        # (B, T), True on response tokens
    for row, r in enumerate(chosen):
        p, n = len(r.prompt_ids), len(r.ids)
        ids[row, : p + n] = torch.tensor(r.prompt_ids + r.ids)
        on[row, p : p + n] = True
    ids, on = ids.to(device), on.to(device)
    sampler = torch.cat([r.logp for r in chosen]).to(device)                     # (N,)
    each = [len(r.ids) for r in chosen]
    gain = adv[batch].to(device).repeat_interleave(torch.tensor(each, device=device))  # (N,)
    first = batch[0] not in old
    bf16 = device.type == "cuda" and model.get_base_model().dtype == torch.bfloat16
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        if cfg.beta > 0 and first:
            with torch.no_grad(), start_of_round(model):
                start_logp = token_logp(model, ids, on, cfg.temperature, cfg.head_chunk)
            ref.update(zip(batch, start_logp.split(each)))
        logp = token_logp(model, ids, on, cfg.temperature, cfg.head_chunk)       # (N,)
    sums = {}
    if first:
        old.update(zip(batch, logp.detach().split(each)))
        gap = (logp.detach() - sampler).abs()
        sums = {"gap": gap.sum().item(), "gap_max": gap.max().item()}
    ref_logp = torch.cat([ref[i] for i in batch]) if cfg.beta > 0 else None
    old_logp = torch.cat([old[i] for i in batch])                                # (N,)
    loss, weight, k3, bites = policy_loss(logp, old_logp, sampler, ref_logp, gain, n_tokens, cfg)
    loss.backward()
    sums |= {"loss": loss.item(), "weight": weight.sum().item(), "weight_max": weight.max().item()}
    return sums | {"clipped": bites.item() * len(logp), "kl": k3.sum().item() if k3 is not None else 0.0}


def update_policy(
    model, optimizer, rollouts: list[Rollout], adv: torch.Tensor, cfg: Config, check: Callable[[], None] | None = None
) -> dict[str, float]:
    """Optimizer steps on one batch of rollouts; returns the step's figures.

    Where memory runs out, the pass begins again with half the tokens a micro-batch: the gradient is the same. What
    fitted stays in `cfg.tokens_per_micro_batch`.

    Args:
        adv: (R,) advantage of each rollout.
        check: Called before every micro-batch until the weights change; what it raises ends the step without a trace.
    """
    n_tokens = sum(len(r.ids) for r in rollouts)
    # Without KL a rollout of advantage 0 has no gradient: it counts in n_tokens and is not computed.
    keep = [i for i in range(len(rollouts)) if adv[i] != 0 or cfg.beta > 0]
    lengths = {i: len(rollouts[i].prompt_ids) + len(rollouts[i].ids) for i in keep}
    stats = {"loss": 0.0, "grad": 0.0, "kl": 0.0, "clipped": 0.0, "weight_mean": 1.0, "weight_max": 1.0}
    stats |= {"logp_gap": 0.0, "logp_gap_max": 0.0, "skipped": 0}
    old: dict[int, torch.Tensor] = {}
    ref: dict[int, torch.Tensor] = {}
    total = sum(len(rollouts[i].ids) for i in keep)  # tokens that are computed
    epoch = 0
    while keep and epoch < cfg.updates_per_batch:
        sums: dict[str, float] = {}
        failed = None
        optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches(list(lengths.values()), cfg.tokens_per_micro_batch):
            if check and epoch == 0:
                check()
            batch = [keep[j] for j in batch]
            try:
                part = micro_step(model, batch, rollouts, adv, n_tokens, old, ref, cfg)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                failed = batch  # dealt with below: until the exception is gone, its frames hold the memory
                break
            for key, value in part.items():
                sums[key] = max(sums.get(key, 0.0), value) if key.endswith("_max") else sums.get(key, 0.0) + value
        if failed:
            optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            longest = max(lengths[i] for i in failed)
            if len(failed) == 1:
                how = "lower --cap or --head_chunk, or take --gradient_checkpointing true or --load_4bit true"
                # In a later pass the weights are no longer those of a whole step: nothing to save.
                (die if epoch == 0 else fail)(f"out of memory in the update at {longest} tokens: {how}")
            cfg.tokens_per_micro_batch = tokens = min(cfg.tokens_per_micro_batch, len(failed) * longest) // 2
            print(f"out of memory: the same update with --tokens_per_micro_batch {tokens}, from now on", flush=True)
            if epoch == 0:  # in a later pass they are those of the weights before the first: they stay
                old.clear(), ref.clear()
            continue
        if epoch == 0:
            stats |= {"logp_gap": sums["gap"] / total, "logp_gap_max": sums["gap_max"]}
        parameters = [p for p in model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, cfg.grad_clip).item()
        stats |= {"loss": sums["loss"], "grad": norm, "kl": sums["kl"] / total, "clipped": sums["clipped"] / total}
        stats |= {"weight_mean": sums["weight"] / total, "weight_max": max(stats["weight_max"], sums["weight_max"])}
        if math.isfinite(norm) and math.isfinite(sums["loss"]):
            optimizer.step()
        else:
            stats["skipped"] += 1
        epoch += 1
    optimizer.zero_grad(set_to_none=True)
    return stats


def batch_of(step: int, n_problems: int, per_step: int, seed: int) -> list[int]:
    """Problems of a step (from 1): the next piece of a shuffled epoch. A function of the step: resuming needs no
    state.

    >>> sorted(batch_of(1, 6, 3, seed=0) + batch_of(2, 6, 3, seed=0))
    [0, 1, 2, 3, 4, 5]
    """
    chosen = []
    for k in range((step - 1) * per_step, step * per_step):
        epoch, i = divmod(k, n_problems)
        if i == 0 or not chosen:
            order = random.Random(f"{seed} {epoch}").sample(range(n_problems), n_problems)
        chosen.append(order[i])
    return chosen


def select(checkpoints: list[dict], reference: dict, tolerance: float) -> tuple[dict | None, str]:
    """The shortest checkpoint whose pass@1 is at most `tolerance` (relative) below the reference's, and why.

    >>> points = [{"step": 5, "pass@1": 0.50, "mean_tokens": 300.0},
    ...           {"step": 10, "pass@1": 0.46, "mean_tokens": 200.0},
    ...           {"step": 15, "pass@1": 0.30, "mean_tokens": 90.0}]
    >>> select(points, {"pass@1": 0.50}, 0.10)[0]["step"]
    10

    Source: ThinkPrune, arXiv:2504.01296, section 3.
    """
    floor = (1 - tolerance) * reference["pass@1"]
    good = [c for c in checkpoints if c["pass@1"] >= floor]
    if not good:
        return None, f"start kept: none of {len(checkpoints)} checkpoints reaches pass@1 {floor:.3f}"
    best = min(good, key=lambda c: c["mean_tokens"])
    return best, f"shortest of the {len(good)} of {len(checkpoints)} checkpoints with pass@1 of at least {floor:.3f}"


# ---------------------------------------------------------------------------------------- the run's files


def check_options(cfg: Config) -> None:
    """Exits with status 2 and one line for options that cannot work."""
    if cfg.cap < 1:
        die(f"--cap {cfg.cap} must be at least 1 token")
    if cfg.group < 2:
        die(f"--group {cfg.group} must be at least 2: the advantage compares rollouts of one problem")
    for name in ("problems_per_step", "steps", "checkpoint_every", "val_samples", "val_cap", "updates_per_batch"):
        if getattr(cfg, name) < 1:
            die(f"--{name} {getattr(cfg, name)} must be at least 1")
    if cfg.temperature <= 0 or not 0 < cfg.top_p <= 1:
        die(f"--temperature {cfg.temperature} must be above 0 and --top_p {cfg.top_p} in (0, 1]")
    if cfg.init_adapter:
        note = Path(cfg.init_adapter) / "nanoprune.json"
        before = read_json(note).get("cap") if note.is_file() else None
        if isinstance(before, int) and cfg.cap >= before:
            die(f"--cap {cfg.cap} is not below {before}, the cap of --init_adapter {cfg.init_adapter}")
    if cfg.reference and not Path(cfg.reference).is_file():
        die(f"--reference {cfg.reference} does not exist (python eval.py writes an eval.json)")


# ---------------------------------------------------------------------------------------- the loop


def main(cfg: Config) -> None:
    """One round behind its guards: one process a folder, Ctrl-C and SIGTERM save (engine/run_folder.py)."""
    check_options(cfg)
    folder = Path(cfg.out_dir)
    if cfg.fresh and folder.exists():
        run_folder.move_aside(folder)
    # A copy: `rows` and `tokens_per_micro_batch` are lowered where memory runs out.
    cfg = dataclasses.replace(cfg, fresh=False)
    run_folder.check_folder(folder, dataclasses.asdict(cfg), dataclasses.asdict(Config()), FREE)
    if (folder / "done").is_file():
        print(f"{folder} is done: {run_folder.read_selection(folder)['why']}")
        return
    with run_folder.lock(folder), run_folder.stop_on_signals() as check:
        train(cfg, folder, check)


def train(cfg: Config, folder: Path, check: Callable[[], None]) -> None:
    """The round. `check` raises Stop after a signal; until then it does nothing."""
    reward_of = make_reward(cfg.reward, cfg.reward_options)

    # --- 1. problems, policy, optimizer
    problems = load_problems(cfg.train_data, cfg.problem_key, cfg.answer_key)
    val_problems = load_problems(cfg.val_data, cfg.problem_key, cfg.answer_key)
    log = functools.partial(run_folder.log, folder)
    damaged = run_folder.set_damaged_aside(folder)
    resume, last_step = run_folder.newest(folder)
    torch.manual_seed(cfg.seed)  # only the LoRA's start draws from it: everything later is seeded by its step
    start = cfg.init_adapter if cfg.beta > 0 else ""
    model, tokenizer = load_policy(cfg, str(resume or cfg.init_adapter), trainable=True, reference=start)
    if not (resume or cfg.init_adapter):
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    device = model.get_base_model().device
    if cfg.gradient_checkpointing == "true" or (cfg.gradient_checkpointing == "auto" and device.type == "cuda"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], cfg.cap)
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    context = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    if len(prompts[longest]) + max(cfg.cap, cfg.val_cap) > context:
        name, size = problems[longest]["id"], len(prompts[longest])
        die(f"{cfg.train_data}: the prompt of problem {name} has {size} tokens: with --cap {cfg.cap} and --val_cap "
            f"{cfg.val_cap} that exceeds the model's context of {context}; lower a cap or drop the problem")
    val_longest = max(map(len, encode_prompts(tokenizer, [p["problem"] for p in val_problems], cfg.cap)))
    if val_longest + cfg.val_cap > context:
        sizes = f"a prompt of {val_longest} tokens and --val_cap {cfg.val_cap}"
        die(f"{cfg.val_data}: {sizes} exceed the context of {context}")
    if not (folder / "config.yaml").is_file():
        write_text(folder / "config.yaml", yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False))
    sampler = rollout_model(model, cfg, len(prompts[longest]) + cfg.cap)
    merged = sampler is not model.get_base_model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0)
    table = run_folder.load_state(resume, optimizer, device) if resume else []  # the rows of log.csv
    run_folder.check_disk(folder, parameters)

    def validate(label: str) -> tuple[dict, list[dict]]:
        setting = {"cap": cfg.val_cap, "prompt_cap": cfg.cap}
        setting |= {"temperature": cfg.val_temperature, "top_p": cfg.val_top_p}
        more = {"samples": cfg.val_samples, "label": label, "check": check}
        rows = evaluate(sampler, tokenizer, val_problems, cfg, **setting, **more)
        return metrics(rows) | setting | {"seed": cfg.seed, "model": cfg.model, "data": cfg.val_data}, rows

    def save(name: str, more: dict[str, str] | None = None) -> None:
        note = {"base": cfg.model, "base_fingerprint": fingerprint(model), "cap": cfg.cap}
        texts = {"nanoprune.json": json.dumps(note | {"step": int(table[-1]["step"])}) + "\n"} | (more or {})
        run_folder.save_checkpoint(folder / name, model, optimizer, table, texts)

    # --- 2. the log: a head to reproduce from, and on resume only the steps that the checkpoint knows
    log(run_folder.head_lines(dataclasses.asdict(cfg), device))
    size = sum(p.numel() for p in parameters)
    log(f"{len(problems)} training and {len(val_problems)} validation problems | {size:,} LoRA parameters")
    if device.type == "cuda":
        log(memory_plan(model.get_base_model(), cfg, len(prompts[longest]) + cfg.cap).line())
    if cfg.updates_per_batch == 1:
        log("note: with one update per batch the loss is near 0 and says nothing of progress; watch reward and length")
    for line in damaged:
        log(line)
    if resume:
        run_folder.write_table(folder / "log.csv", table)  # without rows of steps that are made again
        log(f"resuming after step {last_step} from {resume}")
    elif damaged:
        log("no whole checkpoint is left: beginning at step 1")
    if not cfg.reference and not (folder / "start.json").is_file():
        write_text(folder / "start.json", json.dumps(validate("start")[0], indent=1) + "\n", status=1)
    compare = run_folder.read_eval(Path(cfg.reference or folder / "start.json"))
    from torch.utils.tensorboard import SummaryWriter

    with disk_errors(folder):
        board = SummaryWriter(str(folder / "tensorboard"), purge_step=last_step + 1)

    def select_now() -> tuple[list[dict], dict | None, str]:
        found = run_folder.results_of(folder)
        best, why = select(found, compare, cfg.tolerance)
        if best and not run_folder.has_adapter(best):  # only where the one that was kept is damaged
            best, why = select([c for c in found if run_folder.has_adapter(c)], compare, cfg.tolerance)
        return found, best, why

    def validate_and_save() -> None:
        step, clock = int(table[-1]["step"]), time.time()
        if merged:
            refresh_copy(sampler, model)
        result, rows = validate(f"validation after step {step}")
        name, seconds = f"step{step:04d}", round(time.time() - clock, 3)
        result |= {"step": step, "adapter": str(folder / name)}
        table[-1] |= {"val_pass@1": result["pass@1"], "val_tokens": result["mean_tokens"], "val_s": seconds}
        run_folder.write_log(folder, table, board)
        examples = run_folder.markdown_of(rows[: 4 * cfg.val_samples : cfg.val_samples], step)
        save(name, {"eval.json": json.dumps(result, indent=1) + "\n", "samples.md": examples})
        _, best, _ = select_now()
        run_folder.thin_out(folder, best["adapter"] if best else "")
        run_folder.drop_last(folder)
        tokens = result["mean_tokens"]
        log(f"  validation: pass@1 {100 * result['pass@1']:.1f} % | mean tokens {tokens:.0f} | {seconds:.0f}s")

    def save_last(reason: str) -> None:
        if table:  # else nothing has been learnt
            save("last")
        log(f"{reason}; " + (f"step {table[-1]['step']} is saved in {folder / 'last'}" if table else "no step done"))

    round_seed = cfg.seed * 1_000_003 + cfg.cap  # each round has its own problems and random numbers
    started, ended_by = time.time(), ""
    with run_folder.saved_when_stopped(save_last):
        # A round that was stopped in the middle of a validation has its step, and not yet its checkpoint.
        if resume and resume.name[:4] == "last" and (last_step % cfg.checkpoint_every == 0 or last_step == cfg.steps):
            validate_and_save()
        for step in range(last_step + 1, cfg.steps + 1):
            if cfg.stop_on_collapse and (ended_by := "; ".join(alarms.collapse(table).values())):
                log(f"collapse: the round ends before step {step}: {ended_by}")
                break

            # --- 3a. sample: G capped rollouts for each of P problems
            clock = time.time()
            chosen = batch_of(step, len(problems), cfg.problems_per_step, round_seed)
            if merged:
                refresh_copy(sampler, model)
            how = {"cap": cfg.cap, "temperature": cfg.temperature, "top_p": cfg.top_p, "check": check}
            how |= {"seed": round_seed * 1_000_000 + step, "tokens_per_row": len(prompts[longest]) + cfg.cap}
            rollouts = sample_within_memory(sampler, tokenizer, [prompts[i] for i in chosen], cfg, cfg.group, **how)
            sample_s = time.time() - clock

            # --- 3b. score: verdict, reward under the cap, advantage within the group
            golds = [problems[i]["answer"] for i in chosen for _ in range(cfg.group)]
            correct = [g.correct for g in reward.grade([r.text for r in rollouts], golds, cfg.thinking)]
            scores = []
            for j, i in enumerate(chosen):
                part = slice(j * cfg.group, (j + 1) * cfg.group)
                scores.append(reward_of(rollouts[part], correct[part], cfg.cap, problems[i]))
            rewards = torch.tensor(scores, dtype=torch.float32)                      # (P, G)
            adv = advantages(rewards, cfg.advantage)                                 # (P, G)
            dead = int((adv == 0).all(dim=1).sum())
            ended = sum(r.finished for r in rollouts) / len(rollouts)
            if step == 1:
                log(f"before step 1: {ended:.0%} of {len(rollouts)} rollouts end within the cap of {cfg.cap}")
                if ended < 0.1:
                    log("warning: under 10 % of the rollouts end within this cap: few can earn; take a wider cap")

            # --- 3c. update
            clock = time.time()
            if cfg.lr_schedule == "cosine":
                for part in optimizer.param_groups:
                    part["lr"] = cfg.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / cfg.steps))
            stats = update_policy(model, optimizer, rollouts, adv.flatten(), cfg, check)
            # From here to the table's new row nothing may stop: the weights and the table are one state.
            update_s = time.time() - clock

            # --- 3d. log, with the same names on the line, in the table and in TensorBoard
            lengths = [len(r.ids) for r in rollouts]
            at_once = [cfg.thinking and r.finished and alarms.answers_at_once(r.text) for r in rollouts]
            row = {
                "step": step,
                "reward": rewards.mean().item(),
                "correct": sum(c and r.finished for c, r in zip(correct, rollouts)) / len(rollouts),
                "length": sum(lengths) / len(lengths),
                "over_cap": 1 - ended,
                "dead_groups": dead,
                "repeated": sum(alarms.repeats(r.ids) for r in rollouts) / len(rollouts),
                "no_thinking": sum(at_once) / len(rollouts),
                **stats,
                "lr": optimizer.param_groups[0]["lr"],
                "val_pass@1": "",
                "val_tokens": "",
                "sample_s": round(sample_s, 3),
                "update_s": round(update_s, 3),
                "val_s": 0.0,
            }
            table.append(row)
            run_folder.write_log(folder, table, board)
            left = (time.time() - started) / (step - last_step) * (cfg.steps - step)
            used = ""
            if device.type == "cuda":
                whole = torch.cuda.get_device_properties(device).total_memory
                used = f" | {torch.cuda.max_memory_allocated(device) / 1e9:.1f}/{whole / 1e9:.1f} GB"
            right = round(row["correct"] * len(rollouts))
            log(
                f"step {step:4d}/{cfg.steps} | reward {row['reward']:.2f} | correct {right}/{len(rollouts)} | length "
                f"{row['length']:.0f} of {cfg.cap} | over cap {row['over_cap']:.0%} | "
                f"dead groups {dead}/{len(chosen)} | grad {stats['grad']:.2g} | "
                f"{sample_s:.0f}s sample {update_s:.0f}s update{used} | {left // 3600:.0f}h{left // 60 % 60:02.0f}m left"
            )

            # --- 3e. alarms: read from the table, so that a resumed round sees what an unbroken one does
            if step == last_step + 1:
                gap, most = stats["logp_gap"], stats["logp_gap_max"]
                log(f"sampler and trainer log-probs differ by {gap:.2g} on average, {most:.2g} at most")
            for warning in alarms.warnings_of(table, len(chosen), cfg.logp_gap_limit):
                log(f"warning: {warning}")
            if reason := alarms.reason_to_stop(table, cfg.logp_gap_limit):
                raise run_folder.Stop(f"error: {reason}", 1)

            # --- 3f. validate and checkpoint
            if step % cfg.checkpoint_every == 0 or step == cfg.steps:
                validate_and_save()
    with disk_errors(folder):
        board.close()

    # --- 4. select, among checkpoints that are still what was written
    for line in run_folder.set_damaged_aside(folder):
        log(line)
    found, best, why = select_now()
    selection = {
        "selected": best["adapter"] if best else cfg.init_adapter,
        "step": best["step"] if best else None,
        "why": why,
        "ended_by": ended_by,
        "tolerance": cfg.tolerance,
        "reference": {k: compare.get(k) for k in ("pass@1", "pass@1_se", "mean_tokens")},
        "checkpoints": found,
        "seconds": round(sum(float(row[k]) for row in table for k in ("sample_s", "update_s", "val_s")), 1),
    }
    run_folder.finish(folder, selection)
    log(f"round done in {selection['seconds']:.0f} s: {selection['selected'] or 'bare base'} ({why})")
    log(f"next: a --cap below {cfg.cap} with --init_adapter {selection['selected']!r}, or bash schedule.sh again")


if __name__ == "__main__":
    main(parse(Config))
