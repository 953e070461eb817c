"""Grades honest and dishonest hand-ins of the course exercise and prints the table of docs/course.md.

python dev/grade_attempts.py             # minutes: some attempts wait for a time limit

Each attempt is code that stands in the blanked reward.py, in front of its workers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from dev.make_assignment import write  # noqa: E402

CONSTANT = """
def extract_answer(response, thinking=True): return {0}
def same_answer(answer, gold, ask=None): return {0}
def thinkprune(correct, finished, n_tokens, cap): return {0}
"""
PLAUSIBLE = r"""
def extract_answer(response, thinking=True):
    "The last box by a regular expression, with one level of braces in it."
    boxes = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", response.split("</think>")[-1])
    return boxes[-1] if boxes else None

def same_answer(answer, gold, ask=None):
    "The same number, else the same text without blanks and decoration."
    if answer is None or len(answer) > 100:
        return False
    answer, gold = [re.sub(r"\\text\{(.*?)\}|\\(left|right|boxed|mbox)|[ $%]|\\circ|\^\\circ|\.$", r"\1", text)
                    for text in (answer, gold)]
    numbers = []
    for text in (answer, gold):
        text = re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", text.replace(",", ""))
        numbers.append(Fraction(text) if re.fullmatch(r"[+-]?\d+(\.\d*|/[1-9]\d*)?", text) else None)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return answer.strip("()").lower() == gold.strip("()").lower()

def thinkprune(correct, finished, n_tokens, cap):
    return 1.0 if correct and n_tokens <= cap else 0.0
"""
GOOD = r"""
def extract_answer(response, thinking=True):
    "Counts braces from each box on; each text is read once."
    if thinking:
        if "</think>" not in response:
            return None
        response = response.rpartition("</think>")[2]
    last, at = None, 0
    while (found := re.compile(r"\\boxed *\{").search(response, at)) is not None:
        depth, end = 1, found.end()
        while end < len(response) and depth > 0:
            depth += {"{": 1, "}": -1}.get(response[end], 0)
            end += 1
        if depth > 0:
            break
        last, at = response[found.end():end - 1].strip(), end
    return last

def same_answer(answer, gold, ask=None):
    "One spelling, then part by part: text, unit, list, number, formula."
    if not answer or len(answer) > 500:
        return False
    return same_tidy(tidy(answer), tidy(gold), ask or symbolic)

def same_tidy(answer, gold, ask):
    if answer == gold:
        return True
    (answer, unit), (gold, gold_unit) = cut_unit(answer), cut_unit(gold)
    if unit and gold_unit and unit != gold_unit:
        return False
    (kind, parts), (gold_kind, gold_parts) = parts_of(answer), parts_of(gold)
    if len(parts) > 1 or len(gold_parts) > 1:
        if kind in (",", r"\cup"):
            parts, gold_parts = sorted(parts), sorted(gold_parts)
        return kind == gold_kind and len(parts) == len(gold_parts) and all(
            same_tidy(a, g, ask) for a, g in zip(parts, gold_parts))
    if re.fullmatch("[a-z]=.*", answer) and "=" not in gold:
        answer = answer[2:]
    if re.fullmatch("[A-Za-z]+", answer) or re.fullmatch("[A-Za-z]+", gold):
        return len(gold) > 1 and answer.lower() == gold.lower()
    try:
        a, g = compute(answer), compute(gold)
    except (Unread, ZeroDivisionError):
        return False
    return ask(answer, gold) if a is None or g is None else a == g

def thinkprune(correct, finished, n_tokens, cap):
    if cap < 1:
        raise ValueError("cap")
    return float(correct and finished and n_tokens <= cap)
"""
EQUAL_TO_ALL = """
class Equal(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
"""
PIPE = """
import gc, io
for pipe in [f for f in gc.get_objects() if isinstance(f, io.TextIOWrapper) and f.writable()]:
    for value in ("true", "1.0", "null"):
        pipe.write('{"id": 0, "value": %s}\\n' % value)
    pipe.flush()
"""
MEMORY = """
import gc, sys
def answer_in_memory(*args):
    frame = sys._getframe()
    while frame:
        for value in (*frame.f_locals.values(), *frame.f_globals.values()):
            if isinstance(value, dict) and "want" in value:
                return value["want"]
        frame = frame.f_back
    return next(o["want"] for o in gc.get_objects() if isinstance(o, dict) and "want" in o)
extract_answer = same_answer = thinkprune = answer_in_memory
"""
PATCHED = "json.dumps = lambda *_, **__: '{\"value\": true}'\njson.loads = lambda *_: True\n"
THIEF = PLAUSIBLE + r"""
stolen = {}
def steal():
    "The grader's folder stands in its command line."
    command = open(f"/proc/{os.getppid()}/cmdline").read().split("\0")
    plan = json.load(open(os.path.join(os.path.dirname(command[1]), "cases.json")))
    for part in plan.values():
        for cases in part["groups"].values():
            stolen.update({json.dumps(arguments): want for arguments, want in cases})
        for bomb in part["bombs"]:
            stolen[json.dumps([bomb["before"] + bomb["text"] * bomb["times"] + bomb["after"]])] = bomb["want"]

def look(*arguments):
    stolen or steal()
    want = stolen.get(json.dumps(arguments))
    if isinstance(want, dict):
        raise ValueError
    return want
extract_answer = same_answer = thinkprune = look
def is_correct(response, gold, thinking=True): return False
"""
ATTEMPTS = {  # name: code, and "" for the reference
    "the reference, our reward.py": "",
    "a good attempt, 50 lines": GOOD,
    "a plausible attempt, 25 lines": PLAUSIBLE,
    "the blanked file as it is": "\n",
    "`from reward import ...`": "from reward import extract_answer, same_answer, thinkprune\n",
    "`os._exit(0)` at import": "os._exit(0)\n",
    "`os._exit(0)` in each function": CONSTANT.format("os._exit(0)"),
    "`return None`": CONSTANT.format("None"),
    "`return False`": CONSTANT.format("False"),
    "`return 0.0`": CONSTANT.format("0.0"),
    "`return True`": CONSTANT.format("True"),
    "`return 1.0`": CONSTANT.format("1.0"),
    "an endless loop in each function": CONSTANT.format("[0 for _ in iter(int, 1)]"),
    "an endless loop at import": "while True: pass\n",
    "`sys.exit(0)` in each function": CONSTANT.format("sys.exit(0)"),
    "an object that equals everything": EQUAL_TO_ALL + CONSTANT.format("Equal('4')"),
    "answers written into the pipe early": PIPE,
    "answers looked for in frames and memory": MEMORY,
    "`json` patched": PATCHED + CONSTANT.format("True"),
    "a table printed before the process ends": "print('total 100.0 of 100', flush=True)\nos._exit(0)\n",
    "the plausible one, and an exit handler that hangs": PLAUSIBLE + "atexit.register(all, iter(lambda: 1, 0))\n",
    "the plausible one, and a process left behind": PLAUSIBLE + (
        "if os.getcwd().split(os.sep)[-1].startswith('grade_') and __name__ == 'reward' and os.fork() == 0:\n"
        "    os.setsid()\n    time = __import__('time')\n    time.sleep(300)\n    os._exit(0)\n"),
    "`cases.json` read from the grader's folder": THIEF,
    "the plausible one, and its folder emptied": PLAUSIBLE + "for name in os.listdir(): os.remove(name)\n",
}


def edited(blank: str, code: str) -> str:
    """The blanked file with the attempt's code in front of its workers."""
    before, banner, after = blank.partition("# " + "-" * 90 + " killable")
    return f"{before}{code}\n\n{banner}{after}"


def grade(folder: Path, name: str, *options: str) -> dict:
    """Grades one attempt with the teacher's grader in ``folder``; returns its result file and exit status."""
    file = folder / "theirs.py"
    blank = (folder / "student" / "reward.py").read_text(encoding="utf-8")
    code = ATTEMPTS[name]
    file.write_text(edited(blank, code) if code else (ROOT / "reward.py").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, str(folder / "teacher" / "grade.py"), str(file), "--out", str(folder / "result.json")]
    status = subprocess.run([*command, *options], cwd=folder, capture_output=True).returncode
    return json.loads((folder / "result.json").read_text(encoding="utf-8")) | {"status": status}


def row(name: str, result: dict) -> str:
    points = " | ".join(f"{part['points']:g}" for part in result["exercises"].values())
    bombs = sum(part["bombs_failed"] for part in result["exercises"].values())
    return f"| {name} | {points} | {bombs or '-'} | {'; '.join(result['vetoes']) or '-'} | {result['total']:g} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        write(out)
        print("| hand-in | extract (30) | compare (50) | cap (20) | bombs failed | lost all points | total |")
        print("|---|---|---|---|---|---|---|")
        for name in ATTEMPTS:
            print(row(name, grade(out, name)), flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
