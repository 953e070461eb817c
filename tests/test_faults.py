"""The fault-injection command, small, and the judges it judges by. Run: python -m pytest tests/test_faults.py

The command is one process of its own: it forks, which pytest's own process, with threads of earlier tests, may not.
"""
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from dev.faults import KINDS
from dev.faults_damage import damage, must_be_told
from dev.faults_fork import Run, wrong_exit
from dev.faults_round import timeless, unreadable


@pytest.fixture(scope="module")
def table():
    """Lines of the small run: {kind: [its line, its failures ...]}."""
    if sys.platform != "linux":
        pytest.skip("needs fork, process groups and /bin/sh as Linux has them")
    command = [sys.executable, str(ROOT / "dev" / "faults.py"), "--small", "true"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    lines, found = run.stdout.splitlines(), {}
    for line in lines:
        if " | " in line and line.split()[0] in KINDS:
            found[line.split()[0]] = current = [line]
        elif line.startswith("   "):
            current.append(line.strip())
    assert set(found) == set(KINDS), run.stdout + run.stderr
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_on_purpose_ends_as_it_should(table, kind):
    assert table[kind][0].split(" | ")[4] == "ok", "\n".join(table[kind])


def test_an_unknown_kind_is_one_line():
    run = subprocess.run([sys.executable, str(ROOT / "dev" / "faults.py"), "--only", "flood"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: --only flood") and len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("words, status, output", [
    (["-m", "analysis.words", "a"], 2, "__main__ ['a']"),
    (["data/script.py", "b", "c"], 2, "__main__ ['b', 'c']"),
    (["-c", "import sys; print(__name__, sys.argv[1:])", "d"], 0, "__main__ ['d']"),
    (["-m", "analysis.absent"], 1, ""),
], ids=lambda value: None)  # fmt: skip
def test_commands_run_as_python_runs_them_even_if_they_are_imported_already(tmp_path, words, status, output):
    for folder, name in (("analysis", "words.py"), ("data", "script.py")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(len(__name__) // 4)\n")
    code = """
import importlib, os, sys
sys.path.insert(0, ROOT)
from dev.faults_fork import run_as_main
sys.path[0] = os.getcwd()
try:
    import analysis.words
except SystemExit:
    pass
print("now")
sys.exit(run_as_main(sys.argv[1:]))""".replace("ROOT", repr(str(ROOT)))
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == status and run.stdout.split("now\n")[1].strip() == output
    assert ("Traceback" in run.stderr) == (status == 1) and "Warning" not in run.stderr


# ---------------------------------------------------------------------------------------- the judges


@pytest.mark.parametrize("status, output, word", [
    (0, "round done\n", ""),
    (2, "loading\nerror: x.json is not JSON\n", ""),
    (2, "usage: reward.py\nreward.py: error: no such option\n", ""),
    (2, "reward.py: a.jsonl:3: not a rollout\n", ""),
    (2, "error: x.json is not JSON\nto go on: python train_prune.py\n", ""),
    (2, "error: x.json is not JSON\na\nb\nc\n", "without one line"),
    (2, "error: one\nerror: two\n", "without one line"),
    (1, "", "without one line"),
    (1, "Traceback (most recent call last):\n  File \"sample.py\", line 7, in load\nKeyError: 'a'\n", "KeyError: 'a' at sample.py:7 load"),
    (-11, "", "signal 11"),
    (-1000, "", "hangs"),
    (3, "error: x\n", "exit status 3"),
])  # fmt: skip
def test_an_error_is_one_line_at_the_end_and_never_a_traceback(status, output, word):
    wrong = wrong_exit(Run(status, output, 0.0), (0, 1, 2))
    assert (wrong == "") == (word == "") and word in wrong


def test_a_good_end_is_none_where_an_error_was_due():
    assert wrong_exit(Run(0, "fine\n", 0.0), (1, 2)).startswith("exit status 0")


def test_damage_changes_the_bytes_and_comes_again_with_the_seed():
    data = bytes(range(200))
    made = [damage(data, random.Random(i)) for i in range(300)]
    assert all(m != data for m, _ in made) and made == [damage(data, random.Random(i)) for i in range(300)]
    assert {len(m) < 200 for m, _ in made} == {True, False}


def test_damage_flips_the_bits_that_it_names():
    made, how = next((m, h) for m, h in (damage(b"\0" * 99, random.Random(i)) for i in range(99)) if h.count("bit ") == 1)
    _, _, bit, _, _, byte = how.split()
    assert made[int(byte)] == 1 << int(bit) and sum(b.bit_count() for b in made) == 1


def checkpoint(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    (folder / "checksums.json").write_text(json.dumps(sums))


def test_a_whole_checkpoint_reads_and_each_damage_is_seen(tmp_path):
    for step in (1, 2):
        checkpoint(tmp_path / f"step000{step}", {"a": "one", "b": "two"})
    (tmp_path / "step0003.tmp").mkdir()  # a save that was cut off is no checkpoint
    assert unreadable(tmp_path) == []
    (tmp_path / "step0002" / "b").write_text("twp")
    assert unreadable(tmp_path) == ["step0002: checksum of b"]
    (tmp_path / "step0002" / "b").unlink()
    assert "No such file" in unreadable(tmp_path)[0]
    (tmp_path / "step0001" / "checksums.json").write_text("{")
    assert len(unreadable(tmp_path)) == 2


def test_only_checkpoints_before_the_newest_two_may_have_given_up_files(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path / f"step000{step}", {"a": "one"})
    (tmp_path / "step0001" / "a").unlink()
    assert unreadable(tmp_path) == []
    (tmp_path / "step0002" / "a").unlink()
    assert len(unreadable(tmp_path)) == 1


@pytest.mark.parametrize("kind, name, before, after, told", [
    ("rollouts", "r.jsonl", b'{"a": "x"}\n', b'{"a": "y"}\n', False),  # another letter in a text
    ("rollouts", "r.jsonl", b'{"a": "x"}\n', b'{"a": "x"\n', True),
    ("rollouts", "r.jsonl", b'{"a": "x"}\n', b'{"a": "\xf8"}\n', True),  # no UTF-8
    ("rollouts", "r.jsonl", b'{"a": "x"}\n', b"", True),
    ("config", "c.yaml", b"cap: 24\n", b"cap: 25\n", False),
    ("config", "c.yaml", b"cap: 24\n", b"caq: 24\n", True),  # no such option
    ("config", "c.yaml", b"cap: 24\n", b"cap\n", True),
    ("summary", "s.json", b'{"a": 1}', b'{"a": 3}', False),
    ("summary", "s.json", b'{"a": 1}', b'[1]', True),
    ("checkpoint", "checksums.json", b'{"a": "00"}', b'{"a":\t"00"}', False),  # another blank
    ("checkpoint", "checksums.json", b'{"a": "00"}', b'{"a": "01"}', True),
])  # fmt: skip
def test_what_a_parser_or_checksum_could_tell(tmp_path, kind, name, before, after, told):
    assert bool(must_be_told(kind, tmp_path / name, before, after)) == told


def test_every_byte_of_a_file_with_a_checksum_could_be_told(tmp_path):
    checkpoint(tmp_path / "step0001", {"optimizer.pt": "abc", "nanoprune.json": '{"a": 1}'})
    assert must_be_told("checkpoint", tmp_path / "step0001" / "optimizer.pt", b"abc", b"abd")
    assert must_be_told("adapter", tmp_path / "step0001" / "nanoprune.json", b'{"a": 1}', b'{"a":\t1}')


def test_of_an_adapters_checksums_only_those_of_its_own_files_count():
    before = b'{"adapter_config.json": "00", "optimizer.pt": "11"}'
    path = Path("final/checksums.json")
    assert must_be_told("adapter", path, before, before.replace(b"11", b"12")) == ""
    assert must_be_told("adapter", path, before, before.replace(b"00", b"01"))
    assert must_be_told("checkpoint", path, before, before.replace(b"11", b"12"))


def test_a_renamed_tensor_could_be_told_and_a_weights_bit_could_not(tmp_path):
    import numpy as np
    from safetensors.numpy import save

    good = save({"up": np.ones(4, dtype=np.float32)})
    other = bytearray(good)
    other[-1] ^= 1
    path = tmp_path / "model.safetensors"
    assert must_be_told("model", path, good, bytes(other)) == ""
    assert "renamed" in must_be_told("model", path, good, good.replace(b'"up"', b'"uq"'))
    assert "parses" in must_be_told("model", path, good, good[:-1])


def test_summaries_are_compared_without_times_and_folders():
    assert timeless({"seconds": 3, "rounds": [{"adapter": "out/a", "cap": 4}]}) == {"rounds": [{"cap": 4}]}
