"""W3C trace context: what came in is kept as its header's text, and each call out is a new span."""

import re
import secrets

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def incoming(header):
    """The caller's traceparent if it is valid, else the start of a trace of our own."""
    match = TRACEPARENT.fullmatch(header or "")
    if match and match[1].strip("0") and match[2].strip("0"):
        return header
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child(traceparent):
    version, trace, _, flags = traceparent.split("-")
    return f"{version}-{trace}-{secrets.token_hex(8)}-{flags}"


def trace_id(traceparent):
    return traceparent.split("-")[1]
