"""From logits to a token: the inverse of the distribution function at a random number, and the nucleus of top_p."""

import torch
import torch.nn.functional as F


def on_cuda(tensor: torch.Tensor) -> bool:
    """Whether a step may not wait for a value. The tests record a step of the CPU as one of a card, and say yes."""
    return tensor.device.type == "cuda"


def draw(weight: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Token (n, 1) at which the distribution function of `weight` (n, V) passes u (n, 1) in [0, 1)."""
    if on_cuda(weight) and weight.shape[1] % 128 == 0:
        return draw_in_blocks(weight, u, 128)
    cdf = weight.cumsum(-1)
    # right=True steps over tokens of weight 0; the clamp guards the last one against rounding.
    return torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=weight.shape[1] - 1)


def draw_in_blocks(weight: torch.Tensor, u: torch.Tensor, block: int) -> torch.Tensor:
    """The same in two levels, the block of tokens and then the token: of all V, only sums of blocks are made."""
    parts = weight.view(len(weight), -1, block)                                  # (n, V / block, block)
    ends = F.pad(parts.sum(-1).double().cumsum(-1), (1, 0))                      # (n, 1 + V / block)
    target = u * ends[:, -1:].float()
    number = torch.searchsorted(ends[:, 1:].float(), target, right=True).clamp(max=parts.shape[1] - 1)  # (n, 1)
    inside = parts.gather(1, number[:, :, None].expand(-1, -1, block))[:, 0]     # (n, block)
    cdf = (ends.gather(1, number) + inside.double().cumsum(-1)).float()
    # The block's sum is rounded otherwise here: stay below its end, or a token of weight 0 could be drawn.
    target = torch.minimum(target, cdf[:, -1:] * (1 - 2**-23))
    return number * block + torch.searchsorted(cdf, target, right=True).clamp(max=block - 1)


def draw_nucleus(weight: torch.Tensor, u: torch.Tensor, top_p: float) -> torch.Tensor:
    """`draw` from the smallest set of tokens with at least `top_p`: one is out if what stands before it has that."""
    # To sort a vocabulary of 152k takes longer than a small model does. Most often a few tokens are enough, and on a
    # CPU it costs nothing to look whether they are. On CUDA nothing may wait for a value.
    for k in (k for k in (64, 1024) if not on_cuda(weight) and k < weight.shape[1]):
        ordered, order = weight.topk(k)                                          # (n, k)
        before = ordered.cumsum(-1) - ordered
        out = before >= top_p
        # Where equal weights stand on both sides of the edge, the sort decides which are out. 1e-6: rounding.
        tie = (ordered[:, 1:] == ordered[:, :-1]) & (out[:, 1:] != out[:, :-1])
        if bool((before[:, -1] >= top_p + 1e-6).all()) and not bool(tie.any()):
            order, place = order.sort(-1)
            return order.gather(1, draw(ordered.masked_fill(out, 0).gather(1, place), u))
    ordered, order = weight.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
    return draw(torch.zeros_like(weight).scatter(1, order, ordered), u)


def pick_token(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_p: float):
    """Samples one token a row by inverting the distribution function at u.

    Args:
        logits: (n, V) float32.
        u: (n, 1) uniform in [0, 1).

    Returns:
        Tokens (n,) and their log-probs (n,), the latter from the whole softmax, before top_p cuts it.

    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]]).log_softmax(-1)
    >>> [int(pick_token(logits, torch.tensor([[u]]), 1.0, 1.0)[0]) for u in (0.1, 0.3, 0.9)]
    [0, 1, 3]
    """
    if temperature == 0:
        logp = logits.log_softmax(-1)
        token = logits.argmax(-1, keepdim=True)
        return token[:, 0], logp.gather(1, token)[:, 0]
    logp = (logits if temperature == 1 else logits / temperature).log_softmax(-1)  # (n, V)
    token = draw(logp.exp(), u) if top_p == 1 else draw_nucleus(logp.exp(), u, top_p)
    return token[:, 0], logp.gather(1, token)[:, 0]
