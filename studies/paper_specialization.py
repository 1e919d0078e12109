"""Figures 2, 4 and 5 of arXiv 2402.13089: what do experts specialise in?

The paper shows bars and tests nothing. Here a probe's normalised mutual information (NMI) stands
above its permutation null and above what a random router shows on the same text. It needs
`moe-study analyze paper_specialization --probe SPEC`, once a probe: a topic (corpus:topic,
corpus:domain, a table's subject or category) and a syntax (corpus:syntax, conllu:GLOB).
"""

from __future__ import annotations

from orchestrator.study import All, Specialises, Study
from studies.paper_cells import DESIGN, PAPER_SCALES, SEEDS, mixture

TOPICS = ("topic", "domain", "subject", "category")
SYNTAX = ("syntax",)

# NMI is 1 where experts are the labels. Less than a hundredth is none, a quarter no longer weak.
PRESENT = 0.01
WEAK = 0.25

LEARNED, FROZEN, RANDOM = (
    {unit: mixture(unit, router=router) for unit in ("sequence", "token")}
    for router in ("learned", "frozen", "random")
)

STUDY = Study(
    name="paper_specialization",
    question="Do experts specialise in topics by sequence, and in syntax by token?",
    baseline=RANDOM["token"].name,
    held_fixed="tokens, learning rate, 2 of 4 experts of the dense FFN's width, layer-wise",
    scales=PAPER_SCALES,
    cells=[*LEARNED.values(), *FROZEN.values(), *RANDOM.values()],
    scale_seeds=SEEDS,
    design=DESIGN,
    claims=(
        All(
            id="C11",
            statement="sequence routing: weak topic specialisation; token routing: syntax "
            "specialisation",
            parts=(
                Specialises(
                    id="C11.topic",
                    statement="by sequence, experts go weakly with topics",
                    cell=LEARNED["sequence"].name,
                    control=RANDOM["sequence"].name,
                    labels=TOPICS,
                    at_least=PRESENT,
                    at_most=WEAK,
                ),
                Specialises(
                    id="C11.syntax",
                    statement="by token, experts go with syntax",
                    cell=LEARNED["token"].name,
                    control=RANDOM["token"].name,
                    labels=SYNTAX,
                    at_least=PRESENT,
                ),
            ),
        ),
        Specialises(
            id="C11-beyond-words",
            statement="by token, experts know more of the syntax than the token itself tells",
            cell=LEARNED["token"].name,
            labels=SYNTAX,
            at_least=0.0,
            measure="conditional_information",
        ),
    ),
)
