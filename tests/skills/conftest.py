"""A small good skill to bend, and the real Claude Code binary."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

GOOD: Mapping[str, str | bytes] = {
    "SKILL.md": (
        '---\nname: demo\ndescription: "Says hello. Use when greeted."\n'
        'license: Complete terms in LICENSE.txt\nmetadata:\n  version: "1.2.0"\n---\n\n'
        "# Demo\n\nBefore you greet read [how](references/how.md#how-to-greet).\n"
    ),
    "LICENSE.txt": "All yours.\n",
    "references/how.md": "# How to greet\n\nBack to [the start](../SKILL.md#demo).\n",
    "scripts/hi.sh": "#!/bin/sh\necho hi\n",
}


def write_skill(folder: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """Writes the good skill with some files changed, added or (None) left out."""
    for path, content in {**GOOD, **files}.items():
        if content is None:
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.fixture
def skill(tmp_path: Path) -> Callable[..., Path]:
    """``skill({path: content})`` is a folder ``demo`` with the good skill, changed so."""

    def make(files: Mapping[str, str | bytes | None] | None = None, at: str = "demo") -> Path:
        return write_skill(tmp_path / at, files or {})

    return make


@pytest.fixture(scope="session")
def claude(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess]:
    """The real Claude Code CLI, in a home of its own and without the network."""
    import claude_agent_sdk

    binary = Path(claude_agent_sdk.__file__).parent / "_bundled" / "claude"
    env = {
        **os.environ,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            [binary, "plugin", *arguments],
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    run.home = Path(env["HOME"])  # type: ignore[attr-defined]
    return run
