"""A small run from the command line: configurations, prepared text, and the command itself."""

from __future__ import annotations

import hashlib
import random

import pytest

from megacontext.training.corpus import Document
from megacontext.training.preparation import DOMAINS, save_tokenizer
from megacontext.training.recall import Asking, draw_facts
from megacontext.training.tokens import encode_documents, train_tokenizer

CONFIG = """
[model]
vocab_size = 512
width = 32
num_layers = 1
num_heads = 2
num_kv_heads = 1
head_dim = 16
mlp_width = 32
rotary_dims = 8
max_positions = 256
[optim]
[loop]
num_steps = 4
warmup_steps = 1
log_every = 1
checkpoint_every = 1
peak_tflops = 0.001
[shares]
books = 1.0
[[stage]]
name = "only"
batches = [{ name = "short", share = 1.0, rows = 2, length = 64, mix = { plain = 1.0 } }]
"""
MEMORY = """
extends = "base.toml"
[gist_net]
width = 32
num_layers = 1
num_heads = 2
mlp_width = 32
[memory]
reconstructor_width = 32
[[stage]]
name = "gists"
batches = [{ name = "aligned", share = 1.0, rows = 2, length = 192, mix = { aligned = 1.0 }, \
gists = { shapes = [[32, 1]], num_tail = 2 } }]
"""

BOOKS, PAGES = "books/books_train.jsonl.xz", "knowledge/docs.jsonl.xz"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Token arrays as `prepare` leaves them, of text made on the spot."""
    draw = random.Random(0)
    facts = [fact.statement(draw) + "".join(fact.question(draw)) for fact in draw_facts(draw, 300, Asking())]
    text = " ".join(draw.choices(["the river ran past.", "a mill stood.", *facts], k=2_000))
    tokenizer = train_tokenizer([text, *facts], vocab_size=512)
    folder = tmp_path_factory.mktemp("prepared") / "data"
    save_tokenizer(tokenizer, folder / "tokenizer")
    for domain in DOMAINS:
        for side in ("train", "held_out"):
            store = encode_documents(tokenizer, [Document(name="page", domain=domain, text=text)])
            store.save(folder / f"{domain}_{side}.npz")
    return folder


@pytest.fixture
def place(tmp_path, prepared):
    """A folder with both configurations, empty data, and two outputs that share prepared arrays."""
    (tmp_path / "base.toml").write_text(CONFIG)
    (tmp_path / "memory.toml").write_text(MEMORY)
    (tmp_path / "text").mkdir()
    for out in ("base", "memory"):
        (tmp_path / out).mkdir()
        (tmp_path / out / "data").symlink_to(prepared)
    return tmp_path


@pytest.fixture
def train(megacontext, place):
    def call(config, out, *more):
        return megacontext("train", place / config, "--data", place / "text", "--out", place / out, "--eager", *more)

    return call


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
