"""Full-text search over the whole history: the catalog's index, and a scan of the end that is not in it yet."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from megacontext.memory.parts import Parts
from megacontext.memory.passages import next_passage_start
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import SearchResult
from megacontext.ports.catalog import Extent, SearchHit, Source
from megacontext.values import LARGEST, whole_number
from megacontext.values import text as valid_text

__all__ = ["Searcher"]

_WORD = re.compile(r"\w+")
_OVERLAPPING = 3  # a passage shares tokens with one before and one behind
_PART_LETTERS = 4  # from here on a word also counts within a longer one (``retries`` in ``max_retries``)


class Searcher:
    """Finds passages by their words."""

    def __init__(self, parts: Parts, reader: TreeReader) -> None:
        self._parts = parts
        self._reader = reader

    def hits(self, text: str, limit: int) -> list[SearchHit]:
        """Passages that share words with ``text``, best first, at most ``limit``."""
        text = valid_text("text", text)
        limit = whole_number("limit", limit, least=1, of="passages")
        hits = [hit for hit in self._parts.catalog.search(text, limit=limit) if hit.token_stop <= self._num_tokens]
        tail = self._tail_hit(text, max((hit.score for hit in hits), default=1.0))
        if tail is not None:
            hits.append(tail)
        return sorted(hits, key=lambda hit: (-hit.score, hit.token_start))[:limit]

    def results(self, text: str, limit: int) -> list[SearchResult]:
        """Hits with their text and their source. A passage that several short sources share counts for each of them
        that has words of the question, and only with its own text.

        Passages overlap, so that a fact lies whole in one of them; of what a better one says already, the next says
        only the rest, if there are words of the question in that.
        """
        words = set(_WORD.findall(_folded(valid_text("text", text))))
        limit = whole_number("limit", limit, least=1, of="passages")
        results: list[SearchResult] = []
        for found in self.hits(text, min(_OVERLAPPING * limit, LARGEST)):
            hit = self._rest(found, results, words)
            if hit is None:
                continue
            results += [
                SearchResult(
                    token_start=start,
                    token_stop=stop,
                    score=hit.score,
                    uri=source.uri,
                    version=source.version,
                    title=extent.title,
                    role=extent.role or source.role,
                    text=self._text(start, stop),
                )
                for source, extent, start, stop in self._by_source(hit, words)
            ]
            if len(results) >= limit:
                break
        return results[:limit]

    def _rest(self, hit: SearchHit, shown: list[SearchResult], words: set[str]) -> SearchHit | None:
        """What of a hit is not shown yet, or None if it would not have been found for that."""
        start, stop = hit.token_start, hit.token_stop
        for result in shown:
            if result.token_start <= start < result.token_stop:
                start = result.token_stop
            elif result.token_start < stop <= result.token_stop:
                stop = result.token_start
        if start >= stop:
            return None
        if (start, stop) != (hit.token_start, hit.token_stop):
            whole = _found(words, _folded(self._text(hit.token_start, hit.token_stop)))
            if whole and not _found(words, _folded(self._text(start, stop))):
                return None
        return replace(hit, token_start=start, token_stop=stop)

    def _by_source(self, hit: SearchHit, words: set[str]) -> list[tuple[Source, Extent, int, int]]:
        """What each extent has of a hit, those with most words first; only the first if none has a whole word."""
        shares = []
        for source, extent in self._parts.catalog.extents(hit.token_start, hit.token_stop):
            start, stop = max(hit.token_start, extent.token_start), min(hit.token_stop, extent.token_stop)
            shares.append((len(_found(words, _folded(self._text(start, stop)))), (source, extent, start, stop)))
        shares.sort(key=lambda share: -share[0])
        return [place for num_words, place in shares if num_words] or [shares[0][1]]

    @property
    def _num_tokens(self) -> int:
        return self._reader.num_tokens

    def _text(self, start: int, stop: int) -> str:
        return self._parts.codec.decode(self._reader.tokens(start, stop))

    def _tail_hit(self, text: str, best_score: float) -> SearchHit | None:
        """The unindexed end as one passage. It has no place in the index's statistics, so it scores the share of the
        question's words that it holds, long words counting more, on the scale of the best indexed hit."""
        start = next_passage_start(self._reader.state.indexed_tokens, self._parts.info.block_tokens)
        words = set(_WORD.findall(_folded(text)))
        if start >= self._num_tokens or not words:
            return None
        found = _found(words, _folded(self._text(start, self._num_tokens)))
        share = sum(map(len, found)) / sum(map(len, words))
        if not share:
            return None
        return SearchHit(token_start=start, token_stop=self._num_tokens, score=max(best_score, 1e-6) * share)


def _found(words: set[str], text: str) -> list[str]:
    """Those of the words that a folded text holds; long ones also within longer words."""
    whole = set(_WORD.findall(text))
    return [word for word in words if word in whole or (len(word) >= _PART_LETTERS and word in text)]


def _folded(text: str) -> str:
    """Lower case without accents, as the index folds words."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
