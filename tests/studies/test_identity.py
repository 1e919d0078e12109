"""What a configuration is called does not change when the code learns a new axis.

`golden/hashes.txt` holds the hashes of all studies at all scales. Those of its first version were
written by commit 016369d, before identity had versions. To accept new studies or changed cells:

    python tests/studies/test_identity.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moe import identity
from moe.config import ConfigError, TrialConfig
from moe.identity import cell_hash, config_hash
from orchestrator.study import Study
from orchestrator.study.library import load_study, study_names
from search_spaces.domains import Choice
from search_spaces.overlay import flatten, overlay
from studies.scales import CPU

GOLDEN = Path(__file__).parents[1] / "golden" / "hashes.txt"
DIGEST = "0123456789abcdef"  # stands for a corpus: no text is read here


@cache
def configs() -> list[tuple[str, TrialConfig]]:
    """Every cell of every study at every scale; of a space its base and the ends of each axis."""
    return [
        (f"{name}/{scale}/{cell}", config)
        for name, study in ((name, load_study(name)) for name in study_names())
        for scale, base in study.scales.items()
        for cell, config in _cells(study, base)
    ]


@cache
def distinct() -> list[tuple[str, TrialConfig]]:
    """Those, once where several studies have one."""
    return list({config: (name, config) for name, config in configs()}.values())


def _cells(study: Study, base: TrialConfig) -> Iterator[tuple[str, TrialConfig]]:
    if study.is_grid:
        yield from ((cell.name, cell.config(base)) for cell in study.cells_over(base))
        return
    yield "base", base
    space = study.space(base) if callable(study.space) else study.space
    for path, domain in space.axes.items():
        ends = domain.values if isinstance(domain, Choice) else (domain.low, domain.high)
        for value in ends:
            try:
                yield f"{path}={value}", overlay(base, {path: value})
            except ConfigError:
                continue  # needs another axis beside it


def hashes(config: TrialConfig) -> str:
    """Of the cell, and of its run with seed 7 on one corpus."""
    run = overlay(config, {"data.digest": DIGEST, "train.seed": 7})
    return f"{cell_hash(config)} {config_hash(run)}"


def lines() -> list[str]:
    return [f"{name} {hashes(config)}" for name, config in configs()]


def test_every_hash_is_as_kept():
    assert lines() == GOLDEN.read_text().splitlines()


def with_axis(config: TrialConfig, section: str, name: str, value: Any) -> TrialConfig:
    """`config` as a later version of the code has it: `section` knows one more axis."""
    own = getattr(config, section)
    later = later_section(type(own), name, value)
    return dataclasses.replace(config, **{section: later(**dataclasses.asdict(own))})


@cache
def later_section(own: type, name: str, value: Any) -> type:
    return dataclasses.make_dataclass(
        f"Later{own.__name__}",
        [(name, type(value), dataclasses.field(default=value))],
        bases=(own,),
        frozen=True,
        kw_only=True,
    )


def with_section(config: TrialConfig) -> TrialConfig:
    return later_config()(**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)})


@cache
def later_config() -> type:
    section = dataclasses.make_dataclass("Sparsity", [("share", float, 0.0)], frozen=True)
    return dataclasses.make_dataclass(
        "LaterConfig",
        [("sparsity", section, dataclasses.field(default_factory=section))],
        bases=(TrialConfig,),
        frozen=True,
        kw_only=True,
    )


def hashed(config: TrialConfig) -> tuple[str, str]:
    data = dataclasses.replace(config.data, digest=DIGEST)
    return cell_hash(config), config_hash(dataclasses.replace(config, data=data))


@pytest.mark.parametrize("section", ["model", "moe", "data", "optim", "train"])
def test_a_new_axis_at_its_default_changes_no_hash(section):
    for name, config in distinct():
        later = with_axis(config, section, "new_axis", 3)
        assert hashed(later) == hashed(config), name
        if section == "moe" and config.moe.is_dense:
            continue
        moved = dataclasses.replace(getattr(later, section), new_axis=4)
        changed = hashed(dataclasses.replace(later, **{section: moved}))
        assert not set(changed) & set(hashed(config)), name


def test_a_new_axis_of_the_mixture_is_no_part_of_a_dense_model():
    dense = overlay(CPU, {"moe.num_experts": 0})
    later = with_axis(dense, "moe", "new_axis", (1, 2))
    moved = dataclasses.replace(later, moe=dataclasses.replace(later.moe, new_axis=(3,)))
    assert hashed(moved) == hashed(dense)


def test_a_new_section_at_its_defaults_changes_no_hash():
    for name, config in distinct():
        later = with_section(config)
        assert hashed(later) == hashed(config), name
        section = type(later.sparsity)
        moved = dataclasses.replace(later, sparsity=section(share=0.5))
        assert not set(hashed(moved)) & set(hashed(config)), name


def test_a_list_that_equals_a_tuple_is_the_default():
    """A config that was read from JSON has lists."""
    later = with_axis(CPU, "model", "new_axis", (1, 2))
    read = dataclasses.replace(later, model=dataclasses.replace(later.model, new_axis=[1, 2]))
    assert hashed(read) == hashed(CPU)


@pytest.mark.parametrize("section", ["model", "moe", "data", "optim", "train"])
def test_another_default_of_an_old_axis_changes_no_hash(section, monkeypatch):
    """Neither of a config that has the old default, nor of what is without effect in it."""
    before = [hashed(config) for _, config in distinct()]
    for field in dataclasses.fields(getattr(CPU, section)):
        other = field.default + ("x" if type(field.default) is str else 1)
        monkeypatch.setattr(field, "default", other)
    assert [hashed(config) for _, config in distinct()] == before


def test_an_axis_that_went_away_keeps_the_hashes_of_its_default(monkeypatch):
    whole = TrialConfig.to_dict
    before = hashed(CPU)

    def shorter(config: TrialConfig) -> dict[str, Any]:
        values = whole(config)
        assert values["moe"].pop("layer_stride") == 1
        return values

    monkeypatch.setattr(TrialConfig, "to_dict", shorter)
    assert hashed(CPU) == before


def test_every_axis_has_its_default_in_the_identity():
    """A default that is changed later would otherwise change what its hashes stand for."""
    first = {
        f"{s}.{name}": value
        for s, own in identity._VERSION_1.items()
        for name, value in own.items()
    }
    assert not set(first) & set(identity._LATER)
    later = {path: value for path, value in flatten(TrialConfig()).items() if path not in first}
    assert later == identity._LATER, (
        "an axis was added, or its default changed. Add one line to _LATER in moe/identity.py with "
        "the default under which runs stay what they were; the default of an axis that is there "
        "already is never changed: give studies or scales the new value instead."
    )


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(lines()) + "\n")
