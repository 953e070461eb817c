"""Many kinds of models and adapters: exactly their own forward, or one line. Run: python -m pytest tests/test_models.py

    python tests/test_models.py        # the table: the largest gap of a log-prob, or the text of the refusal
"""
import contextlib
import io
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from transformers import AutoConfig, AutoModelForCausalLM

from engine.files import OptionError, Options, die
from engine.guard import own_logp, trained_logp
from engine.policy import load_policy
from engine.slots import evaluating
from engine.supported import drop_dropout
from sample import Sampler
from standin import make_tiny

SIZES = dict(vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
SHORT = [1.0 + 0.1 * i for i in range(8)]


def rope(kind: str, **more) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONGROPE = rope("longrope", short_factor=SHORT, long_factor=[4 * x for x in SHORT], original_max_position_embeddings=32)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=128)
LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)

# name: (model_type, its config, what the user reads where it is refused or limited; empty: exact).
MODELS = {
    "qwen2": ("qwen2", {}, ""),
    "qwen2, tied, window switched off": ("qwen2", dict(tie_word_embeddings=True, sliding_window=8), ""),
    "qwen2, window of 8 in the second layer": ("qwen2", dict(use_sliding_window=True, sliding_window=8, max_window_layers=1), "sliding window of 8"),
    "qwen2, yarn": ("qwen2", YARN, ""),
    "qwen3": ("qwen3", dict(head_dim=32), ""),
    "qwen3, attention bias": ("qwen3", dict(head_dim=16, attention_bias=True), ""),
    "llama": ("llama", {}, ""),
    "llama, biases": ("llama", dict(attention_bias=True, mlp_bias=True), ""),
    "llama, llama3 rope": ("llama", LLAMA3, ""),
    "llama, linear rope": ("llama", rope("linear", factor=2.0), ""),
    "llama, dynamic rope": ("llama", rope("dynamic", factor=2.0), ""),
    "mistral": ("mistral", dict(sliding_window=None), ""),
    "mistral, window of 8": ("mistral", dict(sliding_window=8), "sliding window of 8"),
    "mistral, window of 128": ("mistral", dict(sliding_window=128), ""),
    "phi3": ("phi3", {}, ""),
    "phi3, window of 8": ("phi3", dict(sliding_window=8), "sliding window of 8"),
    "phi3, partial rotary": ("phi3", rope("default", partial_rotary_factor=0.5), ""),
    "phi3, longrope of 32": ("phi3", LONGROPE | dict(original_max_position_embeddings=32), "longrope"),
    "granite": ("granite", dict(logits_scaling=4.0, embedding_multiplier=6.0, residual_multiplier=0.3, attention_multiplier=0.1), ""),
    "granitemoe": ("granitemoe", EXPERTS | dict(logits_scaling=3.0), ""),
    "cohere": ("cohere", dict(logit_scale=0.25, use_qk_norm=True), ""),
    "cohere2": ("cohere2", dict(logit_scale=0.25, sliding_window=8), "sliding window of 8"),
    "cohere2, full": ("cohere2", dict(logit_scale=0.25, layer_types=["full_attention"] * 2), ""),
    "gemma": ("gemma", dict(head_dim=16), ""),
    "gemma2": ("gemma2", dict(head_dim=16, sliding_window=128), "softcap"),
    "gemma2, no cap on scores": ("gemma2", dict(head_dim=16, attn_logit_softcapping=None, final_logit_softcapping=3.0, sliding_window=128), ""),
    "gemma3, window of 128": ("gemma3_text", dict(head_dim=16, sliding_window=128), ""),
    "gemma3, window of 8": ("gemma3_text", dict(head_dim=16, sliding_window=8), "sliding window of 8"),
    "olmo": ("olmo", dict(clip_qkv=0.5), ""),
    "olmo2": ("olmo2", {}, ""),
    "olmo3": ("olmo3", dict(sliding_window=128), ""),
    "smollm3": ("smollm3", dict(no_rope_layers=[1, 0]), ""),
    "starcoder2": ("starcoder2", dict(sliding_window=None), ""),
    "starcoder2, window of 8": ("starcoder2", dict(sliding_window=8), "sliding window of 8"),
    "stablelm, partial rotary": ("stablelm", rope("default", partial_rotary_factor=0.25) | dict(use_qkv_bias=True), ""),
    "phi, partial rotary": ("phi", rope("default", partial_rotary_factor=0.5), ""),
    "glm": ("glm", dict(head_dim=16), ""),
    "glm4": ("glm4", dict(head_dim=16), ""),
    "nemotron": ("nemotron", {}, ""),
    "helium": ("helium", dict(head_dim=16), ""),
    "ernie4_5": ("ernie4_5", dict(head_dim=16), ""),
    "exaone4": ("exaone4", dict(sliding_window=128), ""),
    "seed_oss": ("seed_oss", dict(head_dim=16), ""),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", dict(head_dim=16), ""),
    "mixtral": ("mixtral", EXPERTS | dict(sliding_window=None, router_jitter_noise=0.1), ""),
    "qwen2_moe": ("qwen2_moe", EXPERTS | dict(shared_expert_intermediate_size=64), ""),
    "qwen3_moe": ("qwen3_moe", EXPERTS | dict(head_dim=16), ""),
    "olmoe": ("olmoe", EXPERTS, ""),
    "gpt_oss": ("gpt_oss", EXPERTS | dict(head_dim=16, sliding_window=128), "s_aux"),
    "deepseek_v3": ("deepseek_v3", dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, n_group=1, topk_group=1, kv_lora_rank=16, q_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16, num_key_value_heads=4, first_k_dense_replace=1), "keys and values have sizes"),
    "qwen3_next": ("qwen3_next", EXPERTS | dict(head_dim=16), "linear_attention"),
    "falcon_h1": ("falcon_h1", {}, "?"),
    "hyperclovax": ("hyperclovax", dict(logits_scaling=0.25), "?"),
    "nanochat": ("nanochat", dict(final_logit_softcapping=3.0), ""),
    "arcee": ("arcee", dict(head_dim=16), ""),
    "apertus": ("apertus", {}, ""),
    "doge": ("doge", {}, "?"),
    "lfm2": ("lfm2", {}, "?"),
    "minimax": ("minimax", EXPERTS, "?"),
    "persimmon": ("persimmon", {}, "?"),
    "jamba": ("jamba", {}, "?"),
    "bamba": ("bamba", {}, "?"),
    "gpt2": ("gpt2", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512), "num_key_value_heads"),
    "gpt_neox": ("gpt_neox", {}, "num_key_value_heads"),
    "opt": ("opt", dict(ffn_dim=128, word_embed_proj_dim=64), ""),
    "bloom": ("bloom", dict(n_layer=2, n_head=4), ""),
    "falcon": ("falcon", {}, ""),
    "falcon, alibi": ("falcon", dict(alibi=True), ""),
    "mpt": ("mpt", dict(d_model=64, n_layers=2, n_heads=4, max_seq_len=512), ""),
    "codegen": ("codegen", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512, rotary_dim=8), ""),
    "gemma3, with pictures": ("gemma3", {}, "?"),
    "mamba": ("mamba", dict(state_size=8), ""),
    "mamba2": ("mamba2", dict(num_heads=8, head_dim=16, state_size=8, n_groups=1), ""),
    "rwkv": ("rwkv", {}, ""),
}  # fmt: skip


# name: (LORA or the name of PEFT's config class, its options, what is said).
ADAPTERS = {
    "LoRA": ("LORA", {}, ""),
    "rsLoRA": ("LORA", dict(use_rslora=True), ""),
    "patterns of rank and alpha": ("LORA", dict(rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 32}), ""),
    "one kind of layers": ("LORA", dict(target_modules=["q_proj"], layers_to_transform=[1]), ""),
    "head and embedding": ("LORA", dict(target_modules=["lm_head", "embed_tokens", "v_proj"], save=False), ""),
    "head and embedding, saved whole": ("LORA", dict(target_modules=["lm_head", "v_proj"]), "lm_head.base_layer.weight"),
    "dropout": ("LORA", dict(lora_dropout=0.1), ""),
    "DoRA": ("LORA", dict(use_dora=True), "note: rollouts come from live weights"),
    "lora_bias": ("LORA", dict(lora_bias=True), "note: rollouts come from live weights"),
    "trained biases": ("LORA", dict(bias="all"), 'has bias "all"'),
    "modules_to_save": ("LORA", dict(modules_to_save=["lm_head"]), "has modules_to_save"),
    "trainable_token_indices": ("LORA", dict(trainable_token_indices=[1, 2]), "has trainable_token_indices"),
    "layer_replication": ("LORA", dict(layer_replication=[[0, 2], [1, 2]]), "has layer_replication"),
    "PiSSA": ("LORA", dict(init_lora_weights="pissa"), "has init_lora_weights"),
    "aLoRA": ("LORA", dict(alora_invocation_tokens=[5], target_modules=["q_proj"]), "has alora_invocation_tokens"),
    "sequence classes": ("LORA", dict(task_type="SEQ_CLS"), "has task_type"),
    "IA3": ("IA3Config", dict(target_modules=["k_proj"], feedforward_modules=[]), "kind IA3"),
    "LoHa": ("LoHaConfig", dict(target_modules=["k_proj"]), "kind LOHA"),
    "LoKr": ("LoKrConfig", dict(target_modules=["k_proj"]), "kind LOKR"),
    "VeRA": ("VeraConfig", dict(target_modules=["q_proj"]), "kind VERA"),
    "OFT": ("OFTConfig", dict(target_modules=["q_proj"]), "kind OFT"),
    "layer norms": ("LNTuningConfig", dict(target_modules=["norm"]), "kind LN_TUNING"),
    "AdaLoRA": ("AdaLoraConfig", dict(target_modules=["q_proj"], total_step=9), "kind ADALORA"),
    "prompt tuning": ("PromptTuningConfig", dict(num_virtual_tokens=2), "kind PROMPT_TUNING"),
    "prefix tuning": ("PrefixTuningConfig", dict(num_virtual_tokens=2), "kind PREFIX_TUNING"),
}


def make_model(folder, tokenizer_of, kind: str, more: dict) -> str:
    """Writes a random model of this kind whose next token is not a coin toss, with the tokenizer of another."""
    default = AutoConfig.for_model(kind)
    config = AutoConfig.for_model(kind, **{k: v for k, v in SIZES.items() if hasattr(default, k)} | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for p in model.parameters():
            if p.dim() > 1:
                p.data.normal_(0, 1.5 / p.shape[-1] ** 0.5)
            else:
                p.data += 0.3 * torch.rand(p.shape)  # norms that are not 1, biases that are not 0
    model.save_pretrained(folder)
    for path in Path(tokenizer_of).iterdir():
        if "token" in path.name or path.suffix == ".jinja":
            shutil.copy(path, folder)
    return str(folder)


def with_lora(policy, **more):
    """The policy with a LoRA that changes something, ready for training."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    lora = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", "init_lora_weights": False} | more
    policy = get_peft_model(policy, LoraConfig(**lora))
    drop_dropout(policy)
    for name, p in policy.named_parameters():
        if "lora_" in name:
            p.data *= 0.3
        if "lora_magnitude" in name or name.endswith("lora_B.default.bias"):
            p.data += 0.2 * torch.rand(p.shape)
    return policy.train()


def largest_gap(policy, sampler: Sampler) -> float:
    """Largest difference of a sampled token's log-prob from the policy's own forward and from that in training."""
    prompts, gaps = [[(31 * k + n) % 384 for k in range(n)] for n in (1, 5, 40)], []
    for r in sampler.sample(prompts, 2, cap=16, seed=1):
        ids = torch.tensor([r.prompt_ids + r.ids])
        with torch.no_grad(), evaluating(policy):
            gaps.append((r.logp - own_logp(policy, ids, len(r.ids))).abs().max().item())
        if hasattr(policy, "get_base_model"):
            gaps.append((r.logp - trained_logp(policy, ids, len(r.ids)).detach()).abs().max().item())
    return max(gaps)


def outcome(options: Options, adapter: str = "", lora: bool = False) -> tuple[float, str]:
    """(the largest gap, the note on stderr), or (NaN, the one line with which it is refused)."""
    said, gap = io.StringIO(), float("nan")
    with contextlib.redirect_stderr(said):
        try:
            policy, tokenizer = load_policy(options, adapter)
            policy = with_lora(policy) if lora else policy
            gap = largest_gap(policy, Sampler(policy, tokenizer, options, end_ids=[-1]))
        except OptionError as error:  # as files.run does
            with contextlib.suppress(SystemExit):
                die(str(error))
        except SystemExit as stop:
            assert stop.code == 2
    line = said.getvalue()
    assert line.count("\n") <= 1 and (line or gap == gap), line
    return gap, line.strip().replace(adapter or "-", "A").replace(options.model, "X")


@pytest.fixture(scope="module")
def tokenizer_of(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def qwen(tokenizer_of, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("qwen") / "model", tokenizer_of, "qwen2", {})


def check(gap: float, line: str, word: str) -> None:
    """Exact and silent where no word is expected; with a note, exact and said; else refused with the word."""
    if not word or word.startswith("note:"):
        assert gap < 1e-4 and line.startswith(word) and bool(line) == bool(word), (gap, line)
    else:
        assert gap != gap and line.startswith("error: ") and word in line, (gap, line)


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_its_own_forward_or_one_line(name, tokenizer_of, tmp_path):
    kind, more, word = MODELS[name]
    model = make_model(tmp_path / "model", tokenizer_of, kind, more)
    check(*outcome(options_of(model)), word)
    if not word:  # and with an adapter: decoded from a merged copy where there can be one, and as the update has it
        gap, line = outcome(options_of(model), lora=True)
        assert gap < 1e-4 and (not line or "LoRA on" in line), (gap, line)


def options_of(model: str, **more) -> Options:
    return Options(model=model, device="cpu", **{"load_4bit": False} | more)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_kind_of_adapter_is_its_own_forward_or_one_line(name, qwen, tmp_path):
    check(*outcome(options_of(qwen), make_adapter(tmp_path / "adapter", qwen, *ADAPTERS[name][:2])), ADAPTERS[name][2])


def make_adapter(folder, model: str, kind: str, more: dict) -> str:
    """Writes an adapter of this kind that changes something."""
    import peft

    base = AutoModelForCausalLM.from_pretrained(model)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save = more.get("save", "auto")
        if kind == "LORA":
            policy = with_lora(base, **{k: v for k, v in more.items() if k != "save"})
        else:
            policy = peft.get_peft_model(base, getattr(peft, kind)(task_type="CAUSAL_LM", **more))
        policy.save_pretrained(folder, save_embedding_layers=save)
    return str(folder)


def table() -> None:
    """Prints what the tests check, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        other = make_tiny(Path(folder, "tokenizer"))
        print("| model | bare | with a LoRA |\n|---|---|---|")
        for name, (kind, more, _) in MODELS.items():
            model = make_model(Path(folder, name), other, kind, more)
            (gap, line), (lora, note) = outcome(options_of(model)), (0.0, "")
            if gap == gap:
                lora, note = outcome(options_of(model), lora=True)
            print(f"| {name} | {gap:.0e} | {lora:.0e} {note} |" if gap == gap else f"| {name} | {line} | |", flush=True)
        qwen = make_model(Path(folder, "qwen"), other, "qwen2", {})
        print("\n| adapter on qwen2 | gap, or the line |\n|---|---|")
        for name, (kind, more, _) in ADAPTERS.items():
            gap, line = outcome(options_of(qwen), make_adapter(Path(folder, "adapter " + name), qwen, kind, more))
            print(f"| {name} | {f'{gap:.0e} ' if gap == gap else ''}{line} |", flush=True)


if __name__ == "__main__":
    table()
