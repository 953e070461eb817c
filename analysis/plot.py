"""Pictures of a run, drawn from files alone: no model, no GPU, no display, no network.

    python -m analysis.plot run out/toy             # PNG files into a run folder, over those that are there
    python -m analysis.plot rounds out/mine/cap300 out/mine/cap200     # training.png of your own rounds, into the last

The same files give the same bytes on the same matplotlib. Colours are Okabe and Ito's, told apart by
colour-blind eyes; marker, line style or place always says the same thing a second time.
"""

import contextlib
import csv
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

# Before the import: matplotlib refuses to load under an unknown backend, and nothing here needs a display.
os.environ["MPLBACKEND"] = "Agg"
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import yaml  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.text import Text  # noqa: E402
from matplotlib.transforms import Bbox, ScaledTranslation  # noqa: E402

from analysis.evaluations import Evaluation, check, load_sides  # noqa: E402
from engine.files import die, first_line, one_line, read_json  # noqa: E402

PICTURES = ["length_accuracy.png", "training.png", "lengths.png", "budget.png", "votes.png", "words.png"]  # in this order in reports
BLUE, RED, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8C8C8C", "#222222"
BEFORE, AFTER = {"color": BLUE, "linestyle": "-"}, {"color": RED, "linestyle": "--"}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 11.5, "axes.titlesize": 12.5, "axes.titlelocation": "left",
    "axes.edgecolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.7, "lines.linewidth": 1.8,
    "legend.frameon": False, "figure.constrained_layout.use": True, "savefig.dpi": 200,
    "text.parse_math": False,  # a `$` in a folder's name or in a word is a dollar sign
}
NUMBER, MAYBE = int | float, int | float | None
POINT = {"pass@1": NUMBER, "pass@1_se": MAYBE, "mean_tokens": NUMBER, "mean_tokens_se": MAYBE}


def smooth(values, width: int) -> np.ndarray:
    """Centred running mean (T,) over at most `width` values, fewer at the ends so that these do not sag.

    >>> smooth([0, 3, 6, 0], 3).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    values = np.asarray(values, dtype=float)
    half = (width - 1) // 2
    return np.array([values[max(0, t - half) : t + half + 1].mean() for t in range(len(values))])


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a round's log.csv as floats (T,), nan where validation left a field empty."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        die(f"{path} cannot be read ({first_line(error)})")
    columns = {name: [] for name in ("reward", "length", "over_cap", "val_tokens")}
    for number, row in enumerate(rows or die(f"{path} has no steps"), start=2):
        for name, values in columns.items():
            if name not in row:
                die(f"{path}: no column {name!r}")
            try:
                values.append(float(row[name] or ("nan" if name == "val_tokens" else "")))
            except (TypeError, ValueError):
                die(f"{path}, line {number}: {name} is {row[name]!r}, not a number")
    return {name: np.array(values) for name, values in columns.items()}


# ---------------------------------------------------------------------------------------- pictures


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draws as STYLE says, whatever a matplotlibrc on this machine does."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def tokens_axis(axis) -> None:
    """Few ticks and 10,000 for ten thousand: long numbers must not run into each other."""
    axis.get_major_locator().set_params(nbins=6)
    axis.set_major_formatter("{x:,.0f}")


def head(ax, title: str, up: float = 0) -> None:
    """Title and below it the legend in one row, `up` points above the axes: it covers nothing that is drawn."""
    ax.set_title(fill(title, 76), pad=32 + up)  # a long run's name must not push the rest out of the picture
    place = ax.transAxes + ScaledTranslation(0, (4 + up) / 72, ax.figure.dpi_scale_trans)
    legend = ax.legend(loc="lower left", bbox_to_anchor=(0, 1), bbox_transform=place, ncols=4, borderaxespad=0,
                       borderpad=0.2, handlelength=2.4, columnspacing=1.6)
    legend.set_in_layout(False)  # or one wider than its axes would squeeze them


def place_labels(ax, labels: list[tuple[float, float, str, str]], segments: list) -> None:
    """Writes each (x, y, text, colour) beside its point, where it hides no other text and least of the lines.

    Args:
        segments: (S, 2, 2) ends of the lines and error bars that should stay in sight.
    """
    ax.figure.draw_without_rendering()  # settles the layout, from which pixels follow
    frame, taken, pixels = ax.get_window_extent(), [], ax.figure.dpi / 72
    start, end = np.moveaxis(ax.transData.transform(np.reshape(segments, (-1, 2))).reshape(-1, 2, 2), 1, 0)  # (S, 2)
    busy = (start + (end - start) * np.linspace(0, 1, 400)[:, None, None]).reshape(-1, 2)
    angles = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    for x, y, text, colour in labels:
        note = ax.annotate(text, (x, y), (0, 0), textcoords="offset points", color=colour, ha="center", va="center",
                           path_effects=[withStroke(linewidth=3, foreground="white")],
                           arrowprops={"arrowstyle": "-", "lw": 0.7, "color": colour, "shrinkB": 5})
        size, point = np.array(Text.get_window_extent(note).size), ax.transData.transform((x, y))
        options = []
        for reach in (12, 20, 30, 45, 65):
            for shift in (reach * pixels + size / 2) * np.stack([np.cos(angles), np.sin(angles)], axis=1):
                box = Bbox.from_bounds(*(point + shift - size / 2), *size).padded(2)
                outside = not (frame.contains(*box.min) and frame.contains(*box.max))
                cost = reach + 2 * box.count_contains(busy) + 1000 * (outside + box.count_overlaps(taken))
                cost += 4 * abs(shift[1]) / math.hypot(*shift)  # else beside its point, where it is read first
                options.append((cost, len(options), reach, shift, box))
        _, _, reach, shift, box = min(options)
        note.xyann = shift / pixels
        note.arrow_patch.set_visible(reach > 20)  # a label that is near needs no leader
        taken.append(box)


def draw_length_accuracy(reference: dict, summary: dict, name: str) -> Figure:
    """Mean tokens against pass@1: base and selected checkpoints on validation, and beside it base and final on test."""
    # A round of which no checkpoint qualified has no figures: the checkpoint before it stands.
    rounds = [("base", reference)] + [(f"cap {r['cap']}", r) for r in summary["rounds"] if "pass@1" in r]
    kept = ", ".join(f"cap {r['cap']}" for r in summary["rounds"] if "pass@1" not in r)
    base, final = summary["base"], summary["final"]
    tests = [("base", base), ("final", final)]
    fig = Figure(figsize=(8, 4.8))
    axes = fig.subplots(1, 2, sharex=True, sharey=True)
    axes[0].set(title="validation, round by round", ylabel="pass@1 (%)")
    axes[1].set(title="test, before and after")
    share = f"{100 * final['mean_tokens'] / base['mean_tokens']:.0f} % of the tokens"
    change = f"pass@1 {100 * base['pass@1']:.1f} → {100 * final['pass@1']:.1f} %"
    fig.suptitle(fill(f"{name}: {share}, {change} (test problems)", 76), x=0.02, ha="left", fontsize=12.5)
    lone = any(p["pass@1_se"] is None for _, p in rounds + tests)
    note = "no error bars where there is one problem only" if lone else "bars: one standard error, clustered by problem"
    note += f"; start kept in round {kept}" if kept else ""
    fig.supxlabel(f"mean response length (tokens)\n{note}", fontsize=11.5)
    paths = (axes[0], rounds, "o", BEFORE), (axes[1], tests, "s", AFTER)
    lines = [draw_path(*path) for path in paths]
    axes[0].margins(0.14, 0.15)
    axes[0].set_xlim(left=0)
    axes[0].set_ylim(max(axes[0].get_ylim()[0], -2), min(axes[0].get_ylim()[1], 102))
    for (ax, points, _, look), segments in zip(paths, lines):  # only now: labels need the final limits
        tokens_axis(ax.xaxis)
        place_labels(ax, [(p["mean_tokens"], 100 * p["pass@1"], text, look["color"]) for text, p in points], segments)
    return fig


def draw_path(ax, points: list[tuple[str, dict]], marker: str, look: dict) -> list:
    """Points with their error bars and arrows from each to the next; returns (S, 2, 2), the ends of all those lines.

    The markers are hollow, so that none hides another.
    """
    xy = np.array([(p["mean_tokens"], 100 * p["pass@1"]) for _, p in points])                          # (n, 2)
    error = np.array([(p["mean_tokens_se"] or 0, 100 * (p["pass@1_se"] or 0)) for _, p in points])  # (n, 2)
    ax.errorbar(*xy.T, error[:, 1], error[:, 0], fmt=marker, ms=7.5, capsize=3, elinewidth=1.2, color=look["color"],
                mfc="none", mew=1.8, zorder=3)
    for before, after in zip(xy, xy[1:]):
        ax.annotate("", after, before, zorder=2,
                    arrowprops={"arrowstyle": "-|>", "shrinkA": 7, "shrinkB": 7, "lw": 1.4, **look})
    bars = [(p - e * axis, p + e * axis) for p, e in zip(xy, error) for axis in np.eye(2)]
    return [*zip(xy, xy[1:]), *bars]


def draw_training(rounds: list[tuple[int, dict[str, np.ndarray]]], name: str) -> Figure:
    """Reward, length and finished share over the steps of all rounds; in a long run also their running mean."""
    fig = Figure(figsize=(8, 7))
    axes = fig.subplots(3, 1, sharex=True, height_ratios=(1, 1.3, 1))
    first, total = 0, sum(len(log["reward"]) for _, log in rounds)
    width = max(1, total // 25) | 1
    for cap, log in rounds:
        n = len(log["reward"])
        step, last = np.arange(first + 1, first + n + 1), first + n
        for ax, values in zip(axes, (log["reward"], log["length"], 100 * (1 - log["over_cap"]))):
            if width > 1:
                ax.plot(step, values, color=BLUE, lw=0.8, alpha=0.35)
            ax.plot(step, smooth(values, width), color=BLUE, marker="o" if width == 1 else "", ms=4,
                    label="training rollouts" if ax is axes[0] and not first else None)
            if first:
                ax.axvline(first + 0.5, color=GREY, lw=1, linestyle=":")
        axes[1].hlines(cap, first + 0.5, last + 0.5, color=INK, linestyle="--", lw=1.2)
        axes[1].plot(step, log["val_tokens"], "D", color=RED, mfc="white", mew=1.5, ms=6, zorder=3)
        axes[0].annotate(f"cap {cap}" if len(rounds) < 7 else cap, ((first + last + 1) / 2, 1), (0, 4), va="bottom",
                         ha="center", xycoords=axes[0].get_xaxis_transform(), textcoords="offset points")
        first = last
    axes[0].plot([], [], color=INK, linestyle="--", lw=1.2, label="cap")
    axes[0].plot([], [], "D", color=RED, mfc="white", mew=1.5, ms=6, label="validation")
    start, end = rounds[0][1]["length"][0], rounds[-1][1]["length"][-1]
    where = " over all rounds" if len(rounds) > 1 else ""
    head(axes[0], f"{name}: training, mean length {start:,.0f} → {end:,.0f} tokens{where}", up=18)
    axes[0].set(ylabel="mean reward", xlim=(0.5, total + 0.5), ylim=(min(0, axes[0].get_ylim()[0]), None))
    axes[1].set(ylabel="mean length (tokens)", ylim=(0, 1.04 * axes[1].get_ylim()[1]))
    axes[2].set(ylabel="ended in time (%)", ylim=(-4, 104))
    axes[2].set(xlabel=f"step (strong line: mean of {width} steps)" if width > 1 else "step")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    tokens_axis(axes[1].yaxis)
    fig.align_ylabels()
    return fig


def draw_lengths(before: Evaluation, after: Evaluation, name: str) -> Figure:
    """Histograms of response length, base over final, on one scale: right, wrong and cut-off stacked."""
    fig = Figure(figsize=(8, 5.4))
    axes, means = fig.subplots(2, 1, sharex=True, sharey=True), []
    width = math.ceil((max(before.tokens.max(), after.tokens.max()) + 1) / 48)
    kinds = ("right", GREEN, ""), ("wrong", RED, "////"), ("cut off at the cap", GREY, "....")
    for ax, name_of_side, side in zip(axes, ("base", "final"), (before, after)):
        ended = np.reshape([row["finished"] for row in side.rows], side.tokens.shape)
        tokens = [side.tokens[keep] for keep in (side.right, ended & ~side.right, ~ended)]
        weights = [[100 / len(side.rows)] * len(part) for part in tokens]
        ax.hist(tokens, np.arange(50) * width, weights=weights, stacked=True, lw=0.4, edgecolor="white",
                color=[c for _, c, _ in kinds], hatch=[h for *_, h in kinds], label=[text for text, *_ in kinds])
        mean = side.tokens.mean()
        means.append(f"{mean:,.0f}")
        ax.axvline(mean, color=INK, lw=1.2, linestyle="--")
        ax.annotate(f"mean {mean:,.0f}", (mean, 1), (5, -2), va="top",
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points")
        ax.set(ylabel=f"{name_of_side}: responses (%)")
    axes[1].set(xlabel=f"response length (tokens, bins of {width:,})", xlim=(0, 49 * width))
    axes[1].margins(y=0.12)
    tokens_axis(axes[1].xaxis)
    head(axes[0], f"{name}: mean response length {' → '.join(means)} tokens (test problems)")
    return fig


def draw_budget(before: Evaluation, after: Evaluation, forcing: list[dict], name: str, gap: dict | None = None):
    """pass@1 had each test response been cut at a budget, against that budget and against the tokens then spent.

    Args:
        forcing: Rows of budget_forcing.json, none if it is not there. gap: its `equal_tokens`, for the title.
    """
    fig = Figure(figsize=(8, 4.8))
    axes = fig.subplots(1, 2, sharey=True)
    budgets = np.linspace(0, max(before.tokens.max(), after.tokens.max()), 321)
    for side, label, look in (before, "base, cut at budget", BEFORE), (after, "final, cut at budget", AFTER):
        curve = [side.figures(budget) for budget in budgets]
        pass1, se, spent = (np.array([x[key] for x in curve], float) for key in ("pass@1", "pass@1_se", "mean_tokens"))
        for ax, x in zip(axes, (budgets, spent)):
            ax.fill_between(x, 100 * (pass1 - se).clip(0), 100 * (pass1 + se).clip(max=1),
                            color=look["color"], alpha=0.2, lw=0)
            ax.plot(x, 100 * pass1, label=label, **look)
        # On the right the curve ends where nothing is cut: without a mark that looks as if something were missing.
        axes[1].plot(spent[-1], 100 * pass1[-1], "os"[look is AFTER], color=look["color"], mfc="none", mew=1.8, ms=12,
                     zorder=4)
        axes[1].annotate("uncut", (spent[-1], 100 * pass1[-1]), (0, 11), textcoords="offset points", ha="center",
                         color=look["color"], path_effects=[withStroke(linewidth=3, foreground="white")])
    for ax, key in zip(axes, ("budget", "mean_tokens")):
        if forcing:
            y, error = ([100 * (r[k] or 0) for r in forcing] for k in ("pass@1", "pass@1_se"))
            ax.errorbar([r[key] for r in forcing], y, error, fmt="^", color=GREEN, ms=6.5, capsize=2.5, elinewidth=1.2,
                        label="base, budget forcing")
        ax.set_xlim(left=0)
        tokens_axis(ax.xaxis)
    axes[0].set(ylabel="pass@1 (%)", ylim=(-2, 109), yticks=range(0, 101, 20), xlabel="budget (tokens per response)")
    axes[1].set(xlabel="mean tokens spent under the budget")
    lone = len(before.ids) < 2
    note = "no standard error: a single problem" if lone else "shaded, bars: one standard error, clustered by problem"
    fig.supxlabel(note, fontsize=10)
    title = f"{name}: pass@1 on the test problems under a token budget"
    if gap and None not in (gap["value"], gap["low"]):
        value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
        title = f"{name}: final minus forced base, equal tokens: {value:+.1f} points [{low:.1f}, {high:.1f}]"
    head(axes[0], title)
    return fig


def draw_votes(rows: list[dict], name: str) -> Figure:
    """Right answers against all tokens a question, and against the longest answer, for each way of using k answers."""
    fig = Figure(figsize=(8, 4.8))
    axes = fig.subplots(1, 2, sharey=True)
    ways = list(dict.fromkeys(row["way"] for row in rows))
    for ax, key in zip(axes, ("mean_tokens", "longest")):
        for side, look in ("A", BEFORE), ("B", AFTER):
            for way, marker in zip(ways, "os^Dv"):
                part = [row for row in rows if row["side"] == side and row["way"] == way]
                x, y = ([row[k] * scale for row in part] for k, scale in ((key, 1), ("pass@1", 100)))
                label = f"{'base' if side == 'A' else 'final'}, {way}"
                ax.plot(x, y, marker=marker, ms=6, mfc="none", label=label if part else None, lw=1.2, **look)
        ax.set_xlim(left=0)
        tokens_axis(ax.xaxis)
    axes[0].set(ylabel="right (%)", xlabel="tokens of all answers to a question")
    axes[1].set(xlabel="tokens of the longest answer (waiting time)")
    most = max(row["k"] for row in rows)
    fig.supxlabel(f"each line begins at one answer a question, where all meet, and goes on to 2, ... {most}", fontsize=10)
    axes[0].set_title(fill(f"{name}: several answers to one question", 76), pad=52)
    axes[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9, borderaxespad=0.3).set_in_layout(False)
    return fig


def draw_words(words: dict[str, dict[str, float]], name: str) -> Figure:
    """Reflection and working words per response, before and after, as paired bars; words that never occur are named."""
    names = [w for w in words["A"] if words["A"][w] or words["B"][w]]
    never = [w for w in words["A"] if w not in names]
    fig = Figure(figsize=(8, 1.8 + 0.5 * len(names)))
    ax = fig.subplots()
    for shift, side, label, look in (-0.2, "A", "base", BEFORE), (0.2, "B", "final", AFTER):
        bars = ax.barh(np.arange(len(names)) + shift, [words[side][w] for w in names], 0.37, color=look["color"],
                       hatch="" if side == "A" else "////", edgecolor="white", lw=0, label=label)
        ax.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=10)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    note = fill(f"never there: {', '.join(never)}", 80) if never else ""
    ax.set(xlabel=f"occurrences per response\n{note}".rstrip(), ylim=(max(1, len(names)) - 0.5, -0.5), xlim=(0, None))
    less = sum(words["B"][w] < words["A"][w] for w in names)
    title = f"{less} of {len(names)} words come less often in final than in base"
    title = title if names else "none of the listed words occurs"
    head(ax, f"{name}: {title}")
    return fig


def read_summary(folder: Path) -> dict:
    """summary.json of a run folder."""
    path = folder / "summary.json"
    summary = read_json(path)
    check(str(path), summary, {"base": dict, "rounds": list, "final": dict})
    for side in "base", "final":
        check(f"{path}, {side}", summary[side], POINT)
    for k, r in enumerate(summary["rounds"], 1):
        # A round of which no checkpoint qualified has no figures.
        check(f"{path}, round {k}", r, {"cap": int} | (POINT if isinstance(r, dict) and "pass@1" in r else {}))
    return summary if summary["rounds"] else die(f"{path} has no rounds")


def read_forcing(path: Path) -> tuple[list[dict], dict | None]:
    """(rows, margin at equal tokens) of analysis.budget; none of them if it has not been run, no margin of one side."""
    if not path.is_file():
        return [], None
    forced = read_json(path)
    check(str(path), forced, {"rows": list})
    for k, row in enumerate(forced["rows"], 1):
        check(f"{path}, row {k}", row, POINT | {"budget": NUMBER})
    if (margin := forced.get("equal_tokens")) is not None:
        check(f"{path}, equal_tokens", margin, {"value": MAYBE, "low": MAYBE, "high": MAYBE})
    return forced["rows"], margin


def read_votes(path: Path) -> list[dict]:
    """Rows of analysis.votes; none if it has not been run."""
    rows = read_json(path).get("rows", []) if path.is_file() else []
    for k, row in enumerate(rows, 1):
        check(f"{path}, row {k}", row, {"side": str, "way": str, "k": int, "longest": NUMBER} | POINT)
    return rows


def read_words(path: Path) -> dict[str, dict[str, float]] | None:
    """Words a response of A and of B by analysis.words, or None if it has not been run."""
    if not path.is_file():
        return None
    counts = read_json(path)
    check(str(path), counts, {"A": dict, "B": dict})
    for side, other in "AB", "BA":
        check(f"{path}, {side}", counts[side], dict.fromkeys(counts[other], NUMBER) or die(f"{path}: {other} is empty"))
    return counts


def run(folder: str) -> None:
    """Draws the pictures of a finished run into its folder.

    Args:
        folder: Run folder of schedule.sh; analysis/budget_forcing.json and analysis/words.json are used if there.
    """
    out = Path(folder)
    name = out.resolve().name
    reference = read_json(out / "base" / "eval.json")
    check(f"{out / 'base' / 'eval.json'}", reference, POINT)
    summary = read_summary(out)
    logs = [(r["cap"], read_log(out / f"cap{r['cap']}" / "log.csv")) for r in summary["rounds"]]
    before, after = load_sides([str(out / "base_test"), str(out / "final_test")])
    rows, margin = read_forcing(out / "analysis" / "budget_forcing.json")
    words, votes = read_words(out / "analysis" / "words.json"), read_votes(out / "analysis" / "votes.json")
    with style():
        figures = {
            "length_accuracy": draw_length_accuracy(reference, summary, name),
            "training": draw_training(logs, name),
            "lengths": draw_lengths(before, after, name),
            "budget": draw_budget(before, after, rows, name, margin),
        }
        figures |= {"votes": draw_votes(votes, name)} if votes else {}
        figures |= {"words": draw_words(words, name)} if words else {}
        for picture, figure in figures.items():
            save(figure, out / f"{picture}.png")


def rounds(folders: list[str]) -> None:
    """Draws the training of rounds that train_prune.py made without schedule.sh, in order, into the last folder."""
    out, logs = Path(folders[-1]), []
    for folder in map(Path, folders):
        try:
            cap = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["cap"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
            die(f"{folder / 'config.yaml'} names no cap ({first_line(error)}): give a folder of train_prune.py")
        logs.append((cap, read_log(folder / "log.csv")))
    with style():
        save(draw_training(logs, out.resolve().name), out / "training.png")


def save(figure: Figure, path: Path) -> None:
    """Writes beside and then in place, so that a stopped call leaves a whole picture."""
    beside = path.with_name(path.name + ".tmp")
    try:
        figure.savefig(beside, format="png", metadata={"Software": "nanoprune"})
        os.replace(beside, path)
    except OSError as error:
        die(f"{path} cannot be written ({error.strerror})")
    print(path)


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    elif len(arguments) < 2 or arguments[0] not in ("run", "rounds") or (arguments[0] == "run" and len(arguments) > 2):
        die("usage: python -m analysis.plot run RUN_FOLDER, or rounds ROUND_FOLDER [ROUND_FOLDER ...]")
    else:
        with one_line():
            rounds(arguments[1:]) if arguments[0] == "rounds" else run(arguments[1])


if __name__ == "__main__":
    main(sys.argv[1:])
