"""Prompts, problems and capped rollouts; as a command, samples answers.

    python sample.py --model out/toy_base --problem "From start 10: a +8, b -9, c -8. Find c." --cap 512
    python sample.py --model out/toy_base --data out/toy_base/val.jsonl --samples 4 --cap 512 --out out/rollouts.jsonl
    python sample.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --adapter out/r1/final --problem "What is 3^5?"

Everything that generates text (training, evaluation, this command) calls `generate_rollouts`. It owns
its decode loop because `model.generate` computes finished rows to the end, copies the whole KV cache
at every token and returns no log-probs. What this one does instead:

- every row of the KV cache has its own length; a row that ends is refilled from the queue at once, and
  when the queue is empty the last live row moves into the hole, so no dead row is ever computed;
- a row's attention reads what that row has, not what the longest has: `varlen_attn` on CUDA, bands of rows of
  like length elsewhere; on CUDA a step is one graph;
- the layers of Qwen2 and Llama are written out (`decode_layers`); other models run their own forward, more slowly;
- a prompt is run once, however many answers are sampled from it;
- the log-prob of each sampled token comes along, from the full softmax at that temperature;
- the random numbers belong to the request, not to the row: in float32 the same seed gives the same answers
  with 8 rows or with 128 (in bfloat16 rounding may still turn single tokens), so runs can be compared.
"""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from tqdm import tqdm

from engine.files import Options, die, first_line, json_rows, parse, write_jsonl
from engine.memory import choose_rows, out_of_memory
from engine.policy import chat_text, load_policy, rollout_model
from engine.slots import (
    SlotCache,
    can_unroll,
    can_varlen,
    decode_layers,
    float_logits,
    graphed,
    pick_token,
    prefill,
    rope_table,
    slot_attention,
)

# --- yours to edit: what the model is told. The cap is named, as in the paper; the words are ours.
SYSTEM = (
    "A conversation between User and Assistant. The Assistant first thinks inside <think> </think> "
    "and then gives the answer. The whole output must stay within {cap} tokens."
)
INSTRUCTION = "Reason step by step and put the final answer in \\boxed{}."


@dataclass
class Config(Options):
    """Options of sample.py: each is a YAML key and a --flag."""

    adapter: str = ""
    """Folder of a PEFT adapter to put on the base; empty for the bare base."""
    problem: str = ""
    """One problem's text: its answer is printed as it is generated."""
    data: str = ""
    """Problem file (JSON lines) or hub data set `id:split`."""
    cap: int = 4000
    """Token cap on the whole response; named in the prompt."""
    samples: int = 1
    """Answers per problem."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.95
    """Nucleus: smallest set of tokens with at least this probability."""
    out: str = ""
    """Rollout file to write (JSON lines); an existing file is not written over."""


class Rollout(NamedTuple):
    """One capped answer to one prompt."""

    prompt_ids: list[int]
    ids: list[int]
    """Response tokens, the end token included."""
    logp: torch.Tensor
    """(len(ids),) float32 on the CPU: log-prob of each token, full softmax at the sampling temperature."""
    finished: bool
    """The end token came within the cap."""
    text: str
    """The response, without its end token."""


# ---------------------------------------------------------------------------------------- problems


def build_prompt(tokenizer, problem: str, cap: int, instruction: str = INSTRUCTION) -> str:
    """Returns the one prompt that training, evaluation and baselines all use, as text.

    Args:
        tokenizer: Its chat template decides whether <think> is already open.
        problem: The problem's text.
        cap: Token cap named in the system prompt.
        instruction: What stands after the problem; empty leaves the problem alone.
    """
    messages = [
        {"role": "system", "content": SYSTEM.format(cap=cap)},
        {"role": "user", "content": f"{problem}\n{instruction}" if instruction else problem},
    ]
    return chat_text(tokenizer, messages)


def encode_prompts(tokenizer, problems: Sequence[str], cap: int, instruction: str = INSTRUCTION) -> list[list[int]]:
    """Token ids of each problem's prompt. The template writes its own special tokens: none are added here."""
    texts = [build_prompt(tokenizer, p, cap, instruction) for p in problems]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def load_problems(source: str, problem_key: str = "problem", answer_key: str = "answer") -> list[dict]:
    """Returns rows with at least `id`, `problem`, `answer` (strings); extra columns are kept.

    Args:
        source: JSON-lines file, or hub data set as `id:split` (split defaults to train).

    Exits with status 2, naming file and row, for a missing or empty file, a line over 10 MB or a row without
    problem or answer.
    """
    if source.endswith((".jsonl", ".json")) or os.path.exists(source):
        if not os.path.isfile(source):
            die(f"problem file {source} does not exist (data/toy.py and data/contests.py make some)")
        table = json_rows(source)
        if not table:
            die(f"problem file {source} is empty")
        columns = list(dict.fromkeys(key for row in table for key in row))
    else:
        import datasets

        datasets.disable_progress_bars()
        logging.getLogger("datasets").setLevel(logging.CRITICAL)  # it logs a traceback before it raises
        name, _, split = source.partition(":")
        try:
            table = datasets.load_dataset(name, split=split or "train")
        except Exception as error:  # pyarrow and datasets raise many kinds
            why = first_line(error)
            die(f"data set {name} is no file and the hub does not give it ({why}); offline, name a .jsonl file")
        columns = table.column_names
    for key in (problem_key, answer_key):
        if key not in columns:
            die(f"{source} has no column {key!r}, only {columns}; name it with --problem_key / --answer_key")
    rows = []
    for number, row in enumerate(table, start=1):
        problem, answer = row.get(problem_key), row.get(answer_key)
        for key, value in ((problem_key, problem), (answer_key, answer)):
            if value is None or not str(value).strip():
                die(f"{source} line {number}: no {key}")
        name = number if row.get("id") in (None, "") else row["id"]
        rows.append({**row, "id": str(name), "problem": str(problem), "answer": str(answer)})
    if not rows:
        die(f"problem file {source} is empty")
    return rows


# ---------------------------------------------------------------------------------------- the decode loop


@torch.no_grad()
def generate_rollouts(
    model,
    tokenizer,
    prompts: Sequence[list[int]],
    samples: int = 1,
    *,
    cap: int | Sequence[int],
    temperature: float = 1.0,
    top_p: float = 1.0,
    rows: int = 128,
    seed: int = 0,
    end_ids: Sequence[int] | None = None,
    progress: tqdm | None = None,
    on_token: Callable[[int, int], None] | None = None,
    decode: Literal["auto", "graph", "eager"] = "auto",
    check: Callable[[], None] | None = None,
) -> list[Rollout]:
    """Samples `samples` capped answers to each prompt; element i * samples + j is answer j to prompt i.

    Args:
        model: A `transformers` decoder in eval mode (see `rollout_model`).
        prompts: Token ids of each prompt.
        cap: Most response tokens, the end token included; one number, or one a rollout.
        temperature: 0 is greedy. top_p: in (0, 1].
        rows: Rollouts decoded at the same time; moves speed and memory, not the distribution.
        seed: Answer k depends on (seed, k) alone.
        end_ids: Tokens that end a response; by default those of the model's generation config.
        progress: Bar to advance by one for each finished rollout.
        on_token: Called with (rollout, token) for every token as it is sampled.
        decode: graph: one CUDA graph a step (auto: where `varlen_attn` works and the weights are not 4-bit).
        check: Called before every decoded token; what it raises ends the sampling.

    Raises:
        ValueError: An option outside its range, an empty prompt, prompt + cap beyond the model's context, or a
            model with sliding-window layers.
    """
    total = len(prompts) * samples
    caps = list(cap) if isinstance(cap, Sequence) else [cap] * total
    context = getattr(model.config, "max_position_embeddings", None) or sys.maxsize
    if samples < 1 or rows < 1 or len(caps) != total or any(c < 1 for c in caps):
        raise ValueError("samples, rows and cap must be at least 1, and a list of caps needs one for each rollout")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} must be at least 0 and top_p {top_p} in (0, 1]")
    if total == 0:
        return []
    if min(len(p) for p in prompts) == 0:
        raise ValueError("a prompt is empty")
    if max(len(p) for p in prompts) + max(caps) > context:
        raise ValueError(
            f"the longest prompt ({max(len(p) for p in prompts)} tokens) and the cap ({max(caps)}) exceed the model's "
            f"context of {context}; lower the cap or drop the prompt"
        )
    if any(kind != "full_attention" for kind in getattr(model.config, "layer_types", None) or []):
        raise ValueError("the model has layers without full attention (sliding window?), which this cache cannot hold")
    if end_ids is None:
        end = model.generation_config.eos_token_id
        end_ids = [tokenizer.eos_token_id, *(end if isinstance(end, list) else [end] if end is not None else [])]
    from transformers import AttentionInterface

    AttentionInterface.register("slots", slot_attention)
    rows, longest = min(rows, total), max(caps)
    was_training, attention = model.training, model.config._attn_implementation
    model.eval()  # gradient checkpointing, which is on in training mode, would drop the cache
    decoder, head, device = model.get_decoder(), model.get_output_embeddings(), model.device
    slots = SlotCache(model, rows, max(len(p) for p in prompts) + longest, varlen=can_varlen(model))
    rope = rope_table(decoder, slots.width, slots.keys[0]) if can_unroll(model) else None
    ends = torch.tensor(sorted(set(end_ids)), device=device)
    zeros = torch.zeros(rows, dtype=torch.long, device=device)
    cap_of, count, token, alive = zeros.clone(), zeros.clone(), zeros.clone(), zeros.clone()
    # (rows,) each: cap; response tokens so far; input of the next step; 1 where a live row is, else 0
    ended = zeros.bool()
    uniform = torch.zeros(rows, longest, device=device)                          # (rows, cap) each row's random numbers
    out_ids = torch.zeros(rows, longest, dtype=torch.long, device=device)
    out_logp = torch.zeros(rows, longest, device=device)
    queue, prefilled, results = deque(range(total)), {}, [None] * total
    # On the host, so that nothing waits for the device: each row's request, and the step at which its length was 0.
    request, since, now = [0] * rows, [0] * rows, 0

    def step(n: int) -> None:
        """One token for the first n rows. Touches no row that is not alive: `graphed` rounds n up."""
        slots.open(n)
        if rope:
            hidden = decode_layers(decoder, slots, token[:n], rope)              # (n, H)
        else:
            hidden = decoder(
                input_ids=token[:n, None],
                attention_mask=slots.mask[:n, :, :, :1],  # unread by slot_attention; four dimensions make no other one
                position_ids=slots.length[:n, None],
                past_key_values=slots,
                use_cache=True,
            ).last_hidden_state[:, 0]
        logits = float_logits(head, hidden)                                      # (n, V)
        at = (slots.index[:n], count[:n])
        token[:n], out_logp[at] = pick_token(logits, uniform[at][:, None], temperature, top_p)
        out_ids[at] = token[:n]
        count[:n] += alive[:n]
        slots.length[:n] += alive[:n]
        ended[:n] = (token[:n, None] == ends).any(-1) | (count[:n] >= cap_of[:n])

    def start(row: int) -> None:
        """Takes the next request off the queue into a row."""
        k = queue.popleft()
        i = k // samples
        if i not in prefilled:
            prefilled.clear()  # requests come prompt by prompt: earlier prompts are done with
            batch = range(i, min(len(prompts), i + max(1, 4096 // max(len(p) for p in prompts[i : i + 64])), i + 64))
            model.config._attn_implementation = attention
            cache = prefill(model, [prompts[j] for j in batch])
            model.config._attn_implementation = "slots"
            prefilled.update({j: (cache, b) for b, j in enumerate(batch)})
        # The last prompt token is the first input of the loop: its logits give the first response token.
        slots.fill(row, *prefilled[i], len(prompts[i]) - 1)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + k) % 2**63)
        # Just below 1, or rounding in u * cdf could step behind the last token.
        uniform[row, : caps[k]] = torch.rand(caps[k], generator=generator).clamp(max=1 - 2**-20).to(device)
        request[row], since[row] = k, now - (len(prompts[i]) - 1)
        token[row], count[row], cap_of[row], alive[row] = prompts[i][-1], 0, caps[k], 1

    def move(source: int, row: int) -> None:
        """Puts a live row into the place of one that ended."""
        slots.move(source, row, now - since[source])
        for store in (count, token, cap_of, alive, uniform, out_ids, out_logp):
            store[row] = store[source]
        request[row], since[row] = request[source], since[source]

    four_bit = any(getattr(p, "quant_state", None) is not None for p in model.parameters())
    graph = decode == "graph" or (decode == "auto" and slots.varlen and not four_bit)
    run = graphed(step, rows) if graph else step
    try:
        model.config._attn_implementation = "slots"
        live = 0
        while queue or live:
            if check:
                check()
            while queue and live < rows:
                start(live)
                live += 1
            bands = [(a, min(live, a + slots.band)) for a in range(0, live, slots.band)]
            if not graph:  # which is of one width
                slots.bands = [(a, b, now - min(since[a:b]) + 1) for a, b in bands]
            run(live)
            now += 1
            if on_token:
                for row, t in enumerate(token[:live].tolist()):
                    on_token(request[row], t)
            # --- rows that ended, from the back, so that the rows behind them are live: hand out, then refill
            for row in ended[:live].nonzero()[:, 0].flip(0).tolist():
                k = request[row]
                made = now - since[row] - (len(prompts[k // samples]) - 1)
                ids = out_ids[row, :made].tolist()
                finished = ids[-1] in end_ids
                text = tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
                results[k] = Rollout(prompts[k // samples], ids, out_logp[row, :made].cpu().clone(), finished, text)
                if progress is not None:
                    progress.tokens = getattr(progress, "tokens", 0) + made
                    rate = progress.tokens / max(1e-9, progress.format_dict["elapsed"])
                    progress.set_postfix_str(f"{rate:.0f} tokens/s", refresh=False)
                    progress.update()
                # The longest row of each band behind moves one band up, so that the hole comes to the last band.
                for a, b in bands:
                    if row < a < live:
                        oldest = min(range(a, min(b, live)), key=since.__getitem__)
                        move(oldest, row)
                        row = oldest
                if queue:
                    start(row)
                else:
                    live -= 1
                    if row != live:
                        move(live, row)
                    alive[live] = count[live] = slots.length[live] = 0
    finally:
        model.config._attn_implementation = attention
        model.train(was_training)
    return results


def sample_within_memory(
    model,
    tokenizer,
    prompts: Sequence[list[int]],
    options: Options,
    samples: int = 1,
    *,
    cap: int | Sequence[int],
    tokens_per_row: int = 0,
    **more,
) -> list[Rollout]:
    """`generate_rollouts` with as many rows as fit: where memory runs out, half of them, from the start with one seed.

    In float32 the answers do not depend on the rows. What fitted stays in `options.rows` for the calls after.

    Args:
        options: `rows` is read, and lowered.
        tokens_per_row: Room that a row takes, for the choice of rows; 0 takes the longest prompt and cap of this call.
        more: The other options of `generate_rollouts`.

    Exits with status 2 and the options to lower where memory runs out on a single row.
    """
    longest = tokens_per_row or max(map(len, prompts), default=0) + (max(cap) if isinstance(cap, Sequence) else cap)
    was_training = model.training
    while True:
        rows = max(1, min(choose_rows(model, options, longest), len(prompts) * samples))
        try:
            return generate_rollouts(model, tokenizer, prompts, samples, cap=cap, rows=rows, **more)
        except Exception as error:
            if not out_of_memory(error):
                raise
        finally:
            model.train(was_training)
        # Only here, after the exception, have its frames let go of the KV cache.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if rows == 1:
            how = "lower --cap (or --val_cap), or take --load_4bit true or --rollout_weights live"
            die(f"out of memory while sampling one row of {longest} tokens: {how}")
        options.rows = rows // 2
        print(f"out of memory with {rows} rows: sampling again with --rows {options.rows}, from now on", flush=True)
        if (bar := more.get("progress")) is not None:
            bar.reset()
            bar.tokens = 0


# ---------------------------------------------------------------------------------------- the command


def rollout_row(problem: dict, sample: int, prompt: str, rollout: Rollout) -> dict:
    """One line of a rollout file; answer, correct and reward are filled in by whoever grades."""
    return {
        "id": problem["id"],
        "sample": sample,
        "problem": problem["problem"],
        "gold": problem["answer"],
        "prompt": prompt,
        "response": rollout.text,
        "n_tokens": len(rollout.ids),
        "finished": rollout.finished,
        "answer": None,
        "correct": None,
        "reward": None,
    }


def main(cfg: Config) -> None:
    if bool(cfg.problem) == bool(cfg.data):
        die("give either --problem TEXT or --data FILE")
    if cfg.data and not cfg.out:
        die("--data needs --out FILE for the rollouts")
    if cfg.out and os.path.exists(cfg.out):
        die(f"--out {cfg.out} exists; choose another name or remove it")
    problems = [{"id": "1", "problem": cfg.problem, "answer": ""}]
    if cfg.data:
        problems = load_problems(cfg.data, cfg.problem_key, cfg.answer_key)
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    model = rollout_model(policy, cfg, cfg.cap)
    prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], cfg.cap)
    shown = ""  # text already printed; a token may hold only part of a character, so decode the whole again
    so_far: list[int] = []

    def show(_: int, token: int) -> None:
        nonlocal shown
        so_far.append(token)
        text = tokenizer.decode(so_far, skip_special_tokens=False)
        if not text.endswith("\ufffd"):
            print(text[len(shown) :], end="", flush=True)
            shown = text

    stream = show if cfg.problem and cfg.samples == 1 else None
    with tqdm(total=len(prompts) * cfg.samples, unit="rollout", disable=stream is not None) as bar:
        try:
            rollouts = sample_within_memory(
                model,
                tokenizer,
                prompts,
                cfg,
                cfg.samples,
                cap=cfg.cap,
                temperature=cfg.temperature,
                top_p=cfg.top_p,
                seed=cfg.seed,
                progress=bar,
                on_token=stream,
            )
        except ValueError as error:
            die(str(error))
    if stream:
        end = "finished" if rollouts[0].finished else f"cut at the cap of {cfg.cap}"
        print(f"\n[{len(rollouts[0].ids)} tokens, {end}]")
    elif cfg.problem:
        for j, rollout in enumerate(rollouts):
            print(f"--- {j}: {len(rollout.ids)} tokens, finished {rollout.finished}\n{rollout.text}")
    if cfg.out:
        rows = []
        for k, rollout in enumerate(rollouts):
            problem = problems[k // cfg.samples]
            prompt = build_prompt(tokenizer, problem["problem"], cfg.cap)
            rows.append(rollout_row(problem, k % cfg.samples, prompt, rollout))
        write_jsonl(cfg.out, rows)
        done = sum(r.finished for r in rollouts)
        print(f"{cfg.out}: {len(rows)} rollouts, {done} finished within {cfg.cap} tokens")
        print(f"next: python reward.py {cfg.out}")


if __name__ == "__main__":
    main(parse(Config))
