"""Soft search: from histories to ranked candidates, each with the interest that brought it.

Vector postings: each chosen interest ranks the items of the visited cells; its best unseen items are merged into one
list. With every cell visited the answer is that of the exact scorer, bit for bit. An item counts as *explored* only
if an interest outside the history brought it and its own cell holds no item of the history either. Postings of one
cell go with any number of codes: these are *slots*, free vectors of a user that own no items, and all search the cell.
Score postings: the lists of the user's codes are added up. Without postings the user side scores every item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tesserec.data.histories import Histories
from tesserec.errors import ConfigError, DataError
from tesserec.index.across import Request, few_of, search_across
from tesserec.index.contract import Candidates, Elsewhere, Encoded, Floats, Policy, UserSide
from tesserec.index.dense import best_of_all
from tesserec.index.exploration import draws_of, propensity_of, race_weights, reshaped
from tesserec.index.filters import NOTHING, Blocked
from tesserec.index.interests import Choice, choose, choose_from_history
from tesserec.index.lists import sum_lists
from tesserec.index.merge import no_candidates
from tesserec.index.new_items import NewItems, with_new
from tesserec.index.order import Order
from tesserec.index.postings import EveryItem, Postings, VectorPostings
from tesserec.index.score_postings import ScorePostings
from tesserec.index.user_side import DenseSide, ScoreSide
from tesserec.index.visiting import cells_to_visit, known_cells, visited_cells
from tesserec.index.within import BLOCK, Users, search_within

_BATCH = 512
_ROUNDED = 0.01
Progress = Callable[[int, int], None]


def retrieve(
    side: UserSide | ScoreSide | DenseSide,
    postings: Postings,
    histories: Histories,
    k: int,
    policy: Policy,
    *,
    exclude_seen: bool,
    budget_mb: int = 256,
    progress: Progress | None = None,
    blocked: Blocked = NOTHING,
    elsewhere: Elsewhere | None = None,
    new: NewItems | None = None,
    order: Order | None = None,
) -> Candidates:
    """The ``k`` best candidates of each history.

    Fewer than ``k`` are returned where fewer items are left or were reached; the rest of the row holds -1.

    Parameters
    ----------
    histories
        Item indices, oldest first, no row empty.
    exclude_seen
        Leave out the items of the history.
    budget_mb
        Working memory of the search, in MiB; the answer and the user side's own network come on top.
    progress
        Called with the users done and all users after each batch.
    blocked
        Items that no answer may hold, see :class:`tesserec.index.filters.Filter`. Where they leave a list short that
        searched a part of the cells, it is filled from all of them.
    new
        The items that are new, which ``policy.new_share`` asks for.
    order
        Visit cells by posterior and place instead of ``policy.visit``, where all interests search together.

    Raises
    ------
    DataError
        If a history is empty or names an item that is not in the postings.
    ConfigError
        If k is below one, or the policy asks for what a model without interests does not have.
    """
    check_fit(side, postings)
    _check(postings, histories, k, policy)
    if policy.new_share and elsewhere is not None:
        raise ConfigError(
            f"new_share = {policy.new_share}, but an engine searches here, which does not know new items from others; "
            "ask the bundle itself, or leave new_share at 0"
        )
    if policy.new_share and new is None:
        raise ConfigError(f"new_share = {policy.new_share}, but nothing says which items are new; give new")
    request = Request(k, policy, exclude_seen, budget_mb, blocked, elsewhere, new, order=order)
    batch = _batch_users(postings, request)
    if len(histories) == 1 and progress is None:  # nothing to put into order
        return _retrieve_batch(side, postings, _known_items(histories, np.zeros(1, np.int64), postings.size), request)
    answer = no_candidates(len(histories), k)
    by_length = np.argsort(histories.lengths, kind="stable")  # users of like lengths share a batch: little padding
    for start in range(0, len(histories), batch):
        rows = by_length[start : start + batch]
        found = _retrieve_batch(side, postings, _known_items(histories, rows, postings.size), request)
        for name in vars(answer):
            getattr(answer, name)[rows] = getattr(found, name)
        if progress:
            progress(min(start + batch, len(histories)), len(histories))
    return answer


def has_interests(postings: Postings) -> bool:
    """Whether items lie in several cells: interests that users share, which can be named, compared and explored.

    The slots of a network with several free vectors are not such interests.
    """
    return isinstance(postings, VectorPostings) and postings.cells > 1


def check_fit(side: UserSide | ScoreSide | DenseSide, postings: Postings) -> None:
    """Refuse a user side of one kind with postings of another."""
    wanted = _wanted_postings(type(side))
    if not isinstance(postings, wanted):
        raise ConfigError(
            f"{type(side).__name__} goes with {wanted.__name__}, not with {type(postings).__name__}; they do not fit"
        )


@cache
def _wanted_postings(side: type) -> type[Postings]:
    """Once a class: asking whether something meets a protocol takes a tenth of a millisecond."""
    kinds: dict[type, type[Postings]] = {ScoreSide: ScorePostings, DenseSide: EveryItem}
    return next((kind for protocol, kind in kinds.items() if issubclass(side, protocol)), VectorPostings)


def _check(postings: Postings, histories: Histories, k: int, policy: Policy) -> None:
    if k < 1:
        raise ConfigError(f"k = {k}; ask for at least one candidate")
    if policy.explore > 0 and not has_interests(postings):
        raise ConfigError(
            f"explore = {policy.explore}, but this model has no interests that users share, so none to explore; "
            "models with a codebook have them (sparc), or leave explore at 0"
        )
    if policy.select == "history" and not has_interests(postings):
        raise ConfigError(
            "select = 'history', but this model has no interests that users share, so a history has no frequent ones; "
            "leave select at 'posterior'"
        )
    if policy.reshapes and not has_interests(postings):
        raise ConfigError(
            f"temperature = {policy.temperature}, known = {policy.known}, top_p = {policy.top_p}, seed = {policy.seed}"
            ", but this model has no interests that users share, so none to draw or weigh; leave them out, or use a "
            "model with a codebook (sparc)"
        )
    if not isinstance(postings, VectorPostings):
        _check_lists(policy)
    if len(empty := np.flatnonzero(histories.lengths < 1)):
        raise DataError(f"history {empty[0]} is empty; give at least one item of the catalogue")


def _check_lists(policy: Policy) -> None:
    """Lists are summed whole, whatever ``visit`` allows to be left out, and have no interests to merge."""
    if policy.reach == "cell":
        raise ConfigError("reach = 'cell', but the items of this model lie in no cells; leave reach at 'catalogue'")
    if policy.merge != "max":
        raise ConfigError(
            f"merge = {policy.merge!r}, but this model adds up scored lists, so it has no interests to merge; "
            "leave merge at 'max'"
        )
    if policy.max_items is not None:
        raise ConfigError(
            f"max_items = {policy.max_items}, but this model always adds up whole lists; leave max_items out"
        )


def _known_items(histories: Histories, rows: NDArray[np.int64], size: int) -> Histories:
    """The chosen histories on an array of their own, all of whose items are in the postings."""
    flat = histories.take(rows).compact()
    if len(bad := np.flatnonzero((flat.values < 0) | (flat.values >= size))):
        row = rows[np.searchsorted(flat.stops, bad[0], side="right")]
        raise DataError(f"history {row} holds item {flat.values[bad[0]]}; expected 0 to {size - 1}")
    return flat


def _batch_users(postings: Postings, request: Request) -> int:
    if request.budget_mb < 1:
        raise ConfigError(f"budget_mb = {request.budget_mb}; the search needs at least 1 MiB of working memory")
    if isinstance(postings, ScorePostings):
        return _BATCH
    if isinstance(postings, EveryItem):
        return int(np.clip((request.budget_mb << 20) // (8 * postings.size), 1, _BATCH))
    policy = request.policy
    columns = policy.interests * (2 if policy.explore else 1)
    if policy.reach == "catalogue":
        row = postings.cells * 20 + columns * (postings.dim * 8 + request.k * 16)
    else:  # one list for all interests but those with a quota, of which there are at most k
        columns = min(columns, postings.cells)
        lists = 1 + (min(columns, 2 * request.k) if policy.explore or policy.merge == "quota" else 0)
        row = postings.cells * 20 + columns * 40 + BLOCK * postings.dim * 12 + lists * request.k * 16
    return int(np.clip((request.budget_mb << 20) // (2 * row * draws_of(policy)), 1, _BATCH))


def _retrieve_batch(
    side: UserSide | ScoreSide | DenseSide, postings: Postings, histories: Histories, request: Request
) -> Candidates:
    if isinstance(postings, ScorePostings):
        lists = cast(ScoreSide, side)
        if request.elsewhere is not None:
            return _certain(request.elsewhere.sum_lists(lists, postings, histories, request.k, request.exclude_seen))

        def search(own: Request) -> Candidates:
            searched = cast(ScorePostings, own.few or postings)
            return sum_lists(lists, searched, histories, own.k, own.exclude_seen, own.blocked)

        return _certain(with_new(search, request))
    if isinstance(postings, EveryItem):
        dense = cast(DenseSide, side)
        return _certain(
            with_new(lambda own: best_of_all(dense, postings, histories, own.k, own.exclude_seen, own.blocked), request)
        )
    side = cast(UserSide, side)
    encoded = side.encode(histories)
    _checked_posterior(encoded.posterior, postings.cells)
    asked = _Asked(side, encoded, histories)
    if request.policy.seed is not None:
        return _search_drawn(asked, postings, request)
    return _certain(_search_filled(asked, postings, _chosen(asked, postings, request), request))


@dataclass(frozen=True)
class _Asked:
    """Some users, as the user side and the index see them."""

    side: UserSide
    encoded: Encoded
    histories: Histories

    def take(self, rows: NDArray[np.int64]) -> _Asked:
        return _Asked(self.side, self.encoded.take(rows), self.histories.take(rows).compact())


def _certain(found: Candidates) -> Candidates:
    """Without draws, what is in the list is in every list."""
    return replace(found, propensity=np.where(found.items >= 0, 1, np.nan).astype(np.float32))


def _chosen(asked: _Asked, postings: VectorPostings, request: Request, draws: int = 0) -> Choice:
    """The interests to read; with ``draws``, so many rows a user, drawn one by one."""
    policy, histories = request.policy, asked.histories
    if policy.select == "history":
        of_history = replace(histories, values=postings.cells_of(histories.values))
        return choose_from_history(of_history, postings.cells, policy, request.k)
    known = known_cells(postings, histories)
    posterior = reshaped(asked.encoded.posterior, known, policy)
    nucleus = None if policy.top_p == 1.0 else visited_cells(posterior, policy.top_p)
    if not draws:
        return choose(posterior, known, policy, request.k, nucleus=nucleus)
    assert policy.seed is not None
    weights = race_weights(posterior, histories, policy.seed, draws).reshape(-1, posterior.shape[1])
    posterior, known = np.repeat(posterior, draws, axis=0), np.repeat(known, draws, axis=0)
    nucleus = None if nucleus is None else np.repeat(nucleus, draws, axis=0)
    return choose(posterior, known, policy, request.k, weights, nucleus)


def _search_drawn(asked: _Asked, postings: VectorPostings, request: Request) -> Candidates:
    """The answer to each user's first draw, with the propensities that the others tell; equal draws search once."""
    users, draws = len(asked.histories), draws_of(request.policy)
    choice = _chosen(asked, postings, request, draws)
    of_user = np.repeat(np.arange(users), draws)
    _, distinct, draw = np.unique(
        np.column_stack([of_user, choice.codes]), axis=0, return_index=True, return_inverse=True
    )
    parts = choice.take(distinct)
    found = _search_filled(asked.take(of_user[distinct]), postings, parts, request)
    draw = draw.reshape(users, draws)
    answer = no_candidates(users, request.k)
    for name in vars(answer):
        getattr(answer, name)[...] = getattr(found, name)[draw[:, 0]]
    for user in range(users if draws > 1 else 0):
        answer.propensity[user] = propensity_of(answer.items[user], found.items[draw[user, 1:]])
    if request.policy.reach == "cell":  # what was proved concerns the drawn cells only
        answer.visits.certified[...] &= answer.visits.mass_left <= 0
    return answer


def _search_filled(asked: _Asked, postings: VectorPostings, choice: Choice, request: Request) -> Candidates:
    """Search with the share of new items that the policy asks for."""
    return with_new(partial(_search_to_the_end, asked, postings, choice), request)


def _search_to_the_end(asked: _Asked, postings: VectorPostings, choice: Choice, request: Request) -> Candidates:
    """Search the visited cells, and all of them for whom a filter leaves the list short."""
    found = _search_cells(asked, postings, choice, request)
    if request.blocked is NOTHING or request == (whole := _everything(request, postings)):
        return found
    # What few items certify sooner would else be found by other interests than among many.
    uncertain = ~found.visits.certified | (request.few is not None)
    short = np.flatnonzero((found.items < 0).any(axis=1) & uncertain)
    if len(short):
        rest, parts = asked.take(short), choice.take(short)
        if whole.policy.interests != request.policy.interests:
            parts = _chosen(rest, postings, whole)
        more = _search_cells(rest, postings, parts, whole)
        for name in vars(found):
            getattr(found, name)[short] = getattr(more, name)
    return found


def _everything(request: Request, postings: VectorPostings) -> Request:
    """The same over all cells; where interests bring their own alone, with all of them, unless they are drawn."""
    everywhere, policy = request.everywhere, request.policy
    if policy.reach != "cell" or policy.seed is not None or policy.interests >= postings.cells:
        return everywhere
    return replace(everywhere, policy=replace(everywhere.policy, interests=postings.cells))


def _search_cells(asked: _Asked, postings: VectorPostings, choice: Choice, request: Request) -> Candidates:
    side, encoded, histories = asked.side, asked.encoded, asked.histories
    posterior = encoded.posterior
    users = Users(side, encoded, histories if request.exclude_seen else None, request.blocked)
    if request.policy.reach == "cell":
        if posterior.shape[1] != postings.cells:
            raise ConfigError("reach = 'cell', but the slots of this model own no cells; set reach = 'catalogue'")
        visited = cells_to_visit(posterior, postings, request.policy)
        own = choice.explored | np.take_along_axis(visited, np.maximum(choice.codes, 0).astype(np.int64), axis=1)
        choice = replace(choice, codes=np.where(own, choice.codes, -1).astype(np.int32))
        few = few_of(request, postings) if request.few is not None else None
        found = search_within(users, postings, choice, request.k, request.policy, few, request.elsewhere)
    else:
        found = search_across(users, postings, choice, request, histories)
    return found if posterior.shape[1] > 1 else _without_interests(found)


def _without_interests(found: Candidates) -> Candidates:
    """The single code of a model without interests is not an interest."""
    return replace(
        found, interests=np.full_like(found.interests, -1), probability=np.full_like(found.probability, np.nan)
    )


def _checked_posterior(posterior: Floats, cells: int) -> Floats:
    if posterior.shape[1] != cells > 1:
        raise ConfigError(f"the user side knows {posterior.shape[1]} codes, the postings {cells}; they do not fit")
    if not np.isfinite(posterior).all():
        raise DataError("the posterior over interests holds NaN or infinity; the model has diverged, train it again")
    sums = posterior.sum(axis=1)
    if (posterior < 0).any() or (np.abs(sums - 1) > _ROUNDED).any():
        raise DataError(
            f"the posterior has values from {posterior.min()} and sums from {sums.min()} to {sums.max()}; "
            "expected probabilities that sum to 1, such as a softmax gives"
        )
    return posterior
