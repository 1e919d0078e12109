"""Where study files before December 2026 import claims from: kept, since such files are users' own.

New ones import `orchestrator.study`.
"""

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

__all__ = [
    "All",
    "Better",
    "Claim",
    "Effect",
    "Equivalent",
    "LargerEffect",
    "NotBetter",
    "Ordered",
    "Specialises",
]
