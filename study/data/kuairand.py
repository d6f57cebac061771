"""KuaiRand-Pure: two months of a short-video feed, read from the official archive's own layout.

Source: Gao et al., *KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos*, CIKM 2022,
https://kuairand.com, licence CC BY-SA 4.0.

All standard logs are read (`log_standard*.csv`). The log of randomly exposed videos is another experiment and is not
used. Video statistics are not used either: they are sums over the whole month, so they contain the future. Exact
duplicate rows are dropped, rows are sorted by time, and the last day by the log's `date` is held out. `date` and
`hourmin` were rounded to the hour some time after the video was shown. So the last day begins a little before midnight
(636 training rows of the last two weeks are later than its first row), and the hour of the day comes from `time_ms`.

Inputs: 30 id features and 5 numbers. The user's reactions (play, profile and comment times, every `is_*` column) are
not inputs. Constant columns (`is_lowactive_period`, `visible_status`) and ranges of counts (`fans_user_num_range`, ...)
are left out. The archive has one snapshot of each user.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from study.data._cache import cached, content_hash, file_hash
from study.data._csv import csv_header, read_csv, require_columns
from study.data._dataset import Log
from study.data._days import Days
from study.data._encode import make_log, ranked

VERSION = 1
"""Must be increased if the same files are converted to other arrays."""

USERS, VIDEOS, LOGS = "user_features_pure.csv", "video_features_basic_pure.csv", "log_standard*.csv"

MS_PER_HOUR = 3_600_000
UTC_8_MS = 8 * MS_PER_HOUR
"""China's clock, all year: the log's days and hours are local."""

VIDEO_IDS = ("author_id", "music_id", "tag", "video_type", "upload_type")
USER_IDS = ("user_active_degree", "is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18)))
USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
BINARY = {"click": "is_click", "long_view": "long_view", "like": "is_like"}

NEEDED = {name: pa.int64() for name in ("user_id", "video_id", "date", "time_ms", "tab", *BINARY.values())}
NEEDED |= {"play_time_ms": pa.float64(), "duration_ms": pa.float64()}


def load(cache: Path, *, dir: str | Path) -> Log:
    """Return the standard log. Tasks: click, long_view, like (binary), play_time (regression on log(1 + seconds)).

    A user or a video without features counts as unseen.

    Args:
        cache: the folder for converted logs.
        dir: the archive's folder, its `data` folder, or a folder that holds `KuaiRand-Pure`.

    Raises:
        ValueError: a file or column is missing or cannot be read, a label is not 0 or 1, a number is negative or
            infinite, or there are fewer than two days.
    """
    folder = _folder(Path(dir))
    logs = sorted(folder.glob(LOGS))
    made_from = {
        "source": "kuairand",
        "version": VERSION,
        "logs": [file_hash(path, cache) for path in logs],
        "users": file_hash(folder / USERS, cache),
        "videos": file_hash(folder / VIDEOS, cache),
    }
    content = content_hash(made_from)
    return cached(
        cache, "kuairand", content, lambda into: _convert(into, logs, folder / USERS, folder / VIDEOS, content)
    )


def days(cache: Path, *, dir: str | Path) -> Days:
    """Return the day of each row by the log's `date`. Raises as `load` does."""
    dates = _in_time_order(_read_logs(sorted(_folder(Path(dir)).glob(LOGS))))["date"].to_numpy()
    distinct, at = np.unique(dates, return_inverse=True)
    return Days(of_row=at + 1, dates=tuple(_iso(date) for date in distinct))


def _folder(given: Path) -> Path:
    candidates = (given, given / "data", given / "KuaiRand-Pure" / "data")
    folder = next((path for path in candidates if any(path.glob(LOGS))), None)
    table = given if given.suffix == ".toml" else given / "table.toml"
    if folder is None and table.is_file():
        raise ValueError(f"no {LOGS} in {table.parent}; it has a {table.name}: add --data table")
    if folder is None:
        raise ValueError(
            f"no {LOGS} in {given}, {given}/data or {given}/KuaiRand-Pure/data; `study data fetch kuairand`"
        )
    missing = [name for name in (USERS, VIDEOS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}")
    return folder


def _convert(into: Path, logs: list[Path], users_file: Path, videos_file: Path, content: str) -> Log:
    log = _read_logs(logs)
    read_rows = log.num_rows
    log = _in_time_order(log)
    dates = log["date"].to_numpy()
    days = np.unique(dates)
    if len(days) < 2:
        raise ValueError(f"the log holds one day ({_iso(days[0])}); need two or more, to hold out the last")
    users, videos = _Features(users_file, "user_id", log), _Features(videos_file, "video_id", log)
    facts = {
        "title": "KuaiRand-Pure",
        "licence": "CC BY-SA 4.0",
        "citation": "Gao et al., KuaiRand, CIKM 2022, https://kuairand.com",
        "first_day": _iso(days[0]),
        "last_day": _iso(days[-1]),
        "days": len(days),
        "duplicates_dropped": read_rows - log.num_rows,
        "log_files": [path.name for path in logs],
    }
    return make_log(
        into,
        rows=log.num_rows,
        train_rows=int(np.sum(dates < days[-1])),
        ids=_ids(log, users, videos),
        numbers=_numbers(log, users),
        tasks=_tasks(log),
        content=content,
        facts=facts,
    )


def _ids(log: pa.Table, users: "_Features", videos: "_Features") -> Iterator[tuple[str, np.ndarray, int]]:
    for name in ("user_id", "video_id"):
        yield name, *ranked(log[name])
    for name in ("author_id", "music_id", "tag"):
        yield name, *videos.codes(name)
    yield "tab", *ranked(log["tab"])
    yield "hour", *ranked(pa.array((log["time_ms"].to_numpy() + UTC_8_MS) // MS_PER_HOUR % 24))
    for name in ("video_type", "upload_type"):
        yield name, *videos.codes(name)
    for name in USER_IDS:
        yield name, *users.codes(name)


def _numbers(log: pa.Table, users: "_Features") -> Iterator[tuple[str, np.ndarray]]:
    for name in USER_NUMBERS:
        yield name, np.log1p(users.counts(name))
    milliseconds = log["duration_ms"].to_numpy()
    _require_finite(milliseconds, "the log", "duration_ms")
    yield "duration", np.log1p(np.where(milliseconds > 0, milliseconds, np.nan) / 1000)


def _tasks(log: pa.Table) -> Iterator[tuple[str, str, np.ndarray, str]]:
    for name, column in BINARY.items():
        yield name, "binary", log[column].to_numpy(), ""
    yield "play_time", "regression", _log_seconds(log["play_time_ms"].to_numpy()), "log(1 + s)"


def _read_logs(paths: list[Path]) -> pa.Table:
    log = pa.concat_tables([_read_log(path) for path in paths], promote_options="permissive")
    if log.num_rows == 0:
        raise ValueError(f"no rows in {', '.join(path.name for path in paths)}")
    return log


def _read_log(path: Path) -> pa.Table:
    header = csv_header(path)
    require_columns(path, header, list(NEEDED))
    _require_last_line_end(path)
    # Other columns serve only to find duplicate rows; text compares exactly.
    table = read_csv(path, {name: NEEDED.get(name, pa.string()) for name in header})
    for name in NEEDED:
        missing = table[name].null_count
        if missing and name not in ("user_id", "video_id", "tab", "duration_ms"):
            raise ValueError(f"{path} has {missing:,} rows without {name}")
    return table


def _require_last_line_end(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(-1, 2)
        if file.read(1) not in b"\r\n":
            raise ValueError(f"{path} is cut off: its last line has no end")


def _in_time_order(log: pa.Table) -> pa.Table:
    """Return the needed columns, sorted by time with the last day at the end, without duplicates of a whole row."""
    time_ms, date = log["time_ms"].to_numpy(), log["date"].to_numpy()
    order = np.lexsort((time_ms, date == date.max()))
    # Equal rows have equal times: only rows with the same time as a neighbour are compared completely.
    equal = np.diff(time_ms[order]) == 0
    shared = order[np.append(False, equal) | np.append(equal, False)]
    repeated = np.zeros(log.num_rows, dtype=bool)
    repeated[shared] = log.take(pa.array(shared)).to_pandas().duplicated().to_numpy()
    return log.select(list(NEEDED)).take(pa.array(order[~repeated[order]]))


class _Features:
    """Features by key (user or video), for each row of the log."""

    def __init__(self, path: Path, key: str, log: pa.Table) -> None:
        self.path = path
        kinds = {key: pa.int64()}
        if key == "user_id":
            kinds |= dict.fromkeys(USER_IDS, pa.string()) | dict.fromkeys(USER_NUMBERS, pa.float64())
        else:
            kinds |= dict.fromkeys(VIDEO_IDS, pa.string())
        require_columns(path, csv_header(path), list(kinds))
        self.table = read_csv(path, kinds, only=list(kinds))
        keys = self.table[key].drop_null().to_numpy()
        if len(keys) != self.table.num_rows or len(np.unique(keys)) != len(keys):
            raise ValueError(f"{path} has rows without a {key}, or two rows for one {key}")
        order = np.argsort(keys)
        wanted = log[key].fill_null(-1).to_numpy()
        at = np.searchsorted(keys, wanted, sorter=order)
        found = np.append(keys[order], 0)[at] == wanted
        self.at_row = np.where(found, np.append(order, len(keys))[at], len(keys))  # the last one: no features

    def codes(self, name: str) -> tuple[np.ndarray, int]:
        codes, distinct = ranked(self.table[name])
        return np.append(codes, np.int32(-1))[self.at_row], distinct

    def counts(self, name: str) -> np.ndarray:
        values = self.table[name].to_numpy()
        _require_finite(values, str(self.path), name)
        # Negative codes such as -124 stand for "unknown" in these files.
        return np.append(np.where(values >= 0, values, np.nan), np.nan)[self.at_row]


def _require_finite(values: np.ndarray, where: str, name: str) -> None:
    if infinite := int(np.isinf(values).sum()):
        raise ValueError(f"{where} has {infinite:,} infinite values of {name}")


def _log_seconds(play_time_ms: np.ndarray) -> np.ndarray:
    wrong = play_time_ms[~(np.isfinite(play_time_ms) & (play_time_ms >= 0))]
    if len(wrong):
        raise ValueError(
            f"the log has {len(wrong):,} values of play_time_ms that are no time, for instance {wrong[0]:g}"
        )
    return np.log1p(play_time_ms / 1000)


def _iso(date: int) -> str:
    text = f"{int(date):08d}"
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"
