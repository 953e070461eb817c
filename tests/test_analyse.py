"""Analyses of measured policies. Run: python -m pytest tests/test_analyse.py"""
import doctest
import http.server
import itertools
import json
import math
import random
import re
import shlex
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analyse
from analyse import Config, arrange, bootstrap, cons_at_k, load_run, measure, pair, pass_at_k
from sample import Rollout, load_policy
from standin import make_r1_standin


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    return make_r1_standin(tmp_path_factory.mktemp("r1") / "model", context=4096)


@pytest.fixture(scope="module")
def policy(r1):
    model, tokenizer = load_policy(Config(model=r1, load_4bit=False, device="cpu"))
    return model.eval(), tokenizer


def rollout(problem="a", sample=0, n=10, right=True, answer="7", response="so</think> \\boxed{7}", finished=True):
    return {"id": problem, "sample": sample, "problem": f"What is {problem}?", "gold": "7", "prompt": f"<think>{problem}", "response": response,
            "n_tokens": n, "finished": finished, "answer": answer, "correct": right, "reward": float(bool(right and finished))}


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


def stops(capsys, *arguments):
    """The one line that a bad command ends with."""
    with pytest.raises(SystemExit) as stop:
        analyse.main([str(a) for a in arguments])
    err = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and err[-1].startswith("error: ")
    return err[-1]


def result(two, file):
    return json.loads((Path(two[1]).parent / "analysis" / file).read_text())


def test_doctests():
    assert doctest.testmod(analyse).failed == 0


# ---------------------------------------------------------------- statistics


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer():
    for n in range(1, 8):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(["right", "x", "y", "z", None]), min_size=1, max_size=8))
def test_cons_at_k_is_the_vote_over_all_subsets(answers):
    counts = Counter(answers)
    for k in range(1, len(answers) + 1):
        won = []
        for subset in itertools.combinations(answers, k):
            votes = Counter(a for a in subset if a is not None)
            best = [a for a, n in votes.items() if n == max(votes.values())]
            won.append(("right" in best) / max(1, len(best)))
        ours = cons_at_k(counts["right"], [counts[a] for a in "xyz" if counts[a]], counts[None], k)
        assert ours == pytest.approx(sum(won) / len(won))


def test_a_vote_of_64_samples_is_exact_and_fast():
    started = time.process_time()
    values = [cons_at_k(20, [15, 9] + [1] * 12, 8, k) for k in (1, 2, 4, 8, 16, 32, 64)]
    assert values[0] == pytest.approx(20 / 64) and values[2:] == sorted(values[2:])  # the commonest answer gains with k
    assert values[-1] == 1 and time.process_time() - started < 1


def test_a_cut_rollout_abstains_and_spellings_of_one_answer_vote_together():
    rows = [rollout(answer="1/2", right=False), rollout(answer="0.5", right=False), rollout(answer="7"), rollout(answer="7", finished=False)]
    assert analyse.ballots(rows) == (1, [2], 1)


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(0).exponential(size=(400, 2))
    ours = bootstrap(x, analyse.difference, 0.0, 10_000, 3)
    gaps = x[:, 1] - x[:, 0]
    half = 1.96 * gaps.std() / math.sqrt(len(x))
    assert ours["value"] == pytest.approx(gaps.mean())
    assert ours["low"] == pytest.approx(gaps.mean() - half, abs=0.1 * half) and ours["high"] == pytest.approx(gaps.mean() + half, abs=0.1 * half)
    assert ours == bootstrap(x, analyse.difference, 0.0, 10_000, 3)


def test_bootstrap_interval_of_a_ratio_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(1).gamma(2, size=(60, 2))
    ours = bootstrap(x, lambda m: m[..., 1] / m[..., 0], 1.0)
    theirs = stats.bootstrap((x[:, 0], x[:, 1]), lambda a, b, axis: b.mean(axis) / a.mean(axis), paired=True, vectorized=True,
                             n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs), abs=0.02)


def test_bootstrap_pairs_the_two_sides():
    base = np.random.default_rng(0).normal(size=50) * 100
    tight = bootstrap(np.stack([base, base + 1], 1), analyse.difference)
    assert tight["low"] == pytest.approx(1) and tight["high"] == pytest.approx(1) and tight["verdict"] == "B higher"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12))
def test_interval_lies_within_the_data_and_swapping_sides_mirrors_it(rows):
    x = np.array(rows)
    there, back = bootstrap(x, analyse.difference, resamples=300), bootstrap(x[:, ::-1], analyse.difference, resamples=300)
    gaps = x[:, 1] - x[:, 0]
    assert gaps.min() - 1e-9 <= there["low"] <= there["high"] <= gaps.max() + 1e-9
    assert there["low"] == pytest.approx(-back["high"], abs=1e-9)
    assert (there["verdict"] == "not distinguishable") == (there["low"] <= 0 <= there["high"])


def test_one_problem_has_no_interval_and_nothing_over_nothing_no_value():
    assert bootstrap([[1, 2]], analyse.difference) == {"value": 1.0, "low": None, "high": None, "verdict": "no interval"}
    assert bootstrap([[0, 0, 1, 1]] * 3, analyse.quotient_difference)["value"] is None


# ---------------------------------------------------------------- metrics


def test_metrics_by_hand():
    groups = [[rollout("a", 0, 10), rollout("a", 1, 20, False, "8")], [rollout("b", 0, 30, True, finished=False), rollout("b", 1, 40)]]
    m = measure(arrange("x", {}, groups), [9, 10, 39, 40])
    assert m["pass@1"] == 0.5 and m["mean_tokens"] == 25 and m["pass@1_per_1k_tokens"] == 20
    assert m["pass@k"][1] == {"value": 0.5, "se": 0.0} and m["pass@k"][2]["value"] == 1
    # problem a: a tie of one against one; problem b: the cut rollout abstains, alone or beside the right one
    assert m["cons@k"][1] == {"value": 0.5, "se": 0.0} and m["cons@k"][2] == {"value": 0.75, "se": 0.25}
    assert m["lengths"]["all"] == {"n": 4, "mean": 25, "p10": 13, "median": 25, "p90": 37, "max": 40}
    assert m["lengths"]["right"]["mean"] == 25 and m["lengths"]["wrong"]["median"] == 25
    assert [(p["pass@1"], p["mean_tokens"]) for p in m["curve"]] == [(0, 9), (0.25, 10), (0.25, (10 + 20 + 30 + 39) / 4), (0.5, 25)]


def test_difference_is_paired_by_problem_whatever_the_order(tmp_path):
    a = load_run(folder(tmp_path / "a", [rollout("p", 0, 10, True), rollout("q", 0, 30, False)]))
    b = pair(a, load_run(folder(tmp_path / "b", [rollout("q", 0, 15, False), rollout("p", 0, 5, True)])))
    d = analyse.analyse_metrics([a, b], Config())["difference"]
    assert (d["pass@1"]["low"], d["pass@1"]["high"]) == (0, 0) and "not distinguishable" in d["pass@1"]["verdict"]
    assert d["mean_tokens"] == {"value": -10, "low": -15, "high": -5, "verdict": "B lower"}
    assert d["tokens_ratio"]["value"] == d["tokens_ratio"]["high"] == 0.5 and d["tokens_ratio"]["verdict"] == "B lower"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=8), st.lists(st.integers(1, 120), min_size=1, max_size=4))
def test_a_looser_cap_never_hurts_and_the_loosest_is_pass_at_1(draws, caps):
    m = measure(arrange("x", {}, [[rollout(str(i), 0, n, right)] for i, (n, right) in enumerate(draws)]), sorted(caps) + [200])
    accuracy = [p["pass@1"] for p in m["curve"]]
    assert accuracy == sorted(accuracy) and accuracy[-1] == m["pass@1"] and m["curve"][-1]["mean_tokens"] == m["mean_tokens"]
    assert m["pass@k"][1]["value"] == pytest.approx(m["cons@k"][1]["value"]) == pytest.approx(m["pass@1"])


def test_baselines_take_the_largest_vote_that_costs_no_more(tmp_path):
    a = load_run(folder(tmp_path / "a", [rollout(p, 0, 100, p == "p") for p in "pq"]))
    b = load_run(folder(tmp_path / "b", [rollout(p, s, 27, s > 0, "7" if s else "8") for p in "pq" for s in range(4)]))
    c = load_run(folder(tmp_path / "c", [rollout(p, 0, 100) for p in "pq"], instruction="Think step by step."))
    r = analyse.analyse_baselines([a, b, c], Config())
    assert r["equal_tokens"]["k"] == 3 and r["equal_tokens"]["tokens"] == 81  # 4 would cost 108; of 3 at most one is wrong
    assert r["equal_tokens"]["difference"]["value"] == 0.5 and [x["pass@1"] for x in r["rows"]] == [0.5, 0.75, 1]
    assert "Think step by step." in "\n".join(analyse.show_baselines(r))


# ---------------------------------------------------------------- budget forcing


def test_split_ids_finds_where_the_thinking_ends(policy):
    _, tokenizer = policy
    ids, before, through = analyse.split_ids(tokenizer, "Wait, 12.\n</think>\nso </think>")
    assert ids[before] == tokenizer.convert_tokens_to_ids("</think>") and through == before + 1
    assert tokenizer.decode(ids[:before]) == "Wait, 12.\n"
    ids, before, through = analyse.split_ids(tokenizer, "Wait")
    assert before == through == len(ids)


def test_the_cue_is_how_the_model_opens_its_answers():
    usual = [[rollout(response="7\n</think>\nThe answer is \\boxed{7}.")], [rollout(response="7</think> \\boxed{7}")]]
    assert analyse.usual_cue(arrange("x", {}, usual + usual[:1])) == "\n</think>\nThe answer is \\boxed{"
    assert analyse.usual_cue(arrange("x", {}, usual)) == analyse.CUE
    assert analyse.usual_cue(arrange("x", {}, [[rollout(finished=False)]])) == analyse.CUE


def test_forcing_cuts_what_still_thinks_and_leaves_the_rest(policy, monkeypatch):
    model, tokenizer = policy
    thought = "Wait, let me double-check: 12. "
    rows = [rollout("a", 0, 20, True, response="12\n</think>\nIt is \\boxed{7}"),       # ended its thinking in time
            rollout("b", 0, 300, True, response=thought * 30 + "</think> \\boxed{7}"),    # thinks too long
            rollout("c", 0, 640, False, None, response="12", finished=False),           # cut by the cap: never ended by itself
            rollout("d", 0, 30, False, None, response="12")]                            # ended without an answer
    run = arrange("x", {}, [[row] for row in rows])
    asked = {}

    def answer(model, tokenizer, prompts, **options):
        asked.update(options, prompts=prompts)
        return [Rollout([], [1, 2, 3], torch.zeros(3), False, text) for text in ("7} and on", "9}")]

    monkeypatch.setattr(analyse, "generate_rollouts", answer)
    coded = [analyse.split_ids(tokenizer, row["response"]) for row in rows]
    cue = "\n</think>\nIt is \\boxed{"
    forced, said = analyse.force(model, tokenizer, run, coded, 25, cue, Config(answer_cap=3))
    prompt, kept, end = (tokenizer(t, add_special_tokens=False).input_ids for t in ("<think>b", thought * 30, cue))
    assert asked["prompts"][0] == prompt + kept[:25] + end and asked["cap"] == 3 and asked["temperature"] == 0
    assert forced.right[:, 0].tolist() == [True, True, False, False]         # a closed box counts, end token or not
    assert forced.tokens[:, 0].tolist() == [20, 25 + 3, len(coded[2][0]) + 3, 30]  # the cue is not counted
    assert [(s["id"], s["answer"]) for s in said] == [("b", "7"), ("c", "9")] and run.rows[1]["n_tokens"] == 300
    exact, said = analyse.force(model, tokenizer, run, coded, coded[0][1], cue, Config(answer_cap=3))
    assert exact.tokens[0, 0] == 20 and [x["id"] for x in said] == ["b", "c"]  # ending at the budget is in time


def test_forced_answers_are_the_models_own(two, policy, r1):
    model, tokenizer = policy
    analyse.main(["budget", *two, "--budgets", "[3, 6]", "--answer_cap", "5", "--cue", "</think>\\boxed{", "--device", "cpu"])
    r = result(two, "budget_forcing.json")
    a = load_run(two[0])
    assert [row["budget"] for row in r["rows"]] == [3, 6] and all(row["forced"] == 1 for row in r["rows"])
    assert all(row["mean_tokens"] <= row["budget"] + 5 and row["pass@1"] == 0 for row in r["rows"])
    prompt, kept, cue = (tokenizer(t, add_special_tokens=False).input_ids for t in (a.rows[0]["prompt"], a.rows[0]["response"], "</think>\\boxed{"))
    ids = torch.tensor([prompt + kept[:3] + cue])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(theirs, skip_special_tokens=False).startswith(r["forced"][0]["text"].removeprefix("</think>\\boxed{"))
    b = pair(a, load_run(two[1]))
    # random weights never answer: the curve is 0 up to 11 tokens, then rises to A's own point
    share = (b.tokens.mean() - r["rows"][1]["mean_tokens"]) / (a.tokens.mean() - r["rows"][1]["mean_tokens"])
    assert r["equal_tokens"]["curve_pass@1"] == pytest.approx(share * a.right.mean())
    assert r["equal_tokens"]["value"] == pytest.approx(b.right.mean() - share * a.right.mean())


def test_the_best_budget_within_the_price_is_the_rival_too(two, monkeypatch):
    """A curve that falls with the budget: 10 tokens always right, 30 tokens always wrong, B in between."""
    def force(model, tokenizer, run, coded, budget, cue, cfg):
        return arrange("x", {}, [[rollout(i, 0, budget, budget == 10)] for i in run.ids]), []

    monkeypatch.setattr(analyse, "force", force)
    analyse.main(["budget", *two, "--budgets", "[10, 30]", "--cue", "</think>\\boxed{", "--device", "cpu"])
    r = result(two, "budget_forcing.json")
    b = load_run(two[1])
    assert r["best_budget"]["budget"] == 10 and r["best_budget"]["difference"]["value"] == pytest.approx(b.right.mean() - 1)
    assert r["equal_tokens"]["curve_pass@1"] < 1 and "Best budget" in "\n".join(analyse.show_budget(r))


def test_a_policy_on_the_curve_does_not_differ_from_it():
    rng = np.random.default_rng(0)
    curve = [np.stack([rng.random(40), np.full(40, n)], 1) for n in (30.0, 10.0, 20.0)]
    exact = analyse.at_equal_tokens(curve[2], curve)
    assert exact["value"] == pytest.approx(0) and exact["low"] == pytest.approx(0) and exact["verdict"] == "not distinguishable"
    between = analyse.at_equal_tokens((curve[1] + curve[2]) / 2, curve)
    assert between["value"] == pytest.approx(0) and between["mean_tokens"] == 15 and not between["shorter_than_curve"]
    assert analyse.at_equal_tokens(curve[1] - [0, 5], curve)["shorter_than_curve"]


# ---------------------------------------------------------------- words and perplexity


def test_words_by_hand(two):
    analyse.main(["words", *two])
    r = result(two, "words.json")
    assert r["A"] == {"Wait": 3, "But wait": 1, "Alternatively": 0, "double-check": 0, "Therefore": 0, "let me compute": 0}
    assert r["B"]["Therefore"] == 1 and list(r["A"]) == list(r["B"])
    assert r["totals"]["A"] == {"all reflection": 3, "all working": 0}  # "But wait" is one place, not two
    assert r["per_1k_tokens"]["A"]["Wait"] == pytest.approx(3000 / load_run(two[0]).tokens.mean())
    assert r["difference"]["Wait"]["value"] == -3 and r["difference"]["Wait"]["verdict"] == "B lower"


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(["wait", "But ", " ", "-", "\n", "WAIT", "x", "."]), max_size=12).map("".join))
def test_a_place_counts_once_in_the_total(text):
    one, two_, both = (len(analyse.phrase_pattern(*p).findall(text)) for p in (["Wait"], ["But wait"], ["Wait", "But wait"]))
    assert both == one >= two_
    assert len(analyse.phrase_pattern("let", "me", "let me").findall("Let me see")) == 1  # the longest is taken


def test_perplexity_is_that_of_a_plain_forward(policy):
    model, tokenizer = policy
    rows = [[rollout(p, s, 9, response=text, finished=s == 0) for s, text in enumerate(texts)] for p, texts in
            (("a", ["Wait.</think> 12", "12"]), ("b", ["", "so " * 40 + "</think>\\boxed{7}"]))]
    run = arrange("x", {}, rows)
    sums = {part: np.zeros((2, 2)) for part in analyse.PARTS}
    for p, group in enumerate(rows):
        for row in group:
            prompt, response = (tokenizer(row[key], add_special_tokens=False).input_ids for key in ("prompt", "response"))
            start, ids = len(prompt), torch.tensor(prompt + response + [tokenizer.eos_token_id] * row["finished"])
            with torch.no_grad():
                logp = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            nll = -logp[start - 1 : -1].gather(1, ids[start:, None])[:, 0].numpy()
            closed = (ids[start:] == tokenizer.convert_tokens_to_ids("</think>")).nonzero()
            cut = int(closed[0]) + 1 if len(closed) else len(response)
            for part, piece in zip(analyse.PARTS, (nll, nll[:cut], nll[cut:])):
                sums[part][p] += piece.sum(), len(piece)
    for budget in (1, 8192):
        ours = analyse.nll_by_problem(model, tokenizer, run, Config(tokens_per_batch=budget))
        for part in analyse.PARTS:
            assert ours[part] == pytest.approx(sums[part], rel=1e-5)


def test_logits_in_chunks_change_nothing(policy):
    model, _ = policy
    sequences = [[1, 2, 3, 4, 5, 6, 7], [9, 8], list(range(50))]
    whole, pieces = (analyse.response_nll(model, sequences, [2, 1, 10], 64, chunk) for chunk in (512, 3))
    assert [len(x) for x in whole] == [5, 1, 40] and all(np.allclose(x, y, atol=1e-5) for x, y in zip(whole, pieces))


def test_perplexity_of_random_weights_is_about_the_vocabulary(two, r1):
    analyse.main(["perplexity", *two, "--device", "cpu"])
    r = result(two, "perplexity.json")
    size = json.loads(Path(r1, "config.json").read_text())["vocab_size"]
    assert size / 2 < r["A"]["thinking"] < 2 * size and r["A"]["tokens"]["all"] == r["A"]["tokens"]["thinking"] + r["A"]["tokens"]["answer"]
    assert r["ratio"]["all"]["value"] == pytest.approx(r["B"]["all"] / r["A"]["all"])


# ---------------------------------------------------------------- the judge


class Server:
    """An OpenAI-compatible stand-in; `say` takes (prompt, number of the request) and returns (status, body), or sleeps."""

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


def behaviours(two, server, *more):
    analyse.main(["behaviours", *two, "--judge_url", server.url, "--judge_model", "j", "--judge_key_env", "JUDGE_KEY", *more])
    return result(two, "behaviours.json")


def label(prompt, number):
    step = re.search(r"The step to label: (.*)", prompt)[1]
    return chat("Compute." if step.startswith("Therefore") else "recheck_step")


def test_phases_are_counted_and_replies_cached(two, serve):
    server = serve(label)
    r = behaviours(two, server)
    # A: "Wait, so 7." and "Wait. But wait: 7." of each of six first answers; B: one line
    assert r["steps"] == {"A": 12, "B": 6} and r["invalid"] == {"A": 0, "B": 0}
    assert r["A"]["recheck_step"] == 1 and r["B"]["compute"] == 1 and r["difference"]["recheck_step"]["value"] == -1
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer s3cret" and body["model"] == "j"
    assert all(phase in body["messages"][0]["content"] for phase in analyse.PHASES)
    asked = len(server.requests)
    cache = Path(two[1]).parent / "analysis/judge.jsonl"
    cache.write_text(cache.read_text() + '{"key": "half a li')
    assert behaviours(two, server, "--overwrite", "true") == r | {"command": r["command"]} and len(server.requests) == asked


@pytest.mark.parametrize("bad", [(200, b"<html>"), (200, b'{"choices": []}'), (200, b"[1]"), (200, b"[" * 200_000), (200, b"\xff"), (500, b"down"), (429, b""),
                                 chat("compute or explore"), chat(None), chat("I cannot say.")], ids=lambda bad: f"{bad[0]} {bad[1][:40]}")
def test_what_is_no_label_is_asked_once_more_then_counted(two, serve, bad):
    flaky = {}

    def say(prompt, number):
        flaky[prompt] = flaky.get(prompt, 0) + 1
        if "What is p0?" in prompt:
            return bad  # never a label for the first problem's steps
        return bad if flaky[prompt] == 1 else label(prompt, number)

    r = behaviours(two, serve(say))
    assert r["invalid"] == {"A": 2, "B": 1} and r["A"]["recheck_step"] == 1 and set(flaky.values()) == {2}


def test_a_slow_judge_is_asked_again(two, serve):
    def slow(prompt, number):
        time.sleep(0.6 if number == 1 else 0)
        return label(prompt, number)

    server = serve(slow)
    assert behaviours(two, server, "--judge_timeout", "0.3")["invalid"] == {"A": 0, "B": 0} and len(server.requests) == 19


def test_a_judge_that_is_down_is_one_line(two, serve, capsys):
    server = serve(label)
    server.http.shutdown(), server.http.server_close()
    line = stops(capsys, "behaviours", *two, "--judge_url", server.url, "--judge_model", "j")
    assert server.url in line and "refused" in line
    assert "HTTP 401" in stops(capsys, "behaviours", *two, "--judge_url", serve(lambda *_: (401, b"")).url, "--judge_model", "j")
    assert "http://" in stops(capsys, "behaviours", *two, "--judge_url", "localhost:1", "--judge_model", "j")
    assert "--judge_model" in stops(capsys, "behaviours", *two)


def test_a_local_model_may_judge(two, r1):
    analyse.main(["behaviours", *two, "--judge_model", r1, "--judge_tokens", "4", "--judge_problems", "2", "--device", "cpu"])
    r = result(two, "behaviours.json")
    assert r["steps"] == {"A": 4, "B": 2} and r["invalid"] == {"A": 4, "B": 2} and r["A"]["compute"] is None  # random weights name no phase


@settings(deadline=None)
@given(st.text(alphabet="ab.!? \n<>/think", max_size=80), st.integers(1, 30))
def test_steps_keep_every_word_and_never_raise(text, longest):
    joined = "".join(analyse.steps(text, longest))
    thinking = text.partition("</think>")[0].rpartition("<think>")[2]
    assert re.sub(r"\W", "", joined) == re.sub(r"\W", "", thinking)
    analyse.parse_phase(text)


# ---------------------------------------------------------------- compare and bad input


def test_compare_writes_one_report_with_every_command(two, capsys, serve):
    analyse.main(["budget", *two, "--budgets", "[5]", "--answer_cap", "4", "--device", "cpu"])
    analyse.main(["compare", *two, "--resamples", "200"])
    out = Path(two[1]).parent / "analysis"
    report = (out / "report.md").read_text(encoding="utf-8")
    a, b = two
    for heading in ("Metrics", "Inference-time baselines", "Budget forcing", "Reflection and working words", "Readability", "Behaviours"):
        assert f"## {heading}" in report
    assert f"Not measured: `python analyse.py perplexity {a} {b} --resamples 200`" in report
    assert f"`python analyse.py budget {a} {b} --device cpu --budgets '[5]' --answer_cap 4`" in report
    assert f"`python analyse.py metrics {a} {b} --resamples 200`" in report and "They differ in" not in report
    assert "not distinguishable" in report or "B lower" in report
    if (out / "trace.html").exists():
        assert "trace.html" in report
    assert "--overwrite" in stops(capsys, "compare", *two)
    analyse.main(["compare", *two, "--overwrite", "true", "--perplexity", "true", "--device", "cpu"])
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"`python analyse.py perplexity {a} {b} --device cpu`" in report and "perplexity, answer" in report


def test_the_recorded_command_makes_the_same_file(two):
    analyse.main(["words", *two, "--reflection", '["Wait, so", "it\'s"]', "--resamples", "50"])
    first = result(two, "words.json")
    analyse.main(shlex.split(first["command"])[2:] + ["--overwrite", "true"])
    assert result(two, "words.json") == first


def test_results_of_other_rollouts_are_never_shown(two, capsys):
    analyse.main(["words", *two])
    path = Path(two[1], "rollouts.jsonl")
    path.write_text(path.read_text().replace("Therefore", "Hence"))
    line = stops(capsys, "compare", *two)
    assert "words.json" in line and "other" in line
    (Path(two[1]).parent / "analysis/words.json").write_text("{")
    assert "words.json" in stops(capsys, "compare", *two)


def test_no_right_answer_at_all_and_a_single_sample_work_and_say_so(tmp_path, capsys):
    a = folder(tmp_path / "a", [rollout("p", 0, 10, False), rollout("q", 0, 10, False)])
    b = folder(tmp_path / "b", [rollout("p", 0, 10, False), rollout("q", 0, 5, False)])
    analyse.main(["metrics", a, b])
    out = capsys.readouterr().out
    assert out.count("no right answer at all") == 2 and out.count("one sample a problem") == 2
    one = folder(tmp_path / "one", [rollout("p", 0, 10)])
    analyse.main(["metrics", one, "--out_dir", str(tmp_path / "o")])
    assert "one problem only, so no error bar" in capsys.readouterr().out
    assert json.loads((tmp_path / "o/metrics.json").read_text())["A"]["pass@1_se"] is None


def test_line_separators_in_a_response_are_not_line_ends(tmp_path):
    path = folder(tmp_path / "a", [rollout(response="a\u2028b\x85c\x0bd</think>\\boxed{7}")])
    assert load_run(path).rows[0]["response"].startswith("a\u2028b\x85c\x0bd")


@pytest.mark.parametrize("rows, info, says", [
    ([], {}, "no rollouts"),
    ([rollout(), rollout()], {}, "line 2"),
    ([rollout(), rollout("b", 0, right=None)], {}, "line 2: correct"),
    ([{k: v for k, v in rollout().items() if k != "gold"}], {}, "line 1 has no gold"),
    ([rollout(n=9.5)], {}, "line 1: n_tokens"),
    ([rollout(n=641)], {}, "line 1: 641"),
    ([rollout(), rollout("b"), rollout("b", 1)], {}, "problem a has 1"),
    ([[1]], {}, "line 1 has no id"),
    ([rollout()], {"cap": None}, "eval.json"),
])
def test_bad_rollout_files_name_file_and_line(tmp_path, capsys, rows, info, says):
    path = folder(tmp_path / "a", rows, **info)
    line = stops(capsys, "metrics", path)
    assert path in line and says in line


def test_bad_pairs_and_commands_are_one_line(tmp_path, capsys):
    a = folder(tmp_path / "a", [rollout("p"), rollout("q")])
    assert "problem q" in stops(capsys, "metrics", a, folder(tmp_path / "b", [rollout("p")]))
    assert "problem r" in stops(capsys, "metrics", a, folder(tmp_path / "c", [rollout(p) for p in "pqr"]))
    assert "another" in stops(capsys, "metrics", a, folder(tmp_path / "d", [rollout("p"), rollout("q") | {"gold": "8"}]))
    assert "with 300" in stops(capsys, "metrics", a, folder(tmp_path / "e", [rollout("p"), rollout("q")], cap=300))
    assert "eval.json" in stops(capsys, "metrics", tmp_path / "none")
    Path(a, "rollouts.jsonl").write_text('{"id": \n')
    assert "line 1 is not JSON" in stops(capsys, "metrics", a)
    assert "no analysis" in stops(capsys, "metric", a)
    assert "2 to 2" in stops(capsys, "compare", a)


def test_bad_options_are_one_line(two, capsys):
    assert "resample" in stops(capsys, "metrics", *two, "--resample", "3")
    assert "--resamples" in stops(capsys, "metrics", *two, "--resamples", "0")
    assert "--cue" in stops(capsys, "budget", *two, "--cue", "Answer: ")
    assert "--budgets" in stops(capsys, "budget", *two, "--budgets", "[0]") and "640" in stops(capsys, "budget", *two, "--budgets", "[700]")
    assert "--reflection" in stops(capsys, "words", *two, "--reflection", '[" "]')
    analyse.main(["metrics", *two])
    assert "metrics.json exists" in stops(capsys, "metrics", *two)
