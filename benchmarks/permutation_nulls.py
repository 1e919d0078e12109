"""A probe's measures with their permutation nulls, against a loop over scikit-learn's NMI.

The probe is as large as `moe-study analyze` makes it by default: 100,000 tokens in words and
documents, 17 labels, 4 layers of 4 experts with 2 chosen, 200 permutations. The loop draws the same
kind of null (words exchanged, all layers alike); it measures the NMI alone, so the row against it
does too. The rows against `limit` are all that `analyze` does for one model: NMI, information
beyond the word form, purity, OLMoE's measures, and once a probe the word-form baseline.

    python benchmarks/permutation_nulls.py [--tokens 100000] [--permutations 200] [--repeats 7]
"""

from __future__ import annotations

import argparse

import numpy as np
from common import limit, medians, print_result, row, tell
from sklearn.metrics import normalized_mutual_info_score

from moe.analysis.analyze import Choices, analyze, probe_word_form
from moe.analysis.permutation_test import association

LAYERS, EXPERTS, TOP_K, LABELS, WORDS = 4, 4, 2, 17, 8000
GOAL_S = 10.0


def make_choices(num_tokens: int) -> Choices:
    """Words of one to three tokens, often with the label that their form has most often."""
    rng = np.random.default_rng(0)
    unit_T = np.repeat(np.arange(num_tokens), rng.integers(1, 4, num_tokens))[:num_tokens]
    num_units = int(unit_T[-1]) + 1
    form_U = rng.zipf(1.3, num_units) % WORDS
    label_U = np.where(rng.random(num_units) < 0.8, form_U % LABELS, rng.integers(0, LABELS))
    score_MTN = rng.normal(size=(LAYERS, num_tokens, EXPERTS))
    score_MTN += rng.normal(size=(LABELS, EXPERTS))[label_U[unit_T]] / 4
    document_T = unit_T // 20
    return Choices(
        expert_MTK=np.argsort(-score_MTN, axis=2)[:, :, :TOP_K].astype(np.int16),
        layers=tuple(range(LAYERS)),
        num_experts=EXPERTS,
        routing_unit="token",
        token_T=form_U[unit_T],
        label_T=label_U[unit_T],
        labels=tuple(map(str, range(LABELS))),
        labelled_unit="span",
        unit_T=unit_T,
        document_T=document_T,
        sequence_T=document_T,
    )


def loop(choices: Choices, permutations: int) -> np.ndarray:
    """NMI by layer, [P + 1, M], of all K choices as assignments."""
    rng = np.random.default_rng(0)
    first_U = np.unique(choices.unit_T, return_index=True)[1]
    label_U = choices.label_T[first_U]
    values = []
    for p in range(permutations + 1):
        drawn_U = rng.permutation(label_U) if p else label_U
        label_A = np.repeat(drawn_U[choices.unit_T], TOP_K)
        values.append(
            [
                normalized_mutual_info_score(label_A, expert_TK.ravel(), average_method="geometric")
                for expert_TK in choices.expert_MTK
            ]
        )
    return np.array(values)


def ours(choices: Choices, permutations: int) -> np.ndarray:
    return association(
        choices.expert_MTK,
        choices.label_T,
        num_experts=EXPERTS,
        unit_T=choices.unit_T,
        exchanged="label",
        num_permutations=permutations,
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    choices = make_choices(options.tokens)
    few = max(1, options.permutations // 20)  # the loop's time grows with their number, evenly
    assert np.allclose(ours(choices, 1)[0], loop(choices, 1)[0]), "both measure the same"
    word_form = probe_word_form(choices, num_permutations=options.permutations)

    def whole() -> None:
        analyze(
            choices,
            cell="c",
            seed=0,
            num_permutations=options.permutations,
            word_form=word_form,
        )

    taken = medians(
        {
            "ours": lambda: ours(choices, few),
            "loop": lambda: loop(choices, few),
            "analyze": whole,
            "word_form": lambda: probe_word_form(choices, num_permutations=options.permutations),
        },
        repeats=options.repeats,
    )
    tell(f"thread CPU seconds, medians of {options.repeats}: {taken}")
    case = f"T{options.tokens}-P{options.permutations}-M{LAYERS}-N{EXPERTS}-K{TOP_K}-L{LABELS}"
    short = case.replace(f"P{options.permutations}", f"P{few}")
    rows = [
        row(
            f"{short} NMI",
            baseline="sklearn",
            ours=taken["ours"],
            theirs=taken["loop"],
            unit="s",
            goal=1.0,
        ),
        limit(f"{case} analyze one model", ours=taken["analyze"], at_most=GOAL_S, unit="s"),
        limit(f"{case} word form of a probe", ours=taken["word_form"], at_most=GOAL_S, unit="s"),
    ]
    print_result("specialization", rows, packages=("numpy", "scikit-learn"))


if __name__ == "__main__":
    main()
