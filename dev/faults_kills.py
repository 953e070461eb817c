"""`faults.py`: SIGKILL at random moments of a round or of schedule.sh; called again, it must end as an unbroken one."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from dev.faults_fork import ROOT, Run, add_one, call, finish, kill_at, launcher, start, watch, wrong_exit
from dev.faults_round import Result, differs, timeless, train, unbroken

# Paths that are only touched inside a save.
SAVING = r"/step\d+\.tmp"


def kills(work: Path, setting: dict, small: bool, seed: int) -> Result:
    """SIGKILL at random moments, every second one at a random file operation inside a save; then called again.

    Every fourth round is killed once more, while it resumes.
    """
    total, rng = (3 if small else 20), random.Random(f"{seed} kills")
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


def schedule_config(work: Path, setting: dict) -> Path:
    """A two-round schedule of two steps each."""
    import yaml

    options = setting | {"steps": 2, "caps": "24 16", "test_data": str(work / "test.jsonl"), "test_samples": 2}
    path = work / "schedule.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in options.items() if k != "cap"}))
    return path


def start_schedule(python: Path, config: Path, out: Path, output: Path, **more) -> subprocess.Popen:
    env = os.environ | {"PYTHON": str(python), "CONFIG": str(config), "OUT": str(out)} | more
    with open(output, "w") as file:
        # Its own group, but our session: the server's forks may only join a group of theirs.
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
STAGES = (
    "schedule.yaml", "base/eval.json", "cap24/config.yaml", "cap24/step0001", "cap24/done", "cap16/step0001",
    "cap16/done", "final", "base_test/eval.json", "summary.json",
)  # fmt: skip


def schedule(work: Path, setting: dict, small: bool, seed: int) -> Result:
    """The whole process group of schedule.sh killed at a random moment after each of its stages, then called again."""
    stages, rng = (("cap24/step0001",) if small else STAGES), random.Random(f"{seed} schedule")
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
    return Result(injected, f"{same} runs ended identically", str(len(stages)), failures)
