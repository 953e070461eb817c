"""Times x @ W.T as a decode step makes it, on one thread of this CPU: float32 and bfloat16, MKL and oneDNN.

    python dev/matmuls.py              # about two minutes; the table of dev/LOG.md, 2026-11-26

Milliseconds of CPU time, the best of a tenth of a second of repeats. `float32 linear` is F.linear, which is MKL;
`onednn` and `packed` are engine/logits.py's; `head by blocks` is a bfloat16 head in float32, as `float_logits` has it.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engine.logits import float_logits, onednn, pack  # noqa: E402

# name: (in, out)
SHAPES = {
    "25M gate and up": (384, 3072),
    "0.5B gate and up": (896, 9728),
    "0.5B down": (4864, 896),
    "0.5B head, 1/8": (896, 18992),
    "1.5B gate and up": (1536, 17920),
    "1.5B down": (8960, 1536),
}


def best_ms(f) -> float:
    """Milliseconds of CPU time of the fastest of many calls."""
    f()
    started, times = time.process_time(), []
    while time.process_time() - started < 0.1 or len(times) < 3:
        before = time.process_time()
        f()
        times.append(time.process_time() - before)
    return 1000 * min(times)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print("| shape | rows | float32 linear | onednn | packed | bfloat16 linear | packed | head by blocks |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (width, out) in SHAPES.items():
        head = torch.nn.Linear(width, out, bias=False, dtype=torch.bfloat16)
        half, whole = head.weight, head.weight.float()
        packed_half, packed_whole = pack(half), pack(whole)
        for rows in (1, 2, 4, 8, 16, 32, 64, 128):
            x = torch.randn(rows, width)
            y = x.bfloat16()
            cells = [best_ms(lambda: F.linear(x, whole)), best_ms(lambda: onednn(x, whole, None))]
            cells += [best_ms(lambda: onednn(x, packed_whole, None)), best_ms(lambda: F.linear(y, half))]
            cells += [best_ms(lambda: onednn(y, packed_half, None)), best_ms(lambda: float_logits(head, y))]
            print(f"| {name} | {rows} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
