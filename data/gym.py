"""Problems of one task of the package reasoning-gym -> out/gym/<task>/{train,val,test}.jsonl

    pip install reasoning-gym                                                    # not in requirements.txt
    python data/gym.py chain_sum --options '{"max_terms": 4, "max_digits": 2}'   # sums of small numbers
    python data/gym.py gsm_symbolic --train 1000 --test 500

Only the package's own answer counts as right, so take tasks with one answer: sums, not puzzles with many solutions.
A task whose answers reward.py cannot compare is refused. No text stands in two splits, or twice in one. The package
makes problem i of seed s from seed s + i, so near seeds give the same problems. Here the splits are pieces of one long
sequence.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.files import die, explained, one_line, parse, write_jsonl  # noqa: E402
from reward import grade  # noqa: E402


@dataclass
class Config:
    """Options of data/gym.py."""

    options: dict[str, Any] = field(default_factory=dict)
    """Of the task, as in --options '{"max_terms": 4}'."""
    train: int = 512
    """Problems to train on."""
    val: int = 64
    """Problems that choose the checkpoint."""
    test: int = 256
    """Problems of the test."""
    seed: int = 0
    """Other seeds give other problems."""
    out_dir: str = ""
    """Folder of the three files; empty: out/gym/<task>."""


def draw(task: str, options: dict, wanted: int, seed: int) -> list[dict]:
    """`wanted` problems with different texts; exits with status 2 where the task has too few or cannot be graded."""
    with explained("this needs the package: pip install reasoning-gym", ImportError):
        import reasoning_gym
    found: dict[str, dict] = {}
    with explained(f"{task} with the options {json.dumps(options)}", ValueError, TypeError, AssertionError, KeyError):
        items = reasoning_gym.create_dataset(task, **options | {"size": 20 * wanted, "seed": seed * 1_000_003})
        for i in range(20 * wanted):
            item = items[i]
            if item["question"] not in found:
                answer = str(item["answer"]).strip()
                found[item["question"]] = {"id": f"{task}-{i}", "problem": item["question"].strip(), "answer": answer}
            if len(found) == wanted:
                break
    rows = list(found.values())
    if len(rows) < wanted:
        die(f"{task} has only {len(rows)} different problems in {20 * wanted} draws, of {wanted} wanted: other --options")
    texts = [f"</think>\\boxed{{{row['answer']}}}" for row in rows]
    verdicts = grade(texts, [row["answer"] for row in rows], thinking=True)
    if wrong := [row["answer"] for row, verdict in zip(rows, verdicts) if not verdict.correct]:
        die(f"{task}: {len(wrong)} of {wanted} answers are of a kind that reward.py cannot compare ({wrong[0][:80]!r})")
    return rows


def check_new(out: Path, names: Iterable[str]) -> None:
    """Exits with status 2 where one of the problem files is there already."""
    if there := [str(out / f"{name}.jsonl") for name in names if (out / f"{name}.jsonl").exists()]:
        die(f"{there[0]} exists; remove it, or choose another --out_dir")


def write(out: Path, name: str, rows: list[dict]) -> None:
    write_jsonl(out / f"{name}.jsonl", rows)
    print(f"{out / name}.jsonl: {len(rows)} problems")


def main(task: str, cfg: Config) -> None:
    sizes = {"test": cfg.test, "val": cfg.val, "train": cfg.train}  # a larger --train leaves the other two as they are
    if min(sizes.values()) < 1:
        die("--train, --val and --test must be at least 1")
    out = Path(cfg.out_dir or f"out/gym/{task}")
    check_new(out, sizes)
    rows = draw(task, cfg.options, sum(sizes.values()), cfg.seed)
    for name, size in sizes.items():
        write(out, name, rows[:size])
        rows = rows[size:]


if __name__ == "__main__":
    with one_line():
        if sys.argv[1:2] in (["-h"], ["--help"]):
            print(__doc__)
            parse(Config, ["--help"])
        if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
            die("usage: python data/gym.py TASK [--options ...], as in python data/gym.py chain_sum")
        main(sys.argv[1], parse(Config, sys.argv[2:]))
