"""The policy: a 4-bit base with a LoRA, loaded with care; its log-probs; the weights that its rollouts come from.

Remote code is off, and weights are read from safetensors only. Nothing is merged into the 4-bit base: rollouts come
from a merged copy beside it where that fits, else through the 4-bit layers with the LoRA live. `memory.plan` decides
on CUDA.
"""

import contextlib
import copy
import glob
import hashlib
import logging
import os
import warnings
from pathlib import Path

import torch

from engine.files import Options, damage, die, explained, first_line, note, read_json
from engine.memory import KERNEL, memory_plan, never_spill, on_wsl2
from engine.supported import check_config, check_loaded, check_lora, check_report, drop_dropout, inexact_copy
from engine.templates import add_turn_end, chat_text, check_template, load_tokenizer

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a missing optional CPU kernel at import
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what matters of its warnings stops a run here, with a line
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)  # peft calls the old name
warnings.filterwarnings("ignore", "`torch.jit.script_method`", DeprecationWarning)  # torch itself does, when imported

ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "nanoprune.json")  # files of ours that make an adapter


# ---------------------------------------------------------------------------------------- loading


def set_allocator(kernel: Path) -> None:
    """Less fragmentation on a card. Not on WSL2, where the first allocation may fail with it, nor outside of Linux."""
    if kernel.is_file() and not on_wsl2(kernel):
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


set_allocator(KERNEL)  # here, because CUDA reads it once, when it starts


def pick_device(name: str) -> torch.device:
    """`auto`, or a torch device name, made the current card; exits with status 2 for a device that is not there."""
    if name == "auto" and not torch.cuda.is_available():
        note_unused_card()
    with explained(f"--device {name} is no device; use auto, cpu or cuda", RuntimeError):
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        die(f"--device {name}: no CUDA device here (torch {torch.__version__}); use --device cpu or auto")
    if (device.index or 0) >= (cards := torch.cuda.device_count()):
        die(f"--device {name}: this machine has {cards} CUDA device{'s'[: cards > 1]}, counted from cuda:0")
    if device.index:
        torch.cuda.set_device(device)  # graphs and their streams are made on the current card
    return device


def note_unused_card() -> None:
    """Says why `auto` takes the CPU on a machine with an NVIDIA card: a driver too old, or a torch without CUDA."""
    if glob.glob("/dev/nvidia[0-9]*") and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        try:
            torch.cuda.init()
        except (AssertionError, RuntimeError) as error:
            note(f"this runs on the CPU: torch {torch.__version__} cannot use the NVIDIA card ({first_line(error)})")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto`, or a type by name. auto: on CUDA bfloat16, or float16 below capability 8.0 (T4), else float32."""
    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def import_bitsandbytes() -> None:
    """Imports bitsandbytes without torch's compiler, which is a fifth of what a script takes to start.

    It wraps fallbacks of its kernels in `torch.compile`, and that alone loads the compiler. On a CPU and on CUDA the
    kernels themselves are used.
    """
    compile_, torch.compile = torch.compile, lambda function, **_: function
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile = compile_


def load_base(options: Options):
    """The bare base on its device, NF4 or not; exits with status 2 for a missing or damaged model.

    A `dtype` of "stored", which only export.py asks for, is that of the model's files.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    device = pick_device(options.device)
    never_spill(device)
    dtype = "auto" if options.dtype == "stored" else pick_dtype(options.dtype, device)
    nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # what it would warn of in a table is an error here, in a line
    try:
        with explained(f"--model {options.model}: config.json or model.safetensors cannot be loaded"):
            config = AutoConfig.from_pretrained(options.model, trust_remote_code=False)
            check_config(config, options)
            stored = getattr(config, "quantization_config", None)  # in 4 bits already; None would hide that
            wanted = options.load_4bit and not stored
            if wanted or stored:
                import_bitsandbytes()
            quantised = {"quantization_config": BitsAndBytesConfig(**nf4)} if wanted else {}
            model, report = AutoModelForCausalLM.from_pretrained(
                options.model,
                dtype=dtype,
                device_map={"": device},
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **quantised,
            )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    check_report(model, report, options.model)
    for module in model.modules():
        # On CPUs with AVX512-BF16, bitsandbytes re-packs a weight in place at its first forward in eval
        # mode; `dequantize_4bit` and the backward then silently read garbage. Never let it.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if stored and dtype == torch.float16 and hasattr(module, "compute_dtype"):
            module.compute_dtype = dtype  # a model stored in 4 bits brings its own, mostly bfloat16
    return model.requires_grad_(False)


def open_model(options: Options):
    """(tokenizer, config) of a model without its weights; exits with status 2 for one that is missing or damaged."""
    from transformers import AutoConfig

    if options.model.startswith((".", "/", "out/")) and not os.path.isdir(options.model):
        die(f"--model {options.model} does not exist (python data/toy.py makes out/toy_base)")
    for path in sorted(Path(options.model).glob("*.json")) if os.path.isdir(options.model) else []:
        read_json(path)  # transformers' own messages do not always name the file
    with explained(f"--model {options.model}: its tokenizer or chat template is damaged"):
        tokenizer = load_tokenizer(options.model, options.template_options)
        check_template(tokenizer, options)
        tokenizer(chat_text(tokenizer, [{"role": "user", "content": "1 + 1"}]), add_special_tokens=False)
    with explained(f"--model {options.model}: config.json cannot be loaded"):
        config = AutoConfig.from_pretrained(options.model, trust_remote_code=False)
        check_config(config, options)
    return tokenizer, config


def load_policy(options: Options, adapter: str = "", trainable: bool = False, start: str = ""):
    """Returns (model, tokenizer): the base on one device, NF4 or not, with the adapter on it if one is named.

    Args:
        adapter: PEFT folder; empty for the bare base.
        trainable: Whether the adapter takes gradients.
        start: PEFT folder of a second, frozen adapter, loaded under the name "start"; empty for none.

    Exits with status 2, naming folder or file, for a missing or damaged model or adapter, for an adapter that is a
    pickle, whose checksums do not agree, or that was trained on another base.
    """
    for path in {adapter, start} - {""}:
        check_adapter(path)
    tokenizer, _ = open_model(options)
    model = load_base(options)
    add_turn_end(model, tokenizer, options.model)
    if adapter:
        from peft import PeftModel

        check_base(adapter, model, options.model)
        both = f"{adapter} (or {start})" if start else adapter
        with explained(f"adapter {both} does not fit --model {options.model}, or is damaged"):
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Found missing adapter keys")
                model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
                loaded = model.load_adapter(start, "start", is_trainable=False) if start else None
        check_loaded(model, "default", adapter)
        if start:
            check_loaded(model, "start", start, loaded.missing_keys)
    return model, tokenizer


def load_trainable(options: Options, adapter: str, start: str, r: int, alpha: int):
    """(policy, tokenizer) to be trained: `load_policy` with a LoRA that takes gradients, in training mode.

    Args:
        adapter: PEFT folder to go on from; empty puts a fresh LoRA on every linear layer. It changes nothing yet.
        start: PEFT folder of the adapter that the KL pulls back to, or empty: see `start_of_round`.
        r, alpha: Of a fresh LoRA.
    """
    torch.manual_seed(options.seed)  # only a LoRA's start draws from it: everything later is seeded by its step
    policy, tokenizer = load_policy(options, adapter, trainable=True, start=start)
    if not adapter:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        policy = get_peft_model(policy, lora)
    if dropped := drop_dropout(policy):
        note(f"trained without dropout, as rollouts are sampled without it ({', '.join(dropped)})")
    return policy.train(), tokenizer


def checkpoint_gradients(policy, when: str) -> None:
    """Recomputes activations in the backward: "true", "false", or "auto" for on CUDA."""
    if when == "true" or (when == "auto" and policy.get_base_model().device.type == "cuda"):
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def load_adapter(policy, folder: str) -> None:
    """Puts a checkpoint's weights into the policy's adapter."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    check_adapter(folder)
    set_peft_model_state_dict(policy, load_file(os.path.join(folder, "adapter_model.safetensors")))


@contextlib.contextmanager
def start_of_round(policy):
    """Puts the round's start in the adapter's place: the frozen second adapter, or in round 1 none at all."""
    if "start" in policy.peft_config:
        policy.set_adapter("start")
        try:
            yield
        finally:  # memory may run out in between
            policy.set_adapter("default")  # gives the gradient back to the policy's adapter alone
    else:
        with policy.disable_adapter():
            yield


def check_adapter(adapter: str) -> None:
    """Exits with status 2 for an adapter folder that is missing, incomplete, a pickle or damaged."""
    if not os.path.isfile(os.path.join(adapter, "adapter_config.json")):
        chosen = Path(adapter, "selected")  # of a round
        if chosen.is_file() and (name := chosen.read_text(encoding="utf-8").strip()):
            die(f"{adapter} is a round and no adapter: the one that it chose is {name}")
        die(f"adapter folder {adapter} does not exist or holds no adapter_config.json")
    if os.path.isfile(os.path.join(adapter, "checksums.json")) and (wrong := damage(adapter, only=ADAPTER)):
        die(f"adapter {adapter} is damaged: {wrong}")
    if not os.path.isfile(os.path.join(adapter, "adapter_model.safetensors")):
        die(f"adapter {adapter} holds no adapter_model.safetensors (adapter_model.bin is a pickle and is never read)")
    with contextlib.suppress(ImportError):
        import_bitsandbytes()  # else PEFT does, and that loads torch's compiler
    check_lora(adapter)


def fingerprint(model) -> str:
    """Sixteen hex digits that tell one base model's weights from another's, the same in 4, 16 and 32 bits.

    Hashes a slice of the embedding and every norm, which quantisation leaves alone, rounded to bfloat16. float16 has
    lost the smallest weights already, so a model in float16 has another one, with that word behind it.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    parts = [base.get_input_embeddings().weight[:256]]
    parts += [p for name, p in base.named_parameters() if name.endswith("norm.weight")]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16] + (" float16" if base.dtype == torch.float16 else "")


def check_base(adapter: str, model, name: str) -> None:
    """Exits with status 2 where nanoprune.json beside the adapter names another base (other makers' have none)."""
    path = os.path.join(adapter, "nanoprune.json")
    if os.path.isfile(path):
        made, mine = read_json(path), fingerprint(model)
        theirs, trained_on = str(made.get("base_fingerprint")), made.get("base")
        if theirs.endswith("float16") != mine.endswith("float16"):
            note(f"adapter {adapter} was trained on {trained_on}; in float16 it is not checked that {name} is the same")
        elif theirs != mine:
            die(f"adapter {adapter} was trained on {trained_on}, whose weights are not those of --model {name}: {path}")


# ---------------------------------------------------------------------------------------- rollout weights


def full_weight(layer: torch.nn.Module) -> torch.Tensor:
    """(out, in) weight of a linear layer with its 4-bit storage undone and its active LoRA added.

    Float32 where either is there, so that whoever wants 16 bits rounds once. Added to a 4-bit base already rounded, a
    LoRA smaller than half a rounding step would be lost altogether (dev/small_deltas.py).
    """
    linear = getattr(layer, "base_layer", layer)
    weight = linear.weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        state = copy.copy(state)
        state.dtype = torch.float32
        weight = dequantize_4bit(weight.data, state)
    if linear is not layer and not layer.disable_adapters:
        for name in (n for n in layer.active_adapters if n in layer.scaling):  # not every adapter is on every layer
            weight = weight.float() + layer.get_delta_weight(name).float()
    return weight.detach()


def merged_copy(policy) -> torch.nn.Module:
    """A plain model that decodes what the policy would: LoRA folded in, embeddings and norms shared with it.

    `refresh_copy` brings it up to date in place after an optimizer step. Nothing is ever merged into the
    4-bit base itself, so the rounding of the copy does not add up over steps.
    """
    base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # no memory: every weight is replaced below
        clone = type(base)(config)
    clone.generation_config = base.generation_config
    for name, module in clone.named_modules():
        source = base.get_submodule(name)
        linear = getattr(source, "base_layer", source)
        for key in module._parameters:
            module._parameters[key] = linear._parameters[key]
        for key in module._buffers:
            module._buffers[key] = linear._buffers[key]
        if linear is not source or getattr(getattr(linear, "weight", None), "quant_state", None) is not None:
            weight = full_weight(source).to(base.dtype).clone()
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return clone.eval()


@torch.no_grad()
def refresh_copy(clone: torch.nn.Module, policy) -> None:
    """Writes the policy's present weights into its merged copy, in place."""
    base = policy.get_base_model()
    for name, module in clone.named_modules():
        source = base.get_submodule(name)
        if hasattr(source, "base_layer"):
            module.weight.copy_(full_weight(source))


def rollout_model(policy, options: Options, tokens_per_row: int):
    """The model to decode from, as `memory.plan` has it: a merged copy where it fits, else the policy itself.

    Args:
        tokens_per_row: Longest prompt plus cap.
    """
    base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    weights = options.rollout_weights
    if weights == "auto":
        weights = "merged"
        if base.device.type == "cuda":
            weights = memory_plan(base, options, tokens_per_row).weights
    if weights == "merged" and (why := inexact_copy(policy)):
        note(f"rollouts come from live weights: a merged copy would not be exact ({why})")
        weights = "live"
    return merged_copy(policy) if weights == "merged" else base


