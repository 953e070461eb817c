"""From logits to a token: the inverse of the distribution function at a random number, and the nucleus of top_p.

On every device the distribution function is the float64 sum of the weights up to a token, rounded to float32, as a
CPU's cumsum has it. So of the same weights a card draws the same token, up to a float64 rounding. Only the nucleus is
cut by float32 sums on a card: there a token at its very edge may be in or out.
"""

import torch
import torch.nn.functional as F

FEW = (64, 1024)  # largest weights that a CPU looks at for the nucleus, before it sorts all
MANY = 4096  # and a card, where their number is fixed


def on_cuda(tensor: torch.Tensor) -> bool:
    """Whether a step may not wait for a value. The tests record a step of the CPU as one of a card, and say yes."""
    return tensor.device.type == "cuda"


def draw(weight: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Tokens (n, draws) at which the distribution function of `weight` (n, V) passes u (n, draws) in [0, 1)."""
    if on_cuda(weight):
        return draw_in_blocks(weight, u, 128)
    cdf = weight.cumsum(-1)
    # right=True steps over tokens of weight 0; the clamp guards the last one against rounding.
    return torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=weight.shape[1] - 1)


def draw_in_blocks(weight: torch.Tensor, u: torch.Tensor, block: int) -> torch.Tensor:
    """The same in two levels, the block of tokens and then the token: of all V, only sums of blocks are made."""
    vocab = weight.shape[1]
    if vocab % block:
        weight = F.pad(weight, (0, -vocab % block))
    parts = weight.double().view(len(weight), -1, block)                         # (n, blocks, block)
    ends = F.pad(parts.sum(-1).cumsum(-1), (1, 0))                               # (n, 1 + blocks)
    target = u * ends[:, -1:].float()
    number = torch.searchsorted(ends[:, 1:].float(), target, right=True).clamp(max=parts.shape[1] - 1)
    inside = parts.gather(1, number[:, :, None].expand(-1, -1, block))           # (n, draws, block)
    cdf = (ends.gather(1, number)[:, :, None] + inside.cumsum(-1)).float()
    # The block's sum may be rounded otherwise here: stay below its end, or a token of weight 0 could be drawn.
    target = torch.minimum(target, cdf[:, :, -1].nextafter(torch.zeros_like(target)))
    token = number * block + torch.searchsorted(cdf, target[:, :, None], right=True)[:, :, 0]
    return token.clamp(max=vocab - 1)  # of NaN there is no right token, but one that exists: sampling says so later


def nucleus(weight: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(`weight` (n, k) with 0 outside of the nucleus, `weight` (n, k) sorted, the largest first).

    The nucleus is the smallest set of tokens with at least `top_p`: one is out if what stands before it has that. Of
    equal ones the first stands first, on every machine.
    """
    ordered, order = weight.sort(dim=-1, descending=True, stable=True)
    cut = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
    return ordered.scatter(1, order, cut), ordered


def draw_nucleus(weight: torch.Tensor, u: torch.Tensor, top_p: float, every: bool = False):
    """`draw` from the nucleus of `weight` (n, V).

    To sort a vocabulary of 152k takes longer than a small model does, and most often a few tokens are enough. A CPU
    looks whether they were, and else takes more. A card cannot look within a step: it takes `MANY`.

    Args:
        every: Sort all.

    Returns:
        Tokens as `draw` has them; (n,) whether they are right, or None where all are: on a card, the nucleus of some
        row may be larger than `MANY`.
    """
    for k in (k for k in ((MANY,) if on_cuda(weight) else FEW) if k < weight.shape[1] and not every):
        token = weight.topk(k, sorted=False).indices.sort(-1).values             # (n, k)
        kept, ordered = nucleus(weight.gather(1, token), top_p)
        # Those above the least of these have top_p without it: what is smaller or equal is out. 1e-6: rounding.
        sure = (ordered * (ordered > ordered[:, -1:])).sum(-1) >= top_p + 1e-6
        if on_cuda(weight) or bool(sure.all()):
            return token.gather(1, draw(kept, u)), sure if on_cuda(weight) else None
    return draw(nucleus(weight, top_p)[0], u), None


def pick_token(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_p: float, every: bool = False):
    """Samples one token a row by inverting the distribution function at u.

    Args:
        logits: (n, V) float32.
        u: (n, 1) uniform in [0, 1).
        every: See `draw_nucleus`.

    Returns:
        Tokens (n,); their log-probs (n,), from the whole softmax, before top_p cuts it; what `draw_nucleus` says of
        them, or None.

    >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]]).log_softmax(-1)
    >>> [int(pick_token(logits, torch.tensor([[u]]), 1.0, 1.0)[0]) for u in (0.1, 0.3, 0.9)]
    [0, 1, 3]
    """
    logp = (logits if temperature in (0, 1) else logits / temperature).log_softmax(-1)  # (n, V)
    sure = None
    if temperature == 0:
        token = logits.argmax(-1, keepdim=True)
    elif top_p < 1:
        token, sure = draw_nucleus(logp.exp(), u, top_p, every)
    elif on_cuda(logp):  # the sums are float64: written as such at once, the weights are copied once less
        token = draw(torch.exp(logp, out=torch.empty_like(logp, dtype=torch.float64)), u)
    else:
        token = draw(logp.exp(), u)
    return token[:, 0], logp.gather(1, token)[:, 0], sure
