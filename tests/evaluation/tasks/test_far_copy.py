"""Far, recent and new words, against a slow reading of the definition."""

from __future__ import annotations

import re

import numpy as np
from tests.evaluation.tasks.setups import HANDLE, setup

from megacontext.evaluation.tasks.far_copy import FAR_TOKENS, copy_labels, going_on
from megacontext.testing.fake_base import byte_codec


def test_words_are_far_recent_or_new() -> None:
    """One token per letter: distances are characters."""
    text = "harbour " + "x " * 300 + "lantern " + "x " * 20 + "harbour lantern village it"
    first = len(text) - len("harbour lantern village it")
    labels, evidence = copy_labels(text, range(len(text)), first, len(text), is_code=False)
    shown = [(label, text[first + at]) for at, label in enumerate(labels) if label]
    assert "".join(letter for label, letter in shown if label == "far") == "harbour"
    assert "".join(letter for label, letter in shown if label == "recent") == "lantern"
    assert "".join(letter for label, letter in shown if label == "new") == "village"
    assert evidence == ((0, 7),)


def test_a_word_said_in_the_target_is_recent_afterwards() -> None:
    text = "harbour " + "x " * 300 + "harbour and harbour"
    first = len(text) - len("harbour and harbour")
    labels, _ = copy_labels(text, range(len(text)), first, len(text), is_code=False)
    assert labels[0] == "far"
    assert labels[-1] == "recent"


def test_identifiers_have_digits_and_underscores() -> None:
    text = "def find_block2(x): pass\n" + "y " * 300 + "find_block2"
    first = len(text) - len("find_block2")
    assert set(copy_labels(text, range(len(text)), first, len(text), is_code=True)[0]) == {"far"}


def test_real_text_against_the_slow_way() -> None:
    """Every labelled token of a novel lies in a word whose earlier places say the same."""
    book = setup().data.books[0][5000:40000]
    token_ids, item = going_on(HANDLE.codec, book[:30000], book[30000:], 400, is_code=False, facets={})
    encoded = HANDLE.codec.encode(book)
    assert token_ids.tolist() + item.target_ids.tolist() == encoded.token_ids[: len(token_ids) + 400].tolist()
    starts = encoded.char_starts
    place = {match.start(): match.group() for match in re.finditer(r"[^\W\d]{5,}", book)}
    seen = {"far": 0, "recent": 0, "new": 0}
    for char, word in place.items():
        token = int(np.searchsorted(starts, char, side="right")) - 1
        if not len(token_ids) <= token < len(token_ids) + 400:
            continue
        earlier = [
            int(np.searchsorted(starts, other, side="right")) - 1
            for other, same in place.items()
            if same == word and other < char
        ]
        label = "new" if not earlier else "far" if token - earlier[-1] > FAR_TOKENS else "recent"
        assert item.labels[token - len(token_ids)] == label
        seen[label] += 1
    assert all(seen.values())
    for span in item.evidence:
        assert isinstance(span, tuple)
        words = HANDLE.codec.decode(encoded.token_ids[span[0] : span[1]])
        assert re.search(r"[^\W\d]{5,}", words)


def test_the_history_ends_where_the_target_begins() -> None:
    token_ids, item = going_on(byte_codec(), "one two three ", "four five", 4, is_code=False, facets={"item": "text"})
    assert byte_codec().decode(token_ids) == "one two three "
    assert byte_codec().decode(item.target_ids) == "four"
    assert item.facets == {"item": "text"}
