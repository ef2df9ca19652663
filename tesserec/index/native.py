"""The optional C kernels: each ``.c`` file beside this one, compiled once by the system's compiler into the user's
cache and loaded through ctypes.

Without a compiler, without AVX-512 VNNI, on any failure, or with ``TESSEREC_NATIVE=0`` in the environment, the Numba
kernel of the same work answers instead, with the same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

_FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
_log = logging.getLogger(__name__)


@cache
def native(file: str, function: str, arguments: str) -> Callable[..., int] | None:
    """A function of one of the C files, which gives an int64; None where it cannot be had.

    Parameters
    ----------
    file
        Name of the source without ``.c``. It defines ``int32_t tesserec_supported(void)``, whether this processor runs
        the rest.
    arguments
        Kind of each argument: ``p`` an address, ``i`` an int64, ``d`` a double; spaces are ignored.
    """
    if os.environ.get("TESSEREC_NATIVE", "1") == "0":
        return None
    try:
        library = ctypes.CDLL(str(_compiled(Path(__file__).with_name(f"{file}.c"))))
        if not library.tesserec_supported():
            _log.info("this processor does not run the C kernel %s; Numba answers", file)
            return None
        found: Any = getattr(library, function)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _log.info("the C kernel %s is not available (%s); Numba answers", file, error)
        return None
    found.restype, found.argtypes = ctypes.c_int64, [_TYPES[kind] for kind in arguments if kind != " "]
    return found  # type: ignore[no-any-return]


def address(array: Any) -> int:
    """Where a contiguous array begins, as an argument of kind ``p``."""
    return int(array.ctypes.data)


def _compiled(source: Path) -> Path:
    """The library, named after what it was made from; made under another name and moved into place."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    parts = source, source.with_name("sets.h")
    name = hashlib.sha256(b"".join(part.read_bytes() for part in parts) + " ".join(_FLAGS).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tesserec"
    library = cache / f"{source.stem}-{name}.so"
    if library.exists():
        return library
    if compiler is None:
        raise OSError("no C compiler found")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "made.so"
        command = [compiler, *_FLAGS, "-o", str(made), str(source)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        os.replace(made, library)
    return library
