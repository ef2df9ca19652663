"""Both event stores do the same, and neither loses what it has acknowledged."""

import contextlib
import json
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tesserec.errors import ArtefactError, MissingExtra, UserError
from tesserec.serving.state import DAY, StoredEvent, now, open_store
from tests.faults import ROOT
from tests.serving.conftest import free_port, wait_for


@pytest.fixture(scope="session")
def redis_address(tmp_path_factory):
    """A real Redis server of this machine."""
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("no redis-server found; Debian's package is called redis-server")
    pytest.importorskip("redis", reason="needs the extra redis")
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    server = subprocess.Popen([*command, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: _listens(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(params=["sqlite", "redis"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "events.sqlite")
    address = request.getfixturevalue("redis_address")
    import redis

    with contextlib.closing(redis.Redis.from_url(address)) as server:
        server.flushall()
    return address


@contextlib.contextmanager
def opened(address, retention=None):
    store = open_store(address, retention)
    try:
        yield store
    finally:
        store.close()


def event(user, name, item, time=None):
    return StoredEvent(user, name, json.dumps(item), now() if time is None else time)


def test_events_come_back_in_order_once_and_with_their_types(address):
    with opened(address) as store:
        events = [event("u", "3", 7, 30), event("u", "1", "7", 10), event("u", "2", 2.5, 20), event("v", "1", "x", 5)]
        assert store.add(events).result() == 4
        assert store.history("u", 10) == ["7", 2.5, 7]
        assert store.history("u", 2) == [2.5, 7]
        assert store.history("v", 10) == ["x"]
        assert store.history("nobody", 10) == []
        again = [event("u", "1", "other", 99), event("u", "4", "new", 40), event("u", "4", "new", 40)]
        assert store.add(again).result() == 1
        assert store.history("u", 10) == ["7", 2.5, 7, "new"]
        assert store.add([]).result() == 0


def test_equal_times_go_by_id(address):
    with opened(address) as store:
        store.add([event("u", name, name, 10) for name in "cab"]).result()
        assert store.history("u", 10) == ["a", "b", "c"]


def test_a_deleted_user_is_gone_and_others_stay(address):
    with opened(address) as store:
        store.add([event("u", str(n), n) for n in range(5)] + [event("v", "1", 1)]).result()
        assert store.delete("u") == 5
        assert store.delete("u") == 0
        assert store.history("u", 10) == []
        assert store.history("v", 10) == [1]
        assert store.add([event("u", "1", "again")]).result() == 1


def test_old_events_are_not_shown_and_then_deleted(address):
    with opened(address, retention=1.0) as store:
        store.add([event("u", "old", "o", now() - 2 * DAY), event("u", "new", "n"), event("w", "1", "o", 5)]).result()
        assert store.history("u", 10) == ["n"]
        assert store.prune() == 2
        assert store.prune() == 0
    with opened(address) as store:
        assert store.history("u", 10) == ["n"]


def test_odd_names_are_only_names(address):
    with opened(address) as store:
        for user in ("a}b", "{", "' OR 1=1 --", "ü\n*", "x\x00y", "tesserec:*"):
            store.add([event(user, "1", user)]).result()
        for user in ("a}b", "{", "' OR 1=1 --", "ü\n*", "x\x00y", "tesserec:*"):
            assert store.history(user, 5) == [user]


def test_events_survive_closing(address):
    with opened(address) as store:
        store.add([event("u", "1", "i")]).result()
    with opened(address) as store:
        assert store.history("u", 5) == ["i"]


def test_two_processes_worth_of_stores_share_the_events(address):
    with opened(address) as one, opened(address) as two:
        assert one.add([event("u", "1", "a", 1)]).result() == 1
        assert two.history("u", 5) == ["a"]
        assert two.add([event("u", "1", "a", 1), event("u", "2", "b", 2)]).result() == 1
        assert one.history("u", 5) == ["a", "b"]


def test_many_threads_lose_nothing(address):
    with opened(address) as store:
        counts = []

        def write(number):
            added = [store.add([event("u", f"{number}-{n}", n, n), event("u", f"x{n}", n, n)]) for n in range(40)]
            counts.append(sum(one.result() for one in added))

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(counts) == 4 * 40 + 40
        assert len(store.history("u", 1000)) == 200


_events = st.lists(
    st.tuples(st.sampled_from("uv"), st.sampled_from("abcdef"), st.integers(0, 9), st.integers(0, 5)), max_size=30
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=_events, deleted=st.sampled_from(["", "u", "v"]), limit=st.integers(1, 7))
def test_any_events_are_as_in_a_dictionary(address, events, deleted, limit):
    with opened(address) as store:
        for user in "uv":
            store.delete(user)
        kept = {}
        for user, name, item, moment in events:
            kept.setdefault((user, name), (moment, name, item))
        assert store.add([event(*one) for one in events]).result() == len(kept)
        if deleted:
            assert store.delete(deleted) == sum(user == deleted for user, _ in kept)
        for user in "uv":
            rows = sorted(value for (owner, _), value in kept.items() if owner == user and user != deleted)
            assert store.history(user, limit) == [item for _, _, item in rows][-limit:]


def test_who_asks_no_more_stops_no_writer(tmp_path):
    other = sqlite3.connect(tmp_path / "events.sqlite", isolation_level=None)
    with opened(str(tmp_path / "events.sqlite")) as store, contextlib.closing(other):
        other.execute("BEGIN IMMEDIATE")
        begun = store.add([event("u", "1", "a")])
        wait_for(begun.running)
        waiting = store.add([event("u", "2", "b")])
        assert not begun.cancel()
        assert waiting.cancel()
        other.execute("COMMIT")
        assert store.add([event("u", "3", "c")]).result(10) == 1
        assert store.history("u", 9) == ["a", "c"]


def test_the_file_is_private_and_deleted_data_is_overwritten(tmp_path):
    path = tmp_path / "events.sqlite"
    with opened(str(path)) as store:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        store.add([event("u", "1", "a-very-particular-item")]).result()
        files = [path, path.with_name(f"{path.name}-wal")]
        assert any(b"a-very-particular-item" in file.read_bytes() for file in files)
        store.delete("u")
        assert not any(b"a-very-particular-item" in file.read_bytes() for file in files)


def test_foreign_files_are_refused_and_left_alone(tmp_path):
    (text := tmp_path / "text").write_text("these are not the events you are looking for " * 99)
    with pytest.raises(ArtefactError, match="text cannot be used as an event store"):
        open_store(str(text), None)
    assert text.read_text().startswith("these")
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE things (name TEXT)")
        connection.commit()
    with pytest.raises(ArtefactError, match="format 0"):
        open_store(str(tmp_path / "other"), None)
    with pytest.raises(ArtefactError, match="cannot be used"):
        open_store(str(tmp_path), None)


def test_a_failed_transaction_is_no_acknowledgement(tmp_path):
    with opened(str(tmp_path / "events.sqlite")) as store:
        good, bad = store.add([event("u", "1", "i")]), store.add([StoredEvent("u", "2", None, 5)])  # type: ignore[arg-type]
        assert good.exception() is None or bad.exception() is not None
        kept = store.history("u", 5)
        assert kept == (["i"] if good.exception() is None else [])
        assert store.add([event("u", "3", "later")]).result() == 1


def test_a_server_that_is_not_there_is_named(redis_address):
    with pytest.raises(UserError, match="does not answer"):
        open_store(f"redis://127.0.0.1:{free_port()}/0", None)


def test_redis_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtra, match=r"tesserec\[redis\]"):
        open_store("redis://127.0.0.1:1/0", None)


WRITER = """
import sys, itertools
from tesserec.serving.state import StoredEvent, open_store, now
store = open_store(sys.argv[1], None)
for n in itertools.count(int(sys.argv[2])):
    waiting = [store.add([StoredEvent("u", f"{n}-{part}", "1", n)]) for part in range(3)]
    for part, one in enumerate(waiting):
        one.result()
        print(f"{n}-{part}", flush=True)
"""


def test_a_killed_writer_loses_no_acknowledged_event(tmp_path):
    path = str(tmp_path / "events.sqlite")
    acknowledged = []
    for turn in range(5):
        command = [sys.executable, "-c", WRITER, path, str(turn * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
            acknowledged.append(writer.stdout.readline())
            time.sleep(0.02 * turn)
            writer.kill()
            acknowledged += writer.stdout.readlines()
    names = {line.strip() for line in acknowledged if line.endswith("\n")}
    assert len(names) > 5
    with opened(path), contextlib.closing(sqlite3.connect(path)) as connection:
        assert names <= {name for (name,) in connection.execute("SELECT id FROM events")}
