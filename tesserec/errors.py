"""Every error that tesserec raises on purpose, with the exit code it gives a shell."""

import contextlib
from collections.abc import Iterator

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
def train_extra(purpose: str) -> Iterator[None]:
    """Name the ``train`` extra where ``purpose`` fails for want of one of its packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in TRAIN_EXTRA:
            raise
        raise MissingExtra(error.name, "train", purpose) from None


class TrainingRefused(TesserecError):
    """A training run was stopped because its result would be worthless; names the reason (exit code 3)."""

    exit_code = 3
