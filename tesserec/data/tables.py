"""Tables from anywhere: files, folders, polars, pandas and Arrow objects become one lazy polars frame.

Text formats are read as text; what a column means is decided where it is used, so that ids such as ``007`` stay what
they are and a bad value can be named by file, column and row.
"""

from __future__ import annotations

import glob
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from tesserec.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".inter": "\t", ".item": "\t", ".user": "\t"}
ARROW = (".arrow", ".feather", ".ipc")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*PARQUET, *SEPARATORS, *ARROW)
NULLS = ["NaN", "nan", "null", "NULL"]


@dataclass(frozen=True)
class Table:
    """A table that is read when asked for.

    Attributes
    ----------
    name
        What errors call it.
    frame
        All rows in their order.
    parts
        The same rows file by file with each file's name, to find the place of a bad value.
    text
        True for CSV and TSV, where every column is a string column.
    conditions
        What the rows that are read must meet.
    """

    name: str
    frame: pl.LazyFrame
    parts: tuple[tuple[str, pl.LazyFrame], ...]
    text: bool = False
    conditions: tuple[pl.Expr, ...] = ()

    @property
    def schema(self) -> pl.Schema:
        """Columns and their types."""
        return self.frame.collect_schema()

    def map(self, change: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Table:
        """The table with ``change`` applied to the rows of every part that are read."""
        parts = tuple((name, change(self._read(part))) for name, part in self.parts)
        return replace(self, frame=change(self._read(self.frame)), parts=parts, conditions=())

    def only(self, condition: pl.Expr) -> Table:
        """The table of which only some rows are read; places are still those in the files."""
        return replace(self, conditions=(*self.conditions, condition))

    def collect(self, *expressions: pl.Expr | str) -> pl.DataFrame:
        """Read the chosen expressions over the whole table, streaming.

        Raises
        ------
        DataError
            If the table cannot be read to its end; names the file.
        """
        frame = self._read(self.frame)
        return collect(frame.select(*expressions) if expressions else frame, self)

    def _read(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.filter(*self.conditions) if self.conditions else frame

    def first(self, condition: pl.Expr, column: str) -> str:
        """Where ``condition`` first holds, as ``"<file>, column <c>, row <n>: <value>"``; data rows count from 1."""
        for name, part in self.parts:
            rows = part.with_row_index("__row").filter(condition, *self.conditions).select("__row", column).head(1)
            found = collect(rows, self)
            if found.height:
                row, value = found.row(0)
                return f"{name}, column {column!r}, row {row + 1}: {value!r}"
        raise AssertionError(f"no row of {self.name} meets the condition it was counted by")


def collect(frame: pl.LazyFrame, table: Table) -> pl.DataFrame:
    """Collect a frame that was derived from ``table``; failures to read name the file."""
    try:
        return frame.collect(engine="streaming")
    except (PolarsError, OSError) as error:
        raise DataError(f"{_culprit(table)} cannot be read: {_brief(error)}; {_advice(error)}") from error


def read_table(source: Any) -> Table:
    """Open a table without reading its rows.

    Parameters
    ----------
    source
        A path (file, folder or glob pattern), a list of paths, a polars DataFrame or LazyFrame, a pandas DataFrame, or
        any object with the Arrow PyCapsule interface (``pyarrow.Table`` among them). Files: parquet, CSV, TSV, Arrow.

    Raises
    ------
    DataError
        If a file is missing, empty, cut or of an unknown kind, or if files differ in their columns.
    """
    if isinstance(source, (str, Path)):
        return _from_files(_expand(Path(source)))
    if isinstance(source, (list, tuple)) and source and all(isinstance(part, (str, Path)) for part in source):
        return _from_files([file for part in source for file in _expand(Path(part))])
    frame = _to_frame(source)
    if not frame.columns or not frame.height:
        raise DataError(f"the {_kind(source)} holds no rows; expected a table with at least one")
    name = f"the {_kind(source)}"
    return Table(name, frame.lazy(), ((name, frame.lazy()),))


def _kind(source: Any) -> str:
    return f"{type(source).__module__.split('.')[0]} {type(source).__name__}"


def _to_frame(source: Any) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source
    if isinstance(source, pl.LazyFrame):
        return collect(source, Table("the polars LazyFrame", source, ()))
    if type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        return _from_pandas(source)
    if hasattr(source, "__arrow_c_stream__"):
        return pl.DataFrame(source)
    raise DataError(
        f"a table cannot be made of {type(source).__name__!r}; pass a path, a list of paths, a polars or pandas "
        "DataFrame, or an Arrow table"
    )


def _from_pandas(frame: Any) -> pl.DataFrame:
    if not frame.columns.is_unique:
        raise DataError(f"the pandas DataFrame has repeated column names: {list(map(str, frame.columns))}; rename them")
    return pl.DataFrame([_pandas_series(str(name), frame[name]) for name in frame.columns])


def _pandas_series(name: str, column: Any) -> pl.Series:
    """One column; objects are looked at value by value, so that mixed types are found. UUIDs become text."""
    if column.dtype != object:
        return pl.Series(name, pl.from_pandas(column))
    values = [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
    present = [(row, value) for row, value in enumerate(values) if value is not None]
    for row, value in present:
        if type(value) is not type(present[0][1]):
            raise DataError(
                f"the pandas DataFrame, column {name!r}, row {row + 1}: {value!r} is {type(value).__name__}, but the "
                f"column began with {type(present[0][1]).__name__}; give the column one type"
            )
    if present and isinstance(present[0][1], uuid.UUID):
        return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
    return pl.Series(name, values)


def _expand(path: Path) -> list[Path]:
    """The files that a path stands for, in name order."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.removesuffix(".gz") and _visible(p, path))
        known = [file for file in files if _suffix(file) in SUFFIXES]
        if not known:
            raise DataError(f"{path} holds no table; expected files that end in {', '.join(SUFFIXES)}")
        return known
    if path.exists():
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(path)))
    if not matches:
        raise DataError(f"{path} does not exist; check the path")
    return matches


def _visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)


def _suffix(file: Path) -> str:
    """Suffix that tells the format; ``.gz`` is looked through."""
    return Path(file.stem).suffix.lower() if file.suffix == ".gz" else file.suffix.lower()


def _from_files(files: list[Path]) -> Table:
    for file in files:
        if _suffix(file) not in SUFFIXES:
            raise DataError(f"{file} ends in {_suffix(file)!r}; expected one of {', '.join(SUFFIXES)}")
        if not file.stat().st_size:
            raise DataError(f"{file} is empty; expected a table with at least one row")
    kinds = {_reader(file) for file in files}
    if len(kinds) > 1:
        raise DataError(f"{files[0].parent} mixes formats: {', '.join(sorted({_suffix(f) for f in files}))}; pass one")
    parts = tuple((str(file), _scan([file])) for file in files)
    schemas = [_schema(name, part) for name, part in parts]
    for (name, _), schema in zip(parts, schemas, strict=True):
        _same_columns(parts[0][0], schemas[0], name, schema)
    name = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
    table = Table(name, _scan(files), parts, _reader(files[0]) in SEPARATORS.values())
    if not table.collect(pl.len()).item():
        raise DataError(f"{table.name} holds no rows; expected a table with at least one")
    return table


def _reader(file: Path) -> str:
    suffix = _suffix(file)
    return "parquet" if suffix in PARQUET else "arrow" if suffix in ARROW else SEPARATORS[suffix]


def _scan(files: list[Path]) -> pl.LazyFrame:
    kind = _reader(files[0])
    if kind == "parquet":
        return pl.scan_parquet(files, glob=False, hive_partitioning=False)
    if kind == "arrow":
        return pl.scan_ipc(files, glob=False)
    return pl.scan_csv(files, separator=kind, infer_schema=False, null_values=NULLS, glob=False)


def _schema(name: str, frame: pl.LazyFrame) -> pl.Schema:
    try:
        return frame.collect_schema()
    except (PolarsError, OSError) as error:
        raise DataError(f"{name} cannot be read: {_brief(error)}; the file is cut or of another format") from error


def _same_columns(first: str, expected: pl.Schema, name: str, seen: pl.Schema) -> None:
    if list(seen.names()) != list(expected.names()):
        raise DataError(f"{name} has the columns {seen.names()}, but {first} has {expected.names()}; make them equal")
    for column, dtype in seen.items():
        if dtype != expected[column]:
            raise DataError(
                f"{name}, column {column!r} is {dtype}, but {expected[column]} in {first}; give the files one type"
            )


def _culprit(table: Table) -> str:
    """The first file of a table that cannot be read to its end."""
    if len(table.parts) > 1:
        for name, part in table.parts:
            try:
                part.select(pl.all().null_count()).collect(engine="streaming")
            except (PolarsError, OSError):
                return name
    return table.name


def _advice(error: Exception) -> str:
    if "utf-8" in str(error).lower():
        return "save it as UTF-8"
    if "more fields" in str(error):
        return "a row has more fields than the header; put quotes around values that hold the separator"
    return "write or copy it again"


def _brief(error: Exception) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
