"""schedule.sh from end to end on a stand-in for R1-Distill and real AIME problems. Run: python -m pytest tests/test_schedule.py"""
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from conftest import ROOT
from standin import make_r1_standin


@pytest.fixture(scope="module")
def setting(tmp_path_factory, shared_rows):
    """A folder with a blank in its name, a model with R1's tokens and template, and 8 + 2 + 2 AIME problems."""
    folder = tmp_path_factory.mktemp("a run")
    make_r1_standin(folder / "model", context=4096)
    for name, rows in (("train", shared_rows("aime_train.jsonl")[:8]), ("val", shared_rows("aime2022.jsonl")[:2]), ("test", shared_rows("aime2024.jsonl")[:2])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
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
        "val_cap": 48,
        "val_samples": 2,
        "test_samples": 2,
        "lora_r": 8,
        # random weights are never right: pay for repeating a token, so that there is a gradient
        "reward": "repetition",
        "reward_options": {"size": 1},
        "beta": 0.001,
        "device": "cpu",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    return folder


def schedule(folder, out, **more):
    env = os.environ | {"PYTHON": sys.executable, "CONFIG": str(folder / "config.yaml"), "OUT": str(out), "OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(["bash", str(ROOT / "schedule.sh")], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def timeless(value):
    """A summary without what differs from run to run: seconds and the run's own folder."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "adapter", "out_dir")}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def test_two_rounds_killed_in_between_end_like_an_unbroken_run(setting, tmp_path):
    whole = schedule(setting, tmp_path / "whole")
    broken = schedule(setting, tmp_path / "broken")
    deadline = time.time() + 300
    while not (tmp_path / "broken" / "cap40" / "step0001" / "eval.json").exists() and time.time() < deadline and broken.poll() is None:
        time.sleep(0.05)
    os.killpg(broken.pid, signal.SIGKILL)
    assert whole.wait(600) == 0, whole.stdout.read()
    again = schedule(setting, tmp_path / "broken")
    text, _ = again.communicate(timeout=600)
    assert again.returncode == 0, text
    a, b = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "broken"))
    assert timeless(a) == timeless(b)
    assert [r["cap"] for r in a["rounds"]] == [40, 30] and a["base"]["n_problems"] == a["final"]["n_problems"] == 2
    assert {"tokens_ratio", "pass@1_change", "seconds"} <= set(a)
    assert (tmp_path / "whole" / "final" / "adapter_model.safetensors").is_file()
    assert "| cap 30, validation |" in (tmp_path / "whole" / "summary.md").read_text()
    # a third call finds everything done
    third = schedule(setting, tmp_path / "broken")
    text, _ = third.communicate(timeout=600)
    assert third.returncode == 0 and "is done" in text
    # other settings in the same folder are refused
    other = schedule(setting, tmp_path / "broken", CAPS="35")
    text, _ = other.communicate(timeout=60)
    assert other.returncode == 2 and "set OUT to a new folder" in text


@pytest.mark.parametrize("caps, word", [("40 40", "not below"), ("40 50", "not below"), ("40 x", "is no cap"), ("0", "is no cap")])
def test_bad_caps_are_one_line_and_nothing_is_written(setting, tmp_path, caps, word):
    run = schedule(setting, tmp_path / "out", CAPS=caps)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 2 and word in text and len(text.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
