"""All SQL of the service. Each public method is one transaction; each thread has a connection."""

import sqlite3
import threading
from contextlib import contextmanager

BATCH = "batch_id, sha256, status, stored, duplicates, rejected, billing"


class Store:
    def __init__(self, config):
        self._config = config
        self._local = threading.local()

    def _connection(self):
        if not hasattr(self._local, "connection"):
            connection = sqlite3.connect(self._config.database, timeout=10, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut
            self._local.connection = connection
        return self._local.connection

    @contextmanager
    def _write(self):
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _all(self, sql, *values):
        return self._connection().execute(sql, values).fetchall()

    def _one(self, sql, *values):
        return self._connection().execute(sql, values).fetchone()

    # --- files coming in ------------------------------------------------------

    def batch(self, batch_id):
        return self._one(f"SELECT {BATCH} FROM batches WHERE batch_id = ?", batch_id)

    def has_room(self, batch_id):
        """Whether a file is known already or there is room for one more: a cheap first look."""
        return self.batch(batch_id) is not None or self.waiting() < self._config.max_backlog

    def accept(self, batch_id, sha256, file, request_id, traceparent):
        """The batch, and what happened: 'new', 'known', 'reused' (other bytes) or 'full'."""
        with self._write() as db:
            row = db.execute(
                f"SELECT {BATCH} FROM batches WHERE batch_id = ?", (batch_id,)
            ).fetchone()
            if row is not None:
                return row, "known" if row["sha256"] == sha256 else "reused"
            if self.waiting() >= self._config.max_backlog:
                return None, "full"
            row = db.execute(
                "INSERT INTO batches (batch_id, sha256, file, request_id, traceparent) "
                f"VALUES (?, ?, ?, ?, ?) RETURNING {BATCH}",
                (batch_id, sha256, file, request_id, traceparent),
            ).fetchone()
            return row, "new"

    def waiting(self):
        return self._one("SELECT count(*) FROM batches WHERE status <> 'done'")[0]

    def remove_orphans(self):
        """Removes files that no unfinished batch needs: uploads that a crash cut off."""
        needed = {
            row["file"] for row in self._all("SELECT file FROM batches WHERE status <> 'done'")
        }
        for path in self._config.files.iterdir():
            if path.name not in needed:
                path.unlink()

    def path(self, file):
        return self._config.files / file

    # --- processing -----------------------------------------------------------

    def next_batch(self):
        """The oldest unfinished batch."""
        return self._one("SELECT * FROM batches WHERE status <> 'done' ORDER BY seq LIMIT 1")

    def apply(self, batch_id, readings, rejected, position, line, done):
        """Stores a chunk of a file, its counts and the place reached, all or nothing.

        `readings` are (line, Reading), `rejected` (line, reason). Returns what was rejected.
        """
        with self._write() as db:
            stored = duplicates = 0
            for number, reading in readings:
                new = db.execute(
                    "INSERT OR IGNORE INTO readings VALUES (?, ?, ?)", reading
                ).rowcount
                if new:
                    stored += 1
                    continue
                kept = db.execute(
                    "SELECT wh FROM readings WHERE meter = ? AND at = ?", reading[:2]
                ).fetchone()
                if kept["wh"] == reading.wh:
                    duplicates += 1
                else:
                    rejected.append((number, "conflict"))
            db.executemany(
                "INSERT INTO rejected_lines VALUES (?, ?, ?)",
                [(batch_id, number, reason) for number, reason in rejected],
            )
            db.execute(
                "UPDATE batches SET stored = stored + ?, duplicates = duplicates + ?, "
                "rejected = rejected + ?, position = ?, line = ?, status = ? WHERE batch_id = ?",
                (
                    stored,
                    duplicates,
                    len(rejected),
                    position,
                    line,
                    "done" if done else "processing",
                    batch_id,
                ),
            )
        return rejected

    # --- reading --------------------------------------------------------------

    def rejected(self, batch_id, after, limit):
        return self._all(
            "SELECT line, reason FROM rejected_lines WHERE batch_id = ? AND line > ? "
            "ORDER BY line LIMIT ?",
            batch_id,
            after,
            limit,
        )

    def knows_meter(self, meter):
        return self._one("SELECT 1 FROM readings WHERE meter = ? LIMIT 1", meter) is not None

    def readings(self, meter, start, end, limit):
        return self._all(
            "SELECT at, wh FROM readings WHERE meter = ? AND at >= ? AND at < ? "
            "ORDER BY at LIMIT ?",
            meter,
            start,
            end,
            limit,
        )

    # --- billing --------------------------------------------------------------

    def next_notice(self):
        """A finished batch that billing has not got; the least often tried first."""
        return self._one(
            "SELECT * FROM batches WHERE billing = 'pending' AND status = 'done' "
            "ORDER BY billing_attempts, seq LIMIT 1"
        )

    def notice_tried(self, batch_id, billing):
        with self._write() as db:
            db.execute(
                "UPDATE batches SET billing = ?, billing_attempts = billing_attempts + 1 "
                "WHERE batch_id = ?",
                (billing, batch_id),
            )

    def notices_waiting(self):
        return self._one(
            "SELECT count(*) FROM batches WHERE billing = 'pending' AND status = 'done'"
        )[0]
