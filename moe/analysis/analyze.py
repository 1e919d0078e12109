"""One trained model on one probe: what it chose, and what its experts specialise in.

Shapes: T tokens, M layers, K experts chosen for a token, N experts, P permutations.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from moe.analysis import olmoe
from moe.analysis.permutation_test import Null, Side, association, conditional_information
from moe.analysis.specialization import (
    WordForm,
    contingency,
    normalized_mutual_information,
    purity,
    renumber,
    word_form_baseline,
)
from moe.config import RoutingUnit
from moe.probes.alignment import NO_LABEL
from moe.probes.probe_sources import LabelledUnit

ExchangedUnit = Literal["sequence", "document"]
_OF_TOKENS = ("token_T", "label_T", "unit_T", "document_T", "sequence_T")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The experts that one trained model chose on the tokens of one probe.

    `expert_MTK` is [layers, T, K], `layers` names the blocks. Tokens without a label have
    `NO_LABEL`. Documents follow one another. `language_T`, if the probe has it, is that of each
    token's document, as a number. `unit_T` numbers what was labelled as one: a span of characters
    (a word, however many tokens it takes) or a document. `sequence_T` numbers what was routed as
    one at sequence unit; a sequence holds one document or a part of it. `baseline_MTK`, if given,
    is what a randomly drawn linear router chooses from the same hidden states.

    Raises ValueError if the parts do not fit together.
    """

    expert_MTK: np.ndarray
    layers: tuple[int, ...]
    num_experts: int
    routing_unit: RoutingUnit
    token_T: np.ndarray
    label_T: np.ndarray
    labels: tuple[str, ...]
    labelled_unit: LabelledUnit
    unit_T: np.ndarray
    document_T: np.ndarray
    sequence_T: np.ndarray
    language_T: np.ndarray | None = None
    baseline_MTK: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.expert_MTK.ndim != 3 or len(self.expert_MTK) != len(self.layers):
            raise ValueError(
                "choices are [layers, tokens, chosen experts] with a name for each layer; received "
                f"the shape {self.expert_MTK.shape} and {len(self.layers)} names. Reshape them."
            )
        lengths = {name: len(getattr(self, name)) for name in _OF_TOKENS} | {
            "expert_MTK": self.expert_MTK.shape[1]
        }
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"all parts of the choices have one entry a token; received {lengths}. "
                "Pass what belongs to the same tokens."
            )
        if self.expert_MTK.size and not (
            self.expert_MTK.min() >= 0 and self.expert_MTK.max() < self.num_experts
        ):
            raise ValueError(
                f"experts are numbered 0 to {self.num_experts - 1}; received "
                f"{self.expert_MTK.min()} to {self.expert_MTK.max()}. Check num_experts."
            )

    def labelled(self) -> Choices:
        """The same without the tokens that have no label; raises ValueError if none has one."""
        kept = np.flatnonzero(self.label_T != NO_LABEL)
        if len(kept) == 0:
            raise ValueError(
                f"a probe needs labelled tokens; received {len(self.label_T)} tokens without a "
                "label. Choose a probe whose labels reach the text."
            )
        tokens = {name: getattr(self, name)[kept] for name in _OF_TOKENS}
        if self.language_T is not None:
            tokens["language_T"] = self.language_T[kept]
        baseline = None if self.baseline_MTK is None else self.baseline_MTK[:, kept]
        return dataclasses.replace(
            self, expert_MTK=self.expert_MTK[:, kept], baseline_MTK=baseline, **tokens
        )

    @property
    def exchanged_unit(self) -> ExchangedUnit:
        """What the null exchanges, or within which it shifts: no finer than what was routed or
        labelled as one, and for words that are routed token by token their documents."""
        if self.labelled_unit == "span" and self.routing_unit == "sequence":
            return "sequence"
        return "document"

    @property
    def exchanged_side(self) -> Side:
        """Which side is constant within that unit."""
        if self.labelled_unit == "document":
            return "label"
        # A sequence's route is one, while its tokens' labels differ: then routes change places.
        return "route" if self.routing_unit == "sequence" else "neither"

    def words(self) -> np.ndarray:
        """What the text itself tells of each token, as a number [T]: of a labelled word its form
        (all of its tokens), the place in it, and the language; of other text the token and the
        language."""
        parts = [self.token_T]
        if self.labelled_unit == "span":
            parts += list(_forms_and_places(self.token_T, self.unit_T))
        if self.language_T is not None:
            parts.append(self.language_T)
        return np.unique(np.stack(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer of one trained model on one probe; `layer` is None in the mean over layers.

    Information is in nats. `nmi_excess` = nmi - nmi_null_mean. `purity` is at least
    `commonest_label_share`. Columns that start with `conditional` are I(expert; label | word), the
    word as `Choices.words` has it.
    `nmi_random_router` is None where no baseline was computed. The shares are OLMoE's
    (`moe.analysis.olmoe.Summary`), the first two beside `chance_share`. `n_units` counts what the
    null exchanges.
    """

    cell: str
    seed: int
    layer: int | None
    nmi: float
    nmi_null_mean: float
    nmi_null_low: float
    nmi_null_high: float
    p_value: float
    nmi_excess: float
    purity: float
    commonest_label_share: float
    nmi_random_router: float | None
    chance_share: float
    domain_specialization: float
    vocabulary_specialization: float | None
    vocabulary_first_choice: float
    co_activation: float | None
    conditional_information: float
    conditional_null_mean: float
    conditional_null_high: float
    conditional_p_value: float
    word_form_accuracy: float
    word_form_accuracy_left_out: float
    word_form_nmi: float
    word_form_nmi_null_mean: float
    exchanged_unit: str
    n_units: int
    n_tokens: int
    n_labels: int
    n_permutations: int

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def analyze(
    choices: Choices,
    *,
    cell: str,
    seed: int,
    num_permutations: int = 200,
    word_form: WordForm | None = None,
) -> tuple[Row, ...]:
    """One row a layer, then the mean over layers with its own null (`layer` None).

    The permutations are the same for every model on the same probe. `word_form` saves the
    baseline's time where several models are analysed on one probe (`probe_word_form`).
    Raises ValueError if no token has a label, or for less than one permutation.
    """
    if num_permutations < 1:
        raise ValueError(
            f"a null needs at least one permutation; received {num_permutations}. 200 are usual, "
            "and no p-value is below 1 / (permutations + 1)."
        )
    word_form = word_form or probe_word_form(choices, num_permutations=num_permutations)
    choices = choices.labelled()
    exchanged = choices.exchanged_unit
    unit_T = renumber(choices.sequence_T if exchanged == "sequence" else choices.document_T)
    how = {
        "num_experts": choices.num_experts,
        "unit_T": unit_T,
        "exchanged": choices.exchanged_side,
        "num_permutations": num_permutations,
        "seed": 0,
    }
    nmi_PM = association(choices.expert_MTK, choices.label_T, **how)
    beyond_PM = conditional_information(choices.expert_MTK, choices.label_T, choices.words(), **how)
    purity_M = np.array([purity(count_NL) for count_NL in _tables(choices, choices.expert_MTK)])
    random_M = None
    if choices.baseline_MTK is not None:
        tables = _tables(choices, choices.baseline_MTK)
        random_M = np.array([normalized_mutual_information(count_NL) for count_NL in tables])
    count_L = np.bincount(choices.label_T)
    summaries = [
        olmoe.summary(
            expert_TK,
            choices.label_T,
            choices.token_T,
            num_experts=choices.num_experts,
            num_labels=len(choices.labels),
        )
        for expert_TK in choices.expert_MTK
    ]

    def row(layer: int | None, columns: slice) -> Row:
        nmi = Null.of(*_split(nmi_PM[:, columns].mean(axis=1)))
        beyond = Null.of(*_split(beyond_PM[:, columns].mean(axis=1)))
        return Row(
            cell=cell,
            seed=seed,
            layer=layer,
            nmi=nmi.observed,
            nmi_null_mean=nmi.mean,
            nmi_null_low=nmi.low,
            nmi_null_high=nmi.high,
            p_value=nmi.p_value,
            nmi_excess=nmi.observed - nmi.mean,
            purity=float(purity_M[columns].mean()),
            commonest_label_share=float(count_L.max() / count_L.sum()),
            nmi_random_router=None if random_M is None else float(random_M[columns].mean()),
            chance_share=choices.expert_MTK.shape[2] / choices.num_experts,
            **_mean_of(summaries[columns]),
            conditional_information=beyond.observed,
            conditional_null_mean=beyond.mean,
            conditional_null_high=beyond.high,
            conditional_p_value=beyond.p_value,
            word_form_accuracy=word_form.accuracy,
            word_form_accuracy_left_out=word_form.accuracy_left_out,
            word_form_nmi=word_form.nmi,
            word_form_nmi_null_mean=word_form.nmi_null_mean,
            exchanged_unit=exchanged,
            n_units=int(unit_T.max()) + 1,
            n_tokens=len(choices.label_T),
            n_labels=int(np.count_nonzero(count_L)),
            n_permutations=num_permutations,
        )

    rows = [row(layer, slice(m, m + 1)) for m, layer in enumerate(choices.layers)]
    return (*rows, row(None, slice(None)))


def _forms_and_places(token_T: np.ndarray, unit_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each token the form of its unit, as a number, and its place in it."""
    first_U = np.flatnonzero(np.diff(unit_T, prepend=-1))
    length_U = np.diff(first_U, append=len(unit_T))
    number_of: dict[bytes, int] = {}
    form_U = [
        number_of.setdefault(token_T[first : first + length].tobytes(), len(number_of))
        for first, length in zip(first_U, length_U, strict=True)
    ]
    place_T = np.arange(len(unit_T)) - np.repeat(first_U, length_U)
    return np.repeat(form_U, length_U), place_T


def probe_word_form(choices: Choices, *, num_permutations: int = 200) -> WordForm:
    """The word-form baseline of the probe that the choices were made on, whatever the model."""
    choices = choices.labelled()
    return word_form_baseline(
        choices.token_T,
        choices.label_T,
        choices.unit_T,
        num_permutations=num_permutations,
    )


def _tables(choices: Choices, expert_MTK: np.ndarray) -> list[np.ndarray]:
    shape = {"num_experts": choices.num_experts, "num_labels": len(choices.labels)}
    return [contingency(expert_TK, choices.label_T, **shape) for expert_TK in expert_MTK]


def shares(choices: Choices) -> pa.Table:
    """OLMoE's shares of the labelled tokens in full, by layer (`moe.analysis.olmoe.SCHEMA`)."""
    labelled = choices.labelled()
    return olmoe.shares(
        labelled.expert_MTK,
        labelled.label_T,
        labelled.token_T,
        layers=labelled.layers,
        num_experts=labelled.num_experts,
        labels=labelled.labels,
    )


def _mean_of(summaries: list[olmoe.Summary]) -> dict[str, float | None]:
    """Over layers; a measure that no layer has (they have the same tokens and K) stays None."""
    columns = {
        f.name: [getattr(s, f.name) for s in summaries] for f in dataclasses.fields(olmoe.Summary)
    }
    return {name: None if None in v else float(np.mean(v)) for name, v in columns.items()}


def _split(values_P: np.ndarray) -> tuple[float, np.ndarray]:
    return float(values_P[0]), values_P[1:]
