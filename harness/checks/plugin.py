"""The pytest plugin of a grader's cell: fixtures for tests, and verdicts as JSON lines."""

from __future__ import annotations

import json
import linecache
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.checks.errors import GraderError, ServiceDoesNotStart
from harness.checks.fakes import Fake
from harness.checks.service import Launcher, Service
from harness.checks.timing import DelayMeter

SERVICE_PORTS, FAKE_PORTS = 8000, 9000
"""Below the range that the kernel hands out, so no connection of a service sits on one."""

LOG_HEAD, LOG_TAIL = 24 << 10, 40 << 10
EVIDENCE_CHARACTERS = 600

NOT_THE_SERVICE = (GraderError, ImportError, NameError, SyntaxError, MemoryError)
"""Errors that say something about the check or the machine, not about the service."""


@dataclass(frozen=True)
class Answer:
    """The files under test."""

    root: Path
    files: dict[str, str] = field(repr=False)


class CheckPlugin:
    """Reports through `send` and hands the tests their services and fakes."""

    def __init__(self, config: Mapping[str, Any], send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._criteria = set(config["criteria"]) if config.get("criteria") is not None else None
        self._launcher = Launcher(
            inner=tuple(config["inner"]),
            command=tuple(config["command"]),
            path=config["path"],
            scratch=Path(config["scratch"]),
        )
        self._answer_root = Path(config["answer"])
        self._meter = DelayMeter()
        self._services: list[Service] = []
        self._fakes: list[Fake] = []
        self._outcome: dict[str, str] = {}
        self._numbers = {"service": 0, "fake": 0}

    # --- fixtures -----------------------------------------------------------------------------

    @pytest.fixture(scope="class")
    def environment(self) -> dict[str, str]:
        """Variables of the service; a case's test file overrides it."""
        return {}

    @pytest.fixture(scope="class")
    def service(self, environment: dict[str, str]) -> Iterator[Service]:
        """A started service that has answered; PORT and DATA_DIR are given."""
        service = self._new_service(environment)
        try:
            service.start()
            self._send({"starts": True})
            yield service
        except ServiceDoesNotStart as error:
            self._send({"starts": False, "message": str(error)})
            raise
        finally:
            service.close()

    @pytest.fixture
    def launch(self) -> Iterator[Callable[..., Service]]:
        """``launch(environment={…}, wait=True)``: another instance, with fresh data."""
        launched: list[Service] = []

        def launch(environment: Mapping[str, str] | None = None, wait: bool = True) -> Service:
            service = self._new_service(environment or {})
            launched.append(service)
            service.start(wait=wait)
            return service

        yield launch
        for service in launched:
            service.close()

    @pytest.fixture(scope="class")
    def fakes(self) -> Iterator[Callable[[str], Fake]]:
        """``fakes("carrier")``: that dependency; the same one for the same name."""
        made: dict[str, Fake] = {}

        def fake(name: str) -> Fake:
            if name not in made:
                self._numbers["fake"] += 1
                made[name] = Fake(name, FAKE_PORTS + self._numbers["fake"])
                self._fakes.append(made[name])
            return made[name]

        yield fake
        for one in made.values():
            one.close()
            self._fakes.remove(one)

    @pytest.fixture(scope="session")
    def answer(self) -> Answer:
        """The files under test, as text."""
        files = {}
        for path in sorted(self._answer_root.rglob("*")):
            if path.is_file():
                name = path.relative_to(self._answer_root).as_posix()
                files[name] = path.read_text(encoding="utf-8", errors="replace")
        return Answer(self._answer_root, files)

    @pytest.fixture(autouse=True)
    def _fresh(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """What one test broke does not fail the next: dead services run, faults are healed."""
        if "service" in request.fixturenames:
            request.getfixturevalue("service").ensure()
        yield
        for fake in self._fakes:
            fake.fault(None)

    def _new_service(self, environment: Mapping[str, str]) -> Service:
        self._numbers["service"] += 1
        number = self._numbers["service"]
        service = Service(self._launcher, environment, SERVICE_PORTS + number, str(number))
        self._services.append(service)
        return service

    # --- hooks ----------------------------------------------------------------------------------

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", "criterion(id): the rubric criterion that a test checks")
        self._meter.start()

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = []
        for item in items:
            criteria = _criteria(item)
            if not criteria:
                self._send({"error": f"{item.name} has no @pytest.mark.criterion"})
            if self._criteria is None or self._criteria & set(criteria):
                kept.append(item)
        items[:] = kept

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            text = str(report.longrepr).strip().splitlines()
            self._send({"error": f"cannot collect the checks: {text[-1] if text else 'unknown'}"})

    def pytest_internalerror(self, excrepr: object) -> None:
        self._send({"error": f"pytest: {str(excrepr).strip().splitlines()[-1]}"})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        criteria = _criteria(item)
        self._outcome = {}
        self._meter.take()
        began = time.monotonic()
        self._send({"begin": item.name, "criteria": criteria})
        result = yield
        outcome = self._outcome or {"outcome": "not_graded", "message": "the check did not run"}
        measured = {
            "delay": round(self._meter.take(), 3),
            "seconds": round(time.monotonic() - began, 3),
        }
        self._send({"test": item.name, "criteria": criteria, **measured, **outcome})
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if call.excinfo is None:
            if call.when == "call":
                self._outcome = {"outcome": "pass", "message": ""}
        elif not self._outcome or self._outcome["outcome"] == "pass":
            self._outcome = _judge(call.excinfo.value, str(call.when))
        return report

    def pytest_sessionfinish(self) -> None:
        texts = []
        for service in self._services:
            text = service.log_text()
            if text:
                texts.append(f"--- service {service.name}\n{text}")
        self._send({"log": _middle_cut("\n".join(texts))})


def _criteria(item: pytest.Item) -> list[str]:
    return sorted({str(mark.args[0]) for mark in item.iter_markers("criterion")})


def _judge(error: BaseException, when: str) -> dict[str, str]:
    """What an exception in a test says: the service's failure, or that nothing was found out."""
    if isinstance(error, pytest.skip.Exception):
        return {"outcome": "not_graded", "message": f"skipped: {error}"}
    message = describe(error)
    if when == "teardown" or isinstance(error, NOT_THE_SERVICE):
        return {"outcome": "not_graded", "message": f"the check broke: {message}"}
    if isinstance(error, pytest.FixtureLookupError):
        return {"outcome": "not_graded", "message": f"no such fixture: {error.argname}"}
    return {"outcome": "fail", "message": message}


def describe(error: BaseException) -> str:
    """One line that tells a person what did not hold."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    if isinstance(error, AssertionError | pytest.fail.Exception | ServiceDoesNotStart):
        if first and not first.startswith("assert "):
            return first[:EVIDENCE_CHARACTERS]
        return f"{first or 'assertion failed'} ({_place(error)})"[:EVIDENCE_CHARACTERS]
    kind = type(error).__name__
    if isinstance(error, httpx.TransportError):
        try:
            request = f"{error.request.method} {error.request.url.raw_path.decode()}"
        except RuntimeError:
            request = "a request"
        return f"{request} got no answer: {kind} {first} ({_place(error)})"[:EVIDENCE_CHARACTERS]
    return f"{kind}: {first} ({_place(error)})"[:EVIDENCE_CHARACTERS]


def _place(error: BaseException) -> str:
    """File, line and source of the innermost frame in the case's own test file."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if Path(name).name.startswith("test_") or not place:
            source = linecache.getline(name, trace.tb_lineno).strip()
            place = f"{Path(name).name}:{trace.tb_lineno}: {source}"
        trace = trace.tb_next
    return place


def _middle_cut(text: str) -> str:
    if len(text) <= LOG_HEAD + LOG_TAIL:
        return text
    cut = len(text) - LOG_HEAD - LOG_TAIL
    return f"{text[:LOG_HEAD]}\n… {cut} characters left out …\n{text[-LOG_TAIL:]}"


def sender(descriptor: int) -> Callable[[dict[str, Any]], None]:
    """A function that writes one JSON line to the pipe by which verdicts leave the cell."""

    def send(record: dict[str, Any]) -> None:
        data = (json.dumps(record) + "\n").encode()
        while data:
            data = data[os.write(descriptor, data) :]

    return send
