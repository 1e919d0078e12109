"""The typed configuration of one training run: every design choice is one independent field.

Nothing here imports torch, so a study can be planned, costed and hashed on any machine.
Infeasible combinations are refused when a `TrialConfig` is built, each with its reason.
"""

from moe.config.checks import ConfigError
from moe.config.data import BYTE_VOCAB_SIZE, GPT2_VOCAB_SIZE, DataConfig
from moe.config.mixture import (
    GROUPED_WIDTH,
    Balance,
    BalanceScope,
    Dropping,
    Gate,
    MoEConfig,
    Router,
    RouterPrecision,
    RoutingScope,
    RoutingUnit,
    Score,
    Selection,
    SequenceRepresentation,
)
from moe.config.model import Activation, ModelConfig, Norm, Position, QKNorm
from moe.config.router_kinds import ROUTER_KINDS, RouterKind, routers_that
from moe.config.training import (
    OptimConfig,
    Optimizer,
    Parametrization,
    Precision,
    Schedule,
    TrainConfig,
)
from moe.config.trial import TrialConfig

__all__ = [
    "BYTE_VOCAB_SIZE",
    "GPT2_VOCAB_SIZE",
    "GROUPED_WIDTH",
    "ROUTER_KINDS",
    "Activation",
    "Balance",
    "BalanceScope",
    "ConfigError",
    "DataConfig",
    "Dropping",
    "Gate",
    "MoEConfig",
    "ModelConfig",
    "Norm",
    "OptimConfig",
    "Optimizer",
    "Parametrization",
    "Position",
    "Precision",
    "QKNorm",
    "Router",
    "RouterKind",
    "RouterPrecision",
    "RoutingScope",
    "RoutingUnit",
    "Schedule",
    "Score",
    "Selection",
    "SequenceRepresentation",
    "TrainConfig",
    "TrialConfig",
    "routers_that",
]
