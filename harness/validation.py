"""Checks a skill against the open specification and the stricter rules of an upload.

Every finding is listed at once. What each rule comes from:

- the open specification, https://agentskills.io/specification: names, keys, lengths, and the
  body's size, which it recommends and we demand;
- the reference validator (PyPI ``skills-ref``): only plain block YAML, a file without a BOM;
- the Skills API and Anthropic's quick validator: reserved names, no ``<`` or ``>`` in the
  description, the total size; claude.ai's upload page: 200 characters of description;
- this project: `body and references` fit into a system prompt, links lead somewhere, and the
  package unpacks to the same files everywhere.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from harness.skills import SKILL_MD, Tree, read_tree, split_front_matter

if TYPE_CHECKING:
    from markdown_it.token import Token

MAX_NAME = 64
MAX_DESCRIPTION = 1024
UPLOAD_DESCRIPTION = 200
"""claude.ai's upload page is reported to refuse more; the API takes MAX_DESCRIPTION."""
MAX_COMPATIBILITY = 500
BODY_LINES = 500
BODY_TOKENS = 5_000
PROMPT_TOKENS = 8_000
"""Body and references together: inline delivery puts all of them into one prompt."""
BYTES_PER_TOKEN = 3.6
"""Of English Markdown. An estimate on the safe side, since no tokenizer is public."""

KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
REQUIRED = ("name", "description")
RESERVED = ("anthropic", "claude")

# fmt: off
TEXT_ENDINGS = frozenset((
    ".bash", ".cfg", ".css", ".csv", ".html", ".ini", ".js", ".json", ".md", ".py", ".sh", ".sql",
    ".svg", ".toml", ".ts", ".tsv", ".txt", ".xml", ".yaml", ".yml",
))
# fmt: on

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Finding:
    """One thing to mend. An error keeps the skill from being packaged; a warning does not."""

    level: Literal["error", "warning"]
    where: str
    """File, then line, then key, as far as they apply: ``demo/SKILL.md:3: description``."""
    message: str
    """What is wrong, and the mend."""


def validate(path: Path) -> list[Finding]:
    """Every finding on the skill in a folder, ZIP or ``.skill``; an empty list if there is none.

    Never raises for bad input: a path that does not exist is a finding too.
    """
    return validate_tree(read_tree(path))


def validate_tree(tree: Tree) -> list[Finding]:
    """The findings on files that were read already (see `validate`)."""
    return list(_Check(tree).findings())


class _Check:
    """Holds the tree, so that every rule can say where it looked."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.links: set[str] = set()

    def findings(self) -> Iterator[Finding]:
        tree = self.tree
        for path, wrong in tree.problems:
            yield self.error(path, wrong)
        for path, reason in tree.strays.items():
            yield self.warning(path, f"{reason}: left out of the package; remove it")
        if any(not path for path, _ in tree.problems):
            return
        texts = yield from self.texts()
        if SKILL_MD not in tree.files:
            yield from self.missing_skill_md()
        elif SKILL_MD in texts:
            yield from self.skill_md(texts)

    # Files

    def texts(self) -> Generator[Finding, None, dict[str, str]]:
        """Yields what is wrong with text files; returns the good ones, decoded, by path."""
        texts = {}
        for path, data in self.tree.files.items():
            name = PurePosixPath(path)
            if name.suffix.lower() not in TEXT_ENDINGS and name.stem != "LICENSE":
                continue
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                line = data[: error.start].count(b"\n") + 1
                yield self.error(path, "is not UTF-8 here; save the file as UTF-8", line)
                continue
            if "\0" in text:
                line = text[: text.index("\0")].count("\n") + 1
                yield self.error(path, "holds a NUL character, so it is no text", line)
                continue
            if text.startswith("\ufeff"):
                yield self.error(path, "starts with a byte order mark; save it without", 1)
                text = text.removeprefix("\ufeff")
            texts[path] = text
        return texts

    def missing_skill_md(self) -> Iterator[Finding]:
        for path in self.tree.files:
            if PurePosixPath(path).name.lower() == "skill.md":
                yield self.error(path, f"must be called {SKILL_MD}, at the skill's root; rename it")
                return
        if not any(path == SKILL_MD for path, _ in self.tree.problems):
            yield self.error(SKILL_MD, "is missing; a skill is a folder with this file")

    # SKILL.md

    def skill_md(self, texts: Mapping[str, str]) -> Iterator[Finding]:
        text = texts[SKILL_MD]
        try:
            head, body, first = split_front_matter(text)
        except ValueError as error:
            yield self.error(SKILL_MD, str(error), 1)
            head, body, first = "", text, 1
        else:
            yield from self.front_matter(head)
        yield from self.budget(body, texts)
        yield from self.links_of(SKILL_MD, body, first, texts)
        for path, other in texts.items():
            if path != SKILL_MD and path.endswith(".md"):
                yield from self.links_of(path, other, 1, texts)
        for path in self.tree.files:
            if path.startswith("references/") and path not in self.links:
                yield self.warning(
                    path, f"no link in {SKILL_MD} leads here, so it is never read; link or drop it"
                )

    def front_matter(self, head: str) -> Iterator[Finding]:
        import yaml

        if "---" in head:
            line = head[: head.index("---")].count("\n") + 2
            yield self.warning(SKILL_MD, "some readers end the front matter at this ---", line)
        try:
            node = yaml.compose(head, Loader=yaml.SafeLoader)
            yield from self.plain_yaml(head)
            value = yaml.safe_load(head)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            wrong = str(getattr(error, "problem", None) or error)
            hint = '; put the value in "quotes"' if "mapping values" in wrong else ""
            yield self.error(
                SKILL_MD, f"front matter is not YAML: {wrong}{hint}", mark.line + 2 if mark else 1
            )
            return
        if not isinstance(node, yaml.MappingNode):
            yield self.error(SKILL_MD, "front matter must be keys with values: name: …", 1)
            return
        yield from self.keys(node, value)

    def plain_yaml(self, head: str) -> Iterator[Finding]:
        """The reference validator refuses what these tokens stand for."""
        import yaml

        refused: Mapping[type, str] = {
            yaml.FlowMappingStartToken: "a {…} mapping",
            yaml.FlowSequenceStartToken: "a […] list",
            yaml.AnchorToken: "an &anchor",
            yaml.AliasToken: "an *alias",
            yaml.TagToken: "a !tag",
        }
        for token in yaml.scan(head, Loader=yaml.SafeLoader):
            if kind := refused.get(type(token)):
                line = token.start_mark.line + 2
                yield self.error(
                    SKILL_MD, f"{kind} is not accepted everywhere; write it out or quote it", line
                )

    def keys(self, node: Any, value: Mapping[Any, Any]) -> Iterator[Finding]:
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 2
            if key in lines:
                yield self.error(SKILL_MD, f"stands twice, first on line {lines[key]}", line, key)
            elif key not in KEYS:
                yield self.error(SKILL_MD, f"is not a key of the format{_nearest(key)}", line, key)
            lines.setdefault(key, line)
            if key == "metadata":
                yield from self.metadata(value_node, line)
        for key in REQUIRED:
            if key not in lines:
                yield self.error(SKILL_MD, "is missing; the format demands it", 1, key)
        for key, line in lines.items():
            if key not in KEYS or key == "metadata":
                continue
            entry = value.get(key)
            if key == "allowed-tools" and isinstance(entry, list):
                yield self.warning(
                    SKILL_MD,
                    "the specification wants one text, tools separated by blanks",
                    line,
                    key,
                )
            elif not isinstance(entry, str) and entry is not None:
                yield self.error(SKILL_MD, _not_text(entry), line, key)
            elif entry is None or not entry.strip():
                yield self.error(SKILL_MD, "is empty; give it a text or drop the key", line, key)
            else:
                for level, wrong in self.rules(key, entry):
                    yield self.finding(level, SKILL_MD, wrong, line, key)

    def metadata(self, node: Any, line: int) -> Iterator[Finding]:
        import yaml

        if not isinstance(node, yaml.MappingNode):
            yield self.error(SKILL_MD, "must be keys with texts", line, "metadata")
            return
        seen = set()
        for key_node, value_node in node.value:
            key = f"metadata.{key_node.value}"
            at = key_node.start_mark.line + 2
            if key in seen:
                yield self.error(SKILL_MD, "stands twice", at, key)
            seen.add(key)
            if value_node.tag != "tag:yaml.org,2002:str":
                plain = isinstance(value_node, yaml.ScalarNode)
                mend = f'put it in quotes: "{value_node.value}"' if plain else "write it as a text"
                yield self.error(SKILL_MD, f"must be a text; {mend}", at, key)

    def rules(self, key: str, entry: str) -> Iterator[tuple[Literal["error", "warning"], str]]:
        """The rules of one key whose value is a text."""
        size = len(entry)
        if key == "name":
            if size > MAX_NAME:
                yield "error", f"{size} characters; at most {MAX_NAME} are allowed"
            if not NAME.fullmatch(entry):
                wants = "lower-case letters a-z, digits and single hyphens between them"
                yield "error", f"{_short(entry)} must consist of {wants}"
            if entry != self.tree.folder:
                yield (
                    "error",
                    f"{_short(entry)} differs from the folder's name, {_short(self.tree.folder)}; "
                    "rename one of them",
                )
            for word in RESERVED:
                if word in entry:
                    yield "error", f"contains {word!r}, which the Skills API reserves"
        elif key == "description":
            if size > MAX_DESCRIPTION:
                yield "error", f"{size} characters; at most {MAX_DESCRIPTION} are allowed"
            elif size > UPLOAD_DESCRIPTION:
                yield (
                    "warning",
                    f"{size} characters; claude.ai's upload page takes at most "
                    f"{UPLOAD_DESCRIPTION}",
                )
            if "<" in entry or ">" in entry:
                yield "error", "contains < or >, which an upload refuses; use words"
        elif key == "compatibility" and size > MAX_COMPATIBILITY:
            yield "error", f"{size} characters; at most {MAX_COMPATIBILITY} are allowed"
        elif key == "license":
            for name in re.findall(r"[\w.-]+\.(?:txt|md)\b", entry):
                if name not in self.tree.files:
                    yield "error", f"names {name}, which is not in the skill's folder"

    def budget(self, body: str, texts: Mapping[str, str]) -> Iterator[Finding]:
        if not body.strip():
            yield self.warning(SKILL_MD, "has no body, so it teaches nothing")
        lines, tokens = len(body.splitlines()), _tokens(body)
        if lines >= BODY_LINES:
            yield self.error(
                SKILL_MD, f"body of {lines} lines; keep it under {BODY_LINES}, move depth out"
            )
        if tokens >= BODY_TOKENS:
            yield self.error(
                SKILL_MD, f"body of about {tokens:,} tokens; keep it under {BODY_TOKENS:,}"
            )
        whole = tokens + sum(
            _tokens(text) for path, text in texts.items() if path.startswith("references/")
        )
        if whole > PROMPT_TOKENS:
            yield self.error(
                "references",
                f"with the body about {whole:,} tokens; at most {PROMPT_TOKENS:,} are allowed",
            )

    # Links

    def links_of(
        self, path: str, text: str, first: int, texts: Mapping[str, str]
    ) -> Iterator[Finding]:
        for link, line in _links(text):
            for target, wrong in self.follow(path, link, texts):
                if wrong:
                    yield self.error(path, f"link {_short(link)} {wrong}", first + line)
                elif path == SKILL_MD:
                    self.links.add(target)

    def follow(
        self, path: str, link: str, texts: Mapping[str, str]
    ) -> Iterator[tuple[str, str | None]]:
        """(target inside the skill, what is wrong with it) unless the link leaves for the web."""
        try:
            parts = urlsplit(link)
        except ValueError:
            yield "", "is no address"
            return
        if parts.scheme in ("http", "https", "mailto"):
            return
        if parts.scheme or parts.netloc or link.startswith("/"):
            yield "", "must be relative, or start with https://"
            return
        target = unquote(parts.path)
        if target:
            target = _join(PurePosixPath(path).parent, target)
            if target == ".." or target.startswith("../"):
                yield "", "leads out of the skill's folder; copy the file into it"
                return
            if any(name.startswith(f"{target}/") for name in self.tree.files):
                yield target, None
                return
            if target not in self.tree.files:
                near = difflib.get_close_matches(target, list(self.tree.files), 1)
                hint = f"; did you mean {near[0]}?" if near else "; write the file or drop the link"
                if target in self.tree.strays:
                    hint = f": {self.tree.strays[target]}, which is left out; rename it"
                yield "", f"leads nowhere{hint}"
                return
        elif not parts.fragment:
            yield "", "is empty"
            return
        target = target or path
        fragment = unquote(parts.fragment)
        if fragment and target.endswith(".md") and fragment not in _anchors(texts.get(target, "")):
            yield "", f"leads nowhere: no heading of {target} makes #{fragment}"
            return
        yield target, None

    # Findings

    def error(self, path: str, message: str, line: int = 0, key: str = "") -> Finding:
        return self.finding("error", path, message, line, key)

    def warning(self, path: str, message: str, line: int = 0, key: str = "") -> Finding:
        return self.finding("warning", path, message, line, key)

    def finding(
        self, level: Literal["error", "warning"], path: str, message: str, line: int, key: str
    ) -> Finding:
        where = f"{self.tree.origin}/{path}".rstrip("/")
        return Finding(
            level, where + (f":{line}" if line else "") + (f": {key}" if key else ""), message
        )


def _tokens(text: str) -> int:
    return round(len(text.encode()) / BYTES_PER_TOKEN)


def _links(text: str) -> Iterator[tuple[str, int]]:
    """(address, lines before it) of each link and image, as CommonMark sees them."""
    for block in _markdown(text):
        for token in block.children or ():
            address = token.attrGet("href" if token.type == "link_open" else "src")
            if token.type in ("link_open", "image"):
                yield str(address or ""), block.map[0] if block.map else 0


def _anchors(text: str) -> set[str]:
    """What headings are addressed by: GitHub's rule, which other renderers follow."""
    anchors: set[str] = set()
    blocks = _markdown(text)
    for opening, inline in pairwise(blocks):
        if opening.type != "heading_open":
            continue
        title = "".join(
            token.content
            for token in inline.children or ()
            if token.type in ("text", "code_inline")
        )
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        name, count = slug, 0
        while name in anchors:
            count += 1
            name = f"{slug}-{count}"
        anchors.add(name)
    return anchors


def _markdown(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    # By default a link to file: or javascript: is no link at all; here it is one to refuse.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    return parser.parse(text)


def _join(folder: PurePosixPath, target: str) -> str:
    import posixpath

    return posixpath.normpath(posixpath.join(folder.as_posix(), target))


def _nearest(key: str) -> str:
    near = difflib.get_close_matches(key, KEYS, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return "; put it under metadata or drop it. Keys: " + ", ".join(KEYS)


def _not_text(entry: object) -> str:
    if isinstance(entry, list | dict):
        return "must be one text, not a list or mapping"
    return "must be a text; put it in quotes"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")
