"""Stretches of sentences as gists: what is chosen, how it is marked, and that no chunking changes it."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.bases.remote.rendering import history_text
from megacontext.bases.remote.text_base import OpenAIHandle
from megacontext.gisters.sentences import SentencesGister
from megacontext.ports.gister import GistBatch, Gister
from megacontext.ports.text import RowMark
from megacontext.testing.fake_base import BaseInMemory, tiny_base
from megacontext.testing.gister_suite import GisterSuite

TEXT_SOURCE = OpenAIHandle("openai:any@http://127.0.0.1:9/v1")
VECTOR_SOURCE = BaseInMemory(tiny_base())


class TestSentencesOfText(GisterSuite):
    vocab_size = 4096

    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return SentencesGister(TEXT_SOURCE, block_tokens=block_tokens, gist_width=gist_width)


class TestSentencesAsVectors(GisterSuite):
    def make(self, *, block_tokens: int, gist_width: int) -> Gister:
        return SentencesGister(VECTOR_SOURCE, block_tokens=block_tokens, gist_width=gist_width)


def blocks(*texts: str, block_tokens: int) -> np.ndarray:
    """Token ids of texts, each filled up with line ends to a block."""
    rows = np.full((len(texts), block_tokens), TEXT_SOURCE.codec.encode("\n").token_ids[0], dtype=np.uint32)
    for row, text in zip(rows, texts, strict=True):
        token_ids = TEXT_SOURCE.codec.encode(text).token_ids[:block_tokens]
        row[: len(token_ids)] = token_ids
    return rows.reshape(-1)


def text_of(gists: GistBatch, node: int = 0) -> str:
    return history_text(gists.vectors[node].astype(np.float32), TEXT_SOURCE.codec).strip()


FACT = " The code for Anna Novak is 73019."
FILLER = "It was as it had been before, and so it was with all of them. And then they went on, as one does."


def test_names_are_what_stays() -> None:
    gister = SentencesGister(TEXT_SOURCE, block_tokens=64, gist_width=16)
    gists = gister.from_tokens(blocks(FILLER + FACT, block_tokens=64), start=0, num_context=0)
    assert "Anna Novak" in text_of(gists)


def test_a_stretch_begins_with_a_word_and_ends_with_its_sentence() -> None:
    token_ids = blocks("He left home. Rome fell that day. It was.", block_tokens=64)
    for width, said in (
        (4, "He left home."),
        (8, "He left home. Rome fell"),
        (12, "He left home. Rome fell that day. It"),
    ):
        gister = SentencesGister(TEXT_SOURCE, block_tokens=64, gist_width=width)
        assert text_of(gister.from_tokens(token_ids, start=0, num_context=0)) == f"[gist: {said}]"


def test_upper_levels_choose_among_the_stretches_below() -> None:
    gister = SentencesGister(TEXT_SOURCE, block_tokens=8, gist_width=4)
    texts = ["of it and so on"] * 7 + ["Bob 48213"]
    children = gister.from_tokens(blocks(*texts, block_tokens=8), start=0, num_context=0)
    parent = gister.from_gists(children, level=2)
    assert "Bob" in text_of(parent)
    chosen = parent.offsets[0].astype(int)
    assert (chosen // 8 == 7).all()
    ids, marks = TEXT_SOURCE.embeddings.read(parent.vectors[0])
    np.testing.assert_array_equal(ids, blocks(*texts, block_tokens=8)[chosen])
    assert marks[0] == RowMark.BEGINS


def test_vectors_are_the_embeddings_of_tokens_at_their_own_places() -> None:
    gister = SentencesGister(VECTOR_SOURCE, block_tokens=32, gist_width=4)
    token_ids = np.frombuffer(b"One of them was Ada. It rained.."[:32], dtype=np.uint8).astype(np.uint32)
    gists = gister.from_tokens(token_ids, start=0, num_context=0)
    expected = VECTOR_SOURCE.embeddings.rows(token_ids[gists.offsets[0].astype(int)]).astype(np.float16)
    np.testing.assert_array_equal(gists.vectors[0], expected)
    assert gister.spread == 0.0


@pytest.mark.parametrize("width", [1, 5, 31])
def test_any_width_is_filled_even_where_no_word_begins(width: int) -> None:
    gister = SentencesGister(VECTOR_SOURCE, block_tokens=32, gist_width=width)
    gists = gister.from_tokens(np.full(64, ord("a"), dtype=np.uint32), start=0, num_context=0)
    assert gists.offsets.shape == (2, width)
    assert (np.diff(gists.offsets, axis=1) == 1).all()
