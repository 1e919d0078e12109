"""`moe-study export-model`: a trained trial opens elsewhere, or is refused with nothing written."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors import SafetensorError

from moe.code_digest import moe_digest
from moe.data.token_store import TokenStore
from moe.interchange.read_hf import read_hf
from moe.model.transformer import MoETransformer
from moe.train.checkpoint import load_checkpoint
from moe.train.training_run import train
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study import Study
from search_spaces.cells import Cell
from search_spaces.families import family
from search_spaces.overlay import overlay
from tests.fixtures.studies import TINY

LLAMA = family("llama")


@pytest.fixture
def study():
    return Study(
        name="exported",
        question="Do others compute what we do?",
        baseline="mixtral",
        held_fixed="all else",
        scales={"smoke": overlay(TINY, {"data.tokenizer": "bpe", "data.vocab_size": 290})},
        cells=[
            Cell(name="mixtral", overrides=LLAMA),
            Cell(name="gpt2", overrides={"moe.num_experts": 0}),
            Cell(name="sequence", overrides={**LLAMA, "moe.routing_unit": "sequence"}),
            Cell(name="waits", overrides={**LLAMA, "moe.num_experts": 8}),
        ],
        seeds=(0, 1),
    )


@pytest.fixture
def trained(hold, home, study) -> dict[tuple[str, int], TrialRecord]:
    """Really trained, in this process; the last cell waits."""
    with hold(study) as session:
        while (assignment := session.ledger.next()) is not None:
            record = assignment.record
            if record.cell == "waits":
                continue
            session.ledger.started(record.number)
            result = train(
                assignment.point.config,
                TokenStore.open(session.tokens.of(assignment.point)),
                report=lambda metrics, checkpoint, n=record.number: session.ledger.progressed(
                    n, metrics
                ),
                out=home.run_folder(record.config_hash, moe_digest()),
            )
            session.ledger.completed(record.number, result.metrics, tokens=result.tokens)
        return {(record.cell, record.seed): record for record in session.records}


def test_export_opens_elsewhere_and_computes_the_same(
    trained, home, corpus_folder, moe_study, monkeypatch
):
    folder = home.root.parent / "model"
    folder.mkdir()  # an empty one will do
    named = ("exported", "--cell", "mixtral", "--seed", 1, "--home", home.root)
    code, out, err = moe_study("export-model", *named, "-o", folder)
    assert (code, out) == (0, f"{folder}\n"), err
    assert "MixtralForCausalLM" in err
    record = trained["mixtral", 1]
    final = load_checkpoint(home.run_folder(record.config_hash, moe_digest()) / "final")
    ours = MoETransformer(final.config)
    ours.load_state_dict(final.model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = json.loads((corpus_folder / "documents.jsonl").read_text().splitlines()[0])["text"]
    ids_BS = tokenizer(text, return_tensors="pt")["input_ids"][:, :16]
    with torch.no_grad():
        expected, got = ours.eval().logits(ids_BS), theirs(ids_BS).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(v, read_hf(folder)[1][k]) for k, v in final.model.items())

    for i, name in enumerate((record.config_hash, record.config_hash[:7], record.run_id)):
        again = home.root.parent / f"again{i}"
        code, out, err = moe_study("export-model", name, "-o", again, "--home", home.root, "--json")
        assert code == 0, err
        assert json.loads(out)["config_hash"] == record.config_hash
        weights = [(f / "model.safetensors").read_bytes() for f in (folder, again)]
        assert weights[0] == weights[1]

    gpt2 = home.root.parent / "gpt2"
    named = ("exported", "--cell", "gpt2", "--seed", 0, "--home", home.root)
    assert moe_study("export-model", *named, "-o", gpt2)[0] == 0
    assert json.loads((gpt2 / "config.json").read_text())["model_type"] == "gpt2"

    def refused(said, *arguments, out=home.root.parent / "nothing"):
        before = sorted(home.root.parent.iterdir())
        code, _, err = moe_study("export-model", *arguments, "-o", out, "--home", home.root)
        assert code == 2, err
        assert said in err
        assert sorted(home.root.parent.iterdir()) == before

    cell = ("exported", "--seed", 0, "--cell")
    refused("none of Mixtral, Olmoe", *cell, "sequence")
    refused("has moe.routing_unit=sequence", *cell, "sequence")
    refused("seed 0 is waiting", *cell, "waits")
    refused("Its cells: mixtral, gpt2, sequence, waits", *cell, "dense")
    refused("means several: 0, 1", "exported", "--cell", "mixtral")
    refused("none here begins with", "0" * 16)
    refused("which holds something", record.config_hash, out=folder)
    refused("the launches here are", "other_study", "--cell", "mixtral")
    with monkeypatch.context() as broken:

        def full(tensors, path, metadata):
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device")

        broken.setattr("safetensors.torch.save_file", full)
        refused("No space left", record.config_hash)
    final_folder = home.run_folder(record.config_hash, moe_digest()) / "final"
    (final_folder / "model.pt").write_bytes(b"cut")
    refused("should be", record.config_hash)
    final_folder.rename(final_folder.with_name("elsewhere"))
    refused("left no weights in", record.config_hash)
    other = trained["mixtral", 0].config_hash
    for prepared in home.tokens.iterdir():
        if prepared.is_dir():
            prepared.rename(home.tokens / f"{prepared.name}-gone")
    refused("lies beside the prepared tokens", other)
