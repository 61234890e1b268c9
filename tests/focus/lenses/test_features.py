"""What a learned lens is told of a block's words: one rule for training and sessions."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.focus.lenses.features import (
    COMPARED_FEATURES,
    LAST_TOKENS,
    MAX_WORDS,
    TOKENS_BEFORE,
    TOKENS_CONTINUED,
    UNKNOWN,
    blocks_with_before,
    feature_columns,
    lexical_scores,
    word_features,
)


def test_lexical_scores_prefer_rare_shared_tokens() -> None:
    blocks = np.array([[1, 1, 1, 9], [1, 2, 3, 4], [1, 5, 6, 7], [8, 8, 8, 8]])
    scores = lexical_scores(blocks, np.array([1, 2, 99]))
    assert scores.argmax() == 1
    assert scores[3] == 0
    assert scores[0] > scores[2] > 0


def test_words_in_common_are_counted_by_token_and_by_pair() -> None:
    blocks = np.array([[1, 2, 3, 9], [2, 1, 9, 9], [9, 4, 9, 9], [9, 9, 9, 9]])
    scores, in_common, *_ = word_features(blocks, np.array([1, 2, 7]), num_before=0)
    words = in_common.by_token()
    np.testing.assert_allclose(scores, lexical_scores(blocks, np.array([1, 2, 7])))
    assert words.shape == (4, 3, 4)
    ones, pairs = words[..., 0], words[..., 1]
    assert (words[..., 2:] == 0).all(), "nothing before the blocks was read"
    assert ones[0, 0] == ones[1, 0] == ones[0, 1] > 0
    assert (words[:, 2] == 0).all()
    assert (words[2:] == 0).all()
    assert pairs[:, 0].tolist() == [0, 0, 0, 0], "nothing stands before the first"
    assert pairs[:, 1].tolist() == pytest.approx([1, 0, 0, 0])
    assert word_features(blocks, np.array([4]), num_before=0).words.by_token()[2, 0, 0] == pytest.approx(1)


def test_the_last_tokens_are_compared_apart() -> None:
    rng = np.random.default_rng(0)
    blocks, query = rng.integers(0, 400, (30, 48)), rng.integers(0, 400, 64)
    found = word_features(blocks, query)
    most = np.log1p((30 - 0.5) / 1.5)
    for place, length in enumerate(LAST_TOKENS):
        alone = lexical_scores(blocks[:, TOKENS_BEFORE:], query[-length:])
        told = lexical_scores(blocks[:, TOKENS_BEFORE:], query)
        np.testing.assert_allclose(found.lexical_n, told)
        np.testing.assert_allclose(found.last_n2[:, place], alone / most)
        np.testing.assert_allclose(found.columns()[f"lexical_{length}"], alone / most / MAX_WORDS)
    assert tuple(found.columns()) == COMPARED_FEATURES
    only = np.full((3, 48), 7)
    only[1, 20], only[2, 21:23] = 9, 9
    said = word_features(only, np.array([9, 5, 5])).last_n2[:, 0]
    assert said[0] == 0
    assert said[1] > 0
    one = np.full((3, 48), 7)
    one[1, 20] = 9
    assert word_features(one, np.array([9, 5, 5])).last_n2.tolist() == [[0, 0], [1, 1], [0, 0]], "once, in one alone"


@pytest.mark.parametrize(("num_tokens", "num_blocks"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
def test_text_has_as_many_blocks_as_it_fills(num_tokens: int, num_blocks: int) -> None:
    tokens = np.arange(-TOKENS_BEFORE, num_tokens)
    blocks = blocks_with_before(tokens, block_tokens=4)
    assert blocks.shape == (num_blocks, TOKENS_BEFORE + 4)
    assert blocks[:, TOKENS_BEFORE:].tolist() == [
        [4 * at, 4 * at + 1, 4 * at + 2, 4 * at + 3] for at in range(num_blocks)
    ]


def test_a_lens_may_be_told_nothing() -> None:
    ones = np.ones(3, dtype=np.int64)
    features = feature_columns((), levels_n=ones, widths_n=ones, distances_n=ones)
    assert (features.shape, features.dtype) == ((3, 0), np.float32)


def test_what_goes_on_may_have_begun_in_the_block_before() -> None:
    text = np.array([7, 8, 1, 2, 3, 4, 5, 6, 2, 3, 9, 9])
    blocks = blocks_with_before(np.concatenate([np.full(TOKENS_BEFORE, UNKNOWN), text]), block_tokens=4)
    assert blocks[:, -8:].tolist() == [[-1, -1, -1, -1, 7, 8, 1, 2], [7, 8, 1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 2, 3, 9, 9]]
    assert (blocks[0, :TOKENS_BEFORE] == UNKNOWN).all()
    asked = word_features(blocks, np.array([5, 8, 1, 2]))
    assert asked.continues_n.tolist() == [0, 3, 1], "after 8 1 2 comes the second block, after a 2 also the third"
    own, before = asked.words.by_token()[..., :2], asked.words.by_token()[..., 2:]
    assert (own[1, 1:] == 0).all(), "what stands before a block is none of its words"
    assert (before[0] == 0).all()
    assert (before[1, :, 0] > 0).tolist() == [False, True, True, True], "but it is told apart"
    assert (before[1, :, 1] > 0).tolist() == [False, False, True, True]
    assert before[2, 1, 0] > before[1, 1, 0] * 0.99, "and reaches over more than a block"
    assert word_features(blocks, np.array([2, 3])).words.by_token()[1, 1, 1] > 0, "but a pair may begin there"
    assert word_features(blocks, np.array([2])).continues_n.tolist() == [0, 1, 1]
    assert word_features(blocks, np.array([6, 2, 3, 9])).continues_n.tolist() == [0, 0, 4]
    assert word_features(blocks, np.array([5, 6, 2, 3, 9])).continues_n.tolist() == [0, 0, TOKENS_CONTINUED]
    assert word_features(blocks[:0], np.array([2])).continues_n.shape == (0,)


def test_words_of_short_blocks_can_be_compared() -> None:
    blocks, query = np.array([[1, 2], [3, 4]]), np.arange(9)
    assert lexical_scores(blocks, query).tolist() == word_features(blocks, query, num_before=0).lexical_n.tolist()
    assert word_features(blocks, np.array([9, 9, 1]), num_before=0).continues_n.tolist() == [1, 0]
