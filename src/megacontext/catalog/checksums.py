"""Checksums of rows, independent of how the database lays them out."""

from __future__ import annotations

import json
import struct
from typing import Any

import google_crc32c

__all__ = ["blob_crc", "row_crc"]

_TWO_INTS = struct.Struct("<qq")


def row_crc(values: tuple[Any, ...]) -> int:
    """crc32c over the values of a row in column order (the crc itself left out).

    JSON with escapes is the same text in every Python version; bytes follow it, and stand in it as their length.
    """
    blobs = [value for value in values if type(value) is bytes]
    text = json.dumps([len(value) if type(value) is bytes else value for value in values])
    return int(google_crc32c.value(b"".join([text.encode(), *blobs])))


def blob_crc(first: int, second: int, blob: bytes) -> int:
    """``row_crc`` for the rows that are read and written by the thousand: two integers and bytes."""
    return int(google_crc32c.value(_TWO_INTS.pack(first, second) + blob))
