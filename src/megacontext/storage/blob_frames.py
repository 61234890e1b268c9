"""Long blobs as zstd frames of a mebibyte each, with a table of them at the end (zstd's "seekable format").

Every zstd reader takes the frames for one stream, since the table is a frame to be skipped; whoever knows the table
reads a part of a blob without what stands before it. Each frame carries its own checksum, and so does the table, in
a small frame to be skipped before it: whoever believed a damaged one would quote from a wrong place.
"""

from __future__ import annotations

import io
import struct
from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import BinaryIO
from zlib import crc32

import zstandard

from megacontext.units import MIB

__all__ = ["FRAME_BYTES", "FrameWriter", "has_table", "lacks_table", "read_part"]

FRAME_BYTES = MIB
_SKIPPABLE, _SEEKABLE = 0x184D2A5E, 0x8F92EAB1  # the format's magic numbers
_HEADER, _FOOTER = struct.Struct("<II"), struct.Struct("<IBI")
_LONGEST_HEADER = 18  # of a frame
_ENTRY_BYTES = 8  # sizes of a frame: compressed, as it was
_CHECKSUM = struct.Struct("<III")  # the frame before the table: header, crc32 of the table's frame


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
        entries = struct.pack(f"<{len(self._sizes)}I", *self._sizes)
        header = _HEADER.pack(_SKIPPABLE, len(entries) + _FOOTER.size)
        table = header + entries + _FOOTER.pack(len(self._sizes) // 2, 0, _SEEKABLE)
        self._file.write(_CHECKSUM.pack(_SKIPPABLE, 4, crc32(table)) + table)

    def _write_frame(self, data: bytes) -> None:
        frame = self._compressor.compress(data)
        self._file.write(frame)
        self._sizes.extend((len(frame), len(data)))


def read_part(file: BinaryIO, start: int, stop: int) -> bytes | None:
    """Bytes [start, stop) of what a FrameWriter wrote, or None if ``file`` has no table, or none that can be believed:
    then the whole has to be read, which has a checksum of its own.

    Raises: zstandard.ZstdError where a frame is damaged.
    """
    sizes = _table(file)
    if sizes is None:
        return None
    num_frames = len(sizes) // 2
    places, starts = (list(accumulate(sizes[kind::2], initial=0)) for kind in (0, 1))
    first = max(0, bisect_right(starts, start) - 1)
    last = min(num_frames, bisect_right(starts, max(start, stop - 1)))
    file.seek(places[first])
    compressed = file.read(places[last] - places[first])
    data = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(compressed)
    if len(data) != starts[last] - starts[first]:
        raise zstandard.ZstdError(f"{len(data)} bytes instead of {starts[last] - starts[first]}")
    return data[start - starts[first] : stop - starts[first]]


def has_table(file: BinaryIO) -> bool:
    """Whether a FrameWriter wrote this file, so that parts of it can be read alone."""
    return _table(file) is not None


def lacks_table(file: BinaryIO, num_bytes: int) -> bool:
    """Whether a file that decompresses to ``num_bytes`` is a FrameWriter's, and has no table that can be believed.

    Its frames carry checksums, even a single one; of a blob that was written whole the one frame has none.
    """
    file.seek(0)
    first = zstandard.get_frame_parameters(file.read(_LONGEST_HEADER))
    return (first.has_checksum or first.content_size != num_bytes) and _table(file) is None


def _table(file: BinaryIO) -> tuple[int, ...] | None:
    """Sizes of all frames, compressed and as they were by turns; None unless they pass their checksum."""
    length = file.seek(0, io.SEEK_END)
    if length < _CHECKSUM.size + _HEADER.size + _FOOTER.size:
        return None
    file.seek(-_FOOTER.size, io.SEEK_END)
    num_frames, _, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    num_bytes = _HEADER.size + num_frames * _ENTRY_BYTES + _FOOTER.size
    if magic != _SEEKABLE or _CHECKSUM.size + num_bytes > length:
        return None
    file.seek(-_CHECKSUM.size - num_bytes, io.SEEK_END)
    checksum, table = file.read(_CHECKSUM.size), file.read(num_bytes)
    if checksum != _CHECKSUM.pack(_SKIPPABLE, 4, crc32(table)):
        return None
    return struct.unpack_from(f"<{2 * num_frames}I", table, _HEADER.size)
