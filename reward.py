r"""Grades a rollout: is its last \boxed{} answer right, and did it end within the token cap?

Standard library plus math-verify, nothing of ours: copy the file. The top (extract, compare, the ThinkPrune reward)
works alone; below it stand the killable workers, then the adapters for TRL and verl and the command:

    python reward.py rollouts.jsonl         # re-score a rollout file and print the table of verdicts

Policy, where graders disagree (tests/test_reward.py has each line as a test):
- Only the last balanced \boxed{} after the last </think> counts. A cut box, a box in thinking or \fbox is no answer.
- Numbers compare exactly: 025 = +25. = 25.0, 1,234 = 1\,234 = 1234, 0.5 = 1/2, 0.\overline{6} = 2/3, 1\frac12 = 1.5
  (a mixed number), but 0.333 is not 1/3. Arithmetic with the gold's value is right: 7!/16 = 315, 20(5) = 100.
- A unit, percent or currency sign may be left out; given on both sides it must agree. 10\% is 10, never 0.1.
- A base subscript must stand there and agree: 52_8 is neither 52_9 nor 52.
- "1,2", "1 and 2", \{1,2\} are one unordered list of exactly the gold's length ("4 or 5" is not 4); a \pm b is two
  values. Brackets keep order and kind: (1,2) is not (2,1), [1,2] or 1,2. The parts of a union have no order.
- An inequality equals only an inequality, never an interval or a number; x \in [1,2] is [1,2].
- x=5 is 5 but not y=5; in a chain every part must equal the gold: 26=25 is not 25. The letter i is the imaginary unit.
- A choice is its letter alone: (A), \text{A}, "A." are A. Words compare as words, case ignored; letters keep theirs.
- What is too long, deep or costly, or holds a command that neither we nor the gold know, compares as text only.
"""
import argparse
import atexit
import functools
import json
import math
import os
import queue
import re
import signal
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

# ------------------------------------------------------------------------------------------ extract
_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|\\\\(?!boxed)|[{}]")


def extract_answer(response: str, thinking: bool = True) -> str | None:
    r"""Returns what stands in the last balanced \boxed{} after the last </think>, or None.

    Args:
        response: The model's text; the prompt may have opened <think> already.
        thinking: False reads the whole text, for models that do not think aloud.

    >>> extract_answer(r"so \boxed{5}</think> Hence \boxed{\frac{1}{2}}."), extract_answer(r"so \boxed{5}")
    ('\\frac{1}{2}', None)
    """
    if not isinstance(response, str):
        return None
    if thinking:
        _, closed, response = response.rpartition("</think>")
        if not closed or "<think>" in response:       # still thinking at the end
            return None
    span, opened = None, []                           # one pass: a megabyte of braces stays linear
    for brace in _BRACE.finditer(response):
        if brace[0][-1] == "{" and brace[0] != r"\{":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif brace[0] == "}" and opened and (start := opened.pop()) is not None:
            span = start, brace.start()
    return span and response[slice(*span)].strip()


# ------------------------------------------------------------------------------------------ compare
# Unicode: zero width is dropped, a look-alike becomes what it looks like, a symbol its command.
_SYMBOLS = str.maketrans(
    dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad") | dict(zip("−–—‐、。⁄÷", "----,.//"))
    | {"°": r"^\circ "} | dict(zip("παβθ∞∅√×·⋅∗±∪∈≤≥≠", [rf"\{name} " for name in (
        "pi alpha beta theta infty emptyset sqrt times cdot cdot cdot pm cup in le ge ne").split()])))
_SYNONYMS = {"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le ", "geq": r"\ge ", "neq": r"\ne ",
             "lt": "<", "gt": ">", "lbrace": r"\{", "rbrace": r"\}", "lvert": "|", "rvert": "|", "quad": " ",
             "bar": r"\overline", "dot": r"\overline", "displaystyle": ""} | dict.fromkeys(
    "left right big bigl bigr Big Bigl Bigr bigg biggl biggr".split(), "") | dict.fromkeys(
    "text mbox textbf textit textrm textsf mathrm mathbf mathit mathsf operatorname".split(), r"\text")
_REWRITES = [(re.compile(old), new) for old, new in [                    # in this order
    # what stands around the answer
    (r"\s+", " "), (r"^\$+|\$+$|^\\[(\[]|\\[)\]]$|(?<![\\.])[.,;:] ?$", ""), (r"^\\boxed ?\{(.*)\}$", r"\1"),
    (r"\\text ?\{ *\}|\{\}", " "),
    # one spelling for one thing: \frac12, x_1, x^2, \sqrt2 get their braces, a number alone loses them
    (r"<=", r"\\le "), (r">=", r"\\ge "), (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"\\frac ?(\w)", r"\\frac{\1}"), (r"(\\frac ?\{[^{}]*\}) ?(\w)", r"\1{\2}"), (r"_(\w)", r"_{\1}"),
    (r"\^(-?\d+|[a-z])", r"^{\1}"), (r"\\sqrt ?(\d+|[a-z]|\([^()]*\))", r"\\sqrt{\1}"),
    (r"(\\begin|\\end)\{[pb]matrix", r"\1{pmatrix"), (r"(?<![\w^}\]\\]) ?\{(\d+)\}", r" \1 "),
    # 1{,}234 and 1\,234 and 1,\! 234; then the spaces that mean nothing
    (r"(?<=\d)(?:\{,\}|,? ?(?:\\[,!;: ]|~)+) ?(?=\d{3}(?!\d))", ""), (r"(?<!\\)\\[,!;: ]|~|\\$", " "),
    # "and" and "or" make lists
    (r"\\text ?\{[, ]*(?:and|or) *\}|(?<=[\d }])\b(?:and|or)\b|;", ","), (r"(?:, *)+", ","),
    # units end in \text{}: \$25, 25\%, 25^\circ, \text{25 cm}, 25 dollars
    (r"^([+-]?) ?\\?\$(.*)", r"\1\2\\text{dollar}"), (r"\\?%", r"\\text{percent}"),
    (r"\^ ?\{? ?\\circ ?\}?", r"\\text{degree}"), (r"^\\text ?\{([^{}]*\d[^{}]*)\}$", r"\1"),
    (r"(?<=[\d}]) ?\b((?:[A-Za-z]{4,}|[ckm]m|kg|ft)(?: [A-Za-z]+)*)(\^.*)?$", r"\\text{\1}\2"),
    (r"(?<!\w) +| +(?!\w)", ""),                      # "p - q" is "p-q", but "25 25" is not 2525
    # 20(5) is a product; math-verify would add them
    (r"(\\frac\{[^{}]*\}\{[^{}]*\}(?=[\d(]|\\frac)|[\d)](?=\(|\\binom))", r"\1\\cdot ")]]
_UNIT = re.compile(r"(.+)\\text\{([A-Za-z][A-Za-z. ]*)\}(?:\^\{?([23])\}?)?")
_NO_UNIT = set(                                       # words that change or deny the number, also with a plural s
    "not no or and is isnt but plus minus negative time half halve dozen tenth hundred hundredth thousand thousandth "
    "million billion trillion squared cubed factorial of than less more most least over under below above choose mod "
    "modulo pi wrong false never zero one two three four five six seven eight nine ten".split())
_NAME = (r"(?:\\(?:alpha|beta|theta|lambda|phi|angle) ?)?[A-Za-z]{0,3}'?(?:_\{?\w{1,3}\}?)?(?:\(\w{1,3}\))?"
         r"|\\text\{[A-Za-z ]+\}|[a-z](?:\+[a-z])+|\([a-z](?:,[a-z])+\)")     # x, a_1, f(2), m+n, (x,y)
_WORD = re.compile(r"\\text|(?<![\\A-Za-z])(?!pmatrix)[A-Za-z]{4,}|^(?!i$)[A-Za-z]+$")
_KNOWN = set(r"frac sqrt pi cdot times div sin cos tan cot sec csc arcsin arccos arctan log ln exp binom infty theta "
             r"alpha beta lambda phi omega begin end le ge ne lfloor rfloor lceil rceil overline angle emptyset "
             r"\ |".split())


def _tidy(text: str) -> str:
    r"""Gives an answer one spelling: plain LaTeX without decoration, "and" as a comma, a unit as \text{}."""
    if not text.isascii():
        for signs, latex in ("⁰¹²³⁴-⁹⁻", "^{%s}"), ("₀-₉", "_{%s}"), ("¼-¾⅐-⅞", r"\frac{%s}"):
            text = re.sub(f"[{signs}]+", lambda m: latex % unicodedata.normalize("NFKC", m[0]).replace("⁄", "}{"), text)
        text = unicodedata.normalize("NFKC", text).translate(_SYMBOLS)   # also: full-width 5 is 5
    text = re.sub(r"\\([A-Za-z]+) ?", lambda m: _SYNONYMS.get(m[1], m[0]), text.strip())
    for old, new in _REWRITES:
        text = old.sub(new, text)
    return text


def _unit(text: str) -> tuple[str, str]:
    r"""Splits 25\text{ square cm} into "25" and "cm2"; without a unit the second is "". """
    found = _UNIT.fullmatch(text)
    words = found[2].lower().replace(".", "").split() if found else []
    changes = _NO_UNIT.intersection(words + [w.rstrip("s") for w in words])
    if not 1 <= len(words) <= 3 or changes or _WORD.search(found[1]):
        return text, ""
    names = [re.sub("e?s?$", "", w) if len(w) > 3 else w for w in words if w not in ("square", "cubic")]  # no plural
    return found[1], "".join(names) + (found[3] or ("2" if "square" in words else "3" if "cubic" in words else ""))


def _number(text: str) -> Fraction | None:
    r"""Reads 1,234  -.5  2e3  0.1\overline{6}  \frac{1}{2}  1\frac{1}{2} exactly; None if it is no such number."""
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r" \1/\2", text)
    if re.fullmatch(r"[+-]?(\d{1,3}([, ]\d{3})+|\d*)(\.\d*)?(e[+-]?\d\d?)?", text) and re.search(r"^\W*\d", text):
        return Fraction(re.sub("[, ]", "", text))
    if found := re.fullmatch(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}", text):
        sign, whole, start, cycle = found.groups()
        value = Fraction(f"{whole or 0}.{start}") + Fraction(int(cycle), 10 ** len(start) * (10 ** len(cycle) - 1))
    elif found := re.fullmatch(r"([+-]?) ?(?:(\d+) )?(\d+)/(\d*[1-9]\d*)", text.strip()):
        sign, whole, above, below = found.groups()
        if whole and int(above) >= int(below):        # no mixed number
            return None
        value = int(whole or 0) + Fraction(int(above), int(below))
    return found and (-value if sign == "-" else value)


def _depths(text: str) -> list[int]:
    return list(accumulate((c in "([{") - (c in ")]}") for c in text))


def _split(text: str, at: str) -> list[str]:
    """Splits outside all brackets."""
    cuts = [i for i, depth in enumerate(_depths(text)) if depth == 0 and text.startswith(at, i)]
    return [text[i:j].strip() for i, j in zip([0] + [c + len(at) for c in cuts], cuts + [len(text)])]


def _parts(text: str) -> tuple[str, list[str]]:
    r"""Returns the kind ("value", "list", "union" or its brackets, as "(]") and the parts; a set is a list."""
    text = re.sub(rf"^(?:{_NAME})\\in(?![A-Za-z]) ?", "", text)
    is_set, pair = text[:2] == r"\{" and text[-2:] == r"\}", text[:1] + text[-1:]
    if not is_set and len(union := _split(text, r"\cup")) > 1:
        return "union", union
    if not is_set and pair in ("()", "(]", "[)", "[]", "{}") and 0 not in _depths(text)[:-1]:
        inside = _split(text[1:-1], ",")              # (5) and {5} are 5
        return _parts(text[1:-1]) if pair == "{}" or pair == "()" and len(inside) == 1 else (pair, inside)
    parts = _split(text[2:-2] if is_set else text, ",")
    for _ in range(2):                                # twice: \pm 1 \pm \sqrt2 is four values
        parts = [p.replace(r"\pm", sign, 1) for p in parts for sign in ("+-" if r"\pm" in p else "+")]
    return "list" if is_set or len(parts) > 1 else "value", parts


def _refused(answer: str, gold: str) -> bool:
    """Keeps from math-verify what could eat time or memory, what it misreads, and commands that nobody expects."""
    commands, known = ({*re.findall(r"\\([A-Za-z]+|.)", x)} for x in (answer, gold))
    if commands - known - _KNOWN or max(_depths(answer), default=0) > 12:
        return True
    rest = re.sub(r"(?<!\d)\d{1,2}!(?!!)|\\binom\{\d{1,3}\}\{\d{1,3}\}", "", answer)
    if "!" in rest or r"\binom" in rest or re.search(r"\d{60}|\*\*|[-+*/^_=<>]$|^[^\w\\]*$", answer):
        return True
    mixed = re.findall(r"\d ?\\frac\{(\d+)\}\{(\d+)\}", answer)
    if re.search(r"\d \d|\d\\?[\[{]|[)\]]\d", answer) or any(int(above) >= int(below) for above, below in mixed):
        return True                                   # "20 5", 20\{5\}, 20\frac{9}{2}: math-verify adds them
    if re.search(r"\^[{(][^})]*[\^!]|\^\{[^{}]*\}\^", answer):          # a power tower
        return True
    exponents, expected = re.findall(r"\^[{(]?-?(\d+)", answer), re.findall(r"\d+", gold)
    return math.prod(int(n) or 1 for n in exponents if n not in expected) > 2000        # also (x^{99})^{99}


def symbolic(answer: str, gold: str) -> bool:
    """Asks math-verify if two expressions are equal. It can hang or eat memory: _ask below is the safe way."""
    import logging
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Eq, I, simplify
    logging.getLogger("math_verify").setLevel(logging.ERROR)             # "timeout is off": we kill instead
    latex, found = [LatexExtractionConfig(boxed_match_priority=0)], []   # its other parser evaluates Python
    for text in answer, gold:
        text = re.sub(r"(\d*)\.(\d+)", lambda m: rf"\frac{{{m[1]}{m[2]}}}{{{10 ** len(m[2])}}}", text)   # exact
        for expression in parse(f"\\boxed{{{text}}}", latex, "no_fallback", parsing_timeout=None)[:1]:
            found.append(expression.subs({s: I for s in expression.free_symbols if s.name == "i"}))
    if len(found) < 2:
        return False
    a, g = found
    if isinstance(a, Eq) and isinstance(g, Eq):       # verify says that x^2=-1 is x^2=-2, as neither has a real root
        ratio = simplify((a.lhs - a.rhs) / (g.lhs - g.rhs))
        return bool(ratio.is_number and ratio.is_finite and ratio != 0)
    return bool(verify(g, a, float_rounding=12, timeout_seconds=None))


def _equal(answer: str, gold: str, ask) -> bool:
    if answer == gold:
        return answer != ""
    (a, a_unit), (g, g_unit) = _unit(answer), _unit(gold)
    if a_unit and g_unit and a_unit != g_unit:
        return False
    if None not in (numbers := [_number(a), _number(g)]):
        return numbers[0] == numbers[1]
    (kind, a_parts), (g_kind, g_parts) = _parts(a), _parts(g)
    free = {"list", "union"}                          # of order; brackets are not
    if kind != g_kind and free & {kind, g_kind}:
        return False
    if kind == g_kind != "value":
        for x in a_parts:                             # each part of the gold serves once
            rest = g_parts if kind in free else g_parts[:1]
            if (match := next((y for y in rest if _equal(x, y, ask)), None)) is None:
                return False
            g_parts.remove(match)
        return not g_parts
    if "=" in a or "=" in g:
        (a_name, a_sides), (g_name, g_sides) = _sides(a), _sides(g)
        if a.count("=") == g.count("=") == 1 and (not a_name or a_name != g_name):
            return not _refused(a, g) and ask(a, g)   # two equations, equal up to a factor
        return len(g_sides) == 1 and all(_equal(x, g_sides[0], ask) for x in a_sides)
    if kind != g_kind or (a_parts, g_parts) != ([answer], [gold]):       # a unit or bracket came off: look again
        return kind == g_kind and _equal(a_parts[0], g_parts[0], ask)
    if _WORD.search(a) or _WORD.search(g):
        a, g = (" ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", x).split()).strip("().:") for x in (a, g))
        return a == g or len(a) > 1 and a.casefold() == g.casefold()
    relations = [bool(re.search(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])", x)) for x in (a, g)]
    if relations[0] != relations[1] or re.search(r"\d_", a + " " + g) or "'" in a + g or a.casefold() == g.casefold():
        return False                                  # bases and primes match as text only, and 2x is not 2X
    return not _refused(a, g) and ask(a, g)


def _sides(text: str) -> tuple[str, list[str]]:
    r"""Splits a chain at its = signs; names at its front do not count: x = \frac{10}{2} = 5 has two sides."""
    sides, name = text.split("="), ""
    while len(sides) > 1 and sides[0] and re.fullmatch(_NAME, sides[0]):
        name = sides.pop(0)
    return name, sides


def same_answer(answer: str | None, gold: str, ask=symbolic) -> bool:
    r"""Says whether a boxed answer equals the gold one, by the policy above; ``ask`` decides what needs algebra.

    >>> [same_answer(a, "25") for a in ("025", "x = 25", r"\$25", "26=25", "24 or 25")]
    [True, True, True, False, False]
    """
    if not answer or len(answer) > 400 or gold is None:
        return False
    answer, gold = _tidy(answer), _tidy(extract_answer(str(gold), thinking=False) or str(gold))
    if not (answer.isascii() and answer.isprintable()):
        return answer == gold
    return _equal(answer, gold, ask)


# ------------------------------------------------------------------------------------------ the ThinkPrune reward
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


# ------------------------------------------------------------------------------------------ killable workers
# sympy can hang inside one C call, where neither threads nor Python's signal handlers run. So a worker forks a child
# that answers until the kernel ends it, after CPU_SECONDS or at the latest WALL_SECONDS on one answer, and then forks
# the next, which costs milliseconds where a new worker would import sympy again. A worker is a plain command, not
# multiprocessing: that works inside daemonic processes and without an `if __name__` guard in the user's script, and
# never copies one with CUDA.
CPU_SECONDS, WALL_SECONDS, START_SECONDS, MEMORY = 0.75, 4.0, 120.0, 2 << 30      # CPU: the same on a busy machine
WORKERS = min(4, os.cpu_count() or 1)
_COMMAND = [sys.executable, "-P", os.path.abspath(__file__), "--worker"]  # -P: no random.py of a neighbour's


def _serve(cpu_seconds: float, wall_seconds: float) -> None:
    """The worker: one JSON pair a line in; 1, 0 or "killed" out."""
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())    # what the user's process ignores or blocks would be inherited
    for timer in signal.SIGPROF, signal.SIGALRM:
        signal.signal(timer, signal.SIG_DFL)          # it kills

    def limit(cpu: float, wall: float) -> None:
        signal.setitimer(signal.ITIMER_PROF, cpu)
        signal.setitimer(signal.ITIMER_REAL, wall)

    limit(0, START_SECONDS)
    symbolic("x+1", "1+x")                            # imports and tables now, not on the first answer's time
    limit(0, 0)
    print("ready", flush=True)
    while child := os.fork():
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):                  # end of input
            return
        print("killed", flush=True)
    for line in sys.stdin:
        limit(cpu_seconds, wall_seconds)
        try:
            right = same_answer(*json.loads(line))
        except Exception:                             # sympy's own errors on odd text: not equal
            right = False
        limit(0, 0)
        print(int(right), flush=True)


def _ask(answer: str, gold: str) -> bool | None:
    """same_answer in a worker; None if it had to be killed."""
    idle, reply = _idle, b""
    worker = idle.get()
    try:
        if worker is None or worker.poll() is not None:
            worker = subprocess.Popen([*_COMMAND, str(CPU_SECONDS), str(WALL_SECONDS)], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
            if worker.stdout.readline() != b"ready\n":
                raise RuntimeError(f"no grading worker (pip install math-verify?); run: {' '.join(_COMMAND)} 1 1")
        worker.stdin.write(json.dumps([answer, gold]).encode() + b"\n")
        worker.stdin.flush()
        reply = worker.stdout.readline()
    except BrokenPipeError:
        pass
    finally:
        idle.put(worker if reply else worker and worker.kill())          # None: an empty place
    return {b"1\n": True, b"0\n": False}.get(reply)


def close() -> None:
    """Ends the idle workers (also at exit); the next grade starts new ones."""
    while not _idle.empty():
        if worker := _idle.get():
            try:
                worker.communicate(timeout=5.0)       # closes its input: it leaves
            except subprocess.TimeoutExpired:
                worker.kill()                         # its child ends with the time that it has
                worker.wait()
    _new_pool()


def _new_pool() -> None:
    global _idle
    _idle = queue.LifoQueue()
    for _ in range(WORKERS):
        _idle.put(None)                               # a worker's place: it starts when it is needed


_new_pool()
atexit.register(close)
os.register_at_fork(after_in_child=_new_pool)         # a forked DataLoader worker must not share these pipes


class Grade(NamedTuple):
    """Verdict on one response; ``timed_out``: the comparison was killed, which counts as wrong."""
    answer: str | None
    correct: bool
    timed_out: bool


@functools.lru_cache(maxsize=1 << 14)                 # rollouts of a group repeat their answers
def _judge(answer: str | None, gold: str | None) -> tuple[bool, bool]:
    """Returns (correct, timed out). Only a question that needs algebra goes to a worker, then as a whole."""
    asked = []
    try:
        verdict = same_answer(answer, gold, lambda *pair: asked.append(pair))
    except (ValueError, IndexError, RecursionError):  # the model's text never makes us raise
        return False, False
    if asked:
        verdict = _ask(answer, gold)
    return bool(verdict), verdict is None


def grade(responses: list[str], golds: list[str], thinking: bool = True) -> list[Grade]:
    r"""Grades a batch, from any thread. Numbers, words and lists of them never start a worker.

    >>> grade([r"</think> \boxed{1,234}", "cut off"], ["1234", "7"])[0]
    Grade(answer='1,234', correct=True, timed_out=False)
    """
    answers = [extract_answer(r, thinking) for r in responses]
    pairs = [(a, g if g is None else str(g)) for a, g in zip(answers, golds, strict=True)]
    unique = list(dict.fromkeys(pairs))
    with ThreadPoolExecutor(WORKERS) as threads:
        verdicts = dict(zip(unique, threads.map(lambda pair: _judge(*pair), unique)))
    return [Grade(pair[0], *verdicts[pair]) for pair in pairs]


def is_correct(response: str, gold: str, thinking: bool = True) -> bool:
    r"""Says whether the boxed answer equals the gold one; never raises on the model's text.

    >>> is_correct(r"hm</think> \boxed{\frac12}", "0.5"), is_correct(r"hm \boxed{4}", "4")
    (True, False)
    """
    return grade([response], [gold], thinking)[0].correct


def score(responses, golds, n_tokens, finished, cap: int, thinking: bool = True) -> list[float]:
    r"""Returns the ThinkPrune reward of each rollout; the lists have one length.

    >>> score([r"</think>\boxed{4}"] * 2, ["4"] * 2, n_tokens=[9, 16], finished=[True, False], cap=16)
    [1.0, 0.0]
    """
    grades = grade(responses, golds, thinking)
    return [thinkprune(g.correct, f, n, cap) for g, f, n in zip(grades, finished, n_tokens, strict=True)]


# ------------------------------------------------------------------------------------------ adapters and the command
def trl_reward(cap: int, eos_token_id: int, gold: str = "answer", thinking: bool = True):
    """Returns a function for TRL's GRPOTrainer(reward_funcs=...); ``gold`` names the dataset's column."""
    def thinkprune_reward(completions, completion_ids, **columns):
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        finished = [len(ids) > 0 and int(ids[-1]) == eos_token_id for ids in completion_ids]
        return score(texts, columns[gold], [len(ids) for ids in completion_ids], finished, cap, thinking)
    return thinkprune_reward


def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float:
    """verl's custom reward function. verl passes no lengths: without "n_tokens", "finished" and "cap" in
    ``extra_info``, a rollout that max_response_length cut after its box still earns 1. "thinking" is read there too."""
    info = extra_info or {}
    correct = is_correct(solution_str, ground_truth, info.get("thinking", True))
    return thinkprune(correct, info.get("finished", True), info.get("n_tokens", 1), info.get("cap", 1 << 30))


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
        parser.exit(2, f"error: {options.rollouts}:{number}: {error!r}; each line must be a JSON object with response, "
                       "gold and finished\n")
    grades = grade([r["response"] for r in rows], [r["gold"] for r in rows], not options.no_thinking)
    verdicts = ["not finished" if not r["finished"] else "no box" if g.answer is None else "timed out" if g.timed_out
                else "right" if g.correct else "wrong" for r, g in zip(rows, grades)]
    for name in ("right", "wrong", "no box", "not finished", "timed out"):
        print(f"{name:13}{verdicts.count(name):8}{verdicts.count(name) / max(1, len(rows)):8.1%}")
    differ = sum(r.get("correct", g.correct) != g.correct for r, g in zip(rows, grades))
    print(f"{'all':13}{len(rows):8}   stored verdict differs: {differ}")


if __name__ == "__main__":
    _serve(*map(float, sys.argv[2:])) if sys.argv[1:2] == ["--worker"] else main()
