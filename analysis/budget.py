"""Budget forcing: A's thinking is cut at a budget and A's model must answer. The rival that pruning has to beat.

    python -m analysis.budget out/toy/base_test out/toy/final_test        # the curve of A, and B against it
    python -m analysis.budget out/toy/base_test --budgets "[50, 100]" --answer_cap 32
    python -m analysis.budget out/toy/base_test --waits "[1, 2, 4]"       # the other way: "Wait" instead of the end

The thoughts are the very ones that A's own figures come from, so nothing but the cut differs.
"""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import reward
from analysis.command import Settings, main
from analysis.evaluations import Evaluation, arrange
from analysis.stats import difference, interval
from analysis.tables import gap, num, table
from engine.files import OptionError, Options, die, explained
from engine.policy import load_policy
from sample import Sampler

FILE, HEADING, FOLDERS = "budget_forcing.json", "Budget forcing", (1, 2)

# --- yours to edit: what ends the thinking
CUE = "\n</think>\n\n**Final Answer**\n\\boxed{"


@dataclass
class Config(Settings, Options):
    """Options of analysis.budget. Those of the model (`--model`, `--load_4bit`, ...) default to A's eval.json."""

    adapter: str = ""
    """PEFT adapter on the model."""
    budgets: list[int] = field(default_factory=list)
    """Thinking budgets in tokens; empty: 1/8, 1/4, 3/8, 1/2, 3/4, 1, 3/2 and 2 of A's mean length."""
    cue: str = ""
    """Text that ends the thinking; empty: how A opens most of its answers, else CUE (for R1-Distill)."""
    answer_cap: int = 64
    """Most tokens of a forced answer."""
    answer_temperature: float = 0.0
    """0 answers greedily."""
    waits: list[int] = field(default_factory=list)
    """Also: put `wait` in the place of the thinking's end that many times, and let A's model go on each time."""
    wait: str = "Wait"
    """What is put there."""


def split_ids(tokenizer, text: str) -> tuple[list[int], int, int]:
    """(ids, tokens before the first </think>, tokens through it); without one both are the number of ids."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    at = text.find("</think>")
    if at < 0:
        return coded.input_ids, len(coded.input_ids), len(coded.input_ids)
    starts = [start for start, _ in coded.offset_mapping]
    return coded.input_ids, sum(s < at for s in starts), sum(s < at + len("</think>") for s in starts)


def usual_cue(side: Evaluation) -> str:
    """What most of a side's finished answers write from </think> up to their box, or CUE where they do not agree.

    A cue that the model does not know makes it answer badly, which is no fair baseline.
    """
    texts = [row["response"] for row in side.rows if row["finished"]]
    opened = Counter(m[1] for text in texts if (m := re.search(r"</think>([^{}]{0,80}?\\boxed\{)", text)))
    opening, count = opened.most_common(1)[0] if opened else ("", 0)
    return f"\n</think>{opening}" if 2 * count > len(texts) else CUE


def force(sampler: Sampler, side: Evaluation, coded: list, budget: int, cue: str, cfg: Config):
    """(The evaluation as it would be with at most `budget` thinking tokens, the answers that were forced).

    A rollout that ended its thinking (or ended) within the budget stays as it is. Any other keeps its first
    `budget` tokens; the cue is put after them and the model answers. n_tokens counts the kept thinking and
    the generated answer, not the cue. A forced answer counts once its box is closed, end token or not:
    where to stop after it was not the model's choice.

    Args:
        coded: `split_ids` of every response.
    """
    cut = [i for i, (row, (ids, before, _)) in enumerate(zip(side.rows, coded))
           if before > budget or not row["finished"] and "</think>" not in row["response"]]
    tokenizer = sampler.tokenizer
    cue_ids = tokenizer(cue, add_special_tokens=False).input_ids
    asked = tokenizer([side.rows[i]["prompt"] for i in cut], add_special_tokens=False).input_ids if cut else []
    prompts = [ids + coded[i][0][:budget] + cue_ids for i, ids in zip(cut, asked)]
    settings = {"cap": cfg.answer_cap, "temperature": cfg.answer_temperature, "seed": cfg.seed}
    answers = sampler.sample(prompts, **settings, label=f"budget {budget}")
    grades = reward.grade([cue + answer.text for answer in answers], [side.rows[i]["gold"] for i in cut])
    rows, forced = list(side.rows), []
    for i, answer, grade in zip(cut, answers, grades):
        n = len(coded[i][0][:budget]) + len(answer.ids)
        rows[i] = rows[i] | {"n_tokens": n, "finished": True, "correct": grade.correct, "answer": grade.answer}
        forced.append({key: rows[i][key] for key in ("id", "sample", "n_tokens", "answer", "correct")})
        forced[-1] |= {"budget": budget, "text": cue + answer.text}
    return arrange(side.folder, side.info, side._replace(rows=rows).groups), forced


def extend(sampler: Sampler, side: Evaluation, times: int, cfg: Config) -> Evaluation:
    """The evaluation as it would be had each thought been sent on `times` times, within A's cap, sampled as A was.

    A thought that did not end, or that leaves no room, stays as it is. Every token counts, `wait` included.

    Source: budget forcing of s1, arXiv:2501.19393.
    """
    tokenizer, rows, cap = sampler.tokenizer, list(side.rows), side.info["cap"]
    cue = tokenizer(cfg.wait, add_special_tokens=False).input_ids
    for n in range(times):
        coded = [split_ids(tokenizer, row["response"]) for row in rows]
        again = [i for i, (_, end, after) in enumerate(coded) if after > end and end + len(cue) < cap]
        if not again:
            break
        thoughts = [coded[i][0][: coded[i][1]] + cue for i in again]
        asked = tokenizer([rows[i]["prompt"] for i in again], add_special_tokens=False).input_ids
        settings = {"temperature": side.info.get("temperature", 1.0), "top_p": side.info.get("top_p", 1.0)}
        prompts, caps = [a + t for a, t in zip(asked, thoughts)], [cap - len(t) for t in thoughts]
        label = f"{cfg.wait} {n + 1} of {times}"
        answers = sampler.sample(prompts, cap=caps, **settings, seed=cfg.seed + 1 + n, label=label)
        for i, thought, answer in zip(again, thoughts, answers):
            text = tokenizer.decode(thought, skip_special_tokens=False) + answer.text
            rows[i] = rows[i] | {"response": text, "n_tokens": len(thought) + len(answer.ids)}
            rows[i]["finished"] = answer.finished
    grades = reward.grade([row["response"] for row in rows], [row["gold"] for row in rows])
    for i, grade in enumerate(grades):
        rows[i] = rows[i] | {"correct": grade.correct and rows[i]["finished"], "answer": grade.answer}
    return arrange(side.folder, side.info, side._replace(rows=rows).groups)


def at_equal_tokens(policy, curve) -> dict:
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
    result = interval(values, lambda m: m[..., 0] - at(m))
    mean = values.mean(0)
    figures = {"mean_tokens": mean[1], "pass@1": mean[0], "curve_pass@1": float(at(mean))}
    figures["shorter_than_curve"] = mean[1] < mean[3::2].min()
    return result | {key: np.asarray(value).item() for key, value in figures.items()}


def best_of(policy, curve) -> dict:
    """pass@1 of a policy minus that of the best point of a curve.

    Choosing on the very problems that are scored flatters the curve, so the margin errs against the policy.

    Args:
        policy: (P, 2) pass@1 and tokens of each problem. curve: (K, P, 2) the same at each point.

    >>> best_of([[1, 15], [0, 15]], [[[0, 10], [0, 10]], [[1, 20], [1, 20]]])["value"]
    -0.5
    """
    curve = np.asarray(curve, float)
    best = int(curve[:, :, 0].mean(1).argmax())
    right, tokens = curve[best].T                                                        # (P,), (P,)
    figures = {"point": best, "curve_tokens": float(tokens.mean()), "curve_pass@1": float(right.mean())}
    return figures | interval(np.stack([right, np.asarray(policy, float)[:, 0]], 1), difference)


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    a, whole = sides[0], float(sides[0].tokens.mean())
    steps = [min(a.info["cap"], max(1, round(whole * i / 8))) for i in (1, 2, 3, 4, 6, 8, 12, 16)]
    budgets = sorted(set(cfg.budgets or steps))
    cue = cfg.cue or usual_cue(a)
    if not cfg.thinking or "</think>" not in cue:
        die(f"budget forcing ends the thinking: --thinking must be true and --cue {cue!r} must hold </think>")
    if budgets[0] < 1 or budgets[-1] > a.info["cap"] or cfg.answer_cap < 1:
        die(f"--budgets {budgets} must be 1 to {a.info['cap']}, the cap of {a.folder}, and --answer_cap at least 1")
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    sampler = Sampler(policy, tokenizer, cfg)
    coded = [split_ids(tokenizer, row["response"]) for row in a.rows]
    result, curve = {"cue": cue, "answer_cap": cfg.answer_cap, "rows": [], "forced": []}, []
    for budget in budgets:
        with explained(f"--budgets {budget}", OptionError):
            cut, forced = force(sampler, a, coded, budget, cue, cfg)
        result["rows"].append({"budget": budget, "forced": len(forced) / len(a.rows)} | cut.figures())
        result["forced"] += forced
        curve.append(cut.means())
    for times in sorted(set(cfg.waits)):
        row = {"times": times} | extend(sampler, a, times, cfg).figures()
        result.setdefault("waits", []).append(row)
    if len(sides) > 1:
        mine = sides[1].means()
        # A itself is the curve's last point: a budget that nobody reaches.
        result["equal_tokens"] = at_equal_tokens(mine, [*curve, a.means()])
        # More budget may mean less accuracy (a thought cut at the wrong place misleads), so the rival is also the
        # best budget that costs no more than B, and the best of all, whatever it costs.
        cheap = [i for i, points in enumerate(curve) if points[:, 1].mean() <= mine[:, 1].mean()]
        for name, those in ("best_within", cheap), ("best_of_all", range(len(curve))):
            if those:
                rival = best_of(mine, [curve[i] for i in those])
                result[name] = rival | {"budget": budgets[those[rival.pop("point")]]}
        result["uncut"] = best_of(mine, [a.means()])
    return result


def show(r: dict) -> list[str]:
    rows = [[x["budget"], num(x["forced"], 1, 100), num(x["mean_tokens"], 1, 1, x["mean_tokens_se"]),
             num(x["pass@1"], 1, 100, x["pass@1_se"])] for x in r["rows"]]
    lines = [f"A's thinking cut at the budget, then `{json.dumps(r['cue'], ensure_ascii=False)}` (not counted) and an "
             f"answer of at most {r['answer_cap']} tokens.", "",
             *table(["budget, tokens", "forced, %", "mean tokens", "pass@1, %"], rows)]
    if r.get("waits"):
        rows = [[x["times"], num(x["mean_tokens"], 1, 1, x["mean_tokens_se"]), num(x["pass@1"], 1, 100, x["pass@1_se"])]
                for x in r["waits"]]
        lines += ["A's thinking sent on instead of ended:", "", *table(["times", "mean tokens", "pass@1, %"], rows)]
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
              "on these very problems, which favours it.", ""]
    short = "B is shorter than any budget here: A had the tokens of the smallest."
    return lines + [short, ""] * e["shorter_than_curve"]


if __name__ == "__main__":
    main(sys.modules[__name__])
