"""Flat arrays of a bundle: little-endian ``.npy`` files beside a small JSON that says of what kind they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tesserec.errors import ArtefactError
from tesserec.files import read_json

FACTS = "postings.json"


def save_arrays(directory: Path, kind: str, facts: dict[str, Any], **arrays: NDArray[Any]) -> None:
    """Write postings of a kind into an existing directory."""
    (directory / FACTS).write_text(json.dumps({"kind": kind, **facts}, indent=2) + "\n")
    for name, array in arrays.items():
        np.save(directory / f"{name}.npy", np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")))


def facts_of(directory: Path) -> dict[str, Any]:
    """What :func:`save_arrays` was told of the arrays, with their ``kind``."""
    facts = read_json(directory / FACTS)
    if not isinstance(facts, dict) or "kind" not in facts:
        raise ArtefactError(f"{directory / FACTS} does not describe postings; publish again")
    return facts


def number_of(directory: Path, name: str) -> float:
    """A number of :func:`facts_of`."""
    value = facts_of(directory).get(name)
    if not isinstance(value, (int, float)):
        raise ArtefactError(f"{directory / FACTS} has {name} = {value!r}; publish the bundle again")
    return float(value)


def map_array(path: Path, dtype: str, dims: int) -> NDArray[Any]:
    """Map an array from a ``.npy`` file of a bundle; refuses one that is missing, damaged or of another type."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; publish the bundle again") from None
    except (ValueError, EOFError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read ({error}); publish the bundle again") from None
    if array.dtype != np.dtype(dtype) or array.ndim != dims:
        raise ArtefactError(f"{path} holds {array.dtype} of {array.ndim} dimensions; expected {dtype} of {dims}")
    return array


def check_rows(path: Path, array: NDArray[Any], rows: int, sibling: str = "items.npy") -> None:
    """Refuse an array of another length than its sibling."""
    if len(array) != rows:
        raise ArtefactError(f"{path} has {len(array)} rows, {sibling} has {rows}; publish the bundle again")


def check_offsets(path: Path, offsets: NDArray[np.int64], end: int) -> None:
    """Refuse offsets that do not divide ``end`` rows into lists."""
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
        raise ArtefactError(f"{path} does not divide {end} rows into lists; publish the bundle again")
