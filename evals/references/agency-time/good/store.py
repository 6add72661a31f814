"""All SQL. Every statement names the tenant; what a member may not see is left out here, too."""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from domain import Caller, Refused, from_cents, price

NOT_FOUND = Refused("not_found", "there is no such thing")


class Store:
    """One connection behind one lock: at 60 requests a second that is simple and fast enough."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._lock = threading.Lock()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def ping(self) -> None:
        with self._lock:
            self._database.execute("SELECT 1 FROM entries LIMIT 1")

    def create_project(self, caller: Caller, name: str, rate_cents: int) -> dict[str, Any]:
        project_id = uuid.uuid4().hex
        with self._transaction() as database:
            database.execute(
                "INSERT INTO projects (id, tenant, name, rate_cents) VALUES (?, ?, ?, ?)",
                (project_id, caller.tenant, name, rate_cents),
            )
        return {"id": project_id, "name": name, "hourly_rate": from_cents(rate_cents)}

    def list_projects(self, caller: Caller) -> list[dict[str, Any]]:
        with self._transaction() as database:
            rows = database.execute(
                "SELECT id, name, rate_cents FROM projects WHERE tenant = ? ORDER BY name, id",
                (caller.tenant,),
            ).fetchall()
        return [
            {
                "id": row["id"],
                "name": row["name"],
                "hourly_rate": from_cents(row["rate_cents"]) if caller.sees_rates else None,
            }
            for row in rows
        ]

    def log_entry(
        self, caller: Caller, project_id: str, key: str, body: Any, fields: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        """The entry and its ETag; those of the first time if the key is known."""
        request = json.dumps([project_id, body], sort_keys=True)
        with self._transaction() as database:
            known = database.execute(
                "SELECT request, response, etag FROM idempotency_keys"
                " WHERE tenant = ? AND sub = ? AND key = ?",
                (caller.tenant, caller.sub, key),
            ).fetchone()
            if known:
                if known["request"] != request:
                    raise Refused("key_reused", "this key was used for another request")
                return json.loads(known["response"]), known["etag"]
            if not database.execute(
                "SELECT 1 FROM projects WHERE tenant = ? AND id = ?", (caller.tenant, project_id)
            ).fetchone():
                raise NOT_FOUND
            cursor = database.execute(
                "INSERT INTO entries (id, tenant, project_id, user_id, date, minutes, note)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
                (
                    uuid.uuid4().hex,
                    caller.tenant,
                    project_id,
                    caller.sub,
                    fields["date"],
                    fields["minutes"],
                    fields["note"],
                ),
            )
            row = cursor.fetchone()
            database.execute(
                "INSERT INTO idempotency_keys (tenant, sub, key, request, response, etag)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (caller.tenant, caller.sub, key, request, json.dumps(_entry(row)), _etag(row)),
            )
        return _entry(row), _etag(row)

    def read_entry(self, caller: Caller, entry_id: str) -> tuple[dict[str, Any], str]:
        with self._transaction() as database:
            row = _visible(database, caller, entry_id)
        return _entry(row), _etag(row)

    def edit_entry(
        self, caller: Caller, entry_id: str, if_match: str | None, changes: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        with self._transaction() as database:
            row = _visible(database, caller, entry_id)
            if if_match is None:
                raise Refused("precondition_required", "If-Match is required")
            if if_match != _etag(row):
                raise Refused("stale", "the entry was changed since; load it again")
            changed = {**dict(row), **changes}
            row = database.execute(
                "UPDATE entries SET date = ?, minutes = ?, note = ?, version = version + 1"
                " WHERE tenant = ? AND id = ? RETURNING *",
                (changed["date"], changed["minutes"], changed["note"], caller.tenant, entry_id),
            ).fetchone()
        return _entry(row), _etag(row)

    def list_entries(
        self,
        caller: Caller,
        filters: dict[str, str],
        limit: int,
        after: tuple[str, int] | None,
    ) -> tuple[list[dict[str, Any]], tuple[str, int] | None]:
        """A page, and the position of its last entry if more follow."""
        where, values = ["tenant = ?"], [caller.tenant]
        if not caller.sees_all:
            where.append("user_id = ?")
            values.append(caller.sub)
        columns = {
            "project_id": "project_id = ?",
            "user_id": "user_id = ?",
            "from": "date >= ?",
            "to": "date <= ?",
        }
        for name, value in filters.items():
            where.append(columns[name])
            values.append(value)
        if after:
            where.append("(date, seq) < (?, ?)")
        sql = (
            f"SELECT * FROM entries WHERE {' AND '.join(where)}"
            " ORDER BY date DESC, seq DESC LIMIT ?"
        )
        with self._transaction() as database:
            rows = database.execute(sql, (*values, *(after or ()), limit + 1)).fetchall()
        page = rows[:limit]
        following = (page[-1]["date"], page[-1]["seq"]) if len(rows) > limit else None
        return [_entry(row) for row in page], following

    def monthly_report(self, caller: Caller, month: str) -> dict[str, Any]:
        with self._transaction() as database:
            rows = database.execute(
                "SELECT p.id, p.name, p.rate_cents, SUM(e.minutes) AS minutes"
                " FROM entries e JOIN projects p ON p.tenant = e.tenant AND p.id = e.project_id"
                " WHERE e.tenant = ? AND substr(e.date, 1, 7) = ?"
                " GROUP BY p.id ORDER BY p.name, p.id",
                (caller.tenant, month),
            ).fetchall()
        amounts = [price(row["minutes"], row["rate_cents"]) for row in rows]
        return {
            "month": month,
            "minutes": sum(row["minutes"] for row in rows),
            "amount": from_cents(sum(amounts)),
            "projects": [
                {
                    "project_id": row["id"],
                    "name": row["name"],
                    "minutes": row["minutes"],
                    "amount": from_cents(amount),
                }
                for row, amount in zip(rows, amounts, strict=True)
            ],
        }


def _visible(database: sqlite3.Connection, caller: Caller, entry_id: str) -> sqlite3.Row:
    row = database.execute(
        "SELECT * FROM entries WHERE tenant = ? AND id = ?", (caller.tenant, entry_id)
    ).fetchone()
    if row is None or not (caller.sees_all or row["user_id"] == caller.sub):
        raise NOT_FOUND
    return row


def _entry(row: sqlite3.Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "project_id", "user_id", "date", "minutes", "note")}


def _etag(row: sqlite3.Row) -> str:
    return f'"{row["version"]}"'
