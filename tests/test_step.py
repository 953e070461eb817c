"""One step of the decode loop: its operations, the token it draws. Run: python -m pytest tests/test_step.py"""
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import engine.rows
from conftest import sampled
from dev.bench_models import random_model, word_tokenizer
from engine.logits import ONEDNN, multiply
from engine.policy import merged_copy
from engine.rows import Requests, Rows
from engine import draw as drawing
from engine.draw import draw, draw_in_blocks, draw_nucleus
from engine.slots import Prefill, packs
from standin import make_r1_standin, with_lora


class Counter(TorchDispatchMode):
    """Counts what torch is asked to do inside, views as well."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("top_p, most", [(1.0, 212), (0.95, 236)])
def test_a_step_of_two_rows_of_the_1m_model_takes_few_operations(top_p, most):
    """It was 266 and 272 before layers were joined and keys and values stored as one."""
    model, prompts = random_model("1M", torch.device("cpu")), [[5] * 20, [6] * 20]
    requests = Requests(prompts, 1, [9, 9], 1.0, top_p, 0, "", None)
    with torch.no_grad():
        rows, prefill = Rows(model, 2, requests, [-1]), Prefill(model, prompts)
        for k in range(2):
            rows.admit(k, k, requests, prefill)
        rows.arrange(by_band=True)
        with Counter() as counter:
            rows.step(2)
    assert counter.operations <= most


def test_joined_layers_store_no_weight_twice(tmp_path):
    policy, tokenizer = with_lora(make_r1_standin(tmp_path / "model"))
    copied = merged_copy(policy)
    sampled(copied, tokenizer, [[3, 4, 5]], cap=3)
    layer = copied.model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    for group in ([attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]):
        stores = {part.weight.untyped_storage().data_ptr(): part.weight.untyped_storage() for part in group}
        assert [s.nbytes() for s in stores.values()] == [sum(part.weight.nbytes for part in group)]


def test_joined_layers_survive_a_move_of_the_model():
    """`.to` gives each weight a storage of its own again."""
    model, tokenizer = random_model("tiny", torch.device("cpu")), word_tokenizer(64)
    first = sampled(model, tokenizer, [[3, 4, 5]], cap=9)[0]
    model.to(torch.float64).to(torch.float32)
    for p in model.model.layers.parameters():
        p.data.mul_(2)
    second = sampled(model, tokenizer, [[3, 4, 5]], cap=9)[0]
    ids = torch.tensor([second.prompt_ids + second.ids])
    logp = model(input_ids=ids).logits[0, 2:-1].log_softmax(-1).gather(1, ids[0, 3:, None])[:, 0]
    assert torch.allclose(second.logp, logp, atol=1e-5) and not torch.equal(first.logp, second.logp)


# ---------------------------------------------------------------------------------------- the token


def by_full_sort(weight: torch.Tensor, u: torch.Tensor, top_p: float) -> torch.Tensor:
    """The plain way: sort all, cut, add up all."""
    if top_p < 1:
        ordered, order = weight.sort(dim=-1, descending=True, stable=True)
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        weight = torch.zeros_like(weight).scatter(1, order, ordered)
    cdf = weight.cumsum(-1)
    return torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=weight.shape[1] - 1)


LOGITS = {
    "flat": lambda x: 0 * x,
    "nearly flat": lambda x: x / 100,
    "normal 2": lambda x: 2 * x,
    "normal 3": lambda x: 3 * x,
    "normal 6": lambda x: 6 * x,
    "peaked": lambda x: torch.where(x > x.topk(30).values[:, -1:], 20 + 2 * x, 2 * x),  # a real model's, most often
    "rounded": lambda x: (3 * x).bfloat16().float(),  # a card's logits: many equal ones
    "ties": lambda x: (3 * x).round(),
    "few": lambda x: torch.where(x > x.topk(3, sorted=True).values[:, -1:], x, -torch.inf),
}


def weights_and_draws(kind: str, vocab: int, rows: int, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, vocab) probabilities and (rows, draws) numbers in [0, 1)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, vocab, generator=generator)
    u = torch.rand(rows, draws, generator=generator).clamp(max=1 - 2**-20)
    return LOGITS[kind](x).softmax(-1), u


@pytest.mark.parametrize("vocab", [500, 151936])
@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("card", [False, True])
def test_ten_thousand_draws_are_those_of_a_full_sort(monkeypatch, card, kind, vocab, top_p):
    monkeypatch.setattr(drawing, "on_cuda", lambda tensor: card)
    weight, u = weights_and_draws(kind, vocab, 2, 5000)
    ours, sure = draw_nucleus(weight, u, top_p) if top_p < 1 else (draw(weight, u), None)
    if sure is not None and not sure.all():  # a card says so, and the step is made again
        assert vocab > drawing.MANY and kind not in ("peaked", "few")
        ours = draw_nucleus(weight, u, top_p, every=True)[0]
    assert torch.equal(ours, by_full_sort(weight, u, top_p))


def test_a_draw_on_the_edge_of_a_block_gives_no_token_of_weight_0():
    weight = torch.rand(1, 6400, generator=torch.Generator().manual_seed(0))
    weight.view(-1, 100)[:, 50:] = 0                                             # each block ends in such tokens
    edges = weight.view(-1, 100).sum(-1).cumsum(-1)[:-1] / weight.sum()
    u = (edges[:, None] + torch.arange(-8, 9) * 2.0**-25).view(-1, 1)
    token = draw_in_blocks(weight.expand(len(u), -1).contiguous(), u, 100)
    assert (weight[0, token] > 0).all()


# ---------------------------------------------------------------------------------------- larger models on a CPU


@pytest.mark.parametrize("n", [1, 2, 5, 6, 40])
@pytest.mark.parametrize("shape", [(1024, 256), (256, 1024)])
def test_few_rows_are_multiplied_to_the_same_result(n, shape):
    x, weight, bias = torch.randn(n, shape[1]), torch.randn(shape) / 16, torch.randn(shape[0])
    for more in ((), (bias,)):
        with torch.no_grad():
            ours = multiply(x, weight, *more)
        assert ours.is_contiguous() and torch.allclose(ours, F.linear(x, weight, *more), atol=1e-5)


def test_a_large_head_has_a_gradient():
    x, weight = torch.randn(8, 256, requires_grad=True), torch.randn(1024, 256)
    multiply(x, weight).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand(8, -1), atol=1e-4)


@pytest.mark.parametrize("packed", [True, False])
def test_a_model_with_large_weights_is_decoded_as_its_own_forward_computes_it(monkeypatch, packed):
    """Twice, the second time with other weights: a packed copy must not outlive its call."""
    monkeypatch.setattr(engine.rows, "packs", lambda model: packed and ONEDNN)
    model, tokenizer = random_model("5M", torch.device("cpu")), word_tokenizer(2048)
    for _ in range(2):
        for rollout in sampled(model, tokenizer, [[3, 4, 5], [6, 7, 8]], samples=4, cap=9):
            ids = torch.tensor([rollout.prompt_ids + rollout.ids])
            logp = model(input_ids=ids).logits[0, 2:-1].log_softmax(-1).gather(1, ids[0, 3:, None])[:, 0]
            assert torch.allclose(rollout.logp, logp, atol=1e-5)
        for p in model.model.layers.parameters():
            p.data.mul_(1.5)


def test_only_float32_weights_are_packed():
    model = random_model("tiny", torch.device("cpu"))
    assert packs(model) == ONEDNN and not packs(model.bfloat16())


def test_prompts_of_like_length_are_run_together_and_give_the_same_keys_and_values(monkeypatch):
    model, forwards = random_model("tiny", torch.device("cpu")), []
    prompts = [[3 + (7 * k + i) % 60 for i in range(n)] for k, n in enumerate([1, 90, 40, 88, 41, 1, 300])]
    plain = Prefill.forward
    monkeypatch.setattr(Prefill, "forward", lambda self, p: (forwards.append([len(x) for x in p]), plain(self, p))[1])
    with torch.no_grad():
        prefill = Prefill(model, prompts)
        for i, prompt in enumerate(prompts):
            alone = next(plain(prefill, [prompt[:-1]]), [])
            assert len(prompt) == 1 or len(prefill[i]) == len(alone) == 1        # layer
            for ours, theirs in zip(prefill[i], alone):
                for a, b in zip(ours, theirs):
                    assert torch.allclose(a[:, : len(prompt) - 1], b, atol=1e-5)
    assert forwards == [[299], [89, 87, 40, 39, 0], [0]]
