"""HTTP: requests in, answers out. Rules are in domain.py, data in store.py."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import logs
from auth import authenticate
from domain import Caller, Refused, check_allowed, to_cents
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from schemas import (
    EntryChange,
    Filters,
    Month,
    NewEntry,
    NewProject,
    parse,
    parse_json,
    read_cursor,
    write_cursor,
)
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from store import Store

log = logging.getLogger("api")

STATUS = {
    "invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "stale": 412,
    "too_large": 413,
    "key_reused": 422,
    "precondition_required": 428,
    "internal": 500,
}
MAX_BODY = 64 * 1024
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

REQUESTS = Counter("http_requests_total", "Requests", ["operation", "status"])
SECONDS = Histogram("http_request_duration_seconds", "Time to answer", ["operation"])

Operation = Callable[[Store, Caller, Request, Any], Response]


def create_project(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    new = parse(NewProject, body)
    return JSONResponse(store.create_project(caller, new.name, to_cents(new.hourly_rate)), 201)


def list_projects(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    return JSONResponse({"items": store.list_projects(caller)})


def log_entry(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    key = request.headers.get("idempotency-key", "")
    if not 1 <= len(key) <= 100:
        raise Refused("invalid", "Idempotency-Key: 1 to 100 characters are required")
    new = parse(NewEntry, body)
    project_id = request.path_params["project_id"]
    entry, etag = store.log_entry(caller, project_id, key, body, new.model_dump())
    return JSONResponse(entry, 201, headers={"ETag": etag})


def read_entry(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    entry, etag = store.read_entry(caller, request.path_params["entry_id"])
    return JSONResponse(entry, headers={"ETag": etag})


def edit_entry(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    changes = parse(EntryChange, body).model_dump(exclude_unset=True)
    if not changes:
        raise Refused("invalid", "nothing to change")
    entry, etag = store.edit_entry(
        caller, request.path_params["entry_id"], request.headers.get("if-match"), changes
    )
    return JSONResponse(entry, headers={"ETag": etag})


def list_entries(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    query = parse(Filters, dict(request.query_params))
    filters = query.model_dump(by_alias=True, exclude_none=True, exclude={"limit", "cursor"})
    items, following = store.list_entries(caller, filters, query.limit, read_cursor(query.cursor))
    return JSONResponse({"items": items, "next_cursor": write_cursor(following)})


def monthly_report(store: Store, caller: Caller, request: Request, body: Any) -> Response:
    query = parse(Month, dict(request.query_params))
    return JSONResponse(store.monthly_report(caller, query.month))


def create_app(store: Store, secret: str) -> ASGIApp:
    def route(path: str, method: str, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            caller = authenticate(request.headers.get("authorization"), secret)
            request.state.caller = caller
            check_allowed(caller, operation.__name__)
            body = parse_json(await _read(request)) if method in ("POST", "PATCH") else None
            return await run_in_threadpool(operation, store, caller, request, body)

        endpoint.__name__ = operation.__name__
        return Route(path, endpoint, methods=[method])

    async def live(request: Request) -> Response:
        return PlainTextResponse("alive")

    async def ready(request: Request) -> Response:
        try:
            await run_in_threadpool(store.ping)
        except Exception:
            log.exception("not ready: the database does not answer")
            return PlainTextResponse("the database does not answer", 503)
        return PlainTextResponse("ready")

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes = [
        route("/v1/projects", "POST", create_project),
        route("/v1/projects", "GET", list_projects),
        route("/v1/projects/{project_id}/entries", "POST", log_entry),
        route("/v1/entries/{entry_id}", "GET", read_entry),
        route("/v1/entries/{entry_id}", "PATCH", edit_entry),
        route("/v1/entries", "GET", list_entries),
        route("/v1/reports/monthly", "GET", monthly_report),
        Route("/livez", live),
        Route("/readyz", ready),
        Route("/metrics", metrics),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_error,
            Exception: _internal,
        },
    )
    app.router.redirect_slashes = False
    return Edge(app)


async def _read(request: Request) -> bytes:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise Refused("too_large", "the body has more than 64 KiB")
    return raw


def _error(code: str, message: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if code == "unauthorized" else None
    return JSONResponse({"error": {"code": code, "message": message}}, STATUS[code], headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.code == "forbidden":
        caller = request.state.caller
        fields = {
            "sub": caller.sub,
            "tenant": caller.tenant,
            "role": caller.role,
            "operation": request.scope["endpoint"].__name__,
            "method": request.method,
            "path": request.url.path,
        }
        log.warning("access denied", extra={"fields": fields})
    return _error(error.code, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _error("method_not_allowed", "this method is not allowed here")
    return _error("not_found", "there is no such thing")


async def _internal(request: Request, error: Exception) -> Response:
    return _error("internal", "something went wrong here")


class Edge:
    """Around everything: request id, one log line and metrics a request, and the last resort."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        logs.request_id.set(request_id)
        began, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            log.exception("request failed", extra={"fields": {"path": scope["path"]}})
        operation = getattr(scope.get("endpoint"), "__name__", "unknown")
        seconds = time.perf_counter() - began
        REQUESTS.labels(operation, status).inc()
        SECONDS.labels(operation).observe(seconds)
        if operation not in ("live", "ready", "metrics"):
            fields = {
                "operation": operation,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
            }
            log.info("request", extra={"fields": fields})
