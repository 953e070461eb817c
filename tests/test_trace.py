"""The trace page. Run: python -m pytest tests/test_trace.py

The browser tests need Debian's chromium and `pip install playwright`; without them they skip and say so.
"""
import json
import re
from pathlib import Path

import pytest

from analysis import trace
from measured import stops
from test_plot import response, rollout, rollouts, save

EVIL = '</script><script>document.title = "owned"</script><img src=x onerror="document.title=\'owned\'"> &lt;b&gt; $x_1$ %DATA%'


SAVING = {f"p{i}": (300 - i) - (100 + (i * 37) % 60) for i in range(120)} | {"p7": 293 - 500}
MOST = sorted(SAVING, key=lambda p: -SAVING[p])


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """120 problems; the first four are the four outcomes, problem 5 is the injection, 6 has words at their edges."""
    folder = tmp_path_factory.mktemp("trace")
    before = [rollout(i, s, 300 - i, text=response(3)) for i in range(120) for s in range(2)]
    after = [rollout(i, s, 100 + (i * 37) % 60) for i in range(120) for s in range(2)]
    for i, (x, y) in enumerate([(True, True), (False, True), (True, False), (False, False)]):
        before[2 * i]["correct"], after[2 * i]["correct"] = x, y
    for rows in before, after:
        rows[10] |= {"problem": EVIL, "response": EVIL + "</think>" + EVIL + "\u202e"}
        rows[11]["problem"] = EVIL
        rows[12]["response"] = "But  wait. WAIT! awaiting, waits, wait_ double-check double\ncheck verifying \u00e9wait Hmm</think> wait"
    after[14] |= {"n_tokens": 500, "finished": False, "correct": False}
    out = folder / "page.html"
    trace.main([str(save(folder / "before", before)), str(save(folder / "after", after)), "--out", str(out)])
    return out


def test_page_stands_alone_and_its_data_cannot_leave_the_block(page_file):
    text = page_file.read_text("utf-8")
    assert not re.search(r"""(src|href)\s*=|@import|url\(|https?:""", text.split('id="data">')[0])
    block = text.split('id="data">')[1].split("</script>")[0]
    data = json.loads(block)
    assert "<" not in block and data["pairs"][5]["problem"] == EVIL
    assert len(data["pairs"]) == 120 and data["totals"][0]["samples"] == 2 and data["shown"] == 1


def test_page_that_exists_is_kept(tmp_path, capsys):
    a, out = str(save(tmp_path / "a", rollouts(20))), tmp_path / "page.html"
    out.write_text("mine")
    assert "exists; give another name, or --overwrite" in stops(capsys, trace.main, a, a, "--out", out)
    assert out.read_text() == "mine"
    trace.main([a, a, "--out", str(out), "--overwrite", "true", "--samples", "0"])
    assert len(json.loads(out.read_text("utf-8").split('id="data">')[1].split("</script>")[0])["pairs"]) == 24
    line = stops(capsys, trace.main, a, a, "--out", tmp_path / "no" / "page.html")
    assert "no file name in a folder that exists" in line


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
    assert ids(page)[0] == current(page) == MOST[50]
    page.locator("#next").click()
    assert len(ids(page)) == 20 and page.locator("#next").is_disabled()


def test_the_change_stands_under_the_totals(page):
    # before 300 - i, after 100 + (37 i mod 60): 120 problems run twice through 0..59; one answer has 500 instead of 139.
    share = 100 * (129.5 + (500 - 139) / 240) / (300 - 59.5)
    # of 240 answers "after" loses p2's and p7's first, "before" p1's; p3 is wrong on both sides
    assert page.locator("#totals dd").last.inner_text() == f"{share:.1f} % of the tokens, pass@1 −{100 / 240:.1f} points"


def test_the_page_says_that_it_shows_one_sample_of_each_problem(page):
    assert page.locator("#shown").inner_text().startswith("Shown: the first of 2 samples of each problem.")


def test_a_row_s_figures_stay_on_one_line(page):
    heights = page.locator(".bars span").evaluate_all("all => all.map(e => e.getBoundingClientRect().height)")
    assert max(heights) == min(heights)


def test_it_opens_with_the_largest_saving_and_sorts_otherwise(page):
    assert ids(page) == MOST[:50] and current(page) == MOST[0]
    page.locator("#sort").select_option("file")
    assert ids(page) == [f"p{i}" for i in range(50)]
    page.locator("#sort").select_option("least")
    assert ids(page) == sorted(SAVING, key=lambda p: SAVING[p])[:50] and current(page) == "p7"
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
    for key, wanted in ("j", 1), ("j", 2), ("k", 1), ("k", 0), ("k", 0):
        page.keyboard.press(key)
        assert current(page) == MOST[wanted]
    before = page.evaluate("scrollY")
    page.keyboard.press("ArrowDown")
    for _ in range(100):  # wait_for_function would evaluate text, which the page forbids
        if page.evaluate("scrollY") > before:
            break
        page.wait_for_timeout(20)
    assert page.evaluate("scrollY") > before
    assert current(page) == MOST[0]
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.i") == "1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # visible focus
    page.keyboard.press("Enter")
    assert page.locator("pre").count() == 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "Response before"
    page.keyboard.press("ArrowDown")  # scrolls the response
    assert current(page) == MOST[1]
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
    assert current(page) == ids(page)[0] == MOST[50]  # over the page's end


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
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    assert page.locator("pre").nth(1).bounding_box()["y"] < 744 and not page.locator("#tools").is_visible()  # both in sight
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#more summary").click()
    assert page.locator("#tools").is_visible()
    page.locator(".row", has_text="p5 ").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [page.locator("pre").nth(k).bounding_box() for k in range(2)]
    assert boxes[0]["width"] > 280 and boxes[1]["y"] > boxes[0]["y"]  # one above the other
    dark = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])) < 200
    assert dark == (scheme == "dark")
    page.close()
