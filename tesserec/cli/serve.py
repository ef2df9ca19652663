"""``tesserec serve``: a bundle behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tesserec.cli.bundles import Root
from tesserec.cli.shell import existing, say


def serve(
    bundles: Root,
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="Processes, best one a core; all map the same files.")] = 1,
    threads: Annotated[int, typer.Option(help="Searches at once in a process.")] = 2,
    state: Annotated[
        str | None,
        typer.Option(
            help="Where events are kept: a file (SQLite), or redis://HOST:PORT/0. Without it none are.",
            show_default=False,
        ),
    ] = None,
    retention: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Forget events after so many days.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the bearer token of writes; else TESSEREC_TOKEN is read.", show_default=False),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody write and ask about stored users.")] = False,
    candidate_log: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Log what is recommended, as JSON lines.", show_default=False),
    ] = None,
    queue: Annotated[int, typer.Option(help="Searches in work or waiting in a worker before 429 is answered.")] = 32,
    explorer: Annotated[bool, typer.Option(help="Serve the page that shows what the model believes.")] = True,
) -> None:
    """Serve the newest generation of a bundle over HTTP; a new one is picked up while requests go on.

    [bold]Examples[/bold]

        tesserec serve bundles

        TESSEREC_TOKEN=... tesserec serve bundles --workers 2 --state events.sqlite --retention 90

    The API describes itself at /openapi.json. A request: curl http://127.0.0.1:8080/v1/recommend
    -H 'content-type: application/json' -d '{"history": ["i00012", "i00345"], "k": 10}'
    """
    from tesserec.index.bundle import Bundle
    from tesserec.serving.server import serve as run
    from tesserec.serving.settings import Settings, read_token

    token = None if no_auth else read_token(token_file)
    settings = Settings(
        bundles=str(existing(bundles, "a bundle root that `tesserec index` wrote").absolute()),
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        queue=queue,
        state=state,
        retention=retention,
        candidate_log=None if candidate_log is None else str(candidate_log.absolute()),
        token=token,
        open_to_all=no_auth,
        explorer=explorer,
    )
    generation = Bundle.open(bundles).generation
    rights = "everybody may write" if no_auth else "writes need the token" if token else "without a token no writes"
    say(f"serving generation {generation} of {bundles} at http://{host}:{port} with {workers} worker(s); {rights}")
    run(settings)
