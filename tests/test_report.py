"""The report, and what the analyses refuse. Run: python -m pytest tests/test_report.py"""
import json
import shlex
from pathlib import Path

import pytest

from analysis import baselines, budget, evaluations, metrics, report, words
from analysis.command import main
from analysis.evaluations import load_evaluation
from measured import folder, r1, result, rollout, stops, two  # noqa: F401  (fixtures, too)


def command(analysis):
    """An analysis as a function of its arguments."""
    return report.main if analysis is report else lambda arguments: main(analysis, arguments)


def test_it_writes_one_report_with_every_command(two):
    main(budget, [*two, "--budgets", "[5]", "--answer_cap", "4", "--device", "cpu"])
    report.main([*two])
    out = Path(two[1]).parent / "analysis"
    text = (out / "report.md").read_text(encoding="utf-8")
    a, b = two
    for heading in ("Metrics", "Inference-time baselines", "Budget forcing", "Reflection and working words", "Readability", "Behaviours"):
        assert f"## {heading}" in text
    assert f"`python -m analysis.report {a} {b}` made" in text and "95 % interval" in text
    assert f"Not measured: `python -m analysis.perplexity {a} {b}`" in text
    assert f"Not measured: `python -m analysis.behaviours {a} {b} --url URL --model NAME`" in text
    assert f"`python -m analysis.budget {a} {b} --device cpu --budgets '[5]' --answer_cap 4`" in text
    assert f"`python -m analysis.metrics {a} {b}`" in text and "They differ in" not in text
    assert f"python eval.py --model {load_evaluation(a).info['model']} --load_4bit false --seed 0 --eval_cap 640" in text and "--data t.jsonl" in text
    assert "**Tokens, B in % of A: " in text and (out / "trace.html").exists()


def test_full_also_runs_what_loads_the_model(two, monkeypatch):
    monkeypatch.setattr(baselines, "measure_prompts", lambda a, cfg: [a])
    report.main([*two, "--full", "true", "--budgets", "[5]", "--answer_cap", "4", "--device", "cpu"])
    text = (Path(two[1]).parent / "analysis/report.md").read_text(encoding="utf-8")
    assert "perplexity, answer" in text and "best budget of all: 5" in text
    assert "Not measured: `python -m analysis.behaviours" in text and text.count("Not measured") == 1


def test_the_report_of_a_run_folder_shows_its_pictures(tmp_path):
    from test_plot import make_run

    run = make_run(tmp_path / "toy")
    report.main([str(run / "base_test"), str(run / "final_test")])
    text = (run / "analysis/report.md").read_text(encoding="utf-8")
    assert f"`python -m analysis.plot run {run}`" in text
    for name in ("length_accuracy", "training", "lengths", "budget", "words"):
        assert f"](../{name}.png)" in text and (run / f"{name}.png").exists()


def cells(lines: list[str]) -> dict[str, list[str]]:
    """Rows of Markdown tables by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_the_summary_cuts_the_tests_at_lower_caps_and_tells_right_from_wrong(tmp_path):
    base = [rollout("p", 0, 10), rollout("p", 1, 100), rollout("q", 0, 50, False), rollout("q", 1, 200, finished=False)]
    folder(tmp_path / "base_test", base)
    folder(tmp_path / "final_test", [rollout(p, s, 20) for p in "pq" for s in (0, 1)])
    rows = cells(metrics.in_short(tmp_path, [640, 64]))
    # Problems p and q: at 64 half and none are right, means of 37 and 57 tokens.
    assert rows["64"] == ["25.0 +- 25.0", "100.0 +- 0.0", "47 +- 10", "20 +- 0"]
    assert rows["640"] == ["50.0 +- 50.0", "100.0 +- 0.0", "90 +- 35", "20 +- 0"]
    assert rows["base, right"] == ["2", "55"] and rows["base, wrong"] == ["2", "125"]  # one problem each: no error bar
    assert rows["final, right"] == ["4", "20 +- 0"] and "final, wrong" not in rows


def test_the_summary_of_a_run_cuts_at_its_rounds_caps(tmp_path):
    from test_plot import make_run

    run = make_run(tmp_path / "toy")
    assert {"640", "320", "160", "300", "200", "145"} < cells((run / "summary.md").read_text().splitlines()).keys()
    (run / "base_test/rollouts.jsonl").unlink()
    report.evaluation.report(str(run))
    assert "as if cut" not in (run / "summary.md").read_text()


def test_sides_with_other_numbers_of_samples_show_every_k(tmp_path):
    a = folder(tmp_path / "a", [rollout(p, s) for p in "pq" for s in range(3)])
    b = folder(tmp_path / "b", [rollout(p, s) for p in "pq" for s in range(4)])
    main(metrics, [a, b, "--out_dir", str(tmp_path / "o")])
    text = "\n".join(metrics.show(json.loads((tmp_path / "o/metrics.json").read_text())))
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| pass@")]
    rows = {row[1]: row[2:4] for row in cells}
    assert rows["pass@3, %"] == ["100.0 +- 0.0", "-"] and rows["pass@4, %"] == ["-", "100.0 +- 0.0"]


def test_a_report_that_exists_is_kept(two, capsys):
    path = Path(two[1]).parent / "analysis/report.md"
    path.parent.mkdir()
    path.write_text("mine")
    assert "report.md exists; --overwrite" in stops(capsys, report.main, *two) and path.read_text() == "mine"
    report.main([*two, "--overwrite", "true"])
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_recorded_command_makes_the_same_file(two):
    main(words, [*two, "--reflection", '["Wait, so", "it\'s"]'])
    first = result(two, "words.json")
    main(words, shlex.split(first["command"])[3:] + ["--overwrite", "true"])
    assert result(two, "words.json") == first


def test_an_interrupted_command_says_so_without_a_traceback(two, monkeypatch, capsys):
    monkeypatch.setattr(words, "analyse", lambda sides, cfg: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as stop:
        main(words, list(two))
    assert stop.value.code == 130 and "interrupted" in capsys.readouterr().err


def test_results_of_other_rollouts_are_never_shown(two, capsys):
    main(words, [*two])
    path = Path(two[1], "rollouts.jsonl")
    path.write_text(path.read_text().replace("Therefore", "Hence"))
    line = stops(capsys, report.main, *two)
    assert "words.json" in line and "other" in line
    (Path(two[1]).parent / "analysis/words.json").write_text("{")
    assert "words.json" in stops(capsys, report.main, *two)


def test_no_right_answer_at_all_is_said(tmp_path, capsys):
    a, b = (folder(tmp_path / name, [rollout(p, 0, 10, False) for p in "pq"]) for name in "ab")
    report.main([a, b])
    text = capsys.readouterr().out
    assert text.count("no right answer at all") == 2 and "0.0 [0.0, 0.0] not distinguishable" in text


def test_one_sample_a_problem_is_said(tmp_path, capsys):
    a = folder(tmp_path / "a", [rollout(p) for p in "pq"])
    main(metrics, [a])
    assert "one sample a problem, so no pass@k and no vote" in capsys.readouterr().out


def test_one_sample_of_one_problem_has_no_error_bar_and_says_so(tmp_path, capsys):
    a, b = (folder(tmp_path / name, [rollout("p", 0, n)]) for name, n in (("a", 10), ("b", 5)))
    report.main([a, b])
    text = capsys.readouterr().out
    assert text.count("one problem only, so no error bar and no interval") == 2
    assert "+- " not in text.split("## Metrics")[1] and "-5.0 no interval" in text


def test_line_separators_in_a_response_are_not_line_ends(tmp_path):
    path = folder(tmp_path / "a", [rollout(response="a\u2028b\x85c\x0bd</think>\\boxed{7}")])
    assert load_evaluation(path).rows[0]["response"].startswith("a\u2028b\x85c\x0bd")


@pytest.mark.parametrize("field", evaluations.ROLLOUT)
def test_a_missing_field_is_named_with_file_and_line(tmp_path, capsys, field):
    path = folder(tmp_path / "a", [rollout(), {k: v for k, v in rollout("b").items() if k != field}])
    assert f"{path}/rollouts.jsonl line 2 has no {field}" in stops(capsys, command(metrics), path)


@pytest.mark.parametrize("rows, info, says", [
    ([], {}, "no rollouts"),
    ([rollout(), rollout()], {}, "line 2"),
    ([rollout(), rollout("b", 0, right=None)], {}, "line 2: correct"),
    ([rollout(n=9.5)], {}, "line 1: n_tokens"),
    ([rollout(n=641)], {}, "line 1: 641"),
    ([rollout(), rollout("b"), rollout("b", 1)], {}, "problem a has 1"),
    ([[1]], {}, "row 1 is not a JSON object"),
    ([rollout()], {"cap": None}, "eval.json"),
    ([rollout(), rollout("b", response="x" * 10_000_000)], {}, "line 2 is longer than 10 MB"),
])
def test_bad_rollout_files_name_file_and_line(tmp_path, capsys, rows, info, says):
    path = folder(tmp_path / "a", rows, **info)
    line = stops(capsys, command(metrics), path)
    assert path in line and says in line


@pytest.mark.parametrize("rows, info, says", [
    ([rollout("p")], {}, "problem q of"),
    ([rollout(p) for p in "pqr"], {}, "lacks problem r"),
    ([rollout("p"), rollout("q") | {"gold": "8"}], {}, "problem q of"),
    ([rollout("p"), rollout("q")], {"cap": 300}, "with 300: measure both with one"),
    ([], {}, "holds no rollouts"),
], ids=["fewer problems", "more problems", "another gold", "another cap", "an empty side"])
def test_sides_that_cannot_be_compared_are_one_line(tmp_path, capsys, rows, info, says):
    a = folder(tmp_path / "a", [rollout("p"), rollout("q")])
    line = stops(capsys, report.main, a, folder(tmp_path / "b", rows, **info))
    assert says in line and str(tmp_path / "b") in line


def test_bad_commands_are_one_line(tmp_path, capsys):
    a = folder(tmp_path / "a", [rollout("p"), rollout("q")])
    assert "eval.json" in stops(capsys, command(metrics), tmp_path / "none")
    assert "report takes 2 evaluation folders" in stops(capsys, report.main, a)
    Path(a, "rollouts.jsonl").write_text('{"id": \n')
    assert "is not JSON lines: line 1" in stops(capsys, command(metrics), a)


def test_bad_options_are_one_line(two, capsys):
    assert "--colour" in stops(capsys, command(metrics), *two, "--colour", "3")
    assert "--cue" in stops(capsys, command(budget), *two, "--cue", "Answer: ")
    assert "--budgets" in stops(capsys, command(budget), *two, "--budgets", "[0]")
    assert "640" in stops(capsys, command(budget), *two, "--budgets", "[700]")
    assert "--reflection" in stops(capsys, command(words), *two, "--reflection", '[" "]')
    main(metrics, [*two])
    assert "metrics.json exists" in stops(capsys, command(metrics), *two)
