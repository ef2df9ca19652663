"""What gives an item that came after training its vector and its place, a cell or lists, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.data.features import Vocabulary
from tesserec.errors import ArtefactError, DataError
from tesserec.files import read_json
from tesserec.index.user_side import session

FILE = "items.json"
_PAIRS = 1 << 18
Floats = NDArray[np.float32]


class ItemSide:
    """The item tower and the codebook of a trained network, exported as ONNX graphs.

    ``item_encoder.onnx``, where the model reads features, turns ``numbers`` (float32 ``(items, numbers)``) and codes of
    each column of categories (int64 ``(items, most)``, padded with 0) into ``raw`` vectors ``(items, dim)``.
    ``place.onnx`` turns these into ``vectors`` as the index holds them ``(items, width)`` and ``cells`` ``(items,)``;
    or, for a model with lists, ``vectors`` as histories are read and ``scores`` in every list ``(items, codes)``, less
    what a list asks of its items. ``items.json`` holds ``dim`` and the vocabulary.

    Parameters
    ----------
    folder
        Where the files are.

    Raises
    ------
    ArtefactError
        If a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        facts = read_json(folder / FILE)
        try:
            self.dim = int(facts["dim"])
            given = facts["vocabulary"]
            self.vocabulary = None if given is None else Vocabulary.from_json(given)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{folder / FILE} does not describe an item side ({error}); publish again") from None
        self._place = session(folder / "place.onnx", threads=1)
        self._encoder = None if given is None else session(folder / "item_encoder.onnx", threads=1)

    def encode(self, table: pl.DataFrame) -> Floats:
        """Raw vectors of items by their features, ``(items, dim)``; see :meth:`Vocabulary.read` for what is refused.

        Raises
        ------
        DataError
            If the model reads no features.
        """
        if self.vocabulary is None or self._encoder is None:
            raise DataError(
                "this model reads no item features, so it cannot tell where a new item lies; name similar items of the "
                "catalogue (like), or train with features = true"
            )
        features = self.vocabulary.read(table)
        codes = {f"codes_{number}": codes for number, codes in enumerate(features.padded().values())}
        wanted = {value.name for value in self._encoder.get_inputs()}
        given = {name: value for name, value in ({"numbers": features.numbers} | codes).items() if name in wanted}
        raw: Floats = self._encoder.run(["raw"], given)[0]
        return raw

    def place(self, raw: Floats) -> tuple[Floats, NDArray[np.int32]]:
        """Vectors as the index holds them ``(items, width)`` and cells ``(items,)``, of raw ones ``(items, dim)``."""
        vectors, cells = self._place.run(["vectors", "cells"], {"raw": np.ascontiguousarray(raw, np.float32)})
        return vectors, cells.astype(np.int32)

    def listed(self, raw: Floats) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], Floats]:
        """Vectors ``(items, dim)`` of raw ones, and row, code and score of each list that an item has a place in.

        An item is in every list in which its score is above zero.
        """
        vectors, rows, codes, kept = [], [], [], []
        lists = self._place.get_outputs()[1].shape[1]
        batch = max(1, _PAIRS // max(1, lists))
        for start in range(0, len(raw), batch):
            given = np.ascontiguousarray(raw[start : start + batch], np.float32)
            own, scores = self._place.run(["vectors", "scores"], {"raw": given})
            row, code = np.nonzero(scores > 0)
            vectors.append(own)
            rows.append(row + start)
            codes.append(code)
            kept.append(scores[row, code])
        return np.concatenate(vectors), np.concatenate(rows), np.concatenate(codes), np.concatenate(kept)
