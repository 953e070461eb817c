"""Hours of a round, by arithmetic and as measured. Run: python -m pytest tests/test_hours.py"""
import dataclasses
import doctest
import re
import shlex
from types import SimpleNamespace

import pytest
import torch

import train_prune
from conftest import ROOT
from dev import bench
from dev.bench_models import forced_lengths, shape_config
from engine import hours, memory
from engine.checkpoints import Step
from engine.files import parse

CONFIGS = sorted(ROOT.glob("config/*gb.yaml"))


@pytest.fixture(scope="module")
def r1():
    return shape_config("r1_1.5b")


def options(**more):
    return train_prune.Config(**{"lora_r": 32, "dtype": "bfloat16", "caps": "4000 3000 2000", **more})


def planned(config, cfg, card="RTX 4090"):
    return memory.plan(config, cfg, int(hours.CARDS[card][0] * 1e9) - memory.CONTEXT)


def round_of(config, card="RTX 4090", **more):
    cfg = options(**more)
    return hours.of_round(config, cfg, planned(config, cfg, card), card, val_problems=60)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(hours).failed == 0


# ---------------------------------------------------------------------------------------- by arithmetic


def test_a_decode_step_takes_what_was_added_up_by_hand(r1):
    """RTX 4090, 64 rows, a mean context of 2,000: weights 3.8 ms, attention 5.8, kernels and loop 2.5, logits 0.8."""
    cfg = options(rows=64)
    cap = 2 * (2000 - hours.ASKED) / hours.LENGTH
    answers = 64 * 200  # so many that the end, where rows run dry, hardly counts
    steps = answers * hours.LENGTH * cap / 64
    seconds = hours.sampling_seconds(r1, cfg, planned(r1, cfg), "RTX 4090", answers, cap)
    assert 1000 * seconds / steps == pytest.approx(3.8 + 5.8 + 2.5 + 0.8, rel=0.05)


def test_the_update_of_a_batch_is_counted_by_hand(r1):
    """Forward twice and backward once over 1.31 + 0.23 + 0.037 billion weights; no KL, no attention to speak of."""
    cfg = options(beta=0.0)
    seconds = hours.update_seconds(r1, cfg, "RTX 4090", answers=1, cap=0)
    work = 3 * 2 * (1.310e9 + 0.2334e9 + 0.0369e9) / (hours.COMPUTE * 165e12)
    moved = 4 * hours.SIDE * 28 * 41_472 / (hours.READ * 1008e9)  # in + out: q, o 3072 each, k, v 1792, three of 10496
    assert seconds / hours.ASKED == pytest.approx(work + moved, rel=0.01)


def test_each_part_grows_with_what_it_is_made_of(r1):
    one = round_of(r1)
    assert round_of(r1, steps=380).sampling == pytest.approx(2 * one.sampling)
    assert round_of(r1, problems_per_step=64).update == pytest.approx(2 * one.update)
    assert round_of(r1, beta=0.0).update < 0.85 * one.update
    assert round_of(r1, reference="out/base/eval.json").validation < one.validation
    assert round_of(r1, confirm_samples=0).validation < one.validation
    assert round_of(r1, rollout_weights="live").sampling > 1.3 * one.sampling
    assert round_of(r1, card="RTX 3090").whole > 1.2 * one.whole


@pytest.mark.parametrize("name, words", [
    ("NVIDIA GeForce RTX 4090", "RTX 4090: 1008 GB/s"), ("NVIDIA Later Card", "after its first step")])
def test_a_round_on_a_card_says_memory_and_hours_before_it_starts(r1, monkeypatch, name, words):
    monkeypatch.setattr("engine.memory.free_bytes", lambda device: 23 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    model = SimpleNamespace(device=torch.device("cuda"), config=r1, dtype=torch.bfloat16)
    memory_line, line = hours.before(model, options(), 4300, 60)
    assert memory_line.startswith("memory plan") and words in line and "\n" not in line
    assert ("by arithmetic" in line) == ("4090" in name)


def test_what_takes_less_than_an_hour_is_said_in_minutes():
    assert hours.Hours(0.5, 0.25, 0.1).line("H100").startswith(
        "minutes of this round, by arithmetic: sampling 30.0 + update 15.0 + validation 6.0 = 51.0 (H100")
    assert "hours of this round, by arithmetic: sampling 1.0 + " in hours.Hours(1.0, 0.25, 0.1).line("H100")


def test_on_a_cpu_nothing_is_said_before_the_first_step(r1):
    assert hours.before(SimpleNamespace(device=torch.device("cpu"), config=r1), options(), 4300, 60) == []


def test_the_arithmetic_gives_the_step_that_was_measured_on_an_h100(r1, monkeypatch):
    """docs/card.md: 128 rollouts of 163,144 tokens in all took 17.6 s, and their update 11.1 s; forced lengths."""
    lengths = forced_lengths(128, 4000)
    assert sum(lengths) == 163_144
    monkeypatch.setattr(hours, "ASKED", 39)
    monkeypatch.setattr(hours, "LENGTH", sum(lengths) / 128 / 4000)
    cfg = parse(train_prune.Config, args=["--config", str(ROOT / "config/r1_1.5b_24gb.yaml")])
    p = dataclasses.replace(memory.plan(r1, cfg, 24 * 10**9), rows=128)  # as its short prompts let it
    assert p.weights == "merged"
    assert hours.decode_seconds(r1, cfg, p, "H100", lengths) == pytest.approx(17.6, rel=0.03)
    assert hours.update_seconds(r1, cfg, "H100", 128, 4000) == pytest.approx(11.1, rel=0.03)


def test_without_graphs_a_step_takes_what_starting_its_kernels_takes(r1, monkeypatch):
    """On a T4, and in float32 on any card: no attention there can be held in a graph whatever the length."""
    monkeypatch.setattr(hours, "EAGER", {"merged": 1.0, "live": 2.0})
    for dtype, card, weights, seconds in (
        ("float16", "T4", "merged", 1.0), ("float16", "T4", "live", 2.0), ("float32", "RTX 5090", "merged", 1.0)):
        cfg = options(dtype=dtype)
        p = dataclasses.replace(planned(r1, cfg), weights=weights)
        assert hours.decode_seconds(r1, cfg, p, card, [1000.0]) == pytest.approx(1000 * seconds)
    assert hours.decode_seconds(r1, options(), planned(r1, options()), "RTX 4090", [1000.0]) < 100


def test_the_default_for_24_gb_is_a_long_night_on_a_4090():
    cfg = parse(bench.Hours, args=["--config", str(ROOT / "config/r1_1.5b_24gb.yaml")])
    p, rounds, _ = hours.of_schedule(shape_config("r1_1.5b"), cfg, "RTX 4090", 60, 500)
    assert p.fits and rounds <= 14


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_head_of_a_config_is_what_its_command_prints(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = path.read_text(encoding="utf-8")
    (command,) = re.findall(r"^#   python dev/bench.py hours (.*)$", text, re.M)
    bench.hours(parse(bench.Hours, args=shlex.split(command)))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert printed == re.findall(r"^#   RTX .*$", text, re.M) and len(printed) == 2


def rows_of(title: str) -> list[list[str]]:
    """The body of the table in a section of docs/speed.md; an empty cell is the one above it."""
    section = (ROOT / "docs/speed.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\|.*\|$", section, re.M)[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for above, row in zip(rows, rows[1:]):
        row[:] = [cell or old for cell, old in zip(row, above)]
    return rows


def test_the_table_of_memory_is_what_the_planner_says():
    model = ""
    for words, card, weights, *figures in rows_of("Memory"):
        model = model if words == "the same" else words
        size, micro = ("r1_7b", 8192) if "7B" in model else ("r1_1.5b", 16384)
        cfg = options(tokens_per_micro_batch=micro, rows=128, rollout_weights="live" if size == "r1_7b" else "auto")
        p = memory.plan(shape_config(size), cfg, int(card.split()[0]) * 10**9 - memory.CONTEXT)
        gb = [f"{part / 1e9:.2f}" for part in (p.base, p.copy, p.lora)]
        gb[1] = gb[1] if p.copy else "-"
        either = f"{p.sampling / 1e9:.1f} or {p.update / 1e9:.1f}"
        assert [weights, *figures] == [p.weights, str(p.rows), *gb, either, f"{p.peak / 1e9:.1f}"], (model, card)
        assert p.fits


def test_the_table_of_hours_is_what_the_planner_says():
    for words, card, *figures in rows_of("Hours"):
        name = next((path.stem for path in CONFIGS if path.stem in words), "r1_1.5b_24gb")
        cfg = parse(bench.Hours, args=["--config", str(ROOT / f"config/{name}.yaml")])
        if sizes := re.search(r"(\d+) steps of (\d+) x (\d+)", words):
            cfg.steps, cfg.problems_per_step, cfg.group = map(int, sizes.groups())
        _, rounds, around = hours.of_schedule(shape_config(name.rsplit("_", 1)[0]), cfg, card, 60, 500)
        assert figures == [f"{rounds:.0f}", f"{around:.0f}"], (words, card)


# ---------------------------------------------------------------------------------------- as measured


def history(n: int) -> list[Step]:
    return [Step(k, sample_s=6.0, update_s=4.0) for k in range(1, n + 1)]


def left(number: int, **more):
    cfg = options(steps=40, eval_samples=4, confirm_samples=16, cap=3000, **more)
    return hours.left(cfg, number, history(number), {"seconds": 160.0, "n_samples": 32})


def test_what_is_left_counts_steps_validations_and_measuring_again():
    # 39 steps of 10 s; after steps 20 and 40 a validation with an eighth of the reference's answers; 16 samples twice
    assert left(1)[0] == 39 * 10 + 2 * 20 + 2 * 80


def test_a_round_that_ends_by_its_sampled_tokens_has_fewer_steps_left():
    cfg = options(steps=40, eval_samples=4, confirm_samples=0, problems_per_step=2, group=4, sample_tokens=2400)
    steps = [dataclasses.replace(step, length=50.0, batches=2) for step in history(1)]  # 800 tokens a step
    assert hours.left(cfg, 1, steps, {})[0] == 2 * 10


def test_a_validation_that_is_due_now_is_still_to_come():
    assert left(20)[0] - left(21)[0] == 10 + 20


def test_a_measured_validation_replaces_what_the_reference_took():
    steps = history(21)
    steps[19].val_s = 50.0
    cfg = options(steps=40, eval_samples=4, confirm_samples=0)
    assert hours.left(cfg, 21, steps, {})[0] == 19 * 10 + 50


def test_the_rounds_to_come_are_said_where_they_are_known():
    (_, words), (_, alone) = left(1), left(1, caps="180 120")
    then = 40 * 10 * 2000 / 3000 + 2 * 20 + 2 * 80
    assert f"the rounds to come, 2000: {hours.short(then)}" in words and "rounds to come" not in alone


def test_a_later_round_is_planned_with_its_reference_adapter(r1):
    p, rounds, around = hours.of_schedule(r1, options(), "RTX 4090", 60, 500)
    first = hours.of_round(r1, options(reference="x"), p, "RTX 4090", 60).whole
    assert first < rounds < 3 * first and around > 0 and p.lora == planned(r1, options()).lora
    only = dataclasses.replace(options(), caps="4000")
    assert hours.of_schedule(r1, only, "RTX 4090", 60, 500)[1] == pytest.approx(first)
