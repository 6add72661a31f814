"""JUnit XML, CSV and summary.json: complete, well-formed, and harmless to open."""

import csv
import io
import json
from xml.etree import ElementTree

import pytest

from harness.analysis.summary import summarise
from harness.reporting import junit, table, write_all

OUTCOMES = {"labels": {"without": ["PFFP-", "PPFPF"], "with": ["PPPPP", None]}}
HOSTILE = "=cmd|' /C calc'!A0\x1b[2J\x00]]></failure><x>\ud800\ufffe"


@pytest.fixture
def run_and_summary(synthetic, tmp_path):
    run = synthetic.make_run(tmp_path / "run", OUTCOMES, evidence=HOSTILE)
    return run, summarise(run, synthetic.suite())


@pytest.fixture
def verdicts_and_summary(run_and_summary):
    run, summary = run_and_summary
    return run.verdicts(), summary


def test_junit_has_a_suite_for_case_and_arm_and_counts_them(verdicts_and_summary):
    root = ElementTree.fromstring(junit.render(*verdicts_and_summary))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"labels.without", "labels.with"}
    suite = suites["labels.without"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("12", "4", "1")
    assert len(suite.findall("testcase")) == 12
    skipped = suite.find("testcase/skipped")
    assert skipped is not None and skipped.get("message") == "the judge gave no quote"


def test_junit_carries_hostile_evidence_as_text(verdicts_and_summary):
    root = ElementTree.fromstring(junit.render(*verdicts_and_summary))
    failure = root.find(".//testcase[@name='upstream.breaker (epoch 1)']/failure")
    assert failure is not None and len(failure) == 0
    assert "]]></failure><x>" in (failure.text or "")
    assert "⟨U+001B⟩[2J⟨U+0000⟩" in (failure.text or "")


def test_csv_has_a_row_for_each_verdict_and_no_formula(verdicts_and_summary):
    rows = list(csv.DictReader(io.StringIO(table.render(*verdicts_and_summary))))
    assert len(rows) == 18
    failed = [row for row in rows if row["outcome"] == "fail"]
    assert len(failed) == 4
    assert all(row["evidence"].startswith("'=cmd") for row in failed)
    assert {row["reason"] for row in rows} == {"", "the judge gave no quote"}


def test_every_output_is_written_into_the_run(run_and_summary, synthetic):
    run, summary = run_and_summary
    out = io.StringIO()
    write_all(run, synthetic.suite(), summary, out)
    assert json.loads((run.folder / "summary.json").read_text(encoding="utf-8")) == summary
    for name in ("report.html", "junit.xml", "verdicts.csv"):
        assert (run.folder / name).stat().st_size > 500
    assert "report.html" in out.getvalue()
