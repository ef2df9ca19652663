"""Item features as plain arrays, ready for an item tower."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    sizes
        Codes of each categorical and multi column, the missing code included.
    numeric
        ``(items, columns)``: every numeric column with mean 0 and deviation 1 over the items that have it and 0
        elsewhere, then a 0/1 column for each that has missing values.
    vector
        ``(items, dim)``: the vector columns side by side, as given; zero where missing.
    """

    categorical: dict[str, Items]
    multi: dict[str, Histories]
    sizes: dict[str, int]
    numeric: Floats
    vector: Floats

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
        by_role = {role: [name for name, r in roles.items() if r == role] for role in set(roles.values())}
        categorical, multi, sizes = {}, {}, {}
        for name in by_role.get("categorical", []):
            categorical[name], sizes[name] = _codes(table[name])
        for name in by_role.get("multi", []):
            column = table[name].arr.to_list() if isinstance(table[name].dtype, pl.Array) else table[name]
            lists = column.list.drop_nulls()
            lengths = lists.list.len().fill_null(0).to_numpy()
            values, sizes[name] = _codes(lists.filter(lists.list.len() > 0).explode())
            multi[name] = Histories.from_offsets(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        columns = [_standardised(table[name], table["id"]) for name in by_role.get("numeric", [])]
        dense = [vectors(table[name], table["id"]) for name in by_role.get("vector", [])]
        return cls(
            categorical,
            multi,
            sizes,
            _side_by_side([v for v, _ in columns] + [m for _, m in columns if m.any()], table.height),
            _side_by_side(dense, table.height),
        )

    def __len__(self) -> int:
        return len(self.numeric)

    def save(self, folder: Path) -> None:
        """Write ``features.safetensors`` into a folder."""
        arrays: dict[str, NDArray[Any]] = {"numeric": self.numeric, "vector": self.vector}
        arrays |= {f"categorical/{name}": codes for name, codes in self.categorical.items()}
        for name, rows in self.multi.items():
            arrays |= {f"multi/{name}": rows.values, f"offsets/{name}": np.append(rows.starts, rows.stops[-1:])}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, Path(folder) / FILE, metadata={"sizes": json.dumps(self.sizes)})

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
                sizes = json.loads(file.metadata()["sizes"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise ArtefactError(f"{path} cannot be read ({error}); write the directory again") from error
        multi = {
            name: Histories.from_offsets(arrays[f"multi/{name}"], arrays[f"offsets/{name}"])
            for name in _under(arrays, "multi")
        }
        categorical = {name: arrays[f"categorical/{name}"] for name in _under(arrays, "categorical")}
        return cls(categorical, multi, sizes, arrays["numeric"], arrays["vector"])


def _under(arrays: dict[str, NDArray[Any]], kind: str) -> list[str]:
    return [name.removeprefix(f"{kind}/") for name in arrays if name.startswith(f"{kind}/")]


def _codes(column: pl.Series) -> tuple[Items, int]:
    """Codes in the sorted order of the values, from 1; 0 where missing. And how many codes there are."""
    vocabulary = column.drop_nulls().unique().sort()
    if vocabulary.dtype in (pl.Categorical, pl.Enum):
        return _codes(column.cast(pl.String))
    coded = column.to_frame("value").join(
        vocabulary.to_frame("value").with_row_index("code", offset=1), on="value", how="left", maintain_order="left"
    )
    return coded["code"].fill_null(0).cast(pl.Int32).to_numpy(), len(vocabulary) + 1


def _standardised(column: pl.Series, ids: pl.Series) -> tuple[Floats, Floats]:
    """A numeric column with mean 0 and deviation 1, and where it is missing; NaN counts as missing."""
    if column.dtype in (pl.Date, pl.Datetime):
        column = column.dt.epoch("s") if column.dtype == pl.Datetime else column.dt.epoch("d")
    values = column.cast(pl.Float64).to_numpy()
    missing = np.isnan(values)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise DataError(f"column {column.name!r}, item {ids[row]!r}: {values[row]}; numbers must be finite")
    present = values[~missing]
    deviation = present.std() if len(present) else 0.0
    scaled = np.where(missing, 0.0, (values - (present.mean() if len(present) else 0.0)) / (deviation or 1.0))
    return scaled.astype(np.float32)[:, None], missing.astype(np.float32)[:, None]


def _side_by_side(columns: list[Floats], rows: int) -> Floats:
    return np.concatenate([np.empty((rows, 0), np.float32), *columns], axis=1)
