"""Configuration: a service that cannot work with what it was given says so and does not start."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from harness.checks.service import Service


def refuses_without(
    launch: Callable[..., Service],
    environment: Mapping[str, str],
    name: str,
    *,
    within: float = 15.0,
) -> None:
    """Without that variable it ends with an error, and its log names the variable."""
    rest = {key: value for key, value in environment.items() if key != name}
    _refuses(launch(environment=rest, wait=False), name, f"without {name}", within)


def refuses_nonsense(
    launch: Callable[..., Service],
    environment: Mapping[str, str],
    name: str,
    value: str,
    *,
    within: float = 15.0,
) -> None:
    """With that value of the variable it ends with an error, and its log names the variable."""
    changed = {**environment, name: value}
    _refuses(launch(environment=changed, wait=False), name, f"with {name}={value!r}", within)


def _refuses(service: Service, name: str, how: str, within: float) -> None:
    code = _ended(service, within)
    assert code is not None, f"{how} the service runs on instead of refusing to start"
    assert code != 0, f"{how} the service ends with exit code 0, as if all were well"
    # A settings class names its field, often without the prefix that the variable has.
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part]
    names = {name.lower(), *("_".join(parts[start:]).lower() for start in range(len(parts) - 1))}
    text = service.log_text().lower()
    assert any(known in text for known in names), (
        f"{how} the service ends, but its log does not name the variable"
    )


def _ended(service: Service, within: float) -> int | None:
    """Its exit code; None if it runs on: it listens and stays so for 2 s, or `within` s are over.

    A busy machine may take seconds to start a service, so the time to start is not counted.
    """
    until = time.monotonic() + within
    while (code := service.wait_exit(0.1)) is None and time.monotonic() < until:
        if service.connects():
            return service.wait_exit(2.0)
    return code
