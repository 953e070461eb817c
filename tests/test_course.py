"""The course assignment: what is handed out, and what its grader gives to honest and dishonest hand-ins."""
import json
import subprocess
import sys

import pytest

import reward
from dev import grade_attempts
from dev.make_assignment import BLANK, PARTS, ROOT, cases, write

# For one call: a busy machine may be slow, the cheats' answers are wrong anyhow, and an endless loop has none.
A_MINUTE, A_SECOND, NO_TIME = ("--seconds", "60"), ("--seconds", "1"), ("--seconds", "0.2")
HONEST = {"the reference, our reward.py": 100, "a good attempt, 50 lines": 83.2, "a plausible attempt, 25 lines": 29.7}
PASSES = "`cases.json` read from the grader's folder"                   # documented: only a container stops it
SLOW = "an endless loop at import"                                      # waits for 30 seconds
CHEATS = [name for name in grade_attempts.ATTEMPTS if name not in (*HONEST, PASSES, SLOW)]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "out"
    write(folder)
    return folder


@pytest.mark.parametrize("name, points", HONEST.items())
def test_honest_hand_ins_earn_their_points_whatever_they_print(out, name, points):
    result = grade_attempts.grade(out, name, *A_MINUTE)
    assert (result["total"], result["vetoes"], result["status"]) == (points, [], 0)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_earns_nothing(out, name):
    seconds = NO_TIME if name == "an endless loop in each function" else A_SECOND
    assert grade_attempts.grade(out, name, *seconds)["total"] == 0


def test_the_table_of_the_docs_has_every_attempt_with_the_points_tested_here():
    text = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = {row[0]: row[-1] for row in cells}
    assert rows.keys() >= grade_attempts.ATTEMPTS.keys()
    assert all(float(rows[name]) == points for name, points in HONEST.items())
    assert all(float(rows[name]) == 0 for name in [*CHEATS, SLOW])


def test_the_reference_passes_the_students_half_as_well(out):
    files = [out / "student" / "grade.py", ROOT / "reward.py", "--out", out / "half.json", *A_MINUTE]
    assert subprocess.run([sys.executable, *map(str, files)], capture_output=True).returncode == 0
    assert json.loads((out / "half.json").read_text(encoding="utf-8"))["total"] == 100


@pytest.mark.parametrize("half", [0, 1])
def test_each_group_of_cases_has_both_verdicts(half):
    plan = cases((PARTS / "cases.txt").read_text(encoding="utf-8"), half)
    for part in plan.values():
        for group in part["groups"].values():
            kinds = [bool(want) and not isinstance(want, dict) for _, want in group]
            assert min(kinds.count(True), kinds.count(False)) >= 2


def test_no_case_of_the_teachers_half_is_handed_out():
    text = (PARTS / "cases.txt").read_text(encoding="utf-8")
    groups = [[group for part in cases(text, half).values() for group in part["groups"].values()] for half in (0, 1)]
    students, teachers = [{json.dumps(case) for group in half for case in group} for half in groups]
    assert not students & teachers


def test_the_handout_blanks_the_exercise_and_nothing_of_it_is_left(out):
    source = (out / "student" / "reward.py").read_text(encoding="utf-8")
    space = {"__file__": str(out / "student" / "reward.py"), "__name__": "handout"}
    exec(compile(source, "handout", "exec"), space)
    space["close"]()
    for name in BLANK:
        with pytest.raises(NotImplementedError):
            space[name](*[1] * (4 if name == "thinkprune" else 2))
    assert [name for name in vars(reward) if name not in space and name.startswith(("same_", "_same"))]
    assert not (out / "teacher" / "reward.py").exists()


def test_the_lenient_reward_of_exercise_c_pays_cut_rollouts_and_pushes_the_other_way(out, monkeypatch):
    monkeypatch.syspath_prepend(str(out / "student"))
    import cap
    groups = {}
    for line in (PARTS / "rollouts.jsonl").read_text(encoding="utf-8").splitlines():
        groups.setdefault(json.loads(line)["id"], []).append(json.loads(line))
    for limit in cap.CAPS:
        strict, lenient = [cap.measure(list(groups.values()), limit, kind) for kind in (True, False)]
        assert strict["paid_cut"] == 0 < lenient["paid_cut"] and strict["push"] < 0 < lenient["push"]


def test_an_existing_folder_is_not_overwritten(out):
    command = [sys.executable, str(ROOT / "dev" / "make_assignment.py"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1



def test_values_are_compared_with_their_types_and_a_constant_is_worth_nothing(monkeypatch):
    monkeypatch.syspath_prepend(str(PARTS))
    import grade as grader

    replies = [{"value": True}, {"value": 1}, {"value": 1.0}, {"value": None}, {"error": "ValueError"}]
    wants = [True, 1.0, None, {"error": "ValueError"}]
    assert [[grader.same(reply, want) for reply in replies].index(True) for want in wants] == [0, 2, 3, 4]
    assert sum(grader.same(reply, want) for reply in replies for want in wants) == 4
    assert grader.share([True] * 3, [False]) == grader.share([False], [True]) == 0.0
    assert grader.share([True, True, True, False], [True, False]) == 0.25
