"""eval, run, grade, report: the stages one after the other, or alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__, plan
from harness.cases import Suite, load_suite
from harness.commands.skill import skill_path
from harness.errors import UserError
from harness.records import WITH, WITHOUT, PlannedTrial, Request
from harness.reporting.progress import Progress
from harness.skills import Skill, load_skill
from harness.store import Run

INCOMPLETE = 3
"""Exit code of --strict where an answer or a verdict is missing."""

DEFAULT_EPOCHS = 2
RECORDED_SKILL = Path("skills") / WITH


def evaluate(args: argparse.Namespace) -> int:
    suite = load_suite(args.evals)
    if args.model:
        with Locked(_live_run(args, suite)) as run:
            if _ask_live(args, run) and not run.responses():
                raise UserError(
                    f"not one answer came back; mend what is said above, then go on with"
                    f" --run {run.folder}"
                )
            _grade(args, suite, run, judge_live=True)
            return _report(args, suite, run)
    recording = find_recording(args.evals / "recordings", args.recording)
    with Locked(_replayed_run(args, suite, recording)) as run:
        _grade(args, suite, run, recording=recording)
        return _report(args, suite, run)


def run(args: argparse.Namespace) -> int:
    if not args.model:
        raise UserError("run: --model names the model to ask (`harness eval` replays a recording)")
    with Locked(_live_run(args, load_suite(args.evals))) as live:
        missing = _ask_live(args, live)
        print(f"{live.folder}: {len(live.responses())} responses stored, {missing} missing")
        return INCOMPLETE if missing else 0


def grade(args: argparse.Namespace) -> int:
    suite = load_suite(args.evals)
    with Locked(Run(args.run)) as graded:
        _grade(args, suite, graded, again=True)
        return _report(args, suite, graded)


def report(args: argparse.Namespace) -> int:
    return _report(args, load_suite(args.evals), Run(args.run))


# --- planning -----------------------------------------------------------------------------------


def open_or_create(
    args: argparse.Namespace,
    suite: Suite,
    *,
    model: str,
    judge: str | None,
    source: str,
    effort: str | None = None,
) -> Run:
    """The run of these options: a new folder, or the one that --run names, if its plan is the same.

    Raises UserError where the folder holds another plan: answers are never mixed.
    """
    skill = load_skill(skill_path(args.skill))
    arms = {arm: skill if arm == WITH else None for arm in (args.arm or [WITHOUT, WITH])}
    planned = plan.make(
        suite,
        suite.select(args.case),
        arms,
        model=model,
        epochs=args.epochs or DEFAULT_EPOCHS,
        effort=effort,
    )
    folder = args.run or new_folder()
    run = Run(folder)
    if run.exists():
        wanted = {p.trial: p.request.digest for p in planned}
        if run.trials() != wanted:
            raise UserError(
                f"{folder}: this run was planned from other options, prompts or another skill;"
                " name another folder with --run"
            )
        return run
    facts = plan_facts(suite, planned, arms, model=model, judge=judge, source=source)
    run = Run.create(folder, facts, planned)
    if WITH in arms:
        copy_skill(skill, run.folder / RECORDED_SKILL)
    return run


def plan_facts(
    suite: Suite,
    planned: Sequence[PlannedTrial],
    arms: Mapping[str, Skill | None],
    *,
    model: str,
    judge: str | None,
    source: str,
    **more: Any,
) -> dict[str, Any]:
    """The content of run.json but for its trials."""
    cases = dict.fromkeys(p.trial.case for p in planned)
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "harness": __version__,
        "source": source,
        "model": model,
        "judge": judge,
        "delivery": "inline",
        "arms": {arm: {"skill": _identity(skill)} for arm, skill in arms.items()},
        "cases": {case: suite.cases[case].digest for case in cases},
        "epochs": max((p.trial.epoch for p in planned), default=0),
        "max_tokens": planned[0].request.max_tokens if planned else plan.MAX_TOKENS,
        "provenance": None,
        "tree_skill": None,
        "stale": [],
        **more,
    }


def _identity(skill: Skill | None) -> dict[str, str] | None:
    if skill is None:
        return None
    return {"name": skill.name, "version": skill.version, "digest": skill.digest}


def copy_skill(skill: Skill, folder: Path) -> None:
    """Writes the skill's files, so that the run carries what its answers were made from."""
    for name, data in skill.files.items():
        path = folder / skill.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def carried_skill(folder: Path) -> Skill | None:
    """The skill that a run or recording carries; None if it has no arm with one."""
    found = sorted((folder / RECORDED_SKILL).glob("*/SKILL.md"))
    return load_skill(found[0].parent) if found else None


def new_folder() -> Path:
    """An unused folder under runs/, named by the time."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = Path("runs") / stamp
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stamp}-{number}"
    return folder


# --- replaying ----------------------------------------------------------------------------------


def find_recording(folder: Path, name: str | None) -> Run:
    """The named recording, else the newest. Raises UserError where there is none."""
    runs = [Run(path.parent) for path in folder.glob("*/run.json")]
    names = sorted(run.folder.name for run in runs)
    if name is not None:
        if name not in names:
            raise UserError(f"{folder}: no recording {name!r}; there are: {', '.join(names)}")
        return Run(folder / name)
    if not runs:
        raise UserError(f"{folder}: no recording to replay; name a model with --model (MODEL=…)")
    return max(runs, key=lambda run: (run.plan["created"], run.folder.name))


def _replayed_run(args: argparse.Namespace, suite: Suite, recording: Run) -> Run:
    """A new run with the recorded answers to the requests that are still the same."""
    if args.run and Run(args.run).exists():
        raise UserError(f"{args.run}: there is a run already; a replay makes a new one")
    recorded = recording.plan
    skill = carried_skill(recording.folder)
    arms = {
        arm: skill if arm == WITH else None
        for arm in recorded["arms"]
        if not args.arm or arm in args.arm
    }
    asked = recording.trials()
    suite_cases = [case for case in suite.select(args.case) if case.id in recorded["cases"]]
    now = plan.make(
        suite,
        suite_cases,
        arms,
        model=recorded["model"],
        epochs=min(args.epochs or recorded["epochs"], recorded["epochs"]),
        max_tokens=recorded["max_tokens"],
    )
    fresh = [p for p in now if asked.get(p.trial) == p.request.digest]
    stale = [p.trial.id for p in now if p not in fresh]
    tree = load_skill(skill_path(args.skill))
    facts = plan_facts(
        suite,
        fresh,
        arms,
        model=recorded["model"],
        judge=recorded.get("judge"),
        source="recording",
        provenance=recorded.get("provenance"),
        recording=recording.folder.name,
        tree_skill=_identity(tree),
        stale=stale,
    )
    run = Run.create(args.run or new_folder(), facts, fresh)
    if skill is not None:
        copy_skill(skill, run.folder / RECORDED_SKILL)
    _copy_responses(recording, run, [p.request.digest for p in fresh])
    return run


def _copy_responses(source: Run, target: Run, digests: Sequence[str]) -> None:
    for digest in digests:
        response = source.response(digest)
        if response is not None:
            target.add_response(digest, response)


# --- asking -------------------------------------------------------------------------------------


def _live_run(args: argparse.Namespace, suite: Suite) -> Run:
    judge = None if getattr(args, "no_judge", True) else (args.judge or args.model)
    return open_or_create(
        args, suite, model=args.model, judge=judge, source="live", effort=args.effort
    )


def _ask_live(args: argparse.Namespace, run: Run) -> int:
    """Asks for what is missing; returns how many are missing still."""
    from harness.commands.asking import ask

    requests = [run.request(digest) for digest in run.trials().values()]
    return ask(run, requests, args, what="answers")


# --- grading ------------------------------------------------------------------------------------


def _grade(
    args: argparse.Namespace,
    suite: Suite,
    run: Run,
    *,
    recording: Run | None = None,
    judge_live: bool = False,
    again: bool = False,
) -> None:
    from harness.grading import grade as stage
    from harness.grading.cell import CellFactory

    facts = run.plan
    known_criteria(suite, args.criterion)
    judge = None if args.no_judge else (args.judge or facts.get("judge"))
    cells = CellFactory(jobs=args.jobs)
    probe = cells.probe()
    trials = [
        trial
        for trial in run.trials()
        if trial.case in suite.cases
        and (not args.case or trial.case in args.case)
        and (not args.arm or trial.arm in args.arm)
    ]
    if not again:
        done = {verdict.trial for verdict in run.verdicts()}
        trials = [trial for trial in trials if trial.id not in done]

    def ask(requests: Sequence[Request]) -> None:
        if recording is not None:
            _copy_responses(recording, run, [request.digest for request in requests])
        elif judge_live:
            from harness.commands.asking import ask as ask_model

            ask_model(run, requests, args, what="judge's verdicts")

    run.add_facts(
        {
            "judge": judge or facts.get("judge"),  # --no-judge leaves it out, it forgets nobody
            "grading": {
                "cell": f"{probe.tool} {probe.version}" if probe.ok else None,
                "limits": "; ".join(f"{k}: {v}" for k, v in probe.limits.items()) or None,
                "reason": probe.reason,
                "rerun": probe.ok,
            },
        }
    )
    with Progress("grading", len(trials)) as progress:
        stage.grade(
            run,
            suite,
            trials,
            cells=cells if probe.ok else None,
            criteria=args.criterion,
            judge=judge,
            ask=ask,
            on_progress=lambda step: progress.step(step.trial.id),
        )
    if not probe.ok:
        _without_cells(run, recording, probe.reason)


def _without_cells(run: Run, recording: Run | None, reason: str) -> None:
    """No cell can be built: recorded verdicts stand in, labelled; nothing is ever run bare."""
    print(f"nothing was run: {reason}", file=sys.stderr)
    if recording is None:
        return
    known = {(verdict.trial, verdict.criterion) for verdict in run.verdicts()}
    trials = {trial.id for trial in run.trials()}
    run.add_verdicts(
        [
            verdict
            for verdict in recording.verdicts()
            if verdict.trial in trials and (verdict.trial, verdict.criterion) not in known
        ]
    )
    print("executed criteria show the recorded verdicts, not run again", file=sys.stderr)


def known_criteria(suite: Suite, names: Collection[str]) -> None:
    """Raises UserError on a criterion that the rubric does not have."""
    from harness.cases import suggest

    for name in names:
        if name not in suite.rubric.criteria:
            raise UserError(f"unknown criterion {suggest(name, suite.rubric.criteria)}")


# --- reporting ----------------------------------------------------------------------------------


def _report(args: argparse.Namespace, suite: Suite, run: Run) -> int:
    from harness.analysis.summary import summarise
    from harness.reporting import write_all

    summary = summarise(run, suite)
    write_all(run, suite, summary)
    return INCOMPLETE if args.strict and incomplete(summary) else 0


def incomplete(summary: Mapping[str, Any]) -> bool:
    """Whether an answer is missing, stale or of another skill, or a criterion was not graded."""
    trials = summary["trials"]
    other_skill = summary["provenance"]["recorded_skill_differs"]
    return bool(trials["missing"] or trials["stale"] or summary["not_graded"] or other_skill)


class Locked:
    """A run that this process alone writes to."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __enter__(self) -> Run:
        if not self.run.exists():
            raise UserError(f"{self.run.folder / 'run.json'}: no such file; is this a run folder?")
        self.run.lock()
        return self.run

    def __exit__(self, *error: object) -> None:
        self.run.unlock()
