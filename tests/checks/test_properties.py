"""The properties that all cases share: each holds for a good service and fails for a bad one."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from typing import Any

import httpx
import pytest

from harness.checks import config, data, health, idempotency, lifecycle, logs, metrics, tokens
from harness.checks import upstream as up
from harness.checks.fakes import Call, Fake, Headers, Reply
from harness.checks.service import LogLine, Stopped
from tests.checks.conftest import Fails, StubService

# --- logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        {"time": "2026-01-01T00:00:00Z", "level": "INFO", "message": "started"},
        {"ts": 1700000000.1, "severity": "info", "msg": "started"},
        {"@timestamp": "…", "log": {"level": "info"}, "message": "started"},
        {"timestamp": "…", "lvl": 30, "event": "started"},
        {"asctime": "…", "levelname": "INFO", "message": ""},
    ],
)
def test_every_usual_form_of_a_structured_line_is_accepted(
    stub: StubService, line: dict[str, Any]
) -> None:
    stub.log(line)
    logs.assert_structured(stub)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("INFO: started", "no JSON object"),
        ('"a text"', "no JSON object"),
        ({"level": "info", "msg": "x"}, "has no time"),
        ({"ts": 1, "msg": "x"}, "has no level"),
        ({"ts": 1, "level": "info"}, "has no message"),
    ],
)
def test_a_line_that_is_not_structured_fails(
    stub: StubService, fails: Fails, line: Any, message: str
) -> None:
    stub.log({"ts": 1, "level": "info", "msg": "x"}, line)
    fails(message, logs.assert_structured, stub)


def test_a_silent_service_has_no_structured_log(stub: StubService, fails: Fails) -> None:
    fails("logs nothing", logs.assert_structured, stub)


def test_warnings_of_libraries_are_not_the_services_lines(stub: StubService) -> None:
    stub.log(
        "/runtime/x.py:3: DeprecationWarning: old",
        "  warnings.warn(old)",
        "",
        {"ts": 1, "level": "info", "msg": "x"},
    )
    logs.assert_structured(stub)


@pytest.mark.parametrize(
    ("entry", "level"),
    [({"level": "Error"}, 40), ({"severity": "WARN"}, 30), ({"level": 50}, 50), ({"x": 1}, 0)],
)
def test_levels_have_one_scale(entry: dict[str, Any], level: int) -> None:
    assert logs.level(LogLine(json.dumps(entry), 0)) == level


def test_a_request_id_is_answered_logged_and_passed_on(stub: StubService, fails: Fails) -> None:
    fake = Fake("carrier")

    def handle(headers: Any, *, echo: bool, log: bool, forward: bool) -> tuple[Any, ...]:
        rid = headers["X-Request-ID"]
        if log:
            stub.log({"request_id": rid})
        httpx.get(fake.url, headers={"x-request-id": rid} if forward else {}, trust_env=False)
        return 200, "", {"x-request-id": rid} if echo else {}

    def send(headers: dict[str, str]) -> httpx.Response:
        return stub.http.get("/", headers=headers)

    def serve(**how: bool) -> None:
        stub.routes["/"] = lambda headers: handle(headers, **how)

    try:
        serve(echo=True, log=True, forward=True)
        logs.assert_request_id(stub, send, upstream=fake)
        serve(echo=False, log=True, forward=True)
        fails("response does not carry", logs.assert_request_id, stub, send, upstream=fake)
        serve(echo=True, log=False, forward=True)
        options: dict[str, Any] = {"upstream": fake, "within": 0.1}
        fails("no log line carries", logs.assert_request_id, stub, send, **options)
        serve(echo=True, log=True, forward=False)
        fails("call to carrier does not carry", logs.assert_request_id, stub, send, **options)
    finally:
        fake.close()


def test_a_request_without_an_id_gets_one(stub: StubService, fails: Fails) -> None:
    def send() -> httpx.Response:
        return stub.http.get("/")

    stub.routes["/"] = (200, "", {"X-Correlation-ID": "made-1"})
    fails("in no log line", logs.assert_makes_request_id, stub, send, within=0.1)
    stub.routes["/"] = lambda headers: (
        stub.log({"id": "made-1"}) or (200, "", {"X-Request-Id": "made-1"})  # type: ignore[func-returns-value]
    )
    assert logs.assert_makes_request_id(stub, send) == "made-1"
    stub.routes["/"] = (200, "")
    fails("carries none", logs.assert_makes_request_id, stub, send)


def test_the_line_of_an_error_names_what_it_is_about(stub: StubService, fails: Fails) -> None:
    stub.log({"level": "info", "msg": "s-1 carrier 503"})
    args: dict[str, Any] = {"since": 0, "within": 0.1}
    fails("no log line of level warning", logs.assert_error_context, stub, "s-1", **args)
    stub.log({"level": "error", "msg": "carrier failed"})
    fails("does not name s-1", logs.assert_error_context, stub, "carrier", "s-1", **args)
    stub.log({"level": "error", "msg": "carrier failed", "shipment": "s-1"})
    logs.assert_error_context(stub, "carrier", "s-1", **args)


@pytest.mark.parametrize("quote", [str, lambda s: base64.b64encode(s.encode()).decode()])
def test_a_secret_in_the_log_is_found_and_not_repeated(stub: StubService, quote: Any) -> None:
    secrets = {"the password": "hunter2&more"}
    stub.log({"msg": "login of eve"})
    logs.assert_absent(stub, secrets)
    stub.log({"msg": f"login with {quote('hunter2&more')}"})
    with pytest.raises(AssertionError) as caught:
        logs.assert_absent(stub, secrets)
    assert "the log shows the password" in str(caught.value)
    assert quote("hunter2&more") not in str(caught.value)


# --- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("routes", "live", "ready"),
    [
        (["/livez", "/readyz"], "/livez", "/readyz"),
        (["/health/live", "/health/ready"], "/health/live", "/health/ready"),
        (["/healthz", "/ready"], "/healthz", "/ready"),
        (["/health"], "/health", None),
        ([], None, None),
    ],
)
def test_health_endpoints_are_found_under_any_usual_name(
    stub: StubService, routes: list[str], live: str | None, ready: str | None
) -> None:
    stub.routes = dict.fromkeys(routes, (200, "{}"))
    assert health.find(stub) == health.Health(live, ready)


def test_health_endpoints_are_found_under_the_names_that_the_code_has(stub: StubService) -> None:
    stub.routes = {"/ops/liveness": (200, ""), "/ops/readiness": (204, "")}
    files = {"main.py": '@app.get("/ops/liveness")\n@app.get("/ops/readiness")'}
    assert health.find(stub, files) == health.Health("/ops/liveness", "/ops/readiness")


def test_one_endpoint_alone_does_not_tell_readiness(stub: StubService, fails: Fails) -> None:
    fails("no liveness endpoint", health.assert_found, stub)
    stub.routes = {"/healthz": (200, "")}
    fails("no readiness endpoint answers 200 apart", health.assert_found, stub)
    stub.routes["/readyz"] = (200, "")
    assert health.assert_found(stub) == ("/healthz", "/readyz")


def test_readiness_and_liveness_are_told_by_their_status(stub: StubService, fails: Fails) -> None:
    stub.routes = {"/ok": (200, ""), "/bad": (503, "")}
    health.assert_ready(stub, "/ok")
    health.assert_live(stub, "/ok")
    health.assert_not_ready(stub, "/bad")
    fails("wanted 200", health.assert_ready, stub, "/bad", within=0.1)
    fails("wanted 503", health.assert_not_ready, stub, "/ok", within=0.1)
    fails("is restarted", health.assert_live, stub, "/bad")


# --- metrics --------------------------------------------------------------------------------------

EXPOSITION = """
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{method="GET",path="/a \\"b\\" }",status="200"} 3.0
http_requests_total{method="GET",status="500"} 1 1700000000000
latency_bucket{le="+Inf"} 4
latency_sum 1.5e-3
python_gc_objects_collected_total{generation="0"} 99
process_cpu_seconds_total NaN
broken{ 1
"""


def test_the_text_format_of_prometheus_is_read() -> None:
    samples = metrics.parse(EXPOSITION)
    assert samples['http_requests_total{method="GET",path="/a \\"b\\" }",status="200"}'] == 3
    assert samples['http_requests_total{method="GET",status="500"}'] == 1
    assert samples['latency_bucket{le="+Inf"}'] == 4
    assert samples["latency_sum"] == 0.0015
    assert len(samples) == 6
    assert set(metrics.own(samples, "500")) == {'http_requests_total{method="GET",status="500"}'}


def test_metrics_have_to_move_with_what_happens(stub: StubService, fails: Fails) -> None:
    fails("no Prometheus metrics", metrics.scrape, stub)
    count = 0

    def act() -> None:
        nonlocal count
        count += 5

    stub.routes["/metrics"] = lambda headers: (
        200,
        f'requests_total{{status="200"}} {count}\nprocess_cpu_seconds_total {time.time()}\n',
    )
    found = metrics.assert_moves(stub, act, matching="request", by=5)
    assert found == {'requests_total{status="200"}': 5}
    args: dict[str, Any] = {"within": 0.1, "what": "errors"}
    fails("no metric tells of errors", metrics.assert_moves, stub, act, matching="50[03]", **args)
    fails("rose by 5, wanted 6", metrics.assert_moves, stub, act, by=6, **args)
    fails("none of its own", metrics.assert_moves, stub, lambda: None, **args)


def test_metrics_are_found_where_the_code_says(stub: StubService) -> None:
    stub.routes["/ops/metrics"] = (200, "up 1\n")
    assert metrics.find(stub) is None
    assert metrics.find(stub, {"main.py": 'app.get("/ops/metrics")'}) == "/ops/metrics"


# --- upstream -------------------------------------------------------------------------------------


def calls(*times: float, path: str = "/") -> list[Call]:
    return [Call(at, "POST", path, {}, Headers([]), b"") for at in times]


def test_waits_that_grow_are_backoff(fails: Fails) -> None:
    up.assert_backoff(calls(0, 0.1, 0.3, 0.7), at_most=4)
    up.assert_backoff(calls(0, 0.2), at_most=2)
    fails("is not retried", up.assert_backoff, calls(0), at_most=4)
    fails("is not retried", up.assert_backoff, [], at_most=4)
    fails("at most 3", up.assert_backoff, calls(0, 0.1, 0.3, 0.7), at_most=3)
    fails("do not grow", up.assert_backoff, calls(0, 0.2, 0.4, 0.6), at_most=4)
    fails("without a wait", up.assert_backoff, calls(0, 0.01, 0.3), at_most=4)


def test_waits_that_are_all_the_same_have_no_jitter(fails: Fails) -> None:
    up.assert_jitter([calls(0, wait) for wait in (0.1, 0.13, 0.17, 0.11)])
    fails("same wait", up.assert_jitter, [calls(0, w) for w in (0.2, 0.201, 0.202, 0.203)])
    fails("only 1 of 2", up.assert_jitter, [calls(0, 1), calls(0)])


def test_the_rate_is_that_of_the_fullest_window(fails: Fails) -> None:
    burst = calls(0.3, 1, 1.1, 1.2, 5)
    assert up.most_within(burst, 1) == 4
    assert up.most_within(burst, 0.5) == 3
    assert up.most_within([], 1) == 0
    up.assert_rate(burst, at_most=4, per_s=1)
    fails("got 4 calls within 1 s, wanted at most 3", up.assert_rate, burst, at_most=3, per_s=1)
    groups = up.by_key([*calls(0, 1, path="/a"), *calls(2, path="/b")], lambda call: call.path)
    assert {key: len(found) for key, found in groups.items()} == {"/a": 2, "/b": 1}


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda parent: parent, ""),
        (lambda parent: f"00-{parent.split('-')[1]}-{'b' * 16}-01", ""),
        (lambda parent: None, "has no traceparent"),
        (lambda parent: f"00-{'a' * 32}-{'b' * 16}-01", "starts another trace"),
        (lambda parent: parent.split("-")[1], "malformed"),
    ],
)
def test_a_trace_goes_on(fails: Fails, forward: Any, message: str) -> None:
    fake = Fake("carrier")
    fake.on("GET", "/", Reply(204))

    def send(headers: dict[str, str]) -> httpx.Response:
        parent = forward(headers["traceparent"])
        sent = {"traceparent": parent} if parent else {}
        return httpx.get(fake.url, headers=sent, trust_env=False)

    try:
        if message:
            fails(message, up.assert_trace, send, fake, within=0.1)
        else:
            up.assert_trace(send, fake)
    finally:
        fake.close()


# --- idempotency ----------------------------------------------------------------------------------


class Orders:
    """A store of orders whose mistakes can be chosen."""

    def __init__(self, *, remember: bool = True, same: bool = True) -> None:
        self.made = 0
        self._remember, self._same = remember, same
        self._first: httpx.Response | None = None

    def send(self, number: int = 0) -> httpx.Response:
        if self._first is not None and self._remember:
            return self._first if self._same else httpx.Response(200, json={"id": "other"})
        self.made += 1
        self._first = httpx.Response(201, json={"id": self.made})
        return self._first

    def count(self) -> int:
        return self.made


def test_a_replay_has_one_effect_and_one_answer(fails: Fails) -> None:
    good = Orders()
    idempotency.assert_replay(good.send, good.count)
    forgets = Orders(remember=False)
    fails("gave another answer", idempotency.assert_replay, forgets.send, forgets.count)
    skips: dict[str, Any] = {"same": lambda response: None}
    fails("had 2 effects", idempotency.assert_replay, forgets.send, forgets.count, **skips)
    other = Orders(same=False)
    fails("gave another answer", idempotency.assert_replay, other.send, other.count)
    broken = httpx.Response(500, text="oops")
    fails("gave 500", idempotency.assert_replay, lambda: broken, lambda: 1)


def test_the_same_request_at_once_has_one_effect(fails: Fails) -> None:
    good = Orders()
    good.send()
    before = good.made
    good.made -= 1  # the first of them is the one that makes it
    counts = iter([before - 1, before])
    idempotency.assert_one_effect(good.send, lambda: next(counts), n=5)
    busy = httpx.Response(409)
    fails("none of 3", idempotency.assert_one_effect, lambda n: busy, lambda: 0, n=3)
    refused = httpx.Response(500)
    fails("gave 500", idempotency.assert_one_effect, lambda n: refused, lambda: 0, n=3)
    fine = httpx.Response(201, json={})
    effects = iter([0, 3])
    fails("had 3 effects", idempotency.assert_one_effect, lambda n: fine, lambda: next(effects))


def test_another_body_under_a_known_key_is_refused(fails: Fails) -> None:
    idempotency.assert_conflict(lambda: httpx.Response(409), lambda: 1)
    accepted = httpx.Response(201)
    fails("gave 201, wanted 409 or 422", idempotency.assert_conflict, lambda: accepted, lambda: 1)
    effects = iter([1, 2])
    refused = httpx.Response(422)
    fails("1 effects", idempotency.assert_conflict, lambda: refused, lambda: next(effects))


# --- lifecycle ------------------------------------------------------------------------------------


class Stopping:
    """A service whose stop is given."""

    def __init__(self, stopped: Stopped) -> None:
        self._stopped = stopped

    def stop(self, timeout: float) -> Stopped:
        return self._stopped


@pytest.mark.parametrize("code", [0, 143])
def test_work_under_way_is_finished_before_the_stop(code: int) -> None:
    def slow() -> httpx.Response:
        time.sleep(0.5)
        return httpx.Response(200)

    found, _ = lifecycle.assert_graceful(Stopping(Stopped(code, 0.5)), slow, n=2)  # type: ignore[arg-type]
    assert len(found) == 2


def test_a_stop_that_drops_work_or_takes_too_long_fails(fails: Fails) -> None:
    def cut() -> httpx.Response:
        time.sleep(0.4)
        raise httpx.ReadError("reset")

    def fine() -> httpx.Response:
        time.sleep(0.4)
        return httpx.Response(200)

    def broken() -> httpx.Response:
        time.sleep(0.4)
        return httpx.Response(503)

    def stopping(code: int | None) -> Stopping:
        return Stopping(Stopped(code, 1.0))

    fails("1 of 1 requests under way", lifecycle.assert_graceful, stopping(0), cut)
    fails("answered 503", lifecycle.assert_graceful, stopping(0), broken)
    fails("still runs", lifecycle.assert_graceful, stopping(None), fine)
    fails("ended with code 1", lifecycle.assert_graceful, stopping(1), fine)


# --- config ---------------------------------------------------------------------------------------


class Launched:
    """A service that was started with an environment and has, or has not, ended."""

    def __init__(self, environment: dict[str, str], code: int | None, log: str) -> None:
        self.environment, self._code, self._log = environment, code, log

    def wait_exit(self, timeout: float) -> int | None:
        return self._code

    def connects(self) -> bool:
        return self._code is None

    def log_text(self) -> str:
        return self._log


def test_a_service_that_cannot_be_configured_ends_and_says_why(fails: Fails) -> None:
    started: list[dict[str, str]] = []

    def launcher(code: int | None, log: str) -> Any:
        def launch(environment: dict[str, str], wait: bool) -> Launched:
            assert wait is False
            started.append(environment)
            return Launched(environment, code, log)

        return launch

    given = {"CARRIER_URL": "http://x", "LIMIT": "3"}
    config.refuses_without(launcher(1, "CARRIER_URL is missing"), given, "CARRIER_URL")
    config.refuses_without(
        launcher(1, "Settings: carrier_url Field required"), given, "CARRIER_URL"
    )
    config.refuses_nonsense(launcher(1, "limit must be a number"), given, "LIMIT", "many")
    assert started == [{"LIMIT": "3"}, {"LIMIT": "3"}, {**given, "LIMIT": "many"}]
    for code, log, message in (
        (None, "", "runs on"),
        (0, "CARRIER_URL", "exit code 0"),
        (1, "KeyError", "does not name"),
    ):
        fails(message, config.refuses_without, launcher(code, log), given, "CARRIER_URL")


# --- data -----------------------------------------------------------------------------------------

WITH_WAY_BACK = [
    {
        "migrations/001_init.up.sql": "CREATE TABLE t (id)",
        "migrations/001_init.down.sql": "DROP TABLE t",
    },
    {"migrations/0001_init.sql": "CREATE TABLE t (id);\n-- down\nDROP TABLE t;"},
    {"db/up/001_a.sql": "CREATE TABLE t (id)", "db/down/001_a.sql": "DROP TABLE t"},
    {
        "alembic/versions/0001_init.py": "def upgrade():\n    op.create_table('t')\n"
        "def downgrade():\n    op.drop_table('t')\n"
    },
    {"db.py": 'MIGRATIONS = [Migration(1, up="CREATE TABLE t (id)", down="DROP TABLE t")]'},
    {"db.py": 'MIGRATIONS = [{"version": 1, "up": "CREATE TABLE t (x)", "down": "DROP TABLE t"}]'},
    {"db.py": 'STEPS = [(1, "CREATE TABLE t (id)", "DROP TABLE t")]\ndef migrate(db): ...'},
    {"db.py": 'MIGRATIONS = [(1, "init", ["CREATE TABLE t (id)"], ["DROP TABLE t"])]'},
    {
        "db.py": "def up_1(db):\n    db.execute('CREATE TABLE t (id)')\n"
        "def down_1(db):\n    db.execute('DROP TABLE t')\nMIGRATIONS = [(1, up_1, down_1)]"
    },
]


@pytest.mark.parametrize("files", WITH_WAY_BACK)
def test_every_style_of_migrations_with_a_way_back_is_seen(files: dict[str, str]) -> None:
    data.assert_way_back(files)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"main.py": 'db.execute("CREATE TABLE IF NOT EXISTS t (id)")'}, "no schema migrations"),
        ({"migrations/001_init.sql": "CREATE TABLE t (id)"}, "have no way back"),
        ({"db.py": 'MIGRATIONS = [(1, "CREATE TABLE t (id)")]'}, "have no way back"),
        (
            {
                "alembic/versions/0001_a.py": "def upgrade():\n    op.create_table('t')\n"
                "def downgrade():\n    pass\n"
            },
            "have no way back",
        ),
        (
            {"db.py": "MIGRATIONS = [(1, 'CREATE TABLE t (id)')]\ndef shutdown():\n    close()"},
            "have no way back",
        ),
        (
            {
                "db.py": "MIGRATIONS = [(1, 'CREATE TABLE t (id)')]\n"
                "def save(db):\n    db.rollback()"
            },
            "have no way back",
        ),
    ],
)
def test_a_schema_without_migrations_or_without_a_way_back_fails(
    fails: Fails, files: dict[str, str], message: str
) -> None:
    fails(message, data.assert_way_back, files)


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (["PRAGMA user_version = 2", "CREATE TABLE t (id)"], ""),
        (["CREATE TABLE schema_migrations (v)", "INSERT INTO schema_migrations VALUES (1)"], ""),
        (["CREATE TABLE alembic_version (v)", "INSERT INTO alembic_version VALUES ('a')"], ""),
        (["CREATE TABLE schema_migrations (v)"], "no database records"),
        (["CREATE TABLE t (id)"], "no database records"),
        ([], "no SQLite database"),
    ],
)
def test_the_database_knows_the_version_of_its_schema(
    stub: StubService, fails: Fails, statements: list[str], message: str
) -> None:
    (stub.data / "other.txt").write_text("x")
    if statements:
        connection = sqlite3.connect(stub.data / "app.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in statements:
            connection.execute(statement)
    if message:
        fails(message, data.assert_versioned, stub)
    else:
        data.assert_versioned(stub)


# --- tokens ---------------------------------------------------------------------------------------


def read(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, payload, _ = token.split(".")
    parts = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (head, payload)]
    return json.loads(parts[0]), json.loads(parts[1])


def test_a_token_is_the_one_of_the_standard() -> None:
    jwt = pytest.importorskip("jwt")
    token = tokens.sign({"sub": "1"}, "k" * 64, "HS512", {"kid": "a"})
    assert jwt.decode(token, "k" * 64, algorithms=["HS512"]) == {"sub": "1"}
    assert jwt.get_unverified_header(token) == {"alg": "HS512", "typ": "JWT", "kid": "a"}


def test_every_forgery_is_refused_by_a_library_that_is_used_well() -> None:
    jwt = pytest.importorskip("jwt")
    key = "k" * 32
    claims = {"sub": "eve", "tenant": "a", "exp": int(time.time()) + 600}
    assert jwt.decode(tokens.sign(claims, key), key, algorithms=["HS256"]) == claims
    forged = tokens.forgeries(claims, key, tenant="b")
    assert len(forged) == 10
    for name, token in forged.items():
        with pytest.raises(jwt.InvalidTokenError):
            jwt.decode(token, key, algorithms=["HS256"])
            pytest.fail(name)
    assert read(forged["unsigned (alg none)"])[1]["tenant"] == "b"
