"""The service under test: a process in a cell of its own, started, stopped, killed and heard."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from harness.checks.errors import GraderError, ServiceDoesNotStart

READY_S = 15.0
LOG_BYTES = 4 << 20
"""The newest log lines that are kept for the checks."""
LOG_FREE_BYTES = 32 << 20
"""A service that writes more than this is read slowly, so that a flood costs it, not us."""
LINE_BYTES = 64 << 10


class LogLine:
    """One line of the service's output."""

    def __init__(self, text: str, at: float) -> None:
        self.text = text
        self.at = at
        """Monotonic seconds at which the grader read it."""

    @cached_property
    def json(self) -> dict[str, Any] | None:
        """The line as a JSON object; None if it is none."""
        try:
            value = json.loads(self.text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def __repr__(self) -> str:
        return f"LogLine({self.text!r})"


@dataclass(frozen=True)
class Stopped:
    """How a service ended after SIGTERM."""

    exit_code: int | None
    """As a shell gives it: 143 for death by SIGTERM. None if it had to be killed."""
    seconds: float


@dataclass(frozen=True)
class Launcher:
    """How services are started in this cell; the grader's host has worked it out."""

    inner: tuple[str, ...]
    """bwrap with all its binds; the data folder and ``--`` are still to come."""
    command: tuple[str, ...]
    """What runs in the inner cell."""
    path: str
    """PATH of the service."""
    scratch: Path
    """Where data folders are made."""


class Elapsed(timedelta):
    """A response's time, that prints in seconds: ``f"{response.elapsed:.1f} s"``."""

    def __format__(self, spec: str) -> str:
        return format(self.total_seconds(), spec or ".2f")


class Client(httpx.Client):
    """httpx.Client without a proxy, certificates or a limit on connections."""

    def __init__(self, base_url: str) -> None:
        super().__init__(
            base_url=base_url,
            timeout=10.0,
            trust_env=False,
            verify=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=50),
        )

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        response = super().send(request, **options)
        if not options.get("stream"):
            response.elapsed = Elapsed(seconds=response.elapsed.total_seconds())
        return response


class Log:
    """Collects the lines of a pipe, the newest within a limit."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque()
        self._bytes = self._total = self._dropped = 0
        self._lock = threading.Lock()

    def follow(self, pipe: int) -> threading.Thread:
        """Reads the pipe in a thread until it ends, then closes it."""
        thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        thread.start()
        return thread

    def _read(self, pipe: int) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := os.read(pipe, 1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._add(line)
                if len(rest) > LINE_BYTES:
                    self._add(rest)
                    rest = b""
                self._total += len(data)
                if self._total > LOG_FREE_BYTES:
                    time.sleep(0.02)
        if rest:
            self._add(rest)
        os.close(pipe)

    def _add(self, raw: bytes) -> None:
        line = LogLine(raw[:LINE_BYTES].decode("utf-8", "replace").rstrip("\r"), time.monotonic())
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line.text) + 1
            while self._bytes > LOG_BYTES:
                self._bytes -= len(self._lines.popleft().text) + 1
                self._dropped += 1

    def mark(self) -> int:
        with self._lock:
            return self._dropped + len(self._lines)

    def lines(self, since: int = 0) -> list[LogLine]:
        with self._lock:
            lines = list(self._lines)
            return lines[max(0, since - self._dropped) :]


class Service:
    """One instance of the answer's service, with a port and a data folder of its own."""

    def __init__(
        self, launcher: Launcher, environment: Mapping[str, str], port: int, name: str
    ) -> None:
        self.name = name
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {key: str(value) for key, value in environment.items()}
        self._launcher = launcher
        self._data = launcher.scratch / f"data-{name}"
        self._data.mkdir(mode=0o700)
        self._log = Log()
        self._reader: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._init_pid = 0
        self._client: Client | None = None

    # --- life -------------------------------------------------------------------------------

    def start(self, wait: bool = True) -> None:
        """Starts the process; with `wait` until it answers. Raises ServiceDoesNotStart."""
        if self.alive:
            return
        self._close_client()
        mark = self.mark()
        out_read, out_write = os.pipe()
        info_read, info_write = os.pipe()
        argv = [*self._launcher.inner, "--bind", str(self._data), "/data", "--remount-ro", "/"]
        argv += ["--chdir", "/app", "--info-fd", str(info_write), "--", *self._launcher.command]
        env = {
            "PATH": self._launcher.path,
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PORT": str(self.port),
            "DATA_DIR": "/data",
            **self.environment,
        }
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=out_write,
                env=env,
                pass_fds=[info_write],
                cwd="/",
            )
        except OSError as error:
            raise GraderError(f"cannot start the service's cell: {error}") from None
        finally:
            os.close(out_write)
            os.close(info_write)
        self._reader = self._log.follow(out_read)
        with os.fdopen(info_read, "rb") as info:
            told = info.read()
        if not told:
            code = self.wait_exit(5)
            raise GraderError(
                f"the service's cell was not built (exit code {code}): {self._last()}"
            )
        self._init_pid = json.loads(told)["child-pid"]
        if wait:
            self._wait_ready(mark)

    def _wait_ready(self, mark: int) -> None:
        deadline = time.monotonic() + READY_S
        answered = "nothing listens"
        while time.monotonic() < deadline:
            if not self.alive:
                code = self.wait_exit(1)
                raise ServiceDoesNotStart(
                    f"service does not start: {self._last(mark) or f'exit code {code}, no output'}"
                )
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            except ConnectionRefusedError:
                time.sleep(0.02)
            except (OSError, http.client.HTTPException) as error:
                answered = f"no HTTP answer ({type(error).__name__})"
                time.sleep(0.02)
            finally:
                connection.close()
        said = self._last(mark)
        self.kill()
        raise ServiceDoesNotStart(
            f"service does not start: {answered} on 127.0.0.1:$PORT after {READY_S:g} s"
            + (f"; last log line: {said}" if said else "; it logged nothing")
        )

    def stop(self, timeout: float = 10.0) -> Stopped:
        """Sends SIGTERM and waits; kills after `timeout` s, and the exit code is then None."""
        began = time.monotonic()
        for pid in self._main_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        code = self.wait_exit(timeout)
        seconds = time.monotonic() - began
        if code is None:
            self.kill()
        self._close_client()
        return Stopped(code, seconds)

    def kill(self) -> None:
        """SIGKILL to every process of the service at once, as when the machine dies."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._init_pid, signal.SIGKILL)
            if self.wait_exit(5) is None:
                raise GraderError("the service's cell survived SIGKILL")
        self._close_client()

    def restart(self) -> None:
        """Stops it with SIGTERM if it runs, and starts it again on the same data."""
        if self.alive:
            self.stop()
        self.start()

    def ensure(self) -> None:
        """Starts it again if a check before this one has ended it, or left it ending."""
        if self.alive and not self.connects():
            self.wait_exit(1.0)
        self.start()

    def wait_exit(self, timeout: float) -> int | None:
        """Its exit code as a shell gives it; None if it still runs after `timeout` s."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        if self._reader is not None:
            self._reader.join(2)  # its last words are in the log before we tell its end
        return 128 - code if code < 0 else code

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Ends it and frees what it had."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    # --- talking to it -------------------------------------------------------------------------

    @property
    def http(self) -> Client:
        """A client of the service (base URL, 10 s time limit); a new one after each start."""
        if self._client is None:
            self._client = Client(self.url)
        return self._client

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def connects(self) -> bool:
        """Whether its port accepts a connection now."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1),
        ):
            return True
        return False

    # --- looking at it --------------------------------------------------------------------------

    def mark(self) -> int:
        """A place in the log, for ``logs(since=…)``."""
        return self._log.mark()

    def logs(self, since: int = 0) -> list[LogLine]:
        """The lines of its output so far, across restarts."""
        return self._log.lines(since)

    def log_text(self, since: int = 0) -> str:
        return "\n".join(line.text for line in self.logs(since))

    def _last(self, since: int = 0) -> str:
        texts = [line.text.strip() for line in self.logs(since)]
        return next((text[:300] for text in reversed(texts) if text), "")

    def memory_mb(self) -> float:
        """Resident memory of all its processes, in MB."""
        page = os.sysconf("SC_PAGE_SIZE")
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, IndexError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        return total / (1 << 20)

    def data_bytes(self) -> bytes:
        """All that its data folder holds, file after file, to look for what must not be there."""
        found = []
        for path in sorted(self._data.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    found.append(path.read_bytes())
        return b"\n".join(found)

    @property
    def data(self) -> Path:
        """Its data folder, as the grader sees it."""
        return self._data

    def pids(self) -> list[int]:
        """Its processes, the first one first."""
        children = _children()
        found: list[int] = []
        queue = children.get(self._init_pid, []) if self.alive else []
        while queue:
            pid = queue.pop(0)
            found.append(pid)
            queue = queue + children.get(pid, [])
        return found

    def _main_pids(self) -> list[int]:
        if not self.alive:
            return []
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            # bwrap's first process forwards no signal: its child is the service.
            pids = _children().get(self._init_pid, [])
            if pids or not self.alive:
                return pids[:1]
            time.sleep(0.01)
        return []


def _children() -> dict[int, list[int]]:
    """Parent → children, of all processes that this cell sees."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                stat = (entry / "stat").read_text(errors="replace")
                parent = int(stat[stat.rindex(")") + 2 :].split()[1])
                found.setdefault(parent, []).append(int(entry.name))
    return {parent: sorted(pids) for parent, pids in found.items()}
