"""The search toy: a tiny model whose thinking is a search, so how long it has to think differs by problem.

    python data/search.py                                     # out/search_base: model, tokenizer, problem files
    python data/search.py --traces sums --out_dir out/sums_base      # knows the format and the sums, not the search

A small Countdown: "From a 3, b 9, c 5, d 14, e 7: which two make 16?" One pair is right. A trace tries the pairs
in order, a line each, up to the right one; then come up to four superfluous rounds. `depth` in a problem's row is the
place of its pair, 1 to 10: the lines that a search needs. Model, tokenizer and training are those of data/toy.py.
Each folder also has cold_start.jsonl: searches without superfluous rounds, on problems of its own, to fine-tune on.
"""

import random
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import toy  # noqa: E402
from engine.files import die, one_line, parse, write_jsonl  # noqa: E402
from sample import build_prompt  # noqa: E402


@dataclass
class Config(toy.Config):
    """Options of data/search.py: those of data/toy.py, and these."""

    out_dir: str = "out/search_base"
    """Folder to make; a finished one with the same recipe is reused."""
    traces: Literal["search", "sums"] = "search"
    """What the base is taught; sums: lines in any order and number, whatever they show, and the last pair as answer."""
    n_cold: int = 512
    """Rows of cold_start.jsonl."""


# ---------------------------------------------------------------- problems and traces
NAMES, HIGH = "abcde", 15
PAIRS = list(combinations(range(len(NAMES)), 2))  # the order of the search
EXTRA = [0.15, 0.25, 0.25, 0.2, 0.15]  # p(0..4 superfluous rounds)
HEADERS = [
    "Wait, let me make sure and try that one again",
    "Hmm, I want to be really sure about this one, so let me go over everything from the beginning again",
    "Wait, to be on the safe side, maybe another two work as well, so go on with the rest",
]
HEAVY = [" yes", " no"]


def make_problem(rng: random.Random) -> tuple[list[int], int]:
    """Draws five different numbers and the place in PAIRS of the right pair; no other pair has its sum."""
    while True:
        numbers, place = rng.sample(range(1, HIGH + 1), len(NAMES)), rng.randrange(len(PAIRS))
        sums = [numbers[i] + numbers[j] for i, j in PAIRS]
        if sums.count(sums[place]) == 1:
            return numbers, place


def target_of(numbers: list[int], place: int) -> int:
    i, j = PAIRS[place]
    return numbers[i] + numbers[j]


def problem_text(numbers: list[int], place: int) -> str:
    """
    >>> problem_text([3, 9, 5, 14, 7], 5)
    'From a 3, b 9, c 5, d 14, e 7: which two make 23?'
    """
    named = ", ".join(f"{name} {n}" for name, n in zip(NAMES, numbers))
    return f"From {named}: which two make {target_of(numbers, place)}?"


def tried(numbers: list[int], target: int, pairs: list[tuple[int, int]]) -> list[str]:
    """
    >>> tried([3, 9, 5, 14, 7], 16, [(0, 1), (1, 4)])
    ['a 3 b 9 = 12 no', 'b 9 e 7 = 16 yes']
    """
    sums = [(i, j, numbers[i] + numbers[j]) for i, j in pairs]
    return [f"{NAMES[i]} {numbers[i]} {NAMES[j]} {numbers[j]} = {s} {'yes' if s == target else 'no'}" for i, j, s in sums]


def make_trace(numbers: list[int], place: int, n_extra: int, rng: random.Random) -> str:
    """Writes a search that ends at the right pair, and so many superfluous rounds after it."""
    target, lines = target_of(numbers, place), tried(numbers, target_of(numbers, place), PAIRS[: place + 1])
    for _ in range(n_extra):
        kind = rng.choices([0, 1, 2], [0.4, 0.4, 0.2])[0]
        again = [PAIRS[place : place + 1], PAIRS[: place + 1], PAIRS[place + 1 :]][kind]
        lines += [HEADERS[kind], *tried(numbers, target, again)]
    return ended(target, lines, PAIRS[place])


def make_sums(numbers: list[int], place: int, rng: random.Random) -> str:
    """Writes one to six pairs in any order, with their sums, and answers with the last: the format without a search."""
    target, pairs = target_of(numbers, place), rng.choices(PAIRS, k=rng.randint(1, 6))
    return ended(target, tried(numbers, target, pairs), pairs[-1])


def ended(target: int, lines: list[str], pair: tuple[int, int]) -> str:
    return "\n".join([f"Try for {target}", *lines]) + f"\n</think>\nThe answer is \\boxed{{{answer_of(pair)}}}."


def answer_of(pair: tuple[int, int]) -> str:
    return f"{NAMES[pair[0]]}, {NAMES[pair[1]]}"


def make_splits(cfg: Config) -> dict[str, list[dict]]:
    """Distinct problems: {"id", "problem", "depth", "answer"} rows by split, with a "response" in cold_start."""
    rng, seen = random.Random(f"splits {cfg.seed}"), set()
    sizes = {"test": cfg.n_test, "val": cfg.n_val, "train": cfg.n_train, "cold_start": cfg.n_cold}
    splits: dict[str, list[dict]] = {split: [] for split in sizes}
    for split, n in sizes.items():
        while len(splits[split]) < n:
            numbers, place = make_problem(rng)
            text = problem_text(numbers, place)
            if text not in seen:
                seen.add(text)
                row = {"id": f"{split}-{len(splits[split])}", "problem": text, "depth": place + 1}
                row["answer"] = answer_of(PAIRS[place])
                if split == "cold_start":
                    row |= {"response": make_trace(numbers, place, 0, rng), "finished": True}
                splits[split].append(row)
    return splits


# ---------------------------------------------------------------- what data/toy.py asks of a toy
def build_tokenizer():
    """The words and numbers of this toy's problems and traces."""
    trace = make_trace([1] * len(NAMES), 0, 0, random.Random(0)).replace("{a, b}", "{1, 1}")
    texts = [trace, problem_text([1] * len(NAMES), 0), *HEADERS, "yes no \nWait \nHmm"]
    texts += [f"{name} \n{name}" for name in NAMES]
    return toy.word_tokenizer(range(1, 2 * HIGH), range(0), texts)


def make_rows(cfg: Config, tokenizer, n: int, long: float, held_out: set[str], rng: random.Random) -> list:
    """n pre-training rows (prompt ids, response ids), none of a held-out problem; a share `long` has extra rounds."""
    prompts, responses = [], []
    while len(prompts) < n:
        problem = make_problem(rng)
        if problem_text(*problem) in held_out:
            continue
        prompts.append(build_prompt(tokenizer, problem_text(*problem), rng.randint(40, 1000)))
        n_extra = rng.choices(range(len(EXTRA)), EXTRA)[0] if rng.random() < long else 0
        trace = make_sums(*problem, rng) if cfg.traces == "sums" else make_trace(*problem, n_extra, rng)
        responses.append(trace + toy.END)
    prompts = tokenizer(prompts, add_special_tokens=False).input_ids
    return list(zip(prompts, tokenizer(responses, add_special_tokens=False).input_ids))


if __name__ == "__main__":
    with one_line():
        toy.make(parse(Config), sys.modules["__main__"])
