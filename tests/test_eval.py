"""Metrics, evaluation and the report. Run: python -m pytest tests/test_eval.py"""
import contextlib
import dataclasses
import doctest
import json
import math
import subprocess
import sys

import pytest

import eval as evaluation
from conftest import ROOT, refusal
from engine.files import parse
from engine.kept import Kept
from eval import Config, mean_and_se, metrics
from sample import SYSTEM, Rollout
from standin import make_r1_standin, with_lora


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=4096)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "problem": f"What is {i}+1?", "answer": str(i + 1)}) + "\n" for i in range(3)))
    return path


def row(id, n, finished, correct):
    return {"id": id, "n_tokens": n, "finished": finished, "correct": correct}


def test_doctests():
    assert doctest.testmod(evaluation).failed == 0


def test_standard_error_is_clustered_by_problem():
    # four samples of each of three problems, all samples alike: only three independent values
    groups = [[1.0] * 4, [0.0] * 4, [1.0] * 4]
    mean, se = mean_and_se(groups)
    assert mean == pytest.approx(2 / 3)
    assert se == pytest.approx(math.sqrt(sum((g[0] - 2 / 3) ** 2 for g in groups) / 2 / 3))


def test_standard_error_of_unequal_groups_by_hand():
    mean, se = mean_and_se([[1.0, 0.0, 1.0], [0.0]])
    # mean 0.5; cluster residual sums 0.5 and -0.5; sqrt(2/1 * 0.5) / 4
    assert (mean, se) == (0.5, pytest.approx(0.25))


def test_one_problem_has_no_error_bar_and_none_has_no_mean():
    assert mean_and_se([[1.0, 0.0]]) == (0.5, None) and mean_and_se([]) == (None, None)


def test_metrics_by_hand():
    rows = [row("a", 10, True, True), row("a", 20, True, False), row("b", 30, False, False), row("b", 40, True, True)]
    m = metrics(rows)
    assert m["pass@1"] == 0.5
    assert (m["mean_tokens"], m["mean_tokens_correct"], m["mean_tokens_wrong"]) == (25, 25, 25)
    assert (m["finished"], m["n_problems"], m["n_samples"]) == (0.75, 2, 2)


def test_no_right_answer_at_all_is_none_not_a_crash():
    m = metrics([row("a", 10, True, False), row("b", 10, True, False)])
    assert m["pass@1"] == 0 and m["mean_tokens_correct"] is None


def test_eval_writes_its_files_and_keeps_what_is_there(r1, data, tmp_path, capsys):
    cfg = Config(model=r1, data=str(data), eval_cap=24, prompt_cap=7, eval_samples=2, out_dir=str(tmp_path / "e"), device="cpu")
    evaluation.main(cfg)
    result = json.loads((tmp_path / "e" / "eval.json").read_text())
    names = "pass@1 pass@1_se mean_tokens mean_tokens_correct mean_tokens_wrong finished n_problems n_samples cap temperature top_p seed model adapter data"
    assert set(names.split()) <= set(result)
    assert (result["n_problems"], result["n_samples"], result["cap"]) == (3, 2, 24)
    rows = [json.loads(line) for line in (tmp_path / "e" / "rollouts.jsonl").open(encoding="utf-8")]
    assert len(rows) == 6 and all(SYSTEM.replace("{cap}", "7") in r["prompt"] and r["n_tokens"] <= 24 for r in rows)
    assert metrics(rows)["mean_tokens"] == result["mean_tokens"]
    with pytest.raises(SystemExit) as stop:
        evaluation.main(cfg)
    assert stop.value.code == 2 and "--overwrite" in capsys.readouterr().err


def test_same_seed_same_rollouts(r1, data, tmp_path):
    files = []
    for name in ("a", "b"):
        evaluation.main(Config(model=r1, data=str(data), eval_cap=24, eval_samples=2, out_dir=str(tmp_path / name), device="cpu"))
        files.append((tmp_path / name / "rollouts.jsonl").read_bytes())
    assert files[0] == files[1]


def test_a_training_config_serves_and_a_misspelt_key_in_it_is_refused(tmp_path, capsys):
    cfg = parse(Config, args=["--config", str(ROOT / "config" / "toy.yaml"), "--adapter", "a"], also="train_prune")
    assert (cfg.model, cfg.eval_cap, cfg.eval_samples, cfg.test_data) == ("out/toy_base", 640, 2, "out/toy_base/test.jsonl")
    (tmp_path / "typo.yaml").write_text("lr: 1e-4\neval_temprature: 0.1\n")
    with pytest.raises(SystemExit):
        parse(Config, args=["--config", str(tmp_path / "typo.yaml")], also="train_prune")
    assert "eval_temprature" in capsys.readouterr().err


def test_a_verdict_is_right_only_if_the_rollout_ended():
    text = "so</think> \\boxed{4}"
    rollouts = [Rollout([1], [2], None, finished, text) for finished in (True, False)]
    assert [g.correct for g in evaluation.grade(rollouts, ["4", "4"], thinking=True)] == [True, False]


@pytest.mark.parametrize("key, other", [("cap", 9), ("temperature", 0.1), ("top_p", 0.5), ("n_problems", 7), ("data", "b.jsonl"), ("instruction", "?"), ("prompt_cap", 9)])
def test_results_measured_otherwise_are_told_apart(key, other):
    a = {"cap": 8, "temperature": 1.0, "top_p": 1.0, "n_problems": 3, "data": "a.jsonl", "instruction": "!", "prompt_cap": 8, "pass@1": 0.5}
    assert evaluation.differences(a, a | {"pass@1": 0.1, "seed": 3}) == []
    assert evaluation.differences(a, a | {key: other}) == [f"{key} {a[key]} and {other}"]


def test_report_of_a_run_without_its_evaluations_names_the_missing_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluation.report(str(tmp_path))
    assert stop.value.code == 2 and "base_test" in capsys.readouterr().err


def test_the_instruction_reaches_the_prompt_and_eval_json(r1, data, tmp_path):
    cfg = Config(model=r1, data=str(data), eval_cap=8, eval_samples=1, instruction="Think step by step.", out_dir=str(tmp_path / "e"), device="cpu")
    evaluation.main(cfg)
    assert json.loads((tmp_path / "e" / "eval.json").read_text())["instruction"] == "Think step by step."
    rows = [json.loads(line) for line in (tmp_path / "e" / "rollouts.jsonl").open(encoding="utf-8")]
    assert [f"What is {i}+1?\nThink step by step.<" in r["prompt"] for i, r in enumerate(rows)] == [True] * 3


def test_without_an_instruction_the_prompt_is_the_present_one(r1):
    from engine.policy import load_tokenizer
    from sample import INSTRUCTION, build_prompt, encode_prompts

    tokenizer = load_tokenizer(r1)
    assert build_prompt(tokenizer, "1+1?", 9) == build_prompt(tokenizer, "1+1?", 9, INSTRUCTION)
    assert encode_prompts(tokenizer, ["1+1?"], 9) == encode_prompts(tokenizer, ["1+1?"], 9, INSTRUCTION)
    assert f"1+1?\n{INSTRUCTION}<" in build_prompt(tokenizer, "1+1?", 9)
    assert "1+1?<" in build_prompt(tokenizer, "1+1?", 9, "")


# ---------------------------------------------------------------------------------------- what is stopped goes on


def stopped_after(monkeypatch, n, work):
    """Calls `work` and presses Ctrl-C at the n-th rollout that ends; returns how many had been kept."""
    add, calls = Kept.add, []

    def interrupted(self, number, ids, mean):
        add(self, number, ids, mean)
        calls.append(number)
        if len(calls) == n:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "add", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            work()
    return len(calls)


@pytest.mark.parametrize("rows", [1, 3, 128])
def test_an_evaluation_that_is_stopped_goes_on_to_the_same_rollouts(r1, data, tmp_path, monkeypatch, capsys, rows):
    """In float32 an answer does not depend on which others are decoded beside it."""
    cfg = Config(model=r1, load_4bit=False, data=str(data), eval_cap=24, eval_samples=4, rows=rows, out_dir=str(tmp_path / "e"), device="cpu")
    evaluation.main(dataclasses.replace(cfg, rows=5, out_dir=str(tmp_path / "whole")))
    assert stopped_after(monkeypatch, 3, lambda: evaluation.main(cfg)) == 3
    assert f"3 of 12 rollouts are kept in {tmp_path / 'e' / 'rollouts.partial.jsonl'}" in capsys.readouterr().err
    with open(tmp_path / "e" / "rollouts.partial.jsonl", "a") as f:
        f.write("[11, 0.5, [4")  # as a kill may leave it
    assert stopped_after(monkeypatch, 99, lambda: evaluation.main(cfg)) == 9
    assert "3 of 12 rollouts are there from before" in capsys.readouterr().out
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"eval.json", "rollouts.jsonl"}
    assert (tmp_path / "e" / "rollouts.jsonl").read_bytes() == (tmp_path / "whole" / "rollouts.jsonl").read_bytes()


@pytest.mark.parametrize("change", [{"eval_cap": 23}, {"seed": 1}, {"eval_samples": 3}, {"instruction": "Go."}, {"eval_top_p": 0.5}, {"load_4bit": True}, "data", "weights"])
def test_rollouts_that_were_sampled_otherwise_are_not_gone_on_with(r1, data, tmp_path, monkeypatch, change):
    cfg = Config(model=r1, load_4bit=False, data=str(data), eval_cap=24, eval_samples=2, out_dir=str(tmp_path / "e"), device="cpu")
    stopped_after(monkeypatch, 3, lambda: evaluation.main(cfg))
    if change == "data":
        data.write_text(data.read_text().replace("+1?", "+2?"))
    if change == "weights":
        policy, _ = with_lora(r1, load_4bit=False)
        policy.save_pretrained(tmp_path / "adapter")
        change = {"adapter": str(tmp_path / "adapter")}
    cfg = dataclasses.replace(cfg, **change) if isinstance(change, dict) else cfg
    assert stopped_after(monkeypatch, 99, lambda: evaluation.main(cfg)) == 3 * cfg.eval_samples


def test_options_of_a_round_are_none_of_an_evaluation(r1, data, tmp_path):
    assert not {"val_data", "reference_samples", "confirm_samples", "test_samples"} & {f.name for f in dataclasses.fields(Config)}
    evaluation.main(Config(model=r1, data=str(data), eval_cap=8, eval_samples=1, out_dir=str(tmp_path / "e"), device="cpu"))
    result = json.loads((tmp_path / "e" / "eval.json").read_text())
    assert [key for key in result if key.removeprefix("eval_") != key and key.removeprefix("eval_") in result] == []
    assert set(evaluation.Settings._fields) <= set(result)


def test_ctrl_c_while_torch_is_imported_is_one_line():
    run = subprocess.run([sys.executable, "-c", "import engine; raise KeyboardInterrupt"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0 and run.stderr.strip() == "interrupted"


def test_a_report_of_tests_that_were_measured_differently_is_refused(tmp_path, capsys):
    wanted = dict.fromkeys(evaluation.Settings._fields, 1) | dict.fromkeys(("pass@1", "pass@1_se", "mean_tokens", "n_samples", "seconds", "model", "seed"), 1)
    for name, more in (("base_test", {}), ("final_test", {"prompt_cap": 2}), ("base", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(json.dumps(wanted | more))
    assert "differ in prompt_cap 1 and 2" in refusal(capsys, lambda: evaluation.report(str(tmp_path)))


def test_finished_has_a_standard_error():
    m = metrics([row("a", 10, True, True), row("b", 20, False, False), row("c", 30, True, True)])
    assert m["finished"] == pytest.approx(2 / 3) and m["finished_se"] == pytest.approx(1 / 3)  # sqrt(3/2 * 6/9) / 3
