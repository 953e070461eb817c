r"""Grades a rollout: is its last \boxed{} answer right, and did it end within the token cap?

Copy this file and latex.py; they import nothing else of ours (Countdown problems want arithmetic.py, too). Below stand
the reward and the public functions, the policy with one function a line, killable workers, adapters for TRL and verl,
and the command:

    python reward.py rollouts.jsonl         # re-score a rollout file and print the table of verdicts

Policy, where graders disagree (tests/test_reward.py has each line as a test):
- Only the last balanced \boxed{} after the last </think> counts. A cut box, a box in thinking or \fbox is no answer.
- Numbers compare exactly: 025 = +25. = 25.0, 1,234 = 1\,234 = 1234, 0.5 = 1/2, 0.\overline{6} = 2/3, 1\frac12 = 1.5
  (a mixed number), 3e8 = 3 \times 10^8, but 0.333 is not 1/3.
- Where the gold is a number, nothing may be left to work out: 69-53+56, 8(9), 144/2 and 2^3+1 are wrong, whatever their
  value. An unreduced fraction (10/12), a power, a root, a binomial and 7!/16 may stand.
- A unit, percent or currency sign may be left out; given on both sides it must agree. 10\% is 10, never 0.1.
- A base subscript must stand there and agree: 52_8 = (52)_8 is neither 52_9 nor 52.
- "1,2", "1 and 2", \{1,2\} are one unordered list of exactly the gold's length ("4 or 5" is not 4); a \pm b is two
  values. Brackets keep order and kind: (1,2) is not (2,1), [1,2] or 1,2. The parts of a union have no order.
- An inequality equals only an inequality, never an interval or a number; 5 > x is x < 5; x \in [1,2] is [1,2].
- x=5 is 5 but not y=5; in a chain every part must equal the gold: 26=25 is not 25. The letter i is the imaginary unit.
- Equations are equal if one is a multiple of the other, but 2x=10 is not x=5, nor 2x<10 x<5: they are unsolved. One
  that holds always or never equals nothing.
- \log is \log_{10}. Numbers side by side are a product or nothing: 20(5) is 5(20), 20 5 is no number. What may be meant
  either way (1/2x, x2, \sin(x)^2, 20{5}) is compared as text.
- A choice is its letter alone: (A), \text{A}, "A." are A. Words compare as words, case ignored; letters keep theirs.
- What latex.py does not understand to the last sign is text: derivatives, sums, code, rare Unicode.
"""
import argparse
import atexit
import contextlib
import faulthandler
import functools
import json
import os
import queue
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import NamedTuple

sys.path.append(os.path.dirname(os.path.abspath(__file__)))              # last: a neighbour's random.py is never taken
from latex import NAME, Unread, compute, cut_unit, parts_of, readable, sides_of, symbolic, tidy, worked_out  # noqa


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
    The prompt may have opened <think> already. ``thinking=False`` reads the whole text: the model does not think aloud.
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
    r"""Says whether a boxed answer equals the gold one; ``ask`` compares formulas (``symbolic``, here and now).
    >>> [same_answer(a, "25") for a in ("025", "x = 25", r"\$25", "26=25", "24 or 25")]
    [True, True, True, False, False]
    """
    if not answer or gold is None:
        return False
    gold = extract_answer(str(gold), thinking=False) or str(gold)
    if gold.strip().startswith("countdown:"):         # any sum that reaches the target
        from arithmetic import reaches
        return reaches(answer, gold)
    if answer.strip() == gold.strip():
        return True
    if len(answer) > 2000 or len(gold) > 2000:
        return False
    joins = [set(re.findall(r"\b(and|or)\b", text)) for text in (answer, gold) if re.search(r"[<>]|\\[lg]eq?", text)]
    if len(joins) == 2 and all(joins) and joins[0] != joins[1]:          # x>1 or x<3 is not x>1 and x<3
        return False
    answer, gold = tidy(answer), tidy(gold)
    if len(answer) > 400 or not answer.isascii():     # too long or too odd to be read
        return answer == gold
    signs = [re.findall(r"\\(pm|mp)(?![a-z])", text) for text in (answer, gold)]
    linked = [[sign == several[0] for sign in several] for several in signs if len(several) > 1]
    if len(linked) == 2 and linked[0] != linked[1]:   # (\pm1,\mp2) is two pairs, and not (\pm1,\pm2)
        return False
    return _same(answer, gold, ask or symbolic)


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
    (value, unit), (gold_value, gold_unit) = cut_unit(answer), cut_unit(gold)
    if unit or gold_unit:
        return (unit == gold_unit or not unit or not gold_unit) and _same(value, gold_value, ask)


def same_set(answer, gold, ask):
    r"""x \in [1,2] is [1,2], but not y \in [1,2]."""
    (name, value), (gold_name, gold_value) = _cut_member(answer), _cut_member(gold)
    if (name or gold_name) and NAME.fullmatch(name) and NAME.fullmatch(gold_name):
        return (name == gold_name or not name or not gold_name) and _same(value, gold_value, ask)


def _cut_member(text):
    r"""x \in [1,2] is ("x", "[1,2]"); what has no \in, or several, has no name."""
    pieces = re.split(r"\\in(?![A-Za-z]) ?", text)
    return pieces if len(pieces) == 2 else ("", "".join(pieces))


def same_parts(answer, gold, ask):
    """Lists, sets and unions have no order; pairs, intervals and matrices do. Each part of the gold serves once."""
    (kind, parts), (gold_kind, gold_parts) = parts_of(answer), parts_of(gold)
    if (parts, gold_parts) == ([answer], [gold]) or kind != gold_kind and "=" in answer + gold:
        return None                                   # nothing came apart, or (x,y) = (1,2)
    if kind != gold_kind or len(parts) != len(gold_parts):
        return False
    ordered = kind not in (",", r"\cup") or r"\dots" in gold
    for part in parts:
        for gold_part in gold_parts[:1] if ordered else gold_parts:
            if _same(part, gold_part, ask):
                gold_parts.remove(gold_part)
                break
        else:                                         # none of them
            return False
    return True


def same_relation(answer, gold, ask):
    """x=5 is 5, but not y=5 or 2x=10; 26=25 is not 25. An inequality equals only one, x<5 only a solved one."""
    (sides, signs), (gold_sides, gold_signs) = sides_of(answer), sides_of(gold)
    if not signs and not gold_signs:
        return None
    if set(signs + gold_signs) == {"="} and not (signs and gold_signs):  # only one of them is a chain
        chain, value = (sides, gold) if signs else (gold_sides, answer)
        while len(chain) > 1 and NAME.fullmatch(chain[0]):              # every side but the name must be the value
            chain = chain[1:]
        if len(chain) == 2 and re.fullmatch("[A-Za-z]", chain[1]):      # 5 = x
            chain = chain[:1]
        same = [_same(side, value, ask) for side in chain]
        return any(same) and all(yes or same_value(side, value, ask) for yes, side in zip(same, chain))  # 3+4 = 7
    if signs[:1] == gold_signs[:1] == ["="] and sides[0] == gold_sides[0] and NAME.fullmatch(sides[0]):
        return _same(answer.partition("=")[2], gold.partition("=")[2], ask)                             # both x = ...
    if signs != gold_signs or "=" in signs[1:]:
        return False
    if signs == ["="] and any(map(worked_out, gold_sides)) and re.search(r"(^|=)[A-Za-z](_\{\w+\})?(=|$)", gold):
        return any(all(_same(*pair, ask) for pair in zip(s, gold_sides)) for s in (sides, sides[::-1]))  # not 2x=10
    if set(signs) <= {"<", r"\le"} and all(s.isalpha() or worked_out(s) for s in gold_sides):             # not 2x<10
        return all(_same(*pair, ask) for pair in zip(sides, gold_sides))
    if not all(map(readable, sides + gold_sides)):    # words, say: then an inequality, side by side
        return signs[0] != "=" and all(_same(a, g, ask) for a, g in zip(sides, gold_sides))
    return all(ask(f"{sides[i]}{sign} {sides[i + 1]}", f"{gold_sides[i]}{sign} {gold_sides[i + 1]}")
               for i, sign in enumerate(signs))       # a < b < c is a < b and b < c


def same_formula(answer, gold, ask):
    """Where the gold is a number, 69-53+56 is no answer: it repeats the question and leaves the work to the grader."""
    return False if worked_out(gold) and worked_out(answer) is False else same_value(answer, gold, ask)


def same_value(answer, gold, ask):
    r"""b+a = a+b and \frac{14}{4} = 3.5, if both are understood to the last sign."""
    for text, other in (answer, gold), (gold, answer):
        if re.fullmatch(r"[A-E]|[A-Za-z]{4,}[A-Za-z' -]*", text):
            return None                               # the letter of a choice, or a word
        if re.fullmatch("[A-Za-z ]+", text) and (other.isalpha() or not set(text) <= {"i", "e", *other}):
            return None                               # letters, of which some are not in the other one: a short word
    try:
        a, g = compute(answer), compute(gold)
    except Unread:
        return None
    except ZeroDivisionError:
        return False
    return ask(answer, gold) if a is None or g is None else a == g


def same_words(answer, gold, ask):
    """Case is ignored in words, not in letters."""
    word = re.fullmatch(r"[A-Za-z][A-Za-z' -]{3,}|(?i:yes|no|odd)", gold)
    return bool(word) and answer.replace(" ", "").lower() == gold.replace(" ", "").lower()


# ------------------------------------------------------------------------------------------ killable workers
# A comparison can hang in one C call, where neither threads nor signal handlers run. So a worker process compares, and
# ends itself after WALL_SECONDS. A plain command, unlike multiprocessing, works on Windows and never copies CUDA.
WALL_SECONDS, START_SECONDS, MEMORY = 3.0, 120.0, 2 << 30
WORKERS = min(4, os.cpu_count() or 1)
_COMMAND = [sys.executable, "-P", os.path.abspath(__file__), "--worker"]  # -P: no random.py of a neighbour's


def _serve(wall_seconds: float) -> None:
    """The worker: one JSON pair a line in; true or false out, or its own end."""
    with contextlib.suppress(ImportError, ValueError, OSError):          # Windows has none; macOS may refuse (untried)
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
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
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(timeout=5.0)
        worker.kill()                                 # does nothing to one that left


_idle = queue.LifoQueue()                             # of WORKERS places, each with a worker or None
close()
atexit.register(close)
if hasattr(os, "register_at_fork"):                   # Windows does not fork
    os.register_at_fork(after_in_child=close)         # a copy of the pipe in the child would keep a worker from ending


@functools.lru_cache(maxsize=1 << 14)                 # rollouts of a group repeat their answers
def _decide(answer: str | None, gold: str | None) -> bool:
    """Only what needs formulas goes to a worker, and then as a whole, so that one deadline holds for all its parts."""
    asked = []
    try:
        correct = same_answer(answer, gold, lambda *pair: asked.append(pair))
    except (ArithmeticError, ValueError, IndexError, RecursionError):    # the model's text never makes us raise
        return False
    return _ask(answer, gold) if asked else correct


def _judge(answer: str | None, gold: str | None) -> Grade:
    """A comparison that was killed is not remembered: the machine may only have been busy."""
    try:
        return Grade(answer, _decide(answer, gold), False)
    except TimeoutError:
        return Grade(answer, False, True)


# ------------------------------------------------------------------------------------------ adapters and the command
def trl_reward(cap: int, eos_token_id: int | list[int], gold: str = "answer", thinking: bool = True, decode=None):
    """Returns a function for TRL's GRPOTrainer(reward_funcs=...).

    Args:
        eos_token_id: The end token, or several. gold: The dataset's column with the gold answers.
        decode: Pass ``tokenizer.decode`` if </think> is a special token, which TRL's texts have lost.
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
    ``extra_info``, a rollout that max_response_length cut after its box still earns 1. Any of several golds counts."""
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
        with contextlib.suppress(ValueError):
            gold = json.loads(gold)
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
            rows.append(json.loads(line.decode("utf-8")))
            rows[-1]["response"], rows[-1]["gold"], rows[-1]["finished"]         # KeyError
        if not rows:
            raise ValueError("empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.exit(2, f"error: {options.rollouts}:{number}: {error!r}; a line is JSON with response, gold, finished\n")
    grades = grade([r["response"] for r in rows], [r["gold"] for r in rows], not options.no_thinking)
    verdicts = ["not finished" if not r["finished"] else "no box" if g.answer is None else "timed out" if g.timed_out
                else "right" if g.correct else "wrong" for r, g in zip(rows, grades)]
    for name in ("right", "wrong", "no box", "not finished", "timed out"):
        print(f"{name:13}{verdicts.count(name):8}{verdicts.count(name) / len(rows):8.1%}")
    differ = sum(r.get("correct", v == "right") != (v == "right") for r, v in zip(rows, verdicts))
    several = sum(len(all_boxes(r["response"], not options.no_thinking)) > 1 for r in rows)
    print(f"{'several boxes':13}{several:8}{several / len(rows):8.1%}   the last one counts")
    print(f"{'all':13}{len(rows):8}   stored verdict differs: {differ}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _serve(float(sys.argv[2]))
    else:
        main()
