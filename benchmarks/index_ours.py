"""tesserec in the index benchmark: places of cells, posterior, cells in order until none is worth it, one pass, merge.

A published model is asked through its searcher instead, user side included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.index_engines import Answer
from benchmarks.index_model import ModelWorld
from benchmarks.index_world import INTERESTS, IndexWorld, make_cells, make_postings
from tesserec.index.calibration import Measured, from_measured, refined, share_found
from tesserec.index.contract import Candidates, Policy
from tesserec.index.filters import NOTHING
from tesserec.index.order import Order, cells_in_falling_order, heights, orders
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import Best, best_together
from tesserec.index.topk import frozen

_NOBODY, _NOTHING = np.empty(0, np.int32), np.zeros(INTERESTS)
_SHARPNESS = 60.0
_EVERYTHING = Order(0.0, np.inf)
_CALIBRATED = 1000
_TARGETS = (0.95, 0.98, 0.99, 0.995, 0.999)


class Ours:
    """Cells and postings, with the posterior of :mod:`benchmarks.index_world`, calibrated as a bundle is."""

    def __init__(self, world: IndexWorld, cells: int) -> None:
        of_item = make_cells(world.vectors, cells)
        self._take(make_postings(world.vectors, of_item, cells), world.users[:_CALIBRATED])

    def _take(self, postings: VectorPostings, users: Any) -> None:
        self.postings, self.users = postings, users
        self.sizes = frozen(postings.sizes)
        self.log_sizes = np.log(np.maximum(self.sizes, 0.01)).astype(np.float32)
        rows, tiles = postings.segments[0]
        own = postings.places.rows
        held = (
            rows.vectors,
            rows.items,
            rows.offsets,
            postings.place,
            tiles.tiles,
            tiles.scales,
            own.tiles,
            own.scales,
        )
        self.bytes_per_item = sum(array.nbytes for array in held) / postings.size
        exact = [self.answer(user, _EVERYTHING)[0] for user in users]
        near = np.stack([self._heights(user) for user in users])
        answers, worst = np.stack([best.items for best in exact]), np.array([best.values[-1] for best in exact])
        measured = Measured(self._posterior(near), near, postings.cells_of(answers), worst.astype(np.float32))

        def share(order: Order) -> float:
            return share_found(np.stack([self.answer(user, order)[0].items for user in users]), answers)

        self.calibration = refined(from_measured(measured, self.sizes), share)
        self.facts: dict[str, Any] = {"cells": postings.cells, "calibrated": len(users)}

    def __getstate__(self) -> dict[str, Any]:
        bare = VectorPostings(self.postings.vectors, self.postings.items, self.postings.offsets)
        return {**vars(self), "postings": bare}

    def _heights(self, user: Any) -> Any:
        return heights(self.postings.places, self.postings.cells, user, _NOTHING)

    def _posterior(self, near: Any) -> Any:
        logits = self.log_sizes + np.float32(_SHARPNESS) * near
        np.exp(logits - logits.max(axis=-1, keepdims=True), out=logits)
        return logits / logits.sum(axis=-1, keepdims=True)

    def posterior(self, user: Any) -> Any:
        """``p(cell | user)``."""
        return self._posterior(self._heights(user))

    def answer(self, user: Any, order: Order) -> tuple[Best, float, int]:
        """The best 100 items, the posterior mass left and the items visited."""
        near = self._heights(user)
        posterior = self._posterior(near)
        cells, stops = cells_in_falling_order(orders(near, posterior, order.weight), self.sizes, order.slack, -1)
        best = best_together(self.postings.segments, cells, user, _NOTHING, _NOBODY, NOTHING, 100, stops)
        assert best is not None
        seen = cells[: best.visited]
        return best, 1.0 - float(posterior[seen].sum()), int(self.sizes[seen].sum())

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Recall targets, and every cell; ``visited`` is the mean share of the items that validation users visit."""
        assert k == 100
        for target in _TARGETS:
            order = self.calibration.order_for(target)
            assert order is not None
            visited = [self.answer(user, order)[2] for user in self.users[:300]]
            self.facts |= {"visited": round(float(np.mean(visited)) / self.postings.size, 4), "weight": order.weight}
            yield f"recall={target}", lambda user, order=order: self.answer(user, order)[0].items
        self.facts["visited"] = 1.0
        yield "exact", lambda user: self.answer(user, _EVERYTHING)[0].items


class Published:
    """The searcher of a bundle, asked as the service asks it; see :mod:`benchmarks.index_model`."""

    def __init__(self, world: ModelWorld) -> None:
        self.world = world
        rows, tiles = world.postings.segments[0]
        held = (rows.vectors, rows.items, rows.offsets, world.postings.place, tiles.tiles, tiles.scales)
        self.bytes_per_item = sum(array.nbytes for array in held) / world.postings.size
        spans = []
        for user in world.users[:200]:
            begin = time.perf_counter()
            world.read(user)
            spans.append(time.perf_counter() - begin)
        self.facts: dict[str, Any] = {
            "cells": world.postings.cells,
            "user_side_p50_ms": round(float(np.median(spans)) * 1e3, 3),
        }

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Recall targets, and every cell."""
        for target in (*_TARGETS, None):
            policy = replace(self.world.searcher.policy, recall=target, visit=1.0, explore=0.0)

            def answer(user: Any, policy: Policy = policy) -> Candidates:
                return self.world.searcher.retrieve(user, k, policy, exclude_seen=False)

            visited = [answer(user).visits.items[0] for user in self.world.users[:100]]
            self.facts["visited"] = round(float(np.mean(visited)) / self.world.postings.size, 4)
            yield "exact" if target is None else f"recall={target}", lambda user, ask=answer: ask(user).items[0]
