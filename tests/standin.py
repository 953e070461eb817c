"""Random stand-ins for real models: small enough for a CPU test, with the real ones' traps.

    from standin import make_r1_standin, make_tiny
    make_r1_standin("out/r1_standin")      # then: python sample.py --model out/r1_standin ...

`make_r1_standin` behaves as deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B does wherever our code can trip:

- `pad_token` is the end token, so a mask made from `ids != pad` loses the end of every response;
- `tokenizer(text)` puts a begin token in front, which the chat template has written already;
- the chat template opens `<think>` in the prompt and drops earlier thinking from the history;
- `<think>`, `</think>`, `<｜User｜>`, `<｜Assistant｜>` are added but not special tokens: they survive
  `skip_special_tokens=True`, the begin and end tokens do not;
- the model has more rows of logits than the tokenizer has tokens, and an untied output layer;
- `config.json` and `generation_config.json` name different begin tokens;
- `tokenizer_config.json` says `LlamaTokenizerFast` over a byte-level `tokenizer.json`.

Weights are random: the text is noise, so rewards are 0 and only the plumbing can be tested. `let_it_answer` makes some
answers right, where a test needs a pass@1 above 0.
"""
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (AddedToken, GenerationConfig, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen2ForCausalLM)

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
# In the order of the original's ids (151643 on); True: special.
R1_TOKENS = [(EOS, True), ("<｜User｜>", False), ("<｜Assistant｜>", False), (BOS, True),
             ("<|EOT|>", False), ("<think>", False), ("</think>", False)]
R1_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for m in messages if m.role == 'system' %}{% set ns.system = m.content %}{% endfor -%}
{{- bos_token + ns.system -}}
{%- for m in messages -%}
{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content -}}
{%- elif m.role == 'assistant' -%}
{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' -}}{% endif -%}
"""
TINY_TEMPLATE = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{% endif -%}
"""
# What the tokenizers are trained on, with the problems below: the words of mathematics and of thinking aloud.
TEXT = """\
Let $m$ and $n$ be relatively prime positive integers. Find $m+n$.
Wait, let me double-check: $\\frac{3}{4} + \\sqrt{2} = 12$. Reason step by step. 0123456789 (x^2 + y_1) \\cdot \\pi
Therefore, the final answer is \\boxed{204}. Put the final answer in \\boxed{}. The output must stay within tokens.
A conversation between User and Assistant. The Assistant first thinks inside and then gives the answer.
Okay, so first we need to understand what the question asks. Maybe it helps to draw the triangle and name its corners.
Suppose the circle touches both lines; its centre lies on the bisector, so its distance from each equals the radius.
Hmm, that cannot be right, because the area would be negative. Going back, the sign of the second term was wrong.
Alternatively, count the arrangements directly: choose three of the eight colours, order them, and divide by symmetry.
By the theorem of Pythagoras the length of the diagonal is $\\sqrt{a^2+b^2}$, which we compare with the perimeter.
If the polynomial has integer coefficients, every rational root divides the constant term, so only few cases remain.
The probability that two dice show the same number equals $\\tfrac{1}{6}$, hence the expected value follows at once.
Each sequence starts with zero or one; a recursion with $a_{n+1} = 2a_n - 1$ gives a closed formula by induction.
Working modulo seven, the powers of three repeat with period six, thus the remainder depends on the exponent alone.
Substituting back and solving the system of equations yields $x = -5$ or $x = 11$, but only one value is positive.
Then simplify the expression, multiply numerator and denominator by the conjugate, and check the result once more.
""".splitlines()



def make_problems(n: int, first: int = 0) -> list[dict]:
    """n made-up contest problems (`id`, `problem`, `answer`), each a function of its number, counted from `first`.

    >>> make_problems(1, first=7)[0]["answer"], len({row["problem"] for row in make_problems(500)})
    ('75', 500)
    """
    rows = []
    for k in range(first, first + n):
        kinds = [
            (f"Mira walks {k + 3} steps north, then ${k + 4}$ steps east each minute for {k + 2} minutes. "
             "How many steps does she take in all?", k + 3 + (k + 4) * (k + 2)),
            (f"Let $a$ and $b$ be the roots of $x^2 - {2 * k + 7}x + {k + 5} = 0$. Find $a^2 + b^2$.",
             (2 * k + 7) ** 2 - 2 * (k + 5)),
            (f"Find the remainder when $2^{{{k + 10}}} + {k}$ is divided by ${k + 101}$.",
             (2 ** (k + 10) + k) % (k + 101)),
            (f"A committee of $2$ is chosen from {k + 6} teachers and {k + 4} students. "
             "In how many ways can it have one of each?", (k + 6) * (k + 4)),
            (f"The positive integers from ${k + 1}$ to ${3 * k + 9}$ are written on a board. What is their sum?",
             (2 * k + 9) * (2 * k + 5)),
        ]  # fmt: skip
        problem, answer = kinds[k % len(kinds)]
        rows.append({"id": f"made-{k}", "problem": problem, "answer": str(answer)})
    return rows


def byte_level_bpe(vocab: int) -> Tokenizer:
    """A byte-level BPE, as Qwen's, trained on problems of our own."""
    text = TEXT * 20 + [row["problem"] for row in make_problems(300)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return bpe


def save_model(folder, n_tokens: int, layers: int, hidden: int, **config) -> None:
    """A random Qwen2; every layer size and the vocabulary are divisible by 64 (4-bit blocks)."""
    config = Qwen2Config(
        # At least one row of logits belongs to no token, as in the original (151,936 > 151,665).
        vocab_size=64 * (n_tokens // 64 + 1), hidden_size=hidden, intermediate_size=2 * hidden,
        num_hidden_layers=layers, num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=1, **config)
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)


def make_r1_standin(folder, layers: int = 2, hidden: int = 128, vocab: int = 1000,
                    context: int = 131072) -> str:
    """Writes model and tokenizer to `folder` and returns its path.

    Args:
        layers: Decoder layers.
        hidden: Hidden size, a multiple of 64; from 128 on query heads share a key head.
        vocab: Tokens before the added ones.
        context: `max_position_embeddings`, in tokens.
    """
    assert hidden % 64 == 0, f"hidden {hidden} must be a multiple of 64"
    folder = Path(folder)
    bpe = byte_level_bpe(vocab)
    for token, special in R1_TOKENS:
        added = AddedToken(token, normalized=False, special=special)
        (bpe.add_special_tokens if special else bpe.add_tokens)([added])
    bos, eos = bpe.token_to_id(BOS), bpe.token_to_id(EOS)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS}:0 $A:0", pair=f"{BOS}:0 $A:0 {BOS}:1 $B:1", special_tokens=[(BOS, bos)])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=EOS,
        chat_template=R1_TEMPLATE, model_max_length=16384,
        clean_up_tokenization_spaces=False).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True,
               "add_eos_token": False, "legacy": True}
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    save_model(folder, bpe.get_vocab_size(), layers, hidden, max_position_embeddings=context,
               bos_token_id=eos, eos_token_id=eos, tie_word_embeddings=False)
    GenerationConfig(bos_token_id=bos, eos_token_id=eos, do_sample=True, temperature=0.6,
                     top_p=0.95).save_pretrained(folder)
    return str(folder)


def let_it_answer(folder, answer: str = "7", ends: int = 10) -> None:
    """Makes a stand-in right now and then, where the answer is this number: noise never holds a box.

    The rows of logits that had no token become tokens that close the thinking and box the answer, each with another
    number of zeros in front; all but two, as transformers adds a token by itself. And more tokens end a response, or
    random weights would run to every cap.
    """
    folder = Path(folder)
    tokenizer, model, generation = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("tokenizer.json", "config.json", "generation_config.json")
    )
    added = tokenizer["added_tokens"]
    plain = {key: False for key in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    for zeros, number in enumerate(range(added[-1]["id"] + 1, model["vocab_size"] - 2)):
        added.append({"id": number, "content": f"</think>\\boxed{{{'0' * zeros}{answer}}}"} | plain)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    generation["eos_token_id"] = [generation["eos_token_id"], *range(300, 300 + ends)]
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1))


def make_tiny(folder, layers: int = 1, hidden: int = 64, vocab: int = 320,
              context: int = 4096) -> str:
    """The opposite case: no begin token, pad differs from end, the template leaves `<think>` shut."""
    bpe = byte_level_bpe(vocab)
    bpe.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|pad|>",
        chat_template=TINY_TEMPLATE, clean_up_tokenization_spaces=False).save_pretrained(folder)
    save_model(folder, bpe.get_vocab_size(), layers, hidden, max_position_embeddings=context,
               bos_token_id=None, eos_token_id=bpe.token_to_id("<|im_end|>"),
               pad_token_id=bpe.token_to_id("<|pad|>"), tie_word_embeddings=True)
    return str(folder)


def with_lora(path, std: float = 0.1, seed: int = 0, load_4bit: bool = True, dtype: str = "auto",
              device: str = "cpu"):
    """(policy, tokenizer): the model with a LoRA that changes something (PEFT starts B at 0)."""
    from peft import LoraConfig, get_peft_model

    from engine.files import Options
    from engine.policy import load_policy

    torch.manual_seed(seed)
    base, tokenizer = load_policy(Options(model=str(path), load_4bit=load_4bit, dtype=dtype, device=device))
    policy = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    for name, p in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=std)
    return policy, tokenizer
