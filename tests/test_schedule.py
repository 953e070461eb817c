"""schedule.sh from end to end on a stand-in for R1-Distill and real AIME problems. Run: python -m pytest tests/test_schedule.py"""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import yaml

import engine.schedule
from conftest import ROOT, refusal
from eval import report
from standin import let_it_answer, make_problems, make_r1_standin


@pytest.fixture(scope="module")
def setting(tmp_path_factory, warm_python):
    """A folder with a blank in its name: a model with R1's tokens and template, 8 + 2 + 2 problems, a python."""
    folder = tmp_path_factory.mktemp("a run")
    (folder / "python").symlink_to(warm_python)
    make_r1_standin(folder / "model", context=4096)
    let_it_answer(folder / "model")
    for name, rows in (("train", make_problems(8)), ("val", make_problems(2, first=8)), ("test", make_problems(2, first=10))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r | {"answer": "7"}) + "\n" for r in rows))
    options = {
        "model": str(folder / "model"),
        "train_data": str(folder / "train.jsonl"),
        "val_data": str(folder / "val.jsonl"),
        "test_data": str(folder / "test.jsonl"),
        "caps": "40 30",
        "steps": 2,
        "checkpoint_every": 1,
        "problems_per_step": 2,
        "group": 2,
        "eval_cap": 48,
        "eval_samples": 2,
        "test_samples": 2,
        "lora_r": 8,
        # random weights are never right: pay for repeating a token, so that there is a gradient
        "reward": "repetition",
        "reward_options": {"size": 1},
        "beta": 0.001,
        "reference_samples": 4,
        "confirm_samples": 2,
        "tolerance": 1.0,
        "device": "cpu",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder


def schedule(folder, out, **more):
    env = os.environ | {"PYTHON": str(folder / "python"), "CONFIG": str(folder / "config.yaml"), "OUT": str(out), "OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(["bash", str(ROOT / "schedule.sh")], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)


def timeless(value):
    """A summary without what differs from run to run: seconds and the run's own folder."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "adapter", "out_dir")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(setting):
    """(the process, the folder) of an unbroken run, which may still be under way."""
    folder = setting / "whole"
    return schedule(setting, folder), folder


def test_two_rounds_killed_in_between_end_like_an_unbroken_run(setting, whole, tmp_path):
    whole, folder = whole
    broken = schedule(setting, tmp_path / "broken")
    deadline = time.time() + 300
    while not (tmp_path / "broken" / "cap40" / "step0001" / "eval.json").exists() and time.time() < deadline and broken.poll() is None:
        time.sleep(0.05)
    os.killpg(broken.pid, signal.SIGKILL)
    assert whole.wait(600) == 0, whole.stdout.read()
    again = schedule(setting, tmp_path / "broken")
    text, _ = again.communicate(timeout=600)
    assert again.returncode == 0, text
    a, b = (json.loads((path / "summary.json").read_text()) for path in (folder, tmp_path / "broken"))
    assert timeless(a) == timeless(b)
    assert [r["cap"] for r in a["rounds"]] == [40, 30] and a["base"]["n_problems"] == a["final"]["n_problems"] == 2
    assert {"tokens_ratio", "pass@1_change", "seconds"} <= set(a)
    assert (folder / "final" / "adapter_model.safetensors").is_file()
    assert "| cap 30, validation |" in (folder / "summary.md").read_text()
    # a third call finds everything done, with blanks in CAPS, too
    third = schedule(setting, tmp_path / "broken", CAPS="40   30 ")
    text, _ = third.communicate(timeout=600)
    assert third.returncode == 0 and "is done" in text
    # other caps in the same folder are refused
    other = schedule(setting, tmp_path / "broken", CAPS="35")
    text, _ = other.communicate(timeout=60)
    assert other.returncode == 2 and "CAPS: 40 30 begun there, 35 now" in text and "set OUT to a new folder" in text


def test_a_model_of_ones_own_takes_five_lines(setting, tmp_path):
    """Model, three problem files, caps: base and rounds are measured alike, or selection would refuse the reference."""
    lines = {"model": str(setting / "model"), "caps": "40 auto", "reward": "repetition", "reward_options": {"size": 1}, "steps": 1, "group": 2}
    lines |= {"problems_per_step": 1, "device": "cpu", "lora_r": 8, "eval_cap": 100, "tolerance": 1.0}
    files = {f"{name}_data": str(setting / f"{name}.jsonl") for name in ("train", "val", "test")}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(lines | files))
    run = subprocess.run(["bash", str(ROOT / "schedule.sh")], capture_output=True, text=True, timeout=600, env=os.environ | {
        "PYTHON": str(setting / "python"), "CONFIG": str(tmp_path / "mine.yaml"), "OUT": str(tmp_path / "out"), "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert run.returncode == 0, run.stderr
    base, start = (json.loads((tmp_path / "out" / path).read_text()) for path in ("base/eval.json", "cap40/selection.json"))
    assert (base["cap"], base["temperature"], base["top_p"], base["n_samples"]) == (100, 0.6, 0.95, 32)
    assert start["reference"]["pass@1"] == base["pass@1"] and start["next_cap"]["rollouts"] == 8
    base_said = {"cap": 40, "why": "next cap 40: as the base has it"}
    (tmp_path / "out" / "first_cap.json").write_text(json.dumps(base_said))
    report(str(tmp_path / "out"))
    assert base_said["why"] in (tmp_path / "out" / "summary.md").read_text()
    assert f"After cap 40, {start['next_cap']['why']}" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize("caps, word", [("40 40", "not below"), ("40 50", "not below"), ("40 x", "is not a cap"), ("0", "is not a cap"), ("auto 40", "auto is not a cap")])
def test_bad_caps_are_one_line_and_nothing_is_written(setting, tmp_path, caps, word):
    run = schedule(setting, tmp_path / "out", CAPS=caps)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 2 and word in text and len(text.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "work, unused",
    [("import engine.schedule, analysis.plot", "torch"), ("from engine.policy import check_adapter; check_adapter(sys.argv[1])", "torch._inductor.compile_fx")],
)  # fmt: skip
def test_a_start_leaves_out_what_takes_seconds_to_import(tmp_path, work, unused):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").touch()
    code = f"import sys; {work}; sys.exit({unused!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == 0


# ---------------------------------------------------------------------------------------- before the first token


def checked(setting, out, env=None, by_hand=False, **change):
    """What schedule.sh does first: settings from a config with this change, the folder's caps, and the check."""
    out.parent.mkdir(exist_ok=True)
    config = out.parent / "changed.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load((setting / "config.yaml").read_text()) | change))
    found, options = engine.schedule.read_settings({"CONFIG": str(config), "OUT": str(out)} | (env or {}))
    with mock.patch.dict(os.environ, {"SCHEDULE": "" if by_hand else "open"}):
        engine.schedule.check(found, options)
    return found


@pytest.mark.parametrize(
    "change, word",
    [
        ({"test_data": "./nowhere.jsonl"}, "./nowhere.jsonl"), ({"train_data": "./nowhere.jsonl"}, "./nowhere.jsonl"),
        ({"test_data": "COLUMNS"}, "columns.jsonl has no column 'answer'"), ({"test_data": "LONG"}, "long.jsonl: the prompt of problem x has"),
        ({"reward": "nope"}, "--reward nope"), ({"reward_options": {"siz": 1}}, "--reward_options ['siz']"), ({"group": 1}, "--group 1"),
        ({"reward": "o1_pruner", "reward_options": {}}, "--reward o1_pruner needs"), ({"caps": "4090 30"}, "train.jsonl: the prompt of problem"),
        ({"eval_cap": 4090}, "val.jsonl: the prompt of problem"), ({"model": "./nowhere"}, "--model ./nowhere"), ({"grup": 2}, "grup"), ({"lr": "fast"}, "lr"),
    ],
)  # fmt: skip
def test_what_a_schedule_cannot_work_with_is_one_line_before_anything_is_measured(setting, tmp_path, capsys, change, word):
    (tmp_path / "columns.jsonl").write_text('{"problem": "1?", "a": "1"}\n')
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "x", "problem": "1? " * 4000, "answer": "1"}) + "\n")
    files = {"COLUMNS": str(tmp_path / "columns.jsonl"), "LONG": str(tmp_path / "long.jsonl")}
    change = {key: files.get(value, value) if isinstance(value, str) else value for key, value in change.items()}
    assert word in refusal(capsys, lambda: checked(setting, tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change, env, word",
    [
        ({"lr": 0.5}, {}, "lr: 1e-05 there, 0.5 now"), ({"eval_cap": 50}, {}, "eval_cap: 48 there, 50 now"), ({}, {"SEED": "1"}, "seed: 0 there, 1 now"),
        ({"instruction": "Go."}, {}, "instruction: Reason step by step"), ({}, {"REFERENCE": "start"}, "reference: "), ({"steps": 3}, {}, "steps: 2 there, 3 now"),
    ],
)  # fmt: skip
def test_what_a_finished_round_was_made_with_may_not_change(setting, whole, tmp_path, monkeypatch, capsys, change, env, word):
    assert whole[0].wait(600) == 0
    monkeypatch.setattr(engine.schedule, "write_note", lambda *a: None)
    (tmp_path / "run").symlink_to(whole[1])
    before = sorted(whole[1].rglob("*"))
    error = refusal(capsys, lambda: checked(setting, tmp_path / "run", env, **change))
    assert word in error and "cap40 was made with other options" in error and sorted(whole[1].rglob("*")) == before


def test_a_base_that_was_measured_otherwise_is_refused_with_both_values(setting, whole, tmp_path, capsys):
    assert whole[0].wait(600) == 0
    shutil.copytree(whole[1] / "base", tmp_path / "run" / "base")
    assert "base was measured with other settings (cap 48 and 50; eval_samples 4 and 5)" in refusal(
        capsys, lambda: checked(setting, tmp_path / "run", eval_cap=50, reference_samples=5))  # fmt: skip
    checked(setting, tmp_path / "run", lr=0.5, test_samples=9, group=4)  # no finished stage depends on these


def test_a_run_goes_on_with_other_tests_and_with_one_more_cap(setting, whole, tmp_path, capsys):
    assert whole[0].wait(600) == 0
    other = tmp_path / "other.jsonl"
    other.write_text((setting / "test.jsonl").read_text())
    found = checked(setting, whole[1], save_minutes=1.0)
    assert "moved to" not in capsys.readouterr().out and (found["PROMPT_CAP"], found["LAST_CAP"]) == ("30", "30")
    before = {path: path.stat().st_mtime_ns for path in whole[1].rglob("*")}
    checked(setting, whole[1], by_hand=True, test_samples=3, test_data=str(other), caps="40 30 20")
    assert "the run will move it to" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in whole[1].rglob("*")}  # by hand it only looks
    found = checked(setting, whole[1], test_samples=3, test_data=str(other), caps="40 30 20")
    said = capsys.readouterr().out
    assert (found["PROMPT_CAP"], found["LAST_CAP"]) == ("30", "20") and "the test's prompts name the cap of 20, those of validations 30" in said
    assert f"data {setting / 'test.jsonl'} and {other}; prompt_cap 30 and 20; eval_samples 2 and 3): moved to" in said.replace("cap 48 and 48; ", "")
    there = {path.name for path in whole[1].iterdir()}
    assert {"base", "cap40", "cap30", "base_test.old1", "final_test.old1", "final.old1"} <= there and not there & {"base_test", "final_test", "final"}


# ---------------------------------------------------------------------------------------- the script itself, with stand-ins

STUB = r'''#!REAL
"""Stands in for python: runs engine.schedule really, where it needs no model, and writes what the scripts would have written."""
import json, os, sys, time
from pathlib import Path

if sys.argv[2] == "engine.schedule" and sys.argv[3] in ("bash", "next"):
    os.execve("REAL", ["REAL", *sys.argv[1:]], os.environ | {"PYTHONPATH": "ROOT"})
with open(os.environ["CALLS"], "a") as f:
    f.write(json.dumps(sys.argv[1:]) + "\n")
options = dict(a[2:].split("=", 1) for a in sys.argv[2:] if a.startswith("--") and "=" in a)
out = Path(options.get("out_dir", "."))
if sys.argv[1] == "eval.py" and "out_dir" in options:
    out.mkdir(parents=True, exist_ok=True)
    (out / "eval.json").write_text("{}")
if sys.argv[1] == "train_prune.py" and not (out / "done").exists():
    if os.environ.get("EXIT"):
        sys.exit(int(os.environ["EXIT"]))
    step = out / "step0001"
    step.mkdir(parents=True, exist_ok=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "nanoprune.json", "checksums.json", "optimizer.pt"):
        (step / name).write_text(name)
    (out / "selected").write_text(f"{step}\n")
    cap = int(options["cap"]) - 10
    (out / "selection.json").write_text(json.dumps({"next_cap": {"cap": cap if cap > 10 else None}} if "auto" in options["caps"] else {}))
    (out / "done").write_text("")
if sys.argv[3:] == ["first_cap"]:
    Path(os.environ["OUT"], "first_cap.json").write_text('{"cap": 30}')
'''


@pytest.fixture
def script(tmp_path):
    """Runs a copy of schedule.sh in a folder of its own, under Python's stand-in: (exit status, text, calls)."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "schedule.sh").write_text((ROOT / "schedule.sh").read_text())
    (home / "stub").write_text(STUB.replace("REAL", sys.executable).replace("ROOT", str(ROOT)))
    (home / "stub").chmod(0o755)
    options = {"model": "m", "val_data": "v.jsonl", "test_data": "-t.jsonl", "caps": "40 30"}

    def run(config="c.yaml", content=None, **more):
        (home / config).write_text(yaml.safe_dump(options) if content is None else content)
        (home / "calls").write_text("")
        env = os.environ | {"PYTHON": str(home / "stub"), "CALLS": str(home / "calls"), "CONFIG": config} | more
        done = subprocess.run(["bash", str(home / "schedule.sh")], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        return done.returncode, done.stdout, [json.loads(line) for line in (home / "calls").read_text().splitlines()]

    run.home = home
    return run


def test_the_final_adapter_takes_its_checksums_along_and_not_the_optimizer(script):
    code, text, _ = script(OUT="run")
    assert code == 0, text
    names = sorted(p.name for p in (script.home / "run" / "final").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "checksums.json", "nanoprune.json"]


@pytest.mark.parametrize("name", ["-dash", "two words", "it's \"ü\"", "$HOME `x` *"])
def test_any_name_of_folder_and_config_reaches_the_scripts_whole(script, name):
    code, text, calls = script(config=f"{name}.yaml", OUT=name)
    assert code == 0, text
    prefix = "./" if name.startswith("-") else ""
    (first,) = [c for c in calls if any(a.endswith("/cap40") for a in c)]
    assert f"--out_dir={prefix}{name}/cap40" in first and f"--config={prefix}{name}.yaml" in first
    assert any(a in (f"--init_adapter={name}/cap40/step0001", f"--init_adapter=./{name}/cap40/step0001") for a in next(c for c in calls if any(a.endswith("/cap30") for a in c)))
    assert (script.home / name / "final" / "adapter_config.json").is_file()
    assert ["--data=-t.jsonl"] == [a for a in calls[-4] if a.startswith("--data")]


@pytest.mark.parametrize("given, environment, caps", [
    ("40 30", "", "40 30"), ("40 30", "  ", "40 30"), ("40 30", " 20 ", "20"), ("", "", "auto"), (" ", " ", "auto"), (None, "", "auto"),
])  # fmt: skip
def test_blanks_are_no_caps(tmp_path, given, environment, caps):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"model": "m", "val_data": "v.jsonl", "test_data": "t.jsonl", "caps": given}))
    found, _ = engine.schedule.read_settings({"CONFIG": str(config), "CAPS": environment, "OUT": str(tmp_path / "out")})
    assert found["CAPS"] == caps


@pytest.mark.parametrize("caps, rounds", [("", "30 20"), ("auto", "30 20"), ("60 30 auto", "60 30 20")])
def test_auto_goes_on_with_measured_caps_and_a_second_call_finds_the_same(script, caps, rounds):
    asked, without = [], yaml.safe_dump({"model": "m", "val_data": "v.jsonl", "test_data": "-t.jsonl"})
    for _ in range(2):
        code, text, calls = script(content=None if caps else without, OUT="run", CAPS=caps)  # no caps anywhere: auto
        assert code == 0, text
        (script.home / "run" / "final_test" / "eval.json").unlink()
        asked.append([dict(word[2:].split("=", 1) for word in call[1:] if "=" in word) for call in calls])
    named, last = rounds.split()[0], rounds.split()[-1]
    for options in asked:
        trained = [o for o in options if "cap" in o]
        assert [o["cap"] for o in trained] == rounds.split() and {o["prompt_cap"] for o in trained} == {named}
        assert [o["prompt_cap"] for o in options if o.get("out_dir") == "run/final_test"] == [last]
    assert [o["prompt_cap"] for o in asked[0] if o.get("out_dir") == "run/base"] == [named]


def test_a_first_cap_is_measured_on_the_base_or_asked_for(setting, tmp_path, capsys):
    options = yaml.safe_load((setting / "config.yaml").read_text()) | {"caps": "auto"}
    for eval_cap in (10, 400):  # few answers end within 10 tokens, nearly all within 400
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(options | {"eval_cap": eval_cap}))
        settings, _ = engine.schedule.read_settings({"CONFIG": str(tmp_path / "config.yaml"), "OUT": str(tmp_path / "run")})
        if eval_cap == 10:
            error = refusal(capsys, lambda: engine.schedule.first_cap(settings))
            assert "no next cap" in error and "give the first cap" in error and not (tmp_path / "run" / "first_cap.json").exists()
    engine.schedule.first_cap(settings)
    decision = json.loads((tmp_path / "run" / "first_cap.json").read_text())
    assert engine.schedule.known_caps(settings) == [decision["cap"]] and decision["length"] == decision["cap"] and decision["rollouts"] == 8


def test_a_cap_that_no_round_has_measured_is_asked_for(script):
    assert script(OUT="run", CAPS="40")[0] == 0
    code, text, _ = script(OUT="run", CAPS="40 auto")
    assert code == 2 and "error: run: the cap after 40 was not measured: give it in CAPS" in text


def test_a_second_schedule_in_the_folder_is_refused_with_the_pid(script):
    import fcntl

    (script.home / "run").mkdir()
    with open(script.home / "run" / "lock", "w") as held:
        held.write("4711\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        code, text, calls = script(OUT="run")
        assert code == 2 and "in use by process 4711" in text and len(text.strip().splitlines()) == 1
    assert script(OUT="run")[0] == 0


def test_fresh_moves_the_run_folder_and_nothing_else(script):
    assert script(OUT="run")[0] == 0
    for number in (1, 2):
        code, text, calls = script(OUT="run", FRESH="1", CAPS="20")
        assert code == 0 and f"run moved to run.old{number}" in text, text
        assert any("--cap=20" in c for c in calls)
    assert (script.home / "run.old1" / "cap40").is_dir() and not (script.home / "run" / "cap40").exists()
    (script.home / "mine").mkdir()
    (script.home / "mine" / "thesis.tex").write_text("years")
    code, text, _ = script(OUT="mine", FRESH="1")
    assert code == 2 and "no run folder" in text and [p.name for p in (script.home / "mine").iterdir()] == ["thesis.tex"]


def test_a_fresh_run_does_not_name_the_cap_of_the_one_before(script):
    (script.home / "run" / "base").mkdir(parents=True)
    (script.home / "run" / "schedule.yaml").write_text("{}")
    (script.home / "run" / "base" / "eval.json").write_text('{"prompt_cap": 31}')
    code, text, calls = script(OUT="run", FRESH="1", CAPS="20")
    assert code == 0 and {a for c in calls for a in c if a.startswith("--prompt_cap")} == {"--prompt_cap=20"}, text


@pytest.mark.parametrize("status", ["130", "143"])
def test_a_round_that_was_stopped_stops_the_schedule_with_its_status(script, status):
    code, text, calls = script(OUT="run", EXIT=status)
    assert code == int(status) and "to go on: CONFIG=c.yaml OUT=run bash schedule.sh" in text
    assert not any(a.endswith("/cap30") for c in calls for a in c)


@pytest.mark.parametrize("content", ["caps: [", "- 1\n", ""])
def test_a_config_that_is_no_yaml_of_options_is_one_line(script, content):
    code, text, _ = script(content=content, OUT="run")
    assert code == 2 and text.startswith("error: CONFIG=c.yaml") and len(text.strip().splitlines()) == 1
    assert not (script.home / "run").exists()


def test_an_out_that_cannot_be_made_is_one_line(script):
    (script.home / "file").write_text("")
    code, text, _ = script(OUT="file/run")
    assert code == 2 and "error: OUT=file/run" in text
