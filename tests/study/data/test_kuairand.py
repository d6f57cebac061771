"""KuaiRand-Pure: a tiny archive by hand, the real slice against pandas, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kuairand_slice import needs_slice
from paths import KUAIRAND as SLICE

from study.data import check, describe, load
from study.data._dataset import Log

LOG = "log_standard_4_25_to_5_08_pure.csv"
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
DAY_1, DAY_2 = 1650816000000, 1650902400000  # midnight in China, 2022-04-25 and 26


def log_row(
    user=1,
    video=10,
    day=1,
    minute=0,
    click=0,
    like=0,
    long_view=0,
    play_ms: object = 0,
    duration_ms: object = 9000,
    tab=1,
) -> str:
    date, start = (20220425, DAY_1) if day == 1 else (20220426, DAY_2)
    return (
        f"{user},{video},{date},{minute // 60 * 100},{start + 60_000 * minute},{click},{like},0,0,0,0,{long_view},"
        f"{play_ms},{duration_ms},0,0,0,0,{tab}"
    )


ROWS = [
    log_row(day=2, minute=60, user=9, video=99, click=1, like=1, long_view=1, play_ms=1000, tab=4),  # unknown ids
    log_row(minute=0, user=1, click=1, play_ms=0),
    log_row(minute=130, user=2, video=11, like=1, long_view=1, play_ms=1000, tab=3),
    log_row(minute=130, user=2, video=11, like=1, long_view=1, play_ms=1000, tab=3),  # a duplicate
    log_row(minute=65, user=3, video=10, click=1, play_ms=3000, tab=3),
]


def users_csv(follow: tuple[object, ...] = (0, 1, 3)) -> str:
    head = (
        "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,fans_user_num,"
        "friend_user_num,register_days," + ",".join(f"onehot_feat{i}" for i in range(18))
    )
    lines = [
        f"1,full_active,0,-124,1,{follow[0]},5,5,10," + ",".join(["0"] * 18),
        f"2,,0,1,0,{follow[1]},6,7,20," + ",".join(["1"] * 18),
        f"3,full_active,0,1,0,{follow[2]},-124,9,30," + ",".join([""] * 18),
    ]
    return "\n".join([head, *lines]) + "\n"


VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,music_id,music_type,tag\n"
    "10,7,NORMAL,2022-04-10,Web,0.0,9000.0,9155697141,9.0,39\n"
    '11,8,AD,2022-04-10,Web,0.0,9000.0,5,9.0,"3,7"\n'
)


def write_archive(
    folder: Path, *, rows: list[str] | None = None, users: str | None = None, videos: str = VIDEOS
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_text("\n".join([LOG_HEADER, *(ROWS if rows is None else rows)]) + "\n")
    (folder / "user_features_pure.csv").write_text(users_csv() if users is None else users)
    (folder / "video_features_basic_pure.csv").write_text(videos)
    return folder


def convert(folder: Path, cache: Path) -> Log:
    return load("kuairand", {"dir": str(folder)}, cache)


def column(log: Log, name: str) -> list[int]:
    return log.ids[:, log.id_names.index(name)].tolist()


def test_a_tiny_archive_by_hand(tmp_path):
    log = convert(write_archive(tmp_path / "data"), tmp_path / "cache")
    assert (len(log.labels), log.train_rows, log.facts["duplicates_dropped"]) == (4, 3, 1)
    # In time order: user 1 at 0:00, user 3 at 1:05, user 2 at 2:10, and on the next day the unknown user 9.
    assert column(log, "user_id") == [1, 3, 2, 0]
    assert column(log, "video_id") == [1, 1, 2, 0]
    assert column(log, "author_id") == [1, 1, 2, 0]
    assert column(log, "tag") == [2, 2, 1, 0]  # "3,7" sorts before "39"
    assert column(log, "tab") == [1, 2, 2, 0]  # tab 4 was not seen in training
    assert column(log, "hour") == [1, 2, 3, 2]
    assert column(log, "user_active_degree") == [1, 1, 0, 0]
    assert column(log, "onehot_feat4") == [1, 0, 2, 0]
    assert log.vocabulary[log.id_names.index("user_active_degree")] == 2
    assert [task.name for task in log.tasks] == ["click", "long_view", "like", "play_time"]
    np.testing.assert_array_equal(log.labels[:, :3], [[1, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]])
    click, play = log.tasks[0], log.tasks[3]
    assert click.base == pytest.approx(2 / 3)
    assert click.constant_loss == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    # Play times 0, 3 and 1 s: log(1 + s) = 0, 2 log 2, log 2, of mean log 2 and variance 2/3 log(2)^2.
    assert play.base == pytest.approx(np.log(2))
    assert play.scale == pytest.approx(np.log(2) * np.sqrt(2 / 3))
    assert play.constant_rmse == pytest.approx(0, abs=1e-12)  # the held-out row plays exactly 1 s
    assert play.unit == "log(1 + s)"
    np.testing.assert_allclose(log.labels[:, 3], [-np.sqrt(1.5), np.sqrt(1.5), 0, 0], atol=1e-6)
    # follow_user_num 0, 3, 1 in time order: the same three logarithms; the unknown user gets the mean.
    np.testing.assert_allclose(log.numbers[:, 0], [-np.sqrt(1.5), np.sqrt(1.5), 0, 0], atol=1e-6)
    # fans_user_num 5, unknown (-124), 6: the unknown one gets the mean.
    np.testing.assert_allclose(log.numbers[:, 1], [-1, 0, 1, 0], atol=1e-6)
    assert np.all(log.numbers[:, log.number_names.index("duration")] == 0)  # constant in training


@pytest.mark.parametrize("below", ["", "data", "KuaiRand-Pure/data"])
def test_every_usual_layout_gives_the_same_log(tmp_path, below):
    write_archive(tmp_path / "given" / below)
    other = convert(write_archive(tmp_path / "elsewhere"), tmp_path / "cache")
    assert convert(tmp_path / "given", tmp_path / "cache").content == other.content


def test_only_standard_logs_are_read(tmp_path):
    whole = convert(write_archive(tmp_path / "whole"), tmp_path / "cache")
    split = write_archive(tmp_path / "split", rows=ROWS[3:])
    (split / "log_standard_4_08_to_4_21_pure.csv").write_text("\n".join([LOG_HEADER, *ROWS[:3]]) + "\n")
    (split / "log_random_4_22_to_5_08_pure.csv").write_text("not,to,be,read\n")
    (split / "video_features_statistic_pure.csv").write_text("knows,the,future\n")
    parts = convert(split, tmp_path / "cache")
    np.testing.assert_array_equal(whole.ids, parts.ids)
    np.testing.assert_array_equal(whole.labels, parts.labels)
    assert parts.facts["duplicates_dropped"] == 1  # the copy stands in the other file


def test_training_rows_are_in_time_order_when_days_overlap(tmp_path):
    # The dates and the times of the two rows disagree.
    late = log_row(user=3, minute=24 * 60 + 30, play_ms=2000)
    early = log_row(user=2, day=2, minute=-30, play_ms=1000)
    log = convert(write_archive(tmp_path / "data", rows=[late, early, *ROWS[1:3]]), tmp_path / "cache")
    assert log.train_rows == 3
    assert column(log, "user_id") == [1, 2, 3, 2]
    assert column(log, "hour") == [1, 2, 1, 0]


def test_the_last_day_does_not_affect_the_training_rows(tmp_path):
    before = convert(write_archive(tmp_path / "a"), tmp_path / "cache")
    last_day = [
        log_row(day=2, minute=m, user=u, video=v, click=c, long_view=1, play_ms=800_000, duration_ms=10**6, tab=9)
        for m, u, v, c in [(1, 3, 11, 0), (2, 50, 51, 1), (900, 1, 10, 0)]
    ]
    after = convert(write_archive(tmp_path / "b", rows=[*ROWS[1:], *last_day]), tmp_path / "cache")
    assert before.content != after.content
    assert before.vocabulary == after.vocabulary
    for name in ("ids", "numbers", "labels"):
        np.testing.assert_array_equal(getattr(before, name)[:3], getattr(after, name)[:3])
    for old, new in zip(before.tasks, after.tasks, strict=True):
        assert (old.base, old.scale, old.constant_loss) == (new.base, new.scale, new.constant_loss)


def test_feedback_is_not_an_input(tmp_path):
    log = convert(write_archive(tmp_path / "a"), tmp_path / "cache")
    noisy = [f"{row.rsplit(',', 5)[0]},777,888,1,0,{row.rsplit(',', 1)[1]}" for row in ROWS]
    played = convert(write_archive(tmp_path / "b", rows=noisy), tmp_path / "cache")
    np.testing.assert_array_equal(log.ids, played.ids)
    np.testing.assert_array_equal(log.numbers, played.numbers)
    forbidden = {"play_time_ms", "profile_stay_time", "comment_stay_time", "is_click", "is_like", "long_view", "date"}
    assert not forbidden & {*log.id_names, *log.number_names}


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize("name", ["", "table.toml"])
def test_the_folder_of_a_table_is_told_apart(tmp_path, name):
    (tmp_path / "table.toml").write_text("")
    with pytest.raises(ValueError, match=r"^no log_standard\*\.csv in .*; it has a table\.toml: add --data table$"):
        load("kuairand", {"dir": str(tmp_path / name)}, tmp_path / "cache")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("user_features_pure.csv"), r"lacks user_features_pure\.csv$"),
        (remove(LOG), r"no log_standard\*\.csv in "),
        (rewrite(LOG, "is_like", "liked"), "lacks the columns is_like; it has user_id"),
        (rewrite("video_features_basic_pure.csv", "music_id", "song"), "lacks the columns music_id"),
        (lambda f: write_archive(f, rows=[]), "no rows in"),
        (lambda f: (f / LOG).write_text(""), "is empty"),
        (lambda f: (f / LOG).write_bytes(b"\xff\xfe\x00"), "does not read as CSV"),
        (lambda f: write_archive(f, rows=[*ROWS, log_row(click=2, minute=7)]), "labels of click .* 1 others, .* 2$"),
        (
            lambda f: write_archive(f, rows=[*ROWS, log_row(play_ms="inf", minute=7)]),
            "1 values of play_time_ms .* inf$",
        ),
        (lambda f: write_archive(f, rows=[*ROWS, log_row(play_ms=-5, minute=7)]), "1 values of play_time_ms .* -5$"),
        (lambda f: write_archive(f, rows=[*ROWS, log_row(play_ms="", minute=7)]), "1 rows without play_time_ms"),
        (lambda f: write_archive(f, rows=[*ROWS, log_row(play_ms="x", minute=7)]), "play_time_ms.*'x'"),
        (
            lambda f: write_archive(f, rows=[*ROWS, log_row(duration_ms="inf", minute=7)]),
            "1 infinite values of duration_ms",
        ),
        (lambda f: write_archive(f, users=users_csv((0, "inf", 3))), "1 infinite values of follow_user_num"),
        (lambda f: write_archive(f, rows=ROWS[1:]), r"one day \(2022-04-25\)"),
        (lambda f: write_archive(f, rows=ROWS[:2] + ROWS[4:]), "labels of click are all 1 in the training part"),
        (rewrite("user_features_pure.csv", "\n3,", "\n2,"), "two rows for one user_id"),
    ],
)
def test_bad_archives_are_refused_in_one_line(tmp_path, spoil, message):
    folder = write_archive(tmp_path / "data")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 3, 30])
def test_a_truncated_log_is_refused(tmp_path, cut):
    folder = write_archive(tmp_path / "data")
    text = (folder / LOG).read_bytes()
    (folder / LOG).write_bytes(text[:-cut])
    with pytest.raises(ValueError, match=r"cut off|does not read"):
        convert(folder, tmp_path / "cache")


@pytest.fixture(scope="module")
def slice_log(tmp_path_factory) -> Log:
    return load("kuairand", {"dir": str(SLICE)}, tmp_path_factory.mktemp("cache"))


@needs_slice
def test_the_slice_has_its_known_size(slice_log):
    assert slice_log.train_rows == 207_382
    assert len(slice_log.labels) == 222_869
    assert slice_log.ids.shape[1] == 30
    assert slice_log.numbers.shape[1] == 5
    assert slice_log.facts["days"] == 14
    assert np.isfinite(slice_log.numbers).all()
    assert np.abs(slice_log.numbers).max() <= 5
    assert (slice_log.ids >= 0).all()
    assert (slice_log.ids.max(axis=0) < slice_log.vocabulary).all()


@needs_slice
def test_the_slice_agrees_with_pandas(slice_log):
    frame: Any = pd.read_csv(SLICE / "data" / LOG).drop_duplicates().sort_values("time_ms", kind="stable")
    held_out = frame["date"] == 20220508
    frame = pd.concat([frame[~held_out], frame[held_out]])
    np.testing.assert_array_equal(slice_log.labels[:, :3], frame[["is_click", "long_view", "is_like"]])
    seconds = np.log1p(frame["play_time_ms"].to_numpy() / 1000)
    play = slice_log.tasks[3]
    np.testing.assert_allclose(slice_log.labels[:, 3] * play.scale + play.base, seconds, atol=1e-5)
    train = frame[frame["date"] < frame["date"].max()]
    known = np.unique(train["user_id"])
    codes = np.where(frame["user_id"].isin(known), np.searchsorted(known, frame["user_id"]) + 1, 0)
    np.testing.assert_array_equal(slice_log.ids[:, 0], codes)
    videos = pd.read_csv(SLICE / "data" / "video_features_basic_pure.csv").set_index("video_id")
    times: Any = pd.to_datetime(frame["time_ms"], unit="ms", utc=True)
    np.testing.assert_array_equal(slice_log.ids[:, 6] - 1, times.dt.tz_convert("Asia/Shanghai").dt.hour)
    authors = frame["video_id"].map(videos["author_id"]).to_numpy()
    of_code: Any = pd.Series(authors[: len(train)]).groupby(slice_log.ids[: len(train), 2]).nunique()
    assert (of_code == 1).all()  # one author for each code
    assert len(of_code) == len(np.unique(authors[: len(train)]))  # one code for each author


@needs_slice
def test_check_and_describe_report_the_slice(tmp_path, slice_log):
    text = check("kuairand", {"dir": str(SLICE)}, tmp_path)
    assert "222,869 rows, 14 days (2022-04-25 to 2022-05-08); 5,460 exact duplicates dropped" in text
    assert "held out: 15,487 rows (the last day, 2022-05-08)" in text
    assert describe("kuairand", slice_log)["heldout_rows"] == 15_487


@needs_slice
def test_a_users_missing_features_are_filled(tmp_path, slice_log):
    folder = tmp_path / "data"
    shutil.copytree(SLICE / "data", folder, copy_function=shutil.copyfile)
    users = (folder / "user_features_pure.csv").read_text().splitlines()
    (folder / "user_features_pure.csv").write_text("\n".join([users[0], *users[1::2]]) + "\n")
    log = convert(folder, tmp_path / "cache")
    np.testing.assert_array_equal(log.ids[:, :9], slice_log.ids[:, :9])  # features of the log and the videos
    missing = log.ids[:, log.id_names.index("is_video_author")] == 0
    assert 0.3 < missing.mean() < 0.7
    assert (log.numbers[missing][:, :4] == 0).all()
