"""Prompts, problems and capped rollouts; as a command, samples answers.

    python sample.py --model out/toy_base --problem "From start 10: a +8, b -9, c -8. Find c." --cap 512
    python sample.py --model out/toy_base --data out/toy_base/val.jsonl --samples 4 --cap 512 --out out/rollouts.jsonl
    python sample.py --config config/r1_1.5b_24gb.yaml --adapter out/r1_1.5b_24gb/final --problem "What is 3^5?"

Everything that generates text (training, evaluation, this command) calls `Sampler.sample`. It owns its decode loop
because `model.generate` computes finished rows to the end, copies the whole KV cache at every token and returns no
log-probs. What this one does instead:

- every row of the KV cache has its own length; a row that ends is refilled from the queue at once, and when the queue
  is empty the last live row moves into the hole, so no dead row is ever computed;
- a row's attention reads what that row has, not what the longest has; on CUDA a step is one graph (engine/graphs.py);
- a prompt is run once, however many answers are sampled from it;
- the log-prob of each sampled token comes along, from the full softmax at that temperature;
- the random numbers belong to the request, not to the row: in float32 the same seed gives the same answers with 8 rows
  or with 128 (in bfloat16 rounding may still turn single tokens), so runs can be compared.
"""

import bisect
import functools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import engine  # noqa: F401 (first: so Ctrl-C while torch is imported is one line, too)

# isort: split
import torch

from engine.files import OptionError, Options, die, note, read_json, run, write_jsonl
from engine.graphs import graphed
from engine.guard import compare
from engine.kept import Kept
from engine.memory import choose_rows, until_it_fits
from engine.policy import load_policy, refresh_copy, rollout_model
from engine.problems import load_problems
from engine.progress import Progress
from engine.rows import Requests, Rows
from engine.slots import Prefill, evaluating
from engine.supported import longest_exact
from engine.templates import chat_text, ends_of

# --- yours to edit: what the model is told, where --system and --instruction leave it to this file. {cap} becomes the
# cap, which is named as in the paper; the words are ours.
SYSTEM = (
    "A conversation between User and Assistant. The Assistant first thinks inside <think> </think> "
    "and then gives the answer. The whole output must stay within {cap} tokens."
)
SYSTEM_PLAIN = "A conversation between User and Assistant. The whole output must stay within {cap} tokens."
"""The same for --thinking false."""
INSTRUCTION = "Reason step by step and put the final answer in \\boxed{}."


@dataclass
class Config(Options):
    """Options of sample.py: each is a YAML key and a --flag."""

    adapter: str = ""
    """Folder of a PEFT adapter to put on the base; empty for the bare base."""
    problem: str = ""
    """One problem's text: its answer is printed as it is generated."""
    data: str = ""
    """Problem file (.jsonl, .parquet, .csv) or hub data set `owner/name:config:split`."""
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
    tokenizer: Any = None
    """That wrote `text`."""

    def first(self, n: int) -> str:
        """The text of the first `n` response tokens."""
        return self.text if n >= len(self.ids) else self.tokenizer.decode(self.ids[:n], skip_special_tokens=False)

    def tokens_after(self, what: str) -> int:
        """Response tokens after the one that completes the first `what` in the text, the end token included.

        0 where `what` does not stand there.
        """
        if what not in self.text:
            return 0
        # The text grows with the tokens: how many it takes until `what` stands there is found by halving.
        ids, text_of = self.ids, functools.partial(self.tokenizer.decode, skip_special_tokens=False)
        return len(ids) - bisect.bisect_left(range(len(ids)), True, key=lambda n: what in text_of(ids[:n]))


# ---------------------------------------------------------------------------------------- problems


def prompt_texts(options: Options) -> dict[str, str]:
    """{"system", "instruction"} of a run: as its options have them, else those of this file."""
    system = SYSTEM if options.thinking else SYSTEM_PLAIN
    return {
        "system": system if options.system is None else options.system,
        "instruction": INSTRUCTION if options.instruction is None else options.instruction,
    }


def prompt_messages(problem: str, cap: int, instruction: str = INSTRUCTION, system: str = SYSTEM) -> list[dict]:
    """The chat of `build_prompt` before a template renders it; other engines (scale/) are handed this.

    >>> prompt_messages("1 + 1?", 90, "Be brief.", "Within {cap} tokens.")[0]
    {'role': 'system', 'content': 'Within 90 tokens.'}
    """
    words = instruction.replace("{cap}", str(cap))
    messages = [{"role": "system", "content": system.replace("{cap}", str(cap))}] if system else []
    return [*messages, {"role": "user", "content": f"{problem}\n{words}" if words else problem}]


def build_prompt(tokenizer, problem: str, cap: int, instruction: str = INSTRUCTION, system: str = SYSTEM) -> str:
    """Returns the one prompt that training, evaluation and baselines all use, as text.

    Args:
        tokenizer: Its chat template decides whether <think> is already open.
        problem: The problem's text.
        cap: Stands in the place of {cap} in both texts; nothing else in them is replaced.
        instruction: What stands after the problem; empty leaves the problem alone.
        system: The system message; empty for none.
    """
    return chat_text(tokenizer, prompt_messages(problem, cap, instruction, system))


def encode_prompts(
    tokenizer, problems: Sequence[str], cap: int, instruction: str = INSTRUCTION, system: str = SYSTEM
) -> tuple[list[str], list[list[int]]]:
    """(text, token ids) of each problem's prompt. The template writes its own special tokens: none are added here."""
    if "{cap}" not in system + instruction:
        note("the prompt does not name the cap: there is no {cap} in --system or --instruction")
    elif str(cap) not in build_prompt(tokenizer, "-", cap, instruction, system):
        die(f"the chat template drops the cap of {cap} from the prompt: name {{cap}} in --instruction")
    texts = [build_prompt(tokenizer, p, cap, instruction, system) for p in problems]
    return texts, [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def compare_prompt(options: Options, adapter: str) -> None:
    """Notes where an adapter was trained with another prompt than this run's, by nanoprune.json beside it."""
    path = os.path.join(adapter, "nanoprune.json")
    there = read_json(path) if adapter and os.path.isfile(path) else {}
    here = prompt_texts(options) | {"template_options": options.template_options, "thinking": options.thinking}
    for key in here.keys() & there.keys():
        if here[key] != there[key]:
            note(f"adapter {adapter} was trained with another {key}: {there[key]!r} there, {here[key]!r} now")


def checked_prompts(
    options: Options, tokenizer, config, source: str, problems: list[dict], cap: int, named: int
) -> list[list[int]]:
    """Token ids of each problem's prompt, which names a cap; exits with status 2 where they cannot be answered.

    Args:
        config: The model's: the longest prompt and `cap` must not exceed what the sampler decodes as the model would.
        source: Where the problems are from, for the message.
    """
    _, prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], named, **prompt_texts(options))
    limit, why = longest_exact(config)
    longest = max(range(len(prompts)), key=lambda i: len(prompts[i]))
    if len(prompts[longest]) + cap > limit:
        name, size = problems[longest]["id"], len(prompts[longest])
        die(f"{source}: the prompt of problem {name} has {size} tokens, which with a cap of {cap} exceeds the model's "
            f"{why} of {limit}; take a lower cap, or drop the problem")  # fmt: skip
    return prompts


# ---------------------------------------------------------------------------------------- the decode loop


class Sampler:
    """Decodes capped rollouts from one policy, as many at a time as memory holds.

    Args:
        policy: What `load_policy` returned, or any `transformers` decoder.
        options: `rows`, `rollout_weights` and what else `memory.plan` reads.
        tokens_per_row: Longest prompt plus cap of training, for the choice between merged and live weights on a card.
        decode: graph: one CUDA graph a step (auto: where `varlen_attn` works).
        end_ids: Tokens that end a response; by default those of the tokenizer and of the model's generation config.

    `tokens` and `seconds` add up what was decoded, and how long that took.

    Exits with status 2 where it would decode another model than the policy's own forward is (`guard.compare`).
    """

    def __init__(
        self,
        policy,
        tokenizer,
        options: Options,
        tokens_per_row: int = 0,
        decode: Literal["auto", "graph", "eager"] = "auto",
        end_ids: Sequence[int] | None = None,
    ):
        self.policy, self.tokenizer, self.options = policy, tokenizer, options
        self.model = rollout_model(policy, options, tokens_per_row)
        self.rows, self.decode_with = options.rows, decode
        self.ends = ends_of(tokenizer, self.model.generation_config) if end_ids is None else set(end_ids)
        self.tokens, self.seconds = 0, 0.0
        compare(policy, self.model, options)

    def refresh(self) -> None:
        """Brings the merged copy up to date with the policy; nothing to do for live weights."""
        if hasattr(self.policy, "get_base_model") and self.model is not self.policy.get_base_model():
            refresh_copy(self.model, self.policy)

    def sample(
        self,
        prompts: Sequence[list[int]],
        samples: int = 1,
        *,
        cap: int | Sequence[int],
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        label: str = "",
        on_token: Callable[[int, int], None] | None = None,
        kept: Kept | None = None,
    ) -> list[Rollout]:
        """Samples `samples` capped answers to each prompt; element i * samples + j is answer j to prompt i.

        Where memory runs out, it begins again with fewer rows; in float32 the answers do not depend on the rows.

        Args:
            prompts: Token ids of each prompt.
            cap: Most response tokens, the end token included; one number, or one a rollout.
            temperature: 0 is greedy. top_p: in (0, 1].
            seed: Answer k depends on (seed, k) alone, up to rounding where a random number falls on a boundary.
            label: Shows a progress bar of this name on a terminal; none where it is empty.
            on_token: Called with (rollout, token) for every token as it is sampled.
            kept: Rollouts that it has are not sampled again (each log-prob is their mean), and it gets those that are.

        Raises:
            OptionError: An option outside its range, an empty prompt, or prompt + cap beyond the model's context, its
                sliding window or the short length of its longrope.

        Exits with status 2 and the options to lower where memory runs out on a single row.
        """
        caps = list(cap) if isinstance(cap, Sequence) else [cap] * (len(prompts) * samples)
        requests = Requests(prompts, samples, caps, temperature, top_p, seed, label, on_token, kept)
        requests.check(self.model.config)
        if len(requests) == 0:
            return []
        tokens = requests.longest + max(caps)  # a validation's are more than those of a training step
        rows = min(choose_rows(self.model, self.options, tokens, self.rows, top_p), len(requests))
        hopeless = f"while sampling one row of {tokens} tokens: lower the cap, or take --load_4bit true"
        rollouts, fitted = until_it_fits(functools.partial(self.decode, requests), rows, 1, "--rows", hopeless)
        self.rows = self.rows if fitted == rows else fitted
        return rollouts

    @torch.no_grad()
    def decode(self, requests: Requests, size: int) -> list[Rollout]:
        """The loop: `size` rows at a time until the queue of requests is empty."""
        results, kept, started = [None] * len(requests), requests.kept, time.time()
        for k, (ids, mean) in kept.found.items() if kept else ():
            results[k] = self.rollout(requests.prompts[k // requests.samples], ids, torch.full((len(ids),), mean))
        queue, made = deque(k for k, result in enumerate(results) if result is None), 0
        with evaluating(self.model), Progress(requests.label, len(requests)) as progress:
            progress.step(more=len(requests) - len(queue))
            rows, prefill = Rows(self.model, size, requests, sorted(self.ends)), Prefill(self.model, requests.prompts)
            graph = self.decode_with == "graph" or (self.decode_with == "auto" and rows.slots.varlen)
            step = graphed(rows.step, size, self.model.device, rows.state) if graph else rows.step
            while queue or rows.live:
                while queue and rows.live < size:
                    rows.admit(rows.live, queue.popleft(), requests, prefill)
                rows.arrange(by_band=not graph)  # a graph is of one width
                step(rows.live)
                rows.settle()
                rows.now += 1
                if requests.on_token:
                    for row, token in enumerate(rows.token[: rows.live].tolist()):
                        requests.on_token(rows.request[row], token)
                # From the back, so that the rows behind are live: hand out, then refill.
                for row in rows.ended[: rows.live].nonzero()[:, 0].flip(0).tolist():
                    k, ids, logp = rows.take(row)
                    results[k] = self.rollout(requests.prompts[k // requests.samples], ids, logp)
                    if kept:
                        kept.add(k, ids, logp.mean().item())
                    made += len(ids)
                    progress.step(f"{made / max(1e-9, time.time() - started):.0f} tokens/s")
                    hole = rows.hole_to_last_band(row)
                    if queue:
                        rows.admit(hole, queue.popleft(), requests, prefill)
                    else:
                        rows.close(hole)
        self.tokens, self.seconds = self.tokens + made, self.seconds + time.time() - started
        return results

    def rollout(self, prompt: list[int], ids: list[int], logp: torch.Tensor) -> Rollout:
        """A row that ended, with its text."""
        if logp.isnan().any():
            raise OptionError("the model's log-probs are NaN: its weights are damaged, or this needs --dtype float32")
        finished = ids[-1] in self.ends
        text = self.tokenizer.decode(ids[:-1] if finished else ids, skip_special_tokens=False)
        return Rollout(prompt, ids, logp, finished, text, self.tokenizer)


# ---------------------------------------------------------------------------------------- the command


def rollout_rows(problems: list[dict], prompts: list[str], rollouts: list[Rollout]) -> list[dict]:
    """The lines of a rollout file; answer, correct and reward are filled in by whoever grades.

    Args:
        rollouts: As many to each problem, problem after problem. A problem that stands in several rows has its samples
            counted over all of them.
    """
    rows, counts, samples = [], Counter(), len(rollouts) // max(1, len(problems))
    for k, rollout in enumerate(rollouts):
        problem = problems[k // samples]
        row = {"id": problem["id"], "sample": counts[problem["id"]], "problem": problem["problem"]}
        row |= {"gold": problem["answer"], "prompt": prompts[k // samples], "response": rollout.text}
        row |= {"n_tokens": len(rollout.ids), "finished": rollout.finished}
        row["mean_logp"] = round(rollout.logp.mean().item(), 3)
        rows.append(row | {"answer": None, "correct": None, "reward": None})
        counts[problem["id"]] += 1
    return rows


class Stream:
    """Prints one answer as it is sampled."""

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.shown = tokenizer, [], 0

    def __call__(self, _: int, token: int) -> None:
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=False)
        if not text.endswith("\ufffd"):  # a token may hold only a part of a character
            print(text[self.shown :], end="", flush=True)
            self.shown = len(text)


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
    compare_prompt(cfg, cfg.adapter)
    texts, prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], cfg.cap, **prompt_texts(cfg))
    stream = Stream(tokenizer) if cfg.problem and cfg.samples == 1 else None
    settings = {"cap": cfg.cap, "temperature": cfg.temperature, "top_p": cfg.top_p, "seed": cfg.seed}
    label = "" if stream else "sampling"
    rollouts = Sampler(policy, tokenizer, cfg).sample(prompts, cfg.samples, **settings, label=label, on_token=stream)
    if stream:
        end = "finished" if rollouts[0].finished else f"cut at the cap of {cfg.cap}"
        print(f"\n[{len(rollouts[0].ids)} tokens, {end}]")
    elif cfg.problem:
        for j, rollout in enumerate(rollouts):
            print(f"--- {j}: {len(rollout.ids)} tokens, finished {rollout.finished}\n{rollout.text}")
    if cfg.out:
        write_jsonl(cfg.out, rollout_rows(problems, texts, rollouts))
        done = sum(r.finished for r in rollouts)
        print(f"{cfg.out}: {len(rollouts)} rollouts, {done} finished within {cfg.cap} tokens")
        print(f"next: python reward.py {cfg.out}")


if __name__ == "__main__":
    run(main, Config, also="train_prune")
