"""Runs that begin from one another, in a table and a picture: what each adds to its start, mean over the seeds.

    bash dev/reasoning.sh                               # makes out/reasoning/EXPERIMENT and calls this for each
    python -m analysis.reasoning out/reasoning/pipeline        # reasoning.md, reasoning.json, reasoning.png into it

The folder holds seed0/METHOD/POINT/test and so on, as for analysis.methods. A run begins from the one that made its
--init_adapter, or else from base/base; what was only measured begins nowhere.

- format: answers that ended in time, with a box after </think>.
- reflection: words of reflection an answer, by default those of analysis.words.
- sampled: tokens sampled by the run, for its data (sft.py) and by those that it began from, in thousands.

+- is one standard error over seeds and problems together, differences are paired by problem (`stats.two_way`).
"""

import json
import re
import sys
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from analysis.command import help_or, split_folders
from analysis.methods import COLOURS, MARKERS, Point, config_of, read_points, read_steps
from analysis.plot import Figure, save, smooth, style, tokens_axis
from analysis.stats import two_way
from analysis.tables import gap, num, table
from analysis.words import Config as Words
from analysis.words import phrase_pattern
from engine.files import one_line, parse, write_text


@dataclass
class Config:
    """Options of analysis.reasoning."""

    reflection: list[str] = field(default_factory=lambda: Words().reflection)
    """Words and phrases of reflection."""


def title(point: Point) -> str:
    return f"{point.method}/{point.name}"


def start_of(point: Point) -> str:
    """METHOD/POINT of the run that this one began from; empty for what was only measured."""
    cfg = config_of(Path(point.sides[0].folder).parent)
    if not cfg:
        return ""
    adapter = cfg.get("init_adapter")
    return "/".join(Path(adapter).parts[-3:-1]) if adapter else "base/base"


def by_problem(point: Point, words: re.Pattern) -> dict[str, np.ndarray]:
    """(R, P) means of each seed and problem, by the names of the columns."""
    found = {"tokens": point.tokens, "pass@1": point.right}
    for name, value in (
        ("format", lambda row: row["finished"] and row["answer"] is not None),
        ("reflection", lambda row: len(words.findall(row["response"]))),
    ):
        found[name] = np.array([[np.mean([value(row) for row in group]) for group in s.groups] for s in point.sides])
    return found


def curve_of(point: Point) -> dict[str, list[float]]:
    """Share right and length at each step of a run of train_prune.py, by the tokens sampled; mean over its seeds."""
    runs = []
    for side in point.sides:
        rows = read_steps(Path(side.folder).parent)
        if not rows:
            return {}
        sampled, length, correct = ([row[x] for row in rows] for x in ("sampled", "length", "correct"))
        runs.append([[*accumulate(sampled)], length, correct])
    steps = min(len(run[0]) for run in runs)
    mean = np.mean([[values[:steps] for values in run] for run in runs], 0)
    return dict(zip(("sampled", "length", "correct"), mean.tolist()))


def analyse(points: list[Point], cfg: Config) -> list[dict]:
    """A row for each point, the base first."""
    words, rows = phrase_pattern(*cfg.reflection), []
    values = {title(point): by_problem(point, words) for point in points}
    for point in sorted(points, key=lambda point: point.method != "base"):
        own, start = values[title(point)], start_of(point)
        row = {"run": title(point), "start": start, "seeds": len(point.sides), "sampled": float(np.mean(point.sampled))}
        row |= {name: two_way(array) for name, array in own.items()}
        if start in values:
            row["adds"] = {name: two_way(own[name] - values[start][name]) for name in ("tokens", "pass@1")}
        rows.append(row | {"curve": curve_of(point)})
    return rows


def show(rows: list[dict]) -> list[str]:
    """The rows as Markdown."""
    head = ["run", "begins from", "seeds", "tokens", "- its start's [95 %]", "pass@1, %", "- its start's [95 %]",
            "format, %", "reflection", "sampled, thousands"]  # fmt: skip
    cells = []
    for row in rows:
        added = row.get("adds", {})
        cells.append([row["run"], row["start"] if added else "", row["seeds"]])
        for name, digits, scale in (("tokens", 1, 1), ("pass@1", 1, 100), ("format", 1, 100), ("reflection", 2, 1)):
            cells[-1].append(num(row[name]["value"], digits, scale, row[name]["se"]))
            if name in ("tokens", "pass@1"):
                cells[-1].append(gap(added[name], digits, scale, False) if added else "")
        cells[-1].append(num(row["sampled"], 0, 1e-3))
    return table(head, cells)


def draw(rows: list[dict], name: str) -> Figure:
    """Each run as an arrow from its start, and beside it the training of those that sample."""
    fig = Figure(figsize=(13, 4.6))
    plane, right, length = fig.subplots(1, 3)
    places = {row["run"]: (row["tokens"]["value"], 100 * row["pass@1"]["value"]) for row in rows}
    for i, row in enumerate(rows):
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "mfc": "none"}
        x, y = places[row["run"]]
        errors = [scale * (row[key]["se"] or 0) for key, scale in (("pass@1", 100), ("tokens", 1))]
        plane.errorbar(x, y, *errors, ls="", capsize=2, ms=7, elinewidth=1, label=row["run"], **look)
        if row["start"] in places and places[row["start"]] != (x, y):
            arrow = {"arrowstyle": "->", "color": look["color"], "lw": 0.9, "shrinkA": 5, "shrinkB": 5}
            plane.annotate("", (x, y), places[row["start"]], arrowprops=arrow)
        if curve := row["curve"]:
            sampled, step = np.array(curve["sampled"]) / 1000, max(1, len(curve["sampled"]) // 8)
            right.plot(sampled, 100 * smooth(curve["correct"], 5), ms=5, markevery=step, **look)
            length.plot(sampled, smooth(curve["length"], 5), ms=5, markevery=step, **look)
    plane.set(xlabel="tokens an answer, test", ylabel="pass@1, test (%)", title="each run, and where it begins")
    right.set(xlabel="thousand tokens sampled", ylabel="right rollouts (%)", title="training, mean of 5 steps")
    length.set(xlabel="thousand tokens sampled", ylabel="tokens a rollout", title="training, mean of 5 steps")
    for axis in (plane.xaxis, right.xaxis, length.xaxis):
        tokens_axis(axis)
    seeds = max(row["seeds"] for row in rows)
    fig.suptitle(f"{name}: mean over {seeds} seed{'s' * (seeds > 1)}, bars: one standard error")
    fig.legend(*plane.get_legend_handles_labels(), loc="outside right center", fontsize=9.5)
    return fig


def main(arguments: list[str]) -> None:
    arguments = help_or(arguments, __doc__, Config)
    with one_line():
        (folder,), options = split_folders("reasoning", arguments, 1, 1)
        root, cfg = Path(folder), parse(Config, options)
        rows = analyse(read_points(root), cfg)
        lines = show(rows)
        write_text(root / "reasoning.json", json.dumps(rows, indent=1) + "\n")
        write_text(root / "reasoning.md", "\n".join(lines))
        with style():
            save(draw(rows, root.resolve().name), root / "reasoning.png")
        print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
