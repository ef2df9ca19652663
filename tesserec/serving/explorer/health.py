"""Health of the codebook over the generations of a bundle: use of the cells, and how many items change theirs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from tesserec.errors import ArtefactError
from tesserec.evaluation.codebooks import churn
from tesserec.evaluation.collapse import effective_number
from tesserec.index.bundle import Bundle, generations
from tesserec.index.postings import VectorPostings
from tesserec.index.searcher import Searcher
from tesserec.serving.explorer.interests import why_no_interests
from tesserec.serving.explorer.shown import CodebookHealth, GenerationHealth

_SHOWN = 10


def codebook_health(bundle: Bundle) -> CodebookHealth:
    """The newest generations of the bundle's root, beside the one that is served."""
    root = bundle.path.parent
    numbers = generations(root) or [bundle.generation]
    shown = numbers[-_SHOWN:]
    before = [None, *numbers][-len(shown) - 1 : -1]
    figures = [_figures_or_problem(root, number, old) for number, old in zip(shown, before, strict=True)]
    return CodebookHealth(current=bundle.generation, generations=figures, earlier=len(numbers) - len(shown))


def _figures_or_problem(root: Path, number: int, before: int | None) -> GenerationHealth:
    try:
        return _of_generation(root, number, before)
    except ArtefactError as error:
        return GenerationHealth(generation=number, problem=str(error))


@lru_cache(maxsize=64)  # a published generation never changes
def _of_generation(root: Path, number: int, before: int | None) -> GenerationHealth:
    opened = Bundle.open(root, number)
    facts = generation_health(opened)
    if facts.problem is not None or before is None:
        return facts
    try:
        older = Bundle.open(root, before).searcher
    except ArtefactError:
        return facts
    return facts.model_copy(update=movement(older, opened.searcher))


def generation_health(bundle: Bundle) -> GenerationHealth:
    """Use of the cells of one generation."""
    searcher = bundle.searcher
    model = bundle.facts.get("model")
    facts = GenerationHealth(generation=bundle.generation, model=model, items=len(searcher.catalogue))
    if (reason := why_no_interests(searcher)) is not None:
        return facts.model_copy(update={"problem": reason})
    assert isinstance(searcher.postings, VectorPostings)
    sizes = searcher.postings.live_sizes
    figures = {
        "cells": len(sizes),
        "dead": int((sizes == 0).sum()),
        "largest": int(sizes.max()),
        "perplexity": float(effective_number(sizes[None])[0]),
        "sizes": np.sort(sizes)[::-1].tolist(),
    }
    return facts.model_copy(update=figures)


def movement(before: Searcher, after: Searcher) -> dict[str, float | int]:
    """``shared``, ``moved`` and ``regrouped`` of :class:`GenerationHealth`; empty where nothing can be compared."""
    old, new = before.cells, after.cells
    if old is None or new is None or before.catalogue.items.dtype != after.catalogue.items.dtype:
        return {}
    both = pl.DataFrame({"id": before.catalogue.items.values, "old": old}).join(
        pl.DataFrame({"id": after.catalogue.items.values, "new": new}), on="id"
    )
    if both.is_empty():
        return {"shared": 0}
    company = both.group_by("old", "new").len()
    stayed = int(company.group_by("old").agg(pl.col("len").max())["len"].sum())
    return {
        "shared": len(both),
        "moved": churn(both["old"].to_numpy(), both["new"].to_numpy()),
        "regrouped": 1 - stayed / len(both),
    }
