"""What the experts of a launch's trained models specialise in, on a labelled probe.

Reads the record of the search for which trials are complete, and their weights from the home; the
rows and the bars are kept in the home, where `claims` and the launch's figures find them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.base.whole_files import whole
from orchestrator.report.judge import analysis_folder
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.trained_weights import folder_with_weights
from orchestrator.stores.trial_record import CONFIG_HASH, TrialRecord

DEFAULT_TOKENS = 100_000
DEFAULT_PERMUTATIONS = 200


def analyze_launch(
    launch: LaunchRecords,
    *,
    home: Home,
    probe_spec: str,
    max_tokens: int = DEFAULT_TOKENS,
    permutations: int = DEFAULT_PERMUTATIONS,
    checkpoint_uri: str | None = None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The JSON of `moe-study analyze`, kept in the home as well.

    A row a layer, and one with `layer` null for the mean over layers, of every complete trial whose
    model has experts. Raises BadInput where the probe or the launch has nothing to analyse.
    """
    from moe.analysis.analyze import analyze, probe_word_form
    from moe.analysis.analyze import shares as shares_of
    from moe.analysis.assign import choose, load_final
    from moe.data.token_store import TokenStore
    from moe.data.tokenizer import open_tokenizer
    from moe.probes.alignment import tokenize_probe
    from moe.probes.probe_sources import open_probe

    rows: list[dict[str, Any]] = []
    shares: list[pa.Table] = []
    prepared: dict[str, tuple[Any, Any]] = {}
    word_forms: dict[str, Any] = {}
    unfit: dict[str, ValueError] = {}  # text without what the probe asks for, by digest
    covered: dict[str, float] = {}
    drawn: set[str] = set()
    try:
        for record, folder in _with_weights(launch, home, checkpoint_uri, say):
            model = load_final(folder)
            config = model.config
            if not config.moe_layers:
                continue
            if config.moe.experts_choose:
                say(f"{record.cell} is left out: its experts choose tokens by what else is there")
                continue
            digest = config.data.digest
            if digest not in prepared and digest not in unfit:
                store = TokenStore.open(home.tokens / digest)
                try:
                    probe = open_probe(probe_spec, store)
                except ValueError as error:
                    unfit[digest] = error
                    continue
                tokenized = tokenize_probe(
                    probe, open_tokenizer(home.tokens / digest), max_tokens=max_tokens
                )
                prepared[digest] = (store, tokenized)
                # Of several corpora or tokenizers, the one that leaves out the most
                for key, share in (
                    ("documents_left_out_share", tokenized.left_out_share),
                    ("tokens_unlabelled_share", tokenized.unlabelled_share),
                    ("tokens_crossing_share", tokenized.crossing_share),
                ):
                    covered[key] = max(share, covered.get(key, 0.0))
            if digest in unfit:
                continue
            store, tokenized = prepared[digest]
            values: tuple[str, ...] = ()
            if config.moe.follows_labels:
                if config.moe.label_column not in _columns(tokenized):
                    say(f"{record.cell} routes by {config.moe.label_column}: not in this probe")
                    continue
                values = store.label_values(config.moe.label_column)
            choices = choose(model, tokenized, label_values=values)
            if digest not in word_forms:
                word_forms[digest] = probe_word_form(choices, num_permutations=permutations)
            for row in analyze(
                choices,
                cell=record.cell,
                seed=record.seed,
                num_permutations=permutations,
                word_form=word_forms[digest],
            ):
                whose = {"probe": probe_spec, CONFIG_HASH: record.config_hash}
                rows.append({**whose, **row.to_dict()})
            shares.append(_named(shares_of(choices), record))
            if record.cell not in drawn:
                drawn.add(record.cell)
                _draw(choices, record, launch, home, probe_spec)
            say(f"analysed {record.cell} seed {record.seed}")
        for error in unfit.values():
            if not prepared:
                raise error
            say(f"trials on another corpus are left out: {error}")
    except ValueError as error:
        raise BadInput(str(error)) from None
    if not rows:
        raise BadInput(
            f"an analysis needs a complete trial with experts that the probe fits; received "
            f"{launch.info.name}, which has none. Run the study first."
        )
    result = {"study": launch.info.study, "launch": launch.info.name, "probe": probe_spec}
    result |= {**covered, "rows": rows}
    _keep(result, pa.concat_tables(shares), home)
    return result


def _named(shares: pa.Table, record: TrialRecord) -> pa.Table:
    """With the cell, the seed and the configuration in front."""
    count = shares.num_rows
    named = shares.add_column(0, CONFIG_HASH, pa.array([record.config_hash] * count))
    named = named.add_column(0, "seed", pa.array([record.seed] * count, pa.int32()))
    return named.add_column(0, "cell", pa.array([record.cell] * count))


def _draw(
    choices: Any, record: TrialRecord, launch: LaunchRecords, home: Home, probe_spec: str
) -> None:
    """Bars of P(expert | label) by layer, of one seed (figures 2, 4, 5 of arXiv 2402.13089)."""
    import numpy as np

    from moe.analysis.specialization import contingency
    from orchestrator.report.print_figures import draw_assignment

    labelled = choices.labelled()
    counts = [
        contingency(
            expert_TK,
            labelled.label_T,
            num_experts=labelled.num_experts,
            num_labels=len(labelled.labels),
        )
        for expert_TK in labelled.expert_MTK
    ]
    draw_assignment(
        np.stack(counts),
        layers=labelled.layers,
        labels=labelled.labels,
        cell=record.cell,
        seed=record.seed,
        probe=probe_spec,
        launch_name=launch.info.name,
        folder=analysis_folder(home, launch.info.name) / "figures",
    )


def _with_weights(
    launch: LaunchRecords, home: Home, checkpoint_uri: str | None, say: Callable[[str], None]
) -> Iterator[tuple[TrialRecord, str]]:
    """Complete trials whose final weights are in the home, where the trial says, or at the URI."""
    for record in launch.trials:
        if record.state == "complete":
            folder = folder_with_weights(record, home, checkpoint_uri, say)
            if folder is not None:
                yield record, folder


def _columns(tokenized: Any) -> set[str]:
    return (
        set.intersection(*(set(a) for a in tokenized.attributes)) if tokenized.attributes else set()
    )


def _keep(result: dict[str, Any], shares: pa.Table, home: Home) -> None:
    """A probe's newest rows and shares (`*.shares.parquet`) replace its earlier ones."""
    folder = analysis_folder(home, result["launch"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{hashlib.sha256(result['probe'].encode()).hexdigest()[:12]}.json"
    with whole(path.with_suffix(".shares.parquet")) as partial:
        pq.write_table(shares, partial)
    with whole(path) as partial:
        partial.write_text(json.dumps(result["rows"], indent=1))
