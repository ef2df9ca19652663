"""The candidate log: what was given and how likely that was, without users, rotated, never in the way."""

import json
import stat

from tesserec.serving.candidate_log import CandidateLog
from tests.serving.conftest import client_of


def rows_of(folder):
    return [json.loads(line) for file in sorted(folder.iterdir()) for line in file.read_text().splitlines()]


def test_rows_hold_what_was_answered_and_nobody(network, tmp_path):
    folder = tmp_path / "log"
    with client_of(network, candidate_log=str(folder), state=str(tmp_path / "events.sqlite")) as client:
        client.post("/v1/events", {"id": "1", "user": "secret", "item": "i1"})
        one = client.post("/v1/recommend", {"user": "secret", "k": 3, "policy": {"explore": 0.4}}).json()
        two = client.post("/v1/recommend/batch", {"histories": [["i2"], ["i3"]], "k": 2}).json()
    rows = rows_of(folder)
    assert [(row["request"], row["user"]) for row in rows] == [
        (one["request"], 0),
        (two["request"], 0),
        (two["request"], 1),
    ]
    assert rows[0]["candidates"] == one["candidates"]
    assert rows[2]["candidates"] == two["users"][1]["candidates"]
    assert rows[0]["policy"]["explore"] == 0.4
    assert rows[0]["generation"] == 1
    assert "secret" not in json.dumps(rows)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())


def test_it_is_off_by_default(network, tmp_path):
    with client_of(network) as client:
        assert client.service.log is None


def test_full_files_are_rotated_and_old_ones_go(tmp_path):
    log = CandidateLog(tmp_path / "log", lambda: None, size=300, files=2)
    for number in range(60):
        log.write({"number": number})
    log.close()
    files = list((tmp_path / "log").iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 300 for file in files)
    assert 59 in [row["number"] for row in rows_of(tmp_path / "log")]


def test_a_log_that_cannot_be_written_is_counted_and_nothing_else(tmp_path):
    failed = []
    log = CandidateLog(tmp_path / "log", lambda: failed.append(1), size=10)
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    (tmp_path / "log").rmdir()
    log.write({"number": 1})
    log.write({"number": 2})
    log.close()
    assert failed
