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

import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from dev.faults_damage import corrupt  # noqa: E402
from dev.faults_kills import kills, schedule  # noqa: E402
from dev.faults_room import disk, oom  # noqa: E402
from dev.faults_round import make_setting  # noqa: E402

KINDS = {"kills": kills, "schedule": schedule, "oom": oom, "disk": disk, "corrupt": corrupt}
# Set before torch is imported. Nothing asks the hub: a damaged name of a model shall fail at once.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
}  # fmt: skip


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
    import_all()
    status, began = 0, time.monotonic()
    try:
        setting = make_setting(work, cfg.model)
        for kind in kinds:
            clock = time.monotonic()
            result = KINDS[kind](work, setting, cfg.small, cfg.seed)
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


def import_all() -> None:
    """What the scripts import, once for all forks."""
    import eval  # noqa: F401  (first: it keeps bitsandbytes from logging at import)
    from analysis import plot  # noqa: F401

    import bitsandbytes  # noqa: F401
    import datasets  # noqa: F401
    import jsonargparse  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import torch
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    os.environ |= ENVIRONMENT
    from engine.files import parse

    sys.exit(main(parse(Config)))
