"""Whether the rule that sends a sequence through its experts by itself holds on this processor.

`moe.model.experts.by_sequence` counts products and knows no processor: each row times the path that
it chooses against the one that it does not, forward and backward, on one thread, over widths, with
few and with many sequences an expert. A ratio above 1 is time that the other path would have saved.

    python benchmarks/layer_paths.py [--repeats 7] [--widths 48,64,128,256,768]
"""

from __future__ import annotations

import argparse
import itertools

import torch
from common import MIN_REPEATS, Row, medians, print_result, row, tell
from layer_speed import ACTIVATIONS, Case, Shape

from moe.model import experts

GOAL = 1.05
CONTEXT = 256
# Experts, chosen, sequences, load. One sequence at most an expert, two, all on the same two; many.
SPREADS = (
    (16, 2, 4, "balanced"),
    (4, 2, 4, "balanced"),
    (16, 2, 4, "collapsed"),
    (64, 8, 8, "balanced"),
    (4, 2, 16, "balanced"),
)


def row_of(case: Case, repeats: int) -> Row:
    rule = experts.by_sequence
    layer = case.layers(0.0)["ours"]

    def by(path):
        def step() -> None:
            experts.by_sequence = path
            try:
                case.step(layer)
            finally:
                experts.by_sequence = rule

        return step

    chosen: list[bool] = []
    by(lambda *given: chosen.append(rule(*given)) or chosen[-1])()
    (is_by_sequence,) = chosen
    seconds = medians(
        {
            "chosen": by(lambda *given: is_by_sequence),
            "other": by(lambda *given: not is_by_sequence),
        },
        repeats=repeats,
    )
    found = row(
        f"{case}, {'by sequence' if is_by_sequence else 'by expert'}",
        baseline="other_path",
        ours=seconds["chosen"],
        theirs=seconds["other"],
        unit="s",
        goal=GOAL,
    )
    tell(f"{found['ratio']:.3f}  {found['case']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--widths", default="48,64,128,256,768")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens of a sequence")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for width, (num_experts, top_k, sequences, load), activation in itertools.product(
        map(int, options.widths.split(",")), SPREADS, ACTIVATIONS
    ):
        shape = Shape(
            width, 4 * width // max(1, top_k // 2), num_experts, top_k, sequences * options.context
        )
        case = Case(shape, "sequence", load, activation, options.context, "cpu", torch.float32)
        rows.append(row_of(case, options.repeats))
    print_result("layer_paths", rows, packages=("torch", "transformers"))


if __name__ == "__main__":
    main()
