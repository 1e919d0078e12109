"""What both files of planted claims judge with."""

from __future__ import annotations

from orchestrator.report.verdicts import judge
from orchestrator.study import Specialises


def one(claim, values, **options):
    (verdict,) = judge([claim], values, **options)
    return verdict


WEAK = Specialises(
    id="C11.topic",
    statement="weak topic specialisation",
    cell="seq",
    labels=("topic",),
    at_least=0.0,
    at_most=0.1,
)
