"""A checkpoint of `transformers`, or of the Hub, as a configuration and weights of ours.

config, weights = read_hf("OLMoE-1B-7B-0924", context_length=1024)
model = MoETransformer(config)
model.load_state_dict(weights)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor

from moe.config import TrialConfig
from moe.interchange.architectures import architecture_named
from moe.interchange.hf_config import config_of
from moe.interchange.weight_names import to_ours
from moe.interchange.write_hf import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE

INDEX_FILE = f"{WEIGHTS_FILE}.index.json"


def read_hf(
    folder: Path | str, *, context_length: int | None = None
) -> tuple[TrialConfig, dict[str, Tensor]]:
    """The config and the state dict (float32, on the CPU) of a folder with config.json and
    safetensors, in one file or several.

    Sections `optim` and `train` are defaults, and `data` names the folder's tokenizer.json: a
    checkpoint says how a model computes, not how it came to be. `context_length` makes the context
    shorter than that of the file (128 thousand positions cost memory in every block).

    Raises ValueError where the folder holds no such checkpoint, or one that no configuration of
    ours computes exactly (the setting is named).
    """
    root = Path(folder)
    given = _json(root / CONFIG_FILE)
    architecture = architecture_named(given.get("model_type"))
    config = config_of(
        given,
        architecture,
        tokenizer=f"file:{root / TOKENIZER_FILE}",
        context_length=context_length,
    )
    with ExitStack() as stack:
        weights = to_ours(config, architecture, _reader(root, stack))
    positions = weights.get("position_embedding.weight")
    if positions is not None:
        weights["position_embedding.weight"] = positions[: config.model.context_length].clone()
    return config, weights


def _reader(root: Path, stack: ExitStack) -> Callable[[str], Tensor | None]:
    """Reads tensors by name, each as it is asked for: a shard need not fit in memory."""
    from safetensors import SafetensorError, safe_open

    names = [WEIGHTS_FILE]
    if (root / INDEX_FILE).is_file():
        names = sorted(set(_json(root / INDEX_FILE).get("weight_map", {}).values()))
    place = {}
    try:
        for name in names:
            file = stack.enter_context(safe_open(root / name, framework="pt"))
            place |= dict.fromkeys(file.keys(), file)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"weights are read from {WEIGHTS_FILE}, or from the files of {INDEX_FILE}; received "
            f"{root} ({error}). Give a whole folder in that format."
        ) from None
    return lambda name: place[name].get_tensor(name) if name in place else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"a checkpoint of transformers is a folder with {path.name}; received {path.parent} "
            f"({error}). Correct the path."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is a JSON object; {path} is not. Give another folder.")
    return value
