"""Supervised fine-tuning on whole answers: distillation, a cold start, or the shortest right answers. LoRA over NF4.

    python sample.py --data out/toy_base/train.jsonl --samples 4 --cap 640 --temperature 1 --out out/teacher.jsonl
    python sft.py --config config/toy_sft.yaml --data out/teacher.jsonl --keep shortest --out_dir out/sft
    python eval.py --config config/toy.yaml --adapter out/sft/final --out_dir out/eval_sft
    python train_prune.py --config config/toy.yaml --init_adapter out/sft/final --cap 180 --out_dir out/after_sft

The loss is the mean negative log-prob of the responses' tokens alone, the end token included. It trains a LoRA, unlike
R1-Distill, Sky-T1, s1 and LIMO. docs/data.md says what `--data` may be. If interrupted, run the same command again.
"""

import dataclasses
import functools
import json
import math
import time
from dataclasses import dataclass
from statistics import fmean as mean

import engine  # noqa: F401 (first: so Ctrl-C while torch is imported is one line, too)

# isort: split
import torch
from torch.nn.utils.rnn import pad_sequence

from engine.answers import Answer, load_answers
from engine.checkpoints import LogRow, markdown_of
from engine.files import AnswerOptions, die, run
from engine.groups import batch_of
from engine.logits import token_logp
from engine.measuring import PARTIAL
from engine.memory import in_pieces, memory_plan, micro_batches
from engine.policy import checkpoint_gradients, load_trainable, open_model
from engine.problems import load_problems
from engine.progress import Progress
from engine.run_folder import RunFolder, Stop
from eval import evaluate
from grpo import without_overflow
from sample import Sampler, checked_prompts, compare_prompt, prompt_texts
from train_prune import FREE

ADVICE = "lower --max_tokens or --head_chunk, or take --gradient_checkpointing true"  # where memory runs out


@dataclass
class Config(AnswerOptions):
    """Options of sft.py: each is a YAML key and a --flag. Those of data, folder and memory are in engine/files.py."""

    epochs: int = 3
    """Passes over the data."""
    batch: int = 32
    """Responses per step."""
    lr: float = 1e-4
    """Highest rate of AdamW."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises to lr; then it falls along half a cosine to a tenth of it."""
    beta2: float = 0.95
    """Of AdamW's second moment."""
    weight_decay: float = 0.0
    """Of AdamW."""
    grad_clip: float = 1.0
    """Largest norm of the gradient."""
    lora_r: int = 32
    """Rank of the LoRA on every linear layer."""
    lora_alpha: int = 64
    """LoRA scale: alpha / r."""
    init_adapter: str = ""
    """Adapter to go on from; empty starts a new LoRA."""


@dataclass
class Step(LogRow):
    """One row of log.csv: loss in nats, norm of the gradient before the clip, response tokens; `figures` are val_*."""

    loss: float = 0.0
    grad: float = 0.0
    lr: float = 0.0
    tokens: int = 0
    update_s: float = 0.0
    val_s: float = 0.0


def add_loss(policy, answers: list[Answer], cfg: Config, tokens: int, scale: float = 1.0) -> dict[str, float]:
    """{"loss": mean negative log-prob of all response tokens}; leaves its gradient where gradients are on.

    Args:
        tokens: Padded tokens per backward pass, at most; at least one answer goes through.
        scale: The gradient comes out this many times as large.
    """
    policy.zero_grad(set_to_none=True)
    device, n_tokens, total = next(policy.parameters()).device, sum(len(answer.ids) for answer in answers), 0.0
    bf16 = device.type == "cuda" and policy.get_base_model().dtype == torch.bfloat16
    parts = micro_batches([answer.length for answer in answers], tokens)
    with Progress("update" if torch.is_grad_enabled() else "validation loss", len(parts), "piece") as progress:
        for part in parts:
            batch = [answers[i] for i in part]
            ids = pad_sequence([torch.tensor(a.prompt_ids + a.ids) for a in batch], True).to(device)  # (B, T)
            mask = pad_sequence([torch.arange(a.length) >= len(a.prompt_ids) for a in batch], True).to(device)  # (B, T)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logp = token_logp(policy, ids, mask, 1.0, cfg.head_chunk)        # (N,)
            loss = -logp.sum() / n_tokens  # tokens of the WHOLE batch: splitting it differently changes nothing
            if torch.is_grad_enabled():
                (loss * scale).backward()
            total += loss.item()
            progress.step()
    return {"loss": total}


def rate(step: int, steps: int, cfg: Config) -> float:
    """Rate of a step, counted from 1: in a line up to lr, then along half a cosine down to lr / 10.

    >>> [round(rate(step, 10, Config(lr=1.0, warmup=0.2)), 3) for step in (1, 2, 6, 10)]
    [0.5, 1.0, 0.55, 0.1]
    """
    rising = max(1, round(cfg.warmup * steps))
    if step <= rising:
        return cfg.lr * step / rising
    return cfg.lr * (0.55 + 0.45 * math.cos(math.pi * (step - rising) / (steps - rising)))


def validate(cfg: Config, folder: RunFolder, sampler: Sampler, problems: list[dict], answers: list[Answer]) -> None:
    """Measures the policy after the last step, on problems and on answers, and saves it as a checkpoint."""
    step = folder.history[-1]
    sampler.refresh()
    with folder.stoppable(), torch.no_grad():
        label, named = f"validation after step {step.step}", cfg.prompt_cap or cfg.eval_cap
        result, rows = evaluate(sampler, problems, cfg, cfg.val_data, named, label, folder.path / PARTIAL)
        if answers:
            loss_of, lengths = functools.partial(add_loss, sampler.policy, answers, cfg), [a.length for a in answers]
            step.figures["val_loss"] = in_pieces(loss_of, lengths, cfg.tokens_per_micro_batch, ADVICE)[0]["loss"]
    step.val_s = result["seconds"]
    step.figures |= {"val_pass@1": result["pass@1"], "val_tokens": result["mean_tokens"]}
    folder.write_log()
    examples = markdown_of(rows[: 4 * cfg.eval_samples : cfg.eval_samples], step.step)
    text = json.dumps(result | {"step": step.step} | step.figures, indent=1) + "\n"
    folder.save(f"step{step.step:04d}", {"eval.json": text, "samples.md": examples})
    folder.keep([])
    loss = f"loss {step.figures['val_loss']:.4f} | " if answers else ""
    folder.log(f"  validation: {loss}pass@1 {100 * result['pass@1']:.1f} % | "
               f"mean tokens {result['mean_tokens']:.0f} | {step.val_s:.0f}s")  # fmt: skip


def train(cfg: Config, folder: RunFolder) -> None:
    # --- 1. load: answers and problems first, then the model
    tokenizer, config = open_model(cfg)
    problems = load_problems(cfg.val_data, cfg.problem_key, cfg.answer_key)
    checked_prompts(cfg, tokenizer, config, cfg.val_data, problems, cfg.eval_cap, cfg.prompt_cap or cfg.eval_cap)
    answers, val_answers, notes = load_answers(cfg, tokenizer, config)
    policy, tokenizer = load_trainable(cfg, str(folder.resume or cfg.init_adapter), "", cfg.lora_r, cfg.lora_alpha)
    compare_prompt(cfg, cfg.init_adapter)
    base, parameters = policy.get_base_model(), [p for p in policy.parameters() if p.requires_grad]
    checkpoint_gradients(policy, cfg.gradient_checkpointing)
    longest = max(answer.length for answer in answers)
    notes += [memory_plan(base, cfg, longest).line()] if base.device.type == "cuda" else []
    sampler = Sampler(policy, tokenizer, cfg, longest)
    optimizer = torch.optim.AdamW(parameters, lr=cfg.lr, betas=(0.9, cfg.beta2), weight_decay=cfg.weight_decay)
    folder.start(policy, optimizer, notes)
    steps, tokens = math.ceil(len(answers) * cfg.epochs / cfg.batch), cfg.tokens_per_micro_batch
    due = {*range(cfg.checkpoint_every, steps, cfg.checkpoint_every), steps}
    if folder.resume and folder.resume.name.startswith("last") and folder.last_step in due:
        validate(cfg, folder, sampler, problems, val_answers)  # it was stopped in the middle of this one

    for number in range(folder.last_step + 1, steps + 1):
        # --- 2. the gradient of a batch
        clock = time.time()
        batch = [answers[i] for i in batch_of(number, len(answers), cfg.batch, cfg.seed)]
        n_tokens = sum(len(answer.ids) for answer in batch)
        with folder.stoppable():
            figures, tokens = in_pieces(
                lambda size: without_overflow(policy, n_tokens, functools.partial(add_loss, policy, batch, cfg, size)),
                [answer.length for answer in batch], tokens, ADVICE,
            )  # fmt: skip

        # --- 3. the optimizer's step; none for a NaN or infinite gradient
        lr, loss = rate(number, steps, cfg), figures["loss"]
        for part in optimizer.param_groups:
            part["lr"] = lr
        grad = torch.nn.utils.clip_grad_norm_(parameters, cfg.grad_clip).item()
        if math.isfinite(grad) and math.isfinite(loss):
            optimizer.step()
        policy.zero_grad(set_to_none=True)

        # --- 4. log, validate, checkpoint
        folder.history.append(Step(number, loss, grad, lr, n_tokens, round(time.time() - clock, 3)))
        folder.write_log()
        left = (steps - number) * mean(step.update_s for step in folder.history[-20:])
        folder.log(f"step {number:4d}/{steps} | loss {loss:.4f} | grad {grad:.2g} | lr {lr:.2g} | {n_tokens} "
                   f"tokens | {folder.history[-1].update_s:.1f}s | {left // 3600:.0f}h{left // 60 % 60:02.0f}m left")
        if number > 2 and not any(math.isfinite(step.loss + step.grad) for step in folder.history[-3:]):
            raise Stop("error: NaN or infinite loss or gradient for 3 steps in a row: lower --lr", 1)
        if time.time() - folder.saved_at > 60 * cfg.save_minutes:
            folder.save("last")
        if number in due:
            validate(cfg, folder, sampler, problems, val_answers)

    # --- 5. the last step is the result
    final = str(folder.save("final"))
    folder.finish({"selected": final, "step": steps, "why": "the last step", "checkpoints": folder.results()})
    (folder.path / PARTIAL).unlink(missing_ok=True)
    folder.log(f"done: {final}; next: python eval.py --model {cfg.model} --adapter {final} ...")


def main(cfg: Config) -> None:
    for name in "max_tokens epochs batch checkpoint_every head_chunk lora_r eval_cap eval_samples".split():
        if getattr(cfg, name) < 1:
            die(f"--{name} {getattr(cfg, name)} must be at least 1")
    for name in ("warmup", "beta2", "val_share"):
        if not 0 <= getattr(cfg, name) < 1:
            die(f"--{name} {getattr(cfg, name)} must be at least 0 and below 1")
    # With the words of the prompt in it, so that an edit of sample.py is seen when a run is resumed.
    cfg, usual = (dataclasses.replace(options, **prompt_texts(options)) for options in (cfg, Config()))
    with RunFolder(dataclasses.asdict(cfg), dataclasses.asdict(usual), FREE - {"test_data"}, Step) as folder:
        if folder.done:
            print(f"{folder.path} is done; --fresh true begins anew")
        else:
            train(cfg, folder)


if __name__ == "__main__":
    run(main, Config, also="train_prune")
