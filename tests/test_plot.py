"""Pictures and the trace page. Run: python -m pytest tests/test_plot.py

The browser tests need Debian's chromium and `pip install playwright`; without them they skip and say so.
"""
import doctest
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval as evaluation
from analysis import plot

EVIL = '</script><script>document.title = "owned"</script><img src=x onerror="document.title=\'owned\'"> &lt;b&gt; $x_1$ %DATA%'


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
    rows = [{"budget": b, "mean_tokens": b + 3, "pass@1": b / 400, "pass@1_se": 0.02} for b in (50, 100, 200)]
    (folder / "analysis" / "budget_forcing.json").write_text(json.dumps({"rows": rows}))
    (folder / "analysis" / "words.json").write_text(json.dumps({"A": {"Wait": 2.5, "$x_$": 0.1}, "B": {"Wait": 0.5, "$x_$": 0}}))


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "toy")


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


# ---------------------------------------------------------------------------------------- formulas


def test_doctests():
    assert doctest.testmod(plot).failed == 0


def test_budget_curve_by_hand():
    # a: right at 10 and 30; b: right at 20, wrong at 5; c: cut off at 40, and a right answer in it does not count
    rows = [rollout(0, 0, 10), rollout(0, 1, 30), rollout(1, 0, 20), rollout(1, 1, 5, correct=False),
            rollout(2, 0, 40, finished=False), rollout(2, 1, 40, finished=False)]
    pass1, se, tokens = plot.budget_curve(rows, [0, 9, 10, 20, 30, 1000])
    assert pass1 == pytest.approx([0, 0, 1 / 6, 2 / 6, 3 / 6, 3 / 6])
    # at 10 the problems' shares are 1/2, 0, 0: deviation sqrt(1/12), over sqrt(3); at 30 they are 1, 1/2, 0
    assert se == pytest.approx([0, 0, math.sqrt(1 / 12 / 3), math.sqrt(1 / 12 / 3), math.sqrt(1 / 4 / 3), math.sqrt(1 / 4 / 3)])
    sums = [0, 9 * 5 + 5, 10 * 5 + 5, 10 + 20 * 4 + 5, 10 + 30 * 3 + 20 + 5, 10 + 30 + 20 + 5 + 40 + 40]
    assert tokens == pytest.approx([total / 6 for total in sums])


def test_budget_curve_ends_at_the_evaluation():
    rows = rollouts(140)[:-1]  # problems of unequal size, too
    pass1, se, tokens = plot.budget_curve(rows, [10**9])
    figures = evaluation.metrics(rows)
    assert (pass1[0], se[0], tokens[0]) == pytest.approx((figures["pass@1"], figures["pass@1_se"], figures["mean_tokens"]))


def test_one_problem_has_no_error():
    assert np.isnan(plot.budget_curve([rollout(0, 0, 5), rollout(0, 1, 5)], [9])[1]).all()


# ---------------------------------------------------------------------------------------- pictures


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
    done = subprocess.run([sys.executable, plot.__file__, "run", str(run_folder)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4


def test_command_line_refuses_in_one_line(run_folder):
    for words in ([], ["run", str(run_folder), "--colour", "red"], ["run", str(run_folder / "no")]):
        done = subprocess.run([sys.executable, plot.__file__, *words], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout, (words, done.stderr)


def test_one_wrong_answer_to_one_problem_and_a_round_without_figures(run_folder):
    """Nothing to estimate an error from, nothing right, nothing selected: drawn, and said."""
    for side in "base_test", "final_test":
        save(run_folder / side, [rollout(0, 0, 30, correct=False)])
    edit(run_folder / "cap145" / "selection.json", lambda r: r.update(step=None))
    evaluation.report(str(run_folder))
    summary = json.loads((run_folder / "summary.json").read_text())
    assert summary["base"]["pass@1_se"] is None and "pass@1" not in summary["rounds"][-1]
    figure = plot.draw_length_accuracy(json.loads((run_folder / "base/eval.json").read_text()), summary, "x")
    assert "no error bars" in figure.axes[0].get_xlabel()
    assert "start kept in round cap 145" in figure.axes[0].get_xlabel()
    rows = plot.read_rollouts(run_folder / "base_test")
    assert "no standard error" in plot.draw_budget(rows, rows, [], "x").get_supxlabel()
    plot.run(str(run_folder))


def test_labels_do_not_cover_each_other():
    """All points in one place: the labels still stand apart."""
    point = {"pass@1": 0.9, "pass@1_se": 0.01, "mean_tokens": 80.0, "mean_tokens_se": 2.0}
    summary = {"base": point, "final": point, "rounds": [point | {"cap": cap} for cap in (300, 200, 145, 100)]}
    figure = plot.draw_length_accuracy(point | {"mean_tokens": 300.0}, summary, "x")
    figure.draw_without_rendering()
    boxes = [plot.Text.get_window_extent(text) for text in figure.axes[0].texts if text.get_text()]
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
    plot.run(str(run_folder))  # sets the style, too
    summary = json.loads((run_folder / "summary.json").read_text())
    before, after = (plot.read_rollouts(run_folder / f"{side}_test") for side in ("base", "final"))
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
    title = plot.draw_length_accuracy(summary["base"], summary, "x").axes[0].get_title("left")
    assert title == "x: 25 % of the tokens, pass@1 80.0 → 90.0 % (test problems)"
    rows = plot.read_rollouts(run_folder / "base_test")
    gap = {"value": 0.625, "low": 0.5, "high": 0.75}
    assert "+62.5 points [50.0, 75.0]" in plot.draw_budget(rows, rows, [], "x", gap).axes[0].get_title("left")


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
        ("summary.json", lambda r: r["final"].pop("pass@1"), ["summary.json, final: no field 'pass@1'"]),
        ("summary.json", lambda r: r["rounds"][1].update({"mean_tokens": "80"}), ["summary.json, round 2: 'mean_tokens' is \"80\", not int or float"]),
        ("summary.json", lambda r: r.update(rounds=[]), ["no rounds"]),
        ("base/eval.json", lambda r: r.update({"pass@1": math.nan}), ["base/eval.json: 'pass@1' is NaN"]),
        ("final_test/eval.json", lambda r: r.update(cap=500), ["different caps", "640", "500"]),
        ("analysis/words.json", lambda r: r["B"].pop("Wait"), ["words.json, B: no field 'Wait'"]),
        ("analysis/words.json", lambda r: r.update(A={}, B={}), ["words.json: B is empty"]),
        ("analysis/budget_forcing.json", lambda r: r["rows"][1].pop("budget"), ["budget_forcing.json, row 2: no field 'budget'"]),
    ]:
        if name.startswith("analysis") and not (run_folder / "analysis").exists():
            add_analysis(run_folder)
        whole = (run_folder / name).read_text()
        edit(run_folder / name, change)
        refuses(capsys, lambda: plot.run(str(run_folder)), *words)
        (run_folder / name).write_text(whole)
    log = run_folder / "cap200" / "log.csv"
    for text, words in ("step,reward\n1,0\n", ["cap200/log.csv, line 1: no column 'length'"]), \
                       ("reward,length,over_cap,val_tokens\n1,2,0,\n1,x,0,\n", ["log.csv, line 3: length is 'x'"]), \
                       ("reward,length,over_cap,val_tokens\n", ["no steps"]):
        log.write_text(text)
        refuses(capsys, lambda: plot.run(str(run_folder)), *words)
    log.unlink()
    refuses(capsys, lambda: plot.run(str(run_folder)), "cap200/log.csv", "No such file")


def test_rollout_files_are_checked_line_by_line(tmp_path, capsys):
    good = [rollout(i, 0, 30) for i in range(3)]
    save(tmp_path / "a", good)
    path = tmp_path / "b.jsonl"
    lines = [json.dumps(row) for row in good]

    def without(key):
        return json.dumps({k: v for k, v in good[2].items() if k != key})

    for content, words in [
        (lines[:2] + [without("n_tokens")], ["b.jsonl, line 3: no field 'n_tokens'"]),
        (lines[:2] + [json.dumps(good[2] | {"correct": None})], ["line 3: 'correct' is null, not bool"]),
        (lines[:2] + [json.dumps(good[2] | {"n_tokens": True})], ["line 3: 'n_tokens' is true, not int"]),
        (lines[:2] + ["[1]"], ["line 3: not a JSON object"]),
        (lines[:2] + ['{"id": '], ["line 3: not JSON"]),
        (lines[:2] + [json.dumps(good[2] | {"response": "x" * plot.LONGEST})], ["line 3 is longer than 10 MB"]),
        (lines[:2] + [lines[1]], ["line 3: sample 0 of problem p1 a second time"]),
        ([], ["b.jsonl holds no rollout"]),
        (lines[:2], ["different problems: p2 is only in", "/a"]),
        (lines[:2] + [json.dumps(good[2] | {"problem": "else"})], ["different problems: p2 reads otherwise"]),
        (lines[:2] + [json.dumps(good[2] | {"finished": False})], ["different caps", "640", "30"]),
    ]:
        path.write_text("\n".join(content) + "\n")
        refuses(capsys, lambda: plot.trace(str(tmp_path / "a"), str(path), str(tmp_path / "page.html")), *words)
    path.write_bytes(b"\xff\xfe\x00")
    refuses(capsys, lambda: plot.trace(str(tmp_path / "a"), str(path), str(tmp_path / "page.html")), "not UTF-8")
    refuses(capsys, lambda: plot.trace(str(tmp_path / "a"), str(tmp_path / "no"), str(tmp_path / "page.html")), "No such file")
    assert not (tmp_path / "page.html").exists()


# ---------------------------------------------------------------------------------------- trace page


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """120 problems; the first four are the four outcomes, problem 5 is the injection, 6 has words at their edges."""
    folder = tmp_path_factory.mktemp("trace")
    before = [rollout(i, s, 300 - i, text=response(3)) for i in range(120) for s in range(2)]
    after = [rollout(i, s, 100 + (i * 37) % 60) for i in range(120) for s in range(2)]
    for i, (x, y) in enumerate([(True, True), (False, True), (True, False), (False, False)]):
        before[2 * i]["correct"], after[2 * i]["correct"] = x, y
    for rows in before, after:
        rows[10] |= {"problem": EVIL, "response": EVIL + "</think>" + EVIL + "\ud800\u202e"}
        rows[11]["problem"] = EVIL
        rows[12]["response"] = "But  wait. WAIT! awaiting, waits, wait_ double-check double\ncheck verifying \u00e9wait Hmm</think> wait"
    after[14] |= {"n_tokens": 500, "finished": False}
    out = folder / "page.html"
    plot.trace(str(save(folder / "before", before)), str(save(folder / "after", after)), str(out))
    return out


def test_page_stands_alone_and_its_data_cannot_leave_the_block(page_file):
    text = page_file.read_text("utf-8")
    assert not re.search(r"""(src|href)\s*=|@import|url\(|https?:""", text.split('id="data">')[0])
    block = text.split('id="data">')[1].split("</script>")[0]
    data = json.loads(block)
    assert "<" not in block and data["pairs"][5]["problem"] == EVIL
    assert len(data["pairs"]) == 120 and data["totals"][0]["samples"] == 2


def test_page_that_exists_is_kept(tmp_path, capsys):
    a, out = str(save(tmp_path / "a", rollouts(20))), tmp_path / "page.html"
    out.write_text("mine")
    refuses(capsys, lambda: plot.trace(a, a, str(out)), "exists", "--overwrite")
    assert out.read_text() == "mine"
    plot.trace(a, a, str(out), overwrite=True, samples=0)
    assert len(json.loads(out.read_text("utf-8").split('id="data">')[1].split("</script>")[0])["pairs"]) == 24
    refuses(capsys, lambda: plot.trace(a, a, str(tmp_path / "no" / "page.html")), "no file name in a folder that exists")


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("needs Debian's chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_file):
    """The page in a desktop window; it may neither log an error nor ask for anything but itself."""
    page, trouble = browser.new_page(viewport={"width": 1200, "height": 800}), []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if request.url != page_file.as_uri() else None)
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert trouble == []


def ids(page):
    return [text.split(" ")[0] for text in page.locator(".row b").all_inner_texts()]


def wait_for_rows(page, n):  # typing is searched for after a pause
    from playwright.sync_api import expect

    expect(page.locator(".row")).to_have_count(n)


def current(page):
    rows = page.locator(".row[aria-expanded=true]")
    assert rows.count() == 1
    return rows.locator("b").inner_text().split(" ")[0]


def test_filter_and_paging(page):
    assert len(ids(page)) == 50 and page.locator("pre").count() == 2  # lazily: one page, one pair
    for outcome, wanted in ("fixed", ["p1"]), ("broken", ["p2", "p7"]), ("both wrong", ["p3"]):
        button = page.locator(f"[data-filter='{outcome}']")
        button.click()
        assert ids(page) == wanted and button.get_attribute("aria-pressed") == "true"
        assert button.inner_text() == f"{outcome} {len(wanted)}"
    assert page.locator("#count").inner_text() == "1 of 120 pairs."
    page.locator("[data-filter='all']").click()
    page.locator("#next").click()
    assert ids(page)[0] == current(page) == "p50"
    page.locator("#next").click()
    assert len(ids(page)) == 20 and page.locator("#next").is_disabled()


def test_the_change_stands_under_the_totals(page):
    # before 300 - i, after 100 + (37 i mod 60): 120 problems run twice through 0..59; one answer has 500 instead of 139.
    share = 100 * (129.5 + (500 - 139) / 240) / (300 - 59.5)
    # of 240 answers "after" loses p2's and p7's first, "before" p1's; p3 is wrong on both sides
    assert page.locator("#totals dd").last.inner_text() == f"{share:.1f} % of the tokens, pass@1 −{100 / 240:.1f} points"


def test_a_row_s_figures_stay_on_one_line(page):
    heights = page.locator(".bars span").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
    assert max(heights) == min(heights)


def test_sort_by_saving(page):
    saving = {f"p{i}": (300 - i) - (100 + (i * 37) % 60) for i in range(120)} | {"p7": 293 - 500}
    page.locator("#sort").select_option("most")
    assert ids(page) == sorted(saving, key=lambda p: -saving[p])[:50]
    page.locator("#sort").select_option("least")
    assert ids(page) == sorted(saving, key=lambda p: saving[p])[:50] and current(page) == "p7"
    assert "cut off" in page.locator(".pair").inner_text() and "+71 %" in page.locator(".row").first.inner_text()


def test_search(page):
    page.locator("#search").fill("OWNED")  # any case, in problem and responses
    wait_for_rows(page, 1)
    assert ids(page) == ["p5"]
    page.locator("#search").fill("nowhere to be found")
    wait_for_rows(page, 0)
    assert page.locator("#count").inner_text() == "0 of 120 pairs."
    page.keyboard.press("j")  # typed into the box


def test_keyboard(page):
    assert current(page) == "p0"
    for key, wanted in ("j", "p1"), ("ArrowDown", "p2"), ("k", "p1"), ("ArrowUp", "p0"), ("k", "p0"):
        page.keyboard.press(key)
        assert current(page) == wanted
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.i") == "1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # visible focus
    page.keyboard.press("Enter")
    assert page.locator("pre").count() == 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Response before"
    page.keyboard.press("ArrowDown")  # scrolls the response
    assert current(page) == "p1"
    page.keyboard.press("/")
    page.keyboard.type("p11 jk")
    assert page.locator("#search").input_value() == "p11 jk"
    wait_for_rows(page, 0)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    assert page.locator("#search").input_value() == "p11 jk"
    page.locator("#search").fill("")
    wait_for_rows(page, 50)
    page.keyboard.press("Escape")
    for _ in range(50):
        page.keyboard.press("j")
    assert current(page) == ids(page)[0] == "p50"  # over the page's end


def test_what_the_model_wrote_is_text(page):
    page.locator(".row", has_text="p5 ").first.click()
    shown = page.locator("pre").first.inner_text()
    assert EVIL in shown and page.locator(".open p").first.inner_text() == EVIL
    assert page.title() == "Traces before and after" and page.locator("img").count() == 0


def test_reflection_words_are_marked_whole_and_once(page):
    page.locator(".row", has_text="p6 ").first.click()
    assert page.locator("pre").first.locator("mark").all_text_contents() == ["But  wait", "WAIT", "double-check", "double\ncheck", "Hmm", "wait"]
    assert "6 reflection words" in page.locator("h3").first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(browser, page_file, scheme):
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    page.locator(".row", has_text="p5 ").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator("pre").nth(k).bounding_box() for k in range(2)]
    assert boxes[0]["width"] > 280 and boxes[1]["y"] > boxes[0]["y"]  # one above the other
    dark = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) < 200
    assert dark == (scheme == "dark")
    page.close()
