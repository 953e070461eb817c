r"""Problem files and hub data sets -> rows with `id`, `problem`, `answer`, whatever their columns look like.

    load_problems("my/problems.csv")                     # .jsonl, .json, .parquet, .csv
    load_problems("openai/gsm8k:main:test")              # a data set of the hub: owner/name, its config, its split

Public sets hold the same thing in many shapes: a problem as a chat, an answer as a list, a dict, JSON text or the end
of a worked solution. `problem_text` and `answer_text` read them; data/contests.py uses both.
"""

import ast
import csv
import json
import logging
import os
import re
import warnings

from arithmetic import gold_text, solvable
from engine.files import LONGEST_LINE, die, explained, note, read_jsonl
from engine.hub import online

FILES = (".jsonl", ".json", ".parquet", ".csv")
# Names that public data sets give these columns, tried where the named one is missing.
PROBLEM_NAMES = ("problem", "question", "prompt", "input", "query")
ANSWER_NAMES = ("answer", "final_answer", "expected_answer", "ground_truth", "gold", "target", "solution", "label",
                "reward_model")  # fmt: skip


# ---------------------------------------------------------------------------------------- what a cell means


def unpacked(text: str):
    r"""What a text holds that is written as JSON, or as Python writes a list of texts; else the text itself.

    A list of numbers stays text: [1, 2] is an interval. LaTeX in it may have its backslashes once or twice.

    >>> unpacked('["x"]'), unpacked("['x', 'y']"), unpacked("[1, 2]"), unpacked("{1, 2}"), unpacked(r'["\frac12"]')
    (['x'], ['x', 'y'], '[1, 2]', '{1, 2}', ['\\frac12'])
    """
    written = text.strip()
    if not re.match(r"""["{]|\[\s*["'{]""", written):
        return text
    for spelling in (written, written.replace("\\", "\\\\")):
        for read in (json.loads, ast.literal_eval):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Python's parser comments on what it reads
                    found = read(spelling)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            words = [found] if isinstance(found, str) else found if isinstance(found, list) else []
            if words and all(isinstance(x, str) for x in words):
                if not re.search("[\b\f\r\t]", "".join(words)):  # else it read \\frac, \\theta as escapes
                    return found
            elif words and all(isinstance(x, dict) for x in words) or isinstance(found, dict) and found:
                return found
    return text


def pick(row, path: str):
    """`row["a"][-1]["b"]` for "a.-1.b", or `row["a.-1.b"]`; None where the path leads nowhere."""
    if isinstance(row, dict) and path in row:
        return row[path]
    for key in path.split("."):
        try:
            row = row[int(key) if isinstance(row, list) else key]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
    return row


def one_of(found: dict, names: tuple[str, ...]):
    """The value that a dict is about: under the first of these names, or its only one; else None."""
    for name in names:
        if found.get(name) is not None:
            return found[name]
    return next(iter(found.values())) if len(found) == 1 else None


def answer_text(value) -> str:
    r"""The answer as it would stand in \boxed{}; empty where there is none.

    >>> answer_text("$\\pi$"), answer_text(27.0), answer_text(["1", "2"]), answer_text("025")
    ('\\pi', '27', '1, 2', '025')
    >>> [answer_text(value) for value in ('["x"]', {"target": [4]}, "3 + 1 = <<3+1=4>>4\n#### 4", "[1, 2]")]
    ['x', '4', '4', '[1, 2]']
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    value = unpacked(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        return answer_text(one_of(value, (*ANSWER_NAMES, "value", "text", "content")))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(answer_text, value))
    if value is None or value != value:  # NaN is how tables write a missing number
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if re.search(r"^#### *\S", text, re.MULTILINE):
        text = text.rpartition("####")[2]  # GSM8K: a worked solution, and then the answer
    return re.sub(r"(?<!\\)\$", "", text).strip()  # \$ is a dollar


def problem_text(value) -> str:
    """The problem as a user would ask it; of a chat the last user's message. Empty where there is none.

    >>> problem_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}])
    '1 + 1?'
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    value = unpacked(value) if isinstance(value, str) else value
    if isinstance(value, dict):
        return problem_text(one_of(value, (*PROBLEM_NAMES, "content", "text", "value")))
    if isinstance(value, (list, tuple)):
        if is_chat(value):
            asked = [m for m in value if m.get("role", m.get("from")) in ("user", "human")]
            return problem_text((asked or value)[-1])
        return "\n".join(map(problem_text, value))
    return "" if value is None or value != value else str(value)


def is_chat(value) -> bool:
    """Whether it is a list of messages, as a list or as JSON text."""
    value = unpacked(value) if isinstance(value, str) else value
    return isinstance(value, (list, tuple)) and bool(value) and all(
        isinstance(m, dict) and ("role" in m or "from" in m) for m in value
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- rows


def load_problems(source: str, problem_key: str = "problem", answer_key: str = "answer") -> list[dict]:
    """Returns rows with at least `id`, `problem`, `answer` (strings); extra columns are kept.

    Rows without an id that have the same problem's text get the same one: they are one problem.

    Args:
        source: .jsonl, .json, .parquet or .csv file, or hub data set as `id`, `id:split` or `id:config:split` (split
            defaults to train).
        problem_key, answer_key: A column, or several with commas between: the first of them that the file has.

    Exits with status 2, naming file and row, for a missing or empty file, a line over 10 MB, a row without problem or
    answer, or one id for two problems.
    """
    table = load_table(source)
    columns = list(dict.fromkeys(key for row in table for key in row))
    problem_key = find_column(columns, problem_key, PROBLEM_NAMES, source)
    answer_key = find_column(columns, answer_key, ANSWER_NAMES, source)
    rows = []
    for number, row in enumerate(table, start=1):
        texts = problem_text(pick(row, problem_key)), answer_text(pick(row, answer_key))
        for key, text in zip((problem_key, answer_key), texts):
            if not text.strip():
                die(f"{source} line {number}: no {key} in {pick(row, key)!r:.60}")
        if texts[1].startswith("countdown:") and not solvable(texts[1]):
            die(f"{source} line {number}: {texts[1]:.60} cannot be solved; write it as {gold_text([3, 5, 7], 22)}")
        rows.append({**row, "problem": texts[0], "answer": texts[1]})
    if any(is_chat(pick(row, problem_key)) for row in table):
        note(f"{source}: {problem_key} is a chat; the last user's message is the problem, the rest of it is left out")
    for row, name in zip(rows, names_of(rows, source)):
        row["id"] = name
    return rows


def find_column(columns: list[str], wanted: str, names: tuple[str, ...], source: str) -> str:
    """The column to read: the first of those named that is there, or the one of its usual names."""
    for name in [wanted, *map(str.strip, wanted.split(","))]:
        if name in columns or name.split(".")[0] in columns:
            return name
    found = [name for name in names if name in columns]
    if len(found) != 1:
        which = f", of which {' and '.join(found)} could be meant" if found else ""
        die(f"{source} has no column {wanted!r}, only {columns}{which}; name it with --problem_key or --answer_key; where "
            f"files differ, name several, as {wanted},OTHER")  # fmt: skip
    note(f"{source} has no column {wanted!r}: {found[0]!r} is read")
    return found[0]


def names_of(rows: list[dict], source: str) -> list[str]:
    """Each row's id: its own, or the number of the first row with the same problem."""
    given = {str(row["id"]) for row in rows if row.get("id") not in (None, "")}
    names, by_text, first = [], {}, {}  # first: id -> (line, problem, answer)
    for number, row in enumerate(rows, start=1):
        text = " ".join(row["problem"].split())
        name = str(row["id"]) if row.get("id") not in (None, "") else by_text.setdefault(
            text, f"line {number}" if str(number) in given else str(number)
        )  # fmt: skip
        line, other, answer = first.setdefault(name, (number, text, row["answer"]))
        if other != text:
            die(f"{source} lines {line} and {number} are two problems with the id {name!r}: give each its own, or drop "
                "the column id")  # fmt: skip
        if answer != row["answer"]:
            both = f"{answer:.40} and {row['answer']:.40}"
            note(f"{source} lines {line} and {number} are one problem with two answers, {both}")
        names.append(name)
    if (n := len(set(names))) < len(names):
        how = "their id" if given else "their text, as they have no id"
        note(f"{source}: {len(names)} rows are {n} problems by {how}; standard errors are clustered by problem")
    return names


# ---------------------------------------------------------------------------------------- files and the hub


def load_table(source: str):
    """The rows of a file or of a data set of the hub, as they stand there; exits with status 2 where there are none."""
    if source.endswith(FILES) or os.path.exists(source):
        if not os.path.isfile(source):
            die(f"problem file {source} does not exist (data/toy.py and data/contests.py make some)")
        table = read_table(source)
    else:
        table = load_hub(source)
    if not len(table):
        die(f"problem file {source} is empty")
    return table


def read_table(path: str) -> list[dict]:
    """The rows of a local file; exits with status 2, naming it, where it cannot be read."""
    if path.endswith(".parquet"):
        import pyarrow.parquet

        with explained(f"{path} is no parquet file, or damaged", OSError, pyarrow.ArrowException):
            return pyarrow.parquet.read_table(path).to_pylist()
    if path.endswith(".csv"):
        csv.field_size_limit(LONGEST_LINE)
        with explained(f"{path} is no CSV file in UTF-8", OSError, ValueError, csv.Error):
            with open(path, newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, strict=True))
        if long := [number for number, row in enumerate(rows, start=1) if None in row]:
            die(f"{path} row {long[0]} has more cells than the first line has names: put texts with commas in quotes")
        return rows
    return read_jsonl(path)


def load_hub(source: str):
    """A data set of the hub: `id`, `id:split` or `id:config:split`."""
    name, *parts = re.split(r":(?![^\[]*\])", source)  # train[:10] is one part
    if len(parts) > 2:
        die(f"data set {source}: write it as owner/name:config:split")
    config, split = parts if len(parts) == 2 else (None, *parts, "train")[:2]
    what = f"data set {name} is no file and the hub does not give it; write owner/name:config:split"
    if not online():
        what = f"data set {name} is no file, and offline the cache lacks it; name a .jsonl, .parquet or .csv file"
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it logs a traceback before it raises
    with explained(what):
        return datasets.load_dataset(name, config or None, split=split or "train")
