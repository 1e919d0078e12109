from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config import ConfigError, TrialConfig
from search_spaces.overlay import diff, flatten, get, overlay, parse_override

BASE = TrialConfig()


@settings(deadline=None, derandomize=True, max_examples=100)
@given(base=st.from_type(TrialConfig), other=st.from_type(TrialConfig))
def test_a_diff_laid_over_the_base_gives_the_other(base, other):
    assert overlay(base, diff(base, other)) == other
    assert overlay(base, {}) == base
    assert diff(base, base) == {}


@settings(deadline=None, derandomize=True, max_examples=50)
@given(config=st.from_type(TrialConfig))
def test_every_value_reads_back_from_its_text(config):
    assert overlay(BASE, flatten(config)) == config
    for path, value in flatten(config).items():
        assert parse_override(f"{path}={value}") == (path, value)
        assert type(parse_override(f"{path}={value}")[1]) is type(value)
        assert get(config, path) == value


def test_all_overrides_apply_at_once():
    two = overlay(BASE, {"moe.num_experts": 2, "moe.top_k": 2})
    four = overlay(two, {"moe.top_k": 4, "moe.num_experts": 4})
    assert (four.moe.num_experts, four.moe.top_k) == (4, 4)
    with pytest.raises(ConfigError, match=r"top_k must not exceed .*received \(4, 2\)"):
        overlay(two, {"moe.top_k": 4})


def test_the_base_is_left_as_it_was():
    overlay(BASE, {"train.seed": 7, "data.digest": "abc"})
    assert diff(TrialConfig(), BASE) == {}


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("moe.topk", "moe.top_k"),
        ("top_k", "moe.top_k"),
        ("model.num_experts", "moe.num_experts"),
        ("optim.lerning_rate", "optim.learning_rate"),
        ("moe", "num_experts"),
        ("elsewhere.x", "The sections are model, moe, data, optim, train"),
    ],
)
def test_an_unknown_path_raises_with_near_matches(path, near):
    for use in (
        lambda: overlay(BASE, {path: 1}),
        lambda: get(BASE, path),
        lambda: parse_override(f"{path}=1"),
    ):
        with pytest.raises(ConfigError) as error:
            use()
        assert repr(path) in str(error.value)
        assert near in str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("moe.top_k", 2.0),
        ("moe.top_k", "2"),
        ("moe.top_k", True),
        ("optim.learning_rate", "0.1"),
        ("optim.learning_rate", float("nan")),
        ("moe.router", "Learned"),
        ("moe.router", None),
        ("data.corpus", 3),
        ("model.d_model", [64]),
    ],
)
def test_a_wrong_type_raises_and_names_the_path(path, value):
    with pytest.raises(ConfigError, match=path):
        overlay(BASE, {path: value})


def test_a_whole_number_is_a_number():
    assert type(overlay(BASE, {"model.dropout": 0}).model.dropout) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moe.top_k", "PATH=VALUE"),
        ("=3", "PATH=VALUE"),
        ("", "PATH=VALUE"),
        ("moe.top_k=two", "must be an integer; received 'two'"),
        ("moe.top_k=2.5", "must be an integer"),
        ("moe.top_k=", "must be an integer"),
        ("moe.top_k=" + "9" * 5000, "must be an integer"),
        ("optim.learning_rate=fast", "must be a number; received 'fast'"),
        ("moe.router=lerned", "Did you mean learned?"),
        ("moe.router=zzz", "one of learned, frozen, random, hash, label"),
    ],
)
def test_an_override_that_does_not_read_raises(text, message):
    with pytest.raises(ConfigError) as error:
        parse_override(text)
    assert message in str(error.value)


def test_text_is_taken_as_it_is():
    assert parse_override("data.corpus=files:a=b c.txt") == ("data.corpus", "files:a=b c.txt")
    assert parse_override(" moe.top_k = 3 ") == ("moe.top_k", 3)
    assert parse_override("optim.learning_rate=1e-3") == ("optim.learning_rate", 0.001)
