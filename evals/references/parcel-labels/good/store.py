"""Shipments in SQLite. One thread owns the only connection, so statements never race."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from telemetry import Origin

T = TypeVar("T")


@dataclass(frozen=True)
class Shipment:
    id: str
    """Also the carrier's `reference`: the same for every attempt, so it is billed once."""
    order_id: str
    request: str
    status: str
    tracking_number: str | None
    label_url: str | None
    failure_reason: str | None
    attempts: int
    created_at: datetime
    origin: Origin


class KeyReused(Exception):
    """The idempotency key belongs to a shipment with another body."""


class Store:
    def __init__(self, database: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._db = self._thread.submit(connect, database).result()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.submit(self._db.close).result()
        self._thread.shutdown()

    async def create(
        self, key: str, body_hash: str, order_id: str, request: str, origin: Origin
    ) -> tuple[Shipment, bool]:
        """The key's shipment, and whether it is new. Durable when this returns."""
        now = _text(datetime.now(UTC))
        new = (
            *(str(uuid4()), key, body_hash, order_id, request, now, now),
            *(origin.request_id, origin.trace_id, origin.trace_flags),
        )

        def work() -> tuple[Shipment, bool]:
            added = self._db.execute(
                "INSERT INTO shipments (id, idempotency_key, body_hash, order_id, request,"
                " created_at, next_attempt_at, request_id, trace_id, trace_flags)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING",
                new,
            ).rowcount
            row = self._db.execute(
                "SELECT * FROM shipments WHERE idempotency_key = ?", (key,)
            ).fetchone()
            if row["body_hash"] != body_hash:
                raise KeyReused
            return _shipment(row), bool(added)

        return await self._run(work)

    async def get(self, id: str) -> Shipment | None:
        rows = await self._select("WHERE id = ?", id)
        return rows[0] if rows else None

    async def newest(self, status: str | None, limit: int = 100) -> list[Shipment]:
        where = "WHERE status = ?" if status else "WHERE ? IS NULL"
        return await self._select(f"{where} ORDER BY created_at DESC LIMIT {int(limit)}", status)

    async def due(self, limit: int, besides: Collection[str]) -> list[Shipment]:
        """Pending shipments whose next attempt is due: new ones first, then by waiting time."""
        marks = ", ".join("?" * len(besides))
        return await self._select(
            f"WHERE status = 'pending' AND next_attempt_at <= ? AND id NOT IN ({marks})"
            " ORDER BY attempts > 0, next_attempt_at LIMIT ?",
            *(_text(datetime.now(UTC)), *besides, limit),
        )

    async def _select(self, where: str, *values: Any) -> list[Shipment]:
        def work() -> list[Shipment]:
            rows = self._db.execute(f"SELECT * FROM shipments {where}", values)
            return [_shipment(row) for row in rows]

        return await self._run(work)

    async def labelled(self, id: str, tracking_number: str, label_url: str) -> None:
        await self._settle(id, "labelled", tracking_number, label_url, None)

    async def failed(self, id: str, reason: str) -> None:
        await self._settle(id, "failed", None, None, reason)

    async def _settle(self, id: str, *result: str | None) -> None:
        await self._run(
            lambda: self._db.execute(
                "UPDATE shipments SET status = ?, tracking_number = ?, label_url = ?,"
                " failure_reason = ?, attempts = attempts + 1 WHERE id = ? AND status = 'pending'",
                (*result, id),
            )
        )

    async def attempt_again(self, id: str, after: timedelta) -> None:
        at = _text(datetime.now(UTC) + after)
        await self._run(
            lambda: self._db.execute(
                "UPDATE shipments SET attempts = attempts + 1, next_attempt_at = ? WHERE id = ?",
                (at, id),
            )
        )

    async def overdue(self, created_before: datetime, besides: Collection[str]) -> list[Shipment]:
        marks = ", ".join("?" * len(besides))
        return await self._select(
            f"WHERE status = 'pending' AND created_at < ? AND id NOT IN ({marks})",
            *(_text(created_before), *besides),
        )

    async def waiting(self) -> tuple[int, datetime | None]:
        """How many are pending, and since when the oldest is. Fails if the database does."""

        def work() -> tuple[int, datetime | None]:
            count, oldest = self._db.execute(
                "SELECT count(*), min(created_at) FROM shipments WHERE status = 'pending'"
            ).fetchone()
            return count, datetime.fromisoformat(oldest) if oldest else None

        return await self._run(work)


def connect(database: Path) -> sqlite3.Connection:
    """Autocommit: every statement is a transaction, on disk when it returns (FULL)."""
    db = sqlite3.connect(database, timeout=5, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    return db


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")


def _shipment(row: sqlite3.Row) -> Shipment:
    return Shipment(
        **{name: row[name] for name in ("id", "order_id", "request", "status", "attempts")},
        **{name: row[name] for name in ("tracking_number", "label_url", "failure_reason")},
        created_at=datetime.fromisoformat(row["created_at"]),
        origin=Origin(row["request_id"], row["trace_id"], row["trace_flags"]),
    )
