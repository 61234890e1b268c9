"""How text becomes index words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.catalog.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("?! -- __ ()", []),
        ("The cat's 2FA code: 48213.", ["the", "cat", "s", "2fa", "code", "48213"]),
        ("MAX_retries", ["max_retries", "max", "retries"]),
        ("HTTPServer parseJSON", ["httpserver", "http", "server", "parsejson", "parse", "json"]),
        ("__init__", ["__init__", "init"]),
        ("Señor Müller naïve", ["senor", "muller", "naive"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("東京都", ["東京", "京都"]),
        ("水", ["水"]),
        ("½", ["1", "2"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text())
def test_words_are_clean_and_stable(text: str) -> None:
    """What reaches the index can be quoted in a query, and is found by itself."""
    for word in words_of(text):
        assert word
        assert '"' not in word
        assert not any(char.isspace() for char in word)
        assert word == word.lower() or not word.isascii()
        assert word in words_of(word) or len(words_of(word)) > 0


@given(st.lists(st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)))
def test_plain_prose_takes_the_fast_way_to_the_same_words(words: list[str]) -> None:
    prose = ", ".join(words)
    assert words_of(prose) == words
    assert words_of(f"{prose} ñ") == [*words, "n"]
