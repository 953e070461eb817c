"""One round of ThinkPrune: GRPO on a LoRA over a frozen 4-bit base, where a rollout beyond the cap earns 0.

    python train_prune.py --config config/toy.yaml --cap 300 --out_dir out/mine/cap300
    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/mine/cap200 \
        --init_adapter out/mine/cap300/step0008
    bash schedule.sh                            # all rounds, with selection between them and a report

If interrupted, run the same command again; it resumes from the newest checkpoint, or says that the round is done.

How this differs from the paper (arXiv:2504.01296) and its code:
- LoRA over NF4 on one GPU, not full fine-tuning on 16; hence fewer rollouts a step and a higher rate;
- AdamW with beta2 0.95 and no weight decay (theirs 0.999 and 0.01), no entropy bonus (theirs 0.001), the loss is a mean
  over the whole batch's tokens (theirs a mean of micro-batch means); k3 is clamped at 10 as theirs;
- the rule is enforced: no end token within the cap, no reward, even if a right answer stands in the text;
- the winner of a round is measured again before it is believed (selection.py);
- the KL term has the sign that keeps the policy near its start (theirs is flipped);
- old log-probs are those of the update's own first forward (one forward less); a truncated importance weight corrects
  for the rounding of the sampler's. With one update per batch the ratio is 1 and the clip does nothing;
- left out on purpose: reward models, several GPUs, asynchronous sampling, a value network.

Reading order: Config, then `train`, which is the loop. Advantages, loss and update stand in grpo.py, rewards in
length_rewards.py, the choice of a checkpoint in selection.py; what keeps a night's run whole (checkpoints, signals,
full disks) in engine/run_folder.py.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean as mean
from typing import Any, Literal

import engine  # noqa: F401 (first: so Ctrl-C while torch is imported is one line, too)

# isort: split
import torch

from engine import alarms, hours
from engine.checkpoints import CANDIDATES, Step, has_adapter, markdown_of, set_damaged_aside
from engine.files import MEMORY, RoundOptions, die, explained, read_json, run
from engine.groups import Group, batch_of, trained_on
from engine.measuring import PARTIAL, cap_after, measure, measure_again, open_reference
from engine.policy import checkpoint_gradients, load_trainable
from engine.problems import load_problems
from engine.rewards import by_name
from engine.run_folder import RunFolder, Stop, read_selection
from eval import grade
from grpo import LOSSES, Advantage, advantages, filtered_advantages, update_policy
from length_rewards import REWARDS
from sample import Rollout, Sampler, checked_prompts, compare_prompt, prompt_texts
from selection import candidates, measured_after, select


@dataclass
class Config(RoundOptions):
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
    sample_tokens: int = 0
    """The round ends with the step that reaches so many sampled tokens, to compare methods; 0: only steps count."""
    reward: str = "thinkprune"
    """A function of length_rewards.py by name."""
    reward_options: dict[str, Any] = field(default_factory=dict)
    """Options of that reward, as in --reward_options '{"weight": 0.5}'."""
    advantage: Advantage = "group"
    """Divide the centred reward by the group's deviation, the batch's (DLER), or nothing."""
    loss: str = "policy_loss"
    """A function of grpo.py by name (its table LOSSES)."""
    temperature: float = 1.0
    """Of the training rollouts; anything but 1 trains another distribution than the model's own."""
    top_p: float = 1.0
    """Of the training rollouts; below 1 the gradient is biased."""
    beta: float = 0.001
    """Weight of the k3 KL to the adapter that the round starts from; 0 saves the reference's forward."""
    resample_dead: int = 0
    """Most further batches of problems that a step samples while too many of its groups are dead (DLER, DAPO)."""
    keep_shortest: int = 0
    """Advantages over this many rollouts of each group, 0 for the others (GFPO); 0 keeps all."""
    keep_by: Literal["length", "reward_per_token"] = "length"
    """What keep_shortest keeps: the shortest, or those with the most reward a token."""
    updates_per_batch: int = 1
    """Mini-batches of whole groups that each batch is split into, an optimizer step each (DLER: 8)."""
    passes: int = 1
    """Passes over each batch; the clip range only matters from the second update of a batch on."""
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
    """cosine falls along half a cosine, from lr at the first step to near 0 at the last."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    lora_r: int = 32
    """Rank of the LoRA on every linear layer."""
    lora_alpha: int = 64
    """LoRA scale: alpha / r."""
    # --- data and rounds
    train_data: str = "out/toy_base/train.jsonl"
    """Problem file (.jsonl, .parquet, .csv) or hub data set `owner/name:config:split`."""
    caps: int | str = ""
    """The rounds of schedule.sh, read here to say how long those to come will take. With `auto` at the end, the last
    round that is given and all later ones measure the cap of the next. schedule.sh takes `auto` where there are none."""
    init_adapter: str = ""
    """Adapter that the round starts from (the one before selected it); empty starts a new LoRA."""
    out_dir: str = "out/round"
    """Folder of this round."""
    fresh: bool = False
    """Move a folder that is there to <out_dir>.old1 (or the next free number) and begin anew."""
    # --- validation and selection
    checkpoint_every: int = 20
    """Steps between checkpoints, each with a validation."""
    save_minutes: float = 10.0
    """Minutes after which the state is saved between checkpoints, too: what a kill can cost."""
    reference: str = ""
    """eval.json that selection compares with; empty measures this round's start."""
    tolerance: float = 0.10
    """A checkpoint may lose this share of the reference's pass@1."""
    prefer: Literal["short", "right"] = "short"
    """Which of these wins: the shortest, or the most often right, for rounds that shall make a model better."""
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
FREE = MEMORY | {"fresh", "caps", "test_data", "test_samples", "save_minutes", "out_dir"}  # a folder may be moved



# ---------------------------------------------------------------------------------------- one round


def check_options(cfg: Config) -> None:
    """Exits with status 2 and one line for options that cannot work."""
    if cfg.cap < 1:
        die(f"--cap {cfg.cap} must be at least 1 token")
    if cfg.group < 2:
        die(f"--group {cfg.group} must be at least 2: the advantage compares rollouts of one problem")
    if cfg.resample_dead < 0:
        die(f"--resample_dead {cfg.resample_dead} must be at least 0")
    if cfg.sample_tokens < 0:
        die(f"--sample_tokens {cfg.sample_tokens} must be at least 0")
    if cfg.sample_tokens and cfg.lr_schedule == "cosine":
        die("--sample_tokens ends the round at a step that is not known before: take --lr_schedule constant with it")
    if cfg.keep_shortest and not 2 <= cfg.keep_shortest <= cfg.group:
        die(f"--keep_shortest {cfg.keep_shortest} must be 0, or from 2 to --group {cfg.group}")
    for name in ("problems_per_step", "steps", "checkpoint_every", "eval_samples", "reference_samples", "eval_cap",
                 "updates_per_batch", "passes", "head_chunk", "lora_r"):  # fmt: skip
        if getattr(cfg, name) < 1:
            die(f"--{name} {getattr(cfg, name)} must be at least 1")
    if cfg.problems_per_step % cfg.updates_per_batch:
        die(f"--updates_per_batch {cfg.updates_per_batch} must divide --problems_per_step {cfg.problems_per_step}")
    if cfg.loss not in LOSSES:
        die(f"--loss {cfg.loss} is unknown; there are {', '.join(LOSSES)}")
    if cfg.confirm_samples < 0 or not 0 <= cfg.tolerance <= 1:
        die(f"--confirm_samples {cfg.confirm_samples} must be at least 0, --tolerance {cfg.tolerance} from 0 to 1")
    if not 0 < cfg.cap_percentile <= 100 or cfg.cap_problems < 1:
        die(f"--cap_percentile {cfg.cap_percentile} must be in (0, 100], --cap_problems {cfg.cap_problems} at least 1")
    if cfg.eval_temperature < 0 or not 0 < cfg.eval_top_p <= 1:
        die(f"--eval_temperature {cfg.eval_temperature} must be at least 0 and --eval_top_p {cfg.eval_top_p} in (0, 1]")
    if cfg.temperature <= 0 or not 0 < cfg.top_p <= 1:
        die(f"--temperature {cfg.temperature} must be above 0 and --top_p {cfg.top_p} in (0, 1]")
    if cfg.init_adapter:
        note = Path(cfg.init_adapter) / "nanoprune.json"
        before = read_json(note).get("cap") if note.is_file() else None
        if isinstance(before, int) and cfg.cap >= before:
            die(f"--cap {cfg.cap} is not below {before}, the cap of --init_adapter {cfg.init_adapter}")
    if cfg.reference and not Path(cfg.reference).is_file():
        die(f"--reference {cfg.reference} does not exist (python eval.py writes an eval.json)")


@dataclass
class Round:
    """What a round works with, opened and checked before the first token."""

    cfg: Config
    folder: RunFolder
    problems: list[dict]
    val_problems: list[dict]
    prompts: list[list[int]]
    """Token ids of each training problem's prompt."""
    reward_of: Callable[[list[Rollout], list[bool], int, dict], list[float]]
    """(rollouts of one group, their verdicts, cap, problem row) -> their rewards."""
    policy: torch.nn.Module
    sampler: Sampler
    optimizer: torch.optim.Optimizer
    reference: dict = field(default_factory=dict)
    """The evaluation that selection compares with."""


def open_round(cfg: Config, folder: RunFolder) -> Round:
    """Loads it all; exits with status 2 and one line for any option or file that cannot work."""
    problems, val_problems = (load_problems(x, cfg.problem_key, cfg.answer_key) for x in (cfg.train_data, cfg.val_data))
    with explained("", ValueError):
        reward_of = by_name(REWARDS, cfg.reward, cfg.reward_options, problems, cfg.thinking, cfg.group, cfg.cap)
    start = cfg.init_adapter if cfg.beta > 0 else ""  # of the KL; in round 1 it is the bare base
    policy, tokenizer = load_trainable(cfg, str(folder.resume or cfg.init_adapter), start, cfg.lora_r, cfg.lora_alpha)
    base, parameters = policy.get_base_model(), [p for p in policy.parameters() if p.requires_grad]
    checkpoint_gradients(policy, cfg.gradient_checkpointing)
    compare_prompt(cfg, cfg.init_adapter)
    prompts = checked_prompts(cfg, tokenizer, base.config, cfg.train_data, problems, cfg.cap, cfg.cap)
    named = cfg.prompt_cap or cfg.cap
    checked_prompts(cfg, tokenizer, base.config, cfg.val_data, val_problems, cfg.eval_cap, named)
    tokens_per_row = max(map(len, prompts)) + cfg.cap
    sampler = Sampler(policy, tokenizer, cfg, tokens_per_row)
    optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0)
    size = sum(p.numel() for p in parameters)
    notes = [f"{len(problems)} training and {len(val_problems)} validation problems, {size:,} LoRA parameters"]
    which = "best" if cfg.prefer == "right" else "shortest"
    notes += [f"kept: the newest two checkpoints, and the adapters of the {CANDIDATES} {which} that may be selected"]
    folder.start(policy, optimizer, notes + hours.before(base, cfg, tokens_per_row, len(val_problems)))
    opened = Round(cfg, folder, problems, val_problems, prompts, reward_of, policy, sampler, optimizer)
    opened.reference = open_reference(opened)
    return opened


def checkpoint_due(step: int, cfg: Config, history: list[Step]) -> bool:
    return step % cfg.checkpoint_every == 0 or step == cfg.steps or enough(cfg, history)


def enough(cfg: Config, history: list[Step]) -> bool:
    """Whether `sample_tokens` response tokens are sampled."""
    return 0 < cfg.sample_tokens <= sum(step.tokens(cfg.problems_per_step * cfg.group) for step in history)


def validate(r: Round) -> None:
    """Measures the policy after the last step, and saves it as a checkpoint."""
    step = r.folder.history[-1]
    result, rows = measure(r, f"validation after step {step.step}", r.cfg.eval_samples, r.cfg.seed)
    step.val_s = result["seconds"]  # of all calls, where it was interrupted
    step.figures |= {"val_pass@1": result["pass@1"], "val_tokens": result["mean_tokens"]}
    r.folder.write_log()
    name = f"step{step.step:04d}"
    result |= {"step": step.step, "adapter": str(r.folder.path / name)}
    examples = markdown_of(rows[: 4 * r.cfg.eval_samples : r.cfg.eval_samples], step.step)
    r.folder.save(name, {"eval.json": json.dumps(result, indent=1) + "\n", "samples.md": examples})
    best = candidates(r.folder.results(), r.reference, r.cfg.tolerance, r.cfg.prefer)[:CANDIDATES]
    r.folder.keep([result["adapter"] for result in best])
    pass1, tokens = 100 * result["pass@1"], result["mean_tokens"]
    r.folder.log(f"  validation: pass@1 {pass1:.1f} % | mean tokens {tokens:.0f} | {step.val_s:.0f}s")


def sample_groups(r: Round, number: int, label: str) -> list[Group]:
    """G capped rollouts for each of P problems, those of the batch of this number, with verdicts and rewards."""
    cfg, groups = r.cfg, []
    round_seed = cfg.seed * 1_000_003 + cfg.cap  # each round has its own problems and random numbers
    batch = batch_of(number, len(r.problems), cfg.problems_per_step, round_seed)
    with r.folder.stoppable():
        rollouts = r.sampler.sample(
            [r.prompts[i] for i in batch], cfg.group, cap=cfg.cap, temperature=cfg.temperature, top_p=cfg.top_p,
            seed=round_seed * 1_000_000 + number, label=label,
        )  # fmt: skip
    verdicts = grade(rollouts, [r.problems[i]["answer"] for i in batch for _ in range(cfg.group)], cfg.thinking)
    for j, problem in enumerate(r.problems[i] for i in batch):
        own = slice(j * cfg.group, (j + 1) * cfg.group)
        rewards = r.reward_of(rollouts[own], [v.correct for v in verdicts[own]], cfg.cap, problem)
        groups.append(Group(rollouts[own], verdicts[own], rewards, problem["answer"]))
    return groups


def advantages_of(groups: list[Group], cfg: Config) -> torch.Tensor:
    """The advantage of each rollout (P, G)."""
    rewards = torch.tensor([group.rewards for group in groups], dtype=torch.float32)     # (P, G)
    if not cfg.keep_shortest:
        return advantages(rewards, cfg.advantage)
    lengths = torch.tensor([[len(rollout.ids) for rollout in group.rollouts] for group in groups])  # (P, G)
    return filtered_advantages(rewards, lengths, cfg.advantage, cfg.keep_shortest, cfg.keep_by)


def train(r: Round) -> str:
    """The steps of the round; returns why it ended before the last of them, or nothing."""
    cfg, folder = r.cfg, r.folder
    first_step, micro_tokens = folder.last_step + 1, cfg.tokens_per_micro_batch
    # A round that was stopped in the middle of a validation has its step, and not yet its checkpoint.
    stopped = folder.resume and folder.resume.name.startswith("last")
    if stopped and checkpoint_due(folder.last_step, cfg, folder.history):
        validate(r)
    for number in range(first_step, cfg.steps + 1):
        if cfg.stop_on_collapse and (found := alarms.collapse(folder.history)):
            return "; ".join(found.values())
        if enough(cfg, folder.history):
            break

        # --- 1. sample and score: G capped rollouts for each of P problems, and of P more while too many are dead
        clock, groups = time.time(), []
        sampled = sum(step.batches for step in folder.history)
        r.sampler.refresh()
        for batches in range(1, cfg.resample_dead + 2):
            groups += sample_groups(r, sampled + batches, f"step {number}")
            alive = (advantages_of(groups, cfg) != 0).any(dim=1).tolist()
            if sum(alive) >= cfg.problems_per_step:
                break
        sample_s = time.time() - clock

        # --- 2. advantages within the groups that are trained on
        kept = [groups[i] for i in trained_on(alive, cfg.problems_per_step)]
        adv = advantages_of(kept, cfg)                                           # (P, G)

        # --- 3. update
        clock = time.time()
        if cfg.lr_schedule == "cosine":
            for part in r.optimizer.param_groups:
                part["lr"] = cfg.lr * 0.5 * (1 + math.cos(math.pi * (number - 1) / cfg.steps))
        figures, micro_tokens = update_policy(
            r.policy, r.optimizer, [rollout for group in kept for rollout in group.rollouts], adv.flatten().tolist(),
            cfg, micro_tokens, folder.stoppable,
        )  # fmt: skip

        # --- 4. log all that was sampled, with the same names on the line, in log.csv and in TensorBoard
        step = Step(number, lr=r.optimizer.param_groups[0]["lr"], sample_s=round(sample_s, 3), figures=figures)
        step.update_s = round(time.time() - clock, 3)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        verdicts = [verdict for group in groups for verdict in group.verdicts]
        golds = [group.gold for group in groups for _ in group.rollouts]
        shares, examples = alarms.outcomes(rollouts, verdicts, golds, cfg.thinking)
        step.reward = torch.tensor([group.rewards for group in groups], dtype=torch.float32).mean().item()
        step.correct = mean(verdict.correct for verdict in verdicts)
        step.length = mean(len(rollout.ids) for rollout in rollouts)
        step.over_cap, step.wrong = shares["over_cap"], shares["wrong"]
        step.no_think_end, step.no_box = shares["no_think_end"], shares["no_box"]
        step.batches, step.dead_groups = batches, alive.count(False)
        step.dead_tokens = sum(len(ro.ids) for group, lives in zip(groups, alive) if not lives for ro in group.rollouts)
        step.repeated = mean(alarms.repeats(rollout.ids) for rollout in rollouts)
        step.no_thinking = mean(cfg.thinking and ro.finished and alarms.answers_at_once(ro.text) for ro in rollouts)
        folder.history.append(step)
        folder.write_log()
        seconds_left, counted = hours.left(cfg, number, folder.history, r.reference)
        folder.log(step.line(cfg.steps, cfg.cap, cfg.problems_per_step, cfg.group, r.policy.device, seconds_left))

        # --- 5. alarms: read from the history, so that a resumed round sees what an unbroken one does
        for line in [*alarms.notes_of(step, cfg.cap, examples), counted] if number == first_step else []:
            folder.log(line)
        for warning in alarms.warnings_of(folder.history, cfg.problems_per_step, cfg.logp_gap_limit, examples):
            folder.log(f"warning: {warning}")
        if reason := alarms.reason_to_stop(folder.history, cfg.logp_gap_limit):
            raise Stop(f"error: {reason}", 1)

        # --- 6. validate and checkpoint
        if time.time() - folder.saved_at > 60 * cfg.save_minutes:
            folder.save("last")
        if checkpoint_due(number, cfg, folder.history):
            validate(r)
    return ""


def finish(r: Round, ended_by: str) -> None:
    """Selects among the checkpoints that are still what was written, and closes the round."""
    if ended_by:
        r.folder.log(f"collapse: the round ends early: {ended_by}")
    for line in set_damaged_aside(r.folder.path):
        r.folder.log(line)
    if r.folder.last_step > r.folder.saved:
        r.folder.save("last")  # below, the policy takes other checkpoints' weights
    found = r.folder.results()
    kept = [result for result in found if has_adapter(result)]
    again = functools.partial(measure_again, r) if r.cfg.confirm_samples else None
    best, why = None, "start kept: nothing was learnt, as no step had a group with different rewards"
    if any(step.figures.get("grad") for step in r.folder.history):
        best, why = select(kept, r.reference, r.cfg.tolerance, again, r.cfg.prefer)
    points = [{key: value for key, value in result.items() if key != "by_problem"} for result in found]
    selection = {
        "selected": best["adapter"] if best else r.cfg.init_adapter,
        "step": best["step"] if best else None,
        "why": why,
        "ended_by": ended_by,
        "tolerance": r.cfg.tolerance,
        "reference": {k: r.reference.get(k) for k in ("pass@1", "pass@1_se", "mean_tokens")},
        "checkpoints": points,
        "seconds": round(sum(step.sample_s + step.update_s + step.val_s for step in r.folder.history), 1),
    }
    if measured_after(r.cfg.caps, r.cfg.cap):
        selection["next_cap"] = cap_after(r, best)
        r.folder.log(selection["next_cap"]["why"])
    r.folder.finish(selection)
    (r.folder.path / PARTIAL).unlink(missing_ok=True)
    r.folder.log(f"round done in {selection['seconds']:.0f} s: {selection['selected'] or 'bare base'} ({why})")


def main(cfg: Config) -> None:
    check_options(cfg)
    # With the words of the prompt in it, so that an edit of sample.py is seen when a round is resumed.
    cfg, usual = (dataclasses.replace(options, **prompt_texts(options)) for options in (cfg, Config()))
    with RunFolder(dataclasses.asdict(cfg), dataclasses.asdict(usual), FREE) as folder:
        if folder.done:
            print(f"{folder.path} is done: {read_selection(folder.path)['why']}")
        else:
            opened = open_round(cfg, folder)
            finish(opened, train(opened))


if __name__ == "__main__":
    run(main, Config)
