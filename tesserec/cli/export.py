"""``tesserec export``: a bundle's postings in an engine that users already run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tesserec.cli.shell import Interrupted, existing, print_json, say
from tesserec.errors import UserError

if TYPE_CHECKING:
    from tesserec.adapters.engine import Engine

ENGINES = ("faiss", "qdrant", "milvus")


def export(
    bundles: Annotated[Path, typer.Argument(help="What `tesserec index` wrote.", metavar="BUNDLES")],
    to: Annotated[str, typer.Option("--to", help="'faiss', 'qdrant' or 'milvus'.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the Faiss index; or, for a try without a server, a directory of Qdrant's local mode or "
            "a file of Milvus Lite (.db).",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of a Qdrant or Milvus server, http://...", show_default=False)
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Name of the collection in Qdrant or Milvus.", show_default="tesserec")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="API key or token of the server.", envvar="TESSEREC_ENGINE_KEY", show_default=False),
    ] = None,
    generation: Annotated[
        int | None, typer.Option(help="Number of an older generation.", show_default="the current one")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another bundle or generation left there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Put a bundle's items into Faiss, Qdrant or Milvus, to be searched there with the bundle's own user side.

    An upload that was broken off goes on where it stopped when the same command runs again; one that is whole is left
    as it is. Give each generation a collection of its own, and a service can change over without a gap.

    [bold]Examples[/bold]

        tesserec export bundles --to faiss --out shop.faiss

        tesserec export bundles --to qdrant --url http://localhost:6333 --collection shop_7

        tesserec export bundles --to milvus --url http://localhost:19530 --collection shop_7 --json

        tesserec export bundles --to milvus --out shop.db
    """
    from tesserec.adapters.export import export as fill
    from tesserec.index.bundle import Bundle

    if to not in ENGINES:
        raise UserError(f"--to {to!r} is not an engine; choose {', '.join(ENGINES)}")
    bundle = Bundle.open(existing(bundles, "a bundle root that `tesserec index` wrote"), generation)
    engine = _engine(to, out, url, collection, key)
    try:
        with _progress() as progress:
            contents = fill(bundle, engine, overwrite=overwrite, progress=progress)
    except KeyboardInterrupt:
        kept = "nothing was written" if to == "faiss" else "what was sent stays there"
        raise Interrupted(f"stopped, {kept}; run the same command again to go on") from None
    if as_json:
        print_json({"engine": to, "place": engine.place, **contents.to_json()})
        return
    say(f"{engine.place} holds {contents.rows} items of {bundle.path}")


def _engine(to: str, out: Path | None, url: str | None, collection: str | None, key: str | None) -> Engine:
    """The engine that the options name."""
    if to == "faiss":
        if out is None or url is not None or collection is not None:
            raise UserError("a Faiss index is a directory; give --out, without --url and --collection")
        from tesserec.adapters.faiss import FaissEngine

        return FaissEngine(out)
    if (out is None) == (url is None):
        raise UserError(f"give {to} either --url of a server, or --out for a try on this machine")
    if url is not None and "://" not in url:
        raise UserError(f"--url {url!r} is not an address; expected something like http://localhost:6333")
    named = {} if collection is None else {"collection": collection}
    if to == "qdrant":
        from tesserec.adapters.qdrant import QdrantEngine

        return QdrantEngine.connect(url or str(out), key=key, **named)
    from tesserec.adapters.milvus import MilvusEngine

    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback of what is reported in one line
    return MilvusEngine.connect(url or str(out), key=key, **named)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr that a call with the rows done and all rows moves."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("items", total=None)
        yield lambda done, everything: bar.update(task, completed=done, total=everything)
