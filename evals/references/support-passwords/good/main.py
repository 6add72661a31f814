"""Accounts of the yarn shop: sign up, log in, look up, and a code for those who forgot."""

import hmac
import json
import logging
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from store import WINDOW_S, EmailTaken, Store

log = logging.getLogger("accounts")

MAX_BODY = 16 * 1024
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Refused(Exception):
    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(error)
        self.status, self.error, self.message = status, error, message


class Accounts:
    def __init__(self, store: Store, support_key: str) -> None:
        self._store = store
        self._support_key = support_key.encode()
        # 19 MiB a try, four at once: 300 customers in ten minutes don't notice, a small server
        # stays whole. https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        self._at_once = threading.BoundedSemaphore(4)
        self._nobody = self._hash("nobody has this one")

    def sign_up(self, request: Request, body: Any) -> Response:
        email, name = _email(body), _text(body, "name", 1, 100)
        password_hash = self._hash(_text(body, "password", 8, 128))
        try:
            account = self._store.add_account(email, name, password_hash)
        except EmailTaken:
            raise Refused(409, "email_taken", "There is an account with this address.") from None
        log.info("account %s made", account["id"])
        return JSONResponse(_shown(account), 201)

    def log_in(self, request: Request, body: Any) -> Response:
        email = _text(body, "email", 0, 1000).lower()
        password = _text(body, "password", 0, 1000)
        self._check_tries(email)
        account = self._store.find_account(email)
        right = self._matches(account["password_hash"] if account else self._nobody, password)
        if account is None or not right:
            raise Refused(401, "wrong_login", "Address or password is wrong.")
        self._store.forget_tries(email)
        log.info("account %s logged in", account["id"])
        return JSONResponse({"token": self._store.open_session(account["id"])})

    def me(self, request: Request, body: Any) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        account = self._store.account_of_session(token) if scheme.lower() == "bearer" else None
        if account is None:
            raise Refused(401, "not_logged_in", "Please log in.")
        return JSONResponse(_shown(account))

    def look_up(self, request: Request, body: Any) -> Response:
        self._check_support(request)
        email = request.query_params.get("email")
        if not email:
            raise Refused(400, "invalid", "email is missing")
        account = self._store.find_account(email.lower())
        if account is None:
            raise Refused(404, "not_found", "No customer has this address.")
        return JSONResponse(_shown(account))

    def reset_code(self, request: Request, body: Any) -> Response:
        self._check_support(request)
        account_id = request.path_params["id"]
        code = self._store.new_reset_code(account_id)
        if code is None:
            raise Refused(404, "not_found", "There is no such customer.")
        log.warning("a reset code was made for account %s", account_id)
        return JSONResponse({"code": code, "expires_in": 900}, 201)

    def reset_password(self, request: Request, body: Any) -> Response:
        email, code = _email(body), _text(body, "code", 1, 20).upper()
        password = _text(body, "password", 8, 128)
        self._check_tries(email)
        account = self._store.find_account(email)
        password_hash = self._hash(password)
        if account is None or not self._store.reset_password(account["id"], code, password_hash):
            raise Refused(401, "wrong_code", "Address or code is wrong, or the code is too old.")
        self._store.forget_tries(email)
        log.warning("account %s has a new password", account["id"])
        return Response(status_code=204)

    def _check_support(self, request: Request) -> None:
        given = request.headers.get("x-support-key", "").encode()
        if not hmac.compare_digest(given, self._support_key):
            raise Refused(401, "no_support", "The helpers' code is missing or wrong.")

    def _check_tries(self, email: str) -> None:
        if not self._store.may_try(email):
            raise Refused(429, "too_many_tries", "Too many wrong tries. Please wait a minute.")

    def _hash(self, password: str) -> str:
        with self._at_once:
            return self._hasher.hash(password)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            with self._at_once:
                return self._hasher.verify(password_hash, password)
        except VerifyMismatchError:
            return False


def _shown(account: Any) -> dict[str, Any]:
    return {name: account[name] for name in ("id", "email", "name", "created_at")}


def _text(body: Any, name: str, least: int, most: int) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise Refused(400, "invalid", f"{name} must be a text of {least} to {most} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Refused(400, "invalid", f"{name} holds something that is no character")
    return value


def _email(body: Any) -> str:
    email = _text(body, "email", 3, 254)
    if not EMAIL.fullmatch(email):
        raise Refused(400, "invalid", "email is no e-mail address")
    return email.lower()


async def _read_json(request: Request) -> Any:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise Refused(400, "invalid", "that is too much")
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(400, "invalid", "the body is no JSON") from None


def _error(status: int, error: str, message: str) -> Response:
    headers = {"Retry-After": str(WINDOW_S)} if status == 429 else None
    return JSONResponse({"error": error, "message": message}, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.status in (401, 429):
        log.warning("%s %s: %s", request.method, request.url.path, error.error)
    return _error(error.status, error.error, error.message)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, "not_here", "There is nothing here.")


async def _internal(request: Request, error: Exception) -> Response:
    return _error(500, "internal", "Something went wrong here.")


def create_app(accounts: Accounts) -> Starlette:
    def route(path: str, method: str, operation: Any) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await _read_json(request) if operation in with_body else None
            return await run_in_threadpool(operation, request, body)

        return Route(path, endpoint, methods=[method])

    with_body = {accounts.sign_up, accounts.log_in, accounts.reset_password}
    return Starlette(
        routes=[
            route("/accounts", "POST", accounts.sign_up),
            route("/login", "POST", accounts.log_in),
            route("/me", "GET", accounts.me),
            route("/support/accounts", "GET", accounts.look_up),
            route("/support/accounts/{id}/reset-code", "POST", accounts.reset_code),
            route("/password-reset", "POST", accounts.reset_password),
        ],
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_error,
            Exception: _internal,
        },
    )


def main() -> None:
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    support_key = os.environ.get("SUPPORT_KEY", "")
    if len(support_key) < 20:
        sys.exit("SUPPORT_KEY must be set, to 20 characters or more. Not started.")
    if not os.environ.get("DATA_DIR") or not os.environ.get("PORT", "").isdecimal():
        sys.exit("DATA_DIR must be set to a folder and PORT to a number. Not started.")
    store = Store(Path(os.environ["DATA_DIR"]))
    uvicorn.run(
        create_app(Accounts(store, support_key)),
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        access_log=False,
    )


if __name__ == "__main__":
    main()
