r"""Reads an answer written in LaTeX: one spelling, its unit, its parts, and the value of a formula.

Standard library plus mpmath (which torch brings along), nothing of ours: reward.py compares with it, copy both files.
What is not understood to the last sign is refused (`Unread`), so that nobody computes with half of it. Values are exact
where all is rational; others are computed to hundreds of digits. Model text is never evaluated as code.
"""
import functools
import math
import operator
import re
from fractions import Fraction
from itertools import accumulate


# ------------------------------------------------------------------------------------------ one spelling
# Signs by their LaTeX: first the full-width forms of all ASCII signs, then single ones.
_UNICODE = {code + 0xFEE0: chr(code) for code in range(33, 127)} | str.maketrans({
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ", "°": r"^\circ ", "²": "^2 ", "³": "^3 ",
    "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "≠": r"\ne ", "—": "-",
    "θ": r"\theta ", "∅": r"\emptyset ", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "\u200b": "", "\ufeff": ""})
_SYNONYMS = {command: new for commands, new in [      # each command on the left becomes the text on the right
    ("left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle limits", ""),
    ("mbox textbf textit textrm textnormal textsf mathrm mathbf mathit mathsf operatorname", r"\text"),
    ("dfrac tfrac cfrac", r"\frac"), ("dbinom tbinom", r"\binom"), ("bar dot", r"\overline"), ("quad qquad", " "),
    ("leq leqslant leqq", r"\le"), ("geq geqslant geqq", r"\ge"), ("neq", r"\ne"), ("lt", "<"), ("gt", ">"),
    ("vert lvert rvert mid", "|"), ("ldots cdots dotsc dotsb", r"\dots"), ("varnothing", r"\emptyset"), ("colon", ":"),
    ("lfloor", r"\floor("), ("lceil", r"\ceil("), ("langle", r"\langle("), ("rfloor rceil rangle", ")"),
    ("degree", r"^\circ"), ("lbrace", r"\{"), ("rbrace", r"\}"), ("ast", "*"), ("R", r"\mathbb{R}")]
    for command in commands.split()}
_CURRENCY = r"\\(\$|euro|pounds|yen)(?![A-Za-z]) ?"


def _mixed(found: re.Match) -> str:
    r"""1\frac{1}{2} is \frac{3}{2}; 20\frac{5}{1} is no mixed number."""
    whole, above, below = map(int, found.groups())
    return rf"\frac{{{whole * below + above}}}{{{below}}}" if above < below else found[0]


def _repeating(found: re.Match) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, places, cycle = found.groups()
    above = int(whole + places + cycle) - int(whole + places or 0)
    value = Fraction(above, 10 ** len(places) * (10 ** len(cycle) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}" if value.denominator > 1 else str(value)


def _mark_unit(found: re.Match) -> str:
    r"""Puts bare units in \text: 25 cm^2, 9.8 m/s^2, 25 apples. Other letters are variables, as in 2ab and 3n+2m."""
    value, unit = found.groups()
    known = all(_singular(word) in _UNITS and (len(word) > 1 or "/" in unit) for word in re.findall("[A-Za-z]+", unit))
    noun = found[0][len(value)] == " " and re.fullmatch("[a-z]*[aeiou][a-z]*[b-z]s", unit) and len(unit) > 3
    variables = re.search(r"(?<![\\A-Za-z])[A-Za-z]", value.rpartition("=")[2])
    return found[0] if variables or not (known or noun) else rf"{value}\text{{{unit}}}"


# A rule: a regular expression, what replaces it, and an example before and after this rule alone. They work in order.
RULES = [(re.compile(old), new, before, after) for old, new, before, after in [
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
    (r"(?<=\d)(?:\{,\}|,?\\!|\\[,; ]|~) ?(?=\d{3}(?!\d))", "", r"1{,}234", "1234"),
    (r"(?<!\\)(?:\$|\\[,!;: ])|~|\s+", " ", r"$1$ and\,$2$", " 1  and  2 "),
    (r"\\text\{([ei])\}|(^|[A-Za-z=+*^(,{<>|-]) ?\\text\{([A-Za-z])\}", r"\2 \1\3 ", r"x+\text{v}", "x+ v "),
    (r"^(?: |\\[(\[])+|(?:(?<![\\.])[.,]| |(?<!\\)\\[)\]]|(?<!\\)\\$)+$", "", r"\( 25 \).", "25"),
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
    (r"(\d*)\.(\d*)\\overline\{(\d+)\}(?!\d)", _repeating, r"0.1\overline{6}", r"\frac{1}{6}"),
    (r"\\frac ?(\w|\\pi)", r"\\frac{\1}", r"\frac12", r"\frac{1}2"),
    (r"(\\frac\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})(\w|\\pi)", r"\1{\2}", r"\frac{1}2", r"\frac{1}{2}"),
    (r"(?<!\\)\|([^|]+)\|", r"\\abs(\1)", "|x|", r"\abs(x)"),
    (r"(?<![\w.)}\]])(\d+)\\frac\{(\d+)\}\{(\d+)\}", _mixed, r"-1\frac{1}{2}", r"-\frac{3}{2}"),
    (r"(?<![\w.)}\]])(\d+) (\d+)/(\d+)(?!\d)", _mixed, "1 1/2", r"\frac{3}{2}"),
    (r"\\(sqrt|pmod) ?(\d+)", r"\\\1{\2}", r"\sqrt20", r"\sqrt{20}"),
    (r"([_^]) ?(-?\d+(?:\.\d+)?|-?\.\d+|[A-Za-z]|\\[a-z]+(?![a-z{]))", r"\1{\2}", "x^1.5", "x^{1.5}"),
    (r"^(?:\{(\w+)\}|\((\w+)\)|\\text\{(\w+)\})(?=_\{\d+\}$)", r"\1\2\3", "(52)_{8}", "52_{8}"),
    (r"(?:^|(?<=[=(\[,{]))([+-]?[\d.]+)[eE]([+-]?\d{1,3})(?=$|[)\],}])", r"\1\\times10^{\2}",
     "1.5e-3", r"1.5\times10^{-3}"),
    (r"(^|[=(\[,{])\+", r"\1", r"[0,+\infty)", r"[0,\infty)"),
    (r"(^|\\in)\\mathbb\{R\}$", r"\1(-\\infty,\\infty)", r"\mathbb{R}", r"(-\infty,\infty)"),
    (r"(^|\\in)\\mathbb\{R\}\\setminus\\\{([^{},]+)\\\}$", r"\1(-\\infty,\2)\\cup(\2,\\infty)",
     r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"),
    (r"^\\\{\\\}$", r"\\emptyset ", r"\{\}", r"\emptyset "),
    (r"(^|=|\\in)\\\{(.*)\\\}$", r"\1{\2}", r"x\in\{1,2\}", r"x\in{1,2}")]]


def tidy(text: str) -> str:
    r"""Gives an answer one spelling: plain LaTeX without decoration or blanks, "and" as a comma, a unit as \text{}."""
    text = text.translate(_UNICODE)
    for old, new, *_ in RULES:
        text = old.sub(new, text)
    return text.strip()


# Units by their short names. Words that change or deny the number before them are no units.
_UNITS = {spelling: spellings.split()[0] for spellings in (
    "cm centimeter centimetre", "mm millimeter millimetre", "km kilometer kilometre", "m meter metre", "kg kilogram",
    "g gram", "in inch", "ft foot feet", "yd yard", "mi mile", "h hour hr", "min minute", "s second sec", "day", "week",
    "month", "year", "dollar $", "cent", "euro", "pound lb", "yen", "degree", "radian rad", "L liter litre", "unit",
    "people", "point", "percent", "square sq", "cubic cu", "/ per") for spelling in spellings.split()}
_UNITS["mph"] = "mi / h"
_NO_UNIT = set("""no not or and is but if plus minus negative time half halve quarter third fourth fifth sixth
    seventh eighth ninth tenth twelfth hundredth thousandth dozen pair score hundred thousand million billion
    trillion k bn squared cubed factorial of than les more most least over under below above about approx roughly
    nearly almost so otherwise to choose mod modulo remainder base pi wrong false never zero one two three four
    five six seven eight nine ten eleven twelve lakh crore thou mil mln mn tn gross grand kilo mega giga micro
    milli mille double doubled twice triple inverse imaginary real fewer greater root fact only binary hex octal
    decimal excluded reversed""".split())
_NUMERAL = re.compile(r"(th|ths|firsts?|illions?|illionths?|teens?|(twen|thir|for|fif|six|seven|eigh|nine)t(y|ies))$")


def _singular(word: str) -> str:
    """Inches is inch, but mW is not MW."""
    word = word if word in _UNITS or len(word) < 4 else word.lower()
    stems = [word] + [word[:-len(end)] for end in ("s", "es") if word[1 + len(end):].endswith(end)]
    guess = stems[1] if len(word) > 3 and len(stems) > 1 else word       # unknown: the word without its s
    return next((stem for stem in stems if stem in _UNITS), guess)


def cut_unit(text: str) -> tuple[str, str]:
    r"""Splits 25\text{square inches} into 25 and "in 2": the unit's words, short and singular, and its power."""
    found = re.fullmatch(r"(.*(?:[\d})\]]|\\pi))"      # behind a number: \text{ cm} or \text{m}/\text{s}^{2}
                         r"(\\text\{[A-Za-z./^$ -]+(?:\^?\{?[23]\}?)?\}(?:/\\text\{[a-z]+\})?(?:\^\{[23]\})?)", text)
    written = re.findall(r"(?<!\\)\b[A-Za-z]+|[\d$/]", found[2]) if found else []
    words = [_singular(word) for word in written]
    unknown = [word for word in words if word not in _UNITS and word.isalpha()]
    if (not 1 <= len(words) <= 5 or any(word.lower() in _NO_UNIT for word in written + words)
            or any(_NUMERAL.search(word.lower()) for word in written + unknown if _singular(word) not in _UNITS)
            or unknown and found[1][-1] in ")]"                                   # (1,2)\text{ integers}
            or words in (["cubic"], ["square"])
            or len(words[0]) == 1 and words[0] not in "mgshlLNJWVAKCFT$"          # 2\text{x} is a product
            or re.search(r"\\(sin|cos|tan|cot|sec|csc)", text)):                  # \sin 30^\circ is a number
        return text, ""
    powers = ["2"] * ("square" in words or "sq" in words) + ["3"] * ("cubic" in words)
    words = [_UNITS.get(word, word) for word in words]
    return found[1], " ".join([word for word in words if word not in ("square", "cubic")] + powers)


# What may stand before = or \in as a name: nothing, x, a_1, f(2), m+n, (x,y), m_{\max}, \angle ABC, \text{Area}, |AB|
_GREEK = (r"\\(?:pi|alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|varphi|omega|Delta|Omega)"
          r"(?![A-Za-z])")
NAME = re.compile(rf"(?:(?:m?\\(?:angle|triangle) )?[A-Za-z]{{1,9}}|\\m(?:ax|in)|{_GREEK})"
                   r"(?:_\{[^{}]+\})?'?(?:\^\{-1\}(?=\())?(?:\([^()\\<>^]+\))?"
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


def parts_of(text: str) -> tuple[str, list[str]]:
    r"""Returns the kind (\cup, a comma for a list or set, brackets, a matrix, "" for one value) and the parts."""
    if matrix := re.fullmatch(r"\\begin\{[bp]matrix\}(.*?)(?:\\\\)?\\end\{[bp]matrix\}", text):
        rows = [row.split("&") for row in matrix[1].split(r"\\")]
        return f"matrix {[len(row) for row in rows]}", [cell for row in rows for cell in row]
    if text.startswith(r"\langle(") and (inner := parts_of(text[7:]))[0] == "()":
        return r"\langle", inner[1]
    brackets = text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "{}") and 0 not in _depths(text)[:-1]:
        parts = _split(text[1:-1], ",")
        if brackets == "{}" or brackets == "()" and len(parts) == 1:     # (5) and {5} are 5
            return parts_of(text[1:-1])
        return brackets, parts
    if len(parts := _split(text, r"\\cup(?![A-Za-z])")) > 1:
        return r"\cup", parts
    pm = re.compile(r"\\(?:pm|mp)(?![A-Za-z]) ?")     # a part with it is two values, one with + and one with -
    parts = [pm.sub(sign, part, count=1) for part in _split(text, ",") for sign in ("+-" if pm.search(part) else "+")]
    return "," if len(parts) > 1 else "", parts


def sides_of(text: str) -> tuple[list[str], list[str]]:
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


def compute(text: str, letters: dict | None = None, digits: int = 0):
    r"""Returns a tidy formula's value: a Fraction where all is rational, else a number of mpmath with so many digits.

    Without ``digits`` it is None where the value is not rational or has letters. Raises Unread if not understood.

    >>> compute(r"2^{3}-\frac{1}{3}"), compute(r"2x+\sqrt{3}"), compute("x", {"x": Fraction(5)})
    (Fraction(23, 3), None, Fraction(5, 1))
    """
    return Reader(text, letters or {}, digits).value


class Reader:
    """A sum of products of powers of atoms: each method reads one of these and returns its value."""

    def __init__(self, text: str, letters: dict, digits: int):
        self.tokens, self.at, self.letters = [*_TOKEN.findall(text), ""], 0, letters
        self.step, self.work = functools.partial(step_of, digits), False       # work: numbers to be added, say
        if max(_depths(text), default=99) > 12 or _DERIVATIVE.search(text):
            raise Unread
        self.value = self.sum()
        self.at == len(self.tokens) - 1 or self.refuse()

    def next(self, pattern: str) -> bool:
        return re.fullmatch(pattern, self.tokens[self.at]) is not None

    def take(self, pattern: str) -> str:
        """Returns the next token and goes on if it matches, else returns ""."""
        found = self.next(pattern)
        self.at += found
        return self.tokens[self.at - 1] if found else ""

    def refuse(self):
        raise Unread

    def join(self, sign: str, x, y, dividend=()):
        r"""Two numbers that are joined are work. A fraction like 3/2 is none, but 144/2 is; 7!/16 may stand."""
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            fraction = sign == "/" and r"\div" not in dividend and x.denominator == y.denominator == 1
            self.work |= not fraction or x % y == 0 and not {"!", r"\binom"} & set(dividend)
        return self.step(sign, x, y)

    def sum(self):
        value = self.product()
        while sign := self.take("[+-]"):
            value = self.join(sign, value, self.product())
        return value

    def product(self):
        first, start, value = self.at, self.at, self.power()
        while True:
            before, side_by_side = self.tokens[self.at - 1], self.next(_FACTOR)
            touching = self.next(_NUMBER) and (before not in ")}!" or self.tokens[start] == "{")
            improper = re.match(r"\d+\\frac\{\d+\}\{\d+\}", "".join(self.tokens[self.at - 1:self.at + 7]))
            if side_by_side and (touching or improper or self.next(r"\{")):
                self.refuse()                         # (n-2)2 is a product, not so 20 5, x2, 20{5}, 1\frac{5}{2}
            if side_by_side or self.take(r"\*|\\cdot|\\times"):
                start, value = self.at, self.join("*", value, self.power())
            elif self.take(r"/|\\div"):
                dividend, start = self.tokens[first:self.at], self.at
                value = self.join("/", value, self.power(), dividend)
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
            start, x = self.at, self.argument()
            above, y = self.tokens[start:self.at], self.argument()
            return self.join("/", x, y, above) if token == r"\frac" else self.step("binom", x, y)
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
            while self.next(_LETTER) and not self.next("[ei]"):
                value = self.step("*", value, self.power())
            quotient = self.next("/") and self.tokens[self.at + 1] not in _FUNCTIONS         # \sin x/\cos x is one
            if quotient or self.next(rf"[({{ei]|\\frac|\\sqrt.*|\\binom|{_NUMBER}"):
                self.refuse()                         # \cos\pi/3, \sin x\sqrt2 and \sin x e^{x} may be meant either way
        if power == -1:
            if name not in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"):
                self.refuse()
            name, power = "a" + name, Fraction(1)     # \sin^{-1}
        return self.step("^", self.step(name, value, *base), power)


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "equal": operator.sub, "*": operator.mul, "/": operator.truediv,
               "frac": operator.truediv}
_EXACT = {*_ARITHMETIC, "^", "!", "binom", "ln", "log", "abs"}           # no tiny or huge argument drowns in these
_ROUNDING = {"abs": abs, "floor": math.floor, "ceil": math.ceil}
_MPMATH = {"^": "power", "!": "factorial", "binom": "binomial", "ln": "log", "abs": "fabs"}          # its other names


def step_of(digits: int, name: str, *numbers):
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
        root = name == "root" and numbers[1] == 2 and Fraction(*map(math.isqrt, abs(numbers[0]).as_integer_ratio()))
        if root and root ** 2 == numbers[0]:          # \sqrt{16}
            return root
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
    half = mpmath.mpf(10) ** (digits // 2)
    if name in ("floor", "ceil") and abs(x - mpmath.nint(x)) * half < 1:
        x = mpmath.nint(x)                            # \log_2 8 is computed to 2.99...9
    result = _ARITHMETIC[name](x, *y) if name in _ARITHMETIC else getattr(mpmath, _MPMATH.get(name, name))(x, *y)
    smallest, largest = min(map(abs, (x, *y))), max(map(abs, (x, *y)))
    drowned = name in ("+", "-") and 0 < smallest * half < largest       # 1+e^{-5000}
    extreme = name not in _EXACT and x != 0 and not 1 < abs(x) * half < half * half          # \sin(10^{5000})
    nearly_one = name == "^" and 0 < abs(y[0]) * half < 1 or name == "tanh" and abs(abs(result) - 1) * half < 1
    if drowned or extreme or nearly_one:
        raise Unread
    return Fraction(0) if name in ("+", "-", "equal") and abs(result) * half < largest else result


def _bits(*numbers: Fraction) -> int:
    return max(max(x.numerator.bit_length(), x.denominator.bit_length()) for x in numbers)


def _float(x, digits: int):
    """A rational number of more than half the digits is refused: its last ones might drown in rounding."""
    import mpmath
    if isinstance(x, Fraction) and _bits(x) > 1.5 * digits or not isinstance(x, Fraction) and not mpmath.isfinite(x):
        raise Unread
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


_SCIENTIFIC = re.compile(r"[+-]?[\d.]+(\\times|\\cdot|\*)10\^\{-?\d+\}")
_MIXED_SUM = re.compile(r"\d+\+\\frac\{(\d+)\}\{(\d+)\}")                  # 1+\frac{1}{2}: there is nothing to add


def worked_out(text: str) -> bool | None:
    r"""True for a rational number, False where numbers are still to be added, multiplied or divided; else None.

    >>> [worked_out(text) for text in ("-3.5", "3/2", r"2\times10^{-3}", "2^{3}", "5!", "69-53+56", "144/2", "6x/x")]
    [True, True, True, True, None, False, False, False]
    """
    if _SCIENTIFIC.fullmatch(text) or (mixed := _MIXED_SUM.fullmatch(text)) and int(mixed[1]) < int(mixed[2]):
        return True
    try:
        reader = Reader(text, dict.fromkeys("abcdefghjklmnopqrstuvwxyz", Fraction(7, 3)), 0)      # also 69x/x-53x/x
    except (Unread, ZeroDivisionError):
        return None
    rational = isinstance(reader.value, Fraction) and not re.search(r"!|\\binom|(?<![\\A-Za-z])[A-Za-z]", text)
    return False if reader.work else rational or None


def readable(text: str) -> bool:
    try:
        compute(text)
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
    (sides, signs), (gold_sides, gold_signs) = sides_of(answer), sides_of(gold)
    if signs != gold_signs or len(signs) > 1 or not all(map(readable, sides + gold_sides)):
        return False
    if _words(answer) != _words(gold):                # if n=3 is no product, but 2abc is one
        return False
    segments = [sorted("".join(sorted(run)) for run in re.findall(r"(?<![A-Za-z\\])[A-Z]{2,}", text))
                for text in (answer, gold)]
    if all(segments) and segments[0] != segments[1] and not signs:       # AB\cdot CD is not AC\cdot BD
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


def _points(letters: set[str], texts: str):
    """Yields values for the letters, always the same: small and large, of both signs, never whole, nor their sums.

    Where there are steps or corners, also whole, half and third values, and such around each constant.
    """
    import random
    dice, names, whole = random.Random(0), sorted(letters - {"e", "i", r"\pi"}), False
    if names and re.search(r"\\(floor|ceil|abs|sqrt)|\^\{[^{}]*(\\frac|[./])", texts):
        whole = set(names) <= set("jklmnN") and re.search(r"\\(floor|ceil)", texts)         # these are integers
        constants = {int(n) for n in re.findall(r"\d+", texts)[:40] if len(n) < 13}
        sizes = sorted({*range(13), *(n + d for n in constants for d in (-1, 0, 1)), *(7 * 10 ** k for k in range(12))})
        sizes += [] if whole else [n + Fraction(1, part) for n in {*range(5), *constants} for part in (2, 3)]
        values = [sign * Fraction(size) for size in sizes for sign in (1, -1)]
        yield from (dict(zip(names, point)) for point in zip(*[dice.sample(values, len(values)) for _ in names]))
    for largest in () if whole else (0, 0, 0, 0, 2, 2, 2, 9, 9, 9, 99, 99) if names else (0,):
        yield {name: dice.choice((-1, 1, 1)) * (dice.randint(0, largest) + Fraction(dice.randint(1, prime - 1), prime))
               for name, prime in zip(names, (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53) * 9)}


def _agree(sides: list[str], gold_sides: list[str], signs: list[str], letters: set[str], digits: int) -> bool:
    """Compares the values at all points; those where one is not real only if there are hardly others."""
    import mpmath
    # Pairs: the value of the answer, or of left - right, and the gold's.
    texts, real, imaginary = " ".join(sides + gold_sides), [], []
    corners = re.compile(r"\\abs|\\sqrt\{[^{}]*\^\{[2468]\}")
    corner = bool(corners.search("".join(sides))) != bool(corners.search("".join(gold_sides)))

    def equal(x, y):
        return step_of(digits, "equal", x, y) == 0

    with mpmath.workdps(digits):
        constants = {"e": +mpmath.e, r"\pi": +mpmath.pi, "i": mpmath.mpc(0, 1)}
        for point in _points(letters, texts):
            try:
                values = [compute(side, point | constants, digits) for side in sides + gold_sides]
                x, y = [step_of(digits, "-", *pair) for pair in (values[:2], values[2:])] if signs else values
                same, (unreal, other) = equal(x, y), [abs(v.imag) * 10 ** (digits // 2) > abs(v) for v in (x, y)]
            except (ArithmeticError, ValueError):     # no number there, or Unread
                continue
            if not signs and not same and (not (unreal or other) or unreal != other and corner):
                return False
            (imaginary if unreal or other else real).append((x, y))
        pairs = real if len(real) > 3 and "i" not in letters else real + imaginary
        if len(pairs) < (4 if len(point) else 1):
            raise ArithmeticError
        if not signs:
            return all(equal(*pair) for pair in pairs)
        a0, g0 = next((pair for pair in pairs if 0 not in pair), (0, 0))
        multiple = a0 != 0 and all(equal(x * g0, y * a0) for x, y in pairs)
        collapsed = all(equal(x, a0) for x, _ in pairs)                  # 25 = 26, or x = x
        return bool(multiple and not collapsed and (signs[0] in ("=", r"\ne") or a0 * g0 > 0))
