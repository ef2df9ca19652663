"""What the service keeps: answers of one generation while generations change, events when killed; and its install."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from service_world import PATH, TOKEN, Server, bundle, quantiles, serving

ROOT = Path(__file__).parent.parent


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
