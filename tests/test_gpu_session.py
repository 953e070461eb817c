"""The session for the first card, rehearsed on a CPU. Run: python -m pytest tests/test_gpu_session.py"""
import json
import os
import time

import torch

from conftest import refusal
from dev import gpu_session
from dev.gpu_session import Config


def lines_of(capfd, **options) -> tuple[int, dict[str, dict]]:
    """(exit status, JSON line of each stage by its name) of a session."""
    status = gpu_session.main(Config(rehearse=True, **options))
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    return status, {row["stage"]: row for row in rows}


def test_the_rehearsal_passes_every_stage(tmp_path, capfd):
    status, rows = lines_of(capfd, out_dir=str(tmp_path))
    assert [name for name, row in rows.items() if not row["ok"]] == [] and status == 0, rows
    assert list(rows) == [stage.__name__ for stage, _ in gpu_session.STAGES] and len(rows) == 10
    assert rows["graph"]["captures"] > 0
    assert min(rows["memory"]["recovered"].values()) > 1
    assert json.loads((tmp_path / "step.json").read_text())["method"] == "ours"


def fine(s: Config) -> dict:
    print("words of its own")
    return {"figure": 7}


def wrong(s: Config) -> dict:
    raise ValueError("no kernel\nmore words")


def hangs(s: Config) -> dict:
    time.sleep(60)


def dies(s: Config) -> dict:
    os._exit(9)


def test_a_stage_that_fails_hangs_or_dies_stops_no_other(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu_session, "STAGES", [(wrong, 60), (hangs, 1), (dies, 60), (fine, 60)])
    status, rows = lines_of(capfd, out_dir=str(tmp_path))
    assert status == 1 and rows["wrong"]["error"] == "ValueError: no kernel"
    assert rows["hangs"]["error"] == "not done after 1 s" and rows["dies"]["error"] == "ended with status 9"
    assert rows["fine"]["ok"] and rows["fine"]["figure"] == 7
    assert (tmp_path / "fine.txt").read_text() == "words of its own\n"


def test_what_has_not_begun_in_time_is_left_out(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu_session, "STAGES", [(fine, 60)])
    status, rows = lines_of(capfd, out_dir=str(tmp_path), minutes=0.0)
    assert status == 1 and "not begun" in rows["fine"]["error"]


def test_the_stages_fit_the_names_that_are_asked_for(tmp_path, capfd):
    assert "warp is unknown; there are versions, attention" in refusal(capfd, lambda: lines_of(capfd, only="warp"))


def test_without_cuda_only_a_rehearsal_runs(capfd, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "--rehearse true" in refusal(capfd, lambda: gpu_session.main(Config()))
