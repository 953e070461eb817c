"""Five edits that researchers make, each in one place: what it should change changes, and the unit tests stay green.

    OMP_NUM_THREADS=1 python -m pytest -q tests/test_edits.py
"""

import ast
import csv
import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import ROOT
from standin import let_it_answer, make_problems, make_r1_standin

REWARD = "length_rewards.py", (
    "REWARDS: dict[str, Callable] = {f.__name__: f for f in (\n",
    '''def brief_end(correct, finished, n_tokens, cap, *, tokens_after, weight: float = 0.5) -> list[float]:
    """Correctness minus ``weight`` times the tokens after the first box, as a share of the cap."""
    return [right - weight * after / cap for right, after in zip(correct, tokens_after("\\\\boxed{"), strict=True)]


REWARDS: dict[str, Callable] = {f.__name__: f for f in (
    brief_end,
''',
)
ADVANTAGE = "grpo.py", (
    'Advantage = Literal["group", "batch", "center"]',
    'Advantage = Literal["group", "batch", "center", "rank"]',
    '    if scale == "batch":\n',
    """    if scale == "rank":  # by how many of the group a rollout beats, less those that beat it
        return (rewards[:, :, None] - rewards[:, None]).sign().mean(dim=2)
    if scale == "batch":
""",
)
LOSS = "grpo.py", (
    "LOSSES: dict[str, Callable] = {f.__name__: f for f in (policy_loss,)}",
    '''def sequence_loss(logp, old_logp, sampler_logp, ref_logp, adv, lengths, n_tokens, cfg, seen=None):
    """GSPO, arXiv:2507.18071: one ratio for each sequence, from its mean log-ratio, and a mean over sequences."""
    ratio = torch.cat([part.mean().expand(len(part)) for part in (logp - old_logp).split(lengths)]).exp()    # (N,)
    gain = torch.minimum(ratio * adv, ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * adv)                # (N,)
    n_sequences = cfg.problems_per_step * cfg.group / cfg.updates_per_batch
    loss = -sum(part.mean() for part in gain.split(lengths)) / n_sequences
    return loss, (seen or {}) | {"ratio": ratio, "logp_gap": (old_logp - sampler_logp).abs()}


LOSSES: dict[str, Callable] = {f.__name__: f for f in (policy_loss, sequence_loss)}''',
)
PROMPT = "sample.py", (
    '    "and then gives the answer. The whole output must stay within {cap} tokens."\n',
    '    "and then gives the answer. Be brief: it has {cap} tokens."\n',
)
ENTROPY = "grpo.py", (
    '    """\n    return {}\n',
    '    """\n    logp = logits.detach().log_softmax(-1)\n    return {"entropy": -(logp.exp() * logp).sum(-1)}\n',
)
EDITS = {"reward": REWARD, "advantage": ADVANTAGE, "loss": LOSS, "prompt": PROMPT, "entropy": ENTROPY}


def apply(root, file: str, words: tuple[str, ...]) -> None:
    """Replaces texts in a copy of the repository: old, new, old, new, ... Each old one must stand there once."""
    text = (root / file).read_text(encoding="utf-8")
    for old, new in zip(words[::2], words[1::2], strict=True):
        assert text.count(old) == 1, f"{file}: the edit's place has changed: {old}"
        text = text.replace(old, new)
    (root / file).write_text(text, encoding="utf-8")


def copy_to(root):
    return shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("out", ".*", "__pycache__"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edits")
    make_r1_standin(folder / "model", layers=1, hidden=64)
    let_it_answer(folder / "model")
    for name, rows in ("train", make_problems(8)), ("val", make_problems(1)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row | {"answer": "7"}) + "\n" for row in rows))
    return folder


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """Applies an edit to a copy of the repository; returns a module of that copy by its name."""
    root = copy_to(tmp_path / "copy")
    ours = {path.stem for path in ROOT.glob("*.py")} | {"engine"}
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in ours}
    monkeypatch.syspath_prepend(root)

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] in ours]:
            del sys.modules[name]

    def load(edit, name: str):
        apply(root, *edit)
        forget()
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        assert module.__file__ == str(root / f"{name}.py")
        return module

    yield load
    forget()
    sys.modules.update(kept)


def two_steps(edited, edit, model, out, *options) -> tuple[list[dict], set[str]]:
    """Rows of log.csv after two steps with the edit, as numbers, and the names in TensorBoard."""
    train = edited(edit, "train_prune")
    words = f"--model {model}/model --train_data {model}/train.jsonl --val_data {model}/val.jsonl --out_dir {out} "
    words += "--cap 24 --eval_cap 24 --group 4 --problems_per_step 2 --steps 2 --eval_samples 1 --confirm_samples 0 "
    words += "--reference_samples 4 --checkpoint_every 2 --lr 1e-2 --beta 0 --lora_r 4 --device cpu "
    words += "" if "--reward" in options else '--reward repetition --reward_options {"size":1}'
    parse = importlib.import_module("engine.files").parse
    train.main(parse(train.Config, args=[*words.split(), *options]))
    board = EventAccumulator(str(out / "tensorboard")).Reload()
    rows = csv.DictReader((out / "log.csv").read_text().splitlines())
    return [{k: float(v) for k, v in row.items() if v} for row in rows], set(board.Tags()["scalars"])


def test_a_reward_that_charges_for_tokens_after_the_first_box(edited, model, tmp_path):
    rows, _ = two_steps(edited, REWARD, model, tmp_path / "run", "--reward", "brief_end")
    assert all(row["correct"] - 0.5 < row["reward"] < row["correct"] for row in rows)


def test_an_advantage_by_rank(edited, model, tmp_path):
    rows, _ = two_steps(edited, ADVANTAGE, model, tmp_path / "run", "--advantage", "rank")
    assert all(row["grad"] > 0 for row in rows)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["advantage"] == "rank"
    advantages = sys.modules["grpo"].advantages
    assert advantages(torch.tensor([[3.0, 9.0, 3.0, 1.0], [1.0] * 4]), "rank").tolist() == [[0, 0.75, 0, -0.75], [0] * 4]


def test_a_loss_of_sequences(edited, model, tmp_path):
    rows, board = two_steps(edited, LOSS, model, tmp_path / "run", "--loss", "sequence_loss", "--passes", "2")
    assert all(row["ratio"] != 1 and row["grad"] > 0 and "clipped" not in row for row in rows) and "ratio" in board
    logp, old = torch.tensor([0.5, 0.9, 0.1]).log(), torch.tensor([0.5, 0.3, 0.3]).log()  # ratios 1, then 3 and 1/3
    cfg = sys.modules["train_prune"].Config(problems_per_step=1, group=2)
    loss, figures = sys.modules["grpo"].LOSSES["sequence_loss"](logp, old, old, None, torch.tensor([2.0, 1.0, 1.0]), [1, 2], 3, cfg)
    assert figures["ratio"].tolist() == pytest.approx([1, 1, 1]) and loss.item() == pytest.approx(-(2 + 1) / 2)


def test_another_prompt(edited, model, tmp_path):
    two_steps(edited, PROMPT, model, tmp_path / "run")
    seen = json.loads((tmp_path / "run/step0002/nanoprune.json").read_text())["system"]
    assert seen.endswith("Be brief: it has {cap} tokens.") and seen == sys.modules["sample"].SYSTEM


def test_the_entropy_in_log_table_and_tensorboard(edited, model, tmp_path):
    rows, board = two_steps(edited, ENTROPY, model, tmp_path / "run")
    vocabulary = json.loads((model / "model/config.json").read_text())["vocab_size"]
    assert all(0.9 * math.log(vocabulary) < row["entropy"] < math.log(vocabulary) for row in rows) and "entropy" in board


def test_the_unit_tests_stay_green_with_all_five(tmp_path):
    root = copy_to(tmp_path / "copy")
    for edit in EDITS.values():
        apply(root, *edit)
    words = ["length_rewards or readme and not command or by_hand or kl_ or reinforce or splitting or mini_batches"]
    words[0] += " or names_the_cap or writes_its_files or todays_date or opens_the_thinking"
    words += [f"tests/test_{name}.py" for name in ("length_rewards", "readme", "train", "sample", "eval", "templates")]
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", *words]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize("what, edit", [("another reward", REWARD), ("another advantage", ADVANTAGE), ("another loss, clip or KL", LOSS),
                                        ("another prompt", PROMPT), ("a new column and curve", ENTROPY)])  # fmt: skip
def test_the_readme_names_the_edit_s_place_which_has_at_most_40_lines(what, edit):
    file, words = edit
    text = (ROOT / file).read_text(encoding="utf-8")
    row = re.search(rf"^\| {what} \| .*`{file}`: (.*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)[1]
    parts = {}
    for node in ast.parse(text).body:
        name = getattr(node, "name", None) or getattr(getattr(node, "targets", [getattr(node, "target", None)])[0], "id", None)
        parts[name] = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno]) + "\n"
    places = ["".join(parts.get(name, "") for name in re.findall(r"`(\w+)`", place)) for place in row.split(";")]
    assert any(all(old in place for old in words[::2]) and place.count("\n") <= 40 for place in places)
