"""The skill that we ship keeps its own promises: size, licence, and no benchmark in its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.packaging import build
from harness.skills import inline_text, load_skill
from harness.validation import (
    BODY_LINES,
    BODY_TOKENS,
    BYTES_PER_TOKEN,
    PROMPT_TOKENS,
    UPLOAD_DESCRIPTION,
    validate,
)

REPO = Path(__file__).resolve().parents[2]
SHIPPED = REPO / "skill" / "backend-engineering"


def test_it_has_no_finding_not_even_a_warning():
    assert validate(SHIPPED) == []


def test_it_is_within_its_budget():
    skill = load_skill(SHIPPED)
    assert len(skill.description) <= UPLOAD_DESCRIPTION
    assert len(skill.body.splitlines()) < BODY_LINES
    assert len(skill.body.encode()) / BYTES_PER_TOKEN < BODY_TOKENS
    assert len(inline_text(skill).encode()) / BYTES_PER_TOKEN <= PROMPT_TOKENS


def test_its_licence_is_complete_and_the_same_as_at_the_top():
    terms = (SHIPPED / "LICENSE.txt").read_bytes()
    assert terms == (REPO / "LICENSE.txt").read_bytes()
    assert b"Apache License" in terms and b"END OF TERMS AND CONDITIONS" in terms


def test_it_is_packaged_without_a_finding(tmp_path):
    assert validate(build(SHIPPED, tmp_path).zip) == []


@pytest.mark.parametrize("case", sorted(p.name for p in (REPO / "evals/cases").glob("[!_.]*")))
def test_it_does_not_know_the_cases_it_is_measured_on(case):
    assert case.replace("-", " ") not in inline_text(load_skill(SHIPPED)).lower().replace("-", " ")
