"""The service as the benchmarks see it: a synthetic bundle, requests to it, and the server in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PATH, K = "/v1/recommend", 20
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


def histories(root: Path, n: int = 500) -> list[list[str]]:
    """Histories to ask with, as ids; not those that the bundle was calibrated on."""
    from synthetic import histories_of

    from tesserec.index.bundle import Bundle

    searcher = Bundle.open(root).searcher
    postings: Any = searcher.postings
    return [searcher.catalogue.items.decode(row).to_list() for row in histories_of(postings, n, seed=1)]


def bodies(root: Path, n: int = 500, recall: float | None = None) -> list[bytes]:
    """Requests; ``recall`` is the share of the exact list that they ask for, None for all of it."""
    rest: dict[str, Any] = {"k": K} if recall is None else {"k": K, "policy": {"recall": recall}}
    return [json.dumps({"history": history} | rest).encode() for history in histories(root, n)]


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

    def processes(self) -> list[psutil.Process]:
        """The command's process and its workers."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> float:
        """Resident memory of all its processes in MB; files that they map together count in each."""
        return sum(one.memory_info().rss for one in self.processes()) / 1e6

    def busy(self) -> dict[str, float]:
        """Seconds of processor time so far: of the server, of this process, and of all others on the machine."""
        server = sum(sum(one.cpu_times()[:2]) for one in self.processes())
        machine, own = psutil.cpu_times(), sum(os.times()[:2])
        return {"server": server, "client": own, "others": sum(machine) - machine.idle - machine.iowait - server - own}

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


def counted(server: Server) -> Counter[str]:
    """Answers of ``/v1/recommend`` so far by status, from the service's own metrics."""
    found: Counter[str] = Counter()
    for line in server.get("/metrics")[1].decode().splitlines():
        if line.startswith("tesserec_requests_total") and f'path="{PATH}"' in line:
            found[line.split('status="')[1].split('"')[0]] += int(float(line.split()[-1]))
    return found
