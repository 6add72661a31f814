"""The upload, made by the real SDK against a local server that plays the Skills API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from anthropic import Anthropic

from harness.errors import UserError
from harness.upload import upload

WHEN = "2026-01-02T03:04:05Z"


def skill_json(id: str, name: str) -> dict[str, str]:
    return {
        "id": id,
        "type": "skill",
        "display_name": name,
        "latest_version_id": f"{id}-v1",
        "source": "custom",
        "created_at": WHEN,
        "updated_at": WHEN,
    }


class SkillsAPI(ThreadingHTTPServer):
    """Holds skills in pages of two, and every request that came; `fail` is answered instead."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.skills: list[dict[str, str]] = []
        self.requests: list[tuple[str, str, dict[str, str], dict[str, bytes]]] = []
        self.fail: dict[str, tuple[int, str]] = {}


class Handler(BaseHTTPRequestHandler):
    server: SkillsAPI

    def do_GET(self) -> None:
        self.respond("GET", {})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = {}
        for part in BytesParser().parsebytes(head + raw).get_payload():
            field = part.get_param("name", header="content-disposition")
            parts[part.get_filename() or field] = part.get_payload(decode=True)
        self.respond("POST", parts)

    def respond(self, method: str, parts: dict[str, bytes]) -> None:
        url = urlsplit(self.path)
        self.server.requests.append((method, url.path, dict(self.headers), parts))
        if method in self.server.fail:
            status, message = self.server.fail[method]
            error = {"type": "invalid_request_error", "message": message}
            self.send(status, {"type": "error", "error": error})
        elif method == "GET":
            start = int(parse_qs(url.query).get("page", ["0"])[0])
            page = self.server.skills[start : start + 2]
            more = start + 2 < len(self.server.skills)
            self.send(200, {"data": page, "next_page": str(start + 2) if more else None})
        elif url.path == "/v1/skills":
            self.send(200, skill_json("skill_new", parts["display_name"].decode()))
        else:
            made = {"id": "version_2", "type": "skill_version", "skill_id": url.path.split("/")[3]}
            self.send(200, {**made, "name": "demo", "description": "x", "created_at": WHEN})

    def send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[SkillsAPI]:
    server = SkillsAPI()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(api: SkillsAPI) -> Anthropic:
    return Anthropic(api_key="test", base_url=f"http://127.0.0.1:{api.server_port}", max_retries=2)


def test_a_skill_that_is_not_there_is_created(skill, api, client):
    assert upload(skill(), client) == ("skill_new", "skill_new-v1", True)
    (method, path, headers, parts) = api.requests[-1]
    assert (method, path) == ("POST", "/v1/skills")
    assert "anthropic-beta" not in {name.lower() for name in headers}
    assert parts.pop("display_name") == b"demo"
    assert set(parts) == {
        "demo/SKILL.md",
        "demo/LICENSE.txt",
        "demo/references/how.md",
        "demo/scripts/hi.sh",
    }
    assert parts["demo/scripts/hi.sh"] == b"#!/bin/sh\necho hi\n"


def test_a_skill_on_a_later_page_gets_a_new_version(skill, api, client):
    api.skills = [skill_json(f"skill_{n}", f"other-{n}") for n in range(4)]
    api.skills.append(skill_json("skill_old", "demo"))
    assert upload(skill(), client) == ("skill_old", "version_2", False)
    (method, path, _, parts) = api.requests[-1]
    assert (method, path) == ("POST", "/v1/skills/skill_old/versions")
    assert "demo/SKILL.md" in parts


def test_stray_files_are_not_sent(skill, api, client):
    upload(skill({".env": "SECRET=1", "__pycache__/x.pyc": b""}), client)
    assert not [name for name in api.requests[-1][3] if "env" in name or "pyc" in name]


def test_two_skills_of_that_name_are_refused_and_nothing_is_sent(skill, api, client):
    api.skills = [skill_json("skill_a", "demo"), skill_json("skill_b", "demo")]
    with pytest.raises(UserError, match="skill_a, skill_b"):
        upload(skill(), client)
    assert [method for method, *_ in api.requests] == ["GET"]


def test_a_named_skill_is_not_searched_for(skill, api, client):
    assert upload(skill(), client, "skill_b") == ("skill_b", "version_2", False)
    assert [method for method, *_ in api.requests] == ["POST"]


def test_a_skill_with_errors_is_refused_before_anything_is_sent(skill, api, client):
    with pytest.raises(UserError, match=r"SKILL\.md: is missing"):
        upload(skill({"SKILL.md": None}), client)
    assert api.requests == []


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_the_api_refuses_is_passed_on(skill, api, client, method):
    api.fail[method] = (400, "workspace is read-only")
    with pytest.raises(UserError, match=r"400: .*workspace is read-only"):
        upload(skill(), client)


def test_a_creation_whose_outcome_is_unknown_is_not_repeated(skill, api, client):
    api.fail["POST"] = (500, "half done")
    with pytest.raises(UserError, match="500"):
        upload(skill(), client)
    assert [method for method, *_ in api.requests] == ["GET", "POST"]


def test_a_server_that_is_not_there_is_one_message(skill, api):
    gone = Anthropic(api_key="test", base_url="http://127.0.0.1:9", max_retries=0)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        upload(skill(), gone)


def test_a_missing_key_is_one_message(skill, api, monkeypatch, tmp_path):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # the SDK also looks for a login there
    with pytest.raises(UserError, match="set ANTHROPIC_API_KEY"):
        upload(skill(), Anthropic(base_url=f"http://127.0.0.1:{api.server_port}"))
    assert api.requests == []
