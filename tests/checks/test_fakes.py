"""The fake dependency: what it answers, how it fails, and what it remembers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from harness.checks import Call, Fake, Reply, faults
from harness.checks.timing import at_once, eventually


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake("carrier")
    fake.on("POST", "/v1/labels", lambda call: Reply(201, json={"id": call.json["id"]}))
    yield fake
    fake.close()


@pytest.fixture
def client(fake: Fake) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fake.url, timeout=1.0, trust_env=False, verify=False) as client:
        yield client


def post(client: httpx.Client, number: int = 1) -> httpx.Response:
    return client.post("/v1/labels", json={"id": number})


def test_a_route_answers_and_the_call_is_recorded(fake: Fake, client: httpx.Client) -> None:
    before = time.monotonic()
    response = client.post("/v1/labels?a=1&b=", json={"id": 7}, headers={"X-Request-ID": "r1"})
    assert (response.status_code, response.json()) == (201, {"id": 7})
    (call,) = fake.calls
    assert (call.method, call.path, call.query) == ("POST", "/v1/labels", {"a": "1", "b": ""})
    assert call.json == {"id": 7}
    assert call.headers["x-request-id"] == call.headers.get("X-REQUEST-ID") == "r1"
    assert "X-Missing" not in call.headers
    assert before < call.at < time.monotonic()
    assert call.reply is not None
    assert call.reply.status == 201
    fake.clear()
    assert fake.calls == []


def test_a_path_may_have_parameters_and_the_newest_route_counts(
    fake: Fake, client: httpx.Client
) -> None:
    fake.on("GET", "/v1/labels/{id}", lambda call: Reply(json=call.params))
    assert client.get("/v1/labels/a%20b").json() == {"id": "a b"}
    fake.on("GET", "/v1/labels/{id}", Reply(204))
    assert client.get("/v1/labels/x").status_code == 204
    assert client.get("/v1/labels/x/y").status_code == 404
    assert client.delete("/v1/labels/x").status_code == 404


def test_a_handler_that_raises_is_a_bad_request(fake: Fake, client: httpx.Client) -> None:
    response = client.post("/v1/labels", json={})
    assert response.status_code == 400
    assert response.json() == {"error": "KeyError: 'id'"}


def test_connections_are_kept_and_chunked_bodies_are_read(fake: Fake, client: httpx.Client) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"id":'
        yield b" 5}"

    assert client.post("/v1/labels", content=body()).json() == {"id": 5}
    assert [post(client, n).json()["id"] for n in range(5)] == list(range(5))


def test_many_clients_at_once_are_served(fake: Fake) -> None:
    def send(number: int) -> int:
        with httpx.Client(base_url=fake.url, trust_env=False, verify=False) as client:
            return int(post(client, number).json()["id"])

    assert at_once(40, send) == list(range(40))
    assert len(fake.calls) == 40


def test_hang_accepts_and_never_answers(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Hang())
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/labels", json={"id": 1}, timeout=0.3)
    assert len(fake.calls) == 1
    assert fake.calls[0].reply is None
    eventually(lambda: fake.in_flight == 0)
    assert fake.most_in_flight == 1


def test_hang_with_effect_has_done_its_work(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Hang(effect=True))
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/labels", json={"id": 1}, timeout=0.3)
    assert fake.calls[0].reply is not None


def test_what_hangs_stays_so_when_the_fault_is_healed(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Hang())

    def send() -> None:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/labels", json={"id": 1}, timeout=3)

    thread = threading.Thread(target=send)
    thread.start()
    eventually(lambda: fake.in_flight == 1)
    fake.fault(None)
    assert post(client).status_code == 201
    eventually(lambda: fake.in_flight == 1)
    assert thread.is_alive()
    thread.join()


def test_drip_beats_a_timeout_between_reads(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Drip(0.01))
    began = time.monotonic()
    assert client.post("/v1/labels", json={"id": 1}, timeout=0.2).json() == {"id": 1}
    assert time.monotonic() - began > 0.5


def test_reset_and_refuse_end_the_connection(fake: Fake, client: httpx.Client) -> None:
    post(client)
    fake.fault(faults.Reset())
    with pytest.raises(httpx.TransportError):
        post(client)
    fake.fault(faults.Refuse())
    for _ in range(2):
        with pytest.raises(httpx.ConnectError):
            post(client)
    assert len(fake.calls) == 2
    fake.fault(None)
    assert post(client).status_code == 201


def test_a_refused_port_cannot_be_taken_by_another(fake: Fake) -> None:
    fake.fault(faults.Refuse())
    with socket.socket() as thief, pytest.raises(OSError, match="in use"):
        thief.bind(("127.0.0.1", fake.port))


def test_status_answers_without_the_handler(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Status(429, headers={"Retry-After": "2"}))
    response = post(client)
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert fake.calls[0].reply is None


def test_slow_does_its_work_at_once_and_answers_later(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Slow(0.3))
    began = time.monotonic()
    assert post(client).status_code == 201
    assert 0.3 <= time.monotonic() - began < 0.9


def test_garbage_is_no_json(fake: Fake, client: httpx.Client) -> None:
    fake.fault(faults.Garbage())
    response = post(client)
    assert response.status_code == 200
    with pytest.raises(ValueError):
        response.json()


def test_a_sequence_has_one_fault_a_call_and_then_is_healthy(
    fake: Fake, client: httpx.Client
) -> None:
    fake.fault(faults.Sequence([faults.Status(500), None, faults.Status(503)]))
    assert [post(client).status_code for _ in range(5)] == [500, 201, 503, 201, 201]


def test_a_reply_can_be_late(fake: Fake, client: httpx.Client) -> None:
    def late(call: Call) -> Reply:
        return Reply(200, body=b"x", headers={"Content-Type": "text/plain"}, delay=0.2)

    fake.on("GET", "/late", late)
    began = time.monotonic()
    assert client.get("/late").text == "x"
    assert time.monotonic() - began >= 0.2


def test_a_closed_fake_lets_go_of_everything() -> None:
    fake = Fake("carrier")
    fake.fault(faults.Hang())
    failed = threading.Event()

    def send() -> None:
        try:
            httpx.get(fake.url, timeout=10, trust_env=False)
        except httpx.TransportError:
            failed.set()

    threading.Thread(target=send, daemon=True).start()
    eventually(lambda: fake.in_flight == 1)
    fake.close()
    assert failed.wait(2)
