"""The figures here were computed by hand, with t quantiles from a printed table."""

import math

import pandas as pd
import pytest

from harness.analysis.lift import length_ratio, lift, pair

T_4, T_1 = 2.7764451, 12.7062047


def rows(*records):
    """One row each: case, arm, epoch, criterion, score (None: unknown)."""
    frame = pd.DataFrame(records, columns=["case", "arm", "epoch", "criterion", "score"])
    return frame.assign(dimension="api", score=frame["score"].astype(float))


def scores(table):
    """case → arm → epochs → letters, one row a letter."""
    known = {"P": 1.0, "F": 0.0, "-": None}
    return rows(
        *[
            (case, arm, epoch, f"c{position}", known[letter])
            for case, arms in table.items()
            for arm, epochs in arms.items()
            for epoch, letters in enumerate(epochs, 1)
            for position, letter in enumerate(letters)
        ]
    )


TWO_CASES = {
    "labels": {"without": ["PFFP", "PPFP"], "with": ["PPPP", "PPFP"]},
    "meters": {"without": ["PPPP", "PPPP"], "with": ["PPPP", "FPPP"]},
}


def test_the_lift_weighs_cases_equally_however_many_criteria_they_have():
    found = lift(
        pair(
            scores(
                {
                    "small": {"without": ["F"], "with": ["P"]},
                    "large": {"without": ["PPPPPPPP"], "with": ["PPPPPPPP"]},
                }
            ),
            "without",
            "with",
        )
    )
    assert (found.reference, found.treatment, found.value) == (0.5, 1.0, 0.5)


def test_on_these_cases_pools_the_spread_of_epochs_within_case_and_arm():
    # Epoch scores: labels .5 .75 | 1 .75; meters 1 1 | 1 .75. Squares 3 × 0.03125 on 4 df.
    variance = 0.09375 / 4
    error = math.sqrt((2 * variance / 2 + 2 * variance / 2) / 4)
    interval = lift(pair(scores(TWO_CASES), "without", "with")).on_these_cases
    assert interval.df == 4
    assert interval.standard_error == pytest.approx(error)
    assert interval.low == pytest.approx(0.0625 - T_4 * error, abs=1e-7)
    assert interval.high == pytest.approx(0.0625 + T_4 * error, abs=1e-7)


def test_on_tasks_like_these_is_the_t_interval_of_the_differences_by_case():
    # Differences 0.25 and −0.125: mean 0.0625, standard deviation 0.375 / √2, error 0.1875.
    found = lift(pair(scores(TWO_CASES), "without", "with"))
    interval = found.on_tasks_like_these
    assert found.value == pytest.approx(0.0625)
    assert interval.df == 1
    assert interval.standard_error == pytest.approx(0.1875)
    assert interval.high == pytest.approx(0.0625 + T_1 * 0.1875, abs=1e-6)


def test_each_case_has_an_interval_with_the_pooled_spread():
    cases = lift(pair(scores(TWO_CASES), "without", "with")).cases
    half = T_4 * math.sqrt(2 * 0.0234375 / 2)
    assert cases.loc["labels", "value"] == 0.25
    assert cases.loc["labels", "high"] == pytest.approx(0.25 + half, abs=1e-7)
    assert cases.loc["meters", "low"] == pytest.approx(-0.125 - half, abs=1e-7)


def test_one_epoch_gives_no_interval_on_these_cases_but_one_over_cases():
    found = lift(
        pair(
            scores(
                {
                    "labels": {"without": ["PF"], "with": ["PP"]},
                    "meters": {"without": ["PF"], "with": ["PF"]},
                }
            ),
            "without",
            "with",
        )
    )
    assert found.value == 0.25
    assert found.on_these_cases.low is None
    assert "one epoch" in found.on_these_cases.reason
    assert found.on_tasks_like_these.df == 1


def test_one_case_gives_no_interval_over_cases():
    found = lift(
        pair(scores({"labels": {"without": ["PF", "PF"], "with": ["PP", "PF"]}}), "without", "with")
    )
    assert found.on_tasks_like_these.low is None
    assert "one case" in found.on_tasks_like_these.reason
    assert found.on_these_cases.df == 2


def test_no_spread_gives_an_interval_without_width():
    same = {"without": ["PF", "PF"], "with": ["PP", "PP"]}
    interval = lift(
        pair(scores({"labels": same, "meters": same}), "without", "with")
    ).on_these_cases
    assert (interval.low, interval.high, interval.standard_error) == (0.5, 0.5, 0.0)


def test_an_unknown_takes_its_partner_with_it():
    # `with` is unknown on the criterion that `without` fails: scored alone, it would gain.
    found = pair(
        scores({"labels": {"without": ["PF", "PF"], "with": ["P-", "PP"]}}), "without", "with"
    )
    assert found.dropped == 1
    result = lift(found)
    assert result.reference == pytest.approx((1.0 + 0.5) / 2)
    assert result.treatment == 1.0


def test_a_case_without_a_pair_is_named_and_weighs_nothing():
    found = pair(
        scores(
            {
                "labels": {"without": ["PF"], "with": ["PP"]},
                "meters": {"without": ["--"], "with": ["PP"]},
            }
        ),
        "without",
        "with",
    )
    assert found.empty_cases == ("meters",)
    assert lift(found).value == 0.5


def test_an_epoch_that_one_arm_lacks_drops_out_of_both():
    found = pair(scores({"labels": {"without": ["PF", "PP"], "with": ["PP"]}}), "without", "with")
    assert lift(found).value == 0.5
    assert found.dropped == 2


def test_without_any_pair_there_is_no_lift():
    found = lift(pair(scores({"labels": {"without": ["--"], "with": ["PP"]}}), "without", "with"))
    assert found.value is None
    assert "graded in both arms" in found.reason


def test_the_length_ratio_is_a_geometric_mean_over_cases():
    trials = pd.DataFrame(
        [
            ("labels", "without", 1, 1000.0),
            ("labels", "with", 1, 2000.0),
            ("meters", "without", 1, 1000.0),
            ("meters", "with", 1, 500.0),
            ("meters", "with", 2, 9000.0),
        ],
        columns=["case", "arm", "epoch", "chars"],
    )
    assert length_ratio(trials, "without", "with", "chars") == pytest.approx(1.0)
    assert length_ratio(trials.iloc[:1], "without", "with", "chars") is None
