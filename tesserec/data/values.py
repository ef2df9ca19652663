"""Values at the edge: ids, numbers and times of a column are checked once, and the first bad one is named by its place.

Each function reads its column in one streaming pass and returns the expression that the rest of the preparation uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tesserec.data.tables import Table
from tesserec.errors import ConfigError, DataError

INTEGER = r"^(0|-?[1-9]\d{0,17})$"
"""Text that an integer gives back unchanged; ``007`` is none and stays text."""
PADDED = r"^[+-]?0\d"
"""Text that reads as a number and is more likely a name, such as a postal code."""

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLIEST, LATEST = 10**8, 42 * 10**8
"""Seconds between which times are recognised: March 1973 to 2103. Smaller numbers are an order, not times."""


@dataclass(frozen=True)
class Times:
    """How a time column is read.

    Attributes
    ----------
    key
        Integer that sorts events, at the resolution of the log.
    kind
        ``seconds``, ``milliseconds``, ``microseconds``, ``nanoseconds``, ``datetime`` or ``order``.
    per_second
        Keys in one second; 0 for an order.
    """

    key: pl.Expr
    kind: str
    per_second: int


def id_values(table: Table, column: str, what: str) -> pl.Expr:
    """Ids of one column. Text of a CSV becomes integers where every id is one; categories become strings.

    Raises
    ------
    DataError
        If an id is null, NaN or a fraction, or the type cannot name things.
    """
    dtype, value = table.schema[column], pl.col(column)
    if isinstance(dtype, (pl.List, pl.Array, pl.Struct)) or dtype in (pl.Object, pl.Time, pl.Duration, pl.Decimal):
        raise DataError(f"{table.name}, column {column!r} is {dtype}; ids must be integers, strings, dates or bytes")
    _refuse(table, value.is_null(), column, f"every row needs a {what}; drop the row or fill it in")
    if dtype.is_float():
        _refuse(table, value.is_nan(), column, f"every row needs a {what}; drop the row or fill it in")
        fraction = value.is_infinite() | (value != value.floor())
        _refuse(table, fraction, column, f"a {what} id cannot be a fraction; pass another column")
    if table.text and not table.collect((~value.str.contains(INTEGER)).sum()).item():
        return value.cast(pl.Int64)
    return value.cast(pl.String) if dtype in (pl.Categorical, pl.Enum) else value


def number_values(table: Table, column: str) -> pl.Expr:
    """Numbers of one column as floats.

    Raises
    ------
    DataError
        If a value is null, NaN or not a number.
    """
    dtype, value = table.schema[column], pl.col(column)
    if dtype != pl.String and not dtype.is_numeric() and dtype != pl.Boolean:
        raise DataError(f"{table.name}, column {column!r} is {dtype}; expected numbers")
    number = value.cast(pl.Float64, strict=False)
    _refuse(table, number.is_null() | number.is_nan(), column, "expected a number; correct or drop the row")
    return number


def time_values(table: Table, column: str, kind: str | None = None) -> Times:
    """Times of one column: dates, ISO 8601 text or numbers, whose unit shows in their size.

    Numbers from 1973 to 2103 are recognised in seconds, milli-, micro- or nanoseconds; non-negative numbers below
    10^8 are an order. All rows must agree.

    Parameters
    ----------
    table, column
        Where to look.
    kind
        What the numbers are, if the caller knows: a unit or ``"order"``.

    Raises
    ------
    DataError
        If a time is missing, negative, beyond 2103, unreadable or of another unit than the rest.
    """
    if kind is not None and kind not in (*UNITS, "order"):
        raise ConfigError(f"time_kind = {kind!r}; choose one of {', '.join([*UNITS, 'order'])}")
    dtype, value = table.schema[column], pl.col(column)
    advice = "drop the row, or from Python pass columns={'time': None}"
    _refuse(table, value.is_null(), column, f"every row needs a time; {advice}")
    if dtype in (pl.Date, pl.Datetime):
        return _calendar(table, column, value.cast(pl.Datetime("us")))
    if dtype == pl.String:
        number, calendar = value.cast(pl.Float64, strict=False), _iso(value)
        bad_numbers, bad_dates = table.collect(number.is_null().sum(), calendar.is_null().sum().alias("d")).row(0)
        best = number if bad_numbers <= bad_dates else calendar
        _refuse(table, best.is_null(), column, "expected a number or an ISO 8601 time such as 2024-05-31T08:00:00Z")
        if best is calendar:
            return _calendar(table, column, calendar)
        whole = not table.collect((~value.str.contains(INTEGER)).sum()).item()
        return _numeric(table, column, value.cast(pl.Int64) if whole else number, kind, whole)
    if not dtype.is_numeric():
        raise DataError(f"{table.name}, column {column!r} is {dtype}; expected numbers, dates or ISO 8601 text")
    return _numeric(table, column, value, kind, dtype.is_integer())


def _calendar(table: Table, column: str, time: pl.Expr) -> Times:
    key = time.dt.epoch("us")
    outside = (key < 0) | (key >= LATEST * 10**6)
    _refuse(table, outside, column, "times before 1970 or after 2102 are taken as mistakes; correct or drop the row")
    return Times(key, "datetime", 10**6)


def _numeric(table: Table, column: str, value: pl.Expr, kind: str | None, whole: bool) -> Times:
    if not whole:
        _refuse(table, ~value.is_finite(), column, "every row needs a time; correct or drop the row")
    _refuse(table, value < 0, column, "times cannot be negative; correct or drop the row")
    kind = kind or _recognise_unit(table, column, value)
    if kind == "order":
        return Times((value if whole else value * 10**6).cast(pl.Int64), "order", 0)
    per_second = UNITS[kind]
    _refuse(table, value >= LATEST * per_second, column, f"beyond the year 2102 in {kind}; correct or drop the row")
    if whole:
        return Times(value.cast(pl.Int64), kind, per_second)
    return Times((value * (10**6 / per_second)).cast(pl.Int64), kind, 10**6)


def _recognise_unit(table: Table, column: str, value: pl.Expr) -> str:
    """The unit that most rows show; a row outside it is an error."""
    ranges = {unit: (value >= EARLIEST * n) & (value < LATEST * n) for unit, n in UNITS.items()}
    ranges["order"] = value < EARLIEST
    counts = table.collect(*(inside.sum().alias(unit) for unit, inside in ranges.items())).row(0, named=True)
    unit = max(counts, key=lambda name: int(counts[name]))
    odd = f"most times here are {'small numbers (an order)' if unit == 'order' else unit}, this one cannot be; "
    _refuse(table, ~ranges[unit], column, odd + "correct or drop the row, or pass time_kind")
    return unit


def _iso(value: pl.Expr) -> pl.Expr:
    """ISO 8601 dates and times, with or without seconds and zone; null where the text is none."""
    text = value.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(r"[zZ]$", "+00:00")
    zoned = ("%Y-%m-%dT%H:%M:%S%.f%:z", "%Y-%m-%dT%H:%M%:z")
    local = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M")
    times = [text.str.to_datetime(f, strict=False, time_unit="us").dt.replace_time_zone(None) for f in zoned]
    times += [text.str.to_datetime(f, strict=False, time_unit="us") for f in local]
    return pl.coalesce(*times, text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))


def _refuse(table: Table, condition: pl.Expr, column: str, advice: str) -> None:
    """Raise for the first row that meets ``condition``."""
    if count := int(table.collect(condition.sum().alias("count")).item()):
        others = f" ({count} rows like it)" if count > 1 else ""
        raise DataError(f"{table.first(condition, column)}{others}: {advice}")
