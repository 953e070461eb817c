"""The GRPO round: formulas, gradient, files, resume. Run: python -m pytest tests/test_train.py"""
import csv
import dataclasses
import doctest
import hashlib
import json
import math
import shutil

import pytest
import torch
import yaml

import checkpoint
import train_prune
from sample import Options, Rollout, generate_rollouts, load_policy
from standin import make_r1_standin, with_lora
from train_prune import Config, advantages, batch_of, make_reward, micro_batches, policy_loss, select, token_logp, update_policy


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


@pytest.fixture
def cfg(r1, problems, tmp_path):
    """A round in seconds. Random weights never answer right, so they are paid for repeating a token."""
    return Config(
        model=r1,
        train_data=str(problems / "train.jsonl"),
        val_data=str(problems / "val.jsonl"),
        out_dir=str(tmp_path / "round"),
        reward="repetition",
        reward_options={"size": 1, "penalty": 1.0},
        cap=48,
        group=4,
        problems_per_step=3,
        steps=3,
        checkpoint_every=1,
        val_samples=2,
        val_cap=48,
        lr=1e-3,
        lora_r=8,
        beta=0.01,
        device="cpu",
    )


def rollouts_of(model, tokenizer, n=6):
    return generate_rollouts(model.get_base_model(), tokenizer, [[5, 6, 7], [9] * 12], n // 2, cap=[4, 9, 30] * (n // 3), seed=1)


def gradient_of(model, rollouts, adv, cfg):
    """The gradient that update_policy hands to its optimizer."""
    seen = {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    optimizer = Spy([p for p in model.parameters() if p.requires_grad], lr=0.0)
    stats = update_policy(model, optimizer, rollouts, adv, cfg)
    return seen, stats


def test_doctests():
    assert doctest.testmod(train_prune).failed == 0


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


def test_loss_by_hand():
    cfg = Config(beta=0.5, clip_low=0.2, clip_high=0.3, importance_cap=2.0)
    logp = torch.log(torch.tensor([0.5, 0.9, 0.1])).requires_grad_()
    old = torch.log(torch.tensor([0.5, 0.5, 0.5]))  # ratios 1, 1.8, 0.2
    sampler = torch.log(torch.tensor([0.5, 0.25, 0.1]))  # weights 1, 2, 5 -> 2
    ref = torch.log(torch.tensor([0.5, 0.45, 0.2]))
    adv = torch.tensor([1.0, 1.0, -1.0])
    loss, weight, k3, bites = policy_loss(logp, old, sampler, ref, adv, n_tokens=10, cfg=cfg)
    gain = 1 * 1.0 + 2 * 1.3 + 2 * -0.8  # clipped at 1.3, and at 0.8 for the negative advantage
    kl = [0.0, 0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1]
    assert weight.tolist() == pytest.approx([1, 2, 2])
    assert k3.tolist() == pytest.approx(kl, abs=1e-6)
    assert loss.item() == pytest.approx(-gain / 10 + 0.5 * sum(kl) / 10)
    assert bites.item() == pytest.approx(2 / 3)


def test_kl_pulls_the_policy_back_to_its_reference():
    """The sign that the paper's code had flipped: a descent step must bring logp nearer to ref_logp."""
    for ref in (-3.0, -0.2):
        logp = torch.tensor([-1.0], requires_grad=True)
        loss, *_ = policy_loss(logp, logp.detach(), logp.detach(), torch.tensor([ref]), torch.tensor([0.0]), 1, Config(beta=1.0))
        loss.backward()
        step = -logp.grad.item()
        assert (step > 0) == (ref > -1.0)


def test_first_pass_has_the_reinforce_gradient_whatever_the_clip():
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    adv = torch.tensor([3.0, -1.0])
    loss, *_ = policy_loss(logp, logp.detach(), logp.detach(), None, adv, 2, Config(clip_low=0.0, clip_high=0.0))
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


def test_selection_takes_the_shortest_within_ten_percent_and_else_none():
    points = [{"step": s, "pass@1": p, "mean_tokens": t} for s, p, t in ((1, 0.60, 90), (2, 0.54, 80), (3, 0.539, 70))]
    best, why = select(points, {"pass@1": 0.6}, tolerance=0.1)
    assert best["step"] == 2 and "2 of 3" in why
    best, why = select(points, {"pass@1": 0.9}, tolerance=0.1)
    assert best is None and "start kept" in why


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
    for key in ("loss", "grad", "kl", "weight_mean", "logp_gap"):
        assert whole[1][key] == pytest.approx(split[1][key], abs=1e-5), key


def test_skipping_dead_rollouts_changes_no_gradient(r1):
    model, tokenizer = with_lora(r1, std=0.05)
    rollouts = rollouts_of(model, tokenizer)
    adv = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    skipped, _ = gradient_of(model, rollouts, adv, Config(beta=0.0))
    computed, _ = gradient_of(model, rollouts, adv + 1e-12, Config(beta=0.0))
    for name, g in skipped.items():
        assert torch.allclose(g, computed[name], atol=1e-7), name


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


# ---------------------------------------------------------------------------------------- rewards by name


def rollout(n, finished=True):
    return Rollout([1], list(range(n)), torch.zeros(n), finished, "text")


def test_rewards_by_name():
    group = [rollout(3), rollout(5), rollout(8, finished=False)]
    assert make_reward("thinkprune", {})(group, [True, False, True], 8, {}) == [1.0, 0.0, 0.0]
    assert len(make_reward("kimi", {"weight": 0.5})(group, [True, False, True], 8, {})) == 3
    assert len(make_reward("repetition", {})(group, [True, False, True], 8, {})) == 3
    per_problem = make_reward("o1_pruner", {})
    assert len(per_problem(group, [True, False, True], 8, {"ref_tokens": 4.0, "ref_accuracy": 0.5})) == 3


@pytest.mark.parametrize(
    "name, options, word", [("nope", {}, "thinkprune, cosine"), ("kimi", {"wieght": 1}, "wieght"), ("thinkprune", {"a": 1}, "no --reward_options")]
)
def test_unknown_rewards_and_options_are_refused_with_the_list(name, options, word, capsys):
    with pytest.raises(SystemExit) as stop:
        make_reward(name, options)
    assert stop.value.code == 2 and word in capsys.readouterr().err


def test_a_family_that_needs_reference_samples_says_so(capsys):
    with pytest.raises(SystemExit):
        make_reward("o1_pruner", {})([rollout(3)], [True], 8, {})
    assert "ref_tokens" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- a round and its files


def adapter_hash(folder):
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def table(folder):
    with open(folder / "log.csv", newline="") as f:
        return [{k: float(v or "nan") for k, v in row.items() if not k.endswith("_s")} for row in csv.DictReader(f)]


def test_a_round_writes_what_the_contract_names_and_the_next_one_goes_on_from_it(cfg, tmp_path, capsys):
    train_prune.main(cfg)
    out = capsys.readouterr().out
    folder = tmp_path / "round"
    assert "of 12 rollouts end within the cap of 48" in out and "says nothing of progress" in out
    assert "sampler and trainer log-probs differ by" in out and "next: " in out
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "log.csv", "log.txt", "selection.json", "done", "tensorboard", "step0001", "step0003"} <= names
    assert {"adapter_model.safetensors", "adapter_config.json", "nanoprune.json", "eval.json", "samples.md", "optimizer.pt"} <= {
        p.name for p in (folder / "step0003").iterdir()
    }
    rows = table(folder)
    assert [r["step"] for r in rows] == [1, 2, 3] and all(r["logp_gap_max"] < 1e-4 and r["grad"] > 0 for r in rows)
    selection = json.loads((folder / "selection.json").read_text())
    assert [c["step"] for c in selection["checkpoints"]] == [1, 2, 3] and selection["selected"] == str(folder / f"step{selection['step']:04d}")
    # the saved options are a valid --config
    from sample import parse

    assert parse(Config, args=["--config", str(folder / "config.yaml")]) == cfg
    # again: done, and nothing is touched
    before = (folder / "log.csv").stat().st_mtime_ns
    train_prune.main(cfg)
    assert "is done" in capsys.readouterr().out and (folder / "log.csv").stat().st_mtime_ns == before
    # the next round starts where this one was selected: KL to its start is 0 before the first update
    second = dataclasses.replace(cfg, cap=40, steps=2, init_adapter=selection["selected"], out_dir=str(tmp_path / "next"))
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

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(train_prune, "update_policy", killed)
    with pytest.raises(KeyboardInterrupt):
        train_prune.main(cfg)
    monkeypatch.setattr(train_prune, "update_policy", update)
    assert [p.name for p in checkpoint.checkpoints_of(tmp_path / "round")] == ["step0001", "step0002"]
    train_prune.main(cfg)
    assert adapter_hash(tmp_path / "round" / "step0003") == adapter_hash(tmp_path / "unbroken" / "step0003")
    assert str(table(tmp_path / "round")) == str(table(tmp_path / "unbroken"))


def test_a_half_written_checkpoint_is_not_resumed_from(cfg, tmp_path):
    cfg = dataclasses.replace(cfg, steps=1)
    train_prune.main(cfg)
    folder = tmp_path / "round"
    shutil.copytree(folder / "step0001", folder / "step0002.tmp")
    assert [p.name for p in checkpoint.checkpoints_of(folder)] == ["step0001"]


def test_it_learns_what_it_is_paid_for(cfg, tmp_path, monkeypatch):
    def share_of_low_tokens(group, correct, cap, row):
        return [sum(t < 500 for t in r.ids) / len(r.ids) for r in group]

    # The stand-in's head is nearly uniform, and frozen: ten times its weights give the LoRA something to steer.
    shutil.copytree(cfg.model, tmp_path / "sharp")
    model, _ = load_policy(Options(model=cfg.model, load_4bit=False, device="cpu"))
    model.lm_head.weight.data.mul_(10)
    model.save_pretrained(tmp_path / "sharp")
    monkeypatch.setattr(train_prune, "make_reward", lambda name, options: share_of_low_tokens)
    train_prune.main(dataclasses.replace(cfg, model=str(tmp_path / "sharp"), steps=8, checkpoint_every=8, group=16, lr=1e-2, beta=0.0, cap=32))
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


@pytest.mark.parametrize("name", ["toy", "toy_too_tight", "r1_1.5b_24gb", "r1_1.5b_12gb", "r1_7b_24gb"])
def test_every_config_loads_and_a_typo_in_it_fails(name, tmp_path, capsys):
    from conftest import ROOT
    from sample import parse

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
