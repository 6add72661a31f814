"""Postillon: the one call, and the gate that decides when it may be made."""

import asyncio
import json
import random
import time
from dataclasses import dataclass

import aiohttp
from store import Shipment
from telemetry import CARRIER_CALLS, CARRIER_DOWN, CARRIER_SECONDS

CALL_S = 2.2
"""Limit of a whole call, a dripping body included. A good answer takes them 1.5 s at most."""
MOST_AT_ONCE = 15
FAILURES_TO_DOWN = 5
"""5 failures, and 15 calls that were under way by then: the 20 that an outage may cost."""
PROBE_S = 1.5
"""Wait between probes while they are down: 7 calls in 10 s, and noticed in under 5 s when back."""
DEFAULT_RETRY_AFTER_S = 5.0


@dataclass(frozen=True)
class Label:
    tracking_number: str
    url: str


@dataclass(frozen=True)
class Rejected:
    reason: str


@dataclass(frozen=True)
class Unknown:
    """It may or may not have been made; the same reference may be sent again."""

    cause: str


class Gate:
    """Rate-limit and outage memory, shared by every call of the process."""

    def __init__(self) -> None:
        self._failures = 0
        self._not_before = 0.0
        self._under_way = 0

    @property
    def down(self) -> bool:
        return self._failures >= FAILURES_TO_DOWN

    def admits(self) -> int:
        """How many calls may start now."""
        if time.monotonic() < self._not_before:
            return 0
        return (1 if self.down else MOST_AT_ONCE) - self._under_way

    def began(self) -> None:
        self._under_way += 1

    def ended(self, *, healthy: bool, retry_after: float | None = None) -> None:
        self._under_way -= 1
        self._failures = 0 if healthy else self._failures + 1
        wait = retry_after or 0.0
        if self.down:
            wait = max(wait, PROBE_S + random.uniform(0, 0.3))
        if wait:
            self._not_before = max(self._not_before, time.monotonic() + wait)
        CARRIER_DOWN.set(self.down)


class Carrier:
    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = f"{url}/v1/labels"
        self._token = token
        self.gate = Gate()

    async def buy(self, shipment: Shipment) -> Label | Rejected | Unknown:
        """One call, for which the gate has room. Never raises for what the carrier does."""
        self.gate.began()
        healthy, retry_after, outcome = False, None, "cancelled"
        try:
            with CARRIER_SECONDS.time():
                status, headers, body = await self._post(shipment)
            if status in (200, 201):
                answer = json.loads(body)
                label = Label(_text(answer["tracking_number"]), _text(answer["label_url"]))
                healthy, outcome = True, "label"
                return label
            if status == 422:
                healthy, outcome = True, "rejected"
                return Rejected(_reason(body))
            if status == 429:
                healthy, outcome = True, "limited"
                retry_after = _seconds(headers.get("Retry-After"))
                return Unknown(f"status 429, to wait {retry_after:g} s")
            outcome = f"{status // 100}xx"
            return Unknown(f"status {status}")
        except TimeoutError:
            outcome = "timeout"
            return Unknown(f"no answer within {CALL_S:g} s")
        except aiohttp.ClientError as error:
            outcome = "connection"
            return Unknown(f"{type(error).__name__}: {error}")
        except (ValueError, KeyError, TypeError) as error:
            outcome = "unreadable"
            return Unknown(f"unreadable answer: {type(error).__name__}")
        finally:
            self.gate.ended(healthy=healthy, retry_after=retry_after)
            CARRIER_CALLS.labels(outcome).inc()

    async def _post(self, shipment: Shipment) -> tuple[int, "aiohttp.typedefs.LooseHeaders", bytes]:
        body = {"reference": shipment.id, **json.loads(shipment.request)}
        headers = {"Authorization": f"Bearer {self._token}", **shipment.origin.headers()}
        async with (
            asyncio.timeout(CALL_S),
            self._session.post(
                self._url, json=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            return response.status, response.headers, await response.read()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("not a text")
    return value


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])[:200]
    except (ValueError, KeyError, TypeError):
        return "no reason given"


def _seconds(value: str | None) -> float:
    try:
        return min(max(float(value or ""), 0.0), 3600.0)
    except ValueError:
        return DEFAULT_RETRY_AFTER_S
