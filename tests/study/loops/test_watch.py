"""`watch`: every loss is durable at once, a run that cannot recover ends, and nothing waits for a device."""

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study.loops import loss_file
from study.loops import watch as watch_module
from study.loops.watch import BLOCK, RunEnded, Watch


def watch_in(folder: Path, *tasks: str, stop_at: int | None = None) -> Watch:
    def check_stop(done: int) -> None:
        if done == stop_at:
            raise InterruptedError("the trial stops")

    return Watch(folder, tasks or ("loss",), lambda step: None, check_stop)


def recorded(folder: Path, *tasks: str) -> loss_file.Losses:
    return loss_file.read(folder / loss_file.NAME, tasks or ("loss",))


def test_floats_tensors_and_arrays_are_recorded_alike(tmp_path: Path) -> None:
    watch = watch_in(tmp_path)
    weight = torch.tensor(2.0, requires_grad=True)
    for loss in (0.5, weight * 2, np.float64(1.25), torch.tensor([3.0]), np.array([[6.0]])):
        watch(loss)
    found = recorded(tmp_path)
    np.testing.assert_array_equal(found.step, range(5))
    np.testing.assert_array_equal(found.loss[:, 0], [0.5, 4.0, 1.25, 3.0, 6.0])
    assert np.isnan(found.baseline).all()


def test_several_tasks_and_their_targets(tmp_path: Path) -> None:
    watch = watch_in(tmp_path, "click", "time")
    watch({"time": 2.0, "click": 0.5}, targets={"click": [0, 1], "time": [1.0, 3.0]})
    found = recorded(tmp_path, "click", "time")
    np.testing.assert_array_equal(found.loss, [[0.5, 2.0]])
    np.testing.assert_allclose(found.baseline, [[math.log(2), 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("tasks", "calls", "words"),
    [
        (("a", "b"), [({"a": 1.0}, {})], "a, b"),
        (("a", "b"), [(1.0, {})], "a, b; got float"),
        (("loss",), [(1.0, {"step": 5}), (1.0, {"step": 5})], "step 5 after step 5"),
        (("loss",), [(1.0, {"step": 5}), (1.0, {"step": 3})], "step 3 after step 5"),
        (("loss",), [(1.0, {"targets": [0, 1]}), (1.0, {})], "targets at every step"),
        (("loss",), [(1.0, {}), (1.0, {"targets": [0, 1]})], "targets at every step"),
    ],
)
def test_wrong_calls_are_refused(tmp_path: Path, tasks: tuple[str, ...], calls: list[Any], words: str) -> None:
    watch, (*before, (loss, options)) = watch_in(tmp_path, *tasks), calls
    for right, its_options in before:
        watch(right, **its_options)
    with pytest.raises(ValueError, match=words):
        watch(loss, **options)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e39, torch.tensor(math.nan)])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path, loss: Any) -> None:
    watch = watch_in(tmp_path)
    watch(1.0)
    for _ in range(2):  # also where the loop catches it and goes on
        with pytest.raises(RunEnded):
            watch(loss)
    found = recorded(tmp_path)
    assert len(found.loss) == 2
    assert not np.isfinite(found.loss[1]).any()


def test_a_loop_that_catches_its_errors_does_not_catch_the_end(tmp_path: Path) -> None:
    watch = watch_in(tmp_path, stop_at=2)

    def loop() -> None:
        for _ in range(5):
            with contextlib.suppress(Exception):
                watch(1.0)

    with pytest.raises(RunEnded) as ended:
        loop()
    assert isinstance(ended.value.__cause__, InterruptedError)


def test_a_loop_says_that_it_diverged(tmp_path: Path) -> None:
    watch = watch_in(tmp_path)
    with pytest.raises(RunEnded):
        watch.diverged("grad norm 1e9")
    assert watch.reason == "grad norm 1e9"


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "raise SystemExit(1)"])
def test_losses_outlive_their_process(tmp_path: Path, end: str) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom study.loops.watch import Watch\n"
        f"watch = Watch(Path({str(tmp_path)!r}), ('loss',), lambda step: None, lambda done: None)\n"
        f"for i in range(7):\n    watch(i / 2)\n{end}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[3])
    assert done.returncode in (3, 1, -signal.SIGKILL)
    np.testing.assert_array_equal(recorded(tmp_path).loss[:, 0], np.arange(7) / 2)


def test_a_second_try_goes_on_where_it_begins(tmp_path: Path) -> None:
    first = watch_in(tmp_path)
    for i in range(6):
        first(float(i))
    again = watch_in(tmp_path)
    again(40.0, step=4)
    np.testing.assert_array_equal(recorded(tmp_path).loss[:, 0], [0, 1, 2, 3, 40])
    anew = watch_in(tmp_path)
    anew(7.0)
    np.testing.assert_array_equal(recorded(tmp_path).loss[:, 0], [7])


def test_a_row_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    watch = watch_in(tmp_path)
    for i in range(3):
        watch(float(i))
    path = tmp_path / loss_file.NAME
    os.truncate(path, path.stat().st_size - 5)
    np.testing.assert_array_equal(recorded(tmp_path).loss[:, 0], [0, 1])
    watch_in(tmp_path)(9.0, step=2)
    np.testing.assert_array_equal(recorded(tmp_path).loss[:, 0], [0, 1, 9])


def test_a_loss_on_a_device_is_never_waited_for(tmp_path: Path) -> None:
    """A tensor on the meta device has no value: an `item` or a comparison on the host would raise."""
    watch = watch_in(tmp_path)
    for _ in range(3 * BLOCK - 1):
        watch(torch.empty((), device="meta"), targets=torch.empty(64, dtype=torch.int64, device="meta"))
    assert watch.step == 3 * BLOCK - 2


def test_losses_from_a_device_and_from_the_host_stay_in_the_order_of_their_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_is_elsewhere", lambda value: hasattr(value, "detach"))
    watch = watch_in(tmp_path)
    for step in range(40):
        watch(float(step) if step % 10 == 3 or step > 35 else torch.tensor(float(step)))
    found = recorded(tmp_path)
    np.testing.assert_array_equal(found.step, range(40))
    np.testing.assert_array_equal(found.loss[:, 0], range(40))
