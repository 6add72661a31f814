"""What a skill is, and how it is read: from a folder, a ZIP or .skill, or a git revision.

Reading decides which files belong to a skill and refuses those that would not be the same
everywhere. Whether the content follows the format's rules is the business of `validation`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    import zipfile

SKILL_MD = "SKILL.md"

MAX_UNPACKED_BYTES = 30_000_000
"""The Skills API takes less than 30 MB, unpacked."""

DIGEST_FORM = b"skill/1\n"
"""Prefix of what is digested. Another way of writing files down needs another number."""


@dataclass(frozen=True)
class Skill:
    """A skill that was read. Two skills with the same files are the same skill."""

    name: str
    description: str
    body: str
    """SKILL.md without its front matter."""
    version: str
    """``metadata.version``; empty if the skill states none."""
    files: Mapping[str, bytes]
    """Content by path inside the skill's folder (``references/data.md``), sorted by path."""
    folder: str
    """Name of the folder that holds the skill."""
    origin: str
    """Where it was read from, for people: a path, or a path at a revision."""

    @cached_property
    def digest(self) -> str:
        """``sha256:`` and 64 hex digits over paths and contents, whatever the origin.

        Form 1: for each path in order its length and the content's length in bytes, as decimal
        numbers joined by a blank and ended by a newline, then the path in UTF-8, then the content.
        """
        hashed = hashlib.sha256(DIGEST_FORM)
        for path, content in sorted(self.files.items()):
            name = path.encode()
            hashed.update(b"%d %d\n" % (len(name), len(content)) + name + content)
        return f"sha256:{hashed.hexdigest()}"


@dataclass(frozen=True)
class Tree:
    """Files as they were found, with everything that keeps them from being a skill's files."""

    folder: str
    origin: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    strays: Mapping[str, str] = field(default_factory=dict)
    """Left out, by path, each with the reason."""
    problems: tuple[tuple[str, str], ...] = ()
    """(path, what is wrong and the mend); the path is empty if it concerns the whole."""


def load_skill(path: Path) -> Skill:
    """Reads a skill from its folder, or from a ZIP or ``.skill``.

    Raises UserError, with every problem, if it cannot be read as one. It may still break rules
    of the format: an old version must stay comparable after the rules have changed.
    """
    return _skill(read_tree(path))


def load_skill_at(rev: str, path: Path, repo: Path = Path()) -> Skill:
    """Reads the skill that stood at `path` in the git revision `rev`.

    `path` is relative to `repo`, which may be any folder of the work tree, or absolute. The work
    tree is not touched. Raises UserError for an unknown revision, or a path that it does not hold.
    """
    import io
    import tarfile

    origin = f"{path} at {rev}"
    where = repo.resolve()
    top = Path(_git(where, "rev-parse", "--show-toplevel").decode().strip())
    commit = _git(where, "rev-parse", "--verify", "--end-of-options", f"{rev}^{{commit}}")
    full = (where / path).resolve()
    if not full.is_relative_to(top):
        raise UserError(f"{origin}: outside the git repository {top}")
    inside = full.relative_to(top).as_posix()
    commit_id = commit.decode().strip()
    archive = _git(top, "archive", "--format=tar", commit_id, "--", inside)
    prefix = "" if inside == "." else f"{inside}/"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        entries = [
            _Entry(
                path=member.name.removeprefix(prefix),
                size=member.size,
                kind=_tar_kind(member),
                open=lambda member=member: tar.extractfile(member),
            )
            for member in tar.getmembers()
            if member.name.startswith(prefix) and not member.isdir()
        ]
        return _skill(_collect(full.name, origin, entries))


def inline_text(skill: Skill) -> str:
    """The skill as text for a system prompt: SKILL.md, then each file of ``references/``.

    Every file is complete and stands in a ``<file path="…">`` element, its path as SKILL.md links
    it. Raises UserError if one of them is not UTF-8.
    """
    paths = [SKILL_MD, *sorted(path for path in skill.files if path.startswith("references/"))]
    parts = []
    for path in paths:
        text = _decode(skill.files[path], f"{skill.origin}/{path}").strip("\n")
        parts.append(f'<file path="{path}">\n{text}\n</file>')
    return "\n\n".join(parts)


def read_tree(path: Path) -> Tree:
    """The files of a folder, ZIP or ``.skill``, and every problem with them. Raises nothing
    for bad input: problems are in the result."""
    origin = str(path)
    name = path.resolve().name
    try:
        if path.is_dir():
            return _collect(name, origin, _folder_entries(path))
        if path.is_file():
            return _read_zip(path)
    except OSError as error:
        return Tree(name, origin, problems=(("", f"cannot be read: {error.strerror or error}"),))
    found = "is no file or folder" if os.path.lexists(path) else "does not exist"
    return Tree(name, origin, problems=(("", f"{found}; give a skill's folder, ZIP or .skill"),))


def stray_reason(path: str) -> str | None:
    """Why a file stays out of the package, or None if it belongs to the skill."""
    parts = PurePosixPath(path).parts
    for part in parts:
        if part in _STRAY_FOLDERS or part.endswith(".egg-info"):
            return f"in {part}/, which tools write"
    if any(part.startswith(".") for part in parts):
        return "dot file"
    name = parts[-1]
    if name.endswith((".pyc", ".pyo")):
        return "compiled cache"
    if name.endswith(_BACKUP_ENDINGS) or (name.startswith("#") and name.endswith("#")):
        return "editor backup"
    return "made by the system" if name.lower() in ("thumbs.db", "desktop.ini", "icon\r") else None


def split_front_matter(text: str) -> tuple[str, str, int]:
    """(front matter, body, number of the body's first line) of a SKILL.md.

    Raises ValueError that says what is missing. Only a line of its own ends the front matter.
    """
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        raise ValueError("must start with front matter: a line ---, then name and description")
    for number, line in enumerate(lines[1:], start=2):
        if line.rstrip() == "---":
            return "".join(lines[1 : number - 1]), "".join(lines[number:]), number + 1
    raise ValueError("the front matter is not closed; end it with a line ---")


_STRAY_FOLDERS = {"__pycache__", "__MACOSX", "node_modules"}
_BACKUP_ENDINGS = ("~", ".bak", ".orig", ".rej", ".swp", ".swo", ".tmp")
_FORBIDDEN_IN_PATHS = set('\\:*?"<>|')  # some system cannot unpack them


@dataclass(frozen=True)
class _Entry:
    """One thing that is not a directory, wherever it was found."""

    path: str
    size: int
    kind: str
    """``file``, or what it is instead."""
    open: Any
    """Called without arguments, returns a binary stream."""


def _collect(folder: str, origin: str, entries: Iterable[_Entry]) -> Tree:
    files: dict[str, bytes] = {}
    strays: dict[str, str] = {}
    problems: list[tuple[str, str]] = []
    alike: dict[str, str] = {}
    total = 0
    for entry in sorted(entries, key=lambda entry: entry.path):
        shown = entry.path.encode("utf-8", "backslashreplace").decode()
        if wrong := _path_problem(entry.path):
            problems.append((shown, wrong))
            continue
        if reason := stray_reason(entry.path):
            strays[shown] = reason
            continue
        if entry.kind != "file":
            problems.append((shown, f"is a {entry.kind}; a skill holds plain files only"))
            continue
        if entry.path in files:
            problems.append((shown, "stands in the archive twice; keep one"))
            continue
        # macOS and Windows would unpack both names into one file.
        twin = alike.setdefault(unicodedata.normalize("NFC", entry.path).casefold(), entry.path)
        if twin != entry.path:
            problems.append((shown, f"differs from {twin} only in case or accents; rename one"))
            continue
        total += entry.size
        if total > MAX_UNPACKED_BYTES:
            problems.append(
                (shown, f"brings the skill above {MAX_UNPACKED_BYTES:,} bytes; make it smaller")
            )
            break
        try:
            with entry.open() as stream:
                files[entry.path] = stream.read()
        except Exception as error:  # zlib, zipfile and the file system each raise their own
            problems.append((shown, f"cannot be read: {error}"))
    return Tree(folder, origin, MappingProxyType(files), MappingProxyType(strays), tuple(problems))


def _folder_entries(root: Path) -> Iterator[_Entry]:
    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(root, onerror=fail):
        relative = Path(here).relative_to(root)
        links = [name for name in folders if Path(here, name).is_symlink()]
        for name in [*names, *links]:
            full = Path(here, name)
            mode = full.lstat()
            yield _Entry(
                path=(relative / name).as_posix(),
                size=mode.st_size,
                kind=_mode_kind(mode.st_mode),
                open=lambda full=full: full.open("rb"),
            )
        # A stray folder is one stray; its thousand files are not worth a line each.
        stray = [name for name in folders if name.startswith(".") or name in _STRAY_FOLDERS]
        for name in set(stray) - set(links):
            yield _Entry((relative / name).as_posix(), 0, "folder", None)
        folders[:] = [name for name in folders if name not in links and name not in stray]


def _read_zip(path: Path) -> Tree:
    import zipfile

    origin, name = str(path), path.resolve().stem
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                member
                for member in archive.infolist()
                # macOS's Finder puts a second folder beside the one that was to be packed.
                if not member.is_dir() and not member.filename.startswith("__MACOSX/")
            ]
            roots = {member.filename.partition("/")[0] for member in members}
            loose = [member for member in members if "/" not in member.filename]
            if len(roots) != 1 or loose:
                shown = ", ".join(sorted(roots)) or "nothing"
                wrong = f"must hold one folder, named as the skill, at its root; it holds {shown}"
                return Tree(name, origin, problems=(("", wrong),))
            root = roots.pop()
            if wrong_root := _path_problem(f"{root}/{SKILL_MD}"):
                return Tree(name, origin, problems=((root, wrong_root),))
            entries = [_zip_entry(archive, member, root) for member in members]
            return _collect(root, origin, entries)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        # The last three are what zipfile makes of damage in the directory.
        return Tree(name, origin, problems=(("", f"is not a ZIP file: {error}"),))


def _zip_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, root: str) -> _Entry:
    def open_member() -> IO[bytes]:
        return archive.open(member)

    # The upper half of the attributes holds the Unix mode, where a Unix tool has written it.
    kind = _mode_kind(member.external_attr >> 16)
    if member.flag_bits & 1:
        kind = "encrypted file"
    return _Entry(member.filename.removeprefix(f"{root}/"), member.file_size, kind, open_member)


def _mode_kind(mode: int) -> str:
    if stat.S_IFMT(mode) in (0, stat.S_IFREG):
        return "file"
    return "symlink" if stat.S_ISLNK(mode) else "special file"


def _tar_kind(member: Any) -> str:
    return "file" if member.isreg() else "symlink" if member.issym() else "special file"


def _path_problem(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/") or ".." in parts:
        return "leads out of the skill's folder; a path has no .. and no leading /"
    if "" in parts or "." in parts:
        return "is no plain path; leave out empty parts and ."
    try:
        path.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8; rename it"
    if bad := sorted(c for c in set(path) if c in _FORBIDDEN_IN_PATHS or not c.isprintable()):
        return f"has {', '.join(map(repr, bad))} in its name, which not every system takes"
    if any(part.endswith((" ", ".")) for part in parts):
        return "has a name that ends in a blank or dot, which not every system takes"
    return None


def _skill(tree: Tree) -> Skill:
    problems = [
        f"{tree.origin}/{path}: {wrong}".replace("/:", ":") for path, wrong in tree.problems
    ]
    if not problems and SKILL_MD not in tree.files:
        problems = [f"{tree.origin}: holds no {SKILL_MD}"]
    if problems:
        raise UserError("\n".join(problems))
    where = f"{tree.origin}/{SKILL_MD}"
    try:
        head, body, _ = split_front_matter(_decode(tree.files[SKILL_MD], where))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    meta = _front_matter(head, where)
    nested = meta.get("metadata")
    version = nested.get("version") if isinstance(nested, dict) else None
    for key in ("name", "description"):
        if not isinstance(meta.get(key), str) or not meta[key].strip():
            raise UserError(f"{where}: {key}: must be a text that is not empty")
    return Skill(
        name=meta["name"].strip(),
        description=meta["description"].strip(),
        body=body.strip("\n"),
        version="" if version is None else str(version),
        files=MappingProxyType(dict(sorted(tree.files.items()))),
        folder=tree.folder,
        origin=tree.origin,
    )


def _front_matter(head: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        meta = yaml.safe_load(head)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: front matter is not YAML: {error}") from None
    if not isinstance(meta, dict):
        raise UserError(f"{where}: front matter must be keys with values")
    return meta


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _git(repo: Path, *arguments: str) -> bytes:
    import subprocess

    try:
        done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise UserError("git is not installed; it is needed to read another revision") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        raise UserError(f"git {arguments[0]} {arguments[-1]}: {said}") from None
    return done.stdout
