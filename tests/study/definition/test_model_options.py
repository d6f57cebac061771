"""Options of models: how they are written, set, varied, trained and shown."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plans import planned_of, trainer_of, validated
from simulated_record import simulated_definition, write_simulated_study
from stacks import LOG, RECIPE, make_run

import analysis
from study import plugins
from study.config import Arm, Study, runs_of
from study.definition import model_options, overrides
from study.training.networks import network_of_seed, spec_of
from study.training.trainer import train

STUDY = Study(name="sizes", models=("ranker",), arms=(Arm(method="none"),), lrs=(0.1, 0.2), seeds=(0,), recipe=RECIPE)
IDS = {"small": "7e3617705b43", "large_dcn": "344ea0732264", "small_mmoe": "4e04c0712ab9"}
"""With other ids, recorded runs of the presets are no longer found."""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("small", "small"),
        ("ranker", "ranker"),
        ("ranker width=64 depth=2", "ranker"),
        ("ranker depth=3 width=128", "ranker width=128 depth=3"),
        ("ranker  width=128.0", "ranker width=128"),
        ("ranker cross_layers=1 layer_norm=False", "ranker cross_layers=1 layer_norm=false"),
        ("own_models.sized gain=2.0 bias=false", "own_models.sized gain=2 bias=false"),
        ("own_models.sized gain=1 width=1e1", "own_models.sized width=10"),
        ("own_models.sized gain=0.05", "own_models.sized gain=0.05"),
    ],
)
def test_canonical_form(written: str, expected: str) -> None:
    assert model_options.canonical(written) == expected
    assert model_options.canonical(expected) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("rankr width=3", "unknown model 'rankr'.*ranker"),
        ("", "unknown model ''"),
        ("ranker wdth=3", "ranker.*wdth.*width, depth, cross_layers"),
        ("small width=3", "small.*width.*none"),
        ("ranker width", "NAME=NUMBER.*'width'"),
        ("ranker width=1 width=2", "width.*twice"),
        ("ranker width=wide", "number.*width=wide"),
        ("ranker width=nan", "finite.*width=nan"),
        ("ranker width=64.5", "width.*whole number.*64.5"),
        ("ranker width=true", "width.*whole number.*true"),
        ("ranker layer_norm=1", "layer_norm.*true or false.*1"),
        ("own_models.sized note=1", "note.*width, gain, bias"),
    ],
)
def test_bad_models_get_one_line_that_says_what_is_right(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model_options.canonical(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("width=0", "width >= 1.*width=0"),
        ("depth=0", "depth >= 1"),
        ("experts=0", "experts >= 1"),
        ("cross_layers=-1", "cross_layers >= 0"),
        ("layer_norm=false", "layer_norm.*cross_layers"),
    ],
)
def test_plan_refuses_sizes_out_of_range(options: str, message: str) -> None:
    study = validated(replace(STUDY, models=(f"ranker {options}",)))
    with pytest.raises(ValueError, match=message):
        trainer_of(study, log=LOG).limits(study)


def test_set_makes_one_model_for_each_combination_of_options() -> None:
    study = overrides.apply(STUDY, ["ranker.width=32,64.0,64", "models=small,ranker", "ranker.depth=2,3"])
    assert validated(study).models == (
        "small",
        *("ranker width=32", "ranker width=32 depth=3"),
        *("ranker", "ranker depth=3"),
    )
    assert overrides.key_of("ranker.width=32") == "models"
    own = overrides.apply(STUDY, ["models=own_models.sized", "own_models.sized.gain=0.5"])
    assert own.models == ("own_models.sized gain=0.5",)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("small.width=3", "small is not among"),
        ("ranker.width=wide", "number.*ranker.width=wide"),
        ("own_models.sized.width=3", "unknown key 'own_models.sized.width'.*MODEL.OPTION"),
    ],
)
def test_set_refuses_models_that_are_not_there_and_words(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overrides.apply(STUDY, [setting])


def test_run_ids_of_presets_and_defaults_do_not_change() -> None:
    presets = tuple(name for name in plugins.names("models") if name != "ranker")
    assert validated(replace(STUDY, models=presets)).models == presets
    ids = {name: make_run(model=name, data="c" * 64).id[:12] for name in ("small", "large_dcn", "small_mmoe")}
    assert ids == IDS
    runs = [runs_of(validated(replace(STUDY, models=(m,))), "c" * 64) for m in ("ranker", "ranker width=64")]
    assert [run.id for run in runs[0]] == [run.id for run in runs[1]]


@pytest.mark.parametrize(
    ("preset", "same"),
    [
        ("small", "ranker"),
        ("large_dcn", "ranker width=256 depth=4 cross_layers=1"),
        ("small_dcn_unnormed", "ranker cross_layers=1 layer_norm=false"),
        ("large_mmoe", "ranker width=256 depth=4 experts=4"),
    ],
)
def test_ranker_with_options_is_the_preset_bit_for_bit(preset: str, same: str) -> None:
    networks = [network_of_seed(model, spec_of(LOG, RECIPE), 3).state_dict() for model in (preset, same)]
    assert list(networks[0]) == list(networks[1])
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_models_with_options_are_planned_and_trained_apart() -> None:
    models = ("own_models.sized width=4", "own_models.sized", "ranker cross_layers=2")
    planned = planned_of(validated(replace(STUDY, models=models)), log=LOG, workers=1)
    assert planned.cells == 6
    assert {stack.runs[0].model for stack in planned.stacks} == set(models)
    losses = [train(stack.runs, LOG).loss for stack in planned.stacks]
    assert all((loss > 0).all() for loss in losses)
    assert planned.limits.work_of_run[models[0]] < planned.limits.work_of_run[models[1]]


def test_rates_name_the_model_with_its_options(tmp_path: Path) -> None:
    models = ("ranker width=128", "ranker")
    write_simulated_study(tmp_path, simulated_definition(models=models))
    rates = analysis.divergence_rates(analysis.load(tmp_path))
    assert set(rates["model"]) == set(models)
