"""Health of a codebook as its codes lie over the catalogue: even use, dead codes, distinct tuples, movement, a map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Ints
from tesserec.errors import DataError
from tesserec.evaluation.collapse import effective_number
from tesserec.evaluation.metrics import Floats
from tesserec.index.postings import VectorPostings

Codes = NDArray[np.integer[Any]]


def code_counts(codes: Codes, size: int) -> Ints:
    """Items of each code, ``(levels, size)``.

    Parameters
    ----------
    codes
        Codes of every item, ``(items, levels)``.
    size
        Codes of a level.

    Raises
    ------
    DataError
        If a code is not between 0 and ``size - 1``.
    """
    if len(bad := np.argwhere((codes < 0) | (codes >= size))):
        item, level = bad[0]
        raise DataError(f"item {item} has code {codes[item, level]} at level {level}; expected 0 to {size - 1}")
    return np.stack([np.bincount(column, minlength=size) for column in codes.T]).astype(np.int64)


def codebook_figures(codes: Codes, size: int) -> dict[str, float]:
    """Use of every level: ``perplexity/0`` (codes in effective use), ``dead/0``, ``largest/0`` (items), and so on.

    Codebooks of several levels also have ``tuples``, the distinct tuples of codes.
    """
    counts = code_counts(codes, size)
    figures: dict[str, float] = {}
    for level, (row, perplexity) in enumerate(zip(counts, effective_number(counts), strict=True)):
        figures |= {
            f"perplexity/{level}": float(perplexity),
            f"dead/{level}": float((row == 0).sum()),
            f"largest/{level}": float(row.max()),
        }
    if codes.shape[1] > 1:
        figures["tuples"] = float(len(np.unique(codes, axis=0)))
    return figures


def churn(before: Codes, after: Codes) -> float:
    """Share of items whose code, at any level, differs between two assignments, ``(items,)`` or ``(items, levels)``.

    Codes keep their identity while a codebook is trained, so they are compared as they are. Two codebooks that were
    trained apart have nothing to do with each other's numbers: their churn means nothing.
    """
    if before.shape != after.shape:
        raise DataError(f"codes of shape {before.shape} and {after.shape}; churn compares one catalogue with itself")
    return float((before != after).reshape(len(before), -1).any(axis=1).mean())


def telling(vectors: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Coordinates in which items differ, ``(dim,)``.

    A coordinate that is the same for all items carries a bias of the interest; it ranks no item and has no part in a
    direction.
    """
    return np.asarray(vectors.max(axis=0) != vectors.min(axis=0))


def cell_means(postings: VectorPostings) -> Floats:
    """Mean vector of each cell, ``(cells, dim)``; NaN for an empty cell."""
    sizes = np.diff(postings.offsets)
    means = np.full((postings.cells, postings.dim), np.nan)
    held = sizes > 0
    sums = np.add.reduceat(postings.vectors, postings.offsets[:-1][held], axis=0, dtype=np.float64)
    means[held] = sums / sizes[held, None]
    return means


def layout(points: Floats) -> Floats:
    """Two-dimensional layout by principal components, ``(rows, 2)``; NaN rows stay NaN.

    A component's sign is arbitrary; here its entry of largest size is positive.
    """
    flat = np.full((len(points), 2), np.nan)
    held = ~np.isnan(points).any(axis=1)
    centred = points[held] - points[held].mean(axis=0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    axes = components[:2]
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    placed = centred @ (axes * np.sign(largest)[:, None]).T
    flat[held] = np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
    return flat
