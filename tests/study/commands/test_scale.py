"""`study scale`: the size of a record, its fit, and each request that is not valid."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records import make_definition
from scale_record import power_law, write_sizes

import analysis
from analysis.loading import with_curves
from analysis.stats.edges import fits
from search_spaces import scale as space
from search_spaces import scale_batch
from study.api.result import Result
from study.cli.main import main
from study.commands import family as families
from study.commands import sizes
from study.commands.scale import parse_at
from study.config import Arm, QualitySearch, Recipe
from study.definition import model_options
from study.definition.family import Family, Member
from study.record.definition import open_study, read_definition, write_definition
from study.record.tables import read_runs
from study.storage import stores

DEPTHS = (1, 2, 3, 4, 6, 12)


@pytest.fixture(scope="module")
def depths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depths")
    edges = power_law(DEPTHS, 0.9, -0.5, layer_clip=1.6, clippy=50)
    edges["ranker"] = edges.pop("ranker depth=2")  # as a record writes the default
    write_sizes(folder, edges)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one line that a refused command prints."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_exponents_and_predictions_are_printed_and_written(depths, capsys):
    assert main(["scale", str(depths)]) == 0
    assert "predicted from" not in capsys.readouterr().out
    assert main(["scale", str(depths), "--at", "ranker.depth=12,24"]) == 0
    printed = capsys.readouterr().out
    assert "ranker.depth, 6 sizes from 1 to 12" in printed
    assert "predicted from ranker.depth below 12" in printed
    assert "held up to 1.3 times the largest fitted size (2 times for the best curve)." in printed
    assert "clippy, LR50 at 12" in printed
    assert "cannot say: 0 of 5 edges were reached" in printed
    for name in ("tables/scale.csv", "tables/scale_predictions.csv", "figures/scale.png"):
        assert (depths / name).stat().st_size > 100


def test_json_has_the_held_out_size_beside_its_prediction(depths, capsys):
    assert main(["scale", str(depths), "--at", "ranker.depth=12,24", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["axis"] == "ranker.depth"
    assert sorted({row["size"] for row in values["edges"]}) == [1, 2, 3, 4, 6, 12]
    shown = {(row["curve"], row["level"], row["size"]): row for row in values["predictions"]}
    held_out, new = shown["none", 0.5, 12], shown["none", 0.5, 24]
    assert held_out["inside"] is True
    assert held_out["low"] < 0.9 * 12**-0.5 < held_out["high"]
    assert held_out["measured"] == pytest.approx(0.9 * 12**-0.5, rel=0.1)
    assert new["measured"] is None
    assert shown["clippy", 0.5, 24]["low"] is None
    exponent = next(row for row in values["exponents"] if row["curve"] == "none" and row["level"] == 0.5)
    assert exponent["exponent_low"] < -0.5 < exponent["exponent_high"]


def test_a_later_call_leaves_no_prediction_of_an_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    url = f"memory://tests/{tmp_path.name}"
    folder = stores.folder_of(url)
    write_sizes(folder, power_law((1, 3, 4, 6), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    for path in [folder / "study.json", *folder.glob("*/*.parquet")]:
        stores.store_for(url).put(path.relative_to(folder).as_posix(), path.read_bytes())

    def predicted() -> set[str]:
        files = {"scale_predictions.csv"}
        described = json.loads((folder / "tables" / "columns.json").read_text())["tables"]
        assert files & set(stores.store_for(url).names("tables")) == files & set(described)
        return files & {path.name for path in (folder / "tables").iterdir()}

    assert main(["scale", url, "--at", "ranker.depth=12"]) == 0
    assert predicted()
    assert main(["scale", url]) == 0
    assert not predicted()
    assert (folder / "tables" / "scale_points.csv").is_file()


def test_a_report_predicts_at_the_sizes_of_the_last_call(tmp_path):
    write_sizes(tmp_path, power_law((1, 3, 4, 6), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    predictions = tmp_path / "tables" / "scale_predictions.csv"
    assert main(["scale", str(tmp_path), "--at", "ranker.depth=6,12"]) == 0
    before = pd.read_csv(predictions)
    assert main(["report", str(tmp_path)]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(predictions), before)
    assert ">predicted</th>" in (tmp_path / "report.html").read_text()


def test_a_report_says_why_nothing_is_predicted_and_what_the_markers_are(tmp_path):
    """It once said `cannot say` without a reason."""
    write_sizes(tmp_path, power_law((1, 3, 4, 6), 0.5, -0.5, clippy=50), lrs=(0.1, 0.3, 0.9), seeds=3)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Diamonds" not in page
    assert main(["scale", str(tmp_path), "--at", "ranker.depth=6,12"]) == 0
    assert main(["report", str(tmp_path)]) == 0
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "clippy, LR50 at 6, LR50 at 12, LR05 at 6, LR05 at 12: cannot say: 0 of 3 edges were reached" in page
    assert "Diamonds: predictions with 95% intervals, drawn a little right of their size. Open markers:" in page


@pytest.mark.parametrize(
    "left", [b"", b"size\n12\n", b"axis,size\nbatch,12\n", b"axis,size\nranker.depth,-1\nranker.depth,many\n"]
)
def test_a_report_drops_predictions_that_are_not_of_its_size(tmp_path, left):
    write_sizes(tmp_path, power_law((1, 3, 4), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    predictions = tmp_path / "tables" / "scale_predictions.csv"
    predictions.parent.mkdir(exist_ok=True)
    predictions.write_bytes(left)
    assert main(["report", str(tmp_path)]) == 0
    assert not predictions.exists()


def test_a_report_writes_the_points_of_its_figure(tmp_path):
    write_sizes(tmp_path, power_law((1, 3, 4), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    assert main(["report", str(tmp_path)]) == 0
    points = pd.read_csv(tmp_path / "tables" / "scale_points.csv")
    assert sorted(set(points["size"])) == [1, 3, 4]
    assert (tmp_path / "figures" / "scale.png").is_file()


def test_json_is_printed_and_nothing_is_written(tmp_path, capsys):
    write_sizes(tmp_path, power_law((1, 3, 4), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    before = sorted(tmp_path.rglob("*"))
    assert main(["scale", str(tmp_path), "--at", "ranker.depth=8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["axis"] == "ranker.depth"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["figures", "tables"])
@pytest.mark.parametrize("command", ["scale", "report"])
def test_a_file_in_place_of_a_folder_is_refused_before_anything_is_written(tmp_path, capsys, command, name):
    write_sizes(tmp_path, power_law((1, 3, 4), 0.5, -0.5), lrs=(0.1, 0.3, 0.9), seeds=3)
    (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    said = refused(capsys, command, tmp_path)
    assert said == f"study: {tmp_path / name} is a file, and no study makes one there: remove it first\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_each_at_of_a_command_counts(depths, capsys):
    assert main(["scale", str(depths), "--at", "ranker.depth=12", "--at", "ranker.depth=24,48", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {row["size"] for row in values["predictions"]} == {12, 24, 48}
    two_keys = refused(capsys, "scale", depths, "--at", "ranker.depth=12", "--at", "ranker.width=24")
    assert "--at takes sizes of one key, got ranker.depth and ranker.width" in two_keys


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("ranker.depth=12,12", "given twice"),
        ("ranker.depth=deep", "a size is a positive number"),
        ("ranker.depth=true", "a size is a positive number"),
        ("ranker.depth=-3", "a size is a positive number"),
        ("ranker.depth=nan", "finite"),
        ("ranker.depth=1e300", "a size is a positive number below"),
        (f"ranker.depth={'9' * 400}", "a size is a positive number below"),
        ("ranker.depth=12.5", "whole number"),
        ("ranker.depth", "KEY=SIZE"),
        ("ranker.width=512", "ranker.width does not vary"),
        ("ranker.depth=0.5", "whole number"),
        ("ranker.depth=1", "above the smallest"),
        ("ranker.depth=3", "needs 3 sizes below 3"),
    ],
)
def test_invalid_sizes_are_refused_in_one_line(depths, capsys, at, words):
    assert words in refused(capsys, "scale", depths, "--at", at)


def test_records_without_a_size_are_refused(tmp_path, capsys):
    def record(name, edges, **changes):
        write_sizes(tmp_path / name, edges, lrs=(0.1, 0.3, 0.9), seeds=3, **changes)
        return tmp_path / name

    two = record("two", power_law((1, 4), 0.5, -0.5))
    assert "needs 3 sizes or more, got ranker.depth=1, 4" in refused(capsys, "scale", two)
    names = record("names", {"small": {"none": 0.4}, "large": {"none": 0.3}, "large_dcn": {"none": 0.3}})
    assert "no size varies" in refused(capsys, "scale", names)
    both = power_law((1, 3, 4), 0.5, -0.5) | power_law((16, 32, 128), 0.5, -0.5, key="ranker width")
    several = refused(capsys, "scale", record("both", both))
    assert "several sizes vary" in several
    assert "ranker.depth" in several
    assert "ranker.width" in several
    words = {f"ranker layer_norm={value} cross_layers=1": {"none": 0.4} for value in ("true", "false")}
    assert "ranker.layer_norm is not a positive number" in refused(capsys, "scale", record("words", words))
    assert "is not above the smallest" in refused(
        capsys, "scale", record("three", power_law((3, 4, 6), 0.5, 0)), "--at", "ranker.depth=1"
    )
    censored = record("censored", power_law((1, 3, 4), 50, 0))
    assert "no edge was reached at any ranker.depth" in refused(capsys, "scale", censored)
    assert "holds no study" in refused(capsys, "scale", tmp_path / "nowhere")


@pytest.mark.parametrize("over", [[], ["--over", "steps"]])
def test_records_without_edges_are_refused(tmp_path, capsys, over):
    models = tuple(power_law((1, 3, 4), 0.5, -0.5))
    open_study(tmp_path / "empty", make_definition(models=models, arms=(Arm("none"),), lrs=(0.1, 0.2), seeds=(0,)))
    assert "has no runs yet" in refused(capsys, "scale", tmp_path / "empty", *over)
    search = QualitySearch()
    write_sizes(tmp_path / "best", power_law((1, 3, 4), 0.5, -0.5), lrs=(0.1, 0.9), seeds=1, search=search)
    assert "search for the best quality" in refused(capsys, "scale", tmp_path / "best", *over)


def test_a_curve_with_few_sizes_does_not_stop_the_others(tmp_path, capsys):
    edges = power_law((1, 2, 3, 4, 6, 12), 0.5, -0.5, agc=0.8)
    for model in [*edges][2:5]:
        del edges[model]["agc"]
    write_sizes(tmp_path, edges, seeds=5)
    assert main(["scale", str(tmp_path), "--at", "ranker.depth=12"]) == 0
    printed = capsys.readouterr().out
    assert "agc, LR50 at 12, LR05 at 12: cannot say: a fit needs 3 sizes below 12, and it has 2" in printed
    assert "none, LR50 at 12" not in printed


def test_a_curve_without_a_fit_is_named(tmp_path, capsys):
    edges = power_law((1, 3, 4, 6), 0.5, -0.5, agc=0.8)
    for model in [*edges][2:]:
        del edges[model]["agc"]
    write_sizes(tmp_path, edges, seeds=3)
    note = "1 curve left out, with fewer than 3 sizes: agc on ranker (2)"
    assert main(["scale", str(tmp_path)]) == 0
    assert f"note: {note}" in capsys.readouterr().out.splitlines()
    assert main(["scale", str(tmp_path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["too_few_sizes"] == [{"model": "ranker", "curve": "agc", "sizes": 2}]
    assert {row["curve"] for row in values["edges"]} == {"none"}
    assert main(["report", str(tmp_path)]) == 0
    assert note in (tmp_path / "report.html").read_text()


def test_each_model_has_its_own_reasons(tmp_path, capsys):
    edges = power_law((1, 3, 4, 6), 0.5, -0.5)
    edges |= {f"{model} cross_layers=2": {"none": 50.0} for model in edges}
    write_sizes(tmp_path, edges, seeds=3)
    assert main(["scale", str(tmp_path), "--at", "ranker.depth=8"]) == 0
    first, second = capsys.readouterr().out.split("ranker cross_layers=2:")
    assert "edges were reached" not in first
    assert "edges were reached" in second


def test_one_of_several_sizes_can_be_named(tmp_path):
    both = power_law((1, 3, 4), 0.5, -0.5) | power_law((16, 32, 128), 0.5, -0.2, key="ranker width")
    write_sizes(tmp_path, both | {"ranker": {"none": 0.4}}, seeds=3)
    axis, points = sizes.of_folder(tmp_path, "ranker.width")
    assert axis == "ranker.width"
    # Of depth 2, the default; the others have one width alone.
    assert sorted(set(points["size"])) == [16, 32, 64, 128]


def test_the_size_of_a_loop_is_an_option_of_its_arms(tmp_path):
    edges = {"loop": {"plain": 0.4, "clip": 0.8}}
    for i, width in enumerate((16, 32, 64)):
        write_sizes(tmp_path / str(i), edges, options={"loop": {"width": width}}, seeds=3, trainer="my.loop")

    runs = with_curves(pd.concat([read_runs(tmp_path / str(i)) for i in range(3)], ignore_index=True))
    axis, points = sizes.of_study(read_definition(tmp_path / "0").study, runs, fits(runs))
    assert axis == "width"
    assert sorted(set(points["size"])) == [16, 32, 64]
    assert set(points["curve"]) == {"plain", "clip"}
    _, own = sizes.of_study(read_definition(tmp_path / "0").study, runs, fits(runs), "clip.width")
    assert set(own["curve"]) == {"clip"}


def loop_with_default(folder: Path, **data: Any) -> Path:
    """A loop's record with the widths 16, 64 and 128, and one arm that names no width."""
    for i, width in enumerate((16, None, 64, 128)):
        edges = {"loop": {"plain": 0.9 * (width or 32) ** -0.5, "other": 0.2}}
        own = {"momentum": 0.5} | ({} if width is None else {"width": width})
        options = {"trainer": "loop", "trainer_options": {"function": "mine:train", "tasks": ["loss"]}}
        definition = write_sizes(folder / str(i), edges, options={"loop": own}, seeds=3, **options)
        for path in (folder / str(i)).glob("*/*.parquet"):
            (folder / path.parent.name).mkdir(exist_ok=True)
            path.rename(folder / path.parent.name / f"{i}.parquet")
        write_definition(folder, dataclasses.replace(definition, data=definition.data | data))
    return folder


def test_an_arm_of_a_loop_that_names_no_size_has_the_default(tmp_path):
    folder = loop_with_default(tmp_path, defaults={"width": 32, "momentum": 0.9, "unused": 1})
    axis, points = sizes.of_folder(folder)
    assert axis == "width"
    assert sorted(set(points["size"])) == [16, 32, 64, 128]
    assert set(points["curve"]) == {"plain", "other"}
    result = Result(folder)
    assert set(result.runs["curve"]) >= {"plain width=32", "plain width=16"}
    assert sorted(set(result.frontier()["value"])) == [16, 32, 64, 128]


def test_a_loop_record_of_an_older_version_is_not_fitted_without_its_default(tmp_path, capsys):
    said = refused(capsys, "scale", loop_with_default(tmp_path))
    assert "kept no default of width; repeat its `study run`" in said


def family(folder: Path, recipes: dict[str, Recipe], **changes: Any) -> None:
    members = []
    for i, (label, recipe) in enumerate(recipes.items()):
        own = {key: values[i] for key, values in changes.items()} | {"recipe": recipe}
        definition = write_sizes(folder / label, {"small": {"none": 0.3 * 2**i}}, name=label, seeds=3, **own)
        members.append(Member(label=label, words=label, study=definition.study))
    made = Family(name="batches", members=tuple(members))
    families._write(folder, made, {member.label: member.study for member in made.members})


def test_the_size_of_a_family_is_a_number_of_its_recipe(tmp_path, capsys):
    family(tmp_path, {f"b{batch}": Recipe(batch=batch) for batch in (128, 256, 512)})
    axis, points = sizes.of_members(*families.read_members(tmp_path))
    assert (axis, sorted(set(points["size"]))) == ("batch", [128, 256, 512])
    assert main(["scale", str(tmp_path), "--at", "batch=2048"]) == 0
    assert "batch, 3 sizes from 128 to 512" in capsys.readouterr().out


def test_report_of_a_family_shows_edges_against_its_size(tmp_path):
    for folder, batches in ((tmp_path / "three", (128, 256, 512)), (tmp_path / "two", (128, 256))):
        family(folder, {f"b{batch}": Recipe(batch=batch) for batch in batches})
        families.report(folder)
    page = (tmp_path / "three" / "report.html").read_text()
    assert "<h2>Edges against batch</h2>" in page
    assert "3 sizes from 128 to 512" in page
    assert (tmp_path / "three" / "figures" / "scale.png").is_file()
    assert "Edges against" not in (tmp_path / "two" / "report.html").read_text()


def test_a_family_has_no_edges_over_steps(tmp_path, capsys):
    family(tmp_path, {f"b{batch}": Recipe(batch=batch) for batch in (128, 256, 512)})
    assert "takes a study" in refused(capsys, "scale", tmp_path, "--over", "steps")


@pytest.mark.parametrize(
    ("recipe", "changes", "other"),
    [
        ({"embedding_dim": (4, 8, 16)}, {}, "embedding_dim"),
        ({}, {"data": ("synthetic", "kuairand", "synthetic")}, "data"),
        ({}, {"data_options": [{}, {"only_tasks": ["click"]}, {"only_tasks": ["like"]}]}, "data.only_tasks"),
        ({"init_from": ("", "ab" * 32, "cd" * 32)}, {}, "init_from"),
    ],
)
def test_a_family_that_varies_two_things_is_refused(tmp_path, capsys, recipe, changes, other):
    values = [{key: values[i] for key, values in recipe.items()} for i in range(3)]
    family(tmp_path, {f"b{i}": Recipe(batch=128 * 2**i, **own) for i, own in enumerate(values)}, **changes)
    assert f"several things vary in batches: batch, {other};" in refused(capsys, "scale", tmp_path)


def test_a_family_whose_members_have_different_data_is_refused(tmp_path, capsys, monkeypatch):
    family(tmp_path, {f"b{batch}": Recipe(batch=batch) for batch in (128, 256, 512)})
    load = analysis.load
    monkeypatch.setattr(analysis, "load", lambda folder: load(folder).assign(data=folder.name))
    assert "the members of batches have different data" in refused(capsys, "scale", tmp_path)


def test_members_of_one_size_are_refused(tmp_path, capsys):
    family(tmp_path, {f"b{i}": Recipe(batch=batch) for i, batch in enumerate((128, 256, 512, 512))})
    assert "two curves named none have batch=512" in refused(capsys, "scale", tmp_path)


def test_at_is_a_key_with_sizes():
    assert parse_at(" ranker.depth = 12, 24") == ("ranker.depth", (12.0, 24.0))


def test_spaces_vary_one_size_with_shared_seeds():
    models = [model_options.canonical(model) for model in space.study.models]
    assert models == list(space.study.models)
    recipes = [member.study.recipe for member in scale_batch.study.members]
    assert [recipe.batch for recipe in recipes] == [128, 256, 512, 1024, 2048, 8192]
    assert {recipe.steps for recipe in recipes} == {405}
