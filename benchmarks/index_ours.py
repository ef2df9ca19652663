"""tesserec in the index benchmark: posterior, cells in falling order to the calibrated mass, one pass, merge.

A published model is asked through its searcher instead, user side included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.index_engines import Answer
from benchmarks.index_model import ModelWorld
from benchmarks.index_world import INTERESTS, IndexWorld, exact_answers, make_cells, make_postings
from tesserec.index.calibration import from_masses
from tesserec.index.contract import Candidates, Policy
from tesserec.index.filters import NOTHING
from tesserec.index.postings import VectorPostings
from tesserec.index.scan import best_together
from tesserec.index.visiting import cells_in_order, mass_before

_NOBODY = np.empty(0, np.int32)
_SHARPNESS = (30.0, 60.0, 80.0)
_CALIBRATED = 300
_TARGETS = (0.95, 0.98, 0.99, 0.995, 0.999)


class Ours:
    """Cells, postings and a posterior whose sharpness visits fewest items at a recall of 0.99 in validation."""

    def __init__(self, world: IndexWorld, cells: int) -> None:
        self.centres, of_item = make_cells(world.vectors, cells)
        self.postings = make_postings(world.vectors, of_item, cells)
        self.sizes = self.postings.sizes
        self.log_sizes = np.log(np.maximum(self.sizes, 0.01)).astype(np.float32)
        self.reach = 3 * _spreads(self.postings, self.centres)
        self.centres_t = np.ascontiguousarray(self.centres.T)
        rows, tiles = self.postings.segments[0]
        held = (rows.vectors, rows.items, rows.offsets, self.postings.place, tiles.tiles, tiles.scales)
        self.bytes_per_item = sum(array.nbytes for array in held) / len(world.vectors)
        self._calibrate(world)

    def __getstate__(self) -> dict[str, Any]:
        bare = VectorPostings(self.postings.vectors, self.postings.items, self.postings.offsets)
        return {**vars(self), "postings": bare}

    def _calibrate(self, world: IndexWorld) -> None:
        users = np.arange(_CALIBRATED if len(world.vectors) <= 2_000_000 else _CALIBRATED // 3)
        cells = self.postings.cells_of(exact_answers(world, 100, users))
        self.sample = world.users[: len(users)]
        choices = []
        for sharpness in _SHARPNESS:
            self.sharpness, self.bias = sharpness, self.log_sizes + sharpness * self.reach
            posterior = np.stack([self.posterior(world.users[user]) for user in users])
            order, before = mass_before(posterior)
            of_cell = np.empty_like(before)
            np.put_along_axis(of_cell, order, before, axis=1)
            calibration = from_masses(np.take_along_axis(of_cell, cells, axis=1).ravel(), 100, len(users))
            items = (self.sizes[order] * (before < calibration.mass_for(0.99))).sum(axis=1).mean()
            choices.append((items, sharpness, calibration))
        _, self.sharpness, self.calibration = min(choices, key=lambda choice: choice[0])
        self.bias = self.log_sizes + self.sharpness * self.reach
        self.facts: dict[str, Any] = {"sharpness": self.sharpness, "cells": len(self.sizes)}

    def posterior(self, user: Any) -> Any:
        """``p(cell | user)`` as in :mod:`benchmarks.index_world`."""
        logits = self.bias + self.sharpness * (user @ self.centres_t).max(axis=0)
        np.exp(logits - logits.max(), out=logits)
        return logits / logits.sum()

    def settings(self, k: int) -> Iterator[tuple[str, Answer]]:
        """Recall targets, and every cell; ``visited`` is the mean share of the items that validation users visit."""
        nothing, segments = np.zeros(INTERESTS), self.postings.segments
        for target in (*_TARGETS, None):
            mass = 1.0 if target is None else self.calibration.mass_for(target)

            def answer(user: Any, mass: float = mass) -> Any:
                cells = cells_in_order(self.posterior(user), mass)
                best = best_together(segments, cells, user, nothing, _NOBODY, NOTHING, k)
                assert best is not None
                return best[0]

            visited = [self.sizes[cells_in_order(self.posterior(user), mass)].sum() for user in self.sample]
            self.facts["visited"] = round(float(np.mean(visited)) / self.postings.size, 4)
            yield "exact" if target is None else f"recall={target}", answer


def _spreads(postings: VectorPostings, centres: Any) -> Any:
    """Root mean square distance of a cell's items from its centre in one coordinate, float32 ``(cells,)``."""
    spreads = np.zeros(len(centres), np.float32)
    for cell, (first, last) in enumerate(pairwise(postings.offsets)):
        if last > first:
            spreads[cell] = np.sqrt(((postings.vectors[first:last] - centres[cell]) ** 2).mean())
    return spreads


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
