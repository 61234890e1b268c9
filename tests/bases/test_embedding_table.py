"""Embedding rows from disk against torch's view of the same file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from megacontext.bases.embedding_table import EmbeddingTable, read_header
from megacontext.errors import BaseModelError


def save(folder: Path, dtype: torch.dtype, name: str = "model.embed_tokens.weight") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weights = (4 * torch.randn(20, 6, generator=generator)).to(dtype)
    save_file({"a.other": torch.zeros(3), name: weights}, folder / "model.safetensors")
    return weights


@pytest.mark.parametrize("converted_bytes", [0, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_are_the_stored_values(
    tmp_path: Path, dtype: torch.dtype, converted_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megacontext.bases.embedding_table.CONVERTED_BYTES", converted_bytes)
    weights = save(tmp_path, dtype)
    table = EmbeddingTable.from_folder(tmp_path)
    ids = np.array([[3, 19], [0, 3]], dtype=np.uint32)
    rows = table.rows(ids)
    assert table.shape == (20, 6)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, weights.float()[torch.from_numpy(ids.astype(np.int64))].numpy())


def test_digest_is_of_the_values(tmp_path: Path) -> None:
    save(tmp_path, torch.bfloat16)
    first = EmbeddingTable.from_folder(tmp_path).digest
    save(tmp_path, torch.bfloat16, name="transformer.wte.weight")
    assert EmbeddingTable.from_folder(tmp_path).digest == first
    save(tmp_path, torch.float16)
    assert EmbeddingTable.from_folder(tmp_path).digest != first


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    save(tmp_path, torch.float32, name="something.else")
    with pytest.raises(BaseModelError, match="no tensor is named like an input embedding"):
        EmbeddingTable.from_folder(tmp_path)
    save(tmp_path, torch.int8)
    with pytest.raises(BaseModelError, match=r"stored as I8.*not quantized"):
        EmbeddingTable.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([1, 2], "its header is no table of tensors"),
        ({"wte.weight": 3}, r"describes wte\.weight as 3"),
        ({"wte.weight": {"shape": [2, 2], "data_offsets": [0, 16]}}, "needs a dtype, a shape, and data_offsets"),
        ({"wte.weight": {"dtype": "F32", "shape": "2x2", "data_offsets": [0, 16]}}, "needs a dtype, a shape"),
        ({"wte.weight": {"dtype": "F32", "shape": [2, -2], "data_offsets": [0, 16]}}, "needs a dtype, a shape"),
        ({"wte.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [16]}}, "data_offsets in order"),
        ({"wte.weight": {"dtype": "I64", "shape": [2], "data_offsets": [16, 0]}}, "data_offsets in order"),
        ({"wte.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}, "data_offsets in order"),
        ({"wte.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}, r"cut off before .*wte\.weight"),
    ],
)
def test_a_damaged_header_is_one_clear_error(tmp_path: Path, header: object, message: str) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(16))
    with pytest.raises(BaseModelError, match=message):
        read_header(tmp_path / "model.safetensors")
