"""A model that answers from a recorded run: the stored response of the same request, or none."""

from __future__ import annotations

from harness.models.base import ModelError
from harness.records import Request, Response
from harness.store import Run


class Replay:
    """Answers by digest. A request that was changed since has another digest, so no answer."""

    def __init__(self, recording: Run) -> None:
        self.name = f"recording {recording.folder.name}"
        self._recording = recording

    async def respond(self, request: Request) -> Response:
        response = self._recording.response(request.digest)
        if response is None:
            raise ModelError("not_recorded", f"{self.name} has no answer to this request")
        return response
