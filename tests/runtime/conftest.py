"""What the tests of this room share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from megacontext.ports.gister import GistBatch
from megacontext.runtime import assembly
from megacontext.testing.fake_base import tiny_base

FACT = "The code for Kolibri is 48213."


class PlainReader:
    """Reads like ``TreeReader``. Gist vectors are drawn from (level, index): equal nodes have equal gists."""

    def __init__(self, token_ids, *, dim, gist_width=1):
        self._token_ids = np.asarray(token_ids, dtype=np.uint32)
        self._dim, self._gist_width = dim, gist_width
        self.num_reads = 0
        self.gister = SimpleNamespace(gist_width=gist_width, spread=12**-0.5 / gist_width)

    @property
    def num_tokens(self):
        return len(self._token_ids)

    def tokens_at(self, positions):
        self.num_reads += 1
        return self._token_ids[positions]

    def gist_batch(self, levels, indices):
        self.num_reads += 1
        shape = (self._gist_width, self._dim)
        vectors = [
            np.random.default_rng([level, index]).normal(size=shape)
            for level, index in zip(levels.tolist(), indices.tolist(), strict=True)
        ]
        offsets = np.tile(np.arange(self._gist_width, dtype=np.float32) + 0.5, (len(levels), 1))
        return GistBatch(
            vectors=np.array(vectors, dtype=np.float16).reshape(-1, *shape),
            offsets=offsets,
            weights=np.ones_like(offsets),
        )


@pytest.fixture
def plain_reader():
    return PlainReader


@pytest.fixture(scope="session")
def base():
    return tiny_base()


@pytest.fixture
def memory(tmp_path, base):
    """6,000 random tokens, a fact, 3,000 more; K = 8, mean gists."""
    rng = np.random.default_rng(0)
    with assembly.open(tmp_path / "memory", base=base, create=True, gister="mean", block_tokens=8) as opened:
        opened.append(rng.integers(97, 123, 6000))
        opened.append_text(FACT, source="fact")
        opened.append(rng.integers(97, 123, 3000))
        yield opened
