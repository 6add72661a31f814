"""Proves the checks: a known-good service passes all of them, and each mutant fails its own.

A mutant is a patch against the good service, named after the criterion that it breaks:
``mutants/<criterion>.patch``, or ``<criterion>--<variant>.patch`` for another way to break it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.cases import Case, Suite
from harness.errors import UserError
from harness.grading import executed, static
from harness.grading.cell import CellFactory
from harness.records import Verdict

GOOD = "good"
SIDE_BY_SIDE = 2
"""Services graded at once. How many cells run at once is the factory's to bound."""


@dataclass(frozen=True)
class ProofRow:
    """One service of a case: the criteria that it may fail, must fail, and did not pass."""

    case: str
    service: str
    """`good`, or the name of a mutant."""
    target: str | None
    """The criterion that the mutant breaks; None for the good service."""
    entailed: frozenset[str]
    """Criteria that fail, or may fail, with the target."""
    got: Mapping[str, Verdict]
    """Criterion → verdict, of every executed and static criterion."""
    problem: str = ""
    """Why nothing was graded."""

    @property
    def surplus(self) -> list[Verdict]:
        """Verdicts that are no pass and have no right to be none."""
        allowed = {self.target, *self.entailed}
        return [v for c, v in self.got.items() if v.outcome != "pass" and c not in allowed]

    @property
    def missed(self) -> bool:
        """Whether the mutant got away."""
        return self.target is not None and self.got[self.target].outcome != "fail"

    @property
    def ok(self) -> bool:
        return not (self.problem or self.missed or self.surplus)

    @property
    def told(self) -> str:
        """One line for a person."""
        if self.problem:
            return self.problem
        parts = []
        if self.missed:
            assert self.target is not None
            verdict = self.got[self.target]
            parts.append(f"{self.target}: {verdict.outcome}, wanted fail ({_why(verdict)})")
        parts += [f"{v.criterion}: {v.outcome}, wanted pass ({_why(v)})" for v in self.surplus]
        if parts:
            return "; ".join(parts)
        if self.target is None:
            return f"passes {len(self.got)} criteria"
        return f"fails {self.target}: {self.got[self.target].evidence}"


def prove(
    case: Case, suite: Suite, cells: CellFactory, mutants: Collection[str] = ()
) -> Iterator[ProofRow]:
    """A row for the good service, for each mutant, and for each criterion without a mutant.

    `mutants` narrows to these names, `good` among them; all for none. Raises UserError where a
    patch names no criterion of the case or does not apply, or the good service is missing.
    """
    folder = suite.folder / "references" / case.id
    if not (folder / GOOD).is_dir():
        raise UserError(f"{folder / GOOD}: no such folder; a case needs a known-good service")
    graded = [c for c in case.criteria if suite.rubric.criteria[c].how != "judged"]
    patches = {path.stem: path for path in sorted((folder / "mutants").glob("*.patch"))}
    for name, patch in patches.items():
        if _target(name) not in graded:
            raise UserError(f"{patch}: {_target(name)!r} is no criterion of {case.id} to execute")
    chosen = {n: p for n, p in patches.items() if not mutants or n in mutants}
    good = executed.read_folder(folder / GOOD)

    def row(name: str, patch: Path | None) -> ProofRow:
        files = good if patch is None else patched(good, patch)
        target = None if patch is None else _target(name)
        entailed = frozenset(case.entails.get(target, ())) if target else frozenset()
        return ProofRow(case.id, name, target, entailed, _grade(case, suite, graded, files, cells))

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        rows = [pool.submit(row, GOOD, None)] if not mutants or GOOD in mutants else []
        rows += [pool.submit(row, name, patch) for name, patch in chosen.items()]
        for future in rows:
            yield future.result()
    if not mutants:
        for criterion in graded:
            if criterion not in {_target(name) for name in patches}:
                problem = f"{criterion}: no mutant breaks it, so nobody knows that it can fail"
                yield ProofRow(case.id, "-", None, frozenset(), {}, problem)


def patched(files: Mapping[str, str], patch: Path) -> dict[str, str]:
    """The files with a unified diff applied. Raises UserError where it does not apply cleanly."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        # Outside of any repository, so that git takes the folder as it is.
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        env["GIT_CEILING_DIRECTORIES"] = str(root.parent)
        command = ["git", "apply", "--whitespace=nowarn", str(patch.resolve())]
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            reason = done.stderr.strip().partition("\n")[0]
            raise UserError(f"{patch}: does not apply to the good service: {reason}")
        return executed.read_folder(root)


def _grade(
    case: Case, suite: Suite, criteria: list[str], files: Mapping[str, str], cells: CellFactory
) -> dict[str, Verdict]:
    how = {criterion: suite.rubric.criteria[criterion].how for criterion in criteria}
    trial = f"{case.id}/{GOOD}/1"
    verdicts = static.grade(case, files, trial, [c for c in criteria if how[c] == "static"])
    ran, _ = executed.grade(
        case, files, trial, criteria=[c for c in criteria if how[c] == "executed"], cells=cells
    )
    return {verdict.criterion: verdict for verdict in [*verdicts, *ran] if verdict.criterion in how}


def _target(name: str) -> str:
    return name.partition("--")[0]


def _why(verdict: Verdict) -> str:
    return verdict.evidence or verdict.reason or "no evidence"
