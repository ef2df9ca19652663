"""Events of users: what a store must do, and how one is opened.

Two stores meet :class:`EventStore`: ``sqlite`` keeps one file beside the service, for all workers of one machine;
``redis`` is for several machines. Both order a user's events by time and then by id, and never show one that is older
than the retention.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import msgspec

DAY = 86_400_000_000


@dataclass(frozen=True)
class StoredEvent:
    """An event as it is kept.

    Attributes
    ----------
    user, id
        Together the key.
    item
        Item id as JSON, which keeps its type.
    time
        Microseconds since 1970, UTC.
    """

    user: str
    id: str
    item: str
    time: int


class EventStore(Protocol):
    """Events by user; methods may be called by any thread."""

    def add(self, events: Sequence[StoredEvent]) -> Future[int]:
        """Keep the events whose key is new; the future holds their number once they would survive a crash."""
        ...

    def history(self, user: str, limit: int) -> list[Any]:
        """Item ids of the user's newest ``limit`` events, oldest first; empty for somebody unknown."""
        ...

    def delete(self, user: str) -> int:
        """Delete all that is kept of a user; the number of events it was."""
        ...

    def prune(self) -> int:
        """Delete what is older than the retention; how many events it was."""
        ...

    def close(self) -> None:
        """Finish what was begun and let go of everything."""
        ...


def open_store(address: str, retention: float | None) -> EventStore:
    """Open the store at a path (SQLite) or a ``redis://`` or ``rediss://`` address.

    Parameters
    ----------
    retention
        Days after which an event is forgotten, None for never.

    Raises
    ------
    MissingExtra
        If Redis is asked for and its client is not installed.
    ArtefactError
        If the file is not an event store of this format.
    """
    kept = None if retention is None else int(retention * DAY)
    if address.startswith(("redis://", "rediss://")):
        from tesserec.serving.state.redis import RedisStore

        return RedisStore(address, kept)
    from tesserec.serving.state.sqlite import SqliteStore

    return SqliteStore(Path(address), kept)


def now() -> int:
    """Microseconds since 1970."""
    return microseconds(datetime.now(timezone.utc))


def microseconds(time: datetime) -> int:
    """Microseconds since 1970 of a time with a zone."""
    past = time - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def decode_item(item: str | bytes) -> Any:
    """The item id of a stored event."""
    return msgspec.json.decode(item)
