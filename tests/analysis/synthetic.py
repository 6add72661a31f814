"""A small benchmark and runs of it, written down as letters: the data of these tests.

One letter a criterion, in the case's order: ``P`` passed, ``F`` failed, ``-`` not graded,
``.`` no verdict yet. An epoch that is None has no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cases import Case, Criterion, Rubric, Runtime, Suite
from harness.records import PlannedTrial, Request, Response, Trial, Usage, Verdict
from harness.store import Run

Outcomes = Mapping[str, Mapping[str, Sequence[str | None]]]

CRITERIA = (
    ("api.contract", "executed", "api"),
    ("upstream.timeout", "executed", "reliability"),
    ("upstream.breaker", "executed", "reliability"),
    ("secrets.not_in_code", "static", "security"),
    ("speech.direct", "judged", "speech"),
)

WORDS = {"P": "pass", "F": "fail", "-": "not_graded"}

SKILL = {"name": "backend-engineering", "version": "1.0.0", "digest": "a1" * 32}
EDITED = {"version": "1.1.0", "digest": "b2" * 32}


def suite(cases: Sequence[str] = ("labels", "meters")) -> Suite:
    runtime = Runtime("python-sqlite", "Python 3.11.", ("python", "main.py"), Path("r.txt"))
    rubric = Rubric(
        {
            name: Criterion(
                id=name,
                claim=f"The claim of {name}.",
                rules=("A1",),
                how=how,  # type: ignore[arg-type]
                dimension=dimension,
                evidence="presence" if how == "judged" else None,
            )
            for name, how, dimension in CRITERIA
        },
        {name: name.capitalize() for _, _, name in CRITERIA},
    )
    names = tuple(name for name, _, _ in CRITERIA)
    return Suite(
        folder=Path("evals"),
        rubric=rubric,
        cases={
            case: Case(
                id=case,
                title=f"The {case} service",
                kind="upstream",
                folder=Path("evals/cases") / case,
                prompt=f"Build {case}.",
                openapi=None,
                runtime=runtime,
                criteria=names,
                entails={},
                tolerance_s=0.25,
            )
            for case in cases
        },
        answer_format="One fenced block a file.",
    )


def make_run(
    folder: Path,
    outcomes: Outcomes,
    *,
    stop: Mapping[str, str] | None = None,
    starts: Mapping[str, str] | None = None,
    answers: Mapping[str, str] | None = None,
    evidence: str = "wanted 202 within 3 s",
    models: Mapping[str, str] | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Run:
    """A run folder with the answers and verdicts that `outcomes` spells: case → arm → epochs.

    `stop`, `starts`, `answers` and `models` are by trial id; by default an answer ends its turn,
    its service starts, and its length is 1,000 characters, or 1,500 in arm `with`.
    """
    planned, epochs = [], 0
    for case, arms in outcomes.items():
        for arm, samples in arms.items():
            epochs = max(epochs, len(samples))
            for epoch in range(1, len(samples) + 1):
                request = Request(
                    model="claude-test",
                    system="You answer one request." + (" SKILL TEXT" if arm == "with" else ""),
                    messages=({"role": "user", "content": f"Build {case}.\n\n# Contract\n"},),
                    max_tokens=32_000,
                    epoch=epoch,
                )
                planned.append(PlannedTrial(Trial(case, arm, epoch), request))
    used = dict.fromkeys(arm for arms in outcomes.values() for arm in arms)
    content = {
        "format": 1,
        "created": "2026-11-20T10:00:00Z",
        "source": "recording",
        "model": "claude-test",
        "judge": "claude-judge",
        "delivery": "inline",
        "arms": {arm: {"skill": SKILL if arm == "with" else None} for arm in used},
        "cases": dict.fromkeys(outcomes, "c" * 64),
        "epochs": epochs,
        "max_tokens": 32_000,
        "provenance": None,
        "tree_skill": {"version": SKILL["version"], "digest": SKILL["digest"]},
        "stale": [],
        "grading": {"cell": "bubblewrap 0.11", "limits": "512 MB, 64 processes", "rerun": True},
        "harness": "1.0.0",
    }
    run = Run.create(folder, content | dict(plan or {}), planned)
    for item in planned:
        letters = outcomes[item.trial.case][item.trial.arm][item.trial.epoch - 1]
        if letters is None:
            continue
        name = item.trial.id
        size = 1_500 if item.trial.arm == "with" else 1_000
        run.add_response(
            item.request.digest,
            Response(
                text=(answers or {}).get(name) or (f"{name} ".ljust(size, "x")),
                stop_reason=(stop or {}).get(name, "end_turn"),
                model=(models or {}).get(name, "claude-test"),
                usage=Usage(input_tokens=2_000, output_tokens=size // 4),
                seconds=10.0,
                finished="2026-11-20T10:01:00Z",
            ),
        )
        verdicts = [
            Verdict(
                trial=name,
                criterion=criterion,
                outcome=WORDS[letter],  # type: ignore[arg-type]
                evidence=evidence if letter == "F" else "",
                reason="the judge gave no quote" if letter == "-" else "",
                how=how,  # type: ignore[arg-type]
                seconds=0.5,
            )
            for letter, (criterion, how, _) in zip(letters, CRITERIA, strict=True)
            if letter != "."
        ]
        started = (starts or {}).get(name, "pass")
        verdicts.append(Verdict(name, "starts", started))  # type: ignore[arg-type]
        run.add_verdicts(verdicts)
    run.unlock()
    return run
