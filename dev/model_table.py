"""The models that people own: their shapes, what their chat templates do, and what fits which card.

    python dev/model_table.py        # the two tables at the head of docs/models.md, in seconds

Shapes, end tokens and what templates do were written down by hand in 2026-11, from what is public about them; nothing
was read from the hub. A run reads the model's own files. What fits is arithmetic of engine/memory.py, not measured.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_prune
from analysis.tables import table
from engine import memory
from engine.supported import SIZES, longest_exact

CARDS = (8, 12, 16, 24)  # GB
CAP = 4000
GROUP = 8  # rows below which not even one group is decoded at once


@dataclass
class Model:
    """One model; its name is the end of `hub`."""

    hub: str
    kind: str
    """Its model_type."""
    sizes: tuple[int, ...]
    """As supported.SIZES names them: vocabulary, hidden, intermediate, layers, heads, heads of keys and values."""
    more: dict
    """Other fields of its config.json that matter here."""
    unrolled: bool
    """Decoded by `slots.decode_layers`, else by the model's own forward, which is slower."""
    opens: bool
    """The template ends in <think>; else the model writes it."""
    thought: str
    """What the template does with the thought of an answer in the chat: kept, deleted, or deleted in earlier turns."""
    ends: tuple[str, ...]
    """Tokens that end a response."""
    start: str
    """The config to begin with, and the options that differ from it."""
    switch: bool = False
    """Has enable_thinking, which is on by itself."""
    date: bool = False
    """Writes today's date, which is pinned here."""


def rope(theta: float, kind: str = "default", **more) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


R1_15B = (151936, 1536, 8960, 28, 12, 2)
QWEN3_4B = (151936, 2560, 9728, 36, 32, 8)
LONG = {"max_position_embeddings": 131072}
R1 = LONG | rope(10000.0) | {"tie_word_embeddings": False}
QWEN3 = {"head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 40960} | rope(1e6)
YARN = rope(1e6, "yarn", factor=4.0, original_max_position_embeddings=32768)
SHORT = {"original_max_position_embeddings": 4096}
TURNS = {"short_factor": [1.0] * 48, "long_factor": [32.0] * 48, "partial_rotary_factor": 0.75}  # factors: stand-ins
LONGROPE = rope(10000.0, "longrope", **TURNS, **SHORT)
R1_END, QWEN_END = ("<｜end▁of▁sentence｜>",), ("<|im_end|>", "<|endoftext|>")
AS_R1 = "`config/r1_1.5b_12gb.yaml`, `config/r1_1.5b_24gb.yaml`"
AS_7B, AS_1_7B, AS_4B = "`config/r1_7b_24gb.yaml`", "`config/qwen3_1.7b_12gb.yaml`", "`config/qwen3_4b_24gb.yaml`"
EARLIER = "deleted in earlier turns"

MODELS = {
    "r1_1.5b": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "qwen2", R1_15B, R1,
                     True, True, "deleted", R1_END, AS_R1),
    "r1_7b": Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2", (152064, 3584, 18944, 28, 28, 4), R1,
                   True, True, "deleted", R1_END, AS_7B),
    "r1_8b": Model("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3", (151936, 4096, 12288, 36, 32, 8),
                   LONG | YARN | {"head_dim": 128, "tie_word_embeddings": False},
                   True, False, "deleted", R1_END, AS_7B),
    "qwen3_0.6b": Model("Qwen/Qwen3-0.6B", "qwen3", (151936, 1024, 3072, 28, 16, 8), QWEN3,
                        True, False, EARLIER, QWEN_END, AS_1_7B, switch=True),
    "qwen3_1.7b": Model("Qwen/Qwen3-1.7B", "qwen3", (151936, 2048, 6144, 28, 16, 8), QWEN3,
                        True, False, EARLIER, QWEN_END, AS_1_7B, switch=True),
    "qwen3_4b": Model("Qwen/Qwen3-4B", "qwen3", QWEN3_4B, QWEN3,
                      True, False, EARLIER, QWEN_END, AS_4B, switch=True),
    "qwen3_4b_2507": Model("Qwen/Qwen3-4B-Thinking-2507", "qwen3", QWEN3_4B,
                           QWEN3 | rope(5e6) | {"max_position_embeddings": 262144},
                           True, True, EARLIER, QWEN_END, AS_4B),
    "deepscaler": Model("agentica-org/DeepScaleR-1.5B-Preview", "qwen2", R1_15B, R1,
                        True, True, "deleted", R1_END, AS_R1),
    "nemotron": Model("nvidia/Nemotron-Research-Reasoning-Qwen-1.5B", "qwen2", R1_15B, R1,
                      True, True, "deleted", R1_END, AS_R1),
    "openmath": Model("nvidia/OpenMath-Nemotron-1.5B", "qwen2", R1_15B,
                      LONG | rope(500000.0) | {"tie_word_embeddings": True},
                      True, False, "kept", ("<|im_end|>",), AS_R1),
    "smollm3": Model("HuggingFaceTB/SmolLM3-3B", "smollm3", (128256, 2048, 11008, 36, 16, 4),
                     {"max_position_embeddings": 65536, "tie_word_embeddings": True} | rope(5e6),
                     False, False, "kept", ("<|im_end|>",), AS_4B, switch=True, date=True),
    "phi4_mini": Model("microsoft/Phi-4-mini-reasoning", "phi3", (200064, 3072, 8192, 32, 24, 8),
                       LONG | SHORT | LONGROPE | {"tie_word_embeddings": True, "sliding_window": 262144},
                       False, False, "kept", ("<|end|>", "<|endoftext|>"),
                       f"{AS_4B}, `caps: 3000 2000 1500`, `eval_cap: 3500`"),
}  # fmt: skip


def config_of(model: Model, **more):
    """Its config, as far as shapes and the decode path depend on it; `more` replaces fields."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model.kind, **dict(zip(SIZES, model.sizes)) | model.more | more)


def planned(config, gb: float, cap: int) -> memory.Plan:
    """The plan of a training run on this card whose updates take one rollout at a time."""
    options = train_prune.Config(cap=cap, rows=0, dtype="bfloat16", tokens_per_micro_batch=cap + memory.PROMPT)
    return memory.plan(config, options, int(gb * 1e9) - memory.CONTEXT)


def fitting(config, gb: float) -> str:
    """A cell: rows decoded at once at a cap of 4000, from which weights; or the largest cap that fits; or a dash."""
    longest = min(CAP, longest_exact(config)[0] - memory.PROMPT) // 100 * 100
    for cap in range(longest, 0, -100):
        p = planned(config, gb, cap)
        if p.fits and p.rows >= GROUP:
            return f"{p.rows} {p.weights}" + (f" at {cap}" if cap < CAP else "")
    return "-"


def tables() -> list[str]:
    """The lines of both tables."""
    does, fits = [], []
    for model in MODELS.values():
        name, config = model.hub.split("/")[1], config_of(model)
        think = "opens `<think>`" if model.opens else "the model writes `<think>`"
        think += "; `enable_thinking` turns it off" if model.switch else ""
        think += "; writes the date" if model.date else ""
        path = "unrolled" if model.unrolled else "own forward"
        does.append([name, path, think, model.thought, " ".join(f"`{end}`" for end in model.ends)])
        fits.append([name, *(fitting(config, gb) for gb in CARDS), model.start])
    return [*table(["model", "decoded by", "template", "earlier thought", "ends at"], does),
            *table(["model", *(f"{gb} GB" for gb in CARDS), "begin with"], fits)]  # fmt: skip


if __name__ == "__main__":
    print("\n".join(tables()))
