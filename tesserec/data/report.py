"""What a preparation did, one fact a line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class PrepareReport:
    """Facts of one preparation, stored in the dataset's manifest.

    Attributes
    ----------
    columns
        Column of the log that was taken as the user, the item, the time, ...
    time_kind
        ``seconds`` (or another unit), ``datetime``, ``order``, or ``none`` where the order of the rows counts.
    rows
        Rows read.
    kept
        What the event type, the weight or the repeats of a row had to be, where they were filtered.
    dropped
        Rows that each filter removed.
    users, items, events
        What is left; items without any event are among the items.
    cold_items
        Items without a training event.
    mean_length, median_length
        Events a user.
    repeats
        Events left whose item the same user had before.
    exclude_seen
        Whether items of the history are left out of answers.
    train_users, valid_users, test_users
        Rows of each part.
    dropped_users
        Held-out users of each part that could not be used.
    warnings
        What the caller should know.
    """

    columns: dict[str, str | None] = field(default_factory=dict)
    time_kind: str = "none"
    rows: int = 0
    kept: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    users: int = 0
    items: int = 0
    events: int = 0
    cold_items: int = 0
    mean_length: float = 0.0
    median_length: float = 0.0
    repeats: int = 0
    exclude_seen: bool | None = None
    train_users: int = 0
    valid_users: int = 0
    test_users: int = 0
    dropped_users: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for people."""
        columns = ", ".join(f"{what} = {name}" for what, name in self.columns.items() if name is not None)
        facts = [
            f"columns          {columns}",
            f"times            {self.time_kind}",
            f"rows read        {self.rows:,}",
            *(f"dropped          {count:,} by {why}" for why, count in self.dropped.items()),
            f"users            {self.users:,}",
            f"items            {self.items:,}, {self.cold_items:,} without a training event",
            f"events           {self.events:,}, mean {self.mean_length:.1f} and median {self.median_length:g} a user",
            f"repeats          {self.repeats:,}",
            f"seen items       {_SEEN[self.exclude_seen]}",
            f"held out         {self.valid_users:,} for validation, {self.test_users:,} for testing; "
            f"{self.train_users:,} train",
            *(f"left out         {count:,} users of {part}" for part, count in self.dropped_users.items() if count),
        ]
        return facts + [f"warning          {warning}" for warning in self.warnings]


_SEEN = {
    None: "unknown",
    True: "left out of answers",
    False: "kept in answers; --repeats first or last leaves them out",
}
