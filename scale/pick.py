"""Measures the checkpoints of another engine's round and selects among them, as train_prune.py does with its own.

    python -m scale.pick --config config/toy.yaml --cap 260 --checkpoints out/trl/cap260.trl --out_dir out/trl/cap260

Each adapter becomes a checkpoint of ours in --out_dir: validated, with checksums and the words of its prompt beside it.
The round then ends as every round does, with selection.json and `selected`. If interrupted, run the same command again.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import train_prune
from engine.checkpoints import Step
from engine.files import die, read_json, run
from engine.policy import load_adapter
from engine.run_folder import RunFolder, read_selection
from sample import prompt_texts

FROM_TRL = {"reward": "reward", "completions/mean_length": "length", "completions/clipped_ratio": "over_cap",
            "learning_rate": "lr", "step_time": "update_s"}  # fmt: skip
"""TRL's figures by our names; its step_time is sampling and update together."""


@dataclass
class Config(train_prune.Config):
    """Options of pick.py: those of train_prune.py, and where the checkpoints are."""

    checkpoints: str = ""
    """Folder with TRL's checkpoint-<N>/ or with verl's global_step_<N>/lora_adapter/."""


def adapters_of(folder: str) -> dict[int, Path]:
    """{number in the name: adapter folder}, in order; exits with status 2 where there is none."""
    found = [*Path(folder).glob("checkpoint-*"), *Path(folder).glob("global_step_*/lora_adapter")]
    adapters = {int(re.findall(r"[-_](\d+)", str(p))[-1]): p for p in found if (p / "adapter_config.json").is_file()}
    if not adapters:
        die(f"--checkpoints {folder} holds no adapter in checkpoint-<N>/ or global_step_<N>/lora_adapter/")
    return dict(sorted(adapters.items()))


def steps_until(number: int, adapter: Path, updates: int) -> list[Step]:
    """The round's log up to a checkpoint: TRL's figures where there are some, else the last step alone.

    Args:
        number: Of the checkpoint. updates: Optimizer steps, which TRL counts, in a step of ours.
    """
    path, steps = adapter / "trainer_state.json", []
    for row in read_json(path)["log_history"] if path.is_file() else []:
        if "reward" in row:
            step = Step(row["step"] // updates, **{name: row[key] for key, name in FROM_TRL.items()})
            step.figures = {"loss": row["loss"], "grad": row["grad_norm"]}
            steps.append(step)
    return steps or [Step(number)]


def main(cfg: Config) -> None:
    train_prune.check_options(cfg)
    adapters, updates = adapters_of(cfg.checkpoints), cfg.updates_per_batch * cfg.passes
    cfg, usual = (dataclasses.replace(options, **prompt_texts(options)) for options in (cfg, Config()))
    # Without the option of its own, so that the folder is one that `engine.schedule check` knows.
    mine, theirs = ({k: v for k, v in dataclasses.asdict(o).items() if k != "checkpoints"} for o in (cfg, usual))
    with RunFolder(mine, theirs, train_prune.FREE) as folder:
        if folder.done:
            print(f"{folder.path} is done: {read_selection(folder.path)['why']}")
            return
        opened = train_prune.open_round(cfg, folder)
        for number, adapter in adapters.items():
            steps = steps_until(number, adapter, updates)
            if steps[-1].step > folder.last_step:
                load_adapter(opened.policy, str(adapter))
                folder.history[:] = steps
                train_prune.validate(opened)
        train_prune.finish(opened, "")


if __name__ == "__main__":
    run(main, Config)
