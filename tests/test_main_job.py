"""The floor under the main job's result. Run after `bash schedule.sh`: python -m pytest tests/test_main_job.py"""
import json

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def summary():
    path = ROOT / "out" / "toy" / "summary.json"
    if not path.is_file():
        pytest.skip("no out/toy/summary.json: bash schedule.sh makes it")
    return json.loads(path.read_text())


def test_it_shortens_to_45_percent_or_less(summary):
    assert summary["tokens_ratio"] <= 0.45


def test_it_loses_at_most_4_points(summary):
    assert summary["pass@1_change"] >= -0.04


def test_before_and_after_are_measured_alike(summary):
    base, final = summary["base"], summary["final"]
    for name in ("data", "cap", "prompt_cap", "temperature", "top_p", "seed", "n_problems", "n_samples", "model", "load_4bit"):
        assert base[name] == final[name], name
    assert base["n_problems"] >= 256 and base["n_samples"] >= 4 and base["temperature"] == 1.0
    assert not base["adapter"] and final["adapter"]


def test_the_rounds_tighten(summary):
    caps = [r["cap"] for r in summary["rounds"]]
    assert caps == sorted(set(caps), reverse=True) and len(caps) == 3
