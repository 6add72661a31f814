"""What requests cost: prices, an estimate before a run, and a limit that holds during it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from harness.errors import UserError
from harness.models.base import ModelError, estimate_tokens
from harness.records import Request, Usage, canonical_json

MILLION = 1_000_000
TYPICAL_OUTPUT = 10_000
"""Output tokens of an answer of 25 KB with some thinking before it: for the likely cost only."""
OVERHEAD_TOKENS = 1_000
"""What the API adds to a prompt (message framing, the system text of structured output)."""


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens of one model."""

    input: float
    output: float
    cache_read: float
    cache_write: float
    long: Price | None = None
    """All prices of a request whose prompt has more than `long_over` tokens."""
    long_over: int = 0

    def cost(self, usage: Usage) -> float:
        """Dollars for a response; the prompt's length decides between price tiers."""
        prompt = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        if self.long is not None and prompt > self.long_over:
            return self.long.cost(usage)
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_read_tokens * self.cache_read
            + usage.cache_write_tokens * self.cache_write
        ) / MILLION

    def worst(self, request: Request) -> float:
        """The most that a request can cost.

        No token is shorter than a byte of UTF-8, the whole prompt may be written to the cache, and
        the answer may take all of its limit.
        """
        prompt = len(_asked(request).encode("utf-8", "replace")) + OVERHEAD_TOKENS
        if self.cache_write > self.input:
            return self.cost(Usage(cache_write_tokens=prompt, output_tokens=request.max_tokens))
        return self.cost(Usage(input_tokens=prompt, output_tokens=request.max_tokens))

    def likely(self, request: Request) -> float:
        """What a request will probably cost."""
        output = min(request.max_tokens, TYPICAL_OUTPUT)
        return self.cost(Usage(estimate_tokens(_asked(request)), output))


Prices = Callable[[str], Price | None]
"""A model's price by its name; None if it is not known."""


def _asked(request: Request) -> str:
    parts = [request.system, canonical_json(list(request.messages))]
    if request.schema is not None:
        parts.append(canonical_json(request.schema))
    return "".join([*parts, *(canonical_json(tool) for tool in request.tools)])


@cache
def _published() -> dict[str, Any]:
    text = (files("harness.models") / "prices.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def published(model: str) -> Price | None:
    """The published price of a model; None if the file does not have it."""
    entry = _published()["models"].get(model)
    if entry is None:
        return None
    tiers = dict(entry)
    long = tiers.pop("long", None)
    if long is None:
        return Price(**tiers)
    return Price(
        **tiers,
        long=Price(**{key: value for key, value in long.items() if key != "over"}),
        long_over=long["over"],
    )


def published_on() -> str:
    """The day on which the prices were looked up."""
    return str(_published()["date"])


def parse_price(text: str) -> Price:
    """`IN/OUT` in dollars per million tokens, such as `3/15`. Raises UserError on anything else.

    Cache prices follow from it: reading may cost as much as input, writing a quarter more.
    """
    parts = text.split("/")
    try:
        prompt, output = (float(part) for part in parts)
    except ValueError:
        raise UserError(f"--price {text!r}: expected IN/OUT, for example 3/15") from None
    if not (0 <= prompt < MILLION and 0 <= output < MILLION):
        raise UserError(f"--price {text!r}: not a price in dollars per million tokens")
    return Price(prompt, output, cache_read=prompt, cache_write=prompt * 1.25)


@dataclass(frozen=True)
class Estimate:
    """What requests will cost together, in dollars."""

    requests: int
    likely: float
    worst: float


def estimate(requests: Iterable[Request], prices: Prices) -> Estimate | None:
    """The cost of requests; None if the price of one of their models is not known."""
    number, likely, worst = 0, 0.0, 0.0
    for request in requests:
        price = prices(request.model)
        if price is None:
            return None
        number += 1
        likely += price.likely(request)
        worst += price.worst(request)
    return Estimate(number, likely, worst)


class Budget:
    """Money spent and reserved. A request is sent only while its worst case still fits.

    `limit` is in dollars; None only counts. For use in one event loop.
    """

    def __init__(self, limit: float | None, prices: Prices) -> None:
        self.limit = limit
        self.spent = 0.0
        self.price_of = prices
        self._reserved = 0.0
        self._freed: asyncio.Event | None = None

    async def reserve(self, request: Request) -> float:
        """Sets the worst case aside and returns it, in dollars.

        Waits while what is in flight may still turn out cheaper. Raises ModelError (`budget`) when
        nothing is in flight and it does not fit, or when its price is not known.
        """
        price = self.price_of(request.model)
        if price is None:
            if self.limit is None:
                return 0.0
            raise ModelError("budget", f"no price is known for {request.model}")
        worst = price.worst(request)
        while self.limit is not None and self.spent + self._reserved + worst > self.limit:
            if self._reserved <= 0 or self.spent + worst > self.limit:
                raise ModelError(
                    "budget",
                    f"up to ${worst:.2f} more could pass the limit of ${self.limit:.2f}"
                    f" (${self.spent:.2f} are spent)",
                )
            self._freed = self._freed or asyncio.Event()
            await self._freed.wait()
        self._reserved += worst
        return worst

    def settle(self, request: Request, reserved: float, usage: Usage | None) -> None:
        """Replaces a reservation by what a request cost: None if nothing was charged."""
        price = self.price_of(request.model)
        self._reserved = max(0.0, self._reserved - reserved)
        if usage is not None and price is not None:
            self.spent += price.cost(usage)
        if self._freed is not None:
            self._freed.set()
            self._freed = None
