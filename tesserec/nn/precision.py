"""Where mixed precision stops: what must be exact to float32 says so by a context."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products keep the types of their factors, also within autocast.

    Nothing is entered where autocast is off: in an exported graph a context is a graph within the graph, traced anew
    in each pass of the exporter.
    """
    enabled = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()
