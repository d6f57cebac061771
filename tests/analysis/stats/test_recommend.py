"""`recommend`: what is claimed is right as often as it says, and what cannot be said is said so, in plain words."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from shapes import draw, logistic
from simulated_record import simulated_definition, write_simulated_study
from statsmodels.stats.proportion import proportion_confint
from text_checks import contains

import analysis
from analysis.stats import recommend as module
from analysis.stats.claims import (
    CANNOT_SAY,
    CLAIMED,
    TOO_RISKY,
    Confirmed,
    Evidence,
    claim,
    most_allowed,
    passes,
    seeds_needed,
    size,
)
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED, fits
from analysis.stats.intervals import median_interval
from analysis.stats.nomination import LIKELY
from analysis.stats.recommend import recommend
from analysis.text.recommend import commands, headroom_text, json_records, sentences
from analysis.text.report import claims_text, failed_text
from study.config import IMPORTED, JUDGED_FROM, Arm, EdgeSearch, QualitySearch, Run
from study.record.confirmations import Confirmation

LRS = (0.1, 0.2, 0.4)
DEFINITION = simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=LRS)
LEVEL = 0.05


def runs_of(cells, definition=DEFINITION, *, method="none", model="small", auc=0.7):
    """Runs of one curve: lr -> (k, n) or (k, n, first seed); k of the seeds, the last ones, diverged."""
    rows = []
    for lr, (k, n, *first) in cells.items():
        for i in range(n):
            seed = i + (first[0] if first else 0)
            arm = {"data": definition.data["content"], "model": model, "method": method}
            run = Run(**arm, lr=lr, seed=seed, recipe=definition.study.recipe)
            diverged = i >= n - k
            rows.append(
                {"run_id": run.id, "model": model, "method": method, "options": "{}", "lr": lr, "seed": seed}
                | {"role": "cell", "outcome": "diverged" if diverged else "completed", "steps": 200}
                | {"reason": "collapsed" if diverged else None, "micro_episodes": 0, "kept": 0.0 if diverged else 1.0}
                | {"auc_click": auc + 0.001 * i, "rmse_play": 1.2 + 0.01 * i}
            )
    return pd.DataFrame(rows)


def confirmation(lr, seeds, *, number=0, study_seeds=8, definition=DEFINITION):
    study = definition.study
    return Confirmation(
        lr=lr, seeds=tuple(seeds), models=study.models, arms=study.arms, number=number, study_seeds=study_seeds
    )


def row_of(runs, definition=DEFINITION, **options):
    (row,) = recommend(runs, definition, **options).to_dict("records")
    return row


# --- the test of a rate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("risk", "seeds"), [(0.05, 59), (0.01, 299), (0.5, 5)])
def test_clean_seeds_that_claim_a_risk(risk, seeds):
    assert seeds_needed(risk, LEVEL) == seeds
    assert (most_allowed(seeds, risk, LEVEL), most_allowed(seeds - 1, risk, LEVEL)) == (0, -1)
    assert size(seeds, 0, risk) == pytest.approx((1 - risk) ** seeds)


def test_diverged_seeds_raise_the_number_of_seeds_needed():
    assert seeds_needed(0.05, LEVEL, rate=1 / 100) == 93  # one of 93: two of 101 would not do
    for rate in (0.01, 0.02, 0.03):
        n = seeds_needed(0.05, LEVEL, rate)
        assert stats.binomtest(math.ceil(rate * n), n, 0.05, "less").pvalue <= LEVEL
        assert stats.binomtest(math.ceil(rate * (n - 1)), n - 1, 0.05, "less").pvalue > LEVEL
    assert seeds_needed(0.05, LEVEL, rate=0.05) is None
    assert seeds_needed(1e-9, LEVEL) is None


@given(st.integers(1, 400), st.floats(0, 1), st.floats(0.005, 0.6), st.sampled_from([0.8, 0.95, 0.99]))
def test_claim_equals_the_clopper_pearson_bound(n, share, risk, confidence):
    k = round(share * n)
    test = stats.binomtest(k, n, risk, "less")
    if abs(test.pvalue - (1 - confidence)) < 1e-9:
        return
    expected = test.pvalue <= 1 - confidence
    assert passes(k, n, risk, 1 - confidence) == expected
    upper = proportion_confint(k, n, alpha=2 * (1 - confidence), method="beta")[1] if k < n else 1.0
    assert (upper <= risk) == expected
    if k:
        assert (most_allowed(n, risk, 1 - confidence) >= k) == expected


def claimed(k, n, lrs=(0.1, 0.2, 0.4, 0.8)):
    """How many lrs of a study are claimed, from the lowest upward."""
    grid = tuple(zip(lrs, k, n, strict=False))
    found = claim(Evidence(grid=grid, placed=False, confirmations=()), 0.05, 0.95)
    return 1 + lrs.index(found["lr"]) if found["status"] == CLAIMED else 0


def test_claims_stop_at_the_first_failure():
    assert claimed([0, 0, 1, 0], [59] * 4) == 2
    assert claimed([1, 0, 0], [59] * 3) == 0
    assert claimed([0, 0, 0], [59] * 3) == 3
    assert claimed([0, 0, 0], [59, 8, 59]) == 1


# --- runs that failed for good ------------------------------------------------------------------------------------


def failed(lrs, definition=DEFINITION):
    """Failed runs of `none`: lr -> seeds."""
    arm = definition.study.arms[0]
    rows = []
    for lr, seeds in lrs.items():
        for seed in seeds:
            run = definition.study.run(definition.data["content"], "small", arm, lr, seed)
            rows.append({"run_id": run.id, "model": "small", "curve": "none", "method": "none", "lr": lr, "seed": seed})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("lost", "lr", "missing_from"),
    [({}, 0.4, math.nan), ({0.4: [300]}, 0.2, 0.4), ({0.2: [300], 0.4: [300]}, 0.1, 0.2), ({0.3: [7]}, 0.2, 0.3)],
    ids=["none", "the highest", "two lrs", "an lr without a recorded run"],
)
def test_nothing_is_claimed_from_the_lowest_lr_with_a_missing_run_on(lost, lr, missing_from):
    runs = runs_of({0.1: (0, 300), 0.2: (0, 300), 0.4: (0, 300)})
    row = row_of(runs, failed=failed(lost) if lost else None)
    assert (row["status"], row["lr"], row["missing"]) == (CLAIMED, lr, sum(map(len, lost.values())))
    assert row["missing_from"] == pytest.approx(missing_from, nan_ok=True)
    assert not row["nominated"] >= min(lost, default=math.inf)
    if lost:
        assert row["tested_at"] == pytest.approx(0.95)  # tests below come first
        (said,) = sentences(pd.DataFrame([row]))
        contains(said, "missing", f"at lr {missing_from:g}", "claim nothing from there on")


def test_missing_runs_at_the_lowest_lr_allow_no_claim_and_count_as_a_failed_test():
    runs = runs_of({0.1: (0, 59), 0.2: (0, 60), 0.4: (0, 60)})
    row = row_of(runs, failed=failed({0.1: [59]}))
    assert (row["status"], math.isnan(row["lr"]), math.isnan(row["nominated"])) == (CANNOT_SAY, True, True)
    cells = [(0.1, 0, 59), (0.2, 0, 60)]
    evidence = Evidence(grid=tuple(cells), placed=False, confirmations=(), missing={0.1: 1})
    alone = Evidence(grid=((0.1, 1, 60),), placed=False, confirmations=())
    assert claim(evidence, 0.05, 0.95)["next_level"] == pytest.approx(claim(alone, 0.05, 0.95)["next_level"])


def test_confirmation_claims_beside_missing_runs_and_counts_its_own_as_diverged():
    named = confirmation(0.4, range(100, 193))
    runs = runs_of({0.1: (0, 8), 0.2: (0, 8)})
    lost = failed({0.4: range(8)})
    fresh = pd.concat([runs, runs_of({0.4: (0, 93, 100)})])
    row = row_of(fresh, confirmations=[named], failed=lost)
    assert (row["status"], row["lr"], row["basis"], row["missing"]) == (CLAIMED, 0.4, "confirmation", 8)
    one_lost = pd.concat([runs, runs_of({0.4: (0, 92, 100)})])
    row = row_of(one_lost, confirmations=[named], failed=pd.concat([lost, failed({0.4: [192]})]))
    assert (row["status"], row["k"], row["missing"]) == (CLAIMED, 0, 8)  # 93 allow one
    two_lost = pd.concat([runs, runs_of({0.4: (0, 91, 100)})])
    row = row_of(two_lost, confirmations=[named], failed=pd.concat([lost, failed({0.4: [191, 192]})]))
    assert row["status"] == CANNOT_SAY


def test_search_nominates_no_lr_with_missing_runs():
    searched = dataclasses.replace(DEFINITION, study=dataclasses.replace(DEFINITION.study, search=EdgeSearch()))
    lrs = {lr: (0, 1, i) for i, lr in enumerate(np.geomspace(0.1, 2, 18).round(3))}
    assert row_of(runs_of(lrs), searched)["nominated"] > 0.5
    row = row_of(runs_of(lrs), searched, failed=failed({0.5: [40], 3.0: [41]}))
    assert row["status"] == CANNOT_SAY
    assert row["nominated"] < 0.5


# --- the claim is wrong at most 5% of the time --------------------------------------------------------------------

SIMULATED_LRS = tuple(np.geomspace(0.01, 1, 12))
SIMULATIONS = 1500
TOLERANCE = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [59, 130])
def test_claims_are_wrong_at_most_5_percent_of_the_time(seeds, share):
    """Just above the risk at one lr (a steep and a shallow curve), and just above it at every lr: the worst there is.
    Seeds carry their thresholds from lr to lr."""
    at = SIMULATED_LRS[5]
    curves = [logistic(slope=s, lr50=at * 10 ** (math.log(0.949 / 0.051) / s)) for s in (20, 6)]
    curves.append(logistic(slope=20, lr50=10.0, floor=0.051))
    drawn_NMSK = draw(curves, SIMULATED_LRS, seeds, rng=np.random.default_rng(5), share=share, simulations=SIMULATIONS)
    k_RK, of_row = np.unique(drawn_NMSK.sum(axis=2).astype(int).reshape(-1, 12), axis=0, return_inverse=True)
    claimed_R = np.array([claimed(k_K.tolist(), [seeds] * 12, SIMULATED_LRS) for k_K in k_RK])
    claimed_NM = claimed_R[of_row.ravel()].reshape(SIMULATIONS, -1)
    safe_M = np.array([np.cumprod(curve.rate(SIMULATED_LRS) <= 0.05).sum() for curve in curves])
    wrong_M = (claimed_NM > safe_M).mean(axis=0)
    assert safe_M.tolist() == [5, 5, 0]
    assert (wrong_M <= 0.05 + TOLERANCE).all(), wrong_M
    # The level is used, not avoided: where the first lr is the one, it is nearly reached.
    assert abs(wrong_M[2] - size(seeds, most_allowed(seeds, 0.05, LEVEL), 0.051)) <= TOLERANCE
    assert (wrong_M[:2] > 0).all()
    assert (claimed_NM[:, 0] >= 4).mean() > 0.4, "what is safe is claimed"


def test_repeated_confirmations_claim_a_risky_lr_at_most_5_percent_of_the_time():
    """A study of 59 seeds, then up to four confirmations of as many seeds as the next one needs, all at 5.1%. Judged
    each at 5%, one of them would claim in 21% of the studies."""
    rng, wrong, naive, studies = np.random.default_rng(8), 0, 0, 600
    for _ in range(studies):
        confirmations: tuple[Confirmed, ...] = ()
        grid = ((0.1, int(rng.binomial(59, 0.051)), 59),)
        lucky = grid[0][1] == 0
        for _ in range(5):
            evidence = Evidence(grid=grid, placed=False, confirmations=confirmations)
            found = claim(evidence, 0.05, 0.95)
            if found["status"] == CLAIMED:
                wrong += 1
                break
            n = seeds_needed(0.05, found["next_level"])
            lucky |= rng.binomial(59, 0.051) == 0
            one = Confirmed(lr=0.1, k=int(rng.binomial(n, 0.051)), n=n, missing=0, study_seeds=59)
            confirmations += (one,)
        naive += lucky
    assert wrong / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert naive / studies > 0.12


# --- what a record claims -----------------------------------------------------------------------------------------


def test_eight_seeds_claim_nothing():
    row = row_of(runs_of({0.1: (0, 8), 0.2: (0, 8), 0.4: (6, 8)}))
    assert (row["status"], row["nominated_k"], row["nominated_n"]) == (CANNOT_SAY, 0, 8)
    assert math.isnan(row["lr"])
    assert row["nominated_bound"] == pytest.approx(1 - 0.05 ** (1 / 8))
    assert row["more_if_clean"] == row["more_at_rate"] == 59
    table = recommend(runs_of({0.1: (0, 8), 0.2: (0, 8), 0.4: (6, 8)}), DEFINITION)
    (said,) = sentences(table)
    contains(said, "none: cannot say with 8 seeds", "0 of 8", f"lr {row['nominated']:g}", "up to 31%", "59 fresh seeds")
    assert commands(table, "results/x") == [f"study confirm results/x --lr {row['nominated']:g} --method none"]


def test_59_clean_seeds_claim_the_largest_lr_below_the_first_failure():
    row = row_of(runs_of({0.1: (0, 59), 0.2: (0, 59), 0.4: (3, 59)}))
    assert (row["status"], row["lr"], row["basis"], row["k"], row["n"]) == (CLAIMED, 0.2, "study", 0, 59)
    assert row["bound"] == pytest.approx(1 - 0.05 ** (1 / 59))
    assert row["tested_at"] == pytest.approx(0.95)
    row = row_of(runs_of({0.1: (2, 59), 0.2: (0, 59), 0.4: (0, 59)}))
    assert (row["status"], row["failed"]) == (CANNOT_SAY, 0)
    row = row_of(runs_of({0.1: (0, 59), 0.2: (0, 58), 0.4: (0, 59)}))
    assert row["lr"] == 0.1, "a missing run is in no denominator, and 58 do not claim"
    row = row_of(runs_of({0.1: (0, 59), 0.2: (0, 59), 0.4: (3, 59)}), risk=0.01)
    assert row["status"] == CANNOT_SAY
    assert row["more_if_clean"] == 299


def test_more_seeds_are_needed_at_the_observed_rate():
    row = row_of(runs_of({0.1: (1, 80)}))
    assert (row["status"], row["nominated"]) == (CANNOT_SAY, 0.1)
    # The study's own test of 80 seeds has spent its size, and half of what is left serves the next.
    level = (0.05 - 0.95**80) / 2
    assert row["more_if_clean"] == math.ceil(math.log(level) / math.log(0.95))
    n = row["more_at_rate"]
    assert stats.binomtest(math.ceil(n / 80), int(n), 0.05, "less").pvalue <= level


def test_confirmation_uses_only_its_own_runs():
    named = confirmation(0.2, range(100, 159))
    cells = {0.1: (0, 8), 0.2: (1, 8)}
    clean = pd.concat([runs_of(cells), runs_of({0.2: (0, 59, 100)})], ignore_index=True)
    row = row_of(clean, confirmations=[named])
    assert (row["status"], row["lr"], row["basis"], row["k"], row["n"]) == (CLAIMED, 0.2, "confirmation", 0, 59)
    assert row["quality_n"] == 67, "quality is of every run there"
    (said,) = sentences(recommend(clean, DEFINITION, confirmations=[named]))
    contains(said, "at most 5%", "200 steps", "at lr 0.2", "95% confidence", "0 of 59 fresh seeds")
    # The same runs, not named before: eight of the seeds were looked at, and 0.1 has no claim.
    assert row_of(clean)["status"] == CANNOT_SAY


def test_incomplete_confirmation_claims_nothing_unless_missing_runs_cannot_matter():
    named = confirmation(0.2, range(100, 159))
    half = pd.concat([runs_of({0.2: (0, 8)}), runs_of({0.2: (0, 58, 100)})], ignore_index=True)
    row = row_of(half, confirmations=[named])
    assert (row["status"], row["pending"], row["failed"]) == (CANNOT_SAY, 1, 0)
    assert "1 run of a confirmation is missing" in sentences(recommend(half, DEFINITION, confirmations=[named]))[0]
    # Of 93, one may diverge: the claim holds whatever becomes of the last.
    named = confirmation(0.2, range(100, 193))
    rest = pd.concat([runs_of({0.2: (0, 8)}), runs_of({0.2: (0, 92, 100)})], ignore_index=True)
    row = row_of(rest, confirmations=[named])
    assert (row["status"], row["pending"], row["n"]) == (CLAIMED, 1, 93)


def test_only_a_failed_confirmation_spends_level():
    first, second = confirmation(0.4, range(100, 159)), confirmation(0.2, range(200, 259), number=1)
    runs = pd.concat(
        [runs_of({0.2: (0, 8)}), runs_of({0.4: (2, 59, 100)}), runs_of({0.2: (0, 59, 200)})], ignore_index=True
    )
    row = row_of(runs, confirmations=[first, second])
    level = (0.05 - 0.95**59) / 2
    assert (row["status"], row["failed"]) == (CANNOT_SAY, 1)
    assert row["more_if_clean"] == math.ceil(math.log(level) / math.log(0.95)) == 141
    third = confirmation(0.2, range(300, 441), number=2)
    more = pd.concat([runs, runs_of({0.2: (0, 141, 300)})], ignore_index=True)
    row = row_of(more, confirmations=[first, second, third])
    assert (row["status"], row["lr"], row["n"]) == (CLAIMED, 0.2, 141)
    assert row["tested_at"] == pytest.approx(1 - level)
    (said,) = sentences(recommend(more, DEFINITION, confirmations=[first, second, third]))
    contains(said, f"tested at {100 * (1 - level):.4g}%", "earlier test failed")
    assert failed_text(recommend(runs, DEFINITION, confirmations=[first, second])).startswith("A confirmation failed")
    assert failed_text(recommend(more, DEFINITION, confirmations=[first, second, third])) == "", "the last one claimed"
    # Upward from a claim, nothing is spent.
    low, high = confirmation(0.2, range(100, 159)), confirmation(0.4, range(200, 259), number=1)
    runs = pd.concat(
        [runs_of({0.2: (0, 8)}), runs_of({0.2: (0, 59, 100)}), runs_of({0.4: (0, 59, 200)})], ignore_index=True
    )
    assert row_of(runs, confirmations=[low, high])["lr"] == 0.4


def test_failed_confirmation_is_named_first_and_its_runs_count():
    named = confirmation(0.1, range(100, 159), study_seeds=4)
    runs = pd.concat([runs_of({0.1: (0, 4), 0.2: (4, 4)}), runs_of({0.1: (1, 59, 100)})], ignore_index=True)
    table = recommend(runs, DEFINITION, confirmations=[named])
    (row,), (said,) = table.to_dict("records"), sentences(table)
    assert (row["status"], row["nominated"]) == (CANNOT_SAY, 0.1), "no lower lr was tried"
    assert [row[f"failed_{name}"] for name in ("lr", "k", "n", "allowed")] == [0.1, 1, 59, 0]
    assert (row["nominated_k"], row["nominated_n"], row["lowest_k"], row["lowest_n"]) == (1, 63, 1, 63)
    assert said.startswith("none: 1 confirmation failed, at lr 0.1: 1 of 59 diverged and 0 were allowed")
    contains(
        said, "stricter. Cannot say with 63 seeds: 1 of 63 diverged at lr 0.1, so the risk there may be up to 7.3%"
    )
    in_report = claims_text(table)
    assert in_report.startswith("A confirmation failed: none at lr 0.1 (1 of 59 diverged, 0 allowed). No lr can be")
    contains(in_report, "after 1 of 63 diverged at lr 0.1, the risk may be up to 7.3%")


def test_lr_whose_confirmation_failed_is_not_nominated_again_if_a_lower_one_is_there():
    lrs = {lr: (40 * int(lr > 1), 40, 40 * i) for i, lr in enumerate(np.geomspace(0.1, 2, 12).round(3))}
    assert row_of(runs_of(lrs), SEARCH)["nominated"] > 0.3
    named = confirmation(0.3, range(1000, 1059), definition=SEARCH)
    runs = pd.concat([runs_of(lrs), runs_of({0.3: (1, 59, 1000)})], ignore_index=True)
    row = row_of(runs, SEARCH, confirmations=[named])
    assert (row["status"], row["failed"]) == (CANNOT_SAY, 1)
    assert row["nominated"] < 0.3
    assert row["chance"] > LIKELY


def test_failed_study_spends_level_if_it_had_enough_seeds():
    grid = runs_of({0.1: (0, 59), 0.2: (4, 59)})
    fresh = runs_of({0.2: (0, 59, 100)})
    both = pd.concat([grid, fresh], ignore_index=True)
    before = row_of(both, confirmations=[confirmation(0.2, range(100, 159), study_seeds=59)])
    assert (before["lr"], before["basis"]) == (0.1, "study")
    after = row_of(both, confirmations=[confirmation(0.2, range(100, 159), study_seeds=8)])
    assert (after["lr"], after["basis"]) == (0.2, "confirmation")


def test_runs_of_a_search_nominate_and_claim_nothing():
    study = dataclasses.replace(DEFINITION.study, search=EdgeSearch())
    searched = dataclasses.replace(DEFINITION, study=study)
    lrs = {float(f"{lr:.3g}"): (int(lr > 0.5), 1, i) for i, lr in enumerate(np.geomspace(0.01, 3, 60))}
    row = row_of(runs_of(lrs), searched)
    assert (row["status"], row["searched"]) == (CANNOT_SAY, "edges")
    assert 0.02 < row["nominated"] < 0.5, "from the fitted curve, on the safe side of the first divergence"
    assert row["chance"] >= 0.5
    assert math.isnan(row["best_lr"]) or row["best_lr"] > 0
    (said,) = sentences(recommend(runs_of(lrs), searched))
    contains(said, "earlier outcomes", "nominate")
    assert row_of(runs_of({0.1: (0, 59)}), searched)["status"] == CANNOT_SAY
    assert row_of(runs_of({0.1: (0, 59)}))["status"] == CLAIMED, "the same runs, not placed"
    named = confirmation(0.1, range(100, 159), definition=searched)
    claimed = pd.concat([runs_of(lrs), runs_of({0.1: (0, 59, 100)})], ignore_index=True)
    assert row_of(claimed, searched, confirmations=[named])["lr"] == 0.1


def test_quality_search_is_judged_by_its_winners():
    study = dataclasses.replace(DEFINITION.study, search=QualitySearch())
    searched = dataclasses.replace(DEFINITION, study=study)
    runs = pd.concat([runs_of({0.2: (8, 8)}), runs_of({0.2: (0, 59, JUDGED_FROM)})], ignore_index=True)
    row = row_of(runs, searched)
    assert (row["status"], row["n"]) == (CLAIMED, 59)
    few = runs_of({0.2: (0, 32, JUDGED_FROM)})
    assert row_of(few, searched)["status"] == CANNOT_SAY
    assert commands(recommend(few, searched), "x") == []
    assert recommend(runs_of({0.2: (8, 8)}), searched).empty


# --- records as they come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "status", "words"),
    [
        ({0.1: (0, 1)}, CANNOT_SAY, ["cannot say with 1 seed:", "0 of 1", "lr 0.1"]),
        ({0.1: (1, 1)}, CANNOT_SAY, ["cannot say with 1 seed:", "1 of 1", "lr 0.1, the lowest"]),
        ({0.1: (8, 8), 0.2: (8, 8)}, TOO_RISKY, ["risk above 5%", "8 of 8", "lr 0.1, the lowest"]),
        ({0.1: (0, 3), 0.2: (4, 5)}, CANNOT_SAY, ["cannot say with 3 seeds: 0 of 3 diverged"]),
        ({0.1: (1, 8), 0.2: (8, 8)}, CANNOT_SAY, ["1 of 8", "lr 0.1, the lowest", "may be up to 47%"]),
        ({0.1: (0, 59), 0.2: (0, 59)}, CLAIMED, ["at most 5%", "200 steps", "up to lr 0.2"]),
    ],
)
def test_sentence_for_each_status(cells, status, words):
    table = recommend(runs_of(cells), DEFINITION)
    (said,) = sentences(table)
    assert table["status"].tolist() == [status]
    contains(said, *words)
    assert said.startswith("none: ")
    assert "nan" not in said
    assert ("try lower ones" in said) == (status == TOO_RISKY or "the lowest" in said)
    json.dumps(json_records(table, "out"), allow_nan=False)


IMPORT = dataclasses.replace(
    DEFINITION, study=dataclasses.replace(DEFINITION.study, trainer=IMPORTED, trainer_options={"planned": False})
)
SEARCH = dataclasses.replace(DEFINITION, study=dataclasses.replace(DEFINITION.study, search=EdgeSearch()))


@pytest.mark.parametrize(
    ("definition", "options", "why"),
    [
        (DEFINITION, {}, "may be up to 31%"),
        (SEARCH, {}, "the search chose its lrs by earlier outcomes"),
        (IMPORT, {}, "--planned"),
        (DEFINITION, {"failed": {0.1: [300]}}, "missing"),
        (DEFINITION, {"confirmations": [((0, 8), 64)]}, "study resume"),
        (DEFINITION, {"confirmations": [((9, 64), 64)]}, "1 confirmation failed"),
    ],
)
def test_text_and_json_say_why_nothing_is_claimed_and_what_to_do(definition, options, why):
    cells, more = {0.1: (0, 8)}, {}
    runs = runs_of(cells, definition)
    if "failed" in options:
        more["failed"] = failed(options["failed"], definition)
    for (k, n), named in options.get("confirmations", ()):
        runs = pd.concat([runs, runs_of({0.1: (k, n, 100)}, definition)])
        more["confirmations"] = [confirmation(0.1, range(100, 100 + named), definition=definition)]
    table = recommend(runs, definition, **more)
    (said,), (row,) = sentences(table), json_records(table, "out")
    assert row["status"] == CANNOT_SAY
    contains(said, why)
    contains(row["why"], why)
    if "failed" in options:
        assert row["confirm"] is None
        contains(said, "try lower ones")
    else:
        assert row["confirm"].startswith("study confirm out --lr 0.")
        assert commands(table, "out") == [row["confirm"]]


def test_a_claim_has_no_reason_and_a_higher_lr_says_why_it_is_only_nominated():
    table = recommend(runs_of({0.1: (0, 64), 0.2: (1, 64), 0.8: (64, 64)}), DEFINITION)
    (said,), (row,) = sentences(table), json_records(table, "out")
    assert (row["status"], row["why"]) == (CLAIMED, None)
    contains(said, "lr 0.2, not claimed: 1 of 64 diverged there", "up to 7.2%")
    contains(row["confirm"], "--lr 0.2")
    assert commands(table, "out") == [row["confirm"]]


@pytest.mark.parametrize(
    ("status", "headroom", "said"),
    [(REACHED, 290.4, "290"), (REACHED, 2.04, "2.0"), (NOT_REACHED, math.nan, "> 1,000"), (BELOW, math.nan, "< 0.010")],
)
def test_headroom_has_no_exponent(status, headroom, said):
    lrs = {"best_lr": 0.01, "lr_min": 0.0001, "lr_max": 10.0}
    assert headroom_text(lrs | {"edge_status": status, "headroom": headroom}) == said


def test_records_with_many_curves_and_with_no_runs(tmp_path):
    definition = simulated_definition(seeds=range(8))
    write_simulated_study(tmp_path, definition, with_losses=False)
    runs = analysis.load(tmp_path)
    table = recommend(runs, definition)
    assert len(table) == 10
    assert list(table.columns[:2]) == ["model", "curve"]
    assert (table["status"] == CANNOT_SAY).all()
    lines = commands(table, "out")
    assert all(" --model " in line for line in lines)
    assert sum(line.count("clippy") for line in lines) >= 1
    records = json.loads(json.dumps(json_records(table, "out"), allow_nan=False))
    assert records[0]["lr"] is None
    assert records[0]["steps"] == 200
    assert isinstance(records[0]["steps"], int)
    again = recommend(runs, definition, fitted=fits(runs))
    pd.testing.assert_frame_equal(again, table)
    empty = recommend(runs.iloc[:0], definition)
    assert empty.empty
    assert sentences(empty) == commands(empty, "out") == json_records(empty, "out") == []


def test_each_threshold_has_its_own_row(tmp_path):
    arms = [Arm(method="clippy", options={"rel": 0.1}), Arm(method="clippy")]
    definition = simulated_definition(models=("small",), arms=arms, seeds=range(4))
    write_simulated_study(tmp_path, definition, with_losses=False)
    table = recommend(analysis.load(tmp_path), definition)
    assert table["curve"].tolist() == ["clippy rel=0.1", "clippy rel=0.5"]
    assert "'clippy rel=0.1,clippy rel=0.5'" in commands(table, "out")[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 0}, "need 0 < risk < 1, got risk=0"),
        ({"risk": math.nan}, "need 0 < risk < 1, got risk=nan"),
        ({"confidence": 1}, "need 0 < confidence < 1, got confidence=1"),
        ({"quality": "auc"}, "unknown quality 'auc'; there are auc_click, auc_like, rmse_play"),
    ],
)
def test_bad_arguments_raise(options, message):
    with pytest.raises(ValueError, match=message):
        recommend(runs_of({0.1: (0, 8)}), DEFINITION, **options)


# --- quality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(1, 30), 59, 200])
def test_the_interval_of_a_median_is_exact(n):
    low, middle, high = median_interval(np.arange(n)[::-1])
    assert middle == (n - 1) / 2
    inside = stats.binom(n, 0.5)
    if n < 6:
        assert math.isnan(low)
        assert math.isnan(high)
        return
    r = round(low) + 1
    assert high == n - r
    assert inside.cdf(n - r) - inside.cdf(r - 1) >= 0.95
    assert inside.cdf(n - r - 1) - inside.cdf(r) < 0.95


def test_missing_values_have_no_median():
    assert all(math.isnan(v) for v in (*median_interval([]), *median_interval([0.5, math.nan])))


def test_diverged_run_has_the_worst_quality():
    runs = runs_of({0.1: (0, 7), 0.2: (4, 7)}, auc=0.7)
    row = row_of(runs)
    assert (row["quality"], row["best_lr"], row["quality_n"]) == ("auc_click", 0.1, 7)
    assert row["quality_median"] == pytest.approx(0.703)
    assert (row["quality_median_low"], row["quality_median_high"]) == (pytest.approx(0.7), pytest.approx(0.706))
    runs.loc[(runs["lr"] == 0.1) & (runs["seed"] < 4), "auc_click"] = math.nan
    assert row_of(runs)["quality_median"] == 0.5
    rmse = row_of(runs, quality="rmse_play")
    assert rmse["quality_median"] == pytest.approx(1.23)
    worst = runs_of({0.1: (1, 7)})
    assert row_of(worst, quality="rmse_play")["quality_n"] in (0, 7)
    assert module._quality_at(np.array([1.0] * 6 + [1.43]))["quality_median_high"] == 1.43


def test_best_lr_has_lowest_rmse_and_censored_headroom_is_one_sided():
    runs = runs_of({0.1: (0, 8), 0.2: (0, 8), 0.4: (0, 8)})
    runs["rmse_play"] = runs["lr"].map({0.1: 1.2, 0.2: 1.1, 0.4: 1.3})
    runs["auc_click"] = runs["lr"].map({0.1: 0.6, 0.2: 0.7, 0.4: 0.7})
    row = row_of(runs, quality="rmse_play")
    assert row["best_lr"] == 0.2
    assert row_of(runs)["best_lr"] == 0.2, "the lowest of equals"
    assert math.isnan(row["headroom"])
    assert row["headroom_high"] == math.inf
    assert headroom_text(row) == "> 2.0"
    assert json_records(recommend(runs, DEFINITION), "out")[0]["headroom_high"] is None
    reached = row_of(runs_of({0.1: (0, 40), 0.2: (2, 40), 0.4: (30, 40)}))
    assert reached["headroom_low"] < reached["headroom"] < reached["headroom_high"]
