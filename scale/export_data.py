"""Writes a problem file as TRL and verl read it: our prompt as messages, the gold answer, the cap.

    python -m scale.export_data --config config/toy.yaml --cap 260 --out out/toy_data/cap260
    python -m scale.export_data --config config/toy.yaml --cap 260 --reward kimi --out out/toy_data/kimi

Writes train.jsonl for trl_prune.py, train.parquet for verl, and export.json with the longest prompt in tokens. The
cap stands in the prompt, so each round has its own export.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import train_prune
from engine.files import die, explained, note, run, write_jsonl, write_text
from engine.policy import open_model
from engine.problems import load_problems
from engine.rewards import by_name
from engine.templates import add_turn_end, ends_of, fitting
from length_rewards import REWARDS
from sample import build_prompt, checked_prompts, prompt_messages, prompt_texts


@dataclass
class Config(train_prune.Config):
    """Options of export_data.py: those of train_prune.py, and the target."""

    out: str = "out/export"
    """Folder for the files; an existing file is not written over."""


REFERENCE = ("ref_tokens", "ref_accuracy")  # columns that a reward may need; others stay behind


def rows_of(tokenizer, problems: list[dict], cfg: Config, ends: list[int]) -> tuple[list[dict], list[dict]]:
    """(rows for TRL, rows for verl), one each for a problem."""
    ours, theirs = [], []
    for index, problem in enumerate(problems):
        prompt = fitting(tokenizer, prompt_messages(problem["problem"], cfg.cap, **prompt_texts(cfg)))
        row = {"id": problem["id"], "answer": problem["answer"], "cap": cfg.cap}
        row |= {key: problem[key] for key in REFERENCE if problem.get(key) is not None}
        ours.append({"prompt": prompt, **row})
        info = row | {"index": index, "thinking": cfg.thinking, "end_ids": ends}
        info |= {"reward": cfg.reward, "reward_options": json.dumps(cfg.reward_options)}  # parquet has no empty dicts
        reward_model = {"style": "rule", "ground_truth": problem["answer"]}
        row = {"data_source": "nanoprune", "prompt": prompt, "ability": "math", "reward_model": reward_model}
        theirs.append(row | {"extra_info": info})
    return ours, theirs


def main(cfg: Config) -> None:
    import pyarrow
    import pyarrow.parquet
    from transformers import GenerationConfig

    out = Path(cfg.out)
    for name in ("train.jsonl", "train.parquet", "export.json"):
        if (out / name).exists():
            die(f"--out {out}: {name} exists; choose another folder or remove it")
    train_prune.check_options(cfg)
    problems = load_problems(cfg.train_data, cfg.problem_key, cfg.answer_key)
    with explained("", ValueError):
        by_name(REWARDS, cfg.reward, cfg.reward_options, problems, cfg.thinking, cfg.group, cfg.cap)
    tokenizer, config = open_model(cfg)
    try:
        model = SimpleNamespace(generation_config=GenerationConfig.from_pretrained(cfg.model))
    except OSError:  # none there
        model = SimpleNamespace(generation_config=GenerationConfig.from_model_config(config))
    add_turn_end(model, tokenizer, cfg.model)
    ends = sorted(ends_of(tokenizer, model.generation_config))

    prompts = checked_prompts(cfg, tokenizer, config, cfg.train_data, problems, cfg.cap, cfg.cap)
    ours, theirs = rows_of(tokenizer, problems, cfg, ends)
    options = {"tokenize": False, "add_generation_prompt": True, **cfg.template_options}
    written = build_prompt(tokenizer, problems[0]["problem"], cfg.cap, **prompt_texts(cfg))
    if tokenizer.apply_chat_template(ours[0]["prompt"], **options) != written:
        note("TRL and verl write today's date into the prompt, eval.py always 26 July 2024: the prompts differ in that")

    write_jsonl(out / "train.jsonl", ours)
    with explained(f"{out / 'train.parquet'} cannot be written", OSError):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(theirs), out / "train.parquet")
    longest = max(map(len, prompts))
    about = {"longest_prompt": longest, "end_ids": ends, "n_problems": len(problems)} | dataclasses.asdict(cfg)
    write_text(out / "export.json", json.dumps(about, indent=1) + "\n")
    print(f"{out}: {len(problems)} problems, cap {cfg.cap}, longest prompt {longest} tokens, end tokens {ends}")


if __name__ == "__main__":
    run(main, Config)
