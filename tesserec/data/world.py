"""A synthetic log whose truth is known: planted interests, drifting users, skewed popularity, cold items.

Every user holds a few interests with fixed weights. Before each event one of them may be replaced by a successor of it
(a Markov rule over interests); then an interest is drawn by weight and an item of it by a Zipf law. So the interests,
the posterior over them and the best possible recall are known exactly, which no real log offers. Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tesserec.errors import ConfigError

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

START = 1_704_067_200  # 2024-01-01, seconds
SPAN = 365 * 86_400
HELD = 3  # interests a user holds at a time
CHUNK = 100_000  # users drawn together
LONGEST = 10  # cap on a user's events, in mean lengths
COLD_SPAN = 0.1  # cold items exist only in this last share of the time
NAMES = (
    "Jazz vinyl", "Trail running", "Sourdough", "Board games", "Film cameras", "Houseplants", "Space opera",
    "Road cycling", "Knitting", "Espresso", "Birdwatching", "Chess", "Bouldering", "Watercolour", "Synthesizers",
    "Fly fishing", "Ceramics", "Crime novels", "Beekeeping", "Model trains", "Sailing", "Mechanical keyboards",
    "Astronomy", "Woodworking", "Folk guitar", "Wild swimming", "Origami", "Street food", "Fountain pens", "Bonsai",
    "Silent films", "Orienteering",
)  # fmt: skip
TAGS = (
    "beginner", "classic", "compact", "gift", "handmade", "indoor", "kit", "limited", "loud", "minimal", "outdoor",
    "portable", "rare", "refill", "secondhand", "set", "slow", "social", "starter", "weekend",
)  # fmt: skip


@dataclass(frozen=True)
class Hidden:
    """What drives each user's last event: state just before it, one row a user.

    Attributes
    ----------
    held
        Interests held, ``(users, 3)``.
    weights
        Their weights, ``(users, 3)``; rows sum to one.
    late
        True where the event falls in the time of the cold items, ``(users,)``.
    """

    held: Ints
    weights: Doubles
    late: NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """A seeded synthetic log with its truth; made by :meth:`generate`.

    Attributes
    ----------
    users, interests, seed, mean_length, drift
        As given to :meth:`generate`.
    item_interest
        Planted interest of each item, ``(items,)``.
    cold
        True for items that exist only at the end of the log, ``(items,)``.
    preference
        ``p(item | interest)`` without and with the cold items, ``(2, items)``, each item under its own interest.
    successors
        ``p(next interest | interest)``, ``(interests, interests)``.

    Examples
    --------
    >>> world = World.generate(users=500, items=200, interests=8, seed=1)
    >>> world.log.columns
    ['user_id', 'item_id', 'timestamp']
    >>> 0 < world.optimal_recall(20) < 1
    True
    """

    users: int
    interests: int
    seed: int
    mean_length: int
    drift: float
    item_interest: Ints
    cold: NDArray[np.bool_]
    preference: Doubles
    successors: Doubles

    @classmethod
    def generate(
        cls,
        users: int = 2000,
        items: int = 2000,
        interests: int = 24,
        seed: int = 0,
        *,
        mean_length: int = 30,
        drift: float = 0.1,
        skew: float = 0.8,
        cold: float = 0.03,
    ) -> World:
        """Draw a catalogue and the rules of a world; its log follows on demand, so any size can be written.

        Parameters
        ----------
        users, items, interests
            Sizes.
        seed
            Equal seeds give equal worlds.
        mean_length
            Mean events a user; at least 5 each.
        drift
            Probability that one held interest moves on before an event.
        skew
            Exponent of the Zipf law inside an interest.
        cold
            Share of items that appear only in the last tenth of the time.

        Raises
        ------
        ConfigError
            If a size or a share cannot be met.
        """
        _check(users, items, interests, mean_length, drift, cold)
        rng = np.random.default_rng([seed, 0])
        item_interest = rng.permutation(np.arange(items) % interests)
        order = np.lexsort((rng.random(items), item_interest))
        rank = np.empty(items, np.int64)
        rank[order] = np.arange(items) - np.searchsorted(item_interest[order], item_interest[order])
        is_cold = np.zeros(items, bool)
        # The head of each interest stays warm, so that every interest has something to draw at any time.
        candidates = np.flatnonzero(rank > 0)
        is_cold[rng.choice(candidates, min(round(cold * items), len(candidates)), replace=False)] = True
        mass = (1.0 + rank) ** -skew
        preference = np.stack([mass * ~is_cold, mass])
        for row in preference:
            row /= np.bincount(item_interest, row, interests)[item_interest]
        successors = _successors(interests, rng)
        return cls(users, interests, seed, mean_length, drift, item_interest, is_cold, preference, successors)

    @cached_property
    def log(self) -> pl.DataFrame:
        """Interactions ``user_id, item_id, timestamp``, users in order, oldest first."""
        return pl.concat([frame for frame, _ in self._chunks()])

    @cached_property
    def items(self) -> pl.DataFrame:
        """Catalogue ``item_id, title, category, tags``; the category tells the interest for nine items of ten."""
        rng = np.random.default_rng([self.seed, 1])
        names = np.array(self.interest_names)
        told = np.where(
            rng.random(len(self.cold)) < 0.9, self.item_interest, rng.integers(self.interests, size=len(self.cold))
        )
        number = np.empty(len(self.cold), np.int64)
        order = np.argsort(self.item_interest, kind="stable")
        grouped = self.item_interest[order]
        number[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped) + 1
        own = (self.item_interest * 7) % len(TAGS)
        other = rng.integers(len(TAGS), size=len(self.cold))
        return pl.DataFrame(
            {
                "item_id": self._item_ids,
                "title": [f"{names[c]} {n:03d}" for c, n in zip(self.item_interest, number, strict=True)],
                "category": names[told],
                "tags": [sorted({TAGS[a], TAGS[b]}) for a, b in zip(own, other, strict=True)],
            }
        )

    @property
    def interest_names(self) -> list[str]:
        """A readable name for each planted interest."""
        rounds = (divmod(i, len(NAMES)) for i in range(self.interests))
        return [NAMES[i] + (f" {again + 1}" if again else "") for again, i in rounds]

    @cached_property
    def hidden(self) -> Hidden:
        """The state behind each user's last event."""
        parts = [hidden for _, hidden in self._chunks()]
        return Hidden(*(np.concatenate([getattr(part, name) for part in parts]) for name in Hidden.__annotations__))

    def posterior(self, users: Ints | None = None) -> Doubles:
        """``p(interest of the last event | hidden state)``, ``(users, interests)``; all users unless rows are given."""
        chosen = np.arange(self.users) if users is None else users
        held, weights = self.hidden.held[chosen], self.hidden.weights[chosen]
        stays = np.zeros((len(chosen), self.interests))
        np.add.at(stays, (np.arange(len(chosen))[:, None], held), weights)
        # Each held interest is the one that moves on with probability drift / HELD.
        moves = self.drift / HELD
        return np.asarray((1 - moves) * stays + moves * (stays @ self.successors))

    def next_item_probabilities(self, users: Ints) -> Doubles:
        """``p(last item | hidden state)``, ``(users, items)``."""
        of_item = self.posterior(users)[:, self.item_interest]
        return np.asarray(of_item * self.preference[self.hidden.late[users].astype(int)])

    def optimal_recall(self, k: int, users: Ints | None = None) -> float:
        """Best expected recall@k for the last event of each user, given the hidden state.

        No model can beat it in expectation, whatever it reads, since it knows more than any history tells. It holds
        for a leave-one-out split of the whole log in which items may be recommended again.

        Parameters
        ----------
        k
            Length of the lists.
        users
            Row numbers of users; all by default.
        """
        chosen = np.arange(self.users) if users is None else users
        total = 0.0
        for block in np.array_split(chosen, max(1, len(chosen) * len(self.cold) // 10_000_000)):
            chances = self.next_item_probabilities(block)
            kept = min(k, chances.shape[1])
            total += float(np.partition(chances, -kept, axis=1)[:, -kept:].sum())
        return total / len(chosen)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write ``interactions/part-*.parquet`` and ``items.parquet`` chunk by chunk; returns both paths."""
        directory = Path(directory)
        log, items = directory / "interactions", directory / "items.parquet"
        log.mkdir(parents=True, exist_ok=True)
        for number, (frame, _) in enumerate(self._chunks()):
            frame.write_parquet(log / f"part-{number:04d}.parquet")
        self.items.write_parquet(items)
        return log, items

    @cached_property
    def _item_ids(self) -> pl.Series:
        width = max(5, len(str(len(self.cold) - 1)))
        return pl.Series("item_id", [f"i{i:0{width}d}" for i in range(len(self.cold))])

    def _chunks(self) -> Iterator[tuple[pl.DataFrame, Hidden]]:
        """Log and hidden state of consecutive users; each chunk has its own stream of random numbers."""
        width = max(5, len(str(self.users - 1)))
        for first in range(0, self.users, CHUNK):
            count = min(CHUNK, self.users - first)
            rng = np.random.default_rng([self.seed, 2, first])
            user, item, time, hidden = self._draw(count, rng)
            names = pl.Series("user_id", [f"u{u:0{width}d}" for u in range(first, first + count)])
            yield (
                pl.DataFrame(
                    [names.gather(user), self._item_ids.gather(item), pl.Series("timestamp", time, dtype=pl.Int64)]
                ),
                hidden,
            )

    def _draw(self, users: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, Hidden]:
        """Events of ``users`` users, drawn step by step over all of them at once, the longest first."""
        lengths = 4 + rng.geometric(1 / max(1, self.mean_length - 4), users)
        lengths = -np.sort(-np.minimum(lengths, LONGEST * self.mean_length))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        user = np.repeat(np.arange(users), lengths)
        share = _event_times(lengths, user, rng)
        late = share >= 1 - COLD_SPAN
        held = _draw_rows(np.cumsum(_interest_appeal(self.interests)), rng.random((users, HELD)))
        weights = rng.dirichlet([3.0, 2.0, 1.0], users)
        last_held = np.empty_like(held)
        interest = np.empty(len(user), np.int64)
        for step in range(lengths[0]):
            active = int(np.searchsorted(-lengths, -step))
            ending = slice(int(np.searchsorted(-lengths, -step - 1)), active)
            last_held[ending] = held[ending]
            self._drift(held[:active], rng)
            slot = (rng.random((active, 1)) > np.cumsum(weights[:active, :-1], axis=1)).sum(axis=1)
            interest[starts[:active] + step] = held[np.arange(active), slot]
        item = self._draw_items(interest, late, rng)
        # Users were drawn longest first; their numbers must not tell their length.
        renamed = rng.permutation(users)
        order = np.argsort(renamed[user], kind="stable")
        back = np.argsort(renamed)
        hidden = Hidden(last_held[back], weights[back], late[starts[1:] - 1][back])
        return renamed[user][order], item[order], (START + SPAN * share[order]).astype(np.int64), hidden

    def _drift(self, held: Ints, rng: np.random.Generator) -> None:
        moving = np.flatnonzero(rng.random(len(held)) < self.drift)
        slot = rng.integers(HELD, size=len(moving))
        chances = np.cumsum(self.successors, axis=1)[held[moving, slot]]
        held[moving, slot] = np.minimum((rng.random((len(moving), 1)) >= chances).sum(axis=1), self.interests - 1)

    def _draw_items(self, interest: Ints, late: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
        order = np.argsort(self.item_interest, kind="stable")
        item = np.empty(len(interest), np.int64)
        for catalogue, rows in enumerate((~late, late)):
            cumulated = np.cumsum(self.preference[catalogue, order])
            item[rows] = order[_draw_rows(cumulated, interest[rows] + rng.random(int(rows.sum())))]
        return item


def _draw_rows(cumulated: Doubles, places: Doubles) -> Ints:
    """Entry of a cumulated distribution at each place; zero-mass entries are never met."""
    found = np.searchsorted(cumulated, places, side="right")
    return np.asarray(np.minimum(found, np.searchsorted(cumulated, cumulated[-1])))


def _event_times(lengths: Ints, user: Ints, rng: np.random.Generator) -> Doubles:
    """Times of all events as shares of the span, sorted inside each user, ``(events,)``."""
    begin = rng.random(len(lengths)) * 0.7
    end = begin + (1 - begin) * np.sqrt(rng.random(len(lengths)))
    share = np.sort(user + rng.random(len(user)) * (1 - 1e-9)) - user
    return begin[user] + (end - begin)[user] * share


def _interest_appeal(interests: int) -> Doubles:
    """Share of users' first interests, mildly skewed, ``(interests,)``."""
    appeal = (1.0 + np.arange(interests)) ** -0.5
    return np.asarray(appeal / appeal.sum())


def _successors(interests: int, rng: np.random.Generator) -> Doubles:
    """Each interest leads to two others, mostly to the first of them, ``(interests, interests)``."""
    matrix = np.zeros((interests, interests))
    for share in (0.7, 0.3):
        matrix[np.arange(interests), rng.permutation(interests)] += share
    return matrix


def _check(users: int, items: int, interests: int, mean_length: int, drift: float, cold: float) -> None:
    if min(users, interests) < 1 or items < interests:
        raise ConfigError(f"{users} users, {items} items, {interests} interests; expected an item or more an interest")
    if mean_length < 5:
        raise ConfigError(f"mean_length = {mean_length}; expected at least 5 events a user")
    for name, value in (("drift", drift), ("cold", cold)):
        if not 0 <= value < 1:
            raise ConfigError(f"{name} = {value}; expected a share of at least 0 and below 1")
