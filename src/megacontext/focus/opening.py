"""Opening paths: from collapsed entries down to the raw tokens of chosen spans, the rest as coarse as it can be."""

from __future__ import annotations

import numpy as np

from megacontext.focus.pins import Spans
from megacontext.tree.covers import cover_cost
from megacontext.tree.cuts import Cut, coarsest_cut, concatenate_cuts, raw_cut
from megacontext.tree.geometry import TreeGeometry

__all__ = ["children_cut", "cost_with_raw", "open_spans"]


def open_spans(tree: TreeGeometry, cut: Cut, spans: Spans) -> Cut:
    """The coarsest refinement of ``cut`` that shows every block of ``spans`` raw."""
    to_open = np.flatnonzero(spans.touch(cut.starts, cut.stops) & (cut.levels > 0))
    if not len(to_open):
        return cut
    pieces: list[Cut] = []
    done = 0
    for row in to_open.tolist():
        pieces.append(cut[done:row])
        pieces.append(_opened(tree, int(cut.starts[row]), int(cut.stops[row]), spans))
        done = row + 1
    pieces.append(cut[done:])
    return concatenate_cuts(pieces)


def _opened(tree: TreeGeometry, start: int, stop: int, spans: Spans) -> Cut:
    pieces: list[Cut] = []
    position = start
    for raw_start, raw_stop in spans.whole_blocks(tree.block_tokens, stop).spans:
        if raw_stop <= start:
            continue
        raw_start = max(raw_start, start)
        pieces += [coarsest_cut(tree, position, raw_start), raw_cut(tree, raw_start, raw_stop)]
        position = raw_stop
    pieces.append(coarsest_cut(tree, position, stop))
    return concatenate_cuts(pieces)


def cost_with_raw(tree: TreeGeometry, num_tokens: int, spans: Spans, gist_width: int) -> int:
    """What a history costs at least when the blocks of ``spans`` are raw."""
    cost = position = 0
    for start, stop in spans.whole_blocks(tree.block_tokens, num_tokens).spans:
        cost += cover_cost(tree, position, start, gist_width) + stop - start
        position = stop
    return cost + cover_cost(tree, position, num_tokens, gist_width)


def children_cut(tree: TreeGeometry, cut: Cut, row: int) -> Cut:
    """The children of one collapsed row; those of level 1 are its raw block."""
    level, start, stop = int(cut.levels[row]), int(cut.starts[row]), int(cut.stops[row])
    if level == 1:
        return raw_cut(tree, start, stop)
    starts = np.arange(start, stop, tree.width(level - 1), dtype=np.int64)
    return Cut(np.full_like(starts, level - 1), starts, starts + tree.width(level - 1))
