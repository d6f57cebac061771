"""Steps by a graph: the bits of plain steps, with recorded operations on a CPU in the place of a card's graph."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_settings import OPTIONS, Setting, all_pairs, every
from fake_device import DEVICE, computing_nothing, four_runs, try_on_cpu
from own_files import network, own_folder, write  # noqa: F401 - a fixture
from recorded_graph import RecordedCuda, RecordedGraph, RecordedStream, storage_of, tensors_of
from stacks import EARLY, LOG, RECIPE, make_run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from study import methods
from study.config import Run
from study.data._dataset import Log
from study.training import devices, fused_mlp, leaves, matmul, step_graph
from study.training.stack import StackTraining
from study.training.step_graph import PLAIN_STEPS, StepGraph
from study.training.trainer import Trained, train

STEPS = 12

CAPTURED = [row for row in every() if not row.method.startswith("rollback") and not row.model.startswith("own_models.")]


def settings(*often_on: str) -> list[Any]:
    """Each method on each network, the full product; slow but for any two settings on a few networks."""
    often = [row for row in all_pairs() if row.model in often_on]
    return [pytest.param(row, id="-".join(row), marks=[] if row in often else pytest.mark.slow) for row in CAPTURED]


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> RecordedCuda:
    """The path of a GPU on a CPU, with graphs of recorded operations."""
    monkeypatch.setattr(devices, "wants_few_operations", lambda _device: True)
    monkeypatch.setattr(devices, "takes_graphs", lambda _device: True)
    monkeypatch.setattr(fused_mlp, "takes", lambda *_given: False)
    # oneDNN's setting is no operation, so a recording would not repeat it.
    monkeypatch.setattr(matmul, "onednn_is_exact", lambda: False)
    monkeypatch.setattr(step_graph, "_refused", "")
    monkeypatch.setattr(step_graph, "_notes", {})
    step_graph._own_stream.cache_clear()
    card = RecordedCuda()
    monkeypatch.setattr(step_graph, "cuda", card)
    return card


CLIPPY = Setting("clippy", "small", "adagrad", "float32")


def four(setting: Setting = CLIPPY) -> list[Run]:
    """Two lrs of two seeds; their lr rises for eight steps."""
    method, model, embeddings, precision = setting
    recipe = dataclasses.replace(RECIPE, steps=STEPS, warmup=8, embeddings=embeddings, precision=precision)
    run = make_run(method=method, model=model, recipe=recipe, options=EARLY.get(method, {}))
    return [dataclasses.replace(run, seed=seed, lr=lr) for seed in (3, 5) for lr in (0.1, 0.6)]


def stack_of(runs: list[Run], log: Log = LOG) -> StackTraining:
    return StackTraining(runs, log, torch.device("cpu"))


def run_steps(stack: StackTraining, graph: StepGraph | None, first: int = 0, stop: int = STEPS) -> None:
    with graph.running() if graph else contextlib.nullcontext():
        for step, rows_GB in zip(range(first, stop), stack.batches(first), strict=False):
            losses = graph.step(step, rows_GB) if graph else stack.step(step, rows_GB)
            stack.loss_RST[:, step], stack.constant_GST[:, step] = losses


def assert_same_bits(found: StackTraining, expected: StackTraining) -> None:
    own = found.state()
    assert [name for name, x in expected.state().items() if not torch.equal(x, own[name])] == []


def assert_same_results(found: Trained, expected: Trained) -> None:
    for name in ("loss", "constant", "finite", "moved"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name, values in expected.judged.items():
        np.testing.assert_array_equal(found.judged[name], values, err_msg=name)


# --- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", settings("small", "small_mmoe"))
def test_replayed_steps_have_the_bits_of_plain_ones(setting: Setting, card: RecordedCuda) -> None:
    expected, found = stack_of(four(setting)), stack_of(four(setting))
    graph = StepGraph(found)
    run_steps(expected, None)
    run_steps(found, graph)
    assert step_graph.unsaid() == ()
    assert [one.replays for one in card.graphs] == [STEPS - PLAIN_STEPS]
    assert_same_bits(found, expected)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clippy", {"base": "adamw", "weight_decay": 0.01}),
        ("clippy", {"base": "rmsprop", "momentum": 0.9}),
        ("agc", {"per": "unit"}),
        ("adagc", {"warmup_steps": 4, "base": "sgd", "momentum": 0.9}),
    ],
)
@pytest.mark.parametrize("small", [leaves.SMALL, 100])
def test_states_that_a_method_replaces_are_kept_in_place(
    method: str, options: dict[str, Any], small: int, card: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaves, "SMALL", small)
    runs = [dataclasses.replace(run, method=method, options=options) for run in four()]
    expected, found = stack_of(runs), stack_of(runs)
    run_steps(expected, None)
    run_steps(found, StepGraph(found))
    assert card.graphs
    assert_same_bits(found, expected)


def test_a_stack_continues_from_its_checkpoint(card: RecordedCuda) -> None:
    runs = four(Setting("adagc", "small", "method", "float32"))
    expected, first, then = stack_of(runs), stack_of(runs), stack_of(runs)
    run_steps(expected, None)
    run_steps(first, StepGraph(first), stop=6)
    then.load_state({name: array.copy() for name, array in first.state_arrays()})
    run_steps(then, StepGraph(then), first=6)
    assert [one.replays for one in card.graphs] == [6 - PLAIN_STEPS] * 2
    assert_same_bits(then, expected)


def test_the_trainer_trains_by_a_graph_unless_told_otherwise(card: RecordedCuda) -> None:
    plain = train(four(), LOG, cuda_graphs=False)
    assert not card.graphs
    steps: list[int] = []
    found = train(four(), LOG, on_step=steps.append)
    assert [one.replays for one in card.graphs] == [STEPS - PLAIN_STEPS]
    assert steps == list(range(STEPS))
    assert_same_results(found, plain)
    assert found.notes == ()


def test_runs_that_are_not_finite_are_replayed_too(card: RecordedCuda) -> None:
    runs = four()
    wild = {"rel": 1e9, "weight_decay": 1e20}
    runs = [*runs[:3], dataclasses.replace(runs[3], lr=1e4, options=wild)]
    expected, found = stack_of(runs), stack_of(runs)
    graph = StepGraph(found)
    run_steps(expected, None)
    run_steps(found, graph)
    assert step_graph.unsaid() == ()
    assert found.loss_RST[:, PLAIN_STEPS].isfinite().all(1).tolist() == [True, True, True, False]
    for name, x in expected.state().items():
        assert step_graph._same_bits(x, found.state()[name])


def test_bits_are_compared_and_not_numbers() -> None:
    zero, nan = torch.zeros(2), torch.full((2,), torch.nan)
    assert step_graph._same_bits(nan, nan.clone())
    assert not step_graph._same_bits(zero, -zero)
    for x in (torch.tensor([True, False]), torch.tensor(3), torch.ones(4, 3, dtype=torch.float64)[:, 1]):
        assert step_graph._same_bits(x, x.clone())
        assert not step_graph._same_bits(x, torch.zeros_like(x))


def test_at_most_two_steps_wait_on_the_device(card: RecordedCuda) -> None:
    stack = stack_of(four())
    graph = StepGraph(stack)
    run_steps(stack, graph)
    calls = [event.calls for event in graph.done]
    assert sorted(map(len, calls)) == [8, 10]
    assert all(one == ["wait", "record"] * (len(one) // 2) for one in calls)


def test_a_stop_leaves_the_graph(card: RecordedCuda) -> None:
    stack = stack_of(four())
    graph = StepGraph(stack)

    def stopped() -> None:
        with graph.running():
            for step, rows_GB in enumerate(stack.batches()):
                assert card.streams[-1].waited_for == [card.streams[0]]
                graph.step(step, rows_GB)
                if step == 5:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert card.graphs
    assert graph.graph is stack.method.lr_share_R is None
    (outer,) = card.streams
    assert outer.waited_for == [step_graph._own_stream(stack.device)]


# --- equal operations, on a device without numbers ----------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Writes down each operation: its name, its numbers, and where each of its tensors is from."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, ...]] = []
        self.made: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self.told(x) for x in tree_leaves((args, kwargs or {}))]
        found = func(*args, **(kwargs or {}))
        for x in tensors_of(found):
            if ("outside", storage_of(x)) not in [place for place, *_ in given]:
                self.made.setdefault(storage_of(x), (len(self.lines), x))
        self.lines.append((func.__name__, *given))
        return found

    def told(self, x: Any) -> tuple[Any, ...]:
        if not isinstance(x, torch.Tensor):
            return (repr(x),)
        place = ("made", self.made[storage_of(x)][0]) if storage_of(x) in self.made else ("outside", storage_of(x))
        return place, x.dtype, x.device, tuple(x.shape), x.stride()


def operations_of_two_steps(setting: Setting, *, shares_lie_still: bool = True) -> list[list[tuple[Any, ...]]]:
    runs = four_runs(*setting, options=OPTIONS.get(setting.method, {}))
    runs = [dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, steps=8, warmup=8)) for run in runs]
    try_on_cpu(runs, LOG)
    found = []
    with computing_nothing():
        stack = StackTraining(runs, LOG, DEVICE)
        graph = StepGraph(stack)
        for step, rows_GB in zip(range(6), stack.batches(), strict=False):
            graph.rows_GB = rows_GB if step == 0 else graph.rows_GB
            if shares_lie_still:
                stack.method.lr_share_R = graph.share_R
            with Operations() if step >= 4 else contextlib.nullcontext() as operations:
                graph._step_in_place(step)
            if operations:
                found.append(operations.lines)
    return found


@pytest.mark.parametrize("setting", settings("small"))
def test_two_steps_start_equal_operations_on_the_same_tensors(setting: Setting) -> None:
    one, other = operations_of_two_steps(setting)
    assert len(one) > 100
    assert one == other
    assert all(told[2] == DEVICE for line in one for told in line[1:] if len(told) == 5), "of the host"


def test_steps_that_differ_are_seen() -> None:
    one, other = operations_of_two_steps(Setting("none", "small", "adagrad", "float32"), shares_lie_still=False)
    assert one != other, "the lr of the two steps differs"
    one, other = operations_of_two_steps(Setting("rollback", "small", "adagrad", "float32"))
    assert one != other, "only one of the two looks back"


# --- what is not replayed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in methods.names() if name.startswith("rollback")])
def test_methods_that_roll_back_are_trained_plainly(method: str, card: RecordedCuda) -> None:
    assert not StepGraph.suits(stack_of(four(Setting(method, "small", "adagrad", "float32"))))


def test_what_differs_from_step_to_step_is_trained_plainly(card: RecordedCuda) -> None:
    assert StepGraph.suits(stack_of(four()))
    labels = LOG.labels.copy()
    labels[::3] = np.nan
    assert not StepGraph.suits(stack_of(four(), dataclasses.replace(LOG, labels=labels)))
    watched: list[int] = []
    train(four(), LOG, on_update=lambda view: watched.append(view.step))
    assert watched == list(range(STEPS))
    assert not card.graphs


COUNTS_ITS_CALLS = "self.calls = self.calls + 1; y = self.b(self.a(x)); return 2 * y if self.calls > 8 else y"


def test_users_own_models_may_change_with_each_call(card: RecordedCuda, own_folder: Path) -> None:  # noqa: F811
    counting = write(own_folder, network(init="self.calls = 0", forward=COUNTS_ITS_CALLS))
    for model in ("own_models.batch_norm", "own_models.dropout", counting):
        setting = Setting("none", model, "adagrad", "float32")
        assert_same_results(train(four(setting), LOG), train(four(setting), LOG, cuda_graphs=False))
    assert not card.graphs


OWN_METHOD = """
from study.transforms import chain, scale

def build(lr, *, base):
    return chain(base(), scale(lr))
"""


def test_users_own_methods_are_trained_plainly(card: RecordedCuda, own_folder: Path) -> None:  # noqa: F811
    """Their links may change with each call too."""
    train(four(Setting(write(own_folder, OWN_METHOD), "small", "adagrad", "float32")), LOG)
    assert not card.graphs


def test_no_device_but_cuda_takes_graphs() -> None:
    assert devices.takes_graphs(torch.device("cuda:1"))
    assert not StepGraph.suits(stack_of(four()))


# --- faults --------------------------------------------------------------------------------------------------------


class RefusedCuda(RecordedCuda):
    """Its captures fail, after the step has run and changed everything."""

    @contextlib.contextmanager
    def graph(self, graph: RecordedGraph, stream: RecordedStream) -> Iterator[None]:
        self.graphs.append(graph)
        yield
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nat kernel 7")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 - as torch does


class FullCuda(RecordedCuda):
    """It has no memory left for a graph."""

    @contextlib.contextmanager
    def graph(self, graph: RecordedGraph, stream: RecordedStream) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield


def assert_refused(card: RecordedCuda, setting: Setting, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack has the bits of plain steps and says once why it has no graph."""
    plain = train(four(setting), LOG, cuda_graphs=False)
    monkeypatch.setattr(step_graph, "cuda", card)
    found = train(four(setting), LOG)
    assert_same_results(found, plain)
    assert found.notes == (
        f"steps are not replayed by a CUDA graph ({why}); results are the same, and steps may be slower",
    )
    tries = len(card.graphs)
    again = train(four(setting), LOG)
    assert_same_results(again, plain)
    assert again.notes == ()
    assert len(card.graphs) == tries


@pytest.mark.parametrize("small", [leaves.SMALL, 100])
def test_a_capture_that_raises_costs_no_bit(card: RecordedCuda, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "SMALL", small)
    why = "RuntimeError: operation not permitted when stream is capturing"
    assert_refused(RefusedCuda(), Setting("adagc", "small", "method", "float32"), why, monkeypatch)


def test_a_capture_without_memory_costs_no_bit(card: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "OutOfMemoryError: CUDA out of memory"
    assert_refused(FullCuda(), Setting("none", "small", "adagrad", "float64"), why, monkeypatch)


def test_without_room_a_stack_has_no_graph_and_the_next_one_has(
    card: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    card.free = 1
    why = "there is no memory to try it with so large a stack"
    assert_refused(card, Setting("none", "small", "adagrad", "float32"), why, monkeypatch)
    assert not card.graphs
    card.free = 10
    assert train(four(), LOG).notes == ()
    assert card.graphs


@pytest.mark.parametrize("copies_before", [0, 1])
def test_copies_without_memory_cost_no_bit(
    copies_before: int, card: RecordedCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(four(), LOG, cuda_graphs=False)
    copies, made = step_graph._copies, []

    def out_of_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if len(made) == copies_before:
            raise torch.OutOfMemoryError("CUDA out of memory")
        made.append(1)
        return copies(tensors)

    monkeypatch.setattr(step_graph, "_copies", out_of_memory)
    assert_same_results(train(four(), LOG), plain)
    assert not card.graphs
    monkeypatch.setattr(step_graph, "_copies", copies)
    assert_same_results(train(four(), LOG), plain)
    assert card.graphs


def test_a_note_waits_for_a_stack_that_ends_well(card: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graph, "cuda", RefusedCuda())

    def broken(step: int) -> None:
        if step == PLAIN_STEPS + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(four(), LOG, on_step=broken)
    assert len(train(four(), LOG).notes) == 1
    assert train(four(), LOG).notes == ()


STATES = ("parameter/bottom.0.weight", "tables/weight", "tables/accumulator", "method/heads.weights.0/accumulator")


@pytest.mark.parametrize("name", [*STATES, "losses", "constants"])
def test_a_graph_that_harms_a_bit_is_not_used(name: str, card: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, found = stack_of(four()), stack_of(four())
    graph = StepGraph(found)
    replay = RecordedGraph.replay

    def harming(self: RecordedGraph) -> None:
        replay(self)
        results = dict(zip(("losses", "constants"), graph.losses, strict=True))
        bits = (found.state() | results)[name].detach().view(torch.int32)
        bits[(0,) * bits.dim()] ^= 1

    monkeypatch.setattr(RecordedGraph, "replay", harming)
    run_steps(expected, None)
    run_steps(found, graph)
    assert [one.replays for one in card.graphs] == [1]
    assert f"(it changed {name} in another way than the step does)" in "".join(step_graph.unsaid())
    assert_same_bits(found, expected)


def test_what_is_read_while_a_step_is_captured_is_noticed(card: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the lr of one step, which the next would have too."""
    expected, found = stack_of(four()), stack_of(four())
    graph = StepGraph(found)
    lr = found.method.lr
    monkeypatch.setattr(found.method, "lr", lambda step: lr(step).tolist()[0] * torch.ones(4))
    monkeypatch.setattr(expected.method, "lr", lambda step: type(found.method).lr(expected.method, step)[0].expand(4))
    run_steps(expected, None)
    run_steps(found, graph)
    assert "it changed" in "".join(step_graph.unsaid())
    assert_same_bits(found, expected)


def test_a_state_that_is_not_kept_in_place_is_noticed(card: RecordedCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "SMALL", 100)
    monkeypatch.setattr(step_graph, "keep_in_place", lambda _kept, _new: None)
    setting = Setting("adagc", "small", "adagrad", "float32")
    expected, found = stack_of(four(setting)), stack_of(four(setting))
    graph = StepGraph(found)
    run_steps(expected, None)
    run_steps(found, graph)
    assert "norm" in "".join(step_graph.unsaid())
    assert_same_bits(found, expected)
