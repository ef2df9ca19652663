"""Vectors and users of a trained codebook model, for the benchmark of the index.

Items are those of a bundle, users are test users of the dataset that it was trained on, who took no part in training
or calibration. A user is asked as a history. Ours answers it as the service does:
encoder, posterior, reader, search and merge. A library is given the vectors that the same encoder and reader make; as
every vector of an item ends in 1, what the merge adds to an interest's scores goes into its last coordinate, so the
largest dot products are the model's own answer. No answer leaves out the items of the history, as libraries do not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tesserec.data.dataset import Dataset
from tesserec.index.bundle import Bundle
from tesserec.index.interests import choose
from tesserec.index.merge import log_chances
from tesserec.index.visiting import known_cells

_USERS = 800


class ModelWorld:
    """The searcher of a bundle and histories of users; the second half of the users is asked."""

    def __init__(self, bundle: Path, dataset: Path) -> None:
        self.bundle = bundle
        histories = Dataset.open(dataset).test.histories
        users = np.random.default_rng(0).permutation(len(histories))[:_USERS]
        self.users = [histories.take(user).compact() for user in users[:, None]]
        self._open()

    def _open(self) -> None:
        self.searcher = Bundle.open(self.bundle).searcher
        self.postings: Any = self.searcher.postings
        self.vectors = np.ascontiguousarray(self.postings.vectors_of(np.arange(self.postings.size)))

    def __getstate__(self) -> dict[str, Any]:
        return {"bundle": self.bundle, "users": self.users}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    @property
    def facts(self) -> dict[str, Any]:
        """What describes the work in a row."""
        return {**model_facts(self.bundle), "interests": self.searcher.policy.interests}

    @property
    def codebooks(self) -> Any:
        """Codewords that the model learned, ``(levels, codes, dim)``."""
        return load_file(Bundle.open(self.bundle).path / "codebook.safetensors")["quantiser.codebooks"]

    def read(self, user: Any) -> Any:
        """The vectors of a user, with what the merge adds in their last coordinate."""
        side: Any = self.searcher.side
        encoded = side.encode(user)
        policy = replace(self.searcher.policy, explore=0.0)
        choice = choose(encoded.posterior, known_cells(self.postings, user), policy, 100)
        vectors = side.read(encoded, choice.codes)[0]
        vectors[:, -1] += log_chances(choice, policy)[0]
        return vectors


def model_facts(bundle: Path) -> dict[str, Any]:
    """The world of a bundle, by the name of its model."""
    facts = Bundle.open(bundle).searcher
    return {"world": facts.facts["model"], "items": facts.postings.size}
