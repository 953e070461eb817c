"""Checkpoints that are whole wherever a kill or a full disk cut in.

A checkpoint is a folder: the adapter (safetensors), the optimizer's state, the log's rows so far, and `checksums.json`.
It is written as `step0008.tmp/`, brought to the disk and then renamed, so a folder without `.tmp` is always whole.

No states of random generators are stored, because nothing random has a state here: rollouts are a function of
(seed, batch, index), the problems of (seed, batch), and dropout is 0. Which batches a step takes follows from the log's
rows. A run that was killed and resumed ends in the same bytes as one that was not.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine.files import damage, die, disk_errors, explained, first_line, read_json, sync, write_checksums, write_text
from engine.policy import ADAPTER

FOR_THE_REPORT = ("eval.json", "samples.md", "nanoprune.json")  # what a checkpoint keeps when it loses its adapter
CANDIDATES = 3  # checkpoints that keep their adapter for selection: where the shortest falls, the next is looked at


@dataclass
class LogRow:
    """One row of log.csv, and one point in TensorBoard under the same names."""

    step: int
    figures: dict[str, float] = field(default_factory=dict, kw_only=True)
    """Further columns, after those of the class."""

    def row(self) -> dict:
        """Column -> value."""
        row = dataclasses.asdict(self)
        return row | row.pop("figures")

    @classmethod
    def of(cls, row: dict[str, str]):
        """Reads a row of log.csv back; what a row has no value for, it does not have."""
        kinds = {f.name: f.type for f in dataclasses.fields(cls) if f.name != "figures"}
        own = {name: kind(row[name]) for name, kind in kinds.items() if row.get(name)}
        return cls(**own, figures={k: float(v) for k, v in row.items() if k not in kinds and v})


@dataclass
class Step(LogRow):
    """A step of train_prune.py.

    `figures` are loss, grad (norm, before it is clipped), skipped (updates left out for a NaN or infinite loss or
    gradient), those of `grpo.policy_loss` by their names, and val_* of a validation after this step. With several
    updates a step these are their means. With beta 0 those of policy_loss are about the groups that are not dead.
    """

    reward: float = 0.0
    """Mean over the step's rollouts."""
    correct: float = 0.0
    """Share of the rollouts that are right and ended within the cap."""
    length: float = 0.0
    """Mean response tokens, the end token included."""
    over_cap: float = 0.0
    """Share of the rollouts that the cap cut off."""
    no_think_end: float = 0.0
    """Share that ended without </think>; always 0 with --thinking false."""
    no_box: float = 0.0
    """Share that ended without a \\boxed{} that counts."""
    wrong: float = 0.0
    """Share that ended with a wrong answer. With correct, over_cap and the two above it makes 1."""
    batches: int = 1
    """Batches of problems that were sampled; the figures are about all of them (`resample_dead`)."""
    dead_groups: int = 0
    """Groups whose rollouts all score alike: nothing to learn from."""
    dead_tokens: int = 0
    """Response tokens that were sampled for dead groups."""
    repeated: float = 0.0
    """Share of the rollouts that repeat a passage (`alarms.repeats`)."""
    no_thinking: float = 0.0
    """Share of the rollouts that box an answer at once (`alarms.answers_at_once`)."""
    lr: float = 0.0
    sample_s: float = 0.0
    update_s: float = 0.0
    val_s: float = 0.0

    def tokens(self, rollouts: int) -> int:
        """Response tokens that were sampled, of batches of so many rollouts."""
        return round(self.length * self.batches * rollouts)

    def line(self, steps: int, cap: int, groups: int, group: int, device: torch.device, seconds_left: float) -> str:
        """The step in one line of the log, with the names of log.csv; `groups` are those that it trains on."""
        used = ""
        if device.type == "cuda":
            whole = torch.cuda.get_device_properties(device).total_memory
            used = f" | {torch.cuda.max_memory_allocated(device) / 1e9:.1f}/{whole / 1e9:.1f} GB"
        sampled, again = groups * self.batches, ""
        if self.batches > 1:
            again = f"{self.batches} batches, {min(groups, sampled - self.dead_groups) / sampled:.0%} of groups kept | "
        return (
            f"step {self.step:4d}/{steps} | reward {self.reward:.2f} | "
            f"correct {round(self.correct * sampled * group)}/{sampled * group} | length {self.length:.0f} of {cap} | "
            f"over cap {self.over_cap:.0%} | dead groups {self.dead_groups}/{sampled} | {again}"
            f"grad {self.figures['grad']:.2g} | {self.sample_s:.0f}s sample {self.update_s:.0f}s update{used} | "
            f"{seconds_left // 3600:.0f}h{seconds_left // 60 % 60:02.0f}m left"
        )


def check_disk(folder: Path, parameters: list[torch.Tensor]) -> None:
    """Exits with status 2 before the first step where the checkpoints would not fit, or nothing can be written.

    Args:
        parameters: What is trained. A whole checkpoint takes its size three times, for AdamW's two moments; besides
            two of those, the adapters of CANDIDATES more are kept.
    """
    needed = (2 * 3 + CANDIDATES) * sum(p.numel() * p.element_size() for p in parameters) + 2 * 2**18
    probe = folder / "probe.tmp"
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            die(f"--out_dir {folder}: {free / 1e6:.0f} MB free, the checkpoints take {needed / 1e6:.0f} MB; make room")
        with open(probe, "wb") as f:
            f.write(bytes(4096))
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        die(f"--out_dir {folder} cannot be written: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def write_table(path: Path, history: list[LogRow]) -> None:
    """Writes steps as CSV, beside and then in place; exits with status 1 where that fails (full, vanished)."""
    rows = [step.row() for step in history] or [{"step": ""}]
    names = list(dict.fromkeys(name for row in rows for name in row))
    beside = path.with_name(path.name + ".tmp")
    with disk_errors(path.parent):
        with open(beside, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=names)
            writer.writeheader()
            writer.writerows(rows if history else [])
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)


def save_checkpoint(target: Path, model, optimizer, history: list[LogRow], files: dict[str, str]) -> None:
    """Writes adapter, optimizer, steps and files with their checksums to `target`, whole or not at all.

    Args:
        target: step<NNNN> or last; an older one of that name is replaced.
        history: The steps so far, for log.csv.
        files: Further texts by file name; nanoprune.json with "step" must be among them.

    Exits with status 1 where it cannot be written; nothing half-written is left under `target`.
    """
    beside, old = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".old")
    try:
        with disk_errors(target.parent):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()  # without parents: where the run's folder has vanished, that is an error
            model.save_pretrained(beside, selected_adapters=["default"])
            try:
                torch.save(optimizer.state_dict(), beside / "optimizer.pt")
            except RuntimeError as error:
                if "inline_container" not in str(error):  # its writer's way to say that the disk is full
                    raise
                raise OSError(0, first_line(error)) from error
            write_table(beside / "log.csv", history)
            for name, text in files.items():
                (beside / name).write_text(text, encoding="utf-8")
            write_checksums(beside, sorted(p.name for p in beside.iterdir()))
            for path in (*beside.iterdir(), beside):
                sync(path)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(target, old)
            os.replace(beside, target)
            sync(target.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def holds(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a checkpoint has these files, by its checksums.json (one that loses files loses their entries first)."""
    return set(names) <= set(read_json(path / "checksums.json"))


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a round that were validated, oldest first; those of before may have lost their adapter."""
    return sorted((p for p in folder.glob("step[0-9]*") if p.name[4:].isdigit()), key=lambda p: int(p.name[4:]))


def set_damaged_aside(folder: Path) -> list[str]:
    """Renames every checkpoint whose checksums do not agree to <name>.damaged, and says so, a line for each."""
    lines = []
    if (folder / "last").is_dir():  # a kill may have left half of the one that it replaced
        shutil.rmtree(folder / "last.old", ignore_errors=True)
    for path in [*checkpoints_of(folder), folder / "last", folder / "last.old"]:
        if path.is_dir() and (wrong := damage(path)):
            with disk_errors(folder):
                shutil.rmtree(path.with_name(path.name + ".damaged"), ignore_errors=True)
                os.replace(path, path.with_name(path.name + ".damaged"))
            lines.append(f"warning: checkpoint {path} is damaged ({wrong}): renamed to {path.name}.damaged")
    return lines


def newest(folder: Path) -> tuple[Path | None, int]:
    """The checkpoint to go on from and its step: the newest of step<NNNN>/ and last/ that is whole; or (None, 0)."""
    found = [(int(p.name[4:]), 2, p) for p in checkpoints_of(folder)]
    for rank, path in enumerate((folder / "last.old", folder / "last")):
        if path.is_dir():
            found.append((read_json(path / "nanoprune.json")["step"], rank, path))
    whole = [(step, rank, path) for step, rank, path in found if holds(path, ("optimizer.pt", *ADAPTER))]
    if not whole:
        return None, 0
    step, _, path = max(whole)
    return path, step


def load_state(path: Path, optimizer, device, kind: type[LogRow] = Step) -> list[LogRow]:
    """Loads the optimizer's state in place (running nothing in it) and returns the steps up to there.

    Args:
        kind: Of the rows of log.csv.
    """
    kinds = (OSError, ValueError, RuntimeError, LookupError, TypeError, EOFError, pickle.UnpicklingError)
    with explained(f"{path}: optimizer.pt or log.csv is damaged", *kinds):
        optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True, map_location=device))
        with open(path / "log.csv", newline="", encoding="utf-8") as f:
            return [kind.of(row) for row in csv.DictReader(f)]


def last_step_of(path: Path) -> int:
    """The last step in a log.csv; 0 where there is none to be read."""
    try:
        with open(path, newline="", encoding="utf-8") as f:
            return max((int(row["step"]) for row in csv.DictReader(f)), default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def read_eval(path: Path) -> dict:
    """An eval.json; exits with status 2, naming it, where the figures that selection needs are not in it."""
    result = read_json(path)
    for key in ("pass@1", "mean_tokens"):
        if isinstance(result.get(key), bool) or not isinstance(result.get(key), (int, float)):
            die(f"{path} is damaged, or no result of an evaluation: {key} is {result.get(key)!r}")
    return result


def has_adapter(result: dict) -> bool:
    """Whether the checkpoint of a result (see `results_of`) still holds its adapter."""
    return holds(Path(result["adapter"]), ADAPTER)


def results_of(folder: Path) -> list[dict]:
    """The validation of every checkpoint of a round, oldest first, each with "adapter", its folder."""
    return [read_eval(p / "eval.json") | {"adapter": str(p)} for p in checkpoints_of(folder)]


def thin_out(folder: Path, best: list[str]) -> None:
    """Keeps the newest two checkpoints whole and the adapters of the best; the others keep what the report reads.

    Args:
        best: Folders that selection may take.
    """
    with disk_errors(folder):
        for path in checkpoints_of(folder)[:-2]:
            sums = read_json(path / "checksums.json")
            keep = {*FOR_THE_REPORT, *(ADAPTER if path in map(Path, best) else ())} & set(sums)
            # The list first: what is cut off in between is a smaller checkpoint, and never a damaged one. The old sums:
            # new ones would make damage look whole.
            if keep != set(sums):
                text = json.dumps({k: sums[k] for k in sorted(keep)}, indent=1) + "\n"
                write_text(path / "checksums.json", text, status=1)
            for file in path.iterdir():
                if file.name not in (*keep, "checksums.json"):
                    file.unlink()


def drop_last(folder: Path) -> None:
    """Removes last/, which a later checkpoint has made useless; renamed first, so that no half of it counts as one."""
    for name in ("last", "last.old"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / "last.tmp", ignore_errors=True)
            os.replace(folder / name, folder / "last.tmp")
            shutil.rmtree(folder / "last.tmp", ignore_errors=True)


def markdown_of(rows: list[dict], step: int) -> str:
    """A few validation rollouts to read: indented, so that nothing the model wrote becomes markup."""
    parts = [f"# Validation rollouts after step {step}\n"]
    for row in rows:
        body = "\n".join("    " + line for line in row["response"].splitlines())
        verdict = "right" if row["correct"] else "wrong" if row["finished"] else "cut off"
        parts.append(f"## {row['id']}: {verdict}, {row['n_tokens']} tokens, gold {row['gold']}\n\n{body}\n")
    return "\n".join(parts)
