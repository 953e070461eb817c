"""What every bench measures with: clocks, peak memory, progress lines, and the table that ends in one JSON line."""

import json
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import reward as grader
from engine.files import die
from engine.policy import pick_device

BENCH = Path(__file__).with_name("bench.py")


# ---------------------------------------------------------------------------------------- time and memory


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children (the grading workers, after grader.close())."""
    grader.close()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def clock(device: torch.device) -> float:
    """CPU seconds of all threads of this process, or on CUDA wall seconds with the card's work done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_bytes(device: torch.device) -> int:
    """Most memory this process has had resident, or on CUDA most that torch has allocated since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # ru_maxrss also counts the parent's pages from before the exec
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fresh_peak(device: torch.device) -> None:
    """On CUDA, gives unused memory back and lets `peak_bytes` begin anew; a process's own peak cannot be reset."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def device_of(name: str, limit_gb: float = 0.0) -> torch.device:
    """The device, with torch held to `limit_gb` of it where that is above 0."""
    device = pick_device(name)
    if limit_gb:
        if limit_gb < 0 or device.type != "cuda":
            die(f"--limit_gb {limit_gb} needs --device cuda and a number above 0")
        whole = torch.cuda.get_device_properties(device).total_memory
        if limit_gb * 1e9 > whole:
            die(f"--limit_gb {limit_gb}: this card has {whole / 1e9:.1f} GB")
        torch.cuda.set_per_process_memory_fraction(limit_gb * 1e9 / whole, device.index)
    return device


def alone(*words) -> dict:
    """Runs `bench.py words...` in a child process and returns the first row of its JSON line."""
    words = [str(word) for word in words]
    done = subprocess.run([sys.executable, BENCH, *words], capture_output=True, text=True)
    if done.returncode:
        die(f"bench.py {' '.join(words)} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["rows"][0]


def chosen(only: str, known: list[str]) -> list[str]:
    """The names in --only, by commas, or all that there are; exits with status 2 for others."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        die(f"--only {','.join(unknown)} is unknown; there are {', '.join(known)}")
    return names or known


# ---------------------------------------------------------------------------------------- what is printed


class Progress:
    """Says at the start how long it takes, then prints a numbered line for each part that is done."""

    def __init__(self, parts: int, takes: str):
        self.parts, self.done, self.started = parts, 0, time.monotonic()
        self.out = sys.stdout  # as it is now: TRL's own lines are kept from it later
        print(takes, file=self.out, flush=True)

    def line(self, text: str) -> None:
        self.done += 1
        spent = time.monotonic() - self.started
        so_far = f"{spent // 60:.0f}m{spent % 60:02.0f}s so far"
        print(f"[{self.done}/{self.parts}] {text} | {so_far}", file=self.out, flush=True)


def show(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def report(bench: str, device, packages: list[str], rows: list[dict]) -> None:
    """Prints the rows as a table and as one JSON object.

    Args:
        device: A torch device, or words.
        packages: Their versions stand in the JSON object; None for what is not installed.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[show(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    if isinstance(device, torch.device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        device = f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    print(json.dumps({"bench": bench, "device": device, "versions": versions, "rows": rows}))
