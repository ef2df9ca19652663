"""Events in one SQLite file: write-ahead log, every acknowledged event synced to the disk.

One thread writes. It takes all that waits into one transaction, so that many callers share one sync (group commit),
and answers them after the commit. Several processes may open the same file.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tesserec.errors import ArtefactError
from tesserec.serving.state import StoredEvent, decode_item, now

_FORMAT = 1
_MOST_AT_ONCE = 256
_SECONDS_FOR_OTHERS = 10.0
_TABLES = """
CREATE TABLE events (
    user TEXT NOT NULL, id TEXT NOT NULL, item TEXT NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (user, id)
) WITHOUT ROWID;
CREATE INDEX events_of_user ON events (user, time, id, item);
CREATE INDEX events_by_time ON events (time);
"""

_Work = Callable[[sqlite3.Connection], int]


class SqliteStore:
    """See :class:`tesserec.serving.state.EventStore`.

    Parameters
    ----------
    path
        The file; made, readable by its owner alone, where it is missing.
    retention
        Microseconds after which an event is forgotten.

    Raises
    ------
    ArtefactError
        If the file is something else.
    """

    def __init__(self, path: Path, retention: int | None) -> None:
        self._path, self._retention = path, retention
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        self._work: queue.SimpleQueue[tuple[_Work, Future[int]] | None] = queue.SimpleQueue()
        self._closed = False
        self._readers = threading.local()
        self._all_readers: list[sqlite3.Connection] = []
        _prepare(path)
        self._writer = threading.Thread(target=self._write, name="events", daemon=True)
        self._writer.start()

    def add(self, events: Sequence[StoredEvent]) -> Future[int]:
        """Keep new events; see the protocol."""
        rows = [(event.user, event.id, event.item, event.time) for event in events]

        def insert(connection: sqlite3.Connection) -> int:
            return connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", rows).rowcount

        return self._enqueue(insert)

    def history(self, user: str, limit: int) -> list[Any]:
        """Newest items of a user, oldest first; see the protocol."""
        rows = self._reader().execute(
            "SELECT item FROM events WHERE user = ? AND time >= ? ORDER BY time DESC, id DESC LIMIT ?",
            (user, self._oldest(), limit),
        )
        return [decode_item(item) for (item,) in rows][::-1]

    def delete(self, user: str) -> int:
        """Delete a user; what was deleted is overwritten, in the log of the database too."""
        gone = self._enqueue(
            lambda connection: connection.execute("DELETE FROM events WHERE user = ?", (user,)).rowcount
        ).result()
        self._reader().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    def prune(self) -> int:
        """Delete what is older than the retention; see the protocol."""
        oldest = self._oldest()
        return self._enqueue(
            lambda connection: connection.execute("DELETE FROM events WHERE time < ?", (oldest,)).rowcount
        ).result()

    def close(self) -> None:
        """Write what waits, then close."""
        self._closed = True
        self._work.put(None)
        self._writer.join()
        for reader in self._all_readers:
            reader.close()

    def _oldest(self) -> int:
        return -(1 << 62) if self._retention is None else now() - self._retention

    def _enqueue(self, work: _Work) -> Future[int]:
        done: Future[int] = Future()
        if self._closed:
            raise RuntimeError("the event store is closed")
        self._work.put((work, done))
        return done

    def _reader(self) -> sqlite3.Connection:
        """A connection of the calling thread."""
        if (connection := getattr(self._readers, "connection", None)) is None:
            connection = self._readers.connection = _connect(self._path)
            self._all_readers.append(connection)
        return connection

    def _write(self) -> None:
        connection = _connect(self._path)
        try:
            while (first := self._work.get()) is not None:
                ended = _commit(connection, [first, *(waiting := self._waiting())])
                if ended or None in waiting:
                    return
        finally:
            connection.close()

    def _waiting(self) -> list[tuple[_Work, Future[int]] | None]:
        found: list[tuple[_Work, Future[int]] | None] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < _MOST_AT_ONCE:
                found.append(self._work.get_nowait())
        return found


def _commit(connection: sqlite3.Connection, group: Sequence[tuple[_Work, Future[int]] | None]) -> bool:
    """Do the group's work in one transaction and answer; True where the end of the queue was among it.

    Work whose asker has gone before it began is left out, and one that goes meanwhile is not told.
    """
    todo = [one for one in group if one is not None and one[1].set_running_or_notify_cancel()]
    try:
        connection.execute("BEGIN IMMEDIATE")
        counts = [work(connection) for work, _ in todo]
        connection.execute("COMMIT")
    except Exception as error:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        for _, done in todo:
            done.set_exception(error)
    else:
        for (_, done), count in zip(todo, counts, strict=True):
            done.set_result(count)
    return None in group


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_SECONDS_FOR_OTHERS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _prepare(path: Path) -> None:
    """Make the tables in a new file; refuse a foreign one."""
    try:
        with contextlib.closing(_connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            (format_of_file,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if format_of_file == 0 and tables == 0:
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_FORMAT}")
            elif format_of_file != _FORMAT:
                raise ArtefactError(
                    f"{path} is a database of format {format_of_file}; expected an event store of format {_FORMAT}"
                )
            connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        raise ArtefactError(f"{path} cannot be used as an event store ({error}); name another file") from None
