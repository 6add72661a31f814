"""Money is never spent unasked, and never more than was allowed."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from messages_server import Answer, Fault, MessagesServer

from harness.commands.asking import ask
from harness.errors import UserError
from harness.records import PlannedTrial, Request, Trial
from harness.store import Run

MODEL = "claude-sonnet-5-5"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesServer]:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with MessagesServer() as server:
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {}, [planned(n) for n in (1, 2, 3)])


def planned(number: int, model: str = MODEL) -> PlannedTrial:
    message = {"role": "user", "content": f"Build {number}."}
    return PlannedTrial(Trial("case", "with", number), Request(model, "s", (message,), 20_000))


def requests_of(run: Run) -> list[Request]:
    return [run.request(digest) for digest in run.trials().values()]


def options(server: MessagesServer, **values: object) -> argparse.Namespace:
    known = {
        "model": MODEL,
        "base_url": server.url,
        "price": None,
        "max_usd": None,
        "concurrency": 2,
        "yes": False,
    }
    return argparse.Namespace(**{**known, **values})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def at_a_terminal(monkeypatch: pytest.MonkeyPatch, reply: str) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(reply))
    monkeypatch.setattr("sys.stderr", shown)
    return shown


def test_nothing_is_sent_where_nobody_can_be_asked(server: MessagesServer, run: Run) -> None:
    with pytest.raises(UserError, match="--yes"):
        ask(run, requests_of(run), options(server), what="answers")
    assert server.calls == []


def test_estimate_is_printed_and_yes_skips_the_question(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(run, requests_of(run), options(server, yes=True), what="answers") == 0
    assert len(run.responses()) == 3
    told = capsys.readouterr().err
    assert f"3 requests for answers to {MODEL}: about $0.30, at most $0.6" in told


@pytest.mark.parametrize(("reply", "sent"), [("y\n", 3), ("yes\n", 3), ("n\n", 0), ("", 0)])
def test_question_on_a_terminal(
    server: MessagesServer, run: Run, monkeypatch: pytest.MonkeyPatch, reply: str, sent: int
) -> None:
    shown = at_a_terminal(monkeypatch, reply)
    args = options(server)
    if sent:
        assert ask(run, requests_of(run), args, what="answers") == 0
    else:
        with pytest.raises(UserError, match="nothing was sent"):
            ask(run, requests_of(run), args, what="answers")
    assert "[y/N]" in shown.getvalue()
    assert len(server.calls) == sent


def test_verdicts_on_the_answers_are_not_asked_for_again(
    server: MessagesServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = at_a_terminal(monkeypatch, "y\n")
    args = options(server)
    first, *rest = requests_of(run)
    ask(run, [first], args, what="answers")
    ask(run, rest, args, what="verdicts")
    assert shown.getvalue().count("[y/N]") == 1
    assert len(server.calls) == 3


def test_stored_answers_are_not_asked_for(server: MessagesServer, run: Run) -> None:
    args = options(server, yes=True)
    ask(run, requests_of(run), args, what="answers")
    assert ask(run, requests_of(run), options(server), what="answers") == 0
    assert len(server.calls) == 3


def test_unknown_price_needs_price_or_a_server_of_ones_own(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    local = [planned(9, "qwen-local").request]
    run.add_request(local[0])
    for values in ({"base_url": None}, {"max_usd": 5.0}):
        with pytest.raises(UserError, match="--price IN/OUT"):
            ask(run, local, options(server, model="qwen-local", yes=True, **values), what="x")
    assert server.calls == []
    assert ask(run, local, options(server, model="qwen-local"), what="answers") == 0
    assert server.url in capsys.readouterr().err


def test_price_of_ones_own_counts(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    args = options(server, price="1000/1000", yes=True)
    ask(run, requests_of(run), args, what="answers")
    assert args.budget.spent == pytest.approx(3 * 18 * 1000 / 1e6)
    assert "$0.05 spent so far" in capsys.readouterr().err
    assert ask(run, requests_of(run)[:0], options(server, price="0/0"), what="x") == 0


def test_limit_holds_over_answers_and_verdicts_together(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.default = Answer(usage={"input_tokens": 1000, "output_tokens": 20_000})
    first, *rest = requests_of(run)
    args = options(server, yes=True, max_usd=0.35)
    assert ask(run, [first], args, what="answers") == 0
    assert ask(run, rest, args, what="verdicts") == 2
    assert len(server.calls) == 1
    assert args.budget.spent <= 0.35
    assert "2 missing, budget:" in capsys.readouterr().err


def test_failures_are_told_in_a_line_for_each_sort(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.default = Fault.status(400, "invalid_request_error", "too long")
    assert ask(run, requests_of(run), options(server, yes=True), what="answers") == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "missing" in line]
    assert lines == ["answers: 3 missing, bad_request: HTTP 400: too long"]
    assert run.responses() == {}


def test_first_retry_of_each_sort_is_told(
    server: MessagesServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.plan(*[Fault.status(529, "overloaded_error", "busy")] * 2)
    assert ask(run, requests_of(run), options(server, yes=True), what="answers") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert len(told) == 1
    assert told[0].startswith("answers: overloaded: HTTP 529: busy; trying again in")
