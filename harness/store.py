"""A run folder: append-only, each record on disk before the next, texts under their digest.

    run.json          what was planned: model, arms, cases, epochs, limits, trials
    requests/         one canonical request a file, named by its digest
    responses.jsonl   one line a response: request digest, digest of its text, usage, time
    texts/            response texts, named by their digest
    verdicts.jsonl    one line a verdict
    logs/             the output of each executed group of checks

A recording under ``evals/recordings/`` is a run folder with its provenance beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records import PlannedTrial, Request, Response, Trial, Usage, Verdict, sha256

RESPONSE_KEYS = {"request", "text", "stop_reason", "model", "usage", "seconds", "finished"}


class Run:
    """A run folder that is open for reading and, after `lock`, for writing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None
        self._responses: dict[str, dict[str, Any]] | None = None

    @classmethod
    def create(cls, folder: Path, plan: dict[str, Any], requests: list[PlannedTrial]) -> Run:
        """A new run folder with its plan and requests on disk; raises UserError if it has one."""
        run = cls(folder)
        if run.exists():
            raise UserError(f"{folder}: there is a run already; resume it or name another folder")
        for part in ("requests", "texts", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        run.lock()
        for planned in requests:
            run.add_request(planned.request)
        trials = [{**asdict(p.trial), "request": p.request.digest} for p in requests]
        _replace(folder / "run.json", json.dumps({**plan, "trials": trials}, indent=1) + "\n")
        return run

    def exists(self) -> bool:
        return (self.folder / "run.json").is_file()

    def lock(self) -> None:
        """Takes the folder for this process. Raises UserError if another process has it."""
        if self._lock is not None:
            return
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise UserError(
                f"{self.folder}: another process works in this run; wait for it or end it"
            ) from None
        self._lock = handle

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def plan(self) -> dict[str, Any]:
        """The content of run.json. Raises UserError where there is none."""
        path = self.folder / "run.json"
        try:
            plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; is this a run folder?") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from None
        return plan

    def add_facts(self, facts: dict[str, Any]) -> None:
        """Adds or replaces top-level keys of run.json, such as how the run was graded."""
        _replace(self.folder / "run.json", json.dumps({**self.plan, **facts}, indent=1) + "\n")

    def trials(self) -> dict[Trial, str]:
        """Every planned trial with the digest of its request, in plan order."""
        return {
            Trial(entry["case"], entry["arm"], entry["epoch"]): entry["request"]
            for entry in self.plan["trials"]
        }

    # --- requests -------------------------------------------------------------------------

    def add_request(self, request: Request) -> None:
        path = self.folder / "requests" / f"{request.digest}.json"
        if not path.exists():
            _replace(path, json.dumps(request.canonical(), indent=1, ensure_ascii=False) + "\n")

    def request(self, digest: str) -> Request:
        """The request of that digest. Raises UserError if it is missing or was altered."""
        path = self.folder / "requests" / f"{digest}.json"
        try:
            request = Request.from_canonical(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a stored request: {error}") from None
        if request.digest != digest:
            raise UserError(f"{path}: its content does not match its name; it was altered")
        return request

    # --- responses ------------------------------------------------------------------------

    def responses(self) -> dict[str, dict[str, Any]]:
        """The response index by request digest: the stored line, without the text."""
        if self._responses is None:
            path = self.folder / "responses.jsonl"
            known: dict[str, dict[str, Any]] = {}
            for number, line in enumerate(_read_jsonl(path), start=1):
                if not line.keys() >= RESPONSE_KEYS:
                    raise UserError(f"{path}: line {number} is no response; it was altered")
                known.setdefault(line["request"], line)
            self._responses = known
        return self._responses

    def response(self, digest: str) -> Response | None:
        """The stored response to a request; None if there is none yet."""
        line = self.responses().get(digest)
        if line is None:
            return None
        path = self.folder / "texts" / f"{line['text']}.txt"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: a stored answer cannot be read: {error}") from None
        if sha256(data) != line["text"]:
            raise UserError(f"{path}: its content does not match its name; it was altered")
        return Response(
            text=data.decode(),
            stop_reason=line["stop_reason"],
            model=line["model"],
            usage=Usage(**line["usage"]),
            seconds=line["seconds"],
            finished=line["finished"],
        )

    def add_response(self, digest: str, response: Response) -> None:
        """Stores a response; the first one stays if there is one (answers are never replaced)."""
        if digest in self.responses():
            return
        text = response.text.encode("utf-8", "replace")  # JSON can carry lone surrogates
        path = self.folder / "texts" / f"{sha256(text)}.txt"
        if not path.exists():
            _replace(path, text)
        line = {
            "request": digest,
            "text": path.stem,
            "stop_reason": response.stop_reason,
            "model": response.model,
            "usage": asdict(response.usage),
            "seconds": response.seconds,
            "finished": response.finished,
        }
        _append(self.folder / "responses.jsonl", line)
        self.responses()[digest] = line

    # --- verdicts -------------------------------------------------------------------------

    def verdicts(self) -> list[Verdict]:
        """The newest verdict of each trial × criterion (grading again appends)."""
        latest: dict[tuple[str, str], Verdict] = {}
        for line in _read_jsonl(self.folder / "verdicts.jsonl"):
            latest[line["trial"], line["criterion"]] = Verdict(**line)
        return list(latest.values())

    def add_verdicts(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            _append(self.folder / "verdicts.jsonl", verdict.to_json())

    def add_log(self, name: str, text: str) -> None:
        """Stores a log under ``logs/`` (name: letters, digits, ``.``, ``-``, ``_``)."""
        _replace(self.folder / "logs" / name, text)

    def add_output(self, name: str, text: str) -> Path:
        """Writes what a report makes of the run (summary, page, exports); returns its path."""
        path = self.folder / name
        _replace(path, text)
        return path

    def log(self, name: str) -> str:
        path = self.folder / "logs" / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _append(path: Path, record: dict[str, Any]) -> None:
    """One write call on an append-only descriptor: a kill leaves whole lines or a torn last one."""
    data = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    try:
        _mend_torn_line(path)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write: {error.strerror}; what was written before stays readable"
        ) from None


def _mend_torn_line(path: Path) -> None:
    """Cuts off a last line without its newline: the trace of a kill or of a full disk."""
    try:
        with path.open("rb+") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
    except FileNotFoundError:
        return


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise UserError(f"{path}: line {number} is not a JSON object; it was altered")
            yield record


def _replace(path: Path, data: str | bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data.encode("utf-8", "replace") if isinstance(data, str) else data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: cannot write: {error.strerror}; what was written before stays readable"
        ) from None
