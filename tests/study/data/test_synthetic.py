"""The synthetic stream has its documented properties, and no prediction beats its Bayes loss."""

import tracemalloc

import numpy as np
import pytest

from study.data import _cache, load
from study.data._dataset import Log
from study.data.synthetic import Options, Stream

BINARY = ("click", "long_view", "like")
SMALL = {"rows": 20_000, "users": 2000, "items": 500, "days": 5}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def log(cache) -> Log:
    return load("synthetic", {}, cache)


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream(Options())


def log_loss(labels: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.where(labels == 1, -np.log(p), -np.log1p(-p))


def parts(log: Log) -> dict[str, slice]:
    return {"train": slice(None, log.train_rows), "heldout": slice(log.train_rows, None)}


def test_the_default_stream_has_its_documented_size(log):
    assert log.ids.shape == (122_000, 30)
    assert log.numbers.shape == (122_000, 5)
    assert 105_000 < log.train_rows < 115_000
    assert 11_000 < len(log.labels) - log.train_rows < 13_000
    assert 15_000 < log.vocabulary[0] <= 20_001
    assert 4_500 < log.vocabulary[1] <= 6_001
    assert (log.ids.max(axis=0) < log.vocabulary).all()
    assert np.isfinite(log.numbers).all()
    unseen = (log.ids[log.train_rows :] == 0).mean(axis=0)
    assert 0.001 < unseen[1] < 0.1  # new items appear until the end
    assert not (log.ids[: log.train_rows] == 0).any()


def test_rates_and_watch_times_are_realistic(log, stream):
    rates = [task.base for task in log.tasks[:3]]
    np.testing.assert_allclose(rates, [0.44, 0.31, 0.017], rtol=0.08)
    play = log.tasks[3]
    seconds = np.expm1(log.labels[:, 3].astype(np.float64) * play.scale + play.base)
    assert (np.abs(seconds) < 1e-5).mean() == pytest.approx(0.0975, abs=0.01)
    assert 2 < np.median(seconds) < 10
    assert np.quantile(seconds, 0.99) > 20 * np.median(seconds)
    counts = np.sort(np.bincount(stream.item))[::-1]
    slope = np.polyfit(np.log(np.arange(3, 300)), np.log(counts[3:300]), 1)[0]
    assert -1.3 < slope < -0.6  # Zipf


def test_rows_are_in_time_order_and_the_last_day_is_held_out(stream, log):
    assert (np.diff(stream.times) >= 0).all()
    assert log.train_rows == stream.train_rows
    assert (stream.day[: log.train_rows] < 9).all()
    assert (stream.day[log.train_rows :] == 9).all()


def test_the_true_probabilities_reach_the_bayes_loss(log, stream):
    for part, rows in parts(log).items():
        for t, name in enumerate(BINARY):
            losses = log_loss(log.labels[rows, t], stream.probabilities[name][rows])
            error = losses.std() / np.sqrt(len(losses))
            assert losses.mean() == pytest.approx(log.facts["bayes_loss"][part][name], abs=4 * error)
        play = log.tasks[3]
        squares = (log.labels[rows, 3] - (stream.play_time_moments[0][rows] - play.base) / play.scale) ** 2
        error = squares.std() / np.sqrt(len(squares))
        assert squares.mean() == pytest.approx(log.facts["bayes_loss"][part]["play_time"], abs=4 * error)


def test_labels_follow_their_true_probabilities(log, stream):
    """In each tenth of the rows, sorted by true probability, the rate of the labels is their mean probability."""
    for t, name in enumerate(BINARY):
        p, labels = stream.probabilities[name], log.labels[:, t]
        for tenth in np.array_split(np.argsort(p), 10):
            error = np.sqrt((p[tenth] * (1 - p[tenth])).sum()) / len(tenth)
            assert labels[tenth].mean() == pytest.approx(p[tenth].mean(), abs=4.5 * error)
    mean, variance = stream.play_time_moments
    play = log.tasks[3]
    target = log.labels[:, 3] * play.scale + play.base
    for tenth in np.array_split(np.argsort(mean), 10):
        error = np.sqrt(variance[tenth].mean() / len(tenth))
        assert target[tenth].mean() == pytest.approx(mean[tenth].mean(), abs=4.5 * error)
        assert ((target - mean)[tenth] ** 2).mean() == pytest.approx(variance[tenth].mean(), rel=0.1)


def test_no_prediction_beats_the_true_probabilities(log, stream):
    random = np.random.default_rng(1)
    for t, name in enumerate(BINARY):
        p, labels = stream.probabilities[name], log.labels[:, t]
        logit = np.log(p) - np.log1p(-p)
        best = log_loss(labels, p).mean()
        rivals = [0.7 * logit, 1.4 * logit, logit + 0.3, logit - 0.3, logit + 0.5 * random.standard_normal(len(p))]
        assert min(log_loss(labels, 1 / (1 + np.exp(-rival))).mean() for rival in rivals) > best
        assert log.tasks[t].constant_loss > 1.1 * log.facts["bayes_loss"]["train"][name]
    assert log.facts["bayes_loss"]["train"]["play_time"] < 0.9


def test_tasks_are_correlated_beyond_their_probabilities(log, stream):
    seen = np.corrcoef([stream.probabilities[name] for name in BINARY[:2]])[0, 1]
    left = [log.labels[:, t] - stream.probabilities[name] for t, name in enumerate(BINARY[:2])]
    assert seen > 0.5
    assert np.corrcoef(left)[0, 1] > 0.2


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1
    positive = labels == 1
    k = positive.sum()
    return float((ranks[positive].sum() - k * (k + 1) / 2) / (k * (len(labels) - k)))


def test_features_predict_clicks(log, stream):
    """A naive Bayes score of clicks, the sum of log-odds of each code in training, ranks the held-out day."""
    scores, train = np.zeros(len(log.labels) - log.train_rows), slice(None, log.train_rows)
    for f in range(log.ids.shape[1]):
        shown = np.bincount(log.ids[train, f], minlength=log.vocabulary[f])
        clicked = np.bincount(log.ids[train, f], weights=log.labels[train, 0], minlength=log.vocabulary[f])
        rate = (clicked + 20 * log.tasks[0].base) / (shown + 20)
        scores += np.log(rate / (1 - rate))[log.ids[log.train_rows :, f]]
    learned = auc(log.labels[log.train_rows :, 0], scores)
    known = auc(log.labels[log.train_rows :, 0], stream.probabilities["click"][log.train_rows :])
    assert 0.64 < learned < known < 0.85


def test_only_the_same_options_give_the_same_bits(cache, tmp_path):
    one, again = load("synthetic", SMALL, cache), load("synthetic", SMALL, tmp_path)
    other = load("synthetic", SMALL | {"seed": 1}, cache)
    assert one.content == again.content != other.content
    for name in ("ids", "numbers", "labels"):
        assert getattr(one, name).tobytes() == getattr(again, name).tobytes()
        assert getattr(one, name).tobytes() != getattr(other, name).tobytes()
    assert one.facts == again.facts


def test_more_features_do_not_change_the_stream(cache):
    few, many = (load("synthetic", SMALL | {"ids": ids, "numbers": n}, cache) for ids, n in [(5, 1), (30, 5)])
    assert many.ids.shape[1] == len(set(many.id_names)) == 30
    np.testing.assert_array_equal(few.ids, many.ids[:, :5])
    np.testing.assert_array_equal(few.numbers[:, 0], many.numbers[:, 0])
    np.testing.assert_array_equal(few.labels, many.labels)
    assert few.facts["bayes_loss"] == many.facts["bayes_loss"]


def test_memory_does_not_grow_with_the_features(tmp_path, monkeypatch):
    monkeypatch.setattr(_cache, "BLOCK_ROWS", 1000)

    def peak(ids: int) -> int:
        tracemalloc.start()
        load("synthetic", SMALL | {"ids": ids}, tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(90) - peak(10) < 80 * SMALL["rows"]  # 80 features take 4 bytes a row each


def stream_with(**options) -> Stream:
    return Stream(Options(**SMALL | options))


def share_of_popular_items(s: Stream) -> float:
    return np.sort(np.bincount(s.item))[-20:].sum() / len(s.item)


def spread_of_clicks(s: Stream) -> float:
    return float(s.probabilities["click"].std())


def redundancy(s: Stream) -> float:
    return abs(np.corrcoef(s._clean_numbers(0), s.traits["user"][:, 0])[0, 1])


def outliers(s: Stream) -> float:
    return float((np.abs(s._row_numbers(0)) > 5).mean())


def tail_of_play_time(s: Stream) -> float:
    target = s._draw_targets()["play_time"]
    return float(np.quantile(target, 0.995) / np.median(target))


def agreement_of_scores(s: Stream) -> float:
    return float(np.corrcoef(s._scaled_score("click"), s._scaled_score("like"))[0, 1])


def change_of_items(s: Stream) -> float:
    first, last = (np.bincount(s.item[s.day == day], minlength=500) for day in (0, 4))
    return float(np.abs(first - last).sum() / (first + last).sum())


def agreement_of_noise(s: Stream) -> float:
    targets = s._draw_targets()
    return float(np.corrcoef([targets[name] - s.probabilities[name] for name in BINARY[:2]])[0, 1])


@pytest.mark.parametrize(
    ("measure", "option", "low", "high", "ratio"),
    [
        (share_of_popular_items, "skew", 0.8, 1.5, 1.5),
        (spread_of_clicks, "signal", 0.7, 2.0, 1.3),
        (tail_of_play_time, "heavy_tail", 0.1, 1.0, 1.3),
        (change_of_items, "drift", 0.0, 1.0, 1.2),
    ],
)
def test_an_option_increases_what_it_names(measure, option, low, high, ratio):
    assert measure(stream_with(**{option: high})) > ratio * measure(stream_with(**{option: low}))


@pytest.mark.parametrize(
    ("measure", "options", "least", "most"),
    [
        (redundancy, {"correlation": 0.9}, 0.8, 1),
        (redundancy, {"correlation": 0.1}, 0, 0.3),
        (outliers, {"outliers": 0.05}, 0.01, 1),
        (outliers, {"outliers": 0}, 0, 0),
        (agreement_of_scores, {"task_correlation": 0.95}, 0.85, 1),
        (agreement_of_scores, {"task_correlation": 0.1}, -1, 0.6),
        (agreement_of_noise, {"noise_correlation": 0.9}, 0.4, 1),
        (agreement_of_noise, {"noise_correlation": 0}, -1, 0.05),
    ],
)
def test_an_option_sets_what_it_names(measure, options, least, most):
    assert least <= measure(stream_with(**options)) <= most


def test_label_noise_drift_and_interaction_change_the_probabilities():
    noisy = stream_with(label_noise=0.5)
    assert spread_of_clicks(noisy) == pytest.approx(0.5 * spread_of_clicks(stream_with()))
    assert noisy.probabilities["like"].mean() == pytest.approx(0.017)
    assert stream_with(signal=0).probabilities["click"] == pytest.approx(0.44)
    still = stream_with(drift=0.0)
    popular = np.argsort(-np.bincount(still.item))[:50]
    assert 0 < np.isin(popular, still.item[still.day == 0], invert=True).mean() < 0.4  # some popular items appear later
    assert not np.allclose(*(stream_with(interaction=k)._scaled_score("click") for k in (0, 1)), atol=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "many"}, "need a whole number rows >= 100, got rows='many'"),
        ({"rows": 99}, "need a whole number rows >= 100"),
        ({"rows": 200, "days": 30}, "at least ten rows a day"),
        ({"days": 1}, "need a whole number days >= 2"),
        ({"seed": -1}, "need a whole number seed >= 0"),
        ({"skew": float("nan")}, "need a number skew >= 0, got skew=nan"),
        ({"drift": "x"}, "need a number drift >= 0"),
        ({"correlation": 1.5}, "need 0 <= correlation <= 1, got correlation=1.5"),
        ({"label_noise": 1}, "need label_noise < 1"),
        ({"heavy_tail": 0}, "heavy_tail > 0"),
        ({"ids": 0, "numbers": 0}, "need 1 to 200 features"),
        ({"ids": 201}, "need 1 to 200 features"),
        ({"rows": 10**9}, "need rows <= 100,000,000, got rows=1000000000"),
        ({"users": 10**9}, "need users <= 100,000,000"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as error:
        load("synthetic", options, tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ids_and_numbers", [(0, 3), (3, 0), (1, 0)])
def test_a_stream_may_have_features_of_one_kind(tmp_path, ids_and_numbers):
    ids, numbers = ids_and_numbers
    log = load("synthetic", SMALL | {"ids": ids, "numbers": numbers}, tmp_path)
    assert (log.ids.shape[1], log.numbers.shape[1]) == ids_and_numbers
