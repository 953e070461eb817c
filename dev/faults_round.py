"""The round that is broken: its model, problems and command, and how its end compares with the unbroken one's."""

import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from dev.faults_fork import call

STEPS = 3
# Every case runs with these. The reward pays for repeating a token, because random weights are seldom right, and any
# checkpoint may be selected, so that every round goes on from an adapter.
ROUND = {
    "steps": STEPS, "checkpoint_every": 1, "cap": 32, "group": 6, "problems_per_step": 3, "reward": "repetition",
    "reward_options": {"size": 1, "penalty": 1.0}, "beta": 0.01, "lr": 1e-4, "lora_r": 8, "eval_samples": 2,
    "eval_cap": 24, "eval_temperature": 1.0, "reference_samples": 4, "confirm_samples": 2, "tolerance": 1.0,
    "tokens_per_micro_batch": 1000, "device": "cpu",
}  # fmt: skip
# Columns of log.csv that are wall-clock time.
TIMES = ("sample_s", "update_s", "val_s")


class Result(NamedTuple):
    """One line of the table."""

    injected: str
    outcome: str
    wanted: str
    failures: list[str]


def make_setting(work: Path, model: str) -> dict:
    """Writes model and problems; returns the options of every round. Runs in a fork: making a model computes."""
    if not model:
        model = str(work / "model")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                from standin import let_it_answer, make_r1_standin

                make_r1_standin(model, layers=2, hidden=64, vocab=400, context=1024)
                let_it_answer(model)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for name, numbers in (("train", range(12)), ("val", range(100, 103)), ("test", range(200, 203))):
        rows = [{"id": f"p{i}", "problem": f"What is {i + 7} - {i}?", "answer": "7"} for i in numbers]
        (work / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    data = {f"{name}_data": str(work / f"{name}.jsonl") for name in ("train", "val")}
    # The toy's sequences are shorter; a step shall still take several micro-batches of several sequences.
    small = {"tokens_per_micro_batch": 400} if model != str(work / "model") else {}
    return {"model": os.path.abspath(model), **data, **ROUND, **small}


def train(setting: dict, out: Path, **more) -> list[str]:
    """The command of a round."""
    options = setting | more | {"out_dir": out}
    words = [json.dumps(v) if isinstance(v, (dict, bool)) else str(v) for v in options.values()]
    return ["train_prune.py", *(w for pair in zip((f"--{k}" for k in options), words) for w in pair)]


def timeless_log(folder: Path) -> list[dict]:
    """log.csv without its times."""
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def timeless(value):
    """A JSON value without seconds and the run's own folders."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "adapter", "out_dir", "selected")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def adapter_bytes(folder: Path, step: int = STEPS) -> bytes:
    return (folder / f"step{step:04d}" / "adapter_model.safetensors").read_bytes()


def differs(folder: Path, whole: Path) -> str:
    """How a round's end differs from the unbroken one's ('' where it does not)."""
    if not (folder / "done").is_file():
        return "not done"
    if adapter_bytes(folder) != adapter_bytes(whole):
        return f"another adapter (by up to {adapter_distance(folder, whole)[0]:.1e})"
    if timeless_log(folder) != timeless_log(whole):
        return "another log.csv"
    selected = [timeless(json.loads((f / "selection.json").read_text())) for f in (folder, whole)]
    return "" if selected[0] == selected[1] else "another selection.json"


def adapter_distance(a: Path, b: Path) -> tuple[float, float]:
    """How far one round's last adapter lies from another's.

    Returns:
        The largest difference of a weight, and the root mean square of the differences of the LoRA's B, which
        starts at 0, as a share of B itself: of what `b` has learnt.
    """
    from safetensors.numpy import load

    x, y = load(adapter_bytes(a)), load(adapter_bytes(b))
    if x.keys() != y.keys():
        return float("inf"), float("inf")
    learnt = [k for k in y if "lora_B" in k]
    off, size = (sum(float((v.astype(float) ** 2).sum()) for v in values) for values in
                 ([x[k] - y[k] for k in learnt], [y[k] for k in learnt]))  # fmt: skip
    return max(float(abs(x[k] - y[k]).max()) for k in x), (off / max(size, 1e-300)) ** 0.5


def unreadable(folder: Path) -> list[str]:
    """What is wrong with each folder that a reader would take for a checkpoint: every file against its sha256.

    Older checkpoints than the newest two give up adapter and optimizer: what is left of them must still agree.
    """
    steps, found = sorted(p for p in folder.glob("step[0-9]*") if p.suffix == ""), []
    for path in steps + [p for p in [folder / "last"] if p.is_dir()]:
        try:
            sums = json.loads((path / "checksums.json").read_text())
            for name, sha in sums.items():
                if not (path / name).exists() and path in steps[:-2]:
                    continue
                if hashlib.sha256((path / name).read_bytes()).hexdigest() != sha:
                    found.append(f"{path.name}: checksum of {name}")
            if not sums:
                found.append(f"{path.name}: no checksums")
        except (OSError, ValueError, AttributeError) as error:
            found.append(f"{path.name}: {error}")
    return found


class Whole(NamedTuple):
    """The unbroken round that the cases are compared with."""

    folder: Path
    seconds: float


def unbroken(work: Path, setting: dict) -> Whole:
    """Runs the round once without a fault (a second call finds it)."""
    folder, note = work / "whole", work / "whole.seconds"
    if not note.is_file():
        run = call(train(setting, folder), work / "whole.txt")
        if run.status != 0:
            sys.exit(f"error: the round does not even run without a fault:\n{run.output}")
        note.write_text(str(run.seconds))
    return Whole(folder, float(note.read_text()))
