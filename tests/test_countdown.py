"""Countdown: the checker against brute force and hostile texts, the problem files. python -m pytest tests/test_countdown.py"""

import dataclasses
import itertools
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import refusal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "data")]
import arithmetic  # noqa: E402
import countdown  # noqa: E402
from engine.problems import load_problems  # noqa: E402
from reward import compute_score, grade, is_correct, same_answer  # noqa: E402

GOLD = "countdown: 3 5 7 -> 22"


# ---------------------------------------------------------------- right ones


def written(numbers: tuple[int, ...]):
    """All sums over these numbers in this order, each pair of brackets written: (text, value or None), by Python's eval."""
    if len(numbers) == 1:
        yield str(numbers[0])
        return
    for cut in range(1, len(numbers)):
        for left, right in itertools.product(written(numbers[:cut]), written(numbers[cut:])):
            for sign in "+-*/":
                yield f"({left}{sign}{right})"


def by_python(text: str) -> Fraction | None:
    """The value of one of our own texts; None where it divides by zero."""
    try:
        return eval(re.sub("[0-9]+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        return None


@pytest.mark.parametrize("numbers", [*itertools.combinations_with_replacement(range(4), 2), (1, 2, 3), (2, 3, 3), (0, 4, 9), (6, 6, 6)])
def test_all_sums_of_small_numbers_against_brute_force(numbers):
    values = {}
    for order in set(itertools.permutations(numbers)):
        for text in written(order):
            values[text] = by_python(text)
            bare = text.replace("(", "").replace(")", "")  # without brackets: what binds tighter
            values[bare] = by_python(bare)
    for target in range(0, 20):
        gold = arithmetic.gold_text(list(numbers), target)
        assert [t for t in values if arithmetic.reaches(t, gold)] == [t for t, v in values.items() if v == target]
        assert arithmetic.solvable(gold) == (target in values.values())


def test_four_numbers_are_solvable_as_brute_force_says():
    for numbers in ((1, 5, 5, 5), (3, 3, 8, 8), (1, 1, 1, 1), (13, 7, 2, 40)):
        found = {by_python(text) for order in set(itertools.permutations(numbers)) for text in written(order)}
        for target in range(60):
            assert arithmetic.solvable(arithmetic.gold_text(list(numbers), target)) == (target in found)


@pytest.mark.parametrize("text", ["3*5+7", "7 + 5 * 3", "(3×5)+7", r"3 \times 5 + 7", r"7+\left(3\cdot5\right)", "((((3*5))))+7", " 3\n*5+7 "])
def test_right_answers_in_other_spellings(text):
    assert arithmetic.reaches(text, GOLD)


# ---------------------------------------------------------------- hostile ones

HOSTILE = """
22|3*5+7=22|22=3*5+7|3*5|3*5+7+0|3*5+7*1|3+5+7+7|3*5+7-7+7|3*5+5+2|5*3+7;|3**5+7|3//5+7|3^5+7|3*5+7//1|3*5+07|03*5+7|3*5+7.0|3.0*5+7
+3*5+7|-3*-5+7|3*-5+7|-(-3*5)+7|7--3*5|3*+5+7|7+(+3*5)|~3*5+7|3%5+7|3&5+7|3|5+7|3<<5|3>>5|not 3|3 and 5|3 or 5*7|3 if 5 else 7|lambda: 22
3(5)+7|(3)(5)+7|3 5+7|3*5 7|35+7|3*(5+7|3*5)+7|)3*5+7(|()3*5+7|3*5+7()|(3*5+7|3*5+7)|[3*5]+7|{3*5}+7|<3*5>+7|3*5+(7|((3*5)+7|3*5++7|3**5+7
1,000|3*5,7|3,5,7|3*5+7,|3;5;7|3*5+7 # 22|3*5+7 // right|3*5+7\\\\|3*5+7\\|"3*5+7"|'22'|f"{22}"|3*5+7!|3!*5+7|3*5+7e0|3e0*5+7|0x3*5+7|0b11*5+7
3j*5+7|3_0*5+7|3*5+7L|3*5+7j|abs(3*5+7)|max(3,5,7)|int("22")|sum([3,5,7])|len("x"*22)|pow(3,5)+7|x|a*b+c|True*22|None|nan|inf|1/0|pi*7|e|i
__import__("os").system("true")|open("/etc/passwd").read()|exec("a=1")|eval("22")|().__class__|globals()|3*5+7 or exit()|quit()|print(22)|@
٣*٥+٧|３*５+７|³*5+7|3*5+⁷|Ⅲ*Ⅴ+Ⅶ|③*⑤+⑦|三*五+七|½*44|3*5+7\u200b|3\u200b*5+7|3\u00ad*5+7|\ufeff3*5+7|3∗5+7|3⋅5+7|3·5+7|3﹢5|3＋5＋7|3⁄5|（3*5）+7|3*5+7️⃣|3 x 5 + 7|3X5+7|3:5+7|3÷|÷
\\frac{3}{5}+7|\\sqrt{3*5+7}|3\\times{5}+7|3\\timesx5+7|\\timess|3\\cdotp 5+7|\\left(3*5\\right]+7|\\left|\\right)|\\text{3*5+7}|$3*5+7$|\\boxed{3*5+7}|3*5\\,+7|\\\\times|3\\+5|\\
3/(5-5)+7|7/(3-3)|7/0|0/0|3*5+7/0|(3*5+7)/(7-7)|7/(5-5)*3|5*3+7/(3-3)|3-5-7|3/5/7|3/5*7|3+5-7|3-(5-7)|7*3-5|7*5-3|5*7-3*3|7+5+3+7|3*5+7+3*0
|(|)|+|-|*|/|()|(())|+-|*/|3|3*|*3|3+|(3|3)|3*5+|3*5+7+|/3|3/|3 5 7|357|3 + 5 + 7 = 15|answer|the answer is 3*5+7|3*5+7 is right|22.0|22/1|44/2|countdown: 3 5 7 -> 22|-> 22
"""  # each is wrong for 22 from 3, 5, 7


def hostile() -> list[str]:
    lines = [line.encode().decode("unicode_escape") if "\\u" in line else line for line in HOSTILE.strip("\n").split("\n")]
    texts = [text for line in lines for text in line.split("|")]
    deep, long = "(" * 10_000, "9" * 10_000
    made = [deep, deep + "3*5+7" + ")" * 10_000, "(" * 90 + "3*5+7" + ")" * 90, long, f"{long}*{long}", "9**9**9**9"]
    made += ["3*5+7" + "+0" * 60, "-" * 10_001, "+".join(["1"] * 22), "3*5+7\0", "\0", "\ud800", "3*5+7\ud800", "*" * 200, "3" + "/1" * 99, "1/" * 99]
    return texts + made


def test_hostile_answers_are_wrong_and_never_raise():
    texts = hostile()
    assert len(texts) >= 200
    assert [text for text in texts if arithmetic.reaches(text, GOLD)] == []
    assert not any(g.correct for g in grade([f"</think>\\boxed{{{text}}}" for text in texts], [GOLD] * len(texts)))


def test_brackets_are_read_to_twenty_deep_and_texts_to_200_signs():
    nested = lambda n: "(" * n + "3*5" + ")" * n + "+7"  # noqa: E731
    assert [arithmetic.reaches(nested(n), GOLD) for n in (20, 21)] == [True, False]
    assert [arithmetic.reaches("3*5+7".ljust(n), GOLD) for n in (200, 201)] == [True, False]


# ---------------------------------------------------------------- the verdict of everything that grades


def test_the_verdict_is_that_of_the_last_box_after_the_thought():
    right = "3*5 = 15. \\boxed{1}</think> So \\boxed{(3*5)+7}."
    assert is_correct(right, GOLD) and compute_score("", right, GOLD) == 1.0
    assert not is_correct("\\boxed{3*5+7}</think> So \\boxed{22}.", GOLD) and not is_correct("\\boxed{3*5+7}", GOLD)
    assert same_answer("3*5+7", f" {GOLD}") and not same_answer(GOLD, GOLD)


# ---------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """Few numbers, so that many draws repeat."""
    cfg = countdown.Config(largest=6, train=150, val=20, test=40, out_dir=str(tmp_path_factory.mktemp("countdown")))
    countdown.main(cfg)
    return cfg


def test_splits_share_no_numbers_with_their_target_and_all_can_be_solved(cfg):
    splits = {name: load_problems(f"{cfg.out_dir}/{name}.jsonl") for name in ("train", "val", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 150, "val": 20, "test": 40}
    asked = [arithmetic.GOLD.fullmatch(row["answer"]).groups() for rows in splits.values() for row in rows]
    assert len({(tuple(sorted(numbers.split())), target) for numbers, target in asked}) == 210
    assert all(arithmetic.solvable(row["answer"]) for rows in splits.values() for row in rows)
    for row, (numbers, target) in zip(itertools.chain(*splits.values()), asked):
        assert f"Make {target} from the numbers {numbers.replace(' ', ', ')}," in row["problem"]


def test_another_seed_gives_other_problems_and_a_larger_training_set_the_same_test(cfg, tmp_path):
    for name, changes in (("seed", {"seed": 1}), ("more", {"train": 160})):
        countdown.main(dataclasses.replace(cfg, out_dir=str(tmp_path / name), **changes))
    test = [(Path(folder) / "test.jsonl").read_text() for folder in (cfg.out_dir, tmp_path / "seed", tmp_path / "more")]
    assert test[0] == test[2] != test[1]


@pytest.mark.parametrize("changes, said", [
    ({"sizes": "3 9"}, "--sizes"), ({"sizes": ""}, "--sizes"), ({"train": 0}, "--train"), ({"target": 9}, "--target"),
    ({"largest": 2, "sizes": "2", "train": 1, "val": 1, "test": 9}, "only"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused_and_nothing_is_written(changes, said, tmp_path, capsys):
    cfg = dataclasses.replace(countdown.Config(out_dir=str(tmp_path / "out")), **changes)
    assert said in refusal(capsys, lambda: countdown.main(cfg)) and not (tmp_path / "out").exists()


def test_files_that_are_there_are_not_written_over(cfg, capsys):
    assert "exists" in refusal(capsys, lambda: countdown.main(cfg))


@pytest.mark.parametrize("gold", ["countdown: 1 1 -> 100", "countdown: 3, 5 -> 8", "countdown: -> 3", "countdown: 3 5"])
def test_a_row_that_cannot_be_solved_is_named(gold, tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"problem": "Make it.", "answer": g}) + "\n" for g in (GOLD, gold)))
    assert "line 2" in refusal(capsys, lambda: load_problems(str(file)))
