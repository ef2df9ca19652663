"""A user as the model sees them: history, posterior, candidates by interest, and what the sliders change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import DataError
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.serving.explorer.interests import shown_items
from tesserec.serving.explorer.shown import Belief, Candidate, Event, Item, Settings, UserPage

K = 20
_MOST_READ = 32
_BELIEFS = 10
_FOUND = 20


def own_settings(searcher: Searcher) -> Settings:
    """The model's own settings, where the sliders start."""
    return Settings(k=K, explore=searcher.policy.explore, interests=searcher.policy.interests)


def most_interests(searcher: Searcher) -> int:
    """The end of the slider of K: as many as the model has, within reason; 1 where it cannot be set."""
    if not isinstance(searcher.postings, VectorPostings):
        return 1
    if searcher.has_interests:
        return min(searcher.postings.cells, max(_MOST_READ, searcher.policy.interests))
    return searcher.policy.interests


def can_explore(searcher: Searcher) -> bool:
    """Whether the slider of exploration means anything."""
    return searcher.has_interests and searcher.policy.select == "posterior"


def user_page(searcher: Searcher, history: Sequence[Any], settings: Settings | None = None) -> UserPage:
    """Show a user under some settings, beside the list of the model's own.

    Parameters
    ----------
    history
        Item ids, oldest first.

    Raises
    ------
    DataError
        If the history is empty or none of its items is known.
    ConfigError
        If a setting does not go with this model.
    """
    own = own_settings(searcher)
    settings = settings or own
    encoded, unknown = searcher.encode([history])
    usual = _candidates(searcher, history, own.model_copy(update={"k": settings.k}))
    now = usual if settings == own else _candidates(searcher, history, settings)
    before, after = {one.id for one in usual}, {one.id for one in now}
    candidates = [one.model_copy(update={"entered": one.id not in before}) for one in now]
    left = [one for one in usual if one.id not in after]
    events = _events(searcher, encoded)
    believed = searcher.interests([history], len(names)) if (names := searcher.names) is not None else None
    beliefs = [] if believed is None else _beliefs(believed, events, candidates)
    return UserPage(
        settings=settings,
        history=events,
        unknown=[str(one) for one in unknown],
        names=_names(searcher, [*events, *candidates, *left]),
        posterior=[] if believed is None else believed.sort("interest")["probability"].to_list(),
        beliefs=beliefs,
        rest=max(0.0, 1.0 - sum(one.probability for one in beliefs)) if beliefs else 0.0,
        candidates=candidates,
        left=left,
    )


def find_items(searcher: Searcher, text: str) -> list[Item]:
    """Items whose title holds a text, whatever the case, the most popular first."""
    catalogue = searcher.catalogue
    wanted = text.strip().lower()
    if not wanted:
        return []
    holds = catalogue.titles.str.to_lowercase().str.contains(wanted, literal=True)
    found = np.flatnonzero(holds.fill_null(False).to_numpy())
    return shown_items(catalogue, found[np.argsort(-catalogue.events(found), kind="stable")[:_FOUND]])


def invented_user(searcher: Searcher, number: int, length: int = 12) -> list[Item]:
    """The history of somebody who does not exist: popular items of three interests, mixed; the same for a number.

    Models without interests get popular items of the whole catalogue.
    """
    draw = np.random.default_rng(number)
    cells = searcher.cells
    pool = np.argsort(-searcher.catalogue.counts, kind="stable")[: max(length, len(searcher.catalogue) // 4)]
    if cells is not None:
        liked = draw.permutation(np.unique(cells[pool]))[:3]
        pool = np.concatenate([pool[cells[pool] == code][: 2 * length] for code in liked])
    return shown_items(searcher.catalogue, draw.permutation(pool)[:length])


def parse_history(searcher: Searcher, texts: Sequence[str]) -> list[Any]:
    """Ids in the type of the catalogue, from text."""
    try:
        return [searcher.catalogue.items.parse(text) for text in texts]
    except (UnicodeEncodeError, OverflowError) as error:
        raise DataError(f"the history holds an id that cannot be one ({error})") from None


def _candidates(searcher: Searcher, history: Sequence[Any], settings: Settings) -> list[Candidate]:
    given: dict[str, Any] = {}
    if can_explore(searcher):
        given["explore"] = settings.explore
    if isinstance(searcher.postings, VectorPostings):
        given["interests"] = settings.interests
    table = searcher.recommend([history], min(settings.k, len(searcher.catalogue)), **given)
    items = shown_items(searcher.catalogue, searcher.catalogue.items.encode(table["item"]))
    if "propensity" not in table.columns:
        table = table.with_columns(propensity=pl.lit(None, pl.Float64))
    columns = ["rank", "score", "interest", "probability", "propensity", "explored"]
    return [
        Candidate(id=item.id, title=item.title, entered=False, **row)
        for item, row in zip(items, table.select(columns).to_dicts(), strict=True)
    ]


def _beliefs(believed: pl.DataFrame, events: Sequence[Event], candidates: Sequence[Candidate]) -> list[Belief]:
    """The likeliest interests, the history's most frequent ones, and all that brought a candidate."""
    by_role = sorted(candidates, key=lambda one: one.explored)  # what is read and explored counts as explored
    roles = {one.interest: "explored" if one.explored else "read" for one in by_role}
    visited = [code for code, _ in Counter(one.interest for one in events).most_common(_BELIEFS)]
    wanted = pl.col("interest").is_in([code for code in {*roles, *visited} if code is not None])
    shown = believed.filter((pl.col("rank") <= _BELIEFS) | wanted)
    columns = ["interest", "name", "probability", "known"]
    return [Belief(role=roles.get(row["interest"]), **row) for row in shown.select(columns).to_dicts()]


def _events(searcher: Searcher, encoded: Histories) -> list[Event]:
    indices: NDArray[np.int32] = encoded.compact().values
    cells = searcher.cells
    codes = [None] * len(indices) if cells is None else cells[indices].tolist()
    items = shown_items(searcher.catalogue, indices)
    return [Event(id=item.id, title=item.title, interest=code) for item, code in zip(items, codes, strict=True)]


def _names(searcher: Searcher, shown: Sequence[Event | Candidate]) -> dict[int, str]:
    """Names of all interests that occur; free vectors are numbered."""
    codes = sorted({one.interest for one in shown if one.interest is not None})
    names = searcher.names
    return {code: f"Vector {code + 1}" if names is None else names["name"][code] for code in codes}
