"""A trained model of a home as a folder that other programs open; `moe.interchange` writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.base.whole_files import whole
from orchestrator.report.records import LaunchRecords, read_launches
from orchestrator.stores.trained_weights import FINAL, folder_with_weights
from orchestrator.stores.trial_record import TrialRecord

# A config hash has 16 hexadecimal digits, a run id 32; git's shortest prefix is long enough here.
_NAMED = re.compile(r"[0-9a-f]{7,32}")


def find_trial(
    trial: str, *, cell: str | None, seed: int | None, asked: dict[str, Any]
) -> tuple[LaunchRecords, TrialRecord]:
    """The complete trial that is meant, and its launch.

    `trial`: the beginning of a config hash or of an MLflow run id, for which all launches of the
    home are read, the newest first; or a study's name, with the cell (and the seed, where it has
    several). `asked` as `read_launches` takes it. Raises BadInput where none or several are meant.
    """
    if cell is None and seed is None and _NAMED.fullmatch(trial):
        found = [pair for pair in _all_trials(asked) if _is_named(pair[1], trial)]
        meant = {record.config_hash for _, record in found}
        if not found:
            raise BadInput(
                "a trial is named by its config hash or its MLflow run id; none here begins with "
                f"{trial}. `moe-study status STUDY --json` tells both, and --home where to look."
            )
        what = trial
    else:
        launch = next(read_launches(Path(trial).stem if trial.endswith(".py") else trial, **asked))
        found = [
            (launch, record)
            for record in launch.trials
            if record.cell == cell and seed in (None, record.seed)
        ]
        meant = {record.seed for _, record in found}
        what = f"cell {cell} of {launch.info.name}" + ("" if seed is None else f", seed {seed}")
        if not found:
            cells = ", ".join(dict.fromkeys(record.cell for record in launch.trials))
            raise BadInput(
                f"a model is exported by STUDY, --cell and --seed, or by its config hash; received "
                f"{what}, which has no trial. Its cells: {cells}."
            )
    if len(meant) > 1:
        several = ", ".join(map(str, sorted(meant)))
        raise BadInput(f"one model is exported; {what} means several: {several}. Name one.")
    complete = [(launch, record) for launch, record in found if record.state == "complete"]
    if not complete:
        raise BadInput(
            f"a model is exported once its trial is complete; {what} is {found[-1][1].state}. "
            "Run the study to its end, or name another trial."
        )
    return complete[0]


def _all_trials(asked: dict[str, Any]) -> Iterator[tuple[LaunchRecords, TrialRecord]]:
    for launch in read_launches(None, **asked):
        for record in launch.trials:
            yield launch, record


def _is_named(record: TrialRecord, name: str) -> bool:
    return record.config_hash.startswith(name) or (record.run_id or "").startswith(name)


def export_model(
    record: TrialRecord, home: Home, out: Path, *, checkpoint_uri: str | None = None
) -> dict[str, Any]:
    """Writes the folder `out`, whole or not at all; returns what it holds.

    Raises BadInput, with nothing written, where no architecture of transformers computes the
    model, its weights or its tokenizer are not here, or `out` holds something.
    """
    from moe.interchange.write_hf import hf_folder
    from moe.train.checkpoint import load_checkpoint
    from moe.train.run_folder import DamagedError, Storage

    _require_free(out)
    looked: list[str] = []
    folder = folder_with_weights(record, home, checkpoint_uri, looked.append)
    if folder is None:
        raise BadInput(
            f"a model is exported from the final weights of its run; {'; '.join(looked)}. Name "
            "where they are with --home or --checkpoint-uri (an import brings none)."
        )
    try:
        checkpoint = load_checkpoint(Storage.at(folder).location(FINAL))
        tokenizer = _tokenizer(checkpoint.config.data, home)
        made = hf_folder(checkpoint.config, checkpoint.model, tokenizer)
    except (ValueError, DamagedError) as error:
        raise BadInput(str(error)) from None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as partial:
            made.write(partial)
    except OSError as error:
        raise BadInput(
            f"-o names a folder that can be written; received {out} ({error.strerror or error}). "
            "Name another."
        ) from None
    return {
        "cell": record.cell,
        "seed": record.seed,
        "config_hash": record.config_hash,
        "architecture": made.architecture.class_name,
        "parameters": sum(tensor.numel() for tensor in made.weights.values()),
        "folder": str(out),
    }


def _require_free(out: Path) -> None:
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(
            f"-o names a folder that is new or empty; received {out}, which holds something. "
            "Name another, or remove it."
        )


def _tokenizer(data: Any, home: Home) -> Any:
    """Raises ValueError where neither the home nor the config can give it."""
    from moe.data.layout import META_FILE
    from moe.data.tokenizer import load_tokenizer, open_tokenizer

    prepared = home.tokens / data.digest
    if (prepared / META_FILE).is_file():
        return open_tokenizer(prepared)
    if data.tokenizer == "bpe":
        raise ValueError(
            "the tokenizer of a model that trained its own lies beside the prepared tokens; "
            f"{prepared} is not here. Run the study here again (`run` prepares them), or name the "
            "home that trained with --home."
        )
    return load_tokenizer(data)
