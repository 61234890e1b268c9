"""Lenses say where detail pays; allocators turn that into a cut within budget.

**The value of a cut.** A lens gives expected utility (nats; any one unit will do) to spans of the history: one score
per entry of the working context for the whole span of that entry, and nominations of spans anywhere below it. A
span's utility is spread evenly over its tokens. A cut that shows a token at level l collects ``gist_value ** l`` of
that token's utility (level 0: all of it). Allocators maximise the sum within ``budget_entries``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from megacontext.ports.catalog import SearchHit
from megacontext.ports.words import WordsInCommon

__all__ = [
    "Allocator",
    "AllocatorConfig",
    "CutView",
    "FocusRequest",
    "FocusScores",
    "LearnedEvidence",
    "Lens",
    "MemoryView",
    "Nomination",
    "WindowLens",
]


@dataclass(frozen=True, kw_only=True)
class CutView:
    """A cut through the tree as parallel arrays, in temporal order.

    levels int64 [n]: 0 = raw tokens of (part of) one block, l >= 1 = a collapsed node; starts, stops int64 [n];
    pinned bool [n]: may not be collapsed; ages int64 [n]: refocuses since the entry last changed.
    """

    block_tokens: int
    gist_width: int
    levels: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    stops: npt.NDArray[np.int64]
    pinned: npt.NDArray[np.bool_]
    ages: npt.NDArray[np.int64]


class MemoryView(Protocol):
    """What a lens may ask of the memory: one object for each refocus, in which the memory does not change."""

    @property
    def num_tokens(self) -> int: ...

    def tokens(self, start: int, stop: int) -> npt.NDArray[np.uint32]: ...

    def gists(self, level: int, start: int, stop: int) -> npt.NDArray[np.float16]:
        """Vectors [n, r, D] of nodes ``[start, stop)`` of one level >= 1."""
        ...

    def token_batch(self, spans: Sequence[tuple[int, int]]) -> list[npt.NDArray[np.uint32]]:
        """Token ids of many spans, in the order given: one read instead of many."""
        ...

    def text(self, start: int, stop: int) -> str: ...

    def texts(self, spans: Sequence[tuple[int, int]]) -> list[str]:
        """The text of each of many spans, in the order given."""
        ...

    def search_hits(self, text: str, *, limit: int) -> list[SearchHit]: ...


class LearnedEvidence(Protocol):
    """What a lens that was taught together with the base says, with the window before it that the question ran in.

    features: names of the columns that are to be filled in, F of them. query_token_ids: the last tokens of the window,
    whose states ask. num_scratch: how many tokens stand in the window after the history. stakes: as a base gives them
    (``LensQuery``).
    """

    @property
    def features(self) -> tuple[str, ...]: ...

    @property
    def query_token_ids(self) -> npt.NDArray[np.uint32]: ...

    @property
    def num_scratch(self) -> int: ...

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]: ...

    def of_blocks(
        self,
        blocks_n: npt.NDArray[np.int64],
        features_nF: npt.NDArray[np.float32],
        words: WordsInCommon | None = None,
    ) -> npt.NDArray[np.float32]:
        """How much speaks for whole blocks anywhere in the history [n], given ascending, from their gists, as logits.

        words: what they have in common with the query, where that is known."""
        ...


@dataclass(frozen=True, kw_only=True)
class FocusRequest:
    """What a lens may look at.

    query_text, query_token_ids: what the next tokens are about (question, or the last generated tokens), may be empty.
    asking_tokens: how many of the history's last tokens are the query itself: they are no answer to it.
    attention_mass: float32 [number of entries of the cut]: attention that the query gave to each entry in the current
    window, or None if the lens did not ask for it (``Lens.needs_attention``) or there is none yet.
    learned: the base's own lens, for those that ask for it (``WindowLens``); None before there is a window, and where
    base or memory have none.
    """

    cut: CutView
    memory: MemoryView
    query_text: str
    query_token_ids: npt.NDArray[np.uint32]
    asking_tokens: int = 0
    attention_mass: npt.NDArray[np.float32] | None = None
    learned: LearnedEvidence | None = None


@dataclass(frozen=True, kw_only=True)
class Nomination:
    """A span anywhere in the history that deserves detail; utility is for the whole span."""

    start: int
    stop: int
    utility: float


@dataclass(frozen=True, kw_only=True)
class FocusScores:
    """utility: float64 [entries of the cut], >= 0, finite. is_certain: of a lens that looks at the window, that it need
    not look: it knows where the answer stands, and the question runs once instead of twice."""

    utility: npt.NDArray[np.float64]
    nominations: Sequence[Nomination] = field(default_factory=tuple)
    is_certain: bool = False


@runtime_checkable
class Lens(Protocol):
    name: str
    needs_attention: bool

    def score(self, request: FocusRequest) -> FocusScores: ...


@runtime_checkable
class WindowLens(Lens, Protocol):
    """A lens that asks the base's learned one where base and memory have it. needs_learned: it is refused elsewhere."""

    needs_learned: bool


@dataclass(frozen=True, kw_only=True)
class AllocatorConfig:
    """budget_entries: cost that the result may not exceed. gist_value: what a gist is worth of its tokens, per level.
    max_edits: expansions plus collapses per refocus (0: no limit). cooldown: refocuses an entry rests after a change.
    swap_margin: relative gain per entry of budget that a swap must bring. edit_cost: utility that one entry of window
    recomputation is worth (edits early in the window cost more); sessions weigh it in the middle of an answer only."""

    budget_entries: int
    gist_value: float = 0.2
    max_edits: int = 0
    cooldown: int = 0
    swap_margin: float = 0.0
    edit_cost: float = 0.0


@runtime_checkable
class Allocator(Protocol):
    """The target cut as sorted, disjoint nodes to show raw or collapsed: ``(levels, starts, stops)`` int64 arrays that
    obey cover, alignment and budget. Pinned entries stay."""

    name: str

    def allocate(
        self, cut: CutView, scores: FocusScores, config: AllocatorConfig
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]: ...
