"""Schema steps, up and down: `python migrate.py up`, `python migrate.py down`."""

import sqlite3
import sys
from pathlib import Path

import config

STEPS = Path(__file__).with_name("migrations")


def connect(data_dir: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        data_dir / "time.db", isolation_level=None, check_same_thread=False, timeout=5
    )
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    return database


def up(database: sqlite3.Connection) -> None:
    """Applies every step that is not applied yet."""
    for path in sorted(STEPS.glob("*.up.sql")):
        number = int(path.name.partition("_")[0])
        if number > _version(database):
            _run(database, path, number)


def down(database: sqlite3.Connection) -> None:
    """Takes the newest applied step back."""
    number = _version(database)
    for path in STEPS.glob(f"{number:04d}_*.down.sql"):
        _run(database, path, number - 1)


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _run(database: sqlite3.Connection, path: Path, version: int) -> None:
    script = path.read_text()
    database.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;")


if __name__ == "__main__":
    steps = {"up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit("usage: python migrate.py up|down")
    steps[sys.argv[1]](connect(config.load().data_dir))
