"""The input-embedding matrix as an adapter leaves it, without torch.

Most adapters leave it alone: then a memory is the same with and without them. Some train it: they hold a matrix of
their own (``modules_to_save``, a vocabulary that grew), rows of single tokens (``trainable_token_indices``), or a
low-rank change of all rows (Hu et al. 2021, "LoRA"). What a base reads is then another space, with another fingerprint.

Shape legend: V vocabulary, D embedding width, r rank, n trained tokens.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megacontext.bases.embedding_table import EMBEDDING_NAMES, EmbeddingTable, map_tensor, read_header
from megacontext.errors import BaseModelError

__all__ = ["COPIES", "AdaptedTable", "adapted_table"]

OWN_TABLES = EMBEDDING_NAMES + tuple(name.replace(".weight", ".base_layer.weight") for name in EMBEDDING_NAMES)
EMBEDDINGS = tuple(name.removesuffix(".weight") for name in EMBEDDING_NAMES)
TOKEN_ROWS = "token_adapter.trainable_tokens_delta"  # noqa: S105 - a suffix
LOW_RANK = ("lora_embedding_A", "lora_embedding_B")
# Beside a matrix of its own, peft may write where it came from, and itself a second time.
COPIES = (".original_module.weight", ".modules_to_save.weight")


@dataclass(frozen=True)
class _Changes:
    """token_ids_n and rows_nD: rows of their own; left_rV, right_Dr: what is added, scaled, to all."""

    token_ids_n: npt.NDArray[np.int64]
    rows_nD: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    left_rV: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    right_Dr: npt.NDArray[np.float32]  # noqa: N815 - shape suffix
    scaling: float


class AdaptedTable:
    """Rows of an embedding matrix on disk with an adapter's changes; stands where an ``EmbeddingTable`` does."""

    def __init__(self, table: EmbeddingTable, changes: _Changes, *, scale: float) -> None:
        self._table, self._changes, self._scale = table, changes, np.float32(scale)
        self.shape = table.shape
        self._row_of = np.full(self.shape[0], -1, dtype=np.int64)
        self._row_of[changes.token_ids_n] = np.arange(len(changes.token_ids_n))

    def rows(self, token_ids: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float32]:
        """Float32 [..., D] embeddings of ids, which must be below V, as the adapted model reads them."""
        changes = self._changes
        rows: npt.NDArray[np.float32] = np.array(self._table.rows(token_ids))
        if len(changes.left_rV):
            added = np.moveaxis(changes.left_rV[:, token_ids], 0, -1) @ changes.right_Dr.T
            rows += added * (np.float32(changes.scaling) * self._scale)
        own = self._row_of[token_ids]
        rows[own >= 0] = changes.rows_nD[own[own >= 0]] * self._scale
        return rows

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the stored values and of what changes them."""
        changes = self._changes
        state = hashlib.sha256(f"{self._table.digest} {changes.scaling}".encode())
        for part in (changes.token_ids_n, changes.rows_nD, changes.left_rV, changes.right_Dr):
            state.update(str(part.shape).encode() + np.ascontiguousarray(part).tobytes())
        return state.hexdigest()


def adapted_table(
    table: EmbeddingTable, file: Path, config: dict[str, Any], *, scale: float
) -> EmbeddingTable | AdaptedTable:
    """``table`` as the adapter in ``file`` leaves it: itself where nothing is changed.

    config: of ``adapter_config.json``; scale: as for ``EmbeddingTable``.
    Raises BaseModelError for changes that are not known, and files that cannot be read.
    """
    header, data_start = read_header(file)
    tensors = {name: entry for name, entry in header.items() if any(f"{part}." in name for part in EMBEDDINGS)}

    def values(name: str) -> npt.NDArray[np.float32]:
        return EmbeddingTable(map_tensor(file, name, tensors[name], data_start)).rows(
            np.arange(tensors[name]["shape"][0])
        )

    own = [name for name in tensors if name.endswith(OWN_TABLES)]
    if own:
        table = EmbeddingTable(map_tensor(file, own[0], tensors[own[0]], data_start), scale=scale)
    token_rows = [name for name in tensors if name.endswith(TOKEN_ROWS)]
    left, right = ([name for name in tensors if name.endswith(suffix)] for suffix in LOW_RANK)
    copies = [name for name in tensors if own and name.endswith(COPIES)]
    others = sorted({*tensors} - {*own, *copies, *token_rows, *left, *right})
    if others:
        raise BaseModelError(
            f"{file}: changes input embeddings in a way that memory cannot read ({others[0]}); merge it into its base "
            "with merge_and_unload, save that, and give the folder"
        )
    if not token_rows and not left:
        return table
    dim = table.shape[1]
    rows_nD = values(token_rows[0]) if token_rows else np.zeros((0, dim), dtype=np.float32)
    left_rV = values(left[0]) if left else np.zeros((0, table.shape[0]), dtype=np.float32)
    right_Dr = values(right[0]) if right else np.zeros((dim, 0), dtype=np.float32)
    token_ids_n = np.array(_token_ids(config) if token_rows else (), dtype=np.int64)
    if (
        (rows_nD.shape, left_rV.shape, right_Dr.shape)
        != ((len(token_ids_n), dim), (right_Dr.shape[1], table.shape[0]), (dim, len(left_rV)))
    ) or (token_ids_n >= table.shape[0]).any():
        raise BaseModelError(
            f"{file}: its changes of input embeddings do not fit a table of {table.shape[0]} x {dim}; use the base "
            "that it was trained on"
        )
    scaling = _scaling(config, left[0], len(left_rV)) if left else 1.0
    return AdaptedTable(table, _Changes(token_ids_n, rows_nD, left_rV, right_Dr, scaling), scale=scale)


def _token_ids(config: dict[str, Any]) -> list[int]:
    """Which rows are trained: a list for the input embedding, or one by name of module."""
    told = config.get("trainable_token_indices")
    if isinstance(told, dict):
        return next((list(ids) for name, ids in told.items() if name.endswith(EMBEDDINGS)), [])
    return list(told or ())


def _scaling(config: dict[str, Any], tensor: str, rank: int) -> float:
    """What a low-rank change is multiplied by: alpha / r, or alpha / sqrt(r) (rank-stabilised)."""
    module = tensor.rsplit(".", 1)[0]
    alpha = float(config.get("lora_alpha", 8))
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(own)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
