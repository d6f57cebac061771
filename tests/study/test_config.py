"""Values and their identity: an id is the content, all of it that changes a result and nothing else."""

import dataclasses
import hashlib
import html
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study import Loop, config
from study.commands.request import validate_study
from study.config import (
    CONTROL_SEEDS,
    MAX_LR,
    RESULTS_VERSION,
    Arm,
    EdgeSearch,
    QualitySearch,
    Recipe,
    Rule,
    Run,
    Study,
    check_size,
    log_grid,
    planned_ids,
    run_from_json,
    runs_of,
    study_from_json,
    to_json,
)

RUN = Run(data="d" * 64, model="small", method="clippy", lr=0.1, seed=3, options={"rel": 0.5})


def make_study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "edges",
        "models": ("small", "large"),
        "arms": (Arm(method="none"), Arm(method="clippy", options={"rel": 0.5})),
        "lrs": (0.1, 0.2),
        "seeds": (0, 1),
    }
    return Study(**values | changes)


def test_equal_content_has_an_equal_id() -> None:
    same = Run(seed=3, lr=0.1, method="clippy", model="small", data="d" * 64, options={"rel": 0.5}, recipe=Recipe())
    assert same is not RUN
    assert same.id == RUN.id
    assert re.fullmatch("[0-9a-f]{64}", RUN.id)


def test_the_order_of_options_and_the_way_a_number_is_written_do_not_matter() -> None:
    one = dataclasses.replace(RUN, lr=1, options={"rel": 1, "layers": [2, {"abs": 3.0}]})
    other = dataclasses.replace(RUN, lr=1.0, options={"layers": [2.0, {"abs": 3}], "rel": 1.0})
    assert one.id == other.id
    assert dataclasses.replace(RUN, options={"on": True}).id != dataclasses.replace(RUN, options={"on": 1}).id


def test_the_id_is_the_hash_of_the_content_without_defaults() -> None:
    content = {
        "data": "d" * 64,
        "lr": 0.1,
        "method": "clippy",
        "model": "small",
        "options": {"rel": 0.5},
        "recipe": {"steps": 300},
        "results": 2,
        "seed": 3,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    run = dataclasses.replace(RUN, recipe=Recipe(steps=300))
    assert run.id == hashlib.sha256(text.encode()).hexdigest(), (
        "ids changed: recorded runs would be trained again. If results changed, raise RESULTS_VERSION and say so here"
    )


def test_an_option_added_later_keeps_the_ids_of_old_runs() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LaterRecipe(Recipe):
        dropout: float = 0.0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LaterRun(Run):
        recipe: Recipe = LaterRecipe()
        compiled: bool = False

    old: dict[str, Any] = {f.name: getattr(RUN, f.name) for f in dataclasses.fields(RUN)}
    old.pop("recipe")
    assert LaterRun(**old).id == RUN.id
    assert LaterRun(**old, recipe=LaterRecipe(dropout=0.1)).id != RUN.id
    assert LaterRun(**old, compiled=True).id != RUN.id


OTHER_RECIPE: dict[str, Any] = {
    "batch": 256,
    "steps": 10,
    "warmup": 0,
    "schedule": "cosine",
    "final_factor": 0.1,
    "decay_steps": 7,
    "decay_factor": 0.5,
    "window": 1,
    "embedding_dim": 16,
    "embedding_std": 0.1,
    "initial_accumulator": 0.0,
    "eps": 0.0,
    "embeddings": "method",
    "embeddings_lr": 0.05,
    "precision": "float64",
    "init_from": "f" * 64,
    "init_accumulators": "e" * 64,
}
NEEDS = {
    "final_factor": {"schedule": "linear"},
    "decay_steps": {"schedule": "step"},
    "decay_factor": {"schedule": "step"},
}
"""What else a field of a recipe needs."""
OTHER_RUN: dict[str, Any] = {
    "data": "e" * 64,
    "model": "large",
    "method": "none",
    "lr": 0.2,
    "seed": 4,
    "options": {"rel": 0.25},
    "recipe": Recipe(steps=10),
    "trainer": "mine.trainer",
}


def test_every_field_has_another_value_here() -> None:
    assert set(OTHER_RUN) == {f.name for f in dataclasses.fields(Run)}
    assert set(OTHER_RECIPE) == {f.name for f in dataclasses.fields(Recipe)}


def test_each_changed_field_changes_the_id() -> None:
    runs = [RUN]
    runs += [dataclasses.replace(RUN, **{name: value}) for name, value in OTHER_RUN.items()]
    recipes = [Recipe(**{name: value, **NEEDS.get(name, {})}) for name, value in OTHER_RECIPE.items()]
    runs += [dataclasses.replace(RUN, recipe=recipe) for recipe in recipes]
    # `recipe` in OTHER_RUN and `steps` in OTHER_RECIPE are the same change.
    assert len({run.id for run in runs}) == len(runs) - 1


def test_another_version_of_the_results_changes_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RUN.id
    monkeypatch.setattr("study.config.runs.RESULTS_VERSION", RESULTS_VERSION + 1)
    assert dataclasses.replace(RUN).id != before


def test_reserved_seeds_are_the_control() -> None:
    assert RUN.role == "cell"
    assert {dataclasses.replace(RUN, seed=seed).role for seed in CONTROL_SEEDS} == {"control"}


@given(
    st.floats(1e-6, MAX_LR),
    st.integers(0, CONTROL_SEEDS[0] - 1),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.booleans(), max_size=3),
)
def test_a_run_comes_back_from_json(lr: float, seed: int, options: dict) -> None:
    run = dataclasses.replace(RUN, lr=lr, seed=seed, options=options, recipe=Recipe(steps=7))
    back = run_from_json(json.loads(json.dumps(to_json(run))))
    assert back == run
    assert back.id == run.id


def test_a_study_comes_back_from_json() -> None:
    study = make_study(data_options={"rows": 100}, recipe=Recipe(steps=9, precision="float64"), rule=Rule(kept=0.5))
    values = json.loads(json.dumps(to_json(study)))
    assert values["rule"]["kept"] == 0.5
    assert values["rule"]["spike"] == 1.0
    back = study_from_json(values)
    assert back == study
    assert isinstance(back.arms[1], Arm)
    assert isinstance(back.lrs, tuple)


def test_options_of_a_recipe_that_older_versions_do_not_know_are_written_where_they_are_set() -> None:
    """Plans of older versions keep their hash, and older versions read a study that does not use them."""
    newer = {"schedule", "final_factor", "decay_steps", "decay_factor", "embeddings_lr"}
    for value in (make_study(), RUN):
        assert not newer & set(to_json(value)["recipe"])
    assert not newer & set(to_json(Recipe()))
    recipe = Recipe(schedule="step", decay_steps=7, embeddings_lr=0.05)
    study = make_study(recipe=recipe)
    written = to_json(study)
    assert {name: written["recipe"][name] for name in newer & set(written["recipe"])} == {
        "schedule": "step",
        "decay_steps": 7,
        "embeddings_lr": 0.05,
    }
    assert study_from_json(json.loads(json.dumps(written))) == study
    run = dataclasses.replace(RUN, recipe=recipe)
    assert run_from_json(json.loads(json.dumps(to_json(run)))).id == run.id


def test_a_study_of_unknown_fields_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^unknown fields in a study: colour$"):
        study_from_json(to_json(make_study()) | {"colour": "red"})


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RUN.lr = 0.2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(RUN, lr=0.0), "need 0 < lr <= 10000, got lr=0"),
        (lambda: dataclasses.replace(RUN, lr=math.nan), "need 0 < lr <= 10000, got lr=nan"),
        (
            lambda: dataclasses.replace(RUN, lr="1e-3"),
            "need a number as lr, got lr='1e-3'; YAML reads 1e-3 as text and 1.0e-3 as a number",
        ),
        (lambda: dataclasses.replace(RUN, lr=1.1e4), "need 0 < lr <= 10000, got lr=11000"),
        (lambda: dataclasses.replace(RUN, seed=-1), "need 0 <= seed < 1000000000, got seed=-1"),
        (lambda: dataclasses.replace(RUN, seed=10**9 + 4), "need 0 <= seed < 1000000000, got seed=1000000004"),
        (lambda: make_study(seeds=(CONTROL_SEEDS[0],)), "need 0 <= seed < 1000000000, got seed=1000000000"),
        (lambda: make_study(lrs=(0.1, -0.2)), "need 0 < lr <= 10000, got lr=-0.2"),
        (lambda: make_study(models=()), "need at least one of models"),
        (
            lambda: make_study(data_options={"at": [math]}),
            f"data_options: at needs texts, numbers, and lists or dicts of them, got {math!r}",
        ),
        (
            lambda: Arm("clippy", rel=math),
            f"options of the arm clippy: rel needs texts, numbers, and lists or dicts of them, got {math!r}",
        ),
        (lambda: Arm("a", rel=math.inf), "options of the arm a: rel needs a finite number, got inf"),
        (lambda: Arm("a", rel=[np.float32("nan")]), "options of the arm a: rel needs a finite number, got nan"),
        (lambda: Arm("a", {1: 2}), "options of the arm a needs texts as names, got 1"),
        (
            lambda: make_study(trainer="mine", trainer_options={"at": {None: 2}}),
            "trainer_options: at needs texts as names, got None",
        ),
        (lambda: make_study(seeds=(1, 2, 1)), "seeds names 1 twice"),
        (lambda: make_study(lrs=(1, 1.0)), "lrs names 1 twice"),
        (
            lambda: make_study(arms=(Arm(method="none"), Arm(method="none"))),
            'arms names {"method":"none","options":{}} twice',
        ),
        (lambda: Recipe(batch=100), "need a batch that is a multiple of 32, got batch=100"),
        (lambda: Recipe(batch=0), "need a batch that is a multiple of 32, got batch=0"),
        (lambda: Recipe(steps=0), "need steps >= 1, got steps=0"),
        (lambda: Recipe(warmup=-1), "need warmup >= 0, got warmup=-1"),
        (lambda: Recipe(schedule="cos"), "schedule is one of constant, linear, cosine, step; got 'cos'"),
        (lambda: Recipe(final_factor=0.1), "final_factor needs schedule=linear or cosine, got schedule=constant"),
        (
            lambda: Recipe(schedule="step", final_factor=0.1),
            "final_factor needs schedule=linear or cosine, got schedule=step",
        ),
        (lambda: Recipe(schedule="cosine", decay_steps=9), "decay_steps needs schedule=step, got schedule=cosine"),
        (lambda: Recipe(decay_factor=0.5), "decay_factor needs schedule=step, got schedule=constant"),
        (lambda: Recipe(schedule="cosine", final_factor=1.0), "need 0 <= final_factor < 1, got final_factor=1"),
        (lambda: Recipe(schedule="linear", final_factor=math.nan), "need 0 <= final_factor < 1, got final_factor=nan"),
        (lambda: Recipe(schedule="step", decay_factor=0.0), "need 0 < decay_factor < 1, got decay_factor=0"),
        (lambda: Recipe(schedule="step", decay_steps=0), "need decay_steps >= 1, got decay_steps=0"),
        (lambda: Recipe(embeddings_lr=0.0), "need 0 < embeddings_lr <= 10000, got embeddings_lr=0"),
        (
            lambda: Recipe(embeddings_lr=0.1, embeddings="method"),
            "embeddings_lr needs embeddings=adagrad, got embeddings=method",
        ),
        (lambda: Recipe(window=0), "need window >= 1, got window=0"),
        (lambda: Recipe(embedding_dim=0), "need embedding_dim >= 1, got embedding_dim=0"),
        (lambda: Recipe(embedding_std=-1.0), "need embedding_std >= 0, got embedding_std=-1.0"),
        (lambda: Recipe(eps=math.inf), "need eps >= 0, got eps=inf"),
        (lambda: Recipe(initial_accumulator=-1.0), "need initial_accumulator >= 0, got initial_accumulator=-1.0"),
        (lambda: Recipe(init_accumulators="G"), "init_accumulators is the SHA-256 of accumulators, got 'G'"),
        (lambda: Recipe(precision="half"), "precision is one of float32, float64; got 'half'"),
        (lambda: Recipe(embeddings="no"), "embeddings is one of adagrad, method; got 'no'"),
        (lambda: Rule(kept=0.0), "need kept > 0, got kept=0.0"),
        (
            lambda: Rule(kept="1e-3"),  # pyright: ignore[reportArgumentType]
            "need a number as kept, got kept='1e-3'; YAML reads 1e-3 as text and 1.0e-3 as a number",
        ),
        (lambda: Rule(kept=1.0), "need kept < 1, got kept=1.0"),
        (lambda: Rule(spike=math.nan), "need spike > 0, got spike=nan"),
        (lambda: Rule(median_steps=24), "need an odd median_steps, got median_steps=24"),
        (lambda: log_grid(2.0, 1.0, 3), "need 0 < low <= high, got low=2, high=1"),
        (lambda: log_grid(0.1, 1.0, 0), "need count >= 1, got count=0"),
    ],
)
def test_a_bad_value_fails_where_it_is_made_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_a_grid_is_written_as_people_say_it() -> None:
    assert log_grid(0.01, 1.0, 5) == (0.01, 0.032, 0.1, 0.32, 1.0)
    assert log_grid(0.3, 0.3, 1) == (0.3,)
    # Two neighbours that round to one value are one value.
    assert log_grid(1.0, 1.02, 4) == (1.0,)


def test_a_grid_of_too_many_runs_can_be_read_and_not_trained() -> None:
    many = make_study(seeds=range(600_000), lrs=(0.1,), arms=(Arm("none"),), models=("small",))
    with pytest.raises(ValueError, match=r"at most 500,000 runs, and these are 600,000"):
        validate_study(many)
    with pytest.raises(ValueError, match=r"at most 1,000,000 runs, and these are 1,200,000"):
        make_study(seeds=range(1_200_000), lrs=(0.1,), arms=(Arm("none"),), models=("small",))


SIZES = {"models": 1, "arms": [20] * 10_001, "seeds": 1, "control_lrs": 0, "grid": True}
"""The largest study of `tests/benchmarks/load.py`."""


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"seeds": 5}, "1,000,000 runs, and these are 1,000,100"),
        ({"seeds": 50, "grid": False}, "10,000,000 runs, and these are 10,001,000"),
        ({"arms": [600_000]}, "500,000 cells, and these are 600,000"),
        ({"models": 2, "grid": False}, "20,000 curves, and these are 20,002"),
        ({"arms": [1], "models": 2_001}, "2,000 models and lrs of the control, and these are 2,001"),
        ({"arms": [1], "models": 2, "control_lrs": 1_001}, "2,000 models and lrs of the control, and these are 2,002"),
    ],
)
def test_what_no_command_could_read_in_seconds_is_no_study(sizes: dict[str, Any], message: str) -> None:
    check_size(**SIZES)
    with pytest.raises(ValueError, match=f"^a study has at most {message}$"):
        check_size(**{**SIZES, **sizes})


def test_planned_ids_are_those_of_the_runs() -> None:
    study = make_study(arms=(Arm("none"), Arm("clippy", rel=0.5, lrs=(1, 0.3))), lrs=(0.1, 2))
    found = {run_id: (model, arm, lr, seed) for model, arm, lr, seed, run_id in planned_ids(study, "content")}
    runs = {run.id: (run.model, Arm(run.method, run.options), run.lr, run.seed) for run in runs_of(study, "content")}
    assert {i: (m, Arm(a.method, a.options), lr, s) for i, (m, a, lr, s) in found.items()} == runs


def test_a_message_does_not_list_thousands_of_values() -> None:
    with pytest.raises(ValueError, match=r"^seeds names 0, 1, 10, 11, 12 and 95 more twice$"):
        make_study(seeds=(*range(100), *range(100)))


def test_each_arm_is_written_once_to_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 arms were compared with each other, in 100 million pairs."""

    class Text(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Text.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    written = config.canonical_json
    monkeypatch.setattr("study.config.study.canonical_json", lambda value: Text(written(value)))
    make_study(arms=tuple(Arm("clippy", rel=0.1 + i) for i in range(300)))
    assert Text.compared < 1_000


def test_methods_are_compared_with_the_untreated_one_or_with_those_that_the_study_names() -> None:
    arms = tuple(map(Arm, ("none", "agc", "spam", "lion")))
    named = make_study(arms=arms, compare=("agc", "spam"))
    pairs = [(arm.method, comparator) for arm, comparator in config.planned_contrasts(named)]
    against_agc = [("none", "agc"), ("spam", "agc"), ("lion", "agc")]
    assert pairs == [*against_agc, ("none", "spam"), ("lion", "spam")]  # two comparators are compared once
    pairs = [(arm.method, comparator) for arm, comparator in config.planned_contrasts(make_study(arms=arms))]
    assert pairs == [("agc", "none"), ("spam", "none"), ("lion", "none")]
    assert config.control_of(named, "d")[0].method == "none"
    assert config.planned_contrasts(make_study(arms=arms[1:])) == []


def test_comparators_come_back_from_json_and_are_left_out_where_none_is_named() -> None:
    assert "compare" not in to_json(make_study())
    named = make_study(compare=("clippy",))
    assert to_json(named)["compare"] == ["clippy"]
    assert study_from_json(json.loads(json.dumps(to_json(named)))) == named


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("clippy", "compare needs a tuple, got 'clippy'"),
        (("agc",), "compare names 'agc', but the study's methods are none, clippy"),
        (("none", "none"), "compare names a method twice: none, none"),
    ],
)
def test_a_comparator_that_no_arm_has_is_refused(compare: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_study(compare=compare)


@pytest.mark.parametrize("part", ["recipe", "rule"])
def test_a_recipe_and_a_rule_are_no_mappings(part: str) -> None:
    with pytest.raises(ValueError, match=f"{part} is made by {part.title()}\\(...\\), got {{}}"):
        make_study(**{part: {}})


def test_paths_and_numbers_of_numpy_in_options_become_values_of_json() -> None:
    folder = Path("tab")
    study = make_study(
        data="table",
        data_options={
            "dir": folder,
            "rows": np.int64(3),
            "parts": [folder, np.float32(0.5)],
            "more": {"at": (folder,)},
        },
        trainer_options={"dir": folder},
        arms=(Arm("none"), Arm("clippy", at=folder, rel=np.float64(0.5))),
    )
    assert study.data_options == {"dir": "tab", "rows": 3, "parts": ["tab", 0.5], "more": {"at": ["tab"]}}
    assert study.trainer_options == {"dir": "tab"}
    assert study.arms[1].options == {"at": "tab", "rel": 0.5}
    assert study_from_json(to_json(study)) == study
    assert Loop(command="x", losses=Path("losses.csv")).losses == "losses.csv"


def test_studies_and_arms_are_shown_in_a_line_and_stay_values() -> None:
    study = make_study(recipe=Recipe(steps=60), data_options={"rows": 9000})
    assert repr(study) == (
        "<Study edges: small, large; 2 arms: none, clippy rel=0.5; 2 lrs from 0.1 to 0.2; 2 seeds from 0 to 1; "
        "16 runs on synthetic>"
    )
    shown = study._repr_html_()
    assert "<tr><th>recipe</th><td>steps=60</td></tr>" in shown
    assert "synthetic rows=9000" in shown
    assert "rule" not in shown
    many = make_study(arms=tuple(Arm("clippy", rel=r) for r in range(1, 31)), name="<b>")
    assert "30 arms: clippy rel=1," in repr(many)
    assert " and 22 more;" in repr(many)
    assert len(repr(many)) < 300
    assert "&lt;b&gt;" in many._repr_html_()
    assert "; EdgeSearch on synthetic>" in repr(make_study(search=EdgeSearch()))
    assert "; 1 seed: 3; 4 runs of the trainer mine>" in repr(make_study(trainer="mine", models=("a",), seeds=(3,)))
    assert "; 2 seeds from 7 to 1000000; " in repr(make_study(seeds=(7, 1_000_000)))
    assert "; 1 seed: 1234567; " in repr(make_study(seeds=(1_234_567,)))
    for arm in (Arm("none"), Arm("clippy", rel=0.5), Arm("a", {"lrs": 1, "x y": "z"}), Arm("lion", lrs=(0.1, 0.2))):
        assert eval(repr(arm)) == arm
        assert repr(arm) in html.unescape(arm._repr_html_())
    for value in (Recipe(steps=3), Rule(), EdgeSearch(), QualitySearch()):
        assert html.unescape(value._repr_html_()) == f"<code>{value!r}</code>"
    assert repr(Arm("clippy", rel=0.5)) == "Arm('clippy', rel=0.5)"
    assert (
        pickle.loads(pickle.dumps(study)) == study == make_study(recipe=Recipe(steps=60), data_options={"rows": 9000})
    )
    assert study != many


OWN_GRID = (Arm("none"), Arm("lion", {"rel": 0.5}, lrs=(0.003, 0.001)))


def test_an_arm_has_a_grid_of_its_own_in_place_of_the_shared_one() -> None:
    study = make_study(models=("small",), arms=OWN_GRID, seeds=(0,))
    runs = config.runs_of(study, "d" * 64)
    assert [(run.method, run.lr) for run in runs] == [("none", 0.1), ("none", 0.2), ("lion", 0.001), ("lion", 0.003)]
    assert make_study(arms=OWN_GRID, lrs=(0.1,)).cells == 2 * (1 + 2)
    shared = make_study(arms=(Arm("lion", {"rel": 0.5}),), lrs=(0.001,))
    assert runs[2].id == shared.run("d" * 64, "small", shared.arms[0], 0.001, 0).id


def test_a_grid_of_an_arm_comes_back_from_json_and_is_left_out_where_there_is_none() -> None:
    study = make_study(arms=OWN_GRID)
    none, lion = to_json(study)["arms"]
    assert none == {"method": "none", "options": {}}
    assert lion == {"method": "lion", "options": {"rel": 0.5}, "lrs": [0.001, 0.003]}
    assert study_from_json(json.loads(json.dumps(to_json(study)))) == study


@pytest.mark.parametrize(
    ("lrs", "message"),
    [
        ((0.1, 0.2, 0.1), "lrs of the arm lion names 0.1 twice"),
        ((0.1, "1e-3"), "need a number as lr, got lr='1e-3'"),
        ((0.0,), "need 0 < lr <= 10000, got lr=0"),
        (0.1, "lrs of the arm lion needs a tuple, got 0.1"),
    ],
)
def test_a_bad_grid_of_an_arm_is_refused(lrs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Arm("lion", lrs=lrs)


def test_arms_that_differ_in_their_grids_alone_are_one_curve() -> None:
    with pytest.raises(ValueError, match=r"arms names .* twice"):
        make_study(arms=(Arm("lion"), Arm("lion", lrs=(0.1,))))


def test_the_control_of_a_loop_begins_below_the_grid_of_its_own_arm() -> None:
    study = make_study(trainer="loops.mine", arms=(Arm("plain", lrs=(0.01, 0.02)), Arm("warm")))
    assert max(study.control_lrs) == 0.01
