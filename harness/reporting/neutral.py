"""Makes text from a model harmless, one small function for each kind of output.

Invisible and reordering characters are replaced by a visible name such as ``⟨U+202E⟩`` in every
output: what a reader sees is what is there.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, among them ESC and the one-byte CSI and OSC
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # bidi, breaks, no width
    "\ud800-\udfff"  # lone surrogates, which no encoder takes
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f"  # among them invisible 'tag' letters
    "]"
)
"""Control and format characters, except tab and newline, and the joiners that emoji and several
scripts need (U+200C, U+200D)."""

_FORMULA = re.compile(r"\s*[=+\-@|%＝＋－＠]")

_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#+\-.!|~&$:^=\"']")

_REFERENCE = re.compile(r"@|&#35;|\bGH&#45;|\bwww&#46;|&#58;(?=//)", re.IGNORECASE)
"""Where a forge starts a mention, a reference or a bare link, after `_MARKDOWN` was escaped."""


def text(value: str) -> str:
    """Several lines for HTML (which escapes on its own) or a log: newlines and tabs stay."""
    if value.isprintable():  # true of most, and forty times as fast to find out
        return value
    return _UNSEEN.sub(_name, value.replace("\r\n", "\n"))


def line(value: str) -> str:
    """One line for a terminal or a table cell: every run of white space is one space.

    No markup is escaped: hand the result to `rich.text.Text`, which reads none.
    """
    return text(" ".join(value.split()))


def cell(value: str) -> str:
    """A spreadsheet cell: text that would start a formula is led by an apostrophe."""
    if value[:1].isalnum():
        return text(value)
    safe = text(value)
    return f"'{safe}" if _FORMULA.match(safe) or safe.startswith(("\t", "\n")) else safe


def xml(value: str) -> str:
    """Characters that XML 1.0 can carry; the serialiser escapes the markup."""
    return re.sub("[\ufffe\uffff]", _name, text(value))


def markdown(value: str) -> str:
    """One line of Markdown that is text alone: no markup, HTML, link, mention or reference.

    Mentions, issue numbers and bare links are not Markdown but added by the forge, which reads
    past a backslash: a zero-width joiner after their first character breaks them up.
    """
    escaped = _MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", line(value))
    return _REFERENCE.sub("\\g<0>\u200d", escaped)


def _name(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match[0]):04X}⟩"
