"""From typed requests to typed answers, over one generation; the part of a request that runs in a worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.errors import ConfigError, DataError
from tesserec.index.contract import Candidates, Policy
from tesserec.index.exploration import draws_of
from tesserec.index.filters import Filter
from tesserec.serving.schemas import (
    MOST_SEARCHES,
    Candidate,
    FilterSettings,
    Interest,
    Interests,
    Neighbour,
    PolicySettings,
    Recommended,
    Similar,
    SimilarTo,
)
from tesserec.serving.swap import Served


@dataclass(frozen=True)
class Question:
    """What is asked for each user: length of the list, policy, filter, and whether seen items are left out."""

    k: int
    policy: PolicySettings | None
    filter: FilterSettings | None
    exclude_seen: bool | None


def recommend(served: Served, histories: Sequence[Sequence[Any]], question: Question) -> list[Recommended]:
    """The candidates of each history.

    Raises
    ------
    DataError
        If no item of a history is in the catalogue.
    ConfigError
        If a setting does not go with this model.
    """
    searcher = served.searcher
    histories = [to_ids(served, history) for history in histories]
    encoded, unknown = searcher.encode(histories)
    policy = policy_of(searcher.policy, question.policy)
    only = None if question.filter is None else _filter(served, question.filter)
    found = searcher.retrieve(encoded, question.k, policy, question.exclude_seen, only=only)
    missing = set(unknown)
    return [
        _recommended(served, found, row, [item for item in history if item in missing] if missing else [])
        for row, history in enumerate(histories)
    ]


def policy_of(own: Policy, given: PolicySettings | None) -> Policy:
    """The model's own policy, except for what is given."""
    if given is None:
        return own
    return replace(own, **{name: value for name, value in msgspec.structs.asdict(given).items() if value is not None})


def searches_of(served: Served, users: int, question: Question) -> int:
    """Searches that a question costs: a drawn list with propensities repeats its own, new items are searched for alone.

    Raises
    ------
    ConfigError
        Where they are more than a request may ask for.
    """
    policy = policy_of(served.searcher.policy, question.policy)
    searches = users * draws_of(policy) * (2 if policy.new_share else 1)
    if searches > MOST_SEARCHES:
        raise ConfigError(
            f"{users} users with their repeats and new items are {searches} searches, and a request may ask for "
            f"{MOST_SEARCHES}; set policy.repeats lower, leave policy.new_share, or ask for fewer users at once"
        )
    return searches


def _filter(served: Served, given: FilterSettings) -> Filter:
    """A filter by index; ids that the catalogue does not hold allow and deny nothing."""

    def indices(items: Sequence[Any] | None) -> NDArray[np.int32] | None:
        if items is None:
            return None
        found = served.searcher.catalogue.items.encode(to_ids(served, items))
        return found[found >= 0]

    return Filter(indices(given.allow), indices(given.deny), given.where)


def _recommended(served: Served, found: Candidates, row: int, unknown: list[Any]) -> Recommended:
    n = int(np.count_nonzero(found.items[row] >= 0))
    ids = served.searcher.catalogue.items
    items = to_json(ids.take(found.items[row, :n]), ids.dtype)
    codes = found.interests[row, :n].tolist()
    chances = found.probability[row, :n].tolist()
    scores, explored = found.scores[row, :n].tolist(), found.explored[row, :n].tolist()
    odds = [None if share != share else share for share in found.propensity[row, :n].tolist()]
    new = (served.searcher.catalogue.events(found.items[row, :n]) == 0).tolist()
    candidates = [
        Candidate(item, score, code if code >= 0 else None, chance if code >= 0 else None, *rest)
        for item, score, code, chance, *rest in zip(items, scores, codes, chances, odds, explored, new, strict=True)
    ]
    brought = sorted({(-chance, code) for code, chance in zip(codes, chances, strict=True) if code >= 0})
    interests = [Interest(code, _name(served, code), -chance) for chance, code in brought]
    visits = found.visits
    return Recommended(
        candidates,
        interests,
        bool(visits.certified[row]),
        int(visits.cells[row]),
        int(visits.items[row]),
        float(visits.mass_left[row]),
        bool(visits.by_place[row]),
        unknown,
    )


def _name(served: Served, code: int) -> str:
    return served.names[code] if code < len(served.names) else f"vector {code + 1}"


def interests(served: Served, history: Sequence[Any], k: int) -> Interests:
    """The likeliest interests of a history; see :meth:`tesserec.index.searcher.Searcher.interests`."""
    history = to_ids(served, history)
    as_of = datetime.now(timezone.utc)
    table = served.searcher.interests([history], k)
    _, unknown = served.searcher.encode([history])
    rows = [
        Interest(row["interest"], row["name"], row["probability"], row["known"]) for row in table.iter_rows(named=True)
    ]
    return Interests(served.bundle.generation, as_of, rows, unknown)


def similar(served: Served, items: Sequence[Any], k: int) -> Similar:
    """The neighbours of each item; see :meth:`tesserec.index.searcher.Searcher.similar_items`."""
    asked = list(dict.fromkeys(to_ids(served, items)))
    found: dict[Any, list[Neighbour]] = {item: [] for item in asked}
    table = served.searcher.similar_items(asked, k)
    kind = table["item"].dtype
    columns = (*(to_json(table[name].to_list(), kind) for name in ("item", "similar")), table["score"].to_list())
    rows = dict(zip(to_json(asked, kind), found.values(), strict=True))
    for item, neighbour, score in zip(*columns, strict=True):
        rows[item].append(Neighbour(neighbour, score))
    lists = [SimilarTo(item, neighbours) for item, neighbours in rows.items()]
    return Similar(served.bundle.generation, datetime.now(timezone.utc), lists)


def unknown_items(served: Served, items: Sequence[Any]) -> list[Any]:
    """Those of some items that the catalogue does not hold, each once."""
    indices = served.searcher.catalogue.items.encode(to_ids(served, items))
    return list(dict.fromkeys(item for item, index in zip(items, indices, strict=True) if index < 0))


def to_ids(served: Served, items: Sequence[Any]) -> list[Any]:
    """Ids in the type of the catalogue: JSON has text for dates, times and bytes."""
    ids = served.searcher.catalogue.items
    if ids.dtype.is_numeric() or ids.dtype == pl.String:
        return list(items)
    try:
        return [ids.parse(item) if isinstance(item, str) else item for item in items]
    except (UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"an id cannot be {ids.dtype}, as ids here are ({error})") from None


def to_json(ids: list[Any], kind: pl.DataType) -> list[Any]:
    """Ids of some type as JSON can hold them."""
    if kind == pl.Binary:
        return [one.decode(errors="replace") for one in ids]
    return ids if kind.is_numeric() or kind == pl.String else [str(one) for one in ids]
