"""Exercise (c): what does a policy learn if a cut rollout may be paid? Needs a finished reward.py beside it.

python cap.py                            # prints the table for several caps

rollouts.jsonl holds 24 complete rollouts of our own, 4 for each of 6 problems. A token here is a word, and the end
token is one more. A cap cuts what is longer. Two rewards pay the same cut rollouts:

    strict     thinkprune: right, and ended within the cap
    lenient    right, whether it ended or not: the box may stand early, with more text after it

GRPO subtracts the group's mean reward and divides by its standard deviation. A group with equal rewards teaches
nothing.
"""
import json
import statistics
from pathlib import Path

import reward

CAPS = 30, 60, 90


def cut(text: str, cap: int) -> tuple[str, int, bool]:
    """Returns the text within the cap, its tokens, and whether it ended."""
    words = text.split(" ")
    finished = len(words) + 1 <= cap
    return " ".join(words[:cap]), min(len(words) + 1, cap), finished


def advantages(rewards: list[float]) -> list[float]:
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    return [(r - mean) / spread if spread > 0 else 0.0 for r in rewards]


def measure(groups: list[list[dict]], cap: int, strict: bool) -> dict:
    """Pays every rollout; ``push`` is the mean of advantage times tokens: below 0, shorter rollouts get likelier."""
    pushes, paid, paid_cut, n_cut = [], 0.0, 0.0, 0
    for group in groups:
        cuts = [cut(row["response"], cap) for row in group]
        texts, n_tokens, finished = map(list, zip(*cuts))
        golds = [row["gold"] for row in group]
        ended = finished if strict else [True] * len(group)
        rewards = reward.score(texts, golds, n_tokens, ended, cap)
        paid += sum(rewards)
        paid_cut += sum(r for r, f in zip(rewards, finished) if not f)
        n_cut += finished.count(False)
        pushes += [a * n for a, n in zip(advantages(rewards), n_tokens)]
    return {"cut": n_cut, "paid": paid, "paid_cut": paid_cut, "push": statistics.fmean(pushes)}


def main() -> None:
    groups: dict[str, list[dict]] = {}
    for line in Path(__file__).with_name("rollouts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        groups.setdefault(row["id"], []).append(row)
    print("cap  cut   reward    paid   paid though cut   push on the length (tokens)")
    for cap in CAPS:
        for name in ("strict", "lenient"):
            m = measure(list(groups.values()), cap, name == "strict")
            print(f"{cap:3}{m['cut']:5}   {name:8}{m['paid']:6.0f}{m['paid_cut']:18.0f}{m['push']:+30.1f}")


if __name__ == "__main__":
    try:
        main()
    except NotImplementedError as missing:
        raise SystemExit(f"reward.py is not finished: {missing}") from None
