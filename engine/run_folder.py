"""What survives the night: checkpoints with checksums, resume, signals, disks, and one process a folder.

    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/round1       # Ctrl-C, and the same again
    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/round1 --fresh true

Used by train_prune.py, which says when; here stands how. A checkpoint is a folder: the adapter (safetensors), the
optimizer's state, the log's rows so far, and `checksums.json`. It is written as `step0008.tmp/`, brought to the disk
and then renamed, so a folder without `.tmp` is always whole, wherever a kill or a full disk cut in.

No states of random generators are stored, because nothing random has a state here: rollouts are a function of
(seed, step, index), the order of the problems of (seed, step), and dropout is 0. A run that was killed and goes on
ends in the same bytes as one that was not.
"""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml

from engine.files import damage, die, disk_errors, fail, first_line, read_json, sync, write_checksums, write_text
from engine.memory import out_of_memory
from engine.policy import ADAPTER

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None

FOR_THE_REPORT = ("eval.json", "samples.md", "nanoprune.json")  # what a checkpoint keeps when it loses its adapter


class Stop(Exception):
    """Ends the run in good order: its state is saved, its message printed, its status the process's."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


# ---------------------------------------------------------------------------------------- one run, one folder


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds `folder`/lock for the life of the process (a dead one holds none).

    Exits with status 2, naming the process, where another one has it.
    """
    made = not folder.exists()
    path = folder / "lock"
    file = None
    try:
        while file is None:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                file.close()  # its last owner removed it in between
                file = None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BlockingIOError:
        owner = path.read_text(encoding="utf-8", errors="replace").strip()
        die(f"--out_dir {folder} is in use by process {owner or 'unknown'}: wait for it, or take another folder")
    except OSError as error:
        die(f"--out_dir {folder} cannot be written: {error.strerror}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and [p.name for p in folder.iterdir()] == ["lock"]:  # stopped by a bad option: leave nothing
                path.unlink()
                folder.rmdir()
        file.close()


def refuse_foreign(folder: Path) -> None:
    """Exits with status 2 where a folder holds files and is no round's."""
    if folder.exists() and not (folder / "config.yaml").is_file():
        if not folder.is_dir() or any(p.suffix != ".tmp" and p.name != "lock" for p in folder.iterdir()):
            die(f"--out_dir {folder} holds files but no config.yaml: it is not a round's folder; take another")


def move_aside(folder: Path) -> None:
    """Renames a round's folder to <folder>.old1, or the next free number; not one that another process works in."""
    refuse_foreign(folder)
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    with lock(folder):
        try:
            os.rename(folder, aside)
        except OSError as error:
            die(f"--fresh: {folder} cannot be moved to {aside}: {error.strerror}")
    print(f"{folder} moved to {aside}", flush=True)


def check_folder(folder: Path, options: dict, defaults: dict, free: set[str]) -> None:
    """Exits with status 2 where the folder is none of ours, or was made with other options.

    Args:
        options: All options of this run.
        defaults: Their defaults, for options that the folder's config.yaml is too old to know.
        free: Options that may differ.
    """
    refuse_foreign(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        return
    try:
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        die(f"{path} is damaged ({' '.join(str(error).split())}); --fresh true begins anew")
    if not isinstance(theirs, dict):
        die(f"{path} is damaged (no options in it); --fresh true begins anew")
    if unknown := sorted(map(str, theirs.keys() - options.keys())):
        die(f"{path} is damaged, or of another version: {', '.join(unknown)} is no option; --fresh true begins anew")
    mine, theirs = dict(options), defaults | theirs
    for each in (mine, theirs):  # one folder may be spelled in several ways
        each |= {k: each[k] and os.path.realpath(str(each[k])) for k in ("reference", "init_adapter")}
    if other := [k for k in mine if k not in free and mine[k] != theirs[k]]:
        changed = ", ".join(f"{k}: {theirs[k]} there, {mine[k]} now" for k in other)
        die(f"--out_dir {folder} was made with other options ({changed}): another folder, the same, or --fresh true")


# ---------------------------------------------------------------------------------------- the disk


def check_disk(folder: Path, parameters: list[torch.Tensor]) -> None:
    """Exits with status 2 before the first step where two checkpoints would not fit, or nothing can be written.

    Args:
        parameters: What is trained: a checkpoint takes its size three times, for AdamW's two moments.
    """
    needed = 2 * (3 * sum(p.numel() * p.element_size() for p in parameters) + 2**18)
    probe = folder / "probe.tmp"
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            die(f"--out_dir {folder}: {free / 1e6:.0f} MB free, two checkpoints take {needed / 1e6:.0f} MB; make room")
        with open(probe, "wb") as f:
            f.write(bytes(4096))
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        die(f"--out_dir {folder} cannot be written: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def write_table(path: Path, rows: list[dict]) -> None:
    """Writes rows as CSV, beside and then in place; exits with status 1 where that fails (full, vanished)."""
    beside = path.with_name(path.name + ".tmp")
    with disk_errors(path.parent):
        with open(beside, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]) if rows else ["step"])
            writer.writeheader()
            writer.writerows(rows)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)


def write_log(folder: Path, table: list[dict], board) -> None:
    """Writes log.csv, and the figures of its last row to TensorBoard."""
    write_table(folder / "log.csv", table)
    with disk_errors(folder):  # its writer thread hands on the errors of the call before
        for name, value in table[-1].items():
            if name != "step" and value != "":
                board.add_scalar(name, float(value), int(table[-1]["step"]))


def log(folder: Path, text: str) -> None:
    """Prints a line, and adds it to log.txt."""
    print(text, flush=True)
    with disk_errors(folder), open(folder / "log.txt", "a", encoding="utf-8") as f:
        f.write(text + "\n")


# ---------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(target: Path, model, optimizer, table: list[dict], texts: dict[str, str]) -> None:
    """Writes adapter, optimizer, log rows and texts with their checksums to `target`, whole or not at all.

    Args:
        target: step<NNNN> or last; an older one of that name is replaced.
        table: Rows of log.csv so far.
        texts: Further files by name; nanoprune.json with "step" must be among them.

    Exits with status 1 where it cannot be written; nothing half-written is left under `target`.
    """
    beside, old = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".old")
    try:
        with disk_errors(target.parent):
            try:
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir()  # without parents: where the run's folder has vanished, that is an error
                model.save_pretrained(beside, selected_adapters=["default"])
                torch.save(optimizer.state_dict(), beside / "optimizer.pt")
                write_table(beside / "log.csv", table)
                for name, text in texts.items():
                    (beside / name).write_text(text, encoding="utf-8")
                write_checksums(beside, sorted(p.name for p in beside.iterdir()))
                for path in (*beside.iterdir(), beside):
                    sync(path)
            except RuntimeError as error:  # torch.save's own way to say that the disk is full
                raise OSError(0, first_line(error)) from error
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


def load_state(path: Path, optimizer, device) -> list[dict]:
    """Loads the optimizer's state in place (running nothing in it) and returns the log's rows up to there."""
    try:
        optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True, map_location=device))
        with open(path / "log.csv", newline="", encoding="utf-8") as f:
            return list(csv.DictReader(f))
    except Exception as error:  # torch.load raises many kinds
        die(f"{path}: optimizer.pt or log.csv is damaged: {first_line(error)}")


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


def thin_out(folder: Path, best: str) -> None:
    """Keeps the newest two checkpoints whole and the adapter of the best; the others keep what the report reads.

    Args:
        best: Folder that selection would take now, or empty.
    """
    with disk_errors(folder):
        for path in checkpoints_of(folder)[:-2]:
            sums = read_json(path / "checksums.json")
            keep = {*FOR_THE_REPORT, *(ADAPTER if path == Path(best or "-") else ())} & set(sums)
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


def finish(folder: Path, selection: dict) -> None:
    """Writes selection.json, and then `done` with its checksum."""
    text = json.dumps(selection, indent=1) + "\n"
    write_text(folder / "selection.json", text, status=1)
    write_text(folder / "done", hashlib.sha256(text.encode()).hexdigest() + "\n", status=1)
    drop_last(folder)


def read_selection(folder: Path) -> dict:
    """selection.json of a round that is done; exits where it is not what `done` has the checksum of."""
    path = folder / "selection.json"
    selection = read_json(path)
    digest = (folder / "done").read_text(errors="replace").strip()
    if digest and digest != hashlib.sha256(path.read_bytes()).hexdigest():
        die(f"{path} is damaged: it does not agree with the checksum in {folder / 'done'}; remove both to select again")
    return selection


# ---------------------------------------------------------------------------------------- alarms


# ---------------------------------------------------------------------------------------- signals


def command() -> str:
    """The command that goes on with this run, to copy into a shell (without --fresh, which would begin anew)."""
    words = ["python", *sys.argv]
    for i, word in reversed(list(enumerate(words))):
        if word == "--fresh":
            del words[i : i + 2]
        elif word.startswith("--fresh="):
            del words[i]
    return shlex.join(words)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], None]]:
    """Gives `check()`, which raises Stop after a SIGINT or SIGTERM; a second signal ends the process at once.

    Stop ends in its message, the command that goes on, and its exit status: 130 after SIGINT, 143 after SIGTERM.
    So does, with status 1, memory that runs out where no retry helps: while loading, or in the optimizer's step.
    """
    caught: list[int] = []

    def handle(number: int, frame) -> None:
        if caught:
            os._exit(128 + number)  # what is being written has another name than what is whole
        caught.append(number)
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping after this token or micro-batch; once more stops at once\n")

    def check() -> None:
        if caught:
            raise Stop(f"stopped by {signal.Signals(caught[0]).name}", 128 + caught[0])

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()  # a signal after the last step must not let schedule.sh go on
    except Stop as stop:
        print(f"{stop}\nto go on: {command()}", file=sys.stderr, flush=True)
        raise SystemExit(stop.status)
    except Exception as error:
        if not out_of_memory(error):
            raise
        fail(f"{first_line(error)}: lower --lora_r, or take --load_4bit true or --rollout_weights live")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def saved_when_stopped(save: Callable[[str], None]) -> Iterator[None]:
    """Calls `save` when what is inside ends in Stop or in `die`: parameters only change in the optimizer's step, so
    wherever it ends, the state is that of the last completed step. `save` is given the reason."""
    try:
        yield
    except (Stop, SystemExit) as stop:
        if isinstance(stop, Stop) or stop.code == 2:  # 1: the disk, which would fail again
            save(str(stop) if isinstance(stop, Stop) else "stopped by an error")
        raise


# ---------------------------------------------------------------------------------------- to read


def markdown_of(rows: list[dict], step: int) -> str:
    """A few validation rollouts to read: indented, so that nothing the model wrote becomes markup."""
    parts = [f"# Validation rollouts after step {step}\n"]
    for row in rows:
        body = "\n".join("    " + line for line in row["response"].splitlines())
        verdict = "right" if row["correct"] and row["finished"] else "wrong" if row["finished"] else "cut off"
        parts.append(f"## {row['id']}: {verdict}, {row['n_tokens']} tokens, gold {row['gold']}\n\n{body}\n")
    return "\n".join(parts)


def head_lines(options: dict, device: torch.device) -> str:
    """Commit, versions, device: what it takes to reproduce the log that follows."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True).stdout.strip()

    commit = (git("rev-parse", "--short", "HEAD") or "no commit") + ("+dirty" if git("status", "--porcelain") else "")
    names = ("torch", "transformers", "peft", "bitsandbytes")
    versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return f"commit {commit} | {versions} | {name}\n" + " ".join(f"{k}={v}" for k, v in options.items())
