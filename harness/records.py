"""The records that the stages exchange. Nouns only: no record reads a file or calls a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

Outcome = Literal["pass", "fail", "not_graded"]
How = Literal["executed", "static", "judged"]

WITHOUT, WITH, BASELINE = "without", "with", "baseline"

DIGEST_VERSION = 1
"""Part of every digest: raised when the canonical form changes, so old answers go stale."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no escapes: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(data: str | bytes) -> str:
    """Hex SHA-256 of bytes, or of a text's UTF-8 form (lone surrogates count as `?`)."""
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    return hashlib.sha256(raw).hexdigest()


@dataclass(frozen=True)
class Request:
    """Everything that the model sees for one sample, and nothing else.

    Streaming, caching and timeouts do not change what the model sees, so they are no part of it.
    """

    model: str
    system: str
    messages: tuple[Mapping[str, Any], ...]
    """Messages API form: ``{"role": "user", "content": "…"}``."""
    max_tokens: int
    epoch: int = 1
    """The n-th independent sample of the same text; two epochs are two requests."""
    schema: Mapping[str, Any] | None = None
    """JSON Schema of the output, for structured output; None for free text."""
    effort: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()

    def canonical(self) -> dict[str, Any]:
        """The versioned form that is digested, stored and pinned by a golden test."""
        return {
            "v": DIGEST_VERSION,
            "model": self.model,
            "system": self.system,
            "messages": [dict(message) for message in self.messages],
            "tools": [dict(tool) for tool in self.tools],
            "schema": self.schema,
            "sampling": {"max_tokens": self.max_tokens, "effort": self.effort},
            "epoch": self.epoch,
        }

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical form: the key under which a response is stored."""
        return sha256(canonical_json(self.canonical()))

    @classmethod
    def from_canonical(cls, data: Mapping[str, Any]) -> Request:
        """The inverse of `canonical`. Raises KeyError or ValueError on a foreign form."""
        if data["v"] != DIGEST_VERSION:
            raise ValueError(f"request of form v{data['v']}; this harness reads v{DIGEST_VERSION}")
        return cls(
            model=data["model"],
            system=data["system"],
            messages=tuple(data["messages"]),
            max_tokens=data["sampling"]["max_tokens"],
            epoch=data["epoch"],
            schema=data["schema"],
            effort=data["sampling"]["effort"],
            tools=tuple(data["tools"]),
        )


@dataclass(frozen=True)
class Usage:
    """Tokens of one response, as the API counted them or, if `estimated`, from its length."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Response:
    """What came back for a request. An API error is no response: it stays missing."""

    text: str
    stop_reason: str
    """The API's word: ``end_turn``, ``max_tokens``, ``refusal``, …"""
    model: str
    """The model that the server says it used."""
    usage: Usage = field(default_factory=Usage)
    seconds: float | None = None
    """Wall-clock time from sending to the last byte; None where nobody measured it."""
    finished: str | None = None
    """UTC time of arrival, ISO 8601."""


@dataclass(frozen=True, order=True)
class Trial:
    """One case under one arm, sampled for the n-th time (epoch counts from 1)."""

    case: str
    arm: str
    epoch: int

    @property
    def id(self) -> str:
        return f"{self.case}/{self.arm}/{self.epoch}"

    @classmethod
    def from_id(cls, text: str) -> Trial:
        case, arm, epoch = text.rsplit("/", 2)
        return cls(case, arm, int(epoch))


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and the request that will answer it."""

    trial: Trial
    request: Request


@dataclass(frozen=True)
class Verdict:
    """Trial × criterion: what the grader found, with one line of evidence."""

    trial: str
    """`Trial.id`."""
    criterion: str
    outcome: Outcome
    evidence: str = ""
    """Why it failed or what proves the pass: the failing assertion, or a verbatim quote."""
    reason: str = ""
    """Why it is not graded; empty otherwise."""
    how: How = "executed"
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
