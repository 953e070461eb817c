"""How long a round takes: by arithmetic before it starts, and from what was measured once it runs.

    python dev/bench.py hours --config config/r1_1.5b_24gb.yaml      # the lines in the head of that config

The arithmetic is a roofline. What a token has to read and to compute is divided by what the card's data sheet promises,
times the shares below. Three of them were chosen so that a step of config/r1_1.5b_24gb.yaml on an H100 comes out
(docs/card.md); no other card was measured. Once a round runs, `left` goes by its own steps.
"""

import dataclasses
import heapq
import math
from dataclasses import dataclass
from statistics import fmean as mean

import torch

from engine.checkpoints import Step
from engine.memory import CONTEXT, Plan, count, head_dim, kv_bytes, memory_plan, plan

# name: GB of memory, GB/s, TFLOPS of dense bfloat16 with float32 sums (a T4: float16). From the makers' data sheets.
CARDS = {
    "RTX 3060": (12, 360, 25), "RTX 3080": (10, 760, 60), "RTX 3090": (24, 936, 71), "RTX 4060 Ti": (16, 288, 44),
    "RTX 4070": (12, 504, 58), "RTX 4080": (16, 717, 97), "RTX 4090": (24, 1008, 165), "RTX 5090": (32, 1792, 210),
    "T4": (16, 320, 65), "L4": (24, 300, 121), "A10": (24, 600, 125), "A100": (40, 1555, 312), "H100": (80, 3350, 989),
    "H200": (141, 4800, 989),
}  # fmt: skip
NO_GRAPHS = {"T4"}  # no varlen attention below compute capability 8.0
# Assumed, but where an H100 is named: there a step with random weights of the 1.5B shape was measured.
ASKED = 150  # tokens of a prompt
LENGTH = 0.8  # mean answer, as a share of its cap; lengths are spread evenly from 0.6 to 1
READ, ATTEND = 0.8, 0.63  # share of the bandwidth: for weights and logits; for keys and values
COMPUTE = 0.55  # share of the TFLOPS; with SIDE chosen so that an H100's update comes out
SIDE = 19  # bytes a forward moves for each input and output of a linear layer with its LoRA, norms included
LAUNCHES = 0.0025  # seconds of a decode step for 600 small kernels in a graph and for the loop; an H100's sampling
UNPACK = 6.75  # bytes a 4-bit weight, to decode from it: 4.5 are moved, and an H100's time fits 6.75
SIDES = 0.002  # seconds of a decode step for a LoRA that is not folded in
EAGER = {"merged": 0.013, "live": 0.0425}  # least seconds of a step without graphs, on an H100's host
AGAIN = 2  # candidates that a selection measures again


@dataclass
class Hours:
    """Hours of each part of a round."""

    sampling: float
    update: float
    validation: float  # with what the selection measures again

    @property
    def whole(self) -> float:
        return self.sampling + self.update + self.validation

    def line(self, card: str) -> str:
        """What is printed before a round."""
        _, speed, tflops = CARDS[card]
        unit, times = ("hours", 1) if self.whole >= 1 else ("minutes", 60)
        sampling, update, validation, whole = (
            f"{times * part:.1f}" for part in (self.sampling, self.update, self.validation, self.whole)
        )
        return (f"{unit} of this round, by arithmetic: sampling {sampling} + update {update} + validation {validation} "
                f"= {whole} ({card}: {speed} GB/s, {tflops} TFLOPS; answers of {LENGTH:.0%} of their cap)")  # fmt: skip


def card_of(name: str) -> str:
    """The key of CARDS in a device's name, the longest that fits; empty for a card that is not there.

    >>> card_of("NVIDIA GeForce RTX 4060 Ti"), card_of("NVIDIA A100-SXM4-40GB"), card_of("RTX 4090 Laptop GPU")
    ('RTX 4060 Ti', 'A100', '')
    """
    words = f" {name.replace('-', ' ')} "
    found = max((card for card in CARDS if f" {card} " in words), key=len, default="")
    # Of the same name, but not as fast.
    others = {"Ti", "SUPER", "D", "Laptop", "PCIe"} & set(words.replace(found, "").split())
    return "" if others else found


def sampling_seconds(config, options, p: Plan, card: str, answers: int, cap: int) -> float:
    """Seconds to sample so many answers, of lengths that are spread evenly, in no order."""
    low = 2 * LENGTH - 1
    lengths = [cap * (low + (1 - low) * (k * 0.618034 % 1)) for k in range(answers)]
    return decode_seconds(config, options, p, card, lengths)


def decode_seconds(config, options, p: Plan, card: str, lengths: list[float]) -> float:
    """Seconds to sample answers of these lengths, `p.rows` at a time; a row that ends takes the next at once."""
    speed, n = CARDS[card][1] * 1e9, count(config)
    ends = [0.0] * max(1, min(p.rows, len(lengths)))
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    steps, tokens = max(ends), sum(lengths)
    item, head = (4 if options.dtype == "float32" else 2), config.vocab_size * config.hidden_size
    linear = n["linear"] * (UNPACK if p.weights == "live" and options.load_4bit else item)
    cached = kv_bytes(config, item) * sum(length * (ASKED + length / 2) for length in lengths)
    drawn = 64 * config.vocab_size * tokens
    seconds = steps * (linear + item * head) / (READ * speed) + cached / (ATTEND * speed) + drawn / (READ * speed)
    seconds += steps * (LAUNCHES + SIDES * (p.weights == "live"))
    graphs = card not in NO_GRAPHS and options.dtype != "float32"
    return seconds if graphs else max(seconds, steps * EAGER[p.weights])


def update_seconds(config, options, card: str, answers: int, cap: int) -> float:
    """Seconds of the passes over one batch: all its groups, as how many will be dead is not known."""
    _, speed, tflops = CARDS[card]
    n, length = count(config), ASKED + LENGTH * cap
    passes = options.passes
    forwards = passes * (1 if options.gradient_checkpointing == "false" else 2)
    forwards += (options.beta > 0) + (options.updates_per_batch > 1)  # of the reference, of the old log-probs
    weights = n["linear"] + config.vocab_size * config.hidden_size + options.lora_r * n["sides"]
    attended = 4 * config.num_hidden_layers * config.num_attention_heads * head_dim(config) * length / 2
    # The frozen weights take no gradient: a backward costs what a forward does, in attention 2.5 times that.
    work = (forwards + passes) * 2 * weights + (forwards + 2.5 * passes) * attended
    moved = (forwards + 2 * passes) * SIDE * n["sides"]
    return answers * length * (work / (COMPUTE * tflops * 1e12) + moved / (READ * speed * 1e9))


def evaluation_seconds(config, options, p: Plan, card: str, answers: int) -> float:
    """Seconds to sample so many answers under `eval_cap`, with as many rows as fit then."""
    tokens = p.tokens - options.cap + options.eval_cap
    wider = plan(config, options, p.free, tokens, top_p=options.eval_top_p)
    return sampling_seconds(config, options, wider, card, answers, options.eval_cap)


def of_round(config, options, p: Plan, card: str, val_problems: int) -> Hours:
    """Hours of one round by arithmetic.

    Args:
        options: `train_prune.Config`. p: Its plan on this card, of `memory.plan`. card: One of CARDS.
    """
    answers = options.problems_per_step * options.group
    sampling = options.steps * sampling_seconds(config, options, p, card, answers, options.cap)
    update = options.steps * update_seconds(config, options, card, answers, options.cap)
    checks = math.ceil(options.steps / options.checkpoint_every)
    sizes = [options.eval_samples] * checks + [options.confirm_samples] * AGAIN
    sizes += [] if options.reference else [options.reference_samples]
    seconds = {n: evaluation_seconds(config, options, p, card, val_problems * n) for n in set(sizes) if n}
    return Hours(sampling / 3600, update / 3600, sum(seconds[n] for n in sizes if n) / 3600)


def of_schedule(config, options, card: str, val_problems: int, test_problems: int) -> tuple[Plan, float, float]:
    """(plan of the first round, hours of all rounds, hours of the three evaluations around them) on this card."""
    rounds = []
    given = [int(cap) for cap in str(options.caps).split() if cap != "auto"]  # which caps it will be is not known
    for cap in given or [options.eval_cap]:
        more = {"cap": cap, "init_adapter": "the round before" if rounds else "", "reference": "the base"}
        options = dataclasses.replace(options, **more)
        p = plan(config, options, int(CARDS[card][0] * 1e9) - CONTEXT)
        rounds.append((p, of_round(config, options, p, card, val_problems).whole))
    sizes = (val_problems * options.reference_samples, *[test_problems * options.test_samples] * 2)
    around = sum(evaluation_seconds(config, options, p, card, answers) for answers in sizes) / 3600
    return rounds[0][0], sum(hours for _, hours in rounds), around


def before(model, options, tokens_per_row: int, val_problems: int) -> list[str]:
    """What a round on a card prints before it starts: its plan of memory, and its hours where the card is known."""
    if model.device.type != "cuda":
        return []
    p, card = memory_plan(model, options, tokens_per_row), card_of(torch.cuda.get_device_name(model.device))
    if not card:
        return [p.line(), "hours of this round: after its first step, as engine/hours.py does not know this card"]
    return [p.line(), of_round(model.config, options, p, card, val_problems).line(card)]


# ---------------------------------------------------------------------------------------- once it runs


def short(seconds: float) -> str:
    """
    >>> short(45 * 60), short(5400)
    ('45 min', '1.5 h')
    """
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def left(cfg, number: int, history: list[Step], reference: dict) -> tuple[float, str]:
    """(seconds that a round still takes after step `number`, what is counted in words), from measured times.

    Args:
        cfg: `train_prune.Config`. history: Of the round, this step included.
        reference: What selection compares with: it tells what a validation will take, before there was one.
    """
    step = mean(s.sample_s + s.update_s for s in history[-20:])
    seen = [s.val_s for s in history if s.val_s]
    asked = reference.get("seconds", 0) * cfg.eval_samples / max(1, reference.get("n_samples", 1))
    check = seen[-1] if seen else asked
    again = AGAIN * check * cfg.confirm_samples / cfg.eval_samples
    last = cfg.steps
    if cfg.sample_tokens:
        tokens = [s.tokens(cfg.problems_per_step * cfg.group) for s in history]
        missing = max(0, cfg.sample_tokens - sum(tokens))
        last = min(last, number + math.ceil(missing / max(1, mean(tokens[-20:]))))
    due = sum(n % cfg.checkpoint_every == 0 or n == last for n in range(number, last + 1))
    seconds = step * (last - number) + check * due + again
    words = f"left of this round, as measured so far: {last - number} steps of {step:.0f} s, {due} validations of "
    words += f"{check:.0f} s, {again:.0f} s to measure again: {short(seconds)}"
    caps = [int(cap) for cap in str(cfg.caps).split() if cap.isdigit()]
    if later := caps[caps.index(cfg.cap) + 1 :] if cfg.cap in caps else []:
        every = check * math.ceil(last / cfg.checkpoint_every) + again
        then = sum(step * last * cap / cfg.cap + every for cap in later)
        words += f"; the rounds to come, {' '.join(map(str, later))}: {short(then)}; tests are not counted"
    return seconds, words
