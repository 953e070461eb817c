"""Signs of life of a long loop: a bar on a terminal, elsewhere (a pipe, nohup) a line every half minute."""

import time

from tqdm import tqdm

EVERY = 30.0  # seconds between lines


class Progress:
    """Counts to `total`.

        with Progress("sampling", 256) as progress:
            for ...: progress.step("812 tokens/s")

    Args:
        label: What goes on; where it is empty, nothing is shown.
        unit: Of what is counted, in the singular.
    """

    def __init__(self, label: str, total: int, unit: str = "rollout"):
        self.label, self.total, self.unit, self.done, self.spoken = label, total, unit, 0, time.monotonic()
        self.bar = tqdm(total=total, desc=label, unit=unit, leave=False, disable=None if label else True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def step(self, note: str = "", more: int = 1) -> None:
        """So many more are done; the bar shows the note beside it."""
        self.done += more
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(more)
        if self.label and self.bar.disable and self.done < self.total and time.monotonic() - self.spoken > EVERY:
            self.spoken = time.monotonic()
            print(f"{self.label}: {self.done} of {self.total} {self.unit}s", flush=True)
