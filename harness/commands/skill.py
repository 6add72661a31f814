"""package, validate, upload: what a skill author does before any model is asked."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import UserError

SKILL_ROOT = Path("skill")


def skill_path(given: Path | None) -> Path:
    """The skill that was named, else the only one under ``skill/``. Raises UserError."""
    if given is not None:
        return given
    found = sorted(path.parent for path in SKILL_ROOT.glob("*/SKILL.md"))
    if len(found) != 1:
        raise UserError(f"{SKILL_ROOT}: {len(found)} skills found here; name one as an argument")
    return found[0]


def package(args: argparse.Namespace) -> int:
    from harness.packaging import build

    built = build(skill_path(args.skill), args.out)
    for path in (built.zip, built.skill):
        print(f"{path}  {built.size:,} bytes  sha256 {built.sha256}")
    print(f"{len(built.files)} files, opened again and checked")
    return 0


def validate(args: argparse.Namespace) -> int:
    from harness.validation import validate as findings_of

    path = skill_path(args.skill)
    findings = findings_of(path)
    for finding in findings:
        print(f"{finding.level}: {finding.where}: {finding.message}")
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        print(f"{path}: {errors} to mend", file=sys.stderr)
        return 1
    print(f"{path}: valid" + (f", {len(findings)} warnings" if findings else ""))
    return 0


def upload(args: argparse.Namespace) -> int:
    from anthropic import Anthropic, AnthropicError

    from harness.upload import upload as upload_skill

    try:
        client = Anthropic(base_url=args.base_url)
        skill_id, version, created = upload_skill(skill_path(args.skill), client)
    except AnthropicError as error:
        raise UserError(f"upload: {type(error).__name__}: {error}") from None
    print(f"{'created' if created else 'new version of'} {skill_id}, version {version}")
    return 0
