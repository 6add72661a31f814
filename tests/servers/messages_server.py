"""A local `/v1/messages` that can misbehave: in a thread for tests, or as a process of its own.

    with MessagesServer() as server:
        server.plan(Fault.status(529), Fault.cut(), Answer("Hello"))
        AsyncAnthropic(base_url=server.url, api_key="x")

Steps are taken one a request; when none is left, `server.default` answers. As a process
(`python messages_server.py --latency 0.5 --bytes 25000`) it prints its URL and ends when its
standard input does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A message as the API streams it."""

    text: str = "Hello"
    stop_reason: str | None = "end_turn"
    model: str = "served-model"
    latency: float = 0.0
    """Seconds before the first byte."""
    piece: int = 400
    """Characters of one delta."""
    usage: dict[str, int] = field(default_factory=lambda: {"input_tokens": 11, "output_tokens": 7})

    def events(self) -> list[tuple[str, Any]]:
        start = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**self.usage, "output_tokens": 1},
        }
        block = {"type": "content_block_start", "index": 0}
        deltas = [
            (
                "content_block_delta",
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": self.text[at : at + self.piece]},
                },
            )
            for at in range(0, len(self.text), self.piece)
        ]
        stop = {"stop_reason": self.stop_reason, "stop_sequence": None}
        return [
            ("message_start", {"type": "message_start", "message": start}),
            ("content_block_start", {**block, "content_block": {"type": "text", "text": ""}}),
            ("ping", {"type": "ping"}),
            *deltas,
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": stop, "usage": self.usage}),
            ("message_stop", {"type": "message_stop"}),
        ]

    def __call__(self, call: Call) -> None:
        time.sleep(self.latency)
        call.begin_stream()
        call.chunk(sse(self.events()))
        call.end_stream()


def sse(events: list[tuple[str, Any]]) -> bytes:
    """Events as the lines of a stream; a string stands for its own data."""
    return "".join(
        f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n"
        for name, data in events
    ).encode()


class Call:
    """One request and the means to answer it, well or badly."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.handler = handler
        self.body = body
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        self.at = time.monotonic()

    def begin_stream(self) -> None:
        self.handler.send_response(200)
        self.handler.send_header("content-type", "text/event-stream; charset=utf-8")
        self.handler.send_header("transfer-encoding", "chunked")
        self.handler.end_headers()

    def chunk(self, data: bytes) -> None:
        self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.handler.wfile.flush()

    def end_stream(self) -> None:
        self.handler.wfile.write(b"0\r\n\r\n")

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.handler.close_connection = True
        self.handler.connection.close()

    def json(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.handler.send_response(status)
        self.handler.send_header("content-type", "application/json")
        self.handler.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        self.handler.wfile.write(body)


Step = Callable[[Call], None]


class Fault:
    """Ways to fail. Each is a step."""

    @staticmethod
    def status(status: int, kind: str = "api_error", text: str = "no", **headers: str) -> Step:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        error = {"type": "error", "error": {"type": kind, "message": text}}
        return lambda call: call.json(status, error, named)

    @staticmethod
    def cut(answer: Answer | None = None, *, events: int = 4, reset: bool = False) -> Step:
        """The stream ends after so many events: in good order, or with a reset."""

        def step(call: Call) -> None:
            call.begin_stream()
            call.chunk(sse((answer or Answer("Half an answer")).events()[:events]))
            if reset:
                time.sleep(0.02)
                call.reset()
            else:
                call.end_stream()

        return step

    @staticmethod
    def half_chunk() -> Step:
        """The connection closes in the middle of a chunk."""

        def step(call: Call) -> None:
            call.begin_stream()
            call.handler.wfile.write(b"ffff\r\n" + sse(Answer().events()[:3]))
            call.handler.wfile.flush()
            call.handler.close_connection = True

        return step

    @staticmethod
    def stall(seconds: float, *, events: int = 4, pings: bool = False) -> Step:
        """The stream goes quiet, or sends nothing but pings, for so long."""

        def step(call: Call) -> None:
            call.begin_stream()
            call.chunk(sse(Answer("Half").events()[:events]))
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.02)
                if pings:
                    call.chunk(b": still here\n\n" + sse([("ping", {"type": "ping"})]))
            call.end_stream()

        return step

    @staticmethod
    def slow(answer: Answer, *, size: int = 7, pause: float = 0.001) -> Step:
        """A good answer, a few bytes at a time, cut anywhere."""

        def step(call: Call) -> None:
            call.begin_stream()
            data = sse(answer.events())
            for at in range(0, len(data), size):
                call.chunk(data[at : at + size])
                time.sleep(pause)
            call.end_stream()

        return step

    @staticmethod
    def malformed(data: str = '{"type": "content_block_delta", "index"') -> Step:
        """An event whose data is no JSON, or not what it should be."""

        def step(call: Call) -> None:
            call.begin_stream()
            events = Answer("Hello").events()
            call.chunk(sse([*events[:3], ("content_block_delta", data), *events[3:]]))
            call.end_stream()

        return step

    @staticmethod
    def error_event(kind: str, text: str = "no") -> Step:
        """The stream begins well and then reports an error."""

        def step(call: Call) -> None:
            call.begin_stream()
            error = {"type": "error", "error": {"type": kind, "message": text}}
            call.chunk(sse([*Answer("Half").events()[:4], ("error", error)]))
            call.end_stream()

        return step

    @staticmethod
    def drop() -> Step:
        """The connection is reset before any answer."""
        return lambda call: call.reset()

    @staticmethod
    def page() -> Step:
        """A proxy's HTML page with status 200."""

        def step(call: Call) -> None:
            body = b"<html>Sign in</html>"
            call.handler.send_response(200)
            call.handler.send_header("content-type", "text/html")
            call.handler.send_header("content-length", str(len(body)))
            call.handler.end_headers()
            call.handler.wfile.write(body)

        return step


class MessagesServer:
    """The server in a thread of its own; a context manager."""

    def __init__(self, default: Step | None = None) -> None:
        self.default: Step = default or Answer()
        self.calls: list[Call] = []
        self._steps: list[Step] = []
        self._lock = threading.Lock()
        self.most_at_once = 0
        self._now = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            # Each message in one segment at once; else Nagle and delayed ACK cost 40 ms a request.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                if len(body) < length:
                    self.close_connection = True  # the client was killed while it asked
                    return
                call = Call(self, json.loads(body or b"{}"))
                with outer._lock:
                    outer.calls.append(call)
                    step = outer._steps.pop(0) if outer._steps else outer.default
                    outer._now += 1
                    outer.most_at_once = max(outer.most_at_once, outer._now)
                try:
                    step(call)
                except OSError:
                    self.close_connection = True  # the client went away, as some tests want it to
                finally:
                    with outer._lock:
                        outer._now -= 1

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):  # reset by a fault
                    super().finish()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

            def shutdown_request(self, request: Any) -> None:
                with contextlib.suppress(OSError):
                    super().shutdown_request(request)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def plan(self, *steps: Step) -> None:
        """The steps of the next requests, in order of arrival."""
        with self._lock:
            self._steps.extend(steps)

    def __enter__(self) -> MessagesServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--bytes", type=int, default=25_000)
    parser.add_argument("--piece", type=int, default=400)
    options = parser.parse_args()
    line = "main.py\n```python\nprint('hello')\n```\n"
    text = (line * (options.bytes // len(line) + 1))[: options.bytes]
    with MessagesServer(Answer(text, latency=options.latency, piece=options.piece)) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
