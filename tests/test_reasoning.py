"""Ways to a reasoning model: their table, dev/reasoning.sh, the plain toy. Run: python -m pytest tests/test_reasoning.py"""
import json
import random
import sys

import pytest
import yaml

from analysis import reasoning
from analysis.methods import read_points
from analysis.reasoning import Config
from conftest import ROOT
from test_methods import dry_run, made
from test_plot import rollout, save

sys.path.insert(0, str(ROOT / "data"))
import plain  # noqa: E402
import toy  # noqa: E402


def run_of(root, seed, name, tokens, right, start=None, text=None):
    """A run of four problems with one answer each: `right` of them right, problem i with `tokens` + i tokens."""
    folder = root / f"seed{seed}" / name
    save(folder / "test", [rollout(i, 0, tokens + i, i < right, text=text) for i in range(4)])
    if start is not None:
        adapter = str(root / f"seed{seed}" / start / "final") if start else ""
        (folder / "config.yaml").write_text(yaml.safe_dump({"init_adapter": adapter, "group": 4, "problems_per_step": 2}))
    return folder


@pytest.fixture
def root(tmp_path):
    """Two seeds: a base, a cold start from it, RL from that, a teacher that began nowhere."""
    for seed in (0, 1):
        run_of(tmp_path, seed, "base/base", 100, 1)
        run_of(tmp_path, seed, "cold/sft", 200 + 10 * seed, 2, start="")
        folder = run_of(tmp_path, seed, "cold/rl", 150, 3 + seed, start="cold/sft")
        (folder / "log.csv").write_text(f"step,length,correct,batches\n1,10,0.5,1\n2,20,{0.6 + 0.2 * seed},2\n" + "3,9,1,1\n" * seed)
        run_of(tmp_path, seed, "teacher/long", 300, 4)
    return tmp_path


def rows_of(root):
    return {row["run"]: row for row in reasoning.analyse(read_points(root), Config())}


def test_a_run_is_compared_with_what_it_began_from(root):
    rows = rows_of(root)
    assert [rows[run]["start"] for run in ("cold/sft", "cold/rl", "teacher/long")] == ["base/base", "cold/sft", ""]
    assert rows["cold/rl"]["adds"]["pass@1"]["value"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert rows["cold/rl"]["adds"]["tokens"]["value"] == pytest.approx(150 - 205)
    assert rows["cold/sft"]["adds"]["tokens"]["value"] == pytest.approx(105)
    assert "adds" not in rows["teacher/long"] and next(iter(rows)) == "base/base"


def test_tokens_of_the_start_count_as_sampled(root):
    assert rows_of(root)["cold/rl"]["sampled"] == pytest.approx(((10 + 40) * 8 + (10 + 40 + 9) * 8) / 2)


def test_a_curve_is_the_mean_of_the_steps_that_all_seeds_have(root):
    assert rows_of(root)["cold/rl"]["curve"] == {"sampled": [80, 400], "length": [10, 20], "correct": [0.5, pytest.approx(0.7)]}


def test_the_format_is_a_box_within_the_cap_and_reflection_counts_words(root):
    for seed in (0, 1):
        folder = run_of(root, seed, "odd/one", 50, 2, text="Wait.\nHmm, double-check.")
        rows = [json.loads(line) for line in (folder / "test" / "rollouts.jsonl").read_text().splitlines()]
        rows[0]["answer"], rows[1]["finished"] = None, False
        save(folder / "test", rows)
    row = rows_of(root)["odd/one"]
    assert (row["format"]["value"], row["reflection"]["value"]) == (0.5, 2)


def test_page_and_picture(root, capsys):
    reasoning.main([str(root)])
    page = (root / "reasoning.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| cold/rl"))
    assert page in capsys.readouterr().out and "| cold/sft" in line and "| 87.5 +- " in line and "-55.0 [" in line
    assert (root / "reasoning.png").stat().st_size > 10_000


def test_every_command_of_reasoning_sh_has_options_that_its_script_knows(tmp_path):
    models = dict.fromkeys(("TOY", "PRUNED", "PLAIN", "SMALL", "SUMS"), tmp_path / "base")
    found = dry_run(tmp_path, "dev/reasoning.sh", **models)
    assert sorted(made(found, "train_prune.py")) == sorted(
        [f"{kind}/{run}" for kind in ("long", "short") for run in ("rl", "rl_half", "rl_quarter", "cosine")]
        + ["rounds/cap260", "rounds/cap180", "rounds/cap125", "alone/rl", "stages/2_rl", "stages/4_rl", "alone/rl", "alone/rl", "cold/rl"]
    )  # fmt: skip
    begun = [words[words.index("--init_adapter") + 1].rpartition("seed0/")[2] for words in found if words[0] == "train_prune.py"]
    assert {"long/sft/final", "short/sft_quarter/final", "rounds/cap180/final", "stages/3_sft/final", "cold/sft/final"} < {*begun}
    assert sum(words[:2] == ["-m", "analysis.reasoning"] for words in found) == 5


# ---------------------------------------------------------------- the plain toy


def test_answers_to_learn_from_are_right_and_as_long_in_all_as_is_said():
    cfg = plain.Config(n_train=20, n_val=5, n_test=5, cold_tokens=3000)
    splits, tokenizer = plain.make_splits(cfg), toy.build_tokenizer()
    assert all(splits[name] == rows for name, rows in toy.make_splits(cfg).items())
    for kind in ("long", "short"):
        rows = splits[f"cold_{kind}"]
        tokens = sum(len(tokenizer(row["response"] + toy.END).input_ids) for row in rows)
        assert 2000 < tokens <= 3000 and splits[f"cold_{kind}_half"] == rows[: len(splits[f"cold_{kind}_half"])]
        checks = sum(toy.trace_stats(row["response"], row["problem"])["checks"] for row in rows) / len(rows)
        assert 2 < checks < 8 if kind == "long" else checks == 0
        assert all(row["response"].endswith(f"\\boxed{{{row['answer']}}}.") for row in rows)


def test_half_of_the_traces_of_the_pre_training_end_in_a_box_and_few_are_checked():
    tokenizer = toy.build_tokenizer()
    texts = [tokenizer.decode(row[1]) for row in plain.make_rows(tokenizer, 400, 1.0, set(), random.Random(0))]
    assert 160 < sum("</think>" in text and "\\boxed{" in text for text in texts) < 240
    assert 30 < sum("Wait" in text for text in texts) < 90
    assert all(("</think>" in text) == ("\\boxed{" in text) == ("}" in text) for text in texts)


def test_the_student_has_less_than_a_third_of_the_weights(tmp_path):
    from safetensors import safe_open

    sizes, few = [], dict(steps=1, n_train=4, n_val=2, n_test=2, tokens_per_step=256, cold_tokens=1000)
    for size in ("full", "small"):
        plain.make(plain.Config(**few, size=size, out_dir=str(tmp_path / size)))
        with safe_open(tmp_path / size / "model.safetensors", "pt") as file:
            sizes.append(sum(file.get_tensor(name).numel() for name in file.keys()))
    assert 3 * sizes[1] < sizes[0]
    recipes = [json.loads((tmp_path / size / "recipe.json").read_text())["recipe"] for size in ("full", "small")]
    assert len({*recipes, toy.recipe_of(toy.Config())["recipe"]}) == 3
