"""What loader, trainer and sampler represent exactly. Anything else stops with one line that names it.

Text must come from the model that is trained. A field of a config that nobody looks at breaks this without a word, so
fields are checked by allow-lists where that is possible; `guard` then compares a few tokens, for what is left.
"""

import json
import os
from collections.abc import Iterable

import torch

from engine.files import die, read_json

# What memory.plan and the KV slots read. Families without these names (GPT-2, OPT, BLOOM, Mamba) are built differently.
SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # kinds of layers that keep keys and values

# Fields of adapter_config.json that may have any value. Every other one has to be at PEFT's default.
LORA = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "use_dora", "lora_bias"}
LORA |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "inference_mode", "revision"}
LORA |= {"base_model_name_or_path", "peft_version", "auto_mapping", "target_parameters"}


def check_config(config, options) -> None:
    """Exits with status 2 for a model that cannot be decoded or trained here, as far as its config.json tells."""
    name = f"--model {options.model} ({config.model_type})"
    if lacking := [size for size in SIZES if not isinstance(getattr(config, size, None), int)]:
        die(f"{name}: its config.json gives no {lacking[0]}: only text decoders built like Llama or Qwen can be used")
    if other := set(getattr(config, "layer_types", None) or []) - ATTENTION:
        die(f"{name}: it has layers of the kind {min(other)}, and this sampler only keeps keys and values")
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    method = str(getattr(stored.get("quant_method"), "value", stored.get("quant_method")))
    four = method == "bitsandbytes" and (stored.get("load_in_4bit") or stored.get("_load_in_4bit"))
    if not four:
        bits = " 8-bit" if method == "bitsandbytes" else ""
        die(f"{name}: its weights are stored as {method}{bits}, which cannot be trained here: name the model in 16 "
            f"bits, and take --load_4bit true if memory is short")  # fmt: skip
    if not options.load_4bit:
        die(f"{name}: its weights are stored in 4 bits: take --load_4bit true, or name the model in 16 bits")


def check_report(model, report: dict, name: str) -> None:
    """Exits with status 2 where the files hold less than the model, or more in one of its layers.

    Without this, weights that the files lack would be random numbers, and scales, biases or norms that the model does
    not know would be left out. Whole extra parts (a second head, layers that predict further ahead) do no harm.

    Args:
        report: `output_loading_info` of `from_pretrained`.
    """
    if lacking := sorted({*report["missing_keys"], *report.get("mismatched_keys", ())}, key=str):
        die(f"--model {name}: config.json names weights that model.safetensors lacks, as {lacking[0]}")
    modules = dict(model.named_modules())
    for key in sorted(report.get("unexpected_keys", ())):
        parts = key.split(".")
        parent = next(p for p in (".".join(parts[:n]) for n in range(len(parts), -1, -1)) if p in modules)
        if any(part.isdigit() for part in parent.split(".")) or not list(modules[parent].children()):
            die(f"--model {name}: model.safetensors holds {key}, which a {model.config.model_type} model has not: "
                f"the weights are quantised, or of another model")  # fmt: skip


def longest_exact(config) -> tuple[int, str]:
    """(tokens of a prompt and its response, what limits them): longer ones the sampler cannot decode as the model does.

    >>> from types import SimpleNamespace as Config
    >>> longest_exact(Config(max_position_embeddings=32768, sliding_window=4096))
    (4096, 'sliding window')
    >>> longest_exact(Config(max_position_embeddings=32768, sliding_window=4096, layer_types=["full_attention"]))
    (32768, 'context')
    """
    limits = [(getattr(config, "max_position_embeddings", None) or 2**62, "context")]
    kinds = getattr(config, "layer_types", None)  # where there are none, a window is that of every layer
    for field, kind, words in (
        ("sliding_window", "sliding_attention", "sliding window"),
        ("attention_chunk_size", "chunked_attention", "attention chunk"),
    ):
        if getattr(config, field, None) and (not kinds or kind in kinds):
            limits.append((getattr(config, field), words))
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *rope.values()):  # one for all layers, or one for each kind of layers
        if isinstance(part, dict) and part.get("rope_type") == "longrope":
            # From here on every position, also those in the cache, would turn by other frequencies.
            short = part.get("original_max_position_embeddings") or config.original_max_position_embeddings
            limits.append((short, "short length (longrope)"))
    return min(limits)


# ---------------------------------------------------------------------------------------- adapters


def check_lora(adapter: str) -> None:
    """Exits with status 2 for an adapter that is no LoRA, or one with a feature that would be lost here."""
    from peft import LoraConfig

    path = os.path.join(adapter, "adapter_config.json")
    found, default = read_json(path), json.loads(json.dumps(LoraConfig().to_dict(), default=str))
    kind = found.get("peft_type")
    if kind != "LORA":
        die(f"adapter {adapter} is of the kind {kind}, only LORA is supported")
    default |= {"peft_type": "LORA", "task_type": "CAUSAL_LM"}
    for key, value in found.items():
        if key not in LORA and value and value not in (default.get(key), "gaussian"):  # gaussian: another random start
            die(f"adapter {adapter} has {key} {json.dumps(value)[:60]}, which is not supported: {path}")


def check_loaded(policy, name: str, adapter: str, missing: Iterable[str] = ()) -> None:
    """Exits with status 2 where an adapter's file and what was loaded from it are not the same weights.

    Args:
        name: Of the adapter in `policy`. adapter: Its folder.
        missing: Keys that PEFT found to be lacking.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(os.path.join(adapter, "adapter_model.safetensors"), "pt") as file:
        stored = set(file.keys())
    loaded = get_peft_model_state_dict(policy, adapter_name=name, save_embedding_layers=False).keys()
    if missing := sorted(missing):
        die(f"adapter {adapter} does not fit the model: it lacks {missing[0]}")
    if more := sorted(stored - loaded):
        die(f"adapter {adapter} holds {more[0]}, which is no LoRA weight of this model")


def inexact_copy(policy) -> str:
    """What of the policy a LoRA folded into the weights would lose or cannot hold; empty for a copy that is exact."""
    if not hasattr(policy, "get_base_model"):
        return ""
    configs = [policy.peft_config[name] for name in policy.active_adapters]
    for field in ("use_dora", "lora_bias"):
        if any(getattr(config, field, False) for config in configs):
            return field
    wrapped = [module.base_layer for module in policy.modules() if hasattr(module, "base_layer")]
    odd = [layer for layer in wrapped if not isinstance(layer, (torch.nn.Linear, torch.nn.Embedding))]
    return f"LoRA on {type(odd[-1]).__name__}" if odd else ""


def drop_dropout(model) -> list[str]:
    """Switches every dropout off, also those of a LoRA; returns what there was, each named once.

    Rollouts are decoded without dropout. With it, the update would train another policy than the one that spoke.
    """
    found: dict[str, float] = {}

    def off(name: str, holder, field: str) -> None:
        value = getattr(holder, field)
        if isinstance(value, float) and value > 0:
            found[name] = max(value, found.get(name, 0.0))
            setattr(holder, field, 0.0)

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            off("lora_dropout" if "lora_dropout" in name else "dropout", module, "p")
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]
    for holder in [*model.modules(), *configs]:
        for field in vars(holder):
            if "drop" in field or "jitter" in field:  # jitter: noise on what a router of experts reads
                off(field, holder, field)
    return [f"{name} {value:g}" for name, value in found.items()]
