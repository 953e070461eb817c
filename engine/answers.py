"""Answers to learn from, as token ids: what sft.py reads, chooses and encodes.

A source is a rollout file, rows with a problem and a response, or chats (docs/data.md). Prompt and response are joined
as token ids. They never go through the template's assistant turn, because some templates delete the thought there.
"""

import os
import random
from collections import Counter
from itertools import takewhile
from typing import NamedTuple

import reward
from data.contests import normal
from engine.files import die, note
from engine.problems import PROBLEM_NAMES, answer_text, find_column, load_problems, load_table, pick, problem_text
from engine.supported import longest_exact
from engine.templates import end_token
from sample import encode_prompts, prompt_texts

# Sky-T1's words for what we and most models call <think>.
TAGS = {"<|begin_of_thought|>": "<think>", "<|end_of_thought|>": "</think>",
        "<|begin_of_solution|>": "", "<|end_of_solution|>": ""}  # fmt: skip
YES, NO = ("true", "1", "yes"), ("false", "0", "no")  # what a cell of a flag may say


class Answer(NamedTuple):
    """One response to learn, with its prompt; its tokens have the end token where it has ended."""

    problem: str
    prompt_ids: list[int]
    ids: list[int]

    @property
    def length(self) -> int:
        """Tokens of prompt and response."""
        return len(self.prompt_ids) + len(self.ids)


# ---------------------------------------------------------------------------------------- reading


def read_answers(source: str, cfg) -> list[dict]:
    """Rows with `problem`, `response`, `finished`, `correct` (None: to be graded), `gold`, and what a rollout file has.

    A cell with several responses makes several rows. Exits with status 2, naming the row, where a column lacks.
    """
    table = list(load_table(source))
    columns = list(dict.fromkeys(key for row in table for key in row))
    asked = chat = next((name for name in ("messages", "conversations") if name in columns), None)
    if cfg.response_key.split(".")[0] in columns:
        asked, chat = find_column(columns, cfg.problem_key, PROBLEM_NAMES, source), None
    if not asked:
        die(f"{source} has no column {cfg.response_key!r}, only {columns}; name it with --response_key")
    if chat:
        note(f"{source}: of each chat in {chat} the last question and its answer are read")
    rows = []
    for number, row in enumerate(table, start=1):
        problem, found = last_exchange(row.get(chat)) if chat else (pick(row, asked), pick(row, cfg.response_key))
        problem, found = problem_text(problem), found if isinstance(found, list) else [found]
        thought = pick(row, cfg.thinking_key) if cfg.thinking_key else "none"
        blank = not (isinstance(thought, str) and thought.strip() and problem.strip())
        if blank or not found or not all(isinstance(text, str) for text in found):
            wanted = ", ".join(filter(None, (asked, chat or cfg.response_key, cfg.thinking_key)))
            die(f"{source} row {number} has no text in one of {wanted}; its columns: {', '.join(row)}")
        gold = answer_text(row["gold"] if "gold" in row else pick(row, cfg.answer_key))
        ended = row.get("finished", row.get("is_reasoning_complete"))  # the latter: OpenR1-Math, a list
        sampled = {"prompt", "n_tokens", "response_ids"} - {asked}
        one = {key: row[key] for key in sampled if row.get(key) is not None} | {"problem": problem, "gold": gold}
        for k, text in enumerate(found):
            finished = flag(ended, k, f"{source} row {number}: finished")
            correct = None if cfg.keep == "all" else flag(row.get("correct"), k, f"{source} row {number}: correct")
            text = tagged(text, thought if cfg.thinking_key else "")
            rows.append(one | {"response": text, "finished": finished is not False, "correct": correct})
    return rows


def flag(value, k: int, where: str) -> bool | None:
    """Response k's own of a row's flags, or the one for all of them; None where there is none.

    >>> flag("False", 0, ""), flag([True, 0], 1, ""), flag([True], 1, ""), flag("", 0, "")
    (False, False, None, None)
    >>> flag("Yes", 0, "")
    True
    """
    if isinstance(value, list):
        value = value[k] if k < len(value) else None
    if value is None or value == "":
        return None
    text = str(value).strip().lower().removesuffix(".0")
    if text not in (*YES, *NO):
        die(f"{where} is {value!r}, which is none of {', '.join((*YES, *NO))}")
    return text in YES


def last_exchange(chat) -> tuple[str, str | None]:
    """The last answer in a chat and the user's message before it.

    >>> last_exchange([{"from": "user", "value": "1 + 1?"}, {"from": "assistant", "value": "2"}])
    ('1 + 1?', '2')
    """
    chat = [turn for turn in chat or [] if isinstance(turn, dict)]
    answers = [i for i, turn in enumerate(chat) if turn.get("role", turn.get("from")) in ("assistant", "gpt")]
    before = chat[: answers[-1]] if answers else []
    return problem_text(before), chat[len(before)].get("content", chat[len(before)].get("value")) if before else None


def tagged(text: str, thought: str = "") -> str:
    r"""The response with its thought in <think> </think>.

    >>> tagged("2", "1 + 1 = 2"), tagged("<|begin_of_thought|>\n\nHm.\n\n<|end_of_thought|>")
    ('<think>\n1 + 1 = 2\n</think>\n\n2', '<think>\n\nHm.\n\n</think>')
    """
    for theirs, ours in TAGS.items():
        text = text.replace(theirs, ours)
    return f"<think>\n{thought.strip()}\n</think>\n\n{text.strip()}" if thought else text


# ---------------------------------------------------------------------------------------- choosing


def kept(rows: list[dict], keep: str, thinking: bool, out: Counter) -> list[dict]:
    """The rows that may be learnt, without repetitions; `out` gets how many were left out, by reason.

    Here "shortest" is as "right"; see `shortest`.
    """
    if keep != "all":
        unknown = [row for row in rows if row["correct"] is None]
        if bare := [row for row in unknown if not row["gold"]]:
            die(f"--keep {keep}: {bare[0]['problem'][:60]!r} has neither a verdict (correct) nor an answer to grade it "
                "with; name its column with --answer_key, or take --keep all")  # fmt: skip
        verdicts = reward.grade([row["response"] for row in unknown], [row["gold"] for row in unknown], thinking)
        for row, verdict in zip(unknown, verdicts):
            row["correct"] = verdict.correct
    found: dict[tuple, dict] = {}
    for row in rows:
        same = (" ".join(row["problem"].split()), row["response"])
        if not row["response"].strip():
            out["empty"] += 1
        elif keep != "all" and not (row["finished"] and row["correct"]):
            out["wrong" if row["finished"] else "cut off"] += 1
        elif same in found:
            out["doubled"] += 1
        else:
            found[same] = row
    return list(found.values())


def shortest(answers: list[Answer]) -> list[Answer]:
    """Of each problem the answer with the fewest tokens, the first of equals.

    >>> [len(a.ids) for a in shortest([Answer("p", [1], [5, 6]), Answer("p", [1], [7]), Answer("q", [2], [8, 9])])]
    [1, 2]
    """
    best: dict[str, Answer] = {}
    for answer in answers:
        if answer.problem not in best or len(answer.ids) < len(best[answer.problem].ids):
            best[answer.problem] = answer
    return list(best.values())


def without_held_out(rows: list[dict], cfg, out: Counter) -> list[dict]:
    """The rows without problems of validation and test (normal form of data/contests.py); exits with 2 for some."""
    held_out = {normal(problem["problem"]): path for path in (cfg.val_data, cfg.test_data) if path
                for problem in load_problems(path, cfg.problem_key, cfg.answer_key)}  # fmt: skip
    names = [normal(row["problem"]) for row in rows]
    leaks = Counter(held_out[name] for name in names if name in held_out)
    if leaks and not cfg.drop_held_out:
        named = ", ".join(f"{n} to problems of {path}" for path, n in leaks.items())
        die(f"--data {cfg.data} holds answers {named}, which must not be learnt; --drop_held_out true leaves them out")
    out.update({f"in {path}": n for path, n in leaks.items()})
    return [row for row, name in zip(rows, names) if name not in held_out]


# ---------------------------------------------------------------------------------------- encoding


def encode(rows: list[dict], tokenizer, cfg) -> list[Answer]:
    """Token ids of prompts and responses; exits with status 2 for what another prompt or tokenizer has made."""
    cap = cfg.prompt_cap or cfg.eval_cap
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    texts, prompts = encode_prompts(tokenizer, problems, cap, **prompt_texts(cfg))
    prompt_of = dict(zip(problems, zip(texts, prompts)))
    end = end_token(tokenizer)
    for row in rows:
        text = prompt_of[row["problem"]][0]
        if row.get("prompt", text) != text:
            i = max(0, len(os.path.commonprefix([text, row["prompt"]])) - 20)
            die(f"--data: an answer was given to another prompt, {row['prompt'][i : i + 60]!r} there and "
                f"{text[i : i + 60]!r} with --prompt_cap {cap}, --system, --instruction and the template here; give "
                "the same, or drop the columns prompt and n_tokens")  # fmt: skip
        if "prompt" not in row and text.rstrip().endswith("<think>"):  # the template has opened the thought already
            row["response"] = row["response"].lstrip().removeprefix("<think>").lstrip("\n")
    encoded = tokenizer([row["response"] for row in rows], add_special_tokens=False).input_ids if rows else []
    answers, ours, theirs = [], 0, 0
    for row, ids in zip(rows, encoded):
        ids = [*takewhile(lambda token: token != end, ids)] + [end] * row["finished"]
        if sampled := row.get("response_ids"):
            body = sampled[: len(sampled) - row["finished"]]
            if tokenizer.decode(body, skip_special_tokens=False) != row["response"]:
                die(f"--data: the response_ids of an answer to {row['problem'][:40]!r} are not its text with the "
                    f"tokenizer of --model {cfg.model}; drop that column to encode the text")  # fmt: skip
            ids = list(sampled)
        elif "n_tokens" in row:
            ours, theirs = ours + len(ids), theirs + row["n_tokens"]
        answers.append(Answer(" ".join(row["problem"].split()), prompt_of[row["problem"]][1], ids))
    if abs(ours - theirs) > 0.05 * theirs:  # a text has several spellings in tokens, seldom ones of other lengths
        die(f"--data: the answers have {theirs} tokens by n_tokens, and {ours} with the tokenizer of --model "
            f"{cfg.model}: another one has made them; drop the columns prompt and n_tokens")  # fmt: skip
    return answers


def split(answers: list[Answer], share: float, seed: int) -> tuple[list[Answer], list[Answer]]:
    """(to learn from, for the validation loss): whole problems are kept back, at least one where there are two."""
    problems = list(dict.fromkeys(answer.problem for answer in answers))
    n = min(max(1, round(share * len(problems))), len(problems) - 1) if share > 0 else 0
    back = set(random.Random(f"{seed} validation").sample(problems, n))
    return [a for a in answers if a.problem not in back], [a for a in answers if a.problem in back]


def load_answers(cfg, tokenizer, config) -> tuple[list[Answer], list[Answer], list[str]]:
    """(to learn from, for the validation loss, lines for the log); exits with status 2 where nothing is left."""
    if not cfg.data:
        die("--data: name a file of answers (python sample.py --data ... --out FILE writes one)")
    limit, what = longest_exact(config)
    if cfg.max_tokens > limit:
        die(f"--max_tokens {cfg.max_tokens} exceeds the model's {what} of {limit}")
    rows = [row for source in cfg.data.split(",") for row in read_answers(source.strip(), cfg)]
    n_rows, out = len(rows), Counter()
    rows = kept(without_held_out(rows, cfg, out), cfg.keep, cfg.thinking, out)
    whole = encode(rows, tokenizer, cfg)
    answers = [answer for answer in whole if answer.ids and answer.length <= cfg.max_tokens]
    out[f"over --max_tokens {cfg.max_tokens}"] += len(whole) - len(answers)
    if cfg.keep == "shortest":
        n, answers = len(answers), shortest(answers)
        out["longer than the shortest"] += n - len(answers)
    why = ", ".join(f"{n} {reason}" for reason, n in out.items() if n)
    if not answers:
        die(f"--data {cfg.data}: none of {n_rows} answers is left with --keep {cfg.keep} ({why})")
    train, val = split(answers, cfg.val_share, cfg.seed)
    tokens, problems = sum(len(a.ids) for a in train), len({a.problem for a in train})
    line = f"{len(train)} answers to {problems} problems with {tokens} tokens to learn from, {len(val)} for the loss"
    return train, val, [line, f"left out of {n_rows}: {why}" if why else f"all {n_rows} answers are taken"]
