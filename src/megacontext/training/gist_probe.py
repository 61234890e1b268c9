"""How a run watches its gists on held-out text while it learns: what the next tokens cost after gists of each level.

The first blocks of a row are shown as gists of one level, the last ones as they are, and its last tokens are scored.
Their cost above that of the raw tokens is delta-NLL; what a window with another row's gists, or with none, costs above
it is what these gists tell. All other figures of a run are of the rows that it learns from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from megacontext.nets.core import Core
from megacontext.nets.gist_net import GistNet
from megacontext.training.gist_cuts import UNJOINED, Joined
from megacontext.training.memory_windows import Control, score_windows
from megacontext.training.text_scoring import text_rows
from megacontext.training.tokens import TokenStore
from megacontext.training.windows import Window

__all__ = ["HORIZON", "PROBED_SHAPE", "ROW_TOKENS", "probe_gists", "probe_rows"]

BLOCK, NUM_FAR, NUM_TAIL = 32, 16, 4
PROBED_SHAPE = (BLOCK, 1)
ROW_TOKENS = (NUM_FAR + NUM_TAIL) * BLOCK
HORIZON = 64
LEVELS: Mapping[int, Joined] = {1: UNJOINED, 2: (1, NUM_FAR)}
ROWS_OF_EACH = 4


def probe_rows(stores: Mapping[str, TokenStore]) -> list[Window]:
    """A few rows of each domain that has enough text; none at all where there is no other row to take gists from."""
    rows = [
        row
        for store in stores.values()
        if len(store.ids_N) > ROWS_OF_EACH * ROW_TOKENS
        for row in text_rows(store, ROWS_OF_EACH, length=ROW_TOKENS)
    ]
    return rows if len(rows) > 1 else []


def probe_gists(core: Core, gist_net: GistNet, rows: Sequence[Window]) -> dict[str, float]:
    """Nats a token over the last ``HORIZON`` tokens, for each level of gists before the last blocks:
    ``delta_nll_64/level_1`` above the raw tokens; ``gists_save_64/level_1/of_shuffled`` and ``.../of_none`` below
    windows with other gists and without any. Seven forwards of short windows; nothing of the nets changes.
    """
    is_open_BN = np.zeros((len(rows), NUM_FAR + NUM_TAIL), dtype=np.bool_)
    is_open_BN[:, NUM_FAR:] = True

    def nats(is_open_BN: npt.NDArray[np.bool_], control: Control, joined: Joined = UNJOINED) -> float:
        scores = score_windows(
            core, gist_net, rows, is_open_BN, block_tokens=BLOCK, gist_width=1, control=control, joined=joined
        )
        return float(scores.nats_BT[:, -HORIZON:].mean())

    figures = {}
    with torch.compiler.set_stance("force_eager"):  # its few shapes are not worth compiling
        raw = nats(np.ones_like(is_open_BN), "real")
        for level, joined in LEVELS.items():
            real = nats(is_open_BN, "real", joined)
            figures[f"delta_nll_{HORIZON}/level_{level}"] = real - raw
            for control in ("shuffled", "none"):
                figures[f"gists_save_{HORIZON}/level_{level}/of_{control}"] = nats(is_open_BN, control, joined) - real
    return figures
