"""The map of interests, and the page of one interest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.errors import UserError
from tesserec.evaluation.codebooks import cell_means, telling
from tesserec.index.catalogue import Catalogue
from tesserec.index.names import typical_items
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.serving.explorer.placing import place_circles
from tesserec.serving.explorer.shown import (
    CategoryShare,
    Cell,
    InterestMap,
    InterestPage,
    Item,
    Neighbour,
    Newest,
)

MOST_CIRCLES = 400
_NEIGHBOURS = 6
_TYPICAL, _NEWEST, _CATEGORIES = 8, 6, 6
_AGES = ("first_seen", "added", "created", "released", "release_date", "published", "date", "time", "timestamp", "year")


def why_no_interests(searcher: Searcher) -> str | None:
    """Why a model has no interests to show, in a sentence; None where it has."""
    if searcher.has_interests:
        return None
    postings = searcher.postings
    if isinstance(postings, VectorPostings):
        return (
            "This model has no interests that users share: its vectors are free, each belongs to one user and "
            "searches the whole catalogue."
        )
    if not isinstance(postings, ScorePostings):
        return "This model has no interests: it scores every item of the catalogue."
    if postings.keyed_by_item:
        return "This model has no interests: it goes from the items of a history to their neighbours."
    if postings.codes == 1:
        return "This model has no interests: everybody gets the same list."
    return "This model has no interests with items of their own: its codes share the whole catalogue."


def interest_map(searcher: Searcher, traffic: Mapping[int, int] | None = None) -> InterestMap:
    """Lay the interests out as circles.

    Parameters
    ----------
    traffic
        Visits of each code, such as how often a service recommended from it; training events count where there is
        none yet.

    Raises
    ------
    UserError
        If the model has no interests.
    """
    postings, names = _with_interests(searcher)
    sizes = postings.live_sizes
    visits = _visits(searcher, traffic)
    total = max(int(visits.sum()), 1)
    plan = _plan(searcher)
    rows = names.to_dicts()
    cells = [
        Cell(
            interest=int(code),
            name=rows[code]["name"],
            categories=rows[code]["categories"],
            typical=rows[code]["typical"],
            items=int(sizes[code]),
            traffic=int(visits[code]),
            share=float(visits[code] / total),
            x=float(x),
            y=float(y),
            radius=float(radius),
            neighbours=[int(near) for near in plan.nearest(code)],
        )
        for code, (x, y), radius in zip(plan.codes, plan.points, plan.radii, strict=True)
    ]
    dead = [int(code) for code in np.flatnonzero(sizes == 0)]
    return InterestMap(
        traffic_of="recommendations" if _any(traffic) else "training events",
        cells=cells,
        dead=dead,
        left_out=len(sizes) - len(dead) - len(cells),
    )


def interest_page(searcher: Searcher, interest: int, traffic: Mapping[int, int] | None = None) -> InterestPage:
    """Show one interest.

    Raises
    ------
    UserError
        If the model has no interests, or none of that code.
    """
    postings, names = _with_interests(searcher)
    if not 0 <= interest < postings.cells:
        raise UserError(f"interest {interest} does not exist; this model has 0 to {postings.cells - 1}")
    items = postings.items_of(interest)
    catalogue, plan = searcher.catalogue, _plan(searcher)
    by = _age_column(catalogue)
    near = plan.nearest(interest)
    cosines = plan.cosines(interest)
    return InterestPage(
        interest=interest,
        name=names["name"][interest],
        items=len(items),
        traffic=int(_visits(searcher, traffic)[interest]),
        typical=shown_items(catalogue, typical_items(catalogue, postings, interest, _TYPICAL)),
        newest_by=by,
        newest=[] if by is None else _newest(catalogue, items, by),
        categories=_category_shares(catalogue, items),
        neighbours=[
            Neighbour(interest=int(code), name=names["name"][int(code)], cosine=float(cosines[code])) for code in near
        ],
    )


def shown_items(catalogue: Catalogue, indices: NDArray[np.integer]) -> list[Item]:
    """Items by index, as people see them."""
    chosen = pl.Series(np.asarray(indices, np.int64))
    ids = catalogue.items.decode(chosen.to_numpy()).cast(pl.String)
    titles = catalogue.titles.gather(chosen)
    return [Item(id=i, title=title) for i, title in zip(ids.to_list(), titles.to_list(), strict=True)]


@dataclass(frozen=True, eq=False)
class _Plan:
    """The map's geometry: codes that are drawn, the largest first, and unit centres of all cells (zero if empty)."""

    codes: NDArray[np.int64]
    points: NDArray[np.float64]
    radii: NDArray[np.float64]
    directions: NDArray[np.float64]

    def cosines(self, code: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.directions @ self.directions[code]
        return found

    def nearest(self, code: int) -> NDArray[np.int64]:
        """The drawn cells nearest to a cell, nearest first; none for an empty one."""
        if not self.directions[code].any():
            return np.empty(0, np.int64)
        others = self.codes[self.codes != code]
        nearest: NDArray[np.int64] = others[np.argsort(-self.cosines(code)[others], kind="stable")[:_NEIGHBOURS]]
        return nearest


@lru_cache(maxsize=1)  # a generation never changes, and one is served at a time
def _plan(searcher: Searcher) -> _Plan:
    postings, _ = _with_interests(searcher)
    sizes = postings.live_sizes
    means = cell_means(postings)
    held = sizes > 0
    centred = np.zeros_like(means)
    centred[held] = means[held] - means[held].mean(axis=0)
    centred[:, ~telling(postings.vectors)] = 0
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = centred / np.where(lengths > 0, lengths, 1)
    order = np.argsort(-sizes, kind="stable")
    codes = order[held[order]][:MOST_CIRCLES]
    radii = np.sqrt(sizes[codes] / sizes[codes].sum())
    return _Plan(codes, place_circles(directions[codes], radii), radii, directions)


def _with_interests(searcher: Searcher) -> tuple[VectorPostings, pl.DataFrame]:
    if (reason := why_no_interests(searcher)) is not None:
        raise UserError(reason)
    names = searcher.names
    assert isinstance(searcher.postings, VectorPostings)
    assert names is not None
    return searcher.postings, names


def _visits(searcher: Searcher, traffic: Mapping[int, int] | None) -> NDArray[np.int64]:
    postings, names = _with_interests(searcher)
    if traffic is not None and _any(traffic):
        return np.array([traffic.get(code, 0) for code in range(postings.cells)], np.int64)
    return names["traffic"].to_numpy()


def _any(traffic: Mapping[int, int] | None) -> bool:
    return traffic is not None and any(traffic.values())


def _age_column(catalogue: Catalogue) -> str | None:
    """The column that tells how new an item is, by its name."""
    for name in _AGES:
        if catalogue.roles.get(name) == "numeric":
            return name
    return None


def _newest(catalogue: Catalogue, items: NDArray[np.int32], by: str) -> list[Newest]:
    ages = catalogue.table[by].gather(pl.Series(items.astype(np.int64)))
    table = pl.DataFrame({"item": items, "age": ages, "count": catalogue.events(items)}).drop_nulls("age")
    newest = table.sort(["age", "count"], descending=True, maintain_order=True).head(_NEWEST)
    shown = shown_items(catalogue, newest["item"].to_numpy())
    whens = newest["age"].cast(pl.String).to_list()
    return [Newest(id=item.id, title=item.title, when=when) for item, when in zip(shown, whens, strict=True)]


def _category_shares(catalogue: Catalogue, items: NDArray[np.int32]) -> list[CategoryShare]:
    """The commonest values of the categorical columns among the items, with their shares of both."""
    found = []
    for column, role in catalogue.roles.items():
        if role not in ("categorical", "multi"):
            continue
        everywhere = catalogue.table[column]
        within = _value_counts(everywhere.gather(pl.Series(items.astype(np.int64)))).head(_CATEGORIES)
        overall = dict(_value_counts(everywhere).iter_rows())
        for value, count in within.iter_rows():
            shares = {"share": count / len(items), "catalogue": overall[value] / len(catalogue)}
            found.append(CategoryShare(column=column, value=value, **shares))
    return sorted(found, key=lambda one: -one.share)[:_CATEGORIES]


def _value_counts(column: pl.Series) -> pl.DataFrame:
    """Values as text with the number of rows that have them, the commonest first."""
    table = pl.DataFrame({"row": pl.int_range(len(column), eager=True), "value": column})
    if isinstance(column.dtype, pl.List | pl.Array):
        table = table.explode("value")
    table = table.drop_nulls("value").with_columns(pl.col("value").cast(pl.String)).unique()
    return table.group_by("value").len().sort(["len", "value"], descending=[True, False])
