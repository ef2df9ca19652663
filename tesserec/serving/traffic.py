"""How many candidates each interest of a generation has brought, over all workers.

Each worker counts in a file of its own, in the folder where they share their metrics; whoever asks adds the files up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tesserec.serving.metrics import SHARED


class Traffic:
    """Counts of one generation; threads may share one.

    Parameters
    ----------
    generation
        Its number; counts of another are apart.
    interests
        How many it has; codes beyond are not counted.
    """

    def __init__(self, generation: int, interests: int) -> None:
        self.generation, self.interests = generation, interests
        folder = os.environ.get(SHARED)
        self._folder = None if folder is None else Path(folder)
        self._own: NDArray[np.int64] = np.zeros(interests, np.int64)
        if self._folder is not None and interests:
            file = self._folder / f"traffic-{generation}-{os.getpid()}.counts"
            file.touch(mode=0o600)
            os.truncate(file, 8 * interests)  # a file that is as long already keeps its counts
            self._own = np.memmap(file, "<i8", "r+", shape=(interests,))

    def add(self, codes: Iterable[int | None]) -> None:
        """Count candidates by the interest that brought them."""
        counted = [code for code in codes if code is not None and code < self.interests]
        np.add.at(self._own, counted, 1)  # one call, so threads lose nothing

    def counts(self) -> Mapping[int, int]:
        """Candidates so far by interest, of all workers; those without any are left out."""
        total = self._own
        if self._folder is not None:
            files = self._folder.glob(f"traffic-{self.generation}-*.counts")
            total = sum((np.fromfile(file, "<i8", self.interests) for file in files), np.zeros_like(total))
        (used,) = np.nonzero(total)
        return dict(zip(used.tolist(), total[used].tolist(), strict=True))
