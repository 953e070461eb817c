"""What a decode step is made of: a KV cache of slots, attention over it, unrolled layers, CUDA graphs, the drawn token.

rows.py holds the rows and sample.py the loop; this is what makes one step fast. In reading order: `SlotCache` (keys and
values of each row, and two ways to attend to them), `decode_layers` (Qwen2, Qwen3, Llama written out) or `own_forward`
(any other model), `pick_token`, `graphed` (a step as one CUDA graph), `Prefill` (each prompt is run once).
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from engine.files import OptionError, first_line, note
from engine.memory import head_dim, out_of_memory


class SlotCache:
    """KV cache of fixed rows, each with its own length, and the attention over it. Rows 0..n-1 are live.

    `decode_layers` calls `update` and `attend` once a layer. So does a `transformers` decoder of its own: what `update`
    returns goes, unread, to the attention function, which is `slot_attention` below. There are two ways to attend:

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
        shape = (rows, width, self.heads, self.dim) if varlen else (rows, self.heads, width, self.dim)
        stores = [torch.zeros(shape, dtype=model.dtype, device=device) for _ in range(2 * c.num_hidden_layers)]
        stores = [s.transpose(1, 2) if varlen else s for s in stores]            # (rows, KV heads, width, dim) each
        self.keys, self.values = stores[0::2], stores[1::2]
        self.length = torch.zeros(rows, dtype=torch.long, device=device)         # (rows,) tokens in the cache
        self.index = torch.arange(rows, device=device)
        self.mask = torch.full((rows, 1, 1, 1 if varlen else width), -torch.inf, dtype=model.dtype, device=device)
        self.used = torch.zeros(rows, dtype=torch.int32, device=device)          # (rows,) length with the new token
        self.starts = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self.zero = self.mask.new_zeros(())                                      # a Python 0 would come from the host
        self.flash = flash_attention() if varlen else None

    def open(self, n: int) -> None:
        """Makes room for one more token in each of the first `n` rows."""
        length = self.length[:n]
        self.place = (self.index[:n], slice(None), length)                       # where every layer stores it
        if self.varlen:
            self.used[:n] = length + 1
        else:
            self.mask[self.index[:n], 0, 0, length] = self.zero
            self.masks = [(a, b, w, self.mask[a:b, :, :, :w]) for a, b, w in self.bands or [(0, n, self.width)]]

    def update(self, key, value, layer: int, *args, **kwargs):
        """Stores one token a row, (n, KV heads, 1, dim)."""
        self.keys[layer][self.place], self.values[layer][self.place] = key[:, :, 0], value[:, :, 0]
        return self, layer

    def attend(self, layer: int, query: torch.Tensor, scale: float | None) -> torch.Tensor:
        """One query a row over the row's keys: (n, heads, 1, dim) -> (n, 1, heads, dim)."""
        n, heads = query.shape[:2]
        keys, values = self.keys[layer], self.values[layer]
        if self.varlen:
            k, v = (store.transpose(1, 2).flatten(0, 1) for store in (keys, values))  # (rows * width, KV heads, dim)
            starts = self.starts[: n + 1]
            return self.flash(
                query[:, :, 0], k, v, starts, starts * self.width, 1, self.width, scale=scale, enable_gqa=True,
                seqused_k=self.used[:n],
            )[:, None]
        # The heads that share a key head are its queries: nothing is repeated.
        query = query.reshape(n, self.heads, heads // self.heads, self.dim)
        out = [
            F.scaled_dot_product_attention(
                query[a:b], keys[a:b, :, :w], values[a:b, :, :w], attn_mask=mask, scale=scale
            )
            for a, b, w, mask in self.masks
        ]
        return (torch.cat(out) if len(out) > 1 else out[0]).view(n, 1, heads, self.dim)

    def fill(self, row: int, prompt: list[tuple[torch.Tensor, torch.Tensor]], length: int) -> None:
        """Starts a row with a prompt's keys and values, (KV heads, length or more, dim) a layer."""
        for layer, (keys, values) in enumerate(prompt):
            self.keys[layer][row, :, :length] = keys[:, :length]
            self.values[layer][row, :, :length] = values[:, :length]
        self.mask[row, 0, 0, :length], self.mask[row, 0, 0, length:] = 0, -torch.inf
        self.length[row] = length

    def move(self, source: int, row: int, length: int) -> None:
        """Copies one live row over a finished one."""
        for store in (*self.keys, *self.values):
            store[row, :, :length] = store[source, :, :length]
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
    return cache.attend(layer, query, scaling), None


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
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


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


def rope_table(decoder, width: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of RoPE for positions 0..width-1, (width, dim) each; the sines with rotate_half's signs."""
    cos, sin = decoder.rotary_emb(like, torch.arange(width, device=like.device)[None])
    sin[..., : sin.shape[-1] // 2] *= -1
    return cos[0], sin[0]


def decode_layers(decoder, slots: SlotCache, token: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]):
    """One token a row through a Qwen2, Qwen3 or Llama decoder: what its own forward computes, in fewer operations.

    One token is little work, so starting an operation takes as long as running it. Here a norm is one operation and
    query and key turn together. Edit a layer here and rollouts no longer come from the model that is trained.

    Args:
        token: (n,) input ids.
        rope: Of `rope_table`.

    Returns:
        (n, H) states before the head.
    """
    position, split = slots.length[: len(token)], decoder.config.num_attention_heads
    qk_norm = hasattr(decoder.layers[0].self_attn, "q_norm")                     # Qwen3
    cos, sin = (table[position, None] for table in rope)                         # (n, 1, dim)
    hidden = decoder.embed_tokens(token)                                         # (n, H)
    for i, layer in enumerate(decoder.layers):
        attention, x = layer.self_attn, rms_norm(layer.input_layernorm, hidden)
        both = torch.cat([attention.q_proj(x), attention.k_proj(x)], 1)          # query and key turn together
        both = both.view(len(token), -1, slots.dim)                              # (n, heads + KV heads, dim)
        if qk_norm:
            both = [rms_norm(attention.q_norm, both[:, :split]), rms_norm(attention.k_norm, both[:, split:])]
            both = torch.cat(both, 1)
        both = both * cos + both.roll(slots.dim // 2, -1) * sin
        value = attention.v_proj(x).view(len(token), -1, 1, slots.dim)
        slots.update(both[:, split:, None], value, i)
        x = slots.attend(i, both[:, :split, None], attention.scaling)            # (n, 1, heads, dim)
        hidden = hidden + attention.o_proj(x.flatten(1))
        hidden = hidden + layer.mlp(rms_norm(layer.post_attention_layernorm, hidden))
    return rms_norm(decoder.norm, hidden)


def flash_attention() -> Callable:
    """`varlen_attn`, or where torch's (before 2.13) cannot be told how much of a row is used, the operator below it."""
    try:
        from torch.nn.attention.varlen import varlen_attn  # here, because it takes a second to import

        if "seqused_k" in inspect.signature(varlen_attn).parameters:
            return varlen_attn
    except ImportError:
        pass

    def attention(query, key, value, starts_q, starts_k, max_q, max_k, *, scale, enable_gqa, seqused_k):
        return torch.ops.aten._flash_attention_forward(
            query, key, value, starts_q, starts_k, max_q, max_k, 0.0, False, False, scale=scale, seqused_k=seqused_k
        )[0]

    return attention


@torch.no_grad()
def can_varlen(model) -> bool:
    """Whether `varlen_attn` works here: found out by calling it, as it depends on card, type, head size and torch."""
    c, device = model.config, model.device
    if device.type != "cuda":
        return False
    one = torch.tensor([0, 1], dtype=torch.int32, device=device)
    query = torch.zeros(1, c.num_attention_heads, head_dim(c), dtype=model.dtype, device=device)
    key = query[:, : c.num_key_value_heads].contiguous()
    try:
        flash_attention()(query, key, key, one, one, 1, 1, scale=None, enable_gqa=True, seqused_k=one[1:])
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if out_of_memory(error):
            raise
        note(
            f"decoding with a masked attention and without CUDA graphs, which is slower: torch {torch.__version__} has "
            f"no varlen attention for this card and {str(model.dtype)[6:]} ({first_line(error)})"
        )
        return False
    return True


def graphed(step: Callable[[int], None], rows: int, device: torch.device) -> Callable[[int], None]:
    """Returns `step` for CUDA as one graph for each of a few row counts: a step then costs one launch, not hundreds.

    `step(n)` may touch only tensors that stay where they are, and has to leave the rows behind the live ones as they
    are. The first time that a row count comes up, the step is run and then captured, which does not run it again.
    On a CPU the same padded row counts are run without a graph: that is what the tests see.
    """
    sizes = sorted({1, 2, 4, *range(8, 64, 8), *range(64, rows, 32), rows})
    graphs, pool, possible = {}, None, device.type == "cuda"

    def run(n: int) -> None:
        nonlocal pool, possible
        size = next(s for s in sizes if s >= n)
        if size in graphs:
            return graphs[size].replay()
        step(size)
        if possible:
            pool = pool or torch.cuda.graph_pool_handle()
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
            try:
                with torch.cuda.graph(graph, pool=pool):
                    step(size)
                graphs[size] = graph
            except RuntimeError as error:  # a model that does something a graph cannot hold: slower, not wrong
                error = error.__context__ or error  # ending a broken capture raises once more
                if out_of_memory(error) or not isinstance(error, RuntimeError):
                    raise error from None
                possible = False
                note(f"decoding without CUDA graphs ({first_line(error)})")
            finally:
                torch.cuda.set_stream(stream)  # torch leaves a capture that failed on the stream of the capture

    return run


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
    logp = F.log_softmax(logits / temperature, dim=-1)                           # (n, V)
    weight = logp.exp()
    if top_p < 1:
        ordered, order = weight.sort(dim=-1, descending=True)
        # A token is out if what stands before it already reaches top_p.
        ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0)
        weight = torch.zeros_like(weight).scatter(1, order, ordered)
    cdf = weight.cumsum(-1)
    # right=True steps over tokens of weight 0; the clamp guards the last one against rounding.
    token = torch.searchsorted(cdf, u * cdf[:, -1:], right=True).clamp(max=logits.shape[1] - 1)
    return token[:, 0], logp.gather(1, token)[:, 0]


class Prefill:
    """Keys and values of all but the last token of each prompt, made a batch of prompts at a time.

    Requests come prompt by prompt, so only the batch that is being read is kept.
    """

    def __init__(self, model, prompts: Sequence[list[int]], tokens: int = 4096):
        self.model, self.prompts, self.tokens = model, prompts, tokens
        self.first, self.layers = 0, []                                          # of the batch that is kept
        self.size = 0

    def __getitem__(self, i: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A layer each: keys and values of prompt i, (KV heads, tokens, dim); no layers for a prompt of one token."""
        if not self.first <= i < self.first + self.size:
            longest = max(len(p) for p in self.prompts[i : i + 64])
            self.first, self.size = i, min(len(self.prompts) - i, 64, max(1, self.tokens // longest))
            self.layers = []  # before the next batch is made
            self.layers = self.run(self.prompts[i : i + self.size])
        return [(keys[i - self.first], values[i - self.first]) for keys, values in self.layers]

    def run(self, prompts: Sequence[list[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A layer each: keys and values of a batch, (prompts, KV heads, width, dim), padded on the right."""
        from transformers import DynamicCache

        width = max(len(p) for p in prompts) - 1
        if width == 0:
            return []
        ids = torch.tensor([(p[:-1] + [0] * width)[:width] for p in prompts], device=self.model.device)
        cache, decoder = DynamicCache(config=self.model.config), self.model.get_decoder()
        # Padding stands behind the prompt, where causal attention never looks: no mask is needed.
        decoder(input_ids=ids, use_cache=True, **{cache_argument(decoder): cache})
        return [(layer.keys, layer.values) for layer in cache.layers]
