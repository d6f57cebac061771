"""What a machine needs for a study: the driver's sign in the study's folder, and the data as memory maps."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from study import data
from study.execution import preflight

OPTIONS = {"rows": 2000, "users": 200, "items": 100, "days": 4}


@pytest.fixture
def needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Needs of a study on the driver's machine; this process is then another machine, with a cache of its own."""
    monkeypatch.setattr(preflight, "SIGN_SECONDS", 0.3)
    folder = tmp_path / "study"
    folder.mkdir()
    log = data.load("synthetic", OPTIONS, tmp_path / "drivers")
    with preflight.needs(folder, "synthetic", OPTIONS, log) as needs:
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "own"))
        yield needs


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
    log = data.load("synthetic", OPTIONS, tmp_path / "cache")
    signs = tmp_path / "nodes"
    signs.mkdir()
    (signs / "killed").touch()
    with preflight.needs(tmp_path, "synthetic", OPTIONS, log) as needs:
        preflight.answer(needs)
        assert len(list(signs.iterdir())) == 2
        assert not (signs / "killed").exists()
    assert not signs.exists()


def test_maps_are_opened_where_the_driver_has_them(needed: preflight.Needs, tmp_path: Path) -> None:
    assert data.place(preflight.log_here(needed)) == Path(needed.converted)
    assert not (tmp_path / "own").exists()


def test_a_machine_without_them_converts_its_own_data_once(needed: preflight.Needs, tmp_path: Path) -> None:
    drivers = data.opened(Path(needed.converted), needed.content)
    assert drivers is not None
    ids = np.array(drivers.ids)
    shutil.rmtree(needed.converted)
    log = preflight.log_here(needed)
    np.testing.assert_array_equal(log.ids, ids)
    place = data.place(log)
    assert place
    assert place == tmp_path / "own" / converted(tmp_path / "own")[0]
    stamp = place.stat().st_mtime_ns
    assert data.place(preflight.log_here(replace(needed, source="none.such"))) == place, "its own cache comes first"
    assert place.stat().st_mtime_ns == stamp


def test_a_machine_without_the_data_path_or_with_other_data_says_so(needed: preflight.Needs, tmp_path: Path) -> None:
    elsewhere = replace(needed, converted=str(tmp_path / "nowhere" / "synthetic-x"))
    missing = str(tmp_path / "missing")
    with pytest.raises(preflight.NodeError, match=f"cannot read the study's data: .*{missing}"):
        preflight.log_here(replace(elsewhere, source="kuairand", options={"dir": missing}))
    with pytest.raises(preflight.NodeError, match="has other data than the machine that runs the study"):
        preflight.log_here(replace(elsewhere, options=OPTIONS | {"seed": 5}))


def test_a_worker_looks_once(needed: preflight.Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    log = preflight.ready(needed)
    preflight.remove_signs(Path(needed.where))
    assert preflight.ready(needed) is log
    with pytest.raises(preflight.NodeError, match="does not see"):
        preflight.ready(replace(needed, sign="nodes/of-another-driver"))
