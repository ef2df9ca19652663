"""Exported user sides beside the networks they come from; these need no training to be held against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tesserec.data.histories import Histories
from tesserec.index.user_side import OnnxSide
from tesserec.models.export import export_network
from tesserec.models.network import Network
from tesserec.models.neural import TorchSide

PLAIN = {"dim": 16, "kind": "none", "max_length": 20}
"""An encoder of few operations: each costs an exporter time."""


def assert_exported(network: Network, folder: Path, atol: float = 1e-4) -> None:
    """The files give the posterior and every interest's vector as the network does, whatever the lengths."""
    model = TorchSide(network)
    export_network(network, folder)
    exported = OnnxSide(folder, lambda items: model.vectors.numpy()[items])
    histories = Histories.from_lists([[1], [2, 3, 4], [5, 6] * 4])
    ours, theirs = (side.encode(histories) for side in (model, exported))
    assert np.allclose(ours.posterior, theirs.posterior, atol=atol)
    slots = np.arange(network.codes, dtype=np.int32)[None].repeat(3, 0)
    assert np.allclose(model.read(ours, slots), exported.read(theirs, slots), atol=atol)
