"""The search toy: problems, traces, reuse of data/toy.py. Run: python -m pytest tests/test_search.py"""

import doctest
import json
import random
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
import search  # noqa: E402
import toy  # noqa: E402
from reward import is_correct  # noqa: E402

SMALL = dict(steps=1, n_train=12, n_val=4, n_test=6, n_cold=5, tokens_per_step=256)
LINE = re.compile(r"([a-e]) (\d+) ([a-e]) (\d+) = (\d+) -(\d+) ([+-]\d+)( yes)?")


def asked(problem: str) -> tuple[dict[str, str], int]:
    """({name: number}, target) of a problem's text."""
    return dict(re.findall(r"\b([a-e]) (\d+)", problem)), int(re.search(r"make (\d+)\?", problem)[1])


def check_lines(trace: str, problem: str) -> list[tuple[str, str]]:
    """The pairs that a trace tries, after all its sums and verdicts have been checked."""
    numbers, target = asked(problem)
    lines = LINE.findall(trace)
    for x, a, y, b, total, wanted, over, yes in lines:
        assert (numbers[x], numbers[y], int(wanted)) == (a, b, target) and int(a) + int(b) == int(total)
        assert int(total) - target == int(over) and bool(yes) == (over == "+0")
    return [(line[0], line[2]) for line in lines]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4))
def test_a_trace_tries_the_pairs_in_order_up_to_the_right_one(seed, n_extra):
    rng = random.Random(seed)
    numbers, place = search.make_problem(rng)
    trace, problem = search.make_trace(numbers, place, n_extra, rng), search.problem_text(numbers, place)
    names = [(search.NAMES[i], search.NAMES[j]) for i, j in search.PAIRS]
    assert check_lines(trace, problem)[: place + 1] == names[: place + 1]
    assert len(re.findall("Wait|Hmm", trace)) == n_extra
    assert is_correct(trace, ", ".join(names[place]))


def test_traces_of_sums_are_true_and_right_about_as_often_as_a_guess():
    rng, right = random.Random(0), 0
    for _ in range(2000):
        problem = search.make_problem(rng)
        trace = search.make_sums(*problem, rng)
        pairs = check_lines(trace, search.problem_text(*problem))
        assert 1 <= len(pairs) <= 6 and trace.endswith(f"\\boxed{{{', '.join(pairs[-1])}}}.")
        right += is_correct(trace, search.answer_of(search.PAIRS[problem[1]]))
    assert 150 < right < 250  # one pair of ten


def test_splits_are_disjoint_and_only_the_answer_is_right():
    splits = search.make_splits(search.Config(n_train=300, n_val=50, n_test=50, n_cold=40))
    rows = [row for split in splits.values() for row in split]
    assert len({row["problem"] for row in rows}) == len(rows) == 440
    for row in rows:
        numbers, target = asked(row["problem"])
        pairs = [(search.NAMES[i], search.NAMES[j]) for i, j in search.PAIRS]
        fitting = [k for k, (x, y) in enumerate(pairs) if int(numbers[x]) + int(numbers[y]) == target]
        assert fitting == [row["depth"] - 1] and row["answer"] == ", ".join(pairs[fitting[0]])
    for row in splits["cold_start"]:
        assert len(check_lines(row["response"], row["problem"])) == row["depth"] and row["finished"]
        assert is_correct(row["response"], row["answer"])


def test_rows_avoid_held_out_problems_and_the_early_ones_try_the_pairs_in_any_order():
    tokenizer, held_out = search.build_tokenizer(), {search.problem_text(*search.make_problem(random.Random(0)))}
    first = {}
    for long in (0.0, 1.0):
        rows = search.make_rows(search.Config(), tokenizer, 40, long, held_out, random.Random(0))
        texts = [(tokenizer.decode(prompt), tokenizer.decode(response)) for prompt, response in rows]
        assert not held_out & {prompt.split("<|user|>")[1].split("\n")[0] for prompt, _ in texts}
        first[long] = {LINE.search(response).group(1, 3) for _, response in texts}
    assert first[1.0] == {("a", "b")} and len(first[0.0]) > 5


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A search toy trained for one step."""
    cfg = search.Config(**SMALL, out_dir=str(tmp_path_factory.mktemp("search") / "base"))
    search.make(cfg)
    return cfg


def test_the_folder_has_problems_and_a_cold_start_and_is_reused(base, capsys):
    folder = Path(base.out_dir)
    rows = [json.loads(line) for line in (folder / "cold_start.jsonl").read_text().splitlines()]
    assert len(rows) == 5 and {"problem", "response", "answer", "finished"} <= rows[0].keys()
    search.make(base)
    assert "reused" in capsys.readouterr().out


def test_making_it_leaves_the_other_toy_as_it_was(base):
    splits = toy.make_splits(toy.Config(n_train=1, n_val=1, n_test=1))
    assert sorted(splits) == ["test", "train", "val"] and "Find" in splits["test"][0]["problem"]


def test_made_text_never_falls_to_letters():
    tokenizer, rng = search.build_tokenizer(), random.Random(0)
    for k in range(40):
        problem = search.make_problem(rng)
        text = search.problem_text(*problem) + "\n" + search.make_trace(*problem, k % 5, rng)
        pieces = map(tokenizer.decode, tokenizer(text).input_ids)
        assert not [p for p in pieces if len(p) == 1 and p not in "\n.,:?" + search.NAMES]


def test_what_is_taught_stands_in_the_recipe():
    digests = {toy.recipe_of(search.Config(traces=traces), search.__file__)["recipe"] for traces in ("search", "sums")}
    assert len(digests | {toy.recipe_of(toy.Config())["recipe"], toy.recipe_of(toy.Config(), search.__file__)["recipe"]}) == 4


def test_statistics_by_depth(tmp_path, capsys):
    shown, hidden = "a 1 b 2 = 3 -3 +0 yes\n</think>\nThe answer is \\boxed{a, b}.", "</think>\n\\boxed{a, b}"
    rows = [("p", "a, b", shown, 20, True), ("p", "a, b", hidden, 10, True), ("q", "d, e", "Try for 3", 90, False)]
    rows = [dict(zip(("id", "gold", "response", "n_tokens", "correct"), row)) for row in rows]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search.stats([str(tmp_path / "rollouts.jsonl")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines[0] == "1 1 15.0 +- 0.0 100.0 +- 0.0 1 of 2".split()
    assert lines[1] == "10 1 90.0 +- 0.0 0.0 +- 0.0 0 of 0".split()
    assert lines[2] == "all 2 52.5 +- 37.5 50.0 +- 50.0 1 of 2".split()


def test_doctests():
    assert doctest.testmod(search).failed == 0
