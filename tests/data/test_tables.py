"""Every source gives the same table, and every broken one a message that names it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tesserec.data.tables import read_table
from tesserec.errors import DataError

FRAME = pl.DataFrame({"user": ["a", "b", "c"], "item": [3, 1, 2], "time": [1.5, 2.5, 3.5]})


def _write(frame: pl.DataFrame, path: Path) -> Path:
    if path.suffix in (".csv", ".tsv"):
        frame.write_csv(path, separator="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_ipc(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".arrow", ".feather"])
def test_files_folders_lists_and_patterns(suffix: str, tmp_path: Path) -> None:
    expected = FRAME.cast(pl.String) if suffix in (".csv", ".tsv") else FRAME
    whole = _write(FRAME, tmp_path / f"all{suffix}")
    folder = tmp_path / "folder"
    folder.mkdir()
    files = [_write(FRAME[n : n + 1], folder / f"part-{n}{suffix}") for n in range(3)]
    (folder / "_SUCCESS").touch()
    (folder / f".hidden{suffix}").touch()
    for source in (whole, str(whole), folder, files, str(folder / f"part-*{suffix}")):
        assert_frame_equal(read_table(source).collect(), expected)


def test_gzipped_csv(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(FRAME.write_csv().encode()))
    assert_frame_equal(read_table(path).collect(), FRAME.cast(pl.String))


@pytest.mark.parametrize("make", [lambda f: f, lambda f: f.lazy(), lambda f: f.to_pandas(), lambda f: f.to_arrow()])
def test_objects(make) -> None:
    assert_frame_equal(read_table(make(FRAME)).collect(), FRAME)


def test_polars_needs_no_pyarrow_or_pandas(tmp_path: Path) -> None:
    path = _write(FRAME, tmp_path / "log.parquet")
    snippet = (
        "import sys; sys.modules['pyarrow'] = sys.modules['pandas'] = None; "
        "from tesserec.data.tables import read_table; "
        "t = read_table(sys.argv[1]).collect(); read_table(t); read_table(t.lazy())"
    )
    subprocess.run([sys.executable, "-c", snippet, str(path)], check=True)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet does not exist"):
        read_table(tmp_path / "none.parquet")


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"log\.xlsx ends in '\.xlsx'; expected one of \.parquet"):
        read_table(tmp_path / "log.xlsx")
    with pytest.raises(DataError, match="holds no table"):
        read_table(tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".arrow"])
def test_empty_file_and_no_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"log{suffix}"
    path.touch()
    with pytest.raises(DataError, match=rf"log{suffix} is empty"):
        read_table(path)
    _write(FRAME.clear(), path)
    with pytest.raises(DataError, match=rf"log{suffix} holds no rows"):
        read_table(path)


def test_empty_frame() -> None:
    with pytest.raises(DataError, match="the polars DataFrame holds no rows"):
        read_table(FRAME.clear())


@pytest.mark.parametrize("cut", [1, 11, 0.5, -1])
def test_truncated_parquet_among_good_ones(cut: float, tmp_path: Path) -> None:
    good, bad = _write(FRAME, tmp_path / "a.parquet"), _write(FRAME, tmp_path / "b.parquet")
    content = bad.read_bytes()
    bad.write_bytes(content[: int(len(content) * cut) if isinstance(cut, float) else cut])
    with pytest.raises(DataError, match=r"b\.parquet cannot be read"):
        read_table([good, bad])


def test_damaged_page_is_named_when_read(tmp_path: Path) -> None:
    good, bad = _write(FRAME, tmp_path / "a.parquet"), tmp_path / "b.parquet"
    FRAME.write_parquet(bad, compression="zstd")
    content = bytearray(bad.read_bytes())
    content[4:60] = bytes(56)
    bad.write_bytes(content)
    with pytest.raises(DataError, match=r"b\.parquet cannot be read"):
        read_table([good, bad]).collect()


def test_files_that_differ(tmp_path: Path) -> None:
    first = _write(FRAME, tmp_path / "a.parquet")
    second = _write(FRAME.rename({"item": "thing"}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet has the columns .*'thing'"):
        read_table([first, second])
    _write(FRAME.with_columns(pl.col("item").cast(pl.String)), second)
    with pytest.raises(DataError, match=r"b\.parquet, column 'item' is String, but Int64"):
        read_table([first, second])
    with pytest.raises(DataError, match=r"mixes formats: \.csv, \.parquet"):
        read_table([first, _write(FRAME, tmp_path / "c.csv")])


def test_broken_csv(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text('user,item\na,1\nb,2,3,4\n"c,1\n')
    with pytest.raises(DataError, match=r"log\.csv cannot be read"):
        read_table(path).collect()


def test_mixed_types_in_pandas() -> None:
    frame = pd.DataFrame({"user": ["a", "b", 3], "item": [1, 2, 3]})
    with pytest.raises(DataError, match="column 'user', row 3: 3 is int, but the column began with str"):
        read_table(frame)
    frame.columns = ["x", "x"]
    with pytest.raises(DataError, match="repeated column names"):
        read_table(frame)


def test_a_lazy_frame_that_fails() -> None:
    with pytest.raises(DataError, match=r"the polars LazyFrame cannot be read: .*none"):
        read_table(FRAME.lazy().select("none"))


def test_not_a_table() -> None:
    with pytest.raises(DataError, match="cannot be made of 'int'"):
        read_table(3)
