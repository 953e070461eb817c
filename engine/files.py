"""Options, JSON lines, whole writes and errors: what every script reads and writes with."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from safetensors import SafetensorError


def die(message: str) -> NoReturn:
    """Stops with one line on stderr and exit status 2: for the user's mistakes, never for the model's text."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def fail(message: str) -> NoReturn:
    """One line and exit status 1: for what went wrong on the way, where `die` is for the user's mistakes."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------------------------------- options


@dataclass
class Options:
    """Options of every script that loads a model."""

    model: str = "out/toy_base"
    """Base model: a folder, or a hub id such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B."""
    load_4bit: bool = True
    """Keep the base in 4 bits (NF4, bitsandbytes); false loads it in `dtype`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of compute and of the rollout weights; auto: bfloat16 on CUDA, float32 on a CPU."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    rollout_weights: Literal["auto", "merged", "live"] = "auto"
    """merged: decode from a copy with the LoRA folded in (faster); live: through the 4-bit layers (smaller)."""
    rows: int = 0
    """Most rollouts decoded at the same time, fewer where memory is short; 0 means 256."""
    thinking: bool = True
    """The answer counts only after </think>; false for models that do not think aloud."""
    problem_key: str = "problem"
    """Column that holds the problem's text."""
    answer_key: str = "answer"
    """Column that holds the right answer."""
    seed: int = 0
    """Seed of everything random."""


def parse(config_class, **kwargs):
    """Reads a script's options from YAML (--config) and flags; unknown keys and wrong types stop with one line."""
    from jsonargparse import ArgumentParser, auto_cli, set_parsing_settings

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            die(" ".join(str(message).split()) + f" (python {sys.argv[0]} --help lists the options)")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        return auto_cli(
            config_class, as_positional=False, return_instance=True, parser_class=Parser, allow_abbrev=False, **kwargs
        )
    except UnicodeDecodeError as error:  # the one damage of a YAML file that jsonargparse lets through
        die(f"the file of --config is not UTF-8 ({error})")


# ---------------------------------------------------------------------------------------- reading


LONGEST_LINE = 10_000_000  # bytes; a longer line is no problem, but an attempt on the memory


def json_rows(source: str) -> list[dict]:
    """The objects of a JSON-lines file or of one JSON list; exits with status 2, naming the line, for what is none."""
    lines = []
    try:
        with open(source, "rb") as f:
            while line := f.readline(LONGEST_LINE + 1):
                lines.append(line)
                if len(line) > LONGEST_LINE:
                    die(f"problem file {source} line {len(lines)} is longer than {LONGEST_LINE // 10**6} MB")
    except OSError as error:
        die(f"problem file {source} cannot be read ({error.strerror})")
    number, rows = 1, []
    try:
        if lines and lines[0].lstrip().startswith(b"["):
            rows = json.loads(b"".join(lines))
        else:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(json.loads(line))
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                die(f"problem file {source} is not JSON lines: row {i + 1} is no object")
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair would stop the tokenizer later
    except (ValueError, RecursionError) as error:
        die(f"problem file {source} is not JSON lines: line {number}: {first_line(error)}")
    return rows


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; exits with status 2, naming the file, where there is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        die(f"{path} cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        die(f"{path} is damaged: {first_line(error)}")
    if not isinstance(found, dict):
        die(f"{path} is damaged: no JSON object")
    return found


# ---------------------------------------------------------------------------------------- writing


def write_text(path: str | Path, text: str, status: int = 2) -> None:
    """Writes beside, to the disk, and then in place, so that a cut-off write leaves what was there.

    Args:
        status: Exit status, after one line, where it cannot be written (no space, read-only, ...).
    """
    path = Path(path)
    beside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w", encoding="utf-8", newline="") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        message = f"error: {path} cannot be written ({error.strerror}); what was there before is as it was"
        print(message, file=sys.stderr)
        raise SystemExit(status)


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Writes rows as JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def sync(path: Path) -> None:
    """Brings a file or a folder's list of names to the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full, read-only or vanished disk becomes one line and exit status 1."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        fail(f"{folder} cannot be written ({reason}); earlier checkpoints are whole: make room and go on")


def write_checksums(folder: Path, names: list[str]) -> None:
    """Writes checksums.json: {file: sha256} of the named files of the folder."""
    sums = {}
    for name in names:
        with open(folder / name, "rb") as f:
            sums[name] = hashlib.file_digest(f, "sha256").hexdigest()
    write_text(folder / "checksums.json", json.dumps(sums, indent=1) + "\n", status=1)


def damage(folder: str | Path, only: Sequence[str] = ()) -> str:
    """What is wrong with a folder that has a checksums.json ({file: sha256}), in words; empty where all agree.

    Args:
        only: Check these files, each of which must be listed; all that are listed where it is empty.
    """
    try:
        sums = json.loads(Path(folder, "checksums.json").read_bytes())
        for name in only or sums:
            with open(Path(folder, name), "rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != sums.get(name):
                    return f"{name} does not agree with checksums.json"
    except OSError as error:
        return f"{os.path.basename(error.filename or 'a file')} cannot be read ({error.strerror})"
    except (ValueError, AttributeError, RecursionError):
        return "checksums.json is no JSON object"
    return ""
