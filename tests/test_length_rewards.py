"""length_rewards.py: the worked numbers are its doctests; here stand the contract and what must hold for every family."""
import doctest
import inspect

import pytest
from transformers import PreTrainedTokenizerFast

import length_rewards as families
from engine.rewards import by_name
from sample import Rollout
from standin import byte_level_bpe

FINISHED, N, CAP = [True, True, True, False], [100, 200, 300, 400], 400
EXTRAS = {"texts": ["a</think>b"] * 4, "ids": [list(range(n)) for n in N], "ref_tokens": 300.0, "ref_accuracy": 0.5}
EXTRAS |= {"tokens_after": lambda what: [2] * 4, "right_within": lambda n: [length <= n for length in N]}
OPTIONS = {"dot": {"alpha": 0.5}}  # its default can cut nothing in groups this small, and is refused
every = pytest.mark.parametrize("family", families.REWARDS.values(), ids=families.REWARDS.keys())


def call(family, correct, finished=FINISHED, n_tokens=N, **options):
    wanted = inspect.signature(family).parameters
    options = {k: v for k, v in EXTRAS.items() if k in wanted} | OPTIONS.get(family.__name__, {}) | options
    return family(correct, finished, n_tokens, CAP, **options)


def test_the_worked_numbers():
    assert doctest.testmod(families).failed == 0


def test_the_list_is_complete():
    own = [f for f in vars(families).values() if inspect.isfunction(f) and f.__module__ == families.__name__]
    assert set(families.REWARDS.values()) == {f for f in own if "correct" in inspect.signature(f).parameters}


@every
def test_the_signature_is_the_trainers_contract(family):
    positional, options = [], {}
    for name, p in inspect.signature(family).parameters.items():
        (positional.append(name) if p.kind is p.POSITIONAL_OR_KEYWORD else options.update({name: p.default}))
    assert positional == ["correct", "finished", "n_tokens", "cap"]
    for name, default in options.items():
        assert (default is inspect.Parameter.empty) == (name in EXTRAS)
        assert name in EXTRAS or isinstance(default, (int, float, str, bool))


@every
@pytest.mark.parametrize("correct", [[True, True, False, True], [True] * 4, [False] * 4])
def test_one_finite_float_per_rollout_and_inputs_untouched(family, correct):
    before = list(correct)
    rewards = call(family, correct)
    assert len(rewards) == 4 and all(isinstance(r, float) and abs(r) < 100 for r in rewards) and correct == before


@every
def test_right_beats_wrong_at_the_same_length(family):
    rewards = call(family, [True, False, True, False], [True] * 4, [200, 200, 300, 300])
    assert rewards[0] > rewards[1] and rewards[2] > rewards[3]


@every
def test_of_two_right_answers_the_longer_never_earns_more(family):
    # l1_exact is the exception: it pays for meeting its target, here the shorter length
    options = {"target": 100} if family is families.l1_exact else {}
    a, b, *_ = call(family, [True] * 4, [True] * 4, **options)
    assert a >= b


@every
def test_one_rollout_and_equal_lengths_do_not_divide_by_zero(family):
    for n in ([7, 7], [7], [0, 0]):
        one = {"texts": [""] * len(n), "ids": [[]] * len(n), "ref_tokens": 1.0, "ref_accuracy": 1.0, "tokens_after": lambda what: [0] * len(n)}
        one |= {"right_within": lambda limit: [True] * len(n)} | OPTIONS.get(family.__name__, {})
        wanted = inspect.signature(family).parameters
        for c in (True, False):
            got = family([c] * len(n), [True] * len(n), n, 400, **{k: v for k, v in one.items() if k in wanted})
            assert len(set(got)) == 1


@every
def test_lists_of_different_length_are_our_mistake(family):
    with pytest.raises(ValueError):
        call(family, [True] * 3)


def test_repetition_spares_short_and_varied_texts():
    f = families.repetition
    assert f([True, True], [True, True], [3, 40], 99, ids=[[1, 1, 1], list(range(40))], texts=["", ""], size=20) == [1.0, 1.0]


def test_r1_wants_one_think_end_and_an_answer_after_it():
    texts = ["a</think>b</think>c", "a</think>", "<think>a</think><think>b", "b <think>a</think>c"]
    assert families.r1([True] * 4, [True] * 4, [9] * 4, 16, texts=texts) == [1.0] * 4
    assert families.r1([True], [True], [9], 16, texts=["ab</think>éß 对ж"], language_weight=1.0) == [2 + 4 / 6]


def test_r1_counts_the_letters_of_the_named_script_and_refuses_another_name():
    shares = {script: families.r1([True], [True], [9], 16, texts=["ab</think>对对对ж1!"], language_weight=1.0, script=script)[0] - 2 for script in families.SCRIPTS}
    assert {k: round(6 * v) for k, v in shares.items() if v} == {"latin": 2, "cjk": 3, "cyrillic": 1}
    assert families.r1([True], [True], [9], 16, texts=["</think>12"], language_weight=1.0) == [2.0]
    with pytest.raises(ValueError, match="script"):
        families.r1([True], [True], [9], 16, texts=["a"], script="english")


def test_repetition_by_hand_over_tokens_and_over_words_of_wrong_answers():
    # pairs of tokens: (1,2) (2,1) (1,2) (2,3): one of four repeats. Pairs of words: no no, no no, no yes: one of three.
    both = {"ids": [[1, 2, 1, 2, 3]] * 2, "texts": ["No no  NO yes"] * 2, "size": 2}
    assert families.repetition([True, False], [True] * 2, [5] * 2, 9, **both) == [0.75, -0.25]
    assert families.repetition([True, False], [True] * 2, [5] * 2, 9, **both, of="words") == [1.0, pytest.approx(-1 / 3)]


def test_countdown_pays_for_a_box_that_ended_after_the_thought():
    texts = ["</think>\\boxed{1}", "</think>\\boxed{}", "</think> 1", "\\boxed{1}", "</think>\\boxed{1}"]
    ended = [True] * 4 + [False]
    assert families.countdown([False] * 5, ended, [9] * 5, 16, texts=texts) == [0.1, 0.1, 0.0, 0.0, 0.0]
    assert families.countdown([True], [True], [9], 16, texts=texts[:1]) == [1.0]


def test_overlong_refuses_a_buffer_larger_than_the_cap():
    with pytest.raises(ValueError, match="buffer"):
        call(families.overlong, [True] * 4, buffer=401)


def test_cosine_and_o1_pruner_reach_their_bounds():
    assert families.cosine([True], [True], [385], 400) == [-10.0]          # within 16 tokens of the cap
    assert families.o1_pruner([True], [True], [1], 400, ref_tokens=4000, ref_accuracy=0) == [4.0]


def never(limit):
    raise AssertionError("nothing is to be cut")


def test_dot_cuts_an_outlier_of_a_group_that_is_all_right_by_hand():
    """Mean 121.25, deviation 60.1: the cut is at floor(241.46) = 241, so 270 is 29 tokens over."""
    f, seen, lengths = families.dot, [], [100] * 7 + [270]
    right_within = lambda limit: seen.append(limit) or [True] * 6 + [False] * 2  # noqa: E731
    assert f([True] * 8, [True] * 8, lengths, 400, overrun=29, right_within=right_within) == [1.0] * 7 + [0.0]
    assert seen == [241]  # the seventh is not over it, so what a cut would leave of it does not matter
    two = [100] * 6 + [230, 300]  # mean 141.25, deviation 78.64: cut at 219, one is 11 over it and one 81
    assert f([True] * 8, [True] * 8, two, 400, alpha=1.0, right_within=lambda n: [False] * 8) == [1.0] * 7 + [0.0]
    assert f([True] * 8, [True] * 8, two, 400, alpha=1.0, overrun=11, right_within=lambda n: [False] * 8) == [1.0] * 6 + [0.0] * 2
    assert f([True] * 8, [True] * 8, lengths, 400, overrun=30, right_within=never) == [1.0] * 8
    assert f([True] * 8, [True] * 8, lengths, 400, right_within=never) == [1.0] * 8
    assert f([False] + [True] * 7, [True] * 8, lengths, 400, overrun=1, right_within=never) == [0.0] + [1.0] * 7


def test_dot_refuses_an_alpha_that_no_rollout_of_such_a_group_can_exceed():
    """One long among equal ones is the largest deviation there is: at 2.4 it is cut, 2.5 is above 7 / sqrt(8)."""
    cut = lambda alpha: families.dot([True] * 8, [True] * 8, [1] * 7 + [9999], 9999, alpha=alpha, right_within=lambda n: [False] * 8)  # noqa: E731
    assert cut(2.4) == [1.0] * 7 + [0.0]
    with pytest.raises(ValueError, match="alpha is 2.5: with 8 rollouts .* 2.47"):
        cut(2.5)


# ---------------------------------------------------------------------------------------- by name, as the trainer calls them


def rollout(n, finished=True):
    return Rollout([1], list(range(n)), None, finished, "text")


def test_rewards_by_name():
    group, verdicts = [rollout(3), rollout(5), rollout(8, finished=False)], [True, False, False]
    assert by_name(families.REWARDS, "thinkprune", {}, [], True)(group, verdicts, 8, {}) == [1.0, 0.0, 0.0]
    assert len(by_name(families.REWARDS, "kimi", {"weight": 0.5}, [], True)(group, verdicts, 8, {})) == 3
    assert len(by_name(families.REWARDS, "repetition", {}, [], True)(group, verdicts, 8, {})) == 3
    row = {"ref_tokens": 4.0, "ref_accuracy": 0.5}
    assert len(by_name(families.REWARDS, "o1_pruner", {}, [row], True)(group, verdicts, 8, row)) == 3


@pytest.mark.parametrize("name, options, word", [("nope", {}, "thinkprune, cosine"), ("kimi", {"wieght": 1}, "wieght"), ("thinkprune", {"a": 1}, "takes none"),
                                                 ("kimi", {"weight": "0.5"}, "takes float"), ("repetition", {"size": 2.5}, "takes int"), ("repetition", {"of": 3}, "takes str")])  # fmt: skip
def test_unknown_rewards_and_options_are_refused_with_the_list(name, options, word):
    with pytest.raises(ValueError, match=word):
        by_name(families.REWARDS, name, options, [], True)


def test_a_reward_of_texts_knows_whether_the_model_thinks_aloud():
    """As the grader does: without a thought, a box counts anywhere, and the form of a thought is not for sale."""
    group = [Rollout([1], [2, 3], None, True, text) for text in (r"so \boxed{4}", r"so 4", r"hm</think> \boxed{4}")]

    def pay(thinking):
        return by_name(families.REWARDS, "countdown", {}, [], thinking)(group, [False] * 3, 8, {})

    assert pay(False) == [0.1, 0.0, 0.1] and pay(True) == [0.0, 0.0, 0.1]
    by_name(families.REWARDS, "r1", {}, [{}], True, group=4, cap=8)
    with pytest.raises(ValueError, match="--reward r1: it pays the form of a thought"):
        by_name(families.REWARDS, "r1", {}, [{}], False, group=4, cap=8)
    with pytest.raises(ValueError, match="unknown to countdown, which takes \\['some'\\]"):
        by_name(families.REWARDS, "countdown", {"thinking": False}, [], True)


def test_tokens_after_a_text_are_those_that_are_not_needed_to_write_it():
    """By hand on a tokenizer whose tokens cut letters of several bytes in two."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(300))
    text = "so é😀 \\boxed{3} so 😀é \\boxed{4}"
    ids = tokenizer(text).input_ids
    answer = Rollout([1], [*ids, 0], None, True, text, tokenizer)
    for what in ("so", "é😀", "\\boxed{", "3} so", text):
        needed = min(n for n in range(len(ids) + 1) if what in tokenizer.decode(ids[:n]))
        assert answer.tokens_after(what) == len(ids) + 1 - needed
    assert len(ids) > 30 and answer.tokens_after("never") == 0
    assert all(answer.first(n) == tokenizer.decode(ids[:n]) for n in range(len(ids))) and answer.first(len(ids) + 1) == text


class Letters:
    """A tokenizer with a token for each letter."""

    decode = staticmethod(lambda ids, skip_special_tokens: "".join(map(chr, ids)))


def written(*texts):
    return [Rollout([1], [*map(ord, text)], None, True, text, Letters) for text in texts]


def test_a_reward_gets_the_tokens_after_a_text():
    group = written("ab.cd", "abcd", "....")
    after = lambda correct, finished, n_tokens, cap, *, tokens_after: tokens_after(".")  # noqa: E731
    assert by_name({"after": after}, "after", {}, [], True)(group, [True] * 3, 9, {}) == [2, 0, 3]


@pytest.mark.parametrize("long, thinking, left", [
    ("Wait " * 40 + "</think>\\boxed{7}", True, 0.0), ("</think>\\boxed{7}" + " Wait" * 40, True, 1.0),
    ("\\boxed{7}" + " Wait" * 40, True, 0.0), ("\\boxed{7}" + " Wait" * 40, False, 1.0)])  # fmt: skip
def test_dot_grades_what_a_cut_leaves(long, thinking, left):
    reward_of = by_name(families.REWARDS, "dot", {}, [], thinking)
    group = written(*["hm</think>\\boxed{7}"] * 7, long)
    assert reward_of(group, [True] * 8, 400, {"answer": "7.0"}) == [1.0] * 7 + [left]


@pytest.mark.parametrize("name, options, group", [("dot", {"alpha": 3}, 8), ("overlong", {"buffer": 101}, 8), ("repetition", {"of": "lines"}, 2)])
def test_options_that_the_reward_refuses_are_refused_before_the_first_rollout(name, options, group):
    rows = [{"answer": "1"}]
    by_name(families.REWARDS, name, options, rows, True)  # without a group there is nothing to try
    with pytest.raises(ValueError, match=f"--reward {name}: {list(options)[0]} is"):
        by_name(families.REWARDS, name, options, rows, True, group=group, cap=100)


def test_a_reward_that_needs_a_column_says_so_before_anything_is_sampled():
    with pytest.raises(ValueError, match="ref_tokens"):
        by_name(families.REWARDS, "o1_pruner", {}, [{"ref_accuracy": 0.5}], True)
    assert by_name(families.REWARDS, "o1_pruner", {"ref_tokens": 4.0}, [{"ref_accuracy": 0.5}], True)
