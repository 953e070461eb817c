"""A card's rules on a CPU: CUDA graphs that record and replay, and an attention as strict as the card's kernel.

    with recorder() as found:
        rollouts = Sampler(model, tokenizer, Options(rows=9), decode="graph").sample(prompts, 4, cap=30)
    assert found.captures and found.replays

A graph on a card is a list of kernels with the addresses that they read and write; nothing else of the step's Python
is kept. So is one here: capturing notes the tensor operations and undoes what they wrote, a replay runs them again on
the same storages. What a card cannot capture is refused with a card's words: reading a value on the host, a size that
depends on values, and a tensor made of Python numbers, which on a card would be copied from the host.
"""
import contextlib
import dataclasses
from unittest import mock

import torch
import torch.nn.attention.varlen
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNC = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique", "lift_fresh",
        "rand", "bernoulli", "multinomial", "normal", "exponential")  # fmt: skip


@dataclasses.dataclass
class Found:
    """What happened under `recorder`."""

    captures: int = 0
    """Graphs that were captured to the end."""
    replays: int = 0
    open: int = 0
    """Captures that were begun, and that nobody has told the allocator to be over."""
    pools: int = 0
    """How often the memory of graphs is held: it can be used again at 0."""
    operations: list[list[str]] = dataclasses.field(default_factory=list)
    """Names of the operations of each captured graph, views left out: about the kernels that a replay launches."""
    stream: str = "default"
    """The current stream: after a capture that failed, torch leaves its own."""


def storage_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Capture(TorchDispatchMode):
    """Notes every operation that makes or changes a tensor, as (operation, arguments, result, whether in place)."""

    def __init__(self):
        super().__init__()
        self.tape, self.made, self.before = [], set(), {}
        self.views = []                                                          # kept: an address is used once

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._opname
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        by_mask = "index" in name and any(t.dtype == torch.bool for t in tree_leaves(args[1:2]) if t is not None)
        if by_mask or any(name.strip("_").startswith(word.strip("_")) for word in SYNC):
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing (aten::{name})")
        written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        for i, argument in enumerate(func._schema.arguments):
            tensor = args[i] if i < len(args) else kwargs.get(argument.name)
            if argument.name in written and isinstance(tensor, torch.Tensor) and storage_of(tensor) not in self.made:
                storage = tensor.untyped_storage()
                self.before.setdefault(storage_of(tensor), (storage, storage.clone()))
        try:
            out = func(*args, **kwargs)
        except IndexError:  # a capture computes nothing; this one does, on rows that may stand one token behind the end
            indices = [None if i is None else torch.zeros_like(i) for i in args[1]]
            out = func(args[0], indices, *args[2:], **kwargs)
        results = [o for o in tree_leaves(out) if isinstance(o, torch.Tensor)]
        new = {storage_of(o) for o in results} - {storage_of(t) for t in tensors}
        self.made |= new
        if name.startswith("empty"):
            self.views.append(out)  # its content is nothing yet, and an operation may have given it another size
        elif new or written:
            self.tape.append((func, args, kwargs, results, bool(written)))
        else:
            self.views.append(out)
        return out

    def undo(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)


def strict_varlen(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
    scale=None, enable_gqa=False, seqused_k=None, num_splits=None,
):  # fmt: skip
    """`varlen_attn` for one query a row, with the checks of its CUDA kernel; what it cannot check is NaN.

    query (rows, heads, dim), key and value (rows or more * max_k, KV heads, dim) -> (rows, heads, dim)
    """
    rows, heads, dim = query.shape
    kv_heads = key.shape[1]
    assert query.dtype in (torch.float16, torch.bfloat16) and key.dtype == value.dtype == query.dtype
    assert dim % 8 == 0 and dim <= 256 and key.shape == value.shape and heads % kv_heads == 0
    assert max_q == 1 and (enable_gqa or heads == kv_heads) and not torch.is_grad_enabled()
    for x in (query, key, value):  # 16 bytes are loaded at a time
        assert x.stride(-1) == 1 and x.storage_offset() % 8 == 0 and all(s % 8 == 0 for s in x.stride()[:-1])
    for x, n in ((cu_seq_q, rows + 1), (cu_seq_k, rows + 1), (seqused_k, rows)):
        assert x.dtype == torch.int32 and x.shape == (n,) and x.is_contiguous()
    k, v = (x.unflatten(0, (-1, max_k))[:rows].float() for x in (key, value))    # (rows, max_k, KV heads, dim)
    unused = torch.arange(max_k) >= seqused_k[:, None]                           # (rows, max_k)
    q = query.float().unflatten(1, (kv_heads, -1))                               # (rows, KV heads, heads each, dim)
    scores = torch.einsum("bhgd,bnhd->bhgn", q, k) * (dim**-0.5 if scale is None else scale)
    weight = scores.masked_fill(unused[:, None, None], -torch.inf).softmax(-1)
    out = torch.einsum("bhgn,bnhd->bhgd", weight, v.masked_fill(unused[:, :, None, None], 0)).flatten(1, 2)
    index = torch.arange(rows + 1, dtype=torch.int32)
    wrong = (cu_seq_q != index).any() | (cu_seq_k != index * max_k).any() | (seqused_k > max_k).any()
    return out.masked_fill(wrong, torch.nan).to(query.dtype)


@contextlib.contextmanager
def recorder(varlen: bool = True):
    """Inside, models on the CPU are decoded as on a card, with `decode="graph"` or, under `varlen`, "auto".

    Args:
        varlen: With `strict_varlen` for attention, which wants a 16-bit model; else the masked attention is captured.

    Yields:
        `Found`, which counts.
    """
    import sample
    from engine import draw, graphs, rows

    found = Found()

    class Graph:
        tape = None

        def __del__(self):
            found.pools -= self.tape is not None

        def pool(self):
            if self.tape is None:
                raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")

        def replay(self):
            found.replays += 1
            for func, args, kwargs, results, in_place in self.tape:
                again = tree_leaves(func(*args, **kwargs))
                for old, new in zip([] if in_place else results, again):
                    old.copy_(new)

    @contextlib.contextmanager
    def graph(graph: Graph, pool=None):
        before, found.stream = found.stream, "capture"
        found.open, found.pools, capture = found.open + 1, found.pools + 1, Capture()
        try:
            with capture:
                yield
        finally:
            capture.undo()
        graph.tape, graph.kept = capture.tape, capture.views
        found.captures, found.stream = found.captures + 1, before                # not reached where the capture failed
        found.open -= 1
        found.operations.append([func._opname for func, *_ in capture.tape])

    def on_card(step, size, device, state):
        return graphs.graphed(step, size, torch.device("cuda"), state)

    def less(name):
        return lambda device, pool: setattr(found, name, getattr(found, name) - 1)

    with contextlib.ExitStack() as stack:

        def patch(where, name, new):
            stack.enter_context(mock.patch.object(where, name, new, create=where is torch._C))

        patch(torch.cuda, "CUDAGraph", Graph)
        patch(torch.cuda, "graph", graph)
        patch(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        patch(torch.cuda, "current_stream", lambda device=None: found.stream)
        patch(torch.cuda, "set_stream", lambda stream: setattr(found, "stream", stream))
        patch(torch._C, "_cuda_endAllocateToPool", less("open"))
        patch(torch._C, "_cuda_releasePool", less("pools"))
        patch(sample, "graphed", on_card)
        patch(draw, "on_cuda", lambda tensor: True)
        patch(rows, "can_varlen", lambda model: varlen)
        patch(torch.nn.attention.varlen, "varlen_attn", strict_varlen)
        yield found
