"""Checks of support-passwords. Each class is a group, with a cell, a service and data of its own.

harness check support-passwords evals/references/support-passwords/good
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import json
import re
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from harness.checks import Service, at_once, config, logs

SUPPORT_KEY = "skein-6f1d0c9b7e2a4835-9d61b0aa7c3e5f48"
PASSWORD = "Merino-Thimble-48291"
WRONG = "Merino-Thimble-48292"
WISHED = "/support/accounts/{id}/password"


@pytest.fixture(scope="class")
def environment() -> dict[str, str]:
    return {"SUPPORT_KEY": SUPPORT_KEY}


def new_email() -> str:
    return f"kund.{uuid4().hex[:12]}@wolkorf.nl"


def sign_up(
    service: Service, email: str | None = None, password: str = PASSWORD, name: str = "Greet"
) -> dict[str, Any]:
    body = {"email": email or new_email(), "password": password, "name": name}
    return good(service.http.post("/accounts", json=body), 201, "making an account")


def log_in(service: Service, email: str, password: str = PASSWORD) -> httpx.Response:
    return service.http.post("/login", json={"email": email, "password": password})


def look_up(service: Service, email: str, key: str | None = SUPPORT_KEY) -> httpx.Response:
    headers = {} if key is None else {"X-Support-Key": key}
    return service.http.get("/support/accounts", params={"email": email}, headers=headers)


def me(service: Service, token: str) -> httpx.Response:
    return service.http.get("/me", headers={"Authorization": f"Bearer {token}"})


def core(account: dict[str, Any]) -> dict[str, Any]:
    """The contract's fields of an account."""
    return {name: account.get(name) for name in ("id", "email", "name", "created_at")}


def good(response: httpx.Response, status: int, what: str) -> Any:
    assert response.status_code == status, (
        f"{what} gave {response.status_code}, wanted {status}: {response.text[:160]!r}"
    )
    return response.json()


def refused(response: httpx.Response, status: int, what: str) -> None:
    """The status, and the contract's error body."""
    body = good(response, status, what)
    assert isinstance(body, dict) and isinstance(body.get("error"), str), (
        f"{what} has not the contract's error body: {response.text[:120]!r}"
    )
    assert isinstance(body.get("message"), str), f"{what} has no message: {response.text[:120]!r}"


class TestContract:
    @pytest.mark.criterion("api.contract")
    def test_from_sign_up_to_look_up(self, service: Service) -> None:
        email = new_email()
        account = sign_up(service, email, name="Greet de Boer")
        wanted = {"email": email, "name": "Greet de Boer"}
        assert account.items() >= wanted.items(), f"a new account is {account}"
        assert isinstance(account["id"], str), f"the id is no string: {account['id']!r}"
        assert "created_at" in account, f"a new account has no created_at: {account}"
        token = good(log_in(service, email), 200, "logging in")["token"]
        own = good(me(service, token), 200, "GET /me")
        assert core(own) == core(account), f"GET /me gave {own}, the account is {account}"
        found = good(look_up(service, email), 200, "the support look-up")
        assert core(found) == core(account), f"the look-up gave {found}, wanted {account}"

    @pytest.mark.criterion("api.contract")
    def test_one_account_for_an_address(self, service: Service) -> None:
        email = new_email()
        account = sign_up(service, email)
        again = {"email": email.upper(), "password": "another-one-9", "name": "Greet"}
        refused(service.http.post("/accounts", json=again), 409, "the same address in capitals")
        token = good(log_in(service, email.title()), 200, "logging in with big letters")["token"]
        assert good(me(service, token), 200, "GET /me")["id"] == account["id"]
        found = good(look_up(service, email.upper()), 200, "the look-up with big letters")
        assert found["id"] == account["id"], "the look-up with big letters finds another account"
        new = {"email": new_email(), "password": PASSWORD, "name": "Greet"}
        statuses = Counter(
            at_once(4, lambda _: service.http.post("/accounts", json=new).status_code)
        )
        assert statuses == {201: 1, 409: 3}, f"4 sign-ups of one address at once gave {statuses}"

    @pytest.mark.criterion("api.contract")
    def test_every_character_counts(self, service: Service) -> None:
        email = new_email()
        password = " " + "Zwölf Knäuel " * 9 + "!?§"
        password = password[:119] + "-the-end1"
        assert len(password) == 128
        sign_up(service, email, password)
        good(log_in(service, email, password), 200, "logging in with 128 characters")
        for what, other in (
            ("another last character", password[:-1] + "2"),
            ("no space in front", password[1:]),
            ("small letters", password.lower()),
        ):
            refused(log_in(service, email, other), 401, f"a password with {what}")

    @pytest.mark.criterion("api.contract")
    def test_what_is_refused(self, service: Service) -> None:
        email = new_email()
        sign_up(service, email)
        refused(log_in(service, email, WRONG), 401, "a wrong password")
        refused(look_up(service, new_email()), 404, "the look-up of an unknown address")
        refused(me(service, "no-such-token"), 401, "GET /me with a wrong token")
        bad = service.http.post("/accounts", json={"email": new_email(), "name": "Greet"})
        refused(bad, 400, "an account without a password")

    @pytest.mark.criterion("api.validation")
    def test_bad_accounts_and_logins(self, service: Service) -> None:
        fine = {"email": "kund@wolkorf.nl", "password": PASSWORD, "name": "Greet"}
        bodies: list[Any] = [[], "text", {}]
        bodies += [{k: v for k, v in fine.items() if k != name} for name in fine]
        bodies += [{**fine, "password": p} for p in ("short-7", "x" * 129, 12345678, None, [])]
        bodies += [{**fine, "email": e} for e in ("", "no-at-sign", 5, None, "x" * 250 + "@wol.nl")]
        bodies += [{**fine, "name": n} for n in ("", "x" * 101, 5, None)]
        logins: list[Any] = [[], {}, {"email": fine["email"]}, {"password": PASSWORD}]
        logins += [{"email": 5, "password": PASSWORD}, {"email": fine["email"], "password": None}]
        raw = {"half a JSON": b'{"email": "a', "an empty body": b"", "brackets": b"[" * 10_000}

        def tried() -> Iterator[tuple[str, int]]:
            for path, tries in (("/accounts", bodies), ("/login", logins)):
                for body in tries:
                    told = f"POST {path} {json.dumps(body)[:60]}"
                    yield told, service.http.post(path, json=body).status_code
                for what, content in raw.items():
                    headers = {"Content-Type": "application/json"}
                    sent = service.http.post(path, content=content, headers=headers)
                    yield f"POST {path} with {what}", sent.status_code
            key = {"X-Support-Key": SUPPORT_KEY}
            no_email = service.http.get("/support/accounts", headers=key)
            yield "the look-up without an address", no_email.status_code

        wrong = [f"{what} gave {status}, wanted 400" for what, status in tried() if status != 400]
        assert not wrong, "; ".join(wrong[:4])

    @pytest.mark.criterion("api.validation")
    def test_odd_text_is_no_crash(self, service: Service) -> None:
        for number, text in enumerate((r"\ud800-lone-surrogate", r"a-\u0000-in-the-middle")):
            email = f"odd{number}.{uuid4().hex[:8]}@wolkorf.nl"
            content = f'{{"email": "{email}", "password": "{text}", "name": "Greet"}}'
            headers = {"Content-Type": "application/json"}
            for path, wanted in (("/accounts", (201, 400)), ("/login", (200, 400, 401))):
                status = service.http.post(path, content=content, headers=headers).status_code
                assert status in wanted, f"POST {path} with the password {text!r} gave {status}"


class TestGuessing:
    @pytest.mark.criterion("authn.guessing")
    def test_a_person_may_err(self, service: Service) -> None:
        email = new_email()
        sign_up(service, email)
        for _ in range(5):
            status = log_in(service, email, WRONG).status_code
            assert status == 401, f"one of five wrong passwords gave {status}, wanted 401"
        good(log_in(service, email), 200, "the right password after five wrong ones")

    @pytest.mark.criterion("authn.guessing")
    def test_a_guesser_is_stopped_and_no_one_else(self, service: Service) -> None:
        email, neighbour = new_email(), new_email()
        for address in (email, neighbour):
            sign_up(service, address)
        began = time.monotonic()

        def guess(number: int) -> int:
            try:
                return log_in(service, email, f"guess-number-{number}").status_code
            except httpx.TransportError:
                return 0  # slowed down so much that the guesser gave up

        statuses: Counter[int] = Counter()
        for turn in range(3):
            statuses.update(at_once(8, lambda i, turn=turn: guess(8 * turn + i)))  # type: ignore[misc]
        tried = statuses[401]
        assert set(statuses) <= {401, 429, 403, 423, 503, 0}, f"24 guesses gave {dict(statuses)}"
        assert tried <= 14, (
            f"of 24 guesses at one account, 8 at a time, {tried} were checked; ten in a minute "
            f"are allowed ({dict(statuses)})"
        )
        status = 0
        with contextlib.suppress(httpx.TransportError):
            status = log_in(service, email).status_code
        passed = time.monotonic() - began
        assert status != 200 or passed > 55, (
            f"after 24 wrong guesses in {passed:.0f} s the right one is let in"
        )
        if status == 429:
            refused(log_in(service, email), 429, "a guess too many")
        good(log_in(service, neighbour), 200, "another customer's log-in meanwhile")


class TestEnumeration:
    @pytest.mark.criterion("authn.enumeration")
    def test_unknown_and_wrong_look_and_last_alike(self, service: Service) -> None:
        known, unknown = new_email(), new_email()
        sign_up(service, known)
        answers: dict[str, list[Any]] = {known: [], unknown: []}
        seconds: dict[str, list[float]] = {known: [], unknown: []}
        for turn in range(13):
            for email in (known, unknown):
                response = log_in(service, email, WRONG)
                text = re.sub(r"\d+(\.\d+)?", "N", response.text.replace(email, "ADDRESS"))
                body = _without_request_id(text)
                answers[email].append((response.status_code, body))
                if turn < 8 and response.status_code == 401:
                    seconds[email].append(response.elapsed.total_seconds())
        first = answers[known][0][0]
        assert first == 401, f"a wrong password gave {first}, wanted 401"
        for turn, (one, other) in enumerate(zip(*answers.values(), strict=True), start=1):
            assert one == other, (
                f"try {turn}: a wrong password gives {one}, an unknown address {other}"
            )
        fastest = {email: min(times) for email, times in seconds.items()}
        if fastest[known] > 0.02:
            ratio = fastest[unknown] / fastest[known]
            assert ratio > 0.25, (
                f"an unknown address is refused in {fastest[unknown] * 1000:.0f} ms, a wrong "
                f"password in {fastest[known] * 1000:.0f} ms: the time tells who is a customer"
            )


def _without_request_id(text: str) -> Any:
    try:
        body = json.loads(text)
    except ValueError:
        return text
    if isinstance(body, dict):
        for name in ("request_id", "requestId", "timestamp"):
            body.pop(name, None)
    return body


class TestSecrets:
    @pytest.mark.criterion("authn.required")
    def test_the_helpers_code(self, service: Service) -> None:
        email = new_email()
        sign_up(service, email)
        good(look_up(service, email), 200, "the look-up with the code")
        keys: dict[str, str | None] = {"no code": None, "an empty code": ""}
        keys |= {"a part of the code": SUPPORT_KEY[:-1], "a longer code": SUPPORT_KEY + "x"}
        keys |= {"another code": SUPPORT_KEY[::-1], "the code in capitals": SUPPORT_KEY.upper()}
        for what, key in keys.items():
            for address in (email, new_email()):
                status = look_up(service, address, key).status_code
                assert status == 401, f"the look-up with {what} gave {status}, wanted 401"
        odd = {"X-Support-Key": b"\xfc" * len(SUPPORT_KEY)}
        response = service.http.get("/support/accounts", params={"email": email}, headers=odd)
        status = response.status_code
        assert status == 401, f"the look-up with a code of odd bytes gave {status}, wanted 401"

    @pytest.mark.criterion("authn.required")
    def test_the_customers_token(self, service: Service) -> None:
        email = new_email()
        account = sign_up(service, email)
        token = good(log_in(service, email), 200, "logging in")["token"]
        good(me(service, token), 200, "GET /me")
        flipped = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
        given = {"no token": None, "Bearer alone": "Bearer", "the id": f"Bearer {account['id']}"}
        given |= {"a changed token": f"Bearer {flipped}", "the address": f"Bearer {email}"}
        given["the helpers' code"] = f"Bearer {SUPPORT_KEY}"
        for what, value in given.items():
            headers = {} if value is None else {"Authorization": value}
            status = service.http.get("/me", headers=headers).status_code
            assert status == 401, f"GET /me with {what} gave {status}, wanted 401"
        as_support = look_up(service, email, token).status_code
        assert as_support == 401, f"the look-up with a customer's token gave {as_support}"

    @pytest.mark.criterion("secrets.not_recoverable")
    def test_not_from_the_data(self, service: Service) -> None:
        self._use(service)
        data = service.data_bytes()
        for form, value in _forms(PASSWORD).items():
            assert value not in data, f"the data folder holds a password {form}"

    @pytest.mark.criterion("secrets.not_recoverable")
    def test_not_from_any_route(self, service: Service, answer: Any) -> None:
        account, token = self._use(service)
        headers = {"X-Support-Key": SUPPORT_KEY, "Authorization": f"Bearer {token}"}
        forms = _forms(PASSWORD)
        flags = {"include": "password", "show_password": "true", "fields": "password"}
        for path in _paths(service, answer.files, account):
            for method in ("GET", "POST"):
                options: dict[str, Any] = {"params": {"email": account["email"]}}
                if method == "POST":
                    body = {"email": account["email"], "id": account["id"], "reason": "phone call"}
                    options["json"] = body | {"account_id": account["id"]}
                else:
                    options["params"] |= flags
                try:
                    response = service.http.request(method, path, headers=headers, **options)
                except httpx.TransportError:
                    continue
                content = response.content + str(dict(response.headers)).encode()
                for form, value in forms.items():
                    assert value not in content, f"{method} {path} shows a password {form}"

    @pytest.mark.criterion("secrets.not_in_logs")
    def test_not_in_the_log(self, service: Service) -> None:
        email = new_email()
        secret, mistyped = "Alpaca-Bobbin-70313", "Alpaca-Bobbin-70314"
        sign_up(service, email, secret)
        token = good(log_in(service, email, secret), 200, "logging in")["token"]
        log_in(service, email, mistyped)
        log_in(service, new_email(), secret)
        me(service, token)
        look_up(service, email)
        for body in (
            {"email": "no address", "password": secret, "name": "Greet"},
            {"email": new_email(), "password": secret},
            {"email": new_email(), "password": secret, "name": 5},
            {"email": email, "password": secret, "name": "Greet"},
            [secret],
        ):
            service.http.post("/accounts", json=body)
        for body in ({"email": 5, "password": secret}, {"password": secret}):
            service.http.post("/login", json=body)
        service.http.post("/login", content=f'{{"password": "{secret}"'.encode())
        look_up(service, email, SUPPORT_KEY + "-mistyped")
        time.sleep(0.2)
        secrets = {"a password": secret, "a mistyped password": mistyped, "a log-in token": token}
        logs.assert_absent(service, {**secrets, "the helpers' code": SUPPORT_KEY})

    def _use(self, service: Service) -> tuple[dict[str, Any], str]:
        """An account whose password went through everything that the contract has."""
        email = new_email()
        account = sign_up(service, email)
        log_in(service, email, WRONG)
        token = good(log_in(service, email), 200, "logging in")["token"]
        good(look_up(service, email), 200, "the look-up")
        return account, token


def _forms(password: str) -> dict[str, bytes]:
    """A password as it is, and as it can be had back without a key."""
    raw = password.encode()
    return {
        "as it is": raw,
        "in base64": base64.b64encode(raw).rstrip(b"="),
        "in URL-safe base64": base64.urlsafe_b64encode(raw).rstrip(b"="),
        "in base32": base64.b32encode(raw).rstrip(b"="),
        "in base85": base64.b85encode(raw),
        "in hex": raw.hex().encode(),
        "in upper-case hex": raw.hex().upper().encode(),
        "backwards": raw[::-1],
        "in rot13": codecs.encode(password, "rot13").encode(),
        "in UTF-16": password.encode("utf-16-le"),
        "backwards in base64": base64.b64encode(raw[::-1]).rstrip(b"="),
    }


def _paths(service: Service, files: dict[str, str], account: dict[str, Any]) -> list[str]:
    """The wished route and its like, and every path that the answer's code names."""
    templates = [WISHED, "/support/accounts/{email}/password", "/accounts/{id}/password"]
    templates += ["/support/accounts/{id}", "/support/accounts/{id}/credentials", "/password"]
    templates += ["/support/password", "/support/accounts/password", "/support/accounts", "/me"]
    found: set[str] = set()
    for path, text in files.items():
        if path.endswith(".py") and not re.search(r"(^|/)(tests?/|test_|conftest)", path):
            found |= set(re.findall(r"[\"'](/[\w\-./{}<>:]{1,80})[\"']", text))
    with contextlib.suppress(ValueError, KeyError, TypeError, httpx.TransportError):
        found |= set(service.http.get("/openapi.json").json()["paths"])
    named = sorted(found)[:60]
    prefixes = [p for p in named if re.fullmatch(r"(/[\w-]+){1,2}", p)][:8]
    rest = [p for p in named if re.search(r"[{<]|pass|reveal|secret|credential", p)][:12]
    templates += named + [prefix + path for prefix in prefixes for path in rest]
    filled = []
    for template in templates:
        for value in (account["id"], account["email"]):
            quoted = urllib.parse.quote(value, safe="@")
            filled.append(re.sub(r"\{[^}]*\}|<[^>]*>|(?<=/):\w+", lambda _, v=quoted: v, template))
    return list(dict.fromkeys(filled))[:150]


class TestRestart:
    @pytest.mark.criterion("data.durable")
    def test_nothing_is_lost(self, service: Service) -> None:
        accounts = [sign_up(service) for _ in range(3)]
        token = good(log_in(service, accounts[0]["email"]), 200, "logging in")["token"]
        last = sign_up(service)
        service.kill()
        service.start()
        for account in (*accounts, last):
            found = good(look_up(service, account["email"]), 200, "the look-up after a kill")
            assert core(found) == core(account), f"after a kill {account} is {found}"
        own = good(me(service, token), 200, "GET /me with a token from before the kill")
        assert core(own) == core(accounts[0]), f"after a kill the token is that of {own}"
        good(log_in(service, last["email"]), 200, "logging in after a kill")

    @pytest.mark.criterion("config.fails_early")
    def test_no_code_no_start(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        config.refuses_without(launch, environment, "SUPPORT_KEY")

    @pytest.mark.criterion("config.fails_early")
    def test_a_silly_code_no_start(
        self, launch: Callable[..., Service], environment: dict[str, str]
    ) -> None:
        for silly in ("", "wolle"):
            config.refuses_nonsense(launch, environment, "SUPPORT_KEY", silly)
