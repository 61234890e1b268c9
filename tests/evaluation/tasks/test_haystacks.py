"""Stretches have the length asked for, and what is hidden stands at its depth."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from tests.evaluation.tasks.setups import HANDLE, num_tokens, setup

from megacontext.errors import InvalidValueError
from megacontext.evaluation.tasks.haystacks import hide, sentences_of, stretch, stretch_texts

BOOKS = setup().data.books


@pytest.mark.parametrize("length", [700, 5000])
def test_stretches_are_as_long_as_they_should_be(length: int) -> None:
    for seed in range(3):
        assert length - 3 <= num_tokens(stretch(Random(seed), HANDLE.codec, BOOKS, length)) <= length


def test_a_stretch_goes_on_in_the_next_text() -> None:
    texts = ["First text.\n\n" * 30, "Second text.\n\n" * 30]
    long = stretch(Random(0), HANDLE.codec, texts, 2000)
    assert num_tokens(long) > 1900
    assert long.count("First") > 30 < long.count("Second")


def test_what_follows_a_stretch_follows_it_in_the_book() -> None:
    history, following = stretch_texts(Random(1), HANDLE.codec, BOOKS, 1000, 100)
    assert any(history + following in book for book in BOOKS)
    assert abs(num_tokens(history) - 1000) <= 2
    assert abs(num_tokens(following) - 100) <= 2


def test_what_follows_is_of_all_texts_where_few_places_are_long_enough() -> None:
    pages = ["\n\n".join(f"Page {page} speaks of pod {pod}." for pod in range(150)) for page in range(6)]
    found = {stretch_texts(Random(seed), HANDLE.codec, pages, 900, 100)[0] for seed in range(30)}
    assert len(found) > 25, "of one page that is long enough there were few"
    assert all(text in "\n\n".join([*pages, *pages]) for text in found)
    with pytest.raises(InvalidValueError, match="all texts together have"):
        stretch_texts(Random(0), HANDLE.codec, pages[:1], 4000, 100)


@pytest.mark.parametrize("length", [0, -40])
def test_a_stretch_of_nothing_is_an_error(length: int) -> None:
    with pytest.raises(InvalidValueError, match=f"{length} tokens of text leave no room"):
        stretch(Random(0), HANDLE.codec, BOOKS, length)


def test_no_text_is_an_error() -> None:
    with pytest.raises(InvalidValueError, match="no text"):
        stretch(Random(0), HANDLE.codec, [""], 100)


def test_hidden_sentences_stand_in_order_between_sentences_at_their_depths() -> None:
    text = stretch(Random(2), HANDLE.codec, BOOKS, 3000)
    statements = [f"Mark {number} stands here." for number in range(5)]
    depths = [0.0, 0.3, 0.31, 0.7, 1.0]
    told = hide(text, statements, depths)
    places = [told.index(statement) for statement in statements]
    assert all(low < high for low, high in pairwise(places))
    for place, depth in zip(places, depths, strict=True):
        assert abs(place / len(told) - depth) < 0.06
    rest = told
    for statement in statements[:-1]:
        rest = rest.replace(f"{statement} ", "")
    assert rest.replace(f" {statements[-1]}", "") == text


def test_sentences_add_up_to_the_text() -> None:
    assert sentences_of("One goes. “Two,” said Mr. Three. Four!") == ["One goes. ", "“Two,” said Mr. Three. ", "Four!"]
    assert "".join(sentences_of(BOOKS[0][:5000])) == BOOKS[0][:5000]
