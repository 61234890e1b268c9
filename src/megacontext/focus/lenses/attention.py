"""``attention``: the model looks where it needs detail, so what it looks at opens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvalidScoresError
from megacontext.ports.focus import FocusRequest, FocusScores

__all__ = ["AttentionLens", "attention_utility"]


def attention_utility(request: FocusRequest) -> npt.NDArray[np.float64]:
    """Each entry's share of the attention that is not bound to pinned entries; zeros while none is known."""
    num_entries = len(request.cut.levels)
    if request.attention_mass is None:
        return np.zeros(num_entries)
    mass = np.asarray(request.attention_mass, dtype=np.float64)
    if mass.shape != (num_entries,) or not np.isfinite(mass).all() or (mass < 0).any():
        raise InvalidScoresError(
            f"attention_mass has shape {mass.shape}; give one finite mass >= 0 for each of the {num_entries} entries"
        )
    free = np.where(request.cut.pinned, 0.0, mass)
    total = float(free.sum())
    return free / total if total > 0 else free


class AttentionLens:
    """Attention to raw entries keeps them, attention to gists opens them: one level or more at each refocus."""

    name = "attention"
    needs_attention = True

    def score(self, request: FocusRequest) -> FocusScores:
        return FocusScores(utility=attention_utility(request))
