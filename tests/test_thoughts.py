"""data/thoughts.py: long thoughts that err where they should, and nowhere else."""

import json
import random
import re
import sys
from pathlib import Path

import pytest
from conftest import refusal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
import thoughts  # noqa: E402
from reward import is_correct  # noqa: E402

TERMS = [69, -71, -20, 72]  # 50


def drawn(n: int):
    """(terms, number of checks, response) of so many drawn sums."""
    rng = random.Random(0)
    for _ in range(n):
        terms = [rng.randint(0, 99), *(rng.randint(-99, 99) for _ in range(rng.randint(1, 3)))]
        checks = rng.randrange(6)
        yield terms, checks, thoughts.make_thought(terms, checks, rng)


def wrong_lines(response: str) -> int:
    """How many lines of a response are wrong sums."""
    sums = re.findall(r"^(-?\d+) ([+-]) (\d+) = (-?\d+)$", response, re.MULTILINE)
    return sum(int(a) + int(sign + b) != int(total) for a, sign, b, total in sums)


def test_only_the_first_attempt_errs_and_one_check_repairs_it():
    slips = 0
    for terms, checks, response in drawn(400):
        slip = wrong_lines(response)
        slips += slip
        assert slip <= 1 and wrong_lines(response.split("I get")[1]) == 0
        assert is_correct(response, str(sum(terms))) == (slip == 0 or checks > 0)
        assert response.count("from the end") == checks
        assert response.count("do it again") == (slip if checks else 0)
    assert 60 < slips < 140  # a quarter of 400, 3.4 standard deviations to both sides


@pytest.mark.parametrize("problem, terms", [
    ("State the final answer to the following arithmetic problem: 69 - 71 - 20 + 72 =", TERMS),
    ("-5 + 3 =", [-5, 3]),
    ("Add 3 and 4.", []),
])  # fmt: skip
def test_the_terms_of_a_problem(problem, terms):
    assert thoughts.terms_of(problem) == terms


def test_the_rows_are_those_of_the_problems(tmp_path):
    rows = [{"id": f"s-{i}", "problem": f"Work out {i} - 20 + 72 =", "answer": str(i + 52)} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    thoughts.main(str(tmp_path / "p.jsonl"), str(tmp_path / "t.jsonl"))
    made = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [{key: row[key] for key in rows[0]} for row in made] == rows
    assert all(row["finished"] and row["response"].startswith("<think>\n") for row in made)


def test_a_problem_without_a_sum_is_refused(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"problem": "Who?", "answer": "1"}')
    assert "line 1 ends in no sum" in refusal(capsys, lambda: thoughts.main(str(tmp_path / "p.jsonl"), str(tmp_path / "t.jsonl")))
    assert not (tmp_path / "t.jsonl").exists()
