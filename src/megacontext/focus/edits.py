"""What changed between two cuts, and from which window position on a cache has to be recomputed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.tree.cuts import Cut, entry_costs, same_entries

__all__ = ["Edits", "diff_cuts"]


@dataclass(frozen=True, kw_only=True)
class Edits:
    """The difference between a cut and the one that replaced it.

    num_expanded: entries of the old cut that were opened, however deep; num_collapsed: entries of the new cut that
    stand for several old ones. first_changed_entry: index, in old and new cut alike, of the first entry that differs;
    first_changed_position: its window position, so that what a cache holds for earlier positions is still right.
    Where nothing changed both are the number of old entries and the old cost.
    """

    num_expanded: int
    num_collapsed: int
    first_changed_entry: int
    first_changed_position: int

    @property
    def num_edits(self) -> int:
        return self.num_expanded + self.num_collapsed


def diff_cuts(old: Cut, new: Cut, gist_width: int) -> Edits:
    """Compare two cuts of one history (the new one may be longer: growth is not an edit)."""
    if not len(old):
        return Edits(num_expanded=0, num_collapsed=0, first_changed_entry=0, first_changed_position=0)
    shared = min(len(old), len(new))
    differs = ~same_entries(old[:shared], new[:shared])
    first = int(np.argmax(differs)) if differs.any() else shared
    position = int(entry_costs(old[:first], gist_width).sum())
    if first < shared and old.levels[first] == 0 == new.levels[first]:
        position += int(min(old.stops[first], new.stops[first]) - old.starts[first])  # the tail grew in place
    at_new = np.searchsorted(new.starts, old.starts[first:], side="right") - 1
    was_there = new[first:][new.starts[first:] < old.stops[-1]]
    at_old = np.searchsorted(old.starts, was_there.starts, side="right") - 1
    return Edits(
        num_expanded=int(np.count_nonzero(new.levels[at_new] < old.levels[first:])),
        num_collapsed=int(np.count_nonzero(old.levels[at_old] < was_there.levels)),
        first_changed_entry=first,
        first_changed_position=position,
    )
