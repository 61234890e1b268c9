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

__all__ = ["QUERY_TOKENS", "WindowLook", "check_learned_lens", "look_at"]

QUERY_TOKENS = 64  # last tokens of the window whose states ask, as in training


def check_learned_lens(base: BaseInfo, memory: Memory, lens: str) -> None:
    """Raise BaseModelError unless the base has a learned lens, and made the memory's gists."""
    if not base.has_lens:
        raise BaseModelError(
            f"lens {lens!r} is one that a base brings along, and {base.name} has none; use a base that was trained "
            "with one, or lens 'auto'"
        )
    if memory.info.gister_name != LEARNED_GISTER:
        raise BaseModelError(
            f"lens {lens!r} reads learned gists, and those of this memory are {memory.info.gister_name!r}; make the "
            f"memory with gister {LEARNED_GISTER!r}, or use lens 'auto'"
        )


@dataclass(frozen=True, kw_only=True)
class WindowLook:
    """``LearnedEvidence`` of a window as it stands in the cache.

    first_rows_E: window row of each entry of the cut; query_token_ids: the last raw tokens of the window.
    """

    base: SupportsLearnedLens
    window: ModelWindow
    gist_width: int
    first_rows_E: npt.NDArray[np.int64]  # noqa: N815 - shape suffix
    query_token_ids: npt.NDArray[np.uint32]
    num_scratch: int

    @property
    def features(self) -> tuple[str, ...]:
        return self.base.lens_features

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]:
        return self.base.stakes(self.window.cache, num_queries=len(self.query_token_ids))

    def of_entries(
        self,
        entries_n: npt.NDArray[np.int64],
        features_nF: npt.NDArray[np.float32],
        words_nQ2: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """How much speaks for collapsed entries [n]: the best of their vectors."""
        rows_nr = self.first_rows_E[entries_n][:, None] + np.arange(self.gist_width)
        return self._best(
            self.base.evidence_of_entries(
                self.window.cache,
                rows_nr.reshape(-1),
                features_nF.repeat(self.gist_width, axis=0),
                None if words_nQ2 is None else words_nQ2.repeat(self.gist_width, axis=0),
                num_queries=len(self.query_token_ids),
            )
        )

    def of_gists(
        self,
        vectors_nrD: npt.NDArray[np.float16],
        features_nF: npt.NDArray[np.float32],
        words_nQ2: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The same [n] for nodes anywhere."""
        return self._best(
            self.base.evidence_of_gists(
                self.window.cache,
                vectors_nrD.reshape(-1, vectors_nrD.shape[-1]),
                features_nF.repeat(self.gist_width, axis=0),
                None if words_nQ2 is None else words_nQ2.repeat(self.gist_width, axis=0),
                num_queries=len(self.query_token_ids),
            )
        )

    def _best(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        best_n: npt.NDArray[np.float32] = logits.reshape(-1, self.gist_width).max(axis=1)
        return best_n


def look_at(base: SupportsLearnedLens, window: ModelWindow, wc: WorkingContext, memory: Memory) -> WindowLook | None:
    """The learned lens over a window that shows ``wc`` and scratch after it; None if the window ends with a gist."""
    keys = window.rows.keys[-QUERY_TOKENS:]
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
        first_rows_E=wc.window_offsets(),
        query_token_ids=token_ids.astype(np.uint32),
        num_scratch=len(window.rows) - wc.cost,
    )
