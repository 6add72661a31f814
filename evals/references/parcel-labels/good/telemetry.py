"""JSON logs, the metrics, and the ids that tie a request to its log lines and carrier calls."""

import json
import logging
import re
import secrets
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from prometheus_client import Counter, Gauge, Histogram

HTTP_REQUESTS = Counter("http_requests_total", "Requests answered", ["method", "route", "status"])
HTTP_SECONDS = Histogram("http_request_duration_seconds", "Time to answer", ["method", "route"])
CARRIER_CALLS = Counter("carrier_calls_total", "Calls to the carrier", ["outcome"])
CARRIER_SECONDS = Histogram("carrier_call_duration_seconds", "Duration of a call to the carrier")
CARRIER_DOWN = Gauge("carrier_down", "1 while the carrier is treated as down")
SETTLED = Counter("shipments_settled_total", "Shipments settled", ["result"])
PENDING = Gauge("shipments_pending", "Shipments that wait for their label")
OLDEST = Gauge("shipments_pending_oldest_seconds", "Age of the oldest shipment that waits")

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")


@dataclass(frozen=True)
class Origin:
    """Where work came from; stored with a shipment, so that its retries are found by it too."""

    request_id: str
    trace_id: str
    trace_flags: str

    @classmethod
    def of(cls, request_id: str | None, traceparent: str | None) -> "Origin":
        """What the caller sent, if it is sane; else made here."""
        if not SANE_ID.fullmatch(request_id or ""):
            request_id = uuid4().hex
        trace = TRACEPARENT.fullmatch(traceparent or "")
        trace_id, flags = trace.groups() if trace else (secrets.token_hex(16), "00")
        return cls(request_id, trace_id, flags)

    def headers(self) -> dict[str, str]:
        """For a call to someone else: the same ids, a span of its own."""
        span = secrets.token_hex(8)
        return {
            "X-Request-ID": self.request_id,
            "traceparent": f"00-{self.trace_id}-{span}-{self.trace_flags}",
        }


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        origin = ORIGIN.get()
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if origin:
            line |= {"request_id": origin.request_id, "trace_id": origin.trace_id}
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logging() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
