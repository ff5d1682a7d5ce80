"""Facts: what nights have published, as JSON on one line, for comparing two roots.

    python docker/facts.py /data 2017-10-30 2017-10-31

By night: `digests` (content digest by table), `rows` (by table), `metrics` (value by model, seen
items and metric) and `verdict` (of the gate).
"""

import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from schemas.partitions import find
from schemas.promotions import PROMOTIONS
from schemas.reference import CHAIN
from schemas.scorecards import SCORECARDS


def of_night(root: Path, ds: date) -> dict[str, Any]:
    """The facts of one night; tables that it has not published are left out."""
    found = {contract.table: find(root, contract, ds) for contract in CHAIN}
    published = {table: partition for table, partition in found.items() if partition}
    scorecards, promotions = published.get(SCORECARDS.table), published.get(PROMOTIONS.table)
    scores = scorecards.read().to_pylist() if scorecards else []
    decisions = promotions.read().to_pylist() if promotions else []
    return {
        "digests": {table: p.manifest.content_digest for table, p in published.items()},
        "rows": {table: p.manifest.rows for table, p in published.items()},
        "metrics": {
            f"{s['model']} {'new' if s['exclude_seen'] else 'all'} {s['metric']}": s["value"]
            for s in scores
        },
        "verdict": decisions[-1]["verdict"] if decisions else None,
    }


def main(arguments: Sequence[str]) -> int:
    """Prints the facts of all nights on the command line."""
    root, *nights = arguments
    print(json.dumps({ds: of_night(Path(root), date.fromisoformat(ds)) for ds in nights}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
