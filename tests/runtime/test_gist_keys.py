"""Keys of gists are made once, and are those of the blocks that were asked for."""

from __future__ import annotations

import numpy as np
import torch

from megacontext.runtime.gist_keys import SMALLEST, GistKeys


class Numbered:
    """A memory whose gists say which block they are of, and a base that takes them for keys; notes what is made."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def gists(self, level, start, stop):
        assert level == 1
        return np.arange(start, stop, dtype=np.float32)[:, None, None].repeat(2, axis=1)

    def lens_keys(self, vectors):
        self.made += vectors[:, 0, 0].astype(int).tolist()
        return torch.from_numpy(vectors)


def table(**options):
    numbered = Numbered()
    return GistKeys(numbered, numbered, **options), numbered


def blocks_of(keys):
    assert keys.shape[1:] == (2, 1)
    return keys[:, 1, 0].int().tolist()


def test_a_key_is_made_once():
    keys, numbered = table()
    asked = np.array([3, 4, 5, 90])
    assert blocks_of(keys.of(asked)) == asked.tolist()
    numbered.made.clear()
    assert blocks_of(keys.of(np.arange(2, 92))) == list(range(2, 92))
    assert numbered.made == [2, *range(6, 90), 91]
    numbered.made.clear()
    assert blocks_of(keys.of(np.array([5, 90]))) == [5, 90]
    assert numbered.made == []


def test_it_follows_a_history_that_grows_and_stays_bounded():
    keys, numbered = table(kept_blocks=4 * SMALLEST)
    for stop in range(100, 20_000, 700):
        first = max(0, stop - 3 * SMALLEST)
        assert blocks_of(keys.of(np.arange(first, stop))) == list(range(first, stop))
        assert len(keys._table) <= 4 * SMALLEST
    assert len(numbered.made) < 20_000 + 100, "hardly any was made twice"


def test_what_lies_before_the_table_is_made_again():
    keys, numbered = table(kept_blocks=SMALLEST)
    keys.of(np.array([5000]))
    for _ in range(2):
        numbered.made.clear()
        assert blocks_of(keys.of(np.array([7, 8, 4999, 5000]))) == [7, 8, 4999, 5000]
        assert numbered.made[-2:] == [7, 8]
    assert blocks_of(keys.of(np.array([9]))) == [9]
    assert blocks_of(keys.of(np.array([99_999]))) == [99_999], "a leap forgets what was kept"
