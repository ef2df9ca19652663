"""The served artefact: immutable generations of a model under one root, published whole and checked when opened.

``ROOT/generation-000042/`` holds one model: user side, postings, catalogue, names, and a manifest with the size and
hash of every file. ``ROOT/CURRENT`` names the newest and is replaced last, so a reader finds the old generation or
the new one, whatever happens to the publisher. A reader stays on the generation that it opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from typing_extensions import Self

from tesserec.errors import ArtefactError, ConfigError
from tesserec.files import MANIFEST, open_directory, read_json, seal, sync, write_atomic, write_json
from tesserec.index.calibration import Calibration
from tesserec.index.catalogue import Catalogue
from tesserec.index.changes import Changes
from tesserec.index.contract import Policy
from tesserec.index.postings import VectorPostings, open_postings
from tesserec.index.searcher import Searcher
from tesserec.index.user_side import open_user_side

KIND = "generation"
_CURRENT = "CURRENT"
_NAME = re.compile(r"generation-(\d{6,})")
_RESERVED = {"kind", "format", "tesserec", "files", "checksum"}


def publish(
    root: Path,
    searcher: Searcher,
    write_user_side: Callable[[Path], object],
    facts: dict[str, Any],
    files: Sequence[Path] = (),
) -> Path:
    """Publish a model as the next generation under ``root``.

    Publishers of one root wait for each other. Nothing is visible before the generation is complete, has been opened
    once as a reader opens it, and is on the disk.

    Parameters
    ----------
    searcher
        Catalogue, postings and policy of the model.
    write_user_side
        Writes ``user_side.json`` and what belongs to it into the directory that it is given.
    facts
        What the manifest says besides: model, configuration, seed, dataset fingerprint.
    files
        Further files to keep with the generation, such as weights and codebook.

    Returns
    -------
    Path
        The directory of the new generation.

    Raises
    ------
    ArtefactError
        If the parts do not fit each other, or something other than a generation has the next name.
    """
    root = Path(root).absolute()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        return publish_whole(root, searcher, write_user_side, facts, files)


def publish_whole(
    root: Path,
    searcher: Searcher,
    write_user_side: Callable[[Path], object],
    facts: dict[str, Any],
    files: Sequence[Path] = (),
) -> Path:
    """See :func:`publish`; for a publisher that holds the lock of ``root``, since what it publishes was read there."""
    return publish_locked(
        root,
        facts,
        write=lambda folder: _write(folder, searcher, write_user_side, files),
        check=lambda folder: _open_parts(folder, facts).postings.verify(),
    )


def publish_locked(
    root: Path, facts: dict[str, Any], *, write: Callable[[Path], object], check: Callable[[Path], object]
) -> Path:
    """The next generation by a publisher that holds the lock of ``root``; see :func:`publish`.

    Parameters
    ----------
    write
        Fills the directory that it is given.
    check
        Opens the sealed directory as a reader does; nothing is published if it raises.
    """
    if clash := _RESERVED & facts.keys():
        raise ConfigError(f"facts name {sorted(clash)}, which the manifest uses itself; rename them")
    with _filling(root) as folder:
        write(folder)
        seal(folder, KIND, facts)
        for path in folder.rglob("*"):
            if path.is_dir():
                sync(path)
        sync(folder)
        check(folder)
        target = root / f"generation-{max([0, *generations(root)]) + 1:06d}"
        os.rename(folder, target)
        sync(root)
        write_atomic(root / _CURRENT, f"{target.name}\n".encode())
    return target


def rollback(root: Path, to: int | None = None) -> Path:
    """Make an older generation the current one again; newer ones stay, and the next gets a number of its own.

    Parameters
    ----------
    to
        Number of the generation, by default the one before the current.

    Raises
    ------
    ArtefactError
        If there is no such generation, or it is damaged; the current one then stays.
    """
    root = Path(root).absolute()
    current = int(current_name(root).removeprefix("generation-"))
    with locked(root):
        older = [number for number in generations(root) if number < current]
        if to is None and not older:
            raise ArtefactError(f"{root} holds no generation before {current}; there is nothing to go back to")
        bundle = Bundle.open(root, older[-1] if to is None else to)
        bundle.verify()
        write_atomic(root / _CURRENT, f"{bundle.path.name}\n".encode())
    return bundle.path


def generations(root: Path) -> list[int]:
    """Numbers of the published generations, rising."""
    matches = (_NAME.fullmatch(path.name) for path in Path(root).glob("generation-*"))
    return sorted(int(match[1]) for match in matches if match)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the publishers' lock; the system releases it when the process ends, however it ends."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _filling(root: Path) -> Iterator[Path]:
    """An empty temporary directory; under the lock, what an earlier publisher left half-done can go."""
    for leftover in root.glob(".generation.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = root / f".generation.{os.getpid()}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, searcher: Searcher, write_user_side: Callable[[Path], object], files: Sequence[Path]) -> None:
    write_user_side(folder)
    (folder / "postings").mkdir()
    searcher.postings.save(folder / "postings")
    searcher.catalogue.save(folder)
    if searcher.names is not None:
        searcher.names.write_parquet(folder / "names.parquet")
    config: dict[str, Any] = {"policy": asdict(searcher.policy)}
    if searcher.calibration is not None:
        config["calibration"] = searcher.calibration.to_json()
    write_json(folder / "config.json", config)
    for file in files:
        shutil.copyfile(file, folder / Path(file).name)


def _open_parts(folder: Path, facts: dict[str, Any], threads: int = 1) -> Searcher:
    """The searcher of a directory whose files are known to be whole."""
    config = read_json(folder / "config.json")
    try:
        policy = Policy(**config["policy"])
        calibration = Calibration.from_json(config["calibration"]) if "calibration" in config else None
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ArtefactError(f"{folder / 'config.json'} does not hold a policy ({error}); publish again") from None
    catalogue = Catalogue.open(folder)
    postings = open_postings(folder / "postings")
    vectors_of = postings.vectors_of if isinstance(postings, VectorPostings) else None
    side = open_user_side(folder, vectors_of, threads)
    for name in ("codes", "dim", "size"):
        held, expected = getattr(side, name, None), getattr(postings, name, None)
        if None not in (held, expected) and held != expected:
            raise ArtefactError(
                f"{folder / 'user_side.json'} has {name} {held}, the postings have {expected}; "
                "they come from different models, publish again"
            )
    try:
        return Searcher(catalogue, side, postings, policy, _names(folder), facts, calibration)
    except ConfigError as error:
        raise ArtefactError(f"{folder} is a mixture of models ({error}); publish again") from None


def _facts(path: Path) -> dict[str, Any]:
    manifest = open_directory(path, KIND, check="ends")
    return {key: value for key, value in manifest.items() if key not in ("files", "checksum")}


def _checksum(base: Path) -> str | None:
    manifest = read_json(base / MANIFEST)
    return manifest.get("checksum") if isinstance(manifest, dict) else None


def _open_base(base: Path, facts: dict[str, Any], threads: int) -> Searcher:
    """The generation that changes lie on."""
    if not _NAME.fullmatch(base.name) or not base.is_dir():
        raise ArtefactError(f"{base} is missing, and changes lie on it; copy it too, or go back to a whole generation")
    own = _facts(base)
    if "base" in own or _checksum(base) != facts["base_checksum"]:
        raise ArtefactError(f"{base} is not the generation that the changes were made for; publish again")
    return _open_parts(base, own, threads)


def _names(folder: Path) -> pl.DataFrame | None:
    path = folder / "names.parquet"
    if not path.exists():
        return None
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise ArtefactError(f"{path} cannot be read ({error}); publish again") from None


@dataclass(frozen=True, eq=False)
class Bundle:
    """One opened generation; needs no PyTorch and may be shared by threads.

    Attributes
    ----------
    path
        Directory of the generation.
    generation
        Its number.
    facts
        What its manifest says of the model: name, configuration, seed, dataset fingerprint, versions.
    searcher
        What answers.
    base
        What was published with postings of its own: the generation itself, or the one that its changes lie on.
    base_searcher
        What answers there.
    """

    path: Path
    generation: int
    facts: dict[str, Any]
    searcher: Searcher
    base: Path
    base_searcher: Searcher

    @classmethod
    def open(cls, root: Path, generation: int | None = None, *, threads: int = 1, beside: Bundle | None = None) -> Self:
        """Open the current generation under ``root``, or a given one.

        Parameters
        ----------
        root
            Directory that :func:`publish` was given.
        generation
            Number of an older generation.
        threads
            Threads of the user side's network.
        beside
            An opened generation of the same root, whose base is shared where it is the same.

        Raises
        ------
        ArtefactError
            If there is no such generation, or a file of it is missing, cut, changed or foreign; names the file.
        """
        root = Path(root)
        name = current_name(root) if generation is None else f"generation-{generation:06d}"
        path = root / name
        if not path.is_dir():
            raise ArtefactError(f"{path} is missing; {root} holds the generations {generations(root) or 'none'}")
        facts = _facts(path)
        match = _NAME.fullmatch(name)
        assert match is not None
        number = int(match[1])
        if "base" not in facts:
            searcher = _open_parts(path, facts, threads)
            return cls(path, number, facts, searcher, path, searcher)
        base = root / str(facts["base"])
        if beside is not None and beside.base == base and _checksum(base) == facts["base_checksum"]:
            under = beside.base_searcher
        else:
            under = _open_base(base, facts, threads)
        return cls(path, number, facts, Changes.open(path).on(under, facts), base, under)

    @property
    def base_checksum(self) -> str | None:
        """Tells the base from any other."""
        return _checksum(self.base)

    def verify(self, *, known: Bundle | None = None) -> None:
        """Read every byte of the generation; opening reads the ends of each file only.

        Parameters
        ----------
        known
            A verified generation; the base is not read again where this one lies on the same.

        Raises
        ------
        ArtefactError
            Names the file that does not hold what was published.
        """
        open_directory(self.path, KIND)
        if known is None or known.base_searcher is not self.base_searcher:
            if self.base != self.path:
                open_directory(self.base, KIND)
            self.base_searcher.postings.verify()

    def recommend(self, histories: Sequence[Sequence[Any]], k: int = 20, **policy: Any) -> pl.DataFrame:
        """See :meth:`tesserec.index.searcher.Searcher.recommend`."""
        return self.searcher.recommend(histories, k, **policy)

    def interests(self, histories: Sequence[Sequence[Any]], k: int = 10) -> pl.DataFrame:
        """See :meth:`tesserec.index.searcher.Searcher.interests`."""
        return self.searcher.interests(histories, k)

    def similar_items(self, items: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """See :meth:`tesserec.index.searcher.Searcher.similar_items`."""
        return self.searcher.similar_items(items, k)


def current_name(root: Path) -> str:
    """Name of the generation in use; a root that holds none is refused."""
    try:
        name = (root / _CURRENT).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtefactError(f"{root} holds no published generation; publish one with `tesserec index`") from None
    except UnicodeDecodeError:
        name = "something that is not text"
    if not _NAME.fullmatch(name):
        raise ArtefactError(f"{root / _CURRENT} holds {name[:40]!r}; expected a name such as 'generation-000001'")
    return name
