"""Countdown: is this text a sum over + - * / and brackets that uses these numbers once each and reaches the target?

The text is a model's, so it is read here sign by sign, with exact fractions: no eval, no library for formulas.
reward.py asks `reaches` where a problem's answer is written as "countdown: 3 5 7 -> 22", as data/countdown.py does.
"""

import functools
import re
from fractions import Fraction
from itertools import combinations

LONGEST, DEEPEST = 200, 20  # characters of a text, brackets inside each other: more is malformed
GOLD = re.compile(r"countdown: *([0-9]+(?: [0-9]+)*) *-> *([0-9]+)")
SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "\\left": "", "\\right": "", "×": "*", "÷": "/", "−": "-"}


def gold_text(numbers: list[int], target: int) -> str:
    """
    >>> gold_text([3, 5, 7], 22)
    'countdown: 3 5 7 -> 22'
    """
    return f"countdown: {' '.join(map(str, numbers))} -> {target}"


def reaches(text: str, gold: str) -> bool:
    r"""Says whether a text is a right answer to the problem of `gold_text`; the text never makes it raise.

    >>> gold = "countdown: 3 5 7 -> 22"
    >>> [reaches(text, gold) for text in ("3*5 + 7", r"7+(3 \times 5)", "3*5+7 = 22", "22", "3*7+5/5", "3(5)+7")]
    [True, True, False, False, False, False]
    """
    asked = GOLD.fullmatch(gold.strip())
    try:
        value, used = calculate(text)
    except (ValueError, ZeroDivisionError):
        return False
    return bool(asked) and value == int(asked[2]) and sorted(used) == sorted(map(int, asked[1].split()))


def solvable(gold: str) -> bool:
    """Says whether a gold text is one, and has a right answer; from six numbers on it is taken at its word.

    >>> solvable("countdown: 3 5 7 -> 22"), solvable("countdown: 1 1 -> 100"), solvable("countdown: 3, 5 -> 8")
    (True, False, False)
    """
    asked = GOLD.fullmatch(gold.strip())
    numbers = tuple(sorted(map(int, asked[1].split()))) if asked else ()
    return bool(asked) and (len(numbers) > 5 or _reached(numbers, Fraction(int(asked[2]))))


def _reached(numbers: tuple[int, ...], target: Fraction) -> bool:
    """Whether the numbers can make the target: the last sign joins two parts, of which the smaller has few values."""
    if len(numbers) == 1:
        return numbers[0] == target
    for part, rest in cuts(numbers):
        for a in values_of(part):
            wanted = {target - a, target + a, a - target}  # a + b, b - a, a - b
            if a:
                wanted |= {target / a, target * a} | ({a / target} if target else set())  # a b, b / a, a / b
            if wanted & values_of(rest) or not a and not target:
                return True
    return False


def cuts(numbers: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All ways to cut numbers in two parts, the first the smaller one.

    >>> cuts((1, 2, 3))
    [((1,), (2, 3)), ((2,), (1, 3)), ((3,), (1, 2))]
    """
    found = {}
    for size in range(1, len(numbers) // 2 + 1):
        for part in combinations(range(len(numbers)), size):
            rest = tuple(n for i, n in enumerate(numbers) if i not in part)
            found[tuple(numbers[i] for i in part), rest] = True
    return list(found)


@functools.lru_cache(maxsize=1 << 12)
def values_of(numbers: tuple[int, ...]) -> frozenset[Fraction]:
    """All values that these numbers, each once, can have.

    >>> sorted(map(str, values_of((2, 6))))
    ['-4', '1/3', '12', '3', '4', '8']
    """
    found = {Fraction(numbers[0])} if len(numbers) == 1 else set()
    for part, rest in cuts(numbers):
        for a in values_of(part):
            for b in values_of(rest):
                found |= {a + b, a - b, b - a, a * b} | ({a / b} if b else set()) | ({b / a} if a else set())
    return frozenset(found)


def calculate(text: str) -> tuple[Fraction, list[int]]:
    r"""The value of a text, and the numbers in it.

    Whole numbers in the digits 0 to 9, + - * /, brackets, and LaTeX's names of these signs. A sign stands between two
    numbers: -3 and 3(5) are malformed. So are 03 and 1,000.

    Raises:
        ValueError: Malformed, longer than LONGEST or deeper than DEEPEST. ZeroDivisionError: It divides by zero.

    >>> calculate("(8 - 2) / 4"), calculate(r"8 \div 3 * 3")[0]
    ((Fraction(3, 2), [8, 2, 4]), Fraction(8, 1))
    """
    if len(text) > LONGEST:
        raise ValueError("too long")
    for sign, plain in SIGNS.items():
        text = re.sub(re.escape(sign) + "(?![a-z])", plain, text)
    tokens = re.findall(r"0|[1-9][0-9]*|\S", text)
    tokens.reverse()  # the next one is the last, for pop
    used: list[int] = []
    value = _sum(tokens, used, 0)
    if tokens:
        raise ValueError(f"{tokens[-1]} after the end")
    return value, used


def _sum(tokens: list[str], used: list[int], depth: int) -> Fraction:
    value = _product(tokens, used, depth)
    while tokens and tokens[-1] in "+-":
        plus, other = tokens.pop() == "+", _product(tokens, used, depth)
        value = value + other if plus else value - other
    return value


def _product(tokens: list[str], used: list[int], depth: int) -> Fraction:
    value = _number(tokens, used, depth)
    while tokens and tokens[-1] in "*/":
        times, other = tokens.pop() == "*", _number(tokens, used, depth)
        value = value * other if times else value / other
    return value


def _number(tokens: list[str], used: list[int], depth: int) -> Fraction:
    token = tokens.pop() if tokens else ""
    if token == "(" and depth < DEEPEST:
        value = _sum(tokens, used, depth + 1)
        if not tokens or tokens.pop() != ")":
            raise ValueError("a bracket is not closed")
        return value
    if not re.fullmatch("[0-9]+", token):
        raise ValueError(f"{token or 'the end'} where a number should stand")
    used.append(int(token))
    return Fraction(int(token))
