"""What things are called in figures and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from moe.metrics import Metric, describe


def label_of(metric: str) -> str:
    """The metric with its unit."""
    unit = describe(metric).unit
    return metric if unit == "1" else f"{metric} ({unit})"


def last_part(path: str) -> str:
    """Of an axis, without its section."""
    return path.rpartition(".")[2]


def short_names(paths: Sequence[str]) -> list[str]:
    """Of axes side by side: without their section, where that tells them apart."""
    last = [last_part(path) for path in paths]
    return [path if last.count(name) > 1 else name for path, name in zip(paths, last, strict=True)]


def curve_label(measure: Metric) -> str:
    """Of what curves show: of a loss its perplexity, else the metric itself."""
    if not measure.is_loss:
        return label_of(measure.name)
    text = {"val": "validation", "train": "training", "test": "test"}
    return f"{text[measure.name.partition('/')[0]]} perplexity"


def probe_name(probe: str) -> str:
    """The probe without the machine's folders."""
    kind, _, rest = probe.partition(":")
    return f"{kind}:{'/'.join(PurePath(rest).parts[-2:]).lstrip('/')}" if rest else kind


def word_form_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """How to read the null, and the baseline that needs no model: what the token alone tells."""
    how = "grey: 95% bands of the seeds' permutation nulls, from the lowest to the highest"
    forms = {
        (row.get("word_form_nmi"), row.get("word_form_nmi_null_mean"))
        for row in rows
        if row.get("word_form_nmi") is not None
    }
    if len(forms) != 1:
        return how
    ((nmi, null),) = forms
    return f"{how}; NMI(token; label) = {nmi:.3f}" + ("" if null is None else f", null {null:.3f}")


def shorten(name: str, most: int = 40) -> str:
    """The name with its middle left out, since what tells long names apart is often at the end."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"
