"""Executed criteria: each group of a case's checks runs in a cell of its own, side by side."""

from __future__ import annotations

import ast
import atexit
import compileall
import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

import harness
from harness.cases import Case, Runtime
from harness.errors import UserError
from harness.grading import runtime as runtimes
from harness.grading.cell import Cell, CellFactory, Ended, NoCell, python_binds
from harness.records import Outcome, Verdict

STARTS = "starts"
"""The fact that stands beside every criterion: whether the service came up at all."""

SHIPPED = "tests.shipped"
GROUP_S, SHIPPED_S = 60.0, 60.0

SHIPPED_RUNNER = """\
import json, os, shutil, subprocess, sys
import xml.etree.ElementTree as xml
config = json.load(open("/cell/cell.json"))
report = config["report_fd"]
os.set_inheritable(report, False)
shutil.copytree("/answer", "/scratch/app")
os.mkdir("/scratch/data")
env = {**os.environ, "PORT": "8000", "DATA_DIR": "/scratch/data"}
command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=/scratch/x.xml"]
code = subprocess.run(command, cwd="/scratch/app", env=env).returncode
counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
first = ""
try:
    for suite in xml.parse("/scratch/x.xml").iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, 0))
        for case in suite.iter("testcase"):
            for bad in [*case.findall("failure"), *case.findall("error")]:
                first = first or case.get("name", "") + ": " + bad.get("message", "")[:300]
except (OSError, xml.ParseError):
    pass
line = json.dumps({"code": code, "first": first, **counts}) + "\\n"
os.write(report, line.encode())
"""


@dataclass
class _Group:
    """What one run of one group reported."""

    name: str
    criteria: set[str]
    results: list[dict[str, object]] = field(default_factory=list)
    running: dict[str, object] | None = None
    starts: bool | None = None
    starts_message: str = ""
    log: str = ""
    error: str = ""
    done: bool = False
    ended: Ended | None = None
    cpu: float = 0.0
    """CPU seconds of the grader itself, without the service."""

    def line(self, text: str) -> None:
        try:
            record = json.loads(text)
        except ValueError:
            self.error = self.error or "the grader wrote a line that is no JSON"
            return
        if "begin" in record:
            self.running = record
        elif "test" in record:
            self.results.append(record)
            self.running = None
        elif "starts" in record:
            self.starts = record["starts"]
            self.starts_message = record.get("message", "")
        elif "log" in record:
            self.log = record["log"]
        elif "error" in record:
            self.error = self.error or record["error"]
        elif "done" in record:
            self.done = True
            self.cpu = record["cpu"]
            if record["done"] not in (0, 1):
                self.error = self.error or f"pytest ended with code {record['done']}"


def groups(tests: Path) -> dict[str, set[str]]:
    """Test class → the criteria that its tests are marked with, read without running the file."""
    try:
        tree = ast.parse(tests.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except SyntaxError as error:
        raise UserError(f"{tests}:{error.lineno}: {error.msg}") from None
    marked: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            inherited = [marked.get(base.id, set()) for base in node.bases if _is_name(base)]
            marked[node.name] = _marks(node).union(*inherited)
    return {name: found for name, found in marked.items() if name.startswith("Test")}


def _is_name(node: ast.expr) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _marks(node: ast.ClassDef) -> set[str]:
    """What ``pytest.mark.criterion(…)`` is called with anywhere in the class."""
    return {
        str(call.args[0].value)
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "criterion"
        and call.args
        and isinstance(call.args[0], ast.Constant)
    }


def grade(
    case: Case,
    files: Mapping[str, str],
    trial_id: str,
    *,
    criteria: Collection[str] | None = None,
    cells: CellFactory,
) -> tuple[list[Verdict], dict[str, str]]:
    """Verdicts on executed criteria (all of the case's, or these) and each group's service log.

    The criteria must be executed ones. One more verdict, `starts`, tells whether the service came
    up. Raises UserError where the runtime cannot be built; a machine that can build no cell gives
    `not_graded` for all, with the reason.
    """
    by_group = groups(case.tests)
    known = set().union(*by_group.values(), {SHIPPED})
    wanted = list(case.criteria if criteria is None else criteria)
    if criteria is None:
        wanted = [c for c in wanted if c in known]
    if not wanted:
        return [], {}
    if not files:
        missing = [_verdict(trial_id, c, "fail", "the answer has no file") for c in wanted]
        return [*missing, _verdict(trial_id, STARTS, "fail", "the answer has no file")], {}
    report = cells.probe()
    reason = report.reason or _unreadable()
    if reason or case.runtime is None:
        reason = reason or "the case has no runtime"
        return [_verdict(trial_id, c, "not_graded", reason=reason) for c in [*wanted, STARTS]], {}
    environment = runtimes.ensure(case.runtime)
    to_run = {n: c & set(wanted) for n, c in by_group.items() if c & set(wanted)}
    with contextlib.ExitStack() as stack:
        tests = stack.enter_context(_readable_folder(_case_files(case)))
        try:
            folder = stack.enter_context(_readable_folder(files))
        except (OSError, ValueError) as error:
            evidence = f"the answer's files cannot be written: {error}"
            return [_verdict(trial_id, c, "fail", evidence) for c in [*wanted, STARTS]], {}
        job = _Job(case, case.runtime, environment, folder, tests, cells)
        with ThreadPoolExecutor(len(to_run) + 1) as pool:
            shipped = pool.submit(job.shipped, trial_id) if SHIPPED in wanted else None
            ran = list(pool.map(lambda item: job.group(*item), to_run.items()))
        verdicts = _aggregate(trial_id, [c for c in wanted if c != SHIPPED], ran)
        logs = {group.name: job.neutral(group.log) for group in ran}
        if shipped is not None:
            verdict, log = shipped.result()
            verdicts.append(verdict)
            logs[SHIPPED] = job.neutral(log)
    return [_neutral(verdict, job) for verdict in verdicts], logs


def read_folder(folder: Path) -> dict[str, str]:
    """The text files of a local service, without caches and dot folders."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = [part for part in name.parts[:-1] if part.startswith(".") or part == "__pycache__"]
        if hidden or not path.is_file():
            continue
        try:
            files[name.as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return files


class _Job:
    """One answer in its folder, with all that its groups share."""

    def __init__(
        self,
        case: Case,
        runtime: Runtime,
        environment: Path,
        folder: Path,
        tests: Path,
        cells: CellFactory,
    ) -> None:
        self._case = case
        self._runtime = runtime
        self._environment = environment
        self._folder = folder
        self._cells = cells
        self._tests = tests

    def group(self, name: str, criteria: set[str]) -> _Group:
        """Runs a group; what failed while the grader was woken too late runs again, alone."""
        first = self._run(name, criteria, alone=False)
        again: set[str] = set()
        for result in first.results:
            late = float(str(result["delay"])) > self._case.tolerance_s
            if result["outcome"] == "fail" and late:
                again |= set(_criteria(result)) & criteria
        if not again:
            return first
        second = self._run(name, again, alone=True)
        kept = [r for r in first.results if not set(_criteria(r)) & again]
        second.results = kept + second.results
        second.criteria = criteria
        second.starts = first.starts or second.starts
        return second

    def _run(self, name: str, criteria: set[str], *, alone: bool) -> _Group:
        cells = self._cells
        prefix = Path(sys.prefix)
        binds = {
            **python_binds(prefix, Path(sys.executable)),
            **python_binds(self._environment),
            "/harness/harness": _toolkit(),
            "/case": self._tests,
            "/answer": self._folder,
        }
        command = [*cells.launcher_argv(self._environment), *self._runtime.start]
        config = {
            "tests": [f"/case/{self._case.tests.name}::{name}"],
            "criteria": sorted(criteria),
            "inner": cells.service_argv(self._environment),
            "command": command,
            "path": f"{self._environment}/bin:/usr/bin:/bin",
            "scratch": "/scratch",
            "answer": "/answer",
        }
        env = {
            "PYTHONPATH": "/harness",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        cell = Cell([sys.executable, "-s", "-m", "harness.checks"], binds, env, config)
        group = _Group(name, criteria)
        try:
            group.ended = cells.run(cell, group.line, timeout=GROUP_S, alone=alone)
        except (NoCell, OSError) as error:
            group.error = str(error)
        _finish(group)
        return group

    def shipped(self, trial_id: str) -> tuple[Verdict, str]:
        """Runs the answer's own tests in a cell; they decide this one criterion and no other."""
        python = str(self._environment / "bin" / "python")
        binds = {**python_binds(self._environment), "/answer": self._folder}
        env = {"PATH": f"{self._environment}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        cell = Cell([python, "-I", "-c", SHIPPED_RUNNER], binds, env)
        lines: list[str] = []
        try:
            ended = self._cells.run(cell, lines.append, timeout=SHIPPED_S)
        except (NoCell, OSError) as error:
            return _verdict(trial_id, SHIPPED, "not_graded", reason=str(error)), ""
        seconds = ended.seconds
        if not lines:
            what = _KILLED.get(ended.killed, f"they ended with exit code {ended.code}")
            what = what.format(seconds=SHIPPED_S)
            evidence = f"its own tests did not end: {what}"
            return _verdict(trial_id, SHIPPED, "fail", evidence, seconds=seconds), ended.output
        told = json.loads(lines[0])
        passed = told["tests"] - told["failures"] - told["errors"] - told["skipped"]
        if told["code"] == 0 and passed > 0:
            evidence, outcome = f"its own tests pass: {passed}", "pass"
        elif told["tests"] == 0:
            evidence, outcome = "it ships no test that pytest finds", "fail"
        else:
            bad = told["failures"] + told["errors"]
            evidence, outcome = f"{bad} of its own {told['tests']} tests fail", "fail"
            if told["first"]:
                evidence += f"; first: {told['first']}"
        verdict = _verdict(trial_id, SHIPPED, _outcome(outcome), evidence, seconds=seconds)
        return verdict, ended.output

    def neutral(self, text: str) -> str:
        """Without the paths of this machine, which differ between two runs of the same answer."""
        for path, name in (
            (str(self._environment), "/runtime"),
            (str(self._environment.resolve()), "/runtime"),
            *((base, "/python") for base in python_binds(self._environment)),
            (str(Path(sys.prefix)), "/grader"),
            (str(self._folder), "/answer"),
        ):
            text = text.replace(path, name)
        return text


_KILLED = {
    "time": "they ran into the limit of {seconds:.0f} s",
    "memory": "the cell ran out of memory",
    "processes": "the cell had too many processes",
    "flood": "the cell reported too much",
}


def _finish(group: _Group) -> None:
    """Gives each criterion that a cell's end left open the outcome that this end says."""
    ended = group.ended
    if ended is None or group.done:
        return
    reached = {c for result in group.results for c in _criteria(result)}
    if not ended.killed or (group.running is None and not reached):
        # The service cannot end the grader's process: whatever did, it is no finding.
        last = ended.output.strip().splitlines()[-1:] or [f"exit code {ended.code}"]
        group.error = group.error or f"the grader ended early: {last[0]}"
        return
    why = _KILLED[ended.killed].format(seconds=GROUP_S)
    if group.running is not None:
        record = dict(group.running)
        message = f"in {record['begin']} the checks did not end: {why}"
        group.results.append({**record, "outcome": "fail", "message": message, "delay": 0})
        reached |= set(_criteria(record))
    for criterion in sorted(group.criteria - reached):
        message = f"not reached: {why}"
        group.results.append(
            {"criteria": [criterion], "outcome": "fail", "message": message, "delay": 0}
        )


def _aggregate(trial_id: str, wanted: Sequence[str], ran: Sequence[_Group]) -> list[Verdict]:
    starts = _starts(trial_id, ran)
    verdicts = []
    for criterion in wanted:
        if starts.outcome == "fail":
            verdicts.append(_verdict(trial_id, criterion, "fail", starts.evidence))
            continue
        results = [r for group in ran for r in group.results if criterion in _criteria(r)]
        errors = [group.error for group in ran if group.error and criterion in group.criteria]
        failed = [str(r["message"]) for r in results if r["outcome"] == "fail"]
        open_ = [str(r["message"]) for r in results if r["outcome"] == "not_graded"]
        seconds = sum(float(str(r.get("seconds", 0))) for r in results)
        outcome: Outcome = "pass"
        evidence = f"{len(results)} {'check' if len(results) == 1 else 'checks'} passed"
        reason = ""
        if failed:
            outcome, evidence = "fail", failed[0]
        elif open_ or errors or not results:
            outcome, evidence = "not_graded", ""
            reason = [*open_, *errors, "no check carries this criterion"][0]
        verdicts.append(
            _verdict(trial_id, criterion, outcome, evidence, reason=reason, seconds=seconds)
        )
    if ran:
        verdicts.append(starts)
    return verdicts


def _starts(trial_id: str, ran: Iterable[_Group]) -> Verdict:
    told = [group for group in ran if group.starts is not None]
    if any(group.starts for group in told):
        return _verdict(trial_id, STARTS, "pass", "the service started and answered")
    if told:
        return _verdict(trial_id, STARTS, "fail", told[0].starts_message)
    return _verdict(trial_id, STARTS, "not_graded", reason="no check started the service")


def _criteria(record: Mapping[str, object]) -> list[str]:
    value = record.get("criteria")
    return [str(item) for item in value] if isinstance(value, list) else []


def _outcome(text: str) -> Outcome:
    return "pass" if text == "pass" else "fail"


def _verdict(
    trial_id: str,
    criterion: str,
    outcome: Outcome,
    evidence: str = "",
    *,
    reason: str = "",
    seconds: float = 0.0,
) -> Verdict:
    return Verdict(
        trial_id, criterion, outcome, one_line(evidence), one_line(reason), "executed", seconds
    )


def one_line(text: str, limit: int = 600) -> str:
    """A text on one line, without control characters, cut at `limit`."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _neutral(verdict: Verdict, job: _Job) -> Verdict:
    return replace(
        verdict, evidence=job.neutral(verdict.evidence), reason=job.neutral(verdict.reason)
    )


def _unreadable() -> str:
    """Why the user that root becomes could not run our own Python; empty if it can."""
    if os.geteuid() != 0:
        return ""
    prefix = Path(sys.prefix)
    spec = importlib.util.find_spec("pytest")
    needed = [Path(spec.origin)] if spec and spec.origin else []
    for path in [*needed, prefix / "bin"]:
        inside = [path, *(parent for parent in path.parents if parent.is_relative_to(prefix))]
        for place in inside:
            wanted = 0o005 if place.is_dir() else 0o004
            if place.stat().st_mode & wanted != wanted:
                return (
                    f"started by root, cells run as another user, who cannot read {place}; "
                    f"mend it with: chmod -R o+rX {prefix}"
                )
    return ""


def _case_files(case: Case) -> dict[str, str]:
    """What a group's checks may read: the files of the case's folder."""
    files = read_folder(case.folder)
    return {name: text for name, text in files.items() if not name.startswith(".")}


@functools.lru_cache(maxsize=1)
def _toolkit() -> Path:
    """A copy of `harness.checks` alone, compiled: all that a cell sees of this package."""
    folder = tempfile.mkdtemp(prefix="harness-toolkit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = Path(harness.__file__).parent
    shutil.copyfile(package / "__init__.py", Path(folder, "__init__.py"))
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package / "checks", Path(folder, "checks"), ignore=ignore)
    compileall.compile_dir(folder, quiet=1)
    for path in [Path(folder), *Path(folder).rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Path(folder)


@contextlib.contextmanager
def _readable_folder(files: Mapping[str, str]) -> Iterator[Path]:
    """These files in a folder that the cell's user can read, whoever owns the originals.

    Raises OSError or ValueError for names that no folder can hold.
    """
    with tempfile.TemporaryDirectory(prefix="harness-files-") as name:
        root = Path(name)
        root.chmod(0o755)
        for path, content in files.items():
            target = root / path
            if not target.resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{path!r} leaves the folder")
            for parent in reversed(target.relative_to(root).parents[:-1]):
                (root / parent).mkdir(exist_ok=True)
                (root / parent).chmod(0o755)
            target.write_bytes(content.encode("utf-8", "replace"))
            target.chmod(0o644)
        yield root
