"""Rollouts, loading and prompts. Run: python -m pytest tests/test_sample.py"""
import doctest
import json
import random

import pytest
import torch
import torch.nn.attention.varlen
import transformers

import sample
from conftest import sampled
from engine import policy, rows, slots, supported
from engine.files import Options
from engine.policy import (
    fingerprint, full_weight, load_policy, load_tokenizer, load_trainable, merged_copy, pick_device, refresh_copy
)
from engine.draw import pick_token
from sample import load_problems
from standin import make_r1_standin, make_tiny, with_lora


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model", hidden=128, layers=2)


@pytest.fixture(scope="module")
def model(tiny):
    """A 32-bit model whose next token is not a coin toss (random weights are nearly uniform)."""
    model, tokenizer = load_policy(Options(model=tiny, load_4bit=False, device="cpu"))
    for p in model.parameters():
        p.data.mul_(3 if p.dim() > 1 else 1)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def prompts():
    rng = random.Random(0)
    return [[rng.randrange(300) for _ in range(n)] for n in (5, 70, 1, 33, 9)]


def plain_logp(model, rollout, temperature=1.0):
    ids = torch.tensor([rollout.prompt_ids + rollout.ids])
    with torch.no_grad():
        logp = (model(input_ids=ids).logits[0].float() / temperature).log_softmax(-1)
    start = len(rollout.prompt_ids)
    return logp[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]


def test_doctests():
    assert sum(doctest.testmod(module).failed for module in (sample, policy, rows, slots, supported)) == 0


def test_greedy_rollouts_are_those_of_generate(model, prompts):
    model, tokenizer = model
    ours = sampled(model, tokenizer, prompts, 2, cap=40, temperature=0, rows=3)
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, pad_token_id=0)
        assert ours[2 * i].ids == ours[2 * i + 1].ids == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.6, 0.95)])
def test_logp_of_sampled_tokens_is_that_of_a_plain_forward(model, prompts, temperature, top_p):
    model, tokenizer = model
    for rollout in sampled(model, tokenizer, prompts, 2, cap=30, temperature=temperature, top_p=top_p, rows=4):
        assert (rollout.logp - plain_logp(model, rollout, temperature)).abs().max() < 1e-5


def test_the_number_of_rows_changes_no_answer(model, prompts):
    model, tokenizer = model
    answers = [[r.ids for r in sampled(model, tokenizer, prompts, 3, cap=30, rows=n, seed=7)] for n in (1, 4, 99)]
    assert answers[0] == answers[1] == answers[2]


def ragged_attention(query, key, value, starts_q, starts_k, max_q, max_k, *, scale, enable_gqa, seqused_k):
    """What varlen_attn says it does, row by row: the CPU has no kernel for it."""
    assert enable_gqa and max_q == 1 and starts_q.tolist() == list(range(len(query) + 1))
    assert key.is_contiguous() and value.is_contiguous() and int(starts_k[1]) == max_k
    out = []
    for q, start, n in zip(query, starts_k.tolist(), seqused_k.tolist()):
        k, v = key[start : start + n], value[start : start + n]                  # (n, KV heads, dim)
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (k, v))
        weight = (torch.einsum("hd,nhd->hn", q, k) * scale).softmax(-1)
        out.append(torch.einsum("hn,nhd->hd", weight, v))
    return torch.stack(out)


@pytest.mark.parametrize("how", ["bands", "padded rows as in a graph", "varlen"])
def test_every_way_to_decode_gives_the_same_answers(model, prompts, monkeypatch, how):
    model, tokenizer = model
    want = [sampled(model, tokenizer, prompts, 16, cap=[n % 37 + 1 for n in range(80)], rows=1, seed=3)]
    if how == "varlen":
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", ragged_attention)
        monkeypatch.setattr(rows, "can_varlen", lambda model: True)
    for decode, size in (("eager", 21),) if how == "bands" else (("graph", 21), ("graph", 80)):
        got = sampled(
            model, tokenizer, prompts, 16, cap=[n % 37 + 1 for n in range(80)], rows=size, seed=3, decode=decode
        )
        assert [r.ids for r in got] == [r.ids for r in want[0]]
        assert all(torch.allclose(a.logp, b.logp, atol=1e-5) for a, b in zip(got, want[0]))


def random_model(kind: str, **more):
    """A small decoder of another family, its next token not a coin toss."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.AutoConfig.for_model(kind, num_key_value_heads=2, max_position_embeddings=512, **sizes, **more)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for p in model.parameters():
        p.data.mul_(5 if p.dim() > 1 else torch.rand(p.shape) + 0.5)             # norms that are not 1
    return model


YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind, more", [("qwen2", {}), ("llama", {}), ("llama", {"rope_parameters": YARN}), ("qwen3", {"head_dim": 32})]
)
def test_the_unrolled_layers_are_the_models_own_forward_to_the_last_bit(
    model, prompts, monkeypatch, kind, more, dtype
):
    other, (_, tokenizer) = random_model(kind, **more).to(dtype), model
    assert slots.can_unroll(other)
    unrolled = sampled(other, tokenizer, prompts, 4, cap=30, rows=9, end_ids=[7])
    monkeypatch.setattr(rows, "can_unroll", lambda model: False)
    whole = sampled(other, tokenizer, prompts, 4, cap=30, rows=9, end_ids=[7])
    assert [r.ids for r in unrolled] == [r.ids for r in whole]
    assert all(torch.equal(a.logp, b.logp) for a, b in zip(unrolled, whole))


@pytest.mark.parametrize(
    "kind, more",
    [("mistral", {}), ("llama", {"rope_parameters": DYNAMIC}), ("phi3", {"pad_token_id": 0}), ("smollm3", {"pad_token_id": 0})],
)
def test_layers_of_another_kind_are_not_unrolled(model, prompts, kind, more):
    other, (_, tokenizer) = random_model(kind, **more), model
    assert not slots.can_unroll(other)
    for rollout in sampled(other, tokenizer, prompts, 2, cap=30, rows=4, end_ids=[7]):
        assert (rollout.logp - plain_logp(other, rollout)).abs().max() < 1e-5


def test_rows_that_ended_are_not_read_or_written(model, prompts, monkeypatch):
    """In 16 rows two are left at the end: the padded step may run more rows, but only these go on."""
    model, tokenizer = model
    alive = []
    plain = slots.SlotCache.open
    monkeypatch.setattr(slots.SlotCache, "open", lambda self, n: (alive.append((n, self.length.tolist())), plain(self, n))[1])
    sampled(model, tokenizer, prompts[:1], 16, cap=[2] * 14 + [30] * 2, rows=16, decode="graph", end_ids=[-1])
    assert alive[-1][0] == 2 and alive[-1][1][2:] == [0] * 14


def test_attention_and_mode_of_the_model_are_given_back_also_after_an_error(model, prompts):
    model, tokenizer = model
    before = model.config._attn_implementation
    model.train()
    with pytest.raises(ZeroDivisionError):
        sampled(model, tokenizer, prompts, cap=5, on_token=lambda *_: 1 / 0)
    assert model.config._attn_implementation == before and model.training
    model.eval()


def test_what_does_not_fit_a_sliding_window_is_refused(model, prompts):
    other, (_, tokenizer) = random_model("mistral", sliding_window=75), model
    assert sampled(other, tokenizer, prompts, cap=5)  # 70 + 5 tokens
    with pytest.raises(ValueError, match="sliding window of 75"):
        sampled(other, tokenizer, prompts, cap=6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("decode", ["graph", "eager"])
def test_on_cuda_graph_and_eager_decode_what_the_cpu_does(tiny, prompts, decode):
    model, tokenizer = load_policy(Options(model=tiny, load_4bit=False, device="cpu"))
    want = sampled(model, tokenizer, prompts, 4, cap=30, temperature=0, rows=9)
    got = sampled(model.cuda(), tokenizer, prompts, 4, cap=30, temperature=0, rows=9, decode=decode)
    assert [r.ids for r in got] == [r.ids for r in want]


def test_seed_and_sample_change_the_answer(model, prompts):
    model, tokenizer = model
    a, b = (sampled(model, tokenizer, prompts[:1], 2, cap=30, seed=seed) for seed in (1, 2))
    assert a[0].ids != b[0].ids and a[0].ids != a[1].ids


def test_cap_is_strict_and_finished_means_the_end_token(model, prompts):
    model, tokenizer = model
    caps = [1, 2, 3, 10, 30] * 8
    rollouts = sampled(model, tokenizer, prompts, 8, cap=caps, rows=7, end_ids=list(range(0, 400, 40)))
    assert any(r.finished for r in rollouts) and not all(r.finished for r in rollouts)
    for rollout, cap in zip(rollouts, caps):
        assert 1 <= len(rollout.ids) <= cap
        assert rollout.finished == (rollout.ids[-1] % 40 == 0)
        assert all(t % 40 for t in rollout.ids[:-1])  # nothing comes after an end token
        assert rollout.finished or len(rollout.ids) == cap


def test_an_end_token_that_never_comes_stops_at_the_cap(model, prompts):
    model, tokenizer = model
    rollouts = sampled(model, tokenizer, prompts, cap=12, end_ids=[319_000])
    assert [(len(r.ids), r.finished) for r in rollouts] == [(12, False)] * len(prompts)


@pytest.mark.parametrize(
    "bad", [{"samples": 0}, {"cap": 0}, {"cap": 5000}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"cap": [1]}]
)
def test_options_out_of_range_are_refused(model, prompts, bad):
    model, tokenizer = model
    with pytest.raises(ValueError):
        sampled(model, tokenizer, prompts, **{"cap": 5, **bad})


def test_no_prompts_give_no_rollouts_and_an_empty_prompt_is_refused(model):
    model, tokenizer = model
    assert sampled(model, tokenizer, [], cap=5) == []
    with pytest.raises(ValueError, match="empty"):
        sampled(model, tokenizer, [[1, 2], []], cap=5)


def test_pick_token_draws_from_the_softmax():
    logits = torch.tensor([[1.0, 0.0, 2.0, -torch.inf]]).expand(20_000, 4)
    u = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0))
    token, logp, _ = pick_token(logits, u, temperature=0.5, top_p=1.0)
    share = torch.bincount(token, minlength=4) / 20_000
    wanted = (logits[0] / 0.5).softmax(-1)
    assert (share - wanted).abs().max() < 0.015 and share[3] == 0
    assert torch.allclose(logp, wanted.log()[token])


def test_top_p_keeps_the_smallest_set_and_logp_stays_that_of_the_full_softmax():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, 4)
    u = torch.linspace(0, 1 - 2**-20, 2000)[:, None]
    token, logp, _ = pick_token(logits, u, temperature=1.0, top_p=0.7)
    assert set(token.tolist()) == {0, 1}  # 0.5 alone is not 0.7; 0.5 + 0.3 is
    assert abs((token == 0).float().mean().item() - 0.625) < 0.01
    assert torch.allclose(logp.exp(), torch.tensor([0.5, 0.3])[token], atol=1e-6)


@pytest.mark.parametrize("load_4bit", [True, False])
def test_merged_copy_agrees_with_the_policy_and_follows_it_in_place(r1, load_4bit):
    policy, tokenizer = with_lora(r1, load_4bit=load_4bit)
    clone, at = merged_copy(policy), []
    for change in (0.0, 0.05):
        for name, p in policy.named_parameters():
            if "lora_A" in name:
                p.data += change
        refresh_copy(clone, policy)
        rollouts = sampled(clone, tokenizer, [[3, 4, 5], [6]], 2, cap=20)
        for rollout in rollouts:
            assert (rollout.logp - plain_logp(policy, rollout)).abs().max() < 1e-4
        at.append([p.data_ptr() for p in clone.parameters()])
    assert at[0] == at[1]


def test_a_lora_of_a_tenth_of_a_rounding_step_reaches_a_copy_in_16_bits(r1):
    policy, _ = load_trainable(Options(model=r1, device="cpu", dtype="bfloat16"), "", "", 8, 16)
    layer = policy.get_base_model().model.layers[0].mlp.up_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight, std=1e-5)
    copied = merged_copy(policy).model.layers[0].mlp.up_proj.weight
    delta = layer.get_delta_weight("default").float()
    with policy.disable_adapter():
        arrived = copied.float() - full_weight(layer).bfloat16().float()
    assert copied.dtype == torch.bfloat16 and delta.abs().max() < 1e-4
    assert 0.8 < (arrived * delta).sum() / (delta * delta).sum() < 1.2


def test_live_weights_give_the_same_rollouts_as_the_merged_copy(r1):
    policy, tokenizer = with_lora(r1)
    arguments = dict(prompts=[[3, 4, 5], [6]], samples=2, cap=20)
    live = sampled(policy.get_base_model(), tokenizer, **arguments)
    merged = sampled(merged_copy(policy), tokenizer, **arguments)
    assert [r.ids for r in live] == [r.ids for r in merged]
    assert policy.training  # decoding leaves the mode as it was


def test_eval_mode_never_repacks_the_4bit_weights(r1):
    """bitsandbytes on AVX512-BF16 CPUs would: `dequantize_4bit` then silently returns garbage."""
    policy, _ = with_lora(r1)
    layer = policy.get_base_model().model.layers[0].mlp.up_proj
    before = full_weight(layer)
    with torch.no_grad():
        policy.eval()(input_ids=torch.tensor([[1, 2, 3]]))
    assert torch.equal(full_weight(layer), before)


def test_fingerprint_is_the_same_in_4_and_32_bits_and_tells_models_apart(r1, tiny):
    prints = [fingerprint(load_policy(Options(model=m, load_4bit=b))[0]) for m, b in ((r1, True), (r1, False), (tiny, True))]
    assert prints[0] == prints[1] != prints[2]


def test_adapter_of_another_base_is_refused(r1, tiny, tmp_path, capsys):
    policy, _ = with_lora(r1)
    policy.save_pretrained(tmp_path)
    (tmp_path / "nanoprune.json").write_text(json.dumps({"base": "r1", "base_fingerprint": fingerprint(policy)}))
    load_policy(Options(model=r1), str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        load_policy(Options(model=tiny), str(tmp_path))
    assert stop.value.code == 2 and "was trained on r1" in capsys.readouterr().err
    (tmp_path / "nanoprune.json").unlink()  # an adapter of other makers: its shapes still tell
    with pytest.raises(SystemExit) as stop:
        load_policy(Options(model=make_tiny(tmp_path / "narrow", hidden=64)), str(tmp_path))
    assert stop.value.code == 2 and "does not fit" in capsys.readouterr().err


def test_prompt_names_the_cap_and_the_template_opens_the_thinking(r1, tiny):
    text = sample.build_prompt(load_tokenizer(r1), "What is 3^5?", 1234)
    assert sample.SYSTEM.replace("{cap}", "1234") in text and f"What is 3^5?\n{sample.INSTRUCTION}" in text and text.endswith("<think>\n")
    assert text.count("<｜begin▁of▁sentence｜>") == 1
    ids = sample.encode_prompts(load_tokenizer(r1), ["x"], 9)[1][0]
    assert ids.count(load_tokenizer(r1).bos_token_id) == 1
    assert "<think>\n" not in sample.build_prompt(load_tokenizer(tiny), "x", 9)[-10:]


def test_tokenizer_without_template_or_end_token_is_refused(tiny, tmp_path, capsys):
    for missing, word in (("chat_template", "chat template"), ("eos_token", "end token")):
        tokenizer = load_tokenizer(tiny)
        setattr(tokenizer, missing, None)
        tokenizer.save_pretrained(tmp_path / missing)
        with pytest.raises(SystemExit):
            load_tokenizer(str(tmp_path / missing))
        assert word in capsys.readouterr().err


def test_problem_rows_are_read_as_strings_and_keep_extra_columns(tmp_path):
    path = tmp_path / "a b.jsonl"
    path.write_text('{"question": "1+1?", "answer": 2, "level": 3}\n{"question": "2+2?", "answer": 4, "level": 1}\n')
    rows = load_problems(str(path), problem_key="question")
    assert [(r["id"], r["problem"], r["answer"], r["level"]) for r in rows] == [("1", "1+1?", "2", 3), ("2", "2+2?", "4", 1)]


@pytest.mark.parametrize(
    "content, word",
    [
        ('{"problem": "a", "answer": "1"}\n{"problem": "b", "answer": null}\n', "line 2: no answer"),
        ('{"problem": "a", "answer": "1"}\n{"problem": " ", "answer": "1"}\n', "line 2: no problem"),
        ('{"problem": "a"}\n', "no column 'answer'"),
        ("", "is empty"),
        ("this is no json\n", "not JSON lines"),
        (None, "does not exist"),
    ],
)
def test_a_bad_problem_file_stops_with_one_line_that_names_it(tmp_path, capsys, content, word):
    path = tmp_path / "p.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as stop:
        load_problems(str(path))
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and word in error and str(path) in error and len(error.splitlines()) == 1


def test_a_hub_id_without_network_is_one_clear_line(monkeypatch, capsys):
    import datasets

    def no_network(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'some/set' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(SystemExit) as stop:
        load_problems("some/set:test")
    assert stop.value.code == 2 and "some/set" in capsys.readouterr().err


def test_missing_model_adapter_and_device_are_named(r1, capsys):
    for options, adapter, word in (
        (Options(model="./nowhere"), "", "--model ./nowhere"),
        (Options(model=r1), "./nowhere", "adapter folder ./nowhere"),
        (Options(model=r1, device="abacus"), "", "--device abacus"),
    ):
        with pytest.raises(SystemExit) as stop:
            load_policy(options, adapter)
        assert stop.value.code == 2 and word in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_one_clear_line(capsys):
    with pytest.raises(SystemExit):
        pick_device("cuda")
    assert "no CUDA device" in capsys.readouterr().err


def test_command_writes_a_rollout_file_and_streams_one_problem(r1, tmp_path, capsys):
    data, out = tmp_path / "p.jsonl", tmp_path / "r.jsonl"
    data.write_text('{"id": "x", "problem": "1+1?", "answer": "2"}\n')
    cfg = sample.Config(model=r1, data=str(data), samples=3, cap=16, out=str(out))
    sample.main(cfg)
    rows = [json.loads(line) for line in out.open(encoding="utf-8")]
    assert [(r["id"], r["sample"], r["gold"]) for r in rows] == [("x", 0, "2"), ("x", 1, "2"), ("x", 2, "2")]
    assert list(rows[0]) == "id sample problem gold prompt response n_tokens finished mean_logp answer correct reward".split()
    with pytest.raises(SystemExit):
        sample.main(cfg)  # never written over
    capsys.readouterr()
    sample.main(sample.Config(model=r1, problem="1+1?", cap=16, seed=3))
    assert "tokens," in capsys.readouterr().out
