"""A model's input-embedding matrix, read from its safetensors file without torch.

Mean gists and the fingerprint of a base need these rows and nothing else of the model, so a memory can be opened,
filled and searched while the model stays on disk. NumPy has no bfloat16: its bytes are the upper half of a float32.

Shape legend: V vocabulary, D embedding width.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from megacontext.errors import BaseModelError
from megacontext.units import MIB

__all__ = ["EMBEDDING_NAMES", "EmbeddingTable", "map_tensor", "read_header"]

# How the families that transformers knows call their input embeddings.
EMBEDDING_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
# How they call the layers beside them.
LAYER = re.compile(r"(?:layers|h|blocks)\.(\d+)\.")
DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
# Tables up to this size are converted to float32 once; larger ones row by row, as they are asked for.
CONVERTED_BYTES = 64 * MIB


class EmbeddingTable:
    """Rows of an input-embedding matrix on disk. ``shape``: (V, D); ``name``: of the tensor; ``num_layers``: how many
    layers lie beside it, 0 where that cannot be told."""

    def __init__(
        self, raw_VD: npt.NDArray[Any], *, scale: float = 1.0, name: str = "the embedding", num_layers: int = 0
    ) -> None:
        """raw_VD: float16 or float32 values, or uint16 that are the bits of bfloat16; scale: what the model multiplies
        them by before it reads them."""
        self.name, self.num_layers = name, num_layers
        self._raw_VD = raw_VD
        self._scale = np.float32(scale)
        self.shape: tuple[int, int] = (raw_VD.shape[0], raw_VD.shape[1])

    @classmethod
    def from_folder(cls, folder: Path, *, scale: float = 1.0) -> EmbeddingTable:
        """Find the matrix in the safetensors files of a model folder; BaseModelError if it is not there."""
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise BaseModelError(f"{folder}: has no weights (*.safetensors); save the model with save_pretrained")
        headers = [(file, *read_header(file)) for file in files]  # of all, so that none is cut off
        for file, header, data_start in headers:
            for name, entry in header.items():
                if name.endswith(EMBEDDING_NAMES) and len(entry["shape"]) == 2:
                    names = (name for _, header, _ in headers for name in header)
                    num_layers = _num_layers(names, beside=name)
                    return cls(map_tensor(file, name, entry, data_start), scale=scale, name=name, num_layers=num_layers)
        raise BaseModelError(
            f"{folder}: no tensor is named like an input embedding ({', '.join(EMBEDDING_NAMES)}); use another base"
        )

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] embeddings of ids, which must be below V, as the model reads them."""
        if self._converted is not None:
            rows: npt.NDArray[np.float32] = self._converted[token_ids]
            return rows
        return self._scaled(_as_float32(self._raw_VD[token_ids]))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the stored values, row after row."""
        state = hashlib.sha256(f"{self.shape} {self._raw_VD.dtype}".encode())
        rows_at_once = max(1, 8 * MIB // (self._raw_VD.itemsize * self.shape[1]))
        for first in range(0, self.shape[0], rows_at_once):
            state.update(np.ascontiguousarray(self._raw_VD[first : first + rows_at_once]).data)
        return state.hexdigest()

    @functools.cached_property
    def _converted(self) -> npt.NDArray[np.float32] | None:
        if 4 * self.shape[0] * self.shape[1] > CONVERTED_BYTES:
            return None
        return self._scaled(_as_float32(self._raw_VD[:]))

    def _scaled(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return rows if self._scale == 1 else rows * self._scale


def _as_float32(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if raw.dtype != np.uint16:
        return np.ascontiguousarray(raw, dtype=np.float32)
    return (np.asarray(raw, dtype=np.uint32) << 16).view(np.float32)


def _num_layers(names: Iterable[str], *, beside: str) -> int:
    """How many layers these tensors are of, counted up to the last; those of what looks at images stand elsewhere."""
    prefix = next(beside.removesuffix(known) for known in EMBEDDING_NAMES if beside.endswith(known))
    found = (LAYER.match(name, len(prefix)) for name in names if name.startswith(prefix))
    return max((int(match[1]) + 1 for match in found if match), default=0)


def read_header(file: Path) -> tuple[dict[str, Any], int]:
    """Tensors by name of a safetensors file, and where the data begin: eight bytes of length, then JSON. BaseModelError
    for a file that is none, or is cut off."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError(f"its header would be {length} bytes long")
            header: dict[str, Any] = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise BaseModelError(f"{file}: not a readable safetensors file ({error}); save the model again") from error
    num_bytes = file.stat().st_size - 8 - length
    if not isinstance(header, dict):
        raise BaseModelError(f"{file}: its header is no table of tensors; copy or save the model again")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _describes_tensor(entry):
            raise BaseModelError(
                f"{file}: its header describes {name} as {str(entry)[:80]}, which needs a dtype, a shape, and "
                "data_offsets in order; copy or save the model again"
            )
        if entry["data_offsets"][1] > num_bytes:
            raise BaseModelError(f"{file}: is cut off before the end of {name}; copy or save the model again")
    return header, 8 + length


def _describes_tensor(entry: object) -> bool:
    """Whether a header's entry says what safetensors wants; of dtypes that are read here, how long the data are too."""
    if not isinstance(entry, dict):
        return False
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        return False
    num_bytes: int = offsets[1] - offsets[0]
    if (known := DTYPES.get(dtype)) is None:
        return num_bytes >= 0
    return num_bytes == math.prod(shape) * np.dtype(known).itemsize


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def map_tensor(file: Path, name: str, entry: dict[str, Any], data_start: int) -> npt.NDArray[Any]:
    """The values of a tensor where they lie, bfloat16 as uint16; BaseModelError for other kinds."""
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise BaseModelError(
            f"{file}: {name} is stored as {entry['dtype']}; memory needs one of {', '.join(DTYPES)} (not quantized)"
        )
    offset = data_start + entry["data_offsets"][0]
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=tuple(entry["shape"]))
