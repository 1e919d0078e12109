"""Prepared tokens of a launch's corpora, and whether they can feed its configurations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from moe.data.dropped_text import WORTH_SAYING, about_dropped_text
from moe.data.labels import MIXTURE
from moe.data.layout import read_meta
from moe.data.prepare import prepare
from moe.data.sources.mixed_corpora import Obtained, obtained_parts
from moe.data.token_store import TokenStore
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.study.launch import Launch, Point

Preparing = Callable[[int, int], None]


class Tokens:
    """Prepared tokens, by data digest: made once, before the first trial that needs them."""

    def __init__(self, launch: Launch, home: Home, progress: Preparing | None) -> None:
        self._home = home
        self._progress = progress
        self._ready: dict[str, Path] = {}
        self._said: dict[str, float] = {}
        self._lines: list[str] = []
        for point in launch.points_ahead():
            self.of(point)

    def parts_of(self, point: Point) -> list[Obtained]:
        """What the parts of a point's mixture came to; none where its corpus is no mixture."""
        if point.config.data.corpus.partition(":")[0] != MIXTURE:
            return []
        return obtained_parts(read_meta(self.of(point)))

    def tags_of(self, point: Point) -> dict[str, str]:
        """What a point's run says of its tokens beside their digest."""
        parts = self.parts_of(point)
        told = {
            part.name: {
                "asked": part.asked,
                "obtained": round(part.share, 6),
                "tokens": part.tokens,
            }
            for part in parts
        }
        return {"mixture": json.dumps(told)} if told else {}

    def of(self, point: Point) -> Path:
        """Raises BadInput where the corpus cannot feed this configuration."""
        config = point.config
        key = f"{config.data.digest}/{config.model.context_length}/{config.train.eval_tokens}"
        if key not in self._ready:
            try:
                path = prepare(config.data, self._home.tokens, progress=self._progress)
                store = TokenStore.open(path)
                _require_sequences(store, point)
            except (ValueError, OSError) as error:
                raise BadInput(str(error)) from None
            self._ready[key] = path
            self._note_mixture(store)
            self._note_dropped_text(store, point.config.model.context_length)
        return self._ready[key]

    def lines(self) -> list[str]:
        """What is worth saying of the tokens since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def _note_mixture(self, store: TokenStore) -> None:
        """The shares of its parts, asked for and obtained; once."""
        parts = obtained_parts(store.meta)
        if not parts or store.digest in {path.name for path in list(self._ready.values())[:-1]}:
            return
        name, total = f"mixture {store.digest[:8]}", sum(part.tokens for part in parts)
        self._lines.append(f"{name}, {total:,} training tokens: " + ", ".join(map(str, parts)))
        if silent := [part.name for part in parts if not part.held_out_tokens]:
            self._lines.append(
                f"{name} holds out no document of {', '.join(silent)}: no loss is told there. "
                "Raise data.holdout_fraction, or use more text"
            )

    def _note_dropped_text(self, store: TokenStore, context_length: int) -> None:
        """Once for each corpus, and again for a context that loses more."""
        share = store.dropped_share("train", context_length)
        if share > max(WORTH_SAYING, self._said.get(store.digest, 0.0)):
            self._said[store.digest] = share
            self._lines.append(
                about_dropped_text(
                    share,
                    context_length=context_length,
                    labels=store.sequence_labels,
                    exact=True,
                )
            )


def _require_sequences(store: TokenStore, point: Point) -> None:
    context = point.config.model.context_length
    for split in store.splits:
        if store.num_sequences(split, context) < 1:
            raise BadInput(
                f"a corpus holds at least one sequence of model.context_length={context} in each "
                f"split; received {point.config.data.corpus}, whose {split} split has none. Use a "
                "larger corpus, or lower model.context_length."
            )
