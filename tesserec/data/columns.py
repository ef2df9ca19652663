"""Which column is the user, the item, the time, the weight and the event, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tesserec.errors import ConfigError, DataError

NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "user": (
        ("userid", "user", "uid", "visitorid", "visitor", "customerid", "customer", "reviewerid", "memberid", "member",
         "accountid", "profileid", "clientid"),
        ("sessionid", "session", "basketid", "orderid", "playlistid"),
    ),
    "item": (
        ("itemid", "item", "iid", "movieid", "productid", "product", "articleid", "article",
         "trackid", "songid", "artistid", "videoid", "bookid", "listingid", "businessid", "gameid", "appid", "newsid",
         "clickarticleid"),
        ("parentasin", "asin", "sku", "isbn"),
        ("id",),
    ),
    "time": (
        ("timestamp", "time", "ts", "date", "datetime", "unixreviewtime", "unixtime", "eventtime", "createdat",
         "clicktimestamp", "tdat", "reviewtime"),
    ),
    "weight": (("rating", "weight", "score", "stars", "overall", "playcount"),),
    "event": (
        ("event", "eventtype", "behavior", "behaviour", "behaviortype", "action", "actiontype", "interactiontype"),
    ),
}  # fmt: skip
"""Recognised names of each column, in ranks: a later rank counts only where no column has a name of an earlier one."""


def find_column(
    what: str, columns: Sequence[str], table: str, given: Mapping[str, str | None], *, required: bool
) -> str | None:
    """Name of the column that holds ``what``.

    Names are compared without case, ``_``, ``-``, blanks and a type after a colon, so ``user_id``, ``userId`` and
    ``user_id:token`` are one.

    Parameters
    ----------
    what
        ``user``, ``item``, ``time``, ``weight`` or ``event``.
    columns
        Columns of the table.
    table
        What errors call the table.
    given
        Columns named by the caller; a name of None means that there is none.
    required
        Whether a missing column is an error.

    Raises
    ------
    DataError
        If the column is missing or several could be meant; names those seen and the option to pass.
    """
    option = f"columns={{{what!r}: NAME}} (prepare: --{what}-column NAME, update: --column {what}=NAME), or rename it"
    if what in given:
        name = given[what]
        if name is not None and name not in columns:
            raise DataError(f"{table} has no column {name!r} for the {what}; it has {list(columns)}")
        if name is not None or not required:
            return name
    for rank in NAMES[what]:
        matches = [name for name in columns if _plain(name) in rank]
        if len(matches) > 1:
            raise DataError(f"{table}: each of {matches} could be the {what}; pass {option}")
        if matches:
            return matches[0]
    if required:
        if len(columns) == 1 and (mark := next((one for one in ";\t|" if one in columns[0]), None)):
            raise DataError(
                f"{table} has the one column {columns[0]!r}, which {mark!r} seems to divide; save it with commas "
                "between the columns (.csv) or with tabs (.tsv)"
            )
        raise DataError(f"{table} has no column that is known as the {what}; it has {list(columns)}; pass {option}")
    return None


def check_given(given: Mapping[str, str | None]) -> None:
    """Refuse keys of ``columns`` that mean nothing.

    Raises
    ------
    ConfigError
        Names the key.
    """
    for what in given:
        if what not in NAMES:
            raise ConfigError(f"columns names {what!r}; expected one of {', '.join(NAMES)}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.split(":")[0].lower() if letter not in "_- ")
