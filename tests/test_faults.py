"""The fault injector itself: it reaches every write, and it notices a writer that is not safe."""

from pathlib import Path

import pytest

from tests.faults import sweep

SAFE = "from tesserec.files import write_atomic"
CHECK = "assert (root / 'a.txt').read_bytes() in (b'old', b'new')"


def test_atomic_writer_survives_every_kill(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")
    seen = sweep(setup=SAFE, action="write_atomic(root / 'a.txt', b'new')", check=CHECK, root=tmp_path)
    assert seen.faults == 4  # open, fsync, replace, fsync of the folder


def test_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")
    seen = sweep(setup=SAFE, action="write_atomic(root / 'a.txt', b'new')", check=CHECK, root=tmp_path, fault="full")
    assert seen.messages
    assert all("No space left" in message for message in seen.messages)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt"}


def test_careless_writer_is_caught(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"old")
    careless = "import os\nwith open(root / 'a.txt', 'wb') as f: os.fsync(f.fileno()); f.write(b'new')"
    with pytest.raises(AssertionError, match="check failed after a fault at operation 2"):
        sweep(setup="", action=careless, check=CHECK, root=tmp_path)
