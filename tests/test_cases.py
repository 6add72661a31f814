"""`harness.cases`: the benchmark loads, and every mistake is named with its file, key and mend."""

from pathlib import Path

import pytest
import yaml

from harness.cases import load_rubric, load_suite, suggest
from harness.errors import UserError

EVALS = Path(__file__).parent.parent / "evals"
# Family → how many rules of the skill it has: T1 … T5, P1 … P6 and so on.
FAMILIES = {"T": 5, "P": 6, "A": 4, "D": 4, "C": 4, "S": 4, "R": 4, "O": 4, "Q": 5, "X": 5, "Y": 5}
RULES = {f"{family}{n}" for family, count in FAMILIES.items() for n in range(1, count + 1)}

RUBRIC = {
    "version": 1,
    "dimensions": [
        {
            "id": "api",
            "title": "The contract",
            "criteria": [
                {"id": "api.contract", "how": "executed", "rules": ["A1"], "claim": "It holds."},
                {
                    "id": "words.fluff",
                    "how": "judged",
                    "evidence": "absence",
                    "rules": ["Y3"],
                    "claim": "No fluff.",
                },
            ],
        }
    ],
}


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    """A tiny benchmark of one case."""
    write(tmp_path / "rubric.yaml", RUBRIC)
    (tmp_path / "answer-format.md").write_text("Each file in a block.")
    runtime = tmp_path / "runtimes" / "python"
    write(runtime / "runtime.yaml", {"start": ["python", "main.py"]})
    (runtime / "environment.md").write_text("Python.")
    (runtime / "requirements.txt").write_text("")
    case = tmp_path / "cases" / "one"
    write(case / "case.yaml", case_yaml())
    (case / "prompt.md").write_text("Please build it.")
    return tmp_path


def case_yaml(**changes: object) -> dict[str, object]:
    return {
        "title": "One",
        "kind": "example",
        "runtime": "python",
        "criteria": ["api.contract", "words.fluff"],
        **changes,
    }


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value))


def test_the_benchmark_of_this_repository_loads() -> None:
    suite = load_suite(EVALS)
    assert len(suite.cases) >= 4
    assert len({case.kind for case in suite.cases.values()}) >= 4


def test_every_rule_of_the_skill_has_a_criterion() -> None:
    rubric = load_rubric(EVALS / "rubric.yaml")
    named = {rule for criterion in rubric.criteria.values() for rule in criterion.rules}
    assert named == RULES


def test_the_rules_are_explained() -> None:
    text = (EVALS.parent / "docs" / "rules.md").read_text()
    assert {line.split("|")[1].strip() for line in text.splitlines()[7:]} == RULES


def test_every_criterion_is_checked_by_a_case() -> None:
    suite = load_suite(EVALS)
    used = {criterion for case in suite.cases.values() for criterion in case.criteria}
    assert set(suite.rubric.criteria) - used == set()


def test_every_executed_criterion_of_a_case_has_a_test_and_the_other_way_round() -> None:
    from harness.grading.executed import SHIPPED, groups

    suite = load_suite(EVALS)
    for case in suite.cases.values():
        tested = set().union(*groups(case.tests).values())
        executed = {c for c in case.criteria if suite.rubric.criteria[c].how == "executed"}
        assert tested == executed - {SHIPPED}, case.id


def test_a_case_loads(evals: Path) -> None:
    case = load_suite(evals).cases["one"]
    assert case.criteria == ("api.contract", "words.fluff")
    assert case.openapi is None
    assert case.runtime is not None
    assert case.tests.name == "test_one.py"


def test_a_typo_in_a_criterion_is_named_with_the_mend(evals: Path) -> None:
    write(evals / "cases/one/case.yaml", case_yaml(criteria=["api.contrct"]))
    with pytest.raises(UserError) as error:
        load_suite(evals)
    assert "cases/one/case.yaml: criteria[0]: unknown criterion" in str(error.value)
    assert 'did you mean "api.contract"?' in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": "pyton"}, 'runtime: unknown runtime "pyton"; did you mean "python"?'),
        ({"tolerance": 1}, 'unknown key "tolerance"; did you mean "tolerance_s"?'),
        ({"criteria": ["api.contract", "api.contract"]}, "criteria[1]: 'api.contract' is listed"),
        ({"criteria": [{"id": "api.contract", "entails": ["nope"]}]}, "unknown criterion"),
    ],
)
def test_a_mistake_in_a_case_is_named(
    evals: Path, changes: dict[str, object], message: str
) -> None:
    write(evals / "cases/one/case.yaml", case_yaml(**changes))
    with pytest.raises(UserError) as error:
        load_suite(evals)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"how": "guessed"}, "how: 'guessed' is none of executed, static, judged"),
        ({"rules": []}, "'rules' is missing"),
        ({"evidence": "presence"}, "goes with 'how: judged'"),
        ({"clam": "x"}, 'unknown key "clam"; did you mean "claim"?'),
        ({"id": "words.fluff"}, "'words.fluff' is defined twice"),
    ],
)
def test_a_mistake_in_the_rubric_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    dimension = RUBRIC["dimensions"][0]  # type: ignore[index]
    first, second = dimension["criteria"]
    changed = {**dimension, "criteria": [{**first, **change}, second]}
    write(tmp_path / "rubric.yaml", {"version": 1, "dimensions": [changed]})
    with pytest.raises(UserError) as error:
        load_rubric(tmp_path / "rubric.yaml")
    assert message in str(error.value)


def test_a_missing_file_is_named(evals: Path) -> None:
    (evals / "cases/one/prompt.md").unlink()
    with pytest.raises(UserError, match=r"prompt\.md: no such file"):
        load_suite(evals)


def test_an_unknown_case_is_named_with_the_closest(evals: Path) -> None:
    with pytest.raises(UserError, match='unknown case "on"; did you mean "one"'):
        load_suite(evals).select(["on"])


def test_a_change_of_the_prompt_changes_the_digest_and_a_change_of_checks_does_not(
    evals: Path,
) -> None:
    before = load_suite(evals).cases["one"].digest
    (evals / "cases/one/test_one.py").write_text("")
    assert load_suite(evals).cases["one"].digest == before
    (evals / "cases/one/prompt.md").write_text("Please build it now.")
    assert load_suite(evals).cases["one"].digest != before


def test_suggest_leaves_out_far_names() -> None:
    assert suggest("xyz", ["api.contract"]) == '"xyz"'
