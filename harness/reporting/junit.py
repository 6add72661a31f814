"""The verdicts as JUnit XML: a suite for each case and arm, a test case for each criterion.

Epochs of one criterion are test cases of their own, so that CI shows which sample failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from harness.records import Trial
from harness.reporting import neutral
from harness.store import Run


def render(run: Run, summary: Mapping[str, Any]) -> str:
    """The XML document. A verdict that was not graded is skipped, with the reason."""
    trials = {entry["trial"] for entry in summary["trials"]["list"]}
    suites: dict[str, ElementTree.Element] = {}
    root = ElementTree.Element("testsuites", name="harness")
    totals: dict[str, dict[str, float]] = {}
    for verdict in run.verdicts():
        if verdict.trial not in trials:
            continue
        trial = Trial.from_id(verdict.trial)
        name = f"{trial.case}.{trial.arm}"
        if name not in suites:
            suites[name] = ElementTree.SubElement(root, "testsuite", name=neutral.xml(name))
            totals[name] = {"tests": 0, "failures": 0, "skipped": 0, "time": 0.0}
        total = totals[name]
        total["tests"] += 1
        total["time"] += verdict.seconds
        test = ElementTree.SubElement(
            suites[name],
            "testcase",
            classname=neutral.xml(name),
            name=neutral.xml(f"{verdict.criterion} (epoch {trial.epoch})"),
            time=f"{verdict.seconds:.3f}",
        )
        if verdict.outcome == "fail":
            total["failures"] += 1
            failure = ElementTree.SubElement(
                test, "failure", message=neutral.xml(neutral.line(verdict.evidence))[:200]
            )
            failure.text = neutral.xml(verdict.evidence)
        elif verdict.outcome == "not_graded":
            total["skipped"] += 1
            ElementTree.SubElement(test, "skipped", message=neutral.xml(verdict.reason))
    for name, suite in suites.items():
        for key in ("tests", "failures", "skipped"):
            suite.set(key, str(int(totals[name][key])))
        suite.set("time", f"{totals[name]['time']:.3f}")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
