"""Long thoughts for sums, written by rule: a cold start after which a small real model thinks in <think>, and too long.

    python data/thoughts.py out/digits/cold.jsonl out/digits/thoughts.jsonl
    head config/smollm2.yaml                         # the commands before it, and how to go on

Each thought has a first attempt, which is wrong in a quarter of the problems, and up to five checks. A check goes back
from the result to the first number. Where it does not arrive there, the sum is done again, this time without a mistake.
So the first check is worth something, and the others are not. Real models are not as tidy.
"""

import json
import random
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.files import die, one_line, write_jsonl  # noqa: E402

SLIP_RATE = 0.25  # of the first attempts
CHECKS = [0.05, 0.2, 0.25, 0.2, 0.2, 0.1]  # p(0..5 checks)
HEADERS = [  # the first check, then these in turn
    "Wait, let me check that from the end.",
    "Hmm, I want to be really sure, so let me check it once more from the end.",
    "Wait, to be on the safe side I go back from the end one more time.",
]


def terms_of(problem: str) -> list[int]:
    """The signed numbers of the sum at the end of a problem; none where there is no sum.

    >>> terms_of("State the final answer to the following arithmetic problem: 69 - 71 - 20 + 72 =")
    [69, -71, -20, 72]
    """
    found = re.search(r"-?\d+(?: [+-] \d+)+(?= =)", problem)
    return [int(term.replace(" ", "")) for term in re.findall(r"[+-]? ?\d+", found[0])] if found else []


def steps(start: int, terms: list[int], slip: int = 0, at: int = 0) -> tuple[list[str], int]:
    """(a line for each term that is added to `start`, result); the line of number `at` is wrong by `slip`.

    >>> steps(69, [-71, 72], slip=1)
    (['69 - 71 = -1', '-1 + 72 = 71'], 71)
    """
    lines = []
    for number, term in enumerate(terms):
        total = start + term + (slip if number == at else 0)
        lines.append(f"{start} {'-' if term < 0 else '+'} {abs(term)} = {total}")
        start = total
    return lines, start


def make_thought(terms: list[int], n_checks: int, rng: random.Random) -> str:
    """Writes one response with that many checks; only the first attempt may be wrong."""
    first, rest = terms[0], terms[1:]
    slip = rng.choice([-10, -2, -1, 1, 2, 10]) if rng.random() < SLIP_RATE else 0
    lines, total = steps(first, rest, slip, rng.randrange(len(rest)))
    lines.append(f"I get {total}.")
    for number in range(n_checks):
        back, arrived = steps(total, [-term for term in reversed(rest)])
        lines += [HEADERS[0 if number == 0 else 2 - number % 2], *back]
        if arrived == first:
            lines.append(f"That is {first}, as it should be, so {total} is right.")
            continue
        again, total = steps(first, rest)
        lines += [f"That is {arrived} and not {first}, so I do it again.", *again, f"I get {total}."]
    return "<think>\n" + "\n".join(lines) + f"\n</think>\nThe answer is \\boxed{{{total}}}."


def main(problems: str, out: str) -> None:
    rng, rows = random.Random(0), []
    for number, line in enumerate(Path(problems).read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        if not (terms := terms_of(row["problem"])):
            die(f"{problems} line {number} ends in no sum of whole numbers, as in 69 - 71 + 72 =")
        response = make_thought(terms, rng.choices(range(len(CHECKS)), CHECKS)[0], rng)
        rows.append(row | {"response": response, "finished": True})
    write_jsonl(Path(out), rows)
    print(f"{out}: {len(rows)} thoughts")


if __name__ == "__main__":
    with one_line():
        if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
            die("usage: python data/thoughts.py PROBLEMS.jsonl THOUGHTS.jsonl")
        main(*sys.argv[1:])
