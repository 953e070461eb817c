"""What a better prompt or a vote buys without training: other prompts, and votes at equal tokens.

    python -m analysis.baselines out/toy/base_test out/toy/final_test                   # votes of B for A's tokens
    python -m analysis.baselines out/toy/base_test out/toy/final_test --prompts true    # PROMPTS, run on A's model
    python -m analysis.baselines A B MORE ...                    # the same of what eval.py --instruction TEXT measured
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import eval as evaluation
from analysis.command import Settings, main
from analysis.evaluations import Evaluation, load_evaluation, pair
from analysis.metrics import votes
from analysis.stats import difference, interval, point, powers, ratio
from analysis.tables import gap, num, table
from engine.files import die

FILE, HEADING, FOLDERS = "baselines.json", "Inference-time baselines", (2, 20)

# --- yours to edit: the prompts that --prompts true tries
PROMPTS = {
    "plain": "Put the final answer in \\boxed{}.",
    "step_by_step": "Think step by step and put the final answer in \\boxed{}.",
    "brief": "Think as briefly as you can and put the final answer in \\boxed{}.",
}


@dataclass
class Config(Settings):
    """Options of analysis.baselines."""

    prompts: bool = False
    """Also measure A's model with each of PROMPTS (top of analysis/baselines.py), as A was measured."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes CUDA where there is one."""
    rows: int = 0
    """Most rollouts decoded at the same time, fewer where memory is short; 0 means 256."""


def options_of(side: Evaluation) -> dict:
    """The options of eval.py that measured one side, but those that move memory and speed only."""
    info = side.info | {"eval_cap": side.info["cap"], "eval_samples": side.samples}
    info |= {f"eval_{key}": side.info[key] for key in ("temperature", "top_p") if key in side.info}
    free = ("overwrite", "device", "rows", "rollout_weights", "test_data")
    names = [field.name for field in dataclasses.fields(evaluation.Config) if field.name not in free]
    return {name: info[name] for name in names if name in info}


def measure_prompts(a: Evaluation, cfg: Config) -> list[Evaluation]:
    """A's model on A's problems with each of PROMPTS, all else as A was measured; each in a folder of its own.

    A folder that holds this very measurement is read, so that a stopped run goes on; any other needs --overwrite.
    """
    measured = []
    for name, text in PROMPTS.items():
        folder = str(Path(cfg.out_dir, f"prompt_{name}"))
        options = options_of(a) | {"instruction": text, "out_dir": folder}
        there = Path(folder, "eval.json").exists()
        same = there and options_of(load_evaluation(folder)) | {"out_dir": folder} == options
        if there and not same and not cfg.overwrite:
            die(f"{folder} was measured otherwise than {a.folder}; --overwrite true measures it anew")
        if not same:
            evaluation.main(evaluation.Config(**options, overwrite=True, device=cfg.device, rows=cfg.rows))
        measured.append(pair(a, load_evaluation(folder)))
    return measured


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    """One answer of each side beside one of A; for every number of A's votes, as many votes of B as cost no more."""
    a, b, *more = sides
    result = {"rows": [], "votes": []}
    for side in [a, b, *more, *(measure_prompts(a, cfg) if cfg.prompts else [])]:
        row = side.figures() | {"folder": side.folder, "instruction": side.info.get("instruction", "not recorded")}
        if side is not a:
            columns = np.concatenate([a.means(), side.means()], 1)                        # (P, 4)
            row["difference"] = interval(columns[:, [0, 2]], difference)
            row["tokens_ratio"] = interval(columns[:, [1, 3]], ratio, log=True)
        result["rows"].append(row)
    cost_a, cost_b = float(a.tokens.mean()), float(b.tokens.mean())
    for k in powers(a.samples):
        # No fewer than one vote, even where that is dearer, and no more than B has samples.
        j = min(b.samples, max(1, int(k * cost_a / cost_b)))
        both = np.stack([votes(a, [k])[0], votes(b, [j])[0]], 1)                          # (P, 2)
        result["votes"].append({
            "A": {"k": k, "tokens": k * cost_a} | point(both[:, 0]),
            "B": {"k": j, "tokens": j * cost_b} | point(both[:, 1]),
            "difference": interval(both, difference),
        })
    return result


def show(r: dict) -> list[str]:
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


if __name__ == "__main__":
    main(sys.modules[__name__])
