"""The configuration, read from the environment once and checked before anything starts."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


class ConfigError(Exception):
    """Names the variable that is missing or makes no sense."""


@dataclass(frozen=True)
class Config:
    port: int
    data: Path
    billing_url: str
    billing_token: str = field(repr=False)
    max_backlog: int = 50
    processing: bool = True

    @property
    def database(self):
        return self.data / "intake.db"

    @property
    def files(self):
        return self.data / "files"


def load(env=os.environ):
    url = _required(env, "BILLING_URL").rstrip("/")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"BILLING_URL must be an http(s) address, not {url!r}")
    processing = env.get("PROCESSING", "on")
    if processing not in ("on", "off"):
        raise ConfigError(f"PROCESSING must be on or off, not {processing!r}")
    return Config(
        port=_integer("PORT", _required(env, "PORT"), 1, 65535),
        data=Path(_required(env, "DATA_DIR")),
        billing_url=url,
        billing_token=_required(env, "BILLING_TOKEN"),
        max_backlog=_integer("MAX_BACKLOG", env.get("MAX_BACKLOG", "50"), 1, 100_000),
        processing=processing == "on",
    )


def _required(env, name):
    value = env.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set")
    return value


def _integer(name, text, low, high):
    if not (text.isascii() and text.isdecimal()) or not low <= int(text) <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {text!r}")
    return int(text)
