"""A local Messages server, requests, and runs for the tests of the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from messages_server import MessagesServer

from harness.models.live import Live, Patience
from harness.records import PlannedTrial, Request, Trial
from harness.store import Run

IMPATIENT = Patience(attempts=4, base=0.01, cap=0.05, connect=20, silence=20, idle=20, whole=60)


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with MessagesServer() as server:
        yield server


@pytest.fixture
def live(server: MessagesServer) -> Callable[..., Live]:
    def make(**options: object) -> Live:
        values: dict[str, object] = {"base_url": server.url, "patience": IMPATIENT, **options}
        return Live(**values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def ask_for() -> Callable[..., Request]:
    def make(text: str = "Build it.", **fields: object) -> Request:
        values: dict[str, object] = {
            "model": "claude-sonnet-5-5",
            "system": "You build.",
            "messages": ({"role": "user", "content": text},),
            "max_tokens": 1000,
            **fields,
        }
        return Request(**values)  # type: ignore[arg-type]

    return make


@pytest.fixture
def new_run(tmp_path: Path, ask_for: Callable[..., Request]) -> Callable[..., Run]:
    def make(trials: int = 3) -> Run:
        planned = [
            PlannedTrial(Trial("case", arm, epoch), ask_for(f"{arm} {epoch}", epoch=epoch))
            for epoch in range(1, trials + 1)
            for arm in ("without", "with")
        ][:trials]
        return Run.create(tmp_path / "run", {"model": "claude-sonnet-5-5"}, planned)

    return make
