"""The customers' data in SQLite. Passwords, tokens and codes are in it only as hashes."""

import hashlib
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions (
    token_hash TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS reset_codes (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    code_hash TEXT NOT NULL,
    expires REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS attempts (email_hash TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS attempts_by_time ON attempts (at);
CREATE INDEX IF NOT EXISTS attempts_by_email ON attempts (email_hash, at);
"""
SESSION_S = 12 * 3600
CODE_S = 15 * 60
ATTEMPTS, WINDOW_S = 10, 60
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class EmailTaken(Exception):
    pass


class Store:
    def __init__(self, data_dir: Path) -> None:
        self._database = sqlite3.connect(
            data_dir / "accounts.db", isolation_level=None, check_same_thread=False
        )
        self._database.row_factory = sqlite3.Row
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(SCHEMA)
        self._lock = threading.Lock()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database

    def add_account(self, email: str, name: str, password_hash: str) -> sqlite3.Row:
        account = (uuid.uuid4().hex, email, name, password_hash, datetime.now(UTC).isoformat())
        try:
            with self._transaction() as database:
                return database.execute(
                    "INSERT INTO accounts VALUES (?, ?, ?, ?, ?) RETURNING *", account
                ).fetchone()
        except sqlite3.IntegrityError:
            raise EmailTaken from None

    def find_account(self, email: str) -> sqlite3.Row | None:
        with self._transaction() as database:
            return database.execute("SELECT * FROM accounts WHERE email = ?", (email,)).fetchone()

    def open_session(self, account_id: str) -> str:
        token = secrets.token_urlsafe(32)
        with self._transaction() as database:
            database.execute("DELETE FROM sessions WHERE expires < ?", (time.time(),))
            database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?)",
                (_hash(token), account_id, time.time() + SESSION_S),
            )
        return token

    def account_of_session(self, token: str) -> sqlite3.Row | None:
        with self._transaction() as database:
            return database.execute(
                "SELECT a.* FROM accounts a JOIN sessions s ON s.account_id = a.id"
                " WHERE s.token_hash = ? AND s.expires > ?",
                (_hash(token), time.time()),
            ).fetchone()

    def may_try(self, email: str) -> bool:
        """Counts a try before it is made, so that a hundred at once are not let through.

        Addresses without an account count alike: waiting must not tell who is a customer.
        """
        now = time.time()
        with self._transaction() as database:
            database.execute("DELETE FROM attempts WHERE at < ?", (now - WINDOW_S,))
            (tried,) = database.execute(
                "SELECT COUNT(*) FROM attempts WHERE email_hash = ?", (_hash(email),)
            ).fetchone()
            if tried >= ATTEMPTS:
                return False
            database.execute("INSERT INTO attempts VALUES (?, ?)", (_hash(email), now))
            return True

    def forget_tries(self, email: str) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM attempts WHERE email_hash = ?", (_hash(email),))

    def new_reset_code(self, account_id: str) -> str | None:
        code = "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(2))
        with self._transaction() as database:
            known = database.execute(
                "SELECT 1 FROM accounts WHERE id = ?", (account_id,)
            ).fetchone()
            if not known:
                return None
            database.execute(
                "INSERT OR REPLACE INTO reset_codes VALUES (?, ?, ?)",
                (account_id, _hash(code), time.time() + CODE_S),
            )
        return code

    def reset_password(self, account_id: str, code: str, password_hash: str) -> bool:
        """Uses the code up and ends every session, if the code is right."""
        with self._transaction() as database:
            used = database.execute(
                "DELETE FROM reset_codes WHERE account_id = ? AND code_hash = ? AND expires > ?",
                (account_id, _hash(code), time.time()),
            ).rowcount
            if used:
                database.execute(
                    "UPDATE accounts SET password_hash = ? WHERE id = ?",
                    (password_hash, account_id),
                )
                database.execute("DELETE FROM sessions WHERE account_id = ?", (account_id,))
        return bool(used)


def _hash(random: str) -> str:
    """For what is random or no secret; passwords go through argon2."""
    return hashlib.sha256(random.encode("utf-8", "surrogatepass")).hexdigest()
