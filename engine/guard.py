"""One comparison before the first rollout: a few tokens through the sampler, and through the model's own forward.

It costs a few forwards of a few tokens, and finds what no list of known cases does: a model or an adapter that this
code computes otherwise than `transformers` and `peft` do. It prints nothing where all is well.
"""

import torch

from engine.files import OptionError, die, first_line
from engine.memory import out_of_memory
from engine.logits import token_logp
from engine.rows import Requests, Rows
from engine.slots import Prefill, evaluating
from engine.supported import longest_exact

PROMPTS, RESPONSE = (20, 3), 12  # tokens: enough to cross a small window that no config names
# Gap of a log-prob that rounding alone explains: the largest in 32 bits; in 16 bits the median, as there a token that
# rounding sends to other experts may differ by 2. Models that are right had 3e-5 and 0.1 at most, wrong logits 0.9 and
# more. A small fault (a DoRA left out: 0.2) can hide in 16 bits: those that are known are refused by name.
LIMIT_32, LIMIT_16 = 1e-3, 0.2


def compare(policy, model, options) -> None:
    """Exits with status 2 where rollouts would come from another distribution than the policy's own forward gives.

    Args:
        policy: What is trained or measured, with its adapter.
        model: What `rollout_model` made of it, which is decoded from.
        options: Named in the message.
    """
    name = f"--model {options.model} ({model.config.model_type})"
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            try:
                with evaluating(model):
                    sequences, ours = decode_few(model)
            except Exception as error:
                if out_of_memory(error):
                    raise
                if isinstance(error, NameError):  # our own code, edited
                    raise
                kind = type(error).__name__
                odd = "" if isinstance(error, OptionError) else f"its layers do not take its cache: {kind}: "
                die(f"{name} cannot be decoded by this sampler: {odd}{first_line(error)}")
            with evaluating(policy):
                plain = torch.cat([own_logp(policy, ids, n) for ids, n in sequences])
            found = {"in the model's own forward": plain}
            if hasattr(policy, "get_base_model"):
                found["in training"] = torch.cat([trained_logp(policy, ids, n) for ids, n in sequences])
    except Exception as error:
        if out_of_memory(error):
            return  # said with what to lower when the sampling or the update itself runs out
        raise
    if plain.isnan().any():
        return  # the sampling itself will say so
    exact, merged = model.dtype == torch.float32, getattr(policy, "get_base_model", lambda: policy)() is not model
    for where, theirs in found.items():
        gap = (torch.cat(ours) - theirs).abs()
        gap, limit = (gap.max().item(), LIMIT_32) if exact else (gap.median().item(), LIMIT_16)
        if not gap <= limit:  # a NaN, too
            which = "largest" if exact else "median"
            die(f"{name}: a token has another log-prob where rollouts are sampled than {where} ({which} gap {gap:.3g}, "
                f"rounding explains {limit:g}): what is decoded would not be what is trained"
                f"{'; --rollout_weights live may help' if merged else ''}")  # fmt: skip


def decode_few(model) -> tuple[list[tuple[torch.Tensor, int]], list[torch.Tensor]]:
    """Some tokens by `Rows`: sequences as (ids (1, T), response tokens n), and the (n,) log-probs of each response."""
    limit, vocab = longest_exact(model.config)[0], model.get_input_embeddings().weight.shape[0]
    new = max(1, min(RESPONSE, limit // 2))
    # Low ids are short and frequent tokens in most vocabularies: a model's rounding is smallest on what it knows.
    prompts = [[(7919 * k + 13) % min(vocab, 1000) for k in range(max(1, min(n, limit - new)))] for n in PROMPTS]
    requests = Requests(prompts, 1, [new] * len(prompts), 1.0, 1.0, 0, "", None)
    rows, prefill = Rows(model, len(prompts), requests, [-1]), Prefill(model, prompts)
    sizes = {tuple(x.shape[-3::2]) for layer in prefill[0] for x in layer}
    if sizes - {(rows.slots.heads, rows.slots.dim)}:
        raise OptionError(f"a token's keys and values have sizes {sorted(sizes)}, other than its config.json gives")
    for k in range(len(prompts)):
        rows.admit(k, k, requests, prefill)
    for _ in range(new):
        rows.arrange(by_band=True)
        rows.step(rows.live)
        rows.now += 1
    responses = [rows.ids[k, :new] for k in range(len(prompts))]
    ids = [torch.cat([torch.tensor(p, device=model.device), r])[None] for p, r in zip(prompts, responses)]
    return [(x, new) for x in ids], [rows.logp[k, :new] for k in range(len(prompts))]


def own_logp(policy, ids: torch.Tensor, n: int) -> torch.Tensor:
    """(n,) log-probs of the last tokens, by a plain forward of the whole model."""
    logits = policy(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -n - 1 : -1]
    logp = logits.float().log_softmax(-1)                                        # (n, V)
    return logp.gather(1, ids[0, -n:, None])[:, 0]


def trained_logp(policy, ids: torch.Tensor, n: int) -> torch.Tensor:
    """(n,) log-probs of the last tokens, as the update computes them."""
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, -n:] = True
    return token_logp(policy, ids, mask, 1.0, 512)
