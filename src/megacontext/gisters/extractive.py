"""``extractive``: the r most informative tokens of a span, at their own positions. No training.

Informative is what surprises the base model, given the tokens before it. Upper levels choose among the children's
tokens by the same nats. An exact token at an exact place has no spread.

A gist must not depend on how the tokens arrived. So every token is read in one fixed window: windows of
``window_tokens`` lie end to end, each with the ``context_tokens`` before it, and every window is run by itself as one
row of the same length, filled up on the right with a token that nothing earlier can see. Equal shapes give equal
arithmetic: on one machine the nats are the same bits however the appends were cut. Weights are rounded to
``WEIGHT_STEP``, and equal ones go to the earlier token, so that other hardware rarely chooses differently.

Shape legend: n nodes, K block_tokens, r gist_width, D embedding width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError, InvalidValueError
from megacontext.gisters.source import whole_blocks
from megacontext.ports.base import BaseSource, SupportsSurprise
from megacontext.ports.gister import GistBatch

__all__ = ["ExtractiveGister"]

# A window and its context make rows of at most this length (less where the base was made for less); an eighth of a
# row is context: 64 tokens and 448. Longer rows cost more, as attention grows with their square, and the gist of one
# new block costs a whole row.
ROW_TOKENS = 512
WEIGHT_STEP = 1 / 64  # nats
PADDING_ID = 0


class ExtractiveGister:
    """Keeps the r tokens of a span that say most. Loads the base model when the first blocks come."""

    name = "extractive"
    version = "1"
    spread = 0.0

    def __init__(self, source: BaseSource, *, block_tokens: int, gist_width: int) -> None:
        self.block_tokens = block_tokens
        row_tokens = min(ROW_TOKENS, source.info.max_positions)
        self.context_tokens = row_tokens // 8
        self.window_tokens = (row_tokens - self.context_tokens) // block_tokens * block_tokens
        if self.window_tokens == 0:
            raise InvalidValueError(
                f"block_tokens is {block_tokens}, more than {source.info.name} can read at once "
                f"({source.info.max_positions} positions); use smaller blocks or gister 'mean'"
            )
        self.gist_width = gist_width
        self.dim = source.info.dim
        self._source = source

    def from_tokens(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> GistBatch:
        """Level-1 gists of whole blocks; ``token_ids`` must begin no later than the context of their window."""
        ids_nK = whole_blocks(token_ids, start=start, num_context=num_context, block_tokens=self.block_tokens)
        nats_nK = self._nats(token_ids, start=start, num_context=num_context).reshape(ids_nK.shape)
        chosen_nr = _most_informative(nats_nK, self.gist_width)
        vectors = self._source.embeddings.rows(np.take_along_axis(ids_nK, chosen_nr, axis=1))
        return GistBatch(
            vectors=vectors.astype(np.float16),
            offsets=chosen_nr.astype(np.float32),
            weights=np.take_along_axis(nats_nK, chosen_nr, axis=1),
        )

    def from_gists(self, children: GistBatch, *, level: int) -> GistBatch:
        """Gists of ``level``: the r best among the K x r tokens of each node's children."""
        candidates = self.block_tokens * self.gist_width
        weights = children.weights.reshape(-1, candidates)
        child_starts = np.arange(self.block_tokens, dtype=np.float32) * self.block_tokens ** (level - 1)
        offsets = children.offsets.reshape(-1, self.block_tokens, self.gist_width) + child_starts[:, None]
        vectors = children.vectors.reshape(-1, candidates, self.dim)
        chosen_nr = _most_informative(weights, self.gist_width)
        return GistBatch(
            vectors=np.take_along_axis(vectors, chosen_nr[:, :, None], axis=1),
            offsets=np.take_along_axis(offsets.reshape(-1, candidates), chosen_nr, axis=1),
            weights=np.take_along_axis(weights, chosen_nr, axis=1),
        )

    def _nats(self, token_ids: npt.NDArray[np.uint32], *, start: int, num_context: int) -> npt.NDArray[np.float32]:
        """Rounded surprise of each token after the context, read in its own window."""
        first, stop = start + num_context, start + len(token_ids)
        windows = range(first // self.window_tokens, -(-stop // self.window_tokens))
        row_starts = [max(0, window * self.window_tokens - self.context_tokens) for window in windows]
        if row_starts and row_starts[0] < start:
            raise InvalidValueError(
                f"tokens from {start} on lack context: the block at {first} is read from {row_starts[0]} on"
            )
        rows = np.full((len(row_starts), self.context_tokens + self.window_tokens), PADDING_ID, dtype=np.uint32)
        for row, row_start, window in zip(rows, row_starts, windows, strict=True):
            taken = token_ids[row_start - start : (window + 1) * self.window_tokens - start]
            row[: len(taken)] = taken
        nats = np.empty(stop - first, dtype=np.float32)
        for row_nats, row_start, window in zip(self._surprise(rows), row_starts, windows, strict=True):
            low = max(first, window * self.window_tokens)
            high = min(stop, (window + 1) * self.window_tokens)
            nats[low - first : high - first] = row_nats[low - row_start : high - row_start]
        return np.round(nats / np.float32(WEIGHT_STEP)) * np.float32(WEIGHT_STEP)

    def _surprise(self, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
        base = self._source.load()
        if not isinstance(base, SupportsSurprise):
            raise BaseModelError(
                f"{base.info.name} cannot score tokens, which extractive gists need; use gister 'mean'"
            )
        return base.surprise(rows)


def _most_informative(weights: npt.NDArray[np.float32], gist_width: int) -> npt.NDArray[np.int64]:
    """Indices [n, r], ascending, of the largest weights of each row; equal ones go to the earlier."""
    by_weight = np.argsort(-weights, axis=1, kind="stable")[:, :gist_width]
    return np.sort(by_weight, axis=1)
