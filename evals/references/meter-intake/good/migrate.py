"""Changes of the tables as numbered steps: `python migrate.py up [N]` or `down [N]`.

Each step is a pair migrations/NNNN_name.up.sql and .down.sql; schema_migrations records which ones
are applied. The service applies what is missing when it starts.
"""

import os
import re
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).parent / "migrations"


def steps():
    return {int(re.match(r"\d+", path.name)[0]): path for path in sorted(FOLDER.glob("*.up.sql"))}


def migrate(database, target=None):
    """Brings the tables to version `target` (the newest by default), up or down."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)"
    )
    applied = {row[0] for row in connection.execute("SELECT version FROM schema_migrations")}
    target = max(steps()) if target is None else target
    for version, path in steps().items():
        if version <= target and version not in applied:
            now = datetime.now(UTC).isoformat()
            record = f"INSERT INTO schema_migrations VALUES ({version}, '{now}');"
            _run(connection, path.read_text(), record)
    for version, path in reversed(steps().items()):
        if version > target and version in applied:
            down = path.with_name(path.name.replace(".up.sql", ".down.sql"))
            record = f"DELETE FROM schema_migrations WHERE version = {version};"
            _run(connection, down.read_text(), record)
    connection.close()


def _run(connection, sql, record):
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {sql} {record} COMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


if __name__ == "__main__":
    direction = sys.argv[1] if len(sys.argv) > 1 else "up"
    if direction not in ("up", "down"):
        sys.exit(__doc__)
    last = max(steps()) if direction == "up" else 0
    migrate(Path(os.environ["DATA_DIR"]) / "intake.db", int(sys.argv[2]) if sys.argv[2:] else last)
