"""A mixture that starts from a finished dense run: copies, refusals, and resuming to the bit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from moe.config import ConfigError
from moe.config.upcycling_rules import require_upcyclable
from moe.identity import config_hash
from moe.model.transformer import MoETransformer
from moe.model.upcycling import upcycle
from moe.train.checkpoint import load_checkpoint
from moe.train.command import main
from moe.train.training_run import resolve, train


def trained(config, store, out, **more):
    return train(config, store, report=lambda metrics, checkpoint: None, out=out, **more)


LLAMA = {"norm": "rmsnorm", "position": "rope", "activation": "swiglu", "bias": False}


@pytest.mark.parametrize("blocks", [{}, LLAMA | {"tied_embeddings": False, "qk_norm": "head"}])
@pytest.mark.parametrize("first_dense", [0, 1])
def test_mixture_begins_as_the_dense_model(make_config, blocks, first_dense):
    dense = MoETransformer(make_config(**blocks))
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = MoETransformer(
        make_config(**blocks, num_experts=4, top_k=2, first_dense_layers=first_dense, seed=5)
    )
    router = model.moe_layers()[0].router.weight.clone()
    upcycle(model, dense.state_dict())
    ids_BS = torch.randint(0, 257, (2, 8))
    with torch.no_grad():
        expected, got = dense.eval().logits(ids_BS), model.eval().logits(ids_BS)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.moe_layers()[0].router.weight, router)
    experts = model.moe_layers()[0].experts.weight_in
    assert torch.equal(experts[0], experts[3])
    experts.sum().backward()  # copies, not views of one


def test_a_dense_model_begins_afresh_whatever_the_setting_says(make_config, store, tmp_path):
    """It has the hash of one without the setting (`moe.identity`), so it must be that run."""
    dense = resolve(make_config(seed=3), store)
    trained(dense, store, tmp_path / "dense")
    asked = make_config(upcycled_from=config_hash(dense))
    assert asked.moe.upcycled_from
    assert config_hash(asked) == config_hash(make_config())
    run = trained(asked, store, tmp_path / "asked", dense=tmp_path / "dense")
    afresh = trained(make_config(), store, tmp_path / "afresh")
    assert [e["val/loss"] for e in run.curve] == [e["val/loss"] for e in afresh.curve]
    trained(asked, store, tmp_path / "without")  # and needs no weights


def test_run_starts_from_dense_weights_and_resumes_to_the_bit(make_config, store, tmp_path, capsys):
    dense = resolve(make_config(seed=3), store)
    trained(dense, store, tmp_path / "dense")
    config = make_config(num_experts=4, top_k=2, dropout=0.1, upcycled_from=config_hash(dense))
    assert config.moe.upcycled_from
    whole = trained(config, store, tmp_path / "whole", dense=tmp_path / "dense")

    class KilledError(Exception):
        pass

    def kill(metrics, checkpoint):
        raise KilledError

    out = tmp_path / "killed"
    with pytest.raises(KilledError):
        train(config, store, report=kill, out=out, dense=tmp_path / "dense", checkpoint_every=1)
    trained(config, store, out)  # it goes on without the dense run
    one, other = (load_checkpoint(tmp_path / name / "final").model for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())

    afresh = dataclasses.replace(config, moe=dataclasses.replace(config.moe, upcycled_from=""))
    fresh = trained(afresh, store, tmp_path / "fresh")
    assert fresh.curve[0]["val/loss"] != whole.curve[0]["val/loss"]
    other_seed = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=1))
    second = trained(other_seed, store, tmp_path / "second", dense=tmp_path / "dense")
    assert second.curve[0]["val/loss"] != whole.curve[0]["val/loss"]

    file = tmp_path / "config.json"
    file.write_text(config.to_json())
    command = [str(file), "--tokens", str(store.path), "--out", str(tmp_path / "alone")]
    for dense_given, said in (
        ([], "Pass `--dense DIR`"),
        (["--dense", str(tmp_path)], "does not hold them"),
        (["--dense", str(tmp_path / "fresh")], "Give that run's folder"),
    ):
        assert main([*command, *dense_given]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "alone").exists()
    assert main([*command, "--dense", str(tmp_path / "dense"), "--checkpoint-every", "0"]) == 0
    last = json.loads((tmp_path / "alone/result.json").read_text())["metrics"]
    assert last["val/loss"] == whole.metrics["val/loss"]


@pytest.mark.parametrize(
    ("mixture", "dense", "said"),
    [
        ({"d_expert": 8}, {}, r"as wide as it is; received \(8, 32\)"),
        ({}, {"num_experts": 2, "top_k": 2}, "names a trial without experts"),
        ({}, {"norm": "rmsnorm"}, "model.norm='layernorm' and 'rmsnorm'"),
        ({}, {"num_layers": 3}, "model.num_layers=2 and 3"),
        ({"first_dense_layers": 1, "ffn_multiple": 2.0}, {}, "dense blocks of the mixture"),
    ],
)
def test_dense_model_that_does_not_fit_is_refused(make_config, mixture, dense, said):
    config = make_config(**{"num_experts": 4, "top_k": 2} | mixture)
    with pytest.raises(ConfigError, match=said):
        require_upcyclable(config, make_config(**dense))


def test_name_that_is_no_hash_and_shared_experts_are_refused(make_config):
    with pytest.raises(ConfigError, match="16 hexadecimal digits"):
        make_config(num_experts=4, top_k=2, upcycled_from="dense-1x")
    with pytest.raises(ConfigError, match="no shared experts"):
        make_config(num_experts=4, top_k=2, shared_experts=1, upcycled_from="0" * 16)
