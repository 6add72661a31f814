"""Finds a service's liveness and readiness endpoints, whatever they are called."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from harness.checks.service import Service
from harness.checks.timing import eventually

LIVE_PATHS = (
    *("/livez", "/healthz/live", "/health/live", "/live", "/liveness", "/health/liveness"),
    *("/healthz/liveness", "/alive", "/_live", "/-/live", "/status/live", "/-/healthy"),
    *("/healthz", "/health", "/_health", "/ping", "/-/health", "/status"),
)
READY_PATHS = (
    *("/readyz", "/healthz/ready", "/health/ready", "/ready", "/readiness", "/health/readiness"),
    *("/healthz/readiness", "/_ready", "/-/ready", "/status/ready"),
)
IN_CODE = re.compile(r"[\"'`](/[\w./-]*(?:live|ready|readiness|health|alive)[\w./-]*)[\"'`]")


@dataclass(frozen=True)
class Health:
    """The paths that a probe of Kubernetes would be pointed at; None where there is none."""

    live_path: str | None
    ready_path: str | None


def find(service: Service, files: Mapping[str, str] | None = None) -> Health:
    """Looks for both on a healthy service: the common paths, and those that the answer names.

    One endpoint alone is liveness: nothing tells it apart as readiness.
    """
    named: list[str] = [p for text in (files or {}).values() for p in IN_CODE.findall(text)]
    ready = _first(service, [*READY_PATHS, *(p for p in named if "read" in p.lower())])
    candidates = [*LIVE_PATHS, *(path for path in named if "read" not in path.lower())]
    live = _first(service, [path for path in candidates if path != ready])
    return Health(live, ready)


def _first(service: Service, paths: list[str]) -> str | None:
    for path in dict.fromkeys(paths):
        if status(service, path) in (200, 204):
            return path
    return None


def status(service: Service, path: str) -> int:
    """The status that a probe gets; 0 where it gets no answer within 2 s."""
    with contextlib.suppress(httpx.TransportError):
        return service.http.get(path, timeout=2.0).status_code
    return 0


def assert_found(service: Service, files: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Liveness and readiness paths; both exist and differ."""
    found = find(service, files)
    assert found.live_path, "no liveness endpoint answers 200 (tried /livez, /healthz, /health, …)"
    assert found.ready_path, (
        f"no readiness endpoint answers 200 apart from liveness at {found.live_path} "
        "(tried /readyz, /ready, /health/ready, …)"
    )
    return found.live_path, found.ready_path


def assert_ready(service: Service, path: str, within: float = 5.0) -> None:
    """Readiness answers 2xx within so many seconds."""

    def ready() -> None:
        code = status(service, path)
        assert 200 <= code < 300, f"{path} answers {code or 'nothing'}, wanted 200"

    eventually(ready, within)


def assert_not_ready(service: Service, path: str, within: float = 5.0) -> None:
    """Readiness answers 503 (any 5xx or 429) within so many seconds."""

    def unready() -> None:
        code = status(service, path)
        assert code == 429 or code >= 500, f"{path} answers {code or 'nothing'}, wanted 503"

    eventually(unready, within)


def assert_live(service: Service, path: str) -> None:
    """Liveness answers 2xx: a restart would not help."""
    code = status(service, path)
    assert 200 <= code < 300, f"{path} answers {code or 'nothing'}, so the service is restarted"
