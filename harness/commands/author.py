"""check, new-case, prove: the loop of a person who writes cases."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path

from harness.cases import Case, Suite, load_suite
from harness.commands.evaluate import known_criteria
from harness.errors import UserError
from harness.records import Verdict

HOWS = ("executed", "static")
MARKS = {"pass": "pass", "fail": "FAIL", "not_graded": "----"}


def check(args: argparse.Namespace) -> int:
    from harness.grading import executed, static
    from harness.grading.cell import CellFactory

    suite = load_suite(args.evals)
    case = suite.select([args.case])[0]
    known_criteria(suite, args.criterion)
    files = executed.read_folder(args.folder)
    cells = CellFactory()
    probe = cells.probe()
    if not probe.ok:
        raise UserError(f"nothing was run: {probe.reason}")
    wanted = [c for c in case.criteria if not args.criterion or c in args.criterion]
    by_how = {how: [c for c in wanted if suite.rubric.criteria[c].how == how] for how in HOWS}
    trial = f"{case.id}/local/1"
    verdicts = static.grade(case, files, trial, by_how["static"])
    done, logs = executed.grade(case, files, trial, criteria=by_how["executed"], cells=cells)
    verdicts += done
    for verdict in verdicts:
        _print(verdict)
    if args.logs:
        for group, text in logs.items():
            print(f"\n--- log of {group}\n{text}")
    return 1 if any(verdict.outcome != "pass" for verdict in verdicts) else 0


def _print(verdict: Verdict) -> None:
    from harness.reporting import neutral

    print(f"{MARKS[verdict.outcome]}  {verdict.criterion}")
    told = verdict.reason if verdict.outcome == "not_graded" else verdict.evidence
    if verdict.outcome != "pass":
        print(f"      {neutral.line(told)}")


def prove(args: argparse.Namespace) -> int:
    from harness.grading.cell import CellFactory
    from harness.grading.prove import prove as proof_of

    suite = load_suite(args.evals)
    cases = [case for case in suite.select(args.case) if _references(suite, case).is_dir()]
    cells = CellFactory()
    probe = cells.probe()
    if not probe.ok:
        raise UserError(f"nothing was run: {probe.reason}")
    wrong = 0
    for case in cases:
        chosen = _sample(suite, case, args.sample, date.today().toordinal()) if args.sample else ()
        for row in proof_of(case, suite, cells, chosen):
            print(f"{'ok   ' if row.ok else 'WRONG'}  {row.case}  {row.service}: {row.told}")
            wrong += not row.ok
        sys.stdout.flush()
    print(f"{wrong} wrong")
    return 1 if wrong else 0


def _sample(suite: Suite, case: Case, number: int, day: int) -> list[str]:
    """The good service and so many mutants, others each day: all had their turn after a while."""
    names = sorted(path.stem for path in (_references(suite, case) / "mutants").glob("*.patch"))
    chosen = [names[(day * number + turn) % len(names)] for turn in range(min(number, len(names)))]
    return ["good", *chosen]


def _references(suite: Suite, case: Case) -> Path:
    return suite.folder / "references" / case.id


def new_case(args: argparse.Namespace) -> int:
    from importlib.resources import files

    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", args.name):
        raise UserError(f"{args.name!r}: a case's name is lower-case words joined by hyphens")
    folder = args.evals / "cases" / args.name
    service = args.evals / "references" / args.name / "good"
    for path in (folder, service):
        if path.exists():
            raise UserError(f"{path}: exists already")
    template = files("harness") / "scaffold"
    for name in ("case.yaml", "prompt.md", "openapi.yaml", "test_case.py", "main.py", "README.md"):
        text = (template / name).read_text(encoding="utf-8").replace("CASE-NAME", args.name)
        in_case = name not in ("main.py", "README.md")
        target = (folder if in_case else service) / name.replace(
            "test_case", f"test_{args.name.replace('-', '_')}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        print(target)
    print(f"try it: harness check {args.name} {service}")
    return 0
