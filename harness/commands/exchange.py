"""pending, import, record: answers that come by way of files, and recordings made of them."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from harness.cases import load_suite
from harness.commands.evaluate import Locked, open_or_create
from harness.errors import UserError
from harness.grading.grade import judge_requests
from harness.models.files import answer_name, read_answers, write_pending
from harness.store import Run

CARRIED = ("requests", "texts", "skills")
"""Folders of a run that its recording carries along; logs are made again by grading again."""


def pending(args: argparse.Namespace) -> int:
    suite = load_suite(args.evals)
    if args.run and Run(args.run).exists():
        run = Run(args.run)
        run.lock()
    else:
        judge = args.judge or args.model
        run = open_or_create(args, suite, model=args.model, judge=judge, source="imported")
    wanted = [run.request(digest) for digest in run.trials().values()]
    judge = run.plan.get("judge")
    if judge:
        trials = [trial for trial in run.trials() if trial.case in suite.cases]
        for request in judge_requests(run, suite, trials, judge).values():
            run.add_request(request)
            wanted.append(request)
    missing = [request for request in wanted if request.digest not in run.responses()]
    paths = write_pending(missing, args.out)
    run.unlock()
    print(f"{len(paths)} requests without a response, of {len(wanted)}, are in {args.out}")
    if missing:
        print(f"save each reply beside its request, as {answer_name(missing[0].digest)}; then:")
        print(f"  harness import {args.out} --run {run.folder}")
    return 0


def import_answers(args: argparse.Namespace) -> int:
    run = Run(args.run)
    with Locked(run):
        done = read_answers(args.answers, run)
    for name, why in done.skipped.items():
        print(f"not imported: {name}: {why}")
    print(f"{len(done.stored)} stored, {len(done.missing)} requests have no response yet")
    print(f"next: harness grade {run.folder}")
    return 1 if done.skipped else 0


def record(args: argparse.Namespace) -> int:
    import yaml

    run = Run(args.run)
    target = args.evals / "recordings" / args.name
    if target.exists():
        raise UserError(f"{target}: exists already; a recording is never changed")
    try:
        provenance = yaml.safe_load(args.provenance.read_text(encoding="utf-8"))
        attempts = [json.loads(line) for line in args.attempts.read_text("utf-8").splitlines()]
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"provenance or attempts cannot be read: {error}") from None
    missing = [t.id for t, digest in run.trials().items() if digest not in run.responses()]
    if missing:
        raise UserError(f"{run.folder}: no answer yet to {', '.join(missing)}")
    tried = {attempt["request"] for attempt in attempts if attempt["outcome"] == "imported"}
    untold = [digest[:12] for digest in run.responses() if digest not in tried]
    if untold:
        raise UserError(f"{args.attempts}: nothing on the requests {', '.join(untold)}")
    target.mkdir(parents=True)
    for name in CARRIED:
        if (run.folder / name).is_dir():
            shutil.copytree(run.folder / name, target / name)
    for name in ("responses.jsonl", "verdicts.jsonl"):
        _copy(run.folder / name, target / name)
    _copy(args.provenance, target / "provenance.yaml")
    _copy(args.attempts, target / "attempts.jsonl")
    plan = {**run.plan, "source": "recording", "provenance": provenance}
    (target / "run.json").write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {len(run.trials())} trials, {len(run.responses())} responses")
    return 0


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copyfile(source, target)
