"""What interests are called: by the categories that set a cell apart and the items that stand for it."""

from __future__ import annotations

import math
import textwrap

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.index.catalogue import Catalogue
from tesserec.index.postings import VectorPostings

_SHOWN = 3
_MIN_SHARE = 0.1
_WIDTH = 48


def name_interests(catalogue: Catalogue, postings: VectorPostings) -> pl.DataFrame:
    """Name every interest.

    A cell's categories are the values of its categorical columns with the largest ``share * log(lift)``, the share
    of the cell's items that have it and how many times the catalogue's share that is (the value's part of the
    Kullback-Leibler divergence, so that neither ubiquitous nor one-off values win). Typical items are those nearest
    to the cell's mean vector among the more popular half of the cell.

    Returns
    -------
    polars.DataFrame
        One row a code: ``interest``, ``name``, ``items`` (how many lie in the cell), ``traffic`` (their training
        events), ``typical`` and ``categories`` (lists of strings, best first, at most three).
    """
    titles = catalogue.titles
    categories = _categories(catalogue, postings)
    rows = []
    for code in range(postings.cells):
        items = postings.items_of(code)
        typical = [titles[int(item)] for item in typical_items(catalogue, postings, code, _SHOWN)]
        found = categories.get(code, [])
        traffic = int(catalogue.events(items).sum())
        rows.append((code, _name(found, typical), len(items), traffic, typical, found))
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "interest": pl.Int32,
        "name": pl.String,
        "items": pl.Int64,
        "traffic": pl.Int64,
        "typical": pl.List(pl.String),
        "categories": pl.List(pl.String),
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _name(categories: list[str], typical: list[str]) -> str:
    first = ", ".join(categories[:2])
    second = textwrap.shorten(typical[0], _WIDTH, placeholder=" …") if typical else ""
    return f"{first}: {second}" if first and second else first or second or "(no items)"


def typical_items(catalogue: Catalogue, postings: VectorPostings, code: int, n: int) -> NDArray[np.int32]:
    """At most ``n`` popular items nearest to the cell's mean by cosine, nearest first."""
    items = postings.items_of(code)
    vectors = postings.vectors_of(items).astype(np.float64)
    if not len(items):
        return items
    counts = catalogue.events(items)
    popular = counts >= np.median(counts)
    lengths = np.linalg.norm(vectors, axis=1)
    nearness = vectors @ vectors.mean(axis=0) / np.where(lengths > 0, lengths, 1)
    order = np.argsort(-nearness[popular], kind="stable")[:n]
    return items[popular][order]


def _categories(catalogue: Catalogue, postings: VectorPostings) -> dict[int, list[str]]:
    """Telling category values of each code, best first."""
    columns = [name for name, role in catalogue.roles.items() if role in ("categorical", "multi")]
    worded = [name for name in columns if _is_text(catalogue.table.schema[name])]
    # Where a column has words, numbers of another column (category ids beside category names) tell people nothing.
    columns = worded or columns
    parts = [_scored_values(catalogue, postings, column) for column in columns]
    if not parts:
        return {}
    best = pl.concat(parts).sort(["cell", "weight", "value"], descending=[False, True, False])
    best = best.unique(["cell", "value"], keep="first", maintain_order=True)
    lists = best.group_by("cell", maintain_order=True).agg(pl.col("value").head(_SHOWN))
    return {int(cell): values for cell, values in lists.iter_rows()}


def _is_text(dtype: pl.DataType) -> bool:
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner in (pl.String, pl.Categorical, pl.Enum)


def _scored_values(catalogue: Catalogue, postings: VectorPostings, column: str) -> pl.DataFrame:
    """Values of one column that are commoner in a cell than in the catalogue: ``cell``, ``value``, ``weight``."""
    table = catalogue.table.select(value=pl.col(column)).with_columns(
        item=pl.int_range(pl.len()), cell=pl.Series(postings.cell_of)
    )
    if catalogue.roles[column] == "multi":
        table = table.explode("value")
    readable = pl.col("value").cast(pl.String)
    if table.schema["value"].is_numeric():
        readable = pl.lit(f"{column} ") + readable
    table = table.drop_nulls("value").with_columns(value=readable).unique(["item", "value"])
    sizes = pl.DataFrame({"cell": np.arange(postings.cells, dtype=np.int32), "size": postings.live_sizes})
    share = pl.col("count") / pl.col("size")
    lift = share / (pl.col("total") / postings.size)
    return (
        table.group_by("cell", "value")
        .agg(count=pl.len())
        .with_columns(total=pl.col("count").sum().over("value"))
        .join(sizes, on="cell")
        .filter((lift > 1.0) & (share >= _MIN_SHARE))
        .select("cell", "value", weight=share * lift.log(math.e))
    )
