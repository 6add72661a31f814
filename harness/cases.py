"""Loads the benchmark: the rubric, the runtimes and the cases under ``evals/``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError
from harness.records import How, canonical_json, sha256


@dataclass(frozen=True)
class Criterion:
    """One line of the rubric: a claim, the rules it stands for, and how it is checked."""

    id: str
    claim: str
    rules: tuple[str, ...]
    how: How
    dimension: str
    evidence: str | None = None
    """Judged only: ``presence`` (a pass needs a quote) or ``absence`` (a fail needs one)."""
    critical: bool = False


@dataclass(frozen=True)
class Rubric:
    """Every criterion by id, and the title of every dimension by id, both in file order."""

    criteria: Mapping[str, Criterion]
    dimensions: Mapping[str, str]


@dataclass(frozen=True)
class Runtime:
    """What a generated service may use and how it is started; the same text in every arm."""

    id: str
    environment: str
    """Markdown that goes into the prompt."""
    start: tuple[str, ...]
    """Command line of the service in its own folder; ``python`` is the runtime's interpreter."""
    requirements: Path
    """Pinned requirements file of the packages that a service may import."""


@dataclass(frozen=True)
class Case:
    """One benchmark prompt with its contract, its checks and the criteria that apply to it."""

    id: str
    title: str
    kind: str
    folder: Path
    prompt: str
    openapi: str | None
    runtime: Runtime | None
    """None for a case whose answer is prose alone."""
    criteria: tuple[str, ...]
    entails: Mapping[str, tuple[str, ...]]
    """Criterion → those that fail with it, of necessity, on the same defect."""
    tolerance_s: float
    """A scheduling delay of the grader above this makes a failed check run again, alone."""

    @property
    def tests(self) -> Path:
        """The pytest file with the executed checks."""
        return self.folder / f"test_{self.id.replace('-', '_')}.py"

    @property
    def digest(self) -> str:
        """SHA-256 over what the model sees of the case (not over its checks)."""
        environment = self.runtime.environment if self.runtime else ""
        return sha256(canonical_json([self.prompt, self.openapi, environment]))


@dataclass(frozen=True)
class Suite:
    """The whole benchmark: rubric, answer format, and the cases by id."""

    folder: Path
    rubric: Rubric
    cases: Mapping[str, Case]
    answer_format: str

    def select(self, names: Iterable[str]) -> list[Case]:
        """The named cases in the suite's order; all for no names. Raises UserError on a typo."""
        wanted = list(names)
        for name in wanted:
            if name not in self.cases:
                raise UserError(f"unknown case {suggest(name, self.cases)}")
        return [case for case in self.cases.values() if not wanted or case.id in wanted]


def load_suite(folder: Path) -> Suite:
    """Reads ``evals/``. Raises UserError naming the file, the key and the mend."""
    rubric = load_rubric(folder / "rubric.yaml")
    runtimes = {
        path.parent.name: _load_runtime(path)
        for path in sorted((folder / "runtimes").glob("*/runtime.yaml"))
    }
    paths = sorted((folder / "cases").glob("*/case.yaml"))
    if not paths:
        raise UserError(f"{folder / 'cases'}: no case found (a case is a folder with a case.yaml)")
    cases = {path.parent.name: _load_case(path, rubric, runtimes) for path in paths}
    return Suite(folder, rubric, cases, _read(folder / "answer-format.md"))


def load_rubric(path: Path) -> Rubric:
    """Reads ``rubric.yaml``. Raises UserError on an unknown key, a double id or a missing field."""
    data = _mapping(path, "version", "dimensions")
    criteria: dict[str, Criterion] = {}
    dimensions: dict[str, str] = {}
    for dimension in data["dimensions"]:
        dimensions[dimension["id"]] = dimension["title"]
        for position, entry in enumerate(dimension["criteria"]):
            where = f"{path}: {dimension['id']}.criteria[{position}]"
            criterion = _criterion(entry, dimension["id"], where)
            if criterion.id in criteria:
                raise UserError(f"{where}: {criterion.id!r} is defined twice; rename one")
            criteria[criterion.id] = criterion
    return Rubric(criteria, dimensions)


def _criterion(entry: Mapping[str, Any], dimension: str, where: str) -> Criterion:
    known = {"id", "claim", "rules", "how", "evidence", "critical"}
    for key in entry:
        if key not in known:
            raise UserError(f"{where}: unknown key {suggest(key, known)}")
    for key in ("id", "claim", "rules", "how"):
        if not entry.get(key):
            raise UserError(f"{where}: {key!r} is missing")
    if entry["how"] not in ("executed", "static", "judged"):
        raise UserError(f"{where}: how: {entry['how']!r} is none of executed, static, judged")
    if (entry["how"] == "judged") != (entry.get("evidence") in ("presence", "absence")):
        raise UserError(f"{where}: 'evidence: presence|absence' goes with 'how: judged'")
    return Criterion(
        id=entry["id"],
        claim=" ".join(entry["claim"].split()),
        rules=tuple(entry["rules"]),
        how=entry["how"],
        dimension=dimension,
        evidence=entry.get("evidence"),
        critical=bool(entry.get("critical", False)),
    )


def _load_runtime(path: Path) -> Runtime:
    data = _mapping(path, "start")
    return Runtime(
        id=path.parent.name,
        environment=_read(path.with_name("environment.md")),
        start=tuple(data["start"]),
        requirements=path.with_name("requirements.txt"),
    )


def _load_case(path: Path, rubric: Rubric, runtimes: Mapping[str, Runtime]) -> Case:
    data = _mapping(path, "title", "kind", "criteria", optional=("runtime", "tolerance_s"))
    name = data.get("runtime")
    if name is not None and name not in runtimes:
        raise UserError(f"{path}: runtime: unknown runtime {suggest(name, runtimes)}")
    criteria: list[str] = []
    entails: dict[str, tuple[str, ...]] = {}
    for position, entry in enumerate(data["criteria"]):
        where = f"{path}: criteria[{position}]"
        item = {"id": entry} if isinstance(entry, str) else dict(entry)
        for criterion in [item.get("id"), *item.get("entails", [])]:
            if criterion not in rubric.criteria:
                raise UserError(f"{where}: unknown criterion {suggest(criterion, rubric.criteria)}")
        if item["id"] in criteria:
            raise UserError(f"{where}: {item['id']!r} is listed twice; remove one")
        criteria.append(item["id"])
        entails[item["id"]] = tuple(item.get("entails", ()))
    openapi = path.with_name("openapi.yaml")
    return Case(
        id=path.parent.name,
        title=data["title"],
        kind=data["kind"],
        folder=path.parent,
        prompt=_read(path.with_name("prompt.md")),
        openapi=_read(openapi) if openapi.exists() else None,
        runtime=runtimes[name] if name else None,
        criteria=tuple(criteria),
        entails=entails,
        tolerance_s=float(data.get("tolerance_s", 0.25)),
    )


def _mapping(path: Path, *required: str, optional: Iterable[str] = ()) -> dict[str, Any]:
    try:
        data = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a mapping with the keys {', '.join(required)}")
    for key in required:
        if key not in data:
            raise UserError(f"{path}: the key {key!r} is missing")
    for key in data:
        if key not in (*required, *optional):
            raise UserError(f"{path}: unknown key {suggest(key, (*required, *optional))}")
    return data


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8") from None


def suggest(name: object, known: Iterable[str]) -> str:
    """A name in quotes, with the known name that it is closest to, if one is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f'"{name}"' + (f'; did you mean "{close[0]}"?' if close else "")
