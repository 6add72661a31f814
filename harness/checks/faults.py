"""How a fake dependency misbehaves. Every fault applies after the request was read and recorded."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any


class Connection:
    """One client's connection, as a fault sees it."""

    def __init__(self, client: socket.socket, closing: threading.Event) -> None:
        self._client = client
        self._closing = closing

    def send(self, data: bytes) -> bool:
        """False if the client is gone."""
        try:
            self._client.sendall(data)
        except OSError:
            return False
        return True

    def wait(self, seconds: float | None) -> bool:
        """Waits, for ever if None; False as soon as the client hangs up or the fake closes."""
        waited = 0.0
        step = 0.05
        while not self._closing.is_set() and (seconds is None or waited < seconds):
            pause = step if seconds is None else min(step, seconds - waited)
            self._client.settimeout(max(pause, 0.001))
            try:
                if not self._client.recv(1, socket.MSG_PEEK):
                    return False
                self._closing.wait(pause)  # pipelined bytes wait for their turn
            except TimeoutError:
                pass
            except OSError:
                return False
            waited += pause
        self._client.settimeout(None)
        return not self._closing.is_set()

    def reset(self) -> None:
        """Ends the connection with a TCP reset instead of a close."""
        linger = struct.pack("ii", 1, 0)
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._client.close()


class Fault:
    """One way to misbehave. `answer` runs the handler, with its effects, and gives the bytes."""

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        """Whether the connection can take another request."""
        raise NotImplementedError

    def pick(self) -> Fault | None:
        """The fault for the next call."""
        return self


@dataclass
class Hang(Fault):
    """Never answers. With `effect` the handler has run: it was done, only nobody hears of it."""

    effect: bool = False

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        if self.effect:
            answer()
        connection.wait(None)
        return False


@dataclass
class Drip(Fault):
    """Answers byte by byte, so that no single read ever times out."""

    seconds_per_byte: float = 1.0

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        data = answer()
        status_line = data.index(b"\n") + 1
        if not connection.send(data[:status_line]):
            return False
        for position in range(status_line, len(data)):
            if not connection.wait(self.seconds_per_byte):
                return False
            if not connection.send(data[position : position + 1]):
                return False
        return True


@dataclass
class Reset(Fault):
    """Cuts the connection. With `effect` the handler has run before."""

    effect: bool = False

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        if self.effect:
            answer()
        connection.reset()
        return False


@dataclass
class Status(Fault):
    """Answers every call with this status; the handler does not run."""

    status: int
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        from harness.checks.fakes import Reply

        json = {"error": f"status {self.status}"} if self.json is None else self.json
        return connection.send(Reply(self.status, json=json, headers=self.headers).encode())


@dataclass
class Slow(Fault):
    """Does its work at once and answers after so many seconds."""

    seconds: float

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        data = answer()
        return connection.wait(self.seconds) and connection.send(data)


@dataclass
class Garbage(Fault):
    """Answers 200 with a body that is not what the content type says."""

    body: bytes = b"<html><body>Bad gateway</body></html>"

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        from harness.checks.fakes import Reply

        headers = {"Content-Type": "application/json"}
        return connection.send(Reply(200, body=self.body, headers=headers).encode())


@dataclass
class Refuse(Fault):
    """Closes the port: connections are refused. Such attempts leave no call behind."""

    def serve(self, connection: Connection, answer: Callable[[], bytes]) -> bool:
        connection.reset()
        return False


class Sequence(Fault):
    """One fault a call, in order; None is a healthy call, and so is all that comes after."""

    def __init__(self, faults: Items[Fault | None]) -> None:
        self._left = list(faults)
        self._lock = threading.Lock()

    def pick(self) -> Fault | None:
        with self._lock:
            fault = self._left.pop(0) if self._left else None
        return fault.pick() if fault else None
