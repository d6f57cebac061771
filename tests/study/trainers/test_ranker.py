"""The ranker as a trainer: what it accepts, and how large it takes its stacks to be."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from plans import LOG, make_study, planned_of, validated

from study import methods
from study.config import Arm, Recipe, control_of
from study.trainers import _model_size, _plan_cache, ranker
from study.training import sizing
from study.training.networks import build_network, spec_of


def test_stacks_fit_the_memory() -> None:
    study = make_study(models=("large",), seeds=tuple(range(64)))
    run_bytes = sizing.bytes_of_run("large", study.recipe, LOG, gpu=True)
    assert sizing.bytes_of_run("large", study.recipe, LOG) < run_bytes, "on CPU no activation is kept for all runs"
    network = 4 * (18 * 256 + 3 * 256**2)  # about: 11 inputs, 256x4
    assert run_bytes > network
    one_gpu = planned_of(study, workers=1, device_bytes=int(run_bytes * 30 / _model_size.SHARE_OF_GPU) + 1)
    assert max(len(stack.runs) for stack in one_gpu.stacks) == 30
    tight = planned_of(study, workers=1, device_bytes=run_bytes // 2)
    assert {len(stack.runs) for stack in tight.stacks} == {1}
    roomy = planned_of(study, workers=1, device_bytes=10**15)
    assert max(len(stack.runs) for stack in roomy.stacks) == 64 * 3
    assert max(len(stack.runs) for stack in planned_of(study, workers=1).stacks) <= _model_size.STACK_RUNS_CPU


def test_embeddings_that_fit_no_gpu_are_refused() -> None:
    study = make_study(recipe=Recipe(embedding_dim=10**9))
    with pytest.raises(
        ValueError, match=r"embedding rows of embedding_dim=1000000000 are more than the 10,000,000,000"
    ):
        planned_of(study, workers=1)


def test_matrix_products_are_counted_by_pencil() -> None:
    study = make_study(models=("small",), arms=(Arm(method="none"),), lrs=(0.1,), seeds=(0,))
    recorded = {run.id for run in control_of(study, LOG.content)}
    products = 11 * 64 + 64 * 64 + 64  # 2 features of 4 and 3 numbers; one head
    examples = 64 * 10
    one = 6e-9 * products * examples + sizing.WORK_BESIDE * examples
    assert planned_of(study, recorded, workers=1).limits.work_of_run == {"small": pytest.approx(one)}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (Recipe(batch=64, steps=10, warmup=0), "10 of 64 rows"),
        (Recipe(batch=64, steps=40, warmup=20), "40 of 64 rows, with a warm-up of 20"),
        (
            Recipe(batch=64, steps=10, warmup=40),
            "10 of 64 rows, with a warm-up of 40: the lr reaches 25% of its peak; set more steps or a shorter warmup",
        ),
    ],
)
def test_a_plan_says_how_long_a_run_is_and_whether_its_lr_is_reached(
    recipe: Recipe, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranker.Trainer, "log", LOG)
    assert dict(ranker.Trainer(make_study(recipe=recipe), tmp_path).summary())["steps"] == said


def test_a_plan_shows_each_setting_of_the_recipe_that_was_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranker.Trainer, "log", LOG)

    def shown(**changed: Any) -> list[tuple[str, str]]:
        recipe = dataclasses.replace(Recipe(batch=64, steps=10), **changed)
        return ranker.Trainer(make_study(recipe=recipe), tmp_path).summary()

    changed = {
        "batch": 32,
        "steps": 30,
        "warmup": 7,
        "schedule": "step",
        "decay_steps": 11,
        "decay_factor": 0.37,
        "window": 512,
        "embedding_dim": 8,
        "embedding_std": 0.125,
        "initial_accumulator": 0.25,
        "eps": 1e-5,
        "embeddings_lr": 0.07,
        "precision": "float64",
    }
    lines = "\n".join(line for _, line in shown(**changed))
    assert [key for key, value in changed.items() if str(value) not in lines] == []
    assert dict(shown(embeddings_lr=0.07))["recipe"] == "embeddings_lr=0.07"
    assert "0.2" in dict(shown(schedule="cosine", final_factor=0.2))["schedule"]
    assert dict(shown(embeddings="method"))["recipe"] == "embeddings=method"
    assert "recipe" not in dict(shown())


def test_models_that_vmap_cannot_take_are_named() -> None:
    study = make_study(models=("small", "own_models.branching"))
    assert (
        planned_of(study, workers=1)
        .limits.notes[0]
        .startswith("note: own_models.branching cannot be computed as a stack")
    )


def test_models_that_vmap_cannot_take_share_one_note() -> None:
    assert ranker._one_by_one([]) == ()
    (note,) = ranker._one_by_one(["mine", "mine width=4"])
    assert note.startswith("note: mine, mine width=4 cannot be computed as a stack (vmap); their runs train one by one")


def test_room_is_left_for_snapshots() -> None:
    without, with_them = (make_study(arms=(Arm(method="none"), *more)) for more in ((), (Arm(method="rollback"),)))
    run_bytes = sizing.bytes_of_run("large", without.recipe, LOG, gpu=True)
    snapshots = sizing.bytes_of_snapshots("large", without.recipe, LOG)
    # two copies of weights, embeddings and their accumulators, and three of what a step changes of the network
    network = build_network("large", spec_of(LOG, without.recipe))
    weights, rows = 4 * sum(p.numel() for p in network.parameters()), 4 * 4 * sum(LOG.vocabulary)
    assert snapshots == 2 * 2 * (weights + rows) + 3 * weights
    memory = int(run_bytes * 30 / _model_size.SHARE_OF_GPU) + 1
    largest = [
        planned_of(dataclasses.replace(study, models=("large",)), workers=1, device_bytes=memory).limits.largest_stack[
            "large"
        ]
        for study in (without, with_them)
    ]
    assert largest == [30, 30 * run_bytes // (run_bytes + snapshots)]


def test_what_has_no_hidden_units_cannot_be_clamped() -> None:
    arms = (Arm(method="none"), Arm(method="activation_clip"))
    message = "activation_clip limits the outputs of activation functions, and own_models.linear has none"
    with pytest.raises(ValueError, match=message):
        planned_of(make_study(arms=arms, models=("small", "own_models.linear")), workers=1)
    assert planned_of(make_study(arms=arms, models=("small", "own_models.branching")), workers=1).missing
    assert planned_of(make_study(arms=arms[:1], models=("own_models.linear",)), workers=1).missing


def test_data_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="640 training rows do not fill one batch of 1024"):
        planned_of(make_study(recipe=Recipe(batch=1024)), workers=1)


def test_sizes_and_options_are_found_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(arms=(Arm(method="clippy", options={"rel": 0.5, "abs": 1}),))
    first = planned_of(validated(study, tmp_path), workers=2, cache=tmp_path)
    assert first == planned_of(validated(study), workers=2)
    for module, name in ((sizing, "bytes_of_run"), (methods, "check"), (methods, "signature")):
        monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("found again"))
    assert planned_of(validated(study, tmp_path), workers=2, cache=tmp_path) == first
    other = make_study(recipe=Recipe(batch=32))
    with pytest.raises(pytest.fail.Exception, match="found again"):
        planned_of(other, workers=2, cache=tmp_path)


def test_what_was_refused_is_refused_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="need rel >= 0, got rel=-1"):
            validated(make_study(arms=(Arm(method="clippy", options={"rel": -1.0}),)), tmp_path)
        with pytest.raises(ValueError, match="640 training rows do not fill one batch of 1024"):
            planned_of(make_study(recipe=Recipe(batch=1024)), workers=1, cache=tmp_path)


def test_validate_puts_arms_in_one_form() -> None:
    written = (
        Arm(method="clippy", options={"rel": 0.5, "abs": 1}),
        Arm(method="clippy", options={"abs": 1.0}),
        Arm(method="none"),
    )
    assert validated(make_study(arms=written)).arms == (Arm(method="clippy", options={"abs": 1.0}), Arm(method="none"))
    study = validated(make_study())
    assert study == make_study()
    assert validated(study) == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ("smal",)}, "unknown model 'smal'"),
        ({"arms": (Arm(method="clip"),)}, "unknown method 'clip'"),
        ({"arms": (Arm(method="clippy", options={"relative": 1.0}),)}, "clippy has no option relative"),
        ({"arms": (Arm(method="clippy", options={"rel": -1.0}),)}, "need rel >= 0, got rel=-1"),
        ({"arms": (Arm(method="none", options={"base": "adam"}),)}, "base is one of adagrad, sgd"),
    ],
)
def test_validate_says_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(make_study(**changes))


def test_the_options_of_many_arms_are_not_looked_up_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look-up reads the whole cache, and each new answer writes it: 10,000 arms took minutes."""
    reads, read = [], _plan_cache._read
    monkeypatch.setattr(_plan_cache, "_read", lambda path: reads.append(path) or read(path))
    arms = tuple(Arm("clippy", rel=0.1 + i) for i in range(ranker.CACHED_ARMS + 1))
    found = validated(make_study(arms=arms), tmp_path)
    assert found.arms == arms
    assert len(reads) < 10
    with pytest.raises(ValueError, match="rel"):
        validated(make_study(arms=(*arms, Arm("clippy", rel=-1.0))), tmp_path)
