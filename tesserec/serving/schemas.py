"""Requests and answers of the HTTP API, strictly typed.

One definition is decoder, validator, encoder and schema (``msgspec``): unknown fields, wrong types and numbers out of
range are refused before a handler runs, and ``/openapi.json`` says the same.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

MOST_EVENTS = 1_000
MOST_CANDIDATES = 1_000
MOST_USERS = 256
MOST_INTERESTS = 64
MOST_REPEATS = 200
MOST_SEARCHES = 1_000
MOST_NEW_EVENTS = 1_000
MOST_NEW_ITEMS = 1_000

ItemId = Annotated[str, Meta(max_length=512)] | int | float
UserId = Annotated[str, Meta(min_length=1, max_length=256)]
History = Annotated[
    list[ItemId], Meta(min_length=1, max_length=MOST_EVENTS, description="Item ids, the oldest event first.")
]
Listed = Annotated[list[ItemId], Meta(max_length=MOST_EVENTS)]
Value = Annotated[str, Meta(max_length=512)] | int | float | bool
Cell = Value | Annotated[list[ItemId], Meta(max_length=MOST_EVENTS)] | None
K = Annotated[int, Meta(ge=1, le=MOST_CANDIDATES, description="How many candidates at most.")]
Share = Annotated[float, Meta(ge=0, le=1)]


class Strict(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of requests: a field that is not known is refused."""


class PolicySettings(Strict, frozen=True):
    """What differs from the model's own search policy; a field left out is as the model would have it."""

    interests: Annotated[int, Meta(ge=1, le=MOST_INTERESTS)] | None = None
    merge: Literal["max", "probability", "quota"] | None = None
    explore: Share | None = None
    visit: Share | None = None
    select: Literal["posterior", "history"] | None = None
    shares: Literal["posterior", "equal"] | None = None
    recall: Annotated[float, Meta(gt=0, lt=1)] | None = None
    max_items: Annotated[int, Meta(ge=1, le=1 << 31)] | None = None
    temperature: Annotated[float, Meta(gt=0, le=1000)] | None = None
    known: Annotated[float, Meta(gt=0, le=1000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, lt=1 << 53)] | None = None
    repeats: Annotated[int, Meta(ge=0, le=MOST_REPEATS)] | None = None
    new_share: Share | None = None


class FilterSettings(Strict, frozen=True):
    """What the list may hold: items that are allowed, none that is denied, and columns with given values."""

    allow: Listed | None = None
    deny: Listed | None = None
    where: Annotated[dict[str, Value | Annotated[list[Value], Meta(max_length=256)]], Meta(max_length=16)] | None = None


class RecommendRequest(Strict, frozen=True):
    """A history, or a user whose events are stored."""

    history: History | None = None
    user: UserId | None = None
    k: K = 20
    policy: PolicySettings | None = None
    filter: FilterSettings | None = None
    exclude_seen: bool | None = None


class BatchRequest(Strict, frozen=True):
    """Several histories at once, under the same settings."""

    histories: Annotated[list[History], Meta(min_length=1, max_length=MOST_USERS)]
    k: K = 20
    policy: PolicySettings | None = None
    filter: FilterSettings | None = None
    exclude_seen: bool | None = None


class InterestsRequest(Strict, frozen=True):
    """Whose interests, by history or by user."""

    history: History | None = None
    user: UserId | None = None
    k: Annotated[int, Meta(ge=1, le=MOST_CANDIDATES)] = 10


class SimilarRequest(Strict, frozen=True):
    """Items whose neighbours are wanted."""

    items: Annotated[list[ItemId], Meta(min_length=1, max_length=MOST_USERS)]
    k: K = 10


class Event(Strict, frozen=True):
    """Somebody met an item. The same id of the same user counts once, however often it is sent."""

    id: Annotated[str, Meta(min_length=1, max_length=256)]
    user: UserId
    item: ItemId
    time: Annotated[datetime, Meta(tz=True, description="When; now where it is left out.")] | None = None


class EventBatch(Strict, frozen=True):
    """Several events, stored together or not at all."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=MOST_NEW_EVENTS)]


class UserRequest(Strict, frozen=True):
    """One stored user."""

    user: UserId


class ItemRows(Strict, frozen=True):
    """Items to add or to update: objects with an ``id``, any columns of the catalogue, and ``like``, ids of others."""

    items: Annotated[list[dict[str, Cell]], Meta(min_length=1, max_length=MOST_NEW_ITEMS)]


class ItemIds(Strict, frozen=True):
    """Items to remove."""

    items: Annotated[list[ItemId], Meta(min_length=1, max_length=MOST_NEW_ITEMS)]


class Candidate(Struct, frozen=True):
    """An item and what brought it; interest and probability are null for models without interests.

    ``propensity`` is the probability, over draws of the policy, that the list holds the item; null if not estimated.
    An item is ``new`` while no event of it was in training.
    """

    item: ItemId
    score: float
    interest: int | None
    probability: float | None
    propensity: float | None
    explored: bool
    new: bool


class Interest(Struct, frozen=True):
    """An interest of a user. ``known`` says whether the history holds an item of it, where that was asked for."""

    interest: int
    name: str
    probability: float | None
    known: bool | None = None


class Answer(Struct, frozen=True):
    """What every answer says of itself: the generation, and the time up to which stored events are in it."""

    generation: int
    as_of: datetime


class Recommended(Struct, frozen=True):
    """The candidates of one user.

    ``certified``: no item that was left unvisited could change the list. ``cells`` and ``items`` are what the search
    visited, ``mass_left`` the posterior probability of the cells that it did not. ``by_place``: cells were visited by
    posterior and place, for a recall target, and not by falling posterior alone. ``unknown`` are ids of the history
    that the catalogue does not hold.
    """

    candidates: list[Candidate]
    interests: list[Interest]
    certified: bool
    cells: int
    items: int
    mass_left: float
    by_place: bool
    unknown: list[ItemId]


class Recommendation(Recommended, frozen=True, kw_only=True):
    """The answer to one user; ``request`` names it in the candidate log."""

    generation: int
    as_of: datetime
    request: str


class Recommendations(Answer, frozen=True):
    """Answers in the order of the histories."""

    request: str
    users: list[Recommended]


class Interests(Answer, frozen=True):
    """The likeliest interests first."""

    interests: list[Interest]
    unknown: list[ItemId]


class Neighbour(Struct, frozen=True):
    """A similar item."""

    item: ItemId
    score: float


class SimilarTo(Struct, frozen=True):
    """The neighbours of one item, the nearest first."""

    item: ItemId
    similar: list[Neighbour]


class Similar(Answer, frozen=True):
    """Neighbours in the order of the request."""

    items: list[SimilarTo]


class Stored(Struct, frozen=True):
    """``stored`` events are on the disk; ``repeated`` ones were there before. ``unknown`` items are not served yet."""

    stored: int
    repeated: int
    unknown: list[ItemId]


class Deleted(Struct, frozen=True):
    """How many events of the user were deleted."""

    events: int


class Edited(Struct, frozen=True):
    """What became of items; the generation is in service here, and other processes take it up in a moment."""

    generation: int
    added: int
    updated: int
    removed: int
    items: int


class Refused(Struct, frozen=True):
    """A generation that was not taken into service, and why."""

    generation: str
    reason: str
    at: datetime


class ServedGeneration(Struct, frozen=True):
    """The generation in service, since when, and the model's own policy."""

    generation: int
    since: datetime
    model: str
    items: int
    interests: int
    policy: dict[str, str | int | float | bool | None]


class Version(Struct, frozen=True):
    """What is served, null before anything is, and what was refused lately."""

    tesserec: str
    served: ServedGeneration | None
    refused: list[Refused]


class Health(Struct, frozen=True):
    """Whether the process lives, or is ready to answer."""

    status: str


class Problem(Struct, frozen=True):
    """Why a request was refused, and what to do."""

    error: str
