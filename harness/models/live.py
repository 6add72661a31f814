"""The Messages API, live: Claude, a gateway, or any server that speaks `/v1/messages`.

The SDK's own retries are turned off: they do not cover a stream that breaks in the middle, and they
wait as long as a server tells them to. One loop here covers both, so that every attempt is counted
against one limit and reserved in the budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.models.base import Kind, ModelError
from harness.models.budget import Budget
from harness.records import Request, Response, Usage

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

MAX_MESSAGE = 300
LAST_BYTES = 0.5
"""Seconds that a server has to end a stream whose message has stopped."""
NOT_AGAIN: frozenset[Kind] = frozenset({"bad_request", "auth", "budget", "interrupted"})
"""Kinds of error that another attempt would only repeat."""


@dataclass(frozen=True)
class Patience:
    """How often and how long to try, in seconds. The defaults suit the public API."""

    attempts: int = 8
    base: float = 1.0
    """Longest wait before the second attempt; it doubles from there."""
    cap: float = 60.0
    """Longest wait, also where a server asks for more in `retry-after`."""
    connect: float = 10.0
    silence: float = 120.0
    """Without a single byte; the API sends pings while a model thinks."""
    idle: float = 600.0
    """Without an event, though bytes trickle: pings do not count, and thinking may show nothing."""
    whole: float = 3600.0
    """For one attempt from sending to the last byte."""

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after the n-th failed attempt: half to all of a doubling bound."""
        bound = min(self.cap, self.base * 2.0 ** (attempt - 1))
        wait = bound * random.uniform(0.5, 1.0)
        return wait if asked is None else max(wait, min(self.cap, asked))


@dataclass
class _Attempt:
    """What one attempt has received so far."""

    text: list[str] = field(default_factory=list)
    model: str = ""
    stop_reason: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    started: bool = False
    finished: bool = False
    last_event: float = 0.0

    def charged(self, request: Request) -> Usage | None:
        """What a broken attempt may have cost: the prompt as counted, and all of the output."""
        if not self.started:
            return None
        return _usage({**self.usage, "output_tokens": request.max_tokens})


class Live:
    """Asks a server through the SDK, with one shared client; close it with `aclose`."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        budget: Budget | None = None,
        patience: Patience | None = None,
        on_retry: Callable[[Request, ModelError, float], None] | None = None,
    ) -> None:
        self.name = base_url or "Messages API"
        self._base_url = base_url
        self._api_key = api_key
        self._concurrency = concurrency
        self._budget = budget
        self._patience = patience or Patience()
        self._on_retry = on_retry
        self._client: AsyncAnthropic | None = None

    async def respond(self, request: Request) -> Response:
        """The response to a request, after as many attempts as patience allows.

        Raises ModelError: of the last attempt's kind, or `budget` if the next attempt could pass
        the limit. Any stop reason is an answer, also `max_tokens` and `refusal`.
        """
        attempt = 1
        while True:
            try:
                return await self._reserved(request)
            except _Failure as failure:
                error = ModelError(failure.kind, self._clean(failure.message))
                if failure.final or attempt >= self._patience.attempts:
                    raise error from None
                wait = self._patience.wait(attempt, failure.retry_after)
            if self._on_retry is not None:
                self._on_retry(request, error, wait)
            await asyncio.sleep(wait)
            attempt += 1

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()

    async def _reserved(self, request: Request) -> Response:
        """One attempt within the budget."""
        if self._budget is None:
            return await self._once(request, _Attempt())
        reserved = await self._budget.reserve(request)
        attempt = _Attempt()
        cost: Usage | None = None
        try:
            response = await self._once(request, attempt)
            cost = response.usage
            return response
        except BaseException:
            cost = attempt.charged(request)
            raise
        finally:
            self._budget.settle(request, reserved, cost)

    async def _once(self, request: Request, attempt: _Attempt) -> Response:
        import anthropic
        import httpx2

        client = self._connected()
        loop = asyncio.get_running_loop()
        started = attempt.last_event = loop.time()
        watch: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(self._patience.whole) as limit:

                def look() -> None:
                    # One timer an attempt, not one an event: there are thousands of events.
                    nonlocal watch
                    quiet = loop.time() - attempt.last_event
                    if quiet >= self._patience.idle:
                        limit.reschedule(loop.time())
                    else:
                        watch = loop.call_later(self._patience.idle - quiet + 0.001, look)

                watch = loop.call_later(self._patience.idle, look)
                async with await client.messages.create(
                    stream=True, **_arguments(request)
                ) as stream:
                    await _read(stream, attempt, loop.time)
        except TimeoutError:
            raise _Failure("stalled", f"no answer in {loop.time() - started:.0f} s") from None
        except anthropic.APIStatusError as error:
            raise _status_failure(error) from None
        except anthropic.APITimeoutError:
            raise _Failure("stalled", "the server did not answer in time") from None
        except anthropic.APIConnectionError as error:
            raise _Failure("connection", str(error.__cause__ or error)) from None
        except httpx2.TimeoutException:
            raise _Failure("stalled", "the stream fell silent") from None
        except httpx2.HTTPError as error:
            raise _Failure("cut_stream", str(error) or type(error).__name__) from None
        except anthropic.AnthropicError as error:
            raise _Failure("auth", str(error)) from None
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
            if "authentication method" in str(error):
                raise _Failure("auth", "no API key: set ANTHROPIC_API_KEY") from None
            raise _Failure("malformed", f"the stream cannot be read: {error}") from None
        finally:
            if watch is not None:
                watch.cancel()
        if not attempt.finished:
            raise _Failure("cut_stream", "the stream ended before the message did")
        if attempt.stop_reason is None:
            raise _Failure("malformed", "the message has no stop reason")
        return Response(
            text=_no_surrogates("".join(attempt.text)),
            stop_reason=attempt.stop_reason,
            model=attempt.model or request.model,
            usage=_usage(attempt.usage),
            seconds=round(loop.time() - started, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _connected(self) -> AsyncAnthropic:
        if self._client is None:
            import anthropic
            import httpx2

            patience = self._patience
            self._client = anthropic.AsyncAnthropic(
                api_key=self._api_key or self._placeholder(),
                base_url=self._base_url,
                max_retries=0,
                http_client=anthropic.DefaultAsyncHttpxClient(
                    limits=httpx2.Limits(
                        max_connections=self._concurrency + 2,
                        max_keepalive_connections=self._concurrency + 2,
                    ),
                    timeout=httpx2.Timeout(patience.silence, connect=patience.connect, pool=None),
                ),
            )
        return self._client

    def _placeholder(self) -> str | None:
        """A key for servers that want none; None lets the SDK find the user's own credentials."""
        known = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE")
        return "none" if self._base_url and not any(map(os.environ.get, known)) else None

    def _clean(self, message: str) -> str:
        """A message without anything like a key in it, on one line of bounded length."""
        secrets = [
            self._api_key,
            *map(os.environ.get, ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")),
        ]
        for secret in secrets:
            if secret and len(secret) > 4:
                message = message.replace(secret, "[key]")
        message = re.sub(r"sk-[A-Za-z0-9_-]{8,}|Bearer\s+\S+", "[key]", message)
        message = " ".join(_no_surrogates(message).split())
        return message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "…"


class _Failure(Exception):
    """One attempt's failure, before anyone decides whether to try again."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        retry_after: float | None = None,
        final: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.final = kind in NOT_AGAIN if final is None else final


def _arguments(request: Request) -> dict[str, Any]:
    """The request as the SDK's arguments; what is unset is left out."""
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [dict(message) for message in request.messages],
    }
    if request.system:
        arguments["system"] = request.system
    if request.tools:
        arguments["tools"] = [dict(tool) for tool in request.tools]
    output: dict[str, Any] = {}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    if request.effort is not None:
        output["effort"] = request.effort
    if output:
        arguments["output_config"] = output
    return arguments


async def _read(stream: Any, attempt: _Attempt, clock: Callable[[], float]) -> None:
    """Takes events until the message stops, and then the little that may follow it."""
    while not attempt.finished:
        try:
            event = await anext(stream)
        except StopAsyncIteration:
            return
        attempt.last_event = clock()
        _take(attempt, event)
    # A stream read to its end gives its connection back for the next request.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(LAST_BYTES):
            await anext(stream)


def _take(attempt: _Attempt, event: Any) -> None:
    """Adds one event of the stream; https://platform.claude.com/docs/en/build-with-claude/streaming."""
    kind = event.type
    if kind == "content_block_delta":
        if event.delta.type == "text_delta":
            attempt.text.append(event.delta.text)
    elif kind == "content_block_start":
        if event.content_block.type == "text" and event.content_block.text:
            attempt.text.append(event.content_block.text)
    elif kind == "message_start":
        attempt.started = True
        attempt.model = str(event.message.model)
        _count(attempt, event.message.usage)
    elif kind == "message_delta":
        if event.delta.stop_reason is not None:
            attempt.stop_reason = str(event.delta.stop_reason)
        _count(attempt, event.usage)
    elif kind == "message_stop":
        if not attempt.started:
            raise TypeError("a message ends that has not begun")
        attempt.finished = True


_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


def _count(attempt: _Attempt, usage: Any) -> None:
    """Counts are cumulative: the last one told of each sort is right."""
    for name in _COUNTS:
        value = getattr(usage, name, None)
        if isinstance(value, int):
            attempt.usage[name] = value


def _usage(counts: dict[str, int]) -> Usage:
    read, write = "cache_read_input_tokens", "cache_creation_input_tokens"
    return Usage(
        input_tokens=counts.get("input_tokens", 0),
        output_tokens=counts.get("output_tokens", 0),
        cache_read_tokens=counts.get(read, 0),
        cache_write_tokens=counts.get(write, 0),
    )


_BY_TYPE: dict[str, Kind] = {
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limited",
    "api_error": "server",
    "timeout_error": "server",
    "invalid_request_error": "bad_request",
    "request_too_large": "bad_request",
    "not_found_error": "bad_request",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
}


def _status_failure(error: Any) -> _Failure:
    """Sorts an HTTP error, or an error event in a stream that began with 200."""
    status = int(error.status_code)
    kind: Kind
    if status == 200:
        kind = _BY_TYPE.get(str(error.type), "cut_stream")
    elif status == 429:
        kind = "rate_limited"
    elif status == 529:
        kind = "overloaded"
    elif status in (401, 402, 403):
        kind = "auth"
    elif status >= 500 or status in (408, 409):
        kind = "server"
    else:
        kind = "bad_request"
    told = error.api_message or error.type or error.message
    again = error.response.headers.get("x-should-retry")
    return _Failure(
        kind,
        f"HTTP {status}: {told}" if status != 200 else str(told),
        retry_after=_retry_after(error.response.headers) if status != 200 else None,
        final=True if again == "false" else None,
    )


def _retry_after(headers: Any) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds, or a date of RFC 9110)."""
    from email.utils import parsedate_to_datetime

    try:
        if headers.get("retry-after-ms"):
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _no_surrogates(text: str) -> str:
    """A text that UTF-8 can store: half of a character pair becomes the replacement character."""
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)
