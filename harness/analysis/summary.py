"""Summarises a run as one JSON value, checked against ``summary.schema.json`` beside this file.

Rates and lifts are fractions of 1; tokens, characters and seconds are plain numbers. The summary
carries all that a report says in numbers, and where the numbers come from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jsonschema import Draft202012Validator

from harness.analysis import frames
from harness.analysis.frames import JUDGED, PRIMARY, Tables
from harness.analysis.lift import FEW_CASES, Lift, Pairs, length_ratio, lift, pair
from harness.cases import Suite
from harness.errors import UserError
from harness.records import BASELINE, WITH, WITHOUT
from harness.store import Run

FORMAT = 1

REASONS_SHOWN = 50
"""Distinct reasons for 'not graded' that are kept apart; the rest is one line."""

ROUNDING = 1e-12
"""A standard error below this is 0 but for the order of floating-point sums."""

CEILING = 0.95
"""A pass rate of the reference arm from which on the lift is squeezed by the ceiling."""

LENGTH_COLUMNS = {"characters": "chars", "tokens": "output_tokens"}


def summarise(
    run: Run, suite: Suite, *, price: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The summary of a run's stored answers and verdicts; asks no model and grades nothing.

    `price` is in dollars per million tokens (keys input, output and, if known, cache_read and
    cache_write); without it, `run.json` may carry one, else no cost is given.
    Raises UserError where the run has no plan.
    """
    plan = run.plan
    tables = frames.load(run, suite)
    arms = list(dict.fromkeys([*plan.get("arms", {}), *tables.trials["arm"]]))
    titles = {case.id: case.title for case in suite.cases.values()}
    price = price or plan.get("price")
    summary = {
        "format": FORMAT,
        "created": plan.get("created"),
        "provenance": _provenance(plan, tables),
        "trials": _trials(plan, tables),
        "arms": {arm: _arm(arm, plan, suite, tables, price) for arm in arms},
        "lifts": [
            _comparison(tables, suite, titles, reference, treatment)
            for reference, treatment in _comparisons(arms)
        ],
        "criteria": _criteria(suite, tables),
        "dimensions": _dimensions(suite, tables),
        "cases": [
            {"case": case, "title": titles.get(case, case), "kind": suite.cases[case].kind}
            for case in dict.fromkeys(tables.trials["case"])
            if case in suite.cases
        ],
        "not_graded": _not_graded(tables.rows),
        "unlisted_verdicts": tables.unlisted,
        "judging": _judging(run, plan),
    }
    check(summary)
    return summary


@cache
def _validator() -> Draft202012Validator:
    text = Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))


def check(summary: Mapping[str, Any]) -> None:
    """Raises UserError naming the first key that does not fit the schema."""
    error = next(_validator().iter_errors(summary), None)
    if error is not None:
        raise UserError(f"summary.json: {error.json_path}: {error.message}")


def _comparisons(arms: list[str]) -> list[tuple[str, str]]:
    """The comparison that the run is about comes first. One arm alone still asks for the lift."""
    wanted = [(WITHOUT, WITH), (BASELINE, WITH), (WITHOUT, BASELINE)]
    found = [(a, b) for a, b in wanted if a in arms and b in arms]
    others = [(WITHOUT, arm) for arm in arms if arm not in (WITHOUT, WITH, BASELINE)]
    found += [(a, b) for a, b in others if a in arms]
    return found or [(WITHOUT, WITH)]


# --- one comparison ---------------------------------------------------------------------------


def _comparison(
    tables: Tables, suite: Suite, titles: Mapping[str, str], reference: str, treatment: str
) -> dict[str, Any]:
    rows, mixed = _same_model(tables, reference, treatment)
    answered = tables.trials.loc[tables.trials["state"] == "answered"]
    alone = [arm for arm in (reference, treatment) if not (answered["arm"] == arm).any()]
    endpoints = {name: rows.loc[rows["endpoint"] == name] for name in (PRIMARY, JUDGED)}
    pairs = {name: pair(table, reference, treatment) for name, table in endpoints.items()}
    lifts = {name: _lift(pairs[name], alone) for name in endpoints}
    here = answered.loc[answered["arm"].isin([reference, treatment])]
    outright = here.loc[here["outright"] != "", ["trial", "outright"]]
    result = {
        "reference": reference,
        "treatment": treatment,
        "primary": _lift_json(lifts[PRIMARY], pairs[PRIMARY]),
        "judged": _lift_json(lifts[JUDGED], pairs[JUDGED]),
        "sensitivity": []
        if outright.empty or alone
        else _sensitivity(endpoints[PRIMARY], reference, treatment),
        "length": {
            name: length_ratio(here, reference, treatment, column)
            for name, column in LENGTH_COLUMNS.items()
        }
        | {"tokens_estimated": bool((here["estimated"] == True).any())},  # noqa: E712
        "cases": _by_case(lifts[PRIMARY], titles),
        "dimensions": [
            {**entry, "title": suite.rubric.dimensions.get(entry["dimension"], "")}
            for name in endpoints
            for entry in _by_dimension(pairs[name], name)
        ],
        "criteria": [entry for name in endpoints for entry in _by_criterion(pairs[name])],
        "different_models": mixed,
    }
    if alone:
        result |= {"cases": [], "dimensions": [], "criteria": []}
    return result | {"warnings": list(_warnings(result, lifts[PRIMARY], pairs[PRIMARY], outright))}


def _same_model(tables: Tables, reference: str, treatment: str) -> tuple[pd.DataFrame, list[str]]:
    """The rows without those cases and epochs that different models answered, and their names."""
    trials = tables.trials
    here = trials.loc[trials["arm"].isin([reference, treatment]) & trials["model"].notna()]
    models = here.groupby(["case", "epoch"])["model"].nunique()
    mixed = models.index[models > 1]
    if mixed.empty:
        return tables.rows, []
    keys = pd.MultiIndex.from_frame(tables.rows[["case", "epoch"]])
    return tables.rows.loc[~keys.isin(mixed)], [f"{case}/{epoch}" for case, epoch in mixed]


def _lift(pairs: Pairs, alone: list[str]) -> Lift:
    if alone:
        names = " and ".join(f"`{arm}`" for arm in alone)
        return Lift(None, reason=f"no answer in arm {names}: a lift needs both arms")
    return lift(pairs)


def _lift_json(result: Lift, pairs: Pairs) -> dict[str, Any]:
    return {
        "value": result.value,
        "reason": result.reason,
        "reference": result.reference,
        "treatment": result.treatment,
        "on_these_cases": result.on_these_cases.to_json(),
        "on_tasks_like_these": result.on_tasks_like_these.to_json(),
        "pairs": len(pairs.table),
        "dropped_pairs": pairs.dropped,
        "empty_cases": list(pairs.empty_cases),
    }


def _sensitivity(rows: pd.DataFrame, reference: str, treatment: str) -> list[dict[str, Any]]:
    """The headline again, with answers that fail as a whole treated in the two other ways."""
    rows = rows.assign(without_them=rows["as_graded"].where(rows["outright"] == ""))
    others = {
        "left out, as pairs": "without_them",
        "counted as they were graded": "as_graded",
    }
    found = []
    for name, column in others.items():
        pairs = pair(rows, reference, treatment, column)
        found.append({"outright_failures": name, **_lift_json(lift(pairs), pairs)})
    return found


def _by_case(result: Lift, titles: Mapping[str, str]) -> list[dict[str, Any]]:
    order = {case: position for position, case in enumerate(titles)}
    cases = sorted(result.cases.iterrows(), key=lambda entry: order.get(str(entry[0]), len(order)))
    return [
        {
            "case": str(case),
            "title": titles.get(str(case), str(case)),
            "reference": row["reference"],
            "treatment": row["treatment"],
            "value": row["value"],
            "epochs": int(row["epochs"]),
            "low": _number(row["low"]),
            "high": _number(row["high"]),
        }
        for case, row in cases
    ]


def _by_dimension(pairs: Pairs, endpoint: str) -> list[dict[str, Any]]:
    """The headline's weights within each dimension; descriptive, so without an interval."""
    sides = ["reference", "treatment"]
    epochs = pairs.table.groupby(["dimension", "case", "epoch"], sort=False)[sides].mean()
    means = epochs.groupby(["dimension", "case"], sort=False).mean()
    rates = means.groupby("dimension", sort=False).mean()
    counts = pairs.table.groupby("dimension", sort=False).size()
    return [
        {
            "dimension": str(dimension),
            "endpoint": endpoint,
            "reference": row["reference"],
            "treatment": row["treatment"],
            "value": row["treatment"] - row["reference"],
            "pairs": int(counts[str(dimension)]),
        }
        for dimension, row in rates.iterrows()
    ]


def _by_criterion(pairs: Pairs) -> list[dict[str, Any]]:
    """Passed of paired, by criterion; the biggest change first."""
    grouped = pairs.table.groupby("criterion", sort=False)
    passed = grouped[["reference", "treatment"]].sum()
    passed["pairs"] = grouped.size()
    passed["change"] = (passed["treatment"] - passed["reference"]) / passed["pairs"]
    order = passed["change"].abs().sort_values(ascending=False, kind="stable").index
    return [
        {
            "criterion": str(criterion),
            "reference": int(row["reference"]),
            "treatment": int(row["treatment"]),
            "pairs": int(row["pairs"]),
            "change": row["change"],
        }
        for criterion, row in passed.loc[order].iterrows()
    ]


def _warnings(
    result: Mapping[str, Any], primary: Lift, pairs: Pairs, outright: pd.DataFrame
) -> Iterator[str]:
    if primary.value is None:
        return
    if primary.reference is not None and primary.reference >= CEILING:
        yield (
            f"arm {result['reference']} passes nearly everything already: these cases leave a lift"
            " hardly any room, and a small one says little about harder tasks"
        )
    count = len(primary.cases)
    if 2 <= count < FEW_CASES:
        yield (
            f"{count} cases are few: the interval on tasks like these assumes that lifts are"
            f" spread evenly around their mean, which under {FEW_CASES} cases nobody can check"
        )
    error = primary.on_these_cases.standard_error
    if error is not None and error < ROUNDING:
        yield (
            "every epoch scored the same within its case and arm: the interval on these cases"
            " has no width, which says that there are too few epochs, not that there is certainty"
        )
    if pairs.dropped:
        yield (
            f"{_count(pairs.dropped, 'pair')} of criteria dropped out because at least one side"
            " is unknown"
        )
    if pairs.empty_cases:
        yield f"no pair is left in: {', '.join(pairs.empty_cases)}"
    if result["different_models"]:
        yield (
            "answered by different models and so never paired (case/epoch): "
            + ", ".join(result["different_models"])
        )
    for why, found in outright.groupby("outright")["trial"]:
        yield (
            f"{_count(len(found), 'answer')} failed as a whole ({why}):"
            f" {', '.join(found)}; see sensitivity"
        )


# --- one arm ----------------------------------------------------------------------------------


def _arm(
    arm: str,
    plan: Mapping[str, Any],
    suite: Suite,
    tables: Tables,
    price: Mapping[str, float] | None,
) -> dict[str, Any]:
    trials = tables.trials.loc[tables.trials["arm"] == arm]
    rows = tables.rows.loc[tables.rows["arm"] == arm]
    answered = trials.loc[trials["state"] == "answered"]
    found = tables.starts.loc[tables.starts["arm"] == arm, "outcome"]
    services = answered["case"].map(lambda case: suite.cases[case].runtime is not None)
    started, failed = int((found == "pass").sum()), int((found == "fail").sum())
    return {
        "skill": (plan.get("arms", {}).get(arm) or {}).get("skill"),
        "planned": len(trials),
        "answered": len(answered),
        "primary": _rate(rows.loc[rows["endpoint"] == PRIMARY]),
        "judged": _rate(rows.loc[rows["endpoint"] == JUDGED]),
        "starts": {
            "started": started,
            "failed": failed,
            "unknown": max(0, int(services.sum()) - started - failed),
        },
        "outright_failures": {
            str(why): int(count)
            for why, count in answered.loc[answered["outright"] != "", "outright"]
            .value_counts()
            .items()
        },
        "characters": _mean(answered["chars"]),
        "tokens": _tokens(answered),
        "seconds": _mean(answered["seconds"]) | {"total": _number(answered["seconds"].sum())},
        "cost": _cost(answered, price),
    }


def _rate(rows: pd.DataFrame) -> dict[str, Any]:
    """The arm by itself, with the headline's weights but unpaired: all that is known of it."""
    known = rows.dropna(subset=["score"])
    epochs = known.groupby(["case", "epoch"])["score"].mean()
    return {
        "rate": _number(epochs.groupby("case").mean().mean()),
        "passed": int(known["score"].sum()),
        "graded": len(known),
        "not_graded": len(rows) - len(known),
    }


def _mean(values: pd.Series[Any]) -> dict[str, Any]:
    return {"mean": _number(values.mean()), "known": int(values.notna().sum())}


_KINDS = ("input", "output", "cache_read", "cache_write")


def _tokens(answered: pd.DataFrame) -> dict[str, Any]:
    return {
        **{kind: int(answered[f"{kind}_tokens"].sum()) for kind in _KINDS},
        "known": int(answered["output_tokens"].notna().sum()),
        "estimated": bool((answered["estimated"] == True).any()),  # noqa: E712
    }


def _cost(answered: pd.DataFrame, price: Mapping[str, float] | None) -> dict[str, Any]:
    """Dollars of the answers whose tokens are known. What the cache moved costs at most input."""
    counted = answered.loc[answered["output_tokens"].notna()]
    if price is None:
        return {"usd": None, "answers": len(counted), "reason": "no price is known of this model"}
    if counted.empty:
        return {"usd": None, "answers": 0, "reason": "nobody counted the tokens"}
    prices = {kind: float(price.get(kind, price["input"])) for kind in _KINDS}
    usd = sum(float(counted[f"{kind}_tokens"].sum()) * prices[kind] for kind in _KINDS) / 1e6
    return {"usd": usd, "answers": len(counted), "reason": ""}


# --- criteria, dimensions, and what is unknown ------------------------------------------------


def _criteria(suite: Suite, tables: Tables) -> list[dict[str, Any]]:
    """Passed, graded and not graded by criterion × arm, over all cases, in the rubric's order."""
    counts = _counts(tables.rows, ["criterion", "arm"])
    by_case = _counts(tables.rows, ["criterion", "case", "arm"])
    found = []
    for name, criterion in suite.rubric.criteria.items():
        if name not in counts:
            continue
        found.append(
            {
                "criterion": name,
                "claim": criterion.claim,
                "dimension": criterion.dimension,
                "how": criterion.how,
                "rules": list(criterion.rules),
                "critical": criterion.critical,
                "arms": counts[name],
                "cases": by_case[name],
            }
        )
    return found


def _counts(rows: pd.DataFrame, keys: list[str]) -> dict[str, Any]:
    """Nested by `keys`: ``{"passed", "graded", "not_graded"}``."""
    grouped = rows.groupby(keys, sort=False)["score"]
    table = pd.DataFrame(
        {"passed": grouped.sum(), "graded": grouped.count(), "rows": grouped.size()}
    )
    nested: dict[str, Any] = {}
    for index, passed, graded, size in zip(
        table.index, table["passed"], table["graded"], table["rows"], strict=True
    ):
        level = nested
        for key in index[:-1]:
            level = level.setdefault(key, {})
        level[index[-1]] = {
            "passed": int(passed),
            "graded": int(graded),
            "not_graded": int(size - graded),
        }
    return nested


def _dimensions(suite: Suite, tables: Tables) -> list[dict[str, Any]]:
    """The rate of each arm by dimension and endpoint, with the headline's weights, unpaired."""
    known = tables.rows.dropna(subset=["score"])
    keys = ["dimension", "endpoint", "arm"]
    epochs = known.groupby([*keys, "case", "epoch"], sort=False)["score"].mean()
    rates = epochs.groupby([*keys, "case"], sort=False).mean().groupby(keys, sort=False).mean()
    counts = _counts(tables.rows, keys)
    found = []
    for dimension, title in suite.rubric.dimensions.items():
        for endpoint, arms in counts.get(dimension, {}).items():
            entry = {
                arm: {"rate": _number(rates.get((dimension, endpoint, arm), math.nan)), **count}
                for arm, count in arms.items()
            }
            found.append(
                {"dimension": dimension, "title": title, "endpoint": endpoint, "arms": entry}
            )
    return found


def _not_graded(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """What no score was given, by reason; the most frequent first."""
    unknown = rows.loc[rows["score"].isna()]
    grouped: list[dict[str, Any]] = [
        {
            "reason": str(reason) or "no reason given",
            "verdicts": len(found),
            "trials": sorted(found["trial"].unique()),
            "criteria": sorted(found["criterion"].unique()),
        }
        for reason, found in unknown.groupby("reason", sort=True)
    ]
    grouped.sort(key=lambda entry: -entry["verdicts"])
    kept, rest = grouped[:REASONS_SHOWN], grouped[REASONS_SHOWN:]
    if rest:
        kept.append(
            {
                "reason": f"{len(rest)} other reasons",
                "verdicts": sum(entry["verdicts"] for entry in rest),
                "trials": sorted({trial for entry in rest for trial in entry["trials"]}),
                "criteria": sorted({name for entry in rest for name in entry["criteria"]}),
            }
        )
    return kept


# --- where it comes from ----------------------------------------------------------------------


def _provenance(plan: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    skill = (plan.get("arms", {}).get(WITH) or {}).get("skill")
    tree = plan.get("tree_skill")
    grading = plan.get("grading") or {}
    return {
        "source": plan.get("source"),
        "model": plan.get("model"),
        "models_reported": frames.texts(tables.trials["model"]),
        "judge": plan.get("judge"),
        "delivery": plan.get("delivery"),
        "max_tokens": plan.get("max_tokens"),
        "epochs": plan.get("epochs"),
        "skill": skill,
        "tree_skill": tree,
        "recorded_skill_differs": bool(
            skill and tree and skill.get("digest") != tree.get("digest")
        ),
        "grading": {
            "cell": grading.get("cell"),
            "limits": grading.get("limits"),
            "rerun": grading.get("rerun"),
            "reason": grading.get("reason"),
        },
        "cases": plan.get("cases") or {},
        "harness": plan.get("harness"),
        "recording": plan.get("recording"),
        "details": plan.get("provenance"),
    }


def _trials(plan: Mapping[str, Any], tables: Tables) -> dict[str, Any]:
    trials, rows = tables.trials, tables.rows
    means = rows.groupby(["endpoint", "trial"])["score"].mean()
    scores: dict[str, dict[Any, Any]] = {
        name: means.xs(name).to_dict() if name in means.index.unique("endpoint") else {}
        for name in (PRIMARY, JUDGED)
    }
    columns = ["trial", "state", "why", "outright", "stop_reason", "model", "chars"]
    columns += ["output_tokens", "estimated", "seconds"]
    listed = []
    for values in zip(*(trials[column] for column in columns), strict=True):
        row = dict(zip(columns, values, strict=True))
        listed.append(
            {
                "trial": row["trial"],
                "state": row["state"],
                "why": row["why"],
                "outright": row["outright"],
                "stop_reason": _text(row["stop_reason"]),
                "model": _text(row["model"]),
                "characters": _number(row["chars"]),
                "output_tokens": _number(row["output_tokens"]),
                "tokens_estimated": row["estimated"] is True,
                "seconds": _number(row["seconds"]),
                "primary": _number(scores[PRIMARY].get(row["trial"])),
                "judged": _number(scores[JUDGED].get(row["trial"])),
            }
        )
    of = {state: trials.loc[trials["state"] == state, "trial"].tolist() for state in _STATES}
    return {
        "planned": len(trials),
        "answered": len(of["answered"]),
        "missing": of["missing"],
        "stale": list(dict.fromkeys([*of["left out"], *frames.stale_trials(plan)])),
        "list": listed,
    }


_STATES = ("answered", "missing", "left out")


def _judging(run: Run, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens of the responses that answer no trial: those of the judge."""
    asked = {entry["request"] for entry in plan["trials"]}
    usages = [line["usage"] for digest, line in run.responses().items() if digest not in asked]
    return {
        "responses": len(usages),
        "input_tokens": sum(usage.get("input_tokens", 0) for usage in usages),
        "output_tokens": sum(usage.get("output_tokens", 0) for usage in usages),
        "estimated": any(usage.get("estimated", False) for usage in usages),
    }


def _number(value: Any) -> float | int | None:
    """A JSON number; None for NaN. Whole numbers lose their ``.0``."""
    if value is None or math.isnan(value):
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
