"""Gets the responses that a run is missing: a bounded number at once, each stored as it comes."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from harness.models.base import Kind, Model, ModelError
from harness.records import Request, Response
from harness.store import Run

HOPELESS: frozenset[Kind] = frozenset({"auth", "budget"})
"""Kinds of error that every further request would meet too: no more are sent."""


@dataclass(frozen=True)
class Event:
    """Something happened to a request; `stored` comes after its response is on disk."""

    kind: Literal["sent", "stored", "failed", "stopping"]
    done: int
    """Requests of this collection that are stored or failed by now."""
    total: int
    request: Request | None = None
    digest: str = ""
    response: Response | None = None
    error: ModelError | None = None
    in_flight: int = 0


@dataclass(frozen=True)
class Collected:
    """What a collection did, by request digest."""

    stored: list[str] = field(default_factory=list)
    failed: dict[str, ModelError] = field(default_factory=dict)


async def collect(
    requests: Sequence[Request],
    model: Model,
    run: Run,
    *,
    concurrency: int = 8,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Collected:
    """Asks for the requests that have no response in `run` yet, which must be locked.

    A failed request stays missing and is in `failed`; the others go on, unless its error would meet
    them all. The first interrupt (Ctrl-C, SIGTERM) sends nothing more and lets what is in flight
    arrive; the second drops that too. Raises KeyboardInterrupt after either, and UserError where a
    response cannot be stored.
    """
    known = run.responses()
    todo = {request.digest: request for request in requests}
    waiting = iter([(d, request) for d, request in todo.items() if d not in known])
    total = sum(1 for digest in todo if digest not in known)
    result = Collected()
    stop: ModelError | None = None
    in_flight = 0

    def tell(kind: Literal["sent", "stored", "failed", "stopping"], digest: str = "") -> None:
        done = len(result.stored) + len(result.failed)
        error, response = result.failed.get(digest), latest.get(digest)
        on_event(Event(kind, done, total, todo.get(digest), digest, response, error, in_flight))

    latest: dict[str, Response] = {}

    async def work() -> None:
        nonlocal stop, in_flight
        for digest, request in waiting:
            if stop is not None:
                result.failed[digest] = stop
                continue
            in_flight += 1
            tell("sent", digest)
            try:
                response = await model.respond(request)
            except ModelError as error:
                in_flight -= 1
                result.failed[digest] = error
                if error.kind in HOPELESS:
                    stop = error
                tell("failed", digest)
                continue
            in_flight -= 1
            run.add_response(digest, response)
            result.stored.append(digest)
            latest[digest] = response
            tell("stored", digest)
            del latest[digest]

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, total))]

    def interrupt() -> None:
        nonlocal stop
        if stop is not None and stop.kind == "interrupted":
            for worker in workers:
                worker.cancel()
            return
        stop = ModelError("interrupted", "not sent")
        tell("stopping")

    with _interrupts(interrupt):
        try:
            await asyncio.gather(*workers)
        except BaseException as error:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            if isinstance(error, asyncio.CancelledError) and stop is not None:
                raise KeyboardInterrupt from None
            raise
    if stop is not None and stop.kind == "interrupted":
        raise KeyboardInterrupt
    return result


@contextmanager
def _interrupts(handler: Callable[[], None]) -> Iterator[None]:
    """Calls `handler` for SIGINT and SIGTERM, where this is the thread that signals reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
