"""What a line of a file means: a reading, or the reason why it is none. No input or output here."""

import json
import re
from datetime import UTC, datetime
from typing import NamedTuple

METER = re.compile(r"[A-Z]{2}-[0-9]{7}")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2})")
KWH = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3}))?")


class Reading(NamedTuple):
    meter: str
    at: int
    wh: int


class BadLine(Exception):
    """Its text is the reason, in the contract's words."""


def _no_constant(name):
    raise ValueError(f"{name} is not JSON")


# Numbers stay the text that they are on the line: no float ever touches a value that is billed,
# and a number of 6,000 digits costs nothing.
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant).decode


def parse(line):
    """The reading on a line of bytes. Raises BadLine."""
    try:
        record = _decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadLine("bad_json") from None
    if not isinstance(record, dict):
        raise BadLine("bad_json")
    meter = record.get("meter")
    if not isinstance(meter, str) or not METER.fullmatch(meter):
        raise BadLine("bad_meter")
    at = moment(record.get("time"))
    if at is None:
        raise BadLine("bad_time")
    kwh = record.get("kwh")
    match = KWH.fullmatch(kwh) if isinstance(kwh, str) else None
    if not match:
        raise BadLine("bad_kwh")
    return Reading(meter, at, int(match[1]) * 1000 + int((match[2] or "").ljust(3, "0")))


def moment(text):
    """Unix seconds of a date and time with offset; None if it is none."""
    if not isinstance(text, str) or not TIME.fullmatch(text):
        return None
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return None


def show_moment(at):
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def show_kwh(wh):
    return f"{wh // 1000}.{wh % 1000:03}"
