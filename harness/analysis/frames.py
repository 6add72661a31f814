"""Turns a run folder into two tables: one row a trial, and one row a trial × criterion.

What a row is worth in the headline is decided here, in one place, and nowhere else:

========================================  =========================================
the answer                                its rows
========================================  =========================================
no response, or a stale request           missing (drops out as a pair)
cut off at the length limit, or a
refusal stop reason                       failed, in the headline and in the judged
its service does not start                failed in the headline; judged as found
anything else                             as graded; not graded is missing
========================================  =========================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.cases import Suite
from harness.records import Trial, Verdict
from harness.store import Run

STARTS = "starts"
"""The verdict that says whether the service starts at all. It stands for itself: no endpoint."""

PRIMARY, JUDGED = "primary", "judged"

CUT_OFF, REFUSED, NO_START = "cut off", "refused", "does not start"

STALE = "its prompt has changed since the answer"

STOPPED = {
    "max_tokens": CUT_OFF,
    "model_context_window_exceeded": CUT_OFF,
    "refusal": REFUSED,
}
"""Stop reasons that are the model's own doing, and fail the answer as a whole."""


@dataclass(frozen=True)
class Tables:
    """A run as tables; see the functions below for their columns."""

    trials: pd.DataFrame
    rows: pd.DataFrame
    starts: pd.DataFrame
    unlisted: int
    """Verdicts on a criterion that their case does not list (any more): they count nowhere."""


def load(run: Run, suite: Suite) -> Tables:
    """Reads a run once and makes all of its tables."""
    verdicts = run.verdicts()
    trials = trials_frame(run, suite, verdicts)
    listed = {name: {*case.criteria, STARTS} for name, case in suite.cases.items()}
    return Tables(
        trials=trials,
        rows=verdicts_frame(suite, trials, verdicts),
        starts=starts_frame(trials, verdicts),
        unlisted=sum(
            verdict.criterion not in listed.get(verdict.trial.split("/", 1)[0], set())
            for verdict in verdicts
        ),
    )


def trials_frame(run: Run, suite: Suite, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a planned trial, in plan order.

    Columns: ``trial case arm epoch``; ``state`` (answered, missing, left out) with ``why``;
    ``outright`` (why the answer fails as a whole, else ""); ``stop_reason model``; ``chars``;
    ``input_tokens output_tokens cache_read_tokens cache_write_tokens`` with ``estimated``;
    ``seconds``. Counts are NaN where there is no answer or nobody counted.
    """
    plan = run.plan
    stale = stale_trials(plan)
    failed_start = {
        verdict.trial
        for verdict in verdicts
        if verdict.criterion == STARTS and verdict.outcome == "fail"
    }
    rows: list[dict[str, object]] = []
    for entry in plan["trials"]:
        trial = Trial(entry["case"], entry["arm"], entry["epoch"])
        row: dict[str, object] = {
            "trial": trial.id,
            "case": trial.case,
            "arm": trial.arm,
            "epoch": trial.epoch,
            "state": "answered",
            "why": "",
            "outright": "",
        }
        rows.append(row)
        if trial.id in stale or trial.case not in suite.cases:
            row["state"] = "left out"
            gone = "its case is not in the suite any more"
            row["why"] = STALE if trial.id in stale else gone
            continue
        response = run.response(entry["request"])
        if response is None:
            row["state"], row["why"] = "missing", "no response is stored"
            continue
        usage = response.usage
        counted = usage.output_tokens > 0
        row |= {
            "outright": STOPPED.get(response.stop_reason)
            or (NO_START if trial.id in failed_start else ""),
            "stop_reason": response.stop_reason,
            "model": response.model,
            "chars": len(response.text),
            "input_tokens": usage.input_tokens if counted else None,
            "output_tokens": usage.output_tokens if counted else None,
            "cache_read_tokens": usage.cache_read_tokens if counted else None,
            "cache_write_tokens": usage.cache_write_tokens if counted else None,
            "estimated": usage.estimated,
            "seconds": response.seconds,
        }
    return pd.DataFrame(rows).reindex(columns=_TRIAL_COLUMNS).astype(_TRIAL_TYPES)


def verdicts_frame(suite: Suite, trials: pd.DataFrame, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a criterion that applies to a trial that counts, graded or not.

    Columns: ``trial case arm epoch criterion dimension how endpoint`` (primary or judged);
    ``outcome reason``; ``outright`` of its trial; ``as_graded`` (1.0, 0.0, or NaN where nothing
    is known) and ``score`` (the same, with answers that fail as a whole set to 0.0).
    """
    rubric = suite.rubric.criteria
    expected = pd.DataFrame(
        [
            (case.id, name, rubric[name].dimension, rubric[name].how)
            for case in suite.cases.values()
            for name in case.criteria
            if name != STARTS
        ],
        columns=["case", "criterion", "dimension", "how"],
    )
    found = pd.DataFrame(
        [(v.trial, v.criterion, v.outcome, v.reason) for v in verdicts],
        columns=["trial", "criterion", "outcome", "reason"],
    )
    live = trials.loc[trials["state"] != "left out"]
    frame = live[["trial", "case", "arm", "epoch", "state", "outright"]].merge(expected, on="case")
    frame = frame.merge(found, on=["trial", "criterion"], how="left")

    absent = frame["outcome"].isna()
    frame["outcome"] = frame["outcome"].where(~absent, "not_graded")
    frame["reason"] = frame["reason"].where(~absent, "not graded yet")
    missing = frame["state"] == "missing"
    frame.loc[missing, "outcome"] = "not_graded"
    frame.loc[missing, "reason"] = "no answer"

    frame["endpoint"] = (
        frame["how"].map({"executed": PRIMARY, "static": PRIMARY, "judged": JUDGED}).astype(str)
    )
    frame["as_graded"] = frame["outcome"].map({"pass": 1.0, "fail": 0.0}).astype(float)
    spared = (frame["outright"] == NO_START) & (frame["endpoint"] == JUDGED)
    fails = (frame["outright"] != "") & ~spared
    frame["score"] = frame["as_graded"].mask(fails, 0.0)
    return frame.drop(columns="state")


def starts_frame(trials: pd.DataFrame, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The `STARTS` verdict of each answered trial that has one: ``trial arm outcome``."""
    found = pd.DataFrame(
        [(v.trial, v.outcome) for v in verdicts if v.criterion == STARTS],
        columns=["trial", "outcome"],
    )
    answered = trials.loc[trials["state"] == "answered", ["trial", "arm"]]
    return answered.merge(found, on="trial")


def stale_trials(plan: Mapping[str, Any]) -> list[str]:
    """Trials whose prompt has changed since; they may stand in the plan's trials or not."""
    return [str(trial) for trial in plan.get("stale") or []]


def texts(values: Iterable[object]) -> list[str]:
    """The distinct non-empty texts of a column, sorted."""
    return sorted({value for value in values if isinstance(value, str) and value})


_TRIAL_TYPES = {
    "trial": "object",
    "case": "object",
    "arm": "object",
    "epoch": "int64",
    "state": "object",
    "why": "object",
    "outright": "object",
    "stop_reason": "object",
    "model": "object",
    "chars": "float64",
    "input_tokens": "float64",
    "output_tokens": "float64",
    "cache_read_tokens": "float64",
    "cache_write_tokens": "float64",
    "estimated": "object",
    "seconds": "float64",
}
_TRIAL_COLUMNS = list(_TRIAL_TYPES)
