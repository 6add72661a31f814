"""The real SDK against a server that misbehaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from messages_server import Answer, Fault, MessagesServer, Step

from harness.models.base import ModelError
from harness.models.budget import Budget, published
from harness.models.live import Live, Patience
from harness.records import Request, Response, Usage

IMPATIENT = Patience(attempts=4, base=0.01, cap=0.05, connect=20, silence=20, idle=20, whole=60)
SOON = replace(IMPATIENT, silence=0.5, idle=0.5)
"""For servers that stall. Not for others: a busy machine makes them look as if they did."""
Make = Callable[..., Live]
AskFor = Callable[..., Request]
TEXT = "main.py\n```python\nprint('ä€😀')\n```\n" * 30


def answer(model: Live, request: Request) -> Response:
    async def once() -> Response:
        try:
            return await model.respond(request)
        finally:
            await model.aclose()

    return asyncio.run(once())


def failure(model: Live, request: Request) -> ModelError:
    with pytest.raises(ModelError) as caught:
        answer(model, request)
    return caught.value


# --- answers ------------------------------------------------------------------------------------


def test_answer_with_its_usage_time_and_model(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    usage = {
        "input_tokens": 5,
        "output_tokens": 9,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 2,
    }
    server.plan(Answer(TEXT, usage=usage, latency=0.05))
    response = answer(live(), ask_for())
    assert response.text == TEXT
    assert (response.stop_reason, response.model) == ("end_turn", "served-model")
    assert response.usage == Usage(5, 9, 3, 2)
    assert response.seconds is not None and 0.05 <= response.seconds < 5
    assert response.finished is not None and response.finished.endswith("+00:00")


def test_request_is_sent_whole_and_has_nothing_else(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    answer(live(), ask_for(schema=schema, effort="low"))
    assert server.calls[0].body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 1000,
        "system": "You build.",
        "messages": [{"role": "user", "content": "Build it."}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}, "effort": "low"},
        "stream": True,
    }
    answer(live(), ask_for(system=""))
    assert set(server.calls[1].body) == {"model", "max_tokens", "messages", "stream"}


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "stop_sequence", "a_new_one"])
def test_every_stop_reason_is_an_answer(
    server: MessagesServer, live: Make, ask_for: AskFor, reason: str
) -> None:
    server.plan(Answer("", stop_reason=reason))
    assert (answer(live(), ask_for()).stop_reason, len(server.calls)) == (reason, 1)


def test_empty_answer_is_an_answer(server: MessagesServer, live: Make, ask_for: AskFor) -> None:
    server.plan(Answer(""))
    assert answer(live(), ask_for()).text == ""


def test_slow_bytes_cut_anywhere_are_put_together(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    server.plan(Fault.slow(Answer("ä€😀" * 40, piece=13), size=5, pause=0.0005))
    assert answer(live(), ask_for()).text == "ä€😀" * 40


def test_lone_surrogate_becomes_the_replacement_character(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    server.plan(Answer("a\ud800b"))
    assert answer(live(), ask_for()).text == "a\ufffdb"


def test_connection_is_used_again(server: MessagesServer, live: Make, ask_for: AskFor) -> None:
    model = live()

    async def twice() -> None:
        await model.respond(ask_for())
        await model.respond(ask_for())
        await model.aclose()

    asyncio.run(twice())
    ports = {call.handler.client_address[1] for call in server.calls}
    assert len(server.calls) == 2 and len(ports) == 1


# --- faults that pass ---------------------------------------------------------------------------

PASSING = {
    "429": Fault.status(429, "rate_limit_error"),
    "429 with retry-after": Fault.status(429, "rate_limit_error", retry_after="0.03"),
    "429 with a date": Fault.status(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429 with nonsense": Fault.status(429, retry_after="soon"),
    "429 with an hour": Fault.status(429, retry_after="3600"),
    "500": Fault.status(500),
    "503": Fault.status(503),
    "529": Fault.status(529, "overloaded_error"),
    "dropped connection": Fault.drop(),
    "cut stream": Fault.cut(),
    "cut before the message": Fault.cut(events=0),
    "cut before the last event": Fault.cut(events=6),
    "reset in the middle": Fault.cut(reset=True),
    "half a chunk": Fault.half_chunk(),
    "malformed JSON": Fault.malformed(),
    "JSON of another shape": Fault.malformed('{"type": "content_block_delta", "index": 0}'),
    "overloaded in the stream": Fault.error_event("overloaded_error"),
    "rate limit in the stream": Fault.error_event("rate_limit_error"),
    "unknown error in the stream": Fault.error_event("strange_error"),
    "a proxy's page": Fault.page(),
    "no stop reason": Answer("x", stop_reason=None),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_passing_fault_is_tried_again(
    server: MessagesServer, live: Make, ask_for: AskFor, fault: Step
) -> None:
    # One answer more than needed: a connection that closes between two calls costs one by itself.
    server.plan(fault, fault, Answer(TEXT), Answer(TEXT))
    told: list[str] = []
    model = live(on_retry=lambda request, error, wait: told.append(error.kind))
    assert answer(model, ask_for()).text == TEXT
    assert len(server.calls) in (3, 4)
    assert len(told) == len(server.calls) - 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(429, "rate_limit_error"), "rate_limited"),
        (Fault.status(500), "server"),
        (Fault.status(529, "overloaded_error"), "overloaded"),
        (Fault.drop(), "connection"),
        (Fault.cut(), "cut_stream"),
        (Fault.half_chunk(), "cut_stream"),
        (Fault.malformed(), "malformed"),
        (Fault.error_event("overloaded_error"), "overloaded"),
    ],
)
def test_lasting_fault_ends_as_an_error_of_its_kind(
    server: MessagesServer, live: Make, ask_for: AskFor, fault: Step, kind: str
) -> None:
    server.default = fault
    assert failure(live(), ask_for()).kind == kind
    assert len(server.calls) == IMPATIENT.attempts


@pytest.mark.parametrize("pings", [False, True])
def test_stream_that_falls_silent_or_sends_nothing_but_pings(
    server: MessagesServer, live: Make, ask_for: AskFor, pings: bool
) -> None:
    server.plan(Fault.stall(3, pings=pings), Answer(TEXT))
    told: list[str] = []
    model = live(patience=SOON, on_retry=lambda request, error, wait: told.append(error.kind))
    assert answer(model, ask_for()).text == TEXT
    assert set(told) == {"stalled"}


def test_lasting_silence_is_an_error_of_its_kind(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    server.default = Fault.stall(3)
    assert failure(live(patience=replace(SOON, attempts=2)), ask_for()).kind == "stalled"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.status(400, "invalid_request_error"), "bad_request"),
        (Fault.status(404, "not_found_error"), "bad_request"),
        (Fault.status(413, "request_too_large"), "bad_request"),
        (Fault.status(401, "authentication_error"), "auth"),
        (Fault.status(402, "billing_error"), "auth"),
        (Fault.status(403, "permission_error"), "auth"),
        (Fault.status(500, x_should_retry="false"), "server"),
        (Fault.error_event("invalid_request_error"), "bad_request"),
    ],
)
def test_fault_that_another_attempt_would_repeat_is_final(
    server: MessagesServer, live: Make, ask_for: AskFor, fault: Step, kind: str
) -> None:
    server.default = fault
    assert failure(live(), ask_for()).kind == kind
    assert len(server.calls) == 1


def test_server_that_is_not_there(ask_for: AskFor) -> None:
    model = Live(base_url="http://127.0.0.1:9", patience=IMPATIENT)
    assert failure(model, ask_for()).kind == "connection"


def test_waits_grow_with_jitter_up_to_the_cap_and_honour_retry_after() -> None:
    patience = Patience(base=1, cap=8)
    for attempt, bound in [(1, 1), (2, 2), (3, 4), (4, 8), (9, 8)]:
        waits = [patience.wait(attempt, None) for _ in range(50)]
        assert all(bound / 2 <= wait <= bound for wait in waits)
        assert len(set(waits)) > 1
    assert patience.wait(1, 5) == 5
    assert patience.wait(1, 3600) == 8


def test_retry_after_is_waited_for(server: MessagesServer, live: Make, ask_for: AskFor) -> None:
    server.plan(Fault.status(429, retry_after_ms="150"), Answer())
    answer(live(patience=replace(IMPATIENT, cap=1)), ask_for())
    assert server.calls[1].at - server.calls[0].at >= 0.15


def test_attempt_has_a_limit_as_a_whole(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    server.default = Fault.slow(Answer("x" * 3000, piece=10), size=200, pause=0.02)
    patience = replace(IMPATIENT, attempts=1, whole=0.3)
    started = time.monotonic()
    assert failure(live(patience=patience), ask_for()).kind == "stalled"
    assert time.monotonic() - started < 4


def test_cancelling_leaves_no_request_behind(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    server.default = Answer(latency=5)

    async def cancelled() -> None:
        model = live()
        task = asyncio.create_task(model.respond(ask_for()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.aclose()

    started = time.monotonic()
    asyncio.run(cancelled())
    assert time.monotonic() - started < 4


# --- keys ---------------------------------------------------------------------------------------

KEY = "sk-ant-api03-secret_secret-secret"


@pytest.mark.parametrize("where", ["argument", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
@pytest.mark.parametrize("status", [401, 400, 500])
def test_key_is_in_no_error(
    server: MessagesServer,
    live: Make,
    ask_for: AskFor,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    status: int,
) -> None:
    key = KEY if where == "argument" else "an-unusual-key-of-a-gateway"
    if where != "argument":
        monkeypatch.setenv(where, key)
    server.default = Fault.status(status, "authentication_error", f"{key} and Bearer {key}: no")
    error = failure(live(api_key=key if where == "argument" else None), ask_for())
    sent = server.calls[0].headers
    assert key in sent["authorization"]
    assert key not in str(error) and key not in repr(error)
    assert error.__cause__ is None


def test_local_server_needs_no_key(server: MessagesServer, live: Make, ask_for: AskFor) -> None:
    assert answer(live(), ask_for()).text == "Hello"
    assert server.calls[0].headers["authorization"] == "Bearer none"


def test_no_key_for_the_public_api_is_an_error_with_the_mend(
    ask_for: AskFor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    error = failure(Live(patience=IMPATIENT), ask_for())
    assert error.kind == "auth"
    assert "ANTHROPIC_API_KEY" in error.message


# --- budget -------------------------------------------------------------------------------------


def test_every_attempt_is_reserved_and_a_broken_one_counts_as_its_worst(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    request = ask_for(max_tokens=1000)
    budget = Budget(1.0, published)
    server.plan(
        Fault.status(529), Fault.cut(), Answer(usage={"input_tokens": 100, "output_tokens": 50})
    )
    answer(live(budget=budget), request)
    broken = (11 * 2 + 1000 * 10) / 1e6
    good = (100 * 2 + 50 * 10) / 1e6
    assert budget.spent == pytest.approx(broken + good)


def test_attempt_that_could_pass_the_limit_is_not_sent(
    server: MessagesServer, live: Make, ask_for: AskFor
) -> None:
    price = published("claude-sonnet-5-5")
    assert price is not None
    request = ask_for(max_tokens=1000)
    budget = Budget(price.worst(request) * 1.5, published)
    server.default = Fault.cut()
    assert failure(live(budget=budget), request).kind == "budget"
    assert len(server.calls) == 1
    assert budget.limit is not None and budget.spent <= budget.limit


def test_sdk_is_imported_only_when_it_is_used() -> None:
    code = (
        "import sys, harness.models.live, harness.models.collect, harness.models.files;"
        "sys.exit('anthropic' in sys.modules or 'httpx2' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
