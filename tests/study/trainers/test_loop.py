"""Loops of users: what they return, how they end, and what they leave behind."""

import contextlib
import math
import os
import random
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study import Arm, Loop, Study
from study.config import Run, study_from_json, to_json
from study.execution.checkpoint import StoppedError
from study.loops import loss_file
from study.trainers.loop import Trainer
from study.trainers.protocol import MisuseError, TrainedRuns, open_trainer


class NoCheckpoints:
    """A checkpointer that stops the trial after some steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after

    def begin(self, load: Any, most_bytes: int) -> int:
        return 0

    def after(self, done: int, state: Any) -> None:
        assert state is None
        if done == self.stop_after:
            raise StoppedError(done, kept=False)


Make = Callable[..., Trainer]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a trainer of a loop whose body is given as text."""
    monkeypatch.syspath_prepend(tmp_path)

    def build(body: str, *, signature: str = "run, watch", arms: tuple[Arm, ...] = (Arm("plain"),), **loop: Any):
        name = f"loop_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(f"def train({signature}):\n" + textwrap.indent(body, "    "))
        study = Study(name="s", trainer=Loop(f"{name}:train", **loop), arms=arms, lrs=(0.1, 1.0), seeds=range(2))
        trainer = open_trainer(study, tmp_path / "cache")
        assert isinstance(trainer, Trainer)
        return trainer

    return build


def test_own_code_of_a_loop_is_its_module_its_script_and_its_method(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("FACTOR = 1\n")
    (tmp_path / "script.py").write_text("import mine\n")
    monkeypatch.setattr("study.plugins.user_folder", str(tmp_path))
    body = "watch(1.0)\nstudy = 3\n"
    loop = make(body, signature="run, watch, optimizer='none'", arms=(Arm("a", optimizer="none"), Arm("b")))
    (module,) = loop.own_code("m", Arm("a", optimizer="none"))
    assert module == loop.loop["function"].partition(":")[0]
    for words in ("python script.py --lr {lr}", "python -m script --lr {lr} --out {folder}/x.py"):
        study = Study(
            name="s", trainer=Loop(command=words, losses="{folder}/l.csv"), arms=(Arm("a"),), lrs=(0.1,), seeds=(0,)
        )
        (code,) = open_trainer(study, tmp_path).own_code("m", Arm("a")).values()
        assert len(code) == 64


def train(trainer: Trainer, folder: Path, arm: Arm | None = None, *, lr: float = 0.1, stop: int | None = None):
    return trainer.train(
        [run_of(trainer, arm, lr)],
        device="cpu",
        folder=folder,
        on_step=lambda step: None,
        checkpointer=NoCheckpoints(stop),
    )


def run_of(trainer: Trainer, arm: Arm | None = None, lr: float = 0.1) -> Run:
    return trainer.study.run(trainer.content, trainer.study.models[0], arm or trainer.study.arms[0], lr, 1)


def losses(trained: TrainedRuns) -> list[float]:
    return trained.loss[0, :, 0].tolist()


FALLING = "for i in range(5):\n    watch(1 / (1 + i))\n"


def test_loop_returns_losses_metrics_and_leaves_nothing(make: Make, tmp_path: Path) -> None:
    trainer = make(FALLING + "return {'val_loss': 0.25, 'other': 1}", quality="-val_loss")
    trained = train(trainer, tmp_path / "out")
    np.testing.assert_allclose(losses(trained), [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5], rtol=1e-6)
    assert trained.baseline is None, "it has neither targets nor a number"
    assert trained.judged["error_val_loss"].tolist() == [0.25]
    assert trained.finite.tolist() == [True]
    assert not list((tmp_path / "out" / "loops").iterdir())


def test_loop_gets_its_run(make: Make, tmp_path: Path) -> None:
    body = """
        assert (run.lr, run.seed, run.arm, run.device) == (0.1, 1, "warm", "cpu")
        assert run.options == {"steps": 3, "warm": True, "base": "sgd"}, run.options
        (run.folder / "mine.txt").write_text("kept")
        for i in range(steps):
            watch(1.0)
    """
    arms = (Arm("plain"), Arm("warm", warm=True))
    trainer = make(textwrap.dedent(body), signature="run, watch, *, steps=3, warm=False, base='sgd'", arms=arms)
    assert trainer.steps_of(run_of(trainer)) is None
    assert losses(train(trainer, tmp_path / "out", arms[1])) == [1, 1, 1]
    assert [path.name for path in (tmp_path / "out" / "loops").rglob("*.txt")] == ["mine.txt"]


def test_baseline_is_a_number_or_comes_from_targets(make: Make, tmp_path: Path) -> None:
    given = train(make(FALLING, baseline=2.5), tmp_path / "a")
    assert given.baseline is not None
    assert np.unique(given.baseline).tolist() == [2.5]
    paired = train(make("watch(1.0, targets=[0, 1])\nwatch(1.0, targets=[0, 0])"), tmp_path / "b")
    assert paired.baseline is not None
    np.testing.assert_allclose(paired.baseline[0, :, 0], [math.log(2), 0], rtol=1e-6)


def test_steps_are_kept_where_not_every_step_is_logged(make: Make, tmp_path: Path) -> None:
    trained = train(make("for i in range(0, 100, 20):\n    watch(1.0, step=i)"), tmp_path / "out")
    assert trained.steps is not None
    assert trained.steps.tolist() == [0, 20, 40, 60, 80]
    assert train(make(FALLING), tmp_path / "every").steps is None


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        ("watch(1.0)\nwatch(float('nan'))\nraise AssertionError('never here')", False),
        ("watch(1.0)\nfor _ in range(30):\n    watch(5.0)\nraise AssertionError('loss is too high')", True),
        ("watch(1.0)\nfor _ in range(30):\n    watch(5.0)\nraise SystemExit(1)", True),
        ("watch(1.0)\nfor _ in range(30):\n    watch(5.0)\nraise KeyboardInterrupt", True),
        ("watch(1.0)\nwatch.diverged('grad norm 1e9')", True),
        ("watch(1.0)\ntry:\n    watch(float('inf'))\nexcept Exception:\n    pass", False),
    ],
)
def test_a_loop_that_ends_itself_has_diverged(make: Make, tmp_path: Path, body: str, declared: bool) -> None:
    trained = train(make(body), tmp_path / "out")
    assert trained.declared is not None
    assert trained.declared.tolist() == [declared]
    assert trained.finite.tolist() == [declared]


@pytest.mark.parametrize("error", ["raise KeyError('x')", "raise SystemExit(2)", "raise KeyboardInterrupt", "1 / 0"])
def test_a_healthy_loop_that_raises_is_a_crash(make: Make, tmp_path: Path, error: str) -> None:
    with pytest.raises((KeyError, SystemExit, KeyboardInterrupt, ZeroDivisionError)):
        train(make(FALLING + error), tmp_path / "out")


def test_a_process_that_died_with_a_loss_that_is_not_finite_is_not_trained_again(make: Make, tmp_path: Path) -> None:
    trainer = make("raise AssertionError('trained again')")
    folder = tmp_path / "out" / "loops" / run_of(trainer).id
    folder.mkdir(parents=True)
    file = loss_file.LossFile(folder, ["loss"])
    for step, loss in enumerate((1.0, 2.0, math.nan)):
        file.append(np.array([(step, [loss], [math.nan])], loss_file._row_type(1)).tobytes())
    file.close()
    trained = train(trainer, tmp_path / "out")
    np.testing.assert_array_equal(losses(trained), [1, 2, math.nan])
    assert not folder.exists()


def test_a_process_that_died_twice_with_an_exploded_loss_has_diverged(make: Make, tmp_path: Path) -> None:
    """Once may be the end of its machine."""
    body = "import os\nwatch(1.0)\nfor _ in range(30):\n    watch(9.0)\nos._exit(3)"
    trainer = make(body)
    for _ in range(2):
        child = os.fork()
        if child == 0:
            train(trainer, tmp_path / "out")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    trained = train(trainer, tmp_path / "out")
    assert trained.declared is not None
    assert trained.declared.tolist() == [True]
    assert len(losses(trained)) == 31


def test_a_stopped_loop_goes_on_from_its_own_checkpoint(make: Make, tmp_path: Path) -> None:
    body = """
        kept = run.folder / "step"
        first = int(kept.read_text()) if kept.exists() else 0
        for i in range(first, 8):
            kept.write_text(str(i))
            watch(float(i), step=i)
    """
    trainer = make(textwrap.dedent(body))
    with pytest.raises(StoppedError):
        train(trainer, tmp_path / "out", stop=4)
    assert losses(train(trainer, tmp_path / "out")) == list(range(8))


@pytest.mark.parametrize(
    "signature",
    ["run, watch, width=1", "run, watch, *, width=1", "run, watch, **options", "run, watch, width=1, **more"],
)
def test_options_are_arguments(make: Make, tmp_path: Path, signature: str) -> None:
    arms = (Arm("plain", width=1), Arm("wide", width=3))
    body = "watch(width)" if "width" in signature else "watch(options['width'])"
    trainer = make(body, signature=signature, arms=arms)
    trainer.validate(trainer.study)
    assert losses(train(trainer, tmp_path / "out", arms[1])) == [3]


@pytest.mark.parametrize(
    ("signature", "more"),
    [("run, watch, *, optimizer='adam'", {}), ("", {"command": "true {lr} {optimizer}", "losses": "{folder}/x.csv"})],
)
def test_an_option_named_optimizer_may_be_the_loops_own(make: Make, signature: str, more: dict[str, str]) -> None:
    arms = (Arm("plain", optimizer="sgd"),)
    trainer = make("pass", signature=signature, arms=arms)
    if more:
        study = Study(name="s", trainer=Loop(**more), arms=arms, lrs=(0.1,))
        trainer = open_trainer(study, trainer.cache)
    assert trainer.validate(trainer.study).arms == arms


def test_values_of_options_come_from_arms_defaults_and_the_method(make: Make) -> None:
    arms = (Arm("plain"), Arm("clippy", optimizer="clippy", rel=1, width=2.5))
    values = make("pass", signature="run, watch, *, width=32, optimizer=None", arms=arms).option_values()
    assert values["width"] == [2.5, 32]
    assert values["rel"] == [1, 0.5]


STATE = """
import os, signal, sys, torch
def state():
    return (
        os.getcwd(), dict(os.environ), sys.stdin, sys.stdout, sys.stderr, signal.getsignal(signal.SIGUSR1),
        signal.getsignal(signal.SIGTERM), signal.getitimer(signal.ITIMER_REAL), torch.get_default_dtype(),
        torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(), torch.is_anomaly_enabled(),
    )
"""


@pytest.mark.parametrize("end", ["watch(1.0)", "raise KeyError", "watch(float('nan'))"])
def test_what_a_loop_changes_in_its_process_is_restored(make: Make, tmp_path: Path, end: str) -> None:
    body = f"""
        import io, os, signal, sys, torch, warnings
        os.chdir({str(tmp_path)!r})
        os.environ["PATH"], os.environ["OF_A_LOOP"] = "", "1"
        del os.environ["STUDY_TEST"]
        sys.stdin = sys.stdout = sys.stderr = io.StringIO()
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 1000)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.autograd.set_detect_anomaly(True)
        {end}
    """
    namespace: dict[str, Any] = {}
    exec(STATE, namespace)
    trainer = make(textwrap.dedent(body))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STUDY_TEST", "1")
        before = namespace["state"]()
        with contextlib.suppress(KeyError):
            train(trainer, tmp_path / "out")
        assert namespace["state"]() == before


def test_a_loop_may_delete_its_folder(make: Make, tmp_path: Path) -> None:
    body = "import shutil\nwatch(2.0)\nshutil.rmtree(run.folder)\nwatch(1.0)"
    assert losses(train(make(body), tmp_path / "out")) == [2, 1]


def test_a_thread_that_a_loop_leaves_cannot_watch(make: Make, tmp_path: Path) -> None:
    """Its losses would enter another file, which has the number of the closed one."""
    body = """
        import threading
        def go_on():
            gate.wait()
            try:
                watch(3.0)
            except BaseException as error:
                ended.append(type(error).__name__)
        import __main__
        gate, ended = threading.Event(), []
        __main__.left = gate, ended, threading.Thread(target=go_on)
        __main__.left[2].start()
        watch(1.0)
    """
    import __main__

    assert losses(train(make(textwrap.dedent(body)), tmp_path / "out")) == [1]
    gate, ended, thread = __main__.left
    with (tmp_path / "other").open("w+b") as other:
        gate.set()
        thread.join()
        assert not other.read()
    assert ended == ["RunEnded"]


def test_a_loop_leaves_its_process_as_it_was(make: Make, tmp_path: Path) -> None:
    body = f"import os, random\nos.chdir({str(tmp_path)!r})\nwatch(random.random())"
    trainer, before = make(body), Path.cwd()
    first = losses(train(trainer, tmp_path / "a"))
    random.random()
    assert losses(train(trainer, tmp_path / "b")) == first, "the seed is that of the run"
    assert Path.cwd() == before


def test_a_child_that_the_loop_forks_does_not_record(make: Make, tmp_path: Path) -> None:
    body = "import os\nwatch(1.0)\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n    watch(2.0)\n"
    assert losses(train(make(body), tmp_path / "out")) == [1, 2]
    assert losses(train(make(body.replace("    watch(2.0)", "watch(2.0)")), tmp_path / "both")) == [1, 2]


@pytest.mark.parametrize(
    ("body", "words"),
    [("pass", "without a call of watch"), ("watch(1.0)\nreturn 3", "returned int")],
)
def test_a_loop_that_gives_too_little_is_refused(make: Make, tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(MisuseError, match=words):
        train(make(body), tmp_path / "out")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "no metric 'accuracy'.*returned none"),
        ("{'acuracy': 1.0}", "no metric 'accuracy'.*returned acuracy"),
        ("{'accuracy': 'high'}", "'high', not a number"),
        ("{'accuracy': None}", "None, not a number"),
    ],
)
def test_a_healthy_run_without_its_quality_is_refused(make: Make, tmp_path: Path, returned: str, words: str) -> None:
    with pytest.raises(MisuseError, match=words):
        train(make(FALLING + f"return {returned}", quality="accuracy"), tmp_path / "out")
    diverged = train(
        make("for loss in (1.0, *[9.0] * 40):\n    watch(loss)", quality="accuracy"), tmp_path / "diverged"
    )
    assert np.isnan(diverged.judged["score_accuracy"]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"function": "no_such_module_here:train"}, "no module 'no_such_module_here'"),
        ({"function": "math:no_such"}, "math has no function 'no_such'"),
        ({"function": "math:pi"}, "is no function"),
        ({"function": "os:getpid"}, r"takes \(run, watch\)"),
    ],
)
def test_a_function_that_is_no_loop_is_refused_when_planned(tmp_path: Path, change: dict, words: str) -> None:
    study = Study(name="s", trainer=Loop(**change), arms=(Arm("plain"),), lrs=(0.1,))
    with pytest.raises(ValueError, match=words):
        open_trainer(study, tmp_path).validate(study)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm("plain", warmm=1), "no option 'warmm'; it has warm, optimizer"),
        (Arm("clippy", optimizer="clippy", rell=1.0), "no option 'rell'"),
        (Arm("clippy", optimizer="clippy", rel=-1.0), "rel"),
        (Arm("clippy", optimizer="clipy"), "unknown method 'clipy'"),
    ],
)
def test_unknown_options_of_an_arm_are_refused(make: Make, arm: Arm, words: str) -> None:
    trainer = make("pass", signature="run, watch, *, warm=0, optimizer='none'", arms=(arm,))
    with pytest.raises(ValueError, match=words):
        trainer.validate(trainer.study)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either a function or a command"),
        ({"function": "a:b", "command": "c"}, "either a function or a command"),
        ({"command": "c"}, "losses="),
        ({"function": "a:b", "losses": "x"}, "files of a command"),
        ({"function": lambda run, watch: None}, "at the top of a module"),
        ({"function": "train"}, "my_module:train"),
        ({"function": "a:b", "tasks": ("x", "x")}, "different names"),
        ({"function": "a:b", "tasks": ("x", "y"), "baseline": {"x": 1.0}}, "x, y"),
        ({"function": "a:b", "tasks": ("x", "y"), "baseline": 1.0}, "x, y"),
        ({"function": "a:b", "cpus": 0}, "CPUs or GPUs"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Study(name="s", trainer=Loop(**arguments), arms=(Arm("plain"),), lrs=(0.1,))


def test_a_study_of_a_loop_is_json(make: Make) -> None:
    trainer = make("pass", quality="-val_loss", tasks=("a", "b"), gpus=0.5)
    assert study_from_json(to_json(trainer.study)) == trainer.study


def test_resources_do_not_change_ids(make: Make) -> None:
    name = make("watch(1.0)", signature="run, watch, x=0").loop["function"]
    plain = Study(name="s", trainer=Loop(name), arms=(Arm("a"),), lrs=(0.1,))
    more = Study(name="s", trainer=Loop(name, gpus=1, cpus=4), arms=(Arm("a"), Arm("b", x=1)), lrs=(0.1,))
    other = Study(name="s", trainer=Loop(name, version="2"), arms=(Arm("a"),), lrs=(0.1,))
    contents = [open_trainer(study, Path("unused")).content for study in (plain, more, other)]
    assert contents[0] == contents[1] != contents[2]


def test_the_method_of_an_arm_as_an_optimizer(make: Make, tmp_path: Path) -> None:
    """Plain AdamW of ours takes torch's steps."""
    body = """
        import torch
        w, v = (torch.nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
        ours, theirs = run.optimizer([w]), torch.optim.AdamW([v], lr=run.lr, weight_decay=0.0, eps=1e-7)
        for parameter, steps in ((w, ours), (v, theirs)):
            for i in range(5):
                steps.zero_grad()
                ((parameter - i) ** 2).sum().backward()
                steps.step()
        torch.testing.assert_close(w, v)
        watch(1.0)
    """
    arms = (Arm("mine", optimizer="none", base="adamw"), Arm("clippy", base="adamw", rel=0.1))
    trainer = make(textwrap.dedent(body), arms=arms)
    assert losses(train(trainer, tmp_path / "out", arms[0])) == [1]


def test_numbers_in_the_signature_are_described(make: Make) -> None:
    loop = make("watch(1.0)", signature="run, watch, *, width=32, kind='a', flat=True, most=float('inf')")
    assert loop.description()["defaults"] == {"width": 32}
    assert make("watch(1.0)").description()["defaults"] == {}
