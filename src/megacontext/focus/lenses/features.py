"""What a learned lens is told of a span beside its vectors. Training and sessions fill it in here, by one rule.

Shape legend: n spans, K tokens of a block, Q query tokens, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError

__all__ = ["MAX_LEVEL", "MAX_LOG2", "feature_columns", "lexical_scores"]

MAX_LEVEL, MAX_LOG2 = 8.0, 40.0  # scales of features: levels and widths or distances up to 2^40 tokens


def lexical_scores(blocks_nK: npt.NDArray[np.integer], query_Q: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """BM25 [n] of blocks as documents, over token ids (Robertson and Zaragoza 2009; k1 = 1.2, b = 0: equal lengths).

    A token's rarity is that among these blocks.
    """
    num_blocks = len(blocks_nK)
    scores_n = np.zeros(num_blocks)
    for token_id in dict.fromkeys(query_Q.tolist()):
        frequency_n = (blocks_nK == token_id).sum(1)
        num_with = np.count_nonzero(frequency_n)
        if num_with:
            weight = np.log1p((num_blocks - num_with + 0.5) / (num_with + 0.5))
            scores_n += weight * frequency_n * 2.2 / (frequency_n + 1.2)
    return scores_n


def feature_columns(
    names: Sequence[str],
    *,
    levels_n: npt.NDArray[np.integer],
    widths_n: npt.NDArray[np.integer],
    distances_n: npt.NDArray[np.integer],
    lexical_n: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float32]:
    """Features [n, F] in the order of ``names``; zero where nothing is known.

    distances_n: tokens from the end of each span to the end of the query; lexical_n: scores of any scale, >= 0.
    Raises BaseModelError for a name that this version cannot fill in.
    """
    zeros_n = np.zeros(len(levels_n))
    best = 0.0 if lexical_n is None else float(lexical_n.max(initial=0.0))
    columns: Mapping[str, npt.NDArray[np.floating]] = {
        "level": levels_n / MAX_LEVEL,
        "log2_width": np.log2(widths_n) / MAX_LOG2,
        "log2_distance": np.log2(np.maximum(1, distances_n)) / MAX_LOG2,
        "lexical": zeros_n if lexical_n is None or best <= 0 else lexical_n / best,
        "residency": zeros_n,  # no label knows of it yet
    }
    for name in names:
        if name not in columns:
            raise BaseModelError(
                f"the base's lens asks for the feature {name!r}, which is none of {', '.join(columns)}; "
                "use a newer MegaContext, or lens 'auto'"
            )
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)
