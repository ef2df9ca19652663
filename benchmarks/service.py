"""The service under load, swaps and kills, on this machine, over loopback.

    python benchmarks/service.py load [--recall 0.99] [--seconds 600] [--rate 200] [--workers 2] [--threads 2]
    python benchmarks/service.py overhead | overload | event | swaps [--count 100] | kills [--count 50] | install

Each command writes its part of ``benchmarks/results/service.json`` and leaves the others. The bundle has no trained
model behind it: clustered vectors in cells and a user side of two small graphs (``workers/synthetic.py``); it is kept
under ``--work`` and made once. Without ``--recall`` every list is exact and certified; with it requests ask for that
share of the exact list, and the result has a name of its own (``load_recall_0.99``). Client and server share the
machine's cores. ``load`` sends requests on a timetable and counts latency from when each was due
(``workers/http_load.py``); ``overload`` needs ``wrk``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from service_faults import install, kills, swaps
from service_load import event, load, overhead, overload

RESULT = Path(__file__).parent / "results" / "service.json"
COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    one.__name__: one for one in (load, overhead, overload, event, swaps, kills, install)
}


def main() -> None:
    """Run one command and write its part of the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tesserec-service")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="searches at once in a worker")
    parser.add_argument("--recall", type=float, default=None, help="of load, overhead and overload")
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
    name = args.command if args.recall is None else f"{args.command}_recall_{args.recall}"
    RESULT.write_text(json.dumps(results | {name: found}, indent=2, sort_keys=True) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
