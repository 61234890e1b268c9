"""Corpora: what is held out stays out, wherever it hides."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from megacontext.errors import InvalidValueError
from megacontext.training.corpus import (
    HELD_OUT_STANDARD_LIBRARY,
    read_books,
    read_knowledge,
    read_packages,
    stable_share,
)

BODY = "def answer() -> int:\n    return 42\n\n\n" * 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with two splits of books and forty pages."""
    for folder, name, records in (
        ("books", "books_train", [{"id": "train-book", "text": "once"}]),
        ("books", "books_validation", [{"id": "validation-book", "text": "upon"}]),
        ("books", "books_test", [{"id": "test-book", "text": "never"}]),
        ("knowledge", "docs", [{"id": f"page-{index}", "text": "how to"} for index in range(200)]),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        with lzma.open(tmp_path / folder / f"{name}.jsonl.xz", "wt") as lines:
            lines.writelines(json.dumps(record) + "\n" for record in records)
    return tmp_path


def make_package(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n{BODY}")


def test_splits_of_books_do_not_mix_and_the_test_split_cannot_be_read(data: Path) -> None:
    assert [book.name for book in read_books(data, "train")] == ["train-book"]
    assert [book.name for book in read_books(data, "validation")] == ["validation-book"]
    with pytest.raises(InvalidValueError, match="'train' or 'validation'"):
        list(read_books(data, "test"))


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"books_train\.jsonl\.xz"):
        list(read_books(tmp_path, "train"))


def test_pages_are_either_held_out_or_not(data: Path) -> None:
    train = {page.name for page in read_knowledge(data, held_out=False)}
    held_out = {page.name for page in read_knowledge(data, held_out=True)}
    assert not train & held_out
    assert len(train | held_out) == 200
    assert 0 < len(held_out) < 30


def test_packages_are_read_whole_once_and_without_copies_of_held_out_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    make_package(first, "alpha/one.py", "alpha/two.py", "alpha/tests/three.py", "alpha/_vendor/rich/text.py")
    make_package(first, "alpha/json.py", "alpha/http/client.py", "asyncio/events.py", "rich/text.py")
    make_package(second, "alpha/other.py", "beta/one.py")
    documents = {page.name: page.text for page in read_packages([first, second], held_out=False)}
    assert list(documents) == ["alpha", "beta"]
    assert documents["alpha"].startswith("# file: alpha/one.py\n")
    assert documents["alpha"].count("# file: ") == 2
    held_out = {page.name for page in read_packages([first, second], held_out=True)}
    assert held_out == {"rich"}
    assert "asyncio" in HELD_OUT_STANDARD_LIBRARY


def test_long_packages_are_cut_off_after_a_file(tmp_path: Path) -> None:
    make_package(tmp_path, *(f"gamma/part_{index}.py" for index in range(10)))
    (document,) = read_packages([tmp_path], held_out=False, max_chars=2 * len(BODY))
    assert document.text.count("# file: ") == 2


def test_unreadable_tiny_and_foreign_files_are_skipped(tmp_path: Path) -> None:
    make_package(tmp_path, "delta/good.py")
    (tmp_path / "delta" / "tiny.py").write_text("x = 1\n")
    (tmp_path / "delta" / "latin.py").write_bytes(b"# caf\xe9\n" + BODY.encode())
    (tmp_path / "delta" / "table.py").write_text("# " + "чш" * 400 + "\n" + BODY)
    (document,) = read_packages([tmp_path], held_out=False)
    assert document.text.count("# file: ") == 1


def test_shares_are_stable_and_even() -> None:
    assert stable_share("recall:Alice Smith") == pytest.approx(0.3025, abs=1e-4)
    shares = [stable_share(str(number)) for number in range(2_000)]
    assert 0.45 < sum(shares) / len(shares) < 0.55
