r"""Data as public sets have it, and why a reward is 0. Run: python -m pytest tests/test_data.py"""
import csv
import doctest
import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
import torch

import eval as evaluation
import train_prune
from conftest import ROOT, refusal
from engine import alarms, files, hub, problems
from engine.alarms import cause, hopeless, outcomes
from engine.checkpoints import Step
from engine.problems import answer_text, load_problems, problem_text
from eval import metrics
from reward import Grade
from sample import Rollout, rollout_rows
from standin import make_r1_standin

sys.path.insert(0, str(ROOT / "data"))
import contests  # noqa: E402

GSM8K = "She has 3 apples and buys 1.\n3 + 1 = <<3+1=4>>4\n#### 4"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]


@pytest.fixture(autouse=True)
def every_note_anew():
    files.note.cache_clear()


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=4096)


def written(path, rows):
    """The rows as a file of the kind that the path's ending says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_doctests():
    assert sum(doctest.testmod(module).failed for module in (problems, alarms)) == 0


# ---------------------------------------------------------------------------------------- what a cell means


@pytest.mark.parametrize(
    "value, text",
    [
        ("025", "025"), (27.0, "27"), (7, "7"), (["x"], "x"), (["1", "2"], "1, 2"), ([1, 2], "1, 2"), ('["x"]', "x"), ("['x', 'y']", "x, y"),
        ('["\\\\frac{1}{2}"]', "\\frac{1}{2}"), ('["\\frac{1}{2}"]', "\\frac{1}{2}"), ("['\\theta']", "\\theta"),
        ({"target": "4"}, "4"), ({"ground_truth": ["4"], "style": "rule"}, "4"), ('{"target": 4}', "4"), ('"4"', "4"), (GSM8K, "4"),
        ("#### 1,234", "1,234"), ("[1, 2]", "[1, 2]"), ("(1, 2]", "(1, 2]"), ("{1, 2}", "{1, 2}"), ("\\{1\\}", "\\{1\\}"), ("{}", "{}"),
        ("$\\pi$", "\\pi"), ("\\$5", "\\$5"), ("a#b", "a#b"), (None, ""), (float("nan"), ""), ([], ""), ({}, ""), ({"a": 1, "b": 2}, ""),
    ],
)  # fmt: skip
def test_answers_are_read_as_what_they_mean(value, text):
    assert answer_text(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        ("1 + 1?", "1 + 1?"), (CHAT, "1 + 1?"), (json.dumps(CHAT), "1 + 1?"), ([{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}], "1 + 1?"),
        ([CHAT[1], {"role": "assistant", "content": "2"}, {"role": "user", "content": "2 + 2?"}], "2 + 2?"),
        ([{"from": "human", "value": "1 + 1?"}], "1 + 1?"), ({"question": "1 + 1?", "level": 3}, "1 + 1?"), ([{"role": "user", "content": "[a] {b}"}], "[a] {b}"),
        ("[asy] draw(1); [/asy] Find x.", "[asy] draw(1); [/asy] Find x."), ('"Two" is a word?', '"Two" is a word?'), (None, ""), ([], ""),
    ],
)  # fmt: skip
def test_problems_are_read_as_what_they_mean(value, text):
    assert problem_text(value) == text


@pytest.mark.parametrize("answer", [["4"], {"target": "4"}, '["4"]', GSM8K])
def test_contests_reads_answers_and_chats_alike(answer):
    source = contests.Source("mine", "a/b", None, "train", "prompt", "answer")
    (row,) = contests.to_problems(source, [{"prompt": CHAT, "answer": answer}])
    assert (row["problem"], row["answer"]) == ("1 + 1?", "4")


# ---------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_local_files_of_every_kind(tmp_path, ending):
    rows = [{"id": "a", "problem": "Find, \"x\"\nand y.", "answer": "1", "level": "5"}, {"id": "b", "problem": "2?", "answer": "2", "level": "1"}]
    assert load_problems(written(tmp_path / f"p.{ending}", rows)) == rows


def test_nested_columns_of_a_parquet_file(tmp_path):
    rows = [{"prompt": CHAT, "reward_model": {"ground_truth": "2", "style": "rule"}}]
    path = written(tmp_path / "p.parquet", rows)
    assert [(r["problem"], r["answer"]) for r in load_problems(path)] == [("1 + 1?", "2")]
    assert load_problems(path, "prompt.-1.content", "reward_model.ground_truth")[0]["answer"] == "2"


@pytest.mark.parametrize("name, data, word", [("p.parquet", b"PAR", "no parquet file"), ("p.csv", b"problem,answer\n1, 2?,3\n", "more cells"),
                                              ("p.csv", b"problem,answer\n\xff,3\n", "no CSV file in UTF-8"), ("p.csv", b"problem,answer\n", "empty"),
                                              ("p.csv", b"problem,answer\n1?\n", "line 1: no answer")])  # fmt: skip
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, capsys, name, data, word):
    (tmp_path / name).write_bytes(data)
    error = refusal(capsys, lambda: load_problems(str(tmp_path / name)))
    assert word in error and str(tmp_path / name) in error


def test_columns_with_a_usual_name_are_found_and_named(tmp_path, capsys):
    path = written(tmp_path / "p.jsonl", [{"question": "1 + 1?", "solution": "2", "source": "mine"}])
    assert [(r["problem"], r["answer"]) for r in load_problems(path)] == [("1 + 1?", "2")]
    said = capsys.readouterr().err
    assert f"{path} has no column 'problem': 'question' is read" in said and "no column 'answer': 'solution' is read" in said


def test_of_two_usual_names_none_is_guessed(tmp_path, capsys):
    path = written(tmp_path / "p.jsonl", [{"problem": "1 + 1?", "solution": "1 + 1 is 2", "target": "2"}])
    assert "'answer', only ['problem', 'solution', 'target'], of which target and solution could be meant" in refusal(capsys, lambda: load_problems(path))
    assert load_problems(path, answer_key="target")[0]["answer"] == "2"


def test_each_file_of_a_run_may_have_its_own_columns(tmp_path):
    files = [written(tmp_path / "a.jsonl", [{"question": "1?", "answer": "1"}]), written(tmp_path / "b.jsonl", [{"problem": "2?", "target": "2"}])]
    assert [load_problems(file, problem_key="question")[0]["answer"] for file in files] == ["1", "2"]


def test_the_first_of_several_named_columns_that_a_file_has_is_read(tmp_path, capsys):
    rows = {"a": {"text": "1?", "target": "1", "gold": "7"}, "b": {"problem": "2?", "gold": "2", "label": "7"}}
    found = [load_problems(written(tmp_path / f"{name}.jsonl", [row]), "text, problem", "target,gold")[0]["answer"] for name, row in rows.items()]
    assert found == ["1", "2"] and not capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the hub


@pytest.mark.parametrize(
    "source, call",
    [
        ("a/b", ("a/b", None, "train")), ("a/b:test", ("a/b", None, "test")), ("openai/gsm8k:main:test", ("openai/gsm8k", "main", "test")),
        ("a/b:train[:10]", ("a/b", None, "train[:10]")), ("a/b:main:train[5:10]", ("a/b", "main", "train[5:10]")),
    ],
)  # fmt: skip
def test_a_hub_set_may_name_its_config(monkeypatch, source, call):
    import datasets

    seen = []
    monkeypatch.setattr(problems, "online", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: seen.append((name, config, split)) or [{"problem": "1?", "answer": "1"}])
    assert load_problems(source)[0]["answer"] == "1" and seen == [call]


def test_a_hub_set_with_too_many_parts_is_refused(capsys):
    assert "write it as owner/name:config:split" in refusal(capsys, lambda: load_problems("a/b:c:d:e"))


def test_without_network_the_clients_are_told_once(monkeypatch):
    from huggingface_hub import constants

    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "hub_answers", lambda: asked.append(1))
    hub.online.cache_clear()
    assert not hub.online() and not hub.online() and asked == [1] and constants.HF_HUB_OFFLINE
    hub.online.cache_clear()


# ---------------------------------------------------------------------------------------- which rows are one problem


def test_repeated_problems_without_ids_are_clusters(tmp_path, capsys):
    """30 problems x 32 rows: the error of 30 problems, not of 960."""
    rows = [{"problem": f"What is {i}  + 1?" if k else f"What is {i} + 1?", "answer": str(i + 1)} for k in range(32) for i in range(30)]
    loaded = load_problems(written(tmp_path / "p.jsonl", rows))
    assert "960 rows are 30 problems by their text, as they have no id; standard errors are clustered" in capsys.readouterr().err
    assert [row["id"] for row in loaded[:31]] == [*map(str, range(1, 31)), "1"]
    graded = [{"id": row["id"], "n_tokens": 1, "finished": True, "correct": int(row["id"]) <= 11} for row in loaded]
    m = metrics(graded)
    assert (m["n_problems"], m["n_samples"]) == (30, 32) and round(m["pass@1_se"], 4) == 0.0895
    alone = metrics([row | {"id": i} for i, row in enumerate(graded)])["pass@1_se"]
    assert round(alone, 4) == 0.0156


def test_samples_of_a_problem_in_several_rows_are_counted_over_all_of_them():
    problems = [{"id": i, "problem": "?", "answer": "1"} for i in ("a", "b", "a")]
    rows = rollout_rows(problems, ["p"] * 3, [Rollout([1], [2], torch.zeros(1), True, "")] * 6)
    assert [(row["id"], row["sample"]) for row in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("a", 2), ("a", 3)]


def test_two_problems_with_one_id_are_refused_at_loading(tmp_path, capsys):
    rows = [{"id": 7, "problem": "1?", "answer": "1"}, {"id": "x", "problem": "3?", "answer": "3"}, {"id": 7, "problem": "2?", "answer": "2"}]
    assert "lines 1 and 3 are two problems with the id '7'" in refusal(capsys, lambda: load_problems(written(tmp_path / "p.jsonl", rows)))


def test_one_problem_with_two_answers_is_noted(tmp_path, capsys):
    load_problems(written(tmp_path / "p.jsonl", [{"problem": "1?", "answer": "1"}, {"problem": "1?", "answer": "one"}]))
    assert "lines 1 and 2 are one problem with two answers, 1 and one" in capsys.readouterr().err


def test_a_row_without_an_id_does_not_take_anothers(tmp_path):
    rows = [{"id": "2", "problem": "1?", "answer": "1"}, {"problem": "2?", "answer": "2"}, {"id": "", "problem": "3?", "answer": "3"}]
    assert [row["id"] for row in load_problems(written(tmp_path / "p.jsonl", rows))] == ["2", "line 2", "3"]


# ---------------------------------------------------------------------------------------- why the reward is 0

TEXTS = [("so</think> \\boxed{4}", True, "4"), ("so</think> \\boxed{5}", True, "5"), ("so</think> It is 4.", True, None), ("so \\boxed{4}", True, None),
         ("so</think> \\boxed{4}", False, "4")]  # fmt: skip
CAUSES = ["correct", "wrong", "no_box", "no_think_end", "over_cap"]


def test_the_cause_of_each_kind_of_rollout():
    rollouts = [Rollout([1], [2], None, finished, text) for text, finished, _ in TEXTS]
    verdicts = evaluation.grade(rollouts, ["4"] * 5, thinking=True)
    assert [cause(r, v, True) for r, v in zip(rollouts, verdicts)] == CAUSES
    shares, examples = outcomes(rollouts, verdicts, ["4"] * 5, True)
    assert shares == dict.fromkeys(CAUSES[1:], 0.2)
    assert examples == {"wrong": "boxed 5 for 4", "no_box": "... so</think> It is 4.", "no_think_end": "... so \\boxed{4}", "over_cap": "... so</think> \\boxed{4}"}
    assert cause(rollouts[3], Grade("4", True, False), thinking=False) == "correct"


def test_the_warnings_name_what_was_measured_and_what_to_do():
    history = [Step(n, no_box=0.75, over_cap=0.25, dead_groups=4) for n in range(1, 6)]
    examples = {"no_box": "... so it is 4."}
    reward, dead = alarms.warnings_of(history, 4, 0.1, examples)
    assert reward == "the reward was 0 for 5 steps: 75% have no \\boxed{}, 25% did not end: ask for one in --instruction"
    assert dead == 'all 4 groups dead for 5 steps, so there is nothing to learn: 75% have no \\boxed{} ("... so it is 4."), 25% did not end: ask for one in --instruction'
    easy = [Step(n, reward=1.0, correct=1.0, dead_groups=4) for n in range(1, 6)]
    assert alarms.warnings_of(easy, 4, 0.1, {})[0].endswith("100% are right: too easy: take a tighter cap or harder problems")
    assert any('0% of the rollouts are right: 75% have no \\boxed{} ("... so it is 4.")' in line for line in alarms.notes_of(history[0], 9, examples))


def test_a_base_without_a_right_answer_stops_the_round_with_the_reason(r1, tmp_path, capsys):
    rows = [{"id": f"p{i}", "problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    data = written(tmp_path / "p.jsonl", rows)
    common = {"model": r1, "eval_cap": 24, "eval_samples": 2, "device": "cpu"}
    evaluation.main(evaluation.Config(**common, data=data, prompt_cap=16, out_dir=str(tmp_path / "base")))
    result = json.loads((tmp_path / "base" / "eval.json").read_text())
    assert result["pass@1"] == 0 and result["no_think_end"] + result["no_box"] + result["over_cap"] + result["wrong"] == pytest.approx(1)
    assert hopeless(result) in capsys.readouterr().out
    cfg = train_prune.Config(
        **common, val_data=data, train_data=data, cap=16, prompt_cap=16, group=2, problems_per_step=1, steps=1, lora_r=8,
        reference=str(tmp_path / "base" / "eval.json"), out_dir=str(tmp_path / "round"),
    )  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        train_prune.main(cfg)
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(error) == 1
    assert f"{tmp_path / 'base' / 'eval.json'}: no answer is right: 100% did not end" in error[0] and "take a wider cap" in error[0]
