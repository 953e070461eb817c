"""What README, docs and the heads of scripts say is so: commands, links, names, messages, and the README's size.

    OMP_NUM_THREADS=1 python -m pytest -q tests/test_readme.py
"""

import ast
import csv
import importlib
import itertools
import json
import re
import shlex
import string

import pytest

import length_rewards
from conftest import ROOT
from engine.files import parse

TROUBLE = ROOT / "docs/troubleshooting.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
SCRIPTS = sorted(p for folder in (".", "analysis", "data", "dev", "engine", "scale") for p in ROOT.glob(f"{folder}/*.py"))
SHELL = [*ROOT.glob("*.sh"), *ROOT.glob("dev/*.sh"), *ROOT.glob("config/*.yaml")]
SETTINGS = "CONFIG CAPS OUT SEED MODEL REFERENCE FRESH"  # of schedule.sh
OTHER_SETTINGS = "SEEDS FAMILIES HF_ENDPOINT HF_HUB_OFFLINE OMP_NUM_THREADS PYTHON PYTHON_VERSION CUDA MORE ENGINE PROCESSES METHODS EXPERIMENTS BUDGET"
CODE = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SCRIPTS}


# ---------------------------------------------------------------------------------------- commands


def command_lines(text: str) -> list[str]:
    """Lines of a text that begin with a command, without comments."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^[#\s]*((?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*(?:python|bash|timeout|pip) \S.*)$", text, re.M)
    return [re.sub(r"\s#\s.*$", "", line).strip() for line in lines]


def commands() -> list[str]:
    """Every simple command: of fenced blocks and `inline code` in pages, of docstrings, and of comments at the top."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        found += sum(map(command_lines, blocks), [])
        found += [x for code in re.findall(r"`([^`]+)`", prose) for x in command_lines(" ".join(code.split()))]
    cells = json.loads((ROOT / "docs/colab.ipynb").read_text(encoding="utf-8"))["cells"]
    found += sum((command_lines("".join(cell["source"])) for cell in cells), [])
    for tree in CODE.values():
        found += command_lines(ast.get_docstring(tree) or "")
    for path in SHELL:
        head = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        found += command_lines("\n".join(x for x in head if not x.startswith("#!")))
    return sorted({part.strip() for line in found for part in line.split(" && ")})


def check_options(module: str, words: list[str], also: str = "") -> None:
    config = importlib.import_module(module).Config
    if words != ["--help"]:
        parse(config, args=words, also=also)


def check_module(name: str, words: list[str]) -> None:
    """A command `python -m name`."""
    if name == "doctest":
        assert (ROOT / words[0]).is_file()
    elif name == "pytest":
        files = [word for word in words if word.startswith("tests/")]
        assert all((ROOT / file).is_file() for file in files), files
    elif name == "analysis.plot":
        assert (words[0] == "run" and len(words) == 2) or (words[0] == "rounds" and len(words) > 1)
    elif name.startswith("analysis."):
        folders = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
        assert folders, "an analysis takes folders first"
        check_options(name, words[len(folders) :])
    elif name.startswith("scale."):
        check_options(name, words)
    elif name.startswith("engine."):
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file()
    else:
        assert name == "venv"


def check_script(script: str, words: list[str]) -> None:
    """A command `python script`."""
    if name := re.search(r"(grade|cap|grade_attempts|make_assignment)\.py$", script):  # tests/test_course.py runs these
        assert [*ROOT.glob(f"dev/**/{name[0]}")]
        return
    assert (ROOT / script).is_file(), f"{script} does not exist"
    if script == "eval.py" and words[:1] == ["report"] or script == "reward.py":
        assert len(words) == (2 if script == "eval.py" else 1)
    elif script in ("data/toy.py", "data/search.py") and words[:1] == ["stats"]:
        assert words[1:]
    elif script == "data/thoughts.py":
        assert len(words) == 2
    elif script == "data/gym.py":
        check_options("data.gym", words[1:])
    elif script.startswith("tests/") or script in ("dev/small_deltas.py", "dev/model_table.py", "dev/matmuls.py"):
        assert not words
    elif script == "dev/bench.py":
        config, _ = importlib.import_module("dev.bench").COMMANDS[words[0]]
        parse(config, args=words[1:])
    else:
        also = "train_prune" if script in ("sample.py", "sft.py", "eval.py", "export.py", "dev/small_weights.py") else ""
        check_options(script.removesuffix(".py").replace("/", "."), words, also)


@pytest.mark.parametrize("command", commands())
def test_every_command_names_a_script_that_exists_and_options_that_it_takes(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        assert name in (SETTINGS + " " + OTHER_SETTINGS).split()
        assert not (name == "CONFIG" and value.startswith("config/")) or (ROOT / value).is_file(), value
    if words[0] == "timeout":
        words = words[2:]
    if words[0] == "bash":
        assert (ROOT / words[1]).is_file() and len(words) == 2
    elif words[0] == "pip":
        assert words[1] == "install"
    elif words[1] == "-m":
        check_module(words[2], words[3:])
    else:
        check_script(words[1], words[2:])


def test_there_are_commands_to_check():
    assert len(commands()) > 60


def test_the_settings_of_the_schedule_are_those_of_the_readme():
    head = ast.get_docstring(CODE[ROOT / "engine/schedule.py"])
    for name in SETTINGS.split():
        assert re.search(rf"\b{name}\b", head) and re.search(rf"\b{name}\b", README), name


# ---------------------------------------------------------------------------------------- size, links, names


def test_the_readme_is_at_most_10_kb():
    assert len(README.encode()) <= 10_240


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = [c for c in heading.lower() if c not in set(string.punctuation) - {"-", "_"}]
    return "".join(kept).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_points_to_a_file_and_a_heading(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if not target.startswith("http"):
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), target
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M) if anchor else []
            assert not anchor or anchor in map(slug, headings), target


def test_every_page_of_docs_is_linked_from_the_readme():
    assert [page for page in PAGES[1:] if f"]({page}" not in README] == []


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def names_of(path) -> set[str]:
    """Names that a file defines at its top level, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        names |= {node.name} if hasattr(node, "name") else set()
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


def test_what_to_edit_exists():
    rows = re.findall(r"^\| ([^|]+) \| (`[^|]+) \|$", section("What to edit for what"), re.M)
    assert len(rows) >= 8
    for what, where in rows:
        for part in where.split("; "):
            file, *names = re.findall(r"`([^`]+)`", part)
            if file.endswith(".py"):
                names = [name for name in names if not name.startswith("--")]
                assert names and set(names) <= names_of(ROOT / file), (what, file, names)


def test_the_files_in_reading_order_exist_and_none_is_missing():
    named = re.findall(r"^- `([^`]+)`", section("The files, in reading order"), re.M)
    assert all((ROOT / name).exists() for name in named)
    assert {p.name for p in [*ROOT.glob("*.py"), *ROOT.glob("*.sh")]} <= set(named)


def test_the_rewards_page_is_about_rewards_that_exist():
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs/rewards.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 14 and set(rows) <= set(length_rewards.REWARDS)  # one that you add needs no row


# ---------------------------------------------------------------------------------------- messages and figures


def strings_of_the_code() -> list[str]:
    """Every string of the code but docstrings; what an f-string puts in stands as "..."."""
    found = []
    for tree in CODE.values():
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "..." for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                found.append(node.value)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False):
                found.remove(node.body[0].value.value)
    return found


def is_said(message: str, code: list[str]) -> bool:
    """Whether a string of the code has the message's fixed words, or one string begins it and another goes on."""
    pieces = [re.escape(piece.strip()) for piece in message.split("...") if piece.strip(" .")]
    if any(re.search(r"\s*\.\.\.\s*".join(pieces), text) for text in code):
        return True
    cuts = [(message[: cut.start()], message[cut.end() :]) for cut in re.finditer(" ", message)]
    return any(a + " ..." in code and any(text.startswith(b) for text in code) for a, b in cuts)


def test_every_message_of_the_troubleshooting_is_one_of_the_code():
    messages = [m for row in re.findall(r"^\| (`.*`) \| ", TROUBLE.read_text(encoding="utf-8"), re.M)
                for m in re.findall(r"`([^`]+)`", row)]  # fmt: skip
    assert len(messages) >= 15
    code = strings_of_the_code()
    assert [message for message in messages if not is_said(message, code)] == []


def test_the_healthy_run_is_that_of_the_logs():
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| (.*) \|$", section("A healthy run"), re.M))
    columns = {}
    for cap in (260, 180, 125):
        log = list(csv.DictReader(open(ROOT / f"dev/toy_run/log_cap{cap}.csv", encoding="utf-8")))
        columns[cap] = [log[0], log[-1]]
    assert len(rows) == 5
    for name, cells in rows.items():
        unit, digits = {"over_cap": (100, 0), "length": (1, 0), "dead_groups": (1, 0)}.get(name, (1, 2))
        for cell, ends in zip(cells.split(" | "), columns.values()):
            said = [float(number) for number in re.findall(r"[\d.]+", cell)]
            assert [said[0], said[-1]] == [round(unit * float(row[name]), digits) for row in ends], (name, cell)
