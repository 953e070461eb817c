"""pass@1 and length of a base model or an adapter, over k samples a problem.

    python eval.py --model out/toy_base --data out/toy_base/test.jsonl --cap 640 --samples 4 --out_dir out/eval_base
    python eval.py --like config/toy.yaml --adapter out/toy/final --prompt_cap 125 --samples 4 --out_dir out/eval_final
    python eval.py report out/toy          # summary.json and summary.md of a schedule's run folder
    python eval.py compare out/toy/base_test out/toy/final_test         # all analyses side by side (analyse.py)
    python eval.py --like config/toy.yaml --samples 4 --instruction "Be brief." --out_dir out/eval_brief

Unlike the paper's evaluation, training, validation and test share one prompt builder, every pass@1 has a
standard error clustered by problem (the k answers to one problem are not k independent draws), and
a rollout that the cap cuts off is wrong whatever stands in it.
"""

import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from tqdm import tqdm

import reward
from policy import Options, die, first_line, load_policy, read_json, rollout_model
from sample import (
    INSTRUCTION,
    LONGEST_LINE,
    build_prompt,
    encode_prompts,
    load_problems,
    parse,
    rollout_row,
    sample_within_memory,
    write_jsonl,
    write_text,
)


@dataclass
class Config(Options):
    """Options of eval.py: each is a YAML key and a --flag."""

    adapter: str = ""
    """Folder of a PEFT adapter to put on the base; empty for the bare base."""
    data: str = "out/toy_base/test.jsonl"
    """Problem file (JSON lines) or hub data set `id:split`."""
    cap: int = 32768
    """Token cap on the whole response: a rollout that has not ended by then is wrong."""
    prompt_cap: int = 0
    """Cap that the prompt names; 0 names `cap`. A pruned model is used with the cap it was trained under."""
    instruction: str = INSTRUCTION
    """What the prompt asks for after the problem's text."""
    samples: int = 16
    """Answers per problem (k)."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.95
    """Nucleus: smallest set of tokens with at least this probability."""
    max_problems: int = 0
    """Take only the first so many problems; 0 takes all."""
    out_dir: str = "out/eval"
    """Folder for eval.json and rollouts.jsonl."""
    overwrite: bool = False
    """Write over an eval.json that is there."""


# A training config says how its run validates; `--like` takes that over (training name -> name here).
LIKE = {field.name: field.name for field in dataclasses.fields(Options)}
LIKE |= {"val_cap": "cap", "val_temperature": "temperature", "val_top_p": "top_p", "val_samples": "samples"}


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
    """The figures of eval.json from graded rollout rows (`id`, `n_tokens`, `finished`, `correct`).

    >>> row = {"id": "a", "n_tokens": 4, "finished": True, "correct": True}
    >>> m = metrics([row, row | {"id": "b", "n_tokens": 8, "finished": False}])
    >>> m["pass@1"], m["mean_tokens"], m["mean_tokens_wrong"], m["finished"]
    (0.5, 6.0, 8.0, 0.5)
    """
    right = [row["correct"] and row["finished"] for row in rows]

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


def bootstrap(values, statistic: Callable, null: float = 0.0, resamples: int = 10_000, seed: int = 0) -> dict:
    """A statistic of means over problems, with its 95 % percentile interval from drawing problems anew.

    Args:
        values: (P, m) figures of each problem; the rows of one problem are drawn together, which pairs A and B.
        statistic: Takes means (..., m) to (...,).
        null: The value that means "no difference".

    Returns:
        {"value", "low", "high", "verdict"}; no interval for fewer than two problems, no value for 0 / 0.

    >>> bootstrap([[1, 0], [1, 0], [1, 1], [0, 0]], lambda m: m[..., 0] - m[..., 1])
    {'value': 0.5, 'low': 0.0, 'high': 1.0, 'verdict': 'not distinguishable'}

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    values, rng, draws = np.asarray(values, float), np.random.default_rng(seed), []
    n = len(values)
    with np.errstate(all="ignore"):
        value = float(statistic(values.mean(0)))
        for start in range(0, resamples if n > 1 else 0, 500):  # in pieces: (10000, P) would fill a small machine
            size = min(500, resamples - start)
            drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)     # (size, P)
            draws.append(statistic(times.astype(float) @ values / n))
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "verdict": "nothing to compare"}
    draws = np.concatenate(draws or [np.empty(0)])
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return {"value": value, "low": None, "high": None, "verdict": "no interval"}
    low, high = map(float, np.percentile(draws, [2.5, 97.5]))
    verdict = "higher" if low > null else "lower" if high < null else "not distinguishable"
    return {"value": value, "low": low, "high": high, "verdict": verdict}


def point(values) -> dict:
    """{"value", "se"}: mean of (P, S) values and its standard error, clustered by problem."""
    return dict(zip(("value", "se"), mean_and_se([list(map(float, np.atleast_1d(row))) for row in values])))


def difference(m: np.ndarray) -> np.ndarray:
    """B - A of means (..., 2)."""
    return m[..., 1] - m[..., 0]


def ratio(m: np.ndarray) -> np.ndarray:
    """B / A of means (..., 2)."""
    return m[..., 1] / m[..., 0]


def quotient_difference(m: np.ndarray) -> np.ndarray:
    """B's quotient - A's of means (..., 4): A's numerator and denominator, then B's."""
    return m[..., 2] / m[..., 3] - m[..., 0] / m[..., 1]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, c of them right, hold a right one: 1 - C(n-c, k) / C(n, k).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
    (0.25, 0.5, 1.0)

    Source: Chen et al. 2021 (Codex), section 2.1.
    """
    return 1 - comb(n - c, k) / comb(n, k)


def cons_at_k(right: int, wrong: Sequence[int], silent: int, k: int) -> float:
    """Chance that the right answer wins the vote of k samples drawn without replacement; exact, no resampling.

    A tie between j answers gives each 1/j. Samples without an answer abstain; if all do, the vote is wrong.

    Args:
        right: Samples with the right answer. wrong: samples with each wrong answer. silent: samples without one.

    >>> cons_at_k(2, [1, 1], 0, 4), cons_at_k(2, [2], 0, 4), cons_at_k(1, [3], 0, 1), cons_at_k(1, [], 3, 4)
    (1.0, 0.5, 0.25, 1.0)
    """
    n, total = right + sum(wrong) + silent, Fraction(0)
    for t in range(1, min(right, k) + 1):  # votes for the right answer
        rivals = [c for c in wrong if c >= t]
        others = n - right - sum(rivals)  # cannot reach t: only their number counts
        ways = Counter({(0, 0): 1})  # (votes of the rivals, rivals at t) -> draws in which none is above t
        for c in rivals:
            more = Counter()
            for (votes, tied), count in ways.items():
                for x in range(min(t, k - t - votes) + 1):
                    more[votes + x, tied + (x == t)] += count * comb(c, x)
            ways = more
        for (votes, tied), count in ways.items():
            total += Fraction(comb(right, t) * count * comb(others, k - t - votes), tied + 1)
    return float(total / comb(n, k))


def ballots(rows: list[dict]) -> tuple[int, list[int], int]:
    r"""Votes of one problem's samples, as `cons_at_k` takes them: equal answers together, however written.

    Two wrong answers are the same if reward.same_answer says so without algebra; a cut rollout abstains.

    >>> row = {"finished": True, "correct": False}
    >>> ballots([row | {"answer": a} for a in ("1/2", r"\frac12", "7", None)])
    (0, [2, 1], 1)
    """
    spoken = [row for row in rows if row["finished"] and row["answer"] is not None]
    wrong: Counter[str] = Counter()
    for answer, count in Counter(row["answer"] for row in spoken if not row["correct"]).items():
        wrong[next((w for w in wrong if same(answer, w)), answer)] += count
    return len(spoken) - sum(wrong.values()), list(wrong.values()), len(rows) - len(spoken)


def same(a: str, b: str) -> bool:
    """Whether two answers are written alike; never raises on the model's text."""
    try:
        return a == b or reward.same_answer(a, b, lambda *_: False)
    except (ValueError, IndexError, RecursionError):
        return False


def powers(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself.

    >>> powers(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n})


# ---------------------------------------------------------------------------------------- measuring


def evaluate(
    model,
    tokenizer,
    problems,
    options: Options,
    *,
    samples,
    cap,
    prompt_cap,
    temperature,
    top_p,
    instruction=INSTRUCTION,
    label="eval",
    check=None,
) -> list[dict]:
    """Graded rollout rows (DESIGN: rollout files) of `samples` answers to each problem. Used by training, too.

    Args:
        model: Decoder to sample from (`policy.rollout_model`).
        problems: Rows with `id`, `problem`, `answer`.
        options: `rows`, `seed` and `thinking` are read; `rows` is lowered where memory runs out.
        instruction: What the prompt asks for after the problem's text.
        label: Text before the progress bar.
        check: Called before every decoded token; what it raises ends the evaluation.
    """
    prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], prompt_cap, instruction)
    with tqdm(total=len(prompts) * samples, desc=label, unit="rollout", leave=False, disable=None) as bar:
        rollouts = sample_within_memory(
            model,
            tokenizer,
            prompts,
            options,
            samples,
            cap=cap,
            temperature=temperature,
            top_p=top_p,
            seed=options.seed,
            progress=bar,
            check=check,
        )
    result = []
    for i, problem in enumerate(problems):
        prompt = build_prompt(tokenizer, problem["problem"], prompt_cap, instruction)
        for j in range(samples):
            result.append(rollout_row(problem, j, prompt, rollouts[i * samples + j]))
    grades = reward.grade([r["response"] for r in result], [r["gold"] for r in result], options.thinking)
    for row, grade in zip(result, grades):
        row["answer"], row["correct"] = grade.answer, grade.correct
        row["reward"] = reward.thinkprune(grade.correct, row["finished"], row["n_tokens"], cap)
    return result


# ---------------------------------------------------------------------------------------- reading back


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


# ---------------------------------------------------------------------------------------- the commands


def report(run: str) -> None:
    """Writes summary.json and summary.md into a schedule's run folder from the files of its rounds.

    Args:
        run: Run folder, as left by schedule.sh: base_test/, final_test/, cap<L>/.
    """
    folder = Path(run)

    def read(path: Path, keys: str) -> dict:
        if not path.is_file():
            die(f"{path} is missing: run bash schedule.sh until it ends")
        found = read_json(path)
        if lacking := sorted(set(keys.split()) - found.keys()):
            die(f"{path} is damaged: no {', '.join(lacking)} in it")
        return found

    wanted = "pass@1 pass@1_se mean_tokens n_problems n_samples seconds "
    wanted += "model data temperature top_p cap prompt_cap seed"
    base, final, reference = (read(folder / name / "eval.json", wanted) for name in ("base_test", "final_test", "base"))
    rounds, seconds = [], base["seconds"] + final["seconds"] + reference["seconds"]
    for path in sorted(folder.glob("cap*/selection.json"), key=lambda p: -int(p.parent.name[3:])):
        chosen = read(path, "step why seconds checkpoints")
        seconds += chosen["seconds"]
        cap = int(path.parent.name[3:])
        picked = next((c for c in chosen["checkpoints"] if c["step"] == chosen["step"]), {})
        rounds.append({**picked, "cap": cap, "step": chosen["step"], "why": chosen["why"]})
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

    lines = [
        f"# {folder.name}: {summary['tokens_ratio']:.1%} of the tokens, pass@1 "
        f"{100 * summary['pass@1_change']:+.1f} points",
        "",
        f"`python eval.py report {run}` made this page. Model {base['model']}; test: {base['n_problems']} problems x "
        f"{base['n_samples']} samples of {base['data']}, temperature {base['temperature']}, top_p {base['top_p']}, "
        f"cap {base['cap']}, the prompt names {base['prompt_cap']}, seed {base['seed']}. "
        "+- is one standard error, clustered by problem. In a round's validation the prompt names its own cap.",
        "",
        "| | step | pass@1 % | mean tokens | share of base |",
        "|---|---|---|---|---|",
        line("base, validation", "-", reference, reference),
        *(line(f"cap {r['cap']}, validation", r["step"], r, reference) for r in rounds),
        line("base, **test**", "-", base, base),
        line("final, **test**", next((r["step"] for r in reversed(rounds) if r["step"]), "-"), final, base),
        "",
        f"Time: {summary['seconds']:.0f} s (evaluations and rounds, model loading left out).",
        "",
    ]
    write_text(folder / "summary.md", "\n".join(lines))
    print("\n".join(lines))


def like(path: str) -> dict:
    """Defaults for this script out of a training config (YAML), by the table LIKE."""
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError:
        die(f"--like {path!r} cannot be read: name a training config")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        die(f"--like {path} is not YAML: {first_line(error)}")
    return {here: options[name] for name, here in LIKE.items() if name in options}


def main(cfg: Config) -> None:
    out = Path(cfg.out_dir)
    if (out / "eval.json").exists() and not cfg.overwrite:
        die(f"{out / 'eval.json'} exists; give another --out_dir, or --overwrite true")
    if cfg.cap < 1 or cfg.samples < 1:
        die(f"--cap {cfg.cap} and --samples {cfg.samples} must be at least 1")
    problems = load_problems(cfg.data, cfg.problem_key, cfg.answer_key)
    problems = problems[: cfg.max_problems or None]
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    model = rollout_model(policy, cfg, cfg.cap)
    prompt_cap = cfg.prompt_cap or cfg.cap
    started = time.time()
    try:
        rows = evaluate(
            model,
            tokenizer,
            problems,
            cfg,
            samples=cfg.samples,
            cap=cfg.cap,
            prompt_cap=prompt_cap,
            temperature=cfg.temperature,
            top_p=cfg.top_p,
            instruction=cfg.instruction,
        )
    except ValueError as error:
        die(f"{cfg.data}: {error}")
    result = metrics(rows) | dataclasses.asdict(cfg)
    result |= {"prompt_cap": prompt_cap, "seconds": round(time.time() - started, 1)}
    write_jsonl(out / "rollouts.jsonl", rows)
    write_text(out / "eval.json", json.dumps(result, indent=1) + "\n")
    se = "" if result["pass@1_se"] is None else f" +- {100 * result['pass@1_se']:.1f}"
    print(
        f"{out}: pass@1 {100 * result['pass@1']:.1f}{se} % | mean tokens {result['mean_tokens']:.0f} | finished "
        f"{result['finished']:.0%} | {result['n_problems']} x {result['n_samples']} | {result['seconds']:.0f} s"
    )


def command(arguments: list[str]) -> None:
    """Runs the sub-command that the arguments name."""
    if arguments[:1] == ["compare"]:
        import analyse  # imports this file

        analyse.main(arguments)
    elif arguments[:1] == ["report"]:
        if len(arguments) != 2:
            die("usage: python eval.py report RUN_FOLDER")
        report(arguments[1])
    else:
        defaults = {}
        if "--like" in arguments:
            at = arguments.index("--like")
            defaults = like(arguments[at + 1] if at + 1 < len(arguments) else "")
            del arguments[at : at + 2]
        main(parse(Config, args=arguments, set_defaults=defaults))


if __name__ == "__main__":
    try:
        command(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is kept of an evaluation that has not ended", file=sys.stderr)
        sys.exit(130)
