"""Every error that tesserec raises on purpose, with the exit code it gives a shell."""

import contextlib
from collections.abc import Iterator, Sequence

TRAIN_EXTRA = ("torch", "onnx", "onnxscript", "scipy")


class TesserecError(Exception):
    """Base of all deliberate errors; the message says what was seen, what was expected and what to do."""

    exit_code = 1


class UserError(TesserecError, ValueError):
    """Something the caller handed in cannot be used (exit code 2)."""

    exit_code = 2


class DataError(UserError):
    """A table, a column, a row or an id is not usable; names the file, the column and the first bad row."""


class ConfigError(UserError):
    """A setting, a recipe key or a combination of settings is refused."""


class ArtefactError(UserError):
    """A dataset, run or bundle on disk is damaged, mixed, foreign or of a newer format; names the file."""


class MissingExtra(UserError):
    """An optional dependency is not installed; names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed; run: pip install 'tesserec[{extra}]'")


@contextlib.contextmanager
def needs_extra(extra: str, packages: Sequence[str], purpose: str) -> Iterator[None]:
    """Name the extra where ``purpose`` fails for want of one of its packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name not in packages:
            raise
        raise MissingExtra(error.name, extra, purpose) from None


def train_extra(purpose: str) -> contextlib.AbstractContextManager[None]:
    """Name the ``train`` extra where ``purpose`` fails for want of one of its packages."""
    return needs_extra("train", TRAIN_EXTRA, purpose)


class EngineError(TesserecError):
    """An engine outside tesserec cannot be reached or refuses; says which, and what it answered."""


class TrainingRefused(TesserecError):
    """A training run was stopped because its result would be worthless; names the reason (exit code 3)."""

    exit_code = 3
