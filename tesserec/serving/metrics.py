"""Prometheus metrics of a worker; with several workers, ``/metrics`` of any of them adds all of them up.

Where ``PROMETHEUS_MULTIPROC_DIR`` is set before this module is imported, the counts live in mapped files there, which
is how ``prometheus_client`` shares them between processes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

SHARED = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """All metrics of one application, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("tesserec_requests", "Answered requests.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "tesserec_request_seconds", "Time to answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.search_seconds = Histogram(
            "tesserec_search_seconds", "Time in a worker thread.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.inside = Gauge(
            "tesserec_requests_inside",
            "Requests in work or waiting.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.candidates = Counter("tesserec_candidates", "Candidates given.", ["explored"], registry=registry)
        self.events = Counter("tesserec_events", "Events taken.", ["outcome"], registry=registry)
        self.swaps = Counter("tesserec_generations", "Generations looked at.", ["outcome"], registry=registry)
        self.generation = Gauge(
            "tesserec_generation", "Generation in service.", registry=registry, multiprocess_mode="liveall"
        )
        self.log_errors = Counter("tesserec_candidate_log_errors", "Rows that could not be logged.", registry=registry)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)


def forget_dead_workers() -> None:
    """Remove the gauges of workers that no longer run."""
    if (folder := os.environ.get(SHARED)) is None:
        return
    for file in Path(folder).glob("gauge_live*_*.db"):
        match = re.search(r"_(\d+)\.db$", file.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            file.unlink(missing_ok=True)
