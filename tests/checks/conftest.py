"""A stand-in for a service: what the shared properties look at, without a cell."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.checks.service import Client, LogLine

Routes = dict[str, Any]


class StubService:
    """Answers GET by a table of path → (status, text) or function, and has a log to fill."""

    def __init__(self, data: Path) -> None:
        self.routes: Routes = {}
        self.lines: list[LogLine] = []
        self.data = data
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body leave together

            def do_GET(self) -> None:
                found = stub.routes.get(self.path, (404, "no"))
                status, text, *headers = found(self.headers) if callable(found) else found
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.http = Client(f"http://127.0.0.1:{self._server.server_port}")

    def close(self) -> None:
        self.http.close()
        self._server.shutdown()
        self._server.server_close()

    def log(self, *entries: Any) -> None:
        """Adds lines: texts as they are, anything else as JSON."""
        for entry in entries:
            self.lines.append(LogLine(entry if isinstance(entry, str) else json.dumps(entry), 0.0))

    def mark(self) -> int:
        return len(self.lines)

    def logs(self, since: int = 0) -> list[LogLine]:
        return self.lines[since:]

    def log_text(self, since: int = 0) -> str:
        return "\n".join(line.text for line in self.logs(since))


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[StubService]:
    stub = StubService(tmp_path)
    yield stub
    stub.close()


Fails = Callable[..., None]


@pytest.fixture
def fails() -> Fails:
    """``fails("part of the message", fn, *args)``: fn must fail with it, in one assertion."""

    def check(message: str, fn: Callable[..., object], *args: Any, **options: Any) -> None:
        with pytest.raises(AssertionError) as caught:
            fn(*args, **options)
        assert message in str(caught.value), str(caught.value)

    return check
