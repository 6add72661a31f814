"""One self-contained report.html: no script, no network, readable from ``file://`` and in print.

The template escapes everything (autoescape), every text passes through `neutral.text` on its way
out (`finalize`), and the page's own policy forbids scripts, requests, forms and foreign styles.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from harness.cases import Suite
from harness.records import Request, Trial, Verdict
from harness.reporting import neutral, words
from harness.store import Run

HERE = Path(__file__).parent

TRIALS_SHOWN = 200
"""Trials with their answers in the page; the others stay in the run folder, and are counted."""

TEXT_SHOWN = 200_000
"""Characters of one answer or log in the page: an answer within the format's limit is shorter."""

MOVED_SHOWN = 10
"""Criteria that moved most, before the whole matrix."""

CASES_IN_MATRIX = 6
"""With more cases than this, the matrix shows arms alone, or nobody can read it."""


def render(
    run: Run,
    suite: Suite,
    summary: Mapping[str, Any],
    verdicts: Sequence[Verdict] | None = None,
) -> str:
    """The whole page. Reads answers, requests and logs from the run, and verdicts if not given."""
    css = (HERE / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"words": words, "percent": words.percent, "points": words.points}
    template = environment.get_template("report.html.j2")
    comparison = next(
        (entry for entry in summary["lifts"] if entry["primary"]["value"] is not None),
        summary["lifts"][0],
    )
    trials = _Trials(run, suite, summary, run.verdicts() if verdicts is None else verdicts)
    return template.render(
        css=Markup(css),  # a file of the package; the policy carries its hash
        policy=policy(css),
        summary=summary,
        lift=comparison,
        others=[entry for entry in summary["lifts"] if entry is not comparison],
        title=_title(summary),
        about=list(words.about(summary)),
        axis=_axis(comparison),
        arms=list(summary["arms"]),
        groups=_matrix(summary, comparison),
        moved=_moved(summary, comparison),
        matrix_cases=summary["cases"] if len(summary["cases"]) <= CASES_IN_MATRIX else [],
        notes=list(words.notes(summary)),
        cases=list(trials.cases()),
        systems=trials.systems(),
        unshown=trials.unshown,
        facts=list(_facts(summary)),
        details=_details(summary["provenance"]["details"]),
    )


def policy(css: str) -> str:
    """The content security policy: nothing at all but this style sheet, by its hash."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _finalize(value: Any) -> Any:
    return (
        neutral.text(value) if isinstance(value, str) and not isinstance(value, Markup) else value
    )


def _title(summary: Mapping[str, Any]) -> str:
    skill = summary["provenance"]["skill"] or {}
    return " ".join(part for part in (skill.get("name"), skill.get("version")) if part) or "Lift"


# --- the forest plot --------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A horizontal axis of lifts; positions are percentages of its width."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"

    def beyond(self, value: float) -> bool:
        return not self.low <= value <= self.high


def _axis(comparison: Mapping[str, Any]) -> Axis:
    """Wide enough for all intervals, but never beyond ±100 points; round ticks, 0 among them."""
    primary = comparison["primary"]
    entries = [*comparison["cases"], *(primary[key] for _, key in words.QUESTIONS)]
    ends = [entry[end] for entry in entries for end in ("low", "high", "value") if end in entry]
    known = [min(1.0, max(-1.0, end)) for end in [*ends, primary["value"]] if end is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    steps = (0.05, 0.1, 0.2, 0.25, 0.5)
    step = next(step for step in steps if (high - low) / step <= 6 or step == steps[-1])
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    pad = step * 0.2
    ticks = tuple(round(step * number, 10) for number in range(first, last + 1))
    return Axis(ticks[0] - pad, ticks[-1] + pad, ticks)


# --- the matrix -------------------------------------------------------------------------------


def _matrix(
    summary: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Criteria under their dimension and endpoint, each with its change."""
    change = {entry["criterion"]: entry["change"] for entry in comparison["criteria"]}
    lifts = {
        (entry["dimension"], entry["endpoint"]): entry["value"]
        for entry in comparison["dimensions"]
    }
    endpoint = {"executed": "primary", "static": "primary", "judged": "judged"}
    groups = []
    for group in summary["dimensions"]:
        key = (group["dimension"], group["endpoint"])
        rows = [
            {**row, "change": change.get(row["criterion"])}
            for row in summary["criteria"]
            if (row["dimension"], endpoint[row["how"]]) == key
        ]
        groups.append(({**group, "value": lifts.get(key)}, rows))
    return groups


def _moved(summary: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The criteria that moved most, with their claim."""
    known = {entry["criterion"]: entry for entry in summary["criteria"]}
    moved = [entry for entry in comparison["criteria"] if entry["change"]]
    moved.sort(key=lambda entry: -abs(entry["change"]))
    return [
        {
            **entry,
            "claim": known[entry["criterion"]]["claim"],
            "how": known[entry["criterion"]]["how"],
        }
        for entry in moved[:MOVED_SHOWN]
    ]


# --- trials -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A piece of an answer: prose, or a fenced block."""

    code: bool
    label: str
    text: str


def parts(text: str) -> list[Part]:
    """Cuts an answer into prose and fenced blocks, for the eye alone; no character is lost."""
    lines = text.replace("\r\n", "\n").split("\n")
    found, position = [], 0
    for token in _MARKDOWN.parse("\n".join(lines)):
        if token.type == "fence" and token.map and token.level == 0:
            start, end = token.map
            if start > position:
                found.append(Part(False, "", "\n".join(lines[position:start]).strip("\n")))
            found.append(Part(True, token.info.strip(), "\n".join(lines[start:end])))
            position = end
    if position < len(lines):
        found.append(Part(False, "", "\n".join(lines[position:]).strip("\n")))
    return [part for part in found if part.text.strip()]


_MARKDOWN = MarkdownIt("zero").enable("fence").disable(["inline", "text_join"])
"""Paragraphs and fences alone: all that the eye needs, and fast on any input."""


class _Trials:
    """What the page shows of each trial: the prompt once a case, answers side by side."""

    def __init__(
        self, run: Run, suite: Suite, summary: Mapping[str, Any], verdicts: Sequence[Verdict]
    ) -> None:
        self.run, self.suite, self.summary = run, suite, summary
        listed = [entry for entry in summary["trials"]["list"] if entry["state"] != "left out"]
        self.listed = {entry["trial"]: entry for entry in listed[:TRIALS_SHOWN]}
        self.unshown = len(listed) - len(self.listed)
        self.requests = {
            trial: run.request(digest)
            for trial, digest in run.trials().items()
            if trial.id in self.listed
        }
        self.verdicts: dict[str, dict[str, Verdict]] = {}
        for verdict in verdicts:
            if verdict.trial in self.listed:
                self.verdicts.setdefault(verdict.trial, {})[verdict.criterion] = verdict

    def systems(self) -> list[tuple[str, str]]:
        """Each distinct system prompt with the arms that saw it."""
        arms: dict[str, list[str]] = {}
        for trial, request in self.requests.items():
            names = arms.setdefault(request.system, [])
            if trial.arm not in names:
                names.append(trial.arm)
        return [(", ".join(names), text) for text, names in arms.items()]

    def cases(self) -> Iterator[dict[str, Any]]:
        lifts = self.summary["lifts"][0]["cases"]
        by_case = {entry["case"]: entry for entry in lifts}
        for case in self.summary["cases"]:
            trials = [trial for trial in self.requests if trial.case == case["case"]]
            if not trials:
                continue
            epochs: dict[int, list[Trial]] = {}
            for trial in trials:
                epochs.setdefault(trial.epoch, []).append(trial)
            yield {
                **case,
                "lift": by_case.get(case["case"]),
                "prompts": self._prompts(trials),
                "epochs": [self._epoch(number, found) for number, found in sorted(epochs.items())],
            }

    def _prompts(self, trials: Sequence[Trial]) -> list[tuple[str, str]]:
        """Each distinct prompt; one alone needs no label."""
        seen: dict[str, list[str]] = {}
        for trial in trials:
            seen.setdefault(_user_text(self.requests[trial]), []).append(trial.id)
        if len(seen) == 1:
            return [("", next(iter(seen)))]
        return [(", ".join(names), text) for text, names in seen.items()]

    def _epoch(self, number: int, trials: Sequence[Trial]) -> dict[str, Any]:
        order = {arm: position for position, arm in enumerate(self.summary["arms"])}
        sides = [self._side(trial) for trial in sorted(trials, key=lambda t: order[t.arm])]
        names = dict.fromkeys(
            name
            for name in ("starts", *self.suite.cases[trials[0].case].criteria)
            if any(name in side["verdicts"] for side in sides)
        )
        rows = [(name, [side["verdicts"].get(name) for side in sides]) for name in names]
        passed = [row for row in rows if all(v and v.outcome == "pass" for v in row[1])]
        others = [row for row in rows if row not in passed]
        return {"epoch": number, "sides": sides, "others": others, "passed": passed}

    def _side(self, trial: Trial) -> dict[str, Any]:
        entry = self.listed[trial.id]
        digest = self.requests[trial].digest
        response = self.run.response(digest) if entry["state"] == "answered" else None
        text = response.text if response else ""
        return {
            **entry,
            "arm": trial.arm,
            "request": digest,
            "parts": parts(text[:TEXT_SHOWN]),
            "unshown": max(0, len(text) - TEXT_SHOWN),
            "verdicts": self.verdicts.get(trial.id, {}),
            "logs": list(self._logs(trial)),
        }

    def _logs(self, trial: Trial) -> Iterator[tuple[str, str]]:
        lead = f"{trial.case}.{trial.arm}.{trial.epoch}."
        for path in sorted((self.run.folder / "logs").glob(f"{lead}*.log")):
            text = self.run.log(path.name)
            cut = (
                f"… {len(text) - TEXT_SHOWN} characters before\n" if len(text) > TEXT_SHOWN else ""
            )
            yield path.name.removeprefix(lead).removesuffix(".log"), cut + text[-TEXT_SHOWN:]


def _user_text(request: Request) -> str:
    texts = []
    for message in request.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "\n\n".join(str(block.get("text", block)) for block in content)
        texts.append(content)
    return "\n\n".join(texts)


# --- provenance -------------------------------------------------------------------------------


def _facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source, trials = summary["provenance"], summary["trials"]
    tree = source["tree_skill"]
    grading = source["grading"]
    recording = source["recording"]
    yield "Source", (source["source"] or "unknown") + (f", {recording}" if recording else "")
    yield "Made", summary["created"] or "unknown"
    yield "Model", words.model(source["model"])
    if source["models_reported"]:
        yield "Model, as the server said", ", ".join(map(words.model, source["models_reported"]))
    yield "Judge", words.model(source["judge"]) if source["judge"] else "none"
    yield "Skill", words.skill(source["skill"])
    if tree:
        same = "another one" if source["recorded_skill_differs"] else "the same"
        yield "Skill in the tree", f"{words.skill(tree)}, {same}"
    yield "Delivery of the skill", source["delivery"] or "unknown"
    yield "Length limit of an answer", f"{source['max_tokens'] or 'unknown'} tokens"
    yield "Answers", f"{trials['answered']} of {trials['planned']} planned"
    if grading["rerun"]:
        yield "Executed checks", f"run in {grading['cell']}; limits: {grading['limits']}"
    elif grading["rerun"] is False:
        yield "Executed checks", f"recorded, not run again: {grading['reason'] or 'no cell'}"
    judging = summary["judging"]
    if judging["responses"]:
        yield (
            "Judging",
            f"{judging['responses']} responses, {judging['input_tokens']:,} tokens in,"
            f" {judging['output_tokens']:,} out" + (" (estimated)" if judging["estimated"] else ""),
        )
    for case, digest in source["cases"].items():
        yield f"Case {case}", str(digest)
    yield "Harness", source["harness"] or "unknown"


def _details(details: Any) -> str:
    return json.dumps(details, indent=2, ensure_ascii=False) if details else ""
