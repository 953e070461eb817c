"""What a round measures beside its steps: its start, its checkpoints, the winner again, lengths for the next cap."""

import dataclasses
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

from engine import alarms
from engine.checkpoints import read_eval
from engine.files import die, write_text
from engine.policy import load_adapter
from eval import differences, evaluate, settings_of
from sample import Sampler
from selection import by_problem, next_cap

if TYPE_CHECKING:
    from train_prune import Config, Round

PARTIAL = "rollouts.partial.jsonl"  # in the round's folder: what the measurement at hand has finished


def open_reference(r: "Round") -> dict:
    """What selection compares with: `reference`, or else a validation of this round's start."""
    path = Path(r.cfg.reference or r.folder.path / "start.json")
    if not path.is_file():
        r.folder.log("measuring the start of the round on the validation problems ...")
        result, _ = measure(r, "start", r.cfg.reference_samples, r.cfg.seed)
        write_text(path, json.dumps(result, indent=1) + "\n", status=1)
    reference = read_eval(path)
    mine = settings_of(r.cfg, r.cfg.val_data, r.val_problems, r.cfg.prompt_cap or r.cfg.cap)
    if found := differences(reference, mine._asdict()):
        die(f"{path} cannot be compared with this round's validations, it has another {'; '.join(found)}")
    if why := alarms.hopeless(reference):
        if r.cfg.reward == "thinkprune":  # others may pay for something else
            die(f"{path}: {why}")
        r.folder.log(f"warning: {path}: {why}")
    return reference


def measure(r: "Round", label: str, samples: int, seed: int) -> tuple[dict, list[dict]]:
    """The present policy on the validation problems: `eval.evaluate`, and "by_problem" for `selection.pool`."""
    cfg = dataclasses.replace(r.cfg, eval_samples=samples, seed=seed)
    r.sampler.refresh()
    with r.folder.stoppable():
        result, rows = evaluate(
            r.sampler, r.val_problems, cfg, cfg.val_data, cfg.prompt_cap or cfg.cap, label, r.folder.path / PARTIAL
        )
    return result | {"by_problem": by_problem(rows)}, rows


def measure_again(r: "Round", result: dict) -> dict:
    """A checkpoint on fresh samples; kept in its folder, so that an interrupted round does not begin anew."""
    path = Path(result["adapter"]) / "confirm.json"
    if not path.is_file():
        load_adapter(r.policy, result["adapter"])
        label, samples = f"step {result['step']} again", r.cfg.confirm_samples
        again, _ = measure(r, label, samples, r.cfg.seed + 10_000 * result["step"])
        write_text(path, json.dumps(again, indent=1) + "\n", status=1)
    return read_eval(path)


def measure_lengths(sampler: Sampler, problems: list[dict], cfg: "Config", cap: int, kept_in: Path) -> list[dict]:
    """Graded rollouts, one to each of `cap_problems` training problems, sampled and prompted as in a round of this cap.

    Not those of the round's last steps: older policies sampled them.
    """
    chosen = random.Random(f"{cfg.seed} lengths").sample(problems, min(cfg.cap_problems, len(problems)))
    how = {"eval_cap": cap, "eval_temperature": cfg.temperature, "eval_top_p": cfg.top_p, "eval_samples": 1}
    return evaluate(sampler, chosen, dataclasses.replace(cfg, **how), cfg.train_data, cap, "lengths", kept_in)[1]


def cap_after(r: "Round", best: dict | None) -> dict:
    """`next_cap` by the lengths of the checkpoint that the round selected."""
    rows = []
    if best:
        load_adapter(r.policy, best["adapter"])
        r.sampler.refresh()
        with r.folder.stoppable():
            rows = measure_lengths(r.sampler, r.problems, r.cfg, r.cfg.cap, r.folder.path / PARTIAL)
    return next_cap(rows, r.cfg.cap, r.cfg.cap_percentile)
