"""A stand-in for `torch.cuda` on a CPU: its graphs repeat recorded operations on the tensors of the recording.

As on a card, a capture computes nothing: what it changed is put back, and what it made holds no numbers until a replay.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors in nested arguments or results."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def storage_of(tensor: Tensor) -> int:
    """Which memory a tensor is in."""
    return tensor.untyped_storage()._cdata


class Recording(TorchDispatchMode):
    """Records operations below autograd, and what the tensors from outside held before."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.made: dict[int, Tensor] = {}
        self.outside: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for x in tensors_of((args, kwargs)):
            if storage_of(x) not in self.made | self.outside:
                whole = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())
                self.outside[storage_of(x)] = whole, whole.clone()
        found = func(*args, **kwargs)
        for x in tensors_of(found):
            if storage_of(x) not in self.outside:
                self.made.setdefault(storage_of(x), x.detach())
        self.operations.append((func, args, kwargs, found))
        return found

    def undo(self) -> None:
        """Make memory what it is after a capture."""
        for whole, before in self.outside.values():
            whole.copy_(before)
        for x in self.made.values():
            if x.is_floating_point():
                x.fill_(float("nan"))


class RecordedGraph:
    """Operations that can be repeated. replays: how often they were."""

    def __init__(self) -> None:
        self.recording, self.replays = Recording(), 0

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, found in self.recording.operations:
            if func.is_view:
                continue
            for kept, new in zip(tensors_of(found), tensors_of(func(*args, **kwargs)), strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.detach().copy_(new)


class RecordedStream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.waited_for: list[RecordedStream] = []

    def wait_stream(self, other: "RecordedStream") -> None:
        self.waited_for.append(other)


class RecordedEvent:
    """calls: "wait" and "record", in their order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def synchronize(self) -> None:
        self.calls.append("wait")

    def record(self) -> None:
        self.calls.append("record")


class RecordedCuda:
    """What `study.training.step_graph` uses of `torch.cuda`.

    Attributes:
        graphs: All graphs that were made.
        free: Bytes that no process uses; the plain steps took 1.
    """

    CUDAGraph, Stream, Event = RecordedGraph, RecordedStream, RecordedEvent

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []
        self.streams, self.free = [RecordedStream()], 10

    def current_stream(self, _device: torch.device) -> RecordedStream:
        return self.streams[-1]

    @contextlib.contextmanager
    def stream(self, stream: RecordedStream) -> Iterator[None]:
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    @contextlib.contextmanager
    def graph(self, graph: RecordedGraph, stream: RecordedStream) -> Iterator[None]:
        assert stream is not self.streams[0], "torch refuses to capture on the default stream"
        self.graphs.append(graph)
        with graph.recording:
            yield
        with torch.no_grad():
            graph.recording.undo()

    def empty_cache(self) -> None:
        pass

    def reset_peak_memory_stats(self, _device: torch.device) -> None:
        pass

    def mem_get_info(self, _device: torch.device) -> tuple[int, int]:
        return self.free, 100

    def memory_reserved(self, _device: torch.device) -> int:
        return 1

    def max_memory_allocated(self, _device: torch.device) -> int:
        return 1
