"""The adapter of a run, merged into the base's own weights, as a folder that other programs load; and how far it moved.

    python export.py --adapter out/toy/final --out out/toy/merged
    python export.py --config config/r1_1.5b_24gb.yaml --adapter out/r1_1.5b_24gb/final --out out/r1_1.5b_24gb/merged
    python export.py --adapter out/toy/final --keep_top 0.25 --scale 0.7 --out out/toy/merged_top

The LoRA was trained over a 4-bit base. Here it is added to the weights that the model's files hold, in float32, and
rounded once to their precision: nothing is merged into the 4-bit weights. So the result is another model than the one
that was trained and tested. This script measures how far the two are apart, on the very files that it has written.

--keep_top and --scale add only the largest entries of each matrix, times a factor, as DLER does (arXiv:2510.15110):
with 0.25 and 0.7 their 8B model used 46 % fewer tokens than its base and was as often right.
"""

import dataclasses
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from analysis.card import in_words, measure, model_card, next_command, table
from engine.files import Options, die, explained, read_json, run, sync
from engine.policy import check_adapter, load_policy
from engine.problems import load_problems
from engine.supported import inexact_copy
from sample import compare_prompt


@dataclass
class Config(Options):
    """Options of export.py: each is a YAML key and a --flag."""

    adapter: str = "out/toy/final"
    """Folder of the adapter. The prompt that it was trained with is used, unless other options are given."""
    out: str = ""
    """Folder to write; it must not exist."""
    data: str = ""
    """Problem file to measure on; empty takes that of the run's test (summary.json beside the adapter)."""
    max_problems: int = 32
    """Measure on the first so many problems: one rollout and one greedy answer each; 0 takes all."""
    cap: int = 0
    """Token cap that the prompt names and that ends a measured answer; 0 takes that of the run's test."""
    keep_top: float = 1.0
    """Share of each matrix's changes that is kept, the largest ones; in (0, 1]."""
    scale: float = 1.0
    """Factor on the changes; above 0."""
    warn_kl: float = 0.05
    """Warn where the KL per token between trained and merged model is above this, in nats."""


# ---------------------------------------------------------------------------------------- formulas


def largest(delta: torch.Tensor, share: float) -> torch.Tensor:
    """The matrix with all but this share of its entries set to 0, the largest by magnitude being kept.

    >>> largest(torch.tensor([[1.0, -4.0], [3.0, 2.0]]), 0.5).tolist()
    [[0.0, -4.0], [3.0, 0.0]]
    """
    drop = delta.numel() - max(1, round(share * delta.numel()))
    return delta * (delta.abs() > delta.abs().flatten().kthvalue(drop).values) if drop else delta


@torch.no_grad()
def merge(policy, keep_top: float = 1.0, scale: float = 1.0):
    """The plain model whose linear weights are base + scale * LoRA: one sum in float32, rounded once. In place."""
    for layer in policy.modules():
        if hasattr(layer, "base_layer"):
            weight, delta = layer.base_layer.weight, layer.get_delta_weight("default").float()
            weight.copy_(weight.float() + scale * largest(delta, keep_top))
    return policy.unload()


# ---------------------------------------------------------------------------------------- the command


def write_model(cfg: Config, folder: Path, sampling: dict) -> None:
    """Writes merged weights, tokenizer and chat template; exits with status 2 for what cannot be merged or written."""
    from transformers import GenerationConfig

    stored = dataclasses.replace(cfg, load_4bit=False, dtype="stored", device="cpu")
    policy, tokenizer = load_policy(stored, cfg.adapter)
    base, why = policy.get_base_model(), inexact_copy(policy)
    tied = (base.get_input_embeddings(), base.get_output_embeddings()) if base.config.tie_word_embeddings else ()
    if any(hasattr(module, "base_layer") for module in tied):
        why = "LoRA on an embedding that is the output layer, too"
    if why:
        die(f"adapter {cfg.adapter} cannot be merged exactly ({why}): use it on its base, with PEFT")
    size = sum(p.numel() * p.element_size() for p in base.parameters())
    if (free := shutil.disk_usage(folder.parent).free) < 1.05 * size:
        die(f"--out {cfg.out}: {free / 1e6:.0f} MB free, the model takes {size / 1e6:.0f} MB: make room")
    model = merge(policy, cfg.keep_top, cfg.scale)
    ends = {name: getattr(model.generation_config, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    # The sampling of the test, without penalties and the like that the base may come with.
    model.generation_config = GenerationConfig(
        **{f"{name}_token_id": token for name, token in ends.items()}, do_sample=True, top_k=0, **sampling
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(cfg: Config) -> None:
    out, adapter = Path(cfg.out), Path(cfg.adapter)
    beside, report = out.parent / f"{out.name}.tmp", adapter.parent / "summary.json"
    if not cfg.out or os.path.lexists(out):
        die(f"--out {cfg.out} exists: take another folder" if cfg.out else "give --out FOLDER for the merged model")
    if not (0 < cfg.keep_top <= 1 and 0 < cfg.scale < math.inf and cfg.max_problems >= 0 and cfg.cap >= 0):
        die("--keep_top must be in (0, 1], --scale above 0, --max_problems and --cap at least 0")
    check_adapter(cfg.adapter)
    made, summary = (read_json(p) if p.is_file() else {} for p in (adapter / "nanoprune.json", report))
    with explained(f"{report} is damaged", KeyError, TypeError, AttributeError):
        if summary and Path(summary["final"]["adapter"]).name != adapter.name:
            summary = {}  # of another adapter
        figures, test = table(summary), summary.get("final", {})
    for key in ("system", "instruction", "template_options"):  # as it was trained, unless options say otherwise
        if getattr(cfg, key) in (None, {}):
            setattr(cfg, key, made.get(key, getattr(cfg, key)))
    cfg.thinking = made.get("thinking", cfg.thinking)  # always the adapter's
    cfg.data, cfg.cap = cfg.data or test.get("data", ""), cfg.cap or test.get("prompt_cap") or made.get("cap") or 0
    if not (cfg.data and cfg.cap):
        die(f"no {report} of this adapter names problems and cap: give --data FILE and --cap N")
    compare_prompt(cfg, cfg.adapter)
    problems = load_problems(cfg.data, cfg.problem_key, cfg.answer_key)[: cfg.max_problems or None]
    sampling = {"temperature": test.get("temperature") or 0.6, "top_p": test.get("top_p", 0.95)}
    try:
        with explained(f"--out {cfg.out} cannot be written", OSError, SafetensorError):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            write_model(cfg, beside, sampling)
        found = measure(cfg, beside, problems)
        with explained(f"--out {cfg.out} cannot be written", OSError):
            (beside / "README.md").write_text(model_card(cfg, found, figures, test), encoding="utf-8")
            for path in (*beside.iterdir(), beside):
                sync(path)
            os.replace(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    print(in_words(found))
    if not found["kl"] <= cfg.warn_kl:
        print(f"warning: a KL above {cfg.warn_kl:g}: test the merged model first, or use the adapter on the 4-bit base")
    print(f"{out}: merged model, tokenizer and README.md\nnext: {next_command(cfg, test)}")


if __name__ == "__main__":
    run(main, Config, also="train_prune")
