r"""The specification of reward.py, and the grader of the course exercise:

    python -m pytest tests/test_reward.py --reward path/to/theirs.py

A student's file needs extract_answer, is_correct and thinkprune: without one of them its tests fail and say so. Tests of
anything else skip where it is missing or left blank, and say so too.
"""
import contextlib
import dis
import doctest
import json
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import pytest

import latex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

THOUGHT = "<think>\nLet me work it out.\n</think>\n\n"
HANG = 30                                             # seconds; a limit for hangs, never a measure of speed


@pytest.fixture(scope="session")
def reward(request):
    """The file under test; what it lacks fails the one test that asks for it, what does not import ends the run."""
    try:
        module = request.getfixturevalue("reward")
    except (Exception, SystemExit) as error:
        if isinstance(error, pytest.exit.Exception):
            raise
        pytest.exit(f"error: {request.config.getoption('--reward')} does not import: {error!r}", returncode=2)

    def missing(name):
        if name in ("extract_answer", "is_correct", "thinkprune"):
            pytest.fail(f"your file has no {name}", pytrace=False)
        raise AttributeError(f"your file has no {name}")
    module.__getattr__ = missing
    return module


def blank(value) -> bool:
    """A function whose body is `...` or `pass`: it loads nothing and calls nothing."""
    code = getattr(value, "__code__", None)
    return bool(code) and not code.co_names and len([*dis.get_instructions(code)]) <= 3


def need(reward, *names):
    if missing := [n for n in names if n not in vars(reward) or blank(vars(reward)[n])]:
        pytest.skip(f"your file has no {', '.join(missing)} (yet): not graded")


@contextlib.contextmanager
def within(cpu_seconds):
    """Fails what computes for longer: a quadratic scanner would keep the whole run for minutes."""
    def late(*_):
        pytest.fail(f"your function was still computing after {cpu_seconds} seconds", pytrace=False)
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def right(reward, answer, gold) -> bool:
    return reward.is_correct(rf"{THOUGHT}The answer is $\boxed{{{answer}}}$.", gold)


def check(reward, cases):
    """Each case is "answer ~ gold" (equal) or "answer # gold" (not equal)."""
    wrong = []
    for case in filter(None, map(str.strip, cases.splitlines())):
        sign = " ~ " if " ~ " in case else " # "
        answer, gold = case.split(sign)
        if right(reward, answer, gold) != (sign == " ~ "):
            wrong.append(f"\\boxed{{{answer}}} must{' ' if sign == ' ~ ' else ' not '}equal the gold answer {gold}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


# ------------------------------------------------------------------------------------------ extraction
@pytest.mark.parametrize("response, answer", [
    (r"so \boxed{5}</think> Hence \boxed{4}.", "4"),
    (r"<think>a</think> maybe \boxed{5} <think>b</think> \boxed{4}", "4"),
    (r"</think>First \boxed{4}. Correction: \boxed{7}", "7"),
    (r"</think>\boxed{\frac{1}{2}} and done", r"\frac{1}{2}"),
    (r"</think>\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"</think>\boxed {4}", "4"),
    (r"</think>a stray } and { then \boxed{4}", "4"),
    (r"</think>\boxed{4}<|im_end|>", "4"),
    (r"</think>\boxed{3+\boxed{4}}", r"3+\boxed{4}"),
])
def test_the_answer_is_the_last_balanced_box_after_the_last_think_end(reward, response, answer):
    assert reward.extract_answer(response) == answer


@pytest.mark.parametrize("response", [
    r"<think>so \boxed{4}", r"\boxed{4}", r"a</think>b \boxed{4}</think>", r"</think>The answer is 4", r"</think>\boxed 4",
    r"</think>boxed{4}", r"</think>\fbox{4}", r"</think>\boxed{4", r"</think>\boxed{\frac{1}{2}", "", "</think>",
    r"a</think><think>again \boxed{4}",
])
def test_no_box_after_thinking_or_a_cut_box_is_no_answer(reward, response):
    assert reward.extract_answer(response) is None


def test_without_thinking_the_whole_text_is_read(reward):
    assert reward.extract_answer(r"so \boxed{4}", thinking=False) == "4"
    assert reward.is_correct(r"so \boxed{4}", "4", thinking=False)


@pytest.mark.parametrize("response", [None, 3, b"\\boxed{4}", ["\\boxed{4}"]])
def test_a_response_that_is_no_text_is_no_answer(reward, response):
    assert reward.extract_answer(response) is None and reward.is_correct(response, "4") is False


@pytest.mark.parametrize("parts", [r"\boxed{ 150000", "{ 500000", "</think> 100000", r"\boxed{} 100000", r"\\ 400000",
                                   r"\boxed{{ 100000", "<think> 100000", "$ 500000"])
def test_a_megabyte_of_anything_is_read_in_linear_time(reward, parts):
    text, times = parts.split()
    with within(cpu_seconds=5):
        answer = reward.extract_answer(THOUGHT + text * int(times))
    assert answer == {r"\boxed{}": ""}.get(text)


# ------------------------------------------------------------------------------------------ the reward
def test_a_right_answer_that_ended_within_the_cap_earns_1(reward):
    assert reward.thinkprune(True, True, 4000, 4000) == reward.thinkprune(True, True, 1, 4000) == 1.0


@pytest.mark.parametrize("correct, finished, n_tokens", [(True, False, 4000), (True, False, 10), (True, True, 4001),
                                                         (False, True, 900), (False, False, 4000)])
def test_wrong_unfinished_or_over_the_cap_earns_0(reward, correct, finished, n_tokens):
    assert reward.thinkprune(correct, finished, n_tokens, 4000) == 0.0


def test_the_reward_is_a_float_and_a_cap_below_1_is_our_mistake(reward):
    assert type(reward.thinkprune(True, True, 1, 1)) is float
    with pytest.raises(ValueError, match="cap"):
        reward.thinkprune(True, True, 1, 0)


# ------------------------------------------------------------------------------------------ the policy
def test_numbers_compare_exactly(reward):
    check(reward, r"""
        025 ~ 25
        25 ~ 025
        +25 ~ 25
        25. ~ 25
        25.0 ~ 25
        1,234 ~ 1234
        1{,}234 ~ 1234
        1\,234 ~ 1234
        10,\!080 ~ 10080
        .5 ~ 0.5
        \frac12 ~ 0.5
        1/2 ~ \frac{1}{2}
        \dfrac{2}{4} ~ 1/2
        −3 ~ -3
        0.\overline{6} ~ \frac{2}{3}
        0.1\overline{6} ~ 1/6
        0.\overline{3} ~ 0.\overline{33}
        1.5e3 ~ 1500
        25{} ~ 25
        0.\bar{3} ~ 1/3
        200, 100 ~ 100, 200
        100, 200 # 100200
        2500 # 25
        0.25 # 25
        900.05 # 900
        25.0000001 # 25
        0.333333333 # 1/3
        \frac{2}{1} # \frac{1}{2}
        \frac{1}{3} # 13
        1,2,3 # 123
        12,34 # 1234
        25 25 # 2525
        -25 # 25
        3.14159265 # \pi
        1.4142135623730951 # \sqrt{2}
        \frac{\pi}{6} # 0.5235987755982988
        0.\overline{3} # 0.3
        0.\overline{36} # 0.\overline{63}
        \text{nan} # 25
        1/0 # 1""")
    assert right(reward, str(10**22 + 1), 10**22 + 1) and not right(reward, str(10**22), 10**22 + 1)
    assert right(reward, "25", 25.0) and right(reward, "0.1", 0.1) and right(reward, "0.00001", 1e-05)


def test_numbers_side_by_side_are_a_product_or_nothing_but_never_a_sum(reward):
    check(reward, r"""
        20(5) ~ 5(20)
        (20)(5) ~ 5(20)
        3(1/2) ~ 1+1/2+0
        20(5) # 25
        (20)5 # 25
        {20}{5} # 25
        20{5} # 25
        20[5] # 25
        [20]5 # 25
        \frac{20}{1}\frac{5}{1} # 25
        20\{5\} # 25
        20 5 # 25
        20\binom{5}{1} # 25
        \frac{40}{2}(5) # 25
        20\text{ }5 # 25
        \frac{20}{1}{5} # 25
        \frac{\frac{20}{1}}{1}{5} # 25
        2(x+1) ~ 2x+2
        \log_2(8) ~ 3""")


def test_a_number_must_be_worked_out(reward):
    """Found by a real model under this reward: it boxed the sum that it was asked for, and thought no more."""
    check(reward, r"""
        69-53+56 # 72
        69 - 53 + 56 = 72 ~ 72
        x = 69-53+56 # 72
        8 \times 9 # 72
        8(9) # 72
        144 \div 2 # 72
        \frac{100+44}{2} # 72
        (70+2) # 72
        70+2,5 # 72,5
        \frac{1}{2}+\frac{1}{3} # \frac{5}{6}
        \frac{10}{12} ~ \frac{5}{6}
        3*2^{3}*3 # 72
        -\frac{1}{2} ~ -0.5
        1\frac{1}{2} ~ 1.5
        2.5 \times 10^{-3} ~ 0.0025
        7.2 \cdot 10^1 ~ 72
        \binom{5}{2} ~ 10
        2^{3}\cdot 3^{2} ~ 3^2 \cdot 2^3
        (72) ~ 72
        x+1+2 ~ x+3
        144/2 # 72
        -\frac{144}{-2} # 72
        \frac{7}{2} ~ 3.5
        \frac{\frac{1}{2}}{\frac{1}{3}} # 1.5
        3+\frac{15}{5} # 6
        1+\frac{1}{2} ~ 1.5
        2^{3}+1 # 9
        2^3 ~ 2+6
        3!2! # 12
        (8)9 # 72
        \sqrt{9}+\sqrt{16} # 7
        \sqrt{5^2-3^2} # 4
        \log_2(3+5) # 3
        69-53+56+\sqrt[3]{0} # 72
        69x/x+3x/x # 72
        7\times10^1\times10^1 # 700
        1+0.5 # 1\frac{1}{2}
        70+2 # 7.2\times10^1
        2+2 # 2^2
        (8/2,2) # (4,2)
        8/2\text{ cm} # 4
        -(2\frac{3}{4}) ~ -2.75
        2\frac{3}{4}\text{ cups} ~ 2.75""")


def test_an_equation_that_gives_a_number_must_be_solved(reward):
    check(reward, r"""
        2x+3=13 # x=5
        x-5=0 # x=5
        x=4+1 # x=5
        y=5 # x=5
        5=x ~ x=5
        x=\frac{10}{2}=5 ~ x=5
        x=\frac12 ~ 0.5=x
        2xy=12 ~ xy=6
        b+a=7 ~ a+b=7""")


def test_a_common_unicode_character_is_its_latex_a_rare_one_is_nothing(reward):
    check(reward, r"""
        ２５ ~ 25
        ＋2５ ~ 25
        x＝25 ~ 25
        1½ ~ 1.5
        2³ ~ 8
        2⋅3 ~ 3*2
        √2 ~ \sqrt{2}
        ⅔ ~ 2/3
        x≠7 ~ x\ne 7
        —7 ~ -7
        2³ # 23
        2⁴ # 24
        x₁ # x1
        ⁷ # 7
        ₇ # 7
        7̸ # 7
        А # A
        7… # 7""")
    assert right(reward, "7\u00a0000", "7000") and right(reward, "\u200b7\ufeff", "7")       # spaces that nobody sees


def test_mixed_numbers_are_sums(reward):
    check(reward, r"""
        1\frac12 ~ 1.5
        1 \frac{1}{2} ~ 3/2
        -1\frac12 ~ -1.5
        137 \frac{1}{2} ~ 137.5
        20\frac{5}{1} # 25
        1\frac45+x # x+\frac45
        1\frac12 # 0.5""")


def test_a_unit_may_be_left_out_but_must_agree_where_both_give_one(reward):
    check(reward, r"""
        25 ~ 25\text{ cm}
        25\text{ cm} ~ 25
        25 \mbox{ cm}^2 ~ 25\text{ square cm}
        25\text{ m} # 25\text{ cm}
        30 ~ 30^\circ
        30\text{ degrees} ~ 30^\circ
        \$25 ~ 25
        25\$ ~ 25
        25 cm ~ 25\text{ cm}
        \frac{1}{2} hours ~ \frac12
        25\text{ dollars} ~ \$25
        24\text{ cm} # 25\text{ cm}
        25\text{ million} # 25
        \text{not } 25 # 25
        25\text{ is not it} # 25
        25\text{ square inches} ~ 25\text{ square inch}
        25\text{ points} ~ 25
        25\text{ s} # 25\text{ m}
        25\text{ point five} # 25
        25\text{ squared} # 25
        25\text{ billions} # 25
        25\text{ hundredths} # 25
        25\text{ degrees below zero} # 25
        25\text{ at most} # 25
        25\text{ wrong} # 25""")


def test_a_percent_sign_is_a_unit(reward):
    check(reward, r"""
        25\% ~ 25
        25 ~ 25\%
        10\% # 0.1
        0.1 # 10\%""")


def test_a_base_subscript_must_stand_there_and_agree(reward):
    check(reward, r"""
        52_8 ~ 52_{8}
        52_8 # 52_9
        52 # 52_8
        52_8 # 52
        42 # 52_8""")


def test_lists_and_sets_have_no_order_and_exactly_the_golds_length(reward):
    check(reward, r"""
        2, 1 ~ 1,2
        1 \text{ and } 2 ~ 1,2
        1 and 2 ~ 1,2
        \{2,1\} ~ \{1,2\}
        \left\{1, 2\right\} ~ 1,2
        x=1 \text{ or } x=2 ~ 1,2
        3 \pm 2\sqrt{2} ~ 3-2\sqrt{2}, 3+2\sqrt{2}
        4 or 5 # 4
        4, 5 # 4
        4 # 4,5
        \{1,2,3\} # \{1,2\}
        \{1,1\} # \{1,2\}
        1+\sqrt{19} # 1\pm\sqrt{19}""")


def test_brackets_keep_order_and_kind(reward):
    check(reward, r"""
        (1,2) ~ \left( 1, 2 \right)
        (0.5, 2) ~ (\frac12, 2)
        (2,1) # (1,2)
        [1,2] # (1,2)
        1,2 # (1,2)
        (-\infty,3] ~ (-\infty, 3]
        (-\infty,3) # (-\infty,3]
        (1,2)\cup(3,4) ~ (3,4)\cup(1,2)
        (1,2) # (1,2)\cup(3,4)
        [-2,7] ~ x \in [-2,7]
        \bigl(1,2\bigr) ~ (1,2)
        (25) ~ 25
        [25] # 25""")


def test_inequalities_equal_only_inequalities(reward):
    check(reward, r"""
        1<x<2 # (1,2)
        24 < x < 26 # 25
        x \le 25 # 25
        x \geq 3 ~ x \ge 3
        x<=5 ~ x \le 5
        \le 25 # 25
        25 < # 25
        x > 3 # x \ge 3""")


def test_a_named_value_is_the_value_and_every_part_of_a_chain_must_agree(reward):
    check(reward, r"""
        x=5 ~ 5
        5 ~ x=5
        f(3) = 5 ~ 5
        x = \frac{10}{2} = 5 ~ 5
        x=5 # y=5
        26=25 # 25
        (26)=25 # 25
        x=(26)=25 # 25
        25=26 # 25
        2x=25 # 25
        x=x # 25
        x \ne 25 # 25
        \not= 25 # 25
        y=2x+1 ~ 2x-y+1=0
        x^2=-1 # x^2=-2
        y=x # y=2x+1""")


def test_choices_are_letters_and_words_are_words(reward):
    check(reward, r"""
        (A) ~ A
        \text{A} ~ (A)
        \text{(B)} ~ B
        A. ~ A
        B # A
        A, B, C, D # A
        \textbf{Evelyn} ~ \text{Evelyn}
        evelyn ~ \text{Evelyn}
        mary-ann ~ \text{Mary-Ann}
        p-q # P-Q
        \text{not Evelyn} # \text{Evelyn}
        neve # \text{even}
        \text{True} # 1
        x # X""")


def test_algebra_counts_when_it_is_equal(reward):
    check(reward, r"""
        \sin^2 x+\cos^2 x ~ 1
        b+a ~ a+b
        2i+1 ~ 1+2i
        \binom{5}{2} ~ 10
        \frac{7!}{16} ~ 315
        6.72 \times 10^{-5} ~ .0000672
        2\sqrt5 ~ \sqrt{20}
        \frac{\sqrt3}2 ~ \frac{\sqrt{3}}{2}
        π ~ \pi
        \begin{bmatrix}1&2\\3&4\end{bmatrix} ~ \begin{pmatrix}1&2\\3&4\end{pmatrix}
        2\sqrt{-1} ~ 2i
        e^{i\pi} ~ -1
        (1+i)^2 ~ 2i
        y+1 # x+1
        -i # i
        f'(x) # f(x)
        2'5 # 25
        2X # 2x
        X+1 # 1+x
        3\sqrt{2} # 32
        25* # 25
        25\sin # 25
        25| # 25
        25( # 25
        \frac{25\cdot 0}{0} # 25""")


def test_an_empty_gold_or_an_empty_box_is_never_right(reward):
    assert not any(right(reward, a, g) for a, g in [("", ""), (" ", " "), ("{}", "25"), ("None", None), ("25", ""), ("", None)])


def test_the_gold_may_come_in_dollars_or_boxed(reward):
    check(reward, "25 ~ $25$\n25 ~ \\boxed{25}\n25 ~ 25.\n\\[25\\] ~ 25\n\\(25\\) ~ $25$")


# ------------------------------------------------------------------------------------------ hostile text
@pytest.mark.parametrize("bomb", [
    "9^{9^{9^{9}}}", "9^9^9^9", "(10^{9})!", "((9!)!)!", "2^{-10^{12}}", "2^{99999999}", r"\sum_{k=1}^{10^9} k", r"\int_0^1 x^{x^x} dx",
    r"\prod_{k=1}^{10^6} k", r"\binom{10^9}{5}", r"\binom{99999999}{9999999}", "(((9^{999})^{999})^{999})^{999}", "9**9**9**9",
    r"\sqrt[999999999]{2^{999}}", "(x+y+z+w)^{999}", "9" * 399, "1/" * 199 + "1", "-" * 399 + "1", "(" * 199 + "1" + ")" * 199,
    "|" * 399, r"\frac" * 79, r"\sin" * 99 + "x", "x^{" * 99 + "1" + "}" * 99, "1," * 199 + "1", r"\pm" * 133, "=" * 399, "x=" * 199 + "26",
    "__import__('os').system('touch canary_file')", "().__class__.__bases__[0]", r"\input{/etc/passwd}", "exec('1')",
    r"\operatorname{eval}(1)", "‮52", "2\ud8005", "2\x005", "\N{CYRILLIC SMALL LETTER A}", "²⁵", "25\N{COMBINING LONG STROKE OVERLAY}",
])
def test_no_bomb_hangs_raises_leaves_a_file_or_is_right(reward, bomb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with within(cpu_seconds=5):
        assert right(reward, bomb, "25") is False
    assert time.monotonic() - start < HANG and not os.listdir(tmp_path)


@pytest.mark.parametrize("atom", [". ", " .", ", ", ",.", ",", " ", "a ", "or ", "^ ", "{", "}a", "\\\\ ", "1", "1,", "1 ", r"\text{a"])
def test_no_repeated_sign_keeps_the_trainer_waiting(reward, atom):
    need(reward, "same_answer")                                   # this part runs before the worker, so without a deadline
    for start in ("", "5 ", "(", r"\text{"):
        with within(cpu_seconds=5):
            assert reward.same_answer(start + atom * (1900 // len(atom)) + "#5", "5") is False


def test_every_decided_hostile_output(reward, shared_rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for row in shared_rows("hostile_outputs.jsonl"):
        text = row.get("output") or "".join(part * times for part, times in row["output_parts"])
        start = time.monotonic()
        with within(cpu_seconds=5):
            correct = reward.is_correct(text, row["gold"])
        verdict = reward.thinkprune(correct, True, row.get("n_tokens", 1), row.get("cap", 1))
        assert time.monotonic() - start < HANG, row["why"]
        if row["expected"] not in (verdict, "undecided"):
            wrong.append((row["id"], row["why"], verdict))
    assert not wrong and not os.listdir(tmp_path)


def test_agreement_with_real_outputs_is_at_least_99_percent(reward, shared_rows):
    rows = shared_rows("model_outputs.jsonl")
    differ = [(r["id"], r["gold"], r["verdict"]) for r in rows
              if reward.is_correct(r["output"], r["gold"], thinking="</think>" in r["output"]) != r["verdict"]]
    assert len(differ) <= 0.01 * len(rows), differ


FILES = ["aime2022", "aime2023", "aime2024", "aime_train", "amc23", "math500"]


@pytest.mark.parametrize("name", FILES)
def test_every_gold_equals_itself_and_no_other_number(reward, shared_rows, name):
    golds = dict.fromkeys(row["answer"] for row in shared_rows(f"{name}.jsonl"))
    assert [g for g in golds if not right(reward, g, g)] == []
    numbers = {}
    for gold in golds:
        try:
            numbers[gold] = Fraction(gold.replace(",", "").replace("\\!", ""))
        except ValueError:
            pass
    some = list(numbers)[:150]
    assert [(a, b) for a in some for b in some if numbers[a] != numbers[b] and right(reward, a, b)] == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60) | st.text("0123456789+-*/^_=(){}[]\\,.!xyi π", max_size=40), gold=st.text(max_size=20))
def test_any_text_against_any_gold_is_0_or_1(reward, text, gold):
    start = time.monotonic()
    for response in (text, rf"{THOUGHT}\boxed{{{text}}}"):
        assert reward.is_correct(response, gold) in (True, False)
    assert time.monotonic() - start < HANG


# ------------------------------------------------------------------------------------------ batches and workers
def test_a_batch_has_the_same_verdicts_and_the_strict_cap(reward):
    need(reward, "grade", "score")
    texts = [THOUGHT + r"\boxed{\frac{1}{2}}", THOUGHT + r"\boxed{x+1}", THOUGHT + "none", THOUGHT + r"\boxed{3}"]
    golds = ["0.5", "1+x", "1", "4"]
    assert [g.correct for g in reward.grade(texts, golds)] == [True, True, False, False]
    assert [g.answer for g in reward.grade(texts, golds)] == [r"\frac{1}{2}", "x+1", None, "3"]
    assert reward.score(texts, golds, [9, 9, 9, 9], [True, False, True, True], 16) == [1.0, 0.0, 0.0, 0.0]
    assert reward.score(texts, golds, [9, 17, 9, 9], [True] * 4, 16) == [1.0, 0.0, 0.0, 0.0]
    with pytest.raises(ValueError):
        reward.grade(texts, golds[:2])


def test_a_worker_that_hangs_is_killed_counted_and_replaced(reward, monkeypatch):
    need(reward, "grade", "close", "WALL_SECONDS")
    reward.close()
    monkeypatch.setattr(reward, "WALL_SECONDS", 0.02)
    sines = [rf"\sin({n}q)" for n in range(2, 39)]                # takes ten times as long
    slow, gold = "+".join(sines), "+".join(sines[::-1])
    grades = reward.grade([THOUGHT + rf"\boxed{{{slow}}}", THOUGHT + rf"\boxed{{{slow}+0}}"], [gold, gold])
    assert grades == [(slow, False, True), (slow + "+0", False, True)]
    monkeypatch.undo()
    reward.close()                                                # the next worker starts with the real deadline
    assert reward.is_correct(THOUGHT + r"\boxed{q+2}", "2+q")


def test_an_answer_goes_to_a_worker_once_with_all_its_parts_so_that_one_deadline_holds(reward, monkeypatch):
    need(reward, "grade", "_ask")
    asked, ask = [], reward._ask
    monkeypatch.setattr(reward, "_ask", lambda *pair: asked.append(pair) or ask(*pair))
    assert right(reward, "v+1, v+2, v+3", "3+v, 2+v, 1+v")
    assert len(asked) == 1


def test_a_worker_that_somebody_killed_is_replaced(reward):
    need(reward, "grade", "_ask", "close")
    assert right(reward, "u+1", "1+u")
    for worker in filter(None, reward._idle.queue):
        os.killpg(worker.pid, 9)
        worker.wait()
    assert right(reward, "u+2", "2+u")


@pytest.mark.parametrize("bomb", [r"\sin(e^{e^{17}})", r"\cos(e^{e^{e^{x}}})", r"(\pi^{\pi^{\pi^{\pi}}})!", r"e^{e^{e^{e^{x}}}}"])
def test_a_worker_ends_itself_when_its_time_or_memory_is_spent(reward, bomb):
    need(reward, "symbolic", "_ask")
    start = time.monotonic()                                      # nobody foresaw these, so they are not refused
    assert reward.is_correct(rf"{THOUGHT}\boxed{{{bomb}}}", rf"{bomb.replace('17', '18')}+1") is False
    assert time.monotonic() - start < HANG


def test_numbers_and_words_never_start_a_worker_nor_import_mpmath(reward):
    need(reward, "grade", "_ask")
    code = ("import runpy, sys; m = runpy.run_path(sys.argv[1])\n"
            "texts = ['</think>' + chr(92) + 'boxed{%s}' % a for a in ('7', '007', '8', '1/2', 'east', '(1,2)', 'x=3', '', '+')]\n"
            "m['grade'](texts, ['7'] * 9)\n"
            "assert 'mpmath' not in sys.modules\n"
            "assert all(w is None for w in m['_idle'].queue)")
    subprocess.run([sys.executable, "-c", code, reward.__file__], check=True, timeout=HANG)


def test_64_threads_at_once_agree(reward):
    want, got = [True, False], []
    def work(i):
        got.append([right(reward, rf"\sqrt{{{i + 2}}}+z", rf"z+\sqrt{{{i + 2}}}"), right(reward, f"{i}+z", f"{i + 1}+z")])
    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == [want] * 64


class Graded:
    """A dataset whose rows are verdicts: its DataLoader workers are daemons, forked from a process with live workers."""

    def __init__(self, reward):
        self.reward = reward

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return float(right(self.reward, f"{i}+x", f"x+{i - i % 2}"))


def test_the_same_answer_inside_a_dataloader_worker(reward):
    need(reward, "_ask")
    data = pytest.importorskip("torch.utils.data")
    assert right(reward, "x+y", "y+x")                            # the parent's own worker is alive when it forks
    loader = data.DataLoader(Graded(reward), num_workers=2, multiprocessing_context="fork", timeout=2 * HANG)
    assert [float(v) for v in loader] == [1.0, 0.0] * 4
    assert right(reward, "2x+y", "y+2x")


def test_a_copy_under_another_name_works_in_a_script_without_a_main_guard_and_leaves_no_process(reward, tmp_path):
    need(reward, "_ask")
    for name, source in (("my_grader.py", reward.__file__), ("latex.py", latex.__file__)):
        (tmp_path / name).write_text(open(source, encoding="utf-8").read(), encoding="utf-8")
    (tmp_path / "random.py").write_text("raise SystemExit('a neighbour shadows the standard library')")
    script = ("import my_grader as g\nassert g.is_correct('</think>' + chr(92) + 'boxed{x+1}', '1+x')\n"
              "print([w.pid for w in g._idle.queue if w])")
    (tmp_path / "homework.py").write_text("import sys; sys.path.insert(0, %r)\n" % str(tmp_path) + script)
    out = subprocess.run([sys.executable, "-P", "homework.py"], cwd=tmp_path, check=True, timeout=HANG, capture_output=True)
    for pid in json.loads(out.stdout):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# ------------------------------------------------------------------------------------------ command and adapters
def run(reward, *args):
    return subprocess.run([sys.executable, reward.__file__, *map(str, args)], capture_output=True, text=True, timeout=2 * HANG)


def test_the_command_prints_the_table_of_verdicts(reward, tmp_path):
    need(reward, "main")
    rows = [(r"</think>\boxed{4}", True), (r"</think>\boxed{3} or \boxed{5}", True), ("</think>4", True), (r"</think>\boxed{4}", False)]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps({"response": r, "gold": "4", "finished": f, "correct": True}) + "\n" for r, f in rows))
    out = run(reward, path)
    counts = {line[:13].strip(): int(line[13:].split()[0]) for line in out.stdout.splitlines()}
    assert counts == {"right": 1, "wrong": 1, "no box": 1, "not finished": 1, "timed out": 0, "several boxes": 1, "all": 4}
    assert out.stdout.endswith("stored verdict differs: 3\n")


@pytest.mark.parametrize("text, says", [('{"response": "a"}\n', ":1: "), ('{"response": "", "gold": "1", "finished": true}\n{', ":2: "),
                                        ("[1]\n", ":1: "), (None, "No such file")])
def test_the_command_names_file_and_line_of_bad_input(reward, tmp_path, text, says):
    need(reward, "main")
    if text:
        (tmp_path / "bad.jsonl").write_text(text)
    out = run(reward, tmp_path / "bad.jsonl")
    assert out.returncode == 2 and "bad.jsonl" in out.stderr and says in out.stderr and "Traceback" not in out.stderr


def test_verl_calls_from_threads_with_special_tokens_stripped(reward):
    need(reward, "compute_score")
    got = []
    def work():
        got.append([reward.compute_score("aime", r"hm</think>\boxed{y+x}", "x+y"),
                    reward.compute_score("aime", r"\boxed{4}", "4", {"thinking": False}),
                    reward.compute_score("aime", r"</think>\boxed{4}", "4", {"n_tokens": 9, "cap": 8}),
                    reward.compute_score("aime", r"</think>\boxed{4}", "4", {"finished": False})])
    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == [[1.0, 1.0, 0.0, 0.0]] * 8


def test_the_trl_adapter_takes_text_and_chats_and_applies_the_cap(reward):
    need(reward, "trl_reward")
    f = reward.trl_reward(cap=3, eos_token_id=0)
    ids, answer = [[5, 0], [5, 6, 7], [5, 6, 7, 0], [5, 0]], ["4", "4", "4", "5"]
    texts = [r"</think>\boxed{4}"] * 4
    chats = [[{"role": "assistant", "content": t}] for t in texts]
    assert f(completions=texts, completion_ids=ids, answer=answer, prompts=[""] * 4) == [1.0, 0.0, 0.0, 0.0]
    assert f(completions=chats, completion_ids=ids, answer=answer) == [1.0, 0.0, 0.0, 0.0]


def test_the_trl_adapter_takes_several_end_ids_parts_and_reasoning(reward):
    need(reward, "trl_reward")
    f = reward.trl_reward(cap=9, eos_token_id=[0, 1])
    box, parts = r"\boxed{4}", [{"type": "text", "text": r"so \boxed"}, {"type": "text", "text": "{4}"}]
    chats = [{"content": r"hm</think>\boxed{4}"}, {"content": box, "reasoning_content": "hm"}, {"content": parts, "reasoning_content": "hm"},
             {"content": box}, {"content": None, "reasoning_content": box}, {"content": "", "reasoning_content": ""}]
    ids = [[5, 0], [5, 1], [5, 1], [5, 0], [5, 0], [5, 0]]
    assert f(completions=[[chat] for chat in chats], completion_ids=ids, answer=["4"] * 6) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert f(completions=[r"</think>\boxed{4}"] * 2, completion_ids=[[5, 2], []], answer=["4"] * 2) == [0.0, 0.0]


def test_the_trl_adapter_reads_the_ids_where_think_end_is_a_special_token(reward):
    need(reward, "trl_reward")
    words = {5: "hm ", 6: "</think>", 7: r"\boxed{4}", 0: "<end>"}
    def decode(ids, skip_special_tokens):
        return "".join(words[i] for i in ids if not (skip_special_tokens and i in (0, 6)))
    ids, texts = [[5, 6, 7, 0], [5, 7, 0]], [r"hm \boxed{4}"] * 2
    assert reward.trl_reward(cap=9, eos_token_id=0, decode=decode)(completions=texts, completion_ids=ids, answer=["4"] * 2) == [1.0, 0.0]
    assert reward.trl_reward(cap=9, eos_token_id=0)(completions=texts, completion_ids=ids, answer=["4"] * 2) == [0.0, 0.0]


class Array(list):
    """Like numpy's, as far as it matters."""

    def tolist(self):
        return list(self)


@pytest.mark.parametrize("gold, right", [("4", 1.0), (4, 1.0), (["4"], 1.0), (["3", "4"], 1.0), (Array(["4"]), 1.0), ('["4"]', 1.0), ('"4"', 1.0),
                                         ({"target": "4"}, 1.0), ({"target": ["3", "4"]}, 1.0), ('{"target": ["4"]}', 1.0), ({"target": 4}, 1.0),
                                         (["3"], 0.0), ([], 0.0), (None, 0.0), ({"target": None}, 0.0), ('["4"', 0.0), ("[4,5]", 0.0)])
def test_verls_gold_may_be_a_list_an_array_json_or_a_target(reward, gold, right):
    need(reward, "compute_score")
    assert reward.compute_score("aime", r"hm</think>\boxed{4}", gold) == right


def test_an_interval_is_no_json_list(reward):
    need(reward, "compute_score")
    assert reward.compute_score("aime", r"</think>\boxed{[1,2]}", "[1,2]") == 1.0
    assert reward.compute_score("aime", r"</think>\boxed{1}", "[1,2]") == 0.0


def test_it_imports_and_grades_where_there_is_no_fork_and_no_resource_limit(reward):
    need(reward, "grade", "_ask")
    code = ("import os, sys\n"                                     # as on Windows
            "for name in ('fork', 'register_at_fork', 'setsid', 'killpg'): delattr(os, name)\n"
            "import signal\n"
            "for name in ('setitimer', 'pthread_sigmask', 'SIGALRM', 'SIGPROF', 'SIGKILL'): delattr(signal, name)\n"
            "sys.modules['resource'] = None\n"
            "import runpy\n"
            "m = runpy.run_path(sys.argv[1])\n"
            "box = '</think>' + chr(92) + 'boxed{%s}'\n"
            "assert [g.correct for g in m['grade']([box % 'y+x', box % 'y-x', box % '025'], ['x+y', 'x+y', '25'])] == [True, False, True]\n")
    subprocess.run([sys.executable, "-c", code, reward.__file__], check=True, timeout=HANG)
    code = code.partition("import runpy")[0] + "import runpy; sys.argv = [sys.argv[1], '--worker', '3']; runpy.run_path(sys.argv[0], run_name='__main__')"
    out = subprocess.run([sys.executable, "-c", code, reward.__file__], input='["y+x", "x+y"]\n', check=True, timeout=HANG, text=True,
                         capture_output=True)
    assert out.stdout.split() == ["ready", "true"]


def test_two_steps_of_trls_grpo_trainer(reward, tmp_path):
    need(reward, "trl_reward")
    trl = pytest.importorskip("trl", reason="trl is a test-only extra: pip install trl")
    import datasets
    import tokenizers
    import transformers
    vocabulary = {t: i for i, t in enumerate(["<end>", "4", "</think>\\boxed{4}", "hm", "5"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="hm"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, eos_token_id=0, pad_token_id=0))
    seen, ours = [], reward.trl_reward(cap=6, eos_token_id=0)
    def thinkprune_reward(**columns):
        seen.append((columns["completion_ids"], columns["answer"], ours(**columns)))
        return seen[-1][2]
    options = trl.GRPOConfig(output_dir=str(tmp_path), max_steps=2, num_generations=4, per_device_train_batch_size=4, report_to=[],
                             max_completion_length=6, use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True)
    rows = datasets.Dataset.from_list([{"prompt": "hm 4", "answer": "4"}] * 8)
    trl.GRPOTrainer(model=model, reward_funcs=thinkprune_reward, args=options, train_dataset=rows, processing_class=tokenizer).train()
    assert len(seen) == 2
    for ids, answers, rewards in seen:
        assert len(ids) == len(answers) == len(rewards) == 4
        for tokens, r in zip(ids, rewards):                       # the box is one token: the reward can be read off the ids
            tokens = list(tokens)
            assert r == float(tokens[-1] == 0 and 2 in tokens and len(tokens) <= 6)


def test_the_numbers_in_the_docstrings(reward):
    assert doctest.testmod(reward).failed == doctest.testmod(latex).failed == 0
