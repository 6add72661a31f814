"""How a service ends: on SIGTERM with work in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx

from harness.checks.service import Service, Stopped
from harness.checks.timing import eventually

CLEAN = (0, 143)
"""Exit codes of a stop that was asked for; 143 is death by SIGTERM after the work is done."""


def assert_graceful(
    service: Service,
    in_flight: Callable[[], httpx.Response],
    *,
    arrived: Callable[[], object] | None = None,
    n: int = 1,
    within: float = 10.0,
) -> tuple[list[httpx.Response], Stopped]:
    """SIGTERM while n requests are under way: all are answered below 500, and it ends in time.

    `arrived` tells that they are under way (such as calls having reached a fake); without it,
    0.3 s are given. The service is left stopped.
    """
    results: list[httpx.Response | Exception] = []

    def send() -> None:
        try:
            results.append(in_flight())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=send, daemon=True) for _ in range(n)]
    for thread in threads:
        thread.start()
    if arrived is None:
        time.sleep(0.3)
    else:
        eventually(arrived, 5.0)
    early = [result for result in results if isinstance(result, Exception)]
    assert not early, f"a request failed before SIGTERM: {early[0]!r}"
    stopped = service.stop(within)
    for thread in threads:
        thread.join(within)
    responses = [result for result in results if isinstance(result, httpx.Response)]
    errors = [result for result in results if isinstance(result, Exception)]
    assert not errors, (
        f"{len(errors)} of {n} requests under way at SIGTERM got no answer: "
        f"{type(errors[0]).__name__} {errors[0]}"
    )
    assert len(responses) == n, f"{n - len(responses)} of {n} requests under way got no answer"
    for response in responses:
        assert response.status_code < 500, (
            f"a request under way at SIGTERM was answered {response.status_code}"
        )
    assert_clean(stopped, within)
    return responses, stopped


def assert_clean(stopped: Stopped, within: float = 10.0) -> None:
    """It ended by itself, in time, and with no error."""
    assert stopped.exit_code is not None, f"it still runs {within:g} s after SIGTERM"
    assert stopped.exit_code in CLEAN, f"after SIGTERM it ended with code {stopped.exit_code}"
