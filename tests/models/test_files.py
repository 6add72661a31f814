"""Requests out as files and answers back in, word for word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.models.files import INDEX, answer_name, read_answers, render, write_pending
from harness.records import Request, Usage
from harness.store import Run

NewRun = Callable[..., Run]
AskFor = Callable[..., Request]
TEXT = "\n  main.py\r\n```python\nprint('ä😀')\n```\n\n\n"


def requests_of(run: Run) -> list[Request]:
    return [run.request(digest) for digest in run.trials().values()]


def test_one_file_a_request_with_everything_that_the_model_sees(
    new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(4)
    twice = [*requests_of(run), *requests_of(run)]
    paths = write_pending(twice, tmp_path / "out")
    assert len(paths) == 4
    for path, request in zip(paths, requests_of(run), strict=True):
        text = path.read_text(encoding="utf-8")
        assert path.name == f"{request.digest[:12]}.md"
        assert request.system in text
        assert request.messages[0]["content"] in text


def test_parts_between_the_marker_lines_are_the_request(ask_for: AskFor) -> None:
    request = ask_for("First.\n%% not a marker\n\nLast.", system="Be\n\nplain.")
    marker = f"%% {request.digest[:12]} "
    parts: list[list[str]] = [[]]
    for line in render(request).split("\n"):
        if line.startswith(marker):
            parts.append([])
        else:
            parts[-1].append(line)
    texts = ["\n".join(part) for part in parts if part]
    assert texts[:2] == [request.system, request.messages[0]["content"]]


def test_file_and_index_tell_nothing_of_case_arm_or_epoch(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(2)
    without, with_ = write_pending(requests_of(run), tmp_path / "out")
    for path in (without, with_, tmp_path / "out" / INDEX):
        shown = path.read_text().replace("without 1", "").replace("with 1", "")
        for word in ("without", "with/", "case", "epoch"):
            assert word not in shown
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert [entry["request"] for entry in index] == list(run.trials().values())
    assert set(index[0]) == {"file", "answer", "request", "max_tokens"}


def test_files_of_answered_requests_go_and_answers_stay(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(3)
    first, *rest = requests_of(run)
    write_pending([first, *rest], tmp_path)
    (tmp_path / answer_name(first.digest)).write_text("x")
    (tmp_path / "notes.md").write_text("mine")
    write_pending(rest, tmp_path)
    names = {path.name for path in tmp_path.glob("*.md")}
    assert names == {
        *(f"{request.digest[:12]}.md" for request in rest),
        answer_name(first.digest),
        "notes.md",
    }


def test_content_in_text_blocks_is_written_and_images_are_refused(ask_for: AskFor) -> None:
    blocks = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert "one\n\ntwo" in render(ask_for(messages=({"role": "user", "content": blocks},)))
    image = ask_for(messages=({"role": "user", "content": [{"type": "image"}]},))
    with pytest.raises(UserError, match="text"):
        render(image)


def test_answers_come_back_word_for_word_with_estimated_tokens(
    new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(3)
    first, second, third = requests_of(run)
    (tmp_path / answer_name(first.digest)).write_bytes(TEXT.encode())
    (tmp_path / f"{second.digest}.answer.txt").write_bytes(b"\xef\xbb\xbfsecond")
    done = read_answers(tmp_path, run, model="claude-from-a-window")
    assert sorted(done.stored) == sorted([first.digest, second.digest])
    assert done.missing == [third.digest]
    assert done.skipped == {}
    response = Run(run.folder).response(first.digest)
    assert response is not None
    assert response.text == TEXT
    assert (response.model, response.stop_reason) == ("claude-from-a-window", "unreported")
    assert response.usage.estimated and response.usage.output_tokens > 0
    assert response.seconds is None
    assert Run(run.folder).response(second.digest).text == "second"  # type: ignore[union-attr]


def test_what_the_window_tells_stands_beside_the_answer(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(1)
    (request,) = requests_of(run)
    (tmp_path / answer_name(request.digest)).write_text("x")
    facts = {
        "stop_reason": "max_tokens",
        "model": "m",
        "seconds": 3,
        "finished": "2026-11-24T00:00:00+00:00",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }
    (tmp_path / f"{request.digest[:12]}.answer.json").write_text(json.dumps(facts))
    read_answers(tmp_path, run)
    response = run.response(request.digest)
    assert response is not None
    assert (response.stop_reason, response.model, response.seconds) == ("max_tokens", "m", 3.0)
    assert response.usage == Usage(1, 2)


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_empty_answer_is_listed_and_not_imported(
    new_run: NewRun, tmp_path: Path, content: str
) -> None:
    run = new_run(1)
    (request,) = requests_of(run)
    (tmp_path / answer_name(request.digest)).write_text(content)
    done = read_answers(tmp_path, run)
    assert done.skipped == {answer_name(request.digest): "empty"}
    assert done.missing == [request.digest]


def test_answer_that_is_not_utf8_is_listed(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(1)
    name = answer_name(requests_of(run)[0].digest)
    (tmp_path / name).write_bytes("ä".encode("latin-1"))
    assert "UTF-8" in read_answers(tmp_path, run).skipped[name]


@pytest.mark.parametrize(
    "facts",
    ["{", "[]", '{"stop": 1}', '{"usage": {"tokens": 1}}', '{"usage": 3}', '{"seconds": "long"}'],
)
def test_odd_facts_are_listed(new_run: NewRun, tmp_path: Path, facts: str) -> None:
    run = new_run(1)
    (request,) = requests_of(run)
    (tmp_path / answer_name(request.digest)).write_text("x")
    (tmp_path / f"{request.digest[:12]}.answer.json").write_text(facts)
    done = read_answers(tmp_path, run)
    assert ".answer.json" in done.skipped[answer_name(request.digest)]
    assert run.responses() == {}


def test_unknown_and_ambiguous_names_are_listed_and_other_files_ignored(
    new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(1)
    digest = requests_of(run)[0].digest
    for name in ("ffffffffffff.answer.md", f"{digest[:6]}.answer.md", "README.md", f"{digest}.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "aaaaaaaaaaaa.answer.md").mkdir()
    done = read_answers(tmp_path, run)
    assert "no such request" in done.skipped["ffffffffffff.answer.md"]
    assert "too short" in done.skipped[f"{digest[:6]}.answer.md"]
    assert set(done.skipped) == {
        "ffffffffffff.answer.md",
        f"{digest[:6]}.answer.md",
        "aaaaaaaaaaaa.answer.md",
    }
    assert run.responses() == {}


def test_second_import_changes_nothing(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(1)
    (request,) = requests_of(run)
    path = tmp_path / answer_name(request.digest)
    path.write_text("first")
    read_answers(tmp_path, run)
    again = read_answers(tmp_path, run)
    assert (again.stored, again.skipped, again.missing) == ([], {}, [])
    path.write_text("edited")
    assert "stays" in read_answers(tmp_path, run).skipped[path.name]
    assert run.response(request.digest).text == "first"  # type: ignore[union-attr]


def test_folder_that_is_not_there(new_run: NewRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_answers(tmp_path / "nowhere", new_run(1))
