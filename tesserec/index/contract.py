"""What passes between a user side (network or table) and an index: encoded users, candidates and the policy.

Everything here is NumPy. A user side may be a PyTorch model, an ONNX session or a lookup table; the search neither
knows nor cares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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
        Share of the list given to the likeliest interests that no item of the history belongs to, 0 to 1, beside what
        they win by themselves; always by quota, at least one place, and only with items of cells outside the history.
        Places that find no such interest or item go back to the others.
    new_share
        Share of the list kept for new items, 0 to 1: those without an event in training. In whole places as for
        ``explore``, as far as the search finds so many; see :mod:`tesserec.index.new_items`.
    visit
        Posterior mass of the cells to search, 0 to 1; 1 is exact: every cell that can change the answer.
    recall
        Instead of ``visit``, the share of the exact answer to find, above 0 and below 1; what to visit for it was
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
    temperature
        The choice goes by ``p(c | u)^(1/temperature)``, renormalised: above 1 flatter, below 1 sharper. Draws, quotas,
        the merge ``"probability"`` and the stated probability follow it; ``visit`` goes by the posterior in any case.
    known
        Weight of the interests that the history touches, above 0: their probability in the choice is multiplied by it,
        then all are renormalised. 1 is neutral, less brings more items of interests that are new to the user, above all
        with reach ``"cell"``. What follows the temperature follows it too; see
        :func:`tesserec.index.exploration.reshaped`.
    top_p
        Exploited interests come from the likeliest that together hold this share of the tempered posterior, above 0
        to 1. Exploration is not cut: it has its own share.
    seed
        Draw interests at random, without replacement and in proportion to the tempered posterior, instead of taking
        the likeliest; see :mod:`tesserec.index.exploration`. The same seed and history give the same list. None
        draws nothing.
    repeats
        Independent draws that the propensity of a drawn list is estimated from; each costs at most one search. 0
        leaves it unknown.
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
    temperature: float = 1.0
    known: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    repeats: int = 100
    new_share: float = 0.0

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
        for name in ("explore", "visit", "new_share"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"{name} = {value}; expected a share between 0 and 1")
        if self.recall is not None and not 0.0 < self.recall < 1.0:
            raise ConfigError(f"recall = {self.recall}; expected a share above 0 and below 1; visit = 1 is exact")
        if self.max_items is not None and self.max_items < 1:
            raise ConfigError(f"max_items = {self.max_items}; at least one item must be visited")
        self._check_draws()

    def _check_draws(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError(
                f"temperature = {self.temperature}; expected a number above 0, 1 for the model's posterior"
            )
        if not (math.isfinite(self.known) and self.known > 0):
            raise ConfigError(
                f"known = {self.known}; expected a weight above 0, 1 to leave known interests as they are"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p = {self.top_p}; expected a share above 0, up to 1 for all interests")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise ConfigError(
                f"seed = {self.seed}; expected a whole number from 0 to 2^64 - 1, or none to draw nothing"
            )
        if self.repeats < 0:
            raise ConfigError(f"repeats = {self.repeats}; expected 0 or more draws")
        if self.select == "history" and self.reshapes:
            raise ConfigError(
                "select = 'history' with temperature, known, top_p or seed, but these go by the posterior; "
                "set select = 'posterior' with them"
            )

    @property
    def reshapes(self) -> bool:
        """Whether interests are chosen by other than the model's own posterior, or at random."""
        return (self.temperature, self.known, self.top_p, self.seed) != (1.0, 1.0, 1.0, None)

    def to_dict(self) -> dict[str, Any]:
        """All settings, as :meth:`from_dict` reads them and JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """A policy from named settings; what is left out has its default.

        Raises
        ------
        ConfigError
            If a name is unknown, or a value is of the wrong kind or out of range; the message names the setting.
        """
        kinds = {field.name: str(field.type) for field in fields(cls)}
        for name, value in settings.items():
            if name not in kinds:
                raise ConfigError(f"a policy has no setting {name!r}; it has {', '.join(kinds)}")
            if not _is_of_kind(value, kinds[name]):
                raise ConfigError(f"{name} = {value!r}; expected {_KINDS[kinds[name].removesuffix(' | None')]}")
        return cls(**settings)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    **dict.fromkeys(("Merge", "Reach", "Select", "Shares"), "a word"),
}


def _is_of_kind(value: Any, kind: str) -> bool:
    if kind.endswith(" | None"):
        return value is None or _is_of_kind(value, kind.removesuffix(" | None"))
    if kind == "bool":
        return isinstance(value, bool)
    wanted = {"int": (int,), "float": (int, float)}.get(kind, (str,))
    return isinstance(value, wanted) and not isinstance(value, bool)


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
    by_place
        True where cells were visited by posterior and place, until none was worth it (:mod:`tesserec.index.order`);
        False where by falling posterior alone, bool ``(users,)``.
    """

    certified: NDArray[np.bool_]
    cells: NDArray[np.int64]
    items: NDArray[np.int64]
    mass_left: Floats
    by_place: NDArray[np.bool_]

    @classmethod
    def none(cls, users: int) -> Self:
        """No visit yet, for a search to fill."""
        counts = np.zeros(users, np.int64)
        return cls(np.zeros(users, np.bool_), counts, counts.copy(), np.ones(users, np.float32), counts > 0)

    @classmethod
    def complete(cls, users: int, cells: int, items: int) -> Self:
        """Everything visited for everybody."""
        shape = (users,)
        left, by_place = np.zeros(users, np.float32), np.zeros(users, np.bool_)
        return cls(np.full(shape, True), np.full(shape, cells), np.full(shape, items), left, by_place)

    def __getitem__(self, rows: Any) -> Self:
        """Some of the users."""
        return type(self)(*(getattr(self, name)[rows] for name in vars(self)))

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
    propensity
        Probability over the policy's draws that the item is in this user's list, float32, ``(users, k)``: 1 where the
        policy draws nothing, otherwise the estimate of :mod:`tesserec.index.exploration`; NaN where unfilled or
        unknown.
    """

    items: NDArray[np.int32]
    scores: Floats
    interests: Codes
    probability: Floats
    explored: NDArray[np.bool_]
    visits: Visits
    propensity: Floats


class Elsewhere(Protocol):
    """What answers the queries of a search instead of the postings' own kernels, such as a server.

    Choosing interests and cells, merging and propensities stay with :mod:`tesserec.index.search`;
    :mod:`tesserec.adapters` has the engines.
    """

    def best_in_cells(
        self, queries: Floats, cells: Histories | None, unwanted: Histories | None, k: int
    ) -> tuple[NDArray[np.int32], Floats]:
        """The ``k`` items with the largest dot product of each query.

        Parameters
        ----------
        queries
            float32 ``(rows, dim)``.
        cells
            Cells that each row may see; None is every cell.
        unwanted
            Items that each row must not be given.

        Returns
        -------
        tuple of array
            Items int32 ``(rows, k)``, -1 where fewer are left, and scores float32 ``(rows, k)``, -inf there; equal
            scores in order of rising item.
        """
        ...

    def sum_lists(self, side: Any, postings: Any, histories: Histories, k: int, exclude_seen: bool) -> Candidates:
        """As :func:`tesserec.index.lists.sum_lists`, which also types ``side`` and ``postings``."""
        ...
