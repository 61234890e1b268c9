"""The tree as lists of lists, slow and obvious: what the arithmetic is compared with."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest


@functools.lru_cache(maxsize=64)
def levels(num_tokens: int, block_tokens: int) -> list[list[list[int]]]:
    """Per level, the complete nodes as the lists of their tokens; no level at all for an empty history."""
    if not num_tokens:
        return []
    built = [[[token] for token in range(num_tokens)]]
    while True:
        below = built[-1]
        nodes = []
        for first in range(0, len(below) - block_tokens + 1, block_tokens):
            nodes.append([token for child in below[first : first + block_tokens] for token in child])
        if not nodes:
            return built
        built.append(nodes)


def coarsest(num_tokens: int, block_tokens: int, start: int, stop: int) -> list[tuple[int, int]]:
    """``(level, index)`` of the coarsest cover: the highest node that starts where the last one ended, and fits."""
    cover = []
    position = start
    while position < stop:
        level, index, tokens = max(
            (level, index, tokens)
            for level, nodes in enumerate(levels(num_tokens, block_tokens))
            for index, tokens in enumerate(nodes)
            if tokens[0] == position and tokens[-1] < stop
        )
        cover.append((level, index))
        position = tokens[-1] + 1
    return cover


@pytest.fixture(scope="session")
def plain_tree() -> SimpleNamespace:
    return SimpleNamespace(levels=levels, coarsest=coarsest)
