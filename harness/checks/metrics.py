"""Finds a service's Prometheus metrics and tells what moved, whatever the series are called."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

import httpx

from harness.checks.service import Service
from harness.checks.timing import eventually

PATHS: tuple[str, ...] = (
    "/metrics",
    "/metrics/",
    "/-/metrics",
    "/internal/metrics",
    "/v1/metrics",
    "/api/metrics",
)
PATHS += ("/admin/metrics", "/prometheus", "/_metrics", "/actuator/prometheus")
IN_CODE = re.compile(r"[\"'`](/[\w./-]*(?:metrics|prometheus)[\w./-]*)[\"'`]")

SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][\w:]*)(?P<labels>\{(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*\})?"
    r"\s+(?P<value>[-+]?(?:[\d.]+(?:[eE][-+]?\d+)?|Inf|NaN))(?:\s.*)?$",
    re.IGNORECASE,
)
RUNTIME = re.compile(r"^(python|process|gc|scrape)_|_created(\{|$)")
"""Series that every client library exports: they move without anything being measured."""

Samples = dict[str, float]
"""``name{labels}`` → value."""


def parse(text: str) -> Samples:
    """The samples of a Prometheus or OpenMetrics text."""
    found: Samples = {}
    for line in text.splitlines():
        match = SAMPLE.match(line.strip())
        if match:
            found[match["name"] + (match["labels"] or "")] = float(match["value"])
    return found


def find(service: Service, files: Mapping[str, str] | None = None) -> str | None:
    """The path of the metrics: a common one, or one that the answer names."""
    named: list[str] = [p for text in (files or {}).values() for p in IN_CODE.findall(text)]
    for path in dict.fromkeys([*PATHS, *named]):
        with contextlib.suppress(httpx.TransportError):
            response = service.http.get(path, follow_redirects=True)
            if response.status_code == 200 and parse(response.text):
                return path
    return None


def scrape(service: Service, files: Mapping[str, str] | None = None) -> Samples:
    """All samples; asserts that there is such an endpoint."""
    path = find(service, files)
    assert path is not None, "no Prometheus metrics found (tried /metrics and the like)"
    return parse(service.http.get(path, follow_redirects=True).text)


def own(samples: Samples, matching: str = "") -> Samples:
    """Samples of the service itself, of those whose name or labels match the pattern."""
    pattern = re.compile(matching, re.IGNORECASE)
    return {k: v for k, v in samples.items() if not RUNTIME.search(k) and pattern.search(k)}


def moved(before: Samples, after: Samples, matching: str = "") -> Samples:
    """Series → by how much they changed; a new series counts from 0."""
    changes = {k: v - before.get(k, 0.0) for k, v in own(after, matching).items()}
    return {series: change for series, change in changes.items() if change}


def assert_moves(
    service: Service,
    act: Callable[[], object],
    *,
    matching: str = "",
    by: float = 1.0,
    what: str = "what happened",
    files: Mapping[str, str] | None = None,
    within: float = 3.0,
) -> Samples:
    """After `act`, series whose name or labels match rise by `by` or more in sum.

    Choose `by` above what the scrapes themselves could add. Returns what moved.
    """
    before = scrape(service, files)
    act()
    found: Samples = {}

    def rose() -> None:
        nonlocal found
        found = moved(before, scrape(service, files), matching)
        counted = {k: v for k, v in found.items() if v > 0 and not _is_shape(k)}
        total = sum(counted.values())
        assert total >= by, f"no metric tells of {what}: " + (
            f"{', '.join(sorted(counted)[:4])} rose by {total:g}, wanted {by:g}"
            if counted
            else "none of its own series moved"
        )

    eventually(rose, within)
    return found


def _is_shape(series: str) -> bool:
    """Buckets and sums of a histogram rise with it and would count it several times."""
    name = series.partition("{")[0]
    return name.endswith(("_bucket", "_sum"))
