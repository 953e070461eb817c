"""Readability: the perplexity of the responses under a reference model, thinking and answer apart.

    python -m analysis.perplexity out/toy/base_test out/toy/final_test    # under A's base
    python -m analysis.perplexity A B --model Qwen/Qwen2.5-7B             # under another model
"""

import sys
from dataclasses import dataclass

import numpy as np
import torch

from analysis.budget import split_ids
from analysis.command import Settings, main
from analysis.evaluations import Evaluation
from analysis.stats import interval, quotient_difference
from analysis.tables import gap, side_table
from engine.files import Options
from engine.logits import token_logp
from engine.memory import micro_batches
from engine.policy import load_policy, rollout_model
from engine.progress import Progress

FILE, HEADING, FOLDERS = "perplexity.json", "Readability", (1, 2)
PARTS = ("all", "thinking", "answer")


@dataclass
class Config(Settings, Options):
    """Options of analysis.perplexity. The reference is A's base unless --model says otherwise, without an adapter."""

    tokens_per_batch: int = 2048
    """Padded tokens per forward; moves speed and memory, never the result."""


@torch.no_grad()
def response_nll(model, sequences: list[list[int]], starts: list[int], tokens_per_batch: int, chunk: int = 512):
    """Minus the log-prob of every token of each sequence from its start on, as float32 arrays.

    Args:
        sequences: Token ids, prompt and response. starts: index of the first response token, at least 1.
        tokens_per_batch: Padded tokens of one forward; a longer sequence goes alone.
    """
    result, lengths = [np.empty(0)] * len(sequences), [len(sequence) for sequence in sequences]
    with Progress("perplexity", len(sequences), unit="response") as progress:
        for batch in micro_batches(lengths, tokens_per_batch):
            ids = torch.zeros(len(batch), lengths[batch[0]], dtype=torch.long)       # (B, T)
            mask = torch.zeros_like(ids, dtype=torch.bool)                           # (B, T), True on response tokens
            for row, i in enumerate(batch):
                ids[row, : lengths[i]] = torch.tensor(sequences[i])
                mask[row, starts[i] : lengths[i]] = True
            logp = token_logp(model, ids.to(model.device), mask.to(model.device), 1.0, chunk)
            for i, part in zip(batch, logp.split([lengths[i] - starts[i] for i in batch])):
                result[i] = -part.cpu().numpy()
            progress.step(more=len(batch))
    return result


def nll_by_problem(model, tokenizer, side: Evaluation, cfg: Config) -> dict[str, np.ndarray]:
    """For each of PARTS (P, 2): the summed minus log-prob and the tokens of a problem's responses.

    The thinking runs through </think>; the answer is the rest, with the end token where there was one.
    """
    coded = [split_ids(tokenizer, row["response"]) for row in side.rows]
    prompts = [tokenizer(row["prompt"], add_special_tokens=False).input_ids for row in side.rows]
    ends = [[tokenizer.eos_token_id] if row["finished"] else [] for row in side.rows]
    sequences = [prompt + ids + end for prompt, (ids, _, _), end in zip(prompts, coded, ends)]
    nll = response_nll(model, sequences, list(map(len, prompts)), cfg.tokens_per_batch)
    cuts = {"all": [(0, None)] * len(nll), "thinking": [(0, n) for *_, n in coded]}
    cuts["answer"] = [(n, None) for *_, n in coded]
    sums = {part: [(x[i:j].sum(dtype=float), len(x[i:j])) for x, (i, j) in zip(nll, cuts[part])] for part in PARTS}
    return {part: np.array(pairs, float).reshape(*side.tokens.shape, 2).sum(1) for part, pairs in sums.items()}


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    policy, tokenizer = load_policy(cfg)
    model, result = rollout_model(policy, cfg, 0), {"reference": cfg.model, "tokens": {}}
    sums = [nll_by_problem(model, tokenizer, side, cfg) for side in sides]
    for name, parts in zip("AB", sums):
        result[name] = {p: interval(x, lambda m: np.exp(m[..., 0] / m[..., 1]), log=True) for p, x in parts.items()}
        result["tokens"][name] = {part: int(x.sum(0)[1]) for part, x in parts.items()}
    if len(sides) > 1:
        pairs = {part: np.concatenate([x[part] for x in sums], 1) for part in PARTS}      # (P, 4)
        result["ratio"] = {p: interval(x, lambda m: np.exp(quotient_difference(m)), log=True) for p, x in pairs.items()}
    return result


def show(r: dict) -> list[str]:
    names = {part: f"perplexity, {part}" for part in PARTS}
    return [f"Under {r['reference']}, a token's; [ , ] is the interval of each side, too.", "",
            *side_table(r, "", names, lambda s, part: gap(r[s][part], 3, 1, False), "ratio", "B / A", 3)]


if __name__ == "__main__":
    main(sys.modules[__name__])
