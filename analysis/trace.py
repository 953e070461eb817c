"""The trace page: the same problems before and after, side by side, in one HTML file that needs no network.

    python -m analysis.trace out/toy/base_test out/toy/final_test --out page.html

analysis/trace.html is its template: there the page can be edited.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from analysis.command import help_or, split_folders
from analysis.evaluations import Evaluation, load_sides
from engine.files import die, one_line, parse, write_text


@dataclass
class Config:
    """Options of analysis.trace."""

    out: str = "trace.html"
    """Page to write."""
    words: str = "Wait, But wait, Alternatively, double-check, Hmm, verify"
    """Words to mark, by commas, found as analysis.words finds them; of two at one place the longer is marked."""
    samples: int = 1
    """Answers shown to each problem; 0 shows all. The totals at the top always count all."""
    overwrite: bool = False
    """Write over a page that is there."""


def page_data(a: Evaluation, b: Evaluation, words: list[str], samples: int) -> dict:
    """What the page shows: totals of both sides, and the pairs of answers."""
    totals = [{"name": side.folder, "problems": len(side.ids), "samples": side.samples} | side.figures()
              for side in (a, b)]
    pairs = [
        {key: before[key] for key in ("id", "problem", "gold")} | {"sides": [answer(before), answer(after)]}
        for x, y in zip(a.groups, b.groups) for before, after in list(zip(x, y))[: samples or None]
    ]
    return {"totals": totals, "pairs": pairs, "words": words, "shown": len(pairs) // len(a.ids)}


def answer(row: dict) -> dict:
    verdict = ("right" if row["correct"] else "wrong") if row["finished"] else "cut off"
    return {"text": row["response"], "n": row["n_tokens"], "sample": row["sample"], "verdict": verdict}


def write_page(a: Evaluation, b: Evaluation, cfg: Config) -> None:
    """Fills the template and writes it to `cfg.out`."""
    words = [word.strip() for word in cfg.words.split(",") if word.strip(" -")]
    data = page_data(a, b, words, cfg.samples)
    # No "<", so that no text of a model ends the block.
    block = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = Path(__file__).with_name("trace.html").read_text(encoding="utf-8")
    write_text(cfg.out, template.replace("%DATA%", block))
    print(f"{cfg.out}: {len(data['pairs'])} pairs of responses, {Path(cfg.out).stat().st_size / 1e6:.1f} MB")


def main(arguments: list[str]) -> None:
    folders, options = split_folders("trace", help_or(arguments, __doc__, Config), 2, 2)
    cfg = parse(Config, args=options)
    if cfg.samples < 0:
        die(f"--samples {cfg.samples} must be at least 0")
    if Path(cfg.out).is_dir() or not Path(cfg.out).absolute().parent.is_dir():
        die(f"--out {cfg.out} is no file name in a folder that exists")
    if Path(cfg.out).exists() and not cfg.overwrite:
        die(f"--out {cfg.out} exists; give another name, or --overwrite true")
    with one_line():
        write_page(*load_sides(folders), cfg)


if __name__ == "__main__":
    main(sys.argv[1:])
