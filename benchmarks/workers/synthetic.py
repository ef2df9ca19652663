"""A bundle of any size without training: clustered vectors in cells, and a user side of two small ONNX graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tesserec.data.histories import Histories
from tesserec.data.ids import IdMap
from tesserec.index.bundle import publish
from tesserec.index.calibration import calibrate
from tesserec.index.catalogue import Catalogue
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import ConstantSide, OnnxSide

DIM, SHARPNESS, MAX_LENGTH = 64, 12.0, 50
EVENTS, CALIBRATED = 20, 500
Floats = NDArray[np.float32]


def publish_synthetic(root: Path, items: int, cells: int, seed: int = 0) -> Path:
    """Publish a generation: a user is the mean of the history's vectors and believes in cells by their likeness.

    An interest's vector is the user's plus that of the cell's centre, so each interest ranks items in its own way.
    A new item lies at the centre of the cell that its column ``kind`` names. Recall targets are calibrated, as
    ``tesserec index`` does it, on users of :func:`histories_of` with a seed of their own.
    """
    draw = np.random.default_rng(seed)
    centres = _unit(draw.normal(size=(cells, DIM)))
    weights = np.arange(1, cells + 1) ** -0.5
    cell_of = draw.choice(cells, items, p=weights / weights.sum())
    vectors = _unit(centres[cell_of] + 0.8 * DIM**-0.5 * draw.normal(size=(items, DIM)))
    postings = VectorPostings.build(vectors, cell_of, cells)
    ids = pl.Series("id", np.arange(items)).cast(pl.String)
    table, roles = pl.DataFrame({"id": ids, "kind": [f"kind {cell}" for cell in cell_of]}), {"kind": "categorical"}
    catalogue = Catalogue(IdMap(ids), table, roles, True, np.arange(items, 0, -1))
    policy = Policy(interests=cells, merge="probability", reach="cell", normalise=True)
    names = pl.DataFrame({"interest": np.arange(cells), "name": [f"cell {code}" for code in range(cells)]})
    workbench = root.parent / f".{root.name}.graphs"
    workbench.mkdir(parents=True, exist_ok=True)
    _write_graphs(workbench, centres)
    side = OnnxSide(workbench, postings.vectors_of)
    searcher = Searcher(catalogue, side, postings, policy, names)
    searcher.calibration = calibrate(searcher, histories_of(postings, CALIBRATED, seed), policy)

    def write(folder: Path) -> None:
        _write_graphs(folder, centres)
        _write_item_side(folder, centres)

    return publish(root, searcher, write, {"model": "synthetic", "seed": seed})


def histories_of(postings: VectorPostings, users: int, seed: int) -> Histories:
    """Histories of users who like three cells each."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(users):
        codes = draw.choice(postings.cells, 3, replace=False)
        places = [draw.integers(postings.offsets[code], postings.offsets[code + 1], EVENTS // 3 + 1) for code in codes]
        rows.append(postings.items[draw.permutation(np.concatenate(places))[:EVENTS]])
    return Histories.from_lists(rows)


def _write_item_side(folder: Path, centres: Floats) -> None:
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    kinds = [f"kind {cell}" for cell in range(len(centres))]
    vocabulary = {"values": {"kind": kinds}, "multi": [], "numbers": {}, "widths": {}}
    table = np.vstack([np.zeros((1, DIM), np.float32), centres])
    encoder = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "codes_0"], ["wide"]),
            helper.make_node("ReduceSum", ["wide", "one"], ["raw"], keepdims=0),
        ],
        "item_encoder",
        [helper.make_tensor_value_info("codes_0", integers, ["b", "l"])],
        [helper.make_tensor_value_info("raw", floats, ["b", DIM])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    place = helper.make_graph(
        [
            helper.make_node("Identity", ["raw"], ["vectors"]),
            helper.make_node("MatMul", ["raw", "to_cells"], ["likeness"]),
            helper.make_node("ArgMax", ["likeness"], ["cells"], axis=1, keepdims=0),
        ],
        "place",
        [helper.make_tensor_value_info("raw", floats, ["b", DIM])],
        [
            helper.make_tensor_value_info("vectors", floats, ["b", DIM]),
            helper.make_tensor_value_info("cells", integers, ["b"]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(centres.T), "to_cells")],
    )
    for name, graph in (("item_encoder", encoder), ("place", place)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
    (folder / "items.json").write_text(json.dumps({"dim": DIM, "vocabulary": vocabulary}))


def _unit(rows: NDArray[np.float64]) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _write_graphs(folder: Path, centres: Floats) -> None:
    floats, integers = TensorProto.FLOAT, TensorProto.INT64
    constants = {"to_codes": SHARPNESS * centres.T, "of_codes": centres, "one": np.array([1], np.int64)}
    encoder = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["vectors", "one"], ["sum"], keepdims=0),
            helper.make_node("LpNormalization", ["sum"], ["state_0"], axis=-1, p=2),
            helper.make_node("MatMul", ["state_0", "to_codes"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["posterior"], axis=-1),
        ],
        "encoder",
        [helper.make_tensor_value_info("vectors", floats, ["b", "l", DIM])],
        [
            helper.make_tensor_value_info("posterior", floats, ["b", len(centres)]),
            helper.make_tensor_value_info("state_0", floats, ["b", DIM]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(constants[name]), name) for name in ("to_codes", "one")],
    )
    reader = helper.make_graph(
        [
            helper.make_node("Gather", ["of_codes", "interests"], ["chosen"]),
            helper.make_node("Unsqueeze", ["state_0", "one"], ["wide"]),
            helper.make_node("Add", ["chosen", "wide"], ["sum"]),
            helper.make_node("Mul", ["sum", "sharpness"], ["vectors"]),
        ],
        "reader",
        [
            helper.make_tensor_value_info("interests", integers, ["b", "k"]),
            helper.make_tensor_value_info("state_0", floats, ["b", DIM]),
        ],
        [helper.make_tensor_value_info("vectors", floats, ["b", "k", DIM])],
        [
            numpy_helper.from_array(constants["of_codes"], "of_codes"),
            numpy_helper.from_array(constants["one"], "one"),
            numpy_helper.from_array(np.array([SHARPNESS], np.float32), "sharpness"),
        ],
    )
    for name, graph in (("encoder", encoder), ("reader", reader)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / f"{name}.onnx")
    facts = {"kind": "onnx", "max_length": MAX_LENGTH, "codes": len(centres), "dim": DIM}
    (folder / "user_side.json").write_text(json.dumps(facts))


def publish_marked(root: Path, mark: int, items: int = 1000) -> Path:
    """Publish a popularity list that begins with item ``mark``, so that an answer tells its generation."""
    scores = np.arange(items, 0, -1, dtype=np.float32)
    order = (np.arange(items) + mark) % items
    lists = ScorePostings.build(np.zeros(items, np.int64), order, scores, n_codes=1, size=items)
    ids = pl.Series("id", np.arange(items)).cast(pl.String)
    catalogue = Catalogue(IdMap(ids), pl.DataFrame({"id": ids}), {}, False, np.arange(items, 0, -1))
    side = ConstantSide()
    return publish(root, Searcher(catalogue, side, lists, Policy()), side.save, {"model": "marked", "mark": mark})
