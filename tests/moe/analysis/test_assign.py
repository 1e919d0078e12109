"""Choices of real models, against one sequence at a time, and the way from a run to rows."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from moe.analysis.analyze import analyze
from moe.analysis.assign import choose, load_final
from moe.config import DataConfig, ModelConfig, MoEConfig, TrainConfig, TrialConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.data.tokenizer import ByteTokenizer, open_tokenizer
from moe.model.transformer import MoETransformer
from moe.probes.alignment import TokenizedProbe, tokenize_probe
from moe.probes.probe_sources import Document, Probe, open_probe
from moe.train.training_run import train

CONTEXT = 16
LANGUAGES = ("de", "en", "fr", "it")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(**moe: object) -> TrialConfig:
    return TrialConfig(
        model=ModelConfig(
            num_layers=2, d_model=16, num_heads=2, d_ff=32, context_length=CONTEXT, dropout=0.1
        ),
        moe=MoEConfig(**{"num_experts": 4, "top_k": 2, "router_init_std": 1.0} | moe),
        train=TrainConfig(
            num_steps=2, batch_tokens=64, micro_batch_tokens=64, eval_every=2, eval_tokens=64
        ),
    )


@pytest.fixture(scope="module")
def probe() -> TokenizedProbe:
    """Eighty documents of one to forty bytes, shorter and longer than the context."""
    draw = random.Random(0)
    documents = tuple(
        Document(
            text="".join(draw.choices("abcé", k=draw.randrange(1, 32))),
            label=LANGUAGES[i % 4],
            attributes={"language": LANGUAGES[i % 4]},
        )
        for i in range(80)
    )
    whole = Probe(spec="here", labelled_unit="document", documents=documents, left_out_share=0.0)
    return tokenize_probe(whole, ByteTokenizer())


@pytest.mark.parametrize(
    "moe",
    [
        {},
        {"router": "frozen", "routing_unit": "sequence"},
        {"router": "hash"},
        {"routing_unit": "sequence", "routing_scope": "global"},
        {"router": "label", "top_k": 1, "routing_scope": "global"},
        {"granularity": 2, "shared_experts": 1},
    ],
)
def test_choices_are_those_of_each_sequence_by_itself(moe, probe):
    """So no other document, and no padding, has reached a route."""
    model = MoETransformer(config(**moe)).eval()
    found = choose(model, probe, label_values=("", *LANGUAGES), batch_tokens=64)
    assert found.layers == (0, 1)
    assert found.expert_MTK.shape == (2, len(probe.token_T), model.config.moe.active_experts)
    begin = 0
    while begin < len(probe.token_T):
        same = np.flatnonzero(probe.document_T == probe.document_T[begin])
        end = min(begin + CONTEXT, same[-1] + 1)
        label = ("", *LANGUAGES).index(probe.attributes[probe.document_T[begin]]["language"])
        with torch.no_grad():
            ids = torch.from_numpy(probe.token_T[begin:end])[None]
            _, decisions = model.hidden(ids, label_B=torch.tensor([label]))
        for m, decision in enumerate(decisions):
            expected = decision.expert_index.expand(end - begin, -1).numpy()
            assert np.array_equal(found.expert_MTK[m, begin:end], expected)
        assert len(set(found.sequence_T[begin:end])) == 1
        assert found.routing_unit == decisions[0].unit
        begin = end
    assert len(set(found.sequence_T)) == found.sequence_T.max() + 1


def test_a_sequence_has_one_route(probe):
    model = MoETransformer(config(routing_unit="sequence"))
    found = choose(model, probe)
    for sequence in range(found.sequence_T.max() + 1):
        for chosen_MTK in (found.expert_MTK, found.baseline_MTK):
            routes = chosen_MTK[:, found.sequence_T == sequence]
            assert (routes == routes[:, :1]).all()


def test_size_of_a_batch_does_not_matter(probe):
    for moe in ({}, {"router": "random"}, {"router": "random", "routing_unit": "sequence"}):
        model = MoETransformer(config(**moe))
        one, many = (choose(model, probe, batch_tokens=n) for n in (1, 4096))
        assert np.array_equal(one.expert_MTK, many.expert_MTK)
        assert np.array_equal(one.baseline_MTK, many.baseline_MTK)


def test_draws_of_a_random_router_follow_neither_length_nor_label():
    """Equal documents, dealt to many draws: their routes differ, whatever their label."""
    documents = tuple(Document(text="abcabc", label="xy"[i >= 100]) for i in range(200))
    whole = Probe(spec="here", labelled_unit="document", documents=documents, left_out_share=0.0)
    given = tokenize_probe(whole, ByteTokenizer())
    found = choose(MoETransformer(config(router="random", routing_unit="sequence")), given)
    for half in (given.label_T == 0, given.label_T == 1):
        assert len(np.unique(found.expert_MTK[0, half], axis=0)) > 3
    assert analyze(found, cell="random", seed=0)[-1].p_value > 0.05


def test_the_baseline_is_a_linear_router_and_leaves_the_model_alone(probe):
    model = MoETransformer(config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = choose(model, probe), choose(model, probe)
    assert np.array_equal(first.baseline_MTK, again.baseline_MTK)
    assert not np.array_equal(first.baseline_MTK, first.expert_MTK)
    assert (np.diff(np.sort(first.baseline_MTK, axis=2), axis=2) > 0).all(), "different experts"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in model.moe_layers())


def test_routing_by_language_is_found_on_languages(probe):
    """The planted case, through the whole model: NMI 1, and no less than the smallest p."""
    model = MoETransformer(config(router="label", top_k=1, routing_scope="global"))
    found = choose(model, probe, label_values=LANGUAGES)
    rows = analyze(found, cell="language", seed=0)
    for row in rows:
        assert row.nmi == pytest.approx(1)
        assert row.p_value < 0.01
        assert row.nmi_random_router < 0.5
        assert (row.exchanged_unit, row.n_units) == ("document", 80)


def test_refusals(probe):
    with pytest.raises(ValueError, match=r"moe\.num_experts=0"):
        choose(MoETransformer(config(num_experts=0)), probe)
    model = MoETransformer(config(router="label", top_k=1))
    with pytest.raises(ValueError, match=r"\(de, en\); received 'fr'"):
        choose(model, probe, label_values=("de", "en"))
    high = dataclasses.replace(probe, token_T=probe.token_T + 1000)
    with pytest.raises(ValueError, match="ids below 257; received the id"):
        choose(MoETransformer(config()), high)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    """Prepared tokens of two hundred documents in four languages, some without a domain."""
    folder = tmp_path_factory.mktemp("probe_corpus")
    draw = random.Random(0)
    with (folder / "documents.jsonl").open("w") as file:
        for i in range(200):
            language = LANGUAGES[i % 4]
            text = " ".join(draw.choices([f"{language}{k}" for k in range(9)] + ["é", "x"], k=20))
            domain = None if i % 5 == 0 else ("law", "news")[i % 2]
            row = {"text": text, "language": language, "domain": domain}
            file.write(json.dumps(row) + "\n")
    data = DataConfig(corpus=f"files:{folder}/documents.jsonl", holdout_fraction=0.3)
    return TokenStore.open(prepare(data, folder / "tokens"))


def test_from_a_run_to_rows(store, tmp_path):
    given = dataclasses.replace(config(), data=DataConfig(digest=store.digest))
    train(given, store, report=lambda metrics, checkpoint: None, out=tmp_path / "run")
    model = load_final(tmp_path / "run")
    assert not model.training
    found = open_probe("corpus:language", store)
    tokens = tokenize_probe(found, open_tokenizer(store.path))
    assert np.array_equal(tokens.token_T, np.concatenate([i for i, _ in store.documents("val")]))
    rows = analyze(choose(model, tokens), cell="token", seed=0, num_permutations=20)
    assert [row.layer for row in rows] == [0, 1, None]
    assert rows[0].n_units == len(found.documents) == store.meta["splits"]["val"]["documents"]


def test_corpus_documents_without_a_label_are_left_out(store):
    found = open_probe("corpus:domain", store)
    held_out = [labels for _, labels in store.documents("val")]
    labelled = [labels["domain"] for labels in held_out if labels["domain"]]
    assert 0 < len(labelled) < len(held_out)
    assert [document.label for document in found.documents] == labelled
    assert found.left_out_share == pytest.approx(1 - len(labelled) / len(held_out))
    assert all(document.attributes["language"] in LANGUAGES for document in found.documents)


def test_corpus_probes_that_the_corpus_has_no_labels_for(store):
    with pytest.raises(ValueError, match=r"received 'corpus:topic'. There are domain, language"):
        open_probe("corpus:topic", store)
    with pytest.raises(ValueError, match="needs the corpus stdlib"):
        open_probe("corpus:syntax", store)


def test_runs_that_left_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"final weights .*final does not hold them"):
        load_final(tmp_path)
    assert not list(tmp_path.iterdir())


class HeldOut:
    """The held-out documents of a small corpus `stdlib`."""

    meta = {"corpus": {"spec": "stdlib"}}  # noqa: RUF012
    label_columns = ("topic",)

    def __init__(self, *documents: tuple[str, str]) -> None:
        self._documents = documents

    def documents(self, split: str):
        assert split == "val"
        for text, topic in self._documents:
            yield np.frombuffer(text.encode(), dtype=np.uint8), {"topic": topic}

    def label_values(self, column: str) -> tuple[str, ...]:
        return ("email", "modules")

    def decode(self, ids: np.ndarray) -> bytes:
        return ids.tobytes()


def test_syntax_and_topic_of_the_standard_library():
    store = HeldOut(("def f(): pass\n", "email"), ("x = (\n", "email"), ("y = 'é'\n", "modules"))
    syntax = open_probe("corpus:syntax", store)
    assert syntax.labelled_unit == "span"
    assert syntax.left_out_share == pytest.approx(1 / 3), "no Python"
    tokens = tokenize_probe(syntax, ByteTokenizer())
    assert tokens.labels == ("keyword", "name", "operator", "string")
    assert [tokens.labels[label] for label in tokens.label_T[:3]] == ["keyword"] * 3
    assert np.count_nonzero(tokens.label_T == tokens.labels.index("string")) == 4
    topic = open_probe("corpus:topic", store)
    assert [document.label for document in topic.documents] == ["email", "email"]
    assert topic.left_out_share == pytest.approx(1 / 3), "a single-file module has no topic"
