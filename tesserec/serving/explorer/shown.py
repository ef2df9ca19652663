"""What the page shows, as data: every answer of the explorer is one of these models.

Ids of items are text here, as people type them; :meth:`tesserec.data.ids.IdMap.parse` turns them back.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Shown(BaseModel):
    """Base of all answers: they never change."""

    model_config = ConfigDict(frozen=True)


class Item(Shown):
    """An item as people see it."""

    id: str
    title: str


class Items(Shown):
    """Some items."""

    items: list[Item]


class ModelFacts(Shown):
    """What is explored.

    ``why_no_interests`` is None where the model has interests that users share. ``most_interests`` is the end of the
    slider of K, ``users`` whether histories can be looked up by user id.
    """

    model: str
    generation: int
    items: int
    interests: int
    why_no_interests: str | None
    settings: Settings
    most_interests: int
    can_explore: bool
    users: bool


class Settings(Shown):
    """The sliders: length of the list, share of exploration, interests read (K)."""

    k: int
    explore: float
    interests: int


class Cell(Shown):
    """An interest on the map: a circle around ``(x, y)``, whose area is in proportion to its items.

    ``traffic`` are visits, ``share`` their share of all, ``neighbours`` the codes whose centres are nearest by cosine.
    """

    interest: int
    name: str
    categories: list[str]
    typical: list[str]
    items: int
    traffic: int
    share: float
    x: float
    y: float
    radius: float
    neighbours: list[int]


class InterestMap(Shown):
    """All interests, the largest first.

    ``traffic_of`` says what traffic counts; ``dead`` are codes without items, ``left_out`` those too small for a map
    of so many.
    """

    traffic_of: str
    cells: list[Cell]
    dead: list[int]
    left_out: int


class Newest(Item):
    """An item with what tells its age, as text."""

    when: str


class CategoryShare(Shown):
    """How common a category is among the items of an interest, beside its share of the catalogue."""

    column: str
    value: str
    share: float
    catalogue: float


class Neighbour(Shown):
    """Another interest and the cosine of the two centres."""

    interest: int
    name: str
    cosine: float


class InterestPage(Shown):
    """One interest.

    ``newest`` goes by the column ``newest_by``; both are empty where no column tells the age of items.
    """

    interest: int
    name: str
    items: int
    traffic: int
    typical: list[Item]
    newest_by: str | None
    newest: list[Newest]
    categories: list[CategoryShare]
    neighbours: list[Neighbour]


class Event(Item):
    """An item of a history and the interest it belongs to, None for models without interests."""

    interest: int | None


class Belief(Shown):
    """An interest of a user: its posterior, whether the history holds it, and how it was used.

    ``role`` is ``"read"`` where it brought candidates, ``"explored"`` where it did so as exploration, else None.
    """

    interest: int
    name: str
    probability: float
    known: bool
    role: str | None


class Candidate(Item):
    """A candidate and what brought it; ``entered`` where the model's own settings would not have shown it."""

    rank: int
    score: float
    interest: int | None
    probability: float | None
    propensity: float | None
    explored: bool
    entered: bool


class UserPage(Shown):
    """One user under some settings.

    ``posterior`` is that of every interest in order of code; ``beliefs`` are the likeliest, the most
    frequent of the history and those that brought candidates, by falling probability, and ``rest`` is the posterior of
    all others. ``left`` are candidates of the model's own settings that are gone.
    """

    settings: Settings
    history: list[Event]
    unknown: list[str]
    names: dict[int, str]
    posterior: list[float]
    beliefs: list[Belief]
    rest: float
    candidates: list[Candidate]
    left: list[Candidate]


class GenerationHealth(Shown):
    """The codebook of one generation, and how it differs from the one before.

    ``perplexity`` is the effective number of cells. Of the items that both generations hold (``shared``), ``moved``
    is the share whose code differs, and ``regrouped`` the share that lies apart from its old company even when every
    old cell takes the name of the new cell that holds most of it. ``problem`` says why there are no figures.
    """

    generation: int
    model: str | None = None
    items: int = 0
    cells: int = 0
    dead: int = 0
    largest: int = 0
    perplexity: float | None = None
    sizes: list[int] = []
    shared: int | None = None
    moved: float | None = None
    regrouped: float | None = None
    problem: str | None = None


class CodebookHealth(Shown):
    """Generations, oldest first; ``earlier`` are older ones that are not shown."""

    current: int
    generations: list[GenerationHealth]
    earlier: int


ModelFacts.model_rebuild()
