r"""Analyses of one or two measured policies: what eval.py wrote goes in, tables and JSON come out.

    python analyse.py metrics out/toy/base_test out/toy/final_test     # pass@k, cons@k, lengths, difference, curve
    python analyse.py budget out/toy/base_test out/toy/final_test      # budget forcing, run for real on A's model
    python analyse.py words A B; python analyse.py perplexity A B      # reflection words; readability
    python analyse.py baselines A B --prompts true     # other prompts, run for real on A's model; votes at equal tokens
    python analyse.py baselines A B MORE ...           # the same of what eval.py --instruction TEXT has measured
    python analyse.py compare A B --full true          # all of these: report.md, the pictures and the trace page

A and B are folders that eval.py wrote (eval.json, rollouts.jsonl) for the same problems and the same cap;
compare and baselines need both, the others also take A alone. Results are JSON files in `analysis` beside B.
judge.py labels the steps of the thinking; what it found stands in report.md, too.

Unlike the paper's tables: every difference is paired by problem, has a 95 % bootstrap interval and says
"not distinguishable" where that holds 0; cons@k is exact, not sampled; budget forcing cuts the very thoughts
that A's own figures come from, so nothing but the cut differs.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import eval as evaluation
import reward
from analysis.runs import Run, arrange, load_run, notes, pair
from analysis.stats import ballots, bootstrap, cons_at_k, difference, pass_at_k, point, powers, quotient_difference, ratio
from engine.files import Options, die, parse, write_text
from engine.policy import load_policy, rollout_model
from engine.slots import float_logits
from eval import mean_and_se, metrics
from sample import sample_within_memory

# --- yours to edit: what ends the thinking in budget forcing, and the prompts that baselines tries
CUE = "\n</think>\n\n**Final Answer**\n\\boxed{"
PROMPTS = {
    "plain": "Put the final answer in \\boxed{}.",
    "step_by_step": "Think step by step and put the final answer in \\boxed{}.",
    "brief": "Think as briefly as you can and put the final answer in \\boxed{}.",
}


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
    """budget: thinking budgets in tokens; empty: 1/8, 1/4, 3/8, 1/2, 3/4, 1, 3/2 and 2 of A's mean length."""
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
    tokens_per_batch: int = 2048
    """perplexity: padded tokens per forward; moves speed and memory, never the result."""
    prompts: bool = False
    """baselines: also measure A's model with each of PROMPTS (top of analyse.py), as A was measured."""
    full: bool = False
    """compare: also run what loads the model and has not been run: budget, perplexity and the prompts."""


# ---------------------------------------------------------------------------------------- metrics


def votes(run: Run, ks: Sequence[int]) -> np.ndarray:
    """(len(ks), P) cons@k of each problem."""
    counts = [ballots(group) for group in run.groups]  # once: comparing spellings is the slow part
    return np.array([[cons_at_k(*count, k) for count in counts] for k in ks])


def chances(run: Run) -> dict[str, dict[int, np.ndarray]]:
    """pass@k and cons@k of each problem, (P,), for k = 1, 2, 4, ..."""
    ks, n = powers(run.samples), run.samples
    passed = {k: np.array([pass_at_k(n, c, k) for c in run.right.sum(1).tolist()]) for k in ks}
    return {"pass@k": passed, "cons@k": dict(zip(ks, votes(run, ks)))}


PERCENTILES = {"10th percentile": 10, "median": 50, "90th percentile": 90, "longest": 100}


def measure(run: Run, caps: list[int], chance: dict) -> dict:
    """Every figure of one side: those of eval.json, and pass@k, cons@k (of `chances`), percentiles, the curve."""

    def spread(keep: np.ndarray) -> dict | None:
        if not keep.any():
            return None
        mean, se = mean_and_se([row[k].tolist() for row, k in zip(run.tokens, keep) if k.any()])
        at = map(float, np.percentile(run.tokens[keep], [*PERCENTILES.values()]))
        return {"n": int(keep.sum()), "mean": mean, "se": se} | dict(zip(PERCENTILES, at))

    curve = []
    for cap in caps:
        right, tokens = point(run.right & (run.tokens <= cap)), point(np.minimum(run.tokens, cap))
        curve.append({"cap": cap, "pass@1": right["value"], "pass@1_se": right["se"]})
        curve[-1] |= {"mean_tokens": tokens["value"], "mean_tokens_se": tokens["se"]}
    figures = metrics(run.rows)
    rate = figures["pass@1"] / figures["mean_tokens"]
    return figures | {
        "pass@1_per_1k_tokens": 1000 * rate,
        # The error of a quotient of two means, to first order: that of its residuals (Cochran 1977, section 6.4).
        "pass@1_per_1k_tokens_se": point(1000 * (run.right - rate * run.tokens) / figures["mean_tokens"])["se"],
        **{kind: {k: point(values) for k, values in by_k.items()} for kind, by_k in chance.items()},
        "lengths": {"all": spread(run.tokens > 0), "right": spread(run.right), "wrong": spread(~run.right)},
        "curve": curve,
    }


def analyse_metrics(runs: list[Run], cfg: Config) -> dict:
    longest = max(int(run.tokens.max()) for run in runs)
    caps = sorted(set(cfg.caps or [math.ceil(longest * i / 20) for i in range(1, 21)]))
    chance = [chances(run) for run in runs]
    result = {side: measure(run, caps, c) for side, run, c in zip("AB", runs, chance)}
    if len(runs) > 1:
        columns = np.concatenate([run.means() / [1, 1000] for run in runs], 1)            # (P, 4), 1,000 tokens
        ended = [[np.mean([row["finished"] for row in group]) for group in run.groups] for run in runs]
        draws = {"resamples": cfg.resamples, "seed": cfg.seed}
        result["difference"] = {
            "pass@1": bootstrap(columns[:, [0, 2]], difference, **draws),
            "mean_tokens": bootstrap(1000 * columns[:, [1, 3]], difference, **draws),
            "tokens_ratio": bootstrap(columns[:, [1, 3]], ratio, 1.0, **draws),
            "finished": bootstrap(np.array(ended).T, difference, **draws),
            "pass@1_per_1k_tokens": bootstrap(columns, quotient_difference, **draws),
        }
        for kind, by_k in chance[0].items():
            pairs = {k: np.stack([x, chance[1][kind][k]], 1) for k, x in by_k.items() if k in chance[1][kind]}
            result["difference"][kind] = {k: bootstrap(x, difference, **draws) for k, x in pairs.items()}
    return result


def measure_prompts(a: Run, cfg: Config) -> list[Run]:
    """A's model on A's problems with each of PROMPTS, all else as A was measured; each in a folder of its own.

    A folder that holds this very measurement is read, so that a stopped run goes on; any other needs --overwrite.
    """
    runs, names = [], {f.name for f in dataclasses.fields(evaluation.Config)}
    for name, text in PROMPTS.items():
        folder = Path(cfg.out_dir, f"prompt_{name}")
        options = {key: value for key, value in a.info.items() if key in names}
        options |= {"instruction": text, "out_dir": str(folder), "overwrite": cfg.overwrite}
        if (folder / "eval.json").exists():
            info, moves = load_run(str(folder)).info, ("overwrite", "device", "rows", "rollout_weights")
            if all(info.get(key) == value for key, value in options.items() if key not in moves):
                options = None
            elif not cfg.overwrite:
                die(f"{folder} was measured otherwise than {a.folder}; --overwrite true measures it anew")
        if options:
            evaluation.main(evaluation.Config(**options | {"device": cfg.device, "rows": cfg.rows}))
        runs.append(pair(a, load_run(str(folder))))
    return runs


def analyse_baselines(runs: list[Run], cfg: Config) -> dict:
    """One answer of each run beside one of A; for every number of A's votes, as many votes of B as cost no more."""
    a, b, *more = runs
    result, draws = {"rows": [], "votes": []}, {"resamples": cfg.resamples, "seed": cfg.seed}
    for run in [a, b, *more, *(measure_prompts(a, cfg) if cfg.prompts else [])]:
        figures = metrics(run.rows)
        row = {key: figures[key] for key in ("pass@1", "pass@1_se", "mean_tokens", "mean_tokens_se")}
        row |= {"folder": run.folder, "instruction": run.info["instruction"]}
        if run is not a:
            columns = np.concatenate([a.means(), run.means()], 1)                         # (P, 4)
            row["difference"] = bootstrap(columns[:, [0, 2]], difference, **draws)
            row["tokens_ratio"] = bootstrap(columns[:, [1, 3]], ratio, 1.0, **draws)
        result["rows"].append(row)
    cost_a, cost_b = float(a.tokens.mean()), float(b.tokens.mean())
    for k in powers(a.samples):
        # No fewer than one vote, even where that is dearer, and no more than B has samples.
        j = min(b.samples, max(1, int(k * cost_a / cost_b)))
        both = np.stack([votes(a, [k])[0], votes(b, [j])[0]], 1)                          # (P, 2)
        sides = {"A": {"k": k, "tokens": k * cost_a}, "B": {"k": j, "tokens": j * cost_b}}
        sides = {side: x | point(column) for (side, x), column in zip(sides.items(), both.T)}
        result["votes"].append(sides | {"difference": bootstrap(both, difference, **draws)})
    return result


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
    asked = tokenizer([run.rows[i]["prompt"] for i in cut], add_special_tokens=False).input_ids if cut else []
    prompts = [ids + coded[i][0][:budget] + cue_ids for i, ids in zip(cut, asked)]
    with tqdm(total=len(cut), desc=f"budget {budget}", unit="answer", leave=False, disable=None) as bar:
        answers = sample_within_memory(
            model,
            tokenizer,
            prompts,
            cfg,
            cap=cfg.answer_cap,
            temperature=cfg.answer_temperature,
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
        reached = [np.interp(x, p[:, 1], p[:, 0]) for x, p in zip(m[..., 1].ravel(), points)]
        return np.array(reached).reshape(m.shape[:-1])

    values = np.concatenate([policy, *curve], 1)                                         # (P, 2 + 2K)
    result = bootstrap(values, lambda m: m[..., 0] - at(m), 0.0, resamples, seed)
    mean = values.mean(0)
    figures = {"mean_tokens": mean[1], "pass@1": mean[0], "curve_pass@1": float(at(mean))}
    figures["shorter_than_curve"] = mean[1] < mean[3::2].min()
    return result | {key: np.asarray(value).item() for key, value in figures.items()}


def best_of(policy, curve, resamples: int = 10_000, seed: int = 0) -> dict:
    """pass@1 of a policy minus that of the best point of a curve, which every bootstrap draw chooses anew.

    Choosing on the very problems that are scored flatters the curve, so the margin errs against the policy.

    Args:
        policy: (P, 2) pass@1 and tokens of each problem. curve: (K, P, 2) the same at each point.

    >>> best_of([[1, 15], [0, 15]], [[[0, 10], [0, 10]], [[1, 20], [1, 20]]])["value"]
    -0.5
    """
    policy, curve = np.asarray(policy, float), np.asarray(curve, float)
    values = np.concatenate([policy[:, :1], curve[:, :, 0].T], 1)                         # (P, 1 + K)
    best = int(curve[:, :, 0].mean(1).argmax())
    figures = {"point": best, "curve_tokens": float(curve[best, :, 1].mean())}
    figures |= {"curve_pass@1": float(curve[best, :, 0].mean())}
    return figures | bootstrap(values, lambda m: m[..., 0] - m[..., 1:].max(-1), 0.0, resamples, seed)


def analyse_budget(runs: list[Run], cfg: Config) -> dict:
    a, whole = runs[0], float(runs[0].tokens.mean())
    steps = [min(a.info["cap"], max(1, round(whole * i / 8))) for i in (1, 2, 3, 4, 6, 8, 12, 16)]
    budgets = sorted(set(cfg.budgets or steps))
    cue = cfg.cue or usual_cue(a)
    if not cfg.thinking or "</think>" not in cue:
        die(f"budget forcing ends the thinking: --thinking must be true and --cue {cue!r} must hold </think>")
    if budgets[0] < 1 or budgets[-1] > a.info["cap"] or cfg.answer_cap < 1:
        die(f"--budgets {budgets} must be 1 to {a.info['cap']}, the cap of {a.folder}, and --answer_cap at least 1")
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    model = rollout_model(policy, cfg, a.info["cap"])
    coded = [split_ids(tokenizer, row["response"]) for row in a.rows]
    result, curve = {"cue": cue, "answer_cap": cfg.answer_cap, "rows": [], "forced": []}, []
    for budget in budgets:
        try:
            run, forced = force(model, tokenizer, a, coded, budget, cue, cfg)
        except ValueError as error:
            die(f"--budgets {budget}: {error}")
        figures = metrics(run.rows)
        result["rows"].append({"budget": budget, "forced": len(forced) / len(a.rows)})
        result["rows"][-1] |= {key: figures[key] for key in ("mean_tokens", "mean_tokens_se", "pass@1", "pass@1_se")}
        result["forced"] += forced
        curve.append(run.means())
    if len(runs) > 1:
        mine, draws = runs[1].means(), {"resamples": cfg.resamples, "seed": cfg.seed}
        # A itself is the curve's last point: a budget that nobody reaches.
        result["equal_tokens"] = at_equal_tokens(mine, [*curve, a.means()], **draws)
        # More budget may mean less accuracy (a thought cut at the wrong place misleads), so the rival is also the
        # best budget that costs no more than B, and the best of all, whatever it costs.
        cheap = [i for i, points in enumerate(curve) if points[:, 1].mean() <= mine[:, 1].mean()]
        for name, those in ("best_within", cheap), ("best_of_all", range(len(curve))):
            if those:
                rival = best_of(mine, [curve[i] for i in those], **draws)
                result[name] = rival | {"budget": budgets[those[rival.pop("point")]]}
        result["uncut"] = best_of(mine, [a.means()], **draws)
    return result


# ---------------------------------------------------------------------------------------- reflection words


def phrase_pattern(*phrases: str) -> re.Pattern:
    r"""Matches any of the phrases: case ignored; whole words (no letter, digit or _ beside them); a blank or hyphen
    inside a phrase matches any run of blanks, line ends and hyphens.

    A phrase is counted wherever it stands, so "But wait" counts for "Wait", too; with several phrases the
    longest one that starts first is taken, and each place counts once: that is how totals are made.

    >>> [len(phrase_pattern("Wait").findall(t)) for t in ("But wait, WAIT. wait-", "waiting await wait_1")]
    [3, 0]
    >>> len(phrase_pattern("Wait", "But wait").findall("But\nwait. Wait")), len(phrase_pattern("a-b").findall("a b"))
    (2, 1)
    """
    parts = (re.split(r"[\s-]+", phrase.strip()) for phrase in sorted(phrases, key=len, reverse=True))
    either = "|".join(r"[\s\-\u2010\u2011]+".join(map(re.escape, words)) for words in parts)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.I)


def analyse_words(runs: list[Run], cfg: Config) -> dict:
    lists = {"reflection": cfg.reflection, "working": cfg.working}
    listed = cfg.reflection + cfg.working
    if not listed or not all(phrase.strip(" -") for phrase in listed):
        die("--reflection and --working need phrases, none of them empty")
    patterns = {phrase: phrase_pattern(phrase) for phrase in listed}
    patterns |= {f"all {name}": phrase_pattern(*phrases) for name, phrases in lists.items() if phrases}
    result = {"A": {}, "totals": {}, "se": {}, "per_1k_tokens": {}} | lists
    counts = {p: [np.array([len(x.findall(r["response"])) for r in run.rows]).reshape(run.tokens.shape) for run in runs]
              for p, x in patterns.items()}                                               # phrase: (P, S) of each side
    for i, (side, run) in enumerate(zip("AB", runs)):
        points = {p: point(n[i]) for p, n in counts.items()}
        result[side] = {p: points[p]["value"] for p in points if p in listed}
        result["totals"][side] = {p: points[p]["value"] for p in points if p not in listed}
        result["se"][side] = {p: points[p]["se"] for p in points}
        result["per_1k_tokens"][side] = {p: float(1000 * n[i].sum() / run.tokens.sum()) for p, n in counts.items()}
    result["never"] = [p for p in listed if not any(n.any() for n in counts[p])]
    if len(runs) > 1:
        pairs = {p: np.stack([x.mean(1) for x in n], 1) for p, n in counts.items()}
        result["difference"] = {p: bootstrap(x, difference, 0.0, cfg.resamples, cfg.seed) for p, x in pairs.items()}
    return result


# ---------------------------------------------------------------------------------------- readability


@torch.no_grad()
def response_nll(model, sequences: list[list[int]], starts: list[int], tokens_per_batch: int, chunk: int = 512):
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
            losses = [torch.nn.functional.cross_entropy(float_logits(head, x), y, reduction="none")
                      for x, y in zip(states.split(chunk), targets.split(chunk))]
            losses = torch.cat(losses).cpu().numpy() if losses else np.empty(0)
            ends = np.cumsum([len(sequences[i]) - starts[i] for i in batch])
            for i, piece in zip(batch, np.split(losses, ends[:-1])):
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
    cuts = {"all": [(0, None)] * len(nll), "thinking": [(0, n) for *_, n in coded]}
    cuts["answer"] = [(n, None) for *_, n in coded]
    sums = {part: [(x[i:j].sum(dtype=float), len(x[i:j])) for x, (i, j) in zip(nll, cuts[part])] for part in PARTS}
    return {part: np.array(pairs, float).reshape(*run.tokens.shape, 2).sum(1) for part, pairs in sums.items()}


def analyse_perplexity(runs: list[Run], cfg: Config) -> dict:
    policy, tokenizer = load_policy(cfg)
    model, result = rollout_model(policy, cfg, 0), {"reference": cfg.model, "tokens": {}}
    sums = [nll_by_problem(model, tokenizer, run, cfg) for run in runs]
    draws = {"null": 1.0, "resamples": cfg.resamples, "seed": cfg.seed}
    for side, parts in zip("AB", sums):
        result[side] = {p: bootstrap(x, lambda m: np.exp(m[..., 0] / m[..., 1]), **draws) for p, x in parts.items()}
        result["tokens"][side] = {part: int(x.sum(0)[1]) for part, x in parts.items()}
    if len(runs) > 1:
        pairs = {part: np.concatenate([x[part] for x in sums], 1) for part in PARTS}      # (P, 4)
        result["ratio"] = {p: bootstrap(x, lambda m: np.exp(quotient_difference(m)), **draws) for p, x in pairs.items()}
    return result


# ---------------------------------------------------------------------------------------- tables


def num(x: float | None, digits: int = 1, scale: float = 1.0, se: float | None = None) -> str:
    """A number as a cell: "-" for none, no minus before a zero.

    >>> num(0.8624, 1, 100, 0.0139), num(-0.0001), num(None)
    ('86.2 +- 1.4', '0.0', '-')
    """
    if x is None:
        return "-"
    return f"{round(scale * x, digits) + 0.0:.{digits}f}" + ("" if se is None else f" +- {scale * se:.{digits}f}")


def gap(d: dict, digits: int = 1, scale: float = 1.0, verdict: bool = True) -> str:
    """A bootstrap result as one cell.

    >>> gap({"value": -0.5, "low": -0.625, "high": 0.25, "verdict": "not distinguishable"}, 1, 100)
    '-50.0 [-62.5, 25.0] not distinguishable'
    """
    interval = "" if d["low"] is None else f" [{num(d['low'], digits, scale)}, {num(d['high'], digits, scale)}]"
    return f"{num(d['value'], digits, scale)}{interval}" + f" {d['verdict']}" * verdict


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that reads well as plain text, too."""
    rows = [[str(cell).replace("|", "\\|").replace("\n", "\\n") for cell in row] for row in (head, *rows)]
    width = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:], ""]


def side_table(r: dict, label: str, names: dict, cell: Callable, versus: str, head: str, digits: int, scale: float = 1):
    """One row a name, one column a side, and `r[versus]` where there are two. names: key -> row label."""
    sides, both = [side for side in "AB" if side in r], versus in r
    rows = [[text, *(cell(s, key) for s in sides), *([gap(r[versus][key], digits, scale)] if both else [])]
            for key, text in names.items()]
    return table([label, *sides, *([f"{head} [95 %]"] if both else [])], rows)


def show_metrics(r: dict) -> list[str]:
    sides, d = [side for side in "AB" if side in r], r.get("difference", {})
    rows = []
    for text, key, scale, digits in (("pass@1, %", "pass@1", 100, 1), ("mean tokens", "mean_tokens", 1, 1),
                                     ("finished, %", "finished", 100, 1),
                                     ("pass@1, points per 1,000 tokens", "pass@1_per_1k_tokens", 100, 1)):
        cells = [num(r[s][key], digits, scale, r[s].get(key + "_se")) for s in sides]
        rows.append([text, *cells, gap(d[key], digits, scale) if d else ""])
    for kind in ("pass@k", "cons@k"):
        for k in sorted({k for s in sides for k in r[s][kind] if int(k) > 1}, key=int):
            found = [r[s][kind].get(k, {"value": None, "se": None}) for s in sides]
            cells = [num(x["value"], 1, 100, x["se"]) for x in found]
            rows.append([f"{kind[:5]}{k}, %", *cells, gap(d[kind][k], 1, 100) if k in d.get(kind, {}) else ""])
    lengths = [[f"{s}, {kind}", x["n"], num(x["mean"], 0, 1, x["se"]), *(num(x[p], 0) for p in PERCENTILES)]
               for kind in ("all", "right", "wrong") for s in sides for x in [r[s]["lengths"][kind]] if x]
    curve = [[x[0]["cap"], *(num(p["pass@1"], 1, 100, p["pass@1_se"]) for p in x),
              *(num(p["mean_tokens"], 0, 1, p["mean_tokens_se"]) for p in x)]
             for x in zip(*(r[s]["curve"] for s in sides))]
    return [*table(["", *sides, *(["B - A [95 %]"] if d else [])], rows if d else [row[:-1] for row in rows]),
            *([f"Tokens of B over tokens of A: {gap(d['tokens_ratio'], 3)}.", ""] if d else []),
            "pass@k: one of k answers is right; cons@k: the majority of k is, a tie counted in part.", "",
            *table(["tokens of", "responses", "mean", *PERCENTILES], lengths),
            "Had every response been cut at a cap (cut = wrong):", "",
            *table(["cap, tokens", *(f"pass@1 {s}, %" for s in sides), *(f"mean tokens {s}" for s in sides)], curve)]


def show_baselines(r: dict) -> list[str]:
    rows = [[x["folder"], x["instruction"], num(x["pass@1"], 1, 100, x["pass@1_se"]),
             num(x["mean_tokens"], 0, 1, x["mean_tokens_se"]), *([gap(x["difference"], 1, 100),
             gap(x["tokens_ratio"], 3)] if "difference" in x else ["", ""])] for x in r["rows"]]
    head = ["one answer of", "instruction", "right, %", "tokens", "right - A's, points [95 %]", "tokens / A's [95 %]"]
    cells = [[x for s in "AB" for x in (v[s]["k"], num(v[s]["tokens"], 0), num(v[s]["value"], 1, 100, v[s]["se"]))]
             + [gap(v["difference"], 1, 100)] for v in r["votes"]]
    more = "`--prompts true` measures A's model with other prompts, too."
    if len(r["rows"]) > 2:
        more = "A model that knows one prompt only, as the toy does, loses accuracy by any other, however it thinks."
    return [*table(head, rows), more, "",
            "The majority of as many answers of B as A's tokens pay for (at least one, at most all samples):", "",
            *table(["votes of A", "tokens", "right, %", "votes of B", "tokens", "right, %", "B - A [95 %]"], cells)]


def show_budget(r: dict) -> list[str]:
    rows = [[x["budget"], num(x["forced"], 1, 100), num(x["mean_tokens"], 1, 1, x["mean_tokens_se"]),
             num(x["pass@1"], 1, 100, x["pass@1_se"])] for x in r["rows"]]
    lines = [f"A's thinking cut at the budget, then `{json.dumps(r['cue'], ensure_ascii=False)}` (not counted) and an "
             f"answer of at most {r['answer_cap']} tokens.", "",
             *table(["budget, tokens", "forced, %", "mean tokens", "pass@1, %"], rows)]
    if not (e := r.get("equal_tokens")):
        return lines
    rivals = [("A forced, at B's mean tokens", e | {"curve_tokens": e["mean_tokens"]})]
    for key, text in ("best_within", "best budget no dearer than B"), ("best_of_all", "best budget of all"):
        rivals += [(f"A forced, {text}: {r[key]['budget']}", r[key])] if key in r else []
    rows = [[text, num(x["curve_tokens"]), num(x["curve_pass@1"], 1, 100), gap(x, 1, 100)]
            for text, x in [*rivals, ("A, no budget", r["uncut"])]]
    lines += [f"B, {e['mean_tokens']:.1f} mean tokens and {100 * e['pass@1']:.1f} % right, against:", "",
              *table(["", "mean tokens", "pass@1, %", "B - A, points [95 %]"], rows),
              "At B's mean tokens: on the straight line between the neighbouring budgets. The best budget is chosen "
              "anew in every bootstrap draw, which favours it.", ""]
    short = "B is shorter than any budget here: A had the tokens of the smallest."
    return lines + [short, ""] * e["shorter_than_curve"]


def show_words(r: dict) -> list[str]:
    count = {side: r[side] | r["totals"][side] for side in "AB" if side in r}
    names = {p: p for p in count["A"] if any(x[p] for x in count.values())}
    lines = side_table(r, "a response (and per 1,000 tokens)", names, lambda s, p: num(count[s][p], 2, 1, r["se"][s][p])
                       + f" ({r['per_1k_tokens'][s][p]:.2f})", "difference", "B - A", 2) if names else []
    return [*lines, *([f"Never there: {', '.join(r['never'])}.", ""] if r["never"] else []),
            "Counted in any case, as whole words; a blank or hyphen inside stands for any run of blanks, line ends and "
            'hyphens. "But wait" counts for "Wait", too, but once in "all reflection".', ""]


def show_perplexity(r: dict) -> list[str]:
    names = {part: f"perplexity, {part}" for part in PARTS}
    return [f"Under {r['reference']}, a token's; [ , ] is the interval of each side, too.", "",
            *side_table(r, "", names, lambda s, part: gap(r[s][part], 3, 1, False), "ratio", "B / A", 3)]


def show_behaviours(r: dict) -> list[str]:
    counts = ", ".join(f"{r['steps'][s]} of {s} ({r['invalid'][s]} without a valid label)" for s in r["steps"])
    lines = [f"Judge: {r['judge']}; steps: {counts}.", ""]
    if all(x["value"] is None for side in r["steps"] for x in r[side].values()):
        return [*lines, "The judge has named no phase at all.", ""]
    return lines + side_table(r, "share of steps, %", {p: p for p in r["A"]}, lambda s, p: gap(r[s][p], 1, 100, False),
                              "difference", "B - A, points", 1, 100)


# ---------------------------------------------------------------------------------------- the commands

# name: analysis, its table, file, heading, most folders
COMMANDS = {
    "metrics": (analyse_metrics, show_metrics, "metrics.json", "Metrics", 2),
    "baselines": (analyse_baselines, show_baselines, "baselines.json", "Inference-time baselines", 20),
    "budget": (analyse_budget, show_budget, "budget_forcing.json", "Budget forcing", 2),
    "words": (analyse_words, show_words, "words.json", "Reflection and working words", 2),
    "perplexity": (analyse_perplexity, show_perplexity, "perplexity.json", "Readability", 2),
}
JUDGED = {"behaviours": (None, show_behaviours, "behaviours.json", "Behaviours", 2)}  # of judge.py


def flags(options: dict) -> list[str]:
    """Options as the words of a command line."""
    return [x for key, y in options.items() for x in (f"--{key}", y if isinstance(y, str) else json.dumps(y))]


def command(name: str, runs: list[Run], cfg, base) -> str:
    """The command line that makes a result: options that differ from the defaults only."""
    script = ["judge.py"] if name in JUDGED else ["eval.py" if name == "compare" else "analyse.py", name]
    idle = {"overwrite"} | ({"full"} if name != "compare" else set())
    given = {x: y for x, y in dataclasses.asdict(cfg).items() if y != getattr(base, x) and x not in idle}
    return shlex.join(["python", *script, *(run.folder for run in runs), *flags(given)])


def stamps(runs: list[Run]) -> list[dict]:
    """Folder and content of each side, so that a result is never shown for other rollouts."""
    digests = [hashlib.sha256(Path(run.folder, "rollouts.jsonl").read_bytes()).hexdigest()[:16] for run in runs]
    return [{"folder": run.folder, "sha256": digest} for run, digest in zip(runs, digests)]


def make(name: str, analyse: Callable, runs: list[Run], cfg, base) -> dict:
    """Runs one analysis and writes its file."""
    result = {"command": command(name, runs, cfg, base), "runs": stamps(runs)} | analyse(runs, cfg)
    Path(cfg.out_dir).mkdir(parents=True, exist_ok=True)
    file = (COMMANDS | JUDGED)[name][2]
    write_text(Path(cfg.out_dir, file), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return json.loads(json.dumps(result))  # as a reader of the file gets it: keys are strings


def section(name: str, runs: list[Run], cfg: Config, base: Config) -> list[str]:
    """One analysis in the report: read where it is there and of these rollouts, else made where that is wanted."""
    analyse, show, file, heading, _ = (COMMANDS | JUDGED)[name]
    path, quick = Path(cfg.out_dir, file), name in ("metrics", "baselines", "words")
    ours = quick or cfg.full and name in COMMANDS
    if name == "baselines":
        cfg = dataclasses.replace(cfg, prompts=cfg.prompts or cfg.full)
    if path.exists() and not (ours and cfg.overwrite):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            fits, text = result["runs"][:2] == stamps(runs), show(result)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            die(f"{path} is not as nanoprune writes it now ({error!r}); remove it")
        if not fits:
            again = command(name, runs, cfg, base)
            die(f"{path} is of other folders or rollouts; remove it, or run: {again} --overwrite true")
    elif ours:
        result = make(name, analyse, runs, cfg, base)
        text = show(result)
    else:
        more = " --url URL --model NAME" if name in JUDGED else ""
        return [f"## {heading}", "", f"Not measured: `{command(name, runs, cfg, base)}{more}`", ""]
    return [f"## {heading}", "", f"`{result['command']}`", "", *text]


def compare(runs: list[Run], cfg: Config, base: Config) -> None:
    """report.md: every analysis that is there or wanted, side by side, each with its command; pictures; trace.html."""
    import plot

    out, (a, b) = Path(cfg.out_dir), runs
    if (out / "report.md").exists() and not cfg.overwrite:
        die(f"{out / 'report.md'} exists; --overwrite true writes it anew")
    lines = [
        f"# {b.folder} (B) against {a.folder} (A)", "",
        f"`{command('compare', runs, cfg, base)}` made this page: "
        f"{len(a.ids)} problems; A {a.samples}, B {b.samples} samples each; cap {a.info['cap']} tokens. +- is one "
        f"standard error, clustered by problem; [ , ] is the 95 % interval of {cfg.resamples} bootstrap draws of "
        'problems, both sides together; "not distinguishable" where it holds "no difference". Each is one interval, '
        "not corrected for how many there are.", "",
    ]
    for run in runs:
        default = vars(evaluation.Config(model="", data="", out_dir="", seed=-1)).items()
        given = {x: run.info[x] for x, y in default if run.info.get(x, y) != y}
        given = {x: y for x, y in given.items() if x not in ("overwrite", "device", "rows")}
        lines += [f"- rollouts of `{shlex.join(['python', 'eval.py', *flags(given)])}`"]
    lines += [*(f"- {note}" for note in notes(runs)), ""]
    for name in COMMANDS | JUDGED:
        lines += section(name, runs, cfg, base)
    d = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["difference"]
    tokens, points = gap(d["tokens_ratio"], 1, 100), gap(d["pass@1"], 1, 100)
    lines[2:2] = [f"**Tokens, B in % of A: {tokens}. pass@1, B - A in points: {points}.**", ""]
    folder = Path(b.folder).parent
    of_run = [Path(a.folder), Path(b.folder)] == [folder / "base_test", folder / "final_test"]
    if of_run and (folder / "summary.json").exists():
        plot.run(str(folder))  # again: what budget forcing and the words need is there now
        seen = [os.path.relpath(folder / name, out) for name in plot.PICTURES if (folder / name).exists()]
        lines += ["## Pictures", "", f"`python plot.py run {folder}`", "", *(f"![{x}]({x})" for x in seen), ""]
    page = out / "trace.html"
    if cfg.overwrite or not page.exists():
        plot.trace(a.folder, b.folder, out=str(page), overwrite=True)
    again = f"`python plot.py trace {a.folder} {b.folder} --out {page}`"
    lines += ["## Trace page", "", f"[{page.name}]({page.name}): {again}", ""]
    write_text(out / "report.md", "\n".join(lines))
    print("\n".join(lines) + f"\n{out / 'report.md'}")


def read_sides(name: str, words: list[str], config, least: int, most: int, inherited: Sequence[str] = ()):
    """(runs, options, the options had none been given) from folders and then flags.

    Args:
        name: What the error message calls the command. config: its dataclass.
        inherited: Options whose default is what A's eval.json says.
    """
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    if not least <= len(folders) <= most:
        number = least if least == most else f"{least} to {most}"
        die(f"{name} takes {number} evaluation folders before its options, not {len(folders)}")
    runs = [load_run(folders[0])]
    runs += [pair(runs[0], load_run(folder)) for folder in folders[1:]]
    defaults = {key: runs[0].info[key] for key in inherited if key in runs[0].info}
    cfg = parse(config, args=words[len(folders) :], set_defaults=defaults)
    if cfg.resamples < 1:
        die("--resamples must be at least 1")
    base = config(**defaults, out_dir=str(Path(runs[:2][-1].folder).parent / "analysis"))
    return runs, dataclasses.replace(cfg, out_dir=cfg.out_dir or base.out_dir), base


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(__doc__)
        parse(Config, args=["--help"])
    name, *rest = arguments
    if name not in (*COMMANDS, "compare"):
        die(f"{name} is no analysis; there are {', '.join(COMMANDS)} and compare (and judge.py)")
    model = {f.name for f in dataclasses.fields(Options)} - {"device", "rows", "seed"} | {"adapter"}
    least, most = 1 + (name in ("compare", "baselines")), 2 if name == "compare" else COMMANDS[name][-1]
    runs, cfg, base = read_sides(name, rest, Config, least, most, model)
    if min(cfg.caps, default=1) < 1:
        die("--caps must be at least 1")
    if name == "compare":
        return compare(runs, cfg, base)
    analyse, show, file, _, _ = COMMANDS[name]
    path = Path(cfg.out_dir, file)
    if path.exists() and not cfg.overwrite:
        die(f"{path} exists; give another --out_dir, or --overwrite true")
    print("\n".join([*notes(runs), "", *show(make(name, analyse, runs, cfg, base))]) + f"{path}")


if __name__ == "__main__":
    main(sys.argv[1:])
