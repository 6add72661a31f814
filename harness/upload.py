"""Puts the skill into a workspace through the Skills API, which is generally available: the SDK's
``client.skills``, no beta header."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import UserError
from harness.skills import load_skill
from harness.validation import validate

if TYPE_CHECKING:
    from anthropic import Anthropic

PAGE_SIZE = 100
"""Skills asked for at a time; the API's default of 20 means more round trips."""


class Uploaded(NamedTuple):
    """What the API made of the upload."""

    skill_id: str
    version: str
    """Id of the version, to pin it in a request."""
    created: bool
    """False if it is a new version of a skill that was there."""


def upload(skill_dir: Path, client: Anthropic, skill_id: str | None = None) -> Uploaded:
    """Creates the skill, or a new version if the workspace has one with its display name.

    `skill_id` names the skill instead of searching for it. Raises UserError if the skill has
    errors (nothing is sent then), if several skills bear its name, or if the API refuses.
    """
    from anthropic import APIConnectionError, APIError, APIStatusError

    errors = [finding for finding in validate(skill_dir) if finding.level == "error"]
    if errors:
        raise UserError("\n".join(f"{error.where}: {error.message}" for error in errors))
    skill = load_skill(skill_dir)
    files = [
        (
            f"{skill.name}/{path}",
            content,
            mimetypes.guess_type(path)[0] or "application/octet-stream",
        )
        for path, content in skill.files.items()
    ]
    try:
        skill_id = skill_id or _find(skill.name, client)
        if skill_id is not None:
            version = client.skills.versions.create(skill_id, files=files)
            return Uploaded(skill_id, version.id, created=False)
        # Not repeated by the SDK: after a lost answer the skill may exist, and names need not be
        # unique, so a second try could leave two. The next `upload` finds what the first made.
        once = client.with_options(max_retries=0)
        made = once.skills.create(files=files, display_name=skill.name)
        return Uploaded(made.id, made.latest_version_id, created=True)
    except APIStatusError as error:
        raise UserError(f"upload of {skill_dir}: {error.status_code}: {error.message}") from None
    except APIConnectionError as error:
        reason = f"{error.message.rstrip('.')} ({client.base_url})"
        raise UserError(
            f"upload of {skill_dir}: {reason}; run it again: it looks for the skill before it "
            "creates one"
        ) from None
    except TypeError as error:
        if "authentication method" not in str(error):
            raise
        # What the SDK raises when it comes to the first request without any credential.
        raise UserError("upload: no API key; set ANTHROPIC_API_KEY") from None
    except APIError as error:
        raise UserError(f"upload of {skill_dir}: {error.message}") from None


def _find(name: str, client: Anthropic) -> str | None:
    """Id of the workspace's own skill with this display name; None if there is none."""
    listed = client.skills.list(source="custom", limit=PAGE_SIZE)
    found = [skill.id for skill in listed if skill.display_name == name]
    if len(found) > 1:
        raise UserError(
            f"{len(found)} skills are called {name}: {', '.join(found)}; delete all but one"
        )
    return found[0] if found else None
