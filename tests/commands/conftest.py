"""A whole small project in a folder: one case, a skill, and a recording made up for the tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.cli import main
from harness.records import Response, Usage
from harness.store import Run

ROOT = Path(__file__).parent.parent.parent
CASE = "door-count"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: evals/ with the scaffold's case, and skill/."""
    evals = tmp_path / "evals"
    evals.mkdir()
    for name in ("rubric.yaml", "answer-format.md"):
        shutil.copy(ROOT / "evals" / name, evals / name)
    shutil.copytree(ROOT / "evals" / "runtimes", evals / "runtimes")
    shutil.copytree(ROOT / "skill", tmp_path / "skill")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert main(["new-case", CASE]) == 0
    return tmp_path


def answer(folder: Path, change: Callable[[str], str] = lambda text: text) -> str:
    """The files of a folder as an answer's text; `change` is applied to main.py."""
    parts = ["Here is the service."]
    for path in sorted(folder.iterdir()):
        text = path.read_text()
        parts.append(f"{path.name}\n````\n{change(text) if path.name == 'main.py' else text}````")
    return "\n\n".join(parts)


def forgetful(text: str) -> str:
    """The service, but it starts with an empty database each time."""
    start = "    connect().close()\n    server"
    assert start in text
    return text.replace(start, "    DATABASE.unlink(missing_ok=True)\n" + start)


@pytest.fixture
def recorded(project: Path) -> Path:
    """A recording of two epochs: with the skill the good service, without it one that forgets."""
    assert main(["pending", "ask", "--run", "made", "--epochs", "2", "--model", "made-up"]) == 0
    run = Run(Path("made"))
    service = project / "evals" / "references" / CASE / "good"
    texts = {
        "with": answer(service),
        "without": answer(service, forgetful),
    }
    attempts = []
    for trial, digest in run.trials().items():
        text = texts[trial.arm]
        run.add_response(digest, Response(text, "end_turn", "made-up", Usage(1, 2)))
        attempts.append({"request": digest, "outcome": "imported"})
    provenance = yaml.safe_dump({"what": "made up for a test"})
    Path("provenance.yaml").write_text(provenance)
    lines = "".join(json.dumps(attempt) + "\n" for attempt in attempts)
    Path("attempts.jsonl").write_text(lines)
    arguments = ["--provenance", "provenance.yaml", "--attempts", "attempts.jsonl"]
    assert main(["record", "made", "first", *arguments]) == 0
    return project / "evals" / "recordings" / "first"
