"""Export: the user side of a trained network as files that need no PyTorch.

The user side of a network becomes two ONNX graphs. Neither holds the catalogue: the encoder takes the history's item
vectors, which the index already has, so an index can gain items without a new export. The user side of SparCode is one
graph, and the vectors lie beside it, for its index has scores only. The item side gives an item that comes later its
vector and its cell, or its score in every list.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tesserec.files import write_json
from tesserec.models.network import Network

if TYPE_CHECKING:
    from tesserec.models.sparcode import SparCodeNetwork

OPSET = 20


def export_network(network: Network, folder: Path) -> None:
    """Write ``encoder.onnx``, ``reader.onnx`` and ``user_side.json`` for a trained network."""
    network = copy.deepcopy(network).cpu().eval()
    dim = network.width
    with torch.no_grad():
        vectors, lengths = torch.randn(2, 3, dim), torch.tensor([3, 2])
        _posterior, *state = network.encode(vectors, lengths)
        names = [f"state_{number}" for number in range(len(state))]
        batch, length = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
        _export(
            _Encode(network),
            (vectors, lengths),
            folder / "encoder.onnx",
            ["vectors", "lengths"],
            ["posterior", *names],
            ({0: batch, 1: length}, {0: batch}),
        )
        interests = torch.zeros(2, 3, dtype=torch.int64)
        # A state with three axes follows the history's length, one with two does not.
        shapes = [{0: batch, 1: length} if tensor.ndim == 3 else {0: batch} for tensor in state]
        _export(
            _Read(network),
            (interests, lengths, *state),
            folder / "reader.onnx",
            ["interests", "lengths", *names],
            ["vectors"],
            ({0: batch, 1: torch.export.Dim.DYNAMIC}, {0: batch}, tuple(shapes)),
        )
    facts = {"kind": "onnx", "max_length": network.config.encoder.max_length, "codes": network.codes, "dim": dim}
    write_json(folder / "user_side.json", facts)


def export_lists(network: SparCodeNetwork, folder: Path) -> None:
    """Write ``tokens.onnx``, ``history.npy``, ``user_side.json`` and the item side for a network with scored lists."""
    network = copy.deepcopy(network).cpu().eval()
    dim, batch = network.width, torch.export.Dim.DYNAMIC
    with torch.no_grad():
        _export(
            _Weigh(network),
            (torch.randn(2, 3, dim), torch.tensor([3, 2])),
            folder / "tokens.onnx",
            ["vectors", "lengths"],
            ["codes", "weights"],
            ({0: batch, 1: torch.export.Dim.DYNAMIC}, {0: batch}),
        )
        np.save(folder / "history.npy", network.item_vectors().numpy().astype("<f4"))
    facts = {"max_length": network.config.encoder.max_length, "codes": int(network.listed.sum()), "dim": dim}
    write_json(folder / "user_side.json", {"kind": "onnx-codes", **facts})
    export_items(network, folder, _Score(network), "scores")


def export_items(network: Network, folder: Path, place: nn.Module | None = None, places: str = "cells") -> None:
    """Write ``items.json``, ``place.onnx`` and, for a model that reads features, ``item_encoder.onnx``.

    With them an index gains items; see :class:`tesserec.index.item_side.ItemSide`. ``place`` turns raw vectors into
    vectors and what ``places`` names.
    """
    network = copy.deepcopy(network).cpu().eval()
    place = _Place(network) if place is None else place
    dim, batch = network.config.encoder.dim, torch.export.Dim.DYNAMIC
    features = network.items.features
    with torch.no_grad():
        _export(place, (torch.randn(3, dim),), folder / "place.onnx", ["raw"], ["vectors", places], ({0: batch},))
        if features is not None:
            columns = features.source.padded()
            lists = [{0: batch} if name in features.source.categorical else {0: batch, 1: batch} for name in columns]
            _export(
                _EncodeItems(network),
                (torch.from_numpy(features.source.numbers[:3]), *(torch.from_numpy(c[:3]) for c in columns.values())),
                folder / "item_encoder.onnx",
                ["numbers", *(f"codes_{number}" for number in range(len(columns)))],
                ["raw"],
                ({0: batch}, *([tuple(lists)] if lists else [])),
            )
    vocabulary = None if features is None else features.source.vocabulary.to_json()
    write_json(folder / "items.json", {"dim": dim, "vocabulary": vocabulary})


class _Place(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        # Asked here, for a graph cannot: before a codebook is started everything lies in one cell.
        self.placed = network.place if network.item_codes() is not None else partial(Network.place, network)

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.network.items.scaled(raw)
        return self.network.searched(vectors), self.placed(vectors)


class _Score(nn.Module):
    words: Tensor

    def __init__(self, network: SparCodeNetwork) -> None:
        super().__init__()
        self.network = network
        # Made here, for in a graph their number would be unknown.
        self.register_buffer("words", network.words().detach())

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        vectors = self.network.items.scaled(raw)
        values = self.network.values(self.network.scorer.own(self.words, vectors[:, None]))
        return vectors, values - self.network.cuts


class _EncodeItems(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, numbers: Tensor, *codes: Tensor) -> Tensor:
        return self.network.items.of_features(list(codes), numbers)


class _Weigh(nn.Module):
    def __init__(self, network: SparCodeNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.weigh(vectors, lengths)


class _Encode(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        return self.network.encode(vectors, lengths)


class _Read(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, interests: Tensor, lengths: Tensor, *state: Tensor) -> Tensor:
        return self.network.read(interests, lengths, *state)


def _export(
    module: nn.Module, given: tuple[Tensor, ...], path: Path, inputs: list[str], outputs: list[str], shapes: Any
) -> None:
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            given,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own deprecations; neither helps anybody here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
