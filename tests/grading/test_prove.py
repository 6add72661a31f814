"""harness.grading.prove: what counts as proof, with the grading itself replaced by a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cases import Suite, load_suite
from harness.errors import UserError
from harness.grading import prove
from harness.records import Verdict

RUBRIC = """\
version: 1
dimensions:
  - id: all
    title: All
    criteria:
      - {id: api.contract, claim: Contract., rules: [A1], how: executed}
      - {id: data.durable, claim: Durable., rules: [D3], how: executed}
      - {id: config.documented, claim: Documented., rules: [Q3], how: static}
      - {id: words.fluff, claim: No fluff., rules: [Y3], how: judged, evidence: absence}
"""
CASE = """\
title: A case
kind: example
criteria:
  - {id: api.contract, entails: [data.durable]}
  - data.durable
  - config.documented
  - words.fluff
"""
PATCH = """\
diff --git a/main.py b/main.py
--- a/main.py
+++ b/main.py
@@ -1 +1 @@
-print("good")
+print("{0}")
"""

Fails = Mapping[str, set[str]]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    evals = tmp_path / "evals"
    for path, text in {
        "rubric.yaml": RUBRIC,
        "answer-format.md": "files",
        "cases/door/case.yaml": CASE,
        "cases/door/prompt.md": "A door.",
        "references/door/good/main.py": 'print("good")\n',
    }.items():
        (evals / path).parent.mkdir(parents=True, exist_ok=True)
        (evals / path).write_text(text)
    (evals / "references/door/mutants").mkdir()
    return load_suite(evals)


@pytest.fixture
def rows(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, prove.ProofRow]]:
    """Proves the case where the service that prints a word fails the word's criteria."""

    def run(fails: Fails, *mutants: str) -> dict[str, prove.ProofRow]:
        def verdicts(files: Mapping[str, str], criteria: list[str]) -> list[Verdict]:
            word = files["main.py"].split('"')[1]
            return [
                Verdict("t", c, "fail" if c in fails.get(word, ()) else "pass", f"{c} of {word}")
                for c in criteria
            ]

        def executed(case: Any, files: Any, trial: str, *, criteria: Any, cells: Any) -> Any:
            return verdicts(files, criteria), {}

        def static(case: Any, files: Any, trial: str, criteria: Any) -> Any:
            return verdicts(files, criteria)

        monkeypatch.setattr(prove.executed, "grade", executed)
        monkeypatch.setattr(prove.static, "grade", static)
        for name in mutants:
            path = suite.folder / "references/door/mutants" / f"{name}.patch"
            path.write_text(PATCH.format(name.partition("--")[2] or name))
        cells: Any = None
        return {row.service: row for row in prove.prove(suite.cases["door"], suite, cells)}

    return run


ALL = ("api.contract", "data.durable", "config.documented")


def test_each_mutant_fails_its_own_and_what_it_entails(rows: Callable[..., Any]) -> None:
    found = rows({name: {name} for name in ALL} | {"api.contract": {*ALL[:2]}}, *ALL)
    assert {name: row.ok for name, row in found.items()} == dict.fromkeys(("good", *ALL), True)
    assert found["good"].told == "passes 3 criteria"
    assert found["data.durable"].told == "fails data.durable: data.durable of data.durable"


def test_a_mutant_that_gets_away_is_wrong(rows: Callable[..., Any]) -> None:
    row = rows({}, "data.durable")["data.durable"]
    assert not row.ok
    assert row.told.startswith("data.durable: pass, wanted fail")


def test_a_mutant_that_fails_another_criterion_is_wrong(rows: Callable[..., Any]) -> None:
    row = rows({"data.durable": {"data.durable", "api.contract"}}, "data.durable")["data.durable"]
    assert not row.ok
    assert row.told == "api.contract: fail, wanted pass (api.contract of data.durable)"


def test_a_good_service_that_fails_is_wrong(rows: Callable[..., Any]) -> None:
    row = rows({"good": {"api.contract"}})["good"]
    assert not row.ok
    assert "api.contract: fail, wanted pass" in row.told


def test_a_criterion_without_a_mutant_is_wrong(rows: Callable[..., Any]) -> None:
    found = rows({"api.contract": {"api.contract"}}, "api.contract")
    assert not found["-"].ok
    assert "no mutant" in found["-"].told


def test_a_criterion_can_have_several_mutants(rows: Callable[..., Any]) -> None:
    found = rows({"other": {"data.durable"}}, "data.durable--other")
    assert found["data.durable--other"].ok


def test_a_mutant_of_a_judged_or_unknown_criterion_is_refused(rows: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"'words\.fluff' is no criterion"):
        rows({}, "words.fluff")


def test_a_patch_that_does_not_apply_is_named(suite: Suite, tmp_path: Path) -> None:
    patch = tmp_path / "api.contract.patch"
    patch.write_text(PATCH.format("bad"))
    with pytest.raises(UserError, match=r"api\.contract\.patch: does not apply.*main\.py"):
        prove.patched({"main.py": "print('something else')\n"}, patch)


def test_a_patch_may_delete_and_add_files(tmp_path: Path) -> None:
    patch = tmp_path / "x.patch"
    patch.write_text(
        "--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"
        "--- /dev/null\n+++ b/sub/new.txt\n@@ -0,0 +1 @@\n+new\n"
    )
    files = prove.patched({"old.txt": "old\n", "main.py": "pass\n"}, patch)
    assert files == {"main.py": "pass\n", "sub/new.txt": "new\n"}
