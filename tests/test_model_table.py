"""The models that people own, as random stand-ins: same attention, RoPE, tying, template and special tokens.

    python -m pytest tests/test_model_table.py

Templates are our own words for what the public ones do with a system text, a problem, an answer and its thought.
"""
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import reward
import train_prune
from conftest import ROOT
from dev import model_table
from dev.model_table import MODELS, config_of
from engine import memory
from engine.files import note, parse
from engine.policy import load_policy
from engine.slots import can_unroll
from engine.supported import longest_exact
from engine.templates import render
from sample import SYSTEM_PLAIN, Sampler, build_prompt, prompt_texts
from standin import R1_TEMPLATE, TINY_TEMPLATE, make_tiny
from test_models import make_model, options_of, outcome

QWEN3 = """\
{%- set ns = namespace(user=0) -%}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.user = loop.index0 %}{% endif %}{% endfor -%}
{%- for m in messages -%}
{%- set text = m.content.split('</think>')[-1] if m.role == 'assistant' and loop.index0 < ns.user else m.content -%}
{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' -}}{% endif -%}
{% endif -%}
"""
QWEN3_2507 = re.sub(r"\{%- if enable_thinking.*", "{{- '<think>\\\\n' -}}", QWEN3)
SMOLLM3 = """\
{%- set mode = '/think' if enable_thinking is not defined or enable_thinking else '/no_think' -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nToday Date: ' + strftime_now('%d %B %Y') + '\\nReasoning Mode: ' + mode -}}
{{- '\\n\\n## Custom Instructions\\n\\n' -}}
{%- if messages[0].role == 'system' %}{{- messages[0].content.replace('/no_think', '') -}}{% endif -%}
{{- '<|im_end|>\\n' -}}
{%- for m in messages if m.role != 'system' -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' + ('' if mode == '/think' else '<think>\\n\\n</think>\\n') -}}
{%- endif -%}
"""
PHI4 = """\
{{- '<|system|>Your name is Phi.' -}}
{%- for m in messages if m.role == 'system' %}{{- ' ' + m.content -}}{% endfor -%}
{{- '<|end|>' -}}
{%- for m in messages if m.role != 'system' %}{{- '<|' + m.role + '|>' + m.content + '<|end|>' -}}{% endfor -%}
{{- '<|assistant|>' if add_generation_prompt else eos_token -}}
"""
R1_0528 = R1_TEMPLATE.replace("<think>\\n", "")
# name: (template, the tokenizer's end token, more special tokens, plain tokens); the rest are as R1-Distill-Qwen-1.5B.
THINK, IM = ["<think>", "</think>"], ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
R1 = (R1_TEMPLATE, "<｜end▁of▁sentence｜>", ["<｜begin▁of▁sentence｜>"], ["<｜User｜>", "<｜Assistant｜>", *THINK])
PUBLIC = dict.fromkeys(MODELS, R1) | {
    "r1_8b": (R1_0528, *R1[1:]),
    **dict.fromkeys(("qwen3_0.6b", "qwen3_1.7b", "qwen3_4b"), (QWEN3, "<|im_end|>", IM, THINK)),
    "qwen3_4b_2507": (QWEN3_2507, "<|im_end|>", IM, THINK),
    "openmath": (TINY_TEMPLATE, "<|im_end|>", IM, []),
    "smollm3": (SMOLLM3, "<|im_end|>", IM, THINK),
    "phi4_mini": (PHI4, "<|endoftext|>", ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], []),
}  # fmt: skip
# Published numbers of weights in billions (model cards).
BILLIONS = {"r1_1.5b": 1.78, "r1_7b": 7.62, "r1_8b": 8.19, "qwen3_0.6b": 0.6, "qwen3_1.7b": 1.72, "qwen3_4b": 4.02}
BILLIONS |= {"openmath": 1.54, "smollm3": 3.08, "phi4_mini": 3.84}


def small(name: str) -> dict:
    """What stays of the real config in a stand-in: all but sizes."""
    more = dict(MODELS[name].more)
    if "head_dim" in more:
        more["head_dim"] = 32  # not hidden_size / heads, as in the real ones
    if name == "phi4_mini":
        more["rope_parameters"] = more["rope_parameters"] | {"short_factor": [1.0] * 6, "long_factor": [32.0] * 6}
    return more | ({"num_hidden_layers": 4} if name == "smollm3" else {})  # the fourth has no RoPE, as every fourth


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


def alike(name: str) -> str:
    """What a stand-in is made of and what is expected of it: models that share it are tested once."""
    entry = dataclasses.replace(MODELS[name], hub="", sizes=(), start="", more=small(name))
    return repr((entry, PUBLIC[name]))


@pytest.fixture(scope="module", params={alike(name): name for name in reversed(MODELS)}.values())
def model(request, tiny, tmp_path_factory):
    """(its entry in the table, the folder of its stand-in)."""
    name, (template, eos, special, plain) = request.param, PUBLIC[request.param]
    folder = make_model(tmp_path_factory.mktemp("model") / name, tiny, MODELS[name].kind, small(name))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [eos, *special]})
    tokenizer.add_tokens(plain)
    tokenizer.eos_token, tokenizer.chat_template = eos, template
    tokenizer.bos_token = special[0] if template in (R1_TEMPLATE, R1_0528) else None
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids([*MODELS[name].ends])
    (Path(folder) / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return MODELS[name], folder


@pytest.fixture
def loaded(model, capsys):
    """(entry, policy, tokenizer, what was said on stderr)."""
    note.cache_clear()
    policy, tokenizer = load_policy(options_of(model[1]))
    return model[0], policy, tokenizer, capsys.readouterr().err


# ---------------------------------------------------------------------------------------- on stand-ins


def test_it_is_decoded_as_the_table_says_and_as_its_own_forward(model):
    entry, folder = model
    gap, line = outcome(options_of(folder), lora=True)
    assert gap < 1e-4 and not line.startswith("error"), (gap, line)
    assert can_unroll(load_policy(options_of(folder))[0]) == entry.unrolled


def test_its_prompt_opens_the_thinking_or_leaves_it_to_the_model(loaded):
    entry, _, tokenizer, said = loaded
    text = build_prompt(tokenizer, "1 + 1?", 1234, system="Within {cap} tokens.")
    assert text.rstrip().endswith("<think>") == entry.opens and "</think>" not in text
    assert "Within 1234 tokens." in text and "1 + 1?" in text
    assert ("today's date" in said) == entry.date and said.count("\n") == entry.date


def test_without_thinking_its_prompt_does_not_ask_for_it_and_its_switch_is_named(model, capsys):
    entry, folder = model
    note.cache_clear()
    load_policy(options_of(folder, thinking=False))
    assert ("a switch for thinking, which is on" in capsys.readouterr().err) == entry.switch
    off = {"template_options": {"enable_thinking": False}} if entry.switch else {}
    options = options_of(folder, thinking=False, **off)
    text = build_prompt(load_policy(options)[1], "1 + 1?", 1234, **prompt_texts(options))
    assert SYSTEM_PLAIN.replace("{cap}", "1234") in text and "thinks inside" not in text
    assert text.rstrip().endswith("<think>\n\n</think>") == entry.switch


def test_it_treats_an_earlier_thought_as_the_table_says(loaded):
    entry, _, tokenizer, _ = loaded
    answer = {"role": "assistant", "content": "<think>\nwhy zq1\n</think>\n\nIt is 2."}
    chat = [{"role": "user", "content": "1 + 1?"}, answer]
    last, earlier = ("zq1" in render(tokenizer, c) for c in (chat, [*chat, {"role": "user", "content": "And 3?"}]))
    words = {(True, True): "kept", (True, False): model_table.EARLIER, (False, False): "deleted"}
    assert words[last, earlier] == entry.thought


def test_its_responses_end_where_the_table_says(loaded):
    entry, policy, tokenizer, _ = loaded
    ends = Sampler(policy, tokenizer, options_of("x", rollout_weights="live")).ends
    assert ends == set(tokenizer.convert_tokens_to_ids([*entry.ends])) and None not in ends


def test_its_thinking_is_recognised_by_the_grader(loaded):
    entry, policy, tokenizer, _ = loaded
    sampler = Sampler(policy, tokenizer, options_of("x", rollout_weights="live"))
    begin = "" if entry.opens else "<think>\n"
    for text, answer in ((f"{begin}\\boxed{{1}}\n</think>\n\n\\boxed{{7}}", "7"), (f"{begin}So \\boxed{{7}}", None)):
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, max(sampler.ends)]
        rollout = sampler.rollout([], ids, torch.zeros(len(ids)))
        (grade,) = reward.grade([rollout.text], ["7"])
        assert rollout.finished and (grade.answer, grade.correct) == (answer, answer == "7"), rollout.text


# ---------------------------------------------------------------------------------------- the real shapes


def test_the_tables_of_the_page_are_what_the_command_prints():
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    does, fits = "\n".join(model_table.tables()).strip().split("\n\n")
    assert does in page and fits in page


@pytest.mark.parametrize("name", BILLIONS)
def test_shapes_add_up_to_the_published_number_of_weights(name):
    n = memory.count(config_of(MODELS[name]))
    assert (n["linear"] + n["other"]) / 1e9 == pytest.approx(BILLIONS[name], abs=0.006)


def test_phi_is_limited_to_its_short_factors():
    assert longest_exact(config_of(MODELS["phi4_mini"])) == (4096, "short length (longrope)")


@pytest.mark.parametrize("name", MODELS)
def test_the_config_to_begin_with_fits_the_card_in_its_name(name):
    shape, differs = config_of(MODELS[name]), dict(re.findall(r"`(\w+): ([^`]+)`", MODELS[name].start))
    for path in re.findall(r"config/\S+\.yaml", MODELS[name].start):
        words = [word for key, value in differs.items() for word in (f"--{key}", value)]
        cfg = parse(train_prune.Config, args=["--config", str(ROOT / path), *words])
        cards = memory.CONTEXT, int(re.search(r"(\d+)gb", path)[1]) * 10**9
        for cap in map(int, cfg.caps.split()):
            cfg = dataclasses.replace(cfg, cap=cap, dtype="bfloat16", init_adapter="the round before")
            p = memory.plan(shape, cfg, cards[1] - cards[0])
            assert p.fits and p.rows >= model_table.GROUP, p.line()
        assert cfg.eval_cap + memory.PROMPT <= longest_exact(shape)[0]
        assert memory.plan(shape, cfg, cards[1] - cards[0], cfg.eval_cap + memory.PROMPT, top_p=cfg.eval_top_p).rows
