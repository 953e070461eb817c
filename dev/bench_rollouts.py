"""`bench.py rollouts`: tokens a second of our sampler, `generate`, its static cache, and `generate_batch`."""

import functools
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from dev.bench_models import CONTEXT, LONGEST_PROMPT, check_folder, complete, forced_lengths, make_prompts
from dev.bench_models import random_model, real_model, word_tokenizer
from dev.measure import Progress, alone, chosen, clock, device_of, fresh_peak, peak_bytes, report
from engine import memory as planner
from engine.files import Options, die
from engine.memory import choose_rows, memory_plan
from engine.rows import Requests
from sample import Sampler

METHODS = ["ours", "generate", "static", "generate_batch"]
# Settings: model, requests, rows, cap
FULL = [("1M", 64, 32, 512), ("1M", 128, 64, 512), ("25M", 36, 12, 192), ("100M", 12, 12, 128)]
ON_CUDA = [("r1_1.5b", 256, 64, 4000), ("r1_1.5b", 256, 128, 4000)]


@dataclass
class Config:
    """Tokens a second and peak memory of our sampler, generate, its static cache, and generate_batch."""

    device: str = "cpu"
    """cpu or cuda."""
    model_size: str = ""
    """One of SHAPES, with the sizes below; empty for the settings that docs/speed.md shows."""
    model: str = ""
    """Folder of a real model, instead of a random one of model_size."""
    requests: int | None = None
    """Prompts, one rollout each: 64, or 8 with --model."""
    rows: int | None = None
    """Rollouts decoded at the same time: 32, or 8 with --model."""
    cap: int | None = None
    """Token cap: 512, or 192 with --model. Lengths are heavy-tailed below it."""
    repeats: int = 3
    """Timed runs of each contestant, interleaved; the median counts."""
    full: bool = False
    """On a CPU, more rows and larger models, too."""
    only: str = ""
    """Some contestants, by commas: ours, generate, static, generate_batch."""
    peaks: bool = True
    """On a CPU, run each once more in a process of its own for its peak memory."""
    limit_gb: float = 0.0
    """On CUDA, hold torch to this many GB (1e9 bytes); 0 for the whole card."""

    def __post_init__(self):
        complete(self, requests=(64, 8), rows=(32, 8), cap=(512, 192))


@dataclass
class Task:
    """What every contestant is given: one model, the same prompts and the same response lengths."""

    size: str
    requests: int
    rows: int
    cap: int
    device: torch.device
    folder: str = ""
    """Of a real model, named by `size`."""

    def __post_init__(self):
        self.model = real_model(self.folder, self.device) if self.folder else random_model(self.size, self.device)
        vocab = self.model.config.vocab_size
        self.tokenizer = word_tokenizer(vocab)
        self.prompts, self.lengths = make_prompts(self.requests, vocab), forced_lengths(self.requests, self.cap)

    @property
    def name(self) -> str:
        return f"{self.size} {self.requests}/{self.rows}/{self.cap}"

    @property
    def card(self) -> bool:
        return self.device.type == "cuda"


@dataclass
class Contestant:
    """One way to sample, and what was measured of it."""

    name: str
    run: Callable[..., tuple[int, dict[str, float]]]
    """f(task, lengths, rows) -> tokens made, seconds by part: "" is the whole."""
    rows: int = 0
    """Rollouts at once: those of the task, or fewer where memory ran out."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Of each counted repeat, by part."""
    peak: int = 0
    refused: str = ""
    """Why it cannot take part; empty where it can."""

    @property
    def ours(self) -> bool:
        return self.name.startswith("ours")


# ---------------------------------------------------------------------------------------- the contestants


def our_sampler(model, tokenizer, rows: int, decode: str = "auto") -> Sampler:
    """Our sampler on a plain model; no token ends a response."""
    options = Options(load_4bit=False, rows=rows, rollout_weights="live")
    return Sampler(model, tokenizer, options, decode=decode, end_ids=[-1])


def run_ours(task: Task, lengths: list[int], rows: int, decode: str = "auto") -> tuple[int, dict[str, float]]:
    """Tokens that our sampler made, and the seconds it took."""
    start = clock(task.device)
    made = our_sampler(task.model, task.tokenizer, rows, decode).sample(task.prompts, cap=lengths)
    return sum(len(r.ids) for r in made), {"": clock(task.device) - start}


def run_generate(task: Task, lengths: list[int], rows: int, **more) -> tuple[int, dict[str, float]]:
    """Tokens asked of `model.generate`, in waves of `rows` that stop when their longest rollout is done; seconds."""
    from transformers import GenerationConfig, StoppingCriteriaList

    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=task.cap, pad_token_id=0, **more
    )
    start, made = clock(task.device), 0
    for first in range(0, len(task.prompts), rows):
        wave = task.prompts[first : first + rows]
        wanted = torch.tensor(lengths[first : first + rows], device=task.device)
        width = max(map(len, wave))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in wave], device=task.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in wave], device=task.device)
        ended = StoppingCriteriaList([lambda ids, scores, **_: ids.shape[1] - width >= wanted])
        out = task.model.generate(ids, attention_mask=mask, generation_config=settings, stopping_criteria=ended)
        made += sum(min(length, out.shape[1] - width) for length in wanted.tolist())
    return made, {"": clock(task.device) - start}


def run_generate_batch(task: Task, lengths: list[int], rows: int) -> tuple[int, dict[str, float]]:
    """Tokens that continuous batching made, and seconds, with as many requests at once and as much room as ours.

    Starting and stopping its manager is part of the whole, as in `model.generate_batch`: a training step pays for
    that each time. The part "running" leaves it out.
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=task.cap, pad_token_id=0, eos_token_id=-1
    )
    blocks = rows * math.ceil((max(map(len, task.prompts)) + task.cap) / 256) + 1
    batching = ContinuousBatchingConfig(max_requests_per_batch=rows, num_blocks=blocks, seed=0)
    batching_manager = task.model.continuous_batching_context_manager
    made, left, before = 0, len(task.prompts), clock(task.device)
    with batching_manager(settings, continuous_batching_config=batching, timeout=5) as manager:
        start = clock(task.device)
        for prompt, length in zip(task.prompts, lengths):
            manager.add_request(prompt, max_new_tokens=length)
        while left:
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("the generation thread ended")
            if result is not None and result.is_finished():
                made, left = made + len(result.generated_tokens), left - 1
        running = clock(task.device) - start
    return made, {"": clock(task.device) - before, "running": running}


def contestants(card: bool, only: str = "") -> list[Contestant]:
    """Who takes part: on a card ours with and without graphs, and the libraries' ways."""
    everyone = [
        Contestant("ours", functools.partial(run_ours, decode="graph" if card else "auto")),
        Contestant("ours eager", functools.partial(run_ours, decode="eager")),
        Contestant("generate", run_generate),
        Contestant("static", functools.partial(run_generate, cache_implementation="static")),
        Contestant("generate_batch", run_generate_batch),
    ]
    names = chosen(only, METHODS)
    return [c for c in everyone if c.name.split()[0] in names and (card or c.name != "ours eager")]


# ---------------------------------------------------------------------------------------- what a card could do


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of large copies on the card: an upper limit for decoding."""
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target, seconds = torch.zeros_like(source), []
    for _ in range(5):
        start = clock(device)
        for _ in range(20):
            target.copy_(source)
        seconds.append((clock(device) - start) / 20)
    return 2 * source.numel() / statistics.median(seconds)


def roofline_seconds(config, itemsize: int, prompts, lengths, rows: int, bandwidth: float) -> float:
    """Time to read what decoding has to read: all weights once a step, and each live row's keys and values.

    Args:
        itemsize: Bytes of a weight and of a cached number.
        bandwidth: Bytes a second.
    """
    count = planner.count(config)
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size  # looked up, not read
    weights = itemsize * (count["linear"] + count["other"] - embedding)
    kv = planner.kv_bytes(config, itemsize)
    ends, steps = [0] * min(rows, len(lengths)), 0
    for length in lengths:  # a finished row takes the next request at once
        row = ends.index(min(ends))
        ends[row] += length
        steps = max(steps, ends[row])
    read = sum(kv * (len(p) * n + n * (n + 1) // 2) for p, n in zip(prompts, lengths))
    return (steps * weights + read) / bandwidth


def largest_rows(size: str, cap: int, device: torch.device) -> dict:
    """The most rows that really fit at this cap, against the plan: a long prompt and a few tokens fill every row."""
    model, tokens = random_model(size, device), cap + planner.PROMPT
    sampler = our_sampler(model, word_tokenizer(model.config.vocab_size), 0)
    start = torch.cuda.memory_allocated(device)
    planned = memory_plan(model, Options(load_4bit=False, rows=100_000), tokens)

    def peak_with(rows: int) -> int:
        """Peak bytes, or 0 where so many rows do not fit."""
        fresh_peak(device)
        try:
            # The loop itself: `sample` would take no more rows than the plan has room for.
            sampler.decode(Requests([[3] * (tokens - 8)], rows, [8] * rows, 1.0, 1.0, 0, "", None), rows)
        except torch.OutOfMemoryError:
            return 0
        return peak_bytes(device)

    low, high, most = 0, 2 * max(1, planned.rows), 0
    while high - low > max(1, planned.rows // 50):
        middle = (low + high) // 2
        if peak := peak_with(middle):
            low, most = middle, peak
        else:
            high = middle
    predicted = planned.static + low * planned.row + planned.prefill
    row = {"setting": f"{size} largest rows at {tokens} tokens", "method": "ours", "rows": low}
    row |= {"planned_rows": planned.rows, "free_gb": round(planned.free / 1e9, 2), "weights_gb": round(start / 1e9, 2)}
    row |= {"peak_mb": round(most / 1e6, 1), "planned_mb": round(predicted / 1e6, 1)}
    return row | {"peak_to_plan": round(most / predicted, 3)}


# ---------------------------------------------------------------------------------------- the race


def attempt(contestant: Contestant, task: Task, lengths: list[int], counted: bool) -> str:
    """One run of one contestant, with half the rows as often as memory runs out; returns what to print of it."""
    while not contestant.refused:
        fresh_peak(task.device)
        try:
            made, seconds = contestant.run(task, lengths, contestant.rows)
        except torch.OutOfMemoryError:
            if contestant.ours:
                raise
            if contestant.rows == 1:
                contestant.refused = "out of memory with one row"
            contestant.rows, contestant.seconds = max(1, contestant.rows // 2), {}
            continue
        except Exception as error:  # another library's refusal, in its own words
            if contestant.ours:
                raise
            contestant.refused = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
            break
        if made != sum(lengths):
            contestant.refused = f"made {made} tokens instead of {sum(lengths)}"
        for part, value in seconds.items() if counted else ():
            contestant.seconds.setdefault(part, []).append(value)
        contestant.peak = peak_bytes(task.device)
        return f"{seconds['']:.1f} {'s' if task.card else 'CPU s'}"
    return f"skipped: {contestant.refused}"


def race(task: Task, repeats: int, only: str, peaks: bool, progress: Progress) -> list[dict]:
    """Rows of the table for one setting: every contestant on the same prompts and lengths.

    Args:
        only: Contestants by commas, or empty for all.
        peaks: Run each once more in a process of its own for its peak memory.
    """
    everyone, card = contestants(task.card, only), {}
    if task.card:  # ours takes what the plan allows; the others start there, and halve their rows where they run out
        longest = max(map(len, task.prompts)) + task.cap
        task.rows = choose_rows(task.model, Options(load_4bit=False), longest, task.rows)
        speed, model = copy_bandwidth(task.device), task.model
        bound = roofline_seconds(model.config, model.dtype.itemsize, task.prompts, task.lengths, task.rows, speed)
        card = {"copy_gb_per_second": round(speed / 1e9, 1), "roofline_seconds": bound}
    for contestant in everyone:
        contestant.rows = task.rows
    for turn in range(repeats + 1):  # turn 0 warms up: kernels, graphs and compilation are not counted
        lengths = task.lengths if turn else [min(n, 4) for n in task.lengths]
        for contestant in everyone:
            said = attempt(contestant, task, lengths, counted=turn > 0)
            if turn:
                progress.line(f"{task.name}, {contestant.name}, run {turn} of {repeats}: {said}")
    own = {}
    for name in [c.name for c in everyone if not c.refused] if peaks else ():
        words = ["--model", task.folder] if task.folder else ["--model_size", task.size]
        words += ["--requests", task.requests, "--rows", task.rows, "--cap", task.cap, "--repeats", 1]
        own[name] = alone("rollouts", *words, "--only", name)["peak_mb"]
        progress.line(f"{task.name}, {name}, peak memory: {own[name]} MB")
    if task.card or len(everyone) == 1:
        own = {c.name: round(c.peak / 1e6, 1) for c in everyone}
    return race_rows(task, everyone, own, card)


def race_rows(task: Task, everyone: list[Contestant], peak_mb: dict[str, float], card: dict) -> list[dict]:
    """The measured contestants as rows of the table.

    Args:
        peak_mb: By contestant, where it was measured.
        card: On CUDA, `copy_gb_per_second` and `roofline_seconds`.
    """
    parts = {}
    for contestant in everyone:
        for part, seconds in (contestant.seconds or {"": []}).items():
            parts[f"{contestant.name} {part}".strip()] = contestant, seconds
    middle = {name: max(1e-9, statistics.median(s)) for name, (c, s) in parts.items() if not c.refused}
    table = []
    for name, (contestant, _) in parts.items():
        row = {"setting": task.name, "method": name, "tokens": sum(task.lengths)}
        if contestant.refused:
            table.append(row | {"note": f"skipped: {contestant.refused}"})
            continue
        row |= {"seconds": round(middle[name], 3), "tokens_per_second": round(sum(task.lengths) / middle[name], 1)}
        if name in peak_mb:
            row["peak_mb"] = peak_mb[name]
        if contestant.ours:
            others = [other for other in middle if not other.startswith("ours")]
            row |= {f"ratio_to_{other.replace(' ', '_')}": round(middle[other] / middle[name], 2) for other in others}
        if card:
            share = round(card["roofline_seconds"] / middle[name], 3)
            row |= {"copy_gb_per_second": card["copy_gb_per_second"], "roofline_share": share}
        if contestant.rows != task.rows:
            row["note"] = f"with {contestant.rows} rows: more do not fit"
        table.append(row)
    return table


# ---------------------------------------------------------------------------------------- the command


def settings_of(cfg: Config, device: torch.device) -> tuple[list[tuple[str, int, int, int]], str]:
    """(settings, how long they take in words)."""
    if cfg.model_size or cfg.model:
        own = (cfg.model_size or os.path.basename(os.path.abspath(cfg.model)), cfg.requests, cfg.rows, cfg.cap)
        return [own], "one setting of your own: a line after each run shows how it goes"
    if device.type == "cuda":
        return ON_CUDA, "two settings of a 1.5B model; not yet measured how long they take on a card"
    if cfg.full:
        return FULL, "about 20 minutes on 2 CPU cores"
    return FULL[:1], "about 4 minutes on 2 CPU cores, --full true about 20"


def rollouts(cfg: Config) -> None:
    """The table: every setting, every contestant."""
    if min(cfg.requests, cfg.rows, cfg.cap, cfg.repeats) < 1:
        sizes = f"--requests {cfg.requests}, --rows {cfg.rows}, --cap {cfg.cap} and --repeats {cfg.repeats}"
        die(f"{sizes} must be at least 1")
    if cfg.cap > CONTEXT - LONGEST_PROMPT:
        die(f"--cap {cfg.cap}: the models' context is {CONTEXT} tokens, of which a prompt takes up to {LONGEST_PROMPT}")
    chosen(cfg.only, METHODS)
    check_folder(cfg.model)
    device = device_of(cfg.device, cfg.limit_gb)
    settings, takes = settings_of(cfg, device)
    several = len(contestants(device.type == "cuda", cfg.only))
    peaks = cfg.peaks and several > 1 and device.type == "cpu"
    runs = several * (cfg.repeats + peaks)
    table, progress = [], Progress(len(settings) * runs, takes)
    for size, *sizes in settings:
        table += race(Task(size, *sizes, device, cfg.model), cfg.repeats, cfg.only, peaks, progress)
        fresh_peak(device)
    if device.type == "cuda" and not cfg.only and not cfg.model:
        for size, cap in dict.fromkeys((setting[0], setting[3]) for setting in settings):
            table.append(largest_rows(size, cap, device))
    report("rollouts", device, ["torch", "transformers"], table)
