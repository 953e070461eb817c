"""The merged model, the card beside it, and what cannot be exported. Run: python -m pytest tests/test_export.py"""

import doctest
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import export
from analysis import card
from conftest import refusal
from dev import small_weights
from engine.policy import fingerprint
from export import Config, main
from standin import let_it_answer, make_problems, make_r1_standin, make_tiny, with_lora


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A base whose weights are stored in bfloat16."""
    path = make_r1_standin(tmp_path_factory.mktemp("export") / "base", context=4096)
    let_it_answer(path)
    AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def run(model):
    """A run's folder with an adapter and the figures of its test."""
    folder = Path(model).parent / "run"
    policy, _ = with_lora(model, std=0.05)
    policy.save_pretrained(folder / "final")
    data = folder / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in make_problems(3)))
    made = {"base_fingerprint": fingerprint(policy), "system": "Use {cap} tokens.", "instruction": "Box it."}
    (folder / "final/nanoprune.json").write_text(json.dumps(made))
    figures = {"pass@1": 0.5, "pass@1_se": 0.1, "mean_tokens": 321.0, "data": str(data), "prompt_cap": 40, "cap": 50,
               "temperature": 0.7, "top_p": 0.9, "n_problems": 3, "n_samples": 4, "adapter": "moved/final"}  # fmt: skip
    summary = {"base": figures | {"mean_tokens": 654.0}, "final": figures, "rounds": [{"cap": 60}, {"cap": 40}]}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def config(run, out="merged", **more) -> Config:
    adapter = str(more.pop("adapter", run / "final"))
    return Config(model=str(run.parent / "base"), adapter=adapter, out=str(run / out), device="cpu", **more)


@pytest.fixture(scope="module")
def merged(run):
    """The run, exported once."""
    main(config(run))
    return run / "merged"


@pytest.mark.parametrize("module", [export, card])
def test_doctests(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def changes(run, name: str) -> torch.Tensor:
    """(out, in) float32 product of a layer's two LoRA matrices, with its factor."""
    lora = load_file(run / "final/adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
    return b @ a * json.loads((run / "final/adapter_config.json").read_text())["lora_alpha"] / a.shape[0]


def test_live_merged_and_exported_weights_are_compared_on_the_rollouts_of_a_file(run, tmp_path):
    row = {"prompt": "<｜User｜>1 + 1?<｜Assistant｜><think>\n", "response": "Wait, two.\n</think>\n\n", "finished": True}
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row | {"finished": k < 2}) + "\n" for k in range(4)))
    cfg = small_weights.Config(model=str(run.parent / "base"), adapter=str(run / "final"), device="cpu", fresh=2,
                               rollouts=str(tmp_path / "rollouts.jsonl"), dtype="float32")  # fmt: skip
    live, rollouts, rows = small_weights.measure(cfg)
    assert [len(r.ids) - len(rollouts[3].ids) for r in rollouts] == [1, 1, 0, 0] and len(live) == sum(len(r.ids) for r in rollouts)
    gap = {row[0]: float(row[2]) for row in rows}
    assert gap["live, merged"] < 1e-5 and gap["sampler, trainer"] < 1e-5 and gap["live, exported"] > 1e-3
    assert gap["merged, exported"] == pytest.approx(gap["live, exported"], rel=0.1)


LAYER = "model.layers.0.mlp.up_proj"


def test_every_weight_is_the_stored_one_plus_the_lora_rounded_once(run, merged):
    before, after = (load_file(path / "model.safetensors") for path in (run.parent / "base", merged))
    assert before.keys() == after.keys()
    layers = {name for name in before if name.endswith("proj.weight")}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - layers) and layers
    for name in layers:
        exact = before[name].float() + changes(run, name.removesuffix(".weight"))
        assert before[name].dtype == torch.bfloat16
        assert torch.equal(after[name], exact.bfloat16())


def test_keep_top_and_scale_add_the_largest_changes_alone(run):
    policy, _ = with_lora(run.parent / "base", std=0.05, load_4bit=False)
    layer = policy.get_submodule(f"base_model.model.{LAYER}")
    base, whole = layer.base_layer.weight.clone(), layer.get_delta_weight("default")
    moved = export.merge(policy, keep_top=0.25, scale=0.7).get_submodule(LAYER).weight - base
    kept = moved.abs() > 1e-7
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(moved[kept], 0.7 * whole[kept], rtol=1e-3, atol=1e-6)
    assert whole[kept].abs().min() >= whole[~kept].abs().max()


def test_the_snippet_of_the_card_gives_the_measured_greedy_answer(merged, capsys):
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (merged / "README.md").read_text(), re.M)
    code = next(block for block in blocks if "AutoModelForCausalLM" in block)
    answer = blocks[blocks.index(code) + 1]
    exec(re.sub(r"^    ", "", code, flags=re.M), {})
    said = "\n".join(f"    {line}".rstrip() for line in capsys.readouterr().out.splitlines())
    assert answer.strip() and said.strip().startswith(answer.strip())


def test_the_card_says_what_the_model_is(run, merged):
    text = (merged / "README.md").read_text()
    for fact in ("60 > 40", "| base with the adapter | 321 | 50.0 +- 10.0 |", "    Use 40 tokens.", "    Box it.",
                 "temperature 0.7", f'base_model: "{run.parent}/base"', "KL "):  # fmt: skip
        assert fact in text, fact


def test_the_sampling_of_the_test_is_that_of_the_folder(merged):
    found = json.loads((merged / "generation_config.json").read_text())
    assert (found["temperature"], found["top_p"], found["do_sample"]) == (0.7, 0.9, True)


def test_the_card_ends_in_a_command_that_tests_it_as_the_run_was_tested(merged):
    command = (merged / "README.md").read_text().split()
    for word in ("--load_4bit=false", "--prompt_cap=40", "--eval_cap=50", "--eval_temperature=0.7", "--eval_samples=4"):
        assert word in command


def test_a_model_that_is_far_from_the_trained_one_is_warned_of(run, capsys):
    main(config(run, "far/", scale=300, max_problems=1, warn_kl=0.01))
    assert "warning: a KL above 0.01" in capsys.readouterr().out
    shutil.rmtree(run / "far")


def test_an_adapter_without_a_test_is_exported_without_figures(run, capsys):
    alone = shutil.copytree(run / "final", run / "alone/final")
    main(config(run, "bare", adapter=alone, data=str(run / "test.jsonl"), cap=9, max_problems=1))
    assert "there are no test figures" in (run / "bare/README.md").read_text()
    shutil.rmtree(run / "bare")


def test_the_kl_to_itself_is_zero_and_each_way_counts():
    logp = torch.tensor([-1.0, -2.0])
    assert card.kl(logp, logp) == (0, 0)
    assert min(card.kl(logp, logp + d)[0] for d in (-0.1, 0.1)) > 0


# ---------------------------------------------------------------------------------------- what stops


def spoilt(run, name: str, **change) -> Path:
    """A copy of the adapter with a file's fields changed."""
    folder = Path(shutil.copytree(run / "final", run / f"spoilt_{len(list(run.glob('spoilt_*')))}"))
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


@pytest.mark.parametrize(
    "options, words",
    [
        ({"out": ""}, "--out"),
        ({"out": "final"}, "exists"),
        ({"keep_top": 0.0}, "--keep_top"),
        ({"keep_top": 1.5}, "--keep_top"),
        ({"scale": -0.5}, "--scale"),
        ({"scale": float("nan")}, "--scale"),
        ({"adapter": "none"}, "adapter folder none does not exist"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_loaded(run, options, words, monkeypatch, capsys):
    monkeypatch.setattr(export, "load_policy", None)
    cfg = config(run, **{"out": "new"} | options)
    if not options.get("out", "new"):
        cfg.out = ""
    assert words in refusal(capsys, lambda: main(cfg)) and not (run / "new").exists()


@pytest.mark.parametrize(
    "file, change, words",
    [
        ("nanoprune.json", {"base": "other", "base_fingerprint": "0" * 16}, "was trained on other"),
        ("adapter_config.json", {"peft_type": "IA3"}, "of the kind IA3"),
        ("adapter_config.json", {"use_dora": True}, "does not fit"),
        ("adapter_config.json", {"bias": "all"}, "has bias"),
    ],
)
def test_an_adapter_that_is_not_this_models_lora_is_refused(run, file, change, words, capsys):
    cfg = config(run, "new", adapter=spoilt(run, file, **change), data=str(run / "test.jsonl"), cap=40)
    assert words in refusal(capsys, lambda: main(cfg))
    assert not list(run.glob("new*"))


def test_what_a_merge_would_lose_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(export, "inexact_copy", lambda policy: "use_dora")
    assert "(use_dora)" in refusal(capsys, lambda: main(config(run, "new")))
    assert not list(run.glob("new*"))


def test_a_lora_on_an_embedding_that_is_the_output_layer_is_refused(tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "base"))
    get_peft_model(base, LoraConfig(target_modules=["embed_tokens"])).save_pretrained(
        tmp_path / "run/final", save_embedding_layers=False
    )
    (tmp_path / "run/p.jsonl").write_text(json.dumps(make_problems(1)[0]))
    cfg = config(tmp_path / "run", data=str(tmp_path / "run/p.jsonl"), cap=9, thinking=False)
    assert "output layer" in refusal(capsys, lambda: main(cfg))


@pytest.mark.parametrize("place", ["elsewhere/step0008", "other"])
def test_without_a_summary_of_this_adapter_problems_and_cap_must_be_given(run, place, capsys):
    lonely = shutil.copytree(run / "final", run / place)
    assert "give --data FILE and --cap N" in refusal(capsys, lambda: main(config(run, "new", adapter=lonely)))


def test_a_disk_without_room_is_found_before_writing(run, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "make room" in refusal(capsys, lambda: main(config(run, "new")))
    assert not list(run.glob("new*"))


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_export_that_is_cut_off_leaves_nothing(run, monkeypatch, capsys, stop):
    def halfway(cfg, folder, *_):
        (folder / "model.safetensors").write_text("half")
        raise stop

    monkeypatch.setattr(export, "write_model", halfway)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as error:
        main(config(run, "new"))
    assert isinstance(stop, KeyboardInterrupt) or error.value.code == 2
    assert not list(run.glob("new*"))
