"""The plain toy: what data/toy.py would be before it has learnt to think long, to begin the experiments on reasoning.

    python data/plain.py                                       # out/plain_base: model, tokenizer, problem files
    python data/plain.py --size small --out_dir out/plain_small      # a student with under a third of the weights

Like a model after its pre-training, it has seen everything and keeps to nothing. Most of its traces answer after the
hasty first pass; a few check themselves up to nine times. Half of them end in </think> and a box, the others in plain
words. Model, problems and training are those of data/toy.py, the held-out problems are the same.

Each folder also has answers to fine-tune on, all of them right, on problems of their own: cold_long.jsonl with the
checks of data/toy.py, cold_short.jsonl without any. Both have the same number of tokens; cold_long_half.jsonl and so on
hold the first half or quarter of them.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import toy  # noqa: E402
from sample import build_prompt  # noqa: E402


@dataclass
class Config(toy.Config):
    """Options of data/plain.py: those of data/toy.py, and these."""

    out_dir: str = "out/plain_base"
    """Folder to make; a finished one with the same recipe is reused."""
    size: Literal["full", "small"] = "full"
    """small: two of the four layers, each with a third of the inner width."""
    cold_tokens: int = 64000
    """Response tokens in cold_long.jsonl and in cold_short.jsonl."""


CHECKED = 0.15  # share of the traces with the checks of data/toy.py
BOXED = 0.5  # share of the traces that end as a response should
SMALL = dict(num_hidden_layers=2, intermediate_size=128)
PARTS = {"": 1, "_half": 2, "_quarter": 4}


def make_trace(ops: list[int], rng: random.Random, checked: bool) -> str:
    """A trace of data/toy.py, with its number of checks or with none."""
    return toy.make_trace(ops, rng.choices(range(len(toy.CHECKS)), toy.CHECKS)[0] if checked else 0, rng)


def unboxed(trace: str) -> str:
    """
    >>> unboxed("a +1 = 11\\n</think>\\nThe answer is \\\\boxed{11}.")
    'a +1 = 11\\nThe answer is 11.'
    """
    return trace.replace(f"\n{toy.THINK_END}", "").replace("\\boxed{", "").replace("}", "")


def make_rows(tokenizer, n: int, long: float, held_out: set[str], rng: random.Random) -> list:
    """n pre-training rows (prompt ids, response ids), none of a held-out problem; `long` does not matter here."""
    prompts, responses = [], []
    while len(prompts) < n:
        ops = toy.make_problem(rng)
        if toy.problem_text(ops) in held_out:
            continue
        trace = make_trace(ops, rng, rng.random() < CHECKED)
        prompts.append(build_prompt(tokenizer, toy.problem_text(ops), rng.randint(40, 1000)))
        responses.append((trace if rng.random() < BOXED else unboxed(trace)) + toy.END)
    prompts = tokenizer(prompts, add_special_tokens=False).input_ids
    return list(zip(prompts, tokenizer(responses, add_special_tokens=False).input_ids))


def make_splits(cfg: Config) -> dict[str, list[dict]]:
    """The splits of data/toy.py, and right answers to learn from, as many as make up `cold_tokens`."""
    splits, tokenizer = toy.make_splits(cfg), toy.build_tokenizer()
    held_out = {row["problem"] for rows in splits.values() for row in rows}
    for name in ("long", "short"):
        rng, rows, ends = random.Random(f"cold {cfg.seed}"), [], []
        while not ends or ends[-1] < cfg.cold_tokens:
            ops = toy.make_problem(rng)
            problem, answer = toy.problem_text(ops), str(toy.START + sum(ops))
            trace = make_trace(ops, rng, name == "long")
            if problem in held_out or not trace.endswith(f"\\boxed{{{answer}}}."):
                continue
            rows.append({"id": f"{name}-{len(rows)}", "problem": problem, "answer": answer})
            rows[-1] |= {"response": trace, "finished": True}
            ends.append(len(tokenizer(trace + toy.END).input_ids) + (ends[-1] if ends else 0))
        for suffix, part in PARTS.items():
            splits[f"cold_{name}{suffix}"] = rows[: sum(end <= cfg.cold_tokens / part for end in ends)]
    return splits


# ---------------------------------------------------------------- the command (not in the recipe)
def make(cfg: Config) -> None:
    """Makes the folder as data/toy.py does, with these traces and this size."""
    toy.make(cfg, toy.Kind(make_splits, make_rows, sizes=SMALL if cfg.size == "small" else {}, file=__file__))


if __name__ == "__main__":
    toy.command(toy.stats, make, Config)
