"""How a summary is put into words and numbers, the same in every output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

UNKNOWN = "–"

UNREPORTED_MODELS = {None, "", "claude-unreported"}

QUESTIONS = (
    ("on these cases", "on_these_cases"),
    ("on tasks like these", "on_tasks_like_these"),
)

_PLAIN = str.maketrans(
    {"×": "x", "−": "-", "–": "-", "…": "...", "·": "-", "→": "->", "█": "#", "░": ".", "’": "'"}
)


@dataclass(frozen=True)
class Line:
    text: str
    kind: Literal["title", "warning", "plain", "detail"] = "plain"


def percent(rate: float | None) -> str:
    return UNKNOWN if rate is None else f"{100 * rate:.1f}%"


def points(value: float | None) -> str:
    """A difference of rates in percentage points, signed: ``+12.5``, ``−3.0``, ``0.0``."""
    if value is None:
        return UNKNOWN
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def span(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None or high is None else f"{points(low)} … {points(high)}"


def ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"×{value:.2f}"


def interval(found: Mapping[str, Any], cases: int | None = None) -> str:
    """The interval in points, or why there is none."""
    if found["low"] is None:
        return f"no interval: {found['reason']}"
    return span(found["low"], found["high"])


def skill(entry: Mapping[str, Any] | None) -> str:
    """Name, version and the first letters of the digest."""
    if not entry:
        return "unknown"
    parts = [entry.get("name") or "", entry.get("version") or ""]
    digest = short(entry.get("digest"))
    return " ".join(part for part in parts if part) + (f" ({digest})" if digest else "")


def short(digest: str | None) -> str:
    """Enough of a digest to tell two apart by eye."""
    return str(digest or "").removeprefix("sha256:")[:8]


def model(name: str | None) -> str:
    return "not reported" if name in UNREPORTED_MODELS else str(name)


def count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def compact(number: float | None) -> str:
    """1,234 or 25.3k: at most four digits."""
    if number is None:
        return UNKNOWN
    return f"{number / 1000:.1f}k" if number >= 10_000 else f"{number:,.0f}"


def about(summary: Mapping[str, Any]) -> Iterator[Line]:
    """What the numbers are about; what they do not say comes before any number."""
    source = summary["provenance"]
    recorded = source["source"] not in ("live", None)
    lead = "Recorded result" if recorded else "Result"
    what = f" of skill {skill(source['skill'])}" if source["skill"] else ""
    yield Line(f"{lead}{what}, model: {model(source['model'])}", "title")
    if source["recorded_skill_differs"]:
        tree = source["tree_skill"] or {}
        yield Line(
            f"The skill in your tree ({tree.get('version') or 'no version'},"
            f" {short(tree.get('digest'))}) has no answers, so this says nothing about"
            " your edit.",
            "warning",
        )
        yield Line(
            "To measure it: MODEL=… with an API key; or `harness pending` and `harness import`;"
            " or --base-url."
        )
    rerun = source["grading"]["rerun"]
    if rerun is False:
        reason = source["grading"]["reason"]
        yield Line(
            "The executed verdicts are recorded ones, not run again here"
            + (f": {reason}" if reason else "."),
            "warning",
        )
    yield Line(scope(summary), "detail")


def scope(summary: Mapping[str, Any]) -> str:
    trials, source = summary["trials"], summary["provenance"]
    parts = [
        count(len(summary["cases"]), "case"),
        count(len(summary["arms"]), "arm"),
        f"{trials['answered']} of {count(trials['planned'], 'answer')}",
    ]
    if source["epochs"]:
        parts.insert(2, count(source["epochs"], "epoch"))
    if source["grading"]["cell"]:
        parts.append(f"run in {source['grading']['cell']}")
    return " · ".join(parts)


def beside(
    summary: Mapping[str, Any], comparison: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """What stands beside a lift: (label, number, text)."""
    length = comparison["length"]
    tokens = f", {ratio(length['tokens'])} in tokens" if length["tokens"] else ""
    tokens += " (estimated)" if tokens and length["tokens_estimated"] else ""
    yield "length", ratio(length["characters"]), f"in characters{tokens}"
    judged = comparison["judged"]
    if judged["value"] is not None:
        yield (
            "judged",
            points(judged["value"]),
            f"points, a second figure: {percent(judged['reference'])} → "
            f"{percent(judged['treatment'])}",
        )
    names = (comparison["reference"], comparison["treatment"])
    starts = {arm: summary["arms"][arm]["starts"] for arm in names}
    if any(entry["started"] + entry["failed"] for entry in starts.values()):
        yield "starts", "", ", ".join(f"{arm} {started(starts[arm])}" for arm in names)
    yield "per answer", "", "; ".join(f"{arm} {usage(summary['arms'][arm])}" for arm in names)
    for entry in comparison["sensitivity"]:
        yield (
            "otherwise",
            points(entry["value"]),
            f"points, answers that failed as a whole {entry['outright_failures']}",
        )


def started(entry: Mapping[str, Any]) -> str:
    known = entry["started"] + entry["failed"]
    unknown = f" ({entry['unknown']} unknown)" if entry["unknown"] else ""
    return f"{entry['started']} of {known}{unknown}"


def usage(arm: Mapping[str, Any]) -> str:
    """Tokens, time and cost of one answer on average, as far as they are known."""
    tokens, parts = arm["tokens"], []
    if tokens["known"]:
        sign = "~" if tokens["estimated"] else ""
        parts.append(f"{sign}{compact(tokens['output'] / tokens['known'])} tokens")
    elif arm["characters"]["known"]:
        parts.append(f"{compact(arm['characters']['mean'])} characters")
    if arm["seconds"]["known"]:
        parts.append(f"{arm['seconds']['mean']:.0f} s")
    cost = arm["cost"]
    if cost["usd"] is not None and cost["answers"]:
        parts.append(f"${cost['usd'] / cost['answers']:.3f}")
    return ", ".join(parts) or "unknown"


def notes(summary: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What is missing or needs caution: (title, lines), the gravest first."""
    trials = summary["trials"]
    if trials["missing"]:
        yield "Missing", [_named(trials["missing"], "answer")]
    if trials["stale"]:
        yield "Stale", [_named(trials["stale"], "answer") + " (left out)"]
    if summary["not_graded"]:
        yield (
            "Not graded",
            [
                f"{count(entry['verdicts'], 'verdict')}: {entry['reason']}"
                f" ({_some(entry['criteria'])})"
                for entry in summary["not_graded"]
            ],
        )
    if summary["unlisted_verdicts"]:
        yield "Unlisted", [f"{count(summary['unlisted_verdicts'], 'verdict')} on other criteria"]
    cautions = list(dict.fromkeys(text for lift in summary["lifts"] for text in lift["warnings"]))
    if cautions:
        yield "Caution", cautions


def ascii_only(text: str) -> str:
    """For a terminal or a file that takes no other letters."""
    return text.translate(_PLAIN).encode("ascii", "replace").decode()


def _named(names: list[str], noun: str) -> str:
    return f"{count(len(names), noun)}: {_some(names, 6)}"


def _some(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
