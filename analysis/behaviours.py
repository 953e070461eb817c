r"""What the thinking is made of: a judge labels every step with one of ten phases of problem solving.

    python -m analysis.behaviours out/toy/base_test out/toy/final_test --url http://localhost:8000/v1 --model NAME
    python -m analysis.behaviours A B --url https://api.example.com/v1 --model NAME --key_env MY_KEY   # with a key
    python -m analysis.behaviours A B --model Qwen/Qwen2.5-7B-Instruct        # a model on this machine, no endpoint

A and B are folders that eval.py wrote; A alone will do. Writes behaviours.json into `analysis` beside B, where
`python -m analysis.report A B` finds it, and judge.jsonl, the replies: the same judge is asked for a step once.

Unlike the paper's figure: the phases' names, their description and the prompt are ours (edit them below), every
share has a 95 % interval over problems, and replies that name no phase are counted, not guessed at.
"""

import hashlib
import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from analysis.command import Settings, main
from analysis.evaluations import Evaluation
from analysis.stats import interval, quotient_difference
from analysis.tables import gap, side_table
from engine.files import OptionError, Options, die, explained
from engine.policy import load_policy
from engine.templates import chat_text
from sample import Sampler

FILE, HEADING, FOLDERS = "behaviours.json", "Behaviours", (1, 2)

# --- yours to edit: the phases, and what the judge is told
PHASES = {
    "understand": "reads the problem, says what is given and what is asked",
    "reformulate": "puts the problem into other words, symbols or an equivalent form",
    "theorem": "brings in a known theorem, formula or standard method",
    "decompose": "splits the task into parts or cases, or plans the way",
    "compute": "calculates, expands or simplifies",
    "substitute": "puts values or expressions into a formula",
    "recheck_step": "doubts or verifies one step or one number",
    "recheck_all": "doubts or verifies the answer or the solution as a whole",
    "explore": "leaves the present approach for another one",
    "finalize": "states the result or wraps up",
}
JUDGE = """A solution to a mathematics problem was cut into steps. Decide which phase of problem solving one step
belongs to.

Phases:
{phases}

Problem: {problem}

The step before: {before}

The step to label: {step}

Reply with the name of one phase and nothing else."""


@dataclass
class Config(Settings, Options):
    """Options of analysis.behaviours."""

    model: str = ""
    """The judge: its name at the endpoint; without --url a model's folder or hub id."""
    url: str = ""
    """OpenAI-compatible endpoint such as http://localhost:8000/v1; empty: --model runs here."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key, if it wants one."""
    timeout: float = 60.0
    """Seconds to wait for a reply."""
    reply_tokens: int = 64
    """Most tokens of a reply; more for a judge that thinks aloud."""
    problems: int = 32
    """Judge the first answer to each of the first so many problems; 0: to all."""


def steps(response: str, longest: int = 600) -> list[str]:
    r"""Cuts the thinking into steps: paragraphs (between blank lines), or lines where there is one paragraph only.

    What is longer than `longest` characters is cut at sentence ends, as few times as will do; pieces without a
    letter or digit are dropped. The thinking ends at the first </think>; cut-off thinking counts.

    >>> steps("Let x be 1.\n\nSo x = 1.\n---\n\n***</think>\nDone."), steps("a = 1\nb = 2")
    (['Let x be 1.', 'So x = 1.\n---'], ['a = 1', 'b = 2'])
    >>> steps("One is odd. Two is even. Three?", longest=20)
    ['One is odd.', 'Two is even. Three?']
    """
    text = response.partition("</think>")[0].rpartition("<think>")[2].strip()
    pieces, result = [p for p in re.split(r"\n\s*\n", text)], []
    for piece in pieces if len(pieces) > 1 else text.split("\n"):
        whole = ""
        for sentence in re.split(r"(?<=[.!?])\s+", piece) if len(piece) > longest else [piece]:
            if whole and len(whole) + 1 + len(sentence) > longest:
                result.append(whole)
                whole = ""
            whole = f"{whole} {sentence}".strip()
        result.append(whole)
    return [r.strip() for r in result if re.search(r"\w", r)]


def parse_phase(reply: str) -> str | None:
    """The one phase that a reply names (after its thinking, if it thinks aloud); None for none or several.

    >>> parse_phase("**Compute**."), parse_phase("compute or explore"), parse_phase("<think>explore</think> finalize")
    ('compute', None, 'finalize')
    """
    said = reply.rpartition("</think>")[2].lower()
    found = set(re.findall(r"(?<![a-z_])(" + "|".join(PHASES) + r")(?![a-z_])", said))
    return found.pop() if len(found) == 1 else None


def ask_endpoint(cfg: Config, prompt: str) -> tuple[str | None, str]:
    """(reply, "") of an OpenAI-compatible endpoint, or (None, what went wrong)."""
    url = cfg.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    body = {"model": cfg.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    body["max_tokens"] = cfg.reply_tokens
    key = os.environ.get(cfg.key_env, "")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=cfg.timeout) as response:
            reply = json.loads(response.read(1 << 20))["choices"][0]["message"]["content"]
        return (reply, "") if isinstance(reply, str) else (None, "a reply without text")
    except urllib.error.HTTPError as error:
        return None, f"HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return None, str(getattr(error, "reason", error)) or type(error).__name__
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, "a reply that is not a chat completion"


def make_judge(cfg: Config) -> Callable[[list[str], int], list[tuple[str | None, str]]]:
    """A function from prompts and the number of the attempt to (reply, error) pairs; loads a local model once."""
    if cfg.url:
        def ask(prompts: list[str], attempt: int):
            with ThreadPoolExecutor(8) as threads:
                return list(threads.map(lambda prompt: ask_endpoint(cfg, prompt), prompts))

        return ask
    sampler = Sampler(*load_policy(cfg), cfg)

    def ask_local(prompts: list[str], attempt: int):
        texts = [chat_text(sampler.tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
        ids = [sampler.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        with explained(f"--model {cfg.model}", OptionError):
            # The second attempt is sampled: a greedy one would say the same again.
            rollouts = sampler.sample(ids, cap=cfg.reply_tokens, temperature=0.7 * attempt, seed=cfg.seed)
        return [(rollout.text, "") for rollout in rollouts]

    return ask_local


def label_steps(prompts: list[str], cfg: Config, cache: Path) -> list[str | None]:
    """The judge's phase for each prompt, None where two attempts named none.

    Good replies are appended to `cache` (JSON lines, by hash of judge and prompt), so that a run that was stopped
    goes on where it was. Exits with status 2 when no prompt of a batch gets a reply in two attempts: the judge is down.
    """
    keys = [hashlib.sha256(f"{cfg.url}\n{cfg.model}\n{p}".encode()).hexdigest() for p in prompts]
    known: dict[str, str] = {}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []:
        try:
            known.update({row["key"]: row["phase"] for row in [json.loads(line)] if row["phase"] in PHASES})
        except (ValueError, KeyError, TypeError):
            pass  # the half line of a run that was killed: asked again
    left = {key: prompt for key, prompt in zip(keys, prompts) if key not in known}
    judge, batch, heard = make_judge(cfg) if left else None, 8 if cfg.url else 64, False
    cache.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(left), desc="judge", unit="step", leave=False, disable=None)
    with cache.open("a", encoding="utf-8") as file, bar:
        file.write("\n" if left and cache.stat().st_size else "")  # a killed run's half line must not swallow ours
        for start in range(0, len(left), batch):
            asked, replied, error = list(left)[start : start + batch], False, ""
            for attempt in range(2):
                open_keys = [key for key in asked if key not in known]
                replies = judge([left[key] for key in open_keys], attempt) if open_keys else []
                for key, (reply, wrong) in zip(open_keys, replies):
                    replied, error = replied or reply is not None, wrong or error
                    if reply is not None and (phase := parse_phase(reply)):
                        known[key] = phase
                        file.write(json.dumps({"key": key, "phase": phase, "reply": reply}) + "\n")
                file.flush()
            heard = heard or replied
            if not replied and (not heard or len(asked) == batch):  # one bad step at the end is no dead judge
                die(f"judge {cfg.url} gives no replies ({error}); what it has labelled so far is kept in {cache}")
            bar.update(len(asked))
    return [known.get(key) for key in keys]


def label_side(side: Evaluation, cfg: Config) -> tuple[list[str | None], np.ndarray]:
    """(the label of every step, (P, phases + 1) labels of each problem by phase, and all of them)."""
    phases, groups = "\n".join(f"{name}: {what}" for name, what in PHASES.items()), side.groups[: cfg.problems or None]
    prompts, owner = [], []
    for p, (row, *_) in enumerate(groups):
        pieces = steps(row["response"])
        for before, step in zip(["(none)", *pieces], pieces):
            texts = {"problem": row["problem"][:4000], "before": before[:2000], "step": step[:2000]}
            prompts.append(JUDGE.format(phases=phases, **texts))
            owner.append(p)
    labels = label_steps(prompts, cfg, Path(cfg.out_dir, "judge.jsonl"))
    count = np.zeros((len(groups), len(PHASES) + 1))
    for p, label in zip(owner, labels):
        if label:
            count[p, [list(PHASES).index(label), -1]] += 1
    return labels, count


def analyse(sides: list[Evaluation], cfg: Config) -> dict:
    """Shares of the phases on each side, with intervals, and their paired difference."""
    if not cfg.model:
        die("a judge is needed: --url and --model of an endpoint, or --model of a model here")
    if cfg.url and not cfg.url.startswith(("http://", "https://")):
        die(f"--url {cfg.url} must start with http:// or https://")
    if cfg.problems < 0 or cfg.reply_tokens < 1 or cfg.timeout <= 0:
        die("--problems must be at least 0, --reply_tokens at least 1 and --timeout above 0")
    result, counts = {"judge": f"{cfg.model} {cfg.url}".strip(), "steps": {}, "invalid": {}}, []
    for name, side in zip("AB", sides):
        labels, count = label_side(side, cfg)
        share = lambda m: m[..., 0] / m[..., 1]  # noqa: E731
        result[name] = {x: interval(count[:, [i, -1]], share, within=(0, 1)) for i, x in enumerate(PHASES)}
        result["steps"][name], result["invalid"][name] = len(labels), labels.count(None)
        counts.append(count)
    if len(sides) > 1:
        pairs = {x: np.concatenate([count[:, [i, -1]] for count in counts], 1) for i, x in enumerate(PHASES)}
        result["difference"] = {x: interval(pair, quotient_difference) for x, pair in pairs.items()}
    return result


def show(r: dict) -> list[str]:
    counts = ", ".join(f"{r['steps'][s]} of {s} ({r['invalid'][s]} without a valid label)" for s in r["steps"])
    lines = [f"Judge: {r['judge']}; steps: {counts}.", ""]
    if all(x["value"] is None for side in r["steps"] for x in r[side].values()):
        return [*lines, "The judge has named no phase at all.", ""]
    return lines + side_table(r, "share of steps, %", {p: p for p in r["A"]}, lambda s, p: gap(r[s][p], 1, 100, False),
                              "difference", "B - A, points", 1, 100)


if __name__ == "__main__":
    main(sys.modules[__name__], inherit=False)  # the options of the model are the judge's
