"""The first ten minutes on a card: ten stages, each in a process of its own with a time limit, a JSON line after each.

    python dev/gpu_session.py                           # everything, on CUDA: random weights, nothing from the hub
    python dev/gpu_session.py --only attention,sync     # some stages
    python dev/gpu_session.py --rehearse true           # tiny shapes on a CPU, a recorder in place of CUDA graphs

What a stage prints stands in out/gpu_session/<stage>.txt, its figures in <stage>.json. A stage that fails or takes too
long stops no other. The exit status is 1 where one did not pass. TORCH_CUDNN_SDPA_DEPRIORITIZED=1 makes an H100 take
the attention kernels that consumer cards run. The stages stand in gpu_stages.py.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import torch  # noqa: E402

from dev.gpu_stages import STAGES  # noqa: E402
from dev.measure import chosen  # noqa: E402
from engine.files import die, first_line, parse  # noqa: E402


@dataclass
class Config:
    """Options of dev/gpu_session.py."""

    only: str = ""
    """Stages to run, by commas; empty for all."""
    minutes: float = 10.0
    """For all stages: what has not begun by then is left out."""
    rehearse: bool = False
    """Run on a CPU with tiny shapes; the recorder of tests/cuda_stand_in.py takes the place of CUDA graphs."""
    out_dir: str = "out/gpu_session"
    """Folder of what the stages print and make."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.rehearse else "cuda")

    @property
    def size(self) -> str:
        return "tiny" if self.rehearse else "r1_1.5b"


def work(s: Config, name: str) -> None:
    """One stage, in its own process: what it prints goes to a file, its figures to another."""
    os.setsid()
    if s.rehearse:
        torch.set_num_threads(1)  # a fork has none of the threads that its caller may have used
    path, began, row = Path(s.out_dir) / name, time.monotonic(), {"stage": name, "ok": True}
    with open(path.with_suffix(".txt"), "w", encoding="utf-8", buffering=1) as said:
        sys.stdout = sys.stderr = said
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            if s.rehearse:
                from cuda_stand_in import recorder
            # The kernel that `recorder` stands in for takes 16 bits: on a CPU only one stage has them.
            with recorder(varlen=name == "graph") if s.rehearse else contextlib.nullcontext():
                row |= {stage.__name__: stage for stage, _ in STAGES}[name](s)
        except BaseException as error:  # whatever it was: it is a figure of this stage
            traceback.print_exc()
            row |= {"ok": False, "error": f"{type(error).__name__}: {first_line(error)}"}
        row["stage_s"] = round(time.monotonic() - began, 1)
        path.with_suffix(".json").write_text(json.dumps(row) + "\n")
        said.flush()
        os._exit(0)  # without the caller's own end, where this is a fork of it


def run_stage(s: Config, name: str, limit: float) -> dict:
    """The figures of a stage that was given `limit` seconds."""
    path = Path(s.out_dir) / f"{name}.json"
    path.unlink(missing_ok=True)
    if s.rehearse:  # a forked process has everything imported already, which CUDA would not survive
        import bitsandbytes, datasets, peft, train_prune  # noqa: F401, E401
    process = multiprocessing.get_context("fork" if s.rehearse else "spawn").Process(target=work, args=(s, name))
    process.start()
    try:
        process.join(limit)
        late = process.exitcode is None
    finally:  # interrupted as well: it ends with all that it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    if late:
        return {"stage": name, "ok": False, "error": f"not done after {limit:.0f} s"}
    if not path.is_file():
        return {"stage": name, "ok": False, "error": f"ended with status {process.exitcode}"}
    return json.loads(path.read_text())


def main(s: Config) -> int:
    known = [stage.__name__ for stage, _ in STAGES]
    names = chosen(s.only, known)
    if not s.rehearse and torch.version.cuda is None:
        die("this torch is built without CUDA: --rehearse true runs on a CPU")
    os.chdir(ROOT)
    Path(s.out_dir).mkdir(parents=True, exist_ok=True)
    end, passed = time.monotonic() + 60 * s.minutes, True
    for stage, limit in STAGES:
        if stage.__name__ in names:
            left = end - time.monotonic()
            row = {"stage": stage.__name__, "ok": False, "error": f"not begun: {s.minutes:g} minutes are over"}
            row = run_stage(s, stage.__name__, min(limit, left)) if left > 0 else row
            passed = passed and row["ok"]
            print(json.dumps(row), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(parse(Config)))
