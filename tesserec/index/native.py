"""The optional C kernel: compiled once by the system's compiler into the user's cache, loaded through ctypes.

Without a compiler, without AVX-512 VNNI, on any failure, or with ``TESSEREC_NATIVE=0`` in the environment, the Numba
kernel of :mod:`tesserec.index.scan` answers instead, with the same results.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_name("scan.c")
_FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def native_scan() -> Any | None:
    """The function ``tesserec_scan`` of ``scan.c``, or None where it cannot be had."""
    if os.environ.get("TESSEREC_NATIVE", "1") == "0":
        return None
    try:
        library = ctypes.CDLL(str(_compiled()))
        if not library.tesserec_supported():
            _log.info("this processor has no AVX-512 VNNI; the Numba kernel searches")
            return None
        scan = library.tesserec_scan
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _log.info("the C kernel is not available (%s); the Numba kernel searches", error)
        return None
    pointers: list[Any] = [ctypes.c_void_p]
    numbers: list[Any] = [ctypes.c_int64]
    scan.restype = ctypes.c_int64
    scan.argtypes = pointers * 6 + numbers * 2 + pointers * 6 + numbers + (pointers + numbers) * 4
    scan.argtypes += pointers * 3 + numbers
    return scan


def _compiled() -> Path:
    """The library, named after what it was made from; made under another name and moved into place."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    name = hashlib.sha256(_SOURCE.read_bytes() + " ".join(_FLAGS).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tesserec"
    library = cache / f"scan-{name}.so"
    if library.exists():
        return library
    if compiler is None:
        raise OSError("no C compiler found")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "scan.so"
        command = [compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        os.replace(made, library)
    return library
