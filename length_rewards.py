"""The rewards to train with, each a pure function of one group of rollouts. Copy one, change it, name it in REWARDS.

Every function is called f(correct, finished, n_tokens, cap, **options): three lists with one entry per rollout of the
group, and the token cap. `correct` is the strict verdict, right AND ended within the cap; `finished` says that the end
token came; `n_tokens` is the length with the end token. It returns one reward per rollout, complete: train with it as
it is. Options are numbers or a word, as in --reward_options '{"weight": 0.2}'. Arguments of these names come from the
trainer: `texts` and `ids`, the responses and their token ids; `thinking`, whether an answer counts only after </think>;
`ref_tokens` and `ref_accuracy`, means of a reference model on this problem; `tokens_after`, a function:
tokens_after("</think>") counts the tokens of each response after its first </think>, 0 where there is none;
`right_within`, a function: right_within(n) grades what stands in the first n tokens of each response. Options that
cannot work raise ValueError: the trainer tries a made-up group before it starts.

Left out on purpose: masking of cut rollouts. It removes from the loss exactly what a cap teaches.

    python -m doctest length_rewards.py                              # the worked numbers
    python train_prune.py --config config/toy.yaml --cap 180 --reward kimi --out_dir out/kimi
"""
import math
import statistics
import unicodedata
from collections.abc import Callable

import reward


def thinkprune(correct, finished, n_tokens, cap) -> list[float]:
    """The paper's reward, and the default: 1 for a right answer that ended within the cap, else 0.

    Pitfall: no pressure on length below the cap; tighten it in rounds.

    >>> thinkprune([True, False, False], [True, True, False], [3999, 900, 4000], 4000)
    [1.0, 0.0, 0.0]

    Source: ThinkPrune, arXiv:2504.01296.
    """
    return [reward.thinkprune(c, f, n, cap) for c, f, n in zip(correct, finished, n_tokens, strict=True)]


def cosine(correct, finished, n_tokens, cap, *, hi_right: float = 2.0, lo_right: float = 1.0, lo_wrong: float = 0.0,
           hi_wrong: float = -10.0, exceed: float = -10.0, margin: int = 16) -> list[float]:
    """Pays short right answers most and punishes short wrong ones most, along half a cosine from 0 to the cap.

    lo + (hi - lo) / 2 x (1 + cos(pi n / cap)), with the pair lo, hi of the right or of the wrong answers.
    Range: right lo_right..hi_right, wrong hi_wrong..lo_wrong. Unfinished, or within ``margin`` of the cap: ``exceed``.
    Pitfall: wrong answers earn more the longer they get, which teaches padding; repetition() is the usual cure.

    >>> [round(r, 3) for r in cosine([True] * 3, [True] * 3, [1000, 7168, 13000], cap=14336)]
    [1.988, 1.5, 1.021]
    >>> [round(r, 2) for r in cosine([False] * 3 + [True], [True] * 4, [1000, 7168, 13000, 14330], cap=14336)]
    [-9.88, -5.0, -0.21, -10.0]

    Source: Demystifying Long CoT, arXiv:2502.03373.
    """
    rewards = []
    for c, f, n in zip(correct, finished, n_tokens, strict=True):
        lo, hi = (lo_right, hi_right) if c else (lo_wrong, hi_wrong)
        bent = lo + (hi - lo) / 2 * (1 + math.cos(math.pi * min(n / cap, 1)))
        rewards.append(bent if f and n + margin < cap else exceed)
    return rewards


def repetition(correct, finished, n_tokens, cap, *, ids: list[list[int]], texts: list[str], size: int = 20,
               penalty: float = -1.0, of: str = "tokens") -> list[float]:
    """The strict reward plus ``penalty`` times the share of n-grams that repeat an earlier one.

    ``of`` "tokens": n-grams of tokens, in every rollout, loops that run into the cap included. It is the paper's
    penalty as one number a rollout; the paper spreads it over the tokens that repeat. ``of`` "words": the authors'
    released code, n-grams of lower-cased words, and only wrong answers pay.
    Range: penalty..1. A text shorter than ``size`` has no n-grams and no penalty.
    Pitfall: checking an answer repeats its numbers; a small ``size`` punishes honest checks (20, or 40 when dense).

    >>> loop = [1, 2, 3, 4] * 10                     # "wait let me check" ten times
    >>> text = "Wait let me check " * 10
    >>> round(repetition([False], [True], [40], 100, ids=[loop], texts=[text], size=3)[0], 3)
    -0.895
    >>> [round(r, 3) for r in repetition([True, False], [True] * 2, [40] * 2, 100, ids=[loop] * 2, texts=[text] * 2,
    ...                                  size=3, of="words")]
    [1.0, -0.895]

    Source: Demystifying Long CoT, arXiv:2502.03373.
    """
    if of not in ("tokens", "words"):
        raise ValueError(f"of is {of!r}: it must be tokens or words")
    rewards = []
    for right, tokens, text in zip(correct, ids, texts, strict=True):
        units = tokens if of == "tokens" else text.lower().split()
        grams = [tuple(units[i:i + size]) for i in range(len(units) - size + 1)]
        repeated = 1 - len(set(grams)) / len(grams) if grams and not (right and of == "words") else 0.0
        rewards.append(right + penalty * repeated)
    return rewards


SCRIPTS = ("latin", "cjk", "hiragana", "katakana", "hangul", "cyrillic", "greek", "arabic", "hebrew", "devanagari",
           "thai")


def r1(correct, finished, n_tokens, cap, *, texts: list[str], thinking: bool = True, format_weight: float = 1.0,
       language_weight: float = 0.0, script: str = "latin") -> list[float]:
    """Accuracy plus format: one </think>, an answer after it, at most one <think>, and that at the very start.

    Range: 0..2, and up to ``language_weight`` more for the share of letters in the ``script`` of the target language,
    one of SCRIPTS. That is all it measures: it sees Chinese in an English thought, never French or German. The paper
    counts words of the language. Text without letters has a share of 0. An unfinished rollout earns 0 in all parts.
    Pitfall: chat templates open <think> in the prompt, so a check that wants it in the response fails on every rollout;
    here it may stand or be missing. No pressure on length at all except the cap.

    >>> r1([True] * 3, [True] * 3, [9] * 3, 16, texts=["hm</think> 4", "<think>hm</think> 4", "4"])
    [2.0, 2.0, 1.0]
    >>> r1([True], [True], [9], 16, texts=["so 对</think> 4"], language_weight=0.3)        # 2 of 3 letters
    [2.2]

    Source: DeepSeek-R1, arXiv:2501.12948.
    """
    if not thinking:
        raise ValueError("it pays the form of a thought, which --thinking false does not have")
    if script not in SCRIPTS:
        raise ValueError(f"script is {script!r}: it must be one of {', '.join(SCRIPTS)}")
    rewards = []
    for right, f, text in zip(correct, finished, texts, strict=True):
        body = text.strip().removeprefix("<think>")
        thought, _, answer = body.partition("</think>")
        tidy = body.count("</think>") == 1 and "<think>" not in body and bool(answer.strip())
        letters = [ch for ch in thought + answer if ch.isalpha()]
        own = sum(unicodedata.name(ch, "").startswith(script.upper()) for ch in letters) / max(1, len(letters))
        rewards.append(f * (right + format_weight * tidy + language_weight * own))
    return rewards


def kimi(correct, finished, n_tokens, cap, *, weight: float = 0.5) -> list[float]:
    """Correctness plus ``weight`` times a bonus from +0.5 (shortest of the group) to -0.5 (longest).

    bonus = 0.5 - (n - shortest) / (longest - shortest), over all rollouts of the group, right and wrong.
    Range: -weight/2..1 + weight/2; wrong rollouts get the malus only, never the bonus; all lengths equal: no bonus.
    Pitfall: the bonus is relative to the group, so a group of good, short answers still has a loser; the paper switches
    it on only after a warm-up.

    >>> [round(r, 3) for r in kimi([True, True, False, True], [True] * 4, [1000, 2000, 3000, 4000], 4000)]
    [1.25, 1.083, -0.083, 0.75]

    The bonuses before the weight are 0.5, 0.167, -0.167, -0.5. Source: Kimi k1.5, arXiv:2501.12599, section 2.3.3.
    """
    short, span = min(n_tokens), max(n_tokens) - min(n_tokens)
    rewards = []
    for right, n in zip(correct, n_tokens, strict=True):
        bonus = 0.5 - (n - short) / span if span else 0.0
        rewards.append(right + weight * (bonus if right else min(0.0, bonus)))
    return rewards


def l1_exact(correct, finished, n_tokens, cap, *, target: int = 0, alpha: float = 0.0003) -> list[float]:
    """Correctness minus ``alpha`` per token away from the target length, on either side.

    Range: 1 - alpha x distance, without a lower bound. ``target`` 0 means the cap; the prompt must name the target.
    Pitfall: it teaches to fill the budget, not to save it. For pruning take l1_max.

    >>> l1_exact([True, True, False], [True] * 3, [1000, 2000, 1000], 4000, target=1000)
    [1.0, 0.7, 0.0]

    Source: L1, arXiv:2503.04697.
    """
    goal = target or cap
    return [right - alpha * abs(goal - n) for right, n in zip(correct, n_tokens, strict=True)]


def l1_max(correct, finished, n_tokens, cap, *, target: int = 0, alpha: float = 0.0003,
           delta: float = 0.5) -> list[float]:
    """Correctness times a slope in length that is ``delta`` at the target: a soft form of the cap.

    correct x clip(alpha (target - n) + delta, 0, 1). This is the paper's form; the released code halves the slope,
    which ``alpha`` 0.00015 gives.
    Range: 0..1. ``target`` 0 means the cap; the prompt must name the target.
    Pitfall: a right answer far above the target earns the same 0 as a wrong one, and alpha is in rewards per token:
    at a cap of 300 the default slope is worth 0.09 in all. Scale it with your lengths.

    >>> [round(r, 2) for r in l1_max([True] * 4, [True] * 4, [500, 1000, 2000, 2700], 4000, target=1000)]
    [0.65, 0.5, 0.2, 0.0]

    Source: L1, arXiv:2503.04697.
    """
    goal = target or cap
    return [right * min(1.0, max(0.0, alpha * (goal - n) + delta))
            for right, n in zip(correct, n_tokens, strict=True)]


def o1_pruner(correct, finished, n_tokens, cap, *, ref_tokens: float, ref_accuracy: float, weight: float = 5.0,
              low: float = -2.0, high: float = 4.0) -> list[float]:
    """Length saved against a reference model, plus ``weight`` times accuracy gained against it, clipped.

    ref_tokens / n - 1 + weight (correct - ref_accuracy), clipped to low..high.
    Range: low..high. ref_tokens and ref_accuracy are means over K samples of the reference on this problem.
    Pitfall: they must come from the same prompt and cap; where the reference is always wrong, any right answer hits the
    upper clip and length no longer counts.

    >>> o1_pruner([True, False], [True] * 2, [2000, 2000], 4000, ref_tokens=4000, ref_accuracy=0.75)
    [2.25, -2.0]

    Source: O1-Pruner (length-harmonizing), arXiv:2501.12570.
    """
    rows = zip(correct, n_tokens, strict=True)
    gains = [ref_tokens / max(n, 1) - 1 + weight * (right - ref_accuracy) for right, n in rows]
    return [min(high, max(low, gain)) for gain in gains]


def efficient(correct, finished, n_tokens, cap, *, alpha: float = 0.1) -> list[float]:
    """Right answers earn 1 minus up to ``alpha``, by how long they are among the group's right answers.

    1 - alpha sigmoid((n - mean) / deviation): an answer of average length earns 1 - alpha / 2, wrong answers earn 0.
    Range: 0..1. The mean and (population) deviation are over the right rollouts only.
    Pitfall: pair it with advantages that are not divided by the group's deviation; in an all-right group that division
    blows differences of alpha up to full size.

    >>> [round(r, 3) for r in efficient([True, True, False, True], [True] * 4, [1000, 2000, 3000, 4000], 4000)]
    [0.974, 0.957, 0.0, 0.921]

    Source: Arora and Zanette, arXiv:2502.04463.
    """
    lengths = [n for c, n in zip(correct, n_tokens, strict=True) if c]
    if not lengths:
        return [0.0] * len(correct)
    mean, std = statistics.fmean(lengths), statistics.pstdev(lengths)
    return [1 - alpha / (1 + math.exp(-(n - mean) / (std + 1e-7))) if c else 0.0 for c, n in zip(correct, n_tokens)]


def overlong(correct, finished, n_tokens, cap, *, buffer: int = 0) -> list[float]:
    """The strict reward minus a ramp from 0 to 1 over the last ``buffer`` tokens before the cap.

    Range: -1..1. ``buffer`` 0 means a quarter of the cap. Unfinished: -1.
    Pitfall: below cap - buffer length is free, so it stops overruns and prunes nothing else.

    >>> overlong([False, True, True, False], [True, True, True, False], [3500, 3500, 900, 4000], 4000, buffer=1000)
    [-0.5, 0.5, 1.0, -1.0]

    Source: DAPO, arXiv:2503.14476, section 3.4.
    """
    ramp = buffer or max(1, cap // 4)
    if not 0 < ramp <= cap:
        raise ValueError(f"buffer is {buffer}: it must be between 0 and the cap, {cap}")
    rewards = []
    for right, f, n in zip(correct, finished, n_tokens, strict=True):
        late = min(1.0, max(0.0, (n - (cap - ramp)) / ramp)) if f else 1.0
        rewards.append(right - late)
    return rewards


def laser(correct, finished, n_tokens, cap, *, target: int = 0, bonus: float = 0.5, wrong: float = -0.5) -> list[float]:
    """A step: right answers earn 1, and ``bonus`` more when they are no longer than the target.

    Range: wrong..1 + bonus. ``target`` 0 means half the cap. Unfinished counts as wrong.
    Pitfall: a target that no rollout of a group meets gives no length signal; move it with the model.

    >>> laser([True, True, False], [True] * 3, [4000, 9000, 4000], 16384, target=8192)
    [1.5, 1.0, -0.5]

    Source: LASER, arXiv:2505.15612.
    """
    goal = target or cap // 2
    return [1 + bonus * (n <= goal) if right else wrong
            for right, n in zip(correct, n_tokens, strict=True)]


def shorterbetter(correct, finished, n_tokens, cap, *, alpha: float = 2.0, beta: float = 0.001) -> list[float]:
    """``alpha`` for a right answer minus ``beta`` per token away from the shortest right one of the group.

    Range: unbounded below. Without a right answer the goal is the group's mean length.
    Pitfall: the goal is the luckiest guess of the group, so lengths can collapse; and wrong short answers lose too.

    >>> shorterbetter([True, True, False, True], [True] * 4, [1000, 2000, 3000, 4000], 4000)
    [2.0, 1.0, -2.0, -1.0]

    Source: ShorterBetter, arXiv:2504.21370.
    """
    goal = min([n for c, n in zip(correct, n_tokens, strict=True) if c], default=statistics.fmean(n_tokens))
    return [alpha * c - beta * abs(n - goal) for c, n in zip(correct, n_tokens)]


def gr3(correct, finished, n_tokens, cap, *, alpha: float = 0.33) -> list[float]:
    """Correctness divided by 1 + ``alpha`` times the length relative to the group's mean.

    Range: 0..1. Multiplicative, so a wrong answer stays at 0 whatever its length.
    Pitfall: relative to the group: the pressure never ends, whatever the length already is.

    >>> [round(r, 3) for r in gr3([True] * 4, [True] * 4, [1000, 2500, 5000, 1500], 8000)]
    [0.883, 0.752, 0.602, 0.835]

    Source: GR3 (group relative reward rescaling), arXiv:2603.10535.
    """
    mean = max(1.0, statistics.fmean(n_tokens))
    return [right / (1 + alpha * n / mean) for right, n in zip(correct, n_tokens, strict=True)]


def tiered(correct, finished, n_tokens, cap, *, tight: int = 0, share: float = 0.5) -> list[float]:
    """The strict cap, and the tighter one where more than ``share`` of the group is right within the cap.

    Range: 0 or 1. ``tight`` 0 means half the cap. Hard problems keep the long cap.
    Pitfall: a group near ``share`` flips between the two caps from step to step; and the prompt names one cap only.

    >>> tiered([True, True, True, False], [True] * 4, [900, 1900, 2100, 3000], 4000)
    [1.0, 1.0, 0.0, 0.0]
    >>> tiered([True, False, True, False], [True] * 4, [900, 1900, 2100, 3000], 4000)
    [1.0, 0.0, 1.0, 0.0]

    Source: DA-DLER, arXiv:2510.15110.
    """
    limit = (tight or cap // 2) if sum(correct) > share * len(correct) else cap
    return [float(c and n <= limit) for c, n in zip(correct, n_tokens, strict=True)]


def dot(correct, finished, n_tokens, cap, *, right_within: Callable[[int], list[bool]], alpha: float = 2.0,
        overrun: int = 32) -> list[float]:
    """The strict reward; where all of the group are right, an outlier in length is cut, and graded by what is left.

    The cut is at floor(mean + ``alpha`` x deviation) of the group's lengths (the deviation with G - 1), for responses
    that are at least ``overrun`` tokens longer. An answer that stands before the cut still counts, end token or not.
    The rollout is trained as it was sampled, whole.
    Range: 0 or 1. The largest deviation of one response is (G - 1) / sqrt(G), 2.47 for G = 8: an ``alpha`` that no
    response can exceed is refused. The paper takes 3 with G = 32.
    Pitfall: it acts on outliers in easy groups only. With G = 8, one response has to be 185 tokens longer than seven
    equal ones; where groups or answers are small, take a smaller ``alpha`` and ``overrun``.

    >>> lengths = [100] * 7 + [400]          # mean 137.5, deviation 106.1: cut at 349
    >>> dot([True] * 8, [True] * 8, lengths, 400, right_within=lambda n: [length <= n for length in lengths])
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]

    Source: DOT (dynamic outlier truncation), arXiv:2601.03969.
    """
    largest = (len(n_tokens) - 1) / math.sqrt(len(n_tokens))
    if alpha >= largest > 0:
        raise ValueError(f"alpha is {alpha}: with {len(n_tokens)} rollouts in a group no length is more than "
                         f"{largest:.2f} deviations above the mean, so it must be lower")
    rewards = thinkprune(correct, finished, n_tokens, cap)
    if min(rewards) < 1 or len(rewards) == 1:
        return rewards
    cut = math.floor(statistics.fmean(n_tokens) + alpha * statistics.stdev(n_tokens))
    if max(n_tokens) - cut < overrun:
        return rewards
    return [float(right) if n - cut >= overrun else 1.0 for n, right in zip(n_tokens, right_within(cut), strict=True)]


def countdown(correct, finished, n_tokens, cap, *, texts: list[str], thinking: bool = True,
              some: float = 0.1) -> list[float]:
    r"""1 for a right answer, ``some`` for any other one, 0 without: a first step for a model that does not answer yet.

    An answer is a \boxed{} in a rollout that ended within the cap; with ``thinking``, after the last </think>. It is
    right where arithmetic.py finds the numbers once each and the target reached. That is the verdict for all problems
    whose answer is written as "countdown: 3 5 7 -> 22". With other problems it is the same three steps. Range: 0..1.
    Pitfall: ``some`` is also paid for a guess without thought; a 0.5B came to box the example of its prompt.

    >>> texts = [r"hm</think> \boxed{3*5+7}", r"hm</think> \boxed{3*5}", r"hm \boxed{3*5+7}"]
    >>> countdown([True, False, False], [True] * 3, [9] * 3, 16, texts=texts)
    [1.0, 0.1, 0.0]
    >>> countdown([False] * 3, [True, True, False], [9] * 3, 16, texts=texts[2:] * 3, thinking=False)
    [0.1, 0.1, 0.0]

    Source: TinyZero (github.com/Jiayi-Pan/TinyZero), which wants <answer> and runs eval on it.
    """
    boxes = [reward.extract_answer(text, thinking) for text in texts]
    answered = [f and box is not None for f, box in zip(finished, boxes, strict=True)]
    return [1.0 if right else some * answer for right, answer in zip(correct, answered, strict=True)]


REWARDS: dict[str, Callable] = {f.__name__: f for f in (
    thinkprune, cosine, repetition, r1, kimi, l1_exact, l1_max, o1_pruner, efficient, overlong, laser, shorterbetter,
    gr3, tiered, dot, countdown)}
