"""`bench.py sft`: a step of sft.py against TRL's SFTTrainer, on the same tiny model and rows (pip install trl)."""

import contextlib
import functools
import io
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

import sft
from dev.bench_models import forced_lengths, make_prompts, save_random_model, word_tokenizer
from dev.bench_trl import quiet_trl, step_clock
from dev.measure import Progress, alone, clock, peak_bytes, report
from engine.answers import Answer
from engine.files import die
from engine.policy import load_policy, load_trainable
from grpo import without_overflow

SETTINGS = {"fp32 LoRA": False, "nf4 LoRA": True}
TRL = {  # what differs between its two contestants
    "trl": {"gradient_checkpointing": True, "train_sampling_strategy": "random"},
    "trl_tuned": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"},
}


@dataclass
class Config:
    """A step of supervised fine-tuning on a CPU, ours against TRL's SFTTrainer: tokens per CPU second, peak memory.

    All have the same base, LoRA, rows and optimizer. "trl" has its own defaults; "trl_tuned" goes without gradient
    checkpointing, as ours, and sorts its rows by length, which spares it padding.
    """

    model_size: str = "1M"
    """One of SHAPES."""
    rows: int = 64
    """Responses per step."""
    cap: int = 512
    """Longest response; the lengths are heavy-tailed."""
    tokens_per_micro_batch: int = 4096
    """Ours: padded tokens per backward pass. TRL takes 16 rows."""
    repeats: int = 3
    """Timed steps of each side, interleaved, after one that is not counted; the median counts."""
    setting: str = ""
    """Only the settings whose name contains this, such as nf4."""
    only: str = ""
    """One side: ours, trl or trl_tuned."""
    peaks: bool = True
    """Run each side once more in a process of its own for its peak memory."""


def our_step(options: sft.Config, answers: list[Answer]) -> Callable[[], float]:
    """A function that makes one step as sft.py's loop does, and returns its CPU seconds."""
    policy, _ = load_trainable(options, "", "", options.lora_r, options.lora_alpha)
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.0)
    n_tokens, size = sum(len(answer.ids) for answer in answers), options.tokens_per_micro_batch

    def step() -> float:
        start = clock(torch.device("cpu"))
        without_overflow(policy, n_tokens, lambda scale: sft.add_loss(policy, answers, options, size, scale))
        torch.nn.utils.clip_grad_norm_(parameters, options.grad_clip)
        optimizer.step()
        return clock(torch.device("cpu")) - start

    return step


def trl_steps(
    options: sft.Config, answers: list[Answer], side: str, steps: int, after: Callable[[float], None]
) -> None:
    """Runs SFTTrainer for some steps, all on the same rows; calls `after` with the CPU seconds of each."""
    quiet_trl()
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, _ = load_policy(options)
    micro = math.gcd(len(answers), 16)
    rows = [{"input_ids": a.prompt_ids + a.ids, "labels": [-100] * len(a.prompt_ids) + a.ids} for a in answers]
    lora = {"r": options.lora_r, "lora_alpha": options.lora_alpha, "target_modules": "all-linear"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        args = SFTConfig(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=micro, max_length=None, packing=False,
            gradient_accumulation_steps=len(answers) // micro, learning_rate=options.lr, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=options.grad_clip, bf16=False, use_cpu=True, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, **TRL[side],
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model.train(),
            processing_class=word_tokenizer(model.config.vocab_size),
            args=args,
            train_dataset=Dataset.from_list(rows),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
        )
        for p in trainer.model.parameters():  # TRL turns a LoRA over 4 bits to bfloat16; ours is float32 on a CPU
            if p.requires_grad:
                p.data = p.data.float()
        trainer.add_callback(step_clock(torch.device("cpu"), after))
        trainer.train()


def one_setting(cfg: Config, name: str, folder: str, progress: Progress) -> list[dict]:
    """Rows of the table for one setting: ours, TRL's, or both in turns."""
    options = sft.Config(model=folder, load_4bit=SETTINGS[name], device="cpu", lora_r=16, lora_alpha=32)
    options.tokens_per_micro_batch = cfg.tokens_per_micro_batch
    prompts, lengths = make_prompts(cfg.rows, 64), forced_lengths(cfg.rows, cfg.cap)
    answers = [Answer("", prompt, [2 + i % 60 for i in range(n - 1)] + [1]) for prompt, n in zip(prompts, lengths)]
    sides = [cfg.only] if cfg.only else ["ours", *TRL]
    times: dict[str, list[float]] = {side: [] for side in sides}
    ours = our_step(options, answers) if "ours" in sides else None

    def note(side: str, seconds: float) -> None:
        times[side].append(seconds)
        progress.line(f"{name}, {side}: {seconds:.2f} CPU s")

    def after(side: str, seconds: float) -> None:
        note(side, seconds)
        if ours:
            note("ours", ours())

    for side in TRL.keys() & times.keys():
        trl_steps(options, answers, side, cfg.repeats + 1, functools.partial(after, side))
    for _ in range(cfg.repeats + 1 if cfg.only == "ours" else 0):
        note("ours", ours())
    table = []
    for side in sides:
        seconds = statistics.median(times[side][1:])
        table.append({"setting": name, "method": side, "tokens": sum(lengths), "seconds": round(seconds, 3)})
        table[-1] |= {"tokens_per_s": round(sum(lengths) / seconds, 1)}
        table[-1] |= {"ours_to_it": round(table[-1]["seconds"] / table[0]["seconds"], 2)} if side != sides[0] else {}
        table[-1] |= {"peak_mb": round(peak_bytes(torch.device("cpu")) / 1e6, 1)} if cfg.only else {}
    return table


def sft_step(cfg: Config) -> None:
    """The table: every setting, both sides."""
    if min(cfg.rows, cfg.cap, cfg.repeats) < 1 or cfg.only not in ("", "ours", *TRL):
        die("--rows, --cap and --repeats must be at least 1, --only is ours, trl or trl_tuned")
    if not (names := [name for name in SETTINGS if cfg.setting in name]):
        die(f"--setting {cfg.setting} is in the name of no setting")
    try:
        version("trl" if cfg.only != "ours" else "torch")
    except PackageNotFoundError:
        die("--only ours runs without TRL; the comparison needs it: pip install trl")
    table, peaks = [], cfg.peaks and not cfg.only
    parts = len(names) * (cfg.repeats + 1 if cfg.only else 4 * (cfg.repeats + 1) + 3 * peaks)
    progress = Progress(parts, "about 3 minutes on 2 CPU cores")
    with tempfile.TemporaryDirectory() as folder:
        save_random_model(cfg.model_size, torch.device("cpu"), folder)
        for name in names:
            table += one_setting(cfg, name, folder, progress)
            for row in table[-3:] if peaks else ():
                words = ["--rows", cfg.rows, "--cap", cfg.cap, "--model_size", cfg.model_size, "--repeats", 1]
                words += ["--tokens_per_micro_batch", cfg.tokens_per_micro_batch, "--setting", name]
                words += ["--only", row["method"]]
                row["peak_mb"] = alone("sft", *words)["peak_mb"]
                progress.line(f"{name}, {row['method']}, peak memory: {row['peak_mb']} MB")
    report("sft", torch.device("cpu"), ["torch", "transformers", "peft", "bitsandbytes", "trl"], table)
