"""Hours and GPU hours of a schedule by arithmetic. Put your own card and model in.

    python -m scale.cost                                            # the paper's schedule, R1-Distill-Qwen-1.5B, H100
    python -m scale.cost --bandwidth 1.0 --peak 165 --cards 1       # an RTX 4090
"""

from dataclasses import dataclass

from engine.files import run


@dataclass
class Config:
    """Options of cost.py."""

    cards: str = "1 8 16"
    """Numbers of cards."""
    caps: str = "4000 3000 2000"
    """The rounds."""
    steps: int = 190
    """Steps of a round."""
    rollouts: int = 2048
    """Rollouts of a step: problems x group, 128 x 16 in the paper."""
    length: float = 0.75
    """Mean response in caps."""
    prompt: int = 200
    """Tokens of a prompt."""
    parameters: float = 1.54
    """Of the model, in billions; 2 bytes each while sampling."""
    kv: float = 28.0
    """KiB of KV cache a token."""
    rows: int = 256
    """Rollouts that a card samples at a time."""
    bandwidth: float = 3.0
    """Memory of the card, TB/s."""
    peak: float = 989.0
    """bfloat16 TFLOP/s of the card."""
    reached: float = 0.33
    """Share of the memory bandwidth that sampling reaches: ours on an H100 (docs/card.md), with 128 rows."""
    utilisation: float = 0.24
    """Share of the peak that forward and backward reach, likewise."""
    flops: int = 10
    """A parameter and token in the update: 6 forward, recomputed and backward through a LoRA, 2 each for the KL's
    reference and for the old log-probs."""


def step_seconds(cfg: Config, cap: int, cards: int) -> tuple[float, float]:
    """(sampling, update) seconds of one step.

    Sampling reads the weights once a token position and each row's cache once a token. The positions are at least the
    cap, since the step waits for its longest rollout; so more cards than rollouts / rows save little of it.
    """
    mine, length = cfg.rollouts / cards, cfg.length * cap
    positions = max(cap, mine * length / cfg.rows)
    cache = mine * length * cfg.kv * 1024 * (cfg.prompt + length / 2)
    sampling = (positions * 2e9 * cfg.parameters + cache) / (cfg.bandwidth * 1e12 * cfg.reached)
    update = mine * (length + cfg.prompt) * cfg.flops * cfg.parameters * 1e9 / (cfg.peak * 1e12 * cfg.utilisation)
    return sampling, update


def main(cfg: Config) -> None:
    print("| cards | sampling, s a step | update, s a step | hours | GPU hours |\n|---|---|---|---|---|")
    for cards in map(int, cfg.cards.split()):
        parts = [step_seconds(cfg, int(cap), cards) for cap in cfg.caps.split()]
        hours = cfg.steps * sum(map(sum, parts)) / 3600
        sampling, update = (", ".join(f"{part[i]:.0f}" for part in parts) for i in (0, 1))
        print(f"| {cards} | {sampling} | {update} | {hours:.1f} | {cards * hours:.0f} |")


if __name__ == "__main__":
    run(main, Config)
