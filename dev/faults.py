"""Breaks training runs on purpose and counts what survives: kills, out of memory, full disks, damaged files.

    python dev/faults.py                              # 20 + 10 kills, 6 out of memory, full disks, 200 damaged files
    python dev/faults.py --small true                 # a few of each, as the tests do
    python dev/faults.py --only corrupt --seed 3      # one kind (kills, schedule, oom, disk, corrupt), other moments

Prints a line a kind (injected | outcome | wanted | verdict) and under it each case that failed; exits with 1 if any
did. The rounds are real ones, shrunk to seconds: a random model of tests/standin.py (or --model), 3 steps with 3
checkpoints.

How it works: importing torch and transformers takes most of a small run's time, so this process imports them
once and every "python train_prune.py ..." is a fork of it that runs the script as __main__ with that command
line. Nothing is computed before a fork (threads would not survive it). schedule.sh gets a PYTHON that asks a
server, forked likewise, to do the same. The scripts themselves are never changed; what a case breaks, it
breaks in its own process: by SIGKILL at a moment or at a file operation (seen by sys.addaudithook), by a
model's forward that raises, by a disk that fills up at a file operation, by bytes changed in a file.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

KINDS = ("kills", "schedule", "oom", "disk", "corrupt")
STEPS = 3
# Every case runs with these; the reward pays for repeating a token, because random weights never answer right.
ROUND = {
    "steps": STEPS, "checkpoint_every": 1, "cap": 32, "group": 6, "problems_per_step": 3, "reward": "repetition",
    "reward_options": {"size": 1, "penalty": 1.0}, "beta": 0.01, "lr": 1e-4, "lora_r": 8, "val_samples": 2, "val_cap": 24,
    "tokens_per_micro_batch": 1000, "device": "cpu",
}  # fmt: skip
# What is read of an adapter.
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "nanoprune.json")
# Paths that are only touched inside a save.
SAVING = r"/step\d+\.tmp"
# Columns of log.csv that are wall-clock time.
TIMES = ("sample_s", "update_s", "val_s")


@dataclass
class Config:
    """Options of dev/faults.py."""

    small: bool = False
    """A few cases of each kind, under a minute in all."""
    only: str = ",".join(KINDS)
    """Kinds to run, by commas."""
    seed: int = 0
    """Seed of every moment, place and bit."""
    model: str = ""
    """Model folder, such as out/toy_base; empty makes a random one."""
    keep: str = ""
    """Folder to work in and to leave there; empty takes a temporary one and removes it."""


class Run(NamedTuple):
    """What one forked command left."""

    status: int
    """Exit status; minus the signal that killed it; -1000 where it was stopped as too slow."""
    output: str
    seconds: float


class Result(NamedTuple):
    """One line of the table."""

    injected: str
    outcome: str
    wanted: str
    failures: list[str]


# ---------------------------------------------------------------------------------------- running a script in a fork


def run_as_main(argv: list[str]) -> int:
    """Runs `python argv...` (a script of the repository, or -c CODE) in this process; returns its exit status."""
    sys.argv = argv[:1] if argv[0] == "-c" else list(argv)
    try:
        if argv[0] == "-c":
            sys.argv = ["-c", *argv[2:]]
            exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(argv[0]).resolve().parent)
            runpy.run_path(argv[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def start(argv: list, output: Path, prepare: Callable[[], None] | None = None) -> int:
    """Forks a child that leads its own process group and runs the command; returns its process id.

    Args:
        argv: Script (relative to the repository) and its arguments.
        output: File that takes stdout and stderr.
        prepare: Called in the child before the script, to break something there.
    """
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.chdir(ROOT)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = 1
        try:
            if prepare:
                prepare()
            status = run_as_main([str(a) for a in argv])
        finally:
            os._exit(status)
    with contextlib.suppress(OSError):  # the child does the same; whoever is first
        os.setpgid(pid, pid)
    return pid


def finish(pid: int, output: Path, limit: float = 120.0) -> Run:
    """Waits for the child and for whatever it started, and returns what it left."""
    began, status = time.monotonic(), None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() - began > limit:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = -1000
        else:
            time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):  # graders that outlive their parent for a moment
        os.killpg(pid, signal.SIGKILL)
    return Run(status, output.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began)


def call(argv: list, output: Path, prepare: Callable[[], None] | None = None, limit: float = 120.0) -> Run:
    """start and finish."""
    return finish(start(argv, output, prepare), output, limit)


def wrong_exit(run: Run, allowed: tuple[int, ...]) -> str:
    """What is wrong with how a command ended ('' for nothing): it may say `error: ...` in one line, never a traceback.

    Args:
        allowed: Exit statuses that are in order; 1 and 2 need the line, which what to do next may follow.
    """
    lines = [line for line in run.output.splitlines() if line.strip()]
    if run.status == -1000:
        return "hangs"
    if "Traceback (most recent call last)" in run.output:
        places = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', run.output)
        ours = [p for p in places if (ROOT / p[0]).parent in (ROOT, ROOT / "data")] or places
        where = f"{Path(ours[-1][0]).name}:{ours[-1][1]} {ours[-1][2]}" if ours else "?"
        kinds = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
        return f"traceback: {(kinds or lines)[-1][:150]} at {where}"
    if run.status < 0:
        return f"died by signal {-run.status}"
    if run.status not in allowed:
        return f"exit status {run.status}: {lines[-1][:150] if lines else 'silent'}"
    # reward.py is handed in on its own and speaks as argparse does: `reward.py: ...`
    told = [i for i, line in enumerate(lines) if re.match(r"(\w+\.py: )?error: |reward\.py: ", line)]
    if run.status in (1, 2) and (len(told) != 1 or told[0] < len(lines) - 3):
        return f"exit status {run.status} without one line `error: ...` at the end: {lines[-1][:150] if lines else 'silent'}"
    return ""


def watch(folder: Path, pattern: str, act: Callable[[int], None]) -> None:
    """Calls act(n) just before the n-th (from 1) file operation under `folder` whose path matches `pattern`.

    Python reports each open, rename, mkdir, remove, ... before it happens; what C++ and Rust write (tensors) goes
    unseen, but lies between two that are.
    """
    prefix, seen, busy = str(folder.resolve()) + os.sep, 0, False

    def hook(event: str, args: tuple) -> None:
        nonlocal seen, busy
        if busy or not (event == "open" or event.startswith(("os.", "shutil."))):
            return
        paths = [os.fspath(a) for a in args[:2] if isinstance(a, (str, os.PathLike))]
        if any(re.search(pattern, p) and os.path.abspath(p).startswith(prefix) for p in paths):
            seen, busy = seen + 1, True  # busy: what `act` does to files is no operation of the script
            try:
                act(seen)
            finally:
                busy = False

    sys.addaudithook(hook)


def kill_at(folder: Path, pattern: str, number: int) -> Callable[[], None]:
    """For `prepare`: SIGKILL just before that operation."""
    return lambda: watch(folder, pattern, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == number else None)


def add_one(note: Path) -> None:
    """Adds a byte to a file: a count that outlives the process."""
    with open(note, "ab") as file:
        file.write(b".")


# ---------------------------------------------------------------------------------------- the round and its files


def make_setting(work: Path, model: str) -> dict:
    """Writes model and problems; returns the options of every round. Runs in a fork: making a model computes."""
    if not model:
        model = str(work / "model")
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                from standin import make_r1_standin

                make_r1_standin(model, layers=2, hidden=64, vocab=400, context=1024)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        # Ten tokens that end a response: random weights would otherwise run to every cap, and all lengths be the same.
        path = Path(model) / "generation_config.json"
        generation = json.loads(path.read_text())
        path.write_text(json.dumps(generation | {"eos_token_id": [generation["eos_token_id"], *range(300, 309)]}, indent=1))
    for name, first, n in (("train", 0, 12), ("val", 100, 3), ("test", 200, 3)):
        rows = [{"id": f"p{i}", "problem": f"What is {i} + {3 * i}?", "answer": str(4 * i)} for i in range(first, first + n)]
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


# ---------------------------------------------------------------------------------------- 1. kills of a round


def kills(work: Path, setting: dict, cfg: Config) -> Result:
    """SIGKILL at random moments, every second one at a random file operation inside a save; then called again.

    Every fourth round is killed once more, while it resumes.
    """
    total, rng = (3 if cfg.small else 20), random.Random(f"{cfg.seed} kills")
    whole, note = unbroken(work, setting), work / "operations"
    counted = work / "counted"
    run = call(train(setting, counted), work / "out.txt", lambda: watch(counted, SAVING, lambda n: add_one(note)))
    failures = [f"a second unbroken run: {e}" for e in [wrong_exit(run, (0,)) or differs(counted, whole.folder)] if e]
    operations = note.stat().st_size if note.exists() else 0  # none: the hook sees no save, and the loop below says so
    hit, inside, early, same = 0, 0, 0, 0
    for case in range(total):
        folder, output, moments, wrong = work / f"kill{case}", work / "out.txt", [], ""
        for again in range(2 if case % 4 == 2 else 1):
            if (case + again) % 2 == 0:
                number = rng.randint(1, max(1, operations))
                moments.append(f"at file operation {number} of {operations} inside saves")
                run = call(train(setting, folder), output, kill_at(folder, SAVING, number))
            else:
                delay = rng.uniform(0.25, 1.0) * whole.seconds
                moments.append(f"after {delay:.2f} s")
                pid = start(train(setting, folder), output)
                time.sleep(delay)
                os.killpg(pid, signal.SIGKILL)
                run = finish(pid, output)
            hit += run.status == -signal.SIGKILL
            inside += any(folder.glob("step*.tmp"))
            early += not any(folder.glob("step[0-9][0-9][0-9][0-9]"))
            # status 0: it was over before the kill came
            wrong = wrong or ("" if run.status == -signal.SIGKILL else wrong_exit(run, (0,)))
        run = call(train(setting, folder), output)
        wrong = wrong or wrong_exit(run, (0,)) or differs(folder, whole.folder)
        same += not wrong
        failures += [f"killed {' and '.join(moments)}, then called again: {wrong}"] if wrong else []
        shutil.rmtree(folder, ignore_errors=True)
    if hit < total / 2 or inside == 0:
        failures.append(f"only {hit} kills hit a running round, {inside} of them inside a save: this proves nothing")
    injected = f"{hit} kills of {total} rounds ({inside} inside a save, {early} before the first checkpoint)"
    return Result(injected, f"{same} identical final adapters and logs", str(total), failures)


# ---------------------------------------------------------------------------------------- 2. kills of schedule.sh

# Stands in for `python` in schedule.sh: hands its arguments, descriptors and process group to the server of `serve`
# and ends as the server's fork does. Killed with its group, as a real process would be.
LAUNCHER = """\
import json, os, socket, sys
fds = []
for fd in range(10):  # a lock that the shell holds on an open file goes along
    try:
        fds += [fd] if os.get_inheritable(fd) else []
    except OSError:
        pass
s = socket.socket(socket.AF_UNIX)
s.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), os.getpgrp(), fds]).encode()
socket.send_fds(s, [len(request).to_bytes(8, "big") + request], fds)
status = s.recv(1)
os._exit(status[0] if status else 137)
"""


def serve(address: str) -> None:
    """Forks for each launcher a process that joins its group and runs its command; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    while True:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        data, received, _, _ = socket.recv_fds(client, 1 << 20, 10)
        while len(data) < 8 + int.from_bytes(data[:8], "big"):
            data += client.recv(1 << 20)
        argv, folder, env, group, fds = json.loads(data[8:])
        # Out of the way first: a received number may be another one's target.
        client = socket.socket(fileno=fcntl.fcntl(client.detach(), fcntl.F_DUPFD_CLOEXEC, 100))
        received = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in received]
        os.closerange(3, 100)
        for fd, target in zip(received, fds):
            os.dup2(fd, target)
            os.close(fd)
        status = 1
        try:
            os.setpgid(0, group)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(env)
            status = run_as_main(argv)
        finally:
            with contextlib.suppress(OSError):
                client.send(bytes([status & 255]))
            os._exit(status)


@contextlib.contextmanager
def launcher(work: Path):
    """Yields the path of an executable that behaves as `python`, without the seconds of imports."""
    with tempfile.TemporaryDirectory(prefix="faults") as folder:  # a socket's path may have about 100 bytes, no more
        address, path = f"{folder}/socket", work / "python"
        (work / "launcher.py").write_text(LAUNCHER.format(address=address))
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{work / "launcher.py"}" "$@"\n')
        path.chmod(0o755)
        pid = os.fork()
        if pid == 0:
            serve(address)
        try:
            while not os.path.exists(address):
                time.sleep(0.01)
            yield path
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def schedule_config(work: Path, setting: dict) -> Path:
    """A two-round schedule of two steps each."""
    import yaml

    options = setting | {"steps": 2, "caps": "24 16", "test_data": str(work / "test.jsonl"), "test_samples": 2}
    path = work / "schedule.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in options.items() if k != "cap"}))
    return path


def start_schedule(python: Path, config: Path, out: Path, output: Path, **more) -> subprocess.Popen:
    env = os.environ | {"PYTHON": str(python), "CONFIG": str(config), "OUT": str(out)} | more
    with open(output, "w") as file:  # its own group, but our session: the server's forks may only join a group of theirs
        return subprocess.Popen(["bash", str(ROOT / "schedule.sh")], env=env, cwd=ROOT, process_group=0,
                                stdin=subprocess.DEVNULL, stdout=file, stderr=file)  # fmt: skip


def end_schedule(process: subprocess.Popen, output: Path, limit: float = 240.0) -> Run:
    """Waits for bash, then until no process of its group is left."""
    began = time.monotonic()
    try:
        status = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        status = -1000
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() - began < limit + 10:
            os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)
    return Run(status, output.read_text(encoding="utf-8", errors="replace"), time.monotonic() - began)


# What schedule.sh makes, in its order.
STAGES = ("schedule.txt", "base/eval.json", "cap24/config.yaml", "cap24/step0001", "cap24/done", "cap16/step0001", "cap16/done",
          "final", "base_test/eval.json", "summary.json")  # fmt: skip


def schedule(work: Path, setting: dict, cfg: Config) -> Result:
    """The whole process group of schedule.sh killed at a random moment after each of its stages, then called again."""
    stages, rng = (("cap24/step0001",) if cfg.small else STAGES), random.Random(f"{cfg.seed} schedule")
    config, output, failures, hit, same = schedule_config(work, setting), work / "out.txt", [], 0, 0
    with launcher(work) as python:
        whole = work / "schedule_whole"
        run = end_schedule(start_schedule(python, config, whole, output), output)
        if wrong := wrong_exit(run, (0,)):
            return Result("none", "schedule.sh fails without a fault", "ends", [wrong])
        wanted, adapter = timeless(json.loads((whole / "summary.json").read_text())), "final/adapter_model.safetensors"
        for case, name in enumerate(stages):
            out, delay = work / f"schedule{case}", rng.uniform(0.0, 0.6)
            process = start_schedule(python, config, out, output)
            while process.poll() is None and not (out / name).exists():
                time.sleep(0.005)
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            hit += end_schedule(process, output).status == -signal.SIGKILL
            again = end_schedule(start_schedule(python, config, out, output), output)
            wrong = wrong_exit(again, (0,))
            if not wrong and timeless(json.loads((out / "summary.json").read_text())) != wanted:
                wrong = "another summary.json"
            if not wrong and (out / adapter).read_bytes() != (whole / adapter).read_bytes():
                wrong = "another final adapter"
            same += not wrong
            failures += [f"killed {delay:.2f} s after {name}, called again: {wrong}"] if wrong else []
            shutil.rmtree(out, ignore_errors=True)
    if hit < len(stages) / 2:
        failures.append(f"only {hit} kills hit a running schedule: this proves nothing")
    injected = f"{hit} kills of {len(stages)} schedules"
    return Result(injected, f"{same} same summaries and final adapters", str(len(stages)), failures)


# ---------------------------------------------------------------------------------------- 3. out of memory


def short_of_memory(note: Path, decode=None, forward=None, backward=None) -> None:
    """For `prepare`: raises torch.OutOfMemoryError where a case says so, and writes a byte to `note` each time.

    Args:
        decode: f(call number, rows) -> bool, asked at each token of the sampler.
        forward: f(call number, padded tokens), at each forward of the update.
        backward: f(call number), at each backward, after it has added its gradients.
    """
    import torch
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

    import sample

    calls, true_forward, true_backward = Counter(), Qwen2Model.forward, torch.Tensor.backward
    true_open = sample.SlotCache.open

    def fail(kind: str, happens, *figures) -> None:
        calls[kind] += 1
        if happens and happens(calls[kind], *figures):
            add_one(note)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB (injected)")

    def model_forward(self, *args, **kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        if not kwargs.get("use_cache", True):
            fail("forward", forward, ids.numel())
        return true_forward(self, *args, **kwargs)

    def open_slots(self, n: int) -> None:
        fail("decode", decode, n)
        true_open(self, n)

    def tensor_backward(self, *args, **kwargs):
        true_backward(self, *args, **kwargs)
        fail("backward", backward)

    Qwen2Model.forward, torch.Tensor.backward = model_forward, tensor_backward
    sample.SlotCache.open = open_slots


# What is injected. Fewer rows or smaller micro-batches add up the same float32 numbers in another order, in the sampler's
# log-probs or in the gradient, so the last bits of the adapter may differ. Allowed is 1e-6 in every weight; or, because Adam
# divides by the gradient's size and so blows up the rounding of weights that have hardly any, a thousandth of what the round
# has learnt, as root mean square. A micro-batch lost or counted twice is off by hundreds of times that. The sampled tokens
# must be the same.
MEMORY = {
    "sampling, its first token": dict(decode=lambda k, rows: k == 1),
    "update, after the second backward, twice in a row": dict(backward=lambda k: k in (2, 4)),
    "sampling, token 40 and again the next": dict(decode=lambda k, rows: k in (40, 41)),
    "sampling, room for 3 rows": dict(decode=lambda k, rows: rows > 3),
    "update, its first micro-batch": dict(forward=lambda k, tokens: k == 1),
    "update, room for 200 tokens": dict(forward=lambda k, tokens: tokens > 200),
}
# Columns of log.csv that are functions of the tokens alone.
OF_TOKENS = ("step", "reward", "correct", "length", "over_cap", "dead_groups", "val_tokens")


def of_tokens(folder: Path) -> list[list[str]]:
    """What a round's log says of its tokens."""
    return [[row[k] for k in OF_TOKENS] for row in timeless_log(folder)]


def oom(work: Path, setting: dict, cfg: Config) -> Result:
    """Injected errors: the round must end as it would have without, or say in a line which option to lower."""
    whole, output, failures, seen, same, exact, close = unbroken(work, setting), work / "out.txt", [], 0, 0, 0, []
    cases = list(MEMORY.items())[: 2 if cfg.small else None]
    for number, (name, where) in enumerate(cases):
        folder, note = work / f"oom{number}", work / f"oom{number}.note"
        run = call(train(setting, folder), output, lambda: short_of_memory(note, **where))
        times = note.stat().st_size if note.exists() else 0
        seen += times
        if not times:
            failures.append(f"{name}: nothing was injected (does the loop still call SlotCache.open, the update Qwen2Model.forward?)")
            continue
        wrong = wrong_exit(run, (0,))
        if not wrong:
            most, share = adapter_distance(folder, whole.folder)
            exact, close = exact + (most == 0), [*close, (most, share)]
            if most > 1e-6 and share > 1e-3:
                wrong = f"adapter off by up to {most:.1e}, {share:.1e} of what was learnt"
        if not wrong and of_tokens(folder) != of_tokens(whole.folder):
            wrong = "other tokens were sampled"
        if not wrong and "memory" not in run.output:
            wrong = "recovered without a word"
        same += not wrong
        failures += [f"{name} ({times} errors): {wrong}"] if wrong else []
        shutil.rmtree(folder, ignore_errors=True)
    if not cfg.small:  # no setting helps: a line, and status 1 or 2
        never = {"sampling": dict(decode=lambda k, rows: True), "update": dict(forward=lambda k, tokens: True)}
        for name, where in never.items():
            run = call(train(setting, work / f"oom_{name}"), output, lambda: short_of_memory(work / "note", **where))
            wrong = wrong_exit(run, (1, 2))
            failures += [f"{name}, never enough memory: {wrong}"] if wrong else []
    most, share = (max(column) for column in zip(*close)) if close else (0, 0)
    outcome = f"{same} same adapters ({exact} byte-identical, off by up to {most:.0e}, {share:.0e} of what was learnt)"
    return Result(f"{len(cases)} points ({seen} errors)", outcome, str(len(cases)), failures)


# ---------------------------------------------------------------------------------------- 4. full disk


@contextlib.contextmanager
def small_disk(work: Path, megabytes: int):
    """Yields the folder of a tmpfs, or None where this process may not mount one."""
    folder = work / "disk"
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Writes a file `ballast` that leaves about this many bytes free (tmpfs counts in pages)."""
    file = os.open(disk / "ballast", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave
    while left > 0:
        try:
            left -= os.write(file, bytes(min(left, 1 << 16)))
        except OSError:
            break
    os.close(file)


def limit_file_size(most: int) -> None:
    """Where nothing can be mounted: from now on a write beyond half this size (plus 32 KiB, for logs) in a file fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768 + most // 2, 32768 + most // 2))


def disk(work: Path, setting: dict, cfg: Config) -> Result:
    """The disk fills up at the beginning of each save, with room for some of its files; then it is freed."""
    whole, output, failures, readable, identical, refused = unbroken(work, setting), work / "out.txt", [], 0, 0, 0
    size = sum(p.stat().st_size for p in (whole.folder / f"step{STEPS:04d}").iterdir())
    shares = (0.0, 0.5) if cfg.small else (0.0, 0.1, 0.3, 0.5, 0.8, 0.97)
    steps = (2,) if cfg.small else range(1, STEPS + 1)
    cases = [(f"step{step:04d}.tmp", share) for step in steps for share in shares]
    if not cfg.small:
        cases += [("log.csv", 0.0), ("config.yaml", 0.0), ("start.json", 0.0), ("selection.json", 0.0), ("done", 0.0)]
    with small_disk(work, megabytes=8 + 8 * size * STEPS // 2**20) as place:
        for needle, share in cases:
            leave = int(share * size)
            folder = (place or work) / "round"
            at = f"disk full at {needle}" + (f" with room for {share:.0%} of a checkpoint" if share else "")

            def prepare() -> None:
                full = (lambda: fill(place, leave)) if place else (lambda: limit_file_size(leave))
                watch(folder, needle, lambda n: full() if n == 1 else None)

            run = call(train(setting, folder), output, prepare)
            refused += run.status != 0
            # 0: it wrote nothing more than what had room
            wrong = wrong_exit(run, (0, 1, 2) if needle == "done" else (1, 2))
            failures += [f"{at}: {wrong}"] if wrong else []
            broken = unreadable(folder)
            readable += not broken
            failures += [f"{at}: {line}" for line in broken]
            if place:
                (place / "ballast").unlink(missing_ok=True)
            run = call(train(setting, folder), output)
            wrong = wrong_exit(run, (0,)) or differs(folder, whole.folder)
            identical += not wrong
            failures += [f"{at}, freed and called again: {wrong}"] if wrong else []
            shutil.rmtree(folder, ignore_errors=True)
    injected = f"{len(cases)} full disks ({'tmpfs' if place else 'file size limit'}, {refused} writes failed)"
    outcome = f"{len(cases) - readable} runs with an unreadable checkpoint, {identical} same ends after freeing"
    return Result(injected, outcome, f"0, {len(cases)}", failures)


# ---------------------------------------------------------------------------------------- 5. damaged files


def damage(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One to three flipped bits, half of them near the start where headers are, or a cut.

    Returns:
        The damaged bytes, never the ones given, and what was done.
    """
    if rng.random() < 0.35:
        keep = rng.choice([0, rng.randrange(max(1, len(data))), rng.randrange(max(1, len(data)))])
        return data[:keep], f"cut to {keep} of {len(data)} bytes"
    made, bits = bytearray(data), set()
    near = min(len(data), 3000) if rng.random() < 0.5 else len(data)
    for _ in range(rng.choice([1, 1, 3])):
        bits.add((rng.randrange(near), rng.randrange(8)))
    for byte, bit in bits:
        made[byte] ^= 1 << bit
    return bytes(made), "flipped " + ", ".join(f"bit {bit} of byte {byte}" for byte, bit in sorted(bits))


def parses(path: Path, data: bytes) -> bool:
    """Whether the format's own parser takes it: JSON objects (one, or one a line), YAML mapping, safetensors header."""
    import yaml

    try:
        if path.suffix == ".safetensors":
            return tensors_of(data) is not None
        text = data.decode("utf-8")
        if path.suffix == ".yaml":
            return isinstance(yaml.safe_load(text), dict)
        lines = [text] if path.suffix == ".json" else [line for line in text.split("\n") if line.strip()]
        values = [json.loads(line) for line in lines]
        return bool(values) and all(isinstance(v, dict) for v in values)
    except (ValueError, RecursionError, yaml.YAMLError):
        return False


def sums_of(kind: str, data: bytes) -> dict | None:
    """What a checksums.json says of the files that a reader of this kind takes; None where it cannot be read."""
    try:
        sums = json.loads(data)
        return {k: v for k, v in sums.items() if kind != "adapter" or k in ADAPTER}
    except (ValueError, AttributeError):
        return None


def tensors_of(data: bytes) -> list | None:
    """Names, types and shapes of a safetensors file; None where it is none."""
    import safetensors

    try:
        return sorted((name, t["dtype"], tuple(t["shape"])) for name, t in safetensors.deserialize(data))
    except Exception:
        return None


def must_be_told(kind: str, path: Path, before: bytes, after: bytes) -> str:
    """Why this damage may not be accepted in silence ('' where nobody could tell: a digit in a text, a weight's bit).

    - checkpoint, adapter: checksums.json has a sha256 of every file that is read back, so any changed byte tells; in
      checksums.json itself any changed name or sum of these files does.
    - all others: what the format's parser refuses must be refused: JSON lines, JSON, YAML, a safetensors header.
    - config, schedule config: a key that is no option, too (a value is only checked for its type, by the script).
    - model.safetensors: tensors missing, renamed or reshaped, too; a weight's bits cannot be told.
    """
    if kind in ("checkpoint", "adapter"):
        if path.name == "checksums.json":
            return "" if sums_of(kind, before) == sums_of(kind, after) else "checksums.json says something else"
        return "its sha256 is in checksums.json, or should be"
    if path.suffix == ".csv":
        return ""
    if not parses(path, after):
        return f"{path.name} no longer parses"
    if path.suffix == ".yaml":
        import yaml

        unknown = set(yaml.safe_load(after)) - set(yaml.safe_load(before))
        return f"{unknown} is no option" if unknown else ""
    if path.suffix == ".safetensors" and tensors_of(after) != tensors_of(before):
        return "tensors are missing, renamed or reshaped"
    return ""


class Target(NamedTuple):
    """Files to damage and the command that reads them."""

    kind: str
    files: list[Path]
    argv: list
    needs: str = ""
    """What the output must hold after an accepted damage that could be told: a report."""
    same_end: Path | None = None
    """Round folder that must end as the unbroken one does, where the command ends well."""
    scratch: Path | None = None
    """Folder that the command writes to: put back as it was before each case, or removed where it was not there."""


def stage(work: Path, setting: dict) -> list[Target]:
    """Makes one good file of each kind and says who reads it."""
    import yaml

    whole, output = unbroken(work, setting), work / "out.txt"
    half, run, config = work / "half", work / "run", work / "round.yaml"
    # a round killed in its last save, with two whole checkpoints
    call(train(setting, half), output, kill_at(half, f"step{STEPS:04d}.tmp", 1))
    assert (half / f"step{STEPS - 1:04d}").is_dir() and not (half / "done").exists(), output.read_text()
    # the folder of a schedule of one round
    shutil.copytree(whole.folder, run / f"cap{ROUND['cap']}")
    shutil.copytree(whole.folder / f"step{STEPS:04d}", run / "final", ignore=lambda _, names: {*names} - {*ADAPTER, "checksums.json"})
    config.write_text(yaml.safe_dump(setting))
    for name, data, adapter in (("base", "val", ""), ("base_test", "test", ""), ("final_test", "test", run / "final")):
        argv = ["eval.py", "--model", setting["model"], "--data", work / f"{data}.jsonl", "--adapter", adapter, "--cap", 24,
                "--samples", 2, "--temperature", 1, "--out_dir", run / name, "--device", "cpu"]  # fmt: skip
        made = call(argv, output)
        assert made.status == 0, made.output
    made = call(["eval.py", "report", run], output)
    assert made.status == 0, made.output
    model, tiny = Path(setting["model"]), {"steps": 1, "cap": 8, "val_cap": 8, "group": 2, "problems_per_step": 2, "val_samples": 1}
    # lower sizes after the damaged file: a digit more in a size shall not cost an hour
    shrink = [w for k, v in tiny.items() for w in (f"--{k}", v)]
    sample = ["sample.py", "--model", model, "--problem", "What is 1 + 1?", "--cap", 4, "--device", "cpu"]
    fresh = work / "fresh"
    checkpoint = sorted(p for p in (half / f"step{STEPS - 1:04d}").iterdir() if p.name not in ("README.md", "samples.md"))
    adapter = [run / "final" / name for name in (*ADAPTER, "checksums.json")]
    rollouts = [run / "final_test" / "rollouts.jsonl"]
    evals = [run / "base_test" / "eval.json", run / "base" / "eval.json", run / f"cap{ROUND['cap']}" / "selection.json"]
    resume = train(setting, half)
    return [
        Target("config", [config], ["train_prune.py", "--config", config, *shrink, "--out_dir", fresh], scratch=fresh),
        Target("schedule config", [config], []),  # bash, see `corrupt`
        Target("problems", [work / "train.jsonl"], [*train(setting | tiny, fresh)], scratch=fresh),
        Target("problems", [work / "test.jsonl"],
               ["sample.py", "--model", model, "--data", work / "test.jsonl", "--out", fresh / "o.jsonl", "--cap", 4, "--device", "cpu"],
               scratch=fresh),  # fmt: skip
        Target("rollouts, reward.py", rollouts, ["reward.py", *rollouts]),
        Target("rollouts, analyse.py", [*rollouts, run / "final_test" / "eval.json"],
               ["analyse.py", "metrics", run / "base_test", run / "final_test", "--resamples", 20, "--out_dir", fresh], scratch=fresh),
        Target("rollouts, plot.py", rollouts,
               ["plot.py", "trace", run / "base_test", run / "final_test", "--out", work / "page.html", "--overwrite", "true"]),
        Target("adapter", adapter, [*sample, "--adapter", run / "final"]),
        Target("checkpoint", checkpoint, resume, needs=checkpoint[0].parent.name, same_end=half, scratch=half),
        Target("round's files", [half / n for n in ("config.yaml", "start.json", "log.csv")], resume, scratch=half),
        Target("eval.json, selection.json", evals, ["eval.py", "report", run]),
        Target("reference", evals[1:2], [*train(setting | tiny, fresh), "--reference", evals[1]], scratch=fresh),
        Target("done round", [whole.folder / "selection.json", whole.folder / "config.yaml"], train(setting, whole.folder)),
        Target("summary", [run / "summary.json", run / f"cap{ROUND['cap']}" / "log.csv"], ["plot.py", "run", run]),
        Target("model", [model / n for n in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                             "generation_config.json")], sample),  # fmt: skip
    ]  # fmt: skip


def corrupt(work: Path, setting: dict, cfg: Config) -> Result:
    """Every reader on damaged files: no traceback ever, and no silence where a checksum or a parser could tell."""
    total, rng = (20 if cfg.small else 200), random.Random(f"{cfg.seed} corrupt")
    output, failures, outcomes, silent, traces = work / "out.txt", [], Counter(), 0, 0
    with launcher(work) as python:
        targets = stage(work, setting)
        whole = unbroken(work, setting)
        turns = Counter()
        for target in targets:
            if target.scratch and target.scratch.exists():
                shutil.copytree(target.scratch, work / "kept" / target.scratch.name, dirs_exist_ok=True)
        for case in range(total):
            target = targets[case % len(targets)]
            path = target.files[turns[id(target)] % len(target.files)]
            turns[id(target)] += 1
            before = path.read_bytes()
            after, how = damage(before, rng)
            told = must_be_told(target.kind, path, before, after)
            path.write_bytes(after)
            if target.kind == "schedule config":  # CAPS=0 ends it with its own `error:` line after its first look into the file
                run = end_schedule(start_schedule(python, path, work / "never", output, CAPS="0"), output)
                told = ""  # this look may find nothing wrong
            else:
                run = call(target.argv, output, limit=60.0)
            path.write_bytes(before)
            wrong = wrong_exit(run, (0, 1, 2))
            traces += wrong.startswith("traceback")
            outcomes["refused" if run.status else "accepted"] += not wrong
            words = r"checksum|sha256|damaged|unreadable|not readable|broken|corrupt"
            reported = target.needs and any(target.needs in s and re.search(words, s) for s in run.output.splitlines())
            if "newly initialized because missing" in run.output:  # only transformers' report says so, and it goes on
                told = told or "weights are missing: random ones stand in for them"
            if not wrong and told and run.status == 0 and not reported:
                wrong, silent = f"accepted in silence, though {told}", silent + 1
            if not wrong and run.status == 0 and target.same_end:
                wrong = differs(target.same_end, whole.folder)
            if wrong:
                failures.append(f"{target.kind}, {path.name} {how}: {wrong}")
            if target.scratch:
                shutil.rmtree(target.scratch, ignore_errors=True)
                if (work / "kept" / target.scratch.name).exists():
                    shutil.copytree(work / "kept" / target.scratch.name, target.scratch)
    outcome = f"{outcomes['refused']} refused, {outcomes['accepted']} accepted, "
    outcome += f"{traces} tracebacks, {silent} silent acceptances"
    return Result(f"{total} damaged files", outcome, "0 tracebacks, 0 silent acceptances", failures)


# ---------------------------------------------------------------------------------------- the command


def main(cfg: Config) -> int:
    kinds = [k.strip() for k in cfg.only.split(",") if k.strip()]
    if unknown := [k for k in kinds if k not in KINDS]:
        print(f"error: --only {','.join(unknown)} is unknown; there are {', '.join(KINDS)}", file=sys.stderr)
        return 2
    if not hasattr(os, "fork") or sys.platform != "linux":
        print("error: dev/faults.py needs fork and /bin/sh as Linux has them", file=sys.stderr)
        return 2
    work = Path(cfg.keep or tempfile.mkdtemp(prefix="faults ")).resolve()  # the blank is on purpose
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        print(f"error: --keep {work} is not empty", file=sys.stderr)
        return 2
    os.environ["HF_DATASETS_CACHE"] = str(work / "cache")
    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import jsonargparse  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import torch
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import eval  # noqa: F401
    from analysis import plot  # noqa: F401

    torch.set_num_threads(1)
    status, began = 0, time.monotonic()
    try:
        setting = make_setting(work, cfg.model)
        for kind in kinds:
            clock = time.monotonic()
            result = globals()[kind](work, setting, cfg)
            verdict = "FAILED" if result.failures else "ok"
            status |= bool(result.failures)
            parts = (f"{kind:8}", result.injected, result.outcome, f"wanted {result.wanted}", verdict)
            print(*parts, f"{time.monotonic() - clock:.0f} s", sep=" | ")
            print("".join(f"           {line}\n" for line in result.failures), end="", flush=True)
        print(f"{time.monotonic() - began:.0f} s in all, seed {cfg.seed}, model {cfg.model or 'a random stand-in'}")
    finally:
        if not cfg.keep:
            shutil.rmtree(work, ignore_errors=True)
    return status


if __name__ == "__main__":
    # Before torch is imported. Nothing asks the hub: a damaged name of a model shall fail at once.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from engine.files import parse

    sys.exit(main(parse(Config)))
