"""What a person reads first, at any width and in any encoding."""

import io
import os
import pty
import re
import unicodedata
from pathlib import Path

import pytest

from harness.analysis.summary import summarise
from harness.reporting import terminal

OUTCOMES = {
    "labels": {"without": ["PFFPP", "PPFPF"], "with": ["PPPPP", "PPFPP"]},
    "meters": {"without": ["PPPPP", "PPPPF"], "with": ["PPPPP", "FPPP-"]},
}


@pytest.fixture
def summary_of(synthetic, tmp_path):
    def build(outcomes=OUTCOMES, suite=None, **options):
        run = synthetic.make_run(tmp_path / "run", outcomes, **options)
        return summarise(run, suite or synthetic.suite())

    return build


def shown(summary, width=90, **options):
    out = io.StringIO()
    terminal.render(summary, out, width, **options)
    return out.getvalue()


def words_of(text):
    return " ".join(text.split())


def test_it_says_what_the_numbers_are_about_before_any_number(summary_of, synthetic):
    text = words_of(shown(summary_of(plan={"tree_skill": synthetic.EDITED})))
    assert text.startswith("Recorded result of skill backend-engineering 1.0.0 (a1a1a1a1)")
    assert (
        "The skill in your tree (1.1.0, b2b2b2b2) has no answers, so this says nothing about"
        " your edit." in text
    )
    for way in ("MODEL=", "harness pending", "harness import", "--base-url"):
        assert way in text
    assert text.index("your edit") < text.index("%")


def test_the_headline_has_both_arms_the_lift_both_intervals_and_the_length(summary_of):
    text = words_of(shown(summary_of(), report=Path("runs/x/report.html")))
    assert "without 81.2%" in text
    assert "with 87.5%" in text
    assert "lift +6.2 points" in text
    assert "on these cases −23.8 … +36.3" in text
    assert "on tasks like these −232.0 … +244.5" in text
    assert "length ×1.50 in characters, ×1.50 in tokens" in text
    assert "Report runs/x/report.html" in text


def test_cases_and_moved_criteria_have_a_table_each(summary_of):
    text = words_of(shown(summary_of()))
    assert "labels 62.5% 87.5% +25.0" in text
    assert "upstream.breaker 2/4 3/4 +25.0 executed" in text
    assert "secrets.not_in_code" not in text


def test_it_names_what_is_missing_and_not_graded(summary_of):
    outcomes = OUTCOMES | {"labels": {"without": ["PFFPP", "PPFPF"], "with": ["PPPPP", None]}}
    text = words_of(shown(summary_of(outcomes, plan={"stale": ["gone/with/1"]})))
    assert "Missing 1 answer: labels/with/2" in text
    assert "Stale 1 answer: gone/with/1 (left out)" in text
    assert "Not graded 5 verdicts: no answer" in text


def test_from_one_arm_there_is_no_lift(summary_of):
    text = words_of(shown(summary_of({"labels": {"with": ["PPPPP"]}})))
    assert "lift none no answer in arm `without`: a lift needs both arms" in text
    assert "points" not in text


def test_three_arms_have_three_lifts(summary_of):
    arms = {"without": ["PFFPP", "PFFPP"], "baseline": ["PPFPP", "PPFPF"], "with": ["PPPPP"] * 2}
    text = words_of(shown(summary_of({"labels": arms, "meters": arms})))
    for lift in ("with − without +50.0", "with − baseline +25.0", "baseline − without +25.0"):
        assert f"{lift} points" in text


def test_recorded_verdicts_are_labelled_as_not_run_again(summary_of):
    grading = {"cell": None, "limits": None, "rerun": False, "reason": "no user namespaces"}
    text = words_of(shown(summary_of(plan={"grading": grading})))
    assert "recorded ones, not run again here: no user namespaces" in text


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(summary_of, width):
    lines = shown(summary_of(), width).splitlines()
    assert max(map(len, lines)) <= max(width, terminal.MIN_WIDTH)
    assert len(lines) <= 60


def test_many_cases_and_criteria_still_fit_one_screen(summary_of, synthetic):
    names = [f"case-{number}" for number in range(40)]
    outcomes = {name: {"without": ["PFFP-", None], "with": ["FPPFF", "PPPPP"]} for name in names}
    text = shown(summary_of(outcomes, synthetic.suite(names)), 80)
    assert len(text.splitlines()) <= 60
    assert "… and 28 more cases in the report" in text


def test_plain_text_without_a_terminal_has_no_escape(summary_of):
    assert "\x1b" not in shown(summary_of())


def test_a_terminal_that_takes_ascii_alone_gets_it(summary_of):
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    terminal.render(summary_of(), out, 80)
    out.flush()
    assert b"lift" in raw.getvalue()
    assert b"+6.2" in raw.getvalue()


def test_hostile_text_moves_no_cursor_and_sets_no_title(summary_of, monkeypatch):
    """On a real terminal: the only escapes are the colours of this report."""
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp [red]markup[/red] :skull:\rover"
    summary = summary_of(plan={"model": hostile, "recording": hostile})
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w", encoding="utf-8") as out:
            terminal.render(summary, out, 100)
        chunks = []
        while True:
            try:
                data = os.read(leader, 65536)
            except OSError:
                break
            if not data:
                break
            chunks.append(data)
    finally:
        os.close(leader)
    text = b"".join(chunks).decode()
    assert "\x1b[" in text, "a terminal gets colours"
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    assert {char for char in without_colours if unicodedata.category(char) in ("Cc", "Cf")} <= {
        "\n"
    }
    assert "[red]markup[/red] :skull:" in " ".join(without_colours.split())
