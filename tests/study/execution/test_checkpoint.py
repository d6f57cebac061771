"""Checkpoints: a stack that was killed goes on with the same bits; what is broken, foreign or malicious is not used."""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import weight_files
from checkpoints import EXPECTED, RUNS, Dying, Finishing, Killed, bits, kept, make, stack_of
from stacks import LOG, RECIPE, make_log

from study import methods
from study.config import Run
from study.data._dataset import Log
from study.execution import checkpoint
from study.execution.checkpoint import Checkpoint, StoppedError
from study.storage import arrays as array_files
from study.storage import stores
from study.trainers import weights_file
from study.trainers._model_size import STACK_RUNS_GPU
from study.training import trainer
from study.training.stack import MAX_HEADER_BYTES, StackTraining

MOST = 10**9
STEPS = RECIPE.steps
assert STEPS


def killed_and_resumed(folder: Path, runs: Sequence[Run], log: Log, at: Sequence[int]) -> trainer.Trained:
    """Killed after each of these steps in turn, then trained to the end."""
    for step in at:
        dying = make(Dying, folder, runs)
        dying.at = step
        with pytest.raises(Killed):
            trainer.train(runs, log, checkpointer=dying)
    finishing = make(Finishing, folder, runs, note=pytest.fail)
    trained = trainer.train(runs, log, checkpointer=finishing)
    assert finishing.began == at[-1]
    return trained


GOING_BACK = {"back": 5, "skip": 2}
"""So soon that it happens within so few steps."""

EVERY_METHOD = [(method, "adagrad") for method in methods.names()]
EVERY_BASE = [(method, base) for method in ("none", "clippy") for base in methods.BASES if base != "adagrad"]


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize(("method", "base"), EVERY_METHOD + EVERY_BASE)
def test_a_killed_stack_ends_with_the_same_bits(tmp_path: Path, method: str, base: str, embeddings: str) -> None:
    options: dict[str, Any] = {"base": base} if base != "adagrad" else {}
    options |= {"weight_decay": 0.01} if embeddings == "method" else {}
    options |= {"momentum": 0.9} if base == "sgd" else {}
    options |= {key: value for key, value in GOING_BACK.items() if key in methods.signature(method).defaults}
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    runs = stack_of(method=method, options=methods.check(method, options), recipe=recipe)
    undisturbed = trainer.train(runs, LOG)
    assert not undisturbed.counts or undisturbed.counts["rollbacks"].any(), "it is meant to go back"
    at = sorted(random.Random(f"{method} {base} {embeddings}").sample(range(1, STEPS), 2))
    assert bits(killed_and_resumed(tmp_path, runs, LOG, at)) == bits(undisturbed)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 11, 15, 16])
def test_any_step_will_do(tmp_path: Path, step: int) -> None:
    """Windows of 150 rows and batches of 64: a batch may span two windows, and the warm-up ends in between."""
    runs = stack_of(method="clippy", model="small_dcn")
    assert bits(killed_and_resumed(tmp_path, runs, LOG, [step])) == bits(trainer.train(runs, LOG))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "step"])
@pytest.mark.parametrize("method", ["none", "rollback_lower_lr"])
def test_a_schedule_goes_on(tmp_path: Path, method: str, schedule: str) -> None:
    recipe = dataclasses.replace(RECIPE, schedule=schedule, embeddings_lr=0.1)
    runs = stack_of(method=method, options={"back": 5} if method != "none" else {}, recipe=recipe)
    assert bits(killed_and_resumed(tmp_path, runs, LOG, [4, 11])) == bits(trainer.train(runs, LOG))


OTHERS = ["small_mmoe", "own_models.branching", "own_models.batch_norm", "own_models.dropout", "own_models.linear"]


@pytest.mark.parametrize("model", OTHERS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_networks_that_train_one_by_one_and_draw_go_on_too(tmp_path: Path, model: str, precision: str) -> None:
    runs = stack_of(model=model, recipe=dataclasses.replace(RECIPE, precision=precision))
    expected = bits(trainer.train(runs, LOG))
    assert bits(killed_and_resumed(tmp_path, runs, LOG, [3, 4, 16])) == expected


@pytest.mark.parametrize("ids", [False, True])
def test_several_passes_and_logs_without_ids_go_on_too(tmp_path: Path, ids: bool) -> None:
    log = make_log(ids=ids)
    runs = stack_of(recipe=dataclasses.replace(RECIPE, steps=25))
    assert bits(killed_and_resumed(tmp_path, runs, log, [12, 23])) == bits(trainer.train(runs, log))


def test_every_tensor_that_a_step_changes_is_kept(tmp_path: Path) -> None:
    """Were one left out, it would be as at the start: whatever differs between two steps must be in the state."""
    recipe = dataclasses.replace(RECIPE, embeddings="method")
    runs = stack_of(method="lamb", options={"base": "adamw"}, model="own_models.dropout", recipe=recipe)
    stack = StackTraining(runs, LOG, torch.device("cpu"))
    rows = list(stack.batches())
    for step in range(3):
        stack.loss_RST[:, step], stack.constant_GST[:, step] = stack.step(step, rows[step])
    kept = set(stack.state())

    def tensors(value: Any, path: str, seen: set[int]) -> dict[str, torch.Tensor]:
        if id(value) in seen:
            return {}
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            return {path: value}
        if isinstance(value, dict):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
        elif type(value).__module__.startswith(("study", "torch.nn")) and hasattr(value, "__dict__"):
            items = vars(value).items()
        else:
            return {}
        return {k: v for key, inner in items for k, v in tensors(inner, f"{path}.{key}", seen).items()}

    before = {path: (tensor, tensor.clone()) for path, tensor in tensors(stack, "", set()).items()}
    own = {tensor.untyped_storage().data_ptr() for tensor in stack.state().values()}
    stack.step(3, rows[3])
    changed = {
        path for path, (tensor, copy) in before.items() if not torch.equal(tensor.nan_to_num(), copy.nan_to_num())
    }
    # Buffers that a step overwrites before it reads them.
    scratch = ".inputs."
    kept_too = {p for p in changed if before[p][0].untyped_storage().data_ptr() in own}
    left_out = {p for p in changed - kept_too if not p.startswith(scratch)}
    assert changed, "a step changes something"
    assert not left_out, f"not kept: {left_out}; kept: {sorted(kept)}"


# --- what cannot be used ------------------------------------------------------------------------------------------


def starts_anew(folder: Path, runs: Sequence[Run] = RUNS) -> str:
    """The one note, after a training from the start that ends with the bits of an undisturbed one."""
    notes: list[str] = []
    finishing = make(Finishing, folder, runs, note=notes.append)
    trained = trainer.train(runs, LOG, checkpointer=finishing)
    assert finishing.began == 0
    assert bits(trained) == bits(trainer.train(runs, LOG))
    assert len(notes) == 1
    assert not (folder / finishing.name).exists()
    assert len(list((folder / "set_aside").iterdir())) == 1
    return notes[0]


def test_a_checkpoint_that_was_cut_is_set_aside(tmp_path: Path) -> None:
    whole = kept(tmp_path, RUNS).read_bytes()
    lengths = {0, 1, len(whole) - 1, *(int(len(whole) * share) for share in np.linspace(0.05, 0.99, 12))}
    for i, length in enumerate(lengths):
        folder = tmp_path / str(i)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / f"{'a' * 32}.safetensors").write_bytes(whole[:length])
        if i < 3:
            assert "cannot be used" in starts_anew(folder)
        else:
            notes: list[str] = []
            assert make(Checkpoint, folder, RUNS, note=notes.append).begin(lambda _: pytest.fail("loaded"), MOST) == 0
            assert len(notes) == 1


def test_flipped_bits_are_found_or_change_nothing(tmp_path: Path) -> None:
    path = kept(tmp_path, RUNS)
    whole = path.read_bytes()
    _, right = read(path)
    draw = random.Random(0)
    found = 0
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        loaded: list[Mapping[str, np.ndarray]] = []
        notes: list[str] = []
        began = make(Checkpoint, tmp_path, RUNS, note=notes.append).begin(loaded.append, MOST)
        assert bool(notes) == (began == 0) == (not loaded)
        found += not began
        for arrays in loaded:
            assert began == 7
            assert arrays.keys() == right.keys()
            assert all(arrays[name].tobytes() == right[name].tobytes() for name in right)
    assert found > 250


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return array_files.read(path)


def write(path: Path, about: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> None:
    checkpoint.write(stores.store_for(path.parent), path.name, about, state.items())


def rewritten(path: Path, **about: Any) -> None:
    was, arrays = read(path)
    write(path, was | about, arrays)


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"format": 0}, "format was 0, is 1"),
        ({"made_by": {"torch": "1.0"}}, "made by another version: study was None"),
        ({"made_by": 3}, "made_by was 3"),
        ({"runs": ["b" * 64]}, "it is of other runs"),
        ({"steps": 0}, "0 steps were done"),
        ({"steps": STEPS}, f"{STEPS} steps were done"),
        ({"steps": True}, "True steps were done"),
        ({"steps": "7"}, "'7' steps were done"),
    ],
)
def test_what_is_not_this_stacks_is_set_aside_with_its_reason(tmp_path: Path, about: dict[str, Any], why: str) -> None:
    rewritten(kept(tmp_path, RUNS), **about)
    assert why in starts_anew(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("loss", np.zeros((2, 17, 3), np.float32), "loss is torch.float32 (2, 17, 3)"),
        ("tables/weight", np.zeros(3), "tables/weight is torch.float64 (3,)"),
        ("more", np.zeros(3), "it lacks or adds more"),
        ("table_method/9/9/accumulator", np.zeros(3), "it lacks or adds table_method"),
        ("table_method/x", np.zeros(3), "it lacks or adds table_method/x"),
        ("table_method/1", np.zeros(3), ""),
    ],
)
def test_other_tensors_than_the_stacks_change_nothing(tmp_path: Path, name: str, array: np.ndarray, why: str) -> None:
    path = kept(tmp_path, RUNS)
    about, arrays = read(path)
    write(path, about, arrays | {name: array})
    assert why in starts_anew(tmp_path)


class Malicious:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    bad = Malicious(proof)
    path = kept(tmp_path, RUNS)
    good = path.read_bytes()
    about, _ = read(path)

    def pickled() -> None:
        path.write_bytes(pickle.dumps(bad))

    def torch_file() -> None:
        torch.save({"loss": bad}, path)

    def objects() -> None:
        with zipfile.ZipFile(path, "w") as parts:
            parts.writestr("about.json", json.dumps(about))
            with parts.open("loss.npy", "w") as part:
                np.lib.format.write_array(part, np.array([bad], dtype=object), allow_pickle=True)

    def bomb() -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
            parts.writestr("about.json", json.dumps(about))
            parts.writestr("loss.npy", bytes(10**8))

    def huge() -> None:
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
        with zipfile.ZipFile(path, "w") as parts:
            parts.writestr("about.json", json.dumps(about))
            parts.writestr("loss.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)

    def elsewhere() -> None:
        path.unlink()
        path.symlink_to("/etc/passwd")

    for i, bad_file in enumerate((pickled, torch_file, objects, bomb, huge, elsewhere)):
        bad_file()
        notes: list[str] = []
        assert make(Checkpoint, tmp_path, RUNS, note=notes.append).begin(lambda _: pytest.fail("loaded"), MOST) == 0
        assert len(notes) == 1, bad_file
        assert len(list((tmp_path / "set_aside").iterdir())) == i + 1
        path.write_bytes(good)
    assert not proof.exists()
    objects()
    with np.load(path, allow_pickle=True) as arrays:
        arrays["loss"]
    assert proof.exists(), "it would have run"


# --- how much is read ---------------------------------------------------------------------------------------------


def peak_bytes(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(Exception):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_of_weights_takes_no_more_memory_than_is_stated(order: Literal["C", "F"]) -> None:
    rows = 10**6
    large = np.zeros((rows, 4), np.float32, order=order)
    about = weight_files.ABOUT | {"vocabulary": [rows, *weight_files.ABOUT["vocabulary"][1:]]}
    content = weight_files.file_of(about, weight_files.GOOD.arrays | {"table/0": large})
    assert weights_file.read(content).tables[0].shape == (rows, 4)
    # It and its hash; beside what holds the content.
    assert peak_bytes(lambda: weights_file.read(content).content) < 2 * len(content) + 2**20


def test_the_largest_stack_keeps_within_what_is_read() -> None:
    """A thousand runs of a network of which each has its own statistics: as many parts as there are runs and layers."""
    runs = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(STACK_RUNS_GPU)]
    names = [
        f"buffer/{r}/layers.{i}.{n}" for r in range(len(runs)) for i in range(8) for n in ("mean", "variance", "n")
    ]
    content = array_files.to_bytes({"format": 1, "runs": runs, "steps": 1}, {name: np.zeros(1) for name in names})
    about, arrays = array_files.read(content)
    assert (about["runs"], sorted(arrays)) == (runs, sorted(names))


@pytest.mark.parametrize("where", ["folder", "store"])
def test_a_checkpoint_that_is_larger_than_its_stack_could_be_is_not_read(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path if where == "folder" else f"memory://large/{tmp_path.name}"
    about, arrays = read(kept(tmp_path, RUNS))
    content = array_files.to_bytes(about, arrays | {"more": np.zeros(10**7)})
    own = make(Finishing, folder, RUNS, note=(notes := []).append)  # type: ignore[arg-type]
    stores.store_for(folder).put(own.name, content)
    fetched = []
    get = stores.ObjectStore.get
    monkeypatch.setattr(stores.ObjectStore, "get", lambda *of: fetched.append(get(*of)) or fetched[-1])
    stack = StackTraining(RUNS, LOG, torch.device("cpu"))
    most = stack.max_bytes()
    assert most < 3 * 10**7
    peak = peak_bytes(lambda: own.begin(stack.load_state, most))
    assert own.began == 0
    assert f"it is larger than {most:,} bytes, the most that its stack could be" in notes[0]
    if where == "folder":
        assert peak < 10**6
        (aside,) = (tmp_path / "set_aside").iterdir()
        assert aside.stat().st_size == len(content)
    else:
        assert [len(content) for content in fetched] == [most + 1]
        (aside,) = stores.store_for(folder).names("set_aside")
        assert get(stores.store_for(folder), f"set_aside/{aside}") == content  # type: ignore[arg-type]


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize(("method", "base"), EVERY_METHOD + EVERY_BASE)
def test_no_stack_is_larger_than_it_could_be(method: str, base: str, embeddings: str) -> None:
    options: dict[str, Any] = {"base": base} if base != "adagrad" else {}
    options |= {"momentum": 0.9} if base == "sgd" else {}
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    runs = stack_of(method=method, options=methods.check(method, options), recipe=recipe)
    stack = StackTraining(runs, LOG, torch.device("cpu"))
    most = stack.max_bytes() - MAX_HEADER_BYTES
    if stack.table_method:
        for group, feature in itertools.product(range(stack.groups.count), range(stack.tables.features)):
            stack.table_method.state(group, feature)
    assert sum(tensor.numel() * tensor.element_size() for tensor in stack.state().values()) <= most


def test_only_what_is_said_of_a_stack_is_fetched_to_list_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"memory://listed/{tmp_path.name}"
    stores.store_for(where).put("checkpoints/a.safetensors", kept(tmp_path, RUNS).read_bytes())
    monkeypatch.setattr(stores.ObjectStore, "get", lambda *_: pytest.fail("the whole of it was fetched"))
    assert checkpoint.checkpointed_stacks(where) == {"a": tuple(run.id for run in RUNS)}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / "checkpoints" / f"{'a' * 32}.safetensors")
    assert checkpoint.checkpointed_stacks(tmp_path) == {}
    notes: list[str] = []
    assert make(Checkpoint, tmp_path, RUNS, note=notes.append).begin(lambda _: pytest.fail("loaded"), MOST) == 0
    assert "is no regular file" in notes[0]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_what_cannot_be_read_now_is_not_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = kept(tmp_path, RUNS)
    content, real = path.read_bytes(), os.open

    def refuse(name: str, *args: Any, **options: Any) -> int:
        if str(name) == path.name:
            raise OSError(code, os.strerror(code))
        return real(name, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(stores.StorageError, match=f"cannot read the checkpoint .*{os.strerror(code)}"):
        make(Checkpoint, tmp_path, RUNS).begin(lambda _: pytest.fail("loaded"), MOST)
    assert path.read_bytes() == content


# --- when it is kept ----------------------------------------------------------------------------------------------


def test_kept_at_most_every_so_often_and_removed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    own = make(Checkpoint, tmp_path, RUNS, every_seconds=60.0)
    assert own.begin(lambda _: None, MOST) == 0
    state = [("loss", np.zeros((5, STEPS, 3), np.float32))]
    written = []
    for done in range(1, STEPS + 1):
        now += 25
        own.after(done, lambda: state)
        if (tmp_path / own.name).exists():
            written.append(done)
            own.remove()
    assert written == [3, 6, 9, 12, 15]
    own.remove()


def test_a_stop_keeps_the_stack_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SOON_SECONDS", 0.0)
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    with pytest.raises(StoppedError) as stopped:
        trainer.train(RUNS, LOG, checkpointer=make(Checkpoint, tmp_path, RUNS, stopping=stopping))
    assert (stopped.value.steps, stopped.value.kept) == (6, True)
    finishing = make(Finishing, tmp_path, RUNS, note=pytest.fail)
    assert bits(trainer.train(RUNS, LOG, checkpointer=finishing)) == EXPECTED
    assert finishing.began == 6
    finishing.remove()
    with pytest.raises(StoppedError) as stopped:
        trainer.train(
            RUNS, LOG, checkpointer=make(Checkpoint, tmp_path, RUNS, every_seconds=0.0, stopping=lambda: True)
        )
    assert not stopped.value.kept
    assert not (tmp_path / finishing.name).exists(), "0 is never"


def test_a_stack_that_is_all_but_done_goes_on_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SOON_SECONDS", 1e6)
    own = make(Checkpoint, tmp_path, RUNS, stopping=lambda: True)
    assert bits(trainer.train(RUNS, LOG, checkpointer=own)) == EXPECTED
    assert not (tmp_path / own.name).exists()


def test_where_nothing_can_be_written_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    notes: list[str] = []
    own = make(Checkpoint, tmp_path, RUNS, every_seconds=1e-9, note=notes.append)
    assert bits(trainer.train(RUNS, LOG, checkpointer=own)) == EXPECTED
    assert "no checkpoint could be written" in notes[0]


def test_what_was_begun_is_listed_and_what_is_recorded_is_removed(tmp_path: Path) -> None:
    assert checkpoint.checkpointed_stacks(tmp_path) == {}
    path = kept(tmp_path, RUNS)
    ids = tuple(run.id for run in RUNS)
    assert checkpoint.checkpointed_stacks(tmp_path) == {"a" * 32: ids}
    (path.parent / "broken.safetensors").write_bytes(b"x" * 8)
    (path.parent / f".{path.name}.0123").write_bytes(b"half")
    assert checkpoint.checkpointed_stacks(tmp_path) == {"a" * 32: ids}
    checkpoint.tidy(tmp_path, {"c" * 64})
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, "broken.safetensors"])
    checkpoint.tidy(tmp_path, {ids[2]})
    assert checkpoint.checkpointed_stacks(tmp_path) == {}


def test_an_object_store_keeps_them_too() -> None:
    """One PUT, and nothing beside it; fsspec's store in memory stands for any."""
    where = "memory://checkpoints/study"
    runs = stack_of(method="agc")
    dying = make(Dying, where, runs)  # type: ignore[arg-type]
    dying.at = 5
    with pytest.raises(Killed):
        trainer.train(runs, LOG, checkpointer=dying)
    assert stores.store_for(where).names("checkpoints") == [f"{'a' * 32}.safetensors"]
    assert checkpoint.checkpointed_stacks(where) == {"a" * 32: tuple(run.id for run in runs)}
    finishing = make(Finishing, where, runs, note=pytest.fail)  # type: ignore[arg-type]
    assert bits(trainer.train(runs, LOG, checkpointer=finishing)) == bits(trainer.train(runs, LOG))
    assert finishing.began == 5
    stores.store_for(where).put(finishing.name, b"broken")
    notes: list[str] = []
    assert make(Checkpoint, where, runs, note=notes.append).begin(lambda _: None, MOST) == 0  # type: ignore[arg-type]
    assert len(notes) == 1
    assert len(stores.store_for(where).names("set_aside")) == 1
    assert checkpoint.checkpointed_stacks(where) == {}
    checkpoint.tidy(where, set())


def test_a_bare_machine_reads_and_writes_checkpoints() -> None:
    """The driver lists them without torch, too."""
    code = "import sys; import study.execution.checkpoint; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"ray", "mlflow", "optuna", "pandas", "scipy", "torch"} & set(printed)
