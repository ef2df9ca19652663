"""How fast the service answers: at a steady rate, beside the bare search, and far beyond what it can do."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from service_world import PATH, TOKEN, K, bodies, bundle, counted, histories, quantiles, serving


def load(args: argparse.Namespace) -> dict[str, Any]:
    """Latency at a steady rate, errors, and memory over time."""
    from http_load import open_loop

    root = bundle(args.work, args.items)
    sent = bodies(root, recall=args.recall)
    with serving(root, "--workers", args.workers, "--threads", args.threads) as server:
        asyncio.run(open_loop(server.port, PATH, sent, args.rate, 5))
        memory: list[float] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(args.seconds / 10):
                memory.append(round(server.memory()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = server.busy()
        found = asyncio.run(open_loop(server.port, PATH, sent, args.rate, args.seconds))
        ended.set()
        watcher.join()
        busy = {name: round((now - before[name]) / args.seconds, 2) for name, now in server.busy().items()}
    statuses = Counter(str(one.status) for one in found)
    return {
        "items": args.items,
        "workers": args.workers,
        "threads": args.threads,
        "rate": args.rate,
        "seconds": args.seconds,
        "searches": asked_for(root, args.recall),
        "requests": len(found),
        "statuses": dict(statuses),
        **quantiles([one.seconds for one in found]),
        "cores_busy": busy,
        "memory_mb": memory,
        "goal": {"p99_ms": 20, "errors": 0},
    }


def asked_for(root: Path, recall: float | None) -> dict[str, float]:
    """What the requests ask for, the share of the exact lists that their answers hold, and the cells they visit."""
    from tesserec.index.bundle import Bundle

    searcher = Bundle.open(root).searcher
    users, _ = searcher.encode(histories(root))
    exact = searcher.retrieve(users, K)
    if recall is None:
        return {"recall": 1.0, "cells": round(float(exact.visits.cells.mean()), 1)}
    found = searcher.retrieve(users, K, replace(searcher.policy, recall=recall))
    share = np.mean([np.isin(row, other).mean() for row, other in zip(exact.items, found.items, strict=True)])
    cells = round(float(found.visits.cells.mean()), 1)
    return {"recall_target": recall, "recall": round(float(share), 4), "cells": cells}


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """One request after the other, beside the bare search in this process, in alternating rounds."""
    from http_load import Connection

    from tesserec.data.histories import Histories
    from tesserec.index.bundle import Bundle

    root = bundle(args.work, args.items)
    sent, searcher = bodies(root, 300, args.recall), Bundle.open(root).searcher
    policy = replace(searcher.policy, recall=args.recall)
    encoded = [searcher.encode([history])[0] for history in histories(root, 300)]

    def bare(users: Histories) -> float:
        begin = time.perf_counter()
        searcher.retrieve(users, K, policy)
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
            one, two = [bare(users) for users in encoded], asyncio.run(over_http(server.port))
            searched, answered = (searched + one, answered + two) if turn else ([], [])
    found = {"search": quantiles(searched), "request": quantiles(answered)}
    extra = found["request"]["p50_ms"] - found["search"]["p50_ms"]
    return {"items": args.items, **found, "overhead_p50_ms": round(extra, 2)}


def event(args: argparse.Namespace) -> dict[str, Any]:
    """An event, then a recommendation for its user: the item must be gone from the list at once, as a seen one."""
    from http_load import Connection

    root, headers = bundle(args.work, args.items), f"authorization: Bearer {TOKEN}\r\n"
    stored, answered, late = [], [], 0

    async def one_user(connection: Connection, user: str, item: str, events: int) -> None:
        nonlocal late
        for number in range(events):
            told = json.dumps({"id": str(number), "user": user, "item": item}).encode()
            begin = time.perf_counter()
            status, _ = await connection.post("/v1/events", told, headers)
            middle = time.perf_counter()
            _, body = await connection.post(PATH, json.dumps({"user": user, "k": K}).encode(), headers)
            stored.append(middle - begin)
            answered.append(time.perf_counter() - middle)
            listed = [one["item"] for one in json.loads(body)["candidates"]]
            late += status != 200 or item in listed
            item = listed[0]

    async def all_users(port: int) -> None:
        connection = Connection(port)
        for number, history in enumerate(histories(root, 50)):
            await one_user(connection, f"user {number}", history[0], 10)
        connection.close()

    with tempfile.TemporaryDirectory() as folder, serving(root, "--state", Path(folder) / "events.sqlite") as server:
        asyncio.run(all_users(server.port))
    return {
        "items": args.items,
        "events": len(stored),
        "not_in_the_next_answer": late,
        "event": quantiles(stored),
        "next_answer": quantiles(answered),
    }


SCRIPT = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [[{body}]]\n'


def overload(args: argparse.Namespace) -> dict[str, Any]:
    """Many times what the service can do, for a while; then the usual rate again."""
    from http_load import open_loop

    if shutil.which("wrk") is None:
        raise SystemExit("overload needs wrk; on Debian: apt-get install wrk")
    root = bundle(args.work, args.items)
    sent = bodies(root, recall=args.recall)
    with (
        serving(root, "--workers", args.workers, "--threads", args.threads) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
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
        "threads": args.threads,
        "connections": args.connections,
        "seconds": args.seconds,
        "answers": dict(in_all),
        "during": {"statuses": dict(Counter(str(one.status) for one in during)), **(quantiles(taken) if taken else {})},
        "after": {
            "statuses": dict(Counter(str(one.status) for one in after)),
            **quantiles([one.seconds for one in after]),
        },
    }
