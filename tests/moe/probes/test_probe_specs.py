"""PROBE SPEC to labelled documents, and one clear message for every spec that is none."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moe.config import DataConfig
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.probes.probe_sources import open_probe

GERMAN = """\
# sent_id = 1
# text = Im Haus.
1-2\tIm\t_\t_\t_\t_\t_\t_\t_\t_
1\tin\tin\tADP\t_\t_\t_\t_\t_\t_
2\tdem\tder\tDET\t_\t_\t_\t_\t_\t_
3\tHaus\tHaus\tNOUN\t_\t_\t_\t_\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t_\t_\t_\t_\t_\t_

# text = Nicht hier
1\tdort\tdort\tADV\t_\t_\t_\t_\t_\t_

"""
ENGLISH = "# text = Home\n1\tHome\thome\tNOUN\t_\t_\t_\t_\t_\t_\n\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pud.de.conllu.gz").write_bytes(gzip.compress(GERMAN.encode()))
    (tmp_path / "pud.en.conllu").write_text(ENGLISH)
    (tmp_path / "topics.tsv").write_text(
        'id\ttext\tcategory\n1\tun lago\tgeography\n2\t"detto ""è""\tqui"\thealth/care\n'
        "3\tsenza\t\n4\t \tsports\n5\til mare\tgeography\n",
        encoding="utf-8",
    )
    (tmp_path / "topics.fr.csv").write_text('text,category\n"l\'eau, oui",geography\n')
    rows = {"question": ["1+1?", "Who?", None], "choices": [["a"], ["b"], []], "subject": [1, 2, 1]}
    pq.write_table(pa.table(rows), tmp_path / "mmlu.parquet")
    (tmp_path / "empty.conllu").write_text("")
    (tmp_path / "none.tsv").write_text("text\tcategory\nwords\t\n")
    (tmp_path / "ragged.tsv").write_text("text\tcategory\nwords\tA\tB\n")
    (tmp_path / "latin.csv").write_bytes("text,category\ncaf\xe9,A\n".encode("latin-1"))
    (tmp_path / "torn.conllu.gz").write_bytes(gzip.compress(GERMAN.encode())[:-20])
    (tmp_path / "fake.parquet").write_text("no parquet")
    return tmp_path


def test_conllu_reads_all_files_with_their_language(folder):
    probe = open_probe("conllu:pud.*")
    assert probe.labelled_unit == "span"
    assert [document.text for document in probe.documents] == ["Im Haus.", "Home"]
    assert probe.documents[0].spans == ((0, 2, "ADP+DET"), (3, 7, "NOUN"), (7, 8, "PUNCT"))
    assert [document.attributes for document in probe.documents] == [
        {"language": "de"},
        {"language": "en"},
    ]
    assert probe.left_out_share == pytest.approx(1 / 3), "its words are not in its text"


def test_by_language(folder):
    probe = open_probe("conllu:pud.*").by("language")
    assert probe.labelled_unit == "document"
    assert [(document.label, document.spans) for document in probe.documents] == [
        ("de", ()),
        ("en", ()),
    ]
    assert probe.left_out_share == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match=r"received 'topic', and .* knows language"):
        open_probe("conllu:pud.*").by("topic")


def test_table_of_tabs_with_quotes(folder):
    probe = open_probe("table:topics.tsv:text:category")
    assert probe.labelled_unit == "document"
    assert [(document.text, document.label) for document in probe.documents] == [
        ("un lago", "geography"),
        ('detto "è"\tqui', "health/care"),
        ("il mare", "geography"),
    ]
    assert probe.left_out_share == pytest.approx(2 / 5), "no label, no text"
    assert probe.documents[0].attributes == {"category": "geography"}


def test_chosen_label_values(folder):
    probe = open_probe("table:topics.tsv:text:category=health/care, sports")
    assert [document.label for document in probe.documents] == ["health/care"]


def test_table_of_commas_has_a_language(folder):
    (document,) = open_probe("table:topics.fr.csv:text:category").documents
    assert document.text == "l'eau, oui"
    assert document.attributes == {"language": "fr", "category": "geography"}


def test_parquet_with_numbers_as_labels(folder):
    probe = open_probe("table:mmlu.parquet:question:subject=1,2")
    assert [(document.text, document.label) for document in probe.documents] == [
        ("1+1?", "1"),
        ("Who?", "2"),
    ]


def test_paths_and_values_may_hold_colons(folder):
    (folder / "a:b.tsv").write_text("text\tkind\nwords\tx:y\n")
    (document,) = open_probe("table:a:b.tsv:text:kind=x:y").documents
    assert document.label == "x:y"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "a probe is conllu:GLOB"),
        ("conllu:", "a probe is conllu:GLOB"),
        ("words:x", "received 'words:x'"),
        ("conllu:missing.*", "'missing.*' matches none"),
        ("conllu:topics.tsv", "reads .conllu, .conllu.gz; received 'topics.tsv'"),
        ("conllu:empty.conllu", "at least one sentence; 'empty.conllu' holds none"),
        ("conllu:torn.conllu.gz", "torn.conllu.gz is not"),
        ("table:topics.tsv:text", "table:FILE:TEXT:LABEL"),
        ("table:topics.tsv:txet:category", "'txet' is none of topics.tsv. Did you mean 'text'?"),
        ("table:topics.tsv:text:subject", "'subject' is none .* There are id, text, category"),
        (
            "table:topics.tsv:text:category=geographie",
            "'geographie' does not. Did you mean 'geography'?",
        ),
        ("table:none.tsv:text:category", "of the 1 in 'table:none.tsv:text:category' none has"),
        ("table:ragged.tsv:text:category", "2 columns .* line 2 of ragged.tsv has 3"),
        ("table:latin.csv:text:category", "valid UTF-8; latin.csv is not"),
        ("table:fake.parquet:text:category", "fake.parquet is not"),
        ("table:mmlu.parquet:choices:subject", "are strings; mmlu.parquet holds"),
        ("table:mmlu.parquet:question:topic", "'topic' is none of mmlu.parquet"),
        ("corpus:", "corpus:COLUMN or corpus:syntax; received 'corpus:'"),
        ("corpus:topic", "received 'corpus:topic' without any"),
    ],
)
def test_one_clear_message(folder, spec, message):
    with pytest.raises(ValueError, match=message):
        open_probe(spec)


def test_any_label_column_of_the_corpus_is_a_probe(tmp_path):
    rows = [
        {"text": f"words of document {i}", "mood": ("glad", "calm", "")[i % 3], "id": str(i)}
        for i in range(60)
    ]
    path = tmp_path / "moods.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(corpus=f"files:{path}", tokenizer="byte", vocab_size=257)
    store = TokenStore.open(prepare(replace(config, holdout_fraction=0.5), tmp_path / "tokens"))
    probe = open_probe("corpus:mood", store)
    assert {document.label for document in probe.documents} == {"glad", "calm"}
    assert 0 < probe.left_out_share < 1
    with pytest.raises(ValueError, match=r"received 'corpus:moods'. Did you mean 'mood'\?"):
        open_probe("corpus:moods", store)
    with pytest.raises(ValueError, match=r"'corpus:topic'. There are mood\."):
        open_probe("corpus:topic", store)
    with pytest.raises(ValueError, match=r"'corpus:id' \(it has 60 distinct values in 60"):
        open_probe("corpus:id", store)


def test_reading_a_probe_needs_no_torch():
    code = (
        "import sys; sys.modules |= dict.fromkeys(['torch', 'datasets', 'tokenizers', 'tiktoken']);"
        "import moe.probes.probe_sources, moe.probes.alignment, moe.analysis.analyze"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)
