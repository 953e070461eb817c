"""What survives the night: checkpoints, damage, disks, locks, signals, alarms. Run: python -m pytest tests/test_run_folder.py"""
import csv
import doctest
import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from engine import alarms, checkpoints, files, memory, run_folder
from engine.checkpoints import Step
from engine.files import damage, lock
from engine.run_folder import RunFolder, Stop

TEXTS = {"nanoprune.json": '{"step": 1}', "eval.json": '{"pass@1": 0.5, "mean_tokens": 9}', "samples.md": "text"}


class Policy(torch.nn.Linear):
    """The least that a checkpoint is made of: one trained matrix that saves itself as PEFT does."""

    def save_pretrained(self, folder, selected_adapters):
        Path(folder, "adapter_config.json").write_text('{"r": 8}')
        save_file({"weight": self.weight.detach()}, Path(folder, "adapter_model.safetensors"))


@pytest.fixture
def policy():
    torch.manual_seed(0)
    model = Policy(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a run").mkdir()
    return tmp_path / "a run"


def save(folder, name, policy):
    step = int(name[4:]) if name.startswith("step") else 7
    history = [Step(i, reward=0.1 * i, figures={"kl": 0.3}) for i in range(1, step + 1)]
    checkpoints.save_checkpoint(folder / name, *policy, history, TEXTS | {"nanoprune.json": json.dumps({"step": step})})


def flip(path, at=0.5):
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 4
    path.write_bytes(data)


def in_child(work) -> int:
    """Exit status of `work` in a forked child, which a fault may kill."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_doctests():
    assert sum(doctest.testmod(module).failed for module in (alarms, checkpoints, files, memory, run_folder)) == 0


# ---------------------------------------------------------------------------------------- checkpoints


def test_every_file_of_a_checkpoint_has_its_checksum(folder, policy):
    save(folder, "step0001", policy)
    names = {p.name for p in (folder / "step0001").iterdir()}
    assert set(json.loads((folder / "step0001" / "checksums.json").read_text())) == names - {"checksums.json"}
    assert {"adapter_model.safetensors", "optimizer.pt", "log.csv", *TEXTS} < names
    assert damage(folder / "step0001") == "" and [p.name for p in folder.iterdir()] == ["step0001"]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "log.csv", "eval.json", "checksums.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_changed_cut_or_missing_file_is_damage(folder, policy, name, how):
    save(folder, "step0001", policy)
    path = folder / "step0001" / name
    flip(path) if how == "flip" else path.unlink() if how == "remove" else path.write_bytes(path.read_bytes()[:-3])
    assert damage(folder / "step0001")


def test_state_and_log_rows_come_back_as_they_were(folder, policy):
    save(folder, "step0002", policy)
    model = Policy(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    history = checkpoints.load_state(folder / "step0002", optimizer, "cpu")
    assert history == [Step(1, reward=0.1, figures={"kl": 0.3}), Step(2, reward=0.2, figures={"kl": 0.3})]
    ours, theirs = optimizer.state_dict(), policy[1].state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert all(torch.equal(ours["state"][0][k], theirs["state"][0][k]) for k in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("target, before", [("step0002", "step0001"), ("last", "last")])
def test_a_kill_at_any_file_operation_leaves_a_whole_checkpoint(folder, policy, target, before):
    save(folder, before, policy)

    def killed_at(n):
        calls = 0

        def counted(name):
            real = getattr(os, name)

            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == n:
                    os._exit(9)
                return real(*arguments, **options)

            setattr(os, name, call)

        counted("replace"), counted("fsync"), counted("rmdir")
        save(folder, target, policy)

    kills = 0
    for n in range(1, 60):
        if (status := in_child(lambda: killed_at(n))) == 0:
            break
        assert status == 9
        kills += 1
        assert checkpoints.set_damaged_aside(folder) == []
        assert checkpoints.newest(folder)[0] is not None
    assert 10 < kills < 59


def test_the_newest_of_steps_and_last_is_taken_and_a_step_before_a_last_of_the_same(folder, policy):
    assert checkpoints.newest(folder) == (None, 0)
    save(folder, "step0002", policy)
    save(folder, "last", policy)  # of step 7
    assert checkpoints.newest(folder) == (folder / "last", 7)
    save(folder, "step0007", policy)
    assert checkpoints.newest(folder) == (folder / "step0007", 7)
    save(folder, "step12345", policy)
    assert checkpoints.newest(folder) == (folder / "step12345", 12345)


def test_a_damaged_newest_is_reported_in_one_line_and_the_one_before_is_used(folder, policy):
    save(folder, "step0001", policy)
    save(folder, "step0002", policy)
    flip(folder / "step0002" / "optimizer.pt")
    lines = checkpoints.set_damaged_aside(folder)
    assert len(lines) == 1 and "step0002" in lines[0] and "optimizer.pt" in lines[0] and "\n" not in lines[0]
    assert checkpoints.newest(folder) == (folder / "step0001", 1) and (folder / "step0002.damaged").is_dir()


def test_the_newest_two_stay_whole_the_best_keeps_its_adapter_and_all_keep_their_figures(folder, policy):
    for step in range(1, 6):
        save(folder, f"step{step:04d}", policy)
        checkpoints.thin_out(folder, [str(folder / "step0002")])
    holds = {p.name: sorted(f.name for f in p.iterdir()) for p in checkpoints.checkpoints_of(folder)}
    report = ["checksums.json", "eval.json", "nanoprune.json", "samples.md"]
    assert holds["step0001"] == holds["step0003"] == report
    assert holds["step0002"] == sorted([*report, "adapter_config.json", "adapter_model.safetensors"])
    assert all("optimizer.pt" in holds[name] for name in ("step0004", "step0005"))
    assert checkpoints.set_damaged_aside(folder) == [] and len(checkpoints.results_of(folder)) == 5


def test_thinning_out_hides_no_damage_and_needs_no_adapter_that_is_gone(folder, policy):
    for step in range(1, 4):
        save(folder, f"step{step:04d}", policy)
    flip(folder / "step0001" / "adapter_model.safetensors")
    checkpoints.thin_out(folder, [str(folder / "step0001")])
    assert "adapter_model.safetensors" in damage(folder / "step0001")
    checkpoints.thin_out(folder, [])
    assert damage(folder / "step0001") == ""  # what was damaged is no part of it any more
    checkpoints.thin_out(folder, [str(folder / "step0001")])
    assert not checkpoints.holds(folder / "step0001", checkpoints.ADAPTER)


def test_thinning_out_that_is_cut_off_leaves_no_damage(folder, policy):
    for step in range(1, 4):
        save(folder, f"step{step:04d}", policy)

    def cut_off():
        os.unlink = os.remove = Path.unlink = lambda *a, **k: os._exit(9)
        checkpoints.thin_out(folder, [])

    assert in_child(cut_off) == 9
    assert checkpoints.set_damaged_aside(folder) == []
    checkpoints.thin_out(folder, [])
    assert not (folder / "step0001" / "optimizer.pt").exists()


def test_an_optimizer_state_that_would_run_code_is_refused(folder, policy, capsys):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder / "exploded"),)

    save(folder, "step0001", policy)
    torch.save({"state": Bomb()}, folder / "step0001" / "optimizer.pt")
    with pytest.raises(SystemExit) as stop:
        checkpoints.load_state(folder / "step0001", policy[1], "cpu")
    assert stop.value.code == 2 and "optimizer.pt" in capsys.readouterr().err and not (folder / "exploded").exists()


def test_a_selection_that_was_changed_after_done_is_refused(folder, capsys):
    RunFolder({"fresh": False, "out_dir": str(folder)}, {}, set()).finish({"selected": "a", "why": "short"})
    assert (folder / "selected").read_text() == "a\n"
    assert run_folder.read_selection(folder)["why"] == "short"
    flip(folder / "selection.json")
    with pytest.raises(SystemExit) as stop:
        run_folder.read_selection(folder)
    assert stop.value.code == 2 and "selection.json" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pass@1": "x", "mean_tokens": 1}', '{"pass@1": true, "mean_tokens": 1}', "\x00"])
def test_an_eval_json_without_its_figures_is_one_line(folder, capsys, content):
    (folder / "eval.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        checkpoints.read_eval(folder / "eval.json")
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and str(folder / "eval.json") in error and len(error.splitlines()) == 1


# ---------------------------------------------------------------------------------------- the disk


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where, error",
    [
        ("adapter", SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")),
        ("adapter", FULL),
        ("optimizer", RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")),
        ("table", FULL),
        ("fsync", FULL),
        ("rename", OSError(errno.EROFS, os.strerror(errno.EROFS))),
    ],
)
def test_a_disk_that_fails_while_saving_is_one_line_and_the_checkpoint_before_stays(folder, policy, monkeypatch, capsys, where, error):
    save(folder, "step0001", policy)

    def fails(*arguments, **options):
        raise error

    owner, name = {
        "adapter": (Policy, "save_pretrained"),
        "optimizer": (torch, "save"),
        "table": (checkpoints, "write_table"),
        "fsync": (checkpoints, "sync"),
        "rename": (os, "replace"),
    }[where]
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(SystemExit) as stop:
        save(folder, "step0002", policy)
    monkeypatch.undo()
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    assert [p.name for p in folder.iterdir()] == ["step0001"] and checkpoints.newest(folder) == (folder / "step0001", 1)
    save(folder, "step0002", policy)
    assert checkpoints.newest(folder) == (folder / "step0002", 2)


def test_an_error_that_is_none_of_the_disk_is_not_called_one(folder, policy, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="device-side"):
        save(folder, "step0001", policy)


def test_a_misspelt_name_is_no_damaged_file():
    with pytest.raises(NameError), files.explained("x is damaged"):
        misspelt  # noqa: B018, F821


def test_a_folder_that_vanished_is_an_error_and_is_not_made_again(folder, policy, capsys):
    folder.rmdir()
    with pytest.raises(SystemExit) as stop:
        save(folder, "step0001", policy)
    assert stop.value.code == 1 and "No such file" in capsys.readouterr().err and not folder.exists()


def test_too_little_space_for_two_checkpoints_is_said_before_the_first_step(folder, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
    checkpoints.check_disk(folder, [torch.zeros(100_000)])  # 400 kB of weights: 3.6 MB and a little
    with pytest.raises(SystemExit) as stop:
        checkpoints.check_disk(folder, [torch.zeros(1_000_000)])
    assert stop.value.code == 2 and "10 MB free, the checkpoints take 37 MB" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(folder, capsys):
    folder.rmdir()
    folder.write_text("a file")
    with pytest.raises(SystemExit) as stop:
        checkpoints.check_disk(folder, [torch.zeros(1)])
    assert stop.value.code == 2 and "cannot be written" in capsys.readouterr().err


def test_a_table_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    checkpoints.write_table(folder / "log.csv", [Step(1)])
    before = (folder / "log.csv").read_bytes()

    def full(handle):
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as stop:
        checkpoints.write_table(folder / "log.csv", [Step(1), Step(2)])
    assert stop.value.code == 1 and (folder / "log.csv").read_bytes() == before


# ---------------------------------------------------------------------------------------- one run, one folder


def test_a_second_process_is_refused_with_the_pid_and_a_dead_one_holds_nothing(folder, capsys):
    (folder / "config.yaml").write_text("{}")
    ready, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        with lock(folder):
            os.write(held, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(SystemExit) as stop, lock(folder):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and f"process {pid}" in error and len(error.splitlines()) == 1
    with lock(folder):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_on_a_folder_in_which_nothing_was_written_leaves_nothing(tmp_path):
    with pytest.raises(SystemExit), lock(tmp_path / "new"):
        raise SystemExit(2)
    assert not (tmp_path / "new").exists()


def test_fresh_moves_the_folder_to_the_next_free_number(tmp_path):
    for n, aside in ((1, "round.old1"), (2, "round.old2")):
        (tmp_path / "round").mkdir()
        (tmp_path / "round" / "config.yaml").write_text(f"n: {n}")
        run_folder.move_aside(tmp_path / "round")
        assert not (tmp_path / "round").exists() and (tmp_path / aside / "config.yaml").read_text() == f"n: {n}"


def test_fresh_moves_no_folder_that_is_not_a_rounds_nor_one_in_use(tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(SystemExit):
        run_folder.move_aside(tmp_path / "home")
    assert "not a round's folder" in capsys.readouterr().err and [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "config.yaml").write_text("{}")
    with lock(tmp_path / "round"), pytest.raises(SystemExit):
        run_folder.move_aside(tmp_path / "round")
    assert "in use by process" in capsys.readouterr().err and (tmp_path / "round").is_dir()


def test_a_config_that_is_too_old_for_an_option_counts_as_its_default(folder, capsys):
    empty = {"reference": "", "init_adapter": ""}
    (folder / "config.yaml").write_text("lr: 1.0\n")
    run_folder.check_folder(folder, empty | {"lr": 1.0, "new": 3}, empty | {"lr": 2.0, "new": 3}, free=set())
    with pytest.raises(SystemExit):
        run_folder.check_folder(folder, empty | {"lr": 1.0, "new": 4}, empty | {"lr": 2.0, "new": 3}, free=set())
    assert "new: 3 there, 4 now" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"a: [", b"\xff\xfe", b"- 1\n", b"\x00"])
def test_a_damaged_config_of_a_folder_is_one_line(folder, capsys, content):
    (folder / "config.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        run_folder.check_folder(folder, {}, {}, set())
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and "config.yaml is damaged" in error and len(error.splitlines()) == 1


def test_columns_that_only_some_steps_have_are_all_in_the_table(folder):
    """A figure may be new: of a validation, or of a loss that was edited before the run was resumed."""
    history = [Step(1, figures={"kl": 0.5}), Step(2, figures={"kl": 0.25, "val_tokens": 80.0}), Step(3, figures={"entropy": 1.0})]
    checkpoints.write_table(folder / "log.csv", history)
    with open(folder / "log.csv", newline="") as f:
        assert [Step.of(row) for row in csv.DictReader(f)] == history


# ---------------------------------------------------------------------------------------- signals


OPTIONS = {"fresh": False, "reference": "", "init_adapter": "", "model": "m", "cap": 9}


def opened(folder):
    return RunFolder(OPTIONS | {"out_dir": str(folder)}, OPTIONS, set())


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_next_stoppable_stretch_and_gives_the_command_to_go_on(folder, number, status, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_prune.py", "--out_dir", "it's here", "--fresh", "true", "--fresh=true", "--cap", "9"])
    before, reached = signal.getsignal(number), []
    with pytest.raises(SystemExit) as stop, opened(folder) as run:
        run.safe = False  # as after `start`
        os.kill(os.getpid(), number)
        reached.append("after the signal")  # nothing is cut off in the middle
        with run.stoppable():
            reached.append("in the stretch")
    assert stop.value.code == status and reached == ["after the signal"] and signal.getsignal(number) == before
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == "to go on: python train_prune.py --out_dir 'it'\"'\"'s here' --cap 9"


def test_a_signal_in_a_stoppable_stretch_ends_it_at_once_whatever_it_catches(folder):
    reached = []
    with pytest.raises(SystemExit) as stop, opened(folder) as run:
        run.safe = False
        with run.stoppable():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append("after the signal")
            except Exception:
                reached.append("caught")
    assert stop.value.code == 143 and reached == []


def test_a_second_signal_ends_the_process_at_once(folder):
    def work():
        with opened(folder) as run:
            run.safe = False
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(77)

    assert in_child(work) == 130


def test_a_signal_after_the_last_stretch_still_ends_in_its_status(folder):
    with pytest.raises(SystemExit) as stop, opened(folder) as run:
        run.safe = False
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.code == 143


def test_memory_that_runs_out_where_no_retry_helps_is_one_line(folder, capsys):
    with pytest.raises(SystemExit) as stop, opened(folder):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 1 and "--lora_r" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("error, saved", [(Stop("why", 1), True), (SystemExit(2), True), (SystemExit(1), False), (ValueError(), False)])
def test_the_state_is_saved_on_a_stop_and_not_where_the_disk_or_the_code_failed(folder, monkeypatch, error, saved):
    names = []
    monkeypatch.setattr(RunFolder, "save", lambda self, name, files=None: names.append(name))
    with pytest.raises((SystemExit, ValueError)), opened(folder) as run:
        run.history.append(Step(1))
        raise error
    assert names == (["last"] if saved else [])


# ---------------------------------------------------------------------------------------- alarms


def steps(n, figures=None, **change):
    return [Step(1, **{"reward": 0.5, "over_cap": 0.2} | change, figures=figures or {})] * n


@pytest.mark.parametrize(
    "name, history",
    [
        ("finished", steps(5) + steps(3, over_cap=0.61)),  # 39 % is under half of 80 %
        ("repeated", steps(5) + steps(3, repeated=0.3)),
        ("no_thinking", steps(5) + steps(3, no_thinking=0.3)),
        ("reward", steps(5, reward=0.0)),
    ],
)
def test_each_collapse_is_seen_and_warned_of_once(name, history):
    assert list(alarms.collapse(history)) == [name]
    assert len(alarms.warnings_of(history, 4, 0.1)) == 1
    assert alarms.warnings_of(history + [history[-1]], 4, 0.1) == []


@pytest.mark.parametrize(
    "history",
    [
        [],
        steps(5) + steps(3, over_cap=0.59),
        steps(8, repeated=0.3),  # so from the start: it has not risen
        steps(5) + steps(1, repeated=0.7) + steps(2),  # one bad step
        steps(4, reward=0.0),
        steps(1) + steps(4, reward=0.0),
    ],
)
def test_no_collapse_is_seen_where_there_is_none(history):
    assert alarms.collapse(history) == {}


@pytest.mark.parametrize("bad", [{"skipped": 1.0}, {"logp_gap": 0.2}])
def test_the_run_is_warned_at_the_first_and_stopped_at_the_third_bad_step_in_a_row(bad):
    history = steps(2) + steps(1, bad)
    assert len(alarms.warnings_of(history, 4, 0.1)) == 1 and not alarms.reason_to_stop(history, 0.1)
    assert not alarms.reason_to_stop(steps(2, bad) + steps(1) + steps(2, bad), 0.1)
    assert alarms.reason_to_stop(steps(3, bad), 0.1)


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"<think>\n</think>\n\boxed{3}", True),
        (r"\boxed{3} and then some words that come too late", True),
        (r"first I add one and two</think>\boxed{3}", False),
        (r"first I add one and two, so \boxed{3}", False),
        ("</think> no box", False),
        ("", False),
    ],
)
def test_an_answer_without_a_thought_is_told_from_one_with(text, expected):
    assert alarms.answers_at_once(text) is expected


def test_a_passage_that_stands_three_times_is_repetition_and_twice_is_not():
    passage = list(range(20))
    assert alarms.repeats(passage + [50] + passage + [51] + passage)
    assert not alarms.repeats(passage + [50] + passage) and not alarms.repeats([1, 2, 3])
