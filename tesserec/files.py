"""Durable files: whole directories appear at once or not at all, and every byte is accounted for.

A directory that tesserec writes (dataset, model, bundle generation) is filled under a temporary sibling name,
sealed with a ``manifest.json`` that holds the size and SHA-256 of each file, synced, and renamed into place.
Opening it checks the manifest, so a torn, swapped or foreign file is refused by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tesserec.errors import ArtefactError, UserError

FORMATS = {"dataset": 1, "model": 1, "generation": 3}
"""Newest format of each kind of directory, 1 for others; the one that is written and the only one that is read."""
MANIFEST = "manifest.json"
_END = 1 << 16
Check = Literal["all", "ends", "size"]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_ends(path: Path) -> str:
    """Hex SHA-256 of the first and the last 64 KiB: tells files apart in a time that does not grow with them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(file.tell(), path.stat().st_size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Force a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, content: bytes) -> None:
    """Replace one file by ``content``; a reader sees the old or the new bytes, never a mixture."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, sorted and indented so that it can be read and compared."""
    write_atomic(path, (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; a missing or torn file is an :class:`ArtefactError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; the directory is incomplete, write it again") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is not valid JSON ({error}); the file is damaged, write it again") from None


@contextlib.contextmanager
def publish_directory(path: Path, kind: str, facts: dict[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """Fill a directory under a temporary name and publish it at ``path`` when the block ends well.

    Parameters
    ----------
    path
        Final directory.
    kind
        What it holds (``"dataset"``, ``"model"``, ``"generation"``); checked by :func:`open_directory`.
    facts
        Further manifest entries; may be filled inside the block.
    overwrite
        Replace an existing directory of the same kind. Otherwise an existing ``path`` is refused.

    Raises
    ------
    UserError
        If ``path`` exists and may not be replaced.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; choose another name or allow it to be overwritten")
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and _kind(path) != kind)):
        raise UserError(f"{path} exists and is not a tesserec {kind}; it is left alone, choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        seal(temporary, kind, facts)
        _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _kind(path: Path) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    return str(manifest["kind"]) if isinstance(manifest, dict) and "kind" in manifest else None


def _move_into_place(temporary: Path, path: Path) -> None:
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.rename(path, retired)
    try:
        os.rename(temporary, path)
    except OSError:
        if retired.exists():
            os.rename(retired, path)
        raise
    try:
        sync(path.parent)
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def seal(directory: Path, kind: str, facts: dict[str, Any]) -> None:
    """Sync every file and write the manifest that vouches for them."""
    from tesserec import __version__

    files = {}
    for file in sorted(p for p in directory.rglob("*") if p.is_file() and p.name != MANIFEST):
        sync(file)
        files[file.relative_to(directory).as_posix()] = {
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
            "ends": _sha256_ends(file),
        }
    manifest = {"kind": kind, "format": FORMATS.get(kind, 1), "tesserec": __version__, "files": files, **facts}
    write_json(directory / MANIFEST, manifest | {"checksum": _checksum(manifest)})


def _checksum(manifest: dict[str, Any]) -> str:
    """Hash of a manifest as it reads after a round trip through JSON, its checksum left out."""
    content = json.loads(json.dumps({key: manifest[key] for key in manifest if key != "checksum"}, default=str))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_directory(path: Path, kind: str, *, check: Check = "all") -> dict[str, Any]:
    """Return the manifest of a sealed directory after checking that each file is the one that was written.

    Parameters
    ----------
    check
        How much of each file is read: ``"all"``; both ``"ends"``, 64 KiB each, which tells a cut, swapped or foreign
        file but not a flipped byte in the middle of a long one; or nothing, its ``"size"`` alone.

    Raises
    ------
    ArtefactError
        Names the directory or file that is missing, cut, changed, of another kind or of a newer format.
    """
    path = Path(path)
    if not path.is_dir():
        retired = next(path.absolute().parent.glob(f".{path.name}.*.old"), None)
        advice = f"; to replace it was interrupted, and what it was is {retired}, to be renamed" if retired else ""
        raise ArtefactError(f"{path} is not a directory; expected a tesserec {kind}{advice}")
    if not (path / MANIFEST).exists():
        advice = f"did you mean {path / kind}?" if (path / kind).is_dir() else "name one, or write it again"
        raise ArtefactError(f"{path} is no whole tesserec {kind}, {MANIFEST} is missing; {advice}")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        seen = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtefactError(f"{path} is a tesserec {seen!r}; expected a {kind!r}")
    if manifest.get("format") != (known := FORMATS.get(kind, 1)):
        raise ArtefactError(
            f"{path} has format {manifest.get('format')!r}, this version reads {known}; "
            "install the tesserec that wrote it or write it again"
        )
    if manifest.get("checksum") != _checksum(manifest):
        raise ArtefactError(f"{path / MANIFEST} does not hold what was written; copy it again or rebuild the {kind}")
    for name, facts in manifest["files"].items():
        _check_file(path, name, facts, check)
    return manifest


def _check_file(directory: Path, name: str, facts: dict[str, Any], check: Check) -> None:
    file = directory / name
    if file.is_symlink() or not file.resolve().is_relative_to(directory.resolve()):
        raise ArtefactError(f"{file} leads out of its directory; links are refused")
    if not file.is_file():
        raise ArtefactError(f"{file} is missing; copy the whole directory again or rebuild it")
    if (size := file.stat().st_size) != facts["bytes"]:
        raise ArtefactError(f"{file} has {size} bytes, expected {facts['bytes']}; copy it again or rebuild it")
    if check == "size":
        return
    by_ends = check == "ends" and "ends" in facts  # directories sealed by 0.1 have no hash of the ends
    if (_sha256_ends(file) != facts["ends"]) if by_ends else (sha256(file) != facts["sha256"]):
        raise ArtefactError(f"{file} does not hold what was written; copy it again or rebuild it")
