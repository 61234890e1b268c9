"""What a lens sees of the window that the question has just run in: the base's learned lens, entry by entry.

Shape legend: n blocks, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError
from megacontext.focus.working_context import WorkingContext
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.memory.memory import Memory
from megacontext.ports.base import BaseInfo, LensQuery, SupportsLearnedLens
from megacontext.ports.words import WordsInCommon
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.gist_keys import GistKeys
from megacontext.runtime.placement import LEAD, SCRATCH
from megacontext.tree.runs import runs_of

__all__ = ["WindowLook", "can_ask_learned_lens", "check_learned_lens", "look_at"]


def can_ask_learned_lens(base: BaseInfo, memory: Memory) -> bool:
    """Whether the base has a learned lens, and made the memory's gists."""
    return base.has_lens and memory.info.gister_name == LEARNED_GISTER


def check_learned_lens(base: BaseInfo, memory: Memory, lens: str) -> None:
    """Raise BaseModelError, with what is missing, unless it can be asked."""
    if not base.has_lens:
        raise BaseModelError(
            f"lens {lens!r} is one that a base brings along, and {base.name} has none; use a base that was trained "
            "with one, or lens 'auto'"
        )
    if not can_ask_learned_lens(base, memory):
        raise BaseModelError(
            f"lens {lens!r} reads learned gists, and those of this memory are {memory.info.gister_name!r}; make the "
            f"memory with gister {LEARNED_GISTER!r}, or use lens 'auto'"
        )


@dataclass(frozen=True, kw_only=True)
class WindowLook:
    """``LearnedEvidence`` of a window as it stood in the cache.

    query_token_ids: the last raw tokens of the window, whose states ask; num_scratch: those after the history.
    """

    ask: Callable[[], LensQuery]
    keys: GistKeys
    features: tuple[str, ...]
    query_token_ids: npt.NDArray[np.uint32]
    num_scratch: int

    @cached_property
    def query(self) -> LensQuery:
        """Asked for when a lens first wants to know: most questions are found by their words."""
        return self.ask()

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]:
        return self.query.stakes

    def of_blocks(
        self,
        blocks_n: npt.NDArray[np.int64],
        features_nF: npt.NDArray[np.float32],
        words: WordsInCommon | None = None,
    ) -> npt.NDArray[np.float32]:
        """How much speaks for whole blocks anywhere in the history [n], given ascending."""
        return self.query.evidence(self.keys.of(blocks_n), features_nF, words)


def look_at(
    base: SupportsLearnedLens, window: ModelWindow, wc: WorkingContext, memory: Memory, keys: GistKeys
) -> WindowLook | None:
    """The learned lens over a window that shows ``wc`` and scratch after it; None if the window ends with a gist."""
    rows = window.rows.keys[-base.lens_query_tokens :]
    others = np.flatnonzero((rows[:, 0] > 0) | (rows[:, 0] == LEAD))
    rows = rows[others[-1] + 1 :] if len(others) else rows
    if not len(rows):
        return None
    token_ids = rows[:, 1].copy()
    shown = np.flatnonzero(rows[:, 0] != SCRATCH)
    spans = runs_of(token_ids[shown])
    if spans:
        token_ids[shown] = np.concatenate([memory.tokens(start, stop) for start, stop in spans])
    return WindowLook(
        ask=partial(base.lens_query, window.cache, num_queries=len(rows)),
        keys=keys,
        features=base.lens_features,
        query_token_ids=token_ids.astype(np.uint32),
        num_scratch=len(window.rows) - wc.config.lead_entries - wc.cost,
    )
