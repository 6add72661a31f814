"""Every figure that the project promises, measured one after the other: ``make bench``.

Prints a table, and writes it to bench.json. Exits 1 where a figure misses its target, so that a
release can demand it; the machine should be otherwise idle.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench import overhead

ROOT = Path(__file__).parent.parent
HARNESS = [sys.executable, "-m", "harness"]
HARDEST = "parcel-labels"


@dataclass(frozen=True)
class Figure:
    """One measured value, the target that it is held against, and how it was got."""

    name: str
    value: float
    unit: str
    target: float
    how: str


def seconds(command: list[str]) -> float:
    """Wall-clock time of a process that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def measured_help() -> Figure:
    runs = [seconds([*HARNESS, "--help"]) for _ in range(9)]
    return Figure("harness --help", median(runs), "s", 0.25, "median of 9")


def measured_overhead() -> Figure:
    found = overhead.measure(trials=400, concurrency=40, repeat=2, latency=0.5)
    how = f"harness {found['harness_s']} s, bare SDK loop {found['bare_s']} s, best of 2 each"
    return Figure("400 trials at 40", found["ratio"], "x", overhead.TARGET, how)


def measured_grading() -> Figure:
    service = f"evals/references/{HARDEST}/good"
    runs = [seconds([*HARNESS, "check", HARDEST, service]) for _ in range(3)]
    return Figure("grading one answer", median(runs), "s", 15, f"{HARDEST}, median of 3, alone")


def measured_eval() -> Figure:
    folder = Path(tempfile.mkdtemp()) / "run"
    try:
        value = seconds([*HARNESS, "eval", "--run", str(folder)])
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return Figure("make eval, warm", value, "s", 180, "the shipped recording, all of it")


def main() -> int:
    figures = []
    for measure in (measured_help, measured_overhead, measured_grading, measured_eval):
        figure = measure()
        figures.append(figure)
        mark = "ok" if figure.value <= figure.target else "MISSED"
        print(
            f"{figure.name:20} {figure.value:8.2f} {figure.unit:2} "
            f"(at most {figure.target:g})  {mark:6}  {figure.how}",
            flush=True,
        )
    (ROOT / "bench.json").write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    return 1 if any(figure.value > figure.target for figure in figures) else 0


if __name__ == "__main__":
    raise SystemExit(main())
