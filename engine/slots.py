"""What a decode step is made of: a KV cache of slots, attention over it, unrolled layers.

rows.py holds the rows and sample.py the loop; this is what makes one step fast. In reading order: `SlotCache` (keys and
values of each row, and two ways to attend to them), `decode_layers` (Qwen2, Qwen3, Llama written out) or `own_forward`
(any other model), `Prefill` (each prompt is run once). draw.py picks the token, graphs.py makes a CUDA graph of it all.
"""

import contextlib
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from engine.files import OptionError, first_line, note
from engine.logits import LARGE, ONEDNN, multiply, onednn, pack
from engine.memory import head_dim, micro_batches, out_of_memory


class SlotCache:
    """KV cache of fixed rows, each with its own length, and the attention over it. Rows 0..n-1 are live.

    `decode_layers` calls `write` and `attend` once a layer. A decoder's own forward calls `update`: what that returns
    goes, unread, to the attention function of `transformers`, which is `slot_attention` below. Two ways to attend:

    - `varlen_attn` reads what each row has and no more (CUDA in 16 bits);
    - elsewhere a masked attention reads the width of the longest row. So that one long row does not make every row
      read its width, rows stand roughly sorted, longest first, in a few bands that each read their own width.

    Args:
        width: Most tokens of a row.
        varlen: Use `varlen_attn`.
    """

    def __init__(self, model, rows: int, width: int, varlen: bool):
        c, device = model.config, model.device
        self.rows, self.width, self.varlen = rows, width, varlen
        self.heads, self.dim = c.num_key_value_heads, head_dim(c)
        self.band = rows if varlen else max(8, rows // 8)                         # rows of a band
        self.bands: list[tuple[int, int, int]] = []                              # (first, end, width); none: all
        # Zeros, not empty: a masked position still enters the product, and 0 * NaN is NaN. varlen_attn wants the
        # tokens of a row one after the other; the masked attention is faster where those of a head are.
        shape = (width, self.heads, self.dim) if varlen else (self.heads, width, self.dim)
        # One tensor for the keys and values of all layers: a band is cut, or a row moved, in all of them at once.
        store = torch.zeros((c.num_hidden_layers, 2, rows, *shape), dtype=model.dtype, device=device)
        if varlen:
            self.flat = [pair.unbind() for pair in store.flatten(2, 3).unbind()]  # (rows * width, KV heads, dim) each
        self.store = store.transpose(3, 4) if varlen else store          # (layers, 2, rows, KV heads, width, dim)
        self.layers = self.store.unbind()
        self.length = torch.zeros(rows, dtype=torch.long, device=device)         # (rows,) tokens in the cache
        self.index = torch.arange(rows, device=device)
        self.mask = torch.full((rows, 1, 1, 1 if varlen else width), -torch.inf, dtype=model.dtype, device=device)
        self.seen, self.zero = self.mask[:, 0, 0], torch.zeros((), dtype=model.dtype, device=device)
        self.used = torch.zeros(rows, dtype=torch.int32, device=device)          # (rows,) length with the new token
        self.starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self.row_starts = self.starts * width                                    # (rows + 1,) in `flat`
        self.flash = flash_attention() if varlen else None
        self.full = rows_that_fill(device, self.heads) if varlen and can_split(model, self.flash) else math.inf

    def open(self, n: int) -> None:
        """Makes room for one more token in each of the first `n` rows."""
        index, length = self.index[:n], self.length[:n]
        self.place = (slice(None), index, slice(None), length)                   # where every layer stores it
        if self.varlen:
            self.used[:n] = length + 1
            return
        self.seen.index_put_((index, length), self.zero)
        self.cuts = []
        for a, b, width in self.bands or [(0, n, self.width)]:
            keys, values = self.store[:, :, a:b, :, :width].unbind(1)
            self.cuts.append((a, b, self.mask[a:b, :, :, :width], keys.unbind(), values.unbind()))

    def write(self, both: torch.Tensor, layer: int) -> None:
        """Stores one token a row: (n, 2 * KV heads, dim), its keys before its values."""
        self.layers[layer][self.place] = both.view(len(both), 2, self.heads, self.dim)

    def update(self, key, value, layer: int, *args, **kwargs):
        """The same for (n, KV heads, 1, dim) each."""
        self.write(torch.cat([key[:, :, 0], value[:, :, 0]], 1), layer)
        return self, layer

    def attend(self, layer: int, query: torch.Tensor, scale: float | None) -> torch.Tensor:
        """One query a row over the row's keys: (n, heads, dim) -> (n, heads, dim)."""
        n, heads = query.shape[:2]
        if self.varlen:
            more = {"num_splits": 2} if n >= self.full else {}
            return self.flash(
                query, *self.flat[layer], self.starts[: n + 1], self.row_starts[: n + 1], 1, self.width, scale=scale,
                enable_gqa=True, seqused_k=self.used[:n], **more,
            )
        # The heads that share a key head are its queries: nothing is repeated.
        query = query.reshape(n, self.heads, heads // self.heads, self.dim)
        out = [
            F.scaled_dot_product_attention(query[a:b], keys[layer], values[layer], attn_mask=mask, scale=scale)
            for a, b, mask, keys, values in self.cuts
        ]
        # A card's kernels may give the heads in another order of strides, which a view would refuse.
        return (torch.cat(out) if len(out) > 1 else out[0]).reshape(n, heads, self.dim)

    def fill(self, row: int, prompt: list[tuple[torch.Tensor, torch.Tensor]], length: int) -> None:
        """Starts a row with a prompt's keys and values, (KV heads, length or more, dim) a layer."""
        for layer, (keys, values) in zip(self.layers, prompt):
            layer[0, row, :, :length], layer[1, row, :, :length] = keys[:, :length], values[:, :length]
        self.mask[row, 0, 0, :length], self.mask[row, 0, 0, length:] = 0, -torch.inf
        self.length[row] = length

    def move(self, source: int, row: int, length: int) -> None:
        """Copies one live row over a finished one."""
        self.store[:, :, row, :, :length] = self.store[:, :, source, :, :length]
        self.mask[row], self.length[row] = self.mask[source], self.length[source]


def slot_attention(module, query, cache: SlotCache, layer: int, attention_mask, scaling=None, **kwargs):
    """Attention function of `transformers` while rollouts are decoded; the cache came out of its `update`.

    Raises:
        OptionError: The layer's attention is not a plain one over all the tokens of a row.
    """
    if (window := kwargs.get("sliding_window")) and window < cache.width:
        raise OptionError(f"the model has a sliding window of {window}, and rows of {cache.width} tokens are needed")
    for name in ("softcap", "s_aux"):  # a cap on the scores, attention sinks
        if kwargs.get(name) is not None:
            raise OptionError(f"the model's attention has {name}, which the sampler's has not")
    return cache.attend(layer, query[:, :, 0], scaling)[:, None], None


@contextlib.contextmanager
def attends_to_slots(model) -> Iterator[None]:
    """Inside, the model's own forward calls `slot_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register("slots", slot_attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = "slots"
    try:
        yield
    finally:
        model.config._attn_implementation = before


@contextlib.contextmanager
def evaluating(model) -> Iterator[None]:
    """Inside, the model is in eval mode: in training mode gradient checkpointing would drop the cache."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cache_argument(decoder) -> str:
    """What this version of `transformers` calls the KV cache: `cache` from 5.24 on, `past_key_values` before."""
    return "cache" if takes(decoder.forward, "cache") else "past_key_values"


def own_forward(model, slots: SlotCache, token: torch.Tensor) -> torch.Tensor:
    """One token a row through the model's own decoder: (n,) ids -> (n, H) states before the head."""
    decoder, n = model.get_decoder(), len(token)
    with attends_to_slots(model):
        return decoder(
            input_ids=token[:, None],
            attention_mask=slots.mask[:n, :, :, :1],  # slot_attention ignores it; a 4-D mask keeps others away
            position_ids=slots.length[:n, None],
            use_cache=True,
            **{cache_argument(decoder): slots},
        ).last_hidden_state[:, 0]


def rms_norm(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    # Rounded before the weight, as the model's own norm does it; given the weight, F.rms_norm would round after.
    return norm.weight * F.rms_norm(x, x.shape[-1:], eps=norm.variance_epsilon)


def can_unroll(model) -> bool:
    """Whether `decode_layers` computes this model: Qwen2, Qwen3, Llama, unless their RoPE changes with the length."""
    from transformers import LlamaModel, Qwen2Model, Qwen3Model

    decoder = model.get_decoder()
    known = type(decoder) in (LlamaModel, Qwen2Model, Qwen3Model)  # itself: what a subclass changes, nobody knows
    norms = {p.dtype for name, p in model.named_parameters() if "norm" in name}
    return known and norms == {model.dtype} and decoder.rotary_emb.rope_type in ("default", "linear", "llama3", "yarn")


def packs(model) -> bool:
    """Whether large weights are kept a second time while rollouts are decoded, in the order that oneDNN reads.

    In float32 on a CPU a step of a few rows is then up to twice as fast. A model above 256 MB does without.
    """
    small = sum(p.nbytes for p in model.parameters()) <= 2**28
    return ONEDNN and small and model.device.type == "cpu" and model.dtype == torch.float32


def joined(*layers: torch.nn.Module, packed: bool) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Linear layers that read the same states, as one: f((n, in)) -> (n, sum of outs). None in 4 bits or with a LoRA.

    Their weights become slices of one tensor. So nothing is stored twice, and what is written into the layers in place,
    as `refresh_copy` does, is what f computes with; with `packed` (see `packs`) f of a large weight has a copy.
    """
    if {type(layer) for layer in layers} != {torch.nn.Linear}:
        return None
    weights = [layer.weight for layer in layers]
    sizes, width = [len(w) for w in weights], weights[0].shape[1]
    apart = any(
        b.untyped_storage().data_ptr() != a.untyped_storage().data_ptr() or b.data_ptr() != a.data_ptr() + a.nbytes
        for a, b in itertools.pairwise(weights)
    )
    if apart:
        for weight, part in zip(weights, torch.cat([w.detach() for w in weights]).split(sizes)):
            weight.data = part
    whole = weights[0].detach().as_strided((sum(sizes), width), (width, 1))
    bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
    if packed and whole.numel() >= LARGE:
        return functools.partial(onednn, weight=pack(whole), bias=bias)
    return functools.partial(multiply, weight=whole, bias=bias)


class Unrolled(NamedTuple):
    """What `decode_layers` computes with beside the decoder; made once for many tokens."""

    cos: torch.Tensor
    """(width, dim) of RoPE for positions 0..width-1."""
    sin: torch.Tensor
    """The same, with rotate_half's signs."""
    qkv: list[Callable | None]
    """Query, key and value of each layer as one, where they can be joined."""
    gate_up: list[Callable | None]
    out: list[Callable]
    """Output of each attention."""
    down: list[Callable]
    norms: list[torch.Tensor | None]
    """(heads + KV heads, dim) of each layer: weights of Qwen3's norms of query and key."""


def unroll(decoder, width: int, like: torch.Tensor, packed: bool = False) -> Unrolled:
    """Prepares a Qwen2, Qwen3 or Llama decoder for rows of `width` tokens; `like` has their dtype and device."""
    cos, sin = decoder.rotary_emb(like, torch.arange(width, device=like.device)[None])
    sin[..., : sin.shape[-1] // 2] *= -1
    c, attentions, mlps = decoder.config, *zip(*((layer.self_attn, layer.mlp) for layer in decoder.layers))
    qkv = [joined(a.q_proj, a.k_proj, a.v_proj, packed=packed) for a in attentions]
    gate_up = [joined(mlp.gate_proj, mlp.up_proj, packed=packed) for mlp in mlps]
    out = [joined(a.o_proj, packed=packed) or a.o_proj for a in attentions]
    down = [joined(mlp.down_proj, packed=packed) or mlp.down_proj for mlp in mlps]
    norms = [None] * len(attentions)
    if hasattr(attentions[0], "q_norm"):
        q, k = c.num_attention_heads, c.num_key_value_heads
        both = [(a.q_norm.weight.expand(q, -1), a.k_norm.weight.expand(k, -1)) for a in attentions]
        norms = [torch.cat(pair).detach() for pair in both]
    return Unrolled(cos[0], sin[0], qkv, gate_up, out, down, norms)


def decode_layers(decoder, slots: SlotCache, token: torch.Tensor, unrolled: Unrolled) -> torch.Tensor:
    """One token a row through a Qwen2, Qwen3 or Llama decoder: what its own forward computes, in fewer operations.

    One token is little work, so starting an operation takes as long as running it. Here a norm is one operation, layers
    that read the same states are one, and query and key turn together. Edit a layer here and rollouts no longer come
    from the model that is trained.

    Args:
        token: (n,) input ids.
        unrolled: Of `unroll`.

    Returns:
        (n, H) states before the head.
    """
    position, heads = slots.length[: len(token)], decoder.config.num_attention_heads
    cos, sin = unrolled.cos[position, None], unrolled.sin[position, None]        # (n, 1, dim)
    hidden = decoder.embed_tokens(token)                                         # (n, H)
    for i, (layer, qkv, gate_up, out, down, norm) in enumerate(zip(decoder.layers, *unrolled[2:])):
        attention, mlp, x = layer.self_attn, layer.mlp, rms_norm(layer.input_layernorm, hidden)
        mixed = qkv(x) if qkv else torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], 1)
        mixed = mixed.view(len(token), -1, slots.dim)                            # (n, heads + 2 * KV heads, dim)
        both = mixed[:, : heads + slots.heads]                                   # query and key, changed in place
        if norm is not None:
            eps = attention.q_norm.variance_epsilon
            torch.mul(norm, F.rms_norm(both, both.shape[-1:], eps=eps), out=both)
        turned = both.roll(slots.dim // 2, -1)
        both.mul_(cos).add_(turned.mul_(sin))
        slots.write(mixed[:, heads:], i)
        x = slots.attend(i, mixed[:, :heads], attention.scaling)                 # (n, heads, dim)
        hidden = hidden + out(x.flatten(1))
        x = rms_norm(layer.post_attention_layernorm, hidden)
        if gate_up:
            gate, up = gate_up(x).chunk(2, 1)
            hidden = hidden + down(mlp.act_fn(gate) * up)
        else:
            hidden = hidden + mlp(x)
    return rms_norm(decoder.norm, hidden)


def takes(function: Callable, name: str) -> bool:
    """Whether a function has an argument of this name."""
    return name in inspect.signature(function).parameters


def rows_that_fill(device: torch.device, kv_heads: int) -> float:
    """Rows from which FlashAttention 2 takes a tile of 128 queries for the few of one token, unless told to split.

    By its source that is where rows times KV heads reach 0.8 of twice the card's multiprocessors. An H100 with torch
    2.11, which cannot be told, read 2.4 TB/s with 128 rows and that tile, and 2.3 with 64 rows, which it splits itself.
    """
    if device.type != "cuda":
        return math.inf
    return 1.6 * torch.cuda.get_device_properties(device).multi_processor_count / kv_heads


def flash_attention() -> Callable:
    """`varlen_attn`, or where torch's (before 2.13) cannot be told how much of a row is used, the operator below it."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # here, because it takes a second to import

        if takes(varlen_attn, "seqused_k"):
            return varlen_attn
    except ImportError:
        pass

    def attention(query, key, value, starts_q, starts_k, max_q, max_k, *, scale, enable_gqa, seqused_k):
        return torch.ops.aten._flash_attention_forward(
            query, key, value, starts_q, starts_k, max_q, max_k, 0.0, False, False, scale=scale, seqused_k=seqused_k
        )[0]

    return attention


def can_varlen(model) -> bool:
    """Whether `varlen_attn` works here: found out by calling it, as it depends on card, type, head size and torch."""
    if model.device.type != "cuda":
        return False
    if why := refused(model, flash_attention()):
        note(
            f"decoding with a masked attention and without CUDA graphs, which is slower: torch {torch.__version__} has "
            f"no varlen attention for this card and {str(model.dtype)[6:]} ({why})"
        )
    return not why


def can_split(model, flash: Callable) -> bool:
    """Whether it can be told to split a row's keys, found out in the same way: no card has run that yet."""
    if not takes(flash, "num_splits"):
        return False
    if why := refused(model, flash, num_splits=2):
        note(f"attention over many rows is not split, which may be slower ({why})")
    return not why


@torch.no_grad()
def refused(model, flash: Callable, **more) -> str:
    """Calls it as `SlotCache.attend` does, for one row of one token; returns why it fails, or nothing."""
    c, device = model.config, model.device
    one = torch.tensor([0, 1], dtype=torch.int32, device=device)
    query = torch.zeros(1, c.num_attention_heads, head_dim(c), dtype=model.dtype, device=device)
    key = query[:, : c.num_key_value_heads].contiguous()
    try:
        flash(query, key, key, one, one, 1, 1, scale=None, enable_gqa=True, seqused_k=one[1:], **more)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error):
            raise
        return first_line(error)
    return ""


class Prefill:
    """Keys and values of all but the last token of each prompt, made for many prompts at a time.

    Requests come prompt by prompt, so only the prompts that are being read are kept.
    """

    def __init__(self, model, prompts: Sequence[list[int]], tokens: int = 4096):
        self.model, self.prompts, self.tokens = model, prompts, tokens
        self.first, self.kept = 0, []                                            # of the prompts that are kept

    def __getitem__(self, i: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A layer each: keys and values of prompt i, (KV heads, tokens, dim); no layers for a prompt of one token."""
        if not self.first <= i < self.first + len(self.kept):
            longest = max(len(p) for p in self.prompts[i : i + 64])
            self.first, self.kept = i, []  # before the next ones are made
            self.kept = self.run(self.prompts[i : i + min(64, max(1, self.tokens // longest))])
        return self.kept[i - self.first]

    def run(self, prompts: Sequence[list[int]]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """The same for several prompts, padded on the right."""
        lengths, made = [len(p) - 1 for p in prompts], [[] for _ in prompts]
        # On a CPU only those of like length go together where padding to the longest would add more than a quarter.
        # On CUDA fewer, larger forwards are faster.
        padded = max(lengths) * len(lengths) > 1.25 * sum(lengths) and self.model.device.type == "cpu"
        for batch in micro_batches(lengths, 512) if padded else [range(len(lengths))]:
            for i, layers in zip(batch, self.forward([prompts[i][:-1] for i in batch])):
                made[i] = layers
        return made

    def forward(self, prompts: list[list[int]]) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
        """A prompt each, a layer each: keys and values, (KV heads, width, dim)."""
        from transformers import DynamicCache

        width = max(map(len, prompts))
        if width == 0:
            return iter(())
        ids = torch.tensor([p + [0] * (width - len(p)) for p in prompts], device=self.model.device)
        cache, decoder = DynamicCache(config=self.model.config), self.model.get_decoder()
        # Padding stands behind the prompt, where causal attention never looks: no mask is needed.
        decoder(input_ids=ids, use_cache=True, **{cache_argument(decoder): cache})
        return zip(*(zip(layer.keys, layer.values) for layer in cache.layers))
