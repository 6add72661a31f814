"""The shipped cases' test files, as far as they can be told without running them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cases import Case, load_suite
from harness.grading import static

EVALS = Path(__file__).parents[2] / "evals"
SUITE = load_suite(EVALS)
CASES = list(SUITE.cases.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_static_criterion_of_a_case_has_a_check(case: Case) -> None:
    static_ones = {c for c in case.criteria if SUITE.rubric.criteria[c].how == "static"}
    assert static_ones - set(static.CHECKS) == set()


def test_plain_pytest_skips_a_case_and_says_what_runs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", CASES[0].tests],
        capture_output=True,
        text=True,
        cwd=EVALS.parent,
    )
    assert done.returncode == 0, done.stdout
    assert "run it with: harness check CASE FOLDER" in done.stdout
    assert "passed" not in done.stdout
