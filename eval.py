"""pass@1 and length of a base model or an adapter, over k samples a problem.

    python eval.py --data out/toy_base/test.jsonl --eval_cap 640 --eval_samples 4 --out_dir out/eval_base
    python eval.py --config config/toy.yaml --adapter out/toy/final --prompt_cap 125 --out_dir out/eval_final
    python eval.py --config config/toy.yaml --instruction "Be brief." --out_dir out/eval_brief
    python eval.py report out/toy                                       # summary.json and summary.md of a run folder
    python -m analysis.report out/toy/base_test out/toy/final_test      # all analyses of two evaluations side by side

Unlike the paper's evaluation, training, validation and test share one prompt builder, every pass@1 has a
standard error clustered by problem (the k answers to one problem are not k independent draws), and
a rollout that the cap cuts off is wrong whatever stands in it.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import reward
from engine.alarms import hopeless, outcomes
from engine.files import EvalOptions, OptionError, die, one_line, read_json, run, write_jsonl, write_text
from engine.kept import Kept, weights_of
from engine.policy import load_policy
from engine.problems import load_problems
from sample import Rollout, Sampler, compare_prompt, encode_prompts, prompt_texts, rollout_rows


@dataclass
class Config(EvalOptions):
    """Options of eval.py: each is a YAML key and a --flag; a training config serves, too."""

    adapter: str = ""
    """Folder of a PEFT adapter to put on the base; empty for the bare base."""
    data: str = ""
    """Problem file (.jsonl, .parquet, .csv) or hub data set `owner/name:config:split`; empty takes `test_data`."""
    max_problems: int = 0
    """Take only the first so many problems; 0 takes all."""
    out_dir: str = "out/eval"
    """Folder for eval.json and rollouts.jsonl."""
    overwrite: bool = False
    """Write over an eval.json that is there."""


class Settings(NamedTuple):
    """How a policy was measured: two results that differ in one of these cannot be compared. All stand in eval.json."""

    data: str
    n_problems: int
    cap: int
    prompt_cap: int
    temperature: float
    top_p: float
    instruction: str
    system: str
    template_options: dict
    thinking: bool


LATER = ("system", "template_options", "thinking")  # an eval.json from before these were options lacks them


# ---------------------------------------------------------------------------------------- formulas


def mean_and_se(groups: list[list[float]]) -> tuple[float | None, float | None]:
    """Mean over all values and its standard error with the groups (problems) as clusters.

    Args:
        groups: The values of each problem, at least one each.

    Returns:
        (mean, standard error); the error is None for fewer than two problems, both are None for none.

    >>> mean, se = mean_and_se([[1, 1], [0, 0], [1, 0]])
    >>> mean, round(se, 4)
    (0.5, 0.2887)

    Source: cluster-robust variance of a mean with n/(n-1), e.g. Cameron and Miller 2015; for equal group
    sizes it is the standard error of the group means.
    """
    n, total = len(groups), sum(map(len, groups))
    if total == 0:
        return None, None
    mean = sum(map(sum, groups)) / total
    if n < 2:
        return mean, None
    spread = sum((sum(g) - len(g) * mean) ** 2 for g in groups)
    return mean, math.sqrt(n / (n - 1) * spread) / total


def metrics(rows: list[dict]) -> dict:
    """The figures of eval.json from graded rows (`id`, `n_tokens`, `finished`, and `correct`, the strict verdict).

    >>> row = {"id": "a", "n_tokens": 4, "finished": True, "correct": True}
    >>> m = metrics([row, {"id": "b", "n_tokens": 8, "finished": False, "correct": False}])
    >>> m["pass@1"], m["mean_tokens"], m["mean_tokens_wrong"], m["finished"]
    (0.5, 6.0, 8.0, 0.5)
    """
    right = [row["correct"] for row in rows]

    def by_problem(values: list[float], keep: list[bool] | None = None) -> tuple[float | None, float | None]:
        groups: dict[str, list[float]] = {}
        for i, (row, value) in enumerate(zip(rows, values)):
            if keep is None or keep[i]:
                groups.setdefault(row["id"], []).append(float(value))
        return mean_and_se(list(groups.values()))

    tokens = [row["n_tokens"] for row in rows]
    pass1, pass1_se = by_problem(right)
    mean_tokens, mean_tokens_se = by_problem(tokens)
    finished, finished_se = by_problem([row["finished"] for row in rows])
    problems = len({row["id"] for row in rows})
    return {
        "pass@1": pass1,
        "pass@1_se": pass1_se,
        "mean_tokens": mean_tokens,
        "mean_tokens_se": mean_tokens_se,
        "mean_tokens_correct": by_problem(tokens, right)[0],
        "mean_tokens_wrong": by_problem(tokens, [not r for r in right])[0],
        "finished": finished,
        "finished_se": finished_se,
        "n_problems": problems,
        "n_samples": len(rows) // max(1, problems),
    }


# ---------------------------------------------------------------------------------------- measuring


def grade(rollouts: Sequence[Rollout], golds: Sequence[str], thinking: bool) -> list[reward.Grade]:
    """The verdicts, set here once for training and evaluation: `correct` is right AND ended within the cap."""
    grades = reward.grade([r.text for r in rollouts], list(golds), thinking)
    return [g._replace(correct=g.correct and r.finished) for g, r in zip(grades, rollouts)]


def settings_of(cfg: EvalOptions, data: str, problems: list[dict], prompt_cap: int) -> Settings:
    """The settings of a measurement by these options."""
    sampling = {"temperature": cfg.eval_temperature, "top_p": cfg.eval_top_p}
    prompt = prompt_texts(cfg) | {"template_options": cfg.template_options, "thinking": cfg.thinking}
    return Settings(data, len({p["id"] for p in problems}), cfg.eval_cap, prompt_cap, **sampling, **prompt)


def evaluate(
    sampler: Sampler, problems: list[dict], cfg: EvalOptions, data: str, prompt_cap: int, label: str = "evaluation",
    kept_in: Path | None = None,
) -> tuple[dict, list[dict]]:  # fmt: skip
    """Answers each problem `eval_samples` times; returns (the figures of eval.json, the rows of rollouts.jsonl).

    Args:
        problems: Rows with `id`, `problem`, `answer`. data: Where they are from, for the figures.
        prompt_cap: Cap that the prompt names.
        label: Text before the progress bar.
        kept_in: File for the finished rollouts, so that an evaluation that is stopped goes on from there (`Kept`).
    """
    settings, started, kept = settings_of(cfg, data, problems, prompt_cap), time.time(), contextlib.nullcontext()
    questions = [p["problem"] for p in problems]
    texts, prompts = encode_prompts(sampler.tokenizer, questions, prompt_cap, **prompt_texts(cfg))
    how = {"cap": cfg.eval_cap, "temperature": cfg.eval_temperature, "top_p": cfg.eval_top_p, "seed": cfg.seed}
    if kept_in:
        about = how | {"prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(), "samples": cfg.eval_samples}
        about |= {"weights": weights_of(sampler.policy), "dtype": str(sampler.model.dtype), "4bit": cfg.load_4bit}
        kept = Kept(kept_in, about, len(prompts) * cfg.eval_samples)
    with kept as kept:
        rollouts = sampler.sample(prompts, cfg.eval_samples, **how, label=label, kept=kept)
    rows = rollout_rows(problems, texts, rollouts)
    golds = [row["gold"] for row in rows]
    verdicts = grade(rollouts, golds, cfg.thinking)
    for row, verdict in zip(rows, verdicts):
        row["answer"], row["correct"] = verdict.answer, verdict.correct
        row["reward"] = reward.thinkprune(verdict.correct, row["finished"], row["n_tokens"], cfg.eval_cap)
    shares, examples = outcomes(rollouts, verdicts, golds, cfg.thinking)
    result = metrics(rows) | shares | {"examples": examples} | settings._asdict()
    seconds = round(kept.seconds if kept else time.time() - started, 1)
    return result | {"seed": cfg.seed, "model": cfg.model, "seconds": seconds}, rows


def differences(a: dict, b: dict, more: Sequence[str] = ()) -> list[str]:
    """Settings, and `more`, in which two results of `evaluate` differ, each in words.

    >>> differences({"cap": 8000, "data": "a.jsonl"}, {"cap": 32768, "data": "a.jsonl"})
    ['cap 8000 and 32768']
    """
    found = []
    for key in (*Settings._fields, *more):
        one, other = a.get(key), b.get(key)
        if key in LATER and (key not in a or key not in b):
            continue
        if key in ("data", "model") and isinstance(one, str) and isinstance(other, str):  # a path has several spellings
            one, other = (os.path.realpath(x) if os.path.exists(x) else x for x in (one, other))
        if one != other:
            found.append(f"{key} {a.get(key)} and {b.get(key)}")
    return found


# ---------------------------------------------------------------------------------------- the commands


def report(run: str) -> None:
    """Writes summary.json and summary.md into a schedule's run folder from the files of its rounds.

    Args:
        run: Run folder, as left by schedule.sh: base_test/, final_test/, cap<L>/.
    """
    from analysis.metrics import in_short  # here: it imports this file

    folder = Path(run)

    def read(path: Path, keys: str) -> dict:
        if not path.is_file():
            die(f"{path} is missing: run bash schedule.sh until it ends")
        found = read_json(path)
        if lacking := sorted(set(keys.split()) - found.keys()):
            die(f"{path} is damaged: no {', '.join(lacking)} in it")
        return found

    wanted = " ".join(["pass@1 pass@1_se mean_tokens n_samples seconds model seed", *Settings._fields[:6]])
    base, final, reference = (read(folder / name / "eval.json", wanted) for name in ("base_test", "final_test", "base"))
    if found := differences(base, final):
        die(f"{folder}: base_test and final_test differ in {'; '.join(found)}; remove both and measure again")
    rounds, seconds = [], base["seconds"] + final["seconds"] + reference["seconds"]
    paths = [path for path in folder.glob("cap*/selection.json") if path.parent.name[3:].isdigit()]  # not cap180.old1
    for path in sorted(paths, key=lambda p: -int(p.parent.name[3:])):
        chosen = read(path, "step why seconds checkpoints")
        seconds += chosen["seconds"]
        cap = int(path.parent.name[3:])
        picked = next((c for c in chosen["checkpoints"] if c["step"] == chosen["step"]), {})
        measured = {"next_cap": chosen["next_cap"]} if "next_cap" in chosen else {}
        rounds.append({**picked, "cap": cap, "step": chosen["step"], "why": chosen["why"]} | measured)
    first = [read(folder / "first_cap.json", "why")["why"]] if (folder / "first_cap.json").is_file() else []
    summary = {
        "base": base,
        "rounds": rounds,
        "final": final,
        "tokens_ratio": final["mean_tokens"] / base["mean_tokens"],
        "pass@1_change": final["pass@1"] - base["pass@1"],
        "seconds": round(seconds, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")

    def line(name: str, step, m: dict, whole: dict) -> str:
        if "pass@1" not in m:
            return f"| {name} | - | start kept: no checkpoint qualified | | |"
        se = "" if m["pass@1_se"] is None else f" +- {100 * m['pass@1_se']:.1f}"
        share = m["mean_tokens"] / whole["mean_tokens"]
        return f"| {name} | {step} | {100 * m['pass@1']:.1f}{se} | {m['mean_tokens']:.0f} | {share:.1%} |"

    named = reference["prompt_cap"]  # another one where a tighter cap came later
    caps = {max(1, base["cap"] // part) for part in (1, 2, 4)} | {r["cap"] for r in rounds}
    other = f"In validations the prompt names {named}. " if named != base["prompt_cap"] else ""
    lines = [
        f"# {folder.name}: {summary['tokens_ratio']:.1%} of the tokens, pass@1 "
        f"{100 * summary['pass@1_change']:+.1f} points",
        "",
        f"`python eval.py report {run}` made this page. Model {base['model']}; test: {base['n_problems']} problems x "
        f"{base['n_samples']} samples of {base['data']}, temperature {base['temperature']}, top_p {base['top_p']}, "
        f"cap {base['cap']}, the prompt names {base['prompt_cap']}, seed {base['seed']}. "
        f"{other}+- is one standard error, clustered by problem.",
        "",
        *(f"Of the base's answers to training problems: {why}.\n" for why in first),
        *(f"After cap {r['cap']}, {r['next_cap']['why']}.\n" for r in rounds if "next_cap" in r),
        "| | step | pass@1 % | mean tokens | share of base |",
        "|---|---|---|---|---|",
        line("base, validation", "-", reference, reference),
        *(line(f"cap {r['cap']}, validation", r["step"], r, reference) for r in rounds),
        line("base, **test**", "-", base, base),
        line("final, **test**", next((r["step"] for r in reversed(rounds) if r["step"]), "-"), final, base),
        "",
        *in_short(folder, sorted(caps, reverse=True)),
        f"Time: {summary['seconds']:.0f} s (evaluations and rounds, model loading left out).",
        "",
    ]
    write_text(folder / "summary.md", "\n".join(lines))
    print("\n".join(lines))


def main(cfg: Config) -> None:
    out, data = Path(cfg.out_dir), cfg.data or cfg.test_data
    if (out / "eval.json").exists() and not cfg.overwrite:
        die(f"{out / 'eval.json'} exists; give another --out_dir, or --overwrite true")
    if cfg.eval_cap < 1 or cfg.eval_samples < 1:
        die(f"--eval_cap {cfg.eval_cap} and --eval_samples {cfg.eval_samples} must be at least 1")
    problems = load_problems(data, cfg.problem_key, cfg.answer_key)[: cfg.max_problems or None]
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    compare_prompt(cfg, cfg.adapter)
    try:
        prompt_cap = cfg.prompt_cap or cfg.eval_cap
        partial = out / "rollouts.partial.jsonl"
        result, rows = evaluate(Sampler(policy, tokenizer, cfg), problems, cfg, data, prompt_cap, kept_in=partial)
    except OptionError as error:
        die(f"{data}: {error}")
    options = {k: v for k, v in dataclasses.asdict(cfg).items() if k.removeprefix("eval_") not in result}
    result = options | result  # one name for each: eval_cap stands there as cap
    write_jsonl(out / "rollouts.jsonl", rows)
    write_text(out / "eval.json", json.dumps(result, indent=1) + "\n")
    partial.unlink(missing_ok=True)
    se = "" if result["pass@1_se"] is None else f" +- {100 * result['pass@1_se']:.1f}"
    print(
        f"{out}: pass@1 {100 * result['pass@1']:.1f}{se} % | mean tokens {result['mean_tokens']:.0f} | finished "
        f"{result['finished']:.0%} | {result['n_problems']} x {result['n_samples']} | {result['seconds']:.0f} s"
    )
    if why := hopeless(result):
        print(f"warning: {why}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        with one_line():
            report(sys.argv[2]) if len(sys.argv) == 3 else die("usage: python eval.py report RUN_FOLDER")
    else:
        run(main, Config, also="train_prune")
