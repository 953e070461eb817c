"""Reading evaluations back: one folder of eval.py, or two of the same problems."""

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.files import LONGEST_LINE, die
from sample import INSTRUCTION


class Run(NamedTuple):
    """One evaluation folder: P problems with S samples each; row p * S + s of `rows` is sample s of problem p."""

    folder: str
    info: dict
    rows: list[dict]
    ids: list[str]
    right: np.ndarray
    """(P, S) bool: correct and ended within the cap."""
    tokens: np.ndarray
    """(P, S) int: response tokens, the end token included."""

    @property
    def samples(self) -> int:
        return self.right.shape[1]

    @property
    def groups(self) -> list[list[dict]]:
        """The rows by problem."""
        return [self.rows[i : i + self.samples] for i in range(0, len(self.rows), self.samples)]

    def means(self) -> np.ndarray:
        """(P, 2): pass@1 and tokens of each problem."""
        return np.stack([self.right.mean(1), self.tokens.mean(1)], 1)


KINDS = {"id": str, "sample": int, "problem": str, "gold": str, "prompt": str, "response": str, "n_tokens": int}
KINDS |= {"finished": bool, "correct": bool, "answer": str | None}


def load_run(folder: str) -> Run:
    """Reads eval.json and rollouts.jsonl; exits with status 2, naming file and line, for anything amiss."""
    path = Path(folder, "eval.json")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        cap, _ = int(info["cap"]), info["model"]
        info.setdefault("instruction", INSTRUCTION)  # evaluations from before the option had this one
        path = Path(folder, "rollouts.jsonl")
        with path.open("rb") as file:  # bytes end their lines at \n alone, text at U+2028, too
            lines = list(iter(lambda: file.readline(LONGEST_LINE + 1), b""))
    except OSError as error:
        die(f"{path}: {error.strerror} (python eval.py --out_dir {folder} writes it)")
    except (ValueError, KeyError, TypeError) as error:
        die(f"{path} is not as eval.py writes it ({error!r})")
    problems: dict[str, dict[int, dict]] = {}
    for number, line in enumerate(lines, start=1):
        if len(line) > LONGEST_LINE:
            die(f"{path} line {number} is longer than {LONGEST_LINE // 10**6} MB: no rollout is")
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            die(f"{path} line {number} is not JSON")
        for key, kind in KINDS.items():
            if not isinstance(row, dict) or key not in row:
                die(f"{path} line {number} has no {key}")
            if not isinstance(row[key], kind):
                die(f"{path} line {number}: {key} is {row[key]!r:.60}, not {getattr(kind, '__name__', kind)}")
        if not 1 <= row["n_tokens"] <= cap:
            die(f"{path} line {number}: {row['n_tokens']} tokens, not 1 to {cap}, the cap in eval.json")
        if row["sample"] in problems.setdefault(row["id"], {}):
            die(f"{path} line {number}: sample {row['sample']} of problem {row['id']} is there twice")
        problems[row["id"]][row["sample"]] = row
    if not problems:
        die(f"{path} holds no rollouts")
    counts = Counter(map(len, problems.values()))
    if len(counts) > 1:
        few, most = min(problems, key=lambda i: len(problems[i])), max(counts)
        die(f"{path}: problem {few} has {len(problems[few])} samples, another {most}; all need the same number")
    return arrange(folder, info, [[group[s] for s in sorted(group)] for group in problems.values()])


def arrange(folder: str, info: dict, groups: list[list[dict]]) -> Run:
    """A Run from its rows by problem."""
    right = np.array([[row["correct"] and row["finished"] for row in group] for group in groups])
    tokens = np.array([[row["n_tokens"] for row in group] for group in groups])
    ids = [group[0]["id"] for group in groups]
    return Run(folder, info, [row for group in groups for row in group], ids, right, tokens)


def pair(a: Run, b: Run) -> Run:
    """B with its problems in A's order; exits with status 2 where the two cannot be compared."""
    if a.info["cap"] != b.info["cap"]:
        die(f"{a.folder} was measured with cap {a.info['cap']}, {b.folder} with {b.info['cap']}: measure both with one")
    groups = dict(zip(b.ids, b.groups))
    for i, (mine, *_) in zip(a.ids, a.groups):
        if i not in groups or any(mine[key] != groups[i][0][key] for key in ("problem", "gold")):
            die(f"{b.folder}/rollouts.jsonl: problem {i} of {a.folder} is {'another' if i in groups else 'not'} there")
    if len(groups) > len(a.ids):
        die(f"{a.folder}/rollouts.jsonl lacks problem {next(i for i in b.ids if i not in a.ids)} of {b.folder}")
    return arrange(b.folder, b.info, [groups[i] for i in a.ids])


def notes(runs: list[Run]) -> list[str]:
    """What a reader of the tables must know about the measurements."""
    lines = []
    for run in runs:
        if len(run.ids) == 1:
            lines.append(f"{run.folder}: one problem only, so no error bar and no interval.")
        if run.samples == 1:
            lines.append(f"{run.folder}: one sample a problem, so no pass@k and no vote; +- is between problems.")
        if not run.right.any():
            lines.append(f"{run.folder}: no right answer at all.")
    for key in ("data", "model", "temperature", "top_p", "prompt_cap", "samples", "seed", "instruction"):
        values = [run.info.get(key) for run in runs]
        if any(value != values[0] for value in values):
            lines.append(f"They differ in {key}: {', '.join(map(str, values))}.")
    return lines
