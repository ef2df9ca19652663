"""A tiny exported network, built without torch."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, I64 = TensorProto.FLOAT, TensorProto.INT64


def _graph(nodes, inputs, outputs, constants):
    values = lambda given: [helper.make_tensor_value_info(n, t, s) for n, t, s in given]  # noqa: E731
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), held)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_weigher(folder, items, codes=6, max_length=5):
    """Twice the same code: the first number of the summed history is its weight and, modulo ``codes``, its name."""
    nodes = [
        helper.make_node("ReduceSum", ["vectors", "one"], ["sum"], keepdims=0),
        helper.make_node("Gather", ["sum", "first"], ["weight"], axis=1),
        helper.make_node("Cast", ["weight"], ["whole"], to=I64),
        helper.make_node("Mod", ["whole", "modulus"], ["code"]),
        helper.make_node("Tile", ["code", "twice"], ["codes"]),
        helper.make_node("Tile", ["weight", "twice"], ["weights"]),
    ]
    numbers = {"one": [1], "first": [0], "twice": [1, 2], "modulus": [codes]}
    graph = _graph(
        nodes,
        [("vectors", F32, ["b", "l", items.shape[1]]), ("lengths", I64, ["b"])],
        [("codes", I64, ["b", 2]), ("weights", F32, ["b", 2])],
        {name: np.array(value, np.int64) for name, value in numbers.items()},
    )
    onnx.save(graph, folder / "tokens.onnx")
    np.save(folder / "history.npy", items)
    facts = {"kind": "onnx-codes", "max_length": max_length, "codes": codes, "dim": items.shape[1]}
    (folder / "user_side.json").write_text(json.dumps(facts))


def to_cells(dim=4, cells=6, seed=0):
    """The linear maps of :func:`write_items`."""
    return np.random.default_rng(seed + 1).normal(size=(dim, cells)).astype(np.float32)


def write_items(folder, dim=4, cells=6, seed=0, vocabulary=None, cuts=None):
    """The cell is that of the largest of ``cells`` linear maps; the encoder adds a vector for each number and category.

    With ``cuts`` the maps less these are scores in lists. ``vocabulary`` is of one categorical and one numeric column,
    or None for a model without features.
    """
    rng = np.random.default_rng(seed + 2)
    where = ("cells", I64, ["b"]) if cuts is None else ("scores", F32, ["b", cells])
    place = _graph(
        [
            helper.make_node("Identity", ["raw"], ["vectors"]),
            helper.make_node("MatMul", ["raw", "to_cells"], ["mapped"]),
            helper.make_node("Sub", ["mapped", "cuts"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["cells"], axis=1, keepdims=0),
        ],
        [("raw", F32, ["b", dim])],
        [("vectors", F32, ["b", dim]), where],
        {"to_cells": to_cells(dim, cells, seed), "cuts": np.zeros(cells, np.float32) if cuts is None else cuts},
    )
    onnx.save(place, folder / "place.onnx")
    if vocabulary is not None:
        (values,) = vocabulary["values"].values()
        encoder = _graph(
            [
                helper.make_node("MatMul", ["numbers", "of_numbers"], ["first"]),
                helper.make_node("Gather", ["of_codes", "codes_0"], ["wide"]),
                helper.make_node("ReduceSum", ["wide", "one"], ["second"], keepdims=0),
                helper.make_node("Add", ["first", "second"], ["raw"]),
            ],
            [("numbers", F32, ["b", 1]), ("codes_0", I64, ["b", "l"])],
            [("raw", F32, ["b", dim])],
            {
                "of_numbers": rng.normal(size=(1, dim)).astype(np.float32),
                "of_codes": rng.normal(size=(len(values) + 1, dim)).astype(np.float32),
                "one": np.array([1], np.int64),
            },
        )
        onnx.save(encoder, folder / "item_encoder.onnx")
    (folder / "items.json").write_text(json.dumps({"dim": dim, "vocabulary": vocabulary}))


def write_network(folder, codes=6, dim=4, max_length=5, seed=0):
    """Posterior: softmax of the summed history; vectors: the sum plus a vector of the code."""
    rng = np.random.default_rng(seed)
    weights = {
        "to_codes": rng.normal(size=(dim, codes)).astype(np.float32),
        "of_codes": rng.normal(size=(codes, dim)).astype(np.float32),
        "one": np.array([1], np.int64),
    }

    encoder = _graph(
        [
            helper.make_node("ReduceSum", ["vectors", "one"], ["state_0"], keepdims=0),
            helper.make_node("MatMul", ["state_0", "to_codes"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["posterior"], axis=-1),
        ],
        [("vectors", F32, ["b", "l", dim]), ("lengths", I64, ["b"])],
        [("posterior", F32, ["b", codes]), ("state_0", F32, ["b", dim])],
        {name: weights[name] for name in ("to_codes", "one")},
    )
    reader = _graph(
        [
            helper.make_node("Gather", ["of_codes", "interests"], ["chosen"]),
            helper.make_node("Unsqueeze", ["state_0", "one"], ["wide"]),
            helper.make_node("Add", ["chosen", "wide"], ["vectors"]),
        ],
        [("interests", I64, ["b", "k"]), ("state_0", F32, ["b", dim])],
        [("vectors", F32, ["b", "k", dim])],
        {name: weights[name] for name in ("of_codes", "one")},
    )
    onnx.save(encoder, folder / "encoder.onnx")
    onnx.save(reader, folder / "reader.onnx")
    facts = {"kind": "onnx", "max_length": max_length, "codes": codes, "dim": dim}
    (folder / "user_side.json").write_text(json.dumps(facts))
    return weights
