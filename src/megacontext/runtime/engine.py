"""What a session does with its parts: keeps the window in step with the cut, and moves the cut.

A refocus with a lens that wants to look takes two steps: one by words alone, then, unless that left no doubt, the
question runs in that window, and the attention it gives to each entry, or what the base's own lens says of its states,
moves the cut once more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError, BudgetError, StorageError
from megacontext.focus.allocators.registry import as_allocator
from megacontext.focus.edits import Edits
from megacontext.focus.lenses.registry import as_lens
from megacontext.focus.pins import Spans
from megacontext.focus.rows import CutRows
from megacontext.focus.working_context import WorkingContext, WorkingContextConfig
from megacontext.memory.memory import Memory
from megacontext.ports.base import Base, BaseSource, SupportsLearnedLens, SupportsPatch, lead_ids
from megacontext.runtime.config import SessionConfig
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.degrading import show_less, unless_damaged
from megacontext.runtime.detail import DetailRecord
from megacontext.runtime.events import RefocusReport
from megacontext.runtime.focusing import FREE, FocusDriver, Hysteresis, OneLook
from megacontext.runtime.gist_keys import GistKeys
from megacontext.runtime.looking import can_ask_learned_lens, check_learned_lens, look_at
from megacontext.runtime.patching import Patching
from megacontext.runtime.window import WindowReader, WindowRows

__all__ = ["NO_TOKENS", "Engine", "Query"]

T = TypeVar("T")

PREFETCH_ROWS = 64  # blocks and nodes that the next refocus may open

_log = logging.getLogger(__name__)

NO_TOKENS = np.zeros(0, dtype=np.uint32)
NO_TOKENS.flags.writeable = False


@dataclass(frozen=True, kw_only=True)
class Query:
    """What the next tokens are about. text, token_ids: as lenses see it; scratch: what stands in the window after the
    history; num_queries: its last entries, whose attention counts."""

    text: str
    token_ids: npt.NDArray[np.uint32]
    scratch: npt.NDArray[np.uint32]
    num_queries: int


class Engine:
    """Working context, lens, allocator and model window of one session. num_tokens: of the memory, what it begins
    with; None for all."""

    def __init__(
        self, memory: Memory, base: BaseSource, config: SessionConfig, *, num_tokens: int | None = None
    ) -> None:
        self.memory = memory
        self.base = base
        self.config = config
        self.detail = DetailRecord()
        self.turn = 0  # counts what moved the window: an answer in progress notices that it cannot go on
        self._check_positions(config.budget_entries)
        lead = lead_ids(base.info)
        self._lead, self._num_lead = WindowRows.of_lead(lead), len(lead)
        lens, allocator = as_lens(config.lens), as_allocator(config.allocator)
        working_context = WorkingContext(
            memory.tree,
            gist_width=memory.info.gist_width,
            num_tokens=memory.num_tokens if num_tokens is None else num_tokens,
            config=WorkingContextConfig(
                budget_entries=config.budget_entries,
                sink_tokens=config.sink_tokens,
                recent_tokens=config.recent_tokens,
                lead_entries=self._num_lead,
            ),
        )
        self.focus = FocusDriver(memory, working_context, lens, allocator, gist_value=config.gist_value)
        if self.focus.needs_learned:
            check_learned_lens(base.info, memory, lens.name)
        self._asks_learned = self.focus.asks_learned and can_ask_learned_lens(base.info, memory)
        self._budget_entries = config.budget_entries
        self._window: ModelWindow | None = None
        self._gist_keys: GistKeys | None = None
        self._num_changes = memory.reader.num_changes
        self._num_forwarded = self._num_refreshes = 0  # of windows that are gone
        self._warnings: list[str] = []
        self.tokens_per_row = 1.0  # of the server of a remote base for a row of the cut, as its prompts were last

    @property
    def working_context(self) -> WorkingContext:
        return self.focus.working_context

    @property
    def budget_entries(self) -> int:
        """Window positions of all that the model sees."""
        return self._budget_entries

    @property
    def window(self) -> ModelWindow | None:
        """The model's window, None while nothing was shown."""
        return self._window

    @window.setter
    def window(self, window: ModelWindow) -> None:
        self._window = window

    @property
    def num_forwarded(self) -> int:
        return self._num_forwarded + (self._window.num_forwarded if self._window else 0)

    @property
    def num_refreshes(self) -> int:
        """How often a patched window was computed anew, because it had drifted beyond its bound."""
        return self._num_refreshes + (self._window.num_refreshes if self._window else 0)

    @property
    def is_outdated(self) -> bool:
        """Whether what is stored was erased or repaired since the model's state was made of it."""
        return self.memory.reader.num_changes != self._num_changes

    def take_warnings(self) -> tuple[str, ...]:
        """What was not as it should be since they were last taken: one line each."""
        taken, self._warnings = tuple(self._warnings), []
        return taken

    def follow_memory(self) -> None:
        """Take in what the memory has gained; what was erased or repaired leaves the model's state, too. Either
        overtakes an answer in progress."""
        if self.is_outdated:
            self.release()
            self._num_changes = self.memory.reader.num_changes
            self.turn += 1
        self.turn += self.focus.follow_growth(self._budget_entries)

    def become(
        self,
        rows: CutRows,
        pins: Spans,
        *,
        budget_entries: int,
        left_to_history: int,
        utility: npt.NDArray[np.float64],
    ) -> None:
        """Take over what another session over this memory was, all but the model's state. ``left_to_history``: what of
        the budget is not reserved."""
        self._check_positions(budget_entries)
        self.release()
        self.working_context.become(rows, pins, budget_entries=left_to_history)
        self._budget_entries = budget_entries
        self.focus.utility = utility

    def resize(self, budget_entries: int) -> None:
        """Change the whole window; the model's state starts anew."""
        self._check_positions(budget_entries)
        wc = self.working_context
        budget_before = wc.config.budget_entries
        if budget_entries > budget_before:
            wc.resize(budget_entries)  # first of all, because the memory may have outgrown the old window
        try:
            self.turn += self.focus.follow_growth(self._budget_entries)
            self.focus.allot(budget_entries, reserved_entries=0, purpose="the window")
        except BudgetError:
            wc.resize(max(budget_before, wc.smallest_budget))  # the memory may have grown
            raise
        self._budget_entries = budget_entries
        self.release()

    def release(self) -> None:
        """Free the model's state."""
        self._num_forwarded, self._num_refreshes = self.num_forwarded, self.num_refreshes
        self._window = None
        self._gist_keys = None

    def reserve(self, num_entries: int, purpose: str) -> None:
        """Leave room in the window for what follows the history."""
        smallest, limit = self.working_context.smallest_budget, self.base.info.max_positions
        if smallest + num_entries > limit:
            raise BudgetError(
                f"{purpose} needs {num_entries} entries and the history at least {smallest}, but windows of "
                f"{self.base.info.name} have at most {limit}: shorten it"
            )
        self._check_reach(num_entries, purpose)
        self.focus.allot(self._budget_entries, reserved_entries=num_entries, purpose=purpose)

    def _check_reach(self, num_entries: int, purpose: str) -> None:
        """Raise BudgetError if places that count the whole history would end behind what the base knows."""
        limit = self.base.info.max_positions
        furthest = self._num_lead + self.working_context.num_tokens + num_entries
        positions = self.config.positions if self.config.positions != "auto" else self.base.info.positions
        if positions == "global" and furthest > limit:
            raise BudgetError(
                f"{purpose} needs {num_entries} entries behind {self.working_context.num_tokens:,} tokens, but with "
                f"positions='global' {self.base.info.name} knows positions below {limit:,}: use positions='window'"
            )

    @contextmanager
    def whole_window(self) -> Iterator[None]:
        """Give the history what was reserved for an earlier question, so that its limit is the session's budget; if the
        block fails, everything is as before."""
        budget_before = self.working_context.config.budget_entries
        self.focus.allot(self._budget_entries, reserved_entries=0, purpose="the window")
        try:
            yield
        except BaseException:
            self.working_context.resize(budget_before)
            raise

    def make_room(self, num_entries: int, purpose: str) -> None:
        """The same, but only if there is not enough room already."""
        self._check_reach(num_entries, purpose)
        if self._num_lead + self.working_context.cost + num_entries > self._budget_entries:
            self.reserve(num_entries, purpose)

    def show(self, scratch: npt.NDArray[np.uint32]) -> ModelWindow:
        """The model's window with the current cut and ``scratch`` after it; with less detail than the cut had, and a
        warning, where a store does not answer."""
        if self._window is None:
            self._window = self.new_window()
        self.with_what_can_be_read(partial(self._show_in, self._window, scratch))
        return self._window

    def with_what_can_be_read(self, doing: Callable[[], T]) -> T:
        """Do something with the cut; again with less detail, and a warning, where a store does not answer."""
        failures: list[StorageError] = []
        done: list[T] = []
        with unless_damaged(failures):
            done.append(doing())
        if failures:
            before = self.working_context.view()
            self._warn(show_less(self.working_context, self.memory.reader, failures[0]))
            self.focus.follow_cut(before)
            done.append(doing())
        return done[0]

    def _show_in(self, window: ModelWindow, scratch: npt.NDArray[np.uint32]) -> None:
        wc = self.working_context
        rows = WindowRows.of_cut(wc.cut, wc.gist_width).then(WindowRows.of_scratch(scratch))
        if self._num_lead:
            rows = self._lead.then(rows)
        window.show(rows, num_tokens=wc.num_tokens)

    def _warn(self, warning: str) -> None:
        _log.warning("%s", warning)
        self._warnings.append(warning)

    def new_window(self) -> ModelWindow:
        """An empty window of the session's size."""
        base = self.base.load()
        reader = self.window_reader(base)
        return ModelWindow(base, reader, capacity_entries=self._budget_entries, patching=self._patching(base))

    def window_reader(self, base: Base) -> WindowReader:
        """Reads rows of a window as a base takes them."""
        return WindowReader(
            self.memory.tree,
            self.memory.reader,
            base,
            positions=self.config.positions,
            capacity_entries=self._budget_entries,
        )

    def refocus(self, query: Query, *, hysteresis: Hysteresis = FREE, by_words_first: bool = True) -> RefocusReport:
        """Move the cut to where the query needs it. ``by_words_first``: let a lens that looks at the window choose one
        by words before."""
        has_history = self.working_context.num_entries > 0
        looks = has_history and self.focus.needs_window and query.num_queries > 0 and not self.base.info.is_remote
        if looks:
            self.base.load()  # once, and no part of the latency
        began, refreshes_before = time.perf_counter(), self.num_refreshes
        edits: list[Edits] = []
        move = partial(
            self.focus.refocus,
            query.text,
            query.token_ids,
            look=OneLook(self.memory, num_tokens=self.working_context.num_tokens),
            asking_tokens=0 if len(query.scratch) else len(query.token_ids),
            hysteresis=hysteresis,
        )
        failures: list[StorageError] = []
        with unless_damaged(failures):
            if has_history and (by_words_first or not looks):
                edits.append(move())
                looks = looks and not self.focus.is_certain
            if looks:
                edits.append(self._look(query, move))
        if failures:
            self._warn(f"detail stays where it was, because the lens could not look: {failures[0]}")
        report = RefocusReport(
            num_expanded=sum(step.num_expanded for step in edits),
            num_collapsed=sum(step.num_collapsed for step in edits),
            num_entries=self.working_context.num_entries,
            cost=self.working_context.cost,
            latency_ms=1e3 * (time.perf_counter() - began),
            num_refreshes=self.num_refreshes - refreshes_before,
        )
        self.memory.reader.prefetch(self.focus.likely_next(limit=PREFETCH_ROWS))
        return report

    def _look(self, query: Query, move: Callable[..., Edits]) -> Edits:
        """Run the question in the window as it is, and move the cut by what it shows."""
        window = self.show(query.scratch)
        lens, base = self.focus.lens, self.base.load()
        mass = self._attention_mass(window, query.num_queries) if lens.needs_attention else None
        learned = None
        if self._asks_learned:
            if not isinstance(base, SupportsLearnedLens):
                raise BaseModelError(
                    f"{base.info.name} says that it has a learned lens, but lacks a part of SupportsLearnedLens; add "
                    "what the port asks for, or use lens 'auto'"
                )
            if self._gist_keys is None:
                self._gist_keys = GistKeys(base, self.memory)
            learned = look_at(base, window, self.working_context, self.memory, self._gist_keys)
        return move(attention_mass=mass, learned=learned)

    def note_detail(self, window: ModelWindow) -> None:
        """Take down what is in detail now, and how much the question and the answer look at it."""
        wc = self.working_context
        num_scratch = len(window.rows) - self._num_lead - wc.cost
        mass = self._attention_mass(window, num_scratch) if num_scratch else None
        self.detail.note(wc, self.focus.utility, mass)

    def _attention_mass(self, window: ModelWindow, num_queries: int) -> npt.NDArray[np.float32] | None:
        """What the last rows give to each entry of the cut; None if the base cannot tell."""
        mass_W = window.attention_mass(min(num_queries, len(window.rows)))
        return None if mass_W is None else self.focus.mass_per_entry(mass_W)

    def _patching(self, base: Base) -> Patching | None:
        """How the window is patched; None where it is computed exactly."""
        kv = self.config.kv
        if kv == "exact":
            return None
        if isinstance(base, SupportsPatch) and base.can_patch:
            return kv if isinstance(kv, Patching) else Patching()
        if kv == "auto":
            return None
        raise BaseModelError(
            f"kv is 'patch', but the keys of {base.info.name} cannot be turned to other positions; use kv='exact'"
        )

    def _check_positions(self, budget_entries: int) -> None:
        limit = self.base.info.max_positions
        if budget_entries > limit:
            raise BudgetError(
                f"budget_entries is {budget_entries}, but the base {self.base.info.name} was made for windows of at "
                f"most {limit}: use a budget of {limit} or less"
            )
