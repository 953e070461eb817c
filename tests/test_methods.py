"""Methods side by side. Run: python -m pytest tests/test_methods.py"""
import dataclasses
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import yaml

import eval
import export
import sample
import sft
import train_prune
from analysis import methods
from analysis.methods import Config
from analysis.stats import two_way
from conftest import ROOT, refusal
from engine.files import parse
from test_plot import rollout, save

P = 6


def evaluation(folder, tokens, right, data):
    rows = [rollout(i, s, tokens + 10 * (i % 2), (i + s) % 10 < right) for i in range(P) for s in range(2)]
    save(folder, rows)
    info = json.loads((folder / "eval.json").read_text()) | {"data": str(data)}
    (folder / "eval.json").write_text(json.dumps(info))


@pytest.fixture
def root(tmp_path):
    """Two seeds of the base, of rounds at two caps, the second begun from the first, and of another method."""
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps({"id": f"p{i}", "depth": 1 + i % 2}) + "\n" for i in range(P)))
    for seed in (0, 1):
        home = tmp_path / f"seed{seed}"
        evaluation(home / "base" / "base" / "test", 200, 5 + seed, data)
        before = ""
        for cap, tokens in ((150, 120), (100, 80)):
            folder = home / "rounds" / f"cap{cap}"
            evaluation(folder / "test", tokens, 8, data)
            (folder / "config.yaml").write_text(yaml.safe_dump({"group": 4, "problems_per_step": 2, "init_adapter": before}))
            (folder / "log.csv").write_text(f"step,length,batches\n1,{tokens},2\n2,{tokens},1\n")
            before = str(folder / "step0002")
        evaluation(home / "kimi" / "w1" / "test", 100, 7, data)
    return tmp_path


def test_a_point_between_two_caps_is_compared_with_the_line_between_them(root):
    points = methods.read_points(root)
    row = next(r for r in methods.analyse(points, Config())["rows"] if r["method"] == "kimi")
    rounds = [p for p in points if p.method == "rounds"]
    assert row["tokens"]["value"] == 105 and not row["beyond"]
    assert row["to_rival"]["value"] == pytest.approx(row["pass@1"]["value"] - np.mean([p.right for p in rounds]))


def test_tokens_of_the_rounds_before_count_and_those_of_further_batches(root):
    sampled = {point.name: point.sampled for point in methods.read_points(root) if point.method == "rounds"}
    assert sampled == {"cap150": [3 * 120 * 8] * 2, "cap100": [3 * 120 * 8 + 3 * 80 * 8] * 2}


def test_a_teachers_answers_count(root):
    answers = root / "teacher.jsonl"
    answers.write_text("".join(json.dumps({"n_tokens": n}) + "\n" for n in (30, 40)))
    folder = root / "seed0" / "sft" / "right"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": f"{answers}, {answers}"}))
    assert methods.sampled_tokens(folder) == 2 * 70


def test_what_the_measured_caps_cost_counts(root):
    home = root / "seed0" / "rounds"
    (home / "first_cap.json").write_text(json.dumps({"cap": 150, "tokens": 500}))
    (home / "cap150" / "selection.json").write_text(json.dumps({"next_cap": {"cap": 100, "tokens": 70}}))
    assert methods.sampled_tokens(home / "cap150") == 3 * 120 * 8 + 570
    assert methods.sampled_tokens(home / "cap100") == 3 * 120 * 8 + 3 * 80 * 8 + 570
    (root / "seed0" / "auto").mkdir()
    (root / "seed0" / "auto" / "last").symlink_to(home / "cap150")
    assert methods.sampled_tokens(root / "seed0" / "auto" / "last") == 3 * 120 * 8 + 570


def test_a_method_that_lacks_a_seed_is_refused(root, capsys):
    shutil.rmtree(root / "seed0" / "kimi")
    assert "kimi/w1 has seed1, and the base seed0, seed1" in refusal(capsys, lambda: methods.main([str(root)]))


def test_budget_forcing_is_the_base_with_the_forced_answers_in_it(root):
    forced = [{"id": "p0", "sample": 0, "n_tokens": 9, "answer": "9", "correct": True, "budget": 7}]
    for seed in (0, 1):
        path = root / f"seed{seed}" / "forced" / "budget_forcing.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"rows": [{"budget": 7}, {"budget": 8}], "forced": forced}))
    points = {p.name: p for p in methods.read_points(root)}
    base = points["base"].tokens[0]
    assert points["8"].tokens[0].tolist() == base.tolist() and points["8"].method == "forced"
    assert points["7"].tokens[0].tolist() == [(9 + base[0]) / 2, *base[1:]] and points["7"].sampled == [0, 0]


def test_figures_by_a_column_of_the_problem_file(root):
    by = methods.analyse(methods.read_points(root), Config(by="depth"))["by"]
    cells = next(row["cells"] for row in by["rows"] if row["method"] == "base")
    assert by["problems"] == {"1": 3, "2": 3}
    assert [cells[d]["tokens"]["value"] for d in "12"] == [200, 210]


def test_the_page_and_the_picture_are_written(root, capsys):
    methods.main([str(root), "--by", "depth"])
    page = (root / "methods.md").read_text()
    assert page in capsys.readouterr().out and "| kimi" in page and "pass@1 - rounds at equal tokens" in page
    assert (root / "methods.png").stat().st_size > 10_000 and json.loads((root / "methods.json").read_text())["rows"]


def test_a_folder_without_a_base_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        methods.main([str(tmp_path)])
    assert stopped.value.code == 2 and "base/base/test" in capsys.readouterr().err


def test_an_interval_over_seeds_and_problems_covers():
    """With true spread between seeds and between problems, 95 % intervals hold the true mean 0 about as often."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        values = rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.4, (1, 60)) + rng.normal(0, 0.3, (3, 60))
        found = two_way(values)
        hits += found["low"] <= 0 <= found["high"]
    assert 0.92 <= hits / 400 <= 1.0


def test_seeds_that_disagree_widen_the_error():
    problems = np.tile(np.arange(20) % 2, (3, 1)).astype(float)
    apart = problems + np.array([[-0.2], [0.0], [0.2]])
    assert two_way(apart)["se"] > 1.2 * two_way(problems)["se"]
    assert two_way(problems[:1])["se"] == pytest.approx(problems[0].std(ddof=1) / 20**0.5)


STUB = r"""#!/usr/bin/env bash
set -eu
[ "$1" != -c ] || { echo 130; exit; }
{ printf '%s\037' "$@"; echo "${CAPS:-}"; } >> "$CALLS"
name=$1; [ "$1" != -m ] || name=$2
out=""
while [ $# -gt 0 ]; do case $1 in --out_dir | --out) out=$2 ;; esac; shift; done
case $name in
    eval.py) mkdir -p "$out"; echo '{"mean_tokens": 130}' > "$out/eval.json" ;;
    train_prune.py | sft.py) mkdir -p "$out"; echo "$out/final" > "$out/selected"; touch "$out/done" ;;
    sample.py) touch "$out" ;;
    export.py) mkdir -p "$out" ;;
    engine.schedule) mkdir -p "$OUT/cap90"; touch "$OUT/summary.md" "$OUT/cap90/done"; echo x > "$OUT/cap90/selected" ;;
esac
"""


KINDS = {"train_prune.py": train_prune, "sft.py": sft, "eval.py": eval, "sample.py": sample, "export.py": export}


def dry_run(tmp_path, script, **own):
    """(words of each command that a script of dev/ runs, CAPS) on a stand-in for Python, after its options are parsed."""
    model, stub, calls = tmp_path / "base", tmp_path / "python", tmp_path / "calls"
    model.mkdir()
    (model / "train.jsonl").write_text("{}\n" * 999)
    stub.write_text(STUB)
    stub.chmod(0o755)
    own |= {"PYTHON": stub, "OUT": tmp_path / "out", "CALLS": calls, "SEEDS": 0, "JOBS": 1}
    env = os.environ | {name: str(value) for name, value in own.items()}
    ran = subprocess.run(["bash", script], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    begun = calls.read_text()
    ran = subprocess.run(["bash", script], cwd=ROOT, env=env | {"BUDGET": "7"}, capture_output=True, text=True)
    assert ran.returncode == 2 and "BUDGET=7 " in ran.stderr and "name another OUT" in ran.stderr and calls.read_text() == begun
    found = [line.split("\x1f") for line in calls.read_text().splitlines()]
    for words in found:
        if words[0] in KINDS:
            cfg = parse(KINDS[words[0]].Config, words[1:-1], also="train_prune")
            if words[0] == "train_prune.py":
                train_prune.check_options(dataclasses.replace(cfg, reference="", init_adapter=""))
    return found


def made(found, script):
    """METHOD/POINT of each run of this script."""
    return ["/".join(words[words.index("--out_dir") + 1].split("/")[-2:]) for words in found if words[0] == script]


@pytest.mark.parametrize("chosen", ["", "rounds"])
def test_every_command_of_methods_sh_has_options_that_its_script_knows(tmp_path, chosen):
    own = {"METHODS": chosen} if chosen else {}
    found = dry_run(tmp_path, "dev/methods.sh", MODEL=tmp_path / "base", **own)
    assert all(caps == "auto" for *words, caps in found if "engine.schedule" in words)
    done = {run.split("/")[0] for run in made(found, "train_prune.py")} | {words[0] for words in found}
    assert done >= ({"rounds"} if chosen else {"rounds", "dler", "da_dler", "gfpo", "dot", "laser", "sft.py", "export.py"})
