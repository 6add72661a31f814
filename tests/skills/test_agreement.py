"""Good and bad skills on which three validators run: ours, the reference validator
(``agentskills validate``) and the real Claude Code CLI (``claude plugin validate --strict``).

Ours is never more lenient than either. Where it is stricter, or another is blind, the row says
why. Claude Code loads what it can, so its own check reads little: that there is front matter with
a description, and the types of what it uses; it does not look at names, lengths, unknown keys,
broken YAML or other files. The reference validator reads SKILL.md's front matter alone.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.validation import validate

# The tools run once for the whole table: one worker has to see all of its tests.
pytestmark = pytest.mark.xdist_group("agreement")

LOADS = "Claude Code loads it all the same"
FRONT_ONLY = "others read the front matter alone"


@dataclass(frozen=True)
class Row:
    """A skill, and who finds fault with it."""

    front: str | bytes
    """Front matter without its lines ---; bytes are the whole SKILL.md."""
    ours: str = ""
    """Part of the error's message; empty if ours finds no error."""
    reference: bool = True
    """The reference validator accepts it."""
    claude: bool = True
    """Claude Code finds neither error nor warning."""
    why: str = ""
    """Why they differ; empty if they agree."""
    folder: str = "demo"
    file: str = "SKILL.md"


OK = "name: demo\ndescription: Says hello."

TABLE = {
    # All three accept
    "minimal": Row(OK),
    "every key": Row(
        f"{OK}\nlicense: MIT\ncompatibility: Needs git\nallowed-tools: Bash Read\n"
        'metadata:\n  version: "1"'
    ),
    "quoted values": Row('name: "demo"\ndescription: "Says: hello"'),
    "folded description": Row("name: demo\ndescription: >\n  Says\n  hello."),
    "comment": Row(f"# of the author\n{OK}"),
    "CRLF": Row(f"---\n{OK}\n---\n\n# Demo\n".replace("\n", "\r\n").encode()),
    "64-character name": Row(f"name: {'a' * 64}\ndescription: x", folder="a" * 64),
    "200-character description": Row(f"name: demo\ndescription: {'x' * 200}"),
    "201-character description": Row(f"name: demo\ndescription: {'x' * 201}"),  # we warn
    "1,024-character description": Row(f"name: demo\ndescription: {'x' * 1024}"),
    "500-character compatibility": Row(f"{OK}\ncompatibility: {'x' * 500}"),
    "no body": Row(f"---\n{OK}\n---\n".encode()),  # we warn
    "list of tools": Row(f"{OK}\nallowed-tools:\n- Bash"),  # we warn
    # All three refuse
    "no front matter": Row(b"# Demo\n", "must start with front matter", False, False),
    "empty file": Row(b"", "must start with front matter", False, False),
    "blank line first": Row(
        f"\n---\n{OK}\n---\n".encode(), "must start with front matter", False, False
    ),
    "front matter not closed": Row(f"---\n{OK}\n".encode(), "not closed", False, False),
    "empty front matter": Row(b"---\n---\n# Demo\n", "must be keys with values", False, False),
    "front matter is a list": Row("- a", "must be keys with values", False, False),
    "no description": Row("name: demo", "is missing", False, False),
    "description is a list": Row("name: demo\ndescription:\n- a", "must be one text", False, False),
    "metadata is a flow list": Row(f"{OK}\nmetadata: [a]", "[…] list", False, False),
    # Claude Code is lenient
    "YAML broken": Row("name: demo\ndescription: [x", "not YAML", False, True, LOADS),
    "colon without quotes": Row(
        "name: demo\ndescription: Says: hello", 'put the value in "quotes"', False, True, LOADS
    ),
    "no name": Row("description: x", "is missing", False, True, LOADS),
    "empty description": Row('name: demo\ndescription: ""', "is empty", False, True, LOADS),
    "upper-case name": Row(
        "name: Demo\ndescription: x", "lower-case", False, True, LOADS, folder="Demo"
    ),
    "underscore": Row("name: a_b\ndescription: x", "lower-case", False, True, LOADS, folder="a_b"),
    "hyphen first": Row("name: -a\ndescription: x", "lower-case", False, True, LOADS, folder="-a"),
    "hyphen last": Row("name: a-\ndescription: x", "lower-case", False, True, LOADS, folder="a-"),
    "two hyphens": Row(
        "name: a--b\ndescription: x", "single hyphens", False, True, LOADS, folder="a--b"
    ),
    "65-character name": Row(
        f"name: {'a' * 65}\ndescription: x", "at most 64", False, True, LOADS, folder="a" * 65
    ),
    "other folder": Row(OK, "differs from the folder's name", False, True, LOADS, folder="other"),
    "1,025-character description": Row(
        f"name: demo\ndescription: {'x' * 1025}", "at most 1024", False, True, LOADS
    ),
    "501-character compatibility": Row(
        f"{OK}\ncompatibility: {'x' * 501}", "at most 500", False, True, LOADS
    ),
    "compatibility is a list": Row(
        f"{OK}\ncompatibility:\n- git", "must be one text", False, True, LOADS
    ),
    "unknown key": Row(f"{OK}\nversion: one", "not a key of the format", False, True, LOADS),
    "key twice": Row(f"name: demo\n{OK}", "stands twice", False, True, LOADS),
    "flow mapping": Row("{name: demo, description: x}", "{…} mapping", False, True, LOADS),
    "anchor": Row("name: &a demo\ndescription: *a", "&anchor", False, True, LOADS),
    "tag": Row("name: demo\ndescription: !!str x", "!tag", False, True, LOADS),
    "byte order mark": Row(
        b"\xef\xbb\xbf" + f"---\n{OK}\n---\n".encode(), "byte order mark", False, True, LOADS
    ),
    "not UTF-8": Row(
        f"---\n{OK}\n---\n".encode() + b"\xe9\n",
        "not UTF-8",
        False,
        True,
        "the reference validator breaks off with a traceback; Claude Code replaces the character",
    ),
    # The reference validator reads every value as text
    "name is a number": Row(
        "name: 12\ndescription: x",
        "must be a text",
        True,
        False,
        "the reference validator knows no types",
        folder="12",
    ),
    "metadata is a text": Row(
        f"{OK}\nmetadata: x",
        "must be keys with texts",
        True,
        False,
        "the reference validator does not check it",
    ),
    "metadata is a block list": Row(
        f"{OK}\nmetadata:\n- a",
        "must be keys with texts",
        True,
        False,
        "the reference validator does not check it",
    ),
    # Ours alone refuses
    "number in metadata": Row(
        f"{OK}\nmetadata:\n  version: 1.0",
        "put it in quotes",
        True,
        True,
        "the specification: texts; a YAML reader turns 1.10 into 1.1",
    ),
    "mapping in metadata": Row(
        f"{OK}\nmetadata:\n  a:\n    b: c", "write it as a text", True, True, "specification: texts"
    ),
    "description is a number": Row(
        "name: demo\ndescription: 12", "put it in quotes", True, True, "specification: a text"
    ),
    "licence is a list": Row(
        f"{OK}\nlicense:\n- MIT", "must be one text", True, True, "specification: a text"
    ),
    "reserved word": Row(
        "name: claude-demo\ndescription: x",
        "reserves",
        True,
        True,
        "a rule of the Skills API",
        folder="claude-demo",
    ),
    "angle brackets": Row(
        "name: demo\ndescription: a <b> c", "< or >", True, True, "a rule of the upload"
    ),
    "accented name": Row(
        "name: démo\ndescription: x",
        "letters a-z",
        True,
        True,
        "the reference validator takes any alphabet; the API does not",
        folder="démo",
    ),
    "skill.md": Row(
        OK,
        "must be called SKILL.md",
        True,
        True,
        "the reference validator takes either; Claude Code sees no skill at all",
        file="skill.md",
    ),
    "500 lines": Row(
        f"---\n{OK}\n---\n{'x' + chr(10) * 2}".encode() + b"x\n" * 500,
        "under 500",
        True,
        True,
        FRONT_ONLY,
    ),
    "dead link": Row(
        f"---\n{OK}\n---\n[x](references/no.md)\n".encode(), "leads nowhere", True, True, FRONT_ONLY
    ),
}


def content(row: Row) -> bytes:
    front = row.front
    return front if isinstance(front, bytes) else f"---\n{front}\n---\n\n# Demo\n".encode()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for number, (name, row) in enumerate(TABLE.items()):
        made[name] = tmp_path_factory.mktemp(f"row{number}") / row.folder
        made[name].mkdir()
        (made[name] / row.file).write_bytes(content(row))
    return made


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> dict[str, bool]:
    """Who passes ``agentskills validate``, the command itself."""
    command = Path(sys.executable).with_name("agentskills")

    def accepts(folder: Path) -> bool:
        done = subprocess.run([command, "validate", "--", folder], capture_output=True, timeout=60)
        return done.returncode == 0

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(folders, pool.map(accepts, folders.values()), strict=True))


@pytest.fixture(scope="module")
def claude_code(
    folders: dict[str, Path],
    claude: Callable[..., subprocess.CompletedProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bool]:
    """Whom ``claude plugin validate`` finds no fault with: one plugin holds the whole table, since
    it does not look at a folder's name."""
    plugin = tmp_path_factory.mktemp("plugin")
    manifest = {"name": "p", "version": "1.0.0", "description": "x", "author": {"name": "x"}}
    (plugin / ".claude-plugin").mkdir()
    (plugin / ".claude-plugin/plugin.json").write_text(json.dumps(manifest))
    for number, folder in enumerate(folders.values()):
        shutil.copytree(folder, plugin / "skills" / f"row{number}")
    done = claude("validate", "--json", "--strict", ".", cwd=plugin)
    report = json.loads(done.stdout)
    assert report["manifest"]["errors"] == [], done.stdout
    faulty = {
        Path(found["file"]).parent.name
        for found in report["contents"]
        if found["errors"] or found["warnings"]
    }
    return {name: f"row{number}" not in faulty for number, name in enumerate(folders)}


@pytest.mark.parametrize("name", TABLE)
def test_each_validator_says_what_the_table_says(name, folders, reference, claude_code):
    row = TABLE[name]
    errors = [f.message for f in validate(folders[name]) if f.level == "error"]
    assert any(row.ours in message for message in errors) if row.ours else errors == []
    assert reference[name] == row.reference
    assert claude_code[name] == row.claude


@pytest.mark.parametrize("name", TABLE)
def test_ours_is_never_more_lenient_and_every_difference_has_its_reason(name):
    row = TABLE[name]
    verdicts = {not row.ours, row.reference, row.claude}
    if False in verdicts:
        assert row.ours, "someone else refuses this skill"
    assert bool(row.why) == (len(verdicts) > 1)


def test_all_three_accept_the_skill_that_we_ship(claude, tmp_path):
    repo = Path(__file__).resolve().parents[2]
    shipped = repo / "skill" / "backend-engineering"
    assert validate(shipped) == []
    command = Path(sys.executable).with_name("agentskills")
    assert subprocess.run([command, "validate", shipped], capture_output=True).returncode == 0
    done = claude("validate", "--strict", ".", cwd=repo)
    assert done.returncode == 0, done.stdout + done.stderr
