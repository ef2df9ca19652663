"""The API as a list of operations, and the OpenAPI document that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from tesserec import __version__
from tesserec.serving.schemas import Problem

_REASONS = {
    200: "The answer.",
    401: "The bearer token is missing or wrong.",
    403: "The service was started without a token.",
    404: "Nothing is known of the user.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not JSON by its header.",
    422: "The request is not as described here, or does not go with this model.",
    429: "Too much is waiting; Retry-After says when to come back.",
    503: "Not ready, or a part of the service is not there; Retry-After says when to come back.",
}


@dataclass(frozen=True)
class Operation:
    """One operation of the API.

    Attributes
    ----------
    path, method, summary
        As in OpenAPI.
    answer
        Type of the answer, None for plain text.
    body
        Type of the request, None where there is none.
    guarded
        Whether the bearer token is always needed, or ``"user"``: where the request names a stored user.
    """

    path: str
    summary: str
    answer: type | None
    body: type | None = None
    guarded: bool | str = False

    @property
    def method(self) -> str:
        """``post`` where there is a body."""
        return "post" if self.body else "get"

    @property
    def statuses(self) -> list[int]:
        """Every status that the operation may answer."""
        found = [200, 503]
        if self.body:
            found += [408, 413, 415, 422, 429]
        if self.guarded:
            found += [401, 403]
        if self.guarded == "user":
            found.append(404)
        return sorted(found)


def document(operations: list[Operation]) -> dict[str, Any]:
    """The OpenAPI 3.1 description."""
    types = [one for operation in operations for one in (operation.body, operation.answer) if one is not None]
    _, components = msgspec.json.schema_components([*types, Problem], ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tesserec",
            "version": __version__,
            "description": "Candidates through learned interests, each with what brought it.",
        },
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _describe(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.path.strip("/").replace("/", "_").replace(".", "_"),
        "responses": {str(status): _response(operation, status) for status in operation.statuses},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    if operation.guarded:
        described["security"] = [{"token": []}] if operation.guarded is True else [{}, {"token": []}]
    return described


def _response(operation: Operation, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _REASONS[status]}
    if status == 200 and operation.answer is None:
        answer["content"] = {"text/plain": {"schema": {"type": "string"}}}
    else:
        answer["content"] = _content(operation.answer if status == 200 and operation.answer is not None else Problem)
    if status in (429, 503):
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answer


def _content(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
