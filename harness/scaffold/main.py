"""A known-good answer to CASE-NAME: what a strong engineer would send back."""

import json
import os
import re
import signal
import sqlite3
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DATABASE = Path(os.environ["DATA_DIR"]) / "counts.db"
DOOR = re.compile(r"^/doors/([a-z0-9-]{1,32})$")


def log(level: str, message: str, **facts: object) -> None:
    line = {"timestamp": datetime.now(UTC).isoformat(), "level": level, "message": message, **facts}
    sys.stdout.write(json.dumps(line) + "\n")  # one write a line: threads log side by side
    sys.stdout.flush()


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS doors (door TEXT PRIMARY KEY, count INT NOT NULL)"
    )
    return connection


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.answer(
            "INSERT INTO doors VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1"
            " RETURNING door, count"
        )

    def do_GET(self) -> None:
        self.answer("SELECT door, count FROM doors WHERE door = ?")

    def answer(self, statement: str) -> None:
        match = DOOR.match(self.path)
        row = None
        if match:
            connection = connect()
            row = connection.execute(statement, match.groups()).fetchone()
            connection.close()
        status = 200 if row else 404
        body = {"door": row[0], "count": row[1]} if row else {"error": "not_found"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        log("info", "request", method=self.command, path=self.path, status=status)

    def log_message(self, format: str, *args: object) -> None:
        """The access log is the line that `answer` writes."""


def main() -> None:
    connect().close()
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    signal.signal(
        signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()
    )
    log("info", "started", port=server.server_port)
    server.serve_forever()
    log("info", "stopped")


if __name__ == "__main__":
    sys.exit(main())
