"""Replays the training step of a stack as a CUDA graph: one launch and five small ones in place of a hundred and more.

A graph repeats the same kernels on the same memory. So a step's rows and its share of the lr lie in tensors that are
filled before each replay, and its losses in tensors that are read after it. A stack whose steps differ in more says so
(`StackTraining.capturable`) and is trained plainly.

A graph is tried before it is used: one step is done plainly and by the graph, from the same state. If capturing raises,
or any bit differs, training goes on from what the plain step left, and a note says why. So a fault of the graph costs
time, and changes no result.

torch gives cached memory back before a capture, so the graph's own memory takes the place of the plain step's. Only the
trial needs more: two copies of the state.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, cuda

from study.text import console
from study.training import devices
from study.training.leaves import keep_in_place
from study.training.stack import StackTraining

PLAIN_STEPS = 3
"""First steps, in which torch's libraries set up what a capture may not."""

TIMES_THE_MEMORY = 3
"""A graph is tried where the device has so many times the most memory that plain steps took: room for two copies of
the state, and for what a failed capture may keep."""

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

NO_MEMORY = "there is no memory to try it with so large a stack"

_refused = ""
"""Why no graph is tried in this process any more: torch's allocator need not recover from a failed capture."""

_notes: dict[str, bool] = {}
"""Notes of this process for the user, and whether `unsaid` has returned them."""


def unsaid() -> tuple[str, ...]:
    """Return the notes for the user that it has not returned before in this process."""
    found = tuple(note for note, said in _notes.items() if not said)
    _notes.update(dict.fromkeys(found, True))
    return found


class StepGraph:
    """Trains the steps of a stack, all but the first ones by a graph.

    Args:
        stack: At its first step, or at that of its checkpoint.
    """

    def __init__(self, stack: StackTraining) -> None:
        self.stack, self.plain_steps = stack, 0
        self.graph: Any = None
        self.share_R = torch.zeros_like(stack.method.peak_lr_R)
        self.rows_GB = torch.zeros(0)
        self.losses = (self.share_R, self.share_R)
        self.done: list[Any] = []

    @staticmethod
    def suits(stack: StackTraining) -> bool:
        """Return whether the steps of a stack can be replayed."""
        return devices.takes_graphs(stack.device) and stack.capturable and not _refused

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Train inside the block: on a stream of its own, as a capture needs."""
        outer, own = cuda.current_stream(self.stack.device), _own_stream(self.stack.device)
        self.done = [cuda.Event(), cuda.Event()]
        own.wait_stream(outer)
        cuda.reset_peak_memory_stats(self.stack.device)
        try:
            with cuda.stream(own):
                yield
        finally:
            self._drop()
            outer.wait_stream(own)
            cuda.empty_cache()  # memory that one stream has cached is of no use to another

    def step(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        """Train one step, as `StackTraining.step` does. The next call may overwrite what this one returned."""
        if self.graph:
            return self._replay(step, rows_GB)
        self.plain_steps += 1
        if self.plain_steps != PLAIN_STEPS + 1:
            return self.stack.step(step, rows_GB)
        if not _has_room(self.stack.device):
            _note(NO_MEMORY)
            return self.stack.step(step, rows_GB)
        return self._try(step, rows_GB)

    def _try(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        """Train a step plainly, and once more by a new graph. The plain step's result stays."""
        try:
            before = _copies(self.stack.state())
        except torch.OutOfMemoryError:
            _note(NO_MEMORY)
            return self.stack.step(step, rows_GB)
        losses = self.stack.step(step, rows_GB)
        after: dict[str, Tensor] = {}
        try:
            after = _copies(self.stack.state() | dict(zip(("losses", "constants"), losses, strict=True)))
            self._restore(before)
            self._capture(rows_GB)
            replayed = dict(zip(("losses", "constants"), self._replay(step, rows_GB), strict=True))
            different = [name for name, x in (self.stack.state() | replayed).items() if not _same_bits(x, after[name])]
            why = f"it changed {different[0]} in another way than the step does" if different else ""
        except Exception as error:
            why = console.kind_and_line(error.__context__ or error)  # the end of a failed capture raises too
        if why:
            self._drop()
            self._restore(after)
            if after:
                _refuse(why)
            else:  # nothing was captured
                _note(NO_MEMORY)
        del before, after
        cuda.empty_cache()
        return losses

    def _capture(self, rows_GB: Tensor) -> None:
        """Capture a step: not of these rows, and not of this lr, since the trial shall show what was read too early."""
        self.rows_GB = torch.zeros_like(rows_GB)
        self.stack.method.lr_share_R = self.share_R
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=cuda.current_stream(self.stack.device)):
            self.losses = self._step_in_place(0)
        self.graph = graph

    def _step_in_place(self, step: int) -> tuple[Tensor, Tensor]:
        """A step after which each state of the method is the tensor that it was."""
        states = self.stack.states.values()
        kept = [dict(state) for state in states]
        try:
            losses = self.stack.step(step, self.rows_GB)
            for own, state in zip(kept, states, strict=True):
                keep_in_place(own, state)
        finally:
            for own, state in zip(kept, states, strict=True):
                state.update(own)
        return losses

    def _replay(self, step: int, rows_GB: Tensor) -> tuple[Tensor, Tensor]:
        done = self.done[step % 2]
        done.synchronize()  # at most two steps wait on the device: a stop or a checkpoint waits for no more
        self.rows_GB.copy_(rows_GB)
        self.share_R.fill_(self.stack.method.lr_share(step))
        self.graph.replay()
        done.record()
        return self.losses

    def _restore(self, copies: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.stack.state().items():
                if name in copies:
                    tensor.copy_(copies[name])

    def _drop(self) -> None:
        self.graph, self.losses = None, (self.share_R, self.share_R)
        self.stack.method.lr_share_R = None


def _refuse(why: str) -> None:
    global _refused
    _refused = why
    _note(why)


def _note(why: str) -> None:
    note = f"steps are not replayed by a CUDA graph ({why}); results are the same, and steps may be slower"
    _notes.setdefault(note, False)


@functools.cache
def _own_stream(device: torch.device) -> Any:
    return cuda.Stream(device)


def _has_room(device: torch.device) -> bool:
    free, _ = cuda.mem_get_info(device)
    return free + cuda.memory_reserved(device) >= TIMES_THE_MEMORY * cuda.max_memory_allocated(device)


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _same_bits(one: Tensor, other: Tensor) -> bool:
    kind = BITS[one.element_size()]
    return torch.equal(one.detach().view(kind), other.view(kind))
