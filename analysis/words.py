"""How often words of reflection ("Wait") and of plain work ("Therefore") stand in the responses.

    python -m analysis.words out/toy/base_test out/toy/final_test
    python -m analysis.words A B --reflection '["Wait", "Hmm"]' --working '["Therefore"]'
"""

import re
import sys
from dataclasses import dataclass, field

import numpy as np

from analysis.command import Settings, main
from analysis.evaluations import Evaluation
from analysis.stats import difference, interval, point
from analysis.tables import num, side_table
from engine.files import die

FILE, HEADING, FOLDERS = "words.json", "Reflection and working words", (1, 2)


@dataclass
class Config(Settings):
    """Options of analysis.words."""

    reflection: list[str] = field(default_factory=lambda: ["Wait", "But wait", "Alternatively", "double-check"])
    """Phrases of reflection."""
    working: list[str] = field(default_factory=lambda: ["Therefore", "let me compute"])
    """Phrases of plain work."""


def phrase_pattern(*phrases: str) -> re.Pattern:
    r"""Matches any of the phrases: case ignored; whole words (no letter, digit or _ beside them); a blank or hyphen
    inside a phrase matches any run of blanks, line ends and hyphens.

    A phrase is counted wherever it stands, so "But wait" counts for "Wait", too; with several phrases the
    longest one that starts first is taken, and each place counts once: that is how totals are made.

    >>> [len(phrase_pattern("Wait").findall(t)) for t in ("But wait, WAIT. wait-", "waiting await wait_1")]
    [3, 0]
    >>> len(phrase_pattern("Wait", "But wait").findall("But\nwait. Wait")), len(phrase_pattern("a-b").findall("a b"))
    (2, 1)
    """
    parts = (re.split(r"[\s-]+", phrase.strip()) for phrase in sorted(phrases, key=len, reverse=True))
    either = "|".join(r"[\s\-\u2010\u2011]+".join(map(re.escape, words)) for words in parts)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.I)


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    lists = {"reflection": cfg.reflection, "working": cfg.working}
    listed = cfg.reflection + cfg.working
    if not listed or not all(phrase.strip(" -") for phrase in listed):
        die("--reflection and --working need phrases, none of them empty")
    patterns = {phrase: phrase_pattern(phrase) for phrase in listed}
    patterns |= {f"all {name}": phrase_pattern(*phrases) for name, phrases in lists.items() if phrases}
    result = {"A": {}, "totals": {}, "se": {}, "per_1k_tokens": {}} | lists
    counts = {p: [np.array([len(x.findall(r["response"])) for r in side.rows]).reshape(side.tokens.shape)
                  for side in sides] for p, x in patterns.items()}                    # phrase: (P, S) of each side
    for i, (name, side) in enumerate(zip("AB", sides)):
        points = {p: point(n[i]) for p, n in counts.items()}
        result[name] = {p: points[p]["value"] for p in points if p in listed}
        result["totals"][name] = {p: points[p]["value"] for p in points if p not in listed}
        result["se"][name] = {p: points[p]["se"] for p in points}
        result["per_1k_tokens"][name] = {p: float(1000 * n[i].sum() / side.tokens.sum()) for p, n in counts.items()}
    result["never"] = [p for p in listed if not any(n.any() for n in counts[p])]
    if len(sides) > 1:
        pairs = {p: np.stack([x.mean(1) for x in n], 1) for p, n in counts.items()}
        result["difference"] = {p: interval(x, difference) for p, x in pairs.items()}
    return result


def show(r: dict) -> list[str]:
    count = {side: r[side] | r["totals"][side] for side in "AB" if side in r}
    names = {p: p for p in count["A"] if any(x[p] for x in count.values())}
    lines = side_table(r, "a response (and per 1,000 tokens)", names, lambda s, p: num(count[s][p], 2, 1, r["se"][s][p])
                       + f" ({r['per_1k_tokens'][s][p]:.2f})", "difference", "B - A", 2) if names else []
    return [*lines, *([f"Never there: {', '.join(r['never'])}.", ""] if r["never"] else []),
            "Counted in any case, as whole words; a blank or hyphen inside stands for any run of blanks, line ends and "
            'hyphens. "But wait" counts for "Wait", too, but once in "all reflection".', ""]


if __name__ == "__main__":
    main(sys.modules[__name__])
