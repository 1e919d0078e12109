"""Preparing text with GPT-2's vocabulary, and reading random batches of what was prepared.

`prepare` is the project's own, from files to memory-mapped tokens; `tiktoken` encodes the same
documents in this process and throws the ids away: what is lost to it is hashing, splitting, labels
and writing. Both on one thread; tokens/s are of CPU time of the whole process. Memory is the peak
RSS of a process of its own that prepares a generated corpus of `--bytes`.

Random batches are read against a plain copy: numpy taking the same rows from the same tokens.

GPT-2's vocabulary is looked for in the caches that moe/data/gpt2_vocabulary.py names and in
`--vocabulary`; without it the same is measured with a BPE trained on the corpus, and the case says
so.

    python benchmarks/text_preparation.py [--corpus SPEC] [--vocabulary FILE] [--bytes 2e9]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import MIN_REPEATS, Row, limit, medians, print_result, row, samples, tell

from moe.config import GPT2_VOCAB_SIZE, DataConfig
from moe.data import spill
from moe.data.corpus import open_corpus
from moe.data.gpt2_vocabulary import GPT2_RANKS_SHA256, _cached, _is_gpt2
from moe.data.labels import TEXT_COLUMN
from moe.data.prepare import prepare
from moe.data.token_store import TokenStore
from moe.data.tokenizer import RankTokenizer, load_tokenizer, open_tokenizer

SPEED_GOAL = 3e6  # tokens a second of one core
MEMORY_GOAL_BYTES = 1_500_000_000
BATCH_GOAL = 2.0  # of a copy: int64 rows are four times what is read
CONTEXT, SEQUENCES = 1024, 32
_CHUNK_BYTES = 4 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="stdlib")
    parser.add_argument("--vocabulary", type=Path, help="GPT-2's ranks in tiktoken's format")
    parser.add_argument("--bytes", type=float, default=1e8, help="generated corpus; the goal: 2e9")
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        prepare_alone(options.alone)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = data_config(options)
        rows = [
            *speed_rows(data, folder, options.repeats),
            *batch_rows(data, folder, options.repeats),
            memory_row(data, folder, int(options.bytes)),
        ]
    print_result("data", rows, packages=("tiktoken", "numpy", "pyarrow", "datasets"))


def data_config(options: argparse.Namespace) -> DataConfig:
    gpt2 = DataConfig(corpus=options.corpus, tokenizer="gpt2", vocab_size=GPT2_VOCAB_SIZE)
    if options.vocabulary:
        return dataclasses.replace(gpt2, tokenizer=f"file:{options.vocabulary.absolute()}")
    if any(map(_is_gpt2, _cached())):
        return gpt2
    tell(f"GPT-2's vocabulary is not at hand (SHA-256 {GPT2_RANKS_SHA256[:8]}...): BPE instead")
    return dataclasses.replace(gpt2, tokenizer="bpe", vocab_size=8192)


def process_s(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def speed_rows(data: DataConfig, folder: Path, repeats: int) -> list[Row]:
    """The last repeat's tokens stay in `folder` for the batches."""
    spill._num_cores = lambda: 1  # tokens a second of one core
    open_corpus(data.corpus)
    tokens = prepare(data, folder / "tokens")
    store = TokenStore.open(tokens)
    tokenizer = open_tokenizer(tokens)
    assert isinstance(tokenizer, RankTokenizer)
    encode = tokenizer._encoding.encode_ordinary
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        texts = [r[TEXT_COLUMN] for r in open_corpus(data.corpus).documents(Path(scratch))]
    count = sum(split["tokens"] for split in store.meta["splits"].values())
    if data.tokenizer == "bpe":  # its training is no part of what is measured
        vocabulary = folder / "bpe.tiktoken"
        vocabulary.write_bytes(tokenizer.ranks)
        data = dataclasses.replace(data, tokenizer=f"file:{vocabulary}")
    load_tokenizer(data)
    number = iter(range(10**6))

    def ours() -> None:
        prepare(data, folder / f"again-{next(number)}")

    def theirs() -> None:
        for text in texts:
            encode(text)

    seconds = medians({"ours": ours, "theirs": theirs}, repeats=repeats, measure=process_s)
    case = f"{_name(data)} on {data.corpus.partition(':')[0]}, {count / 1e6:.1f}M tokens, 1 core"
    speed = {kind: count / spent for kind, spent in seconds.items()}
    return [
        row(
            f"prepare {case}",
            baseline="tiktoken",
            ours=speed["ours"],
            theirs=speed["theirs"],
            unit="tokens/s",
        ),
        row(
            f"prepare {case}",
            baseline="limit",
            ours=speed["ours"],
            theirs=SPEED_GOAL,
            unit="tokens/s",
            goal=1.0,
        ),
    ]


def _name(data: DataConfig) -> str:
    return "gpt2" if data.vocab_size == GPT2_VOCAB_SIZE else f"bpe-{data.vocab_size}"


def batch_rows(data: DataConfig, folder: Path, repeats: int) -> list[Row]:
    store = TokenStore.open(next((folder / "tokens").iterdir()))
    context = min(CONTEXT, max(8, store.num_sequences("train", 1) // 64))
    mapped = store._splits["train"].tokens
    generator = np.random.default_rng(0)
    step = iter(range(10**9))

    def ours() -> None:
        for _ in range(20):
            store.batch(seed=0, step=next(step), num_sequences=SEQUENCES, context_length=context)

    def copy() -> None:
        for _ in range(20):
            rows = np.empty((SEQUENCES, context + 1), dtype=np.int64)
            starts = generator.integers(0, len(mapped) - context - 1, SEQUENCES)
            for target, start in zip(rows, starts.tolist(), strict=True):
                target[:] = mapped[start : start + context + 1]

    ours(), copy()  # the pages come into memory once
    taken = samples({"ours": ours, "copy": copy}, repeats=repeats)
    seconds = {kind: sorted(values)[len(values) // 2] for kind, values in taken.items()}
    tokens = 20 * SEQUENCES * context
    return [
        row(
            f"random batches of {SEQUENCES} x {context}",
            baseline="copy",
            ours=tokens / seconds["ours"],
            theirs=tokens / seconds["copy"],
            unit="tokens/s",
            goal=1 / BATCH_GOAL,
        )
    ]


def memory_row(data: DataConfig, folder: Path, size: int) -> Row:
    """Real documents over and over, each with a number, until `size` bytes are written."""
    tell(f"a generated corpus of {size / 1e6:.0f} MB")
    path = folder / "generated.jsonl"
    written = 0
    with path.open("w") as file:
        for number, text in enumerate(_endless(data, folder)):
            written += file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
            if written >= size:
                break
    spec = folder / "alone.json"
    large = dataclasses.replace(data, corpus=f"files:{path}")
    spec.write_text(json.dumps({"data": dataclasses.asdict(large), "out": str(folder / "large")}))
    command = [sys.executable, str(Path(__file__).absolute()), "--alone", str(spec)]
    # On every core that there is, as a run prepares it.
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return limit(
        f"peak RSS preparing {written / 1e9:.2f} GB",
        ours=int(done.stdout.split()[-1]),
        at_most=MEMORY_GOAL_BYTES,
        unit="bytes",
    )


def _endless(data: DataConfig, folder: Path) -> Iterator[str]:
    while True:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for document in open_corpus(data.corpus).documents(Path(scratch)):
                yield document[TEXT_COLUMN]


def prepare_alone(spec: Path) -> None:
    import resource

    job = json.loads(spec.read_text())
    prepare(DataConfig(**job["data"]), job["out"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main()
