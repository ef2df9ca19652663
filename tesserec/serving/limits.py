"""What is refused before any work: bodies too long, callers without the token, and work beyond the queue."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

#: A refusal for want of room is held back for so long: a caller who repeats at once would take the time of others.
SECONDS_TO_HOLD = 0.25
_SECONDS_TO_SEND = 10.0
_SECONDS_TO_WAIT = 1


class Refusal(Exception):
    """A request that is answered with an error status; ``headers`` go with it."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


def busy(message: str, status: int = 429) -> Refusal:
    """A refusal that asks the caller to come back soon."""
    return Refusal(status, message, {"Retry-After": str(_SECONDS_TO_WAIT)})


class Gate:
    """Admits work up to a limit, so that waiting stays short and the rest is told at once.

    Parameters
    ----------
    limit
        Searches that may be in work or waiting, one a user and one for each repeat of a drawn list. One request is
        always admitted to an idle service, whatever its size.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.inside = limit, 0

    def check(self, cost: int = 1) -> None:
        """Refuse now what :meth:`admit` would refuse.

        Raises
        ------
        Refusal
            429 where ``cost`` searches more would be too many.
        """
        if self.inside and self.inside + cost > self.limit:
            raise busy("more requests are waiting than can be answered soon; try again later, or more slowly")

    @contextmanager
    def admit(self, cost: int) -> Iterator[None]:
        """Count ``cost`` searches as inside for the time of the block; only to be called on the event loop.

        Raises
        ------
        Refusal
            429 where that would be too many.
        """
        self.check(cost)
        self.inside += cost
        try:
            yield
        finally:
            self.inside -= cost


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a JSON request.

    Raises
    ------
    Refusal
        413 if it is longer than ``limit`` bytes, 415 if it is not JSON by its header, 408 if it does not come.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"the content type is {kind!r}; expected 'application/json'")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_long(limit)
    try:
        return await asyncio.wait_for(_read(request, limit), _SECONDS_TO_SEND)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body did not arrive within {_SECONDS_TO_SEND:.0f} s") from None


async def _read(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_long(limit)
        parts.append(part)
    return b"".join(parts)


def _too_long(limit: int) -> Refusal:
    return Refusal(413, f"the body is longer than {limit} bytes; send less at once", {"Connection": "close"})


class Guard:
    """Bearer authentication of what writes or concerns a stored user.

    Parameters
    ----------
    token
        None: such requests are refused altogether, unless ``open_to_all``.
    """

    def __init__(self, token: str | None, open_to_all: bool) -> None:
        self._token, self._open = None if token is None else token.encode(), open_to_all

    def check(self, request: Request) -> None:
        """Let a request with the token pass.

        Raises
        ------
        Refusal
            401 without the right token, 403 where the service has none.
        """
        if self._open:
            return
        if self._token is None:
            raise Refusal(403, "this service was started without a token, so it neither writes nor knows users")
        if not self._is_token("bearer", request):
            raise Refusal(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def lets_see(self, request: Request) -> bool:
        """Whether a browser may see the explorer: any name with the token as password, where there is a token."""
        return self._token is None or self._is_token("basic", request) or self._is_token("bearer", request)

    @property
    def knows_users(self) -> bool:
        """Whether anybody may ask about stored users."""
        return self._open or self._token is not None

    def _is_token(self, kind: str, request: Request) -> bool:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        given = text.strip().encode()
        if scheme.lower() != kind or self._token is None:
            return False
        if kind == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        return hmac.compare_digest(given, self._token)


class GuardedPath:
    """Asks for the token as a password under a path, as browsers can give it.

    Parameters
    ----------
    prefix
        The path; others pass.
    """

    def __init__(self, app: ASGIApp, guard: Guard, prefix: str) -> None:
        self.app, self.guard, self.prefix = app, guard, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"].startswith(self.prefix)
            and not self.guard.lets_see(Request(scope))
        ):
            headers = {"WWW-Authenticate": 'Basic realm="tesserec"'}
            await PlainTextResponse("give the token as password", 401, headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)
