"""The full-text index: its checksum against a slow reference, and what it costs to ask for common words."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from megacontext.catalog import word_index
from megacontext.catalog.upgrades import empty_database
from megacontext.catalog.word_index import WordIndex, add_passages, clear_index, index_sum
from megacontext.catalog.words import words_of
from megacontext.ports.catalog import Passage


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.deserialize(empty_database())
    yield made
    made.close()


def passages(count: int, *, seed: int = 0, first: int = 0) -> list[Passage]:
    rng = np.random.default_rng(seed)
    return [
        Passage(
            token_start=24 * index,
            token_stop=24 * index + 32,
            text=" ".join(f"w{number}" for number in rng.zipf(1.5, rng.integers(0, 40)) % 500),
        )
        for index in range(first, first + count)
    ]


def slow_sum(added: list[Passage]) -> int:
    """The definition: every word of every passage, one by one."""
    total = 0
    for passage in added:
        for place, word in enumerate(words_of(passage.text)):
            word_hash = sum(
                byte * pow(word_index._CHAR_FACTOR, index + 1, 1 << 64) for index, byte in enumerate(word.encode())
            )
            weight = passage.token_start * word_index._PASSAGE_FACTOR + place * word_index._PLACE_FACTOR + 1
            total += word_hash * weight
    total %= 1 << 64
    return total - (1 << 64) if total >> 63 else total


def test_checksum_is_what_it_is_defined_as(connection: sqlite3.Connection) -> None:
    added = [*passages(40), Passage(token_start=10_000, token_stop=10_032, text="Ünïcödé 東京都 x_y")]
    num_terms, added_sum = add_passages(connection, added)
    assert num_terms == sum(len(words_of(passage.text)) for passage in added)
    assert added_sum == slow_sum(added)
    assert index_sum(connection) == added_sum


def test_checksum_does_not_depend_on_batches_and_grows_by_adding(connection: sqlite3.Connection) -> None:
    parts = [add_passages(connection, passages(7, seed=first, first=first)) for first in range(0, 1400, 7)]
    total = sum(part[1] for part in parts)
    assert index_sum(connection) == (total + (1 << 63)) % (1 << 64) - (1 << 63)
    clear_index(connection)
    assert index_sum(connection) == 0


def test_a_moved_word_or_passage_is_noticed(connection: sqlite3.Connection) -> None:
    _, honest = add_passages(connection, [Passage(token_start=24, token_stop=56, text="a b c")])
    for start, text in [(24, "a c b"), (48, "a b c"), (24, "a b d"), (24, "a b")]:
        clear_index(connection)
        add_passages(connection, [Passage(token_start=start, token_stop=56, text=text)])
        assert index_sum(connection) != honest


def test_common_words_are_left_out_beside_rare_ones(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_index, "MAX_POSTINGS", 10)
    texts = ["the common thing"] * 50 + ["the needle"]
    add_passages(
        connection, [Passage(token_start=24 * i, token_stop=24 * i + 32, text=text) for i, text in enumerate(texts)]
    )
    found = WordIndex().search(connection, "the common needle", limit=60, indexed_tokens=24 * 51)
    assert [hit.token_start for hit, _, _ in found] == [24 * 50]


def test_only_common_words_look_at_recent_text(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_index, "MAX_POSTINGS", 10)
    monkeypatch.setattr(word_index, "_RECENT_TOKENS", 24 * 5)
    add_passages(connection, [Passage(token_start=24 * i, token_stop=24 * i + 24, text="the") for i in range(50)])
    found = WordIndex().search(connection, "the", limit=60, indexed_tokens=24 * 50)
    assert sorted(hit.token_start // 24 for hit, _, _ in found) == [45, 46, 47, 48, 49]


def test_rarity_follows_a_growing_index(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_index, "MAX_POSTINGS", 10)
    index = WordIndex()
    common = [Passage(token_start=24 * i, token_stop=24 * i + 24, text="shared") for i in range(12)]
    add_passages(connection, common)
    assert index._rarest(connection, ["shared", "unknown"], 24 * 12) == [("shared", 12)]
    add_passages(
        connection, [Passage(token_start=24 * i, token_stop=24 * i + 24, text="shared") for i in range(12, 40)]
    )
    assert index._rarest(connection, ["shared"], 24 * 40) == [("shared", 40)]
    assert index._rarest(connection, ["shared"], 24 * 41) == [("shared", 40)]
