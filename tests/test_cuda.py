"""The CUDA path: on a CPU under cuda_stand_in.py's rules, and on a card where there is one.

Run: python -m pytest tests/test_cuda.py, and on a machine with a card: python -m pytest --cuda tests/test_cuda.py
"""
import os
import random
import re

import pytest
import torch
import torch.nn.attention.varlen
from torch._subclasses.fake_tensor import FakeTensorMode

import sample
from conftest import ROOT, refusal, sampled
from cuda_stand_in import recorder, strict_varlen
from engine import draw, files, graphs, policy, slots
from engine.files import Options
from engine.logits import Products, products, token_logp
from engine.memory import until_it_fits
from engine.policy import check_base, fingerprint, load_policy, pick_device, pick_dtype, set_allocator
from grpo import Item, add_gradient
from sample import Rollout, Sampler
from standin import make_r1_standin, make_tiny, with_lora
from test_sample import random_model
from train_prune import Config

on_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or no --cuda")
rng = random.Random(0)
PROMPTS = [[rng.randrange(300) for _ in range(n)] for n in (5, 70, 1, 33, 9)]
CAPS = [n % 17 + 1 for n in range(40)]
SETTINGS = [(1.0, 1.0, 21), (0.6, 0.95, 40), (0, 1.0, 9)]  # temperature, top_p, rows


class Tok:
    eos_token_id = 7

    def decode(self, ids, **more):
        return ""


@pytest.fixture(autouse=True)
def notes_again():
    files.note.cache_clear()  # each test sees its own, though a process prints one once


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model", hidden=128, layers=2)


@pytest.fixture
def a_card(monkeypatch):
    """Two cards of capability 7.5, as far as one can ask; returns the calls that choose one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    return chosen


def both_ways(model, rows, temperature, top_p):
    """(eager rollouts, those of graphs) of one model."""
    how = dict(cap=CAPS, rows=rows, seed=3, temperature=temperature, top_p=top_p, end_ids=[7])
    return [sampled(model, Tok(), PROMPTS, 8, decode=decode, **how) for decode in ("eager", "graph")]


def same(one, two, within=1e-5):
    ids = [r.ids for r in one] == [r.ids for r in two]
    return ids and all(torch.allclose(a.logp, b.logp, atol=within) for a, b in zip(one, two))


# ---------------------------------------------------------------------------------------- logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_a_head_in_16_bits_are_not_rounded_to_them(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).to(dtype) for n in (6, 3000))  # logits around 8
    right = hidden.double() @ weight.double().t()
    assert (Products.apply(hidden, weight) - right).abs().max() < 1e-4 < (hidden @ weight.t() - right).abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_through_a_head_in_16_bits_is_that_of_float32_but_for_rounding(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).to(dtype) for n in (6, 3000))

    def gradient(product):
        states = hidden.clone().requires_grad_()
        (-product(states).log_softmax(-1)[:, 7].sum()).backward()
        return states.grad.double()

    found, right = gradient(lambda x: Products.apply(x, weight)), gradient(lambda x: x.float() @ weight.float().t())
    assert 0 < (found - right).norm() / right.norm() < 0.01


def test_a_card_s_product_is_one_of_16_bits_with_float32_sums():
    with FakeTensorMode():
        hidden, weight = (torch.empty(n, 64, device="cuda", dtype=torch.bfloat16) for n in (6, 3000))
        found = products(hidden, weight)
    assert found.dtype == torch.float32 and found.shape == (6, 3000) and found.device.type == "cuda"


# ---------------------------------------------------------------------------------------- graphs


@pytest.mark.parametrize("kind, more", [("qwen2", {}), ("qwen3", {"head_dim": 16}), ("mistral", {})])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_replayed_graphs_decode_what_eager_steps_do(kind, more, dtype):
    model = random_model(kind, **more).to(dtype)
    for temperature, top_p, rows in SETTINGS:
        with recorder() as found:
            eager, replayed = both_ways(model, rows, temperature, top_p)
        assert same(eager, replayed)
        assert found.captures > 1 and found.replays > found.captures and found.stream == "default"


def test_masked_attention_can_be_captured():
    with recorder(varlen=False) as found:
        rollouts = sampled(random_model("qwen2"), Tok(), PROMPTS, 8, cap=CAPS, rows=21, decode="graph", end_ids=[7])
    assert same(rollouts, sampled(random_model("qwen2"), Tok(), PROMPTS, 8, cap=CAPS, rows=21, end_ids=[7]))
    assert found.captures > 1 and found.replays > found.captures


def test_a_card_s_attention_may_give_the_heads_in_another_order_of_strides(monkeypatch):
    """Seen on an H100 in float32, where a view of it was refused and no model without varlen attention was decoded."""
    want, plain = both_ways(random_model("qwen2"), 9, 1.0, 1.0)[0], torch.nn.functional.scaled_dot_product_attention

    def other_strides(*args, **more):
        return plain(*args, **more).transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", other_strides)
    assert same(want, both_ways(random_model("qwen2"), 9, 1.0, 1.0)[0])


def failing(monkeypatch, error, captures=1):
    """The first capture ends with this error; a step outside of captures works."""
    plain, left = sample.Rows.step, [captures]

    def step(self, n):
        if torch.cuda.current_stream() == "capture" and left[0]:
            left[0] -= 1
            raise error
        plain(self, n)

    monkeypatch.setattr(sample.Rows, "step", step)


def test_a_capture_that_fails_leaves_the_default_stream_and_right_answers(monkeypatch, capsys):
    model = random_model("qwen2").to(torch.bfloat16)
    failing(monkeypatch, RuntimeError("operation not permitted when stream is capturing"))
    with recorder() as found:
        eager, after = both_ways(model, 9, 1.0, 1.0)
    assert same(eager, after) and found.captures == 0 and found.stream == "default"
    assert found.open == found.pools == 0  # its memory can be used again
    assert "without CUDA graphs (operation not permitted" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["another input", "nothing"])
def test_a_graph_that_replays_something_else_is_thrown_away(monkeypatch, capsys, wrong):
    plain = sample.Rows.step

    def step(self, n):
        captures = torch.cuda.current_stream() == "capture"
        if captures and wrong == "another input":
            self.token[:n].mul_(0)
        if not captures or wrong != "nothing":
            plain(self, n)

    monkeypatch.setattr(sample.Rows, "step", step)
    with recorder() as found:
        right, after = both_ways(random_model("qwen2").to(torch.bfloat16), 21, 1.0, 1.0)
    assert same(right, after) and (found.captures, found.replays, found.pools) == (1, 1, 0)
    said = capsys.readouterr().err
    assert "a step of 21 rows gave other tokens" in said and said.count("\n") == 1


def row_counts(monkeypatch):
    """The row counts of the steps that are run from here on, in a set."""
    plain, seen = sample.Rows.step, set()
    monkeypatch.setattr(sample.Rows, "step", lambda self, n, *more: (seen.add(n), plain(self, n, *more))[1])
    return seen


def test_live_four_bit_weights_are_decoded_in_graphs_by_default(monkeypatch, tiny):
    policy, tokenizer = with_lora(tiny, dtype="bfloat16")
    seen, how = row_counts(monkeypatch), dict(cap=CAPS, rows=9, seed=3, end_ids=[7])
    with recorder() as found:
        graph = sampled(policy, tokenizer, PROMPTS, 8, **how)
        assert found.captures == len(seen) > 2 and found.replays > 2 * found.captures
        assert same(graph, sampled(policy, tokenizer, PROMPTS, 8, decode="eager", **how))
    assert found.pools == 0


def test_a_nucleus_too_large_for_a_step_of_a_card_is_drawn_again(monkeypatch):
    model, how = random_model("qwen2"), dict(cap=CAPS[:10], rows=3, end_ids=[7], temperature=0.6, top_p=0.8)
    plain, sorts = sample.Rows.step, []
    monkeypatch.setattr(draw, "MANY", 104)

    def step(self, n, every=False):
        sorts.append(every)
        plain(self, n, every)

    monkeypatch.setattr(sample.Rows, "step", step)
    with recorder(varlen=False) as found:
        card = sampled(model, Tok(), PROMPTS, 2, decode="graph", **how)
    assert 2 < sum(sorts) < found.replays - 2
    assert same(card, sampled(model, Tok(), PROMPTS, 2, **how))


def test_out_of_memory_in_a_capture_lowers_the_rows(monkeypatch, capsys):
    model = random_model("qwen2").to(torch.bfloat16)
    with recorder() as found:
        failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
        sampled(model, Tok(), PROMPTS, 8, cap=CAPS, rows=40, decode="graph", end_ids=[7])
    assert "trying again with --rows" in capsys.readouterr().out
    assert found.captures > 1 and found.stream == "default" and found.open == found.pools == 0


@pytest.mark.parametrize("first, kind", [(torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
                                         (KeyboardInterrupt(), KeyboardInterrupt)])  # fmt: skip
def test_the_first_error_of_a_capture_counts_where_ending_it_raises_another(monkeypatch, first, kind):
    with recorder(), monkeypatch.context() as patch:  # undone before the recorder ends
        inner = torch.cuda.graph

        class Broken:
            def __init__(self, graph, pool):
                self.inner = inner(graph, pool)

            def __enter__(self):
                self.inner.__enter__()

            def __exit__(self, *error):
                try:
                    self.inner.__exit__(*error)
                finally:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        def step(n):
            if torch.cuda.current_stream() == "capture":
                raise first

        patch.setattr(torch.cuda, "graph", Broken)
        run = graphs.graphed(step, 4, torch.device("cuda"), [])
        with pytest.raises(kind):
            run(4)


def test_a_model_on_the_cpu_never_asks_for_the_card(a_card, monkeypatch, tiny):
    """On a machine with a card, graphs of a CPU model would be empty, and the decode loop would never end."""
    options = Options(model=tiny, load_4bit=False, device="cpu")
    want = sampled(*load_policy(options), PROMPTS, 2, cap=9, rows=4, decode="graph")
    for name in ("CUDAGraph", "graph", "graph_pool_handle", "mem_get_info", "memory_allocated", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *a, **k: pytest.fail("asked the card"))
    loaded, tokenizer = load_policy(options)
    assert same(want, sampled(loaded, tokenizer, PROMPTS, 2, cap=9, rows=4, decode="graph")) and not a_card
    assert until_it_fits(lambda size: 1 / (size < 8) and size, 4, 1, "--rows", "") == (4, 4)


def test_only_the_choice_of_a_device_asks_whether_the_machine_has_a_card():
    asks = re.compile(r"cuda\.(is_available|device_count|current_device)\(")
    paths = [path for folder in ("", "engine", "analysis", "data", "dev") for path in (ROOT / folder).glob("*.py")]
    found = {path.name for path in paths if asks.search(path.read_text(encoding="utf-8"))}
    assert found - {"memory.py"} == {"policy.py"}  # memory.py empties a cache, which does nothing where CUDA is unused


# ---------------------------------------------------------------------------------------- older versions of torch


def test_before_torch_2_13_the_operator_below_varlen_attn_is_called(monkeypatch):
    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, is_causal=False):
        raise AssertionError("it cannot be told what is used of a row")

    def operator(q, k, v, cu_q, cu_k, max_q, max_k, dropout, causal, debug, *, scale, seqused_k):
        assert (dropout, causal, debug) == (0.0, False, False)
        return strict_varlen(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, enable_gqa=True, seqused_k=seqused_k), None

    model = random_model("qwen2").to(torch.bfloat16)
    with recorder() as found, monkeypatch.context() as patch:
        want = both_ways(model, 9, 1.0, 1.0)[1]
        patch.setattr(torch.nn.attention.varlen, "varlen_attn", old)
        patch.setattr(torch.ops.aten, "_flash_attention_forward", operator)
        assert same(want, both_ways(model, 9, 1.0, 1.0)[1]) and found.captures > 2


def test_from_the_rows_that_fill_a_card_on_attention_is_told_to_split(monkeypatch):
    seen = set()

    def watched(query, *args, seqused_k=None, num_splits=None, **more):
        seen.add((len(query) >= 4, num_splits))
        return strict_varlen(query, *args, seqused_k=seqused_k, **more)

    monkeypatch.setattr(slots, "rows_that_fill", lambda device, kv_heads: 4)
    with recorder(), monkeypatch.context() as patch:
        patch.setattr(torch.nn.attention.varlen, "varlen_attn", watched)
        both_ways(random_model("qwen2").to(torch.bfloat16), 9, 1.0, 1.0)
    assert seen == {(True, 2), (False, None), (False, 2)}  # the last is `can_split`, with one row


def test_where_attention_cannot_be_told_to_split_it_is_not_told(monkeypatch, capsys):
    """Otherwise a card would sample with few rows, and end with an error once there are many."""
    def whole(*args, num_splits=None, seqused_k=None, **more):
        if num_splits:
            raise RuntimeError("num_splits is not supported here")
        return strict_varlen(*args, seqused_k=seqused_k, **more)

    monkeypatch.setattr(slots, "rows_that_fill", lambda device, kv_heads: 4)
    model = random_model("qwen2").to(torch.bfloat16)
    with recorder(), monkeypatch.context() as patch:
        want = both_ways(model, 9, 1.0, 1.0)
        patch.setattr(torch.nn.attention.varlen, "varlen_attn", whole)
        assert same(want[1], both_ways(model, 9, 1.0, 1.0)[1])
    assert capsys.readouterr().err.count("is not split, which may be slower (num_splits is not supported here)") == 1


@pytest.mark.parametrize("error", [TypeError("unexpected keyword"), RuntimeError("only Ampere GPUs or newer")])
def test_why_there_is_no_varlen_attention_is_said_in_one_line(monkeypatch, capsys, error):
    def refuses(*args, **more):
        raise error

    model = random_model("qwen2").to(torch.float16)
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    for name in ("tensor", "zeros"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, make=make, device=None, **k: make(*a, **k))
    monkeypatch.setattr(slots, "flash_attention", lambda: refuses)
    assert not slots.can_varlen(model)
    said = capsys.readouterr().err
    assert str(error) in said and "without CUDA graphs" in said and "float16" in said and said.count("\n") == 1
    error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        slots.can_varlen(model)


# ---------------------------------------------------------------------------------------- which card, which type


def test_the_card_that_is_named_becomes_the_current_one(a_card, capsys):
    assert pick_device("auto") == torch.device("cuda") and a_card == []  # the first one is current already
    assert [pick_device("cuda:1")] == a_card == [torch.device("cuda:1")]
    assert "has 2 CUDA devices, counted from cuda:0" in refusal(capsys, lambda: pick_device("cuda:2"))


def test_a_card_that_torch_cannot_use_is_named_where_auto_takes_the_cpu(monkeypatch, capsys):
    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    monkeypatch.setattr(policy.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert pick_device("auto").type == "cpu"
    said = capsys.readouterr().err
    assert "driver on your system is too old" in said and "on the CPU" in said and said.count("\n") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    files.note.cache_clear()
    assert pick_device("auto").type == "cpu" and not capsys.readouterr().err


CAPABILITIES = [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)]


@pytest.mark.parametrize("capability, dtype", CAPABILITIES)
def test_auto_takes_the_type_that_the_card_computes_in(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_dtype("auto", torch.device("cuda")) == dtype
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("float16", torch.device("cpu")) == torch.float16


def test_expandable_segments_are_set_but_on_wsl2(monkeypatch, tmp_path):
    name, version = "PYTORCH_CUDA_ALLOC_CONF", tmp_path / "version"
    wsl2, plain = "Linux version 5.15-microsoft-standard-WSL2", "Linux version 6.8.0-generic"
    for text, want in ((wsl2, None), (plain, "expandable_segments:True")):
        monkeypatch.delenv(name, raising=False)
        version.write_text(text)
        set_allocator(version)
        assert os.environ.get(name) == want
    monkeypatch.setenv(name, "mine")
    set_allocator(version)
    assert os.environ[name] == "mine"


# ---------------------------------------------------------------------------------------- float16


def half_policy(tiny, load_4bit):
    return with_lora(tiny, load_4bit=load_4bit, dtype="float16")[0]


def items(advantage):
    rollouts = [Rollout(p, [5, 9, 200, 31], torch.full((4,), -5.0), True, "") for p in PROMPTS[:2]]
    return [Item(r, a) for r, a in zip(rollouts, (advantage, -advantage))]


def flat_gradient(policy, advantage=1.0):
    """The LoRA's gradient of two rollouts in a batch of a million tokens."""
    add_gradient(policy, items(advantage), 1_000_000, Config(beta=0.0), 4096)
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])


@pytest.mark.parametrize("load_4bit", [True, False])
def test_in_float16_the_base_computes_in_it_and_lora_and_log_probs_in_float32(tiny, load_4bit):
    trained = half_policy(tiny, load_4bit)
    assert {p.dtype for p in trained.parameters() if p.requires_grad} == {torch.float32}
    layer = trained.get_base_model().model.layers[0].mlp.up_proj.base_layer
    assert (layer.compute_dtype if load_4bit else layer.weight.dtype) == torch.float16
    ids = torch.tensor([PROMPTS[1]])
    logp = token_logp(trained, ids, torch.ones_like(ids, dtype=torch.bool), 1.0, 512)
    assert logp.dtype == torch.float32 and logp.isfinite().all()
    sampler = Sampler(trained, load_policy(Options(model=tiny))[1], Options(model=tiny, dtype="float16"))
    assert sampler.model.dtype == torch.float16  # and the comparison of both has passed


def test_a_gradient_in_float16_is_that_of_float32_however_large_the_batch(tiny):
    exact = flat_gradient(with_lora(tiny, load_4bit=False)[0])
    half = flat_gradient(half_policy(tiny, False))
    assert half.dtype == torch.float32 and torch.cosine_similarity(half, exact, 0) > 0.999
    assert abs(half.norm() / exact.norm() - 1) < 0.01


def test_a_gradient_that_overflows_float16_begins_again_smaller(tiny):
    half, seen = half_policy(tiny, False), []

    def watch(module, inputs, out):
        out.register_hook(lambda gradient: seen.append(bool(gradient.isfinite().all())))

    half.get_base_model().model.layers[0].register_forward_hook(watch)
    small = flat_gradient(half)
    assert all(seen)
    large = flat_gradient(half, advantage=1e5)
    assert not all(seen) and seen[-1]  # it did overflow, and then it did not
    assert large.isfinite().all() and torch.cosine_similarity(small, large, 0) > 0.999
    assert abs(large.norm() / small.norm() / 1e5 - 1) < 0.01


def test_log_probs_that_overflow_float16_stop_with_the_type_to_take(tiny):
    model, tokenizer = load_policy(Options(model=tiny, load_4bit=False, dtype="float16", device="cpu"))
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.mul_(1e6)
    with pytest.raises(files.OptionError, match="--dtype float32"):
        sampled(model, tokenizer, PROMPTS, cap=4)


def test_an_adapter_goes_between_float16_and_other_types(tiny, tmp_path, capsys):
    half, full = half_policy(tiny, False), load_policy(Options(model=tiny, device="cpu"))[0]
    for made, used in ((half, full), (full, half)):
        (tmp_path / "nanoprune.json").write_text(f'{{"base": "tiny", "base_fingerprint": "{fingerprint(made)}"}}')
        check_base(str(tmp_path), used, "tiny")
        assert "not checked" in capsys.readouterr().err
        files.note.cache_clear()
    other = half_policy(make_r1_standin(tmp_path / "r1"), False)
    (tmp_path / "nanoprune.json").write_text(f'{{"base": "tiny", "base_fingerprint": "{fingerprint(half)}"}}')
    assert "not those of" in refusal(capsys, lambda: check_base(str(tmp_path), other, "r1"))


# ---------------------------------------------------------------------------------------- on a card


@on_a_card
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_card_graphs_decode_what_eager_steps_do(monkeypatch, dtype):
    model, captures = random_model("qwen2").to("cuda", dtype), []
    plain = torch.cuda.graph
    monkeypatch.setattr(torch.cuda, "graph", lambda *a, **k: (captures.append(1), plain(*a, **k))[1])
    eager, replayed = both_ways(model, 21, 1.0, 1.0)
    alike = sum(a.ids == b.ids for a, b in zip(eager, replayed)) / len(eager)
    # Bands give masked attention other shapes, and rounding turns a token now and then.
    assert alike >= (0.9 if slots.can_varlen(model) or dtype == torch.float32 else 0.5) and len(captures) > 1


@on_a_card
def test_on_a_card_live_four_bit_weights_are_decoded_in_graphs_that_are_kept(tiny, capsys):
    policy, tokenizer = with_lora(tiny, dtype="bfloat16", device="cuda")
    if not slots.can_varlen(policy.get_base_model()):
        pytest.skip("no varlen attention on this card")
    how = dict(cap=CAPS, rows=9, seed=3, end_ids=[7])
    graph, eager = (sampled(policy, tokenizer, PROMPTS, 8, decode=decode, **how) for decode in ("auto", "eager"))
    assert "without CUDA graphs" not in capsys.readouterr().err
    assert sum(a.ids == b.ids for a, b in zip(graph, eager)) > 20


@on_a_card
@pytest.mark.parametrize("top_p", [0.95, 1.0])
def test_on_a_card_draws_are_those_of_a_cpu(top_p):
    logits = 3 * torch.randn(64, 151936, generator=torch.Generator().manual_seed(0))
    weight, u = (2 * logits).softmax(-1), torch.rand(64, 1, generator=torch.Generator().manual_seed(1))
    pick = draw.draw if top_p == 1 else lambda *a: draw.draw_nucleus(*a, top_p, every=True)[0]
    alike = (pick(weight, u) == pick(weight.cuda(), u.cuda()).cpu()).sum()
    assert alike == 64 if top_p == 1 else alike > 60  # what is in the nucleus is added up in float32 there


@on_a_card
def test_on_a_card_a_capture_that_fails_leaves_the_default_stream(capsys):
    counter = torch.zeros(1, device="cuda")

    def step(n):
        counter.add_(torch.ones(2**26, device="cuda").max())                     # 256 MiB
        counter.item()  # the host waits: no graph can hold that

    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    run, before = graphs.graphed(step, 4, counter.device, [counter]), torch.cuda.current_stream()
    run(4), run(4)
    assert counter.item() == 2 and torch.cuda.current_stream() == before
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < held + 2**26  # that of the capture can be used again
    assert "without CUDA graphs" in capsys.readouterr().err


@on_a_card
def test_on_a_card_a_captured_step_never_waits_for_the_host(monkeypatch):
    plain = sample.Rows.step

    def strict(self, n):
        torch.cuda.set_sync_debug_mode("error")
        try:
            plain(self, n)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(sample.Rows, "step", strict)
    model = random_model("qwen2")
    for dtype in (torch.bfloat16, torch.float32):  # varlen and masked attention
        assert sampled(model.to("cuda", dtype), Tok(), PROMPTS, 2, cap=9, rows=4, end_ids=[7], decode="graph")


@on_a_card
def test_on_a_card_the_operator_below_varlen_attn_gives_the_same(monkeypatch):
    model = random_model("qwen2").to("cuda", torch.bfloat16)
    if not slots.can_varlen(model):
        pytest.skip("no varlen attention on this card")
    want = sampled(model, Tok(), PROMPTS, 4, cap=20, rows=9, end_ids=[7], temperature=0)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", lambda query, key: None)  # an older torch's
    assert same(want, sampled(model, Tok(), PROMPTS, 4, cap=20, rows=9, end_ids=[7], temperature=0))


@on_a_card
def test_on_a_card_a_gradient_in_float16_is_that_of_float32(tiny):
    exact = flat_gradient(with_lora(tiny, load_4bit=False)[0])
    half = flat_gradient(half_policy(tiny, False).cuda()).cpu()
    assert torch.cosine_similarity(half, exact, 0) > 0.999


@on_a_card
def test_on_a_card_an_ordinal_that_is_not_there_is_one_line(capsys):
    assert "counted from cuda:0" in refusal(capsys, lambda: pick_device(f"cuda:{torch.cuda.device_count()}"))
