"""The step before training: read the corpora, learn the tokenizer once, and keep token arrays on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from megacontext.training.babi import BABI, has_stories, read_stories
from megacontext.training.corpus import (
    Document,
    read_books,
    read_knowledge,
    read_packages,
    read_standard_library,
)
from megacontext.training.recall import TRAINING, draw_facts
from megacontext.training.tokens import END_OF_TEXT, PAD, TokenStore, encode_documents, train_tokenizer

DOMAINS = ("books", "code", "knowledge")
SAMPLE_CHARS = 2_000
SAMPLE_EVERY = 8


def read_documents(data: Path, packages: Sequence[Path], *, held_out: bool) -> dict[str, list[Document]]:
    """Read all documents of the training or the validation side, by domain."""
    return {
        "books": list(read_books(data, "validation" if held_out else "train")),
        "code": [*read_standard_library(held_out=held_out), *read_packages(packages, held_out=held_out)],
        "knowledge": list(read_knowledge(data, held_out=held_out)),
    }


def tokenizer_sample(documents: dict[str, list[Document]]) -> Iterator[str]:
    """Yield the text the tokenizer learns from: every eighth piece of books and code, all knowledge, recall text."""
    for domain, texts in documents.items():
        step = SAMPLE_CHARS * (SAMPLE_EVERY if domain != "knowledge" else 2)
        for document in texts:
            for start in range(0, len(document.text), step):
                yield document.text[start : start + SAMPLE_CHARS]
    random = Random(0)
    for _ in range(2_000):
        facts = draw_facts(random, 4, TRAINING)
        yield " ".join(fact.statement(random) for fact in facts) + "".join(
            "".join(fact.question(random)) for fact in facts
        )


def prepare(data: Path, packages: Sequence[Path], out: Path, *, vocab_size: int) -> None:
    """Write `tokenizer/` and one token store a domain and side (`train`, `held_out`) below `out`; skip what exists.

    bAbI stories are a store, too, where the data folder has them; the tokenizer does not learn from them.
    """
    out.mkdir(parents=True, exist_ok=True)
    train = read_documents(data, packages, held_out=False)
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(train_tokenizer(tokenizer_sample(train), vocab_size=vocab_size), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    held_out = read_documents(data, packages, held_out=True)
    for side, documents in (("held_out", held_out), ("train", train)):
        for domain in DOMAINS:
            path = out / f"{domain}_{side}.npz"
            if not path.exists():
                encode_documents(tokenizer, documents[domain]).save(path)
    if has_stories(data):
        for side, split in (("held_out", "test"), ("train", "train")):
            path = out / f"{BABI}_{side}.npz"
            if not path.exists():
                encode_documents(tokenizer, read_stories(data, split)).save(path)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` so that `AutoTokenizer` of any release reads the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "clean_up_tokenization_spaces": False,
        "eos_token": END_OF_TEXT,
        "model_max_length": 4096,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_stores(out: Path, side: str) -> dict[str, TokenStore]:
    """Load the token stores that `prepare` wrote for `train` or `held_out`; bAbI stories only if there are any."""
    domains = [*DOMAINS, BABI] if (out / f"{BABI}_{side}.npz").exists() else DOMAINS
    return {domain: TokenStore.load(out / f"{domain}_{side}.npz") for domain in domains}
