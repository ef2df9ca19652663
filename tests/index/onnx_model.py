"""A tiny exported network, built without torch."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_network(folder, codes=6, dim=4, max_length=5, seed=0):
    """Posterior: softmax of the summed history; vectors: the sum plus a vector of the code."""
    rng = np.random.default_rng(seed)
    weights = {
        "to_codes": rng.normal(size=(dim, codes)).astype(np.float32),
        "of_codes": rng.normal(size=(codes, dim)).astype(np.float32),
        "one": np.array([1], np.int64),
    }

    def graph(nodes, inputs, outputs, used):
        values = lambda given: [helper.make_tensor_value_info(n, t, s) for n, t, s in given]  # noqa: E731
        constants = [numpy_helper.from_array(weights[name], name) for name in used]
        made = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), constants)
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    f32, i64 = TensorProto.FLOAT, TensorProto.INT64
    encoder = graph(
        [
            helper.make_node("ReduceSum", ["vectors", "one"], ["state_0"], keepdims=0),
            helper.make_node("MatMul", ["state_0", "to_codes"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["posterior"], axis=-1),
        ],
        [("vectors", f32, ["b", "l", dim]), ("lengths", i64, ["b"])],
        [("posterior", f32, ["b", codes]), ("state_0", f32, ["b", dim])],
        ["to_codes", "one"],
    )
    reader = graph(
        [
            helper.make_node("Gather", ["of_codes", "interests"], ["chosen"]),
            helper.make_node("Unsqueeze", ["state_0", "one"], ["wide"]),
            helper.make_node("Add", ["chosen", "wide"], ["vectors"]),
        ],
        [("interests", i64, ["b", "k"]), ("state_0", f32, ["b", dim])],
        [("vectors", f32, ["b", "k", dim])],
        ["of_codes", "one"],
    )
    onnx.save(encoder, folder / "encoder.onnx")
    onnx.save(reader, folder / "reader.onnx")
    facts = {"kind": "onnx", "max_length": max_length, "codes": codes, "dim": dim}
    (folder / "user_side.json").write_text(json.dumps(facts))
    return weights
