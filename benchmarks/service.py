"""The service under load, swaps and kills, on this machine, over loopback.

    python benchmarks/service.py load [--seconds 600] [--rate 200] [--items 1000000]
    python benchmarks/service.py overhead | overload | swaps [--count 100] | kills [--count 50] | install

Each command writes its part of ``benchmarks/results/service.json`` and leaves the others. The bundle has no trained
model behind it: clustered vectors in cells and a user side of two small graphs (``workers/synthetic.py``); it is kept
under ``--work`` and made once. Client and server share the machine's cores. ``load`` sends requests on a timetable and
counts latency from when each was due (``workers/http_load.py``); ``overload`` needs ``wrk``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "service.json"
PATH, K, EVENTS = "/v1/recommend", 20, 20
THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
TOKEN = "a-token-of-the-benchmark"
sys.path.insert(0, str(Path(__file__).parent / "workers"))


def bundle(work: Path, items: int) -> Path:
    """The synthetic bundle, made where it is missing."""
    root = work / f"synthetic-{items}"
    if not (root / "CURRENT").exists():
        from synthetic import publish_synthetic

        publish_synthetic(root, items, max(64, items // 1000))
    return root


def bodies(root: Path, n: int = 500, seed: int = 1) -> list[bytes]:
    """Requests of users who like three cells."""
    from tesserec.index.bundle import Bundle

    searcher, draw = Bundle.open(root).searcher, np.random.default_rng(seed)
    postings: Any = searcher.postings
    histories = []
    for _ in range(n):
        codes = draw.choice(postings.cells, 3, replace=False)
        rows = [draw.integers(postings.offsets[code], postings.offsets[code + 1], EVENTS // 3 + 1) for code in codes]
        items = postings.items[draw.permutation(np.concatenate(rows))[:EVENTS]]
        histories.append(searcher.catalogue.items.decode(items).to_list())
    return [json.dumps({"history": history, "k": K}).encode() for history in histories]


class Server:
    """``tesserec serve`` in processes of its own."""

    def __init__(self, root: Path, *options: object, python: str = sys.executable) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.begun = time.perf_counter()
        command = [python, "-m", "tesserec", "serve", str(root), "--port", str(self.port), *map(str, options)]
        env = {**os.environ, **THREADS, "TESSEREC_TOKEN": TOKEN}
        self.process = subprocess.Popen(command, env=env, cwd=tempfile.gettempdir(), stderr=subprocess.DEVNULL)

    def wait(self) -> float:
        """Seconds from the command to the first answer."""
        while self.get("/readyz")[0] != 200:
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}")
            time.sleep(0.02)
        return time.perf_counter() - self.begun

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body; status 0 where nobody listens."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("authorization", f"Bearer {TOKEN}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""
        except OSError:
            return 0, b""

    def memory(self) -> float:
        """Resident memory of all its processes in MB; files that they map together count in each."""
        parent = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [parent, *parent.children(recursive=True)]) / 1e6

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(60)


@contextlib.contextmanager
def serving(root: Path, *options: object) -> Iterator[Server]:
    """A server that is ready."""
    server = Server(root, *options)
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    p50, p99, p999 = np.percentile(np.asarray(seconds) * 1e3, [50, 99, 99.9]).tolist()
    return {
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "p999_ms": round(p999, 2),
        "max_ms": round(max(seconds) * 1e3, 1),
    }


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Latency at a steady rate, errors, and memory over time."""
    from http_load import open_loop

    root = bundle(args.work, args.items)
    sent = bodies(root)
    with serving(root, "--workers", args.workers) as server:
        asyncio.run(open_loop(server.port, PATH, sent, args.rate, 5))
        memory: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(args.seconds / 10):
                memory.append(round(server.memory()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = asyncio.run(open_loop(server.port, PATH, sent, args.rate, args.seconds))
        ended.set()
        watcher.join()
    statuses = Counter(str(one.status) for one in found)
    return {
        "items": args.items,
        "workers": args.workers,
        "rate": args.rate,
        "seconds": args.seconds,
        "requests": len(found),
        "statuses": dict(statuses),
        **quantiles([one.seconds for one in found]),
        "memory_mb": memory,
        "goal": {"p99_ms": 20, "errors": 0},
    }


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """One request after the other, beside the bare search in this process, in alternating rounds."""
    from http_load import Connection

    from tesserec.data.histories import Histories
    from tesserec.index.bundle import Bundle

    root = bundle(args.work, args.items)
    sent, searcher = bodies(root, 300), Bundle.open(root).searcher
    asked = [json.loads(body)["history"] for body in sent]
    encoded = [searcher.encode([history])[0] for history in asked]

    def bare(histories: Histories) -> float:
        begin = time.perf_counter()
        searcher.retrieve(histories, K)
        return time.perf_counter() - begin

    async def over_http(port: int) -> list[float]:
        connection, times = Connection(port), []
        for body in sent:
            begin = time.perf_counter()
            await connection.post(PATH, body)
            times.append(time.perf_counter() - begin)
        connection.close()
        return times

    searched: list[float] = []
    answered: list[float] = []
    with serving(root) as server:
        for turn in range(6):
            one, two = [bare(histories) for histories in encoded], asyncio.run(over_http(server.port))
            searched, answered = (searched + one, answered + two) if turn else ([], [])
    found = {"search": quantiles(searched), "request": quantiles(answered)}
    extra = found["request"]["p50_ms"] - found["search"]["p50_ms"]
    return {"items": args.items, **found, "overhead_p50_ms": round(extra, 2)}


SCRIPT = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [[{body}]]\n'


def overload(args: argparse.Namespace) -> dict[str, Any]:
    """Many times what the service can do, for a while; then the usual rate again."""
    from http_load import open_loop

    if shutil.which("wrk") is None:
        raise SystemExit("overload needs wrk; on Debian: apt-get install wrk")
    root = bundle(args.work, args.items)
    sent = bodies(root)
    with serving(root, "--workers", args.workers) as server, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.format(body=sent[0].decode()))
        url = f"http://127.0.0.1:{server.port}{PATH}"
        before = counted(server)
        storm = subprocess.Popen(
            ["wrk", "-t1", f"-c{args.connections}", f"-d{args.seconds}s", "-s", str(script), url],
            stdout=subprocess.PIPE,
        )
        time.sleep(1)
        during = asyncio.run(open_loop(server.port, PATH, sent, 20, args.seconds - 3))
        storm.communicate()
        in_all = counted(server) - before
        time.sleep(1)
        after = asyncio.run(open_loop(server.port, PATH, sent, args.rate, 10))
    taken = [one.seconds for one in during if one.status == 200]
    return {
        "items": args.items,
        "workers": args.workers,
        "connections": args.connections,
        "seconds": args.seconds,
        "answers": dict(in_all),
        "during": {"statuses": dict(Counter(str(one.status) for one in during)), **(quantiles(taken) if taken else {})},
        "after": {
            "statuses": dict(Counter(str(one.status) for one in after)),
            **quantiles([one.seconds for one in after]),
        },
    }


def counted(server: Server) -> Counter[str]:
    """Answers of ``/v1/recommend`` so far by status, from the service's own metrics."""
    found: Counter[str] = Counter()
    for line in server.get("/metrics")[1].decode().splitlines():
        if line.startswith("tesserec_requests_total") and f'path="{PATH}"' in line:
            found[line.split('status="')[1].split('"')[0]] += int(float(line.split()[-1]))
    return found


def swaps(args: argparse.Namespace) -> dict[str, Any]:
    """Generations that are published one after the other under load; every answer must be of one of them."""
    from http_load import open_loop
    from synthetic import publish_marked

    root = args.work / "marked"
    shutil.rmtree(root, ignore_errors=True)
    publish_marked(root, 1)
    mixed, seen = [], set()
    done = threading.Event()

    def check(status: int, body: bytes) -> None:
        answer = json.loads(body)
        seen.add(answer.get("generation"))
        if status != 200 or answer["candidates"][0]["item"] != str(answer["generation"]):
            mixed.append(answer)

    def publish() -> None:
        for number in range(2, args.count + 2):
            publish_marked(root, number)
            while not done.wait(0.02) and json.loads(server.get("/v1/version")[1])["served"]["generation"] < number:
                pass
        done.set()

    with serving(root) as server:
        publisher = threading.Thread(target=publish)
        publisher.start()
        memory = [round(server.memory())]
        sent = [json.dumps({"history": ["7"], "k": 5}).encode()]
        found = asyncio.run(open_loop(server.port, PATH, sent, args.rate, 3600, check=check, until=done.is_set))
        publisher.join()
        memory.append(round(server.memory()))
    return {
        "swaps": args.count,
        "generations_seen": len(seen),
        "requests": len(found),
        "statuses": dict(Counter(str(one.status) for one in found)),
        "mixed": len(mixed),
        "memory_mb": memory,
        **quantiles([one.seconds for one in found]),
    }


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """A server killed at random moments while events come in; every acknowledged one must be in the file."""
    from http_load import Connection
    from synthetic import publish_marked

    root, draw = args.work / "killed", np.random.default_rng(0)
    if not (root / "CURRENT").exists():
        publish_marked(root, 1)
    state = args.work / "killed.sqlite"
    for file in args.work.glob("killed.sqlite*"):
        file.unlink()
    acknowledged: set[str] = set()

    async def write(port: int, prefix: str) -> None:
        connection, headers = Connection(port), f"authorization: Bearer {TOKEN}\r\n"
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for number in range(1_000_000):
                event = {"id": f"{prefix}-{number}", "user": f"u{number % 7}", "item": "1"}
                if (await connection.post("/v1/events", json.dumps(event).encode(), headers))[0] == 200:
                    acknowledged.add(event["id"])
        connection.close()

    async def write_all(server: Server, turn: int) -> None:
        writers = [write(server.port, f"{turn}-{one}") for one in range(8)]
        asyncio.get_running_loop().call_later(draw.uniform(0.05, 1.0), server.process.kill)
        await asyncio.gather(*writers)

    for turn in range(args.count):
        server = Server(root, "--state", state)
        server.wait()
        asyncio.run(write_all(server, turn))
        server.stop()
    with contextlib.closing(sqlite3.connect(state)) as connection:
        kept = {name for (name,) in connection.execute("SELECT id FROM events")}
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
    lost = len(acknowledged - kept)
    return {"kills": args.count, "acknowledged": len(acknowledged), "kept": len(kept), "lost": lost, "file": sound}


def install(args: argparse.Namespace) -> dict[str, Any]:
    """The extra ``serve`` in a fresh environment: its size, what it lacks, and its time to the first answer."""
    root = bundle(args.work, args.items)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        empty = megabytes(place)
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", f"{ROOT}[serve]"], check=True)
        listed = subprocess.check_output([place / "bin" / "python", "-m", "pip", "list", "--format", "json"])
        names = {one["name"].lower() for one in json.loads(listed)}
        size, starts = megabytes(place) - empty, []
        for _ in range(3):
            server = Server(root, python=str(place / "bin" / "python"))
            starts.append(round(server.wait(), 2))
            status, _ = server.get("/v1/version")
            server.stop()
    return {
        "items": args.items,
        "packages": len(names),
        "megabytes": round(size),
        "torch": "torch" in names,
        "served": status == 200,
        "first_start_s": starts[0],
        "later_start_s": starts[-1],
    }


def megabytes(folder: Path) -> float:
    """Size of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    one.__name__: one for one in (load, overhead, overload, swaps, kills, install)
}


def main() -> None:
    """Run one command and write its part of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tesserec-service")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=int, default=None, help="600 for load, 20 for overload")
    parser.add_argument("--count", type=int, default=None, help="100 swaps, 50 kills")
    parser.add_argument("--connections", type=int, default=512)
    args = parser.parse_args()
    args.seconds = args.seconds or {"load": 600, "overload": 20}.get(args.command, 0)
    args.count = args.count or {"swaps": 100, "kills": 50}.get(args.command, 0)
    args.work.mkdir(parents=True, exist_ok=True)
    before = os.getloadavg()[0]
    found = COMMANDS[args.command](args)
    found |= {"cores": os.cpu_count(), "load_before": round(before, 1), "python": platform.python_version()}
    found["date"] = date.today().isoformat()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results | {args.command: found}, indent=2, sort_keys=True) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
