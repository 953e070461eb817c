r"""Wrong answers made from right ones: none may pass.

Each kind of mutation changes the value by an argument that needs no grader: an integer with another digit is another
integer, a + 10^{-40} is not a, an expression in fresh letters is another expression, a swapped pair another pair.
"""
import random
import re
from fractions import Fraction

import pytest

# Golds of our own, by kind, so that the test also runs without the shared data.
INTEGERS = ["0", "7", "25", "-3", "025", "1,234", "73", "809", "2^{10}", "12!", "-128", "10000", "999"]
NUMBERS = [r"\frac{1}{2}", r"-\frac{24}{25}", r"\frac{13!}{52!}", r"\frac{1}{2^{99}}", r"1-\frac{1}{2^{60}}", "4.5",
           ".0000672", "10^{-20}", r"6.63\times10^{-34}", r"\sqrt{2}", r"3\sqrt{13}", r"\frac{\sqrt{3}}{3}", r"8\pi",
           r"\frac{\pi}{2^{99}}", r"18+2\pi", "e^{-50}", r"\ln 2", r"\log_{2} 3", r"\sqrt[3]{5}",
           r"\cos\frac{\pi}{7}", "2+3i", "6-5i", r"\frac{20000}{\pi}", r"\binom{52}{5}", r"1\frac{4}{5}",
           r"\sqrt{10^{40}+1}", r"\frac{3^{50}}{4^{50}}", r"\arctan 2", r"\left(\frac{3}{5}\right)^{7}"]
FORMULAS = ["2ab", r"\frac{1}{2}bc", "3n+2m", r"\frac{1}{m}t", "x^2-2x+2", "6r^2-4r-24", "(a+5)(b+2)",
            r"\frac{11+9a}{20}", "5r^5", "8n^2+4n+1", r"4\pi r^2", r"\frac{n(n+1)}{2}", "2^{n+1}-1",
            r"\frac{d!}{2k(d-k)!}", r"\binom{n}{k}", r"\sqrt{\frac{1}{n}}", r"\frac{x}{y}+z", r"\sin^2 t", r"\cot x",
            r"\ln(x+1)", "a_{1}+a_{2}", r"\frac{2}{3}E_{1}", "x_{1}y", "(n-2)2^{n}+1", r"\alpha+2\beta", "kx-a",
            r"\lfloor\frac{n}{2}\rfloor+1", "|x-1|", "a^2+b^2+2ab", "x^{12}+x", "e^{-kt}", r"\frac{ab}{a+b}", "3R^2",
            "2k", "15x-80"]
EQUATIONS = ["y=2x+3", "x+y-z+1=0", "5x-7y+11z+4=0", "x^2+y^2=25", r"\frac{x^2}{4}+\frac{y^2}{3}=1", "z=2+3i",
             "I_{p}=2x+1", "y=-2x", "iz+2=3", "m_{1}=k+1", "x<5", r"x\ge 3", r"0<x\le 7", r"k\ne 2", r"-2\le t<1"]
TUPLES = ["(1,2)", r"(\frac{3}{2},-13)", r"(3,\frac{\pi}{2})", "(6,31,-1)", "(1,-16,-4,43)", "(2,4]", "[0,5)",
          r"(5,\infty)", r"(\frac{1}{2^{60}},1)", r"[\frac{\pi^2}{8},\frac{5\pi^2}{4}]", "(a,b)", r"(4,\log_{10} 2)"]
LISTS = ["1,-2", "3,5,7", r"\{1,2\}", r"1,\sqrt{2}", r"2,-\log_{10} 250", "x,y", "10,11,12,13"]
WORDS = ["even", "east", "Evelyn", "ellipse", "Navin", "parallelogram"]
BASES = ["52_8", "4210_{5}", "2516_8", "70_9"]
UNITS = [r"25\text{ cm}", r"36^\circ", r"5.4\text{ cents}", r"60\text{ km/h}", r"15\text{ cm}^2", r"\$36"]

LETTER = re.compile(r"\\[A-Za-z]+|[a-zA-Z]")
FRESH = "uvwq"                                        # in none of the golds above


def letters(gold: str) -> list[str]:
    """The variables: single letters that are no constant, command or unit."""
    found = {m for m in LETTER.findall(gold) if m[0] != "\\" or m in (r"\alpha", r"\beta")}
    return sorted(found - {"e", "i"}) if r"\text" not in gold else []


def replaced(gold: str, letter: str, new: str) -> str:
    return LETTER.sub(lambda m: new + " " * (m[0][0] == "\\") if m[0] == letter else m[0], gold)


def other_numbers(gold: str):
    """Finite values: each line gives another one."""
    for tiny in ("10^{-9}", "10^{-20}", "10^{-40}", r"\frac{1}{3^{70}}", r"\pi\cdot10^{-30}"):
        yield f"{gold}+{tiny}"
        yield f"{gold}-{tiny}"
        yield rf"({gold})(1+{tiny})" if gold != "0" else tiny
    for change in ("+1", "-1", "+i", r"+\pi", r"+\sqrt{2}", "+x", "-x^2", r"+\frac{1}{x}", r"+\ln 2", "+e"):
        yield gold + change
    if gold != "0":
        for factor in ("2", "-1", "10", "x", r"\pi", r"\frac{1}{2}", r"\sqrt{3}", "a_{1}", "bc", "0.999999", "i"):
            yield rf"{factor}\cdot({gold})"
            yield rf"({gold})\cdot({factor})"
        yield f"-({gold})"
        yield f"({gold})t_{{0}}"


def other_integers(gold: str):
    """The same digits with one changed, dropped or added, where the integer becomes another one."""
    digits = gold.replace(",", "")
    if re.fullmatch(r"-?\d+", digits):
        for at in range(digits[0] == "-", len(digits)):
            for new in "0123456789-":
                yield digits[:at] + new + digits[at + 1:]
                yield digits[:at] + new + digits[at:] if new != "-" else "-" + digits[at:]
            yield digits[:at] + digits[at + 1:]
        for tail in ("0", "5", ".5", ".000001", "00", "e3", r"\frac{1}{2}", "x", "!", "!!", "^2", "^{-1}", "_8", "i",
                     r"\pi", "ab", " 1", "'"):
            yield digits + tail


def other_letters(gold: str):
    """Another letter, everywhere: the golds depend on each of their letters."""
    for letter in letters(gold):
        for new in FRESH:
            yield replaced(gold, letter, new)
        yield replaced(gold, letter, f"{letter}_{{9}}")
        yield replaced(gold, letter, letter.swapcase()) if len(letter) == 1 else replaced(gold, letter, r"\gamma")
    names = letters(gold)
    for one in names:
        for two in names:
            if one < two:                             # both names become one
                yield replaced(gold, one, two)


def other_equations(gold: str):
    sides = re.split(r"(=|<|\\[lg]e(?![a-z])|\\ne(?![a-z]))", gold)
    for tiny in ("1", "10^{-20}", "w", "i", r"\pi"):
        yield gold + "+" + tiny
    for sign in ("=", "<", r"\le ", ">", r"\ge ", r"\ne "):
        if sign.strip() != sides[1] and len(sides) == 3:
            yield sides[0] + sign + sides[2]
    if sides[1] == "<":
        yield sides[0] + ">" + "".join(sides[2:])
    yield "25=26"
    yield "x=x"


def other_tuples(gold: str):
    left, inner, right = gold[0], gold[1:-1], gold[-1]
    parts = inner.split(",")
    yield left + ",".join(parts[::-1]) + right
    yield left + ",".join(parts + ["0"]) + right
    yield left + ",".join(parts[:-1]) + right if len(parts) > 2 else inner
    for other in ("()", "[]", "(]", "[)", ("\\{", "\\}"), ("", "")):
        if other != left + right:
            yield other[0] + inner + other[1]
    for at, part in enumerate(parts):
        if part not in (r"\infty",):
            for new in other_numbers(part):
                yield left + ",".join(parts[:at] + [new] + parts[at + 1:]) + right


def other_lists(gold: str):
    parts = gold.strip("\\{}").split(",") if gold[0] == "\\" else gold.split(",")
    yield from (",".join(parts[:-1]), "(" + ",".join(parts) + ")")
    yield from (",".join(parts + [new]) for new in ("0", "1000", parts[0]))
    yield ",".join([parts[0]] * len(parts))
    for at, part in enumerate(parts):
        for new in other_numbers(part):
            yield ",".join(parts[:at] + [new] + parts[at + 1:])


def other_texts(gold: str):
    """Another letter in a word, another digit of a base, another unit."""
    if gold in WORDS:
        for at in range(len(gold)):
            yield gold[:at] + gold[at + 1:]
            yield gold[:at] + ("x" if gold[at] != "x" else "y") + gold[at + 1:]
        yield from (f"not {gold}", f"{gold} or odd", gold[::-1], gold + "s")
    if gold in BASES:
        number, base = re.findall(r"\d+", gold)
        yield from (number, f"{number}_{int(base) + 1}", f"{number}1_{base}", f"{number[::-1]}_{base}")
        yield str(int(number, int(base)))
    if gold in UNITS:
        yield from (gold.replace("cm", "m"), gold.replace("cm}", "m}^3")) if "cm" in gold else ()
        yield from (re.sub(r"\d", lambda m: str(int(m[0]) % 9 + 1), gold, count=1), "2" + gold.lstrip("\\$"))


def mutants(golds: list[str]):
    """Yields (mutant, gold); an integer mutant that happens to be the gold's value is left out."""
    for gold in golds:
        made = [*other_texts(gold)]
        if gold in NUMBERS + FORMULAS or re.fullmatch(r"-?\d+", gold):
            made += other_numbers(gold)
        made += other_integers(gold)
        if gold in FORMULAS + EQUATIONS or re.fullmatch(r"[-+^\d{}\w]*[a-z][-+^\d{}\w]*", gold) and gold in FORMULAS:
            made += other_letters(gold)
        made += other_equations(gold) if gold in EQUATIONS else []
        made += other_tuples(gold) if gold in TUPLES else []
        made += other_lists(gold) if gold in LISTS else []
        for mutant in dict.fromkeys(made):
            try:
                if Fraction(mutant) == Fraction(gold.replace(",", "")):
                    continue
            except (ValueError, ZeroDivisionError):
                if re.fullmatch(r"[\d ]+!{1,2}", mutant) and gold in ("0", "1", "2"):
                    continue                          # 2! = 2
                same_value = ("1^2", "0^2", "0i", "0x", "0ab", r"0\pi", "0e3", "1^{-1}")
                if mutant.replace(" ", "") == gold.replace(" ", "") or mutant in same_value:
                    continue
            yield mutant, gold


@pytest.fixture(scope="module")
def same_answer(reward):
    if "same_answer" not in vars(reward):
        pytest.skip("your file has no same_answer: not graded")
    return reward.same_answer


def test_no_mutant_of_our_golds_passes(same_answer):
    golds = INTEGERS + NUMBERS + FORMULAS + EQUATIONS + TUPLES + LISTS + WORDS + BASES + UNITS
    assert [gold for gold in golds if not same_answer(gold, gold)] == []
    made = list(mutants(golds))                       # about 7,700
    assert [pair for pair in made if same_answer(*pair)] == [] and len(made) > 5000


def test_no_mutant_of_the_shared_golds_passes(same_answer, shared_rows):
    files = ("aime2022", "aime2024", "aime_train", "amc23", "math500")
    golds = {str(row["answer"]) for name in files for row in shared_rows(f"{name}.jsonl")}
    plain = sorted(gold for gold in golds if re.fullmatch(r"-?\d+", gold))
    made = list(mutants(random.Random(0).sample(plain, 20)))
    for gold in sorted(golds - set(plain)):           # one value, no unit, list or name: what the argument holds for
        if not re.search(r"text|mbox|[,=_$!]|\\in|matrix|\\pm|\^\\circ", gold):
            made += [(mutant, gold) for mutant in (*other_numbers(gold), *other_letters(gold)) if mutant != gold]
    made = random.Random(0).sample(made, 2500)
    assert [pair for pair in made if same_answer(*pair)] == []
