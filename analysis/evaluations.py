"""Reading evaluations back: one folder that eval.py wrote, or two of the same problems. No torch."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.stats import point
from engine.files import die, read_json, read_jsonl


class Evaluation(NamedTuple):
    """One evaluation folder: P problems with S samples each; row p * S + s of `rows` is sample s of problem p."""

    folder: str
    info: dict
    """eval.json."""
    rows: list[dict]
    """rollouts.jsonl."""
    ids: list[str]
    right: np.ndarray
    """(P, S) bool: the strict verdict, right and ended within the cap."""
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

    def figures(self, cap: float = math.inf) -> dict:
        """pass@1, mean tokens and their standard errors, had every response been cut at `cap` tokens (cut = wrong)."""
        right, tokens = point(self.right & (self.tokens <= cap)), point(np.minimum(self.tokens, cap))
        return {"pass@1": right["value"], "pass@1_se": right["se"]} | {
            "mean_tokens": tokens["value"], "mean_tokens_se": tokens["se"]}


ROLLOUT = {"id": str, "sample": int, "problem": str, "gold": str, "prompt": str, "response": str, "n_tokens": int}
ROLLOUT |= {"finished": bool, "correct": bool, "answer": str | None}


def check(where: str, record, kinds: dict) -> None:
    """Exits with one line unless the record is a JSON object that has each of these keys with its kind of value."""
    for key, kind in kinds.items():
        if not isinstance(record, dict) or key not in record:
            die(f"{where} has no {key}")
        value = record[key]
        # To Python true is a whole number, and to its JSON reader NaN is a number.
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits or isinstance(value, float) and not math.isfinite(value):
            die(f"{where}: {key} is {json.dumps(value):.60}, not {getattr(kind, '__name__', kind)}")


def load_evaluation(folder: str) -> Evaluation:
    """Reads eval.json and rollouts.jsonl; exits with status 2, naming file and row, for anything amiss."""
    path, rollouts = Path(folder, "eval.json"), Path(folder, "rollouts.jsonl")
    if not path.is_file():
        die(f"{path} is missing (python eval.py --out_dir {folder} writes it)")
    info = read_json(path)
    check(str(path), info, {"cap": int, "model": str})
    problems: dict[str, dict[int, dict]] = {}
    for number, row in enumerate(read_jsonl(rollouts), start=1):
        where = f"{rollouts} line {number}"
        check(where, row, ROLLOUT)
        if not 1 <= row["n_tokens"] <= info["cap"]:
            die(f"{where}: {row['n_tokens']} tokens, not 1 to {info['cap']}, the cap in eval.json")
        if row["sample"] in problems.setdefault(row["id"], {}):
            die(f"{where}: sample {row['sample']} of problem {row['id']} is there twice")
        problems[row["id"]][row["sample"]] = row
    if not problems:
        die(f"{rollouts} holds no rollouts")
    counts = Counter(map(len, problems.values()))
    if len(counts) > 1:
        few, most = min(problems, key=lambda i: len(problems[i])), max(counts)
        die(f"{rollouts}: problem {few} has {len(problems[few])} samples, another {most}; all need the same number")
    return arrange(folder, info, [[group[s] for s in sorted(group)] for group in problems.values()])


def arrange(folder: str, info: dict, groups: list[list[dict]]) -> Evaluation:
    """An Evaluation from its rows by problem."""
    right = np.array([[row["correct"] for row in group] for group in groups])
    tokens = np.array([[row["n_tokens"] for row in group] for group in groups])
    ids = [group[0]["id"] for group in groups]
    return Evaluation(folder, info, [row for group in groups for row in group], ids, right, tokens)


def pair(a: Evaluation, b: Evaluation) -> Evaluation:
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


def load_sides(folders: list[str]) -> list[Evaluation]:
    """The evaluations in these folders, all with the problems of the first, in its order."""
    first, *rest = map(load_evaluation, folders)
    return [first, *(pair(first, other) for other in rest)]


def notes(sides: list[Evaluation]) -> list[str]:
    """What a reader of the tables must know about the measurements."""
    lines = []
    for side in sides:
        if len(side.ids) == 1:
            lines.append(f"{side.folder}: one problem only, so no error bar and no interval.")
        if side.samples == 1:
            lines.append(f"{side.folder}: one sample a problem, so no pass@k and no vote; +- is between problems.")
        if not side.right.any():
            lines.append(f"{side.folder}: no right answer at all.")
    measured = ("data", "model", "temperature", "top_p", "prompt_cap", "n_samples", "seed")
    for key in (*measured, "instruction", "system", "template_options"):
        values = [side.info.get(key) for side in sides]
        if any(value != values[0] for value in values):
            lines.append(f"They differ in {key}: {', '.join(map(str, values))}.")
    return lines
