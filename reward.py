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
- Whatever _ALGEBRA does not list compares as text only: other commands, code, what is costly, rare Unicode.
"""
import argparse
import atexit
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
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
        if brace[0] == "{" or brace[0].startswith(r"\boxed"):
            opened.append(brace)
        elif brace[0] == "}" and opened and (start := opened.pop())[0] != "{":
            span = start.end(), brace.start()
    return span and response[slice(*span)].strip()


# ------------------------------------------------------------------------------------------ compare
_SYMBOLS = {code + 0xFEE0: chr(code) for code in range(33, 127)} | str.maketrans({                  # full-width, then
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ",
    "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "≤": r"\le ", "≥": r"\ge ", "°": r"^\circ ", "²": "^2 ", "³": "^3 ",
    "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "≠": r"\ne ", "—": "-",
    "θ": r"\theta ", "∅": r"\emptyset ", "\u200b": "", "\ufeff": ""})
_SPELLINGS = [(re.compile(old), new) for old, new in [                   # in this order
    (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])", ""),
    (r"\\(?:mbox|text[a-z]{2}|math(?:rm|bf|it|sf)) ?\{", r"\\text{"),
    (r"\\[dtc]frac", r"\\frac"), (r"\\(?:bar|dot)(?![a-z])", r"\\overline"), (r"\{\}|\\text\{ *\}", " "),
    (r"<=", r"\\le "), (r">=", r"\\ge "),
    (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
    (r"(?<=\d)(?:\{,\}|,?\\[,!; ]|~) ?(?=\d{3}(?!\d))", ""),             # 1{,}234  1\,234  1,\! 234
    (r"(?<!\\)\\[,!;: ]|\\quad|~|\s+", " "),
    (r"^(?:[ $]|\\[(\[])+|(?: |(?<!\\)\$|\\[)\]])+$|(?<![\\.])[.,] ?$", ""),
    (r"(?<![\d,.(\[{ ])\d{1,3}(?:[, ]\d{3})+(?![\d,])", lambda number: re.sub("[, ]", "", number[0])),
    (r"\\frac ?(\w)", r"\\frac{\1}"),                                    # \frac12 and \frac1{2}
    (r"(\\frac ?\{(?:[^{}]|\{[^{}]*\})*\}) ?(\w)", r"\1{\2}"),
    (r"([_^])(-?\d+|[A-Za-z])", r"\1{\2}"),                              # 52_8  x^2
    (r"\\sqrt ?(\d+)", r"\\sqrt{\1}"),
    (r"(?<!\w) +| +(?!\w)", ""),                                         # p - q is p-q, but 25 25 is not 2525
    (r"[, ]*(?:\\text\{[, ]*(?:and|or)\}|\b(?:and|or)\b|;)[, ]*", ","),
    (r"(^|=|\\in)\\\{(.*)\\\}$", r"\1{\2}"),                             # a set is a list in braces
    (r"(?<![^,({=])\\text\{([^{}]*)\}(?![^,)}=])", r"\1"),               # \text{A}  \text{25 cm}
    (r"^([+-]?)\\\$(.*)", r"\1\2\\text{dollar}"),                        # units become \text{}
    (r"\\\$$", r"\\text{dollar}"), (r"\\?%", r"\\text{percent}"),
    (r"\^\{?\\circ\}?", r"\\text{degree}"),
    (r"(?<=[\d}]) ?\b((?:[A-Za-z]{4,}|[ckm]m|kg|ft)(?: [A-Za-z]+)*)$", r"\\text{\1}"),
    (r"\\text\{square ([A-Za-z ]+)\}", r"\\text{\1}^{2}"),
    # 20(5) is a product; math-verify would add the two
    (r"((?<![_^]\{\w)(?<![_^]\{\w\w)\}|\)|\d(?!\\frac\{\d+\}\{\d+\}))(?=\(|\\frac|\\binom)", r"\1\\cdot ")]]
_UNIT = re.compile(                                   # but not a word that changes or denies the number
    r"(?:(?<=[\d})\]])|(?<=\\pi))\\text\{(?![^}]*\b(?:not?|or|and|is|but|plus|minus|negative|times?|half|halve|dozen"
    r"|tenth|(?:hundred|thousand)(?:th)?|[mbtr]+illion|squared|cubed|factorial|of|than|less|more|most|least|over|under"
    r"|below|above|choose|mod|modulo|pi|wrong|false|never|zero|one|two|three|four|five|six|seven|eight|nine|ten)s?\b)"
    r"(?:[a-z.]+ ?){1,3}\}(?:\^\{[23]\})?$", re.IGNORECASE)
# What may stand before = or \in: x, a_1, f(2), m+n, (x,y)
_NAME = (r"(?:(?![_(])(?:\\(?:theta|angle) ?)?[A-Za-z]{0,3}(?:_\{\w+\})?(?:\(\w+\))?"
         r"|[a-z](?:\+[a-z])+|\([a-z](?:,[a-z])+\))")
# All that math-verify may see: it guesses at the rest, adds numbers that touch, and computes 9^{9^{9}} for hours.
_ALGEBRA = re.compile(r"""
    (?! [*/=<>] | \\(?:cdot|times|div|[lg]eq?)(?![a-z]) )                # begins with what works on two sides
    (?: \d{1,2}! (?! [\d!] )
      | (?: \d{1,60} (?:\.\d+)? | \.\d+ ) (?! [\d.!_{\[] | [ ]\d | \\frac )              # neither 52_8 nor 20 5
      | [A-Za-z]{1,3} (?![A-Za-z]) (?: _\{\w{1,3}\} )?
      | \\(?:pi|infty|theta|alpha|beta|lambda|phi|omega)(?![A-Za-z])
      | \\frac (?=\{)
      | \\binom \{\d{1,3}\} \{\d{1,3}\} (?! [\d{] )
      | \\(?:begin|end)\{[bp]matrix\} | \\\\ | &
      | (?<=[\w^}\]]) \{ | [})] (?!\d) | [(| ]                           # {20}{5} and (20)5 are not 20+5
      | (?: [-+*/=<>]
          | \^ (?! [{(][^})]*[!^] | [{(]-?\d{5} )                        # no power in an exponent
          | \\ (?: cdot | times | div | [lg]eq? | sin | cos | tan | cot | sec | csc | log(?:_\{\d+\})? | ln | exp
                 | sqrt(?:\[\d\])? ) (?![A-Za-z])
        ) (?= .*\w )                                                     # all of these work on what follows
    )+""", re.VERBOSE)


def _tidy(text: str) -> str:
    r"""Gives an answer one spelling: plain LaTeX without decoration, "and" as a comma, a unit as \text{}."""
    text = text.translate(_SYMBOLS)
    for old, new in _SPELLINGS:
        text = old.sub(new, text)
    return text


def _number(text: str) -> Fraction | None:
    r"""Reads 1234  -.5  2e3  0.1\overline{6}  \frac{1}{2}  1\frac{1}{2} exactly; None if it is no such number."""
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d\d?)?", text):
        return Fraction(text)
    if found := re.fullmatch(r"([+-]?\d+)\.(\d*)\\overline\{(\d+)\}", text):
        start, cycle = found[1] + found[2], found[3]
        return Fraction(int(start + cycle) - int(start), 10 ** len(found[2]) * (10 ** len(cycle) - 1))
    text = re.sub(r"\\frac\{(\d+)\}\{(\d+)\}$", r" \1/\2", text).strip()
    found = re.fullmatch(r"([+-]?) ?(?:(\d+) )?(\d+)/(\d*[1-9]\d*)", text)
    if not found or found[2] and int(found[3]) >= int(found[4]):         # 1\frac{5}{2} is no mixed number
        return None
    sign, whole, above, below = found.groups("0")
    return int(sign + "1") * (int(whole) + Fraction(int(above), int(below)))


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character."""
    return list(accumulate((c in "([{") - (c in ")]}") for c in text))


def _split(text: str, separator: str) -> list[str]:
    """Splits outside all brackets."""
    cuts = [i for i, depth in enumerate(_depths(text)) if depth == 0 and text.startswith(separator, i)]
    starts = [0] + [cut + len(separator) for cut in cuts]
    return [text[start:end].strip() for start, end in zip(starts, cuts + [len(text)])]


def _parts(text: str) -> tuple[str, list[str]]:
    r"""Returns the kind ("\cup", "," for a list or set, a pair of brackets, "" for one value) and the parts."""
    text = re.sub(rf"^{_NAME}\\in(?![A-Za-z]) ?", "", text)
    brackets = text[:1] + text[-1:]
    if brackets in ("()", "(]", "[)", "[]", "{}") and 0 not in _depths(text)[:-1]:
        parts = _split(text[1:-1], ",")
        if brackets == "{}" or brackets == "()" and len(parts) == 1:     # (5) and {5} are 5
            return _parts(text[1:-1])
        return brackets, parts
    if len(parts := _split(text, r"\cup")) > 1:
        return r"\cup", parts
    parts = [x.replace(r"\pm", sign, 1) for x in _split(text, ",") for sign in ("+-" if r"\pm" in x else "+")]
    return "," if len(parts) > 1 else "", parts


def _is_algebra(text: str) -> bool:
    """Whether math-verify may see it: known pieces, balanced, no chain of equations, no words."""
    depths = _depths(text)
    return (bool(_ALGEBRA.fullmatch(text)) and min(depths) >= 0 == depths[-1] and max(depths) < 12
            and text.count("=") < 2 and text.count("|") % 2 == 0
            and (text == "i" or not re.fullmatch("[A-Za-z ]+", text))
            and ("matrix" in text or not re.search(r"&|\\\\", text))
            and text.count("}{") <= len(re.findall(r"\\frac|\\binom|\\log", text)))    # \frac{20}{1}{5} is no sum


def symbolic(answer: str, gold: str) -> bool:
    """Asks math-verify if two expressions are equal. It can hang or eat memory: _ask below is the safe way."""
    import logging
    from math_verify import LatexExtractionConfig, parse, verify
    from sympy import Eq, I, simplify
    logging.getLogger("math_verify").setLevel("ERROR")                   # "timeout is off": we kill instead
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
    """Compares two tidy texts part by part, down to numbers, algebra and words."""
    if answer == gold:
        return answer != ""
    if None not in (numbers := [_number(answer), _number(gold)]):
        return numbers[0] == numbers[1]
    if units := [unit for unit in (_UNIT.search(answer), _UNIT.search(gold)) if unit]:
        singular = {re.sub(r"(?<=[a-z]{3})e?s?\b|\.", "", unit[0].lower()) for unit in units}
        return len(singular) == 1 and _equal(_UNIT.sub("", answer), _UNIT.sub("", gold), ask)
    (kind, parts), (gold_kind, gold_parts) = _parts(answer), _parts(gold)
    came_apart = (parts, gold_parts) != ([answer], [gold])               # or out of brackets; else nothing is smaller
    if kind == gold_kind and came_apart:
        for part in parts:                            # each part of the gold serves once
            rest = gold_parts if kind in (",", r"\cup") else gold_parts[:1]
            if (match := next((x for x in rest if _equal(part, x, ask)), None)) is None:
                return False
            gold_parts.remove(match)
        return not gold_parts
    for chain, value in (answer, gold), (gold, answer):
        if "=" in chain and "=" not in value:         # x = 2+3 = 5: every side but the name must be the value
            sides = chain.split("=")
            while re.fullmatch(_NAME, sides[0]) and sides[1:]:
                sides.pop(0)
            return all(_equal(side, value, ask) for side in sides)
    if kind != gold_kind:
        return False
    if _is_algebra(answer) and _is_algebra(gold):
        # Capitals, and whether it is an inequality, must agree: math-verify takes X for x and \le 5 for 5.
        marks = [set(re.findall("[A-Z<]", re.sub(r">|\\[lg]eq?", "<", text))) for text in (answer, gold)]
        return marks[0] == marks[1] and ask(answer, gold)
    return bool(re.fullmatch("[A-Za-z ]{2,}|[A-Za-z]{4,}[A-Za-z' -]*", gold)) and answer.lower() == gold.lower()


def same_answer(answer: str | None, gold: str, ask=symbolic) -> bool:
    r"""Says whether a boxed answer equals the gold one, by the policy above; ``ask`` decides what needs algebra.

    >>> [same_answer(a, "25") for a in ("025", "x = 25", r"\$25", "26=25", "24 or 25")]
    [True, True, True, False, False]
    """
    if not answer or len(answer) > 400 or gold is None:
        return False
    answer, gold = _tidy(answer), _tidy(extract_answer(str(gold), thinking=False) or str(gold))
    return _equal(answer, gold, ask) if answer.isascii() else answer == gold


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
# the next in milliseconds. A worker is a plain command, not multiprocessing: that works inside daemonic processes and
# in scripts without an `if __name__` guard, and never copies a process with CUDA.
CPU_SECONDS, WALL_SECONDS, START_SECONDS, MEMORY = 0.75, 4.0, 120.0, 2 << 30      # CPU: the same on a busy machine
WORKERS = min(4, os.cpu_count() or 1)
_COMMAND = [sys.executable, "-P", os.path.abspath(__file__), "--worker"]  # -P: no random.py of a neighbour's


def _serve(cpu_seconds: float, wall_seconds: float) -> None:
    """The worker: one JSON pair a line in; true, false or null (killed) out."""
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())    # what the user's process blocks or ignores would be inherited
    for timer in signal.SIGPROF, signal.SIGALRM:
        signal.signal(timer, signal.SIG_DFL)          # it kills
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
    symbolic("x+1", "1+x")                            # imports and tables now, not on the first answer's time
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("ready", flush=True)

    def ask(*pair: str) -> bool:
        try:
            return symbolic(*pair)
        except Exception:                             # sympy's own errors on odd text: not equal
            return False

    while child := os.fork():                         # we stay here and replace killed children; the child goes on
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):                  # end of input
            return
        print("null", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)
        verdict = same_answer(*json.loads(line), ask)
        signal.setitimer(signal.ITIMER_REAL, 0)       # waiting takes no CPU time, so the other timer may stay
        print(json.dumps(verdict), flush=True)


def _ask(answer: str, gold: str) -> bool:
    """same_answer in a worker; raises TimeoutError if it had to be killed."""
    idle, reply = _idle, ""                           # close() may make a new queue meanwhile
    worker = idle.get()
    try:
        if worker is None or worker.poll() is not None:
            command = [*_COMMAND, str(CPU_SECONDS), str(WALL_SECONDS)]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      text=True, start_new_session=True)
            if worker.stdout.readline() != "ready\n":
                raise RuntimeError(f"no grading worker (pip install math-verify?); run: {' '.join(_COMMAND)} 1 1")
        print(json.dumps([answer, gold]), file=worker.stdin, flush=True)
        reply = worker.stdout.readline()
    except BrokenPipeError:
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
os.register_at_fork(after_in_child=close)


class Grade(NamedTuple):
    """Verdict on one response; ``timed_out``: its comparison was killed, which counts as wrong."""
    answer: str | None
    correct: bool
    timed_out: bool


@functools.lru_cache(maxsize=1 << 14)                 # rollouts of a group repeat their answers
def _judge(answer: str | None, gold: str | None) -> Grade:
    """Only what needs algebra goes to a worker, and then as a whole, so that one deadline holds for all its parts."""
    asked = []
    try:
        correct = same_answer(answer, gold, lambda *pair: asked.append(pair))
        return Grade(answer, _ask(answer, gold) if asked else correct, False)
    except TimeoutError:
        return Grade(answer, False, True)
    except (ValueError, IndexError, RecursionError):  # the model's text never makes us raise
        return Grade(answer, False, False)


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
        parser.exit(2, f"error: {options.rollouts}:{number}: {error!r}; a line is JSON with response, gold, finished\n")
    grades = grade([r["response"] for r in rows], [r["gold"] for r in rows], not options.no_thinking)
    verdicts = ["not finished" if not r["finished"] else "no box" if g.answer is None else "timed out" if g.timed_out
                else "right" if g.correct else "wrong" for r, g in zip(rows, grades)]
    for name in ("right", "wrong", "no box", "not finished", "timed out"):
        print(f"{name:13}{verdicts.count(name):8}{verdicts.count(name) / len(rows):8.1%}")
    differ = sum(r.get("correct", g.correct) != g.correct for r, g in zip(rows, grades))
    print(f"{'all':13}{len(rows):8}   stored verdict differs: {differ}")


if __name__ == "__main__":
    _serve(*map(float, sys.argv[2:])) if sys.argv[1:2] == ["--worker"] else main()
