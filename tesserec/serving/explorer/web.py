"""The explorer over HTTP: Starlette routes for a service to mount, the page and its data under one prefix.

Nothing is loaded from elsewhere, and a strict content security policy says so. Histories travel in request bodies, so
that they stay out of access logs. Handlers are plain functions, run in threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tesserec.errors import TesserecError, UserError
from tesserec.index.bundle import Bundle
from tesserec.serving.explorer.health import codebook_health
from tesserec.serving.explorer.interests import interest_map, interest_page, why_no_interests
from tesserec.serving.explorer.shown import Items, ModelFacts, Settings, Shown
from tesserec.serving.explorer.users import (
    can_explore,
    find_items,
    invented_user,
    most_interests,
    own_settings,
    parse_history,
    user_page,
)
from tesserec.serving.limits import Refusal, read_body

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_MOST_BYTES = 1 << 18
_MOST_EVENTS = 2_000
_MOST_CANDIDATES = 200

Traffic = Callable[[], Mapping[int, int]]
HistoryOf = Callable[[str], Sequence[Any] | None]


class UserRequest(BaseModel):
    """A user by history or by id, and the sliders; what is None is as the model would have it."""

    model_config = ConfigDict(extra="forbid")

    history: list[str] | None = Field(None, max_length=_MOST_EVENTS)
    user: str | None = Field(None, min_length=1, max_length=512)
    k: int = Field(20, ge=1, le=_MOST_CANDIDATES)
    explore: float | None = Field(None, ge=0, le=1)
    interests: int | None = Field(None, ge=1)


class _Explorer:
    """The handlers, over whichever bundle is served at the moment of the request."""

    def __init__(self, get_bundle: Callable[[], Bundle], traffic: Traffic | None, history_of: HistoryOf | None) -> None:
        self.get_bundle, self.traffic, self.history_of = get_bundle, traffic, history_of

    def model(self, request: Request, body: bytes) -> Shown:
        bundle = self.get_bundle()
        searcher = bundle.searcher
        return ModelFacts(
            model=str(bundle.facts.get("model", "model")),
            generation=bundle.generation,
            items=len(searcher.catalogue),
            interests=0 if searcher.names is None else len(searcher.names),
            why_no_interests=why_no_interests(searcher),
            settings=own_settings(searcher),
            most_interests=most_interests(searcher),
            can_explore=can_explore(searcher),
            users=self.history_of is not None,
        )

    def map(self, request: Request, body: bytes) -> Shown:
        return interest_map(self.get_bundle().searcher, self._visits())

    def interest(self, request: Request, body: bytes) -> Shown:
        return interest_page(self.get_bundle().searcher, request.path_params["code"], self._visits())

    def health(self, request: Request, body: bytes) -> Shown:
        return codebook_health(self.get_bundle())

    def items(self, request: Request, body: bytes) -> Shown:
        return Items(items=find_items(self.get_bundle().searcher, request.query_params.get("title", "")[:200]))

    def invented(self, request: Request, body: bytes) -> Shown:
        return Items(items=invented_user(self.get_bundle().searcher, request.path_params["number"]))

    def user(self, request: Request, body: bytes) -> Shown:
        asked = UserRequest.model_validate_json(body)
        searcher = self.get_bundle().searcher
        if (asked.history is None) == (asked.user is None):
            raise UserError("give either a history or a user, and not both")
        history = parse_history(searcher, asked.history) if asked.history is not None else self._stored(asked.user)
        own = own_settings(searcher)
        settings = Settings(
            k=asked.k,
            explore=own.explore if asked.explore is None else asked.explore,
            interests=own.interests if asked.interests is None else asked.interests,
        )
        return user_page(searcher, history, settings)

    def _stored(self, user: str | None) -> Sequence[Any]:
        if self.history_of is None or user is None:
            raise UserError("this service keeps no histories by user; give a history")
        if not (history := self.history_of(user)):
            raise UserError(f"user {user!r} has no events here")
        return history

    def _visits(self) -> Mapping[int, int] | None:
        return None if self.traffic is None else self.traffic()


def routes(
    get_bundle: Callable[[], Bundle],
    *,
    traffic: Traffic | None = None,
    history_of: HistoryOf | None = None,
    prefix: str = "/explorer",
) -> list[BaseRoute]:
    """Routes of the explorer, for a Starlette or FastAPI application.

    Whoever may reach them may read the catalogue and, with ``history_of``, the history of any user whose id they
    know; a service that is not local keeps them behind its own authentication.

    Parameters
    ----------
    get_bundle
        The generation that is served now; asked once a request, so a request sees one generation. May raise a
        :class:`~tesserec.serving.limits.Refusal` while there is none.
    traffic
        Recommendations brought by each interest so far; training events colour the map where it is None.
    history_of
        Item ids of a user by id, oldest first, None if unknown; without it users are histories that a visitor types.
    prefix
        Path under which the page lies, without a slash at its end.
    """
    explorer = _Explorer(get_bundle, traffic, history_of)
    inside: list[BaseRoute] = [
        Route("/api/model", _endpoint(explorer.model)),
        Route("/api/map", _endpoint(explorer.map)),
        Route("/api/interests/{code:int}", _endpoint(explorer.interest)),
        Route("/api/health", _endpoint(explorer.health)),
        Route("/api/items", _endpoint(explorer.items)),
        Route("/api/invented/{number:int}", _endpoint(explorer.invented)),
        Route("/api/user", _endpoint(explorer.user), methods=["POST"]),
        Mount("/", StaticFiles(directory=STATIC, html=True)),
    ]

    async def to_folder(request: Request) -> Response:
        return RedirectResponse(f"{request.scope.get('root_path', '')}{prefix}/")

    around = [Middleware(_SafeHeaders), Middleware(ExceptionMiddleware)]  # the headers are on refusals too
    return [Route(prefix, to_folder), Mount(prefix, routes=inside, middleware=around)]


def _endpoint(handler: Callable[[Request, bytes], Shown]) -> Callable[[Request], Awaitable[Response]]:
    """Run a handler in a thread; what is refused becomes a short answer, of status 422 where the input is at fault."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await read_body(request, _MOST_BYTES) if request.method == "POST" else b""
            shown = await run_in_threadpool(handler, request, body)
        except Refusal as refusal:
            return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            told = f"{'.'.join(map(str, first['loc'])) or 'request'}: {first['msg']}"
            return JSONResponse({"error": told}, 422)
        except TesserecError as error:
            return JSONResponse({"error": str(error)}, 422)
        return Response(shown.model_dump_json(), media_type="application/json")

    return endpoint


class _SafeHeaders:
    """Adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)
