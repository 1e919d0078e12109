"""The numbers of arXiv 2402.13089, as data: `arxiv_2402_13089.json` beside this file."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def paper() -> dict[str, Any]:
    """The whole file: citation, metric, corpora, and the rows of tables 1 to 3 and of figure 1."""
    return json.loads(resources.files(__name__).joinpath("arxiv_2402_13089.json").read_text())


def published(*tables: str) -> dict[str, dict[str, float]]:
    """cell -> corpus -> published perplexity. Of a cell that two tables print, the first counts."""
    values: dict[str, dict[str, float]] = {}
    for table in tables:
        for row in paper()["tables"][table]:
            cell = values.setdefault(row["cell"], {})
            for corpus, perplexity in row["perplexity"].items():
                cell.setdefault(corpus, perplexity)
    return values
