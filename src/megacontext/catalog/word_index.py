"""The full-text index: contentless FTS5, ranked by BM25, with a running checksum over every word in it.

The checksum is a sum modulo 2^64, linear in a word's passage and place, over all words of all passages. Adding
passages adds to it without reading the index; checking lets SQLite sum passages and places per word and multiplies
once per distinct word. A flipped word, passage number or place changes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from megacontext.catalog.checksums import row_crc
from megacontext.catalog.schema import WORD_INDEX, passages
from megacontext.catalog.statements import insert_sql
from megacontext.catalog.words import words_of
from megacontext.ports.catalog import Passage, SearchHit

__all__ = ["MAX_POSTINGS", "MAX_QUERY_WORDS", "WordIndex", "add_passages", "as_int64", "clear_index", "index_sum"]

MAX_QUERY_WORDS = 32
MAX_POSTINGS = 4096  # passages that one query may rank, about a microsecond each
_RECENT_TOKENS = 1 << 21  # where a query of nothing but very common words looks
_PASSAGES_PER_BATCH = 512
_WORDS_PER_BATCH = 8192

_BITS_64 = (1 << 64) - 1
_CHAR_FACTOR = 0xD6E8FEB86659FD93
_PASSAGE_FACTOR = 0x9E3779B97F4A7C15
_PLACE_FACTOR = 0xC2B2AE3D27D4EB4F
_LONGEST_WORD_BYTES = 4 * 256

_Ints = npt.NDArray[np.int64]

_INSERT_WORDS = f"INSERT INTO {WORD_INDEX}(rowid, terms) VALUES (?, ?)"  # noqa: S608 - our own constant
_CLEAR_WORDS = f"INSERT INTO {WORD_INDEX}({WORD_INDEX}) VALUES ('delete-all')"  # noqa: S608
_RARITY = f"SELECT doc FROM {WORD_INDEX}_rarity WHERE term = ?"  # noqa: S608
_SUMS = f"SELECT term, count(*), sum(doc), sum(offset) FROM {WORD_INDEX}_instances GROUP BY term"  # noqa: S608
# the best first: joining what is only ranked, thousands of passages, would take a third of the time
_MATCH = f"""
    WITH best AS MATERIALIZED (
        SELECT rowid AS token_start, rank AS score FROM {WORD_INDEX}
        WHERE {WORD_INDEX} MATCH ? AND rowid >= ? ORDER BY rank, rowid LIMIT ?
    )
    SELECT best.token_start, passages.token_stop, passages.num_terms, passages.crc, best.score
    FROM best JOIN passages USING (token_start) ORDER BY best.score, best.token_start
"""  # noqa: S608


def as_int64(value: int) -> int:
    """Modulo 2^64, signed: as SQLite keeps it."""
    value &= _BITS_64
    return value - (1 << 64) if value >> 63 else value


@cache
def _char_factors() -> npt.NDArray[np.uint64]:
    """Odd factors, one per place in a word: a changed byte always changes its word's hash."""
    with np.errstate(over="ignore"):
        return np.cumprod(np.full(_LONGEST_WORD_BYTES, _CHAR_FACTOR, dtype=np.uint64), dtype=np.uint64)


def _word_hashes(words: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A polynomial hash of each word's UTF-8 bytes, modulo 2^64."""
    text_B = np.frombuffer(" ".join(words).encode(), dtype=np.uint8)
    is_space_B = text_B == ord(" ")
    starts_W = np.concatenate([[0], np.flatnonzero(is_space_B) + 1])
    lengths_W = np.diff(np.append(starts_W, len(text_B) + 1))
    places_B = (np.arange(len(text_B) + 1) - np.repeat(starts_W, lengths_W))[: len(text_B)]
    terms_B = text_B.astype(np.uint64) * _char_factors()[places_B]
    terms_B[is_space_B] = 0
    return np.add.reduceat(terms_B, starts_W)


def _words_sum(words: Sequence[str], passages_W: _Ints, places_W: _Ints, counts_W: _Ints) -> int:
    """What words add to the checksum; passages and places may be sums over ``counts`` occurrences."""
    passage_factor, place_factor = np.uint64(_PASSAGE_FACTOR), np.uint64(_PLACE_FACTOR)
    weights_W = passages_W.astype(np.uint64) * passage_factor + places_W.astype(np.uint64) * place_factor
    return int((_word_hashes(words) * (weights_W + counts_W.astype(np.uint64))).sum())


def add_passages(connection: sqlite3.Connection, new: Sequence[Passage]) -> tuple[int, int]:
    """Index passages; how many words they have, and what they add to the checksum."""
    num_words, total = 0, 0
    for first in range(0, len(new), _PASSAGES_PER_BATCH):
        batch = new[first : first + _PASSAGES_PER_BATCH]
        words_per_passage = [words_of(passage.text) for passage in batch]
        counts_P = np.array([len(words) for words in words_per_passage])
        rows = [
            (*values, row_crc(values))
            for values in (
                (passage.token_start, passage.token_stop, len(words))
                for passage, words in zip(batch, words_per_passage, strict=True)
            )
        ]
        texts = [
            (passage.token_start, " ".join(words)) for passage, words in zip(batch, words_per_passage, strict=True)
        ]
        connection.executemany(insert_sql(passages), rows)
        connection.executemany(_INSERT_WORDS, texts)
        if counts_P.sum() == 0:
            continue
        starts_W = np.repeat(np.array([passage.token_start for passage in batch]), counts_P)
        places_W = np.arange(counts_P.sum()) - np.repeat(np.cumsum(counts_P) - counts_P, counts_P)
        all_words = [word for words in words_per_passage for word in words]
        total += _words_sum(all_words, starts_W, places_W, np.ones_like(starts_W))
        num_words += len(all_words)
    return num_words, as_int64(total)


def clear_index(connection: sqlite3.Connection) -> None:
    connection.execute(_CLEAR_WORDS)
    connection.execute(f"DELETE FROM {passages.name}")  # noqa: S608


def index_sum(connection: sqlite3.Connection) -> int:
    """The checksum of what the index holds now."""
    total = 0
    cursor = connection.execute(_SUMS)
    while rows := cursor.fetchmany(_WORDS_PER_BATCH):
        words = [row[0] for row in rows]
        counts_W, starts_W, places_W = np.array([row[1:] for row in rows], dtype=np.int64).T
        total += _words_sum(words, starts_W, places_W, counts_W)
    return as_int64(total)


class WordIndex:
    """Searches one catalog; remembers how common words are, because counting a common one takes milliseconds."""

    def __init__(self) -> None:
        self._num_passages: dict[str, int] = {}
        self._counted_at = 0

    def search(
        self, connection: sqlite3.Connection, text: str, *, limit: int, indexed_tokens: int
    ) -> list[tuple[SearchHit, int, int]]:
        """Best passages first, each with the number of its words and its checksum.

        Words are taken from the rarest on, until they occur in MAX_POSTINGS passages together: the common rest says
        little and costs most. If even the rarest is that common, only recent text is ranked.
        """
        words = self._rarest(connection, list(dict.fromkeys(words_of(text))), indexed_tokens)
        if not words:
            return []
        chosen: list[str] = []
        postings = 0
        for word, count in words[:MAX_QUERY_WORDS]:
            if chosen and postings + count > MAX_POSTINGS:
                break
            chosen.append(word)
            postings += count
        first = max(0, indexed_tokens - _RECENT_TOKENS) if postings > MAX_POSTINGS else 0
        query = " OR ".join(f'"{word}"' for word in chosen)
        return [
            (SearchHit(token_start=start, token_stop=stop, score=-rank), num_terms, crc)
            for start, stop, num_terms, crc, rank in connection.execute(_MATCH, (query, first, limit))
        ]

    def _rarest(self, connection: sqlite3.Connection, words: list[str], indexed_tokens: int) -> list[tuple[str, int]]:
        """Words that occur, with the number of passages they are in, rarest first."""
        if indexed_tokens < self._counted_at or indexed_tokens > self._counted_at + self._counted_at // 4:
            self._num_passages.clear()
            self._counted_at = indexed_tokens
        counted = []
        for word in words:
            count = self._num_passages.get(word)
            if count is None:
                row = connection.execute(_RARITY, (word,)).fetchone()
                count = row[0] if row else 0
                if count > MAX_POSTINGS // 10:  # rarer words are counted in no time and may soon be less rare
                    self._num_passages[word] = count
            if count:
                counted.append((word, count))
        return sorted(counted, key=lambda item: item[1])
