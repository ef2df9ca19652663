"""Passes over the catalogue by blocks, so that what is made of its items stays near the processor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ITEMS = 8192
"""Items at a time."""


def by_blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each, a block at a time."""
    return zip(*(torch.split(x, BLOCK_ITEMS) for x in tensors), strict=True)
