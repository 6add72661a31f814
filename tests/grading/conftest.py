"""Small cases made on the spot: a test file's text and a service's text, graded in real cells."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cases import Case, Runtime
from harness.grading import executed
from harness.grading.cell import CellFactory, Limits, find_tools
from harness.records import Verdict

EVALS = Path(__file__).parents[2] / "evals"
RUNTIME = Runtime(
    "python-sqlite",
    "",
    ("python", "main.py"),
    EVALS / "runtimes" / "python-sqlite" / "requirements.txt",
)

SERVICE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

{setup}

def answer(path):
    return {{}}

{answer}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        result = answer(self.path) if self.path != "/" else {{}}
        body = json.dumps(result).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def service(answer: str = "", setup: str = "") -> dict[str, str]:
    """The files of a service that answers GET with the JSON that ``answer(path)`` returns."""
    text = SERVICE.format(answer=textwrap.dedent(answer), setup=textwrap.dedent(setup))
    return {"main.py": text}


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """``make_case(test_text, criteria=(…), tolerance_s=…)``."""

    def make(text: str, criteria: tuple[str, ...] = ("x.one",), tolerance_s: float = 0.25) -> Case:
        folder = tmp_path / "cases" / "small"
        folder.mkdir(parents=True, exist_ok=True)
        case = Case(
            "small",
            "",
            "",
            folder,
            "",
            None,
            RUNTIME,
            criteria,
            dict.fromkeys(criteria, ()),
            tolerance_s,
        )
        head = "import pytest\nfrom harness.checks import *\n"
        case.tests.write_text(head + textwrap.dedent(text), encoding="utf-8")
        return case

    return make


@pytest.fixture
def grade(make_case: Callable[..., Case]) -> Callable[..., dict[str, Verdict]]:
    """``grade(test_text, files, …)``: verdicts by criterion, from real cells."""

    def run(
        text: str,
        files: dict[str, str],
        *,
        cells: CellFactory | None = None,
        criteria: tuple[str, ...] = ("x.one",),
        tolerance_s: float = 0.25,
    ) -> dict[str, Verdict]:
        case = make_case(text, criteria, tolerance_s)
        found, _ = executed.grade(
            case, files, "small/without/1", criteria=criteria, cells=cells or CellFactory()
        )
        return {verdict.criterion: verdict for verdict in found}

    return run


@pytest.fixture(params=find_tools(), ids=lambda tool: "system" if tool.parts[1] == "usr" else "pip")
def tool(request: pytest.FixtureRequest) -> Path:
    """Each bwrap that this machine has."""
    path: Path = request.param
    return path


def small(tool: Path | None = None, **options: bool) -> CellFactory:
    """A factory whose cells are narrow, so that a bomb goes off quickly."""
    limits = Limits(memory_mb=256, processes=60, disk_mb=32, file_mb=16)
    return CellFactory(tool=tool, limits=limits, **options)
