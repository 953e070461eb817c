"""Speed and memory of the scripts, each figure beside the command that makes it; the last line is one JSON object.

    python dev/bench.py rollouts                            # ours against generate, static cache and generate_batch
    python dev/bench.py step                                # a whole GRPO step against TRL's (pip install trl)
    python dev/bench.py scale                               # growth with rows, cap and model: a table and a picture
    python dev/bench.py memory --config config/r1_1.5b_24gb.yaml    # the plan for 8 to 24 GB, without loading weights
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

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_prune  # noqa: E402
from dev import bench_reward, bench_rollouts, bench_scale, bench_step  # noqa: E402
from dev.bench_models import HUB, shape_config  # noqa: E402
from dev.measure import report  # noqa: E402
from engine import memory as planner  # noqa: E402
from engine.files import die, first_line, parse  # noqa: E402


@dataclass
class Memory(train_prune.Config):
    """The planner's table for several cards, from the options of a training run and its model's config alone."""

    cap: int = 0
    """Token cap; 0 for the first of `caps`, the longest round."""
    cards: list[float] = field(default_factory=lambda: [8, 12, 16, 24])
    """Memory of each card in GB (1e9 bytes)."""


def memory(cfg: Memory) -> None:
    """Prints the plan of each card; the first line says where the model's shape came from."""
    cfg.cap = cfg.cap or int(str(cfg.caps).split()[0])
    if cfg.cap < 1 or not cfg.cards or min(cfg.cards) <= 0:
        die(f"--cap {cfg.cap} must be at least 1 and --cards {cfg.cards} above 0 GB")
    from transformers import AutoConfig

    try:  # known shapes need no network: the hub is only asked for a model that is neither here nor known
        shape, source = AutoConfig.from_pretrained(cfg.model, local_files_only=cfg.model in HUB), "its config.json"
    except Exception as error:  # the hub out of reach comes as many kinds
        if cfg.model not in HUB:
            die(f"--model {cfg.model}: config.json not found ({first_line(error)})")
        shape = shape_config(HUB[cfg.model])
        source = "the bench's own table of shapes, because its config.json is not on this disk"
    print(f"{cfg.model}, cap {cfg.cap}, shape from {source}")
    cards = ", ".join(f"{card:g}" for card in cfg.cards)
    report("memory", f"arithmetic for cards of {cards} GB", ["transformers"], planner.table(shape, cfg, cfg.cards))


COMMANDS = {
    "rollouts": (bench_rollouts.Config, bench_rollouts.rollouts),
    "step": (bench_step.Config, bench_step.step),
    "scale": (bench_scale.Config, bench_scale.scale),
    "memory": (Memory, memory),
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
