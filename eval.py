"""pass@1 and length of a base model or an adapter, over k samples a problem.

    python eval.py --model out/toy_base --data out/toy_base/test.jsonl --cap 640 --samples 4 --out_dir out/eval_base
    python eval.py --like config/toy.yaml --adapter out/toy/final --prompt_cap 125 --samples 4 --out_dir out/eval_final
    python eval.py report out/toy          # summary.json and summary.md of a schedule's run folder
    python eval.py compare out/toy/base_test out/toy/final_test         # all analyses side by side (analyse.py)
    python eval.py --like config/toy.yaml --samples 4 --instruction "Be brief." --out_dir out/eval_brief

Unlike the paper's evaluation, training, validation and test share one prompt builder, every pass@1 has a
standard error clustered by problem (the k answers to one problem are not k independent draws), and
a rollout that the cap cuts off is wrong whatever stands in it.
"""

import dataclasses
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

import reward
from engine.files import Options, die, first_line, parse, read_json, write_jsonl, write_text
from engine.policy import load_policy, rollout_model
from sample import INSTRUCTION, build_prompt, encode_prompts, load_problems, rollout_row, sample_within_memory


@dataclass
class Config(Options):
    """Options of eval.py: each is a YAML key and a --flag."""

    adapter: str = ""
    """Folder of a PEFT adapter to put on the base; empty for the bare base."""
    data: str = "out/toy_base/test.jsonl"
    """Problem file (JSON lines) or hub data set `id:split`."""
    cap: int = 32768
    """Token cap on the whole response: a rollout that has not ended by then is wrong."""
    prompt_cap: int = 0
    """Cap that the prompt names; 0 names `cap`. A pruned model is used with the cap it was trained under."""
    instruction: str = INSTRUCTION
    """What the prompt asks for after the problem's text."""
    samples: int = 16
    """Answers per problem (k)."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.95
    """Nucleus: smallest set of tokens with at least this probability."""
    max_problems: int = 0
    """Take only the first so many problems; 0 takes all."""
    out_dir: str = "out/eval"
    """Folder for eval.json and rollouts.jsonl."""
    overwrite: bool = False
    """Write over an eval.json that is there."""


# A training config says how its run validates; `--like` takes that over (training name -> name here).
LIKE = {field.name: field.name for field in dataclasses.fields(Options)}
LIKE |= {"val_cap": "cap", "val_temperature": "temperature", "val_top_p": "top_p", "val_samples": "samples"}


# ---------------------------------------------------------------------------------------- formulas


def mean_and_se(groups: list[list[float]]) -> tuple[float | None, float | None]:
    """Mean over all values and its standard error with the groups (problems) as clusters.

    Args:
        groups: The values of each problem, at least one each.

    Returns:
        (mean, standard error); the error is None for fewer than two problems, both are None for none.

    >>> mean, se = mean_and_se([[1, 1], [0, 0], [1, 0]])
    >>> mean, round(se, 4)
    (0.5, 0.2887)

    Source: cluster-robust variance of a mean with n/(n-1), e.g. Cameron and Miller 2015; for equal group
    sizes it is the standard error of the group means.
    """
    n, total = len(groups), sum(map(len, groups))
    if total == 0:
        return None, None
    mean = sum(map(sum, groups)) / total
    if n < 2:
        return mean, None
    spread = sum((sum(g) - len(g) * mean) ** 2 for g in groups)
    return mean, math.sqrt(n / (n - 1) * spread) / total


def metrics(rows: list[dict]) -> dict:
    """The figures of eval.json from graded rollout rows (`id`, `n_tokens`, `finished`, `correct`).

    >>> row = {"id": "a", "n_tokens": 4, "finished": True, "correct": True}
    >>> m = metrics([row, row | {"id": "b", "n_tokens": 8, "finished": False}])
    >>> m["pass@1"], m["mean_tokens"], m["mean_tokens_wrong"], m["finished"]
    (0.5, 6.0, 8.0, 0.5)
    """
    right = [row["correct"] and row["finished"] for row in rows]

    def by_problem(values: list[float], keep: list[bool] | None = None) -> tuple[float | None, float | None]:
        groups: dict[str, list[float]] = {}
        for i, (row, value) in enumerate(zip(rows, values)):
            if keep is None or keep[i]:
                groups.setdefault(row["id"], []).append(float(value))
        return mean_and_se(list(groups.values()))

    tokens = [row["n_tokens"] for row in rows]
    pass1, pass1_se = by_problem(right)
    mean_tokens, mean_tokens_se = by_problem(tokens)
    finished, finished_se = by_problem([row["finished"] for row in rows])
    problems = len({row["id"] for row in rows})
    return {
        "pass@1": pass1,
        "pass@1_se": pass1_se,
        "mean_tokens": mean_tokens,
        "mean_tokens_se": mean_tokens_se,
        "mean_tokens_correct": by_problem(tokens, right)[0],
        "mean_tokens_wrong": by_problem(tokens, [not r for r in right])[0],
        "finished": finished,
        "finished_se": finished_se,
        "n_problems": problems,
        "n_samples": len(rows) // max(1, problems),
    }


# ---------------------------------------------------------------------------------------- measuring


def evaluate(
    model,
    tokenizer,
    problems,
    options: Options,
    *,
    samples,
    cap,
    prompt_cap,
    temperature,
    top_p,
    instruction=INSTRUCTION,
    label="eval",
    check=None,
) -> list[dict]:
    """Graded rollout rows (DESIGN: rollout files) of `samples` answers to each problem. Used by training, too.

    Args:
        model: Decoder to sample from (`policy.rollout_model`).
        problems: Rows with `id`, `problem`, `answer`.
        options: `rows`, `seed` and `thinking` are read; `rows` is lowered where memory runs out.
        instruction: What the prompt asks for after the problem's text.
        label: Text before the progress bar.
        check: Called before every decoded token; what it raises ends the evaluation.
    """
    prompts = encode_prompts(tokenizer, [p["problem"] for p in problems], prompt_cap, instruction)
    with tqdm(total=len(prompts) * samples, desc=label, unit="rollout", leave=False, disable=None) as bar:
        rollouts = sample_within_memory(
            model,
            tokenizer,
            prompts,
            options,
            samples,
            cap=cap,
            temperature=temperature,
            top_p=top_p,
            seed=options.seed,
            progress=bar,
            check=check,
        )
    result = []
    for i, problem in enumerate(problems):
        prompt = build_prompt(tokenizer, problem["problem"], prompt_cap, instruction)
        for j in range(samples):
            result.append(rollout_row(problem, j, prompt, rollouts[i * samples + j]))
    grades = reward.grade([r["response"] for r in result], [r["gold"] for r in result], options.thinking)
    for row, grade in zip(result, grades):
        row["answer"], row["correct"] = grade.answer, grade.correct
        row["reward"] = reward.thinkprune(grade.correct, row["finished"], row["n_tokens"], cap)
    return result


# ---------------------------------------------------------------------------------------- reading back


# ---------------------------------------------------------------------------------------- the commands


def report(run: str) -> None:
    """Writes summary.json and summary.md into a schedule's run folder from the files of its rounds.

    Args:
        run: Run folder, as left by schedule.sh: base_test/, final_test/, cap<L>/.
    """
    folder = Path(run)

    def read(path: Path, keys: str) -> dict:
        if not path.is_file():
            die(f"{path} is missing: run bash schedule.sh until it ends")
        found = read_json(path)
        if lacking := sorted(set(keys.split()) - found.keys()):
            die(f"{path} is damaged: no {', '.join(lacking)} in it")
        return found

    wanted = "pass@1 pass@1_se mean_tokens n_problems n_samples seconds "
    wanted += "model data temperature top_p cap prompt_cap seed"
    base, final, reference = (read(folder / name / "eval.json", wanted) for name in ("base_test", "final_test", "base"))
    rounds, seconds = [], base["seconds"] + final["seconds"] + reference["seconds"]
    for path in sorted(folder.glob("cap*/selection.json"), key=lambda p: -int(p.parent.name[3:])):
        chosen = read(path, "step why seconds checkpoints")
        seconds += chosen["seconds"]
        cap = int(path.parent.name[3:])
        picked = next((c for c in chosen["checkpoints"] if c["step"] == chosen["step"]), {})
        rounds.append({**picked, "cap": cap, "step": chosen["step"], "why": chosen["why"]})
    summary = {
        "base": base,
        "rounds": rounds,
        "final": final,
        "tokens_ratio": final["mean_tokens"] / base["mean_tokens"],
        "pass@1_change": final["pass@1"] - base["pass@1"],
        "seconds": round(seconds, 1),
    }
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")

    def line(name: str, step, m: dict, whole: dict) -> str:
        if "pass@1" not in m:
            return f"| {name} | - | start kept: no checkpoint qualified | | |"
        se = "" if m["pass@1_se"] is None else f" +- {100 * m['pass@1_se']:.1f}"
        share = m["mean_tokens"] / whole["mean_tokens"]
        return f"| {name} | {step} | {100 * m['pass@1']:.1f}{se} | {m['mean_tokens']:.0f} | {share:.1%} |"

    lines = [
        f"# {folder.name}: {summary['tokens_ratio']:.1%} of the tokens, pass@1 "
        f"{100 * summary['pass@1_change']:+.1f} points",
        "",
        f"`python eval.py report {run}` made this page. Model {base['model']}; test: {base['n_problems']} problems x "
        f"{base['n_samples']} samples of {base['data']}, temperature {base['temperature']}, top_p {base['top_p']}, "
        f"cap {base['cap']}, the prompt names {base['prompt_cap']}, seed {base['seed']}. "
        "+- is one standard error, clustered by problem. In a round's validation the prompt names its own cap.",
        "",
        "| | step | pass@1 % | mean tokens | share of base |",
        "|---|---|---|---|---|",
        line("base, validation", "-", reference, reference),
        *(line(f"cap {r['cap']}, validation", r["step"], r, reference) for r in rounds),
        line("base, **test**", "-", base, base),
        line("final, **test**", next((r["step"] for r in reversed(rounds) if r["step"]), "-"), final, base),
        "",
        f"Time: {summary['seconds']:.0f} s (evaluations and rounds, model loading left out).",
        "",
    ]
    write_text(folder / "summary.md", "\n".join(lines))
    print("\n".join(lines))


def like(path: str) -> dict:
    """Defaults for this script out of a training config (YAML), by the table LIKE."""
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError:
        die(f"--like {path!r} cannot be read: name a training config")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        die(f"--like {path} is not YAML: {first_line(error)}")
    return {here: options[name] for name, here in LIKE.items() if name in options}


def main(cfg: Config) -> None:
    out = Path(cfg.out_dir)
    if (out / "eval.json").exists() and not cfg.overwrite:
        die(f"{out / 'eval.json'} exists; give another --out_dir, or --overwrite true")
    if cfg.cap < 1 or cfg.samples < 1:
        die(f"--cap {cfg.cap} and --samples {cfg.samples} must be at least 1")
    problems = load_problems(cfg.data, cfg.problem_key, cfg.answer_key)
    problems = problems[: cfg.max_problems or None]
    policy, tokenizer = load_policy(cfg, cfg.adapter)
    model = rollout_model(policy, cfg, cfg.cap)
    prompt_cap = cfg.prompt_cap or cfg.cap
    started = time.time()
    try:
        rows = evaluate(
            model,
            tokenizer,
            problems,
            cfg,
            samples=cfg.samples,
            cap=cfg.cap,
            prompt_cap=prompt_cap,
            temperature=cfg.temperature,
            top_p=cfg.top_p,
            instruction=cfg.instruction,
        )
    except ValueError as error:
        die(f"{cfg.data}: {error}")
    result = metrics(rows) | dataclasses.asdict(cfg)
    result |= {"prompt_cap": prompt_cap, "seconds": round(time.time() - started, 1)}
    write_jsonl(out / "rollouts.jsonl", rows)
    write_text(out / "eval.json", json.dumps(result, indent=1) + "\n")
    se = "" if result["pass@1_se"] is None else f" +- {100 * result['pass@1_se']:.1f}"
    print(
        f"{out}: pass@1 {100 * result['pass@1']:.1f}{se} % | mean tokens {result['mean_tokens']:.0f} | finished "
        f"{result['finished']:.0%} | {result['n_problems']} x {result['n_samples']} | {result['seconds']:.0f} s"
    )


def command(arguments: list[str]) -> None:
    """Runs the sub-command that the arguments name."""
    if arguments[:1] == ["compare"]:
        from analysis import report as analyse  # imports this file

        analyse.main(arguments)
    elif arguments[:1] == ["report"]:
        if len(arguments) != 2:
            die("usage: python eval.py report RUN_FOLDER")
        report(arguments[1])
    else:
        defaults = {}
        if "--like" in arguments:
            at = arguments.index("--like")
            defaults = like(arguments[at + 1] if at + 1 < len(arguments) else "")
            del arguments[at : at + 2]
        main(parse(Config, args=arguments, set_defaults=defaults))


if __name__ == "__main__":
    try:
        command(sys.argv[1:])
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is kept of an evaluation that has not ended", file=sys.stderr)
        sys.exit(130)
