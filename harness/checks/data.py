"""A service's data: what its folder holds, and how its schema is versioned."""

from __future__ import annotations

import ast
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks.service import Service

UP_FOLDER = re.compile(r"(^|/)(migrations?|versions|alembic|schema|db)(/|$)", re.IGNORECASE)
NUMBERED = re.compile(r"(^|/)[vV]?\d{1,14}[^/]*\.(sql|py)$")
DOWN_WORD = re.compile(r"(?<![a-z])(down|downgrade|rollback|revert|backwards?|undo)(?![a-z])", re.I)
DOWN_SECTION = re.compile(r"^\s*--+.*(down|rollback|revert|undo)", re.IGNORECASE | re.MULTILINE)
SQL_CHANGE = re.compile(r"\b(drop|alter|delete|create|rename|update|insert)\b", re.IGNORECASE)
SCHEMA_CHANGE = re.compile(
    r"\b(drop|alter|create|rename)\s+(table|index|view|trigger|column|unique|temp)", re.IGNORECASE
)
VERSION_TABLE = re.compile(r"migration|schema_?version|alembic_version|db_version|^version$", re.I)


@dataclass(frozen=True)
class Migrations:
    """What of a versioned schema the files show."""

    up: tuple[str, ...]
    """Files with numbered steps forward; a file with a list of steps in code counts once."""
    down: tuple[str, ...]
    """Where a way back is written."""


def find_migrations(files: Mapping[str, str]) -> Migrations:
    """Steps forward and back: numbered SQL or Python files, alembic, or a list of steps in code."""
    up: list[str] = []
    down: list[str] = []
    for path, text in sorted(files.items()):
        if path.endswith(".sql") and (NUMBERED.search(path) or UP_FOLDER.search(path)):
            if DOWN_WORD.search(Path(path).as_posix().replace("_", " ")):
                if SQL_CHANGE.search(text):
                    down.append(path)
            else:
                up.append(path)
                section = DOWN_SECTION.search(text)
                if section and SQL_CHANGE.search(text[section.end() :]):
                    down.append(path)
        elif path.endswith(".py"):
            forward, back = _python_steps(path, text)
            up += [path] * forward
            down += [path] * back
    return Migrations(tuple(up), tuple(down))


def _python_steps(path: str, text: str) -> tuple[bool, bool]:
    """Whether a Python file holds steps forward, and SQL that takes one back.

    A function that runs what is written elsewhere is no way back by itself.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False, False
    forward = bool(NUMBERED.search(path) and UP_FOLDER.search(path))
    back = False
    defined = _definitions(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = node.name.replace("_", " ")
            forward = forward or bool(re.search(r"\b(migrat\w*|upgrade|apply)\b", words, re.I))
            back = back or bool(DOWN_WORD.search(words) and _changes_schema(node))
        for name, value in named(node):
            words = name.replace("_", " ")
            if re.search(r"migration|schema versions|\bsteps\b", words, re.I):
                forward = True
            if DOWN_WORD.search(words):
                back = back or _changes_schema(value, defined)
        # Steps as plain tuples: (1, "create …", "drop …").
        if isinstance(node, ast.Tuple | ast.Call) and _is_step_with_way_back(node):
            forward = back = True
    return forward, back


def named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that are given to a value: keyword, dict key, variable, attribute."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg:
                yield keyword.arg, keyword.value
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, value
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value


def _definitions(tree: ast.Module) -> dict[str, ast.AST]:
    """Functions and variables by name."""
    found: dict[str, ast.AST] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= dict(named(node))
    return found


def _changes_schema(value: ast.AST, defined: Mapping[str, ast.AST] | None = None) -> bool:
    """A statement that changes a schema, alembic's ``op.…``, or a name that stands for one."""
    if isinstance(value, ast.Name) and defined and value.id in defined:
        return _changes_schema(defined[value.id])
    for node in ast.walk(value):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if SCHEMA_CHANGE.search(node.value):
                return True
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "op"
        ):
            return True
    return False


def _is_step_with_way_back(node: ast.Tuple | ast.Call) -> bool:
    items = node.elts if isinstance(node, ast.Tuple) else node.args
    texts = [
        " ".join(str(n.value) for n in ast.walk(item) if isinstance(n, ast.Constant))
        for item in items
    ]
    creates = [i for i, text in enumerate(texts) if re.search(r"\b(create|alter)\s", text, re.I)]
    drops = [i for i, text in enumerate(texts) if re.search(r"(^|;)\s*(drop|alter)\s", text, re.I)]
    first = items[0].value if items and isinstance(items[0], ast.Constant) else None
    numbered = isinstance(first, int) or bool(re.match(r"v?\d", str(first)))
    numbered = numbered or (isinstance(node, ast.Tuple) and len(items) == 2)
    return numbered and bool(creates) and any(i > creates[0] for i in drops)


def assert_way_back(files: Mapping[str, str]) -> None:
    """The files hold numbered or listed schema migrations, and a way back."""
    found = find_migrations(files)
    assert found.up, "no schema migrations found: no numbered SQL or Python files, no list of steps"
    assert found.down, f"the migrations ({', '.join(found.up[:3])}) have no way back"


def assert_versioned(service: Service) -> None:
    """A database in the data folder records which version of the schema it has."""
    databases = list(sqlite_files(service))
    assert databases, "there is no SQLite database in DATA_DIR"
    for database in databases:
        if int(query(database, "PRAGMA user_version")[0][0]) > 0:
            return
        tables = query(database, "SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables:
            if VERSION_TABLE.search(table) and query(database, f'SELECT * FROM "{table}" LIMIT 1'):
                return
    raise AssertionError("no database records the version of its schema")


def sqlite_files(service: Service) -> Iterator[Path]:
    """The SQLite databases in the data folder."""
    for path in sorted(service.data.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(16)
            if head == b"SQLite format 3\x00":
                yield path


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows from a copy of the database: looking must not lock or change what the service uses."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            source = database.with_name(database.name + suffix)
            if source.exists():
                shutil.copyfile(source, Path(folder) / ("copy.db" + suffix))
        connection = sqlite3.connect(Path(folder) / "copy.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()
