"""`bench.py step`: a whole GRPO step, ours against TRL's GRPOTrainer (bench_trl.py), with the same forced lengths."""

import dataclasses
import json
import statistics
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import torch

import grpo
import train_prune
from dev.bench_models import HUB, check_folder, complete, forced_lengths, make_prompts
from dev.bench_models import save_random_model, word_tokenizer
from dev.bench_trl import trl_steps
from dev.measure import Progress, alone, clock, device_of, fresh_peak, peak_bytes, report
from engine.files import die, parse
from engine.memory import memory_plan
from engine.policy import checkpoint_gradients, load_trainable, pick_device
from sample import Sampler

# name: what differs from the shared options, whether every second group has equal rewards
SETTINGS = {
    "fp32 LoRA, beta 0, half dead": ({}, True),
    "nf4 LoRA, beta 0, half dead": ({"load_4bit": True}, True),
    "fp32 LoRA, beta 0, none dead": ({}, False),
    "fp32 LoRA, beta 0.04, half dead": ({"beta": 0.04}, True),
}
SHORT = 2  # of them by default


@dataclass
class Config:
    """A whole GRPO step, ours against TRL's GRPOTrainer: CPU seconds, their split, peak memory.

    On CUDA: the options of --run_config, ours alone unless --only says otherwise, peak memory against the plan, and the
    hours of one round.
    """

    device: str = "cpu"
    """cpu or cuda."""
    model_size: str = ""
    """One of SHAPES; by default 1M on a CPU, and on CUDA the shape of the config's model."""
    model: str = ""
    """Folder of a real model, instead of a random one of model_size; CPU only."""
    problems: int | None = None
    """Problems a step: on a CPU 8, or 2 with --model; on CUDA the config's. In "half dead" settings every second one
    has equal rewards."""
    group: int | None = None
    """Rollouts per problem: on a CPU 8, or 4 with --model; on CUDA the config's."""
    cap: int | None = None
    """Token cap: on a CPU 256, or 64 with --model; on CUDA the config's. Both sides get the same lengths."""
    repeats: int = 3
    """Timed steps of each side, interleaved, after one that is not counted; the median counts."""
    setting: str = ""
    """Only the settings whose name contains this, such as nf4."""
    full: bool = False
    """All four settings, not only the first two."""
    only: str = ""
    """One side, ours or trl, or both; by default both, and on CUDA ours."""
    peaks: bool = True
    """Run each side once more in a process of its own for its peak memory (CPU)."""
    run_config: str = "config/r1_1.5b_24gb.yaml"
    """Options of train_prune.py, for CUDA."""
    limit_gb: float = 0.0
    """On CUDA, hold torch to this many GB (1e9 bytes); 0 for the whole card."""


def fixed_rewards(rows: int, group: int, half: bool) -> list[float]:
    """Rewards by place: 1 for every second rollout; with `half`, 0 for every second group, which is then dead."""
    return [0.0 if half and (i // group) % 2 else float(i % 2) for i in range(rows)]


# ---------------------------------------------------------------------------------------- our side


class Timed:
    """A function that adds up the seconds of its calls."""

    def __init__(self, function, device: torch.device):
        self.function, self.device, self.seconds = function, device, 0.0

    def __call__(self, *args, **kwargs):
        start = clock(self.device)
        made = self.function(*args, **kwargs)
        self.seconds += clock(self.device) - start
        return made


class OurStep:
    """A policy, its sampler and optimizer; `run` makes one step as train_prune.py's loop does.

    Args:
        cfg: `train_prune.Config`; its model is a folder of `save_random_model`.
        prompts: Of each problem. lengths: Of each rollout, forced.
        half: Every second group has equal rewards.
        other: Another side's model is on the card as well, so its peak says nothing of ours.
    """

    def __init__(self, cfg, prompts: list[list[int]], lengths: list[int], half: bool, device, other: bool = False):
        self.cfg, self.prompts, self.lengths, self.device = cfg, prompts, lengths, device
        self.rewards = torch.tensor(fixed_rewards(len(lengths), cfg.group, half)).view(-1, cfg.group)  # (P, G)
        self.policy, _ = load_trainable(cfg, "", "", cfg.lora_r, cfg.lora_alpha)
        checkpoint_gradients(self.policy, cfg.gradient_checkpointing)
        tokens = max(map(len, prompts)) + cfg.cap
        # Not the tokenizer from disk, which transformers would take for Qwen's own kind.
        tokenizer = word_tokenizer(self.policy.config.vocab_size)
        self.sampler = Sampler(self.policy, tokenizer, cfg, tokens, end_ids=[-1])
        self.micro_tokens = cfg.tokens_per_micro_batch
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=cfg.lr, weight_decay=0.0)
        planned = device.type == "cuda" and not other
        self.plan = memory_plan(self.policy.get_base_model(), cfg, tokens) if planned else None
        if self.plan:
            print(self.plan.line())

    def run(self) -> dict[str, float]:
        """Seconds of one step, whole and by part, and on CUDA its peak memory against the plan."""
        fresh_peak(self.device)
        start = clock(self.device)
        self.sampler.refresh()
        rollouts = self.sampler.sample(self.prompts, self.cfg.group, cap=self.lengths)
        sampled, sample_peak = clock(self.device), peak_bytes(self.device)
        adv = grpo.advantages(self.rewards, self.cfg.advantage)               # (P, G)
        scored = clock(self.device)
        fresh_peak(self.device)
        timed = Timed(grpo.token_logp, self.device)
        with mock.patch.object(grpo, "token_logp", timed):
            _, self.micro_tokens = grpo.update_policy(
                self.policy, self.optimizer, rollouts, adv.flatten().tolist(), self.cfg, self.micro_tokens
            )
        end = clock(self.device)
        row = {"seconds": end - start, "sample_s": sampled - start, "reward_s": scored - sampled}
        row |= {"logp_s": timed.seconds, "backward_s": end - scored - timed.seconds}  # the optimizer's step is in it
        if self.plan:
            peaks = {"sample_peak_gb": sample_peak / 1e9, "update_peak_gb": peak_bytes(self.device) / 1e9}
            planned = self.plan.peak / 1e9
            row |= peaks | {"rows": self.plan.rows, "planned_peak_gb": planned}
            row["peak_to_plan"] = max(peaks.values()) / planned
        return row


# ---------------------------------------------------------------------------------------- the comparison


def one_setting(name: str, cfg, half: bool, device, repeats: int, only: str, progress: Progress) -> list[dict]:
    """Rows of the table for one setting: ours, TRL's, or both in turns."""
    n = cfg.problems_per_step * cfg.group
    vocab = json.loads(Path(cfg.model, "config.json").read_text())["vocab_size"]
    prompts, lengths = make_prompts(cfg.problems_per_step, vocab), forced_lengths(n, cfg.cap)
    ours = OurStep(cfg, prompts, lengths, half, device, other=only == "both") if only != "trl" else None
    times = {"ours": [], "trl": []}

    def note(side: str, made: dict[str, float]) -> None:
        times[side].append(made)
        counted = f"step {len(times[side]) - 1} of {repeats}" if len(times[side]) > 1 else "step not counted"
        unit = "s" if device.type == "cuda" else "CPU s"
        peak = f", peak {made['peak_to_plan']:.0%} of the plan" if "peak_to_plan" in made else ""
        progress.line(f"{name}, {side}, {counted}: {made['seconds']:.1f} {unit}{peak}")

    def after_trl(seconds: float) -> None:
        note("trl", {"seconds": seconds})
        if ours:
            note("ours", ours.run())

    if only != "ours":
        trl_steps(cfg, device, prompts, lengths, fixed_rewards(n, cfg.group, half), repeats + 1, after_trl)
    for _ in range(repeats + 1 if only == "ours" else 0):
        note("ours", ours.run())
    table = [{"setting": name, "method": side, "tokens": sum(lengths)} for side in ("ours", "trl") if times[side]]
    for row in table:
        counted = times[row["method"]][1:]
        row |= {key: round(statistics.median(t[key] for t in counted), 4) for key in counted[0]}
        if only != "both" and device.type == "cpu":
            row["peak_mb"] = round(peak_bytes(device) / 1e6, 1)
    if only == "both":
        table[0]["ratio_to_trl"] = round(table[1]["seconds"] / max(table[0]["seconds"], 1e-9), 2)
    return table


# ---------------------------------------------------------------------------------------- the command


def settings_of(cfg: Config) -> list[tuple[str, train_prune.Config, bool]]:
    """The settings to run: name, options of the step, whether half of the groups are dead."""
    if pick_device(cfg.device).type == "cuda":
        if not Path(cfg.run_config).is_file():
            die(f"--run_config {cfg.run_config} does not exist")
        options = parse(train_prune.Config, args=["--config", cfg.run_config])
        sizes = {"problems_per_step": cfg.problems, "group": cfg.group, "cap": cfg.cap}
        options = dataclasses.replace(options, **{name: size for name, size in sizes.items() if size is not None})
        return [(Path(cfg.run_config).stem, options, False)]
    options = {"lora_r": 16, "lora_alpha": 32, "lr": 1e-4, "load_4bit": False, "beta": 0.0}
    options |= {"tokens_per_micro_batch": 4096, "cap": cfg.cap, "group": cfg.group, "problems_per_step": cfg.problems}
    names = [name for name in SETTINGS if cfg.setting in name]
    if not names:
        die(f"--setting {cfg.setting} is in the name of no setting")
    return [
        (name, train_prune.Config(**(options | SETTINGS[name][0])), SETTINGS[name][1])
        for name in (names if cfg.full or cfg.setting else names[: 1 if cfg.model else SHORT])
    ]


def side_of(cfg: Config) -> str:
    """ours, trl or both."""
    return cfg.only or ("ours" if pick_device(cfg.device).type == "cuda" else "both")


def check_options(cfg: Config) -> None:
    """Exits with status 2 and one line for options that cannot work."""
    for name, least in (("problems", 1), ("group", 2), ("cap", 1), ("repeats", 1)):
        if (size := getattr(cfg, name)) is not None and size < least:
            die(f"--{name} {size} must be at least {least}")
    check_folder(cfg.model)
    if cfg.model and pick_device(cfg.device).type == "cuda":
        die("--model is for a CPU; on a card the step takes the model of --run_config")
    if cfg.only not in ("", "ours", "trl", "both"):
        die(f"--only {cfg.only} is unknown; there are ours, trl and both")
    if side_of(cfg) != "ours":
        try:
            version("trl")
        except PackageNotFoundError:
            die("--only ours runs without TRL; the comparison needs it: pip install trl")


def step(cfg: Config) -> None:
    """The table: every setting, both sides."""
    check_options(cfg)
    device, only, table = device_of(cfg.device, cfg.limit_gb), side_of(cfg), []
    whole = cfg.problems is cfg.group is cfg.cap is None  # on CUDA: a step of the config, whose time tells a round's
    if device.type == "cpu":
        complete(cfg, problems=(8, 2), group=(8, 4), cap=(256, 64))
    settings = settings_of(cfg)
    size, peaks = cfg.model_size or "1M", cfg.peaks and only == "both"
    takes = "about 6 minutes on 2 CPU cores" if cfg.full else "about 3 minutes on 2 CPU cores, --full true about 6"
    if device.type == "cuda":
        peaks, takes = False, "a step of config/r1_1.5b_24gb.yaml took 30 s on an H100"
        size = cfg.model_size or HUB.get(settings[0][1].model, "r1_1.5b")
    if cfg.model:
        takes = "one setting of your own: a line after each step shows how it goes"
    progress = Progress(len(settings) * (2 if only == "both" else 1) * (cfg.repeats + 1 + peaks), takes)
    with tempfile.TemporaryDirectory() as folder:
        if not cfg.model:
            save_random_model(size, device, folder)
        fresh_peak(device)
        for name, options, half in settings:
            options.model, options.device = cfg.model or folder, cfg.device
            try:
                table += one_setting(name, options, half, device, cfg.repeats, only, progress)
            except torch.OutOfMemoryError as error:
                whose = "lower what the plan above says" if only == "ours" else "see whether --only ours fits"
                die(f"{name} does not fit on this card: {str(error).split('. ')[0]}; {whose}")
            if device.type == "cuda" and only != "trl" and whole:
                table[0]["hours_a_round_without_validation"] = round(table[0]["seconds"] * options.steps / 3600, 2)
            for row in table[-2:] if peaks else ():
                words = ["--problems", cfg.problems, "--group", cfg.group, "--cap", cfg.cap, "--setting", name]
                words += ["--model", cfg.model] if cfg.model else ["--model_size", size]
                words += ["--repeats", 1, "--only", row["method"]]
                row["peak_mb"] = alone("step", *words)["peak_mb"]
                progress.line(f"{name}, {row['method']}, peak memory: {row['peak_mb']} MB")
    report("step", device, ["torch", "transformers", "peft", "bitsandbytes", "trl"], table)
