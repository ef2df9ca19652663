"""A table of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Cell(Protocol):
    """A number with an interval, which may be missing."""

    @property
    def value(self) -> float:
        """The number."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


@dataclass(frozen=True)
class Grid:
    """Estimates: one row a name with its meaning, one column a cut-off or a run; ``best`` marks the leaders."""

    caption: str
    corner: str
    columns: list[str]
    rows: Sequence[tuple[str, str, Sequence[Cell | None]]]
    best: set[tuple[int, int]] = field(default_factory=set)
