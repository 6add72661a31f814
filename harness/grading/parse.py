"""Reads an answer: which files it ships, and what is prose. Follows CommonMark, and mends first.

Models write fences that CommonMark reads otherwise than they meant: a README in three backticks
that has blocks of its own, a fence that is never closed, a block in a list whose lines stand at the
margin. `mend` rewrites those fences, and only those, so that CommonMark (markdown-it-py) reads the
answer as it was meant. A path may stand on the line before a block, in its info string, or as a
comment in its first line. Nothing here raises on what a model wrote: it becomes a problem.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from markdown_it import MarkdownIt
from markdown_it.token import Token

MAX_TEXT = 2_000_000
"""Characters of an answer that are read at all: far above what a length limit lets through."""
ASKED_BYTES = 64 * 1024
"""What the answer format allows in all. More is noted, and kept."""
MAX_FILE_BYTES = 256 * 1024
MAX_TOTAL_BYTES = 1024 * 1024
MAX_FILES = 200
MAX_PATH = 200


@dataclass(frozen=True)
class ParsedAnswer:
    """The files of an answer by path, its other text, and what was odd, in the answer's order."""

    files: dict[str, str] = field(default_factory=dict)
    prose: str = ""
    problems: list[str] = field(default_factory=list)


class Claim(IntEnum):
    """How plainly a block was given its path. A weaker claim never replaces a stronger one."""

    SENTENCE = 0
    """`Now we need `app/db.py`:`"""
    COMMENT = 1
    """`# app/db.py` in the first line of the block: also how excerpts are quoted."""
    DESCRIBED = 2
    """`app/db.py — connections`, or a heading with text between it and the block."""
    STATED = 3
    """The path alone on the line before, or in the info string."""


def parse_answer(text: str) -> ParsedAnswer:
    """The files and the prose of an answer. Never raises; what is refused is a problem."""
    answer = _parsed(_unwrapped(text[:MAX_TEXT]))
    if len(text) > MAX_TEXT:
        answer.problems.append(f"the answer is cut at {MAX_TEXT:,} characters")
    return answer


def _parsed(text: str) -> ParsedAnswer:
    answer = ParsedAnswer()
    lines, mended = mend(re.sub(r"\r\n?", "\n", text).split("\n"))
    answer.problems.extend(mended)
    prose = list(lines)
    claims: dict[str, Claim] = {}
    for block in _blocks(lines):
        path, problem = clean_path(block.path)
        if path is None:
            answer.problems.append(problem)
            continue
        if not _take(answer, claims, path, block):
            continue
        for number in range(block.first, block.last):
            prose[number] = ""
    total = sum(len(content.encode("utf-8", "replace")) for content in answer.files.values())
    if total > ASKED_BYTES:
        answer.problems.append(f"{total:,} bytes of files; {ASKED_BYTES:,} were allowed")
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(prose)).strip()
    return ParsedAnswer(answer.files, body, answer.problems)


def _unwrapped(text: str) -> str:
    """The text, or what a block of Markdown holds that is the whole answer, blocks and all."""
    whole = re.fullmatch(
        r"(`{3,}|~{3,})(?:markdown|md)[ \t]*\r?\n(.*\n)\1\s*", text.lstrip(), re.DOTALL
    )
    if whole is None:
        return text
    # A bare fence would close the block: then it is only the first of several.
    first = re.search(r"^[ \t]*(?:`{3,}|~{3,})(.*)$", whole[2], re.MULTILINE)
    return whole[2] if first and first[1].strip() else text


@dataclass(frozen=True)
class _Block:
    """A fenced block that claims a path; `first` to `last` are its lines, header included."""

    path: str
    claim: Claim
    content: str
    first: int
    last: int
    closed: bool


def _take(answer: ParsedAnswer, claims: dict[str, Claim], path: str, block: _Block) -> bool:
    """Puts a block's file into the answer, or says in `problems` why not."""
    problems = answer.problems
    content = block.content
    size = len(content.encode("utf-8", "replace"))
    total = sum(len(text.encode("utf-8", "replace")) for text in answer.files.values())
    if path in claims and block.claim < claims[path]:
        problems.append(f"{path}: a later block that only mentions it is taken as an excerpt")
        return False
    if size > MAX_FILE_BYTES or total + size > MAX_TOTAL_BYTES:
        problems.append(f"{path}: {size:,} bytes are too many; left out")
        return False
    if path not in answer.files and len(answer.files) >= MAX_FILES:
        problems.append(f"{path}: more than {MAX_FILES} files; left out")
        return False
    for other in answer.files:
        if other.startswith(path + "/") or path.startswith(other + "/"):
            problems.append(f"{path}: a folder and a file have this name; left out")
            return False
    if path in answer.files:
        problems.append(f"{path}: given twice; the later one counts")
    if not block.closed:
        problems.append(f"{path}: its block is not closed; the answer may be cut off")
    if content and not content.endswith("\n"):
        content += "\n"
    answer.files[path] = content
    claims[path] = block.claim
    return True


# --- blocks and their paths ---------------------------------------------------------------------

_MARKDOWN = MarkdownIt("commonmark").disable("inline")
"""Blocks only: inline markup is not needed, and not parsing it keeps hostile text cheap."""


def _blocks(lines: list[str]) -> Iterator[_Block]:
    """The fenced blocks that claim a path, in order; a sentence counts where nothing else does."""
    found: list[_Block] = []
    tokens = _MARKDOWN.parse("\n".join(lines))
    for position, token in enumerate(tokens):
        if token.type != "fence" or token.map is None:
            continue
        path, claim, header = _path_of(tokens, position)
        if path is None:
            continue
        first, last = token.map
        closed = last - first > 1 and _is_run(lines[last - 1], token.markup)
        content = token.content
        if claim is Claim.COMMENT and path.endswith(".json"):
            content = content.partition("\n")[2]  # JSON has no comments
        found.append(_Block(path, claim, content, min(first, header), last, closed))
    named = {block.path for block in found if block.claim is not Claim.SENTENCE}
    yield from (b for b in found if b.claim is not Claim.SENTENCE or b.path not in named)


def _is_run(line: str, markup: str) -> bool:
    line = line.strip(" \t>")
    return len(line) >= len(markup) and set(line) == {markup[0]}


def _path_of(tokens: list[Token], position: int) -> tuple[str | None, Claim, int]:
    """The path that a block claims, how, and the line where its header starts."""
    fence = tokens[position]
    assert fence.map is not None
    language = _language(fence.info)
    header = fence.map[0]
    before = _before(tokens, position)
    if before is not None:
        kind, text, line = before
        last_line = text.rpartition("\n")[2]
        path = stated_path(last_line)
        if path is not None:
            return path, Claim.STATED, line + text.count("\n")
        path = described_path(last_line)
        if path is not None and _fits(path, language):
            claim = Claim.STATED if kind == "heading" else Claim.DESCRIBED
            return path, claim, header
    path = info_path(fence.info)
    if path is not None:
        return path, Claim.STATED, header
    path = comment_path(fence.content)
    if path is not None and _fits(path, language):
        return path, Claim.COMMENT, header
    path = _heading_above(tokens, position)
    if path is not None and _fits(path, language, strictly=True):
        return path, Claim.DESCRIBED, header
    if before is not None:
        path = sentence_path(before[1].rpartition("\n")[2])
        if path is not None and _fits(path, language, strictly=True):
            return path, Claim.SENTENCE, header
    return None, Claim.SENTENCE, header


def _before(tokens: list[Token], position: int) -> tuple[str, str, int] | None:
    """Kind, text and first line of the paragraph, heading or comment right before a block."""
    kind = ""
    for place in range(position - 1, -1, -1):
        token = tokens[place]
        if token.type == "inline" and token.map is not None:
            return kind, token.content, token.map[0]
        if token.type == "html_block" and token.map is not None:
            text = token.content.rstrip("\n")
            return "html", text, token.map[0]
        if token.type in ("fence", "code_block", "hr") or token.nesting == 1:
            return None
        kind = token.type.removesuffix("_close")
    return None


def _heading_above(tokens: list[Token], position: int) -> str | None:
    """A path that a heading or a line in bold above states, with only prose in between."""
    steps = 0
    for place in range(position - 1, -1, -1):
        token = tokens[place]
        if token.type in ("fence", "code_block", "hr", "html_block"):
            return None
        if token.type == "inline":
            steps += 1
            bold = token.content.startswith(("**", "`"))
            heading = tokens[place - 1].type == "heading_open"
            if heading or bold:
                path = stated_path(token.content) or (
                    described_path(token.content) if heading else None
                )
                if path is not None or heading:
                    return path
            if steps > 3:
                return None
    return None


_NAMES = {
    *("dockerfile", "containerfile", "makefile", "procfile", "justfile", "gemfile", "pipfile"),
    *("license", "notice", "readme", "changelog", "authors"),
    *(".env", ".env.example", ".env.sample", ".gitignore", ".dockerignore", ".gitkeep"),
    *(".editorconfig", ".python-version"),
}
_NOT_FILES = {"node.js", "next.js", "vue.js", "express.js", "e.g", "i.e", "asp.net"}
_HOSTS = {"com", "org", "net", "io", "dev", "ai"}
_MIME = re.compile(r"(application|text|image|audio|video|multipart|font|message)/")
_ROOTS = re.compile(r"/(etc|tmp|usr|var|home|root|app|srv|opt|data|proc|sys|dev|bin|run|mnt)(/|$)")
_EXTENSION = re.compile(r"\.([A-Za-z][A-Za-z0-9]{0,11})$")


def looks_like_path(text: str, marked: bool = False) -> bool:
    """Whether a text by itself is a file's path. `marked`: it was set apart as code or in bold."""
    if not text or len(text) > 4096 or re.search(r"[\s<>|\"'`*?{}=,;()]|://|^@", text):
        return False
    if re.match(r"[A-Za-z]:[\\/]", text) or text.startswith(("~/", "../", "..\\", ".git/")):
        return True
    if ":" in text or text.endswith(("/", "\\")):
        return False
    name = re.split(r"[\\/]", text)[-1]
    folder = len(name) < len(text)
    extension = _EXTENSION.search(name)
    if text.startswith("/"):
        return bool(extension or _ROOTS.match(text))
    if name.lower() in _NAMES:
        return True
    if extension:
        host = extension[1].lower() in _HOSTS and not folder
        return not host and name.lower() not in _NOT_FILES
    return folder and marked and not _MIME.match(text)


_LEAD = re.compile(
    r"^\s*(?:\#{1,6}\s+|[-*+•]\s+|\(?\d{1,3}[.):]\s+|\d{1,3}\s+[-–—]\s+|step\s+\d+\s*[:.)–—-]\s*)+",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^(?:[*_]{1,3})?\s*(?:(?:new |updated )?file(?:[ _-]?(?:name|path))?|path|filename)"
    r"\s*(?:\d{1,3})?\s*(?:[*_]{1,3})?\s*[:=]\s*(?:[*_]{1,3})?\s*",
    re.IGNORECASE,
)


def _bare(text: str) -> tuple[str, bool]:
    """A text without the markup around it, and whether there was any."""
    marked = False
    text = text.strip()
    while True:
        link = re.fullmatch(r"\[([^\]\n]+)\]\([^)\n]*\)", text)
        comment = re.fullmatch(r"<!--\s*(.*?)\s*-->", text)
        tag = re.fullmatch(r"<(summary|b|strong|code|em|h[1-6])>(.*?)</\1>", text)
        pair = re.fullmatch(r"(\*{1,3}|`{1,2}|_{1,3}|\"|'|~~)(\S|\S.*\S)\1", text)
        if text.endswith((":", "：")):
            text = text[:-1].rstrip()
        elif link or comment:
            text, marked = (link or comment)[1], True  # type: ignore[index]
        elif tag or pair:
            text, marked = (tag or pair)[2], True  # type: ignore[index]
        else:
            return text, marked


def stated_path(line: str) -> str | None:
    """The path if a line states one and nothing else: bare, marked up, numbered, labelled."""
    if len(line) > 2 * MAX_PATH:
        return None
    heading = line.lstrip().startswith("#")
    text, marked = _bare(_LEAD.sub("", line.rstrip(" #") if heading else line))
    text = _LEAD.sub("", text)
    label = _LABEL.match(text)
    if label:
        text, marked = text[label.end() :], True
    text, more = _bare(text)
    if looks_like_path(text, marked or more or heading):
        return text
    return None


def described_path(line: str) -> str | None:
    """The path of a line that begins with one, or labels one, and goes on to describe it."""
    if len(line) > 1000:
        return None
    text = _LEAD.sub("", line).strip()
    label = _LABEL.match(text)
    text = text[label.end() :] if label else text
    found = re.match(
        r"(?:\*\*|__)?(?:`([^`\n]+)`|([^\s`*:(]+))(?:\*\*|__)?:?(?:\*\*|__)?"
        r"(?:\s*[—–:]|\s+-|\s*\(|\s*,)\s*\S",
        text,
    )
    if not found:
        return None
    path = found[1] or found[2]
    return path if looks_like_path(path, marked=bool(found[1] or label)) else None


def sentence_path(line: str) -> str | None:
    """The one path that a sentence ending in a colon names in backticks or bold."""
    if not line.rstrip().endswith(":") or len(line) > 1000:
        return None
    spans = re.findall(r"`([^`\n]+)`|\*\*([^*\n]+)\*\*", line)
    paths = {a or b for a, b in spans if looks_like_path(a or b)}
    return paths.pop() if len(paths) == 1 else None


def info_path(info: str) -> str | None:
    """The path in a block's info string: `python title="app/db.py"`, `python app/db.py`, …"""
    named = re.search(
        r"(?:title|file(?:name|path)?|path|name)\s*[=:]\s*(?:\"([^\"]+)\"|'([^']+)'|([^\s,}]+))",
        info,
    )
    if named:
        path = next(group for group in named.groups() if group)
        return path if looks_like_path(path, marked=True) else None
    words = info.split()
    if words and ":" in words[0]:
        words[0] = words[0].partition(":")[2]
    elif len(words) > 1:
        words = words[1:]
    if len(words) != 1:
        return None
    path = words[0].strip("\"'`{}()")
    return path if looks_like_path(path) else None


_COMMENT = re.compile(
    r"\s*(?:\#+|//+|--|;+|%|/\*+|<!--|\"\"\"|''')\s*(.+?)\s*(?:\*/|-->|\"\"\"|''')?\s*$"
)


def comment_path(content: str) -> str | None:
    """The path in a comment that is the block's first line (after a `#!` line)."""
    lines = content.split("\n", 2)[:2]
    if lines and lines[0].startswith("#!"):
        lines = lines[1:]
    found = _COMMENT.fullmatch(lines[0][: 2 * MAX_PATH]) if lines else None
    return stated_path(found[1]) if found else None


_SHELL = {"bash", "sh", "shell", "console", "zsh", "shell-session", "powershell", "http", "curl"}
_LANGUAGES = {
    "py": {"python", "py", "python3"},
    "sql": {"sql", "sqlite", "postgresql"},
    "md": {"markdown", "md"},
    "yaml": {"yaml", "yml"},
    "yml": {"yaml", "yml"},
    "json": {"json", "jsonc"},
    "toml": {"toml", "ini"},
    "txt": {"text", "txt", "plaintext", "plain", "requirements", "pip-requirements"},
    "sh": {"bash", "sh", "shell", "zsh"},
}


def _language(info: str) -> str:
    return re.split(r"[\s:{,]", info.strip(), maxsplit=1)[0].lower()


def _fits(path: str, language: str, *, strictly: bool = False) -> bool:
    """Whether a block of that language can be that file; `strictly` where it is only mentioned."""
    extension = _EXTENSION.search(path)
    known = _LANGUAGES.get(extension[1].lower()) if extension else None
    if known is None:
        return language not in _SHELL
    if language in known or (not language and not strictly):
        return True
    return not strictly and language not in _SHELL


def clean_path(path: str) -> tuple[str | None, str]:
    """The path below the service's folder in POSIX form, or None and why it is refused."""
    shown = path if len(path) <= 80 else path[:80] + "…"
    clean = path.replace("\\", "/")
    if re.search(r"[\x00-\x1f\x7f\ufffd\ud800-\udfff]", clean):
        return None, f"{shown!a}: refused: control characters in a path"
    if re.match(r"[A-Za-z]:", clean):
        return None, f"{shown}: refused: a drive letter"
    if clean.startswith(("/", "~")):
        return None, f"{shown}: refused: an absolute path"
    parts = [part for part in clean.split("/") if part not in ("", ".")]
    if ".." in parts:
        return None, f"{shown}: refused: it leaves the folder"
    if any(part.lower().rstrip(". ") == ".git" for part in parts):
        return None, f"{shown}: refused: .git is not part of an answer"
    clean = "/".join(parts)
    if not clean or len(clean.encode()) > MAX_PATH:
        return None, f"{shown}: refused: a path has at most {MAX_PATH} bytes"
    return clean, ""


# --- mending ------------------------------------------------------------------------------------

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})([^`\n]*)")
_BULLET = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_LOOK_AHEAD = 200
"""Fence lines that are looked at to find where a block ends: bounds the time on hostile text."""


@dataclass(frozen=True)
class _Fence:
    line: int
    indent: int
    run: str
    info: str
    header: int | None
    """Where a file starts with this fence: the line of its path."""

    @property
    def opens(self) -> bool:
        """A fence with an info string can only be an opening one. Under a path alone it need not
        be: the last line of what it closes may read like one."""
        return bool(self.info)


def mend(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines with ill-nested, unclosed and outdented fences rewritten, and what was mended."""
    fences = list(_fences(lines))
    out = list(lines)
    inserts: dict[int, str] = {}
    problems: list[str] = []
    position = 0
    while position < len(fences):
        opener = fences[position]
        position += 1
        if opener.indent > 3 and not _in_list(lines, opener):
            continue
        later = fences[position : position + _LOOK_AHEAD]
        end, closer = _end_of(lines, opener, later)
        inside = [f for f in later if f.line < end]
        if lines[max(0, opener.line - 1)].lstrip().startswith("<"):
            inserts[opener.line] = ""  # else an HTML block goes on through the fence
        if closer is None and end < len(lines):
            inserts[end] = " " * opener.indent + opener.run
            problems.append(
                f"line {opener.line + 1}: the block is not closed; the next file ends it"
            )
        position += len(inside) + (closer is not None)
        longest = max((len(f.run) for f in inside if f.run[0] == opener.run[0]), default=0)
        outdented = opener.indent > 0 and any(
            line.strip() and len(line) - len(line.lstrip()) < opener.indent
            for line in lines[opener.line + 1 : end]
        )
        if longest < len(opener.run) and not outdented:
            continue
        run = opener.run[0] * max(len(opener.run), longest + 1)
        indent = "" if outdented else " " * opener.indent
        out[opener.line] = f"{indent}{run}{opener.info}"
        if closer is not None:
            out[closer.line] = indent + run
        elif end in inserts:
            inserts[end] = indent + run
    mended: list[str] = []
    for number, line in enumerate(out):
        if number in inserts:
            mended.append(inserts[number])
        mended.append(line)
    return mended, problems


def _fences(lines: list[str]) -> Iterator[_Fence]:
    for number, line in enumerate(lines):
        found = _FENCE.fullmatch(line.rstrip())
        if not found:
            continue
        indent = len(found[1].expandtabs(4))
        info = found[3].strip()
        yield _Fence(number, indent, found[2], info, _header(lines, number, info))


def _header(lines: list[str], number: int, info: str) -> int | None:
    """The line where a file's block starts, if a path stands before it or in its info string."""
    above = number - 1
    while above >= 0 and number - above <= 3 and not lines[above].strip():
        above -= 1
    if above >= 0 and stated_path(lines[above]) is not None:
        return above
    return number if info_path(info) is not None else None


def _in_list(lines: list[str], fence: _Fence) -> bool:
    """Whether an indented fence belongs to a list item above it (else it is indented code)."""
    for line in reversed(lines[max(0, fence.line - 50) : fence.line]):
        if line.strip() and len(line) - len(line.lstrip()) < fence.indent:
            return bool(_BULLET.match(line))
    return False


def _end_of(lines: list[str], opener: _Fence, later: list[_Fence]) -> tuple[int, _Fence | None]:
    """Where a block was meant to end: the line, and the fence that closes it (None for none).

    A fence with an info string opens a block of its own and takes the next bare fence with it;
    what closes the outer block is a bare fence that is left over. The search goes up to where the
    next file starts. In Markdown, bare fences open blocks too: there the number of those left over
    must be odd, and of the possible ones the first with nothing right below it is taken. Where
    nothing adds up, CommonMark's own reading stands.
    """
    markdown = _is_markdown(lines, opener)
    bare: list[_Fence] = []
    left: list[_Fence] = []
    inner: _Fence | None = None
    next_file: int | None = None
    until_next_file: list[_Fence] = bare
    for fence in (f for f in later if _counts(f, opener)):
        if fence.opens and fence.header is not None:
            if next_file is None:
                next_file, until_next_file = fence.header, list(bare)
            if not markdown or len(left) % 2:
                break
        if inner is not None:
            if not fence.opens and len(fence.run) >= len(inner.run):
                bare.append(fence)
                inner = None
        elif fence.opens:
            inner = fence
        elif not markdown:
            return fence.line, fence
        else:
            bare.append(fence)
            left.append(fence)
    if len(left) % 2:
        closer = _by_layout(lines, left)
        return closer.line, closer
    if until_next_file:
        closer = until_next_file[-1 if markdown else 0]
        return closer.line, closer
    return (len(lines) if next_file is None else next_file), None


def _counts(fence: _Fence, opener: _Fence) -> bool:
    """Whether CommonMark could see this fence inside the block at all."""
    same = fence.run[0] == opener.run[0] and len(fence.run) >= len(opener.run)
    return same and fence.indent < opener.indent + 4


def _is_markdown(lines: list[str], opener: _Fence) -> bool:
    if _language(opener.info) in ("markdown", "md"):
        return True
    path = info_path(opener.info)
    if path is None and opener.header is not None:
        path = stated_path(lines[opener.header])
    return path is not None and path.lower().endswith((".md", ".markdown"))


def _by_layout(lines: list[str], left: list[_Fence]) -> _Fence:
    """Of an odd number of bare fences, the one that closes: after it comes a blank or nothing."""
    for fence in left[::2]:
        below = lines[fence.line + 1].strip() if fence.line + 1 < len(lines) else ""
        if not below and fence.indent == left[-1].indent:
            return fence
    return left[-1]
