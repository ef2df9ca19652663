"""Fault injection: run a piece of Python again and again, and break it at each of its writes in turn.

``sweep`` starts one helper process that runs ``setup`` once (imports; nothing that starts threads), then, for
``n = 1, 2, ...``, forks a child that runs ``action`` with the ``n``-th file operation under ``root`` broken, and
another child that runs ``check``. What a child imports, its successors find imported. The sweep ends with the first
``action`` that finishes without meeting its fault.

File operations that count: opening for writing, mkdir, fsync, rename, replace, link, unlink, rmdir and truncate.
Writes made by native code (polars, safetensors) do not pass through Python; they lie between two counted operations.

Faults:

``kill``
    The process dies at once, as by SIGKILL, before the operation; the next fault kills before the next operation.
``full``
    From the ``n``-th operation on, the disk is full: opening for writing, mkdir, fsync and truncate raise ENOSPC;
    renaming and removing still work.
    A child that then fails is expected to say why: its traceback is appended to :attr:`Sweep.messages`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

KILLED = 86
ROOT = Path(__file__).parent.parent
GROWING = ("mkdir", "fsync", "truncate")
OTHERS = ("rename", "replace", "link", "symlink", "unlink", "remove", "rmdir")


@dataclass(frozen=True)
class Sweep:
    """What a sweep did: how many operations were broken, and what the action said each time (``full`` only)."""

    faults: int
    messages: list[str]


def sweep(*, setup: str, action: str, check: str, root: Path, fault: str = "kill", timeout: float = 120) -> Sweep:
    """Break ``action`` at each of its file operations under ``root``; after each, ``check`` must pass.

    Parameters
    ----------
    setup, action, check
        Python source. ``action`` and ``check`` see the names that ``setup`` defined, and ``root`` (a ``Path``).
    root
        Only operations on paths below it count.
    fault
        ``"kill"`` or ``"full"``.
    timeout
        Seconds for the whole sweep.

    Raises
    ------
    AssertionError
        With the number of the operation and the traceback, if ``check`` fails after some fault, or the action fails
        for another reason than the fault.
    """
    spec = {"setup": setup, "action": action, "check": check, "root": str(Path(root).resolve()), "fault": fault}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, f"fault sweep failed:\n{done.stdout}\n{done.stderr}"
    return Sweep(**json.loads(done.stdout.splitlines()[-1]))


class _Breaker:
    """Counts file operations below ``root`` and breaks them from the ``n``-th on."""

    leave: Callable[[int], NoReturn]

    def __init__(self, root: str, n: int, fault: str) -> None:
        self.root, self.n, self.fault, self.seen, self.pid = root, n, fault, 0, os.getpid()

    def install(self) -> None:
        for name in (*GROWING, *OTHERS):
            setattr(os, name, self._wrap(getattr(os, name), grows=name in GROWING))
        opened = self._wrap_open(builtins.open)
        builtins.open = io.open = opened  # type: ignore[assignment]

    def _hit(self, target: Any, grows: bool) -> None:
        if os.getpid() != self.pid or not self._below(target):
            return
        self.seen += 1
        if self.seen < self.n:
            return
        if self.fault == "kill":
            self.leave(KILLED)
        if grows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    def _below(self, target: Any) -> bool:
        if isinstance(target, int):
            target = os.readlink(f"/proc/self/fd/{target}")
        return os.path.realpath(os.fsdecode(target)).startswith(self.root)

    def _wrap(self, function: Any, grows: bool) -> Any:
        def broken(target: Any, *args: Any, **kwargs: Any) -> Any:
            directory = kwargs.get("dir_fd")
            path = target if directory is None else f"{os.readlink(f'/proc/self/fd/{directory}')}/{os.fsdecode(target)}"
            self._hit(path, grows)
            return function(target, *args, **kwargs)

        return broken

    def _wrap_open(self, function: Any) -> Any:
        def broken(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if set(mode) & set("wax+"):
                self._hit(file, grows=True)
            return function(file, mode, *args, **kwargs)

        return broken


def _child(source: str, names: dict[str, Any], breaker: _Breaker | None) -> tuple[int, str]:
    """Run ``source`` in a fork; its exit status and, when it raised, the traceback. Its imports are made here, too."""
    reader, writer = os.pipe()
    known = set(sys.modules)
    pid = os.fork()
    if pid == 0:
        os.close(reader)

        def leave(status: int, message: str = "") -> NoReturn:
            imported = [name for name in sys.modules if name not in known]
            left = json.dumps([message, imported]).encode()
            while left:
                left = left[os.write(writer, left) :]
            os._exit(status)

        try:
            if breaker is not None:
                breaker.pid, breaker.leave = os.getpid(), leave
                breaker.install()
            exec(compile(source, "<action>", "exec"), names)
            status, message = 0 if breaker is None or breaker.seen < breaker.n else 2, ""
        except BaseException:
            status, message = 1, traceback.format_exc()
        leave(status, message)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    message, imported = json.loads(said) if said else ("", [])
    for name in imported:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), message


def _main() -> None:
    spec = json.loads(sys.stdin.read())
    names: dict[str, Any] = {"root": Path(spec["root"])}
    exec(compile(spec["setup"], "<setup>", "exec"), names)
    messages: list[str] = []
    gc.freeze()  # else every child would copy all that lives here, to look through it
    n = 0
    while True:
        n += 1
        status, message = _child(spec["action"], names, _Breaker(spec["root"], n, spec["fault"]))
        full = spec["fault"] == "full" and "No space left on device" in message
        if status not in (0, 2, KILLED) and not full:
            raise SystemExit(f"action failed at operation {n} (status {status}):\n{message}")
        messages += [message] if message else []
        checked, complaint = _child(spec["check"], names, None)
        if checked != 0:
            raise SystemExit(f"check failed after a fault at operation {n} (status {checked}):\n{complaint}\n{message}")
        if status == 0:
            break
    print(json.dumps({"faults": n - 1, "messages": messages}))


if __name__ == "__main__":
    _main()
