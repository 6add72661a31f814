"""The HTTP side: reads requests, answers in the contract's words. No SQL, no rules about lines."""

import asyncio
import hashlib
import os
import re
import time
import uuid

import prometheus_client
from aiohttp import web

from intake import log, metrics, records, trace

MAX_BODY = 8_000_000
MAX_PAGE = 1000
BATCH_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
RETRY_AFTER_S = 5
QUIET = ("/healthz", "/readyz", "/metrics")
CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 500: "internal"}
FIRST, LAST = -(10**12), 10**12
"""Before and after every moment that can be written."""


class Refused(Exception):
    """An error answer of the contract."""

    def __init__(self, status, code, message, headers=None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


def application(handlers):
    app = web.Application(middlewares=[_around])
    app.router.add_post("/v1/batches", handlers.push)
    app.router.add_get("/v1/batches/{batch_id}", handlers.batch)
    app.router.add_get("/v1/batches/{batch_id}/errors", handlers.errors)
    app.router.add_get("/v1/meters/{meter}/readings", handlers.readings)
    app.router.add_get("/healthz", handlers.alive)
    app.router.add_get("/readyz", handlers.ready)
    app.router.add_get("/metrics", handlers.metrics)
    return app


@web.middleware
async def _around(request, handler):
    """Request id, trace, error bodies, one log line and one count for each request."""
    given = request.headers.get("X-Request-ID", "")
    request["id"] = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    request["trace"] = trace.incoming(request.headers.get("traceparent"))
    began = time.monotonic()
    try:
        response = await handler(request)
    except Refused as refused:
        response = _error(refused.status, refused.code, str(refused), refused.headers)
    except web.HTTPException as error:
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        code = CODES.get(error.status, "bad_request")
        response = _error(error.status, code, error.reason, allow)
    except ConnectionError:
        raise  # the caller is gone
    except Exception:
        log.event("request failed", level="error", exc_info=True, request_id=request["id"])
        response = _error(500, "internal", "unexpected error")
    response.headers["X-Request-ID"] = request["id"]
    route = request.match_info.route.resource
    route = route.canonical if route else "unknown"
    metrics.requests.labels(request.method, route, response.status).inc()
    if route not in QUIET:
        log.event(
            "request",
            level="error" if response.status >= 500 and response.status != 503 else "info",
            method=request.method,
            path=request.path,
            status=response.status,
            ms=round((time.monotonic() - began) * 1000, 1),
            batch_id=request.get("batch_id"),
            request_id=request["id"],
            trace_id=trace.trace_id(request["trace"]),
        )
    return response


def _error(status, code, message, headers=None):
    body = {"error": {"code": code, "message": message}}
    return web.json_response(body, status=status, headers=headers)


class Handlers:
    def __init__(self, config, store, processor):
        self._config, self._store, self._processor = config, store, processor
        self._uploads = 0
        metrics.watch(store)

    async def push(self, request):
        if request.content_type != "application/x-ndjson":
            raise Refused(
                415, "unsupported_media_type", "Content-Type must be application/x-ndjson"
            )
        batch_id = request.headers.get("Batch-Id", "")
        if not BATCH_ID.fullmatch(batch_id):
            raise Refused(400, "bad_request", "Batch-Id must be 1 to 64 of A-Z a-z 0-9 . _ -")
        request["batch_id"] = batch_id
        if (request.content_length or 0) > MAX_BODY:
            raise _too_large()
        if not await asyncio.to_thread(self._store.has_room, batch_id):
            raise _full()
        self._uploads += 1
        try:
            return await self._keep(request, batch_id)
        finally:
            self._uploads -= 1

    async def uploads_done(self, within):
        """Waits until no upload is half in, but no longer than so many seconds."""
        until = time.monotonic() + within
        while self._uploads and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _keep(self, request, batch_id):
        name = uuid.uuid4().hex
        path = self._store.path(name)
        kept = False
        try:
            sha256 = await _receive(request, path)
            batch, what = await asyncio.to_thread(
                self._store.accept, batch_id, sha256, name, request["id"], request["trace"]
            )
            kept = what == "new"
        finally:
            if not kept:
                path.unlink(missing_ok=True)
        if what == "full":
            raise _full()
        if what == "reused":
            raise Refused(409, "batch_id_reused", "this Batch-Id was used for other bytes")
        self._processor.wake()
        headers = {"Location": f"/v1/batches/{batch_id}"}
        return web.json_response(_show(batch), status=202, headers=headers)

    async def batch(self, request):
        return web.json_response(_show(await self._known(request)))

    async def errors(self, request):
        batch = await self._known(request)
        limit = _limit(request)
        after = _cursor(request, default=0)
        rows = await asyncio.to_thread(self._store.rejected, batch["batch_id"], after, limit + 1)
        page = [{"line": row["line"], "reason": row["reason"]} for row in rows[:limit]]
        more = str(page[-1]["line"]) if len(rows) > limit else None
        return web.json_response({"errors": page, "next": more})

    async def readings(self, request):
        meter = request.match_info["meter"]
        limit = _limit(request)
        start, end = _moment(request, "from", FIRST), _moment(request, "to", LAST)
        start = max(start, _cursor(request, default=FIRST))
        rows = await asyncio.to_thread(self._store.readings, meter, start, end, limit + 1)
        if not rows and not await asyncio.to_thread(self._store.knows_meter, meter):
            raise Refused(404, "not_found", "no reading was ever stored for this meter")
        page = [
            {"time": records.show_moment(row["at"]), "kwh": records.show_kwh(row["wh"])}
            for row in rows[:limit]
        ]
        more = str(rows[limit]["at"]) if len(rows) > limit else None
        return web.json_response({"readings": page, "next": more})

    async def alive(self, request):
        """Not alive only if the processing thread has died: a restart mends that."""
        alive = self._processor.healthy
        return web.json_response({"alive": alive}, status=200 if alive else 503)

    async def ready(self, request):
        """Ready if the database answers; billing is none of its business, nor is a full backlog."""
        await asyncio.to_thread(self._store.waiting)
        return web.json_response({"ready": True})

    async def metrics(self, request):
        body = await asyncio.to_thread(prometheus_client.generate_latest)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _known(self, request):
        batch = await asyncio.to_thread(self._store.batch, request.match_info["batch_id"])
        if batch is None:
            raise Refused(404, "not_found", "no such batch")
        return batch


async def _receive(request, path):
    """Writes the body to a file, chunk by chunk, and to the disk; returns its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        async for chunk in request.content.iter_chunked(1 << 16):
            size += len(chunk)
            if size > MAX_BODY:
                raise _too_large()
            digest.update(chunk)
            file.write(chunk)
        if not size:
            raise Refused(400, "bad_request", "the body is empty")
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest()


def _full():
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Refused(503, "backlog_full", "too many files wait; send it again later", headers)


def _too_large():
    return Refused(413, "too_large", f"a file has at most {MAX_BODY} bytes")


def _show(batch):
    return {name: batch[name] for name in batch.keys() if name != "sha256"}


def _limit(request):
    text = request.query.get("limit", "100")
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise Refused(400, "bad_request", f"limit must be from 1 to {MAX_PAGE}")
    return int(text)


def _cursor(request, default):
    text = request.query.get("cursor")
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,12}", text):
        raise Refused(400, "bad_request", "cursor is not one of ours")
    return int(text)


def _moment(request, name, default):
    text = request.query.get(name)
    if text is None:
        return default
    at = records.moment(text)
    if at is None:
        raise Refused(400, "bad_request", f"{name} must be a date and time with an offset")
    return at
