"""A trained model as a folder that `transformers` opens, written without it.

config.json           the architecture, and all that decides what it computes
model.safetensors     weights in float32, under the names that the Hub has
tokenizer.json        with tokenizer_config.json: the tokenizer, which gives the same ids
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moe.config import TrialConfig
from moe.data.tokenizer import Tokenizer
from moe.interchange.architectures import Architecture, architecture_of
from moe.interchange.hf_config import settings_of
from moe.interchange.tokenizer_json import tokenizer_json
from moe.interchange.weight_names import to_theirs

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
_TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True, kw_only=True)
class HfFolder:
    """What a folder will hold: made whole before anything is written."""

    architecture: Architecture
    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokenizer: Mapping[str, Any]
    tokenizer_settings: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Into a folder that is made. Raises OSError."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        folder.mkdir()
        _write(folder / CONFIG_FILE, self.settings)
        _write(folder / TOKENIZER_FILE, self.tokenizer)
        _write(folder / _TOKENIZER_CONFIG_FILE, self.tokenizer_settings)
        try:
            save_file(dict(self.weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        except SafetensorError as error:  # how it says that a disk is full
            raise OSError(f"{WEIGHTS_FILE}: {error}") from None


def hf_folder(config: TrialConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> HfFolder:
    """Of a model of `config` with these weights (its state dict).

    Raises ValueError where no architecture of transformers computes the config exactly, or the
    tokenizer is not the model's.
    """
    architecture = architecture_of(config)
    if (size := len(tokenizer.tokens)) != config.data.vocab_size:
        raise ValueError(
            f"a model has a row for each token of its tokenizer; received {size} tokens for "
            f"data.vocab_size={config.data.vocab_size}. Give the tokenizer of its corpus."
        )
    built, end_name = tokenizer_json(tokenizer)
    end = tokenizer.end_of_document
    dropout = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    settings = {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        **settings_of(config, architecture),
        **(dict.fromkeys(dropout, config.model.dropout) if architecture.name == "GPT2" else {}),
        # A document ends as the next begins.
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": None,
        "dtype": "float32",
    }
    tokenizer_settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end_name,
        "eos_token": end_name,
        "model_max_length": config.model.context_length,
        "clean_up_tokenization_spaces": False,
    }
    return HfFolder(
        architecture=architecture,
        settings=settings,
        weights=to_theirs(config, architecture, weights),
        tokenizer=built,
        tokenizer_settings=tokenizer_settings,
    )


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
