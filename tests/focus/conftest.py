"""A working context as lists of tokens, slow and obvious: what the real one is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from megacontext.focus.working_context import WorkingContext


@dataclass
class PlainContext:
    """Which tokens exist and which must be raw; judges a list of ``(level, start, stop)`` rows token by token."""

    block_tokens: int
    gist_width: int
    budget_entries: int
    sink_tokens: int
    recent_tokens: int
    num_tokens: int = 0
    pins: set[int] = field(default_factory=set)

    def must_be_raw(self) -> set[int]:
        tokens = {token for token in self.pins if token < self.num_tokens}
        tokens |= set(range(min(self.sink_tokens, self.num_tokens)))
        tokens |= set(range(max(0, self.num_tokens - self.recent_tokens), self.num_tokens))
        blocks = {token // self.block_tokens for token in tokens}
        return {token for token in range(self.num_tokens) if token // self.block_tokens in blocks}

    def smallest_budget(self, also_raw: set[int] = frozenset()) -> int:
        """Collapse everything that may collapse, level by level, and count."""
        raw = self.must_be_raw()
        blocks = {token // self.block_tokens for token in also_raw}
        raw |= {token for token in range(self.num_tokens) if token // self.block_tokens in blocks}
        collapsed = []
        cost = 0
        for first in range(0, self.num_tokens, self.block_tokens):
            tokens = range(first, min(first + self.block_tokens, self.num_tokens))
            whole = len(tokens) == self.block_tokens and not raw & set(tokens)
            collapsed.append(whole)
            cost += 0 if whole else len(tokens)
        while any(collapsed):
            cost += self.gist_width * sum(collapsed)
            above = []
            for first in range(0, len(collapsed), self.block_tokens):
                siblings = collapsed[first : first + self.block_tokens]
                above.append(len(siblings) == self.block_tokens and all(siblings))
                cost -= self.gist_width * self.block_tokens * above[-1]
            collapsed = above
        return cost

    def window(self, rows: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """What stands at each window position: a raw token, or one vector of a gist."""
        shown = []
        for level, start, stop in rows:
            if level:
                shown += [(level, start, vector) for vector in range(self.gist_width)]
            else:
                shown += [(0, token, 0) for token in range(start, stop)]
        return shown

    def check(self, wc: WorkingContext) -> None:
        rows = wc.cut.rows()
        assert [token for _, start, stop in rows for token in range(start, stop)] == list(range(self.num_tokens))
        for level, start, stop in rows:
            width = self.block_tokens ** max(level, 1)
            assert start % width == 0
            assert stop - start == width or (level == 0 and stop == self.num_tokens and stop - start < width)
        window = self.window(rows)
        assert len(window) == wc.cost <= wc.budget_entries == self.budget_entries
        assert wc.num_entries == len(rows) == len(wc.pinned) == len(wc.ages)
        assert wc.num_tokens == self.num_tokens
        assert wc.smallest_budget == self.smallest_budget()
        assert [window[offset][1] for offset in wc.window_offsets()] == [start for _, start, _ in rows]
        raw = self.must_be_raw()
        for (level, start, stop), pinned in zip(rows, wc.pinned.tolist(), strict=True):
            assert pinned == (not raw.isdisjoint(range(start, stop)))
            assert not pinned or level == 0
        assert {token for start, stop in wc.pins for token in range(start, stop)} == self.pins

    def check_edits(self, before: list[tuple[int, int, int]], after: list[tuple[int, int, int]], edits) -> None:
        """Edits against a token-by-token comparison of two lists of rows."""
        old_level = {token: level for level, start, stop in before for token in range(start, stop)}
        new_level = {token: level for level, start, stop in after for token in range(start, stop)}
        assert edits.num_expanded == sum(new_level[start] < level for level, start, _ in before)
        assert edits.num_collapsed == sum(level > old_level.get(start, level) for level, start, _ in after)
        old_window, new_window = self.window(before), self.window(after)
        same = 0
        while same < min(len(old_window), len(new_window)) and old_window[same] == new_window[same]:
            same += 1
        assert edits.first_changed_position == same
        assert before[: edits.first_changed_entry] == after[: edits.first_changed_entry]


def snapshot(wc: WorkingContext) -> tuple[object, ...]:
    """Everything that an operation may change."""
    return (wc.cut.rows(), wc.pinned.tolist(), wc.ages.tolist(), wc.pins, wc.budget_entries)


@pytest.fixture(scope="session")
def plain_context() -> SimpleNamespace:
    return SimpleNamespace(PlainContext=PlainContext, snapshot=snapshot)
