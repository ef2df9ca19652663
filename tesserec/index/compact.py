"""One byte a component beside the exact vectors, to find quickly which items are worth an exact score.

A vector is rounded to ``scale * int8``. With ``e`` the largest length of what rounding takes from an item, ``f`` that
of a query and ``L`` the longest vector, a rounded dot product is within ``|q| e + f (L + e)`` of the true one
(Cauchy-Schwarz), so who drops only what lies more than twice that below the k-th best drops no answer.

A small C kernel, compiled where a compiler is at hand and kept in the user's cache, uses the byte instructions of
recent processors; the Numba kernel beside it does the same work everywhere. ``TESSEREC_NO_C=1`` turns the former off.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tesserec.index.kernels import Floats, kernel
from tesserec.index.topk import frozen

LANES = 16
MOST_INTERESTS = 32
Bytes = NDArray[np.int8]
Ints = NDArray[np.int64]
_SOURCE = Path(__file__).with_name("dots.c")


class CompactVectors(NamedTuple):
    """Rounded vectors in blocks of 16.

    Attributes
    ----------
    blocks
        int8 ``(blocks, groups, 16, 4)``: group ``g`` of a block holds components ``4 g`` to ``4 g + 3`` of 16 vectors.
    scales
        What a byte is worth, float32 ``(blocks * 16,)``.
    error
        The largest Euclidean length of what rounding took from a vector.
    longest
        The largest length of a vector.
    """

    blocks: Bytes
    scales: Floats
    error: float
    longest: float


class Rounded(NamedTuple):
    """Queries of a user: int8 ``(interests, 4 * groups)``, scales ``(interests,)``, and how far a score can be off."""

    queries: Bytes
    scales: Floats
    error: float


def compact(vectors: Floats, longest: float) -> CompactVectors:
    """Round vectors ``(n, dim)``, block by block."""
    n, dim = vectors.shape
    groups, blocks = -(-dim // 4), -(-n // LANES)
    out = np.zeros((blocks, groups, LANES, 4), np.int8)
    scales, error = np.zeros(blocks * LANES, np.float32), 0.0
    for start in range(0, n, 1 << 16):
        part = vectors[start : start + (1 << 16)]
        bytes_, factors, lost = _round(part)
        scales[start : start + len(part)], error = factors, max(error, lost)
        padded = np.zeros((-(-len(part) // LANES) * LANES, groups * 4), np.int8)
        padded[: len(part), :dim] = bytes_
        blocked = padded.reshape(-1, LANES, groups, 4).transpose(0, 2, 1, 3)
        out[start // LANES : start // LANES + len(blocked)] = blocked
    return CompactVectors(frozen(out), frozen(scales), error, longest)


def round_queries(queries: Floats, table: CompactVectors) -> Rounded:
    """Round the queries ``(interests, dim)`` of a user."""
    bytes_, scales, lost = _round(queries)
    padded = np.zeros((len(queries), 4 * table.blocks.shape[1]), np.int8)
    padded[:, : queries.shape[1]] = bytes_
    longest = float(np.sqrt(np.einsum("ij,ij->i", queries, queries).max(initial=0.0)))
    return Rounded(padded, scales, longest * table.error + lost * (table.longest + table.error))


def _round(vectors: Floats) -> tuple[Bytes, Floats, float]:
    scales = (np.abs(vectors).max(axis=1, initial=0.0) / 127).astype(np.float32)
    bytes_ = np.rint(vectors / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)
    lost = vectors - bytes_ * scales[:, None]
    # Room for the rounding of this very computation.
    return bytes_, scales, 1.001 * float(np.sqrt(np.einsum("ij,ij->i", lost, lost).max(initial=0.0))) + 1e-30


def best_scores(
    table: CompactVectors, rounded: Rounded, added: Floats, starts: Ints, stops: Ints, out: Floats, *, in_c: bool = True
) -> None:
    """Write for the vectors of some cells, one after the other, the best ``rounded score + added`` over the interests.

    Parameters
    ----------
    added
        float32 ``(interests,)``, at most 32.
    starts, stops
        The rows of each cell, int64 ``(cells,)``.
    """
    if (stops - starts).sum() > len(out):
        raise ValueError(f"{(stops - starts).sum()} scores do not fit into {len(out)} places")
    function = _compiled() if in_c else None
    if function is None:
        _scores_of_cells(table.blocks, table.scales, rounded.queries, rounded.scales, added, starts, stops, out)
        return
    arrays = (table.blocks, table.scales, rounded.queries, rounded.scales, added, starts, stops, out)
    blocks, scales, queries, factors, plus, first, last, result = (array.ctypes.data for array in arrays)
    function(
        blocks, scales, table.blocks.shape[1], queries, factors, plus, len(added), first, last, len(starts), result
    )


@kernel
def _scores_of_cells(
    blocks: Bytes,
    scales: Floats,
    queries: Bytes,
    factors: Floats,
    added: Floats,
    starts: Ints,
    stops: Ints,
    out: Floats,
) -> None:
    groups = blocks.shape[1]
    wide = queries.astype(np.int32)
    total = np.empty(16, np.int32)
    best = np.empty(16, np.float32)
    at = 0
    for cell in range(len(starts)):
        i = starts[cell]
        while i < stops[cell]:
            block = i // 16
            best[:] = np.float32(-3e38)
            for q in range(len(wide)):
                total[:] = 0
                for g in range(groups):
                    for j in range(16):
                        for b in range(4):
                            total[j] += wide[q, 4 * g + b] * np.int32(blocks[block, g, j, b])
                for j in range(16):
                    score = np.float32(total[j]) * scales[block * 16 + j] * factors[q] + added[q]
                    best[j] = max(best[j], score)
            end = min((block + 1) * 16, stops[cell])
            while i < end:
                out[at] = best[i % 16]
                at += 1
                i += 1


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., None] | None:
    """The C kernel; None where there is no compiler, no place for it, or it is not wanted."""
    if os.environ.get("TESSEREC_NO_C"):
        return None
    try:
        library = ctypes.CDLL(str(_library()))
    except (OSError, subprocess.SubprocessError):
        return None
    function: Any = library.scores_of_cells
    pointer, number = ctypes.c_void_p, ctypes.c_int
    function.argtypes = [pointer, pointer, number, pointer, pointer, pointer, number, pointer, pointer, number, pointer]
    function.restype = None
    return function  # type: ignore[no-any-return]


def _library() -> Path:
    """The shared library for this source and processor, compiled once."""
    flags = next((line for line in _cpu_info().splitlines() if line.startswith("flags")), platform.processor())
    name = hashlib.sha256(_SOURCE.read_bytes() + platform.machine().encode() + flags.encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tesserec"
    target = folder / f"dots-{name}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / "dots.so"
            command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(made), str(_SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            os.replace(made, target)
    return target


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
