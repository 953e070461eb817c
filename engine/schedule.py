"""What schedule.sh needs to know before it begins: its settings, checked, and a locked run folder.

    python -m engine.schedule bash schedule.sh      # runs that command with the settings in its environment

Settings come from the environment (CONFIG, CAPS, OUT, SEED, MODEL, REFERENCE, FRESH), then from CONFIG's YAML, then
from the defaults. They are checked before anything is written. The lock is an open file that the command inherits, so
it is held until the last process that the schedule has started ends.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

import yaml

from engine.files import MEMORY, EvalOptions, aside_of, die, explained, fcntl, write_text

FROM_SHELL = ("CONFIG", "CAPS", "OUT", "SEED", "MODEL", "REFERENCE")


def read_settings(environment: dict[str, str]) -> tuple[dict[str, str], dict]:
    """(settings for the shell, options of the config); exits with status 2, naming what is wrong."""
    config = environment.get("CONFIG") or "config/toy.yaml"
    with explained(f"CONFIG={config} is not a YAML file of options", OSError, ValueError, yaml.YAMLError):
        options = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    if not isinstance(options, dict):
        die(f"CONFIG={config} is not a YAML file of options")
    given = vars(EvalOptions()) | options
    settings = {"CONFIG": config, "OUT": environment.get("OUT", "").rstrip("/") or f"out/{Path(config).stem}"}
    settings |= {"CAPS": environment.get("CAPS") or str(given.get("caps") or "")}
    settings |= {"SEED": environment.get("SEED") or str(given["seed"])}
    settings |= {"MODEL": environment.get("MODEL") or given["model"]}
    settings |= {"REFERENCE": environment.get("REFERENCE") or "base"}
    settings |= {"VAL": given["val_data"], "REFERENCE_SAMPLES": str(given["reference_samples"])}
    settings |= {"TEST": given["test_data"], "TEST_SAMPLES": str(given["test_samples"])}
    for name in ("CONFIG", "OUT"):  # a name with a dash in front is no option
        settings[name] = "./" + settings[name] if settings[name].startswith("-") else settings[name]
    check_settings(settings)
    return settings | {"LAST_CAP": settings["CAPS"].split()[-1]}, options


def check_settings(settings: dict[str, str]) -> None:
    """Exits with status 2 and one line for settings that cannot work."""
    caps, before = settings["CAPS"].split(), 0
    if not caps:
        die(f"no CAPS: set them in the environment or as caps: in {settings['CONFIG']}")
    for cap in caps:
        if not (cap.isascii() and cap.isdigit() and int(cap) > 0):
            die(f'CAPS="{settings["CAPS"]}": {cap} is not a cap (a whole number of tokens)')
        if before and int(cap) >= before:
            die(f'CAPS="{settings["CAPS"]}": {cap} is not below the round\'s before, {before}')
        before = int(cap)
    if not settings["VAL"] or not settings["TEST"]:
        die(f"{settings['CONFIG']} needs val_data: and test_data:")
    if settings["REFERENCE"] not in ("base", "start"):
        die(f"REFERENCE={settings['REFERENCE']}: base or start")


def open_folder(settings: dict[str, str], options: dict, fresh: bool) -> None:
    """Makes and locks the run folder; exits with status 2 where another run or other settings have it.

    Args:
        fresh: Move a folder that is there to <OUT>.old1, or the next free number.
    """
    out = Path(settings["OUT"])
    note = out / "schedule.yaml"
    if fresh and out.is_dir():
        if not note.is_file():
            die(f"FRESH=1: {out} is no run folder (no schedule.yaml in it)")
        hold(out)
        aside = aside_of(out)
        shutil.move(out, aside)
        print(f"{out} moved to {aside}", flush=True)
    mine = {k: settings[k] for k in ("CAPS", "SEED", "MODEL", "REFERENCE")}
    mine |= {str(k): v for k, v in options.items() if k not in MEMORY | {"caps", "seed", "model"}}
    if note.is_file():
        with explained(f"{note} is damaged", ValueError, yaml.YAMLError):
            theirs = yaml.safe_load(note.read_text(encoding="utf-8"))
        if other := sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)):
            changed = ", ".join(f"{k}: {theirs.get(k)} there, {mine.get(k)} now" for k in other)
            die(f"{out} was made with other settings ({changed}); set OUT to a new folder")
    hold(out)
    if not note.is_file():
        write_text(note, yaml.safe_dump(mine, sort_keys=False, allow_unicode=True))


def hold(out: Path) -> None:
    """Locks OUT/lock for this process and all that it starts."""
    with explained(f"OUT={out} cannot be made or written", OSError):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(handle, True)
    if fcntl:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            die(f"OUT={out} is in use by process {os.read(handle, 20).decode().strip()} or what it started")
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())  # `exec` keeps the number


if __name__ == "__main__":
    found, config_options = read_settings(dict(os.environ))
    open_folder(found, config_options, fresh=os.environ.get("FRESH", "0") == "1")
    given = [f"{k}={shlex.quote(os.environ[k])}" for k in FROM_SHELL if os.environ.get(k)]
    again = {"SCHEDULE": "open", "FRESH": "0", "AGAIN": " ".join([*given, "bash schedule.sh"])}
    os.execvpe(sys.argv[1], sys.argv[1:], os.environ | found | again)
