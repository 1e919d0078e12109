"""What a study file imports of this floor: the study, its design, how it stops early,
what it claims, what bounds its results."""

from orchestrator.study.claims import (
    All,
    Better,
    Claim,
    Effect,
    Equivalent,
    LargerEffect,
    NotBetter,
    Ordered,
    Specialises,
)
from orchestrator.study.constraints import Constraint
from orchestrator.study.design import Fixed, Sequential
from orchestrator.study.early_stopping import EarlyStopping
from orchestrator.study.study import Study

__all__ = [
    "All",
    "Better",
    "Claim",
    "Constraint",
    "EarlyStopping",
    "Effect",
    "Equivalent",
    "Fixed",
    "LargerEffect",
    "NotBetter",
    "Ordered",
    "Sequential",
    "Specialises",
    "Study",
]
