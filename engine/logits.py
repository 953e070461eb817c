"""From hidden states to logits and log-probs, in float32, for sampler and trainer alike.

Of a large vocabulary logits are made a piece at a time, and the head of a model in 16 bits is never copied to float32.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch.utils.checkpoint

# F.linear takes MKL for float32, which is slow with few rows; oneDNN is in the same torch. It has no gradient there.
ONEDNN = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
LARGE = 2**18  # numbers in a weight; smaller ones stay in the cache, and there MKL is as fast


def onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(n, in) -> (n, out) as `F.linear`; `weight` may be one of `pack`."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pack(weight: torch.Tensor) -> torch.Tensor:
    """A copy of a weight in the order in which oneDNN reads it with a few rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, 16)


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(n, in) -> (n, out) as `F.linear`, in another way where a CPU is faster with it (dev/LOG.md has the figures).

    A large float32 weight: with 2 to 5 rows weight times states, where it is wide, and with more rows oneDNN.
    """
    if weight.numel() >= LARGE and x.dtype == torch.float32 and x.device.type == "cpu" and ONEDNN:
        if 1 < len(x) < 6 and len(weight) > weight.shape[1]:
            y = (weight @ x.t()).t().contiguous()
            return y if bias is None else y + bias
        if len(x) > 5 and not torch.is_grad_enabled():
            return onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def products(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(n, H) states and a (V, H) head, both in 16 bits -> (n, V) products, summed and left in float32."""
    if hidden.device.type == "cuda":
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    # Block by block, each small enough for the cache, and in one place: a float32 copy of the whole head, made at every
    # token, would take longer than the product, and to allocate a block takes as long as to fill it.
    hidden, rows = hidden.float(), min(len(weight), max(1, 2**20 // weight.shape[1]))
    logits, place = hidden.new_empty(len(hidden), len(weight)), hidden.new_empty(rows, hidden.shape[1])
    for part, block in zip(logits.split(rows, 1), weight.split(rows)):
        part.copy_(multiply(hidden, place[: len(block)].copy_(block)))
    return logits


class Products(torch.autograd.Function):
    """`products` with a gradient for the states, rounded to 16 bits as those of the layers are; the head is frozen."""

    @staticmethod
    def forward(ctx, hidden, weight):
        ctx.save_for_backward(weight)
        return products(hidden, weight)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return gradient.to(weight.dtype) @ weight, None


def float_logits(head: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """(n, H) states -> (n, V) float32 products with the head; `model_logits` makes the model's logits of them.

    Rounded to bfloat16, logits around 16 come in steps of 0.06, and the two log-probs of a token differ by that.
    """
    if type(head) is not torch.nn.Linear or hidden.device.type not in ("cpu", "cuda"):
        return head(hidden).float()
    if head.weight.dtype == torch.float32:
        return multiply(hidden.float(), head.weight, head.bias)
    logits = Products.apply(hidden.to(head.weight.dtype), head.weight)
    return logits if head.bias is None else logits + head.bias.float()


def model_logits(model, hidden: torch.Tensor, head: Callable | None = None) -> torch.Tensor:
    """(n, H) states -> (n, V) float32 logits as the model's own forward has them, for sampler and trainer alike.

    `head`, where given, computes what `float_logits` would.

    Some families scale or cap what comes out of the head. `guard` refuses one that does something else to it.
    """
    logits, config = head(hidden) if head else float_logits(model.get_output_embeddings(), hidden), model.config
    if scale := getattr(config, "logit_scale", None):                            # Cohere
        logits = logits * scale
    if scale := getattr(config, "logits_scaling", None):                         # Granite
        logits = logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):                  # Gemma
        logits = cap * torch.tanh(logits / cap)
    return logits


def token_logp(model, ids: torch.Tensor, mask: torch.Tensor, temperature: float, chunk: int, also=None):
    """Log-probs of the marked tokens, row by row: only their logits are ever made, `chunk` at a time.

    Args:
        model: Policy with its adapter set as wanted, or a plain model.
        ids: (B, T) tokens, padded on the right (causal attention never looks there, so no attention mask is needed).
        mask: (B, T) True on the response tokens.
        also: Logits (chunk, V) -> further figures (chunk,) by name, as `grpo.from_logits`.

    Returns:
        (mask.sum(),) float32, with gradient where the model has one; with `also` (log-probs, figures), of one shape.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state    # (B, T, H)
    # Position t predicts token t+1: drop the last state and the first token.
    states, targets = hidden[:, :-1][mask[:, 1:]], ids[:, 1:][mask[:, 1:]]       # (N, H), (N,)

    def piece(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model_logits(base, x) / temperature                             # (chunk, V)
        return logits.gather(1, y[:, None])[:, 0] - logits.logsumexp(-1), also(logits) if also else {}

    # Checkpointed, because the logits of a 152k vocabulary would otherwise stay until the backward.
    pieces = zip(states.split(chunk), targets.split(chunk))
    parts = [torch.utils.checkpoint.checkpoint(piece, x, y, use_reentrant=False) for x, y in pieces]
    logp = torch.cat([part for part, _ in parts])
    return (logp, {name: torch.cat([seen[name] for _, seen in parts]) for name in parts[0][1]}) if also else logp
