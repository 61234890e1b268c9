"""Words that only far context holds, and what they weigh in windows of gists."""

from __future__ import annotations

from random import Random

import numpy as np
from tokenizers import Tokenizer

from megacontext.training.curriculum import BatchKind, batch_of
from megacontext.training.far_words import closed_words, far_tokens
from megacontext.training.gist_cuts import GistCut
from megacontext.training.rows import plain_row, recall_row
from megacontext.training.windows import TextSource


def test_far_words_were_seen_but_not_lately() -> None:
    pieces = [b" stone", b" bridge"] + [b" a"] * 600 + [b" bri", b"dge", b" stone", b" a", b" stone"]
    assert far_tokens(pieces, first=602) == [602, 603, 604]
    assert far_tokens(pieces, first=604) == [604]
    assert far_tokens(pieces[:2] + pieces[-5:], first=2) == []


def test_closed_words_stand_in_closed_blocks_alone() -> None:
    pieces = [b" stone", b" river", b" river", b" a", b" bri", b"dge", b" stone", b" river", b" stone", b" bridge"]
    is_open = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1], dtype=bool)
    assert closed_words(pieces, is_open).nonzero()[0].tolist() == [2, 6], "not those that were shown"
    is_open[9] = False
    assert closed_words(pieces, is_open).nonzero()[0].tolist() == [2, 6], "what is closed is not predicted"
    is_open[4:6] = False
    is_open[9] = True
    assert closed_words(pieces, is_open).nonzero()[0].tolist() == [2, 6, 9]


def test_they_weigh_more_where_nothing_is_asked(source: TextSource, tokenizer: Tokenizer) -> None:
    rows = [plain_row(source, Random(0), 512), recall_row(source, Random(1), 512)]
    weights = []
    for far_weight in (1.0, 5.0):
        cut = GistCut(shapes=[(32, 1)], num_tail=8, far_weight=far_weight)
        kind = BatchKind(name="mixed", share=1.0, rows=2, length=512, mix={"plain": 1.0}, gists=cut)
        batch = batch_of(kind, ("plain", "recall"), rows, Random(0), source.pieces_V)
        weights.append(batch.weights_BT.numpy())
    before, after = weights
    assert rows[1].answers
    np.testing.assert_array_equal(after[1], before[1])
    changed = np.flatnonzero(after[0] != before[0])
    assert len(changed)
    assert (after[0][changed] == 5).all()
    assert changed.min() >= 255
    closed = tokenizer.decode(rows[0].tokens_T[:256].tolist())
    shown = tokenizer.decode(rows[0].tokens_T[256 : changed[0] + 1].tolist())
    word = tokenizer.decode(rows[0].targets_T[changed[:1]].tolist()).strip()
    assert word in closed
    assert f" {word} " not in shown
