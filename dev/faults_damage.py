"""`faults.py`: flipped bits and cuts in every file that a command reads, and whether they are noticed."""

import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from dev.faults_fork import Run, call, kill_at, launcher, wrong_exit
from dev.faults_kills import end_schedule, start_schedule
from dev.faults_round import ROUND, STEPS, Result, differs, train, unbroken

# What is read of an adapter.
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "nanoprune.json")
FINAL = (*ADAPTER, "checksums.json")  # the files of `final`
# The validations have the round's own caps: under others they may not be compared with the reference.
TINY = {"steps": 1, "cap": 8, "group": 2, "problems_per_step": 2, "eval_samples": 1, "reference_samples": 1}
TINY |= {"eval_cap": ROUND["eval_cap"], "prompt_cap": ROUND["cap"]}
SIZES = ("eval_cap", "eval_samples", "eval_temperature", "device")  # of the evaluations
SILENT = "accepted in silence"


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


def stage(work: Path, setting: dict) -> None:
    """Makes one good file of each kind: round.yaml, `half` (a round killed in its last save), `run` (a schedule's)."""
    import yaml

    whole, output, run = unbroken(work, setting), work / "out.txt", work / "run"
    call(train(setting, work / "half"), output, kill_at(work / "half", f"step{STEPS:04d}.tmp", 1))
    before = work / "half" / f"step{STEPS - 1:04d}"
    assert before.is_dir() and not (work / "half" / "done").exists(), output.read_text()
    shutil.copytree(whole.folder, run / f"cap{ROUND['cap']}")
    (run / "final").mkdir()
    for name in FINAL:
        shutil.copy(whole.folder / f"step{STEPS:04d}" / name, run / "final")
    (work / "round.yaml").write_text(yaml.safe_dump(setting))
    commands = []
    for name, data, adapter in (("base", "val", ""), ("base_test", "test", ""), ("final_test", "test", run / "final")):
        files = ["--data", work / f"{data}.jsonl", "--adapter", adapter, "--out_dir", run / name]
        sizes = [word for name in SIZES for word in (f"--{name}", ROUND[name])]
        commands.append(["eval.py", "--model", setting["model"], *files, *sizes, "--prompt_cap", ROUND["cap"]])
    for argv in [*commands, ["eval.py", "report", run]]:
        made = call(argv, output)
        assert made.status == 0, made.output


def targets_of(work: Path, setting: dict) -> list[Target]:
    """Who reads which of the staged files."""
    model, whole, run, half, fresh = Path(setting["model"]), work / "whole", work / "run", work / "half", work / "fresh"
    both, cap, before = [run / "base_test", run / "final_test"], run / f"cap{ROUND['cap']}", f"step{STEPS - 1:04d}"
    rollouts = run / "final_test" / "rollouts.jsonl"
    # Lower sizes after the damaged file: a digit more in a size shall not cost an hour.
    shrink = [word for key, value in TINY.items() for word in (f"--{key}", value)]
    resume, again = train(setting, half), train(setting | TINY, fresh)
    sample = ["sample.py", "--model", model, "--cap", 4, "--device", "cpu"]
    ask = [*sample, "--problem", "What is 1 + 1?"]
    checkpoint = sorted(p for p in (half / before).iterdir() if p.name not in ("README.md", "samples.md"))
    made = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    evals = [run / "base_test" / "eval.json", run / "base" / "eval.json", cap / "selection.json"]
    return [
        Target("config", [work / "round.yaml"],
               ["train_prune.py", "--config", work / "round.yaml", *shrink, "--out_dir", fresh], scratch=fresh),
        Target("schedule config", [work / "round.yaml"], []),  # bash, see `run_on`
        Target("problems", [work / "train.jsonl"], again, scratch=fresh),
        Target("problems", [work / "test.jsonl"],
               [*sample, "--data", work / "test.jsonl", "--out", fresh / "o.jsonl"], scratch=fresh),
        Target("rollouts, reward.py", [rollouts], ["reward.py", rollouts]),
        Target("rollouts, metrics", [rollouts, run / "final_test" / "eval.json"],
               ["-m", "analysis.metrics", *both, "--out_dir", fresh], scratch=fresh),
        Target("rollouts, trace", [rollouts],
               ["-m", "analysis.trace", *both, "--out", work / "page.html", "--overwrite", "true"]),
        Target("adapter", [run / "final" / name for name in FINAL], [*ask, "--adapter", run / "final"]),
        Target("checkpoint", checkpoint, resume, needs=before, same_end=half, scratch=half),
        Target("round's files", [half / "config.yaml", half / "start.json", half / "log.csv"], resume, scratch=half),
        Target("eval.json, selection.json", evals, ["eval.py", "report", run]),
        Target("reference", evals[1:2], [*again, "--reference", evals[1]], scratch=fresh),
        Target("done round", [whole / "selection.json", whole / "config.yaml"], train(setting, whole)),
        Target("summary", [run / "summary.json", cap / "log.csv"], ["-m", "analysis.plot", "run", run]),
        Target("model", [model / name for name in made], ask),
    ]  # fmt: skip


def run_on(target: Target, python: Path, work: Path) -> Run:
    """Runs the command that reads the target's files."""
    output = work / "out.txt"
    if target.argv:
        return call(target.argv, output, limit=60.0)
    # CAPS=0 ends schedule.sh with its own `error:` line after its first look into the file.
    return end_schedule(start_schedule(python, target.files[0], work / "never", output, CAPS="0"), output)


def judge(target: Target, run: Run, told: str, whole: Path) -> str:
    """What is wrong with how a command took a damaged file ('' for nothing).

    Args:
        told: Why the damage could be told, see `must_be_told`.
    """
    if wrong := wrong_exit(run, (0, 1, 2)):
        return wrong
    if run.status != 0:
        return ""
    if not target.argv:
        told = ""  # the first look of schedule.sh may find nothing wrong
    if "newly initialized because missing" in run.output:  # only transformers' report says so, and it goes on
        told = told or "weights are missing: random ones stand in for them"
    words = r"checksum|sha256|damaged|unreadable|not readable|broken|corrupt"
    lines = [line for line in run.output.splitlines() if target.needs in line and re.search(words, line)]
    if told and not (target.needs and lines):
        return f"{SILENT}, though {told}"
    return differs(target.same_end, whole) if target.same_end else ""


def put_back(folder: Path | None, kept: Path) -> None:
    """A command's folder as it was before the first case: the copy in `kept`, or none."""
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
        if (kept / folder.name).exists():
            shutil.copytree(kept / folder.name, folder)


def corrupt(work: Path, setting: dict, small: bool, seed: int) -> Result:
    """Every reader on damaged files: no traceback ever, and no silence where a checksum or a parser could tell."""
    total, rng = (20 if small else 200), random.Random(f"{seed} corrupt")
    failures, counts, turns, kept = [], Counter(), Counter(), work / "kept"
    with launcher(work) as python:
        stage(work, setting)
        targets = targets_of(work, setting)
        for folder in {target.scratch for target in targets if target.scratch and target.scratch.exists()}:
            shutil.copytree(folder, kept / folder.name)
        for target in targets:  # a command that always fails would refuse every damage, and prove nothing
            run = run_on(target, python, work)
            put_back(target.scratch, kept)
            if wrong := wrong_exit(run, (0,) if target.argv else (2,)):
                failures.append(f"{target.kind}, nothing damaged: {wrong}")
        for case in range(total):
            number = case % len(targets)
            target = targets[number]
            path = target.files[turns[number] % len(target.files)]
            turns[number] += 1
            before = path.read_bytes()
            after, how = damage(before, rng)
            told = must_be_told(target.kind, path, before, after)
            path.write_bytes(after)
            run = run_on(target, python, work)
            path.write_bytes(before)
            wrong = judge(target, run, told, work / "whole")
            put_back(target.scratch, kept)
            counts["traceback"] += wrong.startswith("traceback")
            counts["silent"] += wrong.startswith(SILENT)
            if not wrong_exit(run, (0, 1, 2)):
                counts["refused" if run.status else "accepted"] += 1
            if wrong:
                failures.append(f"{target.kind}, {path.name} {how}: {wrong}")
    outcome = f"{counts['refused']} refused, {counts['accepted']} accepted, "
    outcome += f"{counts['traceback']} tracebacks, {counts['silent']} silent acceptances"
    return Result(f"{total} damaged files", outcome, "0 tracebacks, 0 silent acceptances", failures)
