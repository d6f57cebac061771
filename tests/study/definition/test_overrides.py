"""`--set key=value`: each form does what it says, and what is wrong gets an answer that names the right keys."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config import Arm, EdgeSearch, Recipe, Rule, Study
from study.definition.overrides import apply, seeds, with_search

STUDY = Study(
    name="edges",
    models=("small", "large"),
    arms=(Arm(method="none"), Arm(method="clippy", options={"rel": 0.5}), Arm(method="clippy", options={"rel": 0.1})),
    lrs=(0.1, 0.2),
    seeds=(0, 1),
    data_options={"rows": 1000},
)


def after(*settings: str) -> Study:
    return apply(STUDY, settings)


def test_axes_are_replaced() -> None:
    assert after("models=small_dcn, own_models.linear").models == ("small_dcn", "own_models.linear")
    assert after("lr=0.4,0.1, 1e-3").lrs == (0.001, 0.1, 0.4)
    assert after("seeds=0-2,9").seeds == (0, 1, 2, 9)
    assert after("control_lrs=0.02,0.01").control_lrs == (0.01, 0.02)
    assert after().lrs == STUDY.lrs
    assert apply(STUDY, []) == STUDY


def test_methods_keep_their_arms_or_come_with_defaults() -> None:
    assert after("methods=clippy,agc").arms == (*STUDY.arms[1:], Arm(method="agc"))
    assert after("methods=none").arms == (Arm(method="none"),)


def test_arms_that_become_one_have_the_lrs_of_all() -> None:
    arms = (Arm("clippy", rel=0.5, lrs=(0.4,)), Arm("clippy", rel=0.1, lrs=(0.8,)), Arm("none"))
    study = apply(dataclasses.replace(STUDY, arms=arms), ["clippy.rel=0.2"])
    assert study.arms == (Arm("clippy", rel=0.2, lrs=(0.4, 0.8)), Arm("none"))
    study = apply(dataclasses.replace(STUDY, arms=(arms[0], Arm("clippy", rel=0.1))), ["clippy.rel=0.2"])
    assert study.arms == (Arm("clippy", rel=0.2, lrs=(0.1, 0.2, 0.4)),)


def test_parameters_of_a_method_make_one_arm_a_value() -> None:
    arms = after("methods=none,agc", "agc.max_ratio=0.1,0.01").arms
    assert arms == (Arm(method="none"), *(Arm(method="agc", options={"max_ratio": v}) for v in (0.1, 0.01)))
    both = after("methods=agc", "agc.max_ratio=0.1,0.01", "agc.per=unit,tensor").arms
    assert [(a.options["max_ratio"], a.options["per"]) for a in both] == [
        (0.1, "unit"),
        (0.1, "tensor"),
        (0.01, "unit"),
        (0.01, "tensor"),
    ]
    assert after("methods=clippy", "clippy.delayed=true", "clippy.abs=0").arms == tuple(
        Arm(method="clippy", options={"rel": rel, "delayed": True, "abs": 0}) for rel in (0.5, 0.1)
    )


def test_a_value_for_every_arm_of_a_method_does_not_double_them() -> None:
    assert after("clippy.rel=0.3").arms == (Arm(method="none"), Arm(method="clippy", options={"rel": 0.3}))


def test_the_order_of_axis_and_parameter_does_not_matter() -> None:
    assert after("agc.max_ratio=0.1", "methods=agc") == after("methods=agc", "agc.max_ratio=0.1")


def test_recipe_rule_and_data_options_are_set() -> None:
    changed = after("steps=300", "batch=256", "eps=1e-6", "embeddings=method", "rule.kept=0.5", "rule.median_steps=5")
    assert changed.recipe == Recipe(steps=300, batch=256, eps=1e-6, embeddings="method")
    assert changed.rule == Rule(kept=0.5, median_steps=5)
    assert apply(changed, ["steps=None"]).recipe.steps is None
    options = after("data.rows=50000", "data.signal=1.5", "data.dir=here", "data.flag=False").data_options
    assert options == {"rows": 50000, "signal": 1.5, "dir": "here", "flag": False}
    assert isinstance(after("warmup=1e1").recipe.warmup, int)


@pytest.mark.parametrize(
    "settings",
    [("schedule=step", "decay_steps=9", "embeddings_lr=0.1"), ("embeddings_lr=1e-1", "decay_steps=9", "schedule=step")],
)
def test_options_of_the_recipe_that_need_each_other_come_in_any_order(settings: tuple[str, ...]) -> None:
    recipe = after(*settings).recipe
    assert recipe == Recipe(schedule="step", decay_steps=9, embeddings_lr=0.1)
    back = apply(
        dataclasses.replace(STUDY, recipe=recipe), ["decay_steps=None", "schedule=constant", "embeddings_lr=None"]
    )
    assert back.recipe == Recipe()


def test_a_value_may_hold_an_equals_sign() -> None:
    assert after("data.dir=a=b").data_options["dir"] == "a=b"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps", "--set takes key=value, got 'steps'"),
        ("=3", "--set takes key=value, got '=3'"),
        ("steps=", "--set takes key=value, got 'steps='"),
        ("stpes=3", "unknown key 'stpes'; there are models, methods, lr, seeds, control_lrs, .*METHOD.PARAMETER"),
        ("lrs=0.1", "unknown key 'lrs'"),
        ("clipy.rel=3", r"unknown key 'clipy.rel'.*\. Did you mean clippy.rel\?"),
        ("smal.width=3", r"unknown key 'smal.width'.*\. Did you mean small.width\?"),
        ("ruel.kept=0.5", r"unknown key 'ruel.kept'.*\. Did you mean rule.kept\?"),
        ("rule.keep=1", "unknown key 'rule.keep'; the rule has kept, once_had"),
        ("lr=fast", "need a number, got lr=fast"),
        ("lr=nan", "need a finite number, got lr=nan"),
        ("lr=0.1,,0.2", "an empty value in '0.1,,0.2'"),
        ("lr=-0.1", "need 0 < lr <= 10000, got lr=-0.1"),
        ("lr=0", "need 0 < lr"),
        ("lr=0.1,0.1", "lrs names 0.1 twice"),
        ("steps=1.5", "need a whole number, got steps=1.5"),
        ("steps=0", "need steps >= 1, got steps=0"),
        ("steps=inf", "need a finite number, got steps=inf"),
        ("batch=100", "need a batch that is a multiple of 32, got batch=100"),
        ("batch=None", "need a number, got batch=None"),
        ("precision=float16", "precision is one of float32, float64; got 'float16'"),
        ("schedule=warm", "schedule is one of constant, linear, cosine, step; got 'warm'"),
        ("final_factor=0.1", "final_factor needs schedule=linear or cosine, got schedule=constant"),
        ("embeddings_lr=fast", "need a number, got embeddings_lr=fast"),
        ("rule.kept=2", "need kept < 1, got kept=2"),
        ("seeds=3-1", "seeds are numbers and ranges"),
        ("seeds=a", "seeds are numbers and ranges"),
        ("seeds=-1", "seeds are numbers and ranges"),
        ("seeds=0-2000000", "asks for over a million seeds"),
        ("seeds=1000000000", "need 0 <= seed < 1000000000"),
        ("models=", "--set takes key=value"),
        ("models=small,small", 'models names "small" twice'),
        ("lamb.mu=0.1", "lamb.mu is set, but lamb is not among the study's methods"),
        ("clippy.rel=nan", "need a finite number, got clippy.rel=nan"),
    ],
)
def test_what_is_wrong_gets_an_answer(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        after(setting)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 30)), min_size=1, max_size=5))
def test_seeds_read_back_what_was_written(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = [seed for first, more in ranges for seed in range(first, first + more + 1)]
    assert list(seeds(text)) == list(dict.fromkeys(expected))


def test_options_of_a_search_are_replaced_where_there_is_one() -> None:
    searched = dataclasses.replace(STUDY, search=EdgeSearch(budget=100))
    assert with_search(searched, {"level": 0.05}).search == EdgeSearch(level=0.05, budget=100)
    assert with_search(searched, {}) == searched
    assert with_search(STUDY, {}) == STUDY
    with pytest.raises(ValueError, match="--level is an option of a search, and edges is a plan of fixed runs"):
        with_search(STUDY, {"level": 0.05})
    with pytest.raises(ValueError, match="edges has no risk: its search has level, precision, budget"):
        with_search(searched, {"risk": 0.05})
    with pytest.raises(ValueError, match="need 0 < level < 1, got level=1"):
        with_search(searched, {"level": 1.0})


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        ([32], "16", 16),
        ([32], "16.0", 16),
        ([0.9], "1", 1),
        ([0, 0.9], "0.5", 0.5),
        ([False], "true", True),
        (["cosine"], "linear", "linear"),
        (["cosine"], "5", "5"),
        (["cosine"], "true", "true"),
        (["auto", 8], "16", 16),
        (["auto", 8], "full", "full"),
        ([False, 0.5], "0.1", 0.1),
        ([None], "abc", "abc"),
        ([None, 8], "0.5", 0.5),
        ([], "0.5", 0.5),
    ],
)
def test_an_option_has_the_kind_of_its_values_in_the_study(values: list, text: str, expected: object) -> None:
    changed = apply(STUDY, [f"clippy.more={text}"], {"more": values}).arms[1].options["more"]
    assert (changed, type(changed)) == (expected, type(expected))


@pytest.mark.parametrize(
    "settings", [("methods=none,agc,lamb", "compare=agc,none"), ("compare=agc,none", "methods=none,agc,lamb")]
)
def test_comparators_are_set_in_any_order(settings: tuple[str, ...]) -> None:
    assert apply(STUDY, settings).compare == ("agc", "none")


def test_a_comparator_that_methods_leave_out_is_refused() -> None:
    named = dataclasses.replace(STUDY, compare=("clippy",))
    with pytest.raises(ValueError, match="compare names 'clippy', but the study's methods are none, agc"):
        apply(named, ["methods=none,agc"])
    assert apply(named, ["methods=none,agc", "compare=agc"]).compare == ("agc",)


def test_an_arm_gets_a_grid_of_its_own() -> None:
    study = after("clippy.lrs=0.8,0.4")
    assert [study.lrs_of(arm) for arm in study.arms] == [(0.1, 0.2), (0.4, 0.8), (0.4, 0.8)]
    both = after("clippy.lrs=0.8", "clippy.rel=0.2,0.3", "lr=0.3")
    assert [both.lrs_of(arm) for arm in both.arms] == [(0.3,), (0.8,), (0.8,)]
    with pytest.raises(ValueError, match=r"agc\.lrs is set, but agc is not among the study's methods"):
        after("agc.lrs=0.1")
    with pytest.raises(ValueError, match=r"need a number, got clippy\.lrs=high"):
        after("clippy.lrs=high")


def test_an_own_model_or_method_is_named_in_full() -> None:
    study = dataclasses.replace(STUDY, models=("my_models.bn_moe width=64",))
    with pytest.raises(ValueError, match=r"Did you mean my_models\.bn_moe\.experts\?"):
        apply(study, ["bn_moe.experts=8"])
