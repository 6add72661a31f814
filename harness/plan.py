"""Stage one: what to ask. Turns cases, arms and epochs into trials with their requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.cases import Case, Suite
from harness.records import PlannedTrial, Request, Trial
from harness.skills import Skill, inline_text

MAX_TOKENS = 32_000
"""Length limit of an answer, the same in every arm: twice what 64 KB of text take."""

SYSTEM = (
    "You answer one request of an engineer or a business. There is no second turn and you have"
    " no tools. The files in your answer are saved and run as they are."
)

SKILL_PREAMBLE = (
    "A skill is installed that applies to this request. Follow it. Its files are given below,"
    " each under its path."
)


def make(
    suite: Suite,
    cases: Iterable[Case],
    arms: Mapping[str, Skill | None],
    *,
    model: str,
    epochs: int,
    max_tokens: int = MAX_TOKENS,
    effort: str | None = None,
) -> list[PlannedTrial]:
    """Every case x arm x epoch with its request.

    Arms of one case and epoch stand side by side, so that a run that ends early has pairs.
    The text of a request differs between arms by the skill alone.
    """
    planned = []
    for case in cases:
        user = user_text(case, suite)
        for epoch in range(1, epochs + 1):
            for arm, skill in arms.items():
                request = Request(
                    model=model,
                    system=system_text(skill),
                    messages=({"role": "user", "content": user},),
                    max_tokens=max_tokens,
                    epoch=epoch,
                    effort=effort,
                )
                planned.append(PlannedTrial(Trial(case.id, arm, epoch), request))
    return planned


def system_text(skill: Skill | None) -> str:
    """The system prompt of an arm; `inline` delivery puts every file of the skill into it."""
    if skill is None:
        return SYSTEM
    return f"{SYSTEM}\n\n{SKILL_PREAMBLE}\n\n{inline_text(skill)}"


def user_text(case: Case, suite: Suite) -> str:
    """The user's message: the prompt, then contract, environment and answer format."""
    parts = [case.prompt.strip()]
    if case.openapi is not None:
        parts.append(f"# Contract\n\n```yaml\n{case.openapi.strip()}\n```")
    if case.runtime is not None:
        parts.append(f"# Environment\n\n{case.runtime.environment.strip()}")
        parts.append(f"# Answer format\n\n{suite.answer_format.strip()}")
    return "\n\n".join(parts) + "\n"
