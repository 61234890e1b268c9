"""Whether there is text to train on is asked before it is cleaned."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from tests.training.test_babi import EXCERPT, write_stories

from megacontext.errors import InvalidValueError
from megacontext.training.enough_text import check_records, origins, refuse_short

NEEDED = {"books": 66, "code": 66, "knowledge": 66}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("books/books_train", "books/books_validation", "knowledge/docs"):
        write(tmp_path / f"{name}.jsonl.xz", [{"id": name, "text": "word " * 40}])
    return tmp_path


def write(path: Path, records: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress("".join(json.dumps(record) + "\n" for record in records).encode()))


def test_files_without_records_are_named(data: Path) -> None:
    check_records(data, NEEDED)
    write(data / "books" / "books_train.jsonl.xz", [])
    with pytest.raises(
        InvalidValueError, match=r"books_train\.jsonl\.xz gives 0 tokens of books to train on, but rows"
    ):
        check_records(data, NEEDED)
    check_records(data, {"code": 66, "knowledge": 66})  # books are not drawn
    write(data / "knowledge" / "docs.jsonl.xz", [{"id": "page", "text": ""}])
    with pytest.raises(InvalidValueError, match=r"docs\.jsonl\.xz gives 0 tokens of knowledge .* out of \[shares\]"):
        check_records(data, {"knowledge": 66})


@pytest.mark.parametrize("name", ["books/books_train", "books/books_validation", "knowledge/docs", "babi/babi_en_1k"])
def test_every_file_is_read_through(data: Path, name: str) -> None:
    write_stories(data, [json.loads(line) for line in EXCERPT.read_text().splitlines()])
    check_records(data, NEEDED)
    path = data / f"{name}.jsonl.xz"
    path.write_bytes(lzma.compress(lzma.decompress(path.read_bytes()) + b"{}\n"))
    with pytest.raises(InvalidValueError, match=rf"{name.partition('/')[2]}\.jsonl\.xz, line \d+"):
        check_records(data, NEEDED)


def test_a_domain_with_too_little_is_refused(data: Path) -> None:
    have = {"books": 66, "code": 65, "knowledge": 0}
    refuse_short(have, {"books": 66}, where=origins(data))
    with pytest.raises(
        InvalidValueError, match=r"--packages gives 65 tokens of code .*\(cleaning removed 3 documents\)"
    ):
        refuse_short(have, NEEDED, where=origins(data), removed={"code": 3})
