"""The difference between two arms, with the two intervals that answer two questions.

**On these cases**: the cases are fixed and the uncertainty is that of the model, sampled again.
With y the score of one case, arm and epoch, the variance s² of y within case and arm is pooled
over all cases and arms (df = Σ (epochs − 1)), and

    SE² = 1/K² · Σ over cases k, arms a of  s² / E_ka        K cases, E_ka epochs

**On tasks like these**: the cases are a sample of tasks. With d_k the difference on case k,

    SE² = Var(d_1 … d_K) / K                                 df = K − 1

which is the paired, case-clustered standard error of Miller, "Adding Error Bars to Evals"
(arXiv 2411.00640, sections 2.2 and 4) where every case weighs the same, with two differences:
the variance has the divisor K − 1, and the quantile is Student's t instead of 1.96, because
there are few cases. Neither interval is cut at ±100 points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from scipy.special import stdtrit

LEVEL = 0.95

FEW_CASES = 10
"""Below this many cases the t interval over cases leans on a normality that nobody can check."""


@dataclass(frozen=True)
class Interval:
    """A two-sided t interval at `LEVEL`; or none, and the reason."""

    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    df: int | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "low": self.low,
            "high": self.high,
            "standard_error": self.standard_error,
            "df": self.df,
            "level": LEVEL,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Pairs:
    """What is known of both arms: criterion by criterion, in the same case and epoch."""

    table: pd.DataFrame
    """``case epoch criterion dimension`` and the scores ``reference`` and ``treatment``."""
    dropped: int
    """Pairs of which at least one side is missing."""
    empty_cases: tuple[str, ...]
    """Cases of which no pair is left."""


@dataclass(frozen=True)
class Lift:
    """A difference of pass rates (fractions of 1), or None and the reason."""

    value: float | None
    reference: float | None = None
    treatment: float | None = None
    on_these_cases: Interval = field(default_factory=Interval)
    on_tasks_like_these: Interval = field(default_factory=Interval)
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Index case; ``reference treatment value epochs low high`` (low, high: on this case)."""
    reason: str = ""


def pair(rows: pd.DataFrame, reference: str, treatment: str, score: str = "score") -> Pairs:
    """Matches the rows of two arms; what one arm lacks, the other arm loses as well.

    A pair is one criterion in one case and epoch. So both arms are scored on the same criteria
    as often, and an unknown favours neither. (The epochs of two arms are independent samples:
    matching them by number is only the bookkeeping that keeps the composition equal.)
    """
    both = rows.loc[rows["arm"].isin([reference, treatment])]
    table = both.pivot(
        index=["case", "epoch", "criterion", "dimension"], columns="arm", values=score
    ).reindex(columns=[reference, treatment])
    table.columns = pd.Index(["reference", "treatment"])
    known = table.dropna()
    cases = known.index.get_level_values("case").unique()
    empty = [case for case in both["case"].unique() if case not in cases]
    return Pairs(known.reset_index(), len(table) - len(known), tuple(empty))


def lift(pairs: Pairs) -> Lift:
    """Equal weight of criteria within case and epoch, of epochs within case, and of cases."""
    if pairs.table.empty:
        return Lift(None, reason="no criterion is graded in both arms")
    epochs = pairs.table.groupby(["case", "epoch"], sort=False)[["reference", "treatment"]].mean()
    by_case = epochs.groupby("case", sort=False)
    cases = by_case.mean()
    cases["value"] = cases["treatment"] - cases["reference"]
    cases["epochs"] = by_case.size()

    variance, df = _pooled_variance(epochs, cases)
    count = len(cases)
    value = float(cases["value"].mean())
    if df == 0:
        these = Interval(
            reason="one epoch tells nothing about how much answers differ; two or more do"
        )
        cases["low"] = cases["high"] = math.nan
    else:
        within = 2.0 * variance / cases["epochs"]
        these = _interval(value, math.sqrt(float(within.sum())) / count, df)
        half = _quantile(df) * within**0.5
        cases["low"], cases["high"] = cases["value"] - half, cases["value"] + half
    if count < 2:
        like = Interval(reason="one case tells nothing about other tasks; two or more do")
    else:
        spread = float(cases["value"].std(ddof=1))
        like = _interval(value, spread / math.sqrt(count), count - 1)
    return Lift(
        value=value,
        reference=float(cases["reference"].mean()),
        treatment=float(cases["treatment"].mean()),
        on_these_cases=these,
        on_tasks_like_these=like,
        cases=cases,
    )


def length_ratio(trials: pd.DataFrame, reference: str, treatment: str, column: str) -> float | None:
    """How much longer the answers of `treatment` are: the geometric mean over cases of the ratio
    of mean lengths, from the cases and epochs that both arms answered. None if there are none.
    """
    both = trials.loc[trials["arm"].isin([reference, treatment]) & (trials[column] > 0)]
    table = both.pivot(index=["case", "epoch"], columns="arm", values=column)
    table = table.reindex(columns=[reference, treatment]).dropna()
    if table.empty:
        return None
    means = table.groupby("case").mean()
    ratios = (means[treatment] / means[reference]).tolist()
    return math.exp(math.fsum(math.log(ratio) for ratio in ratios) / len(ratios))


def _pooled_variance(epochs: pd.DataFrame, cases: pd.DataFrame) -> tuple[float, int]:
    """Variance of an epoch's score within case and arm, and its degrees of freedom."""
    means = cases.loc[epochs.index.get_level_values("case"), ["reference", "treatment"]]
    squares = float(((epochs.to_numpy() - means.to_numpy()) ** 2).sum())
    df = 2 * int((cases["epochs"] - 1).sum())
    return (squares / df if df else 0.0), df


def _interval(value: float, error: float, df: int) -> Interval:
    half = _quantile(df) * error
    return Interval(value - half, value + half, error, df)


def _quantile(df: int) -> float:
    return float(stdtrit(df, (1 + LEVEL) / 2))
