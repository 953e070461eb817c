"""What schedule.sh needs to know before it begins: its settings, a locked run folder, and that all it will read works.

    python -m engine.schedule bash schedule.sh          # runs that command with the settings in its environment
    CONFIG=config/r1_1.5b_24gb.yaml python -m engine.schedule check          # opens and checks, and writes no rollout
    CAPS=auto python -m engine.schedule first_cap       # measures the cap of the first round, and keeps it
    python -m engine.schedule next 260                  # prints the cap after the round of 260, or nothing at the end

Settings come from the environment (CONFIG, CAPS, OUT, SEED, MODEL, REFERENCE, FRESH), then from CONFIG's YAML, then
from the defaults. The lock is an open file that the command inherits, so it is held until the last process that the
schedule has started ends.

A run folder may be gone on with under other settings, as long as no finished stage depends on them. `check` looks at
what each stage has written about itself: config.yaml of a round, eval.json of an evaluation.
"""

import dataclasses
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import yaml

from engine.files import RoundOptions, aside_of, die, explained, one_line, parse, read_json, take_lock, write_text

FROM_SHELL = ("CONFIG", "CAPS", "OUT", "SEED", "MODEL", "REFERENCE")


# ---------------------------------------------------------------------------------------- settings


def read_settings(environment: dict[str, str]) -> tuple[dict[str, str], dict]:
    """(settings for the shell, options of the config); exits with status 2, naming what is wrong."""
    config = environment.get("CONFIG") or "config/toy.yaml"
    with explained(f"CONFIG={config} is not a YAML file of options", OSError, ValueError, yaml.YAMLError):
        options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    if not isinstance(options, dict):
        die(f"CONFIG={config} is not a YAML file of options")
    given = vars(RoundOptions()) | options
    settings = {"CONFIG": config, "OUT": environment.get("OUT", "").rstrip("/") or f"out/{Path(config).stem}"}
    caps = environment.get("CAPS", "").split() or str(given.get("caps") or "").split() or ["auto"]
    settings |= {"CAPS": " ".join(caps)}
    settings |= {"SEED": environment.get("SEED") or str(given["seed"])}
    settings |= {"MODEL": environment.get("MODEL") or given["model"]}
    settings |= {"REFERENCE": environment.get("REFERENCE") or "base"}
    settings |= {"VAL": given["val_data"], "REFERENCE_SAMPLES": str(given["reference_samples"])}
    settings |= {"TEST": given["test_data"], "TEST_SAMPLES": str(given["test_samples"])}
    for name in ("CONFIG", "OUT"):  # a name with a dash in front is no option
        settings[name] = "./" + settings[name] if settings[name].startswith("-") else settings[name]
    check_settings(settings)
    auto, base = settings["CAPS"].endswith("auto"), Path(settings["OUT"], "base", "eval.json")
    caps = known_caps(settings) or [""]  # the first is still to be measured
    # Validations are compared with the base, so they go on naming the cap that it was measured with.
    named = caps[0] if auto else caps[-1]
    named = read_json(base).get("prompt_cap", named) if base.is_file() else named
    return settings | {"LAST_CAP": str(caps[-1]), "PROMPT_CAP": str(named)}, options


def check_settings(settings: dict[str, str]) -> None:
    """Exits with status 2 and one line for settings that cannot work."""
    caps, before = settings["CAPS"].split(), 0
    for cap in caps[:-1] if caps[-1] == "auto" else caps:
        if not (cap.isascii() and cap.isdigit() and int(cap) > 0):
            die(f'CAPS="{settings["CAPS"]}": {cap} is not a cap (a whole number of tokens, or auto at the end)')
        if before and int(cap) >= before:
            die(f'CAPS="{settings["CAPS"]}": {cap} is not below the round\'s before, {before}')
        before = int(cap)
    if not settings["VAL"] or not settings["TEST"]:
        die(f"{settings['CONFIG']} needs val_data: and test_data:")
    if settings["REFERENCE"] not in ("base", "start"):
        die(f"REFERENCE={settings['REFERENCE']}: base or start")


# ---------------------------------------------------------------------------------------- caps


def known_caps(settings: dict[str, str]) -> list[int]:
    """The rounds' caps: those that are given and, where CAPS ends in auto, those that were measured so far."""
    out, words = Path(settings["OUT"]), settings["CAPS"].split()
    caps = [int(word) for word in words if word != "auto"]
    if words[-1] == "auto":
        first = out / "first_cap.json"
        caps = caps or ([read_json(first)["cap"]] if first.is_file() else [])
        while caps and (cap := decision_of(settings, caps[-1]).get("cap")):
            caps.append(cap)
    return caps


def decision_of(settings: dict[str, str], cap: int) -> dict:
    """What the round of this cap has measured for the next (`selection.next_cap`); empty where it has not yet."""
    path = Path(settings["OUT"], f"cap{cap}", "selection.json")
    return read_json(path).get("next_cap", {}) if path.with_name("done").is_file() else {}


def print_next(settings: dict[str, str], last: str) -> None:
    """Prints the cap of the round after that of `last`, of the first round where that is empty; nothing at the end."""
    caps = ["", *map(str, known_caps(settings))]
    if last not in caps:
        die(f"{settings['OUT']} has no round with cap {last}: {' '.join(caps)}")
    if later := caps[caps.index(last) + 1 :]:
        print(later[0])
    elif settings["CAPS"].endswith("auto") and not (last and decision_of(settings, int(last))):
        which = f"after {last}" if last else "of the first round"
        die(f"{settings['OUT']}: the cap {which} was not measured: give it in CAPS, or set OUT to a new folder")


def first_cap(settings: dict[str, str]) -> None:
    """Measures the base's lengths on training problems for the first cap of CAPS=auto, and writes first_cap.json.

    Exits with status 2 where a condition of `selection.next_cap` fails.
    """
    from engine.measuring import measure_lengths
    from engine.policy import load_policy
    from engine.problems import load_problems
    from sample import Sampler
    from selection import next_cap

    path = Path(settings["OUT"], "first_cap.json")
    if path.is_file():
        return
    cfg = config_of(settings)
    problems, kept = load_problems(cfg.train_data, cfg.problem_key, cfg.answer_key), path.with_suffix(".partial.jsonl")
    sampler = Sampler(*load_policy(cfg), cfg)
    found = next_cap(measure_lengths(sampler, problems, cfg, cfg.eval_cap, kept), 0, cfg.cap_percentile)
    if not found["cap"]:
        die(f'CAPS={settings["CAPS"]}: {found["why"]}: give the first cap, as in CAPS="4000 auto"')
    write_text(path, json.dumps(found, indent=1) + "\n")
    kept.unlink()
    print(f"of the base's answers to training problems: {found['why']}", flush=True)


def config_of(settings: dict[str, str]):
    """The options of the first round; before its cap is known, that of the evaluations stands for it."""
    import train_prune

    words = [f"--{name.lower()}={settings[name]}" for name in ("CONFIG", "MODEL", "SEED", "CAPS")]
    cfg = parse(train_prune.Config, words)
    cap = (known_caps(settings) or [cfg.eval_cap])[0]
    return dataclasses.replace(cfg, cap=cap, prompt_cap=int(settings["PROMPT_CAP"] or cap))


# ---------------------------------------------------------------------------------------- the run folder


def open_folder(settings: dict[str, str], options: dict, fresh: bool) -> None:
    """Makes and locks the run folder; exits with status 2 where another run has it, or other caps were begun there.

    Args:
        fresh: Move a folder that is there to <OUT>.old1, or the next free number.
    """
    out = Path(settings["OUT"])
    if fresh and out.is_dir():
        if not (out / "schedule.yaml").is_file():
            die(f"FRESH=1: {out} is no run folder (no schedule.yaml in it)")
        hold(out)
        aside = aside_of(out)
        shutil.move(out, aside)
        print(f"{out} moved to {aside}", flush=True)
    rounds = [path.parent.name[3:] for path in out.glob("cap*/config.yaml")]
    begun = sorted((int(cap) for cap in rounds if cap.isdigit()), reverse=True)  # cap180.old1 is none
    if begun != known_caps(settings)[: len(begun)]:
        there = f"{' '.join(map(str, begun))} begun there"
        die(f"{out} was made with other settings (CAPS: {there}, {settings['CAPS']} now); set OUT to a new folder")
    hold(out)
    if not (out / "schedule.yaml").is_file():
        write_note(settings, options)


def hold(out: Path) -> None:
    """Locks OUT/lock for this process and all that it starts."""
    with take_lock(out, f"OUT={out}") as file:
        os.set_inheritable(os.dup(file.fileno()), True)  # `exec` keeps the copy, and the number of the process


def write_note(settings: dict[str, str], options: dict) -> None:
    """Writes schedule.yaml: the settings of the last call, for people to read."""
    note = {key: settings[key] for key in ("CAPS", "SEED", "MODEL", "REFERENCE")} | options
    write_text(Path(settings["OUT"], "schedule.yaml"), yaml.safe_dump(note, sort_keys=False, allow_unicode=True))


# ---------------------------------------------------------------------------------------- all that will be read


def check(settings: dict[str, str], options: dict) -> None:
    """Opens all that the run will read, and compares the stages that are there with what they would be made with now.

    Exits with status 2 where something cannot work, or a finished stage would be made otherwise. Nothing depends on
    the tests at the end: where their settings changed they are set aside, to be measured again.
    """
    import train_prune
    from engine.policy import open_model
    from engine.problems import load_problems
    from engine.rewards import by_name
    from sample import checked_prompts

    cfg, out = config_of(settings), Path(settings["OUT"])
    train_prune.check_options(cfg)
    found = {}
    for data in (cfg.train_data, cfg.val_data, cfg.test_data):
        found[data] = load_problems(data, cfg.problem_key, cfg.answer_key)
    with explained("", ValueError):
        problems = found[cfg.train_data]
        by_name(train_prune.REWARDS, cfg.reward, cfg.reward_options, problems, cfg.thinking, cfg.group, cfg.cap)
    check_rounds(cfg, settings)
    tokenizer, config = open_model(cfg)
    last, named = int(settings["LAST_CAP"] or cfg.cap), cfg.prompt_cap
    for data, cap, name in ((cfg.train_data, cfg.cap, cfg.cap), (cfg.val_data, cfg.eval_cap, named),
                            (cfg.test_data, cfg.eval_cap, last)):  # fmt: skip
        checked_prompts(cfg, tokenizer, config, data, found[data], cap, name)
    mine = os.environ.get("SCHEDULE") == "open"  # called by schedule.sh, which holds the lock; by hand it only looks
    check_evaluations(cfg, settings, found, mine)
    if mine:
        write_note(settings, options)
    sizes = " and ".join(f"{len(rows)} problems of {data}" for data, rows in found.items())
    print(f"checked: {sizes}; reward {cfg.reward}; rounds with caps {', '.join(settings['CAPS'].split())}", flush=True)
    if named != last and not settings["CAPS"].endswith("auto") and (out / "base").is_dir():
        print(f"the test's prompts name the cap of {last}, those of validations {named} as before", flush=True)


def check_rounds(cfg, settings: dict[str, str]) -> None:
    """Exits with status 2 where a round that has begun was made with other options than it would be now."""
    import train_prune
    from engine.run_folder import check_folder
    from sample import prompt_texts

    out, adapter = Path(settings["OUT"]), ""
    usual = train_prune.Config()
    for cap in known_caps(settings):
        folder = out / f"cap{cap}"
        reference = str(out / "base" / "eval.json") if settings["REFERENCE"] == "base" else ""
        mine = dataclasses.replace(cfg, cap=cap, init_adapter=adapter, reference=reference, out_dir=str(folder))
        options = [dataclasses.asdict(dataclasses.replace(o, **prompt_texts(o))) for o in (mine, usual)]
        check_folder(folder, options[0] | {"fresh": False}, options[1], train_prune.FREE)
        if not (folder / "selected").is_file():
            return
        adapter = (folder / "selected").read_text(encoding="utf-8").strip()


def check_evaluations(cfg, settings: dict[str, str], found: dict[str, list[dict]], move: bool) -> None:
    """Exits with status 2 where the base was measured otherwise; tests that were are set aside, or named."""
    from eval import differences, settings_of

    out, aside = Path(settings["OUT"]), []
    tests = (cfg.test_data, cfg.test_samples, int(settings["LAST_CAP"] or cfg.cap))
    for name, (data, samples, named) in {"base": (cfg.val_data, cfg.reference_samples, cfg.prompt_cap),
                                         "base_test": tests, "final_test": tests}.items():  # fmt: skip
        if not (out / name / "eval.json").is_file():
            continue
        there = read_json(out / name / "eval.json")
        now = settings_of(cfg, data, found[data], named)._asdict()
        now |= {"model": cfg.model, "seed": cfg.seed, "eval_samples": samples}
        now |= {"load_4bit": cfg.load_4bit, "dtype": cfg.dtype}
        if other := "; ".join(differences(there, now, ("model", "seed", "eval_samples", "load_4bit", "dtype"))):
            if name == "base":
                die(f"{out / name} was measured with other settings ({other}); set OUT to a new folder, or remove this "
                    "one's base to measure it again")  # fmt: skip
            aside.append((out / name, f"measured with other settings ({other})"))
    note = out / "schedule.yaml"
    with explained(f"{note} is damaged", ValueError, yaml.YAMLError):
        before = yaml.safe_load(note.read_text(encoding="utf-8")) if note.is_file() else {}
    before = before if isinstance(before, dict) else {}
    if (out / "final").is_dir() and before.get("CAPS", settings["CAPS"]) != settings["CAPS"]:
        aside.append((out / "final", f"made with CAPS={before['CAPS']}"))
    for path, why in aside:
        to = aside_of(path)
        if move:
            shutil.move(path, to)
        print(f"{path} was {why}: {'moved' if move else 'the run will move it'} to {to}, and make it again", flush=True)


if __name__ == "__main__":
    found, config_options = read_settings(dict(os.environ))
    if sys.argv[1:] == ["check"]:
        with one_line():
            check(found, config_options)
    elif sys.argv[1:] == ["first_cap"]:
        with one_line():
            first_cap(found)
    elif sys.argv[1:2] == ["next"]:
        print_next(found, sys.argv[2] if sys.argv[2:] else "")
    else:
        if found["CAPS"].endswith("auto") and sys.argv[1:] != ["bash", "schedule.sh"]:
            die(f'CAPS="{found["CAPS"]}": only schedule.sh measures caps: give them all')
        open_folder(found, config_options, fresh=os.environ.get("FRESH", "0") == "1")
        found, _ = read_settings(dict(os.environ))  # again: a folder that was moved away names no cap
        given = [f"{k}={shlex.quote(os.environ[k])}" for k in FROM_SHELL if os.environ.get(k)]
        again = {"SCHEDULE": "open", "FRESH": "0", "AGAIN": " ".join([*given, "bash schedule.sh"])}
        os.execvpe(sys.argv[1], sys.argv[1:], os.environ | found | again)
