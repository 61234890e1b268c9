"""Decoded chunks in memory, laid out so that scattered rows are gathered by one ``take`` and not one by one.

Each array has an *arena*: its chunks side by side in one buffer, in any order, and a table that says where each is. A
row's place in the buffer is then arithmetic, for one row or for thousands at once. All arenas share one limit; whoever
needs room has it from the arena whose chunks have waited longest to be read again, half of that arena at a time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from megacontext.ports.arrays import ArraySpec

__all__ = ["ChunkPool"]

_FIRST_SLOTS = 16
_ABSENT = -1

Rows = npt.NDArray[np.generic]
Indices = npt.NDArray[np.int64]


class ChunkPool:
    """Chunks of many arrays within ``limit_bytes``, tables included. Not for several threads at once."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._arenas: dict[str, _Arena] = {}
        self._clock = 0

    @property
    def num_bytes(self) -> int:
        """What is held now."""
        return sum(arena.num_bytes for arena in self._arenas.values())

    def holds(self, spec: ArraySpec, num_chunks: int) -> bool:
        """Whether so many chunks may be kept at once: at most half of everything, or they would push out each other."""
        return 2 * num_chunks * _chunk_bytes(spec) <= self._limit_bytes

    def stretch(self, spec: ArraySpec, start: int, stop: int) -> Rows | None:
        """A copy of rows ``[start, stop)`` that lie within one chunk; None if it is not here."""
        arena = self._arenas.get(spec.name)
        self._clock += 1
        return None if arena is None else arena.stretch(start, stop, self._clock)

    def rows(self, spec: ArraySpec, rows: Indices) -> Rows | None:
        """A copy of these rows (at least one), in any order; None unless all of them are here."""
        arena = self._arenas.get(spec.name)
        self._clock += 1
        return None if arena is None else arena.gathered(rows, self._clock)

    def missing(self, spec: ArraySpec, chunks: Indices) -> npt.NDArray[np.bool_]:
        """Which of these chunks are not here."""
        arena = self._arenas.get(spec.name)
        return np.ones(len(chunks), dtype=np.bool_) if arena is None else arena.slots_of(chunks) == _ABSENT

    def put(self, spec: ArraySpec, chunks: Indices, rows: Rows) -> None:
        """Keep whole chunks that are not here; ``rows`` are theirs, end to end."""
        arena = self._arenas.get(spec.name)
        if arena is None:
            arena = self._arenas[spec.name] = _Arena(spec)
        if arena.num_bytes_with(chunks) > self._limit_bytes:
            return  # far out in a long history the table alone is too large for such a limit
        self._clock += 1
        while (growth := arena.growth_bytes(chunks)) > self._limit_bytes - self.num_bytes:
            stalest = min((one for one in self._arenas.values() if one.num_chunks), key=_Arena.age, default=None)
            if stalest is None:
                return  # the tables of all arrays leave no room
            stalest.halve()
        arena.put(chunks, rows, clock=self._clock, spare_bytes=self._limit_bytes - self.num_bytes - growth)

    def drop(self, spec: ArraySpec, start: int, stop: int) -> None:
        """Forget the chunks of rows ``[start, stop)``."""
        arena = self._arenas.get(spec.name)
        if arena is not None:
            arena.drop(start // spec.chunk_rows, -(-stop // spec.chunk_rows))

    def clear(self) -> None:
        """Forget everything."""
        self._arenas.clear()


class _Arena:
    """Chunks of one array. A *slot* is a place for one of them."""

    def __init__(self, spec: ArraySpec) -> None:
        self._chunk_rows = spec.chunk_rows
        self._slot_bytes = _chunk_bytes(spec) + 16  # and what is noted of it below
        self._buffer: Rows = np.empty((0, *spec.row_shape), dtype=spec.dtype)
        self._table = np.empty(0, dtype=np.int32)  # chunk -> slot
        self._chunk_of = np.empty(0, dtype=np.int64)  # slot -> chunk
        self._used = np.empty(0, dtype=np.int64)  # slot -> when it was last read

    @property
    def num_bytes(self) -> int:
        return len(self._chunk_of) * self._slot_bytes + self._table.nbytes

    @property
    def num_chunks(self) -> int:
        return int(np.count_nonzero(self._chunk_of != _ABSENT))

    def age(self) -> float:
        """When its typical chunk was last read."""
        return float(np.median(self._used[self._chunk_of != _ABSENT]))

    def slots_of(self, chunks: Indices) -> npt.NDArray[np.int32]:
        slots = np.full(len(chunks), _ABSENT, dtype=np.int32)
        known = chunks < len(self._table)
        slots[known] = self._table[chunks[known]]
        return slots

    def stretch(self, start: int, stop: int, clock: int) -> Rows | None:
        chunk = start // self._chunk_rows
        if chunk >= len(self._table):
            return None
        slot = self._table.item(chunk)
        if slot == _ABSENT:
            return None
        self._used[slot] = clock
        shift = (slot - chunk) * self._chunk_rows
        return self._buffer[start + shift : stop + shift].copy()

    def gathered(self, rows: Indices, clock: int) -> Rows | None:
        chunks = rows // self._chunk_rows
        try:
            slots = self._table.take(chunks)
        except IndexError:
            return None
        if slots.min() == _ABSENT:
            return None
        self._used[slots] = clock
        return self._buffer.take(rows + (slots - chunks) * self._chunk_rows, axis=0)

    def growth_bytes(self, chunks: Indices) -> int:
        """What it needs at least to take in so many chunks more."""
        num_slots = max(0, self.num_chunks + len(chunks) - len(self._chunk_of))
        return num_slots * self._slot_bytes + (self._table_size(chunks) - len(self._table)) * self._table.itemsize

    def num_bytes_with(self, chunks: Indices) -> int:
        """What it would need to hold these and nothing else."""
        return len(chunks) * self._slot_bytes + self._table_size(chunks) * self._table.itemsize

    def put(self, chunks: Indices, rows: Rows, *, clock: int, spare_bytes: int) -> None:
        """spare_bytes: what it may take beyond ``growth_bytes``, so as not to grow with every chunk."""
        self._table = _longer(self._table, self._table_size(chunks))
        num_slots = self.num_chunks + len(chunks)
        if num_slots > len(self._chunk_of):
            spare = min(max(_FIRST_SLOTS, len(self._chunk_of)), spare_bytes // self._slot_bytes)
            self._move(np.flatnonzero(self._chunk_of != _ABSENT), num_slots + spare)
        slots = np.flatnonzero(self._chunk_of == _ABSENT)[: len(chunks)]
        self._by_slot(self._buffer)[slots] = rows.reshape(len(chunks), self._chunk_rows, *rows.shape[1:])
        self._chunk_of[slots] = chunks
        self._used[slots] = clock
        self._table[chunks] = slots

    def drop(self, first_chunk: int, last_chunk: int) -> None:
        slots = self._table[first_chunk:last_chunk]
        self._chunk_of[slots[slots != _ABSENT]] = _ABSENT
        slots[:] = _ABSENT

    def halve(self) -> None:
        """Keep the half that was read last, in half the room."""
        held = np.flatnonzero(self._chunk_of != _ABSENT)
        kept = held[np.argsort(self._used[held], kind="stable")][len(held) - len(held) // 2 :]
        self._move(kept, len(kept))

    def _move(self, slots: Indices, num_slots: int) -> None:
        """Into a buffer of another size; what is not in ``slots`` is left behind."""
        buffer = np.empty((num_slots * self._chunk_rows, *self._buffer.shape[1:]), dtype=self._buffer.dtype)
        self._by_slot(buffer)[: len(slots)] = self._by_slot(self._buffer)[slots]
        chunk_of = np.full(num_slots, _ABSENT, dtype=np.int64)
        used = np.zeros(num_slots, dtype=np.int64)
        chunk_of[: len(slots)], used[: len(slots)] = self._chunk_of[slots], self._used[slots]
        self._buffer, self._chunk_of, self._used = buffer, chunk_of, used
        self._table[:] = _ABSENT
        self._table[chunk_of[: len(slots)]] = np.arange(len(slots))

    def _by_slot(self, buffer: Rows) -> Rows:
        return buffer.reshape(len(buffer) // self._chunk_rows, self._chunk_rows, *buffer.shape[1:])

    def _table_size(self, chunks: Indices) -> int:
        """By powers of two, so that it seldom grows."""
        return max(len(self._table), 1 << int(chunks.max()).bit_length())


def _longer(table: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.int32]:
    longer = np.full(size, _ABSENT, dtype=np.int32)
    longer[: len(table)] = table
    return longer


def _chunk_bytes(spec: ArraySpec) -> int:
    return spec.chunk_rows * math.prod(spec.row_shape) * np.dtype(spec.dtype).itemsize
