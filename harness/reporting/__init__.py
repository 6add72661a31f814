"""Stage five: shows a run and its summary. Nothing here computes a figure of its own.

Everything that a model wrote is hostile: it passes through `harness.reporting.neutral` (and, in
HTML, through Jinja's autoescape) before it reaches an output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import IO, Any

from harness.cases import Suite
from harness.store import Run


def write_all(
    run: Run, suite: Suite, summary: Mapping[str, Any], file: IO[str] | None = None
) -> None:
    """Writes every output into the run's folder, and the terminal's to `file` (default: stdout).

    summary.json, report.html, junit.xml and verdicts.csv, each whole or not at all. Raises
    UserError where the folder cannot be written.
    """
    from harness.reporting import html, junit, table, terminal

    verdicts = run.verdicts()
    outputs = {
        "summary.json": json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "junit.xml": junit.render(verdicts, summary),
        "verdicts.csv": table.render(verdicts, summary),
        "report.html": html.render(run, suite, summary, verdicts),
    }
    for name, text in outputs.items():
        run.add_output(name, text)
    terminal.render(summary, file or sys.stdout, report=run.folder / "report.html")
