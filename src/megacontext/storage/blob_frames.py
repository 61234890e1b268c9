"""Long blobs as zstd frames of a mebibyte each, with a table of them at the end (zstd's "seekable format").

Every zstd reader takes the frames for one stream, since the table is a frame to be skipped; whoever knows the table
reads a part of a blob without what stands before it. Each frame carries its own checksum.
"""

from __future__ import annotations

import io
import struct
from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import BinaryIO

import zstandard

from megacontext.units import MIB

__all__ = ["FRAME_BYTES", "FrameWriter", "read_part"]

FRAME_BYTES = MIB
_SKIPPABLE, _SEEKABLE = 0x184D2A5E, 0x8F92EAB1  # the format's magic numbers
_HEADER, _FOOTER = struct.Struct("<II"), struct.Struct("<IBI")
_ENTRY_BYTES = 8  # sizes of a frame: compressed, as it was


class FrameWriter:
    """Compresses what it is given into ``file``, frame by frame."""

    def __init__(self, file: BinaryIO, *, level: int) -> None:
        self._file = file
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._waiting = bytearray()
        self._sizes = array("I")

    def write(self, data: bytes) -> None:
        self._waiting += data
        while len(self._waiting) >= FRAME_BYTES:
            self._write_frame(bytes(self._waiting[:FRAME_BYTES]))
            del self._waiting[:FRAME_BYTES]

    def finish(self) -> None:
        """The last frame, and the table."""
        if self._waiting or not self._sizes:
            self._write_frame(bytes(self._waiting))
        table = struct.pack(f"<{len(self._sizes)}I", *self._sizes)
        self._file.write(_HEADER.pack(_SKIPPABLE, len(table) + _FOOTER.size))
        self._file.write(table + _FOOTER.pack(len(self._sizes) // 2, 0, _SEEKABLE))

    def _write_frame(self, data: bytes) -> None:
        frame = self._compressor.compress(data)
        self._file.write(frame)
        self._sizes.extend((len(frame), len(data)))


def read_part(file: BinaryIO, start: int, stop: int) -> bytes | None:
    """Bytes [start, stop) of what a FrameWriter wrote, or None if ``file`` has no table.

    Raises: zstandard.ZstdError, struct.error where it is damaged.
    """
    length = file.seek(0, io.SEEK_END)
    if length < _HEADER.size + _FOOTER.size:
        return None
    file.seek(-_FOOTER.size, io.SEEK_END)
    num_frames, _, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    table_bytes = num_frames * _ENTRY_BYTES
    if magic != _SEEKABLE or table_bytes > length:
        return None
    file.seek(-_FOOTER.size - table_bytes, io.SEEK_END)
    sizes = struct.unpack(f"<{2 * num_frames}I", file.read(table_bytes))
    places, starts = (list(accumulate(sizes[kind::2], initial=0)) for kind in (0, 1))
    first = max(0, bisect_right(starts, start) - 1)
    last = min(num_frames, bisect_right(starts, max(start, stop - 1)))
    file.seek(places[first])
    compressed = file.read(places[last] - places[first])
    data = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(compressed)
    if len(data) != starts[last] - starts[first]:
        raise zstandard.ZstdError(f"{len(data)} bytes instead of {starts[last] - starts[first]}")
    return data[start - starts[first] : stop - starts[first]]
