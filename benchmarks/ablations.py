"""The studies of ``tesserec ablate`` on one log, into ``docs/results.md``; resumable.

    python benchmarks/ablations.py DATASET --work DIR --study search --study interests --set encoder.dropout=0.3

A finished study leaves ``benchmarks/results/ablations/STUDY.json``, from which the page is written. Without ``--study``
only the page is written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from real_logs_tables import table_lines, write_between

from tesserec.ablations import STUDIES, ablate
from tesserec.cli.ablate import table
from tesserec.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "ablations"


def main() -> None:
    """Run the chosen studies and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="what `tesserec prepare` wrote")
    parser.add_argument("--work", type=Path, required=True, help="where the studies' runs are kept")
    parser.add_argument("--study", action="append", choices=STUDIES, default=[])
    parser.add_argument("--set", action="append", dest="sets", default=[], help="a setting of every variant")
    chosen = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for study in chosen.study:
        result = ablate(chosen.dataset, study, chosen.work, sets=chosen.sets, progress=True, report=print)
        write_json(RESULTS / f"{study}.json", result)
    kept = [RESULTS / f"{study}.json" for study in STUDIES]
    write_between("studies", "\n\n".join(render(read_json(path)) for path in kept if path.exists()))


def render(result: dict[str, Any]) -> str:
    """One study as Markdown."""
    columns, rows = table(result)
    shared = " ".join(f"--set {one}" for one in result["sets"])
    protocol = result["protocol"]
    return "\n".join(
        [
            f"### {result['question']}",
            "",
            f"`tesserec ablate DATASET --study {result['study']} {shared}`, {protocol['users']:,} test users, "
            f"fingerprint `{result['fingerprint'][:12]}`, seed {result['seed']}.",
            "",
            *table_lines(columns, rows),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
