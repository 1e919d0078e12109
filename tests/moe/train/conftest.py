"""A small store of tokens, and configs of runs that take a second."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore

_SECTIONS = {"model": ModelConfig, "moe": MoEConfig, "optim": OptimConfig, "train": TrainConfig}
_TINY = {
    "num_layers": 2,
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 32,
    "context_length": 16,
    "batch_tokens": 128,
    "micro_batch_tokens": 64,
    "num_steps": 12,
    "eval_every": 4,
    "eval_tokens": 320,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokens_dir(tmp_path_factory) -> Path:
    """Sixty documents of a few repeated words, in two languages, as bytes."""
    folder = tmp_path_factory.mktemp("train_corpus")
    words = ("expert", "router", "token", "gate", "load", "layer")
    generator = random.Random(0)
    with (folder / "documents.jsonl").open("w") as file:
        for i in range(60):
            chosen = generator.choices(words, k=60)
            text = " ".join(chosen if i % 2 else [word[::-1] for word in chosen])
            file.write(json.dumps({"text": text, "language": ("xx", "en")[i % 2]}) + "\n")
    corpus = f"files:{folder}/documents.jsonl"
    data = DataConfig(corpus=corpus, holdout_fraction=0.2, sequence_labels="language")
    return prepare(data, folder / "tokens")


@pytest.fixture(scope="session")
def store(tokens_dir) -> TokenStore:
    return TokenStore.open(tokens_dir)


@pytest.fixture(scope="session")
def make_config(store) -> Callable[..., TrialConfig]:
    """Fields of all sections by keyword, over a tiny model: `num_experts=4, seed=1`."""

    def make(**fields: object) -> TrialConfig:
        values = _TINY | fields
        sections = {
            name: section(**{k: v for k, v in values.items() if k in section.__dataclass_fields__})
            for name, section in _SECTIONS.items()
        }
        known = set().union(*(section.__dataclass_fields__ for section in _SECTIONS.values()))
        assert set(values) <= known, f"no config field is called {sorted(set(values) - known)}"
        return TrialConfig(data=DataConfig(digest=store.digest), **sections)

    return make


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(
        a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in a
    )


_OF_THE_CLOCK = ("timestamp_ms", "cost/tokens_per_s", "cost/device_s", "cost/peak_memory_bytes")


def without_clock(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """A curve without what differs between two equal runs."""
    return [{k: v for k, v in entry.items() if k not in _OF_THE_CLOCK} for entry in curve]


@pytest.fixture
def compare():
    """The two comparisons, for test modules (conftest cannot be imported by name)."""

    class Compare:
        weights = staticmethod(same_weights)
        clockless = staticmethod(without_clock)

    return Compare
