"""What it takes to convert a log: seconds, rows a second, and the peak memory of the process that does it.

    python tests/benchmarks/conversion.py [--rows 10000000] [--kuairand-rows 1400000] [--data-dir DIR] [--folder DIR]

KuaiRand-Pure of the official size is the slice, tiled: copies of it, each two weeks before the other, with users of
their own. `table` is a shuffled log of 14 id features, 5 numbers and 2 tasks, as Parquet and as CSV; `synthetic` shows
its 30 ids and 5 numbers. Each conversion runs in a process of its own, with an empty cache, so hashing the files
counts. Memory is the process's highest resident size (Linux), libraries included (about 60 MB).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from study import data

ROOT = Path(__file__).resolve().parents[2]
SLICE_LOG = "log_standard_4_25_to_5_08_pure.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
BLOCK_ROWS, MS_PER_DAY = 500_000, 86_400_000
START_MS = 1_704_067_200_000  # 2024-01-01
IDS, NUMBERS = [f"id{i}" for i in range(14)], [f"number{i}" for i in range(5)]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """One conversion. seconds: wall time, hashes of files included. peak_bytes: of its process."""

    rows: int
    seconds: float
    peak_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="of synthetic and table (default: 10 million)")
    parser.add_argument("--kuairand-rows", type=int, default=1_400_000)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared/data/KuaiRand-Pure")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    print(f"{'source':<24}{'rows':>12}{'seconds':>9}{'rows/s':>10}{'peak MB':>9}{'bytes/row':>11}")
    with tempfile.TemporaryDirectory(prefix="conversion-", dir=asked.folder) as name:
        folder = Path(name)
        if asked.data_dir.is_dir():
            tile(asked.data_dir, folder / "tiled", asked.kuairand_rows)
            show("kuairand, tiled", convert("kuairand", {"dir": str(folder / "tiled")}, folder))
        else:
            print(f"kuairand left out: no {asked.data_dir}")
        for rows in (asked.rows // 10, asked.rows):
            show("synthetic, 30 ids", convert("synthetic", {"rows": rows}, folder))
        for rows in (asked.rows // 10, asked.rows):
            write_table(folder / "table", rows)
            for kind in ("parquet", "csv"):
                show(f"table, {kind}", convert("table", {"dir": str(folder / "table" / f"{kind}.toml")}, folder))
    return 0


def show(source: str, one: Converted) -> None:
    print(
        f"{source:<24}{one.rows:>12,}{one.seconds:>9.1f}{one.rows / one.seconds:>10,.0f}{one.peak_bytes / 1e6:>9,.0f}"
        f"{one.peak_bytes / one.rows:>11,.0f}",
        flush=True,
    )


def convert(source: str, options: dict[str, Any], folder: Path) -> Converted:
    """A conversion in a child process, into an empty cache below `folder`, which is removed after."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, str(Path(__file__)), "--child", source, json.dumps(options), cache]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr}")
        return Converted(**json.loads(done.stdout))


def peak_bytes() -> int:
    """The highest resident size of this process. (`getrusage` would count the parent's, before it ran us.)"""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])


def tile(source: Path, into: Path, rows: int) -> None:
    """An archive of `rows` rows from KuaiRand's folder `source`: the log's copies, each 14 days before the other and of
    other users. Of the earliest copy, only as many as are needed, its latest."""
    source = source / "data" if (source / "data").is_dir() else source
    into.mkdir(parents=True)
    log = pd.read_csv(source / SLICE_LOG, dtype=str)
    users = pd.read_csv(source / USERS, dtype=str)
    copies = -(-rows // len(log))
    logs, all_users = [], []
    for copy in reversed(range(copies)):
        mine = rows - (copies - 1) * len(log) if copy == copies - 1 else len(log)
        latest = log.iloc[np.sort(np.argsort(log["time_ms"].astype(np.int64), kind="stable")[len(log) - mine :])]
        logs.append(
            latest.assign(
                user_id=_moved(latest["user_id"], copy),
                time_ms=(latest["time_ms"].astype(np.int64) - 14 * copy * MS_PER_DAY).astype(str),
                date=(pd.to_datetime(latest["date"], format="%Y%m%d") - np.timedelta64(14 * copy, "D")).dt.strftime(
                    "%Y%m%d"
                ),
            )
        )
        all_users.append(users.assign(user_id=_moved(users["user_id"], copy)))
    pd.concat(logs).to_csv(into / SLICE_LOG, index=False)
    pd.concat(all_users).to_csv(into / USERS, index=False)
    (into / VIDEOS).write_bytes((source / VIDEOS).read_bytes())


def _moved(user_id: Any, copy: int) -> Any:
    return (user_id.astype(np.int64) + copy * 100_000).astype(str)


def write_table(into: Path, rows: int) -> None:
    """`log.parquet` and `log.csv` of the same rows, shuffled in time, with a declaration each: `parquet.toml` and
    `csv.toml`. Two of the id features are text of up to a million values."""
    into.mkdir(parents=True, exist_ok=True)
    random, parquet, csv = np.random.default_rng(0), None, None
    for start in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        columns: dict[str, Any] = {"ts": START_MS + random.integers(0, 10 * MS_PER_DAY, count)}
        for f, name in enumerate(IDS):
            codes = random.zipf(1.3, count) % 10 ** (6 if f < 4 else 1 + f % 4)
            columns[name] = np.char.add("id-", codes.astype(str)) if f in (1, 3) else codes
        columns |= {name: random.standard_normal(count) for name in NUMBERS}
        columns |= {"click": random.integers(0, 2, count), "watch": random.exponential(3, count)}
        block = pa.table(columns)
        if parquet is None or csv is None:
            parquet = pq.ParquetWriter(into / "log.parquet", block.schema)
            csv = pyarrow.csv.CSVWriter(into / "log.csv", block.schema)
        parquet.write_table(block)
        csv.write_table(block)
    assert parquet
    assert csv
    parquet.close()
    csv.close()
    for kind in ("parquet", "csv"):
        (into / f"{kind}.toml").write_text(
            f'files = ["log.{kind}"]\ntime = "ts"\ntime_unit = "ms"\nids = {IDS}\nnumbers = {NUMBERS}\n'
            'log1p = ["watch"]\n[tasks]\nclick = "binary"\nwatch = "regression"\n'
        )


def _child(source: str, options: str, cache: str) -> None:
    started = time.perf_counter()
    log = data.load(source, json.loads(options), Path(cache))
    seconds = time.perf_counter() - started
    print(json.dumps(asdict(Converted(rows=len(log.labels), seconds=seconds, peak_bytes=peak_bytes()))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
