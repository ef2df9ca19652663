"""Recommending through an engine: the user side, the policy and the merge are ours, the scoring is the engine's.

An engine is asked for as many items more than ``k`` as a user's history holds, and what was seen is left out here. So
lists are filled to ``k``, and every engine does it alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tesserec.adapters.engine import Engine, Found, nothing_found
from tesserec.adapters.export import check_whole, contents_of
from tesserec.data.histories import Histories
from tesserec.errors import ConfigError
from tesserec.index.bundle import Bundle
from tesserec.index.contract import Candidates, Floats, Policy
from tesserec.index.filters import Filter
from tesserec.index.kernels import empty_rows
from tesserec.index.lists import visits_of_lists, weigh
from tesserec.index.merge import no_candidates
from tesserec.index.score_postings import ScorePostings
from tesserec.index.search import Progress
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ScoreSide


class ExternalSearcher(Searcher):
    """A bundle whose items are searched in an engine; asked like any :class:`~tesserec.index.searcher.Searcher`.

    Answers are those of the bundle's own index at the same settings, up to the rounding of float32 sums. The bundle
    stays at hand for the user side, the ids and the vectors of the history, of which few pages are read.

    Parameters
    ----------
    bundle
        The generation that was exported.
    engine
        A whole collection of it; see :func:`tesserec.adapters.export.export`.

    Raises
    ------
    ArtefactError
        If the collection is missing, is not whole or holds another generation.
    ConfigError
        If the bundle cannot be searched through an engine.
    EngineError
        If the engine cannot be reached.

    Examples
    --------
    >>> searcher = ExternalSearcher(Bundle.open("bundles"), FaissEngine("shop.faiss"))  # doctest: +SKIP
    >>> searcher.recommend([["i00012", "i00034"]], k=10)  # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        check_whole(engine, contents_of(bundle))
        own = bundle.searcher
        super().__init__(own.catalogue, own.side, own.postings, own.policy, own.names, own.facts, own.calibration)
        self.engine, self.elsewhere = engine, _InEngine(engine)

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
        """As :meth:`tesserec.index.searcher.Searcher.retrieve`, through the engine.

        Raises
        ------
        ConfigError
            If there is a filter, or a share is kept for new items.
        EngineError
            If the engine cannot be reached or refuses.
        """
        if only is not None:
            raise ConfigError(
                f"filters are not passed on to {self.engine.place}; leave `only` out, or use tesserec's own index"
            )
        return super().retrieve(histories, k, policy, exclude_seen, budget_mb=budget_mb, progress=progress)


class _InEngine:
    """An engine as the search knows it, see :class:`tesserec.index.contract.Elsewhere`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def best_in_cells(self, queries: Floats, cells: Histories | None, unwanted: Histories | None, k: int) -> Found:
        unwanted = empty_rows(len(queries)) if unwanted is None else unwanted
        found = self._engine.search_vectors(queries, cells, k + int(unwanted.lengths.max(initial=0)))
        return best_wanted(found, unwanted, k)

    def sum_lists(
        self, side: ScoreSide, postings: ScorePostings, histories: Histories, k: int, exclude_seen: bool
    ) -> Candidates:
        codes, weights = weigh(side, postings, histories)
        unwanted = histories if exclude_seen else empty_rows(len(histories))
        found = self._engine.search_lists(codes, weights, k + int(unwanted.lengths.max(initial=0)))
        answer = no_candidates(len(histories), k)
        answer.items[...], answer.scores[...] = best_wanted(found, unwanted, k)
        return replace(answer, visits=visits_of_lists(postings, codes))


def best_wanted(found: Found, unwanted: Histories, k: int) -> Found:
    """The ``k`` best of each row of an engine's answer, in our order: falling score, then rising item."""
    items, scores = found
    best, values = nothing_found(len(items), k)
    for row in range(len(items)):
        wanted = np.flatnonzero((items[row] >= 0) & ~np.isin(items[row], unwanted[row]))
        order = wanted[np.lexsort((items[row, wanted], -scores[row, wanted]))][:k]
        best[row, : len(order)], values[row, : len(order)] = items[row, order], scores[row, order]
    return best, values
