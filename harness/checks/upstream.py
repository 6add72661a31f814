"""How a service treats its dependencies, from the arrival times of its calls."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import mean, median

import httpx

from harness.checks.fakes import Call, Fake
from harness.checks.timing import eventually


def gaps(calls: Sequence[Call]) -> list[float]:
    """Seconds between the arrivals of successive calls."""
    times = sorted(call.at for call in calls)
    return [later - earlier for earlier, later in pairwise(times)]


backoff = gaps


def by_key(calls: Sequence[Call], key: Callable[[Call], object]) -> dict[object, list[Call]]:
    """Calls grouped by what they are about, so that each group is one piece of work's attempts."""
    found: dict[object, list[Call]] = {}
    for call in calls:
        found.setdefault(key(call), []).append(call)
    return found


def most_within(calls: Sequence[Call], seconds: float) -> int:
    """The largest number of calls in any window of that length."""
    times = sorted(call.at for call in calls)
    most = start = 0
    for end, time in enumerate(times):
        while time - times[start] > seconds:
            start += 1
        most = max(most, end - start + 1)
    return most


def assert_backoff(
    attempts: Sequence[Call], *, at_most: int, what: str = "the call", first_at_least: float = 0.05
) -> None:
    """One piece of work's attempts: repeated, with growing waits, no more often than that.

    Growth is that of the later half of the waits over the earlier half: full jitter may make a
    single wait shorter than the one before it.
    """
    n = len(attempts)
    assert n >= 2, f"{what} was tried {n} time{'s' if n != 1 else ''}: it is not retried"
    assert n <= at_most, f"{what} was tried {n} times, wanted at most {at_most}"
    waits = gaps(attempts)
    shown = ", ".join(f"{wait:.2f}" for wait in waits)
    assert waits[0] >= first_at_least, f"{what} was retried without a wait (waits: {shown} s)"
    if len(waits) >= 3:
        half = len(waits) // 2
        assert mean(waits[-half:]) > mean(waits[:half]), (
            f"the waits between tries of {what} do not grow: {shown} s"
        )


def assert_jitter(series: Sequence[Sequence[Call]], *, what: str = "the calls") -> None:
    """The first waits of several pieces of work differ by more than scheduling explains."""
    first = [gaps(attempts)[0] for attempts in series if len(attempts) >= 2]
    assert len(first) >= 4, f"only {len(first)} of {len(series)} of {what} were retried"
    spread = max(first) - min(first)
    shown = ", ".join(f"{wait:.2f}" for wait in first[:6])
    assert spread > max(0.02, 0.05 * median(first)), (
        f"{what} are all retried after the same wait, so they come back at once: {shown} s"
    )


def assert_rate(
    calls: Sequence[Call], *, at_most: int, per_s: float, what: str = "the dead dependency"
) -> None:
    """No window of `per_s` seconds holds more calls than that."""
    most = most_within(calls, per_s)
    assert most <= at_most, f"{what} got {most} calls within {per_s:g} s, wanted at most {at_most}"


TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def assert_trace(
    send: Callable[[dict[str, str]], httpx.Response], upstream: Fake, within: float = 3.0
) -> None:
    """A caller's W3C ``traceparent`` goes on to the dependency: same trace id, valid form.

    https://www.w3.org/TR/trace-context/#traceparent-header
    """
    trace_id = secrets.token_hex(16)
    known = len(upstream.calls)
    send({"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"})

    def passed_on() -> None:
        calls = upstream.calls[known:]
        assert calls, f"no call reached {upstream.name}"
        sent = [call.headers.get("traceparent", "") for call in calls]
        assert any(sent), f"the call to {upstream.name} has no traceparent header"
        matches = [TRACEPARENT.fullmatch(value.strip()) for value in sent if value]
        assert all(matches), f"the call to {upstream.name} has a malformed traceparent: {sent!r}"
        assert any(match and match[1] == trace_id for match in matches), (
            f"the call to {upstream.name} starts another trace than the caller's"
        )

    eventually(passed_on, within)
