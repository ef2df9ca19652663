"""Events in Redis, shared by services on several machines; needs the extra ``redis``.

A user has two keys in one hash slot: ``{user}:items`` (event id to item) and ``{user}:times`` (event ids by time). An
acknowledged event is as durable as the server is set to be: ``appendonly yes`` with ``appendfsync always`` matches the
SQLite store.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tesserec.errors import MissingExtra, UserError
from tesserec.serving.state import StoredEvent, decode_item, now

_THREADS = 4
_ADD = """
local new = redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
if new == 1 then redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1]) end
if ARGV[4] ~= '' then
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
    redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return new
"""
_HISTORY = """
local ids = redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', ARGV[1], 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(ids))
"""
_PRUNE = """
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[1], 'LIMIT', 0, 1000)
if #ids > 0 then
    redis.call('HDEL', KEYS[1], unpack(ids))
    redis.call('ZREM', KEYS[2], unpack(ids))
end
return #ids
"""
_DELETE = """
local events = redis.call('HLEN', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
return events
"""


class RedisStore:
    """See :class:`tesserec.serving.state.EventStore`.

    Parameters
    ----------
    address
        ``redis://host:port/database``.
    retention
        Microseconds after which an event is forgotten.

    Raises
    ------
    UserError
        If the server cannot be reached.
    """

    def __init__(self, address: str, retention: int | None) -> None:
        try:
            import redis
        except ModuleNotFoundError:
            raise MissingExtra("redis", "redis", "keeping events in Redis") from None
        self._retention = retention
        self._server = redis.Redis.from_url(address, decode_responses=True)
        try:
            self._server.ping()
        except redis.RedisError as error:
            raise UserError(f"the Redis server of the event store does not answer ({error}); start it first") from None
        self._add, self._history = self._server.register_script(_ADD), self._server.register_script(_HISTORY)
        self._prune, self._delete = self._server.register_script(_PRUNE), self._server.register_script(_DELETE)
        self._threads = ThreadPoolExecutor(_THREADS, "events")

    def add(self, events: Sequence[StoredEvent]) -> Future[int]:
        """Keep new events; see the protocol."""
        return self._threads.submit(self._add_now, events)

    def _add_now(self, events: Sequence[StoredEvent]) -> int:
        expiry = "" if self._retention is None else str(max(1, self._retention // 1000))
        pipeline = self._server.pipeline(transaction=True)
        for event in events:
            given: list[str | int] = [event.id, event.item, event.time, expiry]
            self._add(keys=_keys(event.user), args=given, client=pipeline)
        return sum(pipeline.execute())

    def history(self, user: str, limit: int) -> list[Any]:
        """Newest items of a user, oldest first; see the protocol."""
        found = self._history(keys=_keys(user), args=[self._oldest(), limit])
        return [decode_item(item) for item in found][::-1]

    def delete(self, user: str) -> int:
        """Delete a user; see the protocol."""
        return int(self._delete(keys=_keys(user)))

    def prune(self) -> int:
        """Delete what is older than the retention; see the protocol."""
        if self._retention is None:
            return 0
        gone, oldest = 0, self._oldest()
        for key in self._server.scan_iter("tesserec:*:times"):
            keys = [key.removesuffix(":times") + ":items", key]
            while found := int(self._prune(keys=keys, args=[oldest])):
                gone += found
        return gone

    def close(self) -> None:
        """Finish what was begun, then close."""
        self._threads.shutdown()
        self._server.close()

    def _oldest(self) -> str:
        return "-inf" if self._retention is None else str(now() - self._retention)


def _keys(user: str) -> list[str]:
    return [f"tesserec:{{{user}}}:items", f"tesserec:{{{user}}}:times"]
