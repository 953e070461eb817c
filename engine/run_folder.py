"""One round's folder while it is worked in: one process, a log, checkpoints, stop signals, an end in good order.

    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/round1       # Ctrl-C, and the same again
    python train_prune.py --config config/toy.yaml --cap 200 --out_dir out/round1 --fresh true

train_prune.py and sft.py decide when to save; this file does it. checkpoints.py keeps a checkpoint whole.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from engine import checkpoints
from engine.checkpoints import LogRow, Step
from engine.files import aside_of, die, disk_errors, explained, fail, first_line, lock, read_json, write_text
from engine.memory import out_of_memory
from engine.policy import fingerprint


class Stop(BaseException):
    """Ends the run in good order: its state is saved, its message printed, its status the process's.

    Not an Exception, so that no `except Exception` on the way takes it for an error.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class RunFolder:
    """The folder of one round. `history` holds its steps so far, `resume` the checkpoint that it goes on from.

        with RunFolder(options, defaults, free) as run:
            if run.done: ...                  # an earlier call has finished this round
            ...                               # load what the round works with
            run.start(policy, optimizer, notes)
            with run.stoppable(): ...         # a stop signal ends the run here; elsewhere it waits for such a place

    Args:
        options: All options of this run; `out_dir` is the folder.
        defaults: Their defaults, for options that the folder's config.yaml is too old to know.
        free: Options that may differ from those that the folder was made with.
        kind: Of the rows of log.csv.

    Stop, or an exit of the user's making, saves the last completed step in `last/`. Memory that runs out where no retry
    helps, while loading or in the optimizer's step, ends in one line and status 1.
    """

    def __init__(self, options: dict, defaults: dict, free: set[str], kind: type[LogRow] = Step):
        self.options, self.defaults, self.free, self.kind = options | {"fresh": False}, defaults, free, kind
        self.fresh, self.path = options["fresh"], Path(options["out_dir"])
        self.history: list[LogRow] = []
        self.resume: Path | None = None
        self.damaged: list[str] = []
        self.saved, self.policy, self.optimizer, self.board = 0, None, None, None
        self.saved_at = time.time()
        self.caught, self.safe = 0, True  # the signal that came; whether it may be raised at once

    # ---- opening

    def __enter__(self) -> "RunFolder":
        if self.fresh and self.path.exists():
            move_aside(self.path)
        check_folder(self.path, self.options, self.defaults, self.free)
        self.stack = contextlib.ExitStack()
        if not self.done:
            self.stack.enter_context(lock(self.path))
            for number in (signal.SIGINT, signal.SIGTERM):
                self.stack.callback(signal.signal, number, signal.signal(number, self.handle))
            self.damaged = checkpoints.set_damaged_aside(self.path)
            self.resume, self.saved = checkpoints.newest(self.path)
        return self

    @property
    def done(self) -> bool:
        return (self.path / "done").is_file()

    @property
    def last_step(self) -> int:
        """The last completed step, 0 before the first."""
        return self.history[-1].step if self.history else 0

    def start(self, policy, optimizer, notes: list[str]) -> None:
        """Takes up where the folder stands: optimizer and history as at the checkpoint, the log's head.

        Args:
            notes: Lines for the log, after commit, versions and options.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.policy, self.optimizer = policy, optimizer
        device = next(policy.parameters()).device
        if self.resume:
            self.history = checkpoints.load_state(self.resume, optimizer, device, self.kind)
        checkpoints.check_disk(self.path, [p for p in policy.parameters() if p.requires_grad])
        if not (self.path / "config.yaml").is_file():
            write_text(self.path / "config.yaml", yaml.safe_dump(self.options, sort_keys=False), status=1)
        other = [f"{k}={v}" for k, v in self.options.items() if v != self.defaults.get(k)]
        head = [head_line(device), f"options that differ from the defaults (all: config.yaml): {' '.join(other)}"]
        for line in (*head, *notes, *self.damaged):
            self.log(line)
        lost = checkpoints.last_step_of(self.path / "log.csv") - self.last_step
        again = f"; steps that had not been saved and are made again: {lost}" if lost > 0 else ""
        if self.resume:
            checkpoints.write_table(self.path / "log.csv", self.history)  # without steps that are made again
            self.log(f"resuming after step {self.last_step} from {self.resume}{again}")
        elif self.damaged or lost > 0:
            self.log(f"no {'whole ' if self.damaged else ''}checkpoint is there: beginning at step 1{again}")
        with disk_errors(self.path):
            self.board = SummaryWriter(str(self.path / "tensorboard"), purge_step=self.last_step + 1)
        self.safe = False

    # ---- signals

    def handle(self, number: int, frame) -> None:
        if self.caught:
            os._exit(128 + number)  # what is being written has another name than what is whole
        self.caught = number
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping at the next safe place; press Ctrl-C again to stop at once\n")
        if self.safe:
            self.raise_caught()

    def raise_caught(self) -> None:
        if self.caught:
            raise Stop(f"stopped by {signal.Signals(self.caught).name}", 128 + self.caught)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """A stretch in which a signal is raised at once, as nothing that counts has changed yet."""
        before = self.safe
        self.raise_caught()
        self.safe = True
        try:
            yield
        finally:
            self.safe = before

    # ---- closing

    def __exit__(self, kind, error, trace) -> None:
        self.safe = False
        try:
            if error is None:
                self.raise_caught()  # a signal after the last step must not let schedule.sh go on
            if isinstance(error, Stop) or isinstance(error, SystemExit) and error.code == 2:  # 1: the disk, once more
                self.save_last(str(error) if isinstance(error, Stop) else "stopped by an error")
            if isinstance(error, Exception) and out_of_memory(error):
                fail(f"{first_line(error)}: lower --lora_r, or take --load_4bit true or --rollout_weights live")
            if isinstance(error, Stop):
                raise error
            if self.board:
                with disk_errors(self.path):
                    self.board.close()
        except Stop as stop:
            # Under schedule.sh, which says itself how to go on, one such line is enough.
            how = "" if os.environ.get("SCHEDULE") == "open" else f"\nto go on: {command()}"
            print(f"{stop}{how}", file=sys.stderr, flush=True)
            raise SystemExit(stop.status) from None
        finally:
            self.stack.close()

    def save_last(self, reason: str) -> None:
        if self.last_step > self.saved:
            self.save("last")
        where = f"step {self.last_step} is saved in {self.path}" if self.last_step else "no step done"
        if self.policy is not None:
            self.log(f"{reason}; {where}")

    # ---- writing

    def log(self, text: str) -> None:
        """Prints a line, and adds it to log.txt."""
        print(text, flush=True)
        with disk_errors(self.path), open(self.path / "log.txt", "a", encoding="utf-8") as f:
            f.write(text + "\n")

    def write_log(self) -> None:
        """Writes log.csv, and the figures of its last step to TensorBoard."""
        checkpoints.write_table(self.path / "log.csv", self.history)
        with disk_errors(self.path):  # its writer thread hands on the errors of the call before
            for name, value in self.history[-1].row().items():
                if name != "step":
                    self.board.add_scalar(name, value, self.last_step)

    def save(self, name: str, files: dict[str, str] | None = None) -> Path:
        """Writes a checkpoint of the last step with further files; returns its folder."""
        base = {"base": self.options["model"], "base_fingerprint": fingerprint(self.policy)}
        prompt = {k: self.options.get(k) for k in ("system", "instruction", "template_options", "thinking")}
        cap = {"cap": self.options["cap"]} if "cap" in self.options else {}  # sft.py has none
        note = base | cap | {"step": self.last_step} | prompt
        files = {"nanoprune.json": json.dumps(note) + "\n"} | (files or {})
        checkpoints.save_checkpoint(self.path / name, self.policy, self.optimizer, self.history, files)
        self.saved, self.saved_at = self.last_step, time.time()
        return self.path / name

    def keep(self, best: list[str]) -> None:
        """Keeps the newest two checkpoints whole, and the adapters of the folders in `best`; the others as figures."""
        checkpoints.thin_out(self.path, best)
        checkpoints.drop_last(self.path)

    def results(self) -> list[dict]:
        """The validation of every checkpoint, oldest first, each with "adapter", its folder."""
        return checkpoints.results_of(self.path)

    def finish(self, selection: dict) -> None:
        """Writes selection.json and the path that was selected, and then `done` with the checksum of the former."""
        text = json.dumps(selection, indent=1) + "\n"
        write_text(self.path / "selection.json", text, status=1)
        write_text(self.path / "selected", selection["selected"] + "\n", status=1)
        write_text(self.path / "done", hashlib.sha256(text.encode()).hexdigest() + "\n", status=1)
        checkpoints.drop_last(self.path)


# ---------------------------------------------------------------------------------------- which folder, and whose


def refuse_foreign(folder: Path) -> None:
    """Exits with status 2 where a folder holds files and is no round's."""
    if folder.exists() and not (folder / "config.yaml").is_file():
        if not folder.is_dir() or any(p.suffix != ".tmp" and p.name != "lock" for p in folder.iterdir()):
            die(f"--out_dir {folder} holds files but no config.yaml: it is not a round's folder; take another")


def move_aside(folder: Path) -> None:
    """Renames a round's folder to <folder>.old1, or the next free number; not one that another process works in."""
    refuse_foreign(folder)
    aside = aside_of(folder)
    with lock(folder), explained(f"--fresh: {folder} cannot be moved to {aside}", OSError):
        os.rename(folder, aside)
    print(f"{folder} moved to {aside}", flush=True)


def check_folder(folder: Path, options: dict, defaults: dict, free: set[str]) -> None:
    """Exits with status 2 where the folder is none of ours, or was made with other options (see `RunFolder`)."""
    refuse_foreign(folder)
    path = folder / "config.yaml"
    if not path.is_file():
        return
    with explained(f"{path} is damaged; --fresh true begins anew", OSError, ValueError, yaml.YAMLError):
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(theirs, dict):
        die(f"{path} is damaged (no options in it); --fresh true begins anew")
    if unknown := sorted(map(str, theirs.keys() - options.keys())):
        die(f"{path} is damaged, or of another version: {', '.join(unknown)} is no option; --fresh true begins anew")
    mine, theirs = dict(options), defaults | theirs
    for each in (mine, theirs):  # one folder may be spelled in several ways
        each |= {k: each[k] and os.path.realpath(str(each[k])) for k in ("reference", "init_adapter") if k in each}
    if other := [k for k in mine if k not in free and mine[k] != theirs[k]]:
        changed = ", ".join(f"{k}: {theirs[k]} there, {mine[k]} now" for k in other)
        die(f"--out_dir {folder} was made with other options ({changed}); give the same options, take another folder, "
            "or begin again with --fresh true")  # fmt: skip


def read_selection(folder: Path) -> dict:
    """selection.json of a round that is done; exits where it is not what `done` has the checksum of."""
    path = folder / "selection.json"
    selection = read_json(path)
    digest = (folder / "done").read_text(errors="replace").strip()
    if digest and digest != hashlib.sha256(path.read_bytes()).hexdigest():
        die(f"{path} is damaged: it does not agree with the checksum in {folder / 'done'}; remove both to select again")
    return selection


# ---------------------------------------------------------------------------------------- to reproduce and to go on


def command() -> str:
    """The command that goes on with this run, to copy into a shell (without --fresh, which would begin anew)."""
    words = ["python", *sys.argv]
    for i, word in reversed(list(enumerate(words))):
        if word == "--fresh":
            del words[i : i + 2]
        elif word.startswith("--fresh="):
            del words[i]
    return shlex.join(words)


def head_line(device: torch.device) -> str:
    """Commit, versions, device: with the options, what it takes to reproduce the log that follows."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True).stdout.strip()

    commit = (git("rev-parse", "--short", "HEAD") or "no commit") + ("+dirty" if git("status", "--porcelain") else "")
    names = ("torch", "transformers", "peft", "bitsandbytes")
    versions = " ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return f"commit {commit} | {versions} | {name}"
