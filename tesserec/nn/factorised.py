"""The factorised softmax: a probability for every cell of the catalogue, and an exact softmax inside the target's cell.

With every item in one cell, ``p(item | user) = p(cell | user) * p(item | cell, user)``. Both factors together cost as
many dot products as there are cells and items in one cell, whatever the catalogue. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tesserec.nn.blocks import by_blocks
from tesserec.nn.losses import CHUNK_LOGITS, NEVER, TINY
from tesserec.nn.precision import without_autocast


@dataclass(frozen=True)
class Layout:
    """Where items lie once they are sorted by cell.

    Attributes
    ----------
    cells
        Cell of every item, ``(items,)``.
    order
        Items by cell, by rising item inside a cell, ``(items,)``.
    place
        Place of each item in ``order``, ``(items,)``.
    offsets
        Cell c is ``order[offsets[c]:offsets[c + 1]]``, ``(cells + 1,)``.
    """

    cells: Tensor
    order: Tensor
    place: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, cells: Tensor, n_cells: int) -> Layout:
        """Sort items by their cells ``(items,)``."""
        order = torch.argsort(cells, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        sizes = torch.bincount(cells, minlength=n_cells)
        return cls(cells, order, place, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    @property
    def sizes(self) -> Tensor:
        """Items in each cell, ``(cells,)``."""
        return self.offsets.diff()


class _MeansAndVariances(torch.autograd.Function):
    """By cell and coordinate; whatever is as large as the catalogue is made by blocks, but for the gradient itself."""

    @staticmethod
    def forward(ctx: Any, items: Tensor, cells: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        share = 1 / sizes.clamp(min=1)[:, None]
        sums, squares = torch.zeros(2, len(sizes), items.shape[1], dtype=items.dtype, device=items.device)
        for some, where in by_blocks(items, cells):
            sums.index_add_(0, where, some)
            squares.index_add_(0, where, some * some)
        means = sums * share
        variances = (squares * share - means * means).clamp_min_(0)
        ctx.save_for_backward(items, cells, share, means)
        return means, variances

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        items, cells, share, means = ctx.saved_tensors
        slope = 2 * share * grads[1]
        flat = share * grads[0] - slope * means
        d_items = torch.empty_like(items)
        for out, some, where in by_blocks(d_items, items, cells):
            torch.addcmul(flat[where], slope[where], some, out=out)
        return d_items, None, None


@dataclass(frozen=True)
class Moments:
    """What a user needs to know of the parts of cells to give each cell a probability.

    Attributes
    ----------
    log_sizes
        Logarithm of the number of items, ``NEVER`` for an empty part, ``(parts,)``.
    means, variances
        Of the item vectors of a part, by coordinate, ``(parts, dim)``; zero for an empty part.
    """

    log_sizes: Tensor
    means: Tensor
    variances: Tensor

    @classmethod
    def of(cls, items: Tensor, part_of: Tensor, parts: int) -> Moments:
        """Moments of item vectors ``(items, dim)`` by part ``(items,)``, differentiable in the vectors."""
        sizes = torch.bincount(part_of, minlength=parts).to(items.dtype)
        means, variances = _MeansAndVariances.apply(items, part_of, sizes)  # type: ignore[no-untyped-call]
        return cls(sizes.log().clamp_min(NEVER), means, variances)

    def detach(self) -> Moments:
        """The same without gradients."""
        return Moments(self.log_sizes, self.means.detach(), self.variances.detach())

    @property
    def empty(self) -> Tensor:
        """Which parts hold nothing, ``(parts,)``."""
        return self.log_sizes <= NEVER

    def log_mass(self, users: Tensor) -> Tensor:
        """To second order, ``log sum_{i in p} exp(u . z_i)`` of every part for users ``(rows, dim)``.

        Coordinates count as uncorrelated inside a part: of the covariance only the diagonal is kept.
        """
        powers = torch.cat([users, 0.5 * users * users], -1)
        return torch.addmm(self.log_sizes, powers, torch.cat([self.means, self.variances], -1).T)

    def log_mass_of_cells(self, users: Tensor, cells: int) -> Tensor:
        """Log of the summed mass of the parts of each cell, which follow one another, ``(rows, cells)``."""
        return self.log_mass(users).view(users.shape[0], cells, -1).logsumexp(-1)

    def means_of_cells(self, cells: int) -> Tensor:
        """Mean item vector of each cell, ``(cells, dim)``; zero for an empty one."""
        sizes = self.log_sizes.exp().view(cells, -1, 1)
        return (sizes * self.means.view(cells, -1, self.means.shape[1])).sum(1) / sizes.sum(1).clamp(min=1)

    def spread(self) -> Tensor:
        """Sum of the squared distances of items from the mean of their part, a scalar."""
        return self.log_sizes.exp() @ self.variances.sum(-1)


class LowRankReader(nn.Module):
    """What an interest changes about a user vector: ``u + out(into(u) * gate(mean of the cell))``; ours.

    It starts at zero, and a request may read a hundred interests at the cost of a few numbers each.
    """

    def __init__(self, dim: int, rank: int, dropout: float) -> None:
        super().__init__()
        self.into, self.gate = nn.Linear(dim, rank, bias=False), nn.Linear(dim, rank, bias=False)
        self.out, self.dropout = nn.Linear(rank, dim, bias=False), nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)

    def forward(self, users: Tensor, means: Tensor) -> Tensor:
        """User vectors ``(..., dim)`` that broadcast to cell means ``(..., dim)``."""
        out: Tensor = users + self.out(self.dropout(self.into(users) * self.gate(means)))
        return out


class _CellSoftmax(torch.autograd.Function):
    """Cross-entropy inside each row's own cell; loss and gradients in one pass over the distinct cells."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor, layout: Layout) -> Tensor:
        order = torch.argsort(layout.cells[targets])
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        cells, counts = torch.unique_consecutive(layout.cells[targets[order]], return_counts=True)
        begins, ends = layout.offsets[cells].tolist(), layout.offsets[cells + 1].tolist()
        for begin, end, members in zip(begins, ends, torch.split(order, counts.tolist()), strict=True):
            inside = layout.order[begin:end]
            vectors = items[inside]
            slopes = torch.zeros_like(vectors)
            for rows in torch.split(members, max(1, CHUNK_LOGITS // len(inside))):
                of_users, wanted = users[rows], (layout.place[targets[rows]] - begin)[:, None]
                share = torch.softmax(of_users @ vectors.T, -1)
                total -= share.gather(1, wanted).clamp_min(TINY).log().sum()
                slope = share.scatter_add_(1, wanted, share.new_full(wanted.shape, -1.0))
                d_users[rows] = slope @ vectors
                slopes.addmm_(slope.T, of_users)
            d_items[inside] = slopes
        d_users /= len(users)
        d_items /= len(users)
        ctx.save_for_backward(d_users, d_items)
        return total / len(users)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        d_users, d_items = ctx.saved_tensors
        return d_users * grads[0], d_items * grads[0], None, None


def cell_softmax(users: Tensor, items: Tensor, targets: Tensor, layout: Layout) -> Tensor:
    """Mean of ``-log p(target | cell of the target, user)``, an exact softmax over the items of that cell.

    Parameters
    ----------
    users
        ``(rows, dim)``, scaled so that dot products are logits.
    items
        Every item's vector, ``(items, dim)``.
    targets
        Item index of each row, ``(rows,)``.
    layout
        The cells.
    """
    with without_autocast(users.device):
        # The products are too small and too many for bfloat16 to pay: each shape would be set up anew.
        users, items = (x if x.dtype == torch.float64 else x.float() for x in (users, items))
        if users.is_cuda:
            return padded_cell_softmax(users, items, targets, layout)
        return _CellSoftmax.apply(users, items, targets, layout)  # type: ignore[no-any-return,no-untyped-call]


def padded_cell_softmax(users: Tensor, items: Tensor, targets: Tensor, layout: Layout) -> Tensor:
    """:func:`cell_softmax` with each row's cell padded to the largest: more arithmetic, and few launches for a GPU."""
    places = torch.arange(int(layout.sizes.max()), device=users.device)
    cells = layout.cells[targets]
    inside = places < layout.sizes[cells, None]
    rows = layout.order[(layout.offsets[cells, None] + places).clamp(max=len(layout.order) - 1)]
    logits = torch.einsum("rd,rpd->rp", users, F.embedding(rows, items))
    wanted = layout.place[targets] - layout.offsets[cells]
    return F.cross_entropy(logits.masked_fill(~inside, -torch.inf), wanted)
