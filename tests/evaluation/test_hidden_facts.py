"""Facts stand where they are said to stand, once, between sentences or lines."""

from __future__ import annotations

import re
from random import Random

import pytest
from tests.evaluation.doubles import BOOK, CODE

from megacontext.errors import InvalidValueError
from megacontext.evaluation import hidden_facts
from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.hidden_facts import Fact, answer_value, draw_facts, draw_lookalikes, hide_facts


def test_facts_are_held_out_and_differ() -> None:
    facts = draw_facts(Random(0), 80)
    assert all(is_held_out(fact.name) and is_held_out(fact.value) for fact in facts)
    assert len({fact.name for fact in facts}) == len({fact.value for fact in facts}) == 80
    assert all(re.fullmatch(r"[1-9]\d{4}", fact.value) for fact in facts)


def share_of_lookalikes() -> float:
    """Of twelve facts, those that share a first or a last name with an earlier one; mean over draws."""
    found = 0
    for seed in range(50):
        seen: set[str] = set()
        for fact in draw_facts(Random(seed), 12):
            words = set(fact.name.split())
            found += not seen.isdisjoint(words)
            seen |= words
    return found / (50 * 12)


def test_some_names_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    share = share_of_lookalikes()
    monkeypatch.setattr(hidden_facts, "SIMILAR_SHARE", 0)
    assert share > share_of_lookalikes() + 0.1


def test_lookalikes_have_a_neighbour_with_their_last_name() -> None:
    facts = draw_lookalikes(Random(0), 96)
    assert len({fact.name for fact in facts}) == len({fact.value for fact in facts}) == 96
    assert all(is_held_out(fact.name) and is_held_out(fact.value) for fact in facts)
    windows = [facts[start : start + 6] for start in range(0, 96, 6)]
    shared = [len({fact.name.split()[1] for fact in window}) < 5 for window in windows]
    assert all(shared)
    with pytest.raises(InvalidValueError, match="ask for at most"):
        draw_lookalikes(Random(0), 5_000)


def test_the_same_seed_gives_the_same_facts() -> None:
    assert draw_facts(Random(7), 10) == draw_facts(Random(7), 10) != draw_facts(Random(8), 10)


def test_more_facts_than_names_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="ask for at most"):
        draw_facts(Random(0), 5_000)


def test_statements_stand_where_they_are_said_to() -> None:
    facts = draw_facts(Random(1), 40)
    texts, hidden = hide_facts(Random(2), [BOOK, CODE], facts)
    assert [place.fact for place in hidden] == facts
    for place in hidden:
        text = texts[place.text].text
        assert text[place.char_start :].startswith(place.statement)
        assert place.fact.name in place.statement
        assert place.fact.value in place.statement
        assert sum(other.text.count(place.fact.value) for other in texts) == 1
    assert {place.text for place in hidden} == {0, 1}


def test_nothing_else_is_changed() -> None:
    texts, hidden = hide_facts(Random(2), [BOOK], draw_facts(Random(1), 12))
    text = texts[0].text
    for place in hidden:
        text = text.replace(place.statement + " ", "", 1)
    assert text == BOOK.text


def test_statements_in_books_follow_a_sentence() -> None:
    texts, hidden = hide_facts(Random(3), [BOOK], draw_facts(Random(1), 30))
    for place in hidden:
        before = texts[0].text[: place.char_start]
        assert re.search(r"[.!?]”? $", before)
        assert not before.endswith("Mr. ")


def test_statements_in_code_are_lines_of_their_own_with_the_indentation_of_the_next() -> None:
    texts, hidden = hide_facts(Random(3), [CODE], draw_facts(Random(1), 30))
    lines = texts[0].text.split("\n")
    for place in hidden:
        number = next(n for n, line in enumerate(lines) if line.strip() == place.statement)
        following = next(line for line in lines[number + 1 :] if not any(x.statement == line.strip() for x in hidden))
        assert lines[number][: -len(place.statement)] == re.match(" *", following).group()  # type: ignore[union-attr]


def test_texts_too_short_to_hide_in_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="no text has 400 characters"):
        hide_facts(Random(0), [], [Fact(name="Alice Smith", value="48213")])


@pytest.mark.parametrize(
    ("answer", "value"), [(" 48213.\n", "48213"), ("It is 48213", "48213"), (" 4821.", ""), ("no idea", "")]
)
def test_the_value_of_an_answer(answer: str, value: str) -> None:
    assert answer_value(answer) == value
