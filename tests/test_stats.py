"""Statistics over problems. Run: python -m pytest tests/test_stats.py"""
import doctest
import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import evaluations, stats, tables
from analysis.stats import (cons_at_k, difference, interval, pass_at_k, point, quotient_difference, ratio,
                            t_quantile)
from conftest import ROOT
from eval import mean_and_se


@pytest.mark.parametrize("module", [stats, tables, evaluations])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", ["stats", "evaluations", "words", "plot", "trace"])
def test_what_needs_no_model_loads_no_torch(name):
    code = f"import sys, analysis.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_error_of_a_mean_is_that_of_an_evaluation():
    values = np.random.default_rng(0).random((7, 3))
    assert tuple(point(values).values()) == pytest.approx(mean_and_se(values.tolist()), rel=1e-12)
    assert point([[1, 0]]) == {"value": 0.5, "se": None}


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


def test_the_commonest_answer_of_64_samples_gains_with_every_vote():
    values = [cons_at_k(20, [15, 9] + [1] * 12, 8, k) for k in (1, 2, 4, 8, 16, 32, 64)]
    assert values[0] == pytest.approx(20 / 64) and values[2:] == sorted(values[2:])  # the commonest answer gains with k
    assert values[-1] == 1


def test_the_interval_of_a_paired_difference_is_that_of_the_t_test():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(0).exponential(size=(30, 2))
    ours, theirs = interval(x, difference), stats.ttest_rel(x[:, 1], x[:, 0]).confidence_interval(0.95)
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    assert [t_quantile(df) for df in range(1, 300)] == pytest.approx(stats.t.ppf(0.975, range(1, 300)), rel=1e-6)


@pytest.mark.parametrize("n", [60, 400])
def test_the_interval_of_a_ratio_is_about_that_of_bca(n):
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(1).gamma(2, size=(n, 2))
    theirs = stats.bootstrap((x[:, 0], x[:, 1]), lambda a, b, axis: b.mean(axis) / a.mean(axis), paired=True,
                             vectorized=True, n_resamples=10_000, method="BCa", rng=0).confidence_interval
    ours = interval(x, ratio, log=True)
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs), abs=0.06 * (theirs.high - theirs.low))


def percentile(values, statistic, rng, draws=500):
    """The 95 % percentile interval of the bootstrap."""
    n = len(values)
    means = rng.multinomial(n, np.full(n, 1 / n), draws) @ values / n
    return np.percentile(statistic(means), [2.5, 97.5])


def accuracies(n, a, b, rng):
    """(n, 2) pass@1 before and after of n problems with 4 samples each, whose difficulty is beta(a, b)."""
    chance = rng.beta(a, b, n)
    return np.stack([rng.binomial(4, p, n) / 4 for p in (chance, np.clip(chance + rng.normal(0, 0.05, n), 0, 1))], 1)


def lengths(n, rng):
    """(n, 2) mean tokens before and after of n problems: skewed, and about 40 % are left."""
    before = np.exp(rng.normal(8, 0.6, n))
    noise = np.exp(rng.normal(0, 0.4, (2, n, 4))).mean(-1)
    return np.stack([before * noise[0], before * np.exp(rng.normal(-0.9, 0.3, n)) * noise[1]], 1)


@pytest.mark.parametrize("make, statistic, log, least", [
    (lambda n, rng: accuracies(n, 1, 1, rng), difference, False, 0.94),
    (lambda n, rng: accuracies(n, 6, 0.7, rng), difference, False, 0.94),
    (lengths, ratio, True, 0.93),
], ids=["accuracy", "high accuracy", "ratio of skewed lengths"])
def test_at_30_problems_95_percent_is_about_95_percent(make, statistic, log, least):
    rng, runs, ours, theirs = np.random.default_rng(0), 2000, 0, 0
    truth = statistic(make(2_000_000, rng).mean(0))
    for _ in range(runs):
        values = make(30, rng)
        x, (low, high) = interval(values, statistic, log), percentile(values, statistic, rng)
        ours += x["low"] <= truth <= x["high"]
        theirs += low <= truth <= high
    print(f"covered: {ours / runs:.1%}, by the percentile bootstrap {theirs / runs:.1%}")
    assert least <= ours / runs <= 0.965 and theirs / runs < ours / runs - 0.01


def test_the_interval_pairs_the_two_sides():
    base = np.random.default_rng(0).normal(size=50) * 100
    tight = interval(np.stack([base, base + 1], 1), difference)
    assert tight["low"] == pytest.approx(1) and tight["high"] == pytest.approx(1) and tight["verdict"] == "higher"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12))
def test_swapping_the_sides_mirrors_the_interval(rows):
    x = np.array(rows)
    there, back = interval(x, difference), interval(x[:, ::-1], difference)
    assert there["low"] <= there["value"] <= there["high"] and there["low"] == pytest.approx(-back["high"], abs=1e-6)
    assert (there["verdict"] == "not distinguishable") == (there["low"] <= 0 <= there["high"])


def test_the_interval_of_a_ratio_is_the_same_the_other_way_round():
    x = np.random.default_rng(2).gamma(2, size=(20, 2))
    there, back = interval(x, ratio, log=True), interval(x[:, ::-1], ratio, log=True)
    assert (there["low"], there["high"]) == pytest.approx((1 / back["high"], 1 / back["low"]))
    assert there["verdict"] == "not distinguishable" and interval(x * [1, 3], ratio, log=True)["verdict"] == "higher"


def test_an_interval_ends_where_the_figure_does():
    share = interval([[0, 9], [1, 9], [0, 9]], lambda m: m[..., 0] / m[..., 1], within=(0, 1))
    assert share["low"] == 0 and share["high"] > share["value"] > 0


def test_one_problem_has_no_interval_and_nothing_over_nothing_no_value():
    assert interval([[1, 2]], difference) == {"value": 1.0, "low": None, "high": None, "verdict": "no interval"}
    assert interval([[0, 0, 1, 1]] * 3, quotient_difference)["value"] is None
    assert interval([[1, 1], [0, 0], [0, 0]], ratio)["low"] is None  # without the first there is nothing to divide by
