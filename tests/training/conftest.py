"""Small corpora made on the spot: training tests need no data folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from megacontext.bases.core_folder import CoreNets, write_core_folder
from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.testing.fake_core import TINY_CORE, TINY_GIST_NET
from megacontext.training.corpus import Document
from megacontext.training.export import tokenizer_files
from megacontext.training.preparation import save_tokenizer
from megacontext.training.recall import Asking, draw_facts
from megacontext.training.tokens import TokenStore, encode_documents, train_tokenizer
from megacontext.training.windows import TextSource

TINY_MODEL = """
[model]
vocab_size = 512
width = 32
num_layers = 2
num_heads = 2
num_kv_heads = 1
head_dim = 16
mlp_width = 64
rotary_dims = 8
"""
WORDS = [
    "the",
    "old",
    "river",
    "ran",
    "past",
    "a",
    "quiet",
    "mill",
    "and",
    "nobody",
    "in",
    "the",
    "town",
    "could",
    "say",
    "who",
    "had",
    "built",
    "its",
    "narrow",
    "stone",
    "bridge",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors on several threads only wait for each other; one thread is also what makes runs repeat."""
    torch.set_num_threads(1)


def make_text(random: Random, num_sentences: int) -> str:
    """Sentences of random words in paragraphs."""
    parts = []
    for index in range(num_sentences):
        words = random.choices(WORDS, k=random.randint(4, 14))
        parts.append(" ".join(words).capitalize() + (".\n\n" if index % 7 == 6 else ". "))
    return "".join(parts)


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """Twelve made-up pages."""
    random = Random(3)
    return [Document(name=f"page-{index}", domain="books", text=make_text(random, 400)) for index in range(12)]


@pytest.fixture(scope="session")
def tokenizer(documents: list[Document]) -> Tokenizer:
    """A tokenizer of 512 tokens that also knows the words of recall text."""
    random = Random(4)
    facts = [fact.statement(random) + "".join(fact.question(random)) for fact in draw_facts(random, 300, Asking())]
    return train_tokenizer([*(document.text for document in documents), *facts], vocab_size=512)


@pytest.fixture(scope="session")
def stores(tokenizer: Tokenizer, documents: list[Document]) -> dict[str, TokenStore]:
    """The pages as prose and, so that both domains occur, once more as code."""
    return {"books": encode_documents(tokenizer, documents), "code": encode_documents(tokenizer, documents[:6])}


@pytest.fixture(scope="session")
def source(tokenizer: Tokenizer, stores: dict[str, TokenStore]) -> TextSource:
    """Prose and code in equal shares."""
    return TextSource(tokenizer, stores, {"books": 0.5, "code": 0.5})


def tiny_nets(*, vocab_size: int = TINY_CORE.vocab_size) -> tuple[Core, GistNet]:
    """A tiny core and GistNet without a silent matrix; equal arguments give equal weights."""
    torch.manual_seed(0)
    core, gist_net = Core(replace(TINY_CORE, vocab_size=vocab_size)), GistNet(TINY_GIST_NET)
    with torch.no_grad():
        for weight in [*core.parameters(), *gist_net.parameters()]:
            if weight.ndim == 2:
                weight.normal_(std=weight.shape[-1] ** -0.5)
    return core, gist_net


@pytest.fixture(scope="session")
def nets() -> tuple[Core, GistNet]:
    """Nets that read the tokenizer's tokens; nobody trains them."""
    core, gist_net = tiny_nets(vocab_size=512)
    return core.eval().requires_grad_(False), gist_net.eval().requires_grad_(False)


@pytest.fixture
def tiny_run(tokenizer: Tokenizer, stores: dict[str, TokenStore], tmp_path: Path) -> Path:
    """The token arrays of a run, the same text on both sides."""
    out = tmp_path / "run"
    save_tokenizer(tokenizer, out / "data" / "tokenizer")
    for domain, store in {**stores, "knowledge": stores["books"]}.items():
        for side in ("train", "held_out"):
            store.save(out / "data" / f"{domain}_{side}.npz")
    return out


@pytest.fixture
def tiny_model(tiny_run: Path, tmp_path: Path) -> Path:
    """The folder of nets that nobody trained, with the tokenizer of that run."""
    core, gist_net = tiny_nets(vocab_size=512)
    nets = CoreNets(core=core.bfloat16().eval(), gist_net=gist_net.bfloat16().eval(), learned_positions=768)
    folder = tmp_path / "model"
    write_core_folder(folder, nets, tokenizer_files(tiny_run / "data" / "tokenizer"), eos_token_id=1)
    return folder
