"""The memory plan. Run: python -m pytest tests/test_memory.py"""
import dataclasses
import doctest
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from engine import draw, memory
import sample
import train_prune
from dev.bench import shape_config
from engine.memory import choose_rows, memory_plan
from engine.logits import token_logp
from engine.policy import merged_copy, rollout_model
from standin import make_r1_standin, make_tiny, with_lora

GB = 1_000_000_000


@pytest.fixture(scope="module")
def r1():
    """R1-Distill-Qwen-1.5B's shape."""
    return shape_config("r1_1.5b")


def options(**more):
    return train_prune.Config(**{"lora_r": 32, "rows": 1000, "dtype": "bfloat16", **more})


def peak_of(work) -> int:
    """Most bytes that torch had allocated at one time inside `work`, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def lora_model(rank: int = 8, dtype=torch.bfloat16, **shape):
    """A small Qwen2 with a LoRA, in training mode."""
    from peft import LoraConfig, get_peft_model

    model = Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=False, **shape)).to(dtype).requires_grad_(False)
    return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")).train()


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(memory).failed == 0


# ---------------------------------------------------------------------------------------- each part


def test_linear_weights_are_counted_as_by_hand(r1):
    # a layer: q and o 1536 x 1536, k and v 1536 x 256, gate, up and down 1536 x 8960
    layer = 2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960
    assert memory.count(r1)["linear"] == 28 * layer


def test_everything_that_is_no_linear_layer_stays_in_16_bits(r1):
    # embedding and head, two norms a layer and one at the end, biases of q (1536), k and v (256 each)
    assert memory.count(r1)["other"] == 2 * 151936 * 1536 + 57 * 1536 + 28 * (1536 + 2 * 256)


def test_four_bit_weights_carry_a_float32_scale_for_each_64_of_them(r1):
    n = memory.count(r1)
    assert n["packed"] == n["linear"] // 2 + n["linear"] // 64 * 4 + 28 * 7 * 64


@pytest.mark.parametrize("size, base, copy, lora16, kv", [
    ("r1_1.5b", 1.61, 2.62, 0.30, 28), ("r1_7b", 5.55, 13.05, 0.65, 56)])
def test_the_parts_are_near_the_arithmetic_of_the_prototype(size, base, copy, lora16, kv):
    """That one quantised the scales as well, which ours does not: a base of 4 to 6 % more."""
    config = shape_config(size)
    p = memory.plan(config, options(cap=4000, rollout_weights="merged", lora_r=16), 80 * GB)
    assert p.base / GB == pytest.approx(base, rel=0.06)
    assert p.copy / GB == pytest.approx(copy, rel=0.01)
    assert p.lora / GB == pytest.approx(lora16, rel=0.02)
    assert memory.kv_bytes(config, 2) == kv * 1024


def test_lora_takes_16_bytes_a_weight():
    # float32 weight, gradient and AdamW's two moments; a 1-layer model: q, k, v, o of 64 x 64, three of 64 x 128
    config = Qwen2Config(vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                         num_attention_heads=1, num_key_value_heads=1)
    assert memory.plan(config, options(lora_r=8), GB).lora == 16 * 8 * (4 * 128 + 3 * 192)


@pytest.mark.parametrize("top_p, bytes_a_logit", [(1.0, memory.DRAWN), (0.95, memory.CUT)])
def test_a_row_holds_its_keys_and_values_and_what_its_token_is_drawn_with_in_a_graph_and_without(
    r1, top_p, bytes_a_logit
):
    p = memory.plan(r1, options(cap=4000, top_p=top_p), 80 * GB, tokens=4300)
    # beside keys and values 18 bytes a token: mask 2, random number 4, id 8, log-prob 4
    assert p.row == 4300 * (28 * 1024 + 18) + (memory.DRAWN + bytes_a_logit) * 151936


@pytest.mark.parametrize("every, top_p, bytes_a_logit", [
    (False, 1.0, memory.DRAWN), (False, 0.95, memory.DRAWN), (True, 0.95, memory.CUT)])  # a card's sort takes more
@pytest.mark.parametrize("card", [False, True])
def test_a_token_is_drawn_with_no_more_than_is_planned_for_it(monkeypatch, card, every, top_p, bytes_a_logit):
    monkeypatch.setattr(draw, "on_cuda", lambda tensor: card)
    monkeypatch.setattr(draw, "MANY", 256)
    hidden, head, u = torch.randn(64, 16).bfloat16(), 8 * torch.randn(8192, 16).bfloat16(), torch.rand(64, 1)
    peak = peak_of(lambda: draw.pick_token(F.linear(hidden, head).float(), u, 0.6, top_p, every))
    assert 12 * 64 * 8192 <= peak <= bytes_a_logit * 64 * 8192


def test_the_reference_of_a_later_round_is_a_second_lora(r1):
    first = memory.plan(r1, options(beta=0.001), 80 * GB)
    later = memory.plan(r1, options(beta=0.001, init_adapter="out/x"), 80 * GB)
    assert later.lora == first.lora * 5 // 4


def test_without_training_there_is_neither_lora_nor_update(r1):
    p = memory.plan(r1, sample.Config(cap=4000), 24 * GB)
    assert (p.lora, p.update) == (0, 0)


def test_a_bare_base_in_16_bits_is_its_own_rollout_model(r1):
    assert memory.plan(r1, sample.Config(load_4bit=False, rollout_weights="merged"), 24 * GB).copy == 0


@pytest.mark.parametrize("make", [make_tiny, make_r1_standin])
def test_base_and_copy_are_the_bytes_of_a_real_nf4_model(tmp_path, make):
    policy, _ = with_lora(make(tmp_path / "model"))
    base = policy.get_base_model()
    tensors = {p.data_ptr(): p for n, p in base.named_parameters() if "lora_" not in n}
    real = sum(p.numel() * p.element_size() for p in tensors.values())
    for p in tensors.values():
        if getattr(p, "quant_state", None) is not None:
            real += sum(t.numel() * t.element_size() for t in (p.quant_state.absmax, p.quant_state.code))
    copied = {p.data_ptr(): p for p in merged_copy(policy).parameters() if p.data_ptr() not in tensors}
    planned = memory.plan(base.config, options(dtype="float32", rollout_weights="merged"), GB)
    assert (planned.base, planned.copy) == (real, sum(p.numel() * p.element_size() for p in copied.values()))


# ---------------------------------------------------------------------------------------- the update


@pytest.mark.parametrize("checkpointing", ["true", "false"])
@pytest.mark.parametrize("dtype, hidden, inner, n", [("bfloat16", 256, 1024, 1024), ("float16", 64, 256, 256)])
def test_the_update_is_planned_within_15_percent_of_its_real_peak(checkpointing, dtype, hidden, inner, n):
    shape = {"vocab_size": 256, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 1}
    model = lora_model(dtype=getattr(torch, dtype), **shape)
    if checkpointing == "true":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, on = torch.randint(0, 256, (1, n)), torch.ones(1, n, dtype=torch.bool)

    def work():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logp = token_logp(model, ids, on, 1.0, 256)
        logp.sum().backward()

    work()  # the gradients of the LoRA are counted with it
    cfg = options(cap=1, tokens_per_micro_batch=n, gradient_checkpointing=checkpointing, load_4bit=False, dtype=dtype)
    p = memory.plan(Qwen2Config(**shape), dataclasses.replace(cfg, head_chunk=256), GB, tokens=n)
    assert peak_of(work) == pytest.approx(p.update, rel=0.15)


@pytest.mark.parametrize("checkpointing, more", [("true", 14 * 256 + 4 * 1024),
                                                 ("false", 14 * 256 + 4 * 1024 + 3 * (12 * 256 + 2 * 1024))])
def test_in_float16_what_a_lora_keeps_is_planned_in_float32(checkpointing, more):
    """A layer's LoRAs keep the inputs of q, k, v, o, gate, up (hidden) and down (inner), 2 bytes a number more."""
    config = Qwen2Config(vocab_size=256, hidden_size=256, intermediate_size=1024, num_hidden_layers=4,
                         num_attention_heads=4, num_key_value_heads=1)
    cfg = options(cap=1, tokens_per_micro_batch=1000, gradient_checkpointing=checkpointing, head_chunk=1)
    plans = {}
    for name in ("bfloat16", "float16"):
        plans[name] = memory.plan(config, dataclasses.replace(cfg, dtype=name), GB, tokens=1000).update
    assert plans["float16"] - plans["bfloat16"] == 1000 * more


def test_a_model_in_float16_is_planned_as_one_where_the_options_say_auto(r1, card):
    card(24)
    cfg, half = options(dtype="auto"), options(dtype="float16")
    planned = memory_plan(fake_policy(r1, dtype=torch.float16), cfg, 4300)
    assert planned == memory_plan(fake_policy(r1, dtype=torch.float16), half, 4300)
    assert planned.update > memory_plan(fake_policy(r1), cfg, 4300).update


def test_chunked_log_probs_take_a_fifth_of_full_logits_at_most():
    """1024 tokens on a vocabulary of 32,000 in eight chunks, forward and backward."""
    model = lora_model(vocab_size=32000, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                       num_attention_heads=1, num_key_value_heads=1)
    ids, on = torch.randint(0, 32000, (8, 129)), torch.ones(8, 129, dtype=torch.bool)

    def chunked():
        token_logp(model, ids, on, 1.0, 128).sum().backward()

    def full():
        logits = model(input_ids=ids).logits[:, :-1].float()
        logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum().backward()

    assert peak_of(chunked) <= peak_of(full) / 5


def test_logits_rounded_as_on_a_card_take_what_is_planned_for_the_head():
    """A subclass of Linear takes the way of CUDA in 16 bits: logits in bfloat16, then in float32."""
    class Head(torch.nn.Linear):
        pass

    model = lora_model(vocab_size=32000, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                       num_attention_heads=1, num_key_value_heads=1)
    model.get_base_model().lm_head.__class__ = Head
    ids, on = torch.randint(0, 32000, (1, 513)), torch.ones(1, 513, dtype=torch.bool)
    peak = peak_of(lambda: token_logp(model, ids, on, 1.0, 512).sum().backward())
    assert peak == pytest.approx(memory.HEAD * 512 * 32000, rel=0.1)


def test_sampling_and_update_never_coexist(r1):
    p = memory.plan(r1, options(cap=4000), 24 * GB)
    assert p.peak == p.static + max(p.rows * p.row + p.prefill, p.update)


# ---------------------------------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("size, weights, gb, rows", [
    ("r1_1.5b", "merged", 12, 51), ("r1_1.5b", "merged", 16, 84), ("r1_1.5b", "merged", 24, 150),
    ("r1_1.5b", "live", 8, 39), ("r1_1.5b", "live", 24, 171), ("r1_7b", "live", 24, 67)])
def test_rows_are_near_and_below_those_of_the_prototype(size, weights, gb, rows):
    """It left out the buffers of sampling, the prompts that wait, and what a live LoRA computes beside its layer."""
    cfg = options(cap=4000, rollout_weights=weights, tokens_per_micro_batch=4096)
    planned = memory.plan(shape_config(size), cfg, gb * GB - memory.CONTEXT, tokens=4290).rows
    assert 0.65 * rows < planned <= rows


def test_a_large_card_decodes_from_the_copy_and_a_small_one_from_the_four_bit_layers(r1):
    rows = {r["setting"]: r["weights"] for r in memory.table(r1, options(cap=4000), [8, 24])}
    assert rows == {"8 GB": "live", "24 GB": "merged"}


@pytest.mark.parametrize("weights", ["merged", "live"])
def test_weights_asked_for_are_not_overruled(r1, weights):
    assert memory.plan(r1, options(rollout_weights=weights), 8 * GB).weights == weights


def test_few_rows_asked_for_leave_room_for_the_copy(r1):
    assert memory.plan(r1, options(cap=4000, rows=4, tokens_per_micro_batch=4096), 8 * GB).weights == "merged"


def test_rows_asked_for_are_the_most(r1):
    assert memory.plan(r1, options(rows=48), 80 * GB).rows == 48


@pytest.mark.parametrize("gb", [8, 12, 16, 24])
def test_the_plan_stays_within_the_card(r1, gb):
    p = memory.plan(r1, options(cap=4000, tokens_per_micro_batch=8192), gb * GB)
    assert p.fits and p.peak <= memory.SHARE * gb * GB - memory.LOADED


def test_one_row_more_would_not_fit(r1):
    p = memory.plan(r1, options(cap=4000), 24 * GB)
    assert p.peak + p.row > memory.SHARE * 24 * GB - memory.LOADED


def test_memory_already_taken_is_not_planned_twice_but_never_overlooked(r1):
    free, cfg = 24 * GB, options(cap=4000)
    p = memory.plan(r1, cfg, free)
    assert memory.plan(r1, cfg, free, taken=p.static).rows == p.rows
    assert memory.plan(r1, cfg, free, taken=p.static + 10 * p.row).rows == p.rows - 10


def test_a_validation_under_a_wider_cap_takes_fewer_rows(tmp_path, card, monkeypatch):
    """Under a cap of 8,000 a row takes twice what it takes in a training step under 4,000."""
    policy, tokenizer = with_lora(make_tiny(tmp_path / "model"))
    sampler = sample.Sampler(policy, tokenizer, options(rollout_weights="live"), 24)
    asked = []
    monkeypatch.setattr(sample, "choose_rows", lambda *args: asked.append((args[2], args[4])) or 4)
    for cap, top_p in ((8, 1.0), (16, 0.5)):
        sampler.sample([[5, 6, 7]], cap=cap, top_p=top_p)
    assert asked == [(11, 1.0), (19, 0.5)]


# ---------------------------------------------------------------------------------------- what is said


def test_the_plan_is_one_line_with_the_peak(r1):
    p = memory.plan(r1, options(cap=4000), 24 * GB)
    assert "\n" not in p.line() and f"peak {p.peak / GB:.2f}" in p.line() and "does not fit" not in p.line()


def test_following_the_advice_on_micro_batches_makes_it_fit(r1):
    cfg = options(cap=2000, tokens_per_micro_batch=65536)
    p = memory.plan(r1, cfg, 12 * GB)
    assert f"does not fit: lower --tokens_per_micro_batch to {p.largest_micro_batch}" in p.line()
    cfg.tokens_per_micro_batch = p.largest_micro_batch
    assert memory.plan(r1, cfg, 12 * GB).fits


def test_the_largest_micro_batch_is_the_largest(r1):
    p = memory.plan(r1, options(cap=2000), 12 * GB)
    cfg = options(cap=2000, tokens_per_micro_batch=p.largest_micro_batch + 1024, rollout_weights=p.weights)
    assert not memory.plan(r1, cfg, 12 * GB).fits


def test_a_model_too_large_for_the_card_is_said_to_be():
    p = memory.plan(shape_config("r1_7b"), options(cap=4000), 6 * GB)
    assert p.rows == 0 and "does not fit: lower --cap, or take a smaller model" in p.line()


# ---------------------------------------------------------------------------------------- what happens


@pytest.fixture
def card(monkeypatch):
    """Pretends a card of so many GB; nothing is allocated on it."""
    def pretend(gb: float, taken: int = 0):
        monkeypatch.setattr("engine.memory.free_bytes", lambda device: int(gb * GB))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken)
    return pretend


def fake_policy(config, modules=(), dtype=torch.bfloat16):
    return SimpleNamespace(device=torch.device("cuda"), config=config, modules=lambda: iter(modules), dtype=dtype)


def test_the_rows_decoded_are_the_rows_planned(r1, card):
    card(24)
    cfg = options(cap=4000)
    assert choose_rows(fake_policy(r1), cfg, 4300, 0) == memory_plan(fake_policy(r1), cfg, 4300).rows > 16


def test_rows_are_counted_for_the_weights_that_the_model_really_has(r1, card):
    """A round planned with live weights keeps them in a validation whose plan might say otherwise."""
    card(24)
    live = fake_policy(r1, [SimpleNamespace(base_layer=None)])
    planned = memory_plan(live, options(cap=4000, rollout_weights="live"), 4300)
    assert choose_rows(live, options(cap=4000), 4300, 0) == planned.rows


def test_there_is_always_one_row(r1, card):
    card(1)
    assert choose_rows(fake_policy(r1), options(cap=4000), 4300, 0) == 1


@pytest.mark.parametrize("gb, merged", [(8, False), (24, True)])
def test_the_copy_is_made_where_the_plan_has_one(r1, card, monkeypatch, gb, merged):
    card(gb)
    monkeypatch.setattr("engine.policy.merged_copy", lambda policy: "the copy")
    policy = fake_policy(r1)
    assert rollout_model(policy, options(cap=4000), 4300) == ("the copy" if merged else policy)


def test_a_cpu_decodes_as_many_rows_as_asked_for(r1):
    model = SimpleNamespace(device=torch.device("cpu"), config=r1)
    assert [choose_rows(model, options(), 10**6, r) for r in (0, 7)] == [256, 7]


# ---------------------------------------------------------------------------------------- where memory runs out


def sizes_tried(room: int, size: int, smallest: int = 1) -> list[int]:
    """The sizes that `until_it_fits` tries where `room` fits."""
    tried = []

    def attempt(n: int) -> None:
        tried.append(n)
        if n > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    memory.until_it_fits(attempt, size, smallest, "--rows", "", stop=lambda message: tried.append(message) or 1 / 0)
    return tried


def test_a_tenth_less_is_tried_before_half():
    assert sizes_tried(115, 120) == [120, 108] and sizes_tried(30, 120) == [120, 108, 54, 27]


def test_the_smallest_size_is_tried_and_nothing_below_it():
    assert sizes_tried(1, 2) == [2, 1] and sizes_tried(100, 1000, smallest=100) == [1000, 900, 450, 225, 112, 100]


@pytest.mark.parametrize("system, kernel, held", [
    ("win32", None, True), ("linux", "Linux version 5.15.153.1-microsoft-standard-WSL2", True),
    ("linux", "Linux version 6.8.0-51-generic", False)])
def test_where_the_driver_would_spill_to_the_host_torch_is_held(monkeypatch, tmp_path, system, kernel, held):
    version, shares = tmp_path / "version", []
    if kernel:
        version.write_text(kernel)
    monkeypatch.setattr(memory, "KERNEL", version)
    monkeypatch.setattr(memory.sys, "platform", system)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GB)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: shares.append(share))
    memory.never_spill(torch.device("cuda"))
    assert shares == ([pytest.approx((21 * GB - memory.LOADED) / (24 * GB))] if held else [])
    memory.never_spill(torch.device("cpu"))
    assert len(shares) == held


def test_torch_is_held_before_the_model_is_loaded(tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr("engine.policy.never_spill", lambda device: held.append(device.type))
    with_lora(make_tiny(tmp_path / "model"))
    assert held == ["cpu"]
