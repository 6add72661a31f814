"""What a run becomes in the summary; the numbers were counted by hand from the letters."""

import json

import pytest

from harness.analysis.summary import check, summarise
from harness.errors import UserError

PLAIN = {
    "labels": {"without": ["PFFPP", "PPFPF"], "with": ["PPPPP", "PPFPP"]},
    "meters": {"without": ["PPPPP", "PPPPF"], "with": ["PPPPP", "FPPPP"]},
}


@pytest.fixture
def summary_of(synthetic, tmp_path):
    def build(outcomes=PLAIN, price=None, **options):
        run = synthetic.make_run(tmp_path / "run", outcomes, **options)
        return summarise(run, synthetic.suite(), price=price)

    return build


def test_it_is_json_and_fits_its_schema(summary_of):
    summary = summary_of()
    check(json.loads(json.dumps(summary, allow_nan=False)))
    with pytest.raises(UserError, match=r"summary.json: \$: .*'lifts'"):
        check({key: value for key, value in summary.items() if key != "lifts"})


def test_judged_criteria_are_a_second_figure(summary_of):
    lift = summary_of()["lifts"][0]
    assert lift["primary"]["value"] == pytest.approx(0.0625)
    assert lift["judged"]["value"] == pytest.approx(0.5)
    assert lift["primary"]["pairs"] == 16
    assert lift["judged"]["pairs"] == 4


def test_rates_come_with_counts_by_arm_and_criterion(summary_of):
    criteria = {entry["criterion"]: entry for entry in summary_of()["criteria"]}
    breaker = criteria["upstream.breaker"]
    assert breaker["arms"]["without"] == {"passed": 2, "graded": 4, "not_graded": 0}
    assert breaker["arms"]["with"] == {"passed": 3, "graded": 4, "not_graded": 0}
    assert breaker["cases"]["labels"]["without"] == {"passed": 0, "graded": 2, "not_graded": 0}


def test_a_dimension_has_the_headlines_weights(summary_of):
    summary = summary_of()
    reliability = next(
        entry for entry in summary["dimensions"] if entry["dimension"] == "reliability"
    )
    # labels: (0 + .5) / 2 = .25, meters: 1.
    assert reliability["arms"]["without"]["rate"] == pytest.approx(0.625)
    assert reliability["endpoint"] == "primary"
    assert reliability["arms"]["without"]["passed"] == 5


def test_the_criterion_that_moved_most_comes_first(summary_of):
    moved = summary_of()["lifts"][0]["criteria"]
    assert moved[0]["criterion"] in {"speech.direct", "api.contract"}
    assert {entry["criterion"]: entry["change"] for entry in moved} == {
        "api.contract": -0.25,
        "upstream.timeout": 0.25,
        "upstream.breaker": 0.25,
        "secrets.not_in_code": 0.0,
        "speech.direct": 0.5,
    }


def test_from_one_arm_there_is_no_lift(summary_of):
    summary = summary_of({"labels": {"with": ["PPPPP", "PPFPP"]}})
    (lift,) = summary["lifts"]
    assert lift["primary"]["value"] is None
    assert lift["judged"]["value"] is None
    assert "no answer in arm `without`" in lift["primary"]["reason"]
    assert lift["cases"] == []
    assert summary["arms"]["with"]["primary"]["rate"] == pytest.approx(0.875)


def test_a_planned_trial_without_a_response_is_named_and_takes_its_partner(summary_of):
    outcomes = {
        "labels": {"without": ["PFFPP", "PFFPP"], "with": ["PPPPP", None]},
        "meters": PLAIN["meters"],
    }
    summary = summary_of(outcomes)
    assert summary["trials"]["missing"] == ["labels/with/2"]
    assert summary["lifts"][0]["primary"]["dropped_pairs"] == 4
    assert summary["lifts"][0]["cases"][0]["epochs"] == 1
    assert summary["not_graded"][0]["reason"] == "no answer"


def test_nothing_answered_is_a_summary_too(summary_of):
    summary = summary_of({"labels": {"without": [None], "with": [None]}})
    assert summary["lifts"][0]["primary"]["value"] is None
    assert summary["arms"]["with"]["primary"]["rate"] is None
    assert summary["trials"]["missing"] == ["labels/without/1", "labels/with/1"]


def test_what_no_judge_decided_drops_out_of_the_judged_figure_alone(summary_of):
    summary = summary_of({"labels": {"without": ["PFFP-", "PPFPF"], "with": ["PPPPP", "PPFPP"]}})
    judged = summary["lifts"][0]["judged"]
    assert (judged["pairs"], judged["dropped_pairs"], judged["value"]) == (1, 1, 1.0)
    assert summary["lifts"][0]["primary"]["dropped_pairs"] == 0
    assert summary["not_graded"] == [
        {
            "reason": "the judge gave no quote",
            "verdicts": 1,
            "trials": ["labels/without/1"],
            "criteria": ["speech.direct"],
        }
    ]


def test_a_cut_off_answer_fails_and_the_other_treatments_stand_beside(summary_of):
    outcomes = {
        "labels": {"without": ["PFFPP", "PFFPP"], "with": ["PPPPP", "PPFP."]},
        "meters": {"without": ["PPPPP", "PPPPP"], "with": ["PPPPP", "PPPPP"]},
    }
    summary = summary_of(outcomes, stop={"labels/with/2": "max_tokens"})
    lift = summary["lifts"][0]
    # labels: without .5; with (1 + 0) / 2 → 0; meters 0.
    assert lift["primary"]["value"] == pytest.approx(0.0)
    assert lift["judged"]["dropped_pairs"] == 0
    assert summary["arms"]["with"]["outright_failures"] == {"cut off": 1}
    by_name = {entry["outright_failures"]: entry["value"] for entry in lift["sensitivity"]}
    assert by_name == {
        "left out, as pairs": pytest.approx((0.5 + 0) / 2),
        "counted as they were graded": pytest.approx((0.375 + 0) / 2),
    }
    assert any("labels/with/2" in warning for warning in lift["warnings"])


def test_a_refusal_stop_reason_fails_without_any_verdict(summary_of):
    outcomes = {"labels": {"without": ["PPPPP"], "with": ["....."]}}
    summary = summary_of(outcomes, stop={"labels/with/1": "refusal"})
    assert summary["lifts"][0]["primary"]["value"] == -1.0
    assert summary["lifts"][0]["judged"]["value"] == -1.0
    assert summary["arms"]["with"]["outright_failures"] == {"refused": 1}


def test_a_service_that_does_not_start_fails_the_headline_but_is_judged_as_found(summary_of):
    outcomes = {"labels": {"without": ["PPPPP"], "with": ["FFFPP"]}}
    summary = summary_of(outcomes, starts={"labels/with/1": "fail"})
    assert summary["lifts"][0]["primary"]["value"] == -1.0
    assert summary["lifts"][0]["judged"]["value"] == 0.0
    assert summary["arms"]["with"]["starts"] == {"started": 0, "failed": 1, "unknown": 0}
    assert summary["arms"]["without"]["starts"] == {"started": 1, "failed": 0, "unknown": 0}


def test_stale_trials_are_left_out_by_name(summary_of):
    summary = summary_of(plan={"stale": ["labels/without/1", "labels/with/1"]})
    assert summary["trials"]["stale"] == ["labels/without/1", "labels/with/1"]
    assert summary["trials"]["missing"] == []
    assert summary["lifts"][0]["cases"][0]["epochs"] == 1


def test_a_stale_trial_that_was_not_planned_again_is_named_too(summary_of):
    assert summary_of(plan={"stale": ["gone/with/1"]})["trials"]["stale"] == ["gone/with/1"]


def test_answers_of_different_models_are_never_paired(summary_of):
    summary = summary_of(models={"labels/with/1": "another-model"})
    lift = summary["lifts"][0]
    assert lift["different_models"] == ["labels/1"]
    assert lift["primary"]["pairs"] == 12
    assert summary["provenance"]["models_reported"] == ["another-model", "claude-test"]


def test_it_says_when_the_skill_in_the_tree_is_another(summary_of, synthetic):
    summary = summary_of(plan={"tree_skill": synthetic.EDITED})
    assert summary["provenance"]["recorded_skill_differs"] is True


def test_a_plan_with_the_least_keys_is_read(synthetic, tmp_path):
    run = synthetic.make_run(tmp_path / "run", PLAIN)
    plan = run.plan
    (tmp_path / "run" / "run.json").write_text(
        json.dumps({"trials": plan["trials"], "arms": {"with": {}, "without": {}}})
    )
    summary = summarise(run, synthetic.suite())
    assert summary["provenance"]["grading"]["rerun"] is None
    assert summary["provenance"]["recorded_skill_differs"] is False


def test_length_tokens_time_and_cost_are_given_by_arm(summary_of):
    summary = summary_of(price={"input": 3.0, "output": 15.0})
    arm = summary["arms"]["with"]
    assert arm["characters"] == {"mean": 1500, "known": 4}
    assert arm["tokens"]["output"] == 4 * 375
    assert arm["seconds"]["mean"] == 10
    assert arm["cost"]["usd"] == pytest.approx((8000 * 3 + 1500 * 15) / 1e6)
    assert summary["lifts"][0]["length"]["characters"] == pytest.approx(1.5)


def test_without_a_price_the_cost_is_unknown_and_says_why(summary_of):
    assert summary_of()["arms"]["with"]["cost"]["reason"] == "no price is known of this model"


def test_few_cases_are_warned_of(summary_of):
    warnings = summary_of()["lifts"][0]["warnings"]
    assert any("2 cases are few" in warning for warning in warnings)


@pytest.mark.parametrize(("without", "warned"), [("PPPPP", True), ("PPFPP", False)])
def test_a_ceiling_is_warned_of(summary_of, without, warned):
    scores = {"without": [without, without], "with": ["PPPPP", "PPPPP"]}
    warnings = summary_of({"labels": scores, "meters": scores})["lifts"][0]["warnings"]
    assert any("hardly any room" in warning for warning in warnings) == warned


def test_no_spread_between_epochs_is_warned_of(summary_of):
    same = {"without": ["PPFPP", "PPFPP"], "with": ["PPPPP", "PPPPP"]}
    warnings = summary_of({"labels": same, "meters": same})["lifts"][0]["warnings"]
    assert any("has no width" in warning for warning in warnings)


def test_verdicts_on_criteria_that_no_case_lists_are_counted_apart(synthetic, tmp_path):
    from harness.records import Verdict

    run = synthetic.make_run(tmp_path / "run", PLAIN)
    run.add_verdicts([Verdict("labels/with/1", "gone.criterion", "fail")])
    summary = summarise(run, synthetic.suite())
    assert summary["unlisted_verdicts"] == 1
    assert summary["arms"]["with"]["primary"]["graded"] == 16
