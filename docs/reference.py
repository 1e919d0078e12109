"""The generated parts of docs/: `python docs/reference.py` writes them anew.

A page keeps its own words around a pair of marks; what stands between them comes from the typed
config and from the list of metrics. A test holds the pages equal to what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from moe.metrics import METRICS
from search_spaces.axes import axes_markdown

BEGIN, END = "<!-- generated: python docs/reference.py -->", "<!-- end of generated -->"


def metrics_markdown() -> str:
    """One table of all metrics, in their order."""
    lines = ["| metric | unit | better | reduction | meaning |", "|---|---|---|---|---|"]
    for m in METRICS:
        cells = (f"`{m.name}`", m.unit, m.better, m.reduction, m.meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


PAGES: dict[str, Callable[[], str]] = {"axes.md": axes_markdown, "metrics.md": metrics_markdown}


def renewed(page: str, generated: str) -> str:
    """The page with what stands between its marks replaced. Raises ValueError without marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"a generated page holds {BEGIN} and {END}. Put them back.")
    return f"{before}{BEGIN}\n\n{generated}\n{END}{after}"


def write(folder: Path) -> list[Path]:
    written = []
    for name, generate in PAGES.items():
        path = folder / name
        path.write_text(renewed(path.read_text("utf-8"), generate()), "utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    print(*write(where), sep="\n")
