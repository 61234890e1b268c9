"""The model's state of one window: what is in the key-value cache, and the least recomputation that changes it.

The cache holds the window's rows. Showing other rows in ``exact`` mode keeps what both windows begin with and runs the
rest: a refocus costs the window from its earliest edit on, and equals a fresh forward. With ``patching`` it keeps every
row that both have and runs what is new, at its own place: a refocus costs its edits (``patching.py``).

Shape legend: T new entries, W rows of the window, V vocabulary, D embedding width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from megacontext.errors import DeviceMemoryError, InvalidValueError, InvariantError, MegaContextError
from megacontext.ports.base import SupportsAttentionMass, SupportsBatches, SupportsPatch
from megacontext.runtime.patching import Patch, Patching, plan_patch
from megacontext.runtime.sampling import check_number
from megacontext.runtime.window import WindowReader, WindowRows, common_prefix
from megacontext.values import number as valid_number
from megacontext.values import whole_number

if TYPE_CHECKING:
    import torch

    from megacontext.ports.base import Base, ModelCache

__all__ = ["ModelWindow", "append_together"]

# entries whose logits are held at once: 128 x 150 k tokens of vocabulary are 77 MB
LOGITS_CHUNK = 128
# the last probes, which tell how far a patched window has drifted
DRIFT_PROBES = 32
# what a window counts over its life, and where a saved count is no count any more: arrays of int64 go on from it
COUNTS = ("num_forwarded", "num_patches", "num_refreshes")
MOST_COUNTED = 1 << 53


class ModelWindow:
    """One cache and the rows that are in it.

    patching: how to patch, None for ``exact``; the base then has to support it. ``num_forwarded`` counts the entries
    that ever ran through the model, ``num_patches`` the patches, ``num_refreshes`` how often a patched window was
    computed anew.
    """

    def __init__(
        self, base: Base, reader: WindowReader, *, capacity_entries: int, patching: Patching | None = None
    ) -> None:
        self._base = base
        self._reader = reader
        self.capacity_entries = capacity_entries
        self._patching = patching
        self._cache: ModelCache = base.new_cache(capacity_entries)
        try:
            self._keys = np.zeros((capacity_entries, 3), dtype=np.int64)
            self._positions = np.zeros(capacity_entries, dtype=np.float64)  # where each row was placed
            self._is_stale = np.zeros(capacity_entries, dtype=np.bool_)  # ran before an edit that stands before it
            self._ran = np.zeros(capacity_entries, dtype=np.int64)  # how many patches there were when it ran
        except MemoryError as error:
            raise DeviceMemoryError(
                f"{base.info.name}: a window with room for {capacity_entries:,} entries does not fit into the memory; "
                "use a smaller budget_entries"
            ) from error
        self._changes: deque[float] = deque(maxlen=DRIFT_PROBES)
        self._num_rows = 0
        self._next_position = 0.0
        self._logits_V: torch.Tensor | None = None
        self.num_forwarded = 0
        self.num_patches = 0
        self.num_refreshes = 0

    @property
    def cache(self) -> ModelCache:
        return self._cache

    @property
    def rows(self) -> WindowRows:
        return WindowRows(self._keys[: self._num_rows])

    @property
    def drift(self) -> float:
        """How far the window is from one that is computed anew: by how much, relative to them, the values of rows out
        of date have changed when they ran again, times the share of rows that are out of date. 0 in ``exact`` mode."""
        if not self._changes or not self._num_rows:
            return 0.0
        share = float(self._is_stale[: self._num_rows].mean())
        return share * sum(self._changes) / len(self._changes)

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
        if self._patching is not None and self._num_rows > 0 and first < len(rows) - 1:
            patch = self._plan(rows, self._patching)
            if self.drift > self._patching.drift_bound:
                self.num_refreshes += 1
                first = 0
            elif len(patch.run_R) < min(len(rows) - first, self._patching.refresh_share * len(rows)):
                self._patch(rows, patch, num_tokens=num_tokens)
                return
        if not len(rows):
            self._truncate(0)
            return
        placement = self._reader.place(rows, num_tokens=num_tokens)
        inputs = self._reader.read(rows, np.arange(first, len(rows)), placement)  # may fail: nothing is changed yet
        self._truncate(first)
        self._forward(
            inputs.vectors,
            inputs.positions,
            rows.keys[first:],
            spreads_T=inputs.spreads,
            placed_T=placement.positions_W[first:],
        )
        self._next_position = placement.next_position

    def append(self, token_ids: npt.NDArray[np.uint32]) -> None:
        """Run tokens that are no part of the memory after what is shown: one decode step for one token."""
        positions_T = self._next_position + np.arange(len(token_ids), dtype=np.float64)
        self._forward(self._base.embed(token_ids), positions_T, WindowRows.of_scratch(token_ids).keys)

    def nll(self, token_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Nats of each token as a continuation of what is shown. The window is the same afterwards. With nothing to
        predict the first token from, not even a BOS, it costs log V."""
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

    def attention_mass(self, num_queries: int) -> npt.NDArray[np.float32] | None:
        """Attention [W] that the last rows give to each; None if the base cannot tell."""
        if not isinstance(self._base, SupportsAttentionMass):
            return None
        return self._base.attention_mass(self._cache, num_queries=min(num_queries, self._num_rows))

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """All but the cache and the logits: arrays over rows, and what JSON can hold."""
        shown = slice(0, self._num_rows)
        arrays = {
            "keys": self._keys[shown],
            "positions": self._positions[shown],
            "is_stale": self._is_stale[shown],
            "ran": self._ran[shown],
        }
        counts = {name: getattr(self, name) for name in COUNTS}
        return arrays, {**counts, "changes": list(self._changes), "next_position": self._next_position}

    def restore(
        self,
        arrays: dict[str, npt.NDArray[Any]],
        told: dict[str, Any],
        cache: ModelCache,
        logits_V: torch.Tensor | None,
    ) -> None:
        """Take over a ``state``, the cache that belongs to it, and the logits after its last row, if there were any.
        InvalidValueError if they do not fit."""
        num_rows = len(arrays["keys"])
        if any(len(rows) != num_rows for rows in arrays.values()) or not cache.num_entries == num_rows:
            raise InvalidValueError(f"the saved window has {num_rows} rows, its cache {cache.num_entries}")
        if num_rows > self.capacity_entries:
            raise InvalidValueError(
                f"the saved window has {num_rows} rows, more than the {self.capacity_entries} allowed"
            )
        vocab_size = self._base.info.vocab_size
        if logits_V is not None and logits_V.shape != (vocab_size,):
            raise InvalidValueError(f"the saved logits have shape {tuple(logits_V.shape)}, not ({vocab_size},)")
        counts = {name: whole_number(name, told[name], most=MOST_COUNTED) for name in COUNTS}
        changes = [valid_number("a change", change, least=0) for change in told["changes"]]
        next_position = valid_number("next_position", told["next_position"], least=0, most=MOST_COUNTED)
        self._cache, self._num_rows = cache, num_rows
        self._logits_V = None if logits_V is None else logits_V.to(self._base.info.device)
        self._keys[:num_rows], self._positions[:num_rows] = arrays["keys"], arrays["positions"]
        self._is_stale[:num_rows], self._ran[:num_rows] = arrays["is_stale"], arrays["ran"]
        self._changes.extend(changes)
        self._next_position = next_position
        vars(self).update(counts)

    def _plan(self, rows: WindowRows, patching: Patching) -> Patch:
        shown = slice(0, self._num_rows)
        return plan_patch(self.rows, rows, patching, is_stale_O=self._is_stale[shown], ran_O=self._ran[shown])

    def _patch(self, rows: WindowRows, patch: Patch, *, num_tokens: int) -> None:
        """Keep what stands in both windows, and run the rest at its own place."""
        base = self._base
        assert isinstance(base, SupportsPatch)
        placement = self._reader.place(rows, num_tokens=num_tokens)
        inputs = self._reader.read(rows, patch.run_R, placement)  # may fail: nothing is changed yet
        values_before = base.values_of(self._cache, patch.probes_old_p) if len(patch.probes_old_p) else None
        moved_k = placement.positions_W[patch.kept_new_k] - self._positions[patch.kept_old_k]
        ran_k = self._ran[patch.kept_old_k]
        self._logits_V, self._num_rows = None, 0  # until all is done
        logits_TV = base.patch(
            inputs.vectors,
            inputs.positions,
            self._cache,
            kept_n=patch.kept_old_k,
            moved_n=moved_k,
            places_T=patch.run_R,
            spreads_T=inputs.spreads,
        )
        self.num_patches += 1
        self.num_forwarded += len(patch.run_R)
        num_rows = self._num_rows = len(rows)
        self._keys[:num_rows] = rows.keys
        self._positions[:num_rows] = placement.positions_W
        self._is_stale[:num_rows] = patch.is_stale_W
        self._ran[patch.kept_new_k], self._ran[patch.run_R] = ran_k, self.num_patches
        self._next_position, self._logits_V = placement.next_position, logits_TV[-1]
        if values_before is not None:
            values = base.values_of(self._cache, patch.probes_new_p).flatten(1)
            values_before = values_before.flatten(1)
            changes_p = (values - values_before).norm(dim=1) / values_before.norm(dim=1).clamp_min(1e-9)
            self._changes.extend(changes_p.cpu().tolist())

    def _forward(
        self,
        inputs_TD: torch.Tensor,
        positions_T: npt.NDArray[np.float64],
        keys: npt.NDArray[np.int64],
        *,
        spreads_T: npt.NDArray[np.float32] | None = None,
        placed_T: npt.NDArray[np.float64] | None = None,
        num_logits: int = 1,
    ) -> torch.Tensor:
        self._begin_run(len(keys))
        logits_TV = self._base.forward(inputs_TD, positions_T, self._cache, spreads_T=spreads_T, num_logits=num_logits)
        self._end_run(keys, positions_T if placed_T is None else placed_T, logits_TV[-1])
        return logits_TV

    def _begin_run(self, num_new: int) -> None:
        """Before entries run: there must be room for them."""
        stop = self._num_rows + num_new
        if stop > self.capacity_entries:
            raise InvariantError(f"{stop} entries in a window of {self.capacity_entries}")
        self._logits_V = None

    def _end_run(self, keys: npt.NDArray[np.int64], placed_T: npt.NDArray[np.float64], logits_V: torch.Tensor) -> None:
        """After entries ran at the end of the window."""
        stop = self._num_rows + len(keys)
        shown = slice(self._num_rows, stop)
        self._keys[shown], self._positions[shown] = keys, placed_T
        self._is_stale[shown], self._ran[shown] = False, self.num_patches
        self._num_rows, self._next_position = stop, float(placed_T[-1]) + 1.0
        self._logits_V = logits_V
        self.num_forwarded += len(keys)

    def drop_unfinished(self) -> None:
        """Forget what a run that failed left of entries behind the last one."""
        self._truncate(self._num_rows)

    def _truncate(self, num_rows: int) -> None:
        self._cache.truncate(num_rows)
        self._num_rows = num_rows
        self._logits_V = None
        if not num_rows:
            self._changes.clear()


def append_together(windows: Sequence[ModelWindow], token_ids: npt.NDArray[np.uint32]) -> dict[int, MegaContextError]:
    """``append`` of one token to each of several windows, one forward for all those of a base that has batches; which
    of them could not, and why. Where a batch fails, each of its windows runs alone: one of them may be the reason."""
    failed: dict[int, MegaContextError] = {}
    by_base: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        by_base.setdefault(id(window._base), []).append(number)
    for numbers in by_base.values():
        batch, base = [windows[number] for number in numbers], windows[numbers[0]]._base
        if len(batch) > 1 and isinstance(base, SupportsBatches):
            try:
                _append_batch(base, batch, token_ids[numbers])
            except MegaContextError:
                for window in batch:
                    window.drop_unfinished()
            else:
                continue
        for number in numbers:
            try:
                windows[number].append(token_ids[number : number + 1])
            except MegaContextError as error:
                failed[number] = error
    return failed


def _append_batch(base: SupportsBatches, batch: Sequence[ModelWindow], token_ids: npt.NDArray[np.uint32]) -> None:
    for window in batch:
        window._begin_run(1)
    positions_B = np.array([window._next_position for window in batch])
    inputs_BD = batch[0]._base.embed(token_ids)
    logits_BV = base.decode_batch(inputs_BD, positions_B, [window.cache for window in batch])
    keys = WindowRows.of_scratch(token_ids).keys
    for row, window in enumerate(batch):
        window._end_run(keys[row : row + 1], positions_B[row : row + 1], logits_BV[row])


def _nats(logits_TV: torch.Tensor, token_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    import torch

    from megacontext.bases.transfers import on_device

    (targets_T,) = on_device(logits_TV.device, token_ids.astype(np.int64))
    nats_T = torch.nn.functional.cross_entropy(logits_TV.float(), targets_T, reduction="none")
    nats: npt.NDArray[np.float64] = nats_T.double().cpu().numpy()
    if np.isnan(nats).any():
        check_number(math.nan)
    return nats
