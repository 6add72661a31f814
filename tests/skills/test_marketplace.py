"""The repository is a Claude Code plugin marketplace: README's lines, with the real CLI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.skills import load_skill

REPO = Path(__file__).resolve().parents[2]
SHIPPED = REPO / "skill" / "backend-engineering"
MANIFEST = json.loads((REPO / ".claude-plugin/marketplace.json").read_text())


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What of a clone the CLI can see; the files of another run's caches stay out."""
    for name in (".claude-plugin", "skill"):
        shutil.copytree(REPO / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def test_the_readme_lines_install_the_skill_and_nothing_else(claude, clone):
    for line in (
        ["validate", "--strict", "."],
        ["marketplace", "add", "./"],
        ["install", "backend-engineering@backend-engineering-skill"],
    ):
        done = claude(*line, cwd=clone)
        assert done.returncode == 0, done.stdout + done.stderr
    listed = claude("list", "--json", cwd=clone)
    assert "backend-engineering@backend-engineering-skill" in listed.stdout
    (installed,) = claude.home.glob(".claude/plugins/cache/*/backend-engineering/*")
    assert load_skill(installed / "backend-engineering").digest == load_skill(SHIPPED).digest
    assert [path.name for path in installed.iterdir() if not path.name.startswith(".")] == [
        "backend-engineering"
    ]
    details = claude("details", "backend-engineering", cwd=clone)
    assert "Skills (1)  backend-engineering" in details.stdout


def test_the_plugin_has_the_version_of_the_skill():
    (plugin,) = MANIFEST["plugins"]
    assert plugin["version"] == load_skill(SHIPPED).version
    assert plugin["strict"] is False
    assert (REPO / plugin["source"] / plugin["skills"][0]).resolve() == SHIPPED
