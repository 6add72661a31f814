"""The command line: parses arguments and hands them to a function of `harness.commands`.

Nothing heavy is imported here, so that ``--help`` and a typo answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import __version__
from harness.errors import UserError

INTERRUPTED = 130

OVERVIEW = """\
Measures what a skill does to the backends that a model builds: asks the model with and
without the skill, runs what it built, breaks what it depends on, and scores it.

commands:
  package     build dist/<skill>.zip and .skill, ready to upload
  validate    check the skill against the format's rules
  eval        the whole job: ask, grade, report (replays a recording without --model)
  check       run one case's checks against a service in a local folder
  pending     write the requests that have no response yet as files, to answer anywhere
  import      read such answers back

for maintainers:
  run         only ask the model             new-case    scaffold a case that runs
  grade       only grade stored answers      prove       show that every check can fail
  report      only write the report          record      turn a run into a recording
  upload      create the skill, or a new version of it, through the API

`harness COMMAND --help` shows a command's options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Bad input is one line on stderr and code 2."""
    args = _parser().parse_args(argv)
    module, function = args.command.split(":")
    try:
        code: int = getattr(importlib.import_module(f"harness.commands.{module}"), function)(args)
        return code
    except UserError as error:
        print(f"harness: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("harness: interrupted; what was stored stays", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`harness report | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="harness",
        description=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="harness COMMAND [options]",
    )
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = parser.add_subparsers(
        prog="harness", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )

    def command(name: str, target: str, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, description=summary)
        sub.set_defaults(command=target)
        return sub

    package = command("package", "skill:package", "Builds the ZIP that people upload.")
    package.add_argument("skill", nargs="?", type=Path, help="skill folder")
    package.add_argument("--out", type=Path, default=Path("dist"), help="default: dist")

    validate = command("validate", "skill:validate", "Lists every finding on a skill.")
    validate.add_argument("skill", nargs="?", type=Path, help="folder, ZIP or .skill")

    upload = command("upload", "skill:upload", "Creates the skill, or a new version, by the API.")
    upload.add_argument("skill", nargs="?", type=Path, help="skill folder")
    upload.add_argument("--base-url", help="default: the SDK's (ANTHROPIC_BASE_URL)")

    evaluate = command("eval", "evaluate:evaluate", "Asks, grades and reports.")
    _plan_options(evaluate)
    _model_options(evaluate)
    _grade_options(evaluate)
    evaluate.add_argument("--recording", help="recording to replay; default: the newest one")

    run = command("run", "evaluate:run", "Asks the model and stores its answers.")
    _plan_options(run)
    _model_options(run)

    grade = command("grade", "evaluate:grade", "Grades the stored answers of a run again.")
    grade.add_argument("run", type=Path, help="run folder")
    grade.add_argument("--case", action="append", default=[], help="only this case (repeatable)")
    grade.add_argument("--arm", action="append", default=[], help="only this arm (repeatable)")
    grade.add_argument("--base-url", help=argparse.SUPPRESS)
    _grade_options(grade)
    _evals_option(grade)

    report = command("report", "evaluate:report", "Writes summary.json, report.html and exports.")
    report.add_argument("run", type=Path, help="run folder")
    report.add_argument("--strict", action="store_true", help="exit 3 if anything is missing")
    _evals_option(report)

    pending = command(
        "pending",
        "exchange:pending",
        "Writes every request without a response as a file, for a person to answer elsewhere.",
    )
    pending.add_argument("out", type=Path, help="folder for the request files")
    _plan_options(pending)
    pending.add_argument(
        "--model", default="claude-unreported", help="who will answer; default: %(default)s"
    )
    pending.add_argument("--judge", help="who will judge; default: the same")

    import_ = command("import", "exchange:import_answers", "Reads the answers to request files.")
    import_.add_argument("answers", type=Path, help="folder with the answers")
    import_.add_argument("--run", type=Path, required=True, help="run folder")

    record = command("record", "exchange:record", "Turns a finished run into a recording.")
    record.add_argument("run", type=Path, help="run folder")
    record.add_argument("name", help="name of the recording")
    record.add_argument("--provenance", type=Path, required=True, help="provenance.yaml")
    record.add_argument("--attempts", type=Path, required=True, help="attempts.jsonl")
    _evals_option(record)

    check = command("check", "author:check", "Runs a case's checks against a local service.")
    check.add_argument("case", help="case name")
    check.add_argument("folder", type=Path, help="folder with the service (main.py, …)")
    check.add_argument("--criterion", action="append", default=[], help="only this (repeatable)")
    check.add_argument("--logs", action="store_true", help="print the service's log too")
    _evals_option(check)

    new_case = command("new-case", "author:new_case", "Scaffolds a case that runs.")
    new_case.add_argument("name", help="lower-case words joined by hyphens")
    _evals_option(new_case)

    prove = command("prove", "author:prove", "Grades the known-good services and their mutants.")
    prove.add_argument("case", nargs="*", help="default: every case")
    prove.add_argument("--sample", type=_positive, help="so many mutants a case, others each day")
    _evals_option(prove)
    return parser


def _plan_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", action="append", default=[], help="only this case (repeatable)")
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        choices=["without", "with"],
        help="only this arm (repeatable)",
    )
    parser.add_argument("--epochs", type=_positive, help="samples of each case and arm; default: 2")
    parser.add_argument("--run", type=Path, help="run folder; an existing one is resumed")
    parser.add_argument("--skill", type=Path, help="skill folder, ZIP or .skill")
    _evals_option(parser)


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="ask this model live; nothing else makes a run live")
    parser.add_argument("--base-url", help="any server that speaks /v1/messages")
    parser.add_argument("--max-usd", type=float, help="never risk more than this")
    parser.add_argument("--price", help="IN/OUT in dollars per million tokens, e.g. 3/15")
    parser.add_argument("--concurrency", type=_positive, default=8, help="default: %(default)s")
    parser.add_argument("--effort", choices=["low", "medium", "high", "xhigh", "max"])
    parser.add_argument("--yes", action="store_true", help="do not ask before spending")


def _grade_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--criterion", action="append", default=[], help="only this (repeatable)")
    parser.add_argument("--judge", help="model that judges; default: the model itself")
    parser.add_argument("--no-judge", action="store_true", help="leave judged criteria out")
    parser.add_argument("--jobs", type=_positive, help="groups of checks side by side")
    parser.add_argument("--strict", action="store_true", help="exit 3 if anything is missing")


def _evals_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--evals", type=Path, default=Path("evals"), help="default: evals")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


class _Parser(argparse.ArgumentParser):
    """Without a command, shows the overview instead of 'the following arguments are required'."""

    def error(self, message: str) -> None:  # type: ignore[override]
        if message.startswith("the following arguments are required: COMMAND"):
            self.print_help()
            raise SystemExit(2)
        super().error(message)
