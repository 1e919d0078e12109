"""Which labels keep sequences apart: those that the study follows; and what it costs."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from moe.data.dropped_text import expected_dropped_share
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.prepared_corpora import Tokens
from orchestrator.study import Specialises
from orchestrator.study.plan import plan
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space

BY_LANGUAGE = {"moe.router": "label", "moe.top_k": 1, "moe.routing_unit": "sequence"}
COLUMNS = "domain+language+licence+year"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Short documents of which nearly each has a combination of labels of its own."""
    draw = random.Random(7)
    path = tmp_path_factory.mktemp("labelled") / "labelled.jsonl"
    with path.open("w") as file:
        for _ in range(300):
            row = {"text": " ".join(draw.choices(["river", "stone", "lamp", "boat"], k=22))}
            row |= {"language": draw.choice(["en", "de"]), "domain": f"site{draw.randrange(12)}"}
            row |= {"year": str(draw.randrange(2010, 2024)), "licence": draw.choice(["mit", "cc0"])}
            file.write(json.dumps(row) + "\n")
    return f"files:{path}"


def labels_of(study, labelled, **fields):
    points = resolve(study, corpus_spec=labelled, **fields).points()
    assert len({point.config.data.digest for point in points}) == 1
    return {point.config.data.sequence_labels for point in points}


def with_cell(study, overrides):
    return dataclasses.replace(
        study,
        cells=[*study.cells_over(study.scales["smoke"]), Cell(name="by", overrides=overrides)],
    )


def test_a_column_that_nothing_follows_keeps_nothing_apart(grid_study, labelled):
    assert labels_of(grid_study, labelled) == {""}


def test_all_cells_keep_apart_what_one_router_follows(grid_study, labelled):
    study = with_cell(grid_study, BY_LANGUAGE)
    assert labels_of(study, labelled) == {"language"}
    assert labels_of(study, labelled, overrides={"moe.label_column": "licence"}) == {"licence"}


def test_labels_of_a_claim_are_kept_apart_where_the_corpus_has_them(grid_study, labelled, corpus):
    claim = Specialises(
        id="S", statement="experts go with domains", cell="learned", labels=("topic", "domain"),
        at_least=0.1,
    )  # fmt: skip
    study = dataclasses.replace(grid_study, claims=(claim,))
    assert labels_of(study, labelled) == {"domain"}
    assert labels_of(study, corpus) == {""}


def test_a_space_keeps_apart_what_any_of_its_points_may_follow(sampled_study, labelled):
    axes = {
        "moe.router": Choice(("learned", "label")),
        "moe.label_column": Choice(("language", "year")),
    }
    base = sampled_study.scales["smoke"]
    base = dataclasses.replace(base, moe=dataclasses.replace(base.moe, top_k=1, gate="switch"))
    study = dataclasses.replace(sampled_study, space=Space(axes=axes), scales={"smoke": base})
    launch = resolve(study, corpus_spec=labelled)
    assert launch.base_point().config.data.sequence_labels == "language+year"


def test_a_column_can_be_asked_for(grid_study, labelled):
    asked = {"data.sequence_labels": "year+domain"}
    assert labels_of(grid_study, labelled, overrides=asked) == {"domain+year"}
    with pytest.raises(BadInput, match=r"received 'mood', and .* has domain, language, licence"):
        resolve(grid_study, corpus_spec=labelled, overrides={"data.sequence_labels": "mood"})


@pytest.mark.parametrize("columns", ["", "language", COLUMNS])
@pytest.mark.parametrize("context", [16, 128])
def test_the_share_told_beforehand_is_that_of_the_tokens(
    grid_study, labelled, tmp_path, columns, context
):
    overrides = {"data.sequence_labels": columns} if columns else {}
    launch = resolve(grid_study, corpus_spec=labelled, overrides=overrides)
    data = launch.base_point().config.data
    store = TokenStore.open(prepare(data, tmp_path))
    told = expected_dropped_share(data, launch.corpora[data.corpus], context)
    assert told == pytest.approx(store.dropped_share("train", context))


def test_plan_and_run_tell_what_is_dropped(grid_study, labelled, tmp_path):
    free = resolve(grid_study, corpus_spec=labelled)
    assert plan(free)["notes"] == []
    home = Home(tmp_path)
    home.create()
    assert Tokens(free, home, None).lines() == []
    asked = {"data.sequence_labels": COLUMNS}
    apart = resolve(grid_study, corpus_spec=labelled, overrides=asked)
    (line,) = plan(apart)["notes"]
    assert "% of the training tokens are never trained on" in line
    assert "'domain' and 'language' and 'licence' and 'year'" in line
    assert "Lower model.context_length" in line
    tokens = Tokens(apart, home, None)
    assert tokens.lines() == [line]
    assert tokens.lines() == []


def test_a_plan_of_a_corpus_that_was_not_read_says_so(grid_study, tmp_path):
    launch = resolve(grid_study, corpus_spec=f"files:{tmp_path}/none.txt", need_corpus=False)
    (line,) = plan(launch)["notes"]
    assert "was not read" in line
    assert "matches none" in line
