"""Lists of scored items by code, for models whose scores do not come from a dot product."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.index.arrays import check_offsets, check_rows, facts_of, map_array, save_arrays
from tesserec.index.filters import Bits, bitmap

Floats = NDArray[np.float32]
Items = NDArray[np.int32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScorePostings:
    """For each code the items it brings and their scores, best first.

    An item's score for a user is the sum over the user's codes of weight times posting score.

    Attributes
    ----------
    items, scores
        int32 and float32 ``(postings,)``, code after code; inside a code by falling score, then rising item.
    offsets
        Code ``c`` is ``items[offsets[c]:offsets[c + 1]]``, int64 ``(codes + 1,)``.
    size
        Number of items of the catalogue.
    keyed_by_item
        Whether codes are items, so that a list holds an item's neighbours.
    delta
        Lists of the items that are new or updated since; see :meth:`with_delta`.
    dead
        Bitmap of the items whose own postings no longer count.
    """

    items: Items
    scores: Floats
    offsets: Ints
    size: int
    keyed_by_item: bool = False
    delta: ScorePostings | None = None
    dead: Bits = field(default_factory=lambda: np.empty(0, np.uint8))

    @classmethod
    def build(
        cls,
        codes: NDArray[np.integer[Any]],
        items: NDArray[np.integer[Any]],
        scores: Floats,
        *,
        n_codes: int,
        size: int,
        keyed_by_item: bool = False,
    ) -> Self:
        """Sort ``(code, item, score)`` triples, given in any order, each (code, item) once.

        Raises
        ------
        DataError
            If a score is not finite, or a code or an item is out of range.
        """
        for name, values, limit in (("code", codes, n_codes), ("item", items, size)):
            if len(bad := np.flatnonzero((values < 0) | (values >= limit))):
                raise DataError(f"posting {bad[0]} has {name} {values[bad[0]]}; expected 0 to {limit - 1}")
        if len(bad := np.flatnonzero(~np.isfinite(scores))):
            raise DataError(f"posting {bad[0]} has score {scores[bad[0]]}; expected a finite number")
        scores = np.asarray(scores, dtype=np.float32)
        order = np.lexsort((items, -scores, codes))
        offsets = np.append(0, np.cumsum(np.bincount(codes, minlength=n_codes))).astype(np.int64)
        return cls(np.asarray(items, np.int32)[order], scores[order], offsets, size, keyed_by_item)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return len(self.offsets) - 1

    def with_delta(self, changed: ScorePostings, removed: NDArray[np.integer[Any]]) -> Self:
        """The same lists with all that has changed since they were built; a delta that was there is replaced.

        Parameters
        ----------
        changed
            Lists of the new and the updated items over the same codes; its size is the size from now on.
        removed
            Items that are gone.

        Raises
        ------
        DataError
            If the codes differ, the size shrinks, or an item is both changed and removed.
        """
        if changed.codes != self.codes or changed.size < self.size:
            raise DataError(
                f"the delta has {changed.codes} codes and size {changed.size}; expected {self.codes} and at least "
                f"{self.size}"
            )
        gone = np.asarray(removed, np.int64)
        if len(both := np.intersect1d(changed.items, gone)):
            raise DataError(f"item {both[0]} is both changed and removed; name it once")
        dead = np.concatenate([np.unique(changed.items), gone])
        if ((dead < 0) | (dead >= changed.size)).any():
            raise DataError(f"the delta removes item {dead.max()}; expected items below {changed.size}")
        return replace(self, delta=changed, dead=bitmap(dead, changed.size), size=changed.size)

    def of(self, code: int) -> tuple[Items, Floats]:
        """Items and scores of one code, best first."""
        part = slice(self.offsets[code], self.offsets[code + 1])
        return self.items[part], self.scores[part]

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        if self.delta is not None:
            raise UserError("postings with changes on top are compacted before they are saved; rebuild them")
        facts = {"size": self.size, "keyed_by_item": self.keyed_by_item}
        save_arrays(directory, "scores", facts, items=self.items, scores=self.scores, offsets=self.offsets)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map what :meth:`save` wrote.

        Raises
        ------
        ArtefactError
            Names the file that is missing, unreadable or does not fit the others.
        """
        facts = facts_of(directory)
        items = map_array(directory / "items.npy", "<i4", 1)
        scores = map_array(directory / "scores.npy", "<f4", 1)
        offsets = map_array(directory / "offsets.npy", "<i8", 1)
        check_offsets(directory / "offsets.npy", offsets, len(items))
        size = int(facts["size"])
        check_rows(directory / "scores.npy", scores, len(items))
        return cls(items, scores, offsets, size, bool(facts["keyed_by_item"]))

    def verify(self) -> None:
        """Read everything and check that the lists name items of the catalogue.

        Raises
        ------
        ArtefactError
            If they do not.
        """
        if len(self.items) and not 0 <= int(self.items.min()) <= int(self.items.max()) < self.size:
            raise ArtefactError(f"items.npy names items outside 0 to {self.size - 1}; publish the bundle again")
