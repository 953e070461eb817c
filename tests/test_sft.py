"""Supervised fine-tuning: gradient, which answers are kept, files, resume. Run: python -m pytest tests/test_sft.py"""
import csv
import dataclasses
import doctest
import hashlib
import json
import os
import shutil
import signal
from collections import Counter

import pytest
import torch

import export
import sft
import train_prune
from conftest import ROOT, refusal
from engine import answers, checkpoints, policy
from engine.answers import Answer, kept, load_answers, read_answers, shortest, split
from engine.files import EvalOptions, parse
from engine.policy import open_model
from engine.problems import load_problems
from sample import Sampler, build_prompt, encode_prompts, prompt_texts, rollout_rows
from sft import Config, add_loss
from standin import make_r1_standin, make_tiny, with_lora


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=512)


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answer_rows(n=12):
    """An answer each, in words that differ in length; every third is wrong."""
    right = lambda i: i + 1 if i % 3 else i  # noqa: E731
    return [{"problem": f"What is {i} + 1?", "answer": str(i + 1), "response": f"<think>\n{i} and 1. {'Wait. ' * i}</think>\\boxed{{{right(i)}}}"}
            for i in range(n)]


def options_in(folder, r1):
    """Of a run in seconds."""
    held = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in (41, 42, 43)]
    files = {"val_data": write(folder / "val.jsonl", held), "test_data": write(folder / "test.jsonl", held[2:])}
    files |= {"data": write(folder / "answers.jsonl", answer_rows()), "out_dir": str(folder / "run")}
    size = {"max_tokens": 400, "eval_cap": 24, "eval_samples": 1, "batch": 3, "epochs": 2, "lora_r": 8}
    return Config(model=r1, **files, **size, lr=1e-3, val_share=0.2, checkpoint_every=2, device="cpu")


@pytest.fixture
def cfg(r1, tmp_path):
    return options_in(tmp_path, r1)


def loaded(cfg):
    return load_answers(cfg, *open_model(cfg))


# ---------------------------------------------------------------------------------------- the loss


def test_doctests():
    assert doctest.testmod(sft).failed == doctest.testmod(answers).failed == 0


BATCH = [Answer("a", [5, 6, 7], [8, 9, 10, 11]), Answer("b", [12], [13]), Answer("c", [14] * 9, [15, 16])]


def gradient(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_response_tokens_alone_however_the_batch_is_split(r1):
    model, _ = with_lora(r1, std=0.05)
    total, n_tokens = 0.0, sum(len(answer.ids) for answer in BATCH)
    for answer in BATCH:  # by hand: one at a time, log-probs of a plain forward, each response token by its index
        ids = torch.tensor([answer.prompt_ids + answer.ids])
        logp = model(input_ids=ids).logits.float().log_softmax(-1)[0]
        first = len(answer.prompt_ids)
        total = total - sum(logp[t - 1, ids[0, t]] for t in range(first, answer.length)) / n_tokens
    model.zero_grad(set_to_none=True)
    total.backward()
    wanted = gradient(model)
    for tokens in (1, 1000):
        assert add_loss(model, BATCH, Config(head_chunk=2), tokens)["loss"] == pytest.approx(total.item(), rel=1e-5)
        for name, ours in gradient(model).items():
            assert torch.allclose(ours, wanted[name], atol=1e-6), name


def test_no_gradient_is_left_by_the_validation_loss(r1):
    model, _ = with_lora(r1)
    with torch.no_grad():
        add_loss(model, BATCH, Config(), 1000)
    assert gradient(model) == {}


# ---------------------------------------------------------------------------------------- what is learnt


def row(problem="p", response="r", correct=True, finished=True):
    return {"problem": problem, "response": response, "correct": correct, "finished": finished, "gold": "1"}


def test_keep_by_hand():
    rows = [row(response="one two"), row(response="one"), row(response="bad", correct=False), row(response="one"), row(response="cut", finished=False),
            row("q", "one")]  # fmt: skip
    out = Counter()
    assert kept(rows, "right", True, out) == [rows[0], rows[1], rows[5]] and out == {"wrong": 1, "doubled": 1, "cut off": 1}
    assert kept(rows, "all", True, Counter()) == [rows[0], rows[1], rows[2], rows[4], rows[5]]
    assert kept([row(response=" \n"), row()], "all", True, out := Counter()) == [row()] and out == {"empty": 1}
    a, b, c = Answer("p", [], [1, 2]), Answer("p", [], [3]), Answer("p", [], [4])
    assert shortest([a, b, c]) == [b]  # of equals the first


def test_a_row_without_a_verdict_is_graded_as_rollouts_are(cfg):
    train, val, lines = loaded(cfg)
    assert len(train) + len(val) == 8 and "left out of 12: 4 wrong" in lines


def test_prompt_and_response_are_the_tokens_of_the_sampler_with_the_thought_that_a_template_would_drop(cfg):
    tokenizer, _ = open_model(cfg)
    train, _, _ = loaded(dataclasses.replace(cfg, val_share=0.0))
    i = 1  # the first right row
    prompt = build_prompt(tokenizer, f"What is {i} + 1?", cfg.eval_cap, **prompt_texts(cfg))
    assert tokenizer.decode(train[0].prompt_ids) == prompt and prompt.endswith("<think>\n")
    text = answer_rows()[i]["response"].removeprefix("<think>\n")  # the prompt has opened it
    assert tokenizer.decode(train[0].ids) == text + tokenizer.eos_token
    assert train[0].ids[-1] == tokenizer.eos_token_id


def test_a_rollout_file_gives_back_the_tokens_that_were_sampled(cfg, tmp_path):
    model, tokenizer = policy.load_policy(EvalOptions(model=cfg.model, device="cpu"))
    problems = load_problems(cfg.data)
    texts, prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], cfg.eval_cap, **prompt_texts(cfg))
    rollouts = Sampler(model.train(), tokenizer, EvalOptions(rollout_weights="live")).sample(prompts, 1, cap=[3, 9, 30] * 4, seed=1)
    rows = [r | {"response_ids": rollout.ids} for r, rollout in zip(rollout_rows(problems, texts, rollouts), rollouts)]
    cfg = dataclasses.replace(cfg, keep="all", val_share=0.0, data=write(tmp_path / "rollouts.jsonl", rows))
    assert [(a.prompt_ids, a.ids) for a in loaded(cfg)[0]] == [(r.prompt_ids, r.ids) for r in rollouts]


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
PUBLIC = {  # one row with the published columns of each
    "s1K-1.1": ({"solution": "2", "question": "1 + 1?", "cot_type": "math", "source_type": "x", "metadata": "{}", "gemini_thinking_trajectory": "g",
                 "gemini_attempt": "G", "deepseek_thinking_trajectory": "t", "deepseek_attempt": "A", "deepseek_grade": "Yes"},
                {"response_key": "deepseek_attempt", "thinking_key": "deepseek_thinking_trajectory"}, ["<think>\nt\n</think>\n\nA"]),
    "OpenR1-Math": ({"problem": "1 + 1?", "solution": "s", "answer": "2", "uuid": "u", "is_reasoning_complete": [True, False],
                     "generations": ["<think>\nx\n</think>\n\n2", "<think>\ny"], "correctness_math_verify": [True, False], "messages": CHAT[1:]},
                    {"response_key": "generations"}, ["<think>\nx\n</think>\n\n2", "<think>\ny"]),
    "Sky-T1": ({"system": "s", "conversations": [
                    {"from": "user", "value": "1 + 1?"},
                    {"from": "assistant", "value": "<|begin_of_thought|>\n\nt\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n2\n\n<|end_of_solution|>"}]},
               {}, ["<think>\n\nt\n\n</think>\n\n\n\n2\n\n"]),
    "problems in a column prompt": ({"prompt": "1 + 1?", "response": "2"}, {}, ["2"]),
    "chat": ({"messages": CHAT}, {}, ["2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_sets_are_read_by_their_columns(name, tmp_path):
    made, options, responses = PUBLIC[name]
    rows = read_answers(write(tmp_path / "set.jsonl", [made]), Config(**options))
    assert [(r["problem"], r["response"]) for r in rows] == [("1 + 1?", text) for text in responses]
    assert [r["finished"] for r in rows] == made.get("is_reasoning_complete", [True])
    assert rows[0]["gold"] == made.get("answer", "") and "prompt" not in rows[0]


def test_files_are_joined_and_what_is_left_out_is_counted(cfg, tmp_path):
    more = write(tmp_path / "more.jsonl", [answer_rows()[1], {"problem": "q", "answer": "1", "response": "word " * 500 + "</think>\\boxed{1}"}])
    train, val, lines = loaded(dataclasses.replace(cfg, data=f"{cfg.data}, {more}"))
    assert len(train) + len(val) == 8 and "left out of 14: 4 wrong, 1 doubled, 1 over --max_tokens 400" in lines


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("no, yes", [(False, True), ("False", "True"), ("false", "TRUE"), (0, 1), ("0.0", "1.0"), ("No", "yes")])
def test_verdicts_are_believed_as_they_are_written(cfg, tmp_path, ending, no, yes):
    right, wrong, cut = ({**answer_rows()[1], "response": f"{k}</think>\\boxed{{2}}"} for k in range(3))
    rows = [right | {"correct": yes, "finished": yes}, wrong | {"correct": no, "finished": yes}, cut | {"correct": yes, "finished": no}]
    path = tmp_path / f"set.{ending}"
    write(path, rows)
    if ending == "csv":
        with open(path, "w", newline="") as f:
            table = csv.DictWriter(f, rows[0])
            table.writeheader()
            table.writerows(rows)
    rows = read_answers(str(path), cfg)
    assert [(r["correct"], r["finished"]) for r in rows] == [(True, True), (False, True), (True, False)]
    assert kept(rows, "right", True, out := Counter()) == rows[:1] and out == {"wrong": 1, "cut off": 1}


def test_a_verdict_that_is_not_asked_for_may_say_what_it_likes(tmp_path, cfg):
    write(path := tmp_path / "set.jsonl", [r | {"correct": "so so"} for r in answer_rows()])
    assert len(read_answers(str(path), dataclasses.replace(cfg, keep="all"))) == 12


def test_each_of_several_responses_has_its_own_verdict(tmp_path):
    one = {"problem": "p", "response": ["a", "b", "c"], "correct": [True, False], "finished": [False, True]}
    rows = read_answers(write(tmp_path / "set.jsonl", [one]), Config())
    assert [(r["correct"], r["finished"]) for r in rows] == [(True, False), (False, True), (None, True)]


def test_one_problem_at_least_is_left_to_learn_from():
    for n in (1, 2, 3):
        train, val = split([Answer(str(i), [], [i]) for i in range(n)], 0.9, seed=0)
        assert len(train) == 1 and len(val) == n - 1


def test_the_validation_loss_is_of_other_problems():
    made = [Answer(str(i % 10), [], [i]) for i in range(30)]
    train, val = split(made, 0.2, seed=0)
    assert len(val) == 6 and not {a.problem for a in train} & {a.problem for a in val} and len(train) == 24


def test_problems_of_the_test_are_refused_or_left_out_where_that_is_asked_for(cfg, tmp_path, capsys):
    leak = [{"problem": "what is  $43+43$ ?", "answer": "86", "response": "</think>\\boxed{86}"}]
    cfg = dataclasses.replace(cfg, data=f"{cfg.data},{write(tmp_path / 'leak.jsonl', leak)}")
    assert "holds answers 1 to problems of " + cfg.test_data in refusal(capsys, lambda: loaded(cfg))
    assert f"1 in {cfg.test_data}" in loaded(dataclasses.replace(cfg, drop_held_out=True))[2][1]


# ---------------------------------------------------------------------------------------- bad input


def bare(rows):
    return [{key: value for key, value in r.items() if key != "answer"} for r in rows]


BAD = {  # rows, options, what the line says
    "nothing right": ([r | {"answer": "-1"} for r in answer_rows()], {}, "none of 12 answers is left with --keep right (12 wrong)"),
    "nothing to grade with": (bare(answer_rows()), {}, "neither a verdict"),
    "another prompt": ([r | {"prompt": "Hello: " + r["problem"]} for r in answer_rows()], {}, "another prompt, 'Hello: What"),
    "another tokenizer": ([r | {"n_tokens": 900} for r in answer_rows()], {}, "drop the columns prompt and n_tokens"),
    "tokens of another tokenizer": ([r | {"response_ids": [5, 6]} for r in answer_rows()], {}, "response_ids"),
    "all too long": (answer_rows(), {"max_tokens": 20}, "over --max_tokens 20"),
    "beyond the context": (answer_rows(), {"max_tokens": 600}, "--max_tokens 600 exceeds the model's context of 512"),
    "no such column": (answer_rows(), {"response_key": "solution"}, "no column 'solution'"),
    "no thought": (answer_rows(), {"thinking_key": "thought"}, "row 1 has no text in one of problem, response, thought"),
    "no response": ([*answer_rows(), {"problem": "p", "response": None}], {}, "row 13 has no text"),
    "no problem": ([*answer_rows(), {"problem": " ", "response": "r"}], {}, "row 13 has no text"),
    "a verdict in other words": ([r | {"correct": "so so"} for r in answer_rows()], {}, "row 1: correct is 'so so', which is none of true"),
    "no file": (None, {}, "answers.jsonl does not exist"),
    "no batch": (answer_rows(), {"batch": 0}, "--batch 0"),
    "a warm-up of everything": (answer_rows(), {"warmup": 1.0}, "--warmup"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(cfg, tmp_path, capsys, name):
    rows, options, words = BAD[name]
    write(tmp_path / "answers.jsonl", rows) if rows else os.remove(tmp_path / "answers.jsonl")
    before = sorted(tmp_path.iterdir())
    assert words in refusal(capsys, lambda: sft.main(dataclasses.replace(cfg, **options)))
    assert sorted(tmp_path.iterdir()) == before


# ---------------------------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def whole(r1, tmp_path_factory):
    """(options, folder) of an unbroken run of 4 steps, with checkpoints after 2 and 4."""
    folder = tmp_path_factory.mktemp("whole")
    cfg = options_in(folder, r1)
    sft.main(cfg)
    return cfg, folder / "run"


def adapter_hash(folder):
    return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def timeless_log(folder):
    with open(folder / "log.csv", newline="") as f:
        return [{key: value for key, value in row.items() if not key.endswith("_s")} for row in csv.DictReader(f)]


def same_run(folder, whole):
    assert adapter_hash(folder / "final") == adapter_hash(whole[1] / "final")
    assert timeless_log(folder) == timeless_log(whole[1])


def broken(cfg, monkeypatch, module, name, number, do):
    """Runs until the call of that number of `module.name`, before which `do()` comes; returns the exit status."""
    function, calls = getattr(module, name), []

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) == number:
            do()
        return function(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, call)
        with pytest.raises((SystemExit, KeyboardInterrupt)) as stop:
            sft.main(cfg)
    return stop.value


def test_a_run_writes_what_the_other_scripts_take(whole, capsys):
    cfg, folder = whole
    rows = timeless_log(folder)
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"] and all(r["val_tokens"] for r in rows[1::2])
    assert list(rows[0]) == ["step", "loss", "grad", "lr", "tokens", "val_loss", "val_pass@1", "val_tokens"]
    assert float(rows[3]["loss"]) < float(rows[0]["loss"])
    assert (folder / "selected").read_text().strip() == str(folder / "final")
    assert "cap" not in json.loads((folder / "final" / "nanoprune.json").read_text())
    assert parse(Config, args=["--config", str(folder / "config.yaml")]) == dataclasses.replace(cfg, **prompt_texts(cfg))
    sft.main(cfg)
    assert "is done" in capsys.readouterr().out
    policy.load_policy(EvalOptions(model=cfg.model, device="cpu"), str(folder / "final"))  # as eval.py and sample.py do


def test_a_round_starts_from_the_adapter(whole, tmp_path):
    cfg, folder = whole
    size = {"group": 2, "problems_per_step": 2, "steps": 1, "checkpoint_every": 1, "reference_samples": 1, "confirm_samples": 0}
    same = {key: getattr(cfg, key) for key in ("model", "val_data", "test_data", "eval_cap", "eval_samples", "device", "lora_r")}
    reward = {"reward": "repetition", "reward_options": {"size": 1, "penalty": 1.0}}
    out = {"init_adapter": str(folder / "final"), "out_dir": str(tmp_path / "round"), "train_data": cfg.val_data}
    train_prune.main(train_prune.Config(**same, **size, **reward, **out, cap=16))
    assert (tmp_path / "round" / "done").is_file()


def test_the_adapter_is_exported(whole, tmp_path):
    cfg, folder = whole
    export.main(export.Config(model=cfg.model, adapter=str(folder / "final"), out=str(tmp_path / "merged"), data=cfg.val_data, cap=16, device="cpu"))
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_a_killed_run_resumes_to_the_same_bytes(whole, tmp_path, monkeypatch):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "run")), tmp_path / "run"

    def kill():
        raise KeyboardInterrupt  # not through our handler: nothing is saved on the way out

    assert isinstance(broken(cfg, monkeypatch, sft, "in_pieces", 5, kill), KeyboardInterrupt)
    assert checkpoints.newest(folder) == (folder / "step0002", 2)
    sft.main(cfg)
    same_run(folder, whole)


def test_a_run_does_not_go_on_with_another_test_whose_problems_it_might_have_learnt(whole, tmp_path, capsys):
    shutil.copytree(whole[1], tmp_path / "run")
    other = write(tmp_path / "test.jsonl", [{"problem": "What is 50 + 50?", "answer": "100"}])
    cfg = dataclasses.replace(whole[0], out_dir=str(tmp_path / "run"), test_data=other)
    assert "test_data" in refusal(capsys, lambda: sft.main(cfg))


@pytest.mark.parametrize("name, number, step", [("in_pieces", 2, 1), ("evaluate", 1, 2)])
def test_a_signal_saves_the_step_and_the_same_command_ends_in_the_same_bytes(whole, tmp_path, monkeypatch, name, number, step):
    cfg, folder = dataclasses.replace(whole[0], out_dir=str(tmp_path / "run")), tmp_path / "run"
    stop = broken(cfg, monkeypatch, sft, name, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.code == 143 and checkpoints.newest(folder) == (folder / "last", step)
    sft.main(cfg)
    same_run(folder, whole)


def test_memory_that_runs_out_gives_the_same_adapter_in_smaller_pieces(whole, tmp_path, monkeypatch, capsys):
    cfg, real, calls = dataclasses.replace(whole[0], out_dir=str(tmp_path / "run")), sft.token_logp, []

    def small(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    monkeypatch.setattr(sft, "token_logp", small)
    sft.main(cfg)
    assert "trying again with --tokens_per_micro_batch" in capsys.readouterr().out
    assert [float(r["loss"]) for r in timeless_log(tmp_path / "run")] == pytest.approx([float(r["loss"]) for r in timeless_log(whole[1])], rel=1e-4)


def test_an_adapter_of_another_base_is_refused(whole, cfg, tmp_path, capsys):
    other = dataclasses.replace(cfg, model=make_tiny(tmp_path / "tiny"), init_adapter=str(whole[1] / "final"))
    with pytest.raises(SystemExit) as stop:
        sft.main(other)
    assert stop.value.code == 2 and "whose weights are not those of --model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_config_of_the_toy_loads():
    cfg = parse(Config, args=["--config", str(ROOT / "config/toy_sft.yaml")])
    assert cfg.test_data and cfg.keep == "shortest"
