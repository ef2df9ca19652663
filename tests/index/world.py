"""Small models with known answers, and the search done the slow way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from hypothesis import strategies as st

from tesserec.data.histories import Histories
from tesserec.data.ids import IdMap
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Encoded, Policy
from tesserec.index.exploration import reshaped
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher


class LookupSide:
    """Posterior and vectors looked up by the newest item of the history."""

    def __init__(self, posterior, vectors):
        self.posterior, self.vectors = posterior, vectors

    def encode(self, histories):
        newest = histories.values[histories.stops - 1]
        return Encoded(self.posterior[newest], newest)

    def read(self, encoded, interests):
        vectors = self.vectors[encoded.state[:, None], np.maximum(interests, 0)]
        return np.where(interests[..., None] >= 0, vectors, 0).astype(np.float32)


class AllScores:
    """Scores of every item looked up by the newest item of the history."""

    def __init__(self, scores):
        self.scores = scores

    def score(self, histories):
        return self.scores[histories.values[histories.stops - 1]]


def catalogue(n, ids=None, **columns):
    ids = pl.Series([f"i{i}" for i in range(n)] if ids is None else ids)
    roles = {name: "text" if name == "title" else "categorical" for name in columns}
    return Catalogue(IdMap(ids), pl.DataFrame({"id": ids, **columns}), roles, True, np.arange(n, 0, -1))


def world(seed=0, items=60, cells=6, dim=4, ties=False, slots=None):
    """Side and postings; with ``ties`` all numbers are small integers, so equal scores abound.

    With ``slots`` there is one cell, and the user side has that many codes.
    """
    codes, cells = (cells, cells) if slots is None else (slots, 1)
    rng = np.random.default_rng(seed)
    draw = (lambda *shape: rng.integers(-2, 3, shape)) if ties else (lambda *shape: rng.normal(size=shape))
    weights = rng.integers(0, 4, (items, codes)) + 0.0 if ties else np.exp(rng.normal(size=(items, codes)))
    weights[:, 0] += weights.sum(axis=1) == 0
    posterior = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    side = LookupSide(posterior, draw(items, codes, dim).astype(np.float32))
    postings = VectorPostings.build(draw(items, dim).astype(np.float32), rng.integers(0, cells, items), cells)
    return side, postings


def searcher(seed=0, items=60, cells=6, dim=4, **kwargs):
    side, postings = world(seed, items, cells, dim)
    return Searcher(catalogue(items), side, postings, Policy(**kwargs))


def histories(seed, users, items, longest=8):
    rng = np.random.default_rng(seed)
    return Histories.from_lists([rng.integers(0, items, rng.integers(1, longest + 1)) for _ in range(users)])


def policies(**fields):
    """Any policy; the choice by history excludes exploration and a weight on known interests."""
    by_posterior = st.tuples(
        st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.just("posterior"), st.sampled_from([1.0, 1.0, 0.05, 20.0])
    )
    ways = st.one_of(by_posterior, st.just((0.0, "history", 1.0)))
    built = st.builds(
        Policy,
        interests=st.integers(1, 8),
        merge=st.sampled_from(["max", "probability", "quota"]),
        visit=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
        shares=st.sampled_from(["posterior", "equal"]),
        **fields,
    )
    return st.builds(lambda policy, way: replace(policy, explore=way[0], select=way[1], known=way[2]), built, ways)


def chances_of(side, postings, history, policy):
    """The probability of every interest of one user: the posterior that chooses, or its frequency in the history."""
    counts = np.bincount(postings.cell_of[np.asarray(history)], minlength=postings.cells)
    if policy.select == "posterior":
        posterior = side.posterior[history[-1]][None]
        return reshaped(posterior, np.resize(counts > 0, posterior.shape), policy)[0]
    return (counts / len(history)).astype(np.float32)


def scores_of(query, vectors):
    """The score that decides: a float64 dot product rounded once to float32."""
    return (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def slow_retrieve(side, postings, history, k, policy, exclude_seen):
    """One user's candidates as (item, value, code, explored), by sorting everything."""
    encoded = side.encode(Histories.from_lists([history]))
    chances = encoded.posterior[0]
    order = sorted(range(len(chances)), key=lambda code: (-chances[code], code))
    allowed = set(range(postings.size)) - (set(map(int, history)) if exclude_seen else set())
    known = {int(postings.cell_of[item]) for item in history}
    one_cell = postings.cells == 1  # its codes are slots: they own no cell, and all of them search the only one
    visited, mass = ({0} if one_cell else set()), 0.0
    for code in [] if one_cell else order:
        if policy.visit < 1 and visited and mass >= policy.visit:
            break
        visited.add(code)
        mass += float(chances[code])
    chances = chances_of(side, postings, history, policy)
    order = sorted(order, key=lambda code: (-chances[code], code))

    slots = 0
    if policy.explore > 0:
        slots = k if policy.explore == 1 else min(max(1, int(policy.explore * k + 0.5)), k - 1)
    if policy.select == "history":  # frequencies are the chances, and of equally frequent cells the latest comes first
        cells = postings.cell_of[np.asarray(history)].tolist()
        latest = {cell: place for place, cell in enumerate(cells)}
        order = sorted(latest, key=lambda cell: (-cells.count(cell), -latest[cell]))
    shares = (lambda code: 1.0) if policy.shares == "equal" else chances.__getitem__
    new = [code for code in order if code not in known and chances[code] > 0][: min(policy.interests, slots)]
    slots = slots if new else 0
    likely = [code for code in order if chances[code] > 0]
    old = likely[: min(policy.interests, k - slots) if policy.merge == "quota" else policy.interests]
    if not old:
        slots = k

    def ranked(code, cells):
        query = side.read(encoded, np.array([[code]], np.int32))[0, 0]
        values = scores_of(query, postings.vectors_of(np.arange(postings.size))).astype(np.float64)
        if policy.normalise and (postings.cell_of == code).any():
            values = values - np.logaddexp.reduce(values[postings.cell_of == code])
        if policy.merge == "probability":
            values = values + np.log(np.float64(chances[code]))
        if policy.reach == "cell":
            cells = cells & {code}
        reach = [item for item in allowed if int(postings.cell_of[item]) in cells]
        return [(item, values[item], code) for item in sorted(reach, key=lambda i: (-values[i], i))]

    exploited = {code: ranked(code, visited) for code in old}
    explored = {code: ranked(code, (visited | set(new)) - known) for code in new}
    found = {}

    def take(candidates, limit, by_exploration=False):
        for item, value, code in candidates:
            if limit <= 0 or len(found) >= k:
                break
            if item not in found:
                found[item] = (value, code, by_exploration)
                limit -= 1

    def best(lists):
        place = {code: i for i, code in enumerate(lists)}
        union = [entry for candidates in lists.values() for entry in candidates]
        return sorted(union, key=lambda e: (-e[1], e[0], place[e[2]]))

    if policy.merge == "quota":
        for code, quota in zip(old, slow_quotas(list(map(shares, old)), k - slots), strict=True):
            take(exploited[code], quota)
    take(best(exploited), k - slots - len(found))
    for code, quota in zip(new, slow_quotas(list(map(shares, new)), slots), strict=True):
        take(explored[code], quota, True)
    take(best(exploited), k)
    take(best(explored), k, True)
    return sorted(((item, *rest) for item, rest in found.items()), key=lambda e: (-e[1], e[0]))


def slow_quotas(weights, total):
    if len(weights) == 0 or total == 0:
        return [0] * len(weights)
    weights = [float(w) for w in weights]
    exact = [w / sum(weights) * total for w in weights]
    shares = [int(e) for e in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (-(exact[i] - shares[i]), i))
    for i in by_rest[: total - sum(shares)]:
        shares[i] += 1
    while min(shares) < 1:
        shares[shares.index(max(shares))] -= 1
        shares[shares.index(0)] += 1
    return shares
