"""The generation in service: watched for, opened and checked in the background, then exchanged in one assignment.

A request takes :attr:`Generations.current` once and keeps it, so no answer mixes two. What cannot be opened, or fails
its self-check, is refused and remembered, and the generation before it goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np

from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, TesserecError
from tesserec.index.bundle import Bundle
from tesserec.index.contract import Candidates
from tesserec.index.searcher import Searcher
from tesserec.serving.schemas import Refused

logger = logging.getLogger(__name__)

_EXPECTED = (TesserecError, OSError)
_CHECKED = 8
_K = 20
_REMEMBERED = 20
Outcome = Literal["served", "refused"]


@dataclass(frozen=True, eq=False)
class Served:
    """A generation that answers.

    Attributes
    ----------
    bundle
        The opened generation.
    names
        Name of each interest; empty for models without interests.
    since
        When it went into service here.
    """

    bundle: Bundle
    names: list[str]
    since: datetime

    @property
    def searcher(self) -> Searcher:
        """What answers."""
        return self.bundle.searcher


class Generations:
    """Keeps the current generation of a root in service.

    Parameters
    ----------
    root
        Bundle root.
    poll
        Seconds between two looks.
    changed
        Told of each generation that was taken or refused, and of its number (0 where that is unknown).
    """

    def __init__(self, root: Path, poll: float, changed: Callable[[Outcome, int], None]) -> None:
        self.root, self._poll, self._changed = root, poll, changed
        self.current: Served | None = None
        self.refused: list[Refused] = []
        self._seen: tuple[int, ...] | None = None
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="generations", daemon=True)

    def start(self) -> None:
        """Look for the first generation, then begin to watch for others in the background."""
        self.refresh()
        self._watcher.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._stopped.is_set():
            try:
                self.refresh()
            except Exception:
                logger.exception("looking for a new generation failed; the old one goes on")
            self._stopped.wait(self._poll)

    def refresh(self) -> None:
        """Take a new generation into service if there is one; returns when that is decided."""
        with self._busy:
            if (seen := _state_of(self.root)) == self._seen:
                return
            try:
                served = open_checked(self.root, self.current)
            except Exception as error:
                # What is said of the files stays so; what the system refuses, such as one more open file, may not.
                self._seen = seen if isinstance(error, TesserecError) else None
                self._refuse(error)
                return
            self._seen, self.current = seen, served
            logger.info("generation %d is in service", served.bundle.generation)
            self._changed("served", served.bundle.generation)

    def _refuse(self, error: Exception) -> None:
        reason = str(error).replace(f"{self.root}/", "")
        try:
            name = (self.root / "CURRENT").read_text().strip()[:40]
        except (OSError, UnicodeDecodeError):
            name = "none"
        if self.refused and (self.refused[-1].generation, self.refused[-1].reason) == (name, reason):
            return
        logger.error("generation %s is refused: %s", name, reason, exc_info=not isinstance(error, _EXPECTED))
        self.refused = [*self.refused, Refused(name, reason, datetime.now(timezone.utc))][-_REMEMBERED:]
        self._changed("refused", 0)


def _state_of(root: Path) -> tuple[int, ...] | None:
    """What changes whenever something is published under a root."""
    try:
        status = (root / "CURRENT").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def open_checked(root: Path, before: Served | None = None) -> Served:
    """Open the current generation, warm it up and ask it some questions; what it shares with ``before`` is kept open.

    Raises
    ------
    ArtefactError
        If a file of it is damaged, or an answer of it is impossible.
    """
    known = None if before is None else before.bundle
    bundle = Bundle.open(root, beside=known)
    if bundle.path.is_symlink():
        raise ArtefactError(f"{bundle.path} is a link; links are refused, copy the generation into {root}")
    bundle.verify(known=known)
    searcher = bundle.searcher
    names = [] if searcher.names is None else searcher.names["name"].to_list()
    # Compiles the kernels, builds what is built at first use, and touches the mapped files.
    searcher.catalogue.items.encode([searcher.catalogue.items.example])
    for histories in _questions(searcher):
        _check(bundle, histories)
    return Served(bundle, names, datetime.now(timezone.utc))


def _questions(searcher: Searcher) -> list[Histories]:
    """A batch of short and long histories of popular and of drawn items, and one of them alone."""
    draw = np.random.default_rng(0)
    size = len(searcher.catalogue)
    popular = np.argsort(-searcher.catalogue.counts, kind="stable")[:_CHECKED].astype(np.int32)
    rows = [popular[:1], popular, *(draw.integers(0, size, 1 + 3 * n, np.int32) for n in range(_CHECKED))]
    return [Histories.from_lists(rows), Histories.from_lists(rows[:1])]


def _check(bundle: Bundle, histories: Histories) -> None:
    searcher = bundle.searcher
    size = len(searcher.catalogue)
    found = searcher.retrieve(histories, min(_K, size))
    if problem := _problem(found, size):
        raise ArtefactError(f"{bundle.path} fails its self-check: {problem}; publish again")


def _problem(found: Candidates, size: int) -> str | None:
    """What is impossible about some answers, None if nothing is."""
    filled = found.items >= 0
    if not filled.any():
        return "no history has any candidate"
    if found.items.max() >= size:
        return f"item {found.items.max()} was found in a catalogue of {size}"
    if not np.isfinite(found.scores[filled]).all():
        return "a score is NaN or infinite"
    chances = found.probability[filled & (found.interests >= 0)]
    if not ((chances >= 0) & (chances <= 1 + 1e-5)).all():
        return "the probability of an interest does not lie between 0 and 1"
    return None
