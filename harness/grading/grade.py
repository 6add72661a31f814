"""Stage three: verdicts on a run's stored answers. Knows no model; asks a judge it is handed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from harness.cases import Case, Suite
from harness.grading import executed, judged, static
from harness.grading.cell import CellFactory
from harness.grading.parse import parse_answer
from harness.records import Request, Response, Trial
from harness.store import Run

Ask = Callable[[Sequence[Request]], None]
"""Gets the judge's responses to these requests and stores them in the run."""


@dataclass(frozen=True)
class Progress:
    """A trial has been graded: how many of how many are done."""

    trial: Trial
    done: int
    total: int


def grade(
    run: Run,
    suite: Suite,
    trials: Iterable[Trial],
    *,
    cells: CellFactory | None,
    criteria: Collection[str] = (),
    judge: str | None = None,
    ask: Ask | None = None,
    side_by_side: int = 4,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Grades trials that have an answer and appends their verdicts to the run.

    `criteria` narrows to these ids; all for none. Without `cells`, executed criteria are left
    out. `judge` names the judge model, None leaves judged criteria out; its stored responses are
    used, and `ask` is called once for those that are missing.
    """
    answers = {trial: response for trial, response in _answers(run, trials) if response is not None}
    if judge is not None:
        requests = judge_requests(run, suite, answers, judge, criteria)
        for request in requests.values():
            run.add_request(request)
        missing = [r for r in requests.values() if r.digest not in run.responses()]
        if ask is not None and missing:
            ask(missing)
    else:
        requests = {}

    writing = threading.Lock()

    def one(trial: Trial, response: Response) -> None:
        case = suite.cases[trial.case]
        wanted = _wanted(case, suite, criteria)
        answer = parse_answer(response.text)
        files = answer.files
        verdicts = static.grade(case, files, trial.id, wanted["static"], prose=answer.prose)
        logs: Mapping[str, str] = {}
        if cells is not None and wanted["executed"]:
            done, logs = executed.grade(
                case, files, trial.id, criteria=wanted["executed"], cells=cells
            )
            verdicts += done
        if judge is not None and wanted["judged"]:
            request = requests.get(trial)
            said = run.response(request.digest) if request is not None else None
            verdicts += judged.verdicts(
                case, suite.rubric, wanted["judged"], response.text, trial.id, said
            )
        with writing:
            for group, text in logs.items():
                run.add_log(log_name(trial, group), text)
            run.add_verdicts(verdicts)

    with ThreadPoolExecutor(max_workers=side_by_side) as pool:
        futures = {pool.submit(one, trial, response): trial for trial, response in answers.items()}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                on_progress(Progress(futures[future], done, len(futures)))
        except BaseException:
            # Ctrl-C, most often: what runs is ended and leaves no verdict, the rest never starts.
            pool.shutdown(wait=False, cancel_futures=True)
            if cells is not None:
                cells.stop()
            raise


def judge_requests(
    run: Run,
    suite: Suite,
    trials: Iterable[Trial],
    judge: str,
    criteria: Collection[str] = (),
) -> dict[Trial, Request]:
    """The judge's request for each trial that has an answer and judged criteria."""
    requests = {}
    for trial, response in _answers(run, trials):
        case = suite.cases[trial.case]
        wanted = _wanted(case, suite, criteria)["judged"]
        if response is not None and response.text.strip() and wanted:
            requests[trial] = judged.request(
                case, suite.rubric, wanted, response.text, judge, trial.epoch
            )
    return requests


def log_name(trial: Trial, group: str) -> str:
    """The name under which a group's log is stored in the run."""
    return f"{trial.case}.{trial.arm}.{trial.epoch}.{group}.log"


def _answers(run: Run, trials: Iterable[Trial]) -> Iterable[tuple[Trial, Response | None]]:
    planned = run.trials()
    return ((trial, run.response(planned[trial])) for trial in trials)


def _wanted(case: Case, suite: Suite, criteria: Collection[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {"executed": [], "static": [], "judged": []}
    for criterion in case.criteria:
        if not criteria or criterion in criteria:
            wanted[suite.rubric.criteria[criterion].how].append(criterion)
    return wanted
