"""Circles in two dimensions: near where their centres are alike, of given areas, none over another.

Stress majorisation (SMACOF; de Leeuw 1977, Gansner et al. 2005 for the weights) from principal components, then
circles are pushed apart. The same input gives the same map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tesserec.evaluation.codebooks import layout

Floats = NDArray[np.float64]
_STEPS = 120
_GAP = 0.12  # of the mean radius
_DRIFT = (0.9975, 0.994)  # a step: more in height than in width, for maps that are wider than high
_FILL = 0.5  # share of the area that circles are to cover before they are pushed apart


def place_circles(directions: Floats, radii: Floats) -> Floats:
    """Centres of circles, ``(n, 2)``, around the origin.

    Parameters
    ----------
    directions
        Unit vectors, ``(n, dim)``; cosine distance is what the plane is to show.
    radii
        Positive, ``(n,)``.
    """
    count = len(radii)
    if count < 2:
        return np.zeros((count, 2))
    distances = np.sqrt(np.maximum(2 - 2 * directions @ directions.T, 0))
    points = _majorise(_apart(layout(directions)), np.maximum(distances, 1e-3))
    points = layout(points)  # the longest extent lies across
    extent = float(np.sqrt((points**2).sum(axis=1).mean()))
    wanted = float(np.sqrt((radii**2).sum() / _FILL / 2))
    return _push_apart(points * (wanted / max(extent, 1e-12)), radii)


def _apart(points: Floats) -> Floats:
    """Points with a small spiral added, so that no two coincide."""
    turn = np.arange(len(points)) * np.pi * (3 - np.sqrt(5))
    size = 1e-3 * (1 + np.arange(len(points)) / len(points))
    spread = float(np.abs(points).max()) or 1.0
    spiral: Floats = size * np.array([np.cos(turn), np.sin(turn)])
    return points + spread * spiral.T


def _majorise(points: Floats, distances: Floats) -> Floats:
    """Move points so that their distances approach the given ones; short distances count most."""
    weights = distances**-2.0
    np.fill_diagonal(weights, 0)
    inverse = np.linalg.pinv(np.diag(weights.sum(axis=1)) - weights)
    for _ in range(_STEPS):
        now = _distances(points)
        ratio = weights * distances / np.where(now > 0, now, 1)
        points = inverse @ ((np.diag(ratio.sum(axis=1)) - ratio) @ points)
    return points


def _push_apart(points: Floats, radii: Floats) -> Floats:
    """Resolve overlaps step by step, drifting towards the middle; what little remains is settled by one scaling."""
    needed = radii[:, None] + radii + _GAP * radii.mean()
    np.fill_diagonal(needed, 0)
    lighter = radii[None, :] ** 2 / (radii[:, None] ** 2 + radii[None, :] ** 2)  # large circles move less
    for step in range(4 * _STEPS):
        if step < 3 * _STEPS:
            points = points * _DRIFT
        now = _distances(points)
        push = 0.7 * np.maximum(needed - now, 0) * lighter / np.where(now > 0, now, 1)
        points = points + points * push.sum(axis=1, keepdims=True) - push @ points
    now = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(now, np.inf)
    touching = radii[:, None] + radii
    scaled: Floats = points * max(1.0, 1.001 * float((touching / np.maximum(now, 1e-9)).max()))
    return scaled


def _distances(points: Floats) -> Floats:
    squares = (points**2).sum(axis=1)
    between: Floats = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    return between
