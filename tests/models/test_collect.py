"""Bounded concurrency, answers stored as they come, and what an interrupt leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from messages_server import Answer, Call, Fault, MessagesServer

from harness.errors import UserError
from harness.models.base import ModelError
from harness.models.collect import Collected, Event, collect
from harness.models.live import Live, Patience
from harness.models.replay import Replay
from harness.records import Request, Response
from harness.store import Run

NewRun = Callable[..., Run]
AskFor = Callable[..., Request]


class Scripted:
    """A model that answers at once, or as its script says."""

    name = "scripted"

    def __init__(self, script: Callable[[Request], Response | ModelError] | None = None) -> None:
        self.script = script or (lambda request: Response("x", "end_turn", "m"))
        self.asked: list[Request] = []

    async def respond(self, request: Request) -> Response:
        self.asked.append(request)
        await asyncio.sleep(0)
        result = self.script(request)
        if isinstance(result, ModelError):
            raise result
        return result


def requests_of(run: Run) -> list[Request]:
    return [run.request(digest) for digest in run.trials().values()]


def collected(run: Run, model: object, **options: object) -> Collected:
    return asyncio.run(collect(requests_of(run), model, run, **options))  # type: ignore[arg-type]


def test_every_response_is_stored_under_its_request(new_run: NewRun) -> None:
    run = new_run(7)
    echo = Scripted(lambda r: Response(str(r.messages[0]["content"]), "end_turn", "m"))
    done = collected(run, echo, concurrency=3)
    assert sorted(done.stored) == sorted(run.trials().values())
    for request in requests_of(Run(run.folder)):
        response = Run(run.folder).response(request.digest)
        assert response is not None and response.text == request.messages[0]["content"]


def test_only_what_is_missing_is_asked_once(new_run: NewRun) -> None:
    run = new_run(3)
    first = requests_of(run)[0]
    run.add_response(first.digest, Response("kept", "end_turn", "m"))
    model = Scripted()
    twice = [*requests_of(run), *requests_of(run)]
    asyncio.run(collect(twice, model, run))
    assert len(model.asked) == 2
    assert run.response(first.digest).text == "kept"  # type: ignore[union-attr]


def test_response_is_on_disk_when_its_event_comes(new_run: NewRun) -> None:
    run = new_run(4)
    seen: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "stored":
            assert Run(run.folder).response(event.digest) is not None
            assert event.response is not None and event.request is not None
            seen.append(event.digest)
            assert (event.done, event.total) == (len(seen), 4)

    collected(run, Scripted(), concurrency=2, on_event=on_event)
    assert len(seen) == 4


def test_failure_of_one_request_leaves_the_others(new_run: NewRun) -> None:
    run = new_run(5)
    bad = requests_of(run)[2].digest

    def script(request: Request) -> Response | ModelError:
        if request.digest == bad:
            return ModelError("bad_request", "too long")
        return Response("x", "end_turn", "m")

    events: list[Event] = []
    done = collected(run, Scripted(script), on_event=events.append)
    assert len(done.stored) == 4
    assert done.failed[bad].kind == "bad_request"
    assert bad not in Run(run.folder).responses()
    assert [e.error.kind for e in events if e.error] == ["bad_request"]


@pytest.mark.parametrize("kind", ["auth", "budget"])
def test_hopeless_error_sends_nothing_more(new_run: NewRun, kind: str) -> None:
    run = new_run(9)
    model = Scripted(lambda request: ModelError(kind, "no"))  # type: ignore[arg-type]
    done = collected(run, model, concurrency=2)
    assert len(model.asked) <= 2
    assert len(done.failed) == 9


def test_resumes_where_it_stopped(new_run: NewRun) -> None:
    run = new_run(6)
    half = set(list(run.trials().values())[:3])

    def script(request: Request) -> Response | ModelError:
        if request.digest in half:
            return Response("first", "end_turn", "m")
        return ModelError("overloaded", "no")

    collected(run, Scripted(script))
    again = Run(run.folder)
    run.unlock()
    again.lock()
    model = Scripted()
    done = collected(again, model)
    assert {request.digest for request in model.asked} == set(done.stored)
    assert len(done.stored) == 3


def test_replay_answers_by_digest_alone(new_run: NewRun, ask_for: AskFor) -> None:
    run = new_run(2)
    collected(run, Scripted(lambda r: Response("recorded", "end_turn", "m")))
    replay = Replay(run)
    assert asyncio.run(replay.respond(requests_of(run)[0])).text == "recorded"
    with pytest.raises(ModelError) as caught:
        asyncio.run(replay.respond(ask_for("changed since")))
    assert caught.value.kind == "not_recorded"


def test_full_disk_ends_the_collection_with_what_was_stored(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(6)
    original = run.add_response
    stored = 0

    def add(digest: str, response: Response) -> None:
        nonlocal stored
        if stored == 2:
            raise UserError("cannot write: No space left on device")
        stored += 1
        original(digest, response)

    monkeypatch.setattr(run, "add_response", add)
    with pytest.raises(UserError, match="No space left"):
        collected(run, Scripted(), concurrency=2)
    assert len(Run(run.folder).responses()) == 2


# --- against the server -------------------------------------------------------------------------


def test_no_more_at_once_than_asked(
    server: MessagesServer, live: Callable[..., Live], new_run: NewRun
) -> None:
    run = new_run(12)
    server.default = Answer(latency=0.03)
    done = collected(run, live(concurrency=4), concurrency=4)
    assert len(done.stored) == 12
    assert 2 <= server.most_at_once <= 4


def test_mixed_weather(server: MessagesServer, live: Callable[..., Live], new_run: NewRun) -> None:
    run = new_run(20)
    bad = requests_of(run)[5].messages[0]["content"]
    faults = [Fault.status(529), Fault.cut(reset=True), Fault.malformed(), Fault.drop()]
    seen: set[str] = set()

    def weather(call: Call) -> None:
        text = call.body["messages"][0]["content"]
        if text == bad:
            step = Fault.status(400, "invalid_request_error")
        elif text in seen:
            step = Answer(text)
        else:
            seen.add(text)
            step = faults[len(seen) % 4]
        step(call)

    server.default = weather
    done = collected(run, live(concurrency=5), concurrency=5)
    assert [error.kind for error in done.failed.values()] == ["bad_request"]
    assert len(done.stored) == 19
    for request in requests_of(run):
        response = run.response(request.digest)
        if response is not None:
            assert response.text == request.messages[0]["content"]


def interrupt_after(seconds: list[float]) -> None:
    def send() -> None:
        for pause in seconds:
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()


def test_interrupt_keeps_what_is_in_flight(
    server: MessagesServer, live: Callable[..., Live], new_run: NewRun
) -> None:
    run = new_run(9)
    server.default = Answer(latency=0.4)
    events: list[Event] = []
    before = signal.getsignal(signal.SIGINT)
    asyncio.run(warm(live(), server))
    model = live(concurrency=3, patience=Patience())
    interrupt_after([0.2])
    with pytest.raises(KeyboardInterrupt):
        collected(run, model, concurrency=3, on_event=events.append)
    stopping = [event.in_flight for event in events if event.kind == "stopping"]
    assert stopping == [3]
    assert len(Run(run.folder).responses()) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_second_interrupt_drops_it(
    server: MessagesServer, live: Callable[..., Live], new_run: NewRun
) -> None:
    run = new_run(3)
    asyncio.run(warm(live(), server))
    server.default = Answer(latency=5)
    interrupt_after([0.2, 0.2])
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        collected(run, live(patience=Patience()), concurrency=3)
    assert time.monotonic() - started < 3
    assert Run(run.folder).responses() == {}


async def warm(model: Live, server: MessagesServer) -> None:
    """Imports the SDK, so that what is timed after it is not the import."""
    default, server.default = server.default, Answer()
    await model.respond(Request("m", "", ({"role": "user", "content": "x"},), 10))
    await model.aclose()
    server.default = default
