"""How often selection takes a checkpoint that is worse than it may be: simulated, before and after `confirm`.

    python dev/selection_noise.py                     # about a minute; --rounds 500 for a first look

60 problems whose pass rates are drawn around 0.27 (an AIME-like base), a round of 10 checkpoints that get shorter
while their accuracy falls evenly to 25 % below the base's. Every measurement is a draw of answers, and
`selection.select` decides.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.files import run  # noqa: E402
from selection import select  # noqa: E402

PROBLEMS, CHECKPOINTS, WORST = 60, 10, 0.25


@dataclass
class Config:
    """Options of dev/selection_noise.py."""

    rounds: int = 4000
    """Simulated rounds for each row of the table."""
    seed: int = 0


def draw(rates: np.ndarray, samples: int, tokens: float, rng: np.random.Generator) -> dict:
    """A measurement of a checkpoint as `select` reads it."""
    right = rng.binomial(samples, rates)
    groups = {str(i): [int(r), samples, int(tokens * samples)] for i, r in enumerate(right)}
    return {"pass@1": right.mean() / samples, "mean_tokens": tokens, "by_problem": groups}


def one_round(samples: int, reference: int, confirm: int, rng: np.random.Generator) -> tuple[float, int]:
    """(true relative loss of what is selected, 0 for the start; how many checkpoints were measured again)."""
    rates = rng.beta(0.27, 0.73, size=PROBLEMS)
    losses = np.linspace(0, WORST, CHECKPOINTS)
    results = [draw(rates * (1 - loss), samples, 4000 - 100.0 * i, rng) | {"step": i} for i, loss in enumerate(losses)]
    again = 0

    def measure_again(result: dict) -> dict:
        nonlocal again
        again += 1
        return draw(rates * (1 - losses[result["step"]]), confirm, result["mean_tokens"], rng)

    base = draw(rates, reference, 4000.0, rng)
    best, _ = select(results, base, 0.10, measure_again if confirm else None)
    return (losses[best["step"]] if best else 0.0), again


def table(rounds: int, seed: int = 0) -> list[list[str]]:
    """Rows: checkpoint samples, reference, confirm, share of rounds over 10 and over 15 % worse, mean loss, again."""
    rows = []
    for samples, reference, confirm in [(4, 4, 0), (16, 16, 0), (4, 64, 0), (4, 32, 16), (4, 64, 16)]:
        rng = np.random.default_rng(seed)
        found = [one_round(samples, reference, confirm, rng) for _ in range(rounds)]
        loss = np.array([x for x, _ in found])
        shares = [f"{100 * np.mean(loss > limit + 1e-9):.0f} %" for limit in (0.10, 0.15)]
        mean, again = f"{100 * loss.mean():.1f} %", f"{np.mean([n for _, n in found]):.1f}"
        rows.append([str(samples), str(reference), str(confirm), *shares, mean, again])
    return rows


def main(cfg: Config) -> None:
    head = ["samples", "reference", "confirm", "over 10 % worse", "over 15 % worse", "mean loss", "measured again"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in table(cfg.rounds, cfg.seed):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    run(main, Config)
