"""What a machine needs for a study: the driver's sign in the study's folder, and the data as memory maps."""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study import data
from study.config import Arm, Study
from study.data._dataset import Log
from study.execution import preflight
from study.trainers.ranker import Trainer

OPTIONS = {"rows": 2000, "users": 200, "items": 100, "days": 4}
STUDY = Study(name="any", data_options=OPTIONS, models=("small",), arms=(Arm(method="none"),), lrs=(0.1,))


@pytest.fixture
def needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Needs of a study on the driver's machine; this process is then another machine, with a cache of its own."""
    monkeypatch.setattr(preflight, "SIGN_SECONDS", 0.3)
    folder = tmp_path / "study"
    folder.mkdir()
    with preflight.needs(folder, STUDY, Trainer(STUDY, tmp_path / "drivers")) as needs:
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "own"))
        yield needs


def log_here(needs: preflight.Needs) -> Log:
    trainer = preflight.trainer_here(needs)
    assert isinstance(trainer, Trainer)
    return trainer.log


def with_study(needs: preflight.Needs, **changes: Any) -> preflight.Needs:
    return replace(needs, study=replace(needs.study, **changes))


def converted(cache: Path) -> list[str]:
    return [path.name for path in cache.glob("synthetic-*")]


def test_a_machine_that_sees_the_sign_answers_with_one_of_its_own(needed: preflight.Needs) -> None:
    sign = preflight.answer(needed)
    assert preflight.appears(needed, sign)
    assert preflight.answer(needed) != sign


def test_a_folder_of_the_same_name_is_not_the_studys(needed: preflight.Needs, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for folder in (tmp_path / "other", tmp_path / "none"):
        with pytest.raises(preflight.NodeError, match=f"does not see the study's folder {folder}"):
            preflight.answer(replace(needed, where=str(folder)))
    assert not (tmp_path / "none").exists()


def test_signs_are_gone_with_the_driver_and_those_of_a_killed_one_with_the_next(tmp_path: Path) -> None:
    signs = tmp_path / "nodes"
    signs.mkdir()
    (signs / "killed").touch()
    with preflight.needs(tmp_path, STUDY, Trainer(STUDY, tmp_path / "cache")) as needs:
        preflight.answer(needs)
        assert len(list(signs.iterdir())) == 2
        assert not (signs / "killed").exists()
    assert not signs.exists()


def test_a_driver_that_was_overtaken_leaves_the_signs_of_the_next(tmp_path: Path) -> None:
    trainer = Trainer(STUDY, tmp_path / "cache")
    with contextlib.ExitStack() as overtaken:
        preflight.answer(overtaken.enter_context(preflight.needs(tmp_path, STUDY, trainer)))
        with preflight.needs(tmp_path, STUDY, trainer) as needs:
            sign = preflight.answer(needs)
            overtaken.close()
            preflight.see_folder(needs)
            assert preflight.appears(needs, sign)
    assert not (tmp_path / "nodes").exists()


def test_maps_are_opened_where_the_driver_has_them(needed: preflight.Needs, tmp_path: Path) -> None:
    assert data.folder_of_log(log_here(needed)) == Path(needed.hints["converted"])
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_machines_learn_whether_steps_may_be_cuda_graphs(asked: bool, tmp_path: Path) -> None:
    trainer = Trainer(STUDY, tmp_path / "cache")
    trainer.cuda_graphs = asked
    with preflight.needs(tmp_path, STUDY, trainer) as needs:
        assert preflight.trainer_here(needs).cuda_graphs is asked


def test_a_machine_without_them_converts_its_own_data_once(needed: preflight.Needs, tmp_path: Path) -> None:
    drivers = data.open_cached(Path(needed.hints["converted"]), needed.content)
    assert drivers is not None
    ids = np.array(drivers.ids)
    shutil.rmtree(needed.hints["converted"])
    log = log_here(needed)
    np.testing.assert_array_equal(log.ids, ids)
    place = data.folder_of_log(log)
    assert place
    assert place == tmp_path / "own" / converted(tmp_path / "own")[0]
    stamp = place.stat().st_mtime_ns
    assert data.folder_of_log(log_here(with_study(needed, data="none.such"))) == place, "its own cache comes first"
    assert place.stat().st_mtime_ns == stamp


def test_a_machine_without_the_data_path_or_with_other_data_says_so(needed: preflight.Needs, tmp_path: Path) -> None:
    elsewhere = replace(needed, hints=needed.hints | {"converted": str(tmp_path / "nowhere" / "synthetic-x")})
    missing = str(tmp_path / "missing")
    with pytest.raises(preflight.NodeError, match=f"cannot read the study's data: .*{missing}"):
        log_here(with_study(elsewhere, data="kuairand", data_options={"dir": missing}))
    with pytest.raises(preflight.NodeError, match="has other data than the machine that runs the study"):
        log_here(with_study(elsewhere, data_options=OPTIONS | {"seed": 5}))


def test_a_worker_looks_once(needed: preflight.Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = preflight.ready(needed)
    preflight.remove_signs(Path(needed.where))
    assert preflight.ready(needed) is trainer
    with pytest.raises(preflight.NodeError, match="does not see"):
        preflight.ready(replace(needed, sign="nodes/of-another-driver"))
