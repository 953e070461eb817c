"""Cells and Markdown tables for what the analyses found."""

from collections.abc import Callable


def num(x: float | None, digits: int = 1, scale: float = 1.0, se: float | None = None) -> str:
    """A number as a cell: "-" for none, no minus before a zero.

    >>> num(0.8624, 1, 100, 0.0139), num(-0.0001), num(None)
    ('86.2 +- 1.4', '0.0', '-')
    """
    if x is None:
        return "-"
    return f"{round(scale * x, digits) + 0.0:.{digits}f}" + ("" if se is None else f" +- {scale * se:.{digits}f}")


def gap(d: dict, digits: int = 1, scale: float = 1.0, verdict: bool = True) -> str:
    """An interval as one cell.

    >>> gap({"value": -0.5, "low": -0.625, "high": 0.25, "verdict": "not distinguishable"}, 1, 100)
    '-50.0 [-62.5, 25.0] not distinguishable'
    """
    interval = "" if d["low"] is None else f" [{num(d['low'], digits, scale)}, {num(d['high'], digits, scale)}]"
    return f"{num(d['value'], digits, scale)}{interval}" + f" {d['verdict']}" * verdict


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table that reads well as plain text, too."""
    rows = [[str(cell).replace("|", "\\|").replace("\n", "\\n") for cell in row] for row in (head, *rows)]
    width = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in width) + "|", *lines[1:], ""]


def side_table(r: dict, label: str, names: dict, cell: Callable, versus: str, head: str, digits: int, scale: float = 1):
    """One row a name, one column a side, and `r[versus]` where there are two. names: key -> row label."""
    sides, rows = [side for side in "AB" if side in r], []
    for key, text in names.items():
        rows.append([text, *(cell(side, key) for side in sides)])
        rows[-1] += [gap(r[versus][key], digits, scale)] if versus in r else []
    return table([label, *sides, *([f"{head} [95 %]"] if versus in r else [])], rows)
