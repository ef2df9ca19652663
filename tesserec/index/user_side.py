"""User sides that need no torch: popularity, history as codes, and exported networks.

Three protocols meet the search. :class:`~tesserec.index.contract.UserSide` reads vectors and goes with
``VectorPostings``; :class:`ScoreSide` weighs codes and goes with ``ScorePostings``; :class:`DenseSide` scores every
item and goes with ``EveryItem``.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories
from tesserec.errors import ArtefactError, ConfigError, DataError
from tesserec.files import read_json, write_json
from tesserec.index.arrays import map_array
from tesserec.index.contract import Codes, Encoded, Floats, UserSide

FILE = "user_side.json"


@runtime_checkable
class ScoreSide(Protocol):
    """Histories in, weighted codes out."""

    def weigh(self, histories: Histories) -> tuple[Codes, Floats]:
        """Codes ``(users, m)``, padded with -1, and their weights ``(users, m)``; none of the histories is empty.

        A code that a row repeats counts each time.
        """
        ...


@runtime_checkable
class DenseSide(Protocol):
    """Histories in, a score of every item out: what an index is measured against."""

    def score(self, histories: Histories) -> Floats:
        """Finite scores float32 ``(users, items)``; none of the histories is empty."""
        ...


@dataclass(frozen=True)
class ConstantSide:
    """The same code, 0, for everybody: popularity."""

    def weigh(self, histories: Histories) -> tuple[Codes, Floats]:
        """Code 0 with weight 1, ``(users, 1)`` each."""
        return np.zeros((len(histories), 1), np.int32), np.ones((len(histories), 1), np.float32)

    def save(self, directory: Path) -> None:
        """Write ``user_side.json`` into an existing directory."""
        write_json(directory / FILE, {"kind": "constant"})


@dataclass(frozen=True)
class HistorySide:
    """The newest items of the history are the codes: item-kNN.

    Parameters
    ----------
    n
        How many of the newest events count.
    decay
        Weight of an event relative to the next newer one, above 0 and at most 1.
    """

    n: int = 100
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"n = {self.n}; at least one event of the history must count")
        if not 0.0 < self.decay <= 1.0:
            raise ConfigError(f"decay = {self.decay}; expected a factor above 0 and at most 1")

    def weigh(self, histories: Histories) -> tuple[Codes, Floats]:
        """Items of each history, newest first, with weights ``decay ** age``; a repeated item counts each time."""
        newest = histories.last(self.n)
        width = max(1, int(newest.lengths.max(initial=0)))
        age = np.arange(width)
        filled = age < newest.lengths[:, None]
        positions = np.where(filled, newest.stops[:, None] - 1 - age, 0)
        codes = np.where(filled, newest.values[positions] if len(newest.values) else -1, -1)
        weights = np.where(filled, np.float32(self.decay) ** age, 0.0)
        return codes.astype(np.int32), weights.astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write ``user_side.json`` into an existing directory."""
        write_json(directory / FILE, {"kind": "history", **asdict(self)})


class OnnxSide:
    """A network exported as two ONNX graphs, run on the CPU; implements :class:`UserSide`.

    ``encoder.onnx`` turns ``vectors`` (float32 ``(batch, length, dim)``, the item vectors of the history, right-padded
    with zeros) and ``lengths`` (int64 ``(batch,)``) into ``posterior`` ``(batch, codes)`` and any number of state
    tensors. ``reader.onnx`` turns ``interests`` (int64 ``(batch, interests)``) and whichever of the above it declares
    into ``vectors`` ``(batch, interests, dim)``. ``user_side.json`` holds ``max_length``, ``codes`` and ``dim``.

    Parameters
    ----------
    directory
        Where the three files are.
    vectors_of
        Item vectors of item indices, :meth:`tesserec.index.postings.VectorPostings.vectors_of`.
    threads
        Threads of one call; one is best where several requests run at once.

    Raises
    ------
    ArtefactError
        If a graph cannot be read or does not have the inputs and outputs above.
    """

    def __init__(self, directory: Path, vectors_of: Callable[[NDArray[np.int64]], Floats], threads: int = 1) -> None:
        self.max_length, self.codes, self.dim = _numbers(directory)
        self._vectors_of = vectors_of
        self._encoder = session(directory / "encoder.onnx", threads)
        self._reader = session(directory / "reader.onnx", threads)
        self._encoder_inputs = [value.name for value in self._encoder.get_inputs()]
        self._encoder_outputs = [value.name for value in self._encoder.get_outputs()]
        self._reader_inputs = [value.name for value in self._reader.get_inputs()]
        self._check(directory)

    def with_vectors(self, vectors_of: Callable[[NDArray[np.int64]], Floats]) -> OnnxSide:
        """The same network over other item vectors; the sessions are shared."""
        other = copy.copy(self)
        other._vectors_of = vectors_of
        return other

    def _check(self, directory: Path) -> None:
        if not {*self._encoder_inputs} <= {"vectors", "lengths"} or "posterior" not in self._encoder_outputs:
            raise ArtefactError(
                f"{directory / 'encoder.onnx'} maps {self._encoder_inputs} to {self._encoder_outputs}; "
                "expected vectors and lengths to posterior and states"
            )
        if missing := {*self._reader_inputs} - {"vectors", "lengths", "interests", *self._encoder_outputs}:
            raise ArtefactError(f"{directory / 'reader.onnx'} asks for {sorted(missing)}, which encoder.onnx lacks")
        if "vectors" not in (outputs := [value.name for value in self._reader.get_outputs()]):
            raise ArtefactError(f"{directory / 'reader.onnx'} gives {outputs}; expected vectors")

    def encode(self, histories: Histories) -> Encoded:
        """Encode a batch; longer histories keep their newest ``max_length`` items."""
        given = _inputs(histories.last(self.max_length), self._vectors_of)
        answers = self._encoder.run(self._encoder_outputs, {name: given[name] for name in self._encoder_inputs})
        state = given | dict(zip(self._encoder_outputs, answers, strict=True))
        return Encoded(np.asarray(state["posterior"], np.float32), state)

    def read(self, encoded: Encoded, interests: Codes) -> Floats:
        """User vectors ``(users, interests, dim)``; code -1 gives zeros."""
        given = encoded.state | {"interests": np.maximum(interests, 0).astype(np.int64)}
        (vectors,) = self._reader.run(["vectors"], {name: given[name] for name in self._reader_inputs})
        return np.where(interests[..., None] >= 0, vectors, np.float32(0.0)).astype(np.float32)


class OnnxScoreSide:
    """A network that weighs codes, exported as one ONNX graph and run on the CPU; implements :class:`ScoreSide`.

    ``tokens.onnx`` turns ``vectors`` (float32 ``(batch, length, dim)``, the vectors of the history, right-padded with
    zeros) and ``lengths`` (int64 ``(batch,)``) into ``codes`` (int64 ``(batch, m)``, -1 for none; a repeated code
    counts each time) and ``weights`` (float32 ``(batch, m)``). As score postings hold no vectors, ``history.npy`` has
    those of all items, float32 ``(items, dim)``. ``user_side.json`` holds ``max_length``, ``codes`` and ``dim``.

    Parameters
    ----------
    directory
        Where the three files are.
    threads
        Threads of one call.

    Attributes
    ----------
    vectors_of
        Vectors of item indices, float32 ``(..., dim)``.
    size
        Number of items that have one.

    Raises
    ------
    ArtefactError
        If a file cannot be read or does not have the inputs, outputs and shapes above.
    """

    def __init__(self, directory: Path, threads: int = 1) -> None:
        self.max_length, self.codes, self.dim = _numbers(directory)
        vectors = map_array(directory / "history.npy", "<f4", 2)
        if vectors.shape[1] != self.dim:
            raise ArtefactError(
                f"{directory / 'history.npy'} has width {vectors.shape[1]}, {FILE} says {self.dim}; publish again"
            )
        self.vectors_of: Callable[[NDArray[np.int64]], Floats] = vectors.__getitem__
        self.size = len(vectors)
        self._graph = session(directory / "tokens.onnx", threads)
        self._inputs = [value.name for value in self._graph.get_inputs()]
        outputs = {value.name for value in self._graph.get_outputs()}
        if not {*self._inputs} <= {"vectors", "lengths"} or not {"codes", "weights"} <= outputs:
            raise ArtefactError(
                f"{directory / 'tokens.onnx'} maps {self._inputs} to {sorted(outputs)}; "
                "expected vectors and lengths to codes and weights"
            )

    def with_vectors(self, vectors_of: Callable[[NDArray[np.int64]], Floats], size: int) -> Self:
        """The same network over other item vectors, such as those of a catalogue that has changed."""
        other = copy.copy(self)
        other.vectors_of, other.size = vectors_of, size
        return other

    def weigh(self, histories: Histories) -> tuple[Codes, Floats]:
        """Codes and weights ``(users, m)``; longer histories keep their newest ``max_length`` items."""
        given = _inputs(histories.last(self.max_length), self.vectors_of)
        codes, weights = self._graph.run(["codes", "weights"], {name: given[name] for name in self._inputs})
        if not np.isfinite(weights).all():
            raise DataError("the weights of codes hold NaN or infinity; the model has diverged, train it again")
        return codes.astype(np.int32), weights.astype(np.float32)


def _numbers(directory: Path) -> tuple[int, int, int]:
    """``max_length``, ``codes`` and ``dim`` of an exported network."""
    facts = read_json(directory / FILE)
    numbers = [facts.get(name) for name in ("max_length", "codes", "dim")]
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ArtefactError(f"{directory / FILE} has max_length, codes, dim = {numbers}; expected whole numbers")
    max_length, codes, dim = numbers
    return max_length, codes, dim


def _inputs(newest: Histories, vectors_of: Callable[[NDArray[np.int64]], Floats]) -> dict[str, NDArray[Any]]:
    """What exported graphs take of histories."""
    items = newest.padded(-1)
    vectors = np.where(items[..., None] >= 0, vectors_of(np.maximum(items, 0)), np.float32(0.0))
    return {"vectors": vectors, "lengths": newest.lengths.astype(np.int64)}


def session(path: Path, threads: int) -> Any:
    """Open an ONNX graph on the CPU; refuses one that cannot be run."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # what is asked here is nobody else's business
    import onnxruntime  # a tenth of a second that popularity and item-kNN do not need

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise ArtefactError(f"{path} cannot be run ({error}); export the model again") from error


def open_user_side(
    directory: Path, vectors_of: Callable[[NDArray[np.int64]], Floats] | None = None, threads: int = 1
) -> UserSide | ScoreSide:
    """Open the user side that a directory holds.

    Parameters
    ----------
    vectors_of
        Item vectors of item indices; an exported network needs them.
    threads
        Threads of a network's call.

    Raises
    ------
    ArtefactError
        If ``user_side.json`` is missing, damaged, of an unknown kind, or does not go with the postings.
    """
    facts = read_json(directory / FILE)
    kind = facts.get("kind") if isinstance(facts, dict) else None
    try:
        if kind == "constant":
            return ConstantSide()
        if kind == "history":
            return HistorySide(facts["n"], facts["decay"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtefactError(f"{directory / FILE} does not describe a user side ({error}); publish again") from None
    if kind == "onnx-codes":
        return OnnxScoreSide(directory, threads)
    if kind != "onnx":
        expected = "'constant', 'history', 'onnx-codes' or 'onnx'"
        raise ArtefactError(f"{directory / FILE} has kind {kind!r}; expected {expected}")
    if vectors_of is None:
        raise ArtefactError(f"{directory / FILE} describes a network, but the postings hold no vectors; publish again")
    return OnnxSide(directory, vectors_of, threads)
