"""The search toy: a tiny model whose thinking is a search, so how long it has to think differs by problem.

    python data/search.py                                     # out/search_base: model, tokenizer, problem files
    python data/search.py --traces sums --out_dir out/sums_base      # knows the format and the sums, not the search
    python data/search.py stats out/search/base_test/rollouts.jsonl out/search/final_test/rollouts.jsonl

A small Countdown: "From a 3, b 9, c 5, d 1, e 7: which two make 16?" One pair is right. A trace tries the pairs in
order, a line each, up to the right one; then come up to four superfluous rounds. `depth` in a problem's row is the
place of its pair, 1 to 10: the lines that a search needs. A line ends in its sum less the target, "12 -16 -4": that is
one more sum, which so small a model learns. To say "no" to 12 at once, with the target far away, it does not.
Model and training are those of data/toy.py, whose problems and traces are replaced by the ones below.
Each folder also has cold_start.jsonl: searches without superfluous rounds, on problems of its own, to fine-tune on.
"""

import json
import random
import re
import sys
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Literal

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
import toy  # noqa: E402
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
NAMES, HIGH = "abcde", 9
PAIRS = list(combinations(range(len(NAMES)), 2))  # the order of the search
EXTRA = [0.15, 0.25, 0.25, 0.2, 0.15]  # p(0..4 superfluous rounds)
HEADERS = [
    "Wait, let me make sure and try that one again",
    "Hmm, I want to be really sure about this one, so let me go over everything from the beginning again",
    "Wait, to be on the safe side, maybe another two work as well, so go on with the rest",
]


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
    >>> problem_text([3, 9, 5, 1, 7], 6)
    'From a 3, b 9, c 5, d 1, e 7: which two make 16?'
    """
    named = ", ".join(f"{name} {n}" for name, n in zip(NAMES, numbers))
    return f"From {named}: which two make {target_of(numbers, place)}?"


def tried(numbers: list[int], target: int, pairs: list[tuple[int, int]]) -> list[str]:
    """
    >>> tried([3, 9, 5, 1, 7], 16, [(0, 1), (1, 4)])
    ['a 3 b 9 = 12 -16 -4', 'b 9 e 7 = 16 -16 +0 yes']
    """
    lines = []
    for i, j in pairs:
        total = numbers[i] + numbers[j]
        line = f"{NAMES[i]} {numbers[i]} {NAMES[j]} {numbers[j]} = {total} -{target} {total - target:+d}"
        lines.append(line + (" yes" if total == target else ""))
    return lines


def make_trace(numbers: list[int], place: int, n_extra: int, rng: random.Random, order=PAIRS) -> str:
    """Writes a search that ends at the right pair, and so many superfluous rounds after it."""
    target, last = target_of(numbers, place), order.index(PAIRS[place])
    lines = tried(numbers, target, order[: last + 1])
    for _ in range(n_extra):
        kind = rng.choices([0, 1, 2], [0.4, 0.4, 0.2])[0]
        again = [order[last : last + 1], order[: last + 1], order[last + 1 :]][kind]
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


# ---------------------------------------------------------------- what takes the place of data/toy.py's own
def build_tokenizer():
    """The tokenizer of data/toy.py, with the words and numbers of these problems and traces."""
    numbers = [1] * len(NAMES)
    words = ["Try for yes \nWait \nHmm", *HEADERS, problem_text(numbers, 0)]
    words += [f" {name} \n{name}" for name in NAMES]
    return toy.build_tokenizer(2 * HIGH, words)  # numbers and distances to the target, with their signs


def make_rows(cfg: Config, tokenizer, n: int, long: float, held_out: set[str], rng: random.Random) -> list:
    """n pre-training rows (prompt ids, response ids), none of a held-out problem.

    A share `long` of them has the superfluous rounds. The others have none and try the pairs in any order, so that the
    first third of the training teaches to look a number up by its name, not by its place.
    """
    prompts, responses = [], []
    while len(prompts) < n:
        problem = make_problem(rng)
        if problem_text(*problem) in held_out:
            continue
        prompts.append(build_prompt(tokenizer, problem_text(*problem), rng.randint(40, 1000)))
        if cfg.traces == "sums":
            response = make_sums(*problem, rng)
        elif rng.random() < long:
            response = make_trace(*problem, rng.choices(range(len(EXTRA)), EXTRA)[0], rng)
        else:
            response = make_trace(*problem, 0, rng, rng.sample(PAIRS, len(PAIRS)))
        responses.append(response + toy.END)
    prompts = tokenizer(prompts, add_special_tokens=False).input_ids
    return list(zip(prompts, tokenizer(responses, add_special_tokens=False).input_ids))


# ---------------------------------------------------------------- statistics (not in the recipe)
def depth_of(gold: str) -> int:
    """
    >>> depth_of("a, b"), depth_of("d, e")
    (1, 10)
    """
    return [answer_of(pair) for pair in PAIRS].index(gold) + 1


def is_found(response: str, gold: str) -> bool:
    """Whether the thinking has the line that says yes to the right pair.

    >>> is_found("Try for 16\\nb 9 e 7 = 16 -16 +0 yes\\n</think>", "b, e"), is_found("b 9\\n</think>", "b, e")
    (True, False)
    """
    first, second = gold.split(", ")
    return bool(re.search(rf"^{first} \d+ {second} \d+ = .* yes$", response.split(toy.THINK_END)[0], re.MULTILINE))


def stats(files: list[str]) -> None:
    """Prints tokens and pass@1 of rollout files by depth, and how many right answers the thinking does not show."""
    from analysis.stats import point

    for file in files:
        rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
        print(f"{file}\n{'depth':>5}{'problems':>10}{'tokens':>16}{'pass@1 (%)':>16}{'not shown':>14}")
        for depth in [*range(1, len(PAIRS) + 1), "all"]:
            by_problem: dict[str, list[dict]] = {}
            for row in rows:
                if depth in (depth_of(row["gold"]), "all"):
                    by_problem.setdefault(row["id"], []).append(row)
            if not by_problem:
                continue
            cells = ""
            for unit, name in (1, "n_tokens"), (100, "correct"):
                mean = point([unit * fmean(row[name] for row in problem) for problem in by_problem.values()])
                cells += f"{mean['value']:9.1f} +- {mean['se'] or 0:3.1f}"
            right = [row for problem in by_problem.values() for row in problem if row["correct"]]
            hidden = sum(not is_found(row["response"], row["gold"]) for row in right)
            print(f"{depth:>5}{len(by_problem):>10}{cells}{f'{hidden} of {len(right)}':>14}")


# ---------------------------------------------------------------- the command
def make(cfg: Config) -> None:
    """Makes the folder as data/toy.py does, with these problems and traces."""
    toy.make(cfg, toy.Kind(make_splits, partial(make_rows, cfg), build_tokenizer, file=__file__))


if __name__ == "__main__":
    toy.command(stats, make, Config)
