"""How far the weights that an adapter goes into are from each other, on real rollouts.

    python dev/small_weights.py                                     # of the toy that schedule.sh made
    python dev/small_weights.py --config config/qwen_0.5b.yaml --dtype auto --adapter A --rollouts A/r.jsonl

Three times the same adapter: live on the 4-bit base, as it is trained; merged, the copy that rollouts are decoded
from; exported, added to the base's own weights as export.py does. A row tells the KL per token from its first to its
second, as analysis/card.py estimates it, and the mean and largest difference of a log-prob. The tokens are those of the
file, which the adapter's policy must have written at temperature 1. +- is one standard error with the rollouts as
clusters. Then a few fresh rollouts: the sampler's own log-probs against those of the update.
"""

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from analysis.card import k3, rollout_logp
from analysis.evaluations import check
from analysis.tables import table
from engine.files import Options, die, read_jsonl, run
from engine.policy import load_policy, merged_copy, pick_dtype
from engine.run_folder import head_line
from engine.supported import inexact_copy
from engine.templates import end_token
from eval import mean_and_se
from export import merge
from sample import Rollout, Sampler


@dataclass
class Config(Options):
    """Options of dev/small_weights.py; `--dtype auto` measures float32 and bfloat16."""

    adapter: str = "out/toy/final"
    """Folder of the adapter."""
    rollouts: str = "out/toy/final_test/rollouts.jsonl"
    """Rollout file of its policy."""
    max_rollouts: int = 32
    """Take so many, evenly spread over the file."""
    fresh: int = 8
    """Fresh rollouts, to compare sampler and trainer; 0 for none."""


def read_rollouts(cfg: Config, tokenizer) -> list[Rollout]:
    """The rollouts of the file as tokens, each with the end token where it had ended."""
    rows, end = list(read_jsonl(cfg.rollouts)), end_token(tokenizer)
    if not rows or cfg.max_rollouts < 1:
        die(f"--rollouts {cfg.rollouts} holds none" if not rows else "--max_rollouts must be at least 1")
    found, stride = [], max(1, len(rows) // cfg.max_rollouts)
    for number, row in list(enumerate(rows, 1))[::stride][: cfg.max_rollouts]:
        check(f"{cfg.rollouts} line {number}", row, {"prompt": str, "response": str, "finished": bool})
        prompt, ids = (tokenizer(row[key], add_special_tokens=False).input_ids for key in ("prompt", "response"))
        ids = ids + [end] * row["finished"]
        found.append(Rollout(prompt, ids, torch.zeros(0), row["finished"], row["response"], tokenizer))
    return found


def apart(logp: torch.Tensor, other: torch.Tensor, rollouts: list[Rollout]) -> list[str]:
    """Cells: KL with its error over rollouts, mean and largest gap, from both (tokens of all rollouts,) log-probs."""
    parts = k3(logp.double(), other.double()).split([len(r.ids) for r in rollouts])
    kl, se = mean_and_se([part.tolist() for part in parts])
    gap = (other - logp).abs()
    return [f"{kl:.1e}" + ("" if se is None else f" +- {se:.0e}"), f"{gap.mean():.1e}", f"{gap.max():.1e}"]


def exported(cfg: Config):
    """The base's own weights with the adapter added, rounded once to the precision of its files, now in `dtype`."""
    stored = dataclasses.replace(cfg, load_4bit=False, dtype="stored", device="cpu")
    return merge(load_policy(stored, cfg.adapter)[0]).to(pick_dtype(cfg.dtype, torch.device("cpu")))


@torch.no_grad()
def measure(cfg: Config) -> tuple[torch.Tensor, list[Rollout], list[list[str]]]:
    """(live log-probs, the rollouts, rows of the table) in the precision of `cfg.dtype`."""
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    if why := inexact_copy(policy):
        die(f"adapter {cfg.adapter} cannot be merged exactly ({why})")
    policy.train()  # never in eval mode over 4-bit weights; there is no dropout to switch off
    rollouts = read_rollouts(cfg, tokenizer)
    live, rows = rollout_logp(policy, rollouts), []
    merged = rollout_logp(merged_copy(policy), rollouts)
    if cfg.fresh:
        prompts, cap = [r.prompt_ids for r in rollouts[: cfg.fresh]], max(len(r.ids) for r in rollouts)
        fresh = Sampler(policy, tokenizer, cfg).sample(prompts, cap=cap, seed=cfg.seed)
        given = torch.cat([r.logp for r in fresh])
        rows = [["sampler, trainer", *apart(given, rollout_logp(policy, fresh), fresh)]]
    del policy
    own = rollout_logp(exported(cfg), rollouts)
    pairs = {"live, merged": (live, merged), "live, exported": (live, own), "merged, exported": (merged, own)}
    return live, rollouts, [[name, *apart(*pair, rollouts)] for name, pair in pairs.items()] + rows


def main(cfg: Config) -> None:
    started, found, rows = time.process_time(), {}, []
    for dtype in ("float32", "bfloat16") if cfg.dtype == "auto" else (cfg.dtype,):
        found[dtype], rollouts, cells = measure(dataclasses.replace(cfg, dtype=dtype))
        rows += [[dtype, *row] for row in cells]
    if len(found) > 1:
        rows.append(["both", "live in float32, live in bfloat16", *apart(*found.values(), rollouts)])
    tokens, seconds = sum(len(r.ids) for r in rollouts), time.process_time() - started
    print(f"{cfg.model} with {cfg.adapter}: {len(rollouts)} rollouts of {cfg.rollouts}, {tokens} tokens, "
          f"{seconds:.0f} CPU s; {head_line(torch.device('cpu'))}\n")  # fmt: skip
    print("\n".join(table(["precision", "weights", "KL, nats a token", "mean gap", "largest gap"], rows)))


if __name__ == "__main__":
    run(main, Config, also="train_prune")
