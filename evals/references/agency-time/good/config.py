"""Settings from the environment, checked once at the start."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    port: int
    data_dir: Path
    jwt_secret: str


def load() -> Config:
    """Raises ValueError with a message that names the variable."""
    secret = os.environ.get("JWT_SECRET", "")
    if len(secret.encode()) < 32:
        raise ValueError("JWT_SECRET must be set, to 32 bytes or more")
    port = os.environ.get("PORT", "")
    if not port.isdecimal():
        raise ValueError("PORT must be set, to a number")
    if not os.environ.get("DATA_DIR"):
        raise ValueError("DATA_DIR must be set, to a folder")
    return Config(int(port), Path(os.environ["DATA_DIR"]), secret)
