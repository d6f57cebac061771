"""Families of studies: each member a study of its own, and one page over all edges."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from queues import Queue, make_stack
from simulated_record import simulated_definition, write_simulated_study

from analysis.loading import FamilyMember, load
from analysis.report.family import text, write
from analysis.stats.contrasts import holm
from analysis.stats.forest import forest
from study.cli.main import main
from study.commands import family as families
from study.commands import family_weights
from study.commands.report import report as report_of
from study.commands.request import RunRequest, load_space
from study.commands.run import NothingTrainedError
from study.config import Arm, Study, control_of
from study.definition.family import Family, Member, WeightsOf
from study.execution.work_queue import StudyStoppedError, TrainingFailedError
from study.outcomes.reference import Reference
from study.record import checksums
from study.record.definition import RecordError
from study.trainers.protocol import Trainer
from study.tune import submit

LRS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
ARMS = (Arm(method="none"),)


def study(name: str) -> Study:
    return Study(name=name, models=("small",), arms=ARMS, lrs=LRS)


def family(*labels: str) -> Family:
    return Family(name="f", members=tuple(Member(label=x, words=f"about {x}", study=study(x)) for x in labels))


def write_family(folder: Path, made: Family) -> None:
    families._write(folder, made, {member.label: member.study for member in made.members})


@pytest.fixture
def shown(tmp_path: Path) -> list[FamilyMember]:
    """as_is has its edge at 0.2, far at 4 times that, never diverges not at all, empty was never begun."""
    edges = {"as_is": 0.2, "far": 0.8, "never": math.inf}
    for label, edge in edges.items():
        definition = simulated_definition(models=("small",), arms=ARMS, lrs=LRS, seeds=range(16), name=label)
        write_simulated_study(tmp_path / label, definition, edges={"none": edge})
    return [FamilyMember(label=x, words=f"about {x}", against="as_is", folder=tmp_path / x) for x in (*edges, "empty")]


def test_each_member_is_held_against_its_own_and_p_is_corrected_over_the_family(shown: list[FamilyMember]) -> None:
    table = forest(shown)
    rows = {row["label"]: row for row in table.to_dict("records")}
    assert list(rows) == ["as_is", "far", "never"]
    assert (rows["as_is"]["against"], rows["far"]["against"]) == ("", "as_is")
    assert math.isnan(rows["as_is"]["p_holm"])
    assert rows["far"]["ratio_low"] < 4 < rows["far"]["ratio_high"]
    assert rows["far"]["ratio_low"] >= 2 * (1 - 1e-9)  # each edge is known to a gap, here a factor of 2
    assert rows["far"]["p_holm"] == pytest.approx(holm([rows["far"]["p"], rows["never"]["p"]])[0])
    # An edge that was not reached is never a number, and a ratio with it one-sided.
    assert math.isnan(rows["never"]["edge"])
    assert math.isnan(rows["never"]["ratio"])
    assert rows["never"]["ratio_low"] >= 4
    assert math.isinf(rows["never"]["ratio_high"])
    assert rows["never"]["n"] == 16 * len(LRS)


def test_models_of_a_member_are_held_against_the_same_models_of_the_other(tmp_path: Path) -> None:
    """`small` has its edge at 0.1 and then 0.4, `large` at 0.8 in both."""
    for label, small in (("a", 0.1), ("b", 0.4)):
        for model, edge in (("small", small), ("large", 0.8)):
            one = simulated_definition(models=(model,), arms=ARMS, lrs=LRS, seeds=range(16), name=label)
            write_simulated_study(tmp_path / label / model, one, edges={"none": edge})

    def both(folder: Path) -> pd.DataFrame:
        return pd.concat([load(folder / model) for model in ("small", "large")], ignore_index=True)

    for label in ("a", "b"):
        (tmp_path / label / "study.json").write_text((tmp_path / label / "small" / "study.json").read_text())
    members = [FamilyMember(label=x, words=x, against="a", folder=tmp_path / x) for x in ("a", "b")]
    rows = {(row["label"], row["model"]): row for row in forest(members, both).to_dict("records")}
    assert rows["b", "small"]["ratio"] == pytest.approx(4, rel=0.3)
    assert rows["b", "large"]["ratio"] == pytest.approx(1, rel=0.1)
    assert rows["b", "small"]["n"] == 16 * len(LRS)


def test_the_page_tells_all_of_it_and_names_what_has_no_runs(shown: list[FamilyMember], tmp_path: Path) -> None:
    table = forest(shown)
    path = write(tmp_path, "a <family>", shown, table)
    html = path.read_text()
    assert "a &lt;family&gt;" in html
    assert "about far" in html
    assert "Without runs yet: about empty." in html
    assert 'href="far/report.html"' in html
    assert (tmp_path / "figures" / "forest.png").stat().st_size > 5000
    assert "> 1.6" in text(table)
    csv = pd.read_csv(tmp_path / "tables" / "forest.csv")
    assert csv["ratio_high"].isna().tolist() == [True, False, True]


def test_members_are_held_against_members() -> None:
    with pytest.raises(ValueError, match="names a twice"):
        family("a", "a")
    with pytest.raises(ValueError, match="compared with c, which it does not have"):
        Family(name="f", members=(*family("a").members, replace(family("b").members[0], against="c")))
    with pytest.raises(ValueError, match="label names a folder"):
        family("../up")


def test_a_plan_says_what_each_member_would_train(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.py").write_text(
        "from study import *\n"
        "s = Study(name='a', data_options={'rows': 3000}, models=('small',), arms=(Arm(method='none'),), lrs=(0.1,))\n"
        "study = Family(name='pair', members=(Member(label='a', words='as is', study=s), Member(label='b',"
        " words='one task', study=Study(name='b', data_options={'rows': 3000, 'only_tasks': 'click'},"
        " models=('small',), arms=s.arms, lrs=(0.1,)))))\n"
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("")
    (tmp_path / "mine.py").rename(tmp_path / "own" / "mine.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["plan", "own.mine", "--seeds", "0-2", "--set", "steps=4"]) == 0
    said = capsys.readouterr().out
    assert "pair: 2 studies, one after another" in said
    assert "b: one task" in said
    assert said.count("runs      3, of which 0 are recorded") == 1
    assert said.index("in each, unless it says otherwise:") < said.index("runs      3,") < said.index("a: as is")
    assert said.count(str(tmp_path / "results" / "pair")) >= 3
    assert main(["plan", "own.mine", "--set", "colour=red"]) == 2
    assert main(["confirm", str(tmp_path), "--lr", "1"]) == 2


def test_a_folder_of_another_family_or_of_a_study_is_left_alone(tmp_path: Path) -> None:
    write_family(tmp_path, family("a"))
    write_family(tmp_path, family("a", "b"))
    assert [m.label for m in families.read_members(tmp_path)[1]] == ["a", "b"]
    with pytest.raises(RecordError, match="holds the family 'f', not 'g'"):
        write_family(tmp_path, replace(family("a"), name="g"))
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RecordError, match="holds a study, and no family"):
        write_family(tmp_path, family("a"))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        json.dumps({"format": 1, "name": "f", "members": [{"label": "../x", "words": "", "against": ""}]}),
        json.dumps(
            {"format": 1, "name": "f", "members": [{"label": "x", "words": "", "against": "", "contrasts": 1e9}]}
        ),
    ],
)
def test_what_is_no_familys_file_is_refused_in_a_line(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "family.json").write_text(content)
    for command in ("report", "status", "resume"):
        assert main([command, str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("study: ")
        assert said.count("\n") == 1


def asked(*settings: str, **more: str) -> RunRequest:
    return RunRequest(space="table3", settings=settings, out="/nowhere/out", **more)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (asked("models=small"), "--set models=small would undo what .* (models of larger, no_dcn, mmoe, no_norm), and"),
        (asked("warmup=0", "steps=9"), "--set warmup=0 would undo .* (warmup of no_warmup, warmup_100), and"),
        (asked("batch=256"), "--set batch=256 would undo .* (batch of batch_256, batch_1024), and"),
        (asked("data.only_days=1-7"), "(data.only_days of yesterday, today)"),
        (asked("data.only_tasks=click"), "(data.only_tasks of one_task_less, two_tasks_less, one_task)"),
        (asked("data.drift=0.0"), "--set data.drift=0.0 would undo .* (data.drift of synthetic_still)"),
        (asked("warmup=0", "models=small"), "--set warmup=0 --set models=small would undo"),
        (asked(data="synthetic"), "--data synthetic would undo what members of table3 change (data of synthetic), and"),
        (asked(data="kuairand", data_dir="/d"), "--data kuairand would undo .* (data of synthetic; data.drift of sy"),
    ],
)
def test_what_would_make_a_members_words_untrue_is_refused(wish: RunRequest, message: str) -> None:
    table3 = load_space("table3")
    assert isinstance(table3, Family)
    with pytest.raises(ValueError, match=re.escape(message).replace(re.escape(" .* "), " .* ")):
        families.check(wish, table3)


@pytest.mark.parametrize("settings", [("methods=none,clippy", "clippy.rel=0.1"), ("steps=300", "lr=0.1,0.2")])
def test_what_leaves_every_difference_is_set_for_all(settings: tuple[str, ...]) -> None:
    table3 = load_space("table3")
    assert isinstance(table3, Family)
    families.check(asked(*settings, seeds="0-3", data_dir="/d"), table3)


def test_members_that_differ_in_where_they_train_may_be_narrowed_but_not_to_one_study(tmp_path: Path) -> None:
    a, b = family("a", "b").members
    b = replace(b, study=replace(b.study, lrs=(0.1, 3.2), recipe=replace(b.study.recipe, batch=64)))
    pair = Family(name="f", members=(a, b))
    families.check(asked("lr=0.1"), pair)
    with pytest.raises(ValueError, match=r"--set batch=64 would undo what members of f change \(batch of b\)"):
        families.check(asked("lr=0.1", "batch=64"), pair)
    pair = Family(name="f", members=(a, replace(b, study=replace(b.study, recipe=a.study.recipe, seeds=(7,)))))
    families.check(asked("lr=0.1"), pair)
    with pytest.raises(ValueError, match=r"^--set lr=0\.1 --seeds 0-3 would make a and b of f the same study$"):
        families.check(asked("lr=0.1", seeds="0-3"), pair)


@pytest.mark.parametrize("command", ["plan", "run", "submit"])
def test_it_is_said_in_a_line_before_anything_is_trained(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("study.commands.run.train", lambda *_a, **_k: pytest.fail("trained"))
    monkeypatch.setattr(submit, "submit", lambda *_a, **_k: pytest.fail("submitted"))
    words = ["table3", "--set", "models=small", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    address = {"plan": [], "run": ["--address", "127.0.0.1:1"], "submit": ["--address", "http://127.0.0.1:1"]}
    words += address[command]
    assert main([command, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("study: --set models=small would undo what members of table3 change (models of larger,")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_the_data_do_not_have_is_said_of_the_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    a, b = family("a", "b").members
    options = {"rows": 3000}
    a = replace(a, study=replace(a.study, data_options=options))
    b = replace(b, study=replace(b.study, data_options=options | {"only_tasks": "clack"}))
    with pytest.raises(ValueError, match=r"^b: only_tasks names clack; the data have click"):
        families.preview(asked(), Family(name="f", members=(a, b)))


def test_data_dir_goes_to_the_members_that_read_one(tmp_path: Path) -> None:
    mixed = Family(name="f", members=family("a", "b").members)
    wish = RunRequest(space="x", data_dir=str(tmp_path), out=str(tmp_path / "out"))
    (_, a, _), (_, b, _) = families._members(wish, mixed)
    assert "dir" not in a.data_options | b.data_options


# Families of the command line


def quick(*settings: str, **more: str) -> tuple[Family, RunRequest]:
    found = families.requested_family(RunRequest(space="quick", settings=settings, **more))
    assert found is not None
    return found


def test_several_values_of_the_recipe_make_the_family_that_they_mean() -> None:
    made, rest = quick("warmup=0,20,100", "lr=0.1,0.2")
    assert made.name == "quick_warmup"
    assert [(m.label, m.words, m.study.recipe.warmup) for m in made.members] == [
        ("warmup_0", "warmup 0", 0),
        ("warmup_20", "warmup 20", 20),
        ("warmup_100", "warmup 100", 100),
    ]
    assert rest.settings == ("lr=0.1,0.2",)
    studies = [study for _, study, _ in families._members(rest, made)]
    assert [(study.name, study.recipe.warmup, study.lrs) for study in studies] == [
        (f"quick_warmup_{warmup}", warmup, (0.1, 0.2)) for warmup in (0, 20, 100)
    ]


def test_a_member_has_the_runs_that_one_value_has() -> None:
    """A member's record could have been made by a study of its own."""
    made, _ = quick("warmup=0,20")
    base = load_space("quick")
    assert isinstance(base, Study)
    assert control_of(made.members[1].study, "d" * 64)[0].id == control_of(base, "d" * 64)[0].id


def test_two_varied_keys_make_every_combination() -> None:
    made, _ = quick("warmup=0,20", "data.rows=3000,6000", "embeddings=method")
    assert made.name == "quick_warmup_rows"
    assert [m.label for m in made.members] == [f"warmup_{w}_rows_{r}" for w in (0, 20) for r in (3000, 6000)]
    assert made.members[3].words == "warmup 20, rows 6000"
    assert made.members[3].study.data_options["rows"] == 6000
    made, _ = quick("eps=1e-7,0.5", "embeddings=adagrad,method")
    assert [m.label for m in made.members][::3] == ["eps_1e_7_embeddings_adagrad", "eps_0_5_embeddings_method"]


def test_numbers_of_features_make_a_family_and_names_of_features_do_not() -> None:
    made = families.requested_family(RunRequest(space="scale", settings=("models=ranker", "data.only_ids=2,4,9")))
    assert made is not None
    assert [m.study.data_options["only_ids"] for m in made[0].members] == [2, 4, 9]
    words = RunRequest(space="scale", settings=("models=ranker", "data.only_ids=tab,hour"))
    assert families.requested_family(words) is None


def test_a_varied_number_of_a_schedule_goes_with_its_schedule() -> None:
    made, rest = quick("schedule=cosine", "final_factor=0,0.1")
    assert [m.study.recipe.final_factor for m in made.members] == [0.0, 0.1]
    assert {study.recipe.schedule for _, study, _ in families._members(rest, made)} == {"cosine"}


def test_what_is_one_study_makes_no_family() -> None:
    for settings in (("warmup=0",), ("lr=0.1,0.2", "clippy.rel=0.1,0.2"), ("data.only_tasks=click,like",)):
        assert families.requested_family(RunRequest(space="quick", settings=settings)) is None


@pytest.mark.parametrize(
    ("space", "setting", "message"),
    [
        ("quick", "warmup=0,0", "warmup names 0 twice"),
        ("quick", "warmup=20,020", "warmup=020 makes a member that is there already"),
        ("quick", "warmup=0,-1", "need warmup >= 0, got warmup=-1"),
        ("quick", "batch=64,high", "need a number, got batch=high"),
        ("quick", "warmup=0,", "an empty value in '0,'"),
        ("scale_batch", "warmup=0,20", "scale_batch is a family already, so warmup takes one value"),
        ("best_quality", "warmup=0,20", "best_quality searches for the best quality, so warmup takes one value"),
    ],
)
def test_a_family_that_cannot_be_is_refused_in_a_line(
    space: str, setting: str, message: str, capsys: pytest.CaptureFixture
) -> None:
    for command in ("plan", "run"):
        assert main([command, space, "--set", setting]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1


def test_weights_of_a_file_are_for_one_study_and_the_message_says_why(capsys: pytest.CaptureFixture) -> None:
    assert main(["plan", "quick", "--set", "warmup=0,20", "--init-from", "yesterday.safetensors"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "--init-from checks and keeps the weights of one study, and these are 2 (warmup 0 | warmup 20): train each "
        "with an --out of its own\n"
    )


def test_a_plan_of_a_family_of_the_command_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    words = ["--set", "data.rows=3000", "--set", "warmup=0,20", "--set", "batch=64", "--out", str(tmp_path / "out")]
    assert main(["plan", "quick", *words, "--seeds", "0-1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("quick_warmup: 2 studies, one after another, in ")
    assert "\nwarmup_20: warmup 20\n" in said
    assert not (tmp_path / "out").exists()


def test_members_may_be_added_to_a_family_of_the_command_line(tmp_path: Path) -> None:
    write_family(tmp_path, quick("warmup=0,20")[0])
    write_family(tmp_path, quick("warmup=20,100")[0])
    members = [(m.label, m.against, m.contrasts) for m in families.read_members(tmp_path)[1]]
    assert members == [("warmup_0", "warmup_0", 4), ("warmup_20", "warmup_0", 4), ("warmup_100", "warmup_0", 4)]


def test_a_report_of_a_member_names_the_page_that_counts_all_members(tmp_path: Path) -> None:
    arms = (Arm("none"), Arm("clippy"))
    definition = simulated_definition(models=("small",), arms=arms, lrs=LRS, name="a")
    write_simulated_study(tmp_path / "a", definition, with_losses=False)
    report_of(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "other")
    note = 'It is a member of f, whose <a href="../report.html">page</a>'
    assert note not in (tmp_path / "a" / "report.html").read_text()
    write_family(tmp_path, family("a", "b"))
    report_of(tmp_path / "a")
    assert note in (tmp_path / "a" / "report.html").read_text()
    report_of(tmp_path / "other")
    assert note not in (tmp_path / "other" / "report.html").read_text(), "it lies beside the members, and is none"
    said = families.report(tmp_path)
    assert "about a  small  clippy  none     " in said
    assert "Each method within each study" in (tmp_path / "report.html").read_text()


def test_a_plan_says_once_what_most_members_have() -> None:
    common = ["  models    small", "  seeds     8"]
    blocks = [
        [*common, "  data      a", "note: slow"],
        ["  models    large", *common[1:], "  data      b"],
        [*common, "  data      c"],
    ]
    of_most, own = families.said_once(blocks)
    assert of_most == common
    assert own == [["  data      a", "note: slow"], ["  models    large", "  data      b"], ["  data      c"]]
    # A line that some plan lacks cannot be left out of the others: it would seem to hold there too.
    assert families.said_once([["  lrs       1"], ["  lrs       1"], []]) == (
        [],
        [["  lrs       1"], ["  lrs       1"], []],
    )
    assert families.said_once([["  lrs       1"]]) == ([], [["  lrs       1"]])


def test_a_plan_of_a_family_counts_the_contrasts_of_all_members(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    words = ["--set", "data.rows=3000", "--set", "warmup=0,20,100", "--set", "batch=64", "--out", str(tmp_path / "out")]
    assert main(["plan", "quick", *words, "--seeds", "0-1"]) == 0
    said = capsys.readouterr().out
    assert (
        said.count("contrasts 4: layer_clip, agc, lamb, clippy against none; p is corrected over 12, of all members")
        == 1
    )
    assert said.count("measures  P(divergence | lr) of none, layer_clip, agc, lamb, clippy") == 1
    assert said.count("SHA-256") == 3


def test_a_family_resumes_no_member_where_the_code_of_one_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    model, folder = "own_models.linear", tmp_path / "f"
    write_family(folder, family("ours", "own"))
    for label, of_member in (("ours", "small"), ("own", model)):
        definition = simulated_definition(models=(of_member,), arms=ARMS, lrs=LRS, seeds=(0, 1), name=label)
        write_simulated_study(folder / label, definition)
    for path in (folder / "own" / "runs").glob("*.parquet"):
        runs = checksums.read_parquet(path.read_bytes())
        code = pa.array([f'{{"{model}":"{"0" * 64}"}}'] * len(runs), pa.string())
        path.write_bytes(checksums.parquet_bytes(runs.append_column("own_code", code)))
    assert main(["resume", str(folder)]) == 2
    said = capsys.readouterr()
    assert re.search(rf"^study: {model} changed: \d+ runs by code 0{{12}} recorded, .*--accept-changed-code$", said.err)
    assert said.out == ""


REASONS = {
    "runs": "no run was trained: 2 of 2 failed with: no memory",
    "control": "the control of small failed: RuntimeError: odd shape",
    "reference": "small: nothing is learned; a study keeps these, so choose another folder for the change",
    "alike": "3 stacks failed the same way: RuntimeError: odd shape",
    "device": "3 stacks failed the same way: CUDA error: no device",
}


def unlearnable(_model: str) -> Reference:
    raise ValueError("nothing is learned")


def fail(fault: str, folder: Path) -> None:
    """Raise what a command raises for a fault in training. Its queue is a real one."""
    if fault == "runs":
        raise NothingTrainedError(REASONS[fault])
    folder.mkdir(parents=True, exist_ok=True)
    if fault in ("control", "reference"):
        queue = Queue(folder, make_stack(control=True), reference=unlearnable)
    else:
        queue = Queue(folder, *(make_stack(seed=seed) for seed in range(9)), known=("small",))
    while not queue.queue.stopped:
        trial = queue.must_take()[0]
        if fault == "reference":
            queue.done(trial)
        elif fault == "device":
            queue.fails(trial, "CUDA error: no device", "device", "a")
        else:
            queue.fails(trial, "RuntimeError: odd shape")
    raise queue.queue.stopped


def failing(fault: str, trained: list[str]) -> Callable[..., None]:
    """Return a `train` that fails for study a."""

    def train(_request: RunRequest, study: Study, _trainer: Trainer, folder: Path) -> None:
        trained.append(study.name)
        if study.name == "a":
            fail(fault, folder)

    return train


@pytest.mark.parametrize("fault", ["runs", "control", "reference", "alike"])
@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_member_that_cannot_be_trained_stops_no_other(
    command: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    monkeypatch.setattr("study.commands.run.train", failing(fault, trained))
    monkeypatch.setattr(families, "report", lambda _folder: "the report")
    made, folder = family("a", "b"), tmp_path / "f"
    if command == "resume":
        write_family(folder, made)
        for label in ("a", "b"):
            definition = simulated_definition(models=("small",), arms=ARMS, lrs=LRS, seeds=(0, 1), name=label)
            write_simulated_study(folder / label, definition)
    run = families.run, replace(asked(), out=str(folder)), made
    do, *arguments = run if command == "run" else (families.resume, folder, asked())
    with pytest.raises(StudyStoppedError) as raised:
        do(*arguments)
    assert str(raised.value) == f"a: {REASONS[fault]}"
    assert raised.value.exit_code == (1 if fault == "runs" else 2)
    assert trained == ["a", "b"]
    assert capsys.readouterr().out.endswith("the report\n")


def test_a_broken_device_stops_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    monkeypatch.setattr("study.commands.run.train", failing("device", trained))
    with pytest.raises(StudyStoppedError, match=f"^{REASONS['device']}$"):
        families.run(replace(asked(), out=str(tmp_path / "f")), family("a", "b"))
    assert trained == ["a"]


@pytest.mark.parametrize("fault", ["runs", "control"])
def test_a_member_whose_weights_come_from_a_failed_one_is_not_trained(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []
    monkeypatch.setattr("study.commands.run.train", failing(fault, trained))
    made, folder = family("a", "b", "c", "d"), tmp_path / "f"
    starts = {"b": WeightsOf(member="a", lr=0.1), "c": WeightsOf(member="b", lr=0.1)}
    made = replace(made, members=tuple(replace(m, init_from=starts.get(m.label)) for m in made.members))
    monkeypatch.setattr(family_weights, "check", lambda *_: "come from a member")  # the rows of both are the same
    with pytest.raises(StudyStoppedError) as raised:
        families.run(replace(asked(), out=str(folder)), made)
    assert str(raised.value) == (
        f"a: {REASONS[fault]}; b: it cannot start from the weights of a, which failed ({folder / 'a'} holds no study "
        f"(no study.json)); c: it cannot start from the weights of b, which failed ({folder / 'b'} holds no study "
        "(no study.json))"
    )
    assert raised.value.exit_code == (1 if fault == "runs" else 2)
    assert trained == ["a", "d"]
    assert (folder / "report.html").exists()
    assert "no runs recorded yet" in capsys.readouterr().out


def test_a_member_is_trained_where_the_failed_one_left_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    monkeypatch.setattr("study.commands.run.train", failing("alike", trained))
    monkeypatch.setattr(family_weights, "check", lambda *_: "come from a member")
    monkeypatch.setattr(family_weights, "started_study", lambda _folder, _member, study, *_: (study, None))
    made = family("a", "b")
    made = replace(made, members=(made.members[0], replace(made.members[1], init_from=WeightsOf(member="a", lr=0.1))))
    with pytest.raises(TrainingFailedError, match=f"^a: {REASONS['alike']}$"):
        families.run(replace(asked(), out=str(tmp_path / "f")), made)
    assert trained == ["a", "b"]


def test_a_family_ends_with_the_highest_exit_code_of_its_members() -> None:
    failed = {"a": NothingTrainedError("no run"), "b": TrainingFailedError("no control")}
    failed |= {"c": NothingTrainedError("x")}
    with pytest.raises(TrainingFailedError, match=r"^a: no run; b: no control; c: x$") as raised:
        families._refuse(failed)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "words", [["--label", "pool=a", "--label", "pool=b"], ["--tracking-uri", "nosuch://x"], ["--address", "alpha"]]
)
def test_what_no_member_can_do_is_refused_before_the_family_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    asked = ["run", "quick", "--set", "batch=32,64", "--set", "data.rows=2000", "--out", str(tmp_path / "out")]
    assert main([*asked, *words]) == 2
    assert not (tmp_path / "out").exists()
