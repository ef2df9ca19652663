"""A log of what was recommended, for off-policy evaluation: JSON lines, rotated by size, off by default.

A row holds the generation, the settings, and each candidate with its propensity, under the name that the caller got
with the answer. It holds neither user nor history; whoever asked can join those by that name.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

_BYTES = 64 << 20
_FILES = 16
_WAITING = 10_000


class CandidateLog:
    """Writes rows in a thread of its own; each process has a file of its own.

    Parameters
    ----------
    folder
        Made, readable by its owner alone, where it is missing.
    failed
        Told of each row that could not be written.
    size, files
        Bytes of a file before the next is begun, and how many full ones are kept.
    """

    def __init__(self, folder: Path, failed: Callable[[], object], *, size: int = _BYTES, files: int = _FILES) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._failed = failed
        self._rows: queue.Queue[Any] = queue.Queue(_WAITING)
        path = folder / f"candidates-{os.getpid()}.jsonl"
        self._listener = logging.handlers.QueueListener(self._rows, _Rotated(path, failed, size, files))
        self._listener.start()

    def write(self, row: dict[str, Any]) -> None:
        """Log a row; where too many wait, the row is dropped and reported as failed."""
        try:
            self._rows.put_nowait(logging.makeLogRecord({"msg": row}))
        except queue.Full:
            self._failed()

    def close(self) -> None:
        """Write what waits, then close."""
        self._listener.stop()
        for handler in self._listener.handlers:
            handler.close()


class _Rotated(logging.handlers.RotatingFileHandler):
    def __init__(self, path: Path, failed: Callable[[], object], size: int, files: int) -> None:
        super().__init__(path, maxBytes=size, backupCount=files, encoding="utf-8")
        self._failed = failed

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(record.msg).decode()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that logging calls)
        self._failed()
