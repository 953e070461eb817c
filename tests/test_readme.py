"""Every command in the README and in the scripts' heads names a script that is there and options that it takes."""
import re
import shlex

import pytest

from analysis import report as analyse  # noqa: F401  (the import is the check)
import eval as evaluation
import sample
from engine.files import parse
import train_prune
from conftest import ROOT

PARSERS = {"sample.py": sample.Config, "eval.py": evaluation.Config, "train_prune.py": train_prune.Config}
SOURCES = ["README.md", "sample.py", "train_prune.py", "eval.py", *(p.relative_to(ROOT) for p in ROOT.glob("config/*.yaml"))]


def commands() -> list[str]:
    found = []
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8").replace("\\\n", " ")
        found += re.findall(r"^[#\s]*((?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*(?:python|bash) [^\n`]+?)(?:  +#.*)?$", text, re.M)
    return sorted(set(found))


def test_there_are_commands_to_check():
    assert len(commands()) >= 15


@pytest.mark.parametrize("command", commands())
def test_command_parses(command):
    words = [w for w in shlex.split(command) if not re.match(r"[A-Z_]+=", w)]
    for word in shlex.split(command):
        if word.startswith("CONFIG="):
            assert (ROOT / word[7:]).is_file()
    if words[:2] == ["python", "-m"]:
        return
    script, arguments = words[1], words[2:]
    assert (ROOT / script).is_file(), script
    if script in PARSERS and not (arguments and arguments[0] in ("report", "compare")):
        if "--like" in arguments:
            at = arguments.index("--like")
            assert evaluation.like(str(ROOT / arguments[at + 1]))
            del arguments[at : at + 2]
        if "--config" in arguments:
            at = arguments.index("--config") + 1
            arguments[at] = str(ROOT / arguments[at])
        parse(PARSERS[script], args=arguments)
