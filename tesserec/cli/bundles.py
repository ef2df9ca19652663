"""``tesserec index``, ``rollback``, ``recommend``, ``interests``: from a run to a bundle, from a bundle to answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tesserec.cli.shell import existing, print_json, print_table, say
from tesserec.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from tesserec.index.bundle import Bundle
    from tesserec.index.searcher import Searcher

Root = Annotated[Path, typer.Argument(help="What `tesserec index` wrote.", metavar="BUNDLES")]
Typed = Annotated[
    str | None, typer.Option("--history", help="Item ids, oldest first, separated by commas.", show_default=False)
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--history-id", metavar="ID", help="One item id that may hold commas; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def index(
    run: Annotated[Path, typer.Argument(help="What `tesserec train` wrote.")],
    out: Annotated[Path, typer.Option(help="Bundle root; each call adds a generation.", show_default=False)],
    dataset: Annotated[Path | None, typer.Option(help="The run's dataset, if it was moved.")] = None,
) -> None:
    """Publish a run as the next generation of a bundle: immutable, checked by hashes, answered without PyTorch.

    [bold]Example[/bold]

        tesserec index runs/sparc --out bundles
    """
    from tesserec.index.bundle import Bundle
    from tesserec.runs import has_dataset, index_run, load_run

    path = existing(run, "a run that `tesserec train` wrote")
    say(f"published {index_run(path, out, dataset)}")
    if dataset is None and not has_dataset(load_run(path)) and Bundle.open(out).searcher.has_interests:
        say("its dataset is not where it was, so recall targets are not calibrated; say with --dataset where it is")


def recommend(
    bundles: Root,
    history: Typed = None,
    history_id: Ids = None,
    k: Annotated[int, typer.Option("-k", help="How many candidates.")] = 20,
    explore: Annotated[
        float | None, typer.Option(help="Share of the list for interests outside the history, 0 to 1.")
    ] = None,
    visit: Annotated[
        float | None, typer.Option(help="Posterior mass of the cells to search, 0 to 1; 1 is exact.")
    ] = None,
    interests: Annotated[int | None, typer.Option(help="How many interests to read.")] = None,
    merge: Annotated[
        str | None,
        typer.Option(help="How their lists become one: 'max' of scores, 'probability' of items, or 'quota' of places."),
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="How quotas divide places: by the 'posterior' of interests, or 'equal'.")
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(help="Which are read: the likeliest of the 'posterior', or the usual ones of the 'history'."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Flattens (above 1) or sharpens the posterior that interests are chosen by.")
    ] = None,
    known: Annotated[
        float | None,
        typer.Option(
            help="Weight of interests that the history touches; below 1, more of the list is new to the user."
        ),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Exploit only the likeliest interests that hold this share, up to 1.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw interests at random; the same seed and history draw the same.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="With --seed: draws that propensities are estimated from; 0 for none.")
    ] = None,
    new_share: Annotated[
        float | None, typer.Option(help="Share of the list kept for items without an event in training, 0 to 1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Candidates for a history of item ids, each with the interest that brought it.

    [bold]Examples[/bold]

        tesserec recommend bundles --history i00012,i00345 -k 10

        tesserec recommend bundles --history i00012,i00345 --explore 0.2 --json

        tesserec recommend bundles --history i00012,i00345 --known 0.5

        tesserec recommend bundles --history i00012,i00345 --temperature 2 --seed 7

    What no option says is as the model would have it.
    """
    bundle, searcher, ids, unknown = _ask(bundles, history, history_id)
    if k > len(searcher.catalogue):
        raise UserError(f"-k {k} is more than the {len(searcher.catalogue)} items of the catalogue; ask for fewer")
    policy: dict[str, Any] = {"interests": interests, "merge": merge, "shares": shares, "select": select}
    policy |= {"temperature": temperature, "known": known, "top_p": top_p, "seed": seed, "repeats": repeats}
    policy |= {"new_share": new_share}
    candidates = searcher.recommend([ids], k, explore=explore, visit=visit, **policy)
    if candidates.is_empty():
        raise UserError("there is no candidate; the history holds all that could be recommended")
    named = named_interests(searcher, ids, candidates["interest"].drop_nulls().unique().to_list())
    titles = titles_of(searcher)
    if as_json:
        rows = candidates.drop("user", "rank").to_dicts()
        if titles is not None:
            rows = [{**row, "title": titles[row["item"]]} for row in rows]
        facts = {"generation": bundle.path.name, "model": searcher.facts.get("model")}
        print_json({"candidates": rows, "interests": named, "unknown": unknown, **facts})
        return
    _mention(unknown)
    print_candidates(candidates, named, titles)


def interests(
    bundles: Root,
    history: Typed = None,
    history_id: Ids = None,
    k: Annotated[int, typer.Option("-k", help="How many interests.")] = 10,
    as_json: Json = False,
) -> None:
    """The likeliest interests of a history, named by their typical items, with their probabilities.

    [bold]Example[/bold]

        tesserec interests bundles --history i00012,i00345
    """
    bundle, searcher, ids, unknown = _ask(bundles, history, history_id)
    rows = searcher.interests([ids], k).drop("user", "rank").to_dicts()
    if as_json:
        facts = {"generation": bundle.path.name, "model": searcher.facts.get("model")}
        print_json({"interests": rows, "unknown": unknown, **facts})
        return
    _mention(unknown)
    print_interests(rows)


def rollback(
    bundles: Root,
    to: Annotated[
        int | None, typer.Option(help="Number of a generation; by default the one before.", show_default=False)
    ] = None,
) -> None:
    """Make an older generation the current one; a service over the bundle takes it up by itself.

    [bold]Examples[/bold]

        tesserec rollback bundles

        tesserec rollback bundles --to 3
    """
    from tesserec.index.bundle import rollback as go_back

    say(f"current is {go_back(existing(bundles, 'a bundle root that `tesserec index` wrote'), to)}")


def named_interests(searcher: Searcher, ids: list[Any], codes: list[int]) -> list[dict[str, Any]]:
    """The given interests of a history, the likeliest first; none for models without interests."""
    from tesserec.index.postings import VectorPostings

    if not searcher.has_interests or not isinstance(searcher.postings, VectorPostings):
        return []
    rows = searcher.interests([ids], searcher.postings.cells).drop("user", "rank").to_dicts()
    return [row for row in rows if row["interest"] in codes]


def titles_of(searcher: Searcher) -> dict[Any, str] | None:
    """Title of each item id, or None where the items have no titles of their own."""
    catalogue = searcher.catalogue
    if not any(catalogue.roles.get(name) == "text" for name in ("title", "name")):
        return None
    return dict(zip(catalogue.items.values.to_list(), catalogue.titles.to_list(), strict=True))


def print_candidates(
    candidates: pl.DataFrame, interests: list[dict[str, Any]], titles: dict[Any, str] | None, title: str | None = None
) -> None:
    """A table of one user's candidates; exploration and new items are marked."""
    names = {one["interest"]: one["name"] for one in interests}
    columns = [">rank", "item", *(["title"] if titles is not None else []), ">score"]
    columns += ["interest", ">probability", "explored"] if names else []
    some_new = candidates["new"].any()
    columns += ["new"] if some_new else []
    rows = []
    for row in candidates.to_dicts():
        cells = [str(row["rank"]), str(row["item"]), *([titles[row["item"]]] if titles is not None else [])]
        cells.append(f"{row['score']:.3f}")
        if names:
            cells += [names[row["interest"]], f"{row['probability']:.3f}", "explored" if row["explored"] else ""]
        cells += ["new" if row["new"] else ""] if some_new else []
        rows.append(cells)
    print_table(columns, rows, title)


def print_interests(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """A table of one user's interests."""
    columns = [">interest", "name", ">probability", "in the history"]
    cells = [
        [str(one["interest"]), one["name"], f"{one['probability']:.3f}", "yes" if one["known"] else ""] for one in rows
    ]
    print_table(columns, cells, title)


def _ask(
    root: Path, history: str | None, history_id: list[str] | None
) -> tuple[Bundle, Searcher, list[Any], list[Any]]:
    """The bundle, its searcher, the history in the type of its ids, and the ids that it does not know."""
    from tesserec.index.bundle import Bundle

    texts = [part.strip() for part in (history or "").split(",") if part.strip()] + list(history_id or ())
    if not texts:
        raise UserError("the history is empty; give item ids with --history ID,ID,...")
    bundle = Bundle.open(existing(root, "a bundle root that `tesserec index` wrote"))
    searcher = bundle.searcher
    ids = [searcher.catalogue.items.parse(text) for text in texts]
    return bundle, searcher, ids, searcher.encode([ids])[1]


def _mention(unknown: list[Any]) -> None:
    if unknown:
        say(f"not in the catalogue, left out: {', '.join(map(str, unknown))}")
