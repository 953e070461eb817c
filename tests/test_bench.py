"""Each sub-command of dev/bench.py at a tiny size. Run: python -m pytest tests/test_bench.py"""
import contextlib
import io
import json
import subprocess
import sys

import pytest
import torch

from conftest import ROOT
from dev import bench, bench_models, bench_reward, bench_rollouts, bench_scale, bench_sft, bench_step, measure
from dev.bench_rollouts import run_generate, run_generate_batch, run_ours
from engine import memory
import reward as grader
from standin import make_tiny

CPU = torch.device("cpu")


def last_line(text: str) -> dict:
    """The JSON object that ends a sub-command's output, its promised keys checked."""
    made = json.loads(text.strip().splitlines()[-1])
    assert set(made) == {"bench", "device", "versions", "rows"}
    assert all("setting" in row for row in made["rows"])
    return made


def refusal(capsys, call, *args, **kwargs) -> str:
    """The one line with which a call ends."""
    with pytest.raises(SystemExit) as stop:
        call(*args, **kwargs)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    return said


def rollouts(**options):
    bench_rollouts.rollouts(bench_rollouts.Config(**options))


def step(**options):
    bench_step.step(bench_step.Config(**options))


def scale(**options):
    bench_scale.scale(bench_scale.Config(**options))


def reward(**options):
    bench_reward.reward(bench_reward.Config(**options))


def command(python: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([python, "dev/bench.py", *words], cwd=ROOT, capture_output=True, text=True)


# ---------------------------------------------------------------------------------------- what is forced on everyone


def test_forced_lengths_are_heavy_tailed_within_the_cap():
    lengths = torch.tensor(bench_models.forced_lengths(4000, cap=1000)).float()
    assert lengths.min() >= 1 and lengths.max() == 1000
    assert lengths.median() == pytest.approx(250, rel=0.1) and lengths.mean() > 1.2 * lengths.median()


def test_forced_lengths_and_prompts_are_the_same_every_time():
    assert bench_models.forced_lengths(5, 100) == bench_models.forced_lengths(5, 100)
    assert bench_models.make_prompts(3, 50) == bench_models.make_prompts(3, 50)


def test_words_and_ids_turn_into_each_other_without_loss():
    tokenizer = bench_models.word_tokenizer(64)
    assert tokenizer(tokenizer.decode([5, 63, 2])).input_ids == [5, 63, 2]


def test_random_models_have_the_size_that_their_name_says():
    for size, millions in (("1M", 1), ("5M", 5), ("25M", 25), ("100M", 100)):
        n = memory.count(bench_models.shape_config(size))
        assert (n["linear"] + n["other"]) / 1e6 == pytest.approx(millions, rel=0.12), size


def test_the_shape_of_r1_distill_is_the_real_one():
    n = memory.count(bench_models.shape_config("r1_1.5b"))
    assert n["linear"] + n["other"] == 1_777_088_000  # 1.78 billion


def test_half_of_the_groups_are_dead_where_asked_for():
    assert bench_step.fixed_rewards(8, 2, half=True) == [0, 1, 0, 0, 0, 1, 0, 0]
    assert bench_step.fixed_rewards(4, 2, half=False) == [0, 1, 0, 1]


@pytest.mark.parametrize("run", [run_ours, run_generate, run_generate_batch])
def test_every_contestant_makes_exactly_the_forced_tokens(run):
    task = bench_rollouts.Task("tiny", requests=5, rows=2, cap=9, device=CPU)
    made, seconds = run(task, [3, 9, 1, 5, 2], rows=2)
    assert made == 20 and all(value > 0 for value in seconds.values())


# ---------------------------------------------------------------------------------------- the roofline


def test_the_roofline_reads_the_weights_once_a_step_and_the_cache_of_each_live_row():
    config = bench_models.shape_config("tiny")
    count, kv = memory.count(config), memory.kv_bytes(config, 2)
    # rows 2, lengths 3, 1, 2: the third request takes the second row, both end after 3 steps
    read = kv * ((10 * 3 + 6) + (20 * 1 + 1) + (30 * 2 + 3))
    expected = (3 * 2 * (count["linear"] + count["other"]) + read) / 1e9
    prompts = [[3] * 10, [3] * 20, [3] * 30]
    assert bench_rollouts.roofline_seconds(config, 2, prompts, [3, 1, 2], 2, bandwidth=1e9) == pytest.approx(expected)


def test_an_embedding_that_is_not_the_head_is_not_read():
    config = bench_models.shape_config("r1_1.5b")
    one_token = bench_rollouts.roofline_seconds(config, 2, [[3]], [1], 1, bandwidth=1.0)
    count = memory.count(config)
    weights = 2 * (count["linear"] + count["other"] - 151936 * 1536)
    assert one_token == pytest.approx(weights + 2 * 28 * 1024)


# ---------------------------------------------------------------------------------------- the sub-commands


def test_rollouts_compares_ours_with_the_others(capsys):
    rollouts(model_size="tiny", requests=4, rows=2, cap=8, repeats=1, peaks=False)
    made = last_line(capsys.readouterr().out)
    assert [row["method"] for row in made["rows"]] == [*bench_rollouts.METHODS, "generate_batch running"]
    ratios = {f"ratio_to_{name}" for name in ("generate", "static", "generate_batch", "generate_batch_running")}
    assert ratios <= set(made["rows"][0])
    assert all(row["tokens_per_second"] > 0 for row in made["rows"]) and "torch" in made["versions"]


def test_a_bench_says_first_how_long_it_takes_and_then_where_it_is(capsys):
    rollouts(model_size="tiny", requests=2, rows=2, cap=4, repeats=2, peaks=False, only="static")
    lines = capsys.readouterr().out.splitlines()
    assert "a line after each run" in lines[0]
    assert lines[1].startswith("[1/2] tiny 2/2/4, static, run 1 of 2: ") and lines[2].startswith("[2/2] ")


def test_progress_is_seen_where_others_are_silenced(capsys):
    progress = measure.Progress(1, "a minute")
    with contextlib.redirect_stdout(io.StringIO()):
        progress.line("half done")
    assert "[1/1] half done | 0m00s so far" in capsys.readouterr().out


def test_the_settings_of_the_readme_are_the_full_ones_and_the_first_is_the_default(monkeypatch, capsys):
    names = []
    monkeypatch.setattr(bench_rollouts, "Task", lambda *sizes: names.append(sizes[:4]))
    monkeypatch.setattr(bench_rollouts, "race", lambda *args: [])
    rollouts()
    rollouts(full=True)
    assert names == [bench_rollouts.FULL[0], *bench_rollouts.FULL]
    assert [name for name, *_ in bench_step.settings_of(bench_step.Config())] == list(bench_step.SETTINGS)[:2]
    assert [name for name, *_ in bench_step.settings_of(bench_step.Config(full=True))] == list(bench_step.SETTINGS)


def test_a_contestant_that_refuses_is_skipped_with_its_reason(capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no flash attention\nhere")

    monkeypatch.setattr(bench_rollouts, "run_generate_batch", refuse)
    rollouts(model_size="tiny", requests=2, rows=2, cap=4, repeats=1, peaks=False)
    rows = last_line(capsys.readouterr().out)["rows"]
    assert rows[-1]["note"] == "skipped: RuntimeError: no flash attention"
    assert "ratio_to_generate" in rows[0] and "ratio_to_generate_batch" not in rows[0]


def test_a_contestant_that_runs_out_of_memory_goes_on_with_fewer_rows(capsys, monkeypatch):
    def small(task, lengths, rows, **more):
        if rows > 2:
            raise torch.OutOfMemoryError
        return run_generate(task, lengths, rows, **more)

    monkeypatch.setattr(bench_rollouts, "run_generate", small)
    rollouts(model_size="tiny", requests=4, rows=4, cap=4, repeats=1, peaks=False)
    rows = {row["method"]: row for row in last_line(capsys.readouterr().out)["rows"]}
    assert rows["generate"]["note"] == "with 2 rows: more do not fit" and "ratio_to_generate" in rows["ours"]


def test_the_largest_rows_are_found_beside_the_plan(monkeypatch):
    """On a pretended card on which 300 rows fit."""
    def decode(self, requests, size):
        assert requests.longest + requests.caps[0] == 24 + memory.PROMPT  # every row is filled to its width
        assert requests.samples == len(requests.caps) == size
        if size > 300:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(bench_rollouts.Sampler, "decode", decode)
    monkeypatch.setattr(bench_rollouts, "peak_bytes", lambda device: 1_000_000)
    monkeypatch.setattr("engine.memory.free_bytes", lambda device: memory.LOADED + 10**8)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    row = bench_rollouts.largest_rows("tiny", 24, CPU)
    assert 300 - max(1, row["planned_rows"] // 50) <= row["rows"] <= 300 and row["planned_rows"] > 150


def test_peak_memory_is_that_of_a_process_of_its_own(capsys):
    rollouts(model_size="tiny", requests=2, rows=2, cap=4, repeats=1, only="ours")
    own = last_line(capsys.readouterr().out)["rows"][0]["peak_mb"]
    row = measure.alone("rollouts", *"--model_size tiny --requests 2 --rows 2 --cap 4 --repeats 1 --only ours".split())
    assert 100 < row["peak_mb"] < 2000 and own > 100


def test_several_contestants_run_and_have_a_peak_each_of_its_own_process(capsys, monkeypatch):
    peaks = {"ours": 100.0, "generate": 200.0}
    monkeypatch.setattr(bench_rollouts, "alone", lambda *words: {"peak_mb": peaks[words[-1]]})
    rollouts(model_size="tiny", requests=2, rows=2, cap=4, repeats=1, only="ours, generate,")
    rows = last_line(capsys.readouterr().out)["rows"]
    assert {row["method"]: row["peak_mb"] for row in rows} == peaks


@pytest.mark.parametrize("sizes", [{"problems": 0}, {"group": 1}, {"cap": 0}, {"repeats": 0}])
def test_sizes_of_a_step_that_cannot_work_are_refused_and_those_not_given_are_not(capsys, sizes):
    bench_step.check_options(bench_step.Config(only="ours"))
    (name, size), = sizes.items()
    assert f"--{name} {size} must be at least" in refusal(capsys, step, only="ours", **sizes)


def test_step_compares_with_trl_and_splits_our_seconds():
    pytest.importorskip("trl")
    words = "--model_size tiny --problems 2 --group 2 --cap 8 --repeats 1 --peaks false --setting nf4"
    done = command(sys.executable, "step", *words.split())
    assert done.returncode == 0, done.stderr
    ours, trl = last_line(done.stdout)["rows"]
    assert (ours["method"], trl["method"]) == ("ours", "trl")
    assert ours["ratio_to_trl"] == pytest.approx(trl["seconds"] / ours["seconds"], abs=0.01)
    assert sum("nf4 LoRA, beta 0, half dead, trl, " in line for line in done.stdout.splitlines()) == 2
    assert ours["seconds"] == pytest.approx(sum(ours[f"{k}_s"] for k in ("sample", "reward", "logp", "backward")), abs=0.001)


def test_a_real_models_folder_takes_the_place_of_a_random_one(capsys, tmp_path):
    folder = make_tiny(tmp_path / "real")
    for call, sizes in ((rollouts, {"requests": 2, "rows": 2}), (step, {"problems": 1, "group": 2})):
        call(model=folder, cap=4, repeats=1, only="ours", **sizes)
        (row,) = last_line(capsys.readouterr().out)["rows"]
        assert row["method"] == "ours" and row["tokens"] == sum(bench_models.forced_lengths(2, 4))
    assert (bench_rollouts.Config(model=folder).rows, bench_rollouts.Config().rows) == (8, 32)
    assert "config.json" in refusal(capsys, rollouts, model=str(tmp_path))


def test_step_of_ours_needs_no_trl(capsys):
    step(model_size="tiny", problems=2, group=2, cap=8, repeats=1, only="ours", setting="beta 0.04")
    (row,) = last_line(capsys.readouterr().out)["rows"]
    assert row["method"] == "ours" and row["peak_mb"] > 100 and "ratio_to_trl" not in row


def test_sft_counts_response_tokens_per_cpu_second(capsys):
    bench_sft.sft_step(bench_sft.Config(model_size="tiny", rows=2, cap=8, repeats=1, only="ours", setting="nf4"))
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["tokens"] == sum(bench_models.forced_lengths(2, 8)) and row["peak_mb"] > 0
    assert row["tokens_per_s"] == pytest.approx(row["tokens"] / row["seconds"], rel=0.1)


def test_a_step_that_does_not_fit_ends_with_one_line(capsys, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(bench_step, "one_setting", full)
    said = refusal(capsys, step, model_size="tiny", only="ours", setting="nf4")
    assert "nf4 LoRA, beta 0, half dead does not fit on this card: CUDA out of memory" in said


def test_scale_writes_its_picture(tmp_path, capsys):
    scale(quick=True, out=str(tmp_path / "new" / "scale.png"))
    made = last_line(capsys.readouterr().out)
    assert {row["axis"] for row in made["rows"]} == {"rows", "cap", "model"}
    assert (tmp_path / "new" / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_memory_plans_for_four_cards_without_weights_or_network(capsys):
    bench.memory(bench.Memory(model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", lora_r=32))
    made = last_line(capsys.readouterr().out)
    assert [row["setting"] for row in made["rows"]] == ["8 GB", "12 GB", "16 GB", "24 GB"]
    assert made["rows"][-1]["copy_gb"] == 2.62


def test_memory_reads_the_config_of_a_run(warm_python):
    done = command(warm_python, "memory", "--config", "config/r1_7b_24gb.yaml", "--cards", "[24]")
    (row,) = last_line(done.stdout)["rows"]
    assert (row["weights"], row["micro_batch"], row["tokens"]) == ("live", 8192, 4000 + memory.PROMPT)
    assert "DeepSeek-R1-Distill-Qwen-7B" in done.stdout.splitlines()[0]


def test_reward_runs_on_our_own_outputs(capsys, monkeypatch):
    monkeypatch.setattr(bench_reward, "FOLDERS", (ROOT / "nowhere", ROOT / "tests" / "data"))
    before = grader._ask, grader.WORKERS
    reward(quick=True)
    rows = {row["setting"]: row for row in last_line(capsys.readouterr().out)["rows"]}
    right = sum(row["expected"] for row in own_outputs("model_outputs"))
    assert rows["outputs as they come, cold cache"]["right"] == right and rows["integers"]["right"] == 100
    assert before == (grader._ask, grader.WORKERS)


def test_attacks_are_mixed_into_a_batch(monkeypatch):
    monkeypatch.setattr(bench_reward, "ROLLOUTS", 30)
    monkeypatch.setattr(bench_reward, "ATTACKS", 3)
    monkeypatch.setattr(grader, "_ask", grader._ask)  # the bench puts a counter in its place
    monkeypatch.setattr(grader, "WORKERS", 1)
    seen = []
    monkeypatch.setattr(bench_reward.Bench, "measure", lambda self, name, pairs: seen.append(pairs))
    bench_reward.attacked(bench_reward.Bench(measure.Progress(2, "")), [("1", "1")], own_outputs("hostile_outputs"))
    assert [len(pairs) for pairs in seen] == [30, 30] and [pairs.count(("1", "1")) for pairs in seen] == [27, 27]
    assert len(set(seen[1])) == 4  # every large formula is new to the cache


def own_outputs(name: str) -> list[dict]:
    return bench_reward.read_rows(ROOT / "tests" / "data", f"{name}.jsonl")


@pytest.mark.parametrize("name, thinking", [("model_outputs", False), ("hostile_outputs", True)])
def test_our_own_outputs_are_graded_as_they_say(name, thinking):
    rows = own_outputs(name)
    texts = [row.get("output") or "".join(text * times for text, times in row["output_parts"]) for row in rows]
    grades = grader.grade(texts, [row["gold"] for row in rows], thinking)
    assert [row["id"] for row, grade in zip(rows, grades) if grade.correct != bool(row["expected"])] == []
    assert not any(grade.timed_out for grade in grades)


# ---------------------------------------------------------------------------------------- the user's mistakes


@pytest.mark.parametrize("name", ["requests", "rows", "cap", "repeats"])
def test_rollouts_refuses_a_size_of_zero(capsys, name):
    assert f"--{name} 0" in refusal(capsys, rollouts, **{name: 0})


@pytest.mark.parametrize("name, value", [("problems", 0), ("cap", 0), ("repeats", 0), ("group", 1)])
def test_step_refuses_a_size_that_cannot_work(capsys, name, value):
    assert f"--{name} {value}" in refusal(capsys, step, **{name: value})


@pytest.mark.parametrize("name, value", [("cap", -1), ("cards", []), ("cards", [0.0])])
def test_memory_refuses_a_size_that_cannot_work(capsys, name, value):
    assert f"--{name} {value}" in refusal(capsys, bench.memory, bench.Memory(**{name: value}))


def test_a_cap_beyond_the_context_is_refused(capsys):
    assert "context is 131072 tokens" in refusal(capsys, rollouts, cap=131072)


def test_unknown_names_are_answered_with_the_known_ones(capsys):
    assert "25M" in refusal(capsys, rollouts, model_size="26M")
    assert "vllm is unknown" in refusal(capsys, rollouts, only="ours,vllm")
    assert "ours, trl and both" in refusal(capsys, step, only="vllm")


@pytest.mark.parametrize("call", [rollouts, step, scale])
def test_cuda_asked_for_where_there_is_none_is_one_line(capsys, monkeypatch, call):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device here" in refusal(capsys, call, device="cuda")


def test_a_memory_limit_is_for_cuda_alone(capsys):
    assert "--limit_gb 24" in refusal(capsys, rollouts, limit_gb=24)


def test_missing_files_are_named(capsys, tmp_path):
    assert "model_outputs.jsonl is missing" in refusal(capsys, reward, data=str(tmp_path))


def test_on_a_card_a_step_takes_the_options_of_a_run(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_step, "pick_device", torch.device)
    cfg = bench_step.Config(device="cuda")
    ((name, options, half),) = bench_step.settings_of(cfg)
    assert (name, options.cap, options.lora_r, half) == ("r1_1.5b_24gb", 4000, 32, False)
    ((_, options, _),) = bench_step.settings_of(bench_step.Config(device="cuda", problems=5, cap=300))
    assert (options.problems_per_step, options.group, options.cap) == (5, 8, 300)
    cfg.run_config = str(tmp_path / "none.yaml")
    assert "none.yaml does not exist" in refusal(capsys, bench_step.settings_of, cfg)


def test_without_a_name_the_benches_are_listed(capsys):
    bench.main([])
    said = capsys.readouterr().out
    assert all(f"python dev/bench.py {name} " in said for name in bench.COMMANDS)


@pytest.mark.parametrize("words", [["speed"], ["rollouts", "--row", "3"], ["memory", "--config", "schedule.sh"]])
def test_a_command_line_that_cannot_be_read_is_one_line(words, warm_python):
    done = command(warm_python, *words)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
