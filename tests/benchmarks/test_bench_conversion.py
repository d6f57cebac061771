"""The benchmark of conversions: its tiled log is what it says, and so is what it measures."""

from typing import Any

import conversion
import numpy as np
import pandas as pd
import pytest

from study import data

SLICE = conversion.ROOT.parent / "shared/data/KuaiRand-Pure"


@pytest.mark.skipif(not SLICE.is_dir(), reason="no slice of KuaiRand-Pure beside the checkout")
def test_a_tiled_log_converts_to_what_pandas_makes_of_it(tmp_path):
    thin = tmp_path / "thin"
    thin.mkdir()
    for name in (conversion.USERS, conversion.VIDEOS):
        (thin / name).write_bytes((SLICE / "data" / name).read_bytes())
    few = pd.read_csv(SLICE / "data" / conversion.SLICE_LOG, dtype=str).iloc[::40]
    pd.concat([few, few.iloc[:100]]).to_csv(thin / conversion.SLICE_LOG, index=False)
    rows = 2 * len(few) + 1000
    conversion.tile(thin, tmp_path / "tiled", rows)
    log = data.load("kuairand", {"dir": str(tmp_path / "tiled")}, tmp_path / "cache")

    raw: Any = pd.read_csv(tmp_path / "tiled" / conversion.SLICE_LOG)
    assert len(raw) == rows
    frame: Any = raw.drop_duplicates().sort_values("time_ms", kind="stable")
    assert log.facts["duplicates_dropped"] == len(raw) - len(frame) >= 100
    late = frame["date"] == frame["date"].max()
    frame = pd.concat([frame[~late], frame[late]])
    assert log.train_rows == (~late).sum()
    assert log.facts["days"] == frame["date"].nunique() > 28
    np.testing.assert_array_equal(log.labels[:, :3], frame[["is_click", "long_view", "is_like"]])
    for feature, name in enumerate(("user_id", "video_id")):
        known = np.unique(frame[name][: log.train_rows])
        seen = frame[name].isin(known)
        np.testing.assert_array_equal(log.ids[:, feature], np.where(seen, np.searchsorted(known, frame[name]) + 1, 0))
        assert log.vocabulary[feature] == len(known) + 1
    copies = frame["user_id"] // 100_000
    assert copies.nunique() == 3
    assert (frame.groupby(copies)["date"].min().diff().dropna() < 0).all()  # the third copy is the earliest
    followed: Any = pd.read_csv(thin / conversion.USERS).set_index("user_id")["follow_user_num"]
    of_row = np.log1p(followed.reindex(frame["user_id"] % 100_000).to_numpy())
    train = of_row[: log.train_rows]
    expected = np.clip((of_row - train.mean()) / train.std(), -5, 5)
    np.testing.assert_allclose(log.numbers[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_conversion_is_measured_in_a_child(tmp_path, kind):
    conversion.write_table(tmp_path / "table", 3000)
    one = conversion.convert("table", {"dir": str(tmp_path / "table" / f"{kind}.toml")}, tmp_path)
    assert one.rows == 3000
    assert one.seconds > 0
    assert 20e6 < one.peak_bytes < 1e9
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_a_conversion_that_fails_says_so(tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot read .*nowhere"):
        conversion.convert("table", {"dir": str(tmp_path / "nowhere")}, tmp_path)
