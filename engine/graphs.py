"""A decode step as a CUDA graph: captured once, compared with the step itself, then replayed."""

import contextlib
from collections.abc import Callable, Sequence

import torch

from engine.files import first_line, note
from engine.memory import out_of_memory


def graphed(
    step: Callable[[int], None], rows: int, device: torch.device, state: Sequence[torch.Tensor]
) -> Callable[[int], None]:
    """Returns `step` for CUDA as one graph for each of a few row counts: a step then costs one launch, not hundreds.

    `step(n)` may touch only tensors that stay where they are, and has to leave the rows behind the live ones as they
    are. The first time that a row count comes up, the step is run, captured, taken back and replayed. Where the replay
    does not give what the step gave, as where a library computes on a stream of its own, there are no more graphs.
    On a CPU the same padded row counts are run without a graph: that is what the tests see.

    Args:
        state: What a step both reads and changes, so that it can be taken back; all of it is compared.
    """
    sizes = sorted({1, 2, 4, *range(8, 64, 8), *range(64, rows, 32), rows})
    graphs, pool, possible = {}, None, device.type == "cuda"

    def restore(saved: list[torch.Tensor]) -> None:
        for tensor, old in zip(state, saved):
            tensor.copy_(old)

    def run(n: int) -> None:
        nonlocal pool, possible
        size = next(s for s in sizes if s >= n)
        if size in graphs:
            return graphs[size].replay()
        before = [tensor.clone() for tensor in state if possible]
        step(size)
        if not possible:
            return
        pool = pool or torch.cuda.graph_pool_handle()
        why, graph = captured(step, size, pool, device)
        if not why:
            after = [tensor.clone() for tensor in state]
            restore(before)
            graph.replay()
            # The kernels are the same, so the bits should be. A logit of 16 in bfloat16 is exact to 0.06.
            if all(torch.allclose(a, b, rtol=0, atol=0.1, equal_nan=True) for a, b in zip(state, after)):
                graphs[size] = graph
                return
            why = f"replayed, a step of {size} rows gave other tokens or log-probs"
        possible = False
        note(f"decoding without CUDA graphs ({why})")
        restore(before)
        step(size)

    return run


def captured(step: Callable[[int], None], size: int, pool: tuple[int, int], device: torch.device):
    """("", graph) of a step, or (why there is none, None) where it does what a graph cannot hold: slower, not wrong.

    Raises:
        Exception: What the step raised, where that is something else, such as memory that ran out.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph, pool=pool):
            step(size)
        return "", graph
    except RuntimeError as error:
        error = error.__context__ or error  # ending a broken capture raises once more
        if out_of_memory(error) or not isinstance(error, RuntimeError):
            raise error from None
        return first_line(error), None
    finally:
        torch.cuda.set_stream(stream)  # torch leaves a capture that failed on the stream of the capture
        release(graph, pool, device)


def release(graph: torch.cuda.CUDAGraph, pool: tuple[int, int], device: torch.device) -> None:
    """Lets go of the memory of a capture that could not be ended; a graph that was captured does so when it goes."""
    try:
        graph.pool()
    except RuntimeError:  # as torch has it, nothing was captured
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):  # what ending it would have called
            with contextlib.suppress(AttributeError, RuntimeError):  # another torch has no such name, or it was done
                getattr(torch._C, name)(device.index or 0, pool)
