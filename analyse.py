r"""Analyses of one or two measured policies: what eval.py wrote goes in, tables and JSON come out.

    python analyse.py metrics out/toy/base_test out/toy/final_test     # pass@k, cons@k, lengths, difference, curve
    python analyse.py budget out/toy/base_test out/toy/final_test      # budget forcing, run for real on A's model
    python analyse.py words A B; python analyse.py perplexity A B      # reflection words; readability
    python analyse.py behaviours A B --judge_url http://localhost:8000/v1 --judge_model NAME    # ten phases
    python analyse.py baselines A B [MORE ...]    # other prompts (eval.py folders), majority vote at equal tokens
    python analyse.py compare A B                 # report.md of all of these, and the trace page

A and B are folders that eval.py wrote (eval.json, rollouts.jsonl) for the same problems and the same cap;
compare and baselines need both, the others also take A alone. Results are JSON files in `analysis` beside B.

Unlike the paper's tables: every difference is paired by problem, has a 95 % bootstrap interval and says
"not distinguishable" where that holds 0; cons@k is exact, not sampled; budget forcing cuts the very thoughts
that A's own figures come from, so nothing but the cut differs.
"""

import dataclasses
import hashlib
import http.client
import itertools
import json
import math
import os
import re
import shlex
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import reward
from eval import mean_and_se, metrics
from sample import Options, choose_rows, die, generate_rollouts, load_policy, parse, rollout_model, write_text

# --- yours to edit: what ends the thinking in budget forcing, and what the judge is told
CUE = "\n</think>\n\n**Final Answer**\n\\boxed{"
PHASES = {
    "understand": "reads the problem, says what is given and what is asked",
    "reformulate": "puts the problem into other words, symbols or an equivalent form",
    "theorem": "brings in a known theorem, formula or standard method",
    "decompose": "splits the task into parts or cases, or plans the way",
    "compute": "calculates, expands or simplifies",
    "substitute": "puts values or expressions into a formula",
    "recheck_step": "doubts or verifies one step or one number",
    "recheck_all": "doubts or verifies the answer or the solution as a whole",
    "explore": "leaves the present approach for another one",
    "finalize": "states the result or wraps up",
}
JUDGE = """A solution to a mathematics problem was cut into steps. Decide which phase of problem solving one step belongs to.

Phases:
{phases}

Problem: {problem}

The step before: {before}

The step to label: {step}

Reply with the name of one phase and nothing else."""


@dataclass
class Config(Options):
    """Options of analyse.py. Those of the model (`--model`, `--load_4bit`, ...) default to A's eval.json."""

    adapter: str = ""
    """budget: PEFT adapter on the model. (The reference of perplexity is always a bare base.)"""
    out_dir: str = ""
    """Folder for the results; empty: `analysis` beside the last of the first two folders."""
    overwrite: bool = False
    """Write over results that are there."""
    resamples: int = 10_000
    """Draws of the bootstrap over problems."""
    caps: list[int] = field(default_factory=list)
    """metrics: caps of the accuracy-under-a-cap curve, in tokens; empty: 20 steps up to the longest response."""
    budgets: list[int] = field(default_factory=list)
    """budget: thinking budgets in tokens; empty: 1/8, 1/4, 3/8, 1/2, 3/4 and all of A's mean length."""
    cue: str = ""
    """budget: text that ends the thinking; empty: how A opens most of its answers, else CUE (for R1-Distill)."""
    answer_cap: int = 64
    """budget: most tokens of a forced answer."""
    answer_temperature: float = 0.0
    """budget: 0 answers greedily."""
    reflection: list[str] = field(default_factory=lambda: ["Wait", "But wait", "Alternatively", "double-check"])
    """words: phrases of reflection."""
    working: list[str] = field(default_factory=lambda: ["Therefore", "let me compute"])
    """words: phrases of plain work."""
    tokens_per_batch: int = 8192
    """perplexity: padded tokens per forward; moves speed and memory, never the result."""
    perplexity: bool = False
    """compare: measure perplexity, too, where it has not been."""
    judge_url: str = ""
    """behaviours: OpenAI-compatible endpoint such as http://localhost:8000/v1; empty: --judge_model is local."""
    judge_model: str = ""
    """behaviours: the judge's name at the endpoint, or a model's folder or hub id."""
    judge_key_env: str = "OPENAI_API_KEY"
    """behaviours: environment variable that holds the endpoint's key, if it wants one."""
    judge_timeout: float = 60.0
    """behaviours: seconds to wait for a reply."""
    judge_tokens: int = 64
    """behaviours: most tokens of a reply; more for a judge that thinks aloud."""
    judge_problems: int = 32
    """behaviours: judge the first answer to each of the first so many problems; 0: to all."""


# ---------------------------------------------------------------------------------------- what was measured


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
        path = Path(folder, "rollouts.jsonl")
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # splitlines would cut at U+2028
    except OSError as error:
        die(f"{path}: {error.strerror} (python eval.py --out_dir {folder} writes it)")
    except (ValueError, KeyError, TypeError) as error:
        die(f"{path} is not as eval.py writes it ({error!r})")
    problems: dict[str, dict[int, dict]] = {}
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            row = json.loads(line)
        except ValueError:
            die(f"{path} line {number} is not JSON")
        for key, kind in KINDS.items():
            if not isinstance(row, dict) or key not in row:
                die(f"{path} line {number} has no {key}")
            if not isinstance(row[key], kind):
                die(f"{path} line {number}: {key} is {row[key]!r}, not {getattr(kind, '__name__', kind)}")
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
    return Run(folder, info, [row for group in groups for row in group], [group[0]["id"] for group in groups], right, tokens)


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
            lines.append(f"{run.folder}: one sample a problem, so no pass@k, no vote, and no error bar within a problem.")
        if not run.right.any():
            lines.append(f"{run.folder}: no right answer at all.")
    for key in ("data", "model", "temperature", "top_p", "prompt_cap", "samples", "seed"):
        values = [run.info.get(key) for run in runs]
        if any(value != values[0] for value in values):
            lines.append(f"They differ in {key}: {', '.join(map(str, values))}.")
    return lines


# ---------------------------------------------------------------------------------------- statistics


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
            times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)   # (size, P)
            draws.append(statistic(times.astype(float) @ values / n))
    if not math.isfinite(value):
        return {"value": None, "low": None, "high": None, "verdict": "nothing to compare"}
    draws = np.concatenate(draws or [np.empty(0)])
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return {"value": value, "low": None, "high": None, "verdict": "no interval"}
    low, high = map(float, np.percentile(draws, [2.5, 97.5]))
    verdict = "B higher" if low > null else "B lower" if high < null else "not distinguishable"
    return {"value": value, "low": low, "high": high, "verdict": verdict}


def difference(m: np.ndarray) -> np.ndarray:
    """B - A of means (..., 2)."""
    return m[..., 1] - m[..., 0]


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


def votes(run: Run, ks: Sequence[int]) -> np.ndarray:
    """(len(ks), P) cons@k of each problem."""
    counts = [ballots(group) for group in run.groups]  # once: comparing spellings is the slow part
    return np.array([[cons_at_k(*count, k) for count in counts] for k in ks])


# ---------------------------------------------------------------------------------------- metrics


def measure(run: Run, caps: list[int]) -> dict:
    """Every figure of one side: those of eval.json, and pass@k, cons@k, percentiles, the curve."""

    def spread(tokens: np.ndarray) -> dict | None:
        if not tokens.size:
            return None
        names, at = ("p10", "median", "p90", "max"), (10, 50, 90, 100)
        return {"n": tokens.size, "mean": float(tokens.mean())} | dict(zip(names, map(float, np.percentile(tokens, at))))

    def point(values: np.ndarray) -> dict:
        mean, se = mean_and_se(values.reshape(len(run.ids), -1).astype(float).tolist())
        return {"value": mean, "se": se}

    figures, n = metrics(run.rows), run.samples
    curve = []
    for cap in caps:
        accuracy = point(run.right & (run.tokens <= cap))
        mean_tokens = float(np.minimum(run.tokens, cap).mean())
        curve.append({"cap": cap, "pass@1": accuracy["value"], "pass@1_se": accuracy["se"], "mean_tokens": mean_tokens})
    return figures | {
        "pass@1_per_1k_tokens": 1000 * figures["pass@1"] / figures["mean_tokens"],
        "pass@k": {k: point(np.array([pass_at_k(n, c, k) for c in run.right.sum(1).tolist()])) for k in powers(n)},
        "cons@k": {k: point(values) for k, values in zip(powers(n), votes(run, powers(n)))},
        "lengths": {"all": spread(run.tokens), "right": spread(run.tokens[run.right]), "wrong": spread(run.tokens[~run.right])},
        "curve": curve,
    }


def analyse_metrics(runs: list[Run], cfg: Config) -> dict:
    longest = max(int(run.tokens.max()) for run in runs)
    caps = sorted(set(cfg.caps or [math.ceil(longest * i / 20) for i in range(1, 21)]))
    result = {side: measure(run, caps) for side, run in zip("AB", runs)}
    if len(runs) > 1:
        columns = np.concatenate([run.means() / [1, 1000] for run in runs], 1)           # (P, 4), lengths in 1,000 tokens
        ended = [[np.mean([row["finished"] for row in group]) for group in run.groups] for run in runs]
        result["difference"] = {
            "pass@1": bootstrap(columns[:, [0, 2]], difference, 0.0, cfg.resamples, cfg.seed),
            "mean_tokens": bootstrap(1000 * columns[:, [1, 3]], difference, 0.0, cfg.resamples, cfg.seed),
            "tokens_ratio": bootstrap(columns[:, [1, 3]], lambda m: m[..., 1] / m[..., 0], 1.0, cfg.resamples, cfg.seed),
            "finished": bootstrap(np.array(ended).T, difference, 0.0, cfg.resamples, cfg.seed),
            "pass@1_per_1k_tokens": bootstrap(columns, quotient_difference, 0.0, cfg.resamples, cfg.seed),
        }
    return result


def analyse_baselines(runs: list[Run], cfg: Config) -> dict:
    """One answer of each run, majority votes of A and B, and B's vote at no more than the tokens of A's one answer."""
    a, b, *_ = runs
    result = {"rows": [], "votes": {}}
    for run in runs:
        mean, se = mean_and_se(run.right.astype(float).tolist())
        result["rows"].append({"folder": run.folder, "instruction": run.info.get("instruction"), "pass@1": mean, "pass@1_se": se})
        change = bootstrap(np.stack([a.right.mean(1), run.right.mean(1)], 1), difference, 0.0, cfg.resamples, cfg.seed)
        result["rows"][-1] |= {"mean_tokens": float(run.tokens.mean()), "difference": change}
    for side, run in zip("AB", runs):
        result["votes"][side] = []
        for k, values in zip(powers(run.samples), votes(run, powers(run.samples)).tolist()):
            value, se = mean_and_se([[v] for v in values])
            result["votes"][side].append({"k": k, "value": value, "se": se, "tokens": k * float(run.tokens.mean())})
    k = min(b.samples, max(1, int(a.tokens.mean() / b.tokens.mean())))
    change = bootstrap(np.stack([a.right.mean(1), votes(b, [k])[0]], 1), difference, 0.0, cfg.resamples, cfg.seed)
    return result | {"equal_tokens": {"k": k, "tokens": k * float(b.tokens.mean()), "difference": change}}


# ---------------------------------------------------------------------------------------- budget forcing


def split_ids(tokenizer, text: str) -> tuple[list[int], int, int]:
    """(ids, tokens before the first </think>, tokens through it); without one both are the number of ids."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    at = text.find("</think>")
    if at < 0:
        return coded.input_ids, len(coded.input_ids), len(coded.input_ids)
    starts = [start for start, _ in coded.offset_mapping]
    return coded.input_ids, sum(s < at for s in starts), sum(s < at + len("</think>") for s in starts)


def usual_cue(run: Run) -> str:
    """What most of a run's finished answers write from </think> up to their box, or CUE where they do not agree.

    A cue that the model does not know makes it answer badly, which is no fair baseline.
    """
    texts = [row["response"] for row in run.rows if row["finished"]]
    opened = Counter(m[1] for text in texts if (m := re.search(r"</think>([^{}]{0,80}?\\boxed\{)", text)))
    opening, count = opened.most_common(1)[0] if opened else ("", 0)
    return f"\n</think>{opening}" if 2 * count > len(texts) else CUE


def force(model, tokenizer, run: Run, coded: list, budget: int, cue: str, cfg: Config) -> tuple[Run, list[dict]]:
    """The run as it would be with at most `budget` thinking tokens, and the answers that were forced.

    A rollout that ended its thinking (or ended) within the budget stays as it is. Any other keeps its first
    `budget` tokens; the cue is put after them and the model answers. n_tokens counts the kept thinking and
    the generated answer, not the cue. A forced answer counts once its box is closed, end token or not:
    where to stop after it was not the model's choice.

    Args:
        coded: `split_ids` of every response.
    """
    cut = [i for i, (row, (ids, before, _)) in enumerate(zip(run.rows, coded))
           if before > budget or not row["finished"] and "</think>" not in row["response"]]
    cue_ids = tokenizer(cue, add_special_tokens=False).input_ids
    prompts = [tokenizer(run.rows[i]["prompt"], add_special_tokens=False).input_ids + coded[i][0][:budget] + cue_ids for i in cut]
    with tqdm(total=len(cut), desc=f"budget {budget}", unit="answer", leave=False, disable=None) as bar:
        answers = generate_rollouts(
            model,
            tokenizer,
            prompts,
            cap=cfg.answer_cap,
            temperature=cfg.answer_temperature,
            rows=choose_rows(model, cfg, max(map(len, prompts), default=0) + cfg.answer_cap),
            seed=cfg.seed,
            progress=bar,
        )
    grades = reward.grade([cue + answer.text for answer in answers], [run.rows[i]["gold"] for i in cut])
    rows, forced = list(run.rows), []
    for i, answer, grade in zip(cut, answers, grades):
        n = len(coded[i][0][:budget]) + len(answer.ids)
        rows[i] = rows[i] | {"n_tokens": n, "finished": True, "correct": grade.correct, "answer": grade.answer}
        forced.append({key: rows[i][key] for key in ("id", "sample", "n_tokens", "answer", "correct")})
        forced[-1] |= {"budget": budget, "text": cue + answer.text}
    return arrange(run.folder, run.info, run._replace(rows=rows).groups), forced


def at_equal_tokens(policy, curve, resamples: int = 10_000, seed: int = 0) -> dict:
    """pass@1 of a policy minus that of a curve of (accuracy, tokens) points at the policy's own mean tokens.

    Between neighbouring points every problem's accuracy and length is interpolated linearly, which is what
    spending the larger budget on a part of the questions would give. Beyond its ends the curve is level, so
    a policy shorter than the smallest budget is compared with more tokens than it uses itself.

    Args:
        policy: (P, 2) pass@1 and tokens of each problem. curve: (K, P, 2) the same at each point.

    >>> at_equal_tokens([[1, 15], [1, 15]], [[[0, 10], [0, 10]], [[1, 20], [0, 20]]])["value"]
    0.75
    """
    k = len(curve)

    def at(m: np.ndarray) -> np.ndarray:
        points = m[..., 2:].reshape(-1, k, 2)
        points = np.take_along_axis(points, points[..., 1].argsort(-1)[..., None], 1)
        return np.array([np.interp(x, p[:, 1], p[:, 0]) for x, p in zip(m[..., 1].ravel(), points)]).reshape(m.shape[:-1])

    values = np.concatenate([policy, *curve], 1)                                         # (P, 2 + 2K)
    result = bootstrap(values, lambda m: m[..., 0] - at(m), 0.0, resamples, seed)
    mean = values.mean(0)
    figures = {"mean_tokens": mean[1], "pass@1": mean[0], "curve_pass@1": float(at(mean)), "shorter_than_curve": mean[1] < mean[3::2].min()}
    return result | {key: np.asarray(value).item() for key, value in figures.items()}


def analyse_budget(runs: list[Run], cfg: Config) -> dict:
    a, whole = runs[0], float(runs[0].tokens.mean())
    budgets = sorted(set(cfg.budgets or [max(1, round(whole * i / 8)) for i in (1, 2, 3, 4, 6, 8)]))
    cue = cfg.cue or usual_cue(a)
    if not cfg.thinking or "</think>" not in cue:
        die(f"budget forcing ends the thinking: --thinking must be true and --cue {cue!r} must hold </think>")
    if budgets[0] < 1 or budgets[-1] > a.info["cap"] or cfg.answer_cap < 1:
        die(f"--budgets {budgets} must be 1 to {a.info['cap']}, the cap of {a.folder}, and --answer_cap at least 1")
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    model = rollout_model(policy, cfg, a.info["cap"])
    coded = [split_ids(tokenizer, row["response"]) for row in a.rows]
    result, curve = {"cue": cue, "rows": [], "forced": []}, []
    for budget in budgets:
        try:
            run, forced = force(model, tokenizer, a, coded, budget, cue, cfg)
        except ValueError as error:
            die(f"--budgets {budget}: {error}")
        figures = metrics(run.rows)
        result["rows"].append({"budget": budget, "forced": len(forced) / len(a.rows)})
        result["rows"][-1] |= {key: figures[key] for key in ("mean_tokens", "pass@1", "pass@1_se")}
        result["forced"] += forced
        curve.append(run.means())
    if len(runs) > 1:
        mine = runs[1].means()
        curve.append(a.means())  # A itself is the last point: a budget that nobody reaches
        result["equal_tokens"] = at_equal_tokens(mine, curve, cfg.resamples, cfg.seed)
        # More budget may mean less accuracy (a thought cut at the wrong place misleads), so the fair rival is
        # also the best budget that costs no more than B.
        cheap = [i for i, point in enumerate(curve) if point[:, 1].mean() <= mine[:, 1].mean()]
        if cheap:
            best = max(cheap, key=lambda i: curve[i][:, 0].mean())
            change = bootstrap(np.stack([curve[best][:, 0], mine[:, 0]], 1), difference, 0.0, cfg.resamples, cfg.seed)
            result["best_budget"] = {"budget": [*budgets, None][best], "difference": change}
    return result


# ---------------------------------------------------------------------------------------- reflection words


def phrase_pattern(*phrases: str) -> re.Pattern:
    r"""Matches any of the phrases: case ignored; whole words (no letter, digit or _ beside them); a blank or hyphen
    inside a phrase matches any run of blanks, line ends and hyphens.

    A phrase is counted wherever it stands, so "But wait" counts for "Wait", too; with several phrases the
    longest one that starts first is taken, and each place counts once: that is how totals are made.

    >>> [len(phrase_pattern("Wait").findall(t)) for t in ("But wait, WAIT. wait-", "waiting await wait_1")]
    [3, 0]
    >>> len(phrase_pattern("Wait", "But wait").findall("But\nwait. Wait")), bool(phrase_pattern("double-check").search("double check"))
    (2, True)
    """
    parts = (re.split(r"[\s-]+", phrase.strip()) for phrase in sorted(phrases, key=len, reverse=True))
    return re.compile(r"(?<!\w)(?:" + "|".join(r"[\s\-\u2010\u2011]+".join(map(re.escape, p)) for p in parts) + r")(?!\w)", re.I)


def analyse_words(runs: list[Run], cfg: Config) -> dict:
    lists = {"reflection": cfg.reflection, "working": cfg.working}
    listed = cfg.reflection + cfg.working
    if not listed or not all(phrase.strip(" -") for phrase in listed):
        die("--reflection and --working need phrases, none of them empty")
    patterns = {phrase: phrase_pattern(phrase) for phrase in listed}
    patterns |= {f"all {name}": phrase_pattern(*phrases) for name, phrases in lists.items() if phrases}
    result = {"A": {}, "totals": {}, "per_1k_tokens": {}} | lists
    counts = {p: [np.array([len(x.findall(r["response"])) for r in run.rows]).reshape(run.tokens.shape) for run in runs]
              for p, x in patterns.items()}                                              # phrase: (P, S) of each side
    for i, run in enumerate(runs):
        mean = {p: float(n[i].mean()) for p, n in counts.items()}
        result["AB"[i]] = {p: mean[p] for p in mean if p in listed}
        result["totals"]["AB"[i]] = {p: mean[p] for p in mean if p not in listed}
        result["per_1k_tokens"]["AB"[i]] = {p: float(1000 * n[i].sum() / run.tokens.sum()) for p, n in counts.items()}
    if len(runs) > 1:
        pairs = {p: np.stack([x.mean(1) for x in n], 1) for p, n in counts.items()}
        result["difference"] = {p: bootstrap(x, difference, 0.0, cfg.resamples, cfg.seed) for p, x in pairs.items()}
    return result


# ---------------------------------------------------------------------------------------- readability


@torch.no_grad()
def response_nll(model, sequences: list[list[int]], starts: list[int], tokens_per_batch: int, chunk: int = 512) -> list[np.ndarray]:
    """Minus the log-prob of every token of each sequence from its start on, as float32 arrays.

    The hidden states of a batch are made once; the logits, which no card holds for a long response and 152k
    tokens of vocabulary, `chunk` positions at a time.

    Args:
        sequences: Token ids, prompt and response. starts: index of the first response token, at least 1.
        tokens_per_batch: Padded tokens of one forward; a longer sequence goes alone.
    """
    decoder, head, result = model.get_decoder(), model.get_output_embeddings(), [np.empty(0)] * len(sequences)
    order, done = sorted(range(len(sequences)), key=lambda i: -len(sequences[i])), 0  # like lengths together
    with tqdm(total=len(order), desc="perplexity", unit="response", leave=False, disable=None) as bar:
        while done < len(order):
            width = len(sequences[order[done]])
            batch = order[done : done + max(1, tokens_per_batch // width)]
            # Padding stands on the right, where causal attention never looks: no mask is needed.
            ids = torch.tensor([sequences[i] + [0] * (width - len(sequences[i])) for i in batch], device=model.device)
            on = torch.zeros_like(ids, dtype=torch.bool)
            for row, i in enumerate(batch):
                on[row, starts[i] : len(sequences[i])] = True
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state                          # (B, T, H)
            # Position t predicts token t+1: drop the last state and the first token.
            states, targets = hidden[:, :-1][on[:, 1:]], ids[:, 1:][on[:, 1:]]                          # (N, H), (N,)
            losses = [torch.nn.functional.cross_entropy(head(x).float(), y, reduction="none")
                      for x, y in zip(states.split(chunk), targets.split(chunk))]
            losses = torch.cat(losses).cpu().numpy() if losses else np.empty(0)
            for i, piece in zip(batch, np.split(losses, np.cumsum([len(sequences[i]) - starts[i] for i in batch])[:-1])):
                result[i] = piece
            done += len(batch)
            bar.update(len(batch))
    return result


PARTS = ("all", "thinking", "answer")


def nll_by_problem(model, tokenizer, run: Run, cfg: Config) -> dict[str, np.ndarray]:
    """For each of PARTS (P, 2): the summed minus log-prob and the tokens of a problem's responses.

    The thinking runs through </think>; the answer is the rest, with the end token where there was one.
    """
    coded = [split_ids(tokenizer, row["response"]) for row in run.rows]
    prompts = [tokenizer(row["prompt"], add_special_tokens=False).input_ids for row in run.rows]
    ends = [[tokenizer.eos_token_id] if row["finished"] else [] for row in run.rows]
    sequences = [prompt + ids + end for prompt, (ids, _, _), end in zip(prompts, coded, ends)]
    nll = response_nll(model, sequences, list(map(len, prompts)), cfg.tokens_per_batch)
    cuts = {"all": [(0, None)] * len(nll), "thinking": [(0, n) for *_, n in coded], "answer": [(n, None) for *_, n in coded]}
    sums = {part: [(x[i:j].sum(dtype=float), len(x[i:j])) for x, (i, j) in zip(nll, cuts[part])] for part in PARTS}
    return {part: np.array(pairs, float).reshape(*run.tokens.shape, 2).sum(1) for part, pairs in sums.items()}


def analyse_perplexity(runs: list[Run], cfg: Config) -> dict:
    policy, tokenizer = load_policy(cfg)
    model, result = rollout_model(policy, cfg, 0), {"reference": cfg.model}
    sums = [nll_by_problem(model, tokenizer, run, cfg) for run in runs]
    for side, parts in zip("AB", sums):
        totals = {part: x.sum(0) for part, x in parts.items()}
        result[side] = {part: math.exp(nll / n) if n else None for part, (nll, n) in totals.items()}
        result[side]["tokens"] = {part: int(n) for part, (_, n) in totals.items()}
    if len(runs) > 1:
        pairs = {part: np.concatenate([x[part] for x in sums], 1) for part in PARTS}      # (P, 4)
        result["ratio"] = {part: bootstrap(x, lambda m: np.exp(quotient_difference(m)), 1.0, cfg.resamples, cfg.seed)
                           for part, x in pairs.items()}
    return result


# ---------------------------------------------------------------------------------------- behaviours


def steps(response: str, longest: int = 600) -> list[str]:
    r"""Cuts the thinking into steps: paragraphs (between blank lines), or lines where there is one paragraph only.

    What is longer than `longest` characters is cut at sentence ends, as few times as will do; pieces without a
    letter or digit are dropped. The thinking ends at the first </think>; cut-off thinking counts.

    >>> steps("Let x be 1.\n\nSo x = 1.\n---\n\n***</think>\nDone."), steps("a = 1\nb = 2")
    (['Let x be 1.', 'So x = 1.\n---'], ['a = 1', 'b = 2'])
    >>> steps("One is odd. Two is even. Three?", longest=20)
    ['One is odd.', 'Two is even. Three?']
    """
    text = response.partition("</think>")[0].rpartition("<think>")[2].strip()
    pieces, result = [p for p in re.split(r"\n\s*\n", text)], []
    for piece in pieces if len(pieces) > 1 else text.split("\n"):
        whole = ""
        for sentence in re.split(r"(?<=[.!?])\s+", piece) if len(piece) > longest else [piece]:
            if whole and len(whole) + 1 + len(sentence) > longest:
                result.append(whole)
                whole = ""
            whole = f"{whole} {sentence}".strip()
        result.append(whole)
    return [r.strip() for r in result if re.search(r"\w", r)]


def parse_phase(reply: str) -> str | None:
    """The one phase that a reply names (after its thinking, if it thinks aloud); None for none or several.

    >>> parse_phase("**Compute**."), parse_phase("compute or explore"), parse_phase("<think>explore</think> finalize")
    ('compute', None, 'finalize')
    """
    found = set(re.findall(r"(?<![a-z_])(" + "|".join(PHASES) + r")(?![a-z_])", reply.rpartition("</think>")[2].lower()))
    return found.pop() if len(found) == 1 else None


def ask_endpoint(cfg: Config, prompt: str) -> tuple[str | None, str]:
    """(reply, "") of an OpenAI-compatible endpoint, or (None, what went wrong)."""
    url = cfg.judge_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    body = {"model": cfg.judge_model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": cfg.judge_tokens}
    key = os.environ.get(cfg.judge_key_env, "")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=cfg.judge_timeout) as response:
            reply = json.loads(response.read(1 << 20))["choices"][0]["message"]["content"]
        return (reply, "") if isinstance(reply, str) else (None, "a reply without text")
    except urllib.error.HTTPError as error:
        return None, f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return None, str(getattr(error, "reason", error)) or type(error).__name__
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, "a reply that is not a chat completion"


def make_judge(cfg: Config) -> Callable[[list[str], int], list[tuple[str | None, str]]]:
    """A function from prompts and the number of the attempt to (reply, error) pairs; loads a local model once."""
    if cfg.judge_url:
        if not cfg.judge_url.startswith(("http://", "https://")):
            die(f"--judge_url {cfg.judge_url} must start with http:// or https://")

        def ask(prompts: list[str], attempt: int):
            with ThreadPoolExecutor(8) as threads:
                return list(threads.map(lambda prompt: ask_endpoint(cfg, prompt), prompts))

        return ask
    if not cfg.judge_model:
        die("behaviours needs a judge: --judge_url and --judge_model, or a local --judge_model")
    policy, tokenizer = load_policy(dataclasses.replace(cfg, model=cfg.judge_model))
    model = rollout_model(policy, cfg, 4096)

    def ask_local(prompts: list[str], attempt: int):
        chats = [tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True) for p in prompts]
        ids = [tokenizer(chat, add_special_tokens=False).input_ids for chat in chats]
        rows = choose_rows(model, cfg, max(map(len, ids)) + cfg.judge_tokens)
        # The second attempt is sampled: a greedy one would say the same again.
        options = {"cap": cfg.judge_tokens, "temperature": 0.7 * attempt, "rows": rows, "seed": cfg.seed}
        try:
            return [(rollout.text, "") for rollout in generate_rollouts(model, tokenizer, ids, **options)]
        except ValueError as error:
            die(f"--judge_model {cfg.judge_model}: {error}")

    return ask_local


def label_steps(prompts: list[str], cfg: Config, cache: Path) -> list[str | None]:
    """The judge's phase for each prompt, None where two attempts named none.

    Good replies are appended to `cache` (JSON lines, by hash of judge and prompt), so that a run that was
    stopped goes on where it was. Exits with status 2 when no prompt of a batch gets a reply in two attempts: the judge is down.
    """
    keys = [hashlib.sha256(f"{cfg.judge_url}\n{cfg.judge_model}\n{p}".encode()).hexdigest() for p in prompts]
    known: dict[str, str] = {}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []:
        try:
            known.update({row["key"]: row["phase"] for row in [json.loads(line)] if row["phase"] in PHASES})
        except (ValueError, KeyError, TypeError):
            pass  # the half line of a run that was killed: asked again
    left = {key: prompt for key, prompt in zip(keys, prompts) if key not in known}
    judge, batch, heard = make_judge(cfg) if left else None, 8 if cfg.judge_url else 64, False
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file, tqdm(total=len(left), desc="judge", unit="step", leave=False, disable=None) as bar:
        file.write("\n" if left and cache.stat().st_size else "")  # a killed run's half line must not swallow ours
        for start in range(0, len(left), batch):
            asked, replied, error = list(left)[start : start + batch], False, ""
            for attempt in range(2):
                open_keys = [key for key in asked if key not in known]
                for key, (reply, wrong) in zip(open_keys, judge([left[key] for key in open_keys], attempt) if open_keys else []):
                    replied, error = replied or reply is not None, wrong or error
                    if reply is not None and (phase := parse_phase(reply)):
                        known[key] = phase
                        file.write(json.dumps({"key": key, "phase": phase, "reply": reply}) + "\n")
                file.flush()
            heard = heard or replied
            if not replied and (not heard or len(asked) == batch):  # one bad step at the end is no dead judge
                die(f"judge {cfg.judge_url} gives no replies ({error}); what it has labelled so far is kept in {cache}")
            bar.update(len(asked))
    return [known.get(key) for key in keys]


def analyse_behaviours(runs: list[Run], cfg: Config) -> dict:
    phases = "\n".join(f"{name}: {what}" for name, what in PHASES.items())
    result, counts = {"judge": f"{cfg.judge_model} {cfg.judge_url}".strip(), "steps": {}, "invalid": {}}, []
    for side, run in zip("AB", runs):
        prompts, owner = [], []
        for p, (row, *_) in enumerate(run.groups[: cfg.judge_problems or None]):
            pieces = steps(row["response"])
            for before, step in zip(["(none)", *pieces], pieces):
                prompts.append(JUDGE.format(phases=phases, problem=row["problem"][:4000], before=before[:2000], step=step[:2000]))
                owner.append(p)
        labels = label_steps(prompts, cfg, Path(cfg.out_dir, "judge.jsonl"))
        count = np.zeros((len(run.ids), len(PHASES) + 1))                                # (P, phases, then all labelled)
        for p, label in zip(owner, labels):
            if label:
                count[p, [list(PHASES).index(label), -1]] += 1
        *shares, labelled = count.sum(0).tolist()
        result[side] = {name: n / labelled if labelled else None for name, n in zip(PHASES, shares)}
        result["steps"][side], result["invalid"][side] = len(labels), labels.count(None)
        counts.append(count[: cfg.judge_problems or None])
    if len(runs) > 1:
        pairs = {name: np.concatenate([count[:, [i, -1]] for count in counts], 1) for i, name in enumerate(PHASES)}
        result["difference"] = {n: bootstrap(x, quotient_difference, 0.0, cfg.resamples, cfg.seed) for n, x in pairs.items()}
    return result


# ---------------------------------------------------------------------------------------- tables


def num(x: float | None, digits: int = 1, scale: float = 1.0, se: float | None = None) -> str:
    return "-" if x is None else f"{scale * x:.{digits}f}" + ("" if se is None else f" +- {scale * se:.{digits}f}")


def gap(d: dict, digits: int = 1, scale: float = 1.0) -> str:
    """A bootstrap result as one cell.

    >>> gap({"value": -0.5, "low": -0.625, "high": 0.25, "verdict": "not distinguishable"}, 1, 100)
    '-50.0 [-62.5, 25.0] not distinguishable'
    """
    interval = "" if d["low"] is None else f" [{num(d['low'], digits, scale)}, {num(d['high'], digits, scale)}]"
    return f"{num(d['value'], digits, scale)}{interval} {d['verdict']}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that reads well as plain text, too."""
    rows = [[str(cell).replace("|", "\\|").replace("\n", "\\n") for cell in row] for row in (head, *rows)]
    width = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:], ""]


def side_table(r: dict, label: str, names: dict, cell: Callable, versus: str, digits: int, scale: float = 1.0) -> list[str]:
    """One row a name, one column a side, and the difference where there are two. names: key -> row label."""
    sides = [side for side in "AB" if side in r]
    return table([label, *sides, *(["difference [95 %]" if versus == "difference" else "B / A [95 %]"] if versus in r else [])],
                 [[text, *(cell(side, key) for side in sides), *([gap(r[versus][key], digits, scale)] if versus in r else [])]
                  for key, text in names.items()])


def show_metrics(r: dict) -> list[str]:
    sides, d = [side for side in "AB" if side in r], r.get("difference", {})
    lines = [("pass@1, %", "pass@1", 100, 1), ("mean tokens", "mean_tokens", 1, 1), ("finished, %", "finished", 100, 1),
             ("pass@1, % per 1,000 tokens", "pass@1_per_1k_tokens", 100, 1)]
    rows = [[text, *(num(r[s][key], digits, scale, r[s].get(key + "_se")) for s in sides),
             gap(d[key], digits, scale) if d else ""] for text, key, scale, digits in lines]
    rows += [["tokens, B / A", "", "", gap(d["tokens_ratio"], 3)]] if d else []
    rows += [[f"{name}, %", *(num(r[s][kind][k]["value"], 1, 100, r[s][kind][k]["se"]) if k in r[s][kind] else "-" for s in sides), ""]
             for kind in ("pass@k", "cons@k") for k in max((r[s][kind] for s in sides), key=len) for name in [kind[:5] + str(k)]]
    rows += [[f"tokens, {kind}: {key}", *(num(r[s]["lengths"][kind] and r[s]["lengths"][kind][key], 0) for s in sides), ""]
             for kind in ("all", "right", "wrong") for key in ("mean", "p10", "median", "p90", "max")]
    curve = [[x[0]["cap"], *(num(p["pass@1"], 1, 100, p["pass@1_se"]) for p in x), *(num(p["mean_tokens"], 0) for p in x)]
             for x in zip(*(r[s]["curve"] for s in sides))]
    return [*table(["", *sides, "B - A [95 %]" if d else ""], rows), "Cut at a cap, cut = wrong:", "",
            *table(["cap", *(f"pass@1 {s}, %" for s in sides), *(f"mean tokens {s}" for s in sides)], curve)]


def show_baselines(r: dict) -> list[str]:
    rows = [[x["folder"], x["instruction"] or "", "1 answer", num(x["pass@1"], 1, 100, x["pass@1_se"]), num(x["mean_tokens"], 0),
             gap(x["difference"], 1, 100)] for x in r["rows"]]
    rows += [[r["rows"]["AB".index(side)]["folder"], "", f"vote of {v['k']}", num(v["value"], 1, 100, v["se"]), num(v["tokens"], 0), ""]
             for side, points in r["votes"].items() for v in points if v["k"] > 1]
    e = r["equal_tokens"]
    return [*table(["folder", "instruction", "", "right, %", "tokens a question", "against A, 1 answer [95 %]"], rows),
            f"A vote of {e['k']} of B costs {e['tokens']:.0f} tokens, one answer of A {r['rows'][0]['mean_tokens']:.0f}. "
            f"Vote of B - one answer of A, points: {gap(e['difference'], 1, 100)}", ""]


def show_budget(r: dict) -> list[str]:
    rows = [[x["budget"], num(x["forced"], 1, 100), num(x["mean_tokens"]), num(x["pass@1"], 1, 100, x["pass@1_se"])] for x in r["rows"]]
    lines = [f"Cue: `{json.dumps(r['cue'], ensure_ascii=False)}`", "", *table(["budget", "forced, %", "mean tokens", "pass@1, %"], rows)]
    if e := r.get("equal_tokens"):
        lines += [f"At B's {e['mean_tokens']:.1f} mean tokens: B {100 * e['pass@1']:.1f} %, budget forcing on A "
                  f"{100 * e['curve_pass@1']:.1f} %; B - A, points: {gap(e, 1, 100)}", ""]
        if best := r.get("best_budget"):
            lines += [f"Best budget that costs no more than B: {best['budget'] or 'none, A uncut'}; B - A there, points: {gap(best['difference'], 1, 100)}", ""]
        lines += ["B is shorter than any budget here: budget forcing had the tokens of the smallest.", ""] * e["shorter_than_curve"]
    return lines


def show_words(r: dict) -> list[str]:
    names = {p: p for p in [*r["A"], *r["totals"]["A"]]}
    per = lambda side, p: (r[side] | r["totals"][side])[p]  # noqa: E731
    return side_table(r, "a response (and per 1,000 tokens)", names, lambda side, p: f"{per(side, p):.2f} ({r['per_1k_tokens'][side][p]:.2f})",
                      "difference", 2)


def show_perplexity(r: dict) -> list[str]:
    names = {part: f"perplexity, {part}" for part in PARTS}
    return [f"Under {r['reference']}:", "", *side_table(r, "", names, lambda side, part: num(r[side][part], 3), "ratio", 3)]


def show_behaviours(r: dict) -> list[str]:
    counts = ", ".join(f"{r['steps'][s]} of {s} ({r['invalid'][s]} without a valid label)" for s in r["steps"])
    return [f"Judge: {r['judge']}; steps: {counts}.", "", *side_table(r, "share of steps, %", {p: p for p in PHASES},
            lambda side, p: num(r[side][p], 1, 100), "difference", 1, 100)]


# ---------------------------------------------------------------------------------------- the commands

# name: analysis, its table, file, heading, most folders
COMMANDS = {
    "metrics": (analyse_metrics, show_metrics, "metrics.json", "Metrics", 2),
    "baselines": (analyse_baselines, show_baselines, "baselines.json", "Inference-time baselines", 20),
    "budget": (analyse_budget, show_budget, "budget_forcing.json", "Budget forcing", 2),
    "words": (analyse_words, show_words, "words.json", "Reflection and working words", 2),
    "perplexity": (analyse_perplexity, show_perplexity, "perplexity.json", "Readability", 2),
    "behaviours": (analyse_behaviours, show_behaviours, "behaviours.json", "Behaviours", 2),
}


def command(name: str, runs: list[Run], cfg: Config, base: Config) -> str:
    """The command line that makes a result: options that differ from the defaults only."""
    changed = {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg) if getattr(cfg, f.name) != getattr(base, f.name)}
    words = ["python", "analyse.py", name, *(run.folder for run in runs)]
    for key, value in changed.items():
        if key != "overwrite" and (key != "perplexity" or name == "compare"):
            words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(words)


def stamps(runs: list[Run]) -> list[dict]:
    """Folder and content of each side, so that a result is never shown for other rollouts."""
    return [{"folder": run.folder, "sha256": hashlib.sha256(Path(run.folder, "rollouts.jsonl").read_bytes()).hexdigest()[:16]} for run in runs]


def make(name: str, runs: list[Run], cfg: Config, base: Config) -> dict:
    """Runs one analysis and writes its file."""
    analyse, _, file, _, _ = COMMANDS[name]
    result = {"command": command(name, runs, cfg, base), "runs": stamps(runs)} | analyse(runs, cfg)
    Path(cfg.out_dir).mkdir(parents=True, exist_ok=True)
    write_text(Path(cfg.out_dir, file), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return json.loads(json.dumps(result))  # as a reader of the file gets it: keys are strings


def compare(runs: list[Run], cfg: Config, base: Config) -> None:
    """report.md: every analysis that is there or quickly made, side by side, each with its command; and trace.html."""
    out, (a, b) = Path(cfg.out_dir), runs
    if (out / "report.md").exists() and not cfg.overwrite:
        die(f"{out / 'report.md'} exists; --overwrite true writes it anew")
    lines = [f"# {b.folder} (B) against {a.folder} (A)", "", f"`{command('compare', runs, cfg, base)}` made this page.", "",
             f"{len(a.ids)} problems; A {a.samples}, B {b.samples} samples each; cap {a.info['cap']}. +- is one standard error, clustered "
             f"by problem; [ , ] the 95 % interval of {cfg.resamples} bootstrap draws of problems, both sides together.", ""]
    options = "model adapter data cap prompt_cap samples temperature top_p seed".split()
    for run in runs:
        given = [x for key in options if run.info.get(key) not in (None, "") for x in (f"--{key}", str(run.info[key]))]
        lines += ["- rollouts of " + "`" + shlex.join(["python", "eval.py", *given, "--out_dir", run.folder]) + "`"]
    lines += [*(f"- {note}" for note in notes(runs)), ""]
    for name, (_, show, file, heading, _) in COMMANDS.items():
        path, ours = out / file, name in ("metrics", "baselines", "words") or name == "perplexity" and cfg.perplexity
        lines += [f"## {heading}", ""]
        if path.exists() and not (ours and cfg.overwrite):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                fits, text = result["runs"][:2] == stamps(runs), show(result)
            except (ValueError, KeyError, TypeError) as error:
                die(f"{path} is not as analyse.py writes it ({error!r}); remove it")
            if not fits:
                die(f"{path} is of other folders or rollouts; remove it, or run: {command(name, runs, cfg, base)} --overwrite true")
        elif ours:
            result = make(name, runs, cfg, base)
            text = show(result)
        else:
            lines += [f"Not measured: `{command(name, runs, cfg, base)}`", ""]
            continue
        lines += [f"`{result['command']}`", "", *text]
    lines += ["## Trace page", ""]
    try:
        import plot
    except ImportError as error:
        lines += [f"None: {error}.", ""]
    else:
        if cfg.overwrite or not (out / "trace.html").exists():
            plot.trace(a.folder, b.folder, out=str(out / "trace.html"), overwrite=True)
        lines += [f"[trace.html](trace.html): `python plot.py trace {a.folder} {b.folder} --out {out / 'trace.html'}`", ""]
    write_text(out / "report.md", "\n".join(lines))
    print("\n".join(lines) + f"\n{out / 'report.md'}")


def main(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(__doc__)
        parse(Config, args=["--help"])
    if name not in (*COMMANDS, "compare"):
        die(f"{name} is no analysis; there are {', '.join(COMMANDS)} and compare")
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
    least, most = 1 + (name in ("compare", "baselines")), 2 if name == "compare" else COMMANDS[name][-1]
    if not least <= len(folders) <= most:
        die(f"{name} takes {least} to {most} evaluation folders before its options, not {len(folders)}")
    runs = [load_run(folders[0])]
    runs += [pair(runs[0], load_run(folder)) for folder in folders[1:]]
    keys = {f.name for f in dataclasses.fields(Options)} - {"device", "rows", "seed"} | {"adapter"}
    inherited = {key: runs[0].info[key] for key in keys if key in runs[0].info}
    cfg = parse(Config, args=rest[len(folders) :], set_defaults=inherited)
    if cfg.resamples < 1 or any(cap < 1 for cap in cfg.caps):
        die("--resamples and --caps must be at least 1")
    base = Config(**inherited, out_dir=str(Path(runs[: 2][-1].folder).parent / "analysis"))
    cfg = dataclasses.replace(cfg, out_dir=cfg.out_dir or base.out_dir)
    if name == "compare":
        return compare(runs, cfg, base)
    path = Path(cfg.out_dir, COMMANDS[name][2])
    if path.exists() and not cfg.overwrite:
        die(f"{path} exists; give another --out_dir, or --overwrite true")
    result = make(name, runs, cfg, base)
    print("\n".join([*notes(runs), "", *COMMANDS[name][1](result)]) + f"{path}")


if __name__ == "__main__":
    main(sys.argv[1:])
