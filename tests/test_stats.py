"""Statistics over problems. Run: python -m pytest tests/test_stats.py"""
import doctest
import itertools
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import evaluations, stats, tables
from analysis.stats import bootstrap, cons_at_k, difference, pass_at_k, point, quotient_difference
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


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    x = np.random.default_rng(0).exponential(size=(400, 2))
    ours = bootstrap(x, difference, 0.0, 10_000, 3)
    gaps = x[:, 1] - x[:, 0]
    half = 1.96 * gaps.std() / math.sqrt(len(x))
    assert ours["value"] == pytest.approx(gaps.mean())
    assert ours["low"] == pytest.approx(gaps.mean() - half, abs=0.1 * half)
    assert ours["high"] == pytest.approx(gaps.mean() + half, abs=0.1 * half)
    assert ours == bootstrap(x, difference, 0.0, 10_000, 3)


def test_bootstrap_interval_of_a_ratio_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(1).gamma(2, size=(60, 2))
    ours = bootstrap(x, lambda m: m[..., 1] / m[..., 0], 1.0)
    theirs = stats.bootstrap((x[:, 0], x[:, 1]), lambda a, b, axis: b.mean(axis) / a.mean(axis), paired=True, vectorized=True,
                             n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs), abs=0.02)


def test_bootstrap_pairs_the_two_sides():
    base = np.random.default_rng(0).normal(size=50) * 100
    tight = bootstrap(np.stack([base, base + 1], 1), difference)
    assert tight["low"] == pytest.approx(1) and tight["high"] == pytest.approx(1) and tight["verdict"] == "higher"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12))
def test_interval_lies_within_the_data_and_swapping_sides_mirrors_it(rows):
    x = np.array(rows)
    there, back = bootstrap(x, difference, resamples=300), bootstrap(x[:, ::-1], difference, resamples=300)
    gaps = x[:, 1] - x[:, 0]
    assert gaps.min() - 1e-9 <= there["low"] <= there["high"] <= gaps.max() + 1e-9
    assert there["low"] == pytest.approx(-back["high"], abs=1e-9)
    assert (there["verdict"] == "not distinguishable") == (there["low"] <= 0 <= there["high"])


def test_one_problem_has_no_interval_and_nothing_over_nothing_no_value():
    assert bootstrap([[1, 2]], difference) == {"value": 1.0, "low": None, "high": None, "verdict": "no interval"}
    assert bootstrap([[0, 0, 1, 1]] * 3, quotient_difference)["value"] is None
