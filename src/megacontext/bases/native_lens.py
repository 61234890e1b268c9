"""What a window of the native core asks of its LensNet.

Shape legend: n spans, r vectors of each, m = n r, Q query tokens, H heads, E key dimension, D width, F features,
w words in common, weighed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from megacontext.bases.transfers import on_device
from megacontext.nets.lens_net import LensNet
from megacontext.ports.words import WordsInCommon

__all__ = ["NativeLensQuery"]

SLICE_KEYS = 1024  # compared at once, so that what is found for each query token stays in the processor's cache


class NativeLensQuery:
    """``LensQuery`` from the states [Q, D] of the last entries, taken as they are now."""

    def __init__(self, lens: LensNet, states_QD: torch.Tensor) -> None:
        self._lens = lens
        with torch.inference_mode():
            self._queries = lens.queries(states_QD.float())

    @property
    def stakes(self) -> tuple[float, npt.NDArray[np.float32]]:
        """The logit of nothing being needed, and the nats [L] at stake by the level that stands for what is."""
        said = torch.cat([self._queries.nothing[None], self._queries.stakes_L]).cpu().numpy()
        return float(said[0]), said[1:]

    def evidence(
        self,
        keys_nr: torch.Tensor,
        features_nF: npt.NDArray[np.float32],
        words: WordsInCommon | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits [n]; of the r vectors of a gist the best counts."""
        if not len(keys_nr):
            return np.zeros(0, dtype=np.float32)
        gist_width, device = keys_nr.shape[1], keys_nr.device
        with torch.inference_mode():
            told = () if words is None else (words.starts_n, words.columns_m, words.amounts_m, words.columns_4Q)
            known_nF, *placed = on_device(device, features_nF, *told)
            keys_mHE = keys_nr.flatten(0, 1)
            slices = range(0, len(keys_mHE), SLICE_KEYS)
            found_mH = torch.cat([self._lens.found(self._queries, keys_mHE[at : at + SLICE_KEYS]) for at in slices])
            in_common_mw = None
            if words is not None:
                starts_n, columns_m, amounts_m, columns_4Q = placed
                in_common_nw = self._lens.in_common_by_column(
                    self._queries, starts_n, columns_m, amounts_m, columns_4Q, words.num_columns
                )
                in_common_mw = _by_vector(in_common_nw, gist_width)
            logits_m = self._lens(self._queries, found_mH, in_common_mw, _by_vector(known_nF, gist_width))
        logits_n: npt.NDArray[np.float32] = logits_m.view(-1, gist_width).amax(1).cpu().numpy()
        return logits_n


def _by_vector(told_n: torch.Tensor, gist_width: int) -> torch.Tensor:
    """What is known of each span, for each of its vectors; the same if there is one."""
    return told_n if gist_width == 1 else told_n.repeat_interleave(gist_width, dim=0)
