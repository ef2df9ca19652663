"""Item features as plain arrays, ready for an item tower."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from tesserec.data.dataset import Dataset
from tesserec.data.histories import Histories, Items
from tesserec.data.roles import vectors
from tesserec.errors import ArtefactError, DataError

FILE = "features.safetensors"
Floats = NDArray[np.float32]
_ROUNDING = 1e-9
"""Deviation of equal values beside their size, with room to spare."""


@dataclass(frozen=True)
class ItemFeatures:
    """The feature columns of a catalogue; text columns are not among them.

    Attributes
    ----------
    categorical
        Codes ``(items,)`` of each categorical column; 0 is missing.
    multi
        Codes of each multi-categorical column, one row an item, in the order of the table; an item without any has an
        empty row.
    numeric
        ``(items, columns)``: every numeric column with mean 0 and deviation 1 over the items that have it and 0
        elsewhere, then a 0/1 column for each that has missing values.
    vector
        ``(items, dim)``: the vector columns side by side, as given; zero where missing.
    vocabulary
        What they were read by, and later items are to be.
    """

    categorical: dict[str, Items]
    multi: dict[str, Histories]
    numeric: Floats
    vector: Floats
    vocabulary: Vocabulary

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> ItemFeatures:
        """Features of a prepared dataset's catalogue, in item order."""
        return cls.from_table(dataset.item_table, dataset.roles)

    @classmethod
    def from_table(cls, table: pl.DataFrame, roles: dict[str, str]) -> ItemFeatures:
        """Features of a table with an ``id`` column; vocabularies are in sorted order, so they depend on nothing else.

        Raises
        ------
        DataError
            If a number is infinite, or a vector is ragged or holds NaN.
        """
        return Vocabulary.of(table, roles).read(table)

    def __len__(self) -> int:
        return len(self.numeric)

    @property
    def sizes(self) -> dict[str, int]:
        """Codes of each categorical and multi column, the missing code included."""
        return {name: len(values) + 1 for name, values in self.vocabulary.values.items()}

    @property
    def numbers(self) -> Floats:
        """Numeric and vector columns side by side, ``(items, numbers)``."""
        return np.concatenate([self.numeric, self.vector], axis=1)

    def padded(self) -> dict[str, NDArray[np.int64]]:
        """Codes of every column of categories, int64 ``(items, most)``, padded with 0; lists come last."""
        single = {name: codes.astype(np.int64)[:, None] for name, codes in self.categorical.items()}
        return single | {name: rows.padded(0).astype(np.int64) for name, rows in self.multi.items()}

    def save(self, folder: Path) -> None:
        """Write ``features.safetensors`` into a folder."""
        arrays: dict[str, NDArray[Any]] = {"numeric": self.numeric, "vector": self.vector}
        arrays |= {f"categorical/{name}": codes for name, codes in self.categorical.items()}
        for name, rows in self.multi.items():
            arrays |= {f"multi/{name}": rows.values, f"offsets/{name}": np.append(rows.starts, rows.stops[-1:])}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, Path(folder) / FILE, metadata={"vocabulary": json.dumps(self.vocabulary.to_json())})

    @classmethod
    def open(cls, folder: Path) -> ItemFeatures:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            If the file is missing or damaged.
        """
        path = Path(folder) / FILE
        try:
            with safe_open(path, framework="numpy") as file:
                vocabulary = Vocabulary.from_json(json.loads(file.metadata()["vocabulary"]))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise ArtefactError(f"{path} cannot be read ({error}); write the directory again") from error
        multi = {
            name: Histories.from_offsets(arrays[f"multi/{name}"], arrays[f"offsets/{name}"])
            for name in _under(arrays, "multi")
        }
        categorical = {name: arrays[f"categorical/{name}"] for name in _under(arrays, "categorical")}
        return cls(categorical, multi, arrays["numeric"], arrays["vector"], vocabulary)


@dataclass(frozen=True)
class Vocabulary:
    """How the columns of a catalogue become :class:`ItemFeatures`, so that later items are read as the first were.

    Attributes
    ----------
    values
        Values of each categorical and multi column as text, in the order of their codes, which begin at 1.
    multi
        Which of these columns hold lists.
    numbers
        Mean, deviation, and whether values were missing, of each numeric column.
    widths
        Width of each vector column.
    """

    values: dict[str, list[str]]
    multi: list[str]
    numbers: dict[str, tuple[float, float, bool]]
    widths: dict[str, int]

    @classmethod
    def of(cls, table: pl.DataFrame, roles: dict[str, str]) -> Vocabulary:
        """The vocabulary of a catalogue."""
        names = {role: [name for name, r in roles.items() if r == role] for role in _ROLES}
        lists = {name: _lists(table[name]).explode() for name in names["multi"]}
        categories = {name: table[name] for name in names["categorical"]} | lists
        return cls(
            {name: _in_order(column) for name, column in categories.items()},
            names["multi"],
            {name: _scale(_numbers(table[name], table["id"])) for name in names["numeric"]},
            {name: vectors(table[name], table["id"]).shape[1] for name in names["vector"]},
        )

    def read(self, table: pl.DataFrame) -> ItemFeatures:
        """Features of items; a category that the vocabulary lacks counts as missing.

        Raises
        ------
        DataError
            If a column is missing, a number is infinite, or a vector is ragged, holds NaN or has another width.
        """
        if missing := [name for name in (*self.values, *self.numbers, *self.widths) if name not in table.columns]:
            raise DataError(f"the items have no column {missing[0]!r}; this model reads {sorted(self.columns)}")
        multi = {}
        for name in self.multi:
            lists = _lists(table[name])
            lengths = lists.list.len().fill_null(0).to_numpy()
            codes = self._codes(name, lists.filter(lists.list.len() > 0).explode())
            multi[name] = Histories.from_offsets(codes, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        scaled, absent = [], []
        for name, (mean, deviation, partial) in self.numbers.items():
            numbers = _numbers(table[name], table["id"])
            missing_here = np.isnan(numbers)
            scaled.append(np.where(missing_here, 0.0, (numbers - mean) / deviation).astype(np.float32)[:, None])
            if partial:
                absent.append(missing_here.astype(np.float32)[:, None])
        return ItemFeatures(
            {name: self._codes(name, table[name]) for name in self.values if name not in self.multi},
            multi,
            _side_by_side(scaled + absent, table.height),
            _side_by_side([self._vector(name, table) for name in self.widths], table.height),
            self,
        )

    @property
    def columns(self) -> set[str]:
        """Columns that are read."""
        return {*self.values, *self.numbers, *self.widths}

    def _codes(self, name: str, column: pl.Series) -> Items:
        known = pl.DataFrame({"value": self.values[name]}, schema={"value": pl.String}).with_row_index("code", offset=1)
        coded = _text(column).to_frame("value").join(known, on="value", how="left", maintain_order="left")
        return coded["code"].fill_null(0).cast(pl.Int32).to_numpy()

    def _vector(self, name: str, table: pl.DataFrame) -> Floats:
        if table[name].null_count() == table.height:
            return np.zeros((table.height, self.widths[name]), np.float32)
        read = vectors(table[name], table["id"])
        if read.shape[1] != self.widths[name]:
            raise DataError(
                f"column {name!r} holds vectors of width {read.shape[1]}; this model reads {self.widths[name]}"
            )
        return read

    def to_json(self) -> dict[str, Any]:
        """As plain values, for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Vocabulary:
        """What :meth:`to_json` gave."""
        numbers = {name: (float(m), float(d), bool(p)) for name, (m, d, p) in facts["numbers"].items()}
        return cls(facts["values"], facts["multi"], numbers, facts["widths"])


_ROLES = ("categorical", "multi", "numeric", "vector")


def _under(arrays: dict[str, NDArray[Any]], kind: str) -> list[str]:
    return [name.removeprefix(f"{kind}/") for name in arrays if name.startswith(f"{kind}/")]


def _lists(column: pl.Series) -> pl.Series:
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    return lists.list.drop_nulls()


def _text(column: pl.Series) -> pl.Series:
    return column if column.dtype == pl.String else column.cast(pl.String)


def _in_order(column: pl.Series) -> list[str]:
    """The distinct values as text, in the order of the values themselves."""
    plain = _text(column) if column.dtype in (pl.Categorical, pl.Enum) else column
    return _text(plain.drop_nulls().unique().sort()).to_list()


def _numbers(column: pl.Series, ids: pl.Series) -> NDArray[np.float64]:
    """A numeric column, NaN where it is missing."""
    if column.dtype in (pl.Date, pl.Datetime):
        column = column.dt.epoch("s") if column.dtype == pl.Datetime else column.dt.epoch("d")
    values: NDArray[np.float64] = column.cast(pl.Float64).to_numpy()
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(f"column {column.name!r}, item {ids[row]!r}: {values[row]}; numbers must be finite")
    return values


def _scale(values: NDArray[np.float64]) -> tuple[float, float, bool]:
    missing = np.isnan(values)
    present = values[~missing]
    if not len(present):
        return 0.0, 1.0, bool(missing.any())
    mean, deviation = float(present.mean()), float(present.std())
    # Equal values deviate by their rounding, which would blow up the first other one.
    varies = deviation > _ROUNDING * abs(mean)
    return mean, deviation if varies else 1.0, bool(missing.any())


def _side_by_side(columns: list[Floats], rows: int) -> Floats:
    return np.concatenate([np.empty((rows, 0), np.float32), *columns], axis=1)
