"""Many kinds of models and adapters: exactly their own forward, or one line. Run: python -m pytest tests/test_models.py

    python tests/test_models.py        # the table: the largest gap of a log-prob, or the text of the refusal
"""
import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import sample
from engine import guard, rows
from engine.files import OptionError, Options, die, note
from engine.guard import own_logp, trained_logp
from engine.logits import float_logits, model_logits, token_logp
from engine.policy import load_policy, load_trainable, start_of_round
from engine.slots import evaluating
from engine.supported import drop_dropout
from sample import Sampler
from standin import let_it_answer, make_r1_standin, make_tiny

SIZES = dict(vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
LATENT = dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, n_group=1, topk_group=1)
LATENT |= dict(kv_lora_rank=16, q_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16)
LATENT |= dict(num_key_value_heads=4, first_k_dense_replace=1)
SEES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
PICTURES = dict(text_config=SIZES | dict(head_dim=16), vision_config=SEES)
SHORT = [1.0 + 0.1 * i for i in range(8)]


def rope(kind: str, **more) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


def longrope(short: int) -> dict:
    more = {"original_max_position_embeddings": short}
    return rope("longrope", short_factor=SHORT, long_factor=[4 * x for x in SHORT], **more) | more


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
    "phi3, longrope from 32 tokens on": ("phi3", longrope(32), "short length (longrope) of 32"),
    "phi3, longrope from 128 tokens on": ("phi3", longrope(128), ""),
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
    "deepseek_v3": ("deepseek_v3", LATENT, "keys and values have sizes"),
    "qwen3_next": ("qwen3_next", EXPERTS | dict(head_dim=16), "linear_attention"),
    "falcon_h1": ("falcon_h1", {}, "hybrid"),
    "hyperclovax": ("hyperclovax", dict(logits_scaling=0.25), "own forward (largest gap"),
    "nanochat": ("nanochat", dict(final_logit_softcapping=3.0), ""),
    "arcee": ("arcee", dict(head_dim=16), ""),
    "apertus": ("apertus", {}, ""),
    "doge": ("doge", {}, "its layers do not take its cache"),
    "lfm2": ("lfm2", dict(full_attn_idxs=[1]), "layers of the kind conv"),
    "lfm2, all layers attention": ("lfm2", dict(full_attn_idxs=[0, 1]), ""),
    "minimax": ("minimax", EXPERTS, "linear_attention"),
    "persimmon": ("persimmon", {}, "num_key_value_heads"),
    "jamba": ("jamba", {}, "linear_attention"),
    "bamba": ("bamba", {}, "linear_attention"),
    "gpt2": ("gpt2", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512), "gives no intermediate_size"),
    "gpt_neox": ("gpt_neox", {}, "gives no num_key_value_heads"),
    "opt": ("opt", dict(ffn_dim=128, word_embed_proj_dim=64), "gives no intermediate_size"),
    "bloom": ("bloom", dict(n_layer=2, n_head=4), "gives no intermediate_size"),
    "falcon": ("falcon", {}, "gives no intermediate_size"),
    "falcon, alibi": ("falcon", dict(alibi=True), "gives no intermediate_size"),
    "mpt": ("mpt", dict(d_model=64, n_layers=2, n_heads=4, max_seq_len=512), "gives no intermediate_size"),
    "codegen": ("codegen", dict(n_embd=64, n_layer=2, n_head=4, n_positions=512, rotary_dim=8), "gives no intermediate_size"),
    "gemma3, with pictures": ("gemma3", PICTURES, "vocab_size"),
    "mamba": ("mamba", dict(state_size=8), "gives no num_attention_heads"),
    "mamba2": ("mamba2", dict(num_heads=8, head_dim=16, state_size=8, n_groups=1), "gives no intermediate_size"),
    "rwkv": ("rwkv", {}, "gives no num_attention_heads"),
}  # fmt: skip


# name: (LORA or the name of PEFT's config class, its options, what is said).
ADAPTERS = {
    "LoRA": ("LORA", {}, ""),
    "rsLoRA": ("LORA", dict(use_rslora=True), ""),
    "patterns of rank and alpha": ("LORA", dict(rank_pattern={"q_proj": 2}, alpha_pattern={"down_proj": 32}), ""),
    "one kind of layers": ("LORA", dict(target_modules=["q_proj"], layers_to_transform=[1]), ""),
    "head and embedding": ("LORA", dict(target_modules=["lm_head", "embed_tokens", "v_proj"], save=False), ""),
    "head and embedding, saved whole": ("LORA", dict(target_modules=["lm_head"]), "lm_head.base_layer.weight"),
    "dropout": ("LORA", dict(lora_dropout=0.1), ""),
    "DoRA": ("LORA", dict(use_dora=True), "note: rollouts come from live weights"),
    "lora_bias": ("LORA", dict(lora_bias=True), "note: rollouts come from live weights"),
    "trained biases": ("LORA", dict(bias="all"), 'has bias "all"'),
    "modules_to_save": ("LORA", dict(modules_to_save=["lm_head"]), "has modules_to_save"),
    "trainable_token_indices": ("LORA", dict(trainable_token_indices=[1, 2]), "has trainable_token_indices"),
    "layer_replication": ("LORA", dict(layer_replication=[[0, 2], [1, 2]]), "has layer_replication"),
    "PiSSA": ("LORA", dict(init_lora_weights="pissa"), "has init_lora_weights"),
    "aLoRA": ("LORA", dict(alora_invocation_tokens=[5], target_modules=["q_proj"]), "has alora_invocation_tokens"),
    "sequence classes": ("LORA", dict(task_type="SEQ_CLS"), "has modules_to_save"),
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
    note.cache_clear()
    with contextlib.redirect_stderr(said):
        try:
            policy, tokenizer = load_policy(options, adapter)
            if lora:
                policy = with_lora(policy)
                drop_dropout(policy)
            gap = largest_gap(policy, Sampler(policy, tokenizer, options, end_ids=[-1]))
        except OptionError as error:  # as files.run does
            with contextlib.suppress(SystemExit):
                die(str(error))
        except SystemExit as stop:
            assert stop.code == 2
    line = said.getvalue()
    assert line.count("\n") <= 1 and (line or gap == gap), line
    return gap, line.strip().replace(options.model, "X").replace(adapter or options.model, "A")


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


# ---------------------------------------------------------------------------------------- folders


def changed(qwen: str, folder: Path, config: dict = {}, weights: dict = {}) -> str:  # noqa: B006 (only read)
    """A copy of a model's folder with other fields in its config.json and more weights in its model.safetensors."""
    shutil.copytree(qwen, folder)
    path, file = folder / "config.json", str(folder / "model.safetensors")
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    save_file(load_file(file) | weights, file, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    "stored, load_4bit, word",
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, False, "stored as fp8"),
        ({"quant_method": "gptq", "bits": 4}, True, "stored as gptq"),
        ({"quant_method": "awq", "bits": 4}, True, "stored as awq"),
        ({"quant_method": "compressed-tensors"}, True, "stored as compressed-tensors"),
        ({"quant_method": "mxfp4"}, True, "stored as mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, True, "stored as bitsandbytes 8-bit"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, False, "name the model in 16 bits"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, False, "take --load_4bit true"),
    ],
)
def test_a_folder_in_another_format_is_one_line(qwen, tmp_path, stored, load_4bit, word):
    folder = changed(qwen, tmp_path / "model", {"quantization_config": stored})
    check(*outcome(options_of(folder, load_4bit=load_4bit)), word)


def test_a_folder_in_nf4_is_loaded_as_it_is(qwen, tmp_path):
    policy, tokenizer = load_policy(options_of(qwen, load_4bit=True))
    for part in (policy, tokenizer):
        part.save_pretrained(tmp_path / "nf4")
    check(*outcome(options_of(str(tmp_path / "nf4"), load_4bit=True), lora=True), "")
    check(*outcome(options_of(str(tmp_path / "nf4"))), "take --load_4bit true")


@pytest.mark.parametrize(
    "key, word",
    [
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", "quantised"),
        ("model.layers.1.self_attn.q_norm.weight", "q_norm"),
        ("model.layers.1.self_attn.o_proj.bias", "o_proj.bias"),
        ("model.embed_tokens.weight_scale", "weight_scale"),
        ("model.layers.2.mtp.weight", ""),  # layers that predict further ahead, a second head: not this model's
        ("value_head.weight", ""),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", ""),
    ],
)
def test_weights_that_a_layer_does_not_know_are_refused(qwen, tmp_path, key, word):
    check(*outcome(options_of(changed(qwen, tmp_path / "model", weights={key: torch.ones(8)}))), word)


# ---------------------------------------------------------------------------------------- the comparison


@pytest.mark.parametrize("fault", [1.01, float("nan")])
def test_a_fault_that_nobody_has_thought_of_is_refused(qwen, monkeypatch, fault):
    monkeypatch.setattr(rows, "model_logits", lambda *a: fault * model_logits(*a))
    check(*outcome(options_of(qwen)), "a token has another log-prob where rollouts are sampled than in the model's own")


def test_a_fault_of_the_trainer_alone_is_refused(qwen, monkeypatch):
    monkeypatch.setattr(guard, "token_logp", lambda *a: 1.1 * token_logp(*a))
    check(*outcome(options_of(qwen)), "")  # nothing is trained
    check(*outcome(options_of(qwen), lora=True), "than in training")


@pytest.mark.parametrize("load_4bit", [False, True])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "llama, biases", "granite", "cohere", "gemma", "phi3", "mixtral"])
def test_rounding_to_16_bits_is_no_fault(name, load_4bit, tokenizer_of, tmp_path):
    kind, more, _ = MODELS[name]
    model = make_model(tmp_path / "model", tokenizer_of, kind, more | {"num_hidden_layers": 6})
    gap, line = outcome(options_of(model, load_4bit=load_4bit, dtype="bfloat16"), lora=True)
    assert gap == gap and not line.startswith("error"), (gap, line)


@pytest.mark.parametrize("name", ["granite", "cohere", "gemma2, no cap on scores", "hyperclovax"])
def test_another_scale_of_the_logits_is_seen_in_16_bits(name, tokenizer_of, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "model_logits", lambda model, x, *_: float_logits(model.get_output_embeddings(), x))
    model = make_model(tmp_path / "model", tokenizer_of, *MODELS[name][:2])
    check(*outcome(options_of(model, dtype="bfloat16")), "median gap")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_comparison_leaves_no_trace(qwen, monkeypatch, dtype):
    policy, tokenizer = load_policy(options_of(qwen, dtype=dtype))
    policy, said, runs = with_lora(policy), io.StringIO(), []
    for compare in (guard.compare, lambda *a: None):
        monkeypatch.setattr(sample, "compare", compare)
        torch.manual_seed(5)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            sampler = Sampler(policy, tokenizer, options_of(qwen))
        assert policy.training and sampler.tokens == 0 and not said.getvalue()
        runs.append((torch.get_rng_state().tolist(), [r.ids for r in sampler.sample([[5, 6]], 4, cap=9)]))
    assert runs[0] == runs[1]


def test_memory_that_runs_out_is_left_to_the_sampling_which_says_what_to_lower(qwen, monkeypatch):
    policy, tokenizer = load_policy(options_of(qwen))

    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(guard, "decode_few", no_memory)
    Sampler(policy, tokenizer, options_of(qwen))


# ---------------------------------------------------------------------------------------- training


def test_dropout_and_noise_are_switched_off_and_named(qwen, tokenizer_of, tmp_path, capsys):
    model = make_model(tmp_path / "model", tokenizer_of, "mixtral", MODELS["mixtral"][1] | {"attention_dropout": 0.3})
    for folder, what in ((qwen, "lora_dropout 0.1"), (model, "attention_dropout 0.3")):
        note.cache_clear()
        adapter = make_adapter(tmp_path / what, folder, "LORA", {"lora_dropout": 0.1, "target_modules": ["q_proj"]})
        policy, tokenizer = load_trainable(options_of(folder), adapter, adapter, 4, 8)
        line = capsys.readouterr().err
        assert line.startswith("note: trained without dropout") and what in line and line.count("\n") == 1
        assert policy.training and policy.peft_config["default"].lora_dropout == 0
        assert largest_gap(policy, Sampler(policy, tokenizer, options_of(folder))) < 1e-4


def test_experts_are_trained_from_live_weights_against_the_start_of_the_round(tokenizer_of, tmp_path, capsys):
    model = make_model(tmp_path / "model", tokenizer_of, "qwen3_moe", MODELS["qwen3_moe"][1])
    policy, _ = load_trainable(options_of(model), "", "", 4, 8)
    note.cache_clear()
    policy.save_pretrained(tmp_path / "adapter")
    policy, tokenizer = load_trainable(options_of(model), str(tmp_path / "adapter"), str(tmp_path / "adapter"), 4, 8)
    assert largest_gap(policy, Sampler(policy, tokenizer, options_of(model))) < 1e-4
    assert "live weights" in capsys.readouterr().err
    with start_of_round(policy):
        assert policy.active_adapters == ["start"]


def train(folder: Path, model: str, cap: int, *python: str) -> subprocess.CompletedProcess:
    """One step on a made-up problem, as a user would start it."""
    data = folder / "problems.jsonl"
    data.write_text(json.dumps({"id": "1", "problem": "1+1?", "answer": "2"}) + "\n")
    words = f"--train_data {data} --val_data {data} --cap {cap} --eval_cap {cap} --group 2 --problems_per_step 1"
    words += f" --model {model} --steps 1 --eval_samples 64 --device cpu --gradient_checkpointing true"
    command = [*python, "train_prune.py", *words.split(), "--out_dir", str(folder / "run")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_no_warning_of_a_library_reaches_the_terminal(tmp_path):
    model = make_r1_standin(tmp_path / "model")
    let_it_answer(model, "2")
    done = train(tmp_path, model, 32, sys.executable, "-W", "default")
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_a_model_with_sliding_layers_says_in_one_line_what_fits_its_window(tokenizer_of, tmp_path, warm_python):
    model = make_model(tmp_path / "model", tokenizer_of, "mistral", {"sliding_window": 256})
    done = train(tmp_path, model, 200, warm_python)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "sliding window of 256" in done.stderr


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
