"""Checks of agency-time. Each class is a group, with a cell, a service and data of its own.

harness check agency-time evals/references/agency-time/good
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from harness.checks import Service, at_once, config, eventually, health, logs, metrics
from harness.checks.idempotency import assert_conflict, assert_one_effect, assert_replay
from harness.checks.tokens import forgeries, sign

SECRET = "the-key-of-a-test-run-0123456789-abcdef"
ISSUER, AUDIENCE = "https://login.agency.example", "agency-time"
MARCH = "2026-03-02"

CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    412: "stale",
    413: "too_large",
    422: "key_reused",
    428: "precondition_required",
}


def claims(tenant: str, sub: str, role: str) -> dict[str, Any]:
    now = int(time.time())
    names = {"sub": sub, "tenant": tenant, "role": role, "iss": ISSUER, "aud": AUDIENCE}
    return {**names, "iat": now, "exp": now + 3600}


class Person:
    """One caller: a person in a tenant, with a role and a token."""

    def __init__(self, service: Service, tenant: str, sub: str, role: str) -> None:
        self.service, self.tenant, self.sub, self.role = service, tenant, sub, role
        self.token = sign(claims(tenant, sub, role), SECRET)

    def call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return self.service.http.request(method, path, headers=sent, **options)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.call("GET", path, params=query)

    def new_project(self, name: str = "Website", rate: str = "90.00") -> dict[str, Any]:
        body = {"name": name, "hourly_rate": rate}
        return good(self.call("POST", "/v1/projects", json=body), 201, "creating a project")

    def send_entry(
        self, project: str, body: Any = None, key: str | None = None, **options: Any
    ) -> httpx.Response:
        if "content" not in options:
            options["json"] = {"date": MARCH, "minutes": 30} if body is None else body
        headers = {"Idempotency-Key": key or uuid4().hex, "Content-Type": "application/json"}
        path = f"/v1/projects/{project}/entries"
        return self.call("POST", path, headers=headers, **options)

    def log(self, project: str, date: str = MARCH, minutes: int = 30, note: str = "") -> Any:
        body = {"date": date, "minutes": minutes, "note": note}
        return good(self.send_entry(project, body), 201, "logging time")

    def patch(self, entry: str, etag: str | None, body: Any) -> httpx.Response:
        headers = {"If-Match": etag} if etag else {}
        return self.call("PATCH", f"/v1/entries/{entry}", headers=headers, json=body)

    def etag(self, entry: str) -> str:
        response = self.get(f"/v1/entries/{entry}")
        good(response, 200, "reading an entry")
        assert "etag" in response.headers, "GET /v1/entries/{id} gives no ETag"
        return response.headers["etag"]

    def entries(self, **query: Any) -> list[dict[str, Any]]:
        page = good(self.get("/v1/entries", **query), 200, "listing entries")
        items: list[dict[str, Any]] = page["items"]
        return items

    def report(self, month: str = "2026-03") -> Any:
        return good(self.get("/v1/reports/monthly", month=month), 200, "the monthly report")


def core(entry: dict[str, Any]) -> dict[str, Any]:
    """The contract's fields of an entry."""
    names = ("id", "project_id", "user_id", "date", "minutes", "note")
    return {name: entry.get(name) for name in names}


def good(response: httpx.Response, status: int, what: str) -> Any:
    assert response.status_code == status, (
        f"{what} gave {response.status_code}, wanted {status}: {response.text[:160]!r}"
    )
    return response.json()


class Agency:
    """A tenant nobody else uses."""

    def __init__(self, service: Service) -> None:
        self.tenant = f"agency-{uuid4().hex[:10]}"
        self.owner = Person(service, self.tenant, "olga", "owner")
        self.member = Person(service, self.tenant, "mia", "member")
        self.viewer = Person(service, self.tenant, "vic", "viewer")


@pytest.fixture(scope="class")
def environment() -> dict[str, str]:
    return {"JWT_SECRET": SECRET}


@pytest.fixture
def agency(service: Service) -> Agency:
    return Agency(service)


@pytest.fixture
def other(service: Service) -> Agency:
    return Agency(service)


def wrong_ones(tried: Iterator[tuple[str, httpx.Response, int]]) -> str:
    """What was answered otherwise than wanted, for a person to read."""
    wrong = [
        f"{what} gave {response.status_code}, wanted {status}"
        for what, response, status in tried
        if response.status_code != status
    ]
    more = f" (and {len(wrong) - 4} more)" if len(wrong) > 4 else ""
    return "; ".join(wrong[:4]) + more


class TestContract:
    @pytest.mark.criterion("api.contract")
    def test_projects(self, agency: Agency) -> None:
        made = agency.owner.new_project("Website", "87.50")
        assert isinstance(made["id"], str), f"the id of a project is no string: {made}"
        wanted = {"name": "Website", "hourly_rate": "87.50"}
        assert made.items() >= wanted.items(), f"a new project is {made}, wanted {wanted}"
        agency.owner.new_project("Annual report", "9.00")
        listed = good(agency.owner.get("/v1/projects"), 200, "listing projects")["items"]
        found = [(project["name"], project["hourly_rate"]) for project in listed]
        by_name = [("Annual report", "9.00"), ("Website", "87.50")]
        assert found == by_name, f"the projects are listed as {found}, wanted {by_name}"

    @pytest.mark.criterion("api.contract")
    def test_an_entry_from_log_to_edit(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        response = agency.member.send_entry(project, {"date": MARCH, "minutes": 45})
        entry = good(response, 201, "logging time")
        wanted = {"project_id": project, "user_id": "mia", "date": MARCH, "minutes": 45, "note": ""}
        for name, value in wanted.items():
            assert entry.get(name) == value, f"{name} is {entry.get(name)!r}, wanted {value!r}"
        first = response.headers.get("etag")
        assert first, "POST of an entry gives no ETag"
        assert agency.member.etag(entry["id"]) == first, "GET gives another ETag than the POST did"
        response = agency.member.patch(entry["id"], first, {"note": "call with client"})
        changed = good(response, 200, "PATCH with the present ETag")
        wanted["note"] = "call with client"
        assert core(changed) == {**wanted, "id": entry["id"]}, f"PATCH of note gave {changed}"
        second = response.headers.get("etag")
        assert second and second != first, f"after the edit the ETag is {second!r}, was {first!r}"
        read = good(agency.member.get(f"/v1/entries/{entry['id']}"), 200, "reading an entry")
        assert core(read) == core(changed), f"after the PATCH a GET gives {read}"

    @pytest.mark.criterion("api.contract")
    def test_statuses_of_an_edit(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.owner.log(project)["id"]
        seen = agency.owner.etag(entry)
        good(agency.owner.patch(entry, seen, {"minutes": 31}), 200, "PATCH")
        stale = agency.owner.patch(entry, seen, {"minutes": 32}).status_code
        assert stale == 412, f"PATCH with a stale ETag gave {stale}, the contract says 412"
        without = agency.owner.patch(entry, None, {"minutes": 33}).status_code
        assert without == 428, f"PATCH without If-Match gave {without}, the contract says 428"
        now = good(agency.owner.get(f"/v1/entries/{entry}"), 200, "GET")["minutes"]
        assert now == 31, f"after two refused edits the entry has {now} minutes, wanted 31"

    @pytest.mark.criterion("api.contract")
    def test_unknown_things_and_methods(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.owner.log(project)["id"]
        call = agency.owner.call
        key = {"Idempotency-Key": "k"}
        body = {"date": MARCH, "minutes": 1}
        unknown = "/v1/projects/nobody-made-it/entries"

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            yield "GET of an unknown entry", call("GET", "/v1/entries/nobody-made-it"), 404
            made = agency.owner.patch("nobody-made-it", '"1"', {"minutes": 2})
            yield "PATCH of an unknown entry", made, 404
            yield "POST to an unknown project", call("POST", unknown, headers=key, json=body), 404
            yield "GET of an unknown path", call("GET", "/v1/nothing-here"), 404
            yield "PUT of an entry", call("PUT", f"/v1/entries/{entry}", json=body), 405
            yield "DELETE of the projects", call("DELETE", "/v1/projects"), 405

        wrong = wrong_ones(tried())
        assert not wrong, wrong

    @pytest.mark.criterion("api.errors")
    def test_every_error_has_the_body(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        entry = owner.log(project)["id"]
        seen = owner.etag(entry)
        good(owner.patch(entry, seen, {"minutes": 31}), 200, "PATCH")
        owner.send_entry(project, {"date": MARCH, "minutes": 1}, "once")
        anonymous = {"Authorization": ""}
        tried = {
            "malformed JSON": owner.send_entry(project, content=b'{"date":'),
            "a missing field": owner.send_entry(project, {"minutes": 1}),
            "a wrong query": owner.get("/v1/entries", limit="many"),
            "no token": owner.call("GET", "/v1/projects", headers=anonymous),
            "a viewer's report": agency.viewer.get("/v1/reports/monthly", month="2026-03"),
            "an unknown entry": owner.get("/v1/entries/nobody-made-it"),
            "an unknown path": owner.get("/v1/nothing-here"),
            "an unknown method": owner.call("DELETE", "/v1/projects"),
            "a stale edit": owner.patch(entry, seen, {"minutes": 32}),
            "an edit without If-Match": owner.patch(entry, None, {"minutes": 32}),
            "a key used again": owner.send_entry(project, {"date": MARCH, "minutes": 2}, "once"),
        }
        for what, response in tried.items():
            if response.status_code < 400:
                continue  # wrongly let through: what that breaks is another criterion's
            told = f"{what} ({response.status_code}): {response.text[:120]!r}"
            try:
                error = response.json()["error"]
                code, message = error["code"], error["message"]
            except (ValueError, KeyError, TypeError):
                raise AssertionError(f"not the contract's error body: {told}") from None
            assert isinstance(message, str) and message, f"no message: {told}"
            wanted = CODES.get(response.status_code, code)
            assert code == wanted, f"code {code!r}, wanted {wanted!r}: {told}"

    @pytest.mark.criterion("api.validation")
    def test_bad_entries(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        fine = {"date": MARCH, "minutes": 30}
        bodies: list[Any] = [[], "text", [fine], {}, {"date": MARCH}, {"minutes": 30}]
        bodies += [{**fine, "minutes": m} for m in (0, -5, 1441, 1.5, "30", True, None, [30])]
        dates = ("2026-02-30", "2026-3-2", "02.03.2026", "20260302", f"{MARCH}T00:00:00", "")
        bodies += [{**fine, "date": date} for date in (*dates, 20260302, None)]
        bodies += [{**fine, "note": note} for note in ("x" * 501, 7, None, ["x"])]
        raw = {
            "half a JSON": b'{"date": "2026-03-02", "minutes": 3',
            "an empty body": b"",
            "NaN minutes": b'{"date": "2026-03-02", "minutes": NaN}',
            "infinite minutes": b'{"date": "2026-03-02", "minutes": 1e999}',
            "bytes that are no UTF-8": b'{"date": "2026-03-02", "minutes": 3, "note": "\xff\xfe"}',
            "60,000 opening brackets": b"[" * 60_000,
        }

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            for body in bodies:
                yield f"entry {json.dumps(body)[:70]}", owner.send_entry(project, body), 400
            for what, content in raw.items():
                yield what, owner.send_entry(project, content=content), 400
            path = f"/v1/projects/{project}/entries"
            yield "no Idempotency-Key", owner.call("POST", path, json=fine), 400
            yield "a key of 101 characters", owner.send_entry(project, fine, "k" * 101), 400

        wrong = wrong_ones(tried())
        assert not wrong, wrong
        left = owner.entries()
        assert not left, f"a refused entry was stored: {left[0]}"

    @pytest.mark.criterion("api.validation")
    def test_odd_text_is_no_crash(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        for what, text in (("a lone surrogate", r"\ud800"), ("a NUL", r"\u0000")):
            content = f'{{"date": "{MARCH}", "minutes": 3, "note": "{text}"}}'.encode()
            status = owner.send_entry(project, content=content).status_code
            assert status in (201, 400), f"{what} in the note gave {status}, wanted 201 or 400"
        status = owner.get("/v1/entries/%00%ff").status_code
        assert status in (400, 404), f"an odd id gave {status}, wanted 404"

    @pytest.mark.criterion("api.validation")
    def test_bad_edits(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        entry = owner.log(project)["id"]
        etag = owner.etag(entry)
        bodies: list[Any] = [{}, [], {"minutes": 0}, {"minutes": "5"}, {"date": "2026-02-30"}]
        bodies += [{"note": None}, {"minutes": None}, {"note": "x" * 501}]
        wrong = wrong_ones((f"PATCH {b}", owner.patch(entry, etag, b), 400) for b in bodies)
        assert not wrong, wrong

    @pytest.mark.criterion("api.validation")
    def test_bad_projects_and_queries(self, agency: Agency) -> None:
        owner = agency.owner
        fine = {"name": "Website", "hourly_rate": "90.00"}
        rates = (90, 87.5, "87.5", "87.505", "-1.00", "NaN", "1e3", "12345.00", " 9.00")
        bodies: list[Any] = [{**fine, "hourly_rate": rate} for rate in (*rates, "９.００", None)]
        bodies += [{**fine, "name": name} for name in ("", "x" * 101, 5, None)]
        bodies += [{"name": "Website"}, {"hourly_rate": "90.00"}, []]
        lists: list[dict[str, str]] = [{"limit": limit} for limit in ("0", "101", "-1", "many")]
        lists += [{"from": "2026-13-01"}, {"to": "tomorrow"}, {"cursor": "!!!"}]
        lists += [{"cursor": "bm9ib2R5J3M"}, {"cursor": "W10="}, {"cursor": "é"}]
        months = [{}, {"month": "2026-13"}, {"month": "2026-3"}, {"month": "2026-03-01"}]

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            for body in bodies:
                made = owner.call("POST", "/v1/projects", json=body)
                yield f"project {json.dumps(body)[:70]}", made, 400
            for query in lists:
                yield f"list with {query}", owner.get("/v1/entries", **query), 400
            for query in months:
                yield f"report with {query}", owner.get("/v1/reports/monthly", **query), 400

        wrong = wrong_ones(tried())
        assert not wrong, wrong

    @pytest.mark.criterion("api.validation")
    def test_what_is_allowed_is_taken(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project("N" * 100, "0.00")["id"]
        owner.new_project("x", "9999.99")
        for minutes, note in ((1, ""), (1440, "x" * 500), (60, "Grüße, 会議 🚀 'quoted'; --")):
            entry = owner.log(project, "2024-02-29", minutes, note)
            assert entry["note"] == note, f"a note came back as {entry['note']!r}, was {note!r}"
        owner.send_entry(project, key="k" * 100)
        good(owner.get("/v1/entries", limit=100), 200, "a list with limit=100")

    @pytest.mark.criterion("api.validation")
    def test_a_large_body(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        large = json.dumps({"date": MARCH, "minutes": 3, "note": "x" * 200_000}).encode()

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(large), 20_000):
                yield large[start : start + 20_000]

        status = owner.send_entry(project, content=large).status_code
        assert status == 413, f"a body of 200 KB gave {status}, wanted 413"
        status = owner.send_entry(project, content=pieces()).status_code
        # 411: a server that takes no body of unknown length is safe as well.
        assert status in (413, 411), f"200 KB in chunks gave {status}, wanted 413"


class TestWho:
    @pytest.mark.criterion("authn.tokens")
    def test_only_good_tokens(self, agency: Agency, service: Service) -> None:
        mine = claims(agency.tenant, "olga", "owner")
        path = "/v1/projects"
        tokens = forgeries(mine, SECRET, role="owner", tenant=agency.tenant)
        tokens.pop("not valid yet", None)
        for name in ("sub", "tenant", "role", "exp", "iss", "aud"):
            tokens[f"without {name}"] = sign({k: v for k, v in mine.items() if k != name}, SECRET)
        for name, value in (
            *(("iss", "https://login.evil.example"), ("aud", "agency-mail"), ("role", "admin")),
            *(("role", ""), ("sub", ""), ("tenant", ""), ("tenant", 7), ("role", ["owner"])),
        ):
            tokens[f"with {name} {value!r}"] = sign({**mine, name: value}, SECRET)
        tokens["signed as HS512"] = sign(mine, SECRET, "HS512")
        headers = {f"a token {what}": f"Bearer {token}" for what, token in tokens.items()}
        headers |= {"an empty Authorization": "", "Bearer alone": "Bearer"}
        headers["Basic"] = "Basic b2xnYTpvbGdh"

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            yield "no Authorization", service.http.get(path), 401
            for what, value in headers.items():
                yield what, service.http.get(path, headers={"Authorization": value}), 401

        good(agency.owner.get(path), 200, "a good token")
        wrong = wrong_ones(tried())
        assert not wrong, wrong

    @pytest.mark.criterion("authn.tokens")
    def test_every_operation_asks(self, agency: Agency, service: Service) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.owner.log(project)["id"]
        body = {"date": MARCH, "minutes": 30}
        calls = {
            ("POST", "/v1/projects"): {"json": {"name": "x", "hourly_rate": "1.00"}},
            ("GET", "/v1/projects"): {},
            ("POST", f"/v1/projects/{project}/entries"): {
                "json": body,
                "headers": {"Idempotency-Key": "k"},
            },
            ("GET", f"/v1/entries/{entry}"): {},
            ("PATCH", f"/v1/entries/{entry}"): {
                "json": {"minutes": 31},
                "headers": {"If-Match": agency.owner.etag(entry)},
            },
            ("GET", "/v1/entries"): {},
            ("GET", "/v1/reports/monthly?month=2026-03"): {},
        }
        wrong = wrong_ones(
            (f"{method} {path} without a token", service.http.request(method, path, **more), 401)
            for (method, path), more in calls.items()
        )
        assert not wrong, wrong

    @pytest.mark.criterion("authz.tenant")
    def test_ids_of_another_tenant_do_not_exist(self, agency: Agency, other: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.owner.log(project)
        etag = agency.owner.etag(entry["id"])
        nobody = uuid4().hex if len(entry["id"]) == 32 else str(uuid4())
        acts: dict[str, Callable[[Person, str, str], httpx.Response]] = {
            "GET of an entry": lambda who, e, p: who.get(f"/v1/entries/{e}"),
            "PATCH of an entry": lambda who, e, p: who.patch(e, etag, {"minutes": 1}),
            "PATCH with a stale ETag": lambda who, e, p: who.patch(e, '"stale"', {"minutes": 1}),
            "POST to a project": lambda who, e, p: who.send_entry(p),
        }
        for what, act in acts.items():
            for who in (other.owner, other.member):
                theirs, never = act(who, entry["id"], project), act(who, nobody, nobody)
                # An ETag that no version ever had may be refused before anything is looked up.
                wanted = (404, 412) if "stale" in what and never.status_code == 412 else (404,)
                assert theirs.status_code in wanted, (
                    f"{what} of another tenant as {who.role} gave {theirs.status_code}, wanted 404"
                )
                assert _shape(theirs, entry["id"], project) == _shape(never, nobody), (
                    f"{what} tells another tenant's id from one that never was: "
                    f"{theirs.text[:120]!r} and {never.text[:120]!r}"
                )
        read = good(other.viewer.get("/v1/entries"), 200, "listing")["items"]
        assert read == [], f"a viewer of another tenant sees {read}"
        now = good(agency.owner.get(f"/v1/entries/{entry['id']}"), 200, "GET")
        assert core(now) == core(entry), f"another tenant changed an entry: {now}"
        assert len(agency.owner.entries()) == 1, "another tenant logged time in this one"

    @pytest.mark.criterion("authz.tenant")
    def test_lists_and_reports_are_apart(self, agency: Agency, other: Agency) -> None:
        project = agency.owner.new_project("Secret merger")["id"]
        agency.owner.log(project)
        agency.member.log(project)
        own = other.owner.log(other.owner.new_project("Own work")["id"])["id"]
        queries: list[dict[str, str]] = [{}, {"project_id": project}, {"user_id": "mia"}]
        queries += [{"user_id": "olga"}, {"from": "2026-01-01", "to": "2026-12-31"}]
        queries += [{"project_id": project, "user_id": "olga"}, {"tenant": agency.tenant}]
        for who in (other.owner, other.member, other.viewer):
            for query in queries:
                ids = {entry["id"] for entry in who.entries(**query)}
                assert ids <= {own}, f"a {who.role} sees another tenant's entries with {query}"
            seen = who.get("/v1/projects").text
            assert "Secret merger" not in seen, f"a {who.role} sees another tenant's project"
        report = other.owner.report()
        assert report["minutes"] == 30, f"the report counts {report['minutes']} minutes, wanted 30"
        assert "Secret merger" not in json.dumps(report), (
            "the report shows another tenant's project"
        )

    @pytest.mark.criterion("authz.tenant")
    def test_a_cursor_opens_no_door(self, agency: Agency, other: Agency) -> None:
        project = agency.owner.new_project()["id"]
        for _ in range(4):
            agency.owner.log(project)
        page = good(agency.owner.get("/v1/entries", limit=2), 200, "listing")
        response = other.owner.get("/v1/entries", limit=2, cursor=page["next_cursor"])
        assert response.status_code in (200, 400, 404), f"gave {response.status_code}"
        if response.status_code == 200:
            found = response.json()["items"]
            assert not found, f"with another tenant's cursor its entries are read: {found[0]}"

    @pytest.mark.criterion("authz.tenant")
    def test_a_freelancer_in_two_agencies(
        self, agency: Agency, other: Agency, service: Service
    ) -> None:
        here = Person(service, agency.tenant, "fred", "member")
        there = Person(service, other.tenant, "fred", "member")
        project, elsewhere = (a.owner.new_project()["id"] for a in (agency, other))
        first = here.send_entry(project, {"date": MARCH, "minutes": 30}, "key-1")
        entry = good(first, 201, "logging time")["id"]
        assert there.entries() == [], "a freelancer sees in one agency what he did in another"
        status = there.get(f"/v1/entries/{entry}").status_code
        assert status == 404, f"reading the entry of the other agency gave {status}, wanted 404"
        response = there.send_entry(elsewhere, {"date": MARCH, "minutes": 30}, "key-1")
        second = good(response, 201, "the same key in another agency")
        assert second["id"] != entry and second["project_id"] == elsewhere, (
            f"the same key in another agency answers with that one's entry: {second}"
        )
        here.send_entry(project, {"date": MARCH, "minutes": 30}, "key-2")
        same_path = there.send_entry(project, {"date": MARCH, "minutes": 30}, "key-2").status_code
        assert same_path == 404, (
            f"the same key and path in another agency gave {same_path}, wanted 404"
        )

    @pytest.mark.criterion("authz.roles")
    def test_what_is_forbidden(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.member.log(project)["id"]
        etag = agency.member.etag(entry)
        body = {"name": "x", "hourly_rate": "1.00"}

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            for who in (agency.member, agency.viewer):
                made = who.call("POST", "/v1/projects", json=body)
                yield f"creating a project as {who.role}", made, 403
                seen = who.get("/v1/reports/monthly", month="2026-03")
                yield f"the report as {who.role}", seen, 403
            yield "logging time as viewer", agency.viewer.send_entry(project), 403
            yield "an edit as viewer", agency.viewer.patch(entry, etag, {"minutes": 1}), 403

        wrong = wrong_ones(tried())
        assert not wrong, wrong
        assert len(agency.owner.entries()) == 1, "a viewer logged time"
        assert agency.owner.entries()[0]["minutes"] == 30, "a viewer changed an entry"
        listed = good(agency.owner.get("/v1/projects"), 200, "listing projects")["items"]
        assert len(listed) == 1, "a project was made by someone who may not"

    @pytest.mark.criterion("authz.roles")
    def test_a_member_has_only_his_own(self, agency: Agency, service: Service) -> None:
        colleague = Person(service, agency.tenant, "max", "member")
        project = agency.owner.new_project()["id"]
        entry = colleague.log(project)["id"]
        etag = colleague.etag(entry)
        own = agency.member.log(project)["id"]

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            read = agency.member.get(f"/v1/entries/{entry}")
            yield "reading a colleague's entry as member", read, 404
            edit = agency.member.patch(entry, etag, {"minutes": 1})
            yield "editing a colleague's entry as member", edit, 404
            etag_of_own = agency.member.etag(own)
            yield "editing one's own", agency.member.patch(own, etag_of_own, {"minutes": 9}), 200

        wrong = wrong_ones(tried())
        assert not wrong, wrong
        for query in ({}, {"user_id": "max"}, {"project_id": project}):
            found = {item["user_id"] for item in agency.member.entries(**query)}
            assert found <= {"mia"}, f"a member's list with {query} shows entries of {found}"
        assert [item["id"] for item in agency.member.entries()] == [own], "own entry not listed"
        assert colleague.entries()[0]["minutes"] == 30, "a member changed a colleague's entry"

    @pytest.mark.criterion("authz.roles")
    def test_what_is_allowed(self, agency: Agency) -> None:
        project = agency.owner.new_project(rate="87.50")["id"]
        entry = agency.member.log(project)["id"]
        agency.owner.log(project)
        for who in (agency.owner, agency.viewer):
            found = sorted(item["user_id"] for item in who.entries())
            assert found == ["mia", "olga"], f"the {who.role} sees entries of {found}, wanted all"
            good(who.get(f"/v1/entries/{entry}"), 200, f"reading a member's entry as {who.role}")
        etag = agency.owner.etag(entry)
        edited = good(agency.owner.patch(entry, etag, {"minutes": 31}), 200, "the owner's edit")
        assert edited["user_id"] == "mia", f"the owner's edit gave it to {edited['user_id']}"
        rates = {
            who.role: good(who.get("/v1/projects"), 200, "listing projects")["items"][0].get(
                "hourly_rate", "nothing"
            )
            for who in (agency.owner, agency.member, agency.viewer)
        }
        wanted = {"owner": "87.50", "member": None, "viewer": None}
        assert rates == wanted, f"the hourly rate is shown as {rates}, wanted {wanted}"

    @pytest.mark.criterion("authz.mass_assignment")
    def test_a_body_cannot_choose_whose(self, agency: Agency, other: Agency) -> None:
        project = agency.owner.new_project()["id"]
        elsewhere = other.owner.new_project()["id"]
        entry = agency.member.log(project)
        etag = agency.member.etag(entry["id"])
        extras: list[dict[str, Any]] = [{"user_id": "olga"}, {"sub": "olga"}, {"role": "owner"}]
        extras += [{"tenant": other.tenant}, {"tenant_id": other.tenant}, {"id": "mine"}]
        extras += [{"project_id": elsewhere}, {"version": 7}]

        def tried() -> Iterator[tuple[str, httpx.Response, int]]:
            for extra in extras:
                name = next(iter(extra))
                body = {"date": MARCH, "minutes": 5, **extra}
                yield f"an entry with {name}", agency.member.send_entry(project, body), 400
                made = agency.member.patch(entry["id"], etag, {"minutes": 5, **extra})
                yield f"an edit with {name}", made, 400
            for name in ("tenant", "tenant_id", "id"):
                body = {"name": "x", "hourly_rate": "1.00", name: other.tenant}
                made = agency.owner.call("POST", "/v1/projects", json=body)
                yield f"a project with {name}", made, 400

        wrong = wrong_ones(tried())
        assert not wrong, wrong
        now = [core(item) for item in agency.owner.entries()]
        assert now == [core(entry)], f"a body with foreign fields had an effect: {now}"
        assert other.owner.entries() == [], "a body put an entry into another tenant"


def _shape(response: httpx.Response, *ids: str) -> Any:
    """The answer without what may differ: the id that was asked for, and ids of the request."""
    text = response.text
    for one in ids:
        text = text.replace(one, "ID")
    try:
        body = json.loads(text)
    except ValueError:
        return response.status_code, text
    if isinstance(body, dict):
        for inner in (body, body.get("error")):
            for name in ("request_id", "requestId", "timestamp", "trace_id"):
                if isinstance(inner, dict):
                    inner.pop(name, None)
    return response.status_code, body


class TestTwice:
    @pytest.mark.criterion("idempotency.replay")
    def test_the_same_again(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        body = {"date": MARCH, "minutes": 25, "note": "train"}
        first, _ = assert_replay(
            lambda: agency.member.send_entry(project, body, "train-1"),
            lambda: len(agency.member.entries()),
            statuses=[201],
            same=lambda r: (r.json(), r.headers.get("etag")),
        )
        entry, etag = first.json(), first.headers["etag"]
        good(agency.member.patch(entry["id"], etag, {"minutes": 20}), 200, "PATCH")
        spaced = b' {"note":"train",\n "minutes": 25,  "date": "2026-03-02"}'
        late = agency.member.send_entry(project, key="train-1", content=spaced)
        assert good(late, 201, "the same JSON again, after an edit") == entry, (
            f"after an edit the repeated request gave {late.text[:160]!r}, not the first answer"
        )
        assert late.headers.get("etag") == etag, "the repeated request gave another ETag"
        assert len(agency.member.entries()) == 1, "the repeated request made another entry"
        assert agency.member.entries()[0]["minutes"] == 20, "the repeated request undid an edit"

    @pytest.mark.criterion("idempotency.replay")
    def test_two_people_with_the_same_key(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        body = {"date": MARCH, "minutes": 25}
        for who in (agency.member, agency.owner):
            entry = good(who.send_entry(project, body, "1"), 201, f"key 1 of {who.sub}")
            assert entry["user_id"] == who.sub, f"{who.sub} got the entry of {entry['user_id']}"
        assert len(agency.owner.entries()) == 2, "two people with the same key made one entry"

    @pytest.mark.criterion("idempotency.concurrent")
    def test_the_same_at_once(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        for turn in range(3):
            body = {"date": MARCH, "minutes": 25 + turn}
            assert_one_effect(
                lambda _, key=f"lift-{turn}", body=body: agency.member.send_entry(  # type: ignore[misc]
                    project, body, key
                ),
                lambda: len(agency.member.entries()),
                n=10,
                statuses=[201],
                meanwhile=[],
                same=lambda r: (r.json(), r.headers.get("etag")),
            )

    @pytest.mark.criterion("idempotency.conflict")
    def test_a_key_with_something_else(self, agency: Agency) -> None:
        project, second = (agency.owner.new_project(name)["id"] for name in ("A", "B"))
        body = {"date": MARCH, "minutes": 25}
        good(agency.member.send_entry(project, body, "k"), 201, "logging time")
        for send in (
            lambda: agency.member.send_entry(project, {**body, "minutes": 26}, "k"),
            lambda: agency.member.send_entry(project, {**body, "note": "other"}, "k"),
            lambda: agency.member.send_entry(second, body, "k"),
        ):
            assert_conflict(send, lambda: len(agency.member.entries()), statuses=[422])

    @pytest.mark.criterion("data.concurrent_update")
    def test_one_of_many_editors_wins(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.member.log(project)["id"]
        for turn in range(6):
            etag = agency.owner.etag(entry)
            responses = at_once(
                8,
                lambda i, turn=turn, etag=etag: agency.owner.patch(  # type: ignore[misc]
                    entry, etag, {"minutes": 100 * turn + i + 1}
                ),
            )
            statuses = Counter(response.status_code for response in responses)
            won = [r.json()["minutes"] for r in responses if r.status_code == 200]
            assert len(won) == 1, f"8 edits of one version at once gave {dict(statuses)}"
            assert statuses[412] + statuses[409] == 7, f"8 edits at once gave {dict(statuses)}"
            now = good(agency.owner.get(f"/v1/entries/{entry}"), 200, "GET")["minutes"]
            assert now == won[0], f"the edit that was acknowledged is lost: {now}, not {won[0]}"

    @pytest.mark.criterion("data.concurrent_update")
    def test_two_editors_who_read_again_lose_nothing(self, agency: Agency) -> None:
        project = agency.owner.new_project()["id"]
        entry = agency.member.log(project, minutes=1)["id"]

        def add_five(who: Person) -> None:
            added, tries = 0, 0
            while added < 5:
                tries += 1
                assert tries < 200, f"an editor read again {tries} times and was always too late"
                response = who.get(f"/v1/entries/{entry}")
                minutes = good(response, 200, "GET")["minutes"] + 1
                edit = who.patch(entry, response.headers["etag"], {"minutes": minutes})
                added += edit.status_code == 200
                assert edit.status_code in (200, 412, 409), f"an edit gave {edit.status_code}"

        at_once(2, lambda i: add_five((agency.owner, agency.member)[i]))
        minutes = agency.owner.entries()[0]["minutes"]
        assert minutes == 11, f"two people added 10 minutes to 1, it is {minutes}: an edit was lost"


class TestListsAndStart:
    @pytest.mark.criterion("api.pagination")
    def test_each_comes_once_while_others_are_logged(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        days = ["2026-03-05", "2026-03-03", "2026-03-05", "2026-03-04", "2026-03-05", "2026-03-05"]
        logged = [owner.log(project, day, n + 1) for n, day in enumerate(days)]
        places = [(entry["date"], n) for n, entry in enumerate(logged)]
        wanted = [logged[n]["id"] for _, n in sorted(places, reverse=True)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        for _ in range(12):
            page = good(owner.get("/v1/entries", **query), 200, "a page")
            assert len(page["items"]) <= 2, f"a page of limit 2 has {len(page['items'])} entries"
            seen += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
            owner.log(project, "2026-03-06", 9)
            owner.log(project, "2026-03-05", 8)
        found = [one for one in seen if one in wanted]
        assert found == wanted, (
            f"six entries, read in pages while others were logged, came as "
            f"{[wanted.index(one) for one in found]}, wanted 0 to 5 in this order"
        )
        twice = [one for one, times in Counter(seen).items() if times > 1]
        assert not twice, "an entry came on two pages"

    @pytest.mark.criterion("api.pagination")
    def test_the_last_page_says_so(self, agency: Agency) -> None:
        owner, project = agency.owner, agency.owner.new_project()["id"]
        empty = good(owner.get("/v1/entries"), 200, "an empty list")
        assert empty == {"items": [], "next_cursor": None}, f"an empty list is {empty}"
        at_once(4, lambda _: [owner.log(project) for _ in range(13)])
        page = good(owner.get("/v1/entries"), 200, "a page")
        assert len(page["items"]) == 50, f"without a limit a page has {len(page['items'])}, not 50"
        rest = good(owner.get("/v1/entries", cursor=page["next_cursor"]), 200, "the second page")
        assert len(rest["items"]) == 2, f"the second page of 52 has {len(rest['items'])}, wanted 2"
        assert rest["next_cursor"] is None, "the last page has a next_cursor"
        whole = good(owner.get("/v1/entries", limit=52), 200, "a page of 52")
        assert whole["next_cursor"] is None, "a full page that is the last has a next_cursor"

    @pytest.mark.criterion("api.pagination")
    def test_filters_hold_on_every_page(self, agency: Agency) -> None:
        owner, member = agency.owner, agency.member
        mine, noise = (owner.new_project(name)["id"] for name in ("A", "B"))
        wanted = set()
        for day in range(1, 8):
            date = f"2026-03-{day:02d}"
            entry = member.log(mine, date)["id"]
            if 2 <= day <= 6:
                wanted.add(entry)
            owner.log(mine, date)
            member.log(noise, date)
        query: dict[str, Any] = {"project_id": mine, "user_id": "mia", "limit": 2}
        query |= {"from": "2026-03-02", "to": "2026-03-06"}
        seen: list[str] = []
        for _ in range(6):
            page = good(owner.get("/v1/entries", **query), 200, "a page")
            seen += [item["id"] for item in page["items"]]
            query["cursor"] = page["next_cursor"]
            if not page["next_cursor"]:
                break
        assert len(seen) == 5 and set(seen) == wanted, (
            f"five entries fit the filters (both dates included), the pages gave {len(seen)}, "
            f"{len(set(seen) & wanted)} of them right"
        )

    @pytest.mark.criterion("data.exact")
    def test_a_month_to_the_cent(self, agency: Agency) -> None:
        owner = agency.owner
        rates = {"Ads": "2.01", "Brand": "100.00", "Copy": "0.30", "Deck": "9999.99"}
        rates |= {"Empty": "50.00", "Fonts": "0.10"}
        ids = {name: owner.new_project(name, rate)["id"] for name, rate in rates.items()}
        minutes = {"Ads": [30], "Brand": [20, 20, 20], "Copy": [1], "Deck": [1440, 1440, 7]}
        minutes["Fonts"] = [6, 6, 6]
        for name, logged in minutes.items():
            for each in logged:
                (agency.member if each == 20 else owner).log(ids[name], "2026-03-31", each)
        owner.log(ids["Empty"], "2026-02-28", 60)
        owner.log(ids["Empty"], "2026-04-01", 60)
        report = owner.report("2026-03")
        # 2.01 × ½ = 1.005; 100.00 × 1; 0.30 / 60 = 0.005; 9999.99 × 2887 / 60; 0.10 × 0.3
        amounts = {"Ads": "1.01", "Brand": "100.00", "Copy": "0.01", "Deck": "481166.19"}
        amounts["Fonts"] = "0.03"
        found = {project["name"]: project["amount"] for project in report["projects"]}
        assert found == amounts, f"the projects' amounts are {found}, wanted {amounts}"
        order = [project["name"] for project in report["projects"]]
        assert order == sorted(order), f"the projects come as {order}, wanted them by name"
        assert report["amount"] == "481267.24", (
            f"the total is {report['amount']!r}, wanted '481267.24', the sum of the amounts"
        )
        total = sum(sum(logged) for logged in minutes.values())
        assert report["minutes"] == total, f"{report['minutes']} minutes, wanted {total}"
        assert report["month"] == "2026-03", f"the month is {report['month']!r}"

    @pytest.mark.criterion("data.exact")
    def test_an_empty_month_and_an_edited_one(self, agency: Agency) -> None:
        owner = agency.owner
        empty = owner.report("2031-01")
        figures = (empty["minutes"], empty["projects"])
        assert figures == (0, []), f"a month without time has {figures}"
        assert empty["amount"] == "0.00", f"a month without time costs {empty['amount']!r}"
        entry = owner.log(owner.new_project(rate="60.00")["id"], "2026-03-31", 10)["id"]
        changed = owner.patch(entry, owner.etag(entry), {"date": "2026-04-01", "minutes": 11})
        good(changed, 200, "PATCH")
        assert owner.report("2026-03")["amount"] == "0.00", "an entry that was moved still counts"
        assert owner.report("2026-04")["amount"] == "11.00", "an entry that was moved is missing"

    @pytest.mark.criterion("config.fails_early")
    def test_no_key_no_start(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        config.refuses_without(launch, environment, "JWT_SECRET")

    @pytest.mark.criterion("config.fails_early")
    def test_a_short_key_no_start(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        config.refuses_nonsense(launch, environment, "JWT_SECRET", "")
        config.refuses_nonsense(
            launch, environment, "JWT_SECRET", "only-31-bytes-are-here-12345678"
        )


class TestOperations:
    @pytest.mark.criterion("logs.structured")
    def test_log_lines_are_json(self, agency: Agency, service: Service) -> None:
        self._traffic(agency)
        logs.assert_structured(service)

    @pytest.mark.criterion("logs.request_id")
    def test_the_request_id_of_the_app(self, agency: Agency, service: Service) -> None:
        project = agency.owner.new_project()["id"]
        path = f"/v1/projects/{project}/entries"
        body = {"date": MARCH, "minutes": 5}
        key = {"Idempotency-Key": "k"}
        logs.assert_request_id(
            service, lambda h: agency.member.call("POST", path, headers={**h, **key}, json=body)
        )
        unknown = "/v1/entries/nobody-made-it"
        logs.assert_request_id(service, lambda h: agency.member.call("GET", unknown, headers=h))
        logs.assert_request_id(service, lambda h: service.http.get("/v1/projects", headers=h))
        logs.assert_makes_request_id(service, lambda: agency.member.get("/v1/projects"))

    @pytest.mark.criterion("logs.error_context")
    def test_who_was_turned_away_from_what(self, agency: Agency, service: Service) -> None:
        who = Person(service, agency.tenant, f"snoop-{uuid4().hex[:8]}", "viewer")
        mark = service.mark()
        status = who.get("/v1/reports/monthly", month="2026-03").status_code
        assert status == 403, f"the report as viewer gave {status}, wanted 403"

        def told() -> None:
            lines = [line.text for line in service.logs(mark) if who.sub in line.text]
            assert lines, "no log line names the sub that was turned away"
            lines = [line for line in lines if agency.tenant in line]
            assert lines, "the log names who was turned away, but not of which tenant"
            lines = [line for line in lines if re.search("report", line, re.IGNORECASE)]
            assert lines, "the log names who was turned away, but not from what"
            denial = r"403|denie|deny|forbid|refus|not.?allowed|permission|insufficient|reject|role"
            assert any(re.search(denial, line, re.IGNORECASE) for line in lines), (
                f"the log does not say that access was denied: {lines[0][:160]!r}"
            )

        eventually(told, 3.0)

    @pytest.mark.criterion("secrets.not_in_logs")
    def test_no_token_in_the_log(self, agency: Agency, service: Service) -> None:
        self._traffic(agency)
        expired = sign({**claims(agency.tenant, "olga", "owner"), "exp": 1_600_000_000}, SECRET)
        foreign = sign(claims(agency.tenant, "olga", "owner"), SECRET + "x")
        for token in (expired, foreign, "gibberish-that-is-no-token-at-all"):
            for header in (f"Bearer {token}", f"Token {token}", token):
                service.http.get("/v1/projects", headers={"Authorization": header})
        time.sleep(0.2)
        tokens = {
            "the token of an owner": agency.owner.token,
            "the token of a viewer": agency.viewer.token,
            "an expired token": expired,
            "a token with a wrong signature": foreign,
            "a malformed token": "gibberish-that-is-no-token-at-all",
            "the signature of a token": agency.owner.token.rpartition(".")[2],
            "JWT_SECRET": SECRET,
        }
        logs.assert_absent(service, tokens)

    @pytest.mark.criterion("metrics.move")
    def test_traffic_and_errors_per_operation(
        self, agency: Agency, service: Service, answer: Any
    ) -> None:
        project = agency.owner.new_project()["id"]
        ids = [agency.owner.log(project)["id"], uuid4().hex]

        def traffic() -> None:
            for _ in range(25):
                agency.owner.get("/v1/projects")

        def errors() -> None:
            for _ in range(25):
                agency.owner.get(f"/v1/entries/{ids[1]}")

        found = metrics.assert_moves(
            service, traffic, matching="project", by=25, what="25 lists of projects",
            files=answer.files,
        )  # fmt: skip
        found |= metrics.assert_moves(
            service, errors, matching="404|4xx|error|not_found|client", by=25,
            what="25 errors (404)", files=answer.files,
        )  # fmt: skip
        agency.owner.get(f"/v1/entries/{ids[0]}")
        samples = metrics.scrape(service, answer.files)
        named = [series for series in samples if any(one in series for one in ids)]
        assert not named, f"a metric is not per operation but per id: {named[0][:120]}"

    @pytest.mark.criterion("health.liveness_readiness")
    def test_alive_and_ready(self, service: Service, answer: Any) -> None:
        live, ready = health.assert_found(service, answer.files)
        health.assert_live(service, live)
        health.assert_ready(service, ready)

    def _traffic(self, agency: Agency) -> None:
        """Some of everything that can go right and wrong."""
        project = agency.owner.new_project()["id"]
        entry = agency.member.log(project)["id"]
        agency.owner.patch(entry, '"stale"', {"minutes": 3})
        agency.owner.send_entry(project, content=b"{")
        agency.owner.get("/v1/entries", limit="many")
        agency.viewer.send_entry(project)
        agency.viewer.get("/v1/reports/monthly", month="2026-03")
        agency.owner.get("/v1/nothing-here")
        agency.owner.report()
