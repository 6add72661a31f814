"""`harness.plan`: arms differ in the skill alone."""

from pathlib import Path

from harness import plan
from harness.cases import load_suite
from harness.skills import load_skill

ROOT = Path(__file__).parent.parent
SUITE = load_suite(ROOT / "evals")
SKILL = load_skill(ROOT / "skill" / "backend-engineering")


def planned(epochs: int = 2) -> list[plan.PlannedTrial]:
    arms = {"without": None, "with": SKILL}
    return plan.make(SUITE, SUITE.select([]), arms, model="m", epochs=epochs)


def test_every_case_arm_and_epoch_is_planned_once() -> None:
    trials = [p.trial for p in planned()]
    assert len(trials) == len(set(trials)) == len(SUITE.cases) * 2 * 2


def test_each_trial_has_a_request_of_its_own() -> None:
    assert len({p.request.digest for p in planned()}) == len(planned())


def test_the_arms_of_a_case_see_the_same_user_message_and_limit() -> None:
    pairs = {p.trial: p.request for p in planned()}
    for trial, request in pairs.items():
        if trial.arm == "without":
            other = pairs[type(trial)(trial.case, "with", trial.epoch)]
            assert request.messages == other.messages
            assert request.max_tokens == other.max_tokens


def test_the_with_arm_carries_every_file_of_the_skill_and_the_other_nothing_of_it() -> None:
    without, with_skill = plan.system_text(None), plan.system_text(SKILL)
    assert with_skill.startswith(without)
    for name in SKILL.files:
        if name.endswith(".md"):
            body = SKILL.files[name].decode().strip().splitlines()[-1]
            assert body in with_skill, name
            assert body not in without


def test_the_prompt_names_nothing_of_checks_or_rubric() -> None:
    for case in SUITE.cases.values():
        text = plan.user_text(case, SUITE)
        assert not [criterion for criterion in case.criteria if criterion in text]
        assert "skill" not in text.lower()
