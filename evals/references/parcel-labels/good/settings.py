"""The settings, read once; nothing else looks at the environment."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


class SettingsError(Exception):
    """Every setting that is wrong, by name."""


@dataclass(frozen=True)
class Settings:
    port: int
    database: Path
    carrier_url: str
    carrier_token: str
    label_deadline_s: float

    @classmethod
    def from_environment(cls) -> "Settings":
        wrong: list[str] = []

        def number(name: str, default: str, low: float, high: float) -> float:
            text = os.environ.get(name, default)
            try:
                if low <= float(text) <= high:
                    return float(text)
            except ValueError:
                pass
            wrong.append(f"{name}: {text!r} is not a number from {low:g} to {high:g}")
            return low

        url = os.environ.get("CARRIER_URL", "").rstrip("/")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            wrong.append(f"CARRIER_URL: {url!r} is not an http(s) URL")
        token = os.environ.get("CARRIER_TOKEN", "")
        if not token.strip():
            wrong.append("CARRIER_TOKEN: missing")
        data = Path(os.environ.get("DATA_DIR", "data"))
        if not data.is_dir():
            wrong.append(f"DATA_DIR: {str(data)!r} is not a folder")
        port = number("PORT", "8080", 1, 65535)
        deadline = number("LABEL_DEADLINE_S", "900", 1, 86400)
        if wrong:
            raise SettingsError("; ".join(wrong))
        return cls(int(port), data / "shipments.db", url, token, deadline)
