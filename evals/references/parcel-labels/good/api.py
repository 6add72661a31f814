"""The HTTP side: the contract's routes, health, metrics. Knows nothing of SQL or the carrier."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated

from aiohttp import web
from labeller import Labeller
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic import Field as Limits
from store import KeyReused, Shipment, Store
from telemetry import HTTP_REQUESTS, HTTP_SECONDS, OLDEST, ORIGIN, PENDING, Origin

MAX_BODY = 16 * 1024
ANSWER_S = 2.3
"""How long a scanner waits for its label: it gives up after 3 s."""

STORE: web.AppKey[Store] = web.AppKey("store", Store)
LABELLER: web.AppKey[Labeller] = web.AppKey("labeller", Labeller)

log = logging.getLogger("api")


def _text(most: int) -> type[str]:
    return Annotated[str, StringConstraints(min_length=1, max_length=most)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Recipient(Strict):
    name: _text(100)
    street: _text(100)
    postcode: _text(12)
    city: _text(100)
    country: Annotated[str, StringConstraints(pattern="^[A-Z]{2}$")]


class NewShipment(Strict):
    order_id: _text(40)
    recipient: Recipient
    weight_g: Annotated[int, Limits(ge=1, le=30000)]


class ApiError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


async def post_shipment(request: web.Request) -> web.Response:
    key = request.headers.get("Idempotency-Key", "")
    if not 1 <= len(key) <= 64:
        raise ApiError(400, "invalid_request", "Idempotency-Key: 1 to 64 characters are required")
    new = _parse(await request.read())
    carrier_fields = new.model_dump(include={"recipient", "weight_g"})
    whole = json.dumps(new.model_dump(), sort_keys=True)
    origin = ORIGIN.get()
    assert origin is not None
    try:
        shipment, is_new = await request.app[STORE].create(
            key=key,
            body_hash=hashlib.sha256(whole.encode()).hexdigest(),
            order_id=new.order_id,
            request=json.dumps(carrier_fields),
            origin=origin,
        )
    except KeyReused:
        message = "Idempotency-Key was used with another body"
        raise ApiError(409, "idempotency_conflict", message) from None
    facts = {"shipment_id": shipment.id, "order_id": shipment.order_id, "repeated": not is_new}
    log.info("shipment taken", extra=facts)
    if shipment.status == "pending":
        shipment = await request.app[LABELLER].settle(shipment, ANSWER_S)
    return web.json_response(
        _public(shipment),
        status=202 if shipment.status == "pending" else 201,
        headers={"Location": f"/shipments/{shipment.id}"},
    )


def _parse(body: bytes) -> NewShipment:
    try:
        return NewShipment.model_validate_json(body)
    except ValidationError as error:
        # Field and rule only: the value may be somebody's address.
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5]]
        raise ApiError(400, "invalid_request", "; ".join(wrong)) from None


async def list_shipments(request: web.Request) -> web.Response:
    status = request.query.get("status")
    if status not in (None, "pending", "labelled", "failed"):
        raise ApiError(400, "invalid_request", "status: one of pending, labelled, failed")
    found = await request.app[STORE].newest(status)
    return web.json_response({"shipments": [_public(shipment) for shipment in found]})


async def get_shipment(request: web.Request) -> web.Response:
    shipment = await request.app[STORE].get(request.match_info["id"])
    if shipment is None:
        raise ApiError(404, "not_found", "no such shipment")
    return web.json_response(_public(shipment))


def _public(shipment: Shipment) -> dict[str, object]:
    names = ("id", "order_id", "status", "tracking_number", "label_url", "failure_reason")
    shown: dict[str, object] = {name: getattr(shipment, name) for name in names}
    return shown | {"created_at": shipment.created_at.isoformat()}


async def alive(request: web.Request) -> web.Response:
    return web.json_response({"status": "alive"})


async def ready(request: web.Request) -> web.Response:
    """We can take shipments: the database answers. That holds while the carrier is down."""
    try:
        await asyncio.wait_for(request.app[STORE].waiting(), 0.8)
    except Exception as error:
        log.error("not ready", extra={"check": "database", "cause": repr(error)})
        return web.json_response({"status": "not ready", "check": "database"}, status=503)
    if not request.app[LABELLER].works:
        return web.json_response({"status": "not ready", "check": "labeller"}, status=503)
    return web.json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    count, oldest = await request.app[STORE].waiting()
    PENDING.set(count)
    OLDEST.set((datetime.now(UTC) - oldest).total_seconds() if oldest else 0)
    return web.Response(
        body=generate_latest(), headers={"Content-Type": "text/plain; version=0.0.4"}
    )


@web.middleware
async def edge(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Around every request: its ids, one error body, one log line, its metrics."""
    origin = Origin.of(request.headers.get("X-Request-ID"), request.headers.get("traceparent"))
    ORIGIN.set(origin)
    began = time.monotonic()
    try:
        response = await handler(request)
    except ApiError as error:
        response = _error(error.status, error.code, str(error))
    except web.HTTPException as error:
        response = _error(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except Exception:
        log.exception("unexpected error")
        response = _error(500, "internal", "something went wrong here")
    response.headers["X-Request-ID"] = origin.request_id
    seconds = time.monotonic() - began
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    HTTP_REQUESTS.labels(request.method, route, response.status).inc()
    HTTP_SECONDS.labels(request.method, route).observe(seconds)
    if route not in ("/livez", "/readyz", "/metrics"):
        facts = {"method": request.method, "route": route, "status": response.status}
        log.info("request", extra=facts | {"duration_ms": round(seconds * 1000)})
    return response


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": code, "message": message}, status=status)


def application() -> web.Application:
    app = web.Application(client_max_size=MAX_BODY, middlewares=[edge])
    app.add_routes(
        [
            web.post("/shipments", post_shipment),
            web.get("/shipments", list_shipments),
            web.get("/shipments/{id}", get_shipment),
            web.get("/livez", alive),
            web.get("/readyz", ready),
            web.get("/metrics", metrics),
        ]
    )
    return app
