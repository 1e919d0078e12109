"""The tokenizer of an export gives the ids that the model was trained on."""

from __future__ import annotations

import json
import random

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from moe.config import DataConfig, ModelConfig, MoEConfig, TrainConfig, TrialConfig
from moe.data.gpt2_vocabulary import to_ranks
from moe.data.json_tokenizer import JsonTokenizer
from moe.data.tokenizer import ByteTokenizer, RankTokenizer, train_bpe
from moe.interchange.write_hf import hf_folder
from moe.model.transformer import MoETransformer

TEXTS = [
    "def f(x):\n    return x + 1  # naïve Straße, 日本語\r\n\t\t'we'll' 12345 ...",
    "",
    " leading and trailing  ",
    "\n\n\n   \n  x",
    "don't  you'd've  I'M",
]


def random_text(generator: random.Random) -> str:
    words = ["the", "expert", "router's", "\n", "  ", "é", "e\u0301", "日", "42", "!!", "\t", "x=1"]
    return " ".join(generator.choices(words, k=40)) + "".join(generator.choices("abc \n", k=60))


GENERATOR = random.Random(0)
MANY = [*TEXTS, *(random_text(GENERATOR) for _ in range(200))]


def from_file() -> JsonTokenizer:
    """A tokenizer.json as models have it: a template that begins each text, and no end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    vocabulary["Ġt"], vocabulary["he"], vocabulary["<s>"] = 256, 257, 258
    tokenizer.model = models.BPE(vocabulary, [("Ġ", "t"), ("h", "e")])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 258)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return JsonTokenizer(tokenizer.to_str())


def unusual_ranks() -> RankTokenizer:
    """A token that no merges make, and one that two pairs do."""
    tokens = [bytes([value]) for value in range(256)] + [b"ab", b"bc", b"abc", b"the router"]
    return RankTokenizer(to_ranks({token: id_ for id_, token in enumerate(tokens)}))


TOKENIZERS = {
    "byte": ByteTokenizer,
    "bpe": lambda: train_bpe([random_text(random.Random(i)) for i in range(300)], 400),
    "ranks": unusual_ranks,
    "file": from_file,
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_exported_tokenizer_gives_the_same_ids(tmp_path, kind):
    ours = TOKENIZERS[kind]()
    model = ModelConfig(num_layers=1, d_model=8, num_heads=1, d_ff=8, context_length=8)
    train = TrainConfig(batch_tokens=8, micro_batch_tokens=8)
    size = len(ours.tokens)
    data = DataConfig(tokenizer="bpe" if size > 257 else "byte", vocab_size=size)
    config = TrialConfig(model=model, moe=MoEConfig(), data=data, train=train)
    folder = tmp_path / "model"
    hf_folder(config, MoETransformer(config).state_dict(), ours).write(folder)
    plain = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for theirs in (transformers.AutoTokenizer.from_pretrained(folder), plain):
        for text in MANY:
            assert theirs(text)["input_ids"] == ours.encode(text).tolist(), repr(text)
        assert theirs.decode(ours.encode(TEXTS[0]).tolist()) == TEXTS[0]
    auto = transformers.AutoTokenizer.from_pretrained(folder)
    assert auto.eos_token_id == auto.bos_token_id == ours.end_of_document
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == auto.eos_token_id
    assert len(auto) == len(ours.tokens)
