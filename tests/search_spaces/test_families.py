from __future__ import annotations

import dataclasses

import pytest

from moe.accounting import account
from moe.config import ConfigError, TrialConfig
from moe.identity import cell_hash
from orchestrator.base.errors import BadInput
from orchestrator.cli.parameters import parse_overrides
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from search_spaces.axes import describe_axes
from search_spaces.cells import Cell
from search_spaces.families import FAMILIES, FAMILY, expand, family
from search_spaces.overlay import flatten, overlay
from studies.scales import SCALES, of_family


def test_families_choose_between_the_same_fields_and_gpt2_is_the_default():
    default = flatten(TrialConfig())
    assert {path: default[path] for path in FAMILIES["gpt2"]} == FAMILIES["gpt2"]
    assert len({tuple(fields) for fields in FAMILIES.values()}) == 1
    assert FAMILY not in {axis.path for axis in describe_axes()}


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_there_in_every_family(scale):
    assert of_family("gpt2")[scale] == SCALES[scale]
    llama = of_family("llama")[scale]
    assert (llama.model.norm, llama.model.activation) == ("rmsnorm", "swiglu")
    assert cell_hash(llama) != cell_hash(SCALES[scale])
    ours, theirs = (account(c) for c in (llama, SCALES[scale]))
    embedded = ours.params_embedding, theirs.params_embedding
    blocks = [c.params_total - e for c, e in zip((ours, theirs), embedded, strict=True)]
    assert blocks[0] == pytest.approx(blocks[1], rel=0.03)


def test_a_family_is_its_fields_and_a_field_that_is_named_wins():
    assert parse_overrides(["model.family=llama"]) == family("llama")
    mixed = parse_overrides(["model.bias=true", "model.family=llama"])
    assert mixed == FAMILIES["llama"] | {"model.bias": True}
    assert overlay(TrialConfig(), mixed).model.bias
    assert expand({"moe.top_k": 2}) == {"moe.top_k": 2}


def test_an_unknown_family_is_refused():
    with pytest.raises(BadInput, match=r"must be one of gpt2, llama; received 'lama'.*mean llama"):
        parse_overrides(["model.family=lama"])
    with pytest.raises(BadInput, match=r"names a path once; received model\.family twice"):
        parse_overrides(["model.family=llama", "model.family=gpt2"])
    with pytest.raises(ConfigError, match="must be one of gpt2, llama"):
        family("bert")


def test_any_study_asks_it(tmp_path):
    """Baselines are matched over the family's own blocks."""
    (tmp_path / "text.txt").write_text("a text")
    launch = resolve(
        load_study("quickstart"),
        overrides=expand({FAMILY: "llama"}),
        corpus_spec=f"files:{tmp_path}/text.txt",
    )
    configs = {point.cell: point.config for point in launch.points()}
    assert all(config.model.position == "rope" for config in configs.values())
    assert configs["dense-active"].d_ff_dense == 2 * configs["token-learned"].d_expert
    assert "model.activation=swiglu" in launch.name


def test_a_study_that_varies_a_part_of_the_family_refuses_it(tmp_path):
    (tmp_path / "text.txt").write_text("a text")
    study = load_study("quickstart")

    def cells(base):
        return [Cell(name=n, overrides={"model.norm": n}) for n in ("layernorm", "rmsnorm")]

    study = dataclasses.replace(study, cells=cells, claims=(), baseline="layernorm")
    with pytest.raises(BadInput, match=r"model\.norm is what this study varies"):
        resolve(study, overrides=family("llama"), corpus_spec=f"files:{tmp_path}/text.txt")
