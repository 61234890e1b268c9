"""The shipped books and the installed code make a library of the size asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.evaluation.doubles import BOOK, CODE, CharCodec

from megacontext.errors import InvalidValueError
from megacontext.evaluation.library import HELD_OUT_PACKAGES, assemble_library, installed_code, shipped_books
from megacontext.training.corpus import HELD_OUT_STANDARD_LIBRARY


def test_five_books_are_shipped_with_author_and_text() -> None:
    books = shipped_books()
    assert sorted(book.title for book in books) == [
        "A Princess of Mars, Edgar Rice Burroughs",
        "Dracula, Bram Stoker",
        "New Grub Street, George Gissing",
        "The War of the Worlds, H. G. Wells",
        "The Wind in the Willows, Kenneth Grahame",
    ]
    assert sum(len(book.text) for book in books) > 2_800_000


def test_packages_come_first_that_training_leaves_out() -> None:
    assert set(HELD_OUT_PACKAGES) == HELD_OUT_STANDARD_LIBRARY
    first = next(installed_code())
    assert first.name.split("/")[1] == "asyncio"
    assert first.kind == "code"


def test_code_without_tests_and_tables(tmp_path: Path) -> None:
    for name in ("json/decoder.py", "json/tests/a.py", "zoo/big.py", "zoo/small.py", "json/table.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n" * 400, encoding="utf-8")
    (tmp_path / "zoo/small.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "json/table.py").write_text("x = 'äöü'\n" * 400, encoding="utf-8")
    assert [text.title for text in installed_code(tmp_path)] == ["json/decoder.py", "zoo/big.py"]


def test_a_library_has_the_size_asked_for_and_holds_ends_back(tmp_path: Path) -> None:
    (tmp_path / "json").mkdir()
    for number in range(9):
        (tmp_path / f"json/m{number}.py").write_text(CODE.text, encoding="utf-8")
    library = assemble_library(CharCodec(), num_tokens=10_000, seed=0, books=[BOOK, BOOK], root=tmp_path)
    size = sum(len(text.text) for text in library.texts)
    assert 10_000 <= size < 10_000 + 2 * len(CODE.text)
    assert {text.kind for text in library.texts} == {"book", "code"}
    whole = {"book": BOOK.text, "code": CODE.text}
    for text, rest in zip(library.texts, library.held_back, strict=True):
        assert text.text + rest == whole[text.kind]
        assert rest
    again = assemble_library(CharCodec(), num_tokens=10_000, seed=1, books=[BOOK, BOOK], root=tmp_path)
    assert again != library


def test_too_little_text_is_an_error_that_says_how_much_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"ask for at most 3,\d\d\d"):
        assemble_library(CharCodec(), num_tokens=1_000_000, seed=0, books=[BOOK], root=tmp_path)
