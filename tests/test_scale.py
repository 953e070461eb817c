"""The same prompts, rewards and cap on TRL and verl. Run: python -m pytest tests/test_scale.py

What needs TRL or verl skips where it is not installed (scale/README.md has the versions).
"""

import json
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import grpo
from conftest import ROOT, refusal
from engine.problems import load_problems
from engine.rewards import by_name
from engine.templates import check_template, load_tokenizer
from eval import grade
from length_rewards import REWARDS
from sample import Sampler, encode_prompts, prompt_texts
from scale import cost, export_data, pick, trl_prune, verl_keys
from scale.rewards import needs_group, rollout_of, score
from standin import let_it_answer, make_problems, make_r1_standin

CAP, GROUP = 24, 4
OPTIONS = {"dot": {"alpha": 1.0}}  # its default can cut nothing in a group of 4
SMALL = {"cap": CAP, "group": GROUP, "problems_per_step": 4, "checkpoint_every": 1, "lora_r": 4, "eval_cap": CAP}


def verl():
    return pytest.importorskip("verl", reason="verl is not installed: its half of scale/ is not checked")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A stand-in that ends at any of eleven tokens and pads with one of them; its problems, all with answer 7."""
    folder = tmp_path_factory.mktemp("scale")
    let_it_answer(make_r1_standin(folder / "model", context=4096))
    rows = [row | {"answer": "7", "ref_tokens": 20.0, "ref_accuracy": 0.5} for row in make_problems(8)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def options(kind, base, **more):
    return kind(**SMALL | {"model": str(base / "model"), "train_data": str(base / "problems.jsonl")} | more)


@pytest.fixture(scope="module")
def exported(base):
    export_data.main(options(export_data.Config, base, out=str(base / "data")))
    return base / "data"


# ---------------------------------------------------------------------------------------- the same prompts


@pytest.mark.parametrize("system_role", [True, False])
def test_trl_renders_the_prompt_that_the_builder_writes(base, system_role):
    tokenizer = load_tokenizer(str(base / "model"))
    if not system_role:
        tokenizer.chat_template = "{% for m in messages if m.role == 'user' %}<｜User｜>{{ m.content }}{% endfor %}"
    cfg = options(export_data.Config, base)
    check_template(tokenizer, cfg)
    problems = load_problems(cfg.train_data)
    ours, theirs = export_data.rows_of(tokenizer, problems, cfg, [1])
    prompts = [row["prompt"] for row in ours]
    ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert ids["input_ids"] == encode_prompts(tokenizer, [p["problem"] for p in problems], CAP, **prompt_texts(cfg))[1]
    assert prompts == [row["prompt"] for row in theirs]


def test_verls_data_set_reads_the_prompt_that_the_builder_writes(base, exported):
    verl()
    from omegaconf import OmegaConf
    from verl.utils import hf_tokenizer
    from verl.utils.dataset.rl_dataset import RLHFDataset

    tokenizer, cfg = hf_tokenizer(str(base / "model")), options(export_data.Config, base)
    config = OmegaConf.create({"max_prompt_length": 500, "cache_dir": str(base), "filter_overlong_prompts": False})
    data = RLHFDataset(str(exported / "train.parquet"), tokenizer, config)
    chats = [data[i]["raw_prompt"] for i in range(len(data))]
    ids = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    problems = load_problems(cfg.train_data)
    ours = load_tokenizer(cfg.model)
    assert ids == encode_prompts(ours, [p["problem"] for p in problems], CAP, **prompt_texts(cfg))[1]
    assert data[3]["extra_info"]["cap"] == CAP and data[3]["reward_model"]["ground_truth"] == "7"


# ---------------------------------------------------------------------------------------- the same rewards


def rollouts_for(tokenizer, ends: list[int]) -> list[list[int]]:
    """Response tokens of two groups: right, wrong, at each kind of end, cut after a right box, as long as the cap."""
    right, wrong = (tokenizer.encode(f"ab</think>\\boxed{{{x}}}", add_special_tokens=False) for x in (7, 8))
    filler = tokenizer.encode(" Wait" * CAP, add_special_tokens=False)
    full = filler[: CAP - len(right) - 1] + right
    first = [right + ends[:1], right + ends[-1:], wrong + ends[:1], right]
    return [*first, full + ends[-1:], filler[:1] + full, filler[:CAP], filler[:3] + ends[:1]]


def by_train_prune(tokenizer, ends, ids, rows, reward_of, group=GROUP):
    sampler = SimpleNamespace(ends=set(ends), tokenizer=tokenizer)
    rollouts = [Sampler.rollout(sampler, [], x, torch.zeros(len(x))) for x in ids]
    correct = [v.correct for v in grade(rollouts, [row["answer"] for row in rows], True)]
    groups = [slice(k, k + group) for k in range(0, len(ids), group)]
    return [r for g in groups for r in reward_of(rollouts[g], correct[g], CAP, rows[g.start])]


@pytest.fixture(scope="module")
def case(base, exported):
    """(tokenizer, end tokens, ids, rows): eight rollouts of two problems."""
    ends = json.loads((exported / "export.json").read_text())["end_ids"]
    tokenizer, rows = load_tokenizer(str(base / "model")), [json.loads(x) for x in open(exported / "train.jsonl")]
    assert len(ends) == 11 and tokenizer.pad_token_id in ends
    return tokenizer, ends, rollouts_for(tokenizer, ends), [rows[0]] * GROUP + [rows[1]] * GROUP


@pytest.mark.parametrize("name", REWARDS)
def test_trl_gives_the_rewards_of_train_prune(case, base, name):
    tokenizer, ends, ids, rows = case
    reward_of = by_name(REWARDS, name, OPTIONS.get(name, {}), rows, True)
    function = trl_prune.reward_function(options(trl_prune.Config, base, reward=name), tokenizer, ends, reward_of)
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    texts = ["lost"] * len(ids)
    given = function(prompts=texts, completions=texts, completion_ids=ids, trainer_state=None, log_extra=None,
                     log_metric=None, **columns)  # fmt: skip
    expected = by_train_prune(tokenizer, ends, ids, rows, reward_of)
    assert given == expected and len(set(expected)) > 1
    assert name != "thinkprune" or expected == [1, 1, 0, 0, 1, 0, 0, 0]


def test_a_reward_may_ask_for_the_tokens_after_something(case):
    def brief_end(correct, finished, n_tokens, cap, *, tokens_after) -> list[float]:
        return [right - after / cap for right, after in zip(correct, tokens_after("ab"))]

    tokenizer, ends, ids, rows = case
    reward_of = by_name({"brief_end": brief_end}, "brief_end", {}, rows, True)
    given, _ = score(ids, rows, tokenizer, ends, reward_of, CAP, GROUP)
    assert given == by_train_prune(tokenizer, ends, ids, rows, reward_of) and min(given) < 0
    assert not needs_group(reward_of, CAP, rows[0])


@pytest.mark.parametrize("after, left", [(" Wait", 1.0), ("", 0.0)])
def test_dot_cuts_and_grades_what_another_engine_sampled(case, after, left):
    tokenizer, ends, _, rows = case
    right, filler = (tokenizer.encode(x, add_special_tokens=False) for x in ("ab</think>\\boxed{7}", " Wait" * 250))
    ids = [right + ends[:1]] * 7 + [(right + filler if after else filler + right) + ends[:1]]
    reward_of = by_name(REWARDS, "dot", {}, rows, True)
    assert score(ids, [rows[0]] * 8, tokenizer, ends, reward_of, 2000, 8) == ([1.0] * 7 + [left], [True] * 8)


def manager(base):
    verl()
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import load_reward_manager
    from verl.utils import hf_tokenizer

    keys = {"reward.reward_manager.source": "importlib", "reward.reward_manager.name": "PruneRewardManager"}
    keys |= {"reward.reward_manager.module.path": str(ROOT / "scale/verl_reward.py")}
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", [f"{k}={v}" for k, v in keys.items()])
    return load_reward_manager(OmegaConf.create(OmegaConf.to_container(config, resolve=False)), hf_tokenizer(str(base)))


def by_verl(loaded, ids: list[int], info: dict, pad: int, width: int) -> float:
    """A rollout as verl's agent loop hands it over, its response padded to `width`."""
    import numpy as np
    from tensordict import TensorDict
    from verl import DataProto

    prompt, response = torch.tensor([[5, 6, 7]]), torch.tensor([ids + [pad] * (width - len(ids))])
    mask = torch.tensor([[1] * (3 + len(ids)) + [0] * (width - len(ids))])
    batch = TensorDict({"prompts": prompt, "responses": response, "attention_mask": mask}, batch_size=1)
    data = DataProto(batch, {"extra_info": np.array([info], dtype=object)})
    return loaded.loop.run_until_complete(loaded.run_single(data))


@pytest.mark.parametrize("name", REWARDS)
def test_verl_gives_the_rewards_of_train_prune_or_refuses(case, base, name):
    tokenizer, ends, ids, rows = case
    reward_of = by_name(REWARDS, name, OPTIONS.get(name, {}), rows, True)
    if needs_group(reward_of, CAP, rows[0]):
        pytest.skip(f"{name} compares the rollouts of a group: scale/verl_keys.py refuses it")
    loaded = manager(base / "model")
    info = {"end_ids": ends, "reward": name, "reward_options": "{}", "thinking": True}
    given = [by_verl(loaded, x, row | info, tokenizer.pad_token_id, CAP)["reward_score"] for x, row in zip(ids, rows)]
    assert given == by_train_prune(tokenizer, ends, ids, rows, reward_of, group=1)


def test_verl_gives_the_stored_rewards_of_200_rollouts_of_the_toy():
    verl()
    path = ROOT / "out/toy/base_test/rollouts.jsonl"
    if not path.is_file():
        pytest.skip("out/toy is not there: run bash schedule.sh first")
    rows = [json.loads(line) for line in path.read_text().splitlines()[:200]]
    loaded, end = manager(ROOT / "out/toy_base"), load_tokenizer(str(ROOT / "out/toy_base")).eos_token_id
    info = {"cap": 640, "end_ids": [end], "reward": "thinkprune", "reward_options": "{}", "thinking": True}
    for row in rows:
        # Encoded again, a sampled text may have a few tokens less than it was sampled with.
        ids = loaded.tokenizer.encode(row["response"], add_special_tokens=False) + [end] * row["finished"]
        given = by_verl(loaded, ids, info | {"id": row["id"], "answer": row["gold"]}, end, 700)
        assert given["reward_score"] == row["reward"]
    assert 0 < sum(row["reward"] for row in rows) < 200


def test_an_end_token_beyond_the_cap_is_no_end(case):
    tokenizer, ends, ids, _ = case
    assert [rollout_of(ids[4], tokenizer, ends, cap).finished for cap in (CAP, CAP - 1)] == [True, False]


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_that_is_said_to_need_no_group_is_the_same_alone(name):
    row, draw = {"ref_tokens": 50, "ref_accuracy": 0.5, "answer": "7"}, random.Random(name)
    reward_of = by_name(REWARDS, name, OPTIONS.get(name, {}), [row], True)
    if needs_group(reward_of, 100, row):
        return
    for _ in range(200):
        ids = [[draw.randrange(9)] * draw.randint(1, 100) for _ in range(GROUP)]
        rollouts = [SimpleNamespace(text="a</think>b", ids=x, finished=draw.random() < 0.7) for x in ids]
        correct = [rollout.finished and draw.random() < 0.5 for rollout in rollouts]
        alone = [reward_of([rollout], [c], 100, row)[0] for rollout, c in zip(rollouts, correct)]
        assert alone == reward_of(rollouts, correct, 100, row)


# ---------------------------------------------------------------------------------------- a round


def test_a_round_on_two_processes_of_trl_ends_in_a_selection(base, exported, tmp_path):
    pytest.importorskip("trl", reason="trl is not installed")
    shared = {"cap": CAP, "group": GROUP, "problems_per_step": 4, "steps": 2, "checkpoint_every": 1, "lora_r": 4,
              "lr": 0.01, "model": base / "model", "eval_cap": CAP, "reward": "kimi"}  # fmt: skip
    words = [f"--{key}={value}" for key, value in shared.items()]
    words += [f"--train_data={exported / 'train.jsonl'}", f"--out_dir={tmp_path / 'cap24.trl'}", "--micro_batch=4"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "scale.trl_prune", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "process 1 of 2" in done.stdout and "process 2 of 2" in done.stdout
    saved = load_file(tmp_path / "cap24.trl/checkpoint-2/adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    data, folder = str(base / "problems.jsonl"), str(tmp_path / "cap24")
    settings = {"steps": 2, "val_data": data, "eval_samples": 4, "reference_samples": 4, "confirm_samples": 0}
    settings |= {"reward": "kimi", "checkpoints": str(tmp_path / "cap24.trl"), "out_dir": folder}
    pick.main(options(pick.Config, base, **settings))
    selection = json.loads(Path(folder, "selection.json").read_text())
    assert [point["step"] for point in selection["checkpoints"]] == [1, 2]
    weights = [path.read_bytes() for path in Path(folder).glob("step000?/adapter_model.safetensors")]
    assert len(weights) == 2 and weights[0] != weights[1]


# ---------------------------------------------------------------------------------------- verl's options


def composed(keys: dict):
    verl()
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        words = [f"{k}={json.dumps(v) if isinstance(v, bool) else v}" for k, v in keys.items()]
        return compose("ppo_trainer", words)


OTHERS = {"template_options": {"enable_thinking": True}, "beta": 0.0, "updates_per_batch": 2, "advantage": "center"}


@pytest.mark.parametrize("more", [{}, OTHERS])
def test_verl_accepts_every_key_and_its_own_checks_pass(base, exported, more):
    config = composed(verl_keys.verl_keys(options(verl_keys.Config, base, data=str(exported), gpus=1, **more), 100, 8))
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    config.actor_rollout_ref.model.lora_rank = 0  # whether vLLM takes the rank can only be asked where vLLM is
    validate_config(config, need_reference_policy(config), need_critic(config))
    assert config.data.max_response_length == CAP and config.actor_rollout_ref.rollout.n == GROUP
    assert need_reference_policy(config) == (more.get("beta") != 0.0)


def test_verl_refuses_a_key_that_it_does_not_have():
    verl()
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException):
        composed({"actor_rollout_ref.rollout.naem": "vllm"})


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "module, given, said",
    [
        (export_data, {"reward": "kimmi"}, "--reward kimmi is unknown"),
        (export_data, {"train_data": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
        (export_data, {}, "exists; choose another folder"),
        (trl_prune, {"train_data": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
        (trl_prune, {"cap": 23}, "for a cap of 23"),
        (trl_prune, {"reward": "kimmi"}, "--reward kimmi is unknown"),
        (pick, {"checkpoints": "nowhere"}, "--checkpoints nowhere holds no adapter"),
        (verl_keys, {"data": "nowhere"}, "export.json cannot be read"),
        (verl_keys, {"cap": 23}, "was exported with cap 24, not 23"),
        (verl_keys, {"advantage": "batch"}, "take group or center, or TRL"),
        (verl_keys, {"keep_shortest": 2}, "--keep_shortest 2 is not handed to"),
        (trl_prune, {"resample_dead": 1}, "--resample_dead 1 is not handed to"),
        (trl_prune, {"sample_tokens": 9}, "--sample_tokens 9 is not handed to"),
        (trl_prune, {"reward": "dot"}, "--reward dot: alpha is 2.0: with 4 rollouts"),
        (verl_keys, {"problems_per_step": 9}, "exceeds the 8 problems"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(base, exported, capsys, module, given, said):
    usual = {export_data: {"out": str(base / "new" if given else exported)}, verl_keys: {"data": str(exported)}}
    usual |= {trl_prune: {"train_data": str(exported / "train.jsonl")}, pick: {}}
    cfg = options(module.Config, base, **usual[module] | given)
    assert said in refusal(capsys, lambda: module.main(cfg))


@pytest.mark.parametrize("module", [trl_prune, verl_keys])
def test_a_loss_of_ones_own_is_refused_as_the_engines_have_theirs(base, exported, capsys, monkeypatch, module):
    monkeypatch.setitem(grpo.LOSSES, "mine", grpo.policy_loss)
    more = {"train_data": str(exported / "train.jsonl")} if module is trl_prune else {"data": str(exported)}
    cfg = options(module.Config, base, loss="mine", **more)
    assert "which TRL and verl do not call" in refusal(capsys, lambda: module.main(cfg))


def test_what_a_reward_does_in_a_group_is_seen_where_only_an_outlier_shows_it():
    row = {"answer": "7"}
    need = [needs_group(by_name(REWARDS, name, {}, [row], True), 4000, row) for name in ("dot", "thinkprune")]
    assert need == [True, False]


def test_verl_refuses_a_reward_that_needs_the_group(base, tmp_path, capsys):
    export_data.main(options(export_data.Config, base, reward="kimi", out=str(tmp_path)))
    cfg = options(verl_keys.Config, base, reward="kimi", data=str(tmp_path))
    capsys.readouterr()
    assert "compares the rollouts of a group" in refusal(capsys, lambda: verl_keys.main(cfg))


def test_groups_that_processes_cannot_hold_whole_are_refused(base, capsys):
    pytest.importorskip("trl", reason="trl is not installed")
    cfg, state = options(trl_prune.Config, base), SimpleNamespace(num_processes=3, device=torch.device("cpu"))
    assert "no multiple of 3 processes" in refusal(capsys, lambda: trl_prune.grpo_config(cfg, state, [1]))


def test_the_costs_of_the_page_are_those_of_the_script(capsys):
    cost.main(cost.Config())
    assert capsys.readouterr().out in (ROOT / "docs/scale.md").read_text(encoding="utf-8")
