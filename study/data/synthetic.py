"""A synthetic feed: a time-ordered multitask stream with a known best loss. Nothing to download.

Users and items have latent traits, `a_u` and `b_i`; most id features are coarse, overlapping views of these, so that
features are as redundant as in real logs. What a task t depends on, in row r with user u, item i and context c:

    z_rt  = sqrt(k) * common_r + sqrt(1 - k) * own_rt                       k = task_correlation
    each = <theta, a_u> + <phi, b_i> + own effects of user, item, author, tab, hour
           + interaction * a_u' R b_i + effects of the numbers + drift * (a walk of tab and category over days)

scaled to variance 1 over the rows. Binary: P(1) = (1 - label_noise) * sigmoid(base_t + s_t * z) + label_noise * rate_t,
with base_t such that the mean is the task's rate. Regression: log(1 + seconds) is 0 with a probability that falls
with z, else `m(z) * noise` with Gamma noise of mean 1 and variance `heavy_tail`: seconds have a power-law tail.

The true probabilities given features and time are known, and so is the lowest possible expected loss:
`facts["bayes_loss"]`.

Scores and base rates are scaled over all rows, so memory grows by about 140 bytes a row; it does not grow with the
number of features.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from study.data._cache import cached, content_hash
from study.data._dataset import Log
from study.data._days import Days
from study.data._encode import make_log

VERSION = 1
"""Must be increased if the same options give other arrays."""

SECONDS_PER_DAY = 86_400
FIRST_DAY = np.datetime64("2024-01-01", "D")

RATES = {"click": 0.44, "long_view": 0.31, "like": 0.017}
SLOPES = {"click": 1.0, "long_view": 1.1, "like": 1.3}
"""Standard deviation of a task's log-odds, times the option `signal`."""

ZERO_RATE, TYPICAL_TARGET = 0.0975, 1.8
"""Share of rows with no play time; the median over rows of m(z), in log(1 + s)."""

TRAITS, NEW_ITEMS = 4, 0.15
"""Length of `a_u` and `b_i`; share of the items that appear after the first day."""

CONTEXTS = {"tab": 15, "hour": 24}
TABLE_IDS = {
    "category": ("item", 60),
    "upload_type": ("item", 14),
    "music": ("item", 1500),
    "activity": ("user", 9),
    "group": ("user", 50),
    "region": ("user", 118),
    "device": ("user", 34),
    "level": ("user", 454),
    "cohort": ("user", 7),
}
EXTRA_SIZES = (7, 2, 50, 5, 15, 3, 118, 2)

MAX_SIZE = 10**8
"""Most rows, users and items: 14 GB, and minutes."""

BLOCK_ROWS = 1 << 16
"""Rows whose scores are computed together."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The properties of a stream.

    Args:
        rows, days: size; the last day is held out.
        seed: of everything drawn.
        ids, numbers: features of each kind, the first of a fixed order. Beyond 14 ids, more views of the same traits.
        users, items: how many there are.
        skew: Zipf exponent of items' popularity; users' activity has half of it.
        correlation: of a feature with the trait that it views, 0 to 1.
        task_correlation: of the tasks' scores, 0 to 1.
        noise_correlation: of what the labels of a row share beyond their scores, 0 to 1. No model can see it.
        signal: standard deviation of the log-odds of a click.
        interaction, drift: weights of these parts of a score.
        label_noise: share of the binary labels that are drawn at the task's rate, whatever the row.
        heavy_tail: variance of the Gamma noise of play time, relative to its squared mean.
        outliers: share of users and items with number features ten times too large.

    Raises:
        ValueError: an option is out of range.
    """

    rows: int = 122_000
    days: int = 10
    seed: int = 0
    ids: int = 30
    numbers: int = 5
    users: int = 20_000
    items: int = 6_000
    skew: float = 1.0
    correlation: float = 0.8
    task_correlation: float = 0.7
    noise_correlation: float = 0.6
    signal: float = 1.3
    interaction: float = 0.5
    drift: float = 0.3
    label_noise: float = 0.0
    heavy_tail: float = 0.4
    outliers: float = 0.02

    def __post_init__(self) -> None:
        whole = {"rows": 100, "days": 2, "seed": 0, "ids": 0, "numbers": 0, "users": 2, "items": 2}
        for name, low in whole.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise ValueError(f"need a whole number {name} >= {low}, got {name}={value!r}")
            if name != "seed" and value > MAX_SIZE:
                raise ValueError(f"need {name} <= {MAX_SIZE:,}, got {name}={value!r}")
        for name in [name for name in asdict(self) if name not in whole]:
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
                raise ValueError(f"need a number {name} >= 0, got {name}={value!r}")
        for name in ("correlation", "task_correlation", "noise_correlation", "label_noise", "outliers"):
            if getattr(self, name) > 1:
                raise ValueError(f"need 0 <= {name} <= 1, got {name}={getattr(self, name)!r}")
        if self.label_noise == 1 or self.heavy_tail == 0:
            raise ValueError("need label_noise < 1 and heavy_tail > 0")
        if self.ids + self.numbers == 0 or self.ids > 200 or self.numbers > 200:
            raise ValueError(f"need 1 to 200 features of a kind, got ids={self.ids}, numbers={self.numbers}")
        if self.rows < 10 * self.days:
            raise ValueError(f"need at least ten rows a day, got rows={self.rows}, days={self.days}")


def load(cache: Path, **options: Any) -> Log:
    """Return the stream with the tasks click, long_view, like (binary) and play_time (regression on log(1 + seconds)).

    Args:
        cache: the folder for converted logs.
        **options: as in `Options`.

    Returns:
        The log. `facts["bayes_loss"]` holds, for the parts train and heldout, each task's expected loss (nats, or
        squared error of the standardized target) given everything but the noise.

    Raises:
        ValueError: an option is out of range.
    """
    made = Options(**options)
    content = content_hash({"source": "synthetic", "version": VERSION, "options": asdict(made)})
    return cached(cache, "synthetic", content, lambda into: Stream(made).log(into, content))


def days(cache: Path, **options: Any) -> Days:
    """Return the day of each row. options: as in `load`."""
    stream = Stream(Options(**options))
    return Days(of_row=stream.day + 1, dates=tuple(str(FIRST_DAY + day) for day in range(stream.options.days)))


class Stream:
    """Draws one stream. Each part has its own named random stream, so options of one part do not change the others."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.times = self._draw_times()
        self.day = (self.times // SECONDS_PER_DAY).astype(np.int32)
        self.train_rows = int(np.searchsorted(self.day, options.days - 1))
        self.traits = {
            "user": self._random("traits of users").standard_normal((options.users, TRAITS)),
            "item": self._random("traits of items").standard_normal((options.items, TRAITS)),
        }
        self.user = self._draw_users()
        self.item = self._draw_items()
        authors = max(options.items // 3, 1)
        self.author_of = self._random("authors").choice(authors, options.items, p=_zipf(authors, 0.7))
        self.context = {
            "tab": self._choice(self._random("tab"), _zipf(CONTEXTS["tab"], 1.5), options.rows),
            "hour": (self.times % SECONDS_PER_DAY // 3600).astype(np.int32),
        }

    def log(self, into: Path, content: str) -> Log:
        """Return the log, with its arrays in the folder `into`."""
        targets = self._draw_targets()
        log = make_log(
            into,
            rows=self.options.rows,
            train_rows=self.train_rows,
            ids=self._id_features(),
            numbers=((f"number_{j}", self._row_numbers(j)) for j in range(self.options.numbers)),
            tasks=[
                *((name, "binary", targets[name], "") for name in RATES),
                ("play_time", "regression", targets["play_time"], "log(1 + s)"),
            ],
            content=content,
            facts={
                "title": "synthetic stream",
                "first_day": str(FIRST_DAY),
                "last_day": str(FIRST_DAY + self.options.days - 1),
                "days": self.options.days,
                "options": asdict(self.options),
            },
        )
        log.facts["bayes_loss"] = self._bayes_loss(log)
        return log

    @cached_property
    def probabilities(self) -> dict[str, np.ndarray]:
        """Return the true probability of each binary task, float64 (N,)."""
        found = {}
        for name, rate in RATES.items():
            log_odds = SLOPES[name] * self.options.signal * self._scaled_score(name)
            p = _sigmoid(_intercept(log_odds, rate) + log_odds)
            p *= 1 - self.options.label_noise
            p += self.options.label_noise * rate
            found[name] = p
        return found

    @cached_property
    def play_time_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true mean and variance of log(1 + seconds), float64 (N,) each."""
        some, size = self._play_time_parts
        mean = some * size
        return mean, some * size**2 * (1 + self.options.heavy_tail) - mean**2

    @cached_property
    def _play_time_parts(self) -> tuple[np.ndarray, np.ndarray]:
        z = self._scaled_score("play_time")
        log_odds = -0.5 * self.options.signal * z
        some = 1 - _sigmoid(_intercept(log_odds, ZERO_RATE) + log_odds)
        return some, TYPICAL_TARGET * np.exp(0.3 * self.options.signal * np.clip(z, -3, 3))

    def _bayes_loss(self, log: Log) -> dict[str, dict[str, float]]:
        parts = {"train": slice(None, self.train_rows), "heldout": slice(self.train_rows, None)}
        found: dict[str, dict[str, float]] = {part: {} for part in parts}
        for name in (*RATES, "play_time"):
            if name == "play_time":
                losses = self.play_time_moments[1] / log.tasks[-1].scale ** 2
            else:
                p = self.probabilities[name]
                losses = -p * np.log(p) - (1 - p) * np.log1p(-p)
            for part, rows in parts.items():
                found[part][name] = float(losses[rows].mean())
        return found

    def _draw_targets(self) -> dict[str, np.ndarray]:
        shared = self._random("shared noise").standard_normal(self.options.rows)
        targets = {name: self._noise(name, shared) < p for name, p in self.probabilities.items()}
        some, size = self._play_time_parts
        gamma = self._random("play time").gamma(1 / self.options.heavy_tail, self.options.heavy_tail, self.options.rows)
        # Assigning sorted draws by the rank of another variable keeps their distribution and correlates the two.
        gamma.sort()
        target = size * gamma[_ranks(-self._noise("play_time", shared))]
        target[self._random("no play time").random(self.options.rows) >= some] = 0.0
        return targets | {"play_time": target}

    def _noise(self, task: str, shared: np.ndarray) -> np.ndarray:
        """Return uniform noise (N,) of a task's labels: independent of the features, correlated between the tasks."""
        own, k = self._random(f"noise of {task}").standard_normal(len(shared)), self.options.noise_correlation
        return (_ranks(math.sqrt(k) * shared + math.sqrt(1 - k) * own) + 0.5) / len(shared)

    def _scaled_score(self, task: str) -> np.ndarray:
        """Return the task's z (N,)."""
        k = self.options.task_correlation
        return _unit_variance(math.sqrt(k) * self._common_score + math.sqrt(1 - k) * self._score(task))

    @cached_property
    def _common_score(self) -> np.ndarray:
        return self._score("common")

    def _score(self, name: str) -> np.ndarray:
        random, options = self._random(f"score {name}"), self.options
        theta, phi = random.standard_normal((2, TRAITS)) / math.sqrt(TRAITS)
        bilinear = random.standard_normal((TRAITS, TRAITS)) / TRAITS
        tab, hour = random.standard_normal(CONTEXTS["tab"]), 0.3 * random.standard_normal(CONTEXTS["hour"])
        user = self.traits["user"] @ theta + 0.4 * random.standard_normal(options.users)
        item = self.traits["item"] @ phi + 0.4 * random.standard_normal(options.items)
        item += 0.4 * random.standard_normal(options.items // 3 + 1)[self.author_of]
        for j in range(4):
            holder = "user" if j % 2 == 0 else "item"
            effect = 0.4 * np.tanh(self._clean_numbers(j)) * random.standard_normal()
            user, item = (user + effect, item) if holder == "user" else (user, item + effect)
        left, right = self.traits["user"] @ bilinear, self.traits["item"]
        walk_of_tab = self._walk(name, "tab", CONTEXTS["tab"])
        walk_of_category = self._walk(name, "category", TABLE_IDS["category"][1])
        categories = self._table_codes("category")
        score = np.empty(options.rows)
        for start in range(0, options.rows, BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            u, i, t, day = self.user[rows], self.item[rows], self.context["tab"][rows], self.day[rows]
            part = user[u] + item[i] + tab[t] + hour[self.context["hour"][rows]]
            part += options.interaction * np.einsum("rk,rk->r", left[u], right[i])
            part += options.drift * (walk_of_tab[day, t] + walk_of_category[day, categories[i]])
            score[rows] = part
        return _unit_variance(score)

    def _walk(self, score: str, of: str, size: int) -> np.ndarray:
        """(days, size): random walks that have variance 1 on the last day."""
        steps = self._random(f"walk of {of} in {score}").standard_normal((self.options.days, size))
        return np.cumsum(steps, axis=0) / math.sqrt(self.options.days)

    def _id_features(self) -> Iterator[tuple[str, np.ndarray, int]]:
        options = self.options
        makers: dict[str, Callable[[], tuple[np.ndarray, int]]] = {
            "user": lambda: (self.user, options.users),
            "item": lambda: (self.item, options.items),
            "author": lambda: (self.author_of[self.item], options.items // 3 + 1),
        }
        makers |= {name: lambda name=name: (self.context[name], CONTEXTS[name]) for name in CONTEXTS}
        views = dict(TABLE_IDS)
        for extra in range(options.ids - len(makers) - len(TABLE_IDS)):
            holder = "user" if extra % 2 == 0 else "item"
            views[f"{holder}_view_{extra // 2}"] = (holder, EXTRA_SIZES[extra % len(EXTRA_SIZES)])
        rows = {"user": self.user, "item": self.item}
        makers |= {
            name: lambda name=name, view=view: (self._table_codes(name, view)[rows[view[0]]], view[1])
            for name, view in views.items()
        }
        for name, make in list(makers.items())[: options.ids]:
            yield name, *make()

    def _table_codes(self, name: str, view: tuple[str, int] | None = None) -> np.ndarray:
        """Codes of a view of a trait, per user or item: bins of a noisy trait, the most frequent first."""
        holder, size = view or TABLE_IDS[name]
        random, traits = self._random(f"view {name}"), self.traits[holder]
        direction = random.standard_normal(TRAITS)
        direction /= np.linalg.norm(direction)
        k = self.options.correlation
        seen = k * traits @ direction + math.sqrt(1 - k**2) * random.standard_normal(len(traits))
        share = (_ranks(seen) + 0.5) / len(seen)
        return np.minimum(np.searchsorted(np.cumsum(_zipf(size, 1.0)), share), size - 1).astype(np.int32)

    def _clean_numbers(self, j: int) -> np.ndarray:
        """A number of each user (even j) or item (odd j), before outliers; standard normal."""
        traits, k = self.traits["user" if j % 2 == 0 else "item"], self.options.correlation
        noise = self._random(f"number {j}").standard_normal(len(traits))
        return k * traits[:, (j // 2) % TRAITS] + math.sqrt(1 - k**2) * noise

    def _row_numbers(self, j: int) -> np.ndarray:
        clean = self._clean_numbers(j)
        freak = self._random(f"outliers {j}").random(len(clean)) < self.options.outliers
        return np.where(freak, 10 * clean, clean)[self.user if j % 2 == 0 else self.item]

    def _draw_times(self) -> np.ndarray:
        """Seconds since the first midnight (N,), sorted; the evening is busier than the night."""
        options, random = self.options, self._random("times")
        hours = 1 + 0.8 * np.sin((np.arange(24) - 13) / 24 * 2 * math.pi)
        hour = random.choice(24, options.rows, p=hours / hours.sum())
        day = np.arange(options.rows) * options.days // options.rows
        return np.sort(day * SECONDS_PER_DAY + (hour + random.random(options.rows)) * 3600)

    def _draw_users(self) -> np.ndarray:
        options = self.options
        who = self._random("who is active").permutation(options.users).astype(np.int32)
        return who[self._choice(self._random("users"), _zipf(options.users, options.skew / 2), options.rows)]

    def _draw_items(self) -> np.ndarray:
        """Items (N,): Zipf, with popularity that wanders from day to day, and items that appear later than others."""
        options, random = self.options, self._random("items")
        popularity = np.log(_zipf(options.items, options.skew))[random.permutation(options.items)]
        late = random.random(options.items) < NEW_ITEMS
        appears = np.where(late, random.integers(1, options.days, options.items), 0)
        appears[0] = 0  # at least one item exists from the start
        item = np.empty(options.rows, dtype=np.int32)
        for day in range(options.days):
            popularity = popularity + options.drift * random.standard_normal(options.items)
            weights = np.where(appears <= day, np.exp(popularity - popularity.max()), 0.0)
            start, stop = np.searchsorted(self.day, [day, day + 1])
            item[start:stop] = self._choice(random, weights / weights.sum(), int(stop - start))
        return item

    @staticmethod
    def _choice(random: np.random.Generator, p: np.ndarray, size: int) -> np.ndarray:
        """int32 (size,): indices drawn with the probabilities `p`."""
        return random.choice(len(p), size, p=p).astype(np.int32)

    def _random(self, name: str) -> np.random.Generator:
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.options.seed, key])))


def _zipf(size: int, exponent: float) -> np.ndarray:
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def _unit_variance(values: np.ndarray) -> np.ndarray:
    """Scale values in place to mean 0 and variance 1."""
    mean, deviation = values.mean(), values.std()
    values -= mean
    values /= deviation
    return values


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return int64 (N,): how many values are smaller."""
    order = np.argsort(values)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(len(values))
    return ranks


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y = np.clip(x, -500, 500)
    np.negative(y, out=y)
    np.exp(y, out=y)
    y += 1
    return np.divide(1, y, out=y)


def _intercept(log_odds: np.ndarray, rate: float) -> float:
    """Return the intercept that gives log-odds this mean probability, by bisection."""
    low, high = -700.0, 700.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(log_odds + middle).mean() < rate else (low, middle)
    return (low + high) / 2
