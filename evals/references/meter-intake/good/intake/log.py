"""Log lines: one JSON object each, on stdout."""

import json
import logging
import sys
from datetime import UTC, datetime

_logger = logging.getLogger("intake")


class _Json(logging.Formatter):
    def format(self, record):
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None})


def configure():
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Json())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def event(message, level="info", exc_info=None, **fields):
    _logger.log(
        getattr(logging, level.upper()), message, exc_info=exc_info, extra={"fields": fields}
    )
