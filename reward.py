r"""Grades a rollout: is its last \boxed{} answer right, and did it end within the token cap?

Standard library plus mpmath, nothing of ours: copy the file. It reads from top to bottom: the reward and the public
functions, the policy with one function a line, the reader of formulas, killable workers, adapters, the command:

    python reward.py rollouts.jsonl         # re-score a rollout file and print the table of verdicts

Policy, where graders disagree (tests/test_reward.py has each line as a test):
- Only the last balanced \boxed{} after the last </think> counts. A cut box, a box in thinking or \fbox is no answer.
- Numbers compare exactly: 025 = +25. = 25.0, 1,234 = 1\,234 = 1234, 0.5 = 1/2, 0.\overline{6} = 2/3, 1\frac12 = 1.5
  (a mixed number), 3e8 = 3 \times 10^8, but 0.333 is not 1/3. Arithmetic with the gold's value is right: 7!/16 = 315.
- A unit, percent or currency sign may be left out; given on both sides it must agree. 10\% is 10, never 0.1.
- A base subscript must stand there and agree: 52_8 = (52)_8 is neither 52_9 nor 52.
- "1,2", "1 and 2", \{1,2\} are one unordered list of exactly the gold's length ("4 or 5" is not 4); a \pm b is two
  values. Brackets keep order and kind: (1,2) is not (2,1), [1,2] or 1,2. The parts of a union have no order.
- An inequality equals only an inequality, never an interval or a number; 5 > x is x < 5; x \in [1,2] is [1,2].
- x=5 is 5 but not y=5; in a chain every part must equal the gold: 26=25 is not 25. The letter i is the imaginary unit.
- Equations are equal if one is a multiple of the other. One that holds always or never equals nothing.
- \log is \log_{10}. Numbers side by side are a product or nothing: 20(5) is 100, 20 5 is no number. What may be meant
  either way (1/2x, x2, \sin(x)^2, 20{5}) is compared as text.
- A choice is its letter alone: (A), \text{A}, "A." are A. Words compare as words, case ignored; letters keep theirs.
- What the reader below does not understand to the last sign is text: derivatives, sums, code, rare Unicode.
"""
import argparse
import atexit
import faulthandler
import functools
import json
import math
import operator
import os
import queue
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple


# ------------------------------------------------------------------------------------------ what others call
def thinkprune(correct: bool, finished: bool, n_tokens: int, cap: int) -> float:
    r"""Scores one rollout: 1.0 if it is correct and ended within the cap, else 0.0.

    Args:
        correct: Verdict on the answer after ``</think>``.
        finished: The rollout emitted the end-of-sequence token.
        n_tokens: Length in tokenizer tokens (not characters), end token counted.
        cap: Token cap L, same unit, at least 1.

    Raises:
        ValueError: ``cap`` below 1. The model's text never raises.

    >>> [thinkprune(True, True, 3999, 4000), thinkprune(True, False, 4000, 4000), thinkprune(False, True, 900, 4000)]
    [1.0, 0.0, 0.0]

    Source: ThinkPrune, arXiv:2504.01296, abstract and section 3.
    """
    if cap < 1:
        raise ValueError(f"cap is {cap}: it must be at least 1 token")
    return float(bool(correct and finished and n_tokens <= cap))


def extract_answer(response: str, thinking: bool = True) -> str | None:
    r"""Returns what stands in the last balanced \boxed{} after the last </think>, or None.

    Args:
        response: The model's text; the prompt may have opened <think> already.
        thinking: False reads the whole text, for models that do not think aloud.

    >>> extract_answer(r"so \boxed{5}</think> Hence \boxed{\frac{1}{2}}."), extract_answer(r"so \boxed{5}")
    ('\\frac{1}{2}', None)
    """
    boxes = all_boxes(response, thinking)
    return boxes[-1] if boxes else None


def all_boxes(response: str, thinking: bool = True) -> list[str]:
    r"""Returns the contents of all complete boxes, in order; a box inside another one does not count.

    >>> all_boxes(r"\boxed{1} or \boxed{\boxed{2}+1} or \boxed{3", thinking=False)
    ['1', '\\boxed{2}+1']
    """
    if not isinstance(response, str):
        return []
    if thinking:
        _, closed, response = response.rpartition("</think>")
        if not closed or "<think>" in response:       # still thinking at the end
            return []
    boxes, opened = [], []                            # one pass: a megabyte of braces stays linear
    for brace in re.finditer(r"\\boxed\s*\{|\\[{}]|\\\\(?!boxed)|[{}]", response):
        if brace[0] == "{" or brace[0].startswith(r"\boxed"):
            opened.append(brace)
        elif brace[0] == "}" and opened:
            start = opened.pop()
            if start[0] != "{":
                while boxes and boxes[-1][0] > start.start():            # these stood inside this one
                    boxes.pop()
                boxes.append((start.start(), response[start.end():brace.start()].strip()))
    return [text for _, text in boxes]


def is_correct(response: str, gold: str, thinking: bool = True) -> bool:
    r"""Says whether the boxed answer equals the gold one; never raises on the model's text.

    >>> is_correct(r"hm</think> \boxed{\frac12}", "0.5"), is_correct(r"hm \boxed{4}", "4")
    (True, False)
    """
    return _judge(extract_answer(response, thinking), gold if gold is None else str(gold)).correct


class Grade(NamedTuple):
    """Verdict on one response; ``timed_out``: its comparison was killed, which counts as wrong."""
    answer: str | None
    correct: bool
    timed_out: bool


def grade(responses: list[str], golds: list[str], thinking: bool = True) -> list[Grade]:
    r"""Grades a batch, from any thread. Numbers, words and lists of them never start a worker.

    >>> grade([r"</think> \boxed{1,234}", "cut off"], ["1234", "7"])[0]
    Grade(answer='1,234', correct=True, timed_out=False)
    """
    pairs = [(extract_answer(r, thinking), g if g is None else str(g)) for r, g in zip(responses, golds, strict=True)]
    unique = list(dict.fromkeys(pairs))               # or two threads would ask the same at once
    with ThreadPoolExecutor(WORKERS) as threads:
        grades = dict(zip(unique, threads.map(lambda pair: _judge(*pair), unique)))
    return [grades[pair] for pair in pairs]


def score(responses, golds, n_tokens, finished, cap: int, thinking: bool = True) -> list[float]:
    r"""Returns the ThinkPrune reward of each rollout; the lists have one length.

    >>> score([r"</think>\boxed{4}"] * 2, ["4"] * 2, n_tokens=[9, 16], finished=[True, False], cap=16)
    [1.0, 0.0]
    """
    grades = grade(responses, golds, thinking)
    return [thinkprune(g.correct, f, n, cap) for g, f, n in zip(grades, finished, n_tokens, strict=True)]


def same_answer(answer: str | None, gold: str, ask=None) -> bool:
    r"""Says whether a boxed answer equals the gold one, by the policy above.

    Args:
        ask: Compares two formulas; by default ``symbolic``, here and now. ``grade`` does it in a worker.

    >>> [same_answer(a, "25") for a in ("025", "x = 25", r"\$25", "26=25", "24 or 25")]
    [True, True, True, False, False]
    """
    if not answer or gold is None:
        return False
    gold = extract_answer(str(gold), thinking=False) or str(gold)
    if answer.strip() == gold.strip():
        return True
    if len(answer) > 2000 or len(gold) > 2000:
        return False
    answer, gold = _tidy(answer), _tidy(gold)
    if len(answer) > 400 or not answer.isascii():     # too long or too odd to be read
        return answer == gold
    return _same(answer, gold, ask or symbolic)


# ------------------------------------------------------------------------------------------ one spelling
_UNICODE = {code + 0xFEE0: chr(code) for code in range(33, 127)} | str.maketrans({                  # full-width, then
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ", "°": r"^\circ ", "²": "^2 ", "³": "^3 ",
    "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "≠": r"\ne ", "—": "-",
    "θ": r"\theta ", "∅": r"\emptyset ", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "\u200b": "", "\ufeff": ""})
_SYNONYMS = {command: new for commands, new in [
    ("left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle limits", ""),
    ("mbox textbf textit textrm textnormal textsf mathrm mathbf mathit mathsf operatorname", r"\text"),
    ("dfrac tfrac cfrac", r"\frac"), ("dbinom tbinom", r"\binom"), ("bar dot", r"\overline"), ("quad qquad", " "),
    ("leq leqslant leqq", r"\le"), ("geq geqslant geqq", r"\ge"), ("neq", r"\ne"), ("lt", "<"), ("gt", ">"),
    ("vert lvert rvert mid", "|"), ("ldots cdots dotsc dotsb", r"\dots"), ("varnothing", r"\emptyset"), ("colon", ":"),
    ("lfloor", r"\floor("), ("lceil", r"\ceil("), ("rfloor rceil", ")"), ("degree", r"^\circ"), ("lbrace", r"\{"),
    ("rbrace", r"\}"), ("ast", "*"), ("R", r"\mathbb{R}")]
    for command in commands.split()}
_CURRENCY = r"\\(\$|euro|pounds|yen)(?![A-Za-z]) ?"


def _mixed(found: re.Match) -> str:
    r"""1\frac{1}{2} is a sum; 20\frac{5}{1} is no mixed number."""
    whole, above, below = found.groups()
    return rf"({whole}+\frac{{{above}}}{{{below}}})" if int(above) < int(below) else found[0]


def _repeating(found: re.Match) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, places, cycle = found.groups()
    above = int(whole + places + cycle) - int(whole + places or 0)
    return rf"\frac{{{above}}}{{{10 ** len(places) * (10 ** len(cycle) - 1)}}}"


def _mark_unit(found: re.Match) -> str:
    r"""Puts bare units in \text: 25 cm^2, 9.8 m/s^2, 25 apples. Other letters are variables, as in 2ab and 3n+2m."""
    value, unit = found.groups()
    known = all(_singular(word) in _UNITS and (len(word) > 1 or "/" in unit) for word in re.findall("[A-Za-z]+", unit))
    noun = found[0][len(value)] == " " and re.fullmatch("[a-z]*[aeiou][a-z]*[b-z]s", unit) and len(unit) > 3
    variables = re.search(r"(?<![\\A-Za-z])[A-Za-z]", value.rpartition("=")[2])
    return found[0] if variables or not (known or noun) else rf"{value}\text{{{unit}}}"


# What it looks for, what it puts there; then an answer before and after this rule alone. They work in this order.
_RULES = [(re.compile(old), new, before, after) for old, new, before, after in [
    (r"\\([A-Za-z]+)", lambda m: _SYNONYMS.get(m[1], m[0]), r"\left(\dfrac12\right)", r"(\frac12)"),
    (r" ?\*\* ?", "^", "x**2", "x^2"),
    (r"\\not ?=|!=", r"\\ne ", r"x\not=2", r"x\ne 2"),
    (r"<=", r"\\le ", "x<=2", r"x\le 2"),
    (r">=", r"\\ge ", "x>=2", r"x\ge 2"),
    (r"\\text +\{", r"\\text{", r"25\text {cm}", r"25\text{cm}"),
    (r"\\(mathbb|text) ([A-Za-z])(?![A-Za-z])", r"\\\1{\2}", r"\mathbb R", r"\mathbb{R}"),
    (r"\\text\{(arcsin|arccos|arctan|sin|cos|tan|log|ln|exp|max|min)\}", r"\\\1 ", r"\text{arctan}2", r"\arctan 2"),
    (r"(?<![\\A-Za-z])(pi|sin|cos|tan|log|ln|sqrt)(?![A-Za-z])", r"\\\1 ", "2pi", r"2\pi "),
    (r"\\sqrt ?\(([^()]*)\)(?! ?\^)", r"\\sqrt{\1}", r"4\sqrt(x+2)", r"4\sqrt{x+2}"),
    (r"\{:\}", ":", "12{:}30", "12:30"),
    (r"\{\}|\\text\{ *\}", " ", r"25{}", "25 "),
    (r"(?<=\d)(?:\{,\}|,?\\[,!; ]|~) ?(?=\d{3}(?!\d))", "", r"1{,}234", "1234"),
    (r"(?<!\\)(?:\$|\\[,!;: ])|~|\s+", " ", r"$1$ and\,$2$", " 1  and  2 "),
    (r"\\text\{([ei])\}|(^|[A-Za-z=+*^(,{<>|-]) ?\\text\{([A-Za-z])\}", r"\2 \1\3 ", r"x+\text{v}", "x+ v "),
    (r"^(?: |\\[(\[])+|(?:(?<![\\.])[.,] ?| |(?<!\\)\\[)\]]|(?<!\\)\\$)+$", "", r"\( 25 \).", "25"),
    (r"_\{\\text\{([^{}]*)\}\}", r"_{\1}", r"x_{\text{min}}", "x_{min}"),
    (r"^\\text\{([^{}]*)\}$", r"\1", r"\text{25 cm}", "25 cm"),
    (r"(?<![\d,.(\[{ ])\d{1,3}(?:[, ]\d{3})+(?![\d,])", lambda m: re.sub("[, ]", "", m[0]), "1,234", "1234"),
    (r"[, ]*(?:\\text\{[, ]*(?:and|or)[ ,]*\}|\b(?:and|or)\b|;)[, ]*", ",", r"1 \text{ or } 2", "1,2"),
    (rf"^([+-]?) ?{_CURRENCY}(.*)", r"\1\3\\text{\2}", r"-\$25", r"-25\text{$}"),
    (rf"{_CURRENCY}$", r"\\text{\1}", r"25\$", r"25\text{$}"),
    (r"\\?%", r"\\text{percent}", r"25\%", r"25\text{percent}"),
    (r"\^ ?\{? ?\\circ ?\}? ?(?:\\text\{ ?([CF]) ?\}|([CF])\b)?", r"\\text{degree \1\2}",
     r"25^\circ C", r"25\text{degree C}"),
    (r"^(.*(?:[\d})]|\\pi)) ?\b([A-Za-z][A-Za-z ./^{}\d]*)$", _mark_unit, "25 cm^2", r"25\text{cm^2}"),
    (r"(\\text\{[^{}]*\}|\\[A-Za-z]+ +(?=[A-Za-z])|\d +(?=\.?\d)|[A-Za-z]{2,} +(?=[A-Za-z]{2}))| ", r"\1",
     r"\pi r - 2 x", r"\pi r-2x"),
    (r"(?<![^,({=])\\text\{([^{}]*)\}(?![^,)}=])", r"\1", r"(\text{B})", "(B)"),
    (r"(\d*)\.(\d*)\\overline\{(\d+)\}", _repeating, r"0.1\overline{6}", r"\frac{15}{90}"),
    (r"\\frac ?(\w|\\pi)", r"\\frac{\1}", r"\frac12", r"\frac{1}2"),
    (r"(\\frac\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})(\w|\\pi)", r"\1{\2}", r"\frac{1}2", r"\frac{1}{2}"),
    (r"(?<!\\)\|([^|]+)\|", r"\\abs(\1)", "|x|", r"\abs(x)"),
    (r"(?<![\w.)}\]])(\d+)\\frac\{(\d+)\}\{(\d+)\}", _mixed, r"-1\frac{1}{2}", r"-(1+\frac{1}{2})"),
    (r"(?<![\w.)}\]])(\d+) (\d+)/(\d+)(?!\d)", _mixed, "1 1/2", r"(1+\frac{1}{2})"),
    (r"\\(sqrt|pmod) ?(\d+)", r"\\\1{\2}", r"\sqrt20", r"\sqrt{20}"),
    (r"([_^]) ?(-?\d+|[A-Za-z]|\\[a-z]+(?![a-z{]))", r"\1{\2}", "x^10", "x^{10}"),
    (r"^(?:\{(\w+)\}|\((\w+)\)|\\text\{(\w+)\})(?=_\{\d+\}$)", r"\1\2\3", "(52)_{8}", "52_{8}"),
    (r"(?:^|(?<=[=(\[,{]))([+-]?[\d.]+)[eE]([+-]?\d{1,3})(?=$|[)\],}])", r"\1\\times10^{\2}",
     "1.5e-3", r"1.5\times10^{-3}"),
    (r"(^|[=(\[,{])\+", r"\1", r"[0,+\infty)", r"[0,\infty)"),
    (r"(^|\\in)\\mathbb\{R\}$", r"\1(-\\infty,\\infty)", r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"(^|\\in)\\mathbb\{R\}\\setminus\\\{([^{},]+)\\\}$", r"\1(-\\infty,\2)\\cup(\2,\\infty)",
     r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"),
    (r"^\\\{\\\}$", r"\\emptyset ", r"\{\}", r"\emptyset "),
    (r"(^|=|\\in)\\\{(.*)\\\}$", r"\1{\2}", r"x\in\{1,2\}", r"x\in{1,2}")]]


def _tidy(text: str) -> str:
    r"""Gives an answer one spelling: plain LaTeX without decoration or blanks, "and" as a comma, a unit as \text{}."""
    text = text.translate(_UNICODE)
    for old, new, *_ in _RULES:
        text = old.sub(new, text)
    return text.strip()


# ------------------------------------------------------------------------------------------ the policy, line by line
# Each function takes two tidy texts and says True, False, or None where its line of the policy does not apply.
def _same(answer: str, gold: str, ask) -> bool:
    """Compares part by part, down to numbers, formulas and words; the first line that applies decides."""
    for line in same_text, same_number, same_unit, same_set, same_parts, same_relation, same_formula, same_words:
        if (verdict := line(answer, gold, ask)) is not None:
            return verdict
    return False


def same_text(answer, gold, ask):
    """Two empty texts are not equal."""
    return bool(answer) if answer == gold else None


def same_number(answer, gold, ask):
    """025 = 25.0 exactly; fractions and powers are formulas, see below."""
    if all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) for text in (answer, gold)):
        return Fraction(answer) == Fraction(gold)


def same_unit(answer, gold, ask):
    r"""25 = 25\text{ cm}; but 25\text{ m} is not 25\text{ cm}, and 25\text{ million} is not 25."""
    (value, unit), (gold_value, gold_unit) = _cut_unit(answer), _cut_unit(gold)
    if unit or gold_unit:
        return (unit == gold_unit or not unit or not gold_unit) and _same(value, gold_value, ask)


def same_set(answer, gold, ask):
    r"""x \in [1,2] is [1,2], but not y \in [1,2]."""
    (name, value), (gold_name, gold_value) = [pieces if len(pieces) == 2 else ("", "".join(pieces)) for pieces in
                                              (re.split(r"\\in(?![A-Za-z]) ?", text) for text in (answer, gold))]
    if (name or gold_name) and _NAME.fullmatch(name) and _NAME.fullmatch(gold_name):
        return (name == gold_name or not name or not gold_name) and _same(value, gold_value, ask)


def same_parts(answer, gold, ask):
    """Lists, sets and unions have no order; pairs, intervals and matrices do. Each part of the gold serves once."""
    (kind, parts), (gold_kind, gold_parts) = _parts(answer), _parts(gold)
    if (parts, gold_parts) == ([answer], [gold]) or kind != gold_kind and "=" in answer + gold:
        return None                                   # nothing came apart, or (x,y) = (1,2)
    if kind != gold_kind or len(parts) != len(gold_parts):
        return False
    for part in parts:
        rest = gold_parts if kind in (",", r"\cup") else gold_parts[:1]
        if (match := next((g for g in rest if _same(part, g, ask)), None)) is None:
            return False
        gold_parts.remove(match)
    return True


def same_relation(answer, gold, ask):
    """x=5 is 5, but not y=5; 26=25 is not 25. An inequality equals only an inequality."""
    (sides, signs), (gold_sides, gold_signs) = _sides(answer), _sides(gold)
    if not signs and not gold_signs:
        return None
    if set(signs + gold_signs) == {"="} and not (signs and gold_signs):
        chain, value = (sides, gold) if signs else (gold_sides, answer)
        while chain[1:] and _NAME.fullmatch(chain[0]):                   # every side but the name must be the value
            chain = chain[1:]
        chain = chain[:1] if len(chain) == 2 and re.fullmatch("[A-Za-z]", chain[1]) else chain          # 5 = x
        return all(_same(side, value, ask) for side in chain)
    if signs[:1] == gold_signs[:1] == ["="] and sides[0] == gold_sides[0] and _NAME.fullmatch(sides[0]):
        return _same(answer.partition("=")[2], gold.partition("=")[2], ask)
    if signs != gold_signs or "=" in signs[1:] or not all(map(_readable, sides + gold_sides)):
        return signs == gold_signs and "=" not in signs and all(_same(a, g, ask) for a, g in zip(sides, gold_sides))
    return all(ask(f"{sides[i]}{sign} {sides[i + 1]}", f"{gold_sides[i]}{sign} {gold_sides[i + 1]}")
               for i, sign in enumerate(signs))


def same_formula(answer, gold, ask):
    r"""b+a = a+b and \frac{7!}{16} = 315, if both are understood to the last sign."""
    for text, other in (answer, gold), (gold, answer):
        if re.fullmatch(r"[A-E]|[A-Za-z]{4,}[A-Za-z' -]*", text) or re.fullmatch("[A-Za-z ]+", text) and (
                other.isalpha() or not set(text) <= {"i", "e", *other}):
            return None                               # words, or the letter of a choice
    try:
        a, g = _compute(answer), _compute(gold)
    except Unread:
        return None
    except ZeroDivisionError:
        return False
    return ask(answer, gold) if a is None or g is None else a == g


def same_words(answer, gold, ask):
    """Case is ignored in words, not in letters."""
    word = re.fullmatch(r"[A-Za-z][A-Za-z' -]{3,}|(?i:yes|no|odd)", gold)
    return bool(word) and answer.replace(" ", "").lower() == gold.replace(" ", "").lower()


# Units by their short names. Words that change or deny the number before them are no units.
_UNITS = {spelling: spellings.split()[0] for spellings in (
    "cm centimeter centimetre", "mm millimeter millimetre", "km kilometer kilometre", "m meter metre", "kg kilogram",
    "g gram", "in inch", "ft foot feet", "yd yard", "mi mile", "h hour hr", "min minute", "s second sec", "day", "week",
    "month", "year", "dollar $", "cent", "euro", "pound lb", "yen", "degree", "radian rad", "L liter litre", "unit",
    "people", "point", "percent", "square sq", "cubic cu", "/ per") for spelling in spellings.split()}
_UNITS["mph"] = "mi / h"
_NO_UNIT = set("""no not or and is but if plus minus negative time half halve quarter third fourth fifth sixth seventh
    eighth ninth tenth twelfth hundredth thousandth dozen pair score hundred thousand million billion trillion k bn
    squared cubed factorial of than les more most least over under below above about approx roughly nearly almost so
    otherwise to choose mod modulo remainder base pi wrong false never zero one two three four five six seven eight
    nine ten eleven twelve""".split())


def _singular(word: str) -> str:
    """Inches is inch, but mW is not MW."""
    word = word if word in _UNITS or len(word) < 4 else word.lower()
    stems = [word] + [word[:-len(end)] for end in ("s", "es") if word[1 + len(end):].endswith(end)]
    return next((stem for stem in stems if stem in _UNITS), stems[len(word) > 3 and len(stems) > 1])


def _cut_unit(text: str) -> tuple[str, str]:
    r"""Splits 25\text{square inches} into 25 and "in 2": the unit's words, short and singular, and its power."""
    found = re.fullmatch(r"(.*(?:[\d})\]]|\\pi))"      # behind a number: \text{ cm} or \text{m}/\text{s}^{2}
                         r"(\\text\{[A-Za-z./^$ -]+(?:\^?\{?[23]\}?)?\}(?:/\\text\{[a-z]+\})?(?:\^\{[23]\})?)", text)
    words = [_singular(word) for word in re.findall(r"(?<!\\)\b[A-Za-z]+|[\d$/]", found[2])] if found else []
    if (not 1 <= len(words) <= 5 or any(word.lower() in _NO_UNIT for word in words)
            or len(words[0]) == 1 and words[0] not in "mgshlLNJWVAKCFT$"          # 2\text{x} is a product
            or re.search(r"\\(sin|cos|tan|cot|sec|csc)", text)):                  # \sin 30^\circ is a number
        return text, ""
    powers = ["2"] * ("square" in words or "sq" in words) + ["3"] * ("cubic" in words)
    words = [_UNITS.get(word, word) for word in words]
    return found[1], " ".join([word for word in words if word not in ("square", "cubic")] + powers)


# What may stand before = or \in as a name: nothing, x, a_1, f(2), m+n, (x,y), m_{\max}, \angle ABC, \text{Area}, |AB|
_GREEK = (r"\\(?:pi|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|Delta|Omega)"
          r"(?![A-Za-z])")
_NAME = re.compile(rf"(?:(?:m?\\(?:angle|triangle) )?[A-Za-z]{{1,9}}|\\m(?:ax|in)|{_GREEK})"
                   r"(?:_\{[^{}]+\})?'?(?:\^\{-1\})?(?:\([^()\\<>^]+\))?"
                   r"|[a-z](?:\+[a-z])+|\([a-z](?:,[a-z])+\)"
                   r"|(?:\\text|\\overline)\{[A-Za-z ]+\}|\\abs\(\w+\)|\[[A-Z]+\]|")


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    return list(accumulate((c in "([{") - (c in ")]}") for c in text))


def _split(text: str, separator: str) -> list[str]:
    """Splits outside all brackets; a group in the pattern is kept, as re.split does."""
    depths, pieces, start = _depths(text), [], 0
    for found in re.finditer(separator, text):
        if depths[found.start()] == 0:
            pieces += [text[start:found.start()].strip(), *found.groups()]
            start = found.end()
    return pieces + [text[start:].strip()]


def _parts(text: str) -> tuple[str, list[str]]:
    r"""Returns the kind (\cup, a comma for a list or set, brackets, a matrix, "" for one value) and the parts."""
    if matrix := re.fullmatch(r"\\begin\{[bp]matrix\}(.*?)(?:\\\\)?\\end\{[bp]matrix\}", text):
        rows = [row.split("&") for row in matrix[1].split(r"\\")]
        return f"matrix {[len(row) for row in rows]}", sum(rows, [])
    brackets = text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "{}") and 0 not in _depths(text)[:-1]:
        parts = _split(text[1:-1], ",")
        if brackets == "{}" or brackets == "()" and len(parts) == 1:     # (5) and {5} are 5
            return _parts(text[1:-1])
        return brackets, parts
    if len(parts := _split(text, r"\\cup(?![A-Za-z])")) > 1:
        return r"\cup", parts
    pm = re.compile(r"\\(?:pm|mp)(?![A-Za-z]) ?")     # two values
    parts = [pm.sub(sign, part, count=1) for part in _split(text, ",") for sign in ("+-" if pm.search(part) else "+")]
    return "," if len(parts) > 1 else "", parts


def _sides(text: str) -> tuple[list[str], list[str]]:
    """Splits at = and < signs, the smaller side first: 5 > x is x < 5."""
    pieces = _split(text, r"(=|<|>|\\(?:[lg]e|ne)(?![A-Za-z]))")
    sides, signs = pieces[::2], pieces[1::2]
    if signs and set(signs) <= {">", r"\ge"}:
        return sides[::-1], [{">": "<", r"\ge": r"\le"}[sign] for sign in signs[::-1]]
    return sides, signs


# ------------------------------------------------------------------------------------------ formulas
class Unread(ValueError):
    """Not understood to the last sign, or too large: such a text is compared as text."""


_LETTER = rf"(?:[A-Za-z]|{_GREEK})(?:_\{{[^{{}}]*\}})?"                   # x_{{max}} is one letter
_NUMBER = r"\d+\.?\d*|\.\d+"
_FUNCTIONS = {"\\" + name: name for name in "sin cos tan cot sec csc sinh cosh tanh exp log floor ceil abs".split()} | {
    r"\ln": "ln", r"\lg": "log", r"\arcsin": "asin", r"\arccos": "acos", r"\arctan": "atan"}
_FACTOR = rf"{_NUMBER}|{_LETTER}|[({{]|\\frac|\\binom|\\sqrt(?:\[\d\])?|" + "|".join(map(re.escape, _FUNCTIONS))
_TOKEN = re.compile(rf"\\text\{{degree \}}|{_LETTER}|{_NUMBER}|\\sqrt\[\d\]|\\[A-Za-z]+|\S")
_DERIVATIVE = re.compile(r"(?:\\partial|(?<![A-Za-z\\])d)[^,=]*?(?:\}\{|/)\(?(?:\\partial|d(?=[A-Za-z\\]))")


def _compute(text: str, letters: dict | None = None, digits: int = 0):
    r"""Returns a tidy formula's value: a Fraction where all is rational, else a number of mpmath with so many digits.

    Without ``digits`` it is None where the value is not rational or has letters. Raises Unread if not understood.

    >>> _compute(r"2^{3}-\frac{1}{3}"), _compute(r"2x+\sqrt{3}"), _compute("x", {"x": Fraction(5)})
    (Fraction(23, 3), None, Fraction(5, 1))
    """
    if max(_depths(text), default=99) > 12 or _DERIVATIVE.search(text):
        raise Unread
    reader = _Reader(text, letters or {}, digits)
    value = reader.sum()
    return value if reader.at == len(reader.tokens) - 1 else reader.refuse()


class _Reader:
    """A sum of products of powers of atoms: each method reads one of these and returns its value."""

    def __init__(self, text: str, letters: dict, digits: int):
        self.tokens, self.at, self.letters = [*_TOKEN.findall(text), ""], 0, letters
        self.step = functools.partial(_step, digits)

    def next(self, pattern: str) -> bool:
        return re.fullmatch(pattern, self.tokens[self.at]) is not None

    def take(self, pattern: str) -> str:
        """Returns the next token and goes on if it matches, else returns ""."""
        found = self.next(pattern)
        self.at += found
        return self.tokens[self.at - 1] if found else ""

    def refuse(self):
        raise Unread

    def sum(self):
        value = self.product()
        while sign := self.take("[+-]"):
            value = self.step(sign, value, self.product())
        return value

    def product(self):
        start, value = self.at, self.power()
        while True:
            before, side_by_side = self.tokens[self.at - 1], self.next(_FACTOR)
            touching = self.next(_NUMBER) and (before not in ")}!" or self.tokens[start] == "{")
            improper = re.match(r"\d+\\frac\{\d+\}\{\d+\}", "".join(self.tokens[self.at - 1:self.at + 7]))
            if side_by_side and (touching or improper or self.next(r"\{")):
                self.refuse()                         # (n-2)2 is a product, not so 20 5, x2, 20{5}, 1\frac{5}{2}
            if side_by_side or self.take(r"\*|\\cdot|\\times"):
                start, value = self.at, self.step("*", value, self.power())
            elif self.take(r"/|\\div"):
                start, value = self.at, self.step("/", value, self.power())
                if self.next(_FACTOR):                # 1/2x may be meant either way
                    self.refuse()
            else:
                return value

    def power(self):
        if sign := self.take("[+-]"):
            return self.step(sign, Fraction(0), self.power())
        value = self.atom()
        if self.take("!"):
            value = self.step("!", value)
        if self.take(r"\\text\{degree \}"):
            value = self.step("*", value, self.step("/", self.letters.get(r"\pi"), Fraction(180)))
        return self.step("^", value, self.argument()) if self.take(r"\^") else value

    def argument(self):
        r"""What stands in braces, or one sign: \sqrt{x+1}, \sqrt x."""
        return self.atom() if self.next(rf"\{{|\d+|{_LETTER}") else self.refuse()

    def atom(self):
        token = self.take(".+")
        if token in ("(", "{"):
            value = self.sum()
            return value if self.take({"(": r"\)", "{": r"\}"}[token]) else self.refuse()
        if re.fullmatch(_NUMBER, token):
            return Fraction(token)
        if re.fullmatch(_LETTER, token) and not (token == "f" and self.next(r"\(")):   # f(x) is nobody's function
            return self.letters.get(token)
        if token in _FUNCTIONS:
            return self.function(_FUNCTIONS[token])
        if re.fullmatch(r"\\sqrt(\[\d\])?", token):
            return self.step("root", self.argument(), Fraction(token[6:-1] or 2))
        if token in (r"\frac", r"\binom"):
            return self.step(token[1:], self.argument(), self.argument())
        self.refuse()

    def function(self, name: str):
        base = [self.argument() if self.take("_") else Fraction(10)] if name == "log" else []
        power = self.argument() if self.take(r"\^") else Fraction(1)
        if self.next(r"[({]"):
            value = self.atom()
            if self.next(r"\^") and name not in ("abs", "floor", "ceil"):
                self.refuse()                         # \sin(x)^2 may be meant either way
        else:                                         # \sin 2\pi x ends before the next sign, function or bracket
            value = self.power()
            while self.next(rf"{_LETTER}|\\frac|\\sqrt(?:\[\d\])?"):
                value = self.step("*", value, self.power())
            if self.next(rf"[({{]|{_NUMBER}"):
                self.refuse()
        if power == -1 and name in ("sin", "cos", "tan"):
            name, power = "a" + name, Fraction(1)     # \sin^{-1}
        return self.step("^", self.step(name, value, *base), power)


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "frac": operator.truediv}
_ROUNDING = {"abs": abs, "floor": math.floor, "ceil": math.ceil}
_MPMATH = {"^": "power", "!": "factorial", "binom": "binomial", "ln": "log", "abs": "fabs"}          # its other names


def _step(digits: int, name: str, *numbers):
    """One operation: exact if all is rational; else in mpmath, where what cancels to half of all digits is 0."""
    if None in numbers:
        return None
    if all(isinstance(x, Fraction) for x in numbers):
        whole = [int(x) for x in numbers if x.denominator == 1]
        power = name == "^" and numbers[1].denominator == 1
        if _bits(*numbers) * (abs(whole[-1]) if power else 1) > 40_000:
            raise Unread
        if power:
            return numbers[0] ** whole[-1]
        if name in ("!", "binom") and len(whole) == len(numbers) and 0 <= min(whole) and max(whole) < 1000:
            return Fraction(math.factorial(*whole) if name == "!" else math.comb(*whole))
        if name in _ARITHMETIC or name in _ROUNDING:
            return Fraction((_ARITHMETIC | _ROUNDING)[name](*numbers))
    if not digits:
        return None
    import mpmath
    x, *y = [_float(number, digits) for number in numbers]
    if name == "root":
        odd = isinstance(x, mpmath.mpf) and x < 0 and y[0] % 2 == 1      # \sqrt[3]{-8} is -2
        return -mpmath.root(-x, int(y[0])) if odd else mpmath.root(x, int(y[0]))
    if name in ("!", "binom") and (digits > 1000 or max(map(abs, (x, *y))) > 1000):          # would take seconds
        raise Unread
    result = _ARITHMETIC[name](x, *y) if name in _ARITHMETIC else getattr(mpmath, _MPMATH.get(name, name))(x, *y)
    cancelled = name in ("+", "-") and abs(result) * 10 ** (digits // 2) < max(abs(x), *map(abs, y))
    return Fraction(0) if cancelled else result


def _bits(*numbers: Fraction) -> int:
    return max(max(x.numerator.bit_length(), x.denominator.bit_length()) for x in numbers)


def _float(x, digits: int):
    """A rational number of more than half the digits is refused: its last ones might drown in rounding."""
    import mpmath
    if isinstance(x, Fraction) and _bits(x) > 1.5 * digits or not isinstance(x, Fraction) and not mpmath.isfinite(x):
        raise Unread
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _readable(text: str) -> bool:
    try:
        _compute(text)
    except (Unread, ZeroDivisionError):
        return False
    return True


def _words(text: str) -> list[str]:
    """Runs of letters that look like words, not like a product of variables."""
    runs = re.findall(r"(?<![A-Za-z\\])[A-Za-z]{3,}", text.replace(r"\text{degree }", ""))
    product = re.compile("[^aeiou]+|[a-dx-z]+")
    return [run for run in runs if list(run) != sorted(run) and not product.fullmatch(run)]


def symbolic(answer: str, gold: str) -> bool:
    r"""Says if two tidy formulas, equations or inequalities are equal, by their values at a dozen points.

    Rational values must be equal, others to half of 400 digits (of 4,000 without letters). Of an equation, left - right
    must be a multiple of the other's. It may take long: ``grade`` asks it in a worker that can be killed.

    >>> symbolic("(a+b)^{2}", "a^{2}+2ab+b^{2}"), symbolic("y=2x+1", "2x-y+1=0"), symbolic("x<1", "1<x")
    (True, True, False)
    """
    (sides, signs), (gold_sides, gold_signs) = _sides(answer), _sides(gold)
    if signs != gold_signs or len(signs) > 1 or not all(map(_readable, sides + gold_sides)):
        return False
    if _words(answer) != _words(gold):                # if n=3 is no product, but 2abc is one
        return False
    letters = {token for token in _TOKEN.findall(answer + " " + gold) if re.fullmatch(_LETTER, token)}
    constant, verdict = letters <= {"e", "i", r"\pi"}, False
    for digits in (400, 4000) if constant else (400,):                   # 10^{1000}+1 needs many digits to differ
        try:
            verdict = _agree(sides, gold_sides, signs, letters, digits)
        except (ArithmeticError, ValueError, TypeError):                 # no values, or an order of complex numbers
            continue
        if not verdict:
            break
    return verdict


def _points(letters: set[str]):
    """Yields values for the letters, always the same: small and large, of both signs, never whole, nor their sums."""
    import random
    dice, names = random.Random(0), sorted(letters - {"e", "i", r"\pi"})
    for largest in (0, 0, 0, 0, 2, 2, 2, 9, 9, 9, 99, 99) if names else (0,):
        yield {name: dice.choice((-1, 1, 1)) * (dice.randint(0, largest) + Fraction(dice.randint(1, prime - 1), prime))
               for name, prime in zip(names, (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53) * 9)}


def _agree(sides: list[str], gold_sides: list[str], signs: list[str], letters: set[str], digits: int) -> bool:
    """Compares the values at all points; those where one is not real only if there are hardly others."""
    import mpmath
    real, imaginary = [], []                          # pairs: value of the answer, or left - right, and the gold's

    def equal(x, y):
        return _step(digits, "-", x, y) == 0

    with mpmath.workdps(digits):
        constants = {"e": +mpmath.e, r"\pi": +mpmath.pi, "i": mpmath.mpc(0, 1)}
        for point in _points(letters):
            try:
                values = [_compute(side, point | constants, digits) for side in sides + gold_sides]
                x, y = [_step(digits, "-", *pair) for pair in (values[:2], values[2:])] if signs else values
                same, unreal = equal(x, y), any(abs(v.imag) * 10 ** (digits // 2) > abs(v) for v in (x, y))
            except (ArithmeticError, ValueError):     # no number there, or Unread
                continue
            if not signs and not unreal and not same:
                return False
            (imaginary if unreal else real).append((x, y))
        pairs = real if len(real) > 3 and "i" not in letters else real + imaginary
        if len(pairs) < (4 if len(point) else 1):
            raise ArithmeticError
        if not signs:
            return all(equal(*pair) for pair in pairs)
        (a0, g0), *others = pairs
        multiple = a0 != 0 != g0 and all(equal(x * g0, y * a0) for x, y in others)
        collapsed = all(equal(x, a0) for x, _ in others)                 # 25 = 26, or x = x
        return bool(multiple and not collapsed and (signs[0] in ("=", r"\ne") or a0 * g0 > 0))


# ------------------------------------------------------------------------------------------ killable workers
# A comparison can hang inside one C call, where neither threads nor Python's signal handlers run. So formulas are
# compared in a worker process, which ends itself after WALL_SECONDS on one answer; the next answer gets a new one.
# A worker is a plain command, not multiprocessing: that works on Windows, inside daemonic processes and in scripts
# without an `if __name__` guard, and never copies a process with CUDA. Only the memory limit is missing on Windows.
WALL_SECONDS, START_SECONDS, MEMORY = 3.0, 120.0, 2 << 30
WORKERS = min(4, os.cpu_count() or 1)
_COMMAND = [sys.executable, "-P", os.path.abspath(__file__), "--worker"]  # -P: no random.py of a neighbour's


def _serve(wall_seconds: float) -> None:
    """The worker: one JSON pair a line in; true or false out, or its own end."""
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):        # Windows has none, macOS may refuse
        pass
    faulthandler.dump_traceback_later(START_SECONDS, exit=True)          # a thread in C, so a busy Python is no excuse
    symbolic("x+1", "1+x")                            # imports now, not on the first answer's time
    faulthandler.cancel_dump_traceback_later()
    print("ready", flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(wall_seconds, exit=True)
        try:
            verdict = same_answer(*json.loads(line))
        except Exception:                             # mpmath's own errors on odd text: not equal
            verdict = False
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(verdict), flush=True)


def _ask(answer: str, gold: str) -> bool:
    """same_answer in a worker; raises TimeoutError if it ended itself."""
    idle, reply = _idle, ""                           # close() may make a new queue meanwhile
    worker = idle.get()
    try:
        if worker is None or worker.poll() is not None:
            worker = subprocess.Popen([*_COMMAND, str(WALL_SECONDS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True, start_new_session=True)
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"no grading worker (pip install mpmath?); run: {' '.join(_COMMAND)} 1")
        print(json.dumps([answer, gold]), file=worker.stdin, flush=True)
        reply = worker.stdout.readline()
    except OSError:                                   # a broken pipe
        pass
    finally:
        if worker and not reply:                      # it died, or we were interrupted and its reply would be late
            worker = worker.kill()
        idle.put(worker)
    if reply not in ("true\n", "false\n"):
        raise TimeoutError
    return reply == "true\n"


def close() -> None:
    """Ends the idle workers, also at exit; a forked process forgets its parent's. The next grade starts new ones."""
    global _idle
    workers = [worker for worker in _idle.queue if worker]
    _idle = queue.LifoQueue()
    for _ in range(WORKERS):
        _idle.put(None)                               # a worker starts when it is first needed
    for worker in workers:
        worker.stdin.close()                          # it leaves
        try:
            worker.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            worker.kill()


_idle = queue.LifoQueue()                             # of WORKERS places, each with a worker or None
close()
atexit.register(close)
if hasattr(os, "register_at_fork"):                   # Windows does not fork
    os.register_at_fork(after_in_child=close)


@functools.lru_cache(maxsize=1 << 14)                 # rollouts of a group repeat their answers
def _judge(answer: str | None, gold: str | None) -> Grade:
    """Only what needs formulas goes to a worker, and then as a whole, so that one deadline holds for all its parts."""
    asked = []
    try:
        correct = same_answer(answer, gold, lambda *pair: asked.append(pair))
        return Grade(answer, _ask(answer, gold) if asked else correct, False)
    except TimeoutError:
        return Grade(answer, False, True)
    except (ArithmeticError, ValueError, IndexError, RecursionError):    # the model's text never makes us raise
        return Grade(answer, False, False)


# ------------------------------------------------------------------------------------------ adapters and the command
def trl_reward(cap: int, eos_token_id: int | list[int], gold: str = "answer", thinking: bool = True, decode=None):
    """Returns a function for TRL's GRPOTrainer(reward_funcs=...).

    Args:
        eos_token_id: The end token, or several.
        gold: The dataset's column with the gold answers.
        decode: Pass ``tokenizer.decode`` if </think> is a special token. TRL's texts have lost those, so the answer is
            then read from the token ids. (Look: ``tokenizer.decode(ids, skip_special_tokens=True)`` drops it.)
    """
    ends = {int(end) for end in (eos_token_id if isinstance(eos_token_id, (list, tuple, set)) else [eos_token_id])}

    def thinkprune_reward(completions, completion_ids, **columns):
        texts = ([decode(ids, skip_special_tokens=False) for ids in completion_ids] if decode
                 else [_completion_text(completion) for completion in completions])
        finished = [len(ids) > 0 and int(ids[-1]) in ends for ids in completion_ids]
        return score(texts, columns[gold], [len(ids) for ids in completion_ids], finished, cap, thinking)
    return thinkprune_reward


def _completion_text(completion) -> str:
    """Text, or the last message of a chat: its content may be a list, its thinking may stand in reasoning_content."""
    if isinstance(completion, str):
        return completion
    message = completion[-1]
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part if isinstance(part, str) else part.get("text") or "" for part in content)
    thoughts = message.get("reasoning_content")
    return content if not thoughts else f"<think>{thoughts}</think>{content}"


def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float:
    """verl's custom reward function. verl passes no lengths: without "n_tokens", "finished" and "cap" in
    ``extra_info``, a rollout that max_response_length cut after its box still earns 1. "thinking" is read there too.
    ``ground_truth`` is a text, or a list or array of texts of which any one counts, also as JSON or {"target": ...}.
    """
    info, golds = extra_info or {}, _golds(ground_truth)
    grades = grade([solution_str] * len(golds), golds, info.get("thinking", True))
    correct = any(g.correct for g in grades)
    return thinkprune(correct, info.get("finished", True), info.get("n_tokens", 1), info.get("cap", 1 << 30))


def _golds(gold) -> list[str]:
    r"""Returns the golds of verl's data; [1,2] is an interval, ["1"] is JSON.

    >>> _golds('["4"]'), _golds({"target": 4}), _golds("[1,2]")
    (['4'], ['4'], ['[1,2]'])
    """
    if isinstance(gold, str) and re.match(r'\s*(\[\s*"|\{\s*"target"|")', gold):
        try:
            gold = json.loads(gold)
        except ValueError:
            pass
    gold = gold["target"] if isinstance(gold, dict) else gold
    gold = gold.tolist() if hasattr(gold, "tolist") else gold            # numpy
    golds = gold if isinstance(gold, (list, tuple)) else [gold]
    return [str(g) for g in golds if g is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description="Re-scores a rollout file and prints the table of verdicts.")
    parser.add_argument("rollouts", help='JSONL; each row has at least "response", "gold" and "finished"')
    parser.add_argument("--no_thinking", action="store_true", help="read the whole text, not only after </think>")
    options, rows, number = parser.parse_args(), [], 0
    try:
        for number, line in enumerate(open(options.rollouts, "rb"), 1):
            rows.append(json.loads(line))
            rows[-1]["response"], rows[-1]["gold"], rows[-1]["finished"]
        if not rows:
            raise ValueError("empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.exit(2, f"error: {options.rollouts}:{number}: {error!r}; a line is JSON with response, gold, finished\n")
    grades = grade([r["response"] for r in rows], [r["gold"] for r in rows], not options.no_thinking)
    verdicts = ["not finished" if not r["finished"] else "no box" if g.answer is None else "timed out" if g.timed_out
                else "right" if g.correct else "wrong" for r, g in zip(rows, grades)]
    for name in ("right", "wrong", "no box", "not finished", "timed out"):
        print(f"{name:13}{verdicts.count(name):8}{verdicts.count(name) / len(rows):8.1%}")
    several = sum(len(all_boxes(r["response"], not options.no_thinking)) > 1 for r in rows)
    differ = sum(r.get("correct", g.correct) != g.correct for r, g in zip(rows, grades))
    print(f"{'several boxes':13}{several:8}{several / len(rows):8.1%}   the last one counts")
    print(f"{'all':13}{len(rows):8}   stored verdict differs: {differ}")


if __name__ == "__main__":
    _serve(*map(float, sys.argv[2:])) if sys.argv[1:2] == ["--worker"] else main()
