"""The working context: a cut through the tree that a model is shown, and the legal ways to change it.

Bookkeeping only: rows of numbers, no tokens, no gists, no torch. Every operation happens whole or not at all, and ends
with the invariants checked: the entries tile the history, nodes are aligned and complete, the cost is within budget,
and what is pinned is raw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.focus.edits import Edits
from megacontext.ports.focus import CutView
from megacontext.tree.cuts import Cut
from megacontext.tree.geometry import TreeGeometry

__all__ = ["WorkingContext", "WorkingContextConfig"]


@dataclass(frozen=True, kw_only=True)
class WorkingContextConfig:
    """What a working context may cost and what always stays raw."""

    budget_entries: int = 1024  # window positions that the cut may take
    sink_tokens: int = 4  # first tokens of the history, whose blocks stay raw: attention leans on them
    recent_tokens: int = 64  # last tokens of the history, whose blocks stay raw


class WorkingContext:
    """A cut through the tree of one growing history, within budget after every operation.

    Arguments: ``tree`` the geometry; ``gist_width`` the window positions of a collapsed entry (r); ``num_tokens`` the
    history so far. It starts with the most recent tokens raw and the rest as coarse as the budget wants. BudgetError
    names the smallest budget that works.

    Every operation returns the ``Edits`` it made. Arrays handed out are read-only snapshots.
    """

    def __init__(
        self,
        tree: TreeGeometry,
        *,
        gist_width: int = 1,
        num_tokens: int = 0,
        config: WorkingContextConfig | None = None,
    ) -> None:
        raise NotImplementedError

    # levels, starts, stops, pinned, ages: npt.NDArray, one row per entry
    # cut: Cut; budget_entries, cost, num_entries, num_tokens: int; pins: tuple[tuple[int, int], ...]

    def view(self) -> CutView:
        """The cut as lenses and allocators see it."""
        raise NotImplementedError

    def window_offsets(self) -> npt.NDArray[np.int64]:
        """First window position of each entry, int64 [num_entries]."""
        raise NotImplementedError

    def extend(self, num_tokens: int) -> Edits:
        """Append ``num_tokens`` raw tokens; over budget, what is least valuable (then oldest) collapses."""
        raise NotImplementedError

    def apply(self, target: Cut, *, densities: npt.NDArray[np.float64] | None = None) -> Edits:
        """Replace the cut by an allocator's target; entries that stay grow one refocus older."""
        raise NotImplementedError

    def expand(self, entry: int) -> Edits:
        """Replace a collapsed entry by its children (level 1: by its raw tokens)."""
        raise NotImplementedError

    def collapse(self, siblings: range) -> Edits:
        """Replace a complete set of sibling entries (or one raw block) by their parent."""
        raise NotImplementedError

    def reveal(self, start: int, stop: int) -> Edits:
        """Open the path down to the raw tokens of every block that ``[start, stop)`` touches."""
        raise NotImplementedError

    def pin(self, start: int, stop: int) -> Edits:
        """Reveal a span and keep its blocks raw until it is unpinned."""
        raise NotImplementedError

    def unpin(self, start: int, stop: int) -> None:
        """Forget the pins of a span; sink and recent tokens stay pinned by configuration."""
        raise NotImplementedError

    def resize(self, budget_entries: int) -> Edits:
        """Change the budget; a smaller one collapses what is least valuable."""
        raise NotImplementedError
