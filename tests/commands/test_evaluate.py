"""The main job on a small project: replay, grade in cells, report, and say what it is about."""

import json
from pathlib import Path

import pytest
from messages_server import Fault, MessagesServer

from harness.cli import main
from harness.store import Run

pytestmark = pytest.mark.usefixtures("recorded")


def summary(run: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((Path(run) / "summary.json").read_text())
    return found


def test_eval_replays_grades_and_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--run", "runs/a", "--strict", "--no-judge"]) == 0
    verdicts = {(v.trial, v.criterion): v.outcome for v in Run(Path("runs/a")).verdicts()}
    assert verdicts["door-count/with/1", "data.durable"] == "pass"
    assert verdicts["door-count/without/1", "data.durable"] == "fail"
    assert "+33" in capsys.readouterr().out
    page = Path("runs/a/report.html").read_text()
    assert "door-count" in page


def test_the_lift_is_what_the_services_earn() -> None:
    """Without the skill the service forgets its counts, in every epoch: one criterion of three."""
    assert main(["eval", "--run", "runs/a", "--no-judge"]) == 0
    lift = summary("runs/a")["lifts"][0]  # type: ignore[index]
    assert lift["primary"]["value"] == pytest.approx(1 / 3)


def test_an_edited_skill_is_told_first(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    skill = project / "skill/backend-engineering/SKILL.md"
    skill.write_text(skill.read_text() + "\nOne more line.\n")
    capsys.readouterr()
    assert main(["eval", "--run", "runs/a", "--no-judge", "--strict"]) == 3
    first = capsys.readouterr().out.lstrip()[:600]
    assert "says nothing about your edit" in " ".join(first.split())


def test_a_changed_prompt_makes_its_trials_stale(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = Path("evals/cases/door-count/prompt.md")
    prompt.write_text(prompt.read_text() + "\nOne more wish.\n")
    assert main(["eval", "--run", "runs/a", "--no-judge", "--strict"]) == 3
    assert "door-count/with/2 (left out)" in capsys.readouterr().out
    assert Run(Path("runs/a")).trials() == {}


def test_one_arm_gives_no_lift() -> None:
    assert main(["eval", "--run", "runs/a", "--arm", "with", "--no-judge"]) == 0
    lift = summary("runs/a")["lifts"][0]  # type: ignore[index]
    assert lift["primary"]["value"] is None


def test_a_key_in_the_environment_does_not_make_a_run_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-used")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    assert main(["eval", "--run", "runs/a", "--no-judge", "--criterion", "api.contract"]) == 0
    assert Run(Path("runs/a")).plan["source"] == "recording"


def test_without_cells_the_recorded_verdicts_are_shown_as_such(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["eval", "--run", "runs/a", "--no-judge"]) == 0
    recorded = Path("evals/recordings/first/verdicts.jsonl")
    recorded.write_bytes(Path("runs/a/verdicts.jsonl").read_bytes())
    monkeypatch.setattr("harness.grading.cell.find_tools", lambda: [])
    capsys.readouterr()
    assert main(["eval", "--run", "runs/b", "--no-judge"]) == 0
    said = capsys.readouterr()
    assert "not run again" in " ".join((said.err + said.out).split())
    assert summary("runs/b")["lifts"][0]["primary"]["value"] is not None  # type: ignore[index]


def test_a_live_run_without_any_answer_is_an_error_that_can_be_resumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with MessagesServer() as server:
        server.plan(*[Fault.status(401, "authentication_error")] * 2)
        live = ["--model", "m", "--base-url", server.url, "--epochs", "1", "--run", "runs/live"]
        assert main(["eval", *live, "--no-judge"]) == 2
        assert "go on with --run runs/live" in capsys.readouterr().err
        assert main(["eval", *live, "--no-judge"]) == 0
    assert len(Run(Path("runs/live")).responses()) == 2


def test_grade_and_report_run_alone() -> None:
    assert main(["eval", "--run", "runs/a", "--no-judge"]) == 0
    assert main(["grade", "runs/a", "--criterion", "api.contract", "--no-judge"]) == 0
    assert Run(Path("runs/a")).plan["judge"] == "made-up"
    assert main(["report", "runs/a"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "--case", "dor-count"], 'did you mean "door-count"'),
        (["eval", "--criterion", "api.contrct"], 'did you mean "api.contract"'),
        (["eval", "--recording", "second"], "no recording 'second'"),
        (["grade", "runs/none"], "is this a run folder?"),
        (["report", "runs/none"], "is this a run folder?"),
        (["run"], "--model names the model"),
        (["check", "door-count", "nowhere"], "no such folder"),
        (["new-case", "Door"], "lower-case words joined by hyphens"),
        (["import", "nowhere", "--run", "made"], "no such folder"),
        (["record", "made", "first", "--provenance", "x", "--attempts", "y"], "exists already"),
    ],
)
def test_bad_input_is_one_message_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_run_folder_of_other_options_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pending", "ask", "--run", "made", "--epochs", "2"]) == 0
    assert main(["eval", "--run", "made"]) == 2
    assert "there is a run already" in capsys.readouterr().err
