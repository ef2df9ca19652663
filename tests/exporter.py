"""Exports of a whole suite: what PyTorch's exporter does twice is done once, or is an error."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tesserec.models.neural import NeuralRetriever


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


def share_exports(folder: Path) -> None:
    """Export models of the same settings and the same tensors once, whichever test published them first."""
    if importlib.util.find_spec("onnxscript") is None:
        return
    from filelock import FileLock

    from tesserec.models.neural import NeuralRetriever

    export = NeuralRetriever.export

    def shared(self: NeuralRetriever, out: Path) -> None:
        kept = folder / fingerprint(self)
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                unfinished = kept.with_suffix(".tmp")
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                export(self, unfinished)
                unfinished.rename(kept)
        shutil.copytree(kept, out, dirs_exist_ok=True)

    NeuralRetriever.export = shared


def fingerprint(model: NeuralRetriever) -> str:
    """Of all that an export depends on."""
    features = model.network.items.features
    vocabulary = None if features is None else features.source.vocabulary.to_json()
    found = hashlib.sha256(json.dumps([model.name, model.config.model_dump(), vocabulary], default=str).encode())
    for name, tensor in model.network.state_dict().items():
        found.update(name.encode() + tensor.cpu().numpy().tobytes())
    return found.hexdigest()
