"""Builds the ZIP and the ``.skill`` that people upload: the same bytes from the same files,
on any machine."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness.errors import UserError
from harness.skills import Skill, load_skill
from harness.validation import validate

TIMESTAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a ZIP can hold. A checkout's own times differ from machine to machine."""

PLAIN, SCRIPT = 0o100644, 0o100755
"""Unix modes inside the archive. A file with a ``#!`` line is a script; umask and checkout, which
decide the mode on disk, have no say."""

UNIX = 3


@dataclass(frozen=True)
class Package:
    """A finished package. Both files hold the same bytes."""

    zip: Path
    skill: Path
    size: int
    """Bytes of each of the two."""
    sha256: str
    """64 hex digits over those bytes."""
    files: Mapping[str, int]
    """Size in bytes by path inside the archive, in the archive's order."""


def build(skill_dir: Path, out_dir: Path) -> Package:
    """Writes ``<name>.zip`` and ``<name>.skill`` into `out_dir` and checks them by reading back.

    Raises UserError that lists every error of `validate`; nothing is written then. Stray files
    are left out. An older package of the same name is replaced, at once or not at all.
    """
    _refuse_errors(skill_dir)
    if not skill_dir.is_dir():
        raise UserError(f"{skill_dir}: is packed already; give the skill's folder")
    if out_dir.resolve().is_relative_to(skill_dir.resolve()):
        raise UserError(f"{out_dir}: lies inside the skill; the next package would hold this one")
    skill = load_skill(skill_dir)
    data = archive(skill)
    targets = [out_dir / f"{skill.name}{ending}" for ending in (".zip", ".skill")]
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for target in targets:
            _write(target, data)
    except OSError as error:
        raise UserError(f"{out_dir}: cannot be written: {error.strerror}") from None
    for target in targets:
        _refuse_errors(target)
        if load_skill(target).digest != skill.digest:
            raise UserError(
                f"{target}: reads back other files than were packed; is the disk sound?"
            )
    return Package(
        zip=targets[0],
        skill=targets[1],
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        files=MappingProxyType(
            {f"{skill.name}/{path}": len(skill.files[path]) for path in _order(skill)}
        ),
    )


def archive(skill: Skill) -> bytes:
    """The ZIP's bytes: one folder, named as the skill, with SKILL.md first, then by path.

    Stored, not compressed: what deflate makes of the same input differs between versions of zlib
    (and zlib-ng, which some systems ship in its place), and a skill is a few kilobytes.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for path in _order(skill):
            content = skill.files[path]
            member = zipfile.ZipInfo(f"{skill.name}/{path}", TIMESTAMP)
            member.create_system = UNIX  # else it says on which system it was made
            member.external_attr = (SCRIPT if content.startswith(b"#!") else PLAIN) << 16
            packed.writestr(member, content)
    return buffer.getvalue()


def _order(skill: Skill) -> list[str]:
    return sorted(skill.files, key=lambda path: (path != "SKILL.md", path))


def _refuse_errors(path: Path) -> None:
    errors = [finding for finding in validate(path) if finding.level == "error"]
    if errors:
        raise UserError("\n".join(f"{error.where}: {error.message}" for error in errors))


def _write(target: Path, data: bytes) -> None:
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
