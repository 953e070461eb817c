"""Pictures of a run. Run: python -m pytest tests/test_plot.py"""
import doctest
import json
import math
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import eval as evaluation
from analysis import plot
from analysis.evaluations import load_sides
from conftest import ROOT

def response(reflections, answer=9):
    checks = "".join(f"Wait, check backwards from answer {answer}\nc -8 +8 = 18\nBack at 10 fits.\n" for _ in range(reflections))
    return f"a +8 = 18\nc -8 = 10\nI get answer {answer}.\n{checks}</think>\nThe answer is \\boxed{{{answer}}}."


def rollout(i, sample, tokens, correct=True, finished=True, text=None):
    text = response(tokens // 40) if text is None else text
    return {"id": f"p{i}", "sample": sample, "problem": f"From start {i}: a +8, c -8. Find c.", "gold": "9", "prompt": "", "response": text,
            "n_tokens": tokens, "finished": finished, "answer": "9", "correct": correct, "reward": float(correct)}


def rollouts(scale, problems=12, samples=2, cap=640):
    return [rollout(i, s, min(cap, scale * (1 + (i + s) % 5)), (i + s) % 4 > 0, scale * (1 + (i + s) % 5) < cap)
            for i in range(problems) for s in range(samples)]


def save(folder, rows, cap=640):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rest = {"cap": cap, "prompt_cap": 60, "temperature": 1.0, "top_p": 1.0, "seed": 0, "model": "m", "adapter": "", "data": "d", "seconds": 1.0}
    (folder / "eval.json").write_text(json.dumps(evaluation.metrics(rows) | rest))
    return folder


def make_run(folder, caps=(300, 200, 145), steps=4):
    """A finished run's folder, its eval.json and summary.json by eval.py itself."""
    save(folder / "base", rollouts(150))
    for k, cap in enumerate(caps):
        (folder / f"cap{cap}").mkdir()
        lines = [f"{s},{0.5 + s / 100},{cap * 0.8 - s},{0.4 / s},{cap / 2 if s == steps else ''}" for s in range(1, steps + 1)]
        (folder / f"cap{cap}" / "log.csv").write_text("\n".join(["step,reward,length,over_cap,val_tokens", *lines]) + "\n")
        point = evaluation.metrics(rollouts(100 - 30 * k)) | {"step": steps, "adapter": "a"}
        chosen = {"selected": "a", "step": steps, "why": "", "checkpoints": [point], "seconds": 1.0}
        (folder / f"cap{cap}" / "selection.json").write_text(json.dumps(chosen))
    save(folder / "base_test", rollouts(140))
    save(folder / "final_test", rollouts(41))
    evaluation.report(str(folder))
    return folder


def add_analysis(folder):
    (folder / "analysis").mkdir()
    rows = [{"budget": b, "mean_tokens": b + 3, "mean_tokens_se": 1.0, "pass@1": b / 400, "pass@1_se": 0.02} for b in (50, 100, 200)]
    (folder / "analysis" / "budget_forcing.json").write_text(json.dumps({"rows": rows}))
    (folder / "analysis" / "words.json").write_text(json.dumps({"A": {"Wait": 2.5, "$x_$": 0.1}, "B": {"Wait": 0.5, "$x_$": 0}}))


@pytest.fixture(autouse=True)
def style():
    with plot.style():
        yield


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "toy")


def sides_of(run_folder):
    return load_sides([str(run_folder / "base_test"), str(run_folder / "final_test")])


def refuses(capsys, call, *words):
    """The call ends with status 2 and one line on stderr that holds the words."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1, line
    assert all(word in line for word in words), line


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_doctests():
    assert doctest.testmod(plot).failed == 0


def test_pictures_are_pictures_and_the_same_twice(run_folder):
    plot.run(str(run_folder))
    first = {path.name: path.read_bytes() for path in run_folder.glob("*.png")}
    assert sorted(first) == ["budget.png", "length_accuracy.png", "lengths.png", "training.png"]
    add_analysis(run_folder)
    plot.run(str(run_folder))
    second = {path.name: path.read_bytes() for path in run_folder.glob("*.png")}
    # the analysis adds a picture and the points of budget forcing, and leaves all else as it was
    assert {name for name in second if second[name] != first.get(name)} == {"words.png", "budget.png"}
    for name, data in second.items():
        image = Image.open(run_folder / name)
        assert data[:8] == b"\x89PNG\r\n\x1a\n" and image.width == 1600 and 500 < image.height < 1600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 60, f"{name} is nearly blank"
    assert not list(run_folder.glob("*.tmp"))


def test_no_display_no_backend_no_taste(run_folder):
    (run_folder / "matplotlibrc").write_text("text.usetex: true\nfont.family: Nothing At All\n")
    env = {k: v for k, v in os.environ.items() if k != "DISPLAY"}
    env |= {"MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(run_folder / "matplotlibrc")}
    done = subprocess.run([sys.executable, "-m", "analysis.plot", "run", str(run_folder)], env=env, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4


def test_command_line_refuses_in_one_line(run_folder, warm_python):
    wrong = [], ["run", str(run_folder), "--colour", "red"], ["run", str(run_folder / "no")], ["rounds"]
    for words in (*wrong, ["rounds", str(run_folder)], ["rounds", "--colour"]):
        done = subprocess.run([warm_python, "-m", "analysis.plot", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, (words, done.stderr)


def test_rounds_made_without_a_schedule_are_drawn_as_those_of_one(run_folder, tmp_path):
    """The same picture, but for its title, from the folders of two rounds alone."""
    caps = [found["cap"] for found in plot.read_summary(run_folder)["rounds"]]
    for cap in caps:
        (tmp_path / f"own{cap}").mkdir()
        shutil.copy(run_folder / f"cap{cap}" / "log.csv", tmp_path / f"own{cap}")
        (tmp_path / f"own{cap}" / "config.yaml").write_text(f"cap: {cap}\n")
    plot.main(["rounds", *(str(tmp_path / f"own{cap}") for cap in caps)])
    logs = [(cap, plot.read_log(run_folder / f"cap{cap}" / "log.csv")) for cap in caps]
    with plot.style():
        plot.save(plot.draw_training(logs, f"own{caps[-1]}"), tmp_path / "wanted.png")
    drawn = tmp_path / f"own{caps[-1]}" / "training.png"
    assert len(caps) > 1 and drawn.read_bytes() == (tmp_path / "wanted.png").read_bytes()


def test_one_wrong_answer_to_one_problem_and_a_round_without_figures(run_folder):
    """Nothing to estimate an error from, nothing right, nothing selected: drawn, and said."""
    for side in "base_test", "final_test":
        save(run_folder / side, [rollout(0, 0, 30, correct=False)])
    edit(run_folder / "cap145" / "selection.json", lambda r: r.update(step=None))
    evaluation.report(str(run_folder))
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["base"]["pass@1_se"] is None and "pass@1" not in summary["rounds"][-1]
    figure = plot.draw_length_accuracy(json.loads((run_folder / "base/eval.json").read_text()), summary, "x")
    assert "no error bars" in figure.get_supxlabel()
    assert "start kept in round cap 145" in figure.get_supxlabel()
    side, _ = sides_of(run_folder)
    assert "no standard error" in plot.draw_budget(side, side, [], "x").get_supxlabel()
    plot.run(str(run_folder))


def test_labels_do_not_cover_each_other():
    """All points in one place: the labels still stand apart."""
    point = {"pass@1": 0.9, "pass@1_se": 0.01, "mean_tokens": 80.0, "mean_tokens_se": 2.0}
    summary = {"base": point, "final": point, "rounds": [point | {"cap": cap} for cap in (300, 200, 145, 100)]}
    figure = plot.draw_length_accuracy(point | {"mean_tokens": 300.0}, summary, "x")
    figure.draw_without_rendering()
    boxes = [plot.Text.get_window_extent(text) for ax in figure.axes for text in ax.texts if text.get_text()]
    assert len(boxes) == 7
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def all_text(figure):
    """Every string in a figure, with its pixels; but those at ticks, of which some lie beyond the axis, undrawn."""
    figure.draw_without_rendering()
    ticks = {label for ax in figure.axes
             for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels(which="both")}
    texts = [text for text in figure.findobj(plot.Text) if text.get_text() and text not in ticks]
    return {text.get_text(): plot.Text.get_window_extent(text) for text in texts}


@pytest.mark.parametrize("name", ["toy", "r1_1.5b_24gb_seed_3_with_a_long_name_that_someone_gave_it"])
def test_nothing_is_cut_off_at_the_picture_s_edge(run_folder, name):
    summary = json.loads((run_folder / "summary.json").read_text())
    before, after = sides_of(run_folder)
    logs = [(r["cap"], plot.read_log(run_folder / f"cap{r['cap']}" / "log.csv")) for r in summary["rounds"]]
    gap = {"value": 0.6, "low": 0.5, "high": 0.7}
    never = {f"never {k}": 0 for k in range(12)}
    words = {side: {f"word {k}": k * (side == "A") for k in range(3)} | never for side in "AB"}
    for figure in (plot.draw_length_accuracy(json.loads((run_folder / "base/eval.json").read_text()), summary, name),
                   plot.draw_training(logs, name), plot.draw_lengths(before, after, name),
                   plot.draw_budget(before, after, [], name, gap), plot.draw_words(words, name)):
        width, height = figure.bbox.size
        for text, box in all_text(figure).items():
            assert box.x0 > -2 and box.x1 < width + 2 and box.y0 > -2 and box.y1 < height + 2, (text, box)


def test_titles_say_what_is_to_be_seen(run_folder):
    summary = {"base": {"pass@1": 0.8, "pass@1_se": 0.01, "mean_tokens": 300.0, "mean_tokens_se": 2.0}, "rounds": []}
    summary["final"] = summary["base"] | {"pass@1": 0.9, "mean_tokens": 75.0}
    title = plot.draw_length_accuracy(summary["base"], summary, "x").get_suptitle()
    assert title == "x: 25 % of the tokens, pass@1 80.0 → 90.0 % (test problems)"
    side, _ = sides_of(run_folder)
    gap = {"value": 0.625, "low": 0.5, "high": 0.75}
    assert "+62.5 points [50.0, 75.0]" in plot.draw_budget(side, side, [], "x", gap).axes[0].get_title("left")


def test_words_that_never_occur_have_no_bar_and_are_named():
    ax = plot.draw_words({"A": {"Wait": 2.0, "Hmm": 0, "so": 0}, "B": {"Wait": 1.0, "Hmm": 0, "so": 0.5}}, "x").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Wait", "so"]
    assert "never there: Hmm" in ax.get_xlabel()
    assert ax.get_title("left") == "x: 1 of 2 words come less often in final than in base"


def test_a_list_of_words_that_never_occur_is_drawn_and_said():
    ax = plot.draw_words({"A": {"Hmm": 0}, "B": {"Hmm": 0}}, "x").axes[0]
    assert ax.get_title("left") == "x: none of the listed words occurs"


def test_run_refuses_what_it_cannot_draw(run_folder, capsys):
    for name, change, words in [
        ("summary.json", lambda r: r["final"].pop("pass@1"), ["summary.json, final has no pass@1"]),
        ("summary.json", lambda r: r["rounds"][1].update({"mean_tokens": "80"}), ["summary.json, round 2: mean_tokens is \"80\", not int | float"]),
        ("summary.json", lambda r: r.update(rounds=[]), ["no rounds"]),
        ("base/eval.json", lambda r: r.update({"pass@1": math.nan}), ["base/eval.json: pass@1 is NaN"]),
        ("final_test/eval.json", lambda r: r.update(cap=500), ["with cap 640", "with 500"]),
        ("analysis/words.json", lambda r: r["B"].pop("Wait"), ["words.json, B has no Wait"]),
        ("analysis/words.json", lambda r: r.update(A={}, B={}), ["words.json: B is empty"]),
        ("analysis/budget_forcing.json", lambda r: r["rows"][1].pop("budget"), ["budget_forcing.json, row 2 has no budget"]),
    ]:
        if name.startswith("analysis") and not (run_folder / "analysis").exists():
            add_analysis(run_folder)
        whole = (run_folder / name).read_text()
        edit(run_folder / name, change)
        refuses(capsys, lambda: plot.run(str(run_folder)), *words)
        (run_folder / name).write_text(whole)
    log = run_folder / "cap200" / "log.csv"
    for text, words in ("step,reward\n1,0\n", ["cap200/log.csv: no column 'length'"]), \
                       ("reward,length,over_cap,val_tokens\n1,2,0,\n1,x,0,\n", ["log.csv, line 3: length is 'x'"]), \
                       ("reward,length,over_cap,val_tokens\n", ["no steps"]):
        log.write_text(text)
        refuses(capsys, lambda: plot.run(str(run_folder)), *words)
    log.unlink()
    refuses(capsys, lambda: plot.run(str(run_folder)), "cap200/log.csv", "No such file")


def test_validation_and_test_are_apart_and_the_reward_starts_at_0(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    figure = plot.draw_length_accuracy(json.loads((run_folder / "base/eval.json").read_text()), summary, "x")
    named = [[text.get_text() for text in ax.texts if text.get_text()] for ax in figure.axes]
    assert named == [["base", "cap 300", "cap 200", "cap 145"], ["base", "final"]]
    assert [ax.get_title("left").split(",")[0] for ax in figure.axes] == ["validation", "test"]
    log = plot.read_log(run_folder / "cap300" / "log.csv")
    assert plot.draw_training([(300, log)], "x").axes[0].get_ylim()[0] == 0
    punished = log | {"reward": log["reward"] - 2}
    assert plot.draw_training([(300, punished)], "x").axes[0].get_ylim()[0] < -1
