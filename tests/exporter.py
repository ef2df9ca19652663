"""Exports of a whole suite: what PyTorch's exporter does twice is done once, or is an error."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any


def export_quickly() -> None:
    """For all graphs of this process; where PyTorch has its parts elsewhere, exports only take longer.

    The exporter parses the operators of ONNX anew for each graph, a second each time. What it cannot trace at first it
    traces again, strictly, in twice the time: ``len(tensor)`` in a forward pass, for one, is a number to it instead of
    a symbol, where ``tensor.shape[0]`` is one.
    """
    if importlib.util.find_spec("onnxscript") is None:
        return
    import torch
    from torch.onnx._internal.exporter import _registration as registration

    registry = getattr(registration, "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))
    export = torch.export.export

    @functools.wraps(export)
    def once(*args: Any, strict: bool = False, **kwargs: Any) -> Any:
        assert not strict, "the first trace failed; see why it fixed a dimension that is dynamic"
        return export(*args, strict=strict, **kwargs)

    torch.export.export = once
