"""The judge of steps, against a stand-in server. Run: python -m pytest tests/test_behaviours.py"""
import doctest
import http.server
import json
import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import behaviours, report
from analysis.command import main
from measured import folder, r1, result, rollout  # noqa: F401  (a fixture, too)
from measured import stops as stopped


@pytest.fixture
def two(tmp_path):
    """A: two paragraphs of reflection, B: one line; the same six problems in another order."""
    thought = "Wait, so 7.\n\nWait. But wait: 7.\n</think>\nIt is \\boxed{7}"
    long = [rollout(f"p{p}", s, 200, response=thought) for p in range(6) for s in range(4)]
    short = [rollout(f"p{p}", s, 50, response="Therefore 7.\n</think>\nIt is \\boxed{7}")
             for p in reversed(range(6)) for s in range(2)]
    return folder(tmp_path / "run/base_test", long), folder(tmp_path / "run/final_test", short)


def judge(arguments):
    main(behaviours, arguments, inherit=False)


def stops(capsys, *arguments):
    return stopped(capsys, judge, *arguments)


def test_doctests():
    assert doctest.testmod(behaviours).failed == 0


class Server:
    """An OpenAI-compatible stand-in; `say` takes (prompt, number of the request), returns (status, body), or hangs."""

    def __init__(self, say):
        outer, self.requests, lock = self, [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((self.path, dict(self.headers), body))
                    number = len(outer.requests)
                status, reply = say(body["messages"][0]["content"], number)
                try:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:
                    pass  # the client has given up

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def serve(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    servers = []
    yield lambda say: servers.append(Server(say)) or servers[-1]
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def chat(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def judged(two, server, *more):
    judge([*two, "--url", server.url, "--model", "j", "--key_env", "JUDGE_KEY", *more])
    return result(two, "behaviours.json")


def label(prompt, number):
    step = re.search(r"The step to label: (.*)", prompt)[1]
    return chat("Compute." if step.startswith("Therefore") else "recheck_step")


def test_phases_are_counted_and_replies_cached(two, serve):
    server = serve(label)
    r = judged(two, server)
    # A: "Wait, so 7." and "Wait. But wait: 7." of each of six first answers; B: one line
    assert r["steps"] == {"A": 12, "B": 6} and r["invalid"] == {"A": 0, "B": 0}
    assert r["A"]["recheck_step"]["value"] == 1 and r["B"]["compute"]["value"] == 1
    assert r["difference"]["recheck_step"]["value"] == -1 and r["difference"]["recheck_step"]["verdict"] == "lower"
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer s3cret" and body["model"] == "j"
    assert all(phase in body["messages"][0]["content"] for phase in behaviours.PHASES)
    asked = len(server.requests)
    cache = Path(two[1]).parent / "analysis/judge.jsonl"
    cache.write_text(cache.read_text() + '{"key": "half a li')
    assert judged(two, server, "--overwrite", "true") == r | {"command": r["command"]}
    assert len(server.requests) == asked


@pytest.mark.parametrize("bad", [(200, b"<html>"), (200, b'{"choices": []}'), (200, b"[1]"), (200, b"[" * 200_000), (200, b"\xff"), (500, b"down"), (429, b""),
                                 chat("compute or explore"), chat(None), chat("I cannot say.")], ids=lambda bad: f"{bad[0]} {bad[1][:40]}")
def test_what_is_no_label_is_asked_once_more_then_counted(two, serve, bad):
    flaky = {}

    def say(prompt, number):
        flaky[prompt] = flaky.get(prompt, 0) + 1
        if "What is p0?" in prompt:
            return bad  # never a label for the first problem's steps
        return bad if flaky[prompt] == 1 else label(prompt, number)

    r = judged(two, serve(say))
    assert r["invalid"] == {"A": 2, "B": 1} and r["A"]["recheck_step"]["value"] == 1 and set(flaky.values()) == {2}


def test_a_judge_that_hangs_is_asked_again(two, serve):
    free, asked = threading.Event(), []

    def hang(prompt, number):
        asked.append(prompt)
        if number == 1:
            free.wait(30)  # far beyond the client's patience
        return label(prompt, number)

    r = judged(two, serve(hang), "--timeout", "2")
    free.set()
    assert r["invalid"] == {"A": 0, "B": 0} and asked.count(asked[0]) == 2


def test_a_judge_that_is_down_is_one_line(two, serve, capsys):
    server = serve(label)
    server.http.shutdown(), server.http.server_close()
    line = stops(capsys, *two, "--url", server.url, "--model", "j")
    assert server.url in line and "refused" in line


def test_a_judge_that_wants_a_key_is_one_line(two, serve, capsys):
    assert "HTTP 401" in stops(capsys, *two, "--url", serve(lambda *_: (401, b"")).url, "--model", "j")


def test_what_a_dying_judge_has_said_is_kept(two, serve, capsys):
    server = serve(lambda prompt, number: label(prompt, number) if number <= 8 else (503, b""))
    assert "is kept in" in stops(capsys, *two, "--url", server.url, "--model", "j")
    cache = Path(two[1]).parent / "analysis/judge.jsonl"
    assert len([line for line in cache.read_text().splitlines() if line]) == 8


def test_bad_options_are_one_line(two, capsys):
    assert "http://" in stops(capsys, *two, "--url", "localhost:1", "--model", "j")
    assert "--model" in stops(capsys, *two)
    assert "--problems" in stops(capsys, *two, "--model", "j", "--problems", "-1")
    assert "behaviours takes 1 to 2 evaluation folders" in stops(capsys, "--model", "j")


def test_labels_that_exist_are_kept(two, serve, capsys):
    server = serve(label)
    judged(two, server)
    assert "behaviours.json exists" in stops(capsys, *two, "--url", server.url, "--model", "j")


def test_the_report_shows_the_shares_and_the_command(two, serve):
    server = serve(label)
    judged(two, server)
    report.main([*two])
    text = (Path(two[1]).parent / "analysis/report.md").read_text(encoding="utf-8")
    assert f"`python -m analysis.behaviours {two[0]} {two[1]} --model j --url {server.url} --key_env JUDGE_KEY`" in text
    row = "| recheck_step | 100.0 [100.0, 100.0] | 0.0 [0.0, 0.0] | -100.0 [-100.0, -100.0] lower |"
    assert row in re.sub(" +", " ", text)


def test_a_local_model_may_judge(two, r1):
    small = ["--reply_tokens", "4", "--problems", "2", "--load_4bit", "false", "--device", "cpu"]
    judge([*two, "--model", r1, *small])
    r = result(two, "behaviours.json")
    assert r["steps"] == r["invalid"] == {"A": 4, "B": 2}  # random weights name no phase
    assert r["A"]["compute"]["value"] is None
    assert "The judge has named no phase at all." in "\n".join(behaviours.show(r))


@settings(deadline=None)
@given(st.text(alphabet="ab.!? \n<>/think", max_size=80), st.integers(1, 30))
def test_steps_keep_every_word_and_never_raise(text, longest):
    joined = "".join(behaviours.steps(text, longest))
    thinking = text.partition("</think>")[0].rpartition("<think>")[2]
    assert re.sub(r"\W", "", joined) == re.sub(r"\W", "", thinking)
    behaviours.parse_phase(text)
