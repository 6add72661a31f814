"""Doing things at once, waiting for things, and how late this grader itself is woken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

from harness.checks.errors import GraderError

T = TypeVar("T")


def at_once(n: int, fn: Callable[[int], T], *, limit_s: float = 30.0) -> list[T]:
    """Calls ``fn(0) … fn(n - 1)`` in n threads that start together; results in that order.

    Raises the first exception that a call raised, after all have ended.
    """
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    barrier = threading.Barrier(n)

    def call(index: int) -> None:
        try:
            barrier.wait(limit_s)
            results[index] = fn(index)
        except BaseException as error:
            errors[index] = error

    threads = [threading.Thread(target=call, args=(index,), daemon=True) for index in range(n)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        raise GraderError(f"cannot start {n} threads: {error}") from None
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[min(errors)]
    assert len(results) == n, f"{n - len(results)} of {n} calls at once gave nothing in {limit_s}s"
    return [results[index] for index in range(n)]


def eventually(fn: Callable[[], T], within: float = 5.0, every: float = 0.05) -> T:
    """The result of fn once it raises no AssertionError and gives something true, or None.

    A connection that fails counts as not yet. Raises the last AssertionError after `within` s.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            result = fn()
            if result is None or result:
                return result
            problem: Exception = AssertionError(f"gave {result!r}")
        except (AssertionError, httpx.TransportError) as error:
            problem = error
        if time.monotonic() >= deadline:
            text = str(problem).partition("\n")[0] or type(problem).__name__
            raise AssertionError(f"{text} (waited {within:g} s for it)") from None
        time.sleep(every)


def steady(fn: Callable[[], object], for_s: float, every: float = 0.05) -> None:
    """Asserts that fn raises no AssertionError and gives nothing false, for all of `for_s` s."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < for_s:
        result = fn()
        assert result is None or result, f"gave {result!r} after {passed:.1f} s"
        time.sleep(every)


class DelayMeter(threading.Thread):
    """Measures how much later than asked this process is woken: the grader's own delay."""

    EVERY_S = 0.02

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._worst = 0.0

    def run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(self.EVERY_S)
            now = time.monotonic()
            self._worst = max(self._worst, now - before - self.EVERY_S)
            before = now

    def take(self) -> float:
        """The longest delay in seconds since the last call."""
        worst, self._worst = self._worst, 0.0
        return worst
