"""What models really write, and what a hostile one would."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.grading.parse import (
    MAX_FILE_BYTES,
    MAX_FILES,
    clean_path,
    comment_path,
    described_path,
    info_path,
    parse_answer,
    sentence_path,
    stated_path,
)

CODE = "import os\n\nprint(os.environ)\n"


def fenced(header: str, content: str = CODE, info: str = "python", run: str = "```") -> str:
    return f"{header}\n{run}{info}\n{content}{run}\n"


# --- where the path stands ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "app/main.py",
        "app/main.py:",
        "./app/main.py",
        "`app/main.py`",
        "`app/main.py`:",
        "**app/main.py**",
        "**app/main.py**:",
        "**app/main.py:**",
        "**`app/main.py`**",
        "**`app/main.py`:**",
        "`**app/main.py**`",
        "*app/main.py*",
        "_app/main.py_",
        "## app/main.py",
        "### `app/main.py`",
        "#### **app/main.py**",
        "## app/main.py ##",
        "### 3. `app/main.py`",
        "3. app/main.py",
        "3) `app/main.py`",
        "(3) `app/main.py`",
        "**3. app/main.py**",
        "- app/main.py",
        "* `app/main.py`",
        "File: app/main.py",
        "file: `app/main.py`",
        "**File:** `app/main.py`",
        "**File: `app/main.py`**",
        "**File**: app/main.py",
        "### File: app/main.py",
        "### File 3: `app/main.py`",
        "Filename: app/main.py",
        "Path: app/main.py",
        "Step 2: `app/main.py`",
        "[app/main.py](app/main.py)",
        "<!-- app/main.py -->",
        "<!-- file: app/main.py -->",
        "<summary>app/main.py</summary>",
        "app\\main.py",
    ],
)
def test_path_on_the_line_before(line: str) -> None:
    for gap in ("", "\n"):
        parsed = parse_answer(f"Here it is.\n\n{line}{gap}\n```python\n{CODE}```\n\nDone.\n")
        assert parsed.files == {"app/main.py": CODE}
        assert parsed.problems == []


@pytest.mark.parametrize(
    "info",
    [
        "app/main.py",
        "python app/main.py",
        "python:app/main.py",
        'python title="app/main.py"',
        "python title='app/main.py'",
        "python filename=app/main.py",
        'python {file="app/main.py"}',
        'py file_path="app/main.py" linenums="1"',
    ],
)
def test_path_in_the_info_string(info: str) -> None:
    assert parse_answer(fenced("The service:\n", info=info)).files == {"app/main.py": CODE}


@pytest.mark.parametrize(
    ("comment", "info"),
    [
        ("# app/x.py", "python"),
        ("# file: app/x.py", "python"),
        ("## `app/x.py`", ""),
        ('"""app/x.py"""', "python"),
        ("#!/usr/bin/env python\n# app/x.py", "python"),
    ],
)
def test_path_as_a_comment_in_the_first_line_is_kept_in_the_file(comment: str, info: str) -> None:
    content = f"{comment}\n{CODE}"
    assert parse_answer(fenced("Next:", content, info)).files == {"app/x.py": content}


@pytest.mark.parametrize(
    "comment", ["// {}", "/* {} */", "-- {}", "<!-- {} -->", "; {}", "# {}", "// File: {}"]
)
def test_comment_styles(comment: str) -> None:
    assert comment_path(comment.format("db/001_init.sql") + "\nx\n") == "db/001_init.sql"


def test_comment_with_the_path_is_taken_out_of_json() -> None:
    parsed = parse_answer('```json\n// config/app.json\n{"a": 1}\n```\n')
    assert parsed.files == {"config/app.json": '{"a": 1}\n'}


@pytest.mark.parametrize(
    "line",
    [
        "`app/db.py` — opens the database",
        "**`app/db.py`** - opens the database",
        "**app/db.py** (new)",
        "`app/db.py`: opens the database",
        "### `app/db.py` — opens the database",
        "### 2. `app/db.py` (connections)",
    ],
)
def test_path_with_a_description(line: str) -> None:
    assert parse_answer(fenced(line)).files == {"app/db.py": CODE}


def test_heading_with_a_sentence_between_it_and_the_block() -> None:
    text = fenced("### `app/db.py`\n\nOpens the database, and migrates it.\n")
    assert parse_answer(text).files == {"app/db.py": CODE}


def test_command_under_a_files_heading_is_not_that_file() -> None:
    text = fenced("### `main.py`") + fenced("### `main.py`\n\nRun it with:\n", "main\n", "bash")
    parsed = parse_answer(text)
    assert parsed.files == {"main.py": CODE}
    assert "main\n" in parsed.prose


def test_sentence_names_a_file_that_nothing_else_gives() -> None:
    assert parse_answer(fenced("Now create `app/db.py`:")).files == {"app/db.py": CODE}


@pytest.mark.parametrize("header", ["In `main.py` only this changes:", "Change:"])
def test_excerpt_does_not_replace_the_file(header: str) -> None:
    excerpt = "# main.py\nx = 1\n"
    parsed = parse_answer(fenced("main.py") + "\n" + fenced(header, excerpt))
    assert parsed.files == {"main.py": CODE}


@pytest.mark.parametrize(
    "name", ["Dockerfile", ".env.example", "Makefile", "LICENSE", ".gitignore"]
)
def test_names_without_an_extension(name: str) -> None:
    assert parse_answer(fenced(f"`{name}`", "x\n", "")).files == {name: "x\n"}


@pytest.mark.parametrize(
    "line",
    [
        "Run it:",
        "application/json",
        "`application/json`",
        "GET /orders",
        "`GET /orders/{id}`",
        "example.com",
        "http://127.0.0.1:8080/docs.html",
        "127.0.0.1:8080",
        "Node.js",
        "For example, e.g.",
        "and/or",
        "a file with spaces.py in a sentence",
        "`/health`",
    ],
)
def test_fenced_example_without_a_path_is_prose(line: str) -> None:
    parsed = parse_answer(fenced(line, "curl localhost\n", "bash"))
    assert parsed.files == {}
    assert parsed.problems == []
    assert "curl localhost" in parsed.prose


def test_prose_keeps_the_text_and_loses_the_files() -> None:
    text = f"Before.\n\nmain.py\n```python\n{CODE}```\n\nAfter.\n\n```bash\nrun\n```\n"
    assert parse_answer(text).prose == "Before.\n\nAfter.\n\n```bash\nrun\n```"


def test_answer_without_a_file_is_all_prose() -> None:
    assert parse_answer("No. Keep it as it is.\n").prose == "No. Keep it as it is."
    assert parse_answer("") == parse_answer(" \n")


# --- fences -------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["```", "````", "~~~", "~~~~~"])
def test_fence_characters_and_lengths(run: str) -> None:
    assert parse_answer(fenced("main.py", run=run)).files == {"main.py": CODE}


@pytest.mark.parametrize(("outer", "inner"), [("````", "```"), ("~~~", "```"), ("```", "~~~")])
def test_nested_fences_as_commonmark_has_them(outer: str, inner: str) -> None:
    readme = f"# X\n\n{inner}bash\nmake\n{inner}\n\n{inner}\ntree\n{inner}\n"
    text = fenced("README.md", readme, "markdown", outer) + fenced("\nmain.py")
    assert parse_answer(text).files == {"README.md": readme, "main.py": CODE}


README = """\
# Service

Install:

```bash
pip install -r requirements.txt
```

Layout:

```
app/
  main.py
```

| variable | meaning |
|---|---|
| `PORT` | where it listens |
"""


@pytest.mark.parametrize("info", ["markdown", "md", ""])
@pytest.mark.parametrize("last", [False, True])
def test_readme_in_three_backticks_with_blocks_of_its_own(info: str, last: bool) -> None:
    readme, main = fenced("README.md", README, info), fenced("main.py")
    text = f"{main}\n{readme}" if last else f"{readme}\n{main}"
    assert parse_answer(text).files == {"README.md": README, "main.py": CODE}


def test_readme_that_ends_with_a_block_of_its_own() -> None:
    readme = "# X\n\n## Run\n\n```bash\npython main.py\n```\n"
    text = fenced("README.md", readme, "markdown") + "\n" + fenced("main.py")
    assert parse_answer(text).files == {"README.md": readme, "main.py": CODE}


def test_example_after_the_readme_stays_prose() -> None:
    text = fenced("README.md", README, "markdown") + "\nTry it:\n\n```bash\ncurl x\n```\n"
    parsed = parse_answer(text)
    assert parsed.files == {"README.md": README}
    assert "curl x" in parsed.prose


def test_plain_readme_and_a_bare_example_after_it() -> None:
    text = fenced("README.md", "# X\n\nText.\n", "markdown") + "\nTry:\n\n```\ncurl x\n```\n"
    assert parse_answer(text).files == {"README.md": "# X\n\nText.\n"}


def test_readme_that_shows_a_file_under_its_path() -> None:
    readme = "# X\n\n`.env`\n```bash\nPORT=1\n```\n\nThen start it.\n"
    text = fenced("README.md", readme, "markdown") + "\n" + fenced("main.py")
    assert parse_answer(text).files == {"README.md": readme, "main.py": CODE}


def test_readme_with_indented_blocks_in_a_list() -> None:
    readme = "# X\n\n1. Install\n\n   ```bash\n   make\n   ```\n\n2. Run\n"
    text = fenced("README.md", readme, "markdown") + "\n" + fenced("main.py")
    assert parse_answer(text).files == {"README.md": readme, "main.py": CODE}


def test_code_with_a_fence_in_a_string() -> None:
    code = 'PROMPT = """\n```json\n{}\n```\n"""\n'
    text = fenced("main.py", code) + "\n" + fenced("b.py")
    assert parse_answer(text).files == {"main.py": code, "b.py": CODE}


def test_indented_fence_in_a_docstring_does_not_close_the_block() -> None:
    code = 'def f():\n    """Do.\n\n    ```\n    f()\n    ```\n    """\n'
    assert parse_answer(fenced("main.py", code)).files == {"main.py": code}


def test_blocks_in_list_items() -> None:
    text = (
        "1. `main.py`\n\n   ```python\n   def f():\n       return 1\n   ```\n\n"
        "10. **app/b.py**:\n    ```python\n    x = 1\n    ```\n\n"
        "- c.py\n  ```python\n  y = 2\n  ```\n"
    )
    assert parse_answer(text).files == {
        "main.py": "def f():\n    return 1\n",
        "app/b.py": "x = 1\n",
        "c.py": "y = 2\n",
    }


def test_list_item_whose_code_stands_at_the_margin() -> None:
    text = "1. `main.py`\n   ```python\nimport os\n\nx = 1\n   ```\n"
    text += "2. `b.py`\n   ```python\ny\n   ```\n"
    assert parse_answer(text).files == {"main.py": "import os\n\nx = 1\n", "b.py": "y\n"}


def test_list_item_followed_by_a_block_at_the_margin() -> None:
    text = f"1. `main.py`\n\n```python\n{CODE}```\n\n2. `b.py`\n\n```python\n{CODE}```\n"
    assert parse_answer(text).files == {"main.py": CODE, "b.py": CODE}


def test_crlf() -> None:
    text = fenced("main.py") + "\n" + fenced("README.md", README, "markdown")
    parsed = parse_answer(text.replace("\n", "\r\n"))
    assert parsed.files == {"main.py": CODE, "README.md": README}


def test_tabs_and_trailing_spaces_are_kept() -> None:
    content = "all:\n\techo x  \n"
    assert parse_answer(fenced("Makefile", content, "makefile")).files == {"Makefile": content}


def test_block_quote() -> None:
    assert parse_answer("> main.py\n> ```python\n> x = 1\n> ```\n").files == {"main.py": "x = 1\n"}


@pytest.mark.parametrize("opening", ["```markdown", "````markdown", "```md", "~~~md"])
def test_answer_that_stands_in_a_fenced_block_as_a_whole(opening: str) -> None:
    closing = opening.rstrip("markdown")  # leaves the run
    inside = f"Here.\n\n{fenced('main.py')}\n{fenced('README.md', README, 'markdown')}\nDone.\n"
    parsed = parse_answer(f"{opening}\n{inside}{closing}\n")
    assert parsed.files == {"main.py": CODE, "README.md": README}
    assert "Here." in parsed.prose and "Done." in parsed.prose


def test_examples_first_and_last_are_no_wrapping() -> None:
    text = "```md\na\n```\n\nmain.py\n```python\nx = 1\n```\n\n```\nb\n```\n"
    assert parse_answer(text).files == {"main.py": "x = 1\n"}


def test_truncated_last_block_is_kept_and_noted() -> None:
    parsed = parse_answer(fenced("a.py") + "\nmain.py\n```python\nimport os\nprint(")
    assert parsed.files == {"a.py": CODE, "main.py": "import os\nprint(\n"}
    assert any("main.py" in problem and "not closed" in problem for problem in parsed.problems)


def test_block_that_is_never_closed_does_not_swallow_the_next_file() -> None:
    parsed = parse_answer(f"main.py\n```python\n{CODE}\nb.py\n```python\n{CODE}```\n")
    assert parsed.files["b.py"] == CODE
    assert parsed.files["main.py"].strip() == CODE.strip()
    assert any("not closed" in problem for problem in parsed.problems)


def test_later_block_with_the_same_path_replaces_the_earlier() -> None:
    parsed = parse_answer(fenced("main.py") + "\n" + fenced("**main.py**", "x = 2\n"))
    assert parsed.files == {"main.py": "x = 2\n"}
    assert parsed.problems == ["main.py: given twice; the later one counts"]


def test_empty_file() -> None:
    assert parse_answer(fenced("app/__init__.py", "")).files == {"app/__init__.py": ""}


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/app/main.py",
        "../main.py",
        "app/../../main.py",
        "..\\main.py",
        "C:\\main.py",
        "C:/main.py",
        "~/.ssh/id.pub",
        ".git/hooks/pre-commit.sh",
        "app/.GIT/config.txt",
        ".git./config.txt",
        "a\x00b.py",
        "a\x1b[31m.py",
        "x" * 300 + ".py",
        "\ud800.py",
    ],
)
def test_paths_that_leave_the_folder_are_problems(path: str) -> None:
    parsed = parse_answer(fenced(f"`{path}`") + "\n" + fenced("ok.py"))
    assert parsed.files == {"ok.py": CODE}
    if len(path) < 200 and "\x00" not in path and "\x1b" not in path:
        assert any("refused" in problem for problem in parsed.problems), parsed.problems
    assert clean_path(path)[0] is None


def test_problems_show_no_control_characters() -> None:
    parsed = parse_answer(fenced("`a\x1b]0;x\x07.py`"))
    assert not any("\x1b" in problem or "\x07" in problem for problem in parsed.problems)


def test_too_large_files_and_too_many_files_are_left_out() -> None:
    big = parse_answer(fenced("big.py", "x" * (MAX_FILE_BYTES + 1) + "\n") + fenced("ok.py"))
    assert list(big.files) == ["ok.py"]
    assert "too many" in big.problems[0]
    many = parse_answer("\n".join(fenced(f"f{n}.py", "x\n") for n in range(MAX_FILES + 5)))
    assert len(many.files) == MAX_FILES
    assert len(many.problems) == 5


def test_more_than_the_format_allows_is_noted_and_kept() -> None:
    parsed = parse_answer(fenced("main.py", "x = 1\n" * 12_000))
    assert "main.py" in parsed.files
    assert "65,536 were allowed" in parsed.problems[0]


def test_file_and_folder_of_one_name() -> None:
    parsed = parse_answer(fenced("`app/x.py`") + fenced("`app/x.py/y.py`"))
    assert list(parsed.files) == ["app/x.py"]
    assert "folder" in parsed.problems[0]


# --- properties ---------------------------------------------------------------------------------

_pieces = st.sampled_from(
    [
        *("```", "````", "~~~", "   ```", "\t```", "```python", "```md", "main.py", "README.md"),
        *("> ", "- ", "1. `a.py`", "", "text", "    code", "# x.py", "../x.py", "\x00", "---"),
        *("<!--", "-->", "<div>"),
    ]
)


@given(st.lists(_pieces, max_size=40))
@settings(max_examples=150, deadline=None)
def test_nothing_raises_and_nothing_leaves_the_folder(pieces: list[str]) -> None:
    parsed = parse_answer("\n".join(pieces))
    for path in parsed.files:
        assert clean_path(path) == (path, "")
        assert not path.startswith("/") and ".." not in path.split("/")


@given(st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_an_answer(text: str) -> None:
    parse_answer(text)
    for reading in (stated_path, described_path, sentence_path, info_path, comment_path):
        reading(text)


_line = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=30
).filter(lambda text: not text.lstrip().startswith(("```", "~~~")))


@given(st.dictionaries(st.sampled_from(["main.py", "app/a.py", "b.sql", "README.md"]),
                       st.lists(_line, max_size=8), min_size=1))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_well_formed_answers_come_back_byte_for_byte(files: dict[str, list[str]]) -> None:
    contents = {path: "".join(line + "\n" for line in lines) for path, lines in files.items()}
    text = "\n".join(fenced(path, content) for path, content in contents.items())
    assert parse_answer(text).files == contents


@pytest.mark.parametrize(
    "text",
    [
        "```\n" * 10_000,
        "```a\n" * 10_000,
        "main.py\n```md\n" * 4_000,
        "```md\n```a\n" + "```\n" * 10_000,
        ">" * 60_000,
        "- " * 40_000,
        "`" * 100_000,
        "*" * 100_000 + "\n```\n",
        "[" * 50_000 + "\n```\n",
        "<!--" * 20_000,
        "# " + "a" * 100_000 + ".py\n```\n",
        "   ```\n x\n" * 10_000,
        ("`a`" * 30_000) + ":\n```\n",
    ],
)
def test_hostile_text_is_read_in_a_moment(text: str) -> None:
    started = time.process_time()
    parse_answer(text)
    assert time.process_time() - started < 10
