"""Which checkpoint wins, and when it is believed. Run: python -m pytest tests/test_selection.py"""
import dataclasses
import doctest
import json

import pytest

import selection
from conftest import ROOT
from dev import selection_noise
from sample import INSTRUCTION
from selection import by_problem, next_cap, pool, select


def result(step, right, tokens, problems=10, samples=4):
    """A checkpoint with `right` answers in all, spread over its problems from the first on."""
    counts = [min(samples, max(0, right - samples * i)) for i in range(problems)]
    groups = {str(i): [c, samples, tokens * samples] for i, c in enumerate(counts)}
    return {"step": step, "pass@1": right / problems / samples, "mean_tokens": float(tokens), "by_problem": groups}


def test_doctests():
    assert doctest.testmod(selection).failed == 0


def test_the_shortest_within_ten_percent_wins_and_else_none():
    points = [result(1, 24, 90), result(2, 22, 80), result(3, 21, 70)]
    best, why = select(points, {"pass@1": 0.6}, tolerance=0.1)
    assert best["step"] == 2 and "2 of 3" in why and "54.0 %" in why
    best, why = select(points, {"pass@1": 0.9}, tolerance=0.1)
    assert best is None and why.startswith("start kept")


def test_a_loss_of_exactly_the_tolerance_passes():
    assert all(select([{"step": 1, "pass@1": 9 * n / 960, "mean_tokens": 1.0}], {"pass@1": 10 * n / 960}, 0.1)[0] for n in range(1, 97))


def test_a_reference_that_is_never_right_accepts_nothing():
    assert select([result(1, 0, 50), result(2, 9, 40)], {"pass@1": 0.0}, 0.1)[0] is None


def test_the_most_often_right_wins_where_a_round_shall_make_better():
    """As R1-Zero wants it: from a base that is hardly right, or never, to longer answers."""
    points = [result(1, 1, 50), result(2, 0, 40), result(3, 20, 200), result(4, 20, 150)]
    for reference in (0.0, 0.02):
        best, why = select(points, {"pass@1": reference}, 0.1, prefer="right")
        assert best["step"] == 4 and why.startswith("best of the 3 of 4")
    assert select(points, {"pass@1": 0.02}, 0.1)[0]["step"] == 1
    assert select([result(1, 0, 50)], {"pass@1": 0.0}, 0.1, prefer="right")[0] is None
    again = {4: result(4, 0, 150), 3: result(3, 21, 200)}
    best, why = select(points, {"pass@1": 0.4}, 0.1, lambda r: again[r["step"]], "right")
    assert best["step"] == 3 and "better ones that did not pass again: step 4" in why


def test_the_first_that_passes_again_is_taken_and_both_measurements_are_told():
    points = [result(1, 36, 90), result(2, 36, 80), result(3, 36, 70)]
    again = {3: result(3, 20, 70), 2: result(2, 35, 81)}  # 3 was lucky
    asked = []
    best, why = select(points, {"pass@1": 0.9}, 0.1, lambda r: asked.append(r["step"]) or again[r["step"]])
    assert best["step"] == 2 and asked == [3, 2]
    assert "step 2: 90.0 %, measured again 87.5 %, together 88.8 %" in why and "step 3: 90.0 %, measured again 50.0 %, together 70.0 %" in why


def test_none_that_passes_again_keeps_the_start():
    best, why = select([result(1, 36, 90)], {"pass@1": 0.9}, 0.1, lambda r: result(1, 0, 90))
    assert best is None and "start kept: none of the 1 of 1" in why and "together 45.0 %" in why


def test_pooled_figures_are_those_of_all_answers_together():
    from eval import metrics

    rows = [{"id": str(i), "correct": (i * k) % 3 == 0, "n_tokens": 10 * i + k, "finished": True} for i in range(7) for k in range(6)]
    first, again = ([row for n, row in enumerate(rows) if (n % 6 < 2) is early] for early in (True, False))
    both, whole = pool({"by_problem": by_problem(first)}, {"by_problem": by_problem(again)}), metrics(rows)
    assert all(both[key] == pytest.approx(whole[key]) for key in ("pass@1", "pass@1_se", "mean_tokens", "n_samples"))


# ---------------------------------------------------------------------------------------- the next cap


def rollouts(right=(), wrong=(), cut=()):
    """Graded rollouts of these lengths."""
    kinds = ((right, True, True), (wrong, True, False), (cut, False, False))
    return [{"n_tokens": n, "finished": f, "correct": c} for lengths, f, c in kinds for n in lengths]


@pytest.mark.parametrize(
    "rows, last, percentile, cap",
    [
        (rollouts(range(1, 101)), 0, 90, 90), (rollouts(range(1, 101)), 0, 85, 85), (rollouts([5, 7, 8, 9]), 0, 75, 8),  # nearest rank
        (rollouts([70] * 9 + [99]), 100, 90, 70), (rollouts([70] * 8 + [99] * 2), 100, 90, 80), (rollouts([9] * 10), 100, 90, 65),  # clamped
        (rollouts([70] * 6, wrong=[71]), 100, 90, 70), (rollouts([70] * 6, cut=[60] * 2), 100, 90, 70), (rollouts([70] * 6, cut=[60] * 3), 100, 90, None),  # 6 of 7, 8, 9
        (rollouts([80] * 7 + [90] * 3), 100, 90, 80), (rollouts([80] * 6 + [90] * 4), 100, 90, None),  # 70 % is enough, 60 is not
        (rollouts(wrong=[9] * 10), 100, 90, None), ([], 100, 90, None), (rollouts([1] * 9), 1, 90, None),
    ],
)  # fmt: skip
def test_the_next_cap_is_a_percentile_within_bounds_that_most_rollouts_meet(rows, last, percentile, cap):
    assert next_cap(rows, last, percentile)["cap"] == cap


@pytest.mark.parametrize(
    "rows, words",
    [
        (rollouts([80] * 6 + [90] * 4), "no next cap: percentile 90 of 10 right lengths is 90, the bounds are 65 and 80; 60.0 % of 10 rollouts end within 80, not 70.0 %"),
        (rollouts(wrong=[9]), "no next cap: none of 1 rollouts is right"), ([], "no next cap: no checkpoint keeps pass@1"),
    ],
)  # fmt: skip
def test_the_condition_that_ends_the_rounds_is_told_with_its_numbers(rows, words):
    assert next_cap(rows, 100, 90)["why"].startswith(words)


# ---------------------------------------------------------------------------------------- with models


def test_measuring_again_takes_worse_checkpoints_less_often():
    """The direction of dev/selection_noise.py's table: no sampling of a model, 200 simulated rounds each."""
    rows = {tuple(row[:3]): [float(cell.rstrip(" %")) for cell in row[3:6]] for row in selection_noise.table(rounds=200)}
    for plain, confirmed in ((("4", "4", "0"), ("4", "32", "16")), (("4", "64", "0"), ("4", "64", "16"))):
        assert rows[confirmed][0] < 0.7 * rows[plain][0] and rows[confirmed][1] < 0.5 * rows[plain][1]


def test_a_round_that_is_interrupted_while_it_measures_again_goes_on_there(tmp_path):
    """confirm.json of a checkpoint is read, not made again; without the option there is none."""
    import train_prune
    from standin import make_problems, make_r1_standin

    model = make_r1_standin(tmp_path / "model", context=4096)
    for name, first in (("train", 0), ("val", 8)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_problems(3, first)))
    cfg = train_prune.Config(
        model=model, train_data=str(tmp_path / "train.jsonl"), val_data=str(tmp_path / "val.jsonl"), cap=16, group=2,
        problems_per_step=2, steps=2, checkpoint_every=1, eval_samples=1, reference_samples=1, confirm_samples=2, eval_cap=16,
        lora_r=8, beta=0.0, reward="repetition", reward_options={"size": 1, "penalty": 1.0}, device="cpu",
        reference=str(tmp_path / "eval.json"), out_dir=str(tmp_path / "round"),
    )  # fmt: skip
    note = {"cap": 16, "prompt_cap": 16, "temperature": 0.6, "top_p": 0.95, "data": cfg.val_data, "n_problems": 3}
    note |= {"instruction": INSTRUCTION, "pass@1": 1e-12, "mean_tokens": 16.0}  # anything qualifies
    (tmp_path / "eval.json").write_text(json.dumps(note))
    train_prune.main(cfg)
    folder, chosen = tmp_path / "round", json.loads((tmp_path / "round" / "selection.json").read_text())
    again = folder / f"step{chosen['step']:04d}" / "confirm.json"
    assert json.loads(again.read_text())["n_samples"] == 2 and "measured again" in chosen["why"]
    (folder / "done").unlink()
    before = again.stat().st_mtime_ns
    train_prune.main(cfg)
    assert again.stat().st_mtime_ns == before and json.loads((folder / "selection.json").read_text())["why"] == chosen["why"]
    (folder / "done").unlink()  # with auto the selected checkpoint also answers training problems: as often as it is asked, alike
    for _ in range(2):
        train_prune.main(dataclasses.replace(cfg, caps="20 auto"))
        decision = json.loads((folder / "selection.json").read_text())["next_cap"]
        (folder / "done").unlink()
        assert decision["rollouts"] == 3 and decision["why"].startswith("no next cap") and decision["why"] in (folder / "log.txt").read_text()
    train_prune.main(dataclasses.replace(cfg, confirm_samples=0, out_dir=str(tmp_path / "plain")))
    assert not list((tmp_path / "plain").glob("*/confirm.json"))


def test_the_script_of_the_table_runs():
    import subprocess
    import sys

    run = subprocess.run([sys.executable, "dev/selection_noise.py", "--rounds", "5"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.count("\n") == 7, run.stderr
