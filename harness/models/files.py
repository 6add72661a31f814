"""Requests as plain files for a person to answer in any chat window, and the answers read back.

A file shows what the model is to see and nothing about where it belongs: neither case nor arm. Its
name is the beginning of the request's digest, and so is the name of the answer's file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.models.base import estimate_tokens
from harness.records import Request, Response, Usage
from harness.store import Run

PREFIX = 12
"""Hex digits of a digest in a file's name: 48 bits, so two requests of a run never share it."""
INDEX = "index.json"
FACTS = ("stop_reason", "model", "seconds", "finished", "usage")
UNREPORTED = "unreported"
"""Stop reason of an answer from a chat window, which shows none."""


def write_pending(requests: Iterable[Request], out: Path) -> list[Path]:
    """Writes one file a request and an index of them; returns the files, in the given order.

    Equal requests (a judge's on two equal answers) are one.
    The index has name, digest and length limit, nothing that tells arms apart. Files of requests
    that were answered since are removed; the answers in the folder are never touched. Raises
    UserError where a request cannot be written as text.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    index = []
    for request in {request.digest: request for request in requests}.values():
        path = out / f"{request.digest[:PREFIX]}.md"
        path.write_text(render(request), encoding="utf-8", errors="replace", newline="\n")
        written.append(path)
        index.append(
            {
                "file": path.name,
                "answer": answer_name(request.digest),
                "request": request.digest,
                "max_tokens": request.max_tokens,
            }
        )
    for path in out.glob("*.md"):
        if re.fullmatch(rf"[0-9a-f]{{{PREFIX}}}\.md", path.name) and path not in written:
            path.unlink()
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return written


def answer_name(digest: str) -> str:
    """The name of the file that the answer to a request is read from."""
    return f"{digest[:PREFIX]}.answer.md"


def render(request: Request) -> str:
    """The request as a text file. Lines with `%%` and the digest are no part of the request."""
    name = request.digest[:PREFIX]
    parts = [
        f"%% {name} ---- lines that begin like this one are no part of the request ----",
        f"%% {name} save the whole answer, word for word, as {answer_name(request.digest)}",
        f"%% {name} length limit of the answer: {request.max_tokens:,} tokens",
    ]
    if request.system:
        parts += [f"%% {name} ---- system prompt: all up to the next such line ----"]
        parts += [request.system]
    for message in request.messages:
        parts += [f"%% {name} ---- {message['role']} message: all up to the next such line ----"]
        parts += [_text(message["content"])]
    return "\n".join([*parts, f"%% {name} ---- end ----", ""])


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = list(content)
    if any(block.get("type") != "text" for block in blocks):
        raise UserError("a request with something else than text cannot be written as a file")
    return "\n\n".join(block["text"] for block in blocks)


@dataclass(frozen=True)
class Imported:
    """What an import did. All by digest, but `skipped`: that is by the file's name."""

    stored: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that were not imported, and why."""
    missing: list[str] = field(default_factory=list)
    """Requests of the run that have no response still."""


def read_answers(folder: Path, run: Run, *, model: str | None = None) -> Imported:
    """Stores the answers in a folder as responses of a run, which must be locked.

    An answer is the file `<first digits of the digest>.answer.md` (or `.txt`), taken word for word.
    What a chat window tells about it may stand beside it in `….answer.json`: `stop_reason`
    (`max_tokens` where it was cut off), `model`, `seconds`, `finished`, `usage`. `model` is who
    answered, for answers that do not say so; the default is the model that the request asks for.
    Raises UserError where the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    result = Imported()
    digests = sorted(path.stem for path in (run.folder / "requests").glob("*.json"))
    for path in sorted(folder.iterdir()):
        found = re.fullmatch(r"([0-9a-f]+)\.answer\.(?:md|txt)", path.name)
        if not found:
            continue
        try:
            digest = _digest(found[1], digests)
            text = _read(path)
            facts = _facts(folder / f"{found[1]}.answer.json")
            known = run.response(digest)
            if known is not None and known.text == text:
                continue
            if known is not None:
                raise _Skip("another answer is stored already, and stays")
            run.add_response(digest, _response(run.request(digest), text, facts, model))
            result.stored.append(digest)
        except _Skip as reason:
            result.skipped[path.name] = str(reason)
    answered = run.responses()
    result.missing.extend(digest for digest in digests if digest not in answered)
    return result


class _Skip(Exception):
    """Why a file is not imported."""


def _digest(prefix: str, digests: list[str]) -> str:
    known = [digest for digest in digests if digest.startswith(prefix)]
    if len(prefix) < 8 or len(known) > 1:
        raise _Skip(f"the name is too short: it needs the digest's first {PREFIX} digits")
    if not known:
        raise _Skip("the run has no such request (was it planned from another text?)")
    return known[0]


def _read(path: Path) -> str:
    try:
        # Word for word, line ends included; a byte order mark is the editor's, not the model's.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Skip("not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise _Skip(f"cannot be read: {error.strerror}") from None
    if not text.strip():
        raise _Skip("empty")
    return text


def _facts(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _Skip(f"{path.name}: not valid JSON: {error}") from None
    if not isinstance(facts, dict):
        raise _Skip(f"{path.name}: expected an object with any of {', '.join(FACTS)}")
    for key in facts:
        if key not in FACTS:
            raise _Skip(f"{path.name}: unknown key {key!r}; known are {', '.join(FACTS)}")
    return facts


def _response(request: Request, text: str, facts: Mapping[str, Any], model: str | None) -> Response:
    usage = facts.get("usage")
    try:
        counted = Usage(**usage) if usage is not None else _estimated(request, text)
        seconds = facts.get("seconds")
        return Response(
            text=text,
            stop_reason=str(facts.get("stop_reason", UNREPORTED)),
            model=str(facts.get("model") or model or request.model),
            usage=counted,
            seconds=None if seconds is None else float(seconds),
            finished=None if facts.get("finished") is None else str(facts["finished"]),
        )
    except (TypeError, ValueError) as error:
        raise _Skip(f"its .answer.json does not fit: {error}") from None


def _estimated(request: Request, text: str) -> Usage:
    asked = request.system + "".join(_text(message["content"]) for message in request.messages)
    return Usage(
        input_tokens=estimate_tokens(asked), output_tokens=estimate_tokens(text), estimated=True
    )
