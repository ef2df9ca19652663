"""Answers on the users' own ids: candidates, interests and similar items, for every kind of model.

A :class:`Searcher` holds no state that a call changes, so threads may share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError, UserError
from tesserec.index.calibration import Calibration
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Candidates, Elsewhere, Floats, Merge, Policy, Select, Shares, UserSide
from tesserec.index.delta import both_segments
from tesserec.index.diversify import diverse, item_categories
from tesserec.index.filters import NOTHING, Filter
from tesserec.index.names import name_interests
from tesserec.index.new_items import NewItems
from tesserec.index.order import Order
from tesserec.index.postings import Postings, VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import Progress, check_fit, has_interests, retrieve
from tesserec.index.topk import exact_topk
from tesserec.index.user_side import DenseSide, ScoreSide
from tesserec.index.visiting import known_cells


class Searcher:
    """A model that can be asked.

    Parameters
    ----------
    catalogue
        Items by index.
    side
        Turns histories into interests and vectors, into weighted codes, or into scores of every item.
    postings
        Where the items lie; vector postings go with a ``UserSide``, score postings with a ``ScoreSide``, and
        ``EveryItem`` with a ``DenseSide``.
    policy
        What holds unless a call says otherwise.
    names
        Names of the interests where they are at hand; otherwise :func:`tesserec.index.names.name_interests` makes
        them when they are first asked for.
    facts
        What is known about the model (name, seed, dataset fingerprint, ...).
    calibration
        How much posterior mass finds which share of the exact answer.

    Raises
    ------
    ConfigError
        If the parts do not fit each other.
    """

    #: What answers in the place of the postings' own kernels, such as a server.
    elsewhere: Elsewhere | None = None

    def __init__(
        self,
        catalogue: Catalogue,
        side: UserSide | ScoreSide | DenseSide,
        postings: Postings,
        policy: Policy,
        names: pl.DataFrame | None = None,
        facts: dict[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if postings.size != len(catalogue):
            raise ConfigError(f"the postings hold {postings.size} items, the catalogue {len(catalogue)}")
        check_fit(side, postings)
        self.catalogue, self.side, self.postings, self.policy = catalogue, side, postings, policy
        self.facts = dict(facts or {})
        self.calibration = calibration
        self._given_names = names

    @cached_property
    def names(self) -> pl.DataFrame | None:
        """Names of the interests, one row a code in order of code; None for a model without interests."""
        if self._given_names is not None or not isinstance(self.postings, VectorPostings) or not self.has_interests:
            return self._given_names
        return name_interests(self.catalogue, self.postings)

    @property
    def cells(self) -> NDArray[np.int32] | None:
        """Interest that each item belongs to, ``(items,)``; None for a model without interests."""
        return self.postings.cell_of if isinstance(self.postings, VectorPostings) and self.has_interests else None

    @property
    def has_interests(self) -> bool:
        """Whether there are interests that users share; see :func:`tesserec.index.search.has_interests`."""
        return has_interests(self.postings)

    def encode(self, histories: Sequence[Sequence[Any]]) -> tuple[Histories, list[Any]]:
        """Item indices of histories of ids, and the ids that are not in the catalogue, each once.

        Raises
        ------
        DataError
            If a history is empty or none of its items is known.
        """
        rows = []
        unknown: dict[Any, None] = {}
        for row, history in enumerate(histories):
            indices = self._encode_row(row, history)
            unknown.update({i: None for i, index in zip(history, indices, strict=True) if index < 0})
            rows.append(indices[indices >= 0])
        return Histories.from_lists(rows), list(unknown)

    def _encode_row(self, row: int, history: Sequence[Any]) -> NDArray[np.int32]:
        dtype = self.catalogue.items.dtype
        if isinstance(history, (str, bytes)) or not hasattr(history, "__len__"):
            raise DataError(f"history {row} is {history!r}; expected a list of item ids, and a list of such lists")
        if len(history) == 0:
            raise DataError(f"history {row} is empty; give at least one item of the catalogue")
        try:
            indices = self.catalogue.items.encode(history)
        except DataError as error:
            raise DataError(f"history {row}: {error}") from None
        if (indices < 0).all():
            raise DataError(
                f"history {row}: none of its {len(history)} items is in the catalogue (first: {history[0]!r}; ids here "
                f"are {dtype}, such as {self.catalogue.items.example!r}); give items that the model was trained on"
            )
        return indices

    def recommend(
        self,
        histories: Sequence[Sequence[Any]],
        k: int = 20,
        *,
        explore: float | None = None,
        visit: float | None = None,
        interests: int | None = None,
        merge: Merge | None = None,
        select: Select | None = None,
        shares: Shares | None = None,
        exclude_seen: bool | None = None,
        recall: float | None = None,
        max_items: int | None = None,
        temperature: float | None = None,
        known: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        repeats: int | None = None,
        new_share: float | None = None,
        only: Filter | None = None,
        diversity: float = 0.0,
        diversify_by: str | None = None,
    ) -> pl.DataFrame:
        """Ranked candidates; settings left at None are the model's own.

        Ids that are not in the catalogue are skipped; :meth:`encode` reports them.

        Parameters
        ----------
        explore, visit, interests, merge, select, shares, recall, max_items, temperature, known, top_p, seed,
        repeats, new_share
            See :class:`tesserec.index.contract.Policy`.
        only
            What the answer may hold.
        diversity
            Score that each pair of candidates of different interests is worth; above 0, a longer list is re-ranked by
            :func:`tesserec.index.diversify.diversify`, and scores need not fall with rank.
        diversify_by
            Go by this categorical column of the item table instead of interests.

        Returns
        -------
        polars.DataFrame
            ``user`` (row of ``histories``), ``rank`` (from 1), ``item``, ``score``, ``interest`` and ``probability``
            (the slot and its share for models with several free vectors, null for models with one vector or tables),
            ``explored``, ``propensity`` (1 unless the policy draws; null where it was not estimated), ``new`` (no event
            of it was in training).

        Raises
        ------
        DataError
            If a history is empty or none of its items is known.
        ConfigError
            If k or a setting is out of range, or does not go with this model.
        """
        given: dict[str, Any] = {"explore": explore, "visit": visit, "interests": interests}
        given |= {"merge": merge, "select": select, "shares": shares, "recall": recall, "max_items": max_items}
        given |= {"temperature": temperature, "known": known, "top_p": top_p, "seed": seed, "repeats": repeats}
        given["new_share"] = new_share
        policy = replace(self.policy, **{name: value for name, value in given.items() if value is not None})
        if diversify_by is not None and not diversity:
            raise ConfigError(f"diversify_by = {diversify_by!r} with diversity = 0 changes nothing; set diversity too")
        if diversity and policy.seed is not None and policy.repeats:
            raise ConfigError(
                f"diversity = {diversity} re-ranks a drawn list, and its propensity is then unknown; "
                "set repeats = 0 to do without, or diversity = 0"
            )
        if diversity and policy.new_share:
            raise ConfigError(
                f"diversity = {diversity} re-ranks a longer list, which need not keep new_share = {policy.new_share}; "
                "set one of them to 0"
            )
        encoded, _ = self.encode(histories)
        ranked = partial(self.retrieve, policy=policy, exclude_seen=exclude_seen, only=only)
        if not diversity:
            return self._table(ranked(encoded, k))
        categories = None if diversify_by is None else item_categories(self.catalogue, diversify_by)
        return self._table(diverse(ranked, encoded, k, strength=diversity, categories=categories))

    def retrieve(
        self,
        histories: Histories,
        k: int,
        policy: Policy | None = None,
        exclude_seen: bool | None = None,
        *,
        budget_mb: int = 256,
        progress: Progress | None = None,
        only: Filter | None = None,
    ) -> Candidates:
        """Candidates by item index, as :func:`tesserec.index.search.retrieve`; ``only`` says what they may hold."""
        policy = self.policy if policy is None else policy
        order = None
        if policy.recall is not None:
            mass, order = self._visits_for(policy.recall)
            policy = replace(policy, visit=mass, recall=None)
        return retrieve(
            self.side,
            self.postings,
            histories,
            k,
            policy,
            exclude_seen=self.catalogue.exclude_seen if exclude_seen is None else exclude_seen,
            budget_mb=budget_mb,
            progress=progress,
            blocked=NOTHING if only is None else only.resolve(self.catalogue.table),
            elsewhere=self.elsewhere,
            new=self._new if policy.new_share else None,
            order=order,
        )

    @cached_property
    def _new(self) -> NewItems:
        """The items that training had no event of."""
        return NewItems.of(self.catalogue.new, self.postings)

    def _visits_for(self, recall: float) -> tuple[float, Order | None]:
        """What finds a share of the exact answers, as measured when the model was calibrated."""
        if self.calibration is None:
            raise ConfigError(f"recall = {recall}, but this model was never calibrated; index it again, or set visit")
        return self.calibration.mass_for(recall), self.calibration.order_for(recall)

    def _table(self, candidates: Candidates) -> pl.DataFrame:
        users, ranks = np.nonzero(candidates.items >= 0)
        codes = pl.Series(candidates.interests[users, ranks])
        return pl.DataFrame(
            {
                "user": users.astype(np.int64),
                "rank": ranks.astype(np.int64) + 1,
                "item": self.catalogue.items.decode(candidates.items[users, ranks]),
                "score": candidates.scores[users, ranks],
                "interest": codes.set(codes < 0, None),
                "probability": pl.Series(candidates.probability[users, ranks]).fill_nan(None),
                "explored": candidates.explored[users, ranks],
                "propensity": pl.Series(candidates.propensity[users, ranks]).fill_nan(None),
                "new": self.catalogue.events(candidates.items[users, ranks]) == 0,
            }
        )

    def interests(self, histories: Sequence[Sequence[Any]], k: int = 10) -> pl.DataFrame:
        """The likeliest interests of each history.

        Returns
        -------
        polars.DataFrame
            ``user`` (row of ``histories``), ``rank`` (from 1), ``interest``, ``name``, ``probability`` and ``known``
            (an item of the history belongs to it).

        Raises
        ------
        ConfigError
            If the model has no interests, or k is below one.
        """
        if not self.has_interests:
            raise ConfigError(
                "this model has no interests that users share (free vectors are slots without a probability of their "
                "own); models with a codebook have them (sparc)"
            )
        if k < 1:
            raise ConfigError(f"k = {k}; ask for at least one interest")
        assert self.names is not None
        assert isinstance(self.postings, VectorPostings)
        assert not isinstance(self.side, ScoreSide | DenseSide)
        encoded, _ = self.encode(histories)
        posterior = self.side.encode(encoded).posterior
        known = known_cells(self.postings, encoded)
        order = np.argsort(-posterior, axis=1, kind="stable")[:, :k]
        users = np.repeat(np.arange(len(order)), order.shape[1])
        codes = order.ravel()
        return pl.DataFrame(
            {
                "user": users.astype(np.int64),
                "rank": np.tile(np.arange(1, order.shape[1] + 1, dtype=np.int64), len(order)),
                "interest": codes.astype(np.int32),
                "name": self.names["name"].gather(pl.Series(codes)),
                "probability": posterior[users, codes],
                "known": known[users, codes],
            }
        )

    def similar_items(self, items: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """The nearest items of each given item: by cosine of their vectors, or its list of neighbours.

        Returns
        -------
        polars.DataFrame
            ``item``, ``rank`` (from 1), ``similar``, ``score``.

        Raises
        ------
        DataError
            If an item is not in the catalogue.
        UserError
            If the model does not compare items (popularity).
        """
        if k < 1:
            raise ConfigError(f"k = {k}; ask for at least one item")
        indices = self.catalogue.items.encode(items)
        if len(bad := np.flatnonzero(indices < 0)):
            dtype = self.catalogue.items.dtype
            raise DataError(f"item {items[bad[0]]!r} is not in the catalogue; ids here are {dtype}")
        found, scores = self._similar(indices, k)
        rows, ranks = np.nonzero(found >= 0)
        return pl.DataFrame(
            {
                "item": self.catalogue.items.decode(indices[rows]),
                "rank": ranks.astype(np.int64) + 1,
                "similar": self.catalogue.items.decode(found[rows, ranks]),
                "score": scores[rows, ranks],
            }
        )

    def _similar(self, indices: NDArray[np.int32], k: int) -> tuple[NDArray[np.int32], Floats]:
        if isinstance(self.postings, VectorPostings):
            itself = Histories.from_offsets(indices, np.arange(len(indices) + 1))
            unit = self._directions
            return both_segments(
                unit,
                lambda part, unwanted, blocked: exact_topk(
                    unit.vectors_of(indices), part.table, k, exclude=unwanted, blocked=blocked
                ),
                itself,
            )
        if not isinstance(self.postings, ScorePostings) or not self.postings.keyed_by_item:
            raise UserError("this model does not compare items; item-kNN and models with vectors do")
        found = np.full((len(indices), k), -1, np.int32)
        scores = np.full((len(indices), k), -np.inf, np.float32)
        for row, index in enumerate(indices):
            neighbours, values = self.postings.of(int(index))
            others = np.flatnonzero(neighbours != index)[:k]
            found[row, : len(others)], scores[row, : len(others)] = neighbours[others], values[others]
        return found, scores

    @cached_property
    def _directions(self) -> VectorPostings:
        """The postings with unit vectors."""
        assert isinstance(self.postings, VectorPostings)
        return self.postings.unit()
