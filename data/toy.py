"""Makes the toy: problems, and a tiny model that thinks long, trained from scratch on a CPU.

    python data/toy.py                         # out/toy_base: model, tokenizer, problem files
    python data/toy.py --seed 1 --out_dir out/toy_base_seed1
    python data/toy.py stats out/toy/base/rollouts.jsonl out/toy/final/rollouts.jsonl

A problem reads "From start 10: a +2, b -7, c +4. Find c." The quick first pass has a habit: every
"-7" comes out one too high. A check walks the steps backwards and must return to 10; where it does
not, a careful redo gets it right. So the first check is worth about 20 points of accuracy, and the
further ones, learnt just as well, only cost tokens: a token cap can trim those, and cuts into
accuracy where it leaves no room for the first. Real models are not as tidy.
"""

import hashlib
import json
import math
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from sample import INSTRUCTION, SYSTEM, build_prompt  # noqa: E402


@dataclass
class Config:
    """Options of toy.py: each is a YAML key and a --flag."""

    out_dir: str = "out/toy_base"
    """Folder to make; a finished one with the same recipe is reused."""
    seed: int = 0
    """Seeds the problems, the traces and the training; same seed and threads, same model."""
    n_train: int = 2048
    """Problems for the pruning (the pre-training makes its own and avoids all of these)."""
    n_val: int = 128
    """Validation problems, from which checkpoints are selected."""
    n_test: int = 256
    """Test problems."""
    # --- the training
    steps: int = 660
    """Optimizer steps."""
    tokens_per_step: int = 2048
    """Padded tokens in a step, at most."""
    short_share: float = 0.35
    """Share of the steps, at the start, on traces with at most one check."""
    lr: float = 0.02
    """Peak learning rate of the matrices (Muon)."""
    lr_embed: float = 5e-3
    """Peak learning rate of the embeddings, norms and biases (Adam)."""


# ---------------------------------------------------------------- problems and traces
START, LOW, HIGH = 10, 1, 13  # where every chain starts, and the range its values stay in
NAMES = "abcdef"
HABIT, HABIT_RATE, SLIP_RATE = -7, 0.99, 0.01  # first pass: "-7" one too high, else slips of one
CHECKS = [0.01, 0.09, 0.03, 0.20, 0.06, 0.24, 0.06, 0.18, 0.03, 0.10]  # p(0..9 checks)
HEADERS = [  # the first check, then the second and third in turn
    "Wait, check backwards from answer {}",
    "Hmm, I want to be really sure about this one, so let me go and double-check everything "
    "backwards from answer {}",
    "Wait, to be on the safe side, I should verify all of it once more, step by step, "
    "backwards from answer {}",
]


def make_problem(rng: random.Random) -> list[int]:
    """Draws the 3 to 6 signed operands of one problem; all values on the way lie in LOW..HIGH."""
    value, ops = START, []
    for _ in range(rng.randint(3, 6)):
        to = rng.choice([v for v in range(LOW, HIGH + 1) if v != value])
        if value + HABIT >= LOW and rng.random() < 0.04:  # the habit must show in about a quarter
            to = value + HABIT
        ops.append(to - value)
        value = to
    return ops


def problem_text(ops: list[int]) -> str:
    """
    >>> problem_text([2, -7, 4])
    'From start 10: a +2, b -7, c +4. Find c.'
    """
    steps = ", ".join(f"{name} {op:+d}" for name, op in zip(NAMES, ops))
    return f"From start {START}: {steps}. Find {NAMES[len(ops) - 1]}."


def make_trace(ops: list[int], n_checks: int, rng: random.Random, headers: list[str] = HEADERS) -> str:
    """Writes one response with that many checks; the first pass may err, checks and redos never."""
    value, lines = START, [f"From start {START}"]
    for name, op in zip(NAMES, ops):
        value += op
        if op == HABIT and rng.random() < HABIT_RATE:
            value += 1
        elif rng.random() < SLIP_RATE:
            value += rng.choice([-1, 1])
        lines.append(f"{name} {op:+d} = {value}")
    answer = value
    lines.append(f"I get answer {answer}.")
    for k in range(n_checks):
        lines.append(headers[0 if k == 0 else 2 - k % 2].format(answer))
        value = answer
        for name, op in reversed(list(zip(NAMES, ops))):
            value -= op
            lines.append(f"{name} {op:+d} {-op:+d} = {value}")
        if value == START:
            lines.append(f"Back at {value} fits so answer {answer} holds.")
            continue
        lines.append(f"Back at {value} fails so redo from start {START}")
        value = START
        for name, op in zip(NAMES, ops):
            value += op
            lines.append(f"{name} {op:+d} = {value}")
        answer = value
        lines.append(f"I get answer {answer}.")
    return "\n".join(lines) + f"\n</think>\nThe answer is \\boxed{{{answer}}}."


def make_splits(cfg: Config) -> dict[str, list[dict]]:
    """Distinct problems for train, val and test: {"id", "problem", "answer"} rows by split."""
    rng, seen = random.Random(f"splits {cfg.seed}"), set()
    splits = {"train": [], "val": [], "test": []}
    for split, n in ("test", cfg.n_test), ("val", cfg.n_val), ("train", cfg.n_train):
        while len(splits[split]) < n:
            ops = make_problem(rng)
            text = problem_text(ops)
            if text not in seen:
                seen.add(text)
                row = {"id": f"{split}-{len(splits[split])}", "problem": text}
                splits[split].append({**row, "answer": str(START + sum(ops))})
    return splits


# ---------------------------------------------------------------- tokenizer
PAD, END, THINK, THINK_END = "<|pad|>", "<|end|>", "<think>", "</think>"
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)


def build_tokenizer(high: int = HIGH, headers: list[str] = HEADERS):
    """A Qwen2 tokenizer of 256 bytes and a list of whole words, numbers and signed operands up to `high`.

    The words are added tokens: AutoTokenizer gives a Qwen2 folder Qwen's own rules (one digit a
    token), and added tokens are the one part that comes through. Other text falls to bytes.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    # The prompt's fixed sentences are one token each: they are the same in every row.
    words = re.split(r"\{cap\}|<think>|</think>", SYSTEM) + ["\n" + INSTRUCTION, "From"]
    numbers = range(LOW - 10, high + 11)  # a mistaken first pass leaves LOW..HIGH by a few
    words += [f" {n}" for n in numbers] + [f" {n:+d}" for n in range(-high, high + 1)]
    ops = [1] * len(NAMES)
    texts = [*headers, problem_text(ops), make_trace(ops, 1, random.Random(0), headers)]
    texts += ["\nBack at fails so redo \nWait \nHmm"]
    words += re.findall(r"[ \n]?[\\A-Za-z][\\A-Za-z{-]*|[ \n]=|}\.", " ".join(texts))
    words = [w for w in dict.fromkeys(words) if len(w) > 1]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={b: i for i, b in enumerate(alphabet)}, merges=[], model_max_length=2048,
        unk_token=PAD, pad_token=PAD, eos_token=END, extra_special_tokens=ROLES,
        chat_template=TEMPLATE,
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in (THINK, THINK_END, *words)])
    tokenizer.add_tokens([AddedToken(str(n), single_word=True, normalized=False) for n in numbers])
    return tokenizer


# ---------------------------------------------------------------- training
def make_rows(tokenizer, n: int, long: float, held_out: set[str], rng: random.Random) -> list:
    """n pre-training rows (prompt ids, response ids), none of a held-out problem.

    A share `long` of them has the full range of checks, the others have one at most.
    """
    prompts, traces = [], []
    while len(prompts) < n:
        ops = make_problem(rng)
        if problem_text(ops) in held_out:
            continue
        n_checks = rng.choices(range(len(CHECKS)), CHECKS)[0]
        n_checks = n_checks if rng.random() < long else min(n_checks, 1)
        # Any cap: the base must not know what it means, the pruning is what puts it to use.
        prompts.append(build_prompt(tokenizer, problem_text(ops), rng.randint(40, 1000)))
        traces.append(make_trace(ops, n_checks, rng) + END)
    prompts = tokenizer(prompts, add_special_tokens=False).input_ids
    return list(zip(prompts, tokenizer(traces, add_special_tokens=False).input_ids))


def make_batches(rows: list, tokens_per_step: int, rng: random.Random) -> list[list]:
    """Cuts rows, sorted by length, into shuffled batches of at most so many padded tokens."""
    batches, batch = [], []
    for row in sorted(rows, key=lambda row: len(row[0]) + len(row[1])):
        if batch and (len(batch) + 1) * (len(row[0]) + len(row[1])) > tokens_per_step:
            batches.append(batch)
            batch = []
        batch.append(row)
    rng.shuffle(batches)  # the last, part-filled batch is left out
    return batches or [batch]


def build_model(tokenizer, **sizes):
    """A random Qwen2 of 0.85M parameters, or of other sizes, whose number embeddings start on a smooth curve."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    # Divisible by 64, as the 4-bit layers of bitsandbytes want them.
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4} | sizes
    config = Qwen2Config(
        **sizes, vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        max_position_embeddings=2048, initializer_range=0.02, bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # Neighbouring numbers start out near each other, and " 9" like "9": what a large pre-training
    # teaches anyway. Sums come out right in about half the steps.
    table = model.get_input_embeddings().weight.data                 # (V, 128)
    frequencies = torch.logspace(math.log10(2 * math.pi / 80), math.log10(2 * math.pi / 6), 64)
    signed, base = torch.randn(128), {}
    for word, i in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = word.strip()
        if word not in base:
            base[word] = torch.randn(128)
            if re.fullmatch(r"[+-]?\d+", word):
                angles = int(word) * frequencies
                base[word] = torch.cat([angles.sin(), angles.cos()]) + signed * (word[0] in "+-")
        table[i] = 0.02 * (base[word] + 0.5 * torch.randn(128))
    return model


def orthogonalise(matrix):
    """Newton-Schulz iteration: the nearest (roughly) orthogonal matrices to a stack of them."""
    x = matrix / (matrix.norm(dim=(-2, -1), keepdim=True) + 1e-7)    # (N, rows, columns)
    x = x.mT if matrix.shape[-2] > matrix.shape[-1] else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


class Kind(NamedTuple):
    """What makes a toy another one: data/plain.py and data/search.py have their own."""

    splits: Callable[[Config], dict[str, list[dict]]] = make_splits
    rows: Callable[..., list] = make_rows
    tokenizer: Callable = build_tokenizer
    sizes: dict[str, int] = {}
    file: str = ""
    """The one that has these: its code is part of the recipe, too."""


def train(cfg: Config, tokenizer, held_out: set[str], kind: Kind = Kind()):
    """Trains the model on made traces, short ones first; returns it."""
    import torch
    import torch.nn.functional as F
    from tqdm import tqdm

    torch.manual_seed(cfg.seed)
    rng = random.Random(f"train {cfg.seed}")
    model = build_model(tokenizer, **kind.sizes).train()
    # Muon for the matrices (twice as fast as AdamW here), Adam for embeddings, norms and biases.
    # torch.optim.Muon works in bf16, which is slow on a CPU without it; so it is written out below.
    by_shape = {}
    for name, p in model.named_parameters():
        by_shape.setdefault(p.shape if p.ndim == 2 and "embed" not in name else None, []).append(p)
    adam = torch.optim.Adam(by_shape.pop(None), lr=cfg.lr_embed, betas=(0.9, 0.95))
    momentum = {shape: torch.zeros(len(ps), *shape) for shape, ps in by_shape.items()}
    weight = torch.ones(model.config.vocab_size)                     # (V,) of a target in the loss
    weight[tokenizer.convert_tokens_to_ids([" fits", " fails"])] = 4.0

    parts = {"model": model, "adam": adam, "momentum": list(momentum.values())}  # keeps
    kept = KeptState(partial_of(cfg), recipe_of(cfg, kind.file)["recipe"], **parts)  # keeps
    batches, stage = [], None
    bar = tqdm(range(cfg.steps), desc="pre-training", unit="step", mininterval=1.0)
    tokens, started = 0, time.time()
    for step in bar:
        # --- a batch: short traces first, where sums are learnt at less cost
        long = 0.1 if step < cfg.short_share * cfg.steps else 1.0
        if not batches or long != stage:
            stage, n = long, 24 * cfg.tokens_per_step // (130 if long < 1 else 300)
            rows = kind.rows(tokenizer, n, long, held_out, rng)
            batches = make_batches(rows, cfg.tokens_per_step, rng)
        batch = batches.pop()
        if step < kept.step:  # keeps
            continue  # keeps
        T = max(len(prompt) + len(trace) for prompt, trace in batch)
        ids = torch.full((len(batch), T), tokenizer.pad_token_id)     # (B, T), padded on the right
        on = torch.zeros(len(batch), T, dtype=torch.bool)             # (B, T), response comes next
        for i, (prompt, trace) in enumerate(batch):
            ids[i, : len(prompt) + len(trace)] = torch.tensor(prompt + trace)
            on[i, len(prompt) - 1 : len(prompt) + len(trace) - 1] = True

        # --- forward and backward: no mask needed, causal attention never sees the padding after it
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        target = ids.roll(-1, 1)[on]                                  # (R,) response tokens
        loss = F.cross_entropy(model.lm_head(hidden[on]), target, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

        # --- update: warm up, hold, then down to zero over the last 40 %
        rate = min(1.0, (step + 1) / 20, (cfg.steps - step) / (0.4 * cfg.steps))
        with torch.no_grad():
            for shape, ps in by_shape.items():
                grad = torch.stack([p.grad for p in ps])
                momentum[shape].lerp_(grad, 0.05)
                update = orthogonalise(grad.lerp(momentum[shape], 0.95))
                scale = rate * cfg.lr * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(ps, update):
                    p.sub_(scale * u)
        adam.param_groups[0]["lr"] = rate * cfg.lr_embed
        adam.step()
        model.zero_grad()
        kept.save(step + 1)  # keeps
        tokens += ids.numel()
        if step % 10 == 0:
            rate = tokens / (time.time() - started)
            bar.set_postfix_str(f"loss {loss.item():.3f}, {rate:.0f} tokens/s")
    return model.eval()


# ---------------------------------------------------------------- statistics (not in the recipe)
# Below the recipe: these do not make the toy. Neither do the lines of `train` that end in "# keeps".
from engine.files import die, one_line, parse  # noqa: E402
from engine.kept import KeptState  # noqa: E402


def partial_of(cfg: Config) -> Path:
    """Where the state of an unfinished pre-training lies."""
    return Path(f"{cfg.out_dir.rstrip('/')}.partial.pt")


def trace_stats(response: str, problem: str) -> dict:
    """Counts the checks of one response and says which answer stood when; any text is allowed.

    Returns:
        checks: checks begun. first_answer_correct: of the first attempt. one_check_correct: of the
        answer standing after the first check and its redo (no check: after the first attempt).
        An answer that was never written counts as wrong.

    >>> trace_stats("a -7 = 4\\nI get answer 4.\\nWait, check backwards from answer 4\\n"
    ...             "a -7 +7 = 11\\nBack at 11 fails so redo from start 10\\na -7 = 3\\n"
    ...             "I get answer 3.", "From start 10: a -7. Find a.")
    {'checks': 1, 'first_answer_correct': False, 'one_check_correct': True}
    """
    gold = str(START + sum(int(op) for op in re.findall(r"\b[a-f] ([+-][0-9]{1,9})\b", problem)))
    attempt, *checks = response.split(THINK_END)[0].split("backwards from answer")
    first = (re.findall(r"I get answer (-?\d+)", attempt) or [""])[0]
    redone = re.findall(r"I get answer (-?\d+)", checks[0]) if checks else []
    return {
        "checks": len(checks),
        "first_answer_correct": first == gold,
        "one_check_correct": (redone[-1] if redone else first) == gold,
    }


def stats(files: list[str]) -> None:
    """Prints what the checks did in rollout files: mean +- standard error clustered by problem."""
    print(f"{'':32}{'checks':>14}{'first attempt':>16}{'one check':>16}{'end':>16}   (right, %)")
    for file in files:
        by_problem: dict[str, list] = {}
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            values = [*trace_stats(row["response"], row["problem"]).values(), row["correct"]]
            by_problem.setdefault(row["id"], []).append(values)
        cells = ""
        for k, (unit, digits) in enumerate([(1, 2), (100, 1), (100, 1), (100, 1)]):
            means = [unit * sum(v[k] for v in rows) / len(rows) for rows in by_problem.values()]
            mean = sum(means) / len(means)
            variance = sum((m - mean) ** 2 for m in means) / max(1, len(means) - 1)
            se = math.sqrt(variance / len(means))
            cells += f"{f'{mean:.{digits}f} +- {se:.{digits}f}':>{14 if k == 0 else 16}}"
        print(f"{file:32}{cells}")


# ---------------------------------------------------------------- the command
def code_of(file: str) -> str:
    """The part of a file that makes a toy."""
    code = Path(file).read_text(encoding="utf-8").split("(not in the recipe)")[0]
    return "".join(line for line in code.splitlines(keepends=True) if not line.endswith("# keeps\n"))


def recipe_of(cfg: Config, file: str = "") -> dict:
    """What makes the toy, for recipe.json: options, prompt, and a digest of these and of the code above."""
    options = {k: v for k, v in asdict(cfg).items() if k != "out_dir"}
    digest = json.dumps([options, SYSTEM, INSTRUCTION, *map(code_of, filter(None, (__file__, file)))])
    digest = hashlib.sha256(digest.encode()).hexdigest()[:16]
    return {"recipe": digest, **options, "prompt": [SYSTEM, INSTRUCTION]}


def make(cfg: Config, kind: Kind = Kind()) -> None:
    """Makes out_dir, or says that it is there; what another recipe made is never written over."""
    out, recipe = Path(cfg.out_dir), recipe_of(cfg, kind.file)
    digest = recipe["recipe"]
    if out.exists():
        try:
            old = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            old = {}
        if old.get("recipe") == digest:
            return print(f"{out}: there, and its recipe is unchanged ({digest}): reused")
        options = asdict(cfg).keys() & recipe.keys()
        changed = [f"{k} {old.get(k)}, now {v}" for k, v in recipe.items() if k in options and old.get(k) != v]
        why = ", ".join(changed) if old and changed else "other code" if old else "no recipe.json"
        if old.get("prompt", recipe["prompt"]) != recipe["prompt"]:
            why = "the prompt in sample.py has changed, and the toy only knows the words that it was taught with"
        die(f"--out_dir {out} was made otherwise ({why}): delete it or name another folder")

    started, cpu_started, before = time.time(), time.process_time(), KeptState(partial_of(cfg), digest).step
    if before:
        print(f"going on after step {before} of {cfg.steps}, kept in {partial_of(cfg)}", flush=True)
    splits = kind.splits(cfg)
    tokenizer = kind.tokenizer()
    try:
        model = train(cfg, tokenizer, {row["problem"] for rows in splits.values() for row in rows}, kind)
    except KeyboardInterrupt:
        if step := KeptState(partial_of(cfg), digest).step:
            print(f"\nstep {step} of {cfg.steps} is kept in {partial_of(cfg)}; the same command goes on from there")
        raise
    # Written aside and renamed at the end: a killed run leaves nothing that looks finished.
    aside = out.with_name(out.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (aside / f"{split}.jsonl").write_text(text, encoding="utf-8")
    recipe["resumed_after_step"] = before  # the seconds are those of the last call
    recipe["seconds"] = round(time.time() - started, 1)
    recipe["cpu_seconds"] = round(time.process_time() - cpu_started, 1)
    (aside / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, out)
    partial_of(cfg).unlink(missing_ok=True)
    print(f"{out}: {sum(p.numel() for p in model.parameters()):,} parameters, "
          f"{recipe['seconds']} s ({recipe['cpu_seconds']} CPU s){f' from step {before} on' if before else ''}")


def command(stats, make, config: type) -> None:
    """`stats FILE ...`, or else the options of a toy to be made."""
    with one_line():
        if sys.argv[1:2] == ["stats"]:
            for file in sys.argv[2:] or ["(none given)"]:
                Path(file).is_file() or die(f"stats: no such rollout file: {file}")
            stats(sys.argv[2:])
        else:
            make(parse(config))


if __name__ == "__main__":
    command(stats, make, Config)
