"""Full-text search over the whole history: the catalog's index, and a scan of the end that is not in it yet."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect, insort
from collections.abc import Iterator

from megacontext.memory.parts import Parts
from megacontext.memory.passages import STRIDE_BLOCKS, next_passage_start, passage_tokens, passages_from
from megacontext.memory.provenance import share_of
from megacontext.memory.reads import TreeReader
from megacontext.memory.reports import SearchResult
from megacontext.ports.catalog import Extent, SearchHit, Source
from megacontext.values import LARGEST, whole_number
from megacontext.values import text as valid_text

__all__ = ["Searcher"]

_WORD = re.compile(r"\w+")
_OVERLAPPING = 3  # a passage shares tokens with one before and one behind
_PART_LETTERS = 4  # from here on a word also counts within a longer one (``retries`` in ``max_retries``)

_Span = tuple[int, int]


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
        hits += self._tail_hits(text, max((hit.score for hit in hits), default=1.0))
        return sorted(hits, key=lambda hit: (-hit.score, hit.token_start))[:limit]

    def results(self, text: str, limit: int) -> list[SearchResult]:
        """Hits with their text and their source. A passage that several short sources share counts for each of them
        that has words of the question, and only with its own text, which is whole even where the passage ends in it.

        Passages overlap, so that a fact lies whole in one of them; of what a better one says already, the next says
        only the rest, if there are words of the question in that.
        """
        words = set(_WORD.findall(_folded(valid_text("text", text))))
        limit = whole_number("limit", limit, least=1, of="passages")
        results: list[SearchResult] = []
        shown: list[_Span] = []  # of the results, in order of the history
        for hit in self.hits(text, min(_OVERLAPPING * limit, LARGEST)):
            for source, extent, (start, stop) in self._by_source(hit, shown, words):
                insort(shown, (start, stop))
                results.append(
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
                )
            if len(results) >= limit:
                break
        return results[:limit]

    def _by_source(self, hit: SearchHit, shown: list[_Span], words: set[str]) -> list[tuple[Source, Extent, _Span]]:
        """What each extent has of a hit that is not shown yet, those with most words first; only the first if none of
        the hit has a whole word."""
        whole_tokens = passage_tokens(self._parts.info.block_tokens)
        places: list[tuple[int, tuple[Source, Extent, _Span]]] = []
        has_words = False
        for source, extent in self._parts.catalog.extents(hit.token_start, hit.token_stop):
            start, stop = share_of(extent, hit.token_start, hit.token_stop, whole_tokens)
            rest = _rest(start, stop, shown)
            counts = [self._num_words(span, words) for span in rest]
            places += [(count, (source, extent, span)) for count, span in zip(counts, rest, strict=True)]
            has_words = (
                has_words or any(counts) or (rest != [(start, stop)] and self._num_words((start, stop), words) > 0)
            )
        places.sort(key=lambda place: -place[0])
        return [place for num_words, place in places if num_words] if has_words else [place for _, place in places[:1]]

    def _num_words(self, span: _Span, words: set[str]) -> int:
        return len(_found(words, _folded(self._text(*span))))

    @property
    def _num_tokens(self) -> int:
        return self._reader.num_tokens

    def _text(self, start: int, stop: int) -> str:
        return self._parts.codec.decode(self._reader.tokens(start, stop))

    def _tail_hits(self, text: str, best_score: float) -> Iterator[SearchHit]:
        """Passages of the unindexed end. They have no place in the index's statistics, so each scores the share of the
        question's words that it holds, long words counting more, on the scale of the best indexed hit.

        As a rule that is less than one passage. Where the index is missing, as while something is erased, a search
        sees no more than the newest segment of the history, since to decode all of it may take minutes.
        """
        words = set(_WORD.findall(_folded(text)))
        for start, stop, said in self._tail_passages() if words else ():
            share = sum(map(len, _found(words, _folded(said)))) / sum(map(len, words))
            if share:
                yield SearchHit(token_start=start, token_stop=stop, score=max(best_score, 1e-6) * share)

    def _tail_passages(self) -> Iterator[tuple[int, int, str]]:
        K, stop = self._parts.info.block_tokens, self._num_tokens
        stride = STRIDE_BLOCKS * K
        newest = max(0, stop - self._parts.info.segment_tokens) // stride * stride
        start = max(newest, next_passage_start(self._reader.state.indexed_tokens, K))
        if start >= stop:
            return
        tokens, done = self._reader.tokens(start, stop), 0
        for passage in passages_from(tokens, start, K, self._parts.codec):
            yield passage.token_start, passage.token_stop, passage.text
            done += stride
        if start + done < stop:
            yield start + done, stop, self._parts.codec.decode(tokens[done:])


def _rest(start: int, stop: int, shown: list[_Span]) -> list[_Span]:
    """What of ``[start, stop)`` is not shown; spans that are shown are in order and share nothing."""
    rest: list[_Span] = []
    for low, high in shown[max(bisect(shown, (start, start)) - 1, 0) :]:
        if low >= stop:
            break
        if start < low:
            rest.append((start, low))
        start = max(start, high)
    return [*rest, (start, stop)] if start < stop else rest


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
