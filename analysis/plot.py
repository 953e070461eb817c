"""Pictures of a run and the trace page, drawn from files alone: no model, no GPU, no display, no network.

    python plot.py run out/toy                                                # the PNG files of a run folder
    python plot.py trace out/toy/base_test out/toy/final_test --out page.html # the same problems before and after

`run` draws anew over its own pictures; `trace` keeps a page that exists unless told --overwrite true.
The same files give the same bytes on the same matplotlib. Colours are Okabe and Ito's, told apart by
colour-blind eyes; marker, line style or place always says the same thing a second time.
"""

import csv
import json
import math
import os
import sys
from pathlib import Path
from textwrap import fill
from typing import NoReturn

# Before the import: matplotlib refuses to load under an unknown backend, and nothing here needs a display.
os.environ["MPLBACKEND"] = "Agg"
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patheffects import withStroke  # noqa: E402
from matplotlib.text import Text  # noqa: E402
from matplotlib.transforms import Bbox, ScaledTranslation  # noqa: E402

PICTURES = ["length_accuracy.png", "training.png", "lengths.png", "budget.png", "words.png"]  # in this order in reports
LONGEST = 10_000_000  # bytes of a line: no rollout is longer
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
NUMBER, MAYBE = (int, float), (int, float, type(None))
FORCED = {"pass@1": NUMBER, "pass@1_se": MAYBE, "mean_tokens": NUMBER, "budget": NUMBER}
POINT = {"pass@1": NUMBER, "pass@1_se": MAYBE, "mean_tokens": NUMBER, "mean_tokens_se": MAYBE}
ROLLOUT = {"id": (str, int), "sample": int, "problem": str, "gold": (str, int, float),
           "response": str, "n_tokens": int, "finished": bool, "correct": bool}


def die(message: str) -> NoReturn:
    """Stops with one line on stderr and exit status 2."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


# ---------------------------------------------------------------------------------------- formulas


def budget_curve(rows: list[dict], budgets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pass@1, its standard error and the mean tokens, had every rollout been cut at a budget (cut = wrong).

    Args:
        rows: Rollouts (`id`, `n_tokens`, `finished`, `correct`), sampled without a tighter cap.
        budgets: (K,) token caps.

    Returns:
        pass@1 (K,), its standard error with problems as clusters (K,; nan for one problem), mean tokens (K,).

    >>> row = {"id": "a", "n_tokens": 4, "finished": True, "correct": True}
    >>> pass1, se, tokens = budget_curve([row, row | {"id": "b", "n_tokens": 8}], [3, 4, 8])
    >>> pass1.tolist(), se.tolist(), tokens.tolist()
    ([0.0, 0.5, 1.0], [0.0, 0.5, 0.0], [3.0, 4.0, 6.0])

    Source: cluster-robust variance of a mean with n/(n-1), e.g. Cameron and Miller 2015.
    """
    budgets = np.asarray(budgets, dtype=float)
    names = {name: i for i, name in enumerate(dict.fromkeys(row["id"] for row in rows))}
    problem = np.array([names[row["id"]] for row in rows])                       # (R,)
    tokens = np.array([row["n_tokens"] for row in rows], dtype=float)            # (R,)
    right = np.array([row["correct"] and row["finished"] for row in rows])       # (R,)
    n, size = len(names), np.bincount(problem)                                   # (N,)
    pass1, se, spent = np.empty((3, len(budgets)))
    for k, budget in enumerate(budgets):
        hit = np.bincount(problem, weights=right & (tokens <= budget), minlength=n)  # (N,)
        pass1[k], spent[k] = hit.sum() / len(rows), np.minimum(tokens, budget).mean()
        spread = ((hit - size * pass1[k]) ** 2).sum()
        se[k] = math.sqrt(n / (n - 1) * spread) / len(rows) if n > 1 else math.nan
    return pass1, se, spent


def smooth(values, width: int) -> np.ndarray:
    """Centred running mean (T,) over at most `width` values, fewer at the ends so that these do not sag.

    >>> smooth([0, 3, 6, 0], 3).tolist()
    [1.5, 3.0, 3.0, 3.0]
    """
    values = np.asarray(values, dtype=float)
    half = (width - 1) // 2
    return np.array([values[max(0, t - half) : t + half + 1].mean() for t in range(len(values))])


# ---------------------------------------------------------------------------------------- reading


def check(where: str, record, fields: dict) -> None:
    """Exits with one line unless the record is a JSON object with these fields of these types."""
    if not isinstance(record, dict):
        die(f"{where}: not a JSON object")
    for name, kind in fields.items():
        if name not in record:
            die(f"{where}: no field {name!r}")
        value = record[name]
        # To Python true is a number, and to its JSON reader so is NaN.
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            die(f"{where}: {name!r} is {json.dumps(value)[:40]}, not {wanted}")


def lines_of(path: Path):
    """(place in words, line) of a text file; exits where it is missing or not text."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b""), 1):
                if len(line) > LONGEST:
                    die(f"{path}, line {number} is longer than 10 MB")
                yield f"{path}, line {number}", line.decode()
    except UnicodeDecodeError:
        die(f"{path} is not UTF-8 text")
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}")


def decode(where: str, text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        die(f"{where}: not JSON")


def read_json(path: Path, fields: dict) -> dict:
    record = decode(str(path), "".join(line for _, line in lines_of(path)))
    check(str(path), record, fields)
    return record


def read_rollouts(path: Path) -> list[dict]:
    """Rows of a rollout file, or of the one in an eval folder; exits with file and line where one is unusable."""
    path = path / "rollouts.jsonl" if path.is_dir() else path
    rows, seen = [], set()
    for where, line in lines_of(path):
        if line.strip():
            row = decode(where, line)
            check(where, row, ROLLOUT)
            if row["n_tokens"] < 0:
                die(f"{where}: 'n_tokens' is {row['n_tokens']}, not a length")
            if (row["id"], row["sample"]) in seen:
                die(f"{where}: sample {row['sample']} of problem {row['id']} a second time")
            seen.add((row["id"], row["sample"]))
            rows.append(row)
    return rows or die(f"{path} holds no rollout")


def cap_of(path: Path, rows: list[dict]) -> int | None:
    """The cap of an evaluation: from eval.json, else from the rollouts that it cut, else unknown."""
    path = path / "rollouts.jsonl" if path.is_dir() else path
    note = path.with_name("eval.json")
    if path.name == "rollouts.jsonl" and note.is_file():
        return read_json(note, {"cap": int})["cap"]
    return max((row["n_tokens"] for row in rows if not row["finished"]), default=None)


def read_pair(a: Path, b: Path) -> tuple[list[dict], list[dict]]:
    """Rollouts of two evaluations; exits unless both have the same problems and cap."""
    before, after = read_rollouts(a), read_rollouts(b)
    texts, others = ({row["id"]: row["problem"] for row in rows} for rows in (before, after))
    for name in [*texts, *others]:
        if name not in texts or name not in others:
            die(f"different problems: {name} is only in {a if name in texts else b}")
        if texts[name] != others[name]:
            die(f"different problems: {name} reads otherwise in {a} and {b}")
    caps = cap_of(a, before), cap_of(b, after)
    if None not in caps and caps[0] != caps[1]:
        die(f"different caps: {a} was cut at {caps[0]} tokens, {b} at {caps[1]}")
    return before, after


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a round's log.csv as floats (T,), nan where validation left a field empty."""
    columns = {name: [] for name in ("reward", "length", "over_cap", "val_tokens")}
    reader = csv.DictReader(line for _, line in lines_of(path))
    for name in columns:
        if name not in (reader.fieldnames or []):
            die(f"{path}, line 1: no column {name!r}")
    for row in reader:
        for name, values in columns.items():
            try:
                values.append(float(row[name] or ("nan" if name == "val_tokens" else "")))
            except (TypeError, ValueError):
                die(f"{path}, line {reader.line_num}: {name} is {row[name]!r}, not a number")
    return {k: np.array(v) for k, v in columns.items()} if columns["reward"] else die(f"{path} has no steps")


# ---------------------------------------------------------------------------------------- pictures


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
    """Mean tokens against pass@1: base and selected checkpoints on validation, base and final on test."""
    # A round of which no checkpoint qualified has no figures: the checkpoint before it stands.
    rounds = [("base", reference)] + [(f"cap {r['cap']}", r) for r in summary["rounds"] if "pass@1" in r]
    kept = ", ".join(f"cap {r['cap']}" for r in summary["rounds"] if "pass@1" not in r)
    tests = [("base", summary["base"]), ("final", summary["final"])]
    fig = Figure(figsize=(8, 5))
    ax = fig.subplots()
    labels, segments = [], []
    for split, points, marker, look in ("validation", rounds, "o", BEFORE), ("test", tests, "s", AFTER):
        xy = np.array([(p["mean_tokens"], 100 * p["pass@1"]) for _, p in points])                          # (n, 2)
        error = np.array([(p["mean_tokens_se"] or 0, 100 * (p["pass@1_se"] or 0)) for _, p in points])  # (n, 2)
        ax.errorbar(*xy.T, error[:, 1], error[:, 0], fmt=marker, ms=7.5, capsize=3, elinewidth=1.2, color=look["color"],
                    mfc=look["color"] if marker == "o" else "white", mew=1.8, label=f"{split} problems", zorder=3)
        for before, after in zip(xy, xy[1:]):
            ax.annotate("", after, before, zorder=2,
                        arrowprops={"arrowstyle": "-|>", "shrinkA": 7, "shrinkB": 7, "lw": 1.4, **look})
            segments.append((before, after))
        segments += [(p - e * axis, p + e * axis) for p, e in zip(xy, error) for axis in np.eye(2)]
        labels += [(*p, text, look["color"]) for p, (text, _) in zip(xy, points)]
    ax.margins(0.12, 0.15)
    ax.set_xlim(left=0)
    ax.set_ylim(max(ax.get_ylim()[0], -2), min(ax.get_ylim()[1], 102))
    lone = any(p["pass@1_se"] is None for _, p in rounds + tests)
    note = "no error bars where there is one problem only" if lone else "bars: one standard error, clustered by problem"
    note += f"; start kept in round {kept}" if kept else ""
    ax.set(xlabel=f"mean response length (tokens)\n{note}", ylabel="pass@1 (%)")
    tokens_axis(ax.xaxis)
    (_, base), (_, final) = tests
    share = f"{100 * final['mean_tokens'] / base['mean_tokens']:.0f} % of the tokens"
    change = f"pass@1 {100 * base['pass@1']:.1f} → {100 * final['pass@1']:.1f} %"
    head(ax, f"{name}: {share}, {change} (test problems)")
    place_labels(ax, labels, segments)
    return fig


def draw_training(rounds: list[tuple[int, dict[str, np.ndarray]]], name: str) -> Figure:
    """Reward, length and finished share over the steps of all rounds; of a long run the running mean over faint steps."""
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
    head(axes[0], f"{name}: training, mean length {start:,.0f} → {end:,.0f} tokens over all rounds", up=18)
    axes[0].set(ylabel="mean reward", xlim=(0.5, total + 0.5))
    axes[1].set(ylabel="mean length (tokens)", ylim=(0, None))
    axes[2].set(ylabel="finished (%)", ylim=(-4, 104))
    axes[2].set(xlabel=f"step (strong line: mean of {width} steps)" if width > 1 else "step")
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    tokens_axis(axes[1].yaxis)
    fig.align_ylabels()
    return fig


def draw_lengths(before: list[dict], after: list[dict], name: str) -> Figure:
    """Histograms of response length, base over final, on one scale: right, wrong and cut-off stacked."""
    fig = Figure(figsize=(8, 5.4))
    axes, means = fig.subplots(2, 1, sharex=True, sharey=True), []
    width = math.ceil((max(row["n_tokens"] for row in before + after) + 1) / 48)
    kinds = ("right", GREEN, ""), ("wrong", RED, "////"), ("cut off at the cap", GREY, "....")
    for ax, side, rows in zip(axes, ("base", "final"), (before, after)):
        which = [(0 if row["correct"] else 1) if row["finished"] else 2 for row in rows]
        tokens = [[row["n_tokens"] for row, k in zip(rows, which) if k == kind] for kind in range(3)]
        weights = [[100 / len(rows)] * len(part) for part in tokens]
        ax.hist(tokens, np.arange(50) * width, weights=weights, stacked=True, lw=0.4, edgecolor="white",
                color=[c for _, c, _ in kinds], hatch=[h for *_, h in kinds], label=[text for text, *_ in kinds])
        mean = np.mean([row["n_tokens"] for row in rows])
        means.append(f"{mean:,.0f}")
        ax.axvline(mean, color=INK, lw=1.2, linestyle="--")
        ax.annotate(f"mean {mean:,.0f}", (mean, 1), (5, -2), va="top",
                    xycoords=ax.get_xaxis_transform(), textcoords="offset points")
        ax.set(ylabel=f"{side}: responses (%)")
    axes[1].set(xlabel=f"response length (tokens, bins of {width:,})", xlim=(0, 49 * width))
    axes[1].margins(y=0.12)
    tokens_axis(axes[1].xaxis)
    head(axes[0], f"{name}: mean response length {' → '.join(means)} tokens (test problems)")
    return fig


def draw_budget(before: list[dict], after: list[dict], forcing: list[dict], name: str, gap: dict | None = None):
    """pass@1 had each test response been cut at a budget, against that budget and against the tokens then spent.

    Args:
        forcing: Rows of budget_forcing.json, none if it is not there. gap: its `equal_tokens`, for the title.
    """
    fig = Figure(figsize=(8, 4.8))
    axes = fig.subplots(1, 2, sharey=True)
    budgets = np.linspace(0, max(row["n_tokens"] for row in before + after), 321)
    for rows, label, look in (before, "base, cut at budget", BEFORE), (after, "final, cut at budget", AFTER):
        pass1, se, spent = budget_curve(rows, budgets)
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
    lone = len({row["id"] for row in before}) < 2
    note = "no standard error: a single problem" if lone else "shaded, bars: one standard error, clustered by problem"
    fig.supxlabel(note, fontsize=10)
    title = f"{name}: pass@1 on the test problems under a token budget"
    if gap and None not in (gap["value"], gap["low"]):
        value, low, high = (100 * gap[key] for key in ("value", "low", "high"))
        title = f"{name}: final minus forced base, equal tokens: {value:+.1f} points [{low:.1f}, {high:.1f}]"
    head(axes[0], title)
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


def run(folder: str) -> None:
    """Draws the pictures of a finished run into its folder.

    Args:
        folder: Run folder of schedule.sh; analysis/budget_forcing.json and analysis/words.json are used if there.
    """
    out = Path(folder)
    name = out.resolve().name
    reference = read_json(out / "base" / "eval.json", POINT)
    summary = read_json(out / "summary.json", {"base": dict, "rounds": list, "final": dict})
    for side in "base", "final":
        check(f"{out / 'summary.json'}, {side}", summary[side], POINT)
    for k, r in enumerate(summary["rounds"], 1):
        # A round of which no checkpoint qualified has no figures.
        selected = isinstance(r, dict) and "pass@1" in r
        check(f"{out / 'summary.json'}, round {k}", r, {"cap": int} | (POINT if selected else {}))
    logs = [(r["cap"], read_log(out / f"cap{r['cap']}" / "log.csv")) for r in summary["rounds"]]
    before, after = read_pair(out / "base_test", out / "final_test")
    figures = {
        "length_accuracy": lambda: draw_length_accuracy(reference, summary, name),
        "training": lambda: draw_training(logs or die(f"{out / 'summary.json'} has no rounds"), name),
        "lengths": lambda: draw_lengths(before, after, name),
    }
    forcing, words = out / "analysis" / "budget_forcing.json", out / "analysis" / "words.json"
    forced = read_json(forcing, {"rows": list}) if forcing.is_file() else {"rows": []}
    rows, margin = forced["rows"], forced.get("equal_tokens")  # the latter only of two folders
    if margin is not None:
        check(f"{forcing}, equal_tokens", margin, {"value": MAYBE, "low": MAYBE, "high": MAYBE})
    for k, row in enumerate(rows, 1):
        check(f"{forcing}, row {k}", row, FORCED)
    figures["budget"] = lambda: draw_budget(before, after, rows, name, margin)
    if words.is_file():
        counts = read_json(words, {"A": dict, "B": dict})
        for side, other in "AB", "BA":
            wanted = dict.fromkeys(counts[other], NUMBER) or die(f"{words}: {other} is empty")
            check(f"{words}, {side}", counts[side], wanted)
        figures["words"] = lambda: draw_words(counts, name)
    matplotlib.rcdefaults()  # whatever a matplotlibrc on this machine says
    matplotlib.rcParams.update(STYLE)
    for picture, draw in figures.items():
        path = out / f"{picture}.png"
        beside = path.with_name(path.name + ".tmp")
        draw().savefig(beside, format="png", metadata={"Software": "nanoprune plot.py"})
        os.replace(beside, path)
        print(path)


# ---------------------------------------------------------------------------------------- trace page


def trace(
    a: str, b: str, out: str = "trace.html", words: str = "Wait, But wait, Alternatively, double-check, Hmm, verify",
    samples: int = 1, overwrite: bool = False,
) -> None:
    """Writes one self-contained HTML page: the same problems before and after, side by side.

    Args:
        a: Rollout file, or eval folder, from before.
        b: The same from after.
        out: Page to write.
        words: Words to mark, by commas. Case does not matter; whole words only (no letter, digit or _ on either
            side, so "verify" is not in "verifying"); a blank or hyphen inside stands for any run of blanks, line
            ends and hyphens; where two begin at one place the longer is marked. analyse.py counts by the same rule.
        samples: Answers shown to each problem; 0 shows all. The totals at the top always count all.
        overwrite: Write over a page that is there.
    """
    if samples < 0:
        die(f"--samples {samples} must be at least 0")
    if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        die(f"--out {out} is no file name in a folder that exists")
    if Path(out).exists() and not overwrite:
        die(f"--out {out} exists; give another name, or --overwrite true")
    sides, totals = read_pair(Path(a), Path(b)), []
    for path, rows in zip((a, b), sides):
        pass1, se, tokens = (float(x[0]) for x in budget_curve(rows, [math.inf]))
        problems = len({row["id"] for row in rows})
        totals.append({"name": str(path), "pass1": pass1, "se": None if math.isnan(se) else se, "tokens": tokens,
                       "problems": problems, "samples": len(rows) / problems})
    answers = [{}, {}]
    for group, rows in zip(answers, sides):
        for row in sorted(rows, key=lambda row: row["sample"]):
            group.setdefault(row["id"], []).append(row)

    def side(row: dict) -> dict:
        return {"text": row["response"], "n": row["n_tokens"], "sample": row["sample"],
                "verdict": ("right" if row["correct"] else "wrong") if row["finished"] else "cut off"}

    order = dict.fromkeys(row["id"] for row in sides[0])
    pairs = [
        {"id": str(name), "problem": x["problem"], "gold": str(x["gold"]), "sides": [side(x), side(y)]}
        for name in order for x, y in list(zip(answers[0][name], answers[1][name]))[: samples or None]
    ]
    data = {"totals": totals, "pairs": pairs, "words": [w.strip() for w in words.split(",") if w.strip(" -")]}
    # ASCII, so that half a surrogate pair cannot stop the write; no "<", so that no text ends the block.
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    beside = Path(out + ".tmp")
    beside.write_text(PAGE.replace("%DATA%", block), encoding="utf-8")
    os.replace(beside, out)
    print(f"{out}: {len(pairs)} pairs of responses, {Path(out).stat().st_size / 1e6:.1f} MB")


# Whatever a model wrote reaches the page as a text node only; the policy forbids the network as well.
PAGE = r"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Traces before and after</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --bg: #fff; --fg: #1c1c1c; --dim: #5c5c5c; --line: #d8d8d8; --pane: #f6f6f4;
  --a: #0072b2; --b: #d55e00; --good: #00694c; --bad: #a83c00; --mark: #ffe08a }
@media (prefers-color-scheme: dark) { :root { --bg: #16181b; --fg: #e8e8e6; --dim: #a6a6a6; --line: #3a3d42; --pane: #1f2226;
  --a: #56b4e9; --b: #f0902f; --good: #4fd0a5; --bad: #ff9e66; --mark: #6a5200 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 90rem; padding: 0 1rem 3rem; background: var(--bg); color: var(--fg);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.3rem; margin: 1rem 0 .5rem }
button, input, select { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line);
  border-radius: 6px; padding: .3rem .6rem; max-width: 100% }
button { cursor: pointer } button:disabled { opacity: .45; cursor: default }
:focus-visible { outline: 3px solid var(--a); outline-offset: 1px }
.dim, kbd { color: var(--dim) }
kbd { font: .85em ui-monospace, monospace; border: 1px solid var(--line); border-radius: 4px; padding: 0 .3em }
#totals { display: grid; grid-template-columns: auto 1fr; gap: 0 .8rem; margin: 0 } dd { margin: 0 }
dt::before, .bars span::before, h3::before {
  content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .4em; background: var(--a) }
dt.change::before { background: none }
dt.b::before, .bars .b::before, .b h3::before { background: var(--b); border-radius: 50% }
#tools { display: flex; flex-wrap: wrap; gap: .5rem; padding: .7rem 0; background: var(--bg); border-bottom: 1px solid var(--line) }
#tools input { flex: 1 1 14rem; min-width: 0 } #tools select { flex: 0 1 auto }
#filters { display: flex; flex-wrap: wrap; gap: .3rem }
[aria-pressed=true] { background: var(--fg); color: var(--bg); border-color: var(--fg) }
#list { list-style: none; margin: 0; padding: 0 }
li { border-bottom: 1px solid var(--line); scroll-margin-top: 1rem }
h2 { margin: 0; font: inherit }
.row { display: grid; grid-template-columns: minmax(7rem, 12rem) 5.5rem minmax(0, 1fr) minmax(0, 22rem); gap: .2rem 1rem;
  align-items: center; width: 100%; text-align: left; border: 0; border-radius: 0; padding: .45rem .3rem }
.row[aria-expanded=true] { background: var(--pane) } .row b { font-weight: 600 }
.ask { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; unicode-bidi: isolate }
[aria-expanded=true] .ask { visibility: hidden }
.fixed, .right { color: var(--good) } .broken, .wrong, .cut { color: var(--bad) }
.bars { display: grid; grid-template-columns: 1fr 7rem; white-space: nowrap; gap: 1px .5rem; align-items: center;
  font-size: .8rem; font-variant-numeric: tabular-nums }
.bars i { display: block; height: .6rem; min-width: 2px; background: var(--a) } .bars i.b { background: var(--b) }
.open { padding: .2rem .3rem 1rem } .open > p { white-space: pre-wrap; margin: .5rem 0 }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem }
h3 { font-size: 1rem; margin: .3rem 0 }
pre { margin: 0; padding: .7rem; max-height: 65vh; overflow: auto; white-space: pre-wrap; unicode-bidi: isolate;
  background: var(--pane); border: 1px solid var(--line); border-radius: 6px; font: .87rem/1.5 ui-monospace, monospace }
pre hr { border: 0; border-top: 1px dashed var(--dim) }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 1px; font-weight: 600 }
#pages { display: flex; gap: .6rem; align-items: center; margin-top: 1rem }
@media (max-width: 44rem) { .row { grid-template-columns: 1fr auto } .ask, .bars { grid-column: 1 / -1 }
  [aria-expanded=true] .ask, #keys { display: none } #tools select { flex: 1 1 100% } pre { max-height: 55vh } }
</style></head><body>
<h1>Traces before and after</h1>
<dl id="totals"></dl>
<noscript>This page shows its data with a script; allow scripts for this file.</noscript>
<div id="tools" role="search">
  <input id="search" type="search" placeholder="Search problems and responses" aria-label="Search problems and responses">
  <select id="sort" aria-label="Sort"><option value="file">File order</option><option value="most">Largest saving first</option>
    <option value="least">Smallest saving first</option><option value="long">Longest before first</option></select>
  <div id="filters" role="group" aria-label="Filter by outcome"></div>
</div>
<p class="dim"><span id="count" role="status"></span> <span id="rule"></span>
  <span id="keys"><kbd>j</kbd> <kbd>k</kbd> or arrows: next, previous; <kbd>/</kbd>: search; <kbd>Esc</kbd>: leave it</span></p>
<ol id="list"></ol>
<nav id="pages" aria-label="Pages">
  <button id="prev">Previous page</button><span id="page"></span><button id="next">Next page</button>
</nav>
<script type="application/json" id="data">%DATA%</script>
<script>
"use strict";
const $ = id => document.getElementById(id), { totals, pairs, words } = JSON.parse($("data").textContent);
const PER_PAGE = 50, OUTCOMES = ["both wrong", "fixed", "broken", "both right"];
const longest = Math.max(...totals.map((_, s) => pairs.reduce((m, p) => Math.max(m, p.sides[s].n), 1)));
pairs.forEach(p => {
  p.outcome = OUTCOMES[2 * (p.sides[0].verdict === "right") + (p.sides[1].verdict === "right")];
  p.saving = p.sides[0].n - p.sides[1].n;
});
// Longest first: at one place the alternation takes the first that fits, so "But wait" is not also "wait".
const alternatives = [...words].sort((x, y) => y.length - x.length)
  .map(w => w.split(/[\s-]+/).map(s => s.replace(/[.*+?^${}()|[\]\\\/]/g, "\\$&")).join("[\\s\\-\\u2010\\u2011]+"));
const REFLECTION = words.length && RegExp(`(?<![\\p{L}\\p{N}_])(?:${alternatives.join("|")})(?![\\p{L}\\p{N}_])`, "giu");
let view = pairs, at = 0, open = true, filter = "all";

function el(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const name in attributes) e.setAttribute(name, attributes[name]);
  e.append(...children);
  return e;
}
const number = x => Math.round(x).toLocaleString("en");
const percent = p => `${"+±−"[Math.sign(p.saving) + 1]}${Math.abs(100 * p.saving / Math.max(1, p.sides[0].n)).toFixed(0)} %`;

function write(into, text) {  // text nodes with the reflection words in <mark>; returns how many
  let done = 0, found = 0;
  for (const m of REFLECTION ? text.matchAll(REFLECTION) : []) {
    into.append(text.slice(done, m.index), el("mark", {}, m[0]));
    done = m.index + m[0].length; found++;
  }
  into.append(text.slice(done));
  return found;
}
function response(p, s) {
  const side = p.sides[s], when = ["before", "after"][s];
  const mark = side.text.lastIndexOf("</think>"), cut = mark < 0 ? 0 : mark + 8;
  const pre = el("pre", { tabindex: 0, role: "region", "aria-label": `Response ${when}` });
  let found = write(pre, cut ? side.text.slice(0, cut) : side.text);
  if (cut) { pre.append(el("hr", {})); found += write(pre, side.text.slice(cut).replace(/^\n/, "")); }
  return el("div", { class: "ab"[s] }, el("h3", {}, `${when}: `, el("span", { class: side.verdict.split(" ")[0] }, side.verdict),
    `, ${number(side.n)} tokens, ${found} reflection word${found === 1 ? "" : "s"}`), pre);
}
function row(p, i) {
  const [x, y] = p.sides, here = open && i === at, bars = el("span", { class: "bars" });
  p.sides.forEach((side, s) => {
    const bar = el("i", { class: "ab"[s] });
    bar.style.width = `${100 * side.n / longest}%`;
    bars.append(bar, el("span", { class: "ab"[s] }, number(side.n) + (s ? ` (${percent(p)})` : "")));
  });
  const button = el("button", { class: "row", "aria-expanded": here, "data-i": i,
    "aria-label": `${p.id}, ${p.outcome}, ${number(x.n)} tokens before, ${number(y.n)} after` },
    el("b", {}, p.id + (totals[0].samples > 1 ? ` · sample ${x.sample}` : "")), el("span", { class: p.outcome }, p.outcome),
    el("span", { class: "ask" }, p.problem), bars);
  button.onclick = () => { open = !(open && at === i); at = i; render(true); };
  const item = el("li", {}, el("h2", {}, button));
  if (here) item.append(el("div", { class: "open" }, el("p", {}, p.problem), el("p", { class: "dim" }, `Answer: ${p.gold}`),
    el("div", { class: "pair" }, response(p, 0), response(p, 1))));
  return item;
}
function render(focus) {  // one page of rows, at most one of them open: a thousand long pairs stay quick
  const pages = Math.max(1, Math.ceil(view.length / PER_PAGE)), page = Math.floor(at / PER_PAGE), start = page * PER_PAGE;
  $("list").replaceChildren(...view.slice(start, start + PER_PAGE).map((p, i) => row(p, start + i)));
  $("count").textContent = `${number(view.length)} of ${number(pairs.length)} pairs.`;
  $("page").textContent = `Page ${page + 1} of ${pages}`;
  $("prev").disabled = page === 0; $("next").disabled = page === pages - 1;
  if (focus && view.length) {
    const button = document.querySelector(`[data-i="${at}"]`);
    button.focus({ preventScroll: true });
    button.closest("li").scrollIntoView({ block: "start" });
  }
}
function choose() {
  const wanted = $("search").value.toLowerCase(), by = $("sort").value;
  view = pairs.filter(p => (filter === "all" || p.outcome === filter) && (!wanted ||
    (p.hay ??= [p.id, p.problem, p.gold, ...p.sides.map(s => s.text)].join("\n").toLowerCase()).includes(wanted)));
  const key = { most: p => -p.saving, least: p => p.saving, long: p => -p.sides[0].n }[by];
  if (key) view = [...view].sort((p, q) => key(p) - key(q));
  at = 0;
  render();
}
const move = to => { if (to >= 0 && to < view.length) { at = to; open = true; render(true); } };

totals.forEach((t, s) => $("totals").append(el("dt", { class: "ab"[s] }, ["before", "after"][s]), el("dd", {},
  `${t.name}: pass@1 ${(100 * t.pass1).toFixed(1)}${t.se === null ? "" : ` ± ${(100 * t.se).toFixed(1)}`} %, ` +
  `mean ${number(t.tokens)} tokens, ${number(t.problems)} problems × ${+t.samples.toFixed(1)}`)));
const [first, then] = totals, points = 100 * (then.pass1 - first.pass1);
$("totals").append(el("dt", { class: "change" }, "change"), el("dd", {},
  `${(100 * then.tokens / first.tokens).toFixed(1)} % of the tokens, pass@1 ${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)} points`));
$("rule").textContent = words.length ? `Marked, in any case and as whole words: ${words.join(", ")}.` : "";
for (const name of ["all", "both right", "fixed", "broken", "both wrong"]) {
  const n = name === "all" ? pairs.length : pairs.filter(p => p.outcome === name).length;
  const button = el("button", { "aria-pressed": name === filter, "data-filter": name }, `${name} ${number(n)}`);
  button.onclick = () => {
    filter = name;
    for (const b of $("filters").children) b.setAttribute("aria-pressed", b === button);
    choose();
  };
  $("filters").append(button);
}
let timer;
$("search").oninput = () => { clearTimeout(timer); timer = setTimeout(choose, 150); };
$("sort").onchange = choose;
$("prev").onclick = () => move((Math.floor(at / PER_PAGE) - 1) * PER_PAGE);
$("next").onclick = () => move((Math.floor(at / PER_PAGE) + 1) * PER_PAGE);
document.onkeydown = event => {
  const place = event.target, key = event.key;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (place === $("search")) {
    if (key === "Escape") { place.blur(); event.preventDefault(); }  // or the browser empties it behind our back
    return;
  }
  if (place === $("sort")) return;
  const arrows = place.tagName !== "PRE";  // there they scroll
  const step = key === "j" || (arrows && key === "ArrowDown") ? 1 : key === "k" || (arrows && key === "ArrowUp") ? -1 : 0;
  if (key === "/") $("search").focus();
  else if (step) move(at + step);
  else return;
  event.preventDefault();
};
render();
</script></body></html>
"""


if __name__ == "__main__":
    from jsonargparse import ArgumentParser, auto_cli, set_parsing_settings

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            die(f"{message} (python plot.py --help lists the options)")

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        auto_cli({"run": run, "trace": trace}, parser_class=Parser, allow_abbrev=False)
    except OSError as error:
        die(f"{error.filename} cannot be written: {error.strerror}")
