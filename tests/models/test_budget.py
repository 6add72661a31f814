"""Prices, estimates, and a limit that no run passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from harness.errors import UserError
from harness.models.base import ModelError
from harness.models.budget import (
    Budget,
    Price,
    estimate,
    parse_price,
    published,
    published_on,
)
from harness.records import Request, Usage

AskFor = Callable[..., Request]
SIMPLE = Price(input=1, output=10, cache_read=0.1, cache_write=2)


def test_cost_counts_the_cache() -> None:
    usage = Usage(1_000_000, 100_000, 2_000_000, 500_000)
    assert SIMPLE.cost(usage) == pytest.approx(1 + 1 + 0.2 + 1)


def test_long_prompt_has_its_own_prices_and_cached_tokens_make_it_long() -> None:
    price = published("claude-haiku-5-5")
    assert price is not None
    assert price.cost(Usage(100_000, 1000)) == pytest.approx(0.01 + 0.0005)
    assert price.cost(Usage(1, 1000, cache_read_tokens=100_000)) == pytest.approx(
        0.5e-6 + 0.0025 + 0.005
    )


def test_published_prices_are_dated_and_complete() -> None:
    assert published_on() >= "2026-10-24"
    for model in ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"):
        price = published(model)
        assert price is not None
        assert 0 < price.cache_read < price.input < price.cache_write < price.output
    assert published("claude-of-tomorrow") is None


def test_price_on_the_command_line() -> None:
    assert parse_price("3/15") == Price(3, 15, cache_read=3, cache_write=3.75)
    assert parse_price("0/0").cost(Usage(1000, 1000)) == 0
    for wrong in ("3", "3/", "a/b", "-1/3", "3/15/1", "nan/1", "inf/1", ""):
        with pytest.raises(UserError, match="--price"):
            parse_price(wrong)


def test_worst_case_is_never_below_the_cost(ask_for: AskFor) -> None:
    request = ask_for("漢字" * 500, max_tokens=2000, schema={"type": "object"})
    dense = 2 * 500 * 3  # a token for every byte
    for usage in (Usage(dense, 2000), Usage(0, 2000, 0, dense), Usage(0, 2000, dense)):
        assert SIMPLE.cost(usage) <= SIMPLE.worst(request)


def test_estimate_adds_up_and_knows_what_it_does_not_know(ask_for: AskFor) -> None:
    known, unknown = ask_for("a" * 3000, max_tokens=50_000), ask_for(model="local")
    found = estimate([known, known], published)
    price = published(known.model)
    assert found is not None and price is not None
    assert found.requests == 2
    assert found.worst == pytest.approx(2 * price.worst(known))
    assert 2 * 10_000 * 10 / 1e6 < found.likely < found.worst
    assert estimate([known, unknown], published) is None


def test_reservation_is_replaced_by_the_cost(ask_for: AskFor) -> None:
    async def scenario() -> None:
        request = ask_for()
        budget = Budget(10, lambda model: SIMPLE)
        reserved = await budget.reserve(request)
        assert reserved == SIMPLE.worst(request)
        budget.settle(request, reserved, Usage(1000, 100))
        assert budget.spent == pytest.approx(0.002)
        reserved = await budget.reserve(request)
        budget.settle(request, reserved, None)
        assert budget.spent == pytest.approx(0.002)

    asyncio.run(scenario())


def test_request_waits_while_others_may_turn_out_cheaper(ask_for: AskFor) -> None:
    async def scenario() -> None:
        request = ask_for()
        worst = SIMPLE.worst(request)
        budget = Budget(worst * 1.5, lambda model: SIMPLE)
        first = await budget.reserve(request)
        second = asyncio.create_task(budget.reserve(request))
        await asyncio.sleep(0.01)
        assert not second.done()
        budget.settle(request, first, Usage(1, 1))
        assert await second == worst

    asyncio.run(scenario())


def test_request_that_cannot_fit_any_more_is_refused(ask_for: AskFor) -> None:
    async def scenario() -> None:
        request = ask_for()
        worst = SIMPLE.worst(request)
        budget = Budget(worst * 1.5, lambda model: SIMPLE)
        first = await budget.reserve(request)
        second = asyncio.create_task(budget.reserve(request))
        await asyncio.sleep(0)
        budget.settle(request, first, Usage(output_tokens=request.max_tokens))
        with pytest.raises(ModelError) as caught:
            await second
        assert caught.value.kind == "budget"
        with pytest.raises(ModelError):
            await Budget(worst * 0.9, lambda model: SIMPLE).reserve(request)
        with pytest.raises(ModelError, match="no price"):
            await Budget(1, lambda model: None).reserve(request)
        assert await Budget(None, lambda model: None).reserve(request) == 0

    asyncio.run(scenario())


def test_many_at_once_never_pass_the_limit(ask_for: AskFor) -> None:
    request = ask_for()
    worst = SIMPLE.worst(request)
    budget = Budget(worst * 3.2, lambda model: SIMPLE)
    used = Usage(output_tokens=request.max_tokens // 3)
    sent = 0

    async def one() -> None:
        nonlocal sent
        try:
            reserved = await budget.reserve(request)
        except ModelError:
            return
        sent += 1
        await asyncio.sleep(0.001)
        budget.settle(request, reserved, used)
        assert budget.limit is not None and budget.spent <= budget.limit

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(30)))

    asyncio.run(all_of_them())
    assert 5 <= sent < 30
