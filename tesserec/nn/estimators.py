"""How a gradient gets past the choice of a code: pure functions of vectors and what they were quantised to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Estimator = Literal["straight-through", "rotation", "gumbel"]


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """The value of ``quantised`` with gradients to it and, unchanged, to ``z`` (Bengio et al. 2013)."""
    return quantised + z - z.detach()


def rotation(z: Tensor, quantised: Tensor) -> Tensor:
    """The value of ``quantised`` with gradients to it and, turned and scaled as ``z`` is, to ``z``.

    The rotation trick (Fifty et al. 2024, section 4.2): ``quantised = s R z`` with a rotation R and a scale s that are
    constants to the gradient, so the angle between gradient and codeword is kept at ``z``. Vectors ``(rows, dim)``.
    """
    fixed = quantised.detach()
    length, wanted = (x.norm(dim=-1, keepdim=True).clamp_min(1e-6) for x in (z.detach(), fixed))
    start, end = z.detach() / length, fixed / wanted
    middle = F.normalize(start + end, dim=-1, eps=1e-6)
    turned = z - 2 * (z * middle).sum(-1, keepdim=True) * middle + 2 * (z * start).sum(-1, keepdim=True) * end
    moved = turned * (wanted / length)
    # The value is the codeword's to the last bit; only the gradient is the rotation's.
    out: Tensor = quantised + moved - moved.detach()
    return out


PASSES = {"straight-through": straight_through, "rotation": rotation}
"""How a gradient gets past what stands for a vector, by the estimator's name."""


def gumbel(distances: Tensor, temperature: float) -> Tensor:
    """Soft choice of a code, ``(..., codes)``: a Gumbel-softmax sample by squared distances (Jang et al. 2017)."""
    chosen: Tensor = F.gumbel_softmax(-distances, tau=temperature, hard=False, dim=-1)
    return chosen


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Squared distance of every vector ``(..., rows, dim)`` to every code ``(..., codes, dim)``."""
    crossed = vectors @ codebook.transpose(-1, -2)
    norms = vectors.square().sum(-1)[..., None] + codebook.square().sum(-1)[..., None, :]
    return torch.clamp(norms - 2 * crossed, min=0)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Nearest code, in squared distance, of every vector ``(..., rows, dim)``, smallest index on ties."""
    crossed = vectors @ codebook.transpose(-1, -2)
    return torch.argmin(codebook.square().sum(-1)[..., None, :] - 2 * crossed, dim=-1)
