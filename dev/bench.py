"""Speed and memory of the scripts, each figure beside the command that makes it; the last line is one JSON object.

    python dev/bench.py rollouts                            # ours against generate, static cache and generate_batch
    python dev/bench.py step                                # a whole GRPO step against TRL's GRPOTrainer (pip install trl)
    python dev/bench.py scale                               # growth with rows, cap and model: a table and dev/scale.png
    python dev/bench.py memory --config config/r1_1.5b_24gb.yaml    # the plan for 8 to 24 GB, without loading weights
    python dev/bench.py reward --data ../shared/data        # grading: outputs per CPU second, attacks, start-up
    python dev/bench.py rollouts --device cuda --limit_gb 24        # graph, eager, roofline, rows that fit
    python dev/bench.py step --device cuda --run_config config/r1_1.5b_24gb.yaml --limit_gb 24

How it measures. Models have the real shapes and random weights: speed does not depend on the values. Nobody may end a
response: lengths are drawn beforehand, heavy-tailed, and forced on every contestant. Repeats are interleaved, so that
a busy machine hurts all alike, and the median counts. On a CPU the unit is CPU seconds over all threads, which other
people's work does not lengthen; on CUDA wall seconds. Peak memory on a CPU is a process's own: every contestant
runs once more, alone in a child process (the same command with --only), imports and weights included.
"""

import contextlib
import functools
import io
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import reward as grader  # noqa: E402
import train_prune  # noqa: E402
from engine import memory as planner  # noqa: E402
from engine.files import Options, die, first_line, parse  # noqa: E402
from engine.memory import choose_rows, memory_plan  # noqa: E402
from engine.policy import load_policy, pick_device, refresh_copy, rollout_model  # noqa: E402
from sample import generate_rollouts  # noqa: E402

# name: vocabulary, hidden, intermediate, layers, heads, KV heads, whether the head is the embedding
SHAPES = {
    "tiny": (64, 64, 64, 1, 1, 1, True),
    "1M": (512, 128, 384, 4, 4, 4, True),
    "5M": (2048, 256, 768, 5, 4, 2, True),
    "25M": (8192, 384, 1536, 8, 6, 6, True),
    "100M": (32000, 768, 2048, 12, 12, 4, True),
    "r1_1.5b": (151936, 1536, 8960, 28, 12, 2, False),
    "r1_7b": (152064, 3584, 18944, 28, 28, 4, False),
}
HUB = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": "r1_1.5b",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "r1_7b",
}
CONTEXT = 131072
ROLLOUTS = ["ours", "generate", "static", "generate_batch"]


# ---------------------------------------------------------------------------------------- measuring


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children (the grading workers, after grader.close())."""
    grader.close()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def clock(device: torch.device) -> float:
    """CPU seconds of all threads of this process, or on CUDA wall seconds with the card's work done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_bytes(device: torch.device) -> int:
    """Most memory this process has had resident, or on CUDA most that torch has allocated since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # ru_maxrss also counts the parent's pages from before the exec
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def report(bench: str, device, packages: list[str], rows: list[dict]) -> None:
    """Prints the rows as a table and as one JSON object."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[show(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    if isinstance(device, torch.device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        device = f"{name}, {torch.get_num_threads()} threads" if device.type == "cpu" else name
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    print(json.dumps({"bench": bench, "device": device, "versions": versions, "rows": rows}))


def show(value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def alone(*words: str) -> dict:
    """Runs this file in a child process and returns the first row of its JSON line."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        die(f"bench.py {' '.join(words)} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])["rows"][0]


def device_of(name: str, limit_gb: float) -> torch.device:
    """The device, with torch held to `limit_gb` of it where that is above 0."""
    device = pick_device(name)
    if limit_gb:
        if limit_gb < 0 or device.type != "cuda":
            die(f"--limit_gb {limit_gb} needs --device cuda and a number above 0")
        whole = torch.cuda.get_device_properties(device).total_memory
        if limit_gb * 1e9 > whole:
            die(f"--limit_gb {limit_gb}: this card has {whole / 1e9:.1f} GB")
        torch.cuda.set_per_process_memory_fraction(limit_gb * 1e9 / whole, device.index)
    return device


# ---------------------------------------------------------------------------------------- what is run


def shape_config(size: str):
    """A Qwen2 config of one of SHAPES."""
    from transformers import Qwen2Config

    if size not in SHAPES:
        die(f"--model_size {size} is unknown; there are {', '.join(SHAPES)}")
    vocab, hidden, inner, layers, heads, kv_heads, tied = SHAPES[size]
    return Qwen2Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=CONTEXT,
        eos_token_id=1,
        pad_token_id=0,
    )


def random_model(size: str, device: torch.device):
    """A Qwen2 with random weights, built where it will run; bfloat16 on CUDA, float32 on a CPU."""
    import transformers
    from transformers import Qwen2ForCausalLM

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    before, config = torch.get_default_dtype(), shape_config(size)
    torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None  # nobody ends by itself: lengths are forced
    return model.eval()


def word_tokenizer(vocab: int):
    """Token i is the word "w<i>": text and ids can be turned into each other without loss. w0 pads, w1 ends."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocab)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", chat_template=template)


def make_prompts(n: int, vocab: int, seed: int = 0) -> list[list[int]]:
    """n random prompts of 20 to 60 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(20, 61, (n,), generator=generator).tolist()
    return [torch.randint(2, vocab, (length,), generator=generator).tolist() for length in lengths]


def forced_lengths(n: int, cap: int, seed: int = 0) -> list[int]:
    """Response lengths of n rollouts: log-normal around a quarter of the cap, cut at the cap, at least 1.

    With sigma 0.9 some 6 % reach the cap, and the longest of a batch is several times the middle one, as with
    reasoning models.
    """
    normal = torch.randn(n, generator=torch.Generator().manual_seed(seed + 1))
    return (0.25 * cap * (0.9 * normal).exp()).round().clamp(1, cap).int().tolist()


def run_ours(model, tokenizer, prompts, lengths, rows: int, cap: int, **more) -> tuple[int, float]:
    """Tokens that `generate_rollouts` made, and the seconds it took."""
    start = clock(model.device)
    made = generate_rollouts(model, tokenizer, prompts, cap=lengths, rows=rows, end_ids=[-1], **more)
    return sum(len(r.ids) for r in made), clock(model.device) - start


def run_generate(model, tokenizer, prompts, lengths, rows: int, cap: int, **more) -> tuple[int, float]:
    """Tokens asked of `model.generate`, in waves of `rows` that stop when their longest rollout is done; seconds."""
    from transformers import GenerationConfig, StoppingCriteriaList

    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=cap, pad_token_id=0, **more
    )
    start, made = clock(model.device), 0
    for first in range(0, len(prompts), rows):
        wave = prompts[first : first + rows]
        wanted = torch.tensor(lengths[first : first + rows], device=model.device)
        width = max(map(len, wave))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in wave], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in wave], device=model.device)
        done = StoppingCriteriaList([lambda ids, scores, **_: ids.shape[1] - width >= wanted])
        out = model.generate(ids, attention_mask=mask, generation_config=settings, stopping_criteria=done)
        made += sum(min(length, out.shape[1] - width) for length in wanted.tolist())
    return made, clock(model.device) - start


def run_generate_batch(
    model, tokenizer, prompts, lengths, rows: int, cap: int, whole: bool = True
) -> tuple[int, float]:
    """Tokens that continuous batching made, and seconds, with as many requests at once and as much room as ours.

    Starting and stopping its manager is part of it, as in `model.generate_batch`: a training step pays for that each
    time. The contestant "running" leaves that out (`whole` false).
    """
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=cap, pad_token_id=0, eos_token_id=-1
    )
    blocks = rows * math.ceil((max(map(len, prompts)) + cap) / 256) + 1
    batching = ContinuousBatchingConfig(max_requests_per_batch=rows, num_blocks=blocks, seed=0)
    made, left, before = 0, len(prompts), clock(model.device)
    with model.continuous_batching_context_manager(settings, continuous_batching_config=batching, timeout=5) as manager:
        start = clock(model.device)
        for prompt, length in zip(prompts, lengths):
            manager.add_request(prompt, max_new_tokens=length)
        while left:
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise RuntimeError("the generation thread ended")
            if result is not None and result.is_finished():
                made, left = made + len(result.generated_tokens), left - 1
        seconds = clock(model.device) - start
    return made, clock(model.device) - before if whole else seconds


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of large copies on the card: what decoding can hope for."""
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


# ---------------------------------------------------------------------------------------- rollouts


def rollouts(
    device: str = "cpu",
    model_size: str = "",
    requests: int = 64,
    rows: int = 32,
    cap: int = 512,
    repeats: int = 3,
    only: str = "",
    peaks: bool = True,
    limit_gb: float = 0.0,
) -> None:
    """Tokens a second and peak memory of our decode loop, generate, its static cache, and generate_batch.

    Args:
        device: cpu or cuda.
        model_size: One of SHAPES; empty for the settings that the README shows.
        requests: Prompts, one rollout each.
        rows: Rollouts decoded at the same time.
        cap: Token cap; lengths are heavy-tailed below it.
        repeats: Timed runs of each contestant, interleaved; the median counts.
        only: One contestant: ours, generate, static, generate_batch.
        peaks: On a CPU, run each once more in a process of its own for its peak memory.
        limit_gb: On CUDA, hold torch to this many GB (1e9 bytes); 0 for the whole card.
    """
    if min(requests, rows, cap, repeats) < 1:
        die(f"--requests {requests}, --rows {rows}, --cap {cap} and --repeats {repeats} must be at least 1")
    if cap > CONTEXT - 60:
        die(f"--cap {cap}: the models' context is {CONTEXT} tokens, of which a prompt takes up to 60")
    if only and only not in ROLLOUTS:
        die(f"--only {only} is unknown; there are {', '.join(ROLLOUTS)}")
    where = device_of(device, limit_gb)
    settings = [(model_size, requests, rows, cap)]
    if not model_size and where.type == "cuda":
        settings = [("r1_1.5b", 256, 64, 4000), ("r1_1.5b", 256, 128, 4000)]
    elif not model_size:
        settings = [("1M", 64, 32, 512), ("1M", 128, 64, 512), ("25M", 36, 12, 192), ("100M", 12, 12, 128)]
    table = []
    for setting in settings:
        table += race(*setting, where, repeats, only, peaks and not only)
        torch.cuda.empty_cache()
    if where.type == "cuda" and not only:
        for size, cap in dict.fromkeys((s[0], s[3]) for s in settings):
            table.append(largest_rows(size, cap, where))
    report("rollouts", where, ["torch", "transformers"], table)


def race(size: str, requests: int, rows: int, cap: int, device: torch.device, repeats: int, only: str, peaks: bool):
    """Rows of the table for one setting: every contestant on the same prompts and lengths."""
    model = random_model(size, device)
    vocab, card = model.config.vocab_size, device.type == "cuda"
    tokenizer, prompts, lengths = word_tokenizer(vocab), make_prompts(requests, vocab), forced_lengths(requests, cap)
    runs = {
        "ours": functools.partial(run_ours, decode="graph") if card else run_ours,
        "ours eager": functools.partial(run_ours, decode="eager"),
        "generate": run_generate,
        "static": functools.partial(run_generate, cache_implementation="static"),
        "generate_batch": run_generate_batch,
        "generate_batch running": functools.partial(run_generate_batch, whole=False),
    }
    runs = {name: run for name, run in runs.items() if only in ("", name.split()[0]) and (card or name != "ours eager")}
    if card:  # ours takes what the plan allows; the others start there, and halve their rows where they run out
        rows = choose_rows(model, Options(load_4bit=False, rows=rows), max(map(len, prompts)) + cap)
        bandwidth = copy_bandwidth(device)
        bound = roofline_seconds(model.config, model.dtype.itemsize, prompts, lengths, rows, bandwidth)
    seconds, peak, refused, rows_of = {name: [] for name in runs}, {}, {}, dict.fromkeys(runs, rows)
    for turn in range(repeats + 1):  # turn 0 warms up: kernels, graphs and compilation are not counted
        wanted = [min(n, 4) for n in lengths] if turn == 0 else lengths
        for name, run in runs.items():
            while name not in refused:
                if card:
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats(device)
                try:
                    made, took = run(model, tokenizer, prompts, wanted, rows_of[name], cap)
                except torch.OutOfMemoryError:
                    if name.startswith("ours"):
                        raise
                    if rows_of[name] == 1:
                        refused[name] = "out of memory with one row"
                    rows_of[name], seconds[name] = max(1, rows_of[name] // 2), []
                    continue
                except Exception as error:  # another library's refusal, in its own words
                    if name.startswith("ours"):
                        raise
                    refused[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
                    break
                if made != sum(wanted):
                    refused[name] = f"made {made} tokens instead of {sum(wanted)}"
                seconds[name] += [took] if turn else []
                peak[name] = peak_bytes(device)
                break
    middle = {name: max(1e-9, statistics.median(seconds[name])) for name in runs if name not in refused}
    table = []
    for name in runs:
        row = {"setting": f"{size} {requests}/{rows}/{cap}", "method": name, "tokens": sum(lengths)}
        if name in refused:
            table.append(row | {"note": f"skipped: {refused[name]}"})
            continue
        row |= {"seconds": round(middle[name], 3), "tokens_per_second": round(sum(lengths) / middle[name], 1)}
        if peaks and not card and " " not in name:
            words = ["--requests", requests, "--rows", rows, "--cap", cap, "--repeats", 1, "--only", name]
            row["peak_mb"] = alone("rollouts", "--model_size", size, *map(str, words))["peak_mb"]
        elif card or only:
            row["peak_mb"] = round(peak[name] / 1e6, 1)
        if name.startswith("ours"):
            others = [other for other in runs if not other.startswith("ours") and other in middle]
            row |= {f"ratio_to_{other.replace(' ', '_')}": round(middle[other] / middle[name], 2) for other in others}
        if card:
            row |= {"copy_gb_per_second": round(bandwidth / 1e9, 1), "roofline_share": round(bound / middle[name], 3)}
        if rows_of[name] != rows:
            row["note"] = f"with {rows_of[name]} rows: more do not fit"
        table.append(row)
    return table


def largest_rows(size: str, cap: int, device: torch.device) -> dict:
    """The most rows that really fit at this cap, against the plan: a long prompt and a few tokens fill every row."""
    model = random_model(size, device)
    tokens, tokenizer = cap + planner.PROMPT, word_tokenizer(model.config.vocab_size)
    options = Options(load_4bit=False, rows=100_000)
    start, planned = torch.cuda.memory_allocated(device), memory_plan(model, options, tokens)
    peaks = {}

    def fits(rows: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            generate_rollouts(model, tokenizer, [[3] * (tokens - 8)], rows, cap=8, rows=rows, end_ids=[-1])
        except torch.OutOfMemoryError:
            return False
        peaks[rows] = peak_bytes(device)
        return True

    low, high = 0, 2 * max(1, planned.rows)
    while high - low > max(1, planned.rows // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    predicted = planned.static + low * planned.row + planned.prefill
    most = peaks.get(low, 0)
    row = {"setting": f"{size} largest rows at {tokens} tokens", "method": "ours", "rows": low}
    row |= {"planned_rows": planned.rows, "free_gb": round(planned.free / 1e9, 2), "weights_gb": round(start / 1e9, 2)}
    row |= {"peak_mb": round(most / 1e6, 1), "planned_mb": round(predicted / 1e6, 1)}
    return row | {"peak_to_plan": round(most / predicted, 3)}


# ---------------------------------------------------------------------------------------- one GRPO step


def step(
    device: str = "cpu",
    model_size: str = "",
    problems: int = 8,
    group: int = 8,
    cap: int = 256,
    repeats: int = 3,
    setting: str = "",
    only: str = "",
    peaks: bool = True,
    run_config: str = "config/r1_1.5b_24gb.yaml",
    limit_gb: float = 0.0,
) -> None:
    """A whole GRPO step, ours against TRL's GRPOTrainer: CPU seconds, their split, peak memory.

    On CUDA: ours alone, with the options of --run_config, peak memory against the plan, and the hours of one round.

    Args:
        device: cpu or cuda.
        model_size: One of SHAPES; by default 1M on a CPU, and on CUDA the shape of the config's model.
        problems: Problems a step, of which "half dead" settings give every second one equal rewards.
        group: Rollouts per problem.
        cap: Token cap; the same heavy-tailed lengths are forced on both sides.
        repeats: Timed steps of each side, interleaved, after one that is not counted; the median counts.
        setting: Only the settings whose name contains this, such as nf4.
        only: One side: ours or trl.
        peaks: Run each side once more in a process of its own for its peak memory (CPU).
        run_config: Options of train_prune.py, for CUDA.
        limit_gb: On CUDA, hold torch to this many GB (1e9 bytes); 0 for the whole card.
    """
    if min(problems, cap, repeats) < 1 or group < 2:
        sizes = f"--problems {problems}, --cap {cap} and --repeats {repeats}"
        die(f"{sizes} must be at least 1, --group {group} at least 2")
    if only not in ("", "ours", "trl"):
        die(f"--only {only} is unknown; there are ours and trl")
    where, table = device_of(device, limit_gb), []
    options = {"cap": cap, "group": group, "problems_per_step": problems, "lora_r": 16, "lora_alpha": 32, "lr": 1e-4}
    options |= {"tokens_per_micro_batch": 4096, "device": device, "load_4bit": False, "beta": 0.0}
    if where.type == "cuda":
        cfg = read_config(run_config)
        cfg.device = device
        model_size, only = model_size or HUB.get(cfg.model, "r1_1.5b"), "ours"
        settings = [(Path(run_config).stem, cfg, False)]
    else:
        settings = [
            ("fp32 LoRA, beta 0, half dead", options, True),
            ("nf4 LoRA, beta 0, half dead", options | {"load_4bit": True}, True),
            ("fp32 LoRA, beta 0, none dead", options, False),
            ("fp32 LoRA, beta 0.04, half dead", options | {"beta": 0.04}, True),
        ]
        settings = [(name, train_prune.Config(**given), half) for name, given, half in settings if setting in name]
        if not settings:
            die(f"--setting {setting} is in the name of no setting")
    if only != "ours":
        try:
            version("trl")
        except PackageNotFoundError:
            die("--only ours runs without TRL; the comparison needs it: pip install trl")
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(model_size or "1M", where)
        model.generation_config.eos_token_id = 1
        model.save_pretrained(folder)
        word_tokenizer(model.config.vocab_size).save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        for name, cfg, half in settings:
            cfg.model = folder
            try:
                table += one_setting(name, cfg, half, where, repeats, only)
            except torch.OutOfMemoryError as error:
                die(f"{name} does not fit on this card: {str(error).split('. ')[0]}; lower what the plan above says")
            if peaks and where.type == "cpu" and not only:
                words = ["--problems", problems, "--group", group, "--cap", cap, "--repeats", 1, "--setting", name]
                for row in table[-2:]:
                    call = ["step", "--model_size", model_size or "1M", *map(str, words), "--only", row["method"]]
                    row["peak_mb"] = alone(*call)["peak_mb"]
    report("step", where, ["torch", "transformers", "peft", "bitsandbytes", "trl"], table)


def read_config(path: str) -> train_prune.Config:
    """Options of a train_prune.py config, with that script's own checks."""
    from jsonargparse import ArgumentParser

    if not Path(path).is_file():
        die(f"--run_config {path} does not exist")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(train_prune.Config)
    try:
        return train_prune.Config(**parser.parse_path(path).as_dict())
    except Exception as error:  # jsonargparse and YAML raise several kinds
        die(f"--run_config {path}: {' '.join(str(error).split())}")


def one_setting(name: str, cfg, half: bool, device: torch.device, repeats: int, only: str) -> list[dict]:
    """Rows of the table for one setting: ours, TRL's, or both in turns."""
    n = cfg.problems_per_step * cfg.group
    vocab = json.loads(Path(cfg.model, "config.json").read_text())["vocab_size"]
    prompts, lengths = make_prompts(cfg.problems_per_step, vocab), forced_lengths(n, cfg.cap)
    times = {"ours": [], "trl": []}
    if only != "trl":
        mine = our_side(cfg, prompts, lengths, half, device)
    if only != "ours":
        between = None if only else lambda: times["ours"].append(mine())
        trl_steps(cfg, prompts, lengths, half, repeats, times["trl"], between)
    for _ in range(repeats + 1 if only == "ours" else 0):
        times["ours"].append(mine())
    medians, table = {}, []
    for side in [only] if only else ["ours", "trl"]:
        counted = times[side][1:]
        medians[side] = {key: round(statistics.median(t[key] for t in counted), 4) for key in counted[0]}
        table.append({"setting": name, "method": side, "tokens": sum(lengths), **medians[side]})
        if only and device.type == "cpu":
            table[-1]["peak_mb"] = round(peak_bytes(device) / 1e6, 1)
    if not only:
        table[0]["ratio_to_trl"] = round(medians["trl"]["seconds"] / max(medians["ours"]["seconds"], 1e-9), 2)
    if device.type == "cuda":
        table[0]["hours_a_round_without_validation"] = round(medians["ours"]["seconds"] * cfg.steps / 3600, 2)
    return table


def fixed_rewards(rows: int, group: int, half: bool) -> list[float]:
    """Rewards by place: 1 for every second rollout; with `half`, 0 for every second group, which is then dead."""
    return [0.0 if half and (i // group) % 2 else float(i % 2) for i in range(rows)]


def our_side(cfg, prompts: list[list[int]], lengths: list[int], half: bool, device: torch.device):
    """Returns a function that makes one step as train_prune.py's loop does and returns its seconds."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    policy, _ = load_policy(cfg)
    tokenizer = word_tokenizer(policy.config.vocab_size)  # read back from disk, it would be taken for Qwen's own kind
    lora = LoraConfig(r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(policy, lora)
    if cfg.gradient_checkpointing == "true" or (cfg.gradient_checkpointing == "auto" and device.type == "cuda"):
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.train()
    tokens = max(map(len, prompts)) + cfg.cap
    sampler = rollout_model(policy, cfg, tokens)
    merged = sampler is not policy.get_base_model()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=cfg.lr, weight_decay=0.0)
    planned = memory_plan(policy.get_base_model(), cfg, tokens) if device.type == "cuda" else None
    if planned:
        print(planned.line())
        torch.cuda.reset_peak_memory_stats(device)

    plain, logp_s = train_prune.token_logp, 0.0

    def timed(*args) -> torch.Tensor:
        nonlocal logp_s
        start = clock(device)
        made = plain(*args)
        logp_s += clock(device) - start
        return made

    def one_step() -> dict[str, float]:
        nonlocal logp_s
        logp_s, start = 0.0, clock(device)
        if merged:
            refresh_copy(sampler, policy)
        rows = choose_rows(sampler, cfg, tokens)
        made = generate_rollouts(sampler, tokenizer, prompts, cfg.group, cap=lengths, rows=rows, end_ids=[-1])
        sampled, most = clock(device), peak_bytes(device) if planned else 0
        rewards = torch.tensor(fixed_rewards(len(lengths), cfg.group, half)).view(-1, cfg.group)
        adv = train_prune.advantages(rewards, cfg.advantage)
        scored = clock(device)
        if planned:
            torch.cuda.reset_peak_memory_stats(device)
        with mock.patch.object(train_prune, "token_logp", timed):
            train_prune.update_policy(policy, optimizer, made, adv.flatten(), cfg)
        end = clock(device)
        row = {"seconds": end - start, "sample_s": sampled - start, "reward_s": scored - sampled}
        row |= {"logp_s": logp_s, "backward_s": end - scored - logp_s}  # backward: with the optimizer's step
        if planned:
            row |= {"rows": rows, "sample_peak_gb": most / 1e9, "update_peak_gb": peak_bytes(device) / 1e9}
            row["planned_peak_gb"] = planned.peak / 1e9
            row["peak_to_plan"] = max(row["sample_peak_gb"], row["update_peak_gb"]) / row["planned_peak_gb"]
            torch.cuda.reset_peak_memory_stats(device)
        return row

    return one_step


def trl_steps(cfg, prompts, lengths: list[int], half: bool, repeats: int, times: list[dict], between) -> None:
    """Runs TRL's GRPOTrainer for repeats + 1 steps and appends the seconds of each to `times`.

    What both sides share: base and its loader, tokenizer, prompts, LoRA, rate, lengths, rewards. A logits processor
    makes TRL's rollouts end where ours do; micro-batches are 16 rollouts, near our 4096 tokens.

    Args:
        between: Called after each of TRL's steps, outside its clock (our step, in turns), or None.
    """
    import logging

    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LogitsProcessorList, TrainerCallback

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    logging.getLogger("trl").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    from trl import GRPOConfig, GRPOTrainer

    model, _ = load_policy(cfg)
    model.train()
    tokenizer = word_tokenizer(model.config.vocab_size)
    n, device = len(lengths), torch.device("cpu")
    micro = math.gcd(n, 16)
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            max_steps=repeats + 1,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=n // micro,
            num_generations=cfg.group,
            max_completion_length=cfg.cap,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            beta=cfg.beta,
            learning_rate=cfg.lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=cfg.grad_clip,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_vllm=False,
        )
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=lambda completions, **_: fixed_rewards(len(completions), cfg.group, half),
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": tokenizer.decode(p)} for p in prompts]),
            peft_config=LoraConfig(
                r=cfg.lora_r, lora_alpha=cfg.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        for p in trainer.model.parameters():  # TRL turns a LoRA over 4 bits to bfloat16; ours is float32 on a CPU
            if p.requires_grad:
                p.data = p.data.float()
        plain, wanted = trainer.model.generate, torch.tensor(lengths)

        def generate(input_ids, **more):
            width = input_ids.shape[1]

            def force(ids, scores):
                ending = ids.shape[1] - width + 1 >= wanted
                scores[:, :2] = -torch.inf  # neither padding nor the end by chance
                scores[ending] = -torch.inf
                scores[ending, 1] = 0.0
                return scores

            out = plain(input_ids=input_ids, logits_processor=LogitsProcessorList([force]), **more)
            made = int((out[:, width:] != 0).sum())
            if made != sum(lengths):
                raise RuntimeError(f"TRL made {made} tokens instead of {sum(lengths)}")
            return out

        trainer.model.generate = generate

        class Watch(TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                self.start = clock(device)

            def on_step_end(self, *args, **kwargs):
                times.append({"seconds": clock(device) - self.start})
                if between:
                    between()

        trainer.add_callback(Watch())
        with contextlib.redirect_stdout(io.StringIO()):  # its last log line
            trainer.train()


# ---------------------------------------------------------------------------------------- scale


def scale(device: str = "cpu", quick: bool = False, out: str = "dev/scale.png") -> None:
    """How rollouts and update grow with the rows, the cap and the model: a table and a plot.

    Args:
        device: cpu or cuda.
        quick: A few points at a tiny size, to see that it runs.
        out: Picture to write.
    """
    where, table = device_of(device, 0.0), []
    points = [("rows", "1M", rows, 512) for rows in (8, 16, 32, 64, 128)]
    points += [("cap", "1M", 16, cap) for cap in (256, 512, 1024, 2048, 4096)]
    points += [("model", size, 8, 128) for size in ("1M", "5M", "25M", "100M")]
    if quick:
        points = [("rows", "tiny", rows, 16) for rows in (2, 4)] + [("cap", "tiny", 2, cap) for cap in (16, 32)]
        points += [("model", size, 2, 16) for size in ("tiny", "1M")]
    for axis, size, rows, cap in points:
        requests = 2 * rows
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(size, where)
            model.save_pretrained(folder)
            word_tokenizer(model.config.vocab_size).save_pretrained(folder)
            parameters, vocab = sum(p.numel() for p in model.parameters()), model.config.vocab_size
            del model
            cfg = train_prune.Config(model=folder, device=device, load_4bit=False, beta=0.0, cap=cap, group=2)
            cfg.problems_per_step, cfg.rows, cfg.lora_r, cfg.tokens_per_micro_batch = rows, rows, 16, 4096
            lengths = forced_lengths(requests, cap)
            one_step = our_side(cfg, make_prompts(rows, vocab), lengths, False, where)
            if not quick:
                one_step()  # not counted: allocator, kernels
            times = one_step()
        row = {"setting": f"{axis}: {size} {requests}/{rows}/{cap}", "axis": axis, "parameters": parameters}
        row |= {"rows": rows, "cap": cap, "tokens": sum(lengths)}
        row |= {k: round(times[k], 3) for k in ("seconds", "sample_s", "logp_s", "backward_s")}
        row["sample_tokens_per_second"] = round(sum(lengths) / max(times["sample_s"], 1e-9), 1)
        update = max(times["logp_s"] + times["backward_s"], 1e-9)
        table.append(row | {"update_tokens_per_second": round(sum(lengths) / update, 1)})
    draw(table, out, "wall" if where.type == "cuda" else "CPU")
    print(f"picture: {out}")
    report("scale", where, ["torch", "transformers", "peft"], table)


def draw(table: list[dict], out: str, unit: str) -> None:
    """One panel an axis: milliseconds a token, of sampling and of the update."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    keys = {"rows": ("rows", "rows"), "cap": ("cap", "token cap"), "model": ("parameters", "parameters of the model")}
    for panel, (axis, (key, label)) in zip(panels, keys.items()):
        part = [row for row in table if row["axis"] == axis]
        for kind, name in (("sample_s", "sampling"), ("logp_s", "log-probs"), ("backward_s", "backward")):
            panel.plot([r[key] for r in part], [1000 * r[kind] / r["tokens"] for r in part], marker="o", label=name)
        panel.set(xlabel=label, ylabel=f"{unit} ms a token", xscale="log", yscale="log")
        names = [f"{r[key] / 1e6:.0f}M" if key == "parameters" else r[key] for r in part]
        panel.set_xticks([r[key] for r in part], names)
        panel.minorticks_off()
        panel.set_title(f"{part[0]['setting'].split(': ')[1]} to {part[-1]['setting'].split(': ')[1]}", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


# ---------------------------------------------------------------------------------------- memory


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

    try:  # known shapes need no network: only what is neither here nor known is asked of the hub
        shape, source = AutoConfig.from_pretrained(cfg.model, local_files_only=cfg.model in HUB), "its config.json"
    except Exception as error:  # the hub out of reach comes as many kinds
        if cfg.model not in HUB:
            die(f"--model {cfg.model}: no config.json to be had ({first_line(error)})")
        shape = shape_config(HUB[cfg.model])
        source = "bench.py's own table of shapes: its config.json is not on this disk"
    print(f"{cfg.model}, cap {cfg.cap}, shape from {source}")
    cards = ", ".join(f"{card:g}" for card in cfg.cards)
    report("memory", f"arithmetic for cards of {cards} GB", ["transformers"], planner.table(shape, cfg, cfg.cards))


# ---------------------------------------------------------------------------------------- grading


def read(path: Path) -> list[dict]:
    if not path.is_file():
        die(f"{path} is missing; give its folder with --data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reward(data: str = "../shared/data", quick: bool = False) -> None:
    """Grading throughput, in CPU seconds so that other work on the machine does not count.

    Args:
        data: Folder with model_outputs.jsonl and hostile_outputs.jsonl.
        quick: Few answers and no hanging ones, to see that it runs.
    """
    outputs, attacks = read(Path(data, "model_outputs.jsonl")), read(Path(data, "hostile_outputs.jsonl"))
    texts, golds = [r["output"] for r in outputs], [r["gold"] for r in outputs]

    asked, ask = [], grader._ask
    grader._ask = lambda *pair: asked.append(pair) or ask(*pair)         # counts what math-verify had to decide

    def measure(setting: str, texts: list[str], golds: list[str], thinking: bool, minus: float = 0.0) -> dict:
        grader._judge.cache_clear()
        asked.clear()
        cpu, wall = cpu_seconds(), time.monotonic()
        grades = grader.grade(texts, golds, thinking)
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu - minus
        return {"setting": setting, "outputs": len(texts), "asked_math_verify": len(asked),
                "right": sum(g.correct for g in grades), "timed_out": sum(g.timed_out for g in grades),
                "cpu_seconds": round(cpu, 4), "wall_seconds": round(wall, 2),
                "outputs_per_cpu_second": round(len(texts) / max(cpu, 1e-9), 1)}

    grader.WORKERS = 1
    rows = [measure("start of one worker", [r"\boxed{x+1}"], ["1+x"], False)]
    start = rows[0]["cpu_seconds"]
    rows += [measure("real outputs as they come, cold cache", texts, golds, False, 0.0)]
    boxes = [grader.extract_answer(t, False) for t in texts]
    plain = [(grader._tidy(b), grader._tidy(g)) for b, g in zip(boxes, golds) if b]
    grader.symbolic("x+1", "1+x")
    cpu = cpu_seconds()
    right, cpu = sum(grader.symbolic(b, g) for b, g in plain), cpu_seconds() - cpu
    rows += [{"setting": "math-verify on every real output, no short cut, no cache, in process", "outputs": len(plain),
              "right": right, "cpu_seconds": round(cpu, 4),
              "outputs_per_cpu_second": round(len(plain) / max(cpu, 1e-9), 1)}]
    # Every pair distinct and algebraic, so that neither the cache nor the number path helps: the slow path alone.
    hard = [(rf"\boxed{{{b}+z_{{{i}}}}}", f"z_{{{i}}}+{g}") for i, (b, g) in enumerate(zip(boxes, golds)) if b]
    rows += [measure("every output through math-verify, start not counted", *map(list, zip(*hard)), False, start)]
    integers = [(rf"hm</think> so \boxed{{{i}}}", str(i - i % 2)) for i in range(200 if quick else 20_000)]
    rows += [measure("integers", *map(list, zip(*integers)), True)]

    if quick:
        report("reward", f"CPU, {os.cpu_count()} cores", ["math-verify", "sympy"], rows)
        return
    grader.WORKERS = min(2, os.cpu_count() or 1)
    bad = [(r.get("output") or "".join(s * n for s, n in r["output_parts"]), str(r["gold"])) for r in attacks
           if r["category"] in ("resource", "hack")]
    mixed = (list(zip(texts, golds)) * 5)[:2027] + (bad * 2)[-21:]
    name = "2,048 rollouts, 21 of them attacks of the hostile file, 2 workers"
    rows += [measure(name, *map(list, zip(*mixed)), False)]
    # The worst case: every attack is new, passes the guards and hangs, so each one costs a kill and a new worker.
    hangs = ["+".join(rf"\sqrt[{n}]{{{n}}}\cdot\sin({n}x+{k})^{{99}}" for n in range(2, 9)) for k in range(21)]
    mixed[-21:] = [(rf"\boxed{{{h}}}", r"\sin(x)^{99}+(x+1)^{99}") for h in hangs]
    rows += [measure("2,048 rollouts, 21 of them different ones that hang", *map(list, zip(*mixed)), False)]
    report("reward", f"CPU, {os.cpu_count()} cores", ["math-verify", "sympy"], rows)


if __name__ == "__main__":
    done = parse({"rollouts": rollouts, "step": step, "scale": scale, "memory": Memory, "reward": reward})
    if isinstance(done, Memory):
        memory(done)
