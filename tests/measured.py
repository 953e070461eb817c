"""Evaluation folders made by hand, for the tests of analysis/."""
import json
import random
from pathlib import Path

import pytest

from standin import make_r1_standin


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=4096)


def rollout(problem="a", sample=0, n=10, right=True, answer="7", response="so</think> \\boxed{7}", finished=True):
    return {"id": problem, "sample": sample, "problem": f"What is {problem}?", "gold": "7", "prompt": f"<think>{problem}", "response": response,
            "n_tokens": n, "finished": finished, "answer": answer, "correct": right and finished, "reward": float(bool(right and finished))}


def folder(path, rows, model="", **info):
    path.mkdir(parents=True, exist_ok=True)
    (path / "rollouts.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    info = {"cap": 640, "model": model, "adapter": "", "load_4bit": False, "data": "t.jsonl", "seed": 0, "temperature": 1.0} | info
    (path / "eval.json").write_text(json.dumps(info))
    return str(path)


@pytest.fixture
def two(tmp_path, r1):
    """A: long and mostly right; B: short, the same problems in another order, fewer samples."""
    rng = random.Random(0)
    long = [rollout(f"p{p}", s, 200 + rng.randrange(99), rng.random() < 0.8, response="Wait, so 7.\n\nWait. But wait: 7.\n</think>\nIt is \\boxed{7}")
            for p in range(6) for s in range(4)]
    short = [rollout(f"p{p}", s, 50 + rng.randrange(20), rng.random() < 0.7, response="Therefore 7.\n</think>\nIt is \\boxed{7}")
             for p in reversed(range(6)) for s in range(2)]
    return folder(tmp_path / "run/base_test", long, r1), folder(tmp_path / "run/final_test", short, r1)


def stops(capsys, call, *arguments):
    """The one line that a bad command ends with."""
    with pytest.raises(SystemExit) as stop:
        call([str(a) for a in arguments])
    err = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and err[-1].startswith("error: ")
    return err[-1]


def result(two, file):
    return json.loads((Path(two[1]).parent / "analysis" / file).read_text())
