"""What a plan says of its text: which corpus was not read, and how much a context leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from moe.config import DataConfig
from moe.data.corpus import is_mixture
from moe.data.dropped_text import WORTH_SAYING, about_dropped_text, expected_dropped_share
from moe.data.prepare import sequence_labels
from orchestrator.base.errors import BadInput
from orchestrator.study.launch import Launch, Point


def corpus_notes(launch: Launch, points: Sequence[Point]) -> list[str]:
    """A line each. `points` are a grid's; a sampled study stands for itself by its base.

    Raises BadInput where a row is bad that was not read before: of a file with a schema, only as
    many are as its labels take.
    """
    found = [note for corpus in launch.corpora.values() for note in corpus.notes]
    return [*_unread(launch), *found, *_dropped_text(launch, points or launch.base_points())]


def _unread(launch: Launch) -> list[str]:
    return [
        f"the corpus {spec} was not read, so this plan has no config hashes "
        + ("there and no launch name" if len(launch.corpus_specs) > 1 else "and no launch name")
        + f": {why}"
        for spec, why in launch.unread.items()
    ]


def _dropped_text(launch: Launch, points: Sequence[Point]) -> list[str]:
    """For each corpus the context length that leaves most of it unused, where that is worth it."""
    contexts: dict[str, tuple[int, DataConfig]] = {}
    for point in points:
        data, context = point.config.data, point.config.model.context_length
        if context > contexts.get(data.digest, (0,))[0]:
            contexts[data.digest] = (context, data)
    lines = []
    for context, data in contexts.values():
        corpus = launch.corpora.get(data.corpus)
        if corpus is None:
            continue
        if corpus.source.survey_limit is not None and is_mixture(corpus):
            lines.append(
                f"how much of {data.corpus} fills no sequence is told by `run`: a draw from text "
                "that is far away reads all of it"
            )
            continue
        try:
            share = expected_dropped_share(data, corpus, context)
        except (ValueError, OSError) as error:
            raise BadInput(str(error)) from None
        if share > WORTH_SAYING:
            lines.append(
                about_dropped_text(
                    share,
                    context_length=context,
                    labels=sequence_labels(data, corpus),
                    exact=data.tokenizer == "byte",
                )
            )
    return lines
