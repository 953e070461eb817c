"""`bench.py scale`: how sampling and update grow with the rows, the cap and the size of the model."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

import train_prune
from dev.bench_models import forced_lengths, make_prompts, save_random_model
from dev.bench_step import OurStep
from dev.measure import Progress, device_of, report

# Points: axis, model, rows, cap
FULL = [("rows", "1M", rows, 512) for rows in (8, 16, 32, 64, 128)]
FULL += [("cap", "1M", 16, cap) for cap in (256, 512, 1024, 2048, 4096)]
FULL += [("model", size, 8, 128) for size in ("1M", "5M", "25M", "100M")]
SHORT = [p for p in FULL if p[2] < 128 and p[3] < 4096 and p[1] != "100M"]
QUICK = [("rows", "tiny", rows, 16) for rows in (2, 4)] + [("cap", "tiny", 2, cap) for cap in (16, 32)]
QUICK += [("model", size, 2, 16) for size in ("tiny", "1M")]


@dataclass
class Config:
    """How rollouts and update grow with the rows, the cap and the model: a table and a plot."""

    device: str = "cpu"
    """cpu or cuda."""
    full: bool = False
    """The largest number of rows, cap and model, too."""
    quick: bool = False
    """A few points at a tiny size, to see that it runs."""
    out: str = "out/scale.png"
    """Picture to write."""


def scale(cfg: Config) -> None:
    """The table and the picture."""
    device = device_of(cfg.device)
    points, takes = SHORT, "about 3 minutes on 2 CPU cores, --full true about 5"
    if cfg.full:
        points, takes = FULL, "about 5 minutes on 2 CPU cores"
    if cfg.quick:
        points, takes = QUICK, "a few seconds"
    progress, table = Progress(len(points), takes), []
    for axis, size, rows, cap in points:
        row = {"setting": f"{axis}: {size} {2 * rows}/{rows}/{cap}", "axis": axis}
        table.append(row | measure_point(size, rows, cap, device, warm=not cfg.quick))
        unit = "s" if device.type == "cuda" else "CPU s"
        progress.line(f"{row['setting']}: {table[-1]['seconds']:.1f} {unit} a step")
    draw(table, cfg.out, "wall" if device.type == "cuda" else "CPU")
    report("scale", device, ["torch", "transformers", "peft"], table)


def measure_point(size: str, rows: int, cap: int, device: torch.device, warm: bool) -> dict:
    """One step of two rollouts a row: its sizes, seconds and tokens a second.

    Args:
        warm: Run one step before that is not counted: allocator, kernels.
    """
    lengths = forced_lengths(2 * rows, cap)
    with tempfile.TemporaryDirectory() as folder:
        vocab, parameters = save_random_model(size, device, folder)
        cfg = train_prune.Config(model=folder, device=str(device), load_4bit=False, beta=0.0, cap=cap, group=2)
        cfg.problems_per_step, cfg.rows, cfg.lora_r, cfg.tokens_per_micro_batch = rows, rows, 16, 4096
        step = OurStep(cfg, make_prompts(rows, vocab), lengths, False, device)
        if warm:
            step.run()
        times = step.run()
    row = {"parameters": parameters, "rows": rows, "cap": cap, "tokens": sum(lengths)}
    row |= {k: round(times[k], 3) for k in ("seconds", "sample_s", "logp_s", "backward_s")}
    update = max(times["logp_s"] + times["backward_s"], 1e-9)
    row["sample_tokens_per_second"] = round(sum(lengths) / max(times["sample_s"], 1e-9), 1)
    return row | {"update_tokens_per_second": round(sum(lengths) / update, 1)}


def draw(table: list[dict], out: str, unit: str) -> None:
    """One panel an axis: milliseconds a token, of sampling and of the update; in the style of a run's pictures."""
    from matplotlib.figure import Figure

    from analysis import plot

    kinds = ("sample_s", "sampling", "-o", plot.BLUE), ("logp_s", "log-probs", "--s", plot.GREEN)
    kinds += (("backward_s", "backward", ":D", plot.RED),)
    with plot.style():
        figure = Figure(figsize=(12, 4.2))
        panels = figure.subplots(1, 3, sharey=True)
        for panel, (axis, key) in zip(panels, {"rows": "rows", "cap": "cap", "model": "parameters"}.items()):
            part = [row for row in table if row["axis"] == axis]
            x = [row[key] for row in part]
            for kind, name, look, color in kinds:
                y = [1000 * row[kind] / row["tokens"] for row in part]
                panel.plot(x, y, look, color=color, ms=5, label=name)
            same = {"parameters": f"{part[0]['parameters'] / 1e6:.0f}M parameters", "rows": f"{part[0]['rows']} rows"}
            same |= {"cap": f"cap {part[0]['cap']:,}"}
            fixed = ", ".join(text for name, text in same.items() if name != key)
            panel.set(xlabel=f"{key} ({fixed})", xscale="log", yscale="log")
            panel.set_xticks(x, [f"{n / 1e6:.0f}M" if key == "parameters" else f"{n:,}" for n in x])
            panel.minorticks_off()
            panel.yaxis.set_major_formatter("{x:g}")
        panels[0].set_ylabel(f"{unit} ms a token")
        plot.head(panels[0], "Time of a token in one step: sampling, and the update's two parts")
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        plot.save(figure, Path(out))
