"""What a lens sees of the window that the question has just run in: the base's learned lens, entry by entry.

Shape legend: n entries or nodes, r vectors of each, F features, Q query tokens, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError
from megacontext.focus.working_context import WorkingContext
from megacontext.gisters.gistnet import LEARNED_GISTER
from megacontext.memory.memory import Memory
from megacontext.ports.base import BaseInfo, SupportsLearnedLens
from megacontext.runtime.decode import ModelWindow
from megacontext.runtime.placement import SCRATCH
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
    """``LearnedEvidence`` of a window as it stands in the cache.

    query_token_ids: the last raw tokens of the window, whose states ask.
    """

    base: SupportsLearnedLens
    window: ModelWindow
    gist_width: int
    query_token_ids: npt.NDArray[np.uint32]
    num_scratch: int

    @property
    def features(self) -> tuple[str, ...]:
        return self.base.lens_features

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]:
        return self.base.stakes(self.window.cache, num_queries=len(self.query_token_ids))

    def of_gists(
        self,
        vectors_nrD: npt.NDArray[np.float16],
        features_nF: npt.NDArray[np.float32],
        words_nQ4: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """How much speaks for nodes anywhere [n]: the best of their vectors."""
        logits_m = self.base.evidence_of_gists(
            self.window.cache,
            vectors_nrD.reshape(-1, vectors_nrD.shape[-1]),
            features_nF.repeat(self.gist_width, axis=0),
            None if words_nQ4 is None else words_nQ4.repeat(self.gist_width, axis=0),
            num_queries=len(self.query_token_ids),
        )
        best_n: npt.NDArray[np.float32] = logits_m.reshape(-1, self.gist_width).max(axis=1)
        return best_n


def look_at(base: SupportsLearnedLens, window: ModelWindow, wc: WorkingContext, memory: Memory) -> WindowLook | None:
    """The learned lens over a window that shows ``wc`` and scratch after it; None if the window ends with a gist."""
    keys = window.rows.keys[-base.lens_query_tokens :]
    gists = np.flatnonzero(keys[:, 0] > 0)
    keys = keys[gists[-1] + 1 :] if len(gists) else keys
    if not len(keys):
        return None
    token_ids = keys[:, 1].copy()
    shown = np.flatnonzero(keys[:, 0] != SCRATCH)
    spans = runs_of(token_ids[shown])
    if spans:
        token_ids[shown] = np.concatenate([memory.tokens(start, stop) for start, stop in spans])
    return WindowLook(
        base=base,
        window=window,
        gist_width=wc.gist_width,
        query_token_ids=token_ids.astype(np.uint32),
        num_scratch=len(window.rows) - wc.cost,
    )
