"""The learned lens with a double in place of the base's net: what it asks, and what it makes of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pytest

from megacontext.errors import BaseModelError
from megacontext.focus.allocators.registry import make_allocator
from megacontext.focus.lenses.features import (
    MAX_LEVEL,
    MAX_LOG2,
    TOKENS_BEFORE,
    UNKNOWN,
    blocks_with_before,
    feature_columns,
)
from megacontext.focus.lenses.lensnet import LensNetLens, _read
from megacontext.focus.refocusing import refocus
from megacontext.ports.words import WordsInCommon

NAMES = ("level", "log2_width", "log2_distance", "lexical", "residency", "continues")
NUM_BLOCKS = 400


@dataclass
class Told:
    """Evidence is what blocks are worth, as a logit beside ``stakes``; notes what was asked."""

    worth: dict[int, float] = field(default_factory=dict)
    query_token_ids: npt.NDArray[np.uint32] = field(
        default_factory=lambda: np.arange(77 * 8, 77 * 8 + 8, dtype=np.uint32)
    )
    features: tuple[str, ...] = NAMES
    num_scratch: int = 5
    stakes: tuple[float, npt.NDArray[np.float32]] = (0.0, np.array([2.0, 8.0], dtype=np.float32))
    asked: list[list[int]] = field(default_factory=list)
    seen: list[npt.NDArray[np.float32]] = field(default_factory=list)
    words: list[WordsInCommon | None] = field(default_factory=list)

    def of_blocks(self, blocks_n, features_nF, words=None):
        self.asked.append(blocks_n.tolist())
        self.seen.append(features_nF)
        self.words.append(words)
        return np.array([self.worth.get(block, -20.0) for block in blocks_n], dtype=np.float32)


class CountingMemory:
    """Tokens count up."""

    num_tokens = NUM_BLOCKS * 8 + 3

    def tokens(self, start, stop):
        return np.arange(start, stop, dtype=np.uint32)

    def token_batch(self, spans):
        return [self.tokens(start, stop) for start, stop in spans]

    def text(self, start, stop):
        return " ".join(map(str, range(start, stop)))

    def search_hits(self, text, *, limit):
        return []


def ask(plain, worth, *, lens=None, told=None):
    memory = CountingMemory()
    wc = plain.working_context(memory)
    told = told or Told()
    told.worth = worth
    request = replace(plain.request(memory, "what?", wc=wc), learned=told)
    return (lens or LensNetLens(num_shortlisted=32)).score(request), wc, memory, told


def test_the_best_blocks_are_nominated_wherever_they_stand(plain):
    told = Told()
    scores, wc, _, _ = ask(plain, {17: 4.0, 100: 2.2, 230: 3.0, 231: 2.6}, told=told)
    assert [(place.start, place.stop) for place in scores.nominations][:3] == [
        (17 * 8, 18 * 8),
        (230 * 8, 231 * 8),
        (231 * 8, 232 * 8),
    ]
    shares = np.exp([4.0, 3.0, 2.6]) / np.exp([4.0, 3.0, 2.6, 2.2, 0.0]).sum()  # the last is nothing at all
    said = [place.utility for place in scores.nominations][:3]
    np.testing.assert_allclose(said, 8 * shares, rtol=1e-4)
    assert len(scores.nominations) == 3, "what is worth less than a fifth of the best is not opened"
    told.stakes = (30.0, told.stakes[1])
    calm, _, _, _ = ask(plain, {17: 4.0}, told=told)
    assert max(place.utility for place in calm.nominations) < 1e-9, "where nothing is needed, nothing is opened"
    refocus(wc, scores, make_allocator("greedy"))
    raw = wc.starts[wc.levels == 0].tolist()
    assert {17 * 8, 230 * 8, 231 * 8} <= set(raw)


def test_the_stake_is_that_of_what_stands_there(plain):
    wc = plain.working_context(CountingMemory())
    collapsed = int(np.flatnonzero(wc.levels == 1)[0])
    is_open = int(np.flatnonzero((wc.levels == 0) & ~wc.pinned)[0])
    for entry, stake in ((collapsed, 2.0), (is_open, 8.0)):
        block = int(wc.starts[entry]) // 8
        scores, _, _, _ = ask(plain, {block: 9.0})
        assert scores.utility[entry] == pytest.approx(stake, rel=0.1)
        assert (scores.utility[wc.levels > 1] <= LensNetLens().recency).all()
        assert int(wc.starts[entry]) not in {place.start for place in scores.nominations}


def test_the_scan_is_bounded(plain):
    scores, wc, _, told = ask(plain, {17: 9.0, 355: 0.5}, lens=LensNetLens(num_scanned=50, num_shortlisted=8))
    scanned, looked_at = told.asked
    assert scanned == list(range(350, 400))
    assert len(looked_at) <= 8 + (wc.levels <= 1).sum()
    assert 17 * 8 not in {place.start for place in scores.nominations}
    assert scores.nominations[0].start == 355 * 8


def test_what_is_pinned_is_not_judged(plain):
    memory = CountingMemory()
    wc = plain.working_context(memory)
    request = replace(plain.request(memory, "what?", wc=wc), learned=Told(worth={390: 9.0, 17: 4.0}))
    cut = request.cut
    entry = int(np.searchsorted(cut.starts, 390 * 8, side="right")) - 1
    assert cut.levels[entry] == 0
    free = LensNetLens().score(request)
    pinned = cut.pinned.copy()
    pinned[entry] = True
    held = LensNetLens().score(replace(request, cut=replace(cut, pinned=pinned)))
    assert free.utility[entry] > 1.5
    assert held.utility[entry] <= 0.25, "it is open whatever is said of it"
    assert held.nominations[0].utility > 5
    assert not free.nominations, "there what is worth a hundredth of it is not worth looking at"


def test_the_text_that_asks_is_no_answer_to_itself(plain):
    told = Told(query_token_ids=np.arange(NUM_BLOCKS * 8 - 16, NUM_BLOCKS * 8 + 3, dtype=np.uint32), num_scratch=0)
    lens = LensNetLens(num_shortlisted=8)
    scores, wc, _, _ = ask(plain, {398: 9.0, 399: 9.0, 397: 1.0}, told=told, lens=lens)
    worth = {int(start) // 8: value for start, value in zip(wc.starts, scores.utility, strict=True)}
    assert max(worth[398], worth[399]) <= 0.25, "their tokens ask"
    assert worth[397] > 1 or 397 in {place.start // 8 for place in scores.nominations}
    told.num_scratch = 19  # they stand in the history by chance
    scores, wc, _, _ = ask(plain, {398: 9.0}, told=told, lens=lens)
    assert dict(zip((wc.starts // 8).tolist(), scores.utility, strict=True))[398] > 1


def test_search_hits_reach_beyond_the_scan(plain):
    from megacontext.ports.catalog import SearchHit

    memory, told = CountingMemory(), Told(worth={17: 9.0, 18: 8.0, 19: 7.0})
    memory.search_hits = lambda text, *, limit: [SearchHit(token_start=16 * 8, token_stop=18 * 8, score=1.0)]
    request = replace(plain.request(memory, "what?", wc=plain.working_context(memory)), learned=told)
    scores = LensNetLens(num_scanned=50, num_shortlisted=8).score(request)
    assert [place.start // 8 for place in scores.nominations if place.utility > 1] == [17, 18], "and the next block"


def test_features_are_those_of_training(plain):
    _, _, memory, told = ask(plain, {77: 1.0, 78: 1.0})
    first, second = told.seen
    assert first.shape == (NUM_BLOCKS, 6)
    assert (first[:, 3] == 0).all(), "no words are read in the scan"
    distance = memory.num_tokens + 5 - 78 * 8
    expected = [1 / MAX_LEVEL, 3 / MAX_LOG2, np.log2(distance) / MAX_LOG2, 0, 0, 0]
    np.testing.assert_allclose(first[77], expected, rtol=1e-6)
    assert (first[:, 5] == 0).all()
    assert (second[:, 3] == 1).sum() == 1, "the block that has all words of the query"
    assert told.words[0] is None
    holder = int(second[:, 3].argmax())
    words = told.words[1].by_token()
    assert (words[holder, :, 0] == 1).all(), "each token of the query stands there alone, and once"
    assert (words[holder, 1:, 1] == 1).all(), "and after the token before it"
    assert words[..., :2].sum() == 8 + 7
    assert (words[holder + 1, :, 2] == 1).all(), "the next block tells what stands before it"
    assert second[holder + 1, 5] == 1, "the next block is what they go on with"
    assert second[:, 5].sum() == 1


def test_blocks_are_read_with_what_stands_before_them(plain):
    blocks = np.array([0, 1, 3, 4, 9])
    tokens = np.concatenate([np.full(TOKENS_BEFORE, UNKNOWN), np.arange(CountingMemory.num_tokens)])
    expected = blocks_with_before(tokens, block_tokens=plain.BLOCK)[blocks]
    np.testing.assert_array_equal(_read(plain.request(CountingMemory()), blocks), expected)


def test_without_a_window_words_lead(plain):
    memory = plain.TextMemory("The weather was fine. " * 40 + "The code of Alice Green is 12345. " + "It rained. " * 40)
    request = plain.request(memory, "What is the code of Alice Green?")
    scores = LensNetLens().score(request)
    place = memory.token_of("12345")
    assert any(nomination.start <= place < nomination.stop for nomination in scores.nominations)


def test_a_feature_of_a_newer_lens_is_refused():
    ones = np.ones(2, dtype=np.int64)
    with pytest.raises(BaseModelError, match="asks for the feature 'mood'"):
        feature_columns(("level", "mood"), levels_n=ones, widths_n=ones, distances_n=ones)
