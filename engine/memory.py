"""What a run takes of a card's memory, from the model's config alone: no weights, no download, no GPU.

    python dev/bench.py memory --config config/r1_1.5b_24gb.yaml      # the table for 8, 12, 16 and 24 GB

For the whole run: the base, the 16-bit copy to decode from, the LoRA with gradient and AdamW. In turns, so that only
the larger counts: sampling (a KV cache a row) and the update (one micro-batch's activations). The rows are what fits.
`policy.rollout_model` and `choose_rows` follow it. GB are 1e9 bytes.
"""

import copy
import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from engine.files import Options, die

CONTEXT = 600_000_000  # bytes of a CUDA context with its kernels, before torch allocates: assumed, only for `table`
SHARE = 0.95  # part of the free memory to plan with; the rest is lost between the allocator's blocks
LOADED = 400_000_000  # bytes of kernels that CUDA loads at their first use, and of graphs: assumed, 0.1 to 0.4 GB
DRAWN, CUT = 20, 56  # bytes a logit while a token is drawn: softmax and its sum; a sort as well where top_p is below 1
HEAD = 16  # bytes a logit of the update: logits, scaled, and the gradient of either
PROMPT = 512  # tokens of a prompt, where the caller does not know the longest
KERNEL = Path("/proc/version")
T = TypeVar("T")
ENOUGH = 16  # rows below which the copy is not worth its memory: a step costs nearly the same with 1 row as with 16


@dataclass
class Plan:
    """Bytes of each part, and what was chosen from them."""

    free: int  # what torch may allocate before anything is loaded
    base: int  # 4-bit layers with their scales; embedding, head, norms and biases in 16 bits
    copy: int  # the merged linear layers; 0 for live weights
    lora: int  # LoRA, gradient, AdamW's two moments, and the KL's reference adapter, all float32
    row: int  # one rollout of `tokens`: KV cache, bookkeeping, vocabulary-sized buffers
    prefill: int  # the batch of prompts that waits to be copied into rows
    update: int  # peak of one micro-batch, forward and backward; 0 where nothing is trained
    rows: int  # rollouts decoded at once; 0 if not even one fits
    tokens: int  # of a rollout with its prompt
    micro_batch: int  # tokens of the largest micro-batch: at least one whole rollout
    largest_micro_batch: int  # what would fit, rounded down to 1024; 0 if no update does
    weights: str  # merged or live

    @property
    def static(self) -> int:
        return self.base + self.copy + self.lora

    @property
    def sampling(self) -> int:
        return self.rows * self.row + self.prefill

    @property
    def peak(self) -> int:  # sampling and update take turns
        return self.static + max(self.sampling, self.update)

    @property
    def fits(self) -> bool:
        return self.rows > 0 and self.static + self.update <= usable(self.free)

    def line(self) -> str:
        """The one line that is printed before a run."""
        parts = ("free", "base", "copy", "lora", "sampling", "update", "peak")
        gb = {part: f"{getattr(self, part) / 1e9:.2f}" for part in parts}
        text = f"memory plan, GB of {gb['free']} free: base {gb['base']} + "
        text += f"merged copy {gb['copy']}" if self.weights == "merged" else "no copy (live LoRA)"
        text += f" + LoRA and AdamW {gb['lora']} + sampling {gb['sampling']} ({self.rows} rows of {self.tokens} tokens)"
        text += f" or update {gb['update']} ({self.micro_batch} tokens)" if self.update else ""
        text += f" = peak {gb['peak']}"
        if self.rows == 0:
            return text + "; does not fit: lower --cap, or take a smaller model"
        if not self.fits and self.largest_micro_batch >= self.tokens:
            return text + f"; does not fit: lower --tokens_per_micro_batch to {self.largest_micro_batch}"
        return text if self.fits else text + "; does not fit: the update of one rollout is too large, lower --cap"


def usable(free: int) -> float:
    """Bytes to plan with, where torch may allocate `free`."""
    return SHARE * free - LOADED


def head_dim(config) -> int:
    """Size of one attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def kv_bytes(config, itemsize: int) -> int:
    """Bytes that one token of one rollout takes in the KV cache.

    >>> from types import SimpleNamespace as Config
    >>> kv_bytes(Config(num_hidden_layers=28, num_key_value_heads=2, head_dim=128), itemsize=2) // 1024
    28
    """
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim(config) * itemsize


COUNTED: dict[str, dict[str, int]] = {}  # by config: choose_rows asks again at every step


def count(config) -> dict[str, int]:
    """Numbers of weights, counted on a model without storage: `linear` (without the head), `other`, `largest` layer,
    `sides` (in + out over all linear layers: a LoRA of rank r has r times as many), bytes `packed` as NF4."""
    from transformers import AutoModelForCausalLM

    key = config.to_json_string()
    if key not in COUNTED:
        config = copy.deepcopy(config)
        config.__dict__.pop("quantization_config", None)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        sizes = [m.weight.numel() for m in linears]
        other, sides = sum(p.numel() for p in model.parameters()), sum(m.in_features + m.out_features for m in linears)
        # Half a byte a weight, a float32 scale for each 64 of them, a table of 16 float32 a layer.
        packed = sum(n // 2 + 4 * math.ceil(n / 64) + 64 for n in sizes)
        COUNTED[key] = {"linear": sum(sizes), "largest": max(sizes), "packed": packed, "sides": sides}
        COUNTED[key]["other"] = other - sum(sizes)
    return COUNTED[key]


def plan(config, options, free_bytes: int, tokens: int = 0, taken: int = 0, top_p: float | None = None) -> Plan:
    """Returns what a run will take, with the rollout weights and the rows that fit.

    Args:
        config: Of a `transformers` decoder.
        options: `files.Options`; where it has `lora_r` (train_prune.Config), the update is planned, too.
        free_bytes: What torch may allocate on this card before the model is loaded.
        tokens: Longest prompt plus cap; by default the options' cap and 512.
        taken: Bytes already allocated: sampling gets what is left, even where the plan expected less.
        top_p: Of the rollouts; by default the options'.
    """
    n, item = count(config), 4 if options.dtype == "float32" else 2
    hidden, inner = config.hidden_size, config.intermediate_size
    layers, vocab = config.num_hidden_layers, config.vocab_size
    tokens = tokens or getattr(options, "cap", 0) + PROMPT
    rank, adapter = getattr(options, "lora_r", 0), getattr(options, "adapter", "")
    again = 4 if getattr(options, "init_adapter", "") and getattr(options, "beta", 0) > 0 else 0  # the reference
    lora = (16 + again) * rank * n["sides"] + (4 * 32 * n["sides"] if adapter else 0)  # its rank is unread: assume 32
    base = item * n["other"] + (n["packed"] if options.load_4bit else item * n["linear"])
    # --- sampling. A token of a row: keys, values, mask, random number, id, log-prob. What a token is drawn with counts
    # twice: a graph keeps its own, beside that of the eager step before the capture or, with a sort, of `Rows.settle`.
    kv = kv_bytes(config, item)
    top_p = getattr(options, "top_p", 1.0) if top_p is None else top_p
    row = int(tokens * (kv + item + 16) + (DRAWN + (CUT if top_p < 1 else DRAWN)) * vocab)
    prompts = max(4096, tokens - getattr(options, "cap", 0))  # tokens of one prefill
    # --- update. The factors, bytes a token in bfloat16 (twice that in float32), are peaks of allocation measured on a
    # CPU. A layer keeps its input, or without checkpointing its activations; then either the head's logits are made
    # (HEAD bytes each), or one layer is recomputed and goes backward. A 4-bit layer is unpacked while it is used.
    # In float16 a LoRA computes in float32, so the inputs that it keeps take 2 bytes more: six as wide as the hidden
    # states and one of the inner ones. Where the layer goes backward, so do the gradients of one of each.
    more = 2 * (6 * hidden + inner) if options.dtype == "float16" else 0
    activations = 8.2 * inner + 27 * hidden + more
    kept = activations if getattr(options, "gradient_checkpointing", "") == "false" else 2 * hidden
    stay = item / 2 * ((layers - 1) * kept + 2 * hidden)
    layer = item / 2 * (14.3 * inner + 40 * hidden) + (more + 2 * (hidden + inner) if more else 0)
    unpacked, head = item * n["largest"], HEAD * getattr(options, "head_chunk", 0) * vocab
    micro = max(tokens, options.tokens_per_micro_batch) if rank else 0
    update = int(micro * stay + max(head, micro * layer) + unpacked) if rank else 0
    made = {}
    for weights in ("merged", "live"):
        shared = not options.load_4bit and not rank and not adapter  # nothing to merge: the base is its own copy
        copied = item * n["linear"] if weights == "merged" and not shared else 0
        wide = 8 if weights == "live" else 4  # inner activations at once: a LoRA beside its layer has some of its own
        prefill = prompts * (kv + item * (wide * inner + 8 * hidden))
        left = usable(free_bytes) - base - copied - lora
        room = min(left, usable(free_bytes) - taken) - prefill - (unpacked if weights == "live" else 0)
        rows = int(max(0, min(options.rows or 256, room // row)))
        largest = int(min((left - unpacked) / (stay + layer), (left - unpacked - head) / stay)) // 1024 * 1024
        sizes = (free_bytes, base, copied, lora, row, prefill, update, rows, tokens, micro, max(0, largest))
        made[weights] = Plan(*sizes, weights)
    enough = made["merged"].fits and made["merged"].rows >= min(ENOUGH, options.rows or ENOUGH)
    return made[options.rollout_weights if options.rollout_weights != "auto" else "merged" if enough else "live"]


def table(config, options, cards=(8, 12, 16, 24)) -> list[dict]:
    """One plan for each card, as flat rows; `cards` in GB, of which the CUDA context takes its part."""
    plans = {f"{gb:g} GB": plan(config, options, int(gb * 1e9) - CONTEXT) for gb in cards}
    chosen = ("fits", "weights", "rows", "tokens", "micro_batch", "largest_micro_batch")
    parts = ("base", "copy", "lora", "row", "sampling", "update", "peak")
    sizes = {card: {f"{part}_gb": round(getattr(p, part) / 1e9, 3) for part in parts} for card, p in plans.items()}
    return [{"setting": c} | {name: getattr(p, name) for name in chosen} | sizes[c] for c, p in plans.items()]


def memory_plan(model, options: Options, tokens_per_row: int) -> Plan:
    """What a run with this model takes of its card, before or after loading it; `.line()` is the line to print."""
    half = model.dtype == torch.float16  # also where --dtype auto took it
    options = dataclasses.replace(options, dtype="float16") if half else options
    return plan(model.config, options, free_bytes(model.device), tokens_per_row)


def free_bytes(device: torch.device) -> int:
    """What torch can allocate on this card in all: free now, or allocated by this process already."""
    free, whole = torch.cuda.mem_get_info(device)
    limit = torch.cuda.get_per_process_memory_fraction(device.index) * whole
    return int(min(free + torch.cuda.memory_reserved(device), limit))


def on_wsl2(kernel: Path) -> bool:
    """Whether this Linux runs inside Windows, by its /proc/version."""
    return kernel.is_file() and "microsoft" in kernel.read_text(encoding="utf-8").lower()


def never_spill(device: torch.device) -> None:
    """Holds torch to what is free on the card, where the driver would go on in the host's memory: Windows and WSL2.

    There memory does not run out on the card: everything becomes many times slower instead, and nothing could recover.
    """
    if device.type == "cuda" and (on_wsl2(KERNEL) or sys.platform == "win32"):
        free, whole = torch.cuda.mem_get_info(device)
        share = max(0.0, free + torch.cuda.memory_reserved(device) - LOADED) / whole
        share = min(share, torch.cuda.get_per_process_memory_fraction(device))
        torch.cuda.set_per_process_memory_fraction(share, device)


def choose_rows(model, options: Options, tokens_per_row: int, most: int, top_p: float = 1.0) -> int:
    """Rollouts to decode at once: `most` (0: 256), but on a card no more than `plan` finds room for.

    Args:
        model: What `policy.rollout_model` returned.
        tokens_per_row: Longest prompt plus cap.
    """
    if model.device.type != "cuda":
        return most or 256
    live = any(hasattr(m, "base_layer") or hasattr(getattr(m, "weight", None), "quant_state") for m in model.modules())
    chosen = dataclasses.replace(options, rows=most, rollout_weights="live" if live else "merged")
    taken = torch.cuda.memory_allocated(model.device)
    return max(1, plan(model.config, chosen, free_bytes(model.device), tokens_per_row, taken, top_p).rows)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: CUDA's kind, and the plain RuntimeErrors of a CPU and of cuBLAS.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


def until_it_fits(
    attempt: Callable[[int], T], size: int, smallest: int, option: str, hopeless: str, stop: Callable = die
) -> tuple[T, int]:
    """Calls `attempt(size)`; where memory runs out again with 10 % less, and from then on with half the size.

    A plan is seldom far off, and half the rows cost nearly twice the time: so the first step down is a small one.

    Args:
        attempt: Must begin from nothing each time, so that what it returns does not depend on earlier attempts.
        size: Where to begin. smallest: Below this a smaller size would take no less memory.
        option: What the size is called, for the line that says so.
        hopeless: Message where the smallest size does not fit, for `stop`, which ends the process.

    Returns:
        (what `attempt` returned, the size that fitted).
    """
    smaller = 0.9
    while True:
        try:
            return attempt(size), size
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Only here, after the exception, have its frames let go of the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size <= smallest:
            stop(f"out of memory {hopeless}")
        size, smaller = max(smallest, int(size * smaller)), 0.5
        print(f"out of memory: trying again with {option} {size}, from now on", flush=True)


def in_pieces(
    attempt: Callable[[int], T], lengths: list[int], tokens: int, advice: str, stop: Callable = die
) -> tuple[T, int]:
    """Calls `attempt(tokens)`, the padded tokens of a micro-batch, on sequences of these lengths, as `until_it_fits`.

    Returns:
        (what `attempt` returned, the padded tokens to begin the next call with).
    """
    longest = max(lengths)
    largest = min(tokens, longest * len(lengths))
    hopeless = f"in a pass over {longest} tokens: {advice}"
    found, fitted = until_it_fits(attempt, largest, longest, "--tokens_per_micro_batch", hopeless, stop)
    return found, tokens if fitted == largest else fitted


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Splits sequences into batches of at most `budget` padded tokens, like lengths together, longest first.

    >>> micro_batches([5, 2, 9, 3], budget=10)
    [[2], [0, 3], [1]]
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(i)
    return batches
