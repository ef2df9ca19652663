"""What a shell sees: one clear line for each error with its exit code, pure JSON on stdout, tables for people."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from tesserec.errors import TesserecError, UserError


class Interrupted(TesserecError):
    """The user pressed Ctrl-C; the message says what is kept and how to go on."""

    exit_code = 130


class Commands(TyperGroup):
    """A group whose commands end in one line on stderr instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; deliberate errors, Ctrl-C and failures of the system become an exit code."""
        try:
            return super().invoke(ctx)
        except (TesserecError, KeyboardInterrupt, OSError, MemoryError) as error:
            if isinstance(error, BrokenPipeError) or ctx.params.get("debug"):
                raise
            message, code = explain(error)
            Console(stderr=True, soft_wrap=True).print("error:", style="bold red", end=" ")
            print(message, file=sys.stderr)
            raise typer.Exit(code) from None


def explain(error: BaseException) -> tuple[str, int]:
    """The line and the exit code that stand for an error."""
    if isinstance(error, TesserecError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written is left", Interrupted.exit_code
    if isinstance(error, MemoryError):
        return f"not enough memory ({error}); close other programs or use a smaller input", 1
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        advice = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
        return f"{place}{error.strerror or error}{advice}", 2 if isinstance(error, FileNotFoundError) else 1
    raise error


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr, so that stdout holds results only."""
    Console(stderr=True, soft_wrap=True).print(message, highlight=False)


def print_json(value: Any) -> None:
    """Pure JSON on stdout; numbers that are not finite become null."""
    print(json.dumps(_finite(value), ensure_ascii=False, indent=2, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; columns whose name begins with ``>`` are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A file or a pipe has no width of its own, and wrapped cells are hard to search.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def parse_ks(text: str) -> list[int]:
    """Cut-offs as typed, such as ``10,20,50``."""
    try:
        ks = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"-k {text!r} is not a list of whole numbers, such as 10,20,50") from None
    if min(ks) < 1:
        raise UserError(f"-k {text!r} holds {min(ks)}; every k must be at least 1")
    return ks


def pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    """``name=value`` options as a dictionary."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise UserError(f"{option} {text!r} is not of the form {example}")
        found[name] = value
    return found


def existing(path: Path, what: str) -> Path:
    """The path, if there is something at it."""
    if not path.exists():
        raise UserError(f"{path} does not exist; expected {what}")
    return path
