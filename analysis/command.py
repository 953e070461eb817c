"""What the analysis commands share: folders and options in, a JSON file and tables out.

An analysis is a module with `Config` (its options), `analyse` (evaluations and options to a result), `show` (a result
to lines of Markdown), `FILE`, `HEADING` and `FOLDERS` (fewest, most).
"""

import dataclasses
import hashlib
import itertools
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from analysis.evaluations import Evaluation, load_sides, notes
from engine.files import Options, die, one_line, parse, write_text


@dataclass
class Settings:
    """Options of every analysis."""

    out_dir: str = ""
    """Folder for the results; empty: `analysis` beside the last of the first two folders."""
    overwrite: bool = False
    """Write over results that are there."""


# What an analysis that loads A's model takes from A's eval.json, had no flag said otherwise.
OF_THE_MODEL = {field.name for field in dataclasses.fields(Options)} - {"device", "rows", "seed"} | {"adapter"}


def split_folders(name: str, words: list[str], least: int, most: int) -> tuple[list[str], list[str]]:
    """(folders, options) of a command line; exits with status 2 for too few or too many folders."""
    folders = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    if not least <= len(folders) <= most:
        number = least if least == most else f"{least} to {most}"
        die(f"{name} takes {number} evaluation folders before its options, not {len(folders)}")
    return folders, words[len(folders) :]


def read_sides(name: str, words: list[str], config: type, least: int, most: int, inherit: bool = True):
    """(evaluations, options, the options had none been given) from folders and then flags.

    Args:
        name: What the error message calls the command. config: its dataclass.
        inherit: Options of the model default to what A's eval.json says.
    """
    folders, options = split_folders(name, words, least, most)
    sides = load_sides(folders)
    known = {field.name for field in dataclasses.fields(config)} & (OF_THE_MODEL if inherit else set())
    defaults = {key: value for key, value in sides[0].info.items() if key in known}
    cfg = parse(config, args=[*flags(defaults), *options])  # of two flags the later one holds
    base = config(**defaults, out_dir=str(Path(sides[:2][-1].folder).parent / "analysis"))
    return sides, dataclasses.replace(cfg, out_dir=cfg.out_dir or base.out_dir), base


def name_of(analysis: ModuleType) -> str:
    return Path(analysis.__file__).stem


def flags(options: dict) -> list[str]:
    """Options as the words of a command line."""
    return [x for key, y in options.items() for x in (f"--{key}", y if isinstance(y, str) else json.dumps(y))]


def command_line(name: str, sides: list[Evaluation], cfg, base) -> str:
    """The command that makes a result: options that differ from the defaults only."""
    given = {x: y for x, y in dataclasses.asdict(cfg).items() if y != getattr(base, x) and x != "overwrite"}
    return shlex.join(["python", "-m", f"analysis.{name}", *(side.folder for side in sides), *flags(given)])


def stamps(sides: list[Evaluation]) -> list[dict]:
    """Folder and content of each side, so that a result is never shown for other rollouts."""
    digests = [hashlib.sha256(Path(side.folder, "rollouts.jsonl").read_bytes()).hexdigest()[:16] for side in sides]
    return [{"folder": side.folder, "sha256": digest} for side, digest in zip(sides, digests)]


def make(analysis: ModuleType, sides: list[Evaluation], cfg, base) -> dict:
    """Runs one analysis and writes its file."""
    made_by = {"command": command_line(name_of(analysis), sides, cfg, base), "runs": stamps(sides)}
    result = json.dumps(made_by | analysis.analyse(sides, cfg), indent=1, ensure_ascii=False)
    write_text(Path(cfg.out_dir, analysis.FILE), result + "\n")
    return json.loads(result)  # as a reader of the file gets it: keys are strings


def help_or(arguments: list[str], doc: str, config: type) -> list[str]:
    """The arguments, unless there are none or they ask for help: then prints it and exits."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(doc)
        parse(config, args=["--help"])
    return arguments


def main(analysis: ModuleType, arguments: list[str] | None = None, inherit: bool = True) -> None:
    """Runs one analysis as a command."""
    arguments = help_or(sys.argv[1:] if arguments is None else arguments, analysis.__doc__, analysis.Config)
    with one_line():
        sides, cfg, base = read_sides(name_of(analysis), arguments, analysis.Config, *analysis.FOLDERS, inherit)
        path = Path(cfg.out_dir, analysis.FILE)
        if path.exists() and not cfg.overwrite:
            die(f"{path} exists; give another --out_dir, or --overwrite true")
        print("\n".join([*notes(sides), "", *analysis.show(make(analysis, sides, cfg, base))]) + f"{path}")
