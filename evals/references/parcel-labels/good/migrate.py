"""Schema changes as numbered steps, each with a way back: `python migrate.py up|down|status`."""

import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

FOLDER = Path(__file__).with_name("migrations")


class MigrationError(Exception):
    """The database and the steps here do not fit."""


def steps() -> dict[int, tuple[str, str]]:
    """Version → SQL forward and back."""
    found = {}
    for path in sorted(FOLDER.glob("*.up.sql")):
        back = path.with_name(path.name.replace(".up.sql", ".down.sql"))
        match = re.match(r"\d+", path.name)
        assert match is not None, path
        found[int(match[0])] = (path.read_text(), back.read_text())
    return found


def version(db: sqlite3.Connection) -> int:
    db.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
    )
    return int(db.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()[0])


def up(database: Path) -> int:
    """Applies what is missing, each step in one transaction with its row. Returns the version."""
    with closing(_connect(database)) as db:
        now, known = version(db), steps()
        if now > max(known):
            raise MigrationError(f"{database} has schema {now}, this release knows {max(known)}")
        for number in [number for number in known if number > now]:
            record = f"INSERT INTO schema_version (version) VALUES ({number});"
            db.executescript(f"BEGIN IMMEDIATE; {known[number][0]} {record} COMMIT;")
        return version(db)


def down(database: Path) -> int:
    """Takes the last step back. Returns the version that is left."""
    with closing(_connect(database)) as db:
        now = version(db)
        if now:
            record = f"DELETE FROM schema_version WHERE version = {now};"
            db.executescript(f"BEGIN IMMEDIATE; {steps()[now][1]} {record} COMMIT;")
        return version(db)


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=5, isolation_level=None)


if __name__ == "__main__":
    target = Path(os.environ["DATA_DIR"]) / "shipments.db"
    commands = {"up": up, "down": down, "status": lambda path: version(_connect(path))}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit("usage: python migrate.py up|down|status")
    print(f"schema version {commands[sys.argv[1]](target)}")
