"""Files of records are read line by line, whatever their text holds."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from megacontext.errors import UnreadableSourceError
from megacontext.evaluation.data_folder import NOVELS, DataFolder

ODD = "one\u2028two\u2029three\u0085four"  # str.splitlines() ends a line at each


def folder_of(path: Path, text: str) -> DataFolder:
    (path / NOVELS).parent.mkdir()
    (path / NOVELS).write_bytes(lzma.compress(text.encode()))
    return DataFolder(path)


def test_a_text_may_hold_any_character(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in ("plain", ODD)]
    data = folder_of(tmp_path, "\r\n".join([*lines, ""]))
    assert data.books == ["plain", ODD]


def test_a_line_that_is_no_record_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSourceError, match=r"books_test\.jsonl\.xz cannot be read \("):
        folder_of(tmp_path, '{"text": "a"}\n{"text": "b').records(NOVELS)
