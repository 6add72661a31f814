"""What a model is to the harness: one method. Every implementation is a file beside this one."""

from __future__ import annotations

import math
from typing import Literal, Protocol

from harness.records import Request, Response

Kind = Literal[
    "rate_limited",
    "overloaded",
    "server",
    "connection",
    "cut_stream",
    "stalled",
    "malformed",
    "bad_request",
    "auth",
    "budget",
    "not_recorded",
    "interrupted",
]

CHARACTERS_PER_TOKEN = 3.0
"""For estimates only. Code takes about 4 characters a token with older tokenizers; the ones since
Claude 4.7 count about 30 % more tokens for the same text."""


class Model(Protocol):
    """Answers requests: a live API, a recording, a local server."""

    name: str

    async def respond(self, request: Request) -> Response:
        """The response to a request. Raises ModelError where there is none."""
        ...


class ModelError(Exception):
    """Why a request has no response. Such a trial is missing: it is no failed answer."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message


def estimate_tokens(text: str) -> int:
    """A rough count of a text's tokens, rather too many than too few."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
