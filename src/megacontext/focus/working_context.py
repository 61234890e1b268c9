"""The working context: a cut through the tree that a model is shown, and the legal ways to change it.

Bookkeeping only: rows of numbers, no tokens, no gists, no torch. Every operation happens whole or not at all, and ends
with the invariants checked: the entries tile the history, nodes are aligned and complete, the cost is within budget,
and what is pinned is raw.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError, InvalidValueError, InvariantError
from megacontext.focus.collapsing import close_rows, collapse_set, make_room
from megacontext.focus.edits import Edits, diff_cuts
from megacontext.focus.opening import children_cut, cost_with_raw, open_spans
from megacontext.focus.pins import Spans
from megacontext.focus.rows import CutRows, RowsReader, carry_rows
from megacontext.focus.scores import UtilityField
from megacontext.ports.focus import FocusScores
from megacontext.tree.cuts import Cut, coarsest_cut, concatenate_cuts, cut_cost, raw_cut, validate_cut
from megacontext.tree.geometry import TreeGeometry
from megacontext.values import shown, span, whole_number

__all__ = ["WorkingContext", "WorkingContextConfig"]


@dataclass(frozen=True, kw_only=True)
class WorkingContextConfig:
    """What a working context may cost and what always stays raw."""

    budget_entries: int = 1024  # window positions that the cut and what leads it may take
    sink_tokens: int = 4  # first tokens of the history, whose blocks stay raw: attention leans on them
    recent_tokens: int = 64  # last tokens of the history, whose blocks stay raw
    lead_entries: int = 0  # window positions before the history, such as a base's BOS
    cut_entries: int = field(init=False)  # what the cut itself may cost

    def __post_init__(self) -> None:
        for name in ("budget_entries", "sink_tokens", "recent_tokens", "lead_entries"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), of=name.partition("_")[2]))
        object.__setattr__(self, "cut_entries", self.budget_entries - self.lead_entries)


class WorkingContext(RowsReader):
    """A cut through the tree of one growing history, within budget after every operation.

    It starts with the most recent tokens raw and the rest as coarse as the budget wants. Operations return the
    ``Edits`` they made. Where no legal cut exists they raise BudgetError, which names the smallest budget that works;
    after any error the working context is as it was. Arrays handed out are read-only snapshots.

    Arguments: ``tree`` the geometry; ``gist_width`` the window positions of a collapsed entry (r); ``num_tokens`` the
    history so far.

    >>> wc = WorkingContext(TreeGeometry(32), num_tokens=4096, config=WorkingContextConfig(budget_entries=512))
    >>> wc.reveal(1000, 1010).num_expanded
    1
    >>> wc.cost <= 512
    True
    """

    def __init__(
        self,
        tree: TreeGeometry,
        *,
        gist_width: int = 1,
        num_tokens: int = 0,
        config: WorkingContextConfig | None = None,
    ) -> None:
        # gists as wide as a block's tokens would save nothing
        width = whole_number("gist_width", gist_width, least=1, most=tree.block_tokens - 1, of="vectors", usual=1)
        super().__init__(tree, width)
        self.config = config or WorkingContextConfig()
        self._pins = Spans()
        self.extend(num_tokens)

    @property
    def budget_entries(self) -> int:
        return self.config.budget_entries

    @property
    def pins(self) -> tuple[tuple[int, int], ...]:
        """Spans that were pinned and not unpinned, sorted, joined where they touch."""
        return self._pins.spans

    @property
    def smallest_budget(self) -> int:
        """The least that ``budget_entries`` could be for this history with its pinned, first and recent tokens raw."""
        wanted = _always_raw(self.config, self._pins, self.num_tokens)
        return cost_with_raw(self.tree, self.num_tokens, wanted, self.gist_width) + self.config.lead_entries

    def extend(self, num_tokens: int) -> Edits:
        """Append ``num_tokens`` raw tokens.

        Over budget, complete sibling sets collapse: least valuable first by the last scores, among equals the oldest.
        """
        num_tokens = whole_number("num_tokens", num_tokens, of="tokens")  # a history only grows
        block = self.tree.block_tokens
        start = self.num_tokens // block * block
        stop = self.num_tokens + num_tokens
        # what cannot stay raw anyway is never laid out block by block: a bulk append costs O(budget)
        raw_start = max(start, (stop - self.config.cut_entries) // block * block)
        whole_rows = int(np.searchsorted(self.starts, start))
        grown = concatenate_cuts(
            [self.cut[:whole_rows], coarsest_cut(self.tree, start, raw_start), raw_cut(self.tree, raw_start, stop)]
        )
        return self._settle(grown, purpose=f"a history of {stop} tokens")

    def apply(self, target: Cut, *, scores: FocusScores | None = None) -> Edits:
        """Replace the cut by an allocator's target; entries that stay grow one refocus older.

        ``scores``, those that led to the target, tell later operations what is least valuable. InvariantError if the
        target is not a legal cut of this history within budget with all pins raw.
        """
        if not isinstance(target, Cut):
            raise InvalidValueError(f"target is {shown(target)}; give the Cut that an allocator made")
        densities = None
        if scores is not None:
            densities = UtilityField(self.view(), scores).over(target.starts, target.stops)
            densities /= np.maximum(target.stops - target.starts, 1)
        if int(target.stops[-1] if len(target) else 0) != self.num_tokens:
            raise InvariantError(f"cover: the target does not end at {self.num_tokens}, the end of the history")
        return self._commit(target, self._pins, self.config, densities=densities, is_refocus=True)

    @property
    def rows(self) -> CutRows:
        """The cut with all that is remembered about its rows."""
        return self._rows

    def become(self, rows: CutRows, pins: Spans, *, budget_entries: int) -> None:
        """Take over rows that another working context of this history had; growth since then is taken in afterwards.

        Raises InvariantError if they are no legal cut within the budget.
        """
        config = replace(self.config, budget_entries=budget_entries)
        validate_cut(
            self.tree, rows.cut, rows.num_tokens, gist_width=self.gist_width, budget_entries=config.cut_entries
        )
        pinned = _always_raw(config, pins, rows.num_tokens).touch(rows.cut.starts, rows.cut.stops)
        if (pinned & (rows.cut.levels > 0)).any():
            raise InvariantError("pins: a row of the saved cut is pinned and must be raw")
        self._rows = CutRows(rows.cut, pinned, rows.ages, rows.densities)
        self._pins, self.config = pins, config

    def expand(self, entry: int) -> Edits:
        """Replace a collapsed entry by its children; a level-1 entry by its raw tokens."""
        entry = whole_number("entry", entry, least=None, most=None)
        if not 0 <= entry < self.num_entries:
            raise InvalidValueError(f"entry {entry} does not exist; there are {self.num_entries}")
        if self.levels[entry] == 0:
            raise InvalidValueError(f"entry {entry} is raw tokens already; there is nothing to expand")
        children = children_cut(self.tree, self.cut, entry)
        expanded = concatenate_cuts([self.cut[:entry], children, self.cut[entry + 1 :]])
        needed = cut_cost(expanded, self.gist_width) + self.config.lead_entries
        if needed > self.budget_entries:
            raise BudgetError(
                f"budget_entries is {self.budget_entries}; with entry {entry} expanded the cut costs {needed}: "
                f"collapse something, or raise the budget to {needed}"
            )
        return self._commit(expanded, self._pins, self.config)

    def collapse(self, siblings: range) -> Edits:
        """Replace a complete set of sibling entries, or one whole raw block, by their parent."""
        if not isinstance(siblings, range):
            raise InvalidValueError(f"siblings is {shown(siblings)}; give the rows as a range, such as range(3, 11)")
        return self._commit(collapse_set(self.tree, self.cut, siblings, keep=self.pinned), self._pins, self.config)

    def close_rows(self, rows: npt.NDArray[np.bool_]) -> Edits | None:
        """Replace each of these rows [n], and all beside it under the same node, by that node; None, and nothing
        changed, if that would hide what is pinned, or there is no complete node."""
        closed = close_rows(self.tree, self.cut, rows, keep=self.pinned)
        return None if closed is None else self._commit(closed, self._pins, self.config)

    def reveal(self, start: int, stop: int) -> Edits:
        """Open the path down to the raw tokens of every block that ``[start, stop)`` touches, making room elsewhere."""
        start, stop = self._span(start, stop)
        return self._settle(self.cut, extra=Spans.of([(start, stop)]), purpose=f"revealing [{start}, {stop})")

    def pin(self, start: int, stop: int) -> Edits:
        """Reveal a span and keep its blocks raw until it is unpinned."""
        start, stop = self._span(start, stop)
        return self._settle(self.cut, pins=self._pins.plus((start, stop)), purpose=f"pinning [{start}, {stop})")

    def unpin(self, start: int, stop: int) -> None:
        """Forget the pins of a span; the first and the recent tokens stay pinned by configuration."""
        start, stop = self._span(start, stop)
        self._settle(self.cut, pins=self._pins.minus(start, stop), purpose=f"unpinning [{start}, {stop})")

    def resize(self, budget_entries: int) -> Edits:
        """Change the budget; a smaller one collapses what is least valuable."""
        return self._settle(
            self.cut,
            config=replace(self.config, budget_entries=budget_entries),
            purpose=f"a history of {self.num_tokens} tokens",
        )

    def _span(self, start: int, stop: int) -> tuple[int, int]:
        return span(start, stop, limit=self.num_tokens, of="tokens of the history", is_empty_fine=False)

    def _settle(
        self,
        cut: Cut,
        *,
        purpose: str,
        extra: Spans | None = None,
        pins: Spans | None = None,
        config: WorkingContextConfig | None = None,
    ) -> Edits:
        """Open what must be raw, make room for it, and commit; or raise BudgetError and change nothing."""
        pins = self._pins if pins is None else pins
        config = config or self.config
        num_tokens = int(cut.stops[-1]) if len(cut) else 0
        wanted = _always_raw(config, pins, num_tokens).plus(*(extra.spans if extra else ()))
        if sum(stop - start for start, stop in wanted.spans) <= config.cut_entries:
            cut = open_spans(self.tree, cut, wanted)
            if cut_cost(cut, self.gist_width) > config.cut_entries:
                cut = make_room(
                    self.tree,
                    cut,
                    budget_entries=config.cut_entries,
                    gist_width=self.gist_width,
                    densities=carry_rows(self._rows, cut)[1],
                    keep=wanted.touch(cut.starts, cut.stops),
                )
            if cut_cost(cut, self.gist_width) <= config.cut_entries:
                return self._commit(cut, pins, config)
        smallest = cost_with_raw(self.tree, num_tokens, wanted, self.gist_width) + config.lead_entries
        raise BudgetError(
            f"budget_entries is {config.budget_entries}; {purpose} with its pinned, first and recent tokens raw "
            f"needs at least {smallest}: raise the budget to {smallest}, or unpin something"
        )

    def _commit(
        self,
        cut: Cut,
        pins: Spans,
        config: WorkingContextConfig,
        *,
        densities: npt.NDArray[np.float64] | None = None,
        is_refocus: bool = False,
    ) -> Edits:
        """Check every invariant, then make the cut the current one."""
        num_tokens = int(cut.stops[-1]) if len(cut) else 0
        validate_cut(self.tree, cut, num_tokens, gist_width=self.gist_width, budget_entries=config.cut_entries)
        pinned = _always_raw(config, pins, num_tokens).touch(cut.starts, cut.stops)
        if (pinned & (cut.levels > 0)).any():
            row = int(np.argmax(pinned & (cut.levels > 0)))
            raise InvariantError(f"pins: {cut[row : row + 1].rows()} is pinned and must be raw")
        ages, carried = carry_rows(self._rows, cut, num_refocuses=int(is_refocus))
        edits = diff_cuts(self.cut, cut, self.gist_width)
        self._rows = CutRows(cut, pinned, ages, carried if densities is None else densities)
        self._pins, self.config = pins, config
        return edits


def _always_raw(config: WorkingContextConfig, pins: Spans, num_tokens: int) -> Spans:
    """User's pins, first and recent tokens."""
    first = (0, min(config.sink_tokens, num_tokens))
    recent = (max(0, num_tokens - config.recent_tokens), num_tokens)
    return pins.plus(first, recent)
