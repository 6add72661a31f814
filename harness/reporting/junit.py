"""The verdicts as JUnit XML: a suite for each case and arm, a test case for each criterion.

Epochs of one criterion are test cases of their own, so that CI shows which sample failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from harness.records import Trial, Verdict
from harness.reporting import neutral

MESSAGE_LENGTH = 200
"""Characters of a failure's message, which CI shows in one line; the whole stands in its text."""


def render(verdicts: Iterable[Verdict], summary: Mapping[str, Any]) -> str:
    """The XML document. A verdict that was not graded is skipped, with the reason."""
    trials = {entry["trial"] for entry in summary["trials"]["list"]}
    suites: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.trial in trials:
            trial = Trial.from_id(verdict.trial)
            suites.setdefault(f"{trial.case}.{trial.arm}", []).append(verdict)
    lines = ["<?xml version='1.0' encoding='utf-8'?>", '<testsuites name="harness">']
    for name, found in suites.items():
        outcomes = [verdict.outcome for verdict in found]
        lines.append(
            f'<testsuite name={_attribute(name)} tests="{len(found)}"'
            f' failures="{outcomes.count("fail")}" skipped="{outcomes.count("not_graded")}"'
            f' time="{sum(verdict.seconds for verdict in found):.3f}">'
        )
        lines += [_test(name, verdict) for verdict in found]
        lines.append("</testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _test(suite: str, verdict: Verdict) -> str:
    name = f"{verdict.criterion} (epoch {Trial.from_id(verdict.trial).epoch})"
    head = (
        f"<testcase classname={_attribute(suite)} name={_attribute(name)}"
        f' time="{verdict.seconds:.3f}"'
    )
    if verdict.outcome == "fail":
        message = _attribute(verdict.evidence[:MESSAGE_LENGTH])
        text = escape(neutral.xml(verdict.evidence))
        return f"{head}><failure message={message}>{text}</failure></testcase>"
    if verdict.outcome == "not_graded":
        return f"{head}><skipped message={_attribute(verdict.reason)}/></testcase>"
    return f"{head}/>"


def _attribute(value: str) -> str:
    return quoteattr(neutral.xml(neutral.line(value)))
