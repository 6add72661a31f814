"""Repeated requests: one effect, one answer, and no confusion between two of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import httpx

from harness.checks.timing import at_once


def body(response: httpx.Response) -> Any:
    """The JSON body, or the text where it is none."""
    try:
        return response.json()
    except ValueError:
        return response.text


def assert_replay(
    send: Callable[[], httpx.Response],
    effects: Callable[[], int],
    *,
    statuses: Collection[int] = (200, 201, 202),
    same: Callable[[httpx.Response], Any] = body,
) -> tuple[httpx.Response, httpx.Response]:
    """The same request twice: both succeed with the same answer, and the effect is there once.

    `same` picks what has to be equal (by default the whole body); `effects` counts effects.
    """
    before = effects()
    first, second = send(), send()
    for name, response in (("first", first), ("repeated", second)):
        assert response.status_code in statuses, (
            f"the {name} request gave {response.status_code}: {response.text[:160]!r}"
        )
    assert same(first) == same(second), (
        f"the repeated request gave another answer: {same(second)!r}, first {same(first)!r}"
    )
    made = effects() - before
    assert made == 1, f"a request sent twice with the same key had {made} effects"
    return first, second


def assert_one_effect(
    send: Callable[[int], httpx.Response],
    effects: Callable[[], int],
    *,
    n: int = 20,
    statuses: Collection[int] = (200, 201, 202),
    meanwhile: Collection[int] = (409, 425),
    same: Callable[[httpx.Response], Any] = body,
) -> list[httpx.Response]:
    """The same request n times at once: one effect, one answer for all that succeed.

    A request that meets the first one in progress may be answered with one of `meanwhile`.
    """
    before = effects()
    responses = at_once(n, send)
    for response in responses:
        assert response.status_code in {*statuses, *meanwhile}, (
            f"one of {n} same requests at once gave {response.status_code}: {response.text[:160]!r}"
        )
    done = [response for response in responses if response.status_code in statuses]
    assert done, f"none of {n} same requests at once succeeded"
    answers = [same(response) for response in done]
    different = [answer for answer in answers if answer != answers[0]]
    assert not different, (
        f"same requests at once got different answers: {answers[0]!r}, {different[0]!r}"
    )
    made = effects() - before
    assert made == 1, f"{n} same requests at once had {made} effects"
    return responses


def assert_conflict(
    send_other: Callable[[], httpx.Response],
    effects: Callable[[], int],
    *,
    statuses: Collection[int] = (409, 422),
) -> httpx.Response:
    """A known key with another body is refused and has no effect."""
    before = effects()
    response = send_other()
    assert response.status_code in statuses, (
        f"the same key with another body gave {response.status_code}, "
        f"wanted {' or '.join(str(status) for status in statuses)}"
    )
    made = effects() - before
    assert made == 0, f"the same key with another body had {made} effects"
    return response
