"""Options, JSON, whole writes and one-line errors: what every script reads and writes with.

A script reads as if nothing could go wrong. What can, becomes one line here: `die` for the user's mistakes (exit status
2), `fail` for what went wrong on the way (1), `explained` around calls of libraries, and `run` around a whole script.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

import yaml

try:
    import fcntl
except ImportError:  # Windows: no lock there
    fcntl = None

# Options that move speed and memory only: a run that is resumed may change them.
MEMORY = {"rows", "rollout_weights", "tokens_per_micro_batch", "head_chunk", "gradient_checkpointing", "device"}
LONGEST_LINE = 10_000_000  # bytes; a longer line holds no rollout and no problem, it only fills the memory


# ---------------------------------------------------------------------------------------- errors


class OptionError(ValueError):
    """An option or a problem that cannot work, found by a function; `run` prints its message."""


def die(message: str) -> NoReturn:
    """Stops with one line on stderr and exit status 2: for the user's mistakes, never for the model's text."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    raise SystemExit(2)


def fail(message: str) -> NoReturn:
    """Stops with one line on stderr and exit status 1: for what went wrong on the way."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    raise SystemExit(1)


@functools.cache
def note(message: str) -> None:
    """One line on stderr, once a process: what is worth knowing and stops nothing."""
    print("note: " + " ".join(message.split()), file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind where it has none.

    >>> first_line(ValueError("no such key\\nmore")), first_line(RecursionError())
    ('no such key', 'RecursionError')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def explained(message: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds into one line: the message, and why in brackets.

    Without kinds it is what a library raises at a file that it cannot read, nearly anything. A misspelt name in our
    own code is never that.
    """
    try:
        yield
    except kinds or Exception as error:
        if isinstance(error, NameError) or type(error).__name__ == "OutOfMemoryError":  # said elsewhere: what to lower
            raise
        die(f"{message} ({first_line(error)})" if message else first_line(error))


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Around a whole command: what cannot work, and Ctrl-C, without a traceback."""
    try:
        yield
    except OptionError as error:
        die(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None


def run(main: Callable, config_class, also: str = "") -> None:
    """A script from the command line: options, `main(options)`, and what stops it as one line.

    Args:
        also: See `parse`.
    """
    # `python eval.py` is the module __main__. Whoever imports eval later gets this one, not a second copy.
    sys.modules.setdefault(Path(sys.argv[0]).stem, sys.modules["__main__"])
    with one_line():
        main(parse(config_class, also=also))


# ---------------------------------------------------------------------------------------- options


@dataclass
class Options:
    """Options of every script that loads a model."""

    model: str = "out/toy_base"
    """Base model: a folder, or a hub id such as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B."""
    load_4bit: bool = True
    """Keep the base in 4 bits (NF4, bitsandbytes); false loads it in `dtype`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of compute and of the rollout weights; auto: on CUDA bfloat16, or float16 on cards that lack it (T4),
    on a CPU float32."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    rollout_weights: Literal["auto", "merged", "live"] = "auto"
    """merged: decode from a copy with the LoRA folded in (faster); live: through the 4-bit layers (smaller)."""
    rows: int = 0
    """Most rollouts decoded at the same time, fewer where memory is short; 0 means 256."""
    thinking: bool = True
    """The answer counts only after </think>; false for models that do not think aloud."""
    template_options: dict[str, Any] = field(default_factory=dict)
    """Variables of the model's chat template, as in --template_options '{"enable_thinking": true}'."""
    system: str | None = None
    """What the model is told before the problem, {cap} being the cap; null: SYSTEM of sample.py, empty: nothing."""
    instruction: str | None = None
    """What the prompt asks for after the problem's text; null: INSTRUCTION of sample.py, empty: nothing."""
    problem_key: str = "problem"
    """Column that holds the problem's text, or several with commas between: the first that a file has is read. Where it
    has none of them, it may be one with a usual name."""
    answer_key: str = "answer"
    """Column that holds the right answer, or as above; `a.b` goes down into a dict, `a.-1` into a list."""
    seed: int = 0
    """Seed of everything random."""


@dataclass
class EvalOptions(Options):
    """How a policy is measured: one set of settings for validation, test and eval.py."""

    test_data: str = "out/toy_base/test.jsonl"
    """Problems that are measured before and after a schedule."""
    eval_cap: int = 8000
    """Token cap of an evaluation: what has not ended by then is wrong."""
    prompt_cap: int = 0
    """Cap that the prompt of an evaluation names; 0 names the round's own in train_prune.py, `eval_cap` in eval.py.
    schedule.sh names the last cap throughout, with which the pruned model is used."""
    eval_samples: int = 4
    """Answers per problem in a validation; the paper takes 16."""
    eval_temperature: float = 0.6
    """Sampling temperature of evaluations; 0 is greedy."""
    eval_top_p: float = 0.95
    """Nucleus of evaluations: smallest set of tokens with at least this probability."""


@dataclass
class RoundOptions(EvalOptions):
    """What is measured when: of train_prune.py and schedule.sh."""

    val_data: str = "out/toy_base/val.jsonl"
    """Problems that choose the checkpoint; never those of the test."""
    reference_samples: int = 32
    """Answers per problem where the reference is measured, which every selection leans on."""
    confirm_samples: int = 16
    """Fresh answers per problem to measure the winner of a round again; 0 believes the validation, as the paper."""
    test_samples: int = 16
    """Answers per problem in schedule.sh's test."""
    cap_percentile: float = 90.0
    """`caps: auto`: the next cap is this percentile of the right answers' lengths (`selection.next_cap`)."""
    cap_problems: int = 256
    """`caps: auto`: training problems, chosen at random once, that are answered to measure these lengths."""


@dataclass
class AnswerOptions(EvalOptions):
    """What sft.py reads and writes, and the memory that it takes."""

    # --- data
    data: str = ""
    """Answers to learn: a file (.jsonl, .parquet, .csv) or hub data set, or several with commas between."""
    keep: Literal["right", "shortest", "all"] = "right"
    """right: every right answer that ended; shortest: of these the shortest to each problem; all: everything."""
    response_key: str = "response"
    """Column that holds the response, or a list of several; without it a chat is read (messages, conversations)."""
    thinking_key: str = ""
    """Column that holds the thought, where it is not a part of the response."""
    max_tokens: int = 4096
    """Longest prompt with its response; longer ones are left out."""
    val_data: str = "out/toy_base/val.jsonl"
    """Problems that are answered at each checkpoint. Answers to them, or to `test_data`, are refused in `data`."""
    drop_held_out: bool = False
    """Leave answers to problems of `val_data` and `test_data` out instead of refusing the file."""
    val_share: float = 0.05
    """Share of the problems in `data` that is kept back for the validation loss."""
    prompt_cap: int = 0
    """Cap that the prompt names, in learning and in validations; 0 names `eval_cap`."""
    # --- run
    out_dir: str = "out/sft"
    """Folder of this run."""
    fresh: bool = False
    """Move a folder that is there to <out_dir>.old1 (or the next free number) and begin anew."""
    checkpoint_every: int = 50
    """Steps between checkpoints, each with the validation loss, pass@1 and length."""
    save_minutes: float = 10.0
    """Minutes after which the state is saved between checkpoints, too: what a kill can cost."""
    # --- memory: lower these first when the card runs out
    tokens_per_micro_batch: int = 16384
    """Padded tokens per backward pass: moves speed and memory, never the gradient."""
    head_chunk: int = 512
    """Tokens whose logits exist at the same time."""
    gradient_checkpointing: Literal["auto", "true", "false"] = "auto"
    """Recompute activations in the backward; auto: on CUDA."""


def parse(config_class, args: list[str] | None = None, also: str = ""):
    """Reads a script's options from YAML (--config) and flags; unknown keys and wrong types stop with one line.

    Args:
        args: Words of the command line; by default those of this process.
        also: Script whose `Config` may stand in the same YAML file: its keys are passed over. So a training config
            serves eval.py and sample.py, and a misspelt key is still refused.
    """
    from jsonargparse import ArgumentParser, auto_cli, set_loader, set_parsing_settings

    own = {field.name for field in dataclasses.fields(config_class)}

    def load(text: str):
        found = yaml.safe_load(text)
        if also and isinstance(found, dict) and found.keys() - own:
            theirs = {field.name for field in dataclasses.fields(importlib.import_module(also).Config)}
            found = {key: value for key, value in found.items() if key in own or key not in theirs}
        return found

    class Parser(ArgumentParser):
        def __init__(self, *words, **more):
            super().__init__(*words, **more | {"parser_mode": "run_config"})

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            spec = sys.modules["__main__"].__spec__  # there, where python -m started it
            script = f"-m {spec.name}" if spec else sys.argv[0]
            script = script if config_class.__module__ == "__main__" else f"{config_class.__module__}.py"
            die(f"{message} (python {script} --help lists the options)")

    set_loader("run_config", load, exceptions=(yaml.YAMLError,))
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with explained("the file of --config is not UTF-8", UnicodeDecodeError):  # jsonargparse explains all else itself
        return auto_cli(
            config_class, args=args, as_positional=False, return_instance=True, parser_class=Parser, allow_abbrev=False
        )


# ---------------------------------------------------------------------------------------- reading


def read_lines(path: str | Path) -> list[bytes]:
    """The lines of a file, ended by newlines alone; exits with status 2 for one over 10 MB or an unreadable file."""
    lines = []
    with explained(f"{path} cannot be read", OSError), open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            lines.append(line)
            if len(line) > LONGEST_LINE:
                die(f"{path} line {len(lines)} is longer than {LONGEST_LINE // 10**6} MB")
    return lines


def read_jsonl(path: str | Path) -> list[dict]:
    """The objects of a JSON-lines file, or of one JSON list; exits with status 2, naming the line, for what is none."""
    lines, number, rows = read_lines(path), 1, []
    try:
        if lines and lines[0].lstrip().startswith(b"["):
            rows = json.loads(b"".join(lines))
        else:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(json.loads(line))
        json.dumps(rows, ensure_ascii=False).encode()  # half a surrogate pair would stop the tokenizer later
    except (ValueError, RecursionError) as error:
        die(f"{path} is not JSON lines: line {number}: {first_line(error)}")
    if odd := [i for i, row in enumerate(rows, start=1) if not isinstance(row, dict)]:
        die(f"{path} is not JSON lines: row {odd[0]} is not a JSON object")
    return rows


def read_json(path: str | Path) -> dict:
    """The JSON object in a file; exits with status 2, naming the file, where there is none."""
    with explained(f"{path} cannot be read", OSError):
        data = Path(path).read_bytes()
    with explained(f"{path} is damaged", ValueError, RecursionError):
        found = json.loads(data)
    return found if isinstance(found, dict) else die(f"{path} is damaged: it is not a JSON object")


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
        stop = die if status == 2 else fail
        stop(f"{path} cannot be written ({error.strerror}); what was there before is as it was")


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Writes rows as JSON lines."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def aside_of(folder: Path) -> Path:
    """<folder>.old1, or the next number that is free."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return aside


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
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        fail(f"{folder} cannot be written ({first_line(error)}); earlier checkpoints are whole: make room and go on")


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
        return "checksums.json is not a JSON object"
    return ""


# ---------------------------------------------------------------------------------------- one process a folder


def take_lock(folder: Path, name: str) -> TextIO:
    """Makes the folder where it is missing, and returns its lock: held until the file is closed, or its process dies.

    Exits with status 2 where another process has it, or it cannot be written; `name` is how the message calls it.
    """
    path, file = folder / "lock", None
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
        die(f"{name} is in use by process {owner or 'unknown'} or what it started: wait, or take another folder")
    except OSError as error:
        die(f"{name} cannot be written: {error.strerror}")
    return file


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds `folder`/lock: one process a folder. See `take_lock`."""
    made = not folder.exists()
    file = take_lock(folder, f"--out_dir {folder}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if made and [p.name for p in folder.iterdir()] == ["lock"]:  # stopped by a bad option: leave nothing
                (folder / "lock").unlink()
                folder.rmdir()
        file.close()
