"""Every refusal names the file, the line, the key and the mend, and all come at once."""

from __future__ import annotations

import os
import stat
import zipfile

import pytest

from harness.validation import validate

FRONT = '---\nname: demo\ndescription: "Hi."\n---\n'


def body(text: str) -> dict[str, str | None]:
    return {"SKILL.md": f"{FRONT}\n# Demo\n\n[how](references/how.md)\n\n{text}\n"}


def front(text: str) -> dict[str, str]:
    return {"SKILL.md": f"---\n{text}\n---\n\n# Demo\n\n[how](references/how.md)\n"}


def errors(path):
    return [(f.where, f.message) for f in validate(path) if f.level == "error"]


def test_the_good_skill_has_no_finding(skill):
    assert validate(skill()) == []


def test_every_finding_is_listed_at_once(skill):
    path = skill(
        {
            "SKILL.md": (
                "---\nname: Demo\ndescription: a <b>\nfoo: bar\n---\n\n# Demo\n\n"
                "[x](references/no.md)\n"
            ),
            "references/latin.md": b"caf\xe9",
            ".DS_Store": b"",
        }
    )
    found = {(f.level, f.where.removeprefix(f"{path}/")) for f in validate(path)}
    assert found == {
        ("error", "SKILL.md:2: name"),
        ("error", "SKILL.md:3: description"),
        ("error", "SKILL.md:4: foo"),
        ("error", "SKILL.md:9"),
        ("error", "SKILL.md:9"),
        ("error", "references/latin.md:1"),
        ("warning", ".DS_Store"),
        ("warning", "references/how.md"),
        ("warning", "references/latin.md"),
    }


REFUSED = {
    "no SKILL.md": ({"SKILL.md": None}, "SKILL.md", "is missing"),
    "SKILL.md in lower case": (
        {"SKILL.md": None, "skill.md": FRONT},
        "skill.md",
        "must be called SKILL.md",
    ),
    "name too long": (front("name: " + "a" * 65 + "\ndescription: x"), "SKILL.md:2: name", "64"),
    "reserved word": (front("name: my-claude\ndescription: x"), "SKILL.md:2: name", "reserves"),
    "mistyped key": (
        front("name: demo\ndescription: x\nlicence: MIT"),
        "SKILL.md:4: licence",
        "did you mean license?",
    ),
    "description too long": (
        front("name: demo\ndescription: " + "x" * 1025),
        "SKILL.md:3: description",
        "1025 characters; at most 1024",
    ),
    "licence file missing": (
        front("name: demo\ndescription: x\nlicense: see TERMS.txt"),
        "SKILL.md:4: license",
        "names TERMS.txt, which is not",
    ),
    "metadata number": (
        front("name: demo\ndescription: x\nmetadata:\n  version: 1.0"),
        "SKILL.md:5: metadata.version",
        'put it in quotes: "1.0"',
    ),
    "body of 500 lines": (body("x\n" * 500), "SKILL.md", "keep it under 500"),
    "body of 5,000 tokens": (body("x" * 18_000), "SKILL.md", "keep it under 5,000"),
    "prompt of 8,000 tokens": (
        {"references/how.md": "# How to greet\n" + "x" * 30_000},
        "references",
        "at most 8,000",
    ),
    "link to no file": (body("[x](references/hwo.md)"), "SKILL.md:10", "mean references/how.md?"),
    "image of no file": (body("![x](assets/x.png)"), "SKILL.md:10", "leads nowhere"),
    "link by reference": (body("[x][1]\n\n[1]: no.md"), "SKILL.md:10", "'no.md' leads nowhere"),
    "link to no heading": (body("[x](#nowhere)"), "SKILL.md:10", "makes #nowhere"),
    "link to no heading there": (body("[x](references/how.md#no)"), "SKILL.md:10", "makes #no"),
    "link out of the folder": (body("[x](../other.md)"), "SKILL.md:10", "leads out"),
    "link to an absolute path": (body("[x](/etc/passwd)"), "SKILL.md:10", "must be relative"),
    "link to a file address": (body("[x](file:///etc/passwd)"), "SKILL.md:10", "must be relative"),
    "empty link": (body("[x]()"), "SKILL.md:10", "is empty"),
    "link to a stray": (
        {**body("[x](.hidden.md)"), ".hidden.md": "x"},
        "SKILL.md:10",
        "dot file, which is left out",
    ),
    "link in a reference": (
        {"references/how.md": "# How to greet\n\n[x](no.md)\n"},
        "references/how.md:3",
        "'no.md' leads nowhere",
    ),
    "text that is not UTF-8": ({"scripts/a.py": b"#\n# \xff\n"}, "scripts/a.py:2", "not UTF-8"),
    "NUL in text": ({"references/how.md": "# How to greet\n\0"}, "references/how.md:2", "NUL"),
    "byte order mark": ({"LICENSE.txt": b"\xef\xbb\xbfx"}, "LICENSE.txt:1", "byte order mark"),
    "colon in a path": ({"assets/a:b.txt": "x"}, "assets/a:b.txt", "not every system takes"),
    "newline in a path": ({"assets/a\nb.txt": "x"}, "assets/a\nb.txt", "not every system takes"),
    "two files alike": ({"license.TXT": "x"}, "license.TXT", "differs from LICENSE.txt only in"),
    "too large": ({"assets/big.bin": b"0" * 30_000_001}, "assets/big.bin", "30,000,000 bytes"),
}


@pytest.mark.parametrize("files,where,says", REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(skill, files, where, says):
    path = skill(files)
    assert any(at == f"{path}/{where}" and says in message for at, message in errors(path)), errors(
        path
    )


@pytest.mark.parametrize(
    "text",
    [
        "[web](https://example.org/a) and [mail](mailto:a@example.org)",
        "[folder](references/) and [blank](<assets/a b.txt>) and [coded](assets/a%20b.txt)",
        "[self](#demo) and [there](references/how.md#how-to-greet)",
        "`[code](nowhere.md)`\n\n```\n[code](nowhere.md)\n```",
    ],
)
def test_these_links_are_fine(skill, text):
    assert errors(skill({**body(text), "assets/a b.txt": "x"})) == []


WARNED = {
    "description over 200": (front(f"name: demo\ndescription: {'x' * 201}"), "201 characters"),
    "no body": ({"SKILL.md": FRONT, "references/how.md": None}, "teaches nothing"),
    "reference without a link": ({"references/b.md": "x"}, "never read"),
    "tools as a list": (
        front("name: demo\ndescription: x\nallowed-tools:\n- Bash"),
        "separated by blanks",
    ),
    "dashes in front matter": (front("name: demo\ndescription: a --- b"), "at this ---"),
    "editor backup": ({"SKILL.md.bak": ""}, "editor backup: left out"),
    "cache": ({"scripts/__pycache__/x.pyc": b""}, "__pycache__/, which tools write"),
}


@pytest.mark.parametrize("files,says", WARNED.values(), ids=WARNED.keys())
def test_is_warned_of_and_can_be_packaged(skill, files, says):
    found = validate(skill(files))
    assert {f.level for f in found} == {"warning"}
    assert any(says in f.message for f in found)


def test_a_description_of_200_characters_is_not_warned_of(skill):
    assert validate(skill(front(f"name: demo\ndescription: {'x' * 200}"))) == []


def test_a_stray_folder_is_one_finding(skill):
    many = {f".git/objects/{n}": b"" for n in range(50)}
    assert len(validate(skill(many))) == 1


@pytest.mark.parametrize("target", ["/etc/passwd", "nowhere", "../SKILL.md"])
def test_a_symlink_is_refused(skill, target):
    path = skill()
    (path / "references/link.md").symlink_to(target)
    assert (f"{path}/references/link.md", "is a symlink; a skill holds plain files only") in (
        errors(path)
    )


def test_a_symlink_to_a_folder_is_refused_and_not_followed(skill, tmp_path):
    path = skill()
    (path / "assets").symlink_to(tmp_path)
    assert [where for where, _ in errors(path)] == [f"{path}/assets"]


def test_a_special_file_is_refused_without_reading_it(skill):
    path = skill()
    os.mkfifo(path / "pipe.md")
    assert [message for _, message in errors(path)] == [
        "is a special file; a skill holds plain files only"
    ]


def test_a_name_that_is_not_utf8_is_refused_and_can_be_printed(skill):
    path = skill()
    (path / os.fsdecode(b"caf\xe9.md")).write_text("x")
    (where, message), *_ = errors(path)
    assert where == rf"{path}/caf\udce9.md"  # spelt out, not the surrogate itself
    assert "not UTF-8" in message
    where.encode()


@pytest.mark.parametrize("kind", ["nothing", "device"])
def test_a_path_that_is_no_skill_is_a_finding(tmp_path, kind):
    path = tmp_path / "demo" if kind == "nothing" else tmp_path / "pipe"
    if kind == "device":
        os.mkfifo(path)
    assert len(errors(path)) == 1


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def link(name):
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("demo/SKILL.md", FRONT), ("demo/../x.md", "x")], "leads out of the skill's folder"),
        ([("../SKILL.md", FRONT)], "leads out of the skill's folder"),
        ([("/SKILL.md", FRONT)], "leads out of the skill's folder"),
        ([("demo/SKILL.md", FRONT), ("demo/a\\b.md", "x")], "not every system takes"),
        ([("demo/SKILL.md", FRONT), (link("demo/x.md"), "/etc/passwd")], "is a symlink"),
        ([("demo/SKILL.md", FRONT), ("other/x.md", "x")], "must hold one folder"),
        ([("SKILL.md", FRONT)], "must hold one folder"),
        ([], "must hold one folder"),
        ([("other/SKILL.md", FRONT)], "differs from the folder's name, 'other'"),
        ([("demo/SKILL.md", FRONT), ("demo/a//b.md", "x")], "no plain path"),
    ],
)
def test_an_archive_with_a_trap_is_refused(tmp_path, members, says):
    found = errors(zipped(tmp_path / "demo.zip", members))
    assert any(says in message for _, message in found), found


def test_the_folder_that_finder_adds_to_an_archive_is_ignored(tmp_path):
    members = [("demo/SKILL.md", FRONT + "# Demo\n"), ("__MACOSX/demo/._SKILL.md", b"\0")]
    assert validate(zipped(tmp_path / "demo.zip", members)) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_file_twice_is_refused(tmp_path):
    twice = [("demo/SKILL.md", FRONT), ("demo/SKILL.md", "x")]
    assert any("twice" in message for _, message in errors(zipped(tmp_path / "d.zip", twice)))


def test_an_encrypted_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "demo.zip", [("demo/SKILL.md", FRONT)])
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(data)
    assert any("encrypted" in message for _, message in errors(path))


def test_hostile_yaml_ends_in_a_finding(skill):
    deep = front("name: demo\ndescription: " + "[" * 5000)
    assert errors(skill(deep))
    assert errors(skill(front("name: demo\ndescription: !!python/object:os.system x")))
    assert errors(skill(front("name: demo\ndescription: x\nmetadata: &a\n  b: *a")))
