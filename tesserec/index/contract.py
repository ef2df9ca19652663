"""What passes between a user side (network or table) and an index: encoded users, candidates and the policy.

Everything here is NumPy. A user side may be a PyTorch model, an ONNX session or a lookup table; the search neither
knows nor cares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError

Floats = NDArray[np.float32]
Codes = NDArray[np.int32]
Merge = Literal["max", "probability", "quota"]
Reach = Literal["catalogue", "cell"]
Select = Literal["posterior", "history"]
Shares = Literal["posterior", "equal"]


@dataclass(frozen=True)
class Encoded:
    """A batch of users after the encoder.

    Attributes
    ----------
    posterior
        ``p(code | history)``, float32, ``(users, codes)``; rows sum to one. Codes are the cells of the postings, or,
        where the postings have one cell, any number of slots: free vectors, which usually have equal shares.
    state
        What the same user side needs to read interests from it: an array or tensor with a row a user, or a tuple or
        dictionary of such.
    """

    posterior: Floats
    state: Any

    def take(self, rows: NDArray[np.int64]) -> Encoded:
        """Some of the users."""
        return Encoded(self.posterior[rows], _take(self.state, rows))


def _take(state: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(state, dict):
        return {name: part[rows] for name, part in state.items()}
    return tuple(part[rows] for part in state) if isinstance(state, tuple) else state[rows]


class UserSide(Protocol):
    """Histories in, a posterior over interests and one query vector an interest out."""

    def encode(self, histories: Histories) -> Encoded:
        """Encode a batch of histories of item indices, oldest first, none empty."""
        ...

    def read(self, encoded: Encoded, interests: Codes) -> Floats:
        """User vectors ``(users, interests, dim)`` for codes ``(users, interests)``; code -1 gives zeros."""
        ...


@dataclass(frozen=True)
class Policy:
    """How the posterior becomes candidates.

    Attributes
    ----------
    interests
        Interests read per user (K); exploration reads up to as many again.
    merge
        ``"max"`` ranks an item by its best interest's score; ``"probability"`` by
        ``max_c [log p(c|u) + score_c]``; ``"quota"`` gives each interest a share of the list, see ``shares`` (largest
        remainder, at least one), and orders the union by score.
    explore
        Share of the list given to the likeliest interests that no item of the history belongs to, 0 to 1; always by
        quota, at least one place, and only with items of cells outside the history. Places that find no such
        interest or item go back to the others.
    visit
        Posterior mass of the cells to search, 0 to 1; 1 is exact: every cell that can change the answer.
    recall
        Instead of ``visit``, the share of the exact answer to find, above 0 and below 1; the mass that it takes was
        measured on validation histories when the bundle was built (:mod:`tesserec.index.calibration`).
    max_items
        Most items to visit for a user, whatever the above asks for; the likeliest cell is always visited.
    reach
        Which items an interest may bring: ``"catalogue"`` any of the visited cells, ``"cell"`` only those of its own,
        where that is visited.
    normalise
        Subtract from an interest's scores their log-sum-exp over all items of its cell, so that a score is
        ``log p(item | cell, user)``; only with reach ``"cell"``. Under the merge ``"probability"`` the value of an
        item is then ``log p(item | user)``, and the search stops as soon as no further cell can change the answer.
    select
        Which interests are read: the likeliest of the ``"posterior"``, or the most frequent cells of the
        ``"history"``, whose frequency is then their probability; of equally frequent ones the latest. Without
        exploration; ``visit`` goes by the posterior in any case.
    shares
        How quotas divide places: in proportion to the ``"posterior"`` (or frequency), or ``"equal"``, where what does
        not divide goes to the likeliest.
    """

    interests: int = 4
    merge: Merge = "max"
    explore: float = 0.0
    visit: float = 1.0
    reach: Reach = "catalogue"
    normalise: bool = False
    select: Select = "posterior"
    shares: Shares = "posterior"
    recall: float | None = None
    max_items: int | None = None

    def __post_init__(self) -> None:
        if self.interests < 1:
            raise ConfigError(f"interests = {self.interests}; at least one interest must be read")
        for name, kind in (("merge", Merge), ("reach", Reach), ("select", Select), ("shares", Shares)):
            if (choice := getattr(self, name)) not in (known := get_args(kind)):
                raise ConfigError(f"{name} = {choice!r}; choose {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
        if self.select == "history" and self.explore > 0:
            raise ConfigError(
                f"select = 'history' with explore = {self.explore}, but a history does not know what lies outside it; "
                "explore with select = 'posterior'"
            )
        if self.normalise and self.reach != "cell":
            raise ConfigError("normalise = True, but scores are normalised over a cell; set reach = 'cell' with it")
        for name in ("explore", "visit"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"{name} = {value}; expected a share between 0 and 1")
        if self.recall is not None and not 0.0 < self.recall < 1.0:
            raise ConfigError(f"recall = {self.recall}; expected a share above 0 and below 1; visit = 1 is exact")
        if self.max_items is not None and self.max_items < 1:
            raise ConfigError(f"max_items = {self.max_items}; at least one item must be visited")


@dataclass(frozen=True, eq=False)
class Visits:
    """What the search of each user touched, and what it left out.

    Attributes
    ----------
    certified
        True where no unvisited item could have changed the answer, bool ``(users,)``.
    cells, items
        Cells searched and postings scored, int64 ``(users,)``.
    mass_left
        Posterior probability of the cells that were not searched, float32 ``(users,)``.
    """

    certified: NDArray[np.bool_]
    cells: NDArray[np.int64]
    items: NDArray[np.int64]
    mass_left: Floats

    @classmethod
    def none(cls, users: int) -> Self:
        """No visit yet, for a search to fill."""
        return cls(
            np.zeros(users, np.bool_), np.zeros(users, np.int64), np.zeros(users, np.int64), np.ones(users, np.float32)
        )

    @classmethod
    def complete(cls, users: int, cells: int, items: int) -> Self:
        """Everything visited for everybody."""
        shape = (users,)
        return cls(np.full(shape, True), np.full(shape, cells), np.full(shape, items), np.zeros(users, np.float32))

    def __getitem__(self, rows: Any) -> Self:
        """Some of the users."""
        return type(self)(self.certified[rows], self.cells[rows], self.items[rows], self.mass_left[rows])

    def __setitem__(self, rows: Any, other: Visits) -> None:
        for name in vars(self):
            getattr(self, name)[rows] = getattr(other, name)


@dataclass(frozen=True)
class Candidates:
    """Ranked answers, best first; unfilled places hold item -1.

    Attributes
    ----------
    items
        Item indices, int32, ``(users, k)``.
    scores
        float32, ``(users, k)``; -inf where unfilled.
    interests
        Code of the interest (or slot) that brought the item, int32, ``(users, k)``; -1 for models with one code.
    probability
        The posterior of that interest, float32, ``(users, k)``; NaN for models with one code.
    explored
        True where the interest was chosen for exploration, ``(users, k)``.
    visits
        What the search touched and left out.
    """

    items: NDArray[np.int32]
    scores: Floats
    interests: Codes
    probability: Floats
    explored: NDArray[np.bool_]
    visits: Visits
