"""data/gym.py: splits of a reasoning-gym task that share no problem. Skips without that package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refusal

pytest.importorskip("reasoning_gym", reason="pip install reasoning-gym")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "data"))


def gym(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "data/gym.py", *words], cwd=ROOT, capture_output=True, text=True)


def test_no_problem_stands_in_two_splits_or_twice(tmp_path):
    small = '{"max_terms": 2, "max_digits": 1}'  # 200 problems in all: many repetitions to drop
    ran = gym(
        "chain_sum", "--options", small, "--train", "40", "--val", "10", "--test", "20", "--out_dir", str(tmp_path)
    )
    assert ran.returncode == 0, ran.stderr
    files = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()] for name in ("train", "val", "test")
    }
    assert {name: len(rows) for name, rows in files.items()} == {"train": 40, "val": 10, "test": 20}
    assert len({row["problem"] for rows in files.values() for row in rows}) == 70
    assert len({row["id"] for rows in files.values() for row in rows}) == 70


@pytest.mark.parametrize("words, said", [
    (["nosuch"], "nosuch"),
    (["chain_sum", "--options", '{"max_tems": 2}'], "max_tems"),
    (["chain_sum", "--options", '{"max_terms": 2, "max_digits": 1}', "--train", "500"], "different problems"),
    ([], "usage"),
])  # fmt: skip
def test_what_cannot_work_is_one_line_and_writes_nothing(words, said, tmp_path):
    ran = gym(*words, *(["--out_dir", str(tmp_path / "out")] if words else []))
    assert ran.returncode == 2 and said in ran.stderr and len(ran.stderr.splitlines()) == 1, ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_task_whose_answers_the_grader_cannot_read_is_refused(monkeypatch, capsys):
    import gym

    rows = [{"question": "Close it.", "answer": "{{}"}] * 20

    monkeypatch.setattr("reasoning_gym.create_dataset", lambda *_, **__: rows)
    assert "cannot compare" in refusal(capsys, lambda: gym.draw("brackets", {}, 1, 0))
