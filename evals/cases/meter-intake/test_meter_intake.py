"""Checks of meter-intake: files of readings come in, fail in every way that they fail in the field,
and must be kept once, while billing is down and the process dies."""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from harness.checks import (
    Call,
    Fake,
    Reply,
    Service,
    at_once,
    config,
    eventually,
    faults,
    health,
    logs,
    metrics,
    upstream,
)

TOKEN = "bt-5e1f0c7a92d84b36"
NDJSON = "application/x-ndjson"
MAX_BODY = 8_000_000
START = datetime(2026, 3, 1, tzinfo=UTC)
QUARTERS = [(START + timedelta(minutes=15 * n)).strftime("%Y-%m-%dT%H:%M:%SZ") for n in range(96)]


# --- files, and how they are sent -------------------------------------------------------------


def record(meter: int, quarter: int, kwh: str = '"1.5"', **more: Any) -> str:
    """A good line: the reading of a meter in the n-th quarter of an hour of a day."""
    rest = "".join(f",{json.dumps(key)}:{json.dumps(value)}" for key, value in more.items())
    return f'{{"meter":"NL-{meter:07}","time":"{QUARTERS[quarter]}","kwh":{kwh}{rest}}}'


def many(count: int, meter: int = 1, **more: Any) -> bytes:
    """A file of different good readings, 96 to a meter."""
    lines = [record(meter + n // 96, n % 96, f'"{n}.25"', **more) for n in range(count)]
    return "\n".join(lines).encode() + b"\n"


def head(batch_id: str, headers: Mapping[str, str] | None = None) -> dict[str, str]:
    return {"Batch-Id": batch_id, "Content-Type": NDJSON, **(headers or {})}


def send(
    service: Service, batch_id: str, body: bytes, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    return service.http.post("/v1/batches", content=body, headers=head(batch_id, headers))


def push(
    service: Service, batch_id: str, body: bytes, headers: Mapping[str, str] | None = None
) -> httpx.Response:
    response = send(service, batch_id, body, headers)
    assert response.status_code == 202, (
        f"a good file got {response.status_code} {response.text[:160]!r}, wanted 202"
    )
    return response


def batch(service: Service, batch_id: str) -> dict[str, Any]:
    response = service.http.get(f"/v1/batches/{batch_id}")
    assert response.status_code == 200, (
        f"GET of an accepted batch gave {response.status_code} {response.text[:160]!r}"
    )
    found = response.json()
    assert isinstance(found, dict), f"a batch is no object: {response.text[:160]!r}"
    return found


def finished(service: Service, batch_id: str, within: float = 8.0) -> dict[str, Any]:
    """The batch once it is done."""

    def done() -> dict[str, Any]:
        found = batch(service, batch_id)
        assert found.get("status") == "done", (
            f"batch {batch_id} is not finished: {json.dumps(found)[:160]}"
        )
        return found

    return eventually(done, within)


def counts(found: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return found.get("stored"), found.get("duplicates"), found.get("rejected")


def expect(found: Mapping[str, Any], stored: int, duplicates: int, rejected: int, why: str) -> None:
    assert counts(found) == (stored, duplicates, rejected), (
        f"{why}: stored, duplicates, rejected are {counts(found)}, "
        f"wanted {(stored, duplicates, rejected)}"
    )


def pages(service: Service, path: str, key: str, **params: Any) -> Iterator[list[dict[str, Any]]]:
    """Every page of a list, by its cursor."""
    for _ in range(200):
        response = service.http.get(path, params=params)
        assert response.status_code == 200, (
            f"GET {path} gave {response.status_code} {response.text[:160]!r}"
        )
        page = response.json()
        yield page[key]
        if page["next"] is None:
            return
        params["cursor"] = page["next"]
    raise AssertionError(f"GET {path} has no last page")


def rejected(service: Service, batch_id: str) -> dict[int, str]:
    found = pages(service, f"/v1/batches/{batch_id}/errors", "errors", limit=1000)
    return {item["line"]: item["reason"] for page in found for item in page}


def readings(service: Service, meter: int, **params: Any) -> dict[float, str]:
    """Moment in Unix seconds → kWh."""
    params.setdefault("limit", 1000)
    found = pages(service, f"/v1/meters/NL-{meter:07}/readings", "readings", **params)
    return {
        datetime.fromisoformat(item["time"]).timestamp(): item["kwh"]
        for page in found
        for item in page
    }


class Upload:
    """A request by hand: its head, then as much of its body as one likes, then its answer."""

    def __init__(self, service: Service, batch_id: str, length: int | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", service.port), timeout=5)
        self._chunked = length is None
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = ["POST /v1/batches HTTP/1.1", "Host: intake", f"Batch-Id: {batch_id}", size]
        lines += [f"Content-Type: {NDJSON}", "Connection: close", "", ""]
        self._socket.sendall("\r\n".join(lines).encode())

    def send(self, data: bytes) -> bool:
        """False once the service takes no more."""
        if self._chunked:
            data = f"{len(data):x}\r\n".encode() + data + b"\r\n"
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def status(self, within: float = 5.0) -> int:
        """The answer's status; 0 where the connection ends, or nothing comes, without one."""
        self._socket.settimeout(within)
        data = b""
        try:
            while b"\r\n" not in data:
                part = self._socket.recv(4096)
                if not part:
                    break
                data += part
        except OSError:
            pass
        words = data.split(b" ", 2)
        return int(words[1]) if len(words) > 1 and words[1][:3].isdigit() else 0

    def answered(self) -> bool:
        """Whether an answer, or the end of the connection, is there already."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(5)
        return True

    def close(self) -> None:
        self._socket.close()


# --- billing -----------------------------------------------------------------------------------


def event_ids(calls: list[Call]) -> dict[str, set[str]]:
    """Batch → the Event-Ids that its notices came under."""
    found: dict[str, set[str]] = {}
    for call in calls:
        if isinstance(call.json, dict):
            name = str(call.json.get("batch_id"))
            found.setdefault(name, set()).add(call.headers.get("event-id", ""))
    return found


def delivered(billing: Fake) -> set[str]:
    """Batches of which billing has taken a notice."""
    return {
        str(call.json.get("batch_id"))
        for call in billing.calls
        if call.reply is not None and call.reply.status < 300 and isinstance(call.json, dict)
    }


@pytest.fixture(scope="class")
def billing(fakes: Callable[[str], Fake]) -> Fake:
    """Takes every notice and says so with an empty 202."""
    fake = fakes("billing")
    fake.on("POST", "/v1/notices", Reply(202))
    return fake


@pytest.fixture(scope="class")
def environment(billing: Fake) -> dict[str, str]:
    return {"BILLING_URL": billing.url, "BILLING_TOKEN": TOKEN}


# --- the groups ----------------------------------------------------------------------------------


class TestIntake:
    """What the contract says, on a good day."""

    @pytest.mark.criterion("api.contract")
    def test_a_file_goes_in_and_its_readings_come_out(
        self, service: Service, billing: Fake
    ) -> None:
        lines = [
            record(11, 4, '"1042.5"'),
            record(11, 2, "7", firmware="2.1"),
            "",
            record(11, 3, '"0"'),
            record(12, 3, '"-1"'),
        ]
        response = push(service, "contract.1", "\n".join(lines).encode())
        body = response.json()
        assert body.get("batch_id") == "contract.1", f"202 without batch_id: {body!r}"
        assert body.get("status") in ("queued", "processing", "done"), f"202 with {body!r}"
        location = response.headers.get("location", "")
        assert location.endswith("/v1/batches/contract.1"), f"202 with Location {location!r}"
        found = finished(service, "contract.1")
        expect(found, 3, 0, 1, "a file with three good lines and a bad one")
        assert rejected(service, "contract.1") == {5: "bad_kwh"}, "the error list is wrong"
        base = START.timestamp()
        wanted = {base + 1800: "7.000", base + 2700: "0.000", base + 3600: "1042.500"}
        stored = readings(service, 11)
        assert stored == wanted, f"readings (Unix time: kWh) are {stored}, wanted {wanted}"
        assert list(stored) == sorted(stored), "the readings are not in the order of time"
        window = readings(
            service, 11, **{"from": "2026-03-01T01:30:00+01:00", "to": "2026-03-01T01:00:00Z"}
        )
        assert set(window) == {base + 1800, base + 2700}, f"from and to give {window}"

        def told() -> None:
            assert batch(service, "contract.1")["billing"] == "delivered", "billing has the notice"

        eventually(told, 3)
        call = next(c for c in billing.calls if c.json and c.json["batch_id"] == "contract.1")
        assert (call.method, call.path) == ("POST", "/v1/notices")
        notice = {key: call.json.get(key) for key in ("stored", "duplicates", "rejected")}
        assert notice == {"stored": 3, "duplicates": 0, "rejected": 1}, f"billing got {call.json}"
        assert call.headers.get("authorization") == f"Bearer {TOKEN}", "the token is not sent"
        assert call.headers.get("event-id"), "the notice has no Event-Id"

    @pytest.mark.criterion("api.contract")
    def test_lists_come_in_pages(self, service: Service) -> None:
        lines = [record(13, n) for n in range(23)] + ["rubbish"] * 7
        push(service, "pages", "\n".join(lines).encode())
        finished(service, "pages")
        for path, key, total in (
            ("/v1/meters/NL-0000013/readings", "readings", 23),
            ("/v1/batches/pages/errors", "errors", 7),
        ):
            found = list(pages(service, path, key, limit=5))
            sizes = [len(page) for page in found if page]
            assert max(sizes) <= 5, f"GET {path}?limit=5 gives pages of {sizes}"
            items = [json.dumps(item, sort_keys=True) for page in found for item in page]
            assert len(items) == len(set(items)) == total, (
                f"GET {path}?limit=5, page by page: {len(items)} items, "
                f"{len(set(items))} different ones, wanted {total}"
            )

    REFUSED = (
        ("POST", "/v1/batches", {"Batch-Id": None}, b"{}", 400, "bad_request"),
        ("POST", "/v1/batches", {"Batch-Id": "a b"}, b"{}", 400, "bad_request"),
        ("POST", "/v1/batches", {"Batch-Id": "x" * 65}, b"{}", 400, "bad_request"),
        ("POST", "/v1/batches", {}, b"", 400, "bad_request"),
        ("POST", "/v1/batches", {"Content-Type": "text/csv"}, b"{}", 415, "unsupported_media_type"),
        ("POST", "/v1/batches", {}, b" " * (MAX_BODY + 1), 413, "too_large"),
        ("GET", "/v1/batches/unknown", {}, None, 404, "not_found"),
        ("GET", "/v1/batches/unknown/errors", {}, None, 404, "not_found"),
        ("GET", "/v1/meters/NL-7654321/readings", {}, None, 404, "not_found"),
        ("GET", "/v1/meters/NL-0000010/readings?limit=0", {}, None, 400, "bad_request"),
        ("GET", "/v1/meters/NL-0000010/readings?limit=1001", {}, None, 400, "bad_request"),
        ("GET", "/v1/meters/NL-0000010/readings?limit=ten", {}, None, 400, "bad_request"),
        ("GET", "/v1/meters/NL-0000010/readings?cursor=%7Bnone%21", {}, None, 400, "bad_request"),
        ("GET", "/v1/meters/NL-0000010/readings?from=yesterday", {}, None, 400, "bad_request"),
        ("GET", "/v1/batches/refusals/errors?limit=-1", {}, None, 400, "bad_request"),
        ("DELETE", "/v1/batches/refusals", {}, None, 405, "method_not_allowed"),
        ("GET", "/v1/nothing-here", {}, None, 404, "not_found"),
    )

    @pytest.fixture(scope="class")
    def refusals(self, service: Service) -> list[tuple[str, httpx.Response, int, str]]:
        """What was sent, what came back, and the status and code that were wanted."""
        push(service, "refusals", record(10, 1).encode())
        finished(service, "refusals")
        found = []
        for method, path, changes, body, status, code in self.REFUSED:
            headers = {**(head("refused") if method == "POST" else {}), **changes}
            headers = {name: value for name, value in headers.items() if value is not None}
            what = f"{method} {path}" + (f" with {changes}" if changes else "")
            what += " and an empty body" if body == b"" else ""
            what += f" and {len(body):,} bytes" if body and len(body) > MAX_BODY else ""
            response = service.http.request(method, path, headers=headers, content=body)
            found.append((what, response, status, code))
        return found

    @pytest.mark.criterion("api.contract")
    def test_what_is_wrong_is_refused(
        self, refusals: list[tuple[str, httpx.Response, int, str]]
    ) -> None:
        for what, response, status, _ in refusals:
            assert response.status_code == status, (
                f"{what} gave {response.status_code} {response.text[:120]!r}, wanted {status}"
            )

    @pytest.mark.criterion("api.errors")
    def test_every_error_has_the_body_of_the_contract(
        self, refusals: list[tuple[str, httpx.Response, int, str]]
    ) -> None:
        for what, response, status, code in refusals:
            if response.status_code != status:
                continue
            try:
                error = response.json()["error"]
                told = error["code"], isinstance(error["message"], str) and error["message"] != ""
            except (ValueError, KeyError, TypeError):
                raise AssertionError(
                    f"{what} gave {status} with the body {response.text[:160]!r}, "
                    'wanted {"error": {"code", "message"}}'
                ) from None
            assert told == (code, True), f"{what} gave the error {error!r}, wanted code {code}"

    @pytest.mark.criterion("idempotency.conflict")
    def test_a_batch_id_with_other_bytes_is_refused(self, service: Service) -> None:
        push(service, "once", record(20, 1).encode())
        for state in ("just accepted", "finished"):
            response = send(service, "once", record(20, 2).encode())
            assert response.status_code == 409, (
                f"the Batch-Id of a file {state}, with other bytes, gave {response.status_code}, "
                "wanted 409"
            )
            finished(service, "once")
        push(service, "once", record(20, 1).encode())
        expect(finished(service, "once"), 1, 0, 0, "after a re-send and two refused files")
        assert len(readings(service, 20)) == 1, "a refused file's reading was stored"

    @pytest.mark.criterion("data.exact")
    def test_repeats_are_counted_and_contradictions_kept_apart(self, service: Service) -> None:
        base = record(40, 4, '"12.5"')
        lines = [
            base,
            record(40, 4, "12.5"),
            record(40, 4, '"12.500"'),
            base.replace("01:00:00Z", "02:00:00+01:00"),
            record(40, 4, '"12.501"'),
            record(40, 5, "123456789.123"),
            record(40, 6, '"0.1"'),
            record(40, 7, "0.3"),
            record(40, 10, "1.001"),
        ]
        push(service, "first", "\n".join(lines).encode())
        expect(finished(service, "first"), 5, 3, 1, "a file with three repeats and a contradiction")
        assert rejected(service, "first") == {5: "conflict"}, "line 5 has another value"
        again = [base, record(40, 6, '"0.2"'), record(40, 8, "2"), record(40, 7, '"0.30"')]
        push(service, "second", "\n".join(again).encode())
        expect(finished(service, "second"), 1, 2, 1, "a file that repeats parts of another one")
        assert rejected(service, "second") == {2: "conflict"}, "line 2 has another value"
        values = list(readings(service, 40).values())
        wanted = ["12.500", "123456789.123", "0.100", "0.300", "2.000", "1.001"]
        assert values == wanted, f"stored values are {values}, wanted {wanted}"

    @pytest.mark.criterion("data.exact")
    def test_files_with_the_same_readings_at_once_store_them_once(self, service: Service) -> None:
        body = many(400, meter=5000)
        at_once(4, lambda index: push(service, f"same-{index}", body))
        found = [counts(finished(service, f"same-{index}")) for index in range(4)]
        total = tuple(sum(count) for count in zip(*found, strict=True))
        assert total == (400, 1200, 0), (
            f"400 readings in four files at once: stored, duplicates, rejected are {total} in sum"
        )

    # Last: a line that stalls the service fails this criterion and not those before.

    GOOD = (
        record(30, 1, "0.1"),
        record(30, 2, note="a/b").replace("a/b", "a\u2028b\u0085c"),
        record(30, 3, '"999999999.999"'),
        record(30, 4).replace("00Z", "00+00:00"),
    )
    """The second one holds characters at which Python's str.splitlines would cut it."""
    BAD: tuple[tuple[bytes, set[str]], ...] = (
        (b'{"meter":"NL-00000', {"bad_json"}),
        (b"\x00\xff\xfe\x80\x13\x37", {"bad_json"}),
        (b"[" * 200_000, {"bad_json"}),
        (b"[1, 2]", {"bad_json"}),
        (b"42", {"bad_json"}),
        (b"null", {"bad_json"}),
        (b'{"meter":null,"kwh":"-1"}', {"bad_meter"}),
        (record(30, 50).replace("NL-", "nl-").encode(), {"bad_meter"}),
        (record(30, 50).replace("NL-", "NL-1").encode(), {"bad_meter"}),
        (record(30, 50).replace('"NL-0000030"', '["NL-0000030"]').encode(), {"bad_meter"}),
        (record(30, 50).replace("00Z", "00").encode(), {"bad_time"}),
        (record(30, 50).replace("03-01", "02-30").encode(), {"bad_time"}),
        (record(30, 50).replace('"2026', '17,"was":"2026').encode(), {"bad_time"}),
        (record(30, 50, '"-1"').encode(), {"bad_kwh"}),
        (record(30, 50, "-1").encode(), {"bad_kwh"}),
        (record(30, 50, "NaN").encode(), {"bad_kwh", "bad_json"}),
        (record(30, 50, '"NaN"').encode(), {"bad_kwh"}),
        (record(30, 50, '"Infinity"').encode(), {"bad_kwh"}),
        (record(30, 50, "true").encode(), {"bad_kwh"}),
        (record(30, 50, "null").encode(), {"bad_kwh"}),
        (record(30, 50, '"1.2345"').encode(), {"bad_kwh"}),
        (record(30, 50, '"1,5"').encode(), {"bad_kwh"}),
        (record(30, 50, '"1e3"').encode(), {"bad_kwh"}),
        (record(30, 50, '"1000000000"').encode(), {"bad_kwh"}),
        (record(30, 50, "9" * 6000).encode(), {"bad_kwh", "bad_json"}),
        (record(30, 50, f'"{"9" * 6000}"').encode(), {"bad_kwh"}),
        (record(30, 50, '{"value":1}').encode(), {"bad_kwh"}),
    )

    @pytest.mark.criterion("data.bad_records")
    def test_bad_lines_are_set_aside_and_the_good_ones_kept(self, service: Service) -> None:
        lines: list[bytes] = []
        wanted: dict[int, set[str]] = {}
        good = iter(self.GOOD)
        for position, (line, reasons) in enumerate(self.BAD):
            if position % 8 == 0:
                lines += [next(good).encode(), b""]
            lines.append(line)
            wanted[len(lines)] = reasons
        push(service, "bad", b"\n".join(lines))
        push(service, "behind", record(31, 1).encode())
        found = finished(service, "bad")
        told = rejected(service, "bad")
        for number, reasons in wanted.items():
            shown = lines[number - 1][:60]
            assert told.get(number) in reasons, (
                f"line {number}, {shown!r}: {told.get(number, 'not on the error list')}, "
                f"wanted {' or '.join(sorted(reasons))}"
            )
        extra = {n: lines[n - 1][:80] if n <= len(lines) else "?" for n in told if n not in wanted}
        assert not extra, f"good lines are on the error list: {extra}"
        expect(found, len(self.GOOD), 0, len(self.BAD), "a file of good and bad lines")
        expect(finished(service, "behind"), 1, 0, 0, "the file behind it")

    @pytest.mark.criterion("data.bad_records")
    def test_a_moment_at_the_end_of_the_calendar_stops_nothing(self, service: Service) -> None:
        lines = [
            record(32, 1).replace("2026-03-01T00:15:00Z", "0001-01-01T00:00:00+05:00"),
            record(32, 2).replace("2026-03-01T00:30:00Z", "9999-12-31T23:59:59-05:00"),
            record(32, 3),
        ]
        push(service, "calendar", "\n".join(lines).encode())
        found = finished(service, "calendar")
        assert sum(counts(found)) == 3, f"three lines give {counts(found)}"
        near = readings(
            service, 32, **{"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
        )
        assert list(near.values()) == ["1.500"], f"the good line behind them: {near}"


class TestLoad:
    """Everyone comes at once, and some send too much."""

    @pytest.mark.criterion("idempotency.concurrent")
    def test_one_file_many_times_at_once_is_one_batch(
        self, service: Service, billing: Fake
    ) -> None:
        body = many(1500, meter=100)
        first = Upload(service, "again", len(body))
        first.send(body[:1000])
        time.sleep(0.1)
        responses = at_once(8, lambda _: send(service, "again", body))
        told = sorted(response.status_code for response in responses)
        assert told == [202] * 8, f"one file eight times at once, the first try half in: {told}"
        first.send(body[1000:])
        status = first.status()
        assert status == 202, (
            f"the first try, completed after the re-sends, gave {status or 'none'}"
        )
        expect(finished(service, "again"), 1500, 0, 0, "one file nine times")
        eventually(lambda: "again" in delivered(billing), 3)
        time.sleep(0.3)
        expect(batch(service, "again"), 1500, 0, 0, "one file nine times, a moment later")
        ids = event_ids(billing.calls)["again"]
        assert len(ids) == 1, f"billing got notices of one file under {len(ids)} Event-Ids"

    @pytest.mark.criterion("load.backpressure")
    def test_a_full_backlog_turns_files_away(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        service = launch({**environment, "MAX_BACKLOG": "5", "PROCESSING": "off"})
        bodies = [many(300, meter=1000 + 10 * n) for n in range(30)]

        def slowly(n: int) -> httpx.Response:
            """All are half in before the first is whole."""
            headers = head(f"file-{n}", {"Content-Length": str(len(bodies[n]))})

            def parts() -> Iterator[bytes]:
                yield bodies[n][:9000]
                time.sleep(0.4)
                yield bodies[n][9000:]

            return service.http.post("/v1/batches", content=parts(), headers=headers)

        responses = at_once(20, slowly)
        taken = [n for n, response in enumerate(responses) if response.status_code == 202]
        assert len(taken) <= 5, f"with MAX_BACKLOG=5, {len(taken)} of 20 files at once were taken"
        for n in range(20, 30):
            if len(taken) == 5:
                break
            if send(service, f"file-{n}", bodies[n]).status_code == 202:
                taken.append(n)
        assert len(taken) == 5, f"with MAX_BACKLOG=5, only {len(taken)} of 30 files were taken"
        late = send(service, "one-more", bodies[0])
        for response in [r for r in responses if r.status_code != 202] + [late]:
            assert response.status_code == 503, (
                f"a file too many gave {response.status_code} {response.text[:120]!r}, wanted 503"
            )
            wait = response.headers.get("retry-after", "")
            assert wait.isdigit() and int(wait) >= 1, f"503 with Retry-After {wait!r}"
        slow = late.elapsed.total_seconds()
        assert slow < 1.5, f"a file too many was answered after {slow:.1f} s, wanted 1 s"
        again = send(service, f"file-{taken[0]}", bodies[taken[0]])
        assert again.status_code == 202, (
            f"a re-send of an accepted file gave {again.status_code} with a full backlog, not 202"
        )
        assert batch(service, f"file-{taken[0]}")["status"] == "queued", "PROCESSING is off"
        service.environment["PROCESSING"] = "on"
        service.restart()
        for n in taken:
            expect(finished(service, f"file-{n}"), 300, 0, 0, "a file that waited")
        push(service, "one-more", bodies[0])

    @pytest.mark.criterion("load.memory")
    def test_eight_big_files_and_an_endless_one_fit_into_the_pod(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        service = launch(environment)
        body = many(1900, meter=7000, note="x" * 3900)
        peak = 0.0
        over = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.02):
                peak = max(peak, service.memory_mb())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            at_once(8, lambda n: push(service, f"big-{n}", body))
            endless = Upload(service, "endless", None)
            piece, sent = (record(1, 1) + "\n").encode() * 1000, 0
            while sent < 12 * MAX_BODY and not endless.answered() and endless.send(piece):
                sent += len(piece)
            status = endless.status()
            endless.close()
            for n in range(8):
                finished(service, f"big-{n}", within=15)
        finally:
            over.set()
            watcher.join()
        assert service.alive, "it died of eight big files"
        assert peak < 256, (
            f"eight files of {len(body):,} bytes and an endless one took {peak:.0f} MB"
        )
        assert sent < 6 * MAX_BODY, f"an endless file was read on for {sent:,} bytes"
        assert status == 413, f"an endless file gave {status or 'no answer'}, wanted 413"

    @pytest.mark.criterion("load.responsive")
    def test_reads_are_quick_while_a_full_file_is_processed(self, service: Service) -> None:
        push(service, "seen", record(9000, 1).encode())
        finished(service, "seen")
        lines = [record(20_000 + n // 96, n % 96, "1") for n in range(MAX_BODY // 61)]
        body = "\n".join(lines).encode()
        times: list[float] = []
        problems: list[str] = []
        over = threading.Event()

        def read() -> None:
            with httpx.Client(base_url=service.url, timeout=10, trust_env=False) as client:
                while not over.wait(0.02):
                    asked = time.monotonic()
                    try:
                        status = client.get("/v1/meters/NL-0009000/readings").status_code
                    except httpx.TransportError as error:
                        status = repr(error)
                    times.append(time.monotonic() - asked)
                    if status != 200:
                        problems.append(f"a read got {status} after {times[-1]:.1f} s")

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        push(service, "full", body)
        until = time.monotonic() + 3
        while time.monotonic() < until and batch(service, "full")["status"] != "done":
            time.sleep(0.1)
        over.set()
        reader.join(12)
        assert not problems, f"while a file of 8 MB was taken in and processed, {problems[0]}"
        worst = max(times)
        assert worst < 1.2, (
            f"while a file of 8 MB was taken in and processed, a read took {worst:.1f} s, "
            "wanted 0.5 s"
        )


class TestCrash:
    """The process dies, and is asked to."""

    @pytest.fixture(scope="class")
    def environment(self, billing: Fake) -> dict[str, str]:
        return {"BILLING_URL": billing.url, "BILLING_TOKEN": TOKEN, "PROCESSING": "off"}

    @pytest.mark.criterion("data.durable")
    def test_killed_again_and_again_it_finishes_every_file_once(
        self, service: Service, billing: Fake
    ) -> None:
        good = many(14_400, meter=300)
        bad = b"".join(b'{"meter":"broken %d"}\n' % n for n in range(500))
        body = good + bad + good[: good.index(b"\n", 40_000) + 1]
        repeated = body.count(b"\n") - 14_900
        push(service, "large", body)
        push(service, "small", many(50, meter=90_000))
        service.kill()
        service.environment["PROCESSING"] = "on"
        for pause in (0.0, 0.1):
            service.start()
            self._until_work_has_begun(service)
            time.sleep(pause)
            service.kill()
        service.start()
        found = finished(service, "large", within=10)
        expect(found, 14_400, repeated, 500, "a file in whose processing it was killed twice")
        expect(finished(service, "small"), 50, 0, 0, "the file behind it")
        values = readings(service, 300 + 100)
        assert len(values) == 96, f"96 readings of a meter were sent, {len(values)} are there"
        told = rejected(service, "large")
        assert len(told) == 500, f"500 lines are bad, the error list has {len(told)}"
        eventually(lambda: {"large", "small"} <= delivered(billing), 5)
        calls = [c for c in billing.calls if c.json and c.json.get("batch_id") == "large"]
        ids = {c.headers.get("event-id") for c in calls}
        assert len(ids) == 1, f"after a crash billing got one file under {len(ids)} Event-Ids"
        for call in calls:
            assert counts(call.json) == (14_400, repeated, 500), f"billing was told {call.json}"

    def _until_work_has_begun(self, service: Service) -> None:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            found = batch(service, "large")
            if found["stored"] or found["status"] == "done":
                return
            time.sleep(0.005)

    @pytest.mark.criterion("lifecycle.graceful_stop")
    def test_asked_to_stop_it_answers_the_upload_and_ends(
        self, service: Service, billing: Fake
    ) -> None:
        billing.fault(faults.Hang())
        service.environment["PROCESSING"] = "on"
        service.restart()
        push(service, "told", record(60, 1).encode())
        finished(service, "told")
        eventually(lambda: billing.in_flight > 0, 4)
        push(service, "stopped", many(20_000, meter=40_000))
        body = many(200, meter=60_000)
        upload = Upload(service, "half", len(body))
        upload.send(body[:5000])
        time.sleep(0.2)
        stopped: list[Any] = []
        stopping = threading.Thread(target=lambda: stopped.append(service.stop(8)), daemon=True)
        stopping.start()
        time.sleep(1.0)
        upload.send(body[5000:])
        status = upload.status()
        stopping.join(12)
        assert status == 202, (
            f"an upload that was half in at SIGTERM and whole a second later gave "
            f"{status or 'no answer'}, wanted 202"
        )
        code, seconds = stopped[0].exit_code, stopped[0].seconds
        assert code is not None and seconds < 5.5, f"it still ran {seconds:.1f} s after SIGTERM"
        assert code == 0, f"after SIGTERM it ended with status {code}, wanted 0"
        service.start()
        finished(service, "stopped", within=10)
        expect(finished(service, "half"), 200, 0, 0, "the upload that was half in")


class TestBillingDown:
    """Billing is down, for hours."""

    @pytest.mark.criterion("upstream.breaker")
    def test_it_is_left_in_peace_however_much_waits(self, service: Service, billing: Fake) -> None:
        billing.fault(faults.Status(503))
        for n in range(25):
            push(service, f"waits-{n}", record(500 + n, 1).encode())
        finished(service, "waits-24", within=4)
        eventually(lambda: len(billing.calls) > 0, 4)
        for fault, what in ((None, "answers 503"), (faults.Hang(), "says nothing")):
            if fault:
                billing.fault(fault)
            billing.clear()
            time.sleep(2.7)
            # About one a second: what opens only after a few failures in a row may do so.
            most = upstream.most_within(billing.calls, 2.5)
            assert most <= 8, (
                f"billing {what} and 25 notices wait: {most} calls within 2.5 s, "
                "wanted about one a second"
            )
            found = readings(service, 524)
            assert len(found) == 1, f"billing {what}: of one reading {len(found)} can be read"


class TestBillingBack:
    """Billing comes back, or says no."""

    @pytest.mark.criterion("upstream.no_blind_retry")
    def test_what_it_refused_is_not_sent_again(self, service: Service, billing: Fake) -> None:
        def handler(call: Call) -> Reply:
            name = str(call.json["batch_id"])
            status = int(name[-3:]) if name.startswith("refuse-") else 200
            return Reply(status, json={"batch": name})

        billing.on("POST", "/v1/notices", handler)
        refused = ("refuse-400", "refuse-409", "refuse-422")
        for name in (*refused, "fine"):
            push(service, name, record(800, 1).encode())

        def settled() -> None:
            for name in (*refused, "fine"):
                wanted = "refused" if name in refused else "delivered"
                told = batch(service, name)["billing"]
                assert told == wanted, f"billing answered {name}: it shows {told!r}, not {wanted!r}"

        eventually(settled, 8)
        time.sleep(1.3)
        for name in refused:
            calls = [c for c in billing.calls if c.json and c.json["batch_id"] == name]
            assert len(calls) == 1, f"a notice refused with {name[-3:]} was sent {len(calls)} times"
        billing.on("POST", "/v1/notices", Reply(202))

    @pytest.mark.criterion("upstream.recovery")
    def test_all_that_waited_arrives_in_time(self, service: Service, billing: Fake) -> None:
        billing.fault(faults.Status(500))
        names = {f"waits-{n}" for n in range(60)}
        for name in sorted(names):
            # More files than the backlog holds: one that is turned away comes again.
            eventually(lambda name=name: push(service, name, record(700, 1).encode()), 5)
        time.sleep(0.8)
        billing.fault(faults.Hang())
        time.sleep(1.8)
        billing.fault(None)

        def arrived() -> None:
            missing = names - delivered(billing)
            assert not missing, f"billing is back, and {len(missing)} of 60 notices are missing"

        eventually(arrived, 7.5)

        def shown() -> None:
            told = batch(service, "waits-59")["billing"]
            assert told == "delivered", f"billing has the notice, the batch shows {told!r}"

        eventually(shown, 2)
        for name, ids in event_ids(billing.calls).items():
            assert len(ids) == 1, f"the notice of {name} came under {len(ids)} Event-Ids"

    @pytest.mark.criterion("upstream.recovery")
    def test_a_404_means_later(self, service: Service, billing: Fake) -> None:
        billing.fault(faults.Sequence([faults.Status(404)]))
        push(service, "later", record(701, 1).encode())
        eventually(lambda: len(billing.calls) > 0, 4)

        def arrived() -> None:
            told = batch(service, "later")["billing"]
            assert told == "delivered", f"billing answered 404, then 202: it shows {told!r}"

        eventually(arrived, 7.5)


class TestOperations:
    """What the people on call see."""

    @pytest.fixture(scope="class")
    def environment(self, billing: Fake) -> dict[str, str]:
        return {"BILLING_URL": billing.url, "BILLING_TOKEN": TOKEN, "PROCESSING": "off"}

    @pytest.fixture(scope="class")
    def story(self, service: Service, billing: Fake) -> dict[str, Any]:
        """Three files wait, with a request id and a trace; then they are processed."""
        told: dict[str, Any] = {"id": f"req-{secrets.token_hex(8)}"}
        told["trace"] = secrets.token_hex(16)
        told["empty"] = metrics.scrape(service) if metrics.find(service) else {}
        parent = f"00-{told['trace']}-{secrets.token_hex(8)}-01"
        lines = [record(900, 1), record(900, 2, '"x"'), record(900, 3, '"-2"'), "rubbish"]
        told["response"] = push(
            service,
            "story",
            "\n".join(lines).encode(),
            {"X-Request-ID": told["id"], "traceparent": parent},
        )
        push(service, "other-1", record(901, 1).encode())
        push(service, "other-2", record(902, 1).encode())
        told["waiting"] = metrics.scrape(service) if metrics.find(service) else {}
        billing.fault(faults.Status(503))
        service.environment["PROCESSING"] = "on"
        told["mark"] = service.mark()
        service.restart()
        for name in ("story", "other-1", "other-2"):
            finished(service, name)
        time.sleep(0.2)
        told["done"] = metrics.scrape(service) if metrics.find(service) else {}
        billing.fault(None)

        def notices() -> list[Call]:
            return [c for c in billing.calls if c.json and c.json.get("batch_id") == "story"]

        eventually(notices, 8)
        told["calls"] = notices()
        return told

    @pytest.mark.criterion("logs.structured")
    def test_the_log_is_json(self, service: Service, story: dict[str, Any]) -> None:
        logs.assert_structured(service)

    @pytest.mark.criterion("logs.request_id")
    def test_a_file_is_found_by_its_request_id(
        self, service: Service, story: dict[str, Any]
    ) -> None:
        echoed = story["response"].headers.get("x-request-id")
        assert echoed == story["id"], f"the upload's X-Request-ID came back as {echoed!r}"
        unknown = service.http.get("/v1/batches/unknown", headers={"X-Request-ID": "req-unknown"})
        echoed = unknown.headers.get("x-request-id")
        assert echoed == "req-unknown", f"a 404 carries the X-Request-ID {echoed!r}"
        made = service.http.get("/v1/batches/story").headers.get("x-request-id")
        assert made, "an answer to a call without X-Request-ID carries none"
        lines = logs.find_request_id(service, story["id"])
        assert lines, "no log line carries the upload's X-Request-ID"
        later = logs.find_request_id(service, story["id"], since=story["mark"])
        assert later, "no log line of the processing carries the upload's X-Request-ID"
        for call in story["calls"]:
            sent = call.headers.get("x-request-id")
            assert sent == story["id"], f"the call to billing has the X-Request-ID {sent!r}"

    @pytest.mark.criterion("trace.propagated")
    def test_the_trace_goes_on_to_billing(self, story: dict[str, Any]) -> None:
        for call in story["calls"]:
            sent = call.headers.get("traceparent", "")
            assert sent, "the call to billing has no traceparent"
            match = upstream.TRACEPARENT.fullmatch(sent.strip())
            assert match, f"the call to billing has a malformed traceparent: {sent!r}"
            assert match[1] == story["trace"], "the call to billing is of another trace"

    @pytest.mark.criterion("metrics.move")
    def test_the_wall_shows_what_waits_and_what_was_rejected(
        self, service: Service, story: dict[str, Any]
    ) -> None:
        assert story["done"], "no Prometheus metrics found (tried /metrics and the like)"
        rose = metrics.moved(story["empty"], story["waiting"])
        assert 3 in rose.values(), f"three files wait, and no metric rose by three: {_short(rose)}"
        done = metrics.own(story["done"])
        reason = {name: value for name, value in done.items() if "bad_kwh" in name}
        assert 2 in reason.values(), (
            f"two lines were rejected as bad_kwh, and no metric says so: {_short(reason or done)}"
        )
        notices = metrics.own(story["done"], "bill|notic|event|deliver|outbox|pending|undeliver")
        assert 3 in notices.values(), (
            f"three notices wait for billing, and no metric says so: {_short(notices or done)}"
        )

    @pytest.mark.criterion("health.liveness_readiness")
    def test_it_stays_alive_and_in_rotation_when_billing_is_down_and_the_backlog_full(
        self,
        launch: Callable[..., Service],
        environment: dict[str, str],
        billing: Fake,
        answer: Any,
    ) -> None:
        service = launch({**environment, "PROCESSING": "on", "MAX_BACKLOG": "1"})
        live, ready = health.assert_found(service, answer.files)

        def stays(when: str) -> None:
            for path, what in ((live, "liveness"), (ready, "readiness")):
                status = health.status(service, path)
                assert 200 <= status < 300, (
                    f"{when}: {what} {path} answers {status or 'nothing'}, wanted 200"
                )

        billing.fault(faults.Status(503))
        push(service, "notice", record(950, 1).encode())
        finished(service, "notice")
        eventually(lambda: len(billing.calls) > 0, 4)
        time.sleep(0.3)
        stays("billing answers 503")
        billing.fault(faults.Hang())
        service.kill()
        service.environment["PROCESSING"] = "off"
        service.start()
        push(service, "waits", record(950, 2).encode())
        turned = send(service, "too-many", record(950, 3).encode())
        assert turned.status_code == 503, f"with MAX_BACKLOG=1 a second file got {turned}"
        stays("billing says nothing and the backlog is full")

    @pytest.mark.criterion("config.fails_early")
    def test_wrong_configuration_stops_the_start(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        config.refuses_without(launch, environment, "BILLING_TOKEN")
        config.refuses_nonsense(launch, environment, "MAX_BACKLOG", "lots")
        config.refuses_nonsense(launch, environment, "PROCESSING", "maybe")


def _short(samples: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in list(samples.items())[:6]) or "none"
