"""Puzzles against solvers of their own: one reading of the text, one answer."""

from __future__ import annotations

import dataclasses
import re
from random import Random

import pytest
from tokenizers import Tokenizer

from megacontext.training.names import is_test
from megacontext.training.puzzles import NICKNAMES, PUZZLES, Puzzle, draw_puzzles
from megacontext.training.recall import ATTRIBUTES
from megacontext.training.rows import dense_puzzle_row, puzzle_row
from megacontext.training.windows import TextSource
from megacontext.training.wordings import TAUGHT, UNSEEN, in_unseen_words

NUMBER = re.compile(r"\b\d{5}\b")


def codes_of(subject: str, text: str) -> list[str]:
    """Every code that the text gives to a subject, in order."""
    sentences = [part for part in re.split(r"(?<=\.) ", text) if subject.lower() in part.lower()]
    return [found for part in sentences for found in NUMBER.findall(part)]


def solve(ask: str, text: str) -> set[str]:
    """The answers that the text allows, found by rules that know nothing of how puzzles are drawn."""
    if match := re.search(r"How many times was (.+) in (\w+)\?", ask):
        name, city = match.groups()
        visit = rf"{re.escape(name)} (went to|was in|spent a day in) {city}\b"
        return {str(len(re.findall(visit, text, re.IGNORECASE)))}
    if match := re.search(r"value of (\w+)\?", ask):
        variable = match[1]
        while link := re.search(rf"\b{variable} = (\w+)\.", text):
            variable = link[1]
        return {variable}
    if match := re.search(r"What is the code for the (\w+) of (.+?)\?", ask):
        place = re.search(rf"The {match[1]} of {re.escape(match[2])} is (.+?)\.", text)
        return set(codes_of(place[1], text)) if place else set()
    if match := re.search(r"What is the code for (.+?)( now)?\?", ask):
        subject = match[1]
        if codes := codes_of(subject, text):
            return {codes[-1]}
        link = re.search(rf"(\w+) is (?:another name for|what people call) {re.escape(subject)}\.", text)
        back = re.search(rf"{re.escape(subject)} is (?:another name for|what people call) (.+?)\.", text)
        other = link or back
        return set(codes_of(other[1], text)) if other else set()
    nickname = next(
        nick for nick in sorted(NICKNAMES.values(), key=len, reverse=True) if re.search(rf"\b{nick}\b", ask)
    )
    first = next(name for name, nick in NICKNAMES.items() if nick == nickname)
    return set(codes_of(f"{first} ", text))


@pytest.mark.parametrize("key", PUZZLES)
def test_a_puzzle_has_one_answer_among_others(key: str) -> None:
    for seed in range(150):
        random = Random(f"{key}/{seed}")
        puzzles = [*draw_puzzles(random, 1, key=key), *draw_puzzles(random, 3)]
        first, *others = puzzles
        others = [other for other in others if not (first.is_about(other) or other.is_about(first))]
        text = " ".join(statement for puzzle in [first, *others] for statement in puzzle.statements)
        assert solve(first.ask, text) == {first.value}, (first, text)


@pytest.mark.parametrize("key", PUZZLES)
def test_no_statement_can_be_left_out(key: str) -> None:
    """Each statement is needed, but for the earlier ones of an update and the visits to elsewhere of a count."""
    for seed in range(40):
        (puzzle,) = draw_puzzles(Random(f"{key}/{seed}"), 1, key=key)
        for index in range(len(puzzle.statements)):
            rest = " ".join(puzzle.statements[:index] + puzzle.statements[index + 1 :])
            may_be_spare = (key == "update" and index < len(puzzle.statements) - 1) or (
                key == "count" and puzzle.ask.split()[-1].rstrip("?") not in puzzle.statements[index]
            )
            assert (solve(puzzle.ask, rest) == {puzzle.value}) == may_be_spare, (puzzle, index)


def test_a_paraphrase_shares_no_word_with_its_statement() -> None:
    everyday = {"the", "is", "what", "that", "was", "for", "to", "does", "have", "which", "s"}
    for seed in range(400):
        (puzzle,) = draw_puzzles(Random(seed), 1, key="paraphrase")
        puzzle = in_unseen_words(puzzle, Random(seed)) if seed % 2 else puzzle
        asked, stated = (set(re.findall(r"\w+", text.lower())) for text in (puzzle.ask, puzzle.statements[0]))
        assert not (asked & stated) - everyday, puzzle


@pytest.mark.parametrize("key", PUZZLES)
def test_unseen_words_ask_for_the_same(key: str) -> None:
    taught = {re.sub(r"\{\w+\}", "X", question) for attribute in ATTRIBUTES for question in attribute.questions}
    drawn = set()
    for seed in range(60):
        (puzzle,) = draw_puzzles(Random(f"{key}/{seed}"), 1, key=key)
        other = in_unseen_words(puzzle, Random(seed))
        assert dataclasses.replace(other, ask=puzzle.ask) == puzzle
        named = re.fullmatch(TAUGHT[key], puzzle.ask)
        assert named is not None
        assert all(part in other.ask for part in named.groupdict().values())
        form = other.ask
        for part in sorted(named.groupdict().values(), key=len, reverse=True):
            form = form.replace(part, "X")
        assert form not in taught
        assert not any(re.fullmatch(form, other.ask) for form in TAUGHT.values()), "no question of training is like it"
        assert "{" not in other.ask
        drawn.add(form)
    assert len(drawn) == 3
    assert set(UNSEEN) == set(PUZZLES)


def test_rows_in_unseen_words_state_the_same(source: TextSource, tokenizer: Tokenizer) -> None:
    num_asked = 0
    for seed in range(6):
        rows = [puzzle_row(source, Random(seed), 2048, test=True, in_unseen=other) for other in (False, True)]
        taught, unseen = ({answer.fact.value: answer.fact for answer in row.answers} for row in rows)
        for value in taught.keys() & unseen.keys():
            assert (taught[value].statements, taught[value].key) == (unseen[value].statements, unseen[value].key)
            assert taught[value].ask != unseen[value].ask
            assert unseen[value].ask in tokenizer.decode(rows[1].tokens_T.tolist())
            num_asked += 1
    assert num_asked > 6


def test_puzzles_of_one_row_are_about_different_things() -> None:
    for seed in range(60):
        puzzles = draw_puzzles(Random(seed), 6)
        assert not any(a.is_about(b) for a in puzzles for b in puzzles if a is not b)


def test_the_splits_share_no_name_and_no_value() -> None:
    for test in (False, True):
        for puzzle in draw_puzzles(Random(3), 60, test=test):
            if puzzle.key not in ("count", "chain", "paraphrase"):
                assert is_test(puzzle.subjects[0]) == test
            if puzzle.key != "count":
                assert is_test(puzzle.value) == test


@pytest.mark.parametrize("make", [dense_puzzle_row, puzzle_row])
def test_rows_state_everything_before_they_ask(make: object, source: TextSource, tokenizer: Tokenizer) -> None:
    num_answers = 0
    for seed in range(30):
        row = make(source, Random(seed), 1024)  # type: ignore[operator]
        for answer in row.answers:
            puzzle = answer.fact
            assert isinstance(puzzle, Puzzle)
            assert tokenizer.decode(row.targets_T[answer.start : answer.stop].tolist()).strip() == puzzle.value
            told = [text for text, is_needed in zip(puzzle.statements, puzzle.is_needed, strict=True) if is_needed]
            for (start, stop), statement in zip(answer.evidence, told, strict=True):
                assert stop <= answer.start
                assert statement in tokenizer.decode(row.tokens_T[start:stop].tolist())
            assert answer.evidence == tuple(sorted(answer.evidence))
            num_answers += 1
    assert num_answers > 60


def test_a_count_needs_the_visits_to_its_city_alone() -> None:
    counts = [puzzle for seed in range(200) for puzzle in draw_puzzles(Random(seed), 3) if puzzle.key == "count"]
    assert len(counts) > 20
    for puzzle in counts:
        told = [text for text, is_needed in zip(puzzle.statements, puzzle.is_needed, strict=True) if is_needed]
        assert len(told) == int(puzzle.value)
        assert solve(puzzle.ask, " ".join(told)) == {puzzle.value}


def test_dense_rows_ask_for_every_puzzle(source: TextSource) -> None:
    for seed in range(60):
        row = dense_puzzle_row(source, Random(seed), 512)
        assert len({answer.fact for answer in row.answers}) >= 2


def test_what_is_judged_is_asked_as_sessions_ask(source: TextSource, tokenizer: Tokenizer) -> None:
    for seed in range(30):
        row = puzzle_row(source, Random(seed), 1024, test=True, product=True)
        for answer in row.answers:
            assert tokenizer.decode(row.tokens_T[: answer.asked].tolist()).endswith("?\nAnswer:")
