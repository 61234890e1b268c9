"""The model's state of one window: what is in the key-value cache, and the least recomputation that changes it.

The cache is a list of rows. Showing another list keeps the rows that both begin with and runs the rest, so a refocus
costs the window from its earliest edit on and equals a fresh forward (``kv="exact"``).

Shape legend: T new entries, V vocabulary, D embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from megacontext.errors import InvariantError
from megacontext.runtime.window import WindowReader, WindowRows, common_prefix

if TYPE_CHECKING:
    import torch

    from megacontext.ports.base import Base, ModelCache

__all__ = ["ModelWindow"]

# entries whose logits are held at once: 128 x 150 k tokens of vocabulary are 77 MB
LOGITS_CHUNK = 128


class ModelWindow:
    """One cache and the rows that are in it. ``num_forwarded`` counts the entries that ever ran through the model."""

    def __init__(self, base: Base, reader: WindowReader, *, capacity_entries: int) -> None:
        self._base = base
        self._reader = reader
        self._capacity_entries = capacity_entries
        self._cache: ModelCache = base.new_cache(capacity_entries)
        self._keys = np.zeros((capacity_entries, 3), dtype=np.int64)
        self._num_rows = 0
        self._next_position = 0.0
        self._logits_V: torch.Tensor | None = None
        self.num_forwarded = 0

    @property
    def cache(self) -> ModelCache:
        return self._cache

    @property
    def rows(self) -> WindowRows:
        return WindowRows(self._keys[: self._num_rows])

    @property
    def next_logits(self) -> torch.Tensor | None:
        """Float32 logits [V] after the last row, or None for an empty window."""
        return self._logits_V

    def show(self, rows: WindowRows, *, num_tokens: int) -> None:
        """Make the cache hold exactly these rows. ``num_tokens``: history below the scratch (global positions)."""
        shared = common_prefix(self.rows, rows)
        if shared == len(rows) == self._num_rows and self._logits_V is not None:
            return
        # the last entry always runs, because the next token is predicted from its output
        first = max(0, min(shared, len(rows) - 1))
        self._truncate(first)
        if len(rows):
            inputs = self._reader.read(rows, first, num_tokens=num_tokens)
            self._forward(inputs.vectors, inputs.positions, rows.keys[first:], spreads_T=inputs.spreads)
            self._next_position = inputs.next_position

    def append(self, token_ids: npt.NDArray[np.uint32]) -> None:
        """Run tokens that are no part of the memory after what is shown: one decode step for one token."""
        positions_T = self._next_position + np.arange(len(token_ids), dtype=np.float64)
        self._forward(self._base.embed(token_ids), positions_T, WindowRows.of_scratch(token_ids).keys)

    def nll(self, token_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Nats of each token as a continuation of what is shown. The window is the same afterwards. With nothing to
        predict the first token from, it costs log V."""
        shown, shown_position, shown_logits = self._num_rows, self._next_position, self._logits_V
        nats = np.empty(len(token_ids), dtype=np.float64)
        if len(token_ids):
            log_v = np.log(self._base.info.vocab_size)
            nats[0] = log_v if shown_logits is None else _nats(shown_logits[None], token_ids[:1])[0]
        try:
            for start in range(0, len(token_ids) - 1, LOGITS_CHUNK):
                chunk = token_ids[start : min(start + LOGITS_CHUNK, len(token_ids) - 1)]
                positions_T = self._next_position + np.arange(len(chunk), dtype=np.float64)
                keys = WindowRows.of_scratch(chunk).keys
                logits_TV = self._forward(self._base.embed(chunk), positions_T, keys, num_logits=len(chunk))
                nats[start + 1 : start + 1 + len(chunk)] = _nats(logits_TV, token_ids[start + 1 :][: len(chunk)])
        finally:
            self._cache.truncate(shown)
            self._num_rows, self._next_position, self._logits_V = shown, shown_position, shown_logits
        return nats

    def _forward(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        keys: npt.NDArray[np.int64],
        *,
        spreads_T: npt.NDArray[np.float32] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        stop = self._num_rows + len(keys)
        if stop > self._capacity_entries:
            raise InvariantError(f"{stop} entries in a window of {self._capacity_entries}")
        self._logits_V = None
        logits_TV = self._base.forward(inputs_TD, positions_T, self._cache, spreads_T=spreads_T, num_logits=num_logits)
        self._keys[self._num_rows : stop] = keys
        self._num_rows = stop
        self._next_position = float(positions_T[-1]) + 1.0
        self._logits_V = logits_TV[-1]
        self.num_forwarded += len(keys)
        return logits_TV

    def _truncate(self, num_rows: int) -> None:
        self._cache.truncate(num_rows)
        self._num_rows = num_rows
        self._logits_V = None


def _nats(logits_TV: torch.Tensor, token_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    import torch

    targets_T = torch.from_numpy(token_ids.astype(np.int64)).to(logits_TV.device)
    nats_T = torch.nn.functional.cross_entropy(logits_TV.float(), targets_T, reduction="none")
    nats: npt.NDArray[np.float64] = nats_T.double().cpu().numpy()
    return nats
