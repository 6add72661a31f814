"""JSON Web Tokens (RFC 7519), right and wrong ones, made without a library's opinions."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def sign(
    claims: Mapping[str, Any],
    key: str,
    algorithm: str = "HS256",
    headers: Mapping[str, Any] | None = None,
) -> str:
    """A token with these claims; `algorithm` is one of HASHES, or ``none`` for no signature."""
    head = {"alg": algorithm, "typ": "JWT", **(headers or {})}
    signed = f"{_encode(json.dumps(head).encode())}.{_encode(json.dumps(dict(claims)).encode())}"
    if algorithm.lower() == "none":
        return f"{signed}."
    digest = hmac.new(key.encode(), signed.encode(), HASHES[algorithm]).digest()
    return f"{signed}.{_encode(digest)}"


def forgeries(claims: Mapping[str, Any], key: str, **changed: Any) -> dict[str, str]:
    """Tokens that must be refused, by what is wrong with them; `claims` are those of a good one.

    `changed` are claims that an attacker would like (such as another tenant or role).
    """
    now = int(time.time())
    good = sign(claims, key)
    head, payload, signature = good.split(".")
    other = _encode(json.dumps({**claims, **changed, "jti": "forged"}).encode())
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    return {
        "expired": sign({**claims, "exp": now - 3600}, key),
        "not valid yet": sign({**claims, "nbf": now + 3600}, key),
        "unsigned (alg none)": sign({**claims, **changed}, key, "none"),
        "unsigned (alg None)": sign({**claims, **changed}, key, "None"),
        "without its signature": f"{head}.{payload}.",
        "with a wrong signature": f"{head}.{payload}.{flipped}",
        "with another payload": f"{head}.{other}.{signature}",
        "signed with another key": sign({**claims, **changed}, key + "x"),
        "signed with an empty key": sign({**claims, **changed}, ""),
        "no token": "not.a.token",
    }


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
