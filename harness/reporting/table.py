"""The verdicts as CSV: one row each, for a spreadsheet or a notebook."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from harness.records import Trial, Verdict
from harness.reporting import neutral

COLUMNS = ("case", "arm", "epoch", "criterion", "how", "outcome", "reason", "evidence", "seconds")


def render(verdicts: Iterable[Verdict], summary: Mapping[str, Any]) -> str:
    """CSV after RFC 4180 of the trials in the summary; no cell starts a formula."""
    trials = {entry["trial"] for entry in summary["trials"]["list"]}
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for verdict in verdicts:
        if verdict.trial not in trials:
            continue
        trial = Trial.from_id(verdict.trial)
        texts = (verdict.criterion, verdict.how, verdict.outcome, verdict.reason, verdict.evidence)
        writer.writerow(
            [
                neutral.cell(trial.case),
                neutral.cell(trial.arm),
                trial.epoch,
                *map(neutral.cell, texts),
                round(verdict.seconds, 3),
            ]
        )
    return out.getvalue()
