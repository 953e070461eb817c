"""The GRPO round: formulas, gradient, files, resume. Run: python -m pytest tests/test_train.py"""
import csv
import dataclasses
import doctest
import errno
import hashlib
import json
import math
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
import yaml

import grpo
import train_prune
from conftest import ROOT, sampled
from engine import alarms, checkpoints, files, groups, measuring, rows
from engine.checkpoints import Step
from engine.files import Options, lock, parse, write_checksums
from engine.kept import Kept
from engine.memory import micro_batches
from engine.logits import token_logp
from engine.policy import check_adapter, fingerprint, load_policy
from engine.run_folder import RunFolder
from sample import INSTRUCTION, Sampler, load_problems, prompt_texts
from standin import make_r1_standin, make_tiny, with_lora
from grpo import add_gradient, advantages, filtered_advantages, policy_loss, update_policy
from engine.groups import Group, batch_of
from train_prune import Config


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=4096)


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    made = [{"problem": f"What is {i} + {i * i}?", "answer": i + i * i} for i in range(43)]
    for name, rows in (("train", made[:40]), ("val", made[40:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def reference_for(folder, cap, problems=3):
    """An evaluation that every checkpoint reaches: random weights are never right, and 0 would accept none."""
    note = {"cap": cap, "prompt_cap": cap, "temperature": 0.6, "top_p": 0.95, "data": str(folder / "val.jsonl")}
    note |= {"n_problems": problems, "instruction": INSTRUCTION, "pass@1": 1e-12, "mean_tokens": float(cap)}
    path = folder / f"reference_cap{cap}.json"
    path.write_text(json.dumps(note))
    return str(path)


@pytest.fixture
def cfg(r1, problems, tmp_path):
    """A round in seconds. Random weights never answer right, so they are paid for repeating a token."""
    return Config(
        model=r1,
        train_data=str(problems / "train.jsonl"),
        val_data=str(problems / "val.jsonl"),
        reference=reference_for(problems, 48),
        out_dir=str(tmp_path / "round"),
        reward="repetition",
        reward_options={"size": 1, "penalty": 1.0},
        cap=48,
        group=4,
        problems_per_step=3,
        steps=3,
        checkpoint_every=1,
        eval_samples=2,
        reference_samples=2,
        confirm_samples=2,
        eval_cap=48,
        lr=1e-3,
        lora_r=8,
        beta=0.01,
        device="cpu",
    )


def rollouts_of(model, tokenizer, n=6):
    return sampled(model.get_base_model(), tokenizer, [[5, 6, 7], [9] * 12], n // 2, cap=[4, 9, 30] * (n // 3), seed=1)


def gradient_of(model, rollouts, adv, cfg):
    """The gradient that update_policy hands to its optimizer."""
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer = Spy([p for p in model.parameters() if p.requires_grad], lr=0.0)
    figures, tokens = update_policy(model, optimizer, rollouts, adv.tolist(), cfg, cfg.tokens_per_micro_batch)
    return seen, figures | {"tokens": tokens}


def test_doctests():
    assert [doctest.testmod(module).failed for module in (train_prune, grpo, groups)] == [0, 0, 0]


# ---------------------------------------------------------------------------------------- formulas


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    group = advantages(rewards, "group")
    assert torch.allclose(group[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-4)  # std 0.5 with n - 1
    assert (group[1] == 0).all()  # a dead group stays exactly 0
    batch = advantages(rewards, "batch")
    deviation = math.sqrt((0.75**2 + 3 * 0.25**2) / 7)
    assert torch.allclose(batch[0, 0], torch.tensor(0.75 / deviation), atol=1e-4)
    assert advantages(rewards, "center")[0].tolist() == [0.75, -0.25, -0.25, -0.25]


def test_advantages_over_the_shortest_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    lengths = torch.tensor([[10, 20, 30, 40], [40, 30, 20, 20]])  # of equal ones the first
    half = filtered_advantages(rewards, lengths, "group", 2)
    assert torch.allclose(half, torch.tensor([[1, -1, 0, 0], [0, 0, 0, 0]]) * 0.5**0.5, atol=1e-4)  # 0.5 over 0.707
    three = filtered_advantages(rewards, lengths, "batch", 3)
    centred = torch.tensor([[1, -2, 1, 0], [0, 2, -1, -1]]) / 3
    deviation = math.sqrt((2 * 1 + 4 + 4 + 2 * 1) / 9 / 5)  # of the six that are kept
    assert torch.allclose(three, centred / deviation, atol=1e-4)
    assert torch.equal(filtered_advantages(rewards, lengths, "group", 4), advantages(rewards, "group"))
    dense = filtered_advantages(torch.tensor([[1.0, 1.0, 0.5, 0.0]]), torch.tensor([[100, 20, 5, 1]]), "center", 2, "reward_per_token")
    assert dense.tolist() == [[0, 0.25, -0.25, 0]]  # 0.1 and 0.05 a token


def test_the_options_of_a_run_reach_its_advantages():
    group = Group([SimpleNamespace(ids=[1] * n) for n in (9, 5, 7)], [], [1.0, 0.0, 0.0], "")
    adv = lambda **more: train_prune.advantages_of([group], Config(advantage="center", **more)).tolist()  # noqa: E731
    assert adv() == [pytest.approx([2 / 3, -1 / 3, -1 / 3])]
    assert adv(keep_shortest=2) == [[0, 0, 0]] and adv(keep_shortest=2, keep_by="reward_per_token") == [[0.5, -0.5, 0]]


def test_loss_by_hand():
    cfg = Config(beta=0.5, clip_low=0.2, clip_high=0.3, importance_cap=2.0)
    logp = torch.log(torch.tensor([0.5, 0.9, 0.1])).requires_grad_()
    old = torch.log(torch.tensor([0.5, 0.5, 0.5]))  # ratios 1, 1.8, 0.2
    sampler = torch.log(torch.tensor([0.5, 0.25, 0.1]))  # weights 1, 2, 5 -> 2
    ref = torch.log(torch.tensor([0.5, 0.45, 0.2]))
    adv = torch.tensor([1.0, 1.0, -1.0])
    loss, figures = policy_loss(logp, old, sampler, ref, adv, [1, 2], n_tokens=10, cfg=cfg)
    gain = 1 * 1.0 + 2 * 1.3 + 2 * -0.8  # clipped at 1.3, and at 0.8 for the negative advantage
    kl = [0.0, 0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1]
    assert figures["weight_mean"].tolist() == figures["weight_max"].tolist() == pytest.approx([1, 2, 2])
    assert figures["kl"].tolist() == pytest.approx(kl, abs=1e-6)
    assert loss.item() == pytest.approx(-gain / 10 + 0.5 * sum(kl) / 10)
    assert figures["clipped"].tolist() == [False, True, True]
    assert figures["logp_gap"].tolist() == pytest.approx([0, math.log(2), math.log(5)])


def test_kl_pulls_the_policy_back_to_its_reference():
    """The sign that the paper's code had flipped: a descent step must bring logp nearer to ref_logp."""
    for ref in (-3.0, -0.2):
        logp = torch.tensor([-1.0], requires_grad=True)
        loss, *_ = policy_loss(logp, logp.detach(), logp.detach(), torch.tensor([ref]), torch.tensor([0.0]), [1], 1, Config(beta=1.0))
        loss.backward()
        step = -logp.grad.item()
        assert (step > 0) == (ref > -1.0)


def test_first_pass_has_the_reinforce_gradient_whatever_the_clip():
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    adv = torch.tensor([3.0, -1.0])
    loss, *_ = policy_loss(logp, logp.detach(), logp.detach(), None, adv, [2], 2, Config(clip_low=0.0, clip_high=0.0))
    loss.backward()
    assert (-logp.grad * 2).tolist() == pytest.approx(adv.tolist())


def test_micro_batches_hold_everything_once_and_keep_the_budget():
    lengths = [7, 100, 3, 3, 50, 49, 8, 1]
    batches = micro_batches(lengths, budget=100)
    assert sorted(i for b in batches for i in b) == list(range(8))
    assert all(len(b) == 1 or max(lengths[i] for i in b) * len(b) <= 100 for b in batches)


def test_every_problem_comes_once_an_epoch_in_a_new_order():
    epochs = [[i for step in range(a, a + 4) for i in batch_of(step, 12, 3, seed=1)] for a in (1, 5)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12)) and epochs[0] != epochs[1]
    assert sorted(batch_of(1, 2, 5, seed=0)) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])  # fewer problems than a step takes


# ---------------------------------------------------------------------------------------- gradient


def test_only_response_tokens_have_logits_and_they_match_a_plain_forward(r1):
    model, _ = with_lora(r1, std=0.05)
    ids = torch.tensor([[5, 6, 7, 8, 0], [9, 10, 11, 12, 13]])
    on = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 1]]).bool()
    ours = token_logp(model, ids, on, temperature=0.7, chunk=2)
    plain = (model(input_ids=ids).logits.float() / 0.7).log_softmax(-1)
    wanted = torch.stack([plain[b, t - 1, ids[b, t]] for b in range(2) for t in range(5) if on[b, t]])
    assert torch.allclose(ours, wanted, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_splitting_the_batch_changes_nothing(r1, beta):
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts = rollouts_of(model, tokenizer)
    adv = torch.tensor([1.0, -0.5, 0.3, 0.0, 0.0, -2.0])

    whole, split = (
        gradient_of(model, rollouts, adv, Config(beta=beta, tokens_per_micro_batch=n, head_chunk=chunk))
        for n, chunk in ((100_000, 512), (40, 3))
    )
    assert whole[1]["logp_gap_max"] < 1e-4  # the sampler's log-probs are the trainer's
    for name, g in whole[0].items():
        assert torch.allclose(g, split[0][name], atol=1e-6), name
    for key in ("loss", "grad", *(["kl"] if beta else []), "weight_mean", "logp_gap"):
        assert whole[1][key] == pytest.approx(split[1][key], abs=1e-5), key


def test_skipping_dead_rollouts_changes_no_gradient(r1):
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts = rollouts_of(model, tokenizer)
    adv = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    skipped, _ = gradient_of(model, rollouts, adv, Config(beta=0.0))
    computed, _ = gradient_of(model, rollouts, adv + 1e-12, Config(beta=0.0))
    for name, g in skipped.items():
        assert torch.allclose(g, computed[name], atol=1e-7), name


def weights_after(r1, cfg, adv=(1.0, -0.5, 0.3, 0.0, 0.7, -2.0), lr=0.05):
    """The LoRA after update_policy by plain gradient descent, and the figures."""
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts = rollouts_of(model, tokenizer)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    figures, _ = update_policy(model, optimizer, rollouts, list(adv), cfg, 10**6)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, figures


def test_mini_batches_use_each_rollout_once_and_their_ratio_is_to_the_weights_before_the_batch(r1):
    """Two mini-batches of three rollouts: by hand, one update each, the second against the old log-probs of the first."""
    got, figures = weights_after(r1, Config(beta=0.0, updates_per_batch=2, grad_clip=1e9))
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts, adv = rollouts_of(model, tokenizer), [1.0, -0.5, 0.3, 0.0, 0.7, -2.0]

    def logp_of(rollout):
        ids = torch.tensor([rollout.prompt_ids + rollout.ids])
        return token_logp(model, ids, torch.arange(ids.shape[1])[None] >= len(rollout.prompt_ids), 1.0, 512)

    old = [logp_of(rollout).detach() for rollout in rollouts]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for part in (range(3), range(3, 6)):
        n_tokens = sum(len(rollouts[i].ids) for i in part)
        losses = [policy_loss(logp_of(rollouts[i]), old[i], rollouts[i].logp, None, torch.tensor(adv[i]), [len(old[i])], n_tokens, Config())[0] for i in part]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert torch.allclose(p, got[name], atol=1e-6), name
    whole, _ = weights_after(r1, Config(beta=0.0, grad_clip=1e9))
    assert any(not torch.allclose(whole[n], got[n], atol=1e-4) for n in whole) and figures["skipped"] == 0


def test_the_figures_of_a_step_are_the_means_of_its_mini_batches_and_the_largest_of_the_maxima(r1, monkeypatch):
    seen = []
    monkeypatch.setattr(grpo, "add_gradient", lambda *a: seen.append(add_gradient(*a)) or seen[-1])
    _, figures = weights_after(r1, Config(beta=0.0, updates_per_batch=2))
    first, second = seen[1:]  # before them, the log-probs of the whole batch
    for name in ("loss", "logp_gap", "weight_mean"):
        assert figures[name] == pytest.approx((first[name] + second[name]) / 2)
    assert first["loss"] != second["loss"]  # the others may be 0 and 1 to the last bit
    assert figures["logp_gap_max"] == max(first["logp_gap_max"], second["logp_gap_max"])


def test_the_kl_of_a_token_far_away_is_clamped_and_its_largest_value_logged():
    logp = torch.tensor([-1.0, -60.0], requires_grad=True)
    loss, figures = policy_loss(logp, logp.detach(), logp.detach(), torch.tensor([-1.0, -1.0]), torch.zeros(2), [2], 1, Config(beta=1.0))
    assert loss.item() == pytest.approx(10) and figures["kl_max"].max() > 1e8 and torch.isfinite(figures["kl_max"]).all()


def test_only_the_lora_learns_and_the_reference_stays(r1, cfg):
    model, tokenizer = with_lora(r1, std=0.05)
    seen, _ = gradient_of(model, rollouts_of(model, tokenizer), torch.ones(6), Config(beta=0.0))
    assert seen and all("lora_" in name for name in seen)


def test_a_gradient_that_is_no_number_skips_the_update(r1):
    model, tokenizer = with_lora(r1, std=0.05)
    seen, stats = gradient_of(model, rollouts_of(model, tokenizer), torch.full((6,), torch.inf), Config(beta=0.0))
    assert stats["skipped"] == 1 and not seen


def test_all_groups_dead_is_no_update(r1):
    model, tokenizer = with_lora(r1, std=0.05)
    seen, stats = gradient_of(model, rollouts_of(model, tokenizer), torch.zeros(6), Config(beta=0.0))
    assert not seen and stats["grad"] == 0 and stats["loss"] == 0


# ---------------------------------------------------------------------------------------- a round and its files


def adapter_hash(folder):
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def table(folder):
    with open(folder / "log.csv", newline="") as f:
        return [{k: float(v or "nan") for k, v in row.items() if not k.endswith("_s")} for row in csv.DictReader(f)]


def timeless_log(folder):
    """log.csv as text, without its columns of seconds."""
    with open(folder / "log.csv", newline="") as f:
        rows = list(csv.reader(f))
    keep = [i for i, name in enumerate(rows[0]) if not name.endswith("_s")]
    return [[row[i] for i in keep] for row in rows]


def test_a_round_writes_what_the_contract_names_and_the_next_one_goes_on_from_it(cfg, tmp_path, capsys):
    train_prune.main(cfg)
    out = capsys.readouterr().out
    folder = tmp_path / "round"
    assert "of the rollouts ended within the cap of 48" in out
    assert "sampler and trainer log-probs differ by" in out and "round done in" in out
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "log.csv", "log.txt", "selection.json", "selected", "done", "tensorboard", "step0001", "step0003"} <= names
    assert {"adapter_model.safetensors", "adapter_config.json", "nanoprune.json", "eval.json", "samples.md", "optimizer.pt"} <= {
        p.name for p in (folder / "step0003").iterdir()
    }
    rows = table(folder)
    assert [r["step"] for r in rows] == [1, 2, 3] and all(r["logp_gap_max"] < 1e-4 and r["grad"] > 0 for r in rows)
    selection = json.loads((folder / "selection.json").read_text())
    assert [c["step"] for c in selection["checkpoints"]] == [1, 2, 3] and selection["selected"] == str(folder / f"step{selection['step']:04d}")
    assert (folder / "selected").read_text().strip() == selection["selected"]
    # the saved options are a valid --config
    assert parse(Config, args=["--config", str(folder / "config.yaml")]) == dataclasses.replace(cfg, **prompt_texts(cfg))
    # again: done, and nothing is touched
    before = (folder / "log.csv").stat().st_mtime_ns
    train_prune.main(cfg)
    assert "is done" in capsys.readouterr().out and (folder / "log.csv").stat().st_mtime_ns == before
    # the next round starts where this one was selected: KL to its start is 0 before the first update
    second = dataclasses.replace(cfg, cap=40, prompt_cap=48, steps=2, init_adapter=selection["selected"], out_dir=str(tmp_path / "next"))
    train_prune.main(second)
    rows = table(tmp_path / "next")
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[1]["kl"] > 0
    # a cap that does not tighten is refused
    with pytest.raises(SystemExit) as stop:
        train_prune.main(dataclasses.replace(second, cap=48, out_dir=str(tmp_path / "wider")))
    assert stop.value.code == 2 and not (tmp_path / "wider").exists()


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_a_killed_round_resumes_to_the_same_bytes(cfg, tmp_path, monkeypatch, beta):
    cfg = dataclasses.replace(cfg, beta=beta)
    unbroken = dataclasses.replace(cfg, out_dir=str(tmp_path / "unbroken"))
    train_prune.main(unbroken)
    update, calls = train_prune.update_policy, []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(*arguments, **options)

    monkeypatch.setattr(train_prune, "update_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        train_prune.main(cfg)
    monkeypatch.setattr(train_prune, "update_policy", update)
    assert [p.name for p in checkpoints.checkpoints_of(tmp_path / "round")] == ["step0001", "step0002"]
    train_prune.main(cfg)
    assert adapter_hash(tmp_path / "round" / "step0003") == adapter_hash(tmp_path / "unbroken" / "step0003")
    assert timeless_log(tmp_path / "round") == timeless_log(tmp_path / "unbroken")


LIVES = {1: (1, 0, 0), 2: (0, 1, 1), 0: (0, 1, 0)}  # which groups of a batch, by its number modulo 3


def test_a_round_in_which_no_group_lived_says_that_nothing_was_learnt(cfg, tmp_path, monkeypatch, capsys):
    """Its checkpoints are the start's own weights: the shortest of them is no success."""
    sample_groups = train_prune.sample_groups
    monkeypatch.setattr(train_prune, "sample_groups", lambda *args: [g._replace(rewards=[0.0] * 2) for g in sample_groups(*args)])
    monkeypatch.setattr(train_prune, "select", lambda *args: pytest.fail("there is nothing to select"))
    train_prune.main(dataclasses.replace(cfg, steps=1, group=2, cap=8, prompt_cap=48, confirm_samples=0))
    assert "start kept: nothing was learnt, as no step had a group with different rewards" in capsys.readouterr().out
    assert (tmp_path / "round/selected").read_text().strip() == ""
    (tmp_path / "round/selected").write_text(str(tmp_path / "round/step0001"))
    with pytest.raises(SystemExit):
        check_adapter(str(tmp_path / "round"))
    assert f"is a round and no adapter: the one that it chose is {tmp_path / 'round/step0001'}" in capsys.readouterr().err


def test_dead_groups_are_sampled_again_and_a_killed_round_resumes_to_the_same_bytes(cfg, tmp_path, monkeypatch):
    """Step 1 takes batches 1 and 2, in which exactly 3 groups live. Step 2 takes 3, 4 and 5, in which 4 live."""
    sampled, trained = {}, []

    def sample(r, number, label):
        made = zip(sample_groups(r, number, label), LIVES[number % 3])
        sampled[number] = [group._replace(rewards=[float(lives), 0.0]) for group, lives in made]
        return sampled[number]

    def update(policy, optimizer, rollouts, *more):
        trained.append([id(rollout) for rollout in rollouts])
        return update_policy(policy, optimizer, rollouts, *more)

    sample_groups = train_prune.sample_groups
    monkeypatch.setattr(train_prune, "sample_groups", sample)
    monkeypatch.setattr(train_prune, "update_policy", update)
    cfg = dataclasses.replace(cfg, steps=2, group=2, cap=8, prompt_cap=48, eval_samples=1, confirm_samples=0, beta=0.0, resample_dead=4)
    train_prune.main(dataclasses.replace(cfg, out_dir=str(tmp_path / "unbroken")))
    steps = [[group for number in numbers for group in sampled[number]] for numbers in ((1, 2), (3, 4, 5))]
    assert sorted(sampled) == [1, 2, 3, 4, 5]
    for row, step, ids in zip(table(tmp_path / "unbroken"), steps, trained, strict=True):
        alive, dead = ([group for group in step if sum(group.rewards) == lives] for lives in (1, 0))
        assert ids == [id(rollout) for group in alive[:3] for rollout in group.rollouts]
        assert (row["batches"], row["dead_groups"]) == (len(step) / 3, len(dead))
        assert row["dead_tokens"] == sum(len(rollout.ids) for group in dead for rollout in group.rollouts)
        assert row["length"] == pytest.approx(sum(len(rollout.ids) for group in step for rollout in group.rollouts) / len(step) / 2)
    monkeypatch.setattr(train_prune, "update_policy", at_call(update, 2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert stop_code(cfg) == 143 and checkpoints.newest(tmp_path / "round")[1] == 1
    train_prune.main(cfg)
    assert adapter_hash(tmp_path / "round" / "step0002") == adapter_hash(tmp_path / "unbroken" / "step0002")
    assert timeless_log(tmp_path / "round") == timeless_log(tmp_path / "unbroken")


def test_where_too_few_groups_live_a_step_is_filled_up_with_dead_ones(cfg, tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(train_prune, "by_name", lambda *_: lambda group, *more: [0.0] * len(group))
    monkeypatch.setattr(train_prune, "update_policy", lambda *a: shapes.append((len(a[2]), len(a[3]))) or update_policy(*a))
    cfg = dataclasses.replace(cfg, steps=1, group=2, cap=8, prompt_cap=48, eval_samples=1, confirm_samples=0, beta=0.0, resample_dead=2)
    train_prune.main(cfg)
    (row,) = table(tmp_path / "round")
    assert shapes == [(6, 6)] and (row["batches"], row["dead_groups"], row["grad"]) == (3, 9, 0)


def test_a_round_ends_with_the_step_that_reaches_its_tokens_and_is_then_done(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, steps=50, group=2, cap=8, prompt_cap=48, eval_samples=1, confirm_samples=0, beta=0.0, checkpoint_every=50)
    train_prune.main(dataclasses.replace(cfg, sample_tokens=90))   # a step is 3 x 2 rollouts of at most 8 tokens
    rows = table(tmp_path / "round")
    tokens = [6 * row["length"] for row in rows]
    assert sum(tokens[:-1]) < 90 <= sum(tokens) and len(rows) < 50
    assert checkpoints.newest(tmp_path / "round")[1] == len(rows) and (tmp_path / "round" / "done").is_file()


def test_the_line_of_a_step_says_how_much_was_sampled_and_kept():
    more = {"reward": 0.5, "correct": 0.25, "figures": {"grad": 0.1}}
    line = Step(2, batches=3, dead_groups=40, **more).line(8, 125, 16, 8, torch.device("cpu"), 0)
    assert "correct 96/384" in line and "dead groups 40/48 | 3 batches, 17% of groups kept | grad" in line  # 8 of 48
    assert "33% of groups kept" in Step(2, batches=3, dead_groups=20, **more).line(8, 125, 16, 8, torch.device("cpu"), 0)
    line = Step(2, dead_groups=4, **more).line(8, 125, 16, 8, torch.device("cpu"), 0)
    assert "correct 32/128" in line and "dead groups 4/16 | grad" in line


@pytest.mark.parametrize("dead, warned", [(12, True), (11, False)])
def test_all_groups_are_dead_if_those_of_all_batches_are(dead, warned):
    lines = alarms.warnings_of([Step(n, batches=3, dead_groups=dead, reward=1.0) for n in range(5)], 4, 0.1)
    assert any("all 4 groups dead for 5 steps" in line for line in lines) == warned


def test_a_half_written_checkpoint_is_not_resumed_from(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, steps=1)
    train_prune.main(cfg)
    folder = tmp_path / "round"
    shutil.copytree(folder / "step0001", folder / "step0002.tmp")
    assert [p.name for p in checkpoints.checkpoints_of(folder)] == ["step0001"]


def test_it_learns_what_it_is_paid_for(cfg, tmp_path, monkeypatch):
    def share_of_low_tokens(group, correct, cap, row):
        return [sum(t < 500 for t in r.ids) / len(r.ids) for r in group]

    # The stand-in's head is nearly uniform, and frozen: ten times its weights give the LoRA something to steer.
    shutil.copytree(cfg.model, tmp_path / "sharp")
    model, _ = load_policy(Options(model=cfg.model, load_4bit=False, device="cpu"))
    model.lm_head.weight.data.mul_(10)
    model.save_pretrained(tmp_path / "sharp")
    monkeypatch.setattr(train_prune, "by_name", lambda *_: share_of_low_tokens)
    train_prune.main(dataclasses.replace(cfg, model=str(tmp_path / "sharp"), steps=8, checkpoint_every=8, group=16, lr=1e-2, beta=0.0, cap=32, prompt_cap=48))
    rows = table(tmp_path / "round")
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.2


@pytest.mark.parametrize(
    "change, word",
    [
        ({"cap": 0}, "--cap 0"),
        ({"group": 1}, "--group 1"),
        ({"steps": 0}, "--steps 0"),
        ({"temperature": 0.0}, "--temperature 0.0"),
        ({"top_p": 1.5}, "--top_p 1.5"),
        ({"model": "./nowhere"}, "--model ./nowhere"),
        ({"init_adapter": "./nowhere"}, "./nowhere"),
        ({"train_data": "./nowhere.jsonl"}, "./nowhere.jsonl"),
        ({"reference": "./nowhere.json"}, "--reference ./nowhere.json"),
        ({"cap": 5000}, "context of 4096"),
        ({"resample_dead": -1}, "--resample_dead -1"),
        ({"sample_tokens": -1}, "--sample_tokens -1"),
        ({"sample_tokens": 9, "lr_schedule": "cosine"}, "--lr_schedule constant"),
        ({"keep_shortest": 1}, "--keep_shortest 1"),
        ({"keep_shortest": 5}, "from 2 to --group 4"),
        ({"reward": "dot", "reward_options": {"alpha": 1.5}}, "--reward dot: alpha is 1.5: with 4 rollouts"),
    ],
)
def test_bad_options_stop_with_one_line_and_write_nothing(cfg, tmp_path, capsys, change, word):
    with pytest.raises(SystemExit) as stop:
        train_prune.main(dataclasses.replace(cfg, **change))
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and word in error[-1] and error[-1].startswith("error: ")
    assert not (tmp_path / "round").exists()


def test_a_folder_of_other_options_is_refused_with_the_difference(cfg, tmp_path, capsys):
    train_prune.main(dataclasses.replace(cfg, steps=1))
    before = (tmp_path / "round" / "config.yaml").read_bytes()
    with pytest.raises(SystemExit) as stop:
        train_prune.main(dataclasses.replace(cfg, steps=1, lr=1.0))
    assert stop.value.code == 2 and "lr: 0.001 there, 1.0 now" in capsys.readouterr().err
    assert (tmp_path / "round" / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("config/*.yaml") if not path.stem.endswith("_sft")))
def test_every_config_loads_and_a_typo_in_it_fails(name, tmp_path, capsys):
    path = ROOT / "config" / f"{name}.yaml"
    cfg = parse(Config, args=["--config", str(path)])
    caps = [int(c) for c in str(cfg.caps).split()]
    assert caps == sorted(caps, reverse=True) and cfg.test_data and len(path.read_text().splitlines()) <= 40
    options = yaml.safe_load(path.read_text())
    for bad in ({"capp": 3}, {"lr": "fast"}):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump(options | bad))
        with pytest.raises(SystemExit) as stop:
            parse(Config, args=["--config", str(tmp_path / "bad.yaml")])
        assert stop.value.code == 2 and list(bad)[0] in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the night


@pytest.fixture(scope="module")
def whole(r1, problems, tmp_path_factory):
    """(options, folder) of an unbroken round of 4 steps with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("whole") / "round"
    options = {"reward": "repetition", "reward_options": {"size": 1, "penalty": 1.0}, "cap": 24, "group": 2}
    options |= {"problems_per_step": 2, "steps": 4, "checkpoint_every": 2, "eval_samples": 1, "reference_samples": 1, "confirm_samples": 1, "eval_cap": 24, "lr": 1e-3, "lora_r": 8}
    data = {"train_data": str(problems / "train.jsonl"), "val_data": str(problems / "val.jsonl")}
    cfg = Config(model=r1, **data, out_dir=str(folder), beta=0.01, device="cpu", **options)
    train_prune.main(cfg)
    return cfg, folder


def same_round(folder, whole):
    """A round ends as the unbroken one did: adapter, log and selection."""
    assert adapter_hash(folder / "step0004") == adapter_hash(whole[1] / "step0004")
    assert timeless_log(folder) == timeless_log(whole[1])
    ours, theirs = (json.loads((f / "selection.json").read_text()) for f in (folder, whole[1]))
    assert (ours["step"], ours["why"]) == (theirs["step"], theirs["why"])
    assert [c["mean_tokens"] for c in ours["checkpoints"]] == [c["mean_tokens"] for c in theirs["checkpoints"]]


def at_call(function, number, do):
    """`function`, but `do()` comes before its call of that number, counted from 1."""
    calls = 0

    def call(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number:
            do()
        return function(*arguments, **options)

    return call


def stop_code(cfg):
    with pytest.raises(SystemExit) as stop:
        train_prune.main(cfg)
    return stop.value.code


def test_sigterm_in_the_update_saves_the_step_before_and_the_same_command_ends_in_the_same_bytes(whole, tmp_path, monkeypatch, capsys):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round")), tmp_path / "round"
    with monkeypatch.context() as patch:
        patch.setattr(train_prune, "update_policy", at_call(update_policy, 2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        assert stop_code(cfg) == 143
    assert "to go on: python " in capsys.readouterr().err
    assert checkpoints.newest(folder) == (folder / "last", 1) and [r["step"] for r in table(folder)] == [1]
    train_prune.main(cfg)
    assert "resuming after step 1" in capsys.readouterr().out and not (folder / "last").exists()
    same_round(folder, whole)


def test_ctrl_c_in_a_validation_keeps_the_step_and_the_validation_comes_first_on_the_way_on(whole, tmp_path, monkeypatch):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round")), tmp_path / "round"
    with monkeypatch.context() as patch:  # validations: at the start, after step 2, after step 4
        patch.setattr(measuring, "evaluate", at_call(measuring.evaluate, 2, lambda: os.kill(os.getpid(), signal.SIGINT)))
        assert stop_code(cfg) == 130
    assert checkpoints.newest(folder) == (folder / "last", 2) and not (folder / "step0002").exists()
    train_prune.main(cfg)
    same_round(folder, whole)


def test_a_kill_costs_only_what_came_after_the_last_minutes_and_the_next_call_says_so(whole, tmp_path, monkeypatch, capsys):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"), save_minutes=0.0), tmp_path / "round"

    def kill():
        raise KeyboardInterrupt  # not through our handler: nothing is saved on the way out

    with monkeypatch.context() as patch:
        patch.setattr(train_prune, "update_policy", at_call(update_policy, 4, kill))
        with pytest.raises(KeyboardInterrupt):
            train_prune.main(cfg)
    assert checkpoints.newest(folder) == (folder / "last", 3)
    rows = list(csv.reader(open(folder / "log.csv", newline="")))
    with open(folder / "log.csv", "a", newline="") as f:  # as if a step had been logged and not saved
        csv.writer(f).writerow(["4", *rows[-1][1:]])
    train_prune.main(cfg)
    assert "resuming after step 3 " in (out := capsys.readouterr().out) and "not been saved and are made again: 1\n" in out
    same_round(folder, whole)


def test_a_kill_before_the_first_save_begins_anew_and_says_what_is_lost(whole, tmp_path, monkeypatch, capsys):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"), checkpoint_every=4), tmp_path / "round"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "__exit__", lambda self, *error: self.stack.close())  # as if killed: nothing on the way out
        patch.setattr(train_prune, "update_policy", at_call(update_policy, 3, lambda: [][0]))
        with pytest.raises(IndexError):
            train_prune.main(cfg)
    assert not list(folder.glob("step*")) + list(folder.glob("last"))
    train_prune.main(cfg)
    assert "no checkpoint is there: beginning at step 1; steps that had not been saved and are made again: 2\n" in capsys.readouterr().out


def test_a_kill_in_a_validation_keeps_its_rollouts_and_the_steps_that_were_due_to_be_saved(whole, tmp_path, monkeypatch, capsys):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"), save_minutes=0.0), tmp_path / "round"
    with monkeypatch.context() as patch:  # 3 rollouts at the start, 3 after step 2
        patch.setattr(RunFolder, "__exit__", lambda self, *error: self.stack.close())
        patch.setattr(Kept, "add", at_call(Kept.add, 6, lambda: [][0]))
        with pytest.raises(IndexError):
            train_prune.main(cfg)
    assert checkpoints.newest(folder) == (folder / "last", 2)
    train_prune.main(cfg)
    out = capsys.readouterr().out
    assert "resuming after step 2 " in out and "2 of 3 rollouts are there from before" in out
    assert not (folder / measuring.PARTIAL).exists()
    same_round(folder, whole)


def test_ctrl_c_before_the_first_step_leaves_a_folder_that_goes_on(whole, tmp_path, monkeypatch):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round")), tmp_path / "round"
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "evaluate", at_call(measuring.evaluate, 1, lambda: os.kill(os.getpid(), signal.SIGINT)))
        assert stop_code(cfg) == 130
    assert checkpoints.newest(folder) == (None, 0)
    train_prune.main(cfg)
    same_round(folder, whole)


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_is_gone_on_from(whole, tmp_path, capsys):
    folder = tmp_path / "round"
    shutil.copytree(whole[1], folder)
    (folder / "done").unlink()
    weights = folder / "step0004" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    train_prune.main(dataclasses.replace(whole[0], out_dir=str(folder)))
    out = capsys.readouterr().out
    assert "step0004 is damaged (adapter_model.safetensors" in out and "resuming after step 2" in out
    same_round(folder, whole)


def test_a_full_disk_at_a_save_ends_in_one_line_and_the_checkpoint_before_is_gone_on_from(whole, tmp_path, monkeypatch, capsys):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round")), tmp_path / "round"
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", at_call(torch.save, 2, full))
        assert stop_code(cfg) == 1
    assert "No space left on device" in capsys.readouterr().err.strip().splitlines()[-1]
    assert [p.name for p in folder.glob("step*")] == ["step0002"]
    train_prune.main(cfg)
    same_round(folder, whole)


@pytest.mark.parametrize("name", ["log.csv", "log.txt"])
def test_a_folder_that_vanishes_is_one_line(whole, tmp_path, monkeypatch, capsys, name):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round")), tmp_path / "round"

    def gone():
        shutil.rmtree(folder)
        if name == "log.txt":
            (folder / "log.txt").mkdir(parents=True)

    monkeypatch.setattr(train_prune, "update_policy", at_call(update_policy, 1, gone))
    assert stop_code(cfg) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {folder} cannot be written")


def test_a_second_process_in_the_folder_is_refused(whole, tmp_path, capsys):
    (tmp_path / "round").mkdir()
    with lock(tmp_path / "round"):
        assert stop_code(dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"))) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_fresh_begins_anew_and_keeps_the_old_folder(cfg, tmp_path):
    train_prune.main(dataclasses.replace(cfg, steps=1))
    train_prune.main(dataclasses.replace(cfg, steps=1, lr=1e-4, fresh=True))
    assert [yaml.safe_load((tmp_path / f / "config.yaml").read_text())["lr"] for f in ("round.old1", "round")] == [1e-3, 1e-4]
    train_prune.main(dataclasses.replace(cfg, steps=1, lr=1e-4))  # done, and not moved once more
    assert not (tmp_path / "round.old2").exists()


def test_three_steps_without_a_number_stop_the_round_with_its_state_saved(cfg, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_prune, "advantages", lambda rewards, scale: torch.full_like(rewards, torch.inf))
    assert stop_code(dataclasses.replace(cfg, steps=5, checkpoint_every=5)) == 1
    assert "NaN or infinite loss or gradient for 3 steps in a row" in capsys.readouterr().err
    assert checkpoints.newest(tmp_path / "round") == (tmp_path / "round" / "last", 3)
    assert [r["skipped"] for r in table(tmp_path / "round")] == [1, 1, 1]


def test_a_gap_over_its_limit_warns_and_stops_at_the_third_step(cfg, tmp_path, capsys):
    assert stop_code(dataclasses.replace(cfg, steps=5, checkpoint_every=5, logp_gap_limit=-1.0)) == 1
    out = capsys.readouterr().out
    assert "step 1: sampler and trainer log-probs differ" in out and "log-probs differ by more than -1.0 for 3 steps" in out
    assert checkpoints.newest(tmp_path / "round") == (tmp_path / "round" / "last", 3)


def test_a_collapse_ends_the_round_where_it_is_asked_to(cfg, tmp_path, capsys):
    """Random weights are never right: under thinkprune the reward is 0 from the first step on."""
    cfg = dataclasses.replace(cfg, reward="thinkprune", reward_options={}, beta=0.0, steps=9, checkpoint_every=3, stop_on_collapse=True)
    train_prune.main(cfg)
    selection = json.loads((tmp_path / "round" / "selection.json").read_text())
    assert "reward was 0 for 5 steps" in selection["ended_by"] and [c["step"] for c in selection["checkpoints"]] == [3]
    assert len(table(tmp_path / "round")) == 5 and "is done" not in capsys.readouterr().out
    train_prune.main(cfg)
    assert "is done" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- out of memory


def no_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("call", [1, 2, 3, 4])  # the reference's and the policy's forward, first and second micro-batch
def test_memory_that_runs_out_in_the_update_leaves_the_gradient(r1, monkeypatch, capsys, call):
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts = rollouts_of(model, tokenizer)
    adv = torch.tensor([1.0, -0.5, 0.3, 0.4, 0.2, -2.0])
    budget = 2 * max(len(r.prompt_ids) + len(r.ids) for r in rollouts)
    wanted, stats = gradient_of(model, rollouts, adv, Config(beta=0.1, tokens_per_micro_batch=budget))
    monkeypatch.setattr(grpo, "token_logp", at_call(token_logp, call, no_memory))
    cfg = Config(beta=0.1, tokens_per_micro_batch=budget)
    got, again = gradient_of(model, rollouts, adv, cfg)
    assert again["tokens"] < budget and "out of memory" in capsys.readouterr().out
    for name, g in wanted.items():
        assert torch.allclose(g, got[name], atol=1e-6), name
    for key in ("loss", "kl", "logp_gap", "weight_mean", "weight_max"):
        assert stats[key] == pytest.approx(again[key], abs=1e-5), key


def test_memory_that_runs_out_in_the_second_pass_leaves_the_weights(r1, monkeypatch):
    def weights_after(fault):
        model, tokenizer = with_lora(r1, std=0.05)
        rollouts = rollouts_of(model, tokenizer)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        monkeypatch.setattr(grpo, "token_logp", at_call(token_logp, 2 if fault else 0, no_memory))
        update_policy(model, optimizer, rollouts, torch.linspace(-1, 1, 6).tolist(), Config(beta=0.0, passes=2), 10**6)
        return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    wanted, got = weights_after(False), weights_after(True)
    assert all(torch.allclose(wanted[n], got[n], atol=1e-6) for n in wanted)


def test_one_sequence_that_does_not_fit_says_what_to_lower(r1, monkeypatch, capsys):
    model, tokenizer = with_lora(r1)
    monkeypatch.setattr(grpo, "token_logp", lambda *a: no_memory())
    with pytest.raises(SystemExit) as stop:
        gradient_of(model, rollouts_of(model, tokenizer), torch.ones(6), Config(beta=0.0))
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "--head_chunk" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_while_sampling_gives_the_same_answers_with_fewer_rows(r1, monkeypatch, capsys, error):
    model, tokenizer = with_lora(r1, std=0.05)
    base, prompts = model.get_base_model(), [[5, 6, 7], [9] * 12]

    class Small(rows.SlotCache):
        def __init__(self, model, n, width, varlen):
            if n > 3:
                raise error
            super().__init__(model, n, width, varlen)

    wanted = sampled(base, tokenizer, prompts, 4, cap=9, rows=8, seed=3)
    monkeypatch.setattr(rows, "SlotCache", Small)
    options = Options(device="cpu", rollout_weights="live")
    sampler = Sampler(model.train(), tokenizer, options)
    got = sampler.sample(prompts, 4, cap=9, seed=3)
    assert [r.ids for r in got] == [r.ids for r in wanted] and base.training
    assert (sampler.rows, options.rows) == (3, 0) and "trying again with --rows 7" in capsys.readouterr().out
    assert sampler.sample(prompts, 4, cap=9, seed=3) and capsys.readouterr().out == ""


def test_one_row_that_does_not_fit_says_what_to_lower(r1, monkeypatch, capsys):
    model, tokenizer = with_lora(r1)
    monkeypatch.setattr(Sampler, "decode", lambda *a, **k: no_memory())
    with pytest.raises(SystemExit) as stop:
        Sampler(model, tokenizer, Options(rollout_weights="live")).sample([[5]], 4, cap=9)
    assert stop.value.code == 2 and "lower the cap" in capsys.readouterr().err


def test_another_error_than_memory_is_not_tried_again(r1, monkeypatch):
    model, tokenizer = with_lora(r1)
    calls = []
    monkeypatch.setattr(Sampler, "decode", lambda *a, **k: calls.append(1) or [][0])
    with pytest.raises(IndexError):
        Sampler(model, tokenizer, Options(rollout_weights="live")).sample([[5]], cap=9)
    assert len(calls) == 1


def test_logits_that_are_nan_end_the_sampling_with_a_line(r1):
    model, tokenizer = with_lora(r1)
    model.get_base_model().model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(files.OptionError, match="NaN"):
        sampled(model.get_base_model(), tokenizer, [[5, 6]], cap=4)


# ---------------------------------------------------------------------------------------- untrusted files


@pytest.fixture
def tiny(tmp_path):
    return make_tiny(tmp_path / "a 'tiny' mödel")


@pytest.fixture
def adapter(tiny, tmp_path):
    policy, _ = with_lora(tiny, load_4bit=False)
    policy.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(capsys, word, call):
    with pytest.raises(SystemExit) as stop:
        call()
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and error.startswith("error: ") and len(error.splitlines()) == 1 and word in error, error


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["cut", "empty", "noise"])
def test_a_damaged_model_is_one_line_that_names_the_file(tiny, tmp_path, capsys, name, how):
    path = tmp_path / tiny / name
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": bytes(range(256)) * 8}[how])
    refused(capsys, name, lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu")))


def test_a_damaged_chat_template_is_one_line(tiny, tmp_path, capsys):
    (tmp_path / tiny / "chat_template.jinja").write_text("{% for m in messages %} no end")
    refused(capsys, "chat template", lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu")))


def test_a_config_that_names_weights_which_the_file_lacks_is_refused(tiny, tmp_path, capsys):
    path = tmp_path / tiny / "config.json"
    config = json.loads(path.read_text())
    config["num_hidden_layers"], config["layer_types"] = 2, None
    path.write_text(json.dumps(config))
    refused(capsys, "lacks", lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu")))


def test_a_model_that_brings_code_is_refused_without_running_it(tiny, tmp_path, capsys):
    path = tmp_path / tiny / "config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M", "AutoTokenizer": "mine.T"}}
    path.write_text(json.dumps(config))
    (tmp_path / tiny / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(capsys, "--model", lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu")))
    assert not (tmp_path / "ran").exists()


def test_an_adapter_whose_checksums_do_not_agree_is_refused(tiny, adapter, capsys):
    options = Options(model=tiny, load_4bit=False, device="cpu")
    note = {"base": "tiny", "base_fingerprint": fingerprint(load_policy(options)[0])}
    (adapter / "nanoprune.json").write_text(json.dumps(note))
    write_checksums(adapter, ["adapter_config.json", "adapter_model.safetensors", "nanoprune.json"])
    load_policy(options, str(adapter))
    weights = adapter / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused(capsys, "adapter_model.safetensors does not agree", lambda: load_policy(options, str(adapter)))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "nanoprune.json"])
def test_a_cut_adapter_is_one_line(tiny, adapter, capsys, name):
    (adapter / "nanoprune.json").write_text('{"base": "x", "base_fingerprint": "y"}')
    (adapter / name).write_bytes((adapter / name).read_bytes()[:20])
    refused(capsys, str(adapter), lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu"), str(adapter)))


def test_a_pickled_adapter_is_refused(tiny, adapter, capsys):
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    refused(capsys, "pickle", lambda: load_policy(Options(model=tiny, load_4bit=False, device="cpu"), str(adapter)))


def test_a_line_over_the_limit_is_refused_with_file_and_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "LONGEST_LINE", 1_000_000)
    path = tmp_path / "p.jsonl"
    path.write_text('{"problem": "a", "answer": "1"}\n{"problem": "' + "b" * 1_000_000 + '", "answer": "1"}\n')
    refused(capsys, f"{path} line 2 is longer than 1 MB", lambda: load_problems(str(path)))


@pytest.mark.parametrize("line", [b'"text"', b"[" * 100_000, b"\xff", b'{"problem": "\\ud800", "answer": "1"}', b'{"problem": "a"', b"9" * 5000])
def test_a_line_that_is_no_object_is_refused_with_its_file(tmp_path, capsys, line):
    path = tmp_path / "it's [a] file.jsonl"
    path.write_bytes(b'{"problem": "a", "answer": "1"}\n' + line + b"\n")
    refused(capsys, str(path), lambda: load_problems(str(path)))


def test_a_problem_file_with_any_name_is_read(tmp_path):
    path = tmp_path / "it's *a* [\u00fc] file.jsonl"
    path.write_text('{"problem": "a", "answer": 1}\n\n{"problem": "b", "answer": "2", "level": 3}\n')
    assert [(r["problem"], r["answer"], r.get("level")) for r in load_problems(str(path))] == [("a", "1", None), ("b", "2", 3)]


@pytest.mark.parametrize("name", ["config.yaml", "start.json", "selection.json"])
def test_a_damaged_file_of_the_run_is_one_line_that_names_it(whole, tmp_path, capsys, name):
    shutil.copytree(whole[1], tmp_path / "round")
    if name != "selection.json":
        (tmp_path / "round" / "done").unlink()
    (tmp_path / "round" / name).write_bytes(b"{\x00")
    refused(capsys, name, lambda: train_prune.main(dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"))))


def test_a_damaged_reference_is_one_line_that_names_it(whole, tmp_path, capsys):
    (tmp_path / "eval.json").write_text('{"pass@1": 0.5}')
    cfg = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"), reference=str(tmp_path / "eval.json"))
    refused(capsys, "eval.json", lambda: train_prune.main(cfg))


@pytest.mark.parametrize("change, word", [({"eval_cap": 23}, "cap 24 and 23"), ({"eval_temperature": 0.5}, "temperature 0.6 and 0.5"), ({"eval_top_p": 0.5}, "top_p")])
def test_a_reference_that_was_measured_otherwise_is_refused_with_both_values(whole, tmp_path, capsys, change, word):
    reference = str(whole[1] / "start.json")
    cfg = dataclasses.replace(whole[0], out_dir=str(tmp_path / "round"), reference=reference, **change)
    with pytest.raises(SystemExit) as stop:
        train_prune.main(cfg)
    assert stop.value.code == 2 and word in capsys.readouterr().err
