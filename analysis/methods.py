"""Methods side by side: tokens against pass@1, a line a method over its points (caps, weights), mean over the seeds.

    bash dev/methods.sh                                    # makes out/methods and calls this
    python -m analysis.methods out/methods --by depth      # methods.md, methods.json and methods.png into that folder

The folder holds seed0/METHOD/POINT/test, seed1/METHOD/POINT/test and so on. `test` is what eval.py wrote. POINT is what
train_prune.py or sft.py wrote, or nothing but `test`. seed0/base/base/test is the model that all began with. A file
seed0/METHOD/budget_forcing.json (of analysis.budget) adds the points of budget forcing.

+- is one standard error over seeds and problems together, differences are paired by problem (`stats.two_way`).
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from analysis.command import help_or, split_folders
from analysis.evaluations import Evaluation, arrange, load_evaluation, pair
from analysis.plot import BLUE, GREEN, GREY, INK, RED, Figure, fill, save, style, tokens_axis
from analysis.stats import efficiency, two_way
from analysis.tables import gap, num, table
from engine.files import die, one_line, parse, read_json, read_jsonl, write_text

COLOURS = (BLUE, RED, GREEN, "#E69F00", "#CC79A7", "#56B4E9", INK, GREY)
MARKERS = "osD^vP*XhpdH<>8"


@dataclass
class Config:
    """Options of analysis.methods."""

    against: str = "rounds"
    """Method that every other is compared with, at equal tokens (on the straight line between its points)."""
    by: str = ""
    """Column of the problem file to show tokens and pass@1 by, as `depth`."""


class Point(NamedTuple):
    """One method at one cap or weight, with its seeds."""

    method: str
    name: str
    sides: list[Evaluation]
    """One for each seed, their problems in one order."""
    sampled: list[int]
    """Tokens sampled to train it, those of the runs before it included, for each seed."""

    @property
    def right(self) -> np.ndarray:
        """(R, P) pass@1 of each seed and problem."""
        return np.array([side.right.mean(1) for side in self.sides])

    @property
    def tokens(self) -> np.ndarray:
        """(R, P) mean tokens of each seed and problem."""
        return np.array([side.tokens.mean(1) for side in self.sides])


# ---------------------------------------------------------------------------------------- reading


def config_of(folder: Path) -> dict:
    """The options that a run was made with; none of what was only measured."""
    path = folder / "config.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_steps(folder: Path) -> list[dict[str, float]]:
    """Of each step of a run of train_prune.py: tokens `sampled`, mean `length`, share `correct`; none of other runs."""
    cfg = config_of(folder)
    if "group" not in cfg or not (folder / "log.csv").is_file():
        return []
    rollouts, steps = cfg["problems_per_step"] * cfg["group"], []
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            length, correct = float(row["length"]), float(row.get("correct") or "nan")
            sampled = length * float(row.get("batches") or 1) * rollouts
            steps.append({"sampled": sampled, "length": length, "correct": correct})
    return steps


def sampled_tokens(folder: Path) -> int:
    """Tokens that were sampled to make a run: its steps, its teacher's answers, measured caps, the run it began from."""
    folder = folder.resolve()  # a point may be a link to a round of a schedule, whose first_cap.json lies beside it
    cfg = config_of(folder)
    if not cfg:
        return 0
    total = sum(row["sampled"] for row in read_steps(folder))
    for source in filter(None, str(cfg.get("data") or "").split(",")):  # of sft.py
        total += sum(row.get("n_tokens", 0) for row in read_jsonl(Path(source.strip())))
    before = Path(cfg.get("init_adapter") or "")
    measured = [folder / "selection.json", *([] if before.name else [folder.parent / "first_cap.json"])]
    for path in filter(Path.is_file, measured):  # caps: auto
        found = read_json(path)
        total += found.get("next_cap", found).get("tokens", 0)
    return round(total) + (sampled_tokens(before.parent) if before.name else 0)


def read_points(root: Path) -> list[Point]:
    """All points, methods in the order of their first seed's names; exits with 2 where problems or seeds differ."""
    found: dict[tuple[str, str], list[tuple[Path, Evaluation]]] = {}
    for path in sorted(root.glob("seed*/*/*/test/eval.json")):
        folder = path.parent.parent
        found.setdefault((folder.parent.name, folder.name), []).append((folder, load_evaluation(str(path.parent))))
    if ("base", "base") not in found:
        die(f"{root}: no seed*/base/base/test/eval.json")
    for path in sorted(root.glob("seed*/*/budget_forcing.json")):
        base = load_evaluation(str(path.parent.parent / "base" / "base" / "test"))
        for budget, side in forced_sides(base, read_json(path)).items():
            found.setdefault((path.parent.name, str(budget)), []).append((path.parent, side))
    seeds = {name: [folder.relative_to(root).parts[0] for folder, _ in runs] for name, runs in found.items()}
    for name, own in seeds.items():
        if own != seeds["base", "base"]:
            die(f"{root}: {'/'.join(name)} has {', '.join(own)}, and the base {', '.join(seeds['base', 'base'])}: "
                "differences are between runs of one seed, so run the same ones for all")  # fmt: skip
    first = found["base", "base"][0][1]
    return [
        Point(method, name, [pair(first, side) for _, side in runs], [sampled_tokens(folder) for folder, _ in runs])
        for (method, name), runs in found.items()
    ]


def forced_sides(base: Evaluation, forcing: dict) -> dict[int, Evaluation]:
    """The base as it would be at each budget of analysis.budget."""
    answers: dict[int, dict[tuple, dict]] = {row["budget"]: {} for row in forcing["rows"]}
    for answer in forcing["forced"]:
        answers[answer["budget"]][answer["id"], answer["sample"]] = answer
    return {
        budget: arrange(base.folder, base.info, base._replace(
            rows=[row | {"finished": True} | theirs.get((row["id"], row["sample"]), row) for row in base.rows]).groups)
        for budget, theirs in answers.items()
    }  # fmt: skip


def groups_of(side: Evaluation, column: str) -> dict[str, np.ndarray]:
    """(P,) bool for each value of a column of the problem file, in order of the values."""
    rows = {row["id"]: row.get(column) for row in read_jsonl(Path(side.info["data"]))}
    values = [rows.get(i) for i in side.ids]
    if None in values:
        die(f"--by {column}: {side.info['data']} has no such column")
    return {str(value): np.array([v == value for v in values]) for value in sorted(set(values))}


# ---------------------------------------------------------------------------------------- comparing


def at_tokens(curve: list[Point], tokens: float) -> np.ndarray:
    """(R, P) pass@1 on the straight line between a method's neighbouring points; level beyond its ends."""
    curve = sorted(curve, key=lambda point: point.tokens.mean())
    x = [point.tokens.mean() for point in curve]
    weights = [np.interp(tokens, x, own) for own in np.eye(len(x))]
    return sum(weight * point.right for weight, point in zip(weights, curve))


def row_of(point: Point, base: Point, rival: list[Point]) -> dict:
    """The figures of one point."""
    tokens, right = two_way(point.tokens), two_way(point.right)
    means = np.array([base.right.mean(), base.tokens.mean(), right["value"], tokens["value"]])
    row = {"method": point.method, "point": point.name, "seeds": len(point.sides), "tokens": tokens, "pass@1": right}
    row |= {"aes": float(efficiency(means)), "sampled": float(np.mean(point.sampled))}
    row["to_base"] = two_way(point.right - base.right)
    if rival and point.method != rival[0].method:
        row["to_rival"] = two_way(point.right - at_tokens(rival, tokens["value"]))
        reach = [float(other.tokens.mean()) for other in rival]
        row["beyond"] = not min(reach) <= tokens["value"] <= max(reach)
    return row


def analyse(points: list[Point], cfg: Config) -> dict:
    base = next(point for point in points if point.method == "base")
    rival = [point for point in points if point.method == cfg.against]
    result = {"against": cfg.against if rival else "", "rows": [row_of(point, base, rival) for point in points]}
    if cfg.by:
        kinds = groups_of(base.sides[0], cfg.by)
        sizes = {name: int(keep.sum()) for name, keep in kinds.items()}
        result["by"] = {"column": cfg.by, "problems": sizes, "rows": []}
        for point in points:
            cells = {name: {"tokens": two_way(point.tokens[:, keep]), "pass@1": two_way(point.right[:, keep])}
                     for name, keep in kinds.items()}  # fmt: skip
            result["by"]["rows"].append({"method": point.method, "point": point.name, "cells": cells})
    return result


# ---------------------------------------------------------------------------------------- showing


def show(result: dict) -> list[str]:
    """The result as Markdown."""
    head = ["method", "point", "seeds", "tokens", "pass@1, %", "AES", "sampled, thousands", "pass@1 - base [95 %]"]
    head += [f"pass@1 - {result['against']} at equal tokens [95 %]"] if result["against"] else []
    rows = []
    for r in result["rows"]:
        cells = [r["method"], r["point"], r["seeds"], num(r["tokens"]["value"], 1, 1, r["tokens"]["se"])]
        cells += [num(r["pass@1"]["value"], 1, 100, r["pass@1"]["se"]), num(r["aes"], 2), num(r["sampled"], 0, 1e-3)]
        cells += [gap(r["to_base"], 1, 100)]
        if result["against"]:
            cells += [gap(r["to_rival"], 1, 100) + " (beyond its points)" * r["beyond"] if "to_rival" in r else ""]
        rows.append(cells)
    lines = table(head, rows)
    if by := result.get("by"):
        names = list(by["problems"])
        for what, digits, scale in (("tokens", 0, 1), ("pass@1", 0, 100)):
            sizes = ", ".join(f"{name}: {n}" for name, n in by["problems"].items())
            lines += [f"{what} by {by['column']} ({sizes} problems)", ""]
            cells = []
            for r in by["rows"]:
                found = [r["cells"][name][what] for name in names]
                cells.append([r["method"], r["point"], *(num(x["value"], digits, scale, x["se"]) for x in found)])
            lines += table(["method", "point", *names], cells)
    return lines


def draw(result: dict, name: str) -> Figure:
    """Tokens against pass@1, a line a method."""
    fig = Figure(figsize=(8, 5.6))
    ax = fig.subplots()
    methods = list(dict.fromkeys(r["method"] for r in result["rows"]))
    for i, method in enumerate(methods):
        rows = sorted((r for r in result["rows"] if r["method"] == method), key=lambda r: r["tokens"]["value"])
        x, y = ([r[key]["value"] * scale for r in rows] for key, scale in (("tokens", 1), ("pass@1", 100)))
        dx, dy = ([(r[key]["se"] or 0) * scale for r in rows] for key, scale in (("tokens", 1), ("pass@1", 100)))
        marker, colour = MARKERS[i % len(MARKERS)], COLOURS[i % len(COLOURS)]
        ax.errorbar(x, y, dy, dx, fmt=f"{marker}-", color=colour, ms=6.5, mfc="none", mew=1.5, lw=1.2, capsize=2.5,
                    elinewidth=1, label=method)
    ax.set(xlabel="mean response length (tokens)", ylabel="pass@1 (%)")
    ax.set_xlim(left=0)
    # Budget forcing falls so low that it would press all others together: it leaves the picture at the bottom.
    right = [100 * r["pass@1"]["value"] for r in result["rows"]]
    base = next(100 * r["pass@1"]["value"] for r in result["rows"] if r["method"] == "base")
    ax.set_ylim(bottom=min(value for value in right if value > base - 25) - 2)
    tokens_axis(ax.xaxis)
    seeds = max(r["seeds"] for r in result["rows"])
    ax.set_title(fill(f"{name}: mean over {seeds} seeds, bars: one standard error", 76))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.5)
    return fig


def main(arguments: list[str]) -> None:
    arguments = help_or(arguments, __doc__, Config)
    with one_line():
        (folder,), options = split_folders("methods", arguments, 1, 1)
        root, cfg = Path(folder), parse(Config, options)
        result = analyse(read_points(root), cfg)
        lines = show(result)
        write_text(root / "methods.json", json.dumps(result, indent=1) + "\n")
        write_text(root / "methods.md", "\n".join(lines))
        with style():
            save(draw(result, root.resolve().name), root / "methods.png")
        print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
