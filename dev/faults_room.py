"""`faults.py`: memory that runs out in sampling or update, and disks that fill up during a save."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

from dev.faults_fork import add_one, call, watch, wrong_exit
from dev.faults_round import STEPS, Result, adapter_distance, differs, timeless_log, train, unbroken, unreadable


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
    from engine.slots import SlotCache

    calls, true_forward, true_backward = Counter(), Qwen2Model.forward, torch.Tensor.backward
    true_open = SlotCache.open

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

    sample.compare = lambda *_: None  # a few tokens before the first rollout: not what is short of memory here
    Qwen2Model.forward, torch.Tensor.backward = model_forward, tensor_backward
    SlotCache.open = open_slots


# What is injected. Fewer rows or smaller micro-batches add up the same float32 numbers in another order, in the
# sampler's log-probs or in the gradient, so the last bits of the adapter may differ. Allowed is 1e-6 in every weight.
# Also allowed is a thousandth of what the round has learnt, as root mean square: Adam divides by the gradient's size,
# which blows up the rounding of weights that have hardly any. A micro-batch lost or counted twice is off by hundreds
# of times that. The sampled tokens must be the same.
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


def oom(work: Path, setting: dict, small: bool, seed: int) -> Result:
    """Injected errors: the round must end as it would have without, or say in a line which option to lower."""
    whole, output, failures, seen, same, exact, close = unbroken(work, setting), work / "out.txt", [], 0, 0, 0, []
    cases = list(MEMORY.items())[: 2 if small else None]
    for number, (name, where) in enumerate(cases):
        folder, note = work / f"oom{number}", work / f"oom{number}.note"
        run = call(train(setting, folder), output, lambda: short_of_memory(note, **where))
        times = note.stat().st_size if note.exists() else 0
        seen += times
        if not times:
            failures.append(f"{name}: nothing was injected (are SlotCache.open and Qwen2Model.forward still called?)")
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
    if not small:  # no setting helps: a line, and status 1 or 2
        never = {"sampling": dict(decode=lambda k, rows: True), "update": dict(forward=lambda k, tokens: True)}
        for name, where in never.items():
            run = call(train(setting, work / f"oom_{name}"), output, lambda: short_of_memory(work / "note", **where))
            wrong = wrong_exit(run, (1, 2))
            failures += [f"{name}, never enough memory: {wrong}"] if wrong else []
    most, share = (max(column) for column in zip(*close)) if close else (0, 0)
    outcome = f"{same} same adapters ({exact} byte-identical, off by up to {most:.0e}, {share:.0e} of what was learnt)"
    return Result(f"{len(cases)} points ({seen} errors)", outcome, str(len(cases)), failures)


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
    """For where nothing can be mounted: a file may grow to half this size, plus 32 KiB for logs; more fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32768 + most // 2, 32768 + most // 2))


def disk(work: Path, setting: dict, small: bool, seed: int) -> Result:
    """The disk fills up at the beginning of each save, with room for some of its files; then it is freed."""
    whole, output, failures, readable, identical, refused = unbroken(work, setting), work / "out.txt", [], 0, 0, 0
    size = sum(p.stat().st_size for p in (whole.folder / f"step{STEPS:04d}").iterdir())
    shares = (0.0, 0.5) if small else (0.0, 0.1, 0.3, 0.5, 0.8, 0.97)
    steps = (2,) if small else range(1, STEPS + 1)
    cases = [(f"step{step:04d}.tmp", share) for step in steps for share in shares]
    others = ("config.yaml",) if small else ("log.csv", "config.yaml", "start.json", "selection.json", "done")
    cases += [(name, 0.0) for name in others]
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
    outcome = f"{len(cases) - readable} runs with an unreadable checkpoint, {identical} ended identically after freeing"
    return Result(injected, outcome, f"0, {len(cases)}", failures)
