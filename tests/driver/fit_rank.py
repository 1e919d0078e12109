"""One of a sharded trial's workers, as Ray would call it, without a cluster.

    python fit_rank.py CONFIG.json TOKENS OUT

Prints the status and what was reported, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.cluster import connection

connection.quiet()

from orchestrator.driver import worker  # noqa: E402


def main(config: str, tokens: str, out: str) -> None:
    worker.tokens_here = lambda place, **_: place  # they are here, and no cluster is asked
    job = worker.Job(
        number=0,
        study="two",
        cell="only",
        config=json.loads(Path(config).read_text()),
        tokens=tokens,
        out=out,
        workers=2,
        threads=1,
        device="cpu",
        checkpoint_every=2,
        shard=True,
    )
    curve: list[dict[str, float]] = []
    result = worker._fit(job, lambda metrics, checkpoint: curve.append(metrics))
    print(json.dumps([result.status, curve]))


if __name__ == "__main__":
    main(*sys.argv[1:])
