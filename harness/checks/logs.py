"""What a service's log must be: structured, with request ids, clear on errors, no secrets."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

import httpx

from harness.checks.service import LogLine, Service
from harness.checks.timing import eventually

TIME_KEYS = {"time", "ts", "timestamp", "@timestamp", "asctime", "datetime", "date", "created", "t"}
LEVEL_KEYS = {"level", "severity", "lvl", "levelname", "log_level", "loglevel", "level_name"}
LEVEL_KEYS |= {"log.level", "severity_text", "severitytext", "levelno", "status"}
MESSAGE_KEYS = {"message", "msg", "event", "text", "body", "short_message", "event_name", "action"}

LEVELS = {"trace": 5, "debug": 10, "info": 20, "notice": 25, "warn": 30, "warning": 30}
LEVELS |= {"err": 40, "error": 40, "exception": 40, "critical": 50, "fatal": 50, "alert": 50}
LEVELS |= {"crit": 50, "emergency": 50, "panic": 50, "information": 20}

PYTHON_WARNING = re.compile(r":\d+: \w*Warning: ")
"""A library's warning at import, which no logging set-up sees; the next line is its source."""

ID_HEADERS = ("x-request-id", "request-id", "x-correlation-id", "correlation-id", "x-trace-id")


class Call(Protocol):
    """What a fake recorded, as far as it is looked at here."""

    @property
    def headers(self) -> Any: ...
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...


class Recorder(Protocol):
    """A fake dependency, as far as it is looked at here."""

    @property
    def name(self) -> str: ...
    @property
    def calls(self) -> Sequence[Call]: ...


def fields(line: LogLine) -> dict[str, Any]:
    """The line's JSON with lower-case keys, nested objects as ``outer.inner``; {} if it is none."""
    found: dict[str, Any] = {}

    def flatten(value: Mapping[str, Any], prefix: str) -> None:
        for key, inner in value.items():
            name = f"{prefix}{key}".lower()
            found[name] = inner
            if isinstance(inner, dict):
                flatten(inner, f"{name}.")

    flatten(line.json or {}, "")
    return found


def _pick(line: LogLine, keys: Collection[str]) -> Any:
    """The first value under one of these keys, at the top or as the last part of a nested key."""
    content = fields(line)
    for key in content:
        if key in keys:
            return content[key]
    for key in content:
        if key.rpartition(".")[2] in keys:
            return content[key]
    return None


def level(line: LogLine) -> int:
    """The line's level on the scale of Python's logging; 0 where it has none."""
    value = _pick(line, LEVEL_KEYS)
    if isinstance(value, int | float):
        return int(value)
    return LEVELS.get(str(value).lower(), 0)


def message(line: LogLine) -> str:
    """The line's message; the whole line where it has none."""
    value = _pick(line, MESSAGE_KEYS)
    return line.text if value is None else str(value)


def own_lines(service: Service, since: int = 0) -> list[LogLine]:
    """The lines that the service is answerable for: no empty ones, no warnings of libraries."""
    kept: list[LogLine] = []
    skip_next = False
    for line in service.logs(since):
        if skip_next and line.text.startswith("  "):
            skip_next = False
            continue
        skip_next = bool(PYTHON_WARNING.search(line.text)) and line.json is None
        if line.text.strip() and not skip_next:
            kept.append(line)
    return kept


def assert_structured(service: Service, since: int = 0) -> None:
    """Every line is one JSON object with a time, a level and a message, under any usual key."""
    lines = own_lines(service, since)
    assert lines, "the service logs nothing"
    for line in lines:
        assert line.json is not None, f"a log line is no JSON object: {line.text[:160]!r}"
        for what, keys in (("time", TIME_KEYS), ("level", LEVEL_KEYS), ("message", MESSAGE_KEYS)):
            assert _pick(line, keys) is not None, f"a log line has no {what}: {line.text[:160]!r}"


def find(service: Service, *needles: str, since: int = 0, at_least: str = "trace") -> list[LogLine]:
    """Lines that hold all needles; with `at_least="warning"`, only lines of that level and up."""
    least = LEVELS[at_least]
    return [
        line
        for line in service.logs(since)
        if all(needle in line.text for needle in needles)
        and (at_least == "trace" or level(line) >= least)
    ]


def find_request_id(service: Service, request_id: str, since: int = 0) -> list[LogLine]:
    """The log lines that carry this request id."""
    return find(service, request_id, since=since)


def assert_request_id(
    service: Service,
    send: Callable[[dict[str, str]], httpx.Response],
    *,
    header: str = "X-Request-ID",
    upstream: Recorder | None = None,
    within: float = 3.0,
) -> str:
    """A caller's request id comes back, is in the log, and goes on to the dependency.

    `send` gets the headers to send along. Returns the id.
    """
    request_id = f"check-{uuid4().hex}"
    mark = service.mark()
    known = len(upstream.calls) if upstream else 0
    response = send({header: request_id})
    echoed = [name for name in response.headers if response.headers[name] == request_id]
    assert echoed, f"the response does not carry the caller's {header}"

    def logged() -> None:
        lines = find_request_id(service, request_id, mark)
        assert lines, f"no log line carries the caller's {header}"

    eventually(logged, within)
    if upstream is not None:

        def passed_on() -> None:
            calls = upstream.calls[known:]
            assert calls, f"no call reached {upstream.name}"
            ids = [call for call in calls if request_id in dict(call.headers).values()]
            assert ids, f"the call to {upstream.name} does not carry the caller's {header}"

        eventually(passed_on, within)
    return request_id


def assert_makes_request_id(
    service: Service, send: Callable[[], httpx.Response], within: float = 3.0
) -> str:
    """Without an id from the caller the service makes one, answers it, and logs it."""
    mark = service.mark()
    response = send()
    made = [response.headers[name] for name in ID_HEADERS if name in response.headers]
    assert made, "the response to a call without a request id carries none"

    def logged() -> None:
        assert find_request_id(service, made[0], mark), "the request id it made is in no log line"

    eventually(logged, within)
    return str(made[0])


def assert_error_context(
    service: Service, *needles: str, since: int, within: float = 3.0, at_least: str = "warning"
) -> None:
    """Some line of that level names all of these: which operation, on which object, why."""

    def told() -> None:
        lines = [line for line in service.logs(since) if level(line) >= LEVELS[at_least]]
        assert lines, f"the failure left no log line of level {at_least} or above"
        best = max(lines, key=lambda line: sum(needle in line.text for needle in needles))
        missing = [needle for needle in needles if needle not in best.text]
        assert not missing, (
            f"the log line of the failure does not name {', '.join(missing)}: {best.text[:200]!r}"
        )

    eventually(told, within)


def assert_absent(service: Service, secrets: Mapping[str, str], since: int = 0) -> None:
    """None of these secrets (name → value) is in the log, plain, quoted for a URL or in base64."""
    for line in service.logs(since):
        for name, value in secrets.items():
            forms = {value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value)}
            forms.add(base64.b64encode(value.encode()).decode().rstrip("="))
            if any(form in line.text for form in forms):
                hidden = line.text
                for form in sorted(forms, key=len, reverse=True):
                    hidden = hidden.replace(form, "***")
                raise AssertionError(f"the log shows {name}: {hidden[:200]!r}")
