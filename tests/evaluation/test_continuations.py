"""Continuations come from the held-back ends, whole and without overlap."""

from __future__ import annotations

from random import Random

import pytest
from tests.evaluation.doubles import BOOK, CODE, CharCodec

from megacontext.errors import InvalidValueError
from megacontext.evaluation.continuations import draw_continuations
from megacontext.evaluation.library import Library

LIBRARY = Library(texts=(BOOK, CODE), held_back=("abcdefghij" * 30, "0123456789" * 30))


def test_as_many_of_books_as_of_code() -> None:
    drawn = draw_continuations(Random(0), CharCodec(), LIBRARY, 8, context_tokens=20, target_tokens=10)
    assert sorted(item.kind for item in drawn) == ["book"] * 4 + ["code"] * 4
    for item in drawn:
        assert (len(item.context_ids), len(item.target_ids)) == (20, 10)


def test_targets_follow_their_context() -> None:
    rest = "".join(chr(100 + number) for number in range(300))
    library = Library(texts=(BOOK,), held_back=(rest,))
    drawn = draw_continuations(Random(0), CharCodec(), library, 10, context_tokens=20, target_tokens=10)
    starts = sorted(int(item.context_ids[0]) - 100 for item in drawn)
    assert starts == list(range(0, 300, 30))
    for item in drawn:
        ids = [*item.context_ids.tolist(), *item.target_ids.tolist()]
        assert ids == list(range(ids[0], ids[0] + 30))


def test_too_many_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="ask for at most 20"):
        draw_continuations(Random(0), CharCodec(), LIBRARY, 21, context_tokens=20, target_tokens=10)
