"""The package is the same bytes whoever builds it, and is refused rather than wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile

import pytest

from harness.errors import UserError
from harness.packaging import build
from harness.skills import load_skill
from harness.validation import validate

GOLDEN = "e0fb2ff88d17c7441ab9bb427255efab22ff3b0755ba844ce9603c52479ef18e"

BUILD = """
import os, sys
from pathlib import Path
from harness.packaging import build
os.umask(int(sys.argv[1], 8))
print(build(Path(sys.argv[2]), Path(sys.argv[3])).sha256)
"""


def test_the_bytes_are_pinned_so_that_no_python_or_zlib_changes_them(skill, tmp_path):
    assert build(skill(), tmp_path / "dist").sha256 == GOLDEN


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland"])
def test_umask_and_time_zone_have_no_say(skill, tmp_path, umask, zone):
    done = subprocess.run(
        [sys.executable, "-c", BUILD, umask, str(skill()), str(tmp_path / "dist")],
        env={**os.environ, "TZ": zone, "SOURCE_DATE_EPOCH": "1700000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == GOLDEN


def test_times_modes_and_order_of_creation_have_no_say(skill, tmp_path):
    folder = skill()
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in contents:
        path.unlink()
    for number, path in enumerate(sorted(contents, reverse=True)):
        path.write_bytes(contents[path])
        os.utime(path, (1e9 + number, 1e9 + number))
        path.chmod([0o600, 0o777, 0o444, 0o755][number % 4])
    assert build(folder, tmp_path / "dist").sha256 == GOLDEN


def test_the_place_of_the_folder_has_no_say(skill, tmp_path):
    assert build(skill(at="elsewhere/deep/demo"), tmp_path / "dist").sha256 == GOLDEN


def test_zip_and_skill_are_the_same_bytes_and_the_package_says_which(skill, tmp_path):
    package = build(skill(), tmp_path / "dist")
    data = package.zip.read_bytes()
    assert (package.zip.name, package.skill.name) == ("demo.zip", "demo.skill")
    assert package.skill.read_bytes() == data
    assert package.size == len(data)
    assert package.sha256 == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(package.zip) as packed:
        assert {m.filename: m.file_size for m in packed.infolist()} == dict(package.files)


def test_one_folder_at_the_root_with_skill_md_first(skill, tmp_path):
    names = list(build(skill(), tmp_path / "dist").files)
    assert names[0] == "demo/SKILL.md"
    assert {name.split("/")[0] for name in names} == {"demo"}


def test_scripts_can_be_run_and_nothing_else_can(skill, tmp_path):
    with zipfile.ZipFile(build(skill(), tmp_path / "dist").zip) as packed:
        modes = {m.filename: oct(m.external_attr >> 16) for m in packed.infolist()}
    assert {name for name, mode in modes.items() if mode == "0o100755"} == {"demo/scripts/hi.sh"}
    assert set(modes.values()) == {"0o100755", "0o100644"}


def test_stray_files_stay_out(skill, tmp_path):
    strays = dict.fromkeys(
        [
            ".DS_Store",
            ".git/HEAD",
            ".mypy_cache/x",
            "SKILL.md~",
            "SKILL.md.bak",
            "SKILL.md.orig",
            ".SKILL.md.swp",
            "#SKILL.md#",
            "Thumbs.db",
            "scripts/__pycache__/hi.cpython-311.pyc",
            "scripts/hi.pyc",
            "scripts/node_modules/x.js",
            "__MACOSX/x",
        ],
        b"\xff",
    )
    folder = skill(strays)
    (folder / ".#SKILL.md").symlink_to("me@host.1234")  # Emacs's lock leads nowhere
    assert build(folder, tmp_path / "dist").sha256 == GOLDEN


def test_the_package_unpacks_to_the_same_skill_without_a_finding(skill, tmp_path):
    package = build(skill(), tmp_path / "dist")
    assert validate(package.zip) == validate(package.skill) == []
    with zipfile.ZipFile(package.zip) as packed:
        packed.extractall(tmp_path / "unpacked")
    assert load_skill(tmp_path / "unpacked/demo").digest == load_skill(skill()).digest


def test_building_again_replaces_the_package_and_leaves_nothing_else(skill, tmp_path):
    build(skill({"SKILL.md": "---\nname: demo\ndescription: Old.\n---\n# Demo\n"}), tmp_path / "d")
    assert build(skill(), tmp_path / "d").sha256 == GOLDEN
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["demo.skill", "demo.zip"]


def test_a_skill_with_errors_is_refused_with_all_of_them_and_nothing_is_written(skill, tmp_path):
    folder = skill({"references/x.md": b"\xff", "SKILL.md": "---\nname: Demo\n---\n[a](b.md)\n"})
    with pytest.raises(UserError) as caught:
        build(folder, tmp_path / "dist")
    message = str(caught.value)
    for says in ("not UTF-8", "SKILL.md:2: name", "description: is missing", "'b.md' leads"):
        assert says in message
    assert not (tmp_path / "dist").exists()


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="nowhere: does not exist"):
        build(tmp_path / "nowhere", tmp_path / "dist")


def test_a_package_is_not_packed_again(skill, tmp_path):
    package = build(skill(), tmp_path / "dist")
    with pytest.raises(UserError, match="give the skill's folder"):
        build(package.zip, tmp_path / "again")


def test_a_package_is_not_written_into_the_skill(skill):
    folder = skill()
    with pytest.raises(UserError, match="lies inside the skill"):
        build(folder, folder / "dist")


def test_an_out_folder_that_is_a_file_is_one_message(skill, tmp_path):
    (tmp_path / "dist").write_text("")
    with pytest.raises(UserError, match="dist: cannot be written"):
        build(skill(), tmp_path / "dist")


def test_a_package_that_reads_back_differently_is_refused(skill, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.packaging.archive", lambda skill: b"PK not quite")
    with pytest.raises(UserError, match="not a ZIP file"):
        build(skill(), tmp_path / "dist")
