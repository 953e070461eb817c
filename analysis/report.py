r"""All analyses of two measured policies side by side, with the pictures and the trace page.

    python -m analysis.report out/toy/base_test out/toy/final_test                # what is there, and the quick ones
    python -m analysis.report out/toy/base_test out/toy/final_test --full true    # also what loads the model

A and B are folders that eval.py wrote (eval.json, rollouts.jsonl) for the same problems and the same cap. report.md
and a JSON file for each analysis go into `analysis` beside B. Each analysis is a command of its own, and most take A
alone: python -m analysis.metrics, .baselines, .budget, .words, .perplexity, .behaviours (a judge: --url, --model).

Unlike the paper's tables: every difference is paired by problem, has a 95 % interval and says
"not distinguishable" where that holds 0; cons@k is exact, not sampled; budget forcing cuts the very thoughts
that A's own figures come from, so nothing but the cut differs.
"""

import dataclasses
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import eval as evaluation
from analysis import baselines, behaviours, budget, metrics, perplexity, plot, trace, votes, words
from analysis.command import command_line, flags, help_or, make, name_of, read_sides, stamps
from analysis.evaluations import Evaluation, notes
from analysis.tables import gap
from engine.files import die, one_line, write_text
from sample import prompt_texts

ANALYSES = [metrics, baselines, votes, budget, words, perplexity, behaviours]
QUICK = [metrics, baselines, words]  # these load no model
JUDGED = [behaviours]  # these need a judge, which only their own command can name


@dataclass
class Config(metrics.Config, baselines.Config, budget.Config, words.Config, perplexity.Config):
    """Options of analysis.report: those of every analysis. Of the model they default to A's eval.json."""

    full: bool = False
    """Also run what loads the model and has not been run: budget, perplexity and the prompts."""


def own_options(analysis: ModuleType, cfg: Config):
    """The part of the report's options that one analysis takes."""
    names = [field.name for field in dataclasses.fields(analysis.Config) if hasattr(cfg, field.name)]
    return analysis.Config(**{name: getattr(cfg, name) for name in names})


def section(analysis: ModuleType, sides: list[Evaluation], cfg: Config, base: Config) -> list[str]:
    """One analysis in the report: read where it is there and of these rollouts, else made where that is wanted."""
    path, ours = Path(cfg.out_dir, analysis.FILE), analysis in QUICK or cfg.full and analysis not in JUDGED
    overwrite = ours and cfg.overwrite
    cfg, base = own_options(analysis, cfg), own_options(analysis, base)
    title, again = [f"## {analysis.HEADING}", ""], command_line(name_of(analysis), sides, cfg, base)
    if path.exists() and not overwrite:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            fits, text = result["runs"][:2] == stamps(sides), analysis.show(result)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            die(f"{path} is not as nanoprune writes it now ({error!r}); remove it")
        if not fits:
            die(f"{path} is of other folders or rollouts; remove it, or run: {again} --overwrite true")
    elif ours:
        result = make(analysis, sides, cfg, base)
        text = analysis.show(result)
    else:
        return [*title, f"Not measured: `{again}{' --url URL --model NAME' * (analysis in JUDGED)}`", ""]
    return [*title, f"`{result['command']}`", "", *text]


def head(sides: list[Evaluation], cfg: Config, base: Config) -> list[str]:
    """What was compared, and the commands that made it."""
    a, b = sides
    difference = json.loads(Path(cfg.out_dir, metrics.FILE).read_text(encoding="utf-8"))["difference"]
    tokens, points = gap(difference["tokens_ratio"], 1, 100), gap(difference["pass@1"], 1, 100)
    lines = [
        f"# {b.folder} (B) against {a.folder} (A)", "",
        f"**Tokens, B in % of A: {tokens}. pass@1, B - A in points: {points}.**", "",
        f"`{command_line('report', sides, cfg, base)}` made this page: "
        f"{len(a.ids)} problems; A {a.samples}, B {b.samples} samples each; cap {a.info['cap']} tokens. +- is one "
        "standard error, clustered by problem; [ , ] is a 95 % interval (t with the jackknife error over problems, "
        'both sides together); "not distinguishable" where it holds "no difference". Each is one interval, not '
        "corrected for how many there are.", "",
    ]
    for side in sides:
        default = evaluation.Config(model="", out_dir="", seed=-1, thinking=side.info.get("thinking", True))
        default = vars(default) | {"thinking": True} | prompt_texts(default)
        given = {x: y for x, y in baselines.options_of(side).items() if y != default[x]}
        lines += [f"- rollouts of `{shlex.join(['python', 'eval.py', *flags(given)])}`"]
    return [*lines, *(f"- {note}" for note in notes(sides)), ""]


def pictures(sides: list[Evaluation], out: Path) -> list[str]:
    """Draws the pictures of the run folder that A and B are base_test and final_test of, if they are."""
    a, b = (Path(side.folder) for side in sides)
    run = b.parent
    if [a, b] != [run / "base_test", run / "final_test"] or not (run / "summary.json").exists():
        return []
    plot.run(str(run))  # again: what budget forcing and the words need is there now
    seen = [os.path.relpath(run / name, out) for name in plot.PICTURES if (run / name).exists()]
    return ["## Pictures", "", f"`python -m analysis.plot run {run}`", "", *(f"![{x}]({x})" for x in seen), ""]


def main(arguments: list[str]) -> None:
    help_or(arguments, __doc__, Config)
    with one_line():
        write_report(*read_sides("report", arguments, Config, 2, 2))


def write_report(sides: list[Evaluation], cfg: Config, base: Config) -> None:
    """report.md with its sections, pictures and trace page."""
    out, (a, b) = Path(cfg.out_dir), sides
    if (out / "report.md").exists() and not cfg.overwrite:
        die(f"{out / 'report.md'} exists; --overwrite true writes it anew")
    sections = [section(x, sides, dataclasses.replace(cfg, prompts=cfg.prompts or cfg.full), base) for x in ANALYSES]
    lines = head(sides, cfg, base) + sum(sections, []) + pictures(sides, out)
    page = out / "trace.html"
    if cfg.overwrite or not page.exists():
        trace.write_page(a, b, trace.Config(out=str(page)))
    again = f"`python -m analysis.trace {a.folder} {b.folder} --out {page}`"
    lines += ["## Trace page", "", f"[{page.name}]({page.name}): {again}", ""]
    write_text(out / "report.md", "\n".join(lines))
    print("\n".join(lines) + f"\n{out / 'report.md'}")


if __name__ == "__main__":
    main(sys.argv[1:])
