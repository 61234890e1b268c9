"""Questions share nothing that tells with their statements, and the bundled core was taught the nicknames."""

from __future__ import annotations

import re

from tests.evaluation.tasks.setups import HANDLE, num_tokens, setup, text_of

from megacontext.evaluation.held_out import is_held_out
from megacontext.evaluation.hidden_facts import LAST_NAMES
from megacontext.evaluation.runs.histories import EvidenceFinder
from megacontext.evaluation.tasks.nicknames import MOST_FACTS, NICKNAMES, NicknamesTask
from megacontext.evaluation.tasks.task import Question
from megacontext.training.puzzles import NICKNAMES as TAUGHT


def test_no_word_of_a_question_stands_in_its_statement() -> None:
    case = NicknamesTask().plans(setup(lengths=(4096,)))[0].make()
    text = text_of(case)
    token_ids = HANDLE.codec.encode(text).token_ids
    finder = EvidenceFinder(HANDLE.codec, token_ids)
    assert len(case.items) == MOST_FACTS
    for item in case.items:
        assert isinstance(item, Question)
        (statement,) = item.evidence
        assert isinstance(statement, str)
        asked, told = (set(re.findall(r"\w+", words.lower())) for words in (item.text, statement))
        assert asked & told <= {"is", "the"}
        assert statement in text
        assert item.expected[0] in statement
        assert is_held_out(item.expected[0])
        ((start, stop),) = finder.spans(item.evidence)
        assert item.expected[0] in HANDLE.codec.decode(token_ids[start:stop])
    assert {item.facets["wording"] for item in case.items} == {"taught", "new"}
    values = [item.expected[0] for item in case.items if isinstance(item, Question)]
    assert len(set(values)) == len(values)


def test_histories_leave_room_for_question_and_answer_and_are_never_crowded() -> None:
    for length in (1024, 4096):
        case = NicknamesTask().plans(setup(lengths=(length,)))[0].make()
        assert 0.85 * length < num_tokens(text_of(case)) <= length - 64
        assert len(case.items) <= length // 160


def test_nicknames_were_taught_and_whole_names_were_not() -> None:
    assert {first: TAUGHT[first] for first in NICKNAMES} == NICKNAMES
    assert len(set(NICKNAMES.values())) == len(NICKNAMES)
    for first, nickname in NICKNAMES.items():
        assert nickname.lower() not in first.lower()
        assert any(is_held_out(f"{first} {last}") for last in LAST_NAMES)
