"""Timed rounds of training on a parent's word; standard library only, so that any environment can run it.

A worker reads its settings from the first line of stdin. It answers with one line of JSON whenever it is ready for the
next round: first with facts about itself, then with what the last round did. A round is asked for by its seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
ANSWERS, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not be taken for an answer


def read_settings() -> dict[str, Any]:
    """The parent's first line."""
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    return settings


class Rounds:
    """Hands out batches round by round and measures how long the training takes that happens between them.

    Parameters
    ----------
    facts
        The first answer.
    size
        Targets, sequences and positions including padding of a batch.
    """

    def __init__(self, facts: dict[str, Any], size: Callable[[Any], tuple[int, int, int]]) -> None:
        self.answer, self.size = facts, size

    def batches(self, source: Iterable[T]) -> Iterator[T]:
        """Batches of the next round; ends the process where no further round is asked for."""
        print(json.dumps(self.answer), file=ANSWERS, flush=True)
        asked = sys.stdin.readline()
        if not asked:
            raise SystemExit(0)
        wall, cpu = time.perf_counter(), time.process_time()
        steps = targets = sequences = positions = 0
        for batch in source:
            t, s, p = self.size(batch)
            steps, targets, sequences, positions = steps + 1, targets + t, sequences + s, positions + p
            yield batch
            if time.perf_counter() - wall >= float(asked):
                break
        self.answer = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "steps": steps,
            "targets": targets,
            "sequences": sequences,
            "positions": positions,
        }
