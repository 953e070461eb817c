"""Countdown problems for a real model -> out/countdown/{train,val,test}.jsonl

    python data/countdown.py
    python data/countdown.py --sizes "3" --largest 20 --train 1000      # easier: three numbers, up to 20

A row: id, problem, answer "countdown: 3 5 7 -> 22", n_numbers. Many answers are right, so the answer column holds the
question; reward.py tries whatever stands in the box. All problems can be solved. No numbers with their target stand in
two splits, in whatever order, and each split is drawn from a seed of its own.
"""

import random
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from arithmetic import gold_text  # noqa: E402
from data.gym import check_new, write  # noqa: E402
from engine.files import die, run  # noqa: E402


@dataclass
class Config:
    """Options of data/countdown.py."""

    sizes: str = "3 4"
    """How many numbers a problem has: these in turn; 2 to 6."""
    largest: int = 99
    """Numbers are drawn from 1 to this."""
    target: int = 99
    """Largest target; the smallest is 10."""
    train: int = 4096
    """Problems to train on."""
    val: int = 128
    """Problems that choose the checkpoint."""
    test: int = 256
    """Problems of the test."""
    seed: int = 0
    """Other seeds give other problems."""
    out_dir: str = "out/countdown"
    """Folder of the three files."""


def problem_text(numbers: list[int], target: int) -> str:
    """
    >>> problem_text([3, 5, 7], 22)  # doctest: +ELLIPSIS
    'Make 22 from the numbers 3, 5, 7, each used exactly once, with + - * / and brackets. The answer is the sum...
    """
    return (f"Make {target} from the numbers {', '.join(map(str, numbers))}, each used exactly once, with + - * / and "
            "brackets. The answer is the sum itself, such as (1 + 2) / 3, without an equals sign.")  # fmt: skip


def reach(numbers: list[int], rng: random.Random) -> Fraction | None:
    """A value that the numbers have, joined two at a time by signs drawn at random; None after a division by zero."""
    values = [Fraction(n) for n in numbers]
    while len(values) > 1:
        a, b = (values.pop(rng.randrange(len(values))) for _ in range(2))
        sign = rng.choice("+-*/")
        if sign == "/" and not b:
            return None
        values.append(a + b if sign == "+" else a - b if sign == "-" else a * b if sign == "*" else a / b)
    return values[0]


def draw(split: str, wanted: int, cfg: Config, seen: set) -> list[dict]:
    """So many problems that are not in `seen`, which then has them; exits with status 2 where there are too few."""
    rng, rows = random.Random(f"countdown {split} {cfg.seed}"), []
    sizes = [int(size) for size in cfg.sizes.split()]
    for _ in range(1000 * wanted):
        if len(rows) == wanted:
            break
        numbers = [rng.randint(1, cfg.largest) for _ in range(sizes[len(rows) % len(sizes)])]
        target, key = reach(numbers, rng), None
        if target is not None and target.denominator == 1 and 10 <= target <= cfg.target:
            key = (tuple(sorted(numbers)), int(target))
        if key is None or key in seen:
            continue
        seen.add(key)
        rows.append({"id": f"countdown-{split}-{len(rows)}", "problem": problem_text(numbers, key[1]),
                     "answer": gold_text(numbers, key[1]), "n_numbers": len(numbers)})  # fmt: skip
    if len(rows) < wanted:
        die(f"{split}: only {len(rows)} different problems found, of {wanted} wanted; a larger --largest has more")
    return rows


def main(cfg: Config) -> None:
    sizes = {"test": cfg.test, "val": cfg.val, "train": cfg.train}  # a larger --train leaves the other two as they are
    if min(sizes.values()) < 1 or cfg.target < 10 or cfg.largest < 1:
        die("--train, --val, --test and --largest must be at least 1, --target at least 10")
    if not cfg.sizes.split() or set(cfg.sizes.split()) - set("23456"):
        die(f"--sizes is {cfg.sizes!r}: it must be numbers from 2 to 6, such as '3 4'")
    out, seen = Path(cfg.out_dir), set()
    check_new(out, sizes)
    splits = {name: draw(name, size, cfg, seen) for name, size in sizes.items()}
    for name, rows in splits.items():
        write(out, name, rows)


if __name__ == "__main__":
    run(main, Config)
