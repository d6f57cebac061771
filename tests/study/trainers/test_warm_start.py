"""A start from weights: the same training as by hand, in any stack; another identity; only where the weights belong."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
import trained_study
from stacks import LOG, RECIPE, Plain, bits_of, make_log, make_run, plain_loop, ragged_stack

from search_spaces import table3
from study.cli.main import main
from study.commands import family_weights
from study.commands import run as driver
from study.commands.request import RunRequest
from study.config import Arm, Recipe, Run, Study
from study.data import Rows
from study.definition.family import Family, Member, WeightsOf
from study.record import tables
from study.record.definition import RecordError, open_study, read_definition
from study.replay import export_weights
from study.replay.replay import replay
from study.storage.untrusted_input import MAX_DESCRIPTION_BYTES
from study.trainers import warm_start, weights_file
from study.trainers.ranker import Trainer
from study.training import weights
from study.training.trainer import Trained, train
from study.training.weights import Weights

NEXT = dataclasses.replace(make_log(train_rows=600, noise=1.3), content="d" * 64)
"""Other rows of the same features, with other base rates."""

WEEK = Rows(whole="w" * 64, first=1, last=7)


def left_by(run: Run, log=LOG, start: Weights | None = None) -> tuple[Trained, Weights]:
    """A run trained by itself, and its weights."""
    arrays: dict[str, np.ndarray] = {}
    trained = train([run], log, start=start, on_end=lambda *stack: arrays.update(export_weights.arrays_of(*stack)))
    about = warm_start.about_of(run, log, WEEK, steps=trained.loss.shape[1])
    return trained, weights.validate(about, arrays)


def next_run(start: Weights, *, accumulators: bool = False, **changes) -> Run:
    run = make_run(**changes)
    handed = start.accumulators if accumulators else ""
    recipe = dataclasses.replace(run.recipe, init_from=start.content, init_accumulators=handed)
    return dataclasses.replace(run, data=NEXT.content, recipe=recipe)


@pytest.mark.parametrize("model", ["small_dcn", "small_mmoe", "own_models.batch_norm"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float64", 1e-7)])
def test_two_days_equal_a_plain_loop_that_goes_on_with_fresh_accumulators(
    model: str, precision: str, tolerance: float
) -> None:
    recipe = dataclasses.replace(RECIPE, steps=25, eps=0.0, precision=precision)
    run = make_run(model=model, lr=0.1, recipe=recipe)
    first, start = left_by(run)
    plain = Plain(run, LOG)
    loss, _ = plain_loop(run, LOG, plain=plain)
    np.testing.assert_allclose(first.loss[0], loss, rtol=tolerance)
    after = next_run(start, model=model, lr=0.2, seed=8, recipe=recipe)
    second = train([after], NEXT, start=start)
    by_hand, _ = plain_loop(after, NEXT, plain=plain)
    np.testing.assert_allclose(second.loss[0], by_hand, rtol=tolerance)
    assert abs(by_hand - plain_loop(after, NEXT)[0]).max() > 0.1, "a start from random weights is another"


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_without_a_step_worth_the_name_the_losses_stay_those_of_the_weights(precision: str) -> None:
    recipe = dataclasses.replace(RECIPE, precision=precision)
    run = make_run(model="small_dcn", recipe=recipe)
    _, start = left_by(run)
    plain = Plain(run, LOG)
    plain_loop(run, LOG, plain=plain)
    still = next_run(start, model="small_dcn", lr=1e-30, recipe=recipe)
    trained = train([still], NEXT, start=start)
    # The very weights, not those of the plain loop.
    for name, tensor in plain.network.named_parameters():
        tensor.data.copy_(torch.from_numpy(start.network("parameter")[name]))
    for table, rows in zip(plain.tables, start.tables, strict=True):
        table.weight.data.copy_(torch.from_numpy(rows))  # pyright: ignore
    losses, heldout = plain_loop(still, NEXT, plain=plain)
    np.testing.assert_allclose(trained.loss[0], losses, rtol=1e-5)
    assert trained.moved[0] == 0
    again, left = left_by(still, NEXT, start)
    assert left.content == start.content
    assert np.isfinite(heldout).all()
    assert again.loss.tobytes() == trained.loss.tobytes()


@pytest.mark.parametrize("model", ["small", "own_models.dropout", "own_models.batch_norm"])
def test_a_warm_run_has_the_same_bits_alone_and_in_a_stack(model: str) -> None:
    _, start = left_by(make_run(model=model))
    run = next_run(start, model=model)
    stack = ragged_stack(run)
    together = train(stack, NEXT, start=start)
    for i, one in enumerate(stack):
        assert bits_of(train([one], NEXT, start=start), 0) == bits_of(together, i)


@pytest.mark.parametrize("model", ["small", "small_dcn", "small_mmoe", "own_models.batch_norm"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float64", 1e-7)])
def test_two_days_with_accumulators_equal_one_adagrad_that_goes_on(
    model: str, precision: str, tolerance: float
) -> None:
    recipe = dataclasses.replace(RECIPE, steps=25, eps=0.0, precision=precision)
    run = make_run(model=model, lr=0.1, recipe=recipe)
    _, start = left_by(run)
    plain = Plain(run, LOG)
    adagrad = torch.optim.Adagrad(plain.parameters(), lr=run.lr, initial_accumulator_value=0.1, eps=recipe.eps)
    plain_loop(run, LOG, plain=plain, optimizer=adagrad)
    after = next_run(start, accumulators=True, model=model, lr=0.2, seed=8, recipe=recipe)
    second = train([after], NEXT, start=start)
    by_hand, _ = plain_loop(after, NEXT, plain=plain, optimizer=adagrad)
    np.testing.assert_allclose(second.loss[0], by_hand, rtol=tolerance)
    fresh = train([next_run(start, model=model, lr=0.2, seed=8, recipe=recipe)], NEXT, start=start)
    assert second.loss[0, 0].tobytes() == fresh.loss[0, 0].tobytes()
    assert abs(fresh.loss[0] - by_hand).max() > 0.01, "fresh ones are another training"


@pytest.mark.parametrize("embeddings", ["adagrad", "method"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("none", {}), ("clippy", {}), ("clippy", {"delayed": True}), ("agc", {}), ("rollback", {"back": 4, "skip": 3})],
)
def test_a_run_with_accumulators_has_the_same_bits_alone_in_a_stack_and_resumed(
    method: str, options: dict, embeddings: str
) -> None:
    recipe = dataclasses.replace(RECIPE, embeddings=embeddings)
    given = {"model": "small_dcn", "method": method, "options": options, "recipe": recipe}
    _, start = left_by(make_run(model="small_dcn", recipe=recipe))
    run = next_run(start, accumulators=True, **given)
    # Runs of the same seed beside it, and others: in one group and in several.
    stack = [
        run,
        *(dataclasses.replace(run, lr=lr, seed=seed) for lr, seed in ((0.1, 5), (1.0, 2), (0.4, 2), (0.2, 9))),
    ]
    together = train(stack, NEXT, start=start)
    for i, one in enumerate(stack):
        assert bits_of(train([one], NEXT, start=start), 0) == bits_of(together, i)
    fresh = train([next_run(start, **given)], NEXT, start=start)
    assert fresh.loss[0].tobytes() != together.loss[0].tobytes()
    keeper = KeptOnce(at=6)
    train(stack, NEXT, start=start, checkpointer=keeper)
    again = train(stack, NEXT, start=start, checkpointer=keeper)
    assert keeper.began == [0, 6]
    for i in range(len(stack)):
        assert bits_of(again, i) == bits_of(together, i)


class KeptOnce:
    """Keeps a stack after so many steps, as a checkpoint does."""

    def __init__(self, at: int) -> None:
        self.at, self.kept, self.began = at, {}, []

    def begin(self, load, most_bytes: int) -> int:
        if self.kept:
            load(self.kept)
        self.began.append(self.at if self.kept else 0)
        return self.began[-1]

    def after(self, done: int, state) -> None:
        if done == self.at and not self.kept:
            self.kept = {name: array.copy() for name, array in state()}


def test_accumulators_are_another_run_and_the_weights_the_same() -> None:
    _, start = left_by(make_run())
    bare = weights.validate(start.about, {n: a for n, a in start.arrays.items() if "accumulator" not in n})
    assert (bare.content, bare.accumulators) == (start.content, "")
    fresh, handed = next_run(start), next_run(start, accumulators=True)
    assert fresh.id == next_run(bare).id
    assert fresh.id != handed.id
    assert fresh.recipe.init_accumulators == ""
    with pytest.raises(AssertionError):
        train([handed], NEXT, start=bare)
    _, of_sgd = left_by(make_run(options={"base": "sgd"}))
    assert of_sgd.accumulators == ""


def test_an_untouched_row_has_the_accumulator_that_it_began_with() -> None:
    """Both with the plain tables and with those of the method, which are made as they are first touched."""
    for embeddings in ("adagrad", "method"):
        _, start = left_by(make_run(recipe=dataclasses.replace(RECIPE, embeddings=embeddings)))
        for rows in start.table_accumulators:
            assert (rows >= np.float32(0.1)).all()
        assert max(rows.max() for rows in start.table_accumulators) > 0.1


def test_all_seeds_start_from_the_same_weights_and_read_other_batches() -> None:
    _, start = left_by(make_run())
    runs = [next_run(start, seed=seed, lr=1e-30) for seed in (1, 2)]
    trained = train(runs, NEXT, start=start)
    assert trained.loss[0].tobytes() != trained.loss[1].tobytes()
    assert trained.judged["auc_click"][0] == trained.judged["auc_click"][1]


def test_an_id_changes_with_the_weights_and_stays_without() -> None:
    _, start = left_by(make_run())
    _, other = left_by(make_run(seed=6))
    run = make_run()
    assert len({run.id, next_run(start).id, next_run(other).id}) == 3
    assert dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, init_from="")).id == run.id
    with pytest.raises(ValueError, match=r"init_from is the SHA-256 of weights, got 'yesterday\.zip'"):
        Recipe(init_from="yesterday.zip")


def test_a_run_that_names_other_weights_than_it_is_given_is_our_mistake() -> None:
    _, start = left_by(make_run())
    for run, given in ((next_run(start), None), (dataclasses.replace(make_run(), data=NEXT.content), start)):
        with pytest.raises(AssertionError):
            train([run], NEXT, start=given)


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_same_weights_give_the_same_bytes_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one = left_by(make_run(model="own_models.batch_norm"))
    monkeypatch.setattr("time.time", lambda: 2e9)
    _, two = left_by(make_run(model="own_models.batch_norm"))
    assert weights_file.to_bytes(one) == weights_file.to_bytes(two)
    back = weights_file.read(weights_file.to_bytes(one))
    assert back.about == one.about
    assert back.content == one.content
    assert {name: array.tobytes() for name, array in back.arrays.items()} == {
        name: array.tobytes() for name, array in one.arrays.items()
    }
    assert any(name.startswith("buffer/") for name in one.arrays)
    changed = dict(one.arrays)
    changed["table/0"] = changed["table/0"].copy()
    changed["table/0"][0, 0] = np.nextafter(changed["table/0"][0, 0], 9, dtype=np.float32)
    assert weights.validate(one.about, changed).content != one.content
    elsewhere = dataclasses.replace(one.about, run_id="e" * 64)
    assert weights.validate(elsewhere, one.arrays).content == one.content, "where they come from changes no bit"


def test_safetensors_reads_a_file_of_weights() -> None:
    _, left = left_by(make_run())
    arrays = safetensors.numpy.load(weights_file.to_bytes(left))
    np.testing.assert_array_equal(arrays["table/1"], left.arrays["table/1"])


# --- where they belong --------------------------------------------------------------------------------------------


ABOUT = warm_start.about_of(make_run(), LOG, WEEK, steps=5)
STUDY = Study(name="s", models=("small",), arms=(Arm(method="none"),), lrs=(0.1,), recipe=RECIPE)
AFTER = Rows(whole=WEEK.whole, first=8, last=14)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"arms": (Arm(method="none"), Arm(method="clippy", options={"base": "adamw"}))}, "clippy here keeps none"),
        (
            {"recipe": dataclasses.replace(RECIPE, embeddings="method")},
            "trained with embeddings=adagrad, and these are",
        ),
        ({"recipe": dataclasses.replace(RECIPE, initial_accumulator=0.2)}, "initial_accumulator=0.2 has no meaning"),
    ],
)
def test_what_cannot_take_over_accumulators_is_refused(study: dict, message: str) -> None:
    other = dataclasses.replace(STUDY, **study)
    warm_start.check(ABOUT, other, LOG, AFTER)
    with pytest.raises(ValueError, match=message):
        warm_start.check(ABOUT, other, LOG, AFTER, accumulators=True)


def test_weights_start_what_is_like_them_and_of_other_days() -> None:
    warm_start.check(ABOUT, STUDY, LOG, AFTER)
    assert ABOUT.seen == ((1, 6),)
    warm_start.check(ABOUT, STUDY, LOG, dataclasses.replace(AFTER, first=7))  # the day that was held out
    after = warm_start.about_of(make_run(), LOG, AFTER, 5, start=ABOUT)
    assert after.seen == ((1, 6), (8, 13))
    assert after.days_seen() == "days 1 to 6 and 8 to 13"


@pytest.mark.parametrize(
    ("about", "study", "rows", "message"),
    [
        ({"model": "large"}, {}, {}, r"they are of large, and it trains small \(--set models=large\)"),
        ({}, {"models": ("small", "small_dcn")}, {}, "it trains small_dcn"),
        ({"embedding_dim": 8}, {}, {}, "embedding_dim=8, and it trains with embedding_dim=4"),
        ({"precision": "float64"}, {}, {}, "precision=float64"),
        ({"id_names": ("user", "tab", "x")}, {}, {}, r"other id features .*differing: item, x"),
        ({"number_names": ("price", "age")}, {}, {}, "other number features .*their order"),
        ({"tasks": ("click",)}, {}, {}, r"other tasks .*like, watch"),
        ({"vocabulary": (11, 4, 41)}, {}, {}, "codes of other data"),
        ({}, {}, {"whole": "x" * 64}, "codes of other data"),
        ({}, {}, {"first": 1, "last": 7}, "seen days 1 to 6 of its log, and it trains and judges on days 1 to 7"),
        ({}, {}, {"first": 6}, "seen days 1 to 6 of its log, and it trains and judges on days 6 to 14"),
        ({"seen": ((12, 14),)}, {}, {"first": 8, "last": 12}, "days 12 to 14 of its log"),
        ({"seen": None}, {}, {}, "seen the very rows"),
        ({}, {}, {"first": None, "last": None}, "seen the very rows"),
    ],
)
def test_what_weights_cannot_start_is_refused(about: dict, study: dict, rows: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warm_start.check(
            dataclasses.replace(ABOUT, **about),
            dataclasses.replace(STUDY, **study),
            LOG,
            dataclasses.replace(AFTER, **rows),
        )


# --- studies ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_study.cache(tmp_path_factory)


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_study.once(tmp_path_factory)


@pytest.fixture(scope="module")
def handed(yesterday: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights of that study."""
    path = tmp_path_factory.mktemp("handed") / "yesterday.zip"
    run = export_weights.select_run(yesterday, lr=0.1, method="none")
    export_weights.write(export_weights.export_weights(yesterday, run, cache).weights, str(path))
    return path


TODAY = (*trained_study.DAYS, "data.only_days=6-10", "methods=none,clippy", "lr=0.1,0.2", "seeds=0-1")


@pytest.fixture(scope="module")
def today(handed: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("today") / "today"
    trained_study.train(folder, cache, TODAY, init_from=handed)
    return folder


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(cache))


def test_the_run_that_is_meant_is_found(yesterday: Path) -> None:
    runs = tables.read_runs(yesterday).set_index("run_id")
    by_lr = runs.loc[export_weights.select_run(yesterday, lr=1.7, method="clippy")]
    assert (by_lr["lr"], by_lr["method"], by_lr["seed"]) == (1.7, "clippy", 0)
    other = runs.loc[export_weights.select_run(yesterday, lr=1.7, method="clippy", seed=1)]
    assert (other["lr"], other["method"], other["seed"]) == (1.7, "clippy", 1)
    control = runs.loc[export_weights.select_run(yesterday)]
    assert (control["role"], control["seed"]) == ("control", 10**9)
    one = runs.index[3]
    assert export_weights.select_run(yesterday, run=one[:12]) == one


def test_the_command_writes_what_the_recorded_run_left(yesterday: Path, tmp_path: Path, capsys) -> None:
    clone = Path(shutil.copytree(yesterday, tmp_path / "clone"))
    run = export_weights.select_run(clone, lr=0.1, method="none")
    assert main(["export-weights", str(clone), run[:10]]) == 0
    said = capsys.readouterr().out
    assert "none at lr 0.1, seed 0: completed; the losses equal the recorded ones bit for bit" in said
    left = warm_start.opened(clone / "weights" / f"{run[:12]}.safetensors")
    assert (left.about.run_id, left.about.seen, left.about.model) == (run, ((1, 4),), "small")
    assert left.content[:12] in said


def test_a_study_starts_from_them_knows_so_and_is_replayed_from_its_own_folder(
    yesterday: Path, today: Path, handed: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = warm_start.opened(handed)
    assert read_definition(today).study.recipe.init_from == start.content
    moved = Path(shutil.copytree(today, tmp_path / "elsewhere"))
    runs = tables.read_runs(moved)
    assert len(runs) == 24 + 8
    one = str(runs.loc[(runs["method"] == "none") & (runs["lr"] == 0.1), "run_id"].iloc[-1])
    assert "bit for bit" in replay(moved, one, cache, sharpness_every=1000)
    losses = tables.read_losses(moved).set_index("run_id")
    first, constant = losses["loss"].map(lambda loss: loss[:5].sum()), losses["constant"].map(lambda x: x[:5].sum())
    assert (first.groupby(level=0).sum() < constant.groupby(level=0).sum()).all(), "they know something from the start"
    # The day after: what they have seen adds up.
    after = export_weights.export_weights(moved, one, cache).weights
    assert after.about.seen == ((1, 4), (6, 9))
    # Without its weights it is not trained again from others.
    warm_start._kept.cache_clear()
    (path,) = (moved / "init").iterdir()
    whole = path.read_bytes()
    path.write_bytes(weights_file.to_bytes(after))
    with pytest.raises(ValueError, match="they are others than its runs start from; give its `study run"):
        replay(moved, one, cache)
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="cannot be used"):
        replay(moved, one, cache)
    path.unlink()
    with pytest.raises(ValueError, match=r"are not in .*init; give its `study run \.\.\. --init-from FILE` again"):
        replay(moved, one, cache)


def test_a_study_goes_on_with_the_accumulators_too(
    handed: Path, today: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    start, folder = warm_start.opened(handed), tmp_path / "on"
    settings = (*trained_study.DAYS, "data.only_days=6-10", "methods=none", "lr=0.1", "seeds=0")
    trained_study.train(folder, cache, settings, init_from=handed, init_accumulators="restore")
    recipe = read_definition(folder).study.recipe
    assert (recipe.init_from, recipe.init_accumulators) == (start.content, start.accumulators)
    runs = tables.read_runs(folder)
    assert not set(runs["run_id"]) & set(tables.read_runs(today)["run_id"])
    one = str(runs.loc[runs["role"] == "cell", "run_id"].iloc[0])
    assert "bit for bit" in replay(folder, one, cache, sharpness_every=1000)
    again = export_weights.export_weights(folder, one, cache)
    assert "bit for bit" in again.text
    for name, rows in again.weights.network("accumulator").items():
        assert (rows >= start.network("accumulator")[name]).all(), "a sum of squares grows"
    # Without them the folder's weights are others.
    bare = {name: array for name, array in start.arrays.items() if "accumulator" not in name}
    (kept,) = (folder / "init").iterdir()
    kept.write_bytes(weights_file.to_bytes(weights.validate(start.about, bare)))
    warm_start._kept.cache_clear()
    with pytest.raises(ValueError, match="they are others than its runs start from"):
        warm_start.kept(folder, recipe)
    (tmp_path / "bare.zip").write_bytes(weights_file.to_bytes(weights.validate(start.about, bare)))
    asked = ["plan", "quick", *words(*TODAY), "--init-accumulators", "restore"]
    assert "restore needs the weights" in refused(capsys, *asked)
    assert "bare.zip: it holds no accumulators" in refused(capsys, *asked, "--init-from", tmp_path / "bare.zip")
    sgd = [*asked, "--set", "clippy.base=sgd", "--init-from", handed]
    assert "left accumulators of Adagrad, and clippy here keeps none" in refused(capsys, *sgd)
    assert main([str(word) for word in [*asked, "--init-from", handed]]) == 0
    assert "accumulators as they were left" in capsys.readouterr().out
    assert main([str(word) for word in [*asked[:-2], "--init-from", handed]]) == 0
    assert "accumulators fresh" in capsys.readouterr().out


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said


def test_plan_and_run_say_in_one_line_what_cannot_be(handed: Path, today: Path, tmp_path: Path, capsys) -> None:
    said = refused(capsys, "plan", "quick", *words(*trained_study.SETTINGS), "--init-from", handed)
    assert "no run of quick can start from" in said
    assert "seen days 1 to 4 of its log, and it trains and judges on days 1 to 5" in said
    assert "they are of small" in refused(
        capsys, "run", "quick", *words(*TODAY, "models=small_dcn"), "--init-from", handed, "--out", tmp_path / "x"
    )
    assert "cannot be read" in refused(capsys, "run", "quick", *words(*TODAY), "--init-from", tmp_path / "none.zip")
    cold = read_definition(today)
    cold = dataclasses.replace(cold, study=dataclasses.replace(cold.study, recipe=Recipe(batch=128)))
    with pytest.raises(RecordError, match="holds this study from other weights"):
        open_study(today, cold)
    assert "unknown key 'init_from'" in refused(capsys, "plan", "quick", "--set", f"init_from={'a' * 64}")
    assert not (tmp_path / "x").exists()
    warm = read_definition(today)
    other = dataclasses.replace(warm.study.recipe, init_accumulators="a" * 64)
    handed_on = dataclasses.replace(warm, study=dataclasses.replace(warm.study, recipe=other))
    with pytest.raises(RecordError, match=r"from other accumulators \(--init-accumulators\); choose"):
        open_study(today, handed_on)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["zz"], "no recorded run's id begins with 'zz'"),
        (["--lr", "0.3", "--method", "none"], "no recorded run of small with none at lr 0.3; it has 0.1, 1.7"),
        (["--lr", "0.1"], "--method: none, clippy, agc"),
        (["--lr", "0.1", "--method", "lamb"], "the study has no method 'lamb'"),
        (["--model", "large"], "the study has no model 'large'"),
        (["--method", "clippy"], "the control has no method"),
        (["ab", "--lr", "0.1"], "already determines lr"),
        (["--lr", "0.1", "--method", "none", "--seed", "77"], "no recorded run there has seed 77"),
    ],
)
def test_a_run_that_is_not_there_leaves_no_weights(yesterday: Path, more: list[str], message: str, capsys) -> None:
    assert message in refused(capsys, "export-weights", yesterday, *more)
    assert not (yesterday / "weights").exists()


def test_a_run_that_is_not_finite_leaves_no_weights(
    yesterday: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = export_weights.select_run(yesterday, lr=0.1, method="none")
    found = export_weights.arrays_of

    def broken(*stack):
        arrays = found(*stack)
        arrays["table/0"][3, 1] = np.inf
        return arrays

    monkeypatch.setattr(export_weights, "arrays_of", broken)
    with pytest.raises(ValueError, match=f"run {run[:12]} leaves no weights to start from: table/0 holds values that"):
        export_weights.export_weights(yesterday, run, cache)


# --- families -----------------------------------------------------------------------------------------------------


def member(label: str, days: str, of: WeightsOf | None = None, **changes) -> Member:
    study = Study(
        name=label,
        data_options={"rows": 40000, "only_days": days},
        models=("small",),
        arms=(Arm(method="none"),),
        lrs=(0.1,),
        seeds=(0,),
        recipe=Recipe(batch=128),
    )
    return Member(label=label, words=f"about {label}", study=dataclasses.replace(study, **changes), init_from=of)


def test_a_member_starts_from_one_before_it() -> None:
    first, second = member("a", "1-5"), member("b", "6-10", WeightsOf(member="a", lr=0.1))
    Family(name="f", members=(first, second))
    with pytest.raises(ValueError, match="b starts from weights of 'a', which is no earlier member"):
        Family(name="f", members=(second, first))
    with pytest.raises(ValueError, match="starts from weights of 'b', which is no earlier member"):
        Family(name="f", members=(first, dataclasses.replace(second, init_from=WeightsOf(member="b"))))
    with pytest.raises(ValueError, match="need 0 < lr"):
        WeightsOf(member="a", lr=0.0)
    with pytest.raises(ValueError, match="weights of seed 3 of a need an lr beside it"):
        WeightsOf(member="a", seed=3)


def test_a_seed_that_is_not_recorded_is_trained_for_its_weights(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    definition, before = read_definition(yesterday), tables.recorded_ids(yesterday)
    monkeypatch.setattr(family_weights, "_source", lambda *_: (definition.study, yesterday))
    found = {}
    for seed, said in ((1, "bit for bit"), (7, "seed 7: completed; not in the record")):
        made = family_weights.weights_of_run(tmp_path, "warm", WeightsOf(member="yesterday", lr=0.1, seed=seed), [])
        assert said in capsys.readouterr().out
        found[made.content] = made
        assert (made.about.seed, made.about.lr, made.about.seen) == (seed, 0.1, ((1, 4),))
        assert made.accumulators
    assert len(found) == 2
    assert tables.recorded_ids(yesterday) == before
    of = WeightsOf(member="yesterday", lr=0.1, seed=7, accumulators=True)
    family_weights.weights_of_run(tmp_path, "warm", of, [])
    assert capsys.readouterr().out == ""
    # A file from before accumulators were kept is made anew for whoever asks for them.
    bare = {name: array for name, array in made.arrays.items() if "accumulator" not in name}
    (tmp_path / "warm.weights.safetensors").write_bytes(weights_file.to_bytes(weights.validate(made.about, bare)))
    family_weights.weights_of_run(tmp_path, "warm", dataclasses.replace(of, accumulators=False), [])
    assert capsys.readouterr().out == ""
    assert family_weights.weights_of_run(tmp_path, "warm", of, []).accumulators == made.accumulators


@pytest.mark.parametrize("label", ["warm_start", "warm_start_accumulators"])
def test_warm_members_of_table3_start_from_four_runs(label: str) -> None:
    members = {m.label: m for m in table3.study.members}
    accumulators = label.endswith("accumulators")
    assert members[label].init_from == WeightsOf(member="yesterday", lr=0.1, accumulators=accumulators)
    others = [members[f"{label}_{number}"].init_from for number in (2, 3, 4)]
    seeds = [of.seed for of in others if of]
    # The ladder of a search: the second of its lrs goes to the second seed.
    assert members["yesterday"].study.lrs.index(0.1) == 1
    assert sorted([1, *seeds]) == [0, 1, 2, 3]
    assert others == [WeightsOf(member="yesterday", lr=0.1, seed=s, accumulators=accumulators) for s in seeds]


def test_warm_members_of_table3_are_told_apart() -> None:
    members = {m.label: m for m in table3.study.members}
    warm = [m for m in table3.study.members if m.init_from]
    assert {m.against for m in warm} == {"today"}
    assert members["warm_start"].words == "days 8 to 14, from the weights that days 1 to 6 left at lr 0.1"
    assert len(warm) == len({m.words for m in warm}) == 8
    assert len({m.study.name for m in table3.study.members}) == len(members)


MINE = """
from study import *
def member(label, days, of=None, batch=128):
    s = Study(name=label, data_options={"rows": 40000, "only_days": days}, models=("small",),
              arms=(Arm(method="none"),), lrs=(0.1,), seeds=(0,), recipe=Recipe(batch=batch))
    return Member(label=label, words="about " + label, study=s, init_from=of)
study = Family(name="week", members=(
    member("yesterday", "1-5"), member("today", "6-10"), member("warm", WARM, WeightsOf(member="yesterday", LR))))
"""


@pytest.fixture
def week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def make(name: str, warm: str = "6-10", lr: str = "lr=0.1") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "space.py").write_text(MINE.replace("WARM", repr(warm)).replace("LR", lr))
        return f"{name}.space"

    return make


def test_a_plan_says_where_weights_will_come_from_and_what_cannot_be(week, tmp_path: Path, capsys) -> None:
    assert main(["plan", week("warm_good"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("  weights  ") == 1
    assert "weights   come from yesterday, its none at lr 0.1, once that is trained" in said
    for command in ("plan", "run"):
        assert "warm cannot start from the weights of yesterday: they have seen days 1 to 4" in refused(
            capsys, command, week(f"warm_bad_{command}", warm="3-8"), "--out", tmp_path / "out"
        )
    assert "--init-from is for one study; the members of week" in refused(
        capsys, "plan", "warm_good.space", "--init-from", "x"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_family_trains_yesterday_first_and_goes_on(week, tmp_path: Path, cache: Path, capsys) -> None:
    out = tmp_path / "out"
    space = week("warm_trained")
    assert main(["run", space, "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "yesterday: none at lr 0.1, seed 0: completed; the losses equal the recorded ones bit for bit" in said
    start = warm_start.opened(out / "warm.weights.safetensors")
    assert start.about.run_id == export_weights.select_run(out / "yesterday", lr=0.1)
    assert read_definition(out / "warm").study.recipe.init_from == start.content
    assert not set(tables.read_runs(out / "warm")["run_id"]) & set(tables.read_runs(out / "today")["run_id"])
    assert main(["plan", space, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    of_each = said.partition("\nyesterday: ")[0]
    assert "in each, unless it says otherwise:" in of_each
    assert "control   24 runs, of which 0 are to be trained first" in of_each
    assert "0 runs to train" in of_each
    assert f"weights   in {out / 'warm'}/init" in said
    at = (out / "warm.weights.safetensors").stat().st_mtime_ns
    # Again, with more seeds: the same weights, and no run twice; then from the folder alone.
    before = len(tables.read_runs(out / "warm"))
    # The file of its cell: a control that has nothing to judge is not trained again.
    (cell,) = (path for path in (out / "warm" / "runs").iterdir() if (pd.read_parquet(path)["role"] == "cell").all())
    cell.unlink()
    assert main(["resume", str(out), "--workers", "1"]) == 0
    assert len(tables.read_runs(out / "warm")) == before
    assert main(["run", space, "--out", str(out), "--workers", "1", "--seeds", "0-1"]) == 0
    assert (out / "warm.weights.safetensors").stat().st_mtime_ns == at
    assert len(tables.read_runs(out / "warm")) == before + 1


def test_weights_of_a_family_are_made_again_where_they_do_not_read(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    members = [(member("yesterday", "1-5"), read_definition(yesterday).study, None)]
    monkeypatch.setattr(family_weights, "_source", lambda *_: (members[0][1], yesterday))
    of = WeightsOf(member="yesterday", lr=0.1)
    made = family_weights.weights_of_run(tmp_path, "warm", of, [])
    path = tmp_path / "warm.weights.safetensors"
    whole = path.read_bytes()
    assert made.content == warm_start.opened(path).content
    assert "bit for bit" in capsys.readouterr().out
    family_weights.weights_of_run(tmp_path, "warm", of, [])
    assert capsys.readouterr().out == ""
    path.write_bytes(whole[:-200])
    family_weights.weights_of_run(tmp_path, "warm", of, [])
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match="warm cannot start from a run of yesterday that diverged"):
        family_weights.weights_of_run(tmp_path, "warm", WeightsOf(member="yesterday", lr=1.7), [])
    assert path.read_bytes() == whole


def test_a_run_that_diverges_as_it_is_trained_again_is_not_handed_on(
    yesterday: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the record says of it, on another machine, is not what these weights are."""

    def dead(runs, log, **given):
        trained = train(runs, log, **given)
        return dataclasses.replace(trained, loss=np.maximum(trained.loss, 2 * trained.constant))

    monkeypatch.setattr(family_weights, "_source", lambda *_: (read_definition(yesterday).study, yesterday))
    monkeypatch.setattr(export_weights, "train_again", dead)
    for lr, was in (
        (0.1, "seed 0: completed in the record, diverged now"),
        (None, "of the control in the record, diverged now"),
    ):
        with pytest.raises(ValueError, match=f"cannot start from a run of yesterday that diverged .*{was}; the losses"):
            family_weights.weights_of_run(tmp_path, "warm", WeightsOf(member="yesterday", lr=lr), [])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def two_arms(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_arms") / "study"
    settings = (*trained_study.DAYS, "data.only_days=1-5", "methods=agc", "agc.max_ratio=0.05,0.1", "lr=0.1", "seeds=0")
    trained_study.train(folder, cache, settings)
    return folder


def test_the_arm_that_is_meant_is_found_and_named(two_arms: Path, cache: Path, tmp_path: Path, capsys) -> None:
    arms = read_definition(two_arms).study.arms
    assert [arm.options["max_ratio"] for arm in arms] == [0.05, 0.1]
    runs = tables.read_runs(two_arms).set_index("run_id")
    for arm in arms:
        run = export_weights.select_run(two_arms, lr=0.1, arm=arm)
        assert runs.loc[run, "max_ratio"] == arm.options["max_ratio"]
        handed = export_weights.export_weights(two_arms, run, cache)
        assert handed.text.startswith(f"agc max_ratio={arm.options['max_ratio']} at lr 0.1, seed 0: completed; the")
        assert handed.weights.about.options == arm.options
        said = export_weights.write(handed.weights, str(tmp_path / "w.zip"))
        assert f"weights of small, agc max_ratio={arm.options['max_ratio']} at lr 0.1" in said
    said = refused(capsys, "export-weights", two_arms, "--lr", "0.1", "--out", tmp_path / "x.zip")
    assert "2 arms of agc have runs at lr 0.1 (max_ratio=0.05; max_ratio=0.1)" in said
    assert not (tmp_path / "x.zip").exists()


def test_weights_that_no_file_could_hold_are_refused_before_the_training(
    yesterday: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = export_weights.select_run(yesterday, lr=0.1, method="none")
    monkeypatch.setattr(export_weights, "train_again", None)
    monkeypatch.setattr(weights, "MAX_FILE_BYTES", MAX_DESCRIPTION_BYTES + 400_000)
    with pytest.raises(ValueError, match=r"the weights of small cannot be exported: they take \d+,\d+ bytes"):
        export_weights.export_weights(yesterday, run, cache)


def test_weights_lie_in_an_object_store_too(yesterday: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "memory://bucket/team/yesterday.zip"
    assert main(["export-weights", str(yesterday), "--lr", "0.1", "--method", "none", "--out", url]) == 0
    assert f"{url}: " in capsys.readouterr().out
    assert warm_start.opened(url).about.lr == 0.1
    assert main(["plan", "quick", *words(*TODAY), "--init-from", url]) == 0
    assert "weights   of small, none at lr 0.1" in capsys.readouterr().out
    assert "is not there" in refused(capsys, "plan", "quick", *words(*TODAY), "--init-from", "memory://bucket/none.zip")
    for wrong, message in (("s3://w.zip", "need a file, such as s3://bucket"), ("ftp://a/b.zip", "ftp:// cannot hold")):
        assert message in refused(
            capsys, "export-weights", yesterday, "--lr", "0.1", "--method", "none", "--out", wrong
        )
        assert message in refused(capsys, "plan", "quick", "--init-from", wrong)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_replaced_meanwhile_changes_nothing(handed: Path, tmp_path: Path, monkeypatch) -> None:
    """What was checked is what is trained from."""
    path = tmp_path / "w.zip"
    shutil.copy(handed, path)
    start, seen = warm_start.opened(handed), []

    def instead(_asked, _study, trainer: Trainer, *_) -> Path:
        trainer.write_folder(tmp_path / "out")
        seen.append(warm_start.kept(tmp_path / "out", trainer.study.recipe))
        return tmp_path

    def replaced(*given, **options):
        found = check(*given, **options)
        path.write_bytes(b"another file")
        return found

    check = warm_start.starting_from
    monkeypatch.setattr(warm_start, "starting_from", replaced)
    monkeypatch.setattr(driver, "train", instead)
    driver.run(RunRequest(space="quick", settings=TODAY, init_from=str(path), out=str(tmp_path / "out")))
    assert [found.content for found in seen] == [start.content]


def warm_member(of: WeightsOf, days: str = "6-10") -> tuple[Member, Study]:
    one = member("warm", days, of)
    return one, one.study


def test_a_member_that_was_begun_goes_on_from_the_weights_of_its_record(
    yesterday: Path, today: Path, handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs are known again where the family's file is lost, and where it has other last bits when made anew."""
    where = Path(shutil.copytree(today, tmp_path / "warm"))
    start = warm_start.opened(handed)
    one, study = warm_member(WeightsOf(member="yesterday", lr=0.1))
    own = RunRequest(space="x", out=str(where))
    monkeypatch.setattr(family_weights, "_source", lambda *_: (read_definition(yesterday).study, yesterday))
    begun = family_weights.begun_study(one, study, own)
    assert begun
    assert begun.recipe.init_from == start.content
    changed = {name: array + np.float32(1e-7) * (name == "table/0") for name, array in start.arrays.items()}
    other = export_weights.ExportedWeights(
        weights=weights.validate(start.about, changed), outcome="completed", text="made anew"
    )
    monkeypatch.setattr(export_weights, "export_weights", lambda *_: other)
    found, kept = family_weights.started_study(tmp_path, one, study, own, [])
    assert (found, kept.content) == (begun, start.content)
    assert not (tmp_path / "warm.weights.safetensors").exists()
    with pytest.raises(RecordError, match=r"start from small, none at lr 0.1, .* and warm asks for those of lr 0.2"):
        family_weights.started_study(tmp_path, warm_member(WeightsOf(member="yesterday", lr=0.2))[0], study, own, [])
    shutil.rmtree(where / "init")
    warm_start._kept.cache_clear()
    with pytest.raises(RecordError, match="are lost, and those that yesterday leaves now have other bits"):
        family_weights.started_study(tmp_path, one, study, own, [])
    shutil.copy(handed, tmp_path / "warm.weights.safetensors")
    assert family_weights.started_study(tmp_path, one, study, own, [])[0] == begun


CHAIN = """
from study import *
def member(label, days, of=None):
    s = Study(name=label, data_options={"rows": 40000, "only_days": days}, models=("small",),
              arms=(Arm(method="none"),), lrs=(0.1,), seeds=(0,), recipe=Recipe(batch=128))
    return Member(label=label, words="about " + label, study=s, init_from=of)
study = Family(name="chain", members=(
    member("a", "1-3"), member("b", "6-8", WeightsOf(member="a", lr=0.1)),
    member("c", DAYS, WeightsOf(member="b", lr=LR))))
"""


def test_all_that_is_wrong_with_a_chain_is_said_before_the_first_is_trained(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "chained").mkdir()
    (tmp_path / "chained" / "__init__.py").write_text("")
    for name, days, lr, message in (
        (
            "seen",
            "2-4",
            "0.1",
            "they have seen days 1 to 2 and 6 to 7 of its log, and it trains and judges on days 2 to 4",
        ),
        ("untrained", "9-10", "0.3", "b trains no run at lr 0.3, whose weights are asked for; it trains 0.1"),
        ("good", "9-10", "0.1", ""),
    ):
        (tmp_path / "chained" / f"{name}.py").write_text(CHAIN.replace("DAYS", repr(days)).replace("LR", lr))
        asked = ["plan", f"chained.{name}", "--out", tmp_path / "out"]
        if message:
            assert message in refused(capsys, *asked)
        else:
            assert main([str(word) for word in asked]) == 0
    said = refused(
        capsys, "submit", "chained.good", "--address", "http://127.0.0.1:1", "--init-from", tmp_path / "w.zip"
    )
    assert "--init-from is for one study; the members of chain" in said
