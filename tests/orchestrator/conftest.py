"""Studies small enough to run for real in a test, and a launch of them that is held open."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from moe.config import DataConfig, ModelConfig, MoEConfig, OptimConfig, TrainConfig, TrialConfig
from orchestrator.launch import resolve
from orchestrator.session import Options, opened
from orchestrator.study import EarlyStopping, Study
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space

TINY = TrialConfig(
    model=ModelConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, context_length=16),
    moe=MoEConfig(num_experts=4, top_k=2),
    data=DataConfig(),
    optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    train=TrainConfig(
        num_steps=8, batch_tokens=128, micro_batch_tokens=64, eval_every=2, eval_tokens=256
    ),
)


@pytest.fixture(scope="session")
def grid_study():
    return Study(
        name="tiny-grid",
        question="Does the suite see every state?",
        baseline="learned",
        held_fixed="all but the router",
        scales={"smoke": TINY},
        cells=[
            Cell(name="dense", overrides={"moe.num_experts": 0}),
            Cell(name="learned", overrides={"moe.router": "learned"}),
            Cell(name="frozen", overrides={"moe.router": "frozen"}),
        ],
        seeds=(0, 1),
    )


@pytest.fixture(scope="session")
def sampled_study():
    return Study(
        name="tiny-search",
        question="Does the sampler repeat itself?",
        baseline="the best point",
        held_fixed="all but two axes",
        scales={"smoke": TINY},
        space=Space(
            axes={
                "moe.num_experts": Choice((2, 4, 6, 8)),
                "moe.top_k": Choice((1, 2)),
                "moe.router": Choice(("frozen", "random")),
            }
        ),
        trials=6,
        seeds=(0,),
        early_stopping=EarlyStopping(first_rung=0.25, reduction_factor=2),
    )


@pytest.fixture
def said():
    return []


@pytest.fixture
def hold(home, corpus, said):
    """A context manager: a study's launch in this test's home, held by this process."""

    @contextmanager
    def hold_study(study, *, listener=None, start_cluster=False, options=None, **asked):
        launch = resolve(study, corpus_spec=corpus, **asked)
        with opened(
            launch,
            Options(home=home, **(options or {})),
            say=said.append,
            listener=listener,
            start_cluster=start_cluster,
        ) as session:
            yield session

    return hold_study
