"""Speed and memory of the scripts, each figure beside the command that makes it; the last line is one JSON object.

    python dev/bench.py rollouts                            # ours against generate, static cache and generate_batch
    python dev/bench.py step                                # a whole GRPO step against TRL's (pip install trl)
    python dev/bench.py sft                                 # a step of sft.py against TRL's SFTTrainer
    python dev/bench.py scale                               # growth with rows, cap and model: a table and a picture
    python dev/bench.py memory --config config/r1_1.5b_24gb.yaml    # the plan for 8 to 24 GB, without loading weights
    python dev/bench.py hours --config config/r1_1.5b_24gb.yaml     # of three rounds on named cards, by arithmetic
    python dev/bench.py reward                              # grading: outputs per CPU second, attacks, start-up
    python dev/bench.py rollouts --device cuda --limit_gb 24        # graph, eager, roofline, rows that fit
    python dev/bench.py step --device cuda --run_config config/r1_1.5b_24gb.yaml --limit_gb 24

Each says at its start how long it takes: about 5 minutes or less on 2 CPU cores. `--full true` runs more settings, and
`python dev/bench.py rollouts --help` lists the options.

How it measures. Models have the real shapes and random weights: speed does not depend on the values. Nobody may end a
response: lengths are drawn beforehand, heavy-tailed, and forced on every contestant. Repeats are interleaved, so that
a busy machine hurts all alike, and the median counts. On a CPU the unit is CPU seconds over all threads, which other
people's work does not lengthen; on CUDA wall seconds. Peak memory on a CPU is a process's own: every contestant
runs once more, alone in a child process (the same command with --only), imports and weights included.
"""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_prune  # noqa: E402
from dev import bench_reward, bench_rollouts, bench_scale, bench_sft, bench_step  # noqa: E402
from dev.bench_models import HUB, shape_config  # noqa: E402
from dev.measure import report  # noqa: E402
from engine import hours as roofline  # noqa: E402
from engine import memory as planner  # noqa: E402
from engine.files import die, first_line, parse  # noqa: E402


@dataclass
class Memory(train_prune.Config):
    """The planner's table for several cards, from the options of a training run and its model's config alone."""

    cap: int = 0
    """Token cap; 0 for the first of `caps`, the longest round."""
    cards: list[float] = field(default_factory=lambda: [8, 12, 16, 24])
    """Memory of each card in GB (1e9 bytes)."""


@dataclass
class Hours(train_prune.Config):
    """The lines in the head of a config: peak memory and hours of its whole schedule on each card, by arithmetic."""

    cards: list[str] = field(default_factory=lambda: ["RTX 3090", "RTX 4090"])
    """Names of engine/hours.py: CARDS."""
    val_problems: int = 60
    """Problems of `val_data`: AIME 2022 and 2023 have 60."""
    test_problems: int = 500
    """Problems of `test_data`: MATH-500."""


def shape_of(model: str):
    """The model's config; says in a line where it came from."""
    from transformers import AutoConfig

    try:  # known shapes need no network: the hub is only asked for a model that is neither here nor known
        shape, source = AutoConfig.from_pretrained(model, local_files_only=model in HUB), "its config.json"
    except Exception as error:  # the hub out of reach comes as many kinds
        if model not in HUB:
            die(f"--model {model}: config.json not found ({first_line(error)})")
        shape = shape_config(HUB[model])
        source = "the bench's own table of shapes, because its config.json is not on this disk"
    print(f"{model}, shape from {source}")
    return shape


def memory(cfg: Memory) -> None:
    """Prints the plan of each card."""
    first = (str(cfg.caps).split() or ["auto"])[0]
    cfg.cap = cfg.cap or (cfg.eval_cap if first == "auto" else int(first))
    if cfg.cap < 1 or not cfg.cards or min(cfg.cards) <= 0:
        die(f"--cap {cfg.cap} must be at least 1 and --cards {cfg.cards} above 0 GB")
    shape = shape_of(cfg.model)
    cards = ", ".join(f"{card:g}" for card in cfg.cards)
    report("memory", f"arithmetic for cards of {cards} GB", ["transformers"], planner.table(shape, cfg, cfg.cards))


def hours(cfg: Hours) -> None:
    """Prints a line a card, as it stands in the config's head, and the figures once more as JSON."""
    if unknown := [card for card in cfg.cards if card not in roofline.CARDS]:
        die(f"--cards {unknown} unknown; there are {', '.join(roofline.CARDS)}")
    shape, rows = shape_of(cfg.model), []
    if not cfg.caps or "auto" in str(cfg.caps).split():
        print("# caps: auto: only the given caps count, or one round at eval_cap; how many will be measured is not known")
    for card in cfg.cards:
        p, rounds, around = roofline.of_schedule(shape, cfg, card, cfg.val_problems, cfg.test_problems)
        paper = dataclasses.replace(cfg, problems_per_step=128, group=16, steps=190)
        _, whole, _ = roofline.of_schedule(shape, paper, card, cfg.val_problems, cfg.test_problems)
        print(f"#   {card}: peak {p.peak / 1e9:.1f} GB; hours: rounds {rounds:.0f}, evaluations {around:.0f}, "
              f"rounds at the paper's size (190 steps of 128 x 16) {whole:.0f}")  # fmt: skip
        rows.append({"setting": card, "peak_gb": round(p.peak / 1e9, 2), "fits": p.fits, "rows": p.rows})
        rows[-1] |= {"rounds_hours": round(rounds, 2), "around_hours": round(around, 2), "paper_hours": round(whole, 1)}
    report("hours", "arithmetic", ["transformers"], rows)


COMMANDS = {
    "rollouts": (bench_rollouts.Config, bench_rollouts.rollouts),
    "step": (bench_step.Config, bench_step.step),
    "sft": (bench_sft.Config, bench_sft.sft_step),
    "scale": (bench_scale.Config, bench_scale.scale),
    "memory": (Memory, memory),
    "hours": (Hours, hours),
    "reward": (bench_reward.Config, bench_reward.reward),
}


def main(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return
    if words[0] not in COMMANDS:
        die(f"{words[0]} is no bench; there are {', '.join(COMMANDS)}")
    config, bench = COMMANDS[words[0]]
    bench(parse(config, args=words[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
