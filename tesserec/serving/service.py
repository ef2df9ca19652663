"""What the service does, apart from HTTP: one object a worker process, over the generation in service and the events.

Methods that answer are coroutines; the search runs in threads, so that the event loop can refuse what is too much.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tesserec import __version__
from tesserec.errors import ArtefactError, UserError
from tesserec.serving import answers, edits, schemas
from tesserec.serving.answers import Question
from tesserec.serving.candidate_log import CandidateLog
from tesserec.serving.limits import Gate, Refusal, busy
from tesserec.serving.metrics import Metrics, forget_dead_workers
from tesserec.serving.settings import Settings
from tesserec.serving.state import EventStore, StoredEvent, microseconds, now, open_store
from tesserec.serving.swap import Generations, Outcome, Served
from tesserec.serving.traffic import Traffic

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_PRUNES = 3600.0
_FUTURE = timedelta(minutes=5)
_T = TypeVar("_T")


class Service:
    """A worker's state and its answers.

    Parameters
    ----------
    settings
        See :class:`tesserec.serving.settings.Settings`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.gate = Gate(settings.queue)
        self.generations = Generations(Path(settings.bundles).absolute(), settings.poll, self._changed)
        self.store = None if settings.state is None else open_store(settings.state, settings.retention)
        self.log = None
        if settings.candidate_log is not None:
            self.log = CandidateLog(Path(settings.candidate_log), self.metrics.log_errors.inc)
        self._threads = ThreadPoolExecutor(settings.threads, "search")
        self._traffic = Traffic(0, 0)
        self._pruning: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open and check the first generation, then watch for others, and begin to forget old events."""
        forget_dead_workers()
        await asyncio.to_thread(self.generations.start)
        gc.collect()
        gc.freeze()  # a full collection would walk all that is loaded by now, and hold a request up for as long
        if self.store is not None and self.settings.retention is not None:
            self._pruning = asyncio.create_task(self._prune())

    def stop(self) -> None:
        """Finish and let go of everything."""
        if self._pruning is not None:
            self._pruning.cancel()
        self.generations.stop()
        self._threads.shutdown()
        if self.store is not None:
            self.store.close()
        if self.log is not None:
            self.log.close()

    @property
    def served(self) -> Served:
        """The generation in service.

        Raises
        ------
        Refusal
            503 before there is one.
        """
        if (served := self.generations.current) is None:
            raise busy("no generation is in service yet; see /v1/version for what was refused", 503)
        return served

    async def recommend(self, asked: schemas.RecommendRequest) -> schemas.Recommendation:
        """Candidates of one user."""
        question = Question(asked.k, asked.policy, asked.filter, asked.exclude_seen)
        served, name = self.served, _new_name()

        def answer() -> schemas.Recommendation:
            as_of = datetime.now(timezone.utc)
            (found,) = answers.recommend(served, [self._history(asked)], question)
            self._note(served, name, question, [found])
            rest = (getattr(found, field) for field in found.__struct_fields__)
            return schemas.Recommendation(*rest, generation=served.bundle.generation, as_of=as_of, request=name)

        return await self._compute(answers.searches_of(served, 1, question), "/v1/recommend", answer)

    async def recommend_batch(self, asked: schemas.BatchRequest) -> schemas.Recommendations:
        """Candidates of several users."""
        question = Question(asked.k, asked.policy, asked.filter, asked.exclude_seen)
        served, name = self.served, _new_name()

        def answer() -> schemas.Recommendations:
            as_of = datetime.now(timezone.utc)
            found = answers.recommend(served, asked.histories, question)
            self._note(served, name, question, found)
            return schemas.Recommendations(served.bundle.generation, as_of, name, found)

        searches = answers.searches_of(served, len(asked.histories), question)
        return await self._compute(searches, "/v1/recommend/batch", answer)

    async def interests(self, asked: schemas.InterestsRequest) -> schemas.Interests:
        """The likeliest interests of one user."""
        served = self.served
        return await self._compute(1, "/v1/interests", lambda: answers.interests(served, self._history(asked), asked.k))

    async def similar(self, asked: schemas.SimilarRequest) -> schemas.Similar:
        """Neighbours of items."""
        served = self.served
        return await self._compute(
            len(asked.items), "/v1/similar", lambda: answers.similar(served, asked.items, asked.k)
        )

    async def event(self, asked: schemas.Event) -> schemas.Stored:
        """Keep one event."""
        return await self._keep([asked])

    async def events(self, asked: schemas.EventBatch) -> schemas.Stored:
        """Keep several events."""
        return await self._keep(asked.events)

    async def _keep(self, events: Sequence[schemas.Event]) -> schemas.Stored:
        store, moment = self._needed_store(), now()
        latest = datetime.now(timezone.utc) + _FUTURE
        if late := next((one for one in events if one.time is not None and one.time > latest), None):
            raise Refusal(422, f"an event is of {late.time}, which is yet to come; send times in UTC or with a zone")
        kept = [
            StoredEvent(
                one.user,
                one.id,
                msgspec.json.encode(one.item).decode(),
                moment if one.time is None else microseconds(one.time),
            )
            for one in events
        ]
        with self.gate.admit(1), self.metrics.inside.track_inprogress():
            new = await asyncio.wrap_future(store.add(kept))
        self.metrics.events.labels("stored").inc(new)
        self.metrics.events.labels("repeated").inc(len(events) - new)
        served = self.generations.current
        unknown = [] if served is None else answers.unknown_items(served, [one.item for one in events])
        return schemas.Stored(new, len(events) - new, unknown)

    async def add_items(self, asked: schemas.ItemRows) -> schemas.Edited:
        """Add items to the catalogue."""
        return await self._edit("/v1/items/add", lambda served: edits.add(served, asked))

    async def update_items(self, asked: schemas.ItemRows) -> schemas.Edited:
        """Change columns of items."""
        return await self._edit("/v1/items/update", lambda served: edits.update(served, asked))

    async def remove_items(self, asked: schemas.ItemIds) -> schemas.Edited:
        """Remove items from the catalogue."""
        return await self._edit("/v1/items/remove", lambda served: edits.remove(served, asked))

    async def _edit(self, path: str, edit: Callable[[Served], schemas.Edited]) -> schemas.Edited:
        """Edit the catalogue, and answer once the new generation is in service in this process."""
        served = self.served

        def work() -> schemas.Edited:
            done = edit(served)
            self.generations.refresh()
            now = self.generations.current
            if now is None or now.bundle.generation < done.generation:
                name = f"generation-{done.generation:06d}"
                refused = (one.reason for one in reversed(self.generations.refused) if one.generation == name)
                reason = next(refused, "another generation was chosen meanwhile")
                raise ArtefactError(
                    f"generation {done.generation} holds the edit and is not in service: {reason}; "
                    "edit once more, or take it back by `tesserec rollback`"
                )
            return done

        return await self._compute(1, path, work)

    async def delete_user(self, asked: schemas.UserRequest) -> schemas.Deleted:
        """Delete all that is kept of a user."""
        store = self._needed_store()
        return await self._compute(1, "/v1/users/delete", lambda: schemas.Deleted(store.delete(asked.user)))

    async def version(self, _: None = None) -> schemas.Version:
        """What is served, and what was refused."""
        served = self.generations.current
        return schemas.Version(__version__, None if served is None else _served(served), self.generations.refused)

    async def health(self, _: None = None) -> schemas.Health:
        """The process lives."""
        return schemas.Health("alive")

    async def ready(self, _: None = None) -> schemas.Health:
        """A generation has passed its self-check."""
        return schemas.Health("ready" if self.served else "")

    def history_of(self, user: str) -> list[Any] | None:
        """Item ids of a stored user, oldest first; None for somebody unknown."""
        return None if self.store is None else self.store.history(user, schemas.MOST_EVENTS) or None

    def traffic(self) -> Mapping[int, int]:
        """Candidates that each interest of the generation in service has brought, in all workers."""
        return self._traffic.counts()

    def _needed_store(self) -> EventStore:
        if self.store is None:
            raise Refusal(503, "this service keeps no events; start it with --state", {"Retry-After": "3600"})
        return self.store

    def _history(self, asked: schemas.RecommendRequest | schemas.InterestsRequest) -> Sequence[Any]:
        if asked.history is not None:
            return asked.history
        assert asked.user is not None
        history = self._needed_store().history(asked.user, schemas.MOST_EVENTS)
        if not history:
            raise Refusal(404, "no event of this user is stored; send events, or ask with a history")
        return history

    async def _compute(self, cost: int, path: str, work: Callable[[], _T]) -> _T:
        """Run ``work`` in a thread, if there is room."""

        def timed() -> _T:
            begin = time.perf_counter()
            try:
                return work()
            finally:
                self.metrics.search_seconds.labels(path).observe(time.perf_counter() - begin)

        with self.gate.admit(cost), self.metrics.inside.track_inprogress():
            return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

    def _note(self, served: Served, name: str, question: Question, found: list[schemas.Recommended]) -> None:
        """Count the candidates, and log them where that is asked for."""
        explored = sum(one.explored for user in found for one in user.candidates)
        self.metrics.candidates.labels("true").inc(explored)
        self.metrics.candidates.labels("false").inc(sum(len(user.candidates) for user in found) - explored)
        for user in found:
            if served.bundle.generation == self._traffic.generation:
                self._traffic.add(one.interest for one in user.candidates)
        if self.log is not None:
            policy = asdict(answers.policy_of(served.searcher.policy, question.policy))
            facts = {"request": name, "time": datetime.now(timezone.utc), "generation": served.bundle.generation}
            for number, user in enumerate(found):
                self.log.write({**facts, "user": number, "policy": policy, "candidates": user.candidates})

    def _changed(self, outcome: Outcome, generation: int) -> None:
        self.metrics.swaps.labels(outcome).inc()
        if outcome == "served":
            self.metrics.generation.set(generation)
            assert self.generations.current is not None
            self._traffic = Traffic(generation, len(self.generations.current.names))

    async def _prune(self) -> None:
        while True:
            await self.prune()
            await asyncio.sleep(_SECONDS_BETWEEN_PRUNES)

    async def prune(self) -> None:
        """Delete the events that are past their retention; a failure is logged, and the next time comes."""
        assert self.store is not None
        try:
            gone = await asyncio.to_thread(self.store.prune)
            logger.info("%d events are past their retention and deleted", gone)
        except Exception:
            logger.exception("deleting old events failed; trying again later")


def _new_name() -> str:
    """A name for a request, from this process's own generator; asking the system for each would let go of the GIL."""
    return f"{random.getrandbits(128):032x}"


def _served(served: Served) -> schemas.ServedGeneration:
    return schemas.ServedGeneration(
        generation=served.bundle.generation,
        since=served.since,
        model=str(served.bundle.facts.get("model", "unknown")),
        items=len(served.searcher.catalogue),
        interests=len(served.names),
        policy=asdict(served.searcher.policy),
    )


def one_of(asked: object) -> None:
    """Refuse a request that names both a history and a user, or neither."""
    if isinstance(asked, schemas.RecommendRequest | schemas.InterestsRequest) and (asked.history is None) == (
        asked.user is None
    ):
        raise UserError("give either a history or a user, and not both")
