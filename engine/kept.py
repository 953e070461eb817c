"""What a call has finished, in a file, so that one that is stopped goes on there: evaluations, and the toy's training.

A rollout is a function of its seed and its number, so what is there need not be sampled again. In 16 bits it may differ
in rounding from what another batch would have given, as with another number of rows.
"""

import hashlib
import json
import os
import pickle
import sys
import time
from pathlib import Path

import torch

from engine.files import disk_errors, write_text
from engine.policy import fingerprint


class Kept:
    """The file, while it is measured.

        with Kept(path, settings, total=len(prompts) * samples) as kept:
            rollouts = sampler.sample(prompts, samples, kept=kept)

    Its first line is `settings`, all that the rollouts depend on; a file with another one is begun anew. Each further
    line is [number of the rollout, seconds so far, its token ids, their mean log-prob]. The file stays: whoever has
    written the result removes it.
    """

    def __init__(self, path: Path, settings: dict, total: int):
        self.path, self.total, self.started, self.file = path, total, time.time(), None
        self.found: dict[int, tuple[list[int], float]] = {}
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # what a kill has cut off has no newline
        self.head, before = json.dumps(settings, sort_keys=True), 0.0
        try:
            for number, seconds, ids, mean in map(json.loads, lines[1:] if lines[:1] == [self.head.encode()] else []):
                self.found[number], before = (ids, mean), seconds
        except (ValueError, TypeError):  # damaged
            self.found, before = {}, 0.0
        self.started -= before

    @property
    def seconds(self) -> float:
        """Since the measurement began, not counting the time between its calls."""
        return time.time() - self.started

    def add(self, number: int, ids: list[int], mean: float) -> None:
        """Keeps a rollout that has ended."""
        mean = round(mean, 3)  # as a rollout file has it
        line = json.dumps([number, round(self.seconds, 1), ids, mean]) + "\n"
        with disk_errors(self.path):
            if self.file is None:
                rows = [self.head, *(json.dumps([k, 0.0, *found]) for k, found in self.found.items())]
                write_text(self.path, "".join(row + "\n" for row in rows), status=1)
                self.file = open(self.path, "a", encoding="utf-8")
            self.file.write(line)
            self.file.flush()
        self.found[number] = ids, mean

    def __enter__(self) -> "Kept":
        if self.found:
            print(f"{len(self.found)} of {self.total} rollouts are there from before", flush=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.file:
            self.file.close()
        if self.found and isinstance(error, BaseException) and not isinstance(error, Exception):  # Ctrl-C, a signal
            kept = f"{len(self.found)} of {self.total} rollouts are kept"
            print(f"\n{kept} in {self.path}; the same command goes on from there", file=sys.stderr, flush=True)


def weights_of(policy) -> str:
    """Sixteen hex digits of the policy's weights: of the base, see `fingerprint`, and of every adapter weight."""
    digest = hashlib.sha256(fingerprint(policy).encode())
    if hasattr(policy, "peft_config"):
        from peft import get_peft_model_state_dict

        for name, weight in sorted(get_peft_model_state_dict(policy, save_embedding_layers=False).items()):
            digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class KeptState:
    """The state of a training, saved every 15 seconds; `step` is the one that it goes on after.

    Args:
        key: What made it; a state with another one, or a damaged one, is begun anew.
        parts: What is saved, by name: modules and optimizers, or lists of tensors. They take the state that is there.
    """

    def __init__(self, path: Path, key: str, **parts):
        self.path, self.key, self.parts, self.step, self.saved_at = path, key, parts, 0, time.time()
        try:
            state = torch.load(path, weights_only=True)
            if state["key"] != key:
                return
        except (OSError, RuntimeError, ValueError, LookupError, TypeError, EOFError, pickle.UnpicklingError):
            return
        for name, part in parts.items():
            if isinstance(part, list):
                for mine, there in zip(part, state[name]):
                    mine.copy_(there)
            else:
                part.load_state_dict(state[name])
        self.step = state["step"]

    def save(self, step: int, every: float = 15.0) -> None:
        """Saves the state after so many steps, unless that was done in the last `every` seconds."""
        if time.time() - self.saved_at < every:
            return
        parts = {name: part if isinstance(part, list) else part.state_dict() for name, part in self.parts.items()}
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"key": self.key, "step": step} | parts, f"{self.path}.tmp")
            os.replace(f"{self.path}.tmp", self.path)
        self.saved_at = time.time()
