"""Chat templates of the kinds that public models have: one test a kind. Run: python -m pytest tests/test_templates.py"""
import csv
import doctest
import json
import shutil
import sys

import pytest
import yaml
from transformers import AutoTokenizer

import eval as evaluation
import sample
import train_prune
from conftest import ROOT, refusal
from engine import files, hub, templates
from engine.files import Options
from engine.policy import load_policy
from engine.templates import chat_text, check_template, load_tokenizer, turn_end
from sample import INSTRUCTION, SYSTEM, SYSTEM_PLAIN, build_prompt, encode_prompts, prompt_texts
from standin import R1_TEMPLATE, TINY_TEMPLATE, make_tiny

CHATML = TINY_TEMPLATE
QWEN3 = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' -}}{% endif -%}
{% endif -%}
"""
# A hybrid that answers at once unless it is told to think.
OFF_BY_DEFAULT = """\
{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' -}}{% endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + ('<think>' if thinking else '</think>') -}}{% endif -%}
"""
ALWAYS_OFF = CHATML.replace("assistant\\n'", "assistant\\n<think>\\n\\n</think>\\n\\n'")
GEMMA = """\
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif -%}
{%- for m in messages -%}
{{- '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' -}}
{{- m['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' -}}{% endif -%}
"""
MISTRAL = """\
{%- for m in messages -%}
{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' -}}
{%- else %}{{- m['content'] + eos_token -}}{% endif -%}
{%- endfor -%}
"""
DROPS_SYSTEM = """\
{%- for m in messages if m.role != 'system' -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{% endif -%}
"""
LLAMA3 = """\
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif -%}
{%- set system = messages[0]['content'] | trim if messages[0]['role'] == 'system' else '' -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system + '<|eot_id|>' -}}
{%- for m in messages if m['role'] != 'system' -%}
{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{% endif -%}
"""
TEXT_ONLY = """\
{%- for m in messages %}{{- m.role | upper + ': ' + m.content + '\\n###\\n' -}}{% endfor -%}
{%- if add_generation_prompt %}{{- 'ASSISTANT: ' -}}{% endif -%}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def every_note_anew():
    files.note.cache_clear()


@pytest.fixture
def model(tiny, tmp_path):
    """A function: the folder of a model with this template, these added tokens and this end token."""

    def make(template: str, *tokens: str, eos: str = "<|im_end|>") -> str:
        folder = tmp_path / "model"
        shutil.copytree(tiny, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
        tokenizer.eos_token = tokenizer.bos_token = eos
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        for name in ("config.json", "generation_config.json"):
            there = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(there | {"eos_token_id": tokenizer.eos_token_id}))
        return str(folder)

    return make


def opened(path: str, **options):
    """The tokenizer as `load_policy` has it."""
    options = Options(model=path, **options)
    tokenizer = load_tokenizer(path, options.template_options)
    check_template(tokenizer, options)
    return tokenizer


def test_doctests():
    assert sum(doctest.testmod(module).failed for module in (templates, hub)) == 0


# ---------------------------------------------------------------------------------------- thinking


def test_a_template_that_suits_says_nothing(model, capsys):
    path = model(CHATML)
    policy, tokenizer = load_policy(Options(model=path, load_4bit=False, device="cpu"))
    assert capsys.readouterr() == ("", "") and policy.generation_config.eos_token_id == tokenizer.eos_token_id


def test_qwen3_thinks_by_default_and_is_refused_where_it_is_switched_off(model, capsys):
    path = model(QWEN3)
    assert build_prompt(opened(path), "1 + 1?", 9).endswith("assistant\n") and not capsys.readouterr().err
    error = refusal(capsys, lambda: opened(path, template_options={"enable_thinking": False}))
    assert "ends in </think>" in error and """--template_options '{"enable_thinking": true}' or --thinking false""" in error


def test_qwen3_without_thinking_names_the_switch_and_obeys_it(model, capsys):
    path = model(QWEN3)
    opened(path, thinking=False)
    assert """--template_options '{"enable_thinking": false}' turns it off""" in capsys.readouterr().err
    tokenizer = opened(path, thinking=False, template_options={"enable_thinking": False})
    assert not capsys.readouterr().err and build_prompt(tokenizer, "1 + 1?", 9).endswith("<think>\n\n</think>\n\n")


def test_a_hybrid_that_does_not_think_by_default_is_refused_with_its_own_switch(model, capsys):
    path = model(OFF_BY_DEFAULT)
    error = refusal(capsys, lambda: opened(path))
    assert """take --template_options '{"thinking": true}' or --thinking false""" in error
    assert build_prompt(opened(path, template_options={"thinking": True}), "1 + 1?", 9).endswith("<think>")


def test_a_model_that_cannot_think_is_refused_without_a_switch_that_it_does_not_have(model, capsys):
    path = model(ALWAYS_OFF)
    error = refusal(capsys, lambda: load_policy(Options(model=path, load_4bit=False, device="cpu")))
    assert "take --thinking false" in error and "template_options" not in error
    opened(path, thinking=False)
    assert not capsys.readouterr().err


def test_r1_opens_the_thinking_which_is_worth_a_note_without_it(model, capsys):
    path = model(R1_TEMPLATE, "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>")
    tokenizer = opened(path)
    assert not capsys.readouterr().err and build_prompt(tokenizer, "1 + 1?", 9).endswith("<think>\n")
    assert tokenizer.convert_ids_to_tokens(turn_end(tokenizer)[0]) == "<｜end▁of▁sentence｜>"
    opened(path, thinking=False)
    assert "opens <think> although --thinking is false" in capsys.readouterr().err


def test_without_thinking_the_system_prompt_does_not_ask_for_it():
    assert prompt_texts(Options()) == {"system": SYSTEM, "instruction": INSTRUCTION}
    plain = prompt_texts(Options(thinking=False))["system"]
    assert plain == SYSTEM_PLAIN and "think" not in plain and "{cap}" in plain


# ---------------------------------------------------------------------------------------- the system role


@pytest.mark.parametrize(
    "template, opening",
    [(GEMMA, "<start_of_turn>user\n"), (MISTRAL, "[INST] "), (DROPS_SYSTEM, "<|im_start|>user\n")],
    ids=["refused (Gemma)", "roles alternate (Mistral)", "dropped without a word"],
)
def test_without_a_system_role_the_cap_stands_before_the_problem(model, capsys, template, opening):
    tokenizer = opened(model(template))
    assert "has no system role: the system text, with the cap, stands before the problem" in capsys.readouterr().err
    text = build_prompt(tokenizer, "1 + 1?", 1234)
    assert text.startswith(f"{opening}{SYSTEM.replace('{cap}', '1234')}\n\n1 + 1?\n{INSTRUCTION}")
    assert "1 + 1?" in chat_text(tokenizer, [{"role": "user", "content": "1 + 1?"}])  # a chat without one goes through


def test_a_template_that_drops_the_problem_is_refused(model, capsys):
    assert "does not write the user's message" in refusal(capsys, lambda: opened(model("{{ messages[0].role }}")))


def test_a_damaged_template_is_one_line(model, capsys):
    path = model("{% for m in messages %}{{ m.content }}")
    error = refusal(capsys, lambda: load_policy(Options(model=path, load_4bit=False, device="cpu")))
    assert "chat template is damaged" in error


# ---------------------------------------------------------------------------------------- the date


def test_a_template_with_todays_date_is_pinned(model, capsys):
    tokenizer = opened(model(LLAMA3, "<|eot_id|>", eos="<|eot_id|>"))
    assert "writes today's date: it is always 26 July 2024 here" in capsys.readouterr().err
    text = build_prompt(tokenizer, "1 + 1?", 9)
    assert "Today Date: 26 Jul 2024" in text and SYSTEM.replace("{cap}", "9") in text
    tokenizer.template_options = {"date_string": "1 Jan 2020"}
    assert "Today Date: 1 Jan 2020" in build_prompt(tokenizer, "1 + 1?", 9)


def test_a_date_that_is_given_is_no_news(model, capsys):
    opened(model(LLAMA3, "<|eot_id|>", eos="<|eot_id|>"), template_options={"date_string": "1 Jan 2020"})
    assert not capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the end of a turn


@pytest.mark.parametrize(
    "template, tokens, turn",
    [(CHATML, [], "<|im_end|>"), (GEMMA, ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>"), (LLAMA3, ["<|eot_id|>"], "<|eot_id|>")],
    ids=["chatml", "Gemma", "Llama 3"],
)
def test_an_end_token_that_is_not_the_end_of_a_turn(model, capsys, template, tokens, turn):
    path = model(template, "<|endoftext|>", *tokens, eos="<|endoftext|>")
    policy, tokenizer = load_policy(Options(model=path, load_4bit=False, device="cpu"))
    assert f"closes an answer with {turn}, not with <|endoftext|>: responses end at either" in capsys.readouterr().err
    ends = policy.generation_config.eos_token_id
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|endoftext|>", turn]
    assert sample.Sampler(policy, tokenizer, Options(rollout_weights="live")).ends == set(ends)


def test_several_end_tokens_of_the_generation_config_need_no_note(model, capsys):
    path = model(CHATML, "<|endoftext|>", eos="<|endoftext|>")
    tokenizer = AutoTokenizer.from_pretrained(path)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    file = f"{path}/generation_config.json"
    with open(file) as f:
        config = json.load(f)
    with open(file, "w") as f:
        json.dump(config | {"eos_token_id": ends}, f)
    policy, _ = load_policy(Options(model=path, load_4bit=False, device="cpu"))
    assert policy.generation_config.eos_token_id == ends and not capsys.readouterr().err


def test_a_turn_that_ends_in_plain_text_is_named(model, capsys):
    load_policy(Options(model=model(TEXT_ONLY), load_4bit=False, device="cpu"))
    assert "closes an answer with '###', which is no token: responses end at <|im_end|> only" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the words of the prompt


def test_only_the_cap_is_replaced(model):
    tokenizer = opened(model(CHATML))
    text = build_prompt(tokenizer, "Is {cap} in {1}?", 77, "In \\boxed{}, {cap} tokens at most.", "Use \\boxed{x} {cap}.")
    assert "system\nUse \\boxed{x} 77.<" in text and "Is {cap} in {1}?\nIn \\boxed{}, 77 tokens at most.<" in text
    assert "system" not in build_prompt(tokenizer, "1 + 1?", 77, "", "")


def test_a_prompt_without_the_cap_is_noted(model, capsys):
    encode_prompts(opened(model(CHATML)), ["1 + 1?"], 9, "Go.", "Be brief.")
    assert "the prompt does not name the cap: there is no {cap}" in capsys.readouterr().err


def test_the_prompts_words_and_template_options_are_stored_and_compared(model, tmp_path, capsys):
    data = tmp_path / "p.jsonl"
    data.write_text('{"id": "x", "problem": "1+1?", "answer": "2"}\n')
    cfg = evaluation.Config(
        model=model(QWEN3), data=str(data), eval_cap=8, eval_samples=1, thinking=False, system="Use \\boxed{} and {cap}.",
        template_options={"enable_thinking": False}, out_dir=str(tmp_path / "e"), device="cpu", load_4bit=False,
    )  # fmt: skip
    evaluation.main(cfg)
    result = json.loads((tmp_path / "e" / "eval.json").read_text())
    assert (result["system"], result["instruction"]) == ("Use \\boxed{} and {cap}.", INSTRUCTION)
    (row,) = map(json.loads, (tmp_path / "e" / "rollouts.jsonl").open(encoding="utf-8"))
    assert "Use \\boxed{} and 8." in row["prompt"] and row["prompt"].endswith("</think>\n\n")
    other = result | {"system": "?", "template_options": {}, "thinking": True}
    assert [line.split()[0] for line in evaluation.differences(result, other)] == ["system", "template_options", "thinking"]


def test_an_adapter_that_was_trained_with_another_prompt_is_noted(tmp_path, capsys):
    note = {"system": SYSTEM, "instruction": "Guess.", "template_options": {}, "thinking": True}
    (tmp_path / "nanoprune.json").write_text(json.dumps(note))
    sample.compare_prompt(Options(), str(tmp_path))
    error = capsys.readouterr().err.strip()
    assert "was trained with another instruction: 'Guess.' there" in error and len(error.splitlines()) == 1
    sample.compare_prompt(Options(instruction="Guess."), str(tmp_path))
    sample.compare_prompt(Options(), "")
    assert not capsys.readouterr().err


def test_an_edited_prompt_is_seen_when_a_round_is_resumed(model, tmp_path, monkeypatch, capsys):
    data = tmp_path / "p.jsonl"
    data.write_text('{"id": "x", "problem": "1+1?", "answer": "2"}\n{"id": "y", "problem": "1+2?", "answer": "3"}\n')
    cfg = train_prune.Config(
        model=model(CHATML), train_data=str(data), val_data=str(data), reward="repetition", cap=8, group=2, problems_per_step=1, steps=1,
        eval_cap=8, eval_samples=1, reference_samples=1, confirm_samples=1, lora_r=8, out_dir=str(tmp_path / "round"), device="cpu",
    )  # fmt: skip
    train_prune.main(cfg)
    assert yaml.safe_load((tmp_path / "round" / "config.yaml").read_text())["system"] == SYSTEM
    beside = json.loads((tmp_path / "round" / "step0001" / "nanoprune.json").read_text())
    assert (beside["system"], beside["instruction"], beside["template_options"]) == (SYSTEM, INSTRUCTION, {})
    (row,) = csv.DictReader((tmp_path / "round" / "log.csv").open())
    assert sum(float(row[name]) for name in ("correct", "over_cap", "no_think_end", "no_box", "wrong")) == pytest.approx(1)
    monkeypatch.setattr(sample, "INSTRUCTION", "Guess.")
    capsys.readouterr()
    error = refusal(capsys, lambda: train_prune.main(cfg))
    assert f"made with other options (instruction: {INSTRUCTION} there, Guess. now)" in error


def test_a_toy_that_was_taught_other_words_says_so(tmp_path, capsys):
    sys.path.insert(0, str(ROOT / "data"))
    import toy

    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": "another", **vars(toy.Config()), "prompt": ["old", "words"]}))
    error = refusal(capsys, lambda: toy.make(toy.Config(out_dir=str(tmp_path))))
    assert "the prompt in sample.py has changed" in error and "delete it or name another folder" in error


def test_a_model_of_the_hub_without_network_is_one_line(monkeypatch, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    hub.online.cache_clear()
    with pytest.raises(SystemExit) as stop:
        load_policy(Options(model="nobody/nothing-1B"))
    error = capfd.readouterr().err.strip()
    assert stop.value.code == 2 and len(error.splitlines()) == 1 and "the hub does not answer; name a model's folder" in error
    hub.online.cache_clear()
