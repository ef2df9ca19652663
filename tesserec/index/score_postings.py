"""Lists of scored items by code, for models whose scores do not come from a dot product.

A list lies in ranges: the items of one block of 65,536 after those of another, inside a range by falling score. So a
place needs two bytes, the first and the last score of a range bound all of it, and a search adds up one block after
another in sums that stay in the processor's cache (:mod:`tesserec.index.lists`). Only blocks that a list names have a
range, so short lists over a large catalogue cost little.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.errors import ArtefactError, DataError, UserError
from tesserec.index.arrays import FACTS, check_offsets, check_rows, facts_of, map_array, number_of, save_arrays
from tesserec.index.filters import Bits, bitmap
from tesserec.index.kernels import kernel
from tesserec.index.native import address
from tesserec.index.topk import frozen

Floats = NDArray[np.float32]
Items = NDArray[np.int32]
Ints = NDArray[np.int64]
Shorts = NDArray[np.uint16]
BLOCK = 1 << 16


class Lists(NamedTuple):
    """The arrays of :class:`ScorePostings` as kernels take them: contiguous and read-only."""

    places: Shorts
    scores: Floats
    blocks: Shorts
    counts: Shorts
    ranges: Ints
    offsets: Ints
    dead: Bits


@dataclass(frozen=True, eq=False)
class ScorePostings:
    """For each code the items it brings and their scores, best first.

    An item's score for a user is the sum over the user's codes of weight times posting score.

    Attributes
    ----------
    places, scores
        Place of the item in its block, uint16 ``(postings,)``, and float32; code after code, range after range.
    blocks, counts
        Block of each range, rising inside a code, and how many postings it has less one, uint16 ``(ranges,)``.
    ranges
        Code ``c`` has the ranges ``ranges[c]`` to ``ranges[c + 1] - 1``, int64 ``(codes + 1,)``.
    offsets
        Code ``c`` has the postings ``offsets[c]`` to ``offsets[c + 1] - 1``, int64 ``(codes + 1,)``.
    size
        Number of items of the catalogue.
    keyed_by_item
        Whether codes are items, so that a list holds an item's neighbours.
    delta
        Lists of the items that are new or updated since; see :meth:`with_delta`.
    dead
        Bitmap of the items whose own postings no longer count.
    """

    places: Shorts
    scores: Floats
    blocks: Shorts
    counts: Shorts
    ranges: Ints
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
        items, scores = np.asarray(items, np.int32), np.asarray(scores, np.float32)
        wide = -(-size // BLOCK)
        range_of = np.asarray(codes, np.int64) * wide + items // BLOCK
        order = np.lexsort((items, -scores, range_of))
        held, counts = np.unique(range_of, return_counts=True)
        return cls(
            (items[order] % BLOCK).astype(np.uint16),
            scores[order],
            (held % max(wide, 1)).astype(np.uint16),
            (counts - 1).astype(np.uint16),
            np.searchsorted(held, np.arange(n_codes + 1) * wide).astype(np.int64),
            np.append(0, np.cumsum(np.bincount(codes, minlength=n_codes))).astype(np.int64),
            size,
            keyed_by_item,
        )

    @property
    def codes(self) -> int:
        """Number of codes."""
        return len(self.offsets) - 1

    @cached_property
    def lists(self) -> Lists:
        """What the kernels read."""
        return Lists(*(frozen(getattr(self, name)) for name in Lists._fields))

    @cached_property
    def words(self) -> Ints:
        """``lists`` of ``lists.c``: addresses of :attr:`lists`, then bytes of ``dead`` and blocks, int64 ``(9,)``."""
        return np.array([*map(address, self.lists), len(self.dead), -(-self.size // BLOCK)], np.int64)

    @property
    def items(self) -> Items:
        """Item of each posting, int32 ``(postings,)``; costs a pass over all of them."""
        return _items(self.places, self.blocks, self.counts)

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
        gone, now = np.asarray(removed, np.int64), np.unique(changed.items)
        if len(both := np.intersect1d(now, gone)):
            raise DataError(f"item {both[0]} is both changed and removed; name it once")
        dead = np.concatenate([now, gone])
        if ((dead < 0) | (dead >= changed.size)).any():
            raise DataError(f"the delta removes item {dead.max()}; expected items below {changed.size}")
        return replace(self, delta=changed, dead=bitmap(dead, changed.size), size=changed.size)

    def of(self, code: int) -> tuple[Items, Floats]:
        """Items and scores of one code as they are now, best first."""
        held, part = (slice(bounds[code], bounds[code + 1]) for bounds in (self.ranges, self.offsets))
        items, scores = _items(self.places[part], self.blocks[held], self.counts[held]), self.scores[part]
        if self.delta is not None:
            alive = (self.dead[items >> 3] >> (items & 7)) & 1 == 0
            of_delta = self.delta.of(code)
            items = np.concatenate([items[alive], of_delta[0]])
            scores = np.concatenate([scores[alive], of_delta[1]])
        order = np.lexsort((items, -scores))
        return items[order], np.asarray(scores[order])

    def only(self, items: Items) -> Self:
        """The postings of some items alone, on arrays of their own; costs a pass over all of them."""
        held = bitmap(items, self.size)
        parts = [_postings_of(self.lists, held)]
        if self.delta is not None:
            parts.append(_postings_of(self.delta.lists, held))
        codes, kept, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self.build(codes, kept, scores, n_codes=self.codes, size=self.size, keyed_by_item=self.keyed_by_item)

    def save(self, directory: Path) -> None:
        """Write into an existing directory."""
        if self.delta is not None:
            raise UserError("postings with changes on top are compacted before they are saved; rebuild them")
        facts = {"size": self.size, "keyed_by_item": self.keyed_by_item, "block": BLOCK}
        save_arrays(directory, "scores", facts, **{name: getattr(self, name) for name in _FILES})

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Map what :meth:`save` wrote; lists that are not in blocks, as earlier versions wrote them, are sorted anew.

        Raises
        ------
        ArtefactError
            Names the file that is missing, unreadable or does not fit the others.
        """
        facts = facts_of(directory)
        size, keyed_by_item = int(number_of(directory, "size")), bool(facts["keyed_by_item"])
        if "block" not in facts:
            return cls._sorted_anew(directory, size, keyed_by_item)
        if facts["block"] != BLOCK:
            raise ArtefactError(f"{directory / FACTS} has block = {facts['block']!r}; expected {BLOCK}, publish again")
        arrays: dict[str, Any] = {name: map_array(directory / f"{name}.npy", kind, 1) for name, kind in _FILES.items()}
        check_offsets(directory / "offsets.npy", arrays["offsets"], len(arrays["places"]))
        check_offsets(directory / "ranges.npy", arrays["ranges"], len(arrays["blocks"]))
        for name, like in (("scores", "places"), ("counts", "blocks"), ("ranges", "offsets")):
            check_rows(directory / f"{name}.npy", arrays[name], len(arrays[like]), f"{like}.npy")
        return cls(**arrays, size=size, keyed_by_item=keyed_by_item)

    @classmethod
    def _sorted_anew(cls, directory: Path, size: int, keyed_by_item: bool) -> Self:
        items = map_array(directory / "items.npy", "<i4", 1)
        scores = map_array(directory / "scores.npy", "<f4", 1)
        offsets = map_array(directory / "offsets.npy", "<i8", 1)
        check_offsets(directory / "offsets.npy", offsets, len(items))
        check_rows(directory / "scores.npy", scores, len(items))
        n_codes = len(offsets) - 1
        codes = np.repeat(np.arange(n_codes), np.diff(offsets))
        try:
            return cls.build(codes, items, scores, n_codes=n_codes, size=size, keyed_by_item=keyed_by_item)
        except DataError as error:
            raise ArtefactError(f"{directory / 'items.npy'} or scores.npy is damaged: {error}; publish again") from None

    def verify(self) -> None:
        """Read everything and check that the arrays fit each other.

        Raises
        ------
        ArtefactError
            If they do not.
        """
        ends = np.append(0, np.cumsum(self.counts.astype(np.int64) + 1))
        if not np.array_equal(ends[self.ranges], self.offsets):
            raise ArtefactError("counts.npy does not go with ranges.npy and offsets.npy; publish the bundle again")
        inside = np.ones(len(self.blocks), np.bool_)
        inside[self.ranges[self.ranges < len(inside)]] = False
        if (np.diff(self.blocks.astype(np.int64)) <= 0)[inside[1:]].any():
            raise ArtefactError("blocks.npy does not rise inside a code; publish the bundle again")
        items, scores = self.items, np.asarray(self.scores)
        if items.min(initial=0) < 0 or items.max(initial=-1) >= self.size:
            raise ArtefactError(f"places.npy or blocks.npy names items outside 0 to {self.size - 1}; publish again")
        ordered = (scores[:-1] > scores[1:]) | ((scores[:-1] == scores[1:]) & (items[:-1] < items[1:]))
        ordered[ends[1:-1] - 1] = True
        if not (np.isfinite(scores).all() and ordered.all()):
            raise ArtefactError("scores.npy does not fall inside a range; publish the bundle again")


_FILES = {"places": "<u2", "scores": "<f4", "blocks": "<u2", "counts": "<u2", "ranges": "<i8", "offsets": "<i8"}


@kernel
def _postings_of(lists: Lists, held: Bits) -> tuple[Ints, Items, Floats]:
    """Code, item and score of each posting of the items of a bitmap, those aside that are dead."""
    wanted = held.copy()
    for byte in range(len(lists.dead)):
        wanted[byte] &= ~lists.dead[byte]
    found = 0
    codes, items, scores = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
    for fill in (False, True):
        if fill:
            codes, items, scores = np.empty(found, np.int64), np.empty(found, np.int32), np.empty(found, np.float32)
            found = 0
        for code in range(len(lists.offsets) - 1):
            posting = lists.offsets[code]
            for held_in in range(lists.ranges[code], lists.ranges[code + 1]):
                first = np.int32(lists.blocks[held_in]) * BLOCK
                for _ in range(np.int64(lists.counts[held_in]) + 1):
                    item = first + lists.places[posting]
                    if (wanted[item >> 3] >> (item & 7)) & 1:
                        if fill:
                            codes[found], items[found], scores[found] = code, item, lists.scores[posting]
                        found += 1
                    posting += 1
    return codes, items, scores


def _items(places: Shorts, blocks: Shorts, counts: Shorts) -> Items:
    return np.repeat(blocks.astype(np.int32) * BLOCK, counts.astype(np.int64) + 1) + places
