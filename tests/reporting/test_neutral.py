"""Hostile text in, harmless text out, for each kind of output."""

import sys
import unicodedata
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from harness.reporting import neutral

JOINERS = {"\u200c", "\u200d"}


def test_every_invisible_character_is_named_and_no_other():
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for point in range(sys.maxunicode + 1):
        char = chr(point)
        if unicodedata.category(char) in hidden and char not in JOINERS | {"\t", "\n"}:
            assert neutral.text(char) == f"⟨U+{point:04X}⟩", hex(point)
        elif unicodedata.category(char) != "Cn":
            assert neutral.text(char) == char, hex(point)


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[H",
        "\x1b]0;title\x07",
        "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
        "\x9b31m",
        "\x08\x08rm",
        "a\rb",
    ],
)
def test_a_terminal_line_has_no_control_character(hostile):
    assert all(unicodedata.category(char) != "Cc" for char in neutral.line(hostile))


def test_a_line_is_one_line():
    assert neutral.line("a\n\n  b\tc\r\nd") == "a b c d"


def test_what_could_be_encoded_before_still_can():
    assert neutral.text("\ud800").encode() == "⟨U+D800⟩".encode()


@pytest.mark.parametrize(
    "formula",
    ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\n=1", "|calc", "%1", "＝1", "\ttext"],
)
def test_a_spreadsheet_cell_never_starts_a_formula(formula):
    assert neutral.cell(formula).startswith("'")


def test_an_ordinary_cell_stays():
    assert neutral.cell("wanted 202, got 500") == "wanted 202, got 500"


def test_xml_takes_what_comes_out():
    hostile = "".join(map(chr, range(0x100))) + "\ufffe\uffff\ud800]]></failure>"
    element = ElementTree.Element("failure")
    element.text = neutral.xml(hostile)
    again = ElementTree.fromstring(ElementTree.tostring(element, "utf-8"))
    assert "]]></failure>" in (again.text or "")


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![x](https://evil.example/a.png)",
        "[x](javascript:alert(1))",
        "https://evil.example and www.evil.example",
        "# heading\n- list\n\n    code",
        "| a | b |\n|---|---|",
        "`code` **bold** ~~gone~~ &amp; <!-- x -->",
        "1. one",
    ],
)
def test_markdown_renders_as_the_same_text_without_markup(hostile):
    html = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(
        neutral.markdown(hostile)
    )
    root = ElementTree.fromstring(html)
    assert root.tag == "p" and len(root) == 0
    assert (root.text or "").replace("\u200d", "") == neutral.line(hostile)


@pytest.mark.parametrize("reference", ["@octocat", "#12", "GH-12", "owner/repo#12"])
def test_markdown_starts_no_mention_and_no_reference(reference):
    text = MarkdownIt().renderInline(neutral.markdown(f"see {reference}"))
    assert reference not in text
    assert text.replace("\u200d", "") == f"see {reference}"
