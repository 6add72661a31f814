"""Doing things at once, and waiting for things."""

from __future__ import annotations

import threading
import time

import pytest

from harness.checks.timing import DelayMeter, at_once, eventually, steady


def test_at_once_starts_together_and_keeps_the_order() -> None:
    barrier = threading.Barrier(20)

    def call(number: int) -> int:
        barrier.wait(5)  # passes only if all 20 are under way at once
        return number * number

    assert at_once(20, call) == [n * n for n in range(20)]


def test_at_once_raises_what_a_call_raised() -> None:
    def call(number: int) -> None:
        assert number != 3, "number three"

    with pytest.raises(AssertionError, match="number three"):
        at_once(5, call)


def test_at_once_ends_with_calls_that_hang() -> None:
    with pytest.raises(AssertionError, match="2 of 3 calls at once gave nothing"):
        at_once(3, lambda n: time.sleep(n * 5), limit_s=0.3)


def test_eventually_gives_the_first_true_result() -> None:
    results = iter([0, 0, 7])
    assert eventually(lambda: next(results), within=2, every=0.001) == 7


def test_eventually_counts_none_as_done_and_retries_assertions() -> None:
    tries: list[int] = []

    def act() -> None:
        tries.append(1)
        assert len(tries) >= 3, "not yet"

    eventually(act, within=2, every=0.001)
    assert len(tries) == 3


def test_eventually_tells_the_last_problem() -> None:
    def act() -> None:
        assert False, "the label is pending"  # noqa: B011

    with pytest.raises(AssertionError, match=r"the label is pending \(waited 0.05 s for it\)"):
        eventually(act, within=0.05, every=0.01)
    with pytest.raises(AssertionError, match=r"gave \[\]"):
        eventually(lambda: [], within=0.05, every=0.01)


def test_eventually_lets_other_errors_through() -> None:
    with pytest.raises(KeyError):
        eventually(lambda: {}["x"], within=5)


def test_steady_fails_as_soon_as_it_does_not_hold() -> None:
    steady(lambda: True, for_s=0.05, every=0.01)
    results = iter([True, True, False])
    with pytest.raises(AssertionError, match="gave False after"):
        steady(lambda: next(results), for_s=5, every=0.001)


def test_the_delay_meter_tells_the_longest_delay_once() -> None:
    meter = DelayMeter()
    meter.start()
    time.sleep(0.1)
    assert meter.take() < 5
    meter._worst = 0.7
    assert meter.take() >= 0.7
    assert meter.take() < 0.7
