"""Shows how far a stage is: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

PLAIN_EVERY_S = 10.0


class Progress:
    """Counts steps of `total`; use as a context manager, `step` may be called from any thread."""

    def __init__(self, what: str, total: int, file: TextIO | None = None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._file = file or sys.stderr
        self._started = self._told = time.monotonic()
        self._live = None
        if total and self._file.isatty():
            from rich.console import Console
            from rich.progress import Progress as Live

            self._live = Live(console=Console(file=self._file), transient=True)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
            self._task = self._live.add_task(self._what, total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if self._total:
            self._tell()

    def step(self, label: str) -> None:
        """One step is done; `label` names it."""
        self._done += 1
        if self._live is not None:
            self._live.update(self._task, completed=self._done, description=f"{self._what} {label}")
        elif time.monotonic() - self._told > PLAIN_EVERY_S:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        seconds = self._told - self._started
        print(f"{self._what}: {self._done} of {self._total}, {seconds:.0f} s", file=self._file)
