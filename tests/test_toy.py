"""The toy: problems, traces, tokenizer, reuse. Run: python -m pytest tests/test_toy.py"""

import json
import random
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
import toy  # noqa: E402
from sample import SYSTEM, build_prompt  # noqa: E402

SMALL = dict(steps=2, n_train=12, n_val=4, n_test=6, tokens_per_step=256)
SMALL_FLAGS = [part for key, value in SMALL.items() for part in (f"--{key}", value)]


@pytest.fixture(scope="module")
def run_toy(warm_python):
    def run(*args):
        command = [warm_python, str(ROOT / "data/toy.py"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory, run_toy):
    """A toy trained for two steps: everything but the skill."""
    out = tmp_path_factory.mktemp("toy") / "base"
    done = run_toy(*SMALL_FLAGS, "--out_dir", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)  # as every script loads it


# ---------------------------------------------------------------- problems


def test_splits_are_disjoint_and_their_answers_right():
    splits = toy.make_splits(toy.Config(n_train=2048, n_val=128, n_test=512))
    assert {k: len(v) for k, v in splits.items()} == {"train": 2048, "val": 128, "test": 512}
    rows = [row for split in splits.values() for row in split]
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        found = re.fullmatch(r"From start (\d+): (.*)\. Find ([a-f])\.", row["problem"])
        start, steps, last = found.groups()
        names, values = zip(*(step.split() for step in steps.split(", ")))
        assert 3 <= len(names) <= 6 and last == names[-1]
        assert "".join(names) == "abcdef"[: len(names)]
        assert int(row["answer"]) == int(start) + sum(map(int, values))


def test_no_held_out_problem_is_trained_on(tokenizer):
    splits = toy.make_splits(toy.Config())
    held_out = {row["problem"] for rows in splits.values() for row in rows}
    rows = toy.make_rows(tokenizer, 300, 1.0, held_out, random.Random(0))
    seen = [tokenizer.decode(prompt).split("<|user|>")[1].split("\n")[0] for prompt, _ in rows]
    assert len(seen) == 300 and not held_out & set(seen)


def test_a_seed_fixes_the_problems_and_another_seed_changes_them():
    a, b, c = (toy.make_splits(toy.Config(seed=s)) for s in (3, 3, 4))
    assert a == b and a["test"] != c["test"]


# ---------------------------------------------------------------- stopped and gone on with


def test_a_pre_training_that_is_stopped_ends_in_the_same_model(base, tmp_path, monkeypatch, capsys):
    cfg = toy.Config(**SMALL | {"steps": 4}, out_dir=str(tmp_path / "broken"))
    toy.make(replace(cfg, out_dir=str(tmp_path / "whole")))
    monkeypatch.setattr(toy.KeptState.save, "__defaults__", (0.0,))  # after every step
    update, calls = toy.orthogonalise, []

    def interrupted(matrix):
        calls.append(1)
        if len(calls) == 3 * 4 + 2:  # 4 shapes of matrices a step: in the fourth step
            raise KeyboardInterrupt
        return update(matrix)

    monkeypatch.setattr(toy, "orthogonalise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy.make(cfg)
    assert f"step 3 of 4 is kept in {tmp_path / 'broken'}.partial.pt" in capsys.readouterr().out
    toy.make(cfg)
    assert "going on after step 3 of 4" in capsys.readouterr().out
    whole, broken = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken and sorted(p.name for p in tmp_path.iterdir()) == ["broken", "whole"]


def test_lines_that_keep_the_state_are_not_in_the_recipe(tmp_path, monkeypatch):
    text = Path(toy.__file__).read_text()
    for name, change in (("same", text.replace("kept.save(step + 1)  # keeps", "kept.save(step)  # keeps")), ("other", text.replace("lr: float = 0.02", "lr: float = 0.03"))):
        (tmp_path / f"{name}.py").write_text(change)
    digests = []
    for path in (toy.__file__, tmp_path / "same.py", tmp_path / "other.py"):
        monkeypatch.setattr(toy, "__file__", str(path))
        digests.append(toy.recipe_of(toy.Config())["recipe"])
    assert text.count("# keeps\n") == 5 and digests[0] == digests[1] != digests[2]


# ---------------------------------------------------------------- traces


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 9))
def test_traces_are_consistent(seed, n_checks):
    rng = random.Random(seed)
    ops = toy.make_problem(rng)
    trace, problem = toy.make_trace(ops, n_checks, rng), toy.problem_text(ops)
    gold = 10 + sum(ops)
    first, *checks = trace.split("</think>")[0].split("backwards from answer")
    standing = int(re.search(r"I get answer (-?\d+)\.", first)[1])
    for check in checks:
        back = check.split("Back at")[0]
        assert int(re.match(r" (-?\d+)\n", back)[1]) == standing
        value = standing
        for name, op, inverse, result in re.findall(r"([a-f]) ([+-]\d+) ([+-]\d+) = (-?\d+)", back):
            assert int(op) == ops["abcdef".index(name)] == -int(inverse)
            value += int(inverse)
            assert value == int(result)
        assert f"Back at {value} {'fits' if value == 10 else 'fails'}" in check
        assert (value == 10) == (standing == gold)
        if value != 10:
            standing = int(re.search(r"I get answer (-?\d+)\.", check)[1])
            assert standing == gold  # redos are right
    assert trace.endswith(f"</think>\nThe answer is \\boxed{{{standing}}}.")
    s = toy.trace_stats(trace, problem)
    assert s["checks"] == n_checks and s["one_check_correct"] >= (n_checks > 0)


def test_the_habit_makes_minus_seven_one_too_high():
    rng = random.Random(0)
    traces = [toy.make_trace([+2, -7, +1], 1, rng) for _ in range(200)]
    assert sum("b -7 = 6" in t and "redo" in t for t in traces) > 180


# ---------------------------------------------------------------- trace_stats

PROBLEM = "From start 10: a +1, b -7. Find b."  # 4
WRONG = "From start 10\na +1 = 11\nb -7 = 5\nI get answer 5."
CHECK = "\nWait, check backwards from answer 5\nb -7 +7 = 12\na +1 -1 = 11\nBack at 11 fails"
REDO = "\na +1 = 11\nb -7 = 4\nI get answer 4."
AGAIN = "\nHmm, backwards from answer 4\nb -7 +7 = 11\na +1 -1 = 10\nBack at 10 fits so 4 holds."
SPOILT = "\nHmm, backwards from answer 4\nBack at 9 fails so redo from start 10\nI get answer 3."


@pytest.mark.parametrize(
    "response, expected",
    [
        (WRONG + "\n</think>\nThe answer is \\boxed{5}.", (0, False, False)),
        (WRONG + CHECK + REDO + "\n</think>\n\\boxed{4}", (1, False, True)),
        (WRONG + CHECK, (1, False, False)),
        (WRONG + CHECK + REDO + AGAIN, (2, False, True)),
        (WRONG + CHECK + REDO + SPOILT, (2, False, True)),
        (WRONG.replace("5", "4"), (0, True, True)),
        (WRONG.replace("5", "4") + CHECK + "\nI get answer 6.", (1, True, False)),
        ("", (0, False, False)),
        ("I get answer I get answer .", (0, False, False)),
    ],
)
def test_trace_stats_by_hand(response, expected):
    assert tuple(toy.trace_stats(response, PROBLEM).values()) == expected


@given(st.text(), st.text())
def test_trace_stats_never_raises(response, problem):
    toy.trace_stats(response, problem)
    toy.trace_stats("backwards from answer" + response + "I get answer " + problem, problem)


def test_stats_prints_a_row_a_file(tmp_path, run_toy):
    row = {"id": "a", "problem": PROBLEM, "correct": True, "response": WRONG + CHECK + REDO}
    file = tmp_path / "rollouts.jsonl"
    other = {**row, "id": "b", "response": WRONG, "correct": False}
    file.write_text(json.dumps(row) + "\n" + json.dumps(other) + "\n")
    done = run_toy("stats", file, file)
    assert done.returncode == 0, done.stderr
    cells = done.stdout.splitlines()[1]
    assert [f"{m} +- {s}" for m, s in re.findall(r"([\d.]+) \+- ([\d.]+)", cells)] == [
        "0.50 +- 0.50", "0.0 +- 0.0", "50.0 +- 50.0", "50.0 +- 50.0",
    ]


# ---------------------------------------------------------------- tokenizer


@settings(deadline=None)
@given(st.one_of(st.text(), st.text("aZ \n+-=09\\{}.<>|ÿ🙂")))
def test_any_text_survives_the_tokenizer(tokenizer, text):
    # Qwen's rules normalise Unicode to NFC first; nothing else may change.
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


def test_signed_operands_and_numbers_are_one_token(tokenizer):
    for n in range(1, 14):
        for text in (f" +{n}", f" -{n}", f" {n}", str(n)):
            assert len(tokenizer(text).input_ids) == 1, text
    assert len(tokenizer(" = 9").input_ids) == 2 and len(tokenizer(toy.END).input_ids) == 1


def test_made_text_never_falls_to_letters(tokenizer):
    rng = random.Random(0)
    for k in range(10):
        ops = toy.make_problem(rng)
        text = toy.problem_text(ops) + "\n" + toy.make_trace(ops, k, rng)
        pieces = map(tokenizer.decode, tokenizer(text).input_ids)
        assert not [p for p in pieces if len(p) == 1 and p not in "\n.,:0123456789"]


def test_template_opens_the_thinking(tokenizer):
    prompt = build_prompt(tokenizer, PROBLEM, 123)
    assert prompt.endswith("<|assistant|><think>\n") and PROBLEM in prompt
    assert SYSTEM.replace("{cap}", "123") in prompt
    assert len(tokenizer(prompt).input_ids) < 50
    assert tokenizer.decode(tokenizer(prompt).input_ids) == prompt
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


# ---------------------------------------------------------------- the command


def test_the_folder_is_a_real_model(base, tokenizer):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    assert model.config.model_type == "qwen2" and model.config.vocab_size % 64 == 0
    assert (base / "model.safetensors").exists()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert not base.with_name("base.tmp").exists()


def test_the_same_recipe_is_reused_and_another_is_refused(base, run_toy):
    before = (base / "model.safetensors").stat().st_mtime_ns
    again = run_toy(*SMALL_FLAGS, "--out_dir", base)
    assert again.returncode == 0 and "reused" in again.stdout
    other = run_toy(*SMALL_FLAGS, "--out_dir", base, "--seed", 5)
    assert other.returncode == 2 and "--out_dir" in other.stderr and "seed 0, now 5" in other.stderr
    assert len(other.stderr.splitlines()) == 1
    assert (base / "model.safetensors").stat().st_mtime_ns == before


def test_a_seed_fixes_the_training(base):
    import torch

    cfg = toy.Config(**SMALL)
    held_out = {row["problem"] for rows in toy.make_splits(cfg).values() for row in rows}
    model = toy.train(cfg, toy.build_tokenizer(), held_out)
    from transformers import AutoModelForCausalLM

    saved = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(torch.equal(p, saved[name]) for name, p in model.state_dict().items())


@pytest.mark.parametrize("args", [["--stepz", "3"], ["--steps", "many"], ["--step", "3"]])
def test_bad_options_stop_the_run(args, tmp_path, run_toy):
    done = run_toy(*args, "--out_dir", tmp_path / "x")
    assert done.returncode == 2 and not (tmp_path / "x").exists()
