"""Where detail goes: one lens, one allocator and one working context, moved together.

The working context shares the window with the question and the answer, so its budget is the session's budget less what
is reserved for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import BudgetError
from megacontext.focus.ahead import likely_next
from megacontext.focus.edits import Edits
from megacontext.focus.refocusing import refocus
from megacontext.focus.scores import UtilityField
from megacontext.focus.working_context import WorkingContext
from megacontext.memory.memory import Memory
from megacontext.ports.catalog import SearchHit
from megacontext.ports.focus import (
    Allocator,
    AllocatorConfig,
    CutView,
    FocusRequest,
    FocusScores,
    LearnedEvidence,
    Lens,
    MemoryView,
    WindowLens,
)
from megacontext.tree.cuts import Cut
from megacontext.tree.runs import joined_spans
from megacontext.values import number, whole_number

__all__ = ["FREE", "FocusDriver", "Hysteresis", "OneLook"]


@dataclass(frozen=True, kw_only=True)
class Hysteresis:
    """How much a refocus may disturb; see AllocatorConfig. A new question and ``session.refocus`` move freely, an
    answer in progress does not: what a session's config says here, ``edit_cost`` included, acts there alone."""

    max_edits: int = 0
    cooldown: int = 0
    swap_margin: float = 0.0
    edit_cost: float = 0.0

    def __post_init__(self) -> None:
        whole_number("max_edits", self.max_edits, of="edits")
        whole_number("cooldown", self.cooldown, of="refocuses")
        number("swap_margin", self.swap_margin, least=0)
        number("edit_cost", self.edit_cost, least=0)


FREE = Hysteresis()


class OneLook:
    """A ``MemoryView`` for the length of one refocus, in which the memory does not change: what a lens asks for again
    it gets from the first time. One that wants attention scores twice, and searches for the same words both times.

    num_tokens: of the cut, which stands still while an answer goes on and the memory grows.
    """

    def __init__(self, memory: Memory, *, num_tokens: int) -> None:
        self._memory = memory
        self._num_tokens = num_tokens
        self._texts: dict[tuple[int, int], str] = {}
        self._hits: dict[tuple[str, int], tuple[SearchHit, ...]] = {}

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        return self._memory.tokens(start, stop)

    def gists(self, level: int, start: int, stop: int) -> npt.NDArray[np.float16]:
        return self._memory.gists(level, start, stop)

    def token_batch(self, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.uint32]]:
        stretches, within = joined_spans(spans)
        read = self._memory.reader.token_batch(stretches)
        return [read[stretch][start:stop] for stretch, start, stop in within]

    def text(self, start: int, stop: int) -> str:
        return self.texts([(start, stop)])[0]

    def texts(self, spans: Sequence[tuple[int, int]]) -> list[str]:
        missing = [span for span in dict.fromkeys(spans) if span not in self._texts]
        for span, token_ids in zip(missing, self.token_batch(missing), strict=True):
            self._texts[span] = self._memory.codec.decode(token_ids)
        return [self._texts[span] for span in spans]

    def search_hits(self, text: str, *, limit: int) -> list[SearchHit]:
        if (text, limit) not in self._hits:
            self._hits[text, limit] = tuple(self._memory.search_hits(text, limit=limit))
        return list(self._hits[text, limit])


class FocusDriver:
    """Moves a working context to where its lens sees value.

    ``utility``: what the last lens pass gave to each current entry (nominations included), zeros before the first;
    ``is_certain``: whether it knew where the answer stands.
    """

    def __init__(
        self, memory: Memory, working_context: WorkingContext, lens: Lens, allocator: Allocator, *, gist_value: float
    ) -> None:
        self.working_context = working_context
        self.lens = lens
        self.utility: npt.NDArray[np.float64] = np.zeros(working_context.num_entries)
        self.is_certain = False
        self._memory = memory
        self._allocator = allocator
        self._gist_value = gist_value

    @property
    def needs_window(self) -> bool:
        """Whether the lens wants to see a window that the question ran in."""
        return self.lens.needs_attention or self.asks_learned

    @property
    def asks_learned(self) -> bool:
        """Whether it asks the base's own lens, where there is one."""
        return isinstance(self.lens, WindowLens)

    @property
    def needs_learned(self) -> bool:
        """Whether it can do nothing without."""
        return isinstance(self.lens, WindowLens) and self.lens.needs_learned

    def follow_growth(self, budget_entries: int) -> bool:
        """Take in what the memory has gained; whether it has. budget_entries: of the whole window, which is the
        history's until the next question reserves its part."""
        wc = self.working_context
        gained = self._memory.num_tokens - wc.num_tokens
        if gained:
            if wc.config.budget_entries < budget_entries:
                wc.resize(budget_entries)
            before = wc.view()
            wc.extend(gained)
            self.follow_cut(before)
        return gained > 0

    def refocus(
        self,
        query_text: str,
        query_token_ids: npt.NDArray[np.uint32],
        *,
        look: MemoryView,
        asking_tokens: int = 0,
        attention_mass: npt.NDArray[np.float32] | None = None,
        learned: LearnedEvidence | None = None,
        hysteresis: Hysteresis = FREE,
    ) -> Edits:
        """Score the cut, allocate, apply. ``look``: the memory as the lens sees it; ``attention_mass``: per entry of
        the cut as it is now; ``learned``: the base's lens over the window as it is now."""
        cut = self.working_context.view()
        scores = self.lens.score(
            FocusRequest(
                cut=cut,
                memory=look,
                query_text=query_text,
                query_token_ids=query_token_ids,
                asking_tokens=asking_tokens,
                attention_mass=attention_mass,
                learned=learned,
            )
        )
        config = AllocatorConfig(
            budget_entries=self.working_context.config.cut_entries,
            gist_value=self._gist_value,
            max_edits=hysteresis.max_edits,
            cooldown=hysteresis.cooldown,
            swap_margin=hysteresis.swap_margin,
            edit_cost=hysteresis.edit_cost,
        )
        edits = refocus(self.working_context, scores, self._allocator, config)
        self.is_certain = scores.is_certain
        self.utility = UtilityField(cut, scores).over(self.working_context.starts, self.working_context.stops)
        return edits

    def follow_cut(self, before: CutView) -> None:
        """After somebody else changed the cut: what the last lens pass gave, per entry of the cut as it is now."""
        wc = self.working_context
        if len(self.utility) == len(before.levels):
            self.utility = UtilityField(before, FocusScores(utility=self.utility)).over(wc.starts, wc.stops)

    def likely_next(self, *, limit: int) -> Cut:
        """At most ``limit`` rows that the next refocus may open."""
        wc = self.working_context
        utility = self.utility if len(self.utility) == wc.num_entries else np.zeros(wc.num_entries)
        return likely_next(wc.tree, wc.cut, utility, limit=limit)

    def mass_per_entry(self, mass_W: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Attention of window positions, summed over those of each entry; what stands before and after the cut is left
        out."""
        wc = self.working_context
        if not wc.num_entries:
            return np.zeros(0, dtype=np.float32)
        mass_C = mass_W[wc.config.lead_entries :][: wc.cost]
        return np.add.reduceat(mass_C, wc.window_offsets()).astype(np.float32)

    def allot(self, budget_entries: int, *, reserved_entries: int, purpose: str) -> None:
        """Leave ``reserved_entries`` of the window to ``purpose``; BudgetError names the smallest budget that works."""
        smallest = self.working_context.smallest_budget + reserved_entries
        if budget_entries < smallest and not reserved_entries:
            raise BudgetError(
                f"budget_entries is {budget_entries}, but the history needs at least {smallest}: use a budget of at "
                f"least {smallest}"
            )
        if budget_entries < smallest:
            raise BudgetError(
                f"budget_entries is {budget_entries}, but {purpose} needs {reserved_entries} entries and the history "
                f"at least {smallest - reserved_entries}: shorten it, or use a budget of at least {smallest}"
            )
        if self.working_context.config.budget_entries != budget_entries - reserved_entries:
            before = self.working_context.view()
            self.working_context.resize(budget_entries - reserved_entries)
            self.follow_cut(before)
