"""The analyses, each by itself. Run: python -m pytest tests/test_analyses.py"""
import doctest
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import eval as evaluation
from analysis import baselines, budget, metrics, perplexity, votes, words
from analysis.command import main
from analysis.evaluations import arrange, load_evaluation, pair
from engine import logits as head_of
from engine.policy import load_policy
from measured import folder, r1, result, rollout, stops, two  # noqa: F401  (fixtures, too)
from sample import Rollout


@pytest.fixture(scope="module")
def policy(r1):
    model, tokenizer = load_policy(budget.Config(model=r1, load_4bit=False, device="cpu"))
    return model.eval(), tokenizer


def measure(side, caps):
    return metrics.measure(side, caps, metrics.chances(side))


@pytest.mark.parametrize("module", [metrics, budget, votes, words])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


# ---------------------------------------------------------------- metrics


def test_a_cut_rollout_abstains_and_spellings_of_one_answer_vote_together():
    rows = [rollout(answer="1/2", right=False), rollout(answer="0.5", right=False), rollout(answer="7"), rollout(answer="7", finished=False)]
    assert metrics.ballots(rows) == (1, [2], 1)


def test_metrics_by_hand():
    groups = [[rollout("a", 0, 10), rollout("a", 1, 20, False, "8")], [rollout("b", 0, 30, True, finished=False), rollout("b", 1, 40)]]
    m = measure(arrange("x", {"cap": 640}, groups), [9, 10, 39, 40])
    assert m["pass@1"] == 0.5 and m["mean_tokens"] == 25 and m["pass@1_per_1k_tokens"] == 20
    assert m["pass@k"][1] == {"value": 0.5, "se": 0.0} and m["pass@k"][2]["value"] == 1
    # problem a: a tie of one against one; problem b: the cut rollout abstains, alone or beside the right one
    assert m["cons@k"][1] == {"value": 0.5, "se": 0.0} and m["cons@k"][2] == {"value": 0.75, "se": 0.25}
    assert m["lengths"]["all"] == {
        "n": 4, "mean": 25, "se": 10, "10th percentile": 13, "median": 25, "90th percentile": 37, "longest": 40}
    assert m["lengths"]["right"]["mean"] == 25 and m["lengths"]["wrong"]["median"] == 25
    assert [(p["pass@1"], p["mean_tokens"]) for p in m["curve"]] == [(0, 9), (0.25, 10), (0.25, (10 + 20 + 30 + 39) / 4), (0.5, 25)]


def test_the_area_is_the_mean_of_the_curve_over_all_budgets():
    groups = [[rollout("a", 0, 10), rollout("a", 1, 20, False)], [rollout("b", 0, 40, finished=False), rollout("b", 1, 30)]]
    m = measure(arrange("x", {"cap": 40}, groups), list(range(1, 41)))
    # right from 10 on: 3/4 of the budgets; right from 30 on: 1/4; the other two never
    assert m["budget_area"] == (3 / 4 + 1 / 4) / 4 and m["budget_area_se"] == pytest.approx((3 / 8 - 1 / 8) / 2)
    assert np.mean([row["pass@1"] for row in m["curve"]]) == pytest.approx(m["budget_area"], abs=1 / 40)


def test_lengths_of_right_and_wrong_are_compared_apart():
    a = arrange("a", {"cap": 40}, [[rollout(p, 0, 20), rollout(p, 1, 30, False)] for p in "pq"])
    b = arrange("b", {"cap": 40}, [[rollout("p", 0, 10), rollout("p", 1, 10)], [rollout("q", 0, 10), rollout("q", 1, 12, False)]])
    d = metrics.analyse([a, b], metrics.Config())["difference"]
    assert d["tokens_ratio_right"]["value"] == 0.5 and d["tokens_ratio_wrong"]["value"] == pytest.approx(0.4)
    assert d["efficiency"]["value"] == pytest.approx(1 - 10.5 / 25 + 3 * 0.5)  # 3 of 4 right instead of 2
    none = metrics.analyse([a, arrange("c", {"cap": 40}, [[rollout(p, s, 9) for s in (0, 1)] for p in "pq"])], metrics.Config())
    assert none["difference"]["tokens_ratio_wrong"]["value"] is None
    assert "of wrong ones - nothing to compare" in "\n".join(metrics.show(json.loads(json.dumps(none))))


def test_the_error_of_accuracy_per_token_by_hand():
    m = measure(arrange("x", {"cap": 640}, [[rollout("a", 0, 10)], [rollout("b", 0, 30, False)]]), [40])
    # 0.5 / 20 tokens; residuals 1 - 0.025 * 10 and 0 - 0.025 * 30, times 1,000 / 20: +-37.5; sqrt(2 * 2 * 37.5^2) / 2
    assert (m["pass@1_per_1k_tokens"], m["pass@1_per_1k_tokens_se"]) == (25, pytest.approx(37.5))


def test_difference_is_paired_by_problem_whatever_the_order(tmp_path):
    a = load_evaluation(folder(tmp_path / "a", [rollout("p", 0, 10, True), rollout("q", 0, 30, False)]))
    b = pair(a, load_evaluation(folder(tmp_path / "b", [rollout("q", 0, 15, False), rollout("p", 0, 5, True)])))
    d = metrics.analyse([a, b], metrics.Config())["difference"]
    assert (d["pass@1"]["low"], d["pass@1"]["high"]) == (0, 0) and "not distinguishable" in d["pass@1"]["verdict"]
    # -5 and -15: an error of 5, and t with one degree of freedom is 12.7
    assert d["mean_tokens"]["value"] == -10 and d["mean_tokens"]["low"] == pytest.approx(-10 - 5 * 12.7062, rel=1e-5)
    assert d["tokens_ratio"]["value"] == d["tokens_ratio"]["high"] == 0.5 and d["tokens_ratio"]["verdict"] == "lower"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 99), st.booleans()), min_size=2, max_size=8), st.lists(st.integers(1, 120), min_size=1, max_size=4))
def test_a_looser_cap_never_hurts_and_the_loosest_is_pass_at_1(draws, caps):
    m = measure(arrange("x", {"cap": 640}, [[rollout(str(i), 0, n, right)] for i, (n, right) in enumerate(draws)]), sorted(caps) + [200])
    accuracy = [p["pass@1"] for p in m["curve"]]
    assert accuracy == sorted(accuracy) and accuracy[-1] == m["pass@1"]
    assert m["curve"][-1]["mean_tokens"] == m["mean_tokens"]
    assert m["pass@k"][1]["value"] == pytest.approx(m["cons@k"][1]["value"]) == pytest.approx(m["pass@1"])


# ---------------------------------------------------------------- baselines


@pytest.fixture
def sides(tmp_path):
    """A: two problems, one always right, 100 tokens; B: four samples of 27 tokens, of which the first is wrong."""
    rows = [rollout(p, s, 100, p == "p", "7" if p == "p" else "8") for p in "pq" for s in range(2)]
    a = load_evaluation(folder(tmp_path / "a", rows))
    b = load_evaluation(folder(tmp_path / "b", [rollout(p, s, 27, s > 0, "7" if s else "8") for p in "pq" for s in range(4)]))
    return a, b


def test_votes_of_b_are_the_most_that_a_s_tokens_pay_for(sides):
    one, two_ = baselines.analyse(list(sides), baselines.Config())["votes"]
    assert (one["A"]["k"], one["B"]["k"], one["B"]["tokens"]) == (1, 3, 81)  # 4 would cost 108
    assert (one["A"]["value"], one["B"]["value"], one["difference"]["value"]) == (0.5, 1, 0.5)  # of 3 at most one is wrong
    assert (two_["A"]["k"], two_["A"]["tokens"], two_["B"]["k"]) == (2, 200, 4)  # 7 would be paid for: there are 4


def test_a_dearer_b_still_has_one_vote(sides):
    assert [v["B"]["k"] for v in baselines.analyse(list(sides[::-1]), baselines.Config())["votes"]] == [1, 1, 1]


def test_every_other_prompt_is_paired_with_a(sides, tmp_path):
    c = load_evaluation(folder(tmp_path / "c", [rollout(p, 0, 50) for p in "pq"], instruction="Think step by step."))
    r = baselines.analyse([*sides, c], baselines.Config())
    assert [x["pass@1"] for x in r["rows"]] == [0.5, 0.75, 1] and "difference" not in r["rows"][0]
    assert r["rows"][2]["difference"]["value"] == 0.5 and r["rows"][2]["tokens_ratio"]["value"] == 0.5
    text = "\n".join(baselines.show(r))
    assert "Think step by step." in text and "not recorded" in text  # the latter where eval.json names none


@pytest.fixture
def tiny_pair(tmp_path, r1):
    """Two real evaluations of the stand-in, one problem with two samples each."""
    data = tmp_path / "p.jsonl"
    data.write_text(json.dumps({"id": "p", "problem": "What is 1+1?", "answer": "2"}) + "\n")
    for name in ("run/base_test", "run/final_test"):
        evaluation.main(evaluation.Config(model=r1, load_4bit=False, data=str(data), eval_cap=8, eval_samples=2, seed=len(name),
                                          device="cpu", out_dir=str(tmp_path / name)))
    return str(tmp_path / "run/base_test"), str(tmp_path / "run/final_test")


def test_prompts_are_measured_as_a_was_but_for_the_instruction(tiny_pair, monkeypatch):
    monkeypatch.setattr(baselines, "PROMPTS", {"short": "Be brief.", "bare": ""})
    main(baselines, [*tiny_pair, "--prompts", "true", "--device", "cpu"])
    out, a = Path(tiny_pair[1]).parent / "analysis", load_evaluation(tiny_pair[0])
    short, bare = (load_evaluation(str(out / f"prompt_{name}")) for name in ("short", "bare"))
    same = ("model", "load_4bit", "data", "cap", "prompt_cap", "n_samples", "temperature", "top_p", "seed")
    assert all(short.info[key] == a.info[key] for key in same) and short.info["instruction"] == "Be brief."
    assert "What is 1+1?\nBe brief.<" in short.rows[0]["prompt"] and "What is 1+1?<" in bare.rows[0]["prompt"]
    assert [x["instruction"] for x in result(tiny_pair, "baselines.json")["rows"]][2:] == ["Be brief.", ""]


def test_a_measured_prompt_is_read_and_one_measured_otherwise_is_kept(tiny_pair, monkeypatch, capsys):
    monkeypatch.setattr(baselines, "PROMPTS", {"short": "Be brief."})
    arguments = [*tiny_pair, "--prompts", "true", "--device", "cpu", "--out_dir"]
    out = Path(tiny_pair[1]).parent / "analysis"
    main(baselines, [*arguments, str(out)])
    (out / "baselines.json").unlink()
    monkeypatch.setattr(evaluation, "main", lambda cfg: pytest.fail("measured twice"))
    main(baselines, [*arguments, str(out)])
    (out / "baselines.json").unlink()
    monkeypatch.setattr(baselines, "PROMPTS", {"short": "Be very brief."})
    assert "measured otherwise" in stops(capsys, lambda words: main(baselines, words), *arguments, out)


# ---------------------------------------------------------------- several answers


def four(right, tokens, answers, ended=(True,) * 4):
    return [rollout("a", s, n, r, answer, finished=e) for s, (r, n, answer, e) in enumerate(zip(right, tokens, answers, ended))]


def of(side, way, m=3):
    return {k: values[0].tolist() for k, values in votes.ways(side, m)[way]}


def test_a_vote_of_all_and_the_first_to_end_by_hand():
    """Lengths 10, 20, 30, 40; the shortest and one more are right, the two others wrong in one way."""
    side = arrange("x", {"cap": 640}, [four([True, False, False, True], [10, 20, 30, 40], ["7", "8", "8", "7"])])
    assert of(side, "majority")[4] == [0.5, 100, 40]                   # two against two
    assert of(side, "short-1@k")[4] == [1.0, 4 * 10, 10]               # all stop when the first has ended
    assert of(side, "short-3@k")[4] == [0.0, 10 + 20 + 30 + 30, 30]    # one against two
    assert of(side, "short-1@k", m=1)[2] == [(3 * 1 + 2 * 0 + 0) / 6, (3 * 20 + 2 * 40 + 60) / 6, (3 * 10 + 2 * 20 + 30) / 6]
    assert of(side, "pass@k")[2][0] == 5 / 6


def test_a_tie_of_the_first_to_end_goes_to_the_shortest():
    assert votes.first_to_end([1, 0], [10, 20], [True, True], 2)[0] == 0 and votes.first_to_end([1, 0], [20, 10], [True, True], 2)[0] == 1


def test_a_cut_answer_never_ends_first_and_has_no_vote():
    side = arrange("x", {"cap": 5}, [four([False, True, True, True], [5, 9, 9, 9], [None, "7", "7", "7"], (False, True, True, True))])
    assert of(side, "short-1@k")[4] == [1.0, 5 + 3 * 9, 9] and of(side, "majority")[4][0] == 1


def test_the_likeliest_answer_needs_log_probs_in_the_file():
    rows = four([True, False, False, False], [10] * 4, ["7", "8", "9", "8"])
    assert "likeliest" not in votes.ways(arrange("x", {"cap": 640}, [rows]), 3)
    for row, logp in zip(rows, (-0.1, -0.2, -0.3, -0.4)):
        row["mean_logp"] = logp
    assert of(arrange("x", {"cap": 640}, [rows]), "likeliest") == {1: [0.25, 10, 10], 2: [0.5, 20, 10], 4: [1, 40, 10]}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-1, 2), min_size=4, max_size=5))
def test_a_majority_is_that_of_the_exact_formula(kinds):
    rows = [rollout("a", s, 10, k == 0, None if k < 0 else f"{7 + k}") for s, k in enumerate(kinds)]
    side = arrange("x", {"cap": 640}, [rows])
    for k, values in votes.ways(side, 3)["majority"]:
        assert values[0, 0] == pytest.approx(metrics.votes(side, [k])[0, 0])


# ---------------------------------------------------------------- budget forcing


def test_split_ids_finds_where_the_thinking_ends(policy):
    _, tokenizer = policy
    ids, before, through = budget.split_ids(tokenizer, "Wait, 12.\n</think>\nso </think>")
    assert ids[before] == tokenizer.convert_tokens_to_ids("</think>") and through == before + 1
    assert tokenizer.decode(ids[:before]) == "Wait, 12.\n"
    ids, before, through = budget.split_ids(tokenizer, "Wait")
    assert before == through == len(ids)


def test_the_cue_is_how_the_model_opens_its_answers():
    usual = [[rollout(response="7\n</think>\nThe answer is \\boxed{7}.")], [rollout(response="7</think> \\boxed{7}")]]
    assert budget.usual_cue(arrange("x", {}, usual + usual[:1])) == "\n</think>\nThe answer is \\boxed{"
    assert budget.usual_cue(arrange("x", {}, usual)) == budget.CUE
    assert budget.usual_cue(arrange("x", {}, [[rollout(finished=False)]])) == budget.CUE


def test_forcing_cuts_what_still_thinks_and_leaves_the_rest(policy):
    _, tokenizer = policy
    thought = "Wait, let me double-check: 12. "
    rows = [rollout("a", 0, 20, True, response="12\n</think>\nIt is \\boxed{7}"),       # ended its thinking in time
            rollout("b", 0, 300, True, response=thought * 30 + "</think> \\boxed{7}"),    # thinks too long
            rollout("c", 0, 640, False, None, response="12", finished=False),           # cut by the cap: never ended by itself
            rollout("d", 0, 30, False, None, response="12")]                            # ended without an answer
    run = arrange("x", {}, [[row] for row in rows])
    asked = {}

    def answer(prompts, **options):
        asked.update(options, prompts=prompts)
        return [Rollout([], [1, 2, 3], torch.zeros(3), False, text) for text in ("7} and on", "9}")]

    sampler = SimpleNamespace(tokenizer=tokenizer, sample=answer)
    coded = [budget.split_ids(tokenizer, row["response"]) for row in rows]
    cue = "\n</think>\nIt is \\boxed{"
    forced, said = budget.force(sampler, run, coded, 25, cue, budget.Config(answer_cap=3))
    prompt, kept, end = (tokenizer(t, add_special_tokens=False).input_ids for t in ("<think>b", thought * 30, cue))
    assert asked["prompts"][0] == prompt + kept[:25] + end and asked["cap"] == 3 and asked["temperature"] == 0
    assert forced.right[:, 0].tolist() == [True, True, False, False]         # a closed box counts, end token or not
    assert forced.tokens[:, 0].tolist() == [20, 25 + 3, len(coded[2][0]) + 3, 30]  # the cue is not counted
    assert [(s["id"], s["answer"]) for s in said] == [("b", "7"), ("c", "9")] and run.rows[1]["n_tokens"] == 300
    exact, said = budget.force(sampler, run, coded, coded[0][1], cue, budget.Config(answer_cap=3))
    assert exact.tokens[0, 0] == 20 and [x["id"] for x in said] == ["b", "c"]  # ending at the budget is in time


def test_thoughts_that_ended_are_sent_on_and_every_token_counts(policy):
    _, tokenizer = policy
    rows = [rollout("a", 0, 20, True, response="12\n</think>\nIt is \\boxed{7}"),
            rollout("b", 0, 640, False, None, response="12", finished=False)]   # never ended: stays as it is
    asked = []

    def answer(prompts, **options):
        asked.append((prompts, options))
        return [Rollout([], [1] * 5, torch.zeros(5), True, ", 13.\n</think>\nIt is \\boxed{8}") for _ in prompts]

    sampler = SimpleNamespace(tokenizer=tokenizer, sample=answer)
    side = budget.extend(sampler, arrange("x", {"cap": 640}, [[row] for row in rows]), 2, budget.Config(wait="Wait"))
    ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    first, second = ids("12\n") + ids("Wait"), ids("12\nWait, 13.\n") + ids("Wait")
    assert [prompts for prompts, _ in asked] == [[ids("<think>a") + first], [ids("<think>a") + second]]
    assert [options["cap"] for _, options in asked] == [[640 - len(first)], [640 - len(second)]]
    assert side.tokens[:, 0].tolist() == [len(second) + 5, 640] and side.right[:, 0].tolist() == [False, False]
    assert side.rows[0]["answer"] == "8" and side.rows[0]["response"].count("Wait") == 2 and rows[0]["answer"] == "7"


def test_forced_answers_are_the_models_own(two, policy, r1):
    model, tokenizer = policy
    main(budget, [*two, "--budgets", "[3, 6]", "--answer_cap", "5", "--cue", "</think>\\boxed{", "--waits", "[1]", "--device", "cpu"])
    r = result(two, "budget_forcing.json")
    assert r["waits"][0]["times"] == 1 and r["waits"][0]["mean_tokens"] > 0
    a = load_evaluation(two[0])
    assert [row["budget"] for row in r["rows"]] == [3, 6] and all(row["forced"] == 1 for row in r["rows"])
    assert all(row["mean_tokens"] <= row["budget"] + 5 and row["pass@1"] == 0 for row in r["rows"])
    prompt, kept, cue = (tokenizer(t, add_special_tokens=False).input_ids for t in (a.rows[0]["prompt"], a.rows[0]["response"], "</think>\\boxed{"))
    ids = torch.tensor([prompt + kept[:3] + cue])
    theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(theirs, skip_special_tokens=False).startswith(r["forced"][0]["text"].removeprefix("</think>\\boxed{"))
    b = pair(a, load_evaluation(two[1]))
    # random weights never answer: the curve is 0 up to 11 tokens, then rises to A's own point
    share = (b.tokens.mean() - r["rows"][1]["mean_tokens"]) / (a.tokens.mean() - r["rows"][1]["mean_tokens"])
    assert r["equal_tokens"]["curve_pass@1"] == pytest.approx(share * a.right.mean())
    assert r["equal_tokens"]["value"] == pytest.approx(b.right.mean() - share * a.right.mean())


@pytest.fixture
def uneven(two, monkeypatch):
    """A curve that is not monotone: 10 tokens always right, 30 always wrong, 250 right again; B lies at 50 to 70."""
    def force(sampler, side, coded, budget, cue, cfg):
        return arrange("x", {}, [[rollout(i, 0, budget, budget != 30)] for i in side.ids]), []

    monkeypatch.setattr(budget, "force", force)
    main(budget, [*two, "--budgets", "[10, 30, 250]", "--cue", "</think>\\boxed{", "--device", "cpu"])
    return result(two, "budget_forcing.json"), load_evaluation(two[1])


def test_the_rival_at_equal_tokens_lies_between_the_neighbouring_budgets(uneven):
    r, b = uneven
    assert r["equal_tokens"]["curve_pass@1"] == pytest.approx((b.tokens.mean() - 30) / 220)
    assert r["equal_tokens"]["mean_tokens"] == pytest.approx(b.tokens.mean())


def test_the_best_budget_that_costs_no_more_than_b_is_a_rival(uneven):
    r, b = uneven
    assert (r["best_within"]["budget"], r["best_within"]["curve_tokens"]) == (10, 10)
    assert r["best_within"]["value"] == pytest.approx(b.right.mean() - 1)


def test_the_best_budget_of_all_and_no_budget_are_rivals_whatever_they_cost(uneven, two):
    r, b = uneven
    assert r["best_of_all"]["curve_pass@1"] == 1 and r["best_of_all"]["value"] == pytest.approx(b.right.mean() - 1)
    assert r["uncut"]["value"] == pytest.approx(b.right.mean() - load_evaluation(two[0]).right.mean())


def test_the_budget_table_quotes_every_rival_with_its_interval(uneven):
    text = "\n".join(budget.show(uneven[0]))
    for words in ("at B's mean tokens", "best budget no dearer than B: 10", "best budget of all: 10", "A, no budget"):
        assert any(words in line and "[" in line for line in text.splitlines()), words


def test_a_policy_on_the_curve_does_not_differ_from_it():
    rng = np.random.default_rng(0)
    curve = [np.stack([rng.random(40), np.full(40, n)], 1) for n in (30.0, 10.0, 20.0)]
    exact = budget.at_equal_tokens(curve[2], curve)
    assert exact["value"] == pytest.approx(0) and exact["low"] == pytest.approx(0)
    assert exact["verdict"] == "not distinguishable"
    between = budget.at_equal_tokens((curve[1] + curve[2]) / 2, curve)
    assert between["value"] == pytest.approx(0) and between["mean_tokens"] == 15 and not between["shorter_than_curve"]
    assert budget.at_equal_tokens(curve[1] - [0, 5], curve)["shorter_than_curve"]


# ---------------------------------------------------------------- words


def test_words_by_hand(two):
    main(words, [*two])
    r = result(two, "words.json")
    assert r["A"] == {"Wait": 3, "But wait": 1, "Alternatively": 0, "double-check": 0, "Therefore": 0, "let me compute": 0}
    assert r["B"]["Therefore"] == 1 and list(r["A"]) == list(r["B"])
    assert r["totals"]["A"] == {"all reflection": 3, "all working": 0}  # "But wait" is one place, not two
    assert r["per_1k_tokens"]["A"]["Wait"] == pytest.approx(3000 / load_evaluation(two[0]).tokens.mean())
    assert r["difference"]["Wait"]["value"] == -3 and r["difference"]["Wait"]["verdict"] == "lower"
    assert r["se"]["A"]["Wait"] == 0 and r["never"] == ["Alternatively", "double-check", "let me compute"]


def test_only_words_that_occur_have_a_row_and_the_others_are_named(two):
    main(words, [*two])
    text = "\n".join(words.show(result(two, "words.json")))
    assert "| Alternatively" not in text and "| Therefore" in text
    assert "Never there: Alternatively, double-check, let me compute." in text


def test_a_list_of_words_that_never_occur_is_no_table(two):
    main(words, [*two, "--reflection", '["Eureka"]', "--working", "[]"])
    text = "\n".join(words.show(result(two, "words.json")))
    assert "Never there: Eureka." in text and "|" not in text


@settings(deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(["wait", "But ", " ", "-", "\n", "WAIT", "x", "."]), max_size=12).map("".join))
def test_a_place_counts_once_in_the_total(text):
    one, two_, both = (len(words.phrase_pattern(*p).findall(text)) for p in (["Wait"], ["But wait"], ["Wait", "But wait"]))
    assert both == one >= two_
    assert len(words.phrase_pattern("let", "me", "let me").findall("Let me see")) == 1  # the longest is taken


# ---------------------------------------------------------------- perplexity


def test_perplexity_is_that_of_a_plain_forward(policy):
    model, tokenizer = policy
    rows = [[rollout(p, s, 9, response=text, finished=s == 0) for s, text in enumerate(texts)] for p, texts in
            (("a", ["Wait.</think> 12", "12"]), ("b", ["", "so " * 40 + "</think>\\boxed{7}"]))]
    run = arrange("x", {}, rows)
    sums = {part: np.zeros((2, 2)) for part in perplexity.PARTS}
    for p, group in enumerate(rows):
        for row in group:
            prompt, response = (tokenizer(row[key], add_special_tokens=False).input_ids for key in ("prompt", "response"))
            start, ids = len(prompt), torch.tensor(prompt + response + [tokenizer.eos_token_id] * row["finished"])
            with torch.no_grad():
                logp = model(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            nll = -logp[start - 1 : -1].gather(1, ids[start:, None])[:, 0].numpy()
            closed = (ids[start:] == tokenizer.convert_tokens_to_ids("</think>")).nonzero()
            cut = int(closed[0]) + 1 if len(closed) else len(response)
            for part, piece in zip(perplexity.PARTS, (nll, nll[:cut], nll[cut:])):
                sums[part][p] += piece.sum(), len(piece)
    for budget in (1, 8192):
        ours = perplexity.nll_by_problem(model, tokenizer, run, perplexity.Config(tokens_per_batch=budget))
        for part in perplexity.PARTS:
            assert ours[part] == pytest.approx(sums[part], rel=1e-5)


def test_logits_in_chunks_change_nothing(policy):
    model, _ = policy
    sequences = [[1, 2, 3, 4, 5, 6, 7], [9, 8], list(range(50))]
    whole, pieces = (perplexity.response_nll(model, sequences, [2, 1, 10], 64, chunk) for chunk in (512, 3))
    assert [len(x) for x in whole] == [5, 1, 40] and all(np.allclose(x, y, atol=1e-5) for x, y in zip(whole, pieces))


def test_perplexity_of_random_weights_is_about_the_vocabulary(two, r1):
    main(perplexity, [*two, "--device", "cpu"])
    r = result(two, "perplexity.json")
    size = json.loads(Path(r1, "config.json").read_text())["vocab_size"]
    assert size / 2 < r["A"]["thinking"]["value"] < 2 * size
    assert r["tokens"]["A"]["all"] == r["tokens"]["A"]["thinking"] + r["tokens"]["A"]["answer"]
    assert r["ratio"]["all"]["value"] == pytest.approx(r["B"]["all"]["value"] / r["A"]["all"]["value"])


def test_perplexity_has_like_lengths_together_and_never_all_logits_at_once(policy, monkeypatch):
    model, _ = policy
    widths, sizes, logits, forward = [], [], head_of.float_logits, model.get_decoder().forward

    def seen(input_ids, **options):
        widths.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model.get_decoder(), "forward", seen)
    monkeypatch.setattr(head_of, "float_logits", lambda head, x: sizes.append(len(x)) or logits(head, x))
    perplexity.response_nll(model, [[1] * n for n in (3, 40, 4, 39)], [1] * 4, tokens_per_batch=80, chunk=16)
    assert widths == [(2, 40), (2, 4)] and max(sizes) == 16 and sum(sizes) == 39 + 38 + 3 + 2


def test_a_vote_of_no_answers_is_refused():
    with pytest.raises(SystemExit) as stopped:
        votes.analyse([], votes.Config(m=0))
    assert stopped.value.code == 2
