"""Speed and memory of the scripts, each figure beside the command that makes it; the last line is one JSON object.

    python bench.py reward --data ../shared/data        # grading: outputs per CPU second, attacks, start-up
"""
import json
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import reward as grader


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children (the grading workers, after grader.close())."""
    grader.close()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def report(bench: str, device: str, packages: list[str], rows: list[dict]) -> None:
    for row in rows:
        print("  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    versions = {"python": platform.python_version()} | {p: version(p) for p in packages}
    print(json.dumps({"bench": bench, "device": device, "versions": versions, "rows": rows}))


def read(path: Path) -> list[dict]:
    if not path.is_file():
        raise SystemExit(f"bench.py: {path} is missing; give its folder with --data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bench_reward(data: str = "../shared/data") -> None:
    """Grading throughput, in CPU seconds so that other work on the machine does not count.

    Args:
        data: Folder with model_outputs.jsonl and hostile_outputs.jsonl.
    """
    outputs, attacks = read(Path(data, "model_outputs.jsonl")), read(Path(data, "hostile_outputs.jsonl"))
    texts, golds = [r["output"] for r in outputs], [r["gold"] for r in outputs]

    asked, ask = [], grader._ask
    grader._ask = lambda *pair: asked.append(pair) or ask(*pair)         # counts what math-verify had to decide

    def measure(setting: str, texts: list[str], golds: list[str], thinking: bool, minus: float = 0.0) -> dict:
        grader._judge.cache_clear()
        asked.clear()
        cpu, wall = cpu_seconds(), time.monotonic()
        grades = grader.grade(texts, golds, thinking)
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu - minus
        return {"setting": setting, "outputs": len(texts), "asked_math_verify": len(asked), "right": sum(g.correct for g in grades),
                "timed_out": sum(g.timed_out for g in grades), "cpu_seconds": round(cpu, 4),
                "wall_seconds": round(wall, 2), "outputs_per_cpu_second": round(len(texts) / max(cpu, 1e-9), 1)}

    grader.WORKERS = 1
    rows = [measure("start of one worker", [r"\boxed{x+1}"], ["1+x"], False)]
    start = rows[0]["cpu_seconds"]
    rows += [measure("real outputs as they come, cold cache", texts, golds, False, 0.0)]
    boxes = [grader.extract_answer(t, False) for t in texts]
    plain = [(grader._tidy(b), grader._tidy(g)) for b, g in zip(boxes, golds) if b]
    grader.symbolic("x+1", "1+x")
    cpu = cpu_seconds()
    right, cpu = sum(grader.symbolic(b, g) for b, g in plain), cpu_seconds() - cpu
    rows += [{"setting": "math-verify on every real output, no short cut, no cache, in process", "outputs": len(plain),
              "right": right, "cpu_seconds": round(cpu, 4), "outputs_per_cpu_second": round(len(plain) / cpu, 1)}]
    # Every pair made distinct and algebraic, so that neither the cache nor the number path helps: the slow path alone.
    hard = [(rf"\boxed{{{b}+z_{{{i}}}}}", f"z_{{{i}}}+{g}") for i, (b, g) in enumerate(zip(boxes, golds)) if b]
    rows += [measure("every output through math-verify, start not counted", *map(list, zip(*hard)), False, start)]
    integers = [(rf"hm</think> so \boxed{{{i}}}", str(i - i % 2)) for i in range(20_000)]
    rows += [measure("integers", *map(list, zip(*integers)), True)]

    grader.WORKERS = min(2, os.cpu_count() or 1)
    bad = [(r.get("output") or "".join(s * n for s, n in r["output_parts"]), str(r["gold"])) for r in attacks
           if r["category"] in ("resource", "hack")]
    mixed = (list(zip(texts, golds)) * 5)[:2027] + (bad * 2)[-21:]
    rows += [measure("2,048 rollouts, 21 of them attacks of the hostile file, 2 workers", *map(list, zip(*mixed)), False)]
    # The worst case: every attack is new, passes the guards and hangs, so each one costs a kill and a new worker.
    hangs = ["+".join(rf"\sqrt[{n}]{{{n}}}\cdot\sin({n}x+{k})^{{99}}" for n in range(2, 9)) for k in range(21)]
    mixed[-21:] = [(rf"\boxed{{{h}}}", r"\sin(x)^{99}+(x+1)^{99}") for h in hangs]
    rows += [measure("2,048 rollouts, 21 of them different ones that hang", *map(list, zip(*mixed)), False)]
    report("reward", f"CPU, {os.cpu_count()} cores", ["math-verify", "sympy"], rows)


if __name__ == "__main__":
    from jsonargparse import auto_cli
    auto_cli({"reward": bench_reward})
