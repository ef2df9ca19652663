"""The service as an ASGI application: routes, limits, authentication, errors, metrics.

:data:`API` lists every operation once; routes and the OpenAPI document both follow from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tesserec.errors import TesserecError
from tesserec.serving import limits, metrics, schemas
from tesserec.serving.explorer.web import routes as explorer_routes
from tesserec.serving.limits import Guard, GuardedPath, Refusal, read_body
from tesserec.serving.openapi import Operation, document
from tesserec.serving.service import Service, one_of
from tesserec.serving.settings import Settings

logger = logging.getLogger(__name__)

Handler = Callable[[Any], Awaitable[Any]]
Endpoint = Callable[[Request], Awaitable[Response]]
API: dict[str, Operation] = {
    "recommend": Operation(
        "/v1/recommend", "Candidates of a user.", schemas.Recommendation, schemas.RecommendRequest, "user"
    ),
    "recommend_batch": Operation(
        "/v1/recommend/batch", "Candidates of several histories.", schemas.Recommendations, schemas.BatchRequest
    ),
    "interests": Operation(
        "/v1/interests", "The likeliest interests of a user.", schemas.Interests, schemas.InterestsRequest, "user"
    ),
    "similar": Operation("/v1/similar", "Items like given ones.", schemas.Similar, schemas.SimilarRequest),
    "event": Operation("/v1/events", "Keep an event.", schemas.Stored, schemas.Event, True),
    "events": Operation("/v1/events/batch", "Keep several events.", schemas.Stored, schemas.EventBatch, True),
    "add_items": Operation("/v1/items/add", "Add items to the catalogue.", schemas.Edited, schemas.ItemRows, True),
    "update_items": Operation("/v1/items/update", "Change columns of items.", schemas.Edited, schemas.ItemRows, True),
    "remove_items": Operation("/v1/items/remove", "Remove items.", schemas.Edited, schemas.ItemIds, True),
    "delete_user": Operation(
        "/v1/users/delete", "Delete all that is kept of a user.", schemas.Deleted, schemas.UserRequest, True
    ),
    "version": Operation("/v1/version", "What is served.", schemas.Version),
    "health": Operation("/healthz", "Whether the process lives.", schemas.Health),
    "ready": Operation("/readyz", "Whether it can answer.", schemas.Health),
}
METRICS = Operation("/metrics", "Metrics for Prometheus.", None, guarded=True)


def build_app(settings: Settings) -> Starlette:
    """The application of one worker process.

    Parameters
    ----------
    settings
        What to serve and how.

    Raises
    ------
    TesserecError
        If the event store cannot be opened.
    """
    service, guard = Service(settings), Guard(settings.token, settings.open_to_all)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            service.stop()

    described = msgspec.json.encode(document([*API.values(), METRICS]))

    async def openapi(_: Request) -> Response:
        return _json(described)

    async def metrics_page(request: Request) -> Response:
        try:
            guard.check(request)
        except Refusal as refusal:
            return _refusal(refusal)
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    routes: list[BaseRoute] = [
        Route(one.path, _endpoint(service, guard, one, getattr(service, name)), methods=[one.method.upper()])
        for name, one in API.items()
    ]
    routes += [Route("/openapi.json", openapi), Route(METRICS.path, metrics_page)]
    around = []
    if settings.explorer:
        history_of = service.history_of if guard.knows_users and service.store is not None else None
        routes += explorer_routes(lambda: service.served.bundle, traffic=service.traffic, history_of=history_of)
        around.append(Middleware(GuardedPath, guard, "/explorer"))
    app = Starlette(
        routes=routes, middleware=around, lifespan=lifespan, exception_handlers={HTTPException: _http_error}
    )
    app.state.service = service
    return app


def _endpoint(service: Service, guard: Guard, operation: Operation, handler: Handler) -> Endpoint:
    """Authentication, body and decoding before a handler, encoding and metrics after it."""
    decoder: msgspec.json.Decoder[Any] | None = None if operation.body is None else msgspec.json.Decoder(operation.body)
    encoder = msgspec.json.Encoder()
    seconds = service.metrics.seconds.labels(operation.path)
    answered = service.metrics.requests.labels(operation.path, 200)

    async def answer(request: Request) -> Response:
        if operation.guarded is True:
            guard.check(request)
        asked = None
        if decoder is not None:
            service.gate.check()  # before the body is read: a refusal must cost next to nothing
            asked = decoder.decode(await read_body(request, service.settings.body))
            one_of(asked)
            if operation.guarded == "user" and asked.user is not None:
                guard.check(request)
        return _json(encoder.encode(await handler(asked)))

    async def endpoint(request: Request) -> Response:
        begin = time.perf_counter()
        try:
            response = await answer(request)
            answered.inc()
        except Exception as error:
            response = _failed(error)
            if response.status_code == 429:
                await asyncio.sleep(limits.SECONDS_TO_HOLD)
            service.metrics.requests.labels(operation.path, response.status_code).inc()
        seconds.observe(time.perf_counter() - begin)
        return response

    return endpoint


def _failed(error: Exception) -> Response:
    """The answer to a request that a handler or a check did not take."""
    if isinstance(error, Refusal):
        return _refusal(error)
    if isinstance(error, msgspec.MsgspecError | UnicodeDecodeError):
        return _problem(422, str(error))
    if isinstance(error, TesserecError):
        return _problem(422, str(error))
    logger.error("a request failed", exc_info=error)
    return _problem(500, "the service has failed; its log says why")


def _json(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, headers, "application/json")


def _problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return _json(msgspec.json.encode(schemas.Problem(message)), status, headers)


def _refusal(refusal: Refusal) -> Response:
    return _problem(refusal.status, str(refusal), refusal.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, dict(error.headers or {}))
