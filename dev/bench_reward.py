"""`bench.py reward`: grading in CPU seconds: its short cuts, formulas in a killable worker, and attacks."""

import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import reward as grader
from dev.measure import Progress, cpu_seconds, report
from engine.files import die

ROOT = Path(__file__).resolve().parent.parent
# Outputs of real models where that folder is there; else a few dozen of our own.
FOLDERS = (ROOT.parent / "shared" / "data", ROOT / "tests" / "data")
ROLLOUTS, ATTACKS = 2048, 21  # one training batch, and the share of attacks in it


@dataclass
class Config:
    """Grading throughput, in CPU seconds so that other work on the machine does not count."""

    data: str = ""
    """Folder with model_outputs.jsonl and hostile_outputs.jsonl; empty takes ../shared/data, or tests/data."""
    quick: bool = False
    """Few answers and no attacks, to see that it runs."""


def read_rows(folder: Path, name: str) -> list[dict]:
    path = folder / name
    if not path.is_file():
        die(f"{path} is missing; give its folder with --data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Counted:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


class Bench:
    """Grades lists of (output, gold) with a cold cache, and keeps a row of figures for each."""

    def __init__(self, progress: Progress):
        self.progress, self.rows = progress, []
        self.asked = grader._ask = Counted(grader._ask)  # what a worker had to decide

    def measure(self, setting: str, pairs, thinking: bool = False, minus: float = 0.0) -> dict:
        """Grades the pairs; `minus` CPU seconds are not theirs."""
        texts, golds = map(list, zip(*pairs))
        grader._decide.cache_clear()
        self.asked.calls, cpu, wall = 0, cpu_seconds(), time.monotonic()
        grades = grader.grade(texts, golds, thinking)
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu - minus
        row = {"setting": setting, "outputs": len(texts), "asked_worker": self.asked.calls}
        row |= {"right": sum(g.correct for g in grades), "timed_out": sum(g.timed_out for g in grades)}
        return self.keep(row, cpu, wall)

    def keep(self, row: dict, cpu: float, wall: float) -> dict:
        row |= {"cpu_seconds": round(cpu, 4), "wall_seconds": round(wall, 2)}
        row["outputs_per_cpu_second"] = round(row["outputs"] / max(cpu, 1e-9), 1)
        self.rows.append(row)
        self.progress.line(f"{row['setting']}: {cpu:.2f} CPU s")
        return row


def without_short_cuts(bench: Bench, pairs: list[tuple[str, str]]) -> None:
    """Compares every (answer, gold) as formulas in this process: no short cut, no cache, no worker."""
    plain = [(grader.tidy(answer), grader.tidy(gold)) for answer, gold in pairs]
    grader.symbolic("x+1", "1+x")  # not counted: its imports
    cpu, wall = cpu_seconds(), time.monotonic()
    right = sum(grader.symbolic(answer, gold) for answer, gold in plain)
    name = "every answer as a formula, no short cut, no cache, in process"
    bench.keep({"setting": name, "outputs": len(plain), "right": right}, cpu_seconds() - cpu, time.monotonic() - wall)


def attacked(bench: Bench, pairs: list[tuple[str, str]], attacks: list[dict]) -> None:
    """A training batch with some hostile outputs in it, and then with large formulas that no cache knows."""
    grader.WORKERS = min(2, os.cpu_count() or 1)
    bad = [
        (row.get("output") or "".join(text * times for text, times in row["output_parts"]), str(row["gold"]))
        for row in attacks
        if row["category"] in ("resource", "hack")
    ]
    usual = list(itertools.islice(itertools.cycle(pairs), ROLLOUTS - ATTACKS))
    hostile = list(itertools.islice(itertools.cycle(bad), ATTACKS))
    bench.measure(f"{ROLLOUTS:,} rollouts, {ATTACKS} of them attacks of the hostile file, 2 workers", usual + hostile)
    # Every attack is another one: where they are too much for a worker, each costs a kill and a new worker.
    large = ["+".join(rf"\sqrt[{n}]{{{n}}}\cdot\sin({n}x+{k})^{{99}}" for n in range(2, 9)) for k in range(ATTACKS)]
    hostile = [(rf"\boxed{{{text}}}", r"\sin(x)^{99}+(x+1)^{99}") for text in large]
    bench.measure(f"{ROLLOUTS:,} rollouts, {ATTACKS} of them large formulas, each another", usual + hostile)


def reward(cfg: Config) -> None:
    """The table."""
    folder = Path(cfg.data) if cfg.data else next((f for f in FOLDERS if f.is_dir()), FOLDERS[-1])
    pairs = [(row["output"], row["gold"]) for row in read_rows(folder, "model_outputs.jsonl")]
    attacks = read_rows(folder, "hostile_outputs.jsonl")
    before = grader._ask, grader.WORKERS
    bench = Bench(Progress(5 if cfg.quick else 7, f"outputs of {folder}; under a minute on 2 CPU cores"))
    try:
        grader.WORKERS = 1
        start = bench.measure("start of one worker", [(r"\boxed{x+1}", "1+x")])["cpu_seconds"]
        bench.measure("outputs as they come, cold cache", pairs)
        boxes = [(grader.extract_answer(output, False), gold) for output, gold in pairs]
        boxes = [(answer, gold) for answer, gold in boxes if answer]
        without_short_cuts(bench, boxes)
        # Every pair distinct and algebraic, so that neither the cache nor the number path helps: the slow path alone.
        hard = [(rf"\boxed{{{a}+z_{{{i}}}}}", f"z_{{{i}}}+{gold}") for i, (a, gold) in enumerate(boxes)]
        bench.measure("every output through a worker, start not counted", hard, minus=start)
        integers = [(rf"hm</think> so \boxed{{{i}}}", str(i - i % 2)) for i in range(200 if cfg.quick else 20_000)]
        bench.measure("integers", integers, thinking=True)
        if not cfg.quick:
            attacked(bench, pairs, attacks)
    finally:
        grader._ask, grader.WORKERS = before
    report("reward", f"CPU, {os.cpu_count()} cores", ["mpmath"], bench.rows)
