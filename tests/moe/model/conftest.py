"""Small configs for the tests of the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from moe.config import ModelConfig, MoEConfig, TrainConfig, TrialConfig


@pytest.fixture(autouse=True)
def _one_thread_and_own_stream():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_config() -> Callable[..., TrialConfig]:
    """Fields of all sections by keyword: `d_model=8, num_experts=4, seed=1`."""

    def make(**fields: object) -> TrialConfig:
        values = {"num_layers": 2, "d_model": 8, "num_heads": 2, "d_ff": 16, "context_length": 8}
        values |= {"batch_tokens": 16, "micro_batch_tokens": 16, **fields}
        sections = {}
        for name, section in (("model", ModelConfig), ("moe", MoEConfig), ("train", TrainConfig)):
            known = section.__dataclass_fields__
            sections[name] = section(**{k: values.pop(k) for k in list(values) if k in known})
        assert not values, f"no config field is called {sorted(values)}"
        return TrialConfig(**sections)

    return make
