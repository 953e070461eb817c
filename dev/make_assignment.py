"""Writes the course assignment: `python dev/make_assignment.py OUT` (see docs/course.md).

    OUT/student    the blanked reward.py, latex.py, half of the cases, the grader, the rollouts of exercise (c), README
    OUT/teacher    the grader, latex.py and the other half of the cases; no solution

Both halves are made of dev/assignment/cases.txt; each of its lines is checked in tests/test_course.py.
"""

import argparse
import ast
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ROOT / "dev" / "assignment"
BLANK = {"extract_answer": "a", "all_boxes": "a", "same_answer": "b", "thinkprune": "c"}
REMOVED = re.compile("_same$|same_(?!answer$)")  # the lines of the policy: how to cut them is part of exercise (b)
EXERCISES = {
    "extract": {"call": "extract_answer", "points": 30},
    "compare": {"call": "same_answer", "points": 50},
    "cap": {"call": "thinkprune", "points": 20},
}


def blanked(source: str) -> str:
    """Returns reward.py without the bodies of the exercise; signatures, docstrings and all the rest stay.

    >>> print(blanked('def thinkprune(x):\\n    "Cap."\\n    return x\\ndef same_x():\\n    pass\\ny = 1'))
    def thinkprune(x):
        "Cap."
        raise NotImplementedError("exercise (c)")
    y = 1
    """
    lines = source.splitlines()
    for node in reversed([n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]):
        first = node.lineno - 1
        if node.name in BLANK:
            lines[node.body[0].end_lineno : node.end_lineno] = [
                f'    raise NotImplementedError("exercise ({BLANK[node.name]})")'
            ]
        elif REMOVED.match(node.name):
            while lines[first - 1] == "" and first > 1:
                first -= 1
            lines[first : node.end_lineno] = []
    return "\n".join(lines)


def read_case(exercise: str, line: str) -> list:
    r"""One line of cases.txt as [arguments, wanted value].

    >>> read_case("compare", r"\frac12 ~ 0.5"), read_case("cap", "True False 9 8 => 0.0")
    ([['\\frac12', '0.5'], True], [[True, False, 9, 8], 0.0])
    """
    if exercise == "compare":
        answer, sign, gold = re.split(" ([~#]) ", line)
        return [[answer, gold], sign == "~"]
    text, _, want = line.rpartition("=>")
    if exercise == "extract":
        return [[text.rstrip(" ")], None if want.strip() == "none" else want.strip()]
    values = [{"True": True, "False": False}.get(word) if word[0] in "TF" else int(word) for word in text.split()]
    return [values, {"error": "ValueError"} if "ValueError" in want else float(want)]


def read_bomb(exercise: str, line: str) -> dict:
    """A long text is kept as text * times."""
    line, _, want = line.partition(" =>")
    text, times = line.rsplit(" * ", 1)
    bomb = {"text": text, "times": int(times), "before": "hm</think>", "after": "", "more": []}
    if exercise == "extract":
        return bomb | {"call": "extract_answer", "want": None if want.strip() == "none" else want.strip()}
    before, after = "hm</think>\\boxed{", "}"
    return bomb | {"call": "is_correct", "before": before, "after": after, "more": ["25"], "want": False}


def cases(text: str, half: int) -> dict:
    """Half 0 (the students') or 1 (the teacher's) of cases.txt, as grade.py reads it."""
    plan = {name: part | {"groups": {}, "bombs": []} for name, part in EXERCISES.items()}
    for block in re.split(r"^\[(?=\w+: )", text, flags=re.M)[1:]:
        heading, *lines = [line for line in block.splitlines() if line]
        kind, name = re.match(r"(\w+): ([^\]]+)\]", heading).groups()
        if kind == "bombs":
            plan[name]["bombs"] = [read_bomb(name, line) for line in lines[half::2]]
        else:
            plan[kind]["groups"][name] = [read_case(kind, line) for line in lines[half::2]]
    return plan


def write(out: Path) -> None:
    text = (PARTS / "cases.txt").read_text(encoding="utf-8")
    for half, folder in enumerate((out / "student", out / "teacher")):
        folder.mkdir(parents=True)
        plan = json.dumps(cases(text, half), indent=1, ensure_ascii=False)
        (folder / "cases.json").write_text(plan + "\n", encoding="utf-8")
        for file in (ROOT / "latex.py", PARTS / "grade.py"):
            shutil.copy(file, folder)
    for name in ("README.md", "cap.py", "rollouts.jsonl"):
        shutil.copy(PARTS / name, out / "student")
    source = (ROOT / "reward.py").read_text(encoding="utf-8")
    (out / "student" / "reward.py").write_text(blanked(source) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the course assignment; see docs/course.md.")
    parser.add_argument("out", type=Path, help="a new folder; gets student/ and teacher/")
    out = parser.parse_args().out
    if out.exists():
        parser.exit(2, f"error: {out} exists; give a new folder, or delete it\n")
    write(out)
    print(f"{out / 'student'}: to hand out\n{out / 'teacher'}: keep it; there: python grade.py THEIRS.py")


if __name__ == "__main__":
    sys.exit(main())
