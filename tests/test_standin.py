"""The stand-in must have the original's traps, or the end-to-end test proves nothing.

    python -m pytest tests/test_standin.py
"""
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
from reward import is_correct
from standin import byte_level_bpe, let_it_answer, make_problems, make_r1_standin, make_tiny

HISTORY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"},
           {"role": "assistant", "content": "<think>\nhm, 2</think>\n\nIt is 2."},
           {"role": "user", "content": "2+2?"}]


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    folder = make_r1_standin(tmp_path_factory.mktemp("models") / "r1")
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


def test_r1_template_opens_thinking_and_drops_it_from_the_history(r1):
    text = r1[0].apply_chat_template(HISTORY, tokenize=False, add_generation_prompt=True)
    assert text == ("<｜begin▁of▁sentence｜>Be brief.<｜User｜>1+1?<｜Assistant｜>\n\nIt is 2."
                    "<｜end▁of▁sentence｜><｜User｜>2+2?<｜Assistant｜><think>\n")


def test_r1_text_of_a_template_must_be_encoded_without_special_tokens(r1):
    tokenizer = r1[0]
    text = tokenizer.apply_chat_template(HISTORY[:2], tokenize=False, add_generation_prompt=True)
    count = lambda ids: ids.count(tokenizer.bos_token_id)
    assert count(tokenizer(text).input_ids) == 2                       # the trap
    assert count(tokenizer(text, add_special_tokens=False).input_ids) == 1
    assert tokenizer(text, add_special_tokens=False).input_ids == tokenizer.apply_chat_template(
        HISTORY[:2], add_generation_prompt=True)["input_ids"]


def test_r1_pad_is_the_end_token_and_thinking_marks_survive_decoding(r1):
    tokenizer = r1[0]
    assert tokenizer.pad_token == tokenizer.eos_token == "<｜end▁of▁sentence｜>"
    text = "<think>\nLet $x^2 = 16$,  那么\n</think>\n\n\\boxed{4}"
    ids = tokenizer(text).input_ids + [tokenizer.eos_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for mark in ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>"):
        assert len(tokenizer(mark, add_special_tokens=False).input_ids) == 1


def test_r1_model_fits_4bit_blocks_and_has_more_logits_than_tokens(r1):
    tokenizer, model = r1
    assert model.config.vocab_size > len(tokenizer)
    assert all(n % 64 == 0 for p in model.parameters() for n in p.shape)
    sampling = model.generation_config
    assert (sampling.temperature, sampling.top_p) == (0.6, 0.95)
    assert sampling.eos_token_id == tokenizer.eos_token_id
    assert sampling.bos_token_id == tokenizer.bos_token_id != model.config.bos_token_id
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer("1+1?").input_ids])).logits
    assert logits.isfinite().all()


def test_r1_is_the_same_model_every_time_and_leaves_the_random_state_alone(r1, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    again = AutoModelForCausalLM.from_pretrained(make_r1_standin(tmp_path / "again"))
    assert torch.rand(1) == expected
    assert torch.equal(again.lm_head.weight, r1[1].lm_head.weight)


def test_tiny_is_the_opposite_case(tmp_path):
    folder = make_tiny(tmp_path / "tiny")
    tokenizer, model = (c.from_pretrained(folder) for c in (AutoTokenizer, AutoModelForCausalLM))
    assert tokenizer.bos_token is None and tokenizer.pad_token_id != tokenizer.eos_token_id
    text = tokenizer.apply_chat_template(HISTORY[:2], tokenize=False, add_generation_prompt=True)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
                    "<|im_start|>assistant\n")
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("a\n <think> b").input_ids) == "a\n <think> b"
    assert "LlamaTokenizerFast" not in json.dumps(tokenizer.init_kwargs, default=str)


def test_made_up_problems_are_all_different_and_have_the_answers_that_they_ask_for():
    rows = make_problems(40)
    assert len({row["problem"] for row in rows}) == len({row["id"] for row in rows}) == 40
    assert make_problems(3, first=7) == rows[7:10]
    for k, row in enumerate(rows[4::5]):
        low, high = (int(word.strip("$")) for word in row["problem"].split() if word[0] == "$")
        assert sum(range(low, high + 1)) == int(row["answer"]), k
    for row in rows[2::5]:
        power, plus, by = (int(word) for word in re.findall(r"\d+", row["problem"].replace("2^", "")))
        assert pow(2, power, by) == (int(row["answer"]) - plus) % by


def test_a_tokenizer_is_the_same_on_every_machine_and_knows_whole_words():
    assert byte_level_bpe(400).to_str() == byte_level_bpe(400).to_str()
    assert len(byte_level_bpe(1000).encode("Therefore, the final answer is \\boxed{204}.").tokens) < 20


def test_a_stand_in_can_be_let_to_answer(tmp_path):
    folder = make_r1_standin(tmp_path / "lucky", vocab=400)
    let_it_answer(folder, "12", ends=3)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = [tokenizer.decode(range(i, i + 1)) for i in range(400, len(tokenizer))]
    boxes = [text for text in texts if "boxed" in text]
    assert len(set(boxes)) >= 20 and all(is_correct("hm" + text, "12") for text in boxes)
    assert len(tokenizer) < model.config.vocab_size and len(model.generation_config.eos_token_id) == 4
