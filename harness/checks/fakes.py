"""A dependency of the service, played by a threaded HTTP server in the grader's own process."""

from __future__ import annotations

import contextlib
import json as jsonlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from harness.checks.faults import Connection, Fault, Refuse

HEAD_BYTES, BODY_BYTES = 64 << 10, 16 << 20


class Headers(Mapping[str, str]):
    """Header fields by name, in any case; a repeated field's values are joined by commas."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields: dict[str, str] = {}
        for name, value in fields:
            key = name.lower()
            self._fields[key] = f"{self._fields[key]}, {value}" if key in self._fields else value

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return repr(self._fields)


@dataclass
class Call:
    """One request that arrived at a fake."""

    at: float
    """Monotonic seconds at which its head was complete."""
    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    body: bytes
    params: dict[str, str] = field(default_factory=dict)
    """What ``{name}`` in the route matched."""
    reply: Reply | None = None
    """What the handler answered; None if it did not run (a fault came before)."""

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return jsonlib.loads(self.body)
        except ValueError:
            return None


@dataclass
class Reply:
    """What a fake answers: `json` or `body`, after `delay` seconds."""

    status: int = 200
    json: Any = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def encode(self) -> bytes:
        """The response as HTTP/1.1, for a connection that stays open."""
        body, fields = self.body, {key.lower(): value for key, value in self.headers.items()}
        if self.json is not None:
            body = jsonlib.dumps(self.json).encode()
            fields.setdefault("content-type", "application/json")
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        fields["content-length"] = str(len(body))
        head = f"HTTP/1.1 {self.status} {phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return head.encode("latin-1") + b"\r\n" + body


Handler = Callable[[Call], Reply]


class Fake:
    """An HTTP server on the cell's loopback with routes, a fault, and a record of its calls."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._fault: Fault | None = None
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        self._in_flight = self._most_in_flight = 0
        self._idle: set[socket.socket] = set()
        self._closing = threading.Event()
        self._listener = self._bind(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._listening = True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    # --- what a test uses -------------------------------------------------------------------

    def on(self, method: str, path: str, handler: Handler | Reply) -> None:
        """Answers calls of that method and path (``{name}`` matches a segment), newest first."""
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path))
        chosen: Handler = (lambda call: handler) if isinstance(handler, Reply) else handler
        with self._lock:
            self._routes.insert(0, (method.upper(), re.compile(pattern), chosen))

    def fault(self, fault: Fault | None) -> None:
        """Misbehaves from the next call on; None heals. Calls that hang already stay so."""
        with self._lock:
            self._fault = fault
            idle = list(self._idle) if isinstance(fault, Refuse) else []
        if isinstance(fault, Refuse):
            self._stop_listening()
            for client in idle:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
        else:
            self._start_listening()

    @property
    def calls(self) -> list[Call]:
        """Every call so far (a copy), in order of arrival."""
        with self._lock:
            return list(self._calls)

    def clear(self) -> None:
        """Forgets the calls so far."""
        with self._lock:
            self._calls.clear()
            self._most_in_flight = self._in_flight

    @property
    def in_flight(self) -> int:
        """Calls that wait for their answer now."""
        return self._in_flight

    @property
    def most_in_flight(self) -> int:
        """The most calls that waited at once, since `clear`."""
        return self._most_in_flight

    def close(self) -> None:
        """Stops; hanging calls are cut."""
        self._closing.set()
        self._listener.close()
        with self._lock:
            idle = list(self._idle)
        for client in idle:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    # --- listening --------------------------------------------------------------------------

    @staticmethod
    def _bind(port: int) -> socket.socket:
        if port == 0:
            # A port that was asked for by number is kept while the socket does not listen.
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        listener = socket.socket()
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
        return listener

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            # Linux: the socket stops listening and keeps its port, so nobody can take it.
            self._listener.shutdown(socket.SHUT_RDWR)

    def _start_listening(self) -> None:
        if not self._listening and not self._closing.is_set():
            self._listening = True
            self._listener.listen(1024)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    # --- one connection -----------------------------------------------------------------------

    def _converse(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pending = bytearray()
            while not self._closing.is_set():
                with self._lock:
                    self._idle.add(client)
                try:
                    call = _read_call(client, pending)
                finally:
                    with self._lock:
                        self._idle.discard(client)
                if call is None or not self._serve(client, call):
                    break
        with contextlib.suppress(OSError):
            client.close()

    def _serve(self, client: socket.socket, call: Call) -> bool:
        connection = Connection(client, self._closing)
        with self._lock:
            self._calls.append(call)
            fault = self._fault.pick() if self._fault else None
            self._in_flight += 1
            self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            if fault is not None:
                return fault.serve(connection, lambda: self._answer(call).encode())
            reply = self._answer(call)
            if reply.delay and not connection.wait(reply.delay):
                return False
            keep = call.headers.get("connection", "").lower() != "close"
            return connection.send(reply.encode()) and keep
        finally:
            with self._lock:
                self._in_flight -= 1

    def _answer(self, call: Call) -> Reply:
        with self._lock:
            routes = list(self._routes)
        for method, pattern, handler in routes:
            match = pattern.fullmatch(call.path)
            if match and method == call.method:
                call.params = {key: unquote(value) for key, value in match.groupdict().items()}
                try:
                    call.reply = handler(call)
                except Exception as error:
                    # Most often the call lacks what a right one has: then it is a bad request.
                    call.reply = Reply(400, json={"error": f"{type(error).__name__}: {error}"})
                return call.reply
        return Reply(404, json={"error": f"{self.name} has no {call.method} {call.path}"})


def _read_call(client: socket.socket, pending: bytearray) -> Call | None:
    """The next request; None at the end of the connection. `pending` keeps what came too early."""
    client.settimeout(None)

    def more() -> bool:
        data = client.recv(1 << 16)
        pending.extend(data)
        return bool(data)

    def take(size: int) -> bytes:
        while len(pending) < size:
            if not more():
                raise ValueError("cut off")
        data = bytes(pending[:size])
        del pending[:size]
        return data

    def take_line() -> bytes:
        while b"\n" not in pending:
            if len(pending) > HEAD_BYTES or not more():
                raise ValueError("cut off")
        return take(pending.index(b"\n") + 1).strip()

    while b"\r\n\r\n" not in pending:
        if len(pending) > HEAD_BYTES or not more():
            return None
    at = time.monotonic()
    head = take(pending.index(b"\r\n\r\n") + 4).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ", 2)
    fields = [line.partition(":") for line in head[1:] if ":" in line]
    headers = Headers([(name.strip(), value.strip()) for name, _, value in fields])
    if headers.get("expect", "").lower() == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int(take_line().split(b";")[0], 16):
            body += take(size)
            take_line()
            if len(body) > BODY_BYTES:
                raise ValueError("too long")
        while take_line():
            pass
    elif "content-length" in headers:
        body = take(min(int(headers["content-length"]), BODY_BYTES))
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Call(at, method.upper(), unquote(url.path), query, headers, body)
