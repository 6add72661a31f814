"""Reading a skill: the same skill from a folder, an archive or a revision."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.packaging import build
from harness.skills import inline_text, load_skill, load_skill_at

GOLDEN = "sha256:948d167949f8466fbc19a1c40ea1eeba2791844746d25fb7e849821254598bea"


def git(repo: Path, *arguments: str) -> None:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=repo, check=True, capture_output=True)


def test_a_skill_has_what_its_front_matter_says(skill):
    read = load_skill(skill())
    assert (read.name, read.version, read.folder) == ("demo", "1.2.0", "demo")
    assert read.description == "Says hello. Use when greeted."
    assert read.body.startswith("# Demo")
    assert list(read.files) == ["LICENSE.txt", "SKILL.md", "references/how.md", "scripts/hi.sh"]


def test_a_skill_cannot_be_changed(skill):
    read = load_skill(skill())
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.name = "other"
    with pytest.raises(TypeError):
        read.files["SKILL.md"] = b""


def test_the_digest_is_pinned_so_that_its_form_cannot_drift(skill):
    assert load_skill(skill()).digest == GOLDEN


def test_folder_zip_and_revision_of_the_same_files_are_the_same_skill(skill, tmp_path):
    folder = skill(at="repo/skills/demo")
    package = build(folder, tmp_path / "dist")
    git(tmp_path / "repo", "init", "-q")
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-qm", "x")
    expected = load_skill(folder)
    revised = load_skill_at("HEAD", Path("skills/demo"), tmp_path / "repo")
    for other in (load_skill(package.zip), load_skill(package.skill), revised):
        assert (other.digest, other.folder, other.files) == (
            expected.digest,
            "demo",
            expected.files,
        )


def test_a_revision_is_read_as_it_was_and_the_work_tree_stays(skill, tmp_path):
    folder = skill(at="repo/demo")
    git(tmp_path / "repo", "init", "-q")
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-qm", "x")
    before = load_skill(folder)
    (folder / "references/how.md").write_text("# Edited\n")
    now = load_skill(folder)
    assert load_skill_at("HEAD", folder, tmp_path / "repo").digest == before.digest != now.digest
    assert load_skill(folder).digest == now.digest


@pytest.mark.parametrize(
    ("rev", "path", "says"),
    [
        ("nowhere", "demo", "nowhere"),
        ("--help", "demo", "--help"),
        ("HEAD", "other", "other"),
        ("HEAD", "..", "outside the git repository"),
    ],
)
def test_a_revision_or_path_that_does_not_exist_is_one_message(skill, tmp_path, rev, path, says):
    skill(at="repo/demo")
    git(tmp_path / "repo", "init", "-q")
    git(tmp_path / "repo", "add", ".")
    git(tmp_path / "repo", "commit", "-qm", "x")
    with pytest.raises(UserError, match=says):
        load_skill_at(rev, Path(path), tmp_path / "repo")


def test_a_folder_outside_any_repository_is_one_message(skill, tmp_path):
    with pytest.raises(UserError, match="not a git repository"):
        load_skill_at("HEAD", skill(), tmp_path)


def test_stray_files_are_no_part_of_a_skill(skill):
    clean = load_skill(skill()).digest
    strays = {"__pycache__/x.pyc": b"\0", ".DS_Store": b"\xff", "SKILL.md~": "", "#SKILL.md#": ""}
    assert load_skill(skill(strays)).digest == clean


def test_inline_text_is_every_instruction_file_under_its_path(skill):
    text = inline_text(load_skill(skill({"references/a.md": "# A\n"})))
    starts = [text.index(f'<file path="{p}">') for p in ("SKILL.md", "references/a.md")]
    assert starts == sorted(starts)
    assert text.count("<file ") == text.count("</file>") == 3
    assert "Before you greet" in text and "# How to greet" in text
    assert "All yours" not in text and "echo hi" not in text


def test_inline_text_refuses_a_reference_that_is_no_text(skill):
    with pytest.raises(UserError, match=r"references/x\.md: not UTF-8 at byte 1"):
        inline_text(load_skill(skill({"references/x.md": b"a\xff"})))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"SKILL.md": None}, "holds no SKILL.md"),
        ({"SKILL.md": "# Hi\n"}, "must start with front matter"),
        ({"SKILL.md": "---\nname: demo\n"}, "not closed"),
        ({"SKILL.md": "---\nname: [\n---\n"}, "not YAML"),
        ({"SKILL.md": "---\n- a\n---\n"}, "keys with values"),
        ({"SKILL.md": "---\n" + "[" * 5000 + "\n---\n"}, "not YAML"),
        ({"SKILL.md": "---\nname: demo\n---\n"}, "description: must be a text"),
        ({"SKILL.md": b"---\nname: \xff\n---\n"}, "not UTF-8 at byte 10"),
    ],
)
def test_what_is_no_skill_is_refused_with_file_and_reason(skill, files, says):
    with pytest.raises(UserError, match=says) as caught:
        load_skill(skill(files))
    assert "demo" in str(caught.value)


def test_an_archive_that_is_none_is_refused(tmp_path):
    (tmp_path / "demo.zip").write_text("hello")
    with pytest.raises(UserError, match="not a ZIP file"):
        load_skill(tmp_path / "demo.zip")


def test_a_damaged_archive_is_refused(skill, tmp_path):
    package = build(skill(), tmp_path / "dist")
    data = package.zip.read_bytes()
    package.zip.write_bytes(data.replace(b"All yours", b"All mine!"))
    with pytest.raises(UserError, match=r"LICENSE\.txt: cannot be read: Bad CRC-32"):
        load_skill(package.zip)


def test_an_archive_that_lies_about_its_size_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "demo.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("demo/SKILL.md", b"0" * 31_000_000)
    with pytest.raises(UserError, match="above 30,000,000 bytes"):
        load_skill(tmp_path / "demo.zip")


def test_importing_the_noun_costs_no_heavy_import():
    code = "import harness.skills, sys; print({'yaml', 'zipfile', 'anthropic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
