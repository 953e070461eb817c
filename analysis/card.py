"""README.md of an exported model: what it is, how far it is from the policy that was trained, the prompt it needs."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import torch

from engine.files import Options
from engine.logits import token_logp
from engine.policy import load_policy
from engine.run_folder import head_line
from eval import grade
from sample import Rollout, Sampler, build_prompt, encode_prompts, prompt_texts

SNIPPET = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="{dtype}")
prompt = {prompt!r}
problem = {problem!r}
ids = tokenizer(prompt.replace("PROBLEM", problem), add_special_tokens=False, return_tensors="pt")
answer = model.generate(**ids, max_new_tokens={cap}, do_sample=False)[0, ids.input_ids.shape[1] :]
print(tokenizer.decode(answer))
"""


# ---------------------------------------------------------------------------------------- how far it is


def k3(logp: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(N,) estimates of the KL at each token, in nats, from (N,) log-probs of tokens that the first model drew.

    Source: the estimator k3 of Schulman, "Approximating KL divergence"; grpo.py logs the same.
    """
    apart = other - logp                                                         # (N,)
    return apart.clamp(-20, 20).exp() - apart - 1


def kl(logp: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """(KL per token in nats, largest gap of a log-prob) from two models' (N,) log-probs of tokens that the first drew.

    >>> [round(x, 4) for x in kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.5, 0.25]).log())]
    [0.0966, 0.6931]
    """
    return k3(logp, other).mean().item(), (other - logp).abs().max().item()


@torch.no_grad()
def rollout_logp(policy, rollouts: list[Rollout]) -> torch.Tensor:
    """(tokens of all responses,) log-probs at temperature 1, from the policy's live weights."""
    parts, device = [], next(policy.parameters()).device
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.ids], device=device)    # (1, T)
        mask = torch.arange(ids.shape[1], device=device)[None] >= len(rollout.prompt_ids)
        parts.append(token_logp(policy, ids, mask, 1.0, 512).float().cpu())
    return torch.cat(parts)


def measure(cfg, folder: Path, problems: list[dict]) -> dict:
    """The trained policy against the merged model as it was written: the card's figures and its example."""
    cap, (policy, tokenizer) = cfg.cap, load_policy(cfg, cfg.adapter)
    words, texts = prompt_texts(cfg), [p["problem"] for p in problems]
    _, prompts = encode_prompts(tokenizer, texts, cap, **words)
    sampler = Sampler(policy, tokenizer, cfg)
    rollouts = sampler.sample(prompts, cap=cap, seed=cfg.seed, label="rollouts")
    logp, greedy = rollout_logp(policy, rollouts), [sampler.sample(prompts, cap=cap, temperature=0, label="greedy")]
    del policy, sampler  # a 7B model does not fit twice
    policy, tokenizer = load_policy(dataclasses.replace(cfg, model=str(folder), load_4bit=False))
    apart, gap = kl(logp, rollout_logp(policy, rollouts))
    greedy.append(Sampler(policy, tokenizer, cfg).sample(prompts, cap=cap, temperature=0, label="greedy, merged"))
    before, after = (grade(answers, [p["answer"] for p in problems], cfg.thinking) for answers in greedy)
    same = [a.ids == b.ids for a, b in zip(*greedy)]
    boxed = [s or a.answer is not None and a.answer == b.answer for s, a, b in zip(same, before, after)]
    return {name: text.replace("{cap}", str(cap)) for name, text in words.items()} | {
        "kl": apart, "gap": gap, "tokens": len(logp), "n": len(problems), "same": sum(same), "boxed": sum(boxed),
        "right": [sum(verdict.correct for verdict in verdicts) for verdicts in (before, after)],
        "length": [sum(len(answer.ids) for answer in answers) / len(answers) for answers in greedy],
        "prompt": build_prompt(tokenizer, "PROBLEM", cap, **words), "problem": texts[0], "answer": greedy[1][0].text,
        "dtype": str(policy.dtype).removeprefix("torch."), "versions": head_line(policy.device),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- the page


def in_words(found: dict) -> str:
    """The figures of `measure` in two lines.

    >>> figures = {"kl": 0.0123, "gap": 1.5, "tokens": 900, "n": 8, "boxed": 7, "same": 6}
    >>> print(in_words(figures | {"right": [8, 7], "length": [90.0, 95.5]}))
    KL 0.0123 nats a token between trained and merged model, largest log-prob gap 1.5, over 900 tokens of 8 rollouts
    greedy, trained and merged: 7 of 8 answers the same (6 token for token), right 8 and 7, mean tokens 90.0 and 95.5
    """
    return (
        f"KL {found['kl']:.3g} nats a token between trained and merged model, largest log-prob gap {found['gap']:.2g}, "
        f"over {found['tokens']} tokens of {found['n']} rollouts\n"
        f"greedy, trained and merged: {found['boxed']} of {found['n']} answers the same ({found['same']} token for "
        "token), right {} and {}, mean tokens {:.1f} and {:.1f}".format(*found["right"], *found["length"])
    )


def indented(text: str) -> str:
    """As a code block that nothing inside can close."""
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def table(summary: dict) -> str:
    """Tokens and pass@1 before and after, from a run's summary.json; a sentence where there is none."""
    if not {"base", "final", "rounds"} <= summary.keys():
        return "There was no summary.json of a schedule beside the adapter, so there are no test figures here."
    rows = ["| test | tokens an answer | pass@1, % |", "|---|---|---|"]
    for name, m in (("base", summary["base"]), ("base with the adapter", summary["final"])):
        se = "" if m["pass@1_se"] is None else f" +- {100 * m['pass@1_se']:.1f}"
        rows.append(f"| {name} | {m['mean_tokens']:.0f} | {100 * m['pass@1']:.1f}{se} |")
    m, caps = summary["final"], " > ".join(str(r["cap"]) for r in summary["rounds"])
    return "\n".join(rows) + (
        f"\n\nTrained in rounds with the caps {caps}. Test: {m['n_problems']} problems x {m['n_samples']} answers of "
        f"{m['data']}, temperature {m['temperature']}, top_p {m['top_p']}, cut at {m['cap']} tokens, the prompt names "
        f"{m['prompt_cap']}; +- is one standard error, clustered by problem. Both rows are of the base in "
        f"{'4 bits' if m.get('load_4bit', True) else 'its own precision'}. The merged weights were not tested there."
    )


def next_command(cfg, test: dict) -> str:
    """The command that tests the merged model as the run was tested, as far as `test`, its eval.json, tells."""
    options = {"model": cfg.out, "load_4bit": "false", "data": cfg.data, "prompt_cap": cfg.cap}
    options |= {f"eval_{key}": test[key] for key in ("cap", "temperature", "top_p") if key in test}
    options |= {"eval_samples": test["n_samples"]} if "n_samples" in test else {}
    usual, words = Options(thinking=cfg.thinking), prompt_texts(cfg)
    options |= {key: text for key, text in words.items() if text != prompt_texts(usual)[key]}
    options |= {"template_options": json.dumps(cfg.template_options)} if cfg.template_options else {}
    options |= {} if cfg.thinking else {"thinking": "false"}
    options["out_dir"] = f"{cfg.out}_test"
    return shlex.join(["python", "eval.py", *(f"--{key}={value}" for key, value in options.items())])


def model_card(cfg, found: dict, figures: str, test: dict) -> str:
    """The page.

    Args:
        cfg: Options of export.py, as they were resolved. found: What `measure` returned.
        figures: What `table` returned. test: eval.json of the run's test, or empty.
    """
    top = "" if (cfg.keep_top, cfg.scale) == (1, 1) else (
        f" Only the largest {cfg.keep_top:.0%} of each matrix's changes were added, times {cfg.scale:g}."
    )  # fmt: skip
    snippet = SNIPPET.format(**found | {"folder": cfg.out, "cap": cfg.cap})
    return f"""---
base_model: {json.dumps(cfg.model)}
library_name: transformers
pipeline_tag: text-generation
---

# {cfg.model}, with shorter reasoning

Its reasoning was shortened with ThinkPrune ([arXiv:2504.01296](https://arxiv.org/abs/2504.01296)): a LoRA, trained with
GRPO under token caps, here merged into the weights of the base.{top}

{figures}

How far the merged model is from the one that was trained, measured when it was written:

{indented(in_words(found))}

## The prompt

Use the prompt of the training. With the problem alone the model may answer wrongly. In a chat, the system message is

{indented(found["system"] or "(none)")}

and the user's message is the problem, a new line, and

{indented(found["instruction"] or "(nothing)")}

The chat template was used with {json.dumps(cfg.template_options)} as options.

## Try it

{indented(snippet)}

The greedy answer, as measured in {found["dtype"]}:

{indented(found["answer"])}

## Made with

{indented(shlex.join(["python", *sys.argv]))}

with {found["versions"]}. To test the merged model itself:

{indented(next_command(cfg, test))}
"""
